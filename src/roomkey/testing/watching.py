"""The part of the conformance suite about stores that can be watched: `roomkey.stores.base.Watch`."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Protocol
from unittest import SkipTest

from roomkey.stores.base import Notice, Record, Store, Watch, What, Wipe

__all__: list[str] = []

_PATIENCE = 30.0  # seconds of real time until a notice has to come


class Bench(Protocol):
    """What one test works with."""

    store: Store

    def record(self, *, life: float = 3600.0, **fields: Any) -> Record: ...
    def tombstone(self, successor: str, *, life: float = 3600.0, **fields: Any) -> Record: ...


class _WatchedStore(Store, Watch, Protocol): ...


class _Heard:
    """What was told to one who watches."""

    def __init__(self) -> None:
        self.notices: list[Notice] = []
        self._more = asyncio.Event()

    def tell(self, notice: Notice) -> None:
        self.notices.append(notice)
        self._more.set()

    async def until(self, does_fit: Callable[[Notice], bool]) -> Notice:
        """Wait for a notice, and return it."""
        async with asyncio.timeout(_PATIENCE):
            while True:
                for notice in self.notices:
                    if does_fit(notice):
                        return notice
                self._more.clear()
                await self._more.wait()

    async def end_of(self, key: str) -> Notice:
        return await self.until(lambda notice: notice.what is What.WIPED or notice[:2] == (What.ENDED, key))


def _watched(bench: Bench) -> _WatchedStore:
    if not isinstance(bench.store, Watch):
        raise SkipTest("the store cannot be watched")
    bench.store.publish(changes=True)
    return bench.store


@asynccontextmanager
async def _watching(store: Watch, *keys: str, changes: bool = False) -> AsyncIterator[_Heard]:
    heard = _Heard()
    leave = store.watch(heard.tell, lambda: keys, changes=changes)
    try:
        await heard.until(lambda notice: notice.what is What.STANDS)
        yield heard
    finally:
        leave()


def _key(beside: str = "") -> str:
    """A key. `beside`: that of a session which is rotated to this one, and so has the same place."""
    return beside[:4] + secrets.token_hex(32)[len(beside[:4]) :]


async def test_watch_stands_first(contract: Any, bench: Bench) -> None:
    """The first that somebody hears who watches is that notices come, be it the first or the second to watch."""
    store = _watched(bench)
    async with _watching(store) as first, _watching(store) as second:
        assert first.notices[0] == second.notices[0] == Notice(What.STANDS)


async def test_watch_tells_of_a_deletion(contract: Any, bench: Bench) -> None:
    """A record that is deleted has ended, and is gone when that is told."""
    store, key = _watched(bench), _key()
    await store.create(key, bench.record())
    async with _watching(store, key) as heard:
        await store.delete(key)
        await heard.end_of(key)
        assert await store.load(key) is None


async def test_watch_tells_of_an_update_that_ends(contract: Any, bench: Bench) -> None:
    """A record that is updated to one that has expired has ended."""
    store, key = _watched(bench), _key()
    await store.create(key, bench.record())
    async with _watching(store, key) as heard:
        await store.update(key, bench.record(version=2, life=-1.0), version=1)
        await heard.end_of(key)
        assert await store.load(key) is None


async def test_watch_tells_of_a_rotation(contract: Any, bench: Bench) -> None:
    """A record that is rotated has moved, and the notice says where to. What happens there is told as well."""
    store, key = _watched(bench), _key()
    new_key = _key(key)
    await store.create(key, bench.record())
    async with _watching(store, key, new_key) as heard:
        await store.rotate(key, new_key, bench.record(version=2), bench.tombstone(new_key), version=1)
        await heard.until(lambda notice: notice[:3] == (What.MOVED, key, new_key))
        assert await store.load(new_key) is not None
        await store.delete(new_key)
        await heard.end_of(new_key)


async def test_watch_tells_of_a_change(contract: Any, bench: Bench) -> None:
    """A record that is replaced has changed, to those who want to know. The notice says its version, or 0."""
    store, key = _watched(bench), _key()
    await store.create(key, bench.record())
    async with _watching(store, key) as ends, _watching(store, key, changes=True) as changes:
        await store.update(key, bench.record(version=2), version=1)
        await changes.until(lambda notice: notice[:2] == (What.CHANGED, key) and notice.version in (0, 2))
        await store.delete(key)
        await changes.end_of(key)
        await ends.end_of(key)
        assert not [notice for notice in ends.notices if notice.what is What.CHANGED]


async def test_watch_tells_of_a_wipe(contract: Any, bench: Bench) -> None:
    """After `wipe`, one notice tells that all have ended, or one for each of them."""
    store, keys = _watched(bench), [_key(), _key()]
    if not isinstance(store, Wipe):
        raise SkipTest("the store has no wipe")
    for key in keys:
        await store.create(key, bench.record())
    async with _watching(store, *keys) as heard:
        await store.wipe()
        for key in keys:
            await heard.end_of(key)


async def test_watch_tells_everybody(contract: Any, bench: Bench) -> None:
    """All who watch are told, and nobody who has left."""
    store, key = _watched(bench), _key()
    await store.create(key, bench.record())
    async with _watching(store, key) as left:
        pass
    async with _watching(store, key) as first, _watching(store, key) as second:
        before = len(left.notices)
        await store.delete(key)
        await first.end_of(key)
        await second.end_of(key)
        assert len(left.notices) == before
