"""Faults of the file and the disk, and locks. Messages name the file and the way out, and nothing of a session."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sqlite3
import subprocess
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from roomkey.errors import ConfigurationError, StoreUnavailable
from roomkey.stores.sqlite import SQLiteStore, worker
from roomkey.testing import Clock
from tests.loop_clock import HANGS
from tests.stores.on_sqlite.parts import (
    KEY,
    WatchedConnection,
    hold_lock,
    number_key,
    posix,
    run_python,
    until_locked_out,
)
from tests.stores.records import make_record

PATIENCE = worker._PATIENCE  # seconds for which an operation waits for a lock, where no test has changed it

# --- Faults. Messages name the file and the way out, and nothing of a session. ----------------------------------------


async def _both(store: SQLiteStore) -> tuple[str, str]:
    """Return what `open` says, and what the first operation says without `open`."""
    with pytest.raises(ConfigurationError) as opening:
        await store.open()
    with pytest.raises(StoreUnavailable) as using:
        await store.create(KEY, make_record(user="penelope", data=b"geheim"))
    assert isinstance(using.value.__cause__, ConfigurationError)
    with pytest.raises(StoreUnavailable):
        await store.load(KEY)
    await store.close()
    for message in (str(opening.value), str(using.value)):
        assert str(store._path) in message
        assert not any(secret in message for secret in (KEY, "penelope", "geheim"))
    return str(opening.value), str(using.value)


def _missing_directory(path: Path) -> Path:
    return path.parent / "nowhere" / path.name


def _directory(path: Path) -> Path:
    path.mkdir()
    return path


def _in_a_file(path: Path) -> Path:
    path.touch()
    return path / "sessions.sqlite3"


def _no_database(path: Path) -> Path:
    path.write_bytes(b"This is a letter, not a database. " * 200)
    return path


def _anothers(path: Path) -> Path:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE customers (name)")
    return path


def _newer(path: Path) -> Path:
    async def main() -> None:
        store = SQLiteStore(path)
        await store.open()
        await store.close()

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    thread.join()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    return path


def _damaged(path: Path) -> Path:
    _newer(path)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 1")
    content = path.read_bytes()
    path.write_bytes(content[:100] + b"\xff" * (len(content) - 100))  # the header stays
    return path


@pytest.mark.parametrize(
    ("make", "way_out"),
    [
        (_missing_directory, "make it"),
        (_directory, "give the path of a file"),
        (_in_a_file, "is no directory"),
        (_no_database, "is no SQLite database"),
        (_anothers, "a file of their own"),
        (_newer, "schema 99"),
        (_damaged, "restore a backup"),
    ],
)
async def test_a_file_that_cannot_be_used(path: Path, make: Any, way_out: str) -> None:
    """`open` says that the configuration is wrong and how to mend it; without `open` the store is unavailable."""
    store = SQLiteStore(make(path))
    for message in await _both(store):
        assert way_out in message


async def test_anothers_database_is_left_alone(path: Path) -> None:
    """Nothing is changed in a database that is not ours."""
    before = _anothers(path).read_bytes()
    await _both(SQLiteStore(path))
    assert path.read_bytes() == before


async def test_a_file_that_cannot_be_written(path: Path) -> None:
    """A read-only file is found when it is opened."""
    _newer(path)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 1")
    if os.geteuid() != 0:
        path.chmod(0o400)
    # root may write whatever has no such flag
    elif not shutil.which("chattr") or subprocess.run(["chattr", "+i", path], capture_output=True).returncode:
        pytest.skip("this file system cannot keep root from writing")
    try:
        for message in await _both(SQLiteStore(path)):
            assert "write permission" in message
    finally:
        if os.geteuid() == 0:
            subprocess.run(["chattr", "-i", path], check=True)


@pytest.mark.parametrize("name", ["", ":memory:", "file:sessions?mode=memory"])
def test_a_path_that_is_no_file(name: str) -> None:
    """Names by which SQLite makes a database in memory are refused at once."""
    with pytest.raises(ConfigurationError, match="path"):
        SQLiteStore(name)


def test_an_unknown_synchronous(path: Path) -> None:
    """A misspelt option is refused at once."""
    with pytest.raises(ConfigurationError, match=r"synchronous.*'FULL'"):
        SQLiteStore(path, synchronous="OFF")  # type: ignore[arg-type]


@pytest.mark.parametrize(("synchronous", "number"), [("NORMAL", 1), ("FULL", 2)])
async def test_synchronous(path: Path, synchronous: Any, number: int) -> None:
    """The option reaches the connection that writes."""
    store = SQLiteStore(path, synchronous=synchronous)
    await store.open()
    assert store._worker is not None and store._worker._connection is not None
    assert store._worker._connection.execute("PRAGMA synchronous").fetchone() == (number,)
    await store.close()


async def test_a_mended_file_is_used_again(path: Path) -> None:
    """A fault that was mended is over at the next operation, without a restart."""
    store = SQLiteStore(_no_database(path))
    with pytest.raises(StoreUnavailable):
        await store.create(KEY, make_record())
    path.unlink()
    await store.create(KEY, make_record())
    assert await store.load(KEY) is not None
    await store.close()


async def test_damage_while_in_use(path: Path) -> None:
    """Damage that comes up later makes the store unavailable; it is never taken for an absent session."""
    store = SQLiteStore(path)
    for number in range(300):
        await store.create(number_key(number), make_record(data=bytes(500)))
    await store.close()
    await store.open()
    with path.open("r+b") as file:
        size = path.stat().st_size
        for page in range(2, size // 4096):
            file.seek(page * 4096)
            file.write(b"\xff" * 4096)
    with pytest.raises(StoreUnavailable, match="damaged") as caught:
        for number in range(300):
            assert await store.load(number_key(number)) is not None
    assert str(path) in str(caught.value)
    with pytest.raises(StoreUnavailable, match="damaged"):
        for number in range(300):
            await store.update(number_key(number), make_record(version=2), version=1)
    await store.close()


async def test_a_deleted_file_is_made_anew(path: Path) -> None:
    """A file that was deleted under the store does not swallow what is saved from then on."""
    store = SQLiteStore(path)
    await store.create(number_key(1), make_record())
    for name in ("", "-wal", "-shm"):
        Path(f"{path}{name}").unlink(missing_ok=True)
    await store.create(number_key(2), make_record())
    other = SQLiteStore(path)
    assert await other.load(number_key(2)) is not None
    await other.close()
    await store.close()


async def test_a_full_disk(path: Path) -> None:
    """On a full disk a save is refused, what was saved can be read and deleted, and all is well when there is space."""
    store = SQLiteStore(path)
    await store.create(KEY, make_record(data=bytes(50_000)))
    worker = store._worker
    assert worker is not None and worker._connection is not None
    connection = worker._connection
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")
    # A group in which one member cannot be done: the others are.
    large, changed, deleted = await asyncio.gather(
        store.create(number_key(1), make_record(data=bytes(100_000), user="penelope")),
        store.touch(KEY, time.time() + 7200),
        store.delete(number_key(2)),
        return_exceptions=True,
    )
    assert isinstance(large, StoreUnavailable) and "free some space" in str(large)
    assert str(path) in str(large) and "penelope" not in str(large)
    assert changed is True and deleted is None
    found = await store.load(KEY)
    assert found is not None and len(found.data) == 50_000
    await store.create(number_key(1), make_record(data=bytes(100_000)))  # the new connection has no such limit
    await store.close()


_FILL = """
import resource
from roomkey.errors import StoreUnavailable
async def main():
    store = SQLiteStore(sys.argv[1])
    await store.open()
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, resource.RLIM_INFINITY))
    now, saved = time.time(), []
    try:
        for number in range(10_000):
            key = f"{number:064x}"
            await store.create(key, Record(bytes(1000), 1, now, now + 3600))
            saved.append(key)
    except StoreUnavailable as error:
        print(error)
    for key in saved:
        assert await store.load(key) is not None
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await store.create(f"{10_001:064x}", Record(bytes(1000), 1, now, now + 3600))
    for key in saved:
        assert await store.load(key) is not None
    await store.close()
    print(len(saved))
