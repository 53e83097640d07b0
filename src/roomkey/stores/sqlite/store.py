"""The store in an SQLite file: for one machine with one or several worker processes, with nothing to install.

One thread of the store's own does all that may take long: it takes every operation that waits and runs the writes in
one transaction, so that under load many requests share a commit, and a lone request waits for nobody. Only `load`, one
row by its key, is read right in the event loop, from a second connection that never waits for a lock; whenever that
does not work, the thread does it again.

Why `load` is in the event loop: the thread has to win the interpreter's lock several times per read from a loop that is
busy. Measured with requests of 300 µs of computing each, one in five of which writes, in the loop and in the thread:
a lone read 12 and 117 µs; at 1,500 requests a second a read's median 0.03 and 0.45 ms and its 99.9th percentile 0.35
and 10 to 14 ms, the whole request's p99 2 and 3 to 11 ms; at most 2,750 and 2,200 requests a second. (Python 3.11,
SQLite 3.40, 2 cores, 20,000 sessions of 300 bytes.) The price: where the file is larger than the free memory, a read
may have to wait for the disk, and every request of the process with it. Use a server's store then.

Durability: an operation returns once its commit is in the write-ahead log. A killed process loses nothing that was
acknowledged; a power cut may lose the last moments, never the file's order. `synchronous="FULL"` keeps them too.

Locks and forks: SQLite must not see a connection cross a fork (https://sqlite.org/howtocorrupt.html, 2.6): the child
would take the parent's locks for its own. So connections are closed before `os.fork` and made anew when next needed.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from roomkey.errors import ConfigurationError
from roomkey.stores.base import Record
from roomkey.stores.sqlite import table
from roomkey.stores.sqlite.file import forget_locks
from roomkey.stores.sqlite.worker import Job, Kind, Work, Worker, running

__all__ = ["SQLiteStore"]

_MOST_STEPS = 50  # of one purge, each over a few hundred records: bounds the time that one call takes


class SQLiteStore:
    """Keep sessions in one SQLite file. Implements `Store`, `Lifespan`, `Purge`, `UserIndex` and `Wipe`.

    Several processes may share the file; each makes its own store. The file must be on a local disk: write-ahead
    logging does not work over a network file system. It is made when missing, readable for its owner only, like the
    `-wal` and `-shm` files beside it.

    Args:
        path: the file; a relative path counts from the working directory at this moment.
        clock: returns Unix time in seconds; default `time.time`. Also called in the store's thread.
        synchronous: "NORMAL" (default): what was acknowledged outlives a killed process, but a power cut may lose the
            last moments. "FULL": it outlives a power cut too, at the price of a disk flush per commit.

    Raises:
        ConfigurationError: `path` names no file (":memory:", ""), or `synchronous` is neither of the two.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        clock: Callable[[], float] = time.time,
        synchronous: Literal["NORMAL", "FULL"] = "NORMAL",
    ) -> None:
        name = os.fspath(path)
        if not isinstance(name, str) or not name or name == ":memory:" or name.startswith("file:"):
            raise ConfigurationError(
                f"path: {name!r}; it takes the path of a file, such as 'sessions.sqlite3' "
                "(for sessions in memory use roomkey.stores.memory.MemoryStore)"
            )
        if synchronous not in ("NORMAL", "FULL"):
            raise ConfigurationError(f"synchronous: {synchronous!r}; it takes 'NORMAL' or 'FULL'")
        self._path = Path(os.path.abspath(name))
        self._clock = clock
        self._synchronous = synchronous
        self._worker: Worker | None = None  # None: not used yet, or closed, or this is a fork's child
        self._lock = threading.Lock()  # held to hand a job to the worker: none may follow the one that closes it
        with _forking:
            _stores.add(self)

    def __repr__(self) -> str:
        return f"<SQLiteStore {str(self._path)!r}>"

    async def open(self) -> None:
        """Open the file, or make it.

        Raises:
            ConfigurationError: the file cannot be used as it is: missing directory, no permission, another app's
                database, damaged, or made by a newer Roomkey. The message says which, and the way out.
            StoreUnavailable: it cannot be used now: locked by another process, or the disk is full.
        """
        await self._ask(Kind.OPEN, table.nothing)

    async def close(self) -> None:
        """Finish what was asked before, close the file and end the thread."""
        with self._lock:
            worker, self._worker = self._worker, None
            if worker is None:
                return
            job = Job(Kind.CLOSE, table.nothing, ())
            worker.jobs.put(job)
        await job.future
        worker.thread.join()  # nothing is left for it to do but to end

    async def load(self, key: str) -> Record | None:
        """Return the live record under `key`, or None."""
        worker = self._worker
        if worker is not None:
            with worker.reading:
                if worker.reader is not None:
                    try:
                        return table.load(worker.reader, self._clock(), key)
                    except sqlite3.Error:
                        pass  # a lock, or a fault: the thread waits, opens the file anew, or says what is wrong
        record: Record | None = await self._ask(Kind.READ, table.load, key)
        return record

    async def create(self, key: str, record: Record) -> None:
        """Put a new record under `key`. Raises `Conflict` when a live one is there."""
        await self._ask(Kind.WRITE, table.create, key, record)

    async def update(self, key: str, record: Record, *, version: int) -> None:
        """Replace the live record under `key`. Raises `Conflict` when it is gone, moved on, or has another version."""
        await self._ask(Kind.WRITE, table.update, key, record, version)

    async def rotate(self, key: str, new_key: str, record: Record, tombstone: Record, *, version: int) -> None:
        """Put `record` under `new_key` and `tombstone` under `key`. Raises `Conflict` and then changes nothing."""
        await self._ask(Kind.WRITE, table.rotate, key, new_key, record, tombstone, version)

    async def touch(self, key: str, expires_at: float) -> bool:
        """Let the live record under `key` expire later; return whether there is one that is no tombstone."""
        there: bool = await self._ask(Kind.WRITE, table.touch, key, expires_at)
        return there

    async def delete(self, key: str) -> None:
        """Remove whatever is under `key`."""
        await self._ask(Kind.WRITE, table.delete, key)

    async def purge(self, limit: int) -> int:
        """Remove at most `limit` expired records; return how many went. Then give free pages back to the disk."""
        gone = 0
        for _ in range(_MOST_STEPS):  # each a transaction of its own, so that writes get in between
            count, more = await self._ask(Kind.PURGE, table.purge, limit - gone)
            gone += count
            if gone >= limit or not more:
                break
        return gone

    async def of_user(self, user: str) -> list[tuple[str, Record]]:
        """Return key and record of every live session of `user`."""
        sessions: list[tuple[str, Record]] = await self._ask(Kind.READ, table.of_user, user)
        return sessions

    async def wipe(self) -> None:
        """End every session: all of them are put aside at once, and `purge` takes them away."""
        await self._ask(Kind.WRITE, table.wipe)

    async def _ask(self, kind: Kind, work: Work, *args: Any) -> Any:
        job = Job(kind, work, args)
        with self._lock:
            if self._worker is None:
                self._worker = Worker(self._path, self._clock, self._synchronous)
            self._worker.jobs.put(job)
        return await job.future

    def __del__(self) -> None:
        # A store that was dropped without `close`: its thread must not live on. (None yet when __init__ has raised.)
        worker = getattr(self, "_worker", None)
        if worker is not None:
            worker.jobs.put(None)

    # Around os.fork

    def _forget(self) -> None:
        """In the child: the thread was not forked, and its locks may be held for ever."""
        self._worker = None
        self._lock = threading.Lock()


# Around os.fork. Some servers fork in C and call the last of these hooks only: it relies on nothing before it.

_stores: weakref.WeakSet[SQLiteStore] = weakref.WeakSet()
_held: list[SQLiteStore] = []  # during a fork: none of them makes a worker
_paused: list[Worker] = []  # during a fork; also those of stores that were dropped or are being closed
_abandoned: list[Worker] = []  # their connections must not be closed in the child, so they are kept
_forking = threading.Lock()  # held while a fork is under way


def _before_fork() -> None:
    _forking.acquire()
    _held.extend(_stores)
    for store in _held:
        store._lock.acquire()
    _paused.extend(running)
    for worker in _paused:
        worker.pause()


def _after_fork_in_parent() -> None:
    for worker in _paused:
        worker.resume()
    for store in _held:
        store._lock.release()
    _paused.clear()
    _held.clear()
    _forking.release()


def _after_fork_in_child() -> None:
    global _forking
    _forking = threading.Lock()
    forget_locks()
    _abandoned.extend(running)
    running.clear()
    _paused.clear()
    _held.clear()
    for store in list(_stores):
        store._forget()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
