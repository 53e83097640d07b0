"""Connections to the server: our own, or those of a client of the app's. `cluster` has those to a cluster.

They are not used through `Redis.execute_command`. It takes longer, and does not say whether a command that failed had
been sent. A write whose answer was lost may have been done. If it were sent again, it would conflict with itself, and
the retry would run the functions of `Session.change` twice. So a connection is checked to be alive before anything is
sent, a write is sent once, and only a load is sent again.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import select
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from roomkey.stores.redis.errors import NotSent, is_elsewhere, is_named
from roomkey.stores.redis.wire import Wire, take_over

__all__ = ["Borrowed", "Connection", "Connections", "Own", "converse", "is_spent", "part", "revive"]

_log = logging.getLogger("roomkey")
_PATIENCE_CLOSING = 1.0  # seconds that a connection may take to say good-bye


class Connection(Protocol):
    """What is used of a connection of redis-py or valkey-py."""

    @property
    def is_connected(self) -> bool: ...
    async def connect(self) -> None: ...
    async def disconnect(self, nowait: bool = False) -> None: ...
    async def send_packed_command(self, command: bytes, check_health: bool = True) -> None: ...
    async def read_response(self, disable_decoding: bool = False) -> Any: ...


class Connections(Protocol):
    """Where connections come from."""

    has_connected: bool  # whether one was ever made

    async def exchange(self, commands: bytes, count: int) -> list[Any]:
        """Send commands in one round trip, over a connection that is alive.

        Args:
            commands: packed, one after the other.
            count: how many there are.

        Returns:
            The answers, in order. An exception in place of one stands for an error, or for an answer that was lost.
            NotSent: no connection could be had.
        """
        ...

    def single(self) -> Any:
        """Return one more connection, which is not connected yet, and which nobody else uses."""
        ...

    async def close(self) -> None: ...


async def revive(connection: Connection) -> None:
    """Connect where that is needed. Raises NotSent."""
    try:
        if connection.is_connected and _is_dead(connection):
            await connection.disconnect(nowait=True)
        if not connection.is_connected:
            await connection.connect()
    except BaseException as error:
        await connection.disconnect(nowait=True)  # it may have stopped half-way, before it had logged in
        if isinstance(error, Exception):
            raise NotSent from error
        raise


def _is_dead(connection: Any) -> bool:
    """Whether the server has closed an idle connection, also when the event loop has not noticed yet."""
    reader, writer = connection._reader, connection._writer
    if reader.at_eof() or reader.exception() is not None or writer.is_closing():
        return True
    poll = _poll_for(connection)
    return poll is not None and bool(poll.poll(0))


def _poll_for(connection: Any) -> select.poll | None:
    """Return what tells that a connection's server has closed it; None on Windows, which has no such thing."""
    if not hasattr(select, "poll"):
        return None
    poll = select.poll()
    # Linux has POLLRDHUP. Elsewhere POLLHUP, which is always asked for, has to do.
    poll.register(connection._writer.get_extra_info("socket").fileno(), getattr(select, "POLLRDHUP", 0))
    return poll


async def converse(connection: Connection, commands: bytes, count: int) -> list[Any]:
    """As `Connections.exchange`, by the driver's methods. When it is cancelled or fails, the driver has closed the
    connection: no answer can meet the wrong question."""
    answers: list[Any] = []
    try:
        await connection.send_packed_command(commands, check_health=False)
        for _ in range(count):
            try:
                answers.append(await connection.read_response(disable_decoding=True))
            except Exception as error:
                if not is_named(error, "ResponseError"):
                    raise
                answers.append(error)
    except Exception as error:
        answers += [error] * (count - len(answers))
    return answers


def is_spent(answers: list[Any]) -> bool:
    """Whether the connection is of no more use: it broke, or may lead to the wrong server."""
    for answer in answers:
        if isinstance(answer, Exception) and (not is_named(answer, "ResponseError") or is_elsewhere(answer)):
            return True
    return False


