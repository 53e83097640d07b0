"""Flask and Quart over HTTPS and plain HTTP: what `SESSION_COOKIE_SECURE` means there."""

import asyncio

import flask
import pytest
import quart

import roomkey.flask
import roomkey.quart
from roomkey import ConfigurationError
from roomkey.stores.memory import MemoryStore
from tests.asgi import SECRET


class FlaskSite:
    """A Flask app, and requests to it."""

    framework, extension = flask, roomkey.flask

    def __init__(self, **settings):
        self.app = self.make_app(self.framework, settings)
        self.roomkey = self.extension.Roomkey(self.app, store=MemoryStore())
        self.client = self.app.test_client()

    def make_app(self, framework, settings):
        app = getattr(framework, framework.__name__.capitalize())(__name__)
        app.config.from_mapping({"SECRET_KEY": SECRET, **settings})

        @app.get("/count")
        def count():
            return str(framework.session.change("n", lambda n: n + 1, default=0))

        @app.get("/login")
        def log_in():
            framework.session["user_id"] = 7
            return ""

        return app

    def cookie(self, path="/count", scheme="http", **headers):
        """Return the `Set-Cookie` of a request."""
        return self.client.get(path, base_url=f"{scheme}://localhost", headers=headers).headers.get("Set-Cookie")


class QuartSite(FlaskSite):
    """The same of Quart, whose client has one cookie jar for both schemes."""

    framework, extension = quart, roomkey.quart

    def cookie(self, path="/count", scheme="http", **headers):
        answer = asyncio.run(self.client.get(path, scheme=scheme, headers=headers))
        return answer.headers.get("Set-Cookie")


@pytest.fixture(params=[FlaskSite, QuartSite])
def kind(request):
    return request.param


def said(caplog):
    return [record.getMessage() for record in caplog.records if "https_only" in record.getMessage()]


@pytest.mark.parametrize("settings", [{}, {"SESSION_COOKIE_SECURE": False}], ids=["not set", "False"])
def test_the_request_says_it(kind, settings):
    """Flask's own default is False, and nobody can tell it from a setting: both go by the request."""
    assert kind(**settings).roomkey.manager.config.https_only == "auto"
    assert "Secure" in kind(**settings).cookie(scheme="https")
    site = kind(**settings)
    assert "Secure" not in site.cookie()
    assert "Secure" not in site.cookie("/login")


def test_true_is_true(kind):
    """Every cookie is `Secure`."""
    site = kind(SESSION_COOKIE_SECURE=True)
    assert site.roomkey.manager.config.https_only is True
    assert "Secure" in site.cookie()


def test_never(kind):
    """For a site whose users go on over plain HTTP with the session that began over HTTPS."""
    site = kind(ROOMKEY_HTTPS_ONLY=False)
    assert site.roomkey.manager.config.https_only is False
    assert "Secure" not in site.cookie(scheme="https")
    with pytest.raises(ConfigurationError, match="https_only: SESSION_COOKIE_SECURE says it"):
        kind(ROOMKEY_HTTPS_ONLY=False, SESSION_COOKIE_SECURE=True)


def test_a_plain_response_keeps_a_secure_card_secure(kind):
    """A proxy may speak HTTPS where the app was not told: `ProxyFix` is missing, say."""
    site = kind()
    card = site.cookie(scheme="https").split(";")[0]
    site.client = site.app.test_client(use_cookies=False)
    assert "Secure" in site.cookie("/login", Cookie=card)


@pytest.mark.parametrize(
    ("scheme", "headers", "expected"),
    [("http", {}, 1), ("https", {}, 0), ("http", {"X-Forwarded-Proto": "https"}, 0)],
)
def test_plain_http_is_said_once(kind, scheme, headers, expected, caplog):
    """With `SESSION_COOKIE_SECURE`, each request over plain HTTP begins a session: no browser sends its cookie back."""
    site = kind(SESSION_COOKIE_SECURE=True)
    site.client = site.app.test_client(use_cookies=False)
    for _ in range(2):
        site.cookie(scheme=scheme, **headers)
    assert len(said(caplog)) == expected
    assert all("X-Forwarded-Proto" in message for message in said(caplog))


def test_without_true_nothing_is_said(kind, caplog):
    """Over plain HTTP the cookie is a plain one, and comes back."""
    site = kind()
    assert site.cookie() and said(caplog) == []


def test_a_websocket_over_plain_http(caplog):
    """The cookie of its handshake is lost as well."""
    site = QuartSite(SESSION_COOKIE_SECURE=True)

    @site.app.websocket("/chat")
    async def chat():
        quart.session["n"] = 1
        await quart.websocket.send("hello")

    async def talk():
        async with site.client.websocket("/chat") as socket:
            await socket.receive()

    asyncio.run(talk())
    assert len(said(caplog)) == 1
