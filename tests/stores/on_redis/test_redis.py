"""The store in Redis: the published suite over real servers, what is in the server, wiping and round trips."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest
import redis
import redis.asyncio

from roomkey.stores.base import Conflict, Lifespan, Record, Store, UserIndex, Wipe
from roomkey.stores.redis import RedisStore
from roomkey.testing import Clock, StoreContract
from tests.servers.redis import RedisServer
from tests.stores.on_redis.parts import count_calls, new_prefix, open_store
from tests.stores.records import make_key, make_record
from tests.stores.told import Kept

# --- The published suite ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_its_server")
class TestRedisStore(StoreContract):
    """The suite with the clocks of this machine and the server."""

    clock_moves = False
    server: RedisServer

    async def make(self, clock: Clock) -> Store:
        return RedisStore(self.server.url, prefix=new_prefix())


@pytest.mark.usefixtures("_its_server")
class TestClockThatMoves(StoreContract):
    """The suite with a clock that moves: what is live is judged by it, and the server forgets only later."""

    server: RedisServer

    async def make(self, clock: Clock) -> Store:
        return RedisStore(self.server.url, prefix=new_prefix(), clock=clock)


class _WithClient(RedisStore):
    """A store with a client of the app's own, which goes when the test ends."""

    def __init__(self, client: Any, clock: Clock) -> None:
        super().__init__(client, prefix=new_prefix(), clock=clock)
        self.client = client

    async def close(self) -> None:
        await super().close()
        await self.client.aclose()


@pytest.mark.usefixtures("_its_server")
class TestAppsClient(StoreContract):
    """The suite with a client of the app's own, set up as unlike our connections as can be."""

    server: RedisServer

    async def make(self, clock: Clock) -> Store:
        client = redis.asyncio.Redis(port=self.server.port, decode_responses=True, protocol=3, max_connections=4)
        return _WithClient(client, clock)


@pytest.mark.usefixtures("_its_server")
class TestValkeyClient(StoreContract):
    """The suite with valkey-py."""

    server: RedisServer

    async def make(self, clock: Clock) -> Store:
        valkey = pytest.importorskip("valkey.asyncio")
        return _WithClient(valkey.Valkey(port=self.server.port), clock)


@pytest.mark.usefixtures("_its_server")
class TestKeptNear(StoreContract):
    """The suite over records that are kept near, with the server's own notices."""

    server: RedisServer

    async def make(self, clock: Clock) -> Store:
        return Kept(RedisStore(self.server.url, prefix=new_prefix(), clock=clock), clock)


@pytest.mark.usefixtures("_its_cluster")
class TestKeptNearOfACluster(StoreContract):
    """The same over a cluster."""

    server: RedisServer

    async def make(self, clock: Clock) -> Store:
        url = f"redis+cluster://127.0.0.1:{self.server.port}"
        return Kept(RedisStore(url, prefix=new_prefix(), clock=clock), clock)


@pytest.mark.usefixtures("_its_cluster")
class TestCluster(StoreContract):
    """The suite over a cluster of one node."""

    server: RedisServer

    async def make(self, clock: Clock) -> Store:
        return RedisStore(f"redis+cluster://127.0.0.1:{self.server.port}", prefix=new_prefix(), clock=clock)


@pytest.mark.usefixtures("_its_valkey")
class TestValkeyServer(StoreContract):
    """The suite over Valkey."""

    server: RedisServer

    async def make(self, clock: Clock) -> Store:
        return RedisStore(f"valkey://127.0.0.1:{self.server.port}", prefix=new_prefix(), clock=clock)


def test_protocols(server: RedisServer) -> None:
    """The store has every optional protocol but Purge, which the engine makes needless."""
    store = RedisStore(server.url)
    assert isinstance(store, Store) and isinstance(store, Lifespan)
    assert isinstance(store, UserIndex) and isinstance(store, Wipe)


# --- What is in the server --------------------------------------------------------------------------------------------


