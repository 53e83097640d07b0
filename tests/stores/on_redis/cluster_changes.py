"""A cluster that changes its shape while users work: what takes too long for every run. `make cluster` runs it.

No write that was acknowledged and that the cluster kept is lost, no log-out is undone, and no request hangs.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Iterator

import pytest

from roomkey.stores.redis import RedisStore
from roomkey.stores.redis.places import Places, slot_of
from tests.loop_clock import patience, until
from tests.servers.redis_cluster import Node, RedisCluster
from tests.stores.on_redis.users_at_work import AtWork

PLACES = Places("shop:", spread=True)


@pytest.fixture
def cluster() -> Iterator[RedisCluster]:
    """Three primaries, each with a replica. A node that is silent for two seconds has failed."""
    with RedisCluster(primaries=3, replicas=1, patience=2) as nodes:
        yield nodes


@contextlib.asynccontextmanager
async def at_work(cluster: RedisCluster, timeout: float = 5.0) -> AsyncIterator[AtWork]:
    store = RedisStore(cluster.url, prefix="shop:")
    try:
        async with AtWork(store, users=30, timeout=timeout) as users:
            await users.answered(200, 300)
            yield users
            await users.answered(200, 500)
    finally:
        await store.close()


async def is_replicated(cluster: RedisCluster) -> bool:
    """Whether each replica has all that its primary has."""
    for primary, replica in zip(cluster.primaries, cluster.replicas, strict=True):
        has = (await asyncio.to_thread(replica.admin.info, "replication"))["slave_repl_offset"]
        if has != (await asyncio.to_thread(primary.admin.info, "replication"))["master_repl_offset"]:
            return False
    return True


async def has_role(node: Node, role: str) -> bool:
    return bool((await asyncio.to_thread(node.admin.info, "replication"))["role"] == role)


async def test_a_node_is_added(cluster: RedisCluster) -> None:
    """A fourth node gets a quarter of the slots, one by one. Every request is answered."""
    async with at_work(cluster) as users:
        new = await asyncio.to_thread(cluster.add)
        used = {slot_of(epoch) for epoch in PLACES.epochs()} | {slot_of(PLACES.list_of(str(n))) for n in range(1, 31)}
        slots = random.Random(4).sample(sorted(used), len(used) // 4)
        for slot in slots:
            await asyncio.to_thread(lambda slot=slot: cluster.move(slot, cluster.owner_of(slot), new))  # type: ignore[misc]
        await users.answered(200, 500)
        assert new.admin.dbsize() > 100
    assert users.counts[503] == 0


async def test_slots_move_back_and_forth(cluster: RedisCluster) -> None:
    """Slots move key by key, rest in the middle of it, and move back. Every request is answered."""
    async with at_work(cluster) as users:
        rng = random.Random(5)
        for _ in range(50):
            owner = rng.choice(cluster.primaries)
            keys = await asyncio.to_thread(owner.admin.keys, "shop:*")
            slot = slot_of(rng.choice(keys))
            target = rng.choice([node for node in cluster.primaries if node is not owner])
            cluster.begin_move(slot, owner, target)
            await users.answered(200, 3)
            while await asyncio.to_thread(cluster.carry, slot, owner, target, 1):
                await asyncio.sleep(0)
            await users.answered(200, 3)
            cluster.end_move(slot, owner, target)
    assert users.counts[503] == 0


async def test_a_replica_takes_over(cluster: RedisCluster) -> None:
    """Each primary is switched over to its replica while users work. Nothing that was acknowledged is lost."""
    async with at_work(cluster) as users:
        for replica in cluster.replicas:
            replica.ask("CLUSTER", "FAILOVER")
            await until(lambda replica=replica: has_role(replica, "master"))  # type: ignore[misc]
            await users.answered(200, 300)


@pytest.mark.parametrize("way", ["killed", "silent"])
async def test_a_node_fails_over(cluster: RedisCluster, way: str) -> None:
    """A primary fails. The sessions of others are served meanwhile, and its own when its replica has taken over."""
    with patience(1):
        async with at_work(cluster, timeout=0.5) as users:
            await users.stop()
            await until(lambda: is_replicated(cluster))
            failing, heir = cluster.primaries[1], cluster.replicas[1]
            failing.server.kill() if way == "killed" else failing.server.pause()
            users.begin()
            try:
                await users.answered(503, 20)
                assert not await has_role(heir, "master")
                await users.answered(200, 200)
                await until(lambda: has_role(heir, "master"))
                refused = users.counts[503]
                await users.answered(200, 1000)
                assert users.counts[503] - refused < 200
            finally:
                failing.server.resume() if way == "silent" else failing.server.start()
            await until(lambda: has_role(failing, "slave"))
            await users.answered(200, 300)
