"""`roomkey.testing.client_session`: a test reads and changes the session of its client, on every framework's client."""

import asyncio
import doctest
import sys

import fastapi.testclient
import httpx
import httpx2
import lilya.testclient
import litestar.testing
import pytest
import ravyn.testclient
import starlette.testclient
from fastapi import FastAPI
from lilya.apps import Lilya
from lilya.middleware import DefineMiddleware
from lilya.routing import Path
from litestar import Litestar
from ravyn import Gateway, Ravyn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute

import roomkey.lilya
import roomkey.litestar
import roomkey.ravyn
from roomkey import (
    ConfigurationError,
    SessionConfig,
    SessionDataError,
    SessionManager,
    SessionMiddleware,
    StoreUnavailable,
    session_of,
)
from roomkey.fastapi import CurrentSession
from roomkey.testing import Clock, client_session
from tests.asgi import SpyStore

SECRET = "a secret that is long enough for every test here"


def config_of(**options):
    return roomkey.ravyn.SessionConfig(**{"secret_key": SECRET, "store": "memory://", **options})


# --- one small app on each framework: / shows the session, /add adds to it, /logout ends it ---------------------------


def show(request):
    session = session_of(request)
    return {"is_new": session.is_new, **session.copy()}


def add(request):
    return session_of(request).change("added", lambda number: number + 1, default=0)


def log_out(request):
    session_of(request).clear()


def starlette_app(manager):
    async def page(request):
        return JSONResponse({"/": show, "/add": add, "/logout": log_out}[request.url.path](request))

    async def socket(websocket):
        await websocket.accept()
        await websocket.send_json(session_of(websocket).copy())
        await websocket.close()

    routes = [*(Route(path, page) for path in ("/", "/add", "/logout")), WebSocketRoute("/socket", socket)]
    return Starlette(routes=routes, middleware=[Middleware(SessionMiddleware, config=manager)])


def fastapi_app(manager):
    app = FastAPI()
    app.add_middleware(SessionMiddleware, config=manager)

    @app.get("/")
    def home(session: CurrentSession):
        return {"is_new": session.is_new, **session.copy()}

    @app.get("/add")
    async def more(session: CurrentSession) -> int:
        return session.change("added", lambda number: number + 1, default=0)

    @app.get("/logout")
    async def out(session: CurrentSession) -> None:
        session.clear()

    return app


def lilya_app(manager):
    async def home(request: lilya.requests.Request) -> dict:
        return show(request)

    async def more(request: lilya.requests.Request) -> int:
        return add(request)

    async def out(request: lilya.requests.Request) -> None:
        log_out(request)

    routes = [Path("/", home), Path("/add", more), Path("/logout", out)]
    return Lilya(routes=routes, middleware=[DefineMiddleware(roomkey.lilya.SessionMiddleware, config=manager)])


def ravyn_app(manager):
    @ravyn.get("/")
    async def home(request: ravyn.Request) -> dict:
        return show(request)

    @ravyn.get("/add")
    async def more(request: ravyn.Request) -> int:
        return add(request)

    @ravyn.get("/logout")
    async def out(request: ravyn.Request) -> None:
        log_out(request)

    gateways = [Gateway(handler=each) for each in (home, more, out)]
    return Ravyn(routes=gateways, session_config=manager.config)


def litestar_app(manager):
    @litestar.get("/", sync_to_thread=False)
    def home(request: litestar.Request) -> dict:
        return show(request)

    @litestar.get("/add", sync_to_thread=False)
    def more(request: litestar.Request) -> int:
        return add(request)

    @litestar.get("/logout", sync_to_thread=False)
    def out(request: litestar.Request) -> None:
        log_out(request)

    return roomkey.litestar.SessionMiddleware(Litestar([home, more, out]), manager)


