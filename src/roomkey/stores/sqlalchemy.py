"""The store in any SQL database, through SQLAlchemy's asyncio engine: MySQL, MariaDB, SQL Server, Oracle, and others.

For PostgreSQL `roomkey.stores.postgres`, and for an SQLite file `roomkey.stores.sqlite`, do the same much faster; this
one is for databases that have no store of their own, and for apps that want their sessions to use the engine they have.

The table is made by a command, `roomkey sqlalchemy create URL`, by `create_table`, or by the app's own migrations with
`session_table`. It is laid out so that every database agrees on what it holds:

- Users are found by the SHA-256 of their name. MySQL and SQL Server take "Ann", "ann" and "ann " for the same text.
- Oracle takes an empty text for NULL. So a text of nothing but spaces gets one more, and empty data may be NULL.

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

SQLite lets one write at a time, and whoever waits may be passed by for ever: so operations take turns in an event loop,
and one that found another process's lock tries again.

Cancelling: each operation is a task. One that is cancelled returns at once, and its task is left to end the connection
in its own time: a server that is silent can keep it for seconds. Nor is it cancelled at any moment: where SQLAlchemy
sets a connection up, or takes it back, it would lose the connection, or its place in the pool.
"""

from __future__ import annotations

import asyncio
import enum
import hashlib
import os
import random
import re
import threading
import time
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from typing import Any, TypeVar

from roomkey.errors import ConfigurationError, StoreUnavailable
from roomkey.stores.base import Conflict, Record

try:
    import sqlalchemy as sa
    from sqlalchemy import exc
    from sqlalchemy.dialects import mssql, mysql, oracle, postgresql
    from sqlalchemy.engine import URL, make_url
    from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
    from sqlalchemy.pool import StaticPool
    from sqlalchemy.schema import CreateIndex, CreateTable, DDLElement
    from sqlalchemy.util.concurrency import greenlet_spawn
except ImportError as error:
    raise ImportError("the SQLAlchemy store needs it: pip install 'roomkey[sqlalchemy]'") from error

__all__ = ["SQLAlchemyStore", "session_table"]

_TABLE = "roomkey_session"
_PREFIX = "sqlalchemy+"  # of a store's URL, before SQLAlchemy's own
_LONGEST_NAME = 50  # characters of a table's name: the indexes' names are longer, and PostgreSQL cuts them at 63
_CONNECTIONS = 10  # of an engine of ours, in one event loop
_MOST_IDLE = 300  # seconds: firewalls forget connections that are silent for longer, often without a word
_SQLITE_PATIENCE = 10.0  # seconds for which an operation waits for another process's lock
_SQLITE_TIMEOUT = 0.1  # seconds of it that SQLite waits at a time, in engines of ours: it is not fair
_GIVE_UP = 2.0  # seconds that a connection gets to be made when nobody waits for it any longer
_CLOSE_TIMEOUT = 5.0  # seconds that `close` waits for what is under way
_TRIES = 8  # of a transaction that met others
_PAUSE = 0.005  # seconds at most before its second try, and more before each further one
_KEYS_AT_ONCE = 500  # in one statement: Oracle takes 1,000, SQL Server 2,100
_NOTICE_BY_THEMSELVES = ("asyncmy", "asyncpg", "aiosqlite")  # drivers, when their connection was closed
_DRIVERS = (
    "mysql+asyncmy, mariadb+asyncmy, postgresql+asyncpg, sqlite+aiosqlite, mssql+aioodbc or oracle+oracledb_async"
)
_TAKES = "it takes an AsyncEngine, or a URL such as mysql+asyncmy://user:password@host:3306/database"

_Answer = TypeVar("_Answer")
_Work = Callable[[sa.Connection], _Answer]  # runs in a greenlet: SQLAlchemy's plain style, without await


# The table


