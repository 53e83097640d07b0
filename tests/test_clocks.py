"""Each clock of a session: remembered for longer, the moment of the log-in, the step that needs a recent one."""

import dataclasses
import datetime as dt

import pytest

from roomkey import LoginTooOld, SessionConfig
from roomkey.core.reply import Cookie
from roomkey.stores.memory import MemoryStore
from roomkey.testing import Clock
from roomkey.wire.codec import make_facts, with_facts
from roomkey.wire.cookies import CookieWriter
from tests.driver import Driver

SECRET = "the secret key of these tests, 32 bytes and more"
START = 1_700_000_000.0
DAY = 86_400


class World:
    def __init__(self, **options):
        self.clock = Clock(START)
        options = {"max_age": 1000, "absolute_timeout": 30 * DAY, **options}
        self.store = MemoryStore(clock=self.clock)
        self.config = SessionConfig(secret_key=SECRET, store=self.store, clock=self.clock, **options)
        self.life = Driver(self.config)

    async def log_in(self, user=42, remember=None):
        visit = self.life.anonymous()
        visit.session["user_id"] = user
        if remember is not None:
            visit.session.remember(remember)
        await visit.commit()
        return visit

    async def arrive(self, card):
        return await self.life.arrive([card])

    async def use(self, card):
        """A request that reads; returns whether the session is there."""
        visit = await self.arrive(card)
        there = visit.session.get("user_id") is not None
        await visit.commit()
        return there


async def test_a_remembered_session_outlives_max_age():
    """`remember` keeps the session for that long after its last use, and each use starts that time anew."""
    world = World()
    card = (await world.log_in(remember=DAY)).card
    for _ in range(5):
        world.clock.advance(0.9 * DAY)
        assert await world.use(card)
    world.clock.advance(1.1 * DAY)
    assert not await world.use(card)


async def test_the_absolute_timeout_caps_a_remembered_session():
    """However long it is remembered and however busy, a session ends at its absolute timeout."""
    world = World(absolute_timeout=3 * DAY)
    visit = await world.log_in(remember=90 * DAY)
    assert visit.session.expires_at.timestamp() == START + 3 * DAY
    world.clock.advance(3 * DAY - 1)
    assert await world.use(visit.card)
    world.clock.advance(2)
    assert not await world.use(visit.card)


async def test_a_remembered_session_is_renewed_a_tenth_at_a_time():
    """Renewal is throttled to a tenth of the session's own lifetime, not of max_age."""
    world = World()
    card = (await world.log_in(remember=DAY)).card
    for seconds, cookie in ((0.05 * DAY, Cookie.KEEP), (0.06 * DAY, Cookie.GIVE)):
        world.clock.advance(seconds)
        visit = await world.arrive(card)
        assert visit.session["user_id"] == 42
        await visit.commit()
        assert visit.cookie is cookie


async def test_a_session_can_be_forgotten_again():
    """`remember(None)` goes back to max_age at once."""
    world = World()
    card = (await world.log_in(remember=DAY)).card
    visit = await world.arrive(card)
    visit.session.remember(None)
    await visit.commit()
    world.clock.advance(1001)
    assert not await world.use(card)


@pytest.mark.parametrize("seconds", [None, 100, 14 * DAY, 60 * DAY])
@pytest.mark.parametrize("begun", [False, True])
async def test_expires_at_says_what_will_be(begun, seconds):
    """At a log-in `expires_at` is what it will be once saved, for a session that has begun long ago too."""
    world = World()
    visit = world.life.anonymous()
    if begun:
        visit.session["cart"] = [1]
        await visit.commit()
        world.clock.advance(500)
        visit = await world.arrive(visit.card)
    visit.session["user_id"] = 42
    if seconds is not None:
        visit.session.remember(seconds)
    said = visit.session.expires_at
    await visit.commit()
    assert said == visit.session.expires_at == (await world.arrive(visit.card)).session.expires_at
    assert said.timestamp() == world.clock() + min(seconds or 1000, 30 * DAY)


