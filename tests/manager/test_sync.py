"""`manager.sync`: the blocking calls, over stores that never wait and stores that do."""

import asyncio
import contextvars
import gc
import threading
import weakref

import pytest

from roomkey import Request, ResponseStarted, SessionDataError, StoreUnavailable
from roomkey.legacy.readers import LegacySession
from roomkey.stores.memory import MemoryStore
from roomkey.stores.sqlite import SQLiteStore
from tests.manager.parts import WaitingStore, cookie_of, make, values
from tests.manager.parts import begin_sync as begin

_STORES = {
    "memory": lambda path: MemoryStore(),
    "waiting": lambda path: WaitingStore(),
    "sqlite": lambda path: SQLiteStore(path / "sessions.db"),
}


@pytest.fixture(params=_STORES)
def manager(request, tmp_path):
    made = make(_STORES[request.param](tmp_path))
    yield made
    made.sync.close()


@pytest.fixture
def waiting():
    made = make(WaitingStore())
    yield made
    made.sync.close()


def content(manager, cookie):
    return manager.sync.load(cookie).copy()


# --- the same calls ---------------------------------------------------------------------------------------------------


def test_log_in_read_and_log_out(manager):
    """The life of a session in an app without an event loop."""
    sync = manager.sync
    session = sync.load(Request(headers=[("Cookie", "a=1")]))
    session["user_id"] = 7
    cookie = cookie_of(sync.commit(session, status=302, headers=[("Location", "/")]))
    session = sync.load(cookie.encode())
    assert session["user_id"] == 7 and not session.is_new
    session["n"] = 1
    assert sync.commit(session, headers=[(b"a", b"b")]) == [(b"a", b"b"), (b"vary", b"Cookie")]
    assert content(manager, cookie) == {"user_id": 7, "n": 1}
    session = sync.load(cookie)
    session.clear()
    assert "Max-Age=0" in values(sync.commit(session), "set-cookie")[0]
    assert sync.load(cookie).is_new


def test_it_is_one_for_a_manager(waiting):
    """Whichever threads ask for it first, at the same moment: there is one thread of the manager's."""
    for _ in range(50):
        manager = make(WaitingStore())
        together, found = threading.Barrier(4), []

        def ask(manager=manager, together=together, found=found):
            together.wait()
            found.append(manager.sync)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(map(id, found))) == 1 and manager.sync is found[0]


def test_everything_that_can_be_awaited_has_a_blocking_form(manager):
    """flashes, save, refresh, and the list of a user's sessions."""
    sync = manager.sync
    cookie = begin(manager, user_id=7)
    session = sync.load(cookie)
    session.flash("saved")
    sync.save(session)
    other = sync.load(cookie)
    other["n"] = 1
    sync.commit(other)
    assert "n" not in session
    sync.refresh(session)
    assert session["n"] == 1
    assert sync.flashes(session) == [("info", "saved")]
    assert sync.flashes(sync.load(cookie)) == []
    begin(manager, user_id=7)
    here, elsewhere = sync.sessions.of(7, current=session)
    assert (here.is_current, elsewhere.is_current) in ((True, False), (False, True))
    assert not any(info.is_current for info in sync.sessions.of(7))
    assert sync.sessions.revoke(elsewhere.handle if here.is_current else here.handle, user=7) is True
    assert sync.sessions.revoke("0" * 64) is False
    assert sync.sessions.revoke_all(7, keep=session) == 0
    assert sync.sessions.revoke_all(7) == 1
    sync.sessions.end_all()
    assert sync.run(session.sessions.of(7)) == []


def test_abandon_and_can_set_cookie(manager):
    """As the manager's own."""
    sync = manager.sync
    cookie = begin(manager, user_id=7)
    session = sync.load(cookie)
    session["n"] = 1
    sync.abandon(session)
    sync.commit(session)
    assert content(manager, cookie) == {"user_id": 7}
    new = sync.load()
    new["n"] = 1
    with pytest.raises(ResponseStarted):
        sync.commit(new, can_set_cookie=False)


def test_cookies_are_served_too():
    """With cookie:// there is nothing to wait for."""
    manager = make("cookie://")
    cookie = begin(manager, user_id=7)
    session = manager.sync.load(cookie)
    session["n"] = 1
    cookie = cookie_of(manager.sync.commit(session))
    assert content(manager, cookie) == {"user_id": 7, "n": 1}
    session = manager.sync.load(cookie)
    manager.sync.save(session)
    session.clear()
    assert "Max-Age=0" in values(manager.sync.commit(session), "set-cookie")[0]
    manager.sync.close()


# --- what is raised ---------------------------------------------------------------------------------------------------


def test_errors_come_out_as_they_are(manager):
    """What the asynchronous call raises, with the handler's frame in its traceback."""
    session = manager.sync.load()
    session["bad"] = object()
    with pytest.raises(SessionDataError, match="bad") as raised:
        manager.sync.commit(session)
    assert any(entry.name == "test_errors_come_out_as_they_are" for entry in raised.traceback)
    assert manager.sync.commit(session, status=500) == [("vary", "Cookie")]
    for wrong in (5, {}, object()):
        with pytest.raises(TypeError, match=r"it takes a roomkey\.Request"):
            manager.sync.load(wrong)
        with pytest.raises(TypeError, match="it takes the session that `load` returned"):
            manager.sync.commit(wrong)
        with pytest.raises(TypeError, match=r"all are pairs|pairs of a name"):
            manager.sync.commit(manager.sync.load(), headers=[(wrong, "x")])


