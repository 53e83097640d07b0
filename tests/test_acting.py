"""Somebody acts for a user: whose session it is, what it may not do, and how it ends."""

import asyncio
import datetime as dt
from dataclasses import dataclass, field
from typing import TypedDict

import pytest

from roomkey import (
    ConfigurationError,
    ImpersonationError,
    LoginTooOld,
    SessionDataError,
    SessionEnded,
    SessionManager,
    Sessions,
    typed,
)
from roomkey.core.reply import Cookie
from roomkey.events import Created, Ended
from tests.core.unsure import Browser
from tests.world import START, World

HOUR = 3600.0  # seconds
STAFF, USER = 1, 7


class Desk(World):
    """An app with somebody of the support staff."""

    def __init__(self, **options):
        self.told = []
        super().__init__(**{"max_age": 4 * HOUR, "on_event": self.told.append, **options})
        self.sessions = Sessions(self.life.config)

    async def staff(self):
        """Return the card of somebody of the staff, with a cart of their own."""
        return await self.begin(user_id=STAFF, cart=["tea"])

    async def act(self, card, user=USER, **options):
        """Have the staff act for a user. Returns the new card."""
        visit = await self.arrive(card)
        await visit.session.impersonate(user, **options)
        await visit.commit()
        assert visit.cookie is Cookie.GIVE and visit.card != card
        return visit.card

    async def saves(self, card, **data):
        visit = await self.arrive(card)
        visit.session.update(data)
        await visit.commit()
        return visit

    async def who(self, card):
        """Return whose session a card opens, and who really sits there."""
        session = (await self.arrive(card)).session
        return session.get("user_id"), session.actor


@pytest.fixture(params=[False, True], ids=["plain", "sealed"])
def desk(request):
    return Desk(seal=request.param)


# --- whose session it is ----------------------------------------------------------------------------------------------


async def test_the_next_request_is_the_users(desk):
    """It holds the user and nothing else, and says who really sits there. The one that began it is the actor's."""
    card = await desk.staff()
    visit = await desk.arrive(card)
    await visit.session.impersonate(USER)
    assert visit.session["user_id"] == STAFF and visit.session.actor is None
    await visit.commit()
    session = (await desk.arrive(visit.card)).session
    assert session.copy() == {"user_id": USER} and session.actor == STAFF
    assert session.authenticated_at is None and session.level == 1 and not session.is_new
    assert session.expires_at == dt.datetime.fromtimestamp(START + 1800, dt.UTC)


async def test_the_card_from_before_is_dead(desk):
    """Whoever has a copy of it does not act for the user."""
    card = await desk.staff()
    await desk.act(card)
    assert await desk.who(card) == (None, None)


async def test_what_is_saved_is_the_users(desk):
    """Requests save into the session as into any other, also at once, and send no cookie."""
    card = await desk.act(await desk.staff())
    one, other = await desk.two(card)
    one.session["a"] = 1
    other.session["b"] = 2
    await asyncio.gather(one.commit(), other.commit())
    assert one.cookie is other.cookie is Cookie.KEEP
    assert await desk.data(card) == {"user_id": USER, "a": 1, "b": 2}


async def test_it_is_filed_under_both(desk):
    """The user sees in the list that somebody acts for them; the actor's own session is in the actor's."""
    await desk.act(await desk.staff())
    (theirs,), (own,) = await desk.sessions.of(USER), await desk.sessions.of(STAFF)
    assert (theirs.actor, own.actor) == (str(STAFF), None)
    assert theirs.expires_at.timestamp() == START + 1800


async def test_events_name_both(desk):
    """The beginning and the end."""
    card = await desk.act(await desk.staff())
    visit = await desk.arrive(card)
    await visit.session.stop_impersonating()
    await visit.commit()
    (created,) = [each for each in desk.told if isinstance(each, Created) and each.user == str(USER)]
    (ended,) = [each for each in desk.told if isinstance(each, Ended)]
    assert created.actor == ended.actor == str(STAFF) and ended.user == str(USER)
    assert created.handle == ended.handle


