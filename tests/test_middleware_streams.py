"""WebSockets, streams, tasks after the response, and the lifespan."""

import asyncio

import pytest

from roomkey import ConfigurationError, ResponseStarted, SessionManager, SessionMiddleware, StoreUnavailable
from tests.asgi import (
    HELLO,
    SECRET,
    SpyStore,
    ask,
    cookie_in,
    header,
    http_scope,
    log_in,
    make,
    pages,
    start,
    websocket_scope,
)
from tests.driver import driver_of

# --- WebSockets -------------------------------------------------------------------------------------------------------


async def test_a_websocket_gets_its_cookie_with_accept():
    """A session begun before `websocket.accept` is saved, and its card travels with that message."""

    async def handler(scope, send):
        scope["session"]["n"] = 1
        await send({"type": "websocket.accept"})

    app = make(handler)
    sent = await ask(app, websocket_scope(), events=app.config.store.events)
    card = cookie_in(sent[0])
    assert sent[0]["type"] == "websocket.accept"
    assert header(sent[0], b"cache-control") == [b"no-store"]
    assert app.config.store.events == ["create", "websocket.accept"]
    assert (await driver_of(app).arrive([card])).session == {"n": 1}


async def test_a_websocket_saves_when_told():
    """`session.save()` in an accepted WebSocket saves at once, and other requests see it."""

    async def handler(scope, send):
        session = scope["session"]
        if scope["type"] == "http":
            session["n"] = 1
            return
        await send({"type": "websocket.accept"})
        session["n"] = 2
        await session.save()
        seen.append((await driver_of(app).arrive([card])).session["n"])
        await send({"type": "websocket.close"})

    seen = []

    app = card = None
    app = make(handler)
    card = cookie_in((await ask(app, http_scope()))[0])
    sent = await ask(app, websocket_scope(card=card))
    assert [message["type"] for message in sent] == ["websocket.accept", "websocket.close"]
    assert seen == [2]


async def test_a_websocket_saves_at_its_end():
    """What a WebSocket changed after it was accepted is saved when its handler returns."""

    async def handler(scope, send):
        if scope["type"] == "http":
            scope["session"]["messages"] = []
            return
        await send({"type": "websocket.accept"})
        scope["session"]["messages"].append("hi")
        await send({"type": "websocket.close"})

    app = make(handler)
    card = cookie_in((await ask(app, http_scope()))[0])
    await ask(app, websocket_scope(card=card))
    assert (await driver_of(app).arrive([card])).session == {"messages": ["hi"]}


@pytest.mark.parametrize("explicit", [False, True])
async def test_a_websocket_cannot_start_a_session_after_accept(explicit, caplog):
    """A new session after `websocket.accept` is ResponseStarted at save(), a warning at the end, and no record."""

    async def handler(scope, send):
        await send({"type": "websocket.accept"})
        scope["session"]["n"] = 1
        if explicit:
            await scope["session"].save()

    app = make(handler)
    if explicit:
        with pytest.raises(ResponseStarted) as caught:
            await ask(app, websocket_scope())
        assert 0 < len(str(caught.value)) <= 123  # bytes: what fits into a close frame
        assert caught.value.__notes__ == ["This request changed session['n']."]
    else:
        await ask(app, websocket_scope())
        assert "after the response had started" in caplog.text
    assert app.config.store.rows == 0


async def test_a_websocket_refused_by_the_app_saves():
    """A WebSocket that the app closes before it accepted saves its change to a known session."""

    async def handler(scope, send):
        if scope["type"] == "http":
            scope["session"]["n"] = 1
            return
        scope["session"]["n"] = 2
        await send({"type": "websocket.close", "code": 1008})

    app = make(handler)
    card = cookie_in((await ask(app, http_scope()))[0])
    sent = await ask(app, websocket_scope(card=card))
    assert sent == [{"type": "websocket.close", "code": 1008}]
    assert (await driver_of(app).arrive([card])).session == {"n": 2}


