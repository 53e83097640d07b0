"""Levels: what a user has proved is kept with its moment, and counts for whoever proved it, and nobody else."""

import base64
import datetime as dt

import itsdangerous
import pytest

from roomkey import LevelTooLow, SessionDataError, SessionManager
from roomkey.core.reply import Cookie
from roomkey.legacy import StarletteCookie
from roomkey.stores.memory import MemoryStore
from tests.core.unsure import Browser
from tests.world import START, World

HOUR = 3600.0  # seconds
OLD_KEY = "the secret key of the old library"


def passes(session, level, within=None):
    try:
        session.require_level(level, within=within)
    except LevelTooLow:
        return False
    return True


def told(session):
    return [(each.level, each.method, each.at.timestamp()) for each in session.proofs]


async def logged_in(world, user=7, **proof):
    """Return the card of a user who logged in, and proved something with that or afterwards."""
    visit = world.life.anonymous()
    visit.session["user_id"] = user
    if proof:
        visit.session.reauthenticated(**proof)
    await visit.commit()
    return visit.card


async def proves(world, card, **proof):
    """Have the user prove something. Returns the new card."""
    visit = await world.arrive(card)
    visit.session.reauthenticated(**proof)
    await visit.commit()
    assert visit.cookie is Cookie.GIVE
    return visit.card


@pytest.fixture(params=[False, True], ids=["plain", "sealed"])
def world(request):
    return World(seal=request.param, max_age=10 * HOUR)


# --- what is kept -----------------------------------------------------------------------------------------------------


async def test_a_visitor_has_no_level(world):
    """Nobody has proved anything, also after `reauthenticated`."""
    session = world.life.anonymous().session
    session.reauthenticated(level=2, method="totp")
    assert session.level == 0 and session.proofs == () and not passes(session, 1)


async def test_a_plain_log_in_is_level_1(world):
    """And no more, however long it lasts; within a time it counts from the log-in."""
    session = (await world.arrive(await logged_in(world))).session
    assert session.level == 1 and session.proofs == ()
    world.clock.advance(901)
    assert passes(session, 1) and not passes(session, 1, within=900) and passes(session, 1, within=901)
    assert not passes(session, 2)


@pytest.mark.parametrize("then", ["at the log-in", "later"])
async def test_what_was_proved_is_kept_with_its_moment(world, then):
    """The next request knows the level, the method and the moment; older than asked for, it does not pass."""
    proof = {"level": 2, "method": "totp"}
    card = await logged_in(world, **(proof if then == "at the log-in" else {}))
    if then == "later":
        card = await proves(world, card, **proof)
    world.clock.advance(900)
    session = (await world.arrive(card)).session
    assert session.level == 2 and told(session) == [(2, "totp", START)]
    assert session.proofs[0].at.tzinfo is dt.UTC
    assert passes(session, 2, within=900) and passes(session, 1, within=dt.timedelta(minutes=15))
    world.clock.advance(1)
    assert not passes(session, 2, within=900) and passes(session, 2) and session.level == 2


async def test_the_error_says_what_is_needed(world):
    """A handler can tell by it where to send the user."""
    session = (await world.arrive(await logged_in(world))).session
    with pytest.raises(LevelTooLow, match="level 2") as caught:
        session.require_level(2, within=dt.timedelta(minutes=15))
    assert (caught.value.level, caught.value.within) == (2, 900)


async def test_a_proof_counts_in_the_request_that_says_so(world):
    """Before it is saved, and after it."""
    visit = await world.arrive(await logged_in(world))
    visit.session.reauthenticated(level=3, method="passkey")
    assert visit.session.level == 3 and told(visit.session) == [(3, "passkey", START)]
    await visit.session.save()
    assert visit.session.level == 3 and told(visit.session) == [(3, "passkey", START)]


async def test_several_proofs(world):
    """Each counts from its own moment: a password that is given again does not make an old code young."""
    card = await logged_in(world, level=2, method="totp")
    world.clock.advance(800)
    card = await proves(world, card, method="password")
    world.clock.advance(200)
    session = (await world.arrive(card)).session
    assert told(session) == [(2, "totp", START), (1, "password", START + 800)]
    assert session.level == 2 and not passes(session, 2, within=900) and passes(session, 1, within=300)
    session.require_recent(300)
    card = await proves(world, card, level=2, method="totp")
    session = (await world.arrive(card)).session
    assert told(session) == [(1, "password", START + 800), (2, "totp", START + 1000)]


