"""Sessions that are kept near: `python -m benchmarks.near`.

What a read from memory costs, in process and over HTTP, beside a store in memory. How late a read in another process
is, with the server at rest and under load. And a store that caches without hearing of changes, beside it.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import random
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import uvloop

from benchmarks import over_http
from benchmarks.counting import RedisEngine
from benchmarks.driver import answer_lifespan, lifespan
from benchmarks.report import Report, Target, progress, run, table
from benchmarks.samples import Lane, Size, measure_alone
from benchmarks.scenarios import SCENARIOS, SMALL, json_size
from benchmarks.served import NEAR_CACHE
from benchmarks.subjects import BARE, MEMORY, REDIS, SECRET, SQLITE, Subject, bare_app, roomkey
from roomkey import SessionManager
from roomkey.stores.base import Record, Store
from roomkey.stores.memory import MemoryStore
from roomkey.stores.redis import RedisStore
from tests.servers.redis import RedisServer

_FULL, _QUICK = Size(samples=60, requests=50), Size(samples=10, requests=50)
_NEAR = ", near"
_KEPT = 10_000  # sessions
_WRITERS = 2  # processes that save other sessions, for the load
_PAUSE = (0.001, 0.008)  # seconds between two changes

_METHOD = """\
In process: as in the part "sessions". The Redis server and the SQLite file are on this machine. A hit asks neither.

Over HTTP: as in the part "http", reads only.

Lateness: one process saves a number into a session, {changes} times, with a random pause of {least:g} to {most:g} ms.
Another one has the session in its memory. From the moment when that forgets it, a read asks the server. A change is
late by the time from its acknowledgement until that moment. Both processes see one clock. Where the message was faster
than the acknowledgement, it is 0. Under load, the second process also answers reads, from 16 tasks that rest for a
millisecond in between. And {writers} more processes save other sessions as fast as they can, of which it is told too.

A caching store: tower-sessions has a store that is made of a cache and a store. It reads the cache first, and writes
both. Here it is, with a dict for the cache, over the same Redis store. After each of 20 log-outs in another process,
the session is loaded for 3 seconds."""


class CachingStore:
    """The idea of tower-sessions' `CachingSessionStore`: a cache before a store, which nobody tells of changes."""

    def __init__(self, cache: Store, store: Store) -> None:
        self._cache, self._store = cache, store

    async def load(self, key: str) -> Record | None:
        found = await self._cache.load(key)
        if found is None:
            found = await self._store.load(key)
            if found is not None:
                await self._put(key, found)
        return found

    async def create(self, key: str, record: Record) -> None:
        await self._store.create(key, record)
        await self._put(key, record)

    async def update(self, key: str, record: Record, *, version: int) -> None:
        await self._store.update(key, record, version=version)
        await self._put(key, record)

    async def rotate(self, key: str, new_key: str, record: Record, tombstone: Record, *, version: int) -> None:
        await self._store.rotate(key, new_key, record, tombstone, version=version)
        await self._put(key, tombstone)
        await self._put(new_key, record)

    async def touch(self, key: str, expires_at: float) -> bool:
        await self._cache.touch(key, expires_at)
        return await self._store.touch(key, expires_at)

    async def delete(self, key: str) -> None:
        await self._store.delete(key)
        await self._cache.delete(key)

    async def _put(self, key: str, record: Record) -> None:
        await self._cache.delete(key)
        await self._cache.create(key, record)


def measure(quick: bool) -> Report:
    """Measure everything, and return the report."""
    size, changes = (_QUICK, 100) if quick else (_FULL, 2000)
    with RedisServer() as server:
        engine = RedisEngine(server.url)
        costs = uvloop.run(_costs(server.url, size))
        rates, burdens = _rates(server.url, 2 if quick else 9)
        late = {
            "at rest": _lateness(server.url, changes, is_loaded=False),
            "under load": _lateness(server.url, changes, is_loaded=True),
        }
        served = {
            "near_cache": _after_log_outs(server.url, "near"),
            "a caching store": _after_log_outs(server.url, "caching"),
        }
    in_process = {name: cost / costs[MEMORY] for name, cost in costs.items()}
    over = {name: median(one / other for one, other in zip(rates[name], rates[MEMORY], strict=True)) for name in rates}
    return Report(
        name="near",
        title="Sessions that are kept near",
        method=_METHOD.format(changes=changes, least=_PAUSE[0] * 1000, most=_PAUSE[1] * 1000, writers=_WRITERS),
        sections=[
            (f"A read of one key, in process ({json_size(SMALL)} bytes)", _table_of_costs(costs, in_process)),
            ("Reads over HTTP", _table_of_rates(rates, burdens, over)),
            ("How late a read in another process is, over Redis", _table_of_lateness(late)),
            ("Loads that still found a session, after 20 log-outs in another process", _table_of_served(served)),
        ],
        figures={"costs": costs, "rates": rates, "processor_microseconds": burdens, "lateness": late, "served": served},
        targets=[
            Target(f"{REDIS + _NEAR}: read, in process", in_process[REDIS + _NEAR], 1.3),
            Target(f"{SQLITE + _NEAR}: read, in process", in_process[SQLITE + _NEAR], 1.3),
            Target(f"{REDIS + _NEAR}: read, over HTTP", over[REDIS + _NEAR], 0.8, at_least=True),
        ],
        packages={"redis", "hiredis", "uvicorn", "uvloop", "httptools"},
        programs={engine.title: engine.version},
    )


