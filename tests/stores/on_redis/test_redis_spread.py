"""Sessions that are spread over a cluster: the published suite, how even they are, and what each operation costs."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import redis.asyncio

from roomkey.stores.base import Store, Unreadable
from roomkey.stores.redis import RedisStore
from roomkey.stores.redis.places import Places, slot_of
from roomkey.testing import Clock, StoreContract
from roomkey.wire.keys import new_session_id, store_key
from tests.servers.redis_cluster import RedisCluster
from tests.stores.on_redis.parts import new_prefix
from tests.stores.on_redis.users_at_work import AtWork
from tests.stores.records import make_key, make_record, make_tombstone


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


async def test_valkeys_cluster_client(three: RedisCluster) -> None:
    """A client of valkey-py for a cluster works, and is not closed."""
    valkey = pytest.importorskip("valkey.asyncio")
    client = valkey.ValkeyCluster(host="127.0.0.1", port=three.primaries[0].server.port)
    store = RedisStore(client, prefix=spread_prefix())
    await store.open()
    keys = [make_key() for _ in range(50)]
    await asyncio.gather(*(store.create(key, make_record(user="ann")) for key in keys))
    assert {key for key, _ in await store.of_user("ann")} == set(keys)
    await store.close()
    assert await client.set("theirs", "1")
    await client.aclose()


async def test_what_cannot_be_read_is_removed(three: RedisCluster) -> None:
    """A damaged record is not in its user's list, does not keep the others out of it, and can be removed."""
    store, places = RedisStore(three.url, prefix=(prefix := spread_prefix())), Places(prefix, spread=True)
    keys = [make_key() for _ in range(6)]
    for key in keys:
        await store.create(key, make_record(user="ann"))
    for key in keys[:2]:
        name = places.record(key)
        three.owner_of(slot_of(name)).admin.setrange(name, 16, b"????")
    assert {key for key, _ in await store.of_user("ann")} == set(keys[2:])
    with pytest.raises(Unreadable):
        await store.load(keys[0])
    assert await store.discard_unreadable("ann") == 2
    assert await store.load(keys[0]) is None and await store.discard_unreadable("ann") == 0
    assert {key for key, _ in await store.of_user("ann")} == set(keys[2:])
    await store.close()


async def test_round_trips(three: RedisCluster) -> None:
    """Each operation costs as many commands as the documentation says, and loads at once share round trips by node."""
    store = RedisStore(three.url, prefix=spread_prefix())
    asked: list[Any] = []
    writes: Any = store._link().writes

    class Counting:
        async def ask(self, item: Any) -> Any:
            asked.append(item)
            return await writes.ask(item)

    store._link().writes = Counting()  # type: ignore[misc]

    async def counts(work: Any) -> int:
        asked.clear()
        await work
        return len(asked)

    key = make_key()
    new, left, nobodys = make_key(key), make_key(), make_key()
    await store.create(make_key(key), make_record())  # the first of its group
    assert await counts(store.create(nobodys, make_record())) == 1
    record = make_record(user="ann")
    assert await counts(store.create(key, record)) == 3
    expires = record.expires_at
    assert await counts(store.update(key, make_record(user="ann", version=2, expires_at=expires), version=1)) == 1
    assert await counts(store.update(key, make_record(7200, user="ann", version=3), version=2)) == 4
    assert await counts(store.touch(nobodys, make_record(9000).expires_at)) == 1
    assert await counts(store.touch(key, make_record(9000).expires_at)) == 4
    moved = make_record(user="ann", version=4)
    assert await counts(store.rotate(key, new, moved, make_tombstone(new, user="ann"), version=3)) == 4
    assert await counts(store.delete(new)) == 2
    assert await counts(store.delete(left)) == 1
    assert await counts(store.of_user("ann")) == 1

    keys = [make_key() for _ in range(60)]
    await asyncio.gather(*(store.load(each) for each in keys))
    before = [node.admin.info("stats")["total_reads_processed"] for node in three.primaries]
    await asyncio.gather(*(store.load(each) for each in keys))
    after = [node.admin.info("stats")["total_reads_processed"] for node in three.primaries]
    assert all(more - less < 8 for less, more in zip(before, after, strict=True)), (before, after)
    await store.close()


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
