"""The aiohttp app of the tests, in process and on real servers."""

import os

from aiohttp import ClientSession, CookieJar, WSMsgType, web
from aiohttp.test_utils import TestClient, TestServer

from roomkey.aiohttp import setup
from tests.loop_clock import HANGS
from tests.manager.parts import SECRET

__all__ = ["add_routes", "another", "client_of", "cookie", "create_app", "get", "json", "make_app"]


def make_app(store="memory://", *, middlewares=(), **options):
    """Return an app, with its session manager."""
    app = web.Application(middlewares=middlewares)
    manager = setup(app, secret_key=SECRET, store=store, **{"store_timeout": HANGS, **options})
    add_routes(app)
    return app, manager


async def create_app():
    """Return the app of a worker process, for gunicorn."""
    return make_app(os.environ["ROOMKEY_TEST_STORE"])[0]


def add_routes(app):
    routes = web.RouteTableDef()

    @routes.get("/")
    async def index(request):
        return web.json_response(request["session"].copy())

    @routes.get("/nothing")
    async def nothing(request):
        return web.Response()

    @routes.get("/pid")
    async def pid(request):
        return web.Response(text=str(os.getpid()))

    @routes.get("/count")
    async def count(request):
        return web.Response(text=str(request["session"].change("n", lambda n: n + 1, default=0)))

    @routes.get("/login/{user}")
    async def log_in(request):
        request["session"]["user_id"] = request.match_info["user"]
        raise web.HTTPFound("/")

    @routes.get("/write/{key}")
    async def write(request):
        request["session"][request.match_info["key"]] = 1
        return await count(request)

    @routes.get("/logout")
    async def log_out(request):
        request["session"].clear()
        return web.Response()

    @routes.get("/fail")
    async def fail(request):
        request["session"]["failed"] = True
        raise ZeroDivisionError

    @routes.get("/stream")
    async def stream(request):
        response = web.StreamResponse()
        response.set_cookie("other", "1")
        request["session"]["began"] = True
        await response.prepare(request)
        await response.write(b"a")
        request["session"].change("streams", lambda n: n + 1, default=0)
        await response.write(b"b")
        return response

    @routes.get("/chat")
    async def chat(request):
        session = request["session"]
        socket = web.WebSocketResponse()
        session["chats"] = True
        await socket.prepare(request)
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                session[message.data] = 1
                await session.save()
                await socket.send_json(session.copy())
        session["left"] = True
        return socket

    app.add_routes(routes)


def client_of(app, card=None, **options):
    cookies = None if card is None else {"session": card}
    return TestClient(TestServer(app), cookies=cookies, **options)


def another(client, card=None):
    """Return another browser, for the app that a client's server runs."""
    cookies = None if card is None else {"session": card}
    return ClientSession(client.make_url("/"), cookies=cookies, cookie_jar=CookieJar(unsafe=True))


def cookie(client):
    return next((each.value for each in client.session.cookie_jar if each.key == "session"), None)


async def json(client, path="/"):
    async with client.get(path) as answer:
        return await answer.json()


async def get(client, path, **options):
    """Return a response that was read, without following redirects."""
    async with client.get(path, allow_redirects=False, **options) as answer:
        await answer.read()
        return answer
