"""The SQLAlchemy store in races, several event loops, threads and processes."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import threading
import time
from dataclasses import replace
from typing import Any

import asyncmy
import pytest
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from roomkey.stores.base import Conflict, Record
from roomkey.stores.sqlalchemy import SQLAlchemyStore
from tests.loop_clock import HANGS
from tests.servers.mariadb import MariaDBServer
from tests.stores.on_sqlalchemy.databases import Database, _ask_mariadb, eventually
from tests.stores.records import make_key, make_record, make_tombstone, winners_of

# --- Races ------------------------------------------------------------------------------------------------------------


async def test_one_of_many_stores_wins(database: Database) -> None:
    """Of many stores that create, update or rotate at once exactly one succeeds."""
    async with database.stores(3) as stores:
        for _ in range(3):
            key, new_keys = make_key(), [make_key() for _ in range(24)]
            records = [make_record(data=b"%d" % number) for number in range(24)]
            creates = [stores[n % 3].create(key, record) for n, record in enumerate(records)]
            assert len(winners_of(await asyncio.gather(*creates, return_exceptions=True))) == 1
            updates = [
                stores[n % 3].update(key, replace(record, version=2), version=1) for n, record in enumerate(records)
            ]
            [winner] = winners_of(await asyncio.gather(*updates, return_exceptions=True))
            found = await stores[0].load(key)
            assert found is not None and found.data == b"%d" % winner
            rotations = [
                stores[n % 3].rotate(
                    key, new_key, make_record(version=3), make_tombstone(new_key, version=3), version=2
                )
                for n, new_key in enumerate(new_keys)
            ]
            [winner] = winners_of(await asyncio.gather(*rotations, return_exceptions=True))
            found = await stores[1].load(key)
            assert found is not None and found.successor == new_keys[winner]
            assert [n for n, new_key in enumerate(new_keys) if await stores[2].load(new_key)] == [winner]


@pytest.mark.parametrize("before", ["nothing", "expired"])
async def test_one_of_many_rotations_gets_a_new_key(database: Database, before: str) -> None:
    """Of 50 sessions that move to one and the same key one gets it, and the others stay as they were."""
    async with database.stores(2) as stores:
        keys, new_key = [make_key() for _ in range(50)], make_key()
        for key in keys:
            await stores[0].create(key, make_record(data=key.encode()))
        if before == "expired":
            await stores[0].create(new_key, make_record(expires_at=time.time() - 1, user="someone"))
        rotations = [
            stores[n % 2].rotate(
                key, new_key, make_record(data=key.encode(), version=2), make_tombstone(new_key), version=1
            )
            for n, key in enumerate(keys)
        ]
        [winner] = winners_of(await asyncio.gather(*rotations, return_exceptions=True))
        moved = await stores[0].load(new_key)
        assert moved is not None and moved.data == keys[winner].encode() and moved.user is None
        for number, key in enumerate(keys):
            found = await stores[0].load(key)
            assert found is not None and (found.successor is not None) is (number == winner)


async def test_rotations_that_cross(on_server: Database) -> None:
    """50 rotations that want each other's keys, in both directions, end in success or Conflict: no deadlock comes out.

    The engines are an app's, which leave the isolation to the database.
    """
    async with on_server.engine() as one, on_server.engine() as other, on_server.store() as store:
        stores = [SQLAlchemyStore(engine, table=store.table.name) for engine in (one, other)]
        for _ in range(3):
            keys = [make_key() for _ in range(6)]
            for key in keys[:3]:
                await store.create(key, make_record())
            for key in keys[3:]:
                await store.create(key, make_record(expires_at=time.time() - 1))
            pairs = [random.sample(keys, 2) for _ in range(50)]
            rotations = [
                stores[n % 2].rotate(key, new_key, make_record(), make_tombstone(new_key), version=1)
                for n, (key, new_key) in enumerate(pairs)
            ]
            purges = [stores[n % 2].purge(10) for n in range(4)]
            outcomes = await asyncio.gather(*rotations, *purges, return_exceptions=True)
            winners_of([outcome for outcome in outcomes if not isinstance(outcome, int)])
            live = [found for key in keys if (found := await store.load(key)) and found.successor is None]
            assert len(live) == 3  # as many as before: none was lost, and none doubled


async def test_deadlock_is_tried_again(on_mariadb: Database) -> None:
    """A rotation that the database ends to resolve a deadlock is run again, whole."""
    server = on_mariadb.server
    assert isinstance(server, MariaDBServer)
    async with on_mariadb.store() as store, _ask_mariadb(server) as other, _ask_mariadb(server) as admin:
        name = store.table.name
        [[_, before]] = await admin("SHOW GLOBAL STATUS LIKE 'Innodb_deadlocks'")
        key, new_key = make_key(), make_key()
        await store.create(key, make_record())
        heavy = [make_key() for _ in range(30)]
        for one in heavy:
            await store.create(one, make_record())
        await store.create(new_key, make_record(expires_at=time.time() - 1))
        # The other has written more: it is the rotation that is ended.
        await other("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
        await other("START TRANSACTION")
        for one in [*heavy, new_key]:
            await other(f"UPDATE {name} SET data = 'x' WHERE `key` = '{one}'")
        rotation = asyncio.ensure_future(
            store.rotate(key, new_key, make_record(version=2), make_tombstone(new_key), version=1)
        )
        waiting = "SELECT 1 FROM information_schema.INNODB_TRX WHERE trx_state = 'LOCK WAIT'"
        while not await admin(waiting):
            assert not rotation.done()
            await asyncio.sleep(0.15)  # the server looks again when nobody has asked for 0.1 seconds
        await other(f"UPDATE {name} SET data = 'y' WHERE `key` = '{key}'")
        await other("ROLLBACK")
        await rotation
        [[_, after]] = await admin("SHOW GLOBAL STATUS LIKE 'Innodb_deadlocks'")
        assert int(after) == int(before) + 1
        found = await store.load(key)
        assert found is not None and found.successor == new_key
        assert await store.load(new_key) is not None


async def test_rotation_to_its_own_key(database: Database) -> None:
    """A session cannot move to where it is."""
    async with database.store() as store:
        key = make_key()
        await store.create(key, make_record())
        with pytest.raises(Conflict):
            await store.rotate(key, key, make_record(version=2), make_tombstone(key), version=1)
        found = await store.load(key)
        assert found is not None and found.version == 1


async def test_driver_that_counts_changed_rows_only(on_mariadb: Database) -> None:
    """A touch that changes nothing reports a session that is there, also where the driver counts only what changed."""

    async def connect(**options: Any) -> Any:
        del options["client_flag"]  # FOUND_ROWS, which SQLAlchemy asks for
        return await asyncmy.connect(**options)

    async with on_mariadb.store() as store, on_mariadb.engine(connect_args={"async_creator_fn": connect}) as engine:
        other = SQLAlchemyStore(engine, table=store.table.name)
        key, until = make_key(), time.time() + 3600
        await other.create(key, make_record(expires_at=until))
        assert await other.touch(key, until - 60) is True
        assert await other.touch(key, until + 60) is True
        assert await other.touch(make_key(), until) is False
        found = await other.load(key)
        assert found is not None and found.expires_at == until + 60


# --- Event loops, threads, forks --------------------------------------------------------------------------------------


def test_an_event_loop_for_each_request(database: Database) -> None:
    """A store is used from one event loop after another, as test clients do, and from several at once."""
    store = SQLAlchemyStore(database.url, table=f"loops_{database.name}")
    key = make_key()

    async def request() -> bool:
        return await store.load(key) is not None

    async def prepare() -> None:
        await store.create_table()
        await store.create(key, make_record())

    asyncio.run(prepare())
    gc.collect()
    assert asyncio.run(eventually(database.connections, 0)) == 0
    for _ in range(3):
        assert asyncio.run(request())
    answers: list[bool] = []
    threads = [threading.Thread(target=lambda: answers.append(asyncio.run(request()))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [True] * 4
    assert store._links == {}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of forking with threads
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on Windows")
async def test_after_a_fork(on_server: Database) -> None:
    """A child of a fork makes its own connections, and the parent keeps its own."""
    async with on_server.store() as store:
        key = make_key()
        await store.create(key, make_record())
        child = os.fork()
        if child == 0:
            code = 1
            try:
                assert not store._links  # the parent's are out of reach
                found: list[Record | None] = []
                thread = threading.Thread(target=lambda: found.append(asyncio.run(store.load(key))))
                thread.start()
                thread.join(HANGS)
                code = 0 if found and found[0] is not None else 2
            finally:
                os._exit(code)
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert await store.load(key) is not None
        await store.update(key, make_record(version=2), version=1)


def test_an_engine_of_the_apps_keeps_nothing_of_loops_that_ended(on_server: Database) -> None:
    """A script that runs a loop for each job leaves no listener behind for each."""
    engine = create_async_engine(on_server.url.removeprefix("sqlalchemy+"), poolclass=NullPool)
    store = SQLAlchemyStore(engine, table="of_loops")

    async def prepare() -> None:
        await store.create_table()

    async def use() -> None:
        assert await store.load(make_key()) is None

    asyncio.run(prepare())
    for _ in range(5):
        asyncio.run(use())
    assert len(list(engine.sync_engine.pool.dispatch.checkout)) == 0
