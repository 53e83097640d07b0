"""Turns: requests of this process that lost a swap for one session do not race each other again and again.

Where no event loop serves a request (`roomkey.sync`), it takes no turn, and a pause blocks its thread.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from roomkey.errors import StoreUnavailable

if TYPE_CHECKING:
    import asyncio  # at run time it is imported where it is used: it is half of the time that `import roomkey` takes

__all__ = ["Turns", "blocking", "pause"]

_blocks: ContextVar[bool] = ContextVar("roomkey: no event loop serves this request", default=False)


@contextlib.contextmanager
def blocking() -> Iterator[None]:
    """Let what runs inside do without an event loop."""
    token = _blocks.set(True)
    try:
        yield
    finally:
        _blocks.reset(token)


async def pause(seconds: float) -> None:
    """Wait a moment."""
    if _blocks.get():
        time.sleep(seconds)  # noqa: ASYNC251  # there is no event loop to hold up
        return
    import asyncio

    await asyncio.sleep(seconds)


class _Turn:
    """Who enters is alone, until it leaves. Where the store fails meanwhile, those who wait do not try it in turn."""

    def __init__(self, lock: asyncio.Lock) -> None:
        self._lock = lock
        self._failures = 0

    async def __aenter__(self) -> None:
        failures = self._failures
        await self._lock.acquire()
        if self._failures != failures:
            self._lock.release()
            raise StoreUnavailable("the store failed while another request saved the same session")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, StoreUnavailable):
            self._failures += 1
        self._lock.release()


class Turns:
    """The turns for the sessions of one configuration."""

    def __init__(self) -> None:
        self._turns: WeakValueDictionary[tuple[int, str], _Turn] = WeakValueDictionary()

    def at(self, key: str) -> _Turn | contextlib.nullcontext[None]:
        """Return the turn for the session under `key`, in this event loop."""
        if _blocks.get():
            return contextlib.nullcontext()
        import asyncio

        place = (id(asyncio.get_running_loop()), key)
        turn = self._turns.get(place)
        if turn is None:
            turn = self._turns[place] = _Turn(asyncio.Lock())
        return turn
