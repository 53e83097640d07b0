"""The session of a test client whose app has `card_header`: the card is one of the client's default headers."""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping
from typing import Any

from roomkey.wire.card_header import CardHeader

__all__ = ["ClientHeader"]


class ClientHeader:
    """The header of one client.

    Args:
        client: has its default headers as `headers`, as the clients of httpx do.
        name: what `card_header` says.

    Raises:
        TypeError: it has none.
    """

    def __init__(self, client: object, name: str) -> None:
        headers: Any = getattr(client, "headers", None)
        if not isinstance(headers, MutableMapping):
            raise TypeError(
                f"client_session: got {type(client).__name__} as the client, which has no default headers to put the "
                f"card into (card_header={name!r}); it takes a client of httpx"
            )
        self._headers: MutableMapping[str, str] = headers
        self._header = CardHeader(name)

    def sent(self) -> list[tuple[str, str]]:
        """Return the header that the client would send, alone in a list; an empty list where it would send none."""
        value = self._headers.get(self._header.name)
        return [] if value is None else [(self._header.name, value)]

    def keep(self, headers: Iterable[tuple[str, str]]) -> None:
        """Have the client send from now on what a response gave it, or nothing where that took the card back."""
        for name, card in headers:
            if name.lower() != self._header.given_in.lower():
                continue
            if card:
                self._headers[self._header.name] = f"Bearer {card}" if self._header.is_bearer else card
            else:
                self._headers.pop(self._header.name, None)
