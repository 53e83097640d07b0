"""Dataclasses and TypedDicts as shapes: a value fits where it is what the annotation says.

Nothing is converted, but for two cases, because a session holds plain data: a dictionary becomes a nested dataclass,
and the value of an enumeration becomes its member. An `int` fits `float`, as in Python's type system, and a `bool` does
not fit `int`. What says more than a class and its arguments (`Callable`, a protocol) is not looked at.
"""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from roomkey.errors import ConfigurationError
from roomkey.shapes.fields import DoesNotFit, Field, Shape, no_default
from roomkey.wire.own import BY_KIND

__all__ = ["is_typed_dict", "plain_of", "shape_of_dataclass", "shape_of_typed_dict", "text_of"]

_Reader = Callable[[Any], Any]
_ANY = (Any, object)


def is_typed_dict(kind: type) -> bool:
    """Whether a class is a TypedDict, of `typing` or of `typing_extensions`."""
    return issubclass(kind, dict) and hasattr(kind, "__required_keys__")


def shape_of_dataclass(kind: type) -> Shape:
    """Return the fields of a dataclass. Raises ConfigurationError."""
    hints, fields = _hints(kind), {}
    for field in dataclasses.fields(kind):
        default = _default(field)
        if default is None:
            instead = f"`{field.name}: ... = field(default_factory=...)`, or `... | None = None`"
            raise no_default(kind, field.name, instead)
        annotation = hints[field.name]
        fields[field.name] = Field(field.name, text_of(annotation), _reader(annotation), plain_of, default)
    is_frozen = kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    return Shape(kind, fields, is_frozen, lambda values: _made(kind, values))


def shape_of_typed_dict(kind: type) -> Shape:
    """Return the keys of a TypedDict. They have no defaults, and are read from the session itself.

    Raises:
        ConfigurationError: a key has to be there, or an annotation cannot be understood.
    """
    for name in sorted(getattr(kind, "__required_keys__", ())):
        raise ConfigurationError(
            f"{kind.__qualname__}[{name!r}] is required. An empty session has no keys: declare them with total=False, "
            "or as NotRequired"
        )
    fields = {
        name: Field(name, text_of(annotation), _reader(annotation), plain_of, _nothing)
        for name, annotation in _hints(kind).items()
    }
    return Shape(kind, fields, False, dict)


