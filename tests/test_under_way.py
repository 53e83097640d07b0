"""Requests that are under way while others save: what they save, what they show, and which cookie they send."""

import asyncio
import contextlib

import pytest

from roomkey import ResponseStarted, SessionDataError, SessionEnded, SessionMiddleware, Sessions, StoreUnavailable
from roomkey.csrf import csrf_token
from roomkey.visit import Cookie
from tests.test_lifecycle import MAX_AGE, START, World

# --- cookies ----------------------------------------------------------------------------------------------------------


async def answer(visit):
    """Do what the middleware does when the response starts; return what it does with the cookie."""
    visit.given_before = visit.cookie is Cookie.GIVE
    stored = visit.unsaved()
    if stored is not None:
        await visit.commit(stored)
    if visit.given_before:
        await visit.confirm()
    return visit.cookie


@pytest.mark.parametrize("then", ["answer", "save again", "refresh"])
@pytest.mark.parametrize("other", ["logs in", "rotates", "ends it"])
async def test_a_card_that_an_earlier_save_gave_is_not_sent_once_it_is_dead(then, other):
    """A page that saves early (flash messages do) and answers late must not overwrite the cookie of a log-in."""
    world = World()
    card = await world.begin(x=1)
    world.clock.advance(MAX_AGE / 2)  # renewal is due
    page, meanwhile = await world.two(card)
    page.session["y"] = 1
    await page.session.save()
    assert page.cookie is Cookie.GIVE
    {
        "logs in": lambda: meanwhile.session.update(user_id=7),
        "rotates": meanwhile.session.rotate,
        "ends it": meanwhile.session.invalidate,
    }[other]()
    await meanwhile.commit()
    if then == "save again":
        page.session["z"] = 1
        if other == "ends it":
            with pytest.raises(SessionEnded):
                await page.session.save()
        else:
            await page.session.save()
    elif then == "refresh":
        if other == "rotates":
            await page.session.refresh()
        else:
            with pytest.raises(SessionEnded):
                await page.session.refresh()
    assert await answer(page) is Cookie.KEEP


async def test_a_card_that_an_earlier_save_gave_is_sent_when_it_is_current():
    """The usual case: a log-in whose handler shows flash messages. It costs one load more."""
    world = World()
    visit = await world.arrive(await world.begin(x=1))
    visit.session["user_id"] = 7
    visit.session.flash("welcome")
    assert await visit.session.flashes() == [("info", "welcome")]
    world.store.asked.clear()
    assert await answer(visit) is Cookie.GIVE
    assert world.store.asked == {"load": 1}
    assert (await world.data(visit.card))["user_id"] == 7


async def test_a_rotation_that_was_saved_early_and_rotated_again():
    """The response that comes last sends no dead card."""
    world = World()
    slow, other = await world.two(await world.begin(x=1))
    slow.session.rotate()
    await slow.session.save()
    other.session["user_id"] = 7
    await other.commit()
    assert await answer(slow) is Cookie.KEEP
    assert await world.data(other.card) == {"x": 1, "user_id": 7}


async def test_a_late_response_under_an_old_key_gives_no_dead_card():
    """A card of an old secret key is signed anew, unless its ID has been rotated meanwhile."""
    world = World(secret_key=["n" * 32, "k" * 32])
    old = World(secret_key="k" * 32, store=world.store)
    card = await old.begin(x=1)
    late, other = await world.two(card)
    assert late.has_old_key
    other.session.rotate()
    await other.commit()
    late.session["y"] = 1
    await late.commit()
    assert late.cookie is Cookie.KEEP
    late, other = await world.two(other.card)
    late.has_old_key = True
    other.session.rotate()
    await other.commit()
    await late.session.refresh()
    late.session["z"] = 1
    await late.commit()
    assert late.cookie is Cookie.KEEP
    assert await world.data(other.card) == {"x": 1, "y": 1, "z": 1}


async def test_a_request_from_before_the_log_in_begins_no_session():
    """It arrives with the dead ID a moment after the rotation: its cookie would overwrite the user's."""
    world = World()
    card = await world.begin(cart=1)
    user = await world.arrive(card)
    user.session["user_id"] = 7
    await user.commit()
    late = await world.arrive(card)
    csrf_token(late.session)
    await late.commit()
    assert late.cookie is Cookie.KEEP and late.lost
    with pytest.raises(SessionEnded):
        await late.session.save()
    assert world.live() == [{"cart": 1, "user_id": 7}]
    again = await world.arrive(card)  # but who logs in with it, logs in
    again.session["user_id"] = 8
    await again.commit()
    assert await world.data(again.card) == {"user_id": 8}


async def test_a_browser_that_never_got_the_new_cookie_can_begin_anew():
    """A while after the rotation a dead ID is no request from before it any more."""
    world = World()
    card = await world.begin(cart=1)
    other = await world.arrive(card)
    other.session.rotate()
    await other.commit()
    world.clock.advance(31)
    stuck = await world.arrive(card)
    assert stuck.session == {}
    stuck.session["cart"] = 2
    await stuck.commit()
    assert await world.data(stuck.card) == {"cart": 2}