async def test_another_user_is_not_remembered():
    """A change of user forgets the lifetime that the user before asked for."""
    world = World()
    visit = await world.arrive((await world.log_in(remember=DAY)).card)
    visit.session["user_id"] = 43
    await visit.commit()
    world.clock.advance(1001)
    assert not await world.use(visit.card)


async def test_concurrent_changes_keep_what_was_asked_for():
    """A write that merges over a `remember` keeps it, and the other way round."""
    for first, second in ((0, 1), (1, 0)):
        world = World()
        card = (await world.log_in()).card
        visits = [await world.arrive(card) for _ in range(2)]
        visits[0].session.remember(DAY)
        visits[1].session["x"] = 1
        await visits[first].commit()
        await visits[second].commit()
        world.clock.advance(0.5 * DAY)
        visit = await world.arrive(card)
        assert visit.session == {"user_id": 42, "x": 1}


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), float("nan")])
def test_a_wrong_time_is_refused(seconds):
    """`remember` takes a number of seconds above 0."""
    with pytest.raises(ValueError, match="remember"):
        World().life.anonymous().session.remember(seconds)


def test_the_cookie_of_a_remembered_session_outlives_the_browser():
    """With persistent=False only a remembered session's cookie has a Max-Age."""
    writer = CookieWriter(World(persistent=False).config)
    assert b"Max-Age" not in writer.give(b"card", 60)[1]
    assert b"Max-Age=60" in writer.give(b"card", 60, remembered=True)[1]


async def test_the_moment_of_the_log_in_is_known():
    """`authenticated_at` is None before, the moment of the log-in after, and None again for nobody."""
    world = World()
    visit = world.life.anonymous()
    assert visit.session.authenticated_at is None
    visit.session["x"] = 1
    await visit.commit()
    world.clock.advance(100)
    visit = await world.arrive(visit.card)
    visit.session["user_id"] = 42
    assert visit.session.authenticated_at == dt.datetime.fromtimestamp(START + 100, dt.UTC)
    await visit.commit()
    world.clock.advance(100)
    visit = await world.arrive(visit.card)
    assert visit.session.authenticated_at == dt.datetime.fromtimestamp(START + 100, dt.UTC)
    del visit.session["user_id"]
    await visit.commit()
    assert (await world.arrive(visit.card)).session.authenticated_at is None


async def test_a_dangerous_step_needs_a_recent_log_in():
    """`require_recent` passes within that time and raises after it, and for nobody."""
    world = World()
    with pytest.raises(LoginTooOld):
        world.life.anonymous().session.require_recent(60)
    card = (await world.log_in()).card
    world.clock.advance(60)
    (await world.arrive(card)).session.require_recent(60)
    world.clock.advance(1)
    with pytest.raises(LoginTooOld):
        (await world.arrive(card)).session.require_recent(60)


async def test_a_session_takes_spans_of_time_as_timedeltas():
    """`remember`, `require_recent` and `rotate` take a timedelta in the place of seconds."""
    world = World()
    visit = await world.log_in(remember=dt.timedelta(days=14))
    assert visit.session.expires_at.timestamp() == START + 14 * DAY
    world.clock.advance(60)
    old = visit.card
    visit = await world.arrive(old)
    visit.session.require_recent(dt.timedelta(minutes=1))
    with pytest.raises(LoginTooOld):
        visit.session.require_recent(dt.timedelta(seconds=59))
    visit.session.rotate(grace=dt.timedelta(seconds=30))
    await visit.commit()
    world.clock.advance(29)
    assert (await world.arrive(old)).session == {"user_id": 42}
    world.clock.advance(2)
    assert (await world.arrive(old)).session == {}
    for call in (visit.session.remember, visit.session.require_recent, visit.session.rotate):
        with pytest.raises(ValueError, match=r"datetime\.timedelta|seconds"):
            call("a day" if call == visit.session.require_recent else dt.timedelta(seconds=-1))


NOBODY = {
    "an empty session": lambda session: None,
    "a visitor's": lambda session: session.update(x=1),
    "a visitor who proves it": lambda session: session.reauthenticated(),
    "a value that is no ID": lambda session: session.update(user_id=False),
    "an empty ID": lambda session: session.update(user_id=""),
    "none that is left": lambda session: session.clear(),
}


