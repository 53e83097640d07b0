"""Session data to bytes and back, every value with its type.

A value of a subclass comes back as the kind that it is of (`roomkey.wire.kinds`), and one of an app's own types as its
encoder makes it (`roomkey.wire.own`). Every other value comes back with its exact type.

The first byte names the format, so that what is stored never depends on what happens to be installed. It is
MessagePack, with the session's `Facts` before it, and with extension types for what MessagePack has no type of its own.

Plain data takes a fast path inside ormsgpack. What that does not encode is tried once more by `_portable`. It knows the
rarer cases (huge integers, lone surrogates, keys that are no `str`), and says where a value is that no session keeps.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Callable, Collection, Mapping
from decimal import Decimal
from typing import Any
from uuid import UUID

import ormsgpack

from roomkey.errors import RoomkeyError, SessionDataError
from roomkey.wire import own
from roomkey.wire.depth import MOST_LEVELS, TooDeep, go_down, go_up, one_level_down
from roomkey.wire.facts import (
    DATA_AT,
    MARK_BYTES,
    MOST_MARKS,
    NO_FACTS,
    NO_LIFETIME,
    Facts,
    body_at,
    facts_in,
    make_facts,
    with_facts,
)
from roomkey.wire.kinds import LIBRARY, NotKept, Place, has_surrogates, plain, plain_key, refusal, shown
from roomkey.wire.moments import fields_of, moment_of

__all__ = [
    "EMPTY",
    "IMMUTABLE",
    "KEPT",
    "MARK_BYTES",
    "MOST_MARKS",
    "NO_FACTS",
    "DamagedData",
    "Facts",
    "decode",
    "decode_with_lifetime",
    "encode",
    "encode_like",
    "facts_in",
    "fingerprint",
    "has_surrogates",
    "is_exact",
    "is_ours",
    "is_same",
    "keep",
    "make_facts",
    "verify",
    "with_facts",
]

_EXTENSIONS = frozenset({0xC7, 0xC8, 0xC9, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8})  # first bytes of MessagePack's extensions
_UNREADABLE = (ValueError, TypeError, ArithmeticError, LookupError, RecursionError, OSError)  # of damaged bytes
EMPTY = b"\x01\x80"  # what an empty session encodes to

_OPTIONS = (
    ormsgpack.OPT_PASSTHROUGH_DATETIME
    | ormsgpack.OPT_PASSTHROUGH_UUID
    | ormsgpack.OPT_PASSTHROUGH_TUPLE
    | ormsgpack.OPT_PASSTHROUGH_SUBCLASS
    | ormsgpack.OPT_PASSTHROUGH_DATACLASS
    | ormsgpack.OPT_PASSTHROUGH_ENUM
)

# The numbers are stored: never change or reuse one.
_TUPLE, _SET, _FROZENSET, _DICT, _INT, _STR, _DATETIME, _DATE, _TIME, _TIMEDELTA, _DECIMAL, _UUID, _OWN = range(1, 14)


class DamagedData(RoomkeyError):
    """The stored bytes are not a session that this version can read."""


def encode(data: dict[str, Any], facts: Facts = NO_FACTS) -> bytes:
    """Return `data` as bytes; equal data of equal kinds in equal order, with equal facts, gives equal bytes.

    Raises:
        SessionDataError: a value, or a key of the session, cannot be stored. The text names the session's key, how deep
            below it the value is, and its type.
    """
    start = facts.head
    try:
        return start + ormsgpack.packb(data, _default, _OPTIONS)
    except (TypeError, ValueError, RecursionError):
        return start + _pack(_portable_session(data))


def encode_like(data: dict[str, Any], encoded: bytes) -> bytes:
    """Return `data` as bytes, with the facts of a session that is encoded already. Raises SessionDataError."""
    start = encoded[: body_at(encoded)]
    try:
        return start + ormsgpack.packb(data, _default, _OPTIONS)
    except (TypeError, ValueError, RecursionError):
        return start + _pack(_portable_session(data))


def verify(data: dict[str, Any], stored: bytes, *, strict: bool = False) -> None:
    """Refuse what `encode` lets through but would come back as something else (`bytearray`, `memoryview`, `Ext`).

    Apart from `encode`, because only data about to be saved needs this second look.

    Args:
        data: the session.
        stored: what `encode` made of it.
        strict: refuse subclasses too.

    Raises:
        SessionDataError: as for `encode`.
    """
    if IMMUTABLE.issuperset(map(type, data.values())) and (not strict or _TEXT.issuperset(map(type, data))):
        return  # nothing that could hold such a value
    if not strict and not _is_suspect(stored):
        return
    try:
        exact = is_exact(data)
    except RecursionError:
        exact = False
    if not exact:
        _portable_session(data, strict=strict)


def _is_suspect(stored: bytes) -> bool:
    """Whether it holds a byte that MessagePack's binary or an extension begins with. If not, that spares a walk."""
    body = stored[body_at(stored) :]  # the facts before it hold moments, whose bytes may be any
    if len(body) < 4096:
        return len(body.translate(None, _SUSPECTS)) != len(body)
    return any(map(body.__contains__, _SUSPECTS))  # stops at the first, and takes longer to begin


