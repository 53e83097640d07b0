"""What says in a process that the file has changed: SQLite's counter of what other connections have committed.

It is asked once in a millisecond, while records are served from memory: to ask takes longer than to serve one. It does
not say what has changed. Whatever it is, all records are forgotten.

What this process's event loops write themselves does not count there. The store says it.
"""

from __future__ import annotations

from collections.abc import Callable

from roomkey.stores.near import Listener, Listeners, elapsed

__all__ = ["Changes"]

_LOOK_EVERY = 0.001  # seconds


class Changes:
    """The notices of one store.

    Args:
        version: returns the counter, as something to be compared; None: it cannot be asked at the moment.
    """

    def __init__(self, version: Callable[[], object]) -> None:
        self.is_complete: bool = True
        self._ask = version
        self._version: object = None
        self._looked = float("-inf")  # when, on `elapsed`
        self._listeners = Listeners()

    def add(self, listener: Listener, max_age: float) -> None:
        self._listeners.add(listener, max_age)

    def hold(self, max_age: float) -> bool:
        now = elapsed()
        if now - self._looked < _LOOK_EVERY:
            return True
        version = self._ask()
        if version is None:
            return False
        if version != self._version:
            self._listeners.forget_all()
            self._version = version  # after that: another thread must not find the new one beside old records
        self._looked = now
        return True

    def begin(self) -> None:
        """Do nothing: the store opens the file when it is first asked."""

    async def open(self) -> None:
        """Do nothing."""

    async def close(self) -> None:
        """Do nothing."""

    def wrote(self, keys: list[str]) -> None:
        """An event loop of this process has changed records."""
        for key in keys:
            self._listeners.forget(key)
