"""`seal=True`: what lies in the store says nothing to who does not hold the cookie, and nothing else changes."""

import base64
import logging
import time
from dataclasses import replace

import pytest

from roomkey import SessionConfig, Sessions
from roomkey.stores.memory import MemoryStore
from roomkey.stores.sqlite import SQLiteStore
from roomkey.testing import Clock
from roomkey.wire.codec import DamagedData
from roomkey.wire.envelope import envelope_for
from tests.driver import Driver

OLD, NEW = "the old secret key, 32 bytes or more of it", "the new secret key, 32 bytes or more of it"
PRIVATE = "the combination is 12345"


class World:
    def __init__(self, store=None, secret_key=NEW, **options):
        self.clock = Clock(float(int(time.time())))
        self.store = MemoryStore(clock=self.clock) if store is None else store
        options = {"clock": self.clock, "seal": True, **options}
        self.life = Driver(SessionConfig(secret_key=secret_key, store=self.store, **options))

    async def log_in(self):
        visit = self.life.anonymous()
        visit.session.update(user_id=42, secret=PRIVATE)
        await visit.commit()
        return visit.card

    async def found(self, *cards):
        return [(await self.life.arrive([card])).session.copy() for card in cards]


async def test_a_dump_of_the_store_says_nothing(tmp_path, caplog):
    """No byte of the data is readable in the file, its siblings or the log, in any common encoding."""
    with caplog.at_level(logging.DEBUG):
        store = SQLiteStore(tmp_path / "s.db")
        world = World(store, clock=time.time)
        card = await world.log_in()
        visit = await world.life.arrive([card])
        visit.session.rotate()
        await visit.commit()
        assert visit.session["secret"] == PRIVATE
        dump = b"".join(path.read_bytes() for path in tmp_path.iterdir()) + caplog.text.encode()
        await store.close()
        for text in (PRIVATE, "secret", visit.card.decode(), visit.card[4:40].decode()):
            for form in (text.encode(), base64.b64encode(text.encode())[:-4], text.encode().hex().encode()):
                assert form not in dump


async def test_a_dump_and_the_secret_key_say_nothing():
    """Who has the record and the secret key, and not the session ID, cannot open it."""
    world = World()
    await world.log_in()
    ((key, record),) = world.store._records.items()
    envelope = envelope_for(world.life.config)
    for secret in (b"", key.encode(), bytes.fromhex(key), envelope.secret_of(key.encode())):
        with pytest.raises(Exception, match="does not open"):
            envelope.open(record, key, secret)


async def test_a_session_lives_as_without_sealing():
    """Write, merge, change(), rotate in flight, remember and log out all work on sealed data."""
    world = World()
    card = await world.log_in()
    one, two, three = [await world.life.arrive([card]) for _ in range(3)]
    one.session["a"] = 1
    one.session.change("n", lambda n: n + 1, 0)
    await one.commit()
    two.session.rotate()
    two.session.remember(100_000)
    two.session.change("n", lambda n: n + 1, 0)
    await two.commit()
    three.session["c"] = 3
    await three.commit()
    assert await world.found(two.card, card) == [
        {"user_id": 42, "secret": PRIVATE, "a": 1, "n": 2, "c": 3},
        {},
    ]
    await two.session.refresh()
    assert two.session["c"] == 3
    two.session.clear()
    await two.commit()
    assert await world.found(two.card) == [{}]


async def test_a_rotation_with_grace_serves_the_old_id():
    """Within the grace, a request with the old ID opens the moved session, and gets no card."""
    world = World()
    card = await world.log_in()
    visit = await world.life.arrive([card])
    visit.session.rotate(grace=30)
    await visit.commit()
    assert (await world.found(card))[0]["secret"] == PRIVATE
    world.clock.advance(31)
    assert await world.found(card) == [{}]


async def test_sealed_sessions_are_listed_and_revoked():
    """Listing and revoking need no cookie; the time of last use is right for a remembered session."""
    world = World()
    card = await world.log_in()
    visit = await world.life.arrive([card])
    visit.session.remember(100_000)
    await visit.commit()
    sessions = Sessions(world.life)
    (info,) = await sessions.of(42)
    assert info.last_used_at.timestamp() == world.clock()
    visit.session.rotate()
    await visit.commit()
    assert await sessions.revoke(info.handle, user=42)
    assert await world.found(card, visit.card) == [{}, {}]


async def test_sealed_sessions_outlive_a_change_of_the_secret_key():
    """With the old key in the list a sealed session opens, and is sealed with the new one when it is saved."""
    store = MemoryStore()
    card = await World(store, OLD).log_in()
    world = World(store, [NEW, OLD])
    visit = await world.life.arrive([card])
    assert visit.session["secret"] == PRIVATE
    visit.session["x"] = 1
    await visit.commit()
    alone = World(store, NEW)
    assert (await alone.found(visit.card))[0]["x"] == 1
    assert await World(store, OLD).found(card) == [{}]


