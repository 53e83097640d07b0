"""A manager in several event loops and after a fork: nobody waits for what is under way elsewhere."""

import asyncio
import threading

from tests.manager.parts import WaitingStore, begin, make, run_script

FOR_EVER = 3600  # seconds of store_timeout; a wait that ends with it is a fault


async def test_the_end_of_one_loop_waits_for_no_commit_of_another():
    """A commit of another event loop cannot be awaited here."""
    reached, gate = threading.Event(), threading.Event()

    class Slow(WaitingStore):
        async def update(self, key, record, *, version):
            reached.set()
            while not gate.is_set():
                await asyncio.sleep(0.001)
            await super().update(key, record, version=version)

    manager = make(Slow(), store_timeout=FOR_EVER)
    cookie = await begin(manager, user_id=7)

    def change():
        session = manager.sync.load(cookie)
        session.change("n", lambda n: n + 1, 0)
        manager.sync.commit(session)

    async def open_and_close():
        async with manager:
            thread.start()
            await asyncio.to_thread(reached.wait)

    thread = threading.Thread(target=change)
    try:
        await asyncio.wait_for(open_and_close(), 60)
    finally:
        gate.set()
        await asyncio.to_thread(thread.join)
        manager.sync.close()


def test_a_child_of_a_fork_waits_for_no_commit_of_its_parent():
    """A fork copies what is known of the commits under way, and they are the parent's."""
    said = run_script(
        f"""
        import asyncio, os, signal, sys, threading
        from tests.manager.parts import WaitingStore, cookie_of, make

        reached, gate = threading.Event(), threading.Event()

        class Slow(WaitingStore):
            async def update(self, key, record, *, version):
                reached.set()
                while not gate.is_set():
                    await asyncio.sleep(0.001)
                await super().update(key, record, version=version)

        manager = make(Slow(), store_timeout={FOR_EVER})
        session = manager.sync.load()
        session["user_id"] = 7
        cookie = cookie_of(manager.sync.commit(session))

        def change():
            session = manager.sync.load(cookie)
            session.change("n", lambda n: n + 1, 0)
            manager.sync.commit(session)

        thread = threading.Thread(target=change)
        thread.start()
        reached.wait()
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            manager.sync.load(cookie)
            sys.exit()
        print(os.waitpid(child, 0)[1])
        gate.set()
        thread.join()
        """
    )
    assert said == "0\n"


def test_memory_serves_a_child_of_a_fork_that_came_in_the_middle_of_a_write():
    """Another thread holds the store's lock then, and the child has no such thread."""
    said = run_script(
        """
        import os, signal, threading
        from tests.manager.parts import make

        manager = make("memory://")
        held, gate = threading.Event(), threading.Event()

        def begin():
            session = manager.sync.load()
            session["user_id"] = 7
            manager.sync.commit(session)

        begin()

        def hold():
            store = manager.config.store
            with store._lock:
                store._of_user.clear()
                held.set()
                gate.wait()

        thread = threading.Thread(target=hold)
        thread.start()
        held.wait()
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            begin()
            print(manager.sync.run(manager.sessions.revoke_all(7)), flush=True)
            os._exit(0)
        print(os.waitpid(child, 0)[1])
        gate.set()
        thread.join()
        """
    )
    assert said == "2\n0\n"
