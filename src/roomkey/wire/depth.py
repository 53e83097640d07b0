"""How deep extensions lie in each other: each takes a frame of Python's stack when it is read.

What one request encodes, another one has to read, wherever on its own stack it is. So the limit is far from where the
stack ends. The level is kept for each thread. Nothing is awaited while a session is encoded.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

__all__ = ["MOST_LEVELS", "TooDeep", "go_down", "go_up", "one_level_down"]

MOST_LEVELS = 200  # extensions within each other


class TooDeep(TypeError):
    """Extensions lie deeper in each other than `MOST_LEVELS`."""


class _Level(threading.local):
    now = 0  # extensions that what is being encoded lies in


_level = _Level()


def go_down() -> None:
    """Note that what is encoded next lies in one more extension. Raises TooDeep."""
    if _level.now >= MOST_LEVELS:
        raise TooDeep
    _level.now += 1


def go_up() -> None:
    """Note that an extension is whole."""
    _level.now -= 1


@contextlib.contextmanager
def one_level_down() -> Iterator[None]:
    """As `go_down` before, and `go_up` after."""
    go_down()
    try:
        yield
    finally:
        go_up()