def test_run_takes_what_can_be_awaited(manager):
    """A method that was not called is the usual mistake."""
    session = manager.sync.load()
    for wrong in (session.flashes, None, 5):
        with pytest.raises(TypeError, match=r"it takes what can be awaited, such as session.save\(\)"):
            manager.sync.run(wrong)


def test_an_outage_is_store_unavailable(waiting):
    """With its retry_after, and a commit for the 503 that follows."""
    cookie = begin(waiting, user_id=7)
    store = waiting.config.store
    session = waiting.sync.load(cookie)
    session["n"] = 1
    store.failing.update({"load", "update"})
    with pytest.raises(StoreUnavailable) as raised:
        waiting.sync.commit(session)
    assert raised.value.retry_after > 0
    assert waiting.sync.commit(session, status=503) == [("vary", "Cookie")]
    with pytest.raises(StoreUnavailable):
        waiting.sync.load(cookie)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit, ZeroDivisionError])
def test_no_error_ends_the_managers_thread(manager, error):
    """Some of them would end an event loop. The caller gets it, and the next call is served."""

    async def fail():
        raise error("oh")

    with pytest.raises(error):
        manager.sync.run(fail())
    cookie = begin(manager, user_id=7)
    assert content(manager, cookie) == {"user_id": 7}


def test_no_reference_cycle_is_left(waiting):
    """What a call held is gone when it returns or raises, without a garbage collection."""

    class Thing:
        pass

    async def work(thing, fails):
        await asyncio.sleep(0)
        if fails:
            raise ZeroDivisionError

    gc.disable()
    try:
        for fails in (False, True):
            thing = Thing()
            gone = weakref.ref(thing)
            try:
                waiting.sync.run(work(thing, fails))
            except ZeroDivisionError:
                pass
            del thing
            waiting.sync.run(work(None, False))  # by now the loop has let go of the call before
            assert gone() is None
    finally:
        gc.enable()


# --- where it runs ----------------------------------------------------------------------------------------------------


def test_a_store_that_never_waits_is_served_in_place():
    """In the thread that asks: no other one is started."""
    asked = []

    class Store(MemoryStore):
        pass  # a subclass that changes none of the operations

    manager = make(Store(), on_event=lambda event: asked.append(threading.get_ident()))
    cookie = begin(manager, user_id=7)
    session = manager.sync.load(cookie)
    session.clear()
    manager.sync.commit(session)
    assert len(asked) == 2 and set(asked) == {threading.get_ident()}


def test_another_store_is_served_by_one_thread_of_the_managers(waiting):
    """By the same one, whichever thread asks, and not by any of these."""
    served = set()

    async def work():
        served.add((threading.get_ident(), id(asyncio.get_running_loop())))

    threads = [threading.Thread(target=lambda: waiting.sync.run(work())) for _ in range(8)]
    for thread in threads:
        thread.start()
    asking = {thread.ident for thread in threads} | {threading.get_ident()}
    for thread in threads:
        thread.join()
    waiting.sync.run(work())
    assert len(served) == 1 and not {ident for ident, _ in served} & asking


def test_a_subclass_of_a_store_that_never_waits_may_wait():
    """What MemoryStore says of itself does not count for one with operations of its own, in its class or in itself."""

    class Waits(MemoryStore):
        async def load(self, key):
            await asyncio.to_thread(threading.get_ident)
            return await super().load(key)

    replaced = MemoryStore()
    inner = replaced.load

    async def load(key):
        await asyncio.to_thread(threading.get_ident)
        return await inner(key)

    replaced.load = load
    for store in (Waits(), replaced):
        manager = make(store)
        cookie = begin(manager, user_id=7)
        assert content(manager, cookie) == {"user_id": 7}
        manager.sync.close()


def test_what_needs_no_store_asks_no_other_thread(waiting):
    """A request without a cookie, and a response that has nothing to save."""
    begin(waiting, user_id=7)
    sync = waiting.sync
    sync.run = None
    session = sync.load(Request(headers=[("Host", "shop.example")]))
    session.get("user_id")
    assert sync.commit(session, headers=[("a", "b")]) == [("a", "b"), ("vary", "Cookie")]
    del sync.run


class Elsewhere:
    """Reads old sessions from where they have to be waited for."""

    cookie_name, path, domain = "old", "/", None

    async def read(self, value):
        await asyncio.to_thread(threading.get_ident)
        return LegacySession({"user_id": 7}) if value == b"genuine" else None

    async def forget(self, value):
        await asyncio.to_thread(threading.get_ident)


