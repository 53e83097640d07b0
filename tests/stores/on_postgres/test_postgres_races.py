"""The store in PostgreSQL in races of several pools and processes, and in several event loops."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import multiprocessing
import time
import warnings
from dataclasses import replace

import pytest

from roomkey.stores.base import Conflict
from roomkey.stores.postgres import PostgresStore
from roomkey.stores.postgres import connections as connections_module
from tests.loop_clock import HANGS, WaitingLoop, loop_time
from tests.servers.postgres import PostgresServer
from tests.stores.on_postgres.parts import count_connections, eventually, in_a_loop_ended_by_hand, new_table, open_store
from tests.stores.records import make_key, make_record, make_tombstone, winners_of

pytestmark = pytest.mark.usefixtures("server")


# --- Races over several pools and processes ---------------------------------------------------------------------------


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
async def test_one_of_many_stores_wins(server: PostgresServer, isolation: str) -> None:
    """Of many stores that create, update or rotate at once exactly one succeeds, however the server isolates."""
    url = server.url_for(default_transaction_isolation=isolation)
    async with open_store(server) as first:
        stores = [PostgresStore(url, table=first._table, max_connections=2) for _ in range(5)] * 2
        await asyncio.gather(*(store.open() for store in set(stores)))
        for _ in range(12):
            key, new_keys = make_key(), [make_key() for _ in stores]
            for operations in (
                [store.create(key, make_record(data=b"%d" % n)) for n, store in enumerate(stores)],
                [
                    store.update(key, make_record(data=b"%d" % n, version=2), version=1)
                    for n, store in enumerate(stores)
                ],
                [
                    store.rotate(key, new, make_record(version=3, data=new.encode()), make_tombstone(new), version=2)
                    for store, new in zip(stores, new_keys, strict=True)
                ],
            ):
                winners = winners_of(await asyncio.gather(*operations, return_exceptions=True))
                assert len(winners) == 1
                found = await first.load(key)
                assert found is not None
                if found.successor is None:
                    assert found.data == b"%d" % winners[0]
            assert found.successor == new_keys[winners[0]]
            there = [new for new in new_keys if await first.load(new) is not None]
            assert there == [new_keys[winners[0]]]
        for store in set(stores):
            await store.close()


async def test_one_of_many_rotations_gets_a_new_key(server: PostgresServer) -> None:
    """Of many sessions that move to one and the same key exactly one gets it, and the others stay as they were."""
    async with open_store(server) as store, open_store(server, table=store._table) as other:
        for before in ("nothing", "expired"):
            keys, new_key = [make_key() for _ in range(12)], make_key()
            for key in keys:
                await store.create(key, make_record(data=key.encode()))
            if before == "expired":
                await store.create(new_key, make_record(expires_at=time.time() - 1, user="someone"))
            rotations = [
                (store, other)[n % 2].rotate(
                    key, new_key, make_record(data=key.encode(), version=2), make_tombstone(new_key), version=1
                )
                for n, key in enumerate(keys)
            ]
            winners = winners_of(await asyncio.gather(*rotations, return_exceptions=True))
            assert len(winners) == 1
            moved = await store.load(new_key)
            assert moved is not None and moved.data == keys[winners[0]].encode() and moved.user is None
            for number, key in enumerate(keys):
                found = await store.load(key)
                assert found is not None
                assert (found.successor, found.version) == ((new_key, 2) if number in winners else (None, 1))


async def test_rotation_to_its_own_key(server: PostgresServer) -> None:
    """A session cannot move to where it is."""
    async with open_store(server) as store:
        key = make_key()
        await store.create(key, make_record())
        with pytest.raises(Conflict):
            await store.rotate(key, key, make_record(version=2), make_tombstone(key), version=1)
        found = await store.load(key)
        assert found is not None and found.version == 1


async def test_rotation_races_update_delete_and_purge(server: PostgresServer) -> None:
    """Whatever happens to the old key meanwhile: the session is at one place or at none, never at two."""
    async with open_store(server) as store, open_store(server, table=store._table) as other:
        for number in range(60):
            key, new_key = make_key(), make_key()
            await store.create(key, make_record())
            await store.create(new_key, make_record(expires_at=time.time() - 1))
            rotation = store.rotate(key, new_key, make_record(version=2), make_tombstone(new_key), version=1)
            rival = other.delete(key) if number % 2 else other.update(key, make_record(version=2), version=1)
            pair = (rotation, rival) if number % 3 else (rival, rotation)
            outcomes = await asyncio.gather(*pair, other.purge(100), return_exceptions=True)
            winners_of([outcome for outcome in outcomes if not isinstance(outcome, int)])
            moved = outcomes[0 if number % 3 else 1] is None
            old, new = await store.load(key), await store.load(new_key)
            assert (new is not None) is moved
            assert not moved or old is None or old.successor == new_key
            assert moved or old is None or old.successor is None


def _count_up(url: str, table: str, key: str, times: int) -> None:
    async def main() -> None:
        store = PostgresStore(url, table=table)
        for _ in range(times):
            while True:
                found = await store.load(key)
                assert found is not None
                new = replace(found, data=b"%d" % (int(found.data) + 1), version=found.version + 1)
                with contextlib.suppress(Conflict):
                    await store.update(key, new, version=found.version)
                    break
        await store.close()

    asyncio.run(main())


def test_no_increment_is_lost_across_processes(server: PostgresServer) -> None:
    """Processes that each read, add one, and try again after a Conflict count every one."""

    async def before() -> str:
        async with open_store(server, table="across") as store:
            await store.create(key, make_record(data=b"0"))
        return key

    async def after() -> None:
        async with open_store(server, table="across") as store:
            found = await store.load(key)
            assert found is not None and found.data == b"90" and found.version == 91

    key = make_key()
    asyncio.run(before())
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=_count_up, args=(server.url, "across", key, 30)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(HANGS)
        assert process.exitcode == 0
    asyncio.run(after())


# --- Event loops ------------------------------------------------------------------------------------------------------


def test_each_event_loop_has_its_connections(server: PostgresServer) -> None:
    """One store works in one event loop after the other, and a loop that ends takes its connections along."""
    store = PostgresStore(server.url, table=new_table())
    key = make_key()

    async def make() -> None:
        await store.create_table()
        await store.create(key, make_record())

    async def read() -> None:
        assert await store.load(key) is not None

    asyncio.run(make())
    for _ in range(5):
        asyncio.run(read())
        assert asyncio.run(eventually(lambda: count_connections(server), 0)) == 0
    asyncio.run(store.open())
    assert not store._links  # a loop that ends takes them along


def test_event_loop_ended_by_hand(server: PostgresServer) -> None:
    """A loop that shuts its asynchronous generators down leaves no socket open, whoever runs it."""

    async def work() -> None:
        await PostgresStore(server.url, table="by_hand").create_table()
        await store.load(make_key())

    store = PostgresStore(server.url, table="by_hand")
    in_a_loop_ended_by_hand(work())


def test_event_loop_closed_without_a_word(server: PostgresServer) -> None:
    """A loop that was just closed is noticed when the store is used in the next one, and let go."""
    store = PostgresStore(server.url, table="by_hand")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        loop = asyncio.new_event_loop()
        loop.run_until_complete(store.create_table())
        loop.close()
        asyncio.run(store.open())
        assert loop not in store._links
        gc.collect()


async def test_two_event_loops_at_once(server: PostgresServer) -> None:
    """One store works in several threads with an event loop each; closing in one leaves the other alone."""
    async with open_store(server) as store:
        key = make_key()
        await store.create(key, make_record(data=b"0"))

        async def elsewhere() -> None:
            for _ in range(50):
                assert await store.load(key) is not None
            await store.close()

        threads = [asyncio.to_thread(asyncio.run, elsewhere()) for _ in range(2)]

        async def here() -> None:
            for _ in range(50):
                assert await store.load(key) is not None

        await asyncio.gather(here(), *threads)
        assert await store.load(key) is not None


async def test_dropped_store_ends_its_connections(server: PostgresServer) -> None:
    """A store that nobody holds any longer, and nobody closed, leaves no connection behind."""
    store = PostgresStore(server.url, table=new_table())
    await store.create_table()
    assert await count_connections(server) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # Python's word for what nobody closed
        del store
        gc.collect()
    assert await eventually(lambda: count_connections(server), 0) == 0


async def test_close_waits_for_what_is_under_way(server: PostgresServer) -> None:
    """A save that was under way when the app closed its store is done."""
    async with open_store(server, max_connections=2) as store:
        keys = [make_key() for _ in range(20)]
        saves = [asyncio.create_task(store.create(key, make_record())) for key in keys]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        started, limit = loop_time(), min(connections_module._CLOSE_TIMEOUT * WaitingLoop.patience, HANGS)
        await store.close()
        assert loop_time() - started < limit / 2  # it waited for them, not for its time limit
        assert winners_of(await asyncio.gather(*saves, return_exceptions=True)) == list(range(20))
        assert all(await asyncio.gather(*(store.load(key) for key in keys)))
