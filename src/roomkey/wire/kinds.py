"""Values of subclasses, as the kind that a session keeps: an `IntEnum` member as its `int`, a `Counter` as a `dict`.

Also what an error says of a value that a session does not keep: its type, and what to write instead.
"""

from __future__ import annotations

import datetime as dt
import enum
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Set, Sized
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

from roomkey.errors import SessionDataError

__all__ = ["LIBRARY", "NotKept", "Place", "has_surrogates", "plain", "plain_key", "refusal", "shown"]


class NotKept(TypeError):
    """The value is no kind of what a session keeps, or its plain copy is not equal to it."""


def _real(kind: Any) -> Any:
    """Return the class of the standard library. A test that froze the time may have put another in its place."""
    return next(each for each in kind.__mro__ if each.__module__ == "datetime")


class _Classes(NamedTuple):
    """Two classes of the standard library, held together: freezegun replaces each that is a module's own global."""

    datetime: type[dt.datetime]
    date: type[dt.date]


LIBRARY = _Classes(_real(dt.datetime), _real(dt.date))
_ALL = slice(None)


def _moment(value: dt.datetime) -> Any:
    date, time = (value.year, value.month, value.day), (value.hour, value.minute, value.second, value.microsecond)
    return LIBRARY.datetime(*date, *time, value.tzinfo, fold=value.fold)


# How the plain copy of each kind is made: past the methods of the subclass, which may say something else.
_COPIES: dict[type, Callable[[Any], Any]] = {
    int: int.__int__,
    float: float.__float__,
    str: str.__str__,
    bytes: lambda value: bytes.__getitem__(value, _ALL),
    list: lambda value: list.__getitem__(value, _ALL),
    tuple: lambda value: tuple.__getitem__(value, _ALL),
    set: lambda value: set(set.__iter__(value)),
    frozenset: lambda value: frozenset(frozenset.__iter__(value)),
    OrderedDict: lambda value: dict(OrderedDict.items(value)),  # it has an order of its own
    dict: lambda value: dict(dict.items(value)),
    LIBRARY.datetime: _moment,
    LIBRARY.date: lambda value: LIBRARY.date(value.year, value.month, value.day),
    dt.time: lambda value: dt.time(
        value.hour, value.minute, value.second, value.microsecond, value.tzinfo, fold=value.fold
    ),
    dt.timedelta: lambda value: dt.timedelta.__add__(value, dt.timedelta()),
    Decimal: Decimal,
    UUID: lambda value: UUID(bytes=value.bytes),
}
_EXACT = frozenset(_COPIES) - {OrderedDict} | {bool}


def plain(value: Any) -> Any:
    """Return a value of a subclass as the kind that it is of: equal, and of exactly that type.

    A member of an enumeration is its value. What is inside a container stays as it is.

    Raises:
        NotKept: it is no kind of what a session keeps; or the copy would not be equal, because the value holds more
            than its kind does, as a moment with nanoseconds does.
    """
    kind = type(value)
    base = _base(kind)
    if base is None:
        raise NotKept
    try:
        copy = value.value if issubclass(kind, enum.Enum) else _COPIES[base](value)
        if type(copy) not in _EXACT:
            copy = plain(copy)  # of an enumeration whose values are of a subclass themselves
        # Not a number is not equal to itself. And a class that keeps its items elsewhere has an empty kind of its base.
        is_equal = copy == value or (copy != copy and value != value)
        is_whole = not isinstance(copy, Sized) or len(copy) == len(value)
    except Exception:  # of the subclass's own methods, whose words may show the value
        raise NotKept from None
    if not (is_equal and is_whole):
        raise NotKept
    return copy


def plain_key(value: Any) -> Any:
    """As `plain`, for a key of a dictionary: one that finds the same entry. Raises NotKept."""
    copy = plain(value)
    if hash(copy) != hash(value):
        raise NotKept
    return copy


def _base(kind: type) -> type | None:
    """Return which kind a class is of. (`isinstance` would believe a proxy, which is none of it.)"""
    return next((each for each in kind.__mro__ if each in _COPIES), None)


