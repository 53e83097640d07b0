"""What a session knows beside its data, as bytes: the trail of the keys that it had before, and the proofs."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roomkey import SessionConfig
from roomkey.stores.base import Record
from roomkey.wire import codec
from roomkey.wire.codec import DamagedData, decode, decode_with_lifetime, encode, encode_like, facts_in, make_facts
from roomkey.wire.envelope import envelope_for, lifetime_in, trail_in
from roomkey.wire.facts import LONGEST_TRAIL, MOST_PROOFS, Proved, proofs_in, trail_from, with_proof

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


def test_the_proofs_on_the_wire():
    """A known answer: the format does not change by accident."""
    proofs = with_proof(b"", Proved(2, "totp", 1.0))
    stored = encode({"a": 1}, moved(1, make_facts(1.0, 2.0, MARKS, proofs=proofs)))
    packed = "3ff0000000000000" + "4000000000000000"
    proof = "02" + "3ff0000000000000" + "04" + b"totp".hex()
    assert stored.hex() == "07" + packed + "02" + MARKS.hex() + "01" + KEYS[0] + "000e" + proof + "81a16101"


@pytest.mark.parametrize("marks", [b"", MARKS])
@pytest.mark.parametrize("count", [0, 1, 39])
def test_proofs_are_decoded_with_everything_else(count, marks):
    """They stand beside the marks and the trail, and neither a mark nor a rotation takes them away."""
    proofs = with_proof(with_proof(b"", Proved(2, "totp", 5.0)), Proved(1, "", 6.0))
    facts = moved(count, make_facts(6.0, None, marks, proofs=proofs)).with_mark(b"newest")
    stored = encode({"a": [1]}, facts)
    assert decode(stored) == {"a": [1]} and decode_with_lifetime(stored) == ({"a": [1]}, None)
    assert facts_in(stored) == facts and facts.has_mark(b"newest")
    assert proofs_in(facts_in(stored).proofs) == (Proved(2, "totp", 5.0), Proved(1, "", 6.0))
    assert trail_in(stored) == trail_from(facts.trail)


def test_only_so_many_proofs():
    """The last moment of each level and method is kept, and the oldest of too many goes."""
    proofs = b""
    for number in range(20):
        proofs = with_proof(proofs, Proved(2, f"m{number}", float(number)))
        proofs = with_proof(proofs, Proved(3, "passkey", float(number)))
    kept = [(2, f"m{number}", float(number)) for number in range(20 - MOST_PROOFS + 1, 20)]
    assert proofs_in(proofs) == (*kept, (3, "passkey", 19.0))


def test_the_session_in_its_place_on_the_wire():
    """A known answer: the format does not change by accident."""
    stored = encode({"a": 1}, moved(1, make_facts(1.0, 2.0, MARKS, acting=bytes.fromhex(KEYS[1]) + b"secret")))
    packed = "3ff0000000000000" + "4000000000000000"
    acting = "26" + KEYS[1] + b"secret".hex()
    assert stored.hex() == "08" + packed + "02" + MARKS.hex() + "01" + KEYS[0] + "0000" + acting + "81a16101"


@pytest.mark.parametrize("marks", [b"", MARKS])
@pytest.mark.parametrize("count", [0, 1, 39])
@pytest.mark.parametrize("proofs", [b"", with_proof(b"", Proved(2, "totp", 5.0))])
def test_which_session_stands_in_its_place(count, marks, proofs):
    """It is decoded with everything else, and a save keeps it as it is."""
    facts = moved(count, make_facts(6.0, 7.0, marks, proofs=proofs, acting=b"k" * 64)).with_mark(b"newest")
    stored = encode({"a": [1]}, facts)
    assert decode_with_lifetime(stored) == ({"a": [1]}, 7.0) and encode_like({"a": [1]}, stored) == stored
    assert facts_in(stored) == facts and (facts.acting, facts.proofs) == (b"k" * 64, proofs)
    assert trail_in(stored) == trail_from(facts.trail) and facts.has_mark(b"newest")


@given(st.binary(max_size=80), st.integers(0, 5), st.sampled_from([5, 7, 8]))
def test_damaged_trails(junk, start, kind):
    """Whatever stands there, nothing but DamagedData comes out."""
    stored = bytes([kind]) + bytes(16) * (start > 0) + junk
    for read in (decode, decode_with_lifetime):
        try:
            read(stored)
        except DamagedData:
            pass
    assert all(len(key) == 64 for key in trail_in(stored))
    assert all(len(key) == 64 for key in trail_in(bytes([6]) + junk))
    assert all(each.level and isinstance(each.method, str) for each in proofs_in(facts_in(stored).proofs))
    assert all(each.level for each in proofs_in(junk))
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
