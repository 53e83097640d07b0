"""The store in this process's memory: for development, for tests, and for apps that run as one process.

Sessions end with the process, and two processes do not see each other's. Everything else is as the contract says.
An operation never suspends: it is a few dictionary look-ups.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import replace
from heapq import nsmallest
from typing import TYPE_CHECKING

from roomkey.clock import system_time, ticks_of
from roomkey.options import named_options
from roomkey.stores.base import Conflict, Notice, Record, What
from roomkey.stores.forks import at_fork

if TYPE_CHECKING:
    import asyncio  # at run time it is imported where it is used: it is half of the time that `import roomkey` takes

__all__ = ["MemoryStore"]

# Two are looked at for each one that is added: a full round ends before the records can double. A constant price per
# added record, never a stall, and it holds in an app whose lifespan, and with it the purge loop, never runs.
_LOOKED_AT_PER_ADDED = 2


@named_options()
class MemoryStore:
    """Keep sessions in a dictionary. Implements `Store`, `Purge`, `UserIndex`, `Scan`, `Watch` and `Wipe`.

    Args:
        clock: returns Unix time in seconds; default `time.time`. Tests pass one that they move.
    """

    never_waits = True  # an operation is done as soon as it is asked for

    def __init__(self, *, clock: Callable[[], float] = system_time) -> None:
        self._clock, self._ticks = clock, ticks_of(clock)
        self._records: OrderedDict[str, Record] = OrderedDict()
        self._wiped: list[OrderedDict[str, Record]] = []  # to be taken apart by purges: at once, it takes long
        self._watchers: list[tuple[asyncio.AbstractEventLoop, Callable[[Notice], None], bool]] = []
        self._of_user: dict[str, set[str]] = {}  # exactly the keys in `_records` whose record has that user
        # One event loop needs no lock; a test client or a second server in a thread has its own loop.
        self._lock = threading.Lock()
        at_fork(self)

    def after_fork(self) -> None:
        """In the child of a fork: take a new lock. Another thread of the parent's may have held the old one."""
        if self._lock.locked():  # that thread may have been between the record and the index
            self._of_user = {}
            for key, record in self._records.items():
                if record.user is not None:
                    self._of_user.setdefault(record.user, set()).add(key)
        self._lock = threading.Lock()
        self._watchers = []  # of the parent's event loops

    def __repr__(self) -> str:
        return "<MemoryStore>"

    async def load(self, key: str) -> Record | None:
        """Return the live record under `key`, or None."""
        record = self._records.get(key)
        return record if record is not None and record.expires_at > self._clock() else None

    def load_now(self, key: str) -> Record | None:
        """As `load`, without a coroutine."""
        record = self._records.get(key)
        return record if record is not None and record.expires_at > self._ticks.time() else None

    async def create(self, key: str, record: Record) -> None:
        """Put a new record under `key`. Raises `Conflict` when a live one is there."""
        with self._lock:
            now = self._clock()
            if key in self._records:
                self._check_free(key, now)
            self._put(key, record)
            self._look_around(now)

    async def update(self, key: str, record: Record, *, version: int) -> None:
        """Replace the live record under `key`. Raises `Conflict` when it is gone, moved on, or has another version."""
        with self._lock:
            now = self._clock()
            self._check_unchanged(key, version, now)
            self._put(key, record)
        if self._watchers:
            has_ended = record.expires_at <= now
            self._tell(Notice(What.ENDED, key) if has_ended else Notice(What.CHANGED, key, version=record.version))

    async def rotate(self, key: str, new_key: str, record: Record, tombstone: Record, *, version: int) -> None:
        """Put `record` under `new_key` and `tombstone` under `key`. Raises `Conflict` and then changes nothing."""
        with self._lock:
            now = self._clock()
            self._check_unchanged(key, version, now)
            self._check_free(new_key, now)
            self._put(key, tombstone)
            self._put(new_key, record)
            self._look_around(now)
        if self._watchers:
            self._tell(Notice(What.MOVED, key, new_key))

    async def touch(self, key: str, expires_at: float) -> bool:
        """Let the live record under `key` expire later; return whether there is one that is no tombstone."""
        with self._lock:
            record = self._records.get(key)
            if record is None or record.successor is not None or record.expires_at <= self._clock():
                return False
            if expires_at > record.expires_at:
                self._records[key] = replace(record, expires_at=expires_at)
            return True

    async def delete(self, key: str) -> None:
        """Remove whatever is under `key`."""
        with self._lock:
            self._drop(key)
        if self._watchers:
            self._tell(Notice(What.ENDED, key))

    async def purge(self, limit: int) -> int:
        """Remove at most `limit` expired records; return how many went."""
        return self._purge(limit)[0]

    async def purge_telling(self, limit: int, tell: Callable[[str, str | None], object]) -> int:
        """As `purge`; `tell` is called with the key and the user of each session that went."""
        gone, expired = self._purge(limit)
        for key, record in expired.items():
            if record.successor is None and record.data[:1] > b"\0":
                tell(key, record.user)
        return gone

    def _purge(self, limit: int) -> tuple[int, dict[str, Record]]:
        with self._lock:
            now = self._clock()
            expired: dict[str, Record] = {}
            for key, record in self._records.items():
                if len(expired) >= limit:
                    break
                if record.expires_at <= now:
                    expired[key] = record
            for key in expired:
                self._drop(key)
            gone = len(expired)
            while self._wiped and gone < limit:
                if self._wiped[-1]:
                    self._wiped[-1].popitem()
                    gone += 1
                else:
                    self._wiped.pop()
            return gone, expired

    async def of_user(self, user: str) -> list[tuple[str, Record]]:
        """Return key and record of every live session of `user`."""
        with self._lock:
            now = self._clock()
            theirs = [(key, self._records[key]) for key in self._of_user.get(user, ())]
        return [(key, record) for key, record in theirs if record.expires_at > now and record.successor is None]

    async def scan(self, limit: int, after: str = "") -> tuple[list[str], str]:
        """Return the next keys in their order, and where to go on; an empty text: these were the last."""
        with self._lock:
            keys = nsmallest(limit, (key for key in self._records if key > after))
        return keys, keys[-1] if len(keys) == limit else ""

    async def wipe(self) -> None:
        """End every session."""
        with self._lock:
            # New dictionaries: to empty the old ones takes as long as they are large.
            self._wiped.append(self._records)
            self._records, self._of_user = OrderedDict(), {}
        if self._watchers:
            self._tell(Notice(What.WIPED))

    def publish(self, *, changes: bool = False) -> None:
        """Do nothing: those who watch are in this process."""

    def watch(
        self, tell: Callable[[Notice], None], keys: Callable[[], Collection[str]], *, changes: bool = False
    ) -> Callable[[], None]:
        """Begin to watch, in the running event loop; returns what ends it."""
        import asyncio

        watcher = (asyncio.get_running_loop(), tell, changes)
        with self._lock:
            # The list is replaced, not changed: others may be going through it.
            self._watchers = [each for each in self._watchers if not each[0].is_closed()] + [watcher]
        watcher[0].call_soon(self._tell_one, watcher, Notice(What.STANDS))

        def leave() -> None:
            with self._lock:
                self._watchers = [each for each in self._watchers if each is not watcher]

        return leave

    def _tell(self, notice: Notice) -> None:
        for watcher in self._watchers:
            loop, _, changes = watcher
            if changes or notice.what is not What.CHANGED:
                with suppress(RuntimeError):  # that loop is closed
                    loop.call_soon_threadsafe(self._tell_one, watcher, notice)

    def _tell_one(
        self, watcher: tuple[asyncio.AbstractEventLoop, Callable[[Notice], None], bool], notice: Notice
    ) -> None:
        if watcher in self._watchers:
            watcher[1](notice)

    def _check_free(self, key: str, now: float) -> None:
        record = self._records.get(key)
        if record is not None and record.expires_at > now:
            raise Conflict

    def _check_unchanged(self, key: str, version: int, now: float) -> None:
        record = self._records.get(key)
        if record is None or record.version != version or record.successor is not None or record.expires_at <= now:
            raise Conflict

    def _put(self, key: str, record: Record) -> None:
        before = self._records.get(key)
        if before is not None and before.user != record.user:
            self._drop(key)
        self._records[key] = record
        if record.user is not None:
            keys = self._of_user.get(record.user)
            if keys is None:
                self._of_user[record.user] = {key}
            else:
                keys.add(key)

    def _drop(self, key: str) -> None:
        record = self._records.pop(key, None)
        if record is not None and record.user is not None:
            keys = self._of_user[record.user]
            keys.discard(key)
            if not keys:
                del self._of_user[record.user]

    def _look_around(self, now: float) -> None:
        """Take the records looked at longest ago: drop the expired ones, send the others to the back of the queue."""
        records = self._records
        for _ in range(_LOOKED_AT_PER_ADDED):
            key = next(iter(records), None)
            if key is None:
                return
            if records[key].expires_at <= now:
                self._drop(key)
            else:
                records.move_to_end(key)
