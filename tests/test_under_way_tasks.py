"""Several tasks of one request: what each saves while another one saves, and what it sees."""

import asyncio

import pytest

from roomkey import ResponseStarted, SessionDataError, SessionEnded, SessionMiddleware, StoreUnavailable
from roomkey.core.reply import Cookie
from tests.driver import driver_of
from tests.gate import Gate, during, while_it_saves
from tests.world import MAX_AGE, World


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
    life = world.life if world else driver_of(SessionMiddleware(None, secret_key="k" * 32, store="cookie://"))
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


async def test_a_task_that_goes_on_after_its_request():
    """The session ended while the request ran: the task is told so, and not that it saves too late."""
    world = World()
    card = await world.begin(x=1)
    held = []

    async def app(scope, receive, send):
        other = await world.arrive(card)
        other.session.invalidate()
        await other.commit()
        scope["session"]["y"] = 1
        held.append(scope["session"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def send(message):
        pass

    middleware = SessionMiddleware(app, world.life.config)
    await middleware({"type": "http", "headers": [(b"cookie", b"session=" + card)]}, None, send)
    session = held[0]
    with pytest.raises(SessionEnded):
        await session.refresh()
    session["z"] = 1
    with pytest.raises(SessionEnded):
        await session.save()