@pytest.mark.parametrize("when", ["load", "update"])
@pytest.mark.parametrize("extension", [False, True])
async def test_a_store_down_refuses_a_websocket(when, extension):
    """With the store down a WebSocket is answered 503 where the server can, and closed with code 1013 where not."""

    async def handler(scope, send):
        scope["session"]["n"] = scope["session"].get("n", 0) + 1
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.send", "text": "too late"})

    app = make(handler)
    card = cookie_in((await ask(app, http_scope()))[0])
    app.config.store.failing = {when}
    more = {"extensions": {"websocket.http.response": {}}} if extension else {}
    sent = await ask(app, websocket_scope(card=card, **more))
    if extension:
        assert [message["type"] for message in sent] == [
            "websocket.http.response.start",
            "websocket.http.response.body",
        ]
        assert sent[0]["status"] == 503
        assert int(header(sent[0], b"retry-after")[0]) > 0
    else:
        assert [message["type"] for message in sent] == ["websocket.close"]
        assert sent[0]["code"] == 1013


# --- streams and background tasks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("nested", [False, True])
async def test_a_stream_saves_at_its_end(nested):
    """A change made while the body streams, also deep inside a value, is saved when the app returns."""

    async def handler(scope, send):
        session = scope["session"]
        if scope["path"] == "/start":
            session.update(n=1, log=[])
            return
        log = session["log"]
        await start(send)
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        if nested:
            log.append("streamed")
        else:
            session["n"] = 2
        await send({"type": "http.response.body", "body": b"b"})

    app = make(handler)
    card = cookie_in((await ask(app, http_scope("/start")))[0])
    sent = await ask(app, http_scope("/", card))
    assert cookie_in(sent[0]) is None
    expected = {"n": 1, "log": ["streamed"]} if nested else {"n": 2, "log": []}
    assert (await driver_of(app).arrive([card])).session == expected


async def test_a_stream_cannot_start_a_session(caplog):
    """A new session after the response started is a warning, and no record is made that nobody has a card for."""

    async def handler(scope, send):
        await start(send)
        scope["session"]["n"] = 1
        await send(HELLO)

    app = make(handler)
    await ask(app, http_scope())
    assert "after the response had started" in caplog.text
    assert app.config.store.rows == 0


async def test_a_stream_that_breaks_saves_nothing_more():
    """An error in the middle of a stream saves nothing of what was changed since the response started."""

    async def handler(scope, send):
        if scope["path"] == "/start":
            scope["session"]["n"] = 1
            return
        await start(send)
        scope["session"]["n"] = 2
        raise LookupError

    app = make(handler)
    card = cookie_in((await ask(app, http_scope("/start")))[0])
    with pytest.raises(LookupError):
        await ask(app, http_scope("/", card))
    assert (await driver_of(app).arrive([card])).session == {"n": 1}


async def test_a_background_task_saves():
    """A change made after the whole response was sent, as background tasks make it, is saved."""

    async def handler(scope, send):
        scope["session"]["n"] = scope["session"].get("n", 0) + 1
        await start(send)
        await send(HELLO)
        scope["session"]["mailed"] = True

    app = make(handler)
    card = cookie_in((await ask(app, http_scope()))[0])
    assert (await driver_of(app).arrive([card])).session == {"n": 1, "mailed": True}


async def test_a_log_out_in_a_stream_ends_the_session():
    """A session cleared after the response started is gone from the store, though its cookie cannot be taken back."""

    async def handler(scope, send):
        if scope["path"] == "/start":
            scope["session"]["n"] = 1
            return
        await start(send)
        scope["session"].clear()
        await send(HELLO)

    app = make(handler)
    card = cookie_in((await ask(app, http_scope("/start")))[0])
    await ask(app, http_scope("/", card))
    assert app.config.store.rows == 0
    assert (await driver_of(app).arrive([card])).session == {}


# --- lifespan ---------------------------------------------------------------------------------------------------------


async def _lifespan(app, sent=None):
    """Run a whole lifespan, startup to shutdown, and return what was sent."""
    messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent = [] if sent is None else sent

    async def receive():
        return messages.pop(0)

    async def send(message):
        sent.append(message)

    await app({"type": "lifespan", "asgi": {"version": "3.0"}}, receive, send)
    return sent


