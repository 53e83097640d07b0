"""Session data to bytes and back: exact types, stable bytes, and no surprise from damaged ones."""

import datetime as dt
import math
import string
from collections import OrderedDict
from decimal import Decimal
from uuid import UUID
from zoneinfo import ZoneInfo

import ormsgpack
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from roomkey.errors import SessionDataError
from roomkey.wire.codec import EMPTY, NO_FACTS, DamagedData, decode, decode_with_lifetime, encode, make_facts, verify

_ZONES = [ZoneInfo(name) for name in ("UTC", "Europe/Paris", "America/New_York", "Asia/Kolkata")]
_OFFSETS = st.timedeltas(dt.timedelta(hours=-23), dt.timedelta(hours=23)).map(dt.timezone)
_TIMEZONES = st.none() | st.just(dt.UTC) | _OFFSETS | st.sampled_from(_ZONES)
_ANY_TEXT = st.text(st.characters())  # with lone surrogates
_VALID_TEXT = st.text(st.characters(exclude_categories=["Cs"]))

# A value that equals itself: fit for sets and for the keys of dictionaries.
_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**2000), 2**2000),
    st.sampled_from([2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1]),
    st.floats(allow_nan=False),
    _ANY_TEXT,
    st.binary(),
    st.builds(
        lambda moment, zone, fold: moment.replace(tzinfo=zone, fold=fold),
        st.datetimes(),
        _TIMEZONES,
        st.sampled_from([0, 1]),
    ),
    st.dates(),
    st.builds(
        lambda time, zone, fold: time.replace(tzinfo=zone, fold=fold), st.times(), _TIMEZONES, st.sampled_from([0, 1])
    ),
    st.timedeltas(),
    st.decimals(allow_nan=False),
    st.uuids(),
)
_HASHABLE = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=4).map(tuple) | st.frozensets(inner, max_size=4),
    max_leaves=6,
)
_VALUES = st.recursive(
    st.one_of(_SCALARS, st.floats(), st.decimals(), st.sets(_HASHABLE, max_size=4), _HASHABLE),
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.lists(inner, max_size=5).map(tuple),
        st.dictionaries(_VALID_TEXT, inner, max_size=5),
        st.dictionaries(_HASHABLE, inner, max_size=5),
    ),
    max_leaves=15,
)
_SESSIONS = st.dictionaries(_VALID_TEXT, _VALUES, max_size=5)


