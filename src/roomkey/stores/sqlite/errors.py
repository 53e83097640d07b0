"""What SQLite reports, and what the people who run the app can do about it: https://sqlite.org/rescode.html"""

from __future__ import annotations

import sqlite3
from pathlib import Path

__all__ = ["BAD_VALUE", "advice", "is_damage", "is_full", "is_lock", "is_permanent", "is_space"]

# What SQLite says of a value that it cannot keep (a NaN, a set): the caller's fault, and the file is fine.
BAD_VALUE = (sqlite3.DataError, sqlite3.IntegrityError, sqlite3.InterfaceError, sqlite3.ProgrammingError)

_ADVICE = {
    sqlite3.SQLITE_BUSY: "is locked by another process: find who holds it (fuser shows them) and end its transaction",
    sqlite3.SQLITE_LOCKED: "is locked by another process: find who holds it (fuser shows them) and end its transaction",
    sqlite3.SQLITE_FULL: "cannot grow: the disk is full or at its quota; free some space",
    sqlite3.SQLITE_IOERR: "cannot be read or written: the disk is full, at a limit or failing; see the system's log",
    sqlite3.SQLITE_READONLY: "cannot be written: give this process's user write permission on it and its directory",
    sqlite3.SQLITE_PERM: "cannot be written: give this process's user write permission on it and its directory",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened: check that its directory exists and that this process's user may "
    "read and write both",
    sqlite3.SQLITE_CORRUPT: "is damaged: stop the app and restore a backup, or move the file away with its -wal and "
    "-shm (a new one is made, and everybody logs in again)",
    sqlite3.SQLITE_NOTADB: "is no SQLite database: correct the path, or move the file away (a new one is made)",
    sqlite3.SQLITE_NOMEM: "cannot be used: the process is out of memory",
}
_PERMANENT = {
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_ERROR,
}


def _primary_code(error: BaseException) -> int:
    """The result code without its details, which are in the higher bits."""
    code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    return code & 0xFF


def is_permanent(error: sqlite3.Error) -> bool:
    """Whether the file cannot be used before somebody does something about it."""
    return _primary_code(error) in _PERMANENT


def is_damage(error: BaseException) -> bool:
    """Whether what is in the file contradicts itself."""
    return _primary_code(error) == sqlite3.SQLITE_CORRUPT


def is_lock(error: Exception) -> bool:
    return isinstance(error, sqlite3.Error) and _primary_code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def is_full(error: Exception) -> bool:
    """Whether there was no room. Nothing was written."""
    return isinstance(error, sqlite3.Error) and _primary_code(error) == sqlite3.SQLITE_FULL


def is_space(error: Exception) -> bool:
    """Whether the disk took no more. A quota shows as an I/O error. What is stored can still be read."""
    return isinstance(error, sqlite3.Error) and _primary_code(error) in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)


def advice(path: Path, error: sqlite3.Error | OSError) -> str:
    if isinstance(error, sqlite3.Error):
        what = _ADVICE.get(_primary_code(error), "cannot be used: if this goes on, restore a backup or move it away")
    else:
        what = "cannot be opened: see to it that the disk has space and the process may open more files"
    return f"SQLite file {str(path)!r} {what} ({error})"
