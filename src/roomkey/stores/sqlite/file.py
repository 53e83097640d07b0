"""The file: made for its owner only, opened, and set up."""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
import threading
from pathlib import Path
from typing import Any

from roomkey.errors import ConfigurationError
from roomkey.stores.sqlite.table import CREATE

__all__ = [
    "close_connection",
    "forget_locks",
    "make_file",
    "open_connection",
    "prepare",
    "prepare_in_loop",
    "same_file",
    "write_nothing",
]

_APPLICATION_ID = 0x526F6F6D  # "Room" in the file's header, where `file` and we recognise it
_SCHEMA = 1  # PRAGMA user_version; counts up when the table changes
_LOG_LIMIT = 8 * 1024 * 1024  # bytes of write-ahead log that stay when all of it was moved into the file

_making = threading.Lock()  # held while a file is made


def make_file(path: Path) -> None:
    """Make an empty file for its owner only; take others' permissions from one that is there and ours."""
    with _making:
        try:
            # O_EXCL: closing a descriptor of a file in use would drop the locks that this process has on it.
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        except FileExistsError:
            pass
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.EIO):
                raise
            way_out = {
                errno.ENOENT: f"the directory {str(path.parent)!r} does not exist: make it, or correct the path",
                errno.ENOTDIR: f"{str(path.parent)!r} is no directory: correct the path",
            }.get(error.errno or 0, "give this process's user the right to write in its directory, or another path")
            raise ConfigurationError(
                f"SQLite file {str(path)!r} cannot be made ({os.strerror(error.errno or 0)}): {way_out}"
            ) from error
    if path.is_dir():
        raise ConfigurationError(f"SQLite file {str(path)!r} is a directory: give the path of a file in it")
    # Siblings that a crash left behind keep the permissions they had; new ones get the file's.
    for name in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
        try:
            found = name.stat()
            if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO) and found.st_uid == os.geteuid():
                name.chmod(stat.S_IMODE(found.st_mode) & stat.S_IRWXU)
        except FileNotFoundError:
            pass
        except OSError:
            pass  # read-only file system and the like: opening it will say so


def prepare(connection: sqlite3.Connection, path: Path, synchronous: str) -> None:
    """Set the connection up, and make the table in a new file."""

    def pragma(text: str) -> Any:
        row = connection.execute(f"PRAGMA {text}").fetchone()
        return None if row is None else row[0]

    def is_ours() -> bool:
        """Whether our table is there. False: the file is empty."""
        application, version = pragma("application_id"), pragma("user_version")
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if application == 0 and version == 0 and tables == 0:
            return False
        if application != _APPLICATION_ID:
            raise ConfigurationError(
                f"SQLite file {str(path)!r} is another application's database: give sessions a file of their own"
            )
        if version != _SCHEMA:
            raise ConfigurationError(
                f"SQLite file {str(path)!r} has schema {version}, and this version of Roomkey knows {_SCHEMA}: "
                "run the version that made it or a newer one, or give another path"
            )
        return True

    # Before anything is changed in a file that may be somebody else's. In a transaction, because it reads more than
    # once, and another process may be making the table meanwhile.
    connection.execute("BEGIN")
    try:
        is_new = not is_ours()
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    pragma("trusted_schema = OFF")  # SQLite's advice for files that others might have written
    if is_new:
        pragma("auto_vacuum = INCREMENTAL")  # writes, and a file that is ready must open on a full disk too
    if pragma("journal_mode = WAL") != "wal":
        raise ConfigurationError(
            f"SQLite file {str(path)!r} is where write-ahead logging does not work (a network file system?): "
            "put it on a local disk"
        )
    _set_log(connection, synchronous)
    # Asked again: another process may have been faster.
    connection.execute("BEGIN IMMEDIATE")
    try:
        if not is_ours():
            for statement in CREATE:
                connection.execute(statement)
            pragma(f"application_id = {_APPLICATION_ID}")
            pragma(f"user_version = {_SCHEMA}")
            connection.execute("COMMIT")
        else:
            # Find out now whether this process may write the file. It is rolled back: nothing is written.
            write_nothing(connection)
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def prepare_in_loop(connection: sqlite3.Connection, synchronous: str) -> None:
    """Set up the connection that the event loops use, in a file that is prepared."""
    connection.execute("PRAGMA trusted_schema = OFF")
    _set_log(connection, synchronous)


def _set_log(connection: sqlite3.Connection, synchronous: str) -> None:
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    connection.execute(f"PRAGMA journal_size_limit = {_LOG_LIMIT}").fetchall()
    connection.execute("PRAGMA wal_autocheckpoint = 0").fetchall()  # not in a write: `log.py` moves it


def write_nothing(connection: sqlite3.Connection) -> None:
    """Write what the file's header holds already."""
    connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")


def same_file(path: Path, file: os.stat_result | None) -> bool:
    """Whether `path` still leads to `file`. One that was deleted or replaced would swallow what is written to it."""
    try:
        found = os.stat(path)
    except OSError:
        return False
    return file is not None and found.st_ino == file.st_ino and found.st_dev == file.st_dev


def open_connection(path: Path, *, timeout: float) -> sqlite3.Connection:
    return sqlite3.connect(
        f"{path.as_uri()}?mode=rw",  # only make_file makes the file, with the permissions it needs
        uri=True,
        timeout=timeout,  # seconds
        isolation_level=None,  # BEGIN and COMMIT are ours
        check_same_thread=False,  # locks of ours see to it that one thread at a time uses it
    )


def close_connection(connection: sqlite3.Connection | None) -> None:
    if connection is not None:
        try:
            connection.close()
        except sqlite3.Error:
            pass  # a fault on the way out: what was acknowledged is in the log, which the next one reads


def forget_locks() -> None:
    """In a fork's child: a thread that was not forked may have held the lock."""
    global _making
    _making = threading.Lock()