@pytest.mark.parametrize("how", ["flashes", "save", "invalidate"])
async def test_a_request_whose_session_became_another_users_begins_none(how):
    """A log-out and log-in as another user in one request: a slow one of the first user takes nobody's cookie."""
    world = World()
    card = await world.begin(user_id="A", _flashes=[("info", "hello A")])
    switch, slow = await world.two(card)
    switch.session.clear()
    switch.session["user_id"] = "B"
    await switch.commit()
    if how == "flashes":
        assert await slow.session.flashes() == []
    elif how == "save":
        slow.session["x"] = 1
        with pytest.raises(SessionEnded):
            await slow.session.save()
    else:
        slow.session.invalidate()
    slow.session["csrf"] = "x"
    await slow.commit()
    assert slow.lost and slow.cookie is Cookie.KEEP
    with pytest.raises(SessionEnded):
        await slow.session.refresh()
    assert world.live() == [{"user_id": "B"}]


async def test_rotate_from_before_a_reauthentication_takes_no_card():
    """Who has just proved who they are keeps the session, whatever a request from before it asks for."""
    world = World()
    card = await world.begin(user_id=7)
    world.clock.advance(1)
    before, user = await world.two(card)
    user.session.reauthenticated()
    await user.commit()
    before.session.rotate()
    before.session["x"] = 1
    await before.commit()
    assert before.cookie is Cookie.KEEP
    assert await world.data(user.card) == {"user_id": 7, "x": 1}


# --- logging in -------------------------------------------------------------------------------------------------------


async def test_clear_and_the_same_user_is_a_log_in():
    """The order that the docs recommend: the ID changes, and the log-in is a recent one."""
    world = World()
    card = await world.begin(user_id=7, x=1)
    world.clock.advance(MAX_AGE / 2)
    visit = await world.arrive(card)
    visit.session.clear()
    visit.session["user_id"] = 7
    visit.session.require_recent(1)
    await visit.commit()
    assert visit.card != card and await world.data(card) is None
    visit = await world.arrive(visit.card)
    assert visit.session == {"user_id": 7}
    assert visit.session.authenticated_at.timestamp() == START + MAX_AGE / 2


async def test_clear_and_the_same_user_when_the_session_was_revoked_meanwhile():
    """That is a log-in too, and stands on its own."""
    world = World()
    visit = await world.arrive(await world.begin(user_id=7, x=1))
    await Sessions(world.life).revoke_all(7)
    visit.session.clear()
    visit.session.update(user_id=7, y=1)
    await visit.commit()
    assert await world.data(visit.card) == {"user_id": 7, "y": 1}


async def test_a_shorter_life_is_not_prolonged_by_who_does_not_know_of_it():
    """`remember(60)` on somebody else's computer: a request that came before it renews nothing any more."""
    world = World()
    visit = world.life.anonymous()
    visit.session.update(user_id=7)
    visit.session.remember(100_000)
    await visit.commit()
    world.clock.advance(50_000)
    short, before = await world.two(visit.card)
    short.session.remember(60)
    await short.commit()
    before.session.get("x")
    await before.commit()
    assert before.cookie is Cookie.KEEP
    world.clock.advance(61)
    assert await world.data(short.card) is None and await world.data(visit.card) is None


async def test_a_shorter_life_needs_a_cookie():
    """Without a new ID a request under way would prolong it again, so a stream is told, not fooled."""
    world = World()
    visit = world.life.anonymous()
    visit.session.update(user_id=7)
    visit.session.remember(100_000)
    await visit.commit()
    stream = await world.arrive(visit.card)
    stream.cookie_possible = False
    stream.session.remember(60)
    with pytest.raises(ResponseStarted):
        await stream.session.save()
    stream = await world.arrive(visit.card)
    stream.cookie_possible = False
    stream.session.remember(200_000)
    await stream.session.save()
    world.clock.advance(150_000)
    assert await world.data(visit.card) == {"user_id": 7}


async def test_of_two_genuine_cards_one_was_rotated_a_moment_ago():
    """The second is long dead, and must not make the request one that may begin a session over the newer cookie."""
    world = World()
    dead = await world.begin(x=1)
    visit = await world.arrive(dead)
    visit.session.invalidate()
    await visit.commit()
    card = await world.begin(x=2)
    visit = await world.arrive(card)
    visit.session["user_id"] = 7
    await visit.commit()
    for cards in ([card, dead], [dead, card]):
        late = await world.life.arrive(cards)
        late.session["seen"] = 1
        await late.commit()
        assert late.cookie is Cookie.KEEP


# --- several tasks of one request -------------------------------------------------------------------------------------


class Gate:
    """Lets a store's operation wait until another task has done something."""

    def __init__(self, store, name):
        self.reached, self.opened = asyncio.Event(), asyncio.Event()
        inner = getattr(store, name)

        async def wait(*args, **options):
            self.reached.set()
            await self.opened.wait()
            return await inner(*args, **options)

        setattr(store, name, wait)


@pytest.mark.parametrize("conflict", [False, True])
async def test_what_one_task_does_while_another_saves(conflict):
    """A WebSocket's reader and its writer: nothing that one does during the other's save is lost."""
    world = World()
    card = await world.begin(n=0, user_id=7)
    visit, other = await world.two(card)
    if conflict:
        other.session["other"] = 1
        await other.commit()
    gate = Gate(world.store, "update")
    visit.session["a"] = 1
    saving = asyncio.create_task(visit.session.save())
    await gate.reached.wait()
    visit.session.change("n", lambda n: n + 1)
    visit.session["mine"] = 1
    visit.session.reauthenticated()
    gate.opened.set()
    await saving
    late = await world.arrive(card)
    late.session.change("n", lambda n: n + 10)
    await late.commit()
    await visit.commit()
    assert visit.cookie is Cookie.GIVE and visit.card != card
    expected = {"n": 11, "user_id": 7, "a": 1, "mine": 1} | ({"other": 1} if conflict else {})
    assert await world.data(visit.card) == expected


