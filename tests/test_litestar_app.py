"""Litestar with `RoomkeyPlugin`: errors and outages, WebSockets and streams, the app and its options."""

from contextlib import asynccontextmanager

import pytest
from litestar import Litestar, MediaType, Request, Response, WebSocket, get, post, websocket
from litestar.background_tasks import BackgroundTask
from litestar.enums import ScopeType
from litestar.exceptions import HTTPException, WebSocketDisconnect
from litestar.handlers import websocket_listener
from litestar.middleware import ASGIMiddleware
from litestar.middleware.session.client_side import CookieBackendConfig
from litestar.middleware.session.server_side import ServerSideSessionConfig
from litestar.response import ServerSentEvent, Stream
from litestar.security.session_auth import SessionAuth
from litestar.testing import TestClient

from roomkey import ConfigurationError, Session, SessionConfig, SessionManager, StoreUnavailable
from roomkey.litestar import RoomkeyPlugin, SessionMiddleware
from roomkey.testing import client_session
from tests.litestar_site import SECRET, STORY, browser, plugin

# --- errors and outages -----------------------------------------------------------------------------------------------


class OurError(Exception):
    pass


class Ours(OurError):
    pass


@pytest.mark.parametrize(
    ("error", "handlers", "is_saved"),
    [
        (ValueError(), (), False),
        (ValueError(), (500,), False),
        (ValueError(), (Exception,), False),
        (ExceptionGroup("", [ValueError()]), (), False),
        (Ours(), (), False),
        (Ours(), (OurError,), True),
        (HTTPException(status_code=403), (), True),
        (HTTPException(status_code=500), (), True),
    ],
)
def test_an_error_that_nobody_handles_saves_nothing(error, handlers, is_saved):
    """Nor where the app shows a page for any error. A response that the app made of its own error saves."""

    @post("/fails")
    async def fails(session: Session) -> None:
        session["n"] = 1
        raise error

    def page(request: Request, error: Exception) -> Response:
        return Response("our page", status_code=502)

    with browser(fails, *STORY, exception_handlers=dict.fromkeys(handlers, page)) as client:
        client.post("/login/7")
        answer = client.post("/fails")
        assert answer.status_code == (502 if handlers else getattr(error, "status_code", 500))
        assert client.get("/").json() == ({"user_id": 7, "n": 1} if is_saved else {"user_id": 7})


def test_what_was_saved_early_stays_saved():
    """A log-in that was saved before the error has its cookie on the error page."""

    @post("/early")
    async def early(session: Session) -> None:
        session["user_id"] = 7
        await session.save()
        session["n"] = 1
        raise ValueError

    with browser(early, *STORY) as client:
        assert client.post("/early").status_code == 500
        assert client.get("/").json() == {"user_id": 7}


def test_an_error_on_an_excluded_path_is_as_any_other():
    """There is no session to abandon, and the error page is Litestar's."""

    @get("/health")
    async def health() -> None:
        raise ValueError

    @get("/skips", skip_session=True)
    async def skips() -> None:
        raise ValueError

    with browser(health, skips, roomkey=plugin(exclude=["/health"])) as client:
        assert client.get("/health").status_code == client.get("/skips").status_code == 500
        assert client.get("/nowhere").status_code == 404


def test_a_middleware_around_the_app_counts():
    """Where Roomkey's middleware serves the cookie outside, the app has that one session, and errors stay errors."""

    @post("/fails")
    async def fails(session: Session) -> None:
        session["n"] = 1
        raise ValueError

    def page(request: Request, error: Exception) -> Response:
        return Response(type(error).__name__, status_code=500)

    config = SessionConfig(secret_key=SECRET, store="memory://")
    inner = Litestar([fails, *STORY], plugins=[RoomkeyPlugin(config)], exception_handlers={500: page})
    app = SessionMiddleware(inner, config)
    with TestClient(app, raise_server_exceptions=False) as client:
        client.post("/login/7")
        assert client.get("/").json() == {"user_id": 7}
        assert client.post("/fails").text == "ValueError"


@pytest.mark.parametrize("page", [None, 502])
def test_a_store_that_is_down_for_what_a_handler_asks(page):
    """It is a 503 too, and nothing is saved. A page of the app's own for it is a response like any other, and saves."""

    @post("/ask")
    async def ask(session: Session) -> None:
        session["n"] = 1
        await session.sessions.of(7)

    def own_page(request: Request, error: StoreUnavailable) -> Response:
        return Response("our own page", status_code=page)

    roomkey = plugin()
    store = roomkey.manager.config.store
    handlers = {} if page is None else {StoreUnavailable: own_page}
    with browser(ask, *STORY, roomkey=roomkey, exception_handlers=handlers) as client:
        client.post("/login/7")
        store.lists = False
        answer = client.post("/ask")
        assert answer.status_code == (page or 503)
        assert ("retry-after" in answer.headers) is (page is None)
        assert client.get("/").json() == ({"user_id": 7} if page is None else {"user_id": 7, "n": 1})


