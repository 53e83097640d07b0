"""Connections to wherever the sessions are: a server of our own, a client of the app's, a node of a cluster.

They are driven directly rather than through `Redis.execute_command`, which takes a quarter longer and does not say
whether a command that failed had been sent. That matters. A write whose answer was lost may have been done; sent again
it would be refused, and what is then laid over it would run `Session.change` functions twice. So a connection is
checked to be alive before anything is sent, a write is sent once, and only a load is sent again.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import select
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

__all__ = ["Borrowed", "Clustered", "Connections", "NotSent", "Own"]

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

    async def take(self) -> _Connection:
        """Return a connection that is alive. Raises NotSent."""
        ...

    async def give_back(self, connection: _Connection, *, failed: bool) -> None:
        """Take a connection back. `failed`: it may lead to the wrong server."""
        ...

    async def follow(self) -> bool:
        """Find out where the slot of the keys is now; return whether there is such a thing."""
        ...

    async def close(self) -> None: ...


class NotSent(Exception):
    """No connection could be had; the reason is the cause."""


class SlotNotFound(Exception):
    """The cluster did not say in time where our slot is."""


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
    if _poll is None:
        return False
    poll = _poll()
    poll.register(writer.get_extra_info("socket").fileno(), _HUNG_UP)
    return bool(poll.poll(0))


_poll = getattr(select, "poll", None)  # not on Windows
_HUNG_UP = getattr(select, "POLLRDHUP", 0)  # Linux; elsewhere POLLHUP, which is always asked for, has to do


class Own:
    """Connections that only this store uses; no more than there are lanes.

    Without the driver's pool: it takes 10 µs a round trip, and giving back to it can be cancelled.
    """

    def __init__(self, make: Callable[[], Any], close: Callable[[], Awaitable[None]] | None = None) -> None:
        self._make = make
        self._idle: list[_Connection] = []
        self._all: set[_Connection] = set()
        self._closed = False
        self._close_more = close

    async def take(self) -> _Connection:
        if self._closed:
            raise NotSent
        connection: _Connection = self._idle.pop() if self._idle else self._make()
        self._all.add(connection)
        try:
            await _revive(connection)
        except BaseException:
            self._idle.append(connection)
            raise
        return connection

    async def give_back(self, connection: _Connection, *, failed: bool) -> None:
        self._idle.append(connection)
        if failed or self._closed:
            await connection.disconnect(nowait=True)

    async def follow(self) -> bool:
        return False

    async def close(self) -> None:
        self._closed = True
        connections, self._all, self._idle = self._all, set(), []
        await asyncio.gather(*(_part(connection.disconnect()) for connection in connections))
        if self._close_more is not None:
            await _part(self._close_more())


class Borrowed:
    """Connections of the app's own client: each goes back after its round trip."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        # valkey-py wants the name of a command, which it ignores; redis-py warns about one.
        name = inspect.signature(pool.get_connection).parameters.get("command_name")
        self._args = ("MGET",) if name is not None and name.default is name.empty else ()

    async def take(self) -> _Connection:
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

    async def give_back(self, connection: _Connection, *, failed: bool) -> None:
        try:
            if failed:
                await connection.disconnect(nowait=True)
        finally:
            await self._pool.release(connection)

    async def follow(self) -> bool:
        return False

    async def close(self) -> None:
        pass


class Clustered:
    """Connections to the node of a cluster that has our slot.

    Finding that node is left to the driver, whose own command does it when a connection failed or a node refused.
    """

    def __init__(self, client: Any, key: bytes, make: Callable[[], Any] | None = None) -> None:
        self._client = client
        self._key = key.decode()
        self._make = make  # None: it is the app's own client, which is not ours to replace or to close
        self._lost = False  # whether the node is to be found anew
        self._closing: set[asyncio.Task[None]] = set()
        self._nodes: dict[int, Any] = {}  # of connections that are taken, by their id

    async def take(self) -> _Connection:
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

    async def give_back(self, connection: _Connection, *, failed: bool) -> None:
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
