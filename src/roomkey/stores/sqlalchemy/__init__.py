"""The store in any SQL database, through SQLAlchemy's asyncio engine."""

try:
    import sqlalchemy.ext.asyncio as _asyncio  # noqa: F401
except ImportError as _error:
    raise ImportError("the SQLAlchemy store needs it: pip install 'roomkey[sqlalchemy]'") from _error

from roomkey.stores.sqlalchemy.store import SQLAlchemyStore
from roomkey.stores.sqlalchemy.table import session_table

__all__ = ["SQLAlchemyStore", "session_table"]
