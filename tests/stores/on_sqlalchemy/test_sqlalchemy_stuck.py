"""A driver of SQLite's that never says that a connection is closed, or taken back: it holds up nobody for ever."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from typing import Any

import aiosqlite
import pytest

from roomkey.stores.sqlalchemy import SQLAlchemyStore, operations
from tests.loop_clock import patience, until
from tests.stores.on_sqlalchemy.databases import Database
from tests.stores.records import make_key, make_record


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "_GIVE_UP", 0.05)
    monkeypatch.setattr(operations, "_STUCK", 0.1)


def _hang_once(monkeypatch: pytest.MonkeyPatch, named: str) -> list[str]:
    """Let the next call of a connection's method hang; return a list that has its name from then on."""
    hung: list[str] = []
    method = getattr(aiosqlite.Connection, named)

    async def hang(connection: aiosqlite.Connection) -> Any:
        if not hung:
            hung.append(named)
            await asyncio.get_running_loop().create_future()
        return await method(connection)

    monkeypatch.setattr(aiosqlite.Connection, named, hang)
    return hung


async def _ends(operation: asyncio.Task[Any]) -> None:
    operation.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await operation


async def test_a_connection_that_does_not_close(on_sqlite: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """An operation is cancelled while it works, and its connection hangs: others get their turn all the same."""
    path = on_sqlite.url.partition("///")[2]
    async with on_sqlite.engine(connect_args={"timeout": 0.01}) as engine:
        store = SQLAlchemyStore(engine)
        await store.create_table()
        key = make_key()
        await store.create(key, make_record())
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other, patience(1):
            other.execute("BEGIN IMMEDIATE")
            hung = _hang_once(monkeypatch, "close")
            while not hung:  # until one of them is cancelled while it waits for the lock
                saving = asyncio.ensure_future(store.update(key, make_record(version=2), version=1))
                await asyncio.sleep(0.005)
                await _ends(saving)
            other.execute("ROLLBACK")
            async with asyncio.timeout(30):
                assert await store.load(key) is not None
        await store.close()


async def test_a_connection_that_is_not_taken_back(on_sqlite: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same where an operation is done, and the pool waits for its connection."""
    async with on_sqlite.engine() as engine:
        store = SQLAlchemyStore(engine)
        await store.create_table()
        key = make_key()
        await store.create(key, make_record())
        with patience(1):
            hung = _hang_once(monkeypatch, "rollback")
            loading = asyncio.ensure_future(store.load(key))
            await until(lambda: hung)
            await _ends(loading)
            async with asyncio.timeout(30):
                assert await store.load(key) is not None
        await store.close()
