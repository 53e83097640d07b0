"""Litestar: a plugin in the place of Litestar's own sessions, and `request.session` made to mean Roomkey's session.

    app = Litestar([...], plugins=[RoomkeyPlugin(SessionConfig(secret_key=..., store="sqlite:///sessions.sqlite3"))])

`RoomkeyPlugin` puts a middleware where Litestar's own session middleware stands. It does the same as Roomkey's
`SessionMiddleware`, which can also be used alone.

connections  `request.session` and its kin: importing it mends them
backend      what Litestar's other parts look for
plugin       RoomkeyPlugin
typed        typed sessions, by dependency injection
guards       who may pass
"""

from __future__ import annotations

try:
    from litestar.plugins.base import ReceiveRoutePlugin  # noqa: F401  # new in 2.15
except ImportError as _error:
    raise ImportError("roomkey.litestar needs Litestar 2.15 or later: pip install 'roomkey[litestar]'") from _error

from roomkey.config import SessionConfig
from roomkey.litestar import connections  # noqa: F401  # it mends them
from roomkey.litestar.guards import require_level, require_login, require_recent
from roomkey.litestar.plugin import RoomkeyPlugin
from roomkey.litestar.typed import FromSession, from_session
from roomkey.web.middleware import SessionMiddleware

__all__ = [
    "FromSession",
    "RoomkeyPlugin",
    "SessionConfig",
    "SessionMiddleware",
    "from_session",
    "require_level",
    "require_login",
    "require_recent",
]
