"""The store in PostgreSQL, on a real server: the suite, and what is special to it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import multiprocessing
import secrets
import time
import traceback
import warnings
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from roomkey.errors import ConfigurationError, StoreUnavailable
from roomkey.stores.base import Conflict, Lifespan, Purge, Record, Store, UserIndex, Wipe
from roomkey.stores.guard import GuardedStore
from roomkey.stores.postgres import PostgresStore
from roomkey.stores.postgres import connections as connections_module
from roomkey.stores.postgres.table import LOCK_CLASS
from roomkey.testing import Clock, StoreContract
from tests.servers.postgres import PostgresServer

pytestmark = pytest.mark.usefixtures("server")
_running: list[PostgresServer] = []  # for the suite, which has no fixtures


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    settings = {"shared_preload_libraries": "pg_stat_statements", "max_prepared_transactions": "2"}
    with PostgresServer(settings=settings) as running:
        _running.append(running)
        yield running
        _running.clear()


@pytest.fixture(autouse=True)
def _no_connection_left(server: PostgresServer) -> Iterator[None]:
    """After each test no connection is left, neither here nor at the server."""
    yield
    gc.collect()
    assert asyncio.run(_eventually(lambda: _connections(server), 0)) == 0


def _record(**fields: Any) -> Record:
    now = time.time()
    return replace(Record(data=b"data", version=1, created_at=now, expires_at=now + 3600), **fields)


def _tombstone(successor: str, **fields: Any) -> Record:
    return _record(data=b"", version=2, successor=successor, serve_until=time.time() + 10, **fields)


def _key() -> str:
    return secrets.token_hex(32)


def _table() -> str:
    return f"t{secrets.token_hex(6)}"


@contextlib.asynccontextmanager
async def _admin(server: PostgresServer) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(server.url, server_settings={"application_name": "admin"})
    try:
        yield connection
    finally:
        await connection.close()


async def _connections(server: PostgresServer) -> int:
    async with _admin(server) as admin:
        query = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND application_name <> $1"
        count: int = await admin.fetchval(query, "admin")
        return count


async def _eventually(ask: Callable[[], Awaitable[int]], expected: int) -> int:
    """Return what `ask` says, as soon as it is what is expected: a server ends its processes in its own time."""
    deadline = time.monotonic() + 5
    while True:
        found = await ask()
        if found == expected or time.monotonic() > deadline:
            return found
        await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def _store(server: PostgresServer, url: str | None = None, **options: Any) -> AsyncIterator[PostgresStore]:
    """A store with a table of its own."""
    store = PostgresStore(url or server.url, **{"table": _table(), **options})
    await store.create_table()
    try:
        yield store
    finally:
        await store.close()


def _winners(outcomes: list[Any]) -> list[int]:
    for outcome in outcomes:
        if outcome is not None and not isinstance(outcome, Conflict):
            raise outcome
    return [number for number, outcome in enumerate(outcomes) if outcome is None]


# The suite


class TestPostgresStore(StoreContract):
    """Connections of its own."""

    async def make(self, clock: Clock) -> Store:
        store = PostgresStore(_running[0].url, table="suite", clock=clock)
        await store.create_table()
        await store.wipe()
        return store


class TestUnloggedTable(StoreContract):
    """A table that is not in the write-ahead log."""

    async def make(self, clock: Clock) -> Store:
        store = PostgresStore(_running[0].url, table="suite_unlogged", clock=clock)
        await store.create_table(unlogged=True)
        await store.wipe()
        return store


class TestPoolOfTheApp(StoreContract):
    """A pool of the app's own, through a server that isolates transactions as strictly as it can."""

    async def make(self, clock: Clock) -> Store:
        pool = await asyncpg.create_pool(
            _running[0].url, max_size=5, min_size=0, server_settings={"default_transaction_isolation": "serializable"}
        )
        self.watch = self.close_with_the_loop(pool)
        await anext(self.watch)
        store = PostgresStore(pool, table="suite_pool", clock=clock)
        await store.create_table()
        await store.wipe()
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


# Races over several pools and processes


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
async def test_one_of_many_stores_wins(server: PostgresServer, isolation: str) -> None:
    """Of many stores that create, update or rotate at once exactly one succeeds, however the server isolates."""
    url = server.url_for(default_transaction_isolation=isolation)
    async with _store(server) as first:
        stores = [PostgresStore(url, table=first._table, max_connections=2) for _ in range(5)] * 2
        await asyncio.gather(*(store.open() for store in set(stores)))
        for _ in range(12):
            key, new_keys = _key(), [_key() for _ in stores]
            for operations in (
                [store.create(key, _record(data=b"%d" % n)) for n, store in enumerate(stores)],
                [store.update(key, _record(data=b"%d" % n, version=2), version=1) for n, store in enumerate(stores)],
                [
                    store.rotate(key, new, _record(version=3, data=new.encode()), _tombstone(new), version=2)
                    for store, new in zip(stores, new_keys, strict=True)
                ],
            ):
                winners = _winners(await asyncio.gather(*operations, return_exceptions=True))
                assert len(winners) == 1
                found = await first.load(key)
                assert found is not None
                if found.successor is None:
                    assert found.data == b"%d" % winners[0]
            assert found.successor == new_keys[winners[0]]
            there = [new for new in new_keys if await first.load(new) is not None]
            assert there == [new_keys[winners[0]]]
        for store in set(stores):
            await store.close()


