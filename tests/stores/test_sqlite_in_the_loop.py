"""Writes in the event loop: which are done there, when they go to the store's thread, and that neither loses any."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from roomkey.errors import StoreUnavailable
from roomkey.stores.base import Conflict, Store
from roomkey.stores.sqlite import SQLiteStore, in_loop, log
from roomkey.testing import Clock, StoreContract
from tests.stores.sqlite_tools import KEY, Faults, error, key, locked, record

WAITS = "waits"


def _at_once(operation: Coroutine[Any, Any, Any]) -> Any:
    """Run it up to its first wait. Return its answer, or `WAITS` if it has none by then; it is not run on."""
    try:
        operation.send(None)
    except StopIteration as stop:
        return stop.value
    operation.close()
    return WAITS


async def _was_at_once(operation: Coroutine[Any, Any, Any]) -> bool:
    """Run it to its end, and return whether it did without a wait."""
    task = asyncio.ensure_future(operation)
    await asyncio.sleep(0)
    at_once = task.done()
    await task
    return at_once


class Time:
    """The monotonic clock by which the event loop judges its writes: it moves when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sessions.sqlite3"


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Faults:
    return Faults(monkeypatch)


@pytest.fixture(autouse=True)
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    """No write is slow, and no rest ends, but where the test says so."""
    time = Time()
    monkeypatch.setattr(in_loop, "_monotonic", time)
    return time


@contextlib.asynccontextmanager
async def _opened(path: Path, **options: Any) -> Any:
    store = SQLiteStore(path, **options)
    await store.open()
    await store.create(KEY, record())
    yield store
    await store.close()


class TestWritesInThread(StoreContract):
    """With all writes in the thread the store is the same."""

    def setup_method(self) -> None:
        self.directory = tempfile.TemporaryDirectory()

    def teardown_method(self) -> None:
        self.directory.cleanup()

    async def make(self, clock: Clock) -> Store:
        return SQLiteStore(Path(self.directory.name) / "s.sqlite3", clock=clock, writes_in_thread=True)


# Where a write is done


async def test_a_lone_write_does_not_wait(path: Path) -> None:
    """Everything that is one statement is done before the coroutine first gives the event loop back."""
    tombstone = record(version=3, data=b"", successor=key(2))
    async with _opened(path) as store:
        for operation, answer in [
            (store.create(key(1), record(user="ann")), None),
            (store.update(key(1), record(version=2, user="ben"), version=1), None),
            (store.touch(key(1), record().expires_at + 60), True),
            (store.touch(key(9), record().expires_at), False),
            (store.rotate(key(1), key(2), record(version=3), tombstone, version=2), None),
            (store.delete(key(1)), None),
        ]:
            assert _at_once(operation) is answer
            await asyncio.sleep(0)  # a request is not alone in its tick for long
        assert await store.load(key(1)) is None
        assert (await store.load(key(2))).version == 3


async def test_a_conflict_is_raised_at_once(path: Path) -> None:
    """A write that comes too late is told so without a way through the thread."""
    tombstone = record(version=2, data=b"", successor=key(1))
    async with _opened(path) as store:
        for operation in [
            store.create(KEY, record()),
            store.update(KEY, record(version=3), version=2),
            store.rotate(KEY, key(1), record(version=3), tombstone, version=2),
        ]:
            with pytest.raises(Conflict):
                _at_once(operation)
            await asyncio.sleep(0)


@pytest.mark.parametrize(
    "options", [{"writes_in_thread": True}, {"synchronous": "FULL"}], ids=["writes_in_thread", "FULL"]
)
async def test_writes_that_stay_in_the_thread(path: Path, options: dict[str, Any]) -> None:
    """An option keeps them there, and so does a commit that waits for the disk. Loads do not wait all the same."""
    async with _opened(path, **options) as store:
        for operation in [store.create(key(1), record()), store.touch(KEY, 0), store.delete(key(2))]:
            assert not await _was_at_once(operation)
        assert _at_once(store.load(KEY)) is not None


