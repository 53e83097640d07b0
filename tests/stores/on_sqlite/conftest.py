"""A file for each test of the folder, and the check that no thread of a store is left."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stores.on_sqlite.parts import store_threads


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sessions.sqlite3"


@pytest.fixture(autouse=True)
def _no_thread_left() -> Iterator[None]:
    """After each test no thread of a store is left."""
    yield
    gc.collect()  # stores that were not closed
    deadline = time.monotonic() + 5
    while store_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert store_threads() == []
