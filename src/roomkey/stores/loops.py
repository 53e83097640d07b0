"""What a store has in one event loop, and when it is given back.

Connections belong to the event loop that made them, so a store that is used in several loops has a set of them in each.
A set is made when the store is first used in a loop. It is closed by the store's `close`, or by the loop itself when it
ends, for apps without a lifespan and for tests.

Leaves to the stores what the set is.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from typing import Generic, Protocol, TypeVar

from roomkey.errors import ConfigurationError
from roomkey.stores.forks import abandon, at_fork

__all__ = ["LoopRegistry", "LoopResources", "OneLoop", "is_of_another_loop"]


class OneLoop:
    """The event loop that something of the app's own belongs to: the one in which it was used first.

    Args:
        what: it is, for people.
        way_out: what to do instead.
    """

    def __init__(self, what: str, way_out: str) -> None:
        self.fault: str = f"store: {what} was first used in another event loop, where its connections are; {way_out}"
        self._loop: asyncio.AbstractEventLoop | None = None

    def enter(self) -> None:
        """Note the running loop. Raises ConfigurationError where it is another one."""
        loop = asyncio.get_running_loop()
        if self._loop is not None and self._loop is not loop:
            raise ConfigurationError(self.fault)
        self._loop = loop


def is_of_another_loop(error: Exception) -> bool:
    """Whether asyncio says that a connection belongs to another loop, or to one that has ended."""
    words = str(error)
    return isinstance(error, RuntimeError) and (
        "attached to a different loop" in words or "Event loop is closed" in words
    )


class LoopResources(Protocol):
    """What a store has in one event loop: connections, and the operations that use them."""

    async def close(self) -> None:
        """Give everything back. Runs in the loop, at the latest while it shuts down."""
        ...

    def terminate(self) -> None:
        """Give back what can be given back without the loop: it was closed and never ran `close`."""
        ...


_Resources = TypeVar("_Resources", bound=LoopResources)


class LoopRegistry(Generic[_Resources]):
    """The resources of one store, by event loop. Loops may run in several threads at once.

    Args:
        make: makes them for the running loop. It must not wait, and runs under a lock.
    """

    def __init__(self, make: Callable[[], _Resources]) -> None:
        self.by_loop: dict[asyncio.AbstractEventLoop, _Resources] = {}  # stores read it on each operation
        self._make = make
        self._endings: dict[asyncio.AbstractEventLoop, AsyncGenerator[None, None]] = {}
        self._lock = threading.Lock()  # held while the two dicts change
        at_fork(self)

    def enter(self) -> _Resources:
        """Return the running loop's resources. They are made if there are none."""
        loop = asyncio.get_running_loop()
        with self._lock:
            found = self.by_loop.get(loop)
            if found is not None:
                return found
            self._drop_closed()
            made = self._make()
            ending = self._until_the_loop_ends(loop, made)
            self.by_loop[loop], self._endings[loop] = made, ending
        with suppress(StopIteration):  # it yields at once
            ending.__anext__().send(None)
        return made

    async def close(self) -> None:
        """Close the running loop's resources. Those of another loop are closed when that one ends."""
        with self._lock:
            self._drop_closed()
            ending = self._endings.get(asyncio.get_running_loop())
        if ending is not None:
            await ending.aclose()

    def after_fork(self) -> None:
        """In the child of a fork: everything belongs to the parent."""
        self._lock = threading.Lock()
        abandon((self.by_loop.copy(), self._endings))
        self.by_loop.clear()
        self._endings = {}

    async def _until_the_loop_ends(
        self, loop: asyncio.AbstractEventLoop, resources: _Resources
    ) -> AsyncGenerator[None, None]:
        # An event loop that ends closes the asynchronous generators that were begun in it, while it can still wait.
        # It offers no other hook.
        try:
            yield
        finally:
            if self._leave(loop, resources):
                await resources.close()

    def _leave(self, loop: asyncio.AbstractEventLoop, resources: _Resources) -> bool:
        """Take the resources out of the registry; return whether they were there. After a fork they are not."""
        with self._lock:
            if self.by_loop.get(loop) is not resources:
                return False
            del self.by_loop[loop], self._endings[loop]
            return True

    def _drop_closed(self) -> None:
        """Let go of the loops that were closed without shutting down their asynchronous generators."""
        for loop in [loop for loop in self.by_loop if loop.is_closed()]:
            resources, _ = self.by_loop.pop(loop), self._endings.pop(loop)
            with suppress(RuntimeError):  # a driver may want to tell the loop
                resources.terminate()
