"""Sessions in process, side by side: `python -m benchmarks.sessions`.

Every subject wraps the same raw ASGI app. Before a subject is measured it proves that it does the work.
"""

from __future__ import annotations

import contextlib
import sqlite3
import tempfile
from pathlib import Path

import uvloop

from benchmarks.driver import answer_lifespan, lifespan
from benchmarks.report import Report, Target, row_of_targets, run, table
from benchmarks.samples import FIRST_SEEN, Lane, Size, measure_alone
from benchmarks.scenarios import LARGE, SCENARIOS, SMALL, Scenario, json_size
from benchmarks.subjects import BARE, MEMORY, SQLITE, STARLETTE, Subject, make_subjects

Found = dict[str, dict[str, float]]  # µs, by scenario and lane

_FULL = Size(samples=40, requests=250)
_QUICK = Size(samples=5, requests=60)

_COLUMNS = ("anonymous", "untouched", "read", "read-list", "write", "log-in", "forged")
_TARGETS: dict[str, dict[str, float]] = {  # shares of what Starlette costs, at most
    MEMORY: dict(zip(_COLUMNS, (0.6, 0.25, 0.33, 0.6, 0.4, 1.0, 0.35), strict=True)),
    MEMORY + FIRST_SEEN: {"read": 0.5},
    SQLITE: dict(zip(_COLUMNS, (0.6, 0.6, 0.8, 1.0, 2.5, 5.0, 0.35), strict=True)),
}
_PEERS_ONLY = ("read-4k", "write-4k")  # columns of the table of peers

_METHOD = """\
Raw ASGI scopes with five request headers, one request after the other on uvloop, without a server. Each sample is
{requests} requests of one subject. There are {samples} samples of each, interleaved in rotated order, and the figure
is the least of them, less the least of the bare app's. The garbage collector is on, and clean at the start of a
sample. Every subject first proved its work: what was written is read on the next request. A log-in sets a cookie that
logs in, and a forged cookie is anonymous.

"First seen": each request of a sample has a cookie and a session of its own. The middleware was made for this sample,
so that nothing is remembered of a cookie. A hash is seen to be computed for such a request. In the other rows one
cookie comes with every request of a sample. "Log in" has no cookie, and fills a session. "Log in, had a session" has
the cookie of an anonymous one, and each cookie serves once. In the rows without "first seen" it was read once before.

The session is {small} bytes as JSON, or {large}. Starlette and Lilya hold it in the cookie: at 4 KB browsers drop
that. SQLite's file is in a temporary folder. `floor` is a server-side session by hand, as short as it goes: cookie
scan, one HMAC, one dict, one decoding. Litestar's middleware runs without its router."""


def measure(quick: bool) -> Report:
    """Measure everything, and return the report."""
    size = _QUICK if quick else _FULL
    with tempfile.TemporaryDirectory() as folder:
        subjects, notes = make_subjects(Path(folder))
        found = uvloop.run(_measure_all(subjects, size))
    method = _METHOD.format(
        requests=size.requests, samples=size.samples, small=json_size(SMALL), large=json_size(LARGE)
    )
    return Report(
        name="sessions",
        title="In process, beside Starlette and the other peers",
        method="\n\n".join([method, *notes]),
        sections=[
            ("Shares of what Starlette's session costs", _table_of_shares(found)),
            ("µs a request, for the session alone", _table_of_times(found)),
        ],
        figures={"unit": "microseconds a request, for the session alone", "found": found},
        targets=_targets(found),
        packages={subject.package for subject in subjects if subject.package} | {"ormsgpack", "itsdangerous", "uvloop"},
        programs={"SQLite": sqlite3.sqlite_version},
    )


async def _measure_all(subjects: list[Subject], size: Size) -> Found:
    async with contextlib.AsyncExitStack() as stack:
        for subject in subjects:
            if subject.has_lifespan:
                await stack.enter_async_context(lifespan(subject.wrap(answer_lifespan)))
        found = {}
        for scenario in SCENARIOS.values():
            lanes = [Lane(scenario, subject) for subject in subjects]
            if scenario.data is not None and scenario.name not in _PEERS_ONLY:
                lanes += [Lane(scenario, subject, first_seen=True) for subject in subjects if subject.signs]
            found[scenario.name] = await measure_alone(lanes, size, scenario.title)
    return found


def _shares(found: Found, scenario: Scenario, name: str) -> float | None:
    """Return a lane's share of what Starlette takes for the same requests; None where it was not measured."""
    row = found[scenario.name]
    first_seen = FIRST_SEEN if name.endswith(FIRST_SEEN) else ""
    return row[name] / row[STARLETTE + first_seen] if name in row else None


def _targets(found: Found) -> list[Target]:
    targets = []
    for name, limits in _TARGETS.items():
        for key, limit in limits.items():
            share = _shares(found, SCENARIOS[key], name)
            assert share is not None
            targets.append(Target(f"{name}: {SCENARIOS[key].title}", share, limit))
    return targets


def _table_of_shares(found: Found) -> str:
    scenarios = [scenario for scenario in SCENARIOS.values() if scenario.name not in _PEERS_ONLY]
    rows = []
    for name in (MEMORY, MEMORY + FIRST_SEEN, SQLITE, SQLITE + FIRST_SEEN):
        shares = [_shares(found, scenario, name) for scenario in scenarios]
        rows.append([name, *("-" if share is None else f"{share:.2f}" for share in shares)])
        if name in _TARGETS:
            rows.append(row_of_targets("at most", [_TARGETS[name].get(scenario.name) for scenario in scenarios]))
    return table(["", *(scenario.title for scenario in scenarios)], rows)


def _table_of_times(found: Found) -> str:
    names = [name for name in dict.fromkeys(name for row in found.values() for name in row) if name != BARE]
    rows = [[name, *(f"{row[name]:.1f}" if name in row else "-" for row in found.values())] for name in names]
    return table(["", *(SCENARIOS[key].title for key in found)], rows)


if __name__ == "__main__":
    run("benchmarks.sessions", measure, "Sessions in process, side by side.")
