"""The store in an SQLite file: for one machine with one or several worker processes, with nothing to install.

Two connections do the work. One belongs to the event loop: it loads, and does a write that nobody is in the way of
(`in_loop`). The other belongs to a thread of the store's own (`worker`). The thread does everything that may take long
or has to wait, runs the writes that wait in one transaction, and moves the write-ahead log into the file (`log`).

Why not everything is done in the thread: it has to win the interpreter's lock several times for each operation from a
loop that is busy. A lone write takes 15 µs in the loop and 50 to 200 in the thread, a load 5 and over 100.
(`python -m benchmarks.sqlite` measures it.) The price: where the disk is slow, or the file larger than the free memory,
an operation may wait for the disk, and every request of the process with it.

Durability: an operation returns once its commit is in the write-ahead log. A killed process loses nothing that was
acknowledged; a power cut may lose the last moments, never the file's order. `synchronous="FULL"` keeps them too.

Locks and forks: SQLite must not see a connection cross a fork (https://sqlite.org/howtocorrupt.html, 2.6): the child
would take the parent's locks for its own. So connections are closed before `os.fork` and made anew when next needed.
"""

from __future__ import annotations

import os
import re
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from roomkey.clock import system_time
from roomkey.errors import ConfigurationError
from roomkey.options import named_options
from roomkey.stores.base import Record
from roomkey.stores.looking import Looked, State
from roomkey.stores.rows import tell_of
from roomkey.stores.sqlite import table
from roomkey.stores.sqlite.changes import Changes
from roomkey.stores.sqlite.file import forget_locks
from roomkey.stores.sqlite.in_loop import NEXT_TICK, THREAD, Work, next_tick
from roomkey.stores.sqlite.worker import Job, Kind, Worker, running

__all__ = ["SQLiteStore"]

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")  # RFC 3986 section 3.1
_PAGE = 4096  # bytes
_IN_A_ROW = 3500  # bytes of data, from which on a row needs pages of its own
_MOST_STEPS = 50  # of one purge, each over a few hundred records: bounds the time that one call takes


