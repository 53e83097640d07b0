"""Litestar, wrapped from outside: one middleware, and so one store, for all of its routes."""

import pytest
from litestar import Litestar, Request, Response, get, post
from litestar.exceptions import NotAuthorizedException
from litestar.middleware import DefineMiddleware
from litestar.middleware.session.client_side import CookieBackendConfig
from litestar.middleware.session.server_side import ServerSideSessionConfig
from litestar.testing import TestClient
from litestar.types import Empty

from roomkey import ConfigurationError, SessionManager, StoreUnavailable
from roomkey.litestar import SessionConfig, SessionMiddleware
from roomkey.stores.memory import MemoryStore
from roomkey.wire import codec


class Store(MemoryStore):
    """One that notes when it is opened and closed."""

    def __init__(self):
        super().__init__()
        self.noted = []

    async def open(self):
        self.noted.append("open")

    async def close(self):
        self.noted.append("close")


@pytest.mark.parametrize("asks", ["save", "flashes", "refresh", "sessions"])
@pytest.mark.parametrize("page", [500, 502])
def test_a_store_down_for_what_a_handler_asks_is_a_503(asks, page):
    """Litestar makes an error page of any exception, inside. By default it is a 503, and nothing is saved twice."""

    class Broken(MemoryStore):
        down = False

        async def update(self, key, record, *, version):
            await super().update(key, record, version=version)
            if self.down and asks in ("save", "flashes"):
                self.down = False
                raise OSError  # it was saved, and the answer was lost

        async def load(self, key):
            if self.down and asks == "refresh":
                raise OSError
            return await super().load(key)

        async def of_user(self, user):
            raise OSError

    store = Broken()

    @get("/fails")
    async def fails(request: Request) -> None:
        request.session.change("n", lambda n: n + 1, 0)
        request.session.flash("hello")
        store.down = True
        if asks == "sessions":
            await request.session.sessions.of(42)
        else:
            await getattr(request.session, asks)()

    def own_page(request: Request, error: StoreUnavailable) -> Response:
        return Response("our own page", status_code=page)

    handlers = {} if page == 500 else {StoreUnavailable: own_page}
    app = SessionMiddleware(
        Litestar([log_in, fails, me], exception_handlers=handlers), SessionConfig(secret_key="k" * 32, store=store)
    )
    with TestClient(app, raise_server_exceptions=False) as client:
        client.post("/login")
        answer = client.get("/fails")
        assert answer.status_code == (503 if page == 500 else page)
        assert ("retry-after" in answer.headers) is (page == 500)
        store.down = False
        (record,) = [record for record in store._records.values() if record.successor is None]
        # A page of the app's own saves what nobody has tried to save yet.
        assert codec.decode(record.data).get("n", 0) == (1 if asks in ("save", "flashes") or page == 502 else 0)


@post("/login")
async def log_in(request: Request) -> str:
    request.session["user_id"] = 42
    return "in"


@get("/me")
async def me(request: Request) -> dict[str, int]:
    if "user_id" not in request.session:
        request.session["denied"] = request.session.get("denied", 0) + 1
        raise NotAuthorizedException
    return {"user": request.session["user_id"], "denied": request.session.get("denied", 0)}


@post("/clear")
async def clear(request: Request) -> str:
    request.session.clear()
    return "out"


@post("/clear-session")
async def clear_session(request: Request) -> str:
    request.clear_session()
    return "out"


@post("/set-session")
async def set_session(request: Request) -> str:
    request.set_session({"user_id": 43})
    return "set"


def browser(store):
    routes = [log_in, me, clear, clear_session, set_session]
    app = SessionMiddleware(Litestar(routes), SessionConfig(secret_key="k" * 32, store=store))
    return TestClient(app)


def test_routes_share_the_session():
    """What one route puts into it another one finds; an error response saves, and the store lives with the app."""
    store = Store()
    with browser(store) as client:
        assert client.get("/me").status_code == 401
        client.post("/login")
        assert client.get("/me").json() == {"user": 42, "denied": 1}
        client.post("/set-session")
        assert client.get("/me").json() == {"user": 43, "denied": 0}
    assert store.noted[0] == "open" and store.noted[-1] == "close"


def test_a_wrong_configuration_ends_the_start(tmp_path):
    """A test client does not wait for ever where the store can never open, but raises what is wrong."""
    with pytest.raises(ConfigurationError, match="directory"), browser(f"sqlite:///{tmp_path}"):
        pass


