"""What a request brought beside the session that it got: other cards of the same browser, for another path or domain.

A log-out ends those sessions too. Else the next request would be logged in again by one of them.
"""

from __future__ import annotations

from collections.abc import Iterable

from roomkey.core.cards import Card
from roomkey.core.loaded import Stored
from roomkey.core.registry import Registry
from roomkey.core.state import Beside
from roomkey.stores.base import Record, Unreadable
from roomkey.wire import codec

__all__ = ["OtherCards"]


class OtherCards:
    """Genuine cards whose sessions were not asked for.

    Args:
        registry: knows the sessions.
        cards: from the request.
        also: what else is to end with them; None: nothing.
    """

    def __init__(self, registry: Registry, cards: Iterable[Card], also: Beside | None = None) -> None:
        self._registry, self._cards, self._also = registry, tuple(cards), also
        self._came = registry.rules.clock()

    async def end(self, spare: str) -> None:
        """End what each card opens now, but for what is under the key `spare`: the request goes on with that.

        A user's session that other requests have rotated since is followed, as long as it stays the user's. One of
        nobody is not: whoever planted its card must not be able to log out the user who has logged in with it.
        """
        for card in self._cards:
            await self._end(card, spare)
        if self._also is not None:
            await self._also.end(spare)

    async def _end(self, card: Card, spare: str) -> None:
        async def find(_: Stored | None = None) -> Stored | None:
            found = await self._opened_by(card)
            return None if found is None or found.key == spare else found

        await self._registry.end_found(await find(), find, "cleared")

    async def _opened_by(self, card: Card) -> Stored | None:
        try:
            record: Record | None = await self._registry.store.load(card.key)
            if record is None or record.successor is None:
                return None if record is None else Stored(card.key, record, card.secret)
            return await self._registry.in_grace(record, card.secret, self._came)
        except (Unreadable, codec.DamagedData):
            return None  # it opens nothing