async def test_one_of_many_rotations_gets_a_new_key(server: PostgresServer) -> None:
    """Of many sessions that move to one and the same key exactly one gets it, and the others stay as they were."""
    async with _store(server) as store, _store(server, table=store._table) as other:
        for before in ("nothing", "expired"):
            keys, new_key = [_key() for _ in range(12)], _key()
            for key in keys:
                await store.create(key, _record(data=key.encode()))
            if before == "expired":
                await store.create(new_key, _record(expires_at=time.time() - 1, user="someone"))
            rotations = [
                (store, other)[n % 2].rotate(
                    key, new_key, _record(data=key.encode(), version=2), _tombstone(new_key), version=1
                )
                for n, key in enumerate(keys)
            ]
            winners = _winners(await asyncio.gather(*rotations, return_exceptions=True))
            assert len(winners) == 1
            moved = await store.load(new_key)
            assert moved is not None and moved.data == keys[winners[0]].encode() and moved.user is None
            for number, key in enumerate(keys):
                found = await store.load(key)
                assert found is not None
                assert (found.successor, found.version) == ((new_key, 2) if number in winners else (None, 1))


async def test_rotation_to_its_own_key(server: PostgresServer) -> None:
    """A session cannot move to where it is."""
    async with _store(server) as store:
        key = _key()
        await store.create(key, _record())
        with pytest.raises(Conflict):
            await store.rotate(key, key, _record(version=2), _tombstone(key), version=1)
        found = await store.load(key)
        assert found is not None and found.version == 1


async def test_rotation_races_update_delete_and_purge(server: PostgresServer) -> None:
    """Whatever happens to the old key meanwhile: the session is at one place or at none, never at two."""
    async with _store(server) as store, _store(server, table=store._table) as other:
        for number in range(60):
            key, new_key = _key(), _key()
            await store.create(key, _record())
            await store.create(new_key, _record(expires_at=time.time() - 1))
            rotation = store.rotate(key, new_key, _record(version=2), _tombstone(new_key), version=1)
            rival = other.delete(key) if number % 2 else other.update(key, _record(version=2), version=1)
            pair = (rotation, rival) if number % 3 else (rival, rotation)
            outcomes = await asyncio.gather(*pair, other.purge(100), return_exceptions=True)
            _winners([outcome for outcome in outcomes if not isinstance(outcome, int)])
            moved = outcomes[0 if number % 3 else 1] is None
            old, new = await store.load(key), await store.load(new_key)
            assert (new is not None) is moved
            assert not moved or old is None or old.successor == new_key
            assert moved or old is None or old.successor is None


def _count_up(url: str, table: str, key: str, times: int) -> None:
    async def main() -> None:
        store = PostgresStore(url, table=table)
        for _ in range(times):
            while True:
                found = await store.load(key)
                assert found is not None
                new = replace(found, data=b"%d" % (int(found.data) + 1), version=found.version + 1)
                with contextlib.suppress(Conflict):
                    await store.update(key, new, version=found.version)
                    break
        await store.close()

    asyncio.run(main())


def test_no_increment_is_lost_across_processes(server: PostgresServer) -> None:
    """Processes that each read, add one, and try again after a Conflict count every one."""

    async def before() -> str:
        async with _store(server, table="across") as store:
            await store.create(key, _record(data=b"0"))
        return key

    async def after() -> None:
        async with _store(server, table="across") as store:
            found = await store.load(key)
            assert found is not None and found.data == b"90" and found.version == 91

    key = _key()
    asyncio.run(before())
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=_count_up, args=(server.url, "across", key, 30)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    asyncio.run(after())


# The table


async def test_missing_table(server: PostgresServer) -> None:
    """Without its table an app does not start, and the message names the command; one that runs gets an outage."""
    for table, command in (
        ("nowhere", "create --table nowhere"),
        ("no_schema.nowhere", "--table no_schema.nowhere"),
    ):
        store = PostgresStore(server.url, table=table)
        with pytest.raises(ConfigurationError, match=f"roomkey postgres .*{command}"):
            await store.open()
        for operation in (store.load(_key()), store.create(_key(), _record()), store.wipe()):
            with pytest.raises(StoreUnavailable, match=f"roomkey postgres .*{command}"):
                await operation
        await store.close()


async def test_table_made_while_the_app_runs(server: PostgresServer) -> None:
    """A store finds a table that was made, dropped or made again since it was last asked."""
    async with _store(server) as store, _admin(server) as admin:
        key = _key()
        for _ in range(2):
            assert await store.load(key) is None
            await store.create(key, _record())
            await admin.execute(f'DROP TABLE "{store._table}"')
            for operation in (store.load(key), store.load(key), store.delete(key)):
                with pytest.raises(StoreUnavailable, match="roomkey postgres create"):
                    await operation
            assert await store.create_table() is True


async def test_table_changed_while_the_app_runs(server: PostgresServer) -> None:
    """A table that someone changes under a running app is looked at again, and the message says what is wrong."""
    async with _store(server) as store, _admin(server) as admin:
        assert await store.load(_key()) is None
        await admin.execute(f'ALTER TABLE "{store._table}" RENAME COLUMN ip TO address')
        with pytest.raises(StoreUnavailable):
            await store.load(_key())
        with pytest.raises(StoreUnavailable, match="lacks ip text"):
            await store.load(_key())
        await admin.execute(f'ALTER TABLE "{store._table}" RENAME COLUMN address TO ip')
        assert await store.load(_key()) is None


