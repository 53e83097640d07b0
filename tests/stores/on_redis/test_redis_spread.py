"""Sessions that are spread over a cluster: the published suite, how even they are, and what each operation costs."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import redis.asyncio

from roomkey.stores.base import Store
from roomkey.stores.redis import RedisStore
from roomkey.stores.redis.places import Places, slot_of
from roomkey.testing import Clock, StoreContract
from roomkey.wire.keys import new_session_id, store_key
from tests.servers.redis_cluster import RedisCluster
from tests.stores.on_redis.parts import new_prefix
from tests.stores.on_redis.users_at_work import AtWork
from tests.stores.records import make_record


def spread_prefix() -> str:
    """A prefix that no other test uses, without a hash tag."""
    return new_prefix().strip("{}:") + ":"


@pytest.mark.usefixtures("_its_three")
class TestSpread(StoreContract):
    """The suite over a cluster of three primaries."""

    nodes: RedisCluster

    async def make(self, clock: Clock) -> Store:
        return RedisStore(self.nodes.url, prefix=spread_prefix(), clock=clock)


class _WithClient(RedisStore):
    """A store with a client of the app's own, which goes when the test ends."""

    def __init__(self, client: Any) -> None:
        super().__init__(client, prefix=spread_prefix())
        self.client = client

    async def close(self) -> None:
        await super().close()
        await self.client.aclose()


@pytest.mark.usefixtures("_its_three")
class TestAppsClusterClient(StoreContract):
    """The suite with a client of the app's own, and the clocks of this machine and the servers."""

    clock_moves = False
    nodes: RedisCluster

    async def make(self, clock: Clock) -> Store:
        port = self.nodes.primaries[0].server.port
        return _WithClient(redis.asyncio.RedisCluster(host="127.0.0.1", port=port, decode_responses=True))


async def test_log_ins_are_even_over_the_nodes(three: RedisCluster) -> None:
    """Of 3,000 log-ins each of three nodes has a third, to a fifth of that."""
    prefix = spread_prefix()
    store = RedisStore(three.url, prefix=prefix)
    keys = [store_key(new_session_id()) for _ in range(3000)]
    await asyncio.gather(*(store.create(key, make_record(user=key[:20])) for key in keys))
    for kind in ("*:s:*", "u:*"):
        shares = [len(node.admin.keys(f"{prefix}{kind}")) for node in three.primaries]
        assert sum(shares) == 3000
        assert all(800 <= share <= 1200 for share in shares), shares
    assert sum(len(node.admin.keys(f"{prefix}*:epoch")) for node in three.primaries) > 1000
    assert all(await asyncio.gather(*(store.load(key) for key in keys)))
    await store.wipe()
    assert not any(await asyncio.gather(*(store.load(key) for key in keys)))
    await store.close()


async def test_slots_move_while_users_work(three: RedisCluster) -> None:
    """Slots move key by key. Every request is answered, no write is lost, and nobody who logged out is back."""
    store = RedisStore(three.url, prefix="moving:")
    async with AtWork(store) as at_work:
        await at_work.answered(200, 100)
        lists = [slot_of(Places("moving:", spread=True).list_of(str(user.name))) for user in at_work.users]
        records = [
            slot_of(name)
            for node in three.primaries
            for name in await asyncio.to_thread(node.admin.keys, "moving:*:s:*")
        ]
        for slot in dict.fromkeys([*lists[:3], *records[:9]]):
            source = three.owner_of(slot)
            target = next(node for node in three.primaries if node is not source)
            three.begin_move(slot, source, target)
            await at_work.answered(200, 5)
            while await asyncio.to_thread(three.carry, slot, source, target, 1):
                await asyncio.sleep(0.001)
            await at_work.answered(200, 5)
            three.end_move(slot, source, target)
        await at_work.answered(200, 100)
    assert at_work.counts[503] == 0
    await store.close()