@pytest.mark.parametrize("synchronous", ["NORMAL", "FULL"])
async def test_both_connections_have_the_same_settings(path: Path, synchronous: Literal["NORMAL", "FULL"]) -> None:
    """They differ in nothing that durability or the log depends on, and neither waits or moves the log by itself."""
    async with _opened(path, synchronous=synchronous) as store:
        for connection in store._worker._connection, store._worker.in_loop.connection:
            found = [
                connection.execute(f"PRAGMA {name}").fetchone()[0]
                for name in (
                    "synchronous",
                    "journal_size_limit",
                    "wal_autocheckpoint",
                    "trusted_schema",
                    "busy_timeout",
                )
            ]
            assert found == [{"NORMAL": 1, "FULL": 2}[synchronous], 8 * 1024 * 1024, 0, 0, 0]


async def test_a_large_session_is_written_in_the_thread(path: Path) -> None:
    """What takes long by its size alone does not hold up the event loop."""
    async with _opened(path) as store:
        assert await _was_at_once(store.create(key(1), record(data=bytes(50_000))))
        assert not await _was_at_once(store.create(key(2), record(data=bytes(100_000))))


async def test_a_value_that_cannot_be_kept(path: Path) -> None:
    """It is refused as in the thread, and the next write is done in the event loop."""
    async with _opened(path) as store:
        with pytest.raises(OverflowError):
            await store.create(key(1), record(version=2**70))
        with pytest.raises(sqlite3.IntegrityError):
            await store.create(key(1), record(expires_at=float("nan")))
        with pytest.raises(sqlite3.IntegrityError):
            await store.update(KEY, record(version=2, expires_at=float("nan")), version=1)
        assert await _was_at_once(store.create(key(1), record()))


async def test_a_clock_that_raises(path: Path) -> None:
    """Its error goes to the caller, and nothing is left locked."""
    broken = False

    def clock() -> float:
        return 1 / 0 if broken else 1_000_000.0

    async with _opened(path, clock=clock) as store:
        broken = True
        for operation in store.load(KEY), store.delete(KEY):
            with pytest.raises(ZeroDivisionError):
                _at_once(operation)
        broken = False
        assert await _was_at_once(store.delete(KEY))


# The first sign of waiting


async def test_a_lock_is_not_waited_for(path: Path, time: Time) -> None:
    """While another process writes the thread waits for it; it goes on with all writes for 20 ms of calm."""
    async with _opened(path) as store:
        with locked(path):
            write = asyncio.ensure_future(store.update(KEY, record(version=2), version=1))
            await asyncio.sleep(0)
            assert not write.done()
            assert _at_once(store.load(KEY)) is not None
        await write
        time.now += 0.019
        assert not await _was_at_once(store.touch(KEY, 0))
        time.now += 0.002
        assert await _was_at_once(store.touch(KEY, 0))


async def test_what_is_queued_is_not_overtaken(path: Path, time: Time) -> None:
    """While a write waits in the thread, later ones queue behind it."""
    async with _opened(path) as store:
        with locked(path):
            first = asyncio.ensure_future(store.wipe())
            await asyncio.sleep(0)
            time.now += 60  # no rest holds it back
            second = asyncio.ensure_future(store.create(KEY, record(data=b"after")))
            await asyncio.sleep(0)
            assert not second.done()
        await asyncio.gather(first, second)
        found = await store.load(KEY)
        assert found is not None and found.data == b"after"


@pytest.mark.parametrize(("took", "rest"), [(0.003, 0.25), (0.02, 1.0), (5.0, 30.0)])
async def test_a_slow_disk_is_kept_out_of_the_loop(
    path: Path, faults: Faults, time: Time, took: float, rest: float
) -> None:
    """After a slow write all go to the thread, fifty times as long as it took, within bounds."""
    async with _opened(path) as store:

        def meet(sql: str) -> None:
            if sql.lstrip().startswith("UPDATE"):
                time.now += took

        faults.meet = meet
        assert await _was_at_once(store.touch(KEY, 0))
        faults.meet = lambda sql: None
        time.now += 0.99 * rest
        assert not await _was_at_once(store.touch(KEY, 0))
        time.now += 0.02 * rest
        assert await _was_at_once(store.touch(KEY, 0))


