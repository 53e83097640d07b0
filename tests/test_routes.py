"""Paths that get no session (`exclude`), and paths that keep none alive (`passive`)."""

import asyncio

import pytest
import starlette.testclient
from lilya.apps import Lilya
from lilya.routing import Include
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

import roomkey.ravyn
from roomkey import ConfigurationError, Request, Session, SessionConfig, SessionManager, SessionMiddleware
from roomkey.csrf import CSRFMiddleware
from roomkey.routes import by_path
from roomkey.testing import Clock
from tests.asgi import SECRET, SpyStore, ask, cookie_in, header, http_scope, make, websocket_scope
from tests.test_accessors import APPS, START, litestar_app, litestar_app_with_middleware, ravyn_app, store
from tests.test_session import _NOT_A_USE, _OPERATIONS

__all__ = ["store"]

MAX_AGE = 1000


class Site:
    """A middleware, requests to it, and a clock. `/login` logs in; all else is handled by `act`, and the path `/poll`
    is passive."""

    def __init__(self, store, **options):
        self.clock = Clock(START)
        self.act = lambda session: None
        settings = {"clock": self.clock, "max_age": MAX_AGE, "passive": ["/poll"], **options}
        self.app = make(self._handle, store=store(self.clock), **settings)

    async def _handle(self, scope, send):
        session = scope["session"]
        if scope["path"] == "/login":
            session["user_id"] = 7
        elif asyncio.iscoroutinefunction(self.act):
            await self.act(session, send)
        else:
            self.act(session)

    async def get(self, path, card=None, act=None, scope=http_scope):
        if act is not None:
            self.act = act
        return (await ask(self.app, scope(path, card)))[0]

    async def log_in(self):
        return cookie_in(await self.get("/login"))

    async def seconds_left(self, card):
        """Return for how long the session lives if nobody uses it any more."""
        session = await self.app.manager.load(Request(path="/poll", headers=[(b"cookie", b"session=" + card)]))
        return None if session.is_new else session.expires_at.timestamp() - self.clock()


# --- which paths ------------------------------------------------------------------------------------------------------

MATCHES = [
    ("/health", "", True),
    ("/health/", "", False),
    ("/healthy", "", False),
    ("//health", "", False),
    ("/static/a/b.css", "", True),
    ("/static/", "", True),
    ("/static", "", False),
    ("/", "", False),
    ("/app/health", "/app", True),
    ("/app/health", "/app/", True),
    ("/app/static/a", "/app", True),
    ("/health", "/app", True),  # the server has left the root out
    ("/app/health", "", False),
    ("/application/health", "/app", False),
    ("/app", "/app", False),
    ("/health", "/health", False),  # the root of an app that lies there
]


@pytest.mark.parametrize(("path", "root", "fits"), MATCHES)
async def test_paths_match_as_those_of_csrf_do(path, root, fits):
    """Itself, or everything below one that ends with a slash; counted from the app's root."""
    paths = ["/health", "/static/"]
    scope = http_scope(path, method="POST", root_path=root)
    excluded, checked = [], []

    async def handler(scope, send):
        try:
            len(scope["session"])
        except ConfigurationError:
            excluded.append(path)

    await ask(make(handler, exclude=paths), scope)

    async def app(scope, receive, send):
        checked.append(path)

    scope["headers"] = [*scope["headers"], (b"sec-fetch-site", b"cross-site")]
    await ask(CSRFMiddleware(app, exempt_paths=paths), scope)
    site = Site(lambda clock: SpyStore(clock=clock), passive=paths)
    card = await site.log_in()
    site.clock.advance(MAX_AGE / 2)
    site.act = lambda session: session.get("user_id")
    renewed = cookie_in((await ask(site.app, http_scope(path, card, root_path=root)))[0]) is not None
    assert (bool(excluded), bool(checked), not renewed) == (fits, fits, fits)


def mounted_by_starlette(app):
    return Starlette(routes=[Mount("/sub", app)]), ""


def mounted_by_lilya(app):
    return Lilya(routes=[Include("/sub", app=app)]), ""


def below_a_root(app):
    return app, "/sub"


@pytest.mark.parametrize("mount", [mounted_by_starlette, mounted_by_lilya, below_a_root])
def test_an_app_that_lies_below_a_path(mount):
    """Its middleware knows paths as its own routes do."""
    store = SpyStore()

    async def answer(request):
        return PlainTextResponse("excluded" if "none" in repr(request.scope["session"]) else "loaded")

    inner = Starlette(routes=[Route("/health", answer), Route("/other", answer)])
    app, root = mount(SessionMiddleware(inner, secret_key=SECRET, store=store, exclude=["/health"]))
    with starlette.testclient.TestClient(app, root_path=root) as client:
        assert [client.get(f"/sub/{path}").text for path in ("health", "other")] == ["excluded", "loaded"]