def test_a_store_that_is_down_is_a_503():
    """It says when to try again. A visitor without a cookie is served, and the session is there again afterwards."""

    @websocket("/ws")
    async def ws(socket: WebSocket) -> None:
        raise AssertionError

    roomkey = plugin()
    with browser(ws, *STORY, roomkey=roomkey) as client:
        client.post("/login/7")
        roomkey.manager.config.store.down = True
        answer = client.get("/")
        assert answer.status_code == 503 and int(answer.headers["retry-after"]) > 0
        assert answer.headers["cache-control"] == "no-store"
        assert client.get("/", headers={"cookie": "theme=dark"}).status_code == 200
        with pytest.raises(WebSocketDisconnect) as refused, client.websocket_connect("/ws"):
            pass
        assert refused.value.code == 1013
        roomkey.manager.config.store.down = False
        assert client.get("/").json() == {"user_id": 7}


# --- WebSockets, streams, background tasks ----------------------------------------------------------------------------


@websocket("/chat")
async def chat(socket: WebSocket, session: Session) -> None:
    session["rooms"] = [*session.get("rooms", []), "chat"]
    await socket.accept()
    async for text in socket.iter_data():
        session.setdefault("said", []).append(text)
        await session.save()
        await socket.send_text(f"{session.get('user_id')}: {text}")


def test_a_websocket_has_the_session():
    """Its answer carries the cookie of a new session, and what it saves is there at once."""
    with browser(chat, *STORY) as client:
        with client.websocket_connect("/chat") as socket:
            (cookie,) = [value for name, value in socket.extra_headers if name == b"set-cookie"]
            headers = {"cookie": cookie.decode().partition(";")[0]}
            socket.send_text("hello")
            assert socket.receive_text() == "None: hello"
            assert client.get("/", headers=headers).json() == {"rooms": ["chat"], "said": ["hello"]}
        client.post("/login/7")
        with client.websocket_connect("/chat") as socket:
            socket.send_text("hello")
            assert socket.receive_text() == "7: hello"


def test_what_a_websocket_leaves_is_saved_when_the_client_goes():
    """A handler that waits for a client who has gone ends with Litestar's own exception, as it should."""

    @websocket("/wait")
    async def wait(socket: WebSocket, session: Session) -> None:
        await socket.accept()
        while True:
            session["last"] = await socket.receive_text()

    with browser(wait, *STORY) as client:
        client.post("/login/7")
        with client.websocket_connect("/wait") as socket:
            socket.send_text("hello")
        assert client.get("/").json() == {"user_id": 7, "last": "hello"}


def test_a_websocket_listener_has_the_session():
    """The argument is there for each message, and what was changed is saved when the client has gone."""

    @websocket_listener("/listen")
    async def listen(data: str, session: Session) -> int:
        session.setdefault("said", []).append(data)
        return len(session["said"])

    with browser(listen, *STORY) as client:
        client.post("/login/7")
        with client.websocket_connect("/listen") as socket:
            for number, word in enumerate(("a", "b"), 1):
                socket.send_text(word)
                assert socket.receive_text() == str(number)
        assert client.get("/").json() == {"user_id": 7, "said": ["a", "b"]}


@pytest.mark.parametrize("error", [ValueError, HTTPException])
def test_a_websocket_that_fails_saves_nothing(error):
    """An error that nobody handles closes the WebSocket, and nothing that it changed is saved."""

    @websocket("/fails")
    async def fails(socket: WebSocket, session: Session) -> None:
        await socket.accept()
        session["n"] = 1
        raise error

    with browser(fails, *STORY) as client:
        client.post("/login/7")
        with pytest.raises(WebSocketDisconnect), client.websocket_connect("/fails") as socket:
            socket.receive_text()
        assert client.get("/").json() == ({"user_id": 7} if error is ValueError else {"user_id": 7, "n": 1})


@pytest.mark.parametrize("kind", [Stream, ServerSentEvent])
def test_streams_save_at_their_end(kind):
    """What a stream changes is saved after its last chunk, in a session that was there before."""

    @get("/stream")
    async def stream(session: Session) -> kind:
        async def chunks():
            for number in range(3):
                session["last"] = number
                yield f"{number}"

        return kind(chunks())

    with browser(stream, *STORY) as client:
        client.post("/login/7")
        assert "2" in client.get("/stream").text
        assert client.get("/").json() == {"user_id": 7, "last": 2}


