"""The store's thread: it takes every operation that waits, and runs the writes in one transaction.

What the event loops do themselves is in `in_loop`, and what happens to the write-ahead log in `log`.
"""

from __future__ import annotations

import asyncio
import os
import queue
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from enum import Enum, auto
from functools import partial
from pathlib import Path
from typing import Any

from roomkey.errors import ConfigurationError, StoreUnavailable
from roomkey.stores.base import Conflict
from roomkey.stores.sqlite.errors import BAD_VALUE, advice, is_lock, is_permanent, is_space
from roomkey.stores.sqlite.file import (
    close_connection,
    make_file,
    open_connection,
    prepare,
    prepare_in_loop,
    same_file,
)
from roomkey.stores.sqlite.in_loop import InLoop, Work
from roomkey.stores.sqlite.log import Log

__all__ = ["Job", "Kind", "Worker", "running"]

_MOST_AT_ONCE = 256  # operations in one batch: bounds how long the first of them waits for the others
_PATIENCE = 1.0  # seconds for which an operation waits for another process's lock
_BUSY_TIMEOUT = 0.05  # seconds for which SQLite itself waits while the file is opened
# Seconds between two tries. They begin short, for others' writes are. SQLite's own pauses are longer: beside a process
# that writes without a gap in its event loop, it found the lock free a third as often.
_PAUSE_LEAST, _PAUSE_MOST = 0.0002, 0.005
_PAGES_BACK = 2000  # pages (8 MB) that one purge gives back at most: bounds how long it keeps the others waiting


class Kind(Enum):
    OPEN = auto()
    READ = auto()
    WRITE = auto()
    PURGE = auto()
    CLOSE = auto()

    @property
    def writes(self) -> bool:
        return self is Kind.WRITE or self is Kind.PURGE


class _Order(Enum):
    """What the thread is told beside the jobs."""

    SHORTEN = auto()  # the log


class Job:
    """One operation on its way to the thread and back."""

    __slots__ = ("args", "delivered", "error", "future", "give_up", "kind", "loop", "pages", "result", "work")

    def __init__(self, kind: Kind, work: Work, args: tuple[Any, ...], pages: int = 1) -> None:
        self.kind: Kind = kind
        self.pages: int = pages  # of the file that it changes, about
        self.work: Work = work
        self.args: tuple[Any, ...] = args
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()
        self.result: Any = None
        self.error: BaseException | None = None
        self.give_up: float | None = None  # on time.monotonic; None: no lock was in its way yet
        self.delivered: bool = False  # its result and error are final