@pytest.mark.parametrize("option", ["exclude", "passive"])
@pytest.mark.parametrize("wrong", ["/health", b"/health", 5, None, ["health"], ["/"], [""], ["/a/*"], [5]], ids=repr)
def test_wrong_paths_are_refused(option, wrong):
    """The message names the option."""
    with pytest.raises(ConfigurationError, match=rf"^{option}: got .*; it takes "):
        SessionConfig(secret_key=SECRET, store="memory://", **{option: wrong})


def test_the_config_keeps_paths_as_a_tuple():
    """Any iterable of paths will do."""
    config = SessionConfig(secret_key=SECRET, store="memory://", exclude=iter(["/a"]), passive={"/b"})
    assert (config.exclude, config.passive) == (("/a",), ("/b",))


@pytest.mark.parametrize("store", ["memory://", "cookie://"])
def test_without_the_options_no_path_is_looked_at(store):
    """What begins requests is what it is without them."""
    manager = SessionManager(secret_key=SECRET, store=store)
    begin = manager._loader.from_headers if store == "memory://" else manager._incoming.begin
    assert manager._begin_here == begin and by_path(begin, manager._loader, manager.config) is begin


# --- exclude ----------------------------------------------------------------------------------------------------------

SAYS = "exclude: it has '/health', so that this request has no session; take that out of exclude, or do not use "
SAYS += "request.session here"


@pytest.mark.parametrize("make_app", APPS)
def test_an_excluded_route_in_each_framework(make_app):
    """`request.session` raises, and names the option. Where nothing asks for it, nothing is loaded."""
    clock = Clock(START)
    kind = roomkey.ravyn.SessionConfig if make_app is ravyn_app else SessionConfig
    spy = SpyStore(clock=clock)
    config = kind(secret_key=SECRET, store=spy, clock=clock, exclude=["/show", "/picture"])
    manager = SessionManager(config)
    session = manager.sync.load()
    session["user_id"] = 7
    cookie = {"cookie": dict(manager.sync.commit(session))["set-cookie"].partition(";")[0]}
    spy.events.clear()
    with starlette.testclient.TestClient(make_app(config), raise_server_exceptions=False) as client:
        answer = client.get("/picture", headers=cookie)
        assert answer.status_code == 200 and "vary" not in answer.headers and "load" not in spy.events
        assert client.get("/show", headers=cookie).status_code == 500
        assert client.get("/peek", headers=cookie).json() == {"user_id": 7}
    if make_app in (litestar_app, litestar_app_with_middleware, ravyn_app):
        return  # it makes its 500 itself, and there is no exception for the client to raise
    with (
        starlette.testclient.TestClient(make_app(config)) as client,
        pytest.raises(ConfigurationError, match=r"^exclude: it has '/show'"),
    ):
        client.get("/show", headers=cookie)


def uses_of(session_class):
    """Return what can be done with a session, by name: operations, calls and attributes."""
    uses = {name: lambda s, run=run: run(s, "a", 9, {"a": 3}) for name, run in _OPERATIONS.items()}
    # `json` is C code, which finds an empty dict; what a framework's `request.session` is asked for raises sooner.
    uses = {name: use for name, use in uses.items() if name not in {*_NOT_A_USE, "json"}}
    for name in dir(session_class):
        if not name.startswith("_") and name != "accessed":
            uses[name] = lambda s, name=name: getattr(s, name)("a")
    uses["modified = True"] = lambda s: setattr(s, "modified", True)
    return uses


class OwnSession(Session):
    def __init__(self, *given, **more):
        super().__init__(*given, **more)
        self.pop("nothing", None)

    @property
    def theme(self):
        return self.get("theme", "dark")

    def forget(self, key):
        self.pop(key, None)


@pytest.mark.parametrize("use", [*uses_of(OwnSession)])
async def test_any_use_of_an_excluded_session_raises(use):
    """Whatever is done with it, also by the methods of one's own class."""
    manager = SessionManager(secret_key=SECRET, store="memory://", exclude=["/health"], session_class=OwnSession)
    session = await manager.load(Request(path="/health"))
    assert isinstance(session, OwnSession)
    with pytest.raises(ConfigurationError) as caught:
        uses_of(OwnSession)[use](session)
    assert str(caught.value) == SAYS


@pytest.mark.parametrize("kind", [http_scope, websocket_scope])
async def test_an_excluded_request_asks_the_store_nothing(kind):
    """With a genuine card and with a forged one: nothing is looked up, counted or sent."""
    store = SpyStore()

    async def handler(scope, send):
        if scope["path"] == "/login":
            scope["session"]["user_id"] = 7
            return
        shown.append(repr(scope["session"]))
        if kind is websocket_scope:
            await send({"type": "websocket.accept"})

    shown = []
    app = make(handler, store=store, exclude=["/health"])
    card = cookie_in((await ask(app, http_scope("/login")))[0])
    store.events.clear()
    for sent in (card, b"forged"):
        answer = (await ask(app, kind("/health", sent)))[0]
        assert not header({"headers": answer.get("headers", [])}, b"vary") and store.events == []
    assert shown == ["Session(none: exclude has '/health')"] * 2 and app.manager.refused == {}


