"""What a framework's `set_session` takes beside a dict: an object with fields, of any of the usual kinds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

__all__ = ["content_of"]


def content_of(value: object) -> object:
    """Return a dict as it is, and a dict of an object's fields, all the way down; else the value itself."""
    return value if isinstance(value, Mapping) else _plain(value)


def _plain(value: Any) -> Any:
    fields = _fields_of(value)
    if fields is not None:
        return {name: _plain(each) for name, each in fields.items()}
    if type(value) is dict:
        return {key: _plain(each) for key, each in value.items()}
    if type(value) in (list, tuple):  # what a set holds has to be hashable, and a dict is not
        return type(value)(map(_plain, value))
    return value


def _fields_of(value: Any) -> dict[str, Any] | None:
    """Return the fields of a dataclass, a Struct, a pydantic model or an attrs class; None: it is none of these."""
    kind = type(value)
    if dataclasses.is_dataclass(kind):
        names = [field.name for field in dataclasses.fields(kind)]
    elif hasattr(kind, "__struct_fields__"):
        names = list(kind.__struct_fields__)
    elif hasattr(kind, "__attrs_attrs__"):
        names = [field.name for field in kind.__attrs_attrs__]
    elif hasattr(kind, "model_dump"):
        dumped = value.model_dump()
        return dumped if isinstance(dumped, dict) else None
    else:
        return None
    return {name: getattr(value, name) for name in names}
