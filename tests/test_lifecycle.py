"""Lifecycle and Visit, driven directly: what is loaded, merged, rotated, renewed and ended. No ASGI, no sleeping."""

import asyncio
from collections import Counter
from dataclasses import replace
from unittest.mock import AsyncMock
from uuid import UUID

import pytest

from roomkey.config import SessionConfig
from roomkey.csrf import csrf_token, verify_csrf_token
from roomkey.errors import ResponseStarted, SessionDataError, SessionEnded, StoreUnavailable
from roomkey.lifecycle import Lifecycle
from roomkey.stores.memory import MemoryStore
from roomkey.testing.clock import Clock
from roomkey.users import Sessions
from roomkey.visit import Cookie
from roomkey.wire import codec

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
        self.life = Lifecycle(SessionConfig(store=self.store, clock=self.clock, **settings))

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


# --- store operations -------------------------------------------------------------------------------------------------


async def test_read_costs_one_load():
    """A request that only reads costs one load and sends no cookie."""
    world = World()
    visit = await world.arrive(await world.begin(x=1))
    assert visit.session["x"] == 1
    await visit.commit()
    assert world.store.asked == {"load": 1}
    assert visit.cookie is Cookie.KEEP


async def test_write_costs_one_load_and_one_save():
    """A request that writes costs one load and one update."""
    world = World()
    card = await world.begin(x=1)
    visit = await world.arrive(card)
    visit.session["y"] = 2
    await visit.commit()
    assert world.store.asked == {"load": 1, "update": 1}
    assert await world.data(card) == {"x": 1, "y": 2}


async def test_anonymous_costs_nothing():
    """A request without a card that stores nothing asks the store nothing."""
    world = World()
    visit = world.life.anonymous()
    assert visit.session.get("x") is None
    await visit.commit()
    assert not world.store.asked
    assert visit.cookie is Cookie.KEEP


@pytest.mark.parametrize("place", [0, 10, -1])
async def test_forged_card_costs_nothing(place):
    """A card with one altered byte is refused without asking the store."""
    world = World()
    card = bytearray(await world.begin(x=1))
    card[place] ^= 1
    visit = await world.arrive(bytes(card))
    assert visit.record is None
    assert visit.session.copy() == {}
    await visit.commit()
    assert not world.store.asked
    assert world.life.refused["key" if 0 <= place < 4 else "card"] == 1


async def test_first_genuine_card_counts():
    """Of several cards the first one that is genuine is used."""
    world = World()
    one, two = await world.begin(x=1), await world.begin(x=2)
    visit = await world.life.arrive([b"rubbish", one, two])
    assert visit.session["x"] == 1


async def test_nested_change_is_found():
    """A change deep inside a value is saved although no key was assigned."""
    world = World()
    card = await world.begin(cart={"items": [{"n": 1}]})
    visit = await world.arrive(card)
    visit.session["cart"]["items"][0]["n"] = 2
    assert visit.session.modified
    await visit.commit()
    assert await world.data(card) == {"cart": {"items": [{"n": 2}]}}


async def test_assigning_the_same_value_is_no_write():
    """Assigning the value that is there already saves nothing."""
    world = World()
    visit = await world.arrive(await world.begin(x=[1, 2]))
    visit.session["x"] = [1, 2]
    assert not visit.session.modified
    await visit.commit()
    assert world.store.asked == {"load": 1}


async def test_equal_value_of_another_type_is_a_write():
    """True in the place of 1 is a change: values keep their exact type."""
    world = World()
    card = await world.begin(x=1)
    visit = await world.arrive(card)
    visit.session["x"] = True
    await visit.commit()
    assert (await world.data(card))["x"] is True


# --- clocks -----------------------------------------------------------------------------------------------------------


async def test_renewal_by_touch_once_in_a_tenth():
    """A session that is read is renewed by one touch, at most once in a tenth of max_age, with a fresh cookie."""
    world = World()
    card = await world.begin(x=1)
    touched = 0
    for second in range(1, 301, 10):
        world.clock.now = START + second
        visit = await world.arrive(card)
        assert visit.session["x"] == 1
        await visit.commit()
        if visit.cookie is Cookie.GIVE:
            touched += 1
            assert visit.card == card
            assert visit.record.expires_at == world.clock() + MAX_AGE
    assert world.store.asked["touch"] == touched == 2
    assert world.store.asked["update"] == 0


