"""Each framework's `request.session` is use of the session, also where C code reads what it returns."""

import logging
import subprocess
import sys

import msgspec
import orjson
import pytest
import starlette.testclient
from fastapi import FastAPI
from fastapi import Request as FastAPIRequest
from lilya.apps import Lilya
from lilya.middleware import DefineMiddleware
from lilya.requests import Request as LilyaRequest
from lilya.responses import Response as LilyaResponse
from lilya.routing import Path
from litestar import Litestar
from litestar import Request as LitestarRequest
from litestar import get as litestar_get
from litestar.middleware import DefineMiddleware as LitestarMiddleware
from ravyn import Gateway, Ravyn
from ravyn import Request as RavynRequest
from ravyn import get as ravyn_get
from starlette.applications import Starlette
from starlette.requests import Request as StarletteRequest
from starlette.responses import Response as StarletteResponse
from starlette.routing import Route

import roomkey.lilya
import roomkey.litestar
import roomkey.ravyn
from roomkey import SessionConfig, SessionMiddleware
from roomkey.stores.memory import MemoryStore
from roomkey.stores.sqlite import SQLiteStore
from roomkey.testing import Clock
from tests.asgi import SECRET, ask, cookie_in, header, http_scope, make, start

START = 1_700_000_000.0


def starlette_app(config):
    async def show(request: StarletteRequest):
        return StarletteResponse(orjson.dumps(request.session))

    async def peek(request: StarletteRequest):
        return StarletteResponse(orjson.dumps({"user_id": request.session.peek("user_id")}))

    async def picture(request: StarletteRequest):
        return StarletteResponse(b"")

    app = Starlette(routes=[Route("/show", show), Route("/peek", peek), Route("/picture", picture)])
    return SessionMiddleware(app, config)


def fastapi_app(config):
    app = FastAPI()
    app.add_middleware(SessionMiddleware, config=config)

    @app.get("/show")
    async def show(request: FastAPIRequest):
        return StarletteResponse(orjson.dumps(request.session))

    @app.get("/peek")
    def peek(request: FastAPIRequest):
        return {"user_id": request.session.peek("user_id")}

    @app.get("/picture")
    async def picture():
        return ""

    return app


def lilya_app(config):
    async def show(request: LilyaRequest):
        return LilyaResponse(msgspec.json.encode(request.session))

    async def peek(request: LilyaRequest):
        return {"user_id": request.session.peek("user_id")}

    async def picture():
        return LilyaResponse(b"")

    middleware = [DefineMiddleware(roomkey.lilya.SessionMiddleware, config=config)]
    return Lilya(routes=[Path("/show", show), Path("/peek", peek), Path("/picture", picture)], middleware=middleware)


def litestar_routes():
    @litestar_get("/show")
    async def show(request: LitestarRequest) -> dict:
        return request.session

    @litestar_get("/peek")
    async def peek(request: LitestarRequest) -> dict:
        return {"user_id": request.session.peek("user_id")}

    @litestar_get("/picture")
    async def picture() -> str:
        return ""

    return [show, peek, picture]


def litestar_app(config):
    return roomkey.litestar.SessionMiddleware(Litestar(litestar_routes()), config)


def litestar_app_with_middleware(config):
    middleware = [LitestarMiddleware(roomkey.litestar.SessionMiddleware, config=config)]
    return Litestar(litestar_routes(), middleware=middleware)


def ravyn_app(config):
    @ravyn_get("/show")
    async def show(request: RavynRequest) -> dict:
        return request.session

    @ravyn_get("/peek")
    async def peek(request: RavynRequest) -> dict:
        return {"user_id": request.session.peek("user_id")}

    @ravyn_get("/picture")
    async def picture() -> str:
        return ""

    return Ravyn(routes=[Gateway(handler=each) for each in (show, peek, picture)], session_config=config)


APPS = [starlette_app, fastapi_app, lilya_app, litestar_app, litestar_app_with_middleware, ravyn_app]


@pytest.fixture(params=["memory", "sqlite", "cookie"])
def store(request, tmp_path):
    return {
        "memory": lambda clock: MemoryStore(clock=clock),
        "sqlite": lambda clock: SQLiteStore(tmp_path / "s.sqlite3", clock=clock),
        "cookie": lambda clock: "cookie://",
    }[request.param]


@pytest.mark.parametrize("make_app", APPS)
async def test_the_accessor_is_use(make_app, store):
    """What it returns is private, and keeps the session alive. A page that asks for nothing stays public.

    A page that only peeks is private, and keeps nothing alive.
    """
    clock = Clock(START)
    kind = roomkey.ravyn.SessionConfig if make_app is ravyn_app else SessionConfig
    config = kind(secret_key=SECRET, store=store(clock), clock=clock, max_age=1000)
    site = make(lambda scope, send: _put(scope), store=config.store, clock=clock, max_age=1000)
    card = cookie_in((await ask(site, http_scope()))[0])
    with starlette.testclient.TestClient(make_app(config)) as client:
        cookie = {"cookie": f"session={card.decode()}"}
        picture = client.get("/picture", headers=cookie)
        assert "vary" not in picture.headers and "set-cookie" not in picture.headers
        answer = client.get("/show", headers=cookie)
        assert (answer.status_code, answer.json()) == (200, {"user_id": 7})
        assert answer.headers["vary"] == "Cookie" and "set-cookie" not in answer.headers
        clock.advance(200)
        assert "set-cookie" not in client.get("/picture", headers=cookie).headers
        answer = client.get("/peek", headers=cookie)
        assert (answer.json(), answer.headers["vary"]) == (
            {"user_id": 7},
            "Cookie",
        ) and "set-cookie" not in answer.headers
        answer = client.get("/show", headers=cookie)
        assert answer.headers["vary"] == "Cookie" and "Max-Age=1000" in answer.headers["set-cookie"]


