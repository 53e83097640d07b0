"""Two stores in one, while sessions move from the old to the new: nobody is logged out by the switch.

A session is moved when it is first asked for. Exactly one request moves it: the one whose compare-and-swap marks the
record in the old store as taken. Only then is it made in the new one, so that a session that was moved and has ended
since is never moved again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

from roomkey.errors import ConfigurationError, StoreUnavailable
from roomkey.stores.base import Conflict, Lifespan, Purge, Record, Store, UserIndex, Wipe, shown
from roomkey.stores.cookie import CookieStore
from roomkey.stores.urls import store_from

__all__ = ["Migrating"]

_TAKEN_FOR = 10.0  # seconds that a move may take
_TRIES = 25  # times that a request looks for a session which another one is just moving
_PAUSE = 0.02  # seconds between them


def _kept_on_the_server(value: Store | str) -> Store:
    store = store_from(value)
    if isinstance(store, CookieStore):
        raise ConfigurationError("Migrating: cookie:// keeps nothing on the server: there is nothing to move")
    return store


class Migrating:
    """Read from `old` what `new` does not have, and move it.

    Switch every worker at the same time: one that still knows only the old store takes a moved session for an ended
    one. After `absolute_timeout`, everything has moved or expired: give `new` alone. A process that is killed in the
    moment between the two steps of a move ends that session.

    Args:
        new: a URL or a `Store`: where sessions are from now on.
        old: a URL or a `Store`: where they were.
        clock: returns Unix seconds.

    Raises:
        ConfigurationError: `new` or `old` is neither, or keeps nothing on the server (`cookie://`).
    """

    def __init__(self, new: Store | str, old: Store | str, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._new, self._old = _kept_on_the_server(new), _kept_on_the_server(old)
        # Offered only where both stores have it: half a list of sessions would be a lie.
        if isinstance(self._new, UserIndex) and isinstance(self._old, UserIndex):
            self.of_user = self._of_user
        if isinstance(self._new, Wipe) and isinstance(self._old, Wipe):
            self.wipe = self._wipe

    def __repr__(self) -> str:
        return f"<Migrating to {shown(self._new)} from {shown(self._old)}>"

    async def open(self) -> None:
        """Open both. Raises what they raise."""
        for store in (self._new, self._old):
            if isinstance(store, Lifespan):
                await store.open()

    async def close(self) -> None:
        """Close both."""
        for store in (self._new, self._old):
            if isinstance(store, Lifespan):
                await store.close()

    async def load(self, key: str) -> Record | None:
        """Return the live record under `key`, moved to the new store if it was in the old one; or None."""
        record = await self._new.load(key)
        if record is not None:
            return record
        found = await self._old.load(key)
        if found is None:
            return await self._new.load(key)  # it may have been moved between the two looks
        if found.successor != key:
            try:
                return await self._move(key, found)
            except Conflict:
                pass  # another request moves it
        return await self._until_moved(key)

    async def create(self, key: str, record: Record) -> None:
        """Put a new record under `key`, in the new store. Raises `Conflict` when a live one is there."""
        await self._new.create(key, record)

    async def update(self, key: str, record: Record, *, version: int) -> None:
        """Replace the live record under `key`. Raises `Conflict` when it is gone, moved on, or has another version."""
        try:
            await self._new.update(key, record, version=version)
        except Conflict:
            if not await self._was_moved(key):
                raise
            await self._new.update(key, record, version=version)

    async def rotate(self, key: str, new_key: str, record: Record, tombstone: Record, *, version: int) -> None:
        """Put `record` under `new_key` and `tombstone` under `key`. Raises `Conflict` and then changes nothing."""
        try:
            await self._new.rotate(key, new_key, record, tombstone, version=version)
        except Conflict:
            if not await self._was_moved(key):
                raise
            await self._new.rotate(key, new_key, record, tombstone, version=version)

    async def touch(self, key: str, expires_at: float) -> bool:
        """Let the live record under `key` expire later; return whether there is one that is no tombstone."""
        if await self._new.touch(key, expires_at):
            return True
        return await self._was_moved(key) and await self._new.touch(key, expires_at)

    async def delete(self, key: str) -> None:
        """Remove whatever is under `key`, in both stores."""
        await self._old.delete(key)  # first: what is gone there cannot be moved any more
        await self._new.delete(key)

    async def purge(self, limit: int) -> int:
        """Remove at most `limit` expired records, where a store has to be told; return how many went."""
        gone = 0
        for store in (self._old, self._new):
            if isinstance(store, Purge) and gone < limit:
                gone += await store.purge(limit - gone)
        return gone

    async def _of_user(self, user: str) -> list[tuple[str, Record]]:
        """Return key and record of every live session of `user`, in both stores."""
        assert isinstance(self._new, UserIndex) and isinstance(self._old, UserIndex)
        # The old store first: what is moved between the two looks is then listed, not missed.
        found = dict(await self._old.of_user(user))
        found.update(await self._new.of_user(user))
        return list(found.items())

    async def _wipe(self) -> None:
        """End every session, in both stores."""
        assert isinstance(self._new, Wipe) and isinstance(self._old, Wipe)
        await self._old.wipe()
        await self._new.wipe()

    async def _was_moved(self, key: str) -> bool:
        """Move what is still in the old store; return whether there was anything."""
        if await self._old.load(key) is None:
            return False
        return await self.load(key) is not None

    async def _move(self, key: str, record: Record) -> Record:
        """Raises `Conflict` when it is another request that moves it, or that has changed it first."""
        # Its own successor: no rotation makes that. It goes soon, should this process be killed before it can finish.
        expires_at = min(record.expires_at, self._clock() + _TAKEN_FOR)
        taken = replace(record, data=b"", version=record.version + 1, successor=key, expires_at=expires_at)
        if record.successor is None:
            await self._old.update(key, taken, version=record.version)
        try:
            await self._new.create(key, record)
        except Conflict:
            pass  # a tombstone, which two may move: it is the same one
        except BaseException:
            if record.successor is None:
                await self._give_back(key, record)
            raise
        await self._old.delete(key)
        return record

    async def _give_back(self, key: str, record: Record) -> None:
        """The new store failed: the session stays in the old one."""
        await self._old.delete(key)
        await self._old.create(key, record)

    async def _until_moved(self, key: str) -> Record | None:
        for _ in range(_TRIES):
            record = await self._new.load(key)
            if record is not None:
                return record
            if await self._old.load(key) is None:
                return await self._new.load(key)
            await asyncio.sleep(_PAUSE)
        raise StoreUnavailable("a session is being moved between two stores, and does not arrive")
