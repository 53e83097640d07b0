"""`roomkey.starlette` in the place of Starlette's own session middleware."""

import doctest
import importlib.util
import logging
import sys
from types import ModuleType, SimpleNamespace

import pytest
import starlette.middleware.sessions as sessions
from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware as StarlettesOwn
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket

import roomkey.starlette
from roomkey import ConfigurationError, SessionManager, SessionMiddleware, session_of
from roomkey.fastapi import require_login
from roomkey.starlette import install, uninstall
from roomkey.stores.memory import MemoryStore
from tests.manager.parts import SECRET, run_script


@pytest.fixture(autouse=True)
def modules(monkeypatch):
    """Hide the modules of other tests, which have Starlette's class, and return those that `install` looks through."""
    seen = {name: sys.modules[name] for name in ("roomkey.starlette", "starlette.middleware.sessions")}
    monkeypatch.setattr(roomkey.starlette, "sys", SimpleNamespace(modules=seen))
    yield seen
    uninstall()


class Store(MemoryStore):
    """One that notes what it is asked."""

    def __init__(self):
        super().__init__()
        self.asked = []

    async def open(self):
        self.asked.append("open")

    async def close(self):
        self.asked.append("close")

    async def load(self, key):
        self.asked.append("load")
        return await super().load(key)


def make(store="memory://", **options):
    return SessionManager(secret_key=SECRET, store=store, **options)


async def show(request: Request) -> JSONResponse:
    return JSONResponse(request.session)


def write(request: Request) -> JSONResponse:  # in a thread
    request.session[request.path_params["key"]] = 1
    return JSONResponse({})


async def leave(request: Request) -> JSONResponse:
    request.session.clear()
    return JSONResponse({})


async def chat(websocket: WebSocket) -> None:
    session_of(websocket)["said"] = 1
    await websocket.accept()
    await websocket.send_json(session_of(websocket).copy())
    await websocket.close()


ROUTES = [
    Route("/", show),
    Route("/write/{key}", write, methods=["POST"]),
    Route("/leave", leave, methods=["POST"]),
    WebSocketRoute("/chat", chat),
]


def added(key=SECRET, **options):
    """Return what a package adds to its app: the class that it finds in Starlette."""
    return Middleware(sessions.SessionMiddleware, secret_key=key, **options)


def client_of(*middleware, page=None):
    """Return a client of an app with this middleware; `page`: the middleware of an app in it, at `/page`."""
    mounted = [] if page is None else [Mount("/page", Starlette(routes=ROUTES, middleware=[page]))]
    return TestClient(Starlette(routes=[*ROUTES, *mounted], middleware=middleware))


def names(client):
    return {cookie.name for cookie in client.cookies.jar}


# --- install and uninstall --------------------------------------------------------------------------------------------


def test_importing_the_module_changes_nothing():
    """Starlette's class is its own, until `install` is called. Real packages that came before are named."""
    said = run_script(
        """
        import starlette.middleware.sessions as sessions
        before = id(sessions.SessionMiddleware)
        from roomkey import ConfigurationError, SessionManager
        from roomkey.starlette import install
        assert id(sessions.SessionMiddleware) == before
        import sqladmin, sqladmin.authentication  # which imports the class when it needs it
        manager = SessionManager(secret_key="k" * 32, store="memory://")
        install(manager)
        assert id(sessions.SessionMiddleware) != before
        from roomkey.starlette import uninstall
        uninstall()
        assert id(sessions.SessionMiddleware) == before
        import fasthtml.common
        try:
            install(manager)
        except ConfigurationError as error:
            print(error)
        assert id(sessions.SessionMiddleware) == before
        """
    )
    named, _, rest = said.removeprefix("install: ").partition(" imported ")
    assert {"fasthtml.core", "fasthtml.starlette"} <= set(named.split(", "))
    assert all(name.startswith("fasthtml.") for name in named.split(", "))
    assert rest.startswith("Starlette's SessionMiddleware before")


def test_modules_that_have_the_old_class_are_named(modules):
    """Under any name, and all of them. Nothing is installed then, and it can be, once they have gone."""
    for name in ("shop.pages", "admin"):
        modules[name] = ModuleType(name)
        modules[name]._Base = StarlettesOwn
    with pytest.raises(ConfigurationError, match=r"^install: admin, shop\.pages imported Starlette's"):
        install(make())
    assert sessions.SessionMiddleware is StarlettesOwn
    del modules["admin"], modules["shop.pages"]
    install(make())
    assert sessions.SessionMiddleware is not StarlettesOwn


def test_modules_that_have_the_new_class_are_fine(modules):
    """What was imported while Roomkey was installed follows the next `install` too."""
    install(make())
    modules["admin"] = ModuleType("admin")
    modules["admin"].SessionMiddleware = sessions.SessionMiddleware
    uninstall()
    install(make())
    assert modules["admin"].SessionMiddleware is sessions.SessionMiddleware


