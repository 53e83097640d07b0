"""Outages of real engines: 503 in time, with Retry-After, and one log line; nothing hangs; full service right after."""

import asyncio
import contextlib
import itertools
import logging
import secrets
import shlex
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest
import redis.asyncio

from roomkey.stores.guard import SETTLING
from tests.loop_clock import patience, until
from tests.servers.mariadb import MariaDBServer
from tests.servers.postgres import PostgresServer
from tests.servers.proxy import Proxy
from tests.servers.redis import RedisServer
from tests.site import SLACK, TIMEOUT, Site, lines, refused_in_time

APP_PASSWORD = "app secret"
WAL_SEGMENT = 16 * 1024 * 1024  # bytes of PostgreSQL's write-ahead log, which has to fit


pytestmark = pytest.mark.usefixtures("patient", "tidy")


@dataclass
class Engine:
    """One engine: its server, and how a store is made for it."""

    name: str
    server: Any

    def store(self, port=None):
        url = self.server.url if self.name != "mariadb" else self.server.url_for(user="app", password=APP_PASSWORD)
        if port is not None:
            url = url.replace(f":{self.server.port}/", f":{port}/")
        if self.name == "redis":
            from roomkey.stores.redis import RedisStore

            return RedisStore(url)
        if self.name == "postgres":
            from roomkey.stores.postgres import PostgresStore

            return PostgresStore(url)
        from roomkey.stores.sqlalchemy import SQLAlchemyStore

        return SQLAlchemyStore(url.replace("mysql://", "mysql+asyncmy://"))

    async def prepare(self):
        if self.name == "mariadb":  # an account that `read_only` binds, with the rights that the store's docs name
            await self.run(
                f"CREATE USER app@'%' IDENTIFIED BY '{APP_PASSWORD}'",
                f"GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, DROP, INDEX ON {self.server.database}.* TO app@'%'",
            )
        if self.name != "redis":
            store = self.store()
            await store.create_table()
            await store.close()

    async def run(self, *commands):
        """Run an administrator's commands, one by one; a function does something to the server's files."""
        if self.name == "redis":
            client = redis.asyncio.Redis.from_url(self.server.url)
            for command in commands:
                if callable(command):
                    command(self.server)
                else:
                    await client.execute_command(*shlex.split(command))
            await client.aclose()
        elif self.name == "postgres":
            connection = await asyncpg.connect(self.server.url)
            for command in commands:
                await connection.execute(command)
            await connection.close()
        else:
            await self.server.run(*commands)


@pytest.fixture(scope="module", params=["redis", "postgres", "mariadb"])
def engine(request):
    """Return a running engine that keeps what it acknowledged."""
    if request.param == "redis":
        # Every write is on disk before it is acknowledged, so that a kill takes nothing with it.
        server = RedisServer("--appendonly", "yes", "--appendfsync", "always")
    elif request.param == "postgres":
        server = PostgresServer()
    else:
        server = MariaDBServer()
    with server:
        made = Engine(request.param, server)
        asyncio.run(made.prepare())
        yield made


OUTAGES = {
    "stopped": (lambda server: server.stop(), lambda server: server.start()),
    "killed": (lambda server: server.kill(), lambda server: server.start()),
    "paused": (lambda server: server.pause(), lambda server: server.resume()),
}


@pytest.mark.parametrize("outage", OUTAGES)
async def test_an_outage_is_a_503_and_is_over_at_once(engine, outage, caplog):
    """While the server is away each request is 503 in time; after its return the first one is served, nothing lost."""
    begin, end = OUTAGES[outage]
    site = Site(engine.store())
    cards = [await site.log_in(user) for user in range(5)]
    await site.ask(cards[0], lambda session: session.update(kept="acknowledged"))
    caplog.clear()
    await asyncio.to_thread(begin, engine.server)
    try:
        for _ in range(2):
            await refused_in_time(site, cards[0])
    finally:
        await asyncio.to_thread(end, engine.server)
    assert len(lines(caplog, logging.ERROR)) == 1
    assert await site.until_served(cards[0], caplog) == 0
    assert len(lines(caplog, logging.WARNING)) == 1
    assert await site.read(cards[0]) == (200, {"user_id": 0, "kept": "acknowledged"})
    answers = await asyncio.gather(*(site.read(card) for card in cards for _ in range(10)))
    assert [seen["user_id"] for _, seen in answers] == [user for user in range(5) for _ in range(10)]
    assert (await site.ask(cards[1], lambda session: session.update(x=1)))[0] == 200
    assert len(lines(caplog, logging.ERROR)) == 1
    await site.store.close()


