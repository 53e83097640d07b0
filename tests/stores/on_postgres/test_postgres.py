"""The store in PostgreSQL, on a real server: the suite, the table, round trips, purge, wipe and values."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from typing import Any

import asyncpg
import pytest

from roomkey.errors import ConfigurationError, StoreUnavailable
from roomkey.stores.base import Lifespan, Purge, Store, UserIndex, Wipe
from roomkey.stores.postgres import PostgresStore
from roomkey.stores.postgres.table import LOCK_CLASS
from roomkey.testing import Clock, StoreContract
from tests.servers.postgres import PostgresServer
from tests.stores.on_postgres.parts import admin_of, locked_table, make_empty, open_store, running_servers
from tests.stores.records import make_key, make_record

pytestmark = pytest.mark.usefixtures("server")


# --- The suite --------------------------------------------------------------------------------------------------------


class TestPostgresStore(StoreContract):
    """Connections of its own."""

    async def make(self, clock: Clock) -> Store:
        store = PostgresStore(running_servers[0].url, table="suite", clock=clock)
        await make_empty(store, running_servers[0])
        return store


class TestUnloggedTable(StoreContract):
    """A table that is not in the write-ahead log."""

    async def make(self, clock: Clock) -> Store:
        store = PostgresStore(running_servers[0].url, table="suite_unlogged", clock=clock)
        await make_empty(store, running_servers[0], unlogged=True)
        return store


class TestPartitionedTable(StoreContract):
    """A table in hash partitions."""

    async def make(self, clock: Clock) -> Store:
        store = PostgresStore(running_servers[0].url, table="suite_partitioned", clock=clock)
        await make_empty(store, running_servers[0], partitions=4)
        return store


class TestPoolOfTheApp(StoreContract):
    """A pool of the app's own, through a server that isolates transactions as strictly as it can."""

    async def make(self, clock: Clock) -> Store:
        pool = await asyncpg.create_pool(
            running_servers[0].url,
            max_size=5,
            min_size=0,
            server_settings={"default_transaction_isolation": "serializable"},
        )
        self.watch = self.close_with_the_loop(pool)
        await anext(self.watch)
        store = PostgresStore(pool, table="suite_pool", clock=clock)
        await make_empty(store, running_servers[0])
        return store

    @staticmethod
    async def close_with_the_loop(pool: Any) -> AsyncGenerator[None, None]:
        """As an app does it whose lifespan ends after the store was closed."""
        try:
            yield
        finally:
            assert await pool.fetchval("SELECT 1") == 1  # to close it was not the store's business
            await pool.close()


def test_it_is_all_that_a_store_can_be() -> None:
    """It implements each of the optional protocols."""
    store = PostgresStore("postgresql://localhost/app")
    for protocol in (Store, Lifespan, Purge, UserIndex, Wipe):
        assert isinstance(store, protocol)


# --- The table --------------------------------------------------------------------------------------------------------


async def test_missing_table(server: PostgresServer) -> None:
    """Without its table an app does not start, and the message names the command; one that runs gets an outage."""
    for table, command in (
        ("nowhere", "create --table nowhere"),
        ("no_schema.nowhere", "--table no_schema.nowhere"),
    ):
        store = PostgresStore(server.url, table=table)
        with pytest.raises(ConfigurationError, match=f"roomkey store .*{command}"):
            await store.open()
        for operation in (store.load(make_key()), store.create(make_key(), make_record()), store.wipe()):
            with pytest.raises(StoreUnavailable, match=f"roomkey store .*{command}"):
                await operation
        await store.close()


async def test_table_made_while_the_app_runs(server: PostgresServer) -> None:
    """A store finds a table that was made, dropped or made again since it was last asked."""
    async with open_store(server) as store, admin_of(server) as admin:
        key = make_key()
        for _ in range(2):
            assert await store.load(key) is None
            await store.create(key, make_record())
            await admin.execute(f'DROP TABLE "{store._table}"')
            for operation in (store.load(key), store.load(key), store.delete(key)):
                with pytest.raises(StoreUnavailable, match="roomkey store create"):
                    await operation
            assert await store.create_table() is True