@pytest.mark.parametrize("act", ["write", "read", "remember"])
@pytest.mark.parametrize("every", [0.02, 0.3, 0.7])
async def test_a_stream_does_not_use_up_the_renewals_of_the_cookie(act, every):
    """It renews the session and cannot renew the cookie: a page finds its own renewal due all the same."""
    world = World()
    card = await world.begin(n=0)
    lifetime, cookie_until = MAX_AGE, world.clock() + MAX_AGE
    for number in range(200):
        world.clock.advance(MAX_AGE / 100)
        stream = await world.arrive(card)
        stream.cookie_possible = False
        if act == "write":
            stream.session["n"] = number
        elif act == "remember" and number == 3:
            lifetime = 2 * MAX_AGE
            stream.session.remember(lifetime)
        stream.session.get("n")
        await stream.commit()
        if (number + 1) % round(100 * every) == 0:
            assert world.clock() < cookie_until
            page = await world.arrive(card)
            page.session.get("n")
            await page.commit()
            if page.cookie is Cookie.GIVE:
                cookie_until = world.clock() + lifetime
            assert cookie_until - world.clock() > 0.85 * lifetime
    for _ in range(10):  # and alone it keeps the session
        world.clock.advance(lifetime * 0.75)
        stream = await world.arrive(card)
        stream.cookie_possible = False
        stream.session.get("n")
        await stream.commit()
    assert await world.data(card) is not None


async def test_untouched_session_is_not_renewed():
    """A request that never looks at its session does not prolong it."""
    world = World()
    card = await world.begin(x=1)
    world.clock.advance(MAX_AGE / 2)
    visit = await world.arrive(card)
    await visit.commit()
    assert world.store.asked == {"load": 1}
    assert visit.cookie is Cookie.KEEP
    world.clock.advance(MAX_AGE / 2)
    assert await world.data(card) is None


async def test_idle_timeout():
    """A session is there just before max_age without use has passed, and gone at that moment."""
    world = World()
    card = await world.begin(x=1)
    world.clock.advance(MAX_AGE - 1)
    assert await world.data(card) == {"x": 1}
    world.clock.advance(1)
    assert await world.data(card) is None


@pytest.mark.parametrize("deed", ["read", "write", "rotate"])
async def test_absolute_timeout_however_busy(deed):
    """The absolute timeout ends a session that is read, written or rotated all the time."""
    world = World(absolute_timeout=3 * MAX_AGE)
    card = await world.begin(n=0)
    for _ in range(14):
        world.clock.advance(MAX_AGE / 5)
        visit = await world.arrive(card)
        assert visit.record is not None
        if deed == "rotate":
            visit.session.rotate(grace=60)
        elif deed == "write":
            visit.session["n"] += 1
        else:
            assert visit.session["n"] == 0
        await visit.commit()
        assert visit.record.created_at == START
        assert visit.session.expires_at.timestamp() <= START + 3 * MAX_AGE
        card = visit.card if visit.cookie is Cookie.GIVE else card
    world.clock.now = START + 3 * MAX_AGE - 1
    assert await world.data(card) is not None
    world.clock.advance(1)
    assert await world.data(card) is None


# --- users and rotation -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("user", [7, "anna", UUID(int=5)], ids=["int", "str", "uuid"])
async def test_log_in_rotates_and_files_the_user(user):
    """A new value of user_key gives a new ID, kills the old one and files the session under the user as text."""
    world = World()
    card = await world.begin(x=1)
    visit = await world.arrive(card)
    visit.session["user_id"] = user
    await visit.commit()
    assert world.store.asked == {"load": 1, "rotate": 1}
    assert visit.cookie is Cookie.GIVE
    assert visit.card != card
    assert visit.record.user == str(user)
    assert [key for key, _ in await world.store.of_user(str(user))] == [visit.key]
    assert await world.data(visit.card) == {"x": 1, "user_id": user}
    assert await world.data(card) is None


@pytest.mark.parametrize("user", [1.0, True, ["a"], b"a", "a\0b", "\ud800", "é" * 501], ids=repr)
async def test_what_is_no_user_id_is_refused(user):
    """Two users must never be the same text, and every database must keep it: nothing is saved."""
    world = World()
    card = await world.begin(x=1)
    visit = await world.arrive(card)
    visit.session["user_id"] = user
    with pytest.raises(SessionDataError, match="user_id"):
        await visit.commit()
    assert await world.data(card) == {"x": 1}


async def test_user_key_none_never_rotates():
    """With user_key=None no key is special: the ID stays and no user is filed."""
    world = World(user_key=None)
    card = await world.begin(x=1)
    visit = await world.arrive(card)
    visit.session["user_id"] = 7
    await visit.commit()
    assert world.store.asked == {"load": 1, "update": 1}
    assert visit.record.user is None
    assert await world.data(card) == {"x": 1, "user_id": 7}


async def test_log_out_to_anonymous_rotates():
    """Taking user_key away rotates: the session is nobody's, under a new ID."""
    world = World()
    card = await world.begin(user_id="a", x=1)
    visit = await world.arrive(card)
    del visit.session["user_id"]
    await visit.commit()
    assert visit.record.user is None
    assert await world.data(card) is None
    assert await world.data(visit.card) == {"x": 1}
    assert await world.store.of_user("a") == []