asyncio.run(main())
"""


@posix
def test_a_file_that_may_not_grow(path: Path) -> None:
    """Where the system refuses to write, the save is refused, nothing acknowledged is lost, and it passes."""
    process = run_python(_FILL, path)
    output, _ = process.communicate(timeout=HANGS)
    assert process.returncode == 0
    message, saved = output.splitlines()
    assert str(path) in message and "disk" in message and int(saved) > 10


async def test_a_failed_commit_fails_all(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the commit of a group fails, each of its members is told so, and nothing of it is there."""

    class Failing(WatchedConnection):
        fail = False

        def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
            if sql == "COMMIT" and Failing.fail:
                Failing.fail = False
                error = sqlite3.OperationalError("disk I/O error")
                error.sqlite_errorcode = sqlite3.SQLITE_IOERR
                raise error
            return super().execute(sql, *args)

    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **options: connect(*args, factory=Failing, **options))

    store = SQLiteStore(path)
    await store.open()
    with hold_lock(path):  # so that both are in one group
        operations = [asyncio.ensure_future(store.create(number_key(number), make_record())) for number in range(5)]
        await until_locked_out()
        Failing.fail = True
    outcomes = await asyncio.gather(*operations, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [StoreUnavailable] * 5
    assert len({id(outcome) for outcome in outcomes}) == 5
    for number in range(5):
        assert await store.load(number_key(number)) is None
        await store.create(number_key(number), make_record())
    await store.close()


async def test_a_bad_value_fails_alone(path: Path, watched: None) -> None:
    """A value that cannot be kept fails its own operation; the others of its group are saved."""
    store = SQLiteStore(path)
    await store.open()
    with hold_lock(path):
        operations = [
            asyncio.ensure_future(store.create(number_key(1), make_record())),
            asyncio.ensure_future(store.create(number_key(2), make_record(version=2**70))),
            asyncio.ensure_future(store.create(number_key(3), make_record(expires_at=float("nan")))),
            asyncio.ensure_future(store.create(number_key(4), make_record())),
        ]
        await until_locked_out()
    outcomes = await asyncio.gather(*operations, return_exceptions=True)
    assert [type(outcome).__name__ for outcome in outcomes] == [
        "NoneType",
        "OverflowError",
        "IntegrityError",
        "NoneType",
    ]
    there = [await store.load(number_key(number)) is not None for number in (1, 2, 3, 4)]
    assert there == [True, False, False, True]
    await store.close()


# --- Locks ------------------------------------------------------------------------------------------------------------


async def test_a_lock_that_stays(path: Path, watched: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A save that cannot get the lock is refused after about a second; reads go on; it passes with the lock."""
    clock = Clock()
    monkeypatch.setattr(worker, "time", SimpleNamespace(monotonic=clock))
    monkeypatch.setattr(worker, "_PATIENCE", PATIENCE)
    store = SQLiteStore(path)
    await store.create(KEY, make_record())
    with hold_lock(path):
        save = asyncio.ensure_future(store.update(KEY, make_record(version=2), version=1))
        await until_locked_out()
        assert await store.load(KEY) is not None
        assert await store.of_user("ann") == []  # in the thread
        clock.advance(0.8)
        await until_locked_out()
        assert not save.done()
        clock.advance(0.4)
        with pytest.raises(StoreUnavailable, match="locked by another process") as caught:
            await save
        assert str(path) in str(caught.value)
    await store.update(KEY, make_record(version=2), version=1)
    await store.close()


async def test_a_lock_that_goes(path: Path, watched: None) -> None:
    """A save waits for a lock that is held for a moment."""
    store = SQLiteStore(path)
    await store.create(KEY, make_record())
    with hold_lock(path):
        save = asyncio.ensure_future(store.update(KEY, make_record(version=2), version=1))
        await until_locked_out()
        assert not save.done()
    await save
    await store.close()
