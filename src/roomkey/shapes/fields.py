"""What a shape of sessions is made of. Each kind of shape has a module that makes these of a class."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from roomkey.errors import ConfigurationError

__all__ = ["DoesNotFit", "Field", "Shape", "no_default"]


class DoesNotFit(Exception):
    """A value is not what its field takes."""


class Field(NamedTuple):
    """One field of a shape. Its name is the session's key too."""

    name: str
    takes: str  # its annotation, for error texts
    read: Callable[[Any], Any]  # makes the field's value of what a session holds. Raises DoesNotFit
    write: Callable[[Any], Any]  # makes plain data, which a session keeps, of the field's value
    default: Callable[[], Any]  # returns the default, made anew where it can be changed in place


class Shape(NamedTuple):
    """A class as the shape of sessions."""

    kind: type
    fields: Mapping[str, Field]
    is_frozen: bool  # whether fields cannot be assigned
    make: Callable[[dict[str, Any]], Any]  # makes an instance of the class, of the values of all fields


def no_default(kind: type, name: str, instead: str) -> ConfigurationError:
    """Return the error for a field that an empty session cannot have."""
    return ConfigurationError(
        f"{kind.__qualname__}.{name} has no default. An empty session has no fields, so each field of a shape needs "
        f"one: {instead}"
    )
