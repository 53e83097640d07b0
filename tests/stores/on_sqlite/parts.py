"""What the tests of the store in a file share."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.loop_clock import HANGS, until

KEY = "0f" * 32
posix = pytest.mark.skipif(os.name != "posix", reason="Windows has no such permissions, signals and forks")


def number_key(number: int) -> str:
    return f"{number:064x}"


def store_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("roomkey-")]


def file_modes(path: Path) -> dict[str, int]:
    return {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}


def run_python(code: str, *args: object, **options: Any) -> subprocess.Popen[str]:
    """Run `code` in a new process, with the imports that it needs."""
    header = (
        "import asyncio, sys, time\nfrom roomkey.stores.base import *\nfrom roomkey.stores.sqlite import SQLiteStore\n"
        f"from roomkey.stores.sqlite import worker\nworker._PATIENCE = {HANGS}\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", header + code, *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, **options)


class WatchedConnection(sqlite3.Connection):
    """Counts how often a transaction could not begin because of another one's lock."""

    locked_out = 0  # by all connections together

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        try:
            return super().execute(sql, *args)
        except sqlite3.OperationalError:
            WatchedConnection.locked_out += sql == "BEGIN IMMEDIATE"
            raise


async def until_locked_out() -> None:
    """Wait until all operations that were asked so far have found the file locked, in one batch."""
    # One try may have begun before the last of them was asked; the second one is of all.
    enough = WatchedConnection.locked_out + 2
    await until(lambda: WatchedConnection.locked_out >= enough)


@contextlib.contextmanager
def hold_lock(path: Path) -> Iterator[None]:
    """Hold the write lock, as a process with an open transaction does."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.close()