def _same(one, other):
    """Whether two values are equal and of the same types, all the way down."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        if math.isnan(one) or math.isnan(other):
            return math.isnan(one) and math.isnan(other)
        return one == other and math.copysign(1, one) == math.copysign(1, other)
    if isinstance(one, Decimal):
        return one.as_tuple() == other.as_tuple()
    if isinstance(one, dt.datetime | dt.time):
        return (
            one.replace(tzinfo=None) == other.replace(tzinfo=None)
            and one.fold == other.fold
            and one.tzinfo == other.tzinfo
        )
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict):
        return _same(list(one.items()), list(other.items()))
    if isinstance(one, set | frozenset):
        rest = list(other)
        for member in one:
            index = next((index for index, item in enumerate(rest) if _same(member, item)), None)
            if index is None:
                return False
            del rest[index]
        return not rest
    return one == other


def _save(data):
    """Encode as a save does: with the second look."""
    verify(data, encode(data))
    return encode(data)


# --- there and back ---------------------------------------------------------------------------------------------------


@given(_SESSIONS)
@example({"v": float("nan")})
@example({"v": {1: "int", "1": "text", None: "none", (1, 2): "tuple", b"1": "bytes", 1.5: "float"}})
@example({"v": {(2**70, "\ud800")}})
@example({"v": [frozenset({frozenset({1}), ()}), (), set(), {}, []]})
@example({"v": dt.datetime(2025, 10, 26, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Paris"))})
@example({"v": [Decimal("1.50"), Decimal("-0"), Decimal("sNaN12"), Decimal("-Infinity"), -0.0]})
def test_data_comes_back_equal_and_of_the_same_types(data):
    """Whatever can be stored comes back equal, with the same types at every level and in the same order."""
    verify(data, encode(data))
    assert _same(decode(encode(data)), data)


@given(_SESSIONS)
def test_same_data_gives_same_bytes(data):
    """Encoding what was decoded gives the very same bytes."""
    stored = encode(data)
    assert encode(decode(stored)) == stored


@given(st.lists(_HASHABLE, max_size=8), st.randoms(use_true_random=False))
def test_order_of_a_set_does_not_show(members, random):
    """The same set built in another order gives the same bytes."""
    unique = list(dict.fromkeys(members))
    shuffled = random.sample(unique, len(unique))
    for kind in (set, frozenset):
        assert encode({"v": kind(unique)}) == encode({"v": kind(shuffled)})


@pytest.mark.parametrize("kind", [set, frozenset])
def test_colliding_members_of_a_set_do_not_show_their_order(kind):
    """Members whose hashes collide, which the interpreter keeps as inserted, give the same bytes in any order."""
    members, backwards = [0, 8, 16, 24, 32], [32, 24, 16, 8, 0]
    assert list(set(members)) != list(set(backwards))
    assert encode({"v": kind(members)}) == encode({"v": kind(backwards)})


@pytest.mark.parametrize(
    "wrap",
    [
        lambda value: [value],
        lambda value: (value,),
        lambda value: {"k": value},
        lambda value: {1: value},
        lambda value: frozenset({value}),
    ],
    ids=["list", "tuple", "dict", "odd dict", "frozenset"],
)
@pytest.mark.parametrize("leaf", [1, 2**70, "\ud800"], ids=["plain", "huge", "surrogate"])
@pytest.mark.parametrize("depth", [10, 60, 120, 190])
def test_what_is_deep_and_accepted_comes_back(wrap, leaf, depth):
    """Nesting within the limit is stored and comes back."""
    value = leaf
    for _ in range(depth):
        value = wrap(value)
    assert decode(_save({"v": value})) == {"v": value}


def _at(depth, function):
    """Call a function that far down the stack."""
    return function() if depth == 0 else _at(depth - 1, function)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda value: frozenset({value}),
        lambda value: (value,),
        lambda value: {1: value},
        lambda value: frozenset({(value,)}),
        lambda value: [(value,)],
    ],
    ids=["frozenset", "tuple", "odd dict", "mixed", "lists between"],
)
@pytest.mark.parametrize("leaf", [1, 2**70], ids=["plain", "huge"])
def test_what_is_accepted_can_be_read_from_further_down_the_stack(wrap, leaf):
    """What is too deep for a later request is refused when it is saved, so that no session is lost."""
    for depth in (90, 150, 190, 230, 280, 400):
        value = leaf
        for _ in range(depth):
            value = wrap(value)
        try:
            stored = _save({"v": value})
        except SessionDataError:
            assert depth > 90
            continue
        assert _at(500, lambda stored=stored: decode(stored)) == {"v": value}


@pytest.mark.parametrize("digits", [100, 4000, 5000])
def test_a_huge_integer_may_be_a_key(digits):
    """A dictionary inside the session may have an integer of any size as its key."""
    data = {"v": {10**digits: 1}}
    assert decode(_save(data)) == data


# --- the format -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "c0"),
        (True, "c3"),
        (7, "07"),
        (2**70, "c70905400000000000000000"),
        (1.5, "cb3ff8000000000000"),
        ("é", "a2c3a9"),
        ("\ud800", "c70306eda080"),
        (b"\x00\xff", "c40200ff"),
        ([1, "a"], "9201a161"),
        ((1, "a"), "d6019201a161"),
        ({2, 1}, "c70a0200000001010000000102"),
        (frozenset({1}), "c705030000000101"),
        ({"a": 1}, "81a16101"),
        ({1: "a"}, "c70504919201a161"),
        (dt.datetime(2026, 1, 2, 3, 4, 5, 6), "c71e0793ba323032362d30312d30325430333a30343a30352e30303030303600c0"),
        (
            dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC),
            "c7170793b3323032362d30312d30325430333a30343a30350000",
        ),
        (
            dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=ZoneInfo("Europe/Paris")),
            "c7280794b3323032362d30312d30325430333a30343a303500ced693a400ac4575726f70652f5061726973",
        ),
        (dt.date(2026, 1, 2), "c70a08323032362d30312d3032"),
        (dt.time(3, 4, 5), "c70c0993a830333a30343a303500c0"),
        (dt.timedelta(1, 2, 3), "d60a93010203"),
        (Decimal("1.50"), "d60b312e3530"),
        (UUID(int=1), "d80c00000000000000000000000000000001"),
    ],
    ids=lambda value: value[:12] if isinstance(value, str) and value.isascii() else None,
)
def test_the_format_never_changes(value, expected):
    """Each type has the bytes that earlier versions stored, written and read."""
    stored = bytes.fromhex("0181a176" + expected)  # format 1, a dictionary of one, the key "v"
    assert encode({"v": value}) == stored
    assert _same(decode(stored), {"v": value})


def test_the_empty_session_has_a_constant():
    """`EMPTY` is what an empty session encodes to."""
    assert encode({}) == EMPTY == b"\x01\x80"
    assert decode(EMPTY) == {}


# --- damage -----------------------------------------------------------------------------------------------------------


def _try_decode(stored):
    try:
        data = decode(stored)
    except DamagedData:
        return
    assert type(data) is dict
    assert all(type(key) is str for key in data)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_raise_only_damaged_data(noise):
    """Whatever the bytes, with or without the format's mark, `decode` returns a dict or raises DamagedData."""
    for stored in (noise, b"\x01" + noise, b"\x01\x81\xa1v" + noise):
        _try_decode(stored)