async def test_record_is_kept_as_written_down(server: RedisServer, admin: redis.Redis) -> None:
    """The bytes of a record are these: another version of Roomkey must be able to read them."""
    async with open_store(server, "{known}:", clock=lambda: 1000.0) as store:
        record = Record(b"DATA", 2, 900.0, 4e9, "zoë", None, 0.0, b"::1")
        await store.create("ab" * 32, record)
        value = admin.get("{known}:s:" + "ab" * 32)
        assert isinstance(value, bytes)
        assert value[:16] == admin.get("{known}:epoch")
        assert value[16:].hex() == (
            "524b5231" "2d" "0000000000000002" "408c200000000000" "41edcd6500000000" "0000000000000000"
            "00000004" "ffffffff" "00000003" "00000004" "7a6fc3ab" "3a3a31" "44415441"
        )  # fmt: skip
        assert admin.type("{known}:u:zoë") == b"zset"


async def test_server_forgets_what_expired(server: RedisServer, admin: redis.Redis) -> None:
    """Each key but the epoch has an expiry that is a minute behind the session's, so that clocks may differ."""
    prefix = new_prefix()
    begun = time.monotonic()

    def is_left(name: str, seconds: int) -> bool:
        """Whether a key has so many seconds left, but for those that the test has taken."""
        left = admin.ttl(prefix + name)
        return bool(seconds - (time.monotonic() - begun) - 1 <= left <= seconds)

    async with open_store(server, prefix) as store:
        key, longer = make_key(), make_key()
        await store.create(key, make_record(100, user="42"))
        await store.create(longer, make_record(300, user="42"))
        assert is_left(f"s:{key}", 160)
        assert is_left("u:42", 360)
        begun = time.monotonic()
        await store.touch(key, time.time() + 1000)
        assert is_left(f"s:{key}", 1060)
        assert is_left("u:42", 1060)
        assert admin.ttl(f"{prefix}epoch") == -1


@pytest.mark.parametrize("seconds", [-7200, 7200])
async def test_clocks_that_differ(server: RedisServer, seconds: float) -> None:
    """It is the app's clock that ends sessions, however the server's goes."""
    clock = Clock(time.time() + seconds)
    store = RedisStore(server.url, prefix=new_prefix(), clock=clock)
    key = make_key()
    await store.create(key, make_record(expires_at=clock() + 300, user="42"))
    assert await store.load(key) is not None
    await store.touch(key, clock() + 600)
    assert [found for found, _ in await store.of_user("42")] == [key]
    clock.advance(601)
    assert await store.load(key) is None
    await store.close()


async def test_expiry_without_end(server: RedisServer) -> None:
    """A session may expire later than the server can count."""
    async with open_store(server) as store:
        key = make_key()
        for version, moment in enumerate((1e300, float("inf"), 1e12), start=1):
            record = make_record(user="42", expires_at=moment, version=version)
            await (store.create(key, record) if version == 1 else store.update(key, record, version=version - 1))
            found = await store.load(key)
            assert found is not None and found.expires_at == moment
        assert len(await store.of_user("42")) == 1


async def test_index_follows_exactly(server: RedisServer, admin: redis.Redis) -> None:
    """The index holds the keys of a user's sessions, each at its expiry, and nothing else."""
    prefix, clock = new_prefix(), Clock()
    key, other, new = make_key(), make_key(), make_key()

    def index(user: str) -> dict[str, float]:
        return {member.decode(): score for member, score in admin.zrange(f"{prefix}u:{user}", 0, -1, withscores=True)}

    async with open_store(server, prefix, clock=clock) as store:
        now = clock()
        first = Record(b"", 1, now, now + 100, "ann")
        await store.create(key, first)
        await store.create(other, replace(first, expires_at=now + 500))
        assert index("ann") == {key: now + 100, other: now + 500}
        await store.touch(key, now + 200)
        assert index("ann") == {key: now + 200, other: now + 500}
        await store.update(key, replace(first, version=2, expires_at=now + 50), version=1)
        assert index("ann") == {key: now + 50, other: now + 500}
        await store.update(key, replace(first, version=3, user="bob"), version=2)
        assert index("ann") == {other: now + 500} and index("bob") == {key: now + 100}
        await store.rotate(
            key, new, replace(first, version=4), replace(first, version=4, user="bob", successor=new), version=3
        )
        assert index("ann") == {new: now + 100, other: now + 500} and index("bob") == {}
        await store.delete(other)
        assert index("ann") == {new: now + 100}
        clock.advance(161)  # expired, and a minute more
        await store.create(key, replace(first, expires_at=now + 900, user="cy"))
        assert await store.of_user("ann") == []
        assert index("ann") == {} and index("cy") == {key: now + 900}
        await store.update(key, replace(first, version=2, expires_at=now), version=1)
        assert index("cy") == {}


