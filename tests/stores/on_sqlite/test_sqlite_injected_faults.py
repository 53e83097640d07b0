"""Faults that are injected: none of them ends the store's thread or leaves a lock, and a full disk can be read.

What SQLite and the system report by themselves is in test_sqlite.py.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from pathlib import Path

import pytest

from roomkey.errors import StoreUnavailable
from roomkey.stores.sqlite import SQLiteStore, log
from tests.stores.sqlite_tools import KEY, Faults, error, is_free, key, record


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sessions.sqlite3"


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Faults:
    return Faults(monkeypatch)


@pytest.mark.parametrize("raised", [ValueError, MemoryError, KeyboardInterrupt, SystemExit, StopIteration])
async def test_the_thread_outlives_a_clock_that_raises(path: Path, raised: type[BaseException]) -> None:
    """What was asked is refused, nobody is locked out, and the next operation works."""
    broken = False

    def clock() -> float:
        if broken:
            raise raised("geheim")
        return time.time()

    store = SQLiteStore(path, clock=clock)
    await store.create(KEY, record(user="ann"))
    broken = True
    # The list is read in the thread. The wipe is a write that only the thread does.
    outcomes = await asyncio.gather(store.of_user("ann"), store.wipe(), store.wipe(), return_exceptions=True)
    assert all(isinstance(outcome, ValueError | MemoryError | StoreUnavailable) for outcome in outcomes)
    assert not any("geheim" in str(outcome) for outcome in outcomes if isinstance(outcome, StoreUnavailable))
    assert is_free(path)
    broken = False
    assert len(await store.of_user("ann")) == 1
    await store.wipe()
    assert await store.load(KEY) is None
    await store.close()


@pytest.mark.parametrize("statement", ["BEGIN IMMEDIATE", "ALTER", "COMMIT"])
@pytest.mark.parametrize("raised", [MemoryError, KeyboardInterrupt, SystemExit])
async def test_the_thread_outlives_what_is_raised_in_a_transaction(
    path: Path, faults: Faults, raised: type[BaseException], statement: str
) -> None:
    """Wherever it is raised: the group is refused, the transaction is rolled back, and others are served."""
    store = SQLiteStore(path)
    await store.create(KEY, record(user="ann"))
    with faults.raising(raised, statement):
        outcomes = await asyncio.gather(store.wipe(), store.wipe(), return_exceptions=True)
    assert all(isinstance(outcome, StoreUnavailable | MemoryError) for outcome in outcomes)
    assert len({id(outcome) for outcome in outcomes}) == 2
    assert await store.load(KEY) is not None
    assert is_free(path)
    await store.wipe()
    assert await store.purge(10) > 0
    await store.close()


@pytest.mark.parametrize("statement", ["PRAGMA wal_checkpoint", "PRAGMA application_id"])
async def test_the_thread_outlives_what_is_raised_beside_a_transaction(
    path: Path, faults: Faults, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    """A fault while the thread tidies up costs nobody their answer."""
    monkeypatch.setattr(log, "_DUE", 1)
    store = SQLiteStore(path)
    await store.create(KEY, record(expires_at=time.time() - 1))
    with faults.raising(MemoryError, statement) as met:
        assert await store.purge(10) == 1
        await store.wipe()
        await store.wipe()
        await store.close()
    assert met and is_free(path)


async def test_what_was_answered_before_a_fault_stays_answered(path: Path, faults: Faults) -> None:
    """Of a group that meets a fault half-way, those who were served before it hear what they asked for."""
    store = SQLiteStore(path)
    await store.create(KEY, record(user="ann"))
    worker = store._worker
    assert worker is not None
    for _ in range(20):
        with faults.raising(KeyboardInterrupt, "BEGIN IMMEDIATE"):
            with worker._busy:
                first = asyncio.ensure_future(store.of_user("ann"))
                await asyncio.sleep(0)
                while not worker.jobs.empty():
                    await asyncio.sleep(0)
                group = [asyncio.ensure_future(operation) for operation in (store.of_user("ann"), store.wipe())]
                await asyncio.sleep(0)
            lists = await asyncio.gather(first, group[0])
            assert [len(found) for found in lists] == [1, 1]
            with pytest.raises(StoreUnavailable):
                await group[1]
    await store.close()


async def test_a_lost_rollback_leaves_no_lock(path: Path, faults: Faults) -> None:
    """Where not even the rollback works, the connection is closed."""
    store = SQLiteStore(path)
    await store.create(KEY, record())
    with faults.raising(MemoryError, "COMMIT", "ROLLBACK"), pytest.raises((StoreUnavailable, MemoryError)):
        await store.wipe()
    assert is_free(path)
    assert await store.load(KEY) is not None
    await store.wipe()
    await store.close()


@pytest.mark.parametrize("code", [sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR])
async def test_a_full_disk_can_be_read(path: Path, faults: Faults, code: int) -> None:
    """While the disk takes nothing more, every load is answered, also where nothing can be opened."""
    store = SQLiteStore(path)
    await store.create(KEY, record(user="ann"))
    with faults.raising(lambda: error(code), "INSERT", "UPDATE", "PRAGMA auto_vacuum", "PRAGMA journal_mode", "COMMIT"):
        for number in range(20):
            with pytest.raises(StoreUnavailable, match="disk"):
                await store.create(key(number), record())
            assert await store.load(KEY) is not None
    await store.create(key(1), record())
    assert await store.load(key(1)) is not None
    await store.close()


async def test_a_file_that_is_ready_is_opened_without_a_write(path: Path, faults: Faults) -> None:
    """A full disk keeps nobody from opening a file that is there."""
    store = SQLiteStore(path)
    await store.create(KEY, record())
    sizes = path.stat().st_size, Path(f"{path}-wal").stat().st_size
    other = SQLiteStore(path)
    assert await other.load(KEY) is not None
    assert (path.stat().st_size, Path(f"{path}-wal").stat().st_size) == sizes
    await other.close()
    await store.close()