CLIENTS = {
    "starlette": (starlette_app, starlette.testclient.TestClient),
    "fastapi": (fastapi_app, fastapi.testclient.TestClient),
    "lilya": (lilya_app, lilya.testclient.TestClient),
    "ravyn": (ravyn_app, ravyn.testclient.RavynTestClient),
    "litestar": (litestar_app, litestar.testing.TestClient),
}
ASYNC_CLIENTS = {
    "httpx": (starlette_app, httpx.AsyncClient),
    "httpx2": (starlette_app, httpx2.AsyncClient),
    "lilya": (lilya_app, lilya.testclient.AsyncTestClient),
    "litestar": (litestar_app, litestar.testing.AsyncTestClient),
}


@pytest.fixture(params=["memory://", "sqlite://", "cookie://"])
def manager(request, tmp_path):
    store = f"sqlite:///{tmp_path}/sessions.sqlite3" if request.param == "sqlite://" else request.param
    manager = SessionManager(config_of(store=store))
    yield manager
    manager.sync.close()


@pytest.fixture(params=CLIENTS)
def client(request, manager):
    make, kind = CLIENTS[request.param]
    with kind(make(manager)) as client:
        yield client


# --- what it does -----------------------------------------------------------------------------------------------------


def test_a_test_logs_in_with_one_line(client, manager):
    """What the block puts in is there for the next request, and the handler's changes for the next block."""
    with client_session(client, manager) as session:
        assert session.is_new
        session["user_id"] = 7
    assert client.get("/").json() == {"is_new": False, "user_id": 7}
    assert client.get("/add").json() == 1
    with client_session(client, manager) as session:
        assert session == {"user_id": 7, "added": 1}
        session["added"] = 5
    assert client.get("/add").json() == 6


def test_the_session_that_the_app_began(client, manager):
    """The block opens the session whose cookie the client has. A log-in in it changes the ID: one cookie is left."""
    client.get("/add")
    before = client.cookies["session"]
    with client_session(client, manager) as session:
        assert session == {"added": 1}
        session["user_id"] = 7
    assert client.cookies["session"] != before
    assert len(client.cookies.jar) == 1
    assert client.get("/").json() == {"is_new": False, "user_id": 7, "added": 1}


def test_a_log_out_by_the_test(client, manager):
    """`clear()` in the block takes the cookie out of the jar, and the next block finds a new session."""
    with client_session(client, manager) as session:
        session["user_id"] = 7
    with client_session(client, manager) as session:
        session.clear()
    assert "session" not in client.cookies
    assert client.get("/").json() == {"is_new": True}
    with client_session(client, manager) as session:
        assert session.is_new and not session


def test_a_log_out_by_the_app(client, manager):
    """After the app's log-out the block finds a new session."""
    with client_session(client, manager) as session:
        session["user_id"] = 7
    client.get("/logout")
    with client_session(client, manager) as session:
        assert session.is_new and not session


def test_to_look_changes_nothing(client, manager):
    """A block that only looks sets no cookie, and keeps the one that is there."""
    with client_session(client, manager) as session:
        assert not session
    assert len(client.cookies.jar) == 0
    client.get("/add")
    before = client.cookies["session"]
    with client_session(client, manager) as session:
        assert session["added"] == 1
    assert client.cookies["session"] == before


def test_a_block_that_fails_saves_nothing(client, manager):
    """The exception goes on, the session stays as it was, and the same client's next block works."""
    opened = client_session(client, manager)
    with pytest.raises(LookupError), opened as session:
        session["user_id"] = 7
        raise LookupError("a bug of the test's")
    assert client.get("/").json() == {"is_new": True}
    with opened as session:
        session["user_id"] = 8
    assert client.get("/").json() == {"is_new": False, "user_id": 8}


def test_a_block_that_saved_before_it_failed(client, manager):
    """What an early `save` has saved stays, and the client has the cookie for it."""
    with pytest.raises(LookupError), client_session(client, manager) as session:
        session["user_id"] = 7
        manager.sync.save(session)
        session["user_id"] = 8
        raise LookupError("a bug of the test's")
    assert client.get("/").json() == {"is_new": False, "user_id": 7}


