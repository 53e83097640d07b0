"""Those who watch Redis hear of what other processes do, and know when they may have missed something."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

import redis

from roomkey.stores.base import Notice, What
from roomkey.stores.redis import RedisStore
from tests.loop_clock import until
from tests.servers.redis import RedisServer
from tests.stores.on_redis.parts import count_calls, new_prefix, open_store
from tests.stores.records import make_key, make_record

STANDS, LOST = Notice(What.STANDS), Notice(What.LOST)


async def test_another_store_object_is_heard(server: RedisServer) -> None:
    """What one process does is heard in another, and not by those of another prefix."""
    prefix, key = new_prefix(), make_key()
    async with open_store(server, prefix) as writer, open_store(server, prefix) as reader, open_store(server) as other:
        heard: list[Notice] = []
        deaf: list[Notice] = []
        leaves = [reader.watch(heard.append, list, changes=True), other.watch(deaf.append, list, changes=True)]
        await until(lambda: heard == deaf == [STANDS])
        writer.publish(changes=True)
        await writer.create(key, make_record())
        await writer.update(key, make_record(version=2), version=1)
        await writer.delete(key)
        await until(lambda: len(heard) == 3)
        assert heard[1:] == [Notice(What.CHANGED, key, version=2), Notice(What.ENDED, key)]
        assert deaf == [STANDS]
        for leave in leaves:
            leave()


async def test_nothing_is_told_unasked(server: RedisServer, admin: redis.Redis) -> None:
    """A store that was not told to publish publishes nothing, and runs the scripts that it always did."""
    key = make_key()
    async with open_store(server) as store:
        before = count_calls(admin, "publish")
        await store.create(key, make_record())
        await store.update(key, make_record(version=2), version=1)
        await store.delete(key)
        assert count_calls(admin, "publish") == before
        store.publish()
        await store.create(key, make_record())
        await store.update(key, make_record(version=2), version=1)  # a change, which nobody asked for
        await store.delete(key)
        assert count_calls(admin, "publish") == before + 1


async def test_a_lost_connection_is_told(server: RedisServer, admin: redis.Redis) -> None:
    """Where the connection is ended, those who watch hear that notices may be missing, and when they come again."""
    await _loses(server, admin, RedisStore(server.url, prefix=new_prefix()))


async def test_a_client_that_connects_by_itself_hides_no_loss(server: RedisServer, admin: redis.Redis) -> None:
    """A client of the app's own subscribes again without a word, and what it missed meanwhile is not hidden."""
    client: Any = redis.asyncio.Redis(port=server.port, password=server.password)
    try:
        await _loses(server, admin, RedisStore(client, prefix=new_prefix()))
    finally:
        await client.aclose()


async def _loses(server: RedisServer, admin: redis.Redis, store: RedisStore) -> None:
    key, notices = make_key(), list[Notice]()
    store.publish()
    leave = store.watch(notices.append, list)
    await until(lambda: notices == [STANDS])
    admin.client_kill_filter(_type="pubsub")
    await until(lambda: notices == [STANDS, LOST, STANDS])
    await store.create(key, make_record())
    await store.delete(key)
    await until(lambda: notices[3:] == [Notice(What.ENDED, key)])
    leave()
    await store.close()


async def test_the_command_is_heard(server: RedisServer) -> None:
    """`roomkey sessions revoke` tells those who watch, also where it knows the store alone and no app."""
    key, notices = make_key(), list[Notice]()
    async with open_store(server, "roomkey:") as store:
        leave = store.watch(notices.append, list)
        await until(lambda: notices == [STANDS])
        await store.create(key, make_record(user="ada"))
        command = [
            sys.executable,
            "-m",
            "roomkey",
            "sessions",
            "revoke",
            "--user",
            "ada",
            "--yes",
            "--store",
            server.url,
        ]
        process = await asyncio.create_subprocess_exec(
            *command, env={**os.environ, "ROOMKEY_SECRET_KEY": "k" * 32}, stdout=asyncio.subprocess.PIPE
        )
        await process.communicate()
        assert process.returncode == 0
        await until(lambda: Notice(What.ENDED, key) in notices)
        leave()