async def test_prefixes_are_apart(server: RedisServer) -> None:
    """Stores with different prefixes do not see each other's sessions, also not to wipe them."""
    key = make_key()
    async with open_store(server, "one:") as one, open_store(server, "two:") as two:
        await one.create(key, make_record(user="42"))
        assert await two.load(key) is None and await two.of_user("42") == []
        await two.create(key, make_record(user="42", data=b"two"))
        await two.wipe()
        found = await one.load(key)
        assert found is not None and found.data == b"data"
        await one.delete(key)


# --- Wiping -----------------------------------------------------------------------------------------------------------


async def test_wipe_takes_no_time(server: RedisServer, admin: redis.Redis) -> None:
    """A wipe is one command on one key, however many sessions there are, and one that tells those who watch."""
    prefix = new_prefix()
    async with open_store(server, prefix) as store:
        await asyncio.gather(*(store.create(make_key(), make_record()) for _ in range(500)))
        admin.config_resetstat()
        await store.wipe()
        stats = {name: one["calls"] for name, one in admin.info("commandstats").items()}
        assert stats.get("cmdstat_del") == 1
        assert stats.get("cmdstat_publish") == 1
        assert set(stats) <= {"cmdstat_del", "cmdstat_publish", "cmdstat_config|resetstat", "cmdstat_info"}


async def test_lost_epoch_brings_nothing_back(server: RedisServer, admin: redis.Redis) -> None:
    """Should the server lose the epoch after a wipe, wiped sessions stay ended, and so do those since."""
    prefix = new_prefix()
    async with open_store(server, prefix) as store:
        before, since = make_key(), make_key()
        await store.create(before, make_record())
        await store.wipe()
        await store.create(since, make_record())
        admin.delete(f"{prefix}epoch")
        assert await store.load(before) is None and await store.load(since) is None
        await store.create(make_key(), make_record())
        assert await store.load(before) is None and await store.load(since) is None


async def test_wipe_reaches_other_processes(server: RedisServer) -> None:
    """A wipe by one store is seen by another at its next load: nothing is remembered between two."""
    prefix, key = new_prefix(), make_key()
    async with open_store(server, prefix) as one, open_store(server, prefix) as other:
        await one.create(key, make_record())
        assert await other.load(key) is not None
        await one.wipe()
        assert await other.load(key) is None
        with pytest.raises(Conflict):
            await other.update(key, make_record(version=2), version=1)


# --- Round trips ------------------------------------------------------------------------------------------------------


async def test_loads_at_once_share_a_command(server: RedisServer, admin: redis.Redis) -> None:
    """A hundred loads at once take four MGETs: two go at once, and the others in two batches."""
    async with open_store(server) as store:
        keys = [make_key() for _ in range(100)]
        await asyncio.gather(*(store.create(key, make_record(data=key.encode())) for key in keys))
        admin.config_resetstat()
        found = await asyncio.gather(*(store.load(key) for key in keys))
        assert [record.data for record in found] == [key.encode() for key in keys]
        assert count_calls(admin, "mget") == 4


