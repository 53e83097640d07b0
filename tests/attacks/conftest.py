"""The stores and the sites that the attacks are run against."""

import contextlib
import secrets
import time

import pytest

from roomkey.stores.memory import MemoryStore
from roomkey.stores.migrating import Migrating
from roomkey.stores.postgres import PostgresStore
from roomkey.stores.redis import RedisStore
from roomkey.stores.sqlalchemy import SQLAlchemyStore
from roomkey.stores.sqlite import SQLiteStore
from roomkey.testing import Clock
from tests.attacks.site import Site
from tests.servers.mariadb import MariaDBServer
from tests.servers.postgres import PostgresServer
from tests.servers.redis import RedisServer


@pytest.fixture(autouse=True)
def _patient(patient):
    """The servers may be slow here."""


@pytest.fixture(scope="session")
def redis_url():
    """Return the URL of a Redis server that lives as long as the tests."""
    with RedisServer() as server:
        yield server.url


@pytest.fixture(scope="session")
def postgres_url():
    """Return the URL of a PostgreSQL server that lives as long as the tests."""
    with PostgresServer() as server:
        yield server.url


@pytest.fixture(scope="session")
def mariadb_url():
    """Return the URL, as SQLAlchemy has them, of a MariaDB server that lives as long as the tests."""
    with MariaDBServer() as server:
        yield server.url.replace("mysql://", "mysql+asyncmy://")


@pytest.fixture(params=["memory", "sqlite", "migrating", "redis", "postgres", "mariadb"])
def any_store(request):
    """Return a coroutine function that makes an empty store of one kind."""
    if request.param == "redis":
        url = request.getfixturevalue("redis_url")

        async def make(clock):
            return RedisStore(url, prefix=f"{{{secrets.token_hex(8)}}}:", clock=clock)

    elif request.param in ("postgres", "mariadb"):
        url = request.getfixturevalue(f"{request.param}_url")
        kind = PostgresStore if request.param == "postgres" else SQLAlchemyStore

        async def make(clock):
            store = kind(url, clock=clock)
            await store.create_table()
            await store.wipe()
            return store

    elif request.param == "migrating":

        async def make(clock):
            return Migrating(MemoryStore(clock=clock), MemoryStore(clock=clock), clock=clock)

    elif request.param == "memory":

        async def make(clock):
            return MemoryStore(clock=clock)

    else:
        path = request.getfixturevalue("tmp_path") / "s.db"

        async def make(clock):
            return SQLiteStore(path, clock=clock)

    return make


@pytest.fixture(params=[False, True], ids=["plain", "sealed"])
def new_site(request, any_store):
    """Return a context manager: a site over the store under test, which it closes."""

    @contextlib.asynccontextmanager
    async def make(**options):
        options = {"seal": request.param, **options}
        clock = Clock(time.time())
        store = await any_store(clock)
        try:
            yield Site(store, clock, **options)
        finally:
            if hasattr(store, "close"):
                await store.close()

    return make
