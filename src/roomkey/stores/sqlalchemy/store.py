"""The store in an SQL database, through SQLAlchemy's asyncio engine: MySQL and MariaDB, and PostgreSQL and SQLite too.

For PostgreSQL `roomkey.stores.postgres`, and for an SQLite file `roomkey.stores.sqlite`, do the same much faster; this
one is for databases that have no store of their own, and for apps that want their sessions to use the engine they have.

The table is made by a command, `roomkey store create URL`, by `create_table`, or by the app's own migrations with
`session_table`.

Compare-and-swap is one UPDATE and the number of rows that it found. In engines of ours, single statements commit
themselves, and a transaction, which `rotate` is, begins and ends with statements of ours: to give a connection back to
the pool then takes no word with the server. An engine of the app's is used as it is, in whatever isolation it has. What
the database ends because of a deadlock, or because it isolates strictly, is run again.

Lost connections: what was on its way is asked once more where that does no harm (`load`, `of_user`, `touch`, `delete`),
and also where it surely was not done: the driver had noticed before it sent anything, or the transaction was not being
committed yet. Another compare-and-swap is not: the first one may have been done, and the second would then say Conflict
to its winner. It is StoreUnavailable. Not SQLAlchemy's `pool_pre_ping`: a round trip more, 36 µs beside the 214 of a
load from MariaDB, or the 135 from PostgreSQL. Engines of ours have it only with drivers that do not notice a closed
connection by themselves.

SQLite lets one write at a time, and another one that waits may never get its chance. So in one event
loop operations go one by one, and one that finds another process's lock tries again.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager, suppress
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.schema import CreateIndex, CreateTable, DDLElement
from sqlalchemy.util.concurrency import greenlet_spawn

from roomkey.clock import system_time
from roomkey.errors import ConfigurationError, StoreUnavailable
from roomkey.options import named_options
from roomkey.stores.base import Conflict, Record, Unreadable
from roomkey.stores.loops import LoopRegistry
from roomkey.stores.sqlalchemy.damaged import all_rows, delete_lost, first_row, rows_of
from roomkey.stores.sqlalchemy.engines import (
    Home,
    address_of,
    checked_engine,
    make_engine,
    quiet_engine,
    read_url,
    shown,
)
from roomkey.stores.sqlalchemy.errors import (
    FORBIDDEN,
    LOCKED,
    MET_OTHERS,
    READ_ONLY,
    Faults,
    Taken,
    is_lost,
    is_not_sent,
)
from roomkey.stores.sqlalchemy.looking import Watched
from roomkey.stores.sqlalchemy.operations import (
    BEGINS,
    SQLITE_PATIENCE,
    Answer,
    Link,
    Operation,
    Work,
    begun,
    changes_a_row,
    committed,
    isolated,
    use_connection,
)
from roomkey.stores.sqlalchemy.purging import purge
from roomkey.stores.sqlalchemy.table import (
    Statements,
    examine,
    hash_user,
    indexes_of,
    session_table,
    to_record,
    to_row,
)
from roomkey.stores.text import DEFAULT_TABLE, NotInCharset

__all__ = ["SQLAlchemyStore"]

_TRIES = 8  # to put a record where others put, expire and purge theirs
# Seconds for which a transaction is run again that met others. A slow server would soon use up a number of tries.
# `store_timeout` ends it sooner.
_PATIENCE = 10.0
_PAUSE = 0.005  # seconds at most before its second try, and more before each further one
_LONGEST_PAUSE = 0.1  # seconds


@named_options()
class SQLAlchemyStore(Watched):
    """Keep sessions in one table of an SQL database. Implements all of `Store` and the optional protocols.

    Tested on MariaDB, PostgreSQL and SQLite. On another database, run `StoreContract` first. Make the table once: with
    `roomkey store create URL`, `create_table`, or `session_table` and your migrations. The app's account needs SELECT,
    INSERT, UPDATE and DELETE on it, and what TRUNCATE needs for `wipe` (MySQL: DROP). SQLAlchemy 2.0.43 or newer.

    Args:
        server: a URL of SQLAlchemy's, with or without `sqlalchemy+` before it, that names a driver for asyncio:
            `mysql+asyncmy://user:password@host:3306/database`. Its options are the driver's. There are at most 10
            connections in one event loop (1 with SQLite). For anything else, an `AsyncEngine` of the app's own: it is
            used as it is, in the event loop that it belongs to, and never disposed of here.
        table: its name, `table` or `schema.table`; default `roomkey_session`. The URL may say it too: `?table=`.
        clock: returns Unix time in seconds; default `time.time`. The clocks of all machines that share the table
            should agree to within a second.

    Raises:
        ConfigurationError: one of them is not what it should be, or the driver is not installed. The URL is not shown:
            it may hold a password.
    """

    def __init__(
        self,
        server: AsyncEngine | str | URL,
        *,
        table: str | None = None,
        clock: Callable[[], float] = system_time,
    ) -> None:
        self._url: URL | None = None  # None: the app's own engine is used
        self._engine: AsyncEngine | None = None  # the app's own
        if isinstance(server, str | URL):
            self._url, in_url = read_url(server)
            table = table if table is not None else in_url
            self._dialect: sa.Dialect = make_engine(self._url).dialect
        else:
            self._engine = quiet_engine(checked_engine(server))
            self._dialect = self._engine.dialect
        self._name = DEFAULT_TABLE if table is None else table
        self.table: sa.Table = session_table(sa.MetaData(), self._name)
        self._sql = Statements(self.table)
        self._faults = Faults(self._dialect, self._name, address_of(self._url or self._engine))
        self._clock, self._home = clock, Home()
        self._loops = LoopRegistry(self._connect)
        self._links = self._loops.by_loop

    def __repr__(self) -> str:
        return f"<SQLAlchemyStore {shown(self._url, self._dialect)}, table {self._name!r}>"

    def __str__(self) -> str:
        return f"table {self._name!r} in {shown(self._url, self._dialect)}"

    async def open(self) -> None:
        """Connect, and check that the table is there, with its columns.

        Raises:
            ConfigurationError: wrong password, no such database, no such table (the message names the command that
                makes it), or a table that lacks a column.
            StoreUnavailable: the database cannot be reached now.
        """
        await self._ask(self._examine, again=True, opening=True)

    async def close(self) -> None:
        """Wait for what is under way in this event loop, and close its connections, unless they are the app's."""
        await self._loops.close()

    async def create_table(self) -> bool:
        """Make the table and its indexes, where they are not there yet. Safe to repeat.

        Returns:
            Whether it was made now. False: it was there.

        Raises:
            ConfigurationError: no right to make it, or another table of that name is there.
            StoreUnavailable: the database cannot be reached now.
        """
        made = False

        def make(connection: sa.Connection) -> None:
            nonlocal made
            if not sa.inspect(connection).has_table(self.table.name, schema=self.table.schema):
                connection.execute(CreateTable(self.table))  # alone: each index is made by whoever is first
                made = True
            self._examine(connection)
            for index in indexes_of(self.table):
                index.create(connection, checkfirst=True)

        try:
            await self._ask(make, write=True, again=True, opening=True)
        except (Taken, StoreUnavailable, ConfigurationError):
            # Somebody else may have made the table, or an index of ours, in the same moment.
            with suppress(ConfigurationError, StoreUnavailable):
                await self.open()
                return made
            raise
        return made

    def ddl(self) -> str:
        """Return the SQL that makes the table in this database, for people who run migrations themselves."""
        made: list[DDLElement] = [CreateTable(self.table), *(CreateIndex(index) for index in indexes_of(self.table))]
        return "".join(f"{str(statement.compile(dialect=self._dialect)).strip()};\n" for statement in made)

    async def load(self, key: str) -> Record | None:
        """Return the live record under `key`, or None."""
        parameters = {"at": key, "now": self._clock()}
        row = await self._ask(partial(first_row, self._sql.load, parameters), again=True)
        return None if row is None else to_record(row)

    async def create(self, key: str, record: Record) -> None:
        """Put a new record under `key`. Raises `Conflict` when a live one is there."""
        await self._put(key, record, lambda put: self._ask(put, write=True))

    async def update(self, key: str, record: Record, *, version: int) -> None:
        """Replace the live record under `key`. Raises `Conflict` when it is gone, moved on, or has another version."""
        swap = {**to_row(record), "at": key, "was": version, "now": self._clock()}
        if not await self._ask(partial(changes_a_row, self._sql.update, swap), write=True):
            raise Conflict

    async def rotate(self, key: str, new_key: str, record: Record, tombstone: Record, *, version: int) -> None:
        """Put `record` under `new_key` and `tombstone` under `key`. Raises `Conflict` and then changes nothing."""
        if key == new_key:
            raise Conflict
        swap = {**to_row(tombstone), "at": key, "was": version, "now": self._clock()}
        # Again: a connection that was lost before the commit took the transaction along.
        await self._put(new_key, record, lambda put: self._ask(partial(self._move, swap, put), again=True))

    async def touch(self, key: str, expires_at: float) -> bool:
        """Let the live record under `key` expire later; return whether there is one that is no tombstone."""
        parameters = {"at": key, "now": self._clock(), "until": expires_at}

        def prolong(connection: sa.Connection) -> bool:
            if changes_a_row(self._sql.touch, parameters, connection):
                return True
            # A driver that counts the rows changed, not those found, did not count one that expires later already.
            return connection.execute(self._sql.lives_until, parameters).first() is not None

        return await self._ask(prolong, write=True, again=True)

    async def delete(self, key: str) -> None:
        """Remove whatever is under `key`."""
        await self._ask(partial(changes_a_row, self._sql.delete, {"at": key}), write=True, again=True)

    async def purge(self, limit: int) -> int:
        """Remove at most `limit` expired records; return how many went."""
        return await purge(self._ask, self._sql, self._clock(), limit, None)

    async def purge_telling(self, limit: int, tell: Callable[[str, str | None], object]) -> int:
        """As `purge`; `tell` is called with the key and the user of each session that went. Oracle does not say it."""
        return await purge(self._ask, self._sql, self._clock(), limit, tell)

    async def of_user(self, user: str) -> list[tuple[str, Record]]:
        """Return key and record of every live session of `user`."""
        parameters = {"whose": hash_user(user), "now": self._clock()}
        try:
            rows = await self._ask(partial(all_rows, self._sql.of_user, parameters), again=True)
            return [(row[0], to_record(row[1:])) for row in rows]  # which raises Unreadable too
        except Unreadable:
            rows, _ = await self._ask(partial(rows_of, self._sql, parameters), again=True)
        return [(row[0], to_record(row[1:])) for row in rows]

    async def scan(self, limit: int, after: str = "") -> tuple[list[str], str]:
        """Return the next keys in their order, and where to go on; an empty text: these were the last."""
        asked = partial(all_rows, self._sql.scan.limit(limit), {"after": after})
        keys = [key for (key,) in await self._ask(asked, again=True)]
        return keys, keys[-1] if len(keys) == limit else ""

    async def discard_unreadable(self, user: str) -> int:
        """Remove those of a user's records that cannot be read; return how many went."""
        parameters = {"whose": hash_user(user), "now": self._clock()}
        return await self._ask(partial(delete_lost, self._sql, parameters), write=True, again=True)

    async def wipe(self) -> None:
        """End every session, with TRUNCATE where the database has it. Raises StoreUnavailable, also where a transaction
        elsewhere holds the table for a second, and ConfigurationError where the database user may not empty it."""

        def end(connection: sa.Connection) -> None:
            statements = self._sql.wipe(self._dialect)
            try:
                with connection.begin():
                    for statement in statements:
                        connection.exec_driver_sql(statement)
            finally:
                if len(statements) > 1 and not connection.invalidated:
                    connection.invalidate()  # nobody is to inherit its short patience

        try:
            await self._ask(end)
        except StoreUnavailable as error:
            if not isinstance(error.__cause__, Exception) or not self._faults.is_one_of(error.__cause__, FORBIDDEN):
                raise
            raise ConfigurationError(self._faults.may_not_empty) from error  # not an outage of the sessions

    # What is asked, with a connection

    def _move(self, swap: dict[str, Any], put: Work[bool], connection: sa.Connection) -> bool:
        """Make one record a tombstone, and put the other, in one transaction."""
        with self._transaction(connection):
            if not changes_a_row(self._sql.update, swap, connection):
                raise Conflict
            if not put(connection):
                raise Taken
        return True

    def _transaction(self, connection: sa.Connection) -> AbstractContextManager[None]:
        # Of MySQL's others, REPEATABLE READ locks the gaps between rows too: many more deadlocks. SQLite has but one.
        begin = BEGINS.get(self._dialect.name)
        if self._url is not None and begin is not None:
            return begun(connection, begin)
        return isolated(connection, "SERIALIZABLE" if self._dialect.name == "sqlite" else "READ COMMITTED")

    async def _put(self, key: str, record: Record, attempt: Callable[[Work[bool]], Coroutine[Any, Any, bool]]) -> None:
        """Put a record where none, or an expired one, is. Raises `Conflict` where a live one is."""
        now = self._clock()
        row = to_row(record)
        insert = partial(changes_a_row, self._sql.insert, {**row, "key": key})
        replace = partial(changes_a_row, self._sql.replace, {**row, "at": key, "now": now})
        taken = {"at": key, "now": now}
        for _ in range(_TRIES):
            for put in (insert, replace):
                with suppress(Taken):
                    if await attempt(put):
                        return
            if await self._ask(lambda connection: connection.execute(self._sql.is_taken, taken).first(), again=True):
                raise Conflict
            # It expired and was purged in between.
        raise StoreUnavailable(
            f"{self._faults.database} did not take a record. Compare table {self._name!r} with what "
            "`roomkey store sql` prints"
        )

    def _examine(self, connection: sa.Connection) -> None:  # raises ConfigurationError where it does not fit
        examine(connection, self.table, self._faults.database)

    # Asking

    async def _ask(
        self, work: Work[Answer], *, write: bool = False, again: bool = False, opening: bool = False
    ) -> Answer:
        """Run `work` with a connection.

        Args:
            work: what to do.
            write: whether it writes, and leaves it to us to commit.
            again: whether it may be done a second time when the connection was lost on its way.
            opening: whether a permanent fault is a ConfigurationError. (When the app runs, it is an outage: someone may
                mend it.)
        """
        link = self._links.get(asyncio.get_running_loop()) or self._loops.enter()
        if write and self._url is None:
            work = partial(committed, work)  # ours commit by themselves
        operation = Operation()
        return await link.run(operation, self._try(link, work, operation, again=again, opening=opening))

    async def _try(self, link: Link, work: Work[Answer], operation: Operation, *, again: bool, opening: bool) -> Answer:
        lost = was_read_only = False
        tries = 0
        while True:
            tries += 1
            renewals = link.renewal.count
            operation.begins()
            try:
                async with link.one_by_one:
                    return await greenlet_spawn(use_connection, link.engine.sync_engine, work, operation)
            except Exception as error:
                waited = time.monotonic() - operation.since
                if waited < _PATIENCE and self._faults.is_one_of(error, MET_OTHERS):
                    pause = random.uniform(0, min(_PAUSE * tries, _LONGEST_PAUSE))
                elif waited < SQLITE_PATIENCE and self._faults.is_one_of(error, LOCKED):
                    pause = random.uniform(0, _PAUSE)
                elif not was_read_only and self._faults.is_one_of(error, READ_ONLY):
                    was_read_only, pause = True, 0.0
                    await link.renewal.after_refusal(renewals)
                elif not lost and is_lost(error) and (again or is_not_sent(error)):
                    lost, pause = True, 0.0
                else:
                    explained = self._faults.explain(error, opening=opening)
                    if explained is error:
                        raise
                    raise explained from (None if isinstance(explained, Unreadable | NotInCharset) else error)
            await asyncio.sleep(pause)

    def why_silent(self) -> str:
        """Say what may be wrong where the database does not answer in time. Nothing where it ever took a connection."""
        has_connected = any(link.has_connected for link in list(self._links.values()))
        return "" if has_connected else self._faults.no_connection

    def _connect(self) -> Link:
        if self._url is None:
            assert self._engine is not None
            self._home.enter(self._engine)
            return Link(self._engine, ours=False)
        return Link(make_engine(self._url), ours=True)
