"""A Redis server that is away, hangs or refuses, and operations that are cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import pytest
import redis
import redis.asyncio

from roomkey.errors import StoreUnavailable
from roomkey.stores.guard import GuardedStore
from roomkey.stores.redis import RedisStore, errors
from tests.loop_clock import loop_time, patience, until
from tests.servers.redis import RedisServer
from tests.stores.on_redis.parts import new_prefix, open_store, plain_client, wait_until
from tests.stores.records import make_key, make_record

# --- Cancellation -----------------------------------------------------------------------------------------------------


async def test_cancelled_load_disturbs_nobody(server: RedisServer) -> None:
    """However loads are cancelled, alone and in batches, nobody gets another's answer and every lane stays usable."""
    async with open_store(server) as store:
        keys = [make_key() for _ in range(40)]
        await asyncio.gather(*(store.create(key, make_record(data=key.encode())) for key in keys))
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
    async with open_store(server) as store:
        keys = [make_key() for _ in range(30)]
        versions = dict.fromkeys(keys, 1)
        await asyncio.gather(*(store.create(key, make_record(data=key.encode())) for key in keys))
        for round_ in range(30):
            tasks = {
                key: asyncio.create_task(
                    store.update(key, make_record(data=key.encode(), version=versions[key] + 1), version=versions[key])
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
        async with open_store(own) as store:
            guarded = GuardedStore(store, 0.2)
            key = make_key()
            await guarded.create(key, make_record())
            own.pause()
            begun = loop_time()
            with patience(1):
                outcomes = await asyncio.gather(
                    *(guarded.load(key) for _ in range(100)),
                    *(guarded.update(key, make_record(version=2), version=1) for _ in range(100)),
                    return_exceptions=True,
                )
            assert {type(outcome) for outcome in outcomes} == {StoreUnavailable}
            assert loop_time() - begun < 2
            own.resume()
            found = await guarded.load(key)
            assert found is not None and found.version in (1, 2)  # one of the updates may have arrived
            await guarded.update(key, make_record(version=found.version + 1), version=found.version)


# --- Outages ----------------------------------------------------------------------------------------------------------


async def test_restart_between_two_operations() -> None:
    """After a restart of the server the first operation works, a write too, though every connection has died."""
    with RedisServer("--appendonly", "yes", "--appendfsync", "always") as own:
        async with open_store(own) as store:
            key = make_key()
            await store.create(key, make_record())
            await asyncio.gather(*(store.load(key) for _ in range(10)))
            for version in (1, 2, 3):
                own.restart()  # the event loop stands still meanwhile, and has not seen the connections end
                await store.update(key, make_record(version=version + 1), version=version)
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
        async with open_store(own) as store:
            key = make_key()
            await store.create(key, make_record())
            own.stop()
            begun = loop_time()
            for operation in (
                lambda: store.load(key),
                lambda: store.create(key, make_record()),
                lambda: store.update(key, make_record(), version=1),
                lambda: store.touch(key, 0),
                lambda: store.delete(key),
                lambda: store.of_user("42"),
                store.wipe,
                store.open,
            ):
                with pytest.raises(StoreUnavailable, match="cannot be reached") as caught:
                    await operation()
                assert key not in str(caught.value)
            assert loop_time() - begun < 1
            outcomes = await asyncio.gather(*(store.load(key) for _ in range(100)), return_exceptions=True)
            assert {type(outcome) for outcome in outcomes} == {StoreUnavailable}
            assert len({id(outcome) for outcome in outcomes}) == 100  # each has its own traceback
            own.start()
            await store.open()
            assert await store.load(key) is None
            await store.create(key, make_record())


class _Proxy:
    """Stands between the store and the server, and can lose what the server answers."""

    def __init__(self, port: int) -> None:
        self.target = port
        self.lose_answers = False
        self.commands = b""
        self.writers: list[asyncio.StreamWriter] = []
        self.tasks: list[Any] = []

    async def __aenter__(self) -> _Proxy:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for writer in self.writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.tasks.append(asyncio.current_task())
        self.writers.append(writer)
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.target)
        self.writers.append(up_writer)

        async def back() -> None:
            while data := await up_reader.read(65536):
                if self.lose_answers:
                    writer.close()
                    return
                writer.write(data)

        task = asyncio.create_task(back())
        self.tasks.append(task)
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            while data := await reader.read(65536):
                self.commands += data
                up_writer.write(data)
        up_writer.close()
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            await task
        writer.close()


async def test_write_whose_answer_was_lost_is_not_sent_again(server: RedisServer) -> None:
    """A write that may have been done is StoreUnavailable and goes out once; a load is asked again."""
    async with _Proxy(server.port) as proxy:
        store = RedisStore(f"redis://127.0.0.1:{proxy.port}", prefix=new_prefix())
        key = make_key()
        await store.create(key, make_record())
        await store.update(key, make_record(version=2), version=1)
        proxy.lose_answers, proxy.commands = True, b""
        with pytest.raises(StoreUnavailable, match="cannot be reached"):
            await store.update(key, make_record(version=3), version=2)
        assert proxy.commands.count(b"EVALSHA") == 1
        proxy.lose_answers = False
        found = await store.load(key)
        assert found is not None and found.version == 3
        proxy.lose_answers, proxy.commands = True, b""
        with pytest.raises(StoreUnavailable, match="cannot be reached"):
            await store.load(key)
        assert proxy.commands.count(b"MGET") == 1  # the second time, it did not get past the greeting
        await store.close()


async def test_load_whose_connection_broke_is_asked_again(server: RedisServer) -> None:
    """A load that was under way when its connection broke gets its answer over another one."""
    async with _Proxy(server.port) as proxy:
        store = RedisStore(f"redis://127.0.0.1:{proxy.port}", prefix=new_prefix())
        key = make_key()
        await store.create(key, make_record())
        await asyncio.gather(*(store.load(key) for _ in range(10)))  # both connections are there
        proxy.commands = b""
        server.pause()
        try:
            loads = [asyncio.create_task(store.load(key)) for _ in range(10)]
            await until(lambda: proxy.commands)
            for writer in proxy.writers:
                writer.transport.abort()
        finally:
            server.resume()
        assert all(record is not None for record in await asyncio.gather(*loads))
        await store.close()


async def test_refusals_of_the_server() -> None:
    """A server that is full, or has too many connections, is StoreUnavailable in words that say what to do."""
    with RedisServer("--maxmemory-policy", "noeviction") as own, contextlib.closing(plain_client(own)) as admin:
        async with open_store(own) as store:
            key = make_key()
            await store.create(key, make_record(user="42"))
            admin.config_set("maxmemory", 1)
            for refused in (
                store.create(make_key(), make_record(user="42")),
                store.update(key, make_record(version=2, user="42"), version=1),
                store.touch(key, time.time() + 9999),
            ):
                with pytest.raises(StoreUnavailable, match="maxmemory"):
                    await refused
            found = await store.load(key)
            assert found is not None and found.version == 1
            # What ends sessions still works.
            await store.update(key, make_record(-1, version=2), version=1)
            assert await store.load(key) is None
            await store.delete(key)
            await store.wipe()
            admin.config_set("maxmemory", 0)
        admin.config_set("maxclients", 1)
        async with open_store(own) as store:
            # Its words may get lost: it closes the connection while we greet.
            with pytest.raises(StoreUnavailable, match=r"maxclients|cannot be reached"):
                await store.load(make_key())


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
        contextlib.closing(plain_client(server)) as primary,
        contextlib.closing(plain_client(replica)) as admin,
    ):
        primary.config_set("repl-diskless-sync-delay", 0)
        admin.replicaof("127.0.0.1", str(server.port))
        wait_until(lambda: admin.info("replication")["master_link_status"] == "up")
        async with open_store(replica) as store:
            with pytest.raises(StoreUnavailable, match="primary's address"):
                await store.open()
            with pytest.raises(StoreUnavailable, match="primary's address"):
                await store.create(make_key(), make_record())
            admin.replicaof("NO", "ONE")
            await store.open()
            await store.create(make_key(), make_record())