async def test_a_store_that_is_down_is_not_asked():
    """A health check answers."""
    store = SpyStore()
    site = Site(lambda clock: store, exclude=["/health"])
    card = await site.log_in()
    store.failing.add("load")
    assert (await site.get("/health", card))["status"] == 200
    assert (await site.get("/", card))["status"] == 503


async def test_an_app_in_an_excluded_route_has_no_session_either():
    """A middleware further in, for the same cookie, loads none behind the outer one's back."""
    store = SpyStore()

    async def handler(scope, send):
        with pytest.raises(ConfigurationError, match="exclude"):
            scope["session"].get("user_id")

    inner = make(handler, store=store)
    app = SessionMiddleware(inner, secret_key=SECRET, store=store, exclude=["/health"])
    await ask(app, http_scope("/health", b"forged"))
    assert store.events == []


# --- passive ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make_app", APPS)
async def test_a_passive_route_in_each_framework(make_app, store):
    """It reads the session, says `Vary: Cookie`, and keeps nothing alive."""
    clock = Clock(START)
    kind = roomkey.ravyn.SessionConfig if make_app is ravyn_app else SessionConfig
    config = kind(secret_key=SECRET, store=store(clock), clock=clock, max_age=MAX_AGE, passive=["/show"])
    site = make(lambda scope, send: _log_in(scope), store=config.store, clock=clock, max_age=MAX_AGE)
    card = cookie_in((await ask(site, http_scope()))[0])
    with starlette.testclient.TestClient(make_app(config)) as client:
        for _ in range(3):
            clock.advance(MAX_AGE / 4)
            answer = client.get("/show", headers={"cookie": f"session={card.decode()}"})
            assert (answer.json(), answer.headers["vary"]) == ({"user_id": 7}, "Cookie")
            assert "set-cookie" not in answer.headers
        clock.advance(MAX_AGE / 4 + 1)
        assert client.get("/show", headers={"cookie": f"session={card.decode()}"}).json() == {}


async def _log_in(scope):
    scope["session"]["user_id"] = 7


KEEPS = {
    "a read": lambda session: session.get("user_id"),
    "a list": lambda session: session.setdefault("cart", []),
    "a write": lambda session: session.update(theme="dark"),
    "a change": lambda session: session.change("views", lambda views: views + 1, default=0),
    "a message": lambda session: session.flash("hello"),
    "marked": lambda session: session.mark_modified(),
    "a new ID": lambda session: session.rotate(),
    "the same time as ever": lambda session: session.remember(None),
}


@pytest.mark.parametrize("act", KEEPS)
async def test_what_a_passive_route_does_leaves_the_expiry(store, act):
    """It is saved, and the session ends when it would have ended. The session itself says when."""
    site, said = Site(store), []

    def handle(session):
        KEEPS[act](session)
        said.append(session.expires_at.timestamp() - site.clock())

    card = await site.log_in()
    for left in (700, 400):
        site.clock.advance(300)
        answer = await site.get("/poll", card, handle)
        assert header(answer, b"vary") == [b"Cookie"]
        for cookie in header(answer, b"set-cookie"):  # `cookie://`, and a new ID
            card = cookie_in(answer)
            assert f"Max-Age={left};".encode() in cookie + b";"
        assert await site.seconds_left(card) == left == said[-1]
    if act == "a change":
        assert (await site.app.manager.load(b"session=" + card))["views"] == 1 + 1
    site.clock.advance(401)
    assert await site.seconds_left(card) is None


ANEW = {
    "a log-in": (lambda session: session.update(user_id=8), MAX_AGE),
    "a proof": (lambda session: session.reauthenticated(), MAX_AGE),
    "remembered": (lambda session: session.remember(5000), 5000),
    "a shorter time": (lambda session: session.remember(100), 100),
}


@pytest.mark.parametrize("act", ANEW)
async def test_what_begins_a_time_anew_does_so_on_a_passive_route(store, act):
    """A user who logs in there is logged in for as long as elsewhere."""
    site = Site(store)
    card = await site.log_in()
    site.clock.advance(MAX_AGE / 2)
    do, seconds = ANEW[act]
    card = cookie_in(await site.get("/poll", card, do)) or card
    assert await site.seconds_left(card) == seconds


