"""Readers of the sessions that other libraries keep on a Redis server."""

import asyncio
import json
import time

import pytest
import redis
import redis.asyncio
import starsessions.stores.redis
from litestar.stores.memory import MemoryStore as LitestarMemory
from litestar.stores.redis import RedisStore as LitestarStore

from roomkey.legacy import LitestarRedis, StarsessionsRedis
from tests.legacy.cookies import DATA, KEY, SIGNED, connected, litestar_cookie, nested_lists, starsessions_cookie

pytestmark = pytest.mark.usefixtures("patient")


@pytest.mark.parametrize("decode", [False, True], ids=["bytes", "text"])
@pytest.mark.parametrize("lifetime", [0, 3600])
@pytest.mark.parametrize(
    "prefix", ["starsessions.", "", lambda session_id: f"<{session_id}>"], ids=["default", "none", "function"]
)
async def test_a_starsessions_session_on_redis(redis_url, leaves, prefix, lifetime, decode):
    """A session that starsessions wrote is read without its bookkeeping, and is gone once it was forgotten."""
    async with (
        connected(redis_url) as old,
        redis.asyncio.Redis.from_url(redis_url, decode_responses=decode) as new,
    ):
        store = starsessions.stores.redis.RedisStore(connection=old, prefix=prefix)
        name, value = await starsessions_cookie(store, DATA, lifetime=lifetime)
        reader = StarsessionsRedis(new, prefix=prefix)
        found = await reader.read(value)
        assert found.data == DATA
        assert abs(found.created_at - time.time()) < 60
        assert name == reader.cookie_name
        assert await StarsessionsRedis(new, prefix="other.").read(value) is None
        await reader.forget(value)
        (key,) = await old.keys()
        assert leaves(await old.ttl(key))
        assert (await reader.read(value)).data == DATA
        await old.delete(key)
        assert await reader.read(value) is None
        await reader.forget(value)
        assert await old.keys() == []


async def test_a_starsessions_store_instead_of_a_client(redis_url, leaves):
    """A store of starsessions is read through its own methods, and asked to let go of the session soon."""
    async with connected(redis_url) as client:
        store = starsessions.stores.redis.RedisStore(connection=client)
        name, value = await starsessions_cookie(store, DATA, cookie_name="sid")
        reader = StarsessionsRedis(store, cookie_name="sid")
        assert name == "sid"
        assert (await reader.read(value)).data == DATA
        assert await reader.read(b"0" * 32) is None
        await reader.forget(b"0" * 32)
        await reader.forget(value)
        (key,) = await client.keys()
        assert leaves(await client.ttl(key))
        assert (await reader.read(value)).data == DATA


async def test_a_starsessions_app_with_its_own_serializer():
    """`loads` is the old serializer's `deserialize`."""

    class Reversed(starsessions.Serializer):
        def serialize(self, data):
            return json.dumps(data).encode()[::-1]

        def deserialize(self, data):
            return json.loads(data[::-1]) if data else {}

    store = starsessions.InMemoryStore()
    value = (await starsessions_cookie(store, DATA, serializer=Reversed()))[1]
    assert (await StarsessionsRedis(store, loads=Reversed().deserialize).read(value)).data == DATA
    assert await StarsessionsRedis(store).read(value) is None


@pytest.mark.parametrize("namespace", ["LITESTAR", "LITESTAR_sessions", None])
@pytest.mark.parametrize("as_store", [False, True], ids=["client", "store"])
async def test_a_litestar_session_on_redis(redis_url, leaves, namespace, as_store):
    """A session that Litestar wrote is read through a client or its store, and is gone once it was forgotten."""
    async with connected(redis_url) as client:
        store = LitestarStore(client, namespace=namespace)
        name, value = await litestar_cookie(store, DATA)
        reader = LitestarRedis(store) if as_store else LitestarRedis(client, namespace=namespace)
        assert (await reader.read(value)).data == DATA
        assert name == reader.cookie_name
        assert await LitestarRedis(client, namespace="other").read(value) is None
        await reader.forget(value)
        (key,) = await client.keys()
        assert leaves(await client.ttl(key))
        assert (await reader.read(value)).data == DATA
        await client.delete(key)
        await reader.forget(value)
        assert await client.keys() == []
        assert await reader.read(value) is None


