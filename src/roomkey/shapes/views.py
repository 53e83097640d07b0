"""typed(): a session seen through a shape.

A view holds nothing of its own. Each attribute is a key of the session, and is read and assigned by the session's
methods. So the session notices it, and what two requests assign to different fields is merged as everywhere.

A value that a session does not hold as it is (a default, a nested model) is lent: the session's transaction looks at it
again before it saves (`roomkey.core.lent`).
"""

from __future__ import annotations

import copy
import dataclasses
import enum
import inspect
import sys
import types
from collections.abc import Callable, MutableMapping
from functools import lru_cache
from typing import Any, NoReturn, SupportsIndex, TypeVar, cast

from roomkey.core.lent import Lent
from roomkey.core.session import Session
from roomkey.errors import ConfigurationError, SessionDataError
from roomkey.events import Misfit
from roomkey.shapes.annotations import is_typed_dict, shape_of_dataclass, shape_of_typed_dict
from roomkey.shapes.fields import DoesNotFit, Field, Shape
from roomkey.shapes.libraries import shape_of_model, shape_of_struct
from roomkey.wire import codec

__all__ = ["change_field", "check_shape", "typed"]

T = TypeVar("T")
V = TypeVar("V")
_SESSION = "_roomkey_session"


def typed(session: MutableMapping[str, Any], shape: type[T]) -> T:
    """Return a session seen through a shape: a dataclass, a msgspec Struct, a TypedDict or a pydantic model.

    The attributes of what it returns are the session's keys: reading one reads the key, assigning one assigns it, and
    `del` takes it out. A key that is missing has the field's default. So does a key whose value does not fit the
    field: that is reported (`roomkey.events.Misfit`), and what is stored stays until the field is assigned. A list or
    a nested model may be changed in place.

    It is a view, and no instance that belongs to the handler: `copy.copy(view)` is one, as it is at that moment.
    With a TypedDict, it is the session itself, under that type.

    Args:
        session: the session, such as `session_of(request)`, `flask.session`, or Django's `request.session`.
        shape: the class. Each of its fields has a default, because an empty session has none of them.

    Raises:
        ConfigurationError: the shape is of no such kind, or a field has no default.
        TypeError: `session` is no session of Roomkey's.

    Example:
        >>> from dataclasses import dataclass, field
        >>> from starlette.requests import Request
        >>> from roomkey import session_of, typed
        >>> @dataclass
        ... class Visit:
        ...     user_id: int | None = None
        ...     cart: list[str] = field(default_factory=list)
        >>> async def add(request: Request) -> None:
        ...     visit = typed(session_of(request), Visit)
        ...     visit.cart.append("tea")
    """
    # Flask's and Quart's `session` stands for that of the request.
    session = getattr(session, "_get_current_object", lambda: session)()
    session = getattr(session, "_as_session", lambda: session)()  # Django's is around one
    if not isinstance(session, Session):
        raise TypeError(
            f"typed: got {type(session).__name__}; it takes the session of a request: typed(session_of(request), ...)"
        )
    view_class = _view_class(cast(Any, shape))
    if isinstance(view_class, Shape):
        _check_dict(session, view_class)
        return cast(T, session)
    view = object.__new__(view_class)
    object.__setattr__(view, _SESSION, session)
    return cast(T, view)


def change_field(view: object, name: str, function: Callable[[V], V]) -> V:
    """Read, modify and write one field of a view, so that no concurrent request can undo it.

    It is `Session.change` for a view: `change_field(visit, "pages", lambda pages: pages + 1)`.

    Args:
        view: what `typed` returned.
        name: the field. A field that is missing in the session has its default.
        function: takes the value, returns the new one. It may run again: it must have no effect but its result.

    Returns:
        The new value, as far as this request knows.

    Raises:
        TypeError: `view` is no view, or `function` returned None.
        AttributeError: the shape has no such field.
        SessionDataError: the new value does not fit the field.

    Example:
        >>> from roomkey import change_field, session_of, typed
        >>> from dataclasses import dataclass
        >>> from starlette.requests import Request
        >>> @dataclass
        ... class Visit:
        ...     pages: int = 0
        >>> async def page(request: Request) -> None:
        ...     change_field(typed(session_of(request), Visit), "pages", lambda pages: pages + 1)
    """
    session = getattr(view, _SESSION, None)
    if not isinstance(session, Session):
        raise TypeError(f"change_field: got {type(view).__name__}; it takes what typed() returned")
    shape: Shape = type(view)._roomkey_shape  # type: ignore[attr-defined]
    field = shape.fields.get(name)
    if field is None:
        raise AttributeError(f"{shape.kind.__qualname__} has no field {name!r}")
    _take_in_lent(session)

    def change(stored: Any) -> Any:
        value = field.default() if stored is _MISSING else _read_or_default(session, shape, field, stored)
        value = function(value)
        return None if value is None else _written(field, _fitting(shape, field, value))  # None: an error of `change`

    session.change(name, change, default=_MISSING)
    return cast(V, _get(session, shape, field))


