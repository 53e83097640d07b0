"""A store behind PgBouncer, in the two modes that keep whole transactions together."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from roomkey.errors import ConfigurationError, StoreUnavailable
from roomkey.stores.base import Store
from roomkey.stores.postgres import PostgresStore
from roomkey.stores.sqlalchemy import SQLAlchemyStore
from tests.servers.pgbouncer import PgBouncer
from tests.servers.postgres import PostgresServer
from tests.stores.on_postgres.parts import new_table
from tests.stores.records import make_key, make_record, make_tombstone


def _sqlalchemy(url: str) -> str:
    return url.replace("postgresql://", "postgresql+asyncpg://")


@asynccontextmanager
async def _table(server: PostgresServer, kind: type[Any]) -> AsyncIterator[str]:
    """Yield the name of a new table, made past the pooler."""
    table = new_table()
    store = kind(server.url if kind is PostgresStore else _sqlalchemy(server.url), table=table)
    await store.create_table()
    await store.close()
    yield table


async def _use(store: Store) -> None:
    """Do a little of everything, several of it at once."""

    async def one() -> None:
        key, moved = make_key(), make_key()
        await store.create(key, make_record(user="ann"))
        await store.update(key, make_record(user="ann", version=2), version=1)
        await store.rotate(key, moved, make_record(user="ann", version=3), make_tombstone(moved, version=3), version=2)
        assert await store.load(moved) is not None

    await asyncio.gather(*(one() for _ in range(20)))


@pytest.mark.parametrize("mode", ["transaction", "session"])
async def test_postgres_store(server: PostgresServer, mode: str) -> None:
    """It works with `statement_cache_size=0`."""
    async with _table(server, PostgresStore) as table:
        with PgBouncer(server, pool_mode=mode) as pooler:
            store = PostgresStore(pooler.url(statement_cache_size="0"), table=table, max_connections=2)
            await store.open()
            await _use(store)
            assert len(await store.of_user("ann")) == 20
            await store.wipe()
            assert await store.of_user("ann") == []
            await store.close()


@pytest.mark.parametrize(
    ("kind", "setting"),
    [(PostgresStore, "synchronous_commit"), (PostgresStore, "options"), (SQLAlchemyStore, "synchronous_commit")],
)
async def test_a_setting_that_it_does_not_take(server: PostgresServer, kind: type[Any], setting: str) -> None:
    """That is permanent: it is a ConfigurationError, which names the setting and the way out."""
    async with _table(server, kind) as table:
        with PgBouncer(server) as pooler:
            store = _make(kind, pooler, table, setting)
            for expected, operation in ((ConfigurationError, store.open), (StoreUnavailable, _load(store))):
                words = f"PgBouncer does not take .*{setting}.*give .* to the role"
                with pytest.raises(expected, match=words) as caught:
                    await operation()
                assert server.password not in str(caught.value)
            await store.close()


def _make(kind: type[Any], pooler: PgBouncer, table: str, setting: str) -> Any:
    if kind is PostgresStore:
        value = "off" if setting == "synchronous_commit" else "-c synchronous_commit=off"
        return PostgresStore(pooler.url(**{setting: value}), table=table)
    engine = create_async_engine(_sqlalchemy(pooler.url()), connect_args={"server_settings": {setting: "off"}})
    return SQLAlchemyStore(engine, table=table)


def _load(store: Store) -> Callable[[], Awaitable[object]]:
    return lambda: store.load(make_key())


async def test_a_pool_of_the_apps_own(server: PostgresServer) -> None:
    """A pool with such a setting is told the same."""
    async with _table(server, PostgresStore) as table:
        with PgBouncer(server) as pooler:
            async with asyncpg.create_pool(
                pooler.url(), min_size=0, server_settings={"synchronous_commit": "off"}
            ) as pool:
                store = PostgresStore(pool, table=table)
                with pytest.raises(ConfigurationError, match="synchronous_commit"):
                    await store.open()
                await store.close()


async def test_prepared_statements(server: PostgresServer) -> None:
    """Where the pooler keeps none, each store says so, and what to set."""
    for kind, way_out in ((PostgresStore, "statement_cache_size=0 to the URL"), (SQLAlchemyStore, "NullPool")):
        async with _table(server, kind) as table:
            with PgBouncer(server) as pooler:
                url = pooler.url() if kind is PostgresStore else _sqlalchemy(pooler.url())
                store = kind(url, table=table)
                with pytest.raises(StoreUnavailable, match=f"pooler that does not keep prepared statements.*{way_out}"):
                    while True:
                        await _use(store)
                await store.close()


async def test_the_recipe(server: PostgresServer) -> None:
    """The engine that the documentation shows works."""
    page = (Path(__file__).parents[3] / "docs" / "howto-stores.md").read_text()
    (recipe,) = re.findall(r"```python\n(from uuid import uuid4\n.*?)```", page, re.DOTALL)
    async with _table(server, SQLAlchemyStore) as table:
        with PgBouncer(server) as pooler:
            code = re.sub(r'"postgresql\+asyncpg://[^"]*"', repr(_sqlalchemy(pooler.url())), recipe)
            names: dict[str, Any] = {}
            exec(code.replace("SQLAlchemyStore(engine)", f"SQLAlchemyStore(engine, table={table!r})"), names)
            store = names["store"]
            await store.open()
            await _use(store)
            assert len(await store.of_user("ann")) == 20
            await store.close()
            await names["engine"].dispose()