async def test_table_changed_while_the_app_runs(server: PostgresServer) -> None:
    """A table that someone changes under a running app is looked at again, and the message says what is wrong."""
    async with open_store(server) as store, admin_of(server) as admin:
        assert await store.load(make_key()) is None
        await admin.execute(f'ALTER TABLE "{store._table}" RENAME COLUMN about TO remarks')
        with pytest.raises(StoreUnavailable):
            await store.load(make_key())
        with pytest.raises(StoreUnavailable, match="lacks about bytea"):
            await store.load(make_key())
        await admin.execute(f'ALTER TABLE "{store._table}" RENAME COLUMN remarks TO about')
        assert await store.load(make_key()) is None


async def test_create_table_is_idempotent(server: PostgresServer) -> None:
    """The table is made once, however often and from however many places at once; sessions in it stay."""
    stores = [PostgresStore(server.url, table="many_at_once") for _ in range(8)]
    made = await asyncio.gather(*(store.create_table() for store in stores))
    assert sorted(made) == [False] * 7 + [True]
    key = make_key()
    await stores[0].create(key, make_record())
    assert await stores[1].create_table() is False
    assert await stores[1].load(key) is not None
    for store in stores:
        await store.close()


async def test_create_table_mends_a_missing_index(server: PostgresServer) -> None:
    """What is missing beside the table is made."""
    async with open_store(server) as store, admin_of(server) as admin:
        await admin.execute(f'DROP INDEX "{store._table}_purge_at"')
        assert await store.create_table() is False
        assert await admin.fetchval("SELECT to_regclass($1)::text", f"{store._table}_purge_at")


async def test_ddl_is_what_create_table_runs(server: PostgresServer) -> None:
    """A table that was made with the printed SQL, also in a schema, is as good; running it twice does no harm."""
    async with admin_of(server) as admin:
        await admin.execute("CREATE SCHEMA shop")
        for _ in range(2):
            await admin.execute(PostgresStore.ddl("shop.Basket", unlogged=True))
        store = PostgresStore(server.url, table="shop.Basket")
        await store.open()
        assert await store.create_table(unlogged=True) is False
        key = make_key()
        await store.create(key, make_record(user="42"))
        assert [found for found, _ in await store.of_user("42")] == [key]
        assert await store.purge(10) == 0
        with pytest.raises(ConfigurationError, match=r'ALTER TABLE "shop"."Basket" SET LOGGED'):
            await store.create_table()
        await store.close()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("COMMENT ON TABLE {} IS 'Roomkey sessions, schema 3'", "schema 3, and this version of Roomkey knows 2"),
        ("COMMENT ON TABLE {} IS NULL", "not Roomkey's"),
        ("COMMENT ON TABLE {} IS 'invoices'", "not Roomkey's"),
        ("ALTER TABLE {} DROP COLUMN about", "lacks about bytea"),
        ("ALTER TABLE {} ALTER COLUMN version TYPE integer", "lacks version bigint"),
    ],
)
async def test_strange_table_is_refused(server: PostgresServer, change: str, words: str) -> None:
    """A newer schema, another app's table and one that was changed by hand are refused, to use and to make."""
    async with open_store(server) as store, admin_of(server) as admin:
        await admin.execute(change.format(f'"{store._table}"'))
        for operation in (store.open(), store.create_table()):
            with pytest.raises(ConfigurationError, match=words):
                await operation
        with pytest.raises(StoreUnavailable, match=words):
            await store.load(make_key())


async def test_missing_rights(server: PostgresServer) -> None:
    """A role without rights on the table is told which ones; with them it can do all but make tables."""
    async with open_store(server) as owner, admin_of(server) as admin:
        await admin.execute("CREATE ROLE app LOGIN PASSWORD 'pass/word@:?#'")
        store = PostgresStore(server.url_for(user="app", password="pass/word@:?#"), table=owner._table)
        with pytest.raises(ConfigurationError, match="GRANT SELECT, INSERT, UPDATE, DELETE ON"):
            await store.open()
        await admin.execute(f'GRANT SELECT, INSERT, UPDATE, DELETE ON "{owner._table}" TO app')
        await store.open()
        key = make_key()
        await store.create(key, make_record())
        assert await store.purge(10) == 0
        await store.wipe()
        assert await store.load(key) is None
        stranger = PostgresStore(server.url_for(user="app", password="pass/word@:?#"), table="app_own")
        with pytest.raises(ConfigurationError, match=r"GRANT CREATE"):
            await stranger.create_table()
        await store.close()
        await stranger.close()