# --- refusals ---------------------------------------------------------------------------------------------------------


class Place(NamedTuple):
    """Where in a session a value is: the session's key, and the levels below it. Keys further down are users' data."""

    key: str
    depth: int = 0
    is_key: bool = False  # whether it is itself a key of a dictionary there

    def below(self, *, is_key: bool = False) -> Place:
        """Return the place of something in the value that is here."""
        return Place(self.key, self.depth + 1, is_key)

    def __str__(self) -> str:
        below = f"{self.depth} level{'s' * (self.depth > 1)} down"
        if self.is_key:
            return f"session[{shown(self.key)}], a key {below},"
        return f"session[{shown(self.key)}], {below}," if self.depth else f"session[{shown(self.key)}]"


def refusal(place: Place | str, value: Any, *, strict: bool = False) -> SessionDataError:
    """Return the error for a value that is not kept. It shows the type, and never the value.

    Args:
        place: where it is.
        value: the value.
        strict: whether it is refused for being of a subclass.
    """
    kind = type(value)
    base = _base(kind)
    what = f"{place} is of type {kind.__module__}.{kind.__qualname__}"
    if base is None:
        return SessionDataError(f"{what}, which a session does not keep; {_advice(value, kind)}")
    base = dict if base is OrderedDict else base
    instead = "its .value" if issubclass(kind, enum.Enum) else f"a plain {base.__name__}"
    if strict:
        return SessionDataError(f"{what}, a subclass of {base.__name__}, and strict_types is on; store {instead}")
    return SessionDataError(
        f"{what}, which holds more than a {base.__name__}: a plain copy is not equal to it; store what you need of it "
        "as plain data"
    )


_KEPT = (
    "None, bool, int, float, str, bytes, list, tuple, set, frozenset, dict, datetime, date, time, timedelta, Decimal, "
    "UUID"
)
_INSTEAD: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (enum.Enum, "its .value"),
    ((bytearray, memoryview), "bytes(it)"),
    (os.PathLike, "str(it)"),
    (dt.tzinfo, "str(it), its name"),
    (Mapping, "dict(it)"),
    (Set, "set(it)"),
    ((range, Iterable), "list(it)"),
)


def _advice(value: Any, kind: type) -> str:
    """Return what to write instead of a value that is no kind of what a session keeps."""
    if isinstance(value, type):
        pass
    elif hasattr(kind, "__mapper__") or hasattr(kind, "_meta"):  # SQLAlchemy's and Django's models
        return "store its ID instead, and load it again in the next request"
    elif callable(getattr(kind, "model_dump", None)):
        return "store its model_dump() instead"
    elif hasattr(kind, "__dataclass_fields__"):
        return "store dataclasses.asdict(it) instead"
    elif hasattr(kind, "__struct_fields__"):
        return "store msgspec.structs.asdict(it) instead"
    elif hasattr(kind, "__attrs_attrs__"):
        return "store attrs.asdict(it) instead"
    elif callable(getattr(kind, "multi_items", None)):  # Starlette's: dict(it) has the last value of each key alone
        return "store it.multi_items() instead"
    elif hasattr(kind, "dtype") and hasattr(kind, "item"):  # NumPy's
        return "store its .tolist() instead"
    else:
        for kinds, instead in _INSTEAD:
            if issubclass(kind, kinds):
                return f"store {instead} instead"
    return (
        f"store plain data instead: the ID of it, str(it), or what it is made of ({_KEPT}); or give encoders functions "
        "for its type"
    )


def has_surrogates(text: str) -> bool:
    """Whether `text` holds half a character, which has no UTF-8."""
    return not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text)


def shown(key: object) -> str:
    """Return a key of the session for an error text, short. It is a name in the app's code; values are never shown."""
    short = isinstance(key, str) or (isinstance(key, int) and abs(key) < 2**64)  # Python refuses to print huge ones
    text = ascii(str.__str__(key) if isinstance(key, str) else key) if short else type(key).__name__
    return text if len(text) <= 60 else text[:57] + "..."
