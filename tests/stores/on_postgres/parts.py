"""Stores on a PostgreSQL server, and connections to look behind them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import asyncpg

from roomkey.stores.postgres import PostgresStore
from tests.loop_clock import HANGS, loop_time
from tests.servers.postgres import PostgresServer

running_servers: list[PostgresServer] = []  # for the suite, which has no fixtures


def new_table() -> str:
    return f"t{secrets.token_hex(6)}"


@contextlib.asynccontextmanager
async def admin_of(server: PostgresServer) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(server.url, server_settings={"application_name": "admin"})
    try:
        yield connection
    finally:
        await connection.close()


async def count_connections(server: PostgresServer) -> int:
    async with admin_of(server) as admin:
        query = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND application_name <> $1"
        count: int = await admin.fetchval(query, "admin")
        return count


async def eventually(ask: Callable[[], Awaitable[int]], expected: int) -> int:
    """Return what `ask` says, as soon as it is what is expected: a server ends its processes in its own time."""
    hangs = loop_time() + HANGS
    while True:
        found = await ask()
        if found == expected or loop_time() > hangs:
            return found
        await asyncio.sleep(0.02)


async def make_empty(store: PostgresStore, server: PostgresServer, **options: Any) -> None:
    """Make the store's table, and leave no row of an earlier test in it. (After `wipe` a purge finds such rows.)"""
    await store.create_table(**options)
    async with admin_of(server) as admin:
        await admin.execute(f'TRUNCATE "{store._table}"')
    await store.create_table(**options)


@contextlib.asynccontextmanager
async def open_store(
    server: PostgresServer,
    url: str | None = None,
    *,
    made: bool = True,
    partitions: int | None = None,
    **options: Any,
) -> AsyncIterator[PostgresStore]:
    """A store with a table of its own, or one that is not made yet."""
    store = PostgresStore(url or server.url, **{"table": new_table(), **options})
    if made:
        await store.create_table(partitions=partitions)
    try:
        yield store
    finally:
        await store.close()


@contextlib.asynccontextmanager
async def locked_table(server: PostgresServer, table: str, mode: str = "ACCESS EXCLUSIVE") -> AsyncIterator[None]:
    """Hold the table so that every statement on it waits."""
    # The time limit: a test that fails must not wait for its own lock.
    async with admin_of(server) as admin, admin.transaction(), asyncio.timeout(HANGS):
        await admin.execute(f'LOCK TABLE "{table}" IN {mode} MODE')
        yield


def in_a_loop_ended_by_hand(work: Coroutine[Any, Any, None]) -> None:
    """As frameworks older than `asyncio.run` do it. What is left open then is a ResourceWarning, which is an error."""
    loop = asyncio.new_event_loop()
    loop.run_until_complete(work)
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
    gc.collect()
