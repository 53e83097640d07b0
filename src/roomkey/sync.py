"""The session manager for frameworks that are not asynchronous: the same calls, and each returns when it is done.

A store that never waits is served in place. Any other one is served by one event loop of the manager's own, in a thread
of its own. So the calls work from any thread, also while the app's own event loop runs in it.
"""

from __future__ import annotations

import atexit
import sys
import threading
from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from roomkey.core.session import Session
from roomkey.core.turns import blocking
from roomkey.request import Request
from roomkey.stores.forks import forgets_after_fork

if TYPE_CHECKING:
    import asyncio  # at run time it is imported where it is used: it is half of the time that `import roomkey` takes
    from concurrent.futures import Future

    from roomkey.manager import SessionManager

__all__ = ["SyncManager"]

_Answer = TypeVar("_Answer")
_Text = TypeVar("_Text", str, bytes)


class SyncManager:
    """The blocking calls of a `SessionManager`: `manager.sync`.

    Args:
        manager: does the work.

    Example:
        >>> from roomkey import SessionManager
        >>> manager = SessionManager(secret_key="k" * 32, store="memory://")
        >>> session = manager.sync.load(None)
        >>> session["user_id"] = 7
        >>> [name for name, _ in manager.sync.commit(session)]
        ['vary', 'cache-control', 'set-cookie']
    """

    def __init__(self, manager: SessionManager) -> None:
        self._manager = manager
        self._loop = _LoopInThread()
        # Old sessions are asked of another library's store, which may wait.
        self._in_place = manager.registry.store.never_waits and not manager.config.legacy

    def load(self, request: Request | str | bytes | None = None) -> Session:
        """As `SessionManager.load`."""
        return self.run(self._manager.load(request))

    def commit(
        self,
        session: Session,
        *,
        status: int = 200,
        headers: Iterable[tuple[_Text, _Text]] = (),
        can_set_cookie: bool | None = None,
    ) -> list[tuple[_Text, _Text]]:
        """As `SessionManager.commit`."""
        return self.run(self._manager.commit(session, status=status, headers=headers, can_set_cookie=can_set_cookie))

    def abandon(self, session: Session) -> None:
        """As `SessionManager.abandon`."""
        self._manager.abandon(session)

    def run(self, work: Coroutine[Any, Any, _Answer]) -> _Answer:
        """Run what the session itself offers to await: `manager.sync.run(session.flashes())`.

        Raises:
            whatever the work raises.
        """
        if self._in_place:
            return _in_place(work)
        return self._loop.run(work)

    def close(self) -> None:
        """Close the store, and end the thread. Both begin anew with the next call."""
        self._loop.close(self._manager.registry.store.close)


def _in_place(work: Coroutine[Any, Any, _Answer]) -> _Answer:
    try:
        with blocking():
            work.send(None)
    except StopIteration as stop:
        answer: _Answer = stop.value
        return answer
    work.close()
    raise RuntimeError("the work waited for something that no event loop serves here")


class _LoopInThread:
    """An event loop in a thread of its own; both are made when they are first needed."""

    def __init__(self) -> None:
        self._lock = _original("threading", "Lock")()
        self._loop: asyncio.AbstractEventLoop | None = None
        forgets_after_fork(self)
        atexit.register(self.close)

    def run(self, work: Coroutine[Any, Any, _Answer]) -> _Answer:
        """Run a coroutine there, and return what it returns."""
        import asyncio

        return _wait(asyncio.run_coroutine_threadsafe(work, self._running()))

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                import asyncio

                self._loop = asyncio.new_event_loop()
                # A real thread, also under gevent: in a patched one, the loop would run in the app's own thread.
                _original("_thread", "start_new_thread")(_serve, (self._loop,))
            return self._loop

    def close(self, last: Callable[[], Coroutine[Any, Any, None]] | None = None) -> None:
        """End the thread. `last`: what is done there before."""
        with self._lock:
            loop, self._loop = self._loop, None
        if loop is None:
            return
        import asyncio

        try:
            if last is not None:
                _wait(asyncio.run_coroutine_threadsafe(last(), loop))
        finally:
            loop.call_soon_threadsafe(loop.stop)

    def forget(self) -> None:
        """In the child of a fork: the thread is the parent's, and the lock may be held by it."""
        self._lock = _original("threading", "Lock")()
        self._loop = None


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    import asyncio

    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.close()


def _wait(future: Future[_Answer]) -> _Answer:
    """Wait for a future of another thread; under gevent, the other greenlets go on meanwhile."""
    if not _is_patched("threading"):
        return future.result()
    import gevent

    hub = gevent.get_hub()
    if hub is gevent.getcurrent():
        return future.result()
    woken = hub.loop.async_()
    future.add_done_callback(lambda _: woken.send())
    try:
        while not future.done():
            hub.wait(woken)
    finally:
        woken.close()
    return future.result()


def _is_patched(module: str) -> bool:
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched(module))


def _original(module: str, name: str) -> Any:
    """Return a function of a module as it is without gevent's patches."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None:
        return monkey.get_original(module, name)
    return getattr(threading if module == "threading" else sys.modules["_thread"], name)
