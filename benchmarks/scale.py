"""What grows with the number of sessions: `python -m benchmarks.scale`.

Fills Redis with 1 and 10 million sessions, PostgreSQL and SQLite with 1 and 5 million, and does the same operations
on both, in turn. `--scale 0.01` is for small machines. What was filled stays in `--folder`: stopped with Ctrl-C, the
command goes on where it was.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import logging
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.report import Report, Target, produce, table
from benchmarks.scale_engines import ENGINES, Engine, Postgres
from benchmarks.scale_fill import DATA, MAX_AGE, SECRET_KEY, cards_in, log_in
from benchmarks.scale_fill import Progress as Made
from benchmarks.scenarios import json_size
from roomkey import SessionManager, Sessions
from roomkey.stores.base import Purge

_ROUNDS = 20
_AT_ONCE = 50  # operations in a sample
_PURGED = 200  # expired sessions that a purge finds
_LONG_AGO = 3 * MAX_AGE  # seconds

_METHOD = """\
Each session is {size} bytes as JSON, and each user has two. One process does one operation after the other, through
the public API (`SessionManager.load` and `commit`, `Sessions`), with asyncio's own loop. A sample is {at_once}
operations, each on another session. The samples of the two sizes are taken in turn, {rounds} of each; a figure is the
least of them, in µs an operation. "save" loads the session, sets a key and commits. "log in" is a visitor without a
cookie. "revoke" ends one session by its handle. "purge" is µs for each of {purged} expired sessions, and "purge,
nothing due" is one call. "end all" is one call, in ms, the last thing that is done.