async def test_rotate_serves_the_old_card_during_grace_only():
    """After rotate(grace) the old card opens the session until the grace is over, and is never answered by a cookie."""
    world = World()
    old = await world.begin(x=1)
    visit = await world.arrive(old)
    visit.session.rotate(grace=30)
    await visit.commit()
    world.clock.advance(29)
    late = await world.arrive(old)
    late.session["late"] = True
    await late.commit()
    assert late.cookie is Cookie.KEEP
    assert await world.data(visit.card) == {"x": 1, "late": True}
    world.clock.advance(1)
    assert await world.data(old) is None
    assert await world.data(visit.card) is not None
    assert world.life.refused["rotated"] == 1


@pytest.mark.parametrize("again", ["rotate", "reauthenticated", "log in", "log out"])
async def test_a_rotation_without_grace_ends_the_grace_before_it(again):
    """A card that is served for a while leads no further than to the next rotation that gives no grace."""
    world = World()
    old = await world.begin(x=1, **({} if again == "log in" else {"user_id": "a"}))
    visit = await world.arrive(old)
    visit.session.rotate(grace=30)
    await visit.commit()
    visit = await world.arrive(visit.card)
    if again == "log in":
        visit.session["user_id"] = "a"
    elif again == "log out":
        del visit.session["user_id"]
    else:
        getattr(visit.session, again)()
    await visit.commit()
    assert await world.data(old) is None
    assert await world.data(visit.card) is not None


@pytest.mark.parametrize("seal", [False, True])
async def test_grace_leads_over_several_rotations(seal):
    """A card in grace opens a session that was rotated with grace again."""
    world = World(seal=seal)
    old = card = await world.begin(x=1)
    for _ in range(3):
        visit = await world.arrive(card)
        visit.session.rotate(grace=30)
        await visit.commit()
        card = visit.card
    assert await world.data(old) == {"x": 1}
    visit = await world.arrive(card)
    visit.session.invalidate()
    await visit.commit()
    assert await world.data(old) is None


async def test_rotations_in_a_circle_lead_nowhere():
    """A store whose tombstones name each other is no endless way."""
    world = World()
    old = await world.begin(x=1)
    visit = await world.arrive(old)
    visit.session.rotate(grace=30)
    await visit.commit()
    ((key, tombstone),) = [item for item in world.store._records.items() if item[1].successor]
    world.store._records[key] = replace(tombstone, successor=key)
    assert await world.data(old) is None


async def test_log_in_gives_no_grace():
    """Grace asked for together with a log-in is not given: the old ID dies at once."""
    world = World()
    old = await world.begin(x=1)
    visit = await world.arrive(old)
    visit.session["user_id"] = "a"
    visit.session.rotate(grace=30)
    await visit.commit()
    assert await world.data(old) is None


async def test_old_card_after_rotation_is_anonymous():
    """A rotated card is an anonymous visit that leaves the cookie alone: it may be the newer one."""
    world = World()
    old = await world.begin(x=1)
    visit = await world.arrive(old)
    visit.session.rotate()
    await visit.commit()
    late = await world.arrive(old)
    assert late.session.get("x") is None
    await late.commit()
    assert late.cookie is Cookie.KEEP
    assert late.record is None


@pytest.mark.parametrize("grow", ["x", "user_id"])
async def test_a_session_emptied_key_by_key_keeps_what_others_put_in(grow):
    """Deleting the last key, as taking a message does, undoes neither another request's key nor its log-in."""
    world = World()
    card = await world.begin(message="hello")
    adding, emptying = await world.two(card)
    adding.session[grow] = 1
    await adding.commit()
    del emptying.session["message"]
    await emptying.commit()
    assert emptying.cookie is Cookie.KEEP
    assert await world.data(adding.card or card) == {grow: 1}


async def test_a_request_from_before_a_log_in_leaves_the_users_forms_good():
    """A CSRF token that it makes does not take the place of the one in the user's page."""
    world = World()
    logging_in, slow = await world.two(await world.begin(a=1))
    logging_in.session["user_id"] = "a"
    token = csrf_token(logging_in.session)
    await logging_in.commit()
    csrf_token(slow.session)
    slow.session["b"] = 2
    await slow.commit()
    visit = await world.arrive(logging_in.card)
    assert verify_csrf_token(visit.session, token)
    assert visit.session["b"] == 2


