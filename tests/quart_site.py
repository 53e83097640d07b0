"""The Quart app of the tests that talk to a real server."""

import os

from quart import Quart, websocket

from roomkey.quart import Roomkey, session
from tests.loop_clock import HANGS

__all__ = ["app"]

app = Quart(__name__)
app.config.from_mapping(SECRET_KEY="a secret that is long enough for every test here")
app.config.from_prefixed_env()
Roomkey(app, store_timeout=HANGS)


@app.get("/")
async def index():
    return dict(session)


@app.get("/pid")
async def pid():
    return str(os.getpid())


@app.get("/login/<user>")
async def log_in(user):
    session["user_id"] = user
    return ""


@app.get("/write/<key>")
async def write(key):
    session[key] = 1
    return str(session.change("n", lambda n: n + 1, default=0))


@app.get("/logout")
async def log_out():
    session.clear()
    return ""


@app.websocket("/chat")
async def chat():
    session[await websocket.receive()] = 1
    await websocket.send(session["user_id"])
