"""Lilya: `request.set_session` and `request.clear_session` made to work. The middleware is the usual one.

Lilya (0.29) and Ravyn hand a handler a *copy* of the scope. These two methods assign `scope["session"]`, which so never
reaches a middleware. Importing this module makes them change Roomkey's session in place. Other libraries' sessions are
treated as before.
"""

from __future__ import annotations

from typing import Any

try:
    from lilya._internal._connection import Connection
except ImportError as error:
    raise ImportError("roomkey.lilya needs Lilya: pip install 'roomkey[lilya]'") from error

from roomkey.config import SessionConfig
from roomkey.core.session import Session
from roomkey.web.middleware import SessionMiddleware

__all__ = ["SessionConfig", "SessionMiddleware"]

for _name in ("set_session", "clear_session"):
    if not callable(getattr(Connection, _name, None)):
        raise ImportError(f"this Lilya has no Connection.{_name}, which roomkey.lilya mends; please report its version")

_set_session = Connection.set_session
_clear_session = Connection.clear_session


def _set(connection: Connection, value: Any) -> None:
    session = connection.scope.get("session")
    if not isinstance(session, Session):
        _set_session(connection, value)
        return
    session._set_content(dict(value or {}))


def _clear(connection: Connection) -> None:
    if isinstance(connection.scope.get("session"), Session):
        _set(connection, None)
    else:
        _clear_session(connection)


if not hasattr(Connection, "_roomkey"):
    Connection._roomkey = True
    Connection.set_session = _set
    Connection.clear_session = _clear
