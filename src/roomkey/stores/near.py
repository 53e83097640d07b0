"""Records that were read a moment ago, kept in this process for as long as nobody says that they have changed.

Who says so is the store: it has `Notices`. They also say up to which moment everything was heard. A record is served
from here only while that moment is less than `near_max_age` ago. So a connection that is lost, or a process that stood
still, serves nothing old.

Leaves to the stores how they hear of changes, and to `roomkey.core.nearby` who may be served from here.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import partial
from types import CoroutineType
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

from roomkey.clock import Ticks
from roomkey.stores.base import Record
from roomkey.stores.forks import at_fork

__all__ = ["HasNotices", "Listener", "Listeners", "Near", "Notices", "elapsed", "telling", "telling_all"]

BYTES_EACH = 4096  # bytes of records that are kept for each session that may be: bounds them all together
_NEVER = float("-inf")
_OVERHEAD = 512  # bytes of a record beside its data and texts, about

_Answer = TypeVar("_Answer")

# Seconds, for spans of time. It also counts while the machine is suspended, where the system has such a clock.
elapsed: Callable[[], float] = time.monotonic
if hasattr(time, "CLOCK_BOOTTIME"):
    elapsed = partial(time.clock_gettime, time.CLOCK_BOOTTIME)


class Listener(Protocol):
    """What is told of changes, from whatever thread hears of them."""

    def forget(self, key: str) -> None:
        """The record under `key` has changed, or has gone."""
        ...

    def forget_all(self) -> None:
        """Anything may have changed."""
        ...


class Notices(Protocol):
    """What says in this process that records of a store have changed. A store has one."""

    @property
    def is_complete(self) -> bool:
        """Whether no change is left out. Otherwise a record is loaded again when it was loaded `max_age` ago."""
        ...

    def add(self, listener: Listener, max_age: float) -> None:
        """Tell a listener from now on, for as long as it is there. `max_age`: the seconds that it gives to `hold`."""
        ...

    def hold(self, max_age: float) -> bool:
        """Whether the listeners were told of all that had changed until `max_age` seconds ago. Asked for every hit."""
        ...

    def begin(self) -> None:
        """Listen, in the running event loop, where that is not done yet. Does not wait, and raises nothing."""
        ...

    async def open(self) -> None:
        """As `begin`, and return once it listens or has failed.

        Raises:
            ConfigurationError: it will never work.
        """
        ...

    async def close(self) -> None:
        """Listen no more, where it is the running event loop that does. `begin` has it begin anew."""
        ...


@runtime_checkable
class HasNotices(Protocol):
    """A store that says when records have changed."""

    def notices(self) -> Notices:
        """Return its notices, always the same ones.

        Raises:
            ConfigurationError: it has none, as it is set up.
        """
        ...


class Listeners:
    """Those who are told by one store's notices. They are not kept alive."""

    def __init__(self) -> None:
        self._all: weakref.WeakSet[Listener] = weakref.WeakSet()
        self.max_age: float = float("inf")  # seconds; the least that one of them goes by

    def add(self, listener: Listener, max_age: float) -> None:
        self._all.add(listener)
        self.max_age = min(self.max_age, max_age)

    def forget(self, key: str) -> None:
        for listener in list(self._all):
            listener.forget(key)

    def forget_all(self) -> None:
        for listener in list(self._all):
            listener.forget_all()


class Loads(Protocol):
    """A store that is asked for what is not kept."""

    def load_now(self, key: str) -> Record | CoroutineType[Any, Any, Record | None] | None:
        """Return the record, or a coroutine that does."""
        ...


