"""An app that sets a cookie of the session cookie's name itself: said once, and a log-out by it is not undone."""

import pytest
from lilya.middleware.sessions import SessionMiddleware as LilyaMiddleware
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware as StarletteMiddleware
from starlette.requests import Request
from starlette.responses import Response as Page
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from roomkey import SessionMiddleware
from roomkey.stores.memory import MemoryStore
from roomkey.testing import Clock
from roomkey.web import middleware
from roomkey.web.response import Response, VaryingResponse
from tests.asgi import SECRET, SpyStore, ask, cookie_in, header, http_scope, make, start

START = 1_700_000_000.0
GONE = (b"set-cookie", b"session=; Max-Age=0; Path=/")


def said(caplog):
    return [record.getMessage() for record in caplog.records if "the app's response sets the cookie" in record.message]


def site(handler, clock, store):
    made = {
        "at once": lambda: MemoryStore(clock=clock),
        "waits": lambda: SpyStore(clock=clock),
        "cookie": lambda: "cookie://",
    }
    return make(handler, store=made[store](), clock=clock, max_age=1000)


@pytest.fixture(params=["at once", "waits", "cookie"])
def store(request):
    return request.param


ACTS = {
    "only reads": lambda session: session["user_id"],
    "reads a list": lambda session: session["cart"][:],
    "writes": lambda session: session.update(seen=True),
    "says so": lambda session: session.mark_accessed(),
}


@pytest.mark.parametrize("due", [False, True])
@pytest.mark.parametrize("act", ACTS)
async def test_a_log_out_by_the_cookie_is_not_undone(act, due, store, caplog):
    """Where the app takes our cookie back, a renewal in the same response does not give it again. It is said once."""
    if store == "cookie" and act == "writes":
        pytest.skip("what is written is in the cookie, and would be lost")
    clock = Clock(START)

    async def handler(scope, send):
        session = scope["session"]
        if scope["path"] == "/login":
            session.update(user_id=7, cart=[1])
            return
        ACTS[act](session)
        await start(send, headers=[GONE])

    app = site(handler, clock, store)
    card = cookie_in((await ask(app, http_scope("/login")))[0])
    assert said(caplog) == []
    clock.advance(200 if due else 1)
    for _ in range(2):
        answer = (await ask(app, http_scope("/", card)))[0]
        assert header(answer, b"set-cookie") == [GONE[1]]
        assert header(answer, b"vary") == [b"Cookie"]
    (message,) = said(caplog)
    assert "'session'" in message and "session_cookie=" in message and "clear()" in message


@pytest.mark.parametrize("act", ["log in", "begin", "rotate"])
async def test_a_new_id_goes_out_all_the_same(act, store):
    """A card that the browser does not have yet is no renewal. It comes last, and so it counts."""

    async def handler(scope, send):
        session = scope["session"]
        if scope["path"] == "/login":
            session["theme"] = "dark"
            return
        if act == "rotate":
            session.rotate()
        else:
            session["user_id"] = 7
        await start(send, headers=[GONE])

    app = site(handler, Clock(START), store)
    card = None if act == "begin" else cookie_in((await ask(app, http_scope("/login")))[0])
    answer = (await ask(app, http_scope("/", card)))[0]
    first, last = header(answer, b"set-cookie")
    assert first == GONE[1]
    assert last.startswith(b"session=") and b"Max-Age=1000" in last
    assert card is None or last[8:].split(b";")[0] != card


async def test_an_early_save_of_a_new_session_is_no_renewal(store):
    """A session that this request began, saved early and renewed, is new to the browser all the same."""
    if store == "cookie":
        pytest.skip("it is sealed anew each time")
    clock = Clock(START)

    async def handler(scope, send):
        scope["session"]["n"] = 1
        await scope["session"].save()
        clock.advance(200)
        scope["session"]["n"] = 2
        await start(send, headers=[GONE])

    answer = (await ask(site(handler, clock, store), http_scope()))[0]
    first, last = header(answer, b"set-cookie")
    assert first == GONE[1] and b"Max-Age=" in last


