"""How expired records are removed from the table, a few hundred at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from roomkey.stores.postgres.connections import Rows
from roomkey.stores.rows import tell_of

__all__ = ["purge"]

_LOOKED_AT = 500  # records that one statement of a purge looks at, at least
_PURGES = 0.5  # seconds for which one purge goes on where it meets nothing but live records


async def purge(
    ask: Callable[..., Awaitable[Rows]],
    statement: str,
    clock: Callable[[], float],
    limit: int,
    tell: Callable[[str, str | None], object] | None,
) -> int:
    """Remove at most `limit` expired records, and return how many went.

    Args:
        ask: runs a statement with its parameters.
        statement: `Statements.purge`.
        clock: returns Unix seconds.
        limit: how many records may go.
        tell: is called with the key and the user of each session that went; None: nobody asks.
    """
    gone, look_at, loop = 0, max(limit, _LOOKED_AT), asyncio.get_running_loop()
    until = loop.time() + _PURGES
    while gone < limit and loop.time() < until:  # each a transaction of its own, and so a short one
        rows = await ask(statement, clock(), limit - gone, look_at, tell is not None)
        removed, put_off, sessions = rows[0]
        gone += removed
        if tell is not None:
            tell_of(sessions, tell)
        if removed + put_off < look_at:
            break
    return gone
