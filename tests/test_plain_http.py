"""`https_only=True` over plain HTTP begins a session with each request: that is said once, where it is so."""

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from roomkey import SessionMiddleware
from tests.asgi import SECRET, SpyStore, ask, cookie_in, http_scope, make, websocket_scope


def said(caplog):
    return [record.getMessage() for record in caplog.records if "https_only" in record.getMessage()]


async def count(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(request.session.change("n", lambda n: n + 1, 0)))


@pytest.mark.parametrize("url", ["memory://", "sqlite:///sessions.sqlite3", "cookie://"])
@pytest.mark.parametrize(("base", "expected"), [("http", ["1", "1", "1"]), ("https", ["1", "2", "3"])])
def test_it_is_said_once(url, base, expected, caplog, monkeypatch, tmp_path):
    """A test client drops the cookie, as a browser does."""
    monkeypatch.chdir(tmp_path)
    app = SessionMiddleware(Starlette(routes=[Route("/", count)]), secret_key=SECRET, store=url, https_only=True)
    client = TestClient(app, base_url=f"{base}://testserver")
    assert [client.get("/").text for _ in range(3)] == expected
    messages = said(caplog)
    assert len(messages) == (base == "http")
    assert all("https_only=False" in message and "X-Forwarded-Proto" in message for message in messages)
    assert app._plain_http.is_known  # nothing is looked at any more


async def begin(scope, send):
    if scope["path"] == "/begin":
        scope["session"]["n"] = 1


@pytest.mark.parametrize("vary", ["used", "always"])
@pytest.mark.parametrize(
    ("path", "more", "expected"),
    [
        ("/begin", {}, 1),
        ("/begin", {"scheme": "http"}, 1),
        ("/begin", {"scheme": "https"}, 0),
        ("/begin", {"type": "websocket", "scheme": "wss"}, 0),
        ("/begin", {"headers": [(b"x-forwarded-proto", b"https")]}, 0),
        ("/begin", {"headers": [(b"forwarded", b"for=192.0.2.1;Proto=https")]}, 0),
        ("/begin", {"headers": [(b"x-forwarded-proto", b"http")]}, 1),
        ("/health", {"scheme": "http"}, 0),
    ],
)
async def test_when_it_is_said(path, more, expected, vary, caplog):
    """Not for a request over HTTPS, of a proxy that speaks it, or that gets no cookie. Those behind it may differ."""
    app = make(begin, https_only=True, vary=vary)
    await ask(app, {**http_scope(path), **more})
    assert len(said(caplog)) == expected
    await ask(app, http_scope("/begin"))
    assert len(said(caplog)) == (0 if path == "/begin" and not expected else 1)
    await ask(app, http_scope("/health"))
    assert app._plain_http.is_known


async def test_a_client_that_sends_the_cookie_back_is_none(caplog):
    """Some browsers take localhost for a secure place. A log-out is no cookie either."""

    async def handler(scope, send):
        if scope["path"] == "/out":
            scope["session"].clear()
        else:
            scope["session"]["user_id"] = 7

    store = SpyStore()
    card = cookie_in((await ask(make(handler, store=store), http_scope()))[0])
    app = make(handler, store=store, https_only=True)
    assert cookie_in((await ask(app, http_scope("/out", card)))[0]) == b""
    assert said(caplog) == []


async def test_a_websocket_over_plain_http(caplog):
    """The cookie of its handshake is lost as well."""

    async def handler(scope, send):
        scope["session"]["n"] = 1
        await send({"type": "websocket.accept"})

    await ask(make(handler, https_only=True), websocket_scope(scheme="ws"))
    assert len(said(caplog)) == 1


async def test_without_the_option_nothing_is_watched(caplog):
    """The usual way is the usual way."""
    app = make(begin)
    assert app._plain_http.is_known
    await ask(app, http_scope("/begin"))
    assert said(caplog) == []
