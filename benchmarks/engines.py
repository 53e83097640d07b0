"""Sessions over real engines, under more and more load: `python -m benchmarks.engines`.

Each subject is served by a uvicorn process of its own and keeps its sessions in the same Redis or PostgreSQL server,
started here. wrk makes the load, each connection with sessions of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks import wrk
from benchmarks.counting import CountingProxy, Engine, PostgresEngine, RedisEngine, usual
from benchmarks.report import Report, progress, run, table
from benchmarks.scenarios import SMALL, ProofFailed, json_size
from benchmarks.serving import Client, Served
from tests.servers.postgres import PostgresServer
from tests.servers.redis import RedisServer

_PAGES = ("read", "write")
_CONNECTIONS = (1, 64, 512)
_SECONDS = (1, 1, 3)  # for each: the slowest subject answers 512 requests in two seconds, and wrk has to see the end
_SPARE = 2  # sessions a connection: in a closed loop no two requests of one session run at once, or nearly never
_COUNTED = 100  # requests of which commands and round trips are counted
_AHEAD = 1.05  # a peer is ahead where it is more than noise

_METHOD = """\
Each subject is one uvicorn process (one worker, uvloop, httptools, no access log) with the same raw ASGI app behind
its session middleware. Django is its own ASGI handler with asynchronous views. All stand ready at once, idle but for
the one that is measured. The load comes from wrk (one thread, keep-alive) on the same machine, for {seconds} at
{levels} connections. There are {rounds} rounds, in rotated order. The figures are medians. Each connection has a
session of its own, of {size} bytes as JSON, logged in before. With more than one connection, wrk goes round {spare}
sessions for each. A write sets one key to a number never used before. It was warmed up first, and every subject
first proved its work: what was written is read on the next request. Both p50 and p99 are wrk's, in ms, of a closed
loop. At 512 connections they say how long the queue is.

Commands are what reaches the server, without those that a script runs inside it. Round trips are counted by a proxy,
over {counted} requests on one connection. Under load it is reads of sockets (Redis, `total_reads_processed`) or
statements (PostgreSQL, `pg_stat_statements`) by requests that the app began.

Redis keeps no files. PostgreSQL waits for the disk on every commit. It has its defaults but for
`pg_stat_statements`, `shared_buffers` of 32 MB and `max_connections` of 60. Roomkey and the peers have theirs, with
two exceptions, both in the peers' favour. Django's database has a pool of 10 connections, as Roomkey's store has:
without it, each request connects anew. And redis-py's pool may grow to 1,000. With its usual 100 it raises, and at
512 connections starsessions and Litestar answer most requests with 500. Litestar's middleware runs without its
router. `no session` and `Django, no session` are the same servers without any session: what of a figure is not the
session's."""


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
    kind: str  # what `served` calls it
    packages: tuple[str, ...]
    pages: tuple[str, ...] = _PAGES
    port: int = 0
    cookies: list[str] = field(default_factory=list)
    commands: dict[str, str] = field(default_factory=dict)  # by page, of one request
    turns: dict[str, float] = field(default_factory=dict)  # by page, of one request
    figures: dict[tuple[str, int], Figures] = field(default_factory=dict)  # by page and connections


Found = list[tuple[Engine, list[Subject]]]


def measure(quick: bool) -> Report:
    """Measure everything, and return the report."""
    wrk.require()
    rounds = 1 if quick else 3
    with _engines() as found:
        asyncio.run(_measure_all(found, rounds))
    method = _METHOD.format(
        seconds=", ".join(f"{seconds} s" for seconds in _SECONDS),
        levels=", ".join(map(str, _CONNECTIONS)),
        rounds=rounds,
        counted=_COUNTED,
        spare=_SPARE,
        size=json_size(SMALL),
    )
    subjects = [subject for _, some in found for subject in some]
    return Report(
        name="engines",
        title="Over Redis and PostgreSQL, under load",
        method=method,
        sections=_sections(found),
        figures={"unit": "requests a second, milliseconds", "subjects": _figures(found)},
        packages={package for subject in subjects for package in subject.packages},
        programs={"wrk": wrk.version(), **{engine.title: engine.version for engine, _ in found}},
    )


@contextlib.contextmanager
def _engines() -> Iterator[Found]:
    settings = {"shared_preload_libraries": "pg_stat_statements"}
    with RedisServer() as redis, PostgresServer(fsync=True, settings=settings) as postgres:
        over_redis = [
            Subject("Roomkey", "roomkey", ("roomkey", "redis", "hiredis", "uvloop")),
            Subject("starsessions", "starsessions", ("starsessions",)),
            Subject("Litestar", "litestar", ("litestar",)),
            Subject("Django, cache", "django-cache", ("django",)),
            Subject("no session", "bare", ("uvicorn", "httptools"), pages=("read",)),
            Subject("Django, no session", "django-bare", ("django",), pages=("read",)),
        ]
        over_postgres = [
            Subject("Roomkey", "roomkey", ("roomkey", "asyncpg")),
            Subject("Django, database", "django-db", ("django", "psycopg", "psycopg-pool")),
        ]
        yield [(RedisEngine(redis.url), over_redis), (PostgresEngine(postgres.url), over_postgres)]


