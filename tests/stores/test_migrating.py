"""Migrating: sessions move from one store to another, each once, and nobody is logged out."""

import asyncio
import tempfile
import time
from pathlib import Path

import pytest

from roomkey import ConfigurationError, SessionConfig, StoreUnavailable
from roomkey.core.reply import Cookie
from roomkey.stores.base import Conflict, Purge, Record, Store, UserIndex, Wipe
from roomkey.stores.memory import MemoryStore
from roomkey.stores.migrating import Migrating
from roomkey.stores.sqlite import SQLiteStore
from roomkey.testing import Clock, StoreContract
from tests.driver import Driver


class TestMigrating(StoreContract):
    """Everything is in the new store from the start."""

    async def make(self, clock: Clock) -> Store:
        return Migrating(MemoryStore(clock=clock), MemoryStore(clock=clock), clock=clock)


class _FilledOld(Migrating):
    """Whatever is made is put into the old store, as if it had been there before."""

    async def create(self, key, record):
        if await self.load(key) is not None:
            raise Conflict
        await self._new.delete(key)  # what stays in the place of a session that has ended
        await self._old.create(key, record)

    async def rotate(self, key, new_key, record, tombstone, *, version):
        await self.load(new_key)  # the suite takes a key on purpose; a real one is random, and never in the old store
        await super().rotate(key, new_key, record, tombstone, version=version)


class TestMigratingFromOld(StoreContract):
    """Everything that is asked for is still in the old store."""

    async def make(self, clock: Clock) -> Store:
        return _FilledOld(MemoryStore(clock=clock), MemoryStore(clock=clock), clock=clock)


class TestMigratingOnSQLite(StoreContract):
    """The same, in files: what a move leaves there is kept by an engine."""

    def setup_method(self) -> None:
        self.directory = tempfile.TemporaryDirectory()

    def teardown_method(self) -> None:
        self.directory.cleanup()

    async def make(self, clock: Clock) -> Store:
        new, old = (SQLiteStore(Path(self.directory.name) / f"{name}.db", clock=clock) for name in ("new", "old"))
        return _FilledOld(new, old, clock=clock)


class _Slow(MemoryStore):
    """Lets other tasks run before and after each operation."""

    async def load(self, key):
        await asyncio.sleep(0)
        found = await super().load(key)
        await asyncio.sleep(0)
        return found

    async def create(self, key, record):
        await asyncio.sleep(0)
        await super().create(key, record)
        await asyncio.sleep(0)

    async def update(self, key, record, *, version):
        await asyncio.sleep(0)
        await super().update(key, record, version=version)
        await asyncio.sleep(0)

    async def delete(self, key):
        await asyncio.sleep(0)
        await super().delete(key)
        await asyncio.sleep(0)


KEY = "ab" * 32
CLOCK = Clock(1_000_000.0)


def _record(**fields):
    return Record(**{"data": b"data", "version": 3, "created_at": CLOCK(), "expires_at": CLOCK() + 3600, **fields})


async def _holds_session(new):
    record = await new.load(KEY)
    return record is not None and (record.data == b"data" or record.user is not None)


def _stores(kind=_Slow):
    new, old = kind(clock=CLOCK), kind(clock=CLOCK)
    return new, old, Migrating(new, old, clock=CLOCK)


async def test_a_session_moves_when_it_is_first_asked_for():
    """A load finds the record unchanged, and from then on it is in the new store only."""
    new, old, store = _stores()
    record = _record(user="42", about=b"A")
    await old.create(KEY, record)
    assert await store.load(KEY) == record
    assert await new.load(KEY) == record
    assert await old.load(KEY) is None
    assert await store.load(KEY) == record


async def test_many_first_requests_at_once_all_find_it():
    """Concurrent first loads move the session once, and each of them gets it."""
    _, old, store = _stores()
    record = _record()
    await old.create(KEY, record)
    assert await asyncio.gather(*(store.load(KEY) for _ in range(20))) == [record] * 20
    assert await old.load(KEY) is None