async def test_it_is_outside_of_the_users_limit():
    """The user's own session lives, and the user may log in as before."""
    desk = Desk(max_sessions_per_user=1)
    users = await desk.begin(user_id=USER)
    desk.clock.advance(1)
    card = await desk.act(await desk.staff())
    assert await desk.who(users) == (USER, None)
    desk.clock.advance(1)
    newer = await desk.begin(user_id=USER)
    assert await desk.who(users) == (None, None)
    assert await desk.who(newer) == (USER, None) and await desk.who(card) == (USER, STAFF)


# --- how it ends ------------------------------------------------------------------------------------------------------


async def stops(desk, card):
    visit = await desk.arrive(card)
    await visit.session.stop_impersonating()
    assert visit.session.copy() == {"user_id": STAFF, "cart": ["tea"]} and visit.session.actor is None
    await visit.commit()
    assert visit.cookie is Cookie.GIVE
    assert await desk.who(card) == (None, None)
    return visit.card


async def runs_out(desk, card):
    desk.clock.advance(1800)
    return card


async def user_revokes(desk, card):
    assert await desk.sessions.revoke_all(USER) == 1
    return card


async def user_revokes_one(desk, card):
    (info,) = await desk.sessions.of(USER)
    assert await desk.sessions.revoke(info.handle)
    return card


@pytest.mark.parametrize("end", [stops, runs_out, user_revokes, user_revokes_one])
async def test_the_way_back(desk, end):
    """However it ends, the browser has the actor's own session again, cart and all, and it is an ordinary one."""
    card = await desk.act(await desk.staff())
    card = await end(desk, card)
    assert await desk.who(card) == (STAFF, None)
    await desk.saves(card, theme="dark")
    assert await desk.data(card) == {"user_id": STAFF, "cart": ["tea"], "theme": "dark"}
    assert await desk.sessions.of(USER) == []
    desk.store.asked.clear()
    await desk.arrive(card)
    assert desk.store.asked == {"load": 1}
    (await desk.arrive(card)).session.rotate()


async def test_one_more_load_and_only_there(desk):
    """A request for a user costs one load more, and every other one what it did."""
    card = await desk.staff()
    await desk.arrive(card)
    assert desk.store.asked == {"load": 1}
    card = await desk.act(card)
    desk.store.asked.clear()
    await desk.arrive(card)
    assert desk.store.asked == {"load": 2}


async def test_its_time_is_absolute(desk):
    """Use does not prolong it."""
    card = await desk.act(await desk.staff(), seconds=dt.timedelta(minutes=10))
    for number in range(3):
        desk.clock.advance(190)
        visit = await desk.saves(card, n=number)
        assert visit.cookie is Cookie.KEEP
        assert visit.session.expires_at.timestamp() == START + 600
    desk.clock.advance(30)
    assert await desk.who(card) == (STAFF, None)


async def test_it_is_no_longer_than_the_actors_own_session_lives():
    """Nothing renews that meanwhile, and the way back has to be there."""
    desk = Desk(max_age=600)
    card = await desk.act(await desk.staff(), seconds=1800)
    assert (await desk.sessions.of(USER))[0].expires_at.timestamp() == START + 600
    desk.clock.advance(599)
    assert await desk.who(card) == (USER, STAFF)
    desk.clock.advance(1)
    assert await desk.who(card) == (None, None)


@pytest.mark.parametrize("way", ["revoke_all", "log-out", "limit"])
async def test_it_ends_with_the_actors_own_session(way):
    """Wherever that is ended from: the card opens nothing any more."""
    desk = Desk(max_sessions_per_user=1)
    before = await desk.staff()
    slow = await desk.arrive(before)
    card = await desk.act(before)
    if way == "revoke_all":
        assert await desk.sessions.revoke_all(STAFF) == 1
    elif way == "log-out":  # by a request that came before it began
        slow.session.clear()
        await slow.commit()
    else:
        desk.clock.advance(1)
        await desk.begin(user_id=STAFF)
    assert await desk.who(card) == (None, None)