def _with_lifespan(events):
    async def app(scope, receive, send):
        assert scope["type"] == "lifespan"
        assert "session" not in scope
        events.append((await receive())["type"])
        await send({"type": "lifespan.startup.complete"})
        events.append((await receive())["type"])
        await send({"type": "lifespan.shutdown.complete"})

    return app


async def test_the_store_opens_and_closes_with_the_lifespan():
    """The store is open before the app starts up and closed after it shut down, and no task stays behind."""
    store = SpyStore()
    before = asyncio.all_tasks()
    app = SessionMiddleware(_with_lifespan(store.events), secret_key=SECRET, store=store)
    sent = await _lifespan(app)
    assert [message["type"] for message in sent] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert store.events[:4] == ["open", "lifespan.startup", "lifespan.shutdown", "close"]
    assert set(store.events[4:]) <= {"close"}
    assert asyncio.all_tasks() == before


async def test_a_wrong_configuration_fails_the_startup():
    """A store that can never open fails the startup with its reason, and the app is not started.

    It raises too: test clients wait for that.
    """
    store = SpyStore()
    store.open_error = ConfigurationError("store: the file is a directory")
    before = asyncio.all_tasks()
    sent = []
    with pytest.raises(ConfigurationError, match="directory"):
        await _lifespan(SessionMiddleware(_with_lifespan(store.events), secret_key=SECRET, store=store), sent)
    assert sent == [{"type": "lifespan.startup.failed", "message": "store: the file is a directory"}]
    assert store.events == []
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize("error", [StoreUnavailable("down"), OSError("down")])
async def test_a_store_that_is_down_does_not_stop_the_startup(error):
    """An app whose store cannot be reached yet starts all the same."""
    store = SpyStore()
    store.open_error = error
    sent = await _lifespan(SessionMiddleware(_with_lifespan([]), secret_key=SECRET, store=store))
    assert sent[0]["type"] == "lifespan.startup.complete"


async def test_two_that_enter_one_manager_at_once():
    """One loop purges for both, and the last that leaves ends it and closes the store."""

    class Store(SpyStore):
        async def open(self):
            await asyncio.sleep(0)
            await super().open()

    store = Store()
    manager = SessionManager(secret_key=SECRET, store=store)
    await asyncio.gather(manager.__aenter__(), manager.__aenter__())
    assert [task.get_name() for task in asyncio.all_tasks() - {asyncio.current_task()}] == ["roomkey: purge"]
    await manager.__aexit__(None, None, None)
    assert "close" not in store.events
    await manager.__aexit__(None, None, None)
    assert store.events.count("close") == 1
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_an_app_without_lifespan_support_leaves_no_task():
    """An app that raises at the lifespan scope is let raise, with the store closed and no task left behind."""

    async def app(scope, receive, send):
        raise NotImplementedError

    store = SpyStore()
    before = asyncio.all_tasks()
    with pytest.raises(NotImplementedError):
        await _lifespan(SessionMiddleware(app, secret_key=SECRET, store=store))
    assert store.events == ["open", "close"]
    assert asyncio.all_tasks() == before


async def test_sessions_work_without_a_lifespan():
    """A server that never runs the lifespan gets sessions all the same, and no task is left behind."""
    before = asyncio.all_tasks()
    app = pages(store="memory://")
    card = await log_in(app)
    assert (await ask(app, http_scope("/read", card)))[1]["body"] == b"{'user_id': 7}"
    assert asyncio.all_tasks() == before


async def test_sqlite_works_with_and_without_a_lifespan(tmp_path):
    """The SQLite store opens itself when nobody else does, and a session outlives the app that made it."""
    app = pages(store=f"sqlite:///{tmp_path}/sessions.db")
    card = await log_in(app)
    await driver_of(app).store.close()

    app = pages(store=f"sqlite:///{tmp_path}/sessions.db")
    await driver_of(app).store.open()
    body = (await ask(app, http_scope("/read", card)))[1]["body"]
    await driver_of(app).store.close()
    assert body == b"{'user_id': 7}"
