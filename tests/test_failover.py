"""Fail-over to a real replica: the app goes on with the new primary, and has what had reached it.

Or a switch-over, where the old primary stays up as a replica, and keeps the connections that the app has to it.
"""

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import asyncpg
import pytest
import redis
from sqlalchemy.ext.asyncio import create_async_engine

from roomkey.stores.base import Store
from roomkey.stores.postgres import PostgresStore
from roomkey.stores.redis import RedisStore
from roomkey.stores.sqlalchemy import SQLAlchemyStore
from tests.loop_clock import HANGS, until
from tests.servers.mariadb import MariaDBServer
from tests.servers.parts import free_port
from tests.servers.postgres import PostgresServer
from tests.servers.proxy import Proxy
from tests.servers.redis import RedisServer
from tests.site import Site, lines, refused_in_time

ROUNDS = 10  # of requests at once, of which some may fail before all go to the new primary
SLOTS = 16384  # of a Redis cluster
# Milliseconds after which a server that says nothing counts as down: on a busy machine one that is well may say nothing
# for a while, and only what a test has killed is to be found out soon.
NEVER, SOON = HANGS * 1000, 1000
# The bus's port is 10,000 above the other one unless it is named, and that may be past the last.
CLUSTERED = "--cluster-enabled", "yes", "--cluster-node-timeout", str(NEVER), "--cluster-port"

pytestmark = pytest.mark.usefixtures("patient", "tidy")
_numbers = itertools.count()


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
    await site.until_served(cards[0], caplog, silent=True)
    assert await site.read(cards[0]) == (200, {"user_id": 0, "kept": "acknowledged"})
    for user in range(1, 4):
        assert await site.read(cards[user]) == (200, {"user_id": user})
    assert await site.read(cards[4]) == (200, {})  # logged out for good
    assert (await site.ask(cards[0], lambda session: session.update(new=1)))[0] == 200
    assert await site.read(cards[0]) == (200, {"user_id": 0, "kept": "acknowledged", "new": 1})
    assert len(lines(caplog, logging.ERROR)) == 1
    assert len(lines(caplog, logging.WARNING)) == 1


async def test_redis_with_a_sentinel(caplog):
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

        # A sentinel that has stood still for 2 seconds does nothing for the next 30.
        with contextlib.suppress(redis.ResponseError):  # Redis 6 does not know the command
            admin.execute_command("SENTINEL", "DEBUG", "tilt-trigger", NEVER)
        await until(lambda: admin.info("sentinel")["sentinel_tilt"] == 0)
        await until(arrived)
        admin.execute_command("SENTINEL", "MONITOR", "main", "127.0.0.1", primary.port, 1)
        for option, value in ("down-after-milliseconds", NEVER), ("failover-timeout", 3000):
            admin.execute_command("SENTINEL", "SET", "main", option, value)

        def fail():
            primary.kill()
            # It never promotes a replica whose primary has gone more than ten times as long before it found out.
            admin.execute_command("SENTINEL", "SET", "main", "down-after-milliseconds", 5 * SOON)

        await until(is_known)
        site = Site(RedisStore(f"redis+sentinel://127.0.0.1:{sentinel.port}/main/0"))
        await fails_over(site, caplog, arrived=arrived, fail=fail, promote=promoted)
        await site.store.close()