async def test_one_task_logs_out_while_another_saves():
    """The log-out is done by the next save, and not forgotten."""
    world = World()
    card = await world.begin(user_id=7)
    visit = await world.arrive(card)
    gate = Gate(world.store, "update")
    visit.session["a"] = 1
    saving = asyncio.create_task(visit.session.save())
    await gate.reached.wait()
    visit.session.invalidate()
    gate.opened.set()
    await saving
    await visit.commit()
    assert visit.cookie is Cookie.CLEAR
    assert await world.data(card) is None


async def test_two_tasks_save_at_once():
    """One after the other; nothing is lost or done twice."""
    world = World()
    card = await world.begin(n=0)
    visit, other = await world.two(card)
    other.session["other"] = 1
    await other.commit()

    async def task(name):
        visit.session[name] = 1
        visit.session.change("n", lambda n: n + 1)
        await visit.session.save()

    await asyncio.gather(*(task(name) for name in "abc"), visit.session.refresh())
    await visit.commit()
    assert await world.data(card) == {"n": 3, "a": 1, "b": 1, "c": 1, "other": 1}


async def test_what_a_save_could_not_do_is_asked_for_still():
    """After a failed save the next one rotates, and counts once."""
    world = World()
    card = await world.begin(n=0)
    visit = await world.arrive(card)
    real = world.store.rotate

    async def fails(*args, **options):
        raise OSError

    world.store.rotate = fails
    visit.session.rotate()
    visit.session.change("n", lambda n: n + 1)
    with pytest.raises(StoreUnavailable):
        await visit.session.save()
    world.store.rotate = real
    await visit.commit()
    assert visit.card != card
    assert await world.data(visit.card) == {"n": 1} and await world.data(card) is None


async def during(saving_task, gate, deed):
    """Do something while a save waits for the store, and let it go on."""
    await gate.reached.wait()
    deed()
    gate.opened.set()
    await saving_task


async def while_it_saves(world, visit, deed):
    """Do something while `save` waits for the store to update."""
    gate = Gate(world.store, "update")
    await during(asyncio.create_task(visit.session.save()), gate, deed)


def take(seats):
    """A function for `change` that may refuse what it gets."""
    if not seats:
        raise ValueError("sold out")
    return seats - 1


async def test_a_change_during_a_save_that_lost_its_swap_runs_on_what_is_fresh():
    """It was called on a value that another request had raised already."""
    world = World()
    card = await world.begin(n=0)
    visit, other = await world.two(card)
    other.session["n"] = 10
    await other.commit()
    visit.session["a"] = 1
    await while_it_saves(world, visit, lambda: visit.session.change("n", lambda n: n + 1))
    assert visit.session["n"] == 11
    late = await world.arrive(card)
    late.session.change("n", lambda n: n + 100)
    await late.commit()
    await visit.commit()
    assert await world.data(card) == {"n": 111, "a": 1}


@pytest.mark.parametrize("when", ["at once", "while the store works"])
async def test_a_change_that_alters_its_argument_during_a_save_that_lost_its_swap(when):
    """A list that grows in place: neither this request's growth nor the other's is lost, and none counts twice."""

    def add(name):
        def function(names):
            names.append(name)
            return names

        return function

    world = World()
    card = await world.begin(names=[])
    visit, other = await world.two(card)
    other.session.change("names", add("other"))
    await other.commit()
    gate = Gate(world.store, "update")
    visit.session.change("names", add("one"))
    saving = asyncio.create_task(visit.session.save())
    if when == "at once":
        await asyncio.sleep(0)
        visit.session.change("names", add("two"))
        await during(saving, gate, lambda: None)
    else:
        await during(saving, gate, lambda: visit.session.change("names", add("two")))
    assert visit.session["names"] == ["other", "one", "two"]
    await visit.commit()
    assert await world.data(card) == {"names": ["other", "one", "two"]}


async def test_a_change_that_came_to_nothing_during_a_save_runs_on_what_is_fresh():
    """It put in what was there, and another request had taken that out."""
    world = World()
    card = await world.begin(seen={1, 2})
    visit, other = await world.two(card)
    other.session.change("seen", lambda seen: seen - {2})
    await other.commit()
    visit.session["a"] = 1
    await while_it_saves(world, visit, lambda: visit.session.change("seen", lambda seen: seen | {2}))
    await visit.commit()
    assert await world.data(card) == {"seen": {1, 2}, "a": 1}


async def test_a_change_that_refuses_what_is_fresh_is_heard_by_who_called_it():
    """Two requests take the last seat; one does so while another task of its request saves. That save holds."""
    world = World()
    card = await world.begin(seats=1)
    visit, other = await world.two(card)
    other.session.change("seats", take)
    await other.commit()
    visit.session["a"] = 1
    await while_it_saves(world, visit, lambda: (visit.session.change("seats", take), visit.session.update(b=2)))
    with pytest.raises(ValueError, match="sold out"):
        await visit.session.save()
    assert visit.session == {"seats": 0, "a": 1, "b": 2}
    await visit.commit()
    assert await world.data(card) == {"seats": 0, "a": 1, "b": 2}


async def test_a_log_out_forgets_a_change_that_refused_what_is_fresh():
    """There is nothing left for it to change."""
    world = World()
    card = await world.begin(seats=1)
    visit, other = await world.two(card)
    other.session.change("seats", take)
    await other.commit()
    visit.session["a"] = 1
    await while_it_saves(world, visit, lambda: visit.session.change("seats", take))
    visit.session.clear()
    await visit.commit()
    assert await world.data(card) is None


