"""Operations that wait in the same moment share a round trip."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

from roomkey.stores.redis.connections import Connections, NotSent
from roomkey.stores.redis.errors import BROKEN, is_elsewhere, is_named, unavailable
from roomkey.stores.redis.scripts import Command, pack

__all__ = ["IN_FLIGHT", "Link"]

_MOST_AT_ONCE = 64  # operations in one batch: bounds how long the first of them waits for the others
IN_FLIGHT = 2  # batches of loads under way at once, and as many of writes: a third gains nothing (measured)
_REDIRECTIONS = 3  # times that a command follows its slot to another node


_Item = TypeVar("_Item")


class _Waiter(Generic[_Item]):
    __slots__ = ("batch", "future", "item")

    def __init__(self, item: _Item, future: asyncio.Future[Any]) -> None:
        self.item = item
        self.future = future  # its result is the answer, or an exception as a value
        self.batch: _Batch | None = None  # None: not sent yet


class _Batch:
    __slots__ = ("left", "task")

    def __init__(self, left: int) -> None:
        self.left = left  # how many still wait for it
        self.task: asyncio.Task[None] | None = None


class _Lanes(Generic[_Item]):
    """Operations that share round trips.

    While a lane is free, an operation goes at once, in its caller's own task. Otherwise it waits until one is, and
    then goes together with all that wait by then.

    Args:
        exchange: sends a batch; returns an answer for each, an exception for those that were refused.
        lanes: how many batches may be under way at once.
    """

    def __init__(self, exchange: Callable[[list[_Item]], Awaitable[list[Any]]], lanes: int) -> None:
        self._exchange = exchange
        self._free = lanes
        self._waiting: deque[_Waiter[_Item]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(self, item: _Item) -> Any:
        """Return the answer. Raises StoreUnavailable."""
        answer = await self.get(item)
        if isinstance(answer, Exception):
            raise unavailable(answer) from answer
        return answer

    async def get(self, item: _Item) -> Any:
        """Return the answer, or the exception that stands for it."""
        if not self._free or self._waiting:
            return await self._wait(item)
        self._free -= 1
        try:
            return (await self._exchange([item]))[0]
        except Exception as error:
            return error
        finally:
            self._release()

    async def _wait(self, item: _Item) -> Any:
        waiter = _Waiter(item, asyncio.get_running_loop().create_future())
        self._waiting.append(waiter)
        try:
            return await waiter.future
        except asyncio.CancelledError:
            batch = waiter.batch
            if batch is not None:
                batch.left -= 1
                if not batch.left and batch.task is not None:
                    batch.task.cancel()  # nobody waits any more: free its lane for those behind it
            raise

    def _release(self) -> None:
        self._free += 1
        while self._free and self._waiting:
            waiters = [waiter for waiter in self._take() if not waiter.future.done()]
            if waiters:
                self._send(waiters)

    def _take(self) -> list[_Waiter[_Item]]:
        return [self._waiting.popleft() for _ in range(min(_MOST_AT_ONCE, len(self._waiting)))]

    def _send(self, waiters: list[_Waiter[_Item]]) -> None:
        self._free -= 1
        batch = _Batch(len(waiters))
        for waiter in waiters:
            waiter.batch = batch
        task = batch.task = asyncio.get_running_loop().create_task(self._carry(waiters))
        self._tasks.add(task)
        task.add_done_callback(self._arrived)

    async def _carry(self, waiters: list[_Waiter[_Item]]) -> None:
        answers: list[Any]
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


class Link:
    """One event loop's way to the server."""

    def __init__(self, connections: Connections, epoch: bytes, lanes: int) -> None:
        self.loads: _Lanes[bytes] = _Lanes(self._fetch, lanes)
        self.writes: _Lanes[Command] = _Lanes(self._do, lanes)
        self._connections = connections
        self._epoch = epoch

    async def close(self) -> None:
        """Close the connections."""
        await self._connections.close()

    def terminate(self) -> None:
        """Do nothing: the sockets close with the objects."""

    async def _fetch(self, keys: list[bytes]) -> list[Any]:
        command = pack((b"MGET", *keys, self._epoch))
        (answer,) = await self._exchange([command])
        if is_named(answer, *BROKEN) and not is_named(answer, "AuthenticationError", "BusyLoadingError"):
            (answer,) = await self._exchange([command])  # reading twice harms nobody
        if isinstance(answer, Exception):
            return [answer] * len(keys)
        epoch = answer.pop()
        return [(value, epoch) for value in answer]

    async def _do(self, commands: list[Command]) -> list[Any]:
        answers = await self._exchange([command.packed() for command in commands])
        # The server knows scripts by name until it restarts; one that it does not know was not run.
        unknown = [at for at, answer in enumerate(answers) if is_named(answer, "NoScriptError")]
        return await self._again(answers, unknown, lambda at: commands[at].packed(with_source=True))

    async def _exchange(self, commands: list[bytes]) -> list[Any]:
        """Send commands that the server answers in order.

        Returns:
            Of each the answer, or the exception that stands for a refusal or a lost answer.

        Raises:
            NotSent: no connection could be had.
        """
        answers = await self._once(commands)
        for _ in range(_REDIRECTIONS):
            astray = [at for at, answer in enumerate(answers) if is_named(answer, "MovedError")]
            if not astray or not await self._connections.follow():
                break
            answers = await self._again(answers, astray, commands.__getitem__)
        return answers

    async def _again(self, answers: list[Any], which: list[int], command: Callable[[int], bytes]) -> list[Any]:
        """Send once more those that were not run; the other answers stand, whatever happens to these."""
        if which:
            again: list[Any]
            try:
                again = await self._once([command(at) for at in which])
            except NotSent as error:
                again = [error] * len(which)
            for at, answer in zip(which, again, strict=True):
                answers[at] = answer
        return answers

    async def _once(self, commands: list[bytes]) -> list[Any]:
        connection = await self._connections.take()
        answers: list[Any] = []
        failed = True
        try:
            # Cancelled or broken in here, the driver closes the connection: no answer can meet the wrong question.
            await connection.send_packed_command(b"".join(commands), check_health=False)
            for _ in commands:
                try:
                    answers.append(await connection.read_response(disable_decoding=True))
                except Exception as error:
                    if not is_named(error, "ResponseError"):
                        raise
                    answers.append(error)
            failed = any(isinstance(answer, Exception) and is_elsewhere(answer) for answer in answers)
        except Exception as error:
            answers += [error] * (len(commands) - len(answers))
        finally:
            await self._connections.give_back(connection, failed=failed)
        return answers
