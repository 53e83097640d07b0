"""The attacks by data, stores and clocks that must fail, each a test named after it, over every store on a server."""

import asyncio
import contextlib
import dataclasses
import hmac
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from roomkey import SessionDataError, Sessions
from roomkey.stores.memory import MemoryStore
from roomkey.wire import codec
from roomkey.wire.keys import new_session_id, store_key
from tests.attacks.site import Site, card_in, set_cookies, update

# --- filling the store ------------------------------------------------------------------------------------------------


class Counting:
    """A store that counts what it is asked."""

    def __init__(self, inner):
        self.inner, self.asked = inner, 0
        for name in ("load", "create", "update", "rotate", "touch", "delete"):
            setattr(self, name, self._counted(getattr(inner, name)))

    def _counted(self, operation):
        def ask(*args, **kwargs):
            self.asked += 1
            return operation(*args, **kwargs)

        return ask


async def test_rows_for_bots(new_site):
    """Visitors that never touch the session, and forged cookies, make no row and ask the store for nothing."""
    async with new_site() as site:
        counting = Counting(site.store)
        bots = Site(counting, site.clock)
        for cookie in (None, b"x", b"a" * 80, b"\xff" * 100, b"b" * 10_000):
            seen, headers = await bots.ask(cookie, lambda session: session.get("user_id"))
            assert seen == {} and not set_cookies(headers)
        assert counting.asked == 0


async def test_oversized_data(new_site):
    """A session past max_bytes is refused before anything is saved, and the one before it stays."""
    async with new_site() as site:
        card = await site.log_in()
        with pytest.raises(SessionDataError, match="max_bytes"):
            await site.ask(card, update(big="x" * 100_000))
        seen, _ = await site.ask(card)
        assert seen == {"user_id": 42}


async def test_deeply_nested_data(new_site):
    """Data nested a hundred thousand levels deep is refused with the place, not with a crash."""
    async with new_site() as site:
        deep = []
        for _ in range(100_000):
            deep = [deep]
        card = await site.log_in()
        with pytest.raises(SessionDataError, match="deep"):
            await site.ask(card, update(deep=deep))
        assert await site.who(card) == 42


# --- a store that is not what it seems --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "junk", [b"", b"\x01", b"\x02\x00", b"\x03" + b"x" * 50, b"\x80\x04K\x01.", b"{}", b"\xff" * 99]
)
async def test_undecodable_but_correctly_signed_data(new_site, junk):
    """A record that cannot be read is an anonymous request and a count; a new session gets a new ID."""
    async with new_site() as site:
        card = await site.log_in()
        visit = await site.life.arrive([card])
        broken = dataclasses.replace(visit.record, data=junk, version=visit.record.version + 1)
        await site.store.update(visit.key, broken, version=visit.record.version)
        assert await site.who(card) is None
        assert site.life.refused["damaged"] == 1
        assert await site.log_in(cookie=card) != card


async def test_another_users_record_under_my_key(new_site):
    """A record filed under one user that holds another's session is not served."""
    async with new_site() as site:
        mine, theirs = [await site.log_in(user) for user in (42, 43)]
        me, them = [await site.life.arrive([card]) for card in (mine, theirs)]
        swapped = dataclasses.replace(me.record, data=them.record.data, version=me.record.version + 1)
        await site.store.update(me.key, swapped, version=me.record.version)
        assert await site.who(mine) is None


async def test_leftovers_of_the_user_before(new_site):
    """Who logs in over another user's session, which nobody cleared, finds nothing that was put there before."""
    async with new_site() as site:
        card = await site.log_in(42)
        await site.ask(card, update(address="of 42", role="admin", theme="dark"))
        await site.ask(card, lambda session: session.flash("for 42"))

        def log_in(session):
            session["theme"] = "dark"  # as before, and 43's own all the same
            session["user_id"] = 43

        theirs = card_in((await site.ask(card, log_in))[1])
        seen, _ = await site.ask(theirs)
        assert seen == {"theme": "dark", "user_id": 43}
        assert await site.who(card) is None


async def test_a_store_that_answers_with_an_old_version(new_site):
    """What was loaded from a late replica is not saved over what is newer: the swap fails, and the change is merged."""

    class Late(Counting):
        old = None

        def __init__(self, inner):
            super().__init__(inner)
            fresh = self.load

            async def load(key):
                if self.old is not None:
                    record, self.old = self.old, None
                    return record
                return await fresh(key)

            self.load = load

    async with new_site() as site:
        late = Late(site.store)
        here = Site(late, site.clock)
        card = await here.log_in()
        old = (await here.life.arrive([card])).record
        await here.ask(card, update(x=1))
        late.old = old
        await here.ask(card, update(y=2))
        seen, _ = await here.ask(card)
        assert seen == {"user_id": 42, "x": 1, "y": 2}
        late.old = old
        await here.ask(card, lambda session: session.clear())
        assert await here.who(card) is None


