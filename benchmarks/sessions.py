"""Sessions in process, side by side: `python -m benchmarks.sessions`.

Every subject wraps the same raw ASGI app. Before a subject is measured it proves that it does the work. Rounds are
interleaved: each runs every subject once, in rotated order, so that a machine that slows down slows all of them.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import json
import pstats
import statistics
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.budgets import Budget, count_operations, import_milliseconds, imported_too_early, judge
from benchmarks.driver import App, microseconds
from benchmarks.report import lines, machine, progress, table, versions
from benchmarks.scenarios import SCENARIOS, Scenario
from benchmarks.subjects import BARE, FLOOR, PASS_THROUGH, ROOMKEY, STARLETTE, Subject, make_subjects

_NEGLIGIBLE = 0.05  # µs: a difference below it is noise, and nothing to divide by

_METHOD = """\
Raw ASGI scopes with five request headers, driven one request after the other on asyncio's own loop, no server. A round
runs every subject for {requests} requests, in rotated order; the figures are medians of {rounds} rounds. "For the
session alone" is the total less the bare app's in the same round. The garbage collector is on, and clean at the start
of each batch. Every subject first proved its work: what was written is read on the next request, a log-in sets a
cookie that logs in, a forged cookie is anonymous.

The session is {small} bytes as JSON, or {large}. Starlette and Lilya hold it in the cookie: at 4 KB browsers drop that.
`floor` is the same idea by hand: cookie scan, one HMAC, one dict, one decoding (ormsgpack; or JSON). Litestar's
middleware runs without its router. In "untouched" the bare app answers a request that has a valid cookie."""


@dataclass(frozen=True)
class Run:
    """How much is measured."""

    rounds: int
    requests: int  # of each subject in each round
    imports: int  # fresh interpreters, each with and without


_FULL = Run(rounds=21, requests=1000, imports=15)
_QUICK = Run(rounds=5, requests=200, imports=5)


@dataclass(frozen=True)
class Measured:
    """Medians in µs per request, by scenario and subject."""

    totals: dict[str, dict[str, float]]
    alone: dict[str, dict[str, float]]


def main() -> None:
    """Measure, print the report, and write the figures where asked."""
    options = _parse()
    if options.profile:
        asyncio.run(_profile(SCENARIOS[options.profile]))
        return
    run = _QUICK if options.quick else _FULL
    run = Run(options.rounds or run.rounds, options.requests or run.requests, run.imports)
    with tempfile.TemporaryDirectory() as folder:
        subjects, notes = make_subjects(Path(folder))
        measured, operations = asyncio.run(_measure_all(subjects, run))
    budgets = judge(measured.totals, measured.alone, operations, import_milliseconds(run.imports), imported_too_early())
    print(_report(subjects, notes, measured, budgets, run))
    if options.json:
        figures = {
            "machine": machine(),
            "versions": _versions(subjects),
            "run": asdict(run),
            "unit": "microseconds per request",
            "totals": measured.totals,
            "session_alone": measured.alone,
            "store_operations": operations,
            "budgets": [asdict(budget) for budget in budgets],
        }
        options.json.write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sessions", description="Sessions, side by side.")
    parser.add_argument("--quick", action="store_true", help="a few seconds instead of a minute; noisier")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the figures to FILE")
    parser.add_argument("--rounds", type=_count, help=f"rounds (default {_FULL.rounds})")
    parser.add_argument("--requests", type=_count, help=f"requests a subject and round (default {_FULL.requests})")
    parser.add_argument("--profile", metavar="SCENARIO", choices=SCENARIOS, help=f"profile Roomkey: {list(SCENARIOS)}")
    return parser.parse_args()


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("it takes a number above 0")
    return number


async def _measure_all(subjects: list[Subject], run: Run) -> tuple[Measured, dict[str, Any]]:
    measured = Measured({}, {})
    try:
        for scenario in SCENARIOS.values():
            await _measure(scenario, subjects, run, measured)
    finally:
        progress("")
        for subject in subjects:
            await subject.close()
    return measured, dict(await count_operations())


async def _measure(scenario: Scenario, subjects: list[Subject], run: Run, into: Measured) -> None:
    ready: list[tuple[str, App, str | None]] = []
    for subject in subjects:
        app, cookie = scenario.app(subject), await scenario.cookie(subject)
        await scenario.check(subject, app, cookie)
        await microseconds(app, cookie, max(run.requests // 5, 20))  # warm
        ready.append((subject.name, app, cookie))
    rounds: list[dict[str, float]] = []
    for number in range(run.rounds):
        progress(f"{scenario.title}: round {number + 1} of {run.rounds}")
        start = number % len(ready)
        took = {}
        for name, app, cookie in ready[start:] + ready[:start]:
            took[name] = await microseconds(app, cookie, run.requests)
        rounds.append(took)
    names = [subject.name for subject in subjects]
    into.totals[scenario.name] = {name: statistics.median(took[name] for took in rounds) for name in names}
    into.alone[scenario.name] = {name: statistics.median(took[name] - took[BARE] for took in rounds) for name in names}


async def _profile(scenario: Scenario, requests: int = 20_000) -> None:
    with tempfile.TemporaryDirectory() as folder:
        subjects, _ = make_subjects(Path(folder))
        subject = next(subject for subject in subjects if subject.name == ROOMKEY)
        app, cookie = scenario.app(subject), await scenario.cookie(subject)
        await scenario.check(subject, app, cookie)
        profile = cProfile.Profile()
        profile.enable()
        await microseconds(app, cookie, requests)
        profile.disable()
    print(f"{scenario.title}: {requests} requests; the profiler makes small functions look dearer than they are")
    pstats.Stats(profile).strip_dirs().sort_stats("tottime").print_stats(30)


# --- the report -------------------------------------------------------------------------------------------------------


def _report(subjects: list[Subject], notes: list[str], measured: Measured, budgets: list[Budget], run: Run) -> str:
    names = [subject.name for subject in subjects]
    sessions = [name for name in names if name not in (BARE, PASS_THROUGH)]
    scenarios = list(SCENARIOS.values())
    titles = [scenario.title for scenario in scenarios]
    sizes = {scenario.name: len(json.dumps(scenario.data)) for scenario in scenarios if scenario.data}

    def figures(of: dict[str, dict[str, float]], rows: list[str], by: str | None = None) -> str:
        cells = [[_cell(of[scenario.name], name, by) for scenario in scenarios] for name in rows]
        return table(["", *titles], [[name, *row] for name, row in zip(rows, cells, strict=True)])

    parts = [
        "## µs per request, for the session alone",
        figures(measured.alone, [name for name in names if name != BARE]),
        "## µs per request, total",
        figures(measured.totals, names),
        "## Total, as a multiple of pass-through",
        figures(measured.totals, sessions, PASS_THROUGH),
        "## Session alone, as a multiple of the floor",
        figures(measured.alone, sessions, FLOOR),
    ]
    if STARLETTE in names:
        parts += ["## Session alone, as a multiple of Starlette", figures(measured.alone, sessions, STARLETTE)]
    verdict = {True: "met", False: "missed", None: "reported"}
    parts += [
        "## Budgets",
        table(["what", "budget", "found", ""], [[b.what, b.allowed, b.found, verdict[b.met]] for b in budgets]),
        "## Method",
        _METHOD.format(rounds=run.rounds, requests=run.requests, small=sizes["read"], large=sizes["read-4k"]),
        *notes,
        "## Machine and versions",
        lines({**machine(), **_versions(subjects)}),
    ]
    return "\n\n".join(parts)


def _cell(row: dict[str, float], name: str, by: str | None) -> str:
    if by is None:
        return f"{row[name]:.1f}"
    return f"{row[name] / row[by]:.2f}" if row[by] >= _NEGLIGIBLE else "-"


def _versions(subjects: list[Subject]) -> dict[str, str]:
    return versions({subject.package for subject in subjects if subject.package} | {"ormsgpack", "itsdangerous"})


if __name__ == "__main__":
    main()