def test_each_way_to_log_out():
    """`session.clear()` and Litestar's own `clear_session()` end the session: a copy of its cookie is worth nothing."""
    for path in ("/clear", "/clear-session"):
        with browser(Store()) as client:
            client.post("/login")
            copied = client.cookies["session"]
            client.post(path)
            client.cookies.clear()
            client.cookies.set("session", copied)
            assert client.get("/me").status_code == 401


@pytest.mark.parametrize("backend", ["server", "cookie"])
def test_litestars_own_sessions_beside(backend, caplog):
    """Routes with Litestar's own sessions, under another cookie, neither end nor change Roomkey's session."""
    own = ServerSideSessionConfig(key="admin") if backend == "server" else CookieBackendConfig(b"a" * 16, key="admin")

    @get("/admin", middleware=[own.middleware])
    async def admin(request: Request) -> dict[str, str]:
        return request.session

    @post("/admin/write", middleware=[own.middleware])
    async def admin_write(request: Request) -> None:
        request.set_session({"admin": "yes"})

    @post("/admin/leave", middleware=[own.middleware])
    async def admin_leave(request: Request) -> None:
        request.clear_session()

    store = Store()
    config = SessionConfig(secret_key="k" * 32, store=store)
    app = SessionMiddleware(Litestar([log_in, me, admin, admin_write, admin_leave]), config)
    with TestClient(app) as client:
        client.post("/login")
        user = {"user": 42, "denied": 0}
        assert client.get("/admin").json() == {}
        assert client.get("/me").json() == user
        client.post("/admin/write")
        assert client.get("/admin").json() == {"admin": "yes"}
        assert client.get("/me").json() == user
        client.post("/admin/leave")
        assert client.get("/admin").json() == {}
        assert client.get("/me").json() == user
    (record,) = store._records.values()
    assert codec.decode(record.data) == {"user_id": 42}


@pytest.mark.parametrize("content", [{"user_id": 43}, {}, None, Empty, ["no", "dict"]])
def test_set_session_puts_its_content(content):
    """A dict replaces the content, and nothing is a log-out. Anything else is an error that says what it takes."""

    @post("/set")
    async def set_it(request: Request) -> str:
        request.set_session(content)
        return "set"

    config = SessionConfig(secret_key="k" * 32, store=Store())
    with TestClient(SessionMiddleware(Litestar([log_in, me, set_it], debug=True), config)) as client:
        client.post("/login")
        if isinstance(content, list):
            answer = client.post("/set")
            assert answer.status_code == 500 and "set_session: got list; it takes a dict" in answer.text
            assert client.get("/me").json() == {"user": 42, "denied": 0}
        else:
            client.post("/set")
            assert client.get("/me").status_code == (200 if content == {"user_id": 43} else 401)


def routes_that_count():
    @get("/one")
    async def one(request: Request) -> int:
        return request.session.change("n", lambda n: n + 1, 0)

    @get("/two")
    async def two(request: Request) -> int:
        return request.session.change("n", lambda n: n + 1, 0)

    return [one, two]


class Around:
    """Another middleware, which has its own name for what it wraps."""

    def __init__(self, app):
        self.inner = app

    async def __call__(self, scope, receive, send):
        await self.inner(scope, receive, send)


@pytest.mark.parametrize("url", ["memory://", "sqlite:///sessions.sqlite3"])
@pytest.mark.parametrize("beside", [[], [Around]])
def test_options_for_each_route_are_refused(url, beside):
    """Litestar makes its middleware for each route. A store for each would lose data in silence."""
    own = DefineMiddleware(SessionMiddleware, secret_key="k" * 32, store=url)
    for order in ([own, *beside], [*beside, own]):
        with pytest.raises(ConfigurationError, match="give all of them one configuration"):
            Litestar(routes_that_count(), middleware=order)


@pytest.mark.parametrize("given", ["config", "manager"])
@pytest.mark.parametrize("beside", [[], [Around]])
def test_one_configuration_is_shared_by_all_routes(given, beside):
    """Given once, it has one store and one manager, whichever route a request takes."""
    store = Store()
    config = SessionConfig(secret_key="k" * 32, store=store)
    manager = SessionManager(config)
    own = DefineMiddleware(SessionMiddleware, config=config if given == "config" else manager)
    lifespan = [lambda app: manager] if given == "manager" else []
    app = Litestar(routes_that_count(), middleware=[own, *beside], lifespan=lifespan)
    with TestClient(app) as client:
        assert [client.get(path).text for path in ("/one", "/two", "/one", "/two")] == ["1", "2", "3", "4"]
        client.cookies.clear()
        client.get("/two", headers={"cookie": "session=forged"})
    if given == "manager":
        assert (store.noted[0], store.noted[-1]) == ("open", "close")
        assert manager.refused == {"card": 1}
