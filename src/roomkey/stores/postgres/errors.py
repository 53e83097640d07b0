"""What PostgreSQL's errors mean: https://www.postgresql.org/docs/current/errcodes-appendix.html"""

from __future__ import annotations

import asyncpg  # type: ignore[import-untyped]

from roomkey.errors import ConfigurationError, StoreUnavailable
from roomkey.stores.base import Conflict
from roomkey.stores.poolers import refused_setting
from roomkey.stores.postgres.table import creating_command, missing_rights
from roomkey.stores.unreachable import at, reason

__all__ = ["GONE", "MAY_PASS", "CannotConnect", "code_of", "explain", "is_lost"]

GONE = {"42P01", "42703", "42804"}  # table, column, type
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
MAY_PASS = ("08", "53", "57", "58", "XX")
_LOST = (
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    ConnectionError,
)


def is_lost(error: Exception) -> bool:
    """Whether the connection is gone. InterfaceError: it was gone before anything was sent."""
    return isinstance(error, _LOST) or type(error) is asyncpg.InterfaceError


class CannotConnect(Exception):
    """No connection can be made until someone mends the server or the configuration."""


def code_of(error: Exception) -> str | None:
    """Return the code by which the server names an error; None for any other error."""
    return error.sqlstate if isinstance(error, asyncpg.PostgresError) else None


def explain(error: Exception, table: str, where: str, *, opening: bool) -> Exception:
    """Return what to raise instead of a driver's error, without the server's words: they may hold keys and data.

    Args:
        error: the driver's, or ours, which is returned as it is.
        table: the name of the table.
        where: the server's address, for people; empty: not known.
        opening: whether a permanent fault is a ConfigurationError. (While the app runs, it is an outage: someone may
            mend it.)
    """
    if isinstance(error, Conflict | StoreUnavailable | ConfigurationError):
        return error
    if isinstance(error, asyncpg.DivisionByZeroError):
        return Conflict()  # see Statements.rotate
    permanent = ConfigurationError if opening else StoreUnavailable
    if isinstance(error, CannotConnect):
        return permanent(str(error))
    code = code_of(error)
    setting = refused_setting(str(error)) if code == "08P01" else None
    if setting is not None:
        return permanent(setting)
    if code == "42P01":
        return StoreUnavailable(f"PostgreSQL table {table!r} is gone: {creating_command(table)} makes it")
    if code == "42501":
        return permanent(missing_rights(table))
    if code == "3F000":
        return ConfigurationError(f"table: {table!r}: the database has no such schema: CREATE SCHEMA it")
    if code is not None:
        words = _WORDS.get(code, f"refused ({type(error).__name__}, {code}): its log says more")
        return StoreUnavailable(f"PostgreSQL {words}")
    if isinstance(error, asyncpg.TargetServerAttributeNotMatched):
        return StoreUnavailable("PostgreSQL: none of the hosts in the URL is what target_session_attrs asks for")
    if isinstance(error, TimeoutError):
        return StoreUnavailable(
            f"PostgreSQL cannot be reached{at(where)}: nothing answers in time; is it up, and a PostgreSQL server?"
        )
    if isinstance(error, OSError):
        return StoreUnavailable(f"PostgreSQL cannot be reached{at(where)}: {reason(error) or type(error).__name__}")
    # InternalClientError: the driver had not noticed yet that the server hung up.
    if isinstance(error, asyncpg.InterfaceError | asyncpg.InternalClientError) and not isinstance(error, ValueError):
        return StoreUnavailable("PostgreSQL's connection was lost, or its pool closed")
    return error
