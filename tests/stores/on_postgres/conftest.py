"""A PostgreSQL server for the tests of a folder, and the check that no connection is left."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator

import pytest

from tests.servers.postgres import PostgresServer
from tests.stores.on_postgres.parts import count_connections, eventually, running_servers


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    settings = {"shared_preload_libraries": "pg_stat_statements", "max_prepared_transactions": "2"}
    with PostgresServer(settings=settings) as running:
        running_servers.append(running)
        yield running
        running_servers.clear()


@pytest.fixture(autouse=True)
def _patient(patient: None) -> None:
    """Every test here has a server, which may be slow."""


@pytest.fixture(autouse=True)
def _no_connection_left(server: PostgresServer) -> Iterator[None]:
    """After each test no connection is left, neither here nor at the server."""
    yield
    gc.collect()
    assert asyncio.run(eventually(lambda: count_connections(server), 0)) == 0
