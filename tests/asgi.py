"""Small apps behind the middleware, raw ASGI requests to them, and a store that fails when it is told to."""

import asyncio

from roomkey import SessionMiddleware
from roomkey.stores.memory import MemoryStore

SECRET = "a secret that is long enough for every test here"
HELLO = {"type": "http.response.body", "body": b"hello"}


class SpyStore(MemoryStore):
    """A memory store that writes down what was asked of it, and fails, waits or refuses to open when told."""

    def __init__(self, events=None, **options):
        super().__init__(**options)
        self.events = [] if events is None else events
        self.failing = set()
        self.slow = set()
        self.open_error = None

    async def _before(self, name):
        if name in self.failing:
            raise OSError("the disk is on fire, and the password is hunter2")
        if name in self.slow:
            await asyncio.sleep(30)

    async def load(self, key):
        self.events.append("load")
        await self._before("load")
        return await super().load(key)

    async def create(self, key, record):
        await self._before("create")
        await asyncio.sleep(0)
        await super().create(key, record)
        self.events.append("create")

    async def update(self, key, record, *, version):
        await self._before("update")
        await asyncio.sleep(0)
        await super().update(key, record, version=version)
        self.events.append("update")

    async def rotate(self, key, new_key, record, tombstone, *, version):
        await self._before("rotate")
        await super().rotate(key, new_key, record, tombstone, version=version)
        self.events.append("rotate")

    async def touch(self, key, expires_at):
        await self._before("touch")
        self.events.append("touch")
        return await super().touch(key, expires_at)

    async def delete(self, key):
        await self._before("delete")
        await super().delete(key)
        self.events.append("delete")

    async def open(self):
        if self.open_error is not None:
            raise self.open_error
        self.events.append("open")

    async def close(self):
        self.events.append("close")

    @property
    def rows(self):
        return len(self._records)


def http_scope(path="/", card=None, method="GET", name="session", **more):
    headers = [(b"host", b"testserver")]
    if card is not None:
        headers.append((b"cookie", name.encode() + b"=" + card))
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": headers,
        **more,
    }


def websocket_scope(path="/", card=None, **more):
    return http_scope(path, card, **{"type": "websocket", "subprotocols": [], **more})


async def never():
    await asyncio.Event().wait()


async def ask(app, scope, *, events=None, receive=never):
    """Send one request and return the messages that came back."""
    sent = []

    async def send(message):
        sent.append(message)
        if events is not None:
            events.append(message["type"])

    await app(scope, receive, send)
    return sent


def header(message, name):
    return [value for key, value in message["headers"] if key.lower() == name]


def cookie_in(message, name=b"session"):
    """The card that a response hands out, or None when it sets no cookie of that name."""
    for value in header(message, b"set-cookie"):
        if value.startswith(name + b"="):
            return value[len(name) + 1 :].split(b";")[0]
    return None


async def start(send, status=200, headers=()):
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})


def make(handler, **options):
    """The middleware around `handler(scope, send)`, which is followed by a 200 unless it sent something itself."""

    async def app(scope, receive, send):
        started = False

        async def noting(message):
            nonlocal started
            started = True
            await send(message)

        await handler(scope, noting)
        if not started:
            await start(send)
            await send(HELLO)

    options.setdefault("store", SpyStore())
    return SessionMiddleware(app, secret_key=SECRET, **options)


def pages(**options):
    """A small site: /login, /read (the body is the session), /touch nothing at all, /logout."""

    async def app(scope, receive, send):
        session, body = scope["session"], b"hello"
        if scope["path"] == "/login":
            session["user_id"] = 7
        elif scope["path"] == "/read":
            body = repr(session.copy()).encode()
        elif scope["path"] == "/same":
            session["user_id"] = session["user_id"]
        elif scope["path"] == "/logout":
            session.clear()
        await start(send)
        await send({"type": "http.response.body", "body": body})

    options.setdefault("store", SpyStore())
    return SessionMiddleware(app, secret_key=SECRET, **options)


async def log_in(app):
    sent = await ask(app, http_scope("/login"))
    card = cookie_in(sent[0])
    assert card
    return card
