"""The documented session system on real Ravyn apps."""

import base64
import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from lilya.middleware import DefineMiddleware
from ravyn import (
    ChildRavyn,
    CORSConfig,
    CSRFConfig,
    Gateway,
    HTTPException,
    Include,
    Ravyn,
    RavynSettings,
    Request,
    WebSocketGateway,
    get,
    post,
    websocket,
)
from ravyn.contrib.auth.common.middleware import CommonJWTAuthBackend, CommonJWTAuthMiddleware
from ravyn.core.config import SessionConfig as RavynsOwn
from ravyn.core.config.jwt import JWTConfig
from ravyn.security.jwt.token import Token
from ravyn.testclient import RavynTestClient
from ravyn.websockets import WebSocket
from sqlalchemy import Integer, String, select
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import roomkey
from roomkey import ConfigurationError, SessionMiddleware, StoreUnavailable
from roomkey.csrf import csrf_token
from roomkey.ravyn import SessionConfig
from roomkey.stores.memory import MemoryStore
from roomkey.wire import codec
from tests import ravyn_settings as settings

SECRET = settings.SECRET


@post("/login/{name}")
async def login(request: Request, name: str) -> dict:
    request.session["user_id"] = name
    return {}


@get("/me")
async def me(request: Request) -> dict:
    if not request.session.get("user_id"):
        raise HTTPException(status_code=401, detail="log in first")
    return dict(request.session)


@post("/logout")
async def logout(request: Request) -> dict:
    request.session.clear()
    return {}


@post("/clear-session")
async def clear_session(request: Request) -> dict:
    request.clear_session()
    return {}


@post("/set-session")
async def set_session(request: Request) -> dict:
    request.set_session({"user_id": "set"})
    return {}


@get("/teapot")
async def teapot(request: Request) -> dict:
    request.session["user_id"] = "teapot"
    raise HTTPException(status_code=418, detail="short and stout")


@get("/crash")
async def crash(request: Request) -> dict:
    request.session["crashed"] = True
    raise RuntimeError("a mistake")


@websocket("/ws")
async def socket(socket: WebSocket) -> None:
    socket.session["via"] = "websocket"
    await socket.accept()
    await socket.send_json(dict(socket.session))
    await socket.close()


def routes() -> list:
    handlers = (login, me, logout, clear_session, set_session, teapot, crash)
    return [*(Gateway(handler=handler) for handler in handlers), WebSocketGateway(handler=socket)]


def config(**options) -> SessionConfig:
    return SessionConfig(**{"secret_key": SECRET, "store": "memory://", **options})


def client(app: Ravyn) -> RavynTestClient:
    return RavynTestClient(app, raise_server_exceptions=False)


def test_a_wrong_configuration_ends_the_start(tmp_path):
    """A test client does not wait for ever where the store can never open, but raises what is wrong."""
    app = Ravyn(session_config=config(store=f"sqlite:///{tmp_path}"))
    with pytest.raises(ConfigurationError, match="directory"), client(app):
        pass


def test_the_other_session_config():
    """Roomkey's own for any ASGI app is not the one that Ravyn takes, and says which is."""
    with pytest.raises(ConfigurationError, match=r"import SessionConfig from roomkey\.ravyn"):
        Ravyn(session_config=roomkey.SessionConfig(secret_key=SECRET, store="memory://"))


@pytest.fixture
def browser():
    with client(Ravyn(routes=routes(), session_config=config())) as browser:
        yield browser


def test_the_documented_defaults(browser):
    """Cookie `session`, four hours, lax, not HTTPS-only, and out of reach of scripts."""
    header = browser.post("/login/ada").headers["set-cookie"]
    assert re.fullmatch(r"session=[\w-]{80}; Max-Age=14400; Path=/; HttpOnly; SameSite=lax", header)


