"""`manager.sync` under many threads, over every store; and what runs in place, without an event loop."""

import asyncio
import threading
import time

import pytest

from roomkey.stores.memory import MemoryStore
from roomkey.stores.postgres import PostgresStore
from roomkey.stores.sqlite import SQLiteStore
from roomkey.sync.in_place import run_in_place
from tests.manager.parts import WaitingStore, make, run_script
from tests.manager.parts import begin_sync as begin
from tests.servers.postgres import PostgresServer

THREADS = 16


@pytest.fixture(scope="module")
def postgres_server():
    async def prepare(url):
        store = PostgresStore(url)
        await store.create_table()
        await store.close()

    with PostgresServer() as server:
        asyncio.run(prepare(server.url))
        yield server


@pytest.fixture(params=["memory", "waiting", "sqlite", "redis", "postgres"])
def manager(request, tmp_path):
    """A manager over each store; on a busy machine, a store that answers late has not failed."""
    kind = request.param
    if kind in ("redis", "postgres"):
        store = request.getfixturevalue(f"{kind}_server").url
    else:
        store = {"memory": MemoryStore, "waiting": WaitingStore}.get(kind, lambda: SQLiteStore(tmp_path / "s.db"))()
    made = make(store)
    yield made
    made.sync.close()


def in_threads(work, count=THREADS):
    """Run a function in many threads at once, each with its number; raise what one of them raised."""
    failures = []

    def run(number):
        try:
            work(number)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


# --- many threads -----------------------------------------------------------------------------------------------------


def test_a_counter_under_many_threads_loses_nothing(manager):
    """All threads have loaded the session before the first one commits: every commit but one meets another's."""
    rounds = 4
    cookie = begin(manager, user_id=7)
    together = threading.Barrier(THREADS, timeout=100)

    def count(number):
        for _ in range(rounds):
            session = manager.sync.load(cookie)
            together.wait()
            session.change("n", lambda n: n + 1, 0)
            session[f"mine {number}"] = session.get(f"mine {number}", 0) + 1
            manager.sync.commit(session)
            together.wait()

    in_threads(count)
    session = manager.sync.load(cookie)
    assert session["n"] == THREADS * rounds
    assert [session[f"mine {number}"] for number in range(THREADS)] == [rounds] * THREADS


def test_many_threads_begin_sessions_at_once(manager):
    """Also those that are the first to ask for anything."""
    together, cookies = threading.Barrier(THREADS, timeout=100), []

    def log_in(number):
        together.wait()
        cookies.append(begin(manager, user_id=number))

    in_threads(log_in)
    users = {manager.sync.load(cookie)["user_id"] for cookie in cookies}
    assert users == set(range(THREADS))


def test_a_log_out_is_final_whatever_the_other_threads_save(manager):
    """A request that had loaded the session before does not bring it back."""
    cookie = begin(manager, user_id="who logs out")
    together = threading.Barrier(THREADS, timeout=100)

    def change_or_log_out(number):
        session = manager.sync.load(cookie)
        together.wait()
        if number == 0:
            session.clear()
        else:
            session[f"mine {number}"] = 1
        manager.sync.commit(session)

    in_threads(change_or_log_out)
    assert manager.sync.load(cookie).is_new
    assert manager.sync.sessions.of("who logs out") == []


def test_the_store_serves_the_apps_loop_and_other_threads_at_once(manager):
    """An asynchronous app with some blocking handlers in threads, as FastAPI runs them."""
    cookie = begin(manager, user_id=7)

    async def handle():
        session = await manager.load(cookie)
        session.change("n", lambda n: n + 1, 0)
        await manager.commit(session)

    def block(_):
        for _ in range(4):
            session = manager.sync.load(cookie)
            session.change("n", lambda n: n + 1, 0)
            manager.sync.commit(session)

    async def run():
        async with manager:
            blocking = asyncio.to_thread(in_threads, block, 4)
            await asyncio.gather(blocking, *(handle() for _ in range(16)))

    asyncio.run(run())
    assert manager.sync.load(cookie)["n"] == 32


def test_an_interrupted_call_is_cancelled():
    """Ctrl-C reaches the thread that waits, at once. What it waited for is cancelled, and the next call is served."""
    said = run_script(
        """
        import asyncio, os, signal, threading
        from tests.manager.parts import WaitingStore, cookie_of, make

        # A test run that a shell started in the background ignores Ctrl-C, and its children inherit that.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        manager = make(WaitingStore())
        session = manager.sync.load()
        session["user_id"] = 7
        cookie = cookie_of(manager.sync.commit(session))

        async def never(gone):
            os.kill(os.getpid(), signal.SIGINT)
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                gone.set()
                raise

        for _ in range(50):  # it may come at any moment, also before anybody waits
            gone = threading.Event()
            try:
                manager.sync.run(never(gone))
            except KeyboardInterrupt:
                gone.wait()
        print(manager.sync.load(cookie).copy())
        """
    )
    assert said == "{'user_id': 7}\n"


