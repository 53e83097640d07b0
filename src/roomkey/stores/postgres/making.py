"""How the table is made, whole or in partitions, and how an older one is brought up to date."""

from __future__ import annotations

from typing import Any

from roomkey.errors import ConfigurationError
from roomkey.stores.postgres.connections import Connection
from roomkey.stores.postgres.table import (
    COLUMNS,
    INSPECT,
    LOCK_CLASS,
    NEW_GENERATION,
    SCHEMA_VERSION,
    examine,
    generation_row,
    quote,
    schema_of,
)
from roomkey.stores.text import split_name

__all__ = ["make_ddl", "make_table"]

_MOST_PARTITIONS = 256  # a statement that reads all of them has them all in its plan
# Room on each page for the next version of its rows. Sessions come and go: vacuum when a twentieth has changed, not a
# fifth.
_STORAGE = "fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05"


def make_ddl(table: str, *, unlogged: bool, partitions: int | None) -> list[str]:
    """Return the statements that make the table.

    Raises:
        ConfigurationError: that is no name, or no number of partitions.
    """
    quoted, (schema, name) = quote(table), split_name(table)
    columns = ",\n".join(f"    {column} {kind}" for column, kind in COLUMNS.items())
    kind = "UNLOGGED TABLE" if unlogged else "TABLE"
    if partitions is None:
        making = [f"CREATE {kind} IF NOT EXISTS {quoted} (\n{columns}\n) WITH ({_STORAGE})"]
    else:
        _check_partitions(partitions)
        # The whole has no rows, and so no settings of its own, and is not unlogged.
        making = [f"CREATE TABLE IF NOT EXISTS {quoted} (\n{columns}\n) PARTITION BY HASH (key)"]
        for number in range(partitions):
            part = quote(f"{schema}.{name}_p{number}" if schema else f"{name}_p{number}")
            making.append(
                f"CREATE {kind} IF NOT EXISTS {part} PARTITION OF {quoted}\n"
                f"    FOR VALUES WITH (MODULUS {partitions}, REMAINDER {number}) WITH ({_STORAGE})"
            )
    return [*making, *_beside(quoted, name, NEW_GENERATION)]


def _beside(quoted: str, name: str, generation: str) -> list[str]:
    """Return the statements that make what a table has beside its rows.

    Args:
        quoted: its name in quotes.
        name: its name without the schema.
        generation: of its live records, where no row says it.
    """
    return [
        f'CREATE INDEX IF NOT EXISTS "{name}_purge_at" ON {quoted} (purge_at)',
        f'CREATE INDEX IF NOT EXISTS "{name}_user_id" ON {quoted} (user_id)\n'
        "    WHERE user_id IS NOT NULL AND successor IS NULL",
        " ".join(generation_row(quoted, generation, "NOTHING").split()),
        f"COMMENT ON TABLE {quoted} IS 'Roomkey sessions, schema {SCHEMA_VERSION}'",
    ]


def _from_schema_1(quoted: str, schema: str | None, name: str) -> list[str]:
    """Return the statements that give the table of schema 1 what it lacks. No row of it is written."""
    index = quote(f"{schema}.{name}_expires_at" if schema else f"{name}_expires_at")
    return [
        *(f"ALTER TABLE {quoted} ADD COLUMN {name} {COLUMNS[name]}" for name in ("about", "purge_at", "generation")),
        f"ALTER TABLE {quoted} DROP COLUMN ip, DROP COLUMN user_agent",
        f"DROP INDEX IF EXISTS {index}",
    ]


async def make_table(connection: Connection, table: str, *, unlogged: bool, partitions: int | None) -> bool:
    """Make the table, or bring it up to date, in one transaction. Returns whether it was made now.

    Raises:
        ConfigurationError: another table of that name is there, or one made by a newer Roomkey, or one that is logged
            or partitioned otherwise than asked for.
    """
    quoted, (schema, name) = quote(table), split_name(table)
    making = make_ddl(table, unlogged=unlogged, partitions=partitions)
    async with connection.transaction():
        await connection.execute(f"SELECT pg_advisory_xact_lock({LOCK_CLASS}, 0)")
        found = await connection.fetchrow(INSPECT, quoted)
        if found is not None:
            is_old = schema_of(found) == 1
            if not is_old:
                examine(found, table, rights=False)
            _compare(found, table, unlogged=unlogged, partitions=partitions)
            if is_old:  # its records get the generation that is the column's default
                making = [*_from_schema_1(quoted, schema, name), *_beside(quoted, name, "0")]
            else:
                making = _beside(quoted, name, NEW_GENERATION)
        for statement in making:
            await connection.execute(statement)
    return found is None


def _check_partitions(partitions: int) -> None:
    if not isinstance(partitions, int) or isinstance(partitions, bool) or not 2 <= partitions <= _MOST_PARTITIONS:
        raise ConfigurationError(f"partitions: {partitions!r}; it takes a whole number from 2 to {_MOST_PARTITIONS}")


def _compare(found: Any, table: str, *, unlogged: bool, partitions: int | None) -> None:
    """Raise ConfigurationError where the table is there, and is logged or partitioned otherwise than asked for."""
    if partitions not in (None, found["partitions"]):
        has = f"{found['partitions']} partitions" if found["partitions"] else "no partitions"
        raise ConfigurationError(
            f"PostgreSQL table {table!r} is there and has {has}, which cannot be changed: make another table with "
            "--table, and move the sessions there with roomkey store migrate"
        )
    if (found["persistence"] == "u") is not unlogged:
        there, wanted = ("logged", "UNLOGGED") if unlogged else ("unlogged", "LOGGED")
        how = "each of its partitions" if found["partitions"] else "it"
        raise ConfigurationError(
            f"PostgreSQL table {table!r} is there and is {there}: change {how} with "
            f"ALTER TABLE {quote(table)} SET {wanted}"
        )
