"""What says in a process that keys in a cluster have changed: one connection to each primary.

Slots move, and primaries fail over. So a change may be told to nobody: by a node that got its first slot a moment ago,
say. That is why each record is loaded again in time (`is_complete`).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterable

from roomkey.stores.forks import abandon, at_fork
from roomkey.stores.near import Listener, Listeners
from roomkey.stores.redis.tracking import Tracking

__all__ = ["ClusterTracking"]

_LOOK_EVERY = 5.0  # seconds between two looks which primaries there are
_LOOK_AGAIN = 0.5  # seconds until the next one where they cannot be found, or one is not heard


class ClusterTracking:
    """The notices of one cluster, for all event loops of a process. One of them has the connections.

    Args:
        primaries: returns the names of all nodes that have slots.
        track: returns the notices of one node.
        enter: is called in the event loop that gets the connections, so that they are closed with the loop.
    """

    def __init__(
        self,
        primaries: Callable[[], Awaitable[Iterable[str]]],
        track: Callable[[str], Tracking],
        enter: Callable[[], None],
    ) -> None:
        self.is_complete: bool = False
        self._primaries, self._track, self._enter = primaries, track, enter
        self._listeners = Listeners()
        self._lock = threading.Lock()  # held while it is decided which event loop has the connections
        self._forget()
        at_fork(self)

    def _forget(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None  # that has the connections; None: none
        self._nodes: dict[str, Tracking] = {}
        self._looking: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def add(self, listener: Listener, max_age: float) -> None:
        self._listeners.add(listener, max_age)

    def hold(self, max_age: float) -> bool:
        nodes = self._nodes
        return bool(nodes) and all(node.hold(max_age) for node in nodes.values())

    def begin(self) -> None:
        loop = self._loop
        if loop is not None and not loop.is_closed():
            return
        with self._lock:
            if self._loop is not loop:
                return
            self._listeners.forget_all()
            self._forget()
            self._loop = asyncio.get_running_loop()
        self._enter()
        self._look()

    async def open(self) -> None:
        self.begin()
        if self._loop is asyncio.get_running_loop() and self._looking is not None:
            await asyncio.wait([self._looking])
            for node in list(self._nodes.values()):
                await node.open()

    async def close(self) -> None:
        if self._loop is not asyncio.get_running_loop():
            return
        nodes, looking, timer = self._nodes, self._looking, self._timer
        self._forget()
        self._listeners.forget_all()
        if timer is not None:
            timer.cancel()
        if looking is not None:
            looking.cancel()
            await asyncio.wait([looking])
        for node in nodes.values():
            await node.close()

    def after_fork(self) -> None:
        """In the child of a fork: the connections are the parent's."""
        abandon((self._loop, self._nodes, self._looking, self._timer))
        self._lock = threading.Lock()
        self._forget()

    # What the nodes tell.

    def forget(self, key: str) -> None:
        self._listeners.forget(key)

    def forget_all(self) -> None:
        self._listeners.forget_all()

    # Which nodes there are.

    def _look(self) -> None:
        if self._loop is not None:
            self._looking = self._loop.create_task(self._find())

    async def _find(self) -> None:
        wait = _LOOK_EVERY
        try:
            names = set(await self._primaries())
        except Exception:  # the store's own operations say what is wrong
            names, wait = set(self._nodes), _LOOK_AGAIN
        gone = [self._nodes.pop(name) for name in set(self._nodes) - names]
        for name in names - set(self._nodes):
            node = self._nodes[name] = self._track(name)
            node.add(self, self._listeners.max_age)
            node.begin()
        for node in gone:
            await node.close()
        if not self.hold(self._listeners.max_age):
            wait = _LOOK_AGAIN
        if self._loop is not None:
            self._timer = self._loop.call_later(wait, self._look)
