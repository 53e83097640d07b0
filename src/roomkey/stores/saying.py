"""What a store's class says of how it answers. It does not count for a subclass that has operations of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from roomkey.stores.base import Record, Store

__all__ = ["OPERATIONS", "immediate", "says"]

OPERATIONS = frozenset({"load", "create", "update", "rotate", "touch", "delete"})


def says(store: object, what: str) -> bool:
    """Whether the store says so itself; not where a subclass has another operation, and says nothing of it."""
    for kind in type(store).__mro__:
        if what in vars(kind):
            return bool(vars(kind)[what])
        if not OPERATIONS.isdisjoint(vars(kind)):
            return False
    return False


def immediate(store: Store) -> Callable[[str], Record | None] | None:
    """Return the store's `load_now`; None where it has none, or where a subclass has another `load`."""
    for kind in type(store).__mro__:
        if "load_now" in vars(kind):
            return cast("Callable[[str], Record | None] | None", getattr(store, "load_now", None))
        if "load" in vars(kind):
            return None
    return None
