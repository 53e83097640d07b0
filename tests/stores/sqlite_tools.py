"""What the tests of the store in an SQLite file share: records, and connections that meet faults."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from roomkey.stores.base import Record

KEY = "0f" * 32
connect = sqlite3.connect  # without faults


def record(**fields: Any) -> Record:
    now = time.time()
    return replace(Record(data=b"data", version=1, created_at=now, expires_at=now + 3600), **fields)


def key(number: int) -> str:
    return f"{number:064x}"


def error(code: int) -> sqlite3.Error:
    """An error of SQLite's with this result code."""
    made = sqlite3.OperationalError("injected")
    made.sqlite_errorcode = code
    return made


class Faults:
    """What connections meet: `meet` is called with each statement before SQLite has it, and may raise."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.meet: Callable[[str], None] = lambda sql: None
        faults = self

        class Faulty(sqlite3.Connection):
            def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
                faults.meet(sql)
                return super().execute(sql, *args)

        monkeypatch.setattr(sqlite3, "connect", lambda *args, **options: connect(*args, factory=Faulty, **options))

    @contextlib.contextmanager
    def raising(self, error: Callable[[], BaseException], *starts: str) -> Iterator[list[str]]:
        """Raise a new error at each statement that begins so; yield the list of those."""
        met: list[str] = []

        def meet(sql: str) -> None:
            if sql.lstrip().startswith(starts):
                met.append(sql)
                raise error()

        self.meet = meet
        yield met
        self.meet = lambda sql: None


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the write lock, as a process with an open transaction does."""
    with contextlib.closing(connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield


def is_free(path: Path) -> bool:
    """Whether nobody holds the write lock."""
    try:
        with contextlib.closing(connect(path, isolation_level=None, timeout=0)) as connection:
            connection.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError:
        return False
    return True
