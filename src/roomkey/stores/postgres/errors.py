"""What PostgreSQL's errors mean."""

from __future__ import annotations

import asyncpg  # type: ignore[import-untyped]

__all__ = ["GONE", "MAY_PASS", "WORDS", "Refused", "is_lost"]

GONE = {"42P01", "42703", "42804"}  # table, column, type
WORDS = {
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


class Refused(Exception):
    """The server, or the driver, said no for good when connecting."""
