"""GuardedStore: time limits, one kind of error, one line in the log for an outage."""

import asyncio
import contextlib
import logging
import re
from types import SimpleNamespace

import pytest

from roomkey.config import SessionConfig
from roomkey.errors import ConfigurationError, StoreUnavailable
from roomkey.stores.base import Conflict, Record
from roomkey.stores.guard import SETTLING, GuardedStore
from roomkey.stores.memory import MemoryStore
from roomkey.testing.clock import Clock
from tests.driver import Driver
from tests.loop_clock import loop_time

LIMIT = 0.05  # seconds
KEY = "a" * 64
OTHER = "b" * 64
RECORD = Record(b"\x01\x80", 1, 1000.0, 2000.0)
ENDED = Record(b"", 2, 1000.0, 1500.0)

OPERATIONS = {
    "load": lambda store: store.load(KEY),
    "create": lambda store: store.create(KEY, RECORD),
    "update": lambda store: store.update(KEY, RECORD, version=1),
    "rotate": lambda store: store.rotate(KEY, OTHER, RECORD, RECORD, version=1),
    "touch": lambda store: store.touch(KEY, 3000.0),
    "delete": lambda store: store.delete(KEY),
    "purge": lambda store: store.purge(10),
    "open": lambda store: store.open(),
}
every_operation = pytest.mark.parametrize("name", OPERATIONS)


class DriverError(Exception):
    """What a driver raises: nothing that Roomkey knows."""


class TroubledStore:
    """A store whose operations do what `trouble` says, first waiting where `waits` says so."""

    def __init__(self, trouble=None, waits=False):
        self.trouble = trouble
        self.waits = waits
        self.cancelled = 0

    async def _do(self):
        if self.waits:
            await asyncio.sleep(0)
        if self.trouble == "slow":
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        elif self.trouble is not None:
            raise self.trouble

    async def load(self, key):
        await self._do()

    async def create(self, key, record):
        await self._do()

    async def update(self, key, record, *, version):
        await self._do()

    async def rotate(self, key, new_key, record, tombstone, *, version):
        await self._do()

    async def touch(self, key, expires_at):
        await self._do()
        return True

    async def delete(self, key):
        await self._do()

    async def purge(self, limit):
        await self._do()
        return 3

    async def open(self):
        await self._do()

    async def close(self):
        await self._do()


@every_operation
async def test_slow_store(name):
    """An operation that takes too long is StoreUnavailable when the time is up, and is cancelled."""
    store = TroubledStore("slow")
    began = loop_time()
    with pytest.raises(StoreUnavailable, match=r"TroubledStore did not answer within 0\.05 s \(store_timeout\)"):
        await OPERATIONS[name](GuardedStore(store, LIMIT))
    assert loop_time() - began < 2 * LIMIT
    assert store.cancelled == 1


@every_operation
@pytest.mark.parametrize("waits", [False, True])
async def test_raising_store(name, waits):
    """A driver's error becomes StoreUnavailable that names store and error class and holds nothing of its text."""
    store = TroubledStore(DriverError(f"password=hunter2 key={KEY}"), waits)
    with pytest.raises(StoreUnavailable) as caught:
        await OPERATIONS[name](GuardedStore(store, LIMIT))
    first = TroubledStore._do.__code__.co_firstlineno
    said = r"TroubledStore failed: DriverError in _do, line (\d+) of test_guard\.py"
    place = re.fullmatch(said, str(caught.value))  # a store of the app's own has mistakes too
    assert place is not None and 0 < int(place[1]) - first < 20
    assert isinstance(caught.value.__cause__, DriverError)
    assert caught.value.retry_after > 0


async def test_a_store_that_is_not_async():
    """An operation that is a plain function is a mistake in the store, and no outage of it."""

    class Plain:
        def load(self, key):
            return None

    store = GuardedStore(Plain(), LIMIT)
    with pytest.raises(ConfigurationError, match=r"Plain returned NoneType; it has to be an `async def`"):
        await store.load(KEY)


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("error", [Conflict(), ConfigurationError("the path is a folder"), StoreUnavailable("full")])
async def test_errors_that_pass(error, waits):
    """Conflict, ConfigurationError and the store's own StoreUnavailable pass as they are."""
    store = TroubledStore(error, waits)
    with pytest.raises(type(error)) as caught:
        await GuardedStore(store, LIMIT).update(KEY, RECORD, version=1)
    assert caught.value is error


