"""Rows whose text is damaged: told from those that can be read, by asking for each text as bytes."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from roomkey.stores.sqlalchemy.table import Statements

__all__ = ["delete_lost", "rows_of"]

_Row = tuple[Any, ...]


def rows_of(sql: Statements, parameters: dict[str, Any], connection: sa.Connection) -> tuple[list[_Row], list[bytes]]:
    """Return the rows of `sql.of_user` that can be read, and the keys of the others as bytes."""
    columns = list(sql.of_user.selected_columns)
    texts = [isinstance(column.type, sa.String) for column in columns]
    raw = [_as_bytes(column, connection) if text else column for column, text in zip(columns, texts, strict=True)]
    rows: list[_Row] = []
    lost: list[bytes] = []
    for found in connection.execute(sql.of_user.with_only_columns(*raw), parameters):
        try:
            rows.append(
                tuple(
                    bytes(value).decode() if text and value is not None else value
                    for value, text in zip(found, texts, strict=True)
                )
            )
        except UnicodeDecodeError:
            lost.append(bytes(found[0]))
    return rows, lost


def delete_lost(sql: Statements, parameters: dict[str, Any], connection: sa.Connection) -> int:
    """Delete the rows of `sql.of_user` that cannot be read; return how many they were."""
    _, lost = rows_of(sql, parameters, connection)
    if lost:
        condition = sql.of_user.whereclause
        assert condition is not None
        key = _as_bytes(sql.table.c.key, connection)
        connection.execute(sa.delete(sql.table).where(condition, key.in_(lost)), parameters)
    return len(lost)


def _as_bytes(column: sa.ColumnElement[Any], connection: sa.Connection) -> sa.ColumnElement[Any]:
    """Return what the database holds. PostgreSQL would take a backslash in a text for a sign of its own."""
    if connection.dialect.name == "postgresql":
        return sa.func.textsend(sa.cast(column, sa.Text), type_=sa.LargeBinary)
    return sa.cast(column, sa.LargeBinary)