async def test_foreign_rows_in_the_store(new_site):
    """A record that some other program put there opens for nobody, and whoever it names can end it."""
    async with new_site() as site:
        card = await site.log_in()
        record = (await site.life.arrive([card])).record
        session_id = new_session_id()
        foreign = dataclasses.replace(record, data=b"theirs", user="43", version=1)
        await site.store.create(store_key(session_id), foreign)
        assert await site.who(site.life.keyring.sign(session_id)) is None
        assert site.life.refused["damaged"] == 1
        assert await Sessions(site.life).revoke(store_key(session_id), user=42) is False
        assert await Sessions(site.life).revoke_all(43) == 1
        assert await site.who(card) == 42


async def test_a_store_that_lists_other_users_sessions(new_site):
    """What a store names as a user's sessions is looked at: nobody else's is listed, revoked, or ended for a limit."""
    async with new_site(max_sessions_per_user=1) as site:
        other = await site.log_in(43)
        truth = site.store.of_user

        async def everybodys(user):
            return await truth("42") + await truth("43")

        site.store.of_user = everybodys
        mine = [await site.log_in(42)]
        site.clock.advance(1)  # the newer one stays
        mine.append(await site.log_in(42))
        assert [info.user for info in await Sessions(site.life).of(42)] == ["42"]
        await Sessions(site.life).revoke_all(42)
        assert await site.who(other) == 43
        assert [await site.who(card) for card in mine] == [None, None]


@pytest.mark.parametrize(
    "odd",
    [
        {"expires_at": float("inf")},
        {"expires_at": float("nan")},
        {"expires_at": 1e300},
        {"created_at": float("-inf")},
        {"created_at": float("nan")},
        {"created_at": -1e300},
        {"created_at": 1e300},
        {"created_at": "yesterday"},
        {"version": "1"},
        {"data": 5},
        {"data": "text"},
        {"data": None},
        {"data": codec.encode({"user_id": 10**5000})},
        {"data": codec.encode({"user_id": [10**5000]})},
        {"data": b"\x01\x81\xa7user_id" + b"\x91" * 1000 + b"\x01"},
    ],
    ids=lambda odd: repr(odd)[:40],
)
@pytest.mark.parametrize("seal", [False, True])
async def test_rows_of_odd_values(odd, seal):
    """What a column cannot be is no session: it is anonymous, and keeps nobody from listing and ending the others."""
    store = MemoryStore()
    site = Site(store, time.time, seal=seal, absolute_timeout=None)
    card, other = [await site.log_in() for _ in range(2)]
    key = (await site.life.arrive([card])).key
    store._records[key] = dataclasses.replace(store._records[key], **odd)

    async def use(session):
        assert session.expires_at > session.created_at or not session
        session.rotate()

    assert await site.who(card) is None
    await site.ask(card, use)
    assert len(await Sessions(site.life).of(42)) >= 1
    assert await Sessions(site.life).revoke_all(42) >= 1
    assert await site.who(other) is None


@pytest.mark.parametrize("moment", [None, "x", float("nan"), float("inf"), 1e300, b"", True])
@pytest.mark.parametrize("seal", [False, True])
async def test_tombstones_of_odd_values(moment, seal):
    """An old ID is not served for ever because its row says no time, and it raises nothing."""
    store = MemoryStore()
    site = Site(store, time.time, seal=seal)
    old = await site.log_in()
    _, headers = await site.ask(old, lambda session: session.rotate(grace=60))
    assert await site.who(old) == 42
    key = next(key for key, record in store._records.items() if record.successor is not None)
    store._records[key] = dataclasses.replace(store._records[key], serve_until=moment)
    assert await site.who(old) is None
    await site.ask(old, update(x=1))
    assert await site.who(card_in(headers)) == 42


@pytest.mark.parametrize("odd", [{"data": 1}, {"data": 1.5}, {"data": None}, {"successor": b"x"}], ids=repr)
async def test_sealed_tombstones_of_odd_values(odd):
    """What does not say where the session is raises nothing: the old ID is damaged, and the new one lives."""
    store = MemoryStore()
    site = Site(store, time.time, seal=True)
    old = await site.log_in()
    _, headers = await site.ask(old, lambda session: session.rotate(grace=60))
    key = next(key for key, record in store._records.items() if record.successor is not None)
    store._records[key] = dataclasses.replace(store._records[key], **odd)
    assert await site.who(old) is None
    assert await site.who(card_in(headers)) == 42
    assert site.life.refused["damaged"] == 1


