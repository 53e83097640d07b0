"""An event loop in a thread of its own, for calls from all other threads.

Both are made with the first call. They end with `close`, when nobody holds the `LoopThread` any longer, or when the
process ends. The thread is a real one, also under gevent: in a greenlet, the loop would run in the app's own thread,
and the app could run no other there. After a fork, the child makes a thread of its own.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Generic, TypeVar

from roomkey.errors import StoreUnavailable
from roomkey.stores.forks import abandon, at_fork
from roomkey.sync.originals import is_patched, make_lock, original
from roomkey.sync.threads import ThreadWaiter, Waiter, waiter_here

__all__ = ["LoopThread"]

_Answer = TypeVar("_Answer")


class LoopThread:
    """A thread with an event loop, for as long as it is needed.

    Args:
        last: what is done in the loop before it ends.
        patience: seconds that work under way may take once the end has come, and `last` after it.
    """

    def __init__(self, last: Callable[[], Coroutine[Any, Any, None]], patience: float) -> None:
        self._last = last
        self._patience = patience
        self._lock = make_lock()  # held while the thread is started, given work, or let go
        self._thread: _Thread | None = None
        self._dropped: weakref.finalize[..., Any] | None = None  # ends the thread when nobody holds this any longer
        at_fork(self)

    def run(self, work: Awaitable[_Answer]) -> _Answer:
        """Run there what can be awaited, wait for it, and return what it returns.

        Where the waiting is cut short, by a signal or a timeout of gevent's, the work is cancelled.

        Raises:
            RuntimeError: this is the loop's own thread.
            StoreUnavailable: the loop ended meanwhile.
        """
        self._forget_parents()
        with waiter_here() as waiter:
            call, thread = _Call(work, waiter), None
            try:
                with self._lock:
                    thread = self._started()
                    thread.soon(call.begin, thread.tasks)
                waiter.wait()
            except BaseException:  # a signal may come anywhere, also once the work has begun and nobody waits yet
                if thread is None or not thread.takes(call.cancel):
                    call.drop()
                raise
        return call.outcome()

    def soon(self, callback: Callable[[], object]) -> None:
        """Have something called there, and do not wait for it."""
        self._forget_parents()
        with self._lock:
            self._started().soon(callback)

    def close(self) -> None:
        """End the thread, once what is under way has been done. The next call begins another.

        Raises:
            RuntimeError: this is the loop's own thread.
            Exception: what `last` raised.
        """
        with waiter_here() as waiter:
            thread = self._let_go()
            if thread is None:
                return
            thread.stop(waiter)
            waiter.wait()
        if thread.error is not None:
            raise thread.error

    def end(self) -> None:
        """As `close`, when the process ends: within a time, and it raises nothing."""
        thread = self._let_go()
        if thread is not None:
            waiter = ThreadWaiter()
            thread.stop(waiter)
            waiter.wait(4 * self._patience)

    def after_fork(self) -> None:
        """In the child of a fork: the lock may be held by a thread that is not there."""
        self._lock = make_lock()
        self._forget_parents()

    def _forget_parents(self) -> None:
        """Let go of a thread of the parent's. Every call does it: some servers fork in C, and do not tell Python."""
        thread = self._thread
        if thread is not None and thread.pid != os.getpid():
            if self._dropped is not None:
                self._dropped.detach()
            abandon(thread)
            self._thread = None
            self._lock = make_lock()

    def _started(self) -> _Thread:
        if self._thread is None or self._thread.has_ended():
            thread = _Thread(self._last, self._patience)
            thread.start()
            self._thread = thread
            self._dropped = weakref.finalize(self, thread.stop)
            self._dropped.atexit = False  # `end` is for that
            _running.add(self)
        elif self._thread.is_here():
            raise RuntimeError("manager.sync was called in its own thread; await there what it would wait for")
        return self._thread

    def _let_go(self) -> _Thread | None:
        with self._lock:
            thread = self._thread
            if thread is None or thread.pid != os.getpid():
                return None
            if thread.is_here():
                raise RuntimeError("manager.sync cannot be closed in its own thread")
            self._thread = None
            if self._dropped is not None:
                self._dropped.detach()
            return thread


