"""Sessions behind a web server: `python -m benchmarks.over_http`.

Each subject is served by a uvicorn process of its own. wrk makes the load, over connections that share one session.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks import wrk
from benchmarks.counting import RedisEngine
from benchmarks.report import Report, Target, progress, row_of_targets, run, table
from benchmarks.scenarios import SMALL, ProofFailed, json_size
from benchmarks.serving import Client, Served
from benchmarks.subjects import MEMORY, REDIS, SQLITE, STARLETTE
from tests.servers.redis import RedisServer

_CONNECTIONS = 16
_PAGES = ("read", "write")
_NO_SESSION, _PEER = "no session", "starsessions, Redis"
_TARGETS = {MEMORY: (1.6, 1.4), SQLITE: (1.2, 0.7), REDIS: (0.8, 0.6)}  # multiples of Starlette's rate, by page

_METHOD = """\
Each subject is one uvicorn process (one worker, uvloop, httptools, no access log) with the same raw ASGI app behind
its session middleware. All stand ready at once, idle but for the one that is measured. The load comes from wrk (one
thread, {connections} connections, kept alive) on the same machine. There are {rounds} rounds of one second for each
page and subject, in rotated order. All connections share one session of {size} bytes as JSON, logged in before. A
write sets one key to a number never used before. A multiple is that of the same round, and the figures are medians of
the rounds. Every subject is warmed up first and has proved its work: what was written is read on the next request.
"CPU" is what the subject's process computed, its threads and the kernel's work for it included: a busy machine
disturbs it less than the rates.

Starlette keeps the session in the cookie, and wrk sends the same cookie all the time. SQLite's file is in a temporary
folder. The Redis server runs on this machine and keeps no files. `no session` is the same server without a session:
what of a figure is not the session's."""


@dataclass
class Subject:
    """One row of the tables."""

    name: str
    kind: str  # what `served` calls it
    url: str = ""
    port: int = 0
    pid: int = 0
    cookie: str = ""
    environment: dict[str, str] = field(default_factory=dict)  # more for its process
    rates: dict[str, list[float]] = field(default_factory=dict)  # requests a second, by page, one a round
    burdens: dict[str, list[float]] = field(default_factory=dict)  # µs of processor time a request, likewise
    errors: int = 0

    @property
    def pages(self) -> tuple[str, ...]:
        return _PAGES if self.name != _NO_SESSION else _PAGES[:1]


def measure(quick: bool) -> Report:
    """Measure everything, and return the report."""
    wrk.require()
    rounds = 2 if quick else 9
    with _subjects() as (subjects, version):
        asyncio.run(measure_all(subjects, rounds))
    multiples = _multiples(subjects)
    targets = [
        Target(f"{name}: {page}", multiples[name][page], limit, at_least=True)
        for name, limits in _TARGETS.items()
        for page, limit in zip(_PAGES, limits, strict=True)
    ]
    return Report(
        name="http",
        title="Over HTTP, beside Starlette",
        method=_METHOD.format(connections=_CONNECTIONS, rounds=rounds, size=json_size(SMALL)),
        sections=[("Requests a second, and multiples of Starlette's", _table(subjects, multiples))],
        figures={
            "unit": "requests a second",
            "rates": {subject.name: subject.rates for subject in subjects},
            "multiples": multiples,
            "processor_microseconds": {subject.name: subject.burdens for subject in subjects},
            "errors": {subject.name: subject.errors for subject in subjects},
        },
        targets=targets,
        packages={"starlette", "starsessions", "redis", "hiredis", "uvicorn", "uvloop", "httptools"},
        programs={"wrk": wrk.version(), "SQLite": sqlite3.sqlite_version, "Redis": version},
    )


@contextlib.contextmanager
def _subjects() -> Iterator[tuple[list[Subject], str]]:
    """Serve all subjects during the block. Gives them, and the version of the Redis server."""
    with tempfile.TemporaryDirectory() as folder, RedisServer() as redis, contextlib.ExitStack() as stack:
        subjects = [
            Subject(STARLETTE, "starlette"),
            Subject(MEMORY, "roomkey", "memory://"),
            Subject(SQLITE, "roomkey", f"sqlite:///{Path(folder, 'sessions.sqlite3')}"),
            Subject(REDIS, "roomkey", redis.url),
            Subject(_PEER, "starsessions", redis.url),
            Subject(_NO_SESSION, "bare"),
        ]
        serve(subjects, stack)
        yield subjects, RedisEngine(redis.url).version


