"""Records and the lists of users in two slots: whatever comes between two steps, and wherever a failure cuts them off.

Every command of the store waits until the test lets it go. It is then done, or fails, or is done and its answer lost,
or fails and is done later all the same. After each step all that is on the server is looked at.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Coroutine
from typing import Any

import pytest
import redis

from roomkey import SessionConfig
from roomkey.core.registry import Registry
from roomkey.core.reporting import Reporter
from roomkey.errors import StoreUnavailable
from roomkey.stores.base import Conflict, Record
from roomkey.stores.redis import RedisStore
from roomkey.stores.redis.records import GENERATION_SIZE, NotARecord, decode
from tests.servers.redis import RedisServer
from tests.stores.on_redis.parts import new_prefix, plain_client
from tests.stores.records import make_key, make_record, make_tombstone

LIMIT = 2
USERS = ("ann", "bob")
NEVER: dict[str, int] = {"do": 1}
SOMETIMES = {"do": 20, "fail": 1, "lose": 1, "late": 1}


class Gate:
    """In the place of the way to the server: each command waits here."""

    def __init__(self, link: Any) -> None:
        self._link = link
        self.waiting: list[tuple[Any, Any, asyncio.Future[Any]]] = []
        self.late: list[tuple[Any, Any]] = []
        self.loads, self.writes = _Asking(self, link.loads), _Asking(self, link.writes)

    async def step(self, rng: random.Random, outcomes: dict[str, int]) -> None:
        """Let one command go, or do one that has failed long ago."""
        if self.late and rng.random() < 0.1:
            asking, item = self.late.pop(rng.randrange(len(self.late)))
            await asking.ask(item)
            return
        asking, item, answer = self.waiting.pop(rng.randrange(len(self.waiting)))
        outcome = rng.choices(list(outcomes), outcomes.values())[0]
        if outcome in ("do", "lose"):
            result = await asking.ask(item)
            if outcome == "do" and not answer.done():
                answer.set_result(result)
        if outcome == "late":
            self.late.append((asking, item))
        if not answer.done():
            answer.set_exception(StoreUnavailable("cut off"))

    async def let(self, name: bytes) -> None:
        """Let the command go whose first key ends so."""
        await settle()
        names = [item if isinstance(item, bytes) else item.args[0] for _, item, _ in self.waiting]
        (at,) = [at for at, each in enumerate(names) if each.endswith(name)]
        asking, item, answer = self.waiting.pop(at)
        answer.set_result(await asking.ask(item))
        await settle()

    async def let_all(self) -> None:
        """Let all go that come from now on."""
        await settle()
        while self.waiting:
            asking, item, answer = self.waiting.pop(0)
            answer.set_result(await asking.ask(item))
            await settle()


class _Asking:
    def __init__(self, gate: Gate, asking: Any) -> None:
        self._gate, self.asking = gate, asking

    async def ask(self, item: Any) -> Any:
        answer = asyncio.get_running_loop().create_future()
        self._gate.waiting.append((self.asking, item, answer))
        return await answer


class World:
    """A store behind a gate, what its users do, and what is really on the server."""

    def __init__(self, cluster: RedisServer, seed: int) -> None:
        self.prefix = new_prefix().strip("{}:") + ":"
        self.store = RedisStore(f"redis+cluster://127.0.0.1:{cluster.port}", prefix=self.prefix)
        self.gate = Gate(self.store._link())
        self.store._link = lambda: self.gate  # type: ignore[method-assign,assignment,return-value]
        self.store._writing._link = self.store._link
        config = SessionConfig(secret_key="k" * 32, store=self.store, store_timeout=600)
        self.registry = Registry(config, Reporter(None))
        self.admin: redis.Redis = plain_client(cluster)
        self.rng = random.Random(seed)
        self._names = itertools.count()
        self.sessions: dict[str, tuple[str, Record]] = {}  # by name: the last that its requests know of it
        self.listing: list[tuple[str, set[str]]] = []  # whose list is read, and who was there all the while

    def really(self) -> list[tuple[str, Record]]:
        """All live sessions that are on the server, with their keys."""
        found = []
        for name in self.admin.scan_iter(f"{self.prefix}*:s:*", count=1000):
            value, epoch = self.admin.mget(name, name.rpartition(b"s:")[0] + b"epoch")
            try:
                record = decode(value)
            except NotARecord:
                continue
            if value[:GENERATION_SIZE] == epoch and record.successor is None:
                found.append((name[-64:].decode(), record))
        return found

    def look(self) -> None:
        """Each live session of a user is on the list of the user, for as long as it is to live."""
        live = self.really()
        for key, record in live:
            if record.user is not None:
                until = self.admin.zscore(f"{self.prefix}u:{record.user}", key)
                assert until is not None and until >= record.expires_at, (key, record)
        for user, names in self.listing:
            names &= {record.data.decode() for _, record in live if record.user == user}

    # What requests do

    async def log_in(self, user: str) -> None:
        name, key = str(next(self._names)), make_key()
        record = make_record(user=user, data=name.encode())
        await self.store.create(key, record)
        self.sessions[name] = key, record
        await self.registry.keep_to_limit(user, LIMIT)

    async def rotate(self, name: str, user: str | None) -> None:
        key, record = self.sessions[name]
        new_key = make_key(key)
        new = make_record(user=user, data=record.data, version=record.version + 1, life=7200)
        left = make_tombstone(new_key, user=record.user, version=record.version + 1)
        await self.store.rotate(key, new_key, new, left, version=record.version)
        self.sessions[name] = new_key, new
        if user is not None and user != record.user:
            await self.registry.keep_to_limit(user, LIMIT)

    async def save(self, name: str, user: str | None, life: float) -> None:
        key, record = self.sessions[name]
        new = make_record(user=user, data=record.data, version=record.version + 1, life=life)
        await self.store.update(key, new, version=record.version)
        self.sessions[name] = key, new

    async def renew(self, name: str) -> None:
        await self.store.touch(self.sessions[name][0], make_record(life=10_000).expires_at)

    async def end(self, name: str) -> None:
        key, record = self.sessions[name]
        ended = make_record(user=record.user, life=-1.0, version=record.version + 1)
        await self.store.update(key, ended, version=record.version)
        await self.store.delete(key)

    async def read(self, user: str) -> None:
        entry = user, {record.data.decode() for _, record in self.really() if record.user == user}
        self.listing.append(entry)
        try:
            found = {record.data.decode() for _, record in await self.store.of_user(user)}
        finally:
            self.listing = [each for each in self.listing if each is not entry]  # another may be equal
        assert entry[1] <= found, "a session that was there all the while is not on the list"

    def any_request(self) -> Coroutine[Any, Any, None]:
        """One request, as chance has it."""
        rng, user = self.rng, self.rng.choice(USERS)
        name = rng.choice(list(self.sessions)) if self.sessions else None
        if name is None or rng.random() < 0.3:
            return self.log_in(user)
        whose = rng.choice((self.sessions[name][1].user, self.sessions[name][1].user, user, None))
        match rng.choice(("rotate", "rotate", "save", "renew", "end", "read", "read")):
            case "rotate":
                return self.rotate(name, whose)
            case "save":
                return self.save(name, whose, rng.choice((3600, 9000)))
            case "renew":
                return self.renew(name)
            case "end":
                return self.end(name)
            case _:
                return self.read(user)

    async def run(self, requests: int, at_once: int, outcomes: dict[str, int]) -> None:
        """Have so many requests run, some of them at once, and look after each step."""
        running: set[asyncio.Task[None]] = set()
        while requests or running:
            while requests and len(running) < at_once:
                running.add(asyncio.create_task(_unless_it_fails(self.any_request())))
                requests -= 1
            await settle()
            if self.gate.waiting:
                if outcomes is not NEVER and self.rng.random() < 0.03:
                    self.rng.choice(list(running)).cancel()
                    await settle()
                if self.gate.waiting:
                    await self.gate.step(self.rng, outcomes)
                self.look()
            done = {task for task in running if task.done()}
            running -= done
            for task in done:
                if not task.cancelled():
                    task.result()

    async def close(self) -> None:
        await self.store.close()
        self.admin.close()


async def _unless_it_fails(request: Coroutine[Any, Any, None]) -> None:
    try:
        await request
    except (Conflict, StoreUnavailable):
        pass


async def settle() -> None:
    """Let every request go on until it waits for the server."""
    for _ in range(30):
        await asyncio.sleep(0)


@pytest.mark.parametrize("seed", range(6))
async def test_nothing_live_is_missing(cluster: RedisServer, seed: int) -> None:
    """Whatever step a failure cuts off, each live session is on its user's list, and is found there."""
    world = World(cluster, seed)
    await world.run(40, 5, SOMETIMES)
    await world.close()


