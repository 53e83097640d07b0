"""Sessions in Redis, in process, with one request in flight: `python -m benchmarks.over_redis`.

Beside starsessions, which reads the session and writes it back. No web server, so that the session is all there is.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import uvloop

from benchmarks.counting import CountingProxy, RedisEngine, usual
from benchmarks.driver import answer_lifespan, ask, lifespan
from benchmarks.report import Report, Target, row_of_targets, run, table
from benchmarks.samples import FIRST_SEEN, Lane, Size, measure_alone
from benchmarks.scenarios import SCENARIOS, SMALL, Scenario, json_size
from benchmarks.subjects import REDIS, Subject, bare_app, redis_client, roomkey, starsessions_in_redis
from tests.servers.redis import RedisServer

PEER = "starsessions, Redis"

Found = dict[str, dict[str, float]]  # µs, by scenario and lane

_FULL = Size(samples=150, requests=20)
_QUICK = Size(samples=10, requests=20)
_TARGETS = {"read": 0.4, "write": 0.9, "log-in": 1.2, "log-in-known": 1.2}  # shares of starsessions' cost, at most
_COUNTED = 50  # requests of which commands and round trips are counted

_METHOD = """\
As in the part in process: raw ASGI scopes, uvloop, one request after the other. There are {samples} interleaved
samples of {requests} requests each. The figure is the least of them less the least of the bare app's. The session is
{small} bytes as JSON. The Redis server runs on this machine and keeps no files. starsessions has its autoload
middleware, which loads the session on every request. "First seen": each request has a session and a cookie of its own,
which the middleware has not seen.

Commands are what reaches the server (`MONITOR`), without those that a script runs inside it. Round trips are counted
by a proxy, over {counted} requests, each with the same cookie, or with its own for "log in, had a session"."""


def measure(quick: bool) -> Report:
    """Measure everything, and return the report."""
    size = _QUICK if quick else _FULL
    with RedisServer() as server:
        engine = RedisEngine(server.url)
        found, counted = uvloop.run(_measure_all(engine, size))
    method = _METHOD.format(samples=size.samples, requests=size.requests, small=json_size(SMALL), counted=_COUNTED)
    return Report(
        name="redis",
        title="Redis, in process, one request in flight",
        method=method,
        sections=[
            ("Shares of what starsessions costs", _table_of_shares(found)),
            ("µs a request, for the session alone", _table_of_times(found)),
            ("What one request asks of Redis", _table_of_commands(counted)),
        ],
        figures={"unit": "microseconds a request, for the session alone", "found": found, "counted": counted},
        targets=[
            Target(f"{REDIS}: {SCENARIOS[key].title}", _share(found, key), limit) for key, limit in _TARGETS.items()
        ],
        packages={"starsessions", "redis", "hiredis", "uvloop"},
        programs={engine.title: engine.version},
    )


@contextlib.asynccontextmanager
async def redis_subject(name: str, url: str) -> AsyncIterator[Subject]:
    """Be Roomkey or starsessions over Redis, its connections closed after the block."""
    if name == REDIS:
        subject = roomkey(REDIS, url)
        async with lifespan(subject.wrap(answer_lifespan)):
            yield subject
    else:
        async with redis_client(url) as client:
            yield starsessions_in_redis(client)


async def _measure_all(engine: RedisEngine, size: Size) -> tuple[Found, dict[str, Any]]:
    async with redis_subject(REDIS, engine.url) as ours, redis_subject(PEER, engine.url) as theirs:
        found = {}
        for key in _TARGETS:
            scenario = SCENARIOS[key]
            lanes = [Lane(scenario, subject) for subject in (bare_app(), ours, theirs)]
            if scenario.data is not None:
                lanes += [Lane(scenario, subject, first_seen=True) for subject in (ours, theirs)]
            found[key] = await measure_alone(lanes, size, f"Redis: {scenario.title}")
    counted: dict[str, Any] = {}
    for name in (REDIS, PEER):
        async with CountingProxy(engine.url) as proxy, redis_subject(name, proxy.url) as subject:
            counted[name] = {
                scenario.name: await _count(engine, proxy, subject, scenario)
                for scenario in SCENARIOS.values()
                if scenario.name not in ("read-4k", "write-4k")
            }
    return found, counted


async def _count(
    engine: RedisEngine, proxy: CountingProxy, subject: Subject, scenario: Scenario
) -> dict[str, float | str]:
    """Return the commands and the round trips of one request."""
    app = subject.wrap(scenario.handler)
    if scenario.once:
        cookies = await scenario.cookies(subject, 2 * _COUNTED)
    else:
        cookies = await scenario.cookies(subject, 1) * 2 * _COUNTED
    for cookie in cookies[:_COUNTED]:  # scripts are known, connections are there
        await ask(app, cookie)
    async with engine.commands() as commands:
        before = proxy.turns
        for cookie in cookies[_COUNTED:]:
            await ask(app, cookie)
        turns = proxy.turns - before
    return {"commands": usual(Counter(commands), _COUNTED), "round_trips": turns / _COUNTED}


def _share(found: Found, key: str, first_seen: str = "") -> float:
    return found[key][REDIS + first_seen] / found[key][PEER + first_seen]


def _table_of_shares(found: Found) -> str:
    first_seen = [f"{_share(found, key, FIRST_SEEN):.2f}" if REDIS + FIRST_SEEN in found[key] else "-" for key in found]
    return table(
        ["", *(SCENARIOS[key].title for key in found)],
        [
            [REDIS, *(f"{_share(found, key):.2f}" for key in found)],
            row_of_targets("at most", _TARGETS.values()),
            [REDIS + FIRST_SEEN, *first_seen],
        ],
    )


def _table_of_times(found: Found) -> str:
    names = [name + first_seen for first_seen in ("", FIRST_SEEN) for name in (REDIS, PEER)]
    rows = [[name, *(f"{row[name]:.0f}" if name in row else "-" for row in found.values())] for name in names]
    return table(["", *(SCENARIOS[key].title for key in found)], rows)


def _table_of_commands(counted: dict[str, Any]) -> str:
    head = ["", *(f"{name}: {what}" for name in counted for what in ("commands", "round trips"))]
    rows = []
    for key in counted[REDIS]:
        row = [SCENARIOS[key].title]
        for name in counted:
            row += [counted[name][key]["commands"], f"{counted[name][key]['round_trips']:.3g}"]
        rows.append(row)
    return table(head, rows)


if __name__ == "__main__":
    run("benchmarks.over_redis", measure, "Sessions in Redis, in process, one request in flight.")