async def test_other_cookies_are_the_apps_own(store, caplog):
    """A cookie whose name only begins like ours is none of ours."""
    others = [(b"set-cookie", b"session2=1"), (b"set-cookie", b"x=session=1"), (b"set-cookie", b"Session=1")]

    async def handler(scope, send):
        scope["session"]["n"] = 1
        await start(send, headers=others)

    answer = (await ask(site(handler, Clock(START), store), http_scope()))[0]
    assert len(header(answer, b"set-cookie")) == 4 and said(caplog) == []


@pytest.mark.parametrize("vary", ["used", "always"])
@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_a_request_that_does_not_use_its_session(kind, vary, monkeypatch, caplog):
    """It is said as well, for the first 1,000 requests. After that nothing is looked at that is not used."""

    async def handler(scope, send):
        if kind == "websocket":
            await send({"type": "websocket.accept", "headers": [GONE]})
        else:
            await start(send, headers=[GONE])

    monkeypatch.setattr(middleware, "_FIRST", 2)
    app, other = make(handler, vary=vary), make(lambda scope, send: start(send), vary=vary)
    for _ in range(5):
        assert header((await ask(app, {**http_scope(), "type": kind}))[0], b"set-cookie") == [GONE[1]]
        await ask(other, http_scope())
    assert len(said(caplog)) == 1
    usual = Response if vary == "used" else VaryingResponse
    assert app._response.__bases__ == other._response.__bases__ == (usual,)  # with the error pages of each, and no more
    assert vars(app._response).keys() == vars(other._response).keys()


@pytest.mark.parametrize("name", ["session", "admin"])
@pytest.mark.parametrize("touches", [False, True])
def test_a_mounted_middleware_of_the_same_name(name, touches, caplog):
    """An admin page whose log-in sets our cookie is named, also where the request did not use our session."""

    async def log_in(request: Request) -> Page:
        if touches:
            request.scope["outer"].get("user_id")
        request.session["admin"] = True
        return Page()

    async def outer_log_in(request: Request) -> Page:
        request.session["user_id"] = 7
        return Page()

    class Keep:
        def __init__(self, app):
            self.app = app

        async def __call__(self, scope, receive, send):
            await self.app(
                {**scope, "outer": scope.get("session")} if scope["type"] == "http" else scope, receive, send
            )

    own = Middleware(StarletteMiddleware, secret_key="a" * 32, session_cookie=name)
    admin = Starlette(routes=[Route("/login", log_in, methods=["POST"])], middleware=[own])
    routes = [Route("/login", outer_log_in, methods=["POST"]), Mount("/admin", admin)]
    kept = [Middleware(Keep)] if touches else []
    app = Starlette(
        routes=routes, middleware=[Middleware(SessionMiddleware, secret_key=SECRET, store="memory://"), *kept]
    )
    client = TestClient(app)
    client.post("/login")
    client.post("/admin/login")
    client.post("/admin/login")
    assert len(said(caplog)) == (name == "session")


@pytest.mark.parametrize("outside", [StarletteMiddleware, LilyaMiddleware])
@pytest.mark.parametrize("name", ["session", "other"])
def test_a_middleware_around_roomkeys(outside, name):
    """Another library's middleware outside does not get Roomkey's session, which it would write into its own cookie."""

    async def log_in(request: Request) -> Page:
        request.session["user_id"] = 7
        return Page()

    async def me(request: Request) -> Page:
        return Page(str(request.session.get("user_id")))

    outer = Middleware(outside, secret_key="a" * 32, session_cookie=name)
    app = Starlette(routes=[Route("/login", log_in, methods=["POST"]), Route("/me", me)])
    app.add_middleware(SessionMiddleware, secret_key=SECRET, store="memory://")
    client = TestClient(outer.cls(app, **outer.kwargs))
    answer = client.post("/login")
    assert len(answer.headers.get_list("set-cookie")) == 1
    assert client.get("/me").text == "7"