@pytest.mark.parametrize("waits", [False, True])
async def test_answers_pass(waits):
    """What the store answers comes back, whether it waits or not."""
    guarded = GuardedStore(TroubledStore(waits=waits), LIMIT)
    assert await guarded.touch(KEY, 1.0) is True
    assert await guarded.purge(10) == 3
    assert await guarded.load(KEY) is None


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("back", [None, Conflict()], ids=["answer", "conflict"])
async def test_one_line_an_outage(caplog, back):
    """An outage is logged once when it begins and once when it ends, without the driver's text, each time anew."""
    with caplog.at_level(logging.DEBUG, logger="roomkey"):
        store = TroubledStore()
        guarded = GuardedStore(store, LIMIT)
        for _ in range(2):
            for trouble in (DriverError("hunter2"), "slow", DriverError("hunter2")):
                store.trouble = trouble
                with pytest.raises(StoreUnavailable):
                    await guarded.load(KEY)
            for _ in range(3):
                store.trouble = back
                try:
                    await guarded.load(KEY)
                except Conflict:
                    pass
    lines = [record for record in caplog.records if record.name == "roomkey"]
    assert [record.levelno for record in lines] == [logging.ERROR, logging.WARNING] * 2
    assert "unavailable" in lines[0].getMessage()
    assert "available again" in lines[1].getMessage()
    assert "hunter2" not in caplog.text
    assert KEY not in caplog.text


async def test_no_outage_no_line(caplog):
    """A store that answers, also with Conflict, writes nothing into the log."""
    with caplog.at_level(logging.DEBUG, logger="roomkey"):
        guarded = GuardedStore(TroubledStore(), LIMIT)
        await guarded.load(KEY)
        with pytest.raises(Conflict):
            await GuardedStore(TroubledStore(Conflict()), LIMIT).create(KEY, RECORD)
    assert [record for record in caplog.records if record.name == "roomkey"] == []


async def test_cancellation_reaches_the_operation(caplog):
    """A cancelled request cancels its store operation; that is no outage."""
    with caplog.at_level(logging.DEBUG, logger="roomkey"):
        store = TroubledStore("slow")
        task = asyncio.create_task(GuardedStore(store, 30).load(KEY))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert store.cancelled == 1
    assert [record for record in caplog.records if record.name == "roomkey"] == []


async def test_plain_store_has_nothing_to_open_or_purge():
    """A store without Purge and Lifespan is neither purged nor opened, and that is fine."""

    class Plain:
        pass

    guarded = GuardedStore(Plain(), LIMIT)
    assert await guarded.purge(10) == 0
    await guarded.open()
    await guarded.close()


async def test_visit_over_a_slow_store():
    """store_timeout of the configuration is the limit for a visit: arriving and saving both give up in time."""

    class SlowStore(MemoryStore):
        slow = False

        async def load(self, key):
            if self.slow:
                await asyncio.sleep(30)
            return await super().load(key)

        async def update(self, key, record, *, version):
            await asyncio.sleep(30)

    clock = Clock(1000.0)
    store = SlowStore(clock=clock)
    life = Driver(SessionConfig(secret_key="k" * 32, store=store, clock=clock, store_timeout=LIMIT))
    visit = life.anonymous()
    visit.session["x"] = 1
    await visit.commit()
    visit.session["y"] = 1
    with pytest.raises(StoreUnavailable):
        await visit.commit()
    store.slow = True
    with pytest.raises(StoreUnavailable):
        await life.arrive([visit.card])


@pytest.mark.usefixtures("settled")
async def test_an_answer_from_before_the_outage_does_not_end_it(caplog):
    """What was asked before and is answered after an outage began says nothing about it: one line, not three."""
    store = TroubledStore(waits=True)
    guard = GuardedStore(store, LIMIT)
    early = guard.load(KEY)
    task = asyncio.create_task(early)
    await asyncio.sleep(0)  # it is under way
    store.trouble, store.waits = DriverError(), False
    with pytest.raises(StoreUnavailable):
        await guard.load(KEY)
    store.trouble = None
    await task
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    await guard.load(KEY)
    assert [record.levelno for record in caplog.records] == [logging.ERROR, logging.WARNING]


