"""Guards and typed sessions by the dependency injection and the permissions of Ravyn, Lilya and Litestar."""

import doctest
import sys
from dataclasses import dataclass, field
from typing import Annotated, TypedDict

import lilya.requests
import lilya.websockets
import litestar
import litestar.middleware
import litestar.testing
import msgspec
import pydantic
import pytest
import ravyn
import ravyn.websockets
from lilya.apps import Lilya
from lilya.dependencies import Provides
from lilya.middleware import DefineMiddleware
from lilya.routing import Include, Path, WebSocketPath
from lilya.testclient import TestClient
from ravyn.testclient import RavynTestClient

import roomkey.lilya as on_lilya
import roomkey.litestar as on_litestar
import roomkey.ravyn as on_ravyn
from roomkey import ConfigurationError, SessionManager, session_of
from roomkey.stores.memory import MemoryStore
from roomkey.testing import Clock

SECRET = "a secret that is long enough for every test here"
CHALLENGE = 'Cookie cookie-name="session"'


@dataclass
class Visit:
    user_id: int | None = None
    cart: list[str] = field(default_factory=list)


class VisitModel(pydantic.BaseModel):
    user_id: int | None = None
    cart: list[str] = []


class VisitStruct(msgspec.Struct):
    user_id: int | None = None
    cart: list[str] = []


@dataclass
class WithoutDefault:
    cart: list[str]


class WrongKeys(TypedDict):
    cart: list[str]


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def ran():
    """Which guarded handlers have run."""
    return []


def ravyn_app(shape, options, ran):
    @ravyn.post("/cart/{item}", dependencies={"visit": on_ravyn.FromSession(shape)})
    async def add(item: str, visit: shape = on_ravyn.injected()) -> None:
        visit.cart.append(item)

    @ravyn.get("/cart", dependencies={"visit": on_ravyn.FromSession(shape)})
    def cart(visit: shape = on_ravyn.injected()) -> list[str]:
        return visit.cart

    @ravyn.post("/login")
    async def login(request: ravyn.Request) -> None:
        request.session["user_id"] = 7

    @ravyn.get("/user", dependencies={"user": on_ravyn.current_user})
    async def user(user: int = on_ravyn.injected()) -> int:
        return user

    @ravyn.get("/guarded", permissions=[on_ravyn.require_login])
    async def guarded() -> str:
        ran.append("guarded")
        return "ok"

    @ravyn.get("/recent", permissions=[on_ravyn.require_recent(300)])
    async def recent() -> str:
        ran.append("recent")
        return "ok"

    @ravyn.get("/page")
    async def page() -> str:
        ran.append("page")
        return "ok"

    @ravyn.websocket("/socket", permissions=[on_ravyn.require_login])
    async def socket(socket: ravyn.websockets.WebSocket) -> None:
        await socket.accept()
        await socket.send_json(session_of(socket)["user_id"])
        await socket.close()

    @ravyn.websocket("/view", dependencies={"visit": on_ravyn.FromSession(shape)})
    async def view(socket: ravyn.websockets.WebSocket, visit: shape = on_ravyn.injected()) -> None:
        await socket.accept()
        await socket.send_json(visit.cart)
        await socket.close()

    handlers = [ravyn.Gateway(handler=each) for each in (add, cart, login, user, guarded, recent)]
    sockets = [ravyn.WebSocketGateway(handler=each) for each in (socket, view)]
    below = ravyn.Include("/below", routes=[ravyn.Gateway(handler=page)], permissions=[on_ravyn.require_login])
    app = ravyn.Ravyn(routes=[*handlers, *sockets, below], session_config=on_ravyn.SessionConfig(**options))
    return RavynTestClient(app)


def lilya_app(shape, options, ran):
    async def add(item: str, visit: shape):
        visit.cart.append(item)

    def cart(visit: shape = Provides()):
        return visit.cart

    async def login(request: lilya.requests.Request):
        request.session["user_id"] = 7

    async def user(user: int):
        return user

    async def guarded():
        ran.append("guarded")
        return "ok"

    async def recent():
        ran.append("recent")
        return "ok"

    async def page():
        ran.append("page")
        return "ok"

    async def socket(websocket: lilya.websockets.WebSocket):
        await websocket.accept()
        await websocket.send_json(session_of(websocket)["user_id"])
        await websocket.close()

    async def view(websocket: lilya.websockets.WebSocket, visit: shape):
        await websocket.accept()
        await websocket.send_json(visit.cart)
        await websocket.close()

    visit = {"visit": on_lilya.FromSession(shape)}
    routes = [
        Path("/cart/{item}", add, methods=["POST"], dependencies=visit),
        Path("/cart", cart, dependencies=visit),
        Path("/login", login, methods=["POST"]),
        Path("/user", user, dependencies={"user": on_lilya.require_login}),
        Path("/guarded", guarded, permissions=[on_lilya.require_login]),
        Path("/recent", recent, permissions=[on_lilya.require_recent(300)]),
        WebSocketPath("/socket", socket, permissions=[on_lilya.require_login]),
        WebSocketPath("/view", view, dependencies=visit),
        Include("/below", routes=[Path("/page", page)], permissions=[on_lilya.require_login]),
    ]
    return TestClient(Lilya(routes=routes, middleware=[DefineMiddleware(on_lilya.SessionMiddleware, **options)]))


