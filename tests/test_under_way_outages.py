"""Requests that are under way when the store fails or they are cut off: what they save, and which cookie they send."""

import asyncio
import contextlib

import pytest

from roomkey import ResponseStarted, SessionDataError, SessionEnded, SessionMiddleware, Sessions, StoreUnavailable
from tests.gate import Gate
from tests.world import World


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


@pytest.mark.parametrize("what", ["change", "log in", "log out"])
async def test_a_response_that_is_cut_off_before_its_first_step(what):
    """The task that was to send it is cancelled at once: nothing has begun, and the next one saves."""
    world = World()
    card = await world.begin(n=0)

    async def app(scope, receive, send):
        session, start = scope["session"], {"type": "http.response.start", "status": 200, "headers": []}
        {
            "change": lambda: session.update(n=1),
            "log in": lambda: session.update(user_id=7),
            "log out": session.clear,
        }[what]()
        starting = asyncio.create_task(send(start))
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        async with asyncio.timeout(5):
            await send(start)
        await send({"type": "http.response.body", "body": b""})

    cookie = await set_cookie(world, app, card)
    expected = {"change": {"n": 1}, "log in": {"n": 0, "user_id": 7}, "log out": None}[what]
    assert await world.data(cookie or card) == expected


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
    assert (await world.data(card))["n"] == 1  # the save at the end finds that it was done


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
        session._intents = session._intents._replace(rotate=None)  # there is no cookie for it any more

    cookie = await set_cookie(world, app, card)
    assert await world.data(cookie) == {"x": 1}


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


@pytest.mark.parametrize("where", ["load", "update"])
async def test_a_503_of_an_adaptor(where):
    """The response that goes out in the place of the app's is committed too, and asks nothing of the store."""
    world = World()
    card = await world.begin(n=0)
    session = await world.life.manager.load(b"session=" + card)
    other = await world.arrive(card)
    other.session["theirs"] = 1
    await other.commit()

    async def fails(*args, **options):
        raise OSError

    real = getattr(world.store, where)
    session["mine"] = 1
    setattr(world.store, where, fails)
    with pytest.raises(StoreUnavailable):
        await world.life.manager.commit(session)
    assert await world.life.manager.commit(session, status=503, headers=[("retry-after", "5")]) == [
        ("retry-after", "5"),
        ("vary", "Cookie"),
    ]
    setattr(world.store, where, real)
    assert await world.data(card) == {"n": 0, "theirs": 1}


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
        other = await world.arrive(session._transaction.reply.card)
        other.session["user_id"] = 7
        await other.commit()
        session["bad"] = object()
        for status in (200, 500):
            with contextlib.suppress(SessionDataError):
                await send({"type": "http.response.start", "status": status, "headers": []})
                break
        await send({"type": "http.response.body", "body": b""})

    assert await set_cookie(world, app, card) is None


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
