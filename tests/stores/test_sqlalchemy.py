"""The store in any SQL database: the suite on SQLite, MariaDB and PostgreSQL, and what is special to it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import random
import secrets
import sqlite3
import tempfile
import threading
import time
import traceback
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncmy
import asyncpg
import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mssql, mysql, oracle
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool, StaticPool

from roomkey.errors import ConfigurationError, StoreUnavailable
from roomkey.stores.base import Conflict, Lifespan, Purge, Record, Store, UserIndex, Wipe
from roomkey.stores.guard import GuardedStore
from roomkey.stores.sqlalchemy import SQLAlchemyStore, operations, session_table
from roomkey.stores.sqlalchemy import store as store_module
from roomkey.testing import Clock, StoreContract
from tests.servers.mariadb import MariaDBServer, mariadb_binary
from tests.servers.postgres import PostgresServer

_running: dict[str, Any] = {}  # for the suite, which has no fixtures


@pytest.fixture(scope="module")
def mariadb() -> Iterator[MariaDBServer]:
    with MariaDBServer("--max-connections=200") as running:
        _running["mariadb"] = running
        yield running


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with PostgresServer(settings={"deadlock_timeout": "100ms"}) as running:
        _running["postgres"] = running
        yield running


def _mariadb_url(server: MariaDBServer, **parts: str) -> str:
    return server.url_for(**parts).replace("mysql://", "sqlalchemy+mysql+asyncmy://")


def _postgres_url(server: PostgresServer, **parts: str) -> str:
    return server.url_for(**parts).replace("postgresql://", "sqlalchemy+postgresql+asyncpg://")


async def _empty(store: SQLAlchemyStore) -> SQLAlchemyStore:
    await store.create_table()
    await store.wipe()
    return store


class _WithFile:
    """A suite with an SQLite file."""

    def setup_method(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.path = Path(self.directory.name) / "app.db"

    def teardown_method(self) -> None:
        self.directory.cleanup()


class _WithEngine:
    """A suite with an engine of the app's own, disposed of by the app, after the store was closed."""

    async def engine(self, url: str, **options: Any) -> AsyncEngine:
        engine = create_async_engine(url.removeprefix("sqlalchemy+"), **options)
        self.watch = self.dispose_with_the_loop(engine)
        await anext(self.watch)
        return engine

    @staticmethod
    async def dispose_with_the_loop(engine: AsyncEngine) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            await engine.dispose()


class TestSQLite(_WithFile, StoreContract):
    """An SQLite file."""

    async def make(self, clock: Clock) -> Store:
        return await _empty(SQLAlchemyStore(f"sqlalchemy+sqlite+aiosqlite:///{self.path}", clock=clock))


@pytest.mark.usefixtures("mariadb")
class TestMariaDB(StoreContract):
    """MariaDB."""

    async def make(self, clock: Clock) -> Store:
        return await _empty(SQLAlchemyStore(_mariadb_url(_running["mariadb"]), clock=clock))


@pytest.mark.usefixtures("postgres")
class TestPostgreSQL(StoreContract):
    """PostgreSQL."""

    async def make(self, clock: Clock) -> Store:
        return await _empty(SQLAlchemyStore(_postgres_url(_running["postgres"]), clock=clock))


class TestEngineOfTheAppSQLite(_WithFile, _WithEngine, StoreContract):
    """An engine of the app's own, with its transactions, and more connections than one."""

    async def make(self, clock: Clock) -> Store:
        engine = await self.engine(f"sqlite+aiosqlite:///{self.path}")
        return await _empty(SQLAlchemyStore(engine, clock=clock))


@pytest.mark.usefixtures("mariadb")
class TestEngineOfTheAppMariaDB(_WithEngine, StoreContract):
    """An engine of the app's own, at MySQL's own isolation: REPEATABLE READ."""

    async def make(self, clock: Clock) -> Store:
        engine = await self.engine(_mariadb_url(_running["mariadb"]), isolation_level="REPEATABLE READ")
        return await _empty(SQLAlchemyStore(engine, table="of_the_app", clock=clock))


@pytest.mark.usefixtures("postgres")
class TestEngineOfTheAppPostgreSQL(_WithEngine, StoreContract):
    """An engine of the app's own, isolated as strictly as it can be."""

    async def make(self, clock: Clock) -> Store:
        engine = await self.engine(_postgres_url(_running["postgres"]), isolation_level="SERIALIZABLE")
        return await _empty(SQLAlchemyStore(engine, table="of_the_app", clock=clock))


# What the other tests work with


def _record(**fields: Any) -> Record:
    now = time.time()
    return replace(Record(data=b"data", version=1, created_at=now, expires_at=now + 3600), **fields)


def _tombstone(successor: str, **fields: Any) -> Record:
    return _record(**{"data": b"", "version": 2, "successor": successor, "serve_until": time.time() + 10, **fields})


def _key() -> str:
    return secrets.token_hex(32)


def _winners(outcomes: list[Any]) -> list[int]:
    for outcome in outcomes:
        if outcome is not None and not isinstance(outcome, Conflict):
            raise outcome
    return [number for number, outcome in enumerate(outcomes) if outcome is None]


def _engine_of(store: SQLAlchemyStore) -> AsyncEngine:
    """The engine that the store has in this event loop."""
    return store._offices[asyncio.get_running_loop()].engine


