"""What is special to the store in a file: permissions, durability, several processes and space."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import subprocess
from pathlib import Path

import pytest

from roomkey.stores.base import Record
from roomkey.stores.sqlite import SQLiteStore, table
from roomkey.stores.sqlite.file import _LOG_LIMIT
from roomkey.testing import Clock
from tests.loop_clock import HANGS
from tests.stores.on_sqlite.parts import KEY, file_modes, number_key, posix, run_python
from tests.stores.records import make_record

# --- Permissions ------------------------------------------------------------------------------------------------------


@posix
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
async def test_files_are_their_owners_only(path: Path, umask: int) -> None:
    """The file and the two beside it can be read by their owner only, whatever the umask."""
    before = os.umask(umask)
    try:
        store = SQLiteStore(path)
        await store.create(KEY, make_record())
        assert file_modes(path) == {path.name: 0o600, f"{path.name}-wal": 0o600, f"{path.name}-shm": 0o600}
        await store.close()
    finally:
        os.umask(before)
    assert file_modes(path) == {path.name: 0o600}


@posix
async def test_permissions_of_others_are_taken_away(path: Path) -> None:
    """A file that was there with wider permissions loses them, and so do the ones that a crash left beside it."""
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
        (path.parent / name).touch()
        (path.parent / name).chmod(0o664)
    store = SQLiteStore(path)
    await store.create(KEY, make_record())
    assert set(file_modes(path).values()) == {0o600}
    await store.close()


# --- Durability and several processes ---------------------------------------------------------------------------------


_WRITE_UNTIL_KILLED = """
async def main():
    store = SQLiteStore(sys.argv[1])
    async def write(start):
        for number in range(start, 10**9, 8):
            key, now = f"{number:064x}", time.time()
            await store.create(key, Record(b"1", 1, now, now + 3600))
            await store.update(key, Record(b"2", 2, now, now + 3600), version=1)
            sys.stdout.write(f"{number}\\n")
            sys.stdout.flush()
    await asyncio.gather(*(write(start) for start in range(8)))
asyncio.run(main())
"""


@posix
def test_nothing_acknowledged_is_missing_after_kill(path: Path) -> None:
    """A process that is killed while it writes loses nothing that it was told is saved, and the file stays sound."""
    for _ in range(3):
        path.unlink(missing_ok=True)
        process = run_python(_WRITE_UNTIL_KILLED, path)
        assert process.stdout is not None
        acknowledged = [process.stdout.readline() for _ in range(300)]
        process.send_signal(signal.SIGKILL)
        acknowledged += process.stdout.read().splitlines(keepends=True)
        process.wait()
        process.stdout.close()
        numbers = [int(line) for line in acknowledged if line.endswith("\n")]
        assert len(numbers) >= 300

        async def check(numbers: list[int]) -> None:
            store = SQLiteStore(path)
            for number in numbers:
                found = await store.load(number_key(number))
                assert found is not None and (found.data, found.version) == (b"2", 2)
            await store.close()

        asyncio.run(check(numbers))
        with contextlib.closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


_INCREMENT = """
async def main():
    store = SQLiteStore(sys.argv[1])
    async def one():
        while True:
            found = await store.load(sys.argv[2])
            new = Record(b"%d" % (int(found.data) + 1), found.version + 1, found.created_at, found.expires_at)
            try:
                return await store.update(sys.argv[2], new, version=found.version)
            except Conflict:
                pass
    for _ in range(20):
        await asyncio.gather(*(one() for _ in range(5)))
    await store.close()
asyncio.run(main())
"""


def test_no_increment_of_several_processes_is_lost(path: Path) -> None:
    """Four processes that share the file and compare before they swap count every step."""

    async def put() -> None:
        store = SQLiteStore(path)
        await store.create(KEY, make_record(data=b"0"))
        await store.close()

    async def get() -> Record | None:
        store = SQLiteStore(path)
        try:
            return await store.load(KEY)
        finally:
            await store.close()

    asyncio.run(put())
    processes = [run_python(_INCREMENT, path, KEY) for _ in range(4)]
    assert [process.wait(HANGS) for process in processes] == [0] * 4
    for process in processes:
        assert process.stdout is not None
        process.stdout.close()
    found = asyncio.run(get())
    assert found is not None and found.data == b"400"


_MAKE = """
async def main():
    store = SQLiteStore(sys.argv[1])
    print("ready", flush=True)
    sys.stdin.read()  # until all are ready
    await store.open()
    now = time.time()
    await store.create(sys.argv[2], Record(b"", 1, now, now + 3600))
    await store.close()
