"""What is told to those who watch: NOTIFY by those who write, LISTEN by those who watch.

What ends or moves is told by the statement that does it, and so exactly when it is committed. Such a commit holds a
lock that all commits with a NOTIFY share, until it is on the disk. That is why changes, which are many, are told
together and afterwards: a transaction with nothing but a NOTIFY does not wait for the disk.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection
from typing import Any

from roomkey.errors import StoreUnavailable
from roomkey.stores.base import Notice, What
from roomkey.stores.hints import Hints
from roomkey.stores.postgres.connections import Connections, fetch_once
from roomkey.stores.postgres.link import Link
from roomkey.stores.postgres.table import Statements
from roomkey.stores.watching import Channel, Watchers, heard, told

__all__ = ["Watched", "tell_of_wipe"]

_LOOK_EVERY = 5.0  # seconds between two looks whether the connection lives
_PATIENCE = 2.0  # seconds that it may take to answer
_MOST_TOGETHER = 100  # changes in one notice: PostgreSQL takes 8,000 bytes
_MOST_WAITING = 10_000  # changes that wait to be told. More than that are dropped, and found by looking


class Watched:
    """The part of a store by which it is watched.

    Args:
        table: its name in quotes.
        statements: those that tell nothing.
    """

    def __init__(self, table: str, statements: Statements) -> None:
        self._quoted, self._sql = table, statements
        self._publisher: Publisher | None = None  # None: nobody is told
        self._hints: Hints | None = None  # None: no records are kept near
        self._watchers = Watchers(self._listen, self.__repr__)

    def publish(self, *, changes: bool = False) -> None:
        """Tell those who watch, in all processes, of what this store does. See `Watch`."""
        if self._publisher is None:
            self._publisher = Publisher(self._quoted, self._sql)
        self._publisher.changes |= changes

    def watch(
        self, tell: Callable[[Notice], None], keys: Callable[[], Collection[str]], *, changes: bool = False
    ) -> Callable[[], None]:
        """Begin to watch, over one more connection; returns what ends it. Of a pool of the app's, it keeps one."""
        return self._watchers.add(tell, keys, changes=changes)

    def notices(self) -> Hints:
        """Return what says in this process that records have changed."""
        if self._hints is None:
            self._hints = Hints(self)
        return self._hints

    async def _listen(self, channel: Channel) -> None:
        try:
            connections = (await self._link_in_use()).connections
            connection = await connections.lone()
            try:
                await _listen(channel, connection, self._quoted)
            finally:
                await connections.part_with(connection)
        except Exception as error:
            raise self._explain(error) from error

    async def _link_in_use(self) -> Link:
        raise NotImplementedError

    def _explain(self, error: Exception, *, opening: bool = False) -> Exception:
        raise NotImplementedError


def _name(table: str) -> str:
    """Return the channel of a table, as SQL. Not by its name, which has several spellings."""
    return f"'roomkey_' || '{table}'::regclass::oid"


class Publisher:
    """Makes statements that tell of what they do.

    Args:
        table: its name in quotes.
        statements: those that tell nothing.
    """

    def __init__(self, table: str, statements: Statements) -> None:
        self.changes: bool = False  # whether to tell of changes too
        name = _name(table)
        self._update = f"WITH done AS ({statements.update}) SELECT pg_notify({name}, $12) FROM done"
        before, moved, after = statements.rotate.rpartition(" FROM moved")
        self._rotate = f"{before}, pg_notify({name}, $21){moved}{after}"
        self._delete = (
            f"WITH done AS (DELETE FROM {table} WHERE key = $1 RETURNING expires_at) "
            f"SELECT pg_notify({name}, $3) FROM done WHERE expires_at > $2"
        )
        self._changes = f"SELECT pg_notify({name}, $1)"
        self._waiting: list[str] = []
        self._telling: set[asyncio.Task[None]] = set()

    def ending(self, key: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the update that ends a session, and its parameters. `args`: those of the plain one."""
        return self._update, *args, told(Notice(What.ENDED, key))

    def rotation(self, key: str, new_key: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """As `ending`, for a rotation."""
        return self._rotate, *args, told(Notice(What.MOVED, key, new_key))

    def deletion(self, key: str, now: float) -> tuple[Any, ...]:
        """As `ending`, for a deletion. `now`: Unix seconds."""
        return self._delete, key, now, told(Notice(What.ENDED, key))

    def changed(self, key: str, version: int, connections: Connections) -> None:
        """Tell of a change in a moment, together with others."""
        if len(self._waiting) >= _MOST_WAITING:
            return
        self._waiting.append(told(Notice(What.CHANGED, key, version=version)))
        if not self._telling:
            task = asyncio.get_running_loop().create_task(self._tell(connections))
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)

    async def _tell(self, connections: Connections) -> None:
        while self._waiting:
            some, self._waiting = self._waiting[:_MOST_TOGETHER], self._waiting[_MOST_TOGETHER:]
            with contextlib.suppress(Exception):  # what writes next will say so; what is not told is found by looking
                await fetch_once(connections, self._changes, (",".join(some),))


def tell_of_wipe(table: str) -> str:
    """Return the statement that tells that all have ended. `table`: its name in quotes."""
    return f"SELECT pg_notify({_name(table)}, '{told(Notice(What.WIPED))}')"


async def _listen(channel: Channel, connection: Any, table: str) -> None:
    """Hear of what is done, until the connection is lost.

    Args:
        channel: whom to tell.
        connection: asyncpg's, for this alone.
        table: its name in quotes.

    Raises:
        StoreUnavailable: it is lost, or leads to a pooler.
    """
    woken = asyncio.Event()
    connection.add_termination_listener(lambda _: woken.set())
    async with asyncio.timeout(_PATIENCE):
        name, pid = tuple(await connection.fetchrow(f"SELECT {_name(table)}, pg_backend_pid()"))
        if pid != connection.get_server_pid():
            raise StoreUnavailable(
                "between here and PostgreSQL is a pooler, through which no notices come: give a URL without it"
            )
        await connection.add_listener(name, _hears(channel))
    channel.stands()
    while True:
        timer = asyncio.get_running_loop().call_later(_LOOK_EVERY, woken.set)
        try:
            await woken.wait()
        finally:
            timer.cancel()
        woken.clear()
        if connection.is_closed():
            raise StoreUnavailable("the connection to PostgreSQL was closed")
        try:
            async with asyncio.timeout(_PATIENCE):
                await connection.execute("SELECT 1")
        except TimeoutError:
            raise StoreUnavailable("PostgreSQL does not answer") from None


def _hears(channel: Channel) -> Callable[[Any, int, str, str], None]:
    def hear(_: Any, __: int, ___: str, payload: str) -> None:
        for text in payload.split(","):
            notice = heard(text)
            if notice is not None:
                channel.tell(notice)

    return hear