# --- Round trips ------------------------------------------------------------------------------------------------------


async def _calls(server: PostgresServer, table: str) -> int:
    """How many statements that load from the table the server has run."""
    async with admin_of(server) as admin:
        await admin.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
        query = (
            "SELECT coalesce(sum(calls), 0)::int FROM pg_stat_statements WHERE query LIKE $1 AND query LIKE 'SELECT %'"
        )
        count: int = await admin.fetchval(query, f'%FROM "{table}"%')
        return count


async def test_loads_share_round_trips(server: PostgresServer) -> None:
    """A thousand loads at once take a sixtieth as many round trips, and each gets its own record."""
    async with open_store(server) as store:
        keys = [make_key() for _ in range(1000)]
        await asyncio.gather(*(store.create(key, make_record(data=key.encode())) for key in keys[::2]))
        before = await _calls(server, store._table)
        found = await asyncio.gather(*(store.load(key) for key in keys))
        assert [record and record.data for record in found[::2]] == [key.encode() for key in keys[::2]]
        assert not any(found[1::2])
        assert await _calls(server, store._table) - before == 1 + 16
        await store.load(keys[0])
        assert await _calls(server, store._table) - before == 1 + 16 + 1


async def test_connections_are_bounded(server: PostgresServer) -> None:
    """A thousand operations at once wait for `max_connections` connections, and none fails."""
    async with open_store(server, max_connections=4) as store:
        keys = [make_key() for _ in range(1000)]
        highest = 0

        async def watch() -> None:
            nonlocal highest
            async with admin_of(server) as admin:
                while True:
                    count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'roomkey'"
                    highest = max(highest, await admin.fetchval(count))

        watcher = asyncio.create_task(watch())
        await asyncio.gather(*(store.create(key, make_record()) for key in keys))
        await asyncio.gather(*(store.update(key, make_record(version=2), version=1) for key in keys))
        assert all(await asyncio.gather(*(store.load(key) for key in keys)))
        watcher.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watcher
        assert highest == 4


# --- Purge and wipe ---------------------------------------------------------------------------------------------------


async def test_one_worker_purges(server: PostgresServer) -> None:
    """Of two workers that purge at once one does it; the other returns 0 at once. Nothing live goes."""
    async with open_store(server) as store, open_store(server, table=store._table) as other:
        live = make_key()
        await store.create(live, make_record())
        old = [make_key() for _ in range(300)]
        await asyncio.gather(*(store.create(key, make_record(expires_at=time.time() - 1)) for key in old))
        async with admin_of(server) as admin, admin.transaction():
            oid = await admin.fetchval("SELECT $1::regclass::oid::int", store._table)
            await admin.execute(f"SELECT pg_advisory_xact_lock({LOCK_CLASS}, {oid})")
            assert await store.purge(100) == 0
        total = 0
        while total < 300:
            counts = await asyncio.gather(store.purge(50), other.purge(50))
            assert 50 <= sum(counts) <= 100
            total += sum(counts)
        assert total == 300 and await store.purge(50) == 0
        assert await store.load(live) is not None


async def test_purge_leaves_what_was_created_again(server: PostgresServer) -> None:
    """A record that replaces an expired one while a purge runs stays."""
    async with open_store(server) as store, open_store(server, table=store._table) as other:
        for _ in range(40):
            key = make_key()
            await store.create(key, make_record(expires_at=time.time() - 1))
            await asyncio.gather(store.create(key, make_record()), other.purge(10))
            assert await store.load(key) is not None


async def test_wipe_waits_for_nobody(server: PostgresServer) -> None:
    """While a long transaction reads the table, as a dump does, a wipe is done, and others go on."""
    async with open_store(server) as store:
        key = make_key()
        await store.create(key, make_record())
        async with locked_table(server, store._table, "ACCESS SHARE"):
            await store.wipe()
            assert await store.load(key) is None
            await store.create(key, make_record())
            assert await store.load(key) is not None


# --- Values -----------------------------------------------------------------------------------------------------------


async def test_characters_that_postgresql_refuses(server: PostgresServer) -> None:
    """A NUL in a user's name is refused, and finds nobody."""
    async with open_store(server) as store:
        with pytest.raises(ConfigurationError, match="NUL"):
            await store.create(make_key(), make_record(user="a\0b"))
        assert await store.of_user("a\0b") == []
