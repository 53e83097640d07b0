"""From a store's URL to the store. A store's module and its driver are imported here, and only when named."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from typing import Any, cast

from roomkey.clock import system_time
from roomkey.errors import ConfigurationError
from roomkey.stores.base import Store

__all__ = ["store_class", "store_from"]

_TAKES = (
    "it takes memory://, sqlite:///relative/path.db, sqlite:////absolute/path.db, redis://, valkey://, postgresql://, "
    "sqlalchemy+..., cookie://, or a Store"
)
_REDIS = [
    f"{name}{tls}{kind}" for name in ("redis", "valkey") for tls in ("", "s") for kind in ("", "+cluster", "+sentinel")
]


_Clock = Callable[[], float]


def store_from(value: object, *, clock: _Clock = system_time) -> Store:
    """Return the store that `value` names.

    Args:
        value: a URL, the path of an SQLite file (`pathlib.Path`), or a `Store`, which is returned as it is.
        clock: returns Unix seconds; for a store that is made from a URL.

    Raises:
        ConfigurationError: neither, or a URL that names no store, or one whose driver is not installed. The URL itself
            is not shown: it may hold a password.
    """
    if isinstance(value, os.PathLike):
        from roomkey.stores.sqlite import SQLiteStore

        return SQLiteStore(value, clock=clock)
    if isinstance(value, str):
        scheme, separator, rest = value.partition("://")
        if not separator:
            raise ConfigurationError(f"store: got text that is no URL; {_TAKES}")
        opener = _BY_SCHEME.get(scheme)
        if opener is None and scheme.startswith("sqlalchemy+"):
            opener = _open_sqlalchemy
        if opener is None:
            raise ConfigurationError(f"store: unknown scheme {scheme[:40]!r}; {_meant(scheme)}")
        try:
            return opener(value, rest, clock)
        except ConfigurationError as error:
            said = str(error).removeprefix("store: ")
        raise ConfigurationError(f"store: {said}")  # without the URL's context
    if value is None:
        raise ConfigurationError(f"store: got None; {_TAKES}")
    if isinstance(value, type):
        raise ConfigurationError(f"store: got the class {value.__name__}; make one: {value.__name__}(...)")
    client = _client_of(value)
    if client is not None:
        raise ConfigurationError(f"store: got {client}")
    missing = [name for name in _OPERATIONS if not callable(getattr(value, name, None))]
    if missing and not _is_cookie_store(value):
        raise ConfigurationError(
            f"store: {type(value).__name__} has no {', '.join(missing)}; {_TAKES} (see roomkey.stores.base.Store)"
        )
    return cast(Store, value)


_MYSQL = "for MySQL and MariaDB write sqlalchemy+mysql+asyncmy://"
_POSTGRES = "for PostgreSQL write postgresql://, or sqlalchemy+postgresql+asyncpg://"
_SQL = {  # by the first part of a URL's scheme, as SQLAlchemy has it: what to write
    "mysql": _MYSQL,
    "mariadb": _MYSQL,
    "postgresql": _POSTGRES,
    "postgres": _POSTGRES,
    "sqlite": "for SQLite write sqlite:///, or sqlalchemy+sqlite+aiosqlite:///",
    "mssql": "for SQL Server write sqlalchemy+mssql+aioodbc://",
    "oracle": "for Oracle write sqlalchemy+oracle+oracledb_async://",
}
_OPERATIONS = ("load", "create", "update", "rotate", "touch", "delete")


def _meant(scheme: str) -> str:
    """Return what was probably meant by a scheme that there is not, or else all that there are."""
    database = scheme.partition("+")[0]
    if database in _SQL:
        return _SQL[database]
    import difflib  # only to say sorry with

    near = difflib.get_close_matches(scheme[:40].lower(), _BY_SCHEME, n=1, cutoff=0.7)
    return f"did you mean {near[0]}://?" if near else _TAKES


def _client_of(value: object) -> str | None:
    """Say which store takes a driver's client, where `value` is one; None: it is something else. No driver is imported.

    By the names of classes, for most drivers are not installed.
    """
    kinds = {(kind.__module__.partition(".")[0], kind.__name__) for kind in type(value).__mro__}
    if ("asyncpg", "Pool") in kinds:
        return "an asyncpg.Pool; give PostgresStore(pool), from roomkey.stores.postgres"
    if ("sqlalchemy", "AsyncEngine") in kinds:
        return "an AsyncEngine; give SQLAlchemyStore(engine), from roomkey.stores.sqlalchemy"
    if ("sqlalchemy", "Engine") in kinds:
        return "an Engine, which blocks the event loop; give SQLAlchemyStore(engine) with one of create_async_engine"
    for package, name in kinds & set(_CLIENTS):
        if any(kind.__module__.startswith(f"{package}.asyncio") for kind in type(value).__mro__):
            return f"a {name} of {package}.asyncio; give RedisStore(client), from roomkey.stores.redis"
        return f"a {name} that blocks the event loop; give its URL, or RedisStore(client) with one of {package}.asyncio"
    return None


_CLIENTS = [("redis", "Redis"), ("redis", "RedisCluster"), ("valkey", "Valkey"), ("valkey", "ValkeyCluster")]


def _open_memory(url: str, rest: str, clock: _Clock) -> Store:
    from roomkey.stores.memory import MemoryStore

    return MemoryStore(clock=clock)


def _open_sqlite(url: str, rest: str, clock: _Clock) -> Store:
    from urllib.parse import unquote

    from roomkey.stores.sqlite import SQLiteStore

    if rest and not rest.startswith("/"):
        raise ConfigurationError(f"store: a sqlite URL has three slashes before a file, or four before /; {_TAKES}")
    if rest.strip("/") in ("", ":memory:"):
        raise ConfigurationError(f"store: a sqlite URL without a file; for sessions in memory: memory://; {_TAKES}")
    if "?" in rest or "#" in rest:
        raise ConfigurationError(
            "store: a sqlite URL takes a file and no options; write ? and # in its name as %3F and %23, and for "
            "options give an SQLiteStore(...)"
        )
    return SQLiteStore(unquote(rest[1:]), clock=clock)


def _open_redis(url: str, rest: str, clock: _Clock) -> Store:
    return cast(Store, store_class("redis", "RedisStore")(url, clock=clock))


def _open_postgres(url: str, rest: str, clock: _Clock) -> Store:
    return cast(Store, store_class("postgres", "PostgresStore")(url, clock=clock))


def _open_sqlalchemy(url: str, rest: str, clock: _Clock) -> Store:
    return cast(Store, store_class("sqlalchemy", "SQLAlchemyStore", url)(url, clock=clock))


def _open_cookie(url: str, rest: str, clock: _Clock) -> Store:
    from roomkey.stores.cookie import CookieStore

    if rest:
        raise ConfigurationError("store: cookie:// takes nothing behind it; for its options, give a CookieStore(...)")
    return cast(Store, CookieStore())  # none, but whoever makes a lifecycle asks first


def _is_cookie_store(value: object) -> bool:
    from roomkey.stores.cookie import CookieStore

    return isinstance(value, CookieStore)


def store_class(module: str, name: str, url: str = "") -> Any:
    """Return a store's class, from the module that has the name of its extra.

    Args:
        module: below `roomkey.stores`.
        name: of the class.
        url: of the database, where there is one: MySQL has an extra of its own.

    Raises:
        ConfigurationError: its driver is not installed.
    """
    try:
        return getattr(import_module(f"roomkey.stores.{module}"), name)
    except ImportError as error:
        scheme = url.partition("://")[0]
        extra = "mysql" if "mysql" in scheme or "mariadb" in scheme else module
        raise ConfigurationError(
            f"store: the packages for this store are missing: pip install 'roomkey[{extra}]'"
        ) from error


_BY_SCHEME: dict[str, Callable[[str, str, _Clock], Store]] = {
    "memory": _open_memory,
    "sqlite": _open_sqlite,
    "unix": _open_redis,
    **dict.fromkeys(_REDIS, _open_redis),
    "cookie": _open_cookie,
    "postgresql": _open_postgres,
    "postgres": _open_postgres,
}