class Worker:
    """The thread, its connections, and the queue between it and the event loops.

    It knows the path and the clock, not the store: a store that nobody holds any longer can go.
    """

    def __init__(self, path: Path, clock: Callable[[], float], synchronous: str, *, writes_in_loop: bool) -> None:
        self.jobs: queue.SimpleQueue[Job | _Order | None] = queue.SimpleQueue()  # None: the store was dropped
        self._log = Log(path, partial(self.jobs.put, _Order.SHORTEN))
        self.in_loop: InLoop = InLoop(path, clock, self._log, writes=writes_in_loop)
        self._path = path
        self._clock = clock
        self._synchronous = synchronous
        self._connection: sqlite3.Connection | None = None  # None: to be opened when next needed
        self._file: os.stat_result | None = None  # of the opened file
        self._waiting: list[Job] = []  # a lock was in their way; to be tried again
        self._pause = _PAUSE_LEAST  # seconds until then
        self._busy = threading.Lock()  # held while the thread works with the connection
        # A daemon: an app that forgets `close` can still exit. Whatever was acknowledged has been committed.
        self.thread: threading.Thread = threading.Thread(target=self._run, name=f"roomkey-{path.name}", daemon=True)
        running.add(self)
        self.thread.start()

    @property
    def reader(self) -> sqlite3.Connection | None:
        """The connection of the event loops. None: leave everything to the thread."""
        return self.in_loop.connection

    def put(self, job: Job) -> None:
        """Give the thread a job. Under the store's lock."""
        if job.kind.writes:
            self.in_loop.gate.asked += 1
        self.jobs.put(job)

    def pause(self) -> None:
        """Let the thread finish its batch, hold it there, and close the connections."""
        self._busy.acquire()
        self._disconnect()

    def resume(self) -> None:
        """Let the thread go on."""
        self._busy.release()

    def _run(self) -> None:
        closing: list[Job] = []
        dropped = False
        taken = 0  # writes
        while not (dropped or closing) or self._waiting:
            orders = self._take()
            jobs = [job for job in orders if isinstance(job, Job)]
            closing += [job for job in jobs if job.kind is Kind.CLOSE]
            dropped = dropped or None in orders
            taken += sum(job.kind.writes for job in jobs)
            batch = [*self._waiting, *(job for job in jobs if job.kind is not Kind.CLOSE)]
            self._waiting = []
            with self._busy:
                if batch:
                    self._serve(batch)
                self._pause = min(2 * self._pause, _PAUSE_MOST) if self._waiting else _PAUSE_LEAST
                # Those that were cancelled are done too, and none counts twice.
                self.in_loop.gate.finished = taken - sum(job.kind.writes for job in self._waiting)
                if _Order.SHORTEN in orders:
                    self._log.shorten(self._connection, self.in_loop.no_writes)
            del orders, jobs, batch  # or they would keep their futures alive until the next batch
        with self._busy:
            self._disconnect()
        self._deliver(closing)

    def _take(self) -> list[Job | _Order | None]:
        """Return all that is in the queue. Waits for something, unless jobs wait for another try."""
        orders: list[Job | _Order | None] = []
        try:
            orders.append(self.jobs.get(timeout=self._pause if self._waiting else None))
            while len(orders) < _MOST_AT_ONCE:
                orders.append(self.jobs.get_nowait())
        except queue.Empty:
            pass
        return orders

    def _serve(self, jobs: list[Job]) -> None:
        """Do every job and deliver its outcome, or put it among those that wait. Never raises."""
        try:
            self._do(jobs)
        except BaseException as error:  # a clock that raises, no memory: the thread goes on, and holds no lock
            if self._connection is not None:
                self._roll_back(self._connection)
            jobs = [job for job in jobs if not job.delivered and job not in self._waiting]
            for job in jobs:
                job.error = StoreUnavailable(f"SQLite file {str(self._path)!r}: {type(error).__name__} in its thread")
                job.error.__cause__ = error
            self._deliver(jobs)

    def _do(self, jobs: list[Job]) -> None:
        # Nobody waits for a cancelled one: under overload this is what lets the queue shrink.
        jobs = [job for job in jobs if not job.future.cancelled()]
        reads = [job for job in jobs if job.kind is Kind.READ or job.kind is Kind.OPEN]
        writes = [job for job in jobs if job.kind.writes]
        try:
            connection = self._connect()
        except Exception as error:
            self._refuse(jobs, error)
            return
        if reads:
            self._read(connection, reads)
        if writes and self._connection is not None:
            self._write(connection, writes)
        elif writes:  # the reads met a fault that took the connection along
            self._waiting += writes

    def _read(self, connection: sqlite3.Connection, jobs: list[Job]) -> None:
        now = self._clock()
        done: list[Job] = []
        for job in jobs:
            if self._connection is not connection:  # a fault in an earlier one took it along
                self._waiting.append(job)
                continue
            try:
                job.result = job.work(connection, now, *job.args)
                done.append(job)
            except Exception as error:
                self._refuse([job], error)
        self._deliver(done)

    def _write(self, connection: sqlite3.Connection, jobs: list[Job]) -> None:
        """Run the jobs in one transaction. Where one of them fails, each gets a transaction of its own."""
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            self._refuse(jobs, error)
            return
        try:
            now = self._clock()  # after the wait for the lock
            for job in jobs:
                try:
                    job.result = job.work(connection, now, *job.args)
                except Conflict as conflict:
                    job.error = conflict
        except Exception as error:
            self._roll_back(connection)
            if len(jobs) == 1:
                self._refuse(jobs, error)
                return
            # One bad value must not cost the others their save; and on a full disk a deletion may still go through.
            for job in jobs:
                job.error = None
                if self._connection is connection:
                    self._write(connection, [job])
                else:
                    self._waiting.append(job)
            return
        try:
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back(connection)
            for job in jobs:
                job.error = None
            self._refuse(jobs, error, again=False)  # part of it may be on the disk: no second try unasked
            return
        self._log.count(sum(job.pages for job in jobs))
        purges = [job for job in jobs if job.kind is Kind.PURGE]
        self._deliver([job for job in jobs if job.kind is not Kind.PURGE])
        if purges:
            self._give_back(connection)
            self._deliver(purges)

    def _roll_back(self, connection: sqlite3.Connection) -> None:
        try:
            if connection.in_transaction:  # SQLite has rolled back itself after some errors
                connection.execute("ROLLBACK")
        except Exception:
            self._disconnect()

    def _give_back(self, connection: sqlite3.Connection) -> None:
        """Let the file shrink. What does not work now will be done by the next purge."""
        try:
            # Not `execute`: it makes one step of a statement without columns, and each page given back is a step.
            connection.executescript(f"PRAGMA incremental_vacuum({_PAGES_BACK})")
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except Exception as error:
            if not is_lock(error):
                self._disconnect(reader=not is_space(error))

    # Failures

    def _refuse(self, jobs: list[Job], error: Exception, *, again: bool = True) -> None:
        """Say that the jobs failed; those that a lock was in the way of get another try, for a while."""
        if isinstance(error, sqlite3.Error) and not isinstance(error, BAD_VALUE) and not is_lock(error):
            # The next one starts afresh: the fault may be mended by then. On a full disk that may not work, so what
            # reads stays open.
            self._disconnect(reader=not is_space(error) or any(job.kind is Kind.READ for job in jobs))
        refused: list[Job] = []
        if is_lock(error):
            self.in_loop.gate.rest()
        for job in jobs:
            if again and is_lock(error):
                job.give_up = job.give_up or time.monotonic() + _PATIENCE
                if time.monotonic() < job.give_up:
                    self._waiting.append(job)
                    continue
            job.error = self._explain(job, error)
            refused.append(job)
        self._deliver(refused)

    def _explain(self, job: Job, error: Exception) -> Exception:
        """Return a new exception for each job: a shared one would collect the tracebacks of all."""
        if isinstance(error, ConfigurationError):
            explained: Exception = (ConfigurationError if job.kind is Kind.OPEN else StoreUnavailable)(str(error))
        elif isinstance(error, sqlite3.Error | OSError) and not isinstance(error, BAD_VALUE):
            explained = StoreUnavailable(advice(self._path, error))
        else:
            return error
        explained.__cause__ = error
        return explained

    def _deliver(self, jobs: list[Job]) -> None:
        """Wake each event loop once, whatever the number of its jobs."""
        self.in_loop.gate.finished += sum(job.kind.writes for job in jobs)
        by_loop: dict[asyncio.AbstractEventLoop, list[Job]] = {}
        for job in jobs:
            job.delivered = True
            by_loop.setdefault(job.loop, []).append(job)
        for loop, theirs in by_loop.items():
            try:
                loop.call_soon_threadsafe(_settle, theirs)
            except RuntimeError:
                pass  # that loop is closed: nobody waits

    # The connection

    def _connect(self) -> sqlite3.Connection:
        if self._connection is not None:
            if same_file(self._path, self._file):
                return self._connection
            self._disconnect()
        make_file(self._path)
        connection = open_connection(self._path, timeout=_BUSY_TIMEOUT)
        try:
            prepare(connection, self._path, self._synchronous)
            connection.execute("PRAGMA busy_timeout = 0")  # from here on we wait ourselves
            file = os.stat(self._path)
            if self.reader is None or not same_file(self._path, self._file):
                reader = open_connection(self._path, timeout=0)
                prepare_in_loop(reader, self._synchronous)
                self.in_loop.open(reader, file)
        except sqlite3.Error as error:
            connection.close()
            if is_permanent(error):
                raise ConfigurationError(advice(self._path, error)) from error
            raise
        except BaseException:
            connection.close()
            raise
        self._connection, self._file = connection, file
        return connection

    def _disconnect(self, *, reader: bool = True) -> None:
        if reader:
            self.in_loop.open(None, None)
        connection, self._connection = self._connection, None
        close_connection(connection)


running: weakref.WeakSet[Worker] = weakref.WeakSet()  # a thread holds its worker until it ends


def _settle(jobs: Iterable[Job]) -> None:
    """In the event loop: hand the outcomes to those who still wait."""
    for job in jobs:
        if job.future.done():  # cancelled meanwhile
            continue
        if job.error is None:
            job.future.set_result(job.result)
        else:
            job.future.set_exception(job.error)