async def test_create_table_is_idempotent(server: PostgresServer) -> None:
    """The table is made once, however often and from however many places at once; sessions in it stay."""
    stores = [PostgresStore(server.url, table="many_at_once") for _ in range(8)]
    made = await asyncio.gather(*(store.create_table() for store in stores))
    assert sorted(made) == [False] * 7 + [True]
    key = _key()
    await stores[0].create(key, _record())
    assert await stores[1].create_table() is False
    assert await stores[1].load(key) is not None
    for store in stores:
        await store.close()


async def test_create_table_mends_a_missing_index(server: PostgresServer) -> None:
    """What is missing beside the table is made."""
    async with _store(server) as store, _admin(server) as admin:
        await admin.execute(f'DROP INDEX "{store._table}_expires_at"')
        assert await store.create_table() is False
        assert await admin.fetchval("SELECT to_regclass($1)::text", f"{store._table}_expires_at")


async def test_ddl_is_what_create_table_runs(server: PostgresServer) -> None:
    """A table that was made with the printed SQL, also in a schema, is as good; running it twice does no harm."""
    async with _admin(server) as admin:
        await admin.execute("CREATE SCHEMA shop")
        for _ in range(2):
            await admin.execute(PostgresStore.ddl("shop.Basket", unlogged=True))
        store = PostgresStore(server.url, table="shop.Basket")
        await store.open()
        assert await store.create_table(unlogged=True) is False
        key = _key()
        await store.create(key, _record(user="42"))
        assert [found for found, _ in await store.of_user("42")] == [key]
        assert await store.purge(10) == 0
        with pytest.raises(ConfigurationError, match=r'ALTER TABLE "shop"."Basket" SET LOGGED'):
            await store.create_table()
        await store.close()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("COMMENT ON TABLE {} IS 'Roomkey sessions, schema 2'", "schema 2, and this version of Roomkey knows 1"),
        ("COMMENT ON TABLE {} IS NULL", "not Roomkey's"),
        ("COMMENT ON TABLE {} IS 'invoices'", "not Roomkey's"),
        ("ALTER TABLE {} DROP COLUMN ip", "lacks ip text"),
        ("ALTER TABLE {} ALTER COLUMN version TYPE integer", "lacks version bigint"),
    ],
)
async def test_strange_table_is_refused(server: PostgresServer, change: str, words: str) -> None:
    """A newer schema, another app's table and one that was changed by hand are refused, to use and to make."""
    async with _store(server) as store, _admin(server) as admin:
        await admin.execute(change.format(f'"{store._table}"'))
        for operation in (store.open(), store.create_table()):
            with pytest.raises(ConfigurationError, match=words):
                await operation
        with pytest.raises(StoreUnavailable, match=words):
            await store.load(_key())


async def test_missing_rights(server: PostgresServer) -> None:
    """A role without rights on the table is told which ones; with them it can do all but make tables."""
    async with _store(server) as owner, _admin(server) as admin:
        await admin.execute("CREATE ROLE app LOGIN PASSWORD 'pass/word@:?#'")
        store = PostgresStore(server.url_for(user="app", password="pass/word@:?#"), table=owner._table)
        with pytest.raises(ConfigurationError, match="GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE"):
            await store.open()
        await admin.execute(f'GRANT SELECT, INSERT, UPDATE, DELETE ON "{owner._table}" TO app')
        await store.open()
        key = _key()
        await store.create(key, _record())
        assert await store.purge(10) == 0
        with pytest.raises(ConfigurationError, match=r"GRANT.*TRUNCATE"):  # no outage: all else goes on
            await store.wipe()
        assert await store.load(key) is not None
        await admin.execute(f'GRANT TRUNCATE ON "{owner._table}" TO app')
        await store.wipe()
        assert await store.load(key) is None
        stranger = PostgresStore(server.url_for(user="app", password="pass/word@:?#"), table="app_own")
        with pytest.raises(ConfigurationError, match=r"GRANT CREATE"):
            await stranger.create_table()
        await store.close()
        await stranger.close()


# Round trips


async def _calls(server: PostgresServer, table: str) -> int:
    """How many statements that load from the table the server has run."""
    async with _admin(server) as admin:
        await admin.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
        query = (
            "SELECT coalesce(sum(calls), 0)::int FROM pg_stat_statements WHERE query LIKE $1 AND query LIKE 'SELECT %'"
        )
        count: int = await admin.fetchval(query, f'%FROM "{table}"%')
        return count


async def test_loads_share_round_trips(server: PostgresServer) -> None:
    """A thousand loads at once take a sixtieth as many round trips, and each gets its own record."""
    async with _store(server) as store:
        keys = [_key() for _ in range(1000)]
        await asyncio.gather(*(store.create(key, _record(data=key.encode())) for key in keys[::2]))
        before = await _calls(server, store._table)
        found = await asyncio.gather(*(store.load(key) for key in keys))
        assert [record and record.data for record in found[::2]] == [key.encode() for key in keys[::2]]
        assert not any(found[1::2])
        assert await _calls(server, store._table) - before == 1 + 16
        await store.load(keys[0])
        assert await _calls(server, store._table) - before == 1 + 16 + 1


