"""What a session knows beside its data, as bytes: the trail of the keys that it had before."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roomkey import SessionConfig
from roomkey.stores.base import Record
from roomkey.wire import codec
from roomkey.wire.codec import DamagedData, decode, decode_with_lifetime, encode, facts_in, make_facts
from roomkey.wire.envelope import envelope_for, lifetime_in, trail_in
from roomkey.wire.facts import LONGEST_TRAIL, trail_from

KEYS = [f"{number:064x}" for number in range(1, 40)]
MARKS = b"marked" + b"second"


def moved(count, facts=codec.NO_FACTS):
    for key in KEYS[:count]:
        facts = facts.moved_from(key)
    return facts


def test_the_trail_on_the_wire():
    """A known answer: the format does not change by accident."""
    stored = encode({"a": 1}, moved(1, make_facts(1.0, 2.0, MARKS)))
    packed = "3ff0000000000000" + "4000000000000000"
    assert stored.hex() == "05" + packed + "02" + MARKS.hex() + "01" + KEYS[0] + "81a16101"


@pytest.mark.parametrize("marks", [b"", MARKS])
@pytest.mark.parametrize("count", [1, 2, LONGEST_TRAIL, 39])
def test_what_was_encoded_is_decoded(count, marks):
    """The data, the moments, the marks and the trail, which never grows past its limit and keeps its first key."""
    facts = moved(count, make_facts(5.0, None, marks))
    stored = encode({"a": [1]}, facts)
    assert decode(stored) == {"a": [1]} and decode_with_lifetime(stored) == ({"a": [1]}, None)
    assert facts_in(stored) == facts and facts.marks == marks and facts.authenticated_at == 5.0
    kept = KEYS[:1] + KEYS[1:count][1 - LONGEST_TRAIL :]
    assert trail_in(stored) == trail_from(facts.trail) == kept
    assert facts.dropped == (kept[1] if len(kept) == LONGEST_TRAIL else None)
    assert facts.with_mark(b"newest").trail == facts.trail


@given(st.binary(max_size=80), st.integers(0, 5))
def test_damaged_trails(junk, start):
    """Whatever stands there, nothing but DamagedData comes out."""
    stored = bytes([5]) + bytes(16) * (start > 0) + junk
    for read in (decode, decode_with_lifetime):
        try:
            read(stored)
        except DamagedData:
            pass
    assert all(len(key) == 64 for key in trail_in(stored))
    assert all(len(key) == 64 for key in trail_in(bytes([6]) + junk))
    facts_in(stored)
    lifetime_in(bytes([6]) + junk)


@pytest.mark.parametrize("data", [None, 1, "text", b"", b"\3", b"\6", b"\x09"])
def test_records_without_a_trail(data):
    """What others wrote has none."""
    assert trail_in(data) == []


@pytest.mark.parametrize("count", [0, 1, 39])
def test_a_sealed_trail_can_be_read_and_not_altered(count):
    """Whoever ends the session needs it, without what opens the data."""
    envelope = envelope_for(SessionConfig(secret_key="k" * 32, store="memory://", seal=True))
    stored = encode({"a": 1}, moved(count, make_facts(None, 7.0)))
    secret = envelope.secret_of(b"i" * 32)
    record = Record(stored, 1, 1.0, 2.0, user="7")
    sealed = envelope.close(record, KEYS[0], secret)
    assert envelope.open(replace(record, data=sealed), KEYS[0], secret) == stored
    assert trail_in(sealed) == trail_in(stored) and lifetime_in(sealed) == 7.0
    assert not envelope.is_old(sealed)
    for at in range(0, len(sealed), 5):
        altered = sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :]
        with pytest.raises(DamagedData):
            envelope.open(replace(record, data=altered), KEYS[0], secret)
