"""The store in any SQL database: the suite on SQLite, MariaDB and PostgreSQL, values and the table."""

from __future__ import annotations

import asyncio
import secrets
import tempfile
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mssql, mysql, oracle
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from roomkey.errors import ConfigurationError, StoreUnavailable
from roomkey.stores.base import Lifespan, Purge, Store, UserIndex, Wipe
from roomkey.stores.sqlalchemy import SQLAlchemyStore, session_table
from roomkey.testing import Clock, StoreContract
from tests.stores.on_sqlalchemy.databases import Database, engine_of, mariadb_url, postgres_url, running_servers
from tests.stores.records import make_key, make_record


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
        return await _empty(SQLAlchemyStore(mariadb_url(running_servers["mariadb"]), clock=clock))


@pytest.mark.usefixtures("postgres")
class TestPostgreSQL(StoreContract):
    """PostgreSQL."""

    async def make(self, clock: Clock) -> Store:
        return await _empty(SQLAlchemyStore(postgres_url(running_servers["postgres"]), clock=clock))


class TestEngineOfTheAppSQLite(_WithFile, _WithEngine, StoreContract):
    """An engine of the app's own, with its transactions, and more connections than one."""

    async def make(self, clock: Clock) -> Store:
        engine = await self.engine(f"sqlite+aiosqlite:///{self.path}")
        return await _empty(SQLAlchemyStore(engine, clock=clock))


@pytest.mark.usefixtures("mariadb")
class TestEngineOfTheAppMariaDB(_WithEngine, StoreContract):
    """An engine of the app's own, at MySQL's own isolation: REPEATABLE READ."""

    async def make(self, clock: Clock) -> Store:
        engine = await self.engine(mariadb_url(running_servers["mariadb"]), isolation_level="REPEATABLE READ")
        return await _empty(SQLAlchemyStore(engine, table="of_the_app", clock=clock))


@pytest.mark.usefixtures("postgres")
class TestEngineOfTheAppPostgreSQL(_WithEngine, StoreContract):
    """An engine of the app's own, isolated as strictly as it can be."""

    async def make(self, clock: Clock) -> Store:
        engine = await self.engine(postgres_url(running_servers["postgres"]), isolation_level="SERIALIZABLE")
        return await _empty(SQLAlchemyStore(engine, table="of_the_app", clock=clock))


def test_it_is_all_that_a_store_can_be() -> None:
    """It implements each of the optional protocols."""
    store = SQLAlchemyStore("mysql+asyncmy://localhost/app")
    for protocol in (Store, Lifespan, Purge, UserIndex, Wipe):
        assert isinstance(store, protocol)


# --- Values -----------------------------------------------------------------------------------------------------------


async def test_users_are_compared_exactly(database: Database) -> None:
    """Names that differ in case, accents or trailing spaces are different users, and come back as they were."""
    names = ["Ann", "ann", "ann ", " ann", "Änn", "A\u0308nn", "", " ", "  ", "ss", "ß", "x" * 5000, "None"]
    async with database.store() as store:
        keys = {name: make_key() for name in names}
        for name, key in keys.items():
            await store.create(key, make_record(user=name))
        for name, key in keys.items():
            [(found, record)] = await store.of_user(name)
            assert found == key
            assert record.user == name
        assert await store.of_user("ANN") == []


async def test_nothing_is_stored_as_an_empty_text(on_sqlite: Database) -> None:
    """Oracle would keep an empty text, and empty data, as NULL: neither is lost by that."""
    async with on_sqlite.store() as store:
        key, record = make_key(), make_record(data=b"", user=" ")
        await store.create(key, record)
        async with engine_of(store).begin() as connection:
            row = (await connection.execute(sa.select(store.table))).one()
            assert row.user_id == "  "
            await connection.execute(sa.update(store.table).values(data=None, about=None))
        assert await store.load(key) == record


async def test_texts_that_databases_refuse(database: Database) -> None:
    """A user's name that cannot be kept is refused everywhere."""
    async with database.store() as store:
        for name in ("a\0b", "a\ud800b"):
            key = make_key()
            with pytest.raises(ConfigurationError, match="user_key"):
                await store.create(key, make_record(user=name))
            assert await store.load(key) is None
            assert await store.of_user(name) == []


@pytest.mark.parametrize("size", [64 * 1024, 1024 * 1024])
async def test_large_data(database: Database, size: int) -> None:
    """A session of 64 KiB, and one of 1 MiB, come back byte by byte."""
    async with database.store() as store:
        key, data = make_key(), secrets.token_bytes(size)
        await store.create(key, make_record(data=data))
        found = await store.load(key)
        assert found is not None and found.data == data
        await store.update(key, make_record(data=data[::-1], version=2), version=1)
        found = await store.load(key)
        assert found is not None and found.data == data[::-1]


