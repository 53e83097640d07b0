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

import asyncio
import errno
import os
import queue
import sqlite3
import stat
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from enum import Enum, auto
from pathlib import Path
from typing import Any, Literal

from roomkey.errors import ConfigurationError, StoreUnavailable
from roomkey.stores.base import Conflict, Record

__all__ = ["SQLiteStore"]

_APPLICATION_ID = 0x526F6F6D  # "Room" in the file's header, where `file` and we recognise it
_SCHEMA = 1  # PRAGMA user_version; counts up when the table changes
_MOST_AT_ONCE = 256  # operations in one batch: bounds how long the first of them waits for the others
_PATIENCE = 1.0  # seconds for which an operation waits for another process's lock
_BUSY_TIMEOUT = 0.05  # seconds of it that SQLite waits at a time: meanwhile nobody else's read is served
_PAUSE = 0.005  # seconds between two tries
_PAGES_BACK = 2000  # pages (8 MB) that one purge gives back at most: bounds how long it keeps the others waiting
_LOG_LIMIT = 4 * 1024 * 1024  # bytes of write-ahead log that stay when all of it was moved into the file

_FIELDS = "data, version, created_at, expires_at, user, successor, serve_until, ip, user_agent"  # as in Record
# Not WITHOUT ROWID: each entry of an index would then hold a copy of the 64-digit key. Measured: creating a session
# took 65 µs instead of 24, updating one 51 instead of 12, and the file was a quarter larger.
_CREATE_TABLE = """
CREATE TABLE session (
    key TEXT PRIMARY KEY NOT NULL,
    data BLOB NOT NULL,
    version INTEGER NOT NULL,
    created_at REAL NOT NULL,
    expires_at REAL NOT NULL,
    user TEXT,
    successor TEXT,
    serve_until REAL NOT NULL,
    ip TEXT,
    user_agent TEXT
)
"""
_CREATE_EXPIRY_INDEX = "CREATE INDEX session_expires_at ON session (expires_at)"
_CREATE_USER_INDEX = "CREATE INDEX session_user ON session (user) WHERE user IS NOT NULL"