async def test_each_operation_is_one_command(server: RedisServer, admin: redis.Redis) -> None:
    """A load is one MGET, and every write one script: one round trip each."""
    async with open_store(server) as store:
        key, new = make_key(), make_key()
        warm = make_key()  # the server has to learn the scripts first
        await store.create(warm, make_record())
        await store.update(warm, make_record(version=2), version=1)
        await store.rotate(warm, make_key(), make_record(version=3), make_record(version=3, successor="s"), version=2)
        await store.touch(warm, 0)
        await store.delete(warm)
        admin.config_resetstat()
        before = int(admin.info("stats")["total_reads_processed"])
        for number, operation in enumerate(
            (
                store.create(key, make_record(user="42")),
                store.update(key, make_record(version=2, user="42"), version=1),
                store.touch(key, time.time() + 7200),
                store.rotate(key, new, make_record(version=3), make_record(version=3, successor=new), version=2),
                store.delete(new),
            ),
            start=1,
        ):
            await operation
            assert count_calls(admin, "evalsha") == number
        await store.load(key)
        assert count_calls(admin, "eval") == 0 and count_calls(admin, "script") == 0
        # Reads by the server: our six, and those for these questions (one each, and this one).
        assert int(admin.info("stats")["total_reads_processed"]) - before == 6 + 5 + 2 + 1


async def test_scripts_that_the_server_forgot(server: RedisServer, admin: redis.Redis) -> None:
    """After SCRIPT FLUSH every write works, alone and in a batch, and is done once."""
    async with open_store(server) as store:
        keys = [make_key() for _ in range(20)]
        admin.script_flush()
        await store.create(keys[0], make_record())
        admin.script_flush()
        await asyncio.gather(*(store.create(key, make_record(user="42")) for key in keys[1:]))
        admin.script_flush()
        for version in (1, 2, 3):
            await asyncio.gather(
                *(store.update(key, make_record(version=version + 1), version=version) for key in keys)
            )
            admin.script_flush()
        assert {record.version for record in await asyncio.gather(*(store.load(key) for key in keys))} == {4}
        await asyncio.gather(*(store.touch(key, time.time() + 7200) for key in keys))
        admin.script_flush()
        assert await store.of_user("42") == []
        admin.script_flush()
        await asyncio.gather(*(store.delete(key) for key in keys))
        assert await asyncio.gather(*(store.load(key) for key in keys)) == [None] * 20


async def test_a_thousand_at_once_take_four_connections(server: RedisServer, admin: redis.Redis) -> None:
    """A thousand operations at once all get their own answers over no more than `max_connections`."""
    most = 0

    def count() -> None:
        nonlocal most
        most = max(most, sum(client["name"] == "counted" for client in admin.client_list()))

    async def watch() -> None:
        while True:
            await asyncio.to_thread(count)

    store = RedisStore(server.url + "?client_name=counted", prefix=new_prefix())
    watching = asyncio.create_task(watch())
    keys = [make_key() for _ in range(500)]
    await asyncio.gather(
        *(store.create(key, make_record(data=key.encode())) for key in keys),
        *(store.load(make_key()) for _ in range(500)),
    )
    found = await asyncio.gather(
        *(store.load(key) for key in keys),
        *(store.update(key, make_record(data=b"new" + key.encode(), version=2), version=1) for key in keys),
    )
    for key, record in zip(keys, found, strict=False):
        assert record is not None and record.data.removeprefix(b"new") == key.encode()
    watching.cancel()
    count()
    await store.close()
    assert 2 <= most <= 4


@pytest.mark.parametrize("most", [2, 3])
async def test_fewer_connections(server: RedisServer, admin: redis.Redis, most: int) -> None:
    """With room for fewer connections there are fewer."""
    idle = len(admin.client_list())
    async with open_store(server, max_connections=most) as store:
        await store.open()
        await asyncio.gather(
            *(store.create(make_key(), make_record()) for _ in range(50)), *(store.load("a") for _ in "12345")
        )
        assert len(admin.client_list()) - idle == 2