@named_options()
class SQLiteStore(Looked):
    """Keep sessions in one SQLite file. Implements all of `Store` and the optional protocols.

    Several processes may share the file; each makes its own store. The file must be on a local disk: write-ahead
    logging does not work over a network file system. It is made when missing, readable for its owner only, like the
    `-wal` and `-shm` files beside it.

    Args:
        path: the file; a relative path counts from the working directory at this moment.
        clock: returns Unix time in seconds; default `time.time`. Also called in the store's thread.
        synchronous: "NORMAL" (default): what was acknowledged outlives a killed process, but a power cut may lose the
            last moments. "FULL": it outlives a power cut too, at the price of a disk flush per commit.
        writes_in_thread: whether all writes are done in the store's thread. Default False: a write that nobody is in
            the way of is done in the event loop, which is three to ten times as fast. One such write may hold the
            event loop up for as long as the disk does, and `store_timeout` cannot cut it off. After a slow write all
            go to the thread for fifty times as long as it took. Choose True where a disk may stall for longer than
            your requests may. With `synchronous="FULL"` it makes no difference: every write is done in the thread.

    Raises:
        ConfigurationError: `path` names no file (":memory:", "", a URL), or `synchronous` is neither of the two.
    """

    answers_at_once = True  # mostly; an operation that waits may be gone on with in another task

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        clock: Callable[[], float] = system_time,
        synchronous: Literal["NORMAL", "FULL"] = "NORMAL",
        writes_in_thread: bool = False,
    ) -> None:
        name = os.fspath(path)
        if isinstance(name, str) and _URL.match(name):  # not shown: it may hold a password
            raise ConfigurationError(
                "path: got a URL; it takes the path of a file, such as 'sessions.sqlite3' (or give store= the URL)"
            )
        if not isinstance(name, str) or not name or name == ":memory:" or name.startswith("file:"):
            raise ConfigurationError(
                f"path: got {name!r}; it takes the path of a file, such as 'sessions.sqlite3' "
                "(for sessions in memory use roomkey.stores.memory.MemoryStore)"
            )
        if synchronous not in ("NORMAL", "FULL"):
            raise ConfigurationError(f"synchronous: got {synchronous!r}; it takes 'NORMAL' or 'FULL'")
        self._path = Path(os.path.abspath(name))
        self._clock = clock
        self._synchronous = synchronous
        self._writes_in_thread = writes_in_thread
        self._worker: Worker | None = None  # None: not used yet, or closed, or this is a fork's child
        self._lock = threading.Lock()  # held to hand a job to the worker: none may follow the one that closes it
        self._changes: Changes | None = None  # None: nobody wants to be told of changes
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
            found = worker.in_loop.load(key)
            if found is not THREAD:
                return found
        record: Record | None = await self._ask(Kind.READ, table.load, key)
        return record

    async def create(self, key: str, record: Record) -> None:
        """Put a new record under `key`. Raises `Conflict` when a live one is there."""
        await self._write(4 + _overflow(record), table.create, key, record)

    async def update(self, key: str, record: Record, *, version: int) -> None:
        """Replace the live record under `key`. Raises `Conflict` when it is gone, moved on, or has another version."""
        await self._write(1 + _overflow(record), table.update, key, record, version)

    async def rotate(self, key: str, new_key: str, record: Record, tombstone: Record, *, version: int) -> None:
        """Put `record` under `new_key` and `tombstone` under `key`. Raises `Conflict` and then changes nothing."""
        await self._write(8 + _overflow(record), table.rotate, key, new_key, record, tombstone, version)

    async def touch(self, key: str, expires_at: float) -> bool:
        """Let the live record under `key` expire later; return whether there is one that is no tombstone."""
        there: bool = await self._write(1, table.touch, key, expires_at)
        return there

    async def delete(self, key: str) -> None:
        """Remove whatever is under `key`."""
        await self._write(4, table.delete, key)

    async def purge(self, limit: int) -> int:
        """Remove at most `limit` expired records; return how many went. Then give free pages back to the disk."""
        return await self._purge(limit, None)

    async def purge_telling(self, limit: int, tell: Callable[[str, str | None], object]) -> int:
        """As `purge`; `tell` is called with the key and the user of each session that went."""
        return await self._purge(limit, tell)

    async def _purge(self, limit: int, tell: Callable[[str, str | None], object] | None) -> int:
        gone = 0
        for _ in range(_MOST_STEPS):  # each a transaction of its own, so that writes get in between
            sessions: list[tuple[bytes, bytes | None]] | None = None if tell is None else []
            count, more = await self._ask(Kind.PURGE, table.purge, limit - gone, sessions)
            gone += count
            if tell is not None:
                tell_of(sessions or (), tell)
            if gone >= limit or not more:
                break
        return gone

    async def of_user(self, user: str) -> list[tuple[str, Record]]:
        """Return key and record of every live session of `user`."""
        sessions: list[tuple[str, Record]] = await self._ask(Kind.READ, table.of_user, user)
        return sessions

    async def scan(self, limit: int, after: str = "") -> tuple[list[str], str]:
        """Return the next keys in their order, and where to go on; an empty text: these were the last."""
        found: tuple[list[str], str] = await self._ask(Kind.READ, table.scan, limit, after)
        return found

    async def discard_unreadable(self, user: str) -> int:
        """Remove those of a user's records that cannot be read; return how many went."""
        gone: int = await self._ask(Kind.WRITE, table.discard_unreadable, user)
        return gone

    async def wipe(self) -> None:
        """End every session: all of them are put aside at once, and `purge` takes them away."""
        await self._ask(Kind.WRITE, table.wipe)

    def notices(self) -> Changes:
        """Return what says in this process that records have changed."""
        if self._changes is None:
            self._changes = Changes(self._version)
        return self._changes

    def _version(self) -> object:
        worker = self._worker
        return None if worker is None else worker.in_loop.version()

    async def _states(self, keys: list[str]) -> dict[str, State]:
        rows = await self._ask(Kind.READ, table.states, keys)
        return {key: State(version, successor) for key, version, successor in rows}

    async def _stamp(self) -> object:
        return await self._ask(Kind.READ, table.stamp)

    async def _write(self, pages: int, work: Work, *args: Any) -> Any:
        """Do what is one statement: in the event loop if nobody is in the way, otherwise in the thread.

        Args:
            pages: of the file that it changes, about.
            work: does it.
            args: `work`'s.
        """
        worker = self._worker
        if worker is not None:
            answer = worker.in_loop.write(pages, work, args)
            if answer is NEXT_TICK:
                await next_tick()
                answer = worker.in_loop.write(pages, work, args, again=True)
            if answer is not THREAD:
                if self._changes is not None:
                    self._changes.wrote([arg for arg in args if type(arg) is str])
                return answer
        return await self._ask(Kind.WRITE, work, *args, pages=pages)

    async def _ask(self, kind: Kind, work: Work, *args: Any, pages: int = 1) -> Any:
        job = Job(kind, work, args, pages)
        with self._lock:
            if self._worker is None:
                in_loop = not self._writes_in_thread and self._synchronous != "FULL"
                self._worker = Worker(self._path, self._clock, self._synchronous, writes_in_loop=in_loop)
            self._worker.put(job)
        return await job.future

    def __del__(self) -> None:
        # A store that was dropped without `close`: its thread must not live on. (None yet when __init__ has raised.)
        worker = getattr(self, "_worker", None)
        if worker is not None:
            worker.jobs.put(None)

    # Around os.fork

    def _after_fork(self) -> None:
        """In the child: the thread was not forked, and its locks may be held for ever."""
        self._worker = None
        self._lock = threading.Lock()


def _overflow(record: Record) -> int:
    """How many more pages a write changes, about, because the data is so long."""
    return 0 if len(record.data) < _IN_A_ROW else 3 + len(record.data) // _PAGE


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
        store._after_fork()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
