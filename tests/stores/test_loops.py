"""The registry by event loop: who gets which resources, and when they are given back."""

from __future__ import annotations

import asyncio
import gc
import os
import threading

import pytest

from roomkey.errors import ConfigurationError
from roomkey.stores.loops import LoopRegistry


class Resources:
    """What a store has in one event loop. It says what became of it."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.closed_in: list[asyncio.AbstractEventLoop] = []
        self.terminated = 0

    async def close(self) -> None:
        self.closed_in.append(asyncio.get_running_loop())
        await asyncio.sleep(0)  # the loop can still wait

    def terminate(self) -> None:
        self.terminated += 1


def test_a_loop_has_one_set():
    """Whoever asks in one loop gets the same resources."""

    async def main():
        registry = LoopRegistry(Resources)
        assert registry.enter() is registry.enter() is registry.by_loop[asyncio.get_running_loop()]

    asyncio.run(main())


def test_each_loop_has_its_own():
    """Loops that run at once in several threads share nothing."""
    registry = LoopRegistry(Resources)
    together = threading.Barrier(4)

    async def main():
        resources = registry.enter()
        together.wait(10)
        assert registry.enter() is resources
        assert resources.loop is asyncio.get_running_loop()
        return resources

    found = []
    threads = [threading.Thread(target=lambda: found.append(asyncio.run(main()))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(set(found)) == 4
    assert all(resources.closed_in == [resources.loop] for resources in found)
    assert not registry.by_loop


def test_a_loop_that_ends_closes_them():
    """Nobody has to call `close`: the loop does, in itself, and nothing of it is kept."""
    registry = LoopRegistry(Resources)

    async def main():
        return registry.enter()

    resources = asyncio.run(main())
    assert resources.closed_in == [resources.loop] and not resources.terminated
    assert not registry.by_loop


def test_close_closes_those_of_the_running_loop():
    """The next operation in the same loop gets new ones; those of another loop stay."""
    registry = LoopRegistry(Resources)

    async def elsewhere(entered, leave):
        resources = registry.enter()
        entered.set()
        await asyncio.to_thread(leave.wait, 10)
        assert not resources.closed_in
        assert registry.enter() is resources

    async def main():
        entered, leave = threading.Event(), threading.Event()
        other = asyncio.create_task(asyncio.to_thread(asyncio.run, elsewhere(entered, leave)))
        await asyncio.to_thread(entered.wait, 10)
        first = registry.enter()
        await registry.close()
        assert first.closed_in == [first.loop]
        second = registry.enter()
        assert second is not first
        leave.set()
        await other
        await registry.close()
        await registry.close()  # nothing is left to close
        assert first.closed_in == second.closed_in == [first.loop]
        assert not registry.by_loop

    asyncio.run(main())


def test_new_ones_are_made_while_the_old_ones_close():
    """An operation that comes while `close` waits does not get what is being closed."""

    async def main():
        registry = LoopRegistry(Resources)
        first = registry.enter()
        closing = asyncio.create_task(registry.close())
        await asyncio.sleep(0)
        assert first.closed_in and not closing.done()
        second = registry.enter()
        assert second is not first
        await closing
        assert registry.enter() is second and not second.closed_in

    asyncio.run(main())


def test_a_loop_closed_without_a_word():
    """A loop that never ran its last part is noticed when the store is used in the next one."""
    registry = LoopRegistry(Resources)

    async def main():
        return registry.enter()

    loop = asyncio.new_event_loop()
    resources = loop.run_until_complete(main())
    loop.close()
    assert list(registry.by_loop) == [loop]
    asyncio.run(main())
    assert not registry.by_loop
    assert resources.terminated == 1 and not resources.closed_in


def test_a_driver_that_wants_to_tell_a_closed_loop():
    """What terminates may find its loop closed. That disturbs nobody."""

    class Told(Resources):
        def terminate(self) -> None:
            super().terminate()
            self.loop.call_soon(print)

    registry = LoopRegistry(Told)

    async def main():
        return registry.enter()

    loop = asyncio.new_event_loop()
    resources = loop.run_until_complete(main())
    loop.close()
    asyncio.run(main())
    assert resources.terminated == 1


def test_a_dropped_registry_closes_them():
    """A store that nobody holds any longer gives its connections back while the loop goes on."""

    async def main():
        registry = LoopRegistry(Resources)
        resources = registry.enter()
        del registry
        gc.collect()
        for _ in range(10):
            if resources.closed_in:
                break
            await asyncio.sleep(0)
        assert resources.closed_in == [resources.loop]

    asyncio.run(main())


def test_what_cannot_be_made_is_not_kept():
    """An error while they are made reaches the caller, and the next one tries again."""
    faults = [ConfigurationError("not in this loop")]

    def make() -> Resources:
        if faults:
            raise faults.pop()
        return Resources()

    async def main():
        registry = LoopRegistry(make)
        with pytest.raises(ConfigurationError):
            registry.enter()
        assert not registry.by_loop
        assert registry.enter() is registry.enter()

    asyncio.run(main())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
def test_after_a_fork():
    """A child starts with none, and closes nothing of the parent's, not even when it ends the parent's loop."""
    registry = LoopRegistry(Resources)

    async def main():
        return registry.enter()

    loop = asyncio.new_event_loop()
    parents = loop.run_until_complete(main())
    child = os.fork()
    if child == 0:
        code = 1
        try:
            assert not registry.by_loop
            childs = loop.run_until_complete(main())
            assert childs is not parents
            loop.run_until_complete(loop.shutdown_asyncgens())
            assert childs.closed_in == [loop]
            assert not parents.closed_in and not parents.terminated
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert registry.by_loop == {loop: parents}
    loop.run_until_complete(registry.close())
    assert parents.closed_in == [loop]
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_fork_while_another_thread_holds_the_lock():
    """The child does not inherit a lock that nobody there would release."""
    registry = LoopRegistry(Resources)

    async def main():
        registry.enter()

    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with registry._lock:
            held.set()
            done.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(10)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            asyncio.run(main())
            code = 0
        finally:
            os._exit(code)
    done.set()
    holder.join(10)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
