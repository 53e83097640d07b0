"""Every store of Roomkey's own that needs no server passes the published suite."""

from __future__ import annotations

import tempfile
from pathlib import Path

from roomkey.stores.base import Store
from roomkey.stores.memory import MemoryStore
from roomkey.stores.sqlite import SQLiteStore
from roomkey.testing import Clock, StoreContract


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
