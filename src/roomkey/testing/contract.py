"""The conformance suite: one test for each sentence of the contract in `roomkey.stores.base`.

A store of your own runs it in three lines, with pytest or any other runner that calls methods named `test_*`:

    class TestMyStore(StoreContract):
        async def make(self, clock):
            return MyStore(clock=clock)
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol
from unittest import SkipTest

from roomkey.stores.base import Conflict, Lifespan, Purge, Record, Scan, Store, TellingPurge, UserIndex, Wipe
from roomkey.testing import watching
from roomkey.testing.clock import Clock

__all__ = ["StoreContract"]

_AT_ONCE = 50  # tasks in the races
_SHORT = 0.3, 3.0, 30.0  # seconds of real time that a record lives: the longer ones where the store is slow


@dataclass(slots=True)
class _Bench:
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
        key, new_key = _two_keys()
        await self.store.create(key, self.record(**fields))
        new = self.record(version=2, **fields)
        await self.store.rotate(key, new_key, new, self.tombstone(new_key, life=life, **fields), version=1)
        return key, new_key


def _key(beside: str = "") -> str:
    """A key. `beside`: that of a session which is rotated to this one, and so has the same place."""
    return beside[:4] + secrets.token_hex(32)[len(beside[:4]) :]


def _two_keys() -> tuple[str, str]:
    """A key, and another one that a rotation may give."""
    key = _key()
    return key, _key(key)


def _same(found: Record | None, expected: Record) -> None:
    """Compare field by field, so that a failure names the field."""
    assert found is not None, "the record is not there"
    for field in Record.__slots__:
        got, want = getattr(found, field), getattr(expected, field)
        if isinstance(want, float):
            # An engine may keep moments in microseconds.
            assert abs(got - want) < 0.001, f"{field}: {got!r} instead of {want!r}"
        else:
            assert got == want and type(got) is type(want), f"{field}: {got!r} instead of {want!r}"


async def _conflicts(operation: Awaitable[None]) -> None:
    try:
        await operation
    except Conflict:
        return
    raise AssertionError("no Conflict was raised")


async def _winners(operations: list[Awaitable[None]]) -> list[int]:
    """Run all at once. Return which ones did not end in a Conflict. Any other exception is raised."""
    outcomes = await asyncio.gather(*operations, return_exceptions=True)
    for outcome in outcomes:
        if outcome is not None and not isinstance(outcome, Conflict):
            raise outcome
    return [number for number, outcome in enumerate(outcomes) if outcome is None]


def _test(scenario: Callable[[Any, _Bench], Awaitable[None]]) -> Callable[[StoreContract], None]:
    """Make a plain method of an async one: it gets a new store, which is closed afterwards."""

    async def whole(contract: StoreContract, short: float) -> Exception | None:
        """Run the test. Return what failed where it took so long that records may have expired before they should."""
        clock = Clock()
        store = await contract.make(clock)
        bench = _Bench(store, clock, contract.clock_moves, short)
        begun = time.monotonic()
        try:
            await scenario(contract, bench)
        except (AssertionError, Conflict) as error:
            if contract.clock_moves or time.monotonic() - begun - bench.waited < short:
                raise
            return error
        finally:
            if isinstance(store, Lifespan):
                await store.close()
        return None

    def run(self: StoreContract) -> None:
        failed: Exception | None = None
        for short in (60.0,) if self.clock_moves else _SHORT:
            failed = asyncio.run(whole(self, short))
            if failed is None:
                return
        assert failed is not None
        raise failed

    # Not functools.wraps: pytest would follow __wrapped__ and look for a fixture named like the bench.
    run.__name__, run.__qualname__, run.__doc__ = scenario.__name__, scenario.__qualname__, scenario.__doc__
    run.__module__ = scenario.__module__
    return run


class StoreContract:
    """Subclass it, name the class `Test...`, and say how your store is made.

    Tests of the optional protocols (`Purge`, `UserIndex`, `Scan`, `Wipe`, `Watch`, `Lifespan`) are skipped for a store
    without them.
    """

    clock_moves = True
    """Whether the store follows the clock given to `make`. False for one whose engine has its own: the suite then
    gives records 0.3 seconds to live and waits, so the server's clock and this machine's must agree. A test that took
    longer, and failed, is run again with 3 seconds, and then with 30."""

    async def make(self, clock: Clock) -> Store:
        """Return a new, empty store.

        Args:
            clock: the time, for a store that takes a `clock`.
        """
        raise NotImplementedError("StoreContract: say in `make` how your store is made")

    # load

    @_test
    async def test_load_of_a_missing_key(self, bench: _Bench) -> None:
        """Under a key that nobody used there is None."""
        assert await bench.store.load(_key()) is None

    @_test
    async def test_load_of_an_expired_record(self, bench: _Bench) -> None:
        """A record is there before its `expires_at` and absent after it."""
        key, record = _key(), bench.record(life=bench.short)
        await bench.store.create(key, record)
        _same(await bench.store.load(key), record)
        await bench.outlive_short()
        assert await bench.store.load(key) is None

    @_test
    async def test_load_at_the_moment_of_expiry(self, bench: _Bench) -> None:
        """A record whose `expires_at` is now is absent already."""
        if not bench.clock_moves:
            raise SkipTest("needs a clock that stands still")
        key, record = _key(), bench.record(life=60.0)
        await bench.store.create(key, record)
        bench.clock.now = record.expires_at
        assert await bench.store.load(key) is None

    @_test
    async def test_load_of_a_tombstone(self, bench: _Bench) -> None:
        """A tombstone is loaded like any record."""
        key, new_key = await bench.moved()
        found = await bench.store.load(key)
        assert found is not None and found.successor == new_key

    @_test
    async def test_load_of_an_expired_tombstone(self, bench: _Bench) -> None:
        """A tombstone expires like any record, and leaves its successor alone."""
        key, new_key = await bench.moved(life=bench.short)
        await bench.outlive_short()
        assert await bench.store.load(key) is None
        assert await bench.store.load(new_key) is not None

    @_test
    async def test_keys_are_told_apart(self, bench: _Bench) -> None:
        """Keys that differ in one digit are two records."""
        key = _key()
        other = key[:-1] + ("1" if key[-1] == "0" else "0")
        record = bench.record(data=b"one")
        await bench.store.create(key, record)
        assert await bench.store.load(other) is None
        await bench.store.create(other, bench.record(data=b"two"))
        _same(await bench.store.load(key), record)

    # create

    @_test
    async def test_create_keeps_every_field(self, bench: _Bench) -> None:
        """What was created is loaded with every field as it was."""
        key = _key()
        record = bench.record(
            data=b"\x00\xffdata",
            version=7,
            user="42",
            serve_until=bench.now() + 0.5,
            about=b"\x00\xffA/1",
        )
        await bench.store.create(key, record)
        _same(await bench.store.load(key), record)

    @_test
    async def test_create_keeps_absent_fields_absent(self, bench: _Bench) -> None:
        """None comes back as None and an empty string as an empty string."""
        key, other = _key(), _key()
        nothing, empty = bench.record(), bench.record(user="")
        await bench.store.create(key, nothing)
        await bench.store.create(other, empty)
        _same(await bench.store.load(key), nothing)
        _same(await bench.store.load(other), empty)

    @_test
    async def test_create_keeps_every_byte(self, bench: _Bench) -> None:
        """Data of every byte value, no data, and 64 KiB of data come back as they were."""
        for data in (bytes(range(256)), b"", b"\x00", secrets.token_bytes(64 * 1024)):
            key = _key()
            await bench.store.create(key, bench.record(data=data))
            found = await bench.store.load(key)
            assert found is not None and found.data == data and type(found.data) is bytes

    @_test
    async def test_create_keeps_every_character(self, bench: _Bench) -> None:
        """Text outside ASCII, quotes, colons and line ends come back as they were."""
        for text in ("Zoë 名前 🗝", 'it\'s "so"; -- %s {} \\', "a:b\r\nc\td", "é", "e\u0301"):
            key, record = _key(), bench.record(user=text)
            await bench.store.create(key, record)
            _same(await bench.store.load(key), record)

    @_test
    async def test_create_never_overwrites(self, bench: _Bench) -> None:
        """Over a live record, `create` is a Conflict, and the record stays as it was."""
        key, record = _key(), bench.record(data=b"first")
        await bench.store.create(key, record)
        await _conflicts(bench.store.create(key, bench.record(data=b"second", user="42")))
        _same(await bench.store.load(key), record)

    @_test
    async def test_create_never_overwrites_a_tombstone(self, bench: _Bench) -> None:
        """Over a live tombstone, `create` is a Conflict, and the tombstone stays as it was."""
        key, new_key = await bench.moved()
        await _conflicts(bench.store.create(key, bench.record()))
        found = await bench.store.load(key)
        assert found is not None and found.successor == new_key

    @_test
    async def test_create_replaces_an_expired_record(self, bench: _Bench) -> None:
        """An expired record is absent: its key is free, and nothing of it is left."""
        key = _key()
        await bench.store.create(key, bench.record(life=bench.short, user="42", about=b"A"))
        await bench.outlive_short()
        record = bench.record(data=b"new")
        await bench.store.create(key, record)
        _same(await bench.store.load(key), record)

    # update

    @_test
    async def test_update_replaces_every_field(self, bench: _Bench) -> None:
        """With the right version, the record is replaced by the new one."""
        key, now = _key(), bench.now()
        await bench.store.create(key, bench.record(about=b"B"))
        record = bench.record(data=b"new", version=2, created_at=now - 5, life=50, user="42", about=b"A")
        await bench.store.update(key, record, version=1)
        _same(await bench.store.load(key), record)

    @_test
    async def test_update_may_shorten(self, bench: _Bench) -> None:
        """An update moves `expires_at` to any moment, an earlier one too."""
        key = _key()
        await bench.store.create(key, bench.record())
        await bench.store.update(key, bench.record(life=bench.short, version=2), version=1)
        assert await bench.store.load(key) is not None
        await bench.outlive_short()
        assert await bench.store.load(key) is None

    @_test
    async def test_update_may_prolong(self, bench: _Bench) -> None:
        """A record that was updated to expire later outlives its first `expires_at`."""
        key = _key()
        await bench.store.create(key, bench.record(life=bench.short))
        record = bench.record(version=2)
        await bench.store.update(key, record, version=1)
        await bench.outlive_short()
        _same(await bench.store.load(key), record)

    @_test
    async def test_update_of_another_version(self, bench: _Bench) -> None:
        """An earlier or later version is a Conflict, and the record stays as it was."""
        key, record = _key(), bench.record(version=5)
        await bench.store.create(key, record)
        for version in (4, 6):
            await _conflicts(bench.store.update(key, bench.record(data=b"new", version=version + 1), version=version))
        _same(await bench.store.load(key), record)

    @_test
    async def test_update_of_a_missing_record(self, bench: _Bench) -> None:
        """Where nothing is, nothing is put."""
        key = _key()
        await _conflicts(bench.store.update(key, bench.record(version=2), version=1))
        assert await bench.store.load(key) is None

    @_test
    async def test_update_of_a_deleted_record(self, bench: _Bench) -> None:
        """A late save does not bring back a session that was logged out."""
        key = _key()
        await bench.store.create(key, bench.record(user="42"))
        await bench.store.delete(key)
        await _conflicts(bench.store.update(key, bench.record(version=2, user="42"), version=1))
        assert await bench.store.load(key) is None

    @_test
    async def test_update_of_an_expired_record(self, bench: _Bench) -> None:
        """An expired record is a Conflict, and is not revived."""
        key = _key()
        await bench.store.create(key, bench.record(life=bench.short))
        await bench.outlive_short()
        await _conflicts(bench.store.update(key, bench.record(version=2), version=1))
        assert await bench.store.load(key) is None

    @_test
    async def test_update_of_a_tombstone(self, bench: _Bench) -> None:
        """A session that moved is a Conflict at its old key, with the tombstone's own version too."""
        key, new_key = await bench.moved()
        for version in (1, 2):
            await _conflicts(bench.store.update(key, bench.record(version=version + 1), version=version))
        found = await bench.store.load(key)
        assert found is not None and found.successor == new_key

    @_test
    async def test_update_into_the_past(self, bench: _Bench) -> None:
        """A record whose `expires_at` has passed ends the session, for good."""
        key = _key()
        await bench.store.create(key, bench.record())
        await bench.store.update(key, bench.record(life=-1.0, version=2), version=1)
        assert await bench.store.load(key) is None
        assert await bench.store.touch(key, bench.now() + 3600) is False
        await _conflicts(bench.store.update(key, bench.record(version=3), version=2))

    # rotate

    @_test
    async def test_rotate_puts_both(self, bench: _Bench) -> None:
        """The record is under the new key and the tombstone under the old one, with every field."""
        key, new_key = _two_keys()
        await bench.store.create(key, bench.record())
        record = bench.record(data=b"new", version=2, user="42", about=b"A")
        tombstone = bench.tombstone(new_key, user="42")
        await bench.store.rotate(key, new_key, record, tombstone, version=1)
        _same(await bench.store.load(new_key), record)
        _same(await bench.store.load(key), tombstone)

    @_test
    async def test_rotate_of_another_version(self, bench: _Bench) -> None:
        """Another version is a Conflict, and both keys stay as they were."""
        key, new_key = _two_keys()
        record = bench.record(version=5)
        await bench.store.create(key, record)
        new, tombstone = bench.record(version=6), bench.tombstone(new_key)
        await _conflicts(bench.store.rotate(key, new_key, new, tombstone, version=4))
        _same(await bench.store.load(key), record)
        assert await bench.store.load(new_key) is None

    @_test
    async def test_rotate_of_a_missing_record(self, bench: _Bench) -> None:
        """Where nothing is, nothing is put under either key."""
        key, new_key = _two_keys()
        new, tombstone = bench.record(version=2), bench.tombstone(new_key)
        await _conflicts(bench.store.rotate(key, new_key, new, tombstone, version=1))
        assert await bench.store.load(key) is None
        assert await bench.store.load(new_key) is None

    @_test
    async def test_rotate_of_an_expired_record(self, bench: _Bench) -> None:
        """An expired record is a Conflict, and nothing is put under either key."""
        key, new_key = _two_keys()
        await bench.store.create(key, bench.record(life=bench.short))
        await bench.outlive_short()
        new, tombstone = bench.record(version=2), bench.tombstone(new_key)
        await _conflicts(bench.store.rotate(key, new_key, new, tombstone, version=1))
        assert await bench.store.load(key) is None
        assert await bench.store.load(new_key) is None

    @_test
    async def test_rotate_of_a_tombstone(self, bench: _Bench) -> None:
        """A session that moved does not move again from its old key."""
        key, successor = await bench.moved()
        new_key = _key(key)
        for version in (1, 2):
            new, tombstone = bench.record(version=version + 1), bench.tombstone(new_key)
            await _conflicts(bench.store.rotate(key, new_key, new, tombstone, version=version))
        found = await bench.store.load(key)
        assert found is not None and found.successor == successor
        assert await bench.store.load(new_key) is None

    @_test
    async def test_rotate_to_a_taken_key(self, bench: _Bench) -> None:
        """A live record under the new key is a Conflict, and both records stay as they were."""
        key, new_key = _two_keys()
        mine, theirs = bench.record(data=b"mine"), bench.record(data=b"theirs")
        await bench.store.create(key, mine)
        await bench.store.create(new_key, theirs)
        new, tombstone = bench.record(version=2), bench.tombstone(new_key)
        await _conflicts(bench.store.rotate(key, new_key, new, tombstone, version=1))
        _same(await bench.store.load(key), mine)
        _same(await bench.store.load(new_key), theirs)

    @_test
    async def test_rotate_to_an_expired_key(self, bench: _Bench) -> None:
        """An expired record under the new key is absent and is replaced."""
        key, new_key = _two_keys()
        await bench.store.create(key, bench.record())
        await bench.store.create(new_key, bench.record(life=bench.short))
        await bench.outlive_short()
        record = bench.record(version=2)
        await bench.store.rotate(key, new_key, record, bench.tombstone(new_key), version=1)
        _same(await bench.store.load(new_key), record)

    # touch

    @_test
    async def test_touch_prolongs(self, bench: _Bench) -> None:
        """A touched record outlives its first `expires_at`. Its version and all other fields stay."""
        key, record = _key(), bench.record(life=bench.short, version=3, user="42", about=b"A")
        await bench.store.create(key, record)
        later = bench.now() + 3600
        assert await bench.store.touch(key, later) is True
        await bench.outlive_short()
        _same(await bench.store.load(key), replace(record, expires_at=later))
        await bench.store.update(key, bench.record(version=4), version=3)

    @_test
    async def test_touch_never_shortens(self, bench: _Bench) -> None:
        """A record that expires later than asked stays as it is, and is reported as there."""
        key, record = _key(), bench.record()
        await bench.store.create(key, record)
        assert await bench.store.touch(key, bench.now() + bench.short) is True
        assert await bench.store.touch(key, bench.now() - 1) is True
        _same(await bench.store.load(key), record)

    @_test
    async def test_touch_never_revives(self, bench: _Bench) -> None:
        """An expired record is reported as not there and stays absent."""
        key = _key()
        await bench.store.create(key, bench.record(life=bench.short))
        await bench.outlive_short()
        assert await bench.store.touch(key, bench.now() + 3600) is False
        assert await bench.store.load(key) is None

    @_test
    async def test_touch_of_a_missing_record(self, bench: _Bench) -> None:
        """Where nothing is, nothing is put, whether or not something was there once."""
        key, deleted = _key(), _key()
        await bench.store.create(deleted, bench.record())
        await bench.store.delete(deleted)
        for absent in (key, deleted):
            assert await bench.store.touch(absent, bench.now() + 3600) is False
            assert await bench.store.load(absent) is None

    @_test
    async def test_touch_of_a_tombstone(self, bench: _Bench) -> None:
        """A tombstone is reported as not there and does not live longer."""
        key, _ = await bench.moved(life=bench.short)
        assert await bench.store.touch(key, bench.now() + 3600) is False
        await bench.outlive_short()
        assert await bench.store.load(key) is None

    # delete

    @_test
    async def test_delete_removes(self, bench: _Bench) -> None:
        """A deleted record is absent, its key is free again, and other records stay."""
        key, other = _key(), _key()
        await bench.store.create(key, bench.record())
        await bench.store.create(other, bench.record())
        await bench.store.delete(key)
        assert await bench.store.load(key) is None
        assert await bench.store.load(other) is not None
        await bench.store.create(key, bench.record())

    @_test
    async def test_delete_removes_a_tombstone(self, bench: _Bench) -> None:
        """A deleted tombstone is absent, and its successor stays."""
        key, new_key = await bench.moved()
        await bench.store.delete(key)
        assert await bench.store.load(key) is None
        assert await bench.store.load(new_key) is not None

    @_test
    async def test_delete_of_nothing(self, bench: _Bench) -> None:
        """Deleting where nothing is, or twice, is fine."""
        key = _key()
        await bench.store.delete(key)
        await bench.store.create(key, bench.record())
        await bench.store.delete(key)
        await bench.store.delete(key)

    # Every operation is atomic

    @_test
    async def test_one_of_many_updates_wins(self, bench: _Bench) -> None:
        """Of many updates of one version exactly one succeeds, and its record is what stays."""
        key = _key()
        await bench.store.create(key, bench.record())
        records = [bench.record(data=b"%d" % number, version=2) for number in range(_AT_ONCE)]
        winners = await _winners([bench.store.update(key, record, version=1) for record in records])
        assert len(winners) == 1
        _same(await bench.store.load(key), records[winners[0]])

    @_test
    async def test_no_increment_is_lost(self, bench: _Bench) -> None:
        """Tasks that each read, add one, and try again after a Conflict count every one."""
        key = _key()
        await bench.store.create(key, bench.record(data=b"0"))

        async def increment() -> None:
            while True:
                found = await bench.store.load(key)
                assert found is not None
                new = replace(found, data=b"%d" % (int(found.data) + 1), version=found.version + 1)
                try:
                    return await bench.store.update(key, new, version=found.version)
                except Conflict:
                    await asyncio.sleep(0)

        await asyncio.gather(*(increment() for _ in range(10)))
        found = await bench.store.load(key)
        assert found is not None and found.data == b"10" and found.version == 11

    @_test
    async def test_one_of_many_creates_wins(self, bench: _Bench) -> None:
        """Of many creates under one key exactly one succeeds, and its record is what stays."""
        key = _key()
        records = [bench.record(data=b"%d" % number) for number in range(_AT_ONCE)]
        winners = await _winners([bench.store.create(key, record) for record in records])
        assert len(winners) == 1
        _same(await bench.store.load(key), records[winners[0]])

    @_test
    async def test_one_of_many_rotations_wins(self, bench: _Bench) -> None:
        """Of many rotations of one version exactly one succeeds, and only its new key exists."""
        key = _key()
        await bench.store.create(key, bench.record())
        new_keys = [_key(key) for _ in range(_AT_ONCE)]
        winners = await _winners(
            [
                bench.store.rotate(key, new_key, bench.record(version=2), bench.tombstone(new_key), version=1)
                for new_key in new_keys
            ]
        )
        assert len(winners) == 1
        found = await bench.store.load(key)
        assert found is not None and found.successor == new_keys[winners[0]]
        there = [number for number, new_key in enumerate(new_keys) if await bench.store.load(new_key) is not None]
        assert there == winners

    @_test
    async def test_rotation_or_update_wins(self, bench: _Bench) -> None:
        """Of a rotation and an update of the same version exactly one succeeds, whichever comes first."""
        for order in ("update first", "rotation first"):
            key, new_key = _two_keys()
            await bench.store.create(key, bench.record())
            update = bench.store.update(key, bench.record(data=b"new", version=2), version=1)
            new, tombstone = bench.record(version=2), bench.tombstone(new_key)
            rotation = bench.store.rotate(key, new_key, new, tombstone, version=1)
            operations: list[Awaitable[None]] = [update, rotation] if order == "update first" else [rotation, update]
            winners = await _winners(operations)
            assert len(winners) == 1
            rotated = operations[winners[0]] is rotation
            found = await bench.store.load(key)
            assert found is not None and (found.successor is not None) is rotated
            assert (await bench.store.load(new_key) is not None) is rotated

    @_test
    async def test_many_at_once_get_their_own_answers(self, bench: _Bench) -> None:
        """Many operations at once, some of them Conflicts, each get their own outcome."""
        taken, free = [_key() for _ in range(_AT_ONCE)], [_key() for _ in range(_AT_ONCE)]
        for key in taken:
            await bench.store.create(key, bench.record(data=key.encode()))
        everything = [key for pair in zip(taken, free, strict=True) for key in pair]
        records = [bench.record(data=key.encode()) for key in everything]
        winners = await _winners([bench.store.create(*pair) for pair in zip(everything, records, strict=True)])
        assert [everything[number] for number in winners] == free
        found = await asyncio.gather(*(bench.store.load(key) for key in everything))
        assert [record and record.data for record in found] == [key.encode() for key in everything]

    # Purge

    @_test
    async def test_purge_removes_what_expired(self, bench: _Bench) -> None:
        """Expired records and tombstones go, at most `limit` at a time, and are counted. Live ones stay."""
        store = bench.store
        if not isinstance(store, Purge):
            raise SkipTest("the store is no Purge")
        key, live = _key(), _key()
        await store.create(live, bench.record())
        old, new = await bench.moved(life=bench.short)
        for _ in range(4):
            await store.create(_key(), bench.record(life=bench.short, user="42"))
        await store.create(key, bench.record(life=bench.short))
        assert await store.purge(100) == 0
        assert await store.touch(key, bench.now() + 3600)
        await bench.outlive_short()
        assert [await store.purge(2) for _ in range(4)] == [2, 2, 1, 0]
        assert await store.load(old) is None
        for stays in (live, new, key):
            assert await store.load(stays) is not None

    @_test
    async def test_a_purge_tells_which_sessions_went(self, bench: _Bench) -> None:
        """It calls `tell` with key and user of each session. Tombstones and records without one are not told."""
        store = bench.store
        if not isinstance(store, TellingPurge):
            raise SkipTest("the store is no TellingPurge")
        ended, theirs, nobodys = _key(), _key(), _key()
        await store.create(_key(), bench.record(user="42"))
        await bench.moved(life=bench.short)
        await store.create(ended, bench.record(data=b"", life=bench.short, user="42"))
        await store.create(_key(), bench.record(data=b"\0left by a move", life=bench.short))
        await store.create(theirs, bench.record(life=bench.short, user="42"))
        await store.create(nobodys, bench.record(life=bench.short))
        told: list[tuple[str, str | None]] = []
        await bench.outlive_short()
        gone = await store.purge_telling(100, lambda key, user: told.append((key, user)))
        assert gone == 5
        assert sorted(told, key=str) == sorted([(theirs, "42"), (nobodys, None)], key=str)
        assert await store.purge_telling(100, lambda key, user: told.append((key, user))) == 0

    # UserIndex

    @_test
    async def test_of_user_finds_their_sessions(self, bench: _Bench) -> None:
        """Key and record of each session of the user are returned, whatever the name is made of."""
        store = _with_users(bench)
        for user in ("42", "Zoë 名前 🗝", "it's", "a%b_c*"):
            sessions = {_key(): bench.record(user=user, data=b"%d" % number) for number in range(3)}
            for key, record in sessions.items():
                await store.create(key, record)
            found = await store.of_user(user)
            assert len(found) == 3 and {key for key, _ in found} == set(sessions)
            for key, record in found:
                _same(record, sessions[key])

    @_test
    async def test_of_user_without_sessions(self, bench: _Bench) -> None:
        """For a user without sessions the list is empty. Others' and nobody's sessions are not in it."""
        store = _with_users(bench)
        await store.create(_key(), bench.record(user="42"))
        await store.create(_key(), bench.record())
        for user in ("4", "421", "", "None", "*"):
            assert await store.of_user(user) == []

    @_test
    async def test_of_user_leaves_out_the_ended(self, bench: _Bench) -> None:
        """Deleted, expired and ended sessions are not in the list."""
        store = _with_users(bench)
        deleted, ended, live = _key(), _key(), _key()
        for key in (deleted, ended, live):
            await store.create(key, bench.record(user="42"))
        await store.create(_key(), bench.record(user="42", life=bench.short))
        assert len(await store.of_user("42")) == 4
        await store.delete(deleted)
        await store.update(ended, bench.record(user="42", version=2, life=-1.0), version=1)
        await bench.outlive_short()
        assert [key for key, _ in await store.of_user("42")] == [live]

    @_test
    async def test_of_user_leaves_out_tombstones(self, bench: _Bench) -> None:
        """A session that moved is in the list once, under its new key."""
        store = _with_users(bench)
        _, new_key = await bench.moved(user="42")
        assert [key for key, _ in await store.of_user("42")] == [new_key]

    @_test
    async def test_of_user_misses_no_session_that_rotates(self, bench: _Bench) -> None:
        """A session whose ID changes while the list is made is on it, under one key or the other."""
        store = _with_users(bench)
        key = _key()
        await store.create(key, bench.record(user="42"))

        async def rotate() -> None:
            nonlocal key
            for version in range(1, 41):
                new_key = _key(key)
                new, tombstone = bench.record(user="42", version=version + 1), bench.tombstone(new_key)
                await store.rotate(key, new_key, new, tombstone, version=version)
                key = new_key

        rotating = asyncio.create_task(rotate())
        while not rotating.done():
            assert await store.of_user("42")
            await asyncio.sleep(0)
        await rotating

    @_test
    async def test_of_user_follows_the_record(self, bench: _Bench) -> None:
        """A session is listed from the update that names its user on, and not under a former user."""
        store = _with_users(bench)
        key = _key()
        await store.create(key, bench.record())
        for version, user in enumerate(["ann", "bob", None], start=1):
            await store.update(key, bench.record(user=user, version=version + 1), version=version)
            for name in ("ann", "bob"):
                assert [found for found, _ in await store.of_user(name)] == ([key] if name == user else [])

    @_test
    async def test_of_user_follows_a_touch(self, bench: _Bench) -> None:
        """A session that was touched is listed for as long as it then lives."""
        store = _with_users(bench)
        key = _key()
        await store.create(key, bench.record(user="42", life=bench.short))
        await store.touch(key, bench.now() + 3600)
        await bench.outlive_short()
        assert [found for found, _ in await store.of_user("42")] == [key]

    # Scan

    @_test
    async def test_scan_comes_to_every_key(self, bench: _Bench) -> None:
        """Keys come in batches until all have come: of sessions, of users' sessions and of tombstones."""
        store = _with_scan(bench)
        keys = {_key() for _ in range(23)}
        for key in keys:
            await store.create(key, bench.record(user="42" if key < "8" else None))
        keys.update(await bench.moved())
        for limit in (1, 5, 25, 1000):
            assert await _scanned(store, limit) >= keys
        for key in await _scanned(store, 5):
            assert key in keys or await store.load(key) is None

    @_test
    async def test_scan_misses_nothing_that_stays(self, bench: _Bench) -> None:
        """While other sessions come and go, each that is there all the while comes."""
        store = _with_scan(bench)
        stays = {_key() for _ in range(20)}
        for key in stays:
            await store.create(key, bench.record())
        goes = [f"{number:064x}" for number in range(9)]  # before the others, where a store has them in their order
        for key in goes:
            await store.create(key, bench.record())
        keys, after = await store.scan(3)
        found = set(keys)
        while after:
            if goes:
                await store.delete(goes.pop())
            await store.create(_key(), bench.record())
            keys, after = await store.scan(3, after)
            found.update(keys)
        assert found >= stays

    # Wipe

    @_test
    async def test_wipe_ends_every_session(self, bench: _Bench) -> None:
        """After `wipe` nothing that was there is there: to load, update, rotate, touch or list."""
        store = _with_wipe(bench)
        keys = [_key() for _ in range(3)]
        for key in keys:
            await store.create(key, bench.record(user="42"))
        old, new = await bench.moved()
        await store.wipe()
        for key in [*keys, old, new]:
            assert await store.load(key) is None
        assert not await store.touch(keys[0], bench.now() + 7200)
        await _conflicts(store.update(keys[1], bench.record(version=2), version=1))
        new_key = _key(keys[2])
        await _conflicts(store.rotate(keys[2], new_key, bench.record(version=2), bench.tombstone(new_key), version=1))
        for key in [*keys, new_key]:
            assert await store.load(key) is None
        if isinstance(store, UserIndex):
            assert await store.of_user("42") == []

    @_test
    async def test_wipe_and_go_on(self, bench: _Bench) -> None:
        """After `wipe`, also a second one at once, new sessions are kept, under an old key too."""
        store = _with_wipe(bench)
        key = _key()
        await store.create(key, bench.record(data=b"old"))
        await store.wipe()
        await store.wipe()
        record = bench.record(data=b"new", user="42")
        await store.create(key, record)
        _same(await store.load(key), record)
        await store.update(key, bench.record(version=2, user="42"), version=1)
        if isinstance(store, UserIndex):
            assert [found for found, _ in await store.of_user("42")] == [key]

    # Watch

    test_watch_stands_first = _test(watching.test_watch_stands_first)
    test_watch_tells_of_a_deletion = _test(watching.test_watch_tells_of_a_deletion)
    test_watch_tells_of_an_update_that_ends = _test(watching.test_watch_tells_of_an_update_that_ends)
    test_watch_tells_of_a_rotation = _test(watching.test_watch_tells_of_a_rotation)
    test_watch_tells_of_a_change = _test(watching.test_watch_tells_of_a_change)
    test_watch_tells_of_a_wipe = _test(watching.test_watch_tells_of_a_wipe)
    test_watch_tells_everybody = _test(watching.test_watch_tells_everybody)

    # Lifespan

    @_test
    async def test_open_and_close_twice(self, bench: _Bench) -> None:
        """`open` and `close` may each be called twice, and `close` without `open`."""
        store = _with_lifespan(bench)
        await store.close()
        await store.open()
        await store.open()
        key = _key()
        await store.create(key, bench.record())
        assert await store.load(key) is not None
        await store.close()
        await store.close()

    @_test
    async def test_open_after_close(self, bench: _Bench) -> None:
        """A closed store can be opened again, and then works."""
        store = _with_lifespan(bench)
        for _ in range(2):
            await store.open()
            key = _key()
            await store.create(key, bench.record())
            assert await store.load(key) is not None
            await store.close()

    @_test
    async def test_use_without_open(self, bench: _Bench) -> None:
        """A store that nobody opened opens itself on first use."""
        store = _with_lifespan(bench)
        assert await store.load(_key()) is None
        key = _key()
        await store.create(key, bench.record())
        assert await store.load(key) is not None


class _StoreWithUsers(Store, UserIndex, Protocol): ...


class _StoreWithScan(Store, Scan, Protocol): ...


class _StoreWithLifespan(Store, Lifespan, Protocol): ...


class _StoreWithWipe(Store, Wipe, Protocol): ...


def _with_wipe(bench: _Bench) -> _StoreWithWipe:
    if not isinstance(bench.store, Wipe):
        raise SkipTest("the store has no wipe")
    return bench.store


def _with_users(bench: _Bench) -> _StoreWithUsers:
    if not isinstance(bench.store, UserIndex):
        raise SkipTest("the store is no UserIndex")
    return bench.store


def _with_scan(bench: _Bench) -> _StoreWithScan:
    if not isinstance(bench.store, Scan):
        raise SkipTest("the store is no Scan")
    return bench.store


async def _scanned(store: Scan, limit: int) -> set[str]:
    """Return all keys, which the store hands out a batch at a time."""
    found, after = await store.scan(limit)
    while after:
        keys, after = await store.scan(limit, after)
        found += keys
    return set(found)


def _with_lifespan(bench: _Bench) -> _StoreWithLifespan:
    if not isinstance(bench.store, Lifespan):
        raise SkipTest("the store is no Lifespan")
    return bench.store
