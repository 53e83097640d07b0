"""Turns: requests of this process that lost a swap for one session do not race each other again and again."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from roomkey.errors import StoreUnavailable

if TYPE_CHECKING:
    import asyncio  # at run time it is imported where it is used: it is half of the time that `import roomkey` takes

__all__ = ["Turns", "pause"]


async def pause(seconds: float) -> None:
    """Wait a moment."""
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

    def at(self, key: str) -> _Turn:
        """Return the turn for the session under `key`, in this event loop."""
        import asyncio

        place = (id(asyncio.get_running_loop()), key)
        turn = self._turns.get(place)
        if turn is None:
            turn = self._turns[place] = _Turn(asyncio.Lock())
        return turn