asyncio.run(main())
"""


def test_several_processes_make_the_file_at_once(path: Path) -> None:
    """Workers that start together with no file there make one and all get to write."""
    processes = [run_python(_MAKE, path, number_key(number), stdin=subprocess.PIPE) for number in range(4)]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
    assert [process.wait(HANGS) for process in processes] == [0] * 4
    for process in processes:
        assert process.stdout is not None
        process.stdout.close()

    async def check() -> None:
        store = SQLiteStore(path)
        for number in range(4):
            assert await store.load(number_key(number)) is not None
        await store.close()

    asyncio.run(check())
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA auto_vacuum").fetchone() == (2,)


# --- Space ------------------------------------------------------------------------------------------------------------


async def test_purge_gives_space_back(path: Path) -> None:
    """When sessions have expired, the file shrinks to what the live ones need."""
    clock = Clock()
    store = SQLiteStore(path, clock=clock)
    for number in range(0, 2000, 100):
        await asyncio.gather(
            *(
                store.create(number_key(number + more), make_record(data=bytes(1000), expires_at=clock() + 60))
                for more in range(100)
            )
        )
    await store.create(KEY, make_record(expires_at=clock() + 600))
    clock.advance(61)
    full = path.stat().st_size + Path(f"{path}-wal").stat().st_size
    while await store.purge(500):
        pass
    await store.load(KEY)
    await store.touch(KEY, clock() + 700)  # comes after the tidying that follows a purge
    assert full > 2_000_000
    assert path.stat().st_size < 100_000
    await store.close()


async def test_the_file_does_not_grow_with_time(path: Path) -> None:
    """Sessions that come and go leave the file and its log no larger than one round of them needs."""
    clock = Clock()
    store = SQLiteStore(path, clock=clock)
    sizes = []
    for turn in range(15):
        keys = [number_key(turn * 1000 + number) for number in range(300)]
        await asyncio.gather(
            *(store.create(key, make_record(data=bytes(2000), expires_at=clock() + 60)) for key in keys)
        )
        clock.advance(61)
        assert await store.purge(1000) == 300
        await store.touch(KEY, clock())
        sizes.append(path.stat().st_size + Path(f"{path}-wal").stat().st_size)
    assert max(sizes) < _LOG_LIMIT + 3_000_000
    await store.close()


async def test_wipe_takes_no_longer_for_more_sessions(path: Path) -> None:
    """It puts the table aside, and purges empty it, batch by batch, until the file is as small as before."""
    store, other = SQLiteStore(path), SQLiteStore(path)
    await store.open()
    await other.create(KEY, make_record())
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        rows = ((f"{number:064x}", b"x" * 1000, 1, 0.0, 9e9, 0.0) for number in range(1, 20_001))
        connection.executemany(
            "INSERT INTO session (key, data, version, created_at, expires_at, serve_until) VALUES (?, ?, ?, ?, ?, ?)",
            rows,
        )
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.set_progress_handler(count, 100)  # after so many steps of SQLite's machine
        with connection:
            table.wipe(connection, 0.0)
    assert steps < 50  # a DELETE takes thousands
    await store.wipe()
    await store.wipe()
    for each in (store, other):
        assert await each.load(KEY) is None and await each.load(f"{7:064x}") is None
    await other.create(KEY, make_record())
    assert await store.load(KEY) is not None
    while await store.purge(2000):
        assert await other.load(KEY) is not None
    for _ in range(4):
        await store.purge(2000)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        assert [name for (name,) in tables] == ["session"]
        assert connection.execute("PRAGMA page_count").fetchone()[0] < 100
    await store.close()
    await other.close()


def test_repr_names_the_file_only(path: Path) -> None:
    """The store is shown with its path."""
    assert repr(SQLiteStore(path)) == f"<SQLiteStore {str(path)!r}>"
