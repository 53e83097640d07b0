"""What each test of the conformance suite works with: a new store, a clock, records and keys."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from roomkey.stores.base import Conflict, Lifespan, Record, Store
from roomkey.testing.clock import Clock

__all__ = ["AT_ONCE", "Bench", "assert_same", "conflicts", "make_key", "make_two_keys", "scenario", "winners_of"]

AT_ONCE = 50  # tasks in the races
_SHORT = 0.3, 3.0, 30.0  # seconds of real time that a record lives: the longer ones where the store is slow


class Contract(Protocol):
    """A suite of tests, as its store is made for each of them."""

    clock_moves: bool

    async def make(self, clock: Clock) -> Store: ...


@dataclass(slots=True)
class Bench:
    """What one test works with: a new store, its clock, and spans of time that suit that clock."""

    store: Store
    clock: Clock
    clock_moves: bool
    short: float  # a life in seconds that a test waits out
    waited: float = 0.0  # seconds of real time that the test has waited for it to pass

    def now(self) -> float:
        return self.clock() if self.clock_moves else time.time()

    async def outlive_short(self) -> None:
        """Let somewhat more than `short` pass."""
        if self.clock_moves:
            self.clock.advance(self.short * 1.25)
        else:
            begun = time.monotonic()
            await asyncio.sleep(self.short * 1.25)
            self.waited += time.monotonic() - begun

    def record(self, *, life: float = 3600.0, **fields: Any) -> Record:
        """A record that lives for `life` seconds from now."""
        now = self.now()
        return replace(Record(data=b"data", version=1, created_at=now, expires_at=now + life), **fields)

    def tombstone(self, successor: str, *, life: float = 3600.0, **fields: Any) -> Record:
        """What `rotate` leaves behind for `life` seconds."""
        now = self.now()
        until = now + life / 2
        return self.record(life=life, data=b"\x02way", version=2, successor=successor, serve_until=until, **fields)

    async def moved(self, *, life: float = 3600.0, **fields: Any) -> tuple[str, str]:
        """Create a record and rotate it. Return the key of the tombstone, which lives for `life`, and the new key."""
        key, new_key = make_two_keys()
        await self.store.create(key, self.record(**fields))
        new = self.record(version=2, **fields)
        await self.store.rotate(key, new_key, new, self.tombstone(new_key, life=life, **fields), version=1)
        return key, new_key


def make_key(beside: str = "") -> str:
    """A key. `beside`: that of a session which is rotated to this one, and so has the same place."""
    return beside[:4] + secrets.token_hex(32)[len(beside[:4]) :]


def make_two_keys() -> tuple[str, str]:
    """A key, and another one that a rotation may give."""
    key = make_key()
    return key, make_key(key)


def assert_same(found: Record | None, expected: Record) -> None:
    """Compare field by field, so that a failure names the field."""
    assert found is not None, "the record is not there"
    for field in Record.__slots__:
        got, want = getattr(found, field), getattr(expected, field)
        if isinstance(want, float):
            # An engine may keep moments in microseconds.
            assert abs(got - want) < 0.001, f"{field}: {got!r} instead of {want!r}"
        else:
            assert got == want and type(got) is type(want), f"{field}: {got!r} instead of {want!r}"


async def conflicts(operation: Awaitable[None]) -> None:
    try:
        await operation
    except Conflict:
        return
    raise AssertionError("no Conflict was raised")


async def winners_of(operations: list[Awaitable[None]]) -> list[int]:
    """Run all at once. Return which ones did not end in a Conflict. Any other exception is raised."""
    outcomes = await asyncio.gather(*operations, return_exceptions=True)
    for outcome in outcomes:
        if outcome is not None and not isinstance(outcome, Conflict):
            raise outcome
    return [number for number, outcome in enumerate(outcomes) if outcome is None]


def scenario(steps: Callable[[Any, Bench], Awaitable[None]]) -> Callable[[Contract], None]:
    """Make a plain method of an async one: it gets a new store, which is closed afterwards."""

    async def whole(contract: Contract, short: float) -> Exception | None:
        """Run the test. Return what failed where it took so long that records may have expired before they should."""
        clock = Clock()
        store = await contract.make(clock)
        bench = Bench(store, clock, contract.clock_moves, short)
        begun = time.monotonic()
        try:
            await steps(contract, bench)
        except (AssertionError, Conflict) as error:
            if contract.clock_moves or time.monotonic() - begun - bench.waited < short:
                raise
            return error
        finally:
            if isinstance(store, Lifespan):
                await store.close()
        return None

    def run(self: Contract) -> None:
        failed: Exception | None = None
        for short in (60.0,) if self.clock_moves else _SHORT:
            failed = asyncio.run(whole(self, short))
            if failed is None:
                return
        assert failed is not None
        raise failed

    # Not functools.wraps: pytest would follow __wrapped__ and look for a fixture named like the bench.
    run.__name__, run.__qualname__, run.__doc__ = steps.__name__, steps.__qualname__, steps.__doc__
    run.__module__ = steps.__module__
    return run