@pytest.mark.parametrize("act", ["save", "clear", "revoke"])
async def test_a_store_that_contradicts_itself_holds_nobody_for_ever(act, monkeypatch):
    """It answers with a version and refuses to save over it: that is an error, and in the end it is said."""
    monkeypatch.setattr("roomkey.lifecycle._REFUSED_WAIT", 0)

    world = World()
    visit, other = await world.two(await world.begin(a=1))
    stale = dict(world.store._records)
    other.session["b"] = 2
    await other.commit()
    world.store.load = lambda key: asyncio.sleep(0, stale.get(key))
    with pytest.raises(StoreUnavailable, match="replica"):
        if act == "revoke":
            await Sessions(world.life).revoke(visit.key)
        elif act == "clear":
            visit.session.clear()
            await visit.commit()
        else:
            visit.session["c"] = 3
            await visit.commit()


@pytest.mark.parametrize("act", ["save", "revoke"])
async def test_a_replica_that_lags_is_waited_for(act, monkeypatch):
    """What it answers late is waited for."""
    monkeypatch.setattr("roomkey.lifecycle._REFUSED_WAIT", 0)

    world = World()
    card = await world.begin(a=1)
    visit, other = await world.two(card)
    stale, asked = dict(world.store._records), Counter()
    other.session["b"] = 2
    await other.commit()
    load = world.store.load

    async def late(key):
        asked[key] += 1
        return stale.get(key) if asked[key] < 30 else await load(key)

    world.store.load = late
    if act == "revoke":
        assert await Sessions(world.life).revoke(visit.key) is True
    else:
        visit.session["c"] = 3
        await visit.commit()
    assert await world.data(card) == (None if act == "revoke" else {"a": 1, "b": 2, "c": 3})


async def test_a_session_that_two_requests_empty_ends():
    """Where nothing is left by anybody, the session ends."""
    world = World()
    one, two = await world.two(await world.begin(a=1, b=2))
    del one.session["a"]
    await one.commit()
    del two.session["a"], two.session["b"]
    await two.commit()
    assert two.cookie is Cookie.CLEAR
    assert world.live() == []


async def test_a_log_out_key_by_key_ends_what_others_put_in():
    """A user's session that is emptied was a log-out: what the user's other request wrote goes too."""
    world = World()
    adding, emptying = await world.two(await world.begin(user_id="a"))
    adding.session["x"] = 1
    await adding.commit()
    del emptying.session["user_id"]
    await emptying.commit()
    assert emptying.cookie is Cookie.CLEAR
    assert world.live() == []


@pytest.mark.parametrize("act", ["invalidate", "clear"])
@pytest.mark.parametrize("user", [None, "a"])
async def test_an_explicit_log_out_ends_what_others_put_in(act, user):
    """`clear()` and `invalidate()` end the session with what another request wrote while it ran."""
    world = World()
    adding, ending = await world.two(await world.begin(a=1, **({} if user is None else {"user_id": user})))
    adding.session["x"] = 1
    await adding.commit()
    getattr(ending.session, act)()
    await ending.commit()
    assert ending.cookie is Cookie.CLEAR
    assert world.live() == []


@pytest.mark.parametrize("act", ["invalidate", "clear"])
async def test_an_anonymous_request_logs_nobody_out(act):
    """A session that was nobody's is cleared by a slow request after somebody logged in: they stay logged in."""
    world = World()
    logging_in, slow = await world.two(await world.begin(a=1))
    logging_in.session.update(b=2, user_id="a")
    await logging_in.commit()
    getattr(slow.session, act)()
    await slow.commit()
    assert slow.cookie is Cookie.KEEP
    assert await world.data(logging_in.card) == {"b": 2, "user_id": "a"}
    assert slow.session == {}


@pytest.mark.parametrize("user", [None, "b"])
async def test_what_begins_after_invalidate_does_not_take_a_log_ins_cookie(user):
    """An anonymous request that invalidates and begins anew gives no cookie over another's log-in, but by a log-in."""
    world = World()
    logging_in, slow = await world.two(await world.begin(a=1))
    logging_in.session["user_id"] = "a"
    await logging_in.commit()
    slow.session.invalidate()
    slow.session.update(c=3, **({} if user is None else {"user_id": user}))
    if user is None:
        with pytest.raises(SessionEnded):
            await slow.session.save()
        assert slow.cookie is Cookie.KEEP
    else:
        await slow.session.save()
        assert await world.data(slow.card) == {"c": 3, "user_id": "b"}
    assert await world.data(logging_in.card) == {"user_id": "a"}


