"""Migrating on a network: whatever is late, lost or frozen, what has ended stays ended and what lives is found."""

import asyncio
import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roomkey import SessionConfig, StoreUnavailable
from roomkey.stores import migrating
from roomkey.stores.base import Conflict, Record
from roomkey.stores.memory import MemoryStore
from roomkey.stores.migrating import Migrating
from roomkey.testing import Clock
from tests.driver import Driver

KEY, OTHER = "ab" * 32, "cd" * 32
LIVES = 3600  # seconds
ENDS = ["log out", "delete", "revoke all", "wipe", "rotate and log out"]


class Network:
    """Holds each operation back until the test lets it through."""

    def __init__(self):
        self.waiting = []  # operations that nobody has done yet, each with the future of who waits for it
        self.late = []  # writes whose answer is not awaited any more, still on their way

    async def pass_on(self, operation, is_write):
        answer = asyncio.get_running_loop().create_future()
        self.waiting.append((operation, is_write, answer))
        return await answer

    async def calm(self):
        """Let all tasks run until they wait for the network."""
        for _ in range(6):
            await asyncio.sleep(0)

    async def do(self, index=0, *, answers=True):
        operation, _, answer = self.waiting.pop(index)
        value, error = None, None
        try:
            value = await operation()
        except Conflict as conflict:
            error = conflict
        if not answers:
            error = StoreUnavailable("the answer was lost")
        if not answer.done():
            if error is None:
                answer.set_result(value)
            else:
                answer.set_exception(error)

    def delay(self, index=0):
        operation, _, answer = self.waiting.pop(index)
        self.late.append(operation)
        if not answer.done():
            answer.set_exception(StoreUnavailable("it timed out"))

    async def land(self, index=0):
        with contextlib.suppress(Conflict):
            await self.late.pop(index)()


class Far(MemoryStore):
    """A store at the other end of a network."""

    def __init__(self, network, **options):
        super().__init__(**options)
        self.network = network

    async def load(self, key):
        return await self.network.pass_on(lambda: MemoryStore.load(self, key), False)

    async def of_user(self, user):
        return await self.network.pass_on(lambda: MemoryStore.of_user(self, user), False)

    async def create(self, key, record):
        await self.network.pass_on(lambda: MemoryStore.create(self, key, record), True)

    async def update(self, key, record, *, version):
        await self.network.pass_on(lambda: MemoryStore.update(self, key, record, version=version), True)

    async def rotate(self, *args, version):
        await self.network.pass_on(lambda: MemoryStore.rotate(self, *args, version=version), True)

    async def touch(self, key, expires_at):
        return await self.network.pass_on(lambda: MemoryStore.touch(self, key, expires_at), True)

    async def delete(self, key):
        await self.network.pass_on(lambda: MemoryStore.delete(self, key), True)

    async def wipe(self):
        await self.network.pass_on(lambda: MemoryStore.wipe(self), True)


