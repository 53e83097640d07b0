"""Notices of a store that can be watched, and whose notices of changes may come late, or not at all.

They make most reads current within moments. What bounds the others is that each record is loaded again in time.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from roomkey.stores.base import Notice, Watch, What
from roomkey.stores.forks import abandon, at_fork
from roomkey.stores.near import Listener, Listeners

__all__ = ["Hints"]


class Hints:
    """The notices of one store, for all event loops of a process. One of them watches.

    Args:
        store: the store.
    """

    def __init__(self, store: Watch) -> None:
        self.is_complete: bool = False
        self._store = store
        self._listeners = Listeners()
        self._lock = threading.Lock()  # held while it is decided which event loop watches
        self._forget()
        at_fork(self)

    def _forget(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None  # that watches; None: none
        self._leave: Callable[[], None] | None = None
        self._stands = False

    def add(self, listener: Listener, max_age: float) -> None:
        self._listeners.add(listener, max_age)
        self._store.publish(changes=True)

    def hold(self, max_age: float) -> bool:
        return self._stands

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
        self._leave = self._store.watch(self._tell, tuple, changes=True)

    async def open(self) -> None:
        self.begin()

    async def close(self) -> None:
        if self._loop is not asyncio.get_running_loop():
            return
        leave = self._leave
        self._forget()
        self._listeners.forget_all()
        if leave is not None:
            leave()

    def after_fork(self) -> None:
        """In the child of a fork: the connection is the parent's."""
        abandon((self._loop, self._leave))
        self._lock = threading.Lock()
        self._forget()

    def _tell(self, notice: Notice) -> None:
        if notice.what in (What.ENDED, What.MOVED, What.CHANGED):
            self._listeners.forget(notice.key)
            return
        self._stands = notice.what is What.STANDS or (self._stands and notice.what is not What.LOST)
        self._listeners.forget_all()