@pytest.mark.parametrize("seal", [False, True])
async def test_a_request_from_before_a_log_in_goes_on_saving_and_sees_nothing(seal):
    """Its keys and its counting go into the user's session, once each; what the user has, it is never shown."""
    world = World(seal=seal)
    logging_in, slow = await world.two(await world.begin(a=1))
    logging_in.session.update(secret="theirs", user_id="a")
    await logging_in.commit()
    slow.session["b"] = 2
    slow.session.change("n", lambda n: n + 1, default=0)
    await slow.session.save()
    assert slow.session == {"a": 1, "b": 2, "n": 1}
    other = await world.arrive(logging_in.card)
    other.session.update(b=3)
    other.session.change("n", lambda n: n + 10)
    await other.commit()
    slow.session.change("n", lambda n: n + 1)
    slow.session.remember(5)
    await slow.session.save()
    await slow.session.save()
    assert slow.session == {"a": 1, "b": 2, "n": 2}
    assert slow.cookie is Cookie.KEEP
    assert await world.data(logging_in.card) == {"a": 1, "b": 3, "n": 12, "secret": "theirs", "user_id": "a"}
    assert (await world.arrive(logging_in.card)).facts.lifetime is None


@pytest.mark.parametrize("login", [False, True])
async def test_in_flight_visit_lays_over_the_successor(login):
    """A visit that loaded before a rotation saves into the successor and sends no cookie."""
    world = World()
    rotator, late = await world.two(await world.begin(x=1))
    rotator.session["r"] = 1
    if login:
        rotator.session["user_id"] = "a"
    else:
        rotator.session.rotate()
    await rotator.commit()
    late.session["late"] = 1
    await late.commit()
    assert late.cookie is Cookie.KEEP
    assert late.card == b""
    data = await world.data(rotator.card)
    assert (data["x"], data["r"], data["late"]) == (1, 1, 1)


async def test_rotate_twice():
    """Rotating in two requests after each other leaves only the last card alive."""
    world = World()
    cards = [await world.begin(x=1)]
    for _ in range(2):
        visit = await world.arrive(cards[-1])
        visit.session.rotate()
        visit.session.rotate()
        await visit.commit()
        cards.append(visit.card)
    assert [await world.data(card) for card in cards] == [None, None, {"x": 1}]


async def test_concurrent_rotations():
    """Two requests that rotate at once keep one session, which holds both their keys and opens with the last card."""
    world = World()
    one, two = await world.two(await world.begin(x=1))
    for name, visit in (("one", one), ("two", two)):
        visit.session[name] = 1
        visit.session.rotate(grace=10)
        await visit.commit()
    assert await world.data(two.card) == {"x": 1, "one": 1, "two": 1}
    assert await world.data(one.card) == await world.data(two.card)
    assert len(world.live()) == 1


async def test_rotate_then_clear():
    """Clear beats rotate: the session ends and the cookie is taken back."""
    world = World()
    card = await world.begin(x=1)
    visit = await world.arrive(card)
    visit.session.rotate(grace=30)
    visit.session.clear()
    await visit.commit()
    assert visit.cookie is Cookie.CLEAR
    assert await world.data(card) is None
    assert world.live() == []


@pytest.mark.parametrize("grace", [-1, float("inf"), float("nan")])
def test_rotate_refuses_grace(grace):
    """A grace that is negative or not finite is a ValueError."""
    with pytest.raises(ValueError, match="grace"):
        Lifecycle(SessionConfig(secret_key="k" * 32, store="memory://")).anonymous().session.rotate(grace)


# --- log-out ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["clear", "invalidate"])
@pytest.mark.parametrize("writer_first", [True, False])
async def test_log_out_is_final(how, writer_first):
    """A log-out ends the session whether a concurrent writer saves before or after it."""
    world = World()
    card = await world.begin(user_id="a", x=1)
    leaver, writer = await world.two(card)
    getattr(leaver.session, how)()
    writer.session["w"] = 1
    for visit in (writer, leaver) if writer_first else (leaver, writer):
        await visit.commit()
    assert leaver.cookie is Cookie.CLEAR
    assert writer.cookie is Cookie.KEEP
    assert writer.lost is not writer_first
    assert await world.data(card) is None
    assert world.live() == []


async def test_log_out_among_many_running_writers():
    """A log-out that runs at the same time as twenty writers leaves nothing alive."""
    world = World()
    card = await world.begin(user_id="a")
    visits = [await world.arrive(card) for _ in range(21)]
    for number, visit in enumerate(visits):
        visit.session[f"k{number}"] = number
    visits[10].session.clear()
    await asyncio.gather(*(visit.commit() for visit in visits))
    assert world.live() == []
    assert await world.data(card) is None


@pytest.mark.parametrize("together", [True, False])
async def test_log_out_racing_a_rotation_ends_the_successor(together):
    """A log-out that meets a rotation ends the session under its new ID too."""
    world = World()
    card = await world.begin(user_id="a")
    rotator, leaver = await world.two(card)
    rotator.session.rotate(grace=60)
    leaver.session.invalidate()
    if together:
        await asyncio.gather(rotator.commit(), leaver.commit())
    else:
        await rotator.commit()
        await leaver.commit()
    assert world.live() == []
    for given_card in filter(None, [card, rotator.card]):
        assert await world.data(given_card) is None


