"""Sessions over real engines, side by side: `python -m benchmarks.engines`.

Each subject is served by a uvicorn process of its own and keeps its sessions in the same Redis or PostgreSQL server,
started here. wrk makes the load. Rounds are interleaved, as in `sessions.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self
from urllib.parse import urlsplit, urlunsplit

from benchmarks.driver import Answer, request_headers
from benchmarks.engine_app import SUBJECT, URL
from benchmarks.report import lines, machine, progress, table, versions
from tests.servers.postgres import PostgresServer
from tests.servers.redis import RedisServer, free_port

_PAGES = ("read", "write")
_CONNECTIONS = (1, 64, 512)
_SPARE = 2  # sessions a connection: in a closed loop no two requests of one session run at once, or nearly never
_COUNTED = 100  # requests of which commands and round trips are counted
_PATIENCE = 30.0  # seconds for a server to answer
_AHEAD = 1.05  # a peer is ahead where it is more than noise

_METHOD = """\
Each subject is one uvicorn process (one worker, asyncio's own loop, httptools, no access log) with the same raw ASGI
app behind its session middleware; Django is its own ASGI handler with asynchronous views. All stand ready at once,
idle but for the one that is measured. wrk (one thread, keep-alive) makes the load on the same machine, for {seconds}
at {levels} connections, in {rounds} round(s) in rotated order; the figures are medians. Each connection has a session
of its own, of {size} bytes as JSON, logged in before; with more than one connection, wrk goes round {spare} sessions
for each. A write sets one key to a number never used before. Warmed up first, and every subject first proved its
work: what was written is read on the next request. p50 and p99 are wrk's, in ms, of a closed loop: at 512 connections
they say how long the queue is.

Commands are what reaches the server, without those that a script runs inside it; round trips are the turns of each
connection, counted by a proxy, over {counted} requests on one connection. Under load it is reads of sockets (Redis,
`total_reads_processed`) or statements (PostgreSQL, `pg_stat_statements`) by requests that the app began.

Redis keeps no files. PostgreSQL waits for the disk on every commit; it has its defaults but for `pg_stat_statements`,
`shared_buffers` of 32 MB and `max_connections` of 60. Roomkey and the peers have theirs, with two exceptions, both in
the peers' favour: Django's database has a pool of 10 connections, as Roomkey's store has (without it, each request
connects anew), and redis-py's pool may grow to 1,000 (with its usual 100 it raises, and at 512 connections
starsessions and Litestar answer most requests with 500). Litestar's middleware runs without its router. `no session`
and `Django, no session` are the same servers without any session: what of a figure is not the session's."""


@dataclass(frozen=True)
class Run:
    """How much is measured."""

    rounds: int
    seconds: tuple[int, ...]  # of each figure in each round, by `_CONNECTIONS`: wrk takes whole ones


# The slowest subject answers 512 requests in two seconds: wrk has to see the end of them.
_FULL = Run(rounds=3, seconds=(1, 1, 3))
_QUICK = Run(rounds=1, seconds=(1, 1, 3))


@dataclass
class Figures:
    """What was found of one subject and page at one number of connections."""

    rates: list[float] = field(default_factory=list)  # requests a second, one a round
    p50: list[float] = field(default_factory=list)  # ms
    p99: list[float] = field(default_factory=list)  # ms
    trips: list[float] = field(default_factory=list)  # reads of sockets, or statements, a request
    errors: int = 0  # answers other than 2xx, and sockets that failed

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)


@dataclass
class Subject:
    """One row of the tables."""

    name: str
    kind: str  # what `engine_app` calls it
    packages: tuple[str, ...]
    pages: tuple[str, ...] = _PAGES
    port: int = 0
    cookies: list[str] = field(default_factory=list)
    commands: dict[str, str] = field(default_factory=dict)  # by page, of one request
    turns: dict[str, float] = field(default_factory=dict)  # by page, of one request
    figures: dict[tuple[str, int], Figures] = field(default_factory=dict)  # by page and connections