@pytest.mark.parametrize("store", ["memory://", "cookie://"])
def test_sessions_that_move_in_are_waited_for(store):
    """An old library's session may lie on a server, whatever the new store is."""
    manager = make(store, legacy=[Elsewhere()])
    assert manager.sync.load("old=forged").is_new
    session = manager.sync.load("old=genuine")
    assert session["user_id"] == 7
    cookie = next(value for value in values(manager.sync.commit(session), "set-cookie") if "session=" in value)
    assert content(manager, cookie.split(";")[0]) == {"user_id": 7}
    manager.sync.close()


def test_it_works_while_the_apps_own_loop_runs_in_the_thread(manager):
    """A blocking call in an asynchronous handler blocks it, and does its work. The app's loop goes on after it."""

    async def handler():
        loop = asyncio.get_running_loop()
        cookie = begin(manager, user_id=7)
        for _ in range(3):
            session = manager.sync.load(cookie)
            session.change("n", lambda n: n + 1, 0)
            manager.sync.commit(session)
            assert asyncio.get_running_loop() is loop
            await asyncio.sleep(0)
        session = await manager.load(cookie)  # the same manager, in the app's loop
        session["m"] = 1
        await manager.commit(session)
        return content(manager, cookie)

    assert asyncio.run(handler()) == {"user_id": 7, "n": 3, "m": 1}


def test_an_app_may_run_a_loop_of_its_own_between_two_calls(manager):
    """The manager's loop is nobody else's running loop."""
    cookie = begin(manager, user_id=7)
    assert asyncio.run(asyncio.sleep(0, "mine")) == "mine"
    assert content(manager, cookie) == {"user_id": 7}


def test_functions_run_in_the_context_of_their_caller(manager):
    """What runs later, in another thread, sees the caller's context variables."""
    who = contextvars.ContextVar("who", default="nobody")

    async def look():
        await asyncio.sleep(0)
        return who.get()

    who.set("this request")
    assert manager.sync.run(look()) == "this request"


def test_it_cannot_be_called_in_its_own_thread(waiting):
    """There it would wait for itself. `on_event` runs there, and so do functions of `change`."""

    async def calls_back():
        with pytest.raises(RuntimeError, match="in its own thread"):
            waiting.sync.load("session=x")
        with pytest.raises(RuntimeError, match="in its own thread"):
            waiting.sync.close()
        return "served"

    assert waiting.sync.run(calls_back()) == "served"


# --- closing ----------------------------------------------------------------------------------------------------------


def test_close_closes_the_store_and_the_next_call_opens_it():
    """It may come twice, and before the first call."""

    class Closing(WaitingStore):
        closed = 0

        async def open(self):
            pass

        async def close(self):
            Closing.closed += 1

    manager = make(Closing())
    manager.sync.close()
    assert Closing.closed == 0  # nothing was open
    cookie = begin(manager, user_id=7)
    manager.sync.close()
    manager.sync.close()
    assert Closing.closed == 1
    assert content(manager, cookie) == {"user_id": 7}
    manager.sync.close()
    assert Closing.closed == 2


def test_close_waits_for_what_is_under_way():
    """A request in another thread gets its answer."""
    reached, gate, got = threading.Event(), threading.Event(), []

    class Slow(WaitingStore):
        async def load(self, key):
            reached.set()
            while not gate.is_set():
                await asyncio.sleep(0.001)
            return await super().load(key)

    manager = make(Slow(), store_timeout=100)
    cookie = begin(manager, user_id=7)
    asking = threading.Thread(target=lambda: got.append(content(manager, cookie)))
    asking.start()
    reached.wait()
    closing = threading.Thread(target=manager.sync.close)
    closing.start()
    gate.set()
    closing.join()
    asking.join()
    assert got == [{"user_id": 7}]


def test_close_does_not_wait_for_ever():
    """What does not end in time is cancelled; its caller hears that the store did not answer."""
    manager = make(WaitingStore(), store_timeout=0.05)
    reached, heard, ended = threading.Event(), [], []

    async def never():
        reached.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    def ask():
        try:
            manager.sync.run(never())
        except StoreUnavailable as error:
            heard.append(str(error))

    asking = threading.Thread(target=ask)
    asking.start()
    reached.wait()
    manager.sync.close()
    asking.join()
    assert heard == ["manager.sync was closed before the store had answered"] and ended == [True]


def test_what_closing_raises_comes_out():
    """And the next call begins afresh."""

    class Fails(WaitingStore):
        async def open(self):
            pass

        async def close(self):
            raise OSError("it cannot be closed")

    manager = make(Fails())
    cookie = begin(manager, user_id=7)
    with pytest.raises(OSError, match="it cannot be closed"):
        manager.sync.close()
    assert content(manager, cookie) == {"user_id": 7}


def test_the_thread_goes_with_its_manager():
    """A manager that nobody holds any more leaves no thread behind; its store is closed."""
    closed = threading.Event()

    class Closing(WaitingStore):
        async def open(self):
            pass

        async def close(self):
            closed.set()

    manager = make(Closing())
    begin(manager, user_id=7)
    gone = weakref.ref(manager)
    del manager
    gc.collect()
    assert gone() is None
    assert closed.wait(60)