def check_shape(shape: type) -> None:
    """Refuse a class that is no shape, or whose fields have no defaults. Raises ConfigurationError."""
    _view_class(shape)


class _Missing:
    """The default of a change: told apart from every value, also after it was copied."""

    def __copy__(self) -> _Missing:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> _Missing:
        return self


_MISSING = _Missing()


# --- fields -----------------------------------------------------------------------------------------------------------


def _get(session: Session, shape: Shape, field: Field) -> Any:
    name, lent = field.name, None if session._transaction is None else session._transaction.lent
    value = None if lent is None else lent.get(session, name)
    if value is not None:
        session.accessed = True
        return value
    if name not in session:
        return _lend(session, field, field.default())
    stored = session[name]
    value = _read_or_default(session, shape, field, stored)
    if value is stored or (codec.is_exact(value) and codec.is_same(value, stored)):
        # What the session holds, to be changed in place. An equal number may be of another type: an int, for a float.
        return value if type(value) in codec.IMMUTABLE else stored
    return _lend(session, field, value)


def _set(session: Session, shape: Shape, field: Field, value: Any) -> None:
    _drop(session, field.name)
    value = _fitting(shape, field, value)
    plain = _written(field, value)
    session[field.name] = plain
    if plain is not value:
        _lend(session, field, value)


def _delete(session: Session, field: Field) -> None:
    _drop(session, field.name)
    if field.name in session:
        del session[field.name]


def _read_or_default(session: Session, shape: Shape, field: Field, stored: Any) -> Any:
    try:
        return field.read(stored)
    except DoesNotFit:
        _report(session, shape, field)
        return field.default()


def _fitting(shape: Shape, field: Field, value: Any) -> Any:
    """Return a value as the field has it. It is the same object, where nothing has to be converted."""
    try:
        read = field.read(value)
    except DoesNotFit:
        raise SessionDataError(
            f"{shape.kind.__qualname__}.{field.name} got a value of type {type(value).__name__} that does not fit; it "
            f"takes {field.takes}"
        ) from None
    return value if codec.is_exact(value) and codec.is_same(read, value) and codec.is_exact(read) else read


def _written(field: Field, value: Any) -> Any:
    return value if codec.is_exact(value) else field.write(value)


def _lend(session: Session, field: Field, value: Any) -> Any:
    """Return a value that the session does not hold. If it is changed in place, the session takes it in."""
    session.accessed = True
    if type(value) not in codec.IMMUTABLE and not isinstance(value, enum.Enum):
        _lent_of(session).add(session, field.name, value, lambda value: _written(field, value))
        session._shared = True
    return value


def _lent_of(session: Session) -> Lent:
    transaction = session._attached()
    if transaction.lent is None:
        transaction.lent = Lent()
    return transaction.lent


def _drop(session: Session, name: str) -> None:
    if session._transaction is not None and session._transaction.lent is not None:
        session._transaction.lent.drop(name)


def _take_in_lent(session: Session) -> None:
    if session._transaction is not None and session._transaction.lent is not None:
        session._transaction.lent.take_in(session)


def _report(session: Session, shape: Shape, field: Field) -> None:
    told, what = _lent_of(session).told, (shape.kind, field.name)
    if what not in told and session._origin is not None:
        told.add(what)
        session._origin.report_misfit(Misfit(session.handle, shape.kind.__qualname__, field.name))


def _check_dict(session: Session, shape: Shape) -> None:
    """Report what does not fit a TypedDict. It is served as it is: a TypedDict has no defaults."""
    for name, field in shape.fields.items():
        if dict.__contains__(session, name):
            try:
                field.read(dict.__getitem__(session, name))
            except DoesNotFit:
                _report(session, shape, field)


# --- views ------------------------------------------------------------------------------------------------------------


class _Attribute:
    """One field, as the attribute of a view."""

    __slots__ = ("_field", "_shape")

    def __init__(self, shape: Shape, field: Field) -> None:
        self._shape, self._field = shape, field

    def __get__(self, view: Any, owner: type | None = None) -> Any:
        return self if view is None else _get(getattr(view, _SESSION), self._shape, self._field)

    def __set__(self, view: Any, value: Any) -> None:
        _set(getattr(view, _SESSION), self._shape, self._field, value)

    def __delete__(self, view: Any) -> None:
        _delete(getattr(view, _SESSION), self._field)