@pytest.mark.parametrize("act", ["rotate", "remember", "save", "renew", "refresh"])
async def test_what_keeps_a_proof(world, act):
    """A rotation, another lifetime, a save and a renewal."""
    card = await logged_in(world, level=2, method="totp")
    world.clock.advance(2 * HOUR)
    visit = await world.arrive(card)
    if act == "remember":
        visit.session.remember(HOUR)
    elif act == "save":
        visit.session.change("n", lambda n: n + 1, default=0)
    elif act == "rotate":
        visit.session.rotate()
    elif act == "refresh":
        await visit.session.refresh()
    else:
        visit.session.get("theme")
    await visit.commit()
    session = (await world.arrive(visit.card or card)).session
    assert session.level == 2 and told(session) == [(2, "totp", START)]


# --- what forgets it --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "act",
    [
        lambda session: session.update(user_id=8),
        lambda session: (session.clear(), session.update(user_id=7)),
        lambda session: (session.invalidate(), session.update(user_id=7)),
    ],
    ids=["another user", "the same user after clear", "after invalidate"],
)
@pytest.mark.parametrize("when", ["before", "with it"])
async def test_a_log_in_forgets_what_was_proved(world, act, when):
    """Also what was said before it in the same request: that was about whoever was logged in then."""
    card = await logged_in(world, level=2, method="totp")
    visit = await world.arrive(card)
    if when == "with it":
        visit.session.reauthenticated(level=3, method="passkey")
    act(visit.session)
    assert visit.session.level == 1 and visit.session.proofs == ()
    await visit.commit()
    session = (await world.arrive(visit.card)).session
    assert session.level == 1 and session.proofs == ()


async def test_what_is_said_after_the_log_in_is_about_the_new_user(world):
    """In one request with it."""
    card = await logged_in(world, level=3, method="passkey")
    visit = await world.arrive(card)
    visit.session["user_id"] = 8
    visit.session.reauthenticated(level=2, method="totp")
    await visit.commit()
    session = (await world.arrive(visit.card)).session
    assert session["user_id"] == 8 and told(session) == [(2, "totp", START)]


async def test_a_log_out_forgets_what_was_proved(world):
    """What stays in the session is nobody's, and the next log-in begins at level 1."""
    card = await logged_in(world, level=2, method="totp")
    visit = await world.arrive(card)
    visit.session.clear()
    visit.session["message"] = "Bye"
    await visit.commit()
    visit = await world.arrive(visit.card)
    assert visit.session.level == 0 and visit.session.proofs == ()
    visit.session["user_id"] = 7
    await visit.commit()
    assert (await world.arrive(visit.card)).session.level == 1


async def test_without_a_user_key():
    """`reauthenticated` alone says that somebody has proved who they are, and `clear` that they have left."""
    world = World(user_key=None)
    card = await world.begin(theme="dark")
    assert (await world.arrive(card)).session.level == 0
    card = await proves(world, card, level=2, method="totp")
    visit = await world.arrive(card)
    assert visit.session.level == 2 and passes(visit.session, 2, within=900)
    visit.session.clear()
    visit.session["message"] = "Bye"
    assert visit.session.level == 0
    await visit.commit()
    session = (await world.arrive(visit.card or card)).session
    assert session.level == 0 and session.proofs == () and session.authenticated_at is None


async def test_a_session_that_moved_in(world):
    """Its user is logged in and has proved nothing that is known, so that a time for it is over."""
    old = itsdangerous.TimestampSigner(OLD_KEY).sign(base64.b64encode(b'{"user_id": 7}'))
    store = MemoryStore(clock=world.clock)
    manager = SessionManager(secret_key="k" * 32, store=store, clock=world.clock, legacy=[StarletteCookie(OLD_KEY)])
    session = await manager.load(b"session=" + old)
    assert session["user_id"] == 7 and session.level == 1 and session.proofs == ()
    assert passes(session, 1) and not passes(session, 1, within=900) and not passes(session, 2)


# --- other requests ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0, 5], ids=["at the same moment", "later"])
@pytest.mark.parametrize("then", ["save", "refresh"])
async def test_what_another_request_proves_does_not_count(world, then, seconds):
    """A request may have come with a stolen cookie: it saves into the session, and keeps the level that it had."""
    card = await logged_in(world)
    world.clock.advance(seconds)
    visit = await world.arrive(card)
    card = await proves(world, card, level=2, method="totp")
    for number in range(3):
        visit.session["x"] = number
        await getattr(visit.session, then)()
        assert visit.session.level == 1 and visit.session.proofs == () and not passes(visit.session, 2)
    visit.session.rotate()
    await visit.commit()
    assert visit.cookie is Cookie.KEEP
    session = (await world.arrive(card)).session
    assert session.level == 2 and told(session) == [(2, "totp", START + seconds)]


