"""What the event loops do themselves: loads, and lone writes. Nothing here waits for a lock.

Whatever does not work here at once is left to the store's thread: it waits, opens the file anew, or says what is wrong.
When a write shows that somebody else is writing, or that the disk is slow, all writes go to the thread for a while.
There many of them share a transaction.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Generator, Iterator
from enum import Enum, auto
from pathlib import Path
from types import coroutine
from typing import Any, Final, Literal

from roomkey.errors import StoreUnavailable
from roomkey.stores.base import Record
from roomkey.stores.sqlite import table
from roomkey.stores.sqlite.errors import BAD_VALUE, advice, is_full, is_lock, is_permanent
from roomkey.stores.sqlite.file import close_connection, same_file
from roomkey.stores.sqlite.log import Log

__all__ = ["NEXT_TICK", "THREAD", "InLoop", "Work", "next_tick"]

Work = Callable[..., Any]  # called with a connection, the time in Unix seconds, and the operation's arguments

_MOST_PAGES = 27  # of the file that one write may change here: 64 KiB of data, which is 0.2 ms
_MOST_A_TICK = 4  # writes in one tick of the event loop: those who are ready would all run, one after the other
_ARMED_AT = 2  # of them, from which on the end of the tick is waited for, which costs a microsecond
_LOOK_EVERY = 1.0  # seconds between two looks, by loads, whether the file is still there

# For how many seconds all writes go to the thread:
_BUSY_REST = 0.02  # when somebody else was writing
_FULL_REST = 1.0  # when the disk was full or failed
_SLOW = 0.002  # seconds after which a write counts as slow
_SLOW_REST = 50  # when a write was slow: so many times as long as it took ...
_SLOW_REST_LEAST, _SLOW_REST_MOST = 0.25, 30.0  # ... but at least and at most so long

_monotonic = time.monotonic


class _Elsewhere(Enum):
    """Who else has to do an operation that was not done."""

    THREAD = auto()
    NEXT_TICK = auto()  # the event loop, but later: enough was written in this tick


# By these names, because it takes five times as long to get a member from its class.
THREAD: Final = _Elsewhere.THREAD
NEXT_TICK: Final = _Elsewhere.NEXT_TICK


class Gate:
    """Whether the event loops may write, or the thread has to. `is_open`: False keeps all writes in the thread."""

    def __init__(self, *, is_open: bool) -> None:
        self.asked = 0  # writes that the thread was asked for; counted by those who ask it, under the store's lock
        self.finished = 0  # of these, how many are done; counted by the thread, before anybody hears of them
        self.is_shut = False  # the thread finishes the log
        self._is_open = is_open
        self._rest_until = 0.0  # on time.monotonic

    def rest(self, seconds: float = _BUSY_REST) -> None:
        """Leave all writes to the thread for a while: somebody else is writing."""
        self._rest_until = max(self._rest_until, _monotonic() + seconds)

    def lets_in(self) -> bool:
        """Whether nothing speaks against a write, before the lock is taken."""
        return self._is_open and self.asked == self.finished and _monotonic() >= self._rest_until


class InLoop:
    """The event loops' connection, and what tells whether they may use it.

    The thread opens and closes the connection. `lock` is held by whoever uses it or changes it.
    """

    def __init__(self, path: Path, clock: Callable[[], float], log: Log, *, writes: bool) -> None:
        self.lock: threading.Lock = threading.Lock()
        self.connection: sqlite3.Connection | None = None  # None: leave everything to the thread
        self.gate: Gate = Gate(is_open=writes)
        self._path = path
        self._clock = clock
        self._log = log
        self._cursor: sqlite3.Cursor | None = None  # for loads: to make one costs as much as to step it
        self._opened: object = None  # stands for the connection: counters of two cannot be compared
        self._file: os.stat_result | None = None  # of the opened file
        self._looked_at = 0.0  # on the store's clock: when a load last looked whether the file is there
        self._tick = _Tick()

    def open(self, connection: sqlite3.Connection | None, file: os.stat_result | None) -> None:
        """In the thread: have the event loops use `connection`. None: none."""
        with self.lock:
            self._cursor = None  # first: it holds a statement, and a connection does not close before its statements
            close_connection(self.connection)
            self.connection, self._file = connection, file
            self._cursor = None if connection is None else connection.cursor()
            self._opened = object()

    @contextlib.contextmanager
    def no_writes(self) -> Iterator[None]:
        """In the thread: let a write that is under way finish, and keep others out."""
        with self.lock:
            self.gate.is_shut = True
        try:
            yield
        finally:
            self.gate.is_shut = False

    def load(self, key: str) -> Record | Literal[_Elsewhere.THREAD] | None:
        """Return the live record under `key`."""
        if not self.lock.acquire(False):  # by position: a keyword takes twice as long
            return THREAD
        try:
            now = self._clock()
            if self._cursor is None or not self._is_there(now):
                return THREAD
            return table.load(self._cursor, now, key)
        except sqlite3.Error:
            return THREAD
        finally:
            self.lock.release()

    def version(self) -> tuple[object, int] | None:
        """Return what differs when another connection has changed the file; None: it cannot be known without waiting.

        A write of this connection does not count.
        """
        if not self.lock.acquire(False):
            return None
        try:
            if self._cursor is None or not self._is_there(self._clock()):
                return None
            return self._opened, self._cursor.execute("PRAGMA data_version").fetchone()[0]
        except sqlite3.Error:
            return None
        finally:
            self.lock.release()

    def _is_there(self, now: float) -> bool:
        """Whether the file is still the one that was opened, as far as the last look tells."""
        if not 0 <= now - self._looked_at < _LOOK_EVERY:
            if not same_file(self._path, self._file):
                return False
            self._looked_at = now
        return True

    def write(self, pages: int, work: Work, args: tuple[Any, ...], *, again: bool = False) -> Any:
        """Do what is one statement, and return what it answers or where it has to be done.

        Args:
            pages: of the file that it changes, about.
            work: does it.
            args: `work`'s.
            again: whether this one was sent to the next tick already.
        """
        if pages > _MOST_PAGES or not self.gate.lets_in() or self._log.is_full:
            return THREAD
        elsewhere = self._tick.count(again)
        if elsewhere is not None:
            return elsewhere
        if not self.lock.acquire(False):
            return THREAD
        try:
            if self.connection is None or self.gate.is_shut or not same_file(self._path, self._file):
                return THREAD
            return self._write(self.connection, pages, work, args)
        finally:
            self.lock.release()

    def _write(self, connection: sqlite3.Connection, pages: int, work: Work, args: tuple[Any, ...]) -> Any:
        began = _monotonic()
        try:
            answer = work(connection, self._clock(), *args)
            self._log.count(pages)
            return answer
        except sqlite3.Error as error:
            if is_lock(error):
                self.gate.rest()
            elif not isinstance(error, BAD_VALUE):
                self.gate.rest(_FULL_REST)
                if not is_full(error) and not is_permanent(error):
                    # Part of it may be on the disk: no second try unasked.
                    raise StoreUnavailable(advice(self._path, error)) from error
            return THREAD  # nothing was written
        finally:
            took = _monotonic() - began
            if took > _SLOW:
                self.gate.rest(min(max(_SLOW_REST * took, _SLOW_REST_LEAST), _SLOW_REST_MOST))


class _Tick:
    """How much was written in this tick of the event loop.

    Where there are several event loops, they keep each other from writing by the lock and the thread's queue.
    """

    def __init__(self) -> None:
        self._count = 0
        self._loop: asyncio.AbstractEventLoop | None = None  # where the end of the tick is waited for
        self._sent_on = False  # whether somebody was sent to the next tick

    def count(self, again: bool) -> _Elsewhere | None:
        """Count a write. Return None, or where it has to be done instead."""
        loop = asyncio.get_running_loop()
        if self._count >= _MOST_A_TICK:
            if self._loop is loop:
                if again or self._sent_on:
                    return THREAD  # there is a crowd, and its writes can share a transaction
                self._sent_on = True
                return NEXT_TICK
            self._end()  # that was another event loop, and it may have ended before its tick did
        self._count += 1
        if self._count >= _ARMED_AT and self._loop is not loop:
            self._loop = loop
            loop.call_soon(self._end)
        return None

    def _end(self) -> None:
        self._count, self._loop, self._sent_on = 0, None, False


@coroutine
def next_tick() -> Generator[None, None, None]:
    """Let everybody else who is ready have their turn."""
    yield
