"""Records that are kept near: what is kept, for how long, and what is forgotten when."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from roomkey import SessionConfig
from roomkey.errors import ConfigurationError
from roomkey.stores.base import Conflict, Record, Store
from roomkey.stores.memory import MemoryStore
from roomkey.stores.migrating import Migrating
from roomkey.stores.sqlite import SQLiteStore
from roomkey.testing import Clock, StoreContract
from tests.stores.told import Kept, ToldStore, elsewhere

KEY, OTHER = "a" * 64, "b" * 64
START = 1_000_000.0


def record(**fields: Any) -> Record:
    return Record(**{"data": b"x", "version": 1, "created_at": START, "expires_at": START + 1000, **fields})


@pytest.fixture
def clock() -> Clock:
    return Clock(START)


@pytest.fixture
def kept(clock: Clock) -> Kept:
    return Kept(ToldStore(clock=clock), clock)


async def test_a_record_is_loaded_once(kept: Kept) -> None:
    """The second load asks the store nothing, and returns the same record."""
    await kept.create(KEY, record())
    assert [await kept.load(KEY) for _ in range(3)] == [record()] * 3
    assert kept.store.loads == 1 and (kept.near.hits, kept.near.misses) == (2, 1)


async def test_what_is_not_kept(kept: Kept) -> None:
    """A tombstone, an expired record, and that there is none, are asked of the store each time."""
    with elsewhere():
        await kept.create(KEY, record())
        await kept.rotate(KEY, OTHER, record(version=2), record(successor=OTHER), version=1)
    for key in (KEY, "c" * 64):
        before = kept.store.loads
        await kept.load(key)
        await kept.load(key)
        assert kept.store.loads == before + 2


async def test_a_record_that_has_expired_here(kept: Kept, clock: Clock) -> None:
    """It is asked of the store, where another process may have renewed it."""
    await kept.create(KEY, record())
    await kept.load(KEY)
    with elsewhere():
        await kept.touch(KEY, START + 5000)
    clock.advance(2000)
    assert await kept.load(KEY) == record(expires_at=START + 5000)


@pytest.mark.parametrize("what", ["update", "touch", "delete", "rotate", "wipe", "a refused update"])
async def test_a_change_through_this_process(kept: Kept, clock: Clock, what: str) -> None:
    """It is seen at once, also where another guard around another store has made it."""
    await kept.create(KEY, record())
    await kept.load(KEY)
    other = Kept(kept.store, clock)
    newer = record(data=b"y", version=2)
    if what == "update":
        await other.update(KEY, newer, version=1)
    elif what == "touch":
        await other.touch(KEY, START + 5000)
    elif what == "delete":
        await other.delete(KEY)
    elif what == "rotate":
        await other.rotate(KEY, OTHER, newer, record(successor=OTHER), version=1)
    elif what == "wipe":
        await other.wipe()
    else:
        with pytest.raises(Conflict):
            await other.update(KEY, newer, version=7)
    before = kept.store.loads
    await kept.load(KEY)
    assert kept.store.loads == before + 1


async def test_a_load_that_is_under_way_when_a_notice_comes(kept: Kept) -> None:
    """What it returns is not kept: it may be of before the change."""
    await kept.create(KEY, record())
    loading = asyncio.create_task(kept.load(KEY))
    await asyncio.sleep(0)
    with elsewhere():
        await MemoryStore.update(kept.store, KEY, record(version=2), version=1)
    kept.store.said.listeners.forget(KEY)
    first = await loading
    second = await kept.load(KEY)
    assert first is not None and second is not None and (first.version, second.version) == (1, 2)


async def test_a_load_that_is_under_way_when_the_connection_is_lost(kept: Kept) -> None:
    """The same, where anything may have changed."""
    await kept.create(KEY, record())
    loading = asyncio.create_task(kept.load(KEY))
    await asyncio.sleep(0)
    kept.store.said.listeners.forget_all()
    await loading
    assert len(kept.near) == 0


async def test_what_is_loaded_during_a_change_of_this_process(kept: Kept) -> None:
    """What was loaded before the store did it is not served after it was acknowledged."""
    await kept.create(KEY, record())
    writing = kept.guard.updating(KEY, record(version=2), version=1)
    writing.send(None)  # on its way to the store
    assert await kept.load(KEY) == await kept.load(KEY) == record()
    with contextlib.suppress(StopIteration):
        while True:
            writing.send(None)
    assert await kept.load(KEY) == record(version=2)


async def test_while_nothing_was_heard(kept: Kept) -> None:
    """All is asked of the store, and nothing new is kept."""
    await kept.create(KEY, record())
    await kept.load(KEY)
    kept.store.said.is_heard = False
    before = kept.store.loads
    await kept.load(KEY)
    await kept.load(KEY)
    assert kept.store.loads == before + 2


async def test_the_number_is_bounded(clock: Clock) -> None:
    """The record that was used longest ago goes."""
    kept = Kept(ToldStore(clock=clock), clock, most=3)
    keys = [letter * 64 for letter in "abcd"]
    for key in keys:
        await kept.create(key, record())
    for key in keys[:3]:
        await kept.load(key)
    await kept.load(keys[0])
    await kept.load(keys[3])
    assert [key for key in keys if key in kept.near._records] == [keys[0], keys[2], keys[3]]


async def test_the_bytes_are_bounded(clock: Clock) -> None:
    """Large records have others forgotten, and too large ones are not kept at all."""
    kept = Kept(ToldStore(clock=clock), clock, most=16)
    keys = [f"{number:064x}" for number in range(40)]
    for key in keys:
        await kept.create(key, record(data=b"x" * 6000))
        await kept.load(key)
        assert kept.near.bytes <= 16 * 4096
    assert 5 < len(kept.near) < 16
    await kept.create(KEY, record(data=b"x" * 20_000))
    await kept.load(KEY)
    assert KEY not in kept.near._records
    kept.near.forget_all()
    assert kept.near.bytes == 0


async def test_a_load_that_fails(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves nothing behind."""

    async def fails(key: str) -> Record | None:
        await asyncio.sleep(0)
        raise OSError

    monkeypatch.setattr(kept.store, "load", fails)
    with pytest.raises(Exception, match="failed"):
        await kept.load(KEY)
    assert kept.near._loading == {}


