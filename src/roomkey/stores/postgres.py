"""The store in PostgreSQL: for apps that have such a server already. Driver: asyncpg.

The table is made by a command, not by the app: `roomkey postgres create URL`. An app's role then needs no right to make
tables, and no two workers make it at once.

Every operation is one statement in a transaction of its own. PostgreSQL's clock is not asked: what has expired is
judged by the Unix seconds that the client passes.

Connections: a pool of this module's own, without asyncpg's. Measured, a lone load takes 68 µs with it and 99 with
`asyncpg.Pool`, which runs a task to take each connection back. A connection belongs to the event loop that made it, so
there is one pool for each running loop, ended by the loop itself (`loop.shutdown_asyncgens`, which `asyncio.run`
calls), or by `close`.

Loads share round trips: a lone one goes at once; those that come while it is on its way travel together.

Lost connections: one that the server closed while it was idle is noticed before it is used, so after a restart nothing
fails that was not on its way. What was on its way is asked once more on a new connection where a second time does no
harm (`load`, `of_user`, `touch`, `delete`). A compare-and-swap is not: the first one may have been done, and the second
would then say Conflict to its winner. It is StoreUnavailable.

Indexes: `expires_at` changes with every save, so its index rules out PostgreSQL's heap-only updates. Accepted: an
update takes 11 µs of the server's time without that index and 15 with it; BRIN would find nearly every page for each
purge; and a coarse column in its place was no faster. A fill factor of 70 keeps an update on its page: 15 % less
write-ahead log.
"""

from __future__ import annotations

import asyncio
import os
import re
import ssl
import threading
import time
import urllib.parse
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

from roomkey.errors import ConfigurationError, StoreUnavailable
from roomkey.stores.base import Conflict, Record

try:
    import asyncpg  # type: ignore[import-untyped]
except ImportError as error:
    raise ImportError("the PostgreSQL store needs asyncpg: pip install 'roomkey[postgres]'") from error

__all__ = ["PostgresStore"]

_TABLE = "roomkey_session"
_SCHEMA = 1  # in the table's comment; counts up when the table changes
_LONGEST_NAME = 50  # characters of a table's name: PostgreSQL cuts names at 63, and the indexes' are longer
_CONNECTIONS = 10
_CONNECT_TIMEOUT = 5.0  # seconds
_GIVE_UP = 2.0  # seconds that a connection gets to end a statement for which nobody waits any longer
_CLOSE_TIMEOUT = 5.0  # seconds that `close` waits for statements under way
_MOST_IDLE = 300.0  # seconds: firewalls forget connections that are silent for longer, often without a word
_LOADS_AT_ONCE = 64  # in one round trip
_FLIGHTS = 2  # round trips with loads under way at once
_TRIES = 4  # of a statement that met others in a transaction isolated more strictly than READ COMMITTED
_LOCK_CLASS = 0x526F6F6D  # "Room": the first half of our advisory locks; the second is the table

_Answer = TypeVar("_Answer")
_Rows = list[Any]  # of asyncpg.Record

# Columns in the order of Record's fields, after the key.
_COLUMNS = {
    "key": 'text COLLATE "C" PRIMARY KEY',  # "C": compared byte by byte, whatever the database's language
    "data": "bytea NOT NULL",
    "version": "bigint NOT NULL",
    "created_at": "double precision NOT NULL",
    "expires_at": "double precision NOT NULL",
    "user_id": "text",
    "successor": "text",
    "serve_until": "double precision NOT NULL",
    "ip": "text",
    "user_agent": "text",
}
_FIELDS = [name for name in _COLUMNS if name != "key"]
_TYPES = {name: re.split(" NOT | COLLATE ", column)[0] for name, column in _COLUMNS.items()}
_COMMENT = re.compile(r"Roomkey sessions, schema (\d+)")

_INSPECT = """
SELECT
    obj_description(t.oid, 'pg_class') AS comment,
    t.relpersistence::text AS persistence,
    ARRAY(
        SELECT a.attname::text || ' ' || format_type(a.atttypid, a.atttypmod) FROM pg_attribute AS a
        WHERE a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
    ) AS columns,
    has_table_privilege(t.oid, 'SELECT') AND has_table_privilege(t.oid, 'INSERT')
        AND has_table_privilege(t.oid, 'UPDATE') AND has_table_privilege(t.oid, 'DELETE') AS allowed
FROM pg_class AS t WHERE t.oid = to_regclass($1)
"""


def _numbered(count: int, *, start: int) -> str:
    return ", ".join(f"${number}" for number in range(start, start + count))