class World:
    """Two stores, and the workers that move one session between them."""

    def __init__(self):
        self.network, self.clock = Network(), Clock(1_000_000.0)
        self.new, self.old = Far(self.network, clock=self.clock), Far(self.network, clock=self.clock)
        now = self.clock()
        self.record = Record(b"data", 3, now, now + LIVES, user="42")
        self.old._put(KEY, self.record)
        self.has_ended = False
        self.wants_end = False
        self.revived = []

    def worker(self):
        return Migrating(self.new, self.old, clock=self.clock)

    async def look(self):
        """Load the session, as a request does; one that starts after the session has ended must not find it."""
        ended_before = self.has_ended
        store = self.worker()
        try:
            found = await store.load(KEY)
            if found is not None and found.successor is None:
                await store.touch(KEY, self.clock() + LIVES)
                if ended_before:
                    self.revived.append(found)
            listed = await store.of_user("42")
            if ended_before and listed:
                self.revived.append(listed)
        except StoreUnavailable:
            pass

    async def end(self, how):
        """End the session, as the registry does; try again where the store does not answer."""
        store = self.worker()
        self.wants_end = True
        for _ in range(6):
            try:
                await getattr(self, "_" + how.replace(" ", "_"))(store)
            except (StoreUnavailable, Conflict):
                continue
            self.has_ended = True
            return

    async def _log_out(self, store, key=KEY):
        record = await store.load(key)
        if record is None:
            return
        if record.successor is not None:
            await self._log_out(store, record.successor)
            return
        await self._end_at(store, key, record)

    async def _end_at(self, store, key, record):
        now = self.clock()
        ended = Record(b"", record.version + 1, record.created_at, now, user="42")
        await store.update(key, ended, version=record.version)
        await store.delete(key)

    async def _delete(self, store):
        await store.delete(KEY)

    async def _revoke_all(self, store):
        for key, record in await store.of_user("42"):
            await self._end_at(store, key, record)

    async def _wipe(self, store):
        await store.wipe()

    async def _rotate_and_log_out(self, store):
        record = await store.load(KEY)
        if record is not None and record.successor is None:
            now = self.clock()
            moved = Record(record.data, record.version + 1, now, now + 60, user="42")
            left = Record(b"\x01", record.version + 1, now, now + 60, user="42", successor=OTHER)
            await store.rotate(KEY, OTHER, moved, left, version=record.version)
        await self._log_out(store)

    async def finish(self, tasks):
        """Let everything through that still waits."""
        while not all(task.done() for task in tasks) or self.network.waiting:
            await self.network.calm()
            if self.network.waiting:
                await self.network.do()
            else:
                await asyncio.sleep(0.001)
        await asyncio.gather(*tasks)

    async def check(self):
        """Look again when all that was late has arrived."""
        while self.network.late:
            await self.network.land()
        for seconds in (0, 11, 60):
            self.clock.advance(seconds)
            await self.finish([asyncio.create_task(self.look())])
        assert self.revived == []
        if not self.wants_end:
            found = asyncio.create_task(self.worker().load(KEY))
            await self.finish([found])
            assert found.result() is not None and found.result().data == b"data"
            listed = asyncio.create_task(self.worker().of_user("42"))
            await self.finish([listed])
            assert [key for key, _ in listed.result()] == [KEY]


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(migrating, "_PAUSE", 0.0)
    monkeypatch.setattr(migrating, "_TRIES", 6)


@pytest.mark.parametrize("how", ENDS)
async def test_a_create_that_lands_at_any_moment_revives_nothing(how):
    """One worker's write times out and lands at each later moment, while another moves the session and ends it."""
    for late in range(5):  # which of the first worker's writes
        for moment in range(24):  # after how many operations of the others it lands
            for frozen in (False, True):
                world = World()
                network = world.network
                first = asyncio.create_task(world.look())
                await network.calm()
                writes = 0
                while network.waiting and not first.done():
                    is_write = network.waiting[0][1]
                    if is_write and writes == late:
                        network.delay()
                        break
                    writes += is_write
                    await network.do()
                    await network.calm()
                if frozen:  # for 11 s: the others go on meanwhile
                    world.clock.advance(11)
                others = [first, asyncio.create_task(world.end(how))]
                for _ in range(moment):
                    await network.calm()
                    if network.waiting:
                        await network.do()
                while network.late:
                    await network.land()
                await world.finish(others)
                await world.check()


@settings(max_examples=200)
@given(
    tape=st.lists(st.integers(0, 11), max_size=80),
    ends=st.lists(st.sampled_from(ENDS), max_size=2),
    looks=st.integers(1, 3),
)
def test_no_interleaving_revives_or_loses_a_session(tape, ends, looks):
    """Whatever is late, lost or frozen, and in whatever order: what has ended stays ended, and what lives is found."""
    asyncio.run(_interleaved(tape, ends, looks))


