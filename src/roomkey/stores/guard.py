"""Store operations under a clock.

A store that is down, slow or raises becomes a `StoreUnavailable`, logged once an outage. Nothing is refused because of
an outage: each operation is tried.
"""

from __future__ import annotations

import enum
import logging
import os.path
import time
from collections.abc import Callable, Collection, Coroutine, Generator
from functools import cached_property
from types import CoroutineType, coroutine
from typing import Any, TypeVar, cast

from roomkey.errors import ConfigurationError, SessionDataError, StoreUnavailable
from roomkey.event_loop import asyncio_is_missing
from roomkey.events import Event, Expired, OutageBegan, OutageEnded
from roomkey.stores.base import (
    Conflict,
    Discard,
    Lifespan,
    Notice,
    Purge,
    Record,
    Scan,
    Silent,
    Store,
    TellingPurge,
    Unreadable,
    UserIndex,
    Watch,
    Wipe,
    shown,
)
from roomkey.stores.cookie import CookieStore
from roomkey.stores.near import HasNotices, Near, telling, telling_all
from roomkey.stores.saying import OPERATIONS, immediate, says

__all__ = ["SETTLING", "GuardedStore", "Kind", "check_near"]

_log = logging.getLogger("roomkey")

SETTLING = 0.2  # seconds into an outage, or after the last refused change, before an answer may end it
_CHANGES_AGAIN = 60.0  # seconds without a refused change, after which an answer to a read ends an outage of changes

_Answer = TypeVar("_Answer")
_Asked = Coroutine[Any, Any, _Answer]


_ANSWERED = object()  # in the place of an operation: the store was asked by a plain call


class Kind(enum.Enum):
    """What an operation asks of a store; one that is read-only or full does not do all of it."""

    READ = enum.auto()
    CHANGE = enum.auto()
    REMOVAL = enum.auto()  # needs no room: done, it says nothing of changes


