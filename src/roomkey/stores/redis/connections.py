"""Connections to wherever the sessions are: a server of our own, a client of the app's, a node of a cluster.

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

from roomkey.stores.redis.errors import NotACluster, NotSent, SlotNotFound, is_elsewhere, is_named
from roomkey.stores.redis.wire import Wire, take_over

__all__ = ["Borrowed", "Clustered", "Connections", "Own"]

_log = logging.getLogger("roomkey")
_PATIENCE_CLOSING = 1.0  # seconds that a connection may take to say good-bye
_PATIENCE_FINDING = 0.5  # seconds that a cluster may take to say where our slot is


class _Connection(Protocol):
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

    async def exchange_at(self, node: tuple[str, int], commands: bytes, count: int) -> list[Any]:
        """As `exchange`, with another node of the cluster: host and port."""
        ...

    async def follow(self) -> bool:
        """Find out where the slot of the keys is now; return whether there is such a thing."""
        ...

    async def close(self) -> None: ...


async def _revive(connection: _Connection) -> None:
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


async def _converse(connection: _Connection, commands: bytes, count: int) -> list[Any]:
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


def _is_spent(answers: list[Any]) -> bool:
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
        await _revive(self._connection)
        if self._connection._writer is not connected:
            self._wire = take_over(self._connection)
            self._poll = _poll_for(self._connection)

    def exchange(self, commands: bytes, count: int) -> Awaitable[list[Any]]:
        if self._wire is not None:
            return self._wire.exchange(commands, count)
        return _converse(self._connection, commands, count)

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
            failed = _is_spent(answers)
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

    async def exchange_at(self, node: tuple[str, int], commands: bytes, count: int) -> list[Any]:
        """Not done: there is one server."""
        return [NotACluster()] * count

    async def follow(self) -> bool:
        """Return False: there is one server."""
        return False

    async def close(self) -> None:
        """Close all connections, within reason."""
        self._closed = True
        lines, self._all, self._idle = self._all, set(), []
        await asyncio.gather(*(_part(line.disconnect()) for line in lines))
        if self._close_more is not None:
            await _part(self._close_more())


class _Pooled:
    """Connections of a pool of the driver's: each goes back after its round trip."""

    has_connected: bool = False

    async def exchange(self, commands: bytes, count: int) -> list[Any]:
        """See `Connections`."""
        return await self._exchange(self._take(), commands, count)

    async def _exchange(self, taking: Awaitable[_Connection], commands: bytes, count: int) -> list[Any]:
        try:
            connection = await taking
        except NotSent as error:
            return [error] * count
        self.has_connected = failed = True
        try:
            answers = await _converse(connection, commands, count)
            failed = _is_spent(answers)
        finally:
            await self._give_back(connection, failed=failed)
        return answers

    async def _take(self) -> _Connection:
        """Return a connection that is alive. Raises NotSent."""
        raise NotImplementedError

    async def _give_back(self, connection: _Connection, *, failed: bool) -> None:
        """Take a connection back. `failed`: it is of no more use."""
        raise NotImplementedError


