"""`roomkey store`: the steps that a deployment takes once with its store, and a look at how it does."""

from __future__ import annotations

import asyncio
import functools
import secrets
import threading
import time
from collections.abc import Awaitable, Callable
from statistics import median
from typing import Any, TypeVar, cast

import click

from roomkey.cli.finding import must_be_there, store_url
from roomkey.cli.load import measured
from roomkey.cli.output import ask_first, failures, json_option, progress, show_done, show_facts, show_rows
from roomkey.errors import ConfigurationError
from roomkey.stores.base import Lifespan, Purge, Scan, Store, Unreadable, shown
from roomkey.stores.cookie import CookieStore
from roomkey.stores.migrating import Migrating
from roomkey.stores.urls import store_class, store_from

__all__ = ["store"]

_Answer = TypeVar("_Answer")
_Command = TypeVar("_Command", bound=Callable[..., Any])

_POSTGRES = ("postgres", "PostgresStore")
_SQLALCHEMY = ("sqlalchemy", "SQLAlchemyStore")
_PINGS = 20
_BATCH = 500  # records
_TABLE = click.option("--table", metavar="NAME", help="Its name, or schema.name.  [default: roomkey_session]")
_UNLOGGED = click.option(
    "--unlogged",
    is_flag=True,
    help="PostgreSQL: leave the table out of the write-ahead log. Saves are faster. The price: a crash of the server "
    "empties it, so that everybody is logged out, and it is on no replica.",
)
_PARTITIONS = click.option(
    "--partitions",
    type=int,
    metavar="N",
    help="PostgreSQL: make the table in N hash partitions, 2 to 256. For many millions of sessions. The number "
    "cannot be changed later.",
)


def _url_parameter(command: _Command) -> _Command:
    """Give a command the argument URL, which `--store` gives as well. Its function takes `url`."""

    @functools.wraps(command)
    def with_one_url(url: str | None, url_option: str | None, **others: Any) -> Any:
        if url is not None and url_option is not None:
            raise click.UsageError("URL and --store: give one of them; both say which store it is.")
        return command(url=url if url_option is None else url_option, **others)

    option = click.option("--store", "url_option", metavar="URL", help="The same as the argument URL.")
    argument = click.argument("url", required=False, metavar="[URL (or the environment variable ROOMKEY_STORE)]")
    return cast(_Command, argument(option(with_one_url)))


@click.group()
def store() -> None:
    """Make a store ready, look whether it answers, and move sessions to another one.

    A URL may have a password in it. Better than in the command, where other users of the machine see it in the list of
    processes, it stands in the environment variable ROOMKEY_STORE.
    """


@store.command()
@_url_parameter
@_TABLE
@_UNLOGGED
@_PARTITIONS
def create(url: str | None, table: str | None, unlogged: bool, partitions: int | None) -> None:
    """Make the table in an SQL database, or bring it up to date. Safe to repeat.

    URL is that of an account that may make tables: postgresql://user:password@host/database, or one with SQLAlchemy's
    driver, such as mysql+asyncmy://user:password@host/database.

    Example: roomkey store create postgresql://owner@db/shop
    """

    async def make() -> tuple[object, bool]:
        made = _with_table(url, table)
        try:
            return made, await made.create_table(**options)
        finally:
            await made.close()
            _join_drivers()

    with failures():
        options = _postgres_options(url, unlogged, partitions)
        made, is_new = asyncio.run(make())
    click.echo(f"{made}: {'created' if is_new else 'already there and up to date'}")


@store.command()
@_url_parameter
@_TABLE
@_UNLOGGED
@_PARTITIONS
def sql(url: str | None, table: str | None, unlogged: bool, partitions: int | None) -> None:
    """Print the SQL that makes the table, for your own migrations. Nothing is asked of the database.

    Example: roomkey store sql postgresql://
    """
    with failures():
        options = _postgres_options(url, unlogged, partitions)
        if _is_postgres(url):
            named = {} if table is None else {"table": table}
            text = store_class(*_POSTGRES).ddl(**named, **options)
        else:
            text = _with_table(url, table).ddl()
    click.echo(text, nl=False)


@store.command()
@_url_parameter
@json_option
def ping(url: str | None, as_json: bool) -> None:
    """Look whether the store answers, and how fast.

    What the store warns of when it is opened is printed too.

    Example: roomkey store ping redis://localhost
    """

    async def asked(opened: Store) -> dict[str, Any]:
        times = []
        for _ in range(_PINGS):
            begun = time.perf_counter()
            await opened.load(secrets.token_hex(32))
            times.append((time.perf_counter() - begun) * 1000)
        return {"store": shown(opened), "loads": _PINGS, "fastest_ms": min(times), "median_ms": median(times)}

    show_facts(_use(url, asked), json_asked=as_json)


