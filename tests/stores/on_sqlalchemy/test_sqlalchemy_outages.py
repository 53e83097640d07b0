"""The SQLAlchemy store and connections that are lost or silent, and operations that are cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from roomkey.errors import StoreUnavailable
from roomkey.stores.base import Conflict
from roomkey.stores.guard import GuardedStore
from roomkey.stores.sqlalchemy import SQLAlchemyStore, operations
from tests.loop_clock import loop_time, patience
from tests.servers.mariadb import MariaDBServer
from tests.stores.on_sqlalchemy.databases import Database, count_busy, eventually, store_of
from tests.stores.records import make_key, make_record, make_tombstone

# --- Lost connections -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("whose", ["ours", "the app's"])
@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_restart_of_the_server(on_server: Database, how: str, whose: str) -> None:
    """After the server was restarted, no operation fails, whichever comes first: also those that are not repeatable."""
    server = on_server.server
    assert server is not None

    async def again() -> None:
        stop = server.stop if how == "stop" else server.kill
        await asyncio.gather(*(store.load(key) for _ in range(5)))  # several connections
        stop()
        server.start()
        await asyncio.sleep(0.05)  # the drivers hear of it: the sockets were closed before

    async with on_server.store() as made, on_server.engine() as engine:
        store = made if whose == "ours" else SQLAlchemyStore(engine, table=made.table.name)
        key, new_key = make_key(), make_key()
        await store.create(key, make_record(user="42"))
        await again()
        assert await store.load(key) is not None
        await again()
        await store.create(make_key(), make_record())
        await again()
        await store.update(key, make_record(version=2, user="42"), version=1)
        await again()
        assert await store.touch(key, time.time() + 7200)
        await again()
        await store.rotate(key, new_key, make_record(version=3, user="42"), make_tombstone(new_key), version=2)
        await again()
        assert [found for found, _ in await store.of_user("42")] == [new_key]
        await again()
        assert await store.purge(10) == 0
        await again()
        await store.delete(new_key)
        await again()
        await store.wipe()


async def test_restart_that_the_driver_did_not_notice(on_server: Database) -> None:
    """What is repeatable is repeated on a new connection; a swap says that it does not know, never Conflict."""
    server = on_server.server
    assert server is not None
    async with on_server.store() as store:
        key, new_key = make_key(), make_key()
        await store.create(key, make_record())
        server.restart()  # the event loop stands still meanwhile
        assert await store.load(key) is not None
        server.restart()
        await store.rotate(key, new_key, make_record(version=2), make_tombstone(new_key), version=1)
        server.restart()
        with pytest.raises(StoreUnavailable, match="connection to it was lost"):
            await store.update(new_key, make_record(version=3), version=2)
        assert await store.load(new_key) is not None


@contextlib.asynccontextmanager
async def _cut(server: MariaDBServer, at: bytes, after: bytes) -> AsyncIterator[int]:
    """A way to the server that is cut, once, when a client sends `at` after `after`. Yields its port."""
    cuts = 0
    writers: set[asyncio.StreamWriter] = set()
    tasks: list[Any] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool) -> None:
        nonlocal cuts
        seen = False
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                seen = seen or (up and after in data)
                if seen and at in data and not cuts:
                    cuts += 1
                    break
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.append(asyncio.current_task())
        writers.add(writer)
        with contextlib.suppress(asyncio.CancelledError):  # asyncio would log it
            there, back = await asyncio.open_connection("127.0.0.1", server.port)
            writers.add(back)
            await asyncio.gather(pump(reader, back, up=True), pump(there, writer, up=False))

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield listening.sockets[0].getsockname()[1]
        assert cuts == 1
    finally:
        listening.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for writer in writers:
            writer.transport.abort()


@pytest.mark.parametrize(("at", "works"), [(b"INSERT", True), (b"COMMIT", False)])
async def test_rotation_whose_connection_is_lost(on_mariadb: Database, at: bytes, works: bool) -> None:
    """A rotation that lost its connection before it was committed is run again; while it was, nobody knows."""
    server = on_mariadb.server
    assert isinstance(server, MariaDBServer)
    async with on_mariadb.store() as store, _cut(server, at, after=b"UPDATE") as port:
        other = SQLAlchemyStore(on_mariadb.url.replace(f":{server.port}/", f":{port}/"), table=store.table.name)
        key, new_key = make_key(), make_key()
        await store.create(key, make_record())
        rotation = other.rotate(key, new_key, make_record(version=2), make_tombstone(new_key), version=1)
        if works:
            await rotation
        else:
            with pytest.raises(StoreUnavailable, match="connection to it was lost"):
                await rotation
        assert (await store.load(new_key) is not None) is works
        await other.close()


@pytest.mark.parametrize(("operation", "works"), [("update", False), ("touch", True)])
async def test_write_whose_connection_is_lost(on_mariadb: Database, operation: str, works: bool) -> None:
    """A swap that lost its connection on its way is not sent again: the first may have been done. A touch is."""
    server = on_mariadb.server
    assert isinstance(server, MariaDBServer)
    async with on_mariadb.store() as store, _cut(server, b"UPDATE", after=b"UPDATE") as port:
        other = SQLAlchemyStore(on_mariadb.url.replace(f":{server.port}/", f":{port}/"), table=store.table.name)
        key = make_key()
        await store.create(key, make_record())
        if works:
            assert await other.touch(key, time.time() + 7200)
        else:
            with pytest.raises(StoreUnavailable, match="connection to it was lost"):
                await other.update(key, make_record(version=2), version=1)
        await other.close()


# --- Cancelling -------------------------------------------------------------------------------------------------------


async def test_silent_server(on_server: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is silent costs the guard's time and no more; afterwards all is as before, and nothing leaked."""
    monkeypatch.setattr(operations, "_GIVE_UP", 0.5)

    server = on_server.server
    assert server is not None
    async with on_server.store() as store:
        guarded = GuardedStore(store, 0.2)
        key = make_key()
        await guarded.create(key, make_record())
        server.pause()
        try:
            with patience(1):
                for _ in range(2):
                    started = loop_time()
                    calls = [
                        *(guarded.load(key) for _ in range(15)),
                        *(guarded.create(make_key(), make_record()) for _ in range(5)),
                        guarded.rotate(key, make_key(), make_record(version=2), make_tombstone(key), version=1),
                    ]
                    outcomes = await asyncio.gather(*calls, return_exceptions=True)
                    assert all(isinstance(outcome, StoreUnavailable) for outcome in outcomes)
                    assert loop_time() - started < 2  # without the guard, for ever
                # While it is still silent: nothing waits for an answer for which nobody waits.
                assert await eventually(count_busy(store), 0) == 0
        finally:
            server.resume()
        patient = GuardedStore(store, 10)
        loads = await asyncio.gather(*(patient.load(key) for _ in range(30)))
        assert None not in loads
        assert await eventually(on_server.connections, 10) <= 10


