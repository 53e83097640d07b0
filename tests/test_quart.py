"""Quart: `quart.session` in requests and WebSockets, errors, outages and streams. The settings are those of Flask."""

import asyncio
import logging

import pytest

quart = pytest.importorskip("quart")

from quart.testing.connections import WebsocketDisconnectError, WebsocketResponseError  # noqa: E402

from roomkey import ConfigurationError, Session, StoreUnavailable  # noqa: E402
from roomkey.quart import QuartSession, Roomkey, session  # noqa: E402
from roomkey.stores.memory import MemoryStore  # noqa: E402
from tests.manager.parts import SECRET, WaitingStore  # noqa: E402


def make_app(store=None, *, settings=None, **options):
    """Return an app, with its `Roomkey`."""
    app = quart.Quart(__name__)
    app.config.from_mapping({"SECRET_KEY": SECRET} | (settings or {}))
    roomkey = Roomkey(app, store=MemoryStore() if store is None else store, **options)

    @app.get("/")
    async def index():
        return dict(session)

    @app.get("/nothing")
    async def nothing():
        return ""

    @app.get("/count")
    async def count():
        return str(session.change("n", lambda n: n + 1, default=0))

    @app.get("/login/<user>")
    def log_in(user):  # a view that is not asynchronous runs in a thread
        session["user_id"] = user
        return ""

    @app.get("/logout")
    async def log_out():
        session.clear()
        return ""

    @app.get("/away")
    async def away():
        session["away"] = True
        return quart.redirect("/")  # a response of Werkzeug's, and not of Quart's

    @app.get("/fail")
    async def fail():
        session["failed"] = True
        raise ZeroDivisionError

    @app.websocket("/chat")
    async def chat():
        first = await quart.websocket.receive()
        session[first] = True
        await quart.websocket.send(str(sorted(dict(session))))

    @app.websocket("/join")
    async def join():
        session["user_id"] = "ann"
        await quart.websocket.accept(headers={"X-App": "1"})
        session["joined"] = True
        await session.save()
        await quart.websocket.receive()

    return app, roomkey


def cookie(client):
    return next((each.value for each in client.cookie_jar if each.name == "session"), None)


def asking(app, card):
    client = app.test_client()
    client.set_cookie("localhost", "session", card)
    return client


async def json(client, path="/"):
    return await (await client.get(path)).json


async def chat(client, word, path="/chat"):
    """Say a word, and return the answer once the handler has returned."""
    async with client.websocket(path) as socket:
        await socket.send(word)
        answer = await socket.receive()
        with pytest.raises(WebsocketDisconnectError):
            await socket.receive()
        return answer


async def test_the_life_of_a_session():
    """A visit sets no cookie, a write sets one, a log-in changes it, a log-out takes it back and kills its copy."""
    app, _ = make_app()
    client = app.test_client()
    answer = await client.get("/")
    assert "Set-Cookie" not in answer.headers and answer.headers["Vary"] == "Cookie"
    assert "Vary" not in (await client.get("/nothing")).headers
    answer = await client.get("/count")
    assert answer.headers["Cache-Control"] == "no-store" and "Max-Age" not in answer.headers["Set-Cookie"]
    first = cookie(client)
    await client.get("/login/ann")
    second = cookie(client)
    assert second != first and await json(client) == {"n": 1, "user_id": "ann"}
    assert await json(asking(app, first)) == {}
    await client.get("/logout")
    assert cookie(client) is None and await json(asking(app, second)) == {}


async def test_requests_at_once_keep_each_others_changes():
    """Twenty write a key each, and count."""
    app, _ = make_app(WaitingStore())
    arrived, gate = [], asyncio.Event()

    @app.get("/write/<key>")
    async def write(key):
        arrived.append(key)
        if len(arrived) == 20:
            gate.set()
        await gate.wait()
        session[key] = 1
        return str(session.change("n", lambda n: n + 1, default=0))

    client = app.test_client()
    await client.get("/login/ann")
    await asyncio.gather(*(asking(app, cookie(client)).get(f"/write/{number}") for number in range(20)))
    assert await json(client) == {"user_id": "ann", "n": 20} | {str(number): 1 for number in range(20)}