def serve(subjects: list[Subject], stack: contextlib.ExitStack) -> None:
    """Serve subjects for as long as the stack lasts."""
    for subject in subjects:
        progress(f"HTTP: {subject.name} starts")
        served = stack.enter_context(Served(subject.kind, subject.url, **subject.environment))
        subject.port, subject.pid = served.port, served.pid


async def measure_all(subjects: list[Subject], rounds: int, pages: tuple[str, ...] = _PAGES) -> None:
    """Load all pages of all subjects, which are served."""
    for subject in subjects:
        await _prepare(subject)
    for number in range(rounds):
        start = number % len(subjects)
        for page in pages:
            progress(f"HTTP: {page}: round {number + 1} of {rounds}")
            for subject in subjects[start:] + subjects[:start]:
                if page in subject.pages:
                    await _load(subject, page)


async def _load(subject: Subject, page: str) -> None:
    before = _processor_time(subject.pid)
    found = await wrk.load(subject.port, page, subject.cookie, _CONNECTIONS, 1)
    spent = _processor_time(subject.pid) - before
    subject.rates.setdefault(page, []).append(found.rate)
    subject.burdens.setdefault(page, []).append(spent / found.requests * 1e6)
    subject.errors += found.errors


def _processor_time(pid: int) -> float:
    """Return the seconds that a process has computed so far, in its own code and in the kernel."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


async def _prepare(subject: Subject) -> None:
    """Log in, prove the work, and warm up.

    Raises:
        ProofFailed: what was put into the session is not what comes out.
    """
    client = Client(subject.port)
    subject.cookie = (await client.get("/login?user=1042")).cookie or "x" * 80  # only a header, without a session
    read = await client.get("/read", subject.cookie)
    if (read.status, read.body) != (200, b"dark"):
        raise ProofFailed(f"{subject.name}: read: {read.status} {read.body!r}")
    if "write" in subject.pages:
        written = await client.get("/write", subject.cookie)
        # Where the data is in the cookie, the new cookie has what was written.
        shown = await client.get("/show", written.cookie or subject.cookie)
        if written.status != 200 or json.loads(shown.body)["views"] != int(written.body):
            raise ProofFailed(f"{subject.name}: write: {written.body!r}, then {shown.body!r}")
    client.close()
    for page in subject.pages:
        await wrk.load(subject.port, page, subject.cookie, _CONNECTIONS, 1)


def _multiples(subjects: list[Subject]) -> dict[str, dict[str, float]]:
    """Return the median multiple of Starlette's rate, by subject and page."""
    starlette = subjects[0].rates
    return {
        subject.name: {
            page: statistics.median(one / other for one, other in zip(rates, starlette[page], strict=True))
            for page, rates in subject.rates.items()
        }
        for subject in subjects
    }


def _table(subjects: list[Subject], multiples: dict[str, dict[str, float]]) -> str:
    errors = any(subject.errors for subject in subjects)
    head = ["", *(f"{page}{what}" for page in _PAGES for what in (", requests/s", ", multiple", ", CPU µs a request"))]
    rows = []
    for subject in subjects:
        row = [subject.name]
        for page in _PAGES:
            if page in subject.rates:
                rate, burden = (statistics.median(one[page]) for one in (subject.rates, subject.burdens))
                row += [f"{rate:,.0f}", f"{multiples[subject.name][page]:.2f}", f"{burden:.0f}"]
            else:
                row += ["-"] * 3
        rows.append(row + [str(subject.errors)] * errors)
        if subject.name in _TARGETS:
            read, write = _TARGETS[subject.name]
            rows.append(row_of_targets("at least", [None, read, None, None, write, None]) + [""] * errors)
    return table(head + ["errors"] * errors, rows)


if __name__ == "__main__":
    run("benchmarks.over_http", measure, "Sessions behind uvicorn, under load from wrk.")
