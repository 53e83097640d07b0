"""What a request is answered when a task group met an outage, when others are first, and when a card may be dead."""

import asyncio
from collections import Counter

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from roomkey import Request, SessionManager, SessionMiddleware, StoreUnavailable
from tests.asgi import SECRET, SpyStore, ask, cookie_in, header, http_scope, make, websocket_scope
from tests.gate import Gate
from tests.world import World

DOWN = StoreUnavailable("down", retry_after=7)
GROUPS = {
    "one": ExceptionGroup("tasks", [DOWN]),
    "several": ExceptionGroup("tasks", [DOWN, StoreUnavailable("too")]),
    "nested": ExceptionGroup("tasks", [ExceptionGroup("more", [ExceptionGroup("most", [DOWN])])]),
}

# --- task groups ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_an_outage_in_a_task_group_is_a_503(group, kind):
    """However deep it lies in the group, and however many tasks met it."""

    async def handler(scope, send):
        raise GROUPS[group]

    scope = http_scope() if kind == "http" else websocket_scope()
    sent = await ask(make(handler), scope)
    if kind == "http":
        assert sent[0]["status"] == 503 and header(sent[0], b"retry-after") == [b"7"]
    else:
        assert sent == [{"type": "websocket.close", "code": 1013, "reason": "session store unavailable"}]


async def test_another_error_beside_the_outage_is_not_hidden():
    """The browser gets the 503, and the error goes on to the log."""
    both = ExceptionGroup("tasks", [LookupError("a bug"), ExceptionGroup("more", [DOWN])])
    sent = []

    async def handler(scope, send):
        raise both

    async def send(message):
        sent.append(message)

    with pytest.raises(ExceptionGroup) as raised:
        await make(handler)(http_scope(), None, send)
    assert raised.value is both
    assert sent[0]["status"] == 503


async def test_a_group_without_an_outage_goes_on():
    """It is an error like any other."""

    async def handler(scope, send):
        raise ExceptionGroup("tasks", [LookupError("a bug")])

    with pytest.raises(ExceptionGroup, match="tasks"):
        await ask(make(handler), http_scope())


def test_tasks_of_a_starlette_handler_that_save():
    """A handler saves in a task group while the store is down: 503, and no 500."""
    store = SpyStore()
    store.failing.add("create")

    async def home(request):
        request.session["n"] = 1
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(request.session.save())
            tasks.create_task(asyncio.sleep(0))
        return PlainTextResponse("done")

    app = Starlette(routes=[Route("/", home)])
    app.add_middleware(SessionMiddleware, secret_key=SECRET, store=store)
    with TestClient(app) as client:
        answer = client.get("/")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")


async def test_an_adaptor_finds_the_outage_in_a_group():
    """`within` is what an adaptor asks of whatever the handler raised."""
    for group in GROUPS.values():
        assert StoreUnavailable.within(group) is DOWN
    assert StoreUnavailable.within(DOWN) is DOWN
    assert StoreUnavailable.within(LookupError()) is None
    assert StoreUnavailable.within(ExceptionGroup("tasks", [LookupError()])) is None
    assert StoreUnavailable.within(BaseExceptionGroup("tasks", [KeyboardInterrupt(), DOWN])) is DOWN


# --- waiting for others -----------------------------------------------------------------------------------------------


def _slow(store, seconds, *names):
    """Let these operations take a while."""
    for name in names:
        inner = getattr(store, name)

        async def operation(*args, inner=inner, **options):
            await asyncio.sleep(seconds)
            return await inner(*args, **options)

        setattr(store, name, operation)


async def test_nobody_waits_for_a_turn_longer_than_the_time_limit():
    """Requests that lost a swap wait for others, each operation is slow: who waits too long gets a 503 meanwhile."""
    limit = 0.2  # seconds
    world = World(store_timeout=limit)
    card = await world.begin(n=0)
    visits = [await world.arrive(card) for _ in range(12)]
    for visit in visits:
        visit.session.rotate()
    _slow(world.store, 0.6 * limit, "load", "rotate")
    finished = []

    async def commit(visit):
        try:
            await visit.commit()
            finished.append("saved")
        except StoreUnavailable as error:
            finished.append("told" if "store_timeout" in str(error) else str(error))

    await asyncio.gather(*(commit(visit) for visit in visits))
    assert Counter(finished) == {"saved": 2, "told": 10}
    assert finished[-1] == "saved"  # its turn was longer than the others waited


async def test_a_request_that_others_are_first_of_for_ever_is_told():
    """Each time it tries to save, another process has saved meanwhile."""
    world = World(store_timeout=0.1)
    card = await world.begin(n=0)
    visit = await world.arrive(card)
    visit.session.rotate()
    inner = world.store.rotate

    async def rotate(key, *args, version, **options):
        record = await world.store.load(key)
        other = await world.arrive(card)
        other.session.change("n", lambda n: n + 1)
        await other.commit()
        assert record is not None
        await inner(key, *args, version=version, **options)

    world.store.rotate = rotate
    with pytest.raises(StoreUnavailable, match="other requests were saving it"):
        await visit.commit()


async def test_tasks_of_one_request_do_not_try_a_silent_store_one_after_the_other():
    """Each of them waits for the others no longer than the time limit."""
    world = World(store_timeout=0.1)
    card = await world.begin(n=0)
    visit = await world.arrive(card)
    Gate(world.store, "update")
    asked = []
    inner = world.store.update

    async def update(*args, **options):
        asked.append(args)
        await inner(*args, **options)

    world.store.update = update
    visit.session["n"] = 1
    answers = await asyncio.gather(*(visit.session.save() for _ in range(20)), return_exceptions=True)
    assert {type(answer) for answer in answers} == {StoreUnavailable}
    assert len(asked) <= 2


# --- a card of which nobody knows -------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", ["page", "503"])
async def test_a_card_that_may_be_dead_is_not_sent(answer):
    """A log-in was saved early, another request has rotated it since, and then the store cannot be asked."""
    store = SpyStore()
    manager = SessionManager(secret_key=SECRET, store=store)
    first = await manager.load()
    first["cart"] = 1
    card = _card(await manager.commit(first))
    session, other = [await manager.load(_with(card)) for _ in range(2)]
    session["user_id"] = 7
    await session.save()
    other["user_id"] = 7
    other.reauthenticated()
    await manager.commit(other)
    store.failing.add("load")
    if answer == "page":
        with pytest.raises(StoreUnavailable):
            await manager.commit(session)
    else:
        manager.abandon(session)
    assert _card(await manager.commit(session, status=503)) is None


async def test_a_middleware_sends_no_card_that_may_be_dead():
    """As above: the handler fails because of the store, and its 503 has no cookie of an earlier save."""
    store = SpyStore()

    async def handler(scope, send):
        if scope["path"] == "/start":
            scope["session"]["cart"] = 1
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body"})
            return
        scope["session"]["user_id"] = 7
        await scope["session"].save()
        store.failing.add("load")
        raise StoreUnavailable("down")

    app = make(handler, store=store)
    card = cookie_in((await ask(app, http_scope("/start")))[0])
    sent = await ask(app, http_scope("/login", card))
    assert sent[0]["status"] == 503 and cookie_in(sent[0]) is None


def _with(card):
    return Request(headers=[("cookie", "session=" + card)])


def _card(headers):
    for name, value in headers:
        if name == "set-cookie":
            return value.split(";")[0].partition("=")[2]
    return None
