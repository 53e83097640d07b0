"""`require_level` as a guard of FastAPI, Ravyn, Lilya and Litestar: who passes, and what the others are told."""

import doctest
from typing import Annotated, Any

import litestar
import litestar.testing
import pytest
import ravyn
from fastapi import Depends, FastAPI, WebSocket
from fastapi.testclient import TestClient as FastAPITestClient
from lilya.apps import Lilya
from lilya.middleware import DefineMiddleware
from lilya.requests import Request as LilyaRequest
from lilya.routing import Path, WebSocketPath
from lilya.testclient import TestClient as LilyaTestClient
from lilya.websockets import WebSocket as LilyaWebSocket
from ravyn.testclient import RavynTestClient

import roomkey.fastapi
import roomkey.lilya
import roomkey.litestar
import roomkey.ravyn
from roomkey import session_of
from roomkey.litestar import guards
from roomkey.stores.memory import MemoryStore
from roomkey.testing import Clock

SECRET = "a secret that is long enough for every test here"
CHALLENGE = 'Cookie cookie-name="session"'
MORE = f'{CHALLENGE}, error="insufficient_user_authentication", acr_values="2"'
LIMIT = 900  # seconds


def fastapi_app(config, ran):
    level = roomkey.fastapi.require_level
    app = FastAPI()
    app.add_middleware(roomkey.fastapi.SessionMiddleware, config=config)

    @app.post("/login")
    async def login(session: roomkey.fastapi.CurrentSession) -> None:
        session["user_id"] = 7

    @app.post("/code")
    async def code(session: roomkey.fastapi.CurrentSession) -> None:
        session.reauthenticated(level=2, method="totp")

    @app.get("/pay")
    def pay(user: Annotated[int, Depends(level(2, within=LIMIT))]) -> int:
        ran.append("pay")
        return user

    @app.get("/see", dependencies=[Depends(level(2))])
    async def see() -> None:
        ran.append("see")

    @app.websocket("/socket", dependencies=[Depends(level(2, within=LIMIT))])
    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.close()

    return FastAPITestClient(app)


def ravyn_app(config, ran):
    level = roomkey.ravyn.require_level

    @ravyn.post("/login")
    async def login(request: ravyn.Request) -> None:
        request.session["user_id"] = 7

    @ravyn.post("/code")
    async def code(request: ravyn.Request) -> None:
        session_of(request).reauthenticated(level=2, method="totp")

    @ravyn.get("/pay", permissions=[level(2, within=LIMIT)])
    async def pay(request: ravyn.Request) -> int:
        ran.append("pay")
        return request.session["user_id"]

    @ravyn.get("/see", permissions=[level(2)])
    async def see() -> None:
        ran.append("see")

    @ravyn.websocket("/socket", permissions=[level(2, within=LIMIT)])
    async def socket(socket: ravyn.websockets.WebSocket) -> None:
        await socket.accept()
        await socket.close()

    handlers = [ravyn.Gateway(handler=each) for each in (login, code, pay, see)]
    app = ravyn.Ravyn(routes=[*handlers, ravyn.WebSocketGateway(handler=socket)], session_config=config)
    return RavynTestClient(app)


def lilya_app(config, ran):
    level = roomkey.lilya.require_level

    async def login(request: LilyaRequest):
        request.session["user_id"] = 7

    async def code(request: LilyaRequest):
        request.session.reauthenticated(level=2, method="totp")

    async def pay(request: LilyaRequest, user: int):
        ran.append("pay")
        return user

    async def see():
        ran.append("see")

    async def socket(websocket: LilyaWebSocket):
        await websocket.accept()
        await websocket.close()

    pays = level(2, within=LIMIT)
    routes = [
        Path("/login", login, methods=["POST"]),
        Path("/code", code, methods=["POST"]),
        Path("/pay", pay, permissions=[pays], dependencies={"user": pays}),
        Path("/see", see, permissions=[level(2)]),
        WebSocketPath("/socket", socket, permissions=[pays]),
    ]
    middleware = DefineMiddleware(roomkey.lilya.SessionMiddleware, config=config)
    return LilyaTestClient(Lilya(routes=routes, middleware=[middleware]))


