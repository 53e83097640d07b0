"""The tasks of one request: they share its session, and save and refresh it one after the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from roomkey.core.committer import Committer
from roomkey.core.loaded import NO_DRAFT
from roomkey.core.state import RequestState
from roomkey.errors import StoreUnavailable

if TYPE_CHECKING:
    import asyncio  # at run time it is imported where it is used: it is half of the time that `import roomkey` takes

__all__ = ["Tasks"]


class Tasks(RequestState):
    """What one request knows of its session, for one task at a time.

    It uses no lock, because each write would have to make one.
    """

    committer: Committer
    trouble: StoreUnavailable | None = None  # what the handler was told last, when it asked for something itself
    waiting: deque[asyncio.Future[None]] | None = None  # tasks that wait until another has saved, in this order

    async def enter(self) -> None:
        """Wait until no other task saves or refreshes. Raises StoreUnavailable when that takes too long."""
        if self.under_way is not None:
            import asyncio

            turn = asyncio.get_running_loop().create_future()
            if self.waiting is None:
                self.waiting = deque()
            self.waiting.append(turn)
            seconds = self.committer.config.store_timeout
            try:
                async with asyncio.timeout(seconds):
                    try:
                        await turn
                    except asyncio.CancelledError:
                        if turn.done() and not turn.cancelled():  # it came in the same moment
                            self.leave()
                        raise
            except TimeoutError as error:
                raise StoreUnavailable(
                    f"the session was not saved within {seconds:g} s (store_timeout): other tasks of this request were "
                    "saving it"
                ) from error
        self.under_way = NO_DRAFT

    async def in_turn(self, work: Callable[[], Awaitable[None]]) -> None:
        """Ask the store for something while no other task saves or refreshes. Raises what `work` raises."""
        try:
            await self.enter()
            try:
                await work()
            finally:
                self.leave()
        except StoreUnavailable as error:
            self.trouble = error
            raise
        self.trouble = None

    def leave(self) -> None:
        """Let the next task in."""
        while self.waiting:
            turn = self.waiting.popleft()
            if not turn.done():
                self.under_way = NO_DRAFT
                turn.set_result(None)
                return
        self.under_way = None