def test_many_threads(clock: Clock) -> None:
    """Changes and loads of several event loops leave no old record behind."""
    kept = Kept(ToldStore(clock=clock), clock)
    asyncio.run(kept.create(KEY, record()))
    wrong = []

    async def work() -> None:
        for _ in range(200):
            found = await kept.load(KEY)
            assert found is not None
            try:
                await kept.update(KEY, replace(found, version=found.version + 1), version=found.version)
            except Conflict:
                continue
            after = await kept.load(KEY)
            if after is None or after.version <= found.version:
                wrong.append(found.version)

    threads = [threading.Thread(target=lambda: asyncio.run(work())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
async def test_the_child_of_a_fork_begins_with_nothing(kept: Kept) -> None:
    """What the parent kept is not served by the child, which hears of nothing."""
    await kept.create(KEY, record())
    await kept.load(KEY)
    child = os.fork()
    if child == 0:
        os._exit(len(kept.near))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(kept.near) == 1


# --- the option -------------------------------------------------------------------------------------------------------


class Custom:
    """A store of somebody's."""

    async def load(self, key: str) -> Record | None:
        return None

    create = update = rotate = touch = delete = load


def configured(**options: Any) -> SessionConfig:
    return SessionConfig(**{"secret_key": "k" * 32, "store": "memory://", **options})


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"near_cache": 0}, "near_cache: got 0; it takes a whole number above 0, or None"),
        ({"near_cache": True}, "near_cache: got True"),
        ({"near_max_age": 0.01}, "near_max_age: got 0.01; it takes a number of seconds from 0.1 to 60"),
        ({"near_max_age": 61}, "near_max_age: got 61"),
        ({"fresh": "/admin/"}, "fresh: got text; it takes a list"),
        ({"near_cache": 5, "store": Custom()}, "near_cache: Custom cannot say when its records change"),
        ({"near_cache": 5, "store": "cookie://"}, "near_cache: CookieStore cannot say when its records change"),
        (
            {"near_cache": 5, "store": Migrating(MemoryStore(), MemoryStore())},
            "near_cache: Migrating cannot say when its records change",
        ),
    ],
)
def test_what_the_options_take(options: dict[str, Any], text: str) -> None:
    """A wrong value, and a store that cannot tell, are an error that says so."""
    with pytest.raises(ConfigurationError) as error:
        configured(**options)
    assert text in str(error.value)


# --- the contract -----------------------------------------------------------------------------------------------------


class TestKeptInMemory(StoreContract):
    """A store of which records are kept near passes the suite of all stores."""

    async def make(self, clock: Clock) -> Store:
        return Kept(ToldStore(clock=clock), clock)


class TestKeptFromSQLite(StoreContract):
    """The same over SQLite's own notices."""

    def setup_method(self) -> None:
        self.directory = tempfile.TemporaryDirectory()

    def teardown_method(self) -> None:
        self.directory.cleanup()

    async def make(self, clock: Clock) -> Store:
        return Kept(SQLiteStore(Path(self.directory.name) / "sessions.sqlite3", clock=clock), clock)
