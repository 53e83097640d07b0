"""When connections are made anew: their server answers, and refuses changes. It may have become a replica, and the
address that the store was given may lead to another server by now, which only new connections find.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

__all__ = ["Renewal"]

_EVERY = 0.25  # seconds, at most: a server that goes on refusing must still have time for reads


class Renewal:
    """For the connections of one event loop.

    Args:
        renew: lets no connection that there is now be used again.
    """

    def __init__(self, renew: Callable[[], Awaitable[None]]) -> None:
        self.count: int = 0  # how often it was done
        self._renew = renew
        self._done_at = -_EVERY  # on time.monotonic
        self._task: asyncio.Task[None] | None = None  # the next one

    async def after_refusal(self, count: int) -> None:
        """Renew the connections, once for all who ask meanwhile. What is refused again after it, is refused for good.

        Args:
            count: the `count` when the refused statement was sent.
        """
        if count != self.count:
            return
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._when_due())
        await asyncio.shield(self._task)

    async def _when_due(self) -> None:
        try:
            await asyncio.sleep(max(0.0, self._done_at + _EVERY - time.monotonic()))
            self._done_at = time.monotonic()
            self.count += 1
            await self._renew()
        finally:
            self._task = None
