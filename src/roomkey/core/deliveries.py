"""Events for subscribers that are awaited: a queue in each event loop, beside the requests.

No request waits for a subscriber. One coroutine runs at a time in a loop, in the order of the events.
"""

from __future__ import annotations

import contextvars
import inspect
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any

from roomkey.events import Event

if TYPE_CHECKING:
    import asyncio  # at run time it is imported where it is used: it is half of the time that `import roomkey` takes

__all__ = ["Awaited", "Deliveries", "is_awaited"]

_log = logging.getLogger("roomkey")
_MOST = 1000  # events that wait in one event loop
_GIVE_UP = 0.1  # seconds that a subscriber gets to end when it is cancelled

Awaited = Callable[[Event], Coroutine[Any, Any, object]]


def is_awaited(subscriber: Callable[..., object]) -> bool:
    """Whether a subscriber is an `async def`, or an object whose `__call__` is one."""
    return inspect.iscoroutinefunction(subscriber) or inspect.iscoroutinefunction(type(subscriber).__call__)


class Deliveries:
    """Of one configuration.

    Args:
        patience: seconds for which the end of an app waits for them.
    """

    def __init__(self, patience: float) -> None:
        self.dropped: int = 0  # events that found the queue full, or no event loop
        # Has something called in an event loop elsewhere, and returns whether there is one: for threads without one.
        self.elsewhere: Callable[[Callable[[], None]], bool] | None = None
        self._patience = patience
        self._queues: dict[asyncio.AbstractEventLoop, _Queue] = {}

    def put(self, subscriber: Awaited, event: Event) -> None:
        """Have a subscriber told, soon."""
        loop = _loop_here()
        if loop is not None:
            self._put_in(loop, contextvars.copy_context(), subscriber, event)
            return
        there = partial(self._put_there, contextvars.copy_context(), subscriber, event)
        if self.elsewhere is None or not self.elsewhere(there):
            self._drop(1, "there is no event loop in which it could run")

    def _put_there(self, context: contextvars.Context, subscriber: Awaited, event: Event) -> None:
        loop = _loop_here()
        assert loop is not None
        self._put_in(loop, context, subscriber, event)

    def _put_in(
        self, loop: asyncio.AbstractEventLoop, context: contextvars.Context, subscriber: Awaited, event: Event
    ) -> None:
        queue = self._queues.get(loop)
        if queue is None:
            for closed in [each for each in list(self._queues) if each.is_closed()]:
                self._drop(len(self._queues.pop(closed, _NOTHING).waiting), "its event loop has ended")
            queue = self._queues[loop] = _Queue()
            queue.task = loop.create_task(
                self._tell(loop, queue), name="roomkey: events", context=contextvars.Context()
            )
        if len(queue.waiting) >= _MOST:
            self._drop(1, f"{_MOST} events wait for it already")
        else:
            queue.waiting.append((context, subscriber, event))

    async def _tell(self, loop: asyncio.AbstractEventLoop, queue: _Queue) -> None:
        """Tell what waits, until nothing does."""
        try:
            while queue.waiting:
                context, subscriber, event = queue.waiting.popleft()
                queue.under_way = 1
                try:
                    await loop.create_task(_told(subscriber, event), context=context)
                except Exception:
                    _log.exception("on_event raised for %s; sessions are not affected", type(event).__name__)
                queue.under_way = 0
        finally:
            self._queues.pop(loop, None)
            self._drop(len(queue.waiting) + queue.under_way, "the app ended before")

    def _drop(self, count: int, why: str) -> None:
        if count and not self.dropped:
            _log.warning("an event was not told to on_event, because %s (said once; dropped_events counts them)", why)
        self.dropped += count

    async def drain(self) -> None:
        """Wait until all events of this event loop are told, but not for ever. The rest is dropped."""
        import asyncio

        queue = self._queues.get(asyncio.get_running_loop())
        if queue is None or queue.task is None:
            return
        _, late = await asyncio.wait([queue.task], timeout=self._patience)
        if late:
            queue.task.cancel()
            await asyncio.wait([queue.task], timeout=_GIVE_UP)


class _Queue:
    """What waits to be told in one event loop."""

    def __init__(self) -> None:
        self.waiting: deque[tuple[contextvars.Context, Awaited, Event]] = deque()
        self.under_way = 0  # how many are being told: 0 or 1
        self.task: asyncio.Task[None] | None = None  # tells


_NOTHING = _Queue()


async def _told(subscriber: Awaited, event: Event) -> None:
    await subscriber(event)


def _loop_here() -> asyncio.AbstractEventLoop | None:
    """Return the event loop that runs here. None: none does, or one of ours that only drives a single call."""
    import asyncio

    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return None
    return loop if isinstance(loop, asyncio.AbstractEventLoop) else None