async def test_connections_are_bounded(server: PostgresServer) -> None:
    """A thousand operations at once wait for `max_connections` connections, and none fails."""
    async with _store(server, max_connections=4) as store:
        keys = [_key() for _ in range(1000)]
        highest = 0

        async def watch() -> None:
            nonlocal highest
            async with _admin(server) as admin:
                while True:
                    count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'roomkey'"
                    highest = max(highest, await admin.fetchval(count))

        watcher = asyncio.create_task(watch())
        await asyncio.gather(*(store.create(key, _record()) for key in keys))
        await asyncio.gather(*(store.update(key, _record(version=2), version=1) for key in keys))
        assert all(await asyncio.gather(*(store.load(key) for key in keys)))
        watcher.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watcher
        assert highest == 4


# Cancellation


@contextlib.asynccontextmanager
async def _lock_on(server: PostgresServer, table: str, mode: str = "ACCESS EXCLUSIVE") -> AsyncIterator[None]:
    """Hold the table so that every statement on it waits."""
    # The time limit: a test that fails must not wait for its own lock.
    async with _admin(server) as admin, admin.transaction(), asyncio.timeout(15):
        await admin.execute(f'LOCK TABLE "{table}" IN {mode} MODE')
        yield


async def test_cancelled_operations_disturb_nobody(server: PostgresServer) -> None:
    """Whoever is cancelled, at any moment: the others get their own answers, and no connection is lost."""
    async with _store(server, max_connections=3) as store:
        keys = [_key() for _ in range(40)]
        await asyncio.gather(*(store.create(key, _record(data=key.encode())) for key in keys))

        async def load(key: str) -> None:
            found = await store.load(key)
            assert found is not None and found.data == key.encode()

        async def touch(key: str) -> None:
            assert await store.touch(key, time.time() + 7200)

        for number in range(60):
            tasks = [asyncio.create_task((load, touch)[n % 2](key)) for n, key in enumerate(keys)]
            await asyncio.sleep(0.00005 * number)
            victims = [task for n, task in enumerate(tasks) if n % 3 == number % 3]
            for task in victims:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            for task, outcome in zip(tasks, outcomes, strict=True):
                assert outcome is None or (task in victims and isinstance(outcome, asyncio.CancelledError))
        office = store._offices[asyncio.get_running_loop()]
        connections: Any = office.connections
        await asyncio.gather(*connections._ending)
        assert not connections._busy and connections._slots == len(connections._idle) <= 3
        await load(keys[0])


async def test_cancelled_statement_does_not_stay_at_the_server(server: PostgresServer) -> None:
    """An operation that is cancelled while it waits for a lock waits at the server no longer, a shared load neither."""

    async def waiting() -> int:
        async with _admin(server) as admin:
            query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = $1"
            count: int = await admin.fetchval(query, "roomkey")
            return count

    async with _store(server, max_connections=4) as store:
        key = _key()
        await store.create(key, _record())
        async with _lock_on(server, store._table):
            tasks = [asyncio.create_task(store.touch(key, time.time() + 7200))]
            tasks += [asyncio.create_task(store.load(key)) for _ in range(5)]
            assert await _eventually(waiting, 3) == 3  # the touch, a lone load, and one with the others
            for task in tasks[:-1]:
                task.cancel()
            await asyncio.wait(tasks[:-1])
            assert await _eventually(waiting, 1) == 1  # one of those who share is still there
            tasks[-1].cancel()
            assert await _eventually(waiting, 0) == 0
        assert await store.load(key) is not None


async def test_frozen_server_costs_no_more_than_the_time_limit(server: PostgresServer) -> None:
    """While the server is silent each operation ends at its time limit, and when it is back all is well."""
    async with _store(server, max_connections=3) as store:
        guarded = GuardedStore(store, 0.3)
        key = _key()
        await guarded.create(key, _record())
        server.pause()
        try:
            started = time.monotonic()
            operations = [guarded.load(key) for _ in range(30)] + [guarded.delete(_key()) for _ in range(5)]
            outcomes = await asyncio.gather(*operations, return_exceptions=True)
            assert all(isinstance(outcome, StoreUnavailable) for outcome in outcomes)
            assert time.monotonic() - started < 1.0
        finally:
            server.resume()
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            with contextlib.suppress(StoreUnavailable):
                assert await guarded.load(key) is not None
                break


async def test_connecting_to_a_frozen_server(server: PostgresServer) -> None:
    """Operations that end while they connect leave room for those that come later."""
    async with _store(server) as owner:
        store = PostgresStore(server.url, table=owner._table, max_connections=1)
        server.pause()
        try:
            for _ in range(3):
                with pytest.raises(StoreUnavailable):
                    await GuardedStore(store, 0.1).load(_key())
        finally:
            server.resume()
        assert await GuardedStore(store, 5.0).load(_key()) is None
        await store.close()


# Purge and wipe


async def test_one_worker_purges(server: PostgresServer) -> None:
    """Of two workers that purge at once one does it; the other returns 0 at once. Nothing live goes."""
    async with _store(server) as store, _store(server, table=store._table) as other:
        live = _key()
        await store.create(live, _record())
        old = [_key() for _ in range(300)]
        await asyncio.gather(*(store.create(key, _record(expires_at=time.time() - 1)) for key in old))
        async with _admin(server) as admin, admin.transaction():
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
    async with _store(server) as store, _store(server, table=store._table) as other:
        for _ in range(40):
            key = _key()
            await store.create(key, _record(expires_at=time.time() - 1))
            await asyncio.gather(store.create(key, _record()), other.purge(10))
            assert await store.load(key) is not None