def plain_of(value: Any) -> Any:
    """Return a value with its dataclasses as dictionaries and its enumerations' members as their values."""
    if type(value) in BY_KIND:  # which a session keeps as it is
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain_of(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if type(value) in (list, set, frozenset, tuple):
        return type(value)([plain_of(each) for each in value])
    if type(value) is dict:
        return {plain_of(key): plain_of(each) for key, each in value.items()}
    return value


def text_of(annotation: Any) -> str:
    """Return an annotation as it is written."""
    is_class = isinstance(annotation, type) and not get_args(annotation)
    return annotation.__name__ if is_class else str(annotation).replace("typing.", "")


def _nothing() -> None:
    return None


def _hints(kind: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(kind, include_extras=True)
    except NameError as error:
        raise ConfigurationError(
            f"{kind.__qualname__}: an annotation names {error.name!r}, which is not in its module: declare the class "
            "and what its annotations name at the top of a module"
        ) from error


def _default(field: dataclasses.Field[Any]) -> Callable[[], Any] | None:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory
    if field.default is dataclasses.MISSING:
        return None
    default = field.default
    return lambda: default


def _made(kind: type, values: dict[str, Any]) -> Any:
    fields = {field.name: field for field in dataclasses.fields(kind)}
    made = kind(**{name: value for name, value in values.items() if fields[name].init})
    for name, value in values.items():
        if not fields[name].init:
            object.__setattr__(made, name, value)
    return made


# --- annotations ------------------------------------------------------------------------------------------------------


def _reader(annotation: Any) -> _Reader:
    """Return a function that gives back a value that fits an annotation, and raises DoesNotFit where it does not."""
    if annotation in _ANY or isinstance(annotation, TypeVar | str):
        return _as_it_is
    if annotation is None or annotation is type(None):
        return _checked(lambda value: value is None)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return _reader_of_literals(arguments)
    if origin is Union or origin is types.UnionType:
        return _reader_of_union([_reader(each) for each in arguments])
    inner = _inside(annotation, origin, arguments)
    if inner is not annotation:
        return _reader(inner)
    if origin is None:
        return _reader_of_class(annotation) if isinstance(annotation, type) else _as_it_is
    if origin is tuple:
        return _reader_of_tuple(arguments)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _reader_of_mapping(origin, _reader(arguments[0]), _reader(arguments[1]))
    if isinstance(origin, type) and len(arguments) == 1 and hasattr(origin, "__iter__"):
        return _reader_of_group(origin, _reader(arguments[0]))
    return _reader_of_class(origin) if isinstance(origin, type) else _as_it_is


def _inside(annotation: Any, origin: Any, arguments: tuple[Any, ...]) -> Any:
    """Return what an annotation stands for: `Annotated`, `Required`, `Final`, a `NewType` or an alias of `type`."""
    if origin is typing.Annotated or getattr(origin, "_name", None) in ("Required", "NotRequired", "ReadOnly", "Final"):
        return arguments[0]
    if hasattr(annotation, "__supertype__"):
        return annotation.__supertype__
    return annotation.__value__ if type(annotation).__name__ == "TypeAliasType" else annotation


def _as_it_is(value: Any) -> Any:
    return value


def _checked(fits: Callable[[Any], bool]) -> _Reader:
    def read(value: Any) -> Any:
        if not fits(value):
            raise DoesNotFit
        return value

    return read


def _reader_of_literals(literals: tuple[Any, ...]) -> _Reader:
    def read(value: Any) -> Any:
        for each in literals:
            plain = each.value if isinstance(each, enum.Enum) else each
            if value is each or (type(value) is type(plain) and value == plain):
                return each
        raise DoesNotFit

    return read


def _reader_of_union(readers: list[_Reader]) -> _Reader:
    def read(value: Any) -> Any:
        for each in readers:
            try:
                return each(value)
            except DoesNotFit:
                continue
        raise DoesNotFit

    return read


def _reader_of_class(kind: type) -> _Reader:
    if kind is int:
        return _checked(lambda value: isinstance(value, int) and not isinstance(value, bool))
    if kind is float:
        return _checked(lambda value: isinstance(value, float | int) and not isinstance(value, bool))
    if issubclass(kind, enum.Enum):
        return lambda value: _member(kind, value)
    if dataclasses.is_dataclass(kind):
        return lambda value: _nested(kind, value)
    if is_typed_dict(kind):
        return lambda value: _nested_dict(kind, value)
    if getattr(kind, "_is_protocol", False):
        return _as_it_is
    return _checked(lambda value: isinstance(value, kind))


def _member(kind: type[enum.Enum], value: Any) -> Any:
    try:
        return kind(value)
    except ValueError:
        raise DoesNotFit from None


@lru_cache(maxsize=1000)
def _nested_readers(kind: type) -> dict[str, _Reader]:
    return {name: _reader(annotation) for name, annotation in _hints(kind).items()}


def _nested(kind: type, value: Any) -> Any:
    """Return a dataclass inside a shape. Its fields may have no defaults: then they have to be there."""
    if isinstance(value, kind):
        return value
    if not isinstance(value, dict):
        raise DoesNotFit
    readers, values = _nested_readers(kind), {}
    for field in dataclasses.fields(kind):
        default = _default(field)
        if field.name in value:
            values[field.name] = readers[field.name](value[field.name])
        elif default is None:
            raise DoesNotFit
        else:
            values[field.name] = default()
    return _made(kind, values)


def _nested_dict(kind: type, value: Any) -> Any:
    if not isinstance(value, dict) or not getattr(kind, "__required_keys__", frozenset()) <= value.keys():
        raise DoesNotFit
    readers = _nested_readers(kind)
    read = {key: readers[key](each) if key in readers else each for key, each in value.items()}
    return value if all(read[key] is each for key, each in value.items()) else read


def _reader_of_tuple(arguments: tuple[Any, ...]) -> _Reader:
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return _reader_of_group(tuple, _reader(arguments[0]))
    readers = [_reader(each) for each in arguments]

    def read(value: Any) -> Any:
        if not isinstance(value, tuple) or len(value) != len(readers):
            raise DoesNotFit
        items = tuple(reader(each) for reader, each in zip(readers, value, strict=True))
        return value if all(map(_is, items, value)) else items

    return read


def _reader_of_group(origin: type, item: _Reader) -> _Reader:
    def read(value: Any) -> Any:
        if not isinstance(value, origin) or isinstance(value, str | bytes):
            raise DoesNotFit
        items = [item(each) for each in value]  # type: ignore[attr-defined]
        return value if all(map(_is, items, value)) else type(value)(items)  # type: ignore[call-arg,call-overload]

    return read


def _reader_of_mapping(origin: type, key: _Reader, item: _Reader) -> _Reader:
    def read(value: Any) -> Any:
        if not isinstance(value, origin):
            raise DoesNotFit
        pairs = [(key(name), item(each)) for name, each in value.items()]  # type: ignore[attr-defined]
        is_same = all(name is old and each is value[old] for (name, each), old in zip(pairs, value, strict=True))  # type: ignore[call-overload,index]
        return value if is_same else dict(pairs)

    return read


def _is(one: Any, other: Any) -> bool:
    return one is other
