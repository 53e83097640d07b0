"""Who may pass, as Litestar's guards: `guards=[require_login]` on a handler, a controller, a router or the app.

Example:
    >>> from litestar import Litestar, post
    >>> from roomkey.litestar import RoomkeyPlugin, SessionConfig, require_level
    >>> @post("/payments", guards=[require_level(2, within=900)])
    ... async def pay() -> None: ...
    >>> plugin = RoomkeyPlugin(SessionConfig(secret_key="k" * 32, store="memory://"))
    >>> app = Litestar([pay], plugins=[plugin])
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from litestar.connection import ASGIConnection, WebSocket
from litestar.exceptions import NotAuthorizedException, PermissionDeniedException, WebSocketException
from litestar.handlers.base import BaseRouteHandler

from roomkey.core.nearby import ask_store
from roomkey.core.session import Session
from roomkey.options import Seconds
from roomkey.web.connections import session_of
from roomkey.web.guards import (
    POLICY_VIOLATION,
    DoesNotPass,
    Level,
    logged_in,
    proved_level,
    recently_logged_in,
    span_of,
)

__all__ = ["require_level", "require_login", "require_recent"]

Connection = ASGIConnection[Any, Any, Any, Any]
Guard = Callable[[Connection, BaseRouteHandler], Awaitable[None]]


async def require_login(connection: Connection, _: BaseRouteHandler) -> None:
    """Let only those through who are logged in: `guards=[require_login]`.

    Anybody else gets a 401 with a `WWW-Authenticate` challenge. A WebSocket is closed with 1008 (policy violation)
    before it is accepted, which servers answer with 403.

    Raises:
        NotAuthorizedException: nobody is logged in.
        WebSocketException: the same, for a WebSocket.
        ConfigurationError: the request went through no middleware of Roomkey's, or `user_key` is None.
    """
    await _pass(connection, lambda session: logged_in(session, "require_login"))


def require_recent(seconds: Seconds) -> Guard:
    """Return a guard that lets only those through whose log-in is recent: `guards=[require_recent(300)]`.

    It is for a dangerous step, such as a change of the password (OWASP ASVS 7.5.1). A visitor who is not logged in gets
    the 401 of `require_login`. A user whose log-in is too long ago gets a 403, whose challenge has the `error` and the
    `max_age` of RFC 9470. Ask for the password then, and call `session.reauthenticated()`.

    Args:
        seconds: how long ago the log-in may be, in seconds or as a `timedelta`.

    Raises:
        ValueError: `seconds` is no number above 0.
    """
    span = span_of(seconds)

    async def recent_login(connection: Connection, _: BaseRouteHandler) -> None:
        await _pass(connection, lambda session: recently_logged_in(session, span, "require_recent"))

    return recent_login


def require_level(level: int, *, within: Seconds | None = None) -> Guard:
    """Return a guard that lets only those through who have proved this level: `guards=[require_level(2, within=900)]`.

    A visitor who is not logged in gets the 401 of `require_login`. A user who has proved less, or too long ago, gets a
    403, whose challenge has the `error`, the `acr_values` and the `max_age` of RFC 9470. Ask for the proof then, and
    call `session.reauthenticated(level=...)`.

    Args:
        level: how sure it has to be who the user is, from 1 to 9. A plain log-in is 1.
        within: how long ago a proof of that level may be, in seconds or as a `timedelta`. None: it counts until the
            log-out.

    Raises:
        ValueError: `level` is no such number, or `within` none above 0.
    """
    needed = Level.of(level, within)

    async def proved(connection: Connection, _: BaseRouteHandler) -> None:
        await _pass(connection, lambda session: proved_level(session, needed))

    return proved


async def _pass(connection: Connection, check: Callable[[Session], Any]) -> None:
    session = session_of(connection.scope)
    await ask_store(session)
    try:
        check(session)
    except DoesNotPass as refusal:
        if isinstance(connection, WebSocket):
            raise WebSocketException(detail=refusal.why, code=POLICY_VIOLATION) from None
        kind = NotAuthorizedException if refusal.status == 401 else PermissionDeniedException
        raise kind(detail=refusal.why, headers=refusal.headers) from None