@given(st.integers(0, 255), st.binary(max_size=60))
def test_arbitrary_extensions_raise_only_damaged_data(tag, payload):
    """An extension of any number with any payload raises nothing but DamagedData."""
    _try_decode(b"\x01\x81\xa1v\xc7" + bytes([len(payload), tag]) + payload)


@settings(max_examples=300)
@given(_SESSIONS, st.data())
def test_mutated_encodings_raise_only_damaged_data(data, draws):
    """A genuine encoding with bytes changed, cut or put in raises nothing but DamagedData."""
    stored = bytearray(encode(data))
    for _ in range(draws.draw(st.integers(1, 4))):
        start = draws.draw(st.integers(1, len(stored)))
        end = min(len(stored), start + draws.draw(st.integers(0, 3)))
        stored[start:end] = draws.draw(st.binary(max_size=3))
    _try_decode(bytes(stored))


@pytest.mark.parametrize("facts", [NO_FACTS, make_facts(1.0, None)], ids=["no facts", "facts"])
def test_a_dictionary_with_other_keys_is_no_session(facts):
    """`encode` writes such a dictionary as a value in a session, and never as the session itself."""
    stored = facts.head + encode({"": {None: 1}})[3:]
    with pytest.raises(DamagedData):
        decode(stored)
    with pytest.raises(DamagedData):
        decode_with_lifetime(stored)


_MSGPACK_LEAVES = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats() | _VALID_TEXT | st.binary()


