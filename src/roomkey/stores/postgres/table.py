"""The table: what its rows are, the statements on it, and whether a table that is found is one of ours.

`purge_at` is the moment at which a purge next looks at the record. It is never later than `expires_at`. It is a column
of its own because a session expires later with each renewal. An index on `expires_at` would change each time, and
PostgreSQL then writes a new entry into every index of the table. An update that changes no indexed column stays on its
page ("heap-only", https://www.postgresql.org/docs/current/storage-hot.html), and a fill factor of 70 leaves room there.
A purge that meets a live record puts it off. (`roomkey.stores.sqlite.table` does the same.)

`generation` ends everybody's sessions at once. A record is live while it has the generation of the row whose key is
empty. A wipe gives that row a new one, which takes the same time for any number of sessions. TRUNCATE does not: while
it gives the files back to the disk, 11 seconds for five million sessions, nobody else gets at the table.

Leaves to others: how the table is made (`roomkey.stores.postgres.making`).
"""

from __future__ import annotations

import re
from typing import Any

from roomkey.errors import ConfigurationError
from roomkey.stores.base import Record
from roomkey.stores.text import DEFAULT_TABLE, split_name

__all__ = [
    "COLUMNS",
    "INSPECT",
    "LOCK_CLASS",
    "NEW_GENERATION",
    "SCHEMA_VERSION",
    "Statements",
    "creating_command",
    "examine",
    "generation_row",
    "missing_rights",
    "quote",
    "readable",
    "schema_of",
    "to_row",
]

SCHEMA_VERSION = 2  # in the table's comment; counts up when the table changes
LOCK_CLASS = 0x526F6F6D  # "Room": the first half of our advisory locks; the second is the table
NEW_GENERATION = "(random() * 1e15)::bigint"  # which no record has

# Between the key and `purge_at`, columns are in the order of Record's fields.
COLUMNS = {
    "key": 'text COLLATE "C" PRIMARY KEY',  # "C": compared byte by byte, whatever the database's language
    "data": "bytea NOT NULL",
    "version": "bigint NOT NULL",
    "created_at": "double precision NOT NULL",
    "expires_at": "double precision NOT NULL",
    "user_id": "text",
    "successor": "text",
    "serve_until": "double precision NOT NULL",
    "about": "bytea NOT NULL DEFAULT ''",
    "purge_at": "double precision NOT NULL DEFAULT 0",
    "generation": "bigint NOT NULL DEFAULT 0",
}
_FIELDS = [name for name in COLUMNS if name not in ("key", "purge_at", "generation")]
_TYPES = {name: re.split(" NOT | COLLATE ", column)[0] for name, column in COLUMNS.items()}
_COMMENT_FORM = re.compile(r"Roomkey sessions, schema (\d+)")