async def test_invalidate_then_new_data_is_a_new_session():
    """What is put in after invalidate starts a session with a new ID; the old one is dead."""
    world = World()
    card = await world.begin(x=1)
    visit = await world.arrive(card)
    visit.session.invalidate()
    visit.session["y"] = 2
    await visit.commit()
    assert visit.cookie is Cookie.GIVE
    assert visit.card != card
    assert await world.data(card) is None
    assert await world.data(visit.card) == {"y": 2}


# --- users in races ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("user", ["b", None])
async def test_change_of_user_drops_in_flight_changes(user):
    """When a session passes from A to B or to nobody, what A's requests in flight wrote is dropped."""
    world = World()
    switcher, late = await world.two(await world.begin(user_id="a"))
    switcher.session.clear()
    switcher.session["theme"] = "dark"
    if user is not None:
        switcher.session["user_id"] = user
    await switcher.commit()
    late.session["secret"] = "of a"
    await late.commit()
    assert late.lost
    assert late.cookie is Cookie.KEEP
    assert "secret" not in await world.data(switcher.card)
    assert all("secret" not in data for data in world.live())


@pytest.mark.parametrize("user", ["b", None])
async def test_change_of_user_after_a_concurrent_write_ends_the_old_session(user):
    """A → B, or A → nobody, takes effect although another request of A saved first: the old card is dead."""
    world = World()
    card = await world.begin(user_id="a", x=1)
    switcher, writer = await world.two(card)
    writer.session["w"] = 1
    await writer.commit()
    if user is None:
        del switcher.session["user_id"]
    else:
        switcher.session["user_id"] = user
    await switcher.commit()
    assert await world.data(card) is None
    assert await world.store.of_user("a") == []


@pytest.mark.parametrize("user", ["b", None])
async def test_cleared_log_in_takes_no_concurrent_write_of_the_user_before(user):
    """A → B, or A → nobody, that cleared the session holds nothing that another request of A saved meanwhile."""
    world = World()
    card = await world.begin(user_id="a", x=1)
    switcher, writer = await world.two(card)
    writer.session["secret"] = "of a"
    await writer.commit()
    switcher.session.clear()
    switcher.session["theme"] = "dark"
    if user is not None:
        switcher.session["user_id"] = user
    await switcher.commit()
    assert await world.data(card) is None
    assert "secret" not in (await world.data(switcher.card) or {})


@pytest.mark.parametrize("together", [True, False])
async def test_concurrent_log_ins_as_different_users(together):
    """Two log-ins as different users out of one anonymous session give two sessions that hold nothing of each other."""
    world = World()
    card = await world.begin(cart=1)
    visits = await world.two(card)
    for user, visit in zip("ab", visits, strict=True):
        visit.session["user_id"] = user
        visit.session[f"of_{user}"] = 1
    if together:
        await asyncio.gather(*(visit.commit() for visit in visits))
    else:
        for visit in visits:
            await visit.commit()
    for user, other, visit in zip("ab", "ba", visits, strict=True):
        assert visit.cookie is Cookie.GIVE
        data = await world.data(visit.card)
        assert data["user_id"] == user
        assert f"of_{user}" in data
        assert f"of_{other}" not in data
    assert visits[0].key != visits[1].key
    assert await world.data(card) is None


async def test_concurrent_log_ins_as_the_same_user():
    """Two log-ins as the same user end in one session with the keys of both, which the last card opens."""
    world = World()
    card = await world.begin(cart=1)
    one, two = await world.two(card)
    for name, visit in (("one", one), ("two", two)):
        visit.session["user_id"] = "a"
        visit.session[name] = 1
        await visit.commit()
    assert await world.data(two.card) == {"cart": 1, "user_id": "a", "one": 1, "two": 1}
    assert len(await world.store.of_user("a")) == 1
    assert await world.data(card) is None


async def test_log_in_when_the_anonymous_session_ended():
    """A log-in whose anonymous session was ended meanwhile gets a new session with this request's keys alone."""
    world = World()
    card = await world.begin(cart=1)
    enterer, leaver = await world.two(card)
    leaver.session.clear()
    await leaver.commit()
    enterer.session["user_id"] = "a"
    enterer.session["mine"] = 1
    await enterer.commit()
    assert enterer.cookie is Cookie.GIVE
    assert await world.data(enterer.card) == {"user_id": "a", "mine": 1}
    assert await world.data(card) is None