async def test_cancelled_at_any_moment(database: Database, whose: str) -> None:
    """Operations cancelled at random moments leak no connection, and nobody gets another one's answer."""
    async with store_of(database, whose) as store:
        keys = [make_key() for _ in range(20)]
        for key in keys:
            await store.create(key, make_record(data=key.encode()))

        async def one(number: int) -> None:
            key = keys[number % 20]
            with contextlib.suppress(TimeoutError, Conflict):
                async with asyncio.timeout(random.uniform(0, 0.03)):
                    if number % 5 == 0:
                        new_key = make_key()
                        new = make_record(data=new_key.encode())
                        await store.create(new_key, new)
                        successor = make_key()
                        await store.rotate(new_key, successor, new, make_tombstone(successor), version=1)
                    else:
                        found = await store.load(key)
                        assert found is not None and found.data == key.encode()

        with patience(1):
            for _ in range(8):
                await asyncio.gather(*(one(number) for number in range(40)))
        assert await eventually(count_busy(store), 0) == 0
        found = await asyncio.gather(*(store.load(key) for key in keys))
        assert [record and record.data for record in found] == [key.encode() for key in keys]


async def test_cancelled_rotation_is_whole_or_not_at_all(database: Database, whose: str) -> None:
    """Of a rotation that was cancelled at any of its steps there is all or nothing, and its connection is not lost."""
    async with store_of(database, whose) as store:
        pairs = [(make_key(), make_key()) for _ in range(40)]
        for key, _ in pairs:
            await store.create(key, make_record())
        for number, (key, new_key) in enumerate(pairs):
            with contextlib.suppress(TimeoutError), patience(1):
                async with asyncio.timeout(number * 0.0002):
                    await store.rotate(key, new_key, make_record(version=2), make_tombstone(new_key), version=1)
        assert await eventually(count_busy(store), 0) == 0
        for key, new_key in pairs:
            old, new = await store.load(key), await store.load(new_key)
            assert old is not None and (old.successor == new_key) is (new is not None)


async def test_cancelled_while_it_waits_its_turn(on_sqlite: Database, tmp_path: Path) -> None:
    """An operation that was cancelled before it began is not done later."""
    async with on_sqlite.store() as store:
        other = sqlite3.connect(tmp_path / "app.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        first, second, third = make_key(), make_key(), make_key()
        writes = [asyncio.ensure_future(store.create(key, make_record())) for key in (first, second, third)]
        await asyncio.sleep(0.05)
        writes[1].cancel()
        other.execute("COMMIT")
        other.close()
        await asyncio.gather(*writes, return_exceptions=True)
        assert [await store.load(key) is not None for key in (first, second, third)] == [True, False, True]


async def test_cancelled_in_a_step_that_sqlalchemy_does_not_watch(on_mariadb: Database) -> None:
    """A connection that was cancelled while its isolation was being set does not go back to the pool."""
    server = on_mariadb.server
    assert server is not None
    options = {"pool_size": 1, "max_overflow": 0, "pool_reset_on_return": None, "isolation_level": "AUTOCOMMIT"}
    async with on_mariadb.store() as made, on_mariadb.engine(**options) as engine:
        store = SQLAlchemyStore(engine, table=made.table.name)
        key, new_key = make_key(), make_key()
        await store.create(key, make_record())
        server.pause()
        try:
            with patience(1):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.1):
                        await store.rotate(key, new_key, make_record(version=2), make_tombstone(new_key), version=1)
                assert await eventually(count_busy(store), 0) == 0
        finally:
            server.resume()
        await store.update(key, make_record(version=2), version=1)
        await store.close()
