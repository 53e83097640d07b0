"""How an operation runs, commits and is abandoned, in one event loop.

Each operation is a task. One that is cancelled returns at once, and its task is left to end the connection
in its own time: a server that is silent can keep it for seconds. Nor is it cancelled at any moment: where SQLAlchemy
sets a connection up, or takes it back, it would lose the connection, or its place in the pool. But it is cancelled
again where it does not end: SQLAlchemy waits without a limit for aiosqlite to close a connection, and on SQLite others
wait for their turn meanwhile.
"""

from __future__ import annotations

import asyncio
import enum
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext, suppress
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import ConnectionPoolEntry

from roomkey.stores.renewal import Renewal
from roomkey.stores.sqlalchemy.errors import OURS, READ_ONLY, Unsure

__all__ = [
    "BEGINS",
    "SQLITE_PATIENCE",
    "Answer",
    "Link",
    "Operation",
    "Work",
    "begun",
    "changes_a_row",
    "committed",
    "count_rows",
    "isolated",
    "use_connection",
]

SQLITE_PATIENCE = 10.0  # seconds for which an operation waits for another process's lock
_GIVE_UP = 2.0  # seconds that a connection gets to be made when nobody waits for it any longer
_STUCK = 10.0  # seconds that one gets to be taken back, where others wait for that
_CLOSE_TIMEOUT = 5.0  # seconds that `close` waits for what is under way

Answer = TypeVar("Answer")
Work = Callable[[sa.Connection], Answer]  # runs in a greenlet: SQLAlchemy's plain style, without await


class _Stage(enum.Enum):
    CONNECTING = enum.auto()  # when it is cancelled here, SQLAlchemy may lose the connection that it sets up
    WORKING = enum.auto()
    RETURNING = enum.auto()  # and here the pool would lose a place


class Operation:
    """One on its way, in a task of its own."""

    __slots__ = ("abandoned", "since", "stage")

    def __init__(self) -> None:
        self.since: float = time.monotonic()
        self.stage: _Stage = _Stage.CONNECTING
        self.abandoned: bool = False  # whether nobody waits for it any longer

    def begins(self, stage: _Stage = _Stage.CONNECTING) -> None:
        """Go on to the next stage, unless there is nobody to do it for."""
        if self.abandoned:
            raise asyncio.CancelledError
        self.stage = stage

    def abandon(self, task: asyncio.Task[Any], *, in_turn: bool) -> None:
        """Nobody waits any longer: cancel the task, now or when that does no harm.

        Args:
            task: the operation's.
            in_turn: whether others wait until it ends, as with SQLite.
        """
        self.abandoned = True
        if self.stage is _Stage.WORKING:
            task.cancel()
        asyncio.get_running_loop().call_later(_GIVE_UP, self._give_up, task, in_turn, _GIVE_UP)

    def _give_up(self, task: asyncio.Task[Any], in_turn: bool, waited: float) -> None:
        # Again and again: SQLAlchemy waits without a limit for a connection to close, and SQLite's driver may never say
        # that it has.
        if task.done():
            return
        if self.stage is not _Stage.RETURNING or (in_turn and waited >= _STUCK):
            task.cancel()
        asyncio.get_running_loop().call_later(_GIVE_UP, self._give_up, task, in_turn, waited + _GIVE_UP)


def use_connection(engine: sa.Engine, work: Work[Answer], operation: Operation) -> Answer:
    with engine.connect() as connection:
        operation.begins(_Stage.WORKING)
        try:
            return work(connection)
        except (exc.SQLAlchemyError, *OURS):
            raise
        except BaseException as error:
            # Cancelled; or an error of the driver's that went past SQLAlchemy. There may be an answer on its way.
            if not connection.invalidated:
                connection.invalidate(error)
            raise
        finally:
            operation.stage = _Stage.RETURNING


def committed(work: Work[Answer], connection: sa.Connection) -> Answer:
    with connection.begin():
        return work(connection)


# How a transaction begins where statements commit themselves. Oracle has no such statement.
BEGINS: dict[str, tuple[str, ...]] = {
    "mysql": ("SET TRANSACTION ISOLATION LEVEL READ COMMITTED", "START TRANSACTION"),
    "mariadb": ("SET TRANSACTION ISOLATION LEVEL READ COMMITTED", "START TRANSACTION"),
    "postgresql": ("BEGIN ISOLATION LEVEL READ COMMITTED",),
    "sqlite": ("BEGIN IMMEDIATE",),
    "mssql": ("BEGIN TRANSACTION",),
}