@pytest.mark.parametrize("clears", [False, True])
@pytest.mark.parametrize("owner", [None, "b"])
async def test_log_in_on_its_own_takes_only_what_its_request_assigned(owner, clears):
    """A log-in whose session has ended meanwhile, or was another user's, keeps a key that was assigned what it had."""
    world = World()
    before = {} if owner is None else {"user_id": owner}
    card = await world.begin(theme="dark", font="large", cart=["book"], visits=1, **before)
    enterer, leaver = await world.two(card)
    if owner is None:
        leaver.session.clear()
        await leaver.commit()
    if clears:
        enterer.session.clear()
    enterer.session["theme"] = "dark"
    enterer.session.setdefault("lang", "en")
    enterer.session["user_id"] = "a"
    enterer.session |= {"font": "large"}
    enterer.session.get("cart", []).append("pen")
    enterer.session.change("visits", lambda n: n + 1, default=0)
    await enterer.commit()
    own = {"user_id": "a", "theme": "dark", "font": "large", "lang": "en", "visits": 1}
    assert await world.data(enterer.card) == enterer.session == own


async def test_log_in_over_another_user_is_tried_again_after_an_outage():
    """What is assigned, the same as before too, is still there when the store did not save at the first try."""
    world = World()
    visit = await world.arrive(await world.begin(user_id="b", theme="dark", secret="of b"))
    visit.session.update(user_id="a", theme="dark")
    update, world.store.rotate = world.store.rotate, AsyncMock(side_effect=OSError)
    with pytest.raises(StoreUnavailable):
        await visit.commit()
    world.store.rotate = update
    visit.session["x"] = 1
    await visit.commit()
    assert await world.data(visit.card) == {"user_id": "a", "theme": "dark", "x": 1}


async def test_refresh_before_a_log_in_takes_nothing_of_another_user():
    """A log-in as B that refreshed after a concurrent log-in as A does not carry A's keys into B's session."""
    world = World()
    a, b = await world.two(await world.begin(cart=1))
    a.session.update(user_id="a", secret="of a")
    await a.commit()
    b.session["user_id"] = "b"
    try:
        await b.session.refresh()
    except SessionEnded:
        return
    await b.commit()
    assert "secret" not in (await world.data(b.card) or {})
    assert (await world.data(a.card) or {}).get("user_id") == "a"


async def test_saving_again_after_another_request_logged_in_gives_no_card():
    """A visit from before a log-in never gets the card of the logged-in session, however often it saves."""
    world = World()
    enterer, late = await world.two(await world.begin(cart=1))
    enterer.session["user_id"] = "a"
    await enterer.commit()
    late.session["one"] = 1
    await late.session.save()
    late.session["two"] = 2
    await late.commit()
    assert late.cookie is Cookie.KEEP
    assert await world.data(enterer.card) is not None


async def test_stream_saves_twice_after_another_request_logged_in():
    """A WebSocket from before a log-in can go on saving: nothing of it needs a cookie."""
    world = World()
    enterer, stream = await world.two(await world.begin(cart=1))
    stream.cookie_possible = False
    enterer.session["user_id"] = "a"
    await enterer.commit()
    for number in range(3):
        stream.session["n"] = number
        await stream.session.save()
    assert (await world.data(enterer.card))["n"] == 2


async def test_rotation_in_flight_never_gets_the_card_of_a_log_in():
    """A rotation asked for by a visit from before a log-in does not hand it the logged-in session's card."""
    world = World()
    enterer, late = await world.two(await world.begin(cart=1))
    enterer.session["user_id"] = "a"
    await enterer.commit()
    late.session.rotate(grace=30)
    await late.commit()
    assert late.cookie is Cookie.KEEP
    assert await world.data(enterer.card) is not None


# --- merging ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("many", [2, 30])
async def test_interleaved_increments_add_up(many):
    """N requests that increment one key with change() at once add N."""
    world = World()
    card = await world.begin(n=5)
    visits = [await world.arrive(card) for _ in range(many)]
    for visit in visits:
        visit.session.change("n", lambda n: n + 1)
    await asyncio.gather(*(visit.commit() for visit in visits))
    assert await world.data(card) == {"n": 5 + many}


async def test_writes_to_different_keys_are_all_kept():
    """Thirty requests that write and delete different keys at once lose nothing."""
    world = World()
    card = await world.begin(**{f"old{number}": number for number in range(30)})
    visits = [await world.arrive(card) for _ in range(30)]
    for number, visit in enumerate(visits):
        visit.session[f"new{number}"] = number
        del visit.session[f"old{number}"]
    await asyncio.gather(*(visit.commit() for visit in visits))
    assert await world.data(card) == {f"new{number}": number for number in range(30)}


async def test_assignment_beats_change():
    """A key that was changed and then assigned keeps the assigned value in a merge."""
    world = World()
    card = await world.begin(n=1)
    one, two = await world.two(card)
    one.session["n"] = 100
    await one.commit()
    two.session.change("n", lambda n: n + 1)
    two.session["n"] = 50
    await two.commit()
    assert await world.data(card) == {"n": 50}