async def test_a_full_disk(path: Path, faults: Faults, time: Time) -> None:
    """Nothing was written then, so the thread tries once more, and says what is wrong; loads go on."""
    async with _opened(path) as store:
        with faults.raising(lambda: error(sqlite3.SQLITE_FULL), "INSERT") as met:
            with pytest.raises(StoreUnavailable, match="free some space"):
                await store.create(key(1), record())
            assert len(met) == 2
            assert _at_once(store.load(KEY)) is not None
            with pytest.raises(StoreUnavailable, match="free some space"):
                await store.create(key(1), record())
            assert len(met) == 3  # in the thread alone
        assert not await _was_at_once(store.create(key(1), record()))
        time.now += 1.1
        assert await _was_at_once(store.create(key(2), record()))


async def test_what_may_be_on_the_disk_is_not_tried_again(path: Path, faults: Faults) -> None:
    """After an I/O error nobody knows what was written: that is what the caller hears."""
    async with _opened(path) as store:
        with faults.raising(lambda: error(sqlite3.SQLITE_IOERR), "UPDATE") as met:
            with pytest.raises(StoreUnavailable, match="failing") as caught:
                _at_once(store.update(KEY, record(version=2, user="penelope"), version=1))
            assert len(met) == 1
        assert str(path) in str(caught.value) and "penelope" not in str(caught.value)
        await store.update(KEY, record(version=2), version=1)


@pytest.mark.parametrize("code", [sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN])
async def test_other_faults_are_the_threads(path: Path, faults: Faults, code: int) -> None:
    """It opens the file anew, and where that mends the fault nobody hears of it."""
    async with _opened(path) as store:
        before = store._worker.in_loop.connection

        def meet(sql: str) -> None:
            if sql.lstrip().startswith("UPDATE"):
                faults.meet = lambda sql: None
                raise error(code)

        faults.meet = meet
        assert await store.touch(KEY, 0) is True
        with faults.raising(lambda: error(code), "UPDATE"), pytest.raises(StoreUnavailable):
            await store.touch(KEY, 0)
        assert await store.touch(KEY, 0) is True
        assert store._worker.in_loop.connection not in (None, before)


# One tick of the event loop