@given(
    st.integers(1, 13),
    st.recursive(_MSGPACK_LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_VALID_TEXT, inner)),
)
@example(7, ["2026-01-01T00:00:00", 0, 5])
@example(7, ["2026-01-01T00:00:00", 0, "UTC"])
@example(7, ["2026-01-01T00:00:00", 0, 2**62])
@example(7, ["2026-01-01T00:00:00", 0, 2**62, "Nowhere"])
@example(7, ["2026-01-01T00:00:00", 0, 10**12, "Nowhere"])
@example(7, ["2026-01-01T00:00:00", 0, 0, b"UTC"])
@example(7, ["2026-01-01T00:00:00", 0, 0, ""])
@example(7, ["2026-01-01T00:00:00", 0, 0, "Europe"])
@example(7, ["2026-01-01T00:00:00", 0, 0, "../../etc/passwd"])
@example(7, ["2026-01-01T00:00:00", 0, 0, "a" * 5000])
@example(7, ["2026-01-01T00:00:00", 0, 0, "\0"])
@example(7, ["2026-01-01T00:00:00", 0, 0, "\ud800"])
@example(7, ["2026-01-01T00:00:00", 0, 0, ["UTC"]])
@example(7, ["2026-01-01T00:00:00", 0, 0, "UTC", 5])
@example(7, ["2026-01-01T00:00:00", 2**40, None])
@example(9, [None, 0, None])
@example(10, [2**62, 0, 0])
@example(10, [float("nan"), 0, 0])
@example(4, [[[], 1]])
def test_well_formed_nonsense_raises_only_damaged_data(tag, content):
    """An extension whose payload is valid MessagePack of the wrong shape raises nothing but DamagedData."""
    payload = encode({"": content})[3:]
    _try_decode(b"\x01\x81\xa1v\xc9" + len(payload).to_bytes(4, "big") + bytes([tag]) + payload)


def test_deeply_nested_extensions_raise_only_damaged_data():
    """Extensions nested far deeper than `encode` goes raise nothing but DamagedData."""
    stored = b"\xc0"
    for _ in range(3000):
        stored = b"\x91" + stored
        stored = b"\xc9" + len(stored).to_bytes(4, "big") + b"\x01" + stored
    _try_decode(b"\x01\x81\xa1v" + stored)
    _try_decode(b"\x01\x81\xa1v" + b"\x91" * 100_000 + b"\xc0")


@pytest.mark.parametrize(
    "stored",
    [
        b"",
        b"\x00",
        b"\x01",
        b"\x02\x80",
        b"\x01\x90",
        b"\x01\xc0",
        b"\x01\x81\x01\x01",
        "\x01\x80",
        None,
        bytearray(EMPTY),
    ],
    ids=repr,
)
def test_no_session_is_damaged_data(stored):
    """What is no session of this format is refused with DamagedData."""
    with pytest.raises(DamagedData):
        decode(stored)


def test_bytes_after_the_session_are_ignored_or_damaged():
    """Bytes after a whole session never lead to other data."""
    try:
        assert decode(encode({"a": 1}) + b"\xc0") == {"a": 1}
    except DamagedData:
        pass


# --- what cannot be stored --------------------------------------------------------------------------------------------


_UNSTORABLE = {
    "object": (object(), "object"),
    "complex": (1j, "complex"),
    "function": (len, "builtin_function_or_method"),
    "class": (int, "type"),
    "range": (range(3), "range"),
    "extension": (ormsgpack.Ext(1, b"\x90"), "Ext"),
    "bytearray": (bytearray(b"x"), "bytearray"),
    "memoryview": (memoryview(b"x"), "memoryview"),
}


