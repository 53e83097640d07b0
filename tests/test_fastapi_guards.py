"""`roomkey.fastapi`: the session as an argument's type, the guards, and what the OpenAPI document says of them."""

import asyncio
import datetime as dt
import logging
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, WebSocket
from fastapi.requests import HTTPConnection
from fastapi.testclient import TestClient
from starlette.middleware.sessions import SessionMiddleware as StarletteSessions
from starlette.websockets import WebSocketDisconnect

from roomkey import ConfigurationError, Session, SessionManager, session_of
from roomkey.fastapi import CurrentSession, SessionConfig, SessionMiddleware, require_login, require_recent
from roomkey.stores.memory import MemoryStore
from roomkey.testing import Clock

SECRET = "a secret that is long enough for every test here"
User = Annotated[Any, Depends(require_login)]


def counted(session: CurrentSession):
    """A dependency with `yield`, in the thread pool."""
    session["before"] = session.get("before", 0) + 1
    yield
    session["after"] = session.get("after", 0) + 1


async def counted_async(session: CurrentSession):
    session["before"] = session.get("before", 0) + 1
    yield
    session["after"] = session.get("after", 0) + 1


def add_routes(app):
    @app.get("/async")
    async def in_the_loop(session: CurrentSession) -> str:
        session["seen"] = "async"
        return type(session).__name__

    @app.get("/sync")
    def in_a_thread(session: CurrentSession) -> str:
        session["seen"] = "sync"
        return type(session).__name__

    @app.get("/data")
    async def data(session: CurrentSession) -> dict[str, Any]:
        return session.copy()

    @app.get("/health")
    async def health() -> str:
        return "ok"

    @app.get("/yield", dependencies=[Depends(counted)])
    async def with_yield() -> None: ...

    @app.get("/yield-async", dependencies=[Depends(counted_async)])
    def with_yield_async() -> None: ...

    @app.get("/login/{user}")
    async def login(user: int, session: CurrentSession) -> None:
        session["user_id"] = user

    @app.get("/again")
    async def again(session: CurrentSession, user: User) -> None:
        session.reauthenticated()

    @app.get("/me")
    async def me(user: User) -> Any:
        return user

    @app.get("/danger")
    def danger(user: Annotated[int, Depends(require_recent(300))]) -> int:
        return user

    @app.get("/danger/timedelta", dependencies=[Depends(require_recent(dt.timedelta(hours=1)))])
    async def danger_by_the_hour() -> None: ...

    @app.websocket("/socket")
    async def socket(websocket: WebSocket, session: CurrentSession):
        session["opened"] = True
        await websocket.accept()
        await websocket.send_json([type(session).__name__, session_of(websocket) is session])
        await websocket.close()

    @app.websocket("/private")
    async def private(websocket: WebSocket, user: User):
        await websocket.accept()
        await websocket.send_json(user)
        await websocket.close()

    @app.websocket("/dangerous", dependencies=[Depends(require_recent(300))])
    async def dangerous(websocket: WebSocket):
        await websocket.accept()
        await websocket.close()


def make_app(**options):
    app = FastAPI()
    app.add_middleware(SessionMiddleware, **{"secret_key": SECRET, "store": "memory://", **options})
    add_routes(app)
    return app


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def client(clock):
    with TestClient(make_app(clock=clock, store=MemoryStore(clock=clock))) as running:
        yield running


# --- the session ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_the_session_of_a_handler(client, kind):
    """A handler gets the `Session`, in the event loop or in a thread, and what it puts in is saved."""
    assert client.get(f"/{kind}").json() == "Session"
    assert client.get("/data").json() == {"seen": kind}


def test_the_session_of_a_websocket(client):
    """A WebSocket's handler gets it in the same way, and the handshake hands out the cookie."""
    with client.websocket_connect("/socket") as socket:
        assert socket.receive_json() == ["Session", True]
    card = dict(socket.extra_headers)[b"set-cookie"].decode().partition(";")[0]
    assert client.get("/data", headers={"cookie": card}).json() == {"opened": True}


@pytest.mark.parametrize("path", ["/yield", "/yield-async"])
def test_a_dependency_with_yield(client, path):
    """A dependency with `yield` changes the session before the handler, and after the response of one that exists."""
    client.get("/sync")
    for number in (1, 2):
        assert client.get(path).status_code == 200
        assert client.get("/data").json() == {"seen": "sync", "before": number, "after": number}


def test_to_ask_for_the_session_counts_as_use(client):
    """A response that depends on the session says so, and one whose handler does not ask for it does not."""
    assert client.get("/data").headers["vary"] == "Cookie"
    assert "vary" not in client.get("/health").headers


def test_the_alias_is_the_session_to_the_rest_of_the_app():
    """The annotated type is `roomkey.Session`."""
    assert CurrentSession.__origin__ is Session


