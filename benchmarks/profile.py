"""Where the time of a request goes: `python -m benchmarks.profile [SCENARIO ...]`.

Two views that no profiler distorts. Times are taken at the edges of the middleware, where every subject has the same
ones: before the handler, in it, until the response starts, and the rest. Calls are counted, and can be listed.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import statistics
import tempfile
from collections.abc import Awaitable
from pathlib import Path
from time import perf_counter_ns

import uvloop

from benchmarks.calls import Calls, count_bytecodes, count_calls
from benchmarks.driver import (
    App,
    Message,
    Receive,
    Scope,
    Send,
    answer_lifespan,
    ask,
    drop,
    lifespan,
    make_scope,
    receive,
)
from benchmarks.report import Report, add_options, produce, progress, table
from benchmarks.scenarios import SCENARIOS, Scenario
from benchmarks.subjects import MEMORY, SQLITE, STARLETTE, Subject, bare_app, roomkey, starlette

_PARTS = ("before the handler", "in the handler", "until the response starts", "the rest")
_METHOD = """\
In process, on uvloop, one request after the other. Times are medians of batches of {requests} requests, and of
{samples} interleaved batches the least, less the bare app's. Each part is taken on its own, so that "all", their sum,
is not quite what a whole request takes. "Before the handler" is finding the session, "in the handler" is what the
handler asks of it, "until the response starts" is saving it, and "the rest" is what follows the start of the response.

Counts are of one request, after another one like it, without the calls that the handler makes itself. Where a request
waits for a store's thread, the event loop's own calls are among them. Encodings and decodings are ormsgpack's, a hash
is a digest that is computed, and bytecodes are instructions of the interpreter."""


def main() -> None:
    """Be the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description="Where a request's time goes.")
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"default all: {', '.join(SCENARIOS)}")
    parser.add_argument("--calls", action="store_true", help="also list each call of a request, in order")
    add_options(parser)
    options = parser.parse_args()
    unknown = [name for name in options.scenarios if name not in SCENARIOS]
    if unknown:
        parser.error(f"no such scenario: {', '.join(unknown)}; there are {', '.join(SCENARIOS)}")
    chosen = [SCENARIOS[name] for name in options.scenarios or SCENARIOS]
    produce([lambda quick: _measure(chosen, quick, options.calls)], options.quick, options.json)


def _measure(scenarios: list[Scenario], quick: bool, listed: bool) -> Report:
    samples, requests = (5, 60) if quick else (30, 250)
    with tempfile.TemporaryDirectory() as folder:
        subjects = [
            starlette(),
            roomkey(MEMORY, "memory://"),
            roomkey(SQLITE, f"sqlite:///{Path(folder, 'sessions.sqlite3')}"),
        ]
        times, counts = uvloop.run(_measure_all(scenarios, subjects, samples, requests))
    names = {scenario.name: scenario.title for scenario in scenarios}
    sections = [
        ("µs by part", _table_of_times(times, names)),
        ("Calls", _table_of_calls(counts, names)),
    ]
    if listed:
        for (key, name), (calls, _) in counts.items():
            if name == MEMORY:
                tree = "\n".join(f"{'  ' * depth}{called}" for depth, called in calls.tree)
                sections.append((f"{name}: {names[key]}: every call", f"```\n{tree}\n```"))
    return Report(
        name="profile",
        title="Where the time goes",
        method=_METHOD.format(requests=requests, samples=samples),
        sections=sections,
        figures={
            "unit": "microseconds",
            "parts": {f"{key}: {name}": dict(zip(_PARTS, found, strict=True)) for (key, name), found in times.items()},
        },
        packages={"starlette", "ormsgpack", "uvloop"},
    )


_Times = dict[tuple[str, str], list[float]]  # µs of each part, by scenario and subject
_Counts = dict[tuple[str, str], tuple[Calls, int]]  # calls and bytecodes, by scenario and subject


async def _measure_all(
    scenarios: list[Scenario], subjects: list[Subject], samples: int, requests: int
) -> tuple[_Times, _Counts]:
    times: _Times = {}
    counts: _Counts = {}
    bare = bare_app()
    async with contextlib.AsyncExitStack() as stack:
        for subject in subjects:
            if subject.has_lifespan:
                await stack.enter_async_context(lifespan(subject.wrap(answer_lifespan)))
        for scenario in scenarios:
            found: dict[str, list[list[float]]] = {}
            for number in range(samples):
                progress(f"{scenario.title}: batch {number + 1} of {samples}")
                for subject in [bare, *subjects]:
                    found.setdefault(subject.name, []).append(await _parts(scenario, subject, requests))
            least = {name: [min(part) for part in zip(*batches, strict=True)] for name, batches in found.items()}
            for subject in subjects:
                both = zip(least[subject.name], least[bare.name], strict=True)
                times[scenario.name, subject.name] = [one - other for one, other in both]
                counts[scenario.name, subject.name] = await _count(scenario, subject)
    return times, counts


async def _count(scenario: Scenario, subject: Subject) -> tuple[Calls, int]:
    app = subject.wrap(scenario.handler_of(subject))
    first, second, third = await _cookies(scenario, subject, 3)
    await ask(app, first)
    return await count_calls(app, second), await count_bytecodes(app, third)


async def _cookies(scenario: Scenario, subject: Subject, number: int) -> list[str | None]:
    if scenario.once:
        return await scenario.cookies(subject, number)
    return await scenario.cookies(subject, 1) * number


async def _parts(scenario: Scenario, subject: Subject, requests: int) -> list[float]:
    """Return the µs of each part of a request: the median of a batch."""
    watch = _Watch(scenario.handler_of(subject))
    app = subject.wrap(watch)
    found = []
    for cookie in await _cookies(scenario, subject, requests):
        scope = make_scope(cookie)
        watch.began = perf_counter_ns()
        await app(scope, receive, watch.sent)
        ended = perf_counter_ns()
        edges = (watch.began, watch.entered, watch.answered, watch.started, ended)
        found.append([later - earlier for earlier, later in itertools.pairwise(edges)])
    return [statistics.median(part) / 1000 for part in zip(*found, strict=True)]


class _Watch:
    """A handler that notes when it is entered and when it answers; and the server's `send`.

    Args:
        handler: what is watched.
    """

    def __init__(self, handler: App) -> None:
        self._handler = handler
        self.began = self.entered = self.answered = self.started = 0  # ns

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.entered = perf_counter_ns()

        def answer(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                self.answered = perf_counter_ns()
            return send(message)

        await self._handler(scope, receive, answer)

    def sent(self, message: Message) -> Awaitable[None]:
        """Be the server's `send`."""
        if message["type"] == "http.response.start":
            self.started = perf_counter_ns()
        return drop(message)


def _table_of_times(times: _Times, names: dict[str, str]) -> str:
    rows = [
        [names[key], name, *(f"{part:.1f}" for part in parts), f"{sum(parts):.1f}"]
        for (key, name), parts in times.items()
    ]
    return table(["", "", *_PARTS, "all"], rows)


def _table_of_calls(counts: _Counts, names: dict[str, str]) -> str:
    rows = []
    for (key, name), (calls, bytecodes) in counts.items():
        if name != STARLETTE:
            found = (calls.python, calls.c, calls.encodings, calls.decodings, calls.hashes)
            rows.append([names[key], name, *(str(number) for number in found), f"{bytecodes:,}"])
    return table(["", "", "Python calls", "C calls", "encodings", "decodings", "hashes", "bytecodes"], rows)


if __name__ == "__main__":
    main()