@pytest.mark.parametrize("act", ["save", "refresh"])
async def test_a_request_under_way_hears_that_the_actor_is_gone(desk, act):
    """A stream saves nothing more in the user's name."""
    card = await desk.act(await desk.staff())
    visit = await desk.arrive(card)
    visit.session["a"] = 1
    await visit.session.save()
    await desk.sessions.revoke_all(STAFF)
    visit.session["b"] = 2
    with pytest.raises(SessionEnded):
        await getattr(visit.session, act)()


@pytest.mark.parametrize("leaves", [False, True], ids=["clear", "clear, and a message"])
async def test_a_log_out_ends_both(desk, leaves):
    """Nobody is logged in on that browser after it, neither the user nor the actor."""
    card = await desk.act(await desk.staff())
    visit = await desk.arrive(card)
    visit.session.clear()
    if leaves:
        visit.session.flash("Bye")
    await visit.commit()
    assert visit.cookie is (Cookie.GIVE if leaves else Cookie.CLEAR)
    assert await desk.who(card) == (None, None)
    assert await desk.sessions.of(USER) == await desk.sessions.of(STAFF) == []
    if leaves:
        assert await desk.who(visit.card) == (None, None)


async def test_a_log_out_beside_another_card(desk):
    """Where the browser brings two of our cookies, it ends what each of them opens."""
    other = await desk.begin(user_id=8)
    card = await desk.act(await desk.staff())
    visit = await desk.life.arrive([card, other])
    assert visit.session.actor == STAFF
    visit.session.clear()
    await visit.commit()
    for user in (STAFF, USER, 8):
        assert await desk.sessions.of(user) == []


async def test_a_request_under_way_when_it_stops(desk):
    """It is the user's session that has ended: nothing of it is saved, and nothing goes into the actor's."""
    card = await desk.act(await desk.staff())
    slow = await desk.arrive(card)
    card = await stops(desk, card)
    slow.session["late"] = 1
    with pytest.raises(SessionEnded):
        await slow.session.save()
    await slow.commit()
    assert slow.cookie is Cookie.KEEP and "late" not in await desk.data(card)


async def test_stopping_twice(desk):
    """The second time does nothing."""
    card = await desk.act(await desk.staff())
    one, other = await desk.two(card)
    await one.session.stop_impersonating()
    await one.session.stop_impersonating()
    await one.commit()
    await other.session.stop_impersonating()
    assert other.session["user_id"] == STAFF
    await other.commit()
    assert other.cookie is Cookie.KEEP and await desk.who(one.card) == (STAFF, None)


class Visit(TypedDict, total=False):
    cart: list[str]
    seen: list[str]


async def test_nothing_of_the_user_comes_along(desk):
    """Neither what views and messages of the request hold, nor what it has changed and not saved."""
    card = await desk.act(await desk.staff())
    visit = await desk.arrive(card)
    visit.session.flash("for the user")
    await visit.commit()
    visit = await desk.arrive(card)
    view = typed(visit.session, Visit)
    view.setdefault("seen", []).append("a")
    await visit.session.flashes()
    visit.session["x"] = 1
    await visit.session.stop_impersonating()
    visit.session.keep_flashes()
    visit.session["y"] = 2
    await visit.commit()
    assert await desk.data(visit.card) == {"user_id": STAFF, "cart": ["tea"], "y": 2}


@dataclass
class Seen:
    seen: list[str] = field(default_factory=list)


async def test_a_view_of_the_users_session(desk):
    """What it has handed out goes into that session, or nowhere."""
    card = await desk.act(await desk.staff())
    visit = await desk.arrive(card)
    typed(visit.session, Seen).seen.append("a")
    await visit.session.stop_impersonating()
    await visit.commit()
    assert await desk.data(visit.card) == {"user_id": STAFF, "cart": ["tea"]}


