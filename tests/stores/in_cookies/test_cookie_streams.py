"""Sessions in the cookie itself: streams, WebSockets, error responses and real apps."""

import asyncio

import pytest

from roomkey import ConfigurationError, ResponseStarted, SessionConfig, SessionDataError, SessionMiddleware
from roomkey.stores.cookie import CookieStore
from roomkey.stores.urls import store_from
from roomkey.wire.cookies import find_chunked
from tests.stores.in_cookies.browser import OLDER, SECRET, Browser, large, put, read, run, scope_with

# --- streams and WebSockets -------------------------------------------------------------------------------------------


def streaming(todo):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        result = todo(scope["session"])
        if result is not None:
            await result
        await send({"type": "http.response.body", "body": b"b"})

    return app


@pytest.mark.parametrize(
    "todo",
    [
        put(a=2),
        lambda session: session.clear(),
        lambda session: session.invalidate(),
        lambda session: session.rotate(),
        lambda session: [session.update(a=2), session.save()][1],
    ],
    ids=["change", "clear", "invalidate", "rotate", "save"],
)
def test_after_the_response_has_started(browser, todo):
    """What changes the session once the headers have left raises, and is not lost without a word."""
    browser.ask(put(a=1))
    browser.app.app = streaming(todo)
    with pytest.raises(ResponseStarted):
        run(browser.app, scope_with(browser.jar.header()))


def test_a_new_session_after_the_response_has_started(browser, caplog):
    """A new session is lost, and that is said once."""
    browser.app.app = streaming(put(a=1))
    run(browser.app, scope_with(b""))
    assert "after the response had started" in caplog.text


def test_reading_after_the_response_has_started(browser):
    """Reading in a stream is fine, also where the session is due for renewal or was sealed by an older key."""
    old = Browser(browser.clock, secret_key=OLDER)
    old.ask(put(a=1))
    browser = Browser(browser.clock, secret_key=[SECRET, OLDER])
    browser.clock.advance(5000)
    seen = []
    browser.app.app = streaming(lambda session: seen.append(session["a"]))
    messages = run(browser.app, scope_with(old.jar.header()))
    assert seen == [1] and messages[0]["headers"] == []


def test_save_before_the_response(browser):
    """`await session.save()` before the response puts the session into its headers; what comes after it counts too."""

    async def app(scope, receive, send):
        session = scope["session"]
        session["a"] = 1
        await session.save()
        assert not session.is_new and not session.modified and len(session.handle) == 64
        await session.refresh()
        session["b"] = 2
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    browser.app.app, handle = app, browser.app.app
    browser.jar.take(run(browser.app, scope_with(b""))[0]["headers"])
    browser.app.app = handle
    assert browser.ask(read) == {"a": 1, "b": 2}


@pytest.mark.parametrize("cookies", [1, 3])
def test_a_websocket(browser, cookies):
    """The cookies travel with `websocket.accept`; later changes raise."""

    async def app(scope, receive, send):
        scope["session"]["data"] = large(3000 * cookies - 2000)
        await send({"type": "websocket.accept"})
        scope["session"]["late"] = True

    browser.app.app, handle = app, browser.app.app
    sent = []

    async def send(message):
        sent.append(message)

    with pytest.raises(ResponseStarted):
        asyncio.run(browser.app(scope_with(b"", "websocket"), None, send))
    assert len(browser.jar.take(sent[0]["headers"])) == cookies
    browser.app.app = handle
    assert browser.ask(read) == {"data": large(3000 * cookies - 2000)}


class HTTPException(Exception):
    def __init__(self, status_code=403, headers=None):
        super().__init__(status_code)
        self.headers = headers


def test_an_http_exception_carries_one_cookie(browser):
    """An error response that a framework makes of an exception saves too, where one cookie is enough."""

    def raising(**values):
        async def app(scope, receive, send):
            scope["session"].clear()
            scope["session"].update(values)
            raise HTTPException

        return app

    handle = browser.app.app

    def provoke(**values):
        browser.app.app = raising(**values)
        try:
            run(browser.app, scope_with(browser.jar.header()))
        finally:
            browser.app.app = handle

    with pytest.raises(HTTPException) as caught:
        provoke(a=1)
    browser.jar.take([(name.encode(), value.encode()) for name, value in caught.value.headers.items()])
    assert browser.ask(read) == {"a": 1}
    with pytest.raises(SessionDataError, match="takes 3 cookies"):
        provoke(data=large(7000))
    browser.ask(put(data=large(7000)))
    with pytest.raises(HTTPException) as caught:
        provoke()
    browser.jar.take([(name.encode(), value.encode()) for name, value in caught.value.headers.items()])
    assert sorted(browser.jar.cookies) == ["session.1", "session.2"]  # nobody can read them; gone with the next cookie
    assert browser.ask(read) == {}
    browser.ask(put(a=2))
    assert list(browser.jar.cookies) == ["session"]


@pytest.mark.parametrize("keys", ["same", "rotated"])
def test_an_http_exception_whose_session_need_not_be_saved(browser, keys):
    """A page that only reads, is not found, and finds a renewal due: that can wait for one that carries cookies."""
    browser.ask(put(data=large(7000)))
    browser.clock.advance(browser.app.config.max_age / 2)
    if keys == "rotated":
        newer = Browser(browser.clock, secret_key=["n" * 32, SECRET])
        newer.jar = browser.jar
        browser = newer

    async def raising(scope, receive, send):
        assert scope["session"]["data"]
        raise HTTPException

    handle, browser.app.app = browser.app.app, raising
    with pytest.raises(HTTPException) as caught:
        run(browser.app, scope_with(browser.jar.header()))
    assert "set-cookie" not in {name.lower() for name in caught.value.headers}
    browser.app.app = handle
    assert browser.ask(read) == {"data": large(7000)}
    assert len(browser.lines) == 3


