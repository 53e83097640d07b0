"""`manager.sync` under gevent's monkey patching: a real thread for the loop, and one greenlet that waits."""

import os

import pytest

from tests.manager.parts import run_script

pytest.importorskip("gevent", reason="gevent is not installed")

PROLOGUE = """
import asyncio, os, sys, threading, time
import gevent
from gevent import monkey
from tests.manager.parts import WaitingStore, begin_sync as begin, cookie_of, count_sync as count, make
"""


@pytest.fixture(params=["memory", "sqlite", "redis"])
def url(request, tmp_path):
    if request.param == "memory":
        return "memory://"
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/sessions.db"
    return request.getfixturevalue("redis_server").url


def run(code, *args):
    return run_script(PROLOGUE + code, *args, gevent=True)


def test_the_loop_runs_in_a_real_thread():
    """Not in a greenlet of the thread that asks: the patched `threading` would make one."""
    said = run(
        """
ident = monkey.get_original("_thread", "get_ident")
manager = make(WaitingStore())

async def where():
    await asyncio.sleep(0)
    return ident()

print(manager.sync.run(where()) != ident(), manager.sync.run(where()) == manager.sync.run(where()))
"""
    )
    assert said == "True True\n"


def test_the_apps_own_asyncio_run_works(url):
    """Before, between and after calls, and with calls inside it."""
    said = run(
        """
manager = make(sys.argv[1])

async def app(cookie):
    await asyncio.sleep(0)
    count(manager, cookie)
    await asyncio.sleep(0)
    return manager.sync.load(cookie)["n"]

assert asyncio.run(asyncio.sleep(0, 1)) == 1
cookie = begin(manager, user_id=7)
print([asyncio.run(app(cookie)) for _ in range(3)])
count(manager, cookie)
print(manager.sync.load(cookie)["n"])
""",
        url,
    )
    assert said == "[1, 2, 3]\n4\n"


def test_the_other_greenlets_go_on_meanwhile():
    """The store answers only after another greenlet has had its turn."""
    said = run(
        """
gate = []

class Slow(WaitingStore):
    async def load(self, key):
        while not gate:
            await asyncio.sleep(0.001)
        return await super().load(key)

manager = make(Slow())
cookie = begin(manager, user_id=7)
asking = [gevent.spawn(manager.sync.load, cookie) for _ in range(3)]
gevent.sleep(0.01)
print([greenlet.ready() for greenlet in asking])
gate.append(True)
gevent.joinall(asking, raise_error=True)
print([greenlet.value["user_id"] for greenlet in asking])
"""
    )
    assert said == "[False, False, False]\n[7, 7, 7]\n"


def test_no_running_loop_is_seen_by_the_other_greenlets():
    """What waits for a moment in place, over a store that never waits, lets them run loops of their own."""
    said = run(
        """
from roomkey.sync.in_place import run_in_place

def other():
    gevent.sleep(0.01)
    return asyncio.run(asyncio.sleep(0, "mine"))

greenlet = gevent.spawn(other)
run_in_place(asyncio.sleep(0.1))
print(greenlet.get())
"""
    )
    assert said == "mine\n"


def test_a_counter_under_many_greenlets_loses_nothing(url):
    """They take turns between load and commit, so that the commits meet."""
    said = run(
        """
manager = make(sys.argv[1])
cookie = begin(manager, user_id=7)

def work():
    for _ in range(5):
        session = manager.sync.load(cookie)
        gevent.sleep(0)
        session.change("n", lambda n: n + 1, 0)
        manager.sync.commit(session)

gevent.joinall([gevent.spawn(work) for _ in range(16)], raise_error=True)
print(manager.sync.load(cookie)["n"])
""",
        url,
    )
    assert said == "80\n"


def test_real_threads_beside_the_greenlets():
    """gevent's own pool has some, each with a hub of its own."""
    said = run(
        """
manager = make(WaitingStore())
cookie = begin(manager, user_id=7)
pool = gevent.get_hub().threadpool
threads = [pool.spawn(count, manager, cookie, 5) for _ in range(4)]
greenlets = [gevent.spawn(count, manager, cookie, 5) for _ in range(4)]
for one in [*threads, *greenlets]:
    one.get()
print(manager.sync.load(cookie)["n"])
"""
    )
    assert said == "40\n"


def test_a_timeout_of_gevents_cancels_the_call():
    """As gunicorn's and the app's own do. The next call is served, and the late answer reaches nobody."""
    said = run(
        """
begun, ended = [], []

async def never():
    begun.append(True)
    try:
        await asyncio.Event().wait()
    finally:
        ended.append(True)

manager = make(WaitingStore())
cookie = begin(manager, user_id=7)
for _ in range(3):
    try:
        with gevent.Timeout(0.01):
            manager.sync.run(never())
    except gevent.Timeout:
        pass
killed = gevent.spawn(manager.sync.run, never())
gevent.sleep(0.01)
killed.kill()
print(manager.sync.load(cookie)["user_id"])
while len(begun) != len(ended):
    gevent.sleep(0.001)
"""
    )
    assert said == "7\n"