@pytest.fixture
def cluster():
    """A Redis cluster: three primaries, of which the first has the sessions' slot, and a replica of that one."""
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(RedisServer(*CLUSTERED, str(free_port()))) for _ in range(4)]
        admins = [
            stack.enter_context(contextlib.closing(redis.Redis(port=server.port, decode_responses=True)))
            for server in servers
        ]
        owner, *others, spare = admins
        slot = owner.execute_command("CLUSTER", "KEYSLOT", "{roomkey}:epoch")
        for admin, first, last in (others[0], 0, slot - 1), (owner, slot, slot), (others[1], slot + 1, SLOTS - 1):
            admin.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
        for epoch, admin in enumerate(admins, 1):
            admin.execute_command("CLUSTER", "SET-CONFIG-EPOCH", epoch)
        for server in servers[1:]:
            owner.execute_command("CLUSTER", "MEET", "127.0.0.1", server.port, server.options[-1])
        name = owner.execute_command("CLUSTER", "MYID")

        def follows():
            try:
                spare.execute_command("CLUSTER", "REPLICATE", name)
            except redis.ResponseError:  # it has not heard of it yet
                return False
            return True

        def is_ready():
            nodes = [node for admin in admins for node in admin.cluster("NODES").values()]
            return (
                all(admin.cluster("INFO")["cluster_state"] == "ok" for admin in admins)
                and len(nodes) == len(admins) ** 2
                and sum("slave" in node["flags"] for node in nodes) == len(admins)
                and spare.info("replication")["master_link_status"] == "up"
            )

        for condition in follows, is_ready:
            asyncio.run(until(partial(asyncio.to_thread, condition)))
        yield servers, admins


@pytest.mark.parametrize("way", ["killed", "silent", "switched over"])
async def test_a_redis_cluster(cluster, caplog, way):
    """The replica takes the slot over; where the old primary stays up, as its replica, it is left too."""
    servers, admins = cluster
    owner, *_, spare = admins

    async def arrived():
        return spare.info("replication")["slave_repl_offset"] == owner.info("replication")["master_repl_offset"]

    async def promoted():
        async def has_the_slot():
            return spare.info("replication")["role"] == "master"

        await until(has_the_slot)
        find_out(NEVER)

    def find_out(milliseconds):
        """Let the others find out after so many milliseconds that the owner has failed."""
        for admin in admins[1:]:
            admin.config_set("cluster-node-timeout", milliseconds)

    def fail():
        servers[0].kill() if way == "killed" else servers[0].pause()
        find_out(SOON)

    def everybody_knows():
        address = f"127.0.0.1:{servers[-1].port}"
        return all("master" in admin.cluster("NODES")[address]["flags"] for admin in admins)

    first = 0 if way == "silent" else 1
    store = RedisStore(
        f"redis+cluster://127.0.0.1:{servers[first].port},127.0.0.1:{servers[2].port}", prefix="{roomkey}:"
    )
    site = Site(store)
    if way == "killed":
        await fails_over(site, caplog, arrived=arrived, fail=fail, promote=promoted)
    elif way == "silent":
        try:
            await fails_over(site, caplog, arrived=arrived, fail=fail, promote=promoted)
        finally:
            servers[0].resume()
    else:
        cards = [await site.log_in(user) for user in range(20)]
        assert await all_save(site, cards, before=True)
        spare.execute_command("CLUSTER", "FAILOVER")
        await promoted()
        await until(everybody_knows)
        failed = 0
        while not await all_save(site, cards, after=True):
            failed += 1
            assert failed < ROUNDS, "it stays with the old primary"
            await asyncio.sleep(0.02)
        for user, card in enumerate(cards):
            assert await site.read(card) == (200, {"user_id": user, "before": True, "after": True})
    await store.close()


@pytest.mark.parametrize("way", ["killed", "silent"])
async def test_postgres_with_several_hosts_in_the_url(caplog, way):
    """Where the URL names both servers, the store goes to the one that takes writes, past one that is silent."""
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

        store = PostgresStore(url)
        await store.create_table()
        fail = primary.kill if way == "killed" else primary.pause
        try:
            await fails_over(Site(store), caplog, arrived=arrived, fail=fail, promote=promote)
        finally:
            if way == "silent":
                primary.resume()
        await store.close()


@dataclass
class Pair:
    """A primary and its replica, of one engine. The app knows one address, which is a proxy's."""

    primary: RedisServer | PostgresServer | MariaDBServer
    replica: RedisServer | PostgresServer | MariaDBServer
    arrived: Callable[[], Awaitable[bool]]  # whether the replica has everything
    demote: Callable[[], Awaitable[None]]  # make the primary refuse changes
    promote: Callable[[], Awaitable[None]]  # make the replica take them