async def test_a_crowd_does_not_stall_the_loop(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 64 requests that are ready at once a few write in the event loop. The others share commits in the thread."""
    in_the_loop = 0
    write = in_loop.InLoop._write

    def count(*args: Any) -> Any:
        nonlocal in_the_loop
        in_the_loop += 1
        return write(*args)

    monkeypatch.setattr(in_loop.InLoop, "_write", count)
    statements: list[str] = []
    async with _opened(path) as store:
        store._worker._connection.set_trace_callback(statements.append)
        in_the_loop = 0
        with store._worker._busy:  # as if the thread were slow
            tasks = [asyncio.ensure_future(store.create(key(number), record())) for number in range(64)]
            for _ in range(3):
                await asyncio.sleep(0)
            assert in_the_loop == sum(task.done() for task in tasks) in (3, 4)
        await asyncio.gather(*tasks)
        assert statements.count("BEGIN IMMEDIATE") <= 2
        assert all([await store.load(key(number)) for number in range(64)])


async def test_one_who_never_waits_leaves_the_others_their_turn(path: Path) -> None:
    """A coroutine that does nothing but write lets the event loop go on after every few writes."""
    ticks = 0

    async def count() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    async with _opened(path) as store:
        counting = asyncio.ensure_future(count())
        await asyncio.sleep(0)
        for number in range(100):
            await store.touch(KEY, record().expires_at + number)
        assert ticks >= 20
        counting.cancel()


def test_an_event_loop_that_ended_counts_no_more(path: Path) -> None:
    """What was written in its last tick does not keep the next event loop from writing."""
    store = SQLiteStore(path)

    async def to_the_brim() -> list[Any]:
        answers = [_at_once(store.touch(KEY, 0)) for _ in range(4)]
        asyncio.get_running_loop().stop()  # the end of this tick never comes
        return answers

    asyncio.run(store.create(KEY, record()))
    for _ in range(3):
        event_loop = asyncio.new_event_loop()
        task = event_loop.create_task(to_the_brim())
        event_loop.run_forever()
        assert task.result() == [True] * 4
        event_loop.close()
    asyncio.run(store.close())


# Beside everything else


def test_several_event_loops_lose_no_step(path: Path) -> None:
    """Event loops in several threads share the connection: each step of each of them counts."""
    store = SQLiteStore(path)
    asyncio.run(store.create(KEY, record(data=b"0")))
    faults: list[BaseException] = []

    async def count() -> None:
        for _ in range(100):
            while True:
                found = await store.load(KEY)
                assert found is not None
                step = record(version=found.version + 1, data=b"%d" % (int(found.data) + 1))
                with contextlib.suppress(Conflict):
                    await store.update(KEY, step, version=found.version)
                    break

    def run() -> None:
        try:
            asyncio.run(count())
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = asyncio.run(store.load(KEY))
    asyncio.run(store.close())
    assert faults == [] and found is not None and found.data == b"400"


async def test_another_event_loop_is_not_waited_for(path: Path) -> None:
    """While another thread uses the connection, loads and writes go to the store's thread."""
    async with _opened(path) as store:
        with store._worker.in_loop.lock:
            assert not await _was_at_once(store.touch(KEY, 0))
            assert not await _was_at_once(store.load(KEY))
        assert await _was_at_once(store.touch(KEY, 0))
        assert await _was_at_once(store.load(KEY))


async def test_close_and_open_again_while_writes_run(path: Path) -> None:
    """What was acknowledged is there, whoever closed the store in between."""
    store = SQLiteStore(path)
    saved: list[int] = []
    closing = True

    async def write(start: int) -> None:
        for number in range(start, start + 200):
            await store.create(key(number), record())
            saved.append(number)

    async def close() -> None:
        while closing:
            await store.close()
            await asyncio.sleep(0)

    closer = asyncio.ensure_future(close())
    await asyncio.gather(*(write(start) for start in (0, 1000, 2000)))
    closing = False
    await closer
    assert len(saved) == 600
    assert all([await store.load(key(number)) for number in saved])
    await store.close()
    assert [file.name for file in path.parent.iterdir()] == [path.name]


async def test_purge_and_wipe_beside_writes(path: Path) -> None:
    """A wipe ends what was there before it and nothing that came after; a purge takes what expired and no more."""
    store, other = SQLiteStore(path), SQLiteStore(path)
    going = True
    purged = 0

    async def purge() -> None:
        nonlocal purged
        while going:
            purged += await other.purge(50)

    purging = asyncio.ensure_future(purge())
    for turn in range(5):
        before, after = (range(start + 1000 * turn, start + 1000 * turn + 50) for start in (0, 500))
        for number in before:
            await store.create(key(number), record())
        await other.wipe()
        for number in after:
            await store.create(key(number), record())
        assert not any([await store.load(key(number)) for number in before])
        assert all([await store.load(key(number)) for number in after])
    going = False
    await purging
    for _ in range(100):
        purged += await other.purge(50)
    assert purged == 5 * 50 + 4 * 50
    await store.close()
    await other.close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("SELECT count(*) FROM session").fetchone() == (50,)


async def test_a_file_that_was_moved_away_takes_no_write(path: Path) -> None:
    """The next write goes to a new file under the path, not to the one that was moved."""
    moved = path.with_name("moved")
    async with _opened(path) as store:
        await store.close()
        await store.open()
        assert await _was_at_once(store.touch(KEY, 0))
        path.rename(moved)
        before = moved.read_bytes()
        assert not await _was_at_once(store.create(key(1), record()))
        assert await _was_at_once(store.create(key(2), record()))
        other = SQLiteStore(path)
        assert all([await other.load(key(number)) for number in (1, 2)])
        assert await other.load(KEY) is None
        await other.close()
    assert moved.read_bytes() == before


async def test_who_only_reads_notices_that_the_file_was_moved(path: Path) -> None:
    """Within a second of the store's clock."""
    clock = Clock()
    async with _opened(path, clock=clock) as store:
        assert await store.load(KEY) is not None
        path.rename(path.with_name("moved"))
        clock.advance(1)
        assert await store.load(KEY) is None
        await store.create(KEY, record())
        assert await store.load(KEY) is not None


@pytest.mark.skipif(os.name != "posix", reason="Windows has no forks")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")  # that is what is tested
def test_parent_and_child_of_a_fork_write_in_their_loops(path: Path) -> None:
    """Both begin anew: the first write of each opens the file, and from the second on they write in the event loop."""
    store = SQLiteStore(path)

    async def write(start: int) -> bool:
        await store.create(key(start), record())
        return await _was_at_once(store.create(key(start + 1), record()))

    assert asyncio.run(write(0))
    for start in (100, 200, 300):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                status = 0 if asyncio.run(write(start)) else 2
                asyncio.run(store.close())
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert asyncio.run(write(start + 50))

    async def check() -> None:
        for start in (0, 100, 150, 200, 250, 300, 350):
            assert await store.load(key(start)) is not None and await store.load(key(start + 1)) is not None
        await store.close()

    asyncio.run(check())


_WRITE_UNTIL_KILLED = """
import asyncio, sys
from roomkey.stores.sqlite import SQLiteStore
from tests.stores.sqlite_tools import key, record

async def main():
    store = SQLiteStore(sys.argv[1])
    for number in range(10**9):
        await store.create(key(number), record(data=b"1"))
        await store.update(key(number), record(data=b"2", version=2), version=1)
        sys.stdout.write(f"{number}\\n")
        sys.stdout.flush()

asyncio.run(main())
"""


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such signal")
def test_nothing_acknowledged_is_missing_after_kill(path: Path) -> None:
    """A process that is killed while it writes alone, in its event loop, loses nothing that it was told is saved."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [*sys.path, os.getcwd()]))}
    for turn in range(3):
        path.unlink(missing_ok=True)
        command = [sys.executable, "-c", _WRITE_UNTIL_KILLED, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
            assert process.stdout is not None
            told = [process.stdout.readline() for _ in range(500 + 400 * turn)]  # past a move of the log
            process.send_signal(signal.SIGKILL)
            told += process.stdout.readlines()
        numbers = [int(line) for line in told if line.endswith("\n")]
        assert len(numbers) >= 500
        with contextlib.closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            saved = {name for (name,) in connection.execute("SELECT key FROM session WHERE data = x'32'")}
        assert [number for number in numbers if key(number) not in saved] == []


# The write-ahead log


def _log_size(path: Path) -> int:
    return Path(f"{path}-wal").stat().st_size


async def test_the_log_stays_short(path: Path) -> None:
    """However fast the event loop writes, the log is moved into the file, and starts over."""
    async with _opened(path) as store:
        largest = 0
        for version in range(1, 4000):
            await store.update(KEY, record(version=version + 1, data=bytes(4000)), version=version)
            largest = max(largest, _log_size(path))
        assert largest < 12_000_000  # bytes; all of it together is 32,000,000


async def test_no_write_gets_in_while_the_log_is_finished(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last piece is moved, and the new log begun, while writes wait for the thread. Loads do not."""
    reached, go_on = threading.Event(), threading.Event()
    write_nothing = log.write_nothing

    def hold(connection: sqlite3.Connection) -> None:
        reached.set()
        assert go_on.wait(30)
        write_nothing(connection)

    monkeypatch.setattr(log, "write_nothing", hold)
    monkeypatch.setattr(log, "_DUE", 1)
    async with _opened(path) as store:
        assert await asyncio.to_thread(reached.wait, 30)
        write = asyncio.ensure_future(store.touch(KEY, 0))
        await asyncio.sleep(0)
        assert not write.done()
        assert _at_once(store.load(KEY)) is not None
        go_on.set()
        assert await write is True


@contextlib.contextmanager
def _read_for_long(path: Path) -> Iterator[None]:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN")
        connection.execute("SELECT count(*) FROM session").fetchone()
        yield


async def test_a_reader_that_stays_in_a_transaction(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It cannot keep anybody from writing. The log says that it grows, and again when it has doubled."""
    monkeypatch.setattr(log, "_HUGE", 4000)
    with caplog.at_level(logging.WARNING, logger="roomkey"):
        async with _opened(path) as store:
            version = 1

            async def write(times: int) -> None:
                nonlocal version
                for _ in range(times):
                    await store.update(KEY, record(version=version + 1), version=version)
                    version += 1

            await write(1)
            with _read_for_long(path):
                await write(6000)
                assert len(caplog.messages) == 1
                await write(6000)
            grown = _log_size(path)
            assert grown > 12_000 * 4096
            assert all(
                message.startswith(f"SQLite file {path}-wal has grown to ") and "end its transaction" in message
                for message in caplog.messages
            )
            await write(4000)
            assert _log_size(path) < grown / 2
    assert len(caplog.records) == 2
