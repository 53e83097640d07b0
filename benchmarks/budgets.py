"""The budgets of the design, each with what was found. Ratios of one run; nothing here is a timed test."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass

from benchmarks.driver import ask
from benchmarks.scenarios import SCENARIOS
from benchmarks.subjects import FLOOR, LIFETIME, PASS_THROUGH, ROOMKEY, SECRET, STARLETTE, Subject
from roomkey import SessionConfig, SessionMiddleware
from roomkey.stores.base import Record
from roomkey.stores.memory import MemoryStore

# Frameworks, drivers and extras that `import roomkey` must leave alone.
_LATER = (
    *("starlette", "fastapi", "lilya", "ravyn", "litestar", "quart", "django", "pydantic", "httpx"),
    *("sqlite3", "redis", "valkey", "asyncpg", "psycopg", "sqlalchemy", "aiosqlite"),
    *("cryptography", "click", "jinja2", "opentelemetry", "prometheus_client"),
)


@dataclass(frozen=True)
class Budget:
    """One line of the section. `met` is None where the figure is only reported."""

    what: str
    allowed: str
    found: str
    met: bool | None


class SpyStore:
    """A store made of a store: counts what is asked of it."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.calls: Counter[str] = Counter()

    async def load(self, key: str) -> Record | None:
        self.calls["load"] += 1
        return await self.store.load(key)

    async def create(self, key: str, record: Record) -> None:
        self.calls["save"] += 1
        await self.store.create(key, record)

    async def update(self, key: str, record: Record, *, version: int) -> None:
        self.calls["save"] += 1
        await self.store.update(key, record, version=version)

    async def rotate(self, key: str, new_key: str, record: Record, tombstone: Record, *, version: int) -> None:
        self.calls["save"] += 1
        await self.store.rotate(key, new_key, record, tombstone, version=version)

    async def touch(self, key: str, expires_at: float) -> bool:
        self.calls["touch"] += 1
        return await self.store.touch(key, expires_at)

    async def delete(self, key: str) -> None:
        self.calls["delete"] += 1
        await self.store.delete(key)


async def count_operations() -> dict[str, Counter[str]]:
    """Return what each scenario asks of the store, for one request."""
    spy = SpyStore()
    config = SessionConfig(secret_key=SECRET, max_age=LIFETIME, store=spy)
    subject = Subject("spy", "", lambda app: SessionMiddleware(app, config))
    counted = {}
    for scenario in SCENARIOS.values():
        cookie = await scenario.cookie(subject)
        spy.calls.clear()
        await ask(scenario.app(subject), cookie)
        counted[scenario.name] = Counter(spy.calls)
    return counted


def import_milliseconds(times: int) -> float:
    """Return what `import roomkey` takes: the median fresh interpreter with it, less the median one without."""

    with tempfile.TemporaryDirectory() as folder:
        # Byte code is read, as in an installed package, wherever this runs; nothing is left in the source tree.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        environment["PYTHONPYCACHEPREFIX"] = folder

        def run(code: str) -> float:
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True, env=environment)
            return (time.perf_counter() - began) * 1000

        run("import roomkey")  # writes the byte code
        took = [(run("import roomkey"), run("pass")) for _ in range(times)]
    return statistics.median(one for one, _ in took) - statistics.median(other for _, other in took)


def imported_too_early() -> list[str]:
    """Return the frameworks, drivers and extras that `import roomkey` brings with it."""
    code = f"import sys, roomkey; print(*[name for name in {_LATER!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return done.stdout.split()


def judge(
    totals: dict[str, dict[str, float]],
    alone: dict[str, dict[str, float]],
    operations: dict[str, Counter[str]],
    import_ms: float,
    early: list[str],
) -> list[Budget]:
    """Compare what was found with the budgets.

    Args:
        totals: µs per request, by scenario and subject.
        alone: the same for the session alone.
        operations: what each scenario asked of the store.
        import_ms: what `import roomkey` takes.
        early: what it imported and should not have.
    """
    budgets = []
    read = alone["read"]
    if STARLETTE in read:
        ratio = read[ROOMKEY] / read[STARLETTE]
        budgets.append(Budget("read a key, against Starlette", "≤ 0.33 x", f"{ratio:.2f} x", ratio <= 1 / 3))
    ratio = read[ROOMKEY] / read[FLOOR]
    budgets.append(Budget("read a key, against the floor", "≤ 3 x", f"{ratio:.2f} x", ratio <= 3))
    ratio = totals["anonymous"][ROOMKEY] / totals["anonymous"][PASS_THROUGH]
    budgets.append(Budget("anonymous, total, against pass-through", "< 1.5 x", f"{ratio:.2f} x", ratio < 1.5))
    wanted: dict[str, dict[str, int]] = {
        "read": {"load": 1},
        "write": {"load": 1, "save": 1},
        "anonymous": {},
        "forged": {},
        "untouched": {},
    }
    for name, calls in wanted.items():
        found = {call: number for call, number in operations[name].items() if number}
        # Untouched is only reported: whether the load can be put off is the design's to say.
        met = None if name == "untouched" else found == calls
        budgets.append(Budget(f"store operations: {SCENARIOS[name].title}", _calls(calls), _calls(found), met))
    budgets.append(Budget("`import roomkey`", "< 40 ms", f"{import_ms:.1f} ms", import_ms < 40))
    budgets.append(Budget("imported with it: frameworks, drivers", "none", ", ".join(early) or "none", not early))
    return budgets


def _calls(calls: dict[str, int]) -> str:
    return " + ".join(f"{number} {call}" for call, number in calls.items()) or "none"
