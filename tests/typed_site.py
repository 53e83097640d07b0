"""A session manager and a browser, for the tests of typed sessions."""

import asyncio
from typing import Any

from roomkey import SessionManager
from roomkey.events import Misfit
from roomkey.stores.memory import MemoryStore
from roomkey.testing import Clock

SECRET = "a secret that is long enough for every test here"


class Site:
    """A manager, and a browser that keeps its cookie."""

    def __init__(self, **options):
        self.events: list[Any] = []
        self.clock = Clock()
        options = {
            "store": MemoryStore(clock=self.clock),
            "clock": self.clock,
            "on_event": self.events.append,
            **options,
        }
        self.manager = SessionManager(secret_key=SECRET, **options)
        self.card = ""
        self.headers: list[tuple[str, str]] = []

    async def load(self):
        return await self.manager.load(self.card)

    async def commit(self, session):
        """Commit a session, and keep the cookie. Returns the names of the headers."""
        self.headers = await self.manager.commit(session, status=200, headers=[])
        for name, value in self.headers:
            if name == "set-cookie":
                self.card = value.partition(";")[0]
        return [name for name, _ in self.headers]

    async def put(self, **content):
        session = await self.load()
        session.update(content)
        await self.commit(session)

    async def stored(self):
        return (await self.load()).copy()

    def misfits(self):
        return [(event.shape, event.field) for event in self.events if isinstance(event, Misfit)]


def run(coroutine):
    return asyncio.run(coroutine)
