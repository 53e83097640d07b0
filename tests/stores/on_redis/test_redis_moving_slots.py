"""A cluster that moves the sessions' slot from one node to another, key by key, while they are used."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Iterator
from typing import Any

import pytest
import redis
import redis.asyncio

from roomkey.errors import ConfigurationError, StoreUnavailable
from roomkey.stores.base import Conflict
from roomkey.stores.redis import RedisStore
from tests.loop_clock import patience, until
from tests.servers.redis import RedisServer
from tests.stores.on_redis.parts import SLOTS, cluster_is_up, cluster_node, new_prefix, plain_client, wait_until
from tests.stores.records import make_key, make_record, make_tombstone


class Move:
    """The slot of one prefix on its way from one node to another."""

    def __init__(self, nodes: list[RedisServer], admins: list[redis.Redis], prefix: str) -> None:
        self.slot = int(admins[0].execute_command("CLUSTER", "KEYSLOT", prefix))
        names = [bytes(admin.execute_command("CLUSTER", "MYID")) for admin in admins]
        self.prefix = prefix
        self.source, self.target = admins
        self._port = nodes[1].port
        self._names = names

    def begin(self) -> None:
        self.target.execute_command("CLUSTER", "SETSLOT", self.slot, "IMPORTING", self._names[0])
        self.source.execute_command("CLUSTER", "SETSLOT", self.slot, "MIGRATING", self._names[1])

    def carry(self, *names: str) -> None:
        """Move some keys, named without the prefix; all of them where none is named."""
        keys: list[Any] = [f"{self.prefix}{name}" for name in names]
        if not names:
            keys = self.source.execute_command("CLUSTER", "GETKEYSINSLOT", self.slot, 1000)
        if keys:
            self.source.execute_command("MIGRATE", "127.0.0.1", self._port, "", 0, 5000, "KEYS", *keys)

    def end(self) -> None:
        self.carry()
        for admin in (self.target, self.source):
            admin.execute_command("CLUSTER", "SETSLOT", self.slot, "NODE", self._names[1])


@pytest.fixture(scope="module")
def nodes() -> Iterator[tuple[list[RedisServer], list[redis.Redis]]]:
    """Two nodes, of which the first has all slots, and the other none."""
    with cluster_node() as one, cluster_node() as two:
        admins = [plain_client(node) for node in (one, two)]
        bus = two.options[two.options.index("--cluster-port") + 1]
        admins[0].execute_command("CLUSTER", "ADDSLOTSRANGE", 0, SLOTS - 1)
        admins[0].execute_command("CLUSTER", "MEET", "127.0.0.1", two.port, bus)
        for admin in admins:
            wait_until(functools.partial(cluster_is_up, admin))
        yield [one, two], admins
        for admin in admins:
            admin.close()


@pytest.fixture
def move(nodes: tuple[list[RedisServer], list[redis.Redis]]) -> Move:
    return Move(*nodes, new_prefix())


def _store(nodes: tuple[list[RedisServer], list[redis.Redis]], prefix: str) -> RedisStore:
    return RedisStore(f"redis+cluster://127.0.0.1:{nodes[0][0].port}", prefix=prefix)


async def test_a_slot_that_moves_key_by_key(nodes: Any, move: Move) -> None:
    """Every load is answered. A session whose keys are together can be saved; another one is saved when they are."""
    store = _store(nodes, move.prefix)
    one, two, three = make_key(), make_key(), make_key()
    for key in (one, two, three):
        await store.create(key, make_record(data=key.encode()))
    move.begin()
    await store.update(one, make_record(version=2), version=1)  # nothing has moved yet
    assert await store.load(make_key()) is None
    move.carry("epoch", f"s:{one}")
    for key, version in ((one, 2), (two, 1), (three, 1)):
        found = await store.load(key)
        assert found is not None and found.version == version
    many = await asyncio.gather(*(store.load(key) for key in [one, two, three, make_key()] * 10))
    assert sum(record is not None for record in many) == 30
    await store.update(one, make_record(version=3), version=2)  # on the other node, which has no scripts yet
    with pytest.raises(Conflict):
        await store.update(one, make_record(version=3), version=2)
    assert await store.touch(one, make_record(7200).expires_at)
    waiting = asyncio.ensure_future(store.update(two, make_record(version=2), version=1))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    move.carry(f"s:{two}")
    await waiting
    found = await store.load(two)
    assert found is not None and found.version == 2
    new, log_in = make_key(), make_key()
    waiting = asyncio.gather(
        store.rotate(three, new, make_record(version=2), make_tombstone(new), version=1),
        store.create(log_in, make_record(user="ann")),
    )
    await asyncio.sleep(0.05)
    move.end()
    await waiting
    assert [key for key, _ in await store.of_user("ann")] == [log_in]
    assert await store.load(new) is not None
    await store.close()


async def test_a_slot_that_has_left(nodes: Any, move: Move) -> None:
    """All keys are on the other node, and nobody has said yet that it has the slot: they are found there."""
    store = _store(nodes, move.prefix)
    key = make_key()
    await store.create(key, make_record(user="ann"))
    move.begin()
    move.carry()
    assert await store.load(key) is not None and await store.load(make_key()) is None
    assert [found for found, _ in await store.of_user("ann")] == [key]
    await store.update(key, make_record(user="ann", version=2), version=1)
    move.end()
    found = await store.load(key)
    assert found is not None and found.version == 2
    await store.delete(key)
    assert await store.of_user("ann") == []
    await store.close()


async def test_a_client_of_the_apps_own(nodes: Any, move: Move) -> None:
    """It is served in the same way, and its connections are left alone."""
    client = redis.asyncio.RedisCluster(host="127.0.0.1", port=nodes[0][0].port)
    store = RedisStore(client, prefix=move.prefix)
    key = make_key()
    await store.create(key, make_record())
    move.begin()
    move.carry(f"s:{key}")
    assert await store.load(key) is not None
    move.carry("epoch")
    await store.update(key, make_record(version=2), version=1)
    move.end()
    assert await store.load(key) is not None
    await store.close()
    await client.aclose()


async def test_a_move_that_stands_still(nodes: Any, move: Move) -> None:
    """What cannot be saved meanwhile is an outage, which says what goes on. It has changed nothing."""
    store = _store(nodes, move.prefix)
    key = make_key()
    await store.create(key, make_record())
    move.begin()
    move.carry("epoch")
    with patience(1), pytest.raises(StoreUnavailable, match="moving the sessions' slot"):
        await store.update(key, make_record(version=2), version=1)
    found = await store.load(key)
    assert found is not None and found.version == 1
    move.end()
    await until(lambda: store.load(key))
    await store.close()


async def test_a_plain_url(nodes: Any, move: Move) -> None:
    """A URL or a client that says nothing of a cluster is a ConfigurationError that says how to name it."""
    port = nodes[0][0].port
    plain = redis.asyncio.Redis(port=port)
    for server in (f"redis://127.0.0.1:{port}", plain):
        store = RedisStore(server, prefix="shop:")
        with pytest.raises(ConfigurationError, match=r"redis\+cluster://"):
            await store.open()
        with pytest.raises(StoreUnavailable, match=r"redis\+cluster://"):
            await store.create(make_key(), make_record())
        await store.close()
    await plain.aclose()
    store = RedisStore(f"redis://127.0.0.1:{port}", prefix=move.prefix)
    move.begin()
    move.carry()
    with pytest.raises(StoreUnavailable, match=r"redis\+cluster://"):
        await store.load(make_key())
    await store.close()
    move.end()
