"""What time it is at a store's server: for tools that compare its clock with the app's."""

from __future__ import annotations

from roomkey.errors import StoreUnavailable
from roomkey.stores.base import Store
from roomkey.stores.migrating import Migrating

__all__ = ["has_server", "server_time"]

_SECONDS = {  # since the epoch, in SQL. Other databases are not asked.
    "postgresql": "SELECT EXTRACT(EPOCH FROM clock_timestamp())::float8",
    "mysql": "SELECT UNIX_TIMESTAMP(SYSDATE(6))",
    "mariadb": "SELECT UNIX_TIMESTAMP(SYSDATE(6))",
}


def has_server(store: Store) -> bool:
    """Whether the sessions of a store are on a server, which has a clock of its own, as far as is known.

    Of two stores, between which sessions move, the new one counts.
    """
    if isinstance(store, Migrating):
        return has_server(store._new)
    kind = type(store).__module__
    if kind.startswith("roomkey.stores.sqlalchemy"):
        return bool(getattr(store, "_dialect").name != "sqlite")  # noqa: B009  # it is not public
    return not kind.startswith(("roomkey.stores.memory", "roomkey.stores.sqlite"))


async def server_time(store: Store) -> float | None:
    """Return the time at a store's server, in Unix seconds; None: it has no server, or does not say.

    Raises:
        StoreUnavailable: it does not answer.
        ConfigurationError: it refuses the app's account.
    """
    if isinstance(store, Migrating):
        return await server_time(store._new)
    # Imported where they are used: most of their drivers are not installed.
    kind = type(store).__module__
    if kind.startswith("roomkey.stores.redis"):
        return await _of_redis(store)
    if kind.startswith("roomkey.stores.postgres"):
        return await _of_postgres(store)
    if kind.startswith("roomkey.stores.sqlalchemy"):
        return await _of_sqlalchemy(store)
    return None


async def _of_redis(store: Store) -> float | None:
    from roomkey.stores.redis.scripts import Command
    from roomkey.stores.redis.store import RedisStore

    assert isinstance(store, RedisStore)
    try:
        seconds, microseconds = await store._link().writes.ask(Command((b"TIME",)))
    except StoreUnavailable:
        return None  # hosted servers may forbid it
    return int(seconds) + int(microseconds) / 1e6


async def _of_postgres(store: Store) -> float | None:
    from roomkey.stores.postgres.store import PostgresStore

    assert isinstance(store, PostgresStore)
    rows = await store._ask(_SECONDS["postgresql"], again=True)
    return float(rows[0][0])


async def _of_sqlalchemy(store: Store) -> float | None:
    import sqlalchemy as sa

    from roomkey.stores.sqlalchemy.store import SQLAlchemyStore

    assert isinstance(store, SQLAlchemyStore)
    statement = _SECONDS.get(store._dialect.name)
    if statement is None:
        return None
    found = await store._ask(lambda connection: connection.execute(sa.text(statement)).scalar(), again=True)
    return None if found is None else float(found)
