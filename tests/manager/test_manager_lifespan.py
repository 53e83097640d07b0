"""`async with manager`, working without it, and one manager that several middlewares and an adaptor share."""

import asyncio
import logging
import threading

import pytest

from roomkey import ConfigurationError, SessionManager, SessionMiddleware, StoreUnavailable
from roomkey.core import registry
from roomkey.stores.base import Record
from roomkey.stores.sqlite import SQLiteStore
from roomkey.testing import Clock
from tests.asgi import HELLO, SpyStore, ask, cookie_in, http_scope, start
from tests.loop_clock import until
from tests.manager.parts import SECRET, begin, content, make


def purges():
    """Return the tasks of this event loop that purge."""
    return [task for task in asyncio.all_tasks() if task.get_name() == "roomkey: purge"]


# --- async with -------------------------------------------------------------------------------------------------------


async def test_it_opens_the_store_purges_and_closes():
    """The store is open inside, one task removes expired sessions, and nothing is left behind."""
    store = SpyStore()
    manager = make(store)
    async with manager as entered:
        assert entered is manager
        assert store.events == ["open"] and len(purges()) == 1
        cookie = await begin(manager, user_id=7)
        assert await content(manager, cookie) == {"user_id": 7}
    assert store.events[-1] == "close" and purges() == []


async def test_expired_sessions_are_removed_while_it_runs(monkeypatch):
    """The purge loop takes them away, though no request comes."""
    monkeypatch.setattr(registry, "_PURGE_EVERY", 0.01)
    clock = Clock(1_000_000.0)
    store = SpyStore(clock=clock)
    async with SessionManager(secret_key=SECRET, store=store, clock=clock) as manager:
        await begin(manager, user_id=7)
        assert store.rows == 1
        clock.now += 100_000
        await until(lambda: store.rows == 0)


async def test_without_it_the_store_opens_itself_and_is_purged(tmp_path):
    """A framework without a lifespan: requests work, and new sessions take expired ones away."""
    clock = Clock(1_000_000.0)
    store = SQLiteStore(tmp_path / "sessions.db", clock=clock)
    manager = SessionManager(secret_key=SECRET, store=store, clock=clock)
    expired = Record(b"x", 1, clock(), clock() + 10)
    await store.create("0" * 64, expired)
    clock.now += 1000
    cookie = await begin(manager, user_id=7)
    assert await content(manager, cookie) == {"user_id": 7}
    assert await store.purge(10) == 0  # there is none left
    assert purges() == []
    await store.close()


async def test_it_may_be_entered_again(tmp_path):
    """And used between two times, and after the last one."""
    manager = make(SQLiteStore(tmp_path / "sessions.db"))
    async with manager:
        cookie = await begin(manager, user_id=7)
    assert await content(manager, cookie) == {"user_id": 7}
    async with manager:
        assert len(purges()) == 1
        assert await content(manager, cookie) == {"user_id": 7}
    assert await content(manager, cookie) == {"user_id": 7}
    await manager.registry.store.close()


async def test_a_store_that_cannot_work_stops_the_start():
    """ConfigurationError. Nothing is open then, and the next one to enter tries again."""
    store = SpyStore()
    store.open_error = ConfigurationError("store: no such table")
    manager = make(store)
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="no such table"):
            async with manager:
                pytest.fail("it was entered")
    assert purges() == [] and store.events == []
    store.open_error = None
    async with manager:
        assert store.events == ["open"]
    assert store.events == ["open", "close"]


async def test_a_store_that_is_down_does_not_stop_the_start(caplog):
    """It may come back. Until then, load raises StoreUnavailable."""
    store = SpyStore()
    store.open_error = StoreUnavailable("it is down")
    async with make(store) as manager:
        store.open_error = None
        assert [record.levelname for record in caplog.records if record.name == "roomkey"] == ["ERROR"]
        assert (await manager.load()).is_new
        assert len(purges()) == 1


async def test_whoever_enters_at_the_same_time_opens_it_once():
    """Several lifespans start together; each of them finds the store open."""
    store = SpyStore()
    gate = asyncio.Event()

    async def open_slowly():
        await gate.wait()
        store.events.append("open")

    store.open = open_slowly
    manager = make(store)
    entering = [asyncio.create_task(manager.__aenter__()) for _ in range(3)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in entering)
    gate.set()
    await asyncio.gather(*entering)
    assert store.events == ["open"] and len(purges()) == 1
    for left in (2, 1, 0):
        assert "close" not in store.events
        await manager.__aexit__(None, None, None)
        assert len(purges()) == (1 if left else 0)
    assert store.events == ["open", "close"]


async def test_a_start_that_is_cancelled_leaves_nothing_open():
    """The next one begins afresh."""
    store = SpyStore()
    never = asyncio.Event()

    async def open_never():
        await never.wait()

    store.open = open_never
    manager = make(store, store_timeout=1000)
    entering = asyncio.create_task(manager.__aenter__())
    await asyncio.sleep(0)
    entering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await entering
    del store.open
    async with manager:
        assert store.events == ["open"] and len(purges()) == 1
    assert store.events == ["open", "close"] and purges() == []


