"""The cookie on the wire: found in the raw request headers, written into the raw response headers.

Leaves to others: whether its value is genuine (`roomkey.keys`).
"""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from roomkey.config import SessionConfig

__all__ = ["CookieWriter", "find_cookies", "protect_from_caches", "vary_on_cookie"]

Headers = list[tuple[bytes, bytes]]

_MOST_COPIES = 8  # cookies of one name that are looked at; a browser sends as many as there are paths and domains
_SPACE = b" \t"


def find_cookies(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    """Return the values of the cookies called `name`, in the order sent, at most 8 of them.

    Lenient as RFC 6265bis section 5 asks of a server: nothing that a client sends raises.
    """
    found: list[bytes] = []
    for header, value in headers:
        if header != b"cookie" or name not in value:
            continue
        for pair in value.split(b";"):
            if name not in pair:
                continue
            key, equals, content = pair.partition(b"=")
            if equals and key.strip(_SPACE) == name:
                found.append(content.strip(_SPACE).strip(b'"'))
                if len(found) == _MOST_COPIES:
                    return found
    return found


class CookieWriter:
    """Writes `Set-Cookie` for one configuration; everything that never changes is put together once."""

    __slots__ = ("_attributes", "_clear", "_persistent", "_prefix")

    def __init__(self, config: SessionConfig) -> None:
        attributes = f"; Path={config.path}"
        if config.domain is not None:
            attributes += f"; Domain={config.domain}"
        attributes += f"; HttpOnly; SameSite={config.same_site}"
        if config.https_only:
            attributes += "; Secure"
        if config.partitioned:
            attributes += "; Partitioned"
        self._prefix = f"{config.session_cookie}=".encode()
        self._attributes = attributes.encode()
        self._persistent = config.persistent
        expired = b"; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT"
        self._clear = (b"set-cookie", self._prefix + expired + self._attributes)

    def give(self, card: bytes, seconds: float, *, remembered: bool = False) -> tuple[bytes, bytes]:
        """Return the header that hands out `card` for `seconds` (rounded up, at least 1).

        `remembered`: it outlives the browser, whatever `persistent` says.
        """
        age = b"; Max-Age=%d" % max(1, ceil(seconds)) if self._persistent or remembered else b""
        return b"set-cookie", self._prefix + card + age + self._attributes

    def clear(self) -> tuple[bytes, bytes]:
        """Return the header that takes the cookie back. Same attributes: a browser matches name, domain and path."""
        return self._clear


def vary_on_cookie(headers: Headers) -> None:
    """Say in place that the response depends on the cookie (RFC 9110 section 12.5.5)."""
    for index, (name, value) in enumerate(headers):
        if name.lower() == b"vary":
            named = {item.strip().lower() for item in value.split(b",")}
            if b"cookie" not in named and b"*" not in named:
                headers[index] = (name, value + b", Cookie" if value.strip() else b"Cookie")
            return
    headers.append((b"vary", b"Cookie"))


def protect_from_caches(headers: Headers) -> None:
    """Keep in place a response that sets the cookie out of every cache (RFC 9111 section 5.2.2.5).

    Whatever the app said before is replaced: a stored `Set-Cookie` hands one user's session to the next.
    """
    headers[:] = [header for header in headers if header[0].lower() not in (b"cache-control", b"expires")]
    headers.append((b"cache-control", b"no-store"))