class _Database:
    """One of the databases that the tests run on."""

    def __init__(self, name: str, url: str, server: MariaDBServer | PostgresServer | None) -> None:
        self.name = name
        self.url = url  # of a store
        self.server = server  # None: SQLite

    @contextlib.asynccontextmanager
    async def stores(self, count: int, **options: Any) -> AsyncIterator[list[SQLAlchemyStore]]:
        """Stores that share a new table."""
        options.setdefault("table", f"t{secrets.token_hex(6)}")
        stores = [SQLAlchemyStore(self.url, **options) for _ in range(count)]
        await stores[0].create_table()
        try:
            yield stores
        finally:
            for store in stores:
                await store.close()

    @contextlib.asynccontextmanager
    async def store(self, **options: Any) -> AsyncIterator[SQLAlchemyStore]:
        async with self.stores(1, **options) as stores:
            yield stores[0]

    @contextlib.asynccontextmanager
    async def engine(self, **options: Any) -> AsyncIterator[AsyncEngine]:
        """An engine of an app's own."""
        engine = create_async_engine(self.url.removeprefix("sqlalchemy+"), **options)
        try:
            yield engine
        finally:
            await engine.dispose()

    async def connections(self) -> int:
        """How many the server has, beside that which asks."""
        if isinstance(self.server, MariaDBServer):
            async with _ask_mariadb(self.server) as ask:
                rows = await ask("SELECT ID FROM information_schema.PROCESSLIST WHERE USER NOT LIKE '%system%'")
                return len(rows) - 1
        if isinstance(self.server, PostgresServer):
            admin = await asyncpg.connect(self.server.url, server_settings={"application_name": "admin"})
            query = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = $1 AND application_name <> $2"
            try:
                count: int = await admin.fetchval(query, "client backend", "admin")
                return count
            finally:
                await admin.close()
        return sum("_connection_worker_thread" in thread.name for thread in threading.enumerate())


@contextlib.asynccontextmanager
async def _ask_mariadb(server: MariaDBServer) -> AsyncIterator[Callable[[str], Awaitable[Any]]]:
    connection = await asyncmy.connect(
        host="127.0.0.1", port=server.port, user=server.user, password=server.password, database=server.database
    )

    async def ask(statement: str) -> Any:
        async with connection.cursor() as cursor:
            await cursor.execute(statement)
            return await cursor.fetchall()

    try:
        yield ask
    finally:
        await connection.ensure_closed()


async def _eventually(ask: Callable[[], Awaitable[int]], most: int) -> int:
    """Return what `ask` says, as soon as it is no more than expected: a server ends things in its own time."""
    deadline = time.monotonic() + 5
    while True:
        found = await ask()
        if found <= most or time.monotonic() > deadline:
            return found
        await asyncio.sleep(0.02)


def _given_back(database: _Database) -> Iterator[_Database]:
    """Lend a database to a test; afterwards no connection is left, neither here nor at the server."""
    yield database
    gc.collect()
    assert asyncio.run(_eventually(database.connections, 0)) == 0


@pytest.fixture
def on_mariadb(mariadb: MariaDBServer) -> Iterator[_Database]:
    yield from _given_back(_Database("mariadb", _mariadb_url(mariadb), mariadb))


@pytest.fixture
def on_postgres(postgres: PostgresServer) -> Iterator[_Database]:
    yield from _given_back(_Database("postgres", _postgres_url(postgres), postgres))


@pytest.fixture
def on_sqlite(tmp_path: Path) -> Iterator[_Database]:
    yield from _given_back(_Database("sqlite", f"sqlalchemy+sqlite+aiosqlite:///{tmp_path / 'app.db'}", None))


@pytest.fixture(params=["sqlite", "mariadb", "postgres"])
def database(request: pytest.FixtureRequest) -> _Database:
    found: _Database = request.getfixturevalue(f"on_{request.param}")
    return found


@pytest.fixture(params=["mariadb", "postgres"])
def on_server(request: pytest.FixtureRequest) -> _Database:
    found: _Database = request.getfixturevalue(f"on_{request.param}")
    return found


def test_it_is_all_that_a_store_can_be() -> None:
    """It implements each of the optional protocols."""
    store = SQLAlchemyStore("mysql+asyncmy://localhost/app")
    for protocol in (Store, Lifespan, Purge, UserIndex, Wipe):
        assert isinstance(store, protocol)


# Values


async def test_users_are_compared_exactly(database: _Database) -> None:
    """Names that differ in case, accents or trailing spaces are different users, and come back as they were."""
    names = ["Ann", "ann", "ann ", " ann", "Änn", "A\u0308nn", "", " ", "  ", "ss", "ß", "x" * 5000, "None"]
    async with database.store() as store:
        keys = {name: _key() for name in names}
        for name, key in keys.items():
            await store.create(key, _record(user=name, ip=name, user_agent=name))
        for name, key in keys.items():
            [(found, record)] = await store.of_user(name)
            assert found == key
            assert (record.user, record.ip, record.user_agent) == (name, name, name)
        assert await store.of_user("ANN") == []


async def test_nothing_is_stored_as_an_empty_text(on_sqlite: _Database) -> None:
    """Oracle would keep an empty text, and empty data, as NULL: neither is lost by that."""
    async with on_sqlite.store() as store:
        key, record = _key(), _record(data=b"", user="", ip=" ", user_agent=None)
        await store.create(key, record)
        async with _engine_of(store).begin() as connection:
            row = (await connection.execute(sa.select(store.table))).one()
            assert (row.user_id, row.ip, row.user_agent) == (" ", "  ", None)
            await connection.execute(sa.update(store.table).values(data=None))
        assert await store.load(key) == record


async def test_texts_that_databases_refuse(database: _Database) -> None:
    """A user's name that cannot be kept is refused everywhere; what a client sent is kept without the bad part."""
    async with database.store() as store:
        for name in ("a\0b", "a\ud800b"):
            key = _key()
            with pytest.raises(ConfigurationError, match="user_key"):
                await store.create(key, _record(user=name))
            assert await store.load(key) is None
            assert await store.of_user(name) == []
            await store.create(key, _record(user_agent=name))
            found = await store.load(key)
            assert found is not None and found.user_agent in ("ab", "a?b")


@pytest.mark.parametrize("size", [64 * 1024, 1024 * 1024])
async def test_large_data(database: _Database, size: int) -> None:
    """A session of 64 KiB, and one of 1 MiB, come back byte by byte."""
    async with database.store() as store:
        key, data = _key(), secrets.token_bytes(size)
        await store.create(key, _record(data=data))
        found = await store.load(key)
        assert found is not None and found.data == data
        await store.update(key, _record(data=data[::-1], version=2), version=1)
        found = await store.load(key)
        assert found is not None and found.data == data[::-1]


async def test_moments_are_exact(database: _Database) -> None:
    """A moment comes back to the last bit, so that it expires when it says."""
    async with database.store() as store:
        for moment in (2_000_000_000.123456, 2_000_000_000.1234567, 1e10 / 3, 4102444800.0):
            key, record = _key(), _record(expires_at=moment, created_at=moment / 7, serve_until=moment / 3)
            await store.create(key, record)
            assert await store.load(key) == record