def test_an_http_exception_after_an_early_save(browser):
    """What an early save has put into several cookies is refused too; one cookie of them would be no session."""
    handle = browser.app.app
    browser.ask(put(a=1))

    async def raising(scope, receive, send):
        scope["session"]["data"] = large(size)
        await scope["session"].save()
        raise HTTPException

    browser.app.app = raising
    size = 7000
    with pytest.raises(SessionDataError, match="takes 3 cookies"):
        run(browser.app, scope_with(browser.jar.header()))
    size = 100
    with pytest.raises(HTTPException) as caught:
        run(browser.app, scope_with(browser.jar.header()))
    browser.app.app = handle
    assert browser.ask(read) == {"a": 1}
    browser.jar.take([(name.encode(), value.encode()) for name, value in caught.value.headers.items()])
    assert browser.ask(read) == {"a": 1, "data": large(100)}


# --- the rest ---------------------------------------------------------------------------------------------------------


def test_what_it_cannot_do(browser):
    """As its docstring says: the last response wins, and a copy of a cookie works after the log-out."""
    browser.ask(put(a=0))
    copy = browser.jar.header()
    browser.ask(put(a=1))
    browser.jar.cookies["session"] = copy.partition(b"=")[2].decode()
    browser.ask(put(b=2))
    assert browser.ask(read) == {"a": 0, "b": 2}
    browser.ask(lambda session: session.invalidate())
    assert browser.ask(read, cookie=copy) == {"a": 0}


async def test_the_lifespan(browser):
    """The app starts and stops: there is nothing to open."""
    heard = []

    async def app(scope, receive, send):
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    browser.app.app = app
    waiting = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]

    async def receive():
        return waiting.pop(0)

    async def send(message):
        heard.append(message["type"])

    await browser.app({"type": "lifespan"}, receive, send)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert heard == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def test_a_mounted_app_sees_the_one_session(browser):
    """A second middleware for the same cookie leaves everything to the outer one."""
    inner = SessionMiddleware(browser.app.app, secret_key=SECRET, store="cookie://", clock=browser.clock)
    browser.app.app = inner
    browser.ask(put(a=1))
    assert len(browser.lines) == 1
    assert browser.ask(read) == {"a": 1}


def test_by_url():
    """`cookie://` is this store; anything behind it is refused."""
    assert repr(store_from("cookie://")) == "CookieStore(max_size=7168)"
    assert isinstance(SessionConfig(secret_key=SECRET, store="cookie://").store, CookieStore)
    store = CookieStore()
    assert store_from(store) is store
    with pytest.raises(ConfigurationError, match="takes nothing behind it"):
        store_from("cookie://host")


@pytest.mark.parametrize("size", [0, 511, 32769, -1, 1e4, "7168", None, True])
def test_a_wrong_size(size):
    """`max_size` takes a whole number within its bounds."""
    with pytest.raises(ConfigurationError, match="max_size"):
        CookieStore(max_size=size)


def test_find_chunked():
    """Chunks are found in any order and any header; the names of others are left alone."""
    headers = [
        (b"cookie", b"session.1=efghIJKLb; mysession=x; session.10=y; sessions=z; session. 1=w"),
        (b"host", b"session=1nothing"),
        (b"cookie", b' session = "2abcdabcdefghIJKLa" ; session.x=; session.=; session=1short; session.1=otherTAGc'),
    ]
    assert find_chunked(headers, b"session") == [b"2abcdabcdefghIJKLab", b"1short"]


@pytest.mark.parametrize("framework", ["starlette", "fastapi"])
def test_a_real_app(framework):
    """A Starlette and a FastAPI app keep a session over requests, streams of cookies and a log-out."""
    from starlette.responses import JSONResponse
    from starlette.testclient import TestClient

    if framework == "starlette":
        from starlette.applications import Starlette as App
    else:
        from fastapi import FastAPI as App
    from starlette.exceptions import HTTPException as StarletteException
    from starlette.requests import Request

    async def show(request: Request):
        return JSONResponse({key: str(value) for key, value in request.session.items()})

    async def fill(request: Request):
        request.session["data"] = "x" * int(request.query_params["size"])
        return JSONResponse({})

    async def refuse(request: Request):
        request.session["refused"] = True
        raise StarletteException(403)

    async def leave(request: Request):
        request.session.clear()
        return JSONResponse({})

    app = App()
    for path, handler in [("/", show), ("/fill", fill), ("/refuse", refuse), ("/leave", leave)]:
        app.add_route(path, handler)
    app.add_middleware(SessionMiddleware, secret_key=SECRET, store="cookie://")
    with TestClient(app) as client:
        assert client.get("/").json() == {}
        client.get("/fill?size=4000")
        assert sorted(client.cookies) == ["session", "session.1"]
        assert client.get("/").json() == {"data": "x" * 4000}
        client.get("/fill?size=5")
        assert sorted(client.cookies) == ["session"]
        assert client.get("/refuse").status_code == 403
        assert client.get("/").json() == {"data": "xxxxx", "refused": "True"}
        client.get("/leave")
        assert dict(client.cookies) == {}


def test_an_end_that_fails_is_not_told():
    """Where what follows `invalidate` is too large, the browser keeps its session, and nobody hears that it ended."""
    heard = []
    browser = Browser(on_event=heard.append)
    browser.ask(put(a=1))
    heard.clear()

    def anew(session):
        session.invalidate()
        session["big"] = large(60000)

    with pytest.raises(SessionDataError):
        browser.ask(anew)
    assert heard == []
    assert browser.ask(read) == {"a": 1}