async def test_a_restart_between_two_requests_goes_unnoticed(engine, caplog):
    """A server that was restarted while nobody asked costs at most one refused request for each connection."""
    site = Site(engine.store())
    cards = [await site.log_in(user) for user in range(5)]
    await asyncio.gather(*(site.read(card) for card in cards * 5))
    await asyncio.to_thread(engine.server.restart)
    assert await site.until_served(cards[0], caplog) <= 25
    for user, card in enumerate(cards):
        assert await site.read(card) == (200, {"user_id": user})
    await site.store.close()


async def test_connections_reset_in_the_middle_of_an_answer(engine, caplog):
    """Each request is answered 200 or 503, never with another session's data; afterwards everything is as before."""
    async with Proxy(engine.server.port) as proxy:
        site = Site(engine.store(proxy.port))
        cards = [await site.log_in(user) for user in range(10)]
        for cut in (0, 1, 7, 40):
            proxy.cut_after = cut
            answers = await asyncio.gather(*(site.read(card) for card in cards))
            assert {status for status, _ in answers} <= {200, 503}
            writes = [site.ask(card, lambda session, cut=cut: session.update(x=cut)) for card in cards]
            assert {status for status, _, _ in await asyncio.gather(*writes)} <= {200, 503}
            proxy.cut_after = None
            await site.until_served(cards[0], caplog)
            for user, card in enumerate(cards):
                status, seen = await site.read(card)
                assert (status, seen["user_id"]) == (200, user)
        await site.store.close()


async def test_a_slow_server_is_waited_for_no_longer_than_allowed(engine, caplog):
    """Slower than store_timeout is a 503 in time; within it, an answer; and the connections do not pile up."""
    async with Proxy(engine.server.port) as proxy:
        site = Site(engine.store(proxy.port))
        card = await site.log_in(1)
        proxy.delay = 2 * TIMEOUT
        for _ in range(3):
            await refused_in_time(site, card)
        assert proxy.connections <= 20
        proxy.delay = 0
        assert await site.until_served(card, caplog) == 0
        await site.store.close()
        proxy.delay = 0.05
        patient = Site(engine.store(proxy.port))
        assert await patient.read(card) == (200, {"user_id": 1})
        await patient.store.close()


REFUSALS = {  # engine and way: how it begins, how it ends
    ("redis", "memory full"): (
        ["CONFIG SET maxmemory-policy noeviction", "CONFIG SET maxmemory 1"],
        ["CONFIG SET maxmemory 0"],
    ),
    ("redis", "no room for a snapshot"): (
        [lambda server: (server.directory / "dump.rdb").mkdir(), "CONFIG SET save '3600 1'", "BGSAVE"],
        [lambda server: (server.directory / "dump.rdb").rmdir(), "BGSAVE", "CONFIG SET save ''"],
    ),
    ("redis", "too few replicas"): (
        ["CONFIG SET min-replicas-to-write 1"],
        ["CONFIG SET min-replicas-to-write 0"],
    ),
    ("redis", "a replica"): (["REPLICAOF 127.0.0.1 1"], ["REPLICAOF NO ONE"]),
    ("postgres", "read-only"): (
        ["ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()"],
        [
            "SET default_transaction_read_only = off",
            "ALTER SYSTEM RESET default_transaction_read_only",
            "SELECT pg_reload_conf()",
        ],
    ),
    ("mariadb", "read-only"): (["SET GLOBAL read_only = 1"], ["SET GLOBAL read_only = 0"]),
}


