"""The databases that the SQLAlchemy store is tested on."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncmy
import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from roomkey.stores.sqlalchemy import SQLAlchemyStore
from tests.loop_clock import HANGS, loop_time
from tests.servers.mariadb import MariaDBServer
from tests.servers.postgres import PostgresServer

running_servers: dict[str, Any] = {}  # for the suite, which has no fixtures


def mariadb_url(server: MariaDBServer, **parts: str) -> str:
    return server.url_for(**parts).replace("mysql://", "sqlalchemy+mysql+asyncmy://")


def postgres_url(server: PostgresServer, **parts: str) -> str:
    return server.url_for(**parts).replace("postgresql://", "sqlalchemy+postgresql+asyncpg://")


def engine_of(store: SQLAlchemyStore) -> AsyncEngine:
    """The engine that the store has in this event loop."""
    return store._links[asyncio.get_running_loop()].engine


class Database:
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


async def eventually(ask: Callable[[], Awaitable[int]], most: int) -> int:
    """Return what `ask` says, as soon as it is no more than expected: a server ends things in its own time."""
    hangs = loop_time() + HANGS
    while True:
        found = await ask()
        if found <= most or loop_time() > hangs:
            return found
        await asyncio.sleep(0.02)


def count_busy(store: SQLAlchemyStore) -> Callable[[], Awaitable[int]]:
    """How many connections are not in the pool."""
    pool: Any = engine_of(store).sync_engine.pool

    async def busy() -> int:
        return int(pool.checkedout())

    return busy


@contextlib.asynccontextmanager
async def store_of(database: Database, whose: str) -> AsyncIterator[SQLAlchemyStore]:
    """A store, perhaps with an engine of the app's, with few connections: one that gets lost is missed."""
    async with database.store() as made, database.engine(pool_size=2, max_overflow=0, pool_timeout=5) as engine:
        store = made if whose == "ours" else SQLAlchemyStore(engine, table=made.table.name)
        yield store
        await store.close()