def test_errors_come_out_as_they_are():
    """Also those that would end an event loop, or a greenlet."""
    said = run(
        """
manager = make(WaitingStore())

async def fail(error):
    raise error

for error in (ZeroDivisionError, KeyboardInterrupt, SystemExit, gevent.GreenletExit):
    try:
        manager.sync.run(fail(error()))
    except error:
        print(error.__name__)
"""
    )
    assert said.split() == ["ZeroDivisionError", "KeyboardInterrupt", "SystemExit", "GreenletExit"]


def test_a_host_name_is_found(redis_server):
    """gevent's executor for asyncio does not wake newer Pythons' loops, so that the manager's loop has its own way."""
    said = run(
        """
import asyncio.futures
def chained(*_):
    raise AssertionError("asyncio's executor was used")
asyncio.futures._chain_future = chained
manager = make(sys.argv[1].replace("127.0.0.1", "localhost"))
cookie = begin(manager, user_id=7)
print(manager.sync.load(cookie)["user_id"])

async def fails():
    try:
        await asyncio.to_thread(lambda: 1 / 0)
    except ZeroDivisionError:
        return await asyncio.to_thread(lambda: "after a failure")

print(manager.sync.run(fails()))
""",
        redis_server.url,
    )
    assert said == "7\nafter a failure\n"


def test_closing_and_the_end(url):
    """A thread that has ended leaves no descriptor behind; another begins with the next call; the process ends well."""
    said = run(
        """
manager = make(sys.argv[1])
cookie = begin(manager, user_id=7)
manager.sync.close()
count(manager, cookie)
manager.sync.close()
before = len(os.listdir("/proc/self/fd"))
for _ in range(3):
    count(manager, cookie)
    manager.sync.close()
print(len(os.listdir("/proc/self/fd")) - before)
print(manager.sync.load(cookie)["n"])
""",
        url,
    )
    assert said == "0\n4\n"


def test_close_lets_the_other_greenlets_go_on():
    """What it waits for may be theirs to bring about."""
    said = run(
        """
gate = []

class Slow(WaitingStore):
    async def load(self, key):
        while not gate:
            await asyncio.sleep(0.001)
        return await super().load(key)

manager = make(Slow())
cookie = begin(manager, user_id=7)
asking = gevent.spawn(manager.sync.load, cookie)
gevent.sleep(0.01)
gevent.spawn_later(0.01, gate.append, True)
manager.sync.close()
print(asking.get()["user_id"])
"""
    )
    assert said == "7\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("warm", ["used before the fork", "only made before the fork"])
def test_gunicorns_gevent_worker_with_a_preloaded_app(tmp_path, warm):
    """The app is loaded and perhaps used in the parent, without gevent; the worker is forked, and patches then."""
    said = run_script(
        """
        import asyncio, os, sys
        from tests.manager.parts import cookie_of, make

        manager = make(sys.argv[1])

        def begin():
            session = manager.sync.load()
            session["user_id"] = 7
            return cookie_of(manager.sync.commit(session))

        cookie = begin() if sys.argv[2] == "used before the fork" else None
        child = os.fork()
        if child == 0:
            from gevent import monkey
            monkey.patch_all()
            import gevent
            cookie = cookie or begin()

            def work():
                for _ in range(5):
                    session = manager.sync.load(cookie)
                    gevent.sleep(0)
                    session.change("n", lambda n: n + 1, 0)
                    manager.sync.commit(session)

            gevent.joinall([gevent.spawn(work) for _ in range(8)], raise_error=True)
            print(manager.sync.load(cookie)["n"], asyncio.run(asyncio.sleep(0, "mine")), flush=True)
            sys.exit()
        assert os.waitpid(child, 0)[1] == 0
        """,
        f"sqlite:///{tmp_path}/sessions.db",
        warm,
    )
    assert said == "40 mine\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_while_greenlets_wait(tmp_path):
    """They are there in the child too, where nobody answers them. The child is served all the same."""
    said = run(
        """
manager = make(sys.argv[1])
cookie = begin(manager, user_id=7)
stopping, done = [], [0] * 4

def work(number):
    while not stopping:
        count(manager, cookie)
        done[number] += 1

greenlets = [gevent.spawn(work, number) for number in range(4)]
for _ in range(5):
    before = sum(done)
    while sum(done) == before:
        gevent.sleep(0.001)
    child = os.fork()
    if child == 0:
        stopping.append(True)
        count(manager, cookie, 3)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
stopping.append(True)
gevent.joinall(greenlets, raise_error=True)
print("served")
""",
        f"sqlite:///{tmp_path}/sessions.db",
    )
    assert said == "served\n"