def session_table(metadata: sa.MetaData, name: str = _TABLE) -> sa.Table:
    """Add the table of sessions to your own `MetaData`, so that your migrations make it.

    Args:
        metadata: where to add it.
        name: `table` or `schema.table`; give the store the same.

    Raises:
        ConfigurationError: that is no name.

    Example:
        >>> from sqlalchemy import MetaData
        >>> session_table(MetaData()).name
        'roomkey_session'
    """
    schema, table = _split(name)
    return sa.Table(
        table,
        metadata,
        sa.Column("key", _digest(), primary_key=True),
        sa.Column("data", _bytes()),  # NULL: none
        sa.Column("version", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("created_at", _moment(), nullable=False),
        sa.Column("expires_at", _moment(), nullable=False),
        sa.Column("user_id", _text()),  # to be read; `user_hash` is what is compared
        sa.Column("user_hash", _digest()),  # SHA-256; NULL: nobody's session
        sa.Column("successor", _digest()),
        sa.Column("serve_until", _moment(), nullable=False),
        sa.Column("ip", _text()),
        sa.Column("user_agent", _text()),
        sa.Index(f"{table}_expires_at", "expires_at"),
        sa.Index(f"{table}_user_hash", "user_hash"),
        schema=schema,
        # Other engines of theirs know no transactions.
        mysql_engine="InnoDB",
        mariadb_engine="InnoDB",
    )


def _digest() -> sa.types.TypeEngine[str]:
    """64 hexadecimal digits, compared byte by byte."""
    ascii_bin = mysql.CHAR(64, charset="ascii", collation="ascii_bin")
    return (
        sa.String(64)
        .with_variant(ascii_bin, "mysql", "mariadb")
        .with_variant(postgresql.VARCHAR(64, collation="C"), "postgresql")
        # N: what the driver sends is that too, and a conversion would keep the index from being used.
        .with_variant(mssql.NVARCHAR(64, collation="Latin1_General_BIN2"), "mssql")
    )


def _bytes() -> sa.types.TypeEngine[bytes]:
    """Up to 16 MB: MySQL's BLOB ends at 64 KB."""
    return (
        sa.LargeBinary()
        .with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb")
        .with_variant(mssql.VARBINARY("max"), "mssql")  # type: ignore[no-untyped-call]
    )


def _moment() -> sa.types.TypeEngine[float]:
    """Unix seconds, exact to less than a microsecond."""
    return sa.Double().with_variant(oracle.BINARY_DOUBLE(), "oracle")


def _text() -> sa.types.TypeEngine[str]:
    """Any text, whatever the database's own character set."""
    utf8 = mysql.TEXT(charset="utf8mb4", collation="utf8mb4_bin")
    return sa.UnicodeText().with_variant(utf8, "mysql", "mariadb").with_variant(mssql.NVARCHAR(), "mssql")


def _split(name: str) -> tuple[str | None, str]:
    """Return the schema, None where there is none, and the name of a table.

    Raises:
        ConfigurationError: it is none.
    """
    parts = name.split(".") if isinstance(name, str) else []
    if not 1 <= len(parts) <= 2 or not all(re.fullmatch(r"[A-Za-z_][A-Za-z0-9_$]*", part) for part in parts):
        raise ConfigurationError(
            f"table: {name!r}; it takes 'table' or 'schema.table', of letters, digits and underscores"
        )
    if any(len(part) > _LONGEST_NAME for part in parts):
        raise ConfigurationError(f"table: {name!r}; it takes names of at most {_LONGEST_NAME} characters")
    return (parts[0] if len(parts) == 2 else None), parts[-1]


class _Statements:
    """What is asked of one table. Parameters that are no columns: `now`, `at` (a key), `was` (a version)."""

    def __init__(self, table: sa.Table) -> None:
        columns = table.c
        self.table = table
        at = columns.key == sa.bindparam("at")
        alive = columns.expires_at > sa.bindparam("now")
        live = sa.and_(columns.successor.is_(None), alive)
        until = sa.bindparam("until", type_=columns.expires_at.type)
        fields = [columns[name] for name in _FIELDS]
        self.load = sa.select(*fields).where(at, alive)
        self.is_taken = sa.select(columns.version).where(at, alive)
        self.insert = sa.insert(table)
        self.replace = sa.update(table).where(at, columns.expires_at <= sa.bindparam("now"))
        self.update = sa.update(table).where(at, columns.version == sa.bindparam("was"), live)
        later = sa.case((columns.expires_at < until, until), else_=columns.expires_at)
        self.touch = sa.update(table).where(at, live).values(expires_at=later)
        self.lives_until = sa.select(columns.version).where(at, live, columns.expires_at >= until)
        self.delete = sa.delete(table).where(at)
        self.expired = sa.select(columns.key).where(columns.expires_at <= sa.bindparam("now"))
        some = columns.key.in_(sa.bindparam("keys", expanding=True))
        self.purge = sa.delete(table).where(some, columns.expires_at <= sa.bindparam("now"))
        self.of_user = sa.select(columns.key, *fields).where(columns.user_hash == sa.bindparam("whose"), live)

    def wipe(self, dialect: sa.Dialect) -> list[str]:
        """Return the statements that end every session, the last one of them doing it."""
        name = dialect.identifier_preparer.format_table(self.table)
        if dialect.name not in _TRUNCATES:
            return [f"DELETE FROM {name}"]
        before = _TRUNCATES[dialect.name]
        return [*([before] if before else []), f"TRUNCATE TABLE {name}"]


# TRUNCATE waits for everybody who uses the table, and meanwhile all others wait for it: let it wait a second at most.
_TRUNCATES = {
    "mysql": "SET SESSION lock_wait_timeout = 1",
    "mariadb": "SET SESSION lock_wait_timeout = 1",
    "postgresql": "SET lock_timeout = '1s'",
    "mssql": "SET LOCK_TIMEOUT 1000",
    "oracle": None,  # it does not wait
}
_FIELDS = (
    "data",
    "version",
    "created_at",
    "expires_at",
    "user_id",
    "user_hash",
    "successor",
    "serve_until",
    "ip",
    "user_agent",
)


class SQLAlchemyStore:
    """Keep sessions in one table of any SQL database. Implements all of `Store` and the optional protocols.

    Make the table once: with `roomkey sqlalchemy create URL`, `create_table`, or `session_table` and your migrations.
    The app's account needs SELECT, INSERT, UPDATE and DELETE on it, and for `wipe` what TRUNCATE needs (MySQL: DROP,
    PostgreSQL: TRUNCATE, SQL Server: ALTER). SQLAlchemy 2.0.43 or newer.

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
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._url: URL | None = None  # None: the app's own engine is used
        self._engine: AsyncEngine | None = None  # the app's own
        if isinstance(server, str | URL):
            self._url, in_url = _read_url(server)
            table = table if table is not None else in_url
            self._dialect: sa.Dialect = _make_engine(self._url).dialect
        else:
            self._engine = _quiet(_checked(server))
            self._dialect = self._engine.dialect
        self._name = _TABLE if table is None else table
        self.table = session_table(sa.MetaData(), self._name)
        self._sql = _Statements(self.table)
        self._clock = clock
        self._offices: dict[asyncio.AbstractEventLoop, _Office] = {}
        self._lock = threading.Lock()  # held while an office is added or taken away: loops run in threads
        _stores.add(self)

    def __repr__(self) -> str:
        where = f"an engine of the app's own ({self._dialect.name})" if self._url is None else repr(_shown(self._url))
        return f"<SQLAlchemyStore {where}, table {self._name!r}>"

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
        with self._lock:
            office = self._offices.pop(asyncio.get_running_loop(), None)
            self._drop_closed()
        if office is not None:
            await office.close()

    async def create_table(self) -> bool:
        """Make the table and its indexes, where they are not there yet. Safe to repeat.

        Returns:
            Whether it was made now. False: it was there.

        Raises:
            ConfigurationError: no right to make it, or another table of that name is there.
            StoreUnavailable: the database cannot be reached now.
        """
        try:
            return await self._ask(self._make, write=True, again=True, opening=True)
        except (_Taken, StoreUnavailable, ConfigurationError):
            # Somebody else may have made it in the same moment.
            with suppress(ConfigurationError, StoreUnavailable):
                await self.open()
                return False
            raise

    def ddl(self) -> str:
        """Return the SQL that makes the table in this database, for people who run migrations themselves."""
        made: list[DDLElement] = [CreateTable(self.table), *(CreateIndex(index) for index in _indexes(self.table))]
        return "".join(f"{str(statement.compile(dialect=self._dialect)).strip()};\n" for statement in made)

    async def load(self, key: str) -> Record | None:
        """Return the live record under `key`, or None."""
        parameters = {"at": key, "now": self._clock()}
        row = await self._ask(lambda connection: connection.execute(self._sql.load, parameters).first(), again=True)
        return None if row is None else _record(row)

    async def create(self, key: str, record: Record) -> None:
        """Put a new record under `key`. Raises `Conflict` when a live one is there."""
        await self._put(key, record, lambda put: self._ask(put, write=True))

    async def update(self, key: str, record: Record, *, version: int) -> None:
        """Replace the live record under `key`. Raises `Conflict` when it is gone, moved on, or has another version."""
        swap = {**_row(record), "at": key, "was": version, "now": self._clock()}
        if not await self._ask(partial(_changes, self._sql.update, swap), write=True):
            raise Conflict

    async def rotate(self, key: str, new_key: str, record: Record, tombstone: Record, *, version: int) -> None:
        """Put `record` under `new_key` and `tombstone` under `key`. Raises `Conflict` and then changes nothing."""
        if key == new_key:
            raise Conflict
        swap = {**_row(tombstone), "at": key, "was": version, "now": self._clock()}
        # Again: a connection that was lost before the commit took the transaction along.
        await self._put(new_key, record, lambda put: self._ask(partial(self._move, swap, put), again=True))

    async def touch(self, key: str, expires_at: float) -> bool:
        """Let the live record under `key` expire later; return whether there is one that is no tombstone."""
        parameters = {"at": key, "now": self._clock(), "until": expires_at}

        def prolong(connection: sa.Connection) -> bool:
            if _changes(self._sql.touch, parameters, connection):
                return True
            # A driver that counts the rows changed, not those found, did not count one that expires later already.
            return connection.execute(self._sql.lives_until, parameters).first() is not None

        return await self._ask(prolong, write=True, again=True)

    async def delete(self, key: str) -> None:
        """Remove whatever is under `key`."""
        await self._ask(partial(_changes, self._sql.delete, {"at": key}), write=True, again=True)

    async def purge(self, limit: int) -> int:
        """Remove at most `limit` expired records; return how many went."""
        now = self._clock()
        expired = self._sql.expired.limit(limit)
        found = await self._ask(
            lambda connection: connection.execute(expired, {"now": now}).scalars().all(), again=True
        )
        count = 0
        for start in range(0, len(found), _KEYS_AT_ONCE):
            # Judged again: one of them may have been replaced a moment ago.
            some = {"keys": found[start : start + _KEYS_AT_ONCE], "now": now}
            count += await self._ask(partial(_count, self._sql.purge, some), write=True)
        return count

    async def of_user(self, user: str) -> list[tuple[str, Record]]:
        """Return key and record of every live session of `user`."""
        parameters = {"whose": _hash(user), "now": self._clock()}
        rows = await self._ask(lambda connection: connection.execute(self._sql.of_user, parameters).all(), again=True)
        return [(row[0], _record(row[1:])) for row in rows]

    async def wipe(self) -> None:
        """End every session: with TRUNCATE where the database has it, which gives up after a second when a transaction
        elsewhere holds the table; else with DELETE."""

        def end(connection: sa.Connection) -> None:
            statements = self._sql.wipe(self._dialect)
            try:
                with connection.begin():
                    for statement in statements:
                        connection.exec_driver_sql(statement)
            finally:
                if len(statements) > 1 and not connection.invalidated:
                    connection.invalidate()  # nobody is to inherit its short patience

        await self._ask(end)

    # What is asked, with a connection

    def _move(self, swap: dict[str, Any], put: _Work[bool], connection: sa.Connection) -> bool:
        """Make one record a tombstone, and put the other, in one transaction."""
        with self._transaction(connection):
            if not _changes(self._sql.update, swap, connection):
                raise Conflict
            if not put(connection):
                raise _Taken
        return True

    def _transaction(self, connection: sa.Connection) -> AbstractContextManager[None]:
        # Of MySQL's others, REPEATABLE READ locks the gaps between rows too: many more deadlocks. SQLite has but one.
        begin = _BEGINS.get(self._dialect.name)
        if self._url is not None and begin is not None:
            return _begun(connection, begin)
        return _isolated(connection, "SERIALIZABLE" if self._dialect.name == "sqlite" else "READ COMMITTED")

    async def _put(self, key: str, record: Record, attempt: Callable[[_Work[bool]], Coroutine[Any, Any, bool]]) -> None:
        """Put a record where none, or an expired one, is. Raises `Conflict` where a live one is."""
        now = self._clock()
        row = _row(record)
        insert = partial(_changes, self._sql.insert, {**row, "key": key})
        replace = partial(_changes, self._sql.replace, {**row, "at": key, "now": now})
        taken = {"at": key, "now": now}
        for _ in range(_TRIES):
            for put in (insert, replace):
                with suppress(_Taken):
                    if await attempt(put):
                        return
            if await self._ask(lambda connection: connection.execute(self._sql.is_taken, taken).first(), again=True):
                raise Conflict
            # It expired and was purged in between.
        raise StoreUnavailable(f"{self._database()} refused a record: was its table {self._name!r} changed by hand?")

    def _make(self, connection: sa.Connection) -> bool:
        is_new = not sa.inspect(connection).has_table(self.table.name, schema=self.table.schema)
        if is_new:
            self.table.create(connection, checkfirst=True)
        self._examine(connection)
        for index in _indexes(self.table):
            index.create(connection, checkfirst=True)
        return is_new

    def _examine(self, connection: sa.Connection) -> None:
        """Raise ConfigurationError unless the table is there, as we know it."""
        inspector = sa.inspect(connection)
        try:
            found = inspector.get_columns(self.table.name, schema=self.table.schema)
        except exc.NoSuchTableError:
            raise ConfigurationError(self._missing()) from None
        lacks = {column.name for column in self.table.columns} - {column["name"] for column in found}
        if lacks:
            raise ConfigurationError(
                f"{self._database()} table {self._name!r} lacks {', '.join(sorted(lacks))}: if it is Roomkey's, drop "
                f"it and make it with {self._command()}; if not, give sessions a table of their own, with table"
            )
        if self._dialect.name not in ("mysql", "mariadb"):
            return
        options = inspector.get_table_options(self.table.name, schema=self.table.schema)
        engine = options.get(f"{self._dialect.name}_engine", "InnoDB")
        if engine != "InnoDB":
            raise ConfigurationError(
                f"{self._database()} table {self._name!r} has the engine {engine}, which knows no transactions: "
                f"ALTER TABLE {self._name} ENGINE = InnoDB"
            )

    # Asking

    async def _ask(
        self, work: _Work[_Answer], *, write: bool = False, again: bool = False, opening: bool = False
    ) -> _Answer:
        """Run `work` with a connection.

        Args:
            work: what to do.
            write: whether it writes, and leaves it to us to commit.
            again: whether it may be done a second time when the connection was lost on its way.
            opening: whether a permanent fault is a ConfigurationError. (When the app runs, it is an outage: someone may
                mend it.)
        """
        office = self._offices.get(asyncio.get_running_loop())
        if office is None:
            office = await self._new_office()
        if write and self._url is None:
            work = partial(_committed, work)  # ours commit by themselves
        operation = _Operation()
        return await office.run(operation, self._try(office, work, operation, again=again, opening=opening))

    async def _try(
        self, office: _Office, work: _Work[_Answer], operation: _Operation, *, again: bool, opening: bool
    ) -> _Answer:
        lost = False
        tries = 0
        while True:
            tries += 1
            operation.begins()
            try:
                async with office.turn:
                    return await greenlet_spawn(_use, office.engine.sync_engine, work, operation)
            except Exception as error:
                if tries < _TRIES and self._is_one_of(error, _MET_OTHERS):
                    pause = random.uniform(0, _PAUSE * tries)
                elif self._is_one_of(error, _LOCKED) and time.monotonic() - operation.since < _SQLITE_PATIENCE:
                    pause = random.uniform(0, _PAUSE)
                elif not lost and _is_lost(error) and (again or _is_not_sent(error)):
                    lost, pause = True, 0.0
                else:
                    explained = self._explain(error, opening=opening)
                    if explained is error:
                        raise
                    raise explained from error
            await asyncio.sleep(pause)

    # Offices: what the store has in one event loop

    async def _new_office(self) -> _Office:
        loop = asyncio.get_running_loop()
        with self._lock:
            self._drop_closed()
            if self._url is None:
                assert self._engine is not None
                office = _Office(self._engine, ours=False)
            else:
                office = _Office(_make_engine(self._url), ours=True)
            self._offices[loop] = office
        await office.watch(partial(self._leave, loop, office))  # does not wait
        return office

    def _leave(self, loop: asyncio.AbstractEventLoop, office: _Office) -> None:
        with self._lock:
            if self._offices.get(loop) is office:
                del self._offices[loop]

    def _drop_closed(self) -> None:
        """Let go of event loops that were closed without `shutdown_asyncgens`; their sockets close with the objects."""
        for loop in [loop for loop in self._offices if loop.is_closed()]:
            del self._offices[loop]

    def _forget(self) -> None:
        """In the child of a fork: the connections are the parent's."""
        self._lock = threading.Lock()
        _abandoned.append(self._offices)
        self._offices = {}

    # Errors

    def _database(self) -> str:
        return _NAMES.get(self._dialect.name, self._dialect.name)

    def _command(self) -> str:
        more = f" --table {self._name}" if self._name != _TABLE else ""
        return f"roomkey sqlalchemy create URL{more}"

    def _missing(self) -> str:
        return (
            f"{self._database()} table {self._name!r} is not there: make it with {self._command()}, or "
            "await store.create_table(), or correct the URL"
        )

    def _is_one_of(self, error: Exception, codes: dict[str, set[int | str]]) -> bool:
        return _code(error) in codes.get(self._dialect.name, set())

    def _explain(self, error: Exception, *, opening: bool) -> Exception:
        """Return what to raise instead of a driver's error. Its words are kept to the chained one: they may hold keys
        and data."""
        if isinstance(error, _Unsure):
            return StoreUnavailable(f"{self._database()} {_LOST}")
        if isinstance(error, _OURS):
            return error
        if isinstance(error, exc.IntegrityError):
            return _Taken()
        permanent = ConfigurationError if opening else StoreUnavailable
        code = _code(error)
        words = str(getattr(error, "orig", None) or error)
        if self._is_one_of(error, _NO_TABLE) or "no such table" in words:
            return permanent(self._missing())
        if self._is_one_of(error, _REFUSED):
            return permanent(f"{self._database()} {self._fault(error, code)}")
        if isinstance(error, exc.DBAPIError | exc.TimeoutError | OSError):
            return StoreUnavailable(f"{self._database()} {self._fault(error, code)}")
        if opening and isinstance(error, TypeError | ValueError):
            return ConfigurationError(
                f"server: the driver {self._dialect.driver} cannot use this URL ({type(error).__name__}): "
                "are its options right?"
            )
        return error

    def _fault(self, error: Exception, code: int | str | None) -> str:
        known = _WORDS.get(self._dialect.name, {}).get(code) if code is not None else None
        if known is not None:
            return known
        if self._is_one_of(error, _REFUSED):
            return f"refused ({code}): are user, password and database in the URL right, and may the user do this?"
        if isinstance(error, exc.TimeoutError):
            return "has all connections of the pool in use: is it slow, or the pool too small?"
        if _is_lost(error):
            return _LOST
        if isinstance(error, OSError):
            return f"cannot be reached ({type(error).__name__}): is it up, and the URL right?"
        shown = type(getattr(error, "orig", None) or error).__name__
        return f"failed ({shown}{'' if code is None else f', {code}'})"


# Connections


class _Stage(enum.Enum):
    CONNECTING = enum.auto()  # when it is cancelled here, SQLAlchemy may lose the connection that it sets up
    WORKING = enum.auto()
    RETURNING = enum.auto()  # and here the pool would lose a place


class _Operation:
    """One on its way, in a task of its own."""

    __slots__ = ("abandoned", "since", "stage")

    def __init__(self) -> None:
        self.since = time.monotonic()
        self.stage = _Stage.CONNECTING
        self.abandoned = False  # whether nobody waits for it any longer

    def begins(self, stage: _Stage = _Stage.CONNECTING) -> None:
        """Go on to the next stage, unless there is nobody to do it for."""
        if self.abandoned:
            raise asyncio.CancelledError
        self.stage = stage

    def abandon(self, task: asyncio.Task[Any]) -> None:
        """Nobody waits any longer: cancel the task, now or when that does no harm."""
        self.abandoned = True
        if self.stage is _Stage.WORKING:
            task.cancel()
        elif self.stage is _Stage.CONNECTING:
            asyncio.get_running_loop().call_later(_GIVE_UP, self._give_up, task)

    def _give_up(self, task: asyncio.Task[Any]) -> None:
        if self.stage is not _Stage.RETURNING:
            task.cancel()


def _use(engine: sa.Engine, work: _Work[_Answer], operation: _Operation) -> _Answer:
    with engine.connect() as connection:
        operation.begins(_Stage.WORKING)
        try:
            return work(connection)
        except (exc.SQLAlchemyError, *_OURS):
            raise
        except BaseException as error:
            # Cancelled; or an error of the driver's that went past SQLAlchemy. There may be an answer on its way.
            if not connection.invalidated:
                connection.invalidate(error)
            raise
        finally:
            operation.stage = _Stage.RETURNING


def _committed(work: _Work[_Answer], connection: sa.Connection) -> _Answer:
    with connection.begin():
        return work(connection)


# How a transaction begins where statements commit themselves. Oracle has no such statement.
_BEGINS = {
    "mysql": ("SET TRANSACTION ISOLATION LEVEL READ COMMITTED", "START TRANSACTION"),
    "mariadb": ("SET TRANSACTION ISOLATION LEVEL READ COMMITTED", "START TRANSACTION"),
    "postgresql": ("BEGIN ISOLATION LEVEL READ COMMITTED",),
    "sqlite": ("BEGIN IMMEDIATE",),
    "mssql": ("BEGIN TRANSACTION",),
}


@contextmanager
def _begun(connection: sa.Connection, begin: tuple[str, ...]) -> Iterator[None]:
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
def _isolated(connection: sa.Connection, level: Any) -> Iterator[None]:
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
            raise _Unsure from error
        raise


def _count(statement: sa.Executable, parameters: dict[str, Any], connection: sa.Connection) -> int:
    return connection.execute(statement, parameters).rowcount


def _changes(statement: sa.Executable, parameters: dict[str, Any], connection: sa.Connection) -> bool:
    return _count(statement, parameters, connection) == 1


class _Office:
    """What a store has in one event loop: an engine, and operations under way."""

    def __init__(self, engine: AsyncEngine, *, ours: bool) -> None:
        self.engine = engine
        self.turn: AbstractAsyncContextManager[None] = nullcontext()
        if engine.dialect.name == "sqlite":
            self.turn = asyncio.Lock()
        self._ours = ours
        self._tasks: set[asyncio.Task[Any]] = set()
        self._watch: AsyncGenerator[None, None] | None = None

    async def run(self, operation: _Operation, coroutine: Coroutine[Any, Any, _Answer]) -> _Answer:
        """Run an operation. When it is cancelled, what it leaves is tidied up without it."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        try:
            await asyncio.wait((task,))
        except BaseException:
            operation.abandon(task)
            raise
        return task.result()

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # seen: nobody may be waiting for it any longer

    async def watch(self, leave: Callable[[], None]) -> None:
        """Let the event loop close the connections when it ends itself."""
        self._watch = self._until_the_loop_ends(leave)
        await anext(self._watch)

    async def _until_the_loop_ends(self, leave: Callable[[], None]) -> AsyncGenerator[None, None]:
        # A loop that ends closes the asynchronous generators that were started in it: the one hook that it has.
        try:
            yield
        finally:
            leave()
            await self._settle()

    async def _settle(self) -> None:
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT):
                if self._tasks:
                    await asyncio.wait(self._tasks)
                if self._ours:
                    await self.engine.dispose()
        except TimeoutError:
            pass  # the database is silent: the sockets close with the objects

    async def close(self) -> None:
        if self._watch is not None:
            await self._watch.aclose()


def _make_engine(url: URL) -> AsyncEngine:
    """Return an engine of ours, for one event loop."""
    dialect = url.get_dialect()
    options: dict[str, Any] = {
        "pool_size": _CONNECTIONS,
        "max_overflow": 0,
        "pool_recycle": _MOST_IDLE,
        "pool_use_lifo": True,
        "pool_pre_ping": dialect.driver not in _NOTICE_BY_THEMSELVES,
    }
    if dialect.name == "sqlite":
        options |= {"pool_size": 1, "connect_args": {"timeout": _SQLITE_TIMEOUT}}  # they take turns anyway
    try:
        return create_async_engine(
            url,
            isolation_level="AUTOCOMMIT",
            pool_reset_on_return=None,  # or a rollback, a round trip, when there is nothing to roll back
            skip_autocommit_rollback=True,  # and another
            hide_parameters=True,
            **options,
        )
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"server: the driver {dialect.driver} is not installed: pip install {error.name}"
        ) from error
    except (exc.ArgumentError, TypeError, ValueError) as error:
        # From nothing: the words may hold a part of the URL.
        raise ConfigurationError(f"server: a URL that the driver cannot use ({type(error).__name__})") from None


def _checked(engine: object) -> AsyncEngine:
    if isinstance(engine, sa.Engine):
        raise ConfigurationError("server: an Engine that blocks the event loop; make one with create_async_engine")
    if not isinstance(engine, AsyncEngine):
        raise ConfigurationError(f"server: {type(engine).__name__}; {_TAKES}")
    if isinstance(engine.sync_engine.pool, StaticPool):
        raise ConfigurationError(
            "server: an engine with one connection for all (StaticPool, an SQLite database in memory): their "
            "transactions would mix; for sessions in memory use memory://"
        )
    return engine


def _quiet(engine: AsyncEngine) -> AsyncEngine:
    """Return the same engine, but one that logs none of our parameters, and names none in an error."""
    same = engine.execution_options()
    same.sync_engine.hide_parameters = True
    return same


# The URL


def _read_url(given: str | URL) -> tuple[URL, str | None]:
    """Return SQLAlchemy's URL, and the table that it names. No error of this shows any of it but the driver."""
    try:
        url = make_url(given.removeprefix(_PREFIX) if isinstance(given, str) else given)
    except (exc.ArgumentError, ValueError):
        raise ConfigurationError(f"server: a URL that cannot be read; {_TAKES}") from None
    # A password with @ in it splits the URL in the wrong place; what comes after would be taken for a host.
    if url.username is not None and "@" in f"{url.host or ''}{url.database or ''}":
        raise ConfigurationError(f"server: a URL that cannot be read: write @ in its password as %40; {_TAKES}")
    try:
        is_async = url.get_dialect().is_async
    except exc.NoSuchModuleError:
        raise ConfigurationError(
            f"server: SQLAlchemy knows no {url.drivername}; name a driver in the URL, such as {_DRIVERS}"
        ) from None
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"server: {url.drivername} needs {error.name}: pip install {error.name}") from error
    if not is_async:
        raise ConfigurationError(
            f"server: {url.drivername} is no driver for asyncio; name one in the URL, such as {_DRIVERS}"
        )
    if url.get_backend_name() == "sqlite" and _is_in_memory(url):
        raise ConfigurationError("server: an SQLite database in memory; for sessions in memory use memory://")
    table = url.query.get("table")
    return url.difference_update_query(["table"]), table if isinstance(table, str) else None


