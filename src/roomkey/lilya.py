"""Lilya: `request.session`, `request.set_session` and `request.clear_session` made to mean Roomkey's session.

The middleware is the usual one. Lilya (0.29) and Ravyn hand a handler a *copy* of the scope. `set_session` and
`clear_session` assign `scope["session"]`, which so never reaches a middleware, and `request.session` reads it there, so
that nobody learns that the session was used. Importing this module mends the three. Other libraries' sessions are
treated as before.
"""

from __future__ import annotations

try:
    from lilya._internal._connection import Connection
except ImportError as error:
    raise ImportError("roomkey.lilya needs Lilya: pip install 'roomkey[lilya]'") from error

from roomkey.config import SessionConfig
from roomkey.web.connections import follow
from roomkey.web.middleware import SessionMiddleware

__all__ = ["SessionConfig", "SessionMiddleware"]

follow(Connection, __name__)