@pytest.mark.usefixtures("settled")
async def test_a_failure_of_before_the_end_does_not_begin_another_outage(caplog):
    """A frozen server comes back: what was asked while it was frozen may still time out after the first answer."""
    store = TroubledStore()
    store.trouble = DriverError()
    guard = GuardedStore(store, LIMIT)
    with pytest.raises(StoreUnavailable):
        await guard.load(KEY)
    store.trouble = "slow"
    late = asyncio.create_task(guard.load(KEY))
    await asyncio.sleep(0)  # it is under way
    store.trouble = None
    await guard.load(KEY)
    with pytest.raises(StoreUnavailable):
        await late
    levels = [logging.ERROR, logging.WARNING]
    assert [record.levelno for record in caplog.records] == levels
    store.trouble = DriverError()
    with pytest.raises(StoreUnavailable):
        await guard.load(KEY)
    assert [record.levelno for record in caplog.records] == [*levels, logging.ERROR]


@pytest.fixture
def guards_clock(monkeypatch):
    """Return the clock by which a guard says how long an outage has lasted."""
    clock = Clock()
    monkeypatch.setattr("roomkey.stores.guard.time", SimpleNamespace(monotonic=clock))
    return clock


async def test_an_outage_does_not_flap(caplog, guards_clock):
    """A server that shuts down answers some and fails others: that is one outage, over when it has settled."""
    store = TroubledStore()
    guard = GuardedStore(store, LIMIT)
    for trouble in (DriverError(), None, DriverError(), None):
        store.trouble = trouble
        with contextlib.suppress(StoreUnavailable):
            await guard.load(KEY)
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    guards_clock.advance(SETTLING + 0.01)
    await guard.load(KEY)
    assert [record.levelno for record in caplog.records] == [logging.ERROR, logging.WARNING]


@pytest.mark.usefixtures("settled")
async def test_a_store_that_takes_no_changes_is_down_until_it_takes_one(caplog, monkeypatch):
    """A full or read-only store answers reads: they do not end its outage, nor does a refused change begin another."""
    store = TroubledStore()
    guard = GuardedStore(store, LIMIT)
    for _ in range(3):
        store.trouble = DriverError()
        with pytest.raises(StoreUnavailable):
            await guard.update(KEY, RECORD, version=1)
        store.trouble = None
        await guard.load(KEY)
        store.trouble = Conflict()
        with pytest.raises(Conflict):
            await guard.update(KEY, RECORD, version=1)  # refused for its version: that needs no change
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    store.trouble = None
    await guard.touch(KEY, 3000.0)
    assert [record.levelno for record in caplog.records] == [logging.ERROR, logging.WARNING]


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize(
    "removal",
    [
        lambda guard: guard.delete(KEY),
        lambda guard: guard.update(KEY, ENDED, version=1),
        lambda guard: guard.purge(10),
    ],
)
async def test_what_needs_no_room_does_not_end_an_outage_of_changes(caplog, removal):
    """A full store goes on ending sessions: that is no sign that it takes new ones."""
    store = TroubledStore(DriverError())
    guard = GuardedStore(store, LIMIT)
    with pytest.raises(StoreUnavailable):
        await guard.create(KEY, RECORD)
    store.trouble = None
    await removal(guard)
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    await guard.create(KEY, RECORD)
    assert [record.levelno for record in caplog.records] == [logging.ERROR, logging.WARNING]


async def test_an_outage_of_changes_does_not_flap(caplog, guards_clock):
    """A store that is nearly full takes some changes and refuses others: one outage, over when it refuses no more."""
    store = TroubledStore()
    guard = GuardedStore(store, LIMIT)
    for _ in range(3):
        store.trouble = DriverError()
        with pytest.raises(StoreUnavailable):
            await guard.create(KEY, RECORD)
        store.trouble = None
        guards_clock.advance(0.6 * SETTLING)  # the second time, longer than that since the outage began
        await guard.create(KEY, RECORD)
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    guards_clock.advance(0.6 * SETTLING)
    await guard.create(KEY, RECORD)
    assert [record.levelno for record in caplog.records] == [logging.ERROR, logging.WARNING]


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("sign", ["read refused too", "no change refused for long"])
async def test_an_outage_that_began_with_a_change_ends_without_one(caplog, monkeypatch, sign):
    """A read ends it where reads failed as well, and where nobody has tried a change for a while."""
    store = TroubledStore(DriverError())
    guard = GuardedStore(store, LIMIT)
    with pytest.raises(StoreUnavailable):
        await guard.create(KEY, RECORD)
    if sign == "read refused too":
        with pytest.raises(StoreUnavailable):
            await guard.load(KEY)
    else:
        monkeypatch.setattr("roomkey.stores.guard._CHANGES_AGAIN", 0.0)
    store.trouble = None
    await guard.load(KEY)
    assert [record.levelno for record in caplog.records] == [logging.ERROR, logging.WARNING]
