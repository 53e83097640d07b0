"""The app that `test_live_processes.py` and `benchmarks/live.py` run under several servers: all work on one store."""

import asyncio
import os
import resource

from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocketDisconnect

from roomkey import SessionManager, SessionMiddleware

manager = SessionManager(
    secret_key="the key of the processes under test, 32 bytes and more",
    store=os.environ.get("ROOMKEY_TEST_STORE", "memory://"),
    store_timeout=float(os.environ.get("ROOMKEY_TEST_TIMEOUT", "2")),
    live=os.environ.get("ROOMKEY_TEST_LIVE", "yes") == "yes",
)
opened = 0


async def log_in(request):
    request.session["user_id"] = request.path_params["user"]
    return JSONResponse({})


async def log_out(request):
    request.session.clear()
    return JSONResponse({})


async def revoke(request):
    return JSONResponse(await manager.sessions.revoke_all(request.path_params["user"]))


async def stream(request):
    async def ticks():
        yield b": hello\n\n"
        await asyncio.Event().wait()

    return StreamingResponse(ticks(), media_type="text/event-stream")


async def state(_):
    return JSONResponse({"open": opened, "kilobytes": resident(), "pid": os.getpid()})


def resident():
    """Return this process's memory in kilobytes."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() // 1024


async def talk(websocket):
    global opened
    await websocket.accept()
    opened += 1
    try:
        while True:
            await websocket.receive_text()
    except WebSocketDisconnect:
        pass
    finally:
        opened -= 1


app = Starlette(
    routes=[
        Route("/login/{user}", log_in, methods=["POST"]),
        Route("/logout", log_out, methods=["POST"]),
        Route("/revoke/{user}", revoke, methods=["POST"]),
        Route("/stream", stream),
        Route("/state", state),
        WebSocketRoute("/ws", talk),
    ],
)
app.add_middleware(SessionMiddleware, config=manager)