# --- without the middleware -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/async", "/me", "/danger"])
def test_without_the_middleware(path):
    """A handler that asks for the session without the middleware gets an error that names what to add."""
    app = FastAPI()
    add_routes(app)
    with pytest.raises(ConfigurationError, match=r"app\.add_middleware\(SessionMiddleware, secret_key="):
        TestClient(app).get(path)
    assert TestClient(app).get("/health").json() == "ok"


def test_a_websocket_without_the_middleware():
    """So it is for a WebSocket."""
    app = FastAPI()
    add_routes(app)
    with (
        pytest.raises(ConfigurationError, match="add_middleware"),
        TestClient(app).websocket_connect("/socket"),
    ):
        pass


def test_with_starlettes_own_middleware_in_its_place():
    """The error says that the session is another library's."""
    app = FastAPI()
    app.add_middleware(StarletteSessions, secret_key=SECRET)
    add_routes(app)
    with pytest.raises(ConfigurationError, match="and not Roomkey's"):
        TestClient(app).get("/async")


def test_no_guard_without_a_user_key():
    """Where the configuration says that there are no users, a guard says that nobody can pass it."""
    client = TestClient(make_app(user_key=None))
    for path, guard in (("/me", "require_login"), ("/danger", "require_recent")):
        with pytest.raises(ConfigurationError, match=f"{guard}: user_key is None"):
            client.get(path)


def test_a_session_that_belongs_to_no_request():
    """A session that no manager loaded, as a test may put it into a scope, is an error that says so."""
    with pytest.raises(ConfigurationError, match="belongs to no request"):
        asyncio.run(require_login(HTTPConnection({"type": "http"}), Session(user_id=7)))


# --- require_login ----------------------------------------------------------------------------------------------------


def test_nobody_is_logged_in(client):
    """A visitor gets a 401 with a challenge that names the cookie, and no cookie."""
    answer = client.get("/me")
    assert (answer.status_code, answer.json()) == (401, {"detail": "Not logged in."})
    assert answer.headers["www-authenticate"] == 'Cookie cookie-name="session"'
    assert answer.headers["vary"] == "Cookie"
    assert "set-cookie" not in answer.headers


def test_a_visitor_with_a_session_is_not_logged_in(client):
    """A session without a user opens nothing."""
    client.get("/sync")
    assert client.get("/me").status_code == 401


def test_the_users_id_as_it_stands_in_the_session(client):
    """A handler gets the ID with its type."""
    client.get("/login/7")
    assert client.get("/me").json() == 7
    assert client.get("/danger").json() == 7


def test_a_user_with_the_id_0_is_logged_in(client):
    """0 is an ID like any other."""
    client.get("/login/0")
    assert client.get("/me").json() == 0


@pytest.mark.parametrize("nobody", [None, ""])
def test_values_that_stand_for_nobody(nobody):
    """What is filed under no user is no log-in."""
    app = make_app()

    @app.get("/nobody")
    async def put(session: CurrentSession) -> None:
        session["user_id"] = nobody
        session["other"] = 1

    client = TestClient(app)
    client.get("/nobody")
    assert client.get("/me").status_code == 401


def test_another_user_key_and_cookie():
    """The guard looks under the configured key, and the challenge names the configured cookie."""
    app = make_app(user_key="member", session_cookie="sid")

    @app.get("/join")
    async def join(session: CurrentSession) -> None:
        session["member"] = "ada"

    client = TestClient(app)
    client.get("/login/7")
    answer = client.get("/me")
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, 'Cookie cookie-name="sid"')
    client.get("/join")
    assert client.get("/me").json() == "ada"


@pytest.mark.parametrize("path", ["/private", "/dangerous"])
def test_a_websocket_of_nobody(client, path):
    """A WebSocket of a visitor is closed before it is accepted."""
    with pytest.raises(WebSocketDisconnect) as closed, client.websocket_connect(path):
        pass
    assert (closed.value.code, closed.value.reason) == (1008, "Not logged in.")


def test_a_websocket_of_a_user(client):
    """A WebSocket of a user is accepted."""
    client.get("/login/7")
    with client.websocket_connect("/private") as socket:
        assert socket.receive_json() == 7
    with client.websocket_connect("/dangerous"):
        pass


# --- require_recent ---------------------------------------------------------------------------------------------------


def test_a_dangerous_step_of_nobody(client):
    """Who is not logged in is asked to log in."""
    answer = client.get("/danger")
    assert (answer.status_code, answer.json()) == (401, {"detail": "Not logged in."})


def test_a_log_in_that_is_too_long_ago(client, clock):
    """After the time is over, the answer is a 403 that says what to do; a new proof opens the step again."""
    client.get("/login/7")
    clock.advance(300)
    assert client.get("/danger").json() == 7
    clock.advance(1)
    answer = client.get("/danger")
    assert answer.status_code == 403
    assert answer.json()["detail"].startswith("The last log-in is more than 300 seconds ago. Prove again who you are")
    challenge = 'Cookie cookie-name="session", error="insufficient_user_authentication", max_age="300"'
    assert answer.headers["www-authenticate"] == challenge
    assert client.get("/me").json() == 7  # who is logged in all the same
    client.get("/again")
    assert client.get("/danger").json() == 7