def _is_in_memory(url: URL) -> bool:
    return ":memory:" in (url.database or ":memory:") or url.query.get("mode") == "memory"


def _shown(url: URL) -> str:
    port = f":{url.port}" if url.port else ""
    return f"{url.drivername}://{url.host or ''}{port}/{url.database or ''}"


# Values


def _row(record: Record) -> dict[str, Any]:
    user = record.user
    if user is not None and _printable(user) != user:
        raise ConfigurationError("user_key: the user's name has a NUL or half a character, which databases cannot keep")
    return {
        "data": record.data,
        "version": record.version,
        "created_at": record.created_at,
        "expires_at": record.expires_at,
        "user_id": None if user is None else _kept(user),
        "user_hash": None if user is None else _hash(user),
        "successor": record.successor,
        "serve_until": record.serve_until,
        "ip": _kept(_printable(record.ip)),
        "user_agent": _kept(_printable(record.user_agent)),
    }


def _record(row: Any) -> Record:
    data, version, created_at, expires_at, user, user_hash, successor, serve_until, ip, user_agent = row
    return Record(
        data or b"",  # Oracle takes nothing for NULL
        version,
        created_at,
        expires_at,
        None if user_hash is None else _given(user),
        successor,
        serve_until,
        _given(ip),
        _given(user_agent),
    )


