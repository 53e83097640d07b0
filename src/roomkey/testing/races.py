"""The part of the conformance suite about operations at the same time: each is atomic."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import replace

from roomkey.stores.base import Conflict
from roomkey.testing.bench import (
    AT_ONCE,
    Bench,
    assert_same,
    make_key,
    make_two_keys,
    scenario,
    winners_of,
)

__all__ = ["RaceTests"]


class RaceTests:
    """Of many operations at once."""

    # Every operation is atomic

    @scenario
    async def test_one_of_many_updates_wins(self, bench: Bench) -> None:
        """Of many updates of one version exactly one succeeds, and its record is what stays."""
        key = make_key()
        await bench.store.create(key, bench.record())
        records = [bench.record(data=b"%d" % number, version=2) for number in range(AT_ONCE)]
        winners = await winners_of([bench.store.update(key, record, version=1) for record in records])
        assert len(winners) == 1
        assert_same(await bench.store.load(key), records[winners[0]])

    @scenario
    async def test_no_increment_is_lost(self, bench: Bench) -> None:
        """Tasks that each read, add one, and try again after a Conflict count every one."""
        key = make_key()
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

    @scenario
    async def test_one_of_many_creates_wins(self, bench: Bench) -> None:
        """Of many creates under one key exactly one succeeds, and its record is what stays."""
        key = make_key()
        records = [bench.record(data=b"%d" % number) for number in range(AT_ONCE)]
        winners = await winners_of([bench.store.create(key, record) for record in records])
        assert len(winners) == 1
        assert_same(await bench.store.load(key), records[winners[0]])

    @scenario
    async def test_one_of_many_rotations_wins(self, bench: Bench) -> None:
        """Of many rotations of one version exactly one succeeds, and only its new key exists."""
        key = make_key()
        await bench.store.create(key, bench.record())
        new_keys = [make_key(key) for _ in range(AT_ONCE)]
        winners = await winners_of(
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

    @scenario
    async def test_rotation_or_update_wins(self, bench: Bench) -> None:
        """Of a rotation and an update of the same version exactly one succeeds, whichever comes first."""
        for order in ("update first", "rotation first"):
            key, new_key = make_two_keys()
            await bench.store.create(key, bench.record())
            update = bench.store.update(key, bench.record(data=b"new", version=2), version=1)
            new, tombstone = bench.record(version=2), bench.tombstone(new_key)
            rotation = bench.store.rotate(key, new_key, new, tombstone, version=1)
            operations: list[Awaitable[None]] = [update, rotation] if order == "update first" else [rotation, update]
            winners = await winners_of(operations)
            assert len(winners) == 1
            rotated = operations[winners[0]] is rotation
            found = await bench.store.load(key)
            assert found is not None and (found.successor is not None) is rotated
            assert (await bench.store.load(new_key) is not None) is rotated

    @scenario
    async def test_many_at_once_get_their_own_answers(self, bench: Bench) -> None:
        """Many operations at once, some of them Conflicts, each get their own outcome."""
        taken, free = [make_key() for _ in range(AT_ONCE)], [make_key() for _ in range(AT_ONCE)]
        for key in taken:
            await bench.store.create(key, bench.record(data=key.encode()))
        everything = [key for pair in zip(taken, free, strict=True) for key in pair]
        records = [bench.record(data=key.encode()) for key in everything]
        winners = await winners_of([bench.store.create(*pair) for pair in zip(everything, records, strict=True)])
        assert [everything[number] for number in winners] == free
        found = await asyncio.gather(*(bench.store.load(key) for key in everything))
        assert [record and record.data for record in found] == [key.encode() for key in everything]