async def test_moments_are_exact(database: Database) -> None:
    """A moment comes back to the last bit, so that it expires when it says."""
    async with database.store() as store:
        for moment in (2_000_000_000.123456, 2_000_000_000.1234567, 1e10 / 3, 4102444800.0):
            key, record = make_key(), make_record(expires_at=moment, created_at=moment / 7, serve_until=moment / 3)
            await store.create(key, record)
            assert await store.load(key) == record


async def test_purge_of_more_than_one_statement_holds(database: Database) -> None:
    """A purge of many keys goes on as far as its limit."""
    clock = Clock()
    async with database.store(clock=clock) as store:
        async with engine_of(store).begin() as connection:
            old = {"data": b"", "version": 1, "created_at": 1.0, "expires_at": 2.0, "serve_until": 0.0}
            await connection.execute(sa.insert(store.table), [{**old, "key": make_key()} for _ in range(1203)])
        await store.create(make_key(), make_record())
        assert [await store.purge(1100), await store.purge(1100), await store.purge(1100)] == [1100, 103, 0]


async def test_purge_leaves_what_was_replaced(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that was put in an expired one's place while a purge was under way stays."""
    async with database.store() as store:
        key = make_key()
        await store.create(key, make_record(expires_at=time.time() - 1))
        ask = store._ask

        async def with_a_rival(work: Any, **options: Any) -> Any:
            found = await ask(work, **options)
            if found == [(key,)]:
                monkeypatch.undo()
                await store.create(key, make_record(data=b"new"))
            return found

        monkeypatch.setattr(store, "_ask", with_a_rival)
        assert await store.purge(10) == 0
        found = await store.load(key)
        assert found is not None and found.data == b"new"


# --- The table --------------------------------------------------------------------------------------------------------


async def test_missing_table(database: Database) -> None:
    """Without its table an app does not start, and the message names the ways to make it; when it runs, it is down."""
    store = SQLAlchemyStore(database.url, table="nowhere")
    ways = r"roomkey store create URL --table nowhere.*store\.create_table\(\)"
    with pytest.raises(ConfigurationError, match=ways):
        await store.open()
    for operation in (store.load(make_key()), store.create(make_key(), make_record()), store.wipe(), store.purge(3)):
        with pytest.raises(StoreUnavailable, match=ways):
            await operation
    assert await store.create_table() is True
    await store.open()
    await store.create(make_key(), make_record())
    await store.close()


async def test_create_table_is_idempotent(database: Database) -> None:
    """The table is made once, also from several places at once; sessions in it stay, and a lost index comes back."""
    stores = [SQLAlchemyStore(database.url, table=f"many_{database.name}") for _ in range(6)]
    made = await asyncio.gather(*(store.create_table() for store in stores))
    assert made.count(True) == 1
    key = make_key()
    await stores[0].create(key, make_record())
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


async def test_table_in_the_metadata_of_the_app(database: Database) -> None:
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
            key = make_key()
            await store.create(key, make_record(user="42"))
            assert [found for found, _ in await store.of_user("42")] == [key]
            await store.close()


async def test_table_in_a_schema(on_server: Database) -> None:
    """A table may be in another schema."""
    async with on_server.engine() as engine, engine.begin() as connection:
        await connection.exec_driver_sql("CREATE SCHEMA shop")
    async with on_server.store(table="shop.Basket") as store:
        await store.open()
        key = make_key()
        await store.create(key, make_record(user="42"))
        assert [found for found, _ in await store.of_user("42")] == [key]
        await store.wipe()
        assert await store.load(key) is None


async def test_wipe_without_the_right_to_is_no_outage(on_server: Database) -> None:
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
        key = make_key()
        await weak.create(key, make_record())
        with pytest.raises(ConfigurationError, match="TRUNCATE"):
            await weak.wipe()
        assert await weak.load(key) is not None
        await weak.close()


async def test_strange_tables_are_refused(database: Database) -> None:
    """Another app's table is refused, to use and to make; so is one that knows no transactions."""
    name = f"strange_{database.name}"
    async with database.engine() as engine, engine.begin() as connection:
        await connection.exec_driver_sql(f"CREATE TABLE {name} (data INTEGER, version INTEGER)")
    store = SQLAlchemyStore(database.url, table=name)
    for operation in (store.open(), store.create_table()):
        with pytest.raises(ConfigurationError, match=r"lacks about, created_at, expires_at, key, .*table of their own"):
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


async def test_wipe_does_not_wait_for_ever(on_server: Database) -> None:
    """Where another transaction holds the table, `wipe` gives up instead of letting everybody wait; it works later."""
    async with on_server.store() as store, on_server.engine() as engine:
        key = make_key()
        await store.create(key, make_record())
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
        async with engine_of(store).connect() as connection:
            assert await connection.scalar(sa.text(ask)) == usual