@contextmanager
def begun(connection: sa.Connection, begin: tuple[str, ...]) -> Iterator[None]:
    """A transaction in an engine of ours."""
    for statement in begin:
        connection.exec_driver_sql(statement)
    try:
        yield
        _commit(lambda: connection.exec_driver_sql("COMMIT"))
    except Exception:
        if not connection.invalidated:
            try:
                connection.exec_driver_sql("ROLLBACK")
            except exc.DBAPIError:  # the database may have rolled it back itself, or not
                connection.invalidate()
        raise


@contextmanager
def isolated(connection: sa.Connection, level: Any) -> Iterator[None]:
    """A transaction in an engine of the app's."""
    try:
        connection.execution_options(isolation_level=level)
    except connection.dialect.loaded_dbapi.Error:
        # SQLAlchemy lets this error pass. By this one it notices that the connection is lost, and others too.
        connection.execute(sa.select(1))
        raise
    with connection.begin() as transaction:
        yield
        _commit(transaction.commit)


def _commit(commit: Callable[[], object]) -> None:
    try:
        commit()
    except exc.DBAPIError as error:
        if error.connection_invalidated:
            raise Unsure from error
        raise


def count_rows(statement: sa.Executable, parameters: dict[str, Any], connection: sa.Connection) -> int:
    return connection.execute(statement, parameters).rowcount


def changes_a_row(statement: sa.Executable, parameters: dict[str, Any], connection: sa.Connection) -> bool:
    return count_rows(statement, parameters, connection) == 1


class Link:
    """What a store has in one event loop: an engine, and operations under way."""

    def __init__(self, engine: AsyncEngine, *, ours: bool) -> None:
        self.engine = engine
        self.one_by_one: AbstractAsyncContextManager[None] = nullcontext()
        if engine.dialect.name == "sqlite":
            self.one_by_one = asyncio.Lock()
        self.renewal: Renewal = Renewal(self._renew)
        self.has_connected: bool = engine.dialect.name not in READ_ONLY  # whether it ever did; True: not known
        self._generation = 0  # of connections: those of an earlier one are made anew before their next use
        if engine.dialect.name in READ_ONLY:
            sa.event.listen(engine.sync_engine, "connect", self._connected)
            sa.event.listen(engine.sync_engine, "checkout", self._taken)
        self._ours = ours
        self._tasks: set[asyncio.Task[Any]] = set()

    def _connected(self, _connection: object, record: ConnectionPoolEntry) -> None:
        self.has_connected = True
        record.info[self] = self._generation

    def _taken(self, _connection: object, record: ConnectionPoolEntry, _proxy: object) -> None:
        # Each by itself: SQLAlchemy awaits the end of the first one before it gives up the rest of a pool.
        if record.info.get(self, 0) != self._generation:
            raise exc.DisconnectionError  # it makes the connection anew

    async def _renew(self) -> None:
        self._generation += 1

    async def run(self, operation: Operation, coroutine: Coroutine[Any, Any, Answer]) -> Answer:
        """Run an operation. When it is cancelled, what it leaves is tidied up without it."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        try:
            await asyncio.wait((task,))
        except BaseException:
            operation.abandon(task, in_turn=isinstance(self.one_by_one, asyncio.Lock))
            raise
        return task.result()

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # seen: nobody may be waiting for it any longer

    async def close(self) -> None:
        """Wait for what is under way, and close the connections, unless they are the app's."""
        try:
            await self._settle()
        finally:
            self._stop_listening()

    def terminate(self) -> None:
        """Stop listening to the engine. Sockets of our own close with the objects."""
        self._stop_listening()

    async def _settle(self) -> None:
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT):
                if self._tasks:
                    await asyncio.wait(self._tasks)
                if self._ours:
                    await self.engine.dispose()
        except TimeoutError:
            pass  # the database is silent: the sockets close with the objects

    def _stop_listening(self) -> None:
        # An engine of the app's outlives this, and would go on telling.
        if self.engine.dialect.name in READ_ONLY:
            with suppress(exc.InvalidRequestError):  # nobody closed the store, and the engine went first
                sa.event.remove(self.engine.sync_engine, "connect", self._connected)
                sa.event.remove(self.engine.sync_engine, "checkout", self._taken)