async def test_only_the_change_that_refuses_is_undone():
    """What else was done meanwhile is kept: other changes, messages, and a value that was assigned over a change."""
    world = World()
    card = await world.begin(seats=1, n=0, x=0)
    visit, other = await world.two(card)
    other.session.change("seats", take)
    other.session.change("n", lambda n: n + 10)
    await other.commit()
    visit.session["a"] = 1

    def deeds():
        visit.session.change("n", lambda n: n + 1)
        visit.session.change("seats", take)
        visit.session.change("x", lambda x: x + 1)
        visit.session["x"] = 42
        visit.session.flash("hello")

    await while_it_saves(world, visit, deeds)
    with pytest.raises(ValueError, match="sold out"):
        await visit.session.save()
    await visit.commit()
    found = await world.data(card)
    assert found.pop("_flashes") == [("info", "hello")]
    assert found == {"seats": 0, "n": 11, "x": 42, "a": 1}


@pytest.mark.parametrize("act", ["clear", "invalidate"])
@pytest.mark.parametrize("how", ["refresh", "save", "save a log-in"])
async def test_nothing_comes_back_below_a_log_out(act, how):
    """A log-out that is not saved yet, and a refresh, or a save of another task, that takes in what others wrote."""
    world = World()
    card = await world.begin(user_id=7)
    visit, other = await world.two(card)
    other.session["secret"] = 1
    await other.commit()
    log_in = {"user_id": 8} if how == "save a log-in" else {}

    def deed():
        getattr(visit.session, act)()
        visit.session.update(log_in)

    if how == "refresh":
        deed()
        await visit.session.refresh()
        assert visit.session == {}
    else:
        visit.session["a"] = 1
        await while_it_saves(world, visit, deed)
        assert visit.session == log_in
    await visit.commit()
    assert visit.cookie is (Cookie.GIVE if log_in else Cookie.CLEAR)
    assert world.live() == ([log_in] if log_in else [])


async def test_a_refresh_in_a_log_in_as_another_user_brings_nothing_back():
    """`clear()`, the new user, and then a refresh: nothing of the user before, whatever other requests wrote."""
    world = World()
    visit, other = await world.two(await world.begin(user_id=7))
    other.session["secret"] = 1
    await other.commit()
    visit.session.clear()
    visit.session["user_id"] = 8
    await visit.session.refresh()
    await visit.commit()
    assert await world.data(visit.card) == {"user_id": 8}


@pytest.mark.parametrize("done", [False, True])
async def test_a_save_that_is_cancelled_is_not_done_twice(done):
    """A stream whose client has gone while the store's answer was on its way: the request ends, and saves the rest."""
    world = World()
    card = await world.begin(n=0)
    visit = await world.arrive(card)
    inner, reached, opened = world.store.update, asyncio.Event(), asyncio.Event()

    async def update(*args, **options):
        if done:
            await inner(*args, **options)
        reached.set()
        await opened.wait()
        if not done:
            await inner(*args, **options)

    world.store.update = update
    visit.session.change("n", lambda n: n + 1)
    saving = asyncio.create_task(visit.session.save())
    await reached.wait()
    saving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await saving
    visit.session["rest"] = 1
    ending = asyncio.create_task(visit.commit())
    await asyncio.sleep(0)
    opened.set()
    await ending
    assert await world.data(card) == {"n": 1, "rest": 1}


async def test_a_save_takes_what_is_there_when_it_is_called():
    """A WebSocket logs out while a ticker, ready to run in the same moment, is about to write: the log-out holds."""
    world = World()
    card = await world.begin(user_id=7)
    socket = await world.arrive(card)
    socket.cookie_possible = False
    ready = asyncio.Event()

    async def ticker():
        await ready.wait()
        socket.session["last_seen"] = 1

    ticking = asyncio.create_task(ticker())
    await asyncio.sleep(0)
    ready.set()
    socket.session.clear()
    await socket.session.save()
    await ticking
    assert await world.data(card) is None


async def test_a_503_goes_out_with_the_card_that_a_task_is_about_to_get():
    """The handler's own question to the store fails while its task saves a log-in."""
    world = World()
    card = await world.begin(cart=1)
    inner, reached, tasks = world.store.rotate, asyncio.Event(), []

    async def rotate(*args, **options):
        reached.set()
        await asyncio.sleep(0.05)
        await inner(*args, **options)

    world.store.rotate = rotate

    async def app(scope, receive, send):
        scope["session"]["user_id"] = 7
        tasks.append(asyncio.create_task(scope["session"].save()))
        await reached.wait()
        raise StoreUnavailable("down")

    cookie = await set_cookie(world, app, card)
    await asyncio.gather(*tasks)
    assert await world.data(cookie) == {"cart": 1, "user_id": 7}


async def test_after_a_503_nothing_gets_a_card():
    """The log-in failed; what a background task saves after it does not carry it out where nobody gets the cookie."""
    world = World()
    card = await world.begin(cart=1)
    inner = world.store.rotate

    async def fails_once(*args, **options):
        world.store.rotate = inner
        raise OSError

    world.store.rotate = fails_once

    async def app(scope, receive, send):
        scope["session"]["user_id"] = 7
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})
        with pytest.raises(ResponseStarted):
            await scope["session"].save()

    assert await set_cookie(world, app, card) is None
    assert await world.data(card) == {"cart": 1}