@pytest.mark.parametrize("seed", range(4))
async def test_a_limit_is_exact(cluster: RedisServer, seed: int) -> None:
    """However log-ins come between each other, exactly so many sessions of a user are left as there may be."""
    world = World(cluster, seed)

    def log_in() -> Coroutine[Any, Any, None]:
        return world.log_in("ann")

    world.any_request = log_in  # type: ignore[method-assign]
    await world.run(8, 6, NEVER)
    assert len([record for _, record in world.really() if record.user == "ann"]) == LIMIT
    await world.close()


@pytest.mark.parametrize("seed", range(4))
async def test_a_limit_after_failures(cluster: RedisServer, seed: int) -> None:
    """After log-ins that failed, also one whose record comes late, the next log-in has the limit hold exactly."""
    world = World(cluster, seed)
    world.any_request = lambda: world.log_in("ann")  # type: ignore[method-assign]
    await world.run(8, 4, SOMETIMES)
    while world.gate.late:
        asking, item = world.gate.late.pop()
        await asking.ask(item)
        world.look()
    await world.run(1, 1, NEVER)
    assert len([record for _, record in world.really() if record.user == "ann"]) == LIMIT
    await world.close()


async def test_an_entry_that_came_before_its_record_is_looked_at_again(cluster: RedisServer) -> None:
    """A session that rotates between the looks at its new key and at its old one is on the list."""
    world = World(cluster, 0)
    task = asyncio.create_task(world.log_in("ann"))
    await settle()
    await world.gate.let_all()
    await task
    old = world.sessions["0"][0].encode()
    rotating = asyncio.create_task(world.rotate("0", "ann"))
    await world.gate.let(b"u:ann")  # the new key is on the list, and its record is not there yet
    ((_, rotation, rotated),) = world.gate.waiting
    world.gate.waiting.clear()
    reading = asyncio.create_task(world.store.of_user("ann"))
    await world.gate.let(b"u:ann")
    (new,) = [name[-64:] for _, name, _ in world.gate.waiting if not name.endswith(old)]
    await world.gate.let(new)
    rotated.set_result(await world.gate.writes.asking.ask(rotation))
    await world.gate.let(old)
    await world.gate.let_all()
    await rotating
    assert [key for key, _ in await reading] == [new.decode()]
    await world.close()