class Near:
    """The records that a process keeps.

    Args:
        store: is asked for all others.
        notices: the store's.
        most: how many records at most. Together they have at most 4 KiB for each.
        max_age: seconds that a record may have been out of date when it is served.
        ticks: the clock by which records expire.
    """

    def __init__(self, store: Loads, notices: Notices, *, most: int, max_age: float, ticks: Ticks) -> None:
        self.notices: Notices = notices
        self._store, self._ticks = store, ticks
        self._most, self._most_bytes, self._max_age = most, most * BYTES_EACH, max_age
        self._largest = max(self._most_bytes // 8, BYTES_EACH)  # bytes of one record
        self._records: OrderedDict[str, Record] = OrderedDict()  # the one that was used last comes last
        self.bytes: int = 0  # of the records, about
        # By key, when the load began that may still be kept: nothing was told since. Told apart by identity.
        self._loading: dict[str, float] = {}
        self._began: dict[str, float] | None = None if notices.is_complete else {}  # by key of a record, likewise
        self._lock = threading.Lock()  # held while any of these change: notices may come in another thread
        self.hits: int = 0
        self.misses: int = 0
        notices.add(self, max_age)
        _nears.append(weakref.ref(self, _nears.remove))
        at_fork(self)

    def __len__(self) -> int:
        return len(self._records)

    def holds(self, key: str, record: Record) -> bool:
        """Whether `record` is the one that is kept, and not one that the store has just returned."""
        return self._records.get(key) is record

    def load_now(self, key: str) -> Record | CoroutineType[Any, Any, Record | None] | None:
        """Return the record that is kept under `key`, or else what the store answers: a coroutine, where it waits."""
        # First whether notices hold, then the record: in between, another thread may hear of changes.
        if not self.notices.hold(self._max_age):
            self.misses += 1
            self.notices.begin()
            return self._store.load_now(key)
        record = self._records.get(key)
        is_young = self._began is None or self._is_young(key)
        if record is not None and is_young and record.expires_at > self._ticks.time():
            self.hits += 1
            try:
                self._records.move_to_end(key)
            except KeyError:  # another thread has heard that it changed: this request came before
                pass
            return record
        self.misses += 1
        began = self._loading[key] = elapsed()
        try:
            answer = self._store.load_now(key)
        except BaseException:
            self._loading.pop(key, None)
            raise
        if type(answer) is CoroutineType:
            return cast("CoroutineType[Any, Any, Record | None]", self._load(key, began, answer))
        self._keep(key, began, answer)
        return answer

    def _is_young(self, key: str) -> bool:
        """Whether a record was loaded lately enough, where notices may leave a change out."""
        return self._began is not None and elapsed() - self._began.get(key, _NEVER) < self._max_age

    async def _load(self, key: str, began: float, operation: CoroutineType[Any, Any, Record | None]) -> Record | None:
        record: Record | None = None
        try:
            record = await operation
        finally:
            self._keep(key, began, record)
        return record

    def _keep(self, key: str, began: float, record: Record | None) -> None:
        """Keep a record that was loaded, unless a notice came meanwhile: it may be of what came after."""
        with self._lock:
            if self._loading.get(key) is not began:
                return
            del self._loading[key]
            if record is None or record.successor is not None:
                return
            size = _size(record)
            if size > self._largest:
                return
            self._drop(key)
            # A copy: by that `holds` tells it from what the store returned.
            self._records[key] = replace(record)
            if self._began is not None:
                self._began[key] = began
            self.bytes += size
            while len(self._records) > self._most or self.bytes > self._most_bytes:
                self._drop(next(iter(self._records)))

    def forget(self, key: str) -> None:
        """Ask the store when the record under `key` is needed next. A load that is under way does not count."""
        with self._lock:
            self._loading.pop(key, None)
            self._drop(key)

    def forget_all(self) -> None:
        """The same for all records."""
        with self._lock:
            self._loading.clear()
            self._records.clear()
            if self._began is not None:
                self._began.clear()
            self.bytes = 0

    def _drop(self, key: str) -> None:
        record = self._records.pop(key, None)
        if self._began is not None:
            self._began.pop(key, None)
        if record is not None:
            self.bytes -= _size(record)

    def after_fork(self) -> None:
        """In the child of a fork: begin with nothing."""
        self._lock = threading.Lock()
        self.forget_all()


def _size(record: Record) -> int:
    """Return how many bytes a record takes, about."""
    return _OVERHEAD + len(record.data) + len(record.user or "") + len(record.about)


# What this process changes itself, it knows before the store's notice comes. Keys are hashes of random IDs, so that
# each of its nears can be told of all changes, whichever store they are in.

_nears: list[weakref.ref[Near]] = []


def telling(operation: Coroutine[Any, Any, _Answer], *keys: str) -> Coroutine[Any, Any, _Answer]:
    """Return an operation on a store that has every near of this process forget the records that it changes."""
    return _named(_telling(operation, keys), operation) if _nears else operation


def telling_all(operation: Coroutine[Any, Any, _Answer]) -> Coroutine[Any, Any, _Answer]:
    """The same for an operation that may change any record."""
    return _named(_telling(operation, None), operation) if _nears else operation


def _named(wrapped: Coroutine[Any, Any, _Answer], operation: object) -> Coroutine[Any, Any, _Answer]:
    """Return a coroutine with the name of the operation that it does: `stores.timed` asks for it."""
    cast(Any, wrapped).__name__ = getattr(operation, "__name__", "")
    return wrapped


async def _telling(operation: Coroutine[Any, Any, _Answer], keys: tuple[str, ...] | None) -> _Answer:
    try:
        return await operation
    finally:
        _tell(keys)  # also where nobody knows whether it was done


def _tell(keys: tuple[str, ...] | None) -> None:
    for each in list(_nears):
        near = each()
        if near is None:
            continue
        if keys is None:
            near.forget_all()
        for key in keys or ():
            near.forget(key)
