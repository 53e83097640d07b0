"""The part of the conformance suite about the optional protocols. A store without one passes over its tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol
from unittest import SkipTest

from roomkey.stores.base import Lifespan, Purge, Scan, Store, TellingPurge, UserIndex, Wipe
from roomkey.testing import watching
from roomkey.testing.bench import (
    Bench,
    Contract,
    assert_same,
    conflicts,
    make_key,
    scenario,
)

__all__ = ["OptionalTests"]

_Test = Callable[[Contract], None]


class OptionalTests:
    """Of `Purge`, `UserIndex`, `Scan`, `Wipe`, `Watch` and `Lifespan`."""

    # Purge

    @scenario
    async def test_purge_removes_what_expired(self, bench: Bench) -> None:
        """Expired records and tombstones go, at most `limit` at a time, and are counted. Live ones stay."""
        store = bench.store
        if not isinstance(store, Purge):
            raise SkipTest("the store is no Purge")
        key, live = make_key(), make_key()
        await store.create(live, bench.record())
        old, new = await bench.moved(life=bench.short)
        for _ in range(4):
            await store.create(make_key(), bench.record(life=bench.short, user="42"))
        await store.create(key, bench.record(life=bench.short))
        assert await store.purge(100) == 0
        assert await store.touch(key, bench.now() + 3600)
        await bench.outlive_short()
        assert [await store.purge(2) for _ in range(4)] == [2, 2, 1, 0]
        assert await store.load(old) is None
        for stays in (live, new, key):
            assert await store.load(stays) is not None

    @scenario
    async def test_a_purge_tells_which_sessions_went(self, bench: Bench) -> None:
        """It calls `tell` with key and user of each session. Tombstones and records without one are not told."""
        store = bench.store
        if not isinstance(store, TellingPurge):
            raise SkipTest("the store is no TellingPurge")
        ended, theirs, nobodys = make_key(), make_key(), make_key()
        await store.create(make_key(), bench.record(user="42"))
        await bench.moved(life=bench.short)
        await store.create(ended, bench.record(data=b"", life=bench.short, user="42"))
        await store.create(make_key(), bench.record(data=b"\0left by a move", life=bench.short))
        await store.create(theirs, bench.record(life=bench.short, user="42"))
        await store.create(nobodys, bench.record(life=bench.short))
        told: list[tuple[str, str | None]] = []
        await bench.outlive_short()
        gone = await store.purge_telling(100, lambda key, user: told.append((key, user)))
        assert gone == 5
        assert sorted(told, key=str) == sorted([(theirs, "42"), (nobodys, None)], key=str)
        assert await store.purge_telling(100, lambda key, user: told.append((key, user))) == 0

    @scenario
    async def test_a_purge_tells_nothing_of_a_wipe(self, bench: Bench) -> None:
        """Sessions that were ended all at once did not expire, also where they have by the time of the purge."""
        store = bench.store
        if not isinstance(store, TellingPurge) or not isinstance(store, Wipe):
            raise SkipTest("the store is no TellingPurge, or cannot be wiped")
        await store.create(make_key(), bench.record(life=bench.short, user="42"))
        await store.wipe()
        await bench.outlive_short()
        told: list[str] = []
        await store.purge_telling(100, lambda key, user: told.append(key))
        assert told == []

    # UserIndex

    @scenario
    async def test_of_user_finds_their_sessions(self, bench: Bench) -> None:
        """Key and record of each session of the user are returned, whatever the name is made of."""
        store = _with_users(bench)
        for user in ("42", "Zoë 名前 🗝", "it's", "a%b_c*"):
            sessions = {make_key(): bench.record(user=user, data=b"%d" % number) for number in range(3)}
            for key, record in sessions.items():
                await store.create(key, record)
            found = await store.of_user(user)
            assert len(found) == 3 and {key for key, _ in found} == set(sessions)
            for key, record in found:
                assert_same(record, sessions[key])

    @scenario
    async def test_of_user_without_sessions(self, bench: Bench) -> None:
        """For a user without sessions the list is empty. Others' and nobody's sessions are not in it."""
        store = _with_users(bench)
        await store.create(make_key(), bench.record(user="42"))
        await store.create(make_key(), bench.record())
        for user in ("4", "421", "", "None", "*"):
            assert await store.of_user(user) == []

    @scenario
    async def test_of_user_leaves_out_the_ended(self, bench: Bench) -> None:
        """Deleted, expired and ended sessions are not in the list."""
        store = _with_users(bench)
        deleted, ended, live = make_key(), make_key(), make_key()
        for key in (deleted, ended, live):
            await store.create(key, bench.record(user="42"))
        await store.create(make_key(), bench.record(user="42", life=bench.short))
        assert len(await store.of_user("42")) == 4
        await store.delete(deleted)
        await store.update(ended, bench.record(user="42", version=2, life=-1.0), version=1)
        await bench.outlive_short()
        assert [key for key, _ in await store.of_user("42")] == [live]

    @scenario
    async def test_of_user_leaves_out_tombstones(self, bench: Bench) -> None:
        """A session that moved is in the list once, under its new key."""
        store = _with_users(bench)
        _, new_key = await bench.moved(user="42")
        assert [key for key, _ in await store.of_user("42")] == [new_key]

    @scenario
    async def test_of_user_misses_no_session_that_rotates(self, bench: Bench) -> None:
        """A session whose ID changes while the list is made is on it, under one key or the other."""
        store = _with_users(bench)
        key = make_key()
        await store.create(key, bench.record(user="42"))

        async def rotate() -> None:
            nonlocal key
            for version in range(1, 41):
                new_key = make_key(key)
                new, tombstone = bench.record(user="42", version=version + 1), bench.tombstone(new_key)
                await store.rotate(key, new_key, new, tombstone, version=version)
                key = new_key

        rotating = asyncio.create_task(rotate())
        while not rotating.done():
            assert await store.of_user("42")
            await asyncio.sleep(0)
        await rotating

    @scenario
    async def test_of_user_follows_the_record(self, bench: Bench) -> None:
        """A session is listed from the update that names its user on, and not under a former user."""
        store = _with_users(bench)
        key = make_key()
        await store.create(key, bench.record())
        for version, user in enumerate(["ann", "bob", None], start=1):
            await store.update(key, bench.record(user=user, version=version + 1), version=version)
            for name in ("ann", "bob"):
                assert [found for found, _ in await store.of_user(name)] == ([key] if name == user else [])

    @scenario
    async def test_of_user_follows_a_touch(self, bench: Bench) -> None:
        """A session that was touched is listed for as long as it then lives."""
        store = _with_users(bench)
        key = make_key()
        await store.create(key, bench.record(user="42", life=bench.short))
        await store.touch(key, bench.now() + 3600)
        await bench.outlive_short()
        assert [found for found, _ in await store.of_user("42")] == [key]

    # Scan

    @scenario
    async def test_scan_comes_to_every_key(self, bench: Bench) -> None:
        """Keys come in batches until all have come: of sessions, of users' sessions and of tombstones."""
        store = _with_scan(bench)
        keys = {make_key() for _ in range(23)}
        for key in keys:
            await store.create(key, bench.record(user="42" if key < "8" else None))
        keys.update(await bench.moved())
        for limit in (1, 5, 25, 1000):
            assert await _scanned(store, limit) >= keys
        for key in await _scanned(store, 5):
            assert key in keys or await store.load(key) is None

    @scenario
    async def test_scan_misses_nothing_that_stays(self, bench: Bench) -> None:
        """While other sessions come and go, each that is there all the while comes."""
        store = _with_scan(bench)
        stays = {make_key() for _ in range(20)}
        for key in stays:
            await store.create(key, bench.record())
        goes = [f"{number:064x}" for number in range(9)]  # before the others, where a store has them in their order
        for key in goes:
            await store.create(key, bench.record())
        keys, after = await store.scan(3)
        found = set(keys)
        while after:
            if goes:
                await store.delete(goes.pop())
            await store.create(make_key(), bench.record())
            keys, after = await store.scan(3, after)
            found.update(keys)
        assert found >= stays

    # Wipe

    @scenario
    async def test_wipe_ends_every_session(self, bench: Bench) -> None:
        """After `wipe` nothing that was there is there: to load, update, rotate, touch or list."""
        store = _with_wipe(bench)
        keys = [make_key() for _ in range(3)]
        for key in keys:
            await store.create(key, bench.record(user="42"))
        old, new = await bench.moved()
        await store.wipe()
        for key in [*keys, old, new]:
            assert await store.load(key) is None
        assert not await store.touch(keys[0], bench.now() + 7200)
        await conflicts(store.update(keys[1], bench.record(version=2), version=1))
        new_key = make_key(keys[2])
        await conflicts(store.rotate(keys[2], new_key, bench.record(version=2), bench.tombstone(new_key), version=1))
        for key in [*keys, new_key]:
            assert await store.load(key) is None
        if isinstance(store, UserIndex):
            assert await store.of_user("42") == []

    @scenario
    async def test_wipe_and_go_on(self, bench: Bench) -> None:
        """After `wipe`, also a second one at once, new sessions are kept, under an old key too."""
        store = _with_wipe(bench)
        key = make_key()
        await store.create(key, bench.record(data=b"old"))
        await store.wipe()
        await store.wipe()
        record = bench.record(data=b"new", user="42")
        await store.create(key, record)
        assert_same(await store.load(key), record)
        await store.update(key, bench.record(version=2, user="42"), version=1)
        if isinstance(store, UserIndex):
            assert [found for found, _ in await store.of_user("42")] == [key]

    # Watch

    test_watch_stands_first: _Test = scenario(watching.test_watch_stands_first)
    test_watch_tells_of_a_deletion: _Test = scenario(watching.test_watch_tells_of_a_deletion)
    test_watch_tells_of_an_update_that_ends: _Test = scenario(watching.test_watch_tells_of_an_update_that_ends)
    test_watch_tells_of_a_rotation: _Test = scenario(watching.test_watch_tells_of_a_rotation)
    test_watch_tells_of_a_change: _Test = scenario(watching.test_watch_tells_of_a_change)
    test_watch_tells_of_a_wipe: _Test = scenario(watching.test_watch_tells_of_a_wipe)
    test_watch_tells_everybody: _Test = scenario(watching.test_watch_tells_everybody)

    # Lifespan

    @scenario
    async def test_open_and_close_twice(self, bench: Bench) -> None:
        """`open` and `close` may each be called twice, and `close` without `open`."""
        store = _with_lifespan(bench)
        await store.close()
        await store.open()
        await store.open()
        key = make_key()
        await store.create(key, bench.record())
        assert await store.load(key) is not None
        await store.close()
        await store.close()

    @scenario
    async def test_open_after_close(self, bench: Bench) -> None:
        """A closed store can be opened again, and then works."""
        store = _with_lifespan(bench)
        for _ in range(2):
            await store.open()
            key = make_key()
            await store.create(key, bench.record())
            assert await store.load(key) is not None
            await store.close()

    @scenario
    async def test_use_without_open(self, bench: Bench) -> None:
        """A store that nobody opened opens itself on first use."""
        store = _with_lifespan(bench)
        assert await store.load(make_key()) is None
        key = make_key()
        await store.create(key, bench.record())
        assert await store.load(key) is not None


class _StoreWithUsers(Store, UserIndex, Protocol): ...


class _StoreWithScan(Store, Scan, Protocol): ...


class _StoreWithLifespan(Store, Lifespan, Protocol): ...


class _StoreWithWipe(Store, Wipe, Protocol): ...


def _with_wipe(bench: Bench) -> _StoreWithWipe:
    if not isinstance(bench.store, Wipe):
        raise SkipTest("the store has no wipe")
    return bench.store


def _with_users(bench: Bench) -> _StoreWithUsers:
    if not isinstance(bench.store, UserIndex):
        raise SkipTest("the store is no UserIndex")
    return bench.store


def _with_scan(bench: Bench) -> _StoreWithScan:
    if not isinstance(bench.store, Scan):
        raise SkipTest("the store is no Scan")
    return bench.store


async def _scanned(store: Scan, limit: int) -> set[str]:
    """Return all keys, which the store hands out a batch at a time."""
    found, after = await store.scan(limit)
    while after:
        keys, after = await store.scan(limit, after)
        found += keys
    return set(found)


def _with_lifespan(bench: Bench) -> _StoreWithLifespan:
    if not isinstance(bench.store, Lifespan):
        raise SkipTest("the store is no Lifespan")
    return bench.store
