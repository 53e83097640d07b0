"""Fills a store with sessions for `benchmarks.scale`: one process, which can be stopped and goes on where it was.

Some sessions are log-ins through the public API, and their cookies are kept: the operations are done on these, which
lie evenly among the others. The others are what the library's encoder made of a log-in, each with a key and a user of
its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.scale_engines import ENGINES
from roomkey import Request, SessionManager
from roomkey.stores.base import Record

__all__ = ["DATA", "MAX_AGE", "SECRET_KEY", "Progress", "cards_in", "log_in"]

SECRET_KEY = "a secret key of the benchmark alone, which signs its cards"
MAX_AGE = 30 * 86400  # seconds: nothing expires while it is measured
DATA = {
    "name": "Ada Lovelace",
    "roles": ["customer", "reviewer"],
    "cart": [{"sku": f"SKU-{number:05}", "count": number} for number in range(1, 6)],
    "seen": list(range(1000, 1010)),
    "theme": "dark",
}
_BATCH = 5000  # sessions
_PATTERNS = 100  # log-ins whose records the others are made from
_CARDS = 20_000  # sessions, at most, whose cookies are kept in each store


class Progress:
    """How far one process has come, in a file beside the engine's.

    Args:
        folder: the engine's.
        worker: which process.
    """

    def __init__(self, folder: Path, worker: int) -> None:
        self._state = folder / f"worker-{worker}.json"
        self.cards = folder / f"worker-{worker}.cards"

    @property
    def made(self) -> int:
        try:
            return int(json.loads(self._state.read_text())["made"])
        except (FileNotFoundError, ValueError):
            return 0

    def note(self, made: int, cards: list[str]) -> None:
        with self.cards.open("a") as file:
            file.writelines(f"{card}\n" for card in cards)
        fresh = self._state.with_suffix(".new")
        fresh.write_text(json.dumps({"made": made}))
        fresh.rename(self._state)


def cards_in(folder: Path) -> list[tuple[str, str]]:
    """Return the user and the cookie of each session whose cookie was kept."""
    files = sorted(folder.glob("worker-*.cards"))
    found = [line.split(" ", 1) for file in files for line in file.read_text().splitlines()]
    return [(user, cookie) for user, cookie in found]


async def log_in(manager: SessionManager[Any], user: str) -> str:
    """Log a new visitor in, and return the cookie."""
    session = await manager.load(Request())
    session.update(DATA)
    session["user_id"] = user
    headers = await manager.commit(session, status=200, headers=[])
    (cookie,) = (value.partition(";")[0] for name, value in headers if name == "set-cookie")
    return cookie


class _Kept:
    """A store that only takes new records, for others to be made from them."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    async def create(self, key: str, record: Record) -> None:
        self.records.append(record)

    async def load(self, key: str) -> Record | None:
        return None

    async def update(self, key: str, record: Record, *, version: int) -> None:
        raise NotImplementedError

    async def rotate(self, key: str, new_key: str, record: Record, tombstone: Record, *, version: int) -> None:
        raise NotImplementedError

    async def touch(self, key: str, expires_at: float) -> bool:
        raise NotImplementedError

    async def delete(self, key: str) -> None:
        raise NotImplementedError


async def _patterns() -> list[Record]:
    kept = _Kept()
    manager = SessionManager(secret_key=SECRET_KEY, store=kept, max_age=MAX_AGE, absolute_timeout=2 * MAX_AGE)
    for number in range(_PATTERNS):
        await log_in(manager, f"pattern{number:07}")
    return kept.records


async def _fill(name: str, url: str, folder: Path, worker: int, count: int, total: int) -> None:
    """Make the sessions of one process: `count` of the `total` that the store gets, two for each user."""
    progress, patterns = Progress(folder, worker), await _patterns()
    every = max(1, total // _CARDS) * 2  # of so many, the first two are log-ins of one user
    run = os.urandom(4).hex()  # in the users' names: what was made and not noted before it stopped is others'
    filler = await ENGINES[name].filler(url)
    options: dict[str, Any] = {"secret_key": SECRET_KEY, "max_age": MAX_AGE, "absolute_timeout": 2 * MAX_AGE}
    manager = SessionManager(
        store=url, store_timeout=60, **options
    )  # SQLite moves a large log into the file now and then
    async with manager:
        for start in range(progress.made, count, _BATCH):
            rows: list[tuple[str, Record]] = []
            cards: list[str] = []
            for number in range(start, min(start + _BATCH, count)):
                user = f"{run}-{number // 2:07}"
                if number % every < 2:
                    cards.append(f"{user} {await log_in(manager, user)}")
                else:
                    rows.append((os.urandom(32).hex(), replace(patterns[number % _PATTERNS], user=user)))
            await filler.put(rows)
            progress.note(min(start + _BATCH, count), cards)
    await filler.close()


if __name__ == "__main__":
    logging.getLogger("roomkey").setLevel(logging.ERROR)  # it warns of a Redis that keeps no files
    _name, _url, _folder, *_numbers = sys.argv[1:]
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_fill(_name, _url, Path(_folder), *map(int, _numbers)))
