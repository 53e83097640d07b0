"""Events: what happens to sessions, told as values without a secret in them."""

import dataclasses
import logging
import time

import pytest

from roomkey import ConfigurationError, SessionConfig, SessionManager, Sessions, events
from roomkey.core.reply import Cookie
from roomkey.errors import StoreUnavailable
from roomkey.stores.base import Record
from roomkey.stores.memory import MemoryStore
from roomkey.testing.clock import Clock
from tests.driver import Driver

OLD, NEW = "the old secret key, 32 bytes or more of it", "the new secret key, 32 bytes or more of it"


class World:
    def __init__(self, secret_key=NEW, store=None, **options):
        self.told = []
        self.store = MemoryStore(clock=options.get("clock", time.time)) if store is None else store
        options = {"on_event": self.told.append, **options}
        self.config = SessionConfig(secret_key=secret_key, store=self.store, **options)
        self.life = Driver(self.config)

    async def log_in(self, card=None, user=42):
        visit = self.life.anonymous() if card is None else await self.life.arrive([card])
        visit.session["user_id"] = user
        await visit.commit()
        return visit


async def test_the_life_of_a_session_is_told():
    """Creation, log-in, merge and log-out each come as one event, with the public names."""
    world = World()
    visit = world.life.anonymous()
    visit.session["x"] = 1
    await visit.commit()
    before = visit.session.handle
    assert world.told == [events.Created(before, None)]
    visit = await world.log_in(visit.card)
    handle = visit.session.handle
    assert world.told[1:] == [events.Rotated(before, handle, "42", None)]
    one, two = [await world.life.arrive([visit.card]) for _ in range(2)]
    one.session["a"], two.session["b"] = 1, 2
    await one.commit()
    await two.commit()
    assert world.told[2:] == [events.Merged(handle, 1)]
    two.session.clear()
    await two.commit()
    assert world.told[3:] == [events.Ended(handle, "42", "cleared")]


async def test_revoking_is_told_with_its_reason():
    """A session that `Sessions` ended says so."""
    world = World()
    visit = await world.log_in()
    await Sessions(world.life).revoke_all(42)
    assert world.told[-1] == events.Ended(visit.session.handle, "42", "revoked")


async def test_a_renewal_is_told():
    """A request that only keeps its session alive says so, and a later one within the tenth does not."""
    clock = Clock(1_000_000.0)
    world = World(clock=clock, max_age=1000)
    card = (await world.log_in()).card
    world.told.clear()
    clock.advance(200)
    for _ in range(2):
        visit = await world.life.arrive([card])
        assert visit.session["user_id"] == 42
        await visit.commit()
    assert world.told == [events.Renewed(visit.session.handle, "42")]


async def test_expiry_is_told_at_the_purge():
    """Each session that a purge removes is told once, with its user. The tombstones that it left are not."""
    clock = Clock(1_000_000.0)
    world = World(clock=clock, max_age=1000)
    visit = await world.log_in()
    visit.session.rotate()
    await visit.commit()
    handle = visit.session.handle
    clock.advance(1001)
    world.told.clear()
    assert await world.life.registry.store.purge(100) == 2
    assert world.told == [events.Expired(handle, "42")]
    assert await world.life.registry.store.purge(100) == 0


async def test_expiry_is_told_when_the_dead_card_comes():
    """The store still has the record, which is over by a shorter `absolute_timeout` than it was saved with."""
    clock = Clock(1_000_000.0)
    store = MemoryStore(clock=clock)
    first = World(store=store, clock=clock, max_age=5000, absolute_timeout=5000)
    visit = await first.log_in()
    world = World(store=store, clock=clock, max_age=100, absolute_timeout=100)
    clock.advance(200)
    assert (await world.life.arrive([visit.card])).session == {}
    assert world.told == [events.Expired(visit.session.handle, "42"), events.Refused("unknown")]


async def test_expiry_is_told_where_the_session_lies_in_the_cookie():
    """With `cookie://`, a cookie that comes too late says whose session has expired."""
    clock = Clock(1_000_000.0)
    world = World(store="cookie://", clock=clock, max_age=1000)
    visit = await world.log_in()
    handle, card = visit.session.handle, visit.card
    world.told.clear()
    clock.advance(1001)
    assert (await world.life.arrive([card])).session == {}
    assert world.told == [events.Expired(handle, "42"), events.Refused("unknown")]


