"""The store's thread: it takes every operation that waits, and runs the writes in one transaction."""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from enum import Enum, auto
from pathlib import Path
from typing import Any

from roomkey.errors import ConfigurationError, StoreUnavailable
from roomkey.stores.base import Conflict
from roomkey.stores.sqlite.errors import BAD_VALUE, advice, is_lock, is_permanent, is_space
from roomkey.stores.sqlite.file import close_connection, identity, make_file, open_connection, prepare

__all__ = ["Job", "Kind", "Work", "Worker", "running"]

_MOST_AT_ONCE = 256  # operations in one batch: bounds how long the first of them waits for the others
_PATIENCE = 1.0  # seconds for which an operation waits for another process's lock
_BUSY_TIMEOUT = 0.05  # seconds of it that SQLite waits at a time: meanwhile nobody else's read is served
_PAUSE = 0.005  # seconds between two tries
_PAGES_BACK = 2000  # pages (8 MB) that one purge gives back at most: bounds how long it keeps the others waiting

Work = Callable[..., Any]  # called with the connection, the time in Unix seconds, and the job's arguments


class Kind(Enum):
    OPEN = auto()
    READ = auto()
    WRITE = auto()
    PURGE = auto()
    CLOSE = auto()


class Job:
    """One operation on its way to the thread and back."""

    __slots__ = ("args", "error", "future", "give_up", "kind", "loop", "result", "work")

    def __init__(self, kind: Kind, work: Work, args: tuple[Any, ...]) -> None:
        self.kind = kind
        self.work = work
        self.args = args
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()
        self.result: Any = None
        self.error: BaseException | None = None
        self.give_up: float | None = None  # on time.monotonic; None: no lock was in its way yet


class Worker:
    """The thread, its connections, and the queue between it and the event loops.

    It knows the path and the clock, not the store: a store that nobody holds any longer can go.
    """

    def __init__(self, path: Path, clock: Callable[[], float], synchronous: str) -> None:
        self.jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()  # None: the store was dropped
        self.reader: sqlite3.Connection | None = None  # for reads in the event loops; None: leave them to the thread
        self.reading = threading.Lock()  # held while `reader` is used or closed: there may be several event loops
        self._path = path
        self._clock = clock
        self._synchronous = synchronous
        self._connection: sqlite3.Connection | None = None  # None: to be opened when next needed
        self._file: tuple[int, int] | None = None  # device and inode of the opened file
        self._waiting: list[Job] = []  # a lock was in their way; to be tried again
        self._busy = threading.Lock()  # held while the thread works with the connection
        # A daemon: an app that forgets `close` can still exit. Whatever was acknowledged has been committed.
        self.thread = threading.Thread(target=self._run, name=f"roomkey-{path.name}", daemon=True)
        running.add(self)
        self.thread.start()

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
        while not (dropped or closing) or self._waiting:
            jobs = self._take()
            closing += [job for job in jobs if job is not None and job.kind is Kind.CLOSE]
            dropped = dropped or None in jobs
            batch = [*self._waiting, *(job for job in jobs if job is not None and job.kind is not Kind.CLOSE)]
            self._waiting = []
            if batch:
                with self._busy:
                    self._serve(batch)
            del jobs, batch  # or they would keep their futures alive until the next batch
        with self._busy:
            self._disconnect()
        self._deliver(closing)

    def _take(self) -> list[Job | None]:
        """Return all jobs in the queue. Waits for one, unless some wait for another try."""
        jobs: list[Job | None] = []
        try:
            # The timeout: SQLite does not wait for every kind of lock, and the thread must not spin then.
            jobs.append(self.jobs.get(timeout=_PAUSE if self._waiting else None))
            while len(jobs) < _MOST_AT_ONCE:
                jobs.append(self.jobs.get_nowait())
        except queue.Empty:
            pass
        return jobs

    def _serve(self, jobs: list[Job]) -> None:
        """Do every job and deliver its outcome, or put it among those that wait. Never raises."""
        try:
            self._do(jobs)
        except BaseException as error:  # a clock that raises, no memory: the thread goes on, and holds no lock
            if self._connection is not None:
                self._roll_back(self._connection)
            jobs = [job for job in jobs if job not in self._waiting]
            for job in jobs:
                job.error = StoreUnavailable(f"SQLite file {str(self._path)!r}: {type(error).__name__} in its thread")
                job.error.__cause__ = error
            self._deliver(jobs)  # those that have their answer already keep it

    def _do(self, jobs: list[Job]) -> None:
        # Nobody waits for a cancelled one: under overload this is what lets the queue shrink.
        jobs = [job for job in jobs if not job.future.cancelled()]
        reads = [job for job in jobs if job.kind is Kind.READ or job.kind is Kind.OPEN]
        writes = [job for job in jobs if job.kind is Kind.WRITE or job.kind is Kind.PURGE]
        try:
            connection = self._connect(writes=bool(writes))
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
        self._deliver(jobs)
        if any(job.kind is Kind.PURGE for job in jobs):
            self._give_back(connection)

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
        except sqlite3.Error as error:
            if not is_lock(error):
                self._disconnect()

    # Failures

    def _refuse(self, jobs: list[Job], error: Exception, *, again: bool = True) -> None:
        """Say that the jobs failed; those that a lock was in the way of get another try, for a while."""
        if isinstance(error, sqlite3.Error) and not isinstance(error, BAD_VALUE) and not is_lock(error):
            # The next one starts afresh: the fault may be mended by then. On a full disk that may not work, so what
            # reads stays open.
            self._disconnect(reader=not is_space(error) or any(job.kind is Kind.READ for job in jobs))
        refused: list[Job] = []
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
        by_loop: dict[asyncio.AbstractEventLoop, list[Job]] = {}
        for job in jobs:
            by_loop.setdefault(job.loop, []).append(job)
        for loop, theirs in by_loop.items():
            try:
                loop.call_soon_threadsafe(_settle, theirs)
            except RuntimeError:
                pass  # that loop is closed: nobody waits

    # The connection

    def _connect(self, *, writes: bool) -> sqlite3.Connection:
        if self._connection is not None:
            # A file that was deleted or replaced would swallow what is written to it. (1 µs; reads do not need it.)
            if not writes or self._file == identity(self._path):
                return self._connection
            self._disconnect()
        make_file(self._path)
        connection = open_connection(self._path, timeout=_BUSY_TIMEOUT)
        try:
            prepare(connection, self._path, self._synchronous)
            file = identity(self._path)
            if self.reader is None or self._file != file:
                reader = open_connection(self._path, timeout=0)
                with self.reading:
                    close_connection(self.reader)
                    self.reader = reader
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
            with self.reading:
                close_connection(self.reader)
                self.reader = None
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