_LOAD = f"SELECT {_FIELDS} FROM session WHERE key = ? AND expires_at > ?"
# An expired record is absent: an insert that meets one replaces it, and otherwise changes no row.
_INSERT = f"""
INSERT INTO session (key, {_FIELDS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET
    data = excluded.data, version = excluded.version, created_at = excluded.created_at,
    expires_at = excluded.expires_at, user = excluded.user, successor = excluded.successor,
    serve_until = excluded.serve_until, ip = excluded.ip, user_agent = excluded.user_agent
WHERE session.expires_at <= ?
"""
_UPDATE = """
UPDATE session SET
    data = ?, version = ?, created_at = ?, expires_at = ?, user = ?, successor = ?, serve_until = ?, ip = ?,
    user_agent = ?
WHERE key = ? AND version = ? AND successor IS NULL AND expires_at > ?
"""
_TAKEN = "SELECT 1 FROM session WHERE key = ? AND expires_at > ?"
_TOUCH = """
UPDATE session SET expires_at = max(expires_at, ?) WHERE key = ? AND successor IS NULL AND expires_at > ?
"""
_DELETE = "DELETE FROM session WHERE key = ?"
_PURGE = "DELETE FROM session WHERE rowid IN (SELECT rowid FROM session WHERE expires_at <= ? LIMIT ?)"
_WIPE = "DELETE FROM session"
_OF_USER = f"SELECT key, {_FIELDS} FROM session WHERE user = ? AND successor IS NULL AND expires_at > ?"


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
        self._worker: _Worker | None = None  # None: not used yet, or closed, or this is a fork's child
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
        await self._ask(_Kind.OPEN, _nothing)

    async def close(self) -> None:
        """Finish what was asked before, close the file and end the thread."""
        with self._lock:
            worker, self._worker = self._worker, None
            if worker is None:
                return
            job = _Job(_Kind.CLOSE, _nothing, ())
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
                        return _load(worker.reader, self._clock(), key)
                    except sqlite3.Error:
                        pass  # a lock, or a fault: the thread waits, opens the file anew, or says what is wrong
        record: Record | None = await self._ask(_Kind.READ, _load, key)
        return record

    async def create(self, key: str, record: Record) -> None:
        """Put a new record under `key`. Raises `Conflict` when a live one is there."""
        await self._ask(_Kind.WRITE, _create, key, record)

    async def update(self, key: str, record: Record, *, version: int) -> None:
        """Replace the live record under `key`. Raises `Conflict` when it is gone, moved on, or has another version."""
        await self._ask(_Kind.WRITE, _update, key, record, version)

    async def rotate(self, key: str, new_key: str, record: Record, tombstone: Record, *, version: int) -> None:
        """Put `record` under `new_key` and `tombstone` under `key`. Raises `Conflict` and then changes nothing."""
        await self._ask(_Kind.WRITE, _rotate, key, new_key, record, tombstone, version)

    async def touch(self, key: str, expires_at: float) -> bool:
        """Let the live record under `key` expire later; return whether there is one that is no tombstone."""
        there: bool = await self._ask(_Kind.WRITE, _touch, key, expires_at)
        return there

    async def delete(self, key: str) -> None:
        """Remove whatever is under `key`."""
        await self._ask(_Kind.WRITE, _delete, key)

    async def purge(self, limit: int) -> int:
        """Remove at most `limit` expired records; return how many went. Then give free pages back to the disk."""
        count: int = await self._ask(_Kind.PURGE, _purge, limit)
        return count

    async def of_user(self, user: str) -> list[tuple[str, Record]]:
        """Return key and record of every live session of `user`."""
        sessions: list[tuple[str, Record]] = await self._ask(_Kind.READ, _of_user, user)
        return sessions

    async def wipe(self) -> None:
        """End every session. SQLite drops whole pages when it deletes without a condition."""
        await self._ask(_Kind.WRITE, _wipe)

    async def _ask(self, kind: _Kind, work: _Work, *args: Any) -> Any:
        job = _Job(kind, work, args)
        with self._lock:
            if self._worker is None:
                self._worker = _Worker(self._path, self._clock, self._synchronous)
            self._worker.jobs.put(job)
        return await job.future

    def __del__(self) -> None:
        # A store that was dropped without `close`: its thread must not live on. (None yet when __init__ has raised.)
        worker = getattr(self, "_worker", None)
        if worker is not None:
            worker.jobs.put(None)

    # Around os.fork

    def _pause(self) -> None:
        self._lock.acquire()
        if self._worker is not None:
            self._worker.pause()

    def _resume(self) -> None:
        if self._worker is not None:
            self._worker.resume()
        self._lock.release()

    def _forget(self) -> None:
        """In the child: the thread was not forked, and its locks may be held for ever."""
        if self._worker is not None:
            _abandoned.append(self._worker)
        self._worker = None
        self._lock = threading.Lock()


_Work = Callable[..., Any]  # called with the connection, the time in Unix seconds, and the job's arguments


# What is done in the thread. Each of these changes nothing before its last reason to raise Conflict: nothing has to be
# undone, and one transaction can hold many of them.


def _nothing(connection: sqlite3.Connection, now: float) -> None:
    pass


def _load(connection: sqlite3.Connection, now: float, key: str) -> Record | None:
    row = connection.execute(_LOAD, (key, now)).fetchone()
    return None if row is None else Record(*row)


def _create(connection: sqlite3.Connection, now: float, key: str, record: Record) -> None:
    if connection.execute(_INSERT, (key, *_row(record), now)).rowcount != 1:
        raise Conflict


def _update(connection: sqlite3.Connection, now: float, key: str, record: Record, version: int) -> None:
    if connection.execute(_UPDATE, (*_row(record), key, version, now)).rowcount != 1:
        raise Conflict