@pytest.mark.parametrize("saves_first", [False, True])
@pytest.mark.parametrize("seconds", [0, 1], ids=["at the same moment", "later"])
async def test_its_own_proof_takes_no_higher_one_of_another_request_along(world, saves_first, seconds):
    """A thief with the password and an old cookie gets a session of the level that the thief has proved."""
    card = await logged_in(world)
    world.clock.advance(HOUR)
    thief = await world.arrive(card)
    await proves(world, card, level=2, method="totp")
    world.clock.advance(seconds)
    if saves_first:
        thief.session["x"] = 1
        await thief.session.save()
    thief.session.reauthenticated(method="password")
    own = [(1, "password", START + HOUR + seconds)]
    assert thief.session.level == 1 and told(thief.session) == own and not passes(thief.session, 2)
    await thief.commit()
    assert thief.cookie is Cookie.GIVE and thief.session.level == 1
    session = (await world.arrive(thief.card)).session
    assert session.level == 1 and told(session) == own


async def test_two_proofs_at_once(world):
    """Each request has its own, on top of what both came with; the last one has the card, and the session is its."""
    card = await logged_in(world, level=1, method="password")
    one, other = await world.two(card)
    world.clock.advance(1)
    one.session.reauthenticated(level=2, method="totp")
    other.session.reauthenticated(level=3, method="passkey")
    await one.commit()
    await other.commit()
    assert (one.session.level, other.session.level) == (2, 3)
    session = (await world.arrive(other.card)).session
    assert told(session) == [(1, "password", START), (3, "passkey", START + 1)]
    assert await world.data(one.card) is None


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("mode", ["done", "lost", "late"])
async def test_its_own_proof_that_was_not_answered_counts(mode, waits):
    """Once it is known that it was done; a second one with the next save stands beside it."""
    browser = Browser(waits=waits)
    await browser.begin(user_id=7)
    session = await browser.load()
    session.reauthenticated(level=2, method="totp")
    browser.store.script = [mode]
    assert await browser.fails_to_save(session)
    browser.store.script = []
    session.reauthenticated(method="password")
    await browser.save(session)
    assert {each.method for each in session.proofs} == {"totp", "password"}
    await browser.answer(session)
    assert (await browser.load()).level == 2


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("act", ["rotate", "reauthenticated"])
async def test_a_save_over_anothers_proof_that_was_not_answered(waits, act):
    """Once it is known that it was done, the request has met that proof: it takes no card, or none of its level."""
    browser = Browser(waits=waits)
    await browser.begin(user_id=7)
    session, user = await browser.load(), await browser.load()
    user.reauthenticated(level=2, method="totp")
    await browser.save(user)
    session.change("n", lambda n: n + 1, default=0)
    browser.store.script = ["done"]
    assert await browser.fails_to_save(session)
    browser.store.script = []
    getattr(session, act)()
    await browser.save(session)
    assert session.level == 1 and session.proofs == () and session["n"] == 1
    await browser.answer(user)
    kept = await browser.load()
    assert kept.get("n") == (1 if act == "rotate" else None) and kept.level == (2 if act == "rotate" else 0)


# --- what was said wrongly --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0, 10, -1, 1.5, True, None, "2"])
def test_wrong_levels(level):
    """The error says what it takes."""
    session = World().life.anonymous().session
    with pytest.raises(ValueError, match=r"reauthenticated: level is .*from 1 to 9"):
        session.reauthenticated(level=level)
    with pytest.raises(ValueError, match=r"require_level: level is .*from 1 to 9"):
        session.require_level(level)


@pytest.mark.parametrize("method", ["", "m" * 33, "é" * 17, 2, b"totp", "\ud800"])
def test_wrong_methods(method):
    """So it does, and nothing is asked then."""
    session = World().life.anonymous().session
    with pytest.raises(ValueError, match=r"reauthenticated: method is .*1 to 32 bytes"):
        session.reauthenticated(method=method)
    assert not session.modified


@pytest.mark.parametrize("within", ["900", float("nan"), True])
def test_wrong_times(within):
    """As `require_recent` does."""
    session = World().life.anonymous().session
    with pytest.raises(ValueError, match="require_level: within is"):
        session.require_level(1, within=within)


async def test_a_user_that_is_no_id(world):
    """It is nobody's session until it is refused."""
    session = world.life.anonymous().session
    session["user_id"] = ["7"]
    assert session.level == 0
    with pytest.raises(SessionDataError):
        await session.save()
