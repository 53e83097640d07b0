"""An engine of the app's own, and event loops: its pooled connections belong to the loop that made them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from roomkey.errors import ConfigurationError
from roomkey.stores.guard import GuardedStore
from roomkey.stores.sqlalchemy import SQLAlchemyStore
from tests.stores.on_sqlalchemy.databases import Database
from tests.stores.records import make_key, make_record

SENTENCE = "engine given to SQLAlchemyStore was first used in another event loop.*give a URL"


def _engine(database: Database, **options: Any) -> AsyncEngine:
    return create_async_engine(database.url.removeprefix("sqlalchemy+"), **options)


def _in_loops(*steps: Callable[[], Awaitable[object]]) -> None:
    """Do each step in a loop of its own. All of them are open until the end, as those of several threads are."""
    runners = [asyncio.Runner() for _ in steps]
    try:
        for runner, step in zip(runners, steps, strict=True):
            runner.run(step())  # type: ignore[arg-type]
    finally:
        for runner in reversed(runners):
            runner.close()


def test_a_second_loop(on_server: Database) -> None:
    """It is a ConfigurationError, which says what to do, and no outage; whatever the store was used for before."""
    store = SQLAlchemyStore(_engine(on_server))
    key = make_key()

    async def first() -> None:
        await store.create_table()
        await store.create(key, make_record())

    async def second() -> None:
        guard = GuardedStore(store, 60)
        for operation in (store.open, lambda: guard.load(key), lambda: guard.create(make_key(), make_record())):
            with pytest.raises(ConfigurationError, match=SENTENCE):
                await operation()

    async def home() -> None:
        assert await store.load(key) is not None
        await store.wipe()
        await store.close()
        assert store._engine is not None
        await store._engine.dispose()

    with asyncio.Runner() as runner:
        runner.run(first())
        _in_loops(second)
        runner.run(home())


def test_an_engine_that_the_app_used_before(on_server: Database) -> None:
    """The store cannot know of that. It says the same when the driver complains."""
    engine = _engine(on_server)

    async def first() -> None:
        async with engine.connect() as connection:
            await connection.exec_driver_sql("SELECT 1")

    async def second() -> None:
        store = SQLAlchemyStore(engine)
        with pytest.raises(ConfigurationError, match=SENTENCE):
            await GuardedStore(store, 60).load(make_key())
        await store.close()

    with asyncio.Runner() as runner:
        runner.run(first())
        _in_loops(second)
        runner.run(engine.dispose())


def test_loops_that_share_no_connection(database: Database) -> None:
    """NullPool keeps none, an engine that was disposed of has none, and SQLite's work in any loop."""
    for options, dispose in (({"poolclass": NullPool}, False), ({}, True)):
        store = SQLAlchemyStore(_engine(database, **options))

        async def use(store: SQLAlchemyStore = store, dispose: bool = dispose) -> None:
            await store.create_table()
            key = make_key()
            await store.create(key, make_record())
            assert await store.load(key) is not None
            await store.close()
            if dispose:
                assert store._engine is not None
                await store._engine.dispose()

        _in_loops(use, use, use)


def test_sqlite_in_two_loops(on_sqlite: Database) -> None:
    """The driver's thread answers whichever loop asks."""
    engine = _engine(on_sqlite)
    store = SQLAlchemyStore(engine)

    async def use() -> None:
        await store.create_table()
        key = make_key()
        await store.create(key, make_record())
        assert await store.load(key) is not None
        await store.close()

    _in_loops(use, use)
    asyncio.run(engine.dispose())
