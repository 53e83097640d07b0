"""A store in memory whose notices a test gives, and stores of which records are kept near."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from roomkey.stores import near as near_module
from roomkey.stores.base import Record
from roomkey.stores.guard import GuardedStore
from roomkey.stores.memory import MemoryStore
from roomkey.stores.near import Listeners, Near
from roomkey.testing import Clock


class Said:
    """Notices that a test gives."""

    def __init__(self) -> None:
        self.listeners = Listeners()
        self.is_heard = True  # whether everything was heard
        self.is_complete = True

    def add(self, listener: Any, max_age: float) -> None:
        self.listeners.add(listener, max_age)

    def hold(self, max_age: float) -> bool:
        return self.is_heard

    def begin(self) -> None:
        pass

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass


class ToldStore(MemoryStore):
    """A store that waits, and counts its loads."""

    never_waits = False

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.said = Said()
        self.loads = 0

    def notices(self) -> Said:
        return self.said

    async def load(self, key: str) -> Record | None:
        self.loads += 1
        found = await super().load(key)
        await asyncio.sleep(0)  # on its way back
        return found

    async def create(self, key: str, record: Record) -> None:
        await asyncio.sleep(0)
        await super().create(key, record)
        await asyncio.sleep(0)

    async def update(self, key: str, record: Record, *, version: int) -> None:
        await asyncio.sleep(0)
        await super().update(key, record, version=version)
        await asyncio.sleep(0)


@contextmanager
def elsewhere() -> Iterator[None]:
    """Let what is done inside be done by another process, of which no notice has come so far."""
    with mock.patch.object(near_module, "_nears", []):
        yield


class Kept:
    """A store of which records are kept near, as a store: loads are served from memory where they can be."""

    def __init__(self, store: Any, clock: Clock, most: int = 100) -> None:
        self.store = store
        self.guard = GuardedStore(store, 60.0)
        ticks = mock.Mock(time=clock)
        self.near = Near(self.guard, store.notices(), most=most, max_age=1.0, ticks=ticks)

    def __getattr__(self, name: str) -> Any:
        getattr(self.store, name)  # what the store has not, this one has not
        return getattr(self.guard, name)

    async def load(self, key: str) -> Record | None:
        answer = self.near.load_now(key)
        return await answer if asyncio.iscoroutine(answer) else answer

    async def create(self, key: str, record: Record) -> None:
        await self.guard.create(key, record)

    async def update(self, key: str, record: Record, *, version: int) -> None:
        await self.guard.update(key, record, version=version)

    async def rotate(self, key: str, new_key: str, record: Record, tombstone: Record, *, version: int) -> None:
        await self.guard.rotate(key, new_key, record, tombstone, version=version)

    async def touch(self, key: str, expires_at: float) -> bool:
        return await self.guard.touch(key, expires_at)

    async def delete(self, key: str) -> None:
        await self.guard.delete(key)

    async def of_user(self, user: str) -> list[tuple[str, Record]]:
        return await self.guard.of_user(user)

    async def scan(self, limit: int, after: str = "") -> tuple[list[str], str]:
        return await self.guard.scan(limit, after)

    async def wipe(self) -> None:
        await self.guard.wipe()

    async def open(self) -> None:
        await self.guard.open()
        await self.near.notices.open()

    async def close(self) -> None:
        await self.guard.close()
