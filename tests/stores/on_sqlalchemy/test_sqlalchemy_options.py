"""Wrong servers, URLs and options of the SQLAlchemy store, and an engine of the app's own."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool, StaticPool

from roomkey.errors import ConfigurationError, StoreUnavailable
from roomkey.stores.base import Conflict
from roomkey.stores.sqlalchemy import SQLAlchemyStore, operations
from roomkey.stores.sqlalchemy import store as store_module
from roomkey.testing import Clock
from tests.servers.mariadb import mariadb_binary
from tests.stores.on_sqlalchemy.databases import Database, mariadb_url, postgres_url
from tests.stores.records import make_key, make_record, make_tombstone

# --- What is wrong with the server, or the URL ------------------------------------------------------------------------


_SECRET = "s3cr3t"


def _shows(error: BaseException, secret: str) -> bool:
    """Whether a traceback of it, with all its causes, or its text shows the secret."""
    shown = "".join(traceback.format_exception(error)) + repr(error) + str(error)
    return secret in shown


async def test_wrong_account(on_server: Database) -> None:
    """A wrong password and a missing database are told apart from an outage, without the password."""
    server = on_server.server
    assert server is not None
    make = mariadb_url if on_server.name == "mariadb" else postgres_url
    for parts in ({"password": _SECRET}, {"user": "stranger", "password": _SECRET}, {"database": "nowhere"}):
        store = SQLAlchemyStore(make(server, **parts))  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match="user, password and database in the URL") as refused:
            await store.open()
        with pytest.raises(StoreUnavailable, match="user, password and database in the URL"):
            await store.load(make_key())
        for secret in (_SECRET, server.password):
            assert not _shows(refused.value, secret) and secret not in repr(store)
        await store.close()


async def test_server_that_is_down(on_server: Database) -> None:
    """A server that is down is an outage, when the app starts too, without the password."""
    server = on_server.server
    assert server is not None
    server.stop()
    try:
        store = SQLAlchemyStore(on_server.url)
        for operation in (store.open(), store.load(make_key()), store.create(make_key(), make_record())):
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


async def test_writes_take_turns_in_sqlite(on_sqlite: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes of one app do not find each other's locks, also where its engine has many connections and no patience."""
    monkeypatch.setattr(store_module, "SQLITE_PATIENCE", 0.0)

    async with on_sqlite.engine(connect_args={"timeout": 0.0}) as engine:
        store = SQLAlchemyStore(engine)
        await store.create_table()
        keys = [make_key() for _ in range(50)]
        await asyncio.gather(*(store.create(key, make_record()) for key in keys))
        await asyncio.gather(
            *(store.rotate(key, new := make_key(), make_record(), make_tombstone(new), version=1) for key in keys)
        )


async def test_locked_sqlite_file(on_sqlite: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write waits for another process's lock, and for a lock that stays it does not wait for ever."""
    clock = Clock()
    for module in (operations, store_module):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=clock, time=time.time))
    monkeypatch.setattr(store_module, "SQLITE_PATIENCE", 0.4)
    async with on_sqlite.store() as store:
        other = sqlite3.connect(tmp_path / "app.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        key = make_key()
        write = asyncio.ensure_future(store.create(key, make_record()))
        await asyncio.sleep(0.15)  # longer than SQLite itself waits
        assert not write.done()
        other.execute("COMMIT")
        await write
        other.execute("BEGIN IMMEDIATE")
        deletion = asyncio.ensure_future(store.delete(key))
        await asyncio.sleep(0.15)
        assert not deletion.done()
        clock.advance(0.5)
        with pytest.raises(StoreUnavailable, match="locked by another process"):
            await deletion
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
        (f"mysql+asyncmy://me:pass@{_SECRET}:x@host/app", "URL cannot be read"),
        (f"{_SECRET}", "URL cannot be read"),
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


async def test_options_that_the_driver_does_not_take(on_mariadb: Database) -> None:
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


# --- An engine of the app's own ---------------------------------------------------------------------------------------


async def test_engine_of_the_app_is_not_disposed(database: Database) -> None:
    """The store leaves the app's engine, its connections and its options as they are."""
    async with database.engine(pool_size=1, max_overflow=0) as engine:
        store = SQLAlchemyStore(engine, table=f"of_{database.name}")
        await store.create_table()
        key = make_key()
        await store.create(key, make_record())
        for _ in range(2):
            async with engine.connect() as connection:
                there = (await connection.get_raw_connection()).driver_connection
            await store.rotate(key, key := make_key(), make_record(), make_tombstone(key), version=1)
            await store.close()
            assert engine.sync_engine.pool.checkedin() == 1  # type: ignore[attr-defined]
            async with engine.connect() as connection:
                assert (await connection.get_raw_connection()).driver_connection is there
                assert await connection.get_isolation_level() == connection.sync_connection.default_isolation_level  # type: ignore[union-attr]
        assert engine.sync_engine.hide_parameters is False


async def test_engine_of_the_app_in_autocommit(database: Database) -> None:
    """Where the app's engine commits each statement, a rotation is one step all the same."""
    async with database.engine(isolation_level="AUTOCOMMIT") as engine, database.store() as other:
        store = SQLAlchemyStore(engine, table=other.table.name)
        key, taken = make_key(), make_key()
        await store.create(key, make_record())
        await store.create(taken, make_record())
        with pytest.raises(Conflict):
            await store.rotate(key, taken, make_record(version=2), make_tombstone(taken), version=1)
        found = await store.load(key)
        assert found is not None and found.successor is None


async def test_engine_of_the_app_logs_no_session(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    """An app's engine that logs its statements logs no session's data, user or key."""
    caplog.set_level(logging.INFO)
    async with database.engine(echo=True) as engine, database.store() as other:
        store = SQLAlchemyStore(engine, table=other.table.name)
        key = make_key()
        await store.create(key, make_record(data=_SECRET.encode(), user=f"{_SECRET}@example.com"))
        await store.update(key, make_record(data=_SECRET.encode(), version=2), version=1)
        await store.load(key)
        with pytest.raises(Conflict) as taken:
            await store.create(key, make_record(data=_SECRET.encode()))
        assert not _shows(taken.value, _SECRET)
    assert "INSERT INTO" in caplog.text
    assert _SECRET not in caplog.text and key not in caplog.text


def test_mariadb_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a server the tests fail, and say what to install."""
    monkeypatch.setenv("ROOMKEY_TEST_MARIADB_BIN", "/nowhere/mariadbd")
    with pytest.raises(RuntimeError, match="ROOMKEY_TEST_MARIADB_BIN"):
        mariadb_binary()
    monkeypatch.delenv("ROOMKEY_TEST_MARIADB_BIN")
    monkeypatch.setattr("shutil.which", lambda name, path: None)
    with pytest.raises(RuntimeError, match="apt-get install mariadb-server"):
        mariadb_binary()
