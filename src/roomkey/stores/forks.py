"""After `os.fork`: connections must not be used by two processes, nor ended by the wrong one."""

from __future__ import annotations

import os
import weakref
from typing import Protocol

__all__ = ["abandon", "at_fork"]


class ForkAware(Protocol):
    """A store, or a part of one, that takes something along into the child of a fork that it must not use there."""

    def after_fork(self) -> None:
        """In the child of a fork: let go of what is the parent's, by way of `abandon`."""
        ...


_stores: weakref.WeakSet[ForkAware] = weakref.WeakSet()
_abandoned: list[object] = []


def at_fork(store: ForkAware) -> None:
    """Call `store.after_fork()` in each child of this process."""
    _stores.add(store)


def abandon(connections: object) -> None:
    """Keep the parent's connections out of the way: to drop one is to end it."""
    _abandoned.append(connections)


def _after_fork_in_child() -> None:
    for store in list(_stores):
        store.after_fork()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork_in_child)