@pytest.mark.parametrize(("engine", "way"), REFUSALS, indirect=["engine"])
async def test_a_server_that_refuses_writes(engine, way, caplog):
    """Reads go on, writes are 503, and all is well when it takes writes again: one outage in the log."""
    refuse, accept = REFUSALS[engine.name, way]
    site = Site(engine.store())
    card = await site.log_in(1)
    caplog.clear()
    await engine.run(*refuse)
    numbers = itertools.count()  # another value each time: what is there already would not be saved

    async def changes():
        return (await site.ask(card, lambda session: session.update(x=next(numbers))))[0] == 200

    async def is_refused():
        return not await changes()

    async def is_accepted():
        return (await site.ask(card, lambda session: session.update(y=1)))[0] == 200

    async def is_over():
        assert await changes()
        return lines(caplog, logging.WARNING)

    try:
        await until(is_refused)  # the setting takes a moment to arrive
        for _ in range(3):
            status, headers, _ = await site.ask(card, lambda session: session.update(refused=True))
            assert status == 503 and b"retry-after" in headers
            status, seen = await site.read(card)
            assert status == 200 and "refused" not in seen
            await asyncio.sleep(SETTLING)
    finally:
        await engine.run(*accept)
    await until(is_accepted)
    await until(is_over)
    assert (await site.read(card))[1]["y"] == 1
    assert [len(lines(caplog, level)) for level in (logging.ERROR, logging.WARNING)] == [1, 1]
    await site.store.close()


@contextlib.contextmanager
def full_postgres():
    """A server whose files cannot grow, and how they can again."""
    with PostgresServer() as server:
        yield server, lambda: server.limit_files(WAL_SEGMENT), lambda: server.limit_files(None)


@contextlib.contextmanager
def full_mariadb():
    """A server whose one file cannot grow, and how there is room in it again."""
    file = "--innodb-data-file-path=ibdata1:12M:autoextend:max:14M"

    def make_room():
        asyncio.run(server.run("DELETE FROM roomkey_session WHERE user_id = '9' LIMIT 50"))

    with MariaDBServer("--innodb-file-per-table=0", file) as server:
        yield server, lambda: None, make_room


@pytest.mark.parametrize(("name", "full"), [("postgres", full_postgres), ("mariadb", full_mariadb)])
async def test_a_server_whose_disk_is_full(name, full, caplog):
    """New sessions are 503, and those that are there are read; all is well when there is room again."""
    data = secrets.token_hex(10_000)  # SQL databases compress, and not this
    with full() as (server, stop_growing, make_room):
        engine = Engine(name, server)
        await engine.prepare()
        site = Site(engine.store())
        cards = [await site.log_in(user) for user in range(3)]
        fill = lambda session: session.update(user_id=9, data=data)  # noqa: E731
        await asyncio.to_thread(stop_growing)
        refused = asked = 0
        while refused < 10:  # in a row: MariaDB gives back what a refused one took
            refused = 0 if (await site.ask(act=fill))[0] == 200 else refused + 1
            asked += 1
            assert asked < 10_000
        caplog.clear()
        for _ in range(3):
            with patience(1):
                status, headers, waited = await site.ask(act=fill)
            assert status == 503 and b"retry-after" in headers and waited < TIMEOUT + SLACK
            assert [await site.read(card) for card in cards[1:]] == [(200, {"user_id": 1}), (200, {"user_id": 2})]
            await asyncio.sleep(SETTLING)
        ended = (await site.ask(cards[0], lambda session: session.clear()))[0] == 200
        assert ended or name == "mariadb"  # which has no room to note even a change that needs none
        assert await site.read(cards[0]) == (200, {} if ended else {"user_id": 0})
        assert lines(caplog, logging.WARNING) == []  # that somebody could log out is no sign of room
        await asyncio.to_thread(make_room)

        async def is_over():
            await site.ask(act=lambda session: session.update(x=1))
            return lines(caplog, logging.WARNING)

        await until(is_over)  # MariaDB finds the room little by little
        assert lines(caplog, logging.ERROR) == []  # it was said when it began
        assert await site.read(cards[1]) == (200, {"user_id": 1})
        await site.store.close()


async def test_an_outage_at_the_start_is_no_reason_not_to_start(engine, caplog):
    """An app whose store is down starts, answers 503, and serves when the store is there."""
    site = Site(engine.store())
    card = await site.log_in(7)
    await site.store.close()
    await asyncio.to_thread(engine.server.stop)
    late = Site(engine.store())
    try:
        await refused_in_time(late, card)
    finally:
        await asyncio.to_thread(engine.server.start)
    assert await late.until_served(card, caplog) == 0
    assert await late.read(card) == (200, {"user_id": 7})
    await late.store.close()
