"""From a URL, or an engine of the app's, to an engine: checked here, and nowhere shown."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool, Pool, StaticPool

from roomkey.errors import ConfigurationError
from roomkey.stores.loops import OneLoop
from roomkey.stores.sqlalchemy.table import PREFIX
from roomkey.stores.text import has_port

__all__ = ["Home", "address_of", "checked_engine", "make_engine", "quiet_engine", "read_url", "shown"]

_CONNECTIONS = 10  # of an engine of ours, in one event loop
_MOST_IDLE = 300  # seconds: firewalls forget connections that are silent for longer, often without a word
_SQLITE_TIMEOUT = 0.1  # seconds of it that SQLite waits at a time, in engines of ours: it is not fair
_NOTICE_BY_THEMSELVES = ("asyncmy", "asyncpg", "aiosqlite")  # drivers, when their connection was closed
_DRIVERS = (
    "sqlalchemy+mysql+asyncmy://, or one with mariadb+asyncmy, postgresql+asyncpg, sqlite+aiosqlite or another driver "
    "for asyncio"
)
_FOR_ASYNCIO = {  # by the database in the URL: what to write
    "mysql": "for MySQL write sqlalchemy+mysql+asyncmy://",
    "mariadb": "for MariaDB write sqlalchemy+mariadb+asyncmy://",
    "postgresql": "for PostgreSQL write sqlalchemy+postgresql+asyncpg://",
    "sqlite": "for SQLite write sqlalchemy+sqlite+aiosqlite:///",
    "mssql": "for SQL Server write sqlalchemy+mssql+aioodbc://",
    "oracle": "for Oracle write sqlalchemy+oracle+oracledb_async://",
}
_TAKES = "it takes an AsyncEngine, or a URL such as mysql+asyncmy://user:password@host:3306/database"


def make_engine(url: URL) -> AsyncEngine:
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
        raise ConfigurationError(f"the driver {dialect.driver} is not installed: pip install {error.name}") from error
    except (exc.ArgumentError, TypeError, ValueError) as error:
        # From nothing: the words may hold a part of the URL.
        raise ConfigurationError(f"the driver {dialect.driver} cannot use this URL ({type(error).__name__})") from None


def checked_engine(engine: object) -> AsyncEngine:
    if isinstance(engine, sa.Engine):
        raise ConfigurationError(
            "SQLAlchemyStore: got an Engine, which blocks the event loop; make one with create_async_engine"
        )
    if not isinstance(engine, AsyncEngine):
        raise ConfigurationError(f"SQLAlchemyStore: got {type(engine).__name__}; {_TAKES}")
    if isinstance(engine.sync_engine.pool, StaticPool):
        raise ConfigurationError(
            "SQLAlchemyStore: got an engine with one connection for all (StaticPool, an SQLite database in memory): "
            "their transactions would mix; for sessions in memory use memory://"
        )
    return engine


_ITS_LOOP = (
    "the engine given to SQLAlchemyStore",
    "give a URL, and each loop gets connections of its own; or give the engine poolclass=NullPool, or dispose of it "
    "before another loop uses it",
)


class Home:
    """The event loop of an engine of the app's: pooled connections belong to the loop that made them.

    Not with SQLite, whose driver's connections work in any loop, nor with NullPool, which keeps none. An engine that
    was disposed of has a new pool afterwards.
    """

    fault: str = OneLoop(*_ITS_LOOP).fault

    def __init__(self) -> None:
        self._pool: Pool | None = None
        self._loop = OneLoop(*_ITS_LOOP)

    def enter(self, engine: AsyncEngine) -> None:
        """Note the running loop. Raises ConfigurationError where the engine's connections belong to another one."""
        pool = engine.sync_engine.pool
        if isinstance(pool, NullPool) or engine.dialect.name == "sqlite":
            return
        if pool is not self._pool:
            self._pool, self._loop = pool, OneLoop(*_ITS_LOOP)
        self._loop.enter()


def quiet_engine(engine: AsyncEngine) -> AsyncEngine:
    """Return the same engine, but one that logs none of our parameters, and names none in an error."""
    same = engine.execution_options()
    same.sync_engine.hide_parameters = True
    return same


def read_url(given: str | URL) -> tuple[URL, str | None]:
    """Return SQLAlchemy's URL, and the table that it names. No error of this shows any of it but the driver."""
    try:
        url = make_url(given.removeprefix(PREFIX) if isinstance(given, str) else given)
    except (exc.ArgumentError, ValueError):
        hosts = str(given).partition("://")[2].partition("/")[0]
        if "@" not in str(given) and not has_port(hosts):
            raise ConfigurationError(f"the SQLAlchemy URL's port takes a number up to 65535; {_TAKES}") from None
        raise ConfigurationError(f"the SQLAlchemy URL cannot be read; {_TAKES}") from None
    # A password with @ in it splits the URL in the wrong place; what comes after would be taken for a host.
    if url.username is not None and "@" in f"{url.host or ''}{url.database or ''}":
        raise ConfigurationError(f"the SQLAlchemy URL cannot be read: write @ in its password as %40; {_TAKES}")
    try:
        is_async = url.get_dialect().is_async
    except exc.NoSuchModuleError:
        raise ConfigurationError(
            f"SQLAlchemy knows no {url.drivername}; name a driver in the URL, such as {_DRIVERS}"
        ) from None
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"{url.drivername} needs {error.name}: pip install {error.name}") from error
    if not is_async:
        instead = _FOR_ASYNCIO.get(url.get_backend_name(), f"name one, such as {_DRIVERS}")
        raise ConfigurationError(f"the URL names no driver for asyncio (it says {url.drivername}); {instead}")
    if url.get_backend_name() == "sqlite" and _is_in_memory(url):
        raise ConfigurationError("the URL names an SQLite database in memory; for sessions in memory use memory://")
    if url.get_backend_name() in ("mysql", "mariadb") and url.query.get("charset", "utf8mb4") != "utf8mb4":
        raise ConfigurationError("charset in the URL takes utf8mb4, as it is without it: users have any name")
    table = url.query.get("table")
    return url.difference_update_query(["table"]), table if isinstance(table, str) else None


def _is_in_memory(url: URL) -> bool:
    return ":memory:" in (url.database or ":memory:") or url.query.get("mode") == "memory"


def address_of(server: URL | AsyncEngine | None) -> str:
    """Return host and port, or SQLite's file; nothing where the URL has none of them."""
    url = server.url if isinstance(server, AsyncEngine) else server
    if url is None or url.get_backend_name() == "sqlite":
        return "" if url is None else url.database or ""
    port = f":{url.port}" if url.port else ""
    return f"{url.host}{port}" if url.host else ""


def shown(url: URL | None, dialect: sa.Dialect) -> str:
    """Return which database it is, for people."""
    return f"an engine of the app's own ({dialect.name})" if url is None else repr(without_password(url))


def without_password(url: URL) -> str:
    port = f":{url.port}" if url.port else ""
    return f"{url.drivername}://{url.host or ''}{port}/{url.database or ''}"
