"""Stores whose engine tells nobody of changes: those who watch them hear of what a look, once a second, has found."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import NamedTuple

from roomkey.stores.base import Notice, What
from roomkey.stores.watching import Channel, Watchers

__all__ = ["Looked", "State"]

_EVERY = 1.0  # seconds between two looks
MOST_AT_ONCE = 500  # keys in one question


class State(NamedTuple):
    """What a look finds of a record."""

    version: int
    successor: str | None


class Looked:
    """The part of a store by which it is watched."""

    _watchers: Watchers | None = None  # made when somebody watches: a store that is dropped must not wait for it

    def publish(self, *, changes: bool = False) -> None:
        """Do nothing: those who watch look for themselves."""

    def watch(
        self, tell: Callable[[Notice], None], keys: Callable[[], Collection[str]], *, changes: bool = False
    ) -> Callable[[], None]:
        """Begin to watch, by a look once a second; returns what ends it."""
        if self._watchers is None:
            self._watchers = Watchers(self._listen, self.__repr__)
        return self._watchers.add(tell, keys, changes=changes)

    async def _states(self, keys: list[str]) -> dict[str, State]:
        """Return what is under each of some keys now; nothing of those under which nothing lives."""
        raise NotImplementedError

    async def _stamp(self) -> object:
        """Return what is another one where anything may have changed. It costs less than a look."""
        return object()

    async def _listen(self, channel: Channel) -> None:
        seen: dict[str, State | None] = {}
        stamp: object = None  # of the last look: each event loop has its own
        while True:
            keys = channel.keys()
            before, stamp = stamp, await self._stamp()
            if before != stamp or not keys <= seen.keys():
                found: dict[str, State] = {}
                asked = list(keys)
                for first in range(0, len(asked), MOST_AT_ONCE):
                    found.update(await self._states(asked[first : first + MOST_AT_ONCE]))
                for key in keys:
                    for notice in _compared(key, key in seen, seen.get(key), found.get(key)):
                        channel.tell(notice)
                seen = {key: found.get(key) for key in keys}
            channel.stands()
            await asyncio.sleep(_EVERY)


def _compared(key: str, is_known: bool, before: State | None, now: State | None) -> list[Notice]:
    """Return what has happened to a record. What nobody has looked at before may have been changed already."""
    if is_known and before == now:
        return []
    if now is None:
        return [Notice(What.ENDED, key)]
    if now.successor is not None:
        return [Notice(What.MOVED, key, now.successor)]
    return [Notice(What.CHANGED, key, version=now.version)]
