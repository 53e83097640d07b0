"""Values of an app's own types, which the option `encoders` turns into plain data and back.

The functions for a type are the same in the whole process, and so is the type for a name. A second configuration may
give them again, and others are an error: one app's values would be made by another app's functions. What is stored is
the type's name and the plain data, so that the class may be moved, and its data is read without it.
"""

from __future__ import annotations

import functools
import logging
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from roomkey.errors import ConfigurationError, SessionDataError

__all__ = ["BY_KIND", "Encoder", "Encoders", "add", "as_plain", "checked_encoders", "from_plain", "gathered"]

_TAKES = (
    "it takes a dict of classes, each with two functions: {Money: (to_plain, from_plain)}. A third entry is the name "
    "that is stored, in the place of the class's"
)
_log = logging.getLogger("roomkey")

_Function = Callable[[Any], Any]
Encoders = Mapping[type, tuple[_Function, _Function] | tuple[_Function, _Function, str]]


class Encoder(NamedTuple):
    """How the values of one type are kept."""

    to_plain: Callable[[Any], Any]
    from_plain: Callable[[Any], Any]
    name: str = ""  # is stored: what is read later is found by it


BY_KIND: dict[type, Encoder] = {}
_BY_NAME: dict[str, Encoder] = {}
_KINDS: dict[str, type] = {}  # the type that has a name
_lock = threading.Lock()
_said: set[str] = set()  # names of which it was said that their data cannot be read


def checked_encoders(given: Any, kept: frozenset[type]) -> dict[type, Encoder]:
    """Return what the option `encoders` was given, checked.

    Args:
        given: the option.
        kept: types that a session keeps by itself.

    Raises:
        ConfigurationError: it is no such dict, or two types have one name, here or with another configuration.
    """
    if not isinstance(given, Mapping):
        raise ConfigurationError(f"encoders: got {type(given).__name__}; {_TAKES}")
    encoders: dict[type, Encoder] = {}
    for kind, functions in given.items():
        shown = kind.__qualname__ if isinstance(kind, type) else repr(kind)
        if not isinstance(kind, type) or not _is_encoder(functions):
            raise ConfigurationError(f"encoders: got {functions!r} for {shown}; {_TAKES}")
        if kind in kept:
            raise ConfigurationError(
                f"encoders: got functions for {shown}, which a session keeps by itself: leave it out"
            )
        encoder = Encoder(functions[0], functions[1], functions[2] if len(functions) == 3 else kind.__qualname__)
        if any(other.name == encoder.name for other in encoders.values()):
            raise ConfigurationError(
                f"encoders: two classes have the name {encoder.name!r}; give one of them another, as a third entry: "
                "(to_plain, from_plain, name)"
            )
        encoders[kind] = encoder
    check(encoders)
    return encoders


def _is_encoder(functions: object) -> bool:
    if not isinstance(functions, tuple) or len(functions) not in (2, 3):
        return False
    return callable(functions[0]) and callable(functions[1]) and (len(functions) == 2 or type(functions[2]) is str)


def add(encoders: Mapping[type, Encoder]) -> None:
    """Keep the values of these types from now on. Raises ConfigurationError, as `check` does, and then keeps none."""
    with _lock:
        check(encoders)
        BY_KIND.update(encoders)
        _BY_NAME.update({encoder.name: encoder for encoder in encoders.values()})
        _KINDS.update({encoder.name: kind for kind, encoder in encoders.items()})


