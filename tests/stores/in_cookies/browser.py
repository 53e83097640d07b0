"""A browser that keeps cookies as browsers do, and an app whose sessions are in them."""

import asyncio
import random
import re

from roomkey import SessionMiddleware
from roomkey.stores.cookie import CookieStore
from roomkey.testing.clock import Clock
from tests.driver import driver_of

SECRET = "a secret that is long enough for every test here"
OLDER = "an older secret that is long enough for these tests"


class Jar:
    """What a browser does with Set-Cookie: keeps, replaces, forgets; refuses what is too large."""

    def __init__(self):
        self.cookies = {}

    def take(self, headers):
        """Take in a response's headers; return its Set-Cookie lines."""
        lines = [value.decode() for name, value in headers if name == b"set-cookie"]
        for line in lines:
            pair, _, attributes = line.partition("; ")
            name, _, value = pair.partition("=")
            assert len(name) + len(value) <= 4096 and len(line) <= 4096
            assert re.fullmatch(r"[0-9A-Za-z_\-]*", value)  # needs no quoting
            if "Max-Age=0;" in attributes:
                self.cookies.pop(name, None)
            else:
                self.cookies[name] = value
        return lines

    def header(self):
        return "; ".join(f"{name}={value}" for name, value in self.cookies.items()).encode()


class Browser:
    """Sends requests to one app; a request is a function that gets the session."""

    def __init__(self, clock=None, **options):
        self.clock = clock or Clock(1_700_000_000.0)
        options = {"secret_key": SECRET, "store": CookieStore(max_size=32768), "clock": self.clock, **options}
        self.app = SessionMiddleware(self._handle, **options)
        self.jar = Jar()
        self.lines = []  # the last response's Set-Cookie
        self.headers = {}

    async def _handle(self, scope, receive, send):
        self.result = self.todo(scope["session"])
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-app", b"1")]})
        await send({"type": "http.response.body", "body": b"hello"})

    def ask(self, todo=dict.copy, *, cookie=None):
        self.todo = todo
        header = self.jar.header() if cookie is None else cookie
        messages = run(self.app, scope_with(header))
        assert [message["type"] for message in messages] == ["http.response.start", "http.response.body"]
        self.headers = {name: value for name, value in messages[0]["headers"] if name != b"set-cookie"}
        self.lines = self.jar.take(messages[0]["headers"]) if cookie is None else None
        return self.result

    @property
    def refused(self):
        return dict(driver_of(self.app).refused)


def scope_with(cookie, kind="http", **more):
    headers = [(b"host", b"testserver")]
    if cookie:
        headers.append((b"cookie", cookie))
    return {"type": kind, "path": "/", "method": "GET", "headers": headers, "query_string": b"", **more}


def run(app, scope):
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        await asyncio.Event().wait()

    asyncio.run(app(scope, receive, send))
    return sent


def read(session):
    return session.copy()


def put(**values):
    return lambda session: session.update(values)


def large(size, seed=0):
    return random.Random(seed).randbytes(size)
