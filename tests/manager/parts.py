"""What the tests of the session manager share: managers, cookies, and scripts in processes of their own."""

import asyncio
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import roomkey
from roomkey import SessionManager
from roomkey.stores.memory import MemoryStore
from roomkey.stores.sqlite import worker
from tests.loop_clock import HANGS

SECRET = "a secret that is long enough for every test here"
SOURCE = Path(roomkey.__file__).resolve().parent.parent


class WaitingStore(MemoryStore):
    """A store in memory that waits before it answers, and has neither `open` nor `close`."""

    never_waits = False

    def __init__(self, **options):
        super().__init__(**options)
        self.failing = set()  # the operations that fail
        self.asked = []

    async def _before(self, name):
        self.asked.append(name)
        await asyncio.sleep(0)
        if name in self.failing:
            raise OSError("the disk is on fire")

    async def load(self, key):
        await self._before("load")
        return await super().load(key)

    async def create(self, key, record):
        await self._before("create")
        await super().create(key, record)

    async def update(self, key, record, *, version):
        await self._before("update")
        await super().update(key, record, version=version)

    async def rotate(self, key, new_key, record, tombstone, *, version):
        await self._before("rotate")
        await super().rotate(key, new_key, record, tombstone, version=version)

    async def touch(self, key, expires_at):
        await self._before("touch")
        return await super().touch(key, expires_at)

    async def delete(self, key):
        await self._before("delete")
        await super().delete(key)

    async def of_user(self, user):
        await self._before("of_user")
        return await super().of_user(user)


def make(store=None, **options):
    """Return a manager; its store is in memory if nothing else is said.

    On a busy machine a store that answers late has not failed, and whoever holds SQLite's lock takes its time.
    """
    worker._PATIENCE = HANGS
    options = {"store": MemoryStore() if store is None else store, "store_timeout": HANGS, **options}
    return SessionManager(secret_key=SECRET, **options)


def values(headers, name):
    """Return the values of the headers of that name, as text."""
    found = []
    for key, value in headers:
        key = key if isinstance(key, str) else key.decode()
        if key.lower() == name:
            found.append(value if isinstance(value, str) else value.decode())
    return found


def cookie_of(headers):
    """Return what the browser sends back of the cookie that was set; None: none was."""
    found = values(headers, "set-cookie")
    return found[-1].split(";")[0] if found else None


async def begin(manager, **data):
    """Return the cookie of a new session with this content."""
    session = await manager.load()
    session.update(data)
    return cookie_of(await manager.commit(session))


def begin_sync(manager, **data):
    """Return the cookie of a new session with this content, made by the blocking calls."""
    session = manager.sync.load()
    session.update(data)
    return cookie_of(manager.sync.commit(session))


def count_sync(manager, cookie, times=1):
    """Count in a session, as often as that, by the blocking calls."""
    for _ in range(times):
        session = manager.sync.load(cookie)
        session.change("n", lambda n: n + 1, 0)
        manager.sync.commit(session)


async def content(manager, cookie):
    """Return what a new request sees in the session."""
    return (await manager.load(cookie)).copy()


def run_script(code, *args, gevent=False, timeout=HANGS):
    """Run Python code in a process of its own; return what it printed. It must end well and say nothing else."""
    code = textwrap.dedent(code)
    if gevent:
        code = "from gevent import monkey\nmonkey.patch_all()\n" + code
    command = [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", code, *map(str, args)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SOURCE), str(Path(__file__).parents[2])])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr + done.stdout
    return done.stdout
