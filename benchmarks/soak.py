"""Roomkey under mixed load while its engine is stopped, killed and frozen: `python -m benchmarks.soak`.

uvicorn serves the app; users log in, read, write, write twice at once, log out, and check what they find against what
was acknowledged. What the process holds (memory, descriptors, connections, tasks) is sampled while the load rests for a
moment. Exit code 1 where something that must hold did not.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol
from urllib.parse import urlsplit

from benchmarks.report import lines, machine, progress, table
from benchmarks.served import STORE_TIMEOUT
from benchmarks.serving import Client, Served
from benchmarks.soak_users import SLACK, STATUSES, TIMEOUT, Findings, Gate, User
from tests.servers.postgres import PostgresServer
from tests.servers.redis import RedisServer

_USERS = 16  # two connections each
_EVERY = (20.0, 30.0)  # seconds between disturbances
_DOWN = (1.0, 5.0)  # seconds that one lasts
_SETTLING = 5.0  # seconds at the start and after a disturbance before a sample counts
_ALLOWED = {"rss": 4 * 2**20, "fds": 4, "engine's connections": 4, "tasks": 4}  # growth from the middle to the end


class Engine(Protocol):
    """A server that can be disturbed."""

    url: str

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def kill(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...


# --- the engine's troubles --------------------------------------------------------------------------------------------


def _troubles(engine: Engine) -> Iterator[tuple[str, Callable[[], None], Callable[[], None]]]:
    return itertools.cycle(
        [
            ("stop, start", engine.stop, engine.start),
            ("kill -9, start", engine.kill, engine.start),
            ("pause, resume", engine.pause, engine.resume),
        ]
    )


async def _disturb(engine: Engine, watch: Watch, seconds: float, every: tuple[float, float]) -> None:
    """Disturb the engine now and then, with a sample before each time."""
    end = time.monotonic() + seconds
    await asyncio.sleep(min(_SETTLING, seconds / 8))
    for name, down, up in _troubles(engine):
        await watch.sample()
        wait = random.uniform(*every)
        if time.monotonic() + wait + _DOWN[1] + _SETTLING > end:
            break
        progress(f"soak: {end - time.monotonic():.0f} s to go; {name}")
        lasting = random.uniform(*_DOWN)
        await asyncio.to_thread(down)
        await asyncio.sleep(lasting)
        await asyncio.to_thread(up)
        watch.findings.disturbances[name] += 1
        await watch.recovered(name)
        await asyncio.sleep(wait - lasting)
    await asyncio.sleep(max(0.0, end - time.monotonic()))
    await watch.sample()


class Watch:
    """Looks at the app's process and at its connections to the engine."""

    def __init__(self, served: Served, engine: Engine, gate: Gate, findings: Findings) -> None:
        self.findings = findings
        self._served = served
        self._gate = gate
        self._port = urlsplit(engine.url).port
        self._began = time.monotonic()

    async def sample(self) -> None:
        """Note what the process holds while no request is under way."""
        if not self._served.alive:
            self.findings.fault("uvicorn has ended")
            return
        async with self._gate.rest():
            client = Client(self._served.port)
            stats = json.loads((await client.get("/stats")).body)
            client.close()
        stats["engine's connections"] = _connections(self._served.pid, self._port)
        self.findings.samples.append({"second": time.monotonic() - self._began, **stats})

    async def recovered(self, name: str) -> None:
        """Wait until the app answers with a session again, and note how long that took since the engine was back."""
        began, client = time.monotonic(), Client(self._served.port)
        while True:
            with contextlib.suppress(OSError, EOFError):
                if (await client.get("/login?user=0")).status == 200:
                    break
            if time.monotonic() - began > 30:
                self.findings.fault(f"no session 30 s after {name}")
                break
            await asyncio.sleep(0.05)
        client.close()
        took = time.monotonic() - began
        self.findings.unavailable[name] = max(took, self.findings.unavailable.get(name, 0.0))


def _connections(pid: int, port: int | None) -> int:
    """Return how many TCP connections to this port the kernel has in the state "established"."""
    # Of this machine's client sides: nobody else knows the port of an engine that was started here.
    with open(f"/proc/{pid}/net/tcp", encoding="ascii") as file:
        rows = [line.split() for line in file.readlines()[1:]]
    return sum(row[2].endswith(f":{port:04X}") and row[3] == "01" for row in rows)


# --- the verdict ------------------------------------------------------------------------------------------------------