class _Statements:
    """The SQL for one table. The first parameter is the time, where it plays a part.

    Args:
        table: its name in quotes, with its schema where one was given.
    """

    def __init__(self, table: str) -> None:
        fields = ", ".join(_FIELDS)
        new = ", ".join(f"{field} = excluded.{field}" for field in _FIELDS)
        live = "successor IS NULL AND expires_at >"
        self.load = f"SELECT {fields} FROM {table} WHERE key = $2 AND expires_at > $1"
        self.load_many = f"SELECT key, {fields} FROM {table} WHERE key = ANY ($2::text[]) AND expires_at > $1"
        # An expired record is absent: an insert that meets one replaces it, and otherwise returns no row.
        self.create = f"""
            INSERT INTO {table} AS t (key, {fields}) VALUES ($2, {_numbered(9, start=3)})
            ON CONFLICT (key) DO UPDATE SET {new} WHERE t.expires_at <= $1 RETURNING 1
        """
        self.update = f"""
            UPDATE {table} SET ({fields}) = ROW ({_numbered(9, start=4)})
            WHERE key = $2 AND version = $3 AND {live} $1 RETURNING 1
        """
        # One statement is one round trip, and atomic. It waits for whoever holds the old row, and then judges it anew;
        # the insert takes its row from what the update changed, so that nothing is put where nothing was moved. The
        # other way round, moved but nothing put because the new key is taken, cannot be seen before it is done: then 1
        # is divided by the 0 rows that were put, the statement fails and all of it is undone.
        self.rotate = f"""
            WITH moved AS (
                UPDATE {table} SET ({fields}) = ROW ({_numbered(9, start=4)})
                WHERE key = $2 AND version = $3 AND {live} $1 RETURNING 1
            ), put AS (
                INSERT INTO {table} AS t (key, {fields}) SELECT $13::text, {self._typed(start=14)} FROM moved
                ON CONFLICT (key) DO UPDATE SET {new} WHERE t.expires_at <= $1 RETURNING 1
            )
            SELECT 1 / (SELECT count(*) FROM put) FROM moved
        """
        self.touch = f"""
            UPDATE {table} SET expires_at = GREATEST(expires_at, $3) WHERE key = $2 AND {live} $1 RETURNING 1
        """
        self.delete = f"DELETE FROM {table} WHERE key = $1"
        # One worker at a time: the others would wait for the same disk. The rows are locked, and judged again with the
        # lock, before they are deleted: one that was replaced a moment ago stays.
        self.purge = f"""
            WITH turn AS MATERIALIZED (
                SELECT pg_try_advisory_xact_lock({_LOCK_CLASS}, '{table}'::regclass::oid::int) AS mine
            ), expired AS MATERIALIZED (
                SELECT key FROM {table} WHERE expires_at <= $1 AND (SELECT mine FROM turn)
                LIMIT $2 FOR UPDATE SKIP LOCKED
            ), gone AS (
                DELETE FROM {table} WHERE key IN (SELECT key FROM expired) AND expires_at <= $1 RETURNING 1
            )
            SELECT count(*) FROM gone
        """
        self.of_user = f"SELECT key, {fields} FROM {table} WHERE user_id = $2 AND {live} $1"
        # TRUNCATE waits for everybody who uses the table, and meanwhile all others wait for it: not for long.
        # Sent as one message, the two are one transaction.
        self.wipe = f"SET LOCAL lock_timeout = '1s'; TRUNCATE {table}"

    @staticmethod
    def _typed(*, start: int) -> str:
        """The parameters of one row in a SELECT list, where PostgreSQL does not see what they are for."""
        return ", ".join(f"${number}::{_TYPES[field]}" for number, field in enumerate(_FIELDS, start))


