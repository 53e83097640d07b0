"""The table: how it is made, what its rows are, and the statements on it.

Indexes: `expires_at` changes with every save, so its index rules out PostgreSQL's heap-only updates. Accepted: an
update takes 11 µs of the server's time without that index and 15 with it; BRIN would find nearly every page for each
purge; and a coarse column in its place was no faster. A fill factor of 70 keeps an update on its page: 15 % less
write-ahead log.
"""

from __future__ import annotations

import re
from typing import Any

from roomkey.errors import ConfigurationError
from roomkey.stores.base import Record
from roomkey.stores.text import DEFAULT_TABLE, split_name

__all__ = [
    "INSPECT",
    "LOCK_CLASS",
    "Statements",
    "compare_logging",
    "creating_command",
    "examine",
    "make_ddl",
    "missing_rights",
    "quote",
    "readable",
    "to_row",
]

_SCHEMA_VERSION = 1  # in the table's comment; counts up when the table changes
LOCK_CLASS = 0x526F6F6D  # "Room": the first half of our advisory locks; the second is the table

# Columns in the order of Record's fields, after the key.
_COLUMNS = {
    "key": 'text COLLATE "C" PRIMARY KEY',  # "C": compared byte by byte, whatever the database's language
    "data": "bytea NOT NULL",
    "version": "bigint NOT NULL",
    "created_at": "double precision NOT NULL",
    "expires_at": "double precision NOT NULL",
    "user_id": "text",
    "successor": "text",
    "serve_until": "double precision NOT NULL",
    "about": "bytea NOT NULL DEFAULT ''",
}
_FIELDS = [name for name in _COLUMNS if name != "key"]
_TYPES = {name: re.split(" NOT | COLLATE ", column)[0] for name, column in _COLUMNS.items()}
_COMMENT_FORM = re.compile(r"Roomkey sessions, schema (\d+)")

INSPECT = """
SELECT
    obj_description(t.oid, 'pg_class') AS comment,
    t.relpersistence::text AS persistence,
    ARRAY(
        SELECT a.attname::text || ' ' || format_type(a.atttypid, a.atttypmod) FROM pg_attribute AS a
        WHERE a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
    ) AS columns,
    has_table_privilege(t.oid, 'SELECT') AND has_table_privilege(t.oid, 'INSERT')
        AND has_table_privilege(t.oid, 'UPDATE') AND has_table_privilege(t.oid, 'DELETE') AS allowed
FROM pg_class AS t WHERE t.oid = to_regclass($1)
"""


def _numbered(count: int, *, start: int) -> str:
    return ", ".join(f"${number}" for number in range(start, start + count))


class Statements:
    """The SQL for one table. The first parameter is the time, where it plays a part.

    Args:
        table: its name in quotes, with its schema where one was given.
    """

    def __init__(self, table: str) -> None:
        fields = ", ".join(_FIELDS)
        new = ", ".join(f"{field} = excluded.{field}" for field in _FIELDS)
        live = "successor IS NULL AND expires_at >"
        self.load: str = f"SELECT {fields} FROM {table} WHERE key = $2 AND expires_at > $1"
        self.load_many: str = f"SELECT key, {fields} FROM {table} WHERE key = ANY ($2::text[]) AND expires_at > $1"
        # An expired record is absent: an insert that meets one replaces it, and otherwise returns no row.
        self.create: str = f"""
            INSERT INTO {table} AS t (key, {fields}) VALUES ($2, {_numbered(8, start=3)})
            ON CONFLICT (key) DO UPDATE SET {new} WHERE t.expires_at <= $1 RETURNING 1
        """
        self.update: str = f"""
            UPDATE {table} SET ({fields}) = ROW ({_numbered(8, start=4)})
            WHERE key = $2 AND version = $3 AND {live} $1 RETURNING 1
        """
        # One statement is one round trip, and atomic. It waits for whoever holds the old row, and then judges it anew;
        # the insert takes its row from what the update changed, so that nothing is put where nothing was moved. The
        # other way round, moved but nothing put because the new key is taken, cannot be seen before it is done: then 1
        # is divided by the 0 rows that were put, the statement fails and all of it is undone.
        self.rotate: str = f"""
            WITH moved AS (
                UPDATE {table} SET ({fields}) = ROW ({_numbered(8, start=4)})
                WHERE key = $2 AND version = $3 AND {live} $1 RETURNING 1
            ), put AS (
                INSERT INTO {table} AS t (key, {fields}) SELECT $12::text, {self._typed(start=13)} FROM moved
                ON CONFLICT (key) DO UPDATE SET {new} WHERE t.expires_at <= $1 RETURNING 1
            )
            SELECT 1 / (SELECT count(*) FROM put) FROM moved
        """
        self.touch: str = f"""
            UPDATE {table} SET expires_at = GREATEST(expires_at, $3) WHERE key = $2 AND {live} $1 RETURNING 1
        """
        self.delete: str = f"DELETE FROM {table} WHERE key = $1"
        # One worker at a time: the others would wait for the same disk. The rows are locked, and judged again with the
        # lock, before they are deleted: one that was replaced a moment ago stays.
        self.purge: str = f"""
            WITH turn AS MATERIALIZED (
                SELECT pg_try_advisory_xact_lock({LOCK_CLASS}, '{table}'::regclass::oid::int) AS mine
            ), expired AS MATERIALIZED (
                SELECT key FROM {table} WHERE expires_at <= $1 AND (SELECT mine FROM turn)
                LIMIT $2 FOR UPDATE SKIP LOCKED
            ), gone AS (
                DELETE FROM {table} WHERE key IN (SELECT key FROM expired) AND expires_at <= $1 RETURNING 1
            )
            SELECT count(*) FROM gone
        """
        whose = f"FROM {table} WHERE user_id = $2 AND {live} $1"
        self.of_user: str = f"SELECT key, {fields} {whose}"
        self.scan: str = f"SELECT key FROM {table} WHERE key > $1 ORDER BY key LIMIT $2"
        # The texts as bytes, of which some may be no text. `textsend` says what is there, and checks nothing.
        raw = ", ".join(f"textsend({field})" if _TYPES[field] == "text" else field for field in ("key", *_FIELDS))
        self.of_user_raw: str = f"SELECT {raw} {whose}"
        self.discard: str = f"DELETE {whose} AND textsend(key) = ANY ($3::bytea[])"
        # TRUNCATE waits for everybody who uses the table, and meanwhile all others wait for it: not for long.
        # Sent as one message, the two are one transaction.
        self.wipe: str = f"SET LOCAL lock_timeout = '1s'; TRUNCATE {table}"

    @staticmethod
    def _typed(*, start: int) -> str:
        """The parameters of one row in a SELECT list, where PostgreSQL does not see what they are for."""
        return ", ".join(f"${number}::{_TYPES[field]}" for number, field in enumerate(_FIELDS, start))