@pytest.mark.parametrize("what", ["change", "log in"])
async def test_a_response_that_is_cut_off_while_it_saves(what):
    """A time limit inside ends the wait for the store's answer: nothing is done twice, and no card is lost."""
    world = World()
    card = await world.begin(n=0)
    world.life.store.waits = True  # a real one is known to
    name = "update" if what == "change" else "rotate"
    inner = getattr(world.store, name)

    async def answers_late(*args, **options):
        setattr(world.store, name, inner)
        await inner(*args, **options)
        await asyncio.sleep(0.05)

    setattr(world.store, name, answers_late)

    async def app(scope, receive, send):
        if what == "change":
            scope["session"].change("n", lambda n: n + 1)
        else:
            scope["session"]["user_id"] = 7
        status = 200
        try:
            async with asyncio.timeout(0.01):
                await send({"type": "http.response.start", "status": status, "headers": []})
        except TimeoutError:
            status = 504
            await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})
        assert status == 504
        scope["session"]["late"] = 1
        await scope["session"].save()

    cookie = await set_cookie(world, app, card)
    assert (cookie is None) is (what == "change")
    expected = {"n": 1} if what == "change" else {"n": 0, "user_id": 7}
    assert await world.data(cookie or card) == {**expected, "late": 1}


async def test_an_answer_in_the_place_of_a_503_that_was_cut_off():
    """The store hangs, and the app's own time limit ends the wait for a 503: its answer goes out, with the card."""
    world = World(store_timeout=0.05)
    card = await world.begin(cart=1)

    async def hangs(*args, **options):
        await asyncio.sleep(3600)

    async def app(scope, receive, send):
        session = scope["session"]
        session["user_id"] = 7
        await session.save()
        session["last"] = 1
        real, world.store.load, world.store.update = world.store.load, hangs, hangs
        try:
            async with asyncio.timeout(0.07):
                await send({"type": "http.response.start", "status": 200, "headers": []})
        except TimeoutError:
            world.store.load = real
            await send({"type": "http.response.start", "status": 504, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    assert await world.data(await set_cookie(world, app, card)) == {"cart": 1, "user_id": 7}


@pytest.mark.parametrize("code", [1000, 1011])
@pytest.mark.parametrize("accepted", [False, True])
async def test_a_framework_that_closes_a_websocket_in_the_place_of_an_error(accepted, code):
    """It lets nobody else have the exception: an error's close saves nothing, and nothing is done twice."""
    world = World()
    card = await world.begin(n=0)
    inner = world.store.update

    async def loses_its_answer(*args, **options):
        world.store.update = inner
        await inner(*args, **options)
        raise OSError

    world.store.update = loses_its_answer

    async def app(scope, receive, send):
        if accepted:
            await send({"type": "websocket.accept"})
        scope["session"].change("n", lambda n: n + 1)
        with contextlib.suppress(StoreUnavailable):
            await scope["session"].save()
        await send({"type": "websocket.close", "code": code})

    async def send(message):
        pass

    middleware = SessionMiddleware(app, world.life.config)
    await middleware({"type": "websocket", "headers": [(b"cookie", b"session=" + card)]}, None, send)
    assert (await world.data(card))["n"] == (1 if code == 1011 else 2)  # who goes on after it may count twice


@pytest.mark.parametrize("status", [200, 500, 502])
@pytest.mark.parametrize("retried", [False, True])
async def test_an_outage_that_the_handler_saw_and_did_without(retried, status):
    """What it saves afterwards is saved; only a bare 500 after one that was not got over is taken for the outage's."""
    world = World()
    card = await world.begin(n=0)
    real = world.store.of_user

    async def fails(user):
        world.store.of_user = real
        raise OSError

    async def app(scope, receive, send):
        session = scope["session"]
        world.store.of_user = fails
        with pytest.raises(StoreUnavailable):
            await session.sessions.of(7)
        if retried:
            await session.sessions.of(7)
        session["n"] = 1
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    sent = []

    async def send(message):
        sent.append(message)

    middleware = SessionMiddleware(app, world.life.config)
    await middleware({"type": "http", "headers": [(b"cookie", b"session=" + card)]}, None, send)
    taken = status == 500 and not retried
    assert sent[0]["status"] == (503 if taken else status)
    assert await world.data(card) == {"n": 0 if taken else 1}


@pytest.mark.parametrize("limit", [None, 5])
@pytest.mark.parametrize("act", ["rotate", "reauthenticated", "write"])
async def test_a_websocket_keeps_a_session_alive_that_others_save_and_rotate(act, limit):
    """It reads, and saves as it goes: wherever the session has gone to, it does not end while the socket is in use."""
    world = World(max_sessions_per_user=limit)
    card = await world.begin(user_id=7)
    socket, page = await world.two(card)
    socket.cookie_possible = False
    if act == "write":
        page.session["x"] = 1
    else:
        getattr(page.session, act)()
    await page.commit()
    for _ in range(20):
        world.clock.advance(MAX_AGE / 10)
        socket.session.get("user_id")
        await socket.session.save()
        assert len(world.live()) == 1
    assert await world.data(page.card or card) is not None
    page = await world.arrive(page.card or card)
    page.session.invalidate()
    await page.commit()
    world.clock.advance(MAX_AGE / 2)
    with pytest.raises(SessionEnded):
        await socket.session.save()


async def test_a_slow_request_of_a_session_that_was_rotated_uses_up_no_renewal():
    """Its response carries no card: the next page's does."""
    world = World()
    slow, tab = await world.two(await world.begin(user_id=7))
    slow.session["x"] = 1
    tab.session.rotate()
    await tab.commit()
    world.clock.advance(0.85 * MAX_AGE)
    await slow.commit()
    assert slow.cookie is Cookie.KEEP
    page = await world.arrive(tab.card)
    page.session.get("x")
    await page.commit()
    assert page.cookie is Cookie.GIVE


async def test_what_was_asked_before_there_is_a_session_is_kept():
    """`remember()`, a change that came to nothing, and a save of nothing: the log-in that follows is remembered."""
    world = World()
    visit = world.life.anonymous()
    visit.session.remember(5 * MAX_AGE)
    visit.session.change("x", lambda x: x + 1, 0)
    del visit.session["x"]
    await visit.session.save()
    visit.session["user_id"] = 7
    await visit.commit()
    world.clock.advance(4 * MAX_AGE)
    assert await world.data(visit.card) == {"user_id": 7}


async def test_the_store_closes_after_the_last_save():
    """One that goes on although its request was cancelled."""
    world = World()
    card = await world.begin(n=0)
    inner, reached, done = world.store.update, asyncio.Event(), []

    async def update(*args, **options):
        reached.set()
        await asyncio.sleep(0.05)
        await inner(*args, **options)
        done.append("saved")

    async def nothing():
        pass

    async def close():
        done.append("closed")

    world.store.update, world.store.open, world.store.close = update, nothing, close

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        scope["session"].change("n", lambda n: n + 1)
        await scope["session"].save()

    middleware = SessionMiddleware(app, world.life.config)
    messages = asyncio.Queue()

    async def send(message):
        pass

    messages.put_nowait({"type": "lifespan.startup"})
    life = asyncio.create_task(middleware({"type": "lifespan"}, messages.get, send))
    scope = {"type": "http", "headers": [(b"cookie", b"session=" + card)]}
    request = asyncio.create_task(middleware(scope, None, send))
    await reached.wait()
    request.cancel()
    messages.put_nowait({"type": "lifespan.shutdown"})
    await life
    assert done[:2] == ["saved", "closed"]
    assert await world.data(card) == {"n": 1}


@pytest.mark.parametrize("early", [False, True])
async def test_a_task_that_rotates_while_the_response_looks_again(early):
    """The card that goes out is alive, whichever comes first."""
    world = World()
    card = await world.begin(x=1)

    async def app(scope, receive, send):
        session = scope["session"]
        session.rotate()
        await session.save()
        reached, opened = asyncio.Event(), asyncio.Event()
        inner = world.store.load

        async def load(key):
            record = await inner(key) if early else None
            reached.set()
            await opened.wait()
            return record if early else await inner(key)

        world.store.load = load
        answering = asyncio.create_task(send({"type": "http.response.start", "status": 200, "headers": []}))
        await reached.wait()
        session.rotate()
        saving = asyncio.create_task(session.save())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        opened.set()
        await answering
        with contextlib.suppress(ResponseStarted):
            await saving
        world.store.load = inner
        await send({"type": "http.response.body", "body": b""})
        session._asked = session._asked._replace(rotate=None)  # there is no cookie for it any more

    cookie = await set_cookie(world, app, card)
    assert await world.data(cookie) == {"x": 1}


async def test_a_change_of_an_ended_session_is_told_so():
    """Its function, which knows no session without the key, is not run on one."""
    world = World()
    card = await world.begin(n=0)
    visit, other = await world.two(card)
    other.session.invalidate()
    await other.commit()
    gate = Gate(world.store, "update")
    visit.session["a"] = 1
    saving = asyncio.create_task(visit.session.save())
    await gate.reached.wait()
    visit.session.change("n", lambda n: n + 1)
    gate.opened.set()
    with pytest.raises(SessionEnded):
        await saving
    with pytest.raises(SessionEnded):
        await visit.session.save()
    await visit.commit()
    assert visit.cookie is Cookie.KEEP and world.live() == []


@pytest.mark.parametrize("who", ["the commit", "the handler"])
async def test_a_503_carries_the_card_of_an_early_save(who):
    """The log-in was saved, and the old ID is dead: what failed later must not log the user out again."""
    world = World()
    card = await world.begin(cart=1)

    async def fails(*args, **options):
        raise OSError

    async def app(scope, receive, send):
        session = scope["session"]
        session["user_id"] = 7
        await session.save()
        world.store.update = fails
        session["x"] = 1
        if who == "the handler":
            await session.save()
        await send({"type": "http.response.start", "status": 200, "headers": []})

    sent = []

    async def send(message):
        sent.append(message)

    middleware = SessionMiddleware(app, world.life.config)
    await middleware({"type": "http", "headers": [(b"cookie", b"session=" + card)]}, None, send)
    assert [message.get("status") for message in sent] == [503, None]
    headers = sent[0]["headers"]
    assert [value for name, value in headers if name == b"cache-control"] == [b"no-store"]
    assert dict(headers)[b"retry-after"].isdigit()
    cookie = dict(headers)[b"set-cookie"].split(b";")[0].partition(b"=")[2]
    assert await world.data(cookie) == {"cart": 1, "user_id": 7}


async def test_a_503_takes_the_cookie_back_after_an_early_log_out():
    """The session has ended, whatever failed later."""
    world = World()
    card = await world.begin(user_id=7)
    other = await world.begin(user_id=8)

    async def app(scope, receive, send):
        await clear_and_save(scope["session"])
        raise StoreUnavailable("down")

    async def clear_and_save(session):
        session.clear()
        await session.save()

    assert await set_cookie(world, app, card) == b""
    assert await world.data(card) is None and await world.data(other) == {"user_id": 8}


async def test_a_log_in_after_another_tasks_lost_save_is_none():
    """The one task hears that the session has ended; the other one has begun a new one."""
    world = World()
    visit, other = await world.two(await world.begin(x=1))
    other.session.invalidate()
    await other.commit()
    gate = Gate(world.store, "update")
    visit.session["a"] = 1
    lost = asyncio.create_task(visit.session.save())
    await gate.reached.wait()
    visit.session["user_id"] = 8
    logs_in = asyncio.create_task(visit.session.save())
    await asyncio.sleep(0)
    gate.opened.set()
    with pytest.raises(SessionEnded):
        await lost
    await logs_in
    assert (await world.data(visit.card))["user_id"] == 8


@pytest.mark.parametrize("call", ["save", "refresh"])
async def test_a_task_that_saves_without_a_pause_lets_others_in(call):
    """Each has its turn."""
    world = World()
    visit = await world.arrive(await world.begin(n=0))
    turns = []

    async def busy():
        for number in range(50):
            visit.session["n"] = number
            await getattr(visit.session, call)()
            turns.append("busy")

    async def other():
        await asyncio.sleep(0)
        visit.session["other"] = 1
        await visit.session.save()
        turns.append("other")

    await asyncio.gather(busy(), other())
    assert turns.index("other") < 5


@pytest.mark.parametrize("store", ["server", "cookie"])
async def test_a_change_of_user_that_is_refused_leaves_the_session_as_it_was(store):
    """A stream cannot switch users; it goes on as the user it had, with all that they have."""
    world = World() if store == "server" else None
    life = world.life if world else SessionMiddleware(None, secret_key="k" * 32, store="cookie://").lifecycle
    visit = life.anonymous()
    visit.session.update(user_id=7, cart=[1])
    await visit.commit()
    stream = await life.arrive([visit.card])
    if store == "server":
        stream.cookie_possible = False
    stream.session["user_id"] = 8
    stream.session["bad"] = "y" * 70_000 if store == "cookie" else 1
    with pytest.raises(ResponseStarted if store == "server" else SessionDataError):
        await stream.session.save()
    stream.session["user_id"] = 7
    stream.session["bad"] = 2
    await stream.session.save()
    card = stream.card or visit.card
    assert (await life.arrive([card])).session == {"user_id": 7, "cart": [1], "bad": 2}


async def test_a_log_out_beside_a_task_that_writes_is_done():
    """In a WebSocket: the log-out holds and says so; what was put in after it has no session to go to."""
    world = World()
    card = await world.begin(user_id=7)
    socket = await world.arrive(card)
    socket.cookie_possible = False
    gate = Gate(world.store, "update")
    socket.session.clear()
    saving = asyncio.create_task(socket.session.save())
    await during(saving, gate, lambda: socket.session.update(y=1))
    assert await world.data(card) is None
    with pytest.raises(ResponseStarted):
        await socket.session.save()


@pytest.mark.parametrize("conflict", [False, True])
async def test_what_a_task_does_while_a_new_session_takes_the_place_of_the_old(conflict):
    """`invalidate()` and a notice: what another task deletes stays deleted, what it changes loses no other update."""
    world = World()
    visit, other = await world.two(await world.begin(user_id=7))
    if conflict:
        other.session["other"] = 1
        await other.commit()
    visit.session.invalidate()
    visit.session.update(notice="bye", n=0)

    def deeds():
        del visit.session["notice"]
        visit.session.change("n", lambda n: n + 1)

    await while_it_saves(world, visit, deeds)
    late = await world.arrive(visit.card)
    late.session.change("n", lambda n: n + 10)
    await late.commit()
    await visit.commit()
    assert await world.data(visit.card) == {"n": 11}


async def test_a_deep_session_keeps_what_another_task_put_in():
    """One that is as deep as sessions may be."""
    deep = 2**70
    for _ in range(200):
        deep = [deep]
    world = World()
    card = await world.begin(deep=deep)
    visit, other = await world.two(card)
    other.session["other"] = 1
    await other.commit()
    visit.session["a"] = 1
    await while_it_saves(world, visit, lambda: visit.session.update(b=2))
    await visit.commit()
    assert await world.data(card) == {"deep": deep, "other": 1, "a": 1, "b": 2}


async def test_messages_left_and_shown_while_another_task_saves():
    """Each is shown once, whoever wins."""
    world = World()
    visit = world.life.anonymous()
    visit.session.flash("old")
    await visit.commit()
    card = visit.card
    visit, other = await world.two(card)
    other.session.flash("theirs")
    await other.commit()
    visit.session["a"] = 1
    await while_it_saves(world, visit, lambda: visit.session.flash("mine"))
    showing, late = await world.two(card)
    shown = await showing.session.flashes()
    await visit.commit()
    late = await world.arrive(card)
    shown += await late.session.flashes()
    assert sorted(message for _, message in shown) == ["mine", "old", "theirs"]


async def test_what_begins_after_invalidate_keeps_what_another_task_put_in():
    """The log-out loses its swap while another task of the request writes."""
    world = World()
    card = await world.begin(user_id=7)
    visit, other = await world.two(card)
    other.session["other"] = 1
    await other.commit()
    visit.session.invalidate()
    visit.session["notice"] = "bye"
    await while_it_saves(world, visit, lambda: visit.session.update(y=1))
    await visit.commit()
    assert await world.data(visit.card) == {"notice": "bye", "y": 1}
    assert await world.data(card) is None


@pytest.mark.parametrize("how", ["refresh", "save", "flashes", "save without a conflict"])
async def test_a_list_that_the_handler_holds_stays_the_sessions(how):
    """`cart = session["cart"]`, then a call that takes in what others saved, then `cart.append(x)`."""
    world = World()
    visit = world.life.anonymous()
    visit.session.update(cart=[1], deep={"list": []})
    visit.session.flash("hello")
    await visit.commit()
    card = visit.card
    visit, other = await world.two(card)
    if how != "save without a conflict":
        other.session["other"] = 1
        await other.commit()
    cart, deep = visit.session["cart"], visit.session["deep"]["list"]
    cart.append(2)
    if how == "refresh":
        await visit.session.refresh()
    elif how == "flashes":
        assert await visit.session.flashes()
    else:
        visit.session["mine"] = 1
        await visit.session.save()
    cart.append(3)
    deep.append("x")
    await visit.commit()
    found = await world.data(card)
    assert found["cart"] == [1, 2, 3] and found["deep"] == {"list": ["x"]}
    assert found.get("other") == (None if how == "save without a conflict" else 1)


@pytest.mark.parametrize("act", ["rotate", "reauthenticated", "log in"])
async def test_a_response_waits_for_the_card_that_a_task_is_about_to_get(act):
    """A task saves a rotation while the response starts: without the new cookie the user would be logged out."""
    world = World()
    card = await world.begin(user_id=7)
    saved, reached = [], asyncio.Event()
    inner = world.store.rotate

    async def rotate(*args, **options):
        reached.set()
        await asyncio.sleep(0.05)
        await inner(*args, **options)

    world.store.rotate = rotate

    async def app(scope, receive, send):
        session = scope["session"]
        {
            "rotate": session.rotate,
            "reauthenticated": session.reauthenticated,
            "log in": lambda: session.update(user_id=8),
        }[act]()
        saved.append(asyncio.create_task(session.save()))
        await reached.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})
        await saved[0]

    cookie = await set_cookie(world, app, card)
    assert cookie is not None and cookie != card
    assert (await world.data(cookie))["user_id"] == (8 if act == "log in" else 7)


