"""What rotations leave behind: kept short, removed with its session, and what it tells of one that is not found."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from roomkey.core.loaded import Loaded, Stored
from roomkey.core.tombstones import SEALED_MOVE, Way, lost_trail, lost_trail_key
from roomkey.core.turns import pause
from roomkey.errors import StoreUnavailable
from roomkey.stores.base import Conflict, Record, Unreadable
from roomkey.stores.guard import GuardedStore
from roomkey.wire.envelope import trail_in
from roomkey.wire.facts import LONGEST_TRAIL, Facts, trail_from

__all__ = ["MOST_HOPS", "Trails", "may_live"]

MOST_HOPS = 2 * LONGEST_TRAIL  # from tombstone to tombstone, in one search
_MOST_LOOKS = 4  # at what a session that ends removes
_LOOK_AGAIN = 0.02  # seconds between them


class Trails:
    """The trails of one configuration's sessions.

    Args:
        store: where the sessions are.
        clock: tells the time, in Unix seconds.
    """

    def __init__(self, store: GuardedStore, clock: Callable[[], float]) -> None:
        self._store, self._clock = store, clock

    async def remove(self, trail: list[str]) -> None:
        """Remove the tombstones of a session that has ended: they lead nowhere."""
        if len(trail) == LONGEST_TRAIL:
            trail = [lost_trail_key(trail[0]), *trail]  # the overflow record first: it has log-outs fail
        with contextlib.suppress(StoreUnavailable):  # logged; what is left expires with the session
            for key in trail:
                await self._store.delete(key)

    async def was_cut(self, record: Record) -> bool:
        """Whether a session has left more tombstones than are there. Raises StoreUnavailable. `record`: its own."""
        trail = trail_in(record.data)
        if len(trail) < LONGEST_TRAIL:
            return False
        try:
            return await self._store.load(lost_trail_key(trail[0])) is not None
        except Unreadable:
            return True

    async def shorten(self, facts: Facts, after: Loaded) -> None:
        """Remove the tombstone for which a session that has just rotated has no room any more.

        An overflow record is left first, once for each session: requests that find nothing under an old key of it must
        not take the session for ended.

        Args:
            facts: those from before the rotation.
            after: the session now.
        """
        if facts.dropped is None:
            return
        overflow = lost_trail_key(trail_from(facts.trail)[0])
        with contextlib.suppress(StoreUnavailable, Unreadable):  # logged; the tombstone stays then
            old = await self._store.load(facts.dropped)
            if old is None:
                return
            until = max(old.expires_at, after.record.expires_at)
            if not await self._store.touch(overflow, until):
                try:
                    await self._store.create(overflow, lost_trail(self._clock(), until))
                except Conflict:  # another request was first
                    await self._store.touch(overflow, until)
                else:
                    if await self._store.load(after.key) is None:  # it has ended, and took no overflow record along
                        await self._store.delete(overflow)
            await self._store.delete(facts.dropped)

    async def confirm_end(self, stored: Stored, way: Way, *, is_log_out: bool, hides: bool = False) -> None:
        """Make sure that a session has ended of which nothing is found any more.

        Args:
            stored: the session as it was read last.
            way: what was found on the way from there.
            is_log_out: whether it has to be certain.
            hides: whether the way from there was to be kept for a moment only.

        Raises:
            StoreUnavailable: it may live.
        """
        key, record, _ = stored
        keys = list(way)[list(way).index(key) :]
        end = way[keys[-1]]
        if end is not None:
            # What is found there is over, or another user's by now, who may have given the session back since.
            if end.successor is None or not is_log_out or await self._is_anothers(end.successor, record.user):
                return
            leads_on = True
        else:
            # The next one of a tombstone that hides is the first of the trail, which is never cut off.
            leads_on = len(keys) > (2 if hides else 1)
        # A tombstone that leads nowhere tells nothing: the next one may have expired, or was cut off. Where the session
        # has ended, it goes in a moment.
        if is_log_out and leads_on and not await self._is_gone(key):
            raise may_live()
        for first in trail_in(record.data)[:1] or keys[:2]:
            if not await self._is_gone(lost_trail_key(first)):
                raise may_live()
        until = min(record.expires_at, record.created_at + SEALED_MOVE) if hides else record.expires_at
        if is_log_out and self._clock() >= until:  # before that, its tombstone or the overflow record is there
            raise may_live()

    async def _is_gone(self, key: str) -> bool:
        """Whether nothing is under a key. What goes with a session that ends is there for a moment longer."""
        for look in range(_MOST_LOOKS if self._store.waits else 1):
            if look > 0:
                await pause(_LOOK_AGAIN)
            try:
                if await self._store.load(key) is None:
                    return True
            except Unreadable:
                return False
        return False

    async def _is_anothers(self, key: str, user: str | None) -> bool:
        """Whether a session lives where this key leads, and is not this user's."""
        for _ in range(MOST_HOPS):
            try:
                record = await self._store.load(key)
            except Unreadable:
                return False
            if record is None or record.successor is None:
                return record is not None and record.user != user
            key = record.successor
        return False


def may_live() -> StoreUnavailable:
    return StoreUnavailable(
        "the session has either ended or changed its ID too often to be found; ask again with the new cookie"
    )
