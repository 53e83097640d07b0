"""Rows that are damaged: told from those that can be read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc

from roomkey.stores.base import Unreadable
from roomkey.stores.sqlalchemy.table import Statements, to_record
from roomkey.stores.text import DAMAGED

__all__ = ["all_rows", "delete_lost", "first_row", "rows_of"]

_Row = tuple[Any, ...]


def first_row(statement: sa.Executable, parameters: dict[str, Any], connection: sa.Connection) -> _Row | None:
    """Return the only row, if there is one. Raises Unreadable where a value is not of its column's type."""
    rows = all_rows(statement, parameters, connection)
    return rows[0] if rows else None


def all_rows(statement: sa.Executable, parameters: dict[str, Any], connection: sa.Connection) -> list[_Row]:
    """Return the rows. Raises Unreadable where a value is not of its column's type."""
    found = connection.execute(statement, parameters)
    try:
        return [tuple(row) for row in found]
    except (TypeError, ValueError):
        raise Unreadable(DAMAGED) from None  # the driver's words show the value


def rows_of(sql: Statements, parameters: dict[str, Any], connection: sa.Connection) -> tuple[list[_Row], list[bytes]]:
    """Return the rows of `sql.of_user` that can be read, and the keys of the others as bytes."""
    found = _one_by_one if connection.dialect.name == "sqlite" else _with_texts_as_bytes
    rows: list[_Row] = []
    lost: list[bytes] = []
    for key, row in found(sql, parameters, connection):
        if row is None or not _is_record(row):
            lost.append(key)
        else:
            rows.append(row)
    return rows, lost


def _is_record(row: _Row) -> bool:
    try:
        to_record(row[1:])
    except Unreadable:
        return False
    return True


def _one_by_one(
    sql: Statements, parameters: dict[str, Any], connection: sa.Connection
) -> Iterator[tuple[bytes, _Row | None]]:
    """Yield key and row. SQLite has a value of any type in any column, and the driver stops at the first bad one."""
    raw = _as_bytes(sql.table.c.key, connection)
    for (key,) in connection.execute(sql.of_user.with_only_columns(raw), parameters).all():
        try:
            row = first_row(sql.of_user.where(raw == key), parameters, connection)
        except (exc.DBAPIError, Unreadable):
            row = None
        yield bytes(key), row


def _with_texts_as_bytes(
    sql: Statements, parameters: dict[str, Any], connection: sa.Connection
) -> Iterator[tuple[bytes, _Row | None]]:
    """Yield key and row. The types are what the columns say, and only a text may be none."""
    columns = list(sql.of_user.selected_columns)
    texts = [isinstance(column.type, sa.String) for column in columns]
    raw = [_as_bytes(column, connection) if text else column for column, text in zip(columns, texts, strict=True)]
    for found in connection.execute(sql.of_user.with_only_columns(*raw), parameters):
        values = zip(found, texts, strict=True)
        try:
            yield bytes(found[0]), tuple(bytes(value).decode() if text and value else value for value, text in values)
        except UnicodeDecodeError:
            yield bytes(found[0]), None


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
