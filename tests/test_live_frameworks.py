"""`live=True` on each framework beside Starlette, on real servers, and who refuses it."""

import asyncio
import contextlib
import socket

import aiohttp
import fastapi
import flask
import httpx
import litestar
import pytest
import quart
import uvicorn
from aiohttp import web
from fastapi.responses import StreamingResponse
from lilya.apps import Lilya
from lilya.middleware import DefineMiddleware
from lilya.requests import Request as LilyaRequest
from lilya.responses import StreamingResponse as LilyaStream
from lilya.routing import Path, WebSocketPath
from lilya.websockets import WebSocket as LilyaSocket
from lilya.websockets import WebSocketDisconnect
from litestar.response import ServerSentEvent
from ravyn import Gateway, Ravyn, WebSocketGateway
from ravyn import Request as RavynRequest
from ravyn import WebSocket as RavynSocket
from ravyn import get as ravyn_get
from ravyn import post as ravyn_post
from ravyn import websocket as ravyn_websocket

import roomkey.aiohttp
import roomkey.flask
import roomkey.lilya
import roomkey.quart
import roomkey.ravyn
from roomkey import ConfigurationError, SessionConfig, SessionMiddleware
from roomkey.litestar import RoomkeyPlugin
from tests.asgi import SECRET
from tests.loop_clock import until


@contextlib.asynccontextmanager
async def served_by_uvicorn(app):
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="on"))
    task = asyncio.get_running_loop().create_task(server.serve(sockets=[listening]))
    await until(lambda: server.started)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


@contextlib.asynccontextmanager
async def served_by_aiohttp(app):
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def on_quart():
    app = quart.Quart("live")
    app.secret_key = SECRET
    roomkey.quart.Roomkey(app, store="memory://", live=True)

    @app.post("/login")
    async def log_in():
        quart.session["user_id"] = 7
        return ""

    @app.post("/logout")
    async def log_out():
        quart.session.clear()
        return ""

    @app.websocket("/ws")
    async def talk():
        while True:
            await quart.websocket.send(await quart.websocket.receive())

    @app.get("/stream")
    async def stream():
        async def ticks():
            yield b"hello"
            await asyncio.Event().wait()

        return ticks()

    return served_by_uvicorn(app)


def on_aiohttp():
    async def log_in(request):
        request["session"]["user_id"] = 7
        return web.Response()

    async def log_out(request):
        request["session"].clear()
        return web.Response()

    async def talk(request):
        response = web.WebSocketResponse()
        await response.prepare(request)
        async for message in response:
            await response.send_str(message.data)
        return response

    async def stream(request):
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"hello")
        await asyncio.Event().wait()
        return response

    app = web.Application()
    roomkey.aiohttp.setup(app, secret_key=SECRET, store="memory://", live=True)
    app.router.add_post("/login", log_in)
    app.router.add_post("/logout", log_out)
    app.router.add_get("/ws", talk)
    app.router.add_get("/stream", stream)
    return served_by_aiohttp(app)


def on_litestar():
    @litestar.post("/login")
    async def log_in(request: litestar.Request) -> None:
        request.session["user_id"] = 7

    @litestar.post("/logout")
    async def log_out(request: litestar.Request) -> None:
        request.session.clear()

    @litestar.websocket("/ws")
    async def talk(socket: litestar.WebSocket) -> None:
        await socket.accept()
        while True:
            await socket.send_text(await socket.receive_text())

    @litestar.get("/stream", sync_to_thread=False)
    def stream() -> ServerSentEvent:
        async def ticks():
            yield "hello"
            await asyncio.Event().wait()

        return ServerSentEvent(ticks())

    plugin = RoomkeyPlugin(SessionConfig(secret_key=SECRET, store="memory://", live=True))
    return served_by_uvicorn(litestar.Litestar([log_in, log_out, talk, stream], plugins=[plugin]))


async def _ticks():
    yield b"hello"
    yield b""  # Lilya sends a chunk when it has the next one
    await asyncio.Event().wait()