async def _put(scope):
    scope["session"]["user_id"] = 7


# --- what cannot be noticed -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["bare", "marked", "always"])
async def test_a_bare_session_for_c_code(way):
    """Nobody can notice that. `mark_accessed()` says it, and `vary="always"` sends the header in any case."""
    clock = Clock(START)
    bodies = []

    async def handler(scope, send):
        if scope["path"] == "/login":
            scope["session"]["user_id"] = 7
        elif scope["path"] == "/show":
            if way == "marked":
                scope["session"].mark_accessed()
            bodies.append(orjson.dumps(scope["session"]))

    options = {"vary": "always"} if way == "always" else {}
    app = make(handler, store=MemoryStore(clock=clock), clock=clock, max_age=1000, **options)
    card = cookie_in((await ask(app, http_scope("/login")))[0])
    clock.advance(200)
    answer = (await ask(app, http_scope("/show", card)))[0]
    assert bodies == [b'{"user_id":7}']
    assert header(answer, b"vary") == ([] if way == "bare" else [b"Cookie"])
    assert cookie_in(answer) == (card if way == "marked" else None)


@pytest.mark.parametrize("kind", ["picture", "anonymous", "error", "websocket", "again", "503", "manager"])
async def test_every_response_varies_where_asked_to(kind):
    """`vary="always"` is in each response, whatever became of it, and once."""

    async def handler(scope, send):
        if scope["path"] == "/login":
            scope["session"]["user_id"] = 7
        elif kind == "websocket":
            await send({"type": "websocket.accept"})
        elif kind == "error":
            await start(send, 500)
        elif kind == "again":
            await start(send, headers=[(b"vary", b"Accept, cookie")])

    app = make(handler, vary="always")
    card = cookie_in((await ask(app, http_scope("/login")))[0])
    if kind == "manager":
        session = await app.manager.load(b"session=" + card)
        assert await app.manager.commit(session, raw=True) == [(b"vary", b"Cookie")]
        return
    scope = http_scope(card=None if kind == "anonymous" else card)
    if kind == "503":
        app.config.store.failing = {"load"}
    if kind == "websocket":
        scope = {**scope, "type": "websocket"}
    answer = (await ask(app, scope))[0]
    expected = {"again": [b"Accept, cookie"], "503": []}.get(kind, [b"Cookie"])
    assert header(answer, b"vary") == expected
    assert kind != "503" or header(answer, b"cache-control") == [b"no-store"]


# --- the modules ------------------------------------------------------------------------------------------------------


def test_nothing_is_patched_by_roomkey_alone():
    """`import roomkey` leaves frameworks as they are. Their own module mends them, and says where it cannot."""
    code = """
import litestar.connection, lilya._internal._connection as lilya
before = [dict(vars(each)) for each in (litestar.connection.ASGIConnection, lilya.Connection)]
import roomkey
assert before == [dict(vars(each)) for each in (litestar.connection.ASGIConnection, lilya.Connection)]
import roomkey.litestar, roomkey.lilya
assert before != [dict(vars(each)) for each in (litestar.connection.ASGIConnection, lilya.Connection)]
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("framework", ["litestar", "lilya"])
def test_the_plain_middleware_says_which_module_it_misses(framework, monkeypatch, caplog):
    """Around an app of such a framework, once, in the log. Not where the module was imported."""
    app = {"litestar": Litestar([]), "lilya": Lilya(routes=[])}[framework]
    SessionMiddleware(app, secret_key=SECRET, store="memory://")
    assert not caplog.records
    monkeypatch.delitem(sys.modules, f"roomkey.{framework}")
    SessionMiddleware(app, secret_key=SECRET, store="memory://")
    ((name, level, message),) = caplog.record_tuples
    assert (name, level) == ("roomkey", logging.WARNING)
    assert f"import SessionMiddleware from roomkey.{framework}" in message


def test_an_app_that_cannot_be_looked_into():
    """Whatever it wraps, the middleware is made."""

    class Proxy:
        def __getattr__(self, name):
            raise RuntimeError("outside of a request")

        async def __call__(self, scope, receive, send): ...

    class Wraps:
        def __init__(self):
            self.inner = Proxy()

        async def __call__(self, scope, receive, send): ...

    for app in (Proxy(), Wraps(), None):
        SessionMiddleware(app, secret_key=SECRET, store="memory://")
