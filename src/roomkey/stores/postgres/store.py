"""The store in PostgreSQL: for apps that have such a server already. Driver: asyncpg.

The table is made by a command, not by the app: `roomkey store create URL`. An app's role then needs no right to make
tables, and no two workers make it at once.

Every operation is one statement in a transaction of its own. PostgreSQL's clock is not asked: what has expired is
judged by the Unix seconds that the client passes.

Lost connections: one that the server closed while it was idle is noticed before it is used, so after a restart nothing
fails that was not on its way. What was on its way is asked once more on a new connection where a second time does no
harm (`load`, `of_user`, `touch`, `delete`). A compare-and-swap is not: the first one may have been done, and the second
would then say Conflict to its winner. It is StoreUnavailable.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import asyncpg  # type: ignore[import-untyped]

from roomkey.clock import system_time
from roomkey.errors import ConfigurationError, StoreUnavailable
from roomkey.options import named_options
from roomkey.stores.base import Conflict, Record, Unreadable
from roomkey.stores.loops import LoopRegistry, OneLoop
from roomkey.stores.postgres.connections import (
    BorrowedConnections,
    Connection,
    Connections,
    OwnConnections,
    Rows,
    fetch_once,
    use_connection,
)
from roomkey.stores.postgres.errors import GONE, code_of, explain, is_lost
from roomkey.stores.postgres.link import Link
from roomkey.stores.postgres.making import make_ddl, make_table
from roomkey.stores.postgres.notices import Watched, tell_of_wipe
from roomkey.stores.postgres.purging import purge
from roomkey.stores.postgres.table import (
    INSPECT,
    Statements,
    examine,
    quote,
    readable,
    to_row,
)
from roomkey.stores.postgres.urls import CONNECTIONS, Target, read_count, read_url
from roomkey.stores.text import DAMAGED, DEFAULT_TABLE, NotInCharset
from roomkey.stores.unreachable import at

__all__ = ["PostgresStore"]

_TRIES = 4  # of a statement that met others in a transaction isolated more strictly than READ COMMITTED


@named_options()
class PostgresStore(Watched):
    """Keep sessions in one table of a PostgreSQL database. Implements all of `Store` and the optional protocols.

    PostgreSQL 12 or newer. Make the table once, with `roomkey store create URL` or `create_table`. The app's role
    needs SELECT, INSERT, UPDATE and DELETE on it.

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
        clock: Callable[[], float] = system_time,
    ) -> None:
        self._target: Target | None = None  # None: the app's own pool is used
        self._pool: asyncpg.Pool[Any] | None = None
        if isinstance(server, str):
            self._target, options = read_url(server)
            table = table if table is not None else options.get("table")
            self._target.max_connections = read_count(
                "max_connections", max_connections, options, default=CONNECTIONS, least=1
            )
            self._target.statement_cache_size = read_count(
                "statement_cache_size", statement_cache_size, options, default=100, least=0
            )
        elif isinstance(server, asyncpg.Pool):
            for name, value in (("max_connections", max_connections), ("statement_cache_size", statement_cache_size)):
                if value is not None:
                    raise ConfigurationError(f"{name}: with a pool of your own, it is the pool's: give it there")
            self._pool = server
            self._home = OneLoop("the pool given to PostgresStore", "give a URL, and each loop gets a pool of its own")
        else:
            raise ConfigurationError(
                f"PostgresStore: got {type(server).__name__}; it takes a URL "
                "(postgresql://user:password@host/database) or an asyncpg.Pool"
            )
        self._table = DEFAULT_TABLE if table is None else table
        quoted = quote(self._table)
        super().__init__(quoted, Statements(quoted))
        self._clock = clock
        self._checked = False  # whether the table was found to be there, and ours
        self._loops = LoopRegistry(self._connect)
        self._links = self._loops.by_loop

    def __repr__(self) -> str:
        where = "a pool of the app's own" if self._target is None else repr(self._target.shown)
        return f"<PostgresStore {where}, table {self._table!r}>"

    def __str__(self) -> str:
        return f"table {self._table!r} in {'a pool' if self._target is None else repr(self._target.shown)}"

    async def open(self) -> None:
        """Connect, and check that the table is there and ours.

        Raises:
            ConfigurationError: wrong password, no such database, no such table (the message names the command that
                makes it), another app's table, one made by a newer Roomkey, or rights that are missing.
            StoreUnavailable: the server cannot be reached now.
        """
        self._checked = False
        await self._open_link()

    async def close(self) -> None:
        """Wait for what is under way in this event loop, and close its connections; other loops close their own."""
        await self._loops.close()

    async def create_table(self, *, unlogged: bool = False, partitions: int | None = None) -> bool:
        """Make the table and its indexes, or bring them up to date. Safe to repeat, and from many places at once.

        Args:
            unlogged: leave the table out of the write-ahead log: saves are faster, but after a crash of the server
                the table is empty (everybody is logged out), and it is on no replica and in no continuous backup.

            partitions: make it in so many hash partitions, 2 to 256. Each is vacuumed for itself. None, the default:
                one table, or as many as it has.

        Returns:
            Whether it was made now. False: it was there.

        Raises:
            ConfigurationError: no right to make it; another table of that name is there, or one made by a newer
                Roomkey, or one that is logged or partitioned otherwise than asked for.
            StoreUnavailable: the server cannot be reached now.
        """

        make_ddl(self._table, unlogged=unlogged, partitions=partitions)  # a wrong number is found without the server

        def make(connection: Connection) -> Awaitable[bool]:
            return make_table(connection, self._table, unlogged=unlogged, partitions=partitions)

        try:
            link = await self._open_link(check=False)
            return await use_connection(link.connections, make)
        except asyncpg.InsufficientPrivilegeError as error:
            raise ConfigurationError(
                f"PostgreSQL table {self._table!r}: this role may not make it: GRANT CREATE (and USAGE) ON its schema "
                "TO it; where the table is there already, use its owner's URL"
            ) from error
        except Exception as error:
            raise self._explain(error, opening=True) from error

    @staticmethod
    def ddl(table: str = DEFAULT_TABLE, *, unlogged: bool = False, partitions: int | None = None) -> str:
        """Return the SQL that makes the table, for people who run migrations themselves.

        Args:
            table: its name, `table` or `schema.table`.
            unlogged: as for `create_table`.
            partitions: as for `create_table`.

        Raises:
            ConfigurationError: that is no name, or no number of partitions.
        """
        return "".join(f"{statement};\n" for statement in make_ddl(table, unlogged=unlogged, partitions=partitions))

    async def load(self, key: str) -> Record | None:
        """Return the live record under `key`, or None."""
        link = self._links.get(asyncio.get_running_loop())
        if link is None or not self._checked:
            link = await self._link_in_use()
        return await link.loads.ask(key)

    async def create(self, key: str, record: Record) -> None:
        """Put a new record under `key`. Raises `Conflict` when a live one is there."""
        args = (self._clock(), key, *to_row(record))
        try:
            made = await self._ask(self._sql.create, *args)
        except StoreUnavailable as error:
            if not isinstance(error.__cause__, asyncpg.NotNullViolationError):
                raise
            await self._ask(self._sql.begin)
            made = await self._ask(self._sql.create, *args)
        if not made:
            raise Conflict

    async def update(self, key: str, record: Record, *, version: int) -> None:
        """Replace the live record under `key`. Raises `Conflict` when it is gone, moved on, or has another version."""
        now, publisher = self._clock(), self._publisher
        asked: tuple[Any, ...] = (self._sql.update, now, key, version, *to_row(record))
        if publisher is not None and record.expires_at <= now:
            asked = publisher.ending(key, asked[1:])
        if not await self._ask(*asked):
            raise Conflict
        if publisher is not None and publisher.changes and record.expires_at > now:
            publisher.changed(key, record.version, (await self._link_in_use()).connections)

    async def rotate(self, key: str, new_key: str, record: Record, tombstone: Record, *, version: int) -> None:
        """Put `record` under `new_key` and `tombstone` under `key`. Raises `Conflict` and then changes nothing."""
        if key == new_key:
            raise Conflict
        asked: tuple[Any, ...] = (self._clock(), key, version, *to_row(tombstone), new_key, *to_row(record))
        publisher = self._publisher
        asked = (self._sql.rotate, *asked) if publisher is None else publisher.rotation(key, new_key, asked)
        if not await self._ask(*asked):
            raise Conflict

    async def touch(self, key: str, expires_at: float) -> bool:
        """Let the live record under `key` expire later; return whether there is one that is no tombstone."""
        return bool(await self._ask(self._sql.touch, self._clock(), key, expires_at, again=True))

    async def delete(self, key: str) -> None:
        """Remove whatever is under `key`."""
        publisher = self._publisher
        asked = (self._sql.delete, key) if publisher is None else publisher.deletion(key, self._clock())
        await self._ask(*asked, again=True)

    async def purge(self, limit: int) -> int:
        """Remove at most `limit` expired records; return how many went. 0 while another worker does it."""
        return await purge(self._ask, self._sql.purge, self._clock, limit, None)

    async def purge_telling(self, limit: int, tell: Callable[[str, str | None], object]) -> int:
        """As `purge`; `tell` is called with the key and the user of each session that went."""
        return await purge(self._ask, self._sql.purge, self._clock, limit, tell)

    async def of_user(self, user: str) -> list[tuple[str, Record]]:
        """Return key and record of every live session of `user`."""
        if "\0" in user:
            return []  # PostgreSQL keeps no such text, so there is none
        try:
            rows = await self._ask(self._sql.of_user, self._clock(), user, again=True)
        except Unreadable:
            rows = [row for row in map(readable, await self._raw_rows_of(user)) if row is not None]
        except NotInCharset:
            return []  # and so nobody is called that
        return [(row[0], Record(*row[1:])) for row in rows]

    async def scan(self, limit: int, after: str = "") -> tuple[list[str], str]:
        """Return the next keys in their order, and where to go on; an empty text: these were the last."""
        keys = [row[0] for row in await self._ask(self._sql.scan, after, limit, again=True)]
        return keys, keys[-1] if len(keys) == limit else ""

    async def discard_unreadable(self, user: str) -> int:
        """Remove those of a user's records that cannot be read; return how many went."""
        if "\0" in user:
            return 0
        try:
            lost = [row[0] for row in await self._raw_rows_of(user) if readable(row) is None]
        except NotInCharset:
            return 0
        if lost:
            await self._ask(self._sql.discard, self._clock(), user, lost, again=True)
        return len(lost)

    async def _raw_rows_of(self, user: str) -> Rows:
        return await self._ask(self._sql.of_user_raw, self._clock(), user, again=True)

    async def wipe(self) -> None:
        """End every session: none has the new generation. Their rows go when they would have expired."""
        wipe = f"WITH wiped AS ({self._sql.wipe} RETURNING 1) {tell_of_wipe(self._quoted)} FROM wiped"
        await self._ask(wipe, again=True)

    # Asking

    async def _ask(self, statement: str, *args: Any, again: bool = False, link: Link | None = None) -> Rows:
        """Run one statement.

        Args:
            statement: SQL.
            *args: its parameters.
            again: whether it may be sent a second time when the connection was lost on its way.
            link: whose connections to use; None: the running loop's.
        """
        link = link or await self._link_in_use()
        tries, was_read_only = 0, False
        while True:
            tries += 1
            renewals = link.renewal.count
            try:
                return await fetch_once(link.connections, statement, args)
            except asyncpg.ReadOnlySQLTransactionError as error:  # nothing of it was done
                if was_read_only:
                    raise self._explain(error) from error
                was_read_only = True
                await link.renewal.after_refusal(renewals)
            except (asyncpg.SerializationError, asyncpg.DeadlockDetectedError) as error:
                # Nothing of it was done. On a server that isolates more strictly by default, this is how a lost
                # compare-and-swap looks; the next try sees what won, and says Conflict.
                if tries == _TRIES:
                    raise self._explain(error) from error
            except asyncpg.UntranslatableCharacterError:
                raise NotInCharset from None  # the server's words show it
            except UnicodeDecodeError:
                raise Unreadable(DAMAGED) from None  # the driver's error shows the text
            except Exception as error:
                if not again or not is_lost(error):
                    raise self._explain(error) from error
                again = False
                link.connections.distrust()

    async def _load(self, link: Link, keys: list[str]) -> Sequence[Record | Exception | None]:
        try:
            if len(keys) == 1:
                rows = await self._ask(self._sql.load, self._clock(), keys[0], again=True, link=link)
                return [Record(*rows[0]) if rows else None]
            rows = await self._ask(self._sql.load_many, self._clock(), keys, again=True, link=link)
        except Unreadable as error:
            if len(keys) == 1:
                return [error]
            return [answer for key in keys for answer in await self._load(link, [key])]  # the others can be read
        found = {row[0]: Record(*row[1:]) for row in rows}
        return [found.get(key) for key in keys]

    # Links: what the store has in one event loop

    async def _link_in_use(self) -> Link:
        """As `_office`. What is permanent when the app starts is an outage when it runs: someone may mend it."""
        link = self._links.get(asyncio.get_running_loop())
        if link is not None and self._checked:
            return link
        self._loops.enter()  # where it may not, nobody can mend that while the app runs
        try:
            return await self._open_link()
        except ConfigurationError as error:
            raise StoreUnavailable(str(error)) from error

    async def _open_link(self, *, check: bool = True) -> Link:
        """Return what the store has in this event loop, ready for use."""
        link = self._loops.enter()
        async with link.opening:
            try:
                if check and not self._checked:
                    found = await fetch_once(link.connections, INSPECT, (self._quoted,))
                    examine(found[0] if found else None, self._table)
                    self._checked = True
            except Exception as error:
                raise self._explain(error, opening=True) from error
        return link

    def _connect(self) -> Link:
        return Link(self._connections(), self._load)

    def _connections(self) -> Connections:
        if self._target is not None:
            return OwnConnections(self._target)
        assert self._pool is not None
        self._home.enter()
        return BorrowedConnections(self._pool)

    def _explain(self, error: Exception, *, opening: bool = False) -> Exception:
        """Return what to raise instead of a driver's error."""
        if code_of(error) in GONE:
            self._checked = False  # the next operation looks at the table again
        return explain(error, self._table, self._where, opening=opening)

    @property
    def _where(self) -> str:
        return "" if self._target is None else self._target.where

    def why_silent(self) -> str:
        """Say what may be wrong where the server does not answer in time. Nothing where it ever took a connection."""
        if any(link.connections.has_connected for link in list(self._links.values())):
            return ""
        return f"no connection was made so far: is there a PostgreSQL server{at(self._where)}?"