class GuardedStore:
    """A store made of a store: the same operations, each with a time limit.

    Args:
        store: the store itself.
        timeout: seconds that one operation may take.
        tell: is told of outages, and of what a purge removes where `is_heard` says that anybody hears it.
    """

    def __init__(
        self,
        store: Store,
        timeout: float,
        tell: Callable[[Event], None] | None = None,
        is_heard: Callable[[], bool] | None = None,
    ) -> None:
        self.store = store
        self.waits: bool = isinstance(store, Lifespan)  # or as soon as an operation did; one in memory never does
        self._load_now = immediate(store)
        self._own_attributes = getattr(store, "__dict__", {})  # a method may be replaced in the store itself
        self._tell, self._is_heard = tell, is_heard
        self._timeout = timeout
        self._down = False
        self._down_since = 0.0  # on time.monotonic
        self.near: Near | None = None  # what keeps records of this store; None: nothing does
        self._phase = 0  # how many outages began or ended so far
        self._only_changes = False  # whether this outage has refused nothing but changes so far
        self._change_refused = 0.0  # when the last one was, on time.monotonic

    # Not `async def`: one coroutine less on the way of every request.

    def load(self, key: str) -> _Asked[Record | None]:
        return self._within(self.store.load(key))

    def create(self, key: str, record: Record) -> _Asked[None]:
        return self._within(self.creating(key, record), Kind.CHANGE)

    def update(self, key: str, record: Record, *, version: int) -> _Asked[None]:
        kind = Kind.CHANGE if record.data else Kind.REMOVAL  # no data: the session ends
        return self._within(self.updating(key, record, version=version), kind)

    def rotate(self, key: str, new_key: str, record: Record, tombstone: Record, *, version: int) -> _Asked[None]:
        return self._within(self.rotating(key, new_key, record, tombstone, version=version), Kind.CHANGE)

    def touch(self, key: str, expires_at: float) -> _Asked[bool]:
        return self._within(telling(self.store.touch(key, expires_at), key), Kind.CHANGE)

    def delete(self, key: str) -> _Asked[None]:
        return self._within(telling(self.store.delete(key), key), Kind.REMOVAL)

    # The same, not begun: for `start_change` and `run`.

    def creating(self, key: str, record: Record) -> Coroutine[Any, Any, None]:
        return telling(self.store.create(key, record), key)

    def updating(self, key: str, record: Record, *, version: int) -> Coroutine[Any, Any, None]:
        return telling(self.store.update(key, record, version=version), key)

    def rotating(
        self, key: str, new_key: str, record: Record, tombstone: Record, *, version: int
    ) -> Coroutine[Any, Any, None]:
        return telling(self.store.rotate(key, new_key, record, tombstone, version=version), key, new_key)

    def of_user(self, user: str) -> _Asked[list[tuple[str, Record]]]:
        if not isinstance(self.store, UserIndex):
            raise ConfigurationError(f"store: {type(self.store).__name__} cannot find a user's sessions (no of_user)")
        return self._within(self.store.of_user(user))

    def scan(self, limit: int, after: str = "") -> _Asked[tuple[list[str], str]]:
        if not isinstance(self.store, Scan):
            raise ConfigurationError(f"store: {type(self.store).__name__} cannot go through its sessions (no scan)")
        return self._within(self.store.scan(limit, after))

    async def discard_unreadable(self, user: str) -> int:
        """Remove those of a user's records that cannot be read; 0 where the store cannot tell."""
        if not isinstance(self.store, Discard):
            return 0
        return await self._within(self.store.discard_unreadable(user), Kind.REMOVAL)

    def wipe(self) -> _Asked[None]:
        if not isinstance(self.store, Wipe):
            raise ConfigurationError(
                f"store: {type(self.store).__name__} cannot end all sessions at once (no wipe); "
                "give a new secret_key, without the old ones, instead"
            )
        return self._within(telling_all(self.store.wipe()), Kind.REMOVAL)

    def publish(self, *, changes: bool = False) -> None:
        """As `Watch.publish`. The configuration has seen to it that the store can."""
        cast(Watch, self.store).publish(changes=changes)

    def watch(
        self, tell: Callable[[Notice], None], keys: Callable[[], Collection[str]], *, changes: bool = False
    ) -> Callable[[], None]:
        """As `Watch.watch`."""
        return cast(Watch, self.store).watch(tell, keys, changes=changes)

    async def purge(self, limit: int) -> int:
        """Remove at most `limit` expired records; 0 where the engine does that by itself."""
        if not isinstance(self.store, Purge):
            return 0
        store, tell = self.store, self._tell
        if tell is not None and self._is_heard is not None and self._is_heard() and isinstance(store, TellingPurge):
            return await self._within(store.purge_telling(limit, lambda *of: tell(Expired(*of))), Kind.REMOVAL)
        return await self._within(store.purge(limit), Kind.REMOVAL)

    async def open(self) -> None:
        """Open the store where it can be opened. ConfigurationError passes; anything else is StoreUnavailable."""
        if isinstance(self.store, Lifespan):
            await self._within(self.store.open())
        if self.near is not None:
            await self.near.notices.open()

    async def close(self) -> None:
        """Close the store where it can be closed. Takes as long as it takes: writes may still be under way."""
        if self.near is not None:
            await self.near.notices.close()
        if isinstance(self.store, Lifespan):
            await self.store.close()

    @cached_property
    def never_waits(self) -> bool:
        """Whether the store answers without waiting, whatever it is asked."""
        return says(self.store, "never_waits")

    @cached_property
    def answers_at_once(self) -> bool:
        """Whether the store mostly does."""
        return self.never_waits or says(self.store, "answers_at_once")

    @property
    def is_patched(self) -> bool:
        """Whether an operation was replaced in the store itself, as tests do: what its class says does not hold."""
        return not OPERATIONS.isdisjoint(self._own_attributes)

    def load_now(self, key: str) -> Record | CoroutineType[Any, Any, Record | None] | None:
        """As `load`, but where the store answers without waiting, the answer itself. Otherwise a coroutine."""
        if self._load_now is not None and not self._down and "load" not in self._own_attributes:
            try:
                return self._load_now(key)
            except Exception as error:
                judged = self._judged(error, _ANSWERED, Kind.READ, self._phase, was_down=False)
                if judged is error:
                    raise
                raise judged from error
        operation = self.store.load(key)
        if self._down:
            return self._start(operation, Kind.READ)
        try:  # as `_start`, in place: for every request
            waiting_for = operation.send(None)
        except StopIteration as stop:
            return cast("Record | None", stop.value)
        except Exception as error:
            judged = self._judged(error, operation, Kind.READ, self._phase, was_down=False)
            if judged is error:
                raise
            raise judged from error
        self.waits = True
        return cast(
            "CoroutineType[Any, Any, Record | None]",
            self._rest(operation, waiting_for, Kind.READ, self._phase, was_down=False),
        )

    def start_change(self, operation: Coroutine[Any, Any, None]) -> CoroutineType[Any, Any, None] | None:
        """Run an operation that changes the store. None: it is done. A coroutine: it waits, and this does the rest."""
        if self._down:
            return self._start(operation, Kind.CHANGE)
        try:  # as `_start`, in place: for every write
            waiting_for = operation.send(None)
        except StopIteration:
            return None
        except Exception as error:
            judged = self._judged(error, operation, Kind.CHANGE, self._phase, was_down=False)
            if judged is error:
                raise
            raise judged from error
        self.waits = True
        return cast(
            "CoroutineType[Any, Any, None]",
            self._rest(operation, waiting_for, Kind.CHANGE, self._phase, was_down=False),
        )

    async def run(self, operation: Coroutine[Any, Any, None]) -> None:
        """Run an operation that changes the store."""
        await self._within(operation, Kind.CHANGE)

    async def _within(self, operation: Coroutine[Any, Any, _Answer], kind: Kind = Kind.READ) -> _Answer:
        answer = self._start(operation, kind)
        return await answer if type(answer) is CoroutineType else answer

    def _start(self, operation: Coroutine[Any, Any, _Answer], kind: Kind) -> _Answer | CoroutineType[Any, Any, _Answer]:
        # An outage begins and ends by what was asked since the last time that one did: older questions are still
        # answered, or time out, after it. And it does not end at once: a server that shuts down answers on the
        # connections that it has not closed yet.
        phase = self._phase
        was_down = self._down and time.monotonic() - self._down_since >= SETTLING
        try:
            # A timer costs more than a whole operation in memory: run up to the first wait without one.
            waiting_for = operation.send(None)
        except StopIteration as stop:
            answer: _Answer = stop.value
            if was_down:
                self._is_up(phase, changed=kind is Kind.CHANGE and answer is not False)
            return answer
        except Exception as error:
            judged = self._judged(error, operation, kind, phase, was_down=was_down)
            if judged is error:
                raise
            raise judged from error
        self.waits = True
        return cast(
            "CoroutineType[Any, Any, _Answer]", self._rest(operation, waiting_for, kind, phase, was_down=was_down)
        )

    async def _rest(
        self, operation: Coroutine[Any, Any, _Answer], waiting_for: Any, kind: Kind, phase: int, *, was_down: bool
    ) -> _Answer:
        """Go on with an operation that waits, within the time limit."""
        import asyncio  # here, because it is half of the time that `import roomkey` would take

        try:
            async with asyncio.timeout(self._timeout):
                answer: _Answer = await _resume(operation, waiting_for)
        except Exception as error:
            judged = self._judged(error, operation, kind, phase, was_down=was_down)
            if judged is error:
                raise
            raise judged from error
        if was_down:
            self._is_up(phase, changed=kind is Kind.CHANGE and answer is not False)  # False: nothing was there to touch
        return answer

    def _judged(self, error: Exception, operation: object, kind: Kind, phase: int, *, was_down: bool) -> Exception:
        """Return the error that the core is to see, and note what it says of the store."""
        if isinstance(error, Conflict | Unreadable):
            if was_down:
                self._is_up(phase)  # it said no, but it answered
            return error
        if isinstance(error, StoreUnavailable):
            self._is_down(error, phase, kind)
            return error
        if isinstance(error, TimeoutError):
            why = self.store.why_silent() if isinstance(self.store, Silent) else ""
            late = StoreUnavailable(
                f"{type(self.store).__name__} did not answer within {self._timeout:g} s (store_timeout)"
                + (f"; {why}" if why else "")
            )
            self._is_down(late, phase, kind)
            return late
        if isinstance(error, ConfigurationError | SessionDataError):
            return error
        # Drivers have error classes of their own, and this module knows no driver.
        if operation is not _ANSWERED and not hasattr(operation, "send"):
            return ConfigurationError(
                f"store: an operation of {type(self.store).__name__} returned {type(operation).__name__}; it has "
                "to be an `async def` (see roomkey.stores.base.Store)"
            )
        missing = asyncio_is_missing(at_all=str(error) == "no running event loop")
        return self._failed(error, phase, kind) if missing is None else missing

    def _failed(self, error: Exception, phase: int, kind: Kind) -> StoreUnavailable:
        # The driver's own words may hold a password or a key: they stay in the chained error.
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        where = ""
        if trace is not None:
            code = trace.tb_frame.f_code
            where = f" in {code.co_name}, line {trace.tb_lineno} of {os.path.basename(code.co_filename)}"
        unavailable = StoreUnavailable(f"{type(self.store).__name__} failed: {type(error).__name__}{where}")
        self._is_down(unavailable, phase, kind)
        return unavailable

    def _is_down(self, error: StoreUnavailable, phase: int, kind: Kind) -> None:
        changes = kind is not Kind.READ
        if changes:
            self._change_refused = time.monotonic()
        elif self._down:
            self._only_changes = False
        if not self._down and phase == self._phase:
            self._down, self._down_since, self._phase = True, time.monotonic(), phase + 1
            self._only_changes = changes
            _log.error("session store %s unavailable, answering 503 until it is back: %s", shown(self.store), error)
            if self._tell is not None:
                self._tell(OutageBegan(type(self.store).__name__, str(error)))

    def _is_up(self, phase: int, *, changed: bool = False) -> None:
        # A store that is read-only, or full, goes on answering reads: they say nothing of when it takes changes again.
        # And a full one takes some: what finds room just when another session has ended.
        calm = SETTLING if changed else _CHANGES_AGAIN
        refuses = self._only_changes and time.monotonic() - self._change_refused < calm
        if self._down and phase == self._phase and not refuses:
            self._down, self._phase = False, phase + 1
            _log.warning("session store %s available again", shown(self.store))
            if self._tell is not None:
                self._tell(OutageEnded(type(self.store).__name__))


def check_near(store: object) -> None:
    """Raise ConfigurationError where records of a store cannot be kept near. One in memory needs no such thing."""
    if isinstance(store, HasNotices):
        store.notices()
    elif isinstance(store, CookieStore) or not says(store, "never_waits"):
        raise ConfigurationError(
            f"near_cache: {type(store).__name__} cannot say when its records change, and this process would go on "
            "serving sessions that have ended elsewhere; leave it out, or keep sessions in Redis, PostgreSQL or SQLite"
        )


@coroutine
def _resume(operation: Coroutine[Any, Any, Any], waiting_for: Any) -> Generator[Any, Any, Any]:
    """Go on with a coroutine that was already run up to its first wait."""
    while True:
        thrown: BaseException | None = None
        sent: Any = None
        try:
            sent = yield waiting_for
        except BaseException as error:  # a cancellation or GeneratorExit, for the operation to see
            thrown = error
        try:
            waiting_for = operation.send(sent) if thrown is None else operation.throw(thrown)
        except StopIteration as stop:
            return stop.value
