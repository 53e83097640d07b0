"""`manager.sync` where processes begin and end: forks, and the end of the interpreter."""

import os

import pytest

from tests.manager.parts import run_script

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")

# What the scripts begin with.
PROLOGUE = """
import asyncio, os, sys, threading, time
from roomkey import StoreUnavailable
from tests.manager.parts import WaitingStore, begin_sync as begin, cookie_of, count_sync as count, make

def wait_for(child):
    assert os.waitpid(child, 0)[1] == 0, "the child has failed"
"""


@pytest.fixture(params=["sqlite", "redis"])
def url(request, tmp_path):
    """A store that several processes share."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/sessions.db"
    return request.getfixturevalue("redis_server").url


def run(code, *args, **options):
    return run_script(PROLOGUE + code, *args, **options)


# --- forks ------------------------------------------------------------------------------------------------------------


def test_a_fork_before_the_first_use(url):
    """The manager is made in the parent, as with a preloaded app, and each process has a thread of its own."""
    said = run(
        """
manager = make(sys.argv[1])
manager.sync
reading, writing = os.pipe()
child = os.fork()
if child == 0:
    os.write(writing, begin(manager, user_id=7).encode())
    sys.exit()
cookie = os.read(reading, 1000).decode()
wait_for(child)
count(manager, cookie)
print(manager.sync.load(cookie).copy())
""",
        url,
    )
    assert said == "{'user_id': 7, 'n': 1}\n"


def test_a_fork_after_the_first_use(url):
    """The child makes a thread of its own, and the parent keeps its thread and its connections."""
    said = run(
        """
manager = make(sys.argv[1])
cookie = begin(manager, user_id=7)
for _ in range(3):
    child = os.fork()
    if child == 0:
        count(manager, cookie)
        sys.exit()
    count(manager, cookie)
    wait_for(child)
    count(manager, cookie)
print(manager.sync.load(cookie)["n"])
""",
        url,
    )
    assert said == "9\n"


def test_a_fork_of_a_fork(url):
    """And a child that closes, or never asks for anything."""
    said = run(
        """
manager = make(sys.argv[1])
cookie = begin(manager, user_id=7)
child = os.fork()
if child == 0:
    count(manager, cookie)
    grandchild = os.fork()
    if grandchild == 0:
        count(manager, cookie)
        manager.sync.close()
        count(manager, cookie)
        sys.exit()
    wait_for(grandchild)
    idle = os.fork()
    if idle == 0:
        sys.exit()
    wait_for(idle)
    count(manager, cookie)
    sys.exit()
wait_for(child)
count(manager, cookie)
print(manager.sync.load(cookie)["n"])
""",
        url,
    )
    assert said == "5\n"


def test_forks_while_other_threads_are_served(url):
    """Whatever a thread of the parent's holds in the moment of the fork, the child can work."""
    said = run(
        """
manager = make(sys.argv[1])
cookie = begin(manager, user_id=7)
done, stopping = [0] * 4, threading.Event()

def work(number):
    while not stopping.is_set():
        count(manager, cookie)
        done[number] += 1

threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
for thread in threads:
    thread.start()
for _ in range(10):
    before = sum(done)
    child = os.fork()
    if child == 0:
        count(manager, cookie, 3)
        os._exit(0)
    wait_for(child)
    while sum(done) == before:
        time.sleep(0.001)
stopping.set()
for thread in threads:
    thread.join()
print(manager.sync.load(cookie)["n"] == sum(done) + 30)
""",
        url,
    )
    assert said == "True\n"


def test_a_fork_while_a_thread_waits():
    """The parent's call goes on. The child does not wait for it, and its end does not disturb it."""
    said = run(
        """
reached, gate = threading.Event(), threading.Event()

class Slow(WaitingStore):
    async def load(self, key):
        reached.set()
        while not gate.is_set():
            await asyncio.sleep(0.001)
        return await super().load(key)

manager = make(Slow())
cookie = begin(manager, user_id=7)
got = []
asking = threading.Thread(target=lambda: got.append(manager.sync.load(cookie)["user_id"]))
asking.start()
reached.wait()
child = os.fork()
if child == 0:
    gate.set()
    assert manager.sync.load(cookie)["user_id"] == 7
    sys.exit()
wait_for(child)
assert got == []
gate.set()
asking.join()
print(got)
"""
    )
    assert said == "[7]\n"


