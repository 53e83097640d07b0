"""A clock that a test moves, so that nobody sleeps until something expires."""

from __future__ import annotations

import time

__all__ = ["Clock"]


class Clock:
    """Call it for the time, and `advance` it. Pass it wherever Roomkey takes a `clock`.

    Args:
        now: Unix time in seconds to start at. None: the real time, so that other clocks (a server's) agree.

    Example:
        >>> clock = Clock(1000.0)
        >>> clock.advance(60)
        >>> clock()
        1060.0
    """

    def __init__(self, now: float | None = None) -> None:
        self.now: float = time.time() if now is None else now  # Unix time in seconds

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Move the time forward by `seconds`."""
        self.now += seconds