async def test_a_read_with_an_old_key_seals_and_signs_anew():
    """A request that only reads brings data and card under the first key."""
    store = MemoryStore()
    card = await World(store, OLD).log_in()
    visit = await World(store, [NEW, OLD]).life.arrive([card])
    assert visit.session["user_id"] == 42
    await visit.commit()
    assert (await World(store, NEW).found(visit.card))[0]["secret"] == PRIVATE


async def test_what_is_not_sealed_is_refused():
    """With sealing on, a record that somebody put there in clear is no session."""
    store = MemoryStore()
    card = await World(store, seal=False).log_in()
    world = World(store)
    assert await world.found(card) == [{}]
    assert world.life.refused["damaged"] == 1
    card = await world.log_in()
    assert await World(store, seal=False).found(card) == [{}]


async def test_a_record_under_another_key_does_not_open():
    """Sealed data is bound to its place: moved to another session's key it is damaged, whatever user it names."""
    world = World()
    mine, theirs = [await world.log_in() for _ in range(2)]
    keys = [(await world.life.arrive([card])).key for card in (mine, theirs)]
    records = world.store._records
    records[keys[0]] = records[keys[1]]
    assert await world.found(mine) == [{}]


async def test_every_altered_byte_is_noticed():
    """A sealed record with any byte changed, cut or added is refused."""
    world = World()
    card = await world.log_in()
    ((key, record),) = world.store._records.items()
    whole = record.data
    cut = [whole[:-1], whole + b"x", b"", whole[:9]]
    changed = [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(len(whole))]
    for data in cut + changed:
        world.store._records[key] = type(record)(
            data, record.version, record.created_at, record.expires_at, record.user
        )
        assert await world.found(card) == [{}]


@pytest.mark.parametrize(
    "fields", [{"user": "43"}, {"user": None}, {"user": 42}, {"created_at": 1.0}, {"created_at": ""}]
)
async def test_whose_a_record_is_and_when_it_began_are_sealed_too(fields):
    """Whoever writes to the database can neither file a session under another user nor prolong its absolute timeout."""
    for options in ({}, {"user_key": None}):  # without a user_key, nothing in the data says whose it is
        world = World(absolute_timeout=None, max_age=1e9, **options)
        card = await world.log_in()
        ((key, record),) = world.store._records.items()
        if options and fields.get("user", "") is None:
            continue  # it is nobody's anyway
        world.store._records[key] = replace(record, **fields)
        assert await world.found(card) == [{}]
        assert world.life.refused["damaged"] + world.life.refused["unknown"] == 1


async def test_a_later_beginning_prolongs_nothing():
    """A record whose beginning was set forward does not open, and is not served past its absolute timeout."""
    world = World(max_age=1000, absolute_timeout=1500)
    card = await world.log_in()
    ((key, record),) = world.store._records.items()
    world.clock.advance(900)
    world.store._records[key] = replace(record, created_at=world.clock(), expires_at=world.clock() + 1000)
    assert await world.found(card) == [{}]
    assert world.life.refused["damaged"] == 1


@pytest.mark.parametrize("old_user", [None, 42])
async def test_a_tombstone_says_what_it_said_when_it_was_left(old_user):
    """Whoever knows an ID from before a log-in, and writes to the database, cannot have it served after the log-in."""
    world = World()
    visit = world.life.anonymous()
    visit.session.update(cart=1, user_id=old_user)
    await visit.commit()
    planted = visit.card
    visit = await world.life.arrive([planted])
    visit.session.update(user_id=7, secret=PRIVATE)
    await visit.commit()
    ((key, left),) = [(key, record) for key, record in world.store._records.items() if record.successor is not None]
    for fields in (
        {"serve_until": world.clock() + 1000},
        {"user": "7", "serve_until": world.clock() + 1000},
        {"user": "7", "serve_until": world.clock() + 1000, "data": b"\x01" + left.data[1:]},
        {"serve_until": None},
        {"successor": key},
    ):
        world.store._records[key] = replace(left, **fields)
        assert await world.found(planted) == [{}]
        with pytest.raises(DamagedData):
            world.life.envelope.follow(world.store._records[key], visit_secret(world, planted))
    world.store._records[key] = left
    assert world.life.envelope.follow(left, visit_secret(world, planted))
    assert (await world.found(visit.card))[0]["secret"] == PRIVATE


def visit_secret(world, card):
    return world.life.envelope.secret_of(world.life.keyring.verify(card))


async def test_an_old_record_that_is_put_back_opens():
    """What sealing cannot tell, as the docs say: an earlier state of the same session, and a later expiry."""
    world = World(max_age=1000, absolute_timeout=5000)
    card = await world.log_in()
    ((key, record),) = world.store._records.items()
    visit = await world.life.arrive([card])
    visit.session["secret"] = "another one"
    await visit.commit()
    world.clock.advance(3000)
    world.store._records[key] = replace(record, expires_at=world.clock() + 1000)
    assert (await world.found(card))[0]["secret"] == PRIVATE
    world.clock.advance(2001)
    world.store._records[key] = replace(record, expires_at=world.clock() + 1000)
    assert await world.found(card) == [{}]