async def test_a_session_that_was_ended_is_not_told_as_expired():
    """Neither a log-out nor the purge after it."""
    clock = Clock(1_000_000.0)
    world = World(clock=clock)
    visit = await world.log_in()
    visit.session.clear()
    await visit.commit()
    clock.advance(10_000_000)
    await world.life.registry.store.purge(100)
    assert [type(event) for event in world.told] == [events.Created, events.Ended]


async def test_nothing_is_gathered_where_nobody_hears():
    """A purge asks for no session's key and user unless somebody is told."""

    class Telling(MemoryStore):
        async def purge_telling(self, limit, tell):
            raise AssertionError

    world = World(store=Telling(), on_event=None)
    assert await world.life.registry.store.purge(100) == 0


async def test_what_was_refused_is_told_with_the_reason():
    """A forged card, an unknown key, an ended session, a rotated ID and a damaged record are told apart."""
    world = World()
    visit = await world.log_in()
    card = visit.card
    await world.life.arrive([b"nonsense"])
    await world.life.arrive([b"????" + card[4:]])
    again = await world.life.arrive([card])
    again.session.rotate()
    await again.commit()
    await world.life.arrive([card])
    record = world.store._records[again.key]
    world.store._records[again.key] = dataclasses.replace(record, data=b"\xff")
    await world.life.arrive([again.card])
    await world.store.delete(again.key)
    await world.life.arrive([again.card])
    reasons = [event.reason for event in world.told if isinstance(event, events.Refused)]
    assert reasons == ["card", "key", "rotated", "damaged", "unknown"]
    assert dict(world.life.refused) == dict.fromkeys(reasons, 1)


async def test_a_card_of_an_old_key_is_signed_anew_on_use():
    """A session that came with an old key's card gets one of the first key when it is used, and keeps its ID."""
    store = MemoryStore()
    card = (await World(OLD, store).log_in()).card
    world = World([NEW, OLD], store)
    visit = await world.life.arrive([card])
    await visit.commit()
    assert visit.cookie is Cookie.KEEP  # not used
    visit = await world.life.arrive([card])
    assert visit.session["user_id"] == 42
    await visit.commit()
    assert visit.cookie is Cookie.GIVE
    assert world.told == [events.LoadedWithOldKey(visit.key)] * 2
    alone = World(NEW, store)
    assert (await alone.life.arrive([visit.card])).session == {"user_id": 42}
    assert (await alone.life.arrive([card])).session == {}


async def test_a_renewal_or_a_write_signs_anew_too():
    """Where the session is saved anyway, the new card goes out with it, once."""
    store = MemoryStore()
    card = (await World(OLD, store).log_in()).card
    world = World([NEW, OLD], store)
    visit = await world.life.arrive([card])
    visit.session["x"] = 1
    await visit.commit()
    assert visit.cookie is Cookie.GIVE and not world.life.keyring.is_old(visit.card)
    visit = await world.life.arrive([visit.card])
    visit.session["x"] = 2
    await visit.commit()
    assert visit.cookie is Cookie.KEEP


async def test_an_unknown_key_is_logged_once_with_the_usual_cause(caplog):
    """Workers with a key of their own each are what logs everybody out: said once, and counted."""
    card = (await World(OLD).log_in()).card
    world = World(NEW)
    for _ in range(3):
        await world.life.arrive([card])
    assert world.life.refused["key"] == 3
    assert card.decode() not in caplog.text
    said = [record for record in caplog.records if "each worker makes a key of its own" in record.message]
    assert len(said) == 1


def test_a_list_of_hundreds_of_keys_costs_no_more():
    """Whatever the number of keys, a card is verified with the one or two that it names."""
    world = World([f"secret key number {number}, 32 bytes or more" for number in range(500)])
    assert max(len(keys) for keys in world.life.keyring._by_name.values()) <= 3
    card = Driver(SessionConfig(secret_key="secret key number 499, 32 bytes or more", store="memory://")).keyring.sign(
        b"x" * 36
    )
    assert world.life.keyring.verify(card) == b"x" * 36


@pytest.mark.usefixtures("settled")
async def test_outages_are_told_once_each():
    """The beginning and the end of an outage are each told once."""

    class Flaky(MemoryStore):
        down = False

        async def load(self, key):
            if self.down:
                raise OSError("down")
            return await super().load(key)

    world = World(store=Flaky())
    card = (await world.log_in()).card
    world.told.clear()
    world.store.down = True
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await world.life.arrive([card])
    world.store.down = False
    for _ in range(3):
        await world.life.arrive([card])
    began, ended = world.told
    assert isinstance(began, events.OutageBegan) and ended == events.OutageEnded("Flaky")
    assert began.store == "Flaky" and began.error.startswith("Flaky failed: OSError in load, line ")


