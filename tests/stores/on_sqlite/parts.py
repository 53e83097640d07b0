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
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", header + code, *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, **options)


@contextlib.contextmanager
def hold_lock(path: Path) -> Iterator[None]:
    """Hold the write lock, as a process with an open transaction does."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.close()
