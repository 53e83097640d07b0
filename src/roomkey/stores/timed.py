"""A guarded store that says how long each operation took and how it ended: where somebody hears of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from types import CoroutineType
from typing import Any, TypeVar, cast

from roomkey.errors import StoreUnavailable
from roomkey.events import Event, Outcome, StoreAsked
from roomkey.stores.base import Conflict, Record, Store, Unreadable
from roomkey.stores.guard import GuardedStore, Kind

__all__ = ["TimedStore"]

_Answer = TypeVar("_Answer")
_NAMES = frozenset(
    {"load", "create", "update", "rotate", "touch", "delete", "of_user", "scan", "discard_unreadable", "wipe", "purge"}
    | {"open"}
)


class TimedStore(GuardedStore):
    """As `GuardedStore`.

    Args:
        hear: is called with a `StoreAsked` for each operation.
    """

    def __init__(
        self,
        store: Store,
        timeout: float,
        tell: Callable[[Event], None],
        is_heard: Callable[[], bool],
        hear: Callable[[StoreAsked], None],
    ) -> None:
        super().__init__(store, timeout, tell, is_heard)
        self._hear = hear

    def load_now(self, key: str) -> Record | CoroutineType[Any, Any, Record | None] | None:
        began = time.perf_counter()
        try:
            answer = super().load_now(key)
        except BaseException as error:
            self._note("load", began, error)
            raise
        if type(answer) is CoroutineType:
            return cast("CoroutineType[Any, Any, Record | None]", self._rest_of("load", began, answer))
        self._note("load", began)
        return answer

    def start_change(self, operation: Coroutine[Any, Any, None]) -> CoroutineType[Any, Any, None] | None:
        name, began = _name_of(operation), time.perf_counter()
        try:
            rest = super().start_change(operation)
        except BaseException as error:
            self._note(name, began, error)
            raise
        if rest is not None:
            return cast("CoroutineType[Any, Any, None]", self._rest_of(name, began, rest))
        self._note(name, began)
        return None

    async def _within(self, operation: Coroutine[Any, Any, _Answer], kind: Kind = Kind.READ) -> _Answer:
        return await self._rest_of(_name_of(operation), time.perf_counter(), super()._within(operation, kind))

    async def _rest_of(self, name: str, began: float, rest: Coroutine[Any, Any, _Answer]) -> _Answer:
        try:
            answer = await rest
        except BaseException as error:
            self._note(name, began, error)
            raise
        self._note(name, began)
        return answer

    def _note(self, name: str, began: float, error: BaseException | None = None) -> None:
        self._hear(StoreAsked(type(self.store).__name__, name, _outcome_of(error), time.perf_counter() - began))


def _name_of(operation: object) -> str:
    """Return the name of the method that an operation is a call of."""
    name = str(getattr(operation, "__name__", "")).lstrip("_")
    name = "purge" if name == "purge_telling" else name
    return name if name in _NAMES else "other"


def _outcome_of(error: BaseException | None) -> Outcome:
    if error is None:
        return "ok"
    if isinstance(error, Conflict):
        return "conflict"
    if isinstance(error, Unreadable):
        return "unreadable"
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        return "cancelled"
    late = isinstance(error, StoreUnavailable) and isinstance(error.__cause__, TimeoutError)
    return "timeout" if late else "failed"
