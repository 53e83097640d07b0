"""Loads that wait in the same moment share a statement: a lone one goes at once; those that come while it is on its way
travel together.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial

from roomkey.errors import StoreUnavailable
from roomkey.stores.base import Record
from roomkey.stores.postgres.connections import Connections
from roomkey.stores.renewal import Renewal

__all__ = ["Office"]

_LOADS_AT_ONCE = 64  # in one round trip
_FLIGHTS = 2  # round trips with loads under way at once


class Office:
    """What a store has in one event loop: connections, and loads on their way."""

    def __init__(
        self,
        connections: Connections,
        load_one: Callable[[Office, str], Awaitable[Record | None]],
        load_many: Callable[[Office, list[str]], Awaitable[dict[str, Record]]],
    ) -> None:
        self.connections = connections
        self.loads = _Loads(partial(load_one, self), partial(load_many, self))
        self.opening = asyncio.Lock()
        self.renewal = Renewal(connections.renew)

    async def close(self) -> None:
        """Wait for the statements that are under way, and close the connections."""
        await self.connections.close()

    def terminate(self) -> None:
        """Close the connections."""
        self.connections.terminate()


class _Load:
    """Someone who waits for a record."""

    __slots__ = ("flight", "future", "key")

    def __init__(self, key: str, future: asyncio.Future[Record | None]) -> None:
        self.key = key
        self.future = future
        self.flight: _Flight | None = None  # None: not sent yet


class _Flight:
    """Loads that share a round trip."""

    __slots__ = ("loads", "task")

    def __init__(self, loads: list[_Load]) -> None:
        self.loads = loads
        self.task: asyncio.Task[None] | None = None

    def left(self) -> None:
        """One of them waits no longer. When none does, the statement must not hold its connection for ever."""
        if self.task is not None and all(load.future.done() for load in self.loads):
            self.task.cancel()


class _Loads:
    """Loads share round trips. A lone one goes at once, and pays nothing for it."""

    def __init__(
        self,
        load_one: Callable[[str], Awaitable[Record | None]],
        load_many: Callable[[list[str]], Awaitable[dict[str, Record]]],
    ) -> None:
        self._load_one = load_one
        self._load_many = load_many
        self._waiting: deque[_Load] = deque()
        self._flying = 0
        self._due = False  # whether `_send` was called for
        self._tasks: set[asyncio.Task[None]] = set()

    async def load(self, key: str) -> Record | None:
        if not self._flying and not self._waiting:
            self._flying += 1
            try:
                return await self._load_one(key)
            finally:
                self._landed()
        load = _Load(key, asyncio.get_running_loop().create_future())
        self._waiting.append(load)
        self._send_soon()
        try:
            return await load.future
        except asyncio.CancelledError:
            if load.flight is not None:
                load.flight.left()
            raise

    def _landed(self) -> None:
        self._flying -= 1
        self._send_soon()

    def _send_soon(self) -> None:
        """Send at the end of this round of the loop, with all who join until then."""
        if self._waiting and not self._due and self._flying < _FLIGHTS:
            self._due = True
            asyncio.get_running_loop().call_soon(self._send)

    def _send(self) -> None:
        self._due = False
        flight = _Flight([])
        while self._waiting and len(flight.loads) < _LOADS_AT_ONCE:
            load = self._waiting.popleft()
            if not load.future.done():
                load.flight = flight
                flight.loads.append(load)
        if flight.loads:
            self._flying += 1
            flight.task = asyncio.get_running_loop().create_task(self._fly(flight))
            self._tasks.add(flight.task)
            flight.task.add_done_callback(self._tasks.discard)
        self._send_soon()

    async def _fly(self, flight: _Flight) -> None:
        waiting = flight.loads
        try:
            found = await self._load_many([load.key for load in waiting])
        except asyncio.CancelledError:
            for load in waiting:
                load.future.cancel()
            raise
        except Exception as error:
            for load in waiting:
                if not load.future.done():
                    load.future.set_exception(_copy(error))
        else:
            for load in waiting:
                if not load.future.done():
                    load.future.set_result(found.get(load.key))
        finally:
            self._landed()


def _copy(error: Exception) -> Exception:
    """Return a new exception for each who waits: a shared one would collect the tracebacks of all."""
    copy = StoreUnavailable(str(error) if isinstance(error, StoreUnavailable) else type(error).__name__)
    copy.__cause__ = error
    return copy