@contextlib.asynccontextmanager
async def redis_pair():
    """Redis: a primary that becomes its replica's replica keeps its clients."""
    with RedisServer() as primary, RedisServer() as replica, contextlib.ExitStack() as stack:
        one, two = (
            stack.enter_context(contextlib.closing(redis.Redis(port=server.port, decode_responses=True)))
            for server in (primary, replica)
        )
        two.replicaof("127.0.0.1", str(primary.port))

        async def arrived():
            told = two.info("replication")
            return (
                told["master_link_status"] == "up"
                and told["slave_repl_offset"] == one.info("replication")["master_repl_offset"]
            )

        async def demote():
            one.replicaof("127.0.0.1", str(replica.port))

        async def promote():
            two.replicaof("NO", "ONE")

        yield Pair(primary, replica, arrived, demote, promote)


@contextlib.asynccontextmanager
async def postgres_pair():
    """PostgreSQL: with every session read-only, before the old primary is stopped."""
    with PostgresServer() as primary, PostgresServer(replica_of=primary) as replica:

        async def ask(server, statement):
            connection = await asyncpg.connect(server.url)
            try:
                return await connection.fetchval(statement)
            finally:
                await connection.close()

        async def arrived():
            return await ask(primary, "SELECT pg_current_wal_lsn()::text") == await ask(
                replica, "SELECT pg_last_wal_replay_lsn()::text"
            )

        async def demote():
            await ask(primary, "ALTER SYSTEM SET default_transaction_read_only = on")
            await ask(primary, "SELECT pg_reload_conf()")

        async def promote():
            await asyncio.to_thread(replica.promote)

        yield Pair(primary, replica, arrived, demote, promote)


@contextlib.asynccontextmanager
async def mariadb_pair():
    """MariaDB: `read_only` binds the app's account, not an administrator's."""
    with (
        MariaDBServer("--server-id=1", "--log-bin=changes") as primary,
        MariaDBServer("--server-id=2", "--read-only=1") as replica,
    ):
        await replica.run(
            f"CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={primary.port}, "
            f"MASTER_USER='{primary.user}', MASTER_PASSWORD='{primary.password}', MASTER_USE_GTID=slave_pos",
            "START SLAVE",
        )
        await primary.run(
            f"CREATE USER app@'%' IDENTIFIED BY '{primary.password}'",
            f"GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, INDEX ON {primary.database}.* TO app@'%'",
        )

        async def arrived():
            [there] = await primary.run("SELECT @@gtid_binlog_pos AS at")
            [here] = await replica.run("SELECT @@gtid_slave_pos AS at")
            return there["at"] == here["at"]

        async def demote():
            await primary.run("SET GLOBAL read_only = 1")

        async def promote():
            await replica.run("STOP SLAVE", "SET GLOBAL read_only = 0")

        yield Pair(primary, replica, arrived, demote, promote)


@contextlib.asynccontextmanager
async def store_of(kind: str, pair: Pair, port: int):
    """A store that reaches the primary through `port`."""
    url = pair.primary.url
    if kind.startswith("mariadb"):
        url = pair.primary.url_for(user="app", password=pair.primary.password).replace("mysql://", "mysql+asyncmy://")
    url = url.replace(f":{pair.primary.port}/", f":{port}/")
    store: Store
    if kind == "redis":
        store = RedisStore(url)
    elif kind == "postgres":
        store = PostgresStore(url)
    elif kind == "postgres, the app's pool":
        async with asyncpg.create_pool(url, min_size=4) as pool:
            yield PostgresStore(pool)
        return
    elif kind == "mariadb":
        store = SQLAlchemyStore(url)
    else:
        engine = create_async_engine(url, pool_size=10, max_overflow=0)
        yield SQLAlchemyStore(engine)
        await engine.dispose()
        return
    yield store
    await store.close()


