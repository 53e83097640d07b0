"""Lilya apps with Roomkey's middleware, the two methods that `roomkey.lilya` mends included."""

import re

import pytest
from lilya.apps import ChildLilya, Lilya
from lilya.exceptions import HTTPException
from lilya.middleware import DefineMiddleware
from lilya.middleware.sessions import SessionMiddleware as Lilyas
from lilya.requests import Request
from lilya.routing import Include, Path, WebSocketPath
from lilya.testclient import TestClient
from lilya.websockets import WebSocket

from roomkey import ConfigurationError
from roomkey.lilya import SessionConfig, SessionMiddleware

SECRET = "a secret for the tests, long enough"


async def login(request: Request, name: str) -> dict:
    request.session["user_id"] = name
    return {}


async def me(request: Request) -> dict:
    if not request.session.get("user_id"):
        raise HTTPException(status_code=401, detail="log in first")
    return dict(request.session)


async def clear(request: Request) -> dict:
    request.session.clear()
    return {}


async def set_session(request: Request) -> dict:
    request.set_session({"user_id": "set"})
    return {}


async def set_nothing(request: Request) -> dict:
    request.set_session(None)
    return {}


async def clear_session(request: Request) -> dict:
    request.clear_session()
    return dict(request.session)


async def teapot(request: Request) -> dict:
    request.session["user_id"] = "teapot"
    raise HTTPException(status_code=418)


async def crash(request: Request) -> dict:
    request.session["crashed"] = True
    raise RuntimeError("a mistake")


async def socket(websocket: WebSocket) -> None:
    websocket.session["via"] = "websocket"
    await websocket.accept()
    await websocket.send_json(dict(websocket.session))
    await websocket.close()


async def set_in_socket(websocket: WebSocket) -> None:
    websocket.set_session({"user_id": "set in a socket"})
    await websocket.accept()
    await websocket.close()


def routes() -> list:
    return [
        Path("/login/{name}", login, methods=["POST"]),
        Path("/me", me),
        Path("/clear", clear, methods=["POST"]),
        Path("/set-session", set_session, methods=["POST"]),
        Path("/set-nothing", set_nothing, methods=["POST"]),
        Path("/clear-session", clear_session, methods=["POST"]),
        Path("/teapot", teapot),
        Path("/crash", crash),
        WebSocketPath("/ws", socket),
        WebSocketPath("/ws-set", set_in_socket),
    ]


def app(middleware: type = SessionMiddleware, more: tuple = (), **options) -> Lilya:
    options = {"secret_key": SECRET, **options}
    if middleware is SessionMiddleware:
        options.setdefault("store", "memory://")
    return Lilya(routes=[*routes(), *more], middleware=[DefineMiddleware(middleware, **options)])


def client(app: Lilya) -> TestClient:
    return TestClient(app, raise_server_exceptions=False)


@pytest.fixture
def browser():
    with client(app()) as browser:
        yield browser


def test_the_defaults(browser):
    """By keyword the middleware has the same defaults as everywhere."""
    header = browser.post("/login/ada").headers["set-cookie"]
    assert re.fullmatch(r"session=[\w-]{80}; Max-Age=14400; Path=/; HttpOnly; SameSite=lax", header)


def test_the_options():
    """Options given to DefineMiddleware reach the cookie."""
    options = {"session_cookie": "sid", "max_age": 60, "same_site": "strict", "https_only": True}
    with client(app(**options)) as browser:
        _, header = browser.post("/login/ada").headers.get_list("set-cookie")  # after the one of visitors' CSRF tokens
    assert re.fullmatch(r"sid=[\w-]{80}; Max-Age=60; Path=/; HttpOnly; SameSite=strict; Secure", header)


def test_a_config_does_as_well_as_options():
    """DefineMiddleware takes a SessionConfig in place of options."""
    config = SessionConfig(secret_key=SECRET, store="memory://")
    lilya = Lilya(routes=routes(), middleware=[DefineMiddleware(SessionMiddleware, config=config)])
    with client(lilya) as browser:
        browser.post("/login/ada")
        assert browser.get("/me").json() == {"user_id": "ada"}


@pytest.mark.parametrize("option", ["session_serializer", "session_deserializer", "populate_session"])
def test_lilyas_other_options_are_refused(option):
    """An option that only Lilya's middleware has is refused by its name."""
    with pytest.raises(ConfigurationError, match=option):
        SessionMiddleware(None, secret_key=SECRET, store="memory://", **{option: print})


