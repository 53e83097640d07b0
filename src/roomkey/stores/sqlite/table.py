"""The table in an SQLite file, and what each operation does with it in the store's thread."""

from __future__ import annotations

import sqlite3
from typing import Any

from roomkey.stores.base import Conflict, Record

__all__ = ["CREATE", "create", "delete", "load", "nothing", "of_user", "purge", "rotate", "touch", "update", "wipe"]

_FIELDS = "data, version, created_at, expires_at, user, successor, serve_until, ip, user_agent"  # as in Record
# Not WITHOUT ROWID: each entry of an index would then hold a copy of the 64-digit key. Measured: creating a session
# took 65 µs instead of 24, updating one 51 instead of 12, and the file was a quarter larger.
_TABLE = """
CREATE TABLE session (
    key TEXT PRIMARY KEY NOT NULL,
    data BLOB NOT NULL,
    version INTEGER NOT NULL,
    created_at REAL NOT NULL,
    expires_at REAL NOT NULL,
    user TEXT,
    successor TEXT,
    serve_until REAL NOT NULL,
    ip TEXT,
    user_agent TEXT
)
"""


def _create(suffix: str) -> tuple[str, ...]:
    return (
        _TABLE,
        f"CREATE INDEX session_expires_at{suffix} ON session (expires_at)",
        f"CREATE INDEX session_user{suffix} ON session (user) WHERE user IS NOT NULL",
    )


CREATE = _create("")

_LOAD = f"SELECT {_FIELDS} FROM session WHERE key = ? AND expires_at > ?"
# An expired record is absent: an insert that meets one replaces it, and otherwise changes no row.
_INSERT = f"""
INSERT INTO session (key, {_FIELDS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET
    data = excluded.data, version = excluded.version, created_at = excluded.created_at,
    expires_at = excluded.expires_at, user = excluded.user, successor = excluded.successor,
    serve_until = excluded.serve_until, ip = excluded.ip, user_agent = excluded.user_agent
WHERE session.expires_at <= ?
"""
_UPDATE = """
UPDATE session SET
    data = ?, version = ?, created_at = ?, expires_at = ?, user = ?, successor = ?, serve_until = ?, ip = ?,
    user_agent = ?
WHERE key = ? AND version = ? AND successor IS NULL AND expires_at > ?
"""
_TAKEN = "SELECT 1 FROM session WHERE key = ? AND expires_at > ?"
_TOUCH = """
UPDATE session SET expires_at = max(expires_at, ?) WHERE key = ? AND successor IS NULL AND expires_at > ?
"""
_DELETE = "DELETE FROM session WHERE key = ?"
_PURGE = "DELETE FROM session WHERE rowid IN (SELECT rowid FROM session WHERE expires_at <= ? LIMIT ?)"
# A table that was wiped is emptied by purges, a batch at a time: to drop it whole takes as long as it is large.
_INDEX = "SELECT name FROM sqlite_master WHERE tbl_name = 'session' AND name LIKE 'session\\_expires\\_at%' ESCAPE '\\'"
_WIPED = "SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'wiped\\_%' ESCAPE '\\' LIMIT 1"
_OF_USER = f"SELECT key, {_FIELDS} FROM session WHERE user = ? AND successor IS NULL AND expires_at > ?"


# Each of these changes nothing before its last reason to raise Conflict: nothing has to be
# undone, and one transaction can hold many of them.


def nothing(connection: sqlite3.Connection, now: float) -> None:
    pass


def load(connection: sqlite3.Connection, now: float, key: str) -> Record | None:
    row = connection.execute(_LOAD, (key, now)).fetchone()
    return None if row is None else Record(*row)


def create(connection: sqlite3.Connection, now: float, key: str, record: Record) -> None:
    if connection.execute(_INSERT, (key, *_row(record), now)).rowcount != 1:
        raise Conflict


def update(connection: sqlite3.Connection, now: float, key: str, record: Record, version: int) -> None:
    if connection.execute(_UPDATE, (*_row(record), key, version, now)).rowcount != 1:
        raise Conflict


def rotate(
    connection: sqlite3.Connection,
    now: float,
    key: str,
    new_key: str,
    record: Record,
    tombstone: Record,
    version: int,
) -> None:
    if connection.execute(_TAKEN, (new_key, now)).fetchone() is not None:
        raise Conflict
    update(connection, now, key, tombstone, version)
    create(connection, now, new_key, record)


def touch(connection: sqlite3.Connection, now: float, key: str, expires_at: float) -> bool:
    return connection.execute(_TOUCH, (expires_at, key, now)).rowcount == 1


def delete(connection: sqlite3.Connection, now: float, key: str) -> None:
    connection.execute(_DELETE, (key,))


def purge(connection: sqlite3.Connection, now: float, limit: int) -> int:
    gone = connection.execute(_PURGE, (now, limit)).rowcount
    if gone < limit:
        wiped = connection.execute(_WIPED).fetchone()
        if wiped is not None:
            some = f"DELETE FROM {wiped[0]} WHERE rowid IN (SELECT rowid FROM {wiped[0]} LIMIT ?)"
            emptied = connection.execute(some, (limit - gone,)).rowcount
            if emptied == 0:
                connection.execute(f"DROP TABLE {wiped[0]}")
            gone += emptied
    return gone


def wipe(connection: sqlite3.Connection, now: float) -> None:
    (index,) = connection.execute(_INDEX).fetchone()
    # Indexes keep their names when their table is renamed, so the new ones have the next number.
    number = int(index.removeprefix("session_expires_at").removeprefix("_") or 0) + 1
    connection.execute(f"ALTER TABLE session RENAME TO wiped_{number}")
    for statement in _create(f"_{number}"):
        connection.execute(statement)


def of_user(connection: sqlite3.Connection, now: float, user: str) -> list[tuple[str, Record]]:
    return [(row[0], Record(*row[1:])) for row in connection.execute(_OF_USER, (user, now))]


def _row(record: Record) -> tuple[Any, ...]:
    return (
        record.data,
        record.version,
        record.created_at,
        record.expires_at,
        record.user,
        record.successor,
        record.serve_until,
        record.ip,
        record.user_agent,
    )