# --- what it costs ----------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _subjects(url: str) -> AsyncIterator[list[Subject]]:
    with tempfile.TemporaryDirectory() as folder:
        files = [f"sqlite:///{Path(folder, name)}" for name in ("plain", "near")]
        subjects = [
            roomkey(MEMORY, "memory://"),
            roomkey(REDIS, url),
            roomkey(REDIS + _NEAR, url, near_cache=_KEPT),
            roomkey(SQLITE, files[0]),
            roomkey(SQLITE + _NEAR, files[1], near_cache=_KEPT),
        ]
        async with contextlib.AsyncExitStack() as stack:
            for subject in subjects:
                await stack.enter_async_context(lifespan(subject.wrap(answer_lifespan)))
            yield subjects


async def _costs(url: str, size: Size) -> dict[str, float]:
    scenario = SCENARIOS["read"]
    async with _subjects(url) as subjects:
        lanes = [Lane(scenario, subject) for subject in (bare_app(), *subjects)]
        found = await measure_alone(lanes, size, "near: in process")
    return {name: cost for name, cost in found.items() if name != BARE}


def _rates(url: str, rounds: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Return requests a second, and µs of processor time a request, by subject and round."""
    with contextlib.ExitStack() as stack:
        subjects = [
            over_http.Subject(MEMORY, "roomkey", "memory://"),
            over_http.Subject(REDIS + _NEAR, "roomkey", url, environment={NEAR_CACHE: str(_KEPT)}),
            over_http.Subject(REDIS, "roomkey", url),
        ]
        over_http.serve(subjects, stack)
        asyncio.run(over_http.measure_all(subjects, rounds, ("read",)))
    rates = {subject.name: subject.rates["read"] for subject in subjects}
    return rates, {subject.name: subject.burdens["read"] for subject in subjects}


# --- how late it is ---------------------------------------------------------------------------------------------------


def _manager(url: str, kind: str) -> SessionManager:
    store: Any = url
    if kind == "caching":
        store = CachingStore(MemoryStore(), RedisStore(url))
    return SessionManager(secret_key=SECRET, store=store, near_cache=_KEPT if kind == "near" else None)


async def _begin(manager: SessionManager) -> str:
    session = await manager.load(None)
    session.update(SMALL, n=0, user_id=7)
    return dict(await manager.commit(session))["set-cookie"].split(";")[0]


@contextlib.contextmanager
def _process(work: Any, *args: Any) -> Iterator[Connection]:
    """Run something in a process of its own, with a pipe to it."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=work, args=(there, *args), daemon=True)
    process.start()
    try:
        yield here
    finally:
        process.terminate()
        process.join()


class _Ear:
    """Notes when this process's memory forgets."""

    def __init__(self, manager: SessionManager, cookie: str) -> None:
        self.seen: dict[int, float] = {}  # by number, when everything before it was forgotten
        self._manager, self._cookie = manager, cookie
        self._tasks: set[asyncio.Task[None]] = set()
        assert manager.near is not None
        manager.near.notices.add(self, 1.0)

    def forget(self, key: str) -> None:
        if key == self.key:
            task = asyncio.get_running_loop().create_task(self._look(time.monotonic()))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def forget_all(self) -> None:
        pass

    async def begin(self) -> None:
        self.key: str = ""
        session = await self._manager.load(self._cookie)
        self.key = session.handle

    async def _look(self, moment: float) -> None:
        self.seen.setdefault((await self._manager.load(self._cookie))["n"], moment)


def _hear_all(pipe: Connection, url: str, cookie: str, last: int, is_loaded: bool) -> None:
    """Have a session near until it holds the last number. Says when each number made it forget."""

    async def main() -> None:
        async with _manager(url, "near") as manager:
            ear = _Ear(manager, cookie)
            await ear.begin()
            tasks = [asyncio.create_task(_load_again_and_again(manager, cookie)) for _ in range(16 * is_loaded)]
            pipe.send("ready")
            while last not in ear.seen:
                await asyncio.sleep(0.01)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            pipe.send(ear.seen)

    uvloop.run(main())


async def _load_again_and_again(manager: SessionManager, cookie: str) -> None:
    while True:
        await manager.load(cookie)
        await asyncio.sleep(0.001)


def _write_on(pipe: Connection, url: str) -> None:
    """Save sessions of one's own, for ever."""

    async def main() -> None:
        async with _manager(url, "plain") as manager:
            cookie, number = await _begin(manager), 0
            pipe.send("ready")
            while True:
                session = await manager.load(cookie)
                session["n"] = number = number + 1
                await manager.commit(session)

    uvloop.run(main())


def _lateness(url: str, changes: int, *, is_loaded: bool) -> dict[str, float]:
    """Return percentiles of how late a change is seen in another process, in ms."""
    progress("near: lateness under load" if is_loaded else "near: lateness at rest")

    async def write() -> dict[int, float]:
        acknowledged = {}
        for number in range(1, changes + 1):
            await asyncio.sleep(random.uniform(*_PAUSE))
            session = await manager.load(cookie)
            session["n"] = number
            await manager.commit(session)
            acknowledged[number] = time.monotonic()
        return acknowledged

    with contextlib.ExitStack() as stack:
        for _ in range(_WRITERS * is_loaded):
            stack.enter_context(_process(_write_on, url)).recv()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            manager = _manager(url, "plain")
            cookie = runner.run(_begin(manager))
            pipe = stack.enter_context(_process(_hear_all, url, cookie, changes, is_loaded))
            pipe.recv()
            acknowledged = runner.run(write())
            seen = pipe.recv()
            runner.run(manager.registry.store.close())
    # A number that was never seen was overtaken: a later one was seen in its place.
    late, first = [], float("inf")
    for number in range(changes, 0, -1):
        first = min(first, seen.get(number, float("inf")))
        late.append(max(first - acknowledged[number], 0.0) * 1000)
    late.sort()
    found = {f"p{share}": late[min(int(len(late) * share / 100), len(late) - 1)] for share in (50, 99)}
    return {**found, "largest": late[-1]}


def _load_on(pipe: Connection, url: str, kind: str) -> None:
    """Load sessions as told: a cookie, then how often it was found within 3 seconds, and when for the last time."""

    async def main() -> None:
        async with _manager(url, kind) as manager:
            while (cookie := await asyncio.to_thread(pipe.recv)) is not None:
                for _ in range(50):
                    await manager.load(cookie)
                    await asyncio.sleep(0.01)
                pipe.send("ready")
                ended = await asyncio.to_thread(pipe.recv)
                found, last = 0, 0.0
                while (now := time.monotonic()) < ended + 3:
                    if (await manager.load(cookie)).get("user_id") is not None:
                        found, last = found + 1, now - ended
                    await asyncio.sleep(0.005)
                pipe.send((found, last))

    asyncio.run(main())


def _after_log_outs(url: str, kind: str) -> dict[str, float]:
    """Return how often a session was found that had ended in another process, and for how long at most."""
    progress(f"near: log-outs, {kind}")
    found, longest = 0, 0.0
    with _process(_load_on, url, kind) as pipe, asyncio.Runner() as runner:
        manager = _manager(url, "plain")

        async def log_out(cookie: str) -> None:
            session = await manager.load(cookie)
            session.clear()
            await manager.commit(session)

        for _ in range(20):
            cookie = runner.run(_begin(manager))
            pipe.send(cookie)
            pipe.recv()
            runner.run(log_out(cookie))
            pipe.send(time.monotonic())
            times, last = pipe.recv()
            found, longest = found + times, max(longest, last)
        runner.run(manager.registry.store.close())
    return {"found": found, "longest": longest}


# --- the tables -------------------------------------------------------------------------------------------------------


def _table_of_costs(costs: dict[str, float], shares: dict[str, float]) -> str:
    return table(["", "µs", "of memory's"], [[name, f"{costs[name]:.1f}", f"{shares[name]:.2f}"] for name in costs])


def _table_of_rates(rates: dict[str, list[float]], burdens: dict[str, list[float]], shares: dict[str, float]) -> str:
    rows = [
        [
            name,
            f"{median(rates[name]):,.0f}",
            f"{shares[name]:.2f}",
            f"{median(burdens[name]):.0f}",
        ]
        for name in rates
    ]
    return table(["", "requests/s", "of memory's", "CPU µs a request"], rows)


def _table_of_lateness(late: dict[str, dict[str, float]]) -> str:
    rows = [[name, *(f"{found[each]:.2f}" for each in ("p50", "p99", "largest"))] for name, found in late.items()]
    return table(["", "p50, ms", "p99, ms", "largest, ms"], rows)


def _table_of_served(served: dict[str, dict[str, float]]) -> str:
    rows = [[name, f"{found['found']:.0f}", f"{found['longest']:.3f}"] for name, found in served.items()]
    return table(["", "loads", "until, seconds after the log-out"], rows)


if __name__ == "__main__":
    run("benchmarks.near", measure, "Sessions that are kept near, over Redis and SQLite.")