async def test_wipe_does_not_queue_everybody_behind_a_dump(server: PostgresServer) -> None:
    """While a long transaction reads the table, a wipe gives up after a second and says so; others go on."""
    async with _store(server) as store:
        key = _key()
        await store.create(key, _record())
        async with _lock_on(server, store._table, "ACCESS SHARE"):
            with pytest.raises(StoreUnavailable, match="locked by another transaction"):
                await store.wipe()
            assert await store.load(key) is not None
        await store.wipe()
        assert await store.load(key) is None


# Outages


async def test_restart_between_operations(server: PostgresServer) -> None:
    """After a restart of the server the next operation works, with as many connections as there were."""
    async with _store(server) as store:
        key = _key()
        await store.create(key, _record())
        for _ in range(3):
            await asyncio.gather(*(store.touch(key, time.time() + 7200) for _ in range(10)))  # ten connections
            await asyncio.to_thread(server.restart)
            assert await store.load(key) is not None
            await store.update(key, replace(_record(), version=1), version=1)


async def test_load_outlives_a_lost_connection(server: PostgresServer) -> None:
    """A load whose connection is ended under way is asked again; a save is not, and is an outage."""
    async with _store(server) as store, _admin(server) as admin:
        key = _key()
        await store.create(key, _record())
        end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        async with _lock_on(server, store._table):
            load = asyncio.create_task(store.load(key))
            delete = asyncio.create_task(store.delete(_key()))
            update = asyncio.create_task(store.update(key, _record(version=2), version=1))
            assert await _eventually(lambda: admin.fetchval(waiting), 3) == 3
            await admin.execute(end)
            with pytest.raises(StoreUnavailable):
                await update
            assert await _eventually(lambda: admin.fetchval(waiting), 2) == 2
        assert await load is not None
        await delete
        found = await store.load(key)
        assert found is not None and found.version == 1


class _Network:
    """A way to the server that can break for the connections made so far, and works for new ones."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._pipes: list[asyncio.Task[None]] = []
        self._state = {"": ""}  # shared by the connections of one age: what becomes of their data
        self.takes_new = asyncio.Event()  # while it is not set, new connections hang
        self.takes_new.set()

    async def __aenter__(self) -> _Network:
        self._proxy = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        port = self._proxy.sockets[0].getsockname()[1]
        self.url = self._server.url.replace(f":{self._server.port}/", f":{port}/")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._proxy.close()
        for pipe in self._pipes:
            pipe.cancel()
        await asyncio.gather(*self._pipes, return_exceptions=True)
        await self._proxy.wait_closed()

    def reset(self) -> None:
        """From now on the other side knows nothing of them, as after a failover: what is sent resets them."""
        self._state[""] = "reset"
        self._state = {"": ""}

    def forget(self) -> None:
        """From now on nothing on them arrives and nothing tells, as behind a firewall that forgot them."""
        self._state[""] = "forgotten"
        self._state = {"": ""}

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        state = self._state
        await self.takes_new.wait()
        there, here = await asyncio.open_connection("127.0.0.1", self._server.port)
        for source, target in ((reader, here), (there, writer)):
            pipe = asyncio.create_task(self._pipe(source, target, state))
            pipe.add_done_callback(lambda _: (writer.transport.abort(), here.transport.abort()))
            self._pipes.append(pipe)

    @staticmethod
    async def _pipe(source: asyncio.StreamReader, target: asyncio.StreamWriter, state: dict[str, str]) -> None:
        with contextlib.suppress(ConnectionError):
            while (data := await source.read(65536)) and state[""] != "reset":
                if not state[""]:
                    target.write(data)


async def test_failover(server: PostgresServer) -> None:
    """When the other side no longer knows any of the connections, the first load works all the same."""
    async with _Network(server) as network, _store(server, network.url, max_connections=4) as store:
        key = _key()
        await store.create(key, _record())
        await asyncio.gather(*(store.touch(key, time.time() + 7200) for _ in range(8)))
        network.reset()
        assert await store.load(key) is not None
        assert await store.touch(key, time.time() + 7200)


async def test_nobody_waits_for_a_new_connection_while_an_old_one_is_free(server: PostgresServer) -> None:
    """While new connections hang, everything goes over the one that stands; what hangs neither leaks nor delays."""
    async with _Network(server) as network, _store(server, network.url, max_connections=4) as store:
        guarded = GuardedStore(store, 1.0)
        key = _key()
        await guarded.create(key, _record())
        connections: Any = store._offices[asyncio.get_running_loop()].connections
        network.takes_new.clear()
        for _ in range(3):
            operations = [guarded.load(key) for _ in range(20)]
            operations += [guarded.touch(key, time.time() + 7200) for _ in range(20)]
            assert all(await asyncio.gather(*operations))
        assert connections._slots == 4 and len(connections._making) == 3
        network.takes_new.set()
        async with asyncio.timeout(5):
            await asyncio.gather(*connections._making)
        assert connections._slots == len(connections._idle) == 4 and not connections._making
        connections.distrust()
        network.takes_new.clear()
        with pytest.raises(StoreUnavailable, match="did not answer"):
            await guarded.load(key)
        started = time.monotonic()
        await store.close()
        assert time.monotonic() - started < 1 and connections._slots == 0
        network.takes_new.set()
        assert await guarded.load(key) is not None


async def test_forgotten_connections(server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections on which nothing arrives any longer cost one operation its time limit, and not every one."""
    monkeypatch.setattr(connections_module, "_GIVE_UP", 0.1)

    async with _Network(server) as network, _store(server, network.url, max_connections=4) as store:
        guarded = GuardedStore(store, 0.2)
        key = _key()
        await store.create(key, _record())
        await asyncio.gather(*(store.touch(key, time.time() + 7200) for _ in range(8)))
        network.forget()
        with pytest.raises(StoreUnavailable, match="did not answer"):
            await guarded.load(key)
        connections: Any = store._offices[asyncio.get_running_loop()].connections
        await asyncio.gather(*connections._ending)
        assert connections._slots == 0
        assert await guarded.load(key) is not None