class ProofFailed(Exception):
    """A subject did not do what is asked of it: its figure would mean nothing."""


def main() -> None:
    """Measure, print the report, and write the figures where asked."""
    options = _parse()
    if shutil.which("wrk") is None:
        sys.exit("benchmarks.engines needs the load generator wrk: apt-get install wrk")
    run = _QUICK if options.quick else _FULL
    engines = asyncio.run(_measure_all(run))
    print(_report(engines, run))
    if options.json:
        options.json.write_text(json.dumps(_figures(engines, run), indent=2) + "\n", encoding="utf-8")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engines", description="Sessions over real engines.")
    parser.add_argument("--quick", action="store_true", help="one round instead of three; noisier")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the figures to FILE")
    return parser.parse_args()


# --- a client ---------------------------------------------------------------------------------------------------------


class Client:
    """One keep-alive connection to an app on this machine."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def get(self, target: str, cookie: str | None = None) -> Answer:
        """Return the answer to one request. Raises OSError or EOFError where the server does not answer."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        try:
            writer.write(_request(target, cookie))
            head = await reader.readuntil(b"\r\n\r\n")
            first, *lines = head[:-4].split(b"\r\n")
            pairs = [line.partition(b":") for line in lines]
            answer = Answer(int(first.split()[1]), [(name.lower(), value.strip()) for name, _, value in pairs])
            answer.body = await self._body(reader, dict(answer.headers))
        except BaseException:
            self.close()
            raise
        return answer

    def close(self) -> None:
        """Close the connection; `get` opens a new one."""
        streams, self._streams = self._streams, None
        if streams is not None:
            streams[1].transport.abort()

    async def _body(self, reader: asyncio.StreamReader, headers: dict[bytes, bytes]) -> bytes:
        if b"content-length" in headers:
            return await reader.readexactly(int(headers[b"content-length"]))
        body = b""
        while size := int(await reader.readline(), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readexactly(2)
        return body


def _request(target: str, cookie: str | None) -> bytes:
    headers = b"".join(b"%s: %s\r\n" % pair for pair in request_headers(cookie))
    return b"GET %s HTTP/1.1\r\n%s\r\n" % (target.encode(), headers)


# --- the app under test -----------------------------------------------------------------------------------------------


class Served:
    """uvicorn with one subject, alive in its `with` block.

    Args:
        kind: the subject, as `engine_app` calls it.
        url: of the engine; empty for none.
        **environment: more for the process.
    """

    def __init__(self, kind: str, url: str, **environment: str) -> None:
        self.port = free_port()
        self._environment = {**os.environ, SUBJECT: kind, URL: url, **environment}
        self._process: subprocess.Popen[bytes] | None = None
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """What the process has written so far."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def __enter__(self) -> Self:
        app = [sys.executable, "-m", "benchmarks.engine_app"]
        subprocess.run(app, check=True, env=self._environment)
        arguments = [sys.executable, "-m", "uvicorn", "--factory", "benchmarks.engine_app:make_app"]
        arguments += ["--port", str(self.port), "--loop", "asyncio", "--http", "httptools", "--workers", "1"]
        arguments += ["--interface", "asgi3", "--no-access-log", "--log-level", "warning"]
        arguments += ["--timeout-keep-alive", "120"]
        self._process = subprocess.Popen(
            arguments, env=self._environment, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log
        )
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return self
            except OSError:
                if self._process.poll() is None and time.monotonic() < deadline:
                    time.sleep(0.02)
                    continue
                said = self.log[-4000:]
                self.__exit__()
                raise RuntimeError(f"uvicorn did not start: {said}") from None

    def __exit__(self, *_: object) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._log.close()


# --- the engines ------------------------------------------------------------------------------------------------------


class Engine(Protocol):
    """A server with the subjects that keep sessions in it."""

    title: str
    unit: str  # what is counted under load
    url: str
    version: str
    subjects: list[Subject]

    async def counter(self) -> int:
        """Return how many units there were since the server started, its own for this question left out."""
        ...

    def commands(self) -> contextlib.AbstractAsyncContextManager[Counter[str]]:
        """Fill the counter with the commands that reach the server during the block."""
        ...


class RedisEngine:
    """Redis, with its subjects."""

    title = "Redis"
    unit = "reads of sockets"

    def __init__(self, server: RedisServer) -> None:
        from redis import Redis

        self.url = server.url
        self._client = Redis.from_url(server.url)
        self._asked = 0
        self.version = f"Redis {self._client.info('server')['redis_version']}"
        self.subjects = [
            Subject("Roomkey", "roomkey", ("roomkey", "redis", "hiredis")),
            Subject("starsessions", "starsessions", ("starsessions",)),
            Subject("Litestar", "litestar", ("litestar",)),
            Subject("Django, cache", "django-cache", ("django",)),
            *_yardsticks(),
        ]

    async def counter(self) -> int:
        self._asked += 1
        return int(self._client.info("stats")["total_reads_processed"]) - self._asked

    @contextlib.asynccontextmanager
    async def commands(self) -> AsyncIterator[Counter[str]]:
        port = urlsplit(self.url).port
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        found: Counter[str] = Counter()
        writer.write(b"MONITOR\r\n")
        await reader.readline()
        try:
            yield found
            self._client.ping()  # the mark of the end
            while (line := (await reader.readline()).decode(errors="replace")) and '"PING"' not in line:
                if " lua] " not in line:  # a script's own commands are no round trips
                    found[line.split('"')[1].upper()] += 1
        finally:
            writer.close()


class PostgresEngine:
    """PostgreSQL, with its subjects."""

    title = "PostgreSQL"
    unit = "statements"

    def __init__(self, server: PostgresServer) -> None:
        import psycopg

        self.url = server.url
        self._connection = psycopg.connect(server.url, autocommit=True)
        self._connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
        self.version = f"PostgreSQL {self._connection.info.server_version // 10000}"
        self.subjects = [
            Subject("Roomkey", "roomkey", ("roomkey", "asyncpg")),
            Subject("Django, database", "django-db", ("django", "psycopg", "psycopg-pool")),
        ]

    async def counter(self) -> int:
        return sum(self._calls().values())

    @contextlib.asynccontextmanager
    async def commands(self) -> AsyncIterator[Counter[str]]:
        found: Counter[str] = Counter()
        before = self._calls()
        yield found
        found.update(self._calls() - before)

    def _calls(self) -> Counter[str]:
        """Return how often statements ran that begin with the same word, without our own."""
        rows = self._connection.execute("SELECT query, calls FROM pg_stat_statements").fetchall()
        found: Counter[str] = Counter()
        for query, calls in rows:
            if "pg_stat_statements" not in query:
                found[query.split(None, 1)[0].upper()] += calls
        return found


def _yardsticks() -> list[Subject]:
    bare = Subject("no session", "bare", ("uvicorn", "httptools"), pages=("read",))
    return [bare, Subject("Django, no session", "django-bare", ("django",), pages=("read",))]


@contextlib.contextmanager
def _engines() -> Iterator[list[Engine]]:
    settings = {"shared_preload_libraries": "pg_stat_statements"}
    with RedisServer() as redis, PostgresServer(fsync=True, settings=settings) as postgres:
        yield [RedisEngine(redis), PostgresEngine(postgres)]


# --- commands and round trips -----------------------------------------------------------------------------------------


class _CountingProxy:
    """Passes bytes on to a port of this machine, and counts how often a side that had listened asks again."""

    def __init__(self, target: int) -> None:
        self.turns = 0
        self.port = 0
        self._target = target
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._target)
        listening = True

        async def ask() -> None:
            nonlocal listening
            with contextlib.suppress(OSError):  # some clients reset the connection
                while piece := await reader.read(65536):
                    self.turns += listening
                    listening = False
                    there_writer.write(piece)
            there_writer.close()

        async def answer() -> None:
            nonlocal listening
            with contextlib.suppress(OSError):
                while piece := await there_reader.read(65536):
                    listening = True
                    writer.write(piece)
            writer.close()

        for half in (ask, answer):
            task = asyncio.create_task(half())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)


async def _count(engine: Engine, subject: Subject) -> None:
    parts = urlsplit(engine.url)
    assert parts.port is not None
    async with _CountingProxy(parts.port) as proxy:
        url = urlunsplit(parts._replace(netloc=parts.netloc.replace(f":{parts.port}", f":{proxy.port}")))
        served = Served(subject.kind, url)
        await asyncio.to_thread(served.__enter__)  # it connects through the proxy, which runs here
        try:
            client = Client(served.port)
            cookie = (await client.get("/login?user=1")).cookie
            for page in subject.pages:
                await _count_page(engine, subject, page, proxy, client, cookie)
            client.close()
        finally:
            await asyncio.to_thread(served.__exit__)


async def _count_page(
    engine: Engine, subject: Subject, page: str, proxy: _CountingProxy, client: Client, cookie: str | None
) -> None:
    for _ in range(_COUNTED // 4):  # statements are prepared, scripts are known, connections are there
        await client.get(f"/{page}", cookie)
    await asyncio.sleep(0.1)
    async with engine.commands() as found:
        before = proxy.turns
        for _ in range(_COUNTED):
            await client.get(f"/{page}", cookie)
        subject.turns[page] = (proxy.turns - before) / _COUNTED
    usual = [(name, number / _COUNTED) for name, number in found.most_common() if number >= _COUNTED / 10]
    subject.commands[page] = " + ".join(f"{number:.3g} {name}" for name, number in usual) or "none"


# --- the load ---------------------------------------------------------------------------------------------------------

_LUA = """\
local requests, at = {}, 0
function init(args)
  for line in io.lines(args[1]) do
    requests[#requests + 1] = (line:gsub("|", "\\r\\n"))
  end
end
function request()
  at = at % #requests + 1
  return requests[at]
end
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("FOUND %d %d %d %d %d\\n", summary.requests, summary.duration, latency:percentile(50),
    latency:percentile(99), e.connect + e.read + e.write + e.status + e.timeout))
end
"""


@dataclass(frozen=True)
class _Loaded:
    """What wrk found: requests, span and percentiles in microseconds, errors."""

    requests: int
    duration: int
    p50: int
    p99: int
    errors: int


async def _load(port: int, page: str, cookies: list[str], connections: int, seconds: int) -> _Loaded:
    """Let wrk ask for a page with these cookies in turn."""
    with tempfile.TemporaryDirectory() as folder:
        script, requests = Path(folder, "load.lua"), Path(folder, "requests")
        script.write_text(_LUA, encoding="utf-8")
        lines = [_request(f"/{page}", cookie).decode("latin-1").replace("\r\n", "|") for cookie in cookies]
        requests.write_text("\n".join(lines) + "\n", encoding="latin-1")
        arguments = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s", "-s", str(script)]
        arguments += [f"http://127.0.0.1:{port}/", "--", str(requests)]
        process = await asyncio.create_subprocess_exec(*arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        said = (await process.communicate())[0].decode(errors="replace")
    found = re.search(r"^FOUND (\d+) (\d+) (\d+) (\d+) (\d+)$", said, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"wrk did not end well: {said}")
    return _Loaded(*(int(number) for number in found.groups()))


async def _measure(engine: Engine, subject: Subject, page: str, connections: int, seconds: int) -> None:
    cookies = subject.cookies[: 1 if connections == 1 else connections * _SPARE]
    served, units = await _settled(subject), await engine.counter()
    loaded = await _load(subject.port, page, cookies, connections, seconds)
    # wrk leaves requests behind that it did not wait for: the app says how many it served.
    served = await _settled(subject) - served
    units = await engine.counter() - units
    figures = subject.figures.setdefault((page, connections), Figures())
    figures.rates.append(loaded.requests / loaded.duration * 1e6)
    figures.p50.append(loaded.p50 / 1000)
    figures.p99.append(loaded.p99 / 1000)
    figures.trips.append(units / served)
    figures.errors += loaded.errors


async def _settled(subject: Subject) -> int:
    """Wait until the app has nothing left to do, and return how many requests it has served."""
    client = Client(subject.port)
    before = -1
    while True:
        answer = await client.get("/stats")
        if answer.status != 200:
            raise ProofFailed(f"{subject.name}: /stats: {answer.status} {answer.body[-2000:]!r}")
        served = int(json.loads(answer.body)["served"])
        if served == before:
            client.close()
            return served
        before = served
        await asyncio.sleep(0.05)


async def _log_in(subject: Subject) -> None:
    """Make the sessions, a few at a time."""
    if subject.pages != _PAGES:
        subject.cookies = ["x" * 76] * (max(_CONNECTIONS) * _SPARE)  # only a header of the same kind
        return
    users = iter(range(max(_CONNECTIONS) * _SPARE))

    async def some() -> None:
        client = Client(subject.port)
        for user in users:
            cookie = (await client.get(f"/login?user={user}")).cookie
            if cookie is None:
                raise ProofFailed(f"{subject.name}: no cookie after the log-in")
            subject.cookies.append(cookie)
        client.close()

    await asyncio.gather(*(some() for _ in range(8)))


async def _prove(subject: Subject) -> None:
    """Raises ProofFailed: what was put into the session is not what comes out."""
    client = Client(subject.port)
    cookie = subject.cookies[0]
    read = await client.get("/read", cookie)
    if (read.status, read.body) != (200, b"dark"):
        raise ProofFailed(f"{subject.name}: read: {read.status} {read.body!r}")
    if "write" in subject.pages:
        written = await client.get("/write", cookie)
        shown = await client.get("/show", cookie)
        other = await client.get("/show", subject.cookies[1])
        if written.status != 200 or json.loads(shown.body)["views"] != int(written.body):
            raise ProofFailed(f"{subject.name}: write: {written.body!r}, then {shown.body!r}")
        if json.loads(other.body)["user_id"] == json.loads(shown.body)["user_id"]:
            raise ProofFailed(f"{subject.name}: two log-ins share a session")
    client.close()


# --- one run ----------------------------------------------------------------------------------------------------------


async def _measure_all(run: Run) -> list[Engine]:
    with _engines() as engines:
        for engine in engines:
            await _measure_engine(engine, run)
    progress("")
    return engines


async def _measure_engine(engine: Engine, run: Run) -> None:
    for subject in engine.subjects:
        if subject.pages == _PAGES:
            progress(f"{engine.title}: counting {subject.name}'s commands")
            await _count(engine, subject)
    with contextlib.ExitStack() as stack:
        for subject in engine.subjects:
            progress(f"{engine.title}: {subject.name} makes its sessions")
            subject.port = stack.enter_context(Served(subject.kind, engine.url)).port
            await _log_in(subject)
            await _prove(subject)
            for page in subject.pages:
                await _load(subject.port, page, subject.cookies[: 64 * _SPARE], 64, 1)
        plan = [(page, *level) for page in _PAGES for level in zip(_CONNECTIONS, run.seconds, strict=True)]
        for number in range(run.rounds):
            for page, connections, seconds in plan:
                progress(f"{engine.title}: {page}, {connections} connections: round {number + 1} of {run.rounds}")
                start = number % len(engine.subjects)
                for subject in engine.subjects[start:] + engine.subjects[:start]:
                    if page in subject.pages:
                        await _measure(engine, subject, page, connections, seconds)


# --- the report -------------------------------------------------------------------------------------------------------


def _report(engines: list[Engine], run: Run) -> str:
    from benchmarks.scenarios import SMALL

    parts = []
    for engine in engines:
        parts += [f"## {engine.title}: one request, one connection", _table_of_commands(engine)]
        for page in _PAGES:
            subjects = [subject for subject in engine.subjects if page in subject.pages]
            parts.append(f"## {engine.title}: {page} a key")
            parts.append(_table_of_rates(subjects, page))
            parts.append(_table_of_trips(engine, subjects, page))
    method = _METHOD.format(
        seconds=", ".join(f"{seconds} s" for seconds in run.seconds),
        levels=", ".join(map(str, _CONNECTIONS)),
        rounds=run.rounds,
        counted=_COUNTED,
        spare=_SPARE,
        size=len(json.dumps(SMALL)),
    )
    parts += ["## Where a peer is ahead of Roomkey", _behind(engines), "## Method", method]
    return "\n\n".join([*parts, "## Machine and versions", lines({**machine(), **_versions(engines)})])


def _table_of_commands(engine: Engine) -> str:
    head = ["", *(f"{page}: {what}" for page in _PAGES for what in ("commands", "round trips"))]
    rows = []
    for subject in engine.subjects:
        if subject.pages == _PAGES:
            cells = [(subject.commands[page], f"{subject.turns[page]:.3g}") for page in _PAGES]
            rows.append([subject.name, *(cell for pair in cells for cell in pair)])
    return table(head, rows)


def _table_of_rates(subjects: list[Subject], page: str) -> str:
    head = ["", *(f"requests/s at {number}" for number in _CONNECTIONS)]
    head += [f"p50 / p99 ms at {number}" for number in _CONNECTIONS]
    if any(subject.figures[page, number].errors for subject in subjects for number in _CONNECTIONS):
        head.append("errors")
    rows = []
    for subject in subjects:
        found = [subject.figures[page, number] for number in _CONNECTIONS]
        row = [subject.name, *(f"{figures.rate:,.0f}" for figures in found)]
        row += [f"{statistics.median(one.p50):.2f} / {statistics.median(one.p99):.2f}" for one in found]
        rows.append([*row, str(sum(figures.errors for figures in found))][: len(head)])
    return table(head, rows)


def _table_of_trips(engine: Engine, subjects: list[Subject], page: str) -> str:
    head = ["", *(f"{engine.unit} a request at {number}" for number in _CONNECTIONS)]
    rows = []
    for subject in subjects:
        if subject.pages == _PAGES:
            trips = [statistics.median(subject.figures[page, number].trips) for number in _CONNECTIONS]
            rows.append([subject.name, *(f"{one:.2f}" for one in trips)])
    return table(head, rows)


def _behind(engines: list[Engine]) -> str:
    lines = []
    for engine in engines:
        roomkey, *peers = [subject for subject in engine.subjects if subject.pages == _PAGES]
        for (page, connections), ours in roomkey.figures.items():
            for peer in peers:
                rate = peer.figures[page, connections].rate
                if rate > ours.rate * _AHEAD:
                    what = f"{engine.title}, {page}, {connections} connection(s)"
                    lines.append(f"- {what}: {peer.name} {rate:,.0f}/s, Roomkey {ours.rate:,.0f}/s")
    return "\n".join(lines) or "Nowhere, by requests a second."


def _versions(engines: list[Engine]) -> dict[str, str]:
    packages = {package for engine in engines for subject in engine.subjects for package in subject.packages}
    said = subprocess.run(["wrk", "-v"], capture_output=True, text=True).stdout.split("\n")[0]
    servers = {engine.title: engine.version for engine in engines}
    wrk = re.match(r"wrk (?:debian/)?(\S+)", said)
    return {"wrk": wrk[1] if wrk else said, **servers, **versions(packages)}


def _figures(engines: list[Engine], run: Run) -> dict[str, Any]:
    subjects = []
    for engine in engines:
        for subject in engine.subjects:
            figures = [
                {"page": page, "connections": connections, **asdict(found)}
                for (page, connections), found in subject.figures.items()
            ]
            one = {"engine": engine.title, "name": subject.name, "commands": subject.commands}
            subjects.append({**one, "round_trips": subject.turns, "figures": figures})
    return {
        "machine": {**machine(), "node": platform.system()},
        "versions": _versions(engines),
        "run": asdict(run),
        "unit": "requests a second, milliseconds",
        "subjects": subjects,
    }


if __name__ == "__main__":
    main()