async def set_cookie(world, app, card):
    """Return the card that the app's first response gives; None where it gives none."""
    sent = []

    async def send(message):
        sent.append(message)

    middleware = SessionMiddleware(app, world.life.config)
    with contextlib.suppress(SessionDataError):
        await middleware({"type": "http", "headers": [(b"cookie", b"session=" + card)]}, None, send)
    value = dict(sent[0]["headers"]).get(b"set-cookie")
    return None if value is None else value.split(b";")[0].partition(b"=")[2]


async def test_an_error_page_sends_no_card_that_has_died():
    """The session was rotated early, another request has logged in since, and then what was to be saved was refused."""
    world = World()
    card = await world.begin(x=1)

    async def app(scope, receive, send):
        session = scope["session"]
        session.rotate()
        await session.save()
        other = await world.arrive(session._visit.card)
        other.session["user_id"] = 7
        await other.commit()
        session["bad"] = object()
        for status in (200, 500):
            with contextlib.suppress(SessionDataError):
                await send({"type": "http.response.start", "status": status, "headers": []})
                break
        await send({"type": "http.response.body", "body": b""})

    assert await set_cookie(world, app, card) is None


# --- what is half done ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [{"x": bytearray(b"x")}, {"x": "y" * 70_000}, {"user_id": 1.5}])
async def test_a_session_that_cannot_begin_ends_none(bad):
    """`invalidate()` and then what cannot be saved: an error, and the session before it stays."""
    world = World()
    card = await world.begin(user_id=7)
    visit = await world.arrive(card)
    visit.session.invalidate()
    visit.session.update(bad)
    with pytest.raises(SessionDataError):
        await visit.commit()
    assert await world.data(card) == {"user_id": 7}


