"""A chat room on aiohttp: a page, a form to log in, a WebSocket, and a stream.

    pip install "roomkey[aiohttp]"
    python -m aiohttp.web --hostname 127.0.0.1 --port 8080 examples.aiohttp_app:create_app

It takes its settings from the environment: ROOMKEY_SECRET_KEY, ROOMKEY_STORE and the like.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

from aiohttp import WSMsgType, web

from roomkey import SessionConfig, session_of
from roomkey.aiohttp import MANAGER, setup

PAGE = """<!doctype html>
<title>Chat</title>
<p>{user} is here, on {devices} device(s), and has said {said} thing(s).</p>
<form method="post" action="/login"><input name="name" required> <button>Come in</button></form>
<form method="post" action="/logout"><button>Leave</button></form>
<form method="post" action="/logout-everywhere"><button>Leave everywhere</button></form>
<p><a href="/log">What was said</a></p>
<form id="say"><input id="word" autocomplete="off"> <button>Say</button></form>
<ul id="words"></ul>
<script>
const socket = new WebSocket(location.origin.replace("http", "ws") + "/chat");
socket.onmessage = (message) => {{
  document.getElementById("words").appendChild(document.createElement("li")).textContent = message.data;
}};
document.getElementById("say").onsubmit = (event) => {{
  event.preventDefault();
  socket.send(document.getElementById("word").value);
}};
</script>
"""

LOG = web.AppKey("log", list[str])
SOCKETS = web.AppKey("sockets", set[web.WebSocketResponse])

routes = web.RouteTableDef()


@routes.get("/")
async def index(request: web.Request) -> web.Response:
    session = session_of(request)
    user = session.get("user_id")
    devices = 0 if user is None else len(await session.sessions.of(user))
    page = PAGE.format(user=html.escape(user or "Nobody"), devices=devices, said=session.get("said", 0))
    return web.Response(text=page, content_type="text/html")


@routes.post("/login")
async def log_in(request: web.Request) -> web.Response:
    name = str((await request.post())["name"]).strip()
    if not name:  # a real app asks for a password here
        raise web.HTTPBadRequest(text="Who are you?")
    session_of(request)["user_id"] = name  # the session gets a new ID
    raise web.HTTPSeeOther("/")


@routes.post("/logout")
async def log_out(request: web.Request) -> web.Response:
    session_of(request).clear()
    raise web.HTTPSeeOther("/")


@routes.post("/logout-everywhere")
async def log_out_everywhere(request: web.Request) -> web.Response:
    user = session_of(request).get("user_id")
    if user is not None:
        await request.config_dict[MANAGER].sessions.revoke_all(user)
    raise web.HTTPSeeOther("/")


@routes.get("/chat")
async def chat(request: web.Request) -> web.WebSocketResponse:
    session = session_of(request)
    if "user_id" not in session:
        raise web.HTTPUnauthorized(text="Come in first.")
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    sockets = request.app[SOCKETS]
    sockets.add(socket)
    try:
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                session.change("said", lambda said: said + 1, default=0)
                await session.save()  # now, and not only when the socket is closed
                line = f"{session['user_id']}: {message.data}"
                request.app[LOG].append(line)
                for each in list(sockets):
                    await each.send_str(line)
    finally:
        sockets.discard(socket)
    return socket


@routes.get("/log")
async def log(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/plain; charset=utf-8"})
    session_of(request)["has_read"] = True  # before `prepare`: a new session needs a cookie
    await response.prepare(request)
    for line in request.app[LOG]:
        await response.write(f"{line}\n".encode())
    return response


async def close_sockets(app: web.Application) -> None:
    sockets = app[SOCKETS]
    for socket in list(sockets):
        await socket.close()


def create_app(_: Sequence[str] = ()) -> web.Application:
    """Make the app."""
    app = web.Application()
    app[LOG] = []
    app[SOCKETS] = set()
    setup(app, SessionConfig.from_env())
    app.add_routes(routes)
    app.on_shutdown.append(close_sockets)
    return app