async def test_purge_of_more_than_one_statement_holds(database: _Database) -> None:
    """A purge of many keys goes on as far as its limit."""
    clock = Clock()
    async with database.store(clock=clock) as store:
        async with _engine_of(store).begin() as connection:
            old = {"data": b"", "version": 1, "created_at": 1.0, "expires_at": 2.0, "serve_until": 0.0}
            await connection.execute(sa.insert(store.table), [{**old, "key": _key()} for _ in range(1203)])
        await store.create(_key(), _record())
        assert [await store.purge(1100), await store.purge(1100), await store.purge(1100)] == [1100, 103, 0]


async def test_purge_leaves_what_was_replaced(database: _Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that was put in an expired one's place while a purge was under way stays."""
    async with database.store() as store:
        key = _key()
        await store.create(key, _record(expires_at=time.time() - 1))
        ask = store._ask

        async def with_a_rival(work: Any, **options: Any) -> Any:
            found = await ask(work, **options)
            if found == [key]:
                monkeypatch.undo()
                await store.create(key, _record(data=b"new"))
            return found

        monkeypatch.setattr(store, "_ask", with_a_rival)
        assert await store.purge(10) == 0
        found = await store.load(key)
        assert found is not None and found.data == b"new"


# Races


async def test_one_of_many_stores_wins(database: _Database) -> None:
    """Of many stores that create, update or rotate at once exactly one succeeds."""
    async with database.stores(3) as stores:
        for _ in range(3):
            key, new_keys = _key(), [_key() for _ in range(24)]
            records = [_record(data=b"%d" % number) for number in range(24)]
            creates = [stores[n % 3].create(key, record) for n, record in enumerate(records)]
            assert len(_winners(await asyncio.gather(*creates, return_exceptions=True))) == 1
            updates = [
                stores[n % 3].update(key, replace(record, version=2), version=1) for n, record in enumerate(records)
            ]
            [winner] = _winners(await asyncio.gather(*updates, return_exceptions=True))
            found = await stores[0].load(key)
            assert found is not None and found.data == b"%d" % winner
            rotations = [
                stores[n % 3].rotate(key, new_key, _record(version=3), _tombstone(new_key, version=3), version=2)
                for n, new_key in enumerate(new_keys)
            ]
            [winner] = _winners(await asyncio.gather(*rotations, return_exceptions=True))
            found = await stores[1].load(key)
            assert found is not None and found.successor == new_keys[winner]
            assert [n for n, new_key in enumerate(new_keys) if await stores[2].load(new_key)] == [winner]


@pytest.mark.parametrize("before", ["nothing", "expired"])
async def test_one_of_many_rotations_gets_a_new_key(database: _Database, before: str) -> None:
    """Of 50 sessions that move to one and the same key one gets it, and the others stay as they were."""
    async with database.stores(2) as stores:
        keys, new_key = [_key() for _ in range(50)], _key()
        for key in keys:
            await stores[0].create(key, _record(data=key.encode()))
        if before == "expired":
            await stores[0].create(new_key, _record(expires_at=time.time() - 1, user="someone"))
        rotations = [
            stores[n % 2].rotate(key, new_key, _record(data=key.encode(), version=2), _tombstone(new_key), version=1)
            for n, key in enumerate(keys)
        ]
        [winner] = _winners(await asyncio.gather(*rotations, return_exceptions=True))
        moved = await stores[0].load(new_key)
        assert moved is not None and moved.data == keys[winner].encode() and moved.user is None
        for number, key in enumerate(keys):
            found = await stores[0].load(key)
            assert found is not None and (found.successor is not None) is (number == winner)


async def test_rotations_that_cross(on_server: _Database) -> None:
    """50 rotations that want each other's keys, in both directions, end in success or Conflict: no deadlock comes out.

    The engines are an app's, which leave the isolation to the database.
    """
    async with on_server.engine() as one, on_server.engine() as other, on_server.store() as store:
        stores = [SQLAlchemyStore(engine, table=store.table.name) for engine in (one, other)]
        for _ in range(3):
            keys = [_key() for _ in range(6)]
            for key in keys[:3]:
                await store.create(key, _record())
            for key in keys[3:]:
                await store.create(key, _record(expires_at=time.time() - 1))
            pairs = [random.sample(keys, 2) for _ in range(50)]
            rotations = [
                stores[n % 2].rotate(key, new_key, _record(), _tombstone(new_key), version=1)
                for n, (key, new_key) in enumerate(pairs)
            ]
            purges = [stores[n % 2].purge(10) for n in range(4)]
            outcomes = await asyncio.gather(*rotations, *purges, return_exceptions=True)
            _winners([outcome for outcome in outcomes if not isinstance(outcome, int)])
            live = [found for key in keys if (found := await store.load(key)) and found.successor is None]
            assert len(live) == 3  # as many as before: none was lost, and none doubled


async def test_deadlock_is_tried_again(on_mariadb: _Database) -> None:
    """A rotation that the database ends to resolve a deadlock is run again, whole."""
    server = on_mariadb.server
    assert isinstance(server, MariaDBServer)
    async with on_mariadb.store() as store, _ask_mariadb(server) as other, _ask_mariadb(server) as admin:
        name = store.table.name
        [[_, before]] = await admin("SHOW GLOBAL STATUS LIKE 'Innodb_deadlocks'")
        key, new_key = _key(), _key()
        await store.create(key, _record())
        heavy = [_key() for _ in range(30)]
        for one in heavy:
            await store.create(one, _record())
        await store.create(new_key, _record(expires_at=time.time() - 1))
        # The other has written more: it is the rotation that is ended.
        await other("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
        await other("START TRANSACTION")
        for one in [*heavy, new_key]:
            await other(f"UPDATE {name} SET data = 'x' WHERE `key` = '{one}'")
        rotation = asyncio.ensure_future(store.rotate(key, new_key, _record(version=2), _tombstone(new_key), version=1))
        waiting = "SELECT 1 FROM information_schema.INNODB_TRX WHERE trx_state = 'LOCK WAIT'"
        while not await admin(waiting):
            assert not rotation.done()
            await asyncio.sleep(0.15)  # the server looks again when nobody has asked for 0.1 seconds
        await other(f"UPDATE {name} SET data = 'y' WHERE `key` = '{key}'")
        await other("ROLLBACK")
        await rotation
        [[_, after]] = await admin("SHOW GLOBAL STATUS LIKE 'Innodb_deadlocks'")
        assert int(after) == int(before) + 1
        found = await store.load(key)
        assert found is not None and found.successor == new_key
        assert await store.load(new_key) is not None


async def test_rotation_to_its_own_key(database: _Database) -> None:
    """A session cannot move to where it is."""
    async with database.store() as store:
        key = _key()
        await store.create(key, _record())
        with pytest.raises(Conflict):
            await store.rotate(key, key, _record(version=2), _tombstone(key), version=1)
        found = await store.load(key)
        assert found is not None and found.version == 1


async def test_driver_that_counts_changed_rows_only(on_mariadb: _Database) -> None:
    """A touch that changes nothing reports a session that is there, also where the driver counts only what changed."""

    async def connect(**options: Any) -> Any:
        del options["client_flag"]  # FOUND_ROWS, which SQLAlchemy asks for
        return await asyncmy.connect(**options)

    async with on_mariadb.store() as store, on_mariadb.engine(connect_args={"async_creator_fn": connect}) as engine:
        other = SQLAlchemyStore(engine, table=store.table.name)
        key, until = _key(), time.time() + 3600
        await other.create(key, _record(expires_at=until))
        assert await other.touch(key, until - 60) is True
        assert await other.touch(key, until + 60) is True
        assert await other.touch(_key(), until) is False
        found = await other.load(key)
        assert found is not None and found.expires_at == until + 60


# The table


async def test_missing_table(database: _Database) -> None:
    """Without its table an app does not start, and the message names the ways to make it; when it runs, it is down."""
    store = SQLAlchemyStore(database.url, table="nowhere")
    ways = r"roomkey sqlalchemy create URL --table nowhere.*store\.create_table\(\)"
    with pytest.raises(ConfigurationError, match=ways):
        await store.open()
    for operation in (store.load(_key()), store.create(_key(), _record()), store.wipe(), store.purge(3)):
        with pytest.raises(StoreUnavailable, match=ways):
            await operation
    assert await store.create_table() is True
    await store.open()
    await store.create(_key(), _record())
    await store.close()


async def test_create_table_is_idempotent(database: _Database) -> None:
    """The table is made once, also from several places at once; sessions in it stay, and a lost index comes back."""
    stores = [SQLAlchemyStore(database.url, table=f"many_{database.name}") for _ in range(6)]
    made = await asyncio.gather(*(store.create_table() for store in stores))
    assert made.count(True) == 1
    key = _key()
    await stores[0].create(key, _record())
    async with database.engine() as engine:
        async with engine.begin() as connection:
            [index] = [index for index in stores[0].table.indexes if str(index.name).endswith("_expires_at")]
            await connection.run_sync(index.drop)
        assert await stores[1].create_table() is False
        async with engine.connect() as connection:
            found = await connection.run_sync(lambda c: sa.inspect(c).get_indexes(f"many_{database.name}"))
    assert len(found) == 2
    assert await stores[1].load(key) is not None
    for store in stores:
        await store.close()


async def test_table_in_the_metadata_of_the_app(database: _Database) -> None:
    """A table made by the app's own migrations, or with the printed SQL, is as good."""
    metadata = sa.MetaData(naming_convention={"ix": "app_%(table_name)s", "pk": "pk_%(table_name)s"})
    assert session_table(metadata, "of_migrations") is metadata.tables["of_migrations"]
    async with database.engine() as engine:
        async with engine.begin() as connection:
            await connection.run_sync(metadata.create_all)
            for statement in SQLAlchemyStore(engine, table="of_sql").ddl().split(";\n")[:-1]:
                await connection.exec_driver_sql(statement)
        for table in ("of_migrations", "of_sql"):
            store = SQLAlchemyStore(f"{database.url}?table={table}")
            await store.open()
            assert await store.create_table() is False
            key = _key()
            await store.create(key, _record(user="42"))
            assert [found for found, _ in await store.of_user("42")] == [key]
            await store.close()


async def test_table_in_a_schema(on_server: _Database) -> None:
    """A table may be in another schema."""
    async with on_server.engine() as engine, engine.begin() as connection:
        await connection.exec_driver_sql("CREATE SCHEMA shop")
    async with on_server.store(table="shop.Basket") as store:
        await store.open()
        key = _key()
        await store.create(key, _record(user="42"))
        assert [found for found, _ in await store.of_user("42")] == [key]
        await store.wipe()
        assert await store.load(key) is None


async def test_wipe_without_the_right_to_is_no_outage(on_server: _Database) -> None:
    """The message says which right; sessions go on."""
    async with on_server.store(table="guarded") as owner, on_server.engine() as engine:
        await owner.create_table()
        async with engine.begin() as connection:
            for statement in (
                ["CREATE USER weak@'%%' IDENTIFIED BY 'weak'", "GRANT SELECT, INSERT ON guarded TO weak@'%%'"]
                if engine.dialect.name == "mysql"
                else ["CREATE ROLE weak LOGIN PASSWORD 'weak'", "GRANT SELECT, INSERT ON guarded TO weak"]
            ):
                await connection.exec_driver_sql(statement)
        weak = SQLAlchemyStore(engine.url.set(username="weak", password="weak"), table="guarded")
        key = _key()
        await weak.create(key, _record())
        with pytest.raises(ConfigurationError, match="TRUNCATE"):
            await weak.wipe()
        assert await weak.load(key) is not None
        await weak.close()


async def test_strange_tables_are_refused(database: _Database) -> None:
    """Another app's table is refused, to use and to make; so is one that knows no transactions."""
    name = f"strange_{database.name}"
    async with database.engine() as engine, engine.begin() as connection:
        await connection.exec_driver_sql(f"CREATE TABLE {name} (data INTEGER, version INTEGER)")
    store = SQLAlchemyStore(database.url, table=name)
    for operation in (store.open(), store.create_table()):
        with pytest.raises(ConfigurationError, match=r"lacks created_at, expires_at, ip, key, .*table of their own"):
            await operation
    await store.close()
    if database.name == "mariadb":
        async with database.store() as store, database.engine() as engine:
            async with engine.begin() as connection:
                await connection.exec_driver_sql(f"ALTER TABLE {store.table.name} ENGINE = MyISAM")
            with pytest.raises(ConfigurationError, match=f"MyISAM.*ALTER TABLE {store.table.name} ENGINE = InnoDB"):
                await store.open()


@pytest.mark.parametrize("dialect", [mssql.dialect(), oracle.dialect(), mysql.dialect()], ids=lambda d: d.name)
def test_other_dialects(dialect: Any) -> None:
    """The table and every statement can be said in the languages of databases that the tests do not run on."""
    store = SQLAlchemyStore("mysql+asyncmy://localhost/app", table="shop.sessions")
    store._dialect = dialect
    ddl = store.ddl()
    expected = {
        "mssql": ["[key] NVARCHAR(64) COLLATE Latin1_General_BIN2 NOT NULL", "data VARBINARY(max)", "DOUBLE PRECISION"],
        "oracle": ['"key"' if '"key"' in ddl else "key VARCHAR2(64 CHAR) NOT NULL", "data BLOB", "BINARY_DOUBLE"],
        "mysql": [
            "`key` CHAR(64) CHARACTER SET ascii COLLATE ascii_bin",
            "data MEDIUMBLOB",
            "ENGINE=InnoDB",
            "utf8mb4",
        ],
    }
    for part in expected[dialect.name]:
        assert part in ddl
    sql = store._sql
    statements = [value for value in vars(sql).values() if isinstance(value, sa.Executable)]
    assert len(statements) >= 11
    for statement in [*statements, sql.expired.limit(500)]:
        text = str(statement.compile(dialect=dialect))
        assert "sessions" in text
    some = {"mssql": "TOP", "oracle": "FETCH FIRST", "mysql": "LIMIT"}[dialect.name]
    assert some in str(sql.expired.limit(500).compile(dialect=dialect))
    assert sql.wipe(dialect)[-1] == "TRUNCATE TABLE shop.sessions"


async def test_wipe_does_not_wait_for_ever(on_server: _Database) -> None:
    """Where another transaction holds the table, `wipe` gives up instead of letting everybody wait; it works later."""
    async with on_server.store() as store, on_server.engine() as engine:
        key = _key()
        await store.create(key, _record())
        async with engine.connect() as connection:
            await connection.execute(sa.select(store.table))
            with pytest.raises(StoreUnavailable, match="locked by another transaction"):
                await store.wipe()
            assert await store.load(key) is not None
        await store.wipe()
        assert await store.load(key) is None
        # Whoever gets a connection now is as patient as before.
        ask = "SELECT @@lock_wait_timeout" if on_server.name == "mariadb" else "SHOW lock_timeout"
        async with engine.connect() as connection:
            usual = await connection.scalar(sa.text(ask))
        async with _engine_of(store).connect() as connection:
            assert await connection.scalar(sa.text(ask)) == usual


# What is wrong with the server, or the URL


_SECRET = "s3cr3t"


def _shows(error: BaseException, secret: str) -> bool:
    """Whether a traceback of it, with all its causes, or its text shows the secret."""
    shown = "".join(traceback.format_exception(error)) + repr(error) + str(error)
    return secret in shown


async def test_wrong_account(on_server: _Database) -> None:
    """A wrong password and a missing database are told apart from an outage, without the password."""
    server = on_server.server
    assert server is not None
    make = _mariadb_url if on_server.name == "mariadb" else _postgres_url
    for parts in ({"password": _SECRET}, {"user": "stranger", "password": _SECRET}, {"database": "nowhere"}):
        store = SQLAlchemyStore(make(server, **parts))  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match="user, password and database in the URL") as refused:
            await store.open()
        with pytest.raises(StoreUnavailable, match="user, password and database in the URL"):
            await store.load(_key())
        for secret in (_SECRET, server.password):
            assert not _shows(refused.value, secret) and secret not in repr(store)
        await store.close()


async def test_server_that_is_down(on_server: _Database) -> None:
    """A server that is down is an outage, when the app starts too, without the password."""
    server = on_server.server
    assert server is not None
    server.stop()
    try:
        store = SQLAlchemyStore(on_server.url)
        for operation in (store.open(), store.load(_key()), store.create(_key(), _record())):
            with pytest.raises(StoreUnavailable, match="cannot be reached") as down:
                await operation
            assert not _shows(down.value, server.password)
        await store.close()
    finally:
        server.start()


async def test_sqlite_file_that_cannot_be_opened(tmp_path: Path) -> None:
    """A file that cannot be made, or is no database, is named as such."""
    (tmp_path / "text").write_text("this is no database at all" * 100)
    for name, words in (("no/where.db", "directory"), ("text", "no database")):
        store = SQLAlchemyStore(f"sqlalchemy+sqlite+aiosqlite:///{tmp_path / name}")
        with pytest.raises(ConfigurationError, match=words):
            await store.open()
        await store.close()


async def test_writes_take_turns_in_sqlite(on_sqlite: _Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes of one app do not find each other's locks, also where its engine has many connections and no patience."""
    monkeypatch.setattr(store_module, "SQLITE_PATIENCE", 0.0)

    async with on_sqlite.engine(connect_args={"timeout": 0.0}) as engine:
        store = SQLAlchemyStore(engine)
        await store.create_table()
        keys = [_key() for _ in range(50)]
        await asyncio.gather(*(store.create(key, _record()) for key in keys))
        await asyncio.gather(*(store.rotate(key, new := _key(), _record(), _tombstone(new), version=1) for key in keys))


async def test_locked_sqlite_file(on_sqlite: _Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write waits for another process's lock, and for a lock that stays it does not wait for ever."""
    monkeypatch.setattr(store_module, "SQLITE_PATIENCE", 0.4)

    async with on_sqlite.store() as store:
        other = sqlite3.connect(tmp_path / "app.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        key = _key()
        write = asyncio.ensure_future(store.create(key, _record()))
        await asyncio.sleep(0.15)  # longer than SQLite itself waits
        assert not write.done()
        other.execute("COMMIT")
        await write
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="locked by another process"):
            await store.delete(key)
        other.close()
        await store.delete(key)


@pytest.mark.parametrize(
    ("server", "words"),
    [
        (f"sqlalchemy+mysql://me:{_SECRET}@host/app", "no driver for asyncio"),
        (f"mysql+pymysql://me:{_SECRET}@host/app", "pymysql"),
        (f"sqlite:///{_SECRET}.db", "no driver for asyncio.*sqlite.aiosqlite"),
        (f"sqlalchemy+mysql+aiomysql://me:{_SECRET}@host/app", "pip install aiomysql"),
        (f"sqlalchemy+cobol+fast://me:{_SECRET}@host/app", "knows no cobol.fast"),
        (f"mysql+asyncmy://me:pass@{_SECRET}@host/app", "%40"),
        (f"mysql+asyncmy://me:pass@{_SECRET}:x@host/app", "URL that cannot be read"),
        (f"{_SECRET}", "URL that cannot be read"),
        (f"mysql+asyncmy://me:{_SECRET}@host/app?charset=latin1", "utf8mb4"),
        (f"mariadb+asyncmy://me:{_SECRET}@host/app?charset={_SECRET}", "utf8mb4"),
        ("sqlite+aiosqlite://", "memory://"),
        ("sqlite+aiosqlite:///:memory:", "memory://"),
        ("sqlite+aiosqlite:///file:x?mode=memory&uri=true", "memory://"),
        (42, "int; it takes an AsyncEngine"),
        (sa.create_engine("sqlite:///x.db", poolclass=NullPool), "create_async_engine"),
        (create_async_engine("sqlite+aiosqlite://", poolclass=StaticPool), "memory://"),
    ],
)
def test_server_that_is_none(server: Any, words: str) -> None:
    """What is no URL and no engine for asyncio is refused when the store is made, and no password is shown."""
    with pytest.raises(ConfigurationError, match=words) as refused:
        SQLAlchemyStore(server)
    assert not _shows(refused.value, _SECRET) or f'"{_SECRET}' in traceback.format_exception(refused.value)[0]


@pytest.mark.parametrize("table", ["", "a b", "a.b.c", "a;b", "x" * 51, 7])
def test_table_that_is_no_name(table: Any) -> None:
    """A table's name is refused when it is none."""
    with pytest.raises(ConfigurationError, match="table"):
        SQLAlchemyStore("mysql+asyncmy://localhost/app", table=table)


async def test_options_that_the_driver_does_not_take(on_mariadb: _Database) -> None:
    """A misspelt option in the URL is a fault of the configuration; its value is not shown."""
    store = SQLAlchemyStore(f"{on_mariadb.url}?pasword={_SECRET}")
    with pytest.raises(ConfigurationError, match="options right") as refused:
        await store.open()
    assert not _shows(refused.value, _SECRET)
    await store.close()


def test_repr_shows_no_password() -> None:
    """What a store shows of itself is driver, host, database and table."""
    store = SQLAlchemyStore(f"sqlalchemy+mysql+asyncmy://me:{_SECRET}@host:3307/app?read_default_file={_SECRET}")
    assert repr(store) == "<SQLAlchemyStore 'mysql+asyncmy://host:3307/app', table 'roomkey_session'>"
    engine = create_async_engine(f"mysql+asyncmy://me:{_SECRET}@host/app")
    assert _SECRET not in repr(SQLAlchemyStore(engine, table="t"))


# An engine of the app's own


async def test_engine_of_the_app_is_not_disposed(database: _Database) -> None:
    """The store leaves the app's engine, its connections and its options as they are."""
    async with database.engine(pool_size=1, max_overflow=0) as engine:
        store = SQLAlchemyStore(engine, table=f"of_{database.name}")
        await store.create_table()
        key = _key()
        await store.create(key, _record())
        for _ in range(2):
            async with engine.connect() as connection:
                there = (await connection.get_raw_connection()).driver_connection
            await store.rotate(key, key := _key(), _record(), _tombstone(key), version=1)
            await store.close()
            assert engine.sync_engine.pool.checkedin() == 1  # type: ignore[attr-defined]
            async with engine.connect() as connection:
                assert (await connection.get_raw_connection()).driver_connection is there
                assert await connection.get_isolation_level() == connection.sync_connection.default_isolation_level  # type: ignore[union-attr]
        assert engine.sync_engine.hide_parameters is False


async def test_engine_of_the_app_in_autocommit(database: _Database) -> None:
    """Where the app's engine commits each statement, a rotation is one step all the same."""
    async with database.engine(isolation_level="AUTOCOMMIT") as engine, database.store() as other:
        store = SQLAlchemyStore(engine, table=other.table.name)
        key, taken = _key(), _key()
        await store.create(key, _record())
        await store.create(taken, _record())
        with pytest.raises(Conflict):
            await store.rotate(key, taken, _record(version=2), _tombstone(taken), version=1)
        found = await store.load(key)
        assert found is not None and found.successor is None


async def test_engine_of_the_app_logs_no_session(database: _Database, caplog: pytest.LogCaptureFixture) -> None:
    """An app's engine that logs its statements logs no session's data, user or key."""
    caplog.set_level(logging.INFO)
    async with database.engine(echo=True) as engine, database.store() as other:
        store = SQLAlchemyStore(engine, table=other.table.name)
        key = _key()
        await store.create(key, _record(data=_SECRET.encode(), user=f"{_SECRET}@example.com"))
        await store.update(key, _record(data=_SECRET.encode(), version=2), version=1)
        await store.load(key)
        with pytest.raises(Conflict) as taken:
            await store.create(key, _record(data=_SECRET.encode()))
        assert not _shows(taken.value, _SECRET)
    assert "INSERT INTO" in caplog.text
    assert _SECRET not in caplog.text and key not in caplog.text


# Lost connections


@pytest.mark.parametrize("whose", ["ours", "the app's"])
@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_restart_of_the_server(on_server: _Database, how: str, whose: str) -> None:
    """After the server was restarted, no operation fails, whichever comes first: also those that are not repeatable."""
    server = on_server.server
    assert server is not None

    async def again() -> None:
        stop = server.stop if how == "stop" else server.kill
        await asyncio.gather(*(store.load(key) for _ in range(5)))  # several connections
        stop()
        server.start()
        await asyncio.sleep(0.05)  # the drivers hear of it

    async with on_server.store() as made, on_server.engine() as engine:
        store = made if whose == "ours" else SQLAlchemyStore(engine, table=made.table.name)
        key, new_key = _key(), _key()
        await store.create(key, _record(user="42"))
        await again()
        assert await store.load(key) is not None
        await again()
        await store.create(_key(), _record())
        await again()
        await store.update(key, _record(version=2, user="42"), version=1)
        await again()
        assert await store.touch(key, time.time() + 7200)
        await again()
        await store.rotate(key, new_key, _record(version=3, user="42"), _tombstone(new_key), version=2)
        await again()
        assert [found for found, _ in await store.of_user("42")] == [new_key]
        await again()
        assert await store.purge(10) == 0
        await again()
        await store.delete(new_key)
        await again()
        await store.wipe()


async def test_restart_that_the_driver_did_not_notice(on_server: _Database) -> None:
    """What is repeatable is repeated on a new connection; a swap says that it does not know, never Conflict."""
    server = on_server.server
    assert server is not None
    async with on_server.store() as store:
        key, new_key = _key(), _key()
        await store.create(key, _record())
        server.restart()  # the event loop stands still meanwhile
        assert await store.load(key) is not None
        server.restart()
        await store.rotate(key, new_key, _record(version=2), _tombstone(new_key), version=1)
        server.restart()
        with pytest.raises(StoreUnavailable, match="connection to it was lost"):
            await store.update(new_key, _record(version=3), version=2)
        assert await store.load(new_key) is not None


@contextlib.asynccontextmanager
async def _cut(server: MariaDBServer, at: bytes, after: bytes) -> AsyncIterator[int]:
    """A way to the server that is cut, once, when a client sends `at` after `after`. Yields its port."""
    cuts = 0
    writers: set[asyncio.StreamWriter] = set()

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
        there, back = await asyncio.open_connection("127.0.0.1", server.port)
        writers.update((writer, back))
        await asyncio.gather(pump(reader, back, up=True), pump(there, writer, up=False))

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield listening.sockets[0].getsockname()[1]
        assert cuts == 1
    finally:
        listening.close()
        for writer in writers:
            writer.close()
        for writer in writers:
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


@pytest.mark.parametrize(("at", "works"), [(b"INSERT", True), (b"COMMIT", False)])
async def test_rotation_whose_connection_is_lost(on_mariadb: _Database, at: bytes, works: bool) -> None:
    """A rotation that lost its connection before it was committed is run again; while it was, nobody knows."""
    server = on_mariadb.server
    assert isinstance(server, MariaDBServer)
    async with on_mariadb.store() as store, _cut(server, at, after=b"UPDATE") as port:
        other = SQLAlchemyStore(on_mariadb.url.replace(f":{server.port}/", f":{port}/"), table=store.table.name)
        key, new_key = _key(), _key()
        await store.create(key, _record())
        rotation = other.rotate(key, new_key, _record(version=2), _tombstone(new_key), version=1)
        if works:
            await rotation
        else:
            with pytest.raises(StoreUnavailable, match="connection to it was lost"):
                await rotation
        assert (await store.load(new_key) is not None) is works
        await other.close()


@pytest.mark.parametrize(("operation", "works"), [("update", False), ("touch", True)])
async def test_write_whose_connection_is_lost(on_mariadb: _Database, operation: str, works: bool) -> None:
    """A swap that lost its connection on its way is not sent again: the first may have been done. A touch is."""
    server = on_mariadb.server
    assert isinstance(server, MariaDBServer)
    async with on_mariadb.store() as store, _cut(server, b"UPDATE", after=b"UPDATE") as port:
        other = SQLAlchemyStore(on_mariadb.url.replace(f":{server.port}/", f":{port}/"), table=store.table.name)
        key = _key()
        await store.create(key, _record())
        if works:
            assert await other.touch(key, time.time() + 7200)
        else:
            with pytest.raises(StoreUnavailable, match="connection to it was lost"):
                await other.update(key, _record(version=2), version=1)
        await other.close()


# Cancelling


def _busy(store: SQLAlchemyStore) -> Callable[[], Awaitable[int]]:
    """How many connections are not in the pool."""
    pool: Any = _engine_of(store).sync_engine.pool

    async def busy() -> int:
        return int(pool.checkedout())

    return busy


@pytest.fixture(params=["ours", "the app's"])
def whose(request: pytest.FixtureRequest) -> str:
    """Whose engine it is."""
    return str(request.param)


@contextlib.asynccontextmanager
async def _store_of(database: _Database, whose: str) -> AsyncIterator[SQLAlchemyStore]:
    """A store, perhaps with an engine of the app's, with few connections: one that gets lost is missed."""
    async with database.store() as made, database.engine(pool_size=2, max_overflow=0, pool_timeout=5) as engine:
        store = made if whose == "ours" else SQLAlchemyStore(engine, table=made.table.name)
        yield store
        await store.close()


async def test_silent_server(on_server: _Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is silent costs the guard's time and no more; afterwards all is as before, and nothing leaked."""
    monkeypatch.setattr(operations, "_GIVE_UP", 0.5)

    server = on_server.server
    assert server is not None
    async with on_server.store() as store:
        guarded = GuardedStore(store, 0.2)
        key = _key()
        await guarded.create(key, _record())
        server.pause()
        try:
            for _ in range(2):
                started = time.monotonic()
                calls = [
                    *(guarded.load(key) for _ in range(15)),
                    *(guarded.create(_key(), _record()) for _ in range(5)),
                    guarded.rotate(key, _key(), _record(version=2), _tombstone(key), version=1),
                ]
                outcomes = await asyncio.gather(*calls, return_exceptions=True)
                assert all(isinstance(outcome, StoreUnavailable) for outcome in outcomes)
                assert time.monotonic() - started < 10  # a busy machine; without the guard, for ever
            # While it is still silent: nothing waits for an answer for which nobody waits.
            assert await _eventually(_busy(store), 0) == 0
        finally:
            server.resume()
        patient = GuardedStore(store, 10)
        loads = await asyncio.gather(*(patient.load(key) for _ in range(30)))
        assert None not in loads
        assert await _eventually(on_server.connections, 10) <= 10


async def test_cancelled_at_any_moment(database: _Database, whose: str) -> None:
    """Operations cancelled at random moments leak no connection, and nobody gets another one's answer."""
    async with _store_of(database, whose) as store:
        keys = [_key() for _ in range(20)]
        for key in keys:
            await store.create(key, _record(data=key.encode()))

        async def one(number: int) -> None:
            key = keys[number % 20]
            with contextlib.suppress(TimeoutError, Conflict):
                async with asyncio.timeout(random.uniform(0, 0.03)):
                    if number % 5 == 0:
                        new_key = _key()
                        new = _record(data=new_key.encode())
                        await store.create(new_key, new)
                        successor = _key()
                        await store.rotate(new_key, successor, new, _tombstone(successor), version=1)
                    else:
                        found = await store.load(key)
                        assert found is not None and found.data == key.encode()

        for _ in range(8):
            await asyncio.gather(*(one(number) for number in range(40)))
        assert await _eventually(_busy(store), 0) == 0
        found = await asyncio.gather(*(store.load(key) for key in keys))
        assert [record and record.data for record in found] == [key.encode() for key in keys]


async def test_cancelled_rotation_is_whole_or_not_at_all(database: _Database, whose: str) -> None:
    """Of a rotation that was cancelled at any of its steps there is all or nothing, and its connection is not lost."""
    async with _store_of(database, whose) as store:
        pairs = [(_key(), _key()) for _ in range(40)]
        for key, _ in pairs:
            await store.create(key, _record())
        for number, (key, new_key) in enumerate(pairs):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(number * 0.0002):
                    await store.rotate(key, new_key, _record(version=2), _tombstone(new_key), version=1)
        assert await _eventually(_busy(store), 0) == 0
        for key, new_key in pairs:
            old, new = await store.load(key), await store.load(new_key)
            assert old is not None and (old.successor == new_key) is (new is not None)


async def test_cancelled_while_it_waits_its_turn(on_sqlite: _Database, tmp_path: Path) -> None:
    """An operation that was cancelled before it began is not done later."""
    async with on_sqlite.store() as store:
        other = sqlite3.connect(tmp_path / "app.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        first, second, third = _key(), _key(), _key()
        writes = [asyncio.ensure_future(store.create(key, _record())) for key in (first, second, third)]
        await asyncio.sleep(0.05)
        writes[1].cancel()
        other.execute("COMMIT")
        other.close()
        await asyncio.gather(*writes, return_exceptions=True)
        assert [await store.load(key) is not None for key in (first, second, third)] == [True, False, True]


async def test_cancelled_in_a_step_that_sqlalchemy_does_not_watch(on_mariadb: _Database) -> None:
    """A connection that was cancelled while its isolation was being set does not go back to the pool."""
    server = on_mariadb.server
    assert server is not None
    options = {"pool_size": 1, "max_overflow": 0, "pool_reset_on_return": None, "isolation_level": "AUTOCOMMIT"}
    async with on_mariadb.store() as made, on_mariadb.engine(**options) as engine:
        store = SQLAlchemyStore(engine, table=made.table.name)
        key, new_key = _key(), _key()
        await store.create(key, _record())
        server.pause()
        try:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await store.rotate(key, new_key, _record(version=2), _tombstone(new_key), version=1)
            assert await _eventually(_busy(store), 0) == 0
        finally:
            server.resume()
        await store.update(key, _record(version=2), version=1)
        await store.close()


# Event loops, threads, forks


def test_an_event_loop_for_each_request(database: _Database) -> None:
    """A store is used from one event loop after another, as test clients do, and from several at once."""
    store = SQLAlchemyStore(database.url, table=f"loops_{database.name}")
    key = _key()

    async def request() -> bool:
        return await store.load(key) is not None

    async def prepare() -> None:
        await store.create_table()
        await store.create(key, _record())

    asyncio.run(prepare())
    gc.collect()
    assert asyncio.run(_eventually(database.connections, 0)) == 0
    for _ in range(3):
        assert asyncio.run(request())
    answers: list[bool] = []
    threads = [threading.Thread(target=lambda: answers.append(asyncio.run(request()))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [True] * 4
    assert store._offices == {}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of forking with threads
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on Windows")
async def test_after_a_fork(on_server: _Database) -> None:
    """A child of a fork makes its own connections, and the parent keeps its own."""
    async with on_server.store() as store:
        key = _key()
        await store.create(key, _record())
        child = os.fork()
        if child == 0:
            code = 1
            try:
                assert not store._offices  # the parent's are out of reach
                found: list[Record | None] = []
                thread = threading.Thread(target=lambda: found.append(asyncio.run(store.load(key))))
                thread.start()
                thread.join(10)
                code = 0 if found and found[0] is not None else 2
            finally:
                os._exit(code)
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert await store.load(key) is not None
        await store.update(key, _record(version=2), version=1)


# The server for these tests


def test_mariadb_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a server the tests fail, and say what to install."""
    monkeypatch.setenv("ROOMKEY_TEST_MARIADB_BIN", "/nowhere/mariadbd")
    with pytest.raises(RuntimeError, match="ROOMKEY_TEST_MARIADB_BIN"):
        mariadb_binary()
    monkeypatch.delenv("ROOMKEY_TEST_MARIADB_BIN")
    monkeypatch.setattr("shutil.which", lambda name, path: None)
    with pytest.raises(RuntimeError, match="apt-get install mariadb-server"):
        mariadb_binary()


def test_an_engine_of_the_apps_keeps_nothing_of_loops_that_ended(on_server: _Database) -> None:
    """A script that runs a loop for each job leaves no listener behind for each."""
    engine = create_async_engine(on_server.url.removeprefix("sqlalchemy+"), poolclass=NullPool)
    store = SQLAlchemyStore(engine, table="of_loops")

    async def prepare() -> None:
        await store.create_table()

    async def use() -> None:
        assert await store.load(_key()) is None

    asyncio.run(prepare())
    for _ in range(5):
        asyncio.run(use())
    assert len(list(engine.sync_engine.pool.dispatch.checkout)) == 0
