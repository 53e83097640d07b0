"""Cookies that the other libraries themselves make."""

import contextlib
import dataclasses

import flask
import httpx
import pytest
import redis
import redis.asyncio
import starsessions.stores.redis
from django.http import HttpRequest, HttpResponse
from lilya.apps import Lilya
from lilya.middleware import DefineMiddleware
from lilya.middleware.sessions import SessionMiddleware as LilyaMiddleware
from lilya.routing import Path
from lilya.testclient import TestClient as LilyaClient
from litestar import Litestar
from litestar import Request as LitestarRequest
from litestar import get as litestar_get
from litestar.middleware.session.server_side import ServerSideSessionConfig
from ravyn import Gateway, Ravyn
from ravyn import get as ravyn_get
from ravyn.core.config.session import SessionConfig as RavynSessionConfig
from ravyn.requests import Request as RavynRequest
from ravyn.testclient import RavynTestClient
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware as StarletteMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from roomkey.legacy import DjangoCookie, FlaskCookie, LilyaCookie, RavynCookie, StarletteCookie
from roomkey.wire.cookies import find_cookies
from tests.django_settings import settings

KEY = "the old app's key, long enough that nobody guesses it"
OTHER = "another key, just as long as the old app's own key is"
SECRET = "a secret that is long enough for every test here"
DAY = 24 * 60 * 60
DATA = {"user_id": 7, "cart": [{"tea": 2}, "ümlaut ☃"], "rate": 1.5, "yes": True, "none": None}


def sent_back(set_cookie):
    """Return the name of a cookie and the value that Roomkey finds when a browser sends it back as it was set."""
    pair = set_cookie.partition(";")[0]
    name = pair.partition("=")[0]
    (value,) = find_cookies([(b"cookie", b"a=b; " + pair.encode() + b"; c=d")], name.encode())
    return name, value


def starlette_cookie(key, data, **options):
    async def fill(request):
        request.session.update(data)
        return PlainTextResponse("")

    app = Starlette(routes=[Route("/", fill)], middleware=[Middleware(StarletteMiddleware, secret_key=key, **options)])
    return sent_back(TestClient(app).get("/").headers["set-cookie"])


def lilya_cookie(key, data, **options):
    async def fill(request):
        request.session.update(data)
        return "ok"

    app = Lilya(routes=[Path("/", fill)], middleware=[DefineMiddleware(LilyaMiddleware, secret_key=key, **options)])
    return sent_back(LilyaClient(app).get("/").headers["set-cookie"])


def ravyn_cookie(key, data, **options):
    @ravyn_get("/")
    async def fill(request: RavynRequest) -> str:
        request.session.update(data)
        return "ok"

    app = Ravyn(routes=[Gateway(handler=fill)], session_config=RavynSessionConfig(secret_key=key, **options))
    return sent_back(RavynTestClient(app).get("/").headers["set-cookie"])


def flask_cookie(key, data, interface=None, **config):
    app = flask.Flask("old")
    app.secret_key = key
    app.config.update(config)
    if interface is not None:
        app.session_interface = interface

    @app.get("/")
    def fill():
        flask.session.update(data)
        return ""

    return sent_back(app.test_client().get("/").headers["set-cookie"])


def django_cookie(key, data, **options):
    from django.contrib.sessions.middleware import SessionMiddleware as DjangoMiddleware
    from django.test.utils import override_settings

    def fill(request):
        request.session.update(data)
        return HttpResponse()

    with override_settings(SECRET_KEY=key, **options):
        response = DjangoMiddleware(fill)(HttpRequest())
        return sent_back(response.cookies[settings.SESSION_COOKIE_NAME].OutputString())


@dataclasses.dataclass(frozen=True)
class Signed:
    cookie: object  # makes one
    reader: object
    max_age: int  # seconds
    separator: bytes = b"."
    format: str = "itsdangerous, unsalted"  # readers of one format take each other's cookies


SIGNED = {
    "Starlette": Signed(starlette_cookie, StarletteCookie, 14 * DAY),
    "Lilya": Signed(lilya_cookie, LilyaCookie, 14 * DAY),
    "Ravyn": Signed(ravyn_cookie, RavynCookie, 180 * DAY),
    "Flask": Signed(flask_cookie, FlaskCookie, 31 * DAY, format="Flask"),
    "Django": Signed(django_cookie, DjangoCookie, 14 * DAY, b":", format="Django"),
}


by_library = pytest.mark.parametrize("library", SIGNED.values(), ids=SIGNED.keys())


def nested_lists(levels):
    return b'{"a":' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"


@contextlib.asynccontextmanager
async def connected(url, **options):
    async with redis.asyncio.Redis.from_url(url, **options) as client:
        await client.flushdb()
        yield client


async def starsessions_cookie(store, data, **options):
    async def fill(request):
        await starsessions.load_session(request)
        request.session.update(data)
        return PlainTextResponse("")

    app = starsessions.SessionMiddleware(Starlette(routes=[Route("/", fill)]), store, **options)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="https://test") as client:
        return sent_back((await client.get("/")).headers["set-cookie"])


async def litestar_cookie(store, data, **options):
    @litestar_get("/")
    async def fill(request: LitestarRequest) -> None:
        request.session.update(data)

    config = ServerSideSessionConfig(**options)
    app = Litestar([fill], middleware=[config.middleware], stores={"sessions": store}, openapi_config=None)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="https://test") as client:
        return sent_back((await client.get("/")).headers["set-cookie"])
