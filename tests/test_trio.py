"""Under trio, Roomkey says at once that it needs asyncio. No outage is logged, and nothing answers 503."""

import asyncio
import contextlib

import pytest

from roomkey import ConfigurationError, SessionManager, SessionMiddleware, StoreUnavailable
from roomkey.event_loop import asyncio_is_missing
from roomkey.stores.guard import GuardedStore
from tests.asgi import SECRET, http_scope, start

URLS = ["memory://", "sqlite:///sessions.sqlite3", "redis://127.0.0.1:1", "postgresql://127.0.0.1:1/x", "cookie://"]


async def never():
    raise AssertionError("nothing comes")


async def page(scope, receive, send):
    scope["session"]["n"] = 1
    await start(send)


def through_middleware(manager):
    async def send(message):
        raise AssertionError(message)

    return SessionMiddleware(page, manager)(http_scope(), never, send)


async def through_lifespan(manager):
    sent = []

    async def receive():
        return {"type": "lifespan.startup"}

    async def send(message):
        sent.append(message)

    try:
        await SessionMiddleware(page, manager)({"type": "lifespan"}, receive, send)
    finally:
        assert "needs asyncio" in sent[0]["message"] and sent[0]["type"] == "lifespan.startup.failed"


WAYS = {
    "a request": through_middleware,
    "the lifespan": through_lifespan,
    "load": lambda manager: manager.load(),
    "load with a cookie": lambda manager: manager.load(b"session=1x"),
    "enter": lambda manager: manager.__aenter__(),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("url", URLS)
def test_it_is_said_at_once(way, url, caplog, monkeypatch, tmp_path):
    """By the first request, by each that follows, and when the app starts; whatever the store is."""
    trio = pytest.importorskip("trio")
    monkeypatch.chdir(tmp_path)
    manager = SessionManager(secret_key=SECRET, store=url)
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="Roomkey needs asyncio, and trio runs this"):
            trio.run(WAYS[way], manager)
    assert not caplog.records


def test_a_manager_that_was_used_in_asyncio_says_it_too(caplog, tmp_path):
    """It looks no more when a request comes. What the store cannot do is no outage all the same."""
    trio = pytest.importorskip("trio")
    manager = SessionManager(secret_key=SECRET, store=f"sqlite:///{tmp_path}/sessions.sqlite3")
    asyncio.run(manager.load())
    with pytest.raises(ConfigurationError, match="trio runs this"):
        trio.run(manager.sessions.of, 7)
    assert not caplog.records


def test_without_any_event_loop(caplog):
    """Nobody runs this code at all: opening says so, and what a store asks of asyncio is no outage."""

    def run(work):
        with contextlib.suppress(StopIteration):
            work.send(None)

    manager = SessionManager(secret_key=SECRET, store="memory://")
    with pytest.raises(ConfigurationError, match="another library runs this"):
        run(manager.__aenter__())
    run(manager.load())  # a store in memory needs no event loop

    class Waits:
        async def load(self, key):
            asyncio.get_running_loop()

    with pytest.raises(ConfigurationError, match="another library runs this"):
        run(GuardedStore(Waits(), 1.0).load("key"))
    assert not caplog.records


async def test_asyncio_is_all_right():
    """There is nothing to say where it runs, also beside a store that raises a RuntimeError of its own."""
    assert asyncio_is_missing(at_all=True) is None

    class Breaks:
        async def load(self, key):
            raise RuntimeError("no running event loop")

    with pytest.raises(StoreUnavailable):
        await GuardedStore(Breaks(), 1.0).load("key")