def is_exact(value: Any) -> bool:
    """Whether a value, with all that it holds, is of exactly the types that a session keeps."""
    kind = type(value)
    if kind in IMMUTABLE:
        return True
    if kind is dict:
        return _all_exact(value) and _all_exact(value.values())
    return kind in _GROUPS and _all_exact(value)


def _all_exact(values: Collection[Any]) -> bool:
    return IMMUTABLE.issuperset(map(type, values)) or all(map(is_exact, values))


def decode(stored: bytes) -> dict[str, Any]:
    """Return the data that `encode` made `stored` from.

    Raises:
        DamagedData: no session can be read from `stored`. No other error comes out, whatever the bytes. Bytes that
            follow a whole session are ignored; the next save drops them.
    """
    begin = body_at(stored) if isinstance(stored, bytes) else 0
    if not begin:
        raise DamagedData("the stored session has a format that this version of Roomkey does not know")
    try:
        # A copy: for most sessions that is faster than a view of it.
        data = ormsgpack.unpackb(stored[begin:], ext_hook=_restore)
    except _UNREADABLE as error:
        raise DamagedData(f"the stored session cannot be read ({type(error).__name__})") from None
    # A map's keys are text: ormsgpack takes no others. A dictionary with other keys is an extension, and no session.
    if type(data) is not dict or stored[begin] in _EXTENSIONS:
        raise DamagedData("the stored session is not a dictionary")
    return data


def decode_with_lifetime(stored: bytes) -> tuple[dict[str, Any], float | None]:
    """As `decode`, and the lifetime in the facts with it. For every request, in as few steps as possible."""
    if type(stored) is bytes and len(stored) > DATA_AT and stored[0] in (2, 5, 7):  # with facts, or with more
        try:
            data = ormsgpack.unpackb(stored[DATA_AT if stored[0] == 2 else body_at(stored) :], ext_hook=_restore)
        except _UNREADABLE as error:
            raise DamagedData(f"the stored session cannot be read ({type(error).__name__})") from None
        if type(data) is dict and stored[DATA_AT] not in _EXTENSIONS:
            return data, None if stored[9:DATA_AT] == NO_LIFETIME else facts_in(stored).lifetime
    return decode(stored), facts_in(stored).lifetime


def fingerprint(value: Any) -> bytes | None:
    """Return bytes that are the same for equal values of equal kinds; None where a session does not keep the value."""
    try:
        return encode({"": value})
    except SessionDataError:
        return None


def is_same(one: Any, other: Any) -> bool:
    """Whether two values are equal and of equal kinds, all the way down."""
    kind = type(one)
    if kind is type(other) and kind in _EQUAL_IS_SAME:
        return bool(one == other)
    return fingerprint(one) == fingerprint(other)


def is_ours(stored: bytes) -> bool:
    """Whether `encode` can have made `stored`, which `decode` reads: others might nest deeper."""
    try:
        encode(decode(stored))
    except SessionDataError:
        return False
    return True


def _pack(value: object) -> bytes:
    return ormsgpack.packb(value, _default, _OPTIONS)


