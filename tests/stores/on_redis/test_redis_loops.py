"""A store in Redis in several event loops, threads and processes, and with a client of the app's own."""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import replace

import pytest
import redis
import redis.asyncio

from roomkey.errors import ConfigurationError, StoreUnavailable
from roomkey.stores.base import Conflict
from roomkey.stores.redis import RedisStore
from tests.loop_clock import HANGS
from tests.servers.redis import RedisServer
from tests.stores.on_redis.parts import new_prefix, wait_until
from tests.stores.records import make_key, make_record

# --- Event loops ------------------------------------------------------------------------------------------------------


def test_several_event_loops(server: RedisServer, admin: redis.Redis) -> None:
    """A store serves event loops one after the other, without `open` or `close`, and leaves no connection behind."""
    store = RedisStore(server.url, prefix=new_prefix())
    key = make_key()
    idle = len(admin.client_list())

    async def use(version: int) -> None:
        if version == 1:
            await store.create(key, make_record())
        else:
            await store.update(key, make_record(version=version), version=version - 1)
        await asyncio.gather(*(store.load(key) for _ in range(10)))

    for version in range(1, 6):
        asyncio.run(use(version))
        wait_until(lambda: len(admin.client_list()) == idle)
    assert not store._links  # a loop that ends takes them along


async def test_event_loops_in_threads(server: RedisServer) -> None:
    """Event loops in several threads use one store at the same time."""
    store = RedisStore(server.url, prefix=new_prefix())
    key = make_key()

    async def use() -> int:
        swapped = 0
        for _ in range(30):
            found = await store.load(key)
            assert found is not None
            with contextlib.suppress(Conflict):
                await store.update(key, replace(found, version=found.version + 1), version=found.version)
                swapped += 1
        return swapped

    await store.create(key, make_record())
    swapped = await asyncio.gather(*(asyncio.to_thread(asyncio.run, use()) for _ in range(4)))
    found = await store.load(key)
    assert found is not None and found.version == 1 + sum(swapped)
    await store.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_fork(server: RedisServer) -> None:
    """Children that go on with the parent's event loop have connections of their own: no answer is for another."""
    store = RedisStore(server.url, prefix=new_prefix())
    keys = {make_key(): bytes([number]) for number in range(50)}

    async def fill() -> None:
        for key, data in keys.items():
            await store.create(key, make_record(data=data))

    async def read() -> int:
        async def wrong(key: str, data: bytes) -> bool:
            record = await store.load(key)
            return record is None or record.data != data

        return sum([await wrong(key, data) for _ in range(20) for key, data in keys.items()])

    loop = asyncio.new_event_loop()
    loop.run_until_complete(fill())
    children = []
    for _ in range(2):  # as pre-forking servers do: the parent has done its work, and waits
        child = os.fork()
        if child == 0:
            code = 99
            try:
                code = min(loop.run_until_complete(asyncio.wait_for(read(), HANGS)), 90)
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
    loop.run_until_complete(store.close())
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


async def test_close_while_operations_wait(server: RedisServer, admin: redis.Redis) -> None:
    """Operations under way when the store closes are answered or StoreUnavailable, and no connection stays."""
    idle = len(admin.client_list())
    store = RedisStore(server.url, prefix=new_prefix())
    tasks = [asyncio.create_task(store.load(make_key())) for _ in range(300)]
    await asyncio.sleep(0.002)
    await store.close()
    outcomes = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
    assert {type(outcome) for outcome in outcomes} <= {type(None), StoreUnavailable}
    await asyncio.to_thread(wait_until, lambda: len(admin.client_list()) == idle)


# --- The app's own client ---------------------------------------------------------------------------------------------


async def test_apps_client_is_not_closed(server: RedisServer, admin: redis.Redis) -> None:
    """A client of the app's own works as before after the store was closed, and its connections are its own."""
    client = redis.asyncio.Redis(port=server.port)
    store = RedisStore(client, prefix=new_prefix())
    await store.open()
    await asyncio.gather(*(store.create(make_key(), make_record()) for _ in range(100)), client.set("theirs", "1"))
    pool = client.connection_pool
    assert len(pool._available_connections) >= 1 and not pool._in_use_connections
    connected = [connection for connection in pool._available_connections if connection.is_connected]
    await store.close()
    assert all(connection.is_connected for connection in connected)
    assert await client.get("theirs") == b"1"
    await client.delete("theirs")
    await client.aclose()


def test_apps_client_in_another_loop(server: RedisServer) -> None:
    """A client of the app's own in a second event loop is a ConfigurationError that says to give a URL."""

    async def first() -> RedisStore:
        client = redis.asyncio.Redis(port=server.port)
        store = RedisStore(client, prefix=new_prefix())
        await store.load(make_key())
        await client.aclose()
        return store

    store = asyncio.run(first())

    async def second() -> None:
        with pytest.raises(ConfigurationError, match="give a URL"):
            await store.load(make_key())

    asyncio.run(second())


async def test_cancelled_with_an_apps_client(server: RedisServer) -> None:
    """Cancelled operations give every connection back to the app's pool."""
    client = redis.asyncio.Redis(port=server.port, max_connections=4)
    store = RedisStore(client, prefix=new_prefix())
    for round_ in range(40):
        tasks = [asyncio.create_task(store.load(make_key())) for _ in range(20)]
        for _ in range(round_ % 15):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    assert await store.load(make_key()) is None
    assert not client.connection_pool._in_use_connections
    await store.close()
    await client.aclose()
