"""The cookie on the wire: found in the raw request headers, written into the raw response headers.

A card that is too long for one cookie (a session under `cookie://`) lies in several, `session`, `session.1`, ...: the
first begins with their number, and each of the others with 8 characters of the first, so that a chunk of another
session is never taken for one of this.

Leaves to others: whether its value is genuine (`roomkey.wire.keys`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from math import ceil
from typing import Literal, Protocol

from roomkey.errors import ConfigurationError

__all__ = [
    "AROUND",
    "ChunkWriter",
    "CookieWriter",
    "find_chunked",
    "find_cookies",
    "find_one",
    "protect_from_caches",
    "vary_on_cookie",
]

Headers = list[tuple[bytes, bytes]]

_MOST_COPIES = 8  # cookies of one name that are looked at; a browser sends as many as there are paths and domains
_MOST_PAIRS = 1000  # of a name and a value, that are looked at; Chrome and Firefox keep 180 cookies for one site
_SPACE = b" \t"
AROUND = b' \t"'  # what is taken off a value
_MOST_CHUNKS = 8  # cookies that one card is split over
_TAG = slice(8, 16)  # what marks the chunks of one card: 48 bits of its salt
_TAG_LENGTH = 8
_CHUNK_NUMBERS = frozenset(b"%d" % number for number in range(1, _MOST_CHUNKS))
# Name, value and attributes of a cookie together: RFC 6265 section 6.1 counts all of them, RFC 6265bis section 5.6
# name and value only.
_LARGEST_COOKIE = 4096
_MOST_PATHS, _MOST_DOMAINS = 6, 4  # for which cookies are taken back: 24 take about 2.5 KB of a response's head
_HOST = re.compile(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+")
_EXPIRED = b"; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT"
_LEAST_ROOM = 512  # bytes of a cookie
_LONGEST_AGE = len("; Max-Age=1000000000000000000")


# What responses say to caches: RFC 9111; to kinds of them RFC 9213 (`CDN-Cache-Control`, and the makers' own:
# `Cloudflare-CDN-Cache-Control`, ...); and what came before that.
_TO_CACHES = frozenset({b"cache-control", b"expires", b"x-accel-expires", b"surrogate-control", b"edge-control"})
_TO_CDNS = (b"cdn-cache-control", b"akamai-cache-control", b"surrogate-cache-control")


def find_one(sent: bytes, name: bytes, start: bytes) -> bytes | None:
    """Return the value of the cookie of a name, where it is the only one and written as browsers write it.

    Args:
        sent: the value of the request's only `Cookie` header.
        name: of the cookie.
        start: what stands before its value where another cookie precedes it: `; `, the name and `=`.

    Returns:
        The value, with whatever stands around it; empty where there is no such cookie. None: there may be several, or
        it is written in another way: `find_cookies` knows.
    """
    if sent.startswith(start[2:]):
        begin = len(start) - 2
    else:
        at = sent.find(start)
        if at < 0:
            return None if name in sent else b""
        begin = at + len(start)
    if sent.count(name) != 1:
        return None
    end = sent.find(b";", begin)
    return sent[begin:end] if end >= 0 else sent[begin:]


def find_cookies(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    """Return the values of the cookies called `name`, in the order sent, at most 8 of them.

    Lenient as RFC 6265bis section 5 asks of a server: nothing that a client sends raises. Only the first 1,000 pairs
    are looked at.
    """
    found: list[bytes] = []
    for pairs in _pairs(headers, name):
        for pair in pairs:
            if name not in pair:
                continue
            key, equals, content = pair.partition(b"=")
            if equals and key.strip(_SPACE) == name:
                found.append(content.strip(_SPACE).strip(b'"'))
                if len(found) == _MOST_COPIES:
                    return found
    return found


def _pairs(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> Iterator[list[bytes]]:
    """Return the pairs in each `Cookie` header in which `name` stands: the first 1,000 of all of them."""
    left = _MOST_PAIRS
    for header, value in headers:
        if header == b"cookie" and name in value and left:
            pairs = value.split(b";", left)
            del pairs[left:]  # the rest, in one piece
            left -= len(pairs)
            yield pairs


def find_chunked(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    """Return the cards in the cookies called `name`, `name.1` and so on, in the order sent, at most 8 of them.

    What is not whole is an empty card. As lenient and as bounded as `find_cookies`.
    """
    firsts, chunks = _collect(headers, name)
    return [_join(first, chunks) for first in firsts]


def _collect(
    headers: Iterable[tuple[bytes, bytes]], name: bytes
) -> tuple[list[bytes], dict[bytes, dict[bytes, bytes]]]:
    """Return the values of `name`, and of its chunks by number and tag; the first one of each tag counts."""
    firsts: list[bytes] = []
    chunks: dict[bytes, dict[bytes, bytes]] = {}
    prefix = name + b"."
    for pairs in _pairs(headers, name):
        for pair in pairs:
            key, equals, content = pair.partition(b"=")
            key = key.strip(_SPACE)
            if not equals or not key.startswith(name):
                continue
            content = content.strip(_SPACE).strip(b'"')
            if key == name and len(firsts) < _MOST_COPIES:
                firsts.append(content)
            elif key.startswith(prefix) and key[len(prefix) :] in _CHUNK_NUMBERS:
                copies = chunks.setdefault(key[len(prefix) :], {})
                if len(copies) < _MOST_COPIES:
                    copies.setdefault(content[:_TAG_LENGTH], content[_TAG_LENGTH:])
    return firsts, chunks


def _join(first: bytes, chunks: dict[bytes, dict[bytes, bytes]]) -> bytes:
    number = first[:1]
    tag = first[1:][_TAG]
    if number == b"1":
        return first
    if len(tag) < _TAG_LENGTH or not b"2" <= number <= b"%d" % _MOST_CHUNKS:
        return b""
    parts = [first]
    for index in range(1, int(number)):
        part = chunks.get(b"%d" % index, {}).get(tag)
        if part is None:
            return b""
        parts.append(part)
    return b"".join(parts)


class Attributes(Protocol):
    """What a configuration says about its cookie."""

    @property
    def session_cookie(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def domain(self) -> str | None: ...
    @property
    def same_site(self) -> Literal["lax", "strict", "none"]: ...
    @property
    def https_only(self) -> bool | Literal["auto"]: ...
    @property
    def partitioned(self) -> bool: ...
    @property
    def persistent(self) -> bool: ...


def _place(path: str, domain: str | None) -> bytes:
    return f"; Path={path}".encode() + (b"" if domain is None else f"; Domain={domain}".encode())


def _places(sent: Iterable[tuple[bytes, bytes]], own: str | None) -> list[tuple[str, str | None]]:
    """Return the paths and domains for which the cookies of a request may have been given, as far as can be told.

    Args:
        sent: the request's headers. `:path` is that of its URL, where it is known.
        own: the configuration's domain.
    """
    from urllib.parse import quote  # here, because it takes long, and few responses need it

    path, host = "/", ""
    for name, value in sent:
        if name == b":path":
            path = quote(value, safe="/!$&'()*+=:@")  # as in the URL; nothing that ends an attribute
        elif name == b"host":
            host = value.decode("latin-1").rpartition(":")[0] or value.decode("latin-1")
    parts = [part for part in path.split("/") if part][: _MOST_PATHS - 1]
    paths = ["/", *("/" + "/".join(parts[:count]) for count in range(1, len(parts) + 1))]
    domains: list[str | None] = [None] if own is None else [None, own]
    labels = host.lower().split(".")
    if _HOST.fullmatch(host) and not labels[-1].isdigit():
        domains += [".".join(labels[start:]) for start in range(len(labels) - 1)]
    domains = list(dict.fromkeys(domains))[:_MOST_DOMAINS]
    return [(path, domain) for domain in domains for path in paths]


class CookieWriter:
    """Writes `Set-Cookie` for one configuration; everything that never changes is put together once.

    Args:
        config: says everything about the cookie.
        name: another name than the configuration's.
    """

    __slots__ = ("_attributes", "_clear", "_flags", "_persistent", "_prefix")

    def __init__(self, config: Attributes, name: str | None = None) -> None:
        flags = f"; HttpOnly; SameSite={config.same_site}".encode()
        partitioned = b"; Partitioned" if config.partitioned else b""
        # In two forms, by `secure`: with `https_only="auto"` each response has its own.
        self._flags = tuple(
            flags + (b"; Secure" if config.https_only is True or (secure and config.https_only) else b"") + partitioned
            for secure in (False, True)
        )
        self._prefix = f"{name or config.session_cookie}=".encode()
        self._attributes = tuple(_place(config.path, config.domain) + each for each in self._flags)
        self._persistent = config.persistent
        self._clear = tuple((b"set-cookie", self._prefix + _EXPIRED + each) for each in self._attributes)

    @property
    def overhead(self) -> int:
        """How many bytes of the header are neither value nor `Max-Age`."""
        return len(self._prefix) + len(self._attributes[True])

    def give(
        self, card: bytes, seconds: float, *, remembered: bool = False, secure: bool = False
    ) -> tuple[bytes, bytes]:
        """Return the header that hands out `card`.

        Args:
            card: the value.
            seconds: for how long, rounded up, and at least 1.
            remembered: it outlives the browser, whatever `persistent` says.
            secure: with `https_only="auto"`, whether it is `Secure`.
        """
        age = b"; Max-Age=%d" % max(1, ceil(seconds)) if self._persistent or remembered else b""
        return b"set-cookie", self._prefix + card + age + self._attributes[secure]

    def clear(self, *, secure: bool = False) -> tuple[bytes, bytes]:
        """Return the header that takes the cookie back. Same attributes: a browser matches name, domain and path."""
        return self._clear[secure]

    def clear_at(self, path: str, domain: str | None, *, secure: bool = False) -> tuple[bytes, bytes]:
        """Return the header that takes back a cookie of this name that was given for another path or domain."""
        return b"set-cookie", self._prefix + _EXPIRED + _place(path, domain) + self._flags[secure]

    def write(
        self,
        card: bytes | None,
        seconds: float,
        sent: Iterable[tuple[bytes, bytes]],
        *,
        remembered: bool = False,
        logs_out: bool = False,
        secure: bool = False,
    ) -> Headers:
        """Return the headers that hand out `card` for `seconds`, or take it back where it is None.

        Args:
            card: what to hand out.
            seconds: for how long.
            sent: the request's headers; none where the response can carry one cookie only.
            remembered: it outlives the browser, whatever `persistent` says.
            logs_out: what the browser holds for other paths and domains must not log in again. Here the server has
                ended it.
            secure: as for `give`.
        """
        if card is None:
            return [self._clear[secure]]
        return [self.give(card, seconds, remembered=remembered, secure=secure)]


class ChunkWriter:
    """Writes one card over several cookies, for `cookie://`.

    Raises:
        ConfigurationError: the cookie's name, domain and path leave no room for a value.
    """

    __slots__ = ("_config", "_name", "_room", "_writers")

    def __init__(self, config: Attributes) -> None:
        self._config = config
        self._name = config.session_cookie.encode()
        self._writers = [CookieWriter(config)]
        for number in range(1, _MOST_CHUNKS):
            self._writers.append(CookieWriter(config, f"{config.session_cookie}.{number}"))
        taken = max(writer.overhead for writer in self._writers) + _LONGEST_AGE + _TAG_LENGTH
        self._room = _LARGEST_COOKIE - taken
        if self._room < _LEAST_ROOM:
            raise ConfigurationError(
                f"session_cookie, domain and path: they take {taken} of the {_LARGEST_COOKIE} bytes of a cookie; "
                "with cookie://, make them shorter"
            )

    @property
    def largest(self) -> int:
        """How many bytes of a `Cookie` header there can be."""
        return self.size(_MOST_CHUNKS * self._room)

    def count(self, length: int) -> int:
        """Return how many cookies a card takes whose text is `length` characters long."""
        return max(1, ceil(length / self._room))

    def size(self, length: int) -> int:
        """Return how many bytes they are in a `Cookie` header, names and separators included."""
        count = self.count(length)
        names = count * (len(self._name) + len(".1=; "))
        return 1 + length + (count - 1) * _TAG_LENGTH + names

    def write(
        self,
        card: bytes | None,
        seconds: float,
        sent: Iterable[tuple[bytes, bytes]],
        *,
        remembered: bool = False,
        logs_out: bool = False,
        secure: bool = False,
    ) -> Headers:
        """As `CookieWriter.write`; `sent` says which chunks the browser holds, and the surplus ones are taken back.

        Where the browser holds several cookies of the name, they are of other paths or domains. A log-out takes all of
        them back: the server keeps nothing that it could end.
        """
        headers: Headers = []
        if card is not None:
            text, tag = card[1:], card[1:][_TAG]
            for index in range(int(card[:1])):
                part = text[index * self._room : (index + 1) * self._room]
                value = (tag if index else card[:1]) + part
                headers.append(self._writers[index].give(value, seconds, remembered=remembered, secure=secure))
        else:
            headers.append(self._writers[0].clear(secure=secure))
        firsts, held = _collect(sent, self._name)
        if logs_out and len(firsts) > 1 and not self._name.startswith(b"__Host-"):
            places = _places(sent, self._config.domain)
            own = (self._config.path, self._config.domain)
            others = [self._writers[0].clear_at(*at, secure=secure) for at in places if at != own]
            return self._surplus(headers, held, secure=secure) + others
        return self._surplus(headers, held, secure=secure)

    def _surplus(self, headers: Headers, held: Iterable[bytes], *, secure: bool) -> Headers:
        surplus = sorted(int(number) for number in held if int(number) >= len(headers))
        return headers + [self._writers[index].clear(secure=secure) for index in surplus]


def vary_on_cookie(headers: Headers, start: bytes) -> bool:
    """Say in place that the response depends on the cookie (RFC 9110 section 12.5.5).

    Args:
        headers: of the response.
        start: the cookie's name and `=`.

    Returns:
        Whether the response sets a cookie of that name already.
    """
    is_set, vary = False, None
    for header in headers:  # by length first: every response that used its session comes here
        size = len(header[0])
        if size == 4:
            if vary is None and header[0].lower() == b"vary":
                vary = header
        elif size == 10 and header[1].startswith(start) and header[0].lower() == b"set-cookie":
            is_set = True
    if vary is None:
        headers.append((b"vary", b"Cookie"))
        return is_set
    name, value = vary
    named = {item.strip().lower() for item in value.split(b",")}
    if b"cookie" not in named and b"*" not in named:
        headers[headers.index(vary)] = (name, value + b", Cookie" if value.strip() else b"Cookie")
    return is_set


def protect_from_caches(headers: Headers) -> None:
    """Keep in place a response that sets the cookie out of every cache (RFC 9111 section 5.2.2.5).

    Whatever the app said before is replaced, to one kind of cache too (RFC 9213): a stored `Set-Cookie` hands one
    user's session to the next.
    """
    kept = []
    for header in headers:
        name = header[0].lower()
        if name not in _TO_CACHES and not name.endswith(_TO_CDNS):
            kept.append(header)
    kept.append((b"cache-control", b"no-store"))
    headers[:] = kept
