"""The SQLite store with writes in the event loop, beside the same store with all writes in its thread, in one run.

    python -m benchmarks.sqlite                      # some minutes
    python -m benchmarks.sqlite --quick              # one, noisier
    python -m benchmarks.sqlite --only lone kill     # some of it
    python -m benchmarks.sqlite --beside ../old/src  # another version too, as it is by default

Every measurement is a process of its own, on a fresh file of 20,000 sessions of 300 bytes, and the stores take turns.
A "stall" is how late a heartbeat of 1 ms is: what a request that does not touch the store would feel.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import time

from benchmarks.sqlite_run import DISKS, Found, Run

TITLE = {"thread": "writes in the thread", "loop": "writes in the loop", "beside": "the other version"}


@dataclass(frozen=True)
class Bench:
    """What is compared, for how long, and from which files."""

    folder: Path
    stores: tuple[str, ...]
    beside: str | None  # the other version's source folder
    seconds: float
    rounds: int

    def start(self, what: str, run: Run) -> subprocess.Popen[bytes]:
        environment = dict(os.environ)
        if run.where == "beside" and self.beside is not None:
            environment["PYTHONPATH"] = self.beside
        command = [sys.executable, "-m", "benchmarks.sqlite_run", what, json.dumps(vars(run))]
        return subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)

    def together(self, what: str, runs: Sequence[Run]) -> list[Found]:
        """Run them at the same time on one copy of the file."""
        original = self.folder / runs[0].where
        if not original.exists():
            self.start("fill", Run(str(original), runs[0].where)).wait()
        with self.copy(original) as path:
            begin = time() + 1.0 if len(runs) > 1 else 0.0
            asked = [replace(run, path=str(path), begin=begin, part=part) for part, run in enumerate(runs)]
            return [
                Found(**json.loads(process.communicate()[0])) for process in [self.start(what, run) for run in asked]
            ]

    @contextlib.contextmanager
    def copy(self, original: Path) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            yield Path(shutil.copy(original, folder))

    def compare(self, what: str, run: Run) -> dict[str, Found]:
        """Run it with each store, in turns, and return what all rounds found together."""
        found = {where: Found() for where in self.stores}
        for _ in range(self.rounds):
            for where in self.stores:
                (one,) = self.together(what, [replace(run, where=where)])
                found[where].add(one, self.rounds)
        return found


def _at(values: list[float], *shares: float, unit: float = 1e6, digits: int = 0) -> str:
    ordered = sorted(values)
    places = (min(len(ordered) - 1, int(len(ordered) * share)) for share in shares)
    return " / ".join(f"{ordered[place] * unit:.{digits}f}" for place in places)


def _table(head: Sequence[str], rows: list[list[str]]) -> None:
    print("\n| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)


_HEAD = ("", "writes a second", "a write: p50 / p99 / p99.9 / most, µs", "stall: p99 / p99.9 / most, ms", "log, MB")


def _row(what: str, who: str, found: Found) -> list[str]:
    writes = _at(found.writes, 0.5, 0.99, 0.999, 1)
    stalls = _at(found.stalls, 0.99, 0.999, 1, unit=1e3, digits=1)
    return [what, who, f"{found.rate:.0f}", writes, stalls, f"{found.log / 1e6:.1f}"]


def _writers(bench: Bench, head: str, runs: dict[str, Run]) -> None:
    rows = []
    for what, run in runs.items():
        rows += [_row(what, TITLE[where], found) for where, found in bench.compare("write", run).items()]
    _table([head, *_HEAD], rows)


def calls(bench: Bench) -> None:
    """One operation at a time."""
    found = bench.compare("call", Run(""))
    names = list(found[bench.stores[0]].calls)
    rows = [[name, *(_at(one.calls[name], 0, 0.5, 0.99, digits=1) for one in found.values())] for name in names]
    _table(["one at a time: least / p50 / p99, µs", *(TITLE[where] for where in found)], rows)


def lone(bench: Bench) -> None:
    """One writer."""
    run = Run("", seconds=bench.seconds)
    runs = {"2 ms apart": replace(run, gap=0.002), "no gap": run, "300 µs of Python": replace(run, compute=0.0003)}
    _writers(bench, "one writer", runs)


def crowd(bench: Bench) -> None:
    """Many writers at once, in one process."""
    run = Run("", seconds=bench.seconds, writers=64)
    runs = {"16": replace(run, writers=16), "64": run, "64, 300 µs of Python": replace(run, compute=0.0003)}
    _writers(bench, "writers", runs)


def disk(bench: Bench) -> None:
    """A slow disk, made up."""
    rows = []
    for slow in DISKS:
        # Longer, for the first slow write comes in any case.
        for where, found in bench.compare("write", Run("", seconds=3 * bench.seconds, gap=0.002, disk=slow)).items():
            rows.append([*_row(slow, TITLE[where], found)[:-1], f"{found.still:.1%}"])
    _table(["slow disk", *_HEAD[:-1], "of the time the loop stands still"], rows)


def processes(bench: Bench) -> None:
    """Several processes on one file."""
    rows = []
    pairs, fours = [(where,) * 2 for where in bench.stores], [(where,) * 4 for where in bench.stores]
    pairs.append(("loop", "thread"))
    for what, mixes, gap in (
        ("2, no gap", pairs, 0.0),
        ("2, 5 ms apart", pairs, 0.005),
        ("4, no gap", fours, 0.0),
        ("4, 2 ms apart", fours, 0.002),
    ):
        sums = {mix: {where: Found() for where in mix} for mix in mixes}
        for _ in range(bench.rounds):
            for mix in mixes:
                found = bench.together("write", [Run("", where, bench.seconds, gap=gap) for where in mix])
                for where, one in zip(mix, found, strict=True):
                    sums[mix][where].add(one, bench.rounds * mix.count(where))
        rows += [_row(what, f"{where} of {' + '.join(mix)}", sums[mix][where]) for mix in mixes for where in sums[mix]]
    _table(["processes", "", "writes a second, each", *_HEAD[2:]], rows)


def kill(bench: Bench) -> None:
    """`kill -9` while it writes: what was acknowledged and is missing."""
    rows = []
    for where in bench.stores:
        acknowledged = lost = kills = 0
        while acknowledged < 35_000 * bench.rounds:
            with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
                path = Path(folder) / "sessions.sqlite3"
                with bench.start("acknowledge", Run(str(path), where)) as process:
                    assert process.stdout is not None
                    lines = [process.stdout.readline() for _ in range(random.randrange(2000, 8000))]
                    process.send_signal(signal.SIGKILL)
                    lines += process.stdout.readlines()
                told = {int(line) for line in lines if line.endswith(b"\n")}
                with contextlib.closing(sqlite3.connect(path)) as connection:
                    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
                    saved = connection.execute("SELECT key FROM session WHERE data = x'32'")
                    lost += len(told - {int(key, 16) for (key,) in saved})
                acknowledged += len(told)
                kills += 1
        rows.append([TITLE[where], str(kills), str(acknowledged), str(lost)])
    _table(["", "killed", "acknowledged", "lost"], rows)


PARTS: dict[str, Callable[[Bench], None]] = {
    part.__name__: part for part in (calls, lone, crowd, disk, processes, kill)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="which parts")
    parser.add_argument("--beside", metavar="SRC", help="source folder of another version")
    options = parser.parse_args()
    stores = ("thread", "loop", "beside") if options.beside else ("thread", "loop")
    with tempfile.TemporaryDirectory() as folder:
        seconds, rounds = (1.0, 1) if options.quick else (2.0, 3)
        bench = Bench(Path(folder), stores, options.beside, seconds, rounds)
        for name in options.only:
            PARTS[name](bench)


if __name__ == "__main__":
    main()
