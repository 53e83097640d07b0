"""A hot session: many requests write one session at once, each a key of its own: `python -m benchmarks.hot`.

A peer that reads the session and writes it back keeps the change of whoever writes last.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from dataclasses import dataclass, field

import uvloop

from benchmarks.counting import RedisEngine
from benchmarks.driver import Receive, Scope, Send, answer_lifespan, ask, lifespan, respond
from benchmarks.report import Report, Target, progress, row_of_targets, run, table
from benchmarks.scenarios import SMALL, ProofFailed, filling, json_size, showing
from benchmarks.subjects import (
    MEMORY,
    REDIS,
    Subject,
    redis_client,
    roomkey,
    starsessions_in_memory,
    starsessions_in_redis,
)
from tests.servers.redis import RedisServer

_REQUESTS = 64  # at once
_METHOD = """\
In process, on uvloop: {requests} requests with the same cookie are begun at once. Each sets one key of its own in a
session of {small} bytes as JSON. Each handler gives way to the others once before it writes, as one does that reads
the request's body. Without that, requests to a store in memory would run one after the other. A batch has a session of
its own. There are {batches} batches of each subject, in turn. Rates are medians, and so are multiples, each of one
turn. Kept is how many of the {requests} keys the session has in the end: the median, and the least. Failed is how many
requests were not answered with 200, in all batches. The Redis server runs on this machine and keeps no files."""


@dataclass
class _Lane:
    """One row of the table."""

    subject: Subject
    rates: list[float] = field(default_factory=list)  # requests a second, one a batch
    kept: list[int] = field(default_factory=list)  # keys, one a batch
    failed: int = 0  # requests


def measure(quick: bool) -> Report:
    """Measure everything, and return the report."""
    batches = 5 if quick else 40
    with RedisServer() as server:
        lanes = uvloop.run(_measure_all(server.url, batches))
        version = RedisEngine(server.url).version
    multiples = {
        ours.subject.name: statistics.median(one / other for one, other in zip(ours.rates, theirs.rates, strict=True))
        for ours, theirs in zip(lanes[::2], lanes[1::2], strict=True)
    }
    targets = []
    for lane in lanes[::2]:
        name = lane.subject.name
        targets.append(Target(f"{name}: multiple of starsessions", multiples[name], 1, at_least=True))
        targets.append(Target(f"{name}: keys kept", min(lane.kept), _REQUESTS, at_least=True))
    return Report(
        name="hot",
        title="A hot session",
        method=_METHOD.format(requests=_REQUESTS, small=json_size(SMALL), batches=batches),
        sections=[(f"{_REQUESTS} requests at once that write one session", _table(lanes, multiples))],
        figures={
            "unit": "requests a second",
            "multiples": multiples,
            "found": {lane.subject.name: {"rates": lane.rates, "kept": lane.kept} for lane in lanes},
            "failed": {lane.subject.name: lane.failed for lane in lanes},
        },
        targets=targets,
        packages={"starsessions", "redis", "hiredis", "uvloop"},
        programs={"Redis": version},
    )


async def _measure_all(url: str, batches: int) -> list[_Lane]:
    """Return the lanes, each of ours followed by the one it is compared with."""
    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(redis_client(url))
        subjects = [
            roomkey(MEMORY, "memory://"),
            starsessions_in_memory(),
            roomkey(REDIS, url),
            starsessions_in_redis(client),
        ]
        for subject in subjects:
            if subject.has_lifespan:
                await stack.enter_async_context(lifespan(subject.wrap(answer_lifespan)))
        lanes = [_Lane(subject) for subject in subjects]
        for lane in lanes:
            await _run(_Lane(lane.subject))  # warm
        for number in range(batches):
            progress(f"hot session: batch {number + 1} of {batches}")
            for lane in lanes:
                await _run(lane)
    return lanes


async def _run(lane: _Lane) -> None:
    """Run one batch."""
    cookie = (await ask(lane.subject.wrap(filling(SMALL)))).cookie
    if cookie is None:
        raise ProofFailed(f"{lane.subject.name}: no cookie for a session with data")
    app = lane.subject.wrap(_Writing())
    began = time.perf_counter()
    answers = await asyncio.gather(*(ask(app, cookie) for _ in range(_REQUESTS)), return_exceptions=True)
    lane.rates.append(_REQUESTS / (time.perf_counter() - began))
    lane.failed += sum(isinstance(answer, BaseException) or answer.status != 200 for answer in answers)
    shown = [await ask(lane.subject.wrap(showing(f"key {number}")), cookie) for number in range(_REQUESTS)]
    lane.kept.append(sum(answer.body == b"%d" % number for number, answer in enumerate(shown)))


class _Writing:
    """An app that sets another key on each request."""

    def __init__(self) -> None:
        self._number = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        number, self._number = self._number, self._number + 1
        await asyncio.sleep(0)
        scope["session"][f"key {number}"] = number
        await respond(send, b"ok")


def _table(lanes: list[_Lane], multiples: dict[str, float]) -> str:
    rows = []
    for lane in lanes:
        name, kept = lane.subject.name, f"{statistics.median(lane.kept):g}, {min(lane.kept)}"
        multiple = f"{multiples[name]:.2f}" if name in multiples else "1.00"
        rows.append([name, f"{statistics.median(lane.rates):,.0f}", multiple, kept, str(lane.failed)])
        if name in multiples:
            rows.append([*row_of_targets("at least", [None, 1, _REQUESTS]), "-"])
    return table(["", "requests/s", "multiple of starsessions'", f"kept of {_REQUESTS}", "failed"], rows)


if __name__ == "__main__":
    run("benchmarks.hot", measure, "Many requests that write one session at once.")