class _View:
    """What all views have."""

    __slots__ = ()
    _roomkey_shape: Shape

    def __setattr__(self, name: str, value: Any) -> None:
        self._settable(name).__set__(self, value)

    def __delattr__(self, name: str) -> None:
        self._settable(name).__delete__(self)

    def _settable(self, name: str) -> Any:
        """Return what assigns an attribute: a field, or a property of the class."""
        kind, attribute = self._roomkey_shape.kind, inspect.getattr_static(type(self), name, None)
        if attribute is None:
            attribute = inspect.getattr_static(kind, name, None)
        if not isinstance(attribute, _Attribute | property):
            raise AttributeError(f"{kind.__qualname__} has no field {name!r}")
        if self._roomkey_shape.is_frozen:
            raise AttributeError(f"{kind.__qualname__} is frozen: {name!r} cannot be assigned")
        return attribute

    def __copy__(self) -> Any:
        """Return an instance of the class: plain, and not connected with the session."""
        return self._roomkey_shape.make(
            {name: copy.deepcopy(getattr(self, name)) for name in self._roomkey_shape.fields}
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self.__copy__()

    def __eq__(self, other: object) -> bool:
        return bool(copy.copy(self) == (copy.copy(other) if isinstance(other, _View) else other))

    __hash__ = None  # type: ignore[assignment]

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return self._roomkey_shape.kind

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError("a view of a session cannot be pickled; pickle copy.copy(view) instead")

    def __repr__(self) -> str:
        # Session data does not belong into logs.
        return f"{self._roomkey_shape.kind.__qualname__}(a view of the session, not shown here)"

    __str__ = __repr__


class _StandIn(_View):
    """A view of a class that keeps the values of its instances where no attribute is asked. It has its methods."""

    __slots__ = (_SESSION,)

    def __getattr__(self, name: str) -> Any:
        kind = self._roomkey_shape.kind
        attribute = inspect.getattr_static(kind, name)
        bind = getattr(type(attribute), "__get__", None)
        return attribute if bind is None else bind(attribute, self, kind)


def _values(view: _View) -> dict[str, Any]:
    return {name: getattr(view, name) for name in view._roomkey_shape.fields}


# Where pydantic looks when it dumps or compares a model.
_OF_MODELS = {
    "__dict__": property(_values),
    "__pydantic_fields_set__": property(lambda view: set(view._roomkey_shape.fields)),
    "__pydantic_extra__": None,
    "__pydantic_private__": None,
}


# --- shapes -----------------------------------------------------------------------------------------------------------


def _is_of(kind: type, module: str, name: str) -> bool:
    """Whether a class is a subclass of another library's. If that was never imported, it is not."""
    base = getattr(sys.modules.get(module), name, None)
    return base is not None and issubclass(kind, base)


def _shape(kind: type) -> Shape:
    if _is_of(kind, "pydantic", "BaseModel"):
        return shape_of_model(kind)
    if _is_of(kind, "msgspec", "Struct"):
        return shape_of_struct(kind)
    if dataclasses.is_dataclass(kind):
        return shape_of_dataclass(kind)
    if is_typed_dict(kind):
        return shape_of_typed_dict(kind)
    raise ConfigurationError(
        f"typed: got the class {kind.__qualname__}; a shape is a dataclass, a msgspec Struct, a TypedDict or a "
        "pydantic model"
    )


@lru_cache(maxsize=1000)
def _view_class(kind: Any) -> Any:
    """Return the class of the views of a shape; a `Shape` itself, where the session is its own view."""
    if not isinstance(kind, type):
        raise ConfigurationError(f"typed: got {kind!r}; a shape is a class")
    shape = _shape(kind)
    if is_typed_dict(kind):
        return shape
    members: dict[str, Any] = {name: _Attribute(shape, field) for name, field in shape.fields.items()}
    members |= {"_roomkey_shape": shape, "__module__": kind.__module__, "__qualname__": kind.__qualname__}
    if not dataclasses.is_dataclass(kind):
        if _is_of(kind, "pydantic", "BaseModel"):
            members |= _OF_MODELS
        return type(kind.__name__, (_StandIn,), {"__slots__": (), **members})
    # A real subclass: that is what `dataclasses.asdict`, FastAPI and others take for a dataclass.
    return types.new_class(
        kind.__name__, (_View, kind), {}, lambda body: body.update({"__slots__": (_SESSION,), **members})
    )
