"""Clients of the driver's, each for one connection that hears of what is published."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

__all__ = ["behind_sentinels", "lent", "of_cluster", "of_own_cluster", "of_server"]


@asynccontextmanager
async def lent(client: Any) -> AsyncIterator[Any]:
    """The app's own."""
    yield client


@asynccontextmanager
async def of_server(kind: Any, options: dict[str, Any]) -> AsyncIterator[Any]:
    """A new one. `kind`: the driver's class of connections, which takes these options."""
    from redis.asyncio import ConnectionPool, Redis

    pool = ConnectionPool(connection_class=kind, **options)
    try:
        yield Redis(connection_pool=pool)
    finally:
        await pool.disconnect()


@asynccontextmanager
async def behind_sentinels(found: tuple[Any, Callable[[], Awaitable[None]]]) -> AsyncIterator[Any]:
    """A client of the primary, which is there already, and what closes the connections to the sentinels."""
    client, close = found
    try:
        yield client
    finally:
        await client.connection_pool.disconnect()
        await close()


@asynccontextmanager
async def of_cluster(cluster: Any) -> AsyncIterator[Any]:
    """A new client of any node: each passes on what is published on the others."""
    await cluster.initialize()
    node = cluster.get_random_node()
    driver: Any = sys.modules[type(cluster).__module__.partition(".")[0] + ".asyncio"]
    pool = driver.ConnectionPool(connection_class=node.connection_class, **node.connection_kwargs)
    try:
        yield driver.Redis(connection_pool=pool)
    finally:
        await pool.disconnect()


@asynccontextmanager
async def of_own_cluster(cluster: Any) -> AsyncIterator[Any]:
    """As `of_cluster`. The cluster's client is closed in the end."""
    try:
        async with of_cluster(cluster) as client:
            yield client
    finally:
        await cluster.aclose()