The sessions whose cookies are used were log-ins, and lie evenly among the others. The others are records of log-ins
with another key and another user. Redis gets them as the store's own commands in pipelines, SQLite by the store's
statements, PostgreSQL by COPY. After that PostgreSQL is vacuumed. It has 512 MB of shared buffers, and
`synchronous_commit=off`. Redis writes no files meanwhile. "bytes a session" is `used_memory` of Redis, and for
PostgreSQL the tables with their indexes. Revoking a session and ending it change an index, and no save does."""


class Side:
    """One engine with one number of sessions."""

    def __init__(self, engine: Engine, count: int) -> None:
        self.engine = engine
        self.count = count
        self.size = 0.0  # bytes a session
        self.best: dict[str, float] = {}
        self.computed: dict[str, tuple[float, int]] = {}  # seconds of the server's processor, for how many operations

    def open(self) -> None:
        options: dict[str, Any] = {"secret_key": SECRET_KEY, "max_age": MAX_AGE, "absolute_timeout": 2 * MAX_AGE}
        self.manager = SessionManager(store=self.engine.url, store_timeout=60, **options)
        self.sessions = Sessions(self.manager)
        self.past = SessionManager(store=self.engine.url, clock=lambda: time.time() - _LONG_AGO, **options)
        cards = cards_in(self.engine.folder)
        random.Random(1).shuffle(cards)
        self._cards = itertools.cycle(cards)  # what was revoked meanwhile comes last
        self._users = (f"new{number:07}" for number in itertools.count())

    def cards(self, count: int) -> list[tuple[str, str]]:
        return list(itertools.islice(self._cards, count))

    def users(self, count: int) -> list[str]:
        return list(itertools.islice(self._users, count))

    def note(self, name: str, figure: float) -> None:
        self.best[name] = min(figure, self.best.get(name, figure))


async def _time(side: Side, name: str, work: Callable[[Any], Awaitable[None]], items: list[Any]) -> None:
    """Note how many µs each took, and how long the server computed for it."""
    before, begun = side.engine.busy(), time.perf_counter()
    for item in items:
        await work(item)
    side.note(name, (time.perf_counter() - begun) / len(items) * 1e6)
    after = side.engine.busy()
    if before is not None and after is not None:
        seconds, count = side.computed.get(name, (0.0, 0))
        side.computed[name] = (seconds + after - before, count + len(items))


async def _sample(side: Side) -> None:
    """Take one sample of each operation."""
    manager, sessions = side.manager, side.sessions

    async def load(card: tuple[str, str]) -> None:
        session = await manager.load(card[1])
        assert session["user_id"] == card[0], "the session is not there"

    async def save(card: tuple[str, str]) -> None:
        session = await manager.load(card[1])
        session["theme"] = "light" if session["theme"] == "dark" else "dark"
        await manager.commit(session, status=200, headers=[])

    async def enter(user: str) -> None:
        await log_in(manager, user)

    async def list_one(card: tuple[str, str]) -> None:
        assert len(await sessions.of(card[0])) == 2, "the user has not two sessions"

    async def revoke(handle: str) -> None:
        assert await sessions.revoke(handle)

    await _time(side, "load", load, side.cards(_AT_ONCE))
    await _time(side, "save", save, side.cards(_AT_ONCE))
    fresh = side.users(_AT_ONCE)
    await _time(side, "log in", enter, fresh)
    await _time(side, "list", list_one, side.cards(_AT_ONCE))
    handles = [info.handle for user in fresh for info in await sessions.of(user)]
    await _time(side, "revoke", revoke, handles)
    store = manager.config.store
    if isinstance(store, Purge) and side.engine.name != "redis":
        while await store.purge(1000):  # what the samples before have left
            pass
        begun = time.perf_counter()
        assert await store.purge(1000) == 0
        side.note("purge, nothing due", (time.perf_counter() - begun) * 1e6)
        for user in side.users(_PURGED):
            await log_in(side.past, user)
        begun = time.perf_counter()
        assert await store.purge(_PURGED) == _PURGED
        side.note("purge", (time.perf_counter() - begun) / _PURGED * 1e6)


async def _measure(sides: tuple[Side, Side], rounds: int) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for side in sides:
            side.open()
            await stack.enter_async_context(side.manager)
            await stack.enter_async_context(side.past)
        for number in range(rounds):
            for side in sides if number % 2 else reversed(sides):
                await _sample(side)
        for side in sides:
            _, card = side.cards(1)[0]
            begun = time.perf_counter()
            await side.sessions.end_all()
            side.note("end all, ms", (time.perf_counter() - begun) * 1e3)
            assert not await side.manager.load(card), "a session outlived the end of all"


async def _fill(side: Side, bars: Progress) -> None:
    """Have as many sessions in the engine as it is to have; nothing where they are there."""
    engine, count = side.engine, side.count
    share = count // engine.workers // 2 * 2
    shares = [share] * (engine.workers - 1) + [count - share * (engine.workers - 1)]
    made = [Made(engine.folder, worker) for worker in range(engine.workers)]
    done = sum(one.made for one in made)
    if engine.count() < done * 0.99:  # it lost what it had, as a Redis that was killed does
        raise SystemExit(f"{engine.folder} has {engine.count()} of {done} sessions: remove it, and begin again")
    bar = bars.add_task(f"{engine.title}: {count:,} sessions", total=count, completed=done)
    if done < count:
        command = [sys.executable, "-m", "benchmarks.scale_fill", engine.name, engine.url, str(engine.folder)]
        workers = [
            await asyncio.create_subprocess_exec(*command, str(worker), str(some), str(count))
            for worker, some in enumerate(shares)
        ]
        waiting = asyncio.gather(*(worker.wait() for worker in workers))
        while not waiting.done():
            await asyncio.wait([waiting], timeout=0.5)
            bars.update(bar, completed=sum(one.made for one in made))
        if any(waiting.result()):
            raise SystemExit("a process that made sessions failed")
    bars.update(bar, completed=count)
    await engine.settle()
    side.size = engine.size() / count


async def _run(engine: type[Engine], folder: Path, scale: float, rounds: int, keep: bool) -> Report:
    sizes = [max(1000, round(size * scale)) for size in engine.sizes]
    small, large = sides = tuple(Side(engine(folder / f"{engine.name}-{size}"), size) for size in sizes)  # type: ignore[assignment]
    finished = False
    try:
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        ) as bars:
            for side in sides:
                await side.engine.start()
                await _fill(side, bars)
        await _measure(sides, rounds)
        notes = {f"{side.count:,}": side.engine.notes() for side in sides}
        for side in sides:
            if isinstance(side.engine, Postgres):
                notes[f"{side.count:,}"]["updates"] = await side.engine.look_at_updates()
        finished = True
        return _report(small, large, notes, rounds)
    finally:
        for side in sides:
            side.engine.stop(keep=not finished)
            if finished and not keep:
                shutil.rmtree(side.engine.folder)


def _report(small: Side, large: Side, notes: dict[str, dict[str, str]], rounds: int) -> Report:
    engine = large.engine
    figures = {"bytes a session": (small.size, large.size)}
    figures |= {name: (small.best[name], large.best[name]) for name in small.best}
    rows = [
        [name, *(f"{figure:,.{0 if figure > 100 else 1}f}" for figure in pair), f"{pair[1] / pair[0]:.2f}"]
        for name, pair in figures.items()
    ]
    computed = []
    for name in large.computed:
        pair = [side.computed[name][0] / side.computed[name][1] * 1e6 for side in (small, large)]
        computed.append([name, *(f"{figure:,.0f}" for figure in pair), f"{pair[1] / pair[0]:.2f}"])
    counts = [f"{small.count:,}", f"{large.count:,}"]
    extra = "\n".join(f"- {count}: {name}: {text}" for count, some in notes.items() for name, text in some.items())
    return Report(
        name=engine.name,
        title=engine.title,
        method=_METHOD.format(size=json_size(DATA), at_once=_AT_ONCE, rounds=rounds, purged=_PURGED),
        sections=[
            ("µs an operation", table(["", *counts, "times"], rows)),
            *(
                [("µs of the server's processor an operation", table(["", *counts, "times"], computed))]
                if computed
                else []
            ),
            *([("Beside that", extra)] if extra else []),
        ],
        figures={"counts": (small.count, large.count), "figures": figures, "computed": large.computed, "notes": notes},
        targets=[Target(name, _growth(name, pair), engine.may_grow) for name, pair in figures.items()],
        packages={"redis", "hiredis", "asyncpg"},
        programs={engine.title: engine.version()},
    )


def _growth(name: str, pair: tuple[float, float]) -> float:
    """Return by how much a figure grew. One call of less than 10 ms says little: it is taken for one of 10 ms."""
    small, large = (max(figure, 10.0) for figure in pair) if name == "end all, ms" else pair
    return large / small


def _parts(options: argparse.Namespace, folder: Path) -> Iterator[Callable[[bool], Report]]:
    for name in options.engines or ENGINES:

        def part(quick: bool, name: str = name) -> Report:
            return asyncio.run(_run(ENGINES[name], folder, options.scale, 3 if quick else _ROUNDS, options.keep))

        yield part


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__.partition("\n")[0])
    parser.add_argument("engines", nargs="*", metavar="ENGINE", help=f"default: {', '.join(ENGINES)}")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the sessions, such as 0.01; default: 1")
    parser.add_argument("--folder", type=Path, help="where the engines keep them; default: a temporary folder")
    parser.add_argument("--keep", action="store_true", help="leave the folder when done, emptied of its sessions")
    parser.add_argument("--quick", action="store_true", help="fewer samples")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the figures to FILE")
    options = parser.parse_args()
    unknown = set(options.engines) - set(ENGINES)
    if unknown:
        parser.error(f"no such engine: {', '.join(sorted(unknown))}; there are {', '.join(ENGINES)}")
    logging.getLogger("roomkey").setLevel(logging.ERROR)
    with contextlib.ExitStack() as stack:
        made = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="roomkey-scale-")))
        made.mkdir(parents=True, exist_ok=True)
        made.chmod(0o755)  # PostgreSQL runs as another user
        produce(_parts(options, made.resolve()), options.quick, options.json)


if __name__ == "__main__":
    main()