async def _talk(socket):
    await socket.accept()
    while True:
        await socket.send_text(await socket.receive_text())


def on_fastapi():
    app = fastapi.FastAPI()
    app.add_middleware(SessionMiddleware, secret_key=SECRET, store="memory://", live=True)

    @app.post("/login")
    async def log_in(request: fastapi.Request) -> None:
        request.session["user_id"] = 7

    @app.post("/logout")
    async def log_out(request: fastapi.Request) -> None:
        request.session.clear()

    @app.websocket("/ws")
    async def talk(socket: fastapi.WebSocket) -> None:
        with contextlib.suppress(fastapi.WebSocketDisconnect):
            await _talk(socket)

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        return StreamingResponse(_ticks())

    return served_by_uvicorn(app)


def on_lilya():
    async def log_in(request: LilyaRequest) -> None:
        request.session["user_id"] = 7

    async def log_out(request: LilyaRequest) -> None:
        request.session.clear()

    async def talk(websocket: LilyaSocket) -> None:
        with contextlib.suppress(WebSocketDisconnect):
            await _talk(websocket)

    async def stream() -> LilyaStream:
        return LilyaStream(_ticks())

    options = {"secret_key": SECRET, "store": "memory://", "live": True}
    app = Lilya(
        routes=[
            Path("/login", log_in, methods=["POST"]),
            Path("/logout", log_out, methods=["POST"]),
            Path("/stream", stream),
            WebSocketPath("/ws", talk),
        ],
        middleware=[DefineMiddleware(roomkey.lilya.SessionMiddleware, **options)],
    )
    return served_by_uvicorn(app)


def on_ravyn():
    @ravyn_post("/login")
    async def log_in(request: RavynRequest) -> None:
        request.session["user_id"] = 7

    @ravyn_post("/logout")
    async def log_out(request: RavynRequest) -> None:
        request.session.clear()

    @ravyn_websocket("/ws")
    async def talk(socket: RavynSocket) -> None:
        with contextlib.suppress(WebSocketDisconnect):
            await _talk(socket)

    @ravyn_get("/stream")
    async def stream() -> LilyaStream:
        return LilyaStream(_ticks())

    app = Ravyn(
        routes=[*(Gateway(handler=handler) for handler in (log_in, log_out, stream)), WebSocketGateway(handler=talk)],
        session_config=roomkey.ravyn.SessionConfig(secret_key=SECRET, store="memory://", live=True),
        enable_openapi=False,
    )
    return served_by_uvicorn(app)


@pytest.mark.parametrize("serve", [on_quart, on_aiohttp, on_litestar, on_fastapi, on_lilya, on_ravyn])
async def test_a_log_out_ends_what_is_open(serve, patient):
    """A WebSocket is closed with 4401 and a stream ends, on each framework."""
    async with serve() as url, httpx.AsyncClient(base_url=url, trust_env=False, timeout=60) as client:
        card = (await client.post("/login")).cookies["session"]
        cookie = {"cookie": f"session={card}"}
        async with (
            aiohttp.ClientSession() as other,
            other.ws_connect(f"{url}/ws", headers=cookie) as talking,
            client.stream("GET", "/stream", headers=cookie) as stream,
        ):
            await talking.send_str("hello")
            assert (await talking.receive()).data == "hello"
            chunks = stream.aiter_bytes()
            assert b"hello" in await anext(chunks)
            await asyncio.sleep(0.5)
            assert (await other.post(f"{url}/logout", headers=cookie)).status < 300
            closed = await talking.receive()
            assert (closed.type, closed.data, closed.extra) == (aiohttp.WSMsgType.CLOSE, 4401, "session ended")
            assert [chunk async for chunk in chunks] == []


def test_flask_refuses_it():
    """On Flask nothing ends with its session, and the option is an error that says so."""
    app = flask.Flask("live")
    app.secret_key = SECRET
    with pytest.raises(ConfigurationError, match="live: a stream of Flask's runs in a thread"):
        roomkey.flask.Roomkey(app, store="memory://", live=True)
