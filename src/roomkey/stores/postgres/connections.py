"""Connections of one event loop: at most so many, or those of a pool of the app's.

The pool is this module's own, without asyncpg's. Measured, a lone load takes 68 µs with it and 99 with
`asyncpg.Pool`, which runs a task to take each connection back. A connection belongs to the event loop that made it, so
there is one pool for each running loop, ended by the loop itself (`loop.shutdown_asyncgens`, which `asyncio.run`
calls), or by `close`.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol, TypeVar

import asyncpg  # type: ignore[import-untyped]

from roomkey.stores.postgres.errors import MAY_PASS, CannotConnect
from roomkey.stores.postgres.urls import TAKES, Target
from roomkey.stores.unreachable import at

__all__ = ["BorrowedConnections", "Connection", "Connections", "OwnConnections", "Rows", "fetch_once", "use_connection"]

_CONNECT_TIMEOUT = 5.0  # seconds
_GIVE_UP = 2.0  # seconds that a connection gets to end a statement for which nobody waits any longer
_CLOSE_TIMEOUT = 5.0  # seconds that `close` waits for statements under way
_MOST_IDLE = 300.0  # seconds: firewalls forget connections that are silent for longer, often without a word

_Answer = TypeVar("_Answer")
Rows = list[Any]  # of asyncpg.Record


class Connection(Protocol):
    """As much of asyncpg's connection as is used here; a pool's proxy has it too."""

    async def fetch(self, query: str, *args: Any) -> Rows: ...
    async def fetchrow(self, query: str, *args: Any) -> Any: ...
    async def execute(self, query: str) -> str: ...
    def transaction(self) -> Any: ...
    def is_closed(self) -> bool: ...


class Connections(Protocol):
    """Where connections come from, in one event loop."""

    has_connected: bool  # whether one was ever made; True where that is not known

    async def acquire(self) -> Any:
        """Return a connection that is nobody else's. Waits while all are in use."""
        ...

    async def release(self, connection: Any) -> None:
        """Take one back that is idle, or lost."""
        ...

    def abandon(self, connection: Any) -> None:
        """Take one back on which a statement may still run. Returns at once: the server may be silent for long."""
        ...

    def distrust(self) -> None:
        """One was lost: so may be the idle ones."""
        ...

    async def renew(self) -> None:
        """Use those that there are no more: they lead to the wrong server."""
        ...

    async def lone(self) -> Any:
        """Return a connection for something that takes long. It is to be given to `part_with`."""
        ...

    async def part_with(self, connection: Any) -> None: ...

    async def close(self) -> None: ...

    def terminate(self) -> None: ...


async def fetch_once(connections: Connections, statement: str, args: Sequence[Any]) -> Rows:
    connection = await connections.acquire()
    try:
        rows: Rows = await connection.fetch(statement, *args)
    except _LEAVES_IT_IDLE:
        await connections.release(connection)
        raise
    except BaseException:  # cancelled, above all
        connections.abandon(connection)
        raise
    await connections.release(connection)
    return rows


async def use_connection(connections: Connections, work: Callable[[Connection], Awaitable[_Answer]]) -> _Answer:
    """As `fetch_once`, for more than one statement."""
    connection = await connections.acquire()
    try:
        answer = await work(connection)
    except BaseException:
        connections.abandon(connection)
        raise
    await connections.release(connection)
    return answer


# An answer of the server's, or a value that the driver did not take, before anything was sent.
_LEAVES_IT_IDLE = (asyncpg.PostgresError, asyncpg.DataError)