async def test_a_session_that_begins_on_a_passive_route(store):
    """It lives for as long as any other, and what follows there does not prolong it."""
    site = Site(store)
    card = cookie_in(await site.get("/poll", None, lambda session: session.update(theme="dark")))
    assert await site.seconds_left(card) == MAX_AGE
    site.clock.advance(MAX_AGE / 2)
    assert cookie_in(await site.get("/poll", card, lambda session: session.get("theme"))) is None
    assert await site.seconds_left(card) == MAX_AGE / 2
    assert cookie_in(await site.get("/", card)) is not None


async def test_elsewhere_a_session_is_renewed_as_before(store):
    """One passive route makes no other passive."""
    site = Site(store)
    card = await site.log_in()
    site.clock.advance(MAX_AGE / 2)
    card = cookie_in(await site.get("/other", card, lambda session: session.get("user_id")))
    assert await site.seconds_left(card) == MAX_AGE


async def test_a_log_out_on_a_passive_route(store):
    """It is one."""
    site = Site(store)
    card = await site.log_in()
    answer = await site.get("/poll", card, lambda session: session.clear())
    assert b"Max-Age=0" in header(answer, b"set-cookie")[0]


async def test_two_passive_requests_that_save_at_once():
    """Both keep their change, and neither renews."""
    site = Site(lambda clock: SpyStore(clock=clock))
    card = await site.log_in()
    site.clock.advance(MAX_AGE / 2)
    manager, cookie = site.app.manager, [(b"cookie", b"session=" + card)]
    sessions = [await manager.load(Request(path="/poll", headers=cookie)) for _ in range(2)]
    for number, session in enumerate(sessions):
        session[f"key {number}"] = number
        assert dict(await manager.commit(session, headers=[("x-app", "1")])) == {"x-app": "1", "vary": "Cookie"}
    assert await manager.load(b"session=" + card) == {"user_id": 7, "key 0": 0, "key 1": 1}
    assert await site.seconds_left(card) == MAX_AGE / 2


@pytest.mark.parametrize("kind", [http_scope, websocket_scope])
async def test_a_passive_stream_or_websocket(kind):
    """However long it goes on and saves, it keeps its session not alive, and hears that it has ended."""
    site = Site(lambda clock: SpyStore(clock=clock))
    left = []

    async def stream(session, send):
        accept = {"type": "http.response.start", "status": 200, "headers": []}
        await send(accept if kind is http_scope else {"type": "websocket.accept"})
        for number in range(3):
            site.clock.advance(MAX_AGE / 4)
            session["number"] = number
            await session.save()
            left.append(await site.seconds_left(card))

    card = await site.log_in()
    await site.get("/poll", card, stream, kind)
    assert left == [750, 500, 250]


async def test_a_task_that_outlives_a_passive_request():
    """What it does later is passive too."""
    site = Site(lambda clock: SpyStore(clock=clock))
    card = await site.log_in()
    kept = []
    site.act = lambda session: kept.append((session, session["user_id"]))
    await site.get("/poll", card)
    site.clock.advance(MAX_AGE / 2)
    session, _ = kept[0]
    session["late"] = True
    await session.save()
    assert await site.seconds_left(card) == MAX_AGE / 2
    assert (await site.app.manager.load(b"session=" + card))["late"] is True


async def test_a_card_by_an_old_key_on_a_passive_route(store):
    """It is signed anew where the session is used elsewhere."""
    other = "another secret that is long enough for these too"
    site = Site(store)
    card = await site.log_in()
    manager = SessionManager(
        secret_key=[other, SECRET], store=site.app.config.store, clock=site.clock, max_age=MAX_AGE, passive=["/poll"]
    )
    for path, gives in (("/poll", False), ("/", True)):
        session = await manager.load(Request(path=path, headers=[(b"cookie", b"session=" + card)]))
        assert session["user_id"] == 7
        assert ("set-cookie" in dict(await manager.commit(session, headers=[("x-app", "1")]))) is gives


def test_the_blocking_calls_know_paths_too():
    """`manager.sync.load` takes a request, with a cookie and without."""
    clock = Clock(START)
    manager = SessionManager(
        secret_key=SECRET, store="memory://", clock=clock, max_age=MAX_AGE, exclude=["/health"], passive=["/poll"]
    )
    session = manager.sync.load()
    session["user_id"] = 7
    cookie = ("Cookie", dict(manager.sync.commit(session))["set-cookie"].partition(";")[0])
    clock.advance(MAX_AGE / 2)
    for headers in ([], [cookie]):
        with pytest.raises(ConfigurationError, match=r"^exclude: "):
            manager.sync.load(Request(path="/health", headers=headers)).get("user_id")
    for path, renews in (("/poll", False), ("/", True)):
        session = manager.sync.load(Request(path=path, headers=[cookie]))
        assert session["user_id"] == 7
        assert ("set-cookie" in dict(manager.sync.commit(session))) is renews