async def test_a_log_out_is_final():
    """A request that was running brings the session back no more."""
    app, roomkey = make_app()
    reached, gate = asyncio.Event(), asyncio.Event()

    @app.get("/slow")
    async def slow():
        before = session["user_id"]
        reached.set()
        await gate.wait()
        session["late"] = before
        return ""

    client = app.test_client()
    await client.get("/login/ann")
    card = cookie(client)
    task = asyncio.ensure_future(asking(app, card).get("/slow"))
    await reached.wait()
    await client.get("/logout")
    gate.set()
    await task
    assert await json(asking(app, card)) == {} and await roomkey.manager.sessions.of("ann") == []


async def test_the_session_is_quarts_and_roomkeys():
    """`quart.session` and `roomkey.quart.session` are one, with the attributes of both."""
    app, _ = make_app(settings={"PERMANENT_SESSION_LIFETIME": 1000})

    @app.get("/look")
    async def look():
        assert session is quart.session
        mine = quart.session._get_current_object()
        assert type(mine) is QuartSession and isinstance(mine, Session | quart.sessions.SessionMixin)
        assert session.new and not session.permanent
        session["a"] = [1]
        session.permanent = True
        await session.save()
        session["a"].append(2)
        return ""

    client = app.test_client()
    assert "Max-Age=1000" in (await client.get("/look")).headers["Set-Cookie"]
    assert await json(client) == {"a": [1, 2], "_permanent": True}


async def test_session_transaction():
    """A test reads and changes its client's session, and finds the cookie in the client's jar."""
    app, _ = make_app()
    client = app.test_client()
    async with client.session_transaction() as mine:
        mine["user_id"] = "ann"
    async with client.session_transaction() as mine:
        assert mine["user_id"] == "ann"
        mine["more"] = 1
    assert await json(client) == {"user_id": "ann", "more": 1}


async def test_the_store_opens_and_closes_with_the_app():
    """Before the first request, and after the last one."""
    said = []

    class Saying(WaitingStore):
        async def open(self):
            said.append("opened")

        async def close(self):
            said.append("closed")

    app, _ = make_app(Saying())
    async with app.test_app() as running:
        assert said == ["opened"]
        await running.test_client().get("/count")
    assert said == ["opened", "closed"]


def test_what_is_wrong_is_said_at_the_start():
    """As on Flask."""
    with pytest.raises(ConfigurationError, match="SECRET_KEY: missing"):
        make_app(settings={"SECRET_KEY": None})
    with pytest.raises(ConfigurationError, match="https_only: SESSION_COOKIE_SECURE says it"):
        make_app(https_only=True)


def test_the_manager_of_the_app():
    """With or without the app's context."""
    with pytest.raises(RuntimeError, match="call init_app"):
        _ = Roomkey().manager
    _, roomkey = make_app()
    assert roomkey.manager is roomkey.manager


# --- errors and outages -----------------------------------------------------------------------------------------------


async def test_an_unhandled_error_saves_nothing():
    """What the app makes a page of saves."""
    app, _ = make_app()

    @app.get("/abort")
    async def leave():
        session["aborted"] = True
        quart.abort(404)

    client = app.test_client()
    assert (await client.get("/fail")).status_code == 500 and await json(client) == {}
    assert (await client.get("/abort")).status_code == 404 and await json(client) == {"aborted": True}


@pytest.fixture
def quiet(caplog):
    caplog.set_level(logging.CRITICAL, "roomkey")


