"""The names of keys on one server and on a cluster, and the slots that they are in."""

from __future__ import annotations

import contextlib
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roomkey.stores.redis.places import GROUPS, SLOTS, Places, epoch_beside, has_hash_tag, slot_of
from roomkey.wire.keys import new_session_id, store_key
from tests.servers.redis import RedisServer
from tests.stores.on_redis.parts import plain_client

KEY = "3fa2" + "0123456789ab" * 5


def test_names_on_one_server() -> None:
    """On one server the names are the prefix and what is meant, and there is one epoch."""
    places = Places("shop:", spread=False)
    assert places.record(KEY) == b"shop:s:" + KEY.encode() and places.epoch(KEY) == b"shop:epoch"
    assert places.list_of("zoë") == "shop:u:zoë".encode() and places.epochs() == [b"shop:epoch"]
    assert places.are_together(KEY, "f" * 64)


def test_names_on_a_cluster() -> None:
    """On a cluster a session and its epoch have the first 3 digits as their hash tag. There is an epoch for each."""
    places = Places("shop:", spread=True)
    assert places.record(KEY) == b"shop:{3fa}:s:" + KEY.encode() and places.epoch(KEY) == b"shop:{3fa}:epoch"
    assert places.list_of("ann") == b"shop:u:ann"
    assert places.are_together(KEY, "3fa9" + "0" * 60) and not places.are_together(KEY, "3fb2" + "0" * 60)
    epochs = places.epochs()
    assert len(set(epochs)) == GROUPS and epochs[0x3FA] == places.epoch(KEY) and epochs[-1] == b"shop:{fff}:epoch"


@pytest.mark.parametrize("spread", [False, True])
@pytest.mark.parametrize("prefix", ["shop:", "a}b:", "a*b[c]\\:"])
def test_what_belongs_together_is_in_one_slot(prefix: str, spread: bool) -> None:
    """A record, its successor and its epoch share a slot wherever sessions are spread. The name gives the key back."""
    places = Places(prefix, spread=spread)
    for _ in range(100):
        key = store_key(new_session_id())
        new = store_key(new_session_id(key))
        names = [places.record(key), places.record(new), places.epoch(key)]
        assert epoch_beside(names[0]) == epoch_beside(names[1]) == names[2]
        assert not spread or len(set(map(slot_of, names))) == 1
        assert places.key_in(names[0]) == key


def test_groups_are_spread_over_the_slots() -> None:
    """Each quarter, third and tenth of the slots has its share of the groups, to a tenth."""
    slots = [slot_of(epoch) for epoch in Places("shop:", spread=True).epochs()]
    for parts in (2, 3, 4, 6, 10):
        shares = Counter(slot * parts // SLOTS for slot in slots)
        assert len(shares) == parts
        assert all(abs(share * parts / GROUPS - 1) < 0.1 for share in shares.values()), shares


@given(st.binary(max_size=40))
def test_slots_are_in_range(name: bytes) -> None:
    """Any name has a slot."""
    assert 0 <= slot_of(name) < SLOTS


def test_the_server_knows_the_same_slots(cluster: RedisServer) -> None:
    """A cluster says the same of each name, whatever braces are in it."""
    names = [
        b"a",
        b"{a}b",
        b"x{a}b{c}",
        b"{}a",
        b"{a",
        b"a}b{c}",
        b"}{a}",
        b"{{a}}",
        *Places("s:", spread=True).epochs()[:50],
    ]
    with contextlib.closing(plain_client(cluster)) as admin:
        for name in names:
            assert slot_of(name) == admin.execute_command("CLUSTER", "KEYSLOT", name)


@pytest.mark.parametrize(
    ("prefix", "tagged"), [("shop:", False), ("{shop}:", True), ("a{b}c", True), ("{}:", False), ("a}b{c", False)]
)
def test_prefixes_with_a_hash_tag(prefix: str, tagged: bool) -> None:
    """A hash tag is text in braces, and the first brace counts."""
    assert has_hash_tag(prefix) is tagged