@pytest.mark.parametrize("name", ASYNC_CLIENTS)
async def test_in_a_test_that_is_a_coroutine(name, manager):
    """`async with` does the same, in the loop that the app runs in."""
    make, kind = ASYNC_CLIENTS[name]
    app = make(manager)
    options = {"base_url": "http://testserver.local"}
    if "httpx" in name:
        transport = (httpx if name == "httpx" else httpx2).ASGITransport(app=app)
        options, app = {**options, "transport": transport}, None
    async with manager, kind(*([app] if app else []), **options) as client:
        async with client_session(client, manager) as session:
            session["user_id"] = 7
        assert (await client.get("/")).json() == {"is_new": False, "user_id": 7}
        await client.get("/add")
        async with client_session(client, manager) as session:
            assert session == {"user_id": 7, "added": 1}
            session.clear()
        assert (await client.get("/")).json() == {"is_new": True}
        with pytest.raises(LookupError):
            async with client_session(client, manager) as session:
                session["user_id"] = 7
                raise LookupError
        assert (await client.get("/")).json() == {"is_new": True}


def test_a_websocket_has_the_session():
    """The handshake brings the cookie along."""
    manager = SessionManager(config_of())
    with starlette.testclient.TestClient(starlette_app(manager)) as client:
        with client_session(client, manager) as session:
            session["user_id"] = 7
        with client.websocket_connect("/socket") as socket:
            assert socket.receive_json() == {"user_id": 7}


def test_two_clients_are_two_users():
    """Each client's jar has its own session."""
    manager = SessionManager(config_of())
    app = starlette_app(manager)
    clients = [starlette.testclient.TestClient(app) for _ in range(2)]
    for number, client in enumerate(clients):
        with client_session(client, manager) as session:
            session["user_id"] = number
    assert [client.get("/").json()["user_id"] for client in clients] == [0, 1]


def test_a_manager_of_the_tests_own():
    """Where the app has only a configuration, a manager that is made of it works on the same store."""
    config = config_of()
    client = starlette.testclient.TestClient(starlette_app(config))
    with client_session(client, SessionManager(config)) as session:
        session["user_id"] = 7
    assert client.get("/").json() == {"is_new": False, "user_id": 7}


def test_a_cookie_that_the_test_set_by_hand():
    """A cookie in the jar for no domain counts too, and a log-in leaves the client with one that works."""
    manager = SessionManager(config_of())
    app = starlette_app(manager)
    first, second = (starlette.testclient.TestClient(app) for _ in range(2))
    first.get("/add")
    second.cookies.set("session", first.cookies["session"])
    with client_session(second, manager) as session:
        assert session == {"added": 1}
        session["user_id"] = 7
    assert second.get("/").json() == {"is_new": False, "user_id": 7, "added": 1}


def test_methods_that_wait_are_called_through_the_manager():
    """In a plain block, `manager.sync` awaits what a session offers to await."""
    manager = SessionManager(config_of())
    client = starlette.testclient.TestClient(starlette_app(manager))
    with client_session(client, manager) as session:
        session.flash("saved")
        manager.sync.save(session)
    with client_session(client, manager) as session:
        assert manager.sync.flashes(session) == [("info", "saved")]


def test_the_clock_moves():
    """With a clock that the test moves, the session of the block expires."""
    clock = Clock()
    manager = SessionManager(config_of(clock=clock, max_age=60))
    client = starlette.testclient.TestClient(starlette_app(manager))
    with client_session(client, manager) as session:
        session["user_id"] = 7
    clock.advance(61)
    with client_session(client, manager) as session:
        assert session.is_new


# --- the cookie's attributes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "base_url"),
    [
        ({"https_only": True}, "https://testserver"),
        ({"https_only": True, "session_cookie": "__Host-sid"}, "https://testserver"),
        ({"domain": "example.com"}, "http://www.example.com"),
        ({"domain": "example.com"}, "http://www.example.com:8000/api/"),
        ({"https_only": True, "same_site": "none", "partitioned": True}, "https://testserver"),
        ({"persistent": False}, "http://127.0.0.1:8000"),
        ({"record_client": True}, "http://testserver"),
    ],
)
def test_cookies_of_every_kind(options, base_url):
    """Whatever attributes the cookie has, the client that a browser would keep it for sends it back."""
    manager = SessionManager(config_of(**options))
    client = starlette.testclient.TestClient(starlette_app(manager), base_url=base_url)
    with client_session(client, manager) as session:
        session["user_id"] = 7
    assert client.get(f"{base_url.partition('/api')[0]}/").json() == {"is_new": False, "user_id": 7}