async def test_it_waits_for_commits_that_go_on():
    """A request was cancelled in the middle of a change that must not be done twice: the store stays open for it."""
    store = SpyStore()
    async with make(store) as manager:
        cookie = await begin(manager, n=1)
        reached, gate, update = asyncio.Event(), asyncio.Event(), store.update

        async def gated(*args, **options):
            reached.set()
            await gate.wait()
            await update(*args, **options)

        store.update = gated
        session = await manager.load(cookie)
        session.change("n", lambda n: n + 1)
        committing = asyncio.create_task(manager.commit(session))
        await reached.wait()
        committing.cancel()
        asyncio.get_running_loop().call_later(0.02, gate.set)
    assert store.events[-2:] == ["update", "close"]


async def test_leaving_without_having_entered_is_an_error():
    """Somebody has mixed up two event loops, or two managers."""
    with pytest.raises(RuntimeError, match="entered"):
        await make().__aexit__(None, None, None)


def test_each_event_loop_has_its_own(tmp_path):
    """A store has its connections in an event loop: entered in two of them, each opens and closes what is its own."""
    store = SpyStore()
    manager = make(store)
    both, failures = threading.Barrier(2, timeout=60), []

    async def run():
        async with manager:
            both.wait()
            assert len(purges()) == 1
            await begin(manager, user_id=7)
            both.wait()
        assert purges() == []

    def in_thread():
        try:
            asyncio.run(run())
        except BaseException as error:
            failures.append(error)
            both.abort()

    threads = [threading.Thread(target=in_thread) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert store.events.count("open") == store.events.count("close") == 2


# --- shared -----------------------------------------------------------------------------------------------------------


class Lifespan:
    """Drives an app's lifespan as a server does."""

    def __init__(self, app):
        self._app = app
        self._in, self._out = asyncio.Queue(), asyncio.Queue()

    async def _say(self, what):
        await self._in.put({"type": f"lifespan.{what}"})
        assert (await self._out.get())["type"] == f"lifespan.{what}.complete"

    async def __aenter__(self):
        self._running = asyncio.create_task(self._app({"type": "lifespan"}, self._in.get, self._out.put))
        await self._say("startup")

    async def __aexit__(self, *_):
        await self._say("shutdown")
        await self._running


def app_of(manager, seen):
    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        seen.append(scope["session"].is_new)
        scope["session"].setdefault("user_id", 7)
        await start(send)
        await send(HELLO)

    return app


async def test_several_middlewares_and_an_adaptor_share_one_lifespan():
    """The first to start opens the store, the last to end closes it, and there is one purge loop."""
    store, seen = SpyStore(), []
    manager = make(store)
    inner = SessionMiddleware(app_of(manager, seen), manager)
    mounted = SessionMiddleware(inner, manager)
    beside = SessionMiddleware(app_of(manager, seen), manager)
    async with Lifespan(mounted), Lifespan(beside), manager:
        assert store.events == ["open"] and len(purges()) == 1
    assert store.events == ["open", "close"] and purges() == []


async def test_what_one_of_them_commits_the_others_load():
    """The same cookie and the same sessions; a mounted app with a middleware of its own sees the one session."""
    store, seen = SpyStore(), []
    manager = make(store)
    app = SessionMiddleware(SessionMiddleware(app_of(manager, seen), manager), manager)
    card = cookie_in((await ask(app, http_scope()))[0])
    assert seen == [True] and store.events == ["create"]
    session = await manager.load(b"session=" + card)
    assert session == {"user_id": 7}
    session.clear()
    await manager.commit(session)
    await ask(app, http_scope(card=card))
    assert seen == [True, True]


async def test_an_outage_is_logged_once_for_all_of_them(caplog, settled):
    """One guard watches the store: one line when the outage begins, one when it is over."""
    store, seen = SpyStore(), []
    manager = make(store)
    one, other = (SessionMiddleware(app_of(manager, seen), manager) for _ in range(2))
    card = cookie_in((await ask(one, http_scope()))[0])
    store.failing.add("load")
    for app in (one, other, one):
        assert (await ask(app, http_scope(card=card)))[0]["status"] == 503
    with pytest.raises(StoreUnavailable):
        await manager.load(b"session=" + card)
    with pytest.raises(StoreUnavailable):
        manager.sync.load(b"session=" + card)
    store.failing.clear()
    for app in (other, one):
        assert (await ask(app, http_scope(card=card)))[0]["status"] == 200
    levels = [record.levelno for record in caplog.records if record.name == "roomkey"]
    assert levels == [logging.ERROR, logging.WARNING]


async def test_each_has_the_managers_configuration():
    """A middleware that was given a manager has no other configuration than that."""
    manager = make(session_cookie="shop")
    app = SessionMiddleware(app_of(manager, []), manager)
    assert app.manager is manager and app.config is manager.config
    assert cookie_in((await ask(app, http_scope()))[0], b"shop")
