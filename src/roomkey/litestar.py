"""Litestar: `request.session`, `request.set_session` and `request.clear_session` made to mean Roomkey's session.

The middleware is the usual one. Litestar (2.25) has these three read and assign `scope["session"]`. There, a middleware
cannot tell that a handler asked for the session, nor whether what stands in its place is its new content or the session
of another middleware. Importing this module mends the three. Other libraries' sessions are treated as before.
"""

from __future__ import annotations

try:
    from litestar.connection import ASGIConnection
    from litestar.types import Empty
except ImportError as error:
    raise ImportError("roomkey.litestar needs Litestar: pip install litestar") from error

from roomkey.config import SessionConfig
from roomkey.web.connections import follow
from roomkey.web.middleware import SessionMiddleware

__all__ = ["SessionConfig", "SessionMiddleware"]

follow(ASGIConnection, __name__, nothing=(None, Empty))
