"""Keys of a Redis server that hold something else than a session, and damaged records."""

from __future__ import annotations

import contextlib
import struct
import time
from dataclasses import replace
from typing import Any

import pytest
import redis
import redis.asyncio
from hypothesis import given
from hypothesis import strategies as st

from roomkey.errors import StoreUnavailable
from roomkey.stores.base import Conflict, Record, Unreadable
from roomkey.stores.redis import RedisStore, records
from roomkey.testing import Clock
from tests.servers.redis import RedisServer
from tests.stores.on_redis.parts import new_prefix, open_store
from tests.stores.records import make_key, make_record

FOREIGN = [b"", b"x", b"hello" * 40, bytes(73), b"\xff" * 200]


def _place(admin: redis.Redis, name: str, what: bytes | str) -> Any:
    if what == "list":
        admin.rpush(name, "theirs")
    elif what == "hash":
        admin.hset(name, "theirs", "1")
    else:
        admin.set(name, what)
    return admin.dump(name)


@pytest.mark.parametrize("what", [*FOREIGN, "list", "hash"])
async def test_foreign_value_is_left_alone(server: RedisServer, admin: redis.Redis, what: bytes | str) -> None:
    """What is no session under a session's key is neither read as one nor overwritten."""
    prefix, key, other = new_prefix(), make_key(), make_key()
    async with open_store(server, prefix) as store:
        await store.create(other, make_record(user="42"))
        placed = _place(admin, f"{prefix}s:{key}", what)
        if isinstance(what, bytes):
            with pytest.raises(Unreadable, match="left alone"):
                await store.load(key)
        else:
            assert await store.load(key) is None  # MGET says no more
        for refused in (
            lambda: store.create(key, make_record()),
            lambda: store.update(key, make_record(version=2), version=1),
            lambda: store.touch(key, time.time() + 7200),
            lambda: store.rotate(
                key, make_key(), make_record(version=2), make_record(version=2, successor="s"), version=1
            ),
            lambda: store.rotate(other, key, make_record(version=2), make_record(version=2, successor=key), version=1),
        ):
            with pytest.raises(StoreUnavailable, match="left alone") as caught:
                await refused()
            assert key not in str(caught.value)
        assert admin.dump(f"{prefix}s:{key}") == placed
        found = await store.load(other)
        assert found is not None and found.successor is None and found.version == 1
        await store.delete(key)  # that is what was asked for
        assert not admin.exists(f"{prefix}s:{key}")


@pytest.mark.parametrize("what", [b"", b"short", b"x" * 17, "list"])
async def test_foreign_epoch_is_left_alone(server: RedisServer, admin: redis.Redis, what: bytes | str) -> None:
    """Where something else is in the epoch's place, no session is live and none is made."""
    prefix, key, new = new_prefix(), make_key(), make_key()
    async with open_store(server, prefix) as store:
        await store.create(key, make_record())
        admin.delete(f"{prefix}epoch")
        placed = _place(admin, f"{prefix}epoch", what)
        assert await store.load(key) is None
        with pytest.raises(StoreUnavailable, match="left alone"):
            await store.create(new, make_record())
        assert admin.dump(f"{prefix}epoch") == placed and not admin.exists(f"{prefix}s:{new}")


async def test_list_without_what_cannot_be_read(server: RedisServer, admin: redis.Redis) -> None:
    """A damaged record keeps nobody from listing, and so ending, the user's other sessions."""
    prefix, damaged, sound = new_prefix(), make_key(), make_key()
    async with open_store(server, prefix) as store:
        for key in (damaged, sound):
            await store.create(key, make_record(user="42"))
        admin.setrange(f"{prefix}s:{damaged}", 16, "????")
        assert [key for key, _ in await store.of_user("42")] == [sound]
        with pytest.raises(Unreadable, match="left alone"):
            await store.load(damaged)


async def test_foreign_index_changes_nothing(server: RedisServer, admin: redis.Redis) -> None:
    """Where something else is in the place of a user's index, a write fails as a whole."""
    prefix, key, new = new_prefix(), make_key(), make_key()
    async with open_store(server, prefix) as store:
        await store.create(key, make_record())
        admin.set(f"{prefix}u:42", "theirs")
        for refused in (
            store.create(new, make_record(user="42")),
            store.update(key, make_record(user="42", version=2), version=1),
            store.rotate(key, new, make_record(user="42", version=2), make_record(successor=new, version=2), version=1),
            store.of_user("42"),
        ):
            with pytest.raises(StoreUnavailable, match="left alone"):
                await refused
        found = await store.load(key)
        assert found is not None and found.version == 1 and found.user is None
        assert await store.load(new) is None
        assert admin.get(f"{prefix}u:42") == b"theirs"


