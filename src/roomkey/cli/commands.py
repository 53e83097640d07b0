"""What the command `roomkey` does: the steps that a person or a deployment takes once, and not the app.

Exit codes: 0 means done. 1: it cannot be done now (the server is down). 2: it cannot be done in this way (a wrong URL
or option, or no right to do it). What went wrong is on the standard error output, and what was done is on the standard
output.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator

import click

from roomkey.errors import ConfigurationError, StoreUnavailable
from roomkey.stores.urls import store_class

__all__ = ["roomkey"]

_POSTGRES = ("postgres", "PostgresStore")
_SQLALCHEMY = ("sqlalchemy", "SQLAlchemyStore")
_URL = click.argument("url", envvar="ROOMKEY_STORE", metavar="URL (or the environment variable ROOMKEY_STORE)")
_TABLE = click.option("--table", metavar="NAME", help="Its name, or schema.name.  [default: roomkey_session]")
_UNLOGGED = click.option(
    "--unlogged",
    is_flag=True,
    help="Leave the table out of the write-ahead log. Saves are faster. The price: a crash of the server empties it, "
    "so that everybody is logged out, and it is on no replica.",
)


@click.group()
@click.version_option(package_name="roomkey", message="roomkey %(version)s")
def roomkey() -> None:
    """Roomkey: server-side sessions."""


@roomkey.group()
def postgres() -> None:
    """The table that keeps sessions in PostgreSQL."""


@postgres.command("create")
@_URL
@_TABLE
@_UNLOGGED
def create_postgres(url: str, table: str | None, unlogged: bool) -> None:
    """Make the table, or bring it up to date. Safe to repeat.

    URL is postgresql://user:password@host/database, of a role that may make tables. Better than here, where other
    users of the machine see it in the list of processes, it stands in the environment variable ROOMKEY_STORE.
    """

    async def make() -> tuple[object, bool]:
        store = store_class(*_POSTGRES)(url, table=table, max_connections=1)
        try:
            return store, await store.create_table(unlogged=unlogged)
        finally:
            await store.close()

    with _failures():
        _report(*asyncio.run(make()))


@postgres.command("sql")
@_TABLE
@_UNLOGGED
def print_postgres(table: str | None, unlogged: bool) -> None:
    """Print the SQL that makes the table, for your own migrations."""
    named = {} if table is None else {"table": table}
    with _failures():
        click.echo(store_class(*_POSTGRES).ddl(**named, unlogged=unlogged), nl=False)


@roomkey.group()
def sqlalchemy() -> None:
    """The table that keeps sessions in any SQL database: MySQL, MariaDB, SQL Server, Oracle, ..."""


@sqlalchemy.command("create")
@_URL
@_TABLE
def create_sqlalchemy(url: str, table: str | None) -> None:
    """Make the table, where it is not there yet. Safe to repeat.

    URL names the driver too, such as mysql+asyncmy://user:password@host/database, and an account that may make tables.
    Better than here, where other users of the machine see it in the list of processes, it stands in the environment
    variable ROOMKEY_STORE.
    """

    async def make() -> tuple[object, bool]:
        store = store_class(*_SQLALCHEMY, url)(url, table=table)
        try:
            return store, await store.create_table()
        finally:
            await store.close()
            _join_drivers()

    with _failures():
        _report(*asyncio.run(make()))


@sqlalchemy.command("sql")
@_URL
@_TABLE
def print_sqlalchemy(url: str, table: str | None) -> None:
    """Print the SQL that makes the table in such a database, for your own migrations. Nothing is asked of it."""
    with _failures():
        click.echo(store_class(*_SQLALCHEMY, url)(url, table=table).ddl(), nl=False)


def _join_drivers() -> None:
    """Let the threads of aiosqlite end while the event loop is there: they print a traceback where they miss it."""
    for thread in threading.enumerate():
        if "_connection_worker_thread" in thread.name:
            thread.join(1)


@contextlib.contextmanager
def _failures() -> Iterator[None]:
    """Make of the errors that users are to read what the command prints, with its exit code."""
    try:
        yield
    except ConfigurationError as error:
        raise _failure(error, code=2) from error
    except StoreUnavailable as error:
        raise _failure(error, code=1) from error


def _failure(error: Exception, *, code: int) -> click.ClickException:
    failure = click.ClickException(str(error))
    vars(failure)["exit_code"] = code  # click declares it for the class
    return failure


def _report(store: object, is_new: bool) -> None:
    click.echo(f"{store}: {'created' if is_new else 'already there and up to date'}")
