"""Raw ASGI by hand: no server, no framework, no test client."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

COOKIE = "session"  # every subject's cookie has this name

_FOUR_HEADERS: Headers = [
    (b"host", b"shop.example"),
    (b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
    (b"accept", b"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    (b"accept-encoding", b"gzip, deflate, br, zstd"),
]


@dataclass
class Answer:
    """What came back from one request."""

    status: int = 0
    headers: Headers = field(default_factory=list)
    body: bytes = b""

    @property
    def cookie(self) -> str | None:
        """The session cookie's value as a browser would send it back; None when the response sets none."""
        for name, value in self.headers:
            text = value.decode("latin-1")
            if name.lower() == b"set-cookie" and text.startswith(f"{COOKIE}="):
                return text.partition("=")[2].partition(";")[0]
        return None


def request_headers(cookie: str | None) -> Headers:
    """Return five raw headers, one of them the cookie; without a cookie, a language takes its place.

    The cookie's bytes are made anew each time, as a server makes them: nothing may be known of the object.
    """
    fifth = (b"accept-language", b"en") if cookie is None else (b"cookie", f"{COOKIE}={cookie}".encode("latin-1"))
    return [*_FOUR_HEADERS, fifth]


def make_scope(cookie: str | None, method: str = "GET") -> Scope:
    """Return a fresh scope, as a server makes it."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "server": ("127.0.0.1", 8000),
        "client": ("127.0.0.1", 50000),
        "scheme": "http",
        "method": method,
        "root_path": "",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "headers": request_headers(cookie),
        "state": {},
    }


async def receive() -> Message:
    """An empty request body."""
    return {"type": "http.request", "body": b"", "more_body": False}


async def drop(message: Message) -> None:
    """Take a message of a response and do nothing."""


async def respond(send: Send, body: bytes) -> None:
    """Send a small response. Its header list is fresh: some middleware appends to it."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": body})


async def ask(app: App, cookie: str | None = None) -> Answer:
    """Run one request and return the whole answer."""
    answer = Answer()

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            answer.status, answer.headers = message["status"], list(message["headers"])
        else:
            answer.body += message.get("body", b"")

    await app(make_scope(cookie), receive, send)
    return answer


async def microseconds(app: App, cookies: list[str | None]) -> float:
    """Run a request for each cookie, one after the other, and return what one took on average.

    The scopes are made before the clock starts, and each is let go before the next request, as under a server.
    The garbage collector starts clean and stays on: cycles that a middleware makes are part of its price. What was
    there before is frozen, so that it costs nobody anything here.
    """
    scopes = [make_scope(cookie) for cookie in cookies]
    gc.collect()
    gc.freeze()
    began = time.perf_counter()
    while scopes:
        await app(scopes.pop(), receive, drop)
    return (time.perf_counter() - began) / len(cookies) * 1e6


async def answer_lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    """Be the inner app of a lifespan: start and stop."""
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


@contextlib.asynccontextmanager
async def lifespan(app: App) -> AsyncIterator[None]:
    """Start the app before the block and stop it after, as a server does: its store is opened and closed."""
    asked: asyncio.Queue[Message] = asyncio.Queue()
    started = asyncio.Event()

    async def send(message: Message) -> None:
        if message["type"] == "lifespan.startup.failed":
            raise RuntimeError(message.get("message", "the app did not start"))
        started.set()

    asked.put_nowait({"type": "lifespan.startup"})
    scope: Scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
    running = asyncio.ensure_future(app(scope, asked.get, send))
    waiting = asyncio.ensure_future(started.wait())
    await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if running.done():
        await running  # raises what kept it from starting
    try:
        yield
    finally:
        asked.put_nowait({"type": "lifespan.shutdown"})
        await running
