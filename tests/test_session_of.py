"""`session_of`: the session of a request or WebSocket of any ASGI framework, under its own type."""

import pytest
from litestar import Litestar
from litestar import Request as LitestarRequest
from litestar import get as litestar_get
from litestar.testing import TestClient as LitestarClient
from ravyn import Gateway, Ravyn
from ravyn import Request as RavynRequest
from ravyn import get as ravyn_get
from ravyn.testclient import RavynTestClient
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware as StarletteSessions
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient

import roomkey.litestar
import roomkey.ravyn
from roomkey import ConfigurationError, Session, SessionMiddleware, session_of
from tests.asgi import ask, cookie_in, http_scope, make

SECRET = "a secret that is long enough for every test here"
OPTIONS = {"secret_key": SECRET, "store": "memory://"}


async def count(request):
    session = session_of(request)
    assert type(session) is Session
    session["views"] = session.get("views", 0) + 1
    return JSONResponse(session["views"])


async def look(request):
    session_of(request)
    return PlainTextResponse("looked")


async def socket(websocket):
    session_of(websocket)["said"] = True
    await websocket.accept()
    await websocket.send_json(session_of(websocket).copy())
    await websocket.close()


ROUTES = [Route("/", count), Route("/look", look), WebSocketRoute("/socket", socket)]


@pytest.fixture
def client():
    with TestClient(Starlette(routes=ROUTES, middleware=[Middleware(SessionMiddleware, **OPTIONS)])) as running:
        yield running


def test_it_is_the_session_of_the_request(client):
    """What is put into it is there on the next request."""
    assert [client.get("/").json() for _ in range(2)] == [1, 2]


def test_to_ask_for_it_counts_as_use(client):
    """A response whose handler did no more than that says that it depends on the cookie."""
    assert client.get("/look").headers["vary"] == "Cookie"


def test_a_websockets_session(client):
    """It works with a WebSocket too, which then hands out the cookie."""
    with client.websocket_connect("/socket") as talk:
        assert talk.receive_json() == {"said": True}


async def test_a_bare_scope():
    """A raw ASGI app gives its scope."""

    async def handler(scope, send):
        session_of(scope)["seen"] = True

    start, _ = await ask(make(handler), http_scope())
    assert cookie_in(start) is not None


def test_on_litestar():
    """Litestar's requests have a scope as well."""

    @litestar_get("/", sync_to_thread=False)
    def handler(request: LitestarRequest) -> int:
        return session_of(request).change("views", lambda views: views + 1, default=0)

    app = roomkey.litestar.SessionMiddleware(Litestar([handler]), **OPTIONS)
    with LitestarClient(app) as client:
        assert [client.get("/").json() for _ in range(2)] == [1, 2]


def test_on_ravyn():
    """Ravyn's requests hold a copy of the scope, with the same session in it."""

    @ravyn_get("/")
    async def handler(request: RavynRequest) -> int:
        return session_of(request).change("views", lambda views: views + 1, default=0)

    app = Ravyn(routes=[Gateway(handler=handler)], session_config=roomkey.ravyn.SessionConfig(**OPTIONS))
    with RavynTestClient(app) as client:
        assert [client.get("/").json() for _ in range(2)] == [1, 2]


def test_without_the_middleware():
    """The error names what to add."""
    client = TestClient(Starlette(routes=ROUTES))
    with pytest.raises(ConfigurationError, match=r"app\.add_middleware\(SessionMiddleware, secret_key="):
        client.get("/")


def test_with_another_librarys_middleware():
    """The error names whose session is there instead."""
    client = TestClient(Starlette(routes=ROUTES, middleware=[Middleware(StarletteSessions, secret_key=SECRET)]))
    with pytest.raises(ConfigurationError, match=r"is a starlette\.middleware\.sessions\.Session, and not Roomkey's"):
        client.get("/")


@pytest.mark.parametrize("wrong", [None, "request", 5, SessionMiddleware])
def test_what_is_no_request(wrong):
    """A TypeError says what it takes."""
    with pytest.raises(TypeError, match="it takes a request or a WebSocket"):
        session_of(wrong)