class _Call(Generic[_Answer]):
    """One call on its way to the loop and back."""

    def __init__(self, work: Awaitable[_Answer], waiter: Waiter) -> None:
        self._work = work
        self._waiter = waiter
        self._task: asyncio.Task[None] | None = None
        self._answer: list[_Answer] = []
        self._error: BaseException | None = None

    # Both in the loop.

    def begin(self, tasks: set[asyncio.Task[None]]) -> None:
        self._task = asyncio.get_running_loop().create_task(self._do())
        tasks.add(self._task)
        self._task.add_done_callback(tasks.discard)
        self._task.add_done_callback(self._done)

    def cancel(self) -> None:
        if self._task is None:  # it was not begun
            self.drop()
        else:
            self._task.cancel()

    async def _do(self) -> None:
        try:
            self._answer.append(await self._work)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # all of them: some would end the loop
            self._error = error

    def _done(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            self.drop()
            self._error = StoreUnavailable("manager.sync was closed before the store had answered")
        self._waiter.wake()

    # In the thread that waits.

    def drop(self) -> None:
        """Let go of work that may not have begun."""
        if isinstance(self._work, Coroutine):
            self._work.close()

    def outcome(self) -> _Answer:
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # the traceback holds this frame
        return self._answer[0]


class _Thread:
    """The thread and its loop."""

    def __init__(self, last: Callable[[], Coroutine[Any, Any, None]], patience: float) -> None:
        self.pid = os.getpid()
        self.tasks: set[asyncio.Task[None]] = set()  # of the calls under way
        self.error: BaseException | None = None  # why the loop did not start, or did not end well
        self._last = last
        self._patience = patience
        self._ident: int | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._starter: Waiter = ThreadWaiter()
        self._stopper: Waiter | None = None

    # From other threads.

    def start(self) -> None:
        """Start it, and return once the loop runs."""
        original("start_new_thread")(self._run, ())
        self._starter.wait()
        if self._loop is None and self.error is not None:
            raise self.error

    def soon(self, callback: Callable[..., object], *args: Any) -> None:
        """Call something in the loop, in a copy of the context of this thread."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(callback, *args)

    def takes(self, callback: Callable[..., object]) -> bool:
        """As `soon`. Returns whether there is still a loop to call it in."""
        try:
            self.soon(callback)
        except RuntimeError:
            return False
        return True

    def stop(self, waiter: Waiter | None = None) -> None:
        """Let it come to its end; `waiter` is woken then."""
        assert self._stopping is not None
        self._stopper = waiter
        try:
            self.soon(self._stopping.set)
        except RuntimeError:  # it has ended by itself
            if waiter is not None:
                waiter.wake()

    def has_ended(self) -> bool:
        """Whether the loop has: something went wrong in it."""
        return self._loop is None or self._loop.is_closed()

    def is_here(self) -> bool:
        """Whether this is the thread."""
        return bool(self._ident == original("get_ident")())

    # In the thread.

    def _run(self) -> None:
        try:
            if is_patched():
                from roomkey.sync.greenlets import GreenletLoop, take_down

                try:
                    self._run_loop(GreenletLoop)
                finally:
                    take_down()
            else:
                self._run_loop(None)
        except BaseException as error:
            self.error = error
        finally:
            if self._loop is None:
                self._starter.wake()
            if self._stopper is not None:
                self._stopper.wake()

    def _run_loop(self, make: Callable[[], asyncio.AbstractEventLoop] | None) -> None:
        with asyncio.Runner(loop_factory=make) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._ident = original("get_ident")()
        self._stopping = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._starter.wake()
        await self._stopping.wait()
        if self.tasks:
            _, late = await asyncio.wait(self.tasks, timeout=self._patience)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=self._patience)
        async with asyncio.timeout(3 * self._patience):
            await self._last()


_running: weakref.WeakSet[LoopThread] = weakref.WeakSet()


def _end_all() -> None:
    for one in list(_running):
        with contextlib.suppress(Exception):
            one.end()


atexit.register(_end_all)