def _hash(user: str) -> str:
    # Lone surrogates: no such user can be kept, and asking for one finds nobody.
    return hashlib.sha256(user.encode("utf-8", "surrogatepass")).hexdigest()


def _kept(text: str | None) -> str | None:
    """Return a text as it is stored. One more space, where there is nothing else: Oracle keeps no empty text."""
    return f"{text} " if text is not None and not text.strip(" ") else text


def _given(text: str | None) -> str | None:
    """Return a text that was stored as it was given."""
    return text[:-1] if text is not None and not text.strip(" ") else text


def _printable(text: str | None) -> str | None:
    """What a client sent, for people to read, without the characters that databases refuse."""
    if text is None or (text.isascii() and "\0" not in text):
        return text
    return text.replace("\0", "").encode("utf-8", "replace").decode()


def _indexes(table: sa.Table) -> list[sa.Index]:
    return sorted(table.indexes, key=lambda index: str(index.name))


# What databases say


class _Taken(Exception):
    """A row with that key is there."""


class _Unsure(Exception):
    """The connection was lost while a transaction was being committed."""


_OURS = (Conflict, ConfigurationError, StoreUnavailable, _Taken, _Unsure)


def _code(error: Exception) -> int | str | None:
    """Return the number or the letters by which a database names a fault; None where it has none."""
    said = getattr(error, "orig", None) or error
    first = said.args[0] if said.args else None
    candidates = (
        getattr(said, "sqlite_errorcode", None),
        first if isinstance(first, int) else None,  # MySQL
        getattr(first, "code", None),  # Oracle
        getattr(said, "sqlstate", None),  # PostgreSQL; MySQL's is too coarse
        first if isinstance(first, str) and len(first) == 5 else None,  # SQL Server
    )
    return next((code for code in candidates if isinstance(code, int | str)), None)