async def test_the_default_namespace_is_that_of_litestars_store(redis_url):
    """Nobody has to name what Litestar chose by itself."""
    async with connected(redis_url) as client:
        name, value = await litestar_cookie(LitestarStore(client), DATA, key="sid", session_id_bytes=16)
        assert name == "sid"
        assert (await LitestarRedis(client, cookie_name="sid").read(value)).data == DATA


async def test_a_litestar_store_of_another_kind(leaves):
    """Any store of Litestar's is read through its own methods."""
    store = LitestarMemory()
    value = (await litestar_cookie(store, DATA))[1]
    reader = LitestarRedis(store)
    assert (await reader.read(value)).data == DATA
    await reader.forget(value)
    assert leaves(await store.expires_in(value.decode()))
    assert (await reader.read(value)).data == DATA
    assert await reader.read(b"0" * 32) is None
    await reader.forget(b"0" * 32)
    assert await store.get("0" * 32) is None


async def test_an_empty_session_on_redis_reads_nothing(redis_url):
    """Litestar writes an entry for every visitor; those with nothing in it stay where they are."""
    async with connected(redis_url) as client:
        value = (await litestar_cookie(LitestarStore(client), {}))[1]
        assert await client.keys() != []
        assert await LitestarRedis(client).read(value) is None
        store = starsessions.stores.redis.RedisStore(connection=client)
        await store.write("0" * 32, b'{"__metadata__": {"created": 1.5}}', 0, 0)
        assert await StarsessionsRedis(client).read(b"0" * 32) is None


async def test_every_cookie_with_every_other_reader(redis_url):
    """On one server and with one key, no reader of a server takes another library's cookie, nor the other way round."""
    async with connected(redis_url) as client:
        readers = {"starsessions": StarsessionsRedis(client), "Litestar": LitestarRedis(client)}
        cookies = {
            "starsessions": await starsessions_cookie(starsessions.stores.redis.RedisStore(connection=client), DATA),
            "Litestar": await litestar_cookie(LitestarStore(client), DATA),
        }
        for name, library in SIGNED.items():
            readers[name] = library.reader(KEY)
            cookies[name] = await asyncio.to_thread(library.cookie, KEY, DATA)
        for made, (_, value) in cookies.items():
            for name, reader in readers.items():
                same = made in SIGNED and name in SIGNED and SIGNED[made].format == SIGNED[name].format
                assert (await reader.read(value) is not None) == (made == name or same), (made, name)


@pytest.mark.parametrize(
    "value", [b"", b"null", b"0" * 15, b"0" * 513, b"A" * 32, b"0" * 31 + b"\n", b"x:" + b"0" * 32, b"\xff" * 32]
)
async def test_only_ids_as_the_libraries_make_them_reach_the_server(redis_url, value):
    """A client cannot name any other key of the database, and cannot delete it."""
    async with connected(redis_url) as client:
        await client.set(value, b'{"a": 1}')
        for reader in (StarsessionsRedis(client, prefix=""), LitestarRedis(client, namespace=None)):
            assert await reader.read(value) is None
            await reader.forget(value)
        assert await client.exists(value)


@pytest.mark.parametrize(
    "stored",
    [
        b"",
        b"{",
        b"[1]",
        b"null",
        b"\xff",
        b'{"a": "\xff"}',
        nested_lists(101),
        b"[" * 100000,
        b'{"a": "' + b"x" * 1048576 + b'"}',
    ],
    ids=lambda stored: ascii(stored[:12]),
)
@pytest.mark.parametrize("decode", [False, True], ids=["bytes", "text"])
async def test_an_entry_that_is_no_session(redis_url, stored, decode):
    """What cannot be a session reads as nothing, and raises nothing."""
    async with connected(redis_url, decode_responses=decode) as client:
        await client.set("k" + "0" * 32, stored)
        assert await StarsessionsRedis(client, prefix="k").read(b"0" * 32) is None
        await client.rename("k" + "0" * 32, "k:" + "0" * 32)
        assert await LitestarRedis(client, namespace="k").read(b"0" * 32) is None


async def test_an_entry_of_another_type(redis_url):
    """A key that holds no string is somebody else's."""
    async with connected(redis_url) as client:
        await client.rpush("k:" + "0" * 32, "x")
        assert await LitestarRedis(client, namespace="k").read(b"0" * 32) is None
