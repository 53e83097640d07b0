"""A PostgreSQL server that is away, frozen or read-only, and operations that are cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import replace
from typing import Any

import pytest

from roomkey.errors import StoreUnavailable
from roomkey.stores.guard import GuardedStore
from roomkey.stores.postgres import PostgresStore
from roomkey.stores.postgres import connections as connections_module
from tests.loop_clock import loop_time, patience, until
from tests.servers.postgres import PostgresServer
from tests.stores.on_postgres.parts import admin_of, eventually, locked_table, open_store
from tests.stores.records import make_key, make_record

pytestmark = pytest.mark.usefixtures("server")


# --- Cancellation -----------------------------------------------------------------------------------------------------


async def test_cancelled_operations_disturb_nobody(server: PostgresServer) -> None:
    """Whoever is cancelled, at any moment: the others get their own answers, and no connection is lost."""
    async with open_store(server, max_connections=3) as store:
        keys = [make_key() for _ in range(40)]
        await asyncio.gather(*(store.create(key, make_record(data=key.encode())) for key in keys))

        async def load(key: str) -> None:
            found = await store.load(key)
            assert found is not None and found.data == key.encode()

        async def touch(key: str) -> None:
            assert await store.touch(key, time.time() + 7200)

        for number in range(60):
            tasks = [asyncio.create_task((load, touch)[n % 2](key)) for n, key in enumerate(keys)]
            await asyncio.sleep(0.00005 * number)
            victims = [task for n, task in enumerate(tasks) if n % 3 == number % 3]
            for task in victims:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            for task, outcome in zip(tasks, outcomes, strict=True):
                assert outcome is None or (task in victims and isinstance(outcome, asyncio.CancelledError))
        office = store._links[asyncio.get_running_loop()]
        connections: Any = office.connections
        await until(lambda: not connections._ending and not connections._making)
        assert not connections._busy and connections._slots == len(connections._idle) <= 3
        await load(keys[0])


async def test_cancelled_statement_does_not_stay_at_the_server(server: PostgresServer) -> None:
    """An operation that is cancelled while it waits for a lock waits at the server no longer, a shared load neither."""

    async def waiting() -> int:
        async with admin_of(server) as admin:
            query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = $1"
            count: int = await admin.fetchval(query, "roomkey")
            return count

    async with open_store(server, max_connections=4) as store:
        key = make_key()
        await store.create(key, make_record())
        async with locked_table(server, store._table):
            tasks = [asyncio.create_task(store.touch(key, time.time() + 7200))]
            tasks += [asyncio.create_task(store.load(key)) for _ in range(5)]
            assert await eventually(waiting, 3) == 3  # the touch, a lone load, and one with the others
            for task in tasks[:-1]:
                task.cancel()
            await asyncio.wait(tasks[:-1])
            assert await eventually(waiting, 1) == 1  # one of those who share is still there
            tasks[-1].cancel()
            assert await eventually(waiting, 0) == 0
        assert await store.load(key) is not None


async def test_frozen_server_costs_no_more_than_the_time_limit(server: PostgresServer) -> None:
    """While the server is silent each operation ends at its time limit, and when it is back all is well."""
    async with open_store(server, max_connections=3) as store:
        guarded = GuardedStore(store, 0.3)
        key = make_key()
        await guarded.create(key, make_record())
        server.pause()
        try:
            started = loop_time()
            operations = [guarded.load(key) for _ in range(30)] + [guarded.delete(make_key()) for _ in range(5)]
            with patience(1):
                outcomes = await asyncio.gather(*operations, return_exceptions=True)
            assert all(isinstance(outcome, StoreUnavailable) for outcome in outcomes)
            assert loop_time() - started < 1.0
        finally:
            server.resume()

        async def is_loaded() -> bool:
            with contextlib.suppress(StoreUnavailable):
                assert await guarded.load(key) is not None
                return True
            return False

        await until(is_loaded)


async def test_connecting_to_a_frozen_server(server: PostgresServer) -> None:
    """Operations that end while they connect leave room for those that come later."""
    async with open_store(server) as owner:
        store = PostgresStore(server.url, table=owner._table, max_connections=1)
        server.pause()
        try:
            for _ in range(3):
                with patience(1), pytest.raises(StoreUnavailable):
                    await GuardedStore(store, 0.1).load(make_key())
        finally:
            server.resume()
        assert await GuardedStore(store, 5.0).load(make_key()) is None
        await store.close()


# --- Outages ----------------------------------------------------------------------------------------------------------


async def test_restart_between_operations(server: PostgresServer) -> None:
    """After a restart of the server the next operation works, with as many connections as there were."""
    async with open_store(server) as store:
        key = make_key()
        await store.create(key, make_record())
        for _ in range(3):
            await asyncio.gather(*(store.touch(key, time.time() + 7200) for _ in range(10)))  # ten connections
            await asyncio.to_thread(server.restart)
            assert await store.load(key) is not None
            await store.update(key, replace(make_record(), version=1), version=1)


async def test_load_outlives_a_lost_connection(server: PostgresServer) -> None:
    """A load whose connection is ended under way is asked again; a save is not, and is an outage."""
    async with open_store(server) as store, admin_of(server) as admin:
        key = make_key()
        await store.create(key, make_record())
        end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        async with locked_table(server, store._table):
            load = asyncio.create_task(store.load(key))
            delete = asyncio.create_task(store.delete(make_key()))
            update = asyncio.create_task(store.update(key, make_record(version=2), version=1))
            assert await eventually(lambda: admin.fetchval(waiting), 3) == 3
            await admin.execute(end)
            with pytest.raises(StoreUnavailable):
                await update
            assert await eventually(lambda: admin.fetchval(waiting), 2) == 2
        assert await load is not None
        await delete
        found = await store.load(key)
        assert found is not None and found.version == 1


class _Network:
    """A way to the server that can break for the connections made so far, and works for new ones."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._tasks: list[asyncio.Task[Any]] = []
        self._state = {"": ""}  # shared by the connections of one age: what becomes of their data
        self.takes_new = asyncio.Event()  # while it is not set, new connections hang
        self.takes_new.set()

    async def __aenter__(self) -> _Network:
        self._proxy = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        port = self._proxy.sockets[0].getsockname()[1]
        self.url = self._server.url.replace(f":{self._server.port}/", f":{port}/")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._proxy.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._proxy.wait_closed()

    def reset(self) -> None:
        """From now on the other side knows nothing of them, as after a failover: what is sent resets them."""
        self._state[""] = "reset"
        self._state = {"": ""}

    def forget(self) -> None:
        """From now on nothing on them arrives and nothing tells, as behind a firewall that forgot them."""
        self._state[""] = "forgotten"
        self._state = {"": ""}

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        state = self._state
        task = asyncio.current_task()
        assert task is not None
        self._tasks.append(task)
        writers = [writer]
        try:
            await self.takes_new.wait()
            there, here = await asyncio.open_connection("127.0.0.1", self._server.port)
            writers.append(here)
            pipes = [asyncio.create_task(self._pipe(*way, state)) for way in ((reader, here), (there, writer))]
            self._tasks += pipes
            await asyncio.wait(pipes, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            pass  # asyncio would log it
        finally:
            for each in writers:
                each.transport.abort()

    @staticmethod
    async def _pipe(source: asyncio.StreamReader, target: asyncio.StreamWriter, state: dict[str, str]) -> None:
        with contextlib.suppress(ConnectionError):
            while (data := await source.read(65536)) and state[""] != "reset":
                if not state[""]:
                    target.write(data)


async def test_failover(server: PostgresServer) -> None:
    """When the other side no longer knows any of the connections, the first load works all the same."""
    async with _Network(server) as network, open_store(server, network.url, max_connections=4) as store:
        key = make_key()
        await store.create(key, make_record())
        await asyncio.gather(*(store.touch(key, time.time() + 7200) for _ in range(8)))
        network.reset()
        assert await store.load(key) is not None
        assert await store.touch(key, time.time() + 7200)


async def test_nobody_waits_for_a_new_connection_while_an_old_one_is_free(server: PostgresServer) -> None:
    """While new connections hang, everything goes over the one that stands; what hangs neither leaks nor delays."""
    async with _Network(server) as network, open_store(server, network.url, max_connections=4) as store:
        guarded = GuardedStore(store, 1.0)
        key = make_key()
        await guarded.create(key, make_record())
        connections: Any = store._links[asyncio.get_running_loop()].connections
        network.takes_new.clear()
        for _ in range(3):
            operations = [guarded.load(key) for _ in range(20)]
            operations += [guarded.touch(key, time.time() + 7200) for _ in range(20)]
            assert all(await asyncio.gather(*operations))
        assert connections._slots == 4 and len(connections._making) == 3
        network.takes_new.set()
        async with asyncio.timeout(5):
            await asyncio.gather(*connections._making)
        assert connections._slots == len(connections._idle) == 4 and not connections._making
        connections.distrust()
        network.takes_new.clear()
        with patience(1), pytest.raises(StoreUnavailable, match="did not answer"):
            await guarded.load(key)
        started = loop_time()
        await store.close()
        assert loop_time() - started < 1 and connections._slots == 0
        network.takes_new.set()
        assert await guarded.load(key) is not None


async def test_forgotten_connections(server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections on which nothing arrives any longer cost one operation its time limit, and not every one."""
    monkeypatch.setattr(connections_module, "_GIVE_UP", 0.1)

    async with _Network(server) as network, open_store(server, network.url, max_connections=4) as store:
        guarded = GuardedStore(store, 0.2)
        key = make_key()
        await store.create(key, make_record())
        await asyncio.gather(*(store.touch(key, time.time() + 7200) for _ in range(8)))
        network.forget()
        connections: Any = store._links[asyncio.get_running_loop()].connections
        with patience(1):
            with pytest.raises(StoreUnavailable, match="did not answer"):
                await guarded.load(key)
            await asyncio.gather(*connections._ending)
        assert connections._slots == 0
        assert await guarded.load(key) is not None


async def test_server_down(server: PostgresServer) -> None:
    """With the server down every operation is an outage at once, and afterwards all is well."""
    async with open_store(server) as store:
        key = make_key()
        await store.create(key, make_record())
        await asyncio.to_thread(server.stop)
        try:
            started = loop_time()
            operations = [store.load(key) for _ in range(20)]
            outcomes = await asyncio.gather(*operations, store.delete(key), store.open(), return_exceptions=True)
            assert all(isinstance(outcome, StoreUnavailable) for outcome in outcomes)
            assert len({id(outcome) for outcome in outcomes}) == 22
            assert loop_time() - started < 1.0
        finally:
            await asyncio.to_thread(server.start)
        assert await store.load(key) is not None


async def test_read_only_server(server: PostgresServer) -> None:
    """On a replica loads work, and a save is an outage that says why."""
    async with open_store(server) as owner:
        url = server.url_for(default_transaction_read_only="on")
        store = PostgresStore(url, table=owner._table)
        assert await store.load(make_key()) is None
        for operation in (store.create(make_key(), make_record()), store.wipe(), store.purge(5)):
            with pytest.raises(StoreUnavailable, match="read-only"):
                await operation
        await store.close()


async def test_too_many_connections(server: PostgresServer) -> None:
    """A server that takes no more connections is an outage, also when the app starts, and no fault of the URL."""
    async with open_store(server) as owner, admin_of(server) as admin:
        await admin.execute("CREATE ROLE crowd LOGIN PASSWORD 'x' CONNECTION LIMIT 1")
        await admin.execute(f'GRANT SELECT, INSERT, UPDATE, DELETE ON "{owner._table}" TO crowd')
        url = server.url_for(user="crowd", password="x")
        first, second = (PostgresStore(url, table=owner._table, max_connections=1) for _ in range(2))
        await first.open()
        for operation in (second.open(), second.load(make_key())):
            with pytest.raises(StoreUnavailable, match="no connection left"):
                await operation
        await first.close()

        async def is_open() -> bool:
            with contextlib.suppress(StoreUnavailable):
                await second.open()
                return True
            return False

        await until(is_open)
        await second.close()