async def test_data_that_could_not_be_saved_again():
    """A record that somebody nested deeper than any session is served and left alone, not an error of every page."""
    store = MemoryStore()
    site = Site(store, time.time)
    card = await site.log_in()
    key = (await site.life.arrive([card])).key
    deep: object = 2**70
    for _ in range(500):
        deep = [deep]
    pieces = codec.encode({"user_id": 42, "x": 2**70})
    big = pieces[pieces.index(b"\xa1x") + 2 :]
    data = b"\x01\x82\xa7user_id\x2a\xa1x" + b"\x91" * 500 + big
    store._records[key] = dataclasses.replace(store._records[key], data=data)
    for act in (lambda session: session.get("x"), update(y=1)):
        seen, headers = await site.ask(card, act)
        assert seen["user_id"] == 42 and not set_cookies(headers)
    assert store._records[key].data == data


# --- clocks and timing ------------------------------------------------------------------------------------------------


async def test_a_clock_that_goes_back(new_site):
    """A clock set back ends nobody's session, and lets none live past its absolute timeout by it."""
    begun = time.time()
    async with new_site(absolute_timeout=2000) as site:
        card = await site.log_in()
        site.clock.advance(-300)
        assert await site.who(card) == 42
        for _ in range(5):
            site.clock.advance(460)  # in use all the time
            assert await site.who(card) == (42 if site.clock() < begun + 2000 else None)
        assert await site.who(card) is None


async def test_a_clock_that_was_wrong_for_a_while(new_site):
    """A session from a future that was none does not live until that future comes."""
    async with new_site() as site:
        years = 10 * 365 * 86400
        site.clock.advance(years)
        card = await site.log_in()
        assert await site.who(card) == 42
        site.clock.advance(-years)
        assert await site.who(card) is None
        assert await Sessions(site.life).of(42) == []


async def test_a_clock_that_jumps(new_site):
    """A clock that jumps ahead of every timeout ends the session, and a new one gets a new ID."""
    async with new_site() as site:
        card = await site.log_in()
        site.clock.advance(10_000_000)
        seen, headers = await site.ask(card)
        assert seen == {} and not set_cookies(headers)
        assert await site.log_in(cookie=card) != card


async def test_timing_of_the_id_look_up():
    """A store never compares IDs: what it looks up is a hash, which an attacker cannot steer bit by bit."""
    asked = []

    class Spy(MemoryStore):
        async def load(self, key):
            asked.append(key)
            return await super().load(key)

    site = Site(Spy(), time.time)
    card = await site.log_in()
    asked.clear()
    near = site.life.keyring.sign(card[4:39] + (b"A" if card[39:40] != b"A" else b"B"))
    for cookie in (card, near):
        await site.ask(cookie)
    one, other = (bytes.fromhex(key) for key in asked)
    differing = sum((a ^ b).bit_count() for a, b in zip(one, other, strict=True))
    assert differing > 64  # one character of the ID changed; about half of the 240 bits of the hash did


def test_timing_of_the_signature(monkeypatch):
    """A signature is judged by `hmac.compare_digest` alone, whose time does not tell where two texts differ."""
    site = Site(MemoryStore(), time.time)
    card = site.life.keyring.sign(new_session_id())
    early = card[:40] + (b"0" if card[40:41] != b"0" else b"1") + card[41:]
    late = card[:-1] + (b"0" if card[-1:] != b"0" else b"1")
    asked, compare = [], hmac.compare_digest

    def spy(one, other):
        asked.append((one, other))
        return compare(one, other)

    monkeypatch.setattr("roomkey.wire.keys.hmac.compare_digest", spy)
    assert [site.life.keyring.verify(each) is None for each in (card, early, late)] == [False, True, True]
    assert [other for _, other in asked] == [card[40:], early[40:], late[40:]]
    monkeypatch.setattr("roomkey.wire.keys.hmac.compare_digest", lambda one, other: True)
    assert site.life.keyring.verify(early) is not None  # nothing else has looked at it


# --- anything at all --------------------------------------------------------------------------------------------------


_names = st.sampled_from([b"cookie", b"Cookie", b"host", b"\xff"])
_pairs = st.one_of(st.binary(max_size=200), st.binary(max_size=100).map(lambda value: b"session=" + value))
_headers = st.lists(st.tuples(_names, _pairs), max_size=5)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(headers=_headers)
def test_nothing_a_client_sends_raises(headers):
    """Whatever the headers, the request reaches the app, as an anonymous one."""

    async def scenario():
        site = Site(MemoryStore(), time.time)
        seen, _ = await site.ask(headers=headers)
        assert seen == {}

    asyncio.run(scenario())


@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=200), user=st.none() | st.text(max_size=5))
def test_nothing_a_store_holds_raises(data, user):
    """Whatever a record holds, the request reaches the app."""

    async def scenario():
        store = MemoryStore()
        site = Site(store, time.time)
        card = await site.log_in()
        key = (await site.life.arrive([card])).key
        store._records[key] = dataclasses.replace(store._records[key], data=data, user=user)
        seen, _ = await site.ask(card, lambda session: session.get("x"))
        assert isinstance(seen, dict)
        with contextlib.suppress(KeyError):
            del store._records[key]

    asyncio.run(scenario())
