"""What a visitor without a session gets into it too late: said once for each route, and an explicit save raises."""

import logging

import pytest
from fastapi import Depends, FastAPI
from fastapi import Request as FastAPIRequest
from lilya.apps import Lilya
from lilya.background import Task
from lilya.requests import Request as LilyaRequest
from lilya.responses import PlainText
from lilya.routing import Path
from litestar import Litestar, Response
from litestar import Request as LitestarRequest
from litestar import get as litestar_get
from litestar.background_tasks import BackgroundTask as LitestarTask
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from roomkey import ResponseStarted, SessionManager, SessionMiddleware
from roomkey.stores.memory import MemoryStore
from tests.asgi import HELLO, SECRET, SpyStore, ask, cookie_in, http_scope, make, start, websocket_scope
from tests.driver import driver_of


def starlette_app():
    async def one(request: Request):
        return PlainTextResponse("", background=BackgroundTask(request.session.update, n=1))

    async def two(request: Request):
        return PlainTextResponse("", background=BackgroundTask(request.session.update, n=1))

    return Starlette(routes=[Route("/one/{name}", one), Route("/two/{name}", two)])


def fastapi_app():
    app = FastAPI()

    async def writes(request: FastAPIRequest):
        yield
        request.session["n"] = 1

    @app.get("/one/{name}", dependencies=[Depends(writes)])
    async def one(name: str):
        return PlainTextResponse("")

    @app.get("/two/{name}", dependencies=[Depends(writes)])
    async def two(name: str):
        return PlainTextResponse("")

    return app


def lilya_app():
    async def one(request: LilyaRequest):
        return PlainText("", background=Task(request.session.update, n=1))

    async def two(request: LilyaRequest):
        return PlainText("", background=Task(request.session.update, n=1))

    return Lilya(routes=[Path("/one/{name}", one), Path("/two/{name}", two)])


def litestar_app():
    @litestar_get("/one/{name:str}")
    async def one(request: LitestarRequest) -> Response:
        return Response("", background=LitestarTask(request.session.update, n=1))

    @litestar_get("/two/{name:str}")
    async def two(request: LitestarRequest) -> Response:
        return Response("", background=LitestarTask(request.session.update, n=1))

    return Litestar([one, two])


def raw_app():
    async def raw(scope, receive, send):
        await start(send)
        await send({**HELLO, "body": b""})
        scope["session"]["n"] = 1

    return raw


def too_late(caplog):
    assert {record.levelno for record in caplog.records} <= {logging.WARNING, logging.INFO, logging.DEBUG}
    return [record.getMessage() for record in caplog.records if "after the response had started" in record.getMessage()]


@pytest.mark.parametrize("make_app", [starlette_app, fastapi_app, lilya_app, litestar_app, raw_app])
@pytest.mark.parametrize("url", ["memory://", "sqlite:///sessions.sqlite3", "cookie://"])
def test_it_is_said_once_for_each_route(make_app, url, caplog, monkeypatch, tmp_path):
    """In words and not as a traceback; without the path, which may hold anything. Nothing is saved."""
    monkeypatch.chdir(tmp_path)
    manager = SessionManager(secret_key=SECRET, store=url)
    client = TestClient(SessionMiddleware(make_app(), manager))
    for path in ("/one/jane", "/one/joe", "/two/jane", "/one/jane"):
        answer = client.get(path)
        assert answer.status_code == 200 and "set-cookie" not in answer.headers
    assert url != "memory://" or not manager.config.store._records
    messages = too_late(caplog)
    assert len(messages) == (1 if make_app is raw_app else 2)
    assert all("jane" not in message and "before the response starts" in message for message in messages)
    assert make_app is raw_app or ("one" in messages[0] and "two" in messages[1])


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_an_explicit_save_raises(kind, caplog):
    """Whoever asks for it is told. Where the handler gets over it, the end of the request says the rest."""

    async def handler(scope, send):
        await (send({"type": "websocket.accept"}) if kind == "websocket" else start(send))
        scope["session"]["n"] = 1
        with pytest.raises(ResponseStarted, match="a new session needs a cookie"):
            await scope["session"].save()

    app = make(handler, store=SpyStore())
    await ask(app, websocket_scope() if kind == "websocket" else http_scope())
    assert app.config.store.rows == 0 and len(too_late(caplog)) == 1


@pytest.mark.parametrize(("options", "carrier"), [({}, "cookie"), ({"card_header": "Authorization"}, "header")])
async def test_the_log_says_what_came_too_late(options, carrier, caplog):
    """With `card_header` it is a header."""

    async def handler(scope, send):
        await start(send)
        scope["session"]["n"] = 1

    await ask(make(handler, store=MemoryStore(), **options), http_scope())
    (message,) = too_late(caplog)
    assert f"A new session needs a {carrier}, which" in message


@pytest.mark.parametrize("does", ["log in", "rotate"])
async def test_a_session_that_is_there_is_no_visitors(does):
    """A log-in or a rotation that is lost is an error still: the app has asked for it."""

    async def handler(scope, send):
        if scope["path"] == "/start":
            scope["session"]["n"] = 1
            return
        await start(send)
        if does == "log in":
            scope["session"]["user_id"] = 7
        else:
            scope["session"].rotate()

    app = make(handler, store=MemoryStore())
    card = cookie_in((await ask(app, http_scope("/start")))[0])
    with pytest.raises(ResponseStarted):
        await ask(app, http_scope("/", card))
    assert (await driver_of(app).arrive([card])).session == {"n": 1}
