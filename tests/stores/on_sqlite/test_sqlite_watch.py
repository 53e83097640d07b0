"""Those who watch one file from several event loops of a process."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

from roomkey.stores.base import Notice, What
from roomkey.stores.sqlite import SQLiteStore
from tests.loop_clock import HANGS
from tests.stores.records import make_key, make_record


async def _see_end(store: SQLiteStore, key: str, ready: threading.Barrier) -> None:
    stands, ended = asyncio.Event(), asyncio.Event()

    def tell(notice: Notice) -> None:
        if notice.what is What.STANDS:
            stands.set()
        elif notice.what is What.ENDED and notice.key == key:
            ended.set()

    leave = store.watch(tell, lambda: [key])
    try:
        async with asyncio.timeout(HANGS):
            await stands.wait()
            await asyncio.to_thread(ready.wait, HANGS)
            await ended.wait()
            await asyncio.to_thread(ready.wait, HANGS)  # to close a file is to open it anew, which counts as a change
    finally:
        leave()
        await store.close()


def test_two_event_loops_watch(tmp_path: Path) -> None:
    """Each of two event loops hears of an end, whichever looks first."""
    path, key, ready = tmp_path / "sessions.sqlite3", make_key(), threading.Barrier(3)
    store, saw = SQLiteStore(path), []

    def watch(number: int) -> None:
        asyncio.run(_see_end(store, key, ready))
        saw.append(number)

    async def end() -> None:
        await asyncio.to_thread(ready.wait, HANGS)
        elsewhere = SQLiteStore(path)
        await elsewhere.delete(key)
        await asyncio.to_thread(ready.wait, HANGS)
        await elsewhere.close()

    async def begin() -> None:
        await store.create(key, make_record())
        await store.close()

    asyncio.run(begin())
    threads = [threading.Thread(target=watch, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    asyncio.run(end())
    for thread in threads:
        thread.join()
    assert sorted(saw) == [0, 1]
