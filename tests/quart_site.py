"""The Quart app of the tests that talk to a real server: the story's site, and a WebSocket."""

from quart import websocket

from roomkey.quart import session
from tests.sites.quart import app

__all__ = ["app"]


@app.websocket("/chat")
async def chat():
    session[await websocket.receive()] = 1
    await websocket.send(session["user_id"])