class _Line:
    """One connection of our own."""

    __slots__ = ("_connection", "_poll", "_wire")

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._wire: Wire | None = None  # None: not connected, or the driver carries the round trips
        self._poll: select.poll | None = None

    def is_alive(self) -> bool:
        """Whether it can be used at once. Costs a microsecond."""
        return self._wire is not None and not self._wire.is_closing() and not (self._poll and self._poll.poll(0))

    async def revive(self) -> None:
        """Connect, where that is needed. Raises NotSent."""
        connected = self._connection._writer
        await revive(self._connection)
        if self._connection._writer is not connected:
            self._wire = take_over(self._connection)
            self._poll = _poll_for(self._connection)

    def exchange(self, commands: bytes, count: int) -> Awaitable[list[Any]]:
        if self._wire is not None:
            return self._wire.exchange(commands, count)
        return converse(self._connection, commands, count)

    async def disconnect(self, *, nowait: bool = False) -> None:
        await self._connection.disconnect(nowait=nowait)


class Own:
    """Connections that only this store uses; no more than there are lanes.

    Without the driver's pool: it takes 10 µs a round trip, and giving back to it can be cancelled.
    """

    def __init__(self, make: Callable[[], Any], close: Callable[[], Awaitable[None]] | None = None) -> None:
        self._make = make
        self.has_connected: bool = False
        self._idle: list[_Line] = []
        self._all: set[_Line] = set()
        self._closed = False
        self._close_more = close

    async def exchange(self, commands: bytes, count: int) -> list[Any]:
        """See `Connections`."""
        if self._closed:
            return [NotSent()] * count
        line = self._idle.pop() if self._idle else self._new_line()
        failed = True
        try:
            if not line.is_alive():
                await line.revive()
                self.has_connected = True
            answers = await line.exchange(commands, count)
            failed = is_spent(answers)
        except Exception as error:
            answers = [error] * count
        finally:
            self._idle.append(line)
            if failed or self._closed:
                await line.disconnect(nowait=True)
        return answers

    def _new_line(self) -> _Line:
        line = _Line(self._make())
        self._all.add(line)
        return line

    def single(self) -> Any:
        """See `Connections`."""
        return self._make()

    async def close(self) -> None:
        """Close all connections, within reason."""
        self._closed = True
        lines, self._all, self._idle = self._all, set(), []
        await asyncio.gather(*(part(line.disconnect()) for line in lines))
        if self._close_more is not None:
            await part(self._close_more())


class Borrowed:
    """Connections of the app's own client: each goes back to its pool after its round trip."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        # valkey-py wants the name of a command, which it ignores; redis-py warns about one.
        name = inspect.signature(pool.get_connection).parameters.get("command_name")
        self._args = ("MGET",) if name is not None and name.default is name.empty else ()
        self.has_connected: bool = False

    async def exchange(self, commands: bytes, count: int) -> list[Any]:
        """See `Connections`."""
        try:
            connection = await self._take()
        except NotSent as error:
            return [error] * count
        self.has_connected = failed = True
        try:
            answers = await converse(connection, commands, count)
            failed = is_spent(answers)
        finally:
            await self._give_back(connection, failed=failed)
        return answers

    async def _take(self) -> Connection:
        try:
            connection: Connection = await self._pool.get_connection(*self._args)
        except Exception as error:
            raise NotSent from error
        try:
            await revive(connection)
        except BaseException:
            await self._pool.release(connection)
            raise
        return connection

    async def _give_back(self, connection: Connection, *, failed: bool) -> None:
        try:
            if failed:
                await connection.disconnect(nowait=True)
        finally:
            await self._pool.release(connection)

    def single(self) -> Any:
        """See `Connections`."""
        return self._pool.make_connection()

    async def close(self) -> None:
        pass


async def part(closing: Awaitable[None]) -> None:
    """Close something, within reason."""
    try:
        async with asyncio.timeout(_PATIENCE_CLOSING):
            await closing
    except Exception as error:
        _log.debug("closing a connection of the session store: %s", type(error).__name__)