def test_a_lazy_module_stays_unloaded(modules, tmp_path):
    """The search executes nothing, and passes over what is no module."""
    (tmp_path / "lazy.py").write_text("raise AssertionError")
    spec = importlib.util.spec_from_file_location("lazy", tmp_path / "lazy.py")
    spec.loader = importlib.util.LazyLoader(spec.loader)
    modules["lazy"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(modules["lazy"])
    modules["nothing"], modules["something"] = None, object()
    install(make())


def test_a_second_install():
    """The same manager again is nothing new. Another one needs `uninstall` first."""
    manager = make()
    install(manager)
    found = sessions.SessionMiddleware
    install(manager)
    assert sessions.SessionMiddleware is found
    with pytest.raises(ConfigurationError, match=r"another manager is installed.*uninstall\(\)"):
        install(make())
    with TestClient(Starlette(routes=ROUTES, middleware=[added()])) as client:
        client.post("/write/a")
    assert manager.config.store._records


@pytest.mark.parametrize(
    ("options", "given", "expected"),
    [
        ({"session_cookie": "visit"}, {}, ("cookie", "visit")),
        ({"session_cookie": "visit"}, {"session_cookie": "theirs"}, ("cookie", "session")),
        ({"card_header": "X-Auth-Token"}, {}, ("header", "x-auth-token")),
    ],
    ids=["its cookie", "another one", "a header"],
)
def test_fastapis_document_names_what_has_the_card(options, given, expected):
    """Where Roomkey stands in for the middleware that an app adds as Starlette's, the manager says it."""
    install(make(**options))
    app = FastAPI(dependencies=[Depends(require_login)])
    app.add_middleware(sessions.SessionMiddleware, secret_key="theirs", **given)

    @app.get("/")
    async def home() -> None: ...

    (scheme,) = app.openapi()["components"]["securitySchemes"].values()
    assert (scheme["in"], scheme["name"]) == expected
    uninstall()
    app.openapi_schema = None
    (scheme,) = app.openapi()["components"]["securitySchemes"].values()
    assert (scheme["in"], scheme["name"]) == ("cookie", "session")


def test_uninstall():
    """Starlette's class is back. Without `install`, and a second time, nothing happens."""
    uninstall()
    assert sessions.SessionMiddleware is StarlettesOwn
    install(make())
    uninstall()
    uninstall()
    assert sessions.SessionMiddleware is StarlettesOwn


def test_an_app_that_has_started_keeps_its_sessions():
    """One that starts after `uninstall` has Starlette's own, also where it was given Roomkey's class."""
    install(make())
    early, late = client_of(added()), client_of(added())
    early.post("/write/a")
    uninstall()
    late.post("/write/a")
    assert early.get("/").json() == late.get("/").json() == {"a": 1}
    assert [_is_roomkeys(client) for client in (early, late)] == [True, False]


def _is_roomkeys(client, name="session"):
    """Whether a client's cookie is Roomkey's: an ID, with no data in it."""
    return "." not in client.cookies[name]


@pytest.mark.parametrize("given", [None, "key", make().config], ids=["None", "str", "SessionConfig"])
def test_install_takes_a_manager(given):
    """Anything else is a TypeError that says so."""
    with pytest.raises(TypeError, match=f"got {type(given).__name__}; it takes a roomkey.SessionManager"):
        install(given)


# --- what shares the session ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("site", ["roomkey's", "another manager's", "starlette's"])
def test_one_session_for_the_site_and_a_page_in_it(site):
    """Whoever added the site's middleware, the page sees the site's session: one cookie, and one load for a request."""
    store = Store()
    manager = make(store)
    install(manager)
    outer = {
        "roomkey's": Middleware(SessionMiddleware, config=manager),
        "another manager's": Middleware(SessionMiddleware, secret_key=SECRET, store=store),
        "starlette's": added(),
    }[site]
    client = client_of(outer, page=added("a key of its own"))
    client.post("/write/a")
    client.post("/page/write/b")
    store.asked.clear()
    assert client.get("/page/").json() == {"a": 1, "b": 1}
    assert store.asked == ["load"]
    assert client.get("/").json() == {"a": 1, "b": 1}
    assert names(client) == {"session"}


def test_one_session_where_the_site_is_inside():
    """The page around the site loads the session, and the site's own middleware hands it on."""
    store = Store()
    manager = make(store)
    install(manager)
    client = client_of(added(), page=Middleware(SessionMiddleware, config=manager))
    client.post("/page/write/a")
    store.asked.clear()
    assert client.get("/page/").json() == {"a": 1}
    assert store.asked == ["load"]


def test_a_log_out_there_logs_the_user_of_the_site_out():
    """And a copied cookie opens nothing any more."""
    manager = make()
    install(manager)
    client = client_of(Middleware(SessionMiddleware, config=manager), page=added())
    client.post("/write/user_id")
    copied = {"cookie": f"session={client.cookies['session']}"}
    client.post("/page/leave")
    assert client.get("/").json() == {}
    assert names(client) == set()
    assert client.get("/", headers=copied).json() == {}


def test_another_cookie_stays_theirs(caplog):
    """Starlette's own middleware runs for it, with its own key, beside the session of the site. Nothing is logged."""
    manager = make()
    install(manager)
    client = client_of(Middleware(SessionMiddleware, config=manager), page=added("theirs", session_cookie="page"))
    client.post("/write/a")
    client.post("/page/write/b")
    assert client.get("/").json() == {"a": 1}
    assert client.get("/page/").json() == {"b": 1}
    assert names(client) == {"session", "page"}
    assert (_is_roomkeys(client), _is_roomkeys(client, "page")) == (True, False)
    client.post("/page/leave")
    assert client.get("/").json() == {"a": 1}
    assert not [record for record in caplog.records if record.name.startswith("roomkey")]


def test_no_cookie_name_is_the_managers():
    """A package that names no cookie shares the session, whatever its cookie is called. Positions count as names."""
    install(make(session_cookie="id"))
    client = client_of(added())
    client.post("/write/a")
    assert names(client) == {"id"}
    for theirs in (added(session_cookie="session"), Middleware(sessions.SessionMiddleware, SECRET, "session")):
        client = client_of(theirs)
        client.post("/write/a")
        assert names(client) == {"session"}
        assert not _is_roomkeys(client)


def test_the_managers_options_count():
    """Those that the package gives are checked as Starlette does, and have no effect."""
    install(make(max_age=60, same_site="strict"))
    answer = client_of(added(max_age=5, same_site="none", path="/page")).post("/write/a")
    assert "Max-Age=60; Path=/; HttpOnly; SameSite=strict" in answer.headers["set-cookie"]
    for wrong in ({}, {"secret_key": SECRET, "store": "memory://"}):
        with pytest.raises(TypeError):
            sessions.SessionMiddleware(Starlette(), **wrong)


def test_a_key_that_gives_way_is_logged_once(caplog):
    """Without the key, for all apps together, and not where it is one of the manager's or keeps its own sessions."""
    manager = SessionManager(secret_key=[SECRET, "the key of last year, which is long enough"], store="memory://")
    install(manager)
    for silent in (added(), added("the key of last year, which is long enough"), added("x", session_cookie="page")):
        client_of(silent).get("/")
    assert not caplog.messages
    for key in ("their very own", "another"):
        client_of(added(key)).get("/")
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("roomkey", logging.WARNING)
    assert "with a secret_key of its own" in record.getMessage() and "cookie 'session'" in record.getMessage()
    assert "their very own" not in record.getMessage()


def test_a_websocket():
    """It shares the session, and what begins there is saved."""
    install(make())
    client = client_of(added())
    client.post("/write/a")
    with client.websocket_connect("/chat") as socket:
        assert socket.receive_json() == {"a": 1, "said": 1}
    assert client.get("/").json() == {"a": 1, "said": 1}


def test_the_store_opens_and_closes_with_the_app():
    """A package's app is enough for that."""
    store = Store()
    install(make(store))
    with client_of(added()):
        assert store.asked == ["open"]
    assert store.asked == ["open", "close"]


def test_a_subclass_shares_the_session():
    """What it adds still happens, and it is a subclass of Starlette's own class."""
    install(make())

    class Theirs(sessions.SessionMiddleware):
        def __init__(self, app):
            super().__init__(app, secret_key=SECRET)

        async def __call__(self, scope, receive, send):
            scope["theirs"] = self.max_age
            await super().__call__(scope, receive, send)

    async def show_theirs(request: Request) -> JSONResponse:
        return JSONResponse([request.scope["theirs"], request.session["a"]])

    assert issubclass(Theirs, StarlettesOwn)
    client = TestClient(Starlette(routes=[*ROUTES, Route("/theirs", show_theirs)], middleware=[Middleware(Theirs)]))
    client.post("/write/a")
    assert client.get("/theirs").json() == [1209600, 1]
    assert _is_roomkeys(client)


def test_it_has_the_name_of_starlettes_own():
    """For whoever looks for a middleware by its name, and for the list of an app's middleware."""
    install(make())
    assert repr(added("-")) == "Middleware(SessionMiddleware, secret_key='-')"


def test_the_examples_of_the_docstrings_run():
    """Those of `install` and `uninstall`."""
    ran = doctest.testmod(roomkey.starlette)
    assert (ran.failed, ran.attempted > 0) == (0, True)
