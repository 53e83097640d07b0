"""A cluster of which a part is down, moves or is forbidden: what is served, and what says that it was not done."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from roomkey import SessionManager
from roomkey.errors import StoreUnavailable
from roomkey.stores.migrating import Migrating
from roomkey.stores.redis import RedisStore
from roomkey.stores.redis.places import Places, slot_of
from tests.loop_clock import HANGS
from tests.servers.redis import RedisServer
from tests.servers.redis_cluster import RedisCluster, wait_until
from tests.stores.on_redis.parts import new_prefix
from tests.stores.records import make_key, make_record, make_tombstone


@pytest.fixture(scope="module")
def two() -> Iterator[RedisCluster]:
    """Two primaries without replicas. A part of the slots can be served alone."""
    with RedisCluster(primaries=2) as nodes:
        for node in nodes.nodes:
            node.admin.config_set("cluster-require-full-coverage", "no")
        yield nodes


@pytest.fixture
def prefix() -> str:
    return new_prefix().strip("{}:") + ":"


@contextlib.asynccontextmanager
async def down(cluster: RedisCluster, number: int):  # type: ignore[no-untyped-def]
    """Have a node be down, and up again without its data."""
    node = cluster.primaries[number]
    await asyncio.to_thread(node.server.kill)
    try:
        yield
    finally:
        await asyncio.to_thread(node.server.start, "--cluster-require-full-coverage", "no")
        await asyncio.to_thread(wait_until, node.is_well)


def has(cluster: RedisCluster, number: int, name: bytes) -> bool:
    return cluster.owner_of(slot_of(name)) is cluster.primaries[number]


async def test_a_node_that_is_down(two: RedisCluster, prefix: str) -> None:
    """The sessions of the other nodes are served, and those of this one are an outage, until it is back."""
    store, places = RedisStore(two.url, prefix=prefix), Places(prefix, spread=True)
    keys = [make_key() for _ in range(40)]
    await asyncio.gather(*(store.create(key, make_record()) for key in keys))
    lost = [key for key in keys if has(two, 0, places.record(key))]
    assert 5 < len(lost) < 35
    async with down(two, 0):
        for _ in range(2):
            found = await asyncio.gather(*(store.load(key) for key in keys), return_exceptions=True)
            for key, answer in zip(keys, found, strict=True):
                assert isinstance(answer, StoreUnavailable) if key in lost else answer is not None
        kept = next(key for key in keys if key not in lost)
        await store.update(kept, make_record(version=2), version=1)
    assert [await store.load(key) for key in lost] == [None] * len(lost)
    await store.create(lost[0], make_record())
    await store.close()


async def test_a_list_that_is_down(two: RedisCluster, prefix: str) -> None:
    """A log-in without its user's list is an outage, and leaves no session. One that ends has ended all the same."""
    store, places = RedisStore(two.url, prefix=prefix), Places(prefix, spread=True)
    user = next(name for name in map(str, range(100)) if has(two, 0, places.list_of(name)))
    keys = [key for key in (make_key() for _ in range(100)) if has(two, 1, places.record(key))]
    await store.create(keys[0], make_record(user=user))
    async with down(two, 0):
        with pytest.raises(StoreUnavailable):
            await store.create(keys[1], make_record(user=user))
        assert await store.load(keys[1]) is None
        with pytest.raises(StoreUnavailable):
            await store.of_user(user)
        await store.update(keys[0], make_record(user=user, version=2, life=-1.0), version=1)
        assert await store.load(keys[0]) is None
    assert await store.of_user(user) == []
    await store.close()


async def test_a_wipe_that_fails_half_way(two: RedisCluster, prefix: str) -> None:
    """Where a node does not answer, some sessions may not have ended: the error says so. The next try ends them."""
    store = RedisStore(two.url, prefix=prefix)
    keys = [make_key() for _ in range(40)]
    await asyncio.gather(*(store.create(key, make_record(user="ann")) for key in keys))
    async with down(two, 1):
        with pytest.raises(StoreUnavailable, match=r"not every session has ended.*ask again"):
            await store.wipe()
    fresh = [make_key() for _ in range(40)]
    await asyncio.gather(*(store.create(key, make_record(user="ann")) for key in fresh))
    await store.wipe()
    assert not any(await asyncio.gather(*(store.load(key) for key in keys + fresh)))
    assert await store.of_user("ann") == []
    await store.close()


async def test_a_scan_while_slots_move(two: RedisCluster, prefix: str) -> None:
    """Keys that go to a node that was looked through already come all the same, also where they move slowly."""
    store, places = RedisStore(two.url, prefix=prefix), Places(prefix, spread=True)
    keys = {make_key() for _ in range(60)}
    await asyncio.gather(*(store.create(key, make_record()) for key in keys))
    first, second = sorted(two.primaries, key=lambda node: node.address)
    slots = {slot_of(places.record(key)) for key in keys if two.owner_of(slot_of(places.record(key))) is second}
    moving = sorted(slots)
    open_moves = moving[:5]
    for slot in open_moves:
        two.begin_move(slot, second, first)
    found, after, calls = *await store.scan(10), 0
    seen = set(found)
    while after:
        found, after = await store.scan(10, after)
        seen.update(found)
        calls += 1
        if after.endswith(second.address):
            for slot in moving:
                if slot not in open_moves:
                    two.move(slot, second, first)
                else:
                    two.carry(slot, second, first)
            moving = []
        if calls == 200:
            for slot in open_moves:
                two.end_move(slot, second, first)
    assert seen == keys
    assert calls > 200, "it has trusted a look while slots were moving"
    await store.close()


