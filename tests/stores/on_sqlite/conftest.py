"""A file for each test of the folder, and the check that no thread of a store is left."""

from __future__ import annotations

import gc
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.loop_clock import HANGS
from tests.stores.on_sqlite.parts import WatchedConnection, store_threads


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sessions.sqlite3"


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `until_locked_out` see the connections that are made from now on."""
    connect = sqlite3.connect
    monkeypatch.setattr(
        sqlite3, "connect", lambda *args, **options: connect(*args, **{"factory": WatchedConnection, **options})
    )


@pytest.fixture(autouse=True)
def _no_thread_left() -> Iterator[None]:
    """After each test no thread of a store is left."""
    yield
    gc.collect()  # stores that were not closed
    hangs = time.monotonic() + HANGS
    while store_threads() and time.monotonic() < hangs:
        time.sleep(0.01)
    assert store_threads() == []