def _rotate(
    connection: sqlite3.Connection,
    now: float,
    key: str,
    new_key: str,
    record: Record,
    tombstone: Record,
    version: int,
) -> None:
    if connection.execute(_TAKEN, (new_key, now)).fetchone() is not None:
        raise Conflict
    _update(connection, now, key, tombstone, version)
    _create(connection, now, new_key, record)


def _touch(connection: sqlite3.Connection, now: float, key: str, expires_at: float) -> bool:
    return connection.execute(_TOUCH, (expires_at, key, now)).rowcount == 1


def _delete(connection: sqlite3.Connection, now: float, key: str) -> None:
    connection.execute(_DELETE, (key,))


def _purge(connection: sqlite3.Connection, now: float, limit: int) -> int:
    return connection.execute(_PURGE, (now, limit)).rowcount


def _wipe(connection: sqlite3.Connection, now: float) -> None:
    connection.execute(_WIPE)


def _of_user(connection: sqlite3.Connection, now: float, user: str) -> list[tuple[str, Record]]:
    return [(row[0], Record(*row[1:])) for row in connection.execute(_OF_USER, (user, now))]


def _row(record: Record) -> tuple[Any, ...]:
    return (
        record.data,
        record.version,
        record.created_at,
        record.expires_at,
        record.user,
        record.successor,
        record.serve_until,
        record.ip,
        record.user_agent,
    )


class _Kind(Enum):
    OPEN = auto()
    READ = auto()
    WRITE = auto()
    PURGE = auto()
    CLOSE = auto()


class _Job:
    """One operation on its way to the thread and back."""

    __slots__ = ("args", "error", "future", "give_up", "kind", "loop", "result", "work")

    def __init__(self, kind: _Kind, work: _Work, args: tuple[Any, ...]) -> None:
        self.kind = kind
        self.work = work
        self.args = args
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()
        self.result: Any = None
        self.error: BaseException | None = None
        self.give_up: float | None = None  # on time.monotonic; None: no lock was in its way yet


