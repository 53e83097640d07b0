"""Typed sessions: a dataclass, a msgspec Struct, a TypedDict or a pydantic model as the shape of a session.

Read it in this order:

fields       what a shape is made of: names, defaults, and how a value is read and written
annotations  dataclasses and TypedDicts, whose values are checked by their annotations
libraries    pydantic's models and msgspec's Structs, which their libraries convert
views        typed(): a session seen through a shape
"""

from roomkey.shapes.views import change_field, typed

__all__ = ["change_field", "typed"]
