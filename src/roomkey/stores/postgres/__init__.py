"""The store in PostgreSQL."""

try:
    import asyncpg as _driver  # type: ignore[import-untyped]  # noqa: F401
except ImportError as _error:
    raise ImportError("the PostgreSQL store needs asyncpg: pip install 'roomkey[postgres]'") from _error

from roomkey.stores.postgres.store import PostgresStore

__all__ = ["PostgresStore"]
