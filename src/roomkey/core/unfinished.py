"""Commits that go on though their requests were cancelled: a stream's client has gone, say."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio  # at run time it is imported where it is used: it is half of the time that `import roomkey` takes

__all__ = ["Unfinished"]


class Unfinished:
    """The commits of one configuration that are tasks of their own.

    Args:
        patience: seconds for which the end of a process waits for them.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self.tasks: set[asyncio.Future[bool]] = set()

    def begin(self, work: Coroutine[Any, Any, bool]) -> asyncio.Future[bool]:
        """Run a commit as a task of its own, and return it."""
        import asyncio

        task = asyncio.ensure_future(work)
        self.tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, commit: asyncio.Future[bool]) -> None:
        self.tasks.discard(commit)
        if not commit.cancelled():
            commit.exception()  # heard: a request that was cancelled does not ask any more

    async def finish(self) -> None:
        """Wait until those of this event loop are done, but not for ever."""
        if self.tasks:
            import asyncio

            loop = asyncio.get_running_loop()
            # Those of another event loop cannot be awaited here, and after a fork there are the parent's.
            here = [commit for commit in list(self.tasks) if commit.get_loop() is loop]
            if here:
                await asyncio.wait(here, timeout=self._patience)