def _is_lost(error: Exception) -> bool:
    """Whether the connection is gone."""
    return isinstance(error, exc.DBAPIError) and error.connection_invalidated


def _is_not_sent(error: Exception) -> bool:
    """Whether the driver had noticed before it sent the statement."""
    said = getattr(error, "orig", None)
    if type(said).__module__.startswith("asyncmy"):
        return _code(error) == 2006  # 2013: afterwards
    # asyncpg's words for a connection that was closed when it was asked.
    return isinstance(error, exc.InterfaceError) and "connection is closed" in str(said)


_LOST = "was restarted, or the connection to it was lost"
_NAMES = {
    "mysql": "MySQL",
    "mariadb": "MariaDB",
    "postgresql": "PostgreSQL",
    "sqlite": "SQLite",
    "mssql": "SQL Server",
    "oracle": "Oracle",
}
_MYSQL_MET_OTHERS: set[int | str] = {1213, 1020}  # deadlock; record has changed since last read
_MET_OTHERS: dict[str, set[int | str]] = {
    "mysql": _MYSQL_MET_OTHERS,
    "mariadb": _MYSQL_MET_OTHERS,
    "postgresql": {"40001", "40P01"},
    "sqlite": {517},  # SQLITE_BUSY_SNAPSHOT
    "mssql": {"40001"},
    "oracle": {60, 8177},
}
_LOCKED: dict[str, set[int | str]] = {"sqlite": {5}}  # nothing was done
_NO_TABLE: dict[str, set[int | str]] = {
    "mysql": {1146},
    "mariadb": {1146},
    "postgresql": {"42P01"},
    "mssql": {"42S02"},
    "oracle": {942},
}
_MYSQL_REFUSED: set[int | str] = {1044, 1045, 1049, 1142, 1143, 1227, 1698}
_REFUSED: dict[str, set[int | str]] = {
    "mysql": _MYSQL_REFUSED,
    "mariadb": _MYSQL_REFUSED,
    "postgresql": {"28P01", "28000", "3D000", "3F000", "42501"},
    "sqlite": {8, 14, 26},
    "mssql": {"28000"},
    "oracle": {1017, 1031, 1045},
}
_MYSQL_WORDS: dict[int | str, str] = {
    1021: "has no space left on its disk: free some",
    1040: "has no connection left (too many clients): raise max_connections there",
    1053: "is shutting down",
    1153: "takes no value as large as that: raise max_allowed_packet there",
    1203: "has no connection left for this user: raise max_user_connections there",
    1205: "has the row or table locked by another transaction: find it in the process list",
    1290: "is read-only, a replica it seems: give the URL of the primary",
    2003: "cannot be reached: is it up, and the URL right?",
}
_WORDS: dict[str, dict[int | str, str]] = {
    "mysql": _MYSQL_WORDS,
    "mariadb": _MYSQL_WORDS,
    "postgresql": {
        "25006": "is read-only, a replica it seems: give the URL of the primary",
        "53100": "has no space left on its disk: free some",
        "53300": "has no connection left (too many clients): raise max_connections there",
        "55P03": "has the table locked by another transaction: find it in pg_locks, or try later",
        "57P01": "is shutting down, or someone ended the connection",
        "57P03": "is starting up or shutting down",
    },
    "sqlite": {
        5: "is locked by another process: find who holds it (fuser shows them) and end its transaction",
        8: "file cannot be written: give this process's user the right to",
        13: "file cannot grow: the disk is full or at its quota; free some space",
        14: "file cannot be opened: is its directory there, and may this process's user write in it?",
        26: "file is no database: give sessions another",
    },
}


# After os.fork: connections must not be used by two processes, nor ended by the wrong one.

_stores: weakref.WeakSet[SQLAlchemyStore] = weakref.WeakSet()
_abandoned: list[dict[asyncio.AbstractEventLoop, _Office]] = []  # kept: to drop a connection is to end it


def _after_fork_in_child() -> None:
    for store in list(_stores):
        store._forget()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork_in_child)
