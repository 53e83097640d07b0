"""Requests and their tasks in any order, over a store that waits, fails, loses its answers and is cut off.

What a session was told to be saved is in the store in the end, once, whatever became of the other saves.
"""

import asyncio
import contextlib
import random
from collections import Counter

import pytest

from roomkey import ResponseStarted, SessionEnded, SessionManager, StoreUnavailable
from roomkey.stores.base import Conflict
from roomkey.stores.memory import MemoryStore
from roomkey.wire import codec


class CutOff(Exception):
    """What a task of a request awaited was cancelled."""


TOLD = (StoreUnavailable, SessionEnded, ResponseStarted, CutOff)


class Stormy(MemoryStore):
    """Lets other tasks in around each operation. Some fail before they are done, some after, and some are done late."""

    never_waits = False

    def __init__(self, chance, failing):
        super().__init__()
        self.chance, self.failing, self.late = chance, failing, set()

    async def _pass(self, operation, *, changes=True):
        for _ in range(self.chance.randrange(4)):
            await asyncio.sleep(0)
        if self.chance.random() >= (self.failing if changes else self.failing / 3):
            answer = await operation()
            for _ in range(self.chance.randrange(4)):
                await asyncio.sleep(0)
            return answer
        how = self.chance.choice(["before", "after", "late"]) if changes else "before"
        if how == "after":
            await operation()
        elif how == "late":
            self.late.add(asyncio.create_task(self._later(operation)))
        raise OSError

    async def _later(self, operation):
        for _ in range(self.chance.randrange(60)):
            await asyncio.sleep(0)
        with contextlib.suppress(Conflict):
            await operation()

    async def load(self, key):
        return await self._pass(lambda: MemoryStore.load(self, key), changes=False)

    async def create(self, key, record):
        await self._pass(lambda: MemoryStore.create(self, key, record))

    async def update(self, key, record, *, version):
        await self._pass(lambda: MemoryStore.update(self, key, record, version=version))

    async def rotate(self, key, new_key, record, tombstone, *, version):
        await self._pass(lambda: MemoryStore.rotate(self, key, new_key, record, tombstone, version=version))

    async def touch(self, key, expires_at):
        return await self._pass(lambda: MemoryStore.touch(self, key, expires_at))


class Storm:
    def __init__(self, seed, *, failing, cutting):
        self.chance = random.Random(seed)
        self.cutting = cutting
        self.store = Stormy(self.chance, 0.0)
        self.manager = SessionManager(secret_key="k" * 32, store=self.store)
        self.failing = failing
        self.saved, self.number = set(), 0

    async def blow(self):
        """Run some requests of one browser, and return what its session holds in the end."""
        session = await self.manager.load()
        session["x"] = 1
        cookie = dict(await self.manager.commit(session))["set-cookie"].partition(";")[0]
        self.store.failing = self.failing
        await asyncio.gather(*(self.request(cookie) for _ in range(self.chance.randrange(2, 5))))
        self.store.failing = 0.0
        while pending := self.store.late | self.manager._committer.unfinished.tasks:
            await asyncio.wait(pending)
            self.store.late = {task for task in self.store.late if not task.done()}
        (left,) = [record for record in self.store._records.values() if record.successor is None]
        return codec.decode(left.data)

    async def request(self, cookie):
        for _ in range(self.chance.choice([0, 1, 20])):
            await asyncio.sleep(0)
        with contextlib.suppress(*TOLD):
            session, unsaved = await self.manager.load(cookie), []
            if not session.is_new:
                await asyncio.gather(*(self.task(session, unsaved) for _ in range(self.chance.randrange(1, 4))))
                await self.acknowledged(session, unsaved, self.manager.commit(session))

    async def task(self, session, unsaved):
        for _ in range(self.chance.randrange(3, 12)):
            deed = self.chance.choice(["change", "assign", "save", "save", "save", "refresh", "rotate"])
            if deed in ("change", "assign"):
                self.number += 1
                unsaved.append(self.number)
            if deed == "change":
                session.change("log", lambda log, number=self.number: [*log, number], default=[])
            elif deed == "assign":
                session[f"k{self.number}"] = True
            elif deed == "rotate":
                session.rotate()
            with contextlib.suppress(*TOLD):
                if deed == "save":
                    await self.acknowledged(session, unsaved, self.cut_off(session.save()))
                elif deed == "refresh":
                    await self.cut_off(session.refresh())

    async def acknowledged(self, session, unsaved, saving):
        """Await a save. What was done to the session before it began is saved, if it says so and the session lives."""
        asked = list(unsaved)
        await saving
        if session.handle:
            self.saved.update(asked)

    async def cut_off(self, work):
        """Await something, or cancel it on the way."""
        task = asyncio.ensure_future(work)
        if self.chance.random() < self.cutting:
            for _ in range(self.chance.randrange(12)):
                await asyncio.sleep(0)
            task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            raise CutOff from None


@pytest.mark.parametrize(("failing", "cutting"), [(0.0, 0.0), (0.0, 0.3), (0.3, 0.0), (0.2, 0.2)])
@pytest.mark.parametrize("seed", range(40))
async def test_what_was_saved_is_there_once(seed, failing, cutting):
    """No change is lost that a save acknowledged, and none counts twice."""
    storm = Storm(seed, failing=failing, cutting=cutting)
    data = await storm.blow()
    logged = Counter(data.get("log", ()))
    kept = set(logged) | {int(key[1:]) for key in data if key.startswith("k")}
    assert not [number for number, times in logged.items() if times > 1]
    assert not storm.saved - kept