def _stages(samples: list[dict[str, float]]) -> tuple[dict[str, float], ...]:
    """Return start, middle and end; of the later two the medians of a fifth of the samples each."""
    size = max(1, len(samples) // 5)
    middle = (len(samples) - size) // 2
    parts = samples[:1], samples[middle : middle + size], samples[-size:]
    return tuple({name: statistics.median(sample[name] for sample in part) for name in part[0]} for part in parts)


def _judge(findings: Findings) -> list[tuple[str, str, bool]]:
    """Return what must hold, what was found, and whether it holds."""
    strange = {status: number for status, number in findings.answers.items() if status not in STATUSES}
    lost = [fault for fault in findings.faults if "acknowledged" in fault or "gone" in fault or "another's" in fault]
    limit = TIMEOUT + SLACK
    logged, disturbances = _lines_of(findings.log), findings.disturbances.total()
    found = [
        ("every answer was 200, 401 or 503", f"{dict(sorted(findings.answers.items()))}", not strange),
        (
            f"no answer took longer than {limit:g} s (store_timeout and {SLACK:g} s)",
            f"{findings.slowest:.2f} s ({findings.slowest_page})",
            findings.slowest <= limit,
        ),
        (
            "every acknowledged write was there, every acknowledged log-out was final",
            f"{findings.checked:,} values compared, {len(lost)} wrong",
            not lost,
        ),
        ("the engine was disturbed", ", ".join(f"{n} x {k}" for k, n in findings.disturbances.items()), True),
        (
            "one line logged when an outage begins, and one when it is over",
            f"{len(logged)} lines, {disturbances} disturbances",
            len(logged) <= 2 * disturbances,
        ),
        ("no other fault", f"{len(findings.faults)} in all", not findings.faults),
    ]
    _, middle, end = _stages(findings.samples)
    for name, allowed in _ALLOWED.items():
        growth = end[name] - middle[name]
        shown = f"{growth / 2**20:+.1f} MiB" if name == "rss" else f"{growth:+g}"
        most = f"{allowed // 2**20} MiB" if name == "rss" else f"{allowed}"
        found.append((f"{name}: no more than {most} from the middle to the end", shown, growth <= allowed))
    return found


def _lines_of(log: str) -> list[str]:
    return [line for line in log.splitlines() if line.strip()]


def _report(findings: Findings, facts: dict[str, str]) -> str:
    stages = _stages(findings.samples)
    rows = []
    for name in ("second", "rss", "fds", "engine's connections", "tasks", "served"):
        values = [stage[name] for stage in stages]
        rows.append([name, *(f"{value / 2**20:.1f} MiB" if name == "rss" else f"{value:,.0f}" for value in values)])
    verdict = _judge(findings)
    parts = [
        "## What the app's process held, at rest",
        table(["", "start", "middle", "end"], rows),
        f"{len(findings.samples)} samples, each after a garbage collection with no request under way; middle and end "
        "are medians of a fifth of them.",
        "## Requests",
        table(["page", "number"], [[page, f"{n:,}"] for page, n in sorted(findings.by_page.items())]),
        "## Until a session is had again, once the engine takes connections",
        table(["after", "slowest"], [[k, f"{seconds:.2f} s"] for k, seconds in findings.unavailable.items()]),
        "## Verdict",
        table(["what", "found", ""], [[what, got, "holds" if holds else "FAILS"] for what, got, holds in verdict]),
    ]
    if findings.faults:
        parts += ["## Faults", "\n".join(f"- {fault}" for fault in findings.faults[:40])]
    logged = _lines_of(findings.log)
    parts += [
        "## What the app logged",
        f"{len(logged)} lines; the last of them:",
        "\n".join(["```", *logged[-60:], "```"]),
        "## Machine",
        lines({**machine(), **facts}),
    ]
    return "\n\n".join(parts)


# --- the run ----------------------------------------------------------------------------------------------------------


def main() -> None:
    """Run, print the report, and exit with 1 where something did not hold."""
    options = _parse()
    findings = Findings()
    with _engine(options.engine) as engine, Served("roomkey", engine.url, **{STORE_TIMEOUT: str(TIMEOUT)}) as served:
        asyncio.run(_soak(engine, served, findings, options.minutes * 60))
        findings.log = served.log
    progress("")
    facts = {"engine": options.engine, "minutes": f"{options.minutes:g}", "connections": str(2 * _USERS)}
    print(_report(findings, facts))
    sys.exit(not all(holds for _, _, holds in _judge(findings)))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description="Roomkey on an engine that fails.")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long (default 10; at least 0.5)")
    parser.add_argument("--engine", choices=("redis", "postgres"), default="redis", help="default redis")
    options = parser.parse_args()
    if options.minutes < 0.5:
        parser.error("--minutes: it takes at least 0.5")
    return options


@contextlib.contextmanager
def _engine(name: str) -> Iterator[Any]:
    """Start an engine that keeps what it has acknowledged."""
    if name == "redis":
        with RedisServer("--appendonly", "yes", "--appendfsync", "always") as redis:
            yield redis
    else:
        with PostgresServer(fsync=True) as postgres:
            yield postgres


async def _soak(engine: Engine, served: Served, findings: Findings, seconds: float) -> None:
    gate, ending = Gate(), asyncio.Event()
    every = (min(_EVERY[0], seconds / 8), min(_EVERY[1], seconds / 6))
    users = [User(number + 1, served.port, gate, findings) for number in range(_USERS)]
    tasks = [asyncio.create_task(user.live(ending)) for user in users]
    try:
        await _disturb(engine, Watch(served, engine, gate, findings), seconds, every)
        ending.set()
        await asyncio.wait_for(asyncio.gather(*tasks), 60)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


if __name__ == "__main__":
    main()