INSPECT = """
SELECT
    obj_description(t.oid, 'pg_class') AS comment,
    -- A table in partitions has its rows in these.
    coalesce(
        (SELECT min(p.relpersistence::text) FROM pg_inherits AS i JOIN pg_class AS p ON p.oid = i.inhrelid
         WHERE i.inhparent = t.oid),
        t.relpersistence::text
    ) AS persistence,
    (SELECT count(*) FROM pg_inherits AS i WHERE i.inhparent = t.oid) AS partitions,
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


def generation_row(table: str, generation: str, otherwise: str) -> str:
    """Return the statement that puts in the row with the current generation. `otherwise`: what is done to one there."""
    return f"""
        INSERT INTO {table} (key, data, version, created_at, expires_at, serve_until, purge_at, generation)
        VALUES ('', '', 0, 0, 'infinity', 0, 'infinity', {generation}) ON CONFLICT (key) DO {otherwise}
    """


class Statements:
    """The SQL for one table. The first parameter is the time, where it plays a part.

    Args:
        table: its name in quotes, with its schema where one was given.
    """

    def __init__(self, table: str) -> None:
        fields = ", ".join(_FIELDS)
        columns = f"key, {fields}, purge_at, generation"
        new = ", ".join(f"{field} = excluded.{field}" for field in (*_FIELDS, "purge_at", "generation"))
        current = f"(SELECT generation FROM {table} WHERE key = '')"
        alive = f"generation = {current} AND expires_at > $1"
        live = f"successor IS NULL AND {alive}"
        self.load: str = f"SELECT {fields} FROM {table} WHERE key = $2 AND {alive}"
        self.load_many: str = f"SELECT key, {fields} FROM {table} WHERE key = ANY ($2::text[]) AND {alive}"
        # A record that is not live is absent: an insert that meets one replaces it, and otherwise returns no row.
        or_replace = f"""
            ON CONFLICT (key) DO UPDATE SET {new}
            WHERE t.expires_at <= $1 OR t.generation <> excluded.generation RETURNING 1
        """
        self.create: str = f"""
            INSERT INTO {table} AS t ({columns}) VALUES ($2, {_numbered(8, start=3)}, $6, {current}) {or_replace}
        """
        # A record that expires later than before is looked at when it was to be: `purge_at` stays, and so the index.
        changed = f"({fields}, purge_at) = ROW ({_numbered(8, start=4)}, LEAST(purge_at, $7))"
        self.update: str = f"""
            UPDATE {table} SET {changed}
            WHERE key = $2 AND version = $3 AND {live} RETURNING 1
        """
        # One statement is one round trip, and atomic. It waits for whoever holds the old row, and then judges it anew;
        # the insert takes its row from what the update changed, so that nothing is put where nothing was moved. The
        # other way round, moved but nothing put because the new key is taken, cannot be seen before it is done: then 1
        # is divided by the 0 rows that were put, the statement fails and all of it is undone.
        self.rotate: str = f"""
            WITH moved AS (
                UPDATE {table} SET {changed}
                WHERE key = $2 AND version = $3 AND {live} RETURNING generation
            ), put AS (
                INSERT INTO {table} AS t ({columns})
                SELECT $12::text, {self._typed(start=13)}, $16, moved.generation FROM moved {or_replace}
            )
            SELECT 1 / (SELECT count(*) FROM put) FROM moved
        """
        self.touch: str = f"""
            UPDATE {table} SET expires_at = GREATEST(expires_at, $3) WHERE key = $2 AND {live} RETURNING 1
        """
        self.delete: str = f"DELETE FROM {table} WHERE key = $1"
        # One worker at a time: the others would wait for the same disk. Of the $3 records that are to be looked at
        # first, it removes $2 that are dead and puts the live ones off. They are locked, and judged again with the
        # lock: one that was replaced a moment ago stays. The keys go through arrays: joined with `due` itself, of
        # which PostgreSQL does not know how long it is, the whole table may be read. Each key is looked for in its own
        # partition only. $4: whether to return the sessions that expired, as bytes: some may be no text.
        dead = f"expires_at <= $1 OR generation <> {current}"
        self.purge: str = f"""
            WITH turn AS MATERIALIZED (
                SELECT pg_try_advisory_xact_lock({LOCK_CLASS}, '{table}'::regclass::oid::int) AS mine
            ), due AS MATERIALIZED (
                SELECT key, expires_at, generation FROM {table} WHERE purge_at <= $1 AND (SELECT mine FROM turn)
                ORDER BY purge_at LIMIT $3 FOR UPDATE SKIP LOCKED
            ), gone AS (
                DELETE FROM {table} AS t USING unnest(ARRAY(SELECT key FROM due WHERE {dead} LIMIT $2)) AS one (key)
                WHERE t.key = one.key AND ({dead})
                RETURNING t.key, user_id, $4 AND expires_at <= $1 AND successor IS NULL
                    AND generation = {current} AND substring(data FROM 1 FOR 1) > '\\x00' AS is_told
            ), put_off AS (
                UPDATE {table} AS t SET purge_at = t.expires_at
                FROM unnest(ARRAY(SELECT key FROM due WHERE {alive})) AS one (key)
                WHERE t.key = one.key AND {alive} RETURNING 1
            )
            SELECT (SELECT count(*) FROM gone), (SELECT count(*) FROM put_off),
                ARRAY(SELECT ARRAY[textsend(key), textsend(user_id)] FROM gone WHERE is_told)
        """
        whose = f"FROM {table} WHERE user_id = $2 AND {live}"
        self.of_user: str = f"SELECT key, {fields} {whose}"
        self.scan: str = f"SELECT key FROM {table} WHERE key > $1 ORDER BY key LIMIT $2"
        # The texts as bytes, of which some may be no text. `textsend` says what is there, and checks nothing.
        raw = ", ".join(f"textsend({field})" if _TYPES[field] == "text" else field for field in ("key", *_FIELDS))
        self.of_user_raw: str = f"SELECT {raw} {whose}"
        self.discard: str = f"DELETE {whose} AND textsend(key) = ANY ($3::bytea[])"
        # Where the row of the generation is missing, as after a TRUNCATE by hand, nothing is live, and nothing can be
        # created before it is there again. It gets a generation that no record has.
        self.begin: str = generation_row(table, NEW_GENERATION, "NOTHING")
        self.wipe: str = generation_row(table, NEW_GENERATION, "UPDATE SET generation = excluded.generation")

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


def schema_of(found: Any) -> int | None:
    """Return the number in the comment of a table that was found; None where it is not one of ours."""
    comment = _COMMENT_FORM.fullmatch(found["comment"] or "")
    return None if comment is None else int(comment[1])


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
    schema = schema_of(found)
    if schema is None:
        raise ConfigurationError(
            f"PostgreSQL table {table!r} is not Roomkey's (its comment does not say so): "
            "give sessions a table of their own, with table"
        )
    if schema < SCHEMA_VERSION:
        raise ConfigurationError(
            f"PostgreSQL table {table!r} has schema {schema}, and this version of Roomkey knows {SCHEMA_VERSION}: "
            f"bring it up to date with {creating_command(table)}, which takes its owner's URL"
        )
    if schema > SCHEMA_VERSION:
        raise ConfigurationError(
            f"PostgreSQL table {table!r} has schema {schema}, and this version of Roomkey knows "
            f"{SCHEMA_VERSION}: run the version that made it or a newer one, or give another table"
        )
    wrong = {f"{name} {kind}" for name, kind in _TYPES.items()} - set(found["columns"])
    if wrong:
        raise ConfigurationError(
            f"PostgreSQL table {table!r} was changed by hand; it lacks {', '.join(sorted(wrong))}: "
            f"drop it and make it with {creating_command(table)}"
        )
    if rights and not found["allowed"]:
        raise ConfigurationError(missing_rights(table))


def creating_command(table: str) -> str:
    """Return the command that makes the table."""
    return "roomkey store create" + (f" --table {table}" if table != DEFAULT_TABLE else "")


def missing_rights(table: str) -> str:
    """Say which rights the role needs."""
    return (
        f"PostgreSQL table {table!r}: the role has not the rights it needs: as the table's owner, "
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON {quote(table)} TO it (and USAGE on its schema)"
    )