def test_blocking_code():
    """It begins and stops through `manager.sync`, as everything that is awaited."""
    manager = SessionManager(secret_key="k" * 32, store="memory://")
    cookie = None

    def ask(act):
        nonlocal cookie
        session = manager.sync.load(cookie)
        seen = act(session)
        for name, value in manager.sync.commit(session, status=200, headers=[("x-app", "1")]):
            cookie = value.partition(";")[0] if name == "set-cookie" else cookie
        return seen

    ask(lambda session: session.update(user_id=STAFF))
    ask(lambda session: manager.sync.run(session.impersonate(USER)))
    assert ask(lambda session: (session["user_id"], session.actor)) == (USER, STAFF)
    ask(lambda session: manager.sync.run(session.stop_impersonating()))
    assert ask(lambda session: (session["user_id"], session.actor)) == (STAFF, None)


# --- what may not be --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "act",
    [
        lambda session: session.reauthenticated(),
        lambda session: session.reauthenticated(level=2),
        lambda session: session.remember(60),
        lambda session: session.rotate(),
        lambda session: session.regenerate_id(),
    ],
)
async def test_what_nobody_does_in_the_users_name(desk, act):
    """It is an error, and nothing is asked."""
    card = await desk.act(await desk.staff())
    visit = await desk.arrive(card)
    with pytest.raises(ImpersonationError):
        act(visit.session)
    await visit.commit()
    assert visit.cookie is Cookie.KEEP and await desk.who(card) == (USER, STAFF)


@pytest.mark.parametrize("first", [None, "clear", "invalidate"])
@pytest.mark.parametrize("user", [USER, STAFF, 8])
async def test_nobody_logs_in_meanwhile(desk, user, first):
    """A log-in form that is sent there is an error: it would be a log-in that the user never made."""
    card = await desk.act(await desk.staff())
    visit = await desk.arrive(card)
    if first is not None:
        getattr(visit.session, first)()
    visit.session["user_id"] = user
    if (user, first) == (USER, None):
        return
    with pytest.raises(ImpersonationError):
        await visit.session.save()
    assert await desk.who(card) == (USER, STAFF)


async def test_it_is_not_nested(desk):
    """Who acts for a user acts for nobody else."""
    card = await desk.act(await desk.staff())
    visit = await desk.arrive(card)
    with pytest.raises(LoginTooOld):  # the session has no log-in of its own
        await visit.session.impersonate(8)
    assert await desk.who(card) == (USER, STAFF)


async def test_it_needs_a_recent_log_in(desk):
    """Of the actor, in the last five minutes, or in the time that is given."""
    card = await desk.staff()
    desk.clock.advance(301)
    visit = await desk.arrive(card)
    with pytest.raises(LoginTooOld):
        await visit.session.impersonate(USER)
    await visit.session.impersonate(USER, within=HOUR)


@pytest.mark.parametrize("user", [STAFF, str(STAFF)])
async def test_nobody_acts_for_themselves(desk, user):
    """That would be a session without a log-in."""
    visit = await desk.arrive(await desk.staff())
    with pytest.raises(ImpersonationError):
        await visit.session.impersonate(user)


@pytest.mark.parametrize("user", [None, "", 1.5, ["7"]])
async def test_users_that_are_none(desk, user):
    """The error says what an ID is."""
    visit = await desk.arrive(await desk.staff())
    with pytest.raises(SessionDataError):
        await visit.session.impersonate(user)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), 86_401, "1800", None, True])
async def test_wrong_times(desk, seconds):
    """The error says what it takes."""
    visit = await desk.arrive(await desk.staff())
    with pytest.raises(ValueError, match="impersonate: seconds is"):
        await visit.session.impersonate(USER, seconds=seconds)


async def test_a_log_in_that_is_not_saved_yet(desk):
    """The request has to come with the log-in."""
    visit = desk.life.anonymous()
    visit.session["user_id"] = STAFF
    with pytest.raises(LoginTooOld):
        await visit.session.impersonate(USER)


@pytest.mark.parametrize("options", [{"user_key": None}, {"store": "cookie://"}])
async def test_where_it_cannot_be(options):
    """Without a `user_key`, and where nothing is kept on the server, it is an error that says so."""
    manager = SessionManager(**{"secret_key": "k" * 32, "store": "memory://", **options})
    session = await manager.load(None)
    session["user_id"] = STAFF
    session.reauthenticated()
    with pytest.raises(ConfigurationError, match=r"user_key|cookie"):
        await session.impersonate(USER)


