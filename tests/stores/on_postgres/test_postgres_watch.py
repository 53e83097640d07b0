"""Those who watch PostgreSQL hear of what other processes do, and know when they may have missed something."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from roomkey.stores.base import Notice, What
from roomkey.stores.postgres import PostgresStore
from tests.servers.pgbouncer import PgBouncer
from tests.servers.postgres import PostgresServer
from tests.stores.on_postgres.parts import admin_of
from tests.stores.records import make_key, make_record

pytestmark = pytest.mark.usefixtures("server")

STANDS, LOST = Notice(What.STANDS), Notice(What.LOST)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


async def table_of(server: PostgresServer, table: str) -> PostgresStore:
    store = PostgresStore(server.url, table=table)
    await store.create_table()
    await store.wipe()
    return store


def test_another_store_object_is_heard(server: PostgresServer) -> None:
    """What one process does is heard in another, by whichever name of the table they know it."""

    async def watch() -> None:
        writer = await table_of(server, "watched")
        reader = PostgresStore(server.url, table="public.watched")
        notices: list[Notice] = []
        leave = reader.watch(notices.append, list, changes=True)
        await until(lambda: STANDS in notices)
        writer.publish(changes=True)
        keys = [make_key() for _ in range(250)]
        await asyncio.gather(*(writer.create(key, make_record()) for key in keys))
        await asyncio.gather(*(writer.update(key, make_record(version=2), version=1) for key in keys))
        await until(
            lambda: {notice.key for notice in notices if notice == (What.CHANGED, notice.key, "", 2)} >= {*keys}
        )
        await writer.delete(keys[0])
        await until(lambda: Notice(What.ENDED, keys[0]) in notices)
        await writer.wipe()
        await until(lambda: Notice(What.WIPED) in notices)
        leave()
        await reader.close()
        await writer.close()

    asyncio.run(watch())


def test_nothing_is_told_unasked(server: PostgresServer) -> None:
    """A store that was not told to publish sends no NOTIFY, but for a wipe."""

    async def watch() -> None:
        writer, key = await table_of(server, "unasked"), make_key()
        notices: list[Notice] = []
        leave = writer.watch(notices.append, list, changes=True)
        await until(lambda: STANDS in notices)
        await writer.create(key, make_record())
        await writer.update(key, make_record(version=2), version=1)
        await writer.delete(key)
        await writer.wipe()
        await until(lambda: Notice(What.WIPED) in notices)
        assert notices == [STANDS, Notice(What.WIPED)]
        leave()
        await writer.close()

    asyncio.run(watch())


def test_a_lost_connection_is_told(server: PostgresServer) -> None:
    """Where the connection is ended, those who watch hear that notices may be missing, and when they come again."""

    async def watch() -> None:
        writer, key = await table_of(server, "lost"), make_key()
        writer.publish()
        notices: list[Notice] = []
        leave = writer.watch(notices.append, list)
        await until(lambda: STANDS in notices)
        async with admin_of(server) as admin:
            await admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
                "AND backend_type = 'client backend'"
            )
        await until(lambda: notices == [STANDS, LOST, STANDS])
        await writer.create(key, make_record())
        await writer.delete(key)
        await until(lambda: Notice(What.ENDED, key) in notices)
        leave()
        await writer.close()

    asyncio.run(watch())


def test_a_server_that_is_silent_is_told(server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that stays open without an answer counts as lost."""
    monkeypatch.setattr("roomkey.stores.postgres.notices._LOOK_EVERY", 0.05)
    monkeypatch.setattr("roomkey.stores.postgres.notices._PATIENCE", 0.5)

    async def watch() -> None:
        store = await table_of(server, "silent")
        notices: list[Notice] = []
        leave = store.watch(notices.append, list)
        await until(lambda: STANDS in notices)
        server.pause()
        try:
            await until(lambda: LOST in notices)
        finally:
            server.resume()
        await until(lambda: notices[-1] == STANDS)
        leave()
        await store.close()

    asyncio.run(watch())


@pytest.mark.parametrize("pool_mode", ["transaction", "session"])
def test_a_pooler_is_not_relied_on(server: PostgresServer, pool_mode: str, caplog: pytest.LogCaptureFixture) -> None:
    """Through PgBouncer nobody is told that notices come, for they might not. The log says why, once."""

    async def watch() -> None:
        await (await table_of(server, "pooled")).close()
        with PgBouncer(server, pool_mode=pool_mode) as pooler:
            store = PostgresStore(pooler.url(statement_cache_size="0"), table="pooled")
            notices: list[Notice] = []
            leave = store.watch(notices.append, list)
            await until(lambda: "is a pooler, through which no notices come" in caplog.text)
            assert not notices
            leave()
            await store.close()

    asyncio.run(watch())