class OwnConnections:
    """At most so many connections, made when needed, the last one used first. Safe to cancel at every await.

    A slot is held by each connection that there is, and by each that is being made or ended.
    """

    def __init__(self, target: Target) -> None:
        self.has_connected: bool = False
        self._target = target
        self._dsns = deque(target.dsns)
        self._slots = 0
        self._idle: list[tuple[Any, float]] = []  # connection, and since when on time.monotonic; the oldest first
        # Who waits for a connection. Gets one, or None: a slot in which to make one.
        self._waiting: deque[asyncio.Future[Any]] = deque()
        # Connections that are being made, and who waits for each; who is served otherwise meanwhile waits no longer.
        self._making: dict[asyncio.Task[Any], asyncio.Future[Any]] = {}
        self._busy: set[Any] = set()
        self._old: set[Any] = set()  # of the busy ones, those that are not to be used again
        self._ending: set[asyncio.Task[None]] = set()
        self._closing: asyncio.Event | None = None  # set when the last slot is free; None: not closing

    async def acquire(self) -> Any:
        connection = self._take_idle()
        if connection is None:
            if self._slots < self._target.max_connections:
                self._slots += 1
            else:
                connection = self._unspent(await self._wait())
            while connection is None:
                connection = self._unspent(await self._make())
        self._busy.add(connection)
        return connection

    def _unspent(self, connection: Any) -> Any | None:
        """Return a connection that was handed over; None, which is its slot, if it was lost since."""
        if connection is not None and self._is_spent(connection):
            self._end_now(connection)
            return None
        return connection

    def _take_idle(self) -> Any | None:
        while self._idle:
            connection, since = self._idle.pop()
            if not connection.is_closed() and time.monotonic() - since < _MOST_IDLE:
                return connection
            connection.terminate()
            self._slots -= 1
        return None

    async def _wait(self) -> Any | None:
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        return await self._given(future)

    async def _given(self, future: asyncio.Future[Any]) -> Any | None:
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:  # given in the same moment
                connection = future.result()
                if connection is None:
                    self._free_slot()
                else:
                    self._take_back(connection)
            raise

    async def _make(self) -> Any:
        """Make a connection in a slot that is held already, or take one that comes back before it stands.

        To connect takes a hundred times as long as a statement, and a server that has just started takes its time.
        """
        loop = asyncio.get_running_loop()
        future, task = loop.create_future(), loop.create_task(self._connect())
        self._making[task] = future
        task.add_done_callback(self._made)
        try:
            return await self._given(future)
        except asyncio.CancelledError:
            task.cancel()
            raise

    def _made(self, task: asyncio.Task[Any]) -> None:
        future = self._making.pop(task)
        error = None if task.cancelled() else task.exception()
        if task.cancelled() or error is not None:
            self._free_slot()
            if not future.done():
                future.set_exception(ConnectionAbortedError() if error is None else error)
        elif future.done():
            self._hand_on(task.result())
        else:
            future.set_result(task.result())

    async def _connect(self) -> Any:
        target, dsn = self._target, self._dsns[0]
        try:
            connection = await asyncpg.connect(
                dsn,
                timeout=_CONNECT_TIMEOUT,
                statement_cache_size=target.statement_cache_size,
                max_cached_statement_lifetime=0,  # for ever: there are ten
                server_settings=target.settings,
            )
            self.has_connected = True
            return connection
        except asyncpg.PostgresError as error:
            if error.sqlstate[:2] in MAY_PASS:
                raise
            # Its first line names user, database or host, never a password.
            raise CannotConnect(f"PostgreSQL refused the connection: {error.args[0]}") from error
        except ConnectionError as error:
            if "rejected SSL" not in str(error):
                raise
            raise CannotConnect(
                f"PostgreSQL does not offer TLS{at(target.where)}, or another server answers there: switch TLS on, or "
                "correct host, port or sslmode in the URL"
            ) from error
        except ssl.SSLCertVerificationError as error:
            raise CannotConnect(
                f"PostgreSQL's certificate is not trusted ({error.verify_message}): correct sslmode or sslrootcert"
            ) from error
        except (asyncpg.ClientConfigurationError, ValueError) as error:
            # From nothing: the driver's words may hold a part of the URL.
            raise CannotConnect(f"asyncpg cannot use this PostgreSQL URL ({type(error).__name__}); {TAKES}") from None
        except BaseException:
            # Cancelled, perhaps, for the first host was silent until nobody wanted to wait any longer.
            if self._dsns[0] is dsn:
                self._dsns.rotate(-1)
            raise

    async def release(self, connection: Any) -> None:
        self._take_back(connection)

    def _take_back(self, connection: Any) -> None:
        if self._is_spent(connection):
            self._end_now(connection)
            self._free_slot()
        else:
            self._busy.discard(connection)
            self._hand_on(connection)

    def _is_spent(self, connection: Any) -> bool:
        return connection in self._old or connection.is_closed()

    def _end_now(self, connection: Any) -> None:
        self._busy.discard(connection)
        self._old.discard(connection)
        connection.terminate()

    def _hand_on(self, connection: Any) -> None:
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                self._busy.add(connection)  # it is nobody's yet, and no longer idle
                future.set_result(connection)
                return
        for future in self._making.values():
            if not future.done():
                self._busy.add(connection)
                future.set_result(connection)
                return
        now = time.monotonic()
        self._idle.append((connection, now))
        if self._closing is not None or now - self._idle[0][1] >= _MOST_IDLE:
            oldest, _ = self._idle.pop(0)
            oldest.terminate()
            self._free_slot()

    def _free_slot(self) -> None:
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(None)
                return
        self._slots -= 1
        if self._slots == 0 and self._closing is not None:
            self._closing.set()

    def abandon(self, connection: Any) -> None:
        # Closed, not used again: nobody can ever get the answer that somebody else did not wait for. Not terminated at
        # once: the driver first asks the server to cancel the statement, which may be waiting for a lock.
        task = asyncio.get_running_loop().create_task(self._end(connection))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _end(self, connection: Any) -> None:
        try:
            async with asyncio.timeout(_GIVE_UP):  # asyncpg before 0.32 waits for some things beside its own time limit
                await connection.close(timeout=_GIVE_UP)
        except Exception:
            connection.terminate()
            self.distrust()  # it was dead: not even the wish to cancel was answered
        finally:
            self._busy.discard(connection)
            self._old.discard(connection)
            self._free_slot()

    def distrust(self) -> None:
        idle, self._idle = self._idle, []
        for connection, _ in idle:
            connection.terminate()
            self._free_slot()
        for task, future in self._making.items():
            if future.done():
                task.cancel()  # nobody waits for it, and it may hang

    async def renew(self) -> None:
        self._old |= self._busy
        self.distrust()

    async def lone(self) -> Any:
        return await self._connect()

    async def part_with(self, connection: Any) -> None:
        connection.terminate()

    async def close(self) -> None:
        self._closing = asyncio.Event()
        self.distrust()
        try:
            if self._slots:
                async with asyncio.timeout(_CLOSE_TIMEOUT):
                    await self._closing.wait()
        except TimeoutError:
            pass
        finally:
            self.terminate()

    def terminate(self) -> None:
        for connection in [*self._busy, *(connection for connection, _ in self._idle)]:
            connection.terminate()
        self._idle.clear()


class BorrowedConnections:
    """A pool of the app's own. It is not ours to close, and its limits are its own."""

    has_connected = True

    def __init__(self, pool: asyncpg.Pool[Any]) -> None:
        self._pool = pool
        self._ending: set[asyncio.Task[None]] = set()

    async def acquire(self) -> Any:
        return await self._pool.acquire()

    async def release(self, connection: Any) -> None:
        # The operation is done, whatever becomes of the connection. A pool that cannot reset it has dropped it.
        with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            await self._pool.release(connection, timeout=_GIVE_UP)

    def abandon(self, connection: Any) -> None:
        task = asyncio.get_running_loop().create_task(self.release(connection))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    def distrust(self) -> None:
        pass

    async def renew(self) -> None:
        await self._pool.expire_connections()

    async def lone(self) -> Any:
        return await self._pool.acquire()

    async def part_with(self, connection: Any) -> None:
        connection.terminate()  # it still listens, where the pool does not reset what it takes back
        await self.release(connection)

    async def close(self) -> None:
        if self._ending:
            await asyncio.wait(self._ending)

    def terminate(self) -> None:
        pass
