"""The two asyncio drivers for PostgreSQL, side by side: `python -m benchmarks.drivers`. Why the store uses asyncpg.

What a session asks of its database, over one connection, and by a hundred tasks over a pool of ten.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import psycopg
import psycopg_pool

from benchmarks.report import lines, machine, table, versions
from tests.servers.postgres import PostgresServer

_TABLE = """
CREATE TABLE session (key text PRIMARY KEY, data bytea, version bigint, expires_at double precision);
INSERT INTO session SELECT 'k' || number, decode(repeat('ab', 300), 'hex'), 1, 2e9 FROM generate_series(0, 999) number;
"""
_LOAD = "SELECT data, version, expires_at FROM session WHERE key = {} AND expires_at > {}"
_SAVE = "UPDATE session SET data = {}, expires_at = {} WHERE key = {} AND version = {}"
_DATA = b"\xab" * 300
_ROUNDS = 15
_REQUESTS = 1000
_TASKS = 100
_POOL = 10

Work = Callable[[Any, int], Awaitable[object]]


async def _asyncpg_load(connection: Any, number: int) -> object:
    return await connection.fetchrow(_LOAD.format("$1", "$2"), f"k{number}", 1e9)


async def _asyncpg_save(connection: Any, number: int) -> object:
    return await connection.execute(_SAVE.format("$1", "$2", "$3", "$4"), _DATA, 2e9, f"k{number}", 1)


async def _psycopg_load(connection: Any, number: int) -> object:
    found = await connection.execute(_LOAD.format("%b", "%b"), (f"k{number}", 1e9), prepare=True, binary=True)
    return await found.fetchone()


async def _psycopg_save(connection: Any, number: int) -> object:
    return await connection.execute(_SAVE.format("%b", "%b", "%b", "%b"), (_DATA, 2e9, f"k{number}", 1), prepare=True)


async def _alone(connection: Any, work: Work) -> float:
    """Return the µs of one, one after the other."""
    began = time.perf_counter()
    for number in range(_REQUESTS):
        await work(connection, number)
    return (time.perf_counter() - began) / _REQUESTS * 1e6


async def _crowd(take: Callable[[], Any], work: Work) -> float:
    """Return how many a second a hundred tasks get done over a pool."""
    waiting = iter(range(_REQUESTS))

    async def go() -> None:
        for number in waiting:
            async with take() as connection:
                await work(connection, number)

    began = time.perf_counter()
    await asyncio.gather(*(go() for _ in range(_TASKS)))
    return _REQUESTS / (time.perf_counter() - began)


async def _measure(url: str) -> dict[tuple[str, str], list[float]]:
    one = await asyncpg.connect(url)
    other = await psycopg.AsyncConnection.connect(url, autocommit=True)
    await one.execute(_TABLE)
    found: dict[tuple[str, str], list[float]] = {}
    async with (
        asyncpg.create_pool(url, min_size=_POOL, max_size=_POOL) as pool,
        psycopg_pool.AsyncConnectionPool(url, min_size=_POOL, max_size=_POOL, kwargs={"autocommit": True}) as its_pool,
    ):
        for _ in range(_ROUNDS + 1):  # the first one warms up
            for name, connection, take, load, save in (
                ("asyncpg", one, pool.acquire, _asyncpg_load, _asyncpg_save),
                ("psycopg", other, its_pool.connection, _psycopg_load, _psycopg_save),
            ):
                for kind, work in ("load", load), ("save", save):
                    found.setdefault((name, f"{kind}, µs"), []).append(await _alone(connection, work))
                    found.setdefault((name, f"{kind}s a second, {_TASKS} tasks"), []).append(await _crowd(take, work))
    await one.close()
    await other.close()
    return found


def main() -> None:
    """Measure, and print a table of medians."""
    with PostgresServer() as server:
        found = asyncio.run(_measure(server.url))
    columns = list(dict.fromkeys(column for _, column in found))
    names = list(dict.fromkeys(name for name, _ in found))
    rows = [[name, *(f"{statistics.median(found[name, column][1:]):,.0f}" for column in columns)] for name in names]
    print(table(["", *columns], rows), lines({**machine(), **versions(names)}), sep="\n\n")


if __name__ == "__main__":
    main()