def _default(value: Any) -> Any:
    """Return an extension for a value that MessagePack has no type for, or the plain copy of one of a subclass.

    ormsgpack calls it for these only. Raises TypeError.
    """
    kind = type(value)
    writer = _WRITERS.get(kind)
    if writer is None:
        return plain(value)
    if kind not in _GROUPS:
        return writer(value)
    go_down()
    try:
        return writer(value)
    finally:
        go_up()


def _members(value: set[Any] | frozenset[Any]) -> bytes:
    # Sorted by their bytes: the same set gives the same bytes, whatever order the interpreter keeps it in.
    return b"".join(len(item).to_bytes(4, "big") + item for item in sorted(_pack_any(item) for item in value))


def _pack_any(value: object) -> bytes:
    try:
        return _pack(value)
    except (TypeError, ValueError):
        return _pack(_portable(value, Place("")))  # what it raises is raised once more, with its place


_WRITERS: dict[type, Callable[[Any], ormsgpack.Ext]] = {
    tuple: lambda value: ormsgpack.Ext(_TUPLE, _pack(list(value))),
    set: lambda value: ormsgpack.Ext(_SET, _members(value)),
    frozenset: lambda value: ormsgpack.Ext(_FROZENSET, _members(value)),
    LIBRARY.datetime: lambda value: ormsgpack.Ext(_DATETIME, _pack(fields_of(value))),
    dt.time: lambda value: ormsgpack.Ext(_TIME, _pack(fields_of(value))),
    LIBRARY.date: lambda value: ormsgpack.Ext(_DATE, value.isoformat().encode()),
    dt.timedelta: lambda value: ormsgpack.Ext(_TIMEDELTA, _pack([value.days, value.seconds, value.microseconds])),
    Decimal: lambda value: ormsgpack.Ext(_DECIMAL, str(value).encode()),
    UUID: lambda value: ormsgpack.Ext(_UUID, value.bytes),
}


def keep(encoders: Mapping[type, own.Encoder]) -> None:
    """Keep the values of these types too, in the whole process."""
    own.add(encoders)
    _WRITERS.update(dict.fromkeys(encoders, _own))


def _own(value: Any, place: Place | None = None, strict: bool = False) -> ormsgpack.Ext:
    with one_level_down():
        plain = own.as_plain(value) if place is None else _portable(own.as_plain(value, place), place, strict)
        return ormsgpack.Ext(_OWN, _pack(plain))


_GROUPS = frozenset({list, tuple, set, frozenset})
_PLAIN = frozenset({bool, int, float, str, bytes})
# Types whose values nobody can change in place, and that hold no others.
IMMUTABLE = (_PLAIN | {type(None)} | frozenset(_WRITERS)) - _GROUPS
_TEXT = frozenset({str})
KEPT = IMMUTABLE | _GROUPS | {dict}
_DEEPEST = 200  # levels; ormsgpack refuses what is much deeper
_SUSPECTS = b"\xc4\xc5\xc6\xc7\xc8\xc9\xd4\xd5\xd6\xd7\xd8"
_EQUAL_IS_SAME = frozenset({int, str, bytes, bool, type(None)})  # not float: 0.0 equals -0.0


def _portable_session(data: dict[str, Any], *, strict: bool = False) -> dict[str, Any]:
    portable = {}
    for key, value in data.items():
        name: Any = key
        if type(key) is not str and not strict:
            with contextlib.suppress(NotKept):
                name = plain_key(key)
        if type(name) is not str:
            raise SessionDataError(
                f"the session's key {shown(key)} is of type {type(key).__name__}; the keys of a session are text"
            )
        if has_surrogates(name):
            raise SessionDataError("a key of the session holds lone surrogates; the keys of a session are valid text")
        try:
            portable[name] = _portable(value, Place(name), strict)
        except TooDeep:
            raise SessionDataError(
                f"session[{shown(name)}] has tuples, sets, or dictionaries whose keys are not text, nested more than "
                f"{MOST_LEVELS} levels deep; a session is flat data"
            ) from None
    return portable