# --- one engine -------------------------------------------------------------------------------------------------------


async def _measure_all(found: Found, rounds: int) -> None:
    for engine, subjects in found:
        for subject in subjects:
            if subject.pages == _PAGES:
                progress(f"{engine.title}: counting {subject.name}'s commands")
                await _count(engine, subject)
        with contextlib.ExitStack() as stack:
            for subject in subjects:
                progress(f"{engine.title}: {subject.name} makes its sessions")
                subject.port = stack.enter_context(Served(subject.kind, engine.url)).port
                await _log_in(subject)
                await _prove(subject)
                for page in subject.pages:
                    await wrk.load_in_turn(subject.port, page, subject.cookies[: 64 * _SPARE], 64, 1)
            await _load_all(engine, subjects, rounds)


async def _load_all(engine: Engine, subjects: list[Subject], rounds: int) -> None:
    plan = [(page, *level) for page in _PAGES for level in zip(_CONNECTIONS, _SECONDS, strict=True)]
    for number in range(rounds):
        for page, connections, seconds in plan:
            progress(f"{engine.title}: {page}, {connections} connections: round {number + 1} of {rounds}")
            start = number % len(subjects)
            for subject in subjects[start:] + subjects[:start]:
                if page in subject.pages:
                    await _load(engine, subject, page, connections, seconds)


async def _load(engine: Engine, subject: Subject, page: str, connections: int, seconds: int) -> None:
    cookies = subject.cookies[: 1 if connections == 1 else connections * _SPARE]
    served, units = await _settled(subject), await engine.counter()
    loaded = await wrk.load_in_turn(subject.port, page, cookies, connections, seconds)
    # wrk leaves requests behind that it did not wait for: the app says how many it served.
    served = await _settled(subject) - served
    units = await engine.counter() - units
    figures = subject.figures.setdefault((page, connections), Figures())
    figures.rates.append(loaded.rate)
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
    number = max(_CONNECTIONS) * _SPARE
    if subject.pages != _PAGES:
        subject.cookies = ["x" * 80] * number  # only a header of the same kind
        return
    users = iter(range(number))

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


async def _count(engine: Engine, subject: Subject) -> None:
    """Count the commands and the round trips of one request, for each page."""
    async with CountingProxy(engine.url) as proxy:
        served = Served(subject.kind, proxy.url)
        await asyncio.to_thread(served.__enter__)  # it connects through the proxy, which runs here
        try:
            client = Client(served.port)
            cookie = (await client.get("/login?user=1")).cookie
            for page in subject.pages:
                for _ in range(_COUNTED // 4):  # statements are prepared, scripts are known, connections are there
                    await client.get(f"/{page}", cookie)
                await asyncio.sleep(0.1)
                async with engine.commands() as found:
                    before = proxy.turns
                    for _ in range(_COUNTED):
                        await client.get(f"/{page}", cookie)
                    subject.turns[page] = (proxy.turns - before) / _COUNTED
                subject.commands[page] = usual(found, _COUNTED)
            client.close()
        finally:
            await asyncio.to_thread(served.__exit__)


# --- the report -------------------------------------------------------------------------------------------------------


def _sections(found: Found) -> list[tuple[str, str]]:
    sections = []
    for engine, subjects in found:
        sections.append((f"{engine.title}: one request, one connection", _table_of_commands(subjects)))
        for page in _PAGES:
            some = [subject for subject in subjects if page in subject.pages]
            tables = f"{_table_of_rates(some, page)}\n\n{_table_of_trips(engine, some, page)}"
            sections.append((f"{engine.title}: {page} a key", tables))
    return [*sections, ("Where a peer is ahead of Roomkey", _behind(found))]


def _table_of_commands(subjects: list[Subject]) -> str:
    head = ["", *(f"{page}: {what}" for page in _PAGES for what in ("commands", "round trips"))]
    rows = []
    for subject in subjects:
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


def _behind(found: Found) -> str:
    lines = []
    for engine, subjects in found:
        roomkey, *peers = [subject for subject in subjects if subject.pages == _PAGES]
        for (page, connections), ours in roomkey.figures.items():
            for peer in peers:
                rate = peer.figures[page, connections].rate
                if rate > ours.rate * _AHEAD:
                    what = f"{engine.title}, {page}, {connections} connection(s)"
                    lines.append(f"- {what}: {peer.name} {rate:,.0f}/s, Roomkey {ours.rate:,.0f}/s")
    return "\n".join(lines) or "Nowhere, by requests a second."


def _figures(found: Found) -> list[dict[str, Any]]:
    return [
        {
            "engine": engine.title,
            "name": subject.name,
            "commands": subject.commands,
            "round_trips": subject.turns,
            "figures": [
                {"page": page, "connections": connections, **asdict(figures)}
                for (page, connections), figures in subject.figures.items()
            ],
        }
        for engine, subjects in found
        for subject in subjects
    ]


if __name__ == "__main__":
    run("benchmarks.engines", measure, "Sessions over Redis and PostgreSQL, under load from wrk.")
