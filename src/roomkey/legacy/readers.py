"""What a reader of another library's sessions is."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from roomkey import codec
from roomkey.errors import SessionDataError

__all__ = ["DAY", "MALFORMED", "MOST_VALUE", "Cookies", "LegacyReader", "LegacySession", "make_session", "size_of"]

DAY = 24 * 60 * 60  # seconds
MOST_VALUE = 65536  # bytes of a cookie's value; browsers stop at 4096
_DEEPEST = 100  # levels of lists and dictionaries
MALFORMED = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError, zlib.error)

Cookies = Callable[[bytes], list[bytes]]


@dataclass(frozen=True)
class LegacySession:
    """What an old cookie stands for."""

    data: dict[str, Any] = field(repr=False)  # never empty; every value is one that Roomkey stores
    created_at: float | None = None  # Unix seconds at which the session began; None: the library does not say
    expires_in: float | None = None  # seconds that the library would still take the cookie; None: it does not say


class LegacyReader(Protocol):
    """Reads the sessions of one library. Write your own for a library that is not here."""

    @property
    def cookie_name(self) -> str:
        """Which cookie it reads. It may be Roomkey's own name."""
        ...

    @property
    def path(self) -> str:
        """The `Path` that the old cookie was set with: without it, a browser does not let go of the cookie."""
        ...

    @property
    def domain(self) -> str | None:
        """The `Domain` that the old cookie was set with; None: it had none."""
        ...

    async def read(self, value: bytes) -> LegacySession | None:
        """Return the session that a cookie's value stands for.

        None when it is not genuine, has expired, cannot be read, or holds nothing. No value raises. Where the session
        is kept on a server that does not answer, any exception: nobody can know then whether there is a session.
        """
        ...

    async def forget(self, value: bytes) -> None:
        """Remove what the old library keeps of this session: it has moved in.

        At once, or a few seconds later, so that requests that the browser sent together find it. Where all of it is in
        the cookie there is nothing to remove. Roomkey remembers which cookies have moved in, but with `cookie://`.
        """
        ...


def make_session(
    data: Any, *, created_at: float | None = None, expires_in: float | None = None
) -> LegacySession | None:
    """Return `data` as a session; None unless it is a dictionary that holds something and that Roomkey can store."""
    if type(data) is not dict or not data or not is_shallow(data) or size_of(data) is None:
        return None
    return LegacySession(data, created_at, expires_in)


def is_shallow(value: Any, levels: int = _DEEPEST) -> bool:
    if isinstance(value, dict):
        return levels > 0 and all(is_shallow(item, levels - 1) for item in value.values())
    if isinstance(value, list | tuple | set | frozenset):
        return levels > 0 and all(is_shallow(item, levels - 1) for item in value)
    return True


def size_of(data: dict[str, Any]) -> int | None:
    """Return how many bytes Roomkey takes for `data`; None when it cannot store it."""
    try:
        stored = codec.encode(data)
        codec.verify(data, stored)
    except SessionDataError:
        return None
    return len(stored)