@pytest.mark.parametrize("ending", ["/clear", "/clear-session", "/set-nothing"])
def test_write_read_clear(browser, ending):
    """What was written is read until the session is cleared, in any of the ways; a copied cookie is refused then."""
    browser.post("/login/ada")
    assert browser.get("/me").json() == {"user_id": "ada"}
    copied = browser.cookies["session"]
    answer = browser.post(ending)
    assert "Max-Age=0" in answer.headers["set-cookie"]
    assert answer.json() == {}
    assert browser.get("/me").status_code == 401
    browser.cookies.set("session", copied)
    assert browser.get("/me").status_code == 401


def test_set_session_replaces_the_content(browser):
    """`request.set_session` puts its dict in place of what the session held, and that is saved."""
    browser.post("/login/ada")
    with browser.websocket_connect("/ws"):
        pass
    browser.post("/set-session")
    assert browser.get("/me").json() == {"user_id": "set"}


def test_set_session_begins_a_session(browser):
    """`request.set_session` works for a visitor who has no session yet."""
    assert browser.post("/set-session").headers["set-cookie"].startswith("session=")
    assert browser.get("/me").json() == {"user_id": "set"}


def test_clear_session_of_an_anonymous_visitor_gives_no_cookie(browser):
    """`request.clear_session` without a session does nothing."""
    assert "set-cookie" not in browser.post("/clear-session").headers


def test_a_401_says_that_it_depends_on_the_cookie(browser):
    """An answer by HTTPException to a handler that read the session has `Vary: Cookie`."""
    answer = browser.get("/me")
    assert (answer.status_code, answer.headers["vary"]) == (401, "Cookie")


def test_an_http_exception_saves(browser):
    """A new session is saved, and its cookie sent once, also when the handler answers with an HTTPException."""
    answer = browser.get("/teapot")
    assert answer.status_code == 418
    assert [name for name, _ in answer.headers.multi_items()].count("set-cookie") == 1
    assert browser.get("/me").json() == {"user_id": "teapot"}


def test_an_unhandled_error_saves_nothing(browser):
    """A handler that breaks leaves the session as it was."""
    browser.post("/login/ada")
    assert browser.get("/crash").status_code == 500
    assert browser.get("/me").json() == {"user_id": "ada"}


def test_a_websocket_shares_the_session(browser):
    """A WebSocket reads what HTTP wrote, and what it writes HTTP reads."""
    browser.post("/login/ada")
    with browser.websocket_connect("/ws") as opened:
        assert opened.receive_json() == {"user_id": "ada", "via": "websocket"}
    assert browser.get("/me").json() == {"user_id": "ada", "via": "websocket"}


def test_a_session_begun_in_a_websocket_goes_on_over_http(browser):
    """`set_session` before websocket.accept begins a session, whose cookie comes with the handshake."""
    with browser.websocket_connect("/ws-set") as opened:
        cookies = [value.decode() for name, value in opened.extra_headers if name == b"set-cookie"]
    assert len(cookies) == 1
    browser.cookies.set("session", re.match(r"session=([\w-]+);", cookies[0])[1])
    assert browser.get("/me").json() == {"user_id": "set in a socket"}


def test_includes_and_children_see_the_one_session():
    """Include, ChildLilya and a nested Lilya with its own middleware under the same name share the session."""
    more = (
        Include("/include", routes=routes()),
        Include("/child", app=ChildLilya(routes=routes())),
        Include("/nested", app=app(secret_key="another " + SECRET)),
    )
    with client(app(more=more)) as browser:
        browser.post("/nested/login/ada")
        for place in ("", "/include", "/child", "/nested"):
            assert browser.get(f"{place}/me").json() == {"user_id": "ada"}, place
        browser.post("/child/clear-session")
        for place in ("", "/include", "/child", "/nested"):
            assert browser.get(f"{place}/me").status_code == 401, place


def test_lilyas_own_sessions_are_as_before():
    """With Lilya's own middleware, the two methods do what they did: they reach the handler's copy, and no further."""
    with client(app(Lilyas)) as browser:
        assert "Max-Age=1209600" in browser.post("/login/ada").headers["set-cookie"]
        browser.post("/set-session")
        assert browser.get("/me").json() == {"user_id": "ada"}
