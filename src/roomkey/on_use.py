"""A session that is loaded when it is first used: of a request that mostly needs none, for a static file say.

Only a framework whose handlers may wait can have such a session: to read a key may ask the store.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from roomkey.core.session import Session
from roomkey.core.transaction import Transaction
from roomkey.routes import members_for

__all__ = ["is_loaded", "load_now", "unloaded"]

_S = TypeVar("_S", bound=Session)
_LOAD = "_load_session"  # what loads it, as long as it is not loaded


def unloaded(session_class: type[_S]) -> Callable[[Callable[[], _S]], _S]:
    """Return what makes sessions that are not loaded yet. It is given what loads one, which may raise.

    Args:
        session_class: a subclass of `Session` with a `__dict__`.
    """

    def use(name: str) -> Callable[..., Any]:
        def used(session: Any, *values: Any, **more: Any) -> Any:
            load_now(session)
            return getattr(session, name)(*values, **more)

        return used

    def attribute(name: str) -> property:
        def get(session: Any) -> Any:
            load_now(session)
            return getattr(session, name)

        def put(session: Any, value: Any) -> None:
            load_now(session)
            setattr(session, name, value)

        return property(get, put)

    members = members_for(session_class, use, attribute)
    members["__repr__"] = lambda _: f"{session_class.__name__}(not loaded)"
    kind = type(session_class.__name__, (session_class,), members)

    def make(load: Callable[[], _S]) -> _S:
        session: _S = kind()
        session.__dict__[_LOAD] = load
        return session

    return make


def load_now(session: Session) -> None:
    """Load a session that `unloaded` has made, in place. Any other is left alone. Raises what loading it raises."""
    load: Callable[[], Session] | None = session.__dict__.get(_LOAD)
    if load is None:
        return
    found, is_accessed = load(), session._accessed
    del session.__dict__[_LOAD]
    session.__class__ = type(found)
    dict.update(session, dict.items(found))
    for kind in type(found).__mro__:
        for slot in kind.__dict__.get("__slots__", ()):
            if slot != "__weakref__" and hasattr(found, slot):  # one is there only where sessions are kept near
                setattr(session, slot, getattr(found, slot))
    session.__dict__.update(found.__dict__)
    session._accessed = session._accessed or is_accessed
    if isinstance(session._transaction, Transaction):
        session._transaction.session = session


def is_loaded(session: Session) -> bool:
    """Whether a session is loaded."""
    return _LOAD not in session.__dict__
