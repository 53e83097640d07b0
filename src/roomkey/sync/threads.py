"""Waiting in one thread for what another one does, whether gevent has replaced threads by greenlets or not.

Its replacements belong to one thread. Between real threads the originals are needed.
"""

from __future__ import annotations

import contextlib
from types import TracebackType
from typing import Protocol, Self

from roomkey.sync.originals import is_patched, make_lock

__all__ = ["ThreadWaiter", "Waiter", "waiter_here"]


class Waiter(Protocol):
    """Waits once. It is used inside a `with`, in the thread that waits."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def wait(self) -> None:
        """Return once `wake` has been called, before or meanwhile."""
        ...

    def wake(self) -> None:
        """Say that there is no more to wait for. It may be called from any thread, too often and too late."""
        ...


class ThreadWaiter:
    """Holds up its thread."""

    def __init__(self) -> None:
        self._lock = make_lock()
        self._lock.acquire()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def wait(self, timeout: float = -1) -> None:
        """As a `Waiter` does, at most that many seconds; negative: for ever."""
        self._lock.acquire(timeout=timeout)

    def wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # it is awake already
            self._lock.release()


def waiter_here() -> Waiter:
    """Return what waits in this thread."""
    if is_patched():
        from roomkey.sync import greenlets

        if greenlets.may_wait():
            return greenlets.GreenletWaiter()
    return ThreadWaiter()