async def _interleaved(tape, ends, looks):
    world = World()
    network = world.network
    tasks = [asyncio.create_task(world.look()) for _ in range(looks)]
    tasks += [asyncio.create_task(world.end(how)) for how in ends]
    late = 0
    for number in tape:
        await network.calm()
        if number == 11:
            world.clock.advance(11)
        elif number == 10:
            tasks.append(asyncio.create_task(world.look()))
        elif number == 9 and network.late:
            await network.land(late % len(network.late))
            late += 1
        elif network.waiting:
            index = number // 3 % len(network.waiting)
            is_write = network.waiting[index][1]
            if number % 3 == 1 and is_write:
                network.delay(index)
            else:
                await network.do(index, answers=number % 3 != 2 or not is_write)
    await world.finish(tasks)
    await world.check()


async def test_a_late_create_does_not_log_in_again():
    """As requests see it: a time limit in one worker, a log-out in another, and the packet of the first arrives."""
    clock = Clock(1_000_000.0)
    late = []

    class New(MemoryStore):
        async def create(self, key, record):
            if not late:
                late.append((key, record))
                raise StoreUnavailable("timed out, and still on its way")
            await super().create(key, record)

    new, old = New(clock=clock), MemoryStore(clock=clock)

    def worker():
        return Driver(SessionConfig(secret_key="k" * 32, store=Migrating(new, old, clock=clock), clock=clock))

    before = Driver(SessionConfig(secret_key="k" * 32, store=old, clock=clock)).anonymous()
    before.session["user_id"] = 42
    await before.commit()
    with pytest.raises(StoreUnavailable):
        await worker().arrive([before.card])
    visit = await worker().arrive([before.card])
    assert visit.session == {"user_id": 42}
    visit.session.clear()
    await visit.commit()
    with pytest.raises(Conflict):  # what the log-out has left is in its way
        await MemoryStore.create(new, *late[0])
    assert (await worker().arrive([before.card])).session == {}
    assert await worker().manager.sessions.of(42) == []
    alone = Driver(SessionConfig(secret_key="k" * 32, store=new, clock=clock))
    assert (await alone.arrive([before.card])).session == {}
    assert await alone.manager.sessions.of(42) == []


async def test_an_arrival_that_the_old_store_does_not_name_is_nothing():
    """The last step of the move failed, the session was rotated, and its tombstone is gone when the packet arrives."""
    clock = Clock(1_000_000.0)
    new, old = MemoryStore(clock=clock), MemoryStore(clock=clock)
    record = Record(b"data", 3, clock(), clock() + LIVES, user="42")
    await old.create(KEY, record)
    store = Migrating(new, old, clock=clock)
    late = []

    async def times_out(key, record):
        late.append((key, record))
        raise StoreUnavailable("timed out")

    new.create = times_out
    with pytest.raises(StoreUnavailable):
        await store.load(KEY)
    del new.create

    async def fails(key):
        raise StoreUnavailable("down")

    old.delete = fails
    found = await store.load(KEY)
    moved = Record(b"data", 4, clock(), clock() + 60, user="42")
    left = Record(b"\x01", 4, clock(), clock() + 60, user="42", successor=OTHER)
    await store.rotate(KEY, OTHER, moved, left, version=found.version)
    clock.advance(61)
    await new.create(*late[0])
    assert await store.of_user("42") == []
    assert await store.load(KEY) is None
    assert await store.of_user("42") == []


async def test_what_has_ended_does_not_come_back_with_the_old_store():
    """An old store that was set back to an earlier moment, as by a failover, brings no session back."""
    clock = Clock(1_000_000.0)
    new, old = MemoryStore(clock=clock), MemoryStore(clock=clock)
    record = Record(b"data", 3, clock(), clock() + LIVES, user="42")
    await old.create(KEY, record)
    store = Migrating(new, old, clock=clock)
    found = await store.load(KEY)
    await store.update(KEY, Record(b"", 4, clock(), clock(), user="42"), version=found.version)
    await store.delete(KEY)
    await old.create(KEY, record)
    assert await store.load(KEY) is None
    assert await store.of_user("42") == []
    assert not await store.touch(KEY, clock() + 2 * LIVES)
    clock.advance(LIVES)
    assert await store.purge(10) == 2
