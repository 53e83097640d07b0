"""What the tests of a session's life share: a clock that they move, a store that counts, and sessions in it."""

import asyncio
from collections import Counter

from roomkey.config import SessionConfig
from roomkey.core.reply import Cookie
from roomkey.stores.memory import MemoryStore
from roomkey.testing.clock import Clock
from roomkey.wire import codec
from tests.driver import Driver

MAX_AGE = 1000.0  # seconds
START = 1_000_000.0  # Unix time in seconds


class CountingStore(MemoryStore):
    """A memory store that counts its operations and lets other tasks in before each."""

    def __init__(self, **options):
        super().__init__(**options)
        self.asked = Counter()

    async def _count(self, name):
        self.asked[name] += 1
        await asyncio.sleep(0)

    async def load(self, key):
        await self._count("load")
        return await super().load(key)

    async def create(self, key, record):
        await self._count("create")
        await super().create(key, record)

    async def update(self, key, record, *, version):
        await self._count("update")
        await super().update(key, record, version=version)

    async def rotate(self, key, new_key, record, tombstone, *, version):
        await self._count("rotate")
        await super().rotate(key, new_key, record, tombstone, version=version)

    async def touch(self, key, expires_at):
        await self._count("touch")
        return await super().touch(key, expires_at)

    async def delete(self, key):
        await self._count("delete")
        await super().delete(key)


class World:
    """One app: a clock, a store and the lifecycle over them."""

    def __init__(self, *, store=None, **options):
        self.clock = Clock(START)
        self.store = CountingStore(clock=self.clock) if store is None else store
        settings = {"secret_key": "k" * 32, "max_age": MAX_AGE, **options}
        self.life = Driver(SessionConfig(store=self.store, clock=self.clock, **settings))

    async def begin(self, **data):
        """Return the card of a new session with this data; counting starts after it."""
        visit = self.life.anonymous()
        visit.session.update(data)
        await visit.commit()
        assert visit.cookie is Cookie.GIVE
        self.store.asked.clear()
        return visit.card

    async def arrive(self, card):
        return await self.life.arrive([card])

    async def two(self, card):
        return await self.arrive(card), await self.arrive(card)

    async def data(self, card):
        """Return what a new request with this card sees; None: no session."""
        visit = await self.arrive(card)
        return None if visit.record is None else visit.session.copy()

    def live(self):
        """Return the data of every live session in the store."""
        return [
            codec.decode(record.data)
            for record in self.store._records.values()
            if record.successor is None and record.expires_at > self.clock()
        ]
