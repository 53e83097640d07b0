"""What is special to the store in a file: permissions, durability, several processes, faults of file and disk."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import multiprocessing
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from roomkey.errors import ConfigurationError, StoreUnavailable
from roomkey.stores.base import Conflict, Record
from roomkey.stores.sqlite import SQLiteStore, table
from roomkey.stores.sqlite.file import _LOG_LIMIT
from roomkey.stores.sqlite.worker import running
from roomkey.testing import Clock

KEY = "0f" * 32
posix = pytest.mark.skipif(os.name != "posix", reason="Windows has no such permissions, signals and forks")


def _record(**fields: Any) -> Record:
    now = time.time()
    return replace(Record(data=b"data", version=1, created_at=now, expires_at=now + 3600), **fields)


def _key(number: int) -> str:
    return f"{number:064x}"


def _threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("roomkey-")]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sessions.sqlite3"


@pytest.fixture(autouse=True)
def _no_thread_left() -> Iterator[None]:
    """After each test no thread of a store is left."""
    yield
    gc.collect()  # stores that were not closed
    deadline = time.monotonic() + 5
    while _threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert _threads() == []


def _modes(path: Path) -> dict[str, int]:
    return {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}


def _python(code: str, *args: object, **options: Any) -> subprocess.Popen[str]:
    """Run `code` in a new process, with the imports that it needs."""
    header = (
        "import asyncio, sys, time\nfrom roomkey.stores.base import *\nfrom roomkey.stores.sqlite import SQLiteStore\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", header + code, *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, **options)


# Permissions


@posix
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
async def test_files_are_their_owners_only(path: Path, umask: int) -> None:
    """The file and the two beside it can be read by their owner only, whatever the umask."""
    before = os.umask(umask)
    try:
        store = SQLiteStore(path)
        await store.create(KEY, _record())
        assert _modes(path) == {path.name: 0o600, f"{path.name}-wal": 0o600, f"{path.name}-shm": 0o600}
        await store.close()
    finally:
        os.umask(before)
    assert _modes(path) == {path.name: 0o600}


@posix
async def test_permissions_of_others_are_taken_away(path: Path) -> None:
    """A file that was there with wider permissions loses them, and so do the ones that a crash left beside it."""
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
        (path.parent / name).touch()
        (path.parent / name).chmod(0o664)
    store = SQLiteStore(path)
    await store.create(KEY, _record())
    assert set(_modes(path).values()) == {0o600}
    await store.close()


# Durability and several processes

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
        process = _python(_WRITE_UNTIL_KILLED, path)
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
                found = await store.load(_key(number))
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
        await store.create(KEY, _record(data=b"0"))
        await store.close()

    async def get() -> Record | None:
        store = SQLiteStore(path)
        try:
            return await store.load(KEY)
        finally:
            await store.close()

    asyncio.run(put())
    processes = [_python(_INCREMENT, path, KEY) for _ in range(4)]
    assert [process.wait(30) for process in processes] == [0] * 4
    for process in processes:
        assert process.stdout is not None
        process.stdout.close()
    found = asyncio.run(get())
    assert found is not None and found.data == b"400"


_MAKE = """
async def main():
    store = SQLiteStore(sys.argv[1])
    sys.stdin.read()  # until all are ready
    await store.open()
    now = time.time()
    await store.create(sys.argv[2], Record(b"", 1, now, now + 3600))
    await store.close()
