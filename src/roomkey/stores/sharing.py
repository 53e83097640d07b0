"""Operations that share round trips, in one event loop.

While the server is idle, an operation is sent at once, in its caller's own task. Operations that come while others are
under way wait, and are then sent together.

Leaves to the stores how a round trip is made, and what its errors mean.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

__all__ = ["LANES", "RoundTrips"]

LANES = 2  # round trips under way at once: a third gains nothing (measured)
_MOST_AT_ONCE = 64  # operations in one round trip: bounds how long the first of them waits for the others

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")


class _Waiter(Generic[_Item, _Answer]):
    """An operation that is sent together with others."""

    __slots__ = ("batch", "future", "item")

    def __init__(self, item: _Item, future: asyncio.Future[_Answer | Exception]) -> None:
        self.item = item
        self.future = future  # its result is the answer, or an exception as a value
        self.batch: _Batch | None = None  # None: not sent yet


class _Batch:
    """Operations that were sent together."""

    __slots__ = ("task", "waiting")

    def __init__(self, waiting: int) -> None:
        self.waiting = waiting  # how many still wait for it
        self.task: asyncio.Task[None] | None = None

    def leave(self) -> None:
        """One of them waits no longer. When none does, the round trip is cancelled: others need its lane."""
        self.waiting -= 1
        if not self.waiting and self.task is not None:
            self.task.cancel()


class RoundTrips(Generic[_Item, _Answer]):
    """Round trips of one kind.

    Args:
        exchange: sends operations together and returns an answer for each. An exception in place of an answer stands
            for an operation that failed. An exception that it raises stands for all of them.
        failure: returns a new exception for one operation, from one that may be shared with others. (A shared one
            would collect the tracebacks of all who wait.)
        lanes: how many round trips may be under way at once.
        alone: how many of them may be lone operations that are sent at once. With fewer than `lanes`, an operation that
            finds that many under way waits for the next iteration of the event loop, and goes with all that come until
            then.
    """

    def __init__(
        self,
        exchange: Callable[[list[_Item]], Awaitable[Sequence[_Answer | Exception]]],
        failure: Callable[[Exception], Exception],
        *,
        lanes: int = LANES,
        alone: int = LANES,
    ) -> None:
        self._exchange = exchange
        self._failure = failure
        self._free = lanes
        self._reserved = max(lanes - alone, 0)  # lanes that lone operations leave free
        self._waiting: deque[_Waiter[_Item, _Answer]] = deque()
        self._due = False  # whether `_send` will be called in the next iteration of the event loop
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(self, item: _Item) -> _Answer:
        """Return the answer. Raises what `failure` makes of an exception in its place."""
        if self._waiting or self._free <= self._reserved:
            answer = await self._join(item)
        else:
            self._free -= 1
            try:
                (answer,) = await self._exchange([item])
            finally:
                self._release()
        if isinstance(answer, Exception):
            raise self._failure(answer) from answer
        return answer

    async def _join(self, item: _Item) -> _Answer | Exception:
        """Wait until a lane is free, and go together with all who wait by then."""
        loop = asyncio.get_running_loop()
        waiter: _Waiter[_Item, _Answer] = _Waiter(item, loop.create_future())
        self._waiting.append(waiter)
        if self._free and not self._due:
            self._due = True
            loop.call_soon(self._send)
        try:
            return await waiter.future
        except asyncio.CancelledError:
            if waiter.batch is not None:
                waiter.batch.leave()
            raise

    def _release(self) -> None:
        self._free += 1
        if self._waiting:
            self._send()

    def _send(self) -> None:
        """Send those who wait, as far as there are lanes."""
        self._due = False
        while self._free and self._waiting:
            some = [self._waiting.popleft() for _ in range(min(_MOST_AT_ONCE, len(self._waiting)))]
            waiters = [waiter for waiter in some if not waiter.future.done()]
            if waiters:
                self._start(waiters)

    def _start(self, waiters: list[_Waiter[_Item, _Answer]]) -> None:
        self._free -= 1
        batch = _Batch(len(waiters))
        for waiter in waiters:
            waiter.batch = batch
        task = batch.task = asyncio.get_running_loop().create_task(self._carry(waiters))
        self._tasks.add(task)
        task.add_done_callback(self._arrived)

    async def _carry(self, waiters: list[_Waiter[_Item, _Answer]]) -> None:
        answers: Sequence[_Answer | Exception]
        try:
            answers = await self._exchange([waiter.item for waiter in waiters])
        except asyncio.CancelledError:
            for waiter in waiters:
                waiter.future.cancel()
            raise
        except Exception as error:
            answers = [error] * len(waiters)
        for waiter, answer in zip(waiters, answers, strict=True):
            if not waiter.future.done():
                waiter.future.set_result(answer)

    def _arrived(self, task: asyncio.Task[None]) -> None:
        # In a callback, not at the end of the task: a task that is cancelled before its first step never runs.
        self._tasks.discard(task)
        self._release()
