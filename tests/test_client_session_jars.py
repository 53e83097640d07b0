"""`roomkey.testing.client_session` for the clients that keep their cookies in ways of their own."""

import pytest

from roomkey import ConfigurationError, SessionManager
from roomkey.testing import client_session
from tests.manager.parts import SECRET, run_script
from tests.servers.parts import free_port


def add_views(app, session):
    """Add the pages of Flask or Quart: / shows the session, /add adds to it, /logout ends it."""

    @app.get("/")
    def show():
        return {"is_new": session.is_new, **session}

    @app.get("/add")
    def add():
        return str(session.change("added", lambda number: number + 1, default=0))

    @app.get("/logout")
    def log_out():
        session.clear()
        return ""


def flask_app(**settings):
    flask = pytest.importorskip("flask")
    from roomkey.flask import Roomkey, session

    app = flask.Flask(__name__)
    app.config.from_mapping({"SECRET_KEY": SECRET} | settings)
    roomkey = Roomkey(app, store="memory://")
    add_views(app, session)
    return app, roomkey.manager


def quart_app(**settings):
    quart = pytest.importorskip("quart")
    from roomkey.quart import Roomkey, session

    app = quart.Quart(__name__)
    app.config.from_mapping({"SECRET_KEY": SECRET} | settings)
    roomkey = Roomkey(app, store="memory://")
    add_views(app, session)
    return app, roomkey.manager


