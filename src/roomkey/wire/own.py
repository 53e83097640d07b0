"""Values of an app's own types, which the option `encoders` turns into plain data and back.

The functions for a type are the same in the whole process: those of the newest configuration count. What is stored is
the type's name and the plain data, so that the class may be moved, and its data is read without it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from roomkey.errors import ConfigurationError, SessionDataError

__all__ = ["BY_KIND", "Encoder", "Encoders", "add", "as_plain", "checked_encoders", "from_plain"]

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
_said: set[str] = set()  # names of which it was said that their data cannot be read


def checked_encoders(given: Any, kept: frozenset[type]) -> dict[type, Encoder]:
    """Return what the option `encoders` was given, checked.

    Args:
        given: the option.
        kept: types that a session keeps by itself.

    Raises:
        ConfigurationError: it is no such dict, or two types have one name.
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
    return encoders


def _is_encoder(functions: object) -> bool:
    if not isinstance(functions, tuple) or len(functions) not in (2, 3):
        return False
    return callable(functions[0]) and callable(functions[1]) and (len(functions) == 2 or type(functions[2]) is str)


def add(encoders: Mapping[type, Encoder]) -> None:
    """Keep the values of these types from now on."""
    BY_KIND.update(encoders)
    _BY_NAME.update({encoder.name: encoder for encoder in encoders.values()})


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
