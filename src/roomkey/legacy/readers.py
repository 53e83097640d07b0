"""What a reader of another library's sessions is."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from roomkey.errors import ConfigurationError, SessionDataError
from roomkey.wire import codec

__all__ = [
    "DAY",
    "MALFORMED",
    "MOST_VALUE",
    "Cookies",
    "LegacyReader",
    "LegacySession",
    "check_cookie",
    "check_text",
    "checked_readers",
    "make_session",
    "size_of",
]

DAY = 24 * 60 * 60  # seconds
MOST_VALUE = 65536  # bytes of a cookie's value. Browsers stop at 4096
_DEEPEST = 100  # levels of lists and dictionaries
MALFORMED = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError, zlib.error)

_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,256}")  # RFC 6265 section 4.1.1: a cookie name is a token

Cookies = Callable[[bytes], list[bytes]]


@dataclass(frozen=True)
class LegacySession:
    """What an old cookie stands for."""

    data: dict[str, Any] = field(repr=False)  # never empty, and every value is one that Roomkey stores
    created_at: float | None = None  # Unix seconds at which the session began. None: the library does not say
    expires_in: float | None = None  # seconds that the library would still take the cookie. None: it does not say


class LegacyReader(Protocol):
    """Reads the sessions of one library. Write your own for a library that is not here."""

    @property
    def cookie_name(self) -> str:
        """Which cookie it reads. It may be Roomkey's own name."""
        ...

    @property
    def path(self) -> str:
        """The `Path` that the old cookie was set with. With another one, a browser does not drop the cookie."""
        ...

    @property
    def domain(self) -> str | None:
        """The `Domain` that the old cookie was set with. None: it had none."""
        ...

    async def read(self, value: bytes) -> LegacySession | None:
        """Return the session that a cookie's value stands for.

        None: it is not genuine, has expired, cannot be read, or holds nothing. No value raises. Where the session is
        kept on a server that does not answer, raise any exception, because it is not known then whether there is one.
        """
        ...

    async def forget(self, value: bytes) -> None:
        """Remove what the old library keeps of this session: it has moved in.

        Remove it at once, or a few seconds later, so that requests that the browser sent together find it. Where all
        of it is in the cookie there is nothing to remove. Roomkey itself keeps a note of each cookie that has moved
        in, except with `cookie://`.
        """
        ...


def make_session(
    data: Any, *, created_at: float | None = None, expires_in: float | None = None
) -> LegacySession | None:
    """Return `data` as a session. None: it is no dictionary, it is empty, or Roomkey cannot store it."""
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
    """Return how many bytes Roomkey takes for `data`. None: it cannot store it."""
    try:
        stored = codec.encode(data)
        codec.verify(data, stored)
    except SessionDataError:
        return None
    return len(stored)


def checked_readers(value: object) -> tuple[LegacyReader, ...]:
    """Return the readers that `value` holds, for the option `legacy`.

    Args:
        value: a list or tuple of readers.

    Raises:
        ConfigurationError: it is no list of readers.
    """
    if not isinstance(value, list | tuple):
        raise ConfigurationError(f"legacy: got {type(value).__name__}; it takes a list of readers")
    for reader in value:
        if isinstance(reader, type):
            raise ConfigurationError(f"legacy: got the class {reader.__name__}; make one: {reader.__name__}(...)")
        missing = [name for name in _READER if not hasattr(reader, name)]
        if missing:
            raise ConfigurationError(
                f"legacy: {type(reader).__name__} has no {', '.join(missing)}; it takes readers, such as "
                "roomkey.legacy.StarletteCookie(...)"
            )
        check_cookie(reader.cookie_name, reader.path, reader.domain)
    return tuple(value)


_READER = ("cookie_name", "path", "domain", "read", "forget")


def check_cookie(name: object, path: object, domain: object) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"cookie_name: got {name!r}; it takes 1 to 256 letters, digits or any of !#$%&'*+-.^_`|~"
        )
    if not isinstance(path, str) or not path.startswith("/"):
        raise ConfigurationError(f"path: got {path!r}; it takes a path that begins with '/'")
    if domain is not None and not isinstance(domain, str):
        raise ConfigurationError(f"domain: got {domain!r}; it takes a host name, or None")


def check_text(option: str, value: object) -> None:
    if not isinstance(value, str):
        raise ConfigurationError(f"{option}: got {type(value).__name__}; it takes text")