class PostgresStore:
    """Keep sessions in one table of a PostgreSQL database. Implements all of `Store` and the optional protocols.

    PostgreSQL 12 or newer. Make the table once, with `roomkey postgres create URL` or `create_table`. The app's role
    needs SELECT, INSERT, UPDATE and DELETE on it, and TRUNCATE for `wipe`.

    Args:
        server: a URL, `postgresql://user:password@host:5432/database` or one with several hosts, with `sslmode`,
            `target_session_attrs` and so on as libpq has them; a Unix socket's directory as `?host=/run/postgresql`.
            What is neither libpq's nor below is a setting of the server's: `?synchronous_commit=off` makes saves
            three times as fast, and a crash of the server then loses those of the last moments, log-outs too.
            Or an `asyncpg.Pool` of the app's own, which is used in the event loop that made it and is never closed
            here. (Give it `reset=` something that does nothing, or each operation pays a second round trip.)
        table: its name, `table` or `schema.table`. The URL may say it too: `?table=`.
        max_connections: that one event loop has at most, default 10; further operations wait. In the URL:
            `?max_connections=`. Not with a pool of the app's own, which has a limit of its own.
        statement_cache_size: prepared statements that asyncpg keeps for each connection, default 100. 0 for a
            pgbouncer before 1.21, or one with `max_prepared_statements = 0`, that pools transactions. In the URL:
            `?statement_cache_size=0`. Not with a pool of the app's own.
        clock: returns Unix time in seconds; default `time.time`. The clocks of all machines that share the table
            should agree to within a second.

    Raises:
        ConfigurationError: one of them is not what it should be. The URL is not shown: it may hold a password.
    """

    def __init__(
        self,
        server: str | asyncpg.Pool[Any],
        *,
        table: str | None = None,
        max_connections: int | None = None,
        statement_cache_size: int | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._target: _Target | None = None  # None: the app's own pool is used
        self._pool: asyncpg.Pool[Any] | None = None
        if isinstance(server, str):
            self._target, options = _read_url(server)
            table = table if table is not None else options.get("table")
            self._target.max_connections = _count(
                "max_connections", max_connections, options, default=_CONNECTIONS, least=1
            )
            self._target.statement_cache_size = _count(
                "statement_cache_size", statement_cache_size, options, default=100, least=0
            )
        elif isinstance(server, asyncpg.Pool):
            for name, value in (("max_connections", max_connections), ("statement_cache_size", statement_cache_size)):
                if value is not None:
                    raise ConfigurationError(f"{name}: with a pool of your own, it is the pool's: give it there")
            self._pool = server
        else:
            raise ConfigurationError(
                f"server: {type(server).__name__}; it takes a URL (postgresql://user:password@host/database) or an "
                "asyncpg.Pool"
            )
        self._table = _TABLE if table is None else table
        self._quoted = _quote(self._table)
        self._sql = _Statements(self._quoted)
        self._clock = clock
        self._checked = False  # whether the table was found to be there, and ours
        self._offices: dict[asyncio.AbstractEventLoop, _Office] = {}
        self._lock = threading.Lock()  # held while an office is added or taken away: loops run in threads
        _stores.add(self)

    def __repr__(self) -> str:
        where = "a pool of the app's own" if self._target is None else repr(self._target.shown)
        return f"<PostgresStore {where}, table {self._table!r}>"

    async def open(self) -> None:
        """Connect, and check that the table is there and ours.

        Raises:
            ConfigurationError: wrong password, no such database, no such table (the message names the command that
                makes it), another app's table, one made by a newer Roomkey, or rights that are missing.
            StoreUnavailable: the server cannot be reached now.
        """
        self._checked = False
        await self._office()

    async def close(self) -> None:
        """Wait for what is under way in this event loop, and close its connections; other loops close their own."""
        with self._lock:
            office = self._offices.pop(asyncio.get_running_loop(), None)
            self._drop_closed()
        if office is not None:
            await office.close()

    async def create_table(self, *, unlogged: bool = False) -> bool:
        """Make the table and its indexes, where they are not there yet. Safe to repeat, and from many places at once.

        Args:
            unlogged: leave the table out of the write-ahead log: saves are faster, but after a crash of the server
                the table is empty (everybody is logged out), and it is on no replica and in no continuous backup.

        Returns:
            Whether it was made now. False: it was there.

        Raises:
            ConfigurationError: no right to make it; another table of that name is there, or one made by a newer
                Roomkey, or one that is logged otherwise than asked for.
            StoreUnavailable: the server cannot be reached now.
        """

        async def make(connection: _Connection) -> bool:
            async with connection.transaction():
                await connection.execute(f"SELECT pg_advisory_xact_lock({_LOCK_CLASS}, 0)")
                found = await connection.fetchrow(_INSPECT, self._quoted)
                if found is not None:
                    self._examine(found, rights=False)
                    self._compare_logging(found, unlogged)
                for statement in _ddl(self._table, unlogged=unlogged):
                    await connection.execute(statement)
                return found is None

        try:
            office = await self._office(check=False)
            return await _use(office.connections, make)
        except Exception as error:
            raise self._explain(error, opening=True) from error

    @staticmethod
    def ddl(table: str = _TABLE, *, unlogged: bool = False) -> str:
        """Return the SQL that makes the table, for people who run migrations themselves.

        Args:
            table: its name, `table` or `schema.table`.
            unlogged: as for `create_table`.

        Raises:
            ConfigurationError: that is no name.
        """
        return "".join(f"{statement};\n" for statement in _ddl(table, unlogged=unlogged))

    async def load(self, key: str) -> Record | None:
        """Return the live record under `key`, or None."""
        office = self._offices.get(asyncio.get_running_loop())
        if office is None or not (office.ready and self._checked):
            office = await self._office_for_use()
        return await office.loads.load(key)

    async def create(self, key: str, record: Record) -> None:
        """Put a new record under `key`. Raises `Conflict` when a live one is there."""
        if not await self._ask(self._sql.create, self._clock(), key, *_row(record)):
            raise Conflict

    async def update(self, key: str, record: Record, *, version: int) -> None:
        """Replace the live record under `key`. Raises `Conflict` when it is gone, moved on, or has another version."""
        if not await self._ask(self._sql.update, self._clock(), key, version, *_row(record)):
            raise Conflict

    async def rotate(self, key: str, new_key: str, record: Record, tombstone: Record, *, version: int) -> None:
        """Put `record` under `new_key` and `tombstone` under `key`. Raises `Conflict` and then changes nothing."""
        if key == new_key:
            raise Conflict
        moved = _row(tombstone)
        if not await self._ask(self._sql.rotate, self._clock(), key, version, *moved, new_key, *_row(record)):
            raise Conflict

    async def touch(self, key: str, expires_at: float) -> bool:
        """Let the live record under `key` expire later; return whether there is one that is no tombstone."""
        return bool(await self._ask(self._sql.touch, self._clock(), key, expires_at, again=True))

    async def delete(self, key: str) -> None:
        """Remove whatever is under `key`."""
        await self._ask(self._sql.delete, key, again=True)

    async def purge(self, limit: int) -> int:
        """Remove at most `limit` expired records; return how many went. 0 while another worker does it."""
        rows = await self._ask(self._sql.purge, self._clock(), limit)
        count: int = rows[0][0]
        return count

    async def of_user(self, user: str) -> list[tuple[str, Record]]:
        """Return key and record of every live session of `user`."""
        if "\0" in user:
            return []  # PostgreSQL keeps no such text, so there is none
        rows = await self._ask(self._sql.of_user, self._clock(), user, again=True)
        return [(row[0], Record(*row[1:])) for row in rows]

    async def wipe(self) -> None:
        """End every session, with TRUNCATE. Gives up after a second when a transaction elsewhere holds the table."""
        office = await self._office_for_use()
        try:
            await _use(office.connections, lambda connection: connection.execute(self._sql.wipe))
        except Exception as error:
            raise self._explain(error) from error

    # Asking

    async def _ask(self, statement: str, *args: Any, again: bool = False, office: _Office | None = None) -> _Rows:
        """Run one statement.

        Args:
            statement: SQL.
            *args: its parameters.
            again: whether it may be sent a second time when the connection was lost on its way.
            office: whose connections to use; None: the running loop's.
        """
        office = office or await self._office_for_use()
        tries = 0
        while True:
            tries += 1
            try:
                return await _fetch(office.connections, statement, args)
            except (asyncpg.SerializationError, asyncpg.DeadlockDetectedError) as error:
                # Nothing of it was done. On a server that isolates more strictly by default, this is how a lost
                # compare-and-swap looks; the next try sees what won, and says Conflict.
                if tries == _TRIES:
                    raise self._explain(error) from error
            except Exception as error:
                if not again or not _is_lost(error):
                    raise self._explain(error) from error
                again = False
                office.connections.distrust()

    async def _load_one(self, office: _Office, key: str) -> Record | None:
        rows = await self._ask(self._sql.load, self._clock(), key, again=True, office=office)
        return Record(*rows[0]) if rows else None

    async def _load_many(self, office: _Office, keys: list[str]) -> dict[str, Record]:
        rows = await self._ask(self._sql.load_many, self._clock(), keys, again=True, office=office)
        return {row[0]: Record(*row[1:]) for row in rows}

    # Offices: what the store has in one event loop

    async def _office_for_use(self) -> _Office:
        """As `_office`. What is permanent when the app starts is an outage when it runs: someone may mend it."""
        office = self._offices.get(asyncio.get_running_loop())
        if office is not None and office.ready and self._checked:
            return office
        try:
            return await self._office()
        except ConfigurationError as error:
            raise StoreUnavailable(str(error)) from error

    async def _office(self, *, check: bool = True) -> _Office:
        """Return what the store has in this event loop, ready for use."""
        loop = asyncio.get_running_loop()
        with self._lock:
            office = self._offices.get(loop)
            if office is None:
                self._drop_closed()
                office = self._offices[loop] = _Office(self._connections(), self)
        async with office.opening:
            try:
                if not office.ready:
                    await office.open()
                if check and not self._checked:
                    found = await _fetch(office.connections, _INSPECT, (self._quoted,))
                    self._examine(found[0] if found else None)
                    self._checked = True
            except Exception as error:
                raise self._explain(error, opening=True) from error
        return office

    def _connections(self) -> _Connections:
        if self._target is not None:
            return _OwnConnections(self._target)
        assert self._pool is not None
        return _BorrowedConnections(self._pool)

    def _drop_closed(self) -> None:
        """Let go of event loops that were closed without `shutdown_asyncgens`."""
        for loop in [loop for loop in self._offices if loop.is_closed()]:
            with suppress(RuntimeError):  # asyncpg wants to tell the loop
                self._offices.pop(loop).connections.terminate()

    def _forget(self) -> None:
        """In the child of a fork: the connections are the parent's."""
        self._lock = threading.Lock()
        _abandoned.append(self._offices)
        self._offices = {}

    # The table

    def _examine(self, found: Any | None, *, rights: bool = True) -> None:
        """Raise ConfigurationError unless the table is ours, and as this version knows it."""
        if found is None:
            raise ConfigurationError(
                f"PostgreSQL table {self._table!r} is not there: make it with {self._command()}, or correct the URL"
            )
        comment = _COMMENT.fullmatch(found["comment"] or "")
        if comment is None:
            raise ConfigurationError(
                f"PostgreSQL table {self._table!r} is not Roomkey's (its comment does not say so): "
                "give sessions a table of their own, with table"
            )
        schema = int(comment[1])
        if schema > _SCHEMA:
            raise ConfigurationError(
                f"PostgreSQL table {self._table!r} has schema {schema}, and this version of Roomkey knows {_SCHEMA}: "
                "run the version that made it or a newer one, or give another table"
            )
        wrong = {f"{name} {kind}" for name, kind in _TYPES.items()} - set(found["columns"])
        if wrong:
            raise ConfigurationError(
                f"PostgreSQL table {self._table!r} was changed by hand; it lacks {', '.join(sorted(wrong))}: "
                f"drop it and make it with {self._command()}"
            )
        if rights and not found["allowed"]:
            raise ConfigurationError(self._missing_rights())

    def _compare_logging(self, found: Any, unlogged: bool) -> None:
        if (found["persistence"] == "u") is unlogged:
            return
        there, wanted = ("logged", "UNLOGGED") if unlogged else ("unlogged", "LOGGED")
        raise ConfigurationError(
            f"PostgreSQL table {self._table!r} is there and is {there}: "
            f"change it with ALTER TABLE {self._quoted} SET {wanted}"
        )

    def _command(self) -> str:
        return "roomkey postgres create" + (f" --table {self._table}" if self._table != _TABLE else "")

    def _missing_rights(self) -> str:
        return (
            f"PostgreSQL table {self._table!r}: the role has not the rights it needs: as the table's owner, "
            f"GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON {self._quoted} TO it (and USAGE on its schema)"
        )

    # Errors: https://www.postgresql.org/docs/current/errcodes-appendix.html

    def _explain(self, error: Exception, *, opening: bool = False) -> Exception:
        """Return what to raise instead of a driver's error. The server's words are kept to the chained one: they may
        hold keys and data."""
        if isinstance(error, Conflict | StoreUnavailable | ConfigurationError):
            return error
        if isinstance(error, asyncpg.DivisionByZeroError):
            return Conflict()  # see _Statements.rotate
        if isinstance(error, _Refused):
            return (ConfigurationError if opening else StoreUnavailable)(str(error))
        code = error.sqlstate if isinstance(error, asyncpg.PostgresError) else None
        if code in _GONE:
            self._checked = False  # asked again by the next operation
            if code == "42P01":
                return StoreUnavailable(f"PostgreSQL table {self._table!r} is gone: {self._command()} makes it")
        if code == "42501":
            return (ConfigurationError if opening else StoreUnavailable)(self._missing_rights())
        if code == "3F000":
            return ConfigurationError(f"table: {self._table!r}: the database has no such schema: CREATE SCHEMA it")
        if code is not None:
            words = _WORDS.get(code, f"refused ({type(error).__name__}, {code}): its log says more")
            return StoreUnavailable(f"PostgreSQL {words}")
        if isinstance(error, asyncpg.TargetServerAttributeNotMatched):
            return StoreUnavailable("PostgreSQL: none of the hosts in the URL is what target_session_attrs asks for")
        if isinstance(error, TimeoutError):
            return StoreUnavailable("PostgreSQL did not answer in time: is it up, and the host in the URL right?")
        if isinstance(error, OSError):
            return StoreUnavailable(
                f"PostgreSQL cannot be reached ({type(error).__name__}): is it up, and the URL right?"
            )
        # InternalClientError: the driver had not noticed yet that the server hung up.
        if isinstance(error, asyncpg.InterfaceError | asyncpg.InternalClientError) and not isinstance(
            error, ValueError
        ):
            return StoreUnavailable("PostgreSQL's connection was lost, or its pool closed")
        return error


_GONE = {"42P01", "42703", "42804"}  # table, column, type
_WORDS = {
    "25006": "is read-only, a replica it seems: give the URL of the primary, or of all with "
    "target_session_attrs=read-write",
    "53100": "has no space left on its disk: free some",
    "53200": "is out of memory",
    "53300": "has no connection left (too many clients): lower max_connections here, or raise it there",
    "55P03": "has the table locked by another transaction: find it in pg_locks, or try later",
    "57014": "cancelled the statement (statement_timeout)",
    "57P01": "is shutting down, or someone ended the connection",
    "57P02": "is restarting after a crash",
    "57P03": "is starting up or shutting down",
    "57P05": "ended an idle connection",
    "08003": "was restarted, or the connection to it was lost",
    "08006": "was restarted, or the connection to it was lost",
    "08P01": "or a pooler between did not understand the driver",
    # Two statements of one name, or none: the pooler gave another server connection.
    "42P05": "is behind a pooler that does not keep prepared statements: add statement_cache_size=0 to the URL",
    "26000": "is behind a pooler that does not keep prepared statements: add statement_cache_size=0 to the URL",
}
# What to wait for when connecting; any other answer of the server's is permanent.
_MAY_PASS = ("08", "53", "57", "58", "XX")
_LOST = (
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    ConnectionError,
)


def _is_lost(error: Exception) -> bool:
    """Whether the connection is gone. InterfaceError: it was gone before anything was sent."""
    return isinstance(error, _LOST) or type(error) is asyncpg.InterfaceError


class _Refused(Exception):
    """The server, or the driver, said no for good when connecting."""


# Values


def _row(record: Record) -> tuple[Any, ...]:
    user = record.user
    if user is not None and "\0" in user:
        raise ConfigurationError("user_key: the user's name has a NUL character, which PostgreSQL cannot keep")
    return (
        record.data,
        record.version,
        record.created_at,
        record.expires_at,
        user,
        record.successor,
        record.serve_until,
        _printable(record.ip),
        _printable(record.user_agent),
    )


def _printable(text: str | None) -> str | None:
    """What a client sent, for people to read, without the characters that PostgreSQL refuses."""
    if text is None or (text.isascii() and "\0" not in text):
        return text
    return text.replace("\0", "").encode("utf-8", "replace").decode()


def _quote(table: str) -> str:
    """Return a table's name in quotes.

    Raises:
        ConfigurationError: it is none.
    """
    parts = table.split(".") if isinstance(table, str) else []
    if not 1 <= len(parts) <= 2 or not all(re.fullmatch(r"[A-Za-z_][A-Za-z0-9_$]*", part) for part in parts):
        raise ConfigurationError(
            f"table: {table!r}; it takes 'table' or 'schema.table', of letters, digits and underscores"
        )
    if any(len(part) > _LONGEST_NAME for part in parts):
        raise ConfigurationError(f"table: {table!r}; it takes names of at most {_LONGEST_NAME} characters")
    return ".".join(f'"{part}"' for part in parts)


def _ddl(table: str, *, unlogged: bool) -> list[str]:
    quoted, name = _quote(table), table.split(".")[-1]
    columns = ",\n".join(f"    {column} {kind}" for column, kind in _COLUMNS.items())
    kind = "UNLOGGED TABLE" if unlogged else "TABLE"
    return [
        # Sessions come and go: vacuum when a twentieth has changed, not a fifth.
        f"CREATE {kind} IF NOT EXISTS {quoted} (\n{columns}\n) "
        "WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05)",
        f'CREATE INDEX IF NOT EXISTS "{name}_expires_at" ON {quoted} (expires_at)',
        f'CREATE INDEX IF NOT EXISTS "{name}_user_id" ON {quoted} (user_id)\n'
        "    WHERE user_id IS NOT NULL AND successor IS NULL",
        f"COMMENT ON TABLE {quoted} IS 'Roomkey sessions, schema {_SCHEMA}'",
    ]


# The URL


@dataclass
class _Target:
    """Where to connect to, and how."""

    dsn: str  # may hold a password: never shown
    shown: str  # host, port and database
    settings: dict[str, str]  # for the server
    max_connections: int = _CONNECTIONS
    statement_cache_size: int = 100

    def __repr__(self) -> str:
        return f"<_Target {self.shown!r}>"


_OURS = {"table", "max_connections", "statement_cache_size"}
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^\[\]:]*)(:[0-9]*)?")
_TAKES = "it takes postgresql://user:password@host:5432/database"