def litestar_app(shape, options, _):
    visit = {"visit": on_litestar.from_session(shape)}
    View = Annotated[shape, on_litestar.FromSession()]

    @litestar.post("/cart/{item:str}", dependencies=visit)
    async def add(item: str, visit: View) -> None:
        visit.cart.append(item)

    @litestar.get("/cart", dependencies=visit, sync_to_thread=True)
    def cart(visit: View) -> list[str]:
        return visit.cart

    @litestar.websocket("/view", dependencies=visit)
    async def view(socket: litestar.WebSocket, visit: View) -> None:
        await socket.accept()
        await socket.send_json(visit.cart)
        await socket.close()

    middleware = litestar.middleware.DefineMiddleware(on_litestar.SessionMiddleware, config=SessionManager(**options))
    return litestar.testing.TestClient(litestar.Litestar([add, cart, view], middleware=[middleware]))


def _client(make, shape, clock, ran):
    options = {"secret_key": SECRET, "store": MemoryStore(clock=clock), "clock": clock, "max_age": 3600}
    return make(shape, options, ran)


# --- typed sessions ---------------------------------------------------------------------------------------------------


@pytest.fixture(params=[ravyn_app, lilya_app, litestar_app], ids=["ravyn", "lilya", "litestar"])
def make(request):
    return request.param


@pytest.mark.parametrize("shape", [Visit, VisitModel, VisitStruct])
def test_a_handler_gets_the_session_as_a_class(make, shape, clock):
    """In `def`, `async def` and a WebSocket; what is put into a default is kept, and who only looks gets no cookie."""
    with _client(make, shape, clock, []) as client:
        assert client.get("/cart").json() == [] and "session" not in client.cookies
        client.post("/cart/tea")
        client.post("/cart/milk")
        assert client.get("/cart").json() == ["tea", "milk"]
        with client.websocket_connect("/view") as socket:
            assert socket.receive_json() == ["tea", "milk"]


def test_what_a_client_sends_is_not_taken_for_the_session(make, clock):
    """A body that names the argument changes nothing."""
    with _client(make, Visit, clock, []) as client:
        client.post("/cart/tea", json={"visit": {"cart": ["stolen"]}, "user": 99})
        assert client.get("/cart").json() == ["tea"]


@pytest.mark.parametrize("wrong", [WithoutDefault, WrongKeys])
@pytest.mark.parametrize("kind", [on_ravyn.FromSession, on_lilya.FromSession, on_litestar.from_session])
def test_a_wrong_class_is_an_error_at_the_start(kind, wrong):
    """A field that an empty session cannot have is named when the app is put together."""
    with pytest.raises(ConfigurationError, match=rf"{wrong.__name__}.*cart"):
        kind(wrong)


# --- guards -----------------------------------------------------------------------------------------------------------


@pytest.fixture(params=[ravyn_app, lilya_app], ids=["ravyn", "lilya"])
def client(request, clock, ran):
    with _client(request.param, Visit, clock, ran) as running:
        yield running


@pytest.mark.parametrize("path", ["/user", "/guarded", "/recent", "/below/page"])
def test_a_visitor_does_not_pass(client, ran, path):
    """A visitor gets a 401 with a challenge, and the handler does not run. The answer depends on the session."""
    answer = client.get(path)
    assert answer.status_code == 401 and answer.headers["www-authenticate"] == CHALLENGE
    assert "Not logged in." in answer.text and answer.headers["vary"] == "Cookie" and ran == []


def test_a_user_passes(client, ran):
    """Each handler runs once, and a dependency gives the user's ID."""
    client.post("/login")
    assert client.get("/user").json() == 7
    for path in ("/guarded", "/recent", "/below/page"):
        assert client.get(path).status_code == 200
    assert ran == ["guarded", "recent", "page"]


def test_a_log_in_that_is_too_long_ago(client, clock, ran):
    """The user gets a 403 that says how recent it has to be, in the terms of RFC 9470."""
    client.post("/login")
    clock.advance(301)
    answer = client.get("/recent")
    assert answer.status_code == 403 and ran == []
    assert answer.headers["www-authenticate"] == (
        f'{CHALLENGE}, error="insufficient_user_authentication", max_age="300"'
    )
    assert client.get("/guarded").status_code == 200


def test_a_websocket_does_not_pass(client):
    """It is closed with 1008 before it is accepted, and lets a user through."""
    closed = None
    try:
        with client.websocket_connect("/socket"):
            pass
    except Exception as error:  # of Lilya's test client, under two names
        closed = error
    assert closed is not None and closed.code == 1008
    client.post("/login")
    with client.websocket_connect("/socket") as socket:
        assert socket.receive_json() == 7


@pytest.mark.parametrize("wrong", [0, -1, float("inf"), "soon", None])
@pytest.mark.parametrize("module", [on_ravyn, on_lilya])
def test_a_wrong_time_is_an_error_at_the_start(module, wrong):
    """`require_recent` takes a number of seconds above 0, or a timedelta."""
    with pytest.raises(ValueError, match="require_recent: seconds is"):
        module.require_recent(wrong)


@pytest.mark.parametrize("module", ["shapes.views", "lilya", "ravyn", "litestar.typed"])
def test_the_examples_in_the_docstrings_run(module):
    """Each example of these modules gives what it shows."""
    ran = doctest.testmod(sys.modules[f"roomkey.{module}"])
    assert ran.attempted and not ran.failed
