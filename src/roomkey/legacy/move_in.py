"""Asks the readers of one configuration, and says which cookies to take back.

Leaves to others: when there is something to move in (`roomkey.manager`), and saving it (`roomkey.legacy.arrival`).
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

from roomkey.config import SessionConfig
from roomkey.core.intents import without_others_keys
from roomkey.errors import ConfigurationError, StoreUnavailable
from roomkey.legacy.readers import MOST_VALUE, Cookies, LegacyReader, LegacySession, size_of
from roomkey.wire.cookies import CookieWriter

__all__ = ["Found", "MoveIn"]

_log = logging.getLogger("roomkey")
_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class Found:
    """An old session that a request brought."""

    reader: LegacyReader
    value: bytes = field(repr=False)  # of its cookie: a credential
    session: LegacySession
    by: MoveIn = field(repr=False, compare=False)

    async def forget(self) -> None:
        """Remove it from its server: it has moved in, or the user has logged out."""
        await self.by.forget(self)

    def note_id(self, session_cookie: str) -> bytes:
        """Return what stands in the place of a session ID for the note that this cookie's session has moved in.

        Args:
            session_cookie: the name of Roomkey's own cookie: two apps may share both the store and the old cookie.
        """
        # Not made of the old cookie's name: under another reader's name it is the same session.
        return hashlib.sha256(b"roomkey: moved in\0" + session_cookie.encode() + b"\0" + self.value).digest()


class MoveIn:
    """The readers of one configuration. It is made once.

    Args:
        readers: they are asked in this order. The first that finds a session counts.
        config: says how long one reader may take (`store_timeout`), how large a session may be (`max_bytes`), and which
            cookie is Roomkey's own.
        refused: counts the cookies that no reader took, under `"legacy"`.

    Raises:
        ConfigurationError: no browser would drop an old cookie (a `__Secure-` name without `https_only`).
    """

    def __init__(self, readers: Iterable[LegacyReader], config: SessionConfig, refused: Counter[str]) -> None:
        self._readers = [(reader, reader.cookie_name.encode("ascii")) for reader in readers]
        self._timeout = config.store_timeout
        self._most = config.max_bytes
        self._refused = refused
        self._down = False
        own = (config.session_cookie, config.path, config.domain)
        old = {(reader.cookie_name, reader.path, reader.domain): name for reader, name in self._readers}
        old.pop(own, None)
        # Prepared: which cookie, and what writes the header that takes it back.
        self._take_back = [
            (name, CookieWriter(_with(config, session_cookie=cookie, path=path, domain=domain)))
            for (cookie, path, domain), name in old.items()
        ]

    async def find(self, cookies: Cookies) -> Found | None:
        """Return the old session that a request without a genuine card brought. None: there is none.

        Args:
            cookies: gives the values of the request's cookies of one name.

        Raises:
            StoreUnavailable: a reader's server does not answer, so that it is not known whether there is a session.
        """
        for reader, name in self._readers:
            for value in cookies(name):
                session = await self._read(reader, value)
                if session is not None:
                    return Found(reader, value, session, self)
                self._refused["legacy"] += 1
        return None

    async def find_all(self, cookies: Cookies) -> list[Found]:
        """Return every old session that a request brought. As `find`, and nothing is counted."""
        brought = [(reader, value) for reader, name in self._readers for value in cookies(name)]
        found = [(reader, value, await self._read(reader, value)) for reader, value in brought]
        return [Found(reader, value, session, self) for reader, value, session in found if session is not None]

    async def forget(self, found: Found) -> None:
        """Remove the old session from its server, once the new one was saved or the user has logged out.

        A server that does not answer is logged, and raises nothing, because the new session counts by now.
        """
        try:
            await self._within(found.reader, found.reader.forget(found.value))
        except StoreUnavailable:
            _log.warning("an old session could not be removed from its server, but it has moved in all the same")

    def take_back(self, cookies: Cookies, *, secure: bool = False) -> list[tuple[bytes, bytes]]:
        """Return the headers that take back the old cookies that a request brought, except one of Roomkey's own name.

        They go before the header that gives Roomkey's cookie, because a browser may take the two for one cookie.
        With `https_only="auto"`, `secure` says whether the response's cookies are `Secure`.
        """
        return [writer.clear(secure=secure) for name, writer in self._take_back if cookies(name)]

    async def _read(self, reader: LegacyReader, value: bytes) -> LegacySession | None:
        if len(value) > MOST_VALUE:
            return None
        session = await self._within(reader, reader.read(value))
        # A reader of the app's own may return anything.
        if not isinstance(session, LegacySession) or type(session.data) is not dict or not session.data:
            return None
        session = replace(session, data=without_others_keys(session.data))
        size = size_of(session.data) if session.data else None
        return session if size is not None and size <= self._most else None

    async def _within(self, reader: LegacyReader, operation: Awaitable[_Answer]) -> _Answer:
        import asyncio  # here, because it is half of the time that `import roomkey` would take

        try:
            async with asyncio.timeout(self._timeout):
                answer = await operation
        except ConfigurationError:
            raise
        except Exception as error:  # the reader's library has error classes of its own
            # Its own words may hold a password or an ID: they stay in the chained error.
            slow = isinstance(error, TimeoutError)
            what = f"did not answer within {self._timeout:g} s (store_timeout)" if slow else type(error).__name__
            unavailable = StoreUnavailable(f"{type(reader).__name__}: {what}")
            if not self._down:
                self._down = True
                _log.error("old sessions unavailable, answering 503 until they are back: %s", unavailable)
            raise unavailable from error
        self._down = False
        return answer


def _with(config: SessionConfig, **changes: Any) -> SessionConfig:
    """Return a checked configuration with these changes. `dataclasses.replace` needs the `__init__` of a subclass."""
    return SessionConfig(**{each.name: getattr(config, each.name) for each in fields(SessionConfig)} | changes)
