"""What threads are made of, as it is without gevent's replacements: these belong to one thread."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any, Protocol

__all__ = ["Lock", "is_patched", "make_lock", "original"]


class Lock(Protocol):
    """A lock of the module `_thread`."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool: ...
    def release(self) -> None: ...
    def __enter__(self) -> bool: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def is_patched() -> bool:
    """Whether gevent has replaced threads by greenlets."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


def original(name: str) -> Any:
    """Return what the module `_thread` has under a name without gevent's patches."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None:
        return monkey.get_original("_thread", name)
    return getattr(sys.modules["_thread"], name)


def make_lock() -> Lock:
    """Return a lock between real threads."""
    lock: Lock = original("allocate_lock")()
    return lock