class _Worker:
    """The thread, its connections, and the queue between it and the event loops.

    It knows the path and the clock, not the store: a store that nobody holds any longer can go.
    """

    def __init__(self, path: Path, clock: Callable[[], float], synchronous: str) -> None:
        self.jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()  # None: the store was dropped
        self.reader: sqlite3.Connection | None = None  # for reads in the event loops; None: leave them to the thread
        self.reading = threading.Lock()  # held while `reader` is used or closed: there may be several event loops
        self._path = path
        self._clock = clock
        self._synchronous = synchronous
        self._connection: sqlite3.Connection | None = None  # None: to be opened when next needed
        self._file: tuple[int, int] | None = None  # device and inode of the opened file
        self._waiting: list[_Job] = []  # a lock was in their way; to be tried again
        self._busy = threading.Lock()  # held while the thread works with the connection
        # A daemon: an app that forgets `close` can still exit. Whatever was acknowledged has been committed.
        self.thread = threading.Thread(target=self._run, name=f"roomkey-{path.name}", daemon=True)
        self.thread.start()

    def pause(self) -> None:
        """Let the thread finish its batch, hold it there, and close the connections."""
        self._busy.acquire()
        self._disconnect()

    def resume(self) -> None:
        """Let the thread go on."""
        self._busy.release()

    def _run(self) -> None:
        closing: list[_Job] = []
        dropped = False
        while not (dropped or closing) or self._waiting:
            jobs = self._take()
            closing += [job for job in jobs if job is not None and job.kind is _Kind.CLOSE]
            dropped = dropped or None in jobs
            batch = [*self._waiting, *(job for job in jobs if job is not None and job.kind is not _Kind.CLOSE)]
            self._waiting = []
            if batch:
                with self._busy:
                    self._serve(batch)
            del jobs, batch  # or they would keep their futures alive until the next batch
        with self._busy:
            self._disconnect()
        self._deliver(closing)

    def _take(self) -> list[_Job | None]:
        """Return all jobs in the queue. Waits for one, unless some wait for another try."""
        jobs: list[_Job | None] = []
        try:
            # The timeout: SQLite does not wait for every kind of lock, and the thread must not spin then.
            jobs.append(self.jobs.get(timeout=_PAUSE if self._waiting else None))
            while len(jobs) < _MOST_AT_ONCE:
                jobs.append(self.jobs.get_nowait())
        except queue.Empty:
            pass
        return jobs

    def _serve(self, jobs: list[_Job]) -> None:
        """Do every job and deliver its outcome, or put it among those that wait."""
        # Nobody waits for a cancelled one: under overload this is what lets the queue shrink.
        jobs = [job for job in jobs if not job.future.cancelled()]
        reads = [job for job in jobs if job.kind is _Kind.READ or job.kind is _Kind.OPEN]
        writes = [job for job in jobs if job.kind is _Kind.WRITE or job.kind is _Kind.PURGE]
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

    def _read(self, connection: sqlite3.Connection, jobs: list[_Job]) -> None:
        now = self._clock()
        done: list[_Job] = []
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

    def _write(self, connection: sqlite3.Connection, jobs: list[_Job]) -> None:
        """Run the jobs in one transaction. Where one of them fails, each gets a transaction of its own."""
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            self._refuse(jobs, error)
            return
        now = self._clock()  # after the wait for the lock
        try:
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
        if any(job.kind is _Kind.PURGE for job in jobs):
            self._give_back(connection)

    def _roll_back(self, connection: sqlite3.Connection) -> None:
        try:
            if connection.in_transaction:  # SQLite has rolled back itself after some errors
                connection.execute("ROLLBACK")
        except sqlite3.Error:
            self._disconnect()

    def _give_back(self, connection: sqlite3.Connection) -> None:
        """Let the file shrink. What does not work now will be done by the next purge."""
        try:
            # Not `execute`: it makes one step of a statement without columns, and each page given back is a step.
            connection.executescript(f"PRAGMA incremental_vacuum({_PAGES_BACK})")
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except sqlite3.Error as error:
            if not _is_lock(error):
                self._disconnect()

    # Failures

    def _refuse(self, jobs: list[_Job], error: Exception, *, again: bool = True) -> None:
        """Say that the jobs failed; those that a lock was in the way of get another try, for a while."""
        if isinstance(error, sqlite3.Error) and not isinstance(error, _BAD_VALUE) and not _is_lock(error):
            self._disconnect()  # the next one starts afresh: the fault may be mended by then
        refused: list[_Job] = []
        for job in jobs:
            if again and _is_lock(error):
                job.give_up = job.give_up or time.monotonic() + _PATIENCE
                if time.monotonic() < job.give_up:
                    self._waiting.append(job)
                    continue
            job.error = self._explain(job, error)
            refused.append(job)
        self._deliver(refused)

    def _explain(self, job: _Job, error: Exception) -> Exception:
        """Return a new exception for each job: a shared one would collect the tracebacks of all."""
        if isinstance(error, ConfigurationError):
            explained: Exception = (ConfigurationError if job.kind is _Kind.OPEN else StoreUnavailable)(str(error))
        elif isinstance(error, sqlite3.Error | OSError) and not isinstance(error, _BAD_VALUE):
            explained = StoreUnavailable(_advice(self._path, error))
        else:
            return error
        explained.__cause__ = error
        return explained

    def _deliver(self, jobs: list[_Job]) -> None:
        """Wake each event loop once, whatever the number of its jobs."""
        by_loop: dict[asyncio.AbstractEventLoop, list[_Job]] = {}
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
            if not writes or self._file == _identity(self._path):
                return self._connection
            self._disconnect()
        _make_file(self._path)
        connection = _open(self._path, timeout=_BUSY_TIMEOUT)
        try:
            _prepare(connection, self._path, self._synchronous)
            self._file = _identity(self._path)
            reader = _open(self._path, timeout=0)
        except sqlite3.Error as error:
            connection.close()
            if _primary_code(error) in _PERMANENT:
                raise ConfigurationError(_advice(self._path, error)) from error
            raise
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        with self.reading:
            self.reader = reader
        return connection

    def _disconnect(self) -> None:
        with self.reading:
            _close(self.reader)
            self.reader = None
        connection, self._connection = self._connection, None
        _close(connection)