def test_the_documented_options():
    """Each option that Ravyn documents reaches the cookie."""
    options = {"session_cookie": "sid", "max_age": 60, "same_site": "strict", "https_only": True}
    with client(Ravyn(routes=routes(), session_config=config(**options))) as browser:
        _, header = browser.post("/login/ada").headers.get_list("set-cookie")  # after the one of visitors' CSRF tokens
    assert re.fullmatch(r"sid=[\w-]{80}; Max-Age=60; Path=/; HttpOnly; SameSite=strict; Secure", header)


@pytest.mark.parametrize("kind", [settings.Annotated, settings.Property], ids=lambda kind: kind.__name__)
def test_a_settings_class(kind):
    """Both forms of a settings class give the app its sessions."""
    with client(Ravyn(routes=routes(), settings_module=kind)) as browser:
        assert browser.post("/login/ada").headers["set-cookie"].startswith(kind.__name__.lower() + "=")
        assert browser.get("/me").json() == {"user_id": "ada"}


@pytest.mark.parametrize("kind", ["Annotated", "Property"])
def test_settings_by_the_environment_without_a_warning(kind):
    """RAVYN_SETTINGS_MODULE works, and nothing is said on the user's screen."""
    code = (
        "import roomkey.ravyn\nfrom ravyn import Ravyn\n"
        "app = Ravyn(routes=[])\nprint(app.session_config.session_cookie)"
    )
    environment = {**os.environ, "RAVYN_SETTINGS_MODULE": f"tests.ravyn_settings.{kind}"}
    done = subprocess.run(
        [sys.executable, "-W", "always::UserWarning", "-c", code],
        cwd=Path(__file__).parent.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == kind.lower()
    assert "Warning" not in done.stderr


def test_ravyns_own_settings_stay_without_sessions():
    """A settings class that says nothing of sessions has none, as before."""

    class Plain(RavynSettings):
        app_name: str = "plain"

    assert Plain().session_config is None
    assert Ravyn(routes=[], settings_module=Plain).session_config is None


def test_write_read_clear(browser):
    """What a handler writes the next one reads, until the session is cleared; a copied cookie is refused then."""
    browser.post("/login/ada")
    assert browser.get("/me").json() == {"user_id": "ada"}
    copied = browser.cookies["session"]
    assert "Max-Age=0" in browser.post("/logout").headers["set-cookie"]
    assert browser.get("/me").status_code == 401
    browser.cookies.set("session", copied)
    assert browser.get("/me").status_code == 401


def test_a_401_says_that_it_depends_on_the_cookie(browser):
    """An answer by HTTPException to a handler that read the session has `Vary: Cookie`."""
    answer = browser.get("/me")
    assert (answer.status_code, answer.headers["vary"]) == (401, "Cookie")


def test_an_http_exception_saves(browser):
    """A new session is saved, and its cookie sent, also when the handler answers with an HTTPException."""
    assert browser.get("/teapot").status_code == 418
    assert browser.get("/me").json() == {"user_id": "teapot"}


def test_an_unhandled_error_saves_nothing(browser):
    """A handler that breaks leaves the session as it was."""
    browser.post("/login/ada")
    assert browser.get("/crash").status_code == 500
    assert browser.get("/me").json() == {"user_id": "ada"}


def test_set_session_and_clear_session_work(browser):
    """Ravyn's own two methods, which lose everything without Roomkey, do what they say."""
    browser.post("/login/ada")
    browser.post("/set-session")
    assert browser.get("/me").json() == {"user_id": "set"}
    copied = browser.cookies["session"]
    browser.post("/clear-session")
    browser.cookies.set("session", copied)
    assert browser.get("/me").status_code == 401


def test_a_store_down_for_what_a_handler_asks_is_a_503():
    """Ravyn makes no 500 of it."""

    @get("/flashes")
    async def flashes(request: Request) -> list:
        return await request.session.flashes()

    @get("/flash")
    async def flash(request: Request) -> str:
        request.session.flash("hello")
        return "left"

    class Store(MemoryStore):
        async def update(self, key, record, *, version):
            raise OSError

    routes = [Gateway(handler=flash), Gateway(handler=flashes)]
    with client(Ravyn(routes=routes, session_config=config(store=Store()))) as browser:
        assert browser.get("/flash").status_code == 200
        answer = browser.get("/flashes")
    assert answer.status_code == 503 and int(answer.headers["retry-after"]) > 0


def test_a_503_of_the_apps_own_counts_once():
    """The handler makes an HTTPException of the outage: nothing is saved again, for it may have been saved."""

    class Store(MemoryStore):
        async def update(self, key, record, *, version):
            await super().update(key, record, version=version)
            raise OSError

    @get("/begin")
    async def begin(request: Request) -> str:
        request.session["n"] = 0
        return "ok"

    @get("/count")
    async def count(request: Request) -> str:
        request.session.change("n", lambda n: n + 1)
        try:
            await request.session.save()
        except StoreUnavailable as error:
            raise HTTPException(status_code=503) from error
        return "ok"

    store = Store()
    with client(
        Ravyn(routes=[Gateway(handler=begin), Gateway(handler=count)], session_config=config(store=store))
    ) as c:
        c.get("/begin")
        assert c.get("/count").status_code == 503
    (record,) = store._records.values()
    assert codec.decode(record.data) == {"n": 1}


def test_a_log_in_rotates_the_id(browser):
    """Assigning `user_id` is all that a log-in needs: the ID changes, and the old one is dead."""
    browser.post("/login/ada")
    first = browser.cookies["session"]
    browser.post("/login/bob")
    assert browser.cookies["session"] != first
    browser.cookies.clear()
    browser.cookies.set("session", first)
    assert browser.get("/me").status_code == 401


def test_a_profile_from_a_real_database(tmp_path):
    """A handler loads the user whose ID the session holds."""

    class Base(DeclarativeBase):
        pass

    class User(Base):
        __tablename__ = "users"
        id: Mapped[int] = mapped_column(Integer, primary_key=True)
        name: Mapped[str] = mapped_column(String)

    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/app.db")

    async def prepare() -> None:
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        async with AsyncSession(engine) as database:
            database.add(User(id=7, name="Ada"))
            await database.commit()

    @post("/in")
    async def sign_in(request: Request) -> dict:
        async with AsyncSession(engine) as database:
            user = (await database.scalars(select(User).where(User.name == "Ada"))).one()
        request.session["user_id"] = user.id
        return {}

    @get("/profile")
    async def profile(request: Request) -> dict:
        async with AsyncSession(engine) as database:
            user = await database.get(User, request.session["user_id"])
        return {"name": user.name}

    app = Ravyn(
        routes=[Gateway(handler=sign_in), Gateway(handler=profile)],
        session_config=config(),
        on_startup=[prepare],
        on_shutdown=[engine.dispose],
    )
    with client(app) as browser:
        assert browser.post("/in").status_code == 201
        assert browser.get("/profile").json() == {"name": "Ada"}


def test_includes_and_children_see_the_one_session():
    """Include, ChildRavyn, a nested Ravyn with the same configuration, and a WebSocket share the session."""
    shared = config()
    app = Ravyn(
        routes=[
            *routes(),
            Include("/include", routes=[Gateway(handler=me)]),
            Include("/child", app=ChildRavyn(routes=[Gateway(handler=me)])),
            Include("/nested", app=Ravyn(routes=[Gateway(handler=me)], session_config=shared)),
        ],
        session_config=shared,
    )
    with client(app) as browser:
        browser.post("/login/ada")
        for place in ("/include", "/child", "/nested"):
            assert browser.get(f"{place}/me").json() == {"user_id": "ada"}, place
        with browser.websocket_connect("/ws") as opened:
            assert opened.receive_json() == {"user_id": "ada", "via": "websocket"}
        assert browser.get("/me").json() == {"user_id": "ada", "via": "websocket"}


def test_a_websocket_hands_out_the_cookie(browser):
    """A session that begins in a WebSocket has its cookie in the handshake's answer."""
    with browser.websocket_connect("/ws") as opened:
        headers = dict(opened.extra_headers or [])
        assert headers[b"set-cookie"].startswith(b"session=")


def test_cors_csrf_and_jwt_beside_it():
    """CSRF, CORS with credentials, Ravyn's JWT authentication and the session each do their job in one app."""
    jwt = JWTConfig(signing_key=SECRET)

    class Backend(CommonJWTAuthBackend):
        async def retrieve_user(self, subject: str) -> str | None:
            return subject if subject == "ada" else None

    @get("/hello")
    async def hello(request: Request) -> dict:
        return {"user": request.user, "session": dict(request.session)}

    @get("/home")
    async def home() -> dict:
        return {}

    guard = DefineMiddleware(CommonJWTAuthMiddleware, backend=[Backend(config=jwt, user_model=None)])
    app = Ravyn(
        routes=[
            *routes(),
            Gateway(handler=home),
            Include("/api", routes=[Gateway(handler=hello)], middleware=[guard]),
        ],
        session_config=config(),
        csrf_config=CSRFConfig(secret=SECRET),
        cors_config=CORSConfig(allow_origins=["https://app.example"], allow_credentials=True),
    )
    with client(app) as browser:
        assert browser.post("/login/ada").status_code == 403  # CSRF: no token yet
        browser.get("/home")
        headers = {"origin": "https://app.example", "x-csrftoken": browser.cookies["csrftoken"]}
        answer = browser.post("/login/ada", headers=headers)
        assert answer.status_code == 201
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        assert answer.headers["access-control-allow-credentials"] == "true"
        assert browser.get("/me").json() == {"user_id": "ada"}
        assert browser.get("/api/hello").status_code == 401  # JWT: the session alone does not do
        token = Token(sub="ada", exp=datetime.now(UTC) + timedelta(minutes=1))
        bearer = token.encode(key=jwt.signing_key, algorithm=jwt.algorithm)
        answer = browser.get("/api/hello", headers={jwt.authorization_header: f"Bearer {bearer}"})
        assert answer.json() == {"user": "ada", "session": {"user_id": "ada"}}


def test_ravyns_own_config_behaves_as_before():
    """With Ravyn's SessionConfig an app has Ravyn's sessions: the data in the cookie, for 180 days."""
    with client(Ravyn(routes=routes(), session_config=RavynsOwn(secret_key=SECRET))) as browser:
        header = browser.post("/login/ada").headers["set-cookie"]
        assert "Max-Age=15552000" in header
        assert browser.get("/me").json() == {"user_id": "ada"}
        browser.post("/clear-session")
        assert browser.get("/me").status_code == 200  # lost without a word, as ever


def test_a_ravyn_that_looks_elsewhere_does_not_start():
    """Lilya's middleware refuses Roomkey's option, and secret keys have no text form to sign with."""
    from lilya.middleware.sessions import SessionMiddleware as Lilyas

    given = config()
    with pytest.raises(TypeError):
        Lilyas(None, **given.model_dump())
    with pytest.raises(TypeError):
        str(given.secret_key)


def test_ravyn_builds_our_middleware():
    """The newest Ravyn takes the configuration to our middleware, once."""
    app = Ravyn(routes=routes(), session_config=config())
    layer, found = app.middleware_stack if hasattr(app, "middleware_stack") else app, 0
    while layer is not None:
        found += isinstance(layer, SessionMiddleware)
        layer = getattr(layer, "app", None)
    assert found == 1


def test_the_store_opens_and_closes_with_the_app():
    """The app's lifespan, which Ravyn keeps from middlewares, is the store's too."""
    seen = []

    class Spy(MemoryStore):
        async def open(self) -> None:
            seen.append("open")

        async def close(self) -> None:
            seen.append("close")

    async def startup() -> None:
        seen.append("startup")

    async def shutdown() -> None:
        seen.append("shutdown")

    app = Ravyn(routes=routes(), session_config=config(store=Spy()), on_startup=[startup], on_shutdown=[shutdown])
    with client(app):
        pass
    assert seen[:4] == ["open", "startup", "shutdown", "close"]


@websocket("/begin")
async def begin(socket: WebSocket) -> None:
    socket.session["user_id"] = "socket"
    await socket.accept()
    await socket.close()


HTTP_PLACES = ["", "/include", "/child", "/nested", "/own"]


@pytest.fixture
def places():
    """An app whose handlers sit at every place that Ravyn has for them; two nested apps have a configuration."""
    shared = config()

    def all_routes() -> list:
        return [*routes(), WebSocketGateway(handler=begin)]

    app = Ravyn(
        routes=[
            *all_routes(),
            Include("/include", routes=all_routes()),
            Include("/child", app=ChildRavyn(routes=all_routes())),
            Include("/nested", app=Ravyn(routes=all_routes(), session_config=shared)),
            Include("/own", app=Ravyn(routes=all_routes(), session_config=config(secret_key="another " + SECRET))),
        ],
        session_config=shared,
    )
    with client(app) as browser:
        yield browser


@pytest.mark.parametrize("place", HTTP_PLACES)
def test_a_session_begun_anywhere_is_seen_everywhere(places, place):
    """Wherever a session begins, also by an HTTPException, one cookie goes out and every place reads the session."""
    answer = places.get(f"{place}/teapot")
    assert answer.status_code == 418
    assert [name for name, _ in answer.headers.multi_items()].count("set-cookie") == 1
    for reader in HTTP_PLACES:
        assert places.get(f"{reader}/me").json() == {"user_id": "teapot"}, reader


@pytest.mark.parametrize("place", HTTP_PLACES)
def test_a_websocket_anywhere_shares_the_session(places, place):
    """A WebSocket at any place reads what HTTP wrote, and what it writes HTTP reads."""
    places.post("/login/ada")
    with places.websocket_connect(f"{place}/ws") as opened:
        assert opened.receive_json() == {"user_id": "ada", "via": "websocket"}
    assert places.get("/me").json() == {"user_id": "ada", "via": "websocket"}


@pytest.mark.parametrize("place", HTTP_PLACES)
def test_a_session_begun_in_a_websocket_goes_on_over_http(places, place):
    """The cookie that comes with websocket.accept opens the same session to the requests that follow."""
    with places.websocket_connect(f"{place}/begin") as opened:
        cookies = [value.decode() for name, value in opened.extra_headers if name == b"set-cookie"]
    assert len(cookies) == 1
    places.cookies.set("session", re.match(r"session=([\w-]+);", cookies[0])[1])
    assert places.get("/me").json() == {"user_id": "socket"}


def test_a_log_out_in_a_nested_app_ends_the_session(places):
    """Logging out in a nested app with its own configuration ends the one session for all of them."""
    places.post("/login/ada")
    copied = places.cookies["session"]
    assert "Max-Age=0" in places.post("/own/logout").headers["set-cookie"]
    places.cookies.set("session", copied)
    for reader in HTTP_PLACES:
        assert places.get(f"{reader}/me").status_code == 401, reader


@pytest.mark.parametrize("kind", ["Annotated", "Property"])
def test_an_app_by_the_environment_serves_sessions_in_silence(kind):
    """With RAVYN_SETTINGS_MODULE alone an app keeps sessions, and `-W default` finds no warning to show."""
    code = """
import roomkey.ravyn
from ravyn import Gateway, Ravyn, Request, get, post
from ravyn.testclient import RavynTestClient

@post("/login")
async def login(request: Request) -> dict:
    request.session["user_id"] = "ada"
    return {}

@get("/me")
async def me(request: Request) -> dict:
    return dict(request.session)

with RavynTestClient(Ravyn(routes=[Gateway(handler=login), Gateway(handler=me)])) as browser:
    browser.post("/login")
    print(*browser.cookies, browser.get("/me").json())
"""
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", code],
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "RAVYN_SETTINGS_MODULE": f"tests.ravyn_settings.{kind}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == f"{kind.lower()} {{'user_id': 'ada'}}"
    assert "Warning" not in done.stderr


def test_an_http_exception_saves_a_known_session_and_keeps_its_own_headers():
    """An HTTPException after a write saves into the session there is, and the headers it was given still go out."""

    @get("/gone")
    async def gone(request: Request) -> dict:
        request.session["seen"] = True
        raise HTTPException(status_code=410, headers={"X-Reason": "moved away"})

    with client(Ravyn(routes=[*routes(), Gateway(handler=gone)], session_config=config())) as browser:
        browser.post("/login/ada")
        answer = browser.get("/gone")
        assert (answer.status_code, answer.headers["x-reason"], answer.headers["vary"]) == (410, "moved away", "Cookie")
        assert browser.get("/me").json() == {"user_id": "ada", "seen": True}


def test_an_unhandled_error_in_a_first_visit_gives_no_cookie(browser):
    """A handler that breaks begins no session."""
    answer = browser.get("/crash")
    assert answer.status_code == 500
    assert "set-cookie" not in answer.headers


def test_a_shared_exception_keeps_users_apart():
    """An HTTPException made once and raised for everybody never carries one user's cookie to another."""
    closed = HTTPException(status_code=403, detail="closed")

    @post("/enter/{name}")
    async def enter(request: Request, name: str) -> dict:
        request.session["user_id"] = name
        raise closed

    @get("/closed")
    async def stay_out(request: Request) -> dict:
        raise closed

    app = Ravyn(routes=[*routes(), Gateway(handler=enter), Gateway(handler=stay_out)], session_config=config())
    with client(app) as ada, client(app) as stranger:
        assert ada.post("/enter/ada").headers["set-cookie"].startswith("session=")
        answer = stranger.get("/closed")
        assert answer.status_code == 403
        assert "set-cookie" not in answer.headers
        assert stranger.get("/me").status_code == 401


def test_a_log_in_by_an_http_exception_ends_the_visitors_tokens():
    """The exception has room for one cookie. What a visitor left goes with the user's next form, or the log-out."""

    @get("/form")
    async def form(request: Request) -> dict:
        return {"csrf": csrf_token(request.session)}

    @post("/enter")
    async def enter(request: Request) -> dict:
        request.session["user_id"] = "ada"
        raise HTTPException(status_code=303, headers={"location": "/"})

    settings = config(https_only=True, session_cookie="session")
    app = Ravyn(routes=[*routes(), Gateway(handler=form), Gateway(handler=enter)], session_config=settings)
    for end in ("form", "logout"):
        with RavynTestClient(app, base_url="https://testserver") as browser:
            browser.get("/form")
            assert set(browser.cookies) == {"__Host-session-csrf"}
            assert browser.post("/enter", follow_redirects=False).status_code == 303
            assert "session" in browser.cookies
            browser.get("/form") if end == "form" else browser.post("/logout")
            assert "__Host-session-csrf" not in browser.cookies


def test_ravyns_own_config_keeps_the_data_in_the_cookie():
    """Ravyn's own sessions hold the data, readable, in the cookie; no store of Roomkey's is involved."""
    with client(Ravyn(routes=routes(), session_config=RavynsOwn(secret_key=SECRET))) as browser:
        header = browser.post("/login/ada").headers["set-cookie"]
        content = re.match(r'session="?([\w+/=-]+)\.', header)[1]
        assert json.loads(base64.b64decode(content)) == {"user_id": "ada"}
        copied = browser.cookies["session"]
        browser.post("/logout")
        assert browser.get("/me").status_code == 401
        browser.cookies.set("session", copied)
        assert browser.get("/me").status_code == 200  # what server-side sessions are for