@pytest.mark.parametrize(("value", "kind"), _UNSTORABLE.values(), ids=_UNSTORABLE.keys())
@pytest.mark.parametrize(
    ("wrap", "place"),
    [
        (lambda value: {"cart": value}, "session['cart']"),
        (lambda value: {"cart": [1, value]}, "session['cart'], 1 level down,"),
        (lambda value: {"cart": (1, value)}, "session['cart'], 1 level down,"),
        (lambda value: {"cart": {"a": [value]}}, "session['cart'], 2 levels down,"),
        (lambda value: {"cart": {3: value}}, "session['cart'], 1 level down,"),
        (lambda value: {"cart": ({"jane.doe@example.com": value},)}, "session['cart'], 2 levels down,"),
        (lambda value: {"cart": OrderedDict(a=[value])}, "session['cart'], 2 levels down,"),
        (lambda value: {"cart": 0, "é" * 5000: [value]}, r"session['\xe9\xe9"),
    ],
    ids=["top", "list", "tuple", "dict", "odd dict", "nested", "subclass", "long"],
)
def test_unstorable_values_are_refused_with_their_place(value, kind, wrap, place):
    """A value that would not come back as it is raises SessionDataError: the session's key, how deep, and the type."""
    with pytest.raises(SessionDataError) as caught:
        _save(wrap(value))
    text = str(caught.value)
    assert text.startswith(place) and f" is of type {type(value).__module__}.{kind}, " in text
    assert "jane" not in text and len(text) < 400


@pytest.mark.parametrize("member", [1j, len, ormsgpack.Ext(1, b"")], ids=lambda value: type(value).__name__)
def test_unstorable_members_of_a_set_are_refused(member):
    """A member of a set that cannot be stored is refused with the place of the set."""
    for kind in (set, frozenset):
        try:
            members = kind([member])
        except TypeError:  # no hash
            continue
        with pytest.raises(SessionDataError, match=r"^session\['cart'\], 1 level down, is of type"):
            _save({"cart": members})


@pytest.mark.parametrize("key", [1j, len], ids=lambda value: type(value).__name__)
def test_unstorable_keys_of_a_dictionary_are_refused(key):
    """A key of an inner dictionary that is not kept is refused with the place of the dictionary."""
    with pytest.raises(SessionDataError, match=r"^session\['cart'\], a key 1 level down, is of type "):
        _save({"cart": {key: 1}})


@pytest.mark.parametrize("key", [1, None, b"a", (1,), 1.5, True], ids=repr)
def test_keys_of_the_session_are_text(key):
    """A key of the session that is not `str` is refused, naming the type."""
    with pytest.raises(SessionDataError, match=f"is of type {type(key).__name__}"):
        _save({key: 1})


def test_keys_of_the_session_are_valid_text():
    """A key of the session with a lone surrogate is refused."""
    with pytest.raises(SessionDataError, match="surrogates"):
        _save({"\ud800": 1})


def test_a_huge_integer_as_a_session_key_is_refused_properly():
    """An integer too long to print, used as a key of the session, is refused with SessionDataError."""
    with pytest.raises(SessionDataError):
        _save({10**5000: 1})


@pytest.mark.parametrize("wrap", [lambda value: [value], lambda value: (value,), lambda value: {"k": value}])
def test_very_deep_nesting_is_refused(wrap):
    """100,000 levels are refused with SessionDataError and its path, not with RecursionError."""
    value = 1
    for _ in range(100_000):
        value = wrap(value)
    with pytest.raises(SessionDataError, match=r"^session\['cart'\].*levels deep"):
        encode({"cart": value})


def test_data_that_holds_itself_is_refused():
    """A list or a dictionary that holds itself is refused with SessionDataError."""
    loop = []
    loop.append(loop)
    ring = {}
    ring["k"] = ring
    for value in (loop, ring, (loop,), [ring]):
        with pytest.raises(SessionDataError, match=r"^session\['cart'\].*levels deep"):
            encode({"cart": value})


def test_errors_show_no_values():
    """The error for one value shows neither it nor its neighbours."""
    with pytest.raises(SessionDataError) as caught:
        encode({"cart": ["hunter2", {"pin": "hunter2", "bad": object()}]})
    assert "hunter2" not in str(caught.value)


def test_long_keys_are_cut_in_errors():
    """A long key does not make a long error text."""
    with pytest.raises(SessionDataError) as caught:
        encode({string.ascii_letters * 20: object()})
    assert "..." in str(caught.value) and len(str(caught.value)) < 400
