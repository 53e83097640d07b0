"""What differs where gevent has replaced threads by greenlets. It is imported only there."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import gevent
from gevent.event import Event

from roomkey.sync.originals import make_lock

__all__ = ["GreenletLoop", "GreenletWaiter", "may_wait", "take_down"]


def may_wait() -> bool:
    """Whether a greenlet runs here that can wait. What runs in gevent's hub itself cannot leave it to the others."""
    return gevent.get_hub() is not gevent.getcurrent()


def take_down() -> None:
    """Give back what gevent has made for this thread, before the thread ends."""
    gevent.get_hub().destroy(destroy_loop=True)


class GreenletWaiter:
    """Holds up its greenlet; the others of its thread go on."""

    def __init__(self) -> None:
        self._woken = Event()
        # Started before anything can be sent: what is sent to one that is not started is lost.
        self._watcher = gevent.get_hub().loop.async_()
        self._watcher.start(self._woken.set)
        self._lock = make_lock()  # held while the watcher is used by the other thread, or taken away
        self._pid = os.getpid()
        self._is_open = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A greenlet goes on in the child of a fork, where the lock may be held by a thread that is not there.
        with self._lock if self._pid == os.getpid() else contextlib.nullcontext():
            self._is_open = False
            self._watcher.stop()
            self._watcher.close()

    def wait(self) -> None:
        self._woken.wait()

    def wake(self) -> None:
        with self._lock:
            if self._is_open:
                self._watcher.send()


class GreenletLoop(asyncio.SelectorEventLoop):
    """An event loop in a thread where the threads of its executor are greenlets, as everywhere.

    What asyncio itself makes of them does not wake the loop, from CPython 3.13.12 on: a host name is then found after
    seconds only (gevent's issue 2213).
    """

    def run_in_executor(  # type: ignore[override]  # typed more exactly there
        self, executor: Any, function: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        if executor is not None:
            return super().run_in_executor(executor, function, *args)
        future = self.create_future()
        gevent.spawn(self._call, future, function, args)
        return future

    def _call(self, future: asyncio.Future[Any], function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        answer, failure = None, None
        try:
            answer = function(*args)
        except Exception as error:
            failure = error
        self.call_soon_threadsafe(_settle, future, answer, failure)


def _settle(future: asyncio.Future[Any], answer: Any, failure: Exception | None) -> None:
    if future.done():  # cancelled meanwhile
        return
    if failure is None:
        future.set_result(answer)
    else:
        future.set_exception(failure)