async def test_change_with_a_mutable_default():
    """A list given as default is neither shared nor altered, and concurrent appends all arrive."""
    world = World()
    default = []
    card = await world.begin(x=1)
    visits = await world.two(card)
    for name, visit in zip("ab", visits, strict=True):

        def add(items, name=name):
            items.append(name)
            return items

        assert visit.session.change("items", add, default=default) == [name]
    for visit in visits:
        await visit.commit()
    assert await world.data(card) == {"x": 1, "items": ["a", "b"]}
    assert default == []


async def test_damage_between_load_and_merge():
    """A record that became unreadable between load and merge is StoreUnavailable and is left alone."""
    world = World()
    visit = await world.arrive(await world.begin(x=1))
    record = world.store._records[visit.key]
    damaged = replace(record, data=b"\xff rubbish", version=record.version + 1)
    world.store._records[visit.key] = damaged
    visit.session["y"] = 2
    with pytest.raises(StoreUnavailable, match="cannot be read"):
        await visit.commit()
    assert world.store._records[visit.key] == damaged


async def test_damaged_record_on_arrival():
    """A record that cannot be read makes an anonymous visit and is counted."""
    world = World()
    card = await world.begin(x=1)
    ((key, record),) = world.store._records.items()
    world.store._records[key] = replace(record, data=b"\x01\xc1")
    assert await world.data(card) is None
    assert world.life.refused["damaged"] == 1


# --- save, refresh, and what is refused -------------------------------------------------------------------------------


async def test_save_takes_in_what_others_saved():
    """After save() the session holds what is in the store, others' keys included."""
    world = World()
    card = await world.begin(x=1)
    one, two = await world.two(card)
    one.session["one"] = 1
    await one.commit()
    two.session["two"] = 2
    await two.session.save()
    assert two.session == {"x": 1, "one": 1, "two": 2} == await world.data(card)
    assert not two.session.modified


async def test_refresh_keeps_own_changes_on_top():
    """refresh() takes in others' keys; this request's assignments and change() calls stay on top."""
    world = World()
    card = await world.begin(n=1, x=1)
    one, two = await world.two(card)
    one.session.update(n=10, x=2, y=3)
    await one.commit()
    two.session.change("n", lambda n: n + 1)
    two.session["x"] = 5
    await two.session.refresh()
    assert two.session == {"n": 11, "x": 5, "y": 3}
    await two.commit()
    assert await world.data(card) == {"n": 11, "x": 5, "y": 3}


@pytest.mark.parametrize("call", ["save", "refresh"])
async def test_save_and_refresh_of_an_ended_session(call):
    """save() and refresh() raise SessionEnded when the session was ended meanwhile, and revive nothing."""
    world = World()
    leaver, other = await world.two(await world.begin(x=1))
    leaver.session.clear()
    await leaver.commit()
    other.session["y"] = 1
    with pytest.raises(SessionEnded):
        await getattr(other.session, call)()
    assert world.live() == []


async def test_new_session_after_the_response_started():
    """A new session that can no longer get its cookie is ResponseStarted and leaves no row."""
    world = World()
    visit = world.life.anonymous()
    visit.cookie_possible = False
    visit.session["x"] = 1
    with pytest.raises(ResponseStarted):
        await visit.commit()
    assert not world.store._records


@pytest.mark.parametrize("deed", ["rotate", "log in"])
async def test_rotation_after_the_response_started(deed):
    """A rotation that can no longer get its cookie is ResponseStarted and changes nothing."""
    world = World()
    card = await world.begin(x=1)
    before = dict(world.store._records)
    visit = await world.arrive(card)
    visit.cookie_possible = False
    if deed == "rotate":
        visit.session.rotate()
    else:
        visit.session["user_id"] = "a"
    with pytest.raises(ResponseStarted):
        await visit.commit()
    assert world.store._records == before


async def test_plain_write_after_the_response_started():
    """A write that needs no cookie is saved also after the response started."""
    world = World()
    card = await world.begin(x=1)
    visit = await world.arrive(card)
    visit.cookie_possible = False
    world.clock.advance(MAX_AGE / 2)
    visit.session["y"] = 1
    await visit.session.save()
    assert visit.cookie is Cookie.KEEP
    assert await world.data(card) == {"x": 1, "y": 1}


@pytest.mark.parametrize("new", [True, False])
async def test_max_bytes_names_the_largest_key(new):
    """A session that is too large is refused before it is stored; the message names its largest key, no value."""
    world = World(max_bytes=200)
    if new:
        visit = world.life.anonymous()
    else:
        visit = await world.arrive(await world.begin(x=1))
    before = dict(world.store._records)
    visit.session.update(small="s" * 20, largest="v" * 300)
    with pytest.raises(SessionDataError, match="'largest'") as caught:
        await visit.commit()
    assert "vvv" not in str(caught.value)
    assert "200" in str(caught.value)
    assert world.store._records == before
