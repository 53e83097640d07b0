"""pydantic's models and msgspec's Structs as shapes: their own libraries convert and check each field.

Nothing here is imported unless a shape is of that kind, and then its library is imported already.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from roomkey.errors import ConfigurationError, SessionDataError
from roomkey.shapes.annotations import plain_of, text_of
from roomkey.shapes.fields import DoesNotFit, Field, Shape, no_default

__all__ = ["shape_of_model", "shape_of_struct"]


def _failed(kind: type, name: str, error: Exception) -> SessionDataError:
    return SessionDataError(f"{kind.__qualname__}.{name} cannot be made plain data ({type(error).__name__})")


# --- pydantic ---------------------------------------------------------------------------------------------------------


def shape_of_model(kind: Any) -> Shape:
    """Return the fields of a pydantic model. Raises ConfigurationError."""
    fields = {}
    for name, info in kind.model_fields.items():
        if info.is_required():
            raise no_default(kind, name, f"`{name}: ... = Field(default_factory=...)`, or `... | None = None`")
        fields[name] = _field_of_model(kind, name, info)
    return Shape(kind, fields, bool(kind.model_config.get("frozen")), lambda values: kind.model_construct(**values))


def _field_of_model(kind: Any, name: str, info: Any) -> Field:
    from pydantic import TypeAdapter, ValidationError
    from pydantic_core import PydanticSerializationError

    annotation = info.annotation
    adapter: Any = TypeAdapter(_with_metadata(annotation, info.metadata))

    def read(value: Any) -> Any:
        # As in an assignment, for that runs the field's own validators.
        try:
            return getattr(kind.__pydantic_validator__.validate_assignment(kind.model_construct(), name, value), name)
        except ValidationError as error:
            if any(each["loc"][:1] == (name,) and "frozen" not in each["type"] for each in error.errors()):
                raise DoesNotFit from None
        try:  # what failed is no matter of this field: a validator of the whole model, or the model is frozen
            return adapter.validate_python(value)
        except ValidationError:
            raise DoesNotFit from None

    def write(value: Any) -> Any:
        try:
            return plain_of(adapter.dump_python(value, warnings=False))  # it leaves enumerations
        except PydanticSerializationError as error:
            raise _failed(kind, name, error) from None

    def default() -> Any:
        return info.get_default(call_default_factory=True, validated_data={})

    return Field(name, text_of(annotation), read, write, default)


def _with_metadata(annotation: Any, metadata: list[Any]) -> Any:
    from typing import Annotated

    return Annotated[(annotation, *metadata)] if metadata else annotation


# --- msgspec ----------------------------------------------------------------------------------------------------------


def shape_of_struct(kind: Any) -> Shape:
    """Return the fields of a msgspec Struct. Raises ConfigurationError."""
    import msgspec

    fields = {}
    try:
        found = msgspec.structs.fields(kind)
    except NameError as error:
        raise ConfigurationError(
            f"{kind.__qualname__}: an annotation names {error.name!r}, which is not in its module"
        ) from error
    for field in found:
        if field.required:
            instead = f"`{field.name}: ... = msgspec.field(default_factory=...)`, or `... | None = None`"
            raise no_default(kind, field.name, instead)
        fields[field.name] = _field_of_struct(kind, field)
    return Shape(kind, fields, bool(kind.__struct_config__.frozen), lambda values: kind(**values))


def _field_of_struct(kind: Any, field: Any) -> Field:
    import datetime as dt
    from decimal import Decimal
    from uuid import UUID

    import msgspec

    kept = (bytes, dt.datetime, dt.date, dt.time, dt.timedelta, Decimal, UUID)  # by a session as they are

    def read(value: Any) -> Any:
        try:
            return msgspec.convert(value, field.type, builtin_types=kept)
        except msgspec.ValidationError:
            raise DoesNotFit from None

    def write(value: Any) -> Any:
        try:
            return msgspec.to_builtins(value, builtin_types=kept)
        except (TypeError, ValueError) as error:
            raise _failed(kind, field.name, error) from None

    return Field(field.name, text_of(field.type), read, write, _default_of(field, msgspec.NODEFAULT))


def _default_of(field: Any, nothing: Any) -> Callable[[], Any]:
    if field.default_factory is not nothing:
        return field.default_factory  # type: ignore[no-any-return]
    return lambda: field.default
