"""Database servers for the tests of a folder, and the check that no connection is left."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from roomkey.stores.sqlalchemy import store
from tests.loop_clock import HANGS
from tests.servers.mariadb import MariaDBServer
from tests.servers.postgres import PostgresServer
from tests.stores.on_sqlalchemy.databases import Database, eventually, mariadb_url, postgres_url, running_servers


@pytest.fixture(autouse=True)
def _patient(patient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Databases may be slow here, and so may be whoever has SQLite's lock."""
    monkeypatch.setattr(store, "SQLITE_PATIENCE", HANGS)


@pytest.fixture(scope="module")
def mariadb() -> Iterator[MariaDBServer]:
    with MariaDBServer("--max-connections=200") as running:
        running_servers["mariadb"] = running
        yield running


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with PostgresServer(settings={"deadlock_timeout": "100ms"}) as running:
        running_servers["postgres"] = running
        yield running


def _given_back(database: Database) -> Iterator[Database]:
    """Lend a database to a test; afterwards no connection is left, neither here nor at the server."""
    yield database
    gc.collect()
    assert asyncio.run(eventually(database.connections, 0)) == 0


@pytest.fixture
def on_mariadb(mariadb: MariaDBServer) -> Iterator[Database]:
    yield from _given_back(Database("mariadb", mariadb_url(mariadb), mariadb))


@pytest.fixture
def on_postgres(postgres: PostgresServer) -> Iterator[Database]:
    yield from _given_back(Database("postgres", postgres_url(postgres), postgres))


@pytest.fixture
def on_sqlite(tmp_path: Path) -> Iterator[Database]:
    yield from _given_back(Database("sqlite", f"sqlalchemy+sqlite+aiosqlite:///{tmp_path / 'app.db'}", None))


@pytest.fixture(params=["sqlite", "mariadb", "postgres"])
def database(request: pytest.FixtureRequest) -> Database:
    found: Database = request.getfixturevalue(f"on_{request.param}")
    return found


@pytest.fixture(params=["mariadb", "postgres"])
def on_server(request: pytest.FixtureRequest) -> Database:
    found: Database = request.getfixturevalue(f"on_{request.param}")
    return found


@pytest.fixture(params=["ours", "the app's"])
def whose(request: pytest.FixtureRequest) -> str:
    """Whose engine it is."""
    return str(request.param)
