"""The table in an SQLite file, and what each operation does with it in the store's thread."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any

from roomkey.stores.base import Conflict, Record, Unreadable
from roomkey.stores.rows import are_of_their_types, record_from
from roomkey.stores.sqlite.errors import is_damage
from roomkey.stores.text import DAMAGED

__all__ = [
    "CREATE",
    "create",
    "delete",
    "discard_unreadable",
    "load",
    "nothing",
    "of_user",
    "purge",
    "rotate",
    "scan",
    "touch",
    "update",
    "wipe",
]

_FIELDS = "data, version, created_at, expires_at, user, successor, serve_until, about"  # as in Record
# Not WITHOUT ROWID: each entry of an index would then hold a copy of the 64-digit key. Measured: creating a session
# took 65 µs instead of 24, updating one 51 instead of 12, and the file was a quarter larger.
#
# `purge_at` is the moment at which a purge next looks at the record. It is never later than `expires_at`. It is a
# column of its own because a session expires later with each write: an index on `expires_at` would change each time,
# and a write would put three pages into the log instead of one. A purge that meets a live record puts it off.
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
    about BLOB NOT NULL DEFAULT x'',
    purge_at REAL NOT NULL DEFAULT 0
)
"""


def _create(suffix: str) -> tuple[str, ...]:
    return (
        _TABLE,
        f"CREATE INDEX session_purge_at{suffix} ON session (purge_at)",
        f"CREATE INDEX session_user{suffix} ON session (user) WHERE user IS NOT NULL",
    )


CREATE = _create("")

# Placeholders have no numbers: Python 3.12 warned of those.
_LOAD = f"SELECT {_FIELDS} FROM session WHERE key = ? AND expires_at > ?"
_ROW = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"  # the key, the fields, and `purge_at`
_REPLACE = ", ".join(f"{name} = excluded.{name}" for name in (*_FIELDS.split(", "), "purge_at"))
# An expired record is absent: an insert that meets one replaces it, and otherwise changes no row.
_INSERT = f"""
INSERT INTO session (key, {_FIELDS}, purge_at) VALUES {_ROW}
ON CONFLICT (key) DO UPDATE SET {_REPLACE} WHERE session.expires_at <= ?
"""
# What nearly every write is: no tombstone, of the same user, that does not expire before the moment of the next look.
# No index changes.
_UPDATE = """
UPDATE session SET data = ?, version = ?, created_at = ?, expires_at = ?, serve_until = ?, about = ?
WHERE key = ? AND version = ? AND successor IS NULL AND expires_at > ? AND purge_at <= ? AND user IS ?
"""
# Any other change.
_REFILE = f"""
UPDATE session SET ({_FIELDS}, purge_at) = (?, ?, ?, ?, ?, ?, ?, ?, ?)
WHERE key = ? AND version = ? AND successor IS NULL AND expires_at > ?
"""
# Both rows or none, in one statement: what is one statement needs no transaction around it.
_ROTATE = f"""
INSERT INTO session (key, {_FIELDS}, purge_at)
SELECT * FROM (VALUES {_ROW}, {_ROW})
WHERE EXISTS (SELECT 1 FROM session WHERE key = ? AND version = ? AND successor IS NULL AND expires_at > ?)
AND NOT EXISTS (SELECT 1 FROM session WHERE key = ? AND expires_at > ?)
ON CONFLICT (key) DO UPDATE SET {_REPLACE}
"""
_TOUCH = """
UPDATE session SET expires_at = max(expires_at, ?) WHERE key = ? AND successor IS NULL AND expires_at > ?
"""
_DELETE = "DELETE FROM session WHERE key = ?"
_DUE = "SELECT rowid, expires_at FROM session WHERE purge_at <= ? ORDER BY purge_at LIMIT ?"
_PURGE = f"DELETE FROM session WHERE rowid IN (SELECT rowid FROM ({_DUE}) WHERE expires_at <= ? LIMIT ?)"
# Those of them that are sessions: no tombstones, and nothing that a move or a session that ended has left.
_SESSIONS_DUE = f"""
SELECT CAST(key AS BLOB), CAST(user AS BLOB) FROM session
WHERE rowid IN (SELECT rowid FROM ({_DUE}) WHERE expires_at <= ? LIMIT ?)
AND successor IS NULL AND substr(data, 1, 1) > x'00'
"""
_PUT_OFF = f"UPDATE session SET purge_at = expires_at WHERE rowid IN (SELECT rowid FROM ({_DUE}) WHERE expires_at > ?)"
_LOOKED_AT = 200  # records that one step of a purge looks at, at least
# A table that was wiped is emptied by purges, a batch at a time: to drop it whole takes as long as it is large.
_INDEX = "SELECT name FROM sqlite_master WHERE tbl_name = 'session' AND name LIKE 'session\\_purge\\_at%' ESCAPE '\\'"
_WIPED = "SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'wiped\\_%' ESCAPE '\\' LIMIT 1"
# A key that a flipped bit has changed is no key.
_SCAN = """
SELECT key FROM session WHERE key > ? AND typeof(key) = 'text' AND key NOT GLOB '*[^0-9a-f]*' ORDER BY key LIMIT ?
"""
_WHOSE = "FROM session WHERE user = ? AND successor IS NULL AND expires_at > ?"
_OF_USER = f"SELECT key, {_FIELDS} {_WHOSE}"
_PLACES = f"SELECT rowid {_WHOSE}"
_AT_PLACE = f"SELECT key, {_FIELDS} FROM session WHERE rowid = ?"
_END_PLACE = "DELETE FROM session WHERE rowid = ?"
_PLACE_OF = "SELECT rowid FROM session WHERE key = ?"