def _read_url(url: str) -> tuple[_Target, dict[str, str]]:
    """Return what the URL says to the driver, and what to us. No error of this shows any of it."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in ("postgresql", "postgres"):
        raise ConfigurationError(f"server: a URL of another kind; {_TAKES}")
    try:
        parts = urllib.parse.urlsplit(url)
        query = urllib.parse.parse_qsl(parts.query, strict_parsing=bool(parts.query))
    except ValueError:
        raise ConfigurationError(f"server: a URL that cannot be read; {_TAKES}") from None
    hosts = parts.netloc.rpartition("@")[2]
    # A password with / ? # or @ in it splits the URL in the wrong place; what comes before would be taken for a host.
    split_wrong = "#" in url or "@" in rest[len(parts.netloc) :] or "@" in parts.netloc.rpartition("@")[0]
    if split_wrong or not all(_HOST.fullmatch(host) for host in hosts.split(",")):
        raise ConfigurationError(
            f"server: a URL that cannot be read: write / ? # @ : % in its password as %2F %3F %23 %40 %3A %25; {_TAKES}"
        )
    options = {name: value for name, value in query if name in _OURS}
    theirs = [(name, value) for name, value in query if name not in _OURS]
    names = dict(theirs)
    if names.get("sslmode", "prefer") not in _SSL_MODES:
        raise ConfigurationError(f"server: sslmode in the URL takes one of {', '.join(_SSL_MODES)}")
    dsn = f"{scheme}://{parts.netloc}{parts.path}" + (f"?{urllib.parse.urlencode(theirs)}" if theirs else "")
    settings = {} if "application_name" in names else {"application_name": "roomkey"}
    shown = (hosts or names.get("host", "")) + urllib.parse.unquote(parts.path)
    return _Target(dsn, shown, settings), options


def _count(name: str, value: int | None, options: dict[str, str], *, default: int, least: int) -> int:
    """Return a number that was given as an argument, or else in the URL."""
    if value is None and name in options:
        text = options[name]
        value = int(text) if text.isascii() and text.isdigit() else -1
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigurationError(f"{name}: it takes a whole number, at least {least}")
    return value


# Connections


class _Connection(Protocol):
    """As much of asyncpg's connection as is used here; a pool's proxy has it too."""

    async def fetch(self, query: str, *args: Any) -> _Rows: ...
    async def fetchrow(self, query: str, *args: Any) -> Any: ...
    async def execute(self, query: str) -> str: ...
    def transaction(self) -> Any: ...
    def is_closed(self) -> bool: ...


class _Connections(Protocol):
    """Where connections come from, in one event loop."""

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

    async def close(self) -> None: ...

    def terminate(self) -> None: ...


async def _fetch(connections: _Connections, statement: str, args: Sequence[Any]) -> _Rows:
    connection = await connections.acquire()
    try:
        rows: _Rows = await connection.fetch(statement, *args)
    except _LEAVES_IT_IDLE:
        await connections.release(connection)
        raise
    except BaseException:  # cancelled, above all
        connections.abandon(connection)
        raise
    await connections.release(connection)
    return rows


async def _use(connections: _Connections, work: Callable[[_Connection], Awaitable[_Answer]]) -> _Answer:
    """As `_fetch`, for more than one statement."""
    connection = await connections.acquire()
    try:
        answer = await work(connection)
    except BaseException:
        connections.abandon(connection)
        raise
    await connections.release(connection)
    return answer


# An answer of the server's, or a value that was refused before anything was sent.
_LEAVES_IT_IDLE = (asyncpg.PostgresError, asyncpg.DataError)


class _OwnConnections:
    """At most so many connections, made when needed, the last one used first. Safe to cancel at every await.

    A slot is held by each connection that there is, and by each that is being made or ended.
    """

    def __init__(self, target: _Target) -> None:
        self._target = target
        self._slots = 0
        self._idle: list[tuple[Any, float]] = []  # connection, and since when on time.monotonic; the oldest first
        # Who waits for a connection. Gets one, or None: a slot in which to make one.
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._busy: set[Any] = set()
        self._ending: set[asyncio.Task[None]] = set()
        self._closing: asyncio.Event | None = None  # set when the last slot is free; None: not closing

    async def acquire(self) -> Any:
        connection = self._take_idle()
        if connection is None:
            if self._slots < self._target.max_connections:
                self._slots += 1
            else:
                connection = await self._wait()
                if connection is not None and connection.is_closed():  # since it was handed over
                    connection.terminate()
                    connection = None
            if connection is None:
                connection = await self._connect()
        self._busy.add(connection)
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
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():  # it was given one in the same moment
                connection = future.result()
                if connection is None:
                    self._free_slot()
                else:
                    self._hand_on(connection)
            raise

    async def _connect(self) -> Any:
        """Make a connection in a slot that is held already."""
        target = self._target
        try:
            return await asyncpg.connect(
                target.dsn,
                timeout=_CONNECT_TIMEOUT,
                statement_cache_size=target.statement_cache_size,
                max_cached_statement_lifetime=0,  # for ever: there are ten
                server_settings=target.settings,
            )
        except asyncpg.PostgresError as error:
            self._free_slot()
            if error.sqlstate[:2] in _MAY_PASS:
                raise
            # Its first line names user, database or host, never a password.
            raise _Refused(f"PostgreSQL refused the connection: {error.args[0]}") from error
        except ConnectionError as error:
            self._free_slot()
            if "rejected SSL" not in str(error):
                raise
            raise _Refused("PostgreSQL does not offer TLS: switch it on there, or correct sslmode") from error
        except ssl.SSLCertVerificationError as error:
            self._free_slot()
            raise _Refused(
                f"PostgreSQL's certificate is not trusted ({error.verify_message}): correct sslmode or sslrootcert"
            ) from error
        except (asyncpg.ClientConfigurationError, ValueError) as error:
            self._free_slot()
            # From nothing: the driver's words may hold a part of the URL.
            raise _Refused(f"server: the driver cannot use this URL ({type(error).__name__}); {_TAKES}") from None
        except BaseException:
            self._free_slot()
            raise

    async def release(self, connection: Any) -> None:
        self._busy.discard(connection)
        if connection.is_closed():
            connection.terminate()
            self._free_slot()
        else:
            self._hand_on(connection)

    def _hand_on(self, connection: Any) -> None:
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
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
            await connection.close(timeout=_GIVE_UP)
        except Exception:
            connection.terminate()
            self.distrust()  # it was dead: not even the wish to cancel was answered
        finally:
            self._busy.discard(connection)
            self._free_slot()

    def distrust(self) -> None:
        idle, self._idle = self._idle, []
        for connection, _ in idle:
            connection.terminate()
            self._free_slot()

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


class _BorrowedConnections:
    """A pool of the app's own. It is not ours to close, and its limits are its own."""

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

    async def close(self) -> None:
        if self._ending:
            await asyncio.wait(self._ending)

    def terminate(self) -> None:
        pass


