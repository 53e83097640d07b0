"""What the errors of each database mean, by the codes that its drivers give."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import exc

from roomkey.errors import ConfigurationError, StoreUnavailable
from roomkey.stores.base import Conflict, Unreadable
from roomkey.stores.loops import is_of_another_loop
from roomkey.stores.poolers import refused_setting
from roomkey.stores.sqlalchemy.engines import Home
from roomkey.stores.sqlalchemy.table import missing_table
from roomkey.stores.text import DAMAGED, NotInCharset
from roomkey.stores.unreachable import at, reason

__all__ = [
    "FORBIDDEN",
    "LOCKED",
    "MET_OTHERS",
    "OURS",
    "READ_ONLY",
    "Faults",
    "Taken",
    "Unsure",
    "is_lost",
    "is_not_sent",
]


class Taken(Exception):
    """A row with that key is there."""


class Unsure(Exception):
    """The connection was lost while a transaction was being committed."""


OURS = (Conflict, ConfigurationError, StoreUnavailable, Taken, Unreadable, Unsure)


def _code_of(error: Exception) -> int | str | None:
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


def is_lost(error: Exception) -> bool:
    """Whether the connection is gone."""
    return isinstance(error, exc.DBAPIError) and error.connection_invalidated


def is_not_sent(error: Exception) -> bool:
    """Whether the driver had noticed before it sent the statement."""
    said = getattr(error, "orig", None)
    if type(said).__module__.startswith("asyncmy"):
        return _code_of(error) == 2006  # 2013: afterwards
    # asyncpg's words for a connection that was closed when it was asked.
    return isinstance(error, exc.InterfaceError) and "connection is closed" in str(said)


_READ_ONLY = "is read-only, a replica it seems: give the URL of the primary"
# Two statements of one name, or none: the pooler gave another server connection.
_POOLED = (
    "is behind a pooler that does not keep prepared statements: give the store an engine of your own, with NullPool "
    'and connect_args={"statement_cache_size": 0, "prepared_statement_name_func": ...} (docs/howto-stores.md shows it)'
)
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
MET_OTHERS: dict[str, set[int | str]] = {
    "mysql": _MYSQL_MET_OTHERS,
    "mariadb": _MYSQL_MET_OTHERS,
    "postgresql": {"40001", "40P01"},
    "sqlite": {517},  # SQLITE_BUSY_SNAPSHOT
    "mssql": {"40001"},
    "oracle": {60, 8177},
}
LOCKED: dict[str, set[int | str]] = {"sqlite": {5}}  # nothing was done
_NO_TABLE: dict[str, set[int | str]] = {
    "mysql": {1146},
    "mariadb": {1146},
    "postgresql": {"42P01"},
    "mssql": {"42S02"},
    "oracle": {942},
}
_MYSQL_READ_ONLY: set[int | str] = {1290, 1792, 1836}
READ_ONLY: dict[str, set[int | str]] = {  # nothing was done
    "mysql": _MYSQL_READ_ONLY,
    "mariadb": _MYSQL_READ_ONLY,
    "postgresql": {"25006"},
}
_MYSQL_FORBIDDEN: set[int | str] = {1044, 1045, 1049, 1142, 1143, 1227, 1698}
FORBIDDEN: dict[str, set[int | str]] = {
    "mysql": _MYSQL_FORBIDDEN,
    "mariadb": _MYSQL_FORBIDDEN,
    "postgresql": {"28P01", "28000", "3D000", "3F000", "42501"},
    "sqlite": {8, 14, 26},
    "mssql": {"28000"},
    "oracle": {1017, 1031, 1045},
}
_CANNOT_CONNECT = 2003  # MySQL's drivers
_MYSQL_WORDS: dict[int | str, str] = {
    1021: "has no space left on its disk: free some",
    1040: "has no connection left (too many clients): raise max_connections there",
    1053: "is shutting down",
    1114: "has no room left for the table: its disk is full, or its files may grow no further",
    1153: "takes no value as large as that: raise max_allowed_packet there",
    1203: "has no connection left for this user: raise max_user_connections there",
    1205: "has the row or table locked by another transaction: find it in the process list",
    **dict.fromkeys(_MYSQL_READ_ONLY, _READ_ONLY),
}
_WORDS: dict[str, dict[int | str, str]] = {
    "mysql": _MYSQL_WORDS,
    "mariadb": _MYSQL_WORDS,
    "postgresql": {
        "25006": _READ_ONLY,
        "53100": "has no space left on its disk: free some",
        "53300": "has no connection left (too many clients): raise max_connections there",
        **dict.fromkeys(("26000", "42P05"), _POOLED),
        "55P03": "has the table locked by another transaction: find it in pg_locks, or try later",
        "57P01": "is shutting down, or someone ended the connection",
        "57P03": "is starting up or shutting down",
    },
    "sqlite": {
        5: "is locked by another process: find who holds it (fuser shows them) and end its transaction",
        8: "file{file} cannot be written: give this process's user the right to",
        13: "file{file} cannot grow: the disk is full or at its quota; free some space",
        14: "file{file} cannot be opened: is its directory there, and may this process's user write in it?",
        26: "file{file} is no database: give sessions another",
    },
}


class Faults:
    """What the errors of one database mean.

    Args:
        dialect: the database's.
        table: the name of the table of sessions.
        where: the database's address, for people; empty: not known.
    """

    def __init__(self, dialect: sa.Dialect, table: str, where: str = "") -> None:
        self.database: str = _NAMES.get(dialect.name, dialect.name)  # for people
        self._dialect = dialect
        self._table = table
        self._where = where
        self.no_connection: str = f"no connection was made so far: is there a {self.database} server{at(where)}?"

    @property
    def may_not_empty(self) -> str:
        """What to say where `wipe` is forbidden."""
        return (
            f"{self.database} table {self._table!r}: the account may not empty it; it needs what TRUNCATE does (MySQL: "
            "DROP, PostgreSQL: TRUNCATE, SQL Server: ALTER)"
        )

    def is_one_of(self, error: Exception, codes: dict[str, set[int | str]]) -> bool:
        """Whether the database names the error by one of these codes."""
        return _code_of(error) in codes.get(self._dialect.name, set())

    def explain(self, error: Exception, *, opening: bool) -> Exception:
        """Return what to raise instead of a driver's error, without the driver's words: they may hold keys and data.

        Args:
            error: the driver's, or ours, which is returned as it is.
            opening: whether a permanent fault is a ConfigurationError. (While the app runs, it is an outage: someone
                may mend it.)
        """
        if isinstance(error, Unsure):
            return StoreUnavailable(f"{self.database} {_LOST}")
        if isinstance(error, OURS):
            return error
        if isinstance(error, exc.IntegrityError):
            return Taken()
        if is_of_another_loop(error):
            return ConfigurationError(Home.fault)
        permanent = ConfigurationError if opening else StoreUnavailable
        words = str(getattr(error, "orig", None) or error)
        if isinstance(error, UnicodeDecodeError) or words.startswith("Could not decode to UTF-8"):  # SQLite's driver
            return Unreadable(DAMAGED)
        if self.is_one_of(error, _NO_TABLE) or "no such table" in words:
            return permanent(missing_table(self.database, self._table))
        if self._dialect.name == "postgresql" and _code_of(error) == "22P05":
            return NotInCharset()
        setting = refused_setting(words) if _code_of(error) == "08P01" else None
        if setting is not None:
            return permanent(setting)
        if self.is_one_of(error, FORBIDDEN):
            return permanent(f"{self.database} {self._fault(error)}")
        if isinstance(error, exc.DBAPIError | exc.TimeoutError | OSError):
            return StoreUnavailable(f"{self.database} {self._fault(error)}")
        if opening and isinstance(error, TypeError | ValueError):
            return ConfigurationError(
                f"the driver {self._dialect.driver} cannot use this URL ({type(error).__name__}): "
                "are its options right?"
            )
        return error

    def _fault(self, error: Exception) -> str:
        code = _code_of(error)
        known = _WORDS.get(self._dialect.name, {}).get(code) if code is not None else None
        if known is not None:
            return known.replace("{file}", f" {self._where!r}" if self._where else "")
        if self.is_one_of(error, FORBIDDEN):
            return f"refused ({code}): are user, password and database in the URL right, and may the user do this?"
        if isinstance(error, exc.TimeoutError):
            return "has all connections of the pool in use: is it slow, or the pool too small?"
        if is_lost(error):
            return _LOST
        why = reason(error)
        if isinstance(error, OSError) or code == _CANNOT_CONNECT or why is not None:
            return f"cannot be reached{at(self._where)}: {why or 'is it up, and the URL right?'}"
        shown = type(getattr(error, "orig", None) or error).__name__
        return f"failed ({shown}{'' if code is None else f', {code}'})"
