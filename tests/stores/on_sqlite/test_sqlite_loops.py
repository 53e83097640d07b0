"""The store in a file and tasks, event loops, threads and forks."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import multiprocessing
import os
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest

from roomkey.stores.base import Conflict
from roomkey.stores.sqlite import SQLiteStore
from roomkey.stores.sqlite.worker import running
from tests.loop_clock import HANGS
from tests.stores.on_sqlite.parts import KEY, hold_lock, number_key, posix, run_python, store_threads, until_locked_out
from tests.stores.records import make_record


async def test_load_does_not_suspend(path: Path) -> None:
    """Once the file is open, a load is answered in the event loop, without a way through the thread."""
    store = SQLiteStore(path)
    await store.create(KEY, make_record())
    load: Any = store.load(KEY)
    with pytest.raises(StopIteration) as finished:
        load.send(None)
    assert finished.value.value.data == b"data"
    await store.close()


async def test_load_in_the_thread(path: Path) -> None:
    """Where the event loop's own connection cannot answer, the thread does."""
    store = SQLiteStore(path)
    await store.create(KEY, make_record())
    worker = store._worker
    assert worker is not None and worker.reader is not None
    worker.reader.close()
    found = await asyncio.gather(*(store.load(KEY) for _ in range(10)), store.load(number_key(1)))
    assert [record is not None for record in found] == [True] * 10 + [False]
    await store.close()


async def test_a_cancelled_task(path: Path, watched: None) -> None:
    """A task that stops waiting disturbs no other operation of its group."""
    store = SQLiteStore(path, writes_in_thread=True)  # where there is something to cancel
    await store.open()
    with hold_lock(path):
        operations = [asyncio.ensure_future(store.create(number_key(number), make_record())) for number in range(3)]
        await until_locked_out()
        operations[1].cancel()
        await until_locked_out()
    outcomes = await asyncio.gather(*operations, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [type(None), asyncio.CancelledError, type(None)]
    operation = asyncio.ensure_future(store.create(number_key(9), make_record()))
    await asyncio.sleep(0)
    operation.cancel()  # perhaps while the thread is at it
    with pytest.raises(asyncio.CancelledError):
        await operation
    assert await store.load(number_key(0)) is not None
    await store.close()


async def test_close_while_busy(path: Path) -> None:
    """`close` lets what was asked before it finish, and leaves no thread and no log."""
    store = SQLiteStore(path)
    operations = [asyncio.ensure_future(store.create(number_key(number), make_record())) for number in range(600)]
    await asyncio.sleep(0)
    await asyncio.gather(store.close(), store.close())
    assert [outcome for outcome in await asyncio.gather(*operations) if outcome is not None] == []
    assert store_threads() == []
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert await store.load(number_key(599)) is not None  # open again
    await store.close()
    assert store_threads() == []


def test_one_loop_after_another(path: Path) -> None:
    """A store that was used in one event loop works in the next, closed or not."""
    store = SQLiteStore(path)
    for number in range(3):
        asyncio.run(store.create(number_key(number), make_record()))
        assert asyncio.run(store.load(number_key(number))) is not None
    asyncio.run(store.close())


def test_several_loops_at_once(path: Path) -> None:
    """Event loops in several threads share one store, and each gets its own answers."""
    store = SQLiteStore(path)
    faults: list[BaseException] = []

    async def main(start: int) -> None:
        for number in range(start, start + 50):
            await store.create(number_key(number), make_record(data=b"%d" % number))
            found = await store.load(number_key(number))
            assert found is not None and found.data == b"%d" % number
            with pytest.raises(Conflict):
                await store.create(number_key(number), make_record())

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
    await SQLiteStore(path).create(KEY, make_record())


def test_an_app_that_never_closes_can_exit(path: Path) -> None:
    """A process ends although its store is still open."""
    code = "store = SQLiteStore(sys.argv[1])\nasyncio.run(store.load('0' * 64))\nprint('done')"
    process = run_python(code, path)
    assert process.communicate(timeout=HANGS)[0] == "done\n" and process.returncode == 0


@posix
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")  # that is what is tested
def test_fork(path: Path) -> None:
    """Parent and child of a fork both go on, while the parent writes; neither loses what it saved."""
    store = SQLiteStore(path)
    children = 3

    async def write(start: int, count: int) -> None:
        for number in range(start, start + count):
            await store.create(number_key(number), make_record())
            assert await store.load(number_key(number)) is not None

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
        process.join(HANGS)
    stop.set()
    writer.join()
    assert [process.exitcode for process in processes] == [0] * children

    async def check() -> None:
        for number in [*range(10), *(1000 * (n + 1) + m for n in range(children) for m in range(30))]:
            assert await store.load(number_key(number)) is not None
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
    asyncio.run(store.create(KEY, make_record()))
    assert _descriptors_in_a_child(path) == 0
    assert asyncio.run(store.load(KEY)) is not None
    asyncio.run(store.close())


@posix
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("how", ["dropped", "closing"])
def test_no_connection_of_a_store_that_is_going_crosses_a_fork(path: Path, how: str) -> None:
    """A thread that has not ended yet holds a connection, whether its store is still there or not."""
    store = SQLiteStore(path)
    asyncio.run(store.create(KEY, make_record()))
    (worker,) = [worker for worker in running if worker.thread.name == f"roomkey-{path.name}"]
    if how == "closing":
        with store._lock:
            store._worker = None  # as `close` does before the thread has its order
    del store
    gc.collect()
    assert _descriptors_in_a_child(path) == 0
    worker.jobs.put(None)
    worker.thread.join(HANGS)
    assert not worker.thread.is_alive()