async def test_a_log_out_is_final_while_others_move_it():
    """A session that one request moved and ended is not moved again by another that had found it in the old store."""
    for delay in range(40):
        new, old, store = _stores()
        await old.create(KEY, _record())

        async def late(store=store, delay=delay):
            for _ in range(delay):
                await asyncio.sleep(0)
            return await store.load(KEY)

        async def leave(store=store):
            record = await store.load(KEY)
            ended = _record(version=record.version + 1, expires_at=CLOCK() - 1)
            await store.update(KEY, ended, version=record.version)
            await store.delete(KEY)

        others = [asyncio.create_task(late()) for _ in range(3)]
        await leave()
        assert await store.load(KEY) is None
        await asyncio.gather(*others, return_exceptions=True)
        assert await store.load(KEY) is None
        assert not await _holds_session(new)


async def test_a_failing_new_store_leaves_the_session_in_the_old_one():
    """When the new store is down, the move fails loudly and the session stays where it was."""

    class Down(MemoryStore):
        down = True

        async def create(self, key, record):
            if self.down:
                raise StoreUnavailable("down")
            await super().create(key, record)

    new, old = Down(clock=CLOCK), MemoryStore(clock=CLOCK)
    store = Migrating(new, old, clock=CLOCK)
    record = _record()
    await old.create(KEY, record)
    with pytest.raises(StoreUnavailable):
        await store.load(KEY)
    there = await old.load(KEY)
    assert there is not None and (there.data, there.user) == (record.data, record.user)
    new.down = False
    found = await store.load(KEY)
    assert found is not None and found.data == record.data


async def test_a_failing_old_store_is_no_log_out():
    """When the old store is down, what the new one does not have is unknown, not absent."""

    class Down(MemoryStore):
        async def load(self, key):
            raise StoreUnavailable("down")

    with pytest.raises(StoreUnavailable):
        await Migrating(MemoryStore(), Down()).load(KEY)


async def test_a_move_that_was_killed_loses_nothing():
    """A session that was taken and never arrived is unavailable for a moment, and then moved by another request."""
    clock = Clock(1_000_000.0)
    new, old = MemoryStore(clock=clock), MemoryStore(clock=clock)

    async def dies(key, record):
        raise KeyboardInterrupt

    record = _record(user="42")
    await old.create(KEY, record)
    new.create = dies
    moving = Migrating(new, old, clock=clock)
    old_update, calls = old.update, []

    async def only_once(*args, **options):  # the process is gone before it can give it back
        calls.append(args)
        if len(calls) > 1:
            raise OSError
        await old_update(*args, **options)

    old.update = only_once
    with pytest.raises(KeyboardInterrupt):
        await moving.load(KEY)
    await moving.close()
    del new.create
    old.update = old_update
    store = Migrating(new, old, clock=clock)
    assert await store.of_user("42") == [(KEY, record)]  # listed meanwhile, as it is
    with pytest.raises(StoreUnavailable):
        await store.load(KEY)
    clock.advance(11)
    assert await store.load(KEY) == record
    assert await old.load(KEY) is None


@pytest.mark.parametrize("lost", [1, 2])
async def test_an_answer_that_is_lost_loses_no_session(lost):
    """The first step's, or the last one's: the session is there again a while later, once."""
    clock = Clock(1_000_000.0)
    new, old = MemoryStore(clock=clock), MemoryStore(clock=clock)
    record = _record(user="42")
    await old.create(KEY, record)
    update, calls = old.update, []

    async def lossy(*args, **options):
        calls.append(args)
        await update(*args, **options)
        if len(calls) == lost:
            raise StoreUnavailable("the answer was lost")

    old.update = lossy
    store = Migrating(new, old, clock=clock)
    with pytest.raises(StoreUnavailable, match="lost"):
        await store.load(KEY)
    clock.advance(11)
    assert await store.load(KEY) == record
    assert await store.of_user("42") == [(KEY, record)]


async def test_a_move_that_is_cancelled_gives_the_session_back():
    """A request whose time is up leaves the session where the next one finds it, and waits for nothing."""

    class Hangs(MemoryStore):
        hangs = True

        async def create(self, key, record):
            if self.hangs:
                await asyncio.Event().wait()
            await super().create(key, record)

    new, old = Hangs(clock=CLOCK), MemoryStore(clock=CLOCK)
    store = Migrating(new, old, clock=CLOCK)
    record = _record()
    await old.create(KEY, record)
    moving = asyncio.create_task(store.load(KEY))
    await asyncio.sleep(0.01)
    moving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await moving
    await store.close()  # waits for what it left
    new.hangs = False
    found = await store.load(KEY)
    assert found is not None and found.data == record.data


