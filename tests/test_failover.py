"""Fail-over to a real replica: the app goes on with the new primary, and has what had reached it."""

import asyncio
import contextlib
import logging
import time

import asyncpg
import redis

from roomkey.stores.postgres import PostgresStore
from roomkey.stores.redis import RedisStore
from tests.servers.postgres import PostgresServer
from tests.servers.redis import RedisServer
from tests.site import Site, lines, refused_in_time

PATIENCE = 30  # seconds


async def until(condition):
    """Wait until a coroutine function returns something true."""
    deadline = time.monotonic() + PATIENCE
    while not await condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def fails_over(site, caplog, *, arrived, fail, promote):
    """Log users in, lose the primary, and go on with the replica.

    Args:
        site: the app.
        caplog: what it logs.
        arrived: whether the replica has everything.
        fail: ends the primary.
        promote: makes the replica the primary, or waits until somebody did.
    """
    cards = [await site.log_in(user) for user in range(5)]
    await site.ask(cards[0], lambda session: session.update(kept="acknowledged"))
    await site.ask(cards[4], lambda session: session.clear())
    await until(arrived)
    caplog.clear()
    await asyncio.to_thread(fail)
    await refused_in_time(site, cards[0])
    await promote()
    await site.until_served(cards[0])
    assert await site.read(cards[0]) == (200, {"user_id": 0, "kept": "acknowledged"})
    for user in range(1, 4):
        assert await site.read(cards[user]) == (200, {"user_id": user})
    assert await site.read(cards[4]) == (200, {})  # logged out for good
    assert (await site.ask(cards[0], lambda session: session.update(new=1)))[0] == 200
    assert await site.read(cards[0]) == (200, {"user_id": 0, "kept": "acknowledged", "new": 1})
    assert len(lines(caplog, logging.ERROR)) == 1
    assert len(lines(caplog, logging.WARNING)) == 1


def test_redis_with_a_sentinel(caplog):
    """The sentinel sees that the primary is gone and promotes the replica; the store asks it, and goes there."""
    with contextlib.ExitStack() as stack:
        primary, replica = (stack.enter_context(RedisServer()) for _ in range(2))
        sentinel = stack.enter_context(RedisServer(sentinel=True))
        one, two, admin = (
            stack.enter_context(contextlib.closing(redis.Redis(port=server.port, decode_responses=True)))
            for server in (primary, replica, sentinel)
        )
        two.replicaof("127.0.0.1", str(primary.port))

        async def arrived():
            told = await asyncio.to_thread(two.info, "replication")
            offset = (await asyncio.to_thread(one.info, "replication"))["master_repl_offset"]
            return told["master_link_status"] == "up" and told["slave_repl_offset"] == offset

        async def promoted():
            async def is_primary():
                return (await asyncio.to_thread(two.info, "replication"))["role"] == "master"

            await until(is_primary)

        async def is_known():
            found = await asyncio.to_thread(admin.execute_command, "SENTINEL", "REPLICAS", "main")
            return bool(found)

        async def scenario():
            await until(arrived)
            admin.execute_command("SENTINEL", "MONITOR", "main", "127.0.0.1", primary.port, 1)
            for option, value in ("down-after-milliseconds", 500), ("failover-timeout", 3000):
                admin.execute_command("SENTINEL", "SET", "main", option, value)
            await until(is_known)
            site = Site(RedisStore(f"redis+sentinel://127.0.0.1:{sentinel.port}/main/0"))
            await fails_over(site, caplog, arrived=arrived, fail=primary.kill, promote=promoted)
            await site.store.close()

        asyncio.run(scenario())


def test_postgres_with_several_hosts_in_the_url(caplog):
    """Where the URL names both servers, the store goes to the one that takes writes."""
    with PostgresServer() as primary, PostgresServer(replica_of=primary) as replica:
        url = primary.url_for(target_session_attrs="read-write")
        url = url.replace(f":{primary.port}/", f":{primary.port},127.0.0.1:{replica.port}/")

        async def arrived():
            found = []
            for server, function in (primary, "pg_current_wal_lsn()"), (replica, "pg_last_wal_replay_lsn()"):
                connection = await asyncpg.connect(server.url)
                found.append(await connection.fetchval(f"SELECT {function}::text"))
                await connection.close()
            return found[0] == found[1]

        async def promote():
            await asyncio.to_thread(replica.promote)

        async def scenario():
            store = PostgresStore(url)
            await store.create_table()
            await fails_over(Site(store), caplog, arrived=arrived, fail=primary.kill, promote=promote)
            await store.close()

        asyncio.run(scenario())