def _portable(value: Any, place: Place, strict: bool = False) -> Any:
    """Return `value` with the rarer cases made into extensions. Raises SessionDataError."""
    if place.depth > _DEEPEST:
        raise SessionDataError(
            f"session[{shown(place.key)}] is nested more than {_DEEPEST} levels deep; a session is flat data"
        )
    kind = type(value)
    if kind not in KEPT:
        if kind in own.BY_KIND:
            return _own(value, place, strict)
        value = _reduced(value, place, strict)
        kind = type(value)
    if kind is int and not -(2**63) <= value < 2**64:
        return ormsgpack.Ext(_INT, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))
    if kind is str and has_surrogates(value):
        return ormsgpack.Ext(_STR, value.encode("utf-8", "surrogatepass"))
    if value is None or kind in _PLAIN:
        return value
    if kind is dict:
        if _TEXT.issuperset(map(type, value)) and not any(map(has_surrogates, value)):
            return _portable_dict(value, place, strict)
        with one_level_down():
            return _portable_dict(value, place, strict)
    if kind not in _GROUPS:
        return _WRITERS[kind](value)
    if kind is list:
        return [_portable(item, place.below(), strict) for item in value]
    with one_level_down():
        items = [_portable(item, place.below(), strict) for item in value]
    if kind is tuple:
        return ormsgpack.Ext(_TUPLE, _pack(items))
    joined = b"".join(len(item).to_bytes(4, "big") + item for item in sorted(set(map(_pack, items))))
    return ormsgpack.Ext(_SET if kind is set else _FROZENSET, joined)


def _portable_dict(value: dict[Any, Any], place: Place, strict: bool) -> Any:
    keys = {key: _portable_key(key, place, strict) for key in value}
    items = [(keys[key], _portable(item, place.below(), strict)) for key, item in value.items()]
    if all(type(key) is str for key in keys.values()):
        return dict(items)
    return ormsgpack.Ext(_DICT, _pack([list(each) for each in items]))


def _portable_key(key: Any, place: Place, strict: bool) -> Any:
    place = place.below(is_key=True)
    is_kept = type(key) in KEPT or type(key) in own.BY_KIND
    return _portable(key if is_kept else _reduced(key, place, strict, plain_key), place, strict)


def _reduced(value: Any, place: Place, strict: bool, reduce: Callable[[Any], Any] = plain) -> Any:
    """Return the plain copy of a value of a subclass. Raises SessionDataError where there is none, or must be none."""
    try:
        copy = reduce(value)
    except NotKept:
        raise refusal(place, value) from None
    if strict:
        raise refusal(place, value, strict=True)
    return copy


def _restore(tag: int, payload: bytes) -> Any:
    # What nests is read here, in one frame of Python's stack for each level: there must be room wherever it is read.
    if tag == _TUPLE:
        return tuple(ormsgpack.unpackb(payload, ext_hook=_restore))
    if tag == _DICT:
        return own.gathered(dict, ormsgpack.unpackb(payload, ext_hook=_restore))
    if tag not in (_SET, _FROZENSET):
        return _READERS[tag](payload)
    items, position = [], 0
    while position < len(payload):
        start = position + 4
        position = start + int.from_bytes(payload[position:start], "big")
        items.append(ormsgpack.unpackb(payload[start:position], ext_hook=_restore))
    return own.gathered(set if tag == _SET else frozenset, items)


def _unpack(payload: bytes) -> Any:
    return ormsgpack.unpackb(payload, ext_hook=_restore)


_READERS: dict[int, Callable[[bytes], Any]] = {
    _INT: lambda payload: int.from_bytes(payload, "big", signed=True),
    _STR: lambda payload: payload.decode("utf-8", "surrogatepass"),
    _DATETIME: lambda payload: moment_of(LIBRARY.datetime, _unpack(payload)),
    _DATE: lambda payload: LIBRARY.date.fromisoformat(payload.decode()),
    _TIME: lambda payload: moment_of(dt.time, _unpack(payload)),
    _TIMEDELTA: lambda payload: dt.timedelta(*_unpack(payload)),
    _DECIMAL: lambda payload: Decimal(payload.decode()),
    _UUID: lambda payload: UUID(bytes=payload),
    _OWN: lambda payload: own.from_plain(_unpack(payload)),
}