# One event loop


class _Office:
    """What a store has in one event loop: connections, and loads on their way."""

    def __init__(self, connections: _Connections, store: PostgresStore) -> None:
        self.connections = connections
        self.loads = _Loads(partial(store._load_one, self), partial(store._load_many, self))
        self.opening = asyncio.Lock()
        self.ready = False
        self._watch: AsyncGenerator[None, None] | None = None

    async def open(self) -> None:
        """Let the event loop end the connections when it ends itself."""
        if self._watch is None:
            self._watch = self._until_the_loop_ends()
            await anext(self._watch)
        self.ready = True

    async def _until_the_loop_ends(self) -> AsyncGenerator[None, None]:
        # A loop that ends closes the asynchronous generators that were started in it: the one hook that it has.
        try:
            yield
        finally:
            self.connections.terminate()

    async def close(self) -> None:
        self.ready = False
        await self.connections.close()
        if self._watch is not None:
            await self._watch.aclose()


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


# After os.fork: connections must not be used by two processes, nor ended by the wrong one.

_stores: weakref.WeakSet[PostgresStore] = weakref.WeakSet()
_abandoned: list[dict[asyncio.AbstractEventLoop, _Office]] = []  # kept: to drop a connection is to end it


def _after_fork_in_child() -> None:
    for store in list(_stores):
        store._forget()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork_in_child)