# Each of these changes nothing before its last reason to raise Conflict: nothing has to be
# undone, and one transaction can hold many of them.


def nothing(connection: sqlite3.Connection, now: float) -> None:
    pass


def load(connection: sqlite3.Connection | sqlite3.Cursor, now: float, key: str) -> Record | None:
    try:
        row = connection.execute(_LOAD, (key, now)).fetchone()
    except sqlite3.OperationalError as error:
        if not _is_no_text(error):
            raise
        raise Unreadable(DAMAGED) from None  # the driver's words show the text
    return None if row is None else record_from(row)


def states(
    connection: sqlite3.Connection | sqlite3.Cursor, now: float, keys: list[str]
) -> list[tuple[str, int, str | None]]:
    """Return key, version and successor of those that live."""
    asked = ", ".join("?" * len(keys))
    statement = f"SELECT key, version, successor FROM session WHERE key IN ({asked}) AND expires_at > ?"
    return connection.execute(statement, (*keys, now)).fetchall()


def stamp(connection: sqlite3.Connection | sqlite3.Cursor, _: float) -> tuple[int, ...]:
    """Return what differs where anything in the file has changed: by another connection, by this one, or by a wipe."""
    whole = connection if isinstance(connection, sqlite3.Connection) else connection.connection
    versions = [whole.execute(f"PRAGMA {name}").fetchone()[0] for name in ("data_version", "schema_version")]
    return id(whole), whole.total_changes, *versions


def create(connection: sqlite3.Connection, now: float, key: str, record: Record) -> None:
    if connection.execute(_INSERT, (key, *_row(record), now)).rowcount != 1:
        raise Conflict


def update(connection: sqlite3.Connection, now: float, key: str, record: Record, version: int) -> None:
    expires_at = record.expires_at
    if record.successor is None:
        values = (
            record.data,
            record.version,
            record.created_at,
            expires_at,
            record.serve_until,
            record.about,
            key,
            version,
            now,
            expires_at,
            record.user,
        )
        if connection.execute(_UPDATE, values).rowcount == 1:
            return
    if connection.execute(_REFILE, (*_row(record), key, version, now)).rowcount != 1:
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
    values = (new_key, *_row(record), key, *_row(tombstone), key, version, now, new_key, now)
    if connection.execute(_ROTATE, values).rowcount != 2:
        raise Conflict


def touch(connection: sqlite3.Connection, now: float, key: str, expires_at: float) -> bool:
    return connection.execute(_TOUCH, (expires_at, key, now)).rowcount == 1


def delete(connection: sqlite3.Connection, now: float, key: str) -> None:
    connection.execute(_DELETE, (key,))


