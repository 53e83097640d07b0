"""What goes in and out of a session manager: a request, as far as Roomkey needs to know it, and headers as pairs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

__all__ = ["AnyHeaders", "Request", "raw_pairs", "raw_request", "text_pairs"]

AnyHeaders = Iterable[tuple[str, str]] | Iterable[tuple[bytes, bytes]]
RawHeaders = list[tuple[bytes, bytes]]
_Text = TypeVar("_Text", str, bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request, for `SessionManager.load`.

    Args:
        kind: `"http"` or `"websocket"`.
        scheme: `"http"`, `"https"`, `"ws"` or `"wss"`, as the server resolved it: `https_only="auto"` goes by it.
        path: of the URL.
        headers: all of them, as pairs of `str` or of `bytes`.
        client: address and port of the client, as the server resolved them; None: not known.

    Example:
        >>> from roomkey import Request
        >>> Request(path="/cart", headers=[("Cookie", "session=...")]).path
        '/cart'
    """

    kind: str = "http"
    scheme: str = "http"
    path: str = "/"
    headers: AnyHeaders = field(default=(), repr=False)  # they hold the cookie
    client: tuple[str, int] | None = None


def raw_request(
    request: Request | str | bytes | None, carrier: bytes = b"cookie"
) -> tuple[RawHeaders, Mapping[str, Any]]:
    """Return the headers of a request as raw pairs, their names in lower case, and its path, scheme and client by name.

    Args:
        request: the request, or the value of the one header that has the card; None: it has none. These two have no
            path and no scheme.
        carrier: the name of that header.

    Raises:
        TypeError: it is none of these, or its headers are no pairs.
    """
    if request is None:
        return [], {}
    if isinstance(request, str | bytes):
        return [(carrier, _latin(request))], {}
    if not isinstance(request, Request):
        raise TypeError(
            f"load: got {type(request).__name__}; it takes a roomkey.Request, the value of a Cookie header, or None"
        )
    headers = [(_latin(name).lower(), _latin(value)) for name, value in _pairs(request.headers)]
    return headers, {"client": request.client, "path": request.path, "scheme": request.scheme}


def raw_pairs(headers: AnyHeaders, raw: bool | None) -> tuple[RawHeaders, bool]:
    """Return the headers of a response as raw pairs, and whether they were given like that.

    Args:
        headers: all of them.
        raw: whether they are pairs of `bytes`; None: see for yourself. Where there is no header, it is False then.

    Raises:
        TypeError: they are no pairs, or not all of one type.
    """
    given = _pairs(headers)
    if raw is None:
        raw = bool(given) and isinstance(given[0][0], bytes)
    if raw:
        return [(_of_type(bytes, name), _of_type(bytes, value)) for name, value in given], True
    return [(_utf8(_of_type(str, name)), _utf8(_of_type(str, value))) for name, value in given], False


def text_pairs(headers: RawHeaders) -> list[tuple[str, str]]:
    """Return what `raw_pairs` made of pairs of `str` as pairs of `str` again."""
    return [(name.decode("utf-8", "surrogatepass"), value.decode("utf-8", "surrogatepass")) for name, value in headers]


def _pairs(headers: AnyHeaders) -> list[tuple[str | bytes, str | bytes]]:
    if not isinstance(headers, Mapping | str | bytes):
        given = list(headers)
        if all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in given):
            return given  # type: ignore[return-value]
    raise TypeError("headers: it takes pairs of a name and a value, as `headers.items()` gives them")


# Names and values may be anything that the framework sends. What is looked at here is ASCII.
def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _latin(text: str | bytes) -> bytes:
    # Servers hand on what they got as Latin-1 (PEP 3333). What is none of it is no cookie of ours.
    if isinstance(text, bytes):
        return text
    return _of_type(str, text).encode("latin-1", "replace")


def _of_type(kind: type[_Text], text: object) -> _Text:
    if not isinstance(text, kind):
        raise TypeError(f"headers: one is a {type(text).__name__}; all are pairs of str, or all are pairs of bytes")
    return text