@pytest.mark.parametrize("testing", [False, True])
@pytest.mark.parametrize(
    ("operation", "path"), [("load", "/"), ("load", "/nowhere"), ("update", "/count"), ("update", "/away")]
)
async def test_a_store_that_is_down_is_a_503(operation, path, testing, quiet):
    """With Retry-After, for loads and saves. A visitor without a cookie is served, and nothing is lost."""
    store = WaitingStore()
    app, _ = make_app(store, settings={"TESTING": testing})
    client = app.test_client()
    await client.get("/count")
    store.failing.add(operation)
    answer = await client.get(path)
    assert answer.status_code == 503 and int(answer.headers["Retry-After"]) > 0
    assert answer.headers["Cache-Control"] == "no-store" and "Set-Cookie" not in answer.headers
    assert int(answer.headers["Content-Length"]) == len(await answer.get_data())
    assert (await app.test_client().get("/")).status_code == 200
    store.failing.clear()
    assert await json(client) == {"n": 1}


async def test_a_page_of_the_apps_own_for_an_outage(quiet):
    """It may look at the session, which is empty for it."""
    store = WaitingStore()
    app, _ = make_app(store)

    @app.errorhandler(StoreUnavailable)
    async def sorry(error):
        session["sorry"] = True
        return "sorry", 503

    @app.get("/group")
    async def group():
        session["saved"] = True
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(session.save())

    client = app.test_client()
    await client.get("/count")
    store.failing = {"load", "update"}
    assert await (await client.get("/")).get_data(as_text=True) == "sorry"
    store.failing = {"update"}
    assert await (await client.get("/count")).get_data(as_text=True) == "sorry"
    assert await (await client.get("/group")).get_data(as_text=True) == "sorry"
    store.failing.clear()
    assert await json(client) == {"n": 1}


async def test_a_503_has_the_headers_of_every_response(quiet):
    """Those that the app adds after each request."""
    store = WaitingStore()
    app, _ = make_app(store)

    @app.after_request
    async def add(response):
        response.headers["Access-Control-Allow-Origin"] = "https://example.com"
        return response

    client = app.test_client()
    await client.get("/count")
    store.failing.add("update")
    answer = await client.get("/count")
    assert answer.status_code == 503 and answer.headers["Access-Control-Allow-Origin"]


async def test_an_outage_in_session_transaction(quiet):
    """It is raised."""
    store = WaitingStore()
    app, _ = make_app(store)
    client = app.test_client()
    await client.get("/count")
    for operation in ("load", "update"):
        store.failing = {operation}
        with pytest.raises(StoreUnavailable):
            async with client.session_transaction() as mine:
                mine["a"] = 1


# --- streams ----------------------------------------------------------------------------------------------------------


async def test_streams():
    """What one puts in after its first chunk is saved at its end, unless it fails."""
    app, _ = make_app()

    @app.get("/stream/<end>")
    async def stream(end):
        @quart.stream_with_context
        async def chunks():
            yield b"a"
            session[end] = True
            if end == "fail":
                raise ZeroDivisionError
            yield b"b"

        return chunks()

    client = app.test_client()
    await client.get("/count")
    assert await (await client.get("/stream/well")).get_data() == b"ab"
    with pytest.raises(ZeroDivisionError):
        await client.get("/stream/fail")
    assert await json(client) == {"n": 1, "well": True}


async def test_a_stream_that_begins_a_session(caplog):
    """It is too late for that: the log says so once."""
    app, _ = make_app()

    @app.get("/stream")
    async def stream():
        @quart.stream_with_context
        async def chunks():
            yield b"a"
            session["late"] = True

        return chunks()

    for _ in range(2):
        assert await (await app.test_client().get("/stream")).get_data() == b"a"
    assert [record.message.partition(" put")[0] for record in caplog.records] == ["the endpoint stream"]


# --- WebSockets -------------------------------------------------------------------------------------------------------


