"""Two stores in one, while sessions move from the old to the new: nobody is logged out by the switch.

A session is moved when it is first asked for, in four steps, each a compare-and-swap:

1. It is marked in the old store as taken. The mark is the record itself, with a few bytes before its data: it can be
   listed and ended meanwhile, given back where the new store fails, and taken again where the request that took it is
   gone.
2. Its arrival is made in the new store: a record of this key without a session, and with a random version.
3. The old store notes as which arrival it has moved.
4. The session replaces the arrival in the new store, and is deleted in the old one.

Any request may go on with the third step and the fourth. A step that is done late does no harm. An arrival that comes
when the session has moved, or has ended, is named by nothing in the old store: nobody is served from it. What is late
of the other steps meets another version.

A session that ends leaves a record in the new store for as long as it could have lived. So it stays ended whatever
comes late, and whatever the old store still has.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Coroutine
from dataclasses import replace
from typing import Any

from roomkey.clock import system_time
from roomkey.errors import ConfigurationError, StoreUnavailable
from roomkey.options import named_options
from roomkey.stores.base import (
    Conflict,
    Discard,
    Lifespan,
    Notice,
    Purge,
    Record,
    Scan,
    Store,
    TellingPurge,
    UserIndex,
    Watch,
    What,
    Wipe,
    shown,
)
from roomkey.stores.cookie import CookieStore
from roomkey.stores.moves import There, arrival, ended, is_arrival, is_ended, is_session
from roomkey.stores.urls import store_from

__all__ = ["Migrating"]

_TAKEN_FOR = 10.0  # seconds that a move may take; after them, another request may take the session
_TRIES = 25  # times that a request looks for a session which another one is just moving
_PAUSE = 0.02  # seconds between them
_IN_NEW = "new:"  # a scan that goes on in the new store
_GIVE_UP = 2.0  # seconds for what can be left undone


def _kept_on_the_server(value: Store | str) -> Store:
    store = store_from(value)
    if isinstance(store, CookieStore):
        raise ConfigurationError("Migrating: cookie:// keeps nothing on the server: there is nothing to move")
    return store


@named_options()
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

    def __init__(self, new: Store | str, old: Store | str, *, clock: Callable[[], float] = system_time) -> None:
        self._clock = clock
        self._new, self._old = _kept_on_the_server(new), _kept_on_the_server(old)
        self._unfinished: set[asyncio.Task[None]] = set()
        # Offered only where both stores have it: half a list of sessions would be a lie.
        if isinstance(self._new, UserIndex) and isinstance(self._old, UserIndex):
            self.of_user: Callable[[str], Coroutine[Any, Any, list[tuple[str, Record]]]] = self._of_user
        if isinstance(self._new, Wipe) and isinstance(self._old, Wipe):
            self.wipe: Callable[[], Coroutine[Any, Any, None]] = self._wipe
        if isinstance(self._new, Scan) and isinstance(self._old, Scan):
            self.scan: Callable[..., Coroutine[Any, Any, tuple[list[str], str]]] = self._scan
        if isinstance(self._new, Watch) and isinstance(self._old, Watch):
            self.publish: Callable[..., None] = self._publish
            self.watch: Callable[..., Callable[[], None]] = self._watch

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
        """Return the live record under `key`, moved to the new store if it was in the old one; or None.

        Raises:
            StoreUnavailable: others changed the record each time that it was to be moved.
        """
        for _ in range(_TRIES):
            here = await self._new.load(key)
            if here is not None and is_session(here):
                return here
            if here is not None and is_ended(here):
                return None
            record = await self._old.load(key)
            there = None if record is None else There.of(record)
            try:
                if here is not None:
                    await self._arrive(key, here, there)
                elif there is None or there.moved_as:
                    if await self._new.load(key) is None:  # it may have been moved between the two looks
                        return None
                elif there.record.successor is not None:  # a tombstone, which two may move: it is the same one
                    with contextlib.suppress(Conflict):
                        await self._new.create(key, there.record)
                    await self._old.delete(key)
                elif there.taken_until <= self._clock():
                    await self._take(key, there)
                else:
                    await asyncio.sleep(_PAUSE)
            except Conflict:  # another request was first
                await asyncio.sleep(_PAUSE)
        raise StoreUnavailable("a session is being moved between two stores, and the move did not end in time")

    async def create(self, key: str, record: Record) -> None:
        """Put a new record under `key`, in the new store. Raises `Conflict` when a live one is there."""
        try:
            await self._new.create(key, record)
        except Conflict:
            if await self.load(key) is not None:
                raise
            await self._new.delete(key)  # what has ended leaves room for the same key
            await self._new.create(key, record)

    async def update(self, key: str, record: Record, *, version: int) -> None:
        """Replace the live record under `key`. Raises `Conflict` when it is gone, moved on, or has another version."""
        if record.expires_at <= self._clock():
            await self._end(key, version)
            return
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

    async def touch(self, key: str, expires_at: float) -> bool:
        """Let the live record under `key` expire later; return whether there is one that is no tombstone."""
        record = await self.load(key)
        return record is not None and record.successor is None and await self._new.touch(key, expires_at)

    async def delete(self, key: str) -> None:
        """Remove whatever is under `key`, in both stores.

        Raises:
            StoreUnavailable: others changed the record each time that it was to be removed.
        """
        record = await self._old.load(key)
        await self._old.delete(key)  # first: what is gone there cannot be moved any more
        for _ in range(_TRIES):
            here = await self._new.load(key)
            try:
                if here is None and record is not None and record.successor is None:
                    await self._new.create(key, ended(record))
                elif here is not None and here.successor is not None:
                    await self._new.delete(key)
                elif here is not None and not is_ended(here):
                    await self._new.update(key, ended(here), version=here.version)
                return
            except Conflict:  # it has just arrived, or was saved
                continue
        raise StoreUnavailable("a session could not be ended: other requests kept saving it")

    async def purge(self, limit: int) -> int:
        """Remove at most `limit` expired records, where a store has to be told; return how many went."""
        gone = 0
        for store in (self._old, self._new):
            if isinstance(store, Purge) and gone < limit:
                gone += await store.purge(limit - gone)
        return gone

    async def purge_telling(self, limit: int, tell: Callable[[str, str | None], object]) -> int:
        """As `purge`; `tell` is called with the key and the user of each session that went, where a store says it."""
        gone = 0
        for store in (self._old, self._new):
            if isinstance(store, TellingPurge) and gone < limit:
                gone += await store.purge_telling(limit - gone, tell)
            elif isinstance(store, Purge) and gone < limit:
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
        left = await self._old.of_user(user)
        listed = dict(await self._new.of_user(user))
        for key, record in left:
            if key not in listed:
                listed.update(await self._still(key, There.of(record), user))
        return list(listed.items())

    async def _scan(self, limit: int, after: str = "") -> tuple[list[str], str]:
        """Return some keys, and where to go on; an empty text: these were the last."""
        assert isinstance(self._new, Scan) and isinstance(self._old, Scan)
        # The old store first: what is moved meanwhile comes in the new one.
        if after.startswith(_IN_NEW):
            keys, after = await self._new.scan(limit, after.removeprefix(_IN_NEW))
            return keys, after and _IN_NEW + after
        keys, after = await self._old.scan(limit, after)
        return keys, after or _IN_NEW

    async def _still(self, key: str, there: There, user: str) -> dict[str, Record]:
        """Return where the session is that the old store has listed; nothing, where it has ended."""
        here = await self._new.load(key)
        if here is not None and here.successor is not None:
            key = here.successor
            here = await self._new.load(key)
        if here is None:
            return {} if there.moved_as else {key: there.record}
        if is_arrival(here):
            return {key: there.record} if there.moved_as in (0, here.version) else {}
        return {key: here} if here.user == user and here.successor is None else {}

    async def _wipe(self) -> None:
        """End every session, in both stores."""
        assert isinstance(self._new, Wipe) and isinstance(self._old, Wipe)
        await self._old.wipe()  # first: what arrives afterwards is named by nothing there
        await self._new.wipe()

    def _publish(self, *, changes: bool = False) -> None:
        """Have both stores tell, of changes in any case: a session that ends is a change in the new store."""
        assert isinstance(self._new, Watch) and isinstance(self._old, Watch)
        self._new.publish(changes=True)
        self._old.publish(changes=changes)

    def _watch(
        self, tell: Callable[[Notice], None], keys: Callable[[], Collection[str]], *, changes: bool = False
    ) -> Callable[[], None]:
        """Begin to watch both stores.

        A move from one to the other looks like an end, and so does a change: the record that an end leaves is one.
        """
        assert isinstance(self._new, Watch) and isinstance(self._old, Watch)
        stands = [False, False]

        def tell_of(number: int) -> Callable[[Notice], None]:
            def pass_on(notice: Notice) -> None:
                stood = all(stands)
                if notice.what in (What.STANDS, What.LOST):
                    stands[number] = notice.what is What.STANDS
                    if all(stands) is stood:
                        return
                elif notice.what is What.CHANGED:
                    if changes:
                        tell(notice)
                    if notice.key not in keys():
                        return
                    notice = Notice(What.ENDED, notice.key)
                tell(notice)

            return pass_on

        leaves = [
            store.watch(tell_of(number), keys, changes=True) for number, store in enumerate((self._new, self._old))
        ]

        def leave() -> None:
            for each in leaves:
                each()

        return leave

    async def _end(self, key: str, version: int) -> None:
        """End a session, and leave a record in its place. Raises `Conflict`."""
        here = await self.load(key)
        if here is None or here.successor is not None or here.version != version:
            raise Conflict
        await self._new.update(key, ended(here), version=version)

    async def _take(self, key: str, there: There) -> None:
        """Take a session, and make its arrival. Raises `Conflict` when another request has it, or has ended it."""
        taken = there.taken(self._clock() + _TAKEN_FOR)
        await self._old.update(key, taken, version=there.version)
        try:
            await self._new.create(key, arrival(there.record))
        except Conflict:
            pass  # an earlier one has arrived, which is as good
        except BaseException as error:
            # The session stays in the old store, as it was; where this fails, it is taken again when its time is over.
            given_back = replace(there.record, version=taken.version + 1)
            giving_back = self._later(self._old.update(key, given_back, version=taken.version))
            if isinstance(error, Exception):
                await asyncio.shield(giving_back)  # so that the next request finds it
            raise

    async def _arrive(self, key: str, here: Record, there: There | None) -> None:
        """Put the session in the place of its arrival. Raises `Conflict` when another request does."""
        moved_as = here.version
        if there is not None and not there.moved_as and there.record.successor is None:
            await self._old.update(key, there.moved(moved_as), version=there.version)
        elif there is None or there.moved_as != moved_as:
            await self._new.update(key, ended(here), version=moved_as)  # it came too late
            return
        await self._new.update(key, there.record, version=moved_as)
        with contextlib.suppress(Exception):
            await self._old.delete(key)  # where this fails, it is there until it expires, and is not moved again

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
