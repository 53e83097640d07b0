"""The event loop of all tests: what happens in it does not depend on how busy the machine is."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import selectors
import time
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["HANGS", "WaitingLoop", "loop_time", "patience", "until"]

HANGS = 120  # seconds after which what a test waits for does not come any more
# How asyncio, asyncpg and our own store in SQL databases call what ends a time limit.
_LIMITS = {"_on_timeout", "_release_waiter", "_give_up"}
_LONG = 1.0  # seconds: a limit from here on only guards against hanging. Tests that wait for one to expire set less.
_PATIENCE = 60.0  # how many times longer such a limit lasts than it says


class _Selector(selectors.DefaultSelector):
    """Adds up for how long it waited, at most as long as it was told to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.waited = time.monotonic()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        begun = time.monotonic()
        events = super().select(timeout)
        passed = time.monotonic() - begun
        self.waited += passed if timeout is None else min(passed, max(timeout, 0))
        return events


class WaitingLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock runs only while the loop waits for something.

    It stands still while code runs, and while another process has the processor. So a time limit never expires because
    this process is slow, timers go off in the order of their times, and `time()` measures what was waited for.
    """

    # How many times longer a time limit lasts than it says: a server, or a thread, may be slow as well.
    patience: float | None = None  # None: limits that only guard against hanging last longer

    def __init__(self) -> None:
        self._waiting = _Selector()
        super().__init__(self._waiting)

    def time(self) -> float:
        return self._waiting.waited

    def call_at(
        self, when: float, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        if getattr(callback, "__name__", "") in _LIMITS:
            span = when - self.time()
            times = self.patience or (_PATIENCE if span >= _LONG else 1.0)
            when = self.time() + max(span, min(span * times, HANGS))
        return super().call_at(when, callback, *args, context=context)


def loop_time() -> float:
    """Return the seconds on the clock of the loop that runs."""
    return asyncio.get_running_loop().time()


@contextlib.contextmanager
def patience(times: float) -> Iterator[None]:
    """Let time limits that begin inside last that many times longer than they say."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, WaitingLoop)
    before, loop.patience = loop.patience, times
    try:
        yield
    finally:
        loop.patience = before


async def until(condition: Callable[[], Any]) -> None:
    """Wait until a function, or a coroutine function, returns something true."""
    loop = asyncio.get_running_loop()
    hangs = loop.time() + HANGS
    while True:
        met = condition()
        if asyncio.iscoroutine(met):
            met = await met
        if met:
            return
        assert loop.time() < hangs, "it does not happen"
        await asyncio.sleep(0.02)