async def test_both_stores_silent_is_no_endless_wait():
    """The time limit holds, and nothing stays behind that waits for ever."""

    class Silent(MemoryStore):
        silent = False

        async def create(self, key, record):
            if self.silent:
                await asyncio.Event().wait()
            await super().create(key, record)

        async def update(self, key, record, *, version):
            await super().update(key, record, version=version)
            if self.silent:
                await asyncio.Event().wait()

    async with asyncio.timeout(5):
        new, old = Silent(), Silent()
        life = Driver(SessionConfig(secret_key="k" * 32, store=Migrating(new, old), store_timeout=0.1))
        await old.create(KEY, Record(b"data", 3, time.time(), time.time() + 3600))
        new.silent = old.silent = True
        with pytest.raises(StoreUnavailable):
            await life.store.load(KEY)


async def test_a_new_store_that_is_full_logs_nobody_out():
    """However many ask at once, each is told that it is unavailable, and none that there is no session."""

    class Full(_Slow):
        async def create(self, key, record):
            await asyncio.sleep(0)
            raise StoreUnavailable("full")

    old = _Slow(clock=CLOCK)
    store = Migrating(Full(clock=CLOCK), old, clock=CLOCK)
    await old.create(KEY, _record())
    answers = await asyncio.gather(*(store.load(KEY) for _ in range(20)), return_exceptions=True)
    assert {type(answer) for answer in answers} == {StoreUnavailable}


@pytest.mark.parametrize("how", ["wipe", "revoke", "delete"])
async def test_what_is_ended_while_it_moves_stays_ended(how):
    """At whatever moment of the move everybody's session is ended, or this one: it is in neither store afterwards."""
    for delay in range(30):
        new, old, store = _stores()
        await old.create(KEY, _record(user="42"))
        moving = asyncio.create_task(store.load(KEY))
        for _ in range(delay):
            await asyncio.sleep(0)
        if how == "wipe":
            await store.wipe()
        elif how == "delete":
            await store.delete(KEY)
        else:
            ((key, record),) = await store.of_user("42")
            ended = _record(data=b"", version=record.version + 1, expires_at=CLOCK() - 1)
            await store.update(key, ended, version=record.version)
            await store.delete(key)
        await asyncio.gather(moving, return_exceptions=True)
        assert await store.load(KEY) is None
        assert await store.of_user("42") == []
        assert not await _holds_session(new) and await old.load(KEY) is None


async def test_a_rotation_leaves_nothing_in_the_old_store():
    """Where the end of a move did not get through, the old copy must not come back when the tombstone has expired."""
    clock = Clock(1_000_000.0)
    new, old = MemoryStore(clock=clock), MemoryStore(clock=clock)
    await old.create(KEY, _record(user="42"))
    store = Migrating(new, old, clock=clock)

    async def fails(key):
        raise StoreUnavailable("down")

    old.delete = fails
    found = await store.load(KEY)
    assert await old.load(KEY) is not None
    other = "cd" * 32
    moved = _record(version=4, expires_at=clock() + 60, user="42")
    tombstone = _record(version=4, successor=other, expires_at=clock() + 60)
    await store.rotate(KEY, other, moved, tombstone, version=found.version)
    assert await store.of_user("42") == [(other, moved)]
    clock.advance(61)
    assert await store.load(KEY) is None
    assert await store.of_user("42") == []


async def test_a_rotation_asks_the_old_store_for_nothing():
    """The answer to a rotation goes out at once, so that the cookie is not older than it has to be."""
    _, old, store = _stores(MemoryStore)
    await old.create(KEY, _record())
    found = await store.load(KEY)
    for name in ("load", "update", "delete"):
        setattr(old, name, None)
    other = "cd" * 32
    await store.rotate(KEY, other, _record(version=4), _record(version=4, successor=other), version=found.version)
    assert await store.load(other) is not None