def test_a_cookie_for_one_path():
    """A cookie for a path goes to that path alone."""
    manager = SessionManager(config_of(path="/add"))
    client = starlette.testclient.TestClient(starlette_app(manager))
    with client_session(client, manager) as session:
        session["added"] = 5
    assert client.get("/add").json() == 6
    assert client.get("/").json() == {"is_new": True}


def test_https_only_over_http():
    """A client that would never send the cookie is an error that says what to change."""
    manager = SessionManager(config_of(https_only=True))
    client = starlette.testclient.TestClient(starlette_app(manager))
    with pytest.raises(
        ConfigurationError, match=r'base_url="https://testserver", or the manager with https_only=False'
    ):
        client_session(client, manager)


def test_another_domain():
    """So is a cookie for another domain than the client's."""
    manager = SessionManager(config_of(domain="example.com"))
    client = starlette.testclient.TestClient(starlette_app(manager))
    opened = client_session(client, manager)
    with pytest.raises(ConfigurationError, match=r"does not keep .*domain='example.com'"), opened as session:
        session["user_id"] = 7


# --- what is no client, and what cannot be saved ----------------------------------------------------------------------


def test_a_client_without_an_address():
    """A client of httpx without a base URL talks to anybody: its cookies are for nobody."""
    with httpx.Client() as client, pytest.raises(ConfigurationError, match="base_url"):
        client_session(client, SessionManager(config_of()))


@pytest.mark.parametrize("wrong", [None, "client", httpx, Starlette()])
def test_what_is_no_client(wrong):
    """A TypeError says what it takes."""
    with pytest.raises(TypeError, match="as the client; it takes the test client of"):
        client_session(wrong, SessionManager(config_of()))


@pytest.mark.parametrize("wrong", [None, SessionConfig(secret_key=SECRET, store="memory://"), Starlette()])
def test_what_is_no_manager(wrong):
    """So it does for the manager."""
    client = starlette.testclient.TestClient(Starlette())
    with pytest.raises(TypeError, match=r"as the manager; it takes a roomkey\.SessionManager"):
        client_session(client, wrong)


def test_a_value_that_cannot_be_stored():
    """The error names it, and nothing is saved."""
    manager = SessionManager(config_of())
    client = starlette.testclient.TestClient(starlette_app(manager))
    with pytest.raises(SessionDataError, match=r"bad.*object"), client_session(client, manager) as session:
        session.update(user_id=7, bad=object())
    assert client.get("/").json() == {"is_new": True}


def test_a_store_that_is_down():
    """The outage is the test's to hear of."""
    store = SpyStore()
    manager = SessionManager(config_of(store=store))
    client = starlette.testclient.TestClient(starlette_app(manager))
    store.failing.add("create")
    with pytest.raises(StoreUnavailable), client_session(client, manager) as session:
        session["user_id"] = 7
    assert len(client.cookies.jar) == 0
    manager.sync.close()


def test_a_block_within_an_event_loop(manager):
    """A plain `with` works in a coroutine as well, for stores that need a loop of their own too."""

    async def whole():
        transport = httpx.ASGITransport(app=starlette_app(manager))
        async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
            with client_session(client, manager) as session:
                session["user_id"] = 7
            assert (await client.get("/")).json() == {"is_new": False, "user_id": 7}

    asyncio.run(whole())


@pytest.mark.parametrize("module", ["testing.client", "fastapi", "litestar.plugin", "web.connections"])
def test_the_examples_in_the_docstrings_run(module):
    """Each example of these modules gives what it shows."""
    ran = doctest.testmod(sys.modules[f"roomkey.{module}"])
    assert ran.attempted and not ran.failed
