"""The session of Litestar's connections: `request.session` and its kin made to mean Roomkey's.

Litestar (2.25) has `request.session`, `request.set_session` and `request.clear_session` read and assign
`scope["session"]`. There, a middleware cannot tell that a handler asked for the session, nor whether what stands in its
place is its new content or the session of another middleware. Importing this module mends the three, and has
`request.get_session_id` give the public name. Other libraries' sessions are treated as before.
"""

from __future__ import annotations

from typing import Any

from litestar.connection import ASGIConnection
from litestar.types import Empty

from roomkey.core.session import Session
from roomkey.web.connections import follow
from roomkey.web.contents import content_of


def _name_sessions() -> None:
    """Have `get_session_id` give the public name of Roomkey's session, and never its ID."""
    get_session_id = ASGIConnection.get_session_id

    def public_name(self: ASGIConnection[Any, Any, Any, Any]) -> str | None:
        """Return the public name of the session, which is `session.handle`; None: it is not saved yet."""
        found = self.scope.get("session")
        return (found.handle or None) if isinstance(found, Session) else get_session_id(self)

    ASGIConnection.get_session_id = public_name  # type: ignore[method-assign]


if follow(
    ASGIConnection,
    "roomkey.litestar",
    nothing=(None, Empty),
    content_of=content_of,
    takes="a dict, a dataclass, a Struct, a pydantic model or an attrs class",
):
    _name_sessions()