def to_row(record: Record) -> tuple[Any, ...]:
    user = record.user
    if user is not None and "\0" in user:
        raise ConfigurationError("user_key: the user's name has a NUL character, which PostgreSQL cannot keep")
    return (
        record.data,
        record.version,
        record.created_at,
        record.expires_at,
        user,
        record.successor,
        record.serve_until,
        record.about,
    )


def readable(raw: Any) -> tuple[Any, ...] | None:
    """Return a row whose texts came as bytes; None where one of them is no text."""
    try:
        return tuple(
            value.decode() if value is not None and _TYPES[name] == "text" else value
            for name, value in zip(("key", *_FIELDS), raw, strict=True)
        )
    except UnicodeDecodeError:
        return None


def quote(table: str) -> str:
    """Return a table's name in quotes.

    Raises:
        ConfigurationError: it is not `table` or `schema.table`.
    """
    return ".".join(f'"{part}"' for part in split_name(table) if part is not None)


def make_ddl(table: str, *, unlogged: bool) -> list[str]:
    quoted, (_, name) = quote(table), split_name(table)
    columns = ",\n".join(f"    {column} {kind}" for column, kind in _COLUMNS.items())
    kind = "UNLOGGED TABLE" if unlogged else "TABLE"
    return [
        # Sessions come and go: vacuum when a twentieth has changed, not a fifth.
        f"CREATE {kind} IF NOT EXISTS {quoted} (\n{columns}\n) "
        "WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05)",
        f'CREATE INDEX IF NOT EXISTS "{name}_expires_at" ON {quoted} (expires_at)',
        f'CREATE INDEX IF NOT EXISTS "{name}_user_id" ON {quoted} (user_id)\n'
        "    WHERE user_id IS NOT NULL AND successor IS NULL",
        f"COMMENT ON TABLE {quoted} IS 'Roomkey sessions, schema {_SCHEMA_VERSION}'",
    ]


def examine(found: Any | None, table: str, *, rights: bool = True) -> None:
    """Raise ConfigurationError unless the table is ours, and as this version knows it.

    Args:
        found: what `INSPECT` returned; None where there is no such table.
        table: its name.
        rights: whether the role has to have the rights that a session needs.
    """
    if found is None:
        raise ConfigurationError(
            f"PostgreSQL table {table!r} is not there: make it with {creating_command(table)}, or correct the URL"
        )
    comment = _COMMENT_FORM.fullmatch(found["comment"] or "")
    if comment is None:
        raise ConfigurationError(
            f"PostgreSQL table {table!r} is not Roomkey's (its comment does not say so): "
            "give sessions a table of their own, with table"
        )
    schema = int(comment[1])
    if schema > _SCHEMA_VERSION:
        raise ConfigurationError(
            f"PostgreSQL table {table!r} has schema {schema}, and this version of Roomkey knows "
            f"{_SCHEMA_VERSION}: run the version that made it or a newer one, or give another table"
        )
    wrong = {f"{name} {kind}" for name, kind in _TYPES.items()} - set(found["columns"])
    if wrong:
        raise ConfigurationError(
            f"PostgreSQL table {table!r} was changed by hand; it lacks {', '.join(sorted(wrong))}: "
            f"drop it and make it with {creating_command(table)}"
        )
    if rights and not found["allowed"]:
        raise ConfigurationError(missing_rights(table))


def compare_logging(found: Any, table: str, *, unlogged: bool) -> None:
    """Raise ConfigurationError if the table is there and is logged otherwise than asked for."""
    if (found["persistence"] == "u") is unlogged:
        return
    there, wanted = ("logged", "UNLOGGED") if unlogged else ("unlogged", "LOGGED")
    raise ConfigurationError(
        f"PostgreSQL table {table!r} is there and is {there}: change it with ALTER TABLE {quote(table)} SET {wanted}"
    )


def creating_command(table: str) -> str:
    """Return the command that makes the table."""
    return "roomkey store create" + (f" --table {table}" if table != DEFAULT_TABLE else "")


def missing_rights(table: str) -> str:
    """Say which rights the role needs."""
    return (
        f"PostgreSQL table {table!r}: the role has not the rights it needs: as the table's owner, "
        f"GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON {quote(table)} TO it (and USAGE on its schema)"
    )