@pytest.mark.parametrize("then", ["change", "log out"])
async def test_a_rotation_in_the_middle_of_a_move(then):
    """Another request does the last step of the move, and rotates the session: the way to its new ID stays."""
    clock = Clock(1_000_000.0)
    reached, opened = asyncio.Event(), asyncio.Event()

    class New(MemoryStore):
        async def update(self, key, record, *, version):
            if not reached.is_set():  # the last step of the move
                reached.set()
                await opened.wait()
            await super().update(key, record, version=version)

    old = MemoryStore(clock=clock)
    before = Driver(SessionConfig(secret_key="k" * 32, store=old, clock=clock))
    visit = before.anonymous()
    visit.session["user_id"] = 42
    await visit.commit()
    store = Migrating(New(clock=clock), old, clock=clock)
    life = Driver(SessionConfig(secret_key="k" * 32, store=store, clock=clock))
    moving = asyncio.create_task(life.arrive([visit.card]))
    await reached.wait()
    under_way, rotates = await life.arrive([visit.card]), await life.arrive([visit.card])
    rotates.session.reauthenticated()
    await rotates.commit()
    opened.set()
    late = await moving
    late.session["late"] = 1
    await late.commit()
    assert late.cookie is Cookie.KEEP
    if then == "change":
        under_way.session["x"] = 1
    else:
        under_way.session.clear()
    await under_way.commit()
    found = (await life.arrive([rotates.card])).session
    assert found == ({"user_id": 42, "x": 1} if then == "change" else {})
    await store.close()


async def test_an_old_store_that_hangs_holds_up_no_log_in():
    """It has been switched off, and its address says nothing: what is in the new store goes on without it."""

    class Old(MemoryStore):
        async def delete(self, key):
            await asyncio.sleep(3600)

    store = Migrating(MemoryStore(), Old())
    life = Driver(SessionConfig(secret_key="k" * 32, store=store, store_timeout=0.5))
    visit = life.anonymous()
    visit.session["cart"] = 1
    await visit.commit()
    visit = await life.arrive([visit.card])
    visit.session["user_id"] = 42
    await visit.commit()
    assert (await life.arrive([visit.card])).session == {"cart": 1, "user_id": 42}


async def test_a_browser_stays_logged_in():
    """Through the whole life cycle: logged in on the old store, still in on the new one, and out for good."""
    new, old, store = _stores()
    before = Driver(SessionConfig(secret_key="k" * 32, store=old, clock=CLOCK))
    visit = before.anonymous()
    visit.session["user_id"] = 42
    await visit.commit()
    card = visit.card

    life = Driver(SessionConfig(secret_key="k" * 32, store=store, clock=CLOCK))
    visit = await life.arrive([card])
    assert visit.session == {"user_id": 42}
    visit.session["cart"] = [1]
    await visit.commit()
    visit = await Driver(SessionConfig(secret_key="k" * 32, store=new, clock=CLOCK)).arrive([card])
    assert visit.session == {"user_id": 42, "cart": [1]}
    visit.session.clear()
    await visit.commit()
    assert visit.cookie is Cookie.CLEAR
    assert (await life.arrive([card])).record is None


def test_only_what_both_stores_have_is_offered():
    """A list of a user's sessions, or ending all of them, needs both stores."""

    class Plain:
        def __init__(self):
            self.inner = MemoryStore()
            for name in ("load", "create", "update", "rotate", "touch", "delete"):
                setattr(self, name, getattr(self.inner, name))

    both, one = Migrating(MemoryStore(), MemoryStore()), Migrating(MemoryStore(), Plain())
    assert isinstance(both, UserIndex) and isinstance(both, Wipe) and isinstance(both, Purge)
    assert not isinstance(one, UserIndex) and not isinstance(one, Wipe)


def test_urls_are_taken(tmp_path):
    """Both stores may be given as URLs; what is neither is refused."""
    assert "MemoryStore" in repr(Migrating("memory://", f"sqlite:///{tmp_path}/old.db"))
    with pytest.raises(ConfigurationError):
        Migrating("memory://", 5)
    with pytest.raises(ConfigurationError, match="cookie://"):
        Migrating("memory://", "cookie://")
