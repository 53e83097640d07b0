"""Request: what Roomkey needs to know of a request, whichever framework it comes from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

__all__ = ["AnyHeaders", "Request", "raw_headers"]

AnyHeaders = Iterable[tuple[str, str]] | Iterable[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request, for `SessionManager.load`.

    Args:
        kind: `"http"` or `"websocket"`.
        scheme: `"http"`, `"https"`, `"ws"` or `"wss"`.
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


def raw_headers(request: Request | str | bytes | None) -> list[tuple[bytes, bytes]]:
    """Return the headers of a request as raw pairs, their names in lower case.

    Args:
        request: the request, or the value of its `Cookie` header alone; None: it has none.
    """
    if request is None:
        return []
    if isinstance(request, Request):
        return [(_raw(name).lower(), _raw(value)) for name, value in request.headers]
    return [(b"cookie", _raw(request))]


def _raw(text: str | bytes) -> bytes:
    # Servers hand on what they got as Latin-1 (PEP 3333). What is none of it is no cookie of ours.
    return text if isinstance(text, bytes) else text.encode("latin-1", "replace")