def test_a_stream_that_breaks_saves_nothing_more():
    """What it had changed before the error is lost, and the error is the server's to log."""

    @get("/stream")
    async def stream(session: Session) -> Stream:
        async def chunks():
            session["last"] = 1
            yield "1"
            raise ValueError

        return Stream(chunks())

    with browser(stream, *STORY) as client:
        client.post("/login/7")
        client.get("/stream")
        assert client.get("/").json() == {"user_id": 7}


def test_background_tasks_save():
    """What a task changes after the response is saved, in a session that was there before."""

    @get("/task")
    async def task(session: Session) -> Response[str]:
        return Response("", background=BackgroundTask(session.update, done=True), media_type=MediaType.TEXT)

    with browser(task, *STORY) as client:
        client.post("/login/7")
        client.get("/task")
        assert client.get("/").json() == {"user_id": 7, "done": True}


# --- the app and its options ------------------------------------------------------------------------------------------


def test_the_store_lives_with_the_app():
    """It is open before anything of the app's own starts, and closed when the app ends."""
    roomkey = plugin()
    noted = roomkey.manager.config.store.noted

    @asynccontextmanager
    async def lifespan(app):
        noted.append("begin")
        yield
        noted.append("end")

    with browser(*STORY, roomkey=roomkey, lifespan=[lifespan], on_startup=[lambda: noted.append("up")]):
        assert noted == ["open", "begin", "up"]
    assert noted[3:] == ["end", "close"]


async def test_a_wrong_configuration_ends_the_start(tmp_path):
    """An app whose store can never open does not start, and says why."""
    app = Litestar([], plugins=[plugin(store=f"sqlite:///{tmp_path}")])
    with pytest.raises((ConfigurationError, ExceptionGroup)) as raised:
        async with app.lifespan():
            pass
    error = raised.value
    while isinstance(error, ExceptionGroup):  # newer versions of Litestar start their events in a task group
        (error,) = error.exceptions
    assert isinstance(error, ConfigurationError) and "is a directory" in str(error)


def test_what_the_plugin_takes():
    """A configuration, a manager that others use too, or options by keyword; never two of these."""
    config = SessionConfig(secret_key=SECRET, store="memory://")
    manager = SessionManager(config)
    assert RoomkeyPlugin(config).manager.config is config
    assert RoomkeyPlugin(manager).manager is manager
    assert RoomkeyPlugin(secret_key=SECRET, store="memory://", max_age=5).manager.config.max_age == 5
    for given in (config, manager):
        with pytest.raises(ConfigurationError, match="or options, not both"):
            RoomkeyPlugin(given, max_age=5)
    with pytest.raises(ConfigurationError, match="max_age"):
        RoomkeyPlugin(secret_key=SECRET, lifetime=5)
    with pytest.raises(ConfigurationError, match=r"it takes a roomkey\.SessionConfig"):
        RoomkeyPlugin(ServerSideSessionConfig())


def test_the_apps_own_middleware_has_the_session():
    """The plugin's middleware is around those of the app."""

    class Counting(ASGIMiddleware):
        scopes = (ScopeType.HTTP,)

        async def handle(self, scope, receive, send, next_app):
            scope["session"].change("n", lambda n: n + 1, default=0)
            await next_app(scope, receive, send)

    with browser(*STORY, middleware=[Counting()]) as client:
        client.get("/public")
        assert client.get("/").json() == {"n": 2}


def test_handlers_find_the_manager():
    """By `app.plugins`, as any plugin of Litestar's: to end all sessions of a user, say."""

    @post("/everywhere")
    async def everywhere(request: Request, session: Session) -> int:
        return await request.app.plugins.get(RoomkeyPlugin).manager.sessions.revoke_all(session["user_id"])

    with browser(everywhere, *STORY) as client:
        client.post("/login/7")
        assert client.post("/everywhere").text == "1"
        assert client.get("/").json() == {}


def _session_auth(config):
    return SessionAuth(session_backend_config=config, retrieve_user_handler=lambda session, connection: None)


@pytest.mark.parametrize("kind", [ServerSideSessionConfig, lambda **options: CookieBackendConfig(b"k" * 16, **options)])
@pytest.mark.parametrize("wrap", [lambda config: config, _session_auth])
def test_litestars_own_sessions_need_another_cookie(kind, wrap):
    """Under the same cookie each would end the other's sessions: the app does not start, and says what to take out."""
    with pytest.raises(ConfigurationError, match="Litestar's own sessions have the cookie 'session' too: take their"):
        Litestar(middleware=[wrap(kind()).middleware], plugins=[plugin()])
    Litestar(middleware=[wrap(kind(key="admin")).middleware], plugins=[plugin()])


def test_client_session_logs_a_client_in():
    """Roomkey's own way to a test client's session works beside Litestar's."""
    roomkey = plugin()
    with browser(*STORY, roomkey=roomkey) as client:
        with client_session(client, roomkey.manager) as session:
            session["user_id"] = 7
        assert client.get("/").json() == {"user_id": 7}