def test_a_span_of_time_as_a_timedelta(client, clock):
    """A span may be a `timedelta`. Each guard has its own."""
    client.get("/login/7")
    clock.advance(3600)
    assert client.get("/danger/timedelta").status_code == 200
    assert client.get("/danger").status_code == 403
    clock.advance(1)
    assert client.get("/danger/timedelta").status_code == 403


def test_a_websocket_whose_log_in_is_too_long_ago(client, clock):
    """A WebSocket is closed before it is accepted."""
    client.get("/login/7")
    clock.advance(301)
    with pytest.raises(WebSocketDisconnect) as closed, client.websocket_connect("/dangerous"):
        pass
    assert closed.value.code == 1008
    assert "more than 300 seconds ago" in closed.value.reason


@pytest.mark.parametrize("wrong", [0, -1, float("nan"), float("inf"), "300", None, True, dt.timedelta(0)])
def test_a_wrong_span_fails_as_the_app_is_made(wrong):
    """A span that is none is an error at once."""
    with pytest.raises(ValueError, match="require_recent: seconds is"):
        require_recent(wrong)


def test_guards_give_way_to_a_tests_own():
    """`dependency_overrides` replaces a guard, and then no session is needed."""
    app = FastAPI()
    just_now = require_recent(300)

    @app.get("/")
    async def page(user: User, again: Annotated[int, Depends(just_now)]) -> list[int]:
        return [user, again]

    app.dependency_overrides.update({require_login: lambda: 7, just_now: lambda: 8})
    assert TestClient(app).get("/").json() == [7, 8]


# --- the OpenAPI document ---------------------------------------------------------------------------------------------


def document(app):
    found = app.openapi()
    return found["components"]["securitySchemes"], {path: each.get("get", {}) for path, each in found["paths"].items()}


def test_the_cookie_is_a_security_scheme():
    """Guarded operations have the lock, and those that anybody may use have none, with a session or without."""
    schemes, operations = document(make_app())
    assert list(schemes) == ["SessionCookie"]
    assert schemes["SessionCookie"] | {"description": ""} == {
        "type": "apiKey",
        "in": "cookie",
        "name": "session",
        "description": "",
    }
    locked = {path for path, operation in operations.items() if operation.get("security") == [{"SessionCookie": []}]}
    assert locked == {"/again", "/me", "/danger", "/danger/timedelta"}
    assert not any("security" in operation for path, operation in operations.items() if path not in locked)
    assert not any("parameters" in operation for path, operation in operations.items() if path in locked)


@pytest.mark.parametrize(
    "how",
    [
        lambda app, config: app.add_middleware(SessionMiddleware, secret_key=SECRET, session_cookie="sid"),
        lambda app, config: app.add_middleware(SessionMiddleware, config=config),
        lambda app, config: app.add_middleware(SessionMiddleware, config),
        lambda app, config: app.add_middleware(SessionMiddleware, config=SessionManager(config)),
    ],
    ids=["options", "config", "by position", "manager"],
)
def test_the_scheme_has_the_configured_name(how):
    """However the cookie's name is given, the document has it, and another app's document has that app's."""
    app, other = FastAPI(), make_app()
    how(app, SessionConfig(secret_key=SECRET, store="memory://", session_cookie="sid"))
    add_routes(app)
    for _ in range(2):
        assert document(app)[0]["SessionCookie"]["name"] == "sid"
        assert document(other)[0]["SessionCookie"]["name"] == "session"


def test_the_document_that_is_served_has_the_name_too():
    """The page reads the same document."""
    with TestClient(make_app(session_cookie="sid")) as client:
        served = client.get("/openapi.json").json()
    assert served["components"]["securitySchemes"]["SessionCookie"]["name"] == "sid"


def test_an_app_without_guards_or_middleware():
    """A document without a guard is as it was, and one without a middleware has the default name."""
    assert "components" not in FastAPI().openapi()
    app = FastAPI()
    add_routes(app)
    assert document(app)[0]["SessionCookie"]["name"] == "session"


def test_the_pages_show_the_lock(client):
    """The documentation pages are served, and read the document that has the scheme."""
    assert "/openapi.json" in client.get("/docs").text
    assert "/openapi.json" in client.get("/redoc").text


def test_nothing_is_logged(client, caplog):
    """An app that uses all of it gives no reason for a warning."""
    with caplog.at_level(logging.WARNING, "roomkey"):
        client.get("/login/7")
        client.get("/me")
        client.get("/yield")
    assert not caplog.records