async def test_server_down(server: PostgresServer) -> None:
    """With the server down every operation is an outage at once, and afterwards all is well."""
    async with _store(server) as store:
        key = _key()
        await store.create(key, _record())
        await asyncio.to_thread(server.stop)
        try:
            started = time.monotonic()
            operations = [store.load(key) for _ in range(20)]
            outcomes = await asyncio.gather(*operations, store.delete(key), store.open(), return_exceptions=True)
            assert all(isinstance(outcome, StoreUnavailable) for outcome in outcomes)
            assert len({id(outcome) for outcome in outcomes}) == 22
            assert time.monotonic() - started < 1.0
        finally:
            await asyncio.to_thread(server.start)
        assert await store.load(key) is not None


async def test_read_only_server(server: PostgresServer) -> None:
    """On a replica loads work, and a save is an outage that says why."""
    async with _store(server) as owner:
        url = server.url_for(default_transaction_read_only="on")
        store = PostgresStore(url, table=owner._table)
        assert await store.load(_key()) is None
        for operation in (store.create(_key(), _record()), store.wipe(), store.purge(5)):
            with pytest.raises(StoreUnavailable, match="read-only"):
                await operation
        await store.close()


async def test_too_many_connections(server: PostgresServer) -> None:
    """A server that takes no more connections is an outage, also when the app starts, and no fault of the URL."""
    async with _store(server) as owner, _admin(server) as admin:
        await admin.execute("CREATE ROLE crowd LOGIN PASSWORD 'x' CONNECTION LIMIT 1")
        await admin.execute(f'GRANT SELECT, INSERT, UPDATE, DELETE ON "{owner._table}" TO crowd')
        url = server.url_for(user="crowd", password="x")
        first, second = (PostgresStore(url, table=owner._table, max_connections=1) for _ in range(2))
        await first.open()
        for operation in (second.open(), second.load(_key())):
            with pytest.raises(StoreUnavailable, match="no connection left"):
                await operation
        await first.close()
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            with contextlib.suppress(StoreUnavailable):
                await second.open()
                break
        await second.close()


# Event loops


def test_each_event_loop_has_its_connections(server: PostgresServer) -> None:
    """One store works in one event loop after the other, and a loop that ends takes its connections along."""
    store = PostgresStore(server.url, table=_table())
    key = _key()

    async def make() -> None:
        await store.create_table()
        await store.create(key, _record())

    async def read() -> None:
        assert await store.load(key) is not None

    asyncio.run(make())
    for _ in range(5):
        asyncio.run(read())
        assert asyncio.run(_eventually(lambda: _connections(server), 0)) == 0
    asyncio.run(store.open())
    assert len(store._offices) == 1  # of the last loop; the others were let go


def _in_a_loop_ended_by_hand(work: Coroutine[Any, Any, None]) -> None:
    """As frameworks older than `asyncio.run` do it. What is left open then is a ResourceWarning, which is an error."""
    loop = asyncio.new_event_loop()
    loop.run_until_complete(work)
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
    gc.collect()


def test_event_loop_ended_by_hand(server: PostgresServer) -> None:
    """A loop that shuts its asynchronous generators down leaves no socket open, whoever runs it."""

    async def work() -> None:
        await PostgresStore(server.url, table="by_hand").create_table()
        await store.load(_key())

    store = PostgresStore(server.url, table="by_hand")
    _in_a_loop_ended_by_hand(work())


def test_event_loop_closed_without_a_word(server: PostgresServer) -> None:
    """A loop that was just closed is noticed when the store is used in the next one, and let go."""
    store = PostgresStore(server.url, table="by_hand")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        loop = asyncio.new_event_loop()
        loop.run_until_complete(store.create_table())
        loop.close()
        asyncio.run(store.open())
        assert loop not in store._offices
        gc.collect()


async def test_two_event_loops_at_once(server: PostgresServer) -> None:
    """One store works in several threads with an event loop each; closing in one leaves the other alone."""
    async with _store(server) as store:
        key = _key()
        await store.create(key, _record(data=b"0"))

        async def elsewhere() -> None:
            for _ in range(50):
                assert await store.load(key) is not None
            await store.close()

        threads = [asyncio.to_thread(asyncio.run, elsewhere()) for _ in range(2)]

        async def here() -> None:
            for _ in range(50):
                assert await store.load(key) is not None

        await asyncio.gather(here(), *threads)
        assert await store.load(key) is not None


async def test_dropped_store_ends_its_connections(server: PostgresServer) -> None:
    """A store that nobody holds any longer, and nobody closed, leaves no connection behind."""
    store = PostgresStore(server.url, table=_table())
    await store.create_table()
    assert await _connections(server) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # Python's word for what nobody closed
        del store
        gc.collect()
    assert await _eventually(lambda: _connections(server), 0) == 0


