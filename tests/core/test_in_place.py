"""The blocking calls over stores that never wait: no event loop serves them."""

import asyncio
import threading

import pytest

from roomkey import SessionManager
from roomkey.legacy import LegacySession

SECRET = "a secret that is long enough for every test here"


def begin(manager, **data):
    """Return the cookie of a new session."""
    session = manager.sync.load()
    session.update(data)
    return dict(manager.sync.commit(session))["set-cookie"].partition(";")[0]


def commit_two(manager, cookie):
    first, second = manager.sync.load(cookie), manager.sync.load(cookie)
    first["a"] = 1
    second["b"] = 2
    manager.sync.commit(first)
    manager.sync.commit(second)


def test_two_requests_that_change_one_session():
    """Both changes are kept."""
    manager = SessionManager(secret_key=SECRET, store="memory://")
    cookie = begin(manager, n=0)
    commit_two(manager, cookie)
    assert manager.sync.load(cookie) == {"n": 0, "a": 1, "b": 2}


async def test_two_requests_in_the_thread_of_an_event_loop():
    """It is the app's, and does not serve them."""
    manager = SessionManager(secret_key=SECRET, store="memory://")
    cookie = begin(manager, n=0)
    session = await manager.load(cookie)
    commit_two(manager, cookie)
    session["c"] = 3
    await asyncio.create_task(manager.commit(session))
    assert manager.sync.load(cookie) == {"n": 0, "a": 1, "b": 2, "c": 3}


def test_threads_that_count():
    """No change is lost."""
    manager = SessionManager(secret_key=SECRET, store="memory://")
    cookie = begin(manager, n=0)

    def count():
        for _ in range(50):
            session = manager.sync.load(cookie)
            session.change("n", lambda n: n + 1)
            manager.sync.commit(session)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert manager.sync.load(cookie) == {"n": 200}


class OldLibrary:
    cookie_name, path, domain = "old", "/", None

    async def read(self, value):
        await asyncio.sleep(0)
        return LegacySession({"cart": value.decode()})

    async def forget(self, value):
        await asyncio.sleep(0)


@pytest.mark.parametrize("store", ["memory://", "cookie://"])
def test_an_old_session_moves_in(store):
    """A reader may wait for the server of its library."""
    manager = SessionManager(secret_key=SECRET, store=store, legacy=[OldLibrary()])
    try:
        session = manager.sync.load("old=apples")
        assert session == {"cart": "apples"}
        headers = dict(manager.sync.commit(session))
        assert manager.sync.load(headers["set-cookie"].partition(";")[0]) == {"cart": "apples"}
    finally:
        manager.sync.close()
