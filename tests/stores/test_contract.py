"""Every store of Roomkey's own that needs no server passes the published suite."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import pytest

from roomkey.stores.base import Record, Store
from roomkey.stores.memory import MemoryStore
from roomkey.stores.sqlite import SQLiteStore
from roomkey.testing import Clock, StoreContract, bench


class TestMemoryStore(StoreContract):
    """The store in memory."""

    async def make(self, clock: Clock) -> Store:
        return MemoryStore(clock=clock)


class TestSQLiteStore(StoreContract):
    """The store in a file."""

    def setup_method(self) -> None:
        self.directory = tempfile.TemporaryDirectory()

    def teardown_method(self) -> None:
        self.directory.cleanup()

    async def make(self, clock: Clock) -> Store:
        return SQLiteStore(Path(self.directory.name) / "sessions.sqlite3", clock=clock)


class TestClockThatDoesNotMove(StoreContract):
    """The suite with real time, as stores use it whose engine has its own clock."""

    clock_moves = False

    async def make(self, clock: Clock) -> Store:
        return MemoryStore()


class _Slow(MemoryStore):
    async def create(self, key: str, record: Record) -> None:
        await super().create(key, record)
        await asyncio.sleep(0.02)


class _SlowAndForgetful(_Slow):
    async def update(self, key: str, record: Record, *, version: int) -> None:
        await self.delete(key)


@pytest.mark.parametrize("test", ["test_load_of_an_expired_record", "test_update_may_prolong", "test_touch_prolongs"])
def test_a_slow_store_of_real_time_gets_more_time(monkeypatch: pytest.MonkeyPatch, test: str) -> None:
    """A record that has expired before the test came to it says nothing of the store: the test is run again."""
    lives = (0.01, 0.5, 30.0)
    monkeypatch.setattr(bench, "_SHORT", lives)
    made = []

    class Suite(TestClockThatDoesNotMove):
        async def make(self, clock: Clock) -> Store:
            made.append(_Slow())
            return made[-1]

    getattr(Suite(), test)()
    assert 1 < len(made) <= len(lives)


def test_a_fault_of_a_slow_store_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """It fails with every life that its records may have."""
    monkeypatch.setattr(bench, "_SHORT", (0.01, 0.02))

    class Suite(TestClockThatDoesNotMove):
        async def make(self, clock: Clock) -> Store:
            return _SlowAndForgetful()

    with pytest.raises(AssertionError):
        Suite().test_update_may_prolong()