def litestar_app(config, ran):
    level = roomkey.litestar.require_level

    @litestar.post("/login")
    async def login(request: litestar.Request[Any, Any, Any]) -> None:
        request.session["user_id"] = 7

    @litestar.post("/code")
    async def code(request: litestar.Request[Any, Any, Any]) -> None:
        session_of(request).reauthenticated(level=2, method="totp")

    @litestar.get("/pay", guards=[level(2, within=LIMIT)])
    async def pay(request: litestar.Request[Any, Any, Any]) -> int:
        ran.append("pay")
        return request.session["user_id"]

    @litestar.get("/see", guards=[level(2)])
    async def see() -> None:
        ran.append("see")

    @litestar.get("/me", guards=[roomkey.litestar.require_login])
    async def me() -> None:
        ran.append("me")

    @litestar.get("/recent", guards=[roomkey.litestar.require_recent(300)])
    async def recent() -> None:
        ran.append("recent")

    @litestar.websocket("/socket", guards=[level(2, within=LIMIT)])
    async def socket(socket: litestar.WebSocket[Any, Any, Any]) -> None:
        await socket.accept()
        await socket.close()

    handlers = [login, code, pay, see, me, recent, socket]
    app = litestar.Litestar(handlers, plugins=[roomkey.litestar.RoomkeyPlugin(config)])
    return litestar.testing.TestClient(app)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def ran():
    """Which handlers ran."""
    return []


def client_of(make, clock, ran):
    kind = roomkey.ravyn.SessionConfig if make is ravyn_app else roomkey.SessionConfig
    config = kind(secret_key=SECRET, store=MemoryStore(clock=clock), clock=clock, max_age=10_000)
    return make(config, ran)


@pytest.fixture(params=[fastapi_app, ravyn_app, lilya_app, litestar_app], ids=["fastapi", "ravyn", "lilya", "litestar"])
def client(request, clock, ran):
    with client_of(request.param, clock, ran) as running:
        yield running


@pytest.fixture
def on_litestar(clock, ran):
    with client_of(litestar_app, clock, ran) as running:
        yield running


def close_code(client):
    """Return the code with which a WebSocket is closed before it is accepted; None: it is accepted."""
    try:
        with client.websocket_connect("/socket"):
            return None
    except Exception as error:  # of each framework's test client, under several names
        return error.code


def test_a_visitor_does_not_pass(client, ran):
    """A visitor is to log in: 401 with a challenge, and a WebSocket is closed with 1008."""
    for path in ("/pay", "/see"):
        answer = client.get(path)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, CHALLENGE)
        assert "Not logged in." in answer.text
    assert close_code(client) == 1008 and ran == []


def test_a_user_gives_the_proof_and_passes(client, clock, ran):
    """A plain log-in gets a 403 that names the level. After the proof, the step is open for its time."""
    client.post("/login")
    for path, more in (("/pay", f', max_age="{LIMIT}"'), ("/see", "")):
        answer = client.get(path)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (403, MORE + more)
        assert "This needs a proof of level 2" in answer.text
    assert close_code(client) == 1008 and ran == []
    before = client.cookies["session"]
    client.post("/code")
    assert client.cookies["session"] != before  # the ID changes with what the user has proved
    assert client.get("/pay").json() == 7 and client.get("/see").status_code == 200 and close_code(client) is None
    clock.advance(LIMIT + 1)
    assert client.get("/pay").status_code == 403 and client.get("/see").status_code == 200
    assert close_code(client) == 1008 and ran == ["pay", "see", "see"]
    client.post("/code")
    assert client.get("/pay").status_code == 200


def test_litestars_other_guards(on_litestar, clock, ran):
    """`require_login` asks who it is, and `require_recent` how long ago they said so."""
    for path in ("/me", "/recent"):
        answer = on_litestar.get(path)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, CHALLENGE)
    on_litestar.post("/login")
    assert on_litestar.get("/me").status_code == on_litestar.get("/recent").status_code == 200
    clock.advance(301)
    answer = on_litestar.get("/recent")
    assert (answer.status_code, on_litestar.get("/me").status_code) == (403, 200)
    challenge = f'{CHALLENGE}, error="insufficient_user_authentication", max_age="300"'
    assert answer.headers["www-authenticate"] == challenge and ran == ["me", "recent", "me"]


@pytest.mark.parametrize("module", [roomkey.fastapi, roomkey.ravyn, roomkey.lilya, roomkey.litestar])
def test_a_wrong_level_is_an_error_at_the_start(module):
    """So is a wrong time: the guard is not made."""
    for wrong in (0, 10, "2", True):
        with pytest.raises(ValueError, match=r"require_level: level is .*from 1 to 9"):
            module.require_level(wrong)
    for wrong in (0, -1, float("inf"), "soon"):
        with pytest.raises(ValueError, match=r"require_level: within is .*above 0"):
            module.require_level(2, within=wrong)


def test_the_example_of_litestars_guards_runs():
    """It gives what it shows."""
    ran = doctest.testmod(guards)
    assert ran.attempted and not ran.failed
