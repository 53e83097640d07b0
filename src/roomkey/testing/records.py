"""The part of the conformance suite that every store passes: what the six operations do."""

from __future__ import annotations

import secrets
from dataclasses import replace
from unittest import SkipTest

from roomkey.testing.bench import (
    Bench,
    assert_same,
    conflicts,
    make_key,
    make_two_keys,
    scenario,
)

__all__ = ["RecordTests"]


class RecordTests:
    """Of the operations, one at a time."""

    # load

    @scenario
    async def test_load_of_a_missing_key(self, bench: Bench) -> None:
        """Under a key that nobody used there is None."""
        assert await bench.store.load(make_key()) is None

    @scenario
    async def test_load_of_an_expired_record(self, bench: Bench) -> None:
        """A record is there before its `expires_at` and absent after it."""
        key, record = make_key(), bench.record(life=bench.short)
        await bench.store.create(key, record)
        assert_same(await bench.store.load(key), record)
        await bench.outlive_short()
        assert await bench.store.load(key) is None

    @scenario
    async def test_load_at_the_moment_of_expiry(self, bench: Bench) -> None:
        """A record whose `expires_at` is now is absent already."""
        if not bench.clock_moves:
            raise SkipTest("needs a clock that stands still")
        key, record = make_key(), bench.record(life=60.0)
        await bench.store.create(key, record)
        bench.clock.now = record.expires_at
        assert await bench.store.load(key) is None

    @scenario
    async def test_load_of_a_tombstone(self, bench: Bench) -> None:
        """A tombstone is loaded like any record."""
        key, new_key = await bench.moved()
        found = await bench.store.load(key)
        assert found is not None and found.successor == new_key

    @scenario
    async def test_load_of_an_expired_tombstone(self, bench: Bench) -> None:
        """A tombstone expires like any record, and leaves its successor alone."""
        key, new_key = await bench.moved(life=bench.short)
        await bench.outlive_short()
        assert await bench.store.load(key) is None
        assert await bench.store.load(new_key) is not None

    @scenario
    async def test_keys_are_told_apart(self, bench: Bench) -> None:
        """Keys that differ in one digit are two records."""
        key = make_key()
        other = key[:-1] + ("1" if key[-1] == "0" else "0")
        record = bench.record(data=b"one")
        await bench.store.create(key, record)
        assert await bench.store.load(other) is None
        await bench.store.create(other, bench.record(data=b"two"))
        assert_same(await bench.store.load(key), record)

    # create

    @scenario
    async def test_create_keeps_every_field(self, bench: Bench) -> None:
        """What was created is loaded with every field as it was."""
        key = make_key()
        record = bench.record(
            data=b"\x00\xffdata",
            version=7,
            user="42",
            serve_until=bench.now() + 0.5,
            about=b"\x00\xffA/1",
        )
        await bench.store.create(key, record)
        assert_same(await bench.store.load(key), record)

    @scenario
    async def test_create_keeps_absent_fields_absent(self, bench: Bench) -> None:
        """None comes back as None and an empty string as an empty string."""
        key, other = make_key(), make_key()
        nothing, empty = bench.record(), bench.record(user="")
        await bench.store.create(key, nothing)
        await bench.store.create(other, empty)
        assert_same(await bench.store.load(key), nothing)
        assert_same(await bench.store.load(other), empty)

    @scenario
    async def test_create_keeps_every_byte(self, bench: Bench) -> None:
        """Data of every byte value, no data, and 64 KiB of data come back as they were."""
        for data in (bytes(range(256)), b"", b"\x00", secrets.token_bytes(64 * 1024)):
            key = make_key()
            await bench.store.create(key, bench.record(data=data))
            found = await bench.store.load(key)
            assert found is not None and found.data == data and type(found.data) is bytes

    @scenario
    async def test_create_keeps_every_character(self, bench: Bench) -> None:
        """Text outside ASCII, quotes, colons and line ends come back as they were."""
        for text in ("Zoë 名前 🗝", 'it\'s "so"; -- %s {} \\', "a:b\r\nc\td", "é", "e\u0301"):
            key, record = make_key(), bench.record(user=text)
            await bench.store.create(key, record)
            assert_same(await bench.store.load(key), record)

    @scenario
    async def test_create_never_overwrites(self, bench: Bench) -> None:
        """Over a live record, `create` is a Conflict, and the record stays as it was."""
        key, record = make_key(), bench.record(data=b"first")
        await bench.store.create(key, record)
        await conflicts(bench.store.create(key, bench.record(data=b"second", user="42")))
        assert_same(await bench.store.load(key), record)

    @scenario
    async def test_create_never_overwrites_a_tombstone(self, bench: Bench) -> None:
        """Over a live tombstone, `create` is a Conflict, and the tombstone stays as it was."""
        key, new_key = await bench.moved()
        await conflicts(bench.store.create(key, bench.record()))
        found = await bench.store.load(key)
        assert found is not None and found.successor == new_key

    @scenario
    async def test_create_replaces_an_expired_record(self, bench: Bench) -> None:
        """An expired record is absent: its key is free, and nothing of it is left."""
        key = make_key()
        await bench.store.create(key, bench.record(life=bench.short, user="42", about=b"A"))
        await bench.outlive_short()
        record = bench.record(data=b"new")
        await bench.store.create(key, record)
        assert_same(await bench.store.load(key), record)

    # update

    @scenario
    async def test_update_replaces_every_field(self, bench: Bench) -> None:
        """With the right version, the record is replaced by the new one."""
        key, now = make_key(), bench.now()
        await bench.store.create(key, bench.record(about=b"B"))
        record = bench.record(data=b"new", version=2, created_at=now - 5, life=50, user="42", about=b"A")
        await bench.store.update(key, record, version=1)
        assert_same(await bench.store.load(key), record)

    @scenario
    async def test_update_may_shorten(self, bench: Bench) -> None:
        """An update moves `expires_at` to any moment, an earlier one too."""
        key = make_key()
        await bench.store.create(key, bench.record())
        await bench.store.update(key, bench.record(life=bench.short, version=2), version=1)
        assert await bench.store.load(key) is not None
        await bench.outlive_short()
        assert await bench.store.load(key) is None

    @scenario
    async def test_update_may_prolong(self, bench: Bench) -> None:
        """A record that was updated to expire later outlives its first `expires_at`."""
        key = make_key()
        await bench.store.create(key, bench.record(life=bench.short))
        record = bench.record(version=2)
        await bench.store.update(key, record, version=1)
        await bench.outlive_short()
        assert_same(await bench.store.load(key), record)

    @scenario
    async def test_update_of_another_version(self, bench: Bench) -> None:
        """An earlier or later version is a Conflict, and the record stays as it was."""
        key, record = make_key(), bench.record(version=5)
        await bench.store.create(key, record)
        for version in (4, 6):
            await conflicts(bench.store.update(key, bench.record(data=b"new", version=version + 1), version=version))
        assert_same(await bench.store.load(key), record)

    @scenario
    async def test_update_of_a_missing_record(self, bench: Bench) -> None:
        """Where nothing is, nothing is put."""
        key = make_key()
        await conflicts(bench.store.update(key, bench.record(version=2), version=1))
        assert await bench.store.load(key) is None

    @scenario
    async def test_update_of_a_deleted_record(self, bench: Bench) -> None:
        """A late save does not bring back a session that was logged out."""
        key = make_key()
        await bench.store.create(key, bench.record(user="42"))
        await bench.store.delete(key)
        await conflicts(bench.store.update(key, bench.record(version=2, user="42"), version=1))
        assert await bench.store.load(key) is None

    @scenario
    async def test_update_of_an_expired_record(self, bench: Bench) -> None:
        """An expired record is a Conflict, and is not revived."""
        key = make_key()
        await bench.store.create(key, bench.record(life=bench.short))
        await bench.outlive_short()
        await conflicts(bench.store.update(key, bench.record(version=2), version=1))
        assert await bench.store.load(key) is None

    @scenario
    async def test_update_of_a_tombstone(self, bench: Bench) -> None:
        """A session that moved is a Conflict at its old key, with the tombstone's own version too."""
        key, new_key = await bench.moved()
        for version in (1, 2):
            await conflicts(bench.store.update(key, bench.record(version=version + 1), version=version))
        found = await bench.store.load(key)
        assert found is not None and found.successor == new_key

    @scenario
    async def test_update_into_the_past(self, bench: Bench) -> None:
        """A record whose `expires_at` has passed ends the session, for good."""
        key = make_key()
        await bench.store.create(key, bench.record())
        await bench.store.update(key, bench.record(life=-1.0, version=2), version=1)
        assert await bench.store.load(key) is None
        assert await bench.store.touch(key, bench.now() + 3600) is False
        await conflicts(bench.store.update(key, bench.record(version=3), version=2))

    # rotate

    @scenario
    async def test_rotate_puts_both(self, bench: Bench) -> None:
        """The record is under the new key and the tombstone under the old one, with every field."""
        key, new_key = make_two_keys()
        await bench.store.create(key, bench.record())
        record = bench.record(data=b"new", version=2, user="42", about=b"A")
        tombstone = bench.tombstone(new_key, user="42")
        await bench.store.rotate(key, new_key, record, tombstone, version=1)
        assert_same(await bench.store.load(new_key), record)
        assert_same(await bench.store.load(key), tombstone)

    @scenario
    async def test_rotate_of_another_version(self, bench: Bench) -> None:
        """Another version is a Conflict, and both keys stay as they were."""
        key, new_key = make_two_keys()
        record = bench.record(version=5)
        await bench.store.create(key, record)
        new, tombstone = bench.record(version=6), bench.tombstone(new_key)
        await conflicts(bench.store.rotate(key, new_key, new, tombstone, version=4))
        assert_same(await bench.store.load(key), record)
        assert await bench.store.load(new_key) is None

    @scenario
    async def test_rotate_of_a_missing_record(self, bench: Bench) -> None:
        """Where nothing is, nothing is put under either key."""
        key, new_key = make_two_keys()
        new, tombstone = bench.record(version=2), bench.tombstone(new_key)
        await conflicts(bench.store.rotate(key, new_key, new, tombstone, version=1))
        assert await bench.store.load(key) is None
        assert await bench.store.load(new_key) is None

    @scenario
    async def test_rotate_of_an_expired_record(self, bench: Bench) -> None:
        """An expired record is a Conflict, and nothing is put under either key."""
        key, new_key = make_two_keys()
        await bench.store.create(key, bench.record(life=bench.short))
        await bench.outlive_short()
        new, tombstone = bench.record(version=2), bench.tombstone(new_key)
        await conflicts(bench.store.rotate(key, new_key, new, tombstone, version=1))
        assert await bench.store.load(key) is None
        assert await bench.store.load(new_key) is None

    @scenario
    async def test_rotate_of_a_tombstone(self, bench: Bench) -> None:
        """A session that moved does not move again from its old key."""
        key, successor = await bench.moved()
        new_key = make_key(key)
        for version in (1, 2):
            new, tombstone = bench.record(version=version + 1), bench.tombstone(new_key)
            await conflicts(bench.store.rotate(key, new_key, new, tombstone, version=version))
        found = await bench.store.load(key)
        assert found is not None and found.successor == successor
        assert await bench.store.load(new_key) is None

    @scenario
    async def test_rotate_to_a_taken_key(self, bench: Bench) -> None:
        """A live record under the new key is a Conflict, and both records stay as they were."""
        key, new_key = make_two_keys()
        mine, theirs = bench.record(data=b"mine"), bench.record(data=b"theirs")
        await bench.store.create(key, mine)
        await bench.store.create(new_key, theirs)
        new, tombstone = bench.record(version=2), bench.tombstone(new_key)
        await conflicts(bench.store.rotate(key, new_key, new, tombstone, version=1))
        assert_same(await bench.store.load(key), mine)
        assert_same(await bench.store.load(new_key), theirs)

    @scenario
    async def test_rotate_to_an_expired_key(self, bench: Bench) -> None:
        """An expired record under the new key is absent and is replaced."""
        key, new_key = make_two_keys()
        await bench.store.create(key, bench.record())
        await bench.store.create(new_key, bench.record(life=bench.short))
        await bench.outlive_short()
        record = bench.record(version=2)
        await bench.store.rotate(key, new_key, record, bench.tombstone(new_key), version=1)
        assert_same(await bench.store.load(new_key), record)

    # touch

    @scenario
    async def test_touch_prolongs(self, bench: Bench) -> None:
        """A touched record outlives its first `expires_at`. Its version and all other fields stay."""
        key, record = make_key(), bench.record(life=bench.short, version=3, user="42", about=b"A")
        await bench.store.create(key, record)
        later = bench.now() + 3600
        assert await bench.store.touch(key, later) is True
        await bench.outlive_short()
        assert_same(await bench.store.load(key), replace(record, expires_at=later))
        await bench.store.update(key, bench.record(version=4), version=3)

    @scenario
    async def test_touch_never_shortens(self, bench: Bench) -> None:
        """A record that expires later than asked stays as it is, and is reported as there."""
        key, record = make_key(), bench.record()
        await bench.store.create(key, record)
        assert await bench.store.touch(key, bench.now() + bench.short) is True
        assert await bench.store.touch(key, bench.now() - 1) is True
        assert_same(await bench.store.load(key), record)

    @scenario
    async def test_touch_never_revives(self, bench: Bench) -> None:
        """An expired record is reported as not there and stays absent."""
        key = make_key()
        await bench.store.create(key, bench.record(life=bench.short))
        await bench.outlive_short()
        assert await bench.store.touch(key, bench.now() + 3600) is False
        assert await bench.store.load(key) is None

    @scenario
    async def test_touch_of_a_missing_record(self, bench: Bench) -> None:
        """Where nothing is, nothing is put, whether or not something was there once."""
        key, deleted = make_key(), make_key()
        await bench.store.create(deleted, bench.record())
        await bench.store.delete(deleted)
        for absent in (key, deleted):
            assert await bench.store.touch(absent, bench.now() + 3600) is False
            assert await bench.store.load(absent) is None

    @scenario
    async def test_touch_of_a_tombstone(self, bench: Bench) -> None:
        """A tombstone is reported as not there and does not live longer."""
        key, _ = await bench.moved(life=bench.short)
        assert await bench.store.touch(key, bench.now() + 3600) is False
        await bench.outlive_short()
        assert await bench.store.load(key) is None

    # delete

    @scenario
    async def test_delete_removes(self, bench: Bench) -> None:
        """A deleted record is absent, its key is free again, and other records stay."""
        key, other = make_key(), make_key()
        await bench.store.create(key, bench.record())
        await bench.store.create(other, bench.record())
        await bench.store.delete(key)
        assert await bench.store.load(key) is None
        assert await bench.store.load(other) is not None
        await bench.store.create(key, bench.record())

    @scenario
    async def test_delete_removes_a_tombstone(self, bench: Bench) -> None:
        """A deleted tombstone is absent, and its successor stays."""
        key, new_key = await bench.moved()
        await bench.store.delete(key)
        assert await bench.store.load(key) is None
        assert await bench.store.load(new_key) is not None

    @scenario
    async def test_delete_of_nothing(self, bench: Bench) -> None:
        """Deleting where nothing is, or twice, is fine."""
        key = make_key()
        await bench.store.delete(key)
        await bench.store.create(key, bench.record())
        await bench.store.delete(key)
        await bench.store.delete(key)