def test_workers_of_a_preloading_server(url):
    """As gunicorn does: the app is loaded once, workers are forked from it and serve several threads each."""
    said = run(
        """
manager = make(sys.argv[1])
cookie = begin(manager, user_id=7)  # while the app is loaded
workers = []
for _ in range(2):
    worker = os.fork()
    if worker == 0:
        threads = [threading.Thread(target=count, args=(manager, cookie, 5)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        sys.exit()
    workers.append(worker)
for worker in workers:
    wait_for(worker)
print(manager.sync.load(cookie)["n"])
""",
        url,
    )
    assert said == "40\n"


def test_a_fork_of_which_python_hears_nothing(redis_server):
    """uWSGI forks in C. Unless it is told to, it does not call what Python does in the child of a fork."""
    said = run(
        """
import ctypes
manager = make(sys.argv[1])
cookie = begin(manager, user_id=7)
child = ctypes.PyDLL(None).fork()
if child == 0:
    count(manager, cookie)
    manager.sync.close()
    count(manager, cookie)
    os._exit(0)
wait_for(child)
count(manager, cookie)
print(manager.sync.load(cookie)["n"])
""",
        redis_server.url,
    )
    assert said == "3\n"


def test_processes_of_multiprocessing():
    """Its children end without what Python does at the end of a process."""
    said = run(
        """
import multiprocessing
manager = make(WaitingStore())
cookie = begin(manager, user_id=7)
context = multiprocessing.get_context("fork")
child = context.Process(target=count, args=(manager, cookie))
child.start()
child.join()
print(child.exitcode, manager.sync.load(cookie).copy())
"""
    )
    assert said == "0 {'user_id': 7}\n"  # the store is in memory: the child's is a copy


# --- the end of the interpreter ---------------------------------------------------------------------------------------

# A store that says when it is closed.
SAYING = """
class Saying(WaitingStore):
    async def open(self):
        pass

    async def close(self):
        print("closed", flush=True)
"""


def test_the_store_is_closed_when_the_process_ends(url):
    """Nobody has called `close`, and nothing is said on stderr."""
    assert run("manager = make(sys.argv[1]); begin(manager, user_id=7)", url) == ""
    assert run(SAYING + "manager = make(Saying()); begin(manager, user_id=7)") == "closed\n"
    assert run(SAYING + "manager = make(Saying()); begin(manager, user_id=7); manager.sync.close()") == "closed\n"
    assert run(SAYING + "manager = make(Saying()); manager.sync") == ""


def test_what_a_daemon_thread_waits_for_is_finished_first():
    """A commit that has begun is done, and the store closed after it."""
    said = run(
        SAYING
        + """
reached = threading.Event()

class Slow(Saying):
    async def update(self, key, record, *, version):
        reached.set()
        await asyncio.sleep(0.1)
        await super().update(key, record, version=version)
        print("saved", flush=True)

manager = make(Slow())
cookie = begin(manager, user_id=7)
threading.Thread(target=count, args=(manager, cookie), daemon=True).start()
reached.wait()
"""
    )
    assert said == "saved\nclosed\n"


def test_what_never_ends_does_not_hold_up_the_end():
    """It is given up after a while."""
    said = run(
        """
reached = threading.Event()

async def never():
    reached.set()
    while True:
        await asyncio.sleep(0.01)

def ask():
    try:
        manager.sync.run(never())
    except StoreUnavailable:
        pass

manager = make(WaitingStore(), store_timeout=1)
threading.Thread(target=ask, daemon=True).start()
reached.wait()
print("the end")
"""
    )
    assert said == "the end\n"


def test_a_store_that_cannot_be_closed_does_not_hold_up_the_end():
    """One that hangs is left, and one that fails is nobody's business any more."""
    for ending in ("await asyncio.Event().wait()", "raise OSError"):
        said = run(
            f"""
class Bad(WaitingStore):
    async def open(self):
        pass

    async def close(self):
        {ending}

manager = make(Bad(), store_timeout=1)
manager.sync.run(asyncio.sleep(0))
print("the end")
"""
        )
        assert said == "the end\n"


def test_threads_that_outlive_the_main_one_are_served():
    """The interpreter waits for them before it ends."""
    said = run(
        SAYING
        + """
manager = make(Saying())
cookie = begin(manager, user_id=7)

def late():
    threading.main_thread().join()
    count(manager, cookie)
    print(manager.sync.load(cookie)["n"], flush=True)

threading.Thread(target=late).start()
"""
    )
    assert said == "1\nclosed\n"