@pytest.mark.parametrize("card", [False, True])
async def test_what_was_done_without_an_answer_is_told(card):
    """The next save finds the session under its new ID."""

    class Silent(MemoryStore):
        async def create(self, *args, **options):
            await super().create(*args, **options)
            if silent:
                raise OSError

        async def rotate(self, *args, **options):
            await super().rotate(*args, **options)
            raise OSError

    silent = False
    world = World(store=Silent())
    visit = world.life.anonymous()
    if card:
        visit.session["x"] = 1
        await visit.commit()
        visit = await world.life.arrive([visit.card])
    silent = True
    before = visit.session.handle
    world.told.clear()
    visit.session["user_id"] = 42
    with pytest.raises(StoreUnavailable):
        await visit.session.save()
    await visit.session.save()
    after = visit.session.handle
    outage = [events.OutageBegan, events.OutageEnded]
    told = [event for event in world.told if type(event) not in outage]
    assert told == [events.Rotated(before, after, "42", None) if card else events.Created(after, "42")]


async def test_a_save_that_is_repeated_is_no_merge():
    """The store did not answer the first one, and nobody else had saved."""

    class Failing(MemoryStore):
        async def update(self, *args, **options):
            del type(self).update
            raise OSError

    world = World(store=Failing())
    visit = await world.log_in()
    visit.session["x"] = 1
    with pytest.raises(StoreUnavailable):
        await visit.session.save()
    world.told.clear()
    await visit.session.save()
    assert world.told == []


async def test_a_subscriber_that_raises_disturbs_nobody(caplog):
    """What `on_event` raises is logged, and the session is saved all the same."""

    def raises(event):
        raise RuntimeError("no")

    world = World(on_event=raises)
    card = (await world.log_in()).card
    assert (await world.life.arrive([card])).session == {"user_id": 42}
    assert "on_event raised for Created" in caplog.text


async def test_a_manager_has_several_subscribers(caplog):
    """Each is told of every event in turn, `on_event` first, also where one of them raises."""
    told = []

    def raises(event):
        raise RuntimeError("no")

    manager = SessionManager(secret_key=NEW, store="memory://", on_event=told.append)
    manager.reporter.subscribe(raises)
    manager.reporter.subscribe(lambda event: told.append(type(event)))
    session = await manager.load()
    session["user_id"] = 42
    await manager.commit(session)
    await manager.load("session=nonsense")
    assert told == [events.Created(session.handle, "42"), events.Created, events.Refused("card"), events.Refused]
    assert "on_event raised for Created" in caplog.text


async def test_events_are_logged_at_debug(caplog):
    """Every event is a record of the logger roomkey.events, too."""
    with caplog.at_level(logging.DEBUG, logger="roomkey.events"):
        await World(on_event=None).log_in()
    assert [record.name for record in caplog.records] == ["roomkey.events"]
    assert "Created(handle=" in caplog.text


async def test_no_event_holds_a_secret(caplog):
    """Neither the card nor the ID nor the data nor a key is in any event or log line."""
    with caplog.at_level(logging.DEBUG):
        world = World([NEW, OLD])
        visit = await world.log_in()
        visit.session["secret"] = "hunter2"
        visit.session.rotate()
        await visit.commit()
        visit.session.clear()
        await visit.commit()
        text = repr(world.told) + caplog.text
        for secret in (visit.card.decode(), visit.card[4:40].decode(), "hunter2", NEW, OLD):
            assert secret and secret not in text


@pytest.mark.parametrize("event", events.__all__)
def test_events_are_frozen(event):
    """Each event is a frozen dataclass of plain values."""
    kind = getattr(events, event)
    assert dataclasses.is_dataclass(kind) and kind.__dataclass_params__.frozen


def test_a_wrong_subscriber_is_refused():
    """`on_event` takes something that can be called."""
    with pytest.raises(ConfigurationError, match=r"^on_event: "):
        SessionConfig(secret_key=NEW, store="memory://", on_event="print")


async def test_a_record_that_was_never_ours_is_damaged():
    """A record filed under one user that holds another's session is not served."""
    world = World()
    visit = await world.log_in()
    record = world.store._records[visit.key]
    world.store._records[visit.key] = Record(record.data, record.version, 0, record.expires_at, user="43")
    assert (await world.life.arrive([visit.card])).session == {}
