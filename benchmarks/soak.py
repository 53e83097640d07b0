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
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

from benchmarks.driver import Answer
from benchmarks.engine_app import STORE_TIMEOUT
from benchmarks.engines import Client, Served
from benchmarks.report import lines, machine, progress, table
from tests.servers.postgres import PostgresServer
from tests.servers.redis import RedisServer

_USERS = 16  # two connections each
_TIMEOUT = 2.0  # seconds, store_timeout
_SLACK = 1.0  # seconds that an answer may take beyond it: this machine is shared
_THINKING = 0.02  # seconds at most between a user's requests
_EVERY = (20.0, 30.0)  # seconds between disturbances
_DOWN = (1.0, 5.0)  # seconds that one lasts
_SETTLING = 5.0  # seconds at the start and after a disturbance before a sample counts
_KEYS = 8  # that a user writes to
_STATUSES = (200, 401, 503)
_ALLOWED = {"rss": 4 * 2**20, "fds": 4, "engine's connections": 4, "tasks": 4}  # growth from the middle to the end


class Engine(Protocol):
    """A server that can be disturbed."""

    url: str

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def kill(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...


# --- what was found ---------------------------------------------------------------------------------------------------


@dataclass
class Findings:
    """Everything that the run found."""

    answers: Counter[int] = field(default_factory=Counter)  # by status
    by_page: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0  # seconds
    slowest_page: str = ""
    faults: list[str] = field(default_factory=list)
    checked: int = 0  # values that were compared with what had been acknowledged
    disturbances: Counter[str] = field(default_factory=Counter)
    log: str = ""  # what the app logged
    unavailable: dict[str, float] = field(default_factory=dict)  # by kind, the longest span with 503s, in seconds
    samples: list[dict[str, float]] = field(default_factory=list)

    def fault(self, what: str) -> None:
        self.faults.append(f"after {time.monotonic() - _BEGAN:.1f} s: {what}")


_BEGAN = time.monotonic()


# --- the users --------------------------------------------------------------------------------------------------------


class Gate:
    """Lets requests pass while it is open; `rest` closes it and waits until none is under way."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._open.set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._inside = 0

    @contextlib.asynccontextmanager
    async def passing(self) -> AsyncIterator[None]:
        await self._open.wait()
        self._inside += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._idle.set()

    @contextlib.asynccontextmanager
    async def rest(self) -> AsyncIterator[None]:
        self._open.clear()
        await self._idle.wait()
        try:
            yield
        finally:
            self._open.set()


class User:
    """One browser with two connections, which remembers what the app has acknowledged.

    Args:
        number: the user's ID.
        port: of the app.
    """

    def __init__(self, number: int, port: int, gate: Gate, findings: Findings) -> None:
        self._number = number
        self._gate = gate
        self._findings = findings
        self._clients = (Client(port), Client(port))
        self._cookie: str | None = None
        self._values = itertools.count(1)
        self._acknowledged: dict[str, int] = {}  # by key
        self._maybe: dict[str, set[int]] = {}  # by key: answered 503, so perhaps saved, perhaps not
        self._logged_out: str | None = None  # a cookie that must not log in any more

    async def live(self, ending: asyncio.Event) -> None:
        """Click about until the end; then look a last time whether everything is there."""
        steps: list[Callable[[], Awaitable[None]]] = [self._read, self._write, self._write_both, self._anonymous]
        while not ending.is_set():
            if self._logged_out is not None:
                await self._try_the_old_card()
            elif self._cookie is None:
                await self._log_in()
            elif random.random() < 0.02:
                await self._log_out()
            else:
                await random.choice(steps)()
            await asyncio.sleep(random.uniform(0, _THINKING))
        while self._cookie is not None and not await self._read():
            await asyncio.sleep(0.1)
        for client in self._clients:
            client.close()

    async def _ask(self, target: str, cookie: str | None, client: Client | None = None) -> Answer:
        findings, page = self._findings, target.partition("?")[0]
        async with self._gate.passing():
            began = time.monotonic()
            try:
                answer = await (client or self._clients[0]).get(target, cookie)
            except (OSError, EOFError) as error:
                findings.fault(f"{page}: no answer: {error!r}")
                answer = Answer(0)
            took = time.monotonic() - began
        findings.answers[answer.status] += 1
        findings.by_page[page] += 1
        if took > findings.slowest:
            findings.slowest, findings.slowest_page = took, page
        if took > _TIMEOUT + _SLACK:
            findings.fault(f"{page}: {answer.status} took {took:.2f} s")
        if answer.status not in _STATUSES:
            findings.fault(f"{page}: status {answer.status}: {answer.body[:200]!r}")
        return answer

    async def _log_in(self) -> None:
        answer = await self._ask(f"/login?user={self._number}", None)
        if answer.status == 200:
            if answer.cookie is None:
                self._findings.fault("/login: no cookie")
            self._cookie, self._acknowledged, self._maybe = answer.cookie, {}, {}

    async def _anonymous(self) -> None:
        answer = await self._ask("/anonymous", None)
        if answer.status != 200:
            self._findings.fault(f"/anonymous: {answer.status}, though it needs no store")

    async def _read(self) -> bool:
        """Compare the session with what was acknowledged. Returns whether it could be read."""
        answer = await self._ask("/show", self._cookie)
        if answer.status == 401:
            self._findings.fault(f"user {self._number}: the session is gone")
            self._cookie = None
        if answer.status != 200:
            return False
        found = json.loads(answer.body)
        for number in range(_KEYS):
            key = f"k{number}"
            wanted = {self._acknowledged.get(key), *self._maybe.get(key, ())}
            self._findings.checked += 1
            if found.get(key) not in wanted:
                self._findings.fault(f"user {self._number}: {key} is {found.get(key)}, acknowledged: {wanted}")
                self._acknowledged[key] = found.get(key)
        if found.get("user_id") != self._number or found.get("theme") != "dark":
            self._findings.fault(f"user {self._number}: another's session, or half of it")
        return True

    async def _write(self) -> None:
        await self._put(f"k{random.randrange(_KEYS)}", self._clients[0])

    async def _write_both(self) -> None:
        """Change two keys at once, on two connections: both must be kept."""
        one, other = random.sample(range(_KEYS), 2)
        await asyncio.gather(self._put(f"k{one}", self._clients[0]), self._put(f"k{other}", self._clients[1]))

    async def _put(self, key: str, client: Client) -> None:
        value, cookie = next(self._values), self._cookie
        answer = await self._ask(f"/put?key={key}&value={value}", cookie, client)
        if answer.status == 200:
            self._acknowledged[key] = value
            self._maybe.pop(key, None)  # nothing of before may come back over what was acknowledged
        elif answer.status == 401:
            self._findings.fault(f"user {self._number}: the session is gone")
            self._cookie = None
        else:
            self._maybe.setdefault(key, set()).add(value)

    async def _log_out(self) -> None:
        cookie, self._cookie = self._cookie, None
        answer = await self._ask("/logout", cookie)
        if answer.status == 200:
            self._logged_out = cookie  # after a 503 it may have ended or not

    async def _try_the_old_card(self) -> None:
        answer = await self._ask("/show", self._logged_out)
        if answer.status == 200:
            self._findings.fault(f"user {self._number}: logged in after a log-out that was acknowledged")
        if answer.status in (200, 401):
            self._logged_out = None


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
    strange = {status: number for status, number in findings.answers.items() if status not in _STATUSES}
    lost = [fault for fault in findings.faults if "acknowledged" in fault or "gone" in fault or "another's" in fault]
    limit = _TIMEOUT + _SLACK
    logged, disturbances = _lines_of(findings.log), findings.disturbances.total()
    found = [
        ("every answer was 200, 401 or 503", f"{dict(sorted(findings.answers.items()))}", not strange),
        (
            f"no answer took longer than {limit:g} s (store_timeout and {_SLACK:g} s)",
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
    with _engine(options.engine) as engine, Served("roomkey", engine.url, **{STORE_TIMEOUT: str(_TIMEOUT)}) as served:
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
