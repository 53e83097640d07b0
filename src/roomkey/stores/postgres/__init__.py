"""The store in PostgreSQL."""

try:
    import asyncpg as _driver  # type: ignore[import-untyped]  # noqa: F401
except ImportError as error:
    raise ImportError("the PostgreSQL store needs asyncpg: pip install 'roomkey[postgres]'") from error

from roomkey.stores.postgres.store import PostgresStore

__all__ = ["PostgresStore"]