@pytest.mark.parametrize("logged_in", [False, True])
@pytest.mark.parametrize("act", NOBODY.values(), ids=NOBODY)
async def test_no_dangerous_step_for_nobody(act, logged_in):
    """`require_recent` raises where nobody is logged in, in this request and in the next, whatever was called."""
    world = World()
    visit = world.life.anonymous()
    visit.session["x"] = 1
    await visit.commit()
    if logged_in:
        visit = await world.arrive(visit.card)
        visit.session["user_id"] = 42
        await visit.commit()
    visit = await world.arrive(visit.card)
    if logged_in:
        visit.session.pop("user_id")
    act(visit.session)
    assert visit.session.authenticated_at is None
    with pytest.raises(LoginTooOld):
        visit.session.require_recent(60)
    if visit.session.get("user_id") is not False and "x" in visit.session:
        await visit.commit()
        with pytest.raises(LoginTooOld):
            (await world.arrive(visit.card)).session.require_recent(60)


async def test_without_a_user_key_proving_it_is_what_counts():
    """With `user_key=None` the app alone knows who is logged in, and says so with `reauthenticated`."""
    world = World(user_key=None)
    visit = world.life.anonymous()
    visit.session["member"] = 42
    with pytest.raises(LoginTooOld):
        visit.session.require_recent(60)
    visit.session.reauthenticated()
    await visit.commit()
    (await world.arrive(visit.card)).session.require_recent(60)


@pytest.mark.parametrize("seconds", [float("nan"), "60", None, True])
async def test_recent_is_a_number_of_seconds(seconds):
    """What is not a number is refused: nothing is longer ago than "not a number" seconds."""
    world = World()
    visit = await world.log_in()
    with pytest.raises(ValueError, match="require_recent"):
        visit.session.require_recent(seconds)


@pytest.mark.parametrize("cap", [None, 9e10, 30 * DAY])
@pytest.mark.parametrize(
    "moment", [-1e11, -1e18, -1e300, float("-inf"), float("nan"), 1e12, 1e300, float("inf"), "x", None]
)
@pytest.mark.parametrize("field", ["created_at", "expires_at"])
async def test_a_record_whose_moments_no_clock_shows_is_damaged(field, moment, cap):
    """It is an anonymous request and a count. It is not listed, and nothing raises."""
    world = World(absolute_timeout=cap)
    visit, other = await world.log_in(), await world.log_in()
    record = dataclasses.replace(world.store._records[visit.key], **{field: moment})

    async def load(key):
        return record if key == visit.key else world.store._records[key]

    world.store.load, world.store.load_now = load, None
    found = await world.arrive(visit.card)
    assert found.record is None and found.session == {}
    assert found.session.created_at.timestamp() == found.session.created_at.timestamp() == START
    assert world.life.refused == {"damaged": 1}
    sessions = world.life.manager.sessions
    listed = world.store.of_user

    async def of_user(user):
        return [(key, record if key == visit.key else each) for key, each in await listed(user)]

    world.store.of_user = of_user
    assert [info.handle for info in await sessions.of(42)] == [other.key]
    assert await sessions.revoke_all(42, keep=other.session) == 0
    assert list(world.store._records) == [other.key]


@pytest.mark.parametrize("moment", [-1e11, 3e11, 1e300, START + 10 * DAY])
async def test_an_absurd_log_in_is_none(moment):
    """A log-in that no clock shows, or that lies ahead, is not known: no dangerous step is passed with it."""
    world = World()
    visit = await world.log_in()
    record = world.store._records[visit.key]
    data = with_facts(record.data, make_facts(moment, None))
    world.store._records[visit.key] = dataclasses.replace(record, data=data)
    found = await world.arrive(visit.card)
    assert found.session["user_id"] == 42 and found.session.authenticated_at is None
    with pytest.raises(LoginTooOld):
        found.session.require_recent(1e12)
    assert found.session.expires_at.timestamp() == START + 1000


