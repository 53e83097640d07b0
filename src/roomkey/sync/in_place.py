"""Runs a coroutine in the thread that asks, whether an event loop runs there or not.

It is for work that waits for nothing but itself: for its turn, or for a moment to pass. What needs a socket, a thread
or another task has to run elsewhere.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NoReturn, TypeVar, cast

__all__ = ["run_in_place"]

_log = logging.getLogger("roomkey")
_Answer = TypeVar("_Answer")
_NOT_HERE = "the store says that it never waits, and it waits for what only an event loop can bring about"


def run_in_place(work: Awaitable[_Answer]) -> _Answer:
    """Run a coroutine, or what else can be awaited, to its end, and return what it returns.

    Raises:
        RuntimeError: it waited for something that nothing here can bring about.
    """
    coroutine: Coroutine[Any, Any, _Answer] = work if isinstance(work, Coroutine) else _awaited(work)
    return _Loop().drive(coroutine)


async def _awaited(work: Awaitable[_Answer]) -> _Answer:
    return await work


class _Loop:
    """As much of an event loop as a coroutine needs that waits for its turn, or for a moment to pass."""

    def __init__(self) -> None:
        self._ready: deque[asyncio.Handle] = deque()
        self._later: list[asyncio.TimerHandle] = []  # a heap

    @property
    def _as_loop(self) -> asyncio.AbstractEventLoop:
        return cast(asyncio.AbstractEventLoop, self)

    def drive(self, work: Coroutine[Any, Any, _Answer]) -> _Answer:
        """Run `work`. The app's own event loop may be running in this thread: it does not, as long as this does."""
        outer = asyncio._get_running_loop()
        thrown: BaseException | None = None
        while True:
            asyncio._set_running_loop(self._as_loop)
            try:
                waits_for = work.send(None) if thrown is None else work.throw(thrown)
            except StopIteration as stop:
                answer: _Answer = stop.value
                return answer
            finally:
                asyncio._set_running_loop(outer)
            try:
                thrown = None
                self._wait(waits_for)
            except BaseException as error:  # of a signal, say: for the work to see
                thrown = error

    def _wait(self, future: asyncio.Future[Any] | None) -> None:
        """Wait until a future is done; None: let others go first, of whom there are none."""
        while future is not None and not future.done():
            while self._ready:
                handle = self._ready.popleft()
                if not handle.cancelled():
                    handle._run()
            if future.done():
                break
            if not self._later:
                raise RuntimeError(_NOT_HERE)
            timer = heapq.heappop(self._later)
            # Under gevent, others get their turn here: no event loop of ours may seem to run meanwhile.
            time.sleep(max(0.0, timer.when() - time.monotonic()))
            if not timer.cancelled():
                timer._run()
        if future is not None:
            future._asyncio_future_blocking = False

    # --- what a coroutine asks of its event loop ------------------------------------------------------------------

    def time(self) -> float:
        return time.monotonic()

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self._as_loop)

    def call_soon(
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self._as_loop, context)
        self._ready.append(handle)
        return handle

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, self._as_loop, context)
        heapq.heappush(self._later, timer)
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Nothing: a cancelled timer is passed over."""

    def get_debug(self) -> bool:
        return False

    def __getattr__(self, name: str) -> NoReturn:
        raise RuntimeError(f"{_NOT_HERE} ({name})")

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        _log.error("%s", context.get("message"), exc_info=context.get("exception"))