async def test_what_a_session_says_of_its_actor_counts_nothing(desk):
    """A page that puts what a client sends into its session has nobody act for anybody."""
    card = await desk.staff()
    await desk.saves(card, actor=8, _actor=8, acting="x" * 64)
    assert await desk.who(card) == (STAFF, None)


# --- other requests of the actor --------------------------------------------------------------------------------------


async def test_requests_from_before_it_began(desk):
    """They save into the actor's own session, and take no card; what they save is there afterwards."""
    card = await desk.staff()
    slow = await desk.arrive(card)
    new = await desk.act(card)
    slow.session["late"] = 1
    slow.session.rotate()
    await slow.commit()
    assert slow.cookie is Cookie.KEEP
    assert await desk.who(new) == (USER, STAFF)
    card = await user_revokes(desk, new)
    assert await desk.data(card) == {"user_id": STAFF, "cart": ["tea"], "late": 1}


async def test_a_stolen_card_does_not_act_for_the_user(desk):
    """A thief with the actor's password and an old card gets the actor's session, and not the user's."""
    card = await desk.staff()
    thief = await desk.arrive(card)
    await desk.act(card)
    thief.session.reauthenticated()
    await thief.commit()
    assert thief.cookie is Cookie.GIVE
    assert await desk.who(thief.card) == (STAFF, None)


@pytest.mark.parametrize("user", [STAFF, 8])
async def test_a_log_in_by_a_request_from_before_it_began(desk, user):
    """The session is that of whoever logs in, and nobody acts in it."""
    card = await desk.staff()
    slow = await desk.arrive(card)
    await desk.act(card)
    slow.session.clear()
    slow.session["user_id"] = user
    await slow.commit()
    visit = await desk.arrive(slow.card)
    assert (visit.session["user_id"], visit.session.actor) == (user, None)
    assert visit.session._at.facts.acting == b""


async def test_two_that_begin_it_at_once(desk):
    """The second one has not come with the session as it is now: it is refused, and nothing of it is saved."""
    card = await desk.staff()
    one, other = await desk.two(card)
    await one.session.impersonate(USER)
    await other.session.impersonate(8)
    await one.commit()
    with pytest.raises(LoginTooOld):
        await other.commit()
    assert await desk.who(one.card) == (USER, STAFF)


async def test_one_begins_while_another_request_notes_that_the_last_one_has_ended(desk):
    """It noted the end of that one, and does not end the new one."""
    card = await user_revokes(desk, await desk.act(await desk.staff()))
    slow = await desk.arrive(card)
    new = await desk.act(card, 8)
    slow.session["late"] = 1
    await slow.commit()
    assert await desk.who(new) == (8, STAFF)


async def test_a_request_from_before_somebody_proved_who_they_are(desk):
    """It begins nothing in the actor's name, whoever sent it."""
    card = await desk.staff()
    slow = await desk.arrive(card)
    visit = await desk.arrive(card)
    visit.session.reauthenticated()
    desk.clock.advance(1)
    await visit.commit()
    await slow.session.refresh()
    with pytest.raises(LoginTooOld):
        await slow.session.impersonate(USER)
    assert await desk.who(visit.card) == (STAFF, None) and await desk.sessions.of(USER) == []


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("mode", ["done", "lost", "late"])
async def test_a_beginning_that_was_not_answered(mode, waits):
    """Once it is known that it was done, it is this request's own, which may go on as before."""
    browser = Browser(waits=waits)
    await browser.begin(user_id=STAFF)
    session = await browser.load()
    await session.impersonate(USER)
    browser.store.script = [mode]
    assert await browser.fails_to_save(session)
    browser.store.script = []
    session["x"] = 1
    await browser.save(session)
    handle = session.handle
    session.rotate()
    await browser.save(session)
    assert session.handle != handle
    await browser.answer(session)
    session = await browser.load()
    assert (session["user_id"], session.actor) == (USER, STAFF)