ACTS = {
    "read": lambda session: session.get("x"),
    "write": lambda session: session.update(x=1),
    "rotate": lambda session: session.rotate(),
    "log in": lambda session: session.update(user_id=43),
    "log in again": lambda session: (session.clear(), session.update(user_id=42)),
    "reauthenticated": lambda session: session.reauthenticated(),
    "remember": lambda session: session.remember(5000),
    "less": lambda session: session.remember(500),
}


@pytest.mark.parametrize("cookie", [False, True], ids=["store", "cookie"])
@pytest.mark.parametrize("cap", [None, 1200])
@pytest.mark.parametrize("gone", [0, 50, 99, 100, 500, 950])
@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
async def test_expires_at_is_what_holds_after_this_response(act, gone, cap, cookie):
    """Where the response renews the session, `expires_at` is as the renewal makes it; else it is as it is stored."""
    world = World(absolute_timeout=cap) if not cap or act is not ACTS["remember"] else World(absolute_timeout=6000)
    if cookie:
        pytest.importorskip("cryptography")
        world.life = Driver(dataclasses.replace(world.config, store="cookie://"))
    card = (await world.log_in()).card
    world.clock.advance(gone)
    visit = await world.arrive(card)
    act(visit.session)
    shown = visit.session.expires_at
    await visit.commit()
    later = await world.arrive(visit.card or card)
    assert later.session.expires_at == shown
    assert later.session["user_id"] in (42, 43)
    if act is ACTS["read"]:
        kept = START + gone + 1000 if gone >= 100 else START + 1000
        assert shown.timestamp() == min(kept, START + cap if cap else kept)


async def test_expires_at_in_a_stream_is_what_the_store_keeps():
    """Where no cookie can go out any more, the session is kept for a little less, and `expires_at` says so."""
    world = World()
    visit = await world.log_in()
    world.clock.advance(950)
    visit = await world.arrive(visit.card)
    visit.cookie_possible = False
    shown = visit.session.expires_at
    await visit.commit()
    assert shown.timestamp() == START + 950 + 890
    assert visit.at.record.expires_at == START + 950 + 890


async def test_proving_it_again_is_a_recent_log_in():
    """`reauthenticated` sets the moment anew and gives the session a new ID; the old one is dead."""
    world = World()
    card = (await world.log_in()).card
    world.clock.advance(500)
    visit = await world.arrive(card)
    visit.session.reauthenticated()
    visit.session.require_recent(1)
    await visit.commit()
    assert visit.cookie is Cookie.GIVE and visit.card != card
    assert not await world.use(card)
    (await world.arrive(visit.card)).session.require_recent(1)


async def test_proving_it_again_starts_both_clocks_anew():
    """The absolute timeout counts from the last log-in, not from the first visit (NIST SP 800-63B section 5.2)."""
    world = World(max_age=DAY, absolute_timeout=DAY)
    visit = world.life.anonymous()
    visit.session["x"] = 1
    await visit.commit()
    for act in (lambda session: session.update(user_id=42), lambda session: session.reauthenticated()):
        world.clock.advance(0.8 * DAY)
        visit = await world.arrive(visit.card)
        act(visit.session)
        await visit.commit()
        assert visit.session.expires_at.timestamp() == world.clock() + DAY
    world.clock.advance(DAY + 1)
    assert not await world.use(visit.card)


async def test_anonymous_data_is_kept_through_the_log_in():
    """What was put into the session before the log-in is there after it, under the new ID only."""
    world = World()
    visit = world.life.anonymous()
    visit.session["cart"] = [1]
    await visit.commit()
    before = visit.card
    visit = await world.arrive(before)
    visit.session["user_id"] = 42
    await visit.commit()
    assert (await world.arrive(visit.card)).session == {"cart": [1], "user_id": 42}
    assert (await world.arrive(before)).session == {}


async def test_a_clock_that_goes_back_ends_nothing_early():
    """A session survives a clock that is set back, and does not live longer than its own clock says."""
    world = World()
    card = (await world.log_in()).card
    world.clock.advance(-500)
    assert await world.use(card)
    world.clock.advance(500 + 1001)
    assert not await world.use(card)
