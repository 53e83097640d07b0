"""Two stores in one, while sessions move from the old to the new: nobody is logged out by the switch.

A session is moved when it is first asked for, in three steps, each a compare-and-swap: it is marked in the old store as
taken, made in the new one, and ended in the old one. The mark is the record itself, with a few bytes before its data:
it can be listed and ended meanwhile, given back in one step where the new store fails, and taken again by another
request where the one that took it is gone. Who finds the mark gone before its time has not moved the session but ended
it, for somebody ended it in the old store: it is taken out of the new one again.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, NamedTuple

from roomkey.errors import ConfigurationError, StoreUnavailable
from roomkey.stores.base import Conflict, Discard, Lifespan, Purge, Record, Store, UserIndex, Wipe, shown
from roomkey.stores.cookie import CookieStore
from roomkey.stores.urls import store_from

__all__ = ["Migrating"]

_TAKEN_FOR = 10.0  # seconds that a move may take; after them, another request may take the session
_TRIES = 25  # times that a request looks for a session which another one is just moving
_PAUSE = 0.02  # seconds between them
_GIVE_UP = 2.0  # seconds for what can be left undone
_MOMENT = 0.2  # seconds of it for which a request waits
_MARK = b"\x00roomkey: taken\x00"  # the data of no session begins with a 0
_TAKEN = struct.Struct(">dQ")  # until when, in Unix seconds; the version it had


class _Found(NamedTuple):
    """What the old store holds."""

    record: Record  # the session, as it was before it was taken
    version: int  # what the store has now
    taken_until: float  # Unix seconds; 0: not taken


def _found(record: Record) -> _Found:
    head = len(_MARK) + _TAKEN.size
    if not record.data.startswith(_MARK) or len(record.data) < head:
        return _Found(record, record.version, 0.0)
    until, version = _TAKEN.unpack_from(record.data, len(_MARK))
    return _Found(replace(record, data=record.data[head:], version=version), record.version, until)


def _kept_on_the_server(value: Store | str) -> Store:
    store = store_from(value)
    if isinstance(store, CookieStore):
        raise ConfigurationError("Migrating: cookie:// keeps nothing on the server: there is nothing to move")
    return store


class Migrating:
    """Read from `old` what `new` does not have, and move it.

    Switch every worker at the same time: one that still knows only the old store takes a moved session for an ended
    one. After `absolute_timeout`, everything has moved or expired: give `new` alone, once the readers of `legacy` are
    out too (what says that an old cookie has moved in lives as long as that cookie). The clocks of all machines should
    agree to within a few seconds. A process that is killed in the middle of a move delays that session by ten seconds.

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
        self._unfinished: set[asyncio.Task[None]] = set()
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
        if self._unfinished:
            await asyncio.wait(self._unfinished)
        for store in (self._new, self._old):
            if isinstance(store, Lifespan):
                await store.close()

    async def load(self, key: str) -> Record | None:
        """Return the live record under `key`, moved to the new store if it was in the old one; or None."""
        for _ in range(_TRIES):
            record = await self._new.load(key)
            if record is not None:
                return record
            there = await self._old.load(key)
            if there is None:
                return await self._new.load(key)  # it may have been moved between the two looks
            found = _found(there)
            if found.taken_until <= self._clock():
                try:
                    return await self._move(key, found)
                except Conflict:
                    pass  # another request was first
            await asyncio.sleep(_PAUSE)
        raise StoreUnavailable("a session is being moved between two stores, and does not arrive")

    async def create(self, key: str, record: Record) -> None:
        """Put a new record under `key`, in the new store. Raises `Conflict` when a live one is there."""
        await self._new.create(key, record)

    async def update(self, key: str, record: Record, *, version: int) -> None:
        """Replace the live record under `key`. Raises `Conflict` when it is gone, moved on, or has another version."""
        try:
            await self._new.update(key, record, version=version)
        except Conflict:
            await self.load(key)  # it may not have moved yet
            await self._new.update(key, record, version=version)

    async def rotate(self, key: str, new_key: str, record: Record, tombstone: Record, *, version: int) -> None:
        """Put `record` under `new_key` and `tombstone` under `key`. Raises `Conflict` and then changes nothing."""
        try:
            await self._new.rotate(key, new_key, record, tombstone, version=version)
        except Conflict:
            await self.load(key)
            await self._new.rotate(key, new_key, record, tombstone, version=version)
        # Where the answer to a move's last step was lost, the old store still has it, and would give it back when the
        # tombstone has expired. That it cannot be reached, or hangs, is no reason to say that nothing was done.
        await asyncio.wait({self._later(self._old.delete(key))}, timeout=_MOMENT)

    async def touch(self, key: str, expires_at: float) -> bool:
        """Let the live record under `key` expire later; return whether there is one that is no tombstone."""
        if await self._new.touch(key, expires_at):
            return True
        return await self.load(key) is not None and await self._new.touch(key, expires_at)

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

    async def discard_unreadable(self, user: str) -> int:
        """Remove those of a user's records that cannot be read, in both stores; return how many went."""
        stores = (self._old, self._new)
        return sum([await store.discard_unreadable(user) for store in stores if isinstance(store, Discard)])

    async def _of_user(self, user: str) -> list[tuple[str, Record]]:
        """Return key and record of every live session of `user`, in both stores."""
        assert isinstance(self._new, UserIndex) and isinstance(self._old, UserIndex)
        # The old store first: what is moved between the two looks is then listed, not missed.
        listed = {key: _found(record).record for key, record in await self._old.of_user(user)}
        listed.update(await self._new.of_user(user))
        return list(listed.items())

    async def _wipe(self) -> None:
        """End every session, in both stores."""
        assert isinstance(self._new, Wipe) and isinstance(self._old, Wipe)
        await self._old.wipe()  # first: what is moved meanwhile is found missing there, or ended by the second
        await self._new.wipe()

    async def _move(self, key: str, found: _Found) -> Record | None:
        """Move a session. Raises `Conflict` when another request has it, or has changed it first."""
        record = found.record
        if record.successor is not None:  # a tombstone, which two may move: it is the same one
            with contextlib.suppress(Conflict):
                await self._new.create(key, record)
            await self._old.delete(key)
            return record
        until, version = self._clock() + _TAKEN_FOR, found.version + 1
        data = _MARK + _TAKEN.pack(until, record.version) + record.data
        taken = replace(record, data=data, version=version)
        await self._old.update(key, taken, version=found.version)
        try:
            await self._new.create(key, record)
        except Conflict:
            pass  # an earlier move came as far as this
        except BaseException as error:
            # The session stays in the old store, as it was; where this fails, it is taken again when its time is over.
            giving_back = self._later(self._old.update(key, replace(record, version=version + 1), version=version))
            if isinstance(error, Exception):
                await asyncio.shield(giving_back)  # so that the next request finds it
            raise
        try:
            await self._old.update(key, replace(taken, data=b"", version=version + 1, expires_at=0.0), version=version)
        except Conflict:
            if until <= self._clock():
                raise  # somebody else may have taken it, because this took so long
            there = await self._new.load(key)
            if there is not None and there.successor is not None:
                return there  # another request found it there, and rotated it
            await self._new.delete(key)  # somebody has ended it
            return None
        with contextlib.suppress(Exception):
            await self._old.delete(key)  # it has ended; a store may keep what has expired
        return await self._new.load(key)

    def _later(self, work: Coroutine[Any, Any, object]) -> asyncio.Task[None]:
        """Do what can be left undone, if it can be done."""
        task = asyncio.get_running_loop().create_task(_try(work))
        self._unfinished.add(task)
        task.add_done_callback(self._unfinished.discard)
        return task


async def _try(work: Coroutine[Any, Any, object]) -> None:
    with contextlib.suppress(Exception):
        async with asyncio.timeout(_GIVE_UP):
            await work
