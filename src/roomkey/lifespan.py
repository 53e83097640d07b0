"""The time during which an app runs: its store is open, and expired sessions are removed from time to time."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from roomkey.core.committer import Committer
from roomkey.errors import StoreUnavailable

if TYPE_CHECKING:
    import asyncio  # at run time it is imported where it is used: it is half of the time that `import roomkey` takes

__all__ = ["Lifespan"]


class _Here:
    """What there is in one event loop. Stores have their connections in one, and a task belongs to one."""

    def __init__(self, lock: asyncio.Lock) -> None:
        self.lock = lock  # held while the store is opened or closed
        self.entered = 0  # how often
        self.purging: asyncio.Task[None] | None = None


class Lifespan:
    """Of one manager. In each event loop, the first that enters opens the store, and the last that leaves closes it.

    Args:
        committer: whose store it is.
    """

    def __init__(self, committer: Committer) -> None:
        self._committer = committer
        self._here: WeakKeyDictionary[asyncio.AbstractEventLoop, _Here] = WeakKeyDictionary()

    async def enter(self) -> None:
        """Open the store. Raises ConfigurationError; a store that does not answer is logged, and raises nothing."""
        import asyncio

        registry, here = self._committer.registry, self._in_this_loop()
        async with here.lock:
            if here.entered == 0:
                with contextlib.suppress(StoreUnavailable):  # logged; requests are answered 503 until it is back
                    await registry.store.open()
                if registry.is_purged:
                    here.purging = asyncio.create_task(registry.keep_purging(), name="roomkey: purge")
            here.entered += 1

    async def leave(self) -> None:
        """Close the store, once commits that go on without their requests have come to their end, and events were told.

        Raises:
            RuntimeError: nobody has entered in this event loop.
        """
        import asyncio

        here = self._in_this_loop()
        async with here.lock:
            if here.entered == 0:
                raise RuntimeError("a SessionManager is left in the event loop in which it was entered")
            here.entered -= 1
            if here.entered > 0:
                return
            purging, here.purging = here.purging, None
            if purging is not None:
                purging.cancel()
                await asyncio.gather(purging, return_exceptions=True)
            if self._committer.live is not None:
                self._committer.live.close()
            await self._committer.finish()
            await self._committer.reporter.deliveries.drain()
            await self._committer.registry.store.close()

    def _in_this_loop(self) -> _Here:
        import asyncio

        loop = asyncio.get_running_loop()
        here = self._here.get(loop)
        if here is None:
            here = self._here[loop] = _Here(asyncio.Lock())
        return here
