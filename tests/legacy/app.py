"""An app with Roomkey that old sessions move into, its browsers, and a reader that an app wrote."""

import asyncio
import json

from roomkey import SessionMiddleware
from roomkey.legacy import LegacySession
from roomkey.stores.memory import MemoryStore
from roomkey.testing import Clock
from tests.legacy.cookies import SECRET


class OwnReader:
    """A reader that an app wrote: of one cookie, whose value is the user."""

    def __init__(self, name="own", data=None, error=None):
        self.cookie_name, self.path, self.domain = name, "/app", "example.com"
        self.data, self.error, self.forgotten = data, error, []

    async def read(self, value):
        if self.error is not None:
            raise self.error
        return None if value == b"no" else LegacySession(self.data or {"user_id": value.decode()})

    async def forget(self, value):
        if self.error is not None:
            raise self.error
        self.forgotten.append(value)


class _Refusal(Exception):
    def __init__(self):
        self.headers = {"Set-Cookie": "of=the app"}


_Refusal.__name__ = "HTTPException"


async def shop_app(scope, receive, send):
    """An app: the path says what it does with the session."""
    session, path = scope["session"], scope["path"]
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept" if path == "/accept" else "websocket.close"})
        return
    if path == "/log-out":
        session.clear()
    elif path == "/farewell":
        session.clear()
        session.flash("Good bye")
    elif path == "/leave":
        session.pop("user_id", None)
        session["cart"] = 1
    elif path == "/log-in":
        session["user_id"] = "new"
    elif path == "/count":
        session.change("n", lambda n: n + 1, default=0)
        await asyncio.sleep(0.01)
    elif path == "/raise":
        raise RuntimeError
    elif path == "/refuse":
        raise _Refusal
    body = json.dumps(dict(session) if path == "/read" else {}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


class Browser:
    """Sends the cookies that it was given, and does as `Set-Cookie` says."""

    def __init__(self, app, **cookies):
        self.app, self.cookies = app, cookies
        self.set_cookies = []

    async def visit(self, path, kind="http"):
        sent = "; ".join(f"{name}={value}" for name, value in self.cookies.items()).encode()
        scope = {"type": kind, "path": path, "headers": [(b"cookie", sent)] if sent else []}
        messages = []

        async def receive():
            return {"type": "websocket.connect"}

        async def send(message):
            messages.append(message)

        await self.app(scope, receive, send)
        self.set_cookies = [value.decode() for name, value in messages[0].get("headers", ()) if name == b"set-cookie"]
        for header in self.set_cookies:
            name, _, value = header.partition(";")[0].partition("=")
            self.cookies.pop(name, None)
            if "Max-Age=0" not in header:
                self.cookies[name] = value
        if kind == "websocket" or messages[0]["status"] != 200:
            return messages[0].get("status")
        return json.loads(messages[1]["body"])


def roomkey_with(*readers, **options):
    """Return a store and an app, whose clock stands still: an old cookie is served for ten seconds of it."""
    clock = Clock()
    store = MemoryStore(clock=clock)
    options = {"store": store, "clock": clock, "legacy": list(readers), **options}
    return store, SessionMiddleware(shop_app, secret_key=SECRET, **options)