async def test_a_long_chain_of_rotations_is_followed():
    """A request that ran for a hundred rotations still logs its user out."""
    world = World()
    card = await world.begin(user_id=7)
    slow = await world.arrive(card)
    for _ in range(100):
        visit = await world.arrive(card)
        visit.session.rotate()
        await visit.commit()
        card = visit.card
    slow.session.invalidate()
    await slow.commit()
    assert await world.data(card) is None


async def test_a_store_that_hangs_is_not_tried_by_each_in_turn():
    """Many requests that lost a swap are all refused about when the first of them is."""
    limit = 0.2  # seconds
    world = World(store_timeout=limit)
    card = await world.begin(n=0)
    visits = [await world.arrive(card) for _ in range(20)]
    for visit in visits:
        visit.session.change("n", lambda n: n + 1)
    first = await world.arrive(card)
    first.session["x"] = 1
    await first.commit()
    gate = Gate(world.store, "load")
    begun = asyncio.get_running_loop().time()
    answers = await asyncio.gather(*(visit.commit() for visit in visits), return_exceptions=True)
    assert {type(each) for each in answers} == {StoreUnavailable}
    assert asyncio.get_running_loop().time() - begun < 10 * limit
    gate.opened.set()


async def test_a_limit_that_cannot_be_kept_now_does_not_lose_the_log_in():
    """The session is saved and its cookie given; the next log-in keeps the limit."""
    world = World(max_sessions_per_user=1)
    first = world.life.anonymous()
    first.session["user_id"] = 7
    await first.commit()
    real = world.store.of_user

    async def fails(user):
        raise OSError

    world.store.of_user = fails
    visit = await world.arrive(await world.begin(cart=1))
    visit.session["user_id"] = 7
    await visit.commit()
    assert await world.data(visit.card) == {"cart": 1, "user_id": 7}
    world.store.of_user = real
    world.clock.advance(1)
    last = world.life.anonymous()
    last.session["user_id"] = 7
    await last.commit()
    assert [info.handle for info in await Sessions(world.life).of(7)] == [last.session.handle]
