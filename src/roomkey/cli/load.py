"""`roomkey store bench`: operations a second of a store, on sessions that are made for it and removed again."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from typing import Any

from roomkey.stores.base import Record, Store

__all__ = ["measured"]

_LIVES = 600.0  # seconds, in case that the command is killed
_DATA = bytes([1]) + bytes(300)  # what a small session takes; nobody opens it


async def measured(store: Store, sessions: int, at_once: int, done: Callable[[int], None]) -> list[dict[str, Any]]:
    """Return what each operation does a second, alone and with several under way.

    Args:
        store: is open.
        sessions: how many are made.
        at_once: operations under way at a time.
        done: is told how many operations were done.
    """
    alone = await _all(store, sessions, 1, done)
    together = await _all(store, sessions, at_once, done)
    return [{"operation": name, "alone": alone[name], "at_once": together[name]} for name in alone]


async def _all(store: Store, sessions: int, at_once: int, done: Callable[[int], None]) -> dict[str, int]:
    now = time.time()
    record = Record(_DATA, 1, now, now + _LIVES)
    keys = [secrets.token_hex(32) for _ in range(sessions)]
    next_one = replace(record, version=2)
    operations: dict[str, Callable[[str], Awaitable[object]]] = {
        "create": lambda key: store.create(key, record),
        "load": store.load,
        "update": lambda key: store.update(key, next_one, version=1),
        "delete": store.delete,
    }
    rates = {}
    for name, operation in operations.items():
        begun = time.perf_counter()
        await _at_once(operation, keys, at_once, done)
        rates[name] = round(sessions / (time.perf_counter() - begun))
    return rates


async def _at_once(
    operation: Callable[[str], Awaitable[object]], keys: Iterable[str], at_once: int, done: Callable[[int], None]
) -> None:
    waiting = iter(keys)

    async def work() -> None:
        for key in waiting:
            await operation(key)
            done(1)

    async with asyncio.TaskGroup() as workers:
        for _ in range(at_once):
            workers.create_task(work())