class Socket:
    """A WebSocket as a server has it: it sees the headers of the acceptance, which Quart's test client drops."""

    def __init__(self, app, path, card=None, **scope):
        headers = [(b"host", b"localhost")] + ([(b"cookie", f"session={card}".encode())] if card else [])
        self.scope = {
            "type": "websocket", "asgi": {"spec_version": "2.3"}, "http_version": "1.1", "scheme": "ws", "path": path,
            "query_string": b"", "root_path": "", "headers": headers, "subprotocols": [], **scope,
        }  # fmt: skip
        self.app, self.sent, self.incoming = app, asyncio.Queue(), asyncio.Queue()

    async def __aenter__(self):
        self.task = asyncio.ensure_future(self.app(self.scope, self.incoming.get, self.sent.put))
        return self

    async def __aexit__(self, *_):
        await self.incoming.put({"type": "websocket.disconnect", "code": 1000})
        await self.task

    async def say(self, text):
        await self.incoming.put({"type": "websocket.receive", "text": text, "bytes": None})


async def test_a_websocket_saves_when_its_handler_returns():
    """And sees what was there."""
    app, _ = make_app()
    client = app.test_client()
    await client.get("/login/ann")
    assert await chat(client, "hello") == "['hello', 'user_id']"
    assert await json(client) == {"user_id": "ann", "hello": True}


async def test_a_websocket_gives_the_cookie_when_it_is_accepted():
    """Beside the headers of the app's own. What it saves itself is there while it is open."""
    app, roomkey = make_app()
    async with Socket(app, "/join") as socket:
        accepted = await socket.sent.get()
        headers = {name.lower(): value.decode() for name, value in accepted["headers"]}
        assert accepted["type"] == "websocket.accept" and headers[b"x-app"] == "1"
        card = headers[b"set-cookie"].partition("=")[2].partition(";")[0]
        while not (await json(asking(app, card))).get("joined"):
            await asyncio.sleep(0)
        assert len(await roomkey.manager.sessions.of("ann")) == 1


async def test_a_websocket_that_fails_or_whose_client_goes():
    """Saves nothing after it was accepted."""
    app, _ = make_app()

    @app.websocket("/broken")
    async def broken():
        await quart.websocket.receive()
        session["broken"] = True
        raise ZeroDivisionError

    @app.websocket("/left")
    async def left():
        await quart.websocket.receive()
        session["left"] = True
        await quart.websocket.send("so")
        await quart.websocket.receive()

    client = app.test_client()
    await client.get("/login/ann")
    async with Socket(app, "/broken", cookie(client)) as socket:
        await socket.say("go")
        assert [(await socket.sent.get())["type"] for _ in range(2)] == ["websocket.accept", "websocket.close"]
    async with client.websocket("/left") as socket:
        await socket.send("go")
        assert await socket.receive() == "so"
    assert await json(client) == {"user_id": "ann"}


async def test_a_websocket_that_begins_a_session_too_late(caplog):
    """The log says so once."""
    app, _ = make_app()
    for _ in range(2):
        assert await chat(app.test_client(), "hello") == "['hello']"
    assert [record.message.partition(" put")[0] for record in caplog.records] == ["the endpoint chat"]


async def test_a_websocket_of_a_store_that_is_down(quiet):
    """A 503 where the server can send one, and close code 1013 elsewhere."""
    store = WaitingStore()
    app, _ = make_app(store)
    client = app.test_client()
    await client.get("/login/ann")
    card = cookie(client)
    store.failing = {"load"}
    with pytest.raises(WebsocketResponseError) as caught:
        async with client.websocket("/chat") as socket:
            await socket.receive()
    assert caught.value.response.status_code == 503 and "Retry-After" in caught.value.response.headers
    async with Socket(app, "/chat", card) as socket:
        closed = await socket.sent.get()
        assert (closed["type"], closed["code"]) == ("websocket.close", 1013)
    store.failing = {"update"}
    async with Socket(app, "/chat", card, extensions={"websocket.http.response": {}}) as socket:
        await socket.say("hello")
        kinds = [await socket.sent.get() for _ in range(3)]
        assert [each["type"] for each in kinds] == ["websocket.accept", "websocket.send", "websocket.close"]
        assert kinds[-1]["code"] == 1013
    store.failing.clear()
    assert await json(client) == {"user_id": "ann"}
