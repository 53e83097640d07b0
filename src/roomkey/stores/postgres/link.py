"""What a store has in one event loop: connections, and the loads that share statements."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from roomkey.errors import ConfigurationError, StoreUnavailable
from roomkey.stores.base import Record, Unreadable
from roomkey.stores.postgres.connections import Connections
from roomkey.stores.renewal import Renewal
from roomkey.stores.sharing import RoundTrips

__all__ = ["Link"]


class Link:
    """Connections of one event loop, and the loads that share statements.

    Args:
        connections: where connections come from.
        load: loads the records under some keys; None for a key without one, an exception for one that failed.
    """

    def __init__(
        self,
        connections: Connections,
        load: Callable[[Link, list[str]], Awaitable[Sequence[Record | Exception | None]]],
    ) -> None:
        self.connections = connections
        # A lone load may be one only: a second connection is made for two loads or more.
        self.loads: RoundTrips[str, Record | None] = RoundTrips(partial(load, self), _anew, alone=1)
        self.opening: asyncio.Lock = asyncio.Lock()  # held while the table is looked at
        self.renewal: Renewal = Renewal(connections.renew)

    async def close(self) -> None:
        """Wait for the statements that are under way, and close the connections."""
        await self.connections.close()

    def terminate(self) -> None:
        """Close the connections at once."""
        self.connections.terminate()


def _anew(error: Exception) -> Exception:
    if isinstance(error, StoreUnavailable | ConfigurationError | Unreadable):
        return type(error)(str(error))
    return StoreUnavailable(type(error).__name__)
