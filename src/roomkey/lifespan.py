"""The time during which an app runs: its store is open, and expired sessions are removed from time to time."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from roomkey.core.committer import Committer
from roomkey.errors import StoreUnavailable

if TYPE_CHECKING:
    import asyncio  # at run time it is imported where it is used: it is half of the time that `import roomkey` takes

__all__ = ["Lifespan"]


class Lifespan:
    """Of one manager. The first that enters opens the store, and the last that leaves closes it.

    Args:
        committer: whose store it is.
    """

    def __init__(self, committer: Committer) -> None:
        self._committer = committer
        self._entered = 0  # how often
        self._purging: asyncio.Task[None] | None = None

    async def enter(self) -> None:
        """Open the store. Raises ConfigurationError; a store that does not answer is logged, and raises nothing."""
        import asyncio

        registry = self._committer.registry
        if self._entered == 0:
            with contextlib.suppress(StoreUnavailable):  # logged; requests are answered 503 until it is back
                await registry.store.open()
        self._entered += 1
        if self._entered == 1 and registry.is_purged:  # another one may have entered meanwhile
            self._purging = asyncio.create_task(registry.keep_purging(), name="roomkey: purge")

    async def leave(self) -> None:
        """Close the store, once commits that go on without their requests have come to their end."""
        import asyncio

        self._entered -= 1
        if self._entered > 0:
            return
        purging, self._purging = self._purging, None
        if purging is not None:
            purging.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await purging
        await self._committer.finish()
        await self._committer.registry.store.close()
