"""Turns: requests of this process that lost a swap for one session do not race each other again and again."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from roomkey.errors import StoreUnavailable

if TYPE_CHECKING:
    import asyncio  # at run time it is imported where it is used: it is half of the time that `import roomkey` takes

__all__ = ["Deadline", "Turns", "pause"]


class Deadline:
    """Until when a request waits for others that save the same session: for `store_timeout` in all.

    It begins when it is made, in an event loop.

    Args:
        seconds: how long; `store_timeout`.
        what: what is to become of the session.
    """

    def __init__(self, seconds: float, what: str = "saved") -> None:
        import asyncio

        self._seconds, self._what = seconds, what
        self.has_passed: bool = False
        self.at: float = asyncio.get_running_loop().time() + seconds

    def check(self) -> None:
        """Raise StoreUnavailable where it has passed."""
        import asyncio

        if asyncio.get_running_loop().time() >= self.at:
            raise self.passed()

    def passed(self) -> StoreUnavailable:
        """Note that it has passed, and return the error that says so."""
        self.has_passed = True
        return StoreUnavailable(
            f"the session was not {self._what} within {self._seconds:g} s (store_timeout): "
            "other requests were saving it"
        )


async def pause(seconds: float) -> None:
    """Wait a moment."""
    import asyncio

    await asyncio.sleep(seconds)


class _Turn:
    """Who enters is alone, until it leaves. Where the store fails meanwhile, those who wait do not try it in turn."""

    def __init__(self, lock: asyncio.Lock) -> None:
        self.lock = lock
        self.failures = 0


class _Place:
    """One request's wait for a turn, and its turn."""

    def __init__(self, turn: _Turn, deadline: Deadline) -> None:
        self._turn, self._deadline = turn, deadline

    async def __aenter__(self) -> None:
        import asyncio

        turn, failures = self._turn, self._turn.failures
        try:
            async with asyncio.timeout_at(self._deadline.at):
                await turn.lock.acquire()
        except TimeoutError as error:
            raise self._deadline.passed() from error
        if turn.failures != failures:
            turn.lock.release()
            raise StoreUnavailable("the store failed while another request saved the same session")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # That others were first for too long does not say that the store fails.
        if isinstance(error, StoreUnavailable) and not self._deadline.has_passed:
            self._turn.failures += 1
        self._turn.lock.release()


class Turns:
    """The turns for the sessions of one configuration."""

    def __init__(self) -> None:
        self._turns: WeakValueDictionary[tuple[int, str], _Turn] = WeakValueDictionary()

    def at(self, key: str, deadline: Deadline) -> _Place:
        """Return a place for the session under `key`, in this event loop.

        Its turn is entered with `async with`, which raises StoreUnavailable when the turn does not come in time.
        """
        import asyncio

        place = (id(asyncio.get_running_loop()), key)
        turn = self._turns.get(place)
        if turn is None:
            turn = self._turns[place] = _Turn(asyncio.Lock())
        return _Place(turn, deadline)