def check(encoders: Mapping[type, Encoder]) -> None:
    """Look whether types and names are free, or have these functions already.

    Raises:
        ConfigurationError: another configuration of this process has given other functions or another name for a type,
            or another type of this name.
    """
    for kind, encoder in encoders.items():
        known, namesake = BY_KIND.get(kind), _KINDS.get(encoder.name, kind)
        if known is not None and not (known.name == encoder.name and all(map(_is_same, known[:2], encoder[:2]))):
            raise ConfigurationError(
                f"encoders: another configuration in this process gave other functions, or another name, for "
                f"{kind.__qualname__}; one process keeps a class in one way: give the same everywhere"
            )
        if namesake is not kind and not _is_replaced(namesake, kind):
            raise ConfigurationError(
                f"encoders: the name {encoder.name!r} of {kind.__module__}.{kind.__qualname__} is that of "
                f"{namesake.__module__}.{namesake.__qualname__} in another configuration of this process; give one of "
                "them another, as a third entry: (to_plain, from_plain, name)"
            )


def _is_replaced(before: type, now: type) -> bool:
    """Whether a class stands in its module where another one stood: the module was loaded again."""
    if (before.__module__, before.__qualname__) != (now.__module__, now.__qualname__):
        return False
    found: object = sys.modules.get(now.__module__)
    for part in now.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is now


def _is_same(one: Any, other: Any, levels: int = 5) -> bool:
    """Whether two functions are one, or were made by one piece of code with equal values: by an app factory, say."""
    if one is other or (type(one) is type(other) and bool(one == other)):
        return True
    if isinstance(one, functools.partial) and isinstance(other, functools.partial):
        return _is_same(one.func, other.func) and (one.args, one.keywords) == (other.args, other.keywords)
    if not levels or not all(hasattr(each, "__code__") and hasattr(each, "__closure__") for each in (one, other)):
        return False
    if (one.__code__, one.__module__) != (other.__code__, other.__module__):
        return False
    if (one.__defaults__, one.__kwdefaults__) != (other.__defaults__, other.__kwdefaults__):
        return False
    pairs = zip(one.__closure__ or (), other.__closure__ or (), strict=True)
    return all(
        mine == theirs or _is_same(mine.cell_contents, theirs.cell_contents, levels - 1) for mine, theirs in pairs
    )


def as_plain(value: Any, place: object = "a value of the session") -> list[Any]:
    """Return what is stored of a value: the name of its type, and plain data.

    Args:
        value: the value. Its type has an encoder.
        place: where it is, for the error.

    Raises:
        SessionDataError: the encoder's function failed. Its own words may show the value, and are left out.
    """
    kind = type(value)
    encoder = BY_KIND[kind]
    try:
        return [encoder.name, encoder.to_plain(value)]
    except Exception as error:
        what = f"{place} is of type {kind.__module__}.{kind.__qualname__}"
        raise SessionDataError(f"{what}, and its function of encoders raised {type(error).__name__}") from None


def from_plain(stored: list[Any]) -> Any:
    """Return the value that was stored. Where its name has no encoder any more, it is the plain data.

    Raises:
        ValueError: the encoder's function failed. The session counts as damaged, and stays as it is in the store.
    """
    name, plain = stored
    encoder = _BY_NAME.get(name)
    if encoder is None:
        return plain
    try:
        return encoder.from_plain(plain)
    except Exception as error:
        if name not in _said:
            _said.add(name)
            _log.error(
                "encoders: the function that reads %s raised %s. Sessions with such data count as damaged, and stay in "
                "the store until they expire: mend the function, so that it reads what is stored (said once)",
                name,
                type(error).__name__,
            )
        raise ValueError(name) from None


def gathered(make: Callable[[list[Any]], Any], items: list[Any]) -> Any:
    """Return a set, or a dictionary of pairs, of what was read.

    A value whose name has no encoder any more is plain data. Where that is a list, a tuple is in its place here.
    """
    try:
        return make(items)
    except TypeError:
        return make([(_hashable(key), value) for key, value in items] if make is dict else list(map(_hashable, items)))


def _hashable(plain: Any) -> Any:
    if isinstance(plain, dict):
        plain = [*plain.items()]
    if isinstance(plain, list | tuple):
        return tuple(map(_hashable, plain))
    return frozenset(plain) if isinstance(plain, set) else plain
