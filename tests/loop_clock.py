"""The event loop that `async def` tests run in: its clock does not depend on how busy the machine is."""

from __future__ import annotations

import asyncio
import selectors
import time

__all__ = ["WaitingLoop"]


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

    def __init__(self) -> None:
        self._waiting = _Selector()
        super().__init__(self._waiting)

    def time(self) -> float:
        return self._waiting.waited
