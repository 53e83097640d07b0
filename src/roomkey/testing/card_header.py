"""The session of a test client whose app has `card_header`: the card is a header that the client sends each time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, MutableMapping
from typing import Any

from roomkey.wire.card_header import CardHeader

__all__ = ["ClientHeader"]


class ClientHeader:
    """The header of one client.

    Args:
        client: a test client, or a client of httpx.
        name: what `card_header` says.

    Raises:
        TypeError: it sends no headers by itself.
    """

    def __init__(self, client: object, name: str) -> None:
        self._header = CardHeader(name)
        found = _headers_of(client)
        if found is None:
            raise TypeError(
                f"client_session: got {type(client).__name__} as the client, which has no default headers to put the "
                f"card into (card_header={name!r}); it takes the test client of a framework, or a client of httpx"
            )
        self._headers, name_of = found
        self._name = name_of(self._header.name)  # of the header, as the client has it

    def sent(self) -> list[tuple[str, str]]:
        """Return the header that the client would send, alone in a list; an empty list where it would send none."""
        value = self._headers.get(self._name)
        return [] if value is None else [(self._header.name, value)]

    def keep(self, headers: Iterable[tuple[str, str]]) -> None:
        """Have the client send from now on what a response gave it, or nothing where that took the card back."""
        for name, card in headers:
            if name.lower() != self._header.given_in.lower():
                continue
            if card:
                self._headers[self._name] = f"Bearer {card}" if self._header.is_bearer else card
            else:
                self._headers.pop(self._name, None)


_Headers = MutableMapping[str, str]
_NameOf = Callable[[str], str]


def _headers_of(client: Any) -> tuple[_Headers, _NameOf] | None:
    """Return a client's default headers, and what makes their keys of the names of headers. None: it has none."""
    if hasattr(client, "websocket_connection_class"):  # Quart's
        return _quart_headers(client), str
    environ = getattr(client, "environ_base", None)  # Flask's
    if isinstance(environ, MutableMapping):
        return environ, _in_environ
    defaults = getattr(client, "defaults", None)  # Django's
    if isinstance(defaults, MutableMapping):
        return defaults, str if hasattr(client, "_base_scope") else _in_environ  # of `AsyncClient`, and of `Client`
    for each in (client, getattr(client, "session", None)):  # httpx's, and aiohttp's
        headers = getattr(each, "headers", None)
        if isinstance(headers, MutableMapping):
            return headers, str
    return None


def _in_environ(name: str) -> str:
    return "HTTP_" + name.upper().replace("-", "_")


class _Connecting:
    """Stands in the place of a class of Quart's connections: the test client has no default headers of its own.

    Args:
        kind: the class.
        headers: go with each request that does not bring its own.
    """

    def __init__(self, kind: Any, headers: _Headers) -> None:
        self._kind, self.headers = kind, headers

    def __call__(self, app: Any, scope: dict[str, Any], **options: Any) -> Any:
        brought = {name.lower() for name, _ in scope["headers"]}
        added = [(name.lower().encode("ascii"), value.encode("ascii")) for name, value in self.headers.items()]
        scope["headers"] = [*scope["headers"], *(header for header in added if header[0] not in brought)]
        return self._kind(app, scope, **options)


def _quart_headers(client: Any) -> _Headers:
    kind = client.http_connection_class
    if isinstance(kind, _Connecting):
        return kind.headers
    headers: _Headers = {}
    client.http_connection_class = _Connecting(kind, headers)
    client.websocket_connection_class = _Connecting(client.websocket_connection_class, headers)
    return headers