async def test_close_waits_for_what_is_under_way(server: PostgresServer) -> None:
    """A save that was under way when the app closed its store is done."""
    async with _store(server, max_connections=2) as store:
        keys = [_key() for _ in range(20)]
        saves = [asyncio.create_task(store.create(key, _record())) for key in keys]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        started = time.monotonic()
        await store.close()
        assert (
            time.monotonic() - started < connections_module._CLOSE_TIMEOUT / 2
        )  # it waited for them, not for its time limit
        assert _winners(await asyncio.gather(*saves, return_exceptions=True)) == list(range(20))
        assert all(await asyncio.gather(*(store.load(key) for key in keys)))


# URLs, passwords, TLS


@pytest.mark.parametrize(
    "url",
    [
        "mysql://localhost/app",
        "postgresql+asyncpg://localhost/app",
        "postgresql:",
        "postgresql://user:Xsecret9/1@host/app",
        "postgresql://user:5432/Xsecret9@host/app",
        "postgresql://user:1?Xsecret9@host/app",
        "postgresql://user:1#Xsecret9@host/app",
        "postgresql://user:Xsec@ret9@host/app",
        "postgresql://user:Xsecret9@host:port/app",
        "postgresql://user:Xsecret9@host:99999/app",
        "postgresql://user:Xsecret9@[::1/app",
        "postgresql://user:Xsecret9@host/app?sslmode=maybe",
        "postgresql://user:Xsecret9@host/app?sslmode=verify-full&sslrootcert=/no/such/file",
        "postgresql://user:Xsecret9@host/app?sslcert=/no/such/file&sslkey=/no/such/file",
        "postgresql://user:Xsecret9@host/app?max_connections=0",
        "postgresql://user:Xsecret9@host/app?max_connections=many",
        "postgresql://user:Xsecret9@host/app?statement_cache_size=-1",
        "postgresql://user:Xsecret9@host/app?table=drop%20table",
        "postgresql://user:Xsecret9@host/app?strict",
    ],
)
def test_wrong_url(url: str) -> None:
    """A URL that cannot be meant is refused when the store is made, and no part of its password is shown."""
    with pytest.raises(ConfigurationError) as caught:
        PostgresStore(url)
    shown = "".join(traceback.format_exception_only(caught.value))
    assert "Xsec" not in shown and "ret9" not in shown
    assert caught.value.__cause__ is None and (caught.value.__context__ is None or caught.value.__suppress_context__)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql:///app", "/app"),
        ("postgres://localhost", "localhost"),
        ("postgresql:///app?host=/run/postgresql&user=u&password=Xsecret9", "/run/postgresql/app"),
        ("postgresql://u:Xsecret9@one:1,two:2/app?target_session_attrs=primary", "one:1,two:2/app"),
        ("postgresql://u:Xsecret9%40%2F@[2001:db8::1]:5432/a%20b", "[2001:db8::1]:5432/a b"),
    ],
)
def test_shown_url(url: str, shown: str) -> None:
    """A store shows its hosts and database, and nothing that could be a password."""
    assert repr(PostgresStore(url)) == f"<PostgresStore {shown!r}, table 'roomkey_session'>"


@pytest.mark.parametrize("table", ["", "a.b.c", 'a"b', "a b", "a;b", "1a", "a.", "x" * 51, "é"])
def test_wrong_table(table: str) -> None:
    """Only plain names are taken for a table."""
    for attempt in (lambda: PostgresStore("postgresql://host/app", table=table), lambda: PostgresStore.ddl(table)):
        with pytest.raises(ConfigurationError, match="table: "):
            attempt()


async def test_wrong_options(server: PostgresServer) -> None:
    """Options of the wrong kind, and options that are the pool's, are refused by name."""
    for value in (0, -1, True, "3", 1.5):
        with pytest.raises(ConfigurationError, match="max_connections"):
            PostgresStore("postgresql://host/app", max_connections=value)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="server: int"):
        PostgresStore(5)  # type: ignore[arg-type]

    pool = asyncpg.create_pool(server.url, min_size=0)
    for name in ("max_connections", "statement_cache_size"):
        with pytest.raises(ConfigurationError, match=name):
            PostgresStore(pool, **{name: 1})


async def test_options_in_the_url(server: PostgresServer) -> None:
    """`table`, `max_connections` and `statement_cache_size` may stand in the URL; the rest reaches the server."""
    name = _table()
    url = server.url_for(
        table=name, max_connections="2", statement_cache_size="0", synchronous_commit="off", application_name="shop"
    )
    store = PostgresStore(url)
    assert repr(store) == f"<PostgresStore '127.0.0.1:{server.port}/postgres', table '{name}'>"
    await store.create_table()
    await asyncio.gather(*(store.create(_key(), _record()) for _ in range(20)))
    # Both are had at once, for the statements above may all have been done before the second one stood.
    connections = store._offices[asyncio.get_running_loop()].connections
    both = [await connections.acquire() for _ in range(2)]
    async with _admin(server) as admin:
        shops = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'shop'"
        assert await admin.fetchval(shops) == 2
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(connections.acquire(), 0.1)
    for connection in both:
        assert await connection.fetchval("SHOW synchronous_commit") == "off"
        await connections.release(connection)
    await store.close()