# --- in place ---------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["in a plain thread", "inside the app's running loop"])
def anywhere(request):
    """Call a function where no event loop runs, and where one does."""

    async def inside(function):
        loop = asyncio.get_running_loop()
        answer = function()
        assert asyncio.get_running_loop() is loop
        return answer

    if request.param == "in a plain thread":
        return lambda function: function()
    return lambda function: asyncio.run(inside(function))


async def _plain():
    return 1


async def _yields():
    await asyncio.sleep(0)
    return 2


async def _sleeps():
    begun = time.monotonic()
    await asyncio.sleep(0.01)
    assert time.monotonic() - begun > 0.009
    return 3


async def _waits_for_a_future():
    future = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(future.set_result, 5)
    return await future


async def _passes_over_what_was_cancelled():
    loop = asyncio.get_running_loop()
    future, never = loop.create_future(), []
    loop.call_soon(never.append, 1).cancel()
    loop.call_later(0.001, never.append, 1).cancel()
    loop.call_later(0.002, future.set_result, 6)
    answer = await future
    assert never == []
    return answer


@pytest.mark.parametrize(
    ("work", "answer"),
    [
        (_plain, 1),
        (_yields, 2),
        (_sleeps, 3),
        (_waits_for_a_future, 5),
        (_passes_over_what_was_cancelled, 6),
    ],
    ids=lambda part: getattr(part, "__name__", ""),
)
def test_what_waits_for_a_moment_only_runs_in_place(anywhere, work, answer):
    """A coroutine that waits for its turn, or a moment, needs no event loop."""
    assert anywhere(lambda: run_in_place(work())) == answer


def test_what_waits_for_somebody_else_is_an_error(anywhere):
    """It would never end. The coroutine sees the error where it waits."""
    seen = []

    async def waits():
        try:
            await asyncio.get_running_loop().create_future()
        except RuntimeError as error:
            seen.append(error)
            raise

    with pytest.raises(RuntimeError, match="only an event loop can bring about") as raised:
        anywhere(lambda: run_in_place(waits()))
    assert seen == [raised.value]
    with pytest.raises(RuntimeError, match=r"only an event loop can bring about \(run_in_executor\)"):
        anywhere(lambda: run_in_place(asyncio.to_thread(print)))


def test_an_error_comes_out_of_what_runs_in_place(anywhere):
    """And the app's loop is the running one again."""

    async def fails():
        await asyncio.sleep(0)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        anywhere(lambda: run_in_place(fails()))


def test_an_interrupted_sleep_is_seen_by_what_sleeps(anywhere, monkeypatch):
    """A signal arrives while it waits for a moment: it may tidy up, and may go on."""

    def interrupted(seconds):
        raise KeyboardInterrupt

    async def tidies_up():
        try:
            await asyncio.sleep(0.01)
        finally:
            seen.append("tidied up")

    async def goes_on():
        try:
            await asyncio.sleep(0.01)
        except KeyboardInterrupt:
            monkeypatch.undo()
        await asyncio.sleep(0.001)
        return "went on"

    seen = []
    monkeypatch.setattr("time.sleep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        anywhere(lambda: run_in_place(tidies_up()))
    assert seen == ["tidied up"]
    assert anywhere(lambda: run_in_place(goes_on())) == "went on"


def test_a_callback_that_fails_is_logged(anywhere, caplog):
    """As every event loop does; the work goes on."""

    async def work():
        loop = asyncio.get_running_loop()
        loop.call_soon(lambda: 1 / 0)
        future = loop.create_future()
        loop.call_soon(future.set_result, 7)
        return await future

    assert anywhere(lambda: run_in_place(work())) == 7
    assert [record.name for record in caplog.records if record.exc_info] == ["roomkey"]


def test_two_requests_of_one_thread_meet_in_place(anywhere):
    """Over a store that never waits, also the second of two commits is made where it is asked for."""
    manager = make()
    cookie = begin(manager, user_id=7)

    def work():
        sessions = [manager.sync.load(cookie) for _ in range(5)]
        for session in sessions:
            session.change("n", lambda n: n + 1, 0)
            manager.sync.commit(session)
        return manager.sync.load(cookie)["n"]

    assert anywhere(work) == 5