async def test_a_scan_after_the_node_is_gone(two: RedisCluster, prefix: str) -> None:
    """A look that was at a node which has no slots any more begins anew."""
    store = RedisStore(two.url, prefix=prefix)
    keys = {make_key() for _ in range(10)}
    await asyncio.gather(*(store.create(key, make_record()) for key in keys))
    found, after = [], "0123456789abcdef 17 127.0.0.1:1"
    while after:
        some, after = await store.scan(100, after)
        found += some
    assert set(found) == keys
    await store.close()


async def test_the_rights_of_an_account(two: RedisCluster, prefix: str) -> None:
    """An account with the rights that the documentation names can do all that the store does in a cluster."""
    text = (Path(__file__).resolve().parents[3] / "docs/howto-stores.md").read_text()
    some, more = re.findall(r"account of its own needs .*?`(\+[^`]+)`", text)[:2]
    last = re.search(r"`(\+cluster\|nodes)`", text)
    assert last is not None
    for node in two.primaries:
        node.ask(
            "ACL", "SETUSER", "app", "reset", "on", ">secret", f"~{prefix}*", *some.split(), *more.split(), last[1]
        )
    store = RedisStore(two.url.replace("//", "//app:secret@"), prefix=prefix)
    await store.open()
    key = make_key()
    new = make_key(key)
    await store.create(key, make_record(user="ann"))
    await store.rotate(key, new, make_record(version=2, user="ann"), make_tombstone(new), version=1)
    assert await store.touch(new, make_record(7200).expires_at)
    assert [found for found, _ in await store.of_user("ann")] == [new]
    found, after = await store.scan(100)
    while after:
        some, after = await store.scan(100, after)
        found += some
    assert new in found
    await store.delete(new)
    await store.wipe()
    await store.close()


async def test_a_key_of_another_place_is_no_rotation(two: RedisCluster, prefix: str) -> None:
    """A rotation to a key on another server is refused before anything is done."""
    store, key = RedisStore(two.url, prefix=prefix), "a" * 64
    await store.create(key, make_record())
    with pytest.raises(ValueError, match="two servers"):
        await store.rotate(key, "b" * 64, make_record(version=2), make_tombstone("b" * 64), version=1)
    assert (await store.load(key)) is not None
    await store.close()


@pytest.mark.parametrize("to_cluster", [True, False])
async def test_moving_between_a_server_and_a_cluster(
    two: RedisCluster, server: RedisServer, prefix: str, to_cluster: bool
) -> None:
    """Sessions move from one server to a cluster, or back, and are listed, rotated and ended there."""
    stores = [RedisStore(server.url, prefix=prefix), RedisStore(two.url, prefix=prefix)]
    old, new = stores if to_cluster else reversed(stores)
    both = Migrating(new, old)
    keys = [make_key() for _ in range(20)]
    for key in keys:
        await old.create(key, make_record(user="ann"))
    assert all(await asyncio.gather(*(both.load(key) for key in keys[:10])))
    assert {key for key, _ in await both.of_user("ann")} == set(keys)
    moved = make_key(keys[0])
    await both.rotate(keys[0], moved, make_record(user="bob", version=2), make_tombstone(moved), version=1)
    await both.delete(keys[1])
    assert {key for key, _ in await both.of_user("ann")} == set(keys[2:])
    assert [key for key, _ in await both.of_user("bob")] == [moved]
    await both.wipe()
    assert await both.of_user("ann") == [] and await both.load(keys[5]) is None
    await both.close()


async def test_the_rights_that_near_cache_needs(two: RedisCluster, prefix: str) -> None:
    """With the rights that the pages name, every node of a cluster tells of changes, and sessions are kept near."""
    docs = Path(__file__).resolve().parents[3] / "docs"
    some, more = re.findall(r"account of its own needs .*?`(\+[^`]+)`", (docs / "howto-stores.md").read_text())[:2]
    near = re.search(r"add `(\+hello [^`]+)`", (docs / "howto-near.md").read_text())
    assert near is not None
    rights = [*some.split(), *more.split(), *near[1].split()]
    for node in two.primaries:
        node.ask("ACL", "SETUSER", "near", "reset", "on", ">secret", f"~{prefix}*", *rights)
    store = RedisStore(two.url.replace("//", "//near:secret@"), prefix=prefix)
    async with SessionManager(secret_key="k" * 32, store=store, near_cache=10) as manager:
        assert manager.near is not None
        async with asyncio.timeout(HANGS):  # a connection that takes too long is made again
            while not manager.near.notices.hold(60):
                await asyncio.sleep(0.01)