def _open(path: Path, *, timeout: float) -> sqlite3.Connection:
    return sqlite3.connect(
        f"{path.as_uri()}?mode=rw",  # only _make_file makes the file, with the permissions it needs
        uri=True,
        timeout=timeout,  # seconds
        isolation_level=None,  # BEGIN and COMMIT are ours
        check_same_thread=False,  # locks of ours see to it that one thread at a time uses it
    )


def _close(connection: sqlite3.Connection | None) -> None:
    if connection is not None:
        try:
            connection.close()
        except sqlite3.Error:
            pass  # a fault on the way out: what was acknowledged is in the log, which the next one reads


def _settle(jobs: Iterable[_Job]) -> None:
    """In the event loop: hand the outcomes to those who still wait."""
    for job in jobs:
        if job.future.done():  # cancelled meanwhile
            continue
        if job.error is None:
            job.future.set_result(job.result)
        else:
            job.future.set_exception(job.error)


# The file


def _make_file(path: Path) -> None:
    """Make an empty file for its owner only; take others' permissions from one that is there and ours."""
    with _making:
        try:
            # O_EXCL: closing a descriptor of a file in use would drop the locks that this process has on it.
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        except FileExistsError:
            pass
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.EIO):
                raise
            way_out = {
                errno.ENOENT: f"the directory {str(path.parent)!r} does not exist: make it, or correct the path",
                errno.ENOTDIR: f"{str(path.parent)!r} is no directory: correct the path",
            }.get(error.errno or 0, "give this process's user the right to write in its directory, or another path")
            raise ConfigurationError(
                f"SQLite file {str(path)!r} cannot be made ({os.strerror(error.errno or 0)}): {way_out}"
            ) from error
    if path.is_dir():
        raise ConfigurationError(f"SQLite file {str(path)!r} is a directory: give the path of a file in it")
    # Siblings that a crash left behind keep the permissions they had; new ones get the file's.
    for name in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
        try:
            found = name.stat()
            if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO) and found.st_uid == os.geteuid():
                name.chmod(stat.S_IMODE(found.st_mode) & stat.S_IRWXU)
        except FileNotFoundError:
            pass
        except OSError:
            pass  # read-only file system and the like: opening it will say so


def _prepare(connection: sqlite3.Connection, path: Path, synchronous: str) -> None:
    """Set the connection up, and make the table in a new file."""

    def pragma(text: str) -> Any:
        row = connection.execute(f"PRAGMA {text}").fetchone()
        return None if row is None else row[0]

    def is_ours() -> bool:
        """Whether our table is there. False: the file is empty."""
        application, version = pragma("application_id"), pragma("user_version")
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if application == 0 and version == 0 and tables == 0:
            return False
        if application != _APPLICATION_ID:
            raise ConfigurationError(
                f"SQLite file {str(path)!r} is another application's database: give sessions a file of their own"
            )
        if version != _SCHEMA:
            raise ConfigurationError(
                f"SQLite file {str(path)!r} has schema {version}, and this version of Roomkey knows {_SCHEMA}: "
                "run the version that made it or a newer one, or give another path"
            )
        return True

    # Before anything is changed in a file that may be somebody else's. In a transaction, because it reads more than
    # once, and another process may be making the table meanwhile.
    connection.execute("BEGIN")
    try:
        is_ours()
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    pragma("trusted_schema = OFF")  # SQLite's advice for files that others might have written
    pragma("auto_vacuum = INCREMENTAL")  # takes effect in an empty file only
    if pragma("journal_mode = WAL") != "wal":
        raise ConfigurationError(
            f"SQLite file {str(path)!r} is where write-ahead logging does not work (a network file system?): "
            "put it on a local disk"
        )
    pragma(f"synchronous = {synchronous}")
    pragma(f"journal_size_limit = {_LOG_LIMIT}")
    # Also in a file that is ready: finds out now whether it can be written.
    connection.execute("BEGIN IMMEDIATE")
    try:
        if not is_ours():  # asked again: another process may have been faster
            connection.execute(_CREATE_TABLE)
            connection.execute(_CREATE_EXPIRY_INDEX)
            connection.execute(_CREATE_USER_INDEX)
            pragma(f"application_id = {_APPLICATION_ID}")
            pragma(f"user_version = {_SCHEMA}")
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


