"""A store in a Redis cluster, and behind sentinels."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from urllib.parse import quote

import pytest
import redis
import redis.asyncio

from roomkey.errors import ConfigurationError, StoreUnavailable
from roomkey.stores.redis import RedisStore
from tests.servers.parts import free_port
from tests.servers.redis import RedisServer
from tests.stores.on_redis.parts import (
    SLOTS,
    cluster_is_up,
    cluster_node,
    new_prefix,
    plain_client,
    tls_server,
    wait_until,
)
from tests.stores.records import make_key, make_record


async def test_apps_cluster_client(cluster: RedisServer) -> None:
    """A client of the app's own for a cluster works and is not closed."""
    client = redis.asyncio.RedisCluster(host="127.0.0.1", port=cluster.port, decode_responses=True)
    store = RedisStore(client, prefix=new_prefix())
    await store.open()
    keys = [make_key() for _ in range(100)]
    await asyncio.gather(*(store.create(key, make_record(data=key.encode())) for key in keys))
    found = await asyncio.gather(*(store.load(key) for key in keys))
    assert [record and record.data for record in found] == [key.encode() for key in keys]
    await store.close()
    assert await client.set("theirs", "1")
    await client.aclose()


async def test_cluster_that_is_down(cluster: RedisServer) -> None:
    """With a cluster down every operation says so, and the first after its return works."""
    prefix = new_prefix()
    store = RedisStore(f"redis+cluster://127.0.0.1:{cluster.port}", prefix=prefix)
    key = make_key()
    await store.create(key, make_record())
    with contextlib.closing(plain_client(cluster)) as admin:
        another = (int(admin.execute_command("CLUSTER", "KEYSLOT", prefix)) + 1) % SLOTS
        admin.execute_command("CLUSTER", "DELSLOTS", another)  # without it, the cluster is down
    cluster.stop()
    for operation in (lambda: store.load(key), lambda: store.create(key, make_record())):
        with pytest.raises(StoreUnavailable):
            await operation()
    cluster.start()
    with pytest.raises(StoreUnavailable, match="cluster"):
        await store.create(key, make_record())
    with contextlib.closing(plain_client(cluster)) as admin:
        admin.execute_command("CLUSTER", "ADDSLOTS", another)
        wait_until(lambda: cluster_is_up(admin))
    await store.create(key, make_record())
    assert await store.load(key) is not None
    await store.close()


async def test_slot_that_moves() -> None:
    """The sessions' slot is found on whatever node it is, and again after it moved."""
    with cluster_node() as one, cluster_node() as two:
        admins = [plain_client(node) for node in (one, two)]
        bus = two.options[two.options.index("--cluster-port") + 1]
        admins[0].execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 8191)
        admins[1].execute_command("CLUSTER", "ADDSLOTSRANGE", 8192, SLOTS - 1)
        admins[0].execute_command("CLUSTER", "MEET", "127.0.0.1", two.port, bus)
        for admin in admins:
            wait_until(functools.partial(cluster_is_up, admin))
        slot = int(admins[0].execute_command("CLUSTER", "KEYSLOT", "{roomkey}:epoch"))
        here = 0 if slot < 8192 else 1
        names = [bytes(admin.execute_command("CLUSTER", "MYID")) for admin in admins]
        the_other = f"redis+cluster://127.0.0.1:{(two, one)[here].port}"  # the node that has it not
        store = RedisStore(the_other, prefix="{roomkey}:")
        assert await store.load(make_key()) is None
        for admin in admins:
            admin.execute_command("CLUSTER", "SETSLOT", slot, "NODE", names[1 - here])
        keys = [make_key() for _ in range(50)]
        await asyncio.gather(*(store.create(key, make_record()) for key in keys))
        assert all(await asyncio.gather(*(store.load(key) for key in keys)))
        assert admins[1 - here].dbsize() == 51 and admins[here].dbsize() == 0
        await store.close()
        plain = RedisStore((one, two)[here].url)
        with pytest.raises(ConfigurationError, match=r"redis\+cluster://"):
            await plain.open()
        with pytest.raises(StoreUnavailable, match=r"redis\+cluster://"):
            await plain.load(make_key())
        await plain.close()
        for admin in admins:
            admin.close()


async def test_sentinels_with_tls() -> None:
    """With rediss+sentinel:// the sentinels are asked over TLS too."""
    with tls_server() as primary:
        own, key = str(primary.certificate), str(primary.directory / "key.pem")
        options = ["--tls-replication", "yes", "--tls-ca-cert-file", own, "--tls-cert-file", own, "--tls-key-file", key]
        with RedisServer(*options, tls=True, sentinel=True, binary=primary.binary) as sentinel:
            with contextlib.closing(plain_client(sentinel, ssl=True, ssl_ca_certs=own)) as admin:
                admin.execute_command("SENTINEL", "MONITOR", "main", "127.0.0.1", primary.port, 1)
                admin.execute_command("SENTINEL", "SET", "main", "auth-pass", "pw")
            store = RedisStore(f"rediss+sentinel://:pw@127.0.0.1:{sentinel.port}/main?ssl_ca_certs={quote(own)}")
            await store.open()
            key = make_key()
            await store.create(key, make_record())
            assert await store.load(key) is not None
            await store.close()


async def test_sentinels(server: RedisServer) -> None:
    """The primary is found through sentinels, past one that is down, and the new one after a change."""
    with RedisServer(sentinel=True) as sentinel, RedisServer() as primary, RedisServer() as successor:
        admin = plain_client(sentinel)
        admin.execute_command("SENTINEL", "MONITOR", "main", "127.0.0.1", primary.port, 1)
        store = RedisStore(f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{sentinel.port}/main/3")
        await store.open()
        key = make_key()
        await asyncio.gather(*(store.create(make_key(), make_record()) for _ in range(20)))
        assert await store.load(key) is None
        with contextlib.closing(plain_client(primary, db=3)) as there:
            assert there.dbsize() == 21
        admin.execute_command("SENTINEL", "REMOVE", "main")
        primary.kill()
        with pytest.raises(StoreUnavailable, match="primary"):
            await store.load(key)
        admin.execute_command("SENTINEL", "MONITOR", "main", "127.0.0.1", successor.port, 1)
        await store.create(key, make_record())
        assert await store.load(key) is not None
        with contextlib.closing(plain_client(successor, db=3)) as there:
            assert there.dbsize() == 2
        await store.close()
        admin.close()
