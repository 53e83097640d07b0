"""The system's clock, looked up whenever it is asked.

A library that freezes time in tests puts another function in the place of `time.time`. A default that was bound when
Roomkey was imported would go on with the old one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

__all__ = ["Ticks", "system_time", "ticks_of"]


class Ticks(Protocol):
    """An object with a `time()` that returns Unix seconds. The module `time` is one."""

    @property
    def time(self) -> Callable[[], float]: ...  # returns Unix seconds


class _Given:
    """A clock that was given."""

    __slots__ = ("time",)

    def __init__(self, clock: Callable[[], float]) -> None:
        self.time = clock


def system_time() -> float:
    """Return Unix seconds, as `time.time` does by now. The default clock of configurations and stores."""
    return time.time()


def ticks_of(clock: Callable[[], float]) -> Ticks:
    """Return a clock as an object whose `time()` asks it: for what every request does.

    For the system's clock that is the module `time`. It costs a look-up, where `system_time` costs a call.
    """
    return time if clock is system_time else _Given(clock)
