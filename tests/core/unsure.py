"""A store that does not answer some of its changes, and browsers whose sessions are in it."""

import asyncio
import contextlib

from roomkey import SessionEnded, SessionManager, StoreUnavailable
from roomkey.stores.base import Conflict
from roomkey.stores.memory import MemoryStore
from roomkey.wire import codec

__all__ = ["Browser", "UnsureStore"]


class UnsureStore(MemoryStore):
    """A store in memory. Its script says what becomes of the next changes that could be done.

    `"answers"`: it is done and answered. The others raise StoreUnavailable:
    `"done"`: it is done. `"lost"`: it is not.
    `"late"`: it is done after the next change, if it still can be. `"overtakes"`: just before that.
    """

    never_waits = True

    def __init__(self, **options):
        super().__init__(**options)
        self.script = []
        self._late = []

    async def _wait(self):
        """Do nothing: it never waits."""

    async def create(self, key, record):
        await self._wait()
        self._check_free(key, self._clock())
        await self._unsure(lambda: MemoryStore.create(self, key, record))

    async def update(self, key, record, *, version):
        await self._wait()
        self._check_unchanged(key, version, self._clock())
        await self._unsure(lambda: MemoryStore.update(self, key, record, version=version))

    async def rotate(self, key, new_key, record, tombstone, *, version):
        await self._wait()
        self._check_unchanged(key, version, self._clock())
        await self._unsure(lambda: MemoryStore.rotate(self, key, new_key, record, tombstone, version=version))

    async def delete(self, key):
        await self._unsure(lambda: MemoryStore.delete(self, key))

    async def _unsure(self, operation):
        mode = self.script.pop(0) if self.script else "answers"
        late, self._late = self._late, []
        for when, each in late:
            if when == "overtakes":
                await _if_it_can(each)
        try:
            if mode in ("answers", "done"):
                await operation()
        finally:
            for when, each in late:
                if when == "late":
                    await _if_it_can(each)
        if mode in ("late", "overtakes"):
            self._late.append((mode, operation))
        if mode != "answers":
            raise StoreUnavailable(f"the answer is lost: {mode}")

    async def arrive(self):
        """Do now what is still under way."""
        late, self._late = self._late, []
        for _, each in late:
            await _if_it_can(each)

    @contextlib.contextmanager
    def sure(self):
        """Answer everything inside."""
        script, self.script = self.script, []
        late, self._late = self._late, []
        yield
        self.script, self._late = script, late

    def live(self):
        """Return the content of each session that lives."""
        return [codec.decode(record.data) for record in self.live_records()]

    def live_records(self):
        return [each for each in self._records.values() if each.successor is None and each.expires_at > self._clock()]


class WaitingStore(UnsureStore):
    """The same, and other tasks run before it does anything."""

    never_waits = False

    async def load(self, key):
        await self._wait()
        return await super().load(key)

    async def _wait(self):
        await asyncio.sleep(0)


async def _if_it_can(operation):
    with contextlib.suppress(Conflict):
        await operation()


class Browser:
    """One browser, and requests of it; it keeps the newest cookie that a response gave it."""

    def __init__(self, *, waits=False, **options):
        self.store = WaitingStore() if waits else UnsureStore()
        self.manager = SessionManager(secret_key="k" * 32, store=self.store, **options)
        self.cookie = None

    async def save(self, session):
        """Save, and do not try for ever."""
        async with asyncio.timeout(20):
            await session.save()

    async def fails_to_save(self, session):
        """Whether a save is not answered."""
        try:
            await self.save(session)
        except StoreUnavailable:
            return True
        return False

    async def begin(self, **content):
        """Have a session with this content."""
        session = await self.manager.load(None)
        session.update(content)
        await self.answer(session)

    async def load(self):
        return await self.manager.load(self.cookie)

    async def answer(self, session, status=200):
        """Send the response of a request, whose cookie the browser keeps."""
        for name, value in await self.manager.commit(session, status=status, headers=[("x-app", "1")]):
            if name == "set-cookie":
                self.cookie = None if "max-age=0" in value.lower() else value.partition(";")[0]

    async def sees(self):
        """Return what the next request sees; None: it has no session."""
        with self.store.sure():
            session = await self.load()
            return None if session.is_new else session.copy()

    async def other_saves(self, session, act):
        """Let another request of the browser do something, and answer, while the store answers all that it asks."""
        with self.store.sure():
            act(session)
            with contextlib.suppress(SessionEnded):
                await session.save()
                await self.answer(session)