class Borrowed(_Pooled):
    """Connections of the app's own client."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        # valkey-py wants the name of a command, which it ignores; redis-py warns about one.
        name = inspect.signature(pool.get_connection).parameters.get("command_name")
        self._args = ("MGET",) if name is not None and name.default is name.empty else ()

    async def _take(self) -> _Connection:
        try:
            connection: _Connection = await self._pool.get_connection(*self._args)
        except Exception as error:
            raise NotSent from error
        try:
            await _revive(connection)
        except BaseException:
            await self._pool.release(connection)
            raise
        return connection

    async def _give_back(self, connection: _Connection, *, failed: bool) -> None:
        try:
            if failed:
                await connection.disconnect(nowait=True)
        finally:
            await self._pool.release(connection)

    async def exchange_at(self, node: tuple[str, int], commands: bytes, count: int) -> list[Any]:
        return [NotACluster()] * count

    async def follow(self) -> bool:
        return False

    async def close(self) -> None:
        pass


class Clustered(_Pooled):
    """Connections to the node of a cluster that has our slot.

    Finding that node is left to the driver. When a connection failed, or a node said that the slot is elsewhere, one
    of the driver's own commands finds it.
    """

    def __init__(self, client: Any, key: bytes, make: Callable[[], Any] | None = None) -> None:
        self._client = client
        self._key = key.decode()
        self._make = make  # None: it is the app's own client, which is not ours to replace or to close
        self._lost = False  # whether the node is to be found anew
        self._closing: set[asyncio.Task[None]] = set()
        self._nodes: dict[int, Any] = {}  # of connections that are taken, by their id
        self._new_nodes: dict[tuple[str, int], Any] = {}  # which got their first slot lately

    async def _take(self) -> _Connection:
        client = self._client
        try:
            # A node that is silent must not use up the time in which another one would say where the slot is by now.
            async with asyncio.timeout(_PATIENCE_FINDING):
                await client.initialize()
                if self._lost:
                    await client.execute_command("EXISTS", self._key)
                    self._lost = False
            node = client.get_node_from_key(self._key)
            connection: _Connection = node.acquire_connection()
        except BaseException as error:
            self._replace(client)
            if not isinstance(error, Exception):  # cancelled: nobody wanted to wait any longer
                raise
            raise NotSent from (SlotNotFound() if isinstance(error, TimeoutError) else error)
        try:
            await _revive(connection)
        except BaseException:
            self._lost = True
            node.release(connection)
            raise
        self._nodes[id(connection)] = node
        return connection

    async def exchange_at(self, node: tuple[str, int], commands: bytes, count: int) -> list[Any]:
        """See `Connections`."""
        return await self._exchange(self._take_at(*node), commands, count)

    async def _take_at(self, host: str, port: int) -> _Connection:
        try:
            node = self._node_at(host, port)
            connection: _Connection = node.acquire_connection()
        except Exception as error:
            raise NotSent from error
        try:
            await _revive(connection)
        except BaseException:
            node.release(connection)
            raise
        self._nodes[id(connection)] = node
        return connection

    def _node_at(self, host: str, port: int) -> Any:
        """Return a node by its address. One that has no slot yet is not among those that the driver knows."""
        client = self._client
        known = client.get_node(host, port) if host else None  # no host: that of the node that said so
        if known is not None:
            return known
        model = client.get_node_from_key(self._key)
        address = (host or model.host, port)
        if address not in self._new_nodes:
            self._new_nodes[address] = type(model)(
                *address, model.server_type, **client.nodes_manager.connection_kwargs
            )
        return self._new_nodes[address]

    async def _give_back(self, connection: _Connection, *, failed: bool) -> None:
        node = self._nodes.pop(id(connection))
        self._lost = self._lost or failed
        try:
            if failed:
                await connection.disconnect(nowait=True)
        finally:
            node.release(connection)

    async def follow(self) -> bool:
        self._lost = True
        return True

    async def close(self) -> None:
        if self._closing:
            await asyncio.wait(self._closing)
        if self._make is not None:
            await _part(_close(self._client))
        for node in self._new_nodes.values():
            await _part(node.disconnect())

    def _replace(self, client: Any) -> None:
        """Begin anew from the URL: a client that found no node may have forgotten all it knew (redis-py 6.4)."""
        if self._make is not None and self._client is client:  # or another batch has done it
            self._client = self._make()
            closing = asyncio.get_running_loop().create_task(_part(_close(client)))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)


async def _close(client: Any) -> None:
    """Close a cluster's client. After a fault the driver thinks that it is closed, and would keep its connections."""
    nodes = [*client.nodes_manager.nodes_cache.values(), *client.nodes_manager.startup_nodes.values()]
    await client.aclose()
    await asyncio.gather(*(node.disconnect() for node in nodes), return_exceptions=True)


async def _part(closing: Awaitable[None]) -> None:
    """Close something, within reason."""
    try:
        async with asyncio.timeout(_PATIENCE_CLOSING):
            await closing
    except Exception as error:
        _log.debug("closing a connection of the session store: %s", type(error).__name__)
