"""The store in an SQLite file."""

from roomkey.stores.sqlite.store import SQLiteStore

__all__ = ["SQLiteStore"]
