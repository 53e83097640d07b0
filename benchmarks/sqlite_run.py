"""What one process of `benchmarks.sqlite` does: it is told by its arguments, and prints what it found as JSON."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sqlite3
import sys
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from roomkey.stores.base import Record
from roomkey.stores.sqlite import SQLiteStore

SESSIONS = 20_000
DATA = b"x" * 300
LIFE = 14_400.0  # seconds
# Seconds that a made-up disk takes for a commit, for which share of them, and for a checkpoint.
DISKS = {
    "20 ms now and then": (0.02, 0.01, 0.0),
    "5 ms a commit": (0.005, 1.0, 0.0),
    "100 ms a checkpoint": (0, 0, 0.1),
}


@dataclass(frozen=True)
class Run:
    """What is measured. All times are in seconds."""

    path: str
    where: str = "loop"  # "thread", or "beside": another version of Roomkey
    seconds: float = 1.0
    writers: int = 1
    gap: float = 0.0  # between two writes of one writer
    compute: float = 0.0  # of Python code before each write
    disk: str = ""  # "": the real one
    begin: float = 0.0  # on time.time, for processes that start together
    part: int = 0  # which quarter of the sessions the writers take, so that processes do not meet


@dataclass
class Found:
    """How it went, in one process or in several together. All times are in seconds."""

    rate: float = 0.0  # writes a second
    writes: list[float] = field(default_factory=list)  # how long each took
    stalls: list[float] = field(default_factory=list)  # by how much each heartbeat was late
    log: int = 0  # bytes, at most
    still: float = 0.0  # share of the time in which the event loop stood still for more than 2 ms
    calls: dict[str, list[float]] = field(default_factory=dict)  # how long each took, by operation

    def add(self, other: Found, runs: int) -> None:
        """Add one of so many runs."""
        self.rate += other.rate / runs
        self.writes += other.writes
        self.stalls += other.stalls
        self.log = max(self.log, other.log)
        self.still += other.still / runs
        for name, took in other.calls.items():
            self.calls.setdefault(name, []).extend(took)


def key_of(number: int) -> str:
    return f"{random.Random(number).getrandbits(256):064x}"


def _store(run: Run) -> SQLiteStore:
    return (
        SQLiteStore(run.path)
        if run.where == "beside"
        else SQLiteStore(run.path, writes_in_thread=run.where == "thread")
    )


async def fill(run: Run) -> Found:
    """Make the file."""
    store = _store(run)
    now = time.time()
    for start in range(0, SESSIONS, 250):
        records = ((key_of(number), Record(DATA, 1, now, now + LIFE)) for number in range(start, start + 250))
        await asyncio.gather(*(store.create(*record) for record in records))
    await store.close()
    return Found()


async def write(run: Run) -> Found:
    """Let the writers write, beside a heart that beats."""
    found = Found()
    if run.disk:
        _slow_down(run.disk)
    store = _store(run)
    await store.open()
    keys = [key_of(number) for number in range(run.part * SESSIONS // 4, (run.part + 1) * SESSIONS // 4)]
    await asyncio.sleep(max(0.0, run.begin - time.time()))
    end = time.perf_counter() + run.seconds
    log = Path(f"{run.path}-wal")

    async def beat() -> None:
        while time.perf_counter() < end:
            asked = time.perf_counter()
            await asyncio.sleep(0.001)
            found.stalls.append(time.perf_counter() - asked - 0.001)
            found.log = max(found.log, os.stat(log).st_size)

    async def one(number: int) -> None:
        mine = keys[number :: run.writers]
        while time.perf_counter() < end:
            key = random.choice(mine)
            before = await store.load(key)
            assert before is not None
            record = replace(before, version=before.version + 1, expires_at=time.time() + LIFE)
            until = time.perf_counter() + run.compute
            while time.perf_counter() < until:
                pass
            began = time.perf_counter()
            await store.update(key, record, version=before.version)
            found.writes.append(time.perf_counter() - began)
            if run.gap:
                await asyncio.sleep(run.gap)

    began = time.perf_counter()
    await asyncio.gather(beat(), *(one(number) for number in range(run.writers)))
    found.rate = len(found.writes) / (time.perf_counter() - began)
    found.still = sum(stall for stall in found.stalls if stall > 0.002) / run.seconds
    await store.close()
    return found


async def call(run: Run) -> Found:
    """One operation after the other, each in a tick of its own."""
    found = Found()
    store = _store(run)
    await store.open()
    now = time.time()

    async def timed(name: str, operation: Awaitable[Any]) -> Any:
        await asyncio.sleep(0)
        began = time.perf_counter()
        answer = await operation
        found.calls.setdefault(name, []).append(time.perf_counter() - began)
        return answer

    for number in range(2000):
        key = key_of(number)
        before = await timed("load", store.load(key))
        await timed("load again", store.load(key))
        record = replace(before, version=before.version + 1, expires_at=now + LIFE + number)
        await timed("update", store.update(key, record, version=before.version))
        await timed("load after a write", store.load(key))
        await timed("touch", store.touch(key, now + LIFE + number + 1))
        fresh, moved = f"{random.getrandbits(256):064x}", f"{random.getrandbits(256):064x}"
        await timed("create", store.create(fresh, Record(DATA, 1, now, now + LIFE)))
        tombstone = Record(b"", 2, now, now + 60, successor=moved, serve_until=now + 30)
        log_in = Record(DATA, 2, now, now + LIFE, user=str(number))
        await timed("rotate", store.rotate(fresh, moved, log_in, tombstone, version=1))
        await timed("delete", store.delete(moved))
    await store.close()
    return found


async def acknowledge(run: Run) -> Found:
    """Write for ever, and say what was saved."""
    store = _store(run)
    number = 0
    while True:
        now = time.time()
        await store.create(f"{number:064x}", Record(b"1", 1, now, now + LIFE))
        await store.update(f"{number:064x}", Record(b"2", 2, now, now + LIFE), version=1)
        os.write(1, b"%d\n" % number)
        number += 1


def _slow_down(disk: str) -> None:
    """Have every connection from now on wait as on that disk."""
    commit, share, checkpoint = DISKS[disk]
    chance = random.Random(1)

    class Slow(sqlite3.Connection):
        def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
            commits = sql == "COMMIT" or (not self.in_transaction and sql.lstrip().startswith(("UPDATE", "INSERT")))
            if commits and chance.random() < share:
                time.sleep(commit)
            elif "wal_checkpoint" in sql:
                time.sleep(checkpoint)
            return super().execute(sql, *args)

    connect = sqlite3.connect
    sqlite3.connect = lambda *args, **options: connect(*args, factory=Slow, **options)  # type: ignore[assignment]


if __name__ == "__main__":
    _what = {"fill": fill, "write": write, "call": call, "acknowledge": acknowledge}[sys.argv[1]]
    print(json.dumps(vars(asyncio.run(_what(Run(**json.loads(sys.argv[2])))))))