# Errors: https://sqlite.org/rescode.html

# What SQLite says of a value that it cannot keep (a NaN, a set): the caller's fault, and the file is fine.
_BAD_VALUE = (sqlite3.DataError, sqlite3.IntegrityError, sqlite3.InterfaceError, sqlite3.ProgrammingError)

_ADVICE = {
    sqlite3.SQLITE_BUSY: "is locked by another process: find who holds it (fuser shows them) and end its transaction",
    sqlite3.SQLITE_LOCKED: "is locked by another process: find who holds it (fuser shows them) and end its transaction",
    sqlite3.SQLITE_FULL: "cannot grow: the disk is full or at its quota; free some space",
    sqlite3.SQLITE_IOERR: "cannot be read or written: the disk is full, at a limit or failing; see the system's log",
    sqlite3.SQLITE_READONLY: "cannot be written: give this process's user write permission on it and its directory",
    sqlite3.SQLITE_PERM: "cannot be written: give this process's user write permission on it and its directory",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened: check that its directory exists and that this process's user may "
    "read and write both",
    sqlite3.SQLITE_CORRUPT: "is damaged: stop the app and restore a backup, or move the file away with its -wal and "
    "-shm (a new one is made, and everybody logs in again)",
    sqlite3.SQLITE_NOTADB: "is no SQLite database: correct the path, or move the file away (a new one is made)",
    sqlite3.SQLITE_NOMEM: "cannot be used: the process is out of memory",
}
_PERMANENT = {
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_ERROR,
}


def _primary_code(error: BaseException) -> int:
    """The result code without its details, which are in the higher bits."""
    code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    return code & 0xFF


def _is_lock(error: Exception) -> bool:
    return isinstance(error, sqlite3.Error) and _primary_code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _advice(path: Path, error: sqlite3.Error | OSError) -> str:
    if isinstance(error, sqlite3.Error):
        what = _ADVICE.get(_primary_code(error), "cannot be used: if this goes on, restore a backup or move it away")
    else:
        what = "cannot be opened: see to it that the disk has space and the process may open more files"
    return f"SQLite file {str(path)!r} {what} ({error})"


# Around os.fork. Some servers fork in C and call the last of these hooks only: it relies on nothing before it.

_stores: weakref.WeakSet[SQLiteStore] = weakref.WeakSet()
_paused: list[SQLiteStore] = []
_abandoned: list[_Worker] = []  # their connections must not be closed in the child, so they are kept
_forking = threading.Lock()  # held while a fork is under way
_making = threading.Lock()  # held while a file is made


def _before_fork() -> None:
    _forking.acquire()
    _paused.extend(_stores)
    for store in _paused:
        store._pause()


def _after_fork_in_parent() -> None:
    for store in _paused:
        store._resume()
    _paused.clear()
    _forking.release()


def _after_fork_in_child() -> None:
    global _forking, _making
    _forking, _making = threading.Lock(), threading.Lock()
    _paused.clear()
    for store in list(_stores):
        store._forget()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