_times = st.floats(allow_nan=False)
_texts = st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


_records = st.builds(
    Record,
    st.binary(max_size=50),
    st.integers(0, 2**64 - 1),
    _times,
    _times,
    _texts,
    _texts,
    _times,
    st.binary(max_size=20),
)


@given(_records)
def test_record_survives_encoding(record: Record) -> None:
    """Every record comes back from its bytes as it was."""
    assert records.decode(bytes(16) + records.encode(record)) == record


@given(_records, st.data())
def test_damaged_record_is_noticed(record: Record, data: st.DataObject) -> None:
    """A record that was cut, lengthened or changed is read as some record or refused; nothing else is raised."""
    whole = bytes(16) + records.encode(record)
    for damaged in (whole[: data.draw(st.integers(0, len(whole) - 1))], whole + data.draw(st.binary(min_size=1))):
        with pytest.raises(records.NotARecord):
            records.decode(damaged)
    at = data.draw(st.integers(0, len(whole) - 1))
    changed = whole[:at] + data.draw(st.binary(min_size=1, max_size=4)) + whole[at + 1 :]
    with contextlib.suppress(records.NotARecord):
        records.decode(changed)


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_decoded_or_refused(raw: bytes, marked: bool) -> None:
    """Whatever bytes are in a key, decoding them gives a record or is refused."""
    value = bytes(16) + b"RKR1" + raw if marked else raw
    with contextlib.suppress(records.NotARecord):
        assert isinstance(records.decode(value), Record)


async def test_usual_update_and_the_other_ones_agree(server: RedisServer, admin: redis.Redis) -> None:
    """An update that changes neither user nor expiry goes a shorter way: it refuses the same, and leaves as much."""
    prefix, clock = new_prefix(), Clock()
    store = RedisStore(server.url, prefix=prefix, clock=clock)
    until = clock() + 100
    usual = [make_record(user=user, expires_at=until) for user in (None, "42", "", "zoë")]
    for record in usual:
        key = make_key()
        await store.create(key, record)
        left = admin.pttl(f"{prefix}s:{key}")
        await store.update(key, replace(record, data=b"usual", version=2), version=1)
        assert await store.load(key) == replace(record, data=b"usual", version=2)
        assert left - 1000 < admin.pttl(f"{prefix}s:{key}") <= left
        for other in (
            replace(record, version=3, user="43"),
            replace(record, version=3, user=f"{record.user}x"),
            replace(record, version=3, expires_at=until + 50),
        ):
            await store.update(key, other, version=2)
            assert await store.load(key) == other
            assert [found for found, _ in await store.of_user(other.user or "")] == (
                [] if other.user is None else [key]
            )
            await store.update(key, replace(record, version=2), version=3)
        for version in (1, 3):
            with pytest.raises(Conflict):
                await store.update(key, replace(record, version=9), version=version)
        moved, tombstone = replace(record, version=3), replace(record, version=3, successor="s")
        await store.rotate(key, make_key(), moved, tombstone, version=2)
        with pytest.raises(Conflict):
            await store.update(key, replace(record, version=4), version=3)
    key = make_key()
    await store.create(key, usual[1])
    await store.wipe()
    with pytest.raises(Conflict):
        await store.update(key, replace(usual[1], version=2), version=1)
    await store.create(key, usual[1])
    clock.advance(101)
    with pytest.raises(Conflict):
        await store.update(key, replace(usual[1], version=2), version=1)
    await store.close()


def test_offsets_in_the_scripts() -> None:
    """The scripts read the version, the expiry and the user where the encoding puts them."""
    body = records.encode(Record(b"d", 7, 1.0, 2.5, "ann", "s"))
    assert body[4:5] == b"T" and body[5:13] == (7).to_bytes(8, "big")
    assert struct.unpack(">d", body[21:29]) == (2.5,) and body[37:41] == (3).to_bytes(4, "big")
    assert body[53:56] == b"ann" and records.START == 69