SETTINGS = [
    {},
    {"SESSION_COOKIE_SECURE": True},
    {"SESSION_COOKIE_SECURE": True, "SESSION_COOKIE_NAME": "__Host-sid"},
    {"SERVER_NAME": "www.example.com", "SESSION_COOKIE_DOMAIN": "example.com"},
    {"SERVER_NAME": "example.com:8000"},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_flask(settings):
    """A log-in, what the app has added, a log-out by the test and one by the app."""
    app, manager = flask_app(**settings)
    client = app.test_client()
    with client_session(client, manager) as session:
        assert session.is_new
        session["user_id"] = 7
    assert client.get("/").json == {"is_new": False, "user_id": 7}
    client.get("/add")
    with client_session(client, manager) as session:
        assert session == {"user_id": 7, "added": 1}
        session.clear()
    assert client.get("/").json == {"is_new": True}
    with client_session(client, manager) as session:
        session["user_id"] = 8
    client.get("/logout")
    with client_session(client, manager) as session:
        assert session.is_new


@pytest.mark.parametrize("settings", SETTINGS)
async def test_quart(settings):
    """The same."""
    app, manager = quart_app(**settings)
    client = app.test_client()

    async def shown():
        return await (await client.get("/")).json

    async with client_session(client, manager) as session:
        assert session.is_new
        session["user_id"] = 7
    assert await shown() == {"is_new": False, "user_id": 7}
    await client.get("/add")
    with client_session(client, manager) as session:
        assert session == {"user_id": 7, "added": 1}
        session.clear()
    assert await shown() == {"is_new": True}
    async with client_session(client, manager) as session:
        session["user_id"] = 8
    await client.get("/logout")
    async with client_session(client, manager) as session:
        assert session.is_new


async def test_a_permanent_session():
    """`session.permanent` of Flask and Quart counts in the block as it does in a view."""
    app, manager = flask_app(PERMANENT_SESSION_LIFETIME=1000)
    client = app.test_client()
    with client_session(client, manager) as session:
        session["user_id"] = 7
        session.permanent = True
    assert client.get_cookie("session").max_age == 1000
    app, manager = quart_app(PERMANENT_SESSION_LIFETIME=1000)
    client = app.test_client()
    async with client_session(client, manager) as session:
        session["user_id"] = 7
        session.permanent = True
    assert next(iter(client.cookie_jar)).expires is not None


def test_any_wsgi_app():
    """Werkzeug's client takes the place of Flask's."""
    test = pytest.importorskip("werkzeug.test")
    manager = SessionManager(secret_key=SECRET, store="memory://")

    def app(environ, start_response):
        session = manager.sync.load(environ.get("HTTP_COOKIE"))
        body = str(session.get("user_id")).encode()
        start_response("200 OK", manager.sync.commit(session, headers=[("Content-Type", "text/plain")]))
        return [body]

    client = test.Client(app)
    with client_session(client, manager) as session:
        session["user_id"] = 7
    assert client.get("/").text == "7"


@pytest.mark.parametrize("make", [flask_app, quart_app])
def test_a_client_without_cookies(make):
    """It would send none: the error says what to leave out."""
    app, manager = make()
    with pytest.raises(ConfigurationError, match="use_cookies=False"):
        client_session(app.test_client(use_cookies=False), manager)


@pytest.mark.parametrize("make", [flask_app, quart_app])
def test_a_domain_of_another_host(make):
    """The error names the setting."""
    app, manager = make(SESSION_COOKIE_DOMAIN="example.com")
    opened = client_session(app.test_client(), manager)
    with pytest.raises(ConfigurationError, match="set SERVER_NAME"), opened as session:
        session["user_id"] = 7


async def test_aiohttp():
    """The same on aiohttp, whose client starts a server."""
    pytest.importorskip("aiohttp")
    from aiohttp.test_utils import TestClient, TestServer

    from tests.aiohttp_site import make_app

    app, manager = make_app()
    client = TestClient(TestServer(app))
    with pytest.raises(ConfigurationError, match="has not started"):
        client_session(client, manager)
    async with client:

        async def shown():
            return await (await client.get("/")).json()

        async with client_session(client, manager) as session:
            assert session.is_new
            session["user_id"] = 7
        assert await shown() == {"user_id": 7}
        await client.get("/count")
        with client_session(client, manager) as session:
            assert session == {"user_id": 7, "n": 1}
            session.clear()
        assert await shown() == {} and len(client.session.cookie_jar) == 0
        async with client_session(client, manager) as session:
            session["user_id"] = 8
        await client.get("/logout")
        async with client_session(client, manager) as session:
            assert session.is_new


async def test_aiohttp_and_a_cookie_that_is_not_kept():
    """The error says what to change."""
    aiohttp = pytest.importorskip("aiohttp")
    from aiohttp.test_utils import TestClient, TestServer

    from tests.aiohttp_site import make_app

    for options, jar in (({"https_only": True}, None), ({}, aiohttp.DummyCookieJar())):
        app, manager = make_app(**options)
        async with TestClient(TestServer(app), cookie_jar=jar) as client:
            with pytest.raises(ConfigurationError, match="does not keep the cookie session"):
                async with client_session(client, manager) as session:
                    session["user_id"] = 7


def test_django():
    """`Client` and `AsyncClient`, whatever reads the cookie there."""
    pytest.importorskip("django")
    run_script(DJANGO)


DJANGO = """
    import asyncio
    import sys

    import django
    from django.conf import settings
    from django.http import JsonResponse
    from django.test import AsyncClient, Client
    from django.urls import path

    from roomkey import SessionManager
    from roomkey.testing import client_session

    manager = SessionManager(
        secret_key="k" * 32, store="memory://", session_cookie="sessionid",
        https_only=True, same_site="none", partitioned=True,
    )

    def page(request):
        session = manager.sync.load(request.headers.get("Cookie"))
        if request.path == "/add":
            session["added"] = 1
        if request.path == "/logout":
            session.clear()
        response = JsonResponse(session.copy())
        for name, value in manager.sync.commit(session, headers=[("X", "y")]):
            if name == "set-cookie":
                name, _, rest = value.partition("=")
                response.set_cookie(name, rest.partition(";")[0], max_age=0 if rest.startswith(";") else 60)
        return response

    urlpatterns = [path(name, page) for name in ("", "add", "logout")]
    settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["testserver"], SECRET_KEY="k")
    django.setup()

    client = Client()
    client.cookies["theme"] = "dark"
    with client_session(client, manager) as session:
        assert session.is_new
        session["user_id"] = 7
    assert client.cookies["sessionid"]["samesite"] == "none" and client.cookies["sessionid"]["secure"]
    assert client.get("/").json() == {"user_id": 7}
    client.get("/add")
    with client_session(client, manager) as session:
        assert session == {"user_id": 7, "added": 1}
        session.clear()
    assert set(client.cookies) == {"theme"} and client.get("/").json() == {}
    with client_session(client, manager) as session:
        session["user_id"] = 8
    client.get("/logout")
    with client_session(client, manager) as session:
        assert session.is_new

    async def whole():
        client = AsyncClient()
        async with client_session(client, manager) as session:
            session["user_id"] = 7
        assert (await client.get("/")).json() == {"user_id": 7}

    asyncio.run(whole())
"""


def test_djangos_own_sessions():
    """With `roomkey.django`, the block and the views see one session."""
    pytest.importorskip("django")
    run_script(DJANGO_ENGINE)


DJANGO_ENGINE = """
    import django
    from django.conf import settings
    from django.http import JsonResponse
    from django.test import Client
    from django.urls import path

    from roomkey.testing import client_session

    def page(request):
        if request.path == "/add":
            request.session["added"] = 1
        if request.path == "/logout":
            request.session.flush()
        return JsonResponse(dict(request.session.items()))

    urlpatterns = [path(name, page) for name in ("", "add", "logout")]
    settings.configure(
        ROOT_URLCONF=__name__, ALLOWED_HOSTS=["testserver"], SECRET_KEY="k" * 50, SESSION_COOKIE_SECURE=True,
        SESSION_ENGINE="roomkey.django", ROOMKEY={"store": "memory://"},
        MIDDLEWARE=["roomkey.django.SessionMiddleware"],
    )
    django.setup()

    from roomkey.django import get_manager

    client = Client()
    with client_session(client, get_manager()) as session:
        session["cart"] = ["tea"]
    assert client.get("/").json() == {"cart": ["tea"]}
    client.get("/add")
    with client_session(client, get_manager()) as session:
        assert session == {"cart": ["tea"], "added": 1}
        session.clear()
    assert client.get("/").json() == {}
    with client_session(client, get_manager()) as session:
        session["cart"] = ["milk"]
    client.get("/logout")
    with client_session(client, get_manager()) as session:
        assert session.is_new
"""


def test_no_framework_is_imported():
    """The module of the clients knows frameworks by what they look like."""
    loaded = run_script("""
        import sys
        import roomkey.testing
        print(*sorted({name.partition(".")[0] for name in sys.modules}))
    """).split()
    known = {"aiohttp", "django", "flask", "httpx", "quart", "starlette", "werkzeug", "pytest"}
    assert not known.intersection(loaded)


async def test_aiohttp_and_a_cookie_with_every_attribute():
    """A jar that takes the server for a secure one keeps it."""
    aiohttp = pytest.importorskip("aiohttp")
    from aiohttp.test_utils import TestClient, TestServer

    from tests.aiohttp_site import make_app

    app, manager = make_app(https_only=True, same_site="none", partitioned=True)
    port = free_port()
    jar = aiohttp.CookieJar(unsafe=True, treat_as_secure_origin=f"http://127.0.0.1:{port}")
    async with TestClient(TestServer(app, port=port), cookie_jar=jar) as client:
        async with client_session(client, manager) as session:
            session["user_id"] = 7
        assert await (await client.get("/")).json() == {"user_id": 7}
