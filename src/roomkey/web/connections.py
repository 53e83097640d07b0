"""What a framework's connection says about the session: `session`, `set_session` and `clear_session`.

`roomkey.<framework>` modules have these three mean Roomkey's session where there is one. They do for Lilya, Ravyn and
Litestar, whose own do no more than read and assign `scope["session"]`: nobody could tell that a handler asked for the
session, and what is assigned there may be the session of any other middleware. With another library's session they do
what they did before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from roomkey.core.session import Session

__all__ = ["follow"]

_DONE = "_roomkey"


def follow(connection: Any, module: str, *, nothing: tuple[object, ...] = (None,)) -> None:
    """Have a class of connections mean Roomkey's session.

    Args:
        connection: the class. It has a `scope`.
        module: of Roomkey's, for the error.
        nothing: what `set_session` takes for no session at all.

    Raises:
        ImportError: the class has not what is to be changed.
    """
    wanted = ("session", "set_session", "clear_session")
    for name in wanted:
        if not hasattr(connection, name):
            raise ImportError(
                f"this framework has no {connection.__name__}.{name}, which {module} mends; please report its version"
            )
    if hasattr(connection, _DONE):
        return
    session_of, set_session, clear_session = (vars(connection)[name] for name in wanted)

    def session(self: Any) -> Any:
        found = session_of.__get__(self, type(self))
        if isinstance(found, Session):
            found.mark_accessed()
        return found

    def set_content(self: Any, value: Any) -> None:
        found = self.scope.get("session")
        if not isinstance(found, Session):
            set_session(self, value)
        elif any(value is each for each in nothing):
            found.clear()
        elif isinstance(value, Mapping):
            found._set_content(value)
        else:
            raise TypeError(f"set_session: got {type(value).__name__}; it takes a dict, or None to log out")

    def clear(self: Any) -> None:
        found = self.scope.get("session")
        if isinstance(found, Session):
            found.clear()
        else:
            clear_session(self)

    session.__doc__ = session_of.__doc__
    connection.session, connection.set_session, connection.clear_session = property(session), set_content, clear
    setattr(connection, _DONE, True)
