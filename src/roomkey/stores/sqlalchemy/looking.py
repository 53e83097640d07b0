"""How an SQL database is watched: by looking at the keys that are of interest."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import sqlalchemy as sa

from roomkey.stores.looking import Looked, State

__all__ = ["Watched"]


class Watched(Looked):
    """The part of a store by which it is watched."""

    _ask: Callable[..., Coroutine[Any, Any, Any]]
    _clock: Callable[[], float]
    _sql: Any

    async def _states(self, keys: list[str]) -> dict[str, State]:
        parameters = {"keys": keys, "now": self._clock()}

        def look(connection: sa.Connection) -> dict[str, State]:
            rows = connection.execute(self._sql.states, parameters)
            return {row[0]: State(row[1], row[2]) for row in rows}

        found: dict[str, State] = await self._ask(look, again=True)
        return found