@store.command()
@_url_parameter
@json_option
def purge(url: str | None, as_json: bool) -> None:
    """Remove the records of expired sessions, all at once. A running app does this by itself, a little at a time.

    Example: roomkey store purge sqlite:///sessions.sqlite3
    """

    async def purged(opened: Store) -> int | None:
        if not isinstance(opened, Purge):
            return None
        gone = 0
        with progress("Removing expired records") as done:
            while some := await opened.purge(_BATCH):
                gone += some
                done(some)
        return gone

    gone = _use(url, purged)
    line = "nothing to do: this store forgets expired records by itself" if gone is None else f"removed: {gone}"
    show_done({"removed": gone or 0, "by_itself": gone is None}, line, json_asked=as_json)


@store.command()
@click.option("--from", "old", required=True, metavar="URL", help="Where the sessions are.")
@click.option("--to", "new", required=True, metavar="URL", help="Where they are to be.")
@click.option("--yes", is_flag=True, help="Do not ask first.")
@json_option
def migrate(old: str, new: str, yes: bool, as_json: bool) -> None:
    """Move every session from one store to another.

    The app may run meanwhile if its store is Migrating(new, old): whoever is logged in stays so. An app that has only
    one of the two stores has to stand still. The command can be run again where it was interrupted.

    Example: roomkey store migrate --from sqlite:///sessions.sqlite3 --to redis://localhost
    """
    ask_first("Move all sessions? The app has to use Migrating(new, old) in every worker, or to stand still.", sure=yes)

    async def moved() -> dict[str, int]:
        must_be_there(old)
        before = store_from(old)
        if not isinstance(before, Scan):
            raise ConfigurationError(f"--from: {type(before).__name__} cannot go through its sessions (no scan)")
        both = Migrating(new, before)
        await both.open()
        counts = {"moved": 0, "unreadable": 0}
        try:
            with progress("Moving sessions") as done:
                after = None
                while after != "":
                    keys, after = await before.scan(_BATCH, after or "")
                    for key in keys:
                        try:
                            counts["moved"] += await both.load(key) is not None
                        except Unreadable:
                            counts["unreadable"] += 1
                    done(len(keys))
        finally:
            await both.close()
        return counts

    with failures():
        counts = asyncio.run(moved())
    line = f"moved: {counts['moved']}, left because they cannot be read: {counts['unreadable']}"
    show_done(counts, line, json_asked=as_json)


@store.command()
@_url_parameter
@click.option("--sessions", default=200, show_default=True, help="How many sessions it makes, and removes again.")
@click.option("--at-once", default=16, show_default=True, help="How many operations are under way at a time.")
@json_option
def bench(url: str | None, sessions: int, at_once: int, as_json: bool) -> None:
    """Measure the store: operations a second, from here, alone and several at once.

    It works on sessions of its own, which it removes again. A busy store gets busier by it.

    Example: roomkey store bench redis://localhost
    """
    with progress("Measuring", total=2 * 4 * sessions) as done:
        rows = _use(url, lambda opened: measured(opened, sessions, at_once, done), may_make=True)
    show_rows(
        rows,
        {"operation": "Operation", "alone": "A second, one at a time", "at_once": f"A second, {at_once} at a time"},
        json_asked=as_json,
        empty="",
    )


def _use(url: str | None, work: Callable[[Store], Awaitable[_Answer]], *, may_make: bool = False) -> _Answer:
    """Open the store, do the work, and close it. `may_make`: an SQLite file that does not exist is made."""

    async def used() -> _Answer:
        there = store_url(url)
        if not may_make:
            must_be_there(there)
        opened = store_from(there)
        if isinstance(opened, CookieStore):
            raise ConfigurationError("store: cookie:// keeps nothing on the server: there is nothing to look at")
        try:
            if isinstance(opened, Lifespan):
                await opened.open()
            return await work(opened)
        finally:
            if isinstance(opened, Lifespan):
                await opened.close()
            _join_drivers()

    with failures():
        return asyncio.run(used())


def _is_postgres(url: str | None) -> bool:
    return store_url(url).partition("://")[0] in ("postgresql", "postgres")


def _postgres_options(url: str | None, unlogged: bool, partitions: int | None) -> dict[str, Any]:
    """Return what the table is made with. Raises ConfigurationError where another database has no such thing."""
    if _is_postgres(url):
        return {"unlogged": unlogged, "partitions": partitions}
    for name, given in (("--unlogged", unlogged), ("--partitions", partitions is not None)):
        if given:
            raise ConfigurationError(f"{name}: it is for PostgreSQL (postgresql://)")
    return {}


def _with_table(url: str | None, table: str | None) -> Any:
    """Return the store of a database in which a table is made."""
    there = store_url(url)
    scheme = there.partition("://")[0]
    if _is_postgres(there):
        return store_class(*_POSTGRES)(there, table=table, max_connections=1)
    if scheme in ("memory", "sqlite", "cookie", "unix") or scheme.startswith(("redis", "valkey")):
        raise ConfigurationError(f"store: {scheme}:// needs no table; the app makes what it needs")
    return store_class(*_SQLALCHEMY, there)(there, table=table)


def _join_drivers() -> None:
    """Let the threads of aiosqlite end while the event loop is there: they print a traceback where they miss it."""
    for thread in threading.enumerate():
        if "_connection_worker_thread" in thread.name:
            thread.join(1)