@pytest.mark.parametrize("form", ["?host=", "%2F"])
async def test_unix_socket(server: PostgresServer, form: str) -> None:
    """A Unix socket is reached by its directory, in either of libpq's two spellings."""
    directory = str(server.directory).replace("/", "%2F")
    login = f"{server.user}:{server.password}@"
    url = {
        "?host=": f"postgresql://{login}/postgres?host={directory}&port={server.port}",
        "%2F": f"postgresql://{login}{directory}:{server.port}/postgres",
    }[form]
    async with _store(server, url) as store:
        assert await store.load(_key()) is None
        assert server.password not in repr(store)


async def test_wrong_password_and_database(server: PostgresServer, caplog: pytest.LogCaptureFixture) -> None:
    """A wrong password, user or database stops the app from starting; no password is shown or logged anywhere."""
    caplog.set_level(logging.DEBUG)

    wrong = {
        "password authentication failed": server.url_for(password="wrongsecret"),
        "nobody_here": server.url_for(user="nobody_here", password="wrongsecret"),
        'database "nowhere" does not exist': server.url_for(database="nowhere"),
        "unrecognized configuration parameter": server.url_for(channel_bindings="require"),
        "does not offer TLS": server.url_for(sslmode="require"),
    }
    for words, url in wrong.items():
        store = PostgresStore(url)
        errors: list[Exception] = []
        for operation in (store.open(), store.create_table(), store.load(_key())):
            try:
                await operation
            except (ConfigurationError, StoreUnavailable) as error:
                errors.append(error)
        assert [type(error) for error in errors] == [ConfigurationError, ConfigurationError, StoreUnavailable]
        shown = "".join("".join(traceback.format_exception(error)) for error in errors)
        assert all(words in str(error) for error in errors), (words, errors)
        assert "wrongsecret" not in shown + repr(store) and server.password not in shown + repr(store)
        guarded = GuardedStore(store, 2.0)
        with pytest.raises(StoreUnavailable):
            await guarded.load(_key())
        await store.close()
    assert "wrongsecret" not in caplog.text and server.password not in caplog.text and "unavailable" in caplog.text


def test_tls() -> None:
    """With TLS the certificate is checked where the URL asks for it, and one that is not trusted stops the app."""

    async def main(server: PostgresServer) -> None:
        trusted = server.url_for(sslmode="verify-full", sslrootcert=str(server.certificate))
        async with _store(server, trusted) as store:
            key = _key()
            await store.create(key, _record())
            connections = store._offices[asyncio.get_running_loop()].connections
            connection = await connections.acquire()
            assert await connection.fetchval("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()") is True
            await connections.release(connection)
            task = asyncio.create_task(store.load(key))
            await asyncio.sleep(0)
            task.cancel()
            assert await store.load(key) is not None
        with PostgresServer(tls=True) as stranger:
            other = server.url_for(sslmode="verify-full", sslrootcert=str(stranger.certificate))
            store = PostgresStore(other)
            with pytest.raises(ConfigurationError, match="not trusted"):
                await store.open()
            await store.close()

    async def load(store: PostgresStore) -> None:
        with contextlib.suppress(StoreUnavailable):  # no table
            await store.load(_key())

    with PostgresServer(tls=True) as server:
        asyncio.run(main(server))
        _in_a_loop_ended_by_hand(load(PostgresStore(server.url)))

        async def load_and_close() -> None:
            store = PostgresStore(server.url)
            await load(store)
            await store.close()

        loop = asyncio.new_event_loop()  # closed at once: `close` has left nothing to be done
        loop.run_until_complete(load_and_close())
        loop.close()
        gc.collect()


# Values


async def test_characters_that_postgresql_refuses(server: PostgresServer) -> None:
    """A NUL or half a character in what a client sent is left out; in a user's name it is refused, and finds nobody."""
    async with _store(server) as store:
        key = _key()
        await store.create(key, _record(user_agent="a\0b\ud800c", ip="\0"))
        found = await store.load(key)
        assert found is not None and (found.user_agent, found.ip) == ("ab?c", "")
        with pytest.raises(ConfigurationError, match="NUL"):
            await store.create(_key(), _record(user="a\0b"))
        assert await store.of_user("a\0b") == []


async def test_statements_use_the_indexes(server: PostgresServer) -> None:
    """With many sessions, no statement reads the whole table."""
    async with _store(server) as store, _admin(server) as admin:
        await admin.execute(
            f'INSERT INTO "{store._table}" SELECT md5(n::text), $q$x$q$, 1, 0, {time.time()} + n - 100, n::text, '
            "NULL, 0 FROM generate_series(1, 20000) AS n"
        )
        await admin.execute(f'ANALYZE "{store._table}"')
        sql, now = store._sql, time.time()
        row = (b"", 2, now, now + 9, "42", None, 0.0, None, None)
        statements: list[tuple[str, tuple[Any, ...]]] = [
            (sql.load, (now, "k")),
            (sql.load_many, (now, ["a", "b"])),
            (sql.update, (now, "k", 1, *row)),
            (sql.rotate, (now, "k", 1, *row, "n", *row)),
            (sql.touch, (now, "k", now)),
            (sql.delete, ("k",)),
            (sql.of_user, (now, "42")),
            (sql.purge, (now, 50)),
        ]
        for statement, args in statements:
            plan = "\n".join(row[0] for row in await admin.fetch(f"EXPLAIN {statement}", *args))
            assert "Seq Scan" not in plan and "Index" in plan, plan
