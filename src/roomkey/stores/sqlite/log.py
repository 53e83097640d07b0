"""The write-ahead log: the store's thread moves it into the file, so that no write has to, and keeps it short.

SQLite starts the log over when a write finds that all of it was moved and that nobody reads from it. Where somebody
writes all the time that moment never comes by itself. So now and then the event loops are kept out for a last short
piece. The thread makes the first write of a new log, because it waits for the disk.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from roomkey.stores.sqlite.file import write_nothing

__all__ = ["Log"]

_log = logging.getLogger("roomkey")

# Pages, of 4 KiB:
_DUE = 750  # that this process wrote, after which the log is moved
_START_OVER = 1500  # in a log, from which on it is started over though the event loops write
_FULL = 2000  # from which on the event loops wait for that with everybody else
_LONG = 2000  # from which on other processes are kept from writing too
_HUGE = 16_384  # from which on people are told, and again whenever it has doubled

_PATIENCE = 0.005  # seconds to wait for other processes' locks, while the event loops are kept out
_PAUSE = 0.1  # seconds between two times that other processes are kept from writing

_NoWrites = Callable[[], AbstractContextManager[None]]  # keeps the event loops from writing


class Log:
    """Counts what is written, and says when the thread has to look after the log."""

    def __init__(self, path: Path, due: Callable[[], None]) -> None:
        self._path = path
        self._due = due  # asks the thread to call `shorten`
        self._asked = False
        self._written = 0  # pages since then; the event loops and the thread add to it, and a lost count does no harm
        self._left = 0  # pages that were in the log then
        self._due_at = _DUE  # pages; fewer where other processes write too
        self._stopped_others = float("-inf")  # when, on time.monotonic
        self._tell_at = _HUGE  # pages

    def count(self, pages: int) -> None:
        """After a write. Called by the event loops and by the thread."""
        self._written += pages
        if self._written >= self._due_at and not self._asked:
            self._asked = True
            self._due()

    @property
    def is_full(self) -> bool:
        """Whether the event loops write faster than the log can be moved."""
        return self._asked and self._left + self._written >= _FULL

    def shorten(self, connection: sqlite3.Connection | None, no_writes: _NoWrites) -> None:
        """In the thread: move the log into the file, and start it over.

        Args:
            connection: the thread's.
            no_writes: keeps the event loops from writing.
        """
        try:
            if connection is not None:
                self._shorten(connection, no_writes)
        except Exception:  # a full disk, or a fault: the log stays as it is, and whoever saves is told
            _log.debug("SQLite file %s: its log was not moved", self._path, exc_info=True)
        finally:
            self._asked = False

    def _shorten(self, connection: sqlite3.Connection, no_writes: _NoWrites) -> None:
        written, self._written = self._written, 0
        pages, moved = _move(connection, "PASSIVE")
        self._left = pages
        self._due_at = min(max(_DUE * written // max(pages, 1), _DUE // 4), _DUE)
        self._tell(pages, moved)
        if moved < pages or pages < 0:  # somebody reads from it, or another process is at it
            return
        if self._written and pages < _START_OVER:
            return
        with no_writes():
            if self._written:  # meanwhile
                pages, moved = _move(connection, "PASSIVE")
            if pages >= _LONG and time.monotonic() - self._stopped_others >= _PAUSE:
                self._stopped_others = time.monotonic()
                connection.execute(f"PRAGMA busy_timeout = {round(_PATIENCE * 1000)}")
                try:
                    pages, moved = _move(connection, "RESTART")
                finally:
                    connection.execute("PRAGMA busy_timeout = 0")
            if moved == pages:
                write_nothing(connection)
                self._left = self._written = 0

    def _tell(self, pages: int, moved: int) -> None:
        if pages < _HUGE:
            self._tell_at = _HUGE
        elif moved < pages and pages >= self._tell_at:
            self._tell_at = 2 * pages
            _log.warning(
                "SQLite file %s-wal has grown to %d MB and cannot be emptied: a process stays in a read transaction on "
                "%s; find it (fuser shows which processes have it open) and end its transaction, or stop the process",
                self._path,
                pages * 4096 // 1_000_000,
                self._path,
            )


def _move(connection: sqlite3.Connection, how: str) -> tuple[int, int]:
    """Move the log into the file. Return the pages in it, and how many of them were moved so far."""
    _, pages, moved = connection.execute(f"PRAGMA wal_checkpoint({how})").fetchone()
    return pages, moved
