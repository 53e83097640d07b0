"""Faults that are injected: none of them ends the store's thread or leaves a lock, and a full disk can be read.

What SQLite and the system report by themselves is in test_sqlite.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from roomkey.errors import StoreUnavailable
from roomkey.stores.base import Record
from roomkey.stores.sqlite import SQLiteStore

KEY = "0f" * 32


def _record(**fields: Any) -> Record:
    now = time.time()
    return replace(Record(data=b"data", version=1, created_at=now, expires_at=now + 3600), **fields)


def _key(number: int) -> str:
    return f"{number:064x}"


def _error(code: int) -> sqlite3.Error:
    error = sqlite3.OperationalError("injected")
    error.sqlite_errorcode = code
    return error


class Faults:
    """What connections meet: `meet` is called with each statement before SQLite has it, and may raise."""

    def __init__(self) -> None:
        self.meet: Callable[[str], None] = lambda sql: None

    @contextlib.contextmanager
    def raising(self, error: type[BaseException], start: str) -> Iterator[None]:
        """Raise `error` at each statement that begins with `start`."""

        def meet(sql: str) -> None:
            if sql.lstrip().startswith(start):
                raise error("geheim")

        self.meet = meet
        yield
        self.meet = lambda sql: None


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Faults:
    faults = Faults()

    class Faulty(sqlite3.Connection):
        def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
            faults.meet(sql)
            return super().execute(sql, *args)

    monkeypatch.setattr(sqlite3, "connect", lambda *args, **options: _connect(*args, factory=Faulty, **options))
    return faults


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sessions.sqlite3"


_connect = sqlite3.connect  # without faults


def _can_be_written_by_others(path: Path) -> bool:
    with contextlib.closing(_connect(path, isolation_level=None, timeout=0)) as connection:
        connection.execute("BEGIN IMMEDIATE")
    return True


@pytest.mark.parametrize("error", [ValueError, MemoryError, KeyboardInterrupt, SystemExit, StopIteration])
async def test_the_thread_outlives_a_clock_that_raises(path: Path, error: type[BaseException]) -> None:
    """What was asked is refused, nobody is locked out, and the next operation works."""
    broken = False

    def clock() -> float:
        if broken:
            raise error("geheim")
        return time.time()

    store = SQLiteStore(path, clock=clock)
    await store.create(KEY, _record(user="ann"))
    broken = True
    # The list is read in the thread. The wipe is a write that only the thread does.
    outcomes = await asyncio.gather(store.of_user("ann"), store.wipe(), store.wipe(), return_exceptions=True)
    assert all(isinstance(outcome, ValueError | MemoryError | StoreUnavailable) for outcome in outcomes)
    assert not any("geheim" in str(outcome) for outcome in outcomes if isinstance(outcome, StoreUnavailable))
    assert _can_be_written_by_others(path)
    broken = False
    assert len(await store.of_user("ann")) == 1
    await store.wipe()
    assert await store.load(KEY) is None
    await store.close()


@pytest.mark.parametrize("statement", ["BEGIN IMMEDIATE", "ALTER", "COMMIT", "PRAGMA incremental_vacuum"])
@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt, SystemExit])
async def test_the_thread_outlives_what_is_raised_in_a_transaction(
    path: Path, faults: Faults, error: type[BaseException], statement: str
) -> None:
    """Wherever it is raised: the group is refused, the transaction is rolled back, and others are served."""
    store = SQLiteStore(path)
    await store.create(KEY, _record(user="ann"))
    with faults.raising(error, statement):
        outcomes = await asyncio.gather(store.wipe(), store.wipe(), return_exceptions=True)
    if statement.startswith("PRAGMA"):
        assert outcomes == [None, None]
    else:
        assert all(isinstance(outcome, StoreUnavailable | MemoryError) for outcome in outcomes)
        assert len({id(outcome) for outcome in outcomes}) == 2
        assert await store.load(KEY) is not None
    assert _can_be_written_by_others(path)
    await store.wipe()
    assert await store.purge(10) > 0
    await store.close()


async def test_a_lost_rollback_leaves_no_lock(path: Path, faults: Faults) -> None:
    """Where not even the rollback works, the connection is closed."""
    store = SQLiteStore(path)
    await store.create(KEY, _record())

    def meet(sql: str) -> None:
        if sql in ("COMMIT", "ROLLBACK"):
            raise MemoryError

    faults.meet = meet
    with pytest.raises((StoreUnavailable, MemoryError)):
        await store.wipe()
    assert _can_be_written_by_others(path)
    faults.meet = lambda sql: None
    assert await store.load(KEY) is not None
    await store.wipe()
    await store.close()


@pytest.mark.parametrize("code", [sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR])
async def test_a_full_disk_can_be_read(path: Path, faults: Faults, code: int) -> None:
    """While the disk takes nothing more, every load is answered, also where nothing can be opened."""
    store = SQLiteStore(path)
    await store.create(KEY, _record(user="ann"))

    def meet(sql: str) -> None:
        if sql.lstrip().startswith(("INSERT", "UPDATE", "PRAGMA auto_vacuum", "PRAGMA journal_mode", "COMMIT")):
            raise _error(code)

    faults.meet = meet
    for number in range(20):
        with pytest.raises(StoreUnavailable, match="disk"):
            await store.create(_key(number), _record())
        assert await store.load(KEY) is not None
    faults.meet = lambda sql: None
    await store.create(_key(1), _record())
    assert await store.load(_key(1)) is not None
    await store.close()


async def test_a_file_that_is_ready_is_opened_without_a_write(path: Path, faults: Faults) -> None:
    """A full disk keeps nobody from opening a file that is there."""
    store = SQLiteStore(path)
    await store.create(KEY, _record())
    sizes = path.stat().st_size, Path(f"{path}-wal").stat().st_size
    other = SQLiteStore(path)
    assert await other.load(KEY) is not None
    assert (path.stat().st_size, Path(f"{path}-wal").stat().st_size) == sizes
    await other.close()
    await store.close()
