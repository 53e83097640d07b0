"""A request runs while another proves who the user is: it has proved nothing, and may have a stolen card."""

import asyncio

import pytest

from roomkey import LoginTooOld, SessionMiddleware
from roomkey.core.reply import Cookie
from roomkey.testing import Clock
from tests.asgi import HELLO, SECRET, SpyStore, cookie_in, http_scope, start
from tests.core.unsure import Browser
from tests.world import World

HOUR = 3600.0  # seconds


def is_recent(session):
    try:
        session.require_recent(300)
    except LoginTooOld:
        return False
    return True


async def under_way(world, many=1):
    """Return the request that proved who the user is, and others that came before that, an hour after the log-in."""
    card = await world.begin(user_id=7)
    world.clock.advance(HOUR)
    visits = [await world.arrive(card) for _ in range(many)]
    user = await world.arrive(card)
    user.session.reauthenticated()
    await user.commit()
    world.clock.advance(1)
    return user, *visits


@pytest.mark.parametrize("then", ["save", "refresh"])
@pytest.mark.parametrize("seal", [False, True])
async def test_a_request_from_before_relies_on_what_it_came_with(then, seal):
    """Its changes are saved, and again later, and the user's proof stays with the session; the request has none."""
    world = World(seal=seal, max_age=10 * HOUR)
    user, visit = await under_way(world)
    logged_in = visit.session.authenticated_at
    for number in range(3):
        visit.session["x"] = number
        await getattr(visit.session, then)()
        assert visit.session.authenticated_at == logged_in
        assert not is_recent(visit.session)
    visit.session.rotate()
    visit.session["y"] = 1
    await visit.commit()
    assert visit.cookie is Cookie.KEEP
    assert await world.data(user.card) == {"user_id": 7, "x": 2, "y": 1}
    (record,) = [each for each in world.store._records.values() if each.successor is None]
    assert record.created_at == world.clock() - 1  # when the user proved it


async def test_its_own_proof_counts():
    """Also after it has met another's: it gets a new card, and relies on that proof until its end."""
    world = World(max_age=10 * HOUR)
    _, visit = await under_way(world)
    visit.session["x"] = 1
    await visit.session.save()
    assert not is_recent(visit.session)
    visit.session.reauthenticated()
    assert is_recent(visit.session)
    await visit.session.save()
    assert is_recent(visit.session)
    visit.session.rotate()
    await visit.commit()
    assert visit.cookie is Cookie.GIVE
    assert is_recent((await world.arrive(visit.card)).session)


async def test_its_own_log_in_counts():
    """A log-in of the same user after `clear()` is one."""
    world = World(max_age=10 * HOUR)
    _, visit = await under_way(world)
    await visit.session.refresh()
    visit.session.clear()
    visit.session["user_id"] = 7
    assert is_recent(visit.session)
    await visit.commit()
    assert visit.cookie is Cookie.GIVE
    assert is_recent((await world.arrive(visit.card)).session)


async def test_requests_that_are_saved_together():
    """None of them has a proof."""
    world = World(max_age=10 * HOUR)
    _, *visits = await under_way(world, 5)
    for number, visit in enumerate(visits):
        visit.session[f"x{number}"] = number
    await asyncio.gather(*(visit.session.save() for visit in visits))
    assert not any(is_recent(visit.session) for visit in visits)
    assert world.live() == [{"user_id": 7} | {f"x{number}": number for number in range(5)}]


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("mode", ["done", "lost", "late"])
async def test_its_own_proof_that_was_not_answered_counts(mode, waits):
    """Once it is known that it was done."""
    browser = Browser(waits=waits)
    await browser.begin(user_id=7)
    session = await browser.load()
    before = session.authenticated_at
    session.reauthenticated()
    browser.store.script = [mode]
    assert await browser.fails_to_save(session)
    browser.store.script = []
    session["x"] = 1
    await browser.save(session)
    assert session.authenticated_at > before
    await browser.answer(session)
    assert (await browser.load()).authenticated_at > before


async def test_a_task_after_the_request():
    """It goes on with the session of a request whose response is out, and has no proof either."""
    clock = Clock(1_000_000.0)
    tasks, seen = [], []

    async def handler(scope, receive, send):
        session, path = scope["session"], scope["path"]
        if path == "/log-in":
            session["user_id"] = 7
        elif path == "/prove":
            session.reauthenticated()
        else:
            await app({**http_scope("/prove", card=card)}, None, proves)
            clock.advance(1)
            session["x"] = 1
            tasks.append(session)
        await start(send)
        await send(HELLO)

    async def ask(path, card=None):
        sent = []

        async def keep(message):
            sent.append(message)

        await app(http_scope(path, card=card), None, keep)
        return cookie_in(sent[0])

    async def proves(message):
        seen.append(message)

    store = SpyStore(clock=clock)
    app = SessionMiddleware(handler, secret_key=SECRET, store=store, clock=clock, max_age=10 * HOUR)
    card = await ask("/log-in")
    clock.advance(HOUR)
    assert await ask("/slow", card) is None
    (session,) = tasks
    assert not is_recent(session)
    session["y"] = 1
    await session.save()
    assert not is_recent(session)
