"""How expired records are removed from the table."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import sqlalchemy as sa

from roomkey.stores.base import Unreadable
from roomkey.stores.sqlalchemy.damaged import all_rows
from roomkey.stores.sqlalchemy.operations import count_rows
from roomkey.stores.sqlalchemy.table import Statements

__all__ = ["purge"]

_KEYS_AT_ONCE = 500  # in one statement: Oracle takes 1,000, SQL Server 2,100


async def purge(
    ask: Callable[..., Awaitable[Any]],
    sql: Statements,
    now: float,
    limit: int,
    tell: Callable[[str, str | None], object] | None,
) -> int:
    """Remove at most `limit` expired records, and return how many went.

    Args:
        ask: runs some work with a connection.
        sql: the statements on the table.
        now: the moment, in Unix seconds.
        limit: how many records may go.
        tell: is called with the key and the user of each session that went; None: nobody asks.
    """
    found = await ask(partial(_expired, sql, now, limit, tell is not None), again=True)
    count = 0
    for start in range(0, len(found), _KEYS_AT_ONCE):
        rows = found[start : start + _KEYS_AT_ONCE]
        # Judged again: one of them may have been replaced a moment ago.
        some = {"keys": [row[0] for row in rows], "now": now}
        gone = await ask(partial(count_rows, sql.purge, some), write=True)
        count += gone
        if tell is not None and gone:  # 0: another process was first, and tells
            for key, *more in rows:
                if more and more[1]:
                    tell(key, more[0])
    return count


def _expired(
    sql: Statements, now: float, limit: int, is_told: bool, connection: sa.Connection
) -> list[tuple[Any, ...]]:
    """Return the keys of expired records. Where they are told of: also their users, and whether they are sessions."""
    parameters = {"now": now}
    if is_told and connection.dialect.name != "oracle":  # which compares no BLOB
        try:
            return all_rows(sql.expired_and_whose.limit(limit), parameters, connection)
        except Unreadable:
            pass  # a user's name is no text
    return all_rows(sql.expired.limit(limit), parameters, connection)
