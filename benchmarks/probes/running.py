"""The servers of the probes: each app in a process of its own, with a Redis of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any, Self

import httpx
from redis import Redis

from tests.servers.parts import free_port
from tests.servers.redis import RedisServer

__all__ = ["PEERS", "Answer", "Peer", "Served"]

_PATIENCE = 120.0  # seconds after which what is waited for does not come any more
_UVICORN = ["uvicorn", "--no-access-log"]
_GUNICORN = ["gunicorn", "--worker-class", "gthread", "--threads", "40", "--timeout", "120"]


@dataclass(frozen=True)
class Peer:
    """One column of the table.

    Attributes:
        title: its heading.
        module: of `peers`, with its app.
        packages: whose versions the report names.
        server: the command that serves it.
        keeps: where the sessions are.
        has_cache: whether Redis is a cache before another store.
    """

    title: str
    module: str
    packages: tuple[str, ...]
    server: tuple[str, ...]
    keeps: str
    has_cache: bool = False


PEERS = [
    Peer("Roomkey", "roomkey", ("roomkey", "starlette", "redis", "uvicorn"), (*_UVICORN,), "Redis"),
    Peer("Starlette's own", "starlette", ("starlette", "uvicorn"), (*_UVICORN,), "the cookie"),
    Peer("starsessions", "starsessions", ("starsessions", "starlette", "redis", "uvicorn"), (*_UVICORN,), "Redis"),
    Peer("Litestar", "litestar", ("litestar", "redis", "uvicorn"), (*_UVICORN,), "Redis"),
    Peer("Flask's own", "flask", ("flask", "gunicorn"), (*_GUNICORN,), "the cookie"),
    Peer(
        "Flask-Session",
        "flask_session",
        ("flask-session", "flask", "redis", "msgspec", "gunicorn"),
        (*_GUNICORN,),
        "Redis",
    ),
    Peer(
        "Django, `cached_db`",
        "django",
        ("django", "redis", "gunicorn"),
        (*_GUNICORN,),
        "Redis before SQLite",
        has_cache=True,
    ),
]


@dataclass(frozen=True)
class Answer:
    """What came back. `card` is the value of the session cookie that it sets: None where it sets none."""

    status: int
    page: dict[str, Any]
    card: str | None


class Served:
    """One peer, served inside an `async with`."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.redis = RedisServer()
        self._folder = tempfile.TemporaryDirectory(prefix="probe-")
        self._port = free_port()

    async def __aenter__(self) -> Self:
        self.redis.__enter__()
        folder = Path(self._folder.name)
        environment = {**os.environ, "PROBE_REDIS": self.redis.url, "PROBE_FOLDER": str(folder), "HOME": str(folder)}
        program, *options = self.peer.server
        place = ["--port", str(self._port)] if program == "uvicorn" else ["--bind", f"127.0.0.1:{self._port}"]
        command = [sys.executable, "-m", program, f"benchmarks.probes.peers.{self.peer.module}:app", *place, *options]
        self._log = (folder / "log").open("w+b")
        self._process = subprocess.Popen(
            command, env=environment, stdout=self._log, stderr=self._log, start_new_session=True
        )
        # A server closes the connection of a request that failed, so each request has its own.
        limits = httpx.Limits(max_keepalive_connections=0)
        url = f"http://127.0.0.1:{self._port}"
        self._client = httpx.AsyncClient(base_url=url, limits=limits, timeout=_PATIENCE, trust_env=False)
        try:
            await self._ready()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()
        # With its workers, and at once: requests may wait for a store that does not answer.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._log.close()
        self.redis.__exit__(None, None, None)
        self._folder.cleanup()

    async def ask(self, path: str, card: str | None = None, timeout: float = _PATIENCE) -> Answer:
        """Return the answer to one request.

        Args:
            path: of the page.
            card: value of the session cookie; None: the request brings none.
            timeout: seconds until `httpx.TimeoutException`.
        """
        headers = {} if card is None else {"Cookie": f"session={card}"}
        answer = await self._client.get(path, headers=headers, timeout=timeout)
        self._client.cookies.clear()
        cookies = [SimpleCookie(line) for line in answer.headers.get_list("set-cookie")]
        values = [cookie["session"].value for cookie in cookies if "session" in cookie]
        is_json = answer.headers.get("content-type", "").startswith("application/json")
        return Answer(answer.status_code, answer.json() if is_json else {}, values[-1] if values else None)

    async def good(self, path: str, card: str | None = None) -> Answer:
        """Return the answer to a request that has to succeed."""
        answer = await self.ask(path, card)
        if answer.status != 200:
            raise RuntimeError(f"{self.peer.title} answers {path} with {answer.status}: {self.log}")
        return answer

    async def card(self, path: str, card: str | None = None) -> str:
        """Return the session cookie that the browser has after a request that has to succeed."""
        found = (await self.good(path, card)).card
        return found if found is not None else card or ""

    async def session(self, card: str) -> dict[str, Any]:
        """Return what a card opens."""
        found: dict[str, Any] = (await self.good("/show/-", card)).page["session"]
        return found

    async def hold(self, paths: list[str], card: str) -> list[asyncio.Task[Answer]]:
        """Begin slow requests, and return when all of them wait at the gate."""
        tasks = [asyncio.create_task(self.ask(path, card)) for path in paths]
        deadline = time.monotonic() + _PATIENCE
        while (await self.good("/waiting/-")).page["waiting"] < len(paths):
            if time.monotonic() > deadline or any(task.done() for task in tasks):
                raise RuntimeError(f"{self.peer.title} does not hold its slow requests: {self.log}")
            await asyncio.sleep(0.01)
        return tasks

    def empty_redis(self) -> None:
        """Let Redis forget everything, as a cache may at any time."""
        with Redis.from_url(self.redis.url) as client:
            client.flushall()

    @property
    def log(self) -> str:
        """The end of what the server has written."""
        return (Path(self._folder.name) / "log").read_text(errors="replace")[-3000:]

    async def _ready(self) -> None:
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                await self.good("/about/-")
                return
            except httpx.TransportError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{self.peer.title} did not start: {self.log}") from None
                await asyncio.sleep(0.05)