KINDS = {
    "redis": redis_pair,
    "postgres": postgres_pair,
    "postgres, the app's pool": postgres_pair,
    "mariadb": mariadb_pair,
    "mariadb, the app's engine": mariadb_pair,
}


@pytest.mark.parametrize("kind", KINDS)
async def test_a_primary_that_is_killed_behind_one_address(kind, caplog):
    """The address (a name, a proxy, a virtual IP) moves to the replica: one outage, and what had arrived is there."""
    async with two_servers(kind) as (pair, proxy, store):

        async def promote():
            await pair.promote()
            proxy.target = pair.replica.port

        await fails_over(Site(store), caplog, arrived=pair.arrived, fail=pair.primary.kill, promote=promote)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_primary_that_becomes_a_replica_and_stays_up(kind, caplog):
    """Connections to it still answer, and refuse changes: they are given up, and the app is with the new primary."""
    async with two_servers(kind) as (pair, proxy, store):
        site, cards = await with_sessions(pair, proxy, store)
        probe = await site.log_in("probe")
        caplog.clear()
        await pair.demote()
        await until(lambda: refuses(site, probe))
        await pair.promote()
        proxy.target = pair.replica.port
        in_a_row = failed = 0  # more than once: each time other connections may be used
        while in_a_row < 5:
            if await all_save(site, cards, after=in_a_row):
                in_a_row += 1
            else:
                in_a_row, failed = 0, failed + 1
                assert failed < ROUNDS, "it stays with the old primary"
                await asyncio.sleep(0.02)
        for user, card in enumerate(cards):
            assert await site.read(card) == (200, {"user_id": user, "before": True, "after": 4})
        await asyncio.to_thread(pair.primary.kill)  # nothing is with it
        assert await all_save(site, cards, last=True)
        assert len(lines(caplog, logging.ERROR)) == 1


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "redis"])
async def test_a_switch_over_between_two_requests_goes_unnoticed(kind, caplog):
    """What the old primary refused is sent again, to the new one: no request fails, and nothing is logged."""
    async with two_servers(kind) as (pair, proxy, store):
        site, cards = await with_sessions(pair, proxy, store)
        caplog.clear()
        await pair.demote()
        await pair.promote()
        proxy.target = pair.replica.port
        for at in range(5):
            assert await all_save(site, cards, after=at)
        for user, card in enumerate(cards):
            assert await site.read(card) == (200, {"user_id": user, "before": True, "after": 4})
        assert not lines(caplog, logging.ERROR)


@contextlib.asynccontextmanager
async def two_servers(kind: str):
    """A primary and its replica, the address that the app knows, and a store with its table there."""
    async with KINDS[kind]() as pair, Proxy(pair.primary.port) as proxy, store_of(kind, pair, proxy.port) as store:
        if not isinstance(store, RedisStore):
            await store.create_table()
        yield pair, proxy, store


async def with_sessions(pair: Pair, proxy: Proxy, store: Store):
    """An app with many sessions, which have reached the replica, and connections in use."""
    site = Site(store)
    cards = [await site.log_in(user) for user in range(20)]
    assert await all_save(site, cards, before=True)
    await until(pair.arrived)
    assert proxy.connections
    return site, cards


async def all_save(site: Site, cards: list[bytes], **what: object) -> bool:
    """Whether each session could be saved, all at once."""
    answers = await asyncio.gather(*(site.ask(card, lambda session: session.update(what)) for card in cards))
    return {status for status, _, _ in answers} == {200}


async def refuses(site: Site, card: bytes) -> bool:
    """Whether the old primary refuses changes: the setting takes a moment to arrive."""
    # Another value each time: what is there already would not be saved, and not be refused.
    return (await site.ask(card, lambda session: session.update(tried=next(_numbers))))[0] == 503