def purge(
    connection: sqlite3.Connection, now: float, limit: int, sessions: list[tuple[bytes, bytes | None]] | None = None
) -> tuple[int, bool]:
    """Do one step of a purge. Return how many records went, and whether more may be due.

    `sessions` takes the key and the user of each session that went, as bytes. None: nobody asks.
    """
    look_at = max(limit, _LOOKED_AT)
    if sessions is not None:
        sessions[:] = connection.execute(_SESSIONS_DUE, (now, look_at, now, limit)).fetchall()
    gone = connection.execute(_PURGE, (now, look_at, now, limit)).rowcount
    more = gone + connection.execute(_PUT_OFF, (now, look_at, now)).rowcount >= look_at
    if gone < limit and not more:
        wiped = connection.execute(_WIPED).fetchone()
        if wiped is not None:
            some = f"DELETE FROM {wiped[0]} WHERE rowid IN (SELECT rowid FROM {wiped[0]} LIMIT ?)"
            emptied = connection.execute(some, (limit - gone,)).rowcount
            if emptied == 0:
                connection.execute(f"DROP TABLE {wiped[0]}")
            gone += emptied
    return gone, more


def wipe(connection: sqlite3.Connection, now: float) -> None:
    (index,) = connection.execute(_INDEX).fetchone()
    # Indexes keep their names when their table is renamed, so the new ones have the next number.
    number = int(index.removeprefix("session_purge_at").removeprefix("_") or 0) + 1
    connection.execute(f"ALTER TABLE session RENAME TO wiped_{number}")
    for statement in _create(f"_{number}"):
        connection.execute(statement)


def of_user(connection: sqlite3.Connection, now: float, user: str) -> list[tuple[str, Record]]:
    try:
        rows = connection.execute(_OF_USER, (user, now)).fetchall()
    except sqlite3.OperationalError as error:
        if not _is_no_text(error):
            raise
        rows = [row for _, row in _one_by_one(connection, now, user) if row is not None]
    return [(row[0], record_from((*row[1:-1], _shown(row[-1])))) for row in rows if _fits(row)]


def scan(connection: sqlite3.Connection, now: float, limit: int, after: str) -> tuple[list[str], str]:
    keys = [key for (key,) in connection.execute(_SCAN, (after, limit)).fetchall()]
    return keys, keys[-1] if len(keys) == limit else ""


def discard_unreadable(connection: sqlite3.Connection, now: float, user: str) -> int:
    lost = [
        place
        for place, row in _one_by_one(connection, now, user)
        if row is None or not _fits(row) or _is_astray(connection, row[0], place)
    ]
    for place in lost:  # not by the key, which may be what is damaged
        try:
            connection.execute(_END_PLACE, (place,))
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            connection.execute("REINDEX session")  # the index still has the key as it was
            connection.execute(_END_PLACE, (place,))
    return len(lost)


def _is_astray(connection: sqlite3.Connection, key: str, place: int) -> bool:
    """Whether a row is not found by the key that it has: a card may lead there, and nothing that ends sessions does."""
    return bool(connection.execute(_PLACE_OF, (key,)).fetchone() != (place,))


def _one_by_one(connection: sqlite3.Connection, now: float, user: str) -> Iterator[tuple[int, tuple[Any, ...] | None]]:
    """Where each of a user's sessions is, and its row; None: it cannot be read."""
    for (place,) in connection.execute(_PLACES, (user, now)).fetchall():
        try:
            row = connection.execute(_AT_PLACE, (place,)).fetchone()
        except sqlite3.OperationalError as error:
            if not _is_no_text(error):
                raise
            row = None
        yield place, row


def _fits(row: tuple[Any, ...]) -> bool:
    """Whether each value that counts is of its column's type."""
    key, data, version, created_at, expires_at, user, successor, serve_until = row[:-1]
    moments = (created_at, expires_at) if successor is None else (created_at, expires_at, serve_until)
    return are_of_their_types(data, version, moments, (key, user, successor))


def _shown(value: Any) -> bytes:
    """Return what lists show; nothing where it is damaged."""
    return value if isinstance(value, bytes) else b""


def _is_no_text(error: sqlite3.OperationalError) -> bool:
    """Whether Python could not decode a text. It is an error of its module, and has no code of SQLite's."""
    return str(error).startswith("Could not decode to UTF-8")


def _row(record: Record) -> tuple[Any, ...]:
    """The fields, and `purge_at`."""
    return (
        record.data,
        record.version,
        record.created_at,
        record.expires_at,
        record.user,
        record.successor,
        record.serve_until,
        record.about,
        record.expires_at,
    )