asyncio.run(main())
"""


def test_several_processes_make_the_file_at_once(path: Path) -> None:
    """Workers that start together with no file there make one and all get to write."""
    processes = [_python(_MAKE, path, _key(number), stdin=subprocess.PIPE) for number in range(4)]
    time.sleep(0.3)
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
    assert [process.wait(20) for process in processes] == [0] * 4
    for process in processes:
        assert process.stdout is not None
        process.stdout.close()

    async def check() -> None:
        store = SQLiteStore(path)
        for number in range(4):
            assert await store.load(_key(number)) is not None
        await store.close()

    asyncio.run(check())
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA auto_vacuum").fetchone() == (2,)


# Space


async def test_purge_gives_space_back(path: Path) -> None:
    """When sessions have expired, the file shrinks to what the live ones need."""
    clock = Clock()
    store = SQLiteStore(path, clock=clock)
    for number in range(0, 2000, 100):
        await asyncio.gather(
            *(
                store.create(_key(number + more), _record(data=bytes(1000), expires_at=clock() + 60))
                for more in range(100)
            )
        )
    await store.create(KEY, _record(expires_at=clock() + 600))
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
        keys = [_key(turn * 1000 + number) for number in range(300)]
        await asyncio.gather(*(store.create(key, _record(data=bytes(2000), expires_at=clock() + 60)) for key in keys))
        clock.advance(61)
        assert await store.purge(1000) == 300
        await store.touch(KEY, clock())
        sizes.append(path.stat().st_size + Path(f"{path}-wal").stat().st_size)
    assert max(sizes) < _LOG_LIMIT + 3_000_000
    await store.close()


# Faults. Messages name the file and the way out, and nothing of a session.


async def _both(store: SQLiteStore) -> tuple[str, str]:
    """Return what `open` says, and what the first operation says without `open`."""
    with pytest.raises(ConfigurationError) as opening:
        await store.open()
    with pytest.raises(StoreUnavailable) as using:
        await store.create(KEY, _record(user="penelope", data=b"geheim"))
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
        await store.create(KEY, _record())
    path.unlink()
    await store.create(KEY, _record())
    assert await store.load(KEY) is not None
    await store.close()


async def test_damage_while_in_use(path: Path) -> None:
    """Damage that comes up later makes the store unavailable; it is never taken for an absent session."""
    store = SQLiteStore(path)
    for number in range(300):
        await store.create(_key(number), _record(data=bytes(500)))
    await store.close()
    await store.open()
    with path.open("r+b") as file:
        size = path.stat().st_size
        for page in range(2, size // 4096):
            file.seek(page * 4096)
            file.write(b"\xff" * 4096)
    with pytest.raises(StoreUnavailable, match="damaged") as caught:
        for number in range(300):
            assert await store.load(_key(number)) is not None
    assert str(path) in str(caught.value)
    with pytest.raises(StoreUnavailable, match="damaged"):
        for number in range(300):
            await store.update(_key(number), _record(version=2), version=1)
    await store.close()


async def test_a_deleted_file_is_made_anew(path: Path) -> None:
    """A file that was deleted under the store does not swallow what is saved from then on."""
    store = SQLiteStore(path)
    await store.create(_key(1), _record())
    for name in ("", "-wal", "-shm"):
        Path(f"{path}{name}").unlink(missing_ok=True)
    await store.create(_key(2), _record())
    other = SQLiteStore(path)
    assert await other.load(_key(2)) is not None
    await other.close()
    await store.close()


async def test_a_full_disk(path: Path) -> None:
    """On a full disk a save is refused, what was saved can be read and deleted, and all is well when there is space."""
    store = SQLiteStore(path)
    await store.create(KEY, _record(data=bytes(50_000)))
    worker = store._worker
    assert worker is not None and worker._connection is not None
    connection = worker._connection
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")
    # A group in which one member cannot be done: the others are.
    large, changed, deleted = await asyncio.gather(
        store.create(_key(1), _record(data=bytes(100_000), user="penelope")),
        store.touch(KEY, time.time() + 7200),
        store.delete(_key(2)),
        return_exceptions=True,
    )
    assert isinstance(large, StoreUnavailable) and "free some space" in str(large)
    assert str(path) in str(large) and "penelope" not in str(large)
    assert changed is True and deleted is None
    found = await store.load(KEY)
    assert found is not None and len(found.data) == 50_000
    await store.create(_key(1), _record(data=bytes(100_000)))  # the new connection has no such limit
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
    process = _python(_FILL, path)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    message, saved = output.splitlines()
    assert str(path) in message and "disk" in message and int(saved) > 10


async def test_a_failed_commit_fails_all(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the commit of a group fails, each of its members is told so, and nothing of it is there."""

    class Failing(sqlite3.Connection):
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
    with _lock(path):  # so that both are in one group
        operations = [asyncio.ensure_future(store.create(_key(number), _record())) for number in range(5)]
        await asyncio.sleep(0.05)
        Failing.fail = True
    outcomes = await asyncio.gather(*operations, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [StoreUnavailable] * 5
    assert len({id(outcome) for outcome in outcomes}) == 5
    for number in range(5):
        assert await store.load(_key(number)) is None
        await store.create(_key(number), _record())
    await store.close()


async def test_a_bad_value_fails_alone(path: Path) -> None:
    """A value that cannot be kept fails its own operation; the others of its group are saved."""
    store = SQLiteStore(path)
    await store.open()
    with _lock(path):
        operations = [
            asyncio.ensure_future(store.create(_key(1), _record())),
            asyncio.ensure_future(store.create(_key(2), _record(version=2**70))),
            asyncio.ensure_future(store.create(_key(3), _record(expires_at=float("nan")))),
            asyncio.ensure_future(store.create(_key(4), _record())),
        ]
        await asyncio.sleep(0.05)
    outcomes = await asyncio.gather(*operations, return_exceptions=True)
    assert [type(outcome).__name__ for outcome in outcomes] == [
        "NoneType",
        "OverflowError",
        "IntegrityError",
        "NoneType",
    ]
    there = [await store.load(_key(number)) is not None for number in (1, 2, 3, 4)]
    assert there == [True, False, False, True]
    await store.close()


# Locks


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold the write lock, as a process with an open transaction does."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.close()


async def test_a_lock_that_stays(path: Path) -> None:
    """A save that cannot get the lock is refused after about a second; reads go on; it passes with the lock."""
    store = SQLiteStore(path)
    await store.create(KEY, _record())
    with _lock(path):
        start = time.monotonic()
        save = asyncio.ensure_future(store.update(KEY, _record(version=2), version=1))
        await asyncio.sleep(0.02)
        assert await store.load(KEY) is not None
        assert await store.of_user("ann") == []  # in the thread
        assert time.monotonic() - start < 0.6
        with pytest.raises(StoreUnavailable, match="locked by another process") as caught:
            await save
        assert 0.8 < time.monotonic() - start < 3
        assert str(path) in str(caught.value)
    await store.update(KEY, _record(version=2), version=1)
    await store.close()


async def test_a_lock_that_goes(path: Path) -> None:
    """A save waits for a lock that is held for a moment."""
    store = SQLiteStore(path)
    await store.create(KEY, _record())
    with _lock(path):
        save = asyncio.ensure_future(store.update(KEY, _record(version=2), version=1))
        await asyncio.sleep(0.2)
        assert not save.done()
    await save
    await store.close()


# Tasks, loops, threads, forks


async def test_load_does_not_suspend(path: Path) -> None:
    """Once the file is open, a load is answered in the event loop, without a way through the thread."""
    store = SQLiteStore(path)
    await store.create(KEY, _record())
    load: Any = store.load(KEY)
    with pytest.raises(StopIteration) as finished:
        load.send(None)
    assert finished.value.value.data == b"data"
    await store.close()


async def test_load_in_the_thread(path: Path) -> None:
    """Where the event loop's own connection cannot answer, the thread does."""
    store = SQLiteStore(path)
    await store.create(KEY, _record())
    worker = store._worker
    assert worker is not None and worker.reader is not None
    worker.reader.close()
    found = await asyncio.gather(*(store.load(KEY) for _ in range(10)), store.load(_key(1)))
    assert [record is not None for record in found] == [True] * 10 + [False]
    await store.close()


async def test_a_cancelled_task(path: Path) -> None:
    """A task that stops waiting disturbs no other operation of its group."""
    store = SQLiteStore(path)
    await store.open()
    with _lock(path):
        operations = [asyncio.ensure_future(store.create(_key(number), _record())) for number in range(3)]
        await asyncio.sleep(0.02)
        operations[1].cancel()
        await asyncio.sleep(0.02)
    outcomes = await asyncio.gather(*operations, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [type(None), asyncio.CancelledError, type(None)]
    operation = asyncio.ensure_future(store.create(_key(9), _record()))
    await asyncio.sleep(0)
    operation.cancel()  # perhaps while the thread is at it
    with pytest.raises(asyncio.CancelledError):
        await operation
    assert await store.load(_key(0)) is not None
    await store.close()


async def test_close_while_busy(path: Path) -> None:
    """`close` lets what was asked before it finish, and leaves no thread and no log."""
    store = SQLiteStore(path)
    operations = [asyncio.ensure_future(store.create(_key(number), _record())) for number in range(600)]
    await asyncio.sleep(0)
    await asyncio.gather(store.close(), store.close())
    assert [outcome for outcome in await asyncio.gather(*operations) if outcome is not None] == []
    assert _threads() == []
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert await store.load(_key(599)) is not None  # open again
    await store.close()
    assert _threads() == []


def test_one_loop_after_another(path: Path) -> None:
    """A store that was used in one event loop works in the next, closed or not."""
    store = SQLiteStore(path)
    for number in range(3):
        asyncio.run(store.create(_key(number), _record()))
        assert asyncio.run(store.load(_key(number))) is not None
    asyncio.run(store.close())


def test_several_loops_at_once(path: Path) -> None:
    """Event loops in several threads share one store, and each gets its own answers."""
    store = SQLiteStore(path)
    faults: list[BaseException] = []

    async def main(start: int) -> None:
        for number in range(start, start + 50):
            await store.create(_key(number), _record(data=b"%d" % number))
            found = await store.load(_key(number))
            assert found is not None and found.data == b"%d" % number
            with pytest.raises(Conflict):
                await store.create(_key(number), _record())

    def run(start: int) -> None:
        try:
            asyncio.run(main(start))
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=run, args=(start,)) for start in (0, 1000, 2000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    asyncio.run(store.close())


async def test_a_dropped_store_ends_its_thread(path: Path) -> None:
    """A store that nobody closed and nobody holds any longer leaves no thread."""
    await SQLiteStore(path).create(KEY, _record())


def test_an_app_that_never_closes_can_exit(path: Path) -> None:
    """A process ends although its store is still open."""
    code = "store = SQLiteStore(sys.argv[1])\nasyncio.run(store.load('0' * 64))\nprint('done')"
    process = _python(code, path)
    assert process.communicate(timeout=20)[0] == "done\n" and process.returncode == 0


@posix
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")  # that is what is tested
def test_fork(path: Path) -> None:
    """Parent and child of a fork both go on, while the parent writes; neither loses what it saved."""
    store = SQLiteStore(path)
    children = 3

    async def write(start: int, count: int) -> None:
        for number in range(start, start + count):
            await store.create(_key(number), _record())
            assert await store.load(_key(number)) is not None

    def child(start: int) -> None:
        asyncio.run(write(start, 30))
        asyncio.run(store.close())

    asyncio.run(write(0, 10))
    stop = threading.Event()

    def keep_writing() -> None:
        number = 100_000
        while not stop.is_set():
            asyncio.run(write(number, 5))
            number += 5

    writer = threading.Thread(target=keep_writing)
    writer.start()
    context = multiprocessing.get_context("fork")
    processes = []
    for number in range(children):
        process = context.Process(target=child, args=(1000 * (number + 1),))
        process.start()
        processes.append(process)
    for process in processes:
        process.join(20)
    stop.set()
    writer.join()
    assert [process.exitcode for process in processes] == [0] * children

    async def check() -> None:
        for number in [*range(10), *(1000 * (n + 1) + m for n in range(children) for m in range(30))]:
            assert await store.load(_key(number)) is not None
        await store.close()

    asyncio.run(check())
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def _descriptors_in_a_child(path: Path) -> int:
    """Fork, and return how many descriptors of the file or its siblings the child has."""
    child = os.fork()
    if child == 0:
        count = 99
        try:
            names = []
            for fd in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []:
                with contextlib.suppress(OSError):
                    names.append(os.readlink(f"/proc/self/fd/{fd}"))
            count = sum(name.startswith(str(path)) for name in names)
        finally:
            os._exit(count)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@posix
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_no_connection_crosses_a_fork(path: Path) -> None:
    """The child starts without descriptors of the file: SQLite's locks belong to the process that took them."""
    store = SQLiteStore(path)
    asyncio.run(store.create(KEY, _record()))
    assert _descriptors_in_a_child(path) == 0
    assert asyncio.run(store.load(KEY)) is not None
    asyncio.run(store.close())


@posix
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("how", ["dropped", "closing"])
def test_no_connection_of_a_store_that_is_going_crosses_a_fork(path: Path, how: str) -> None:
    """A thread that has not ended yet holds a connection, whether its store is still there or not."""
    store = SQLiteStore(path)
    asyncio.run(store.create(KEY, _record()))
    (worker,) = [worker for worker in running if worker.thread.name == f"roomkey-{path.name}"]
    if how == "closing":
        with store._lock:
            store._worker = None  # as `close` does before the thread has its order
    del store
    gc.collect()
    assert _descriptors_in_a_child(path) == 0
    worker.jobs.put(None)
    worker.thread.join(10)
    assert not worker.thread.is_alive()


async def test_wipe_takes_no_longer_for_more_sessions(path: Path) -> None:
    """It puts the table aside, and purges empty it, batch by batch, until the file is as small as before."""
    store, other = SQLiteStore(path), SQLiteStore(path)
    await store.open()
    await other.create(KEY, _record())
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
    await other.create(KEY, _record())
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
