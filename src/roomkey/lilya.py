"""Lilya: `request.session`, `request.set_session` and `request.clear_session` made to mean Roomkey's session.

The middleware is the usual one. Lilya (0.29) and Ravyn hand a handler a *copy* of the scope. `set_session` and
`clear_session` assign `scope["session"]`, which so never reaches a middleware, and `request.session` reads it there, so
that nobody learns that the session was used. Importing this module mends the three. Other libraries' sessions are
treated as before.

Beside that, it has guards and typed sessions for Lilya's permissions and dependencies.

Example:
    >>> from lilya.apps import Lilya
    >>> from lilya.middleware import DefineMiddleware
    >>> from lilya.routing import Path
    >>> from roomkey.lilya import SessionMiddleware, require_login
    >>> async def me(user: int) -> dict[str, int]:
    ...     return {"user": user}
    >>> app = Lilya(
    ...     routes=[Path("/me", me, dependencies={"user": require_login})],
    ...     middleware=[DefineMiddleware(SessionMiddleware, secret_key="k" * 32, store="memory://")],
    ... )
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

try:
    from lilya._internal._connection import Connection
    from lilya.dependencies import Provide
    from lilya.exceptions import HTTPException, WebSocketException
    from lilya.permissions import DefinePermission
except ImportError as _error:
    raise ImportError("roomkey.lilya needs Lilya: pip install 'roomkey[lilya]'") from _error

from roomkey.config import SessionConfig
from roomkey.core.nearby import ask_store
from roomkey.core.session import Session
from roomkey.options import Seconds
from roomkey.shapes.views import check_shape, typed
from roomkey.web.connections import HasScope, follow, session_of
from roomkey.web.guards import (
    POLICY_VIOLATION,
    DoesNotPass,
    Level,
    logged_in,
    proved_level,
    recently_logged_in,
    span_of,
)
from roomkey.web.middleware import SessionMiddleware

__all__ = ["FromSession", "SessionConfig", "SessionMiddleware", "require_level", "require_login", "require_recent"]

_App = Callable[[Any, Any, Any], Awaitable[None]]


class FromSession(Provide):  # type: ignore[misc]  # untyped here
    """Gives a handler the session, seen through a shape: `dependencies={"visit": FromSession(Visit)}`.

    The handler has `visit: Visit` then. `Visit` is a dataclass, a pydantic model, a msgspec Struct or a TypedDict.
    `roomkey.typed` says what the handler gets.

    Args:
        shape: the class.

    Raises:
        ConfigurationError: the class is no shape, or a field of it has no default. In a request: it went through no
            `SessionMiddleware`.
    """

    def __init__(self, shape: type) -> None:
        check_shape(shape)
        self._shape = shape
        super().__init__(self._view)

    def _view(self, request: Any) -> Any:
        return typed(session_of(request), self._shape)

    async def resolve(self, request: HasScope, dependencies_map: Mapping[str, Any]) -> Any:
        """Return the view. Lilya's own way would read the body of the request first."""
        return self._view(request)


class Guard(DefinePermission, Provide):  # type: ignore[misc]  # untyped here
    """Lets only some requests through. It is a permission, and also a dependency, which gives the user's ID.

    Args:
        check: returns the user's ID of a session, or raises DoesNotPass.
    """

    def __init__(self, check: Callable[[Session], Any]) -> None:
        self._check = check
        DefinePermission.__init__(self, self.around)
        Provide.__init__(self, self.user)

    def around(self, app: _App) -> _App:
        """Return an app that serves only those who pass: what Lilya asks of a permission."""

        async def guarded(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
            if scope["type"] in ("http", "websocket"):
                try:
                    await self._pass(scope)
                except WebSocketException as refusal:  # Lilya (0.29) makes an error of it that is raised here
                    await send({"type": "websocket.close", "code": refusal.code, "reason": refusal.reason})
                    return
            await app(scope, receive, send)

        return guarded

    async def user(self, request: Any) -> Any:
        """Return the user's ID. For Ravyn: `Inject(require_login.user)`."""
        return await self._pass(request.scope)

    async def resolve(self, request: HasScope, dependencies_map: Mapping[str, Any]) -> Any:
        """Return the user's ID. Lilya's own way would read the body of the request first."""
        return await self._pass(request.scope)

    async def _pass(self, scope: Mapping[str, Any]) -> Any:
        session = session_of(scope)
        await ask_store(session)
        try:
            return self._check(session)
        except DoesNotPass as refusal:
            if scope["type"] == "websocket":
                raise WebSocketException(POLICY_VIOLATION, refusal.why) from None
            raise HTTPException(status_code=refusal.status, detail=refusal.why, headers=refusal.headers) from None


require_login: Guard = Guard(lambda session: logged_in(session, "require_login"))
"""Lets only those through who are logged in: `permissions=[require_login]`.

Put it on a `Path`, an `Include`, a `Router` or the outermost app: Lilya (0.29) does not look at the permissions of an
app that is mounted in another one. As a dependency it gives the user's ID: `dependencies={"user": require_login}`, and
`user: int` in the handler. Anybody else gets a 401 with a `WWW-Authenticate` challenge. A WebSocket is closed with 1008
(policy violation) before it is accepted, which servers answer with 403.
"""


def require_recent(seconds: Seconds) -> Guard:
    """Return a guard that lets only those through whose log-in is recent: `permissions=[require_recent(300)]`.

    It is for a dangerous step, such as a change of the password (OWASP ASVS 7.5.1). A visitor who is not logged in gets
    the 401 of `require_login`. A user whose log-in is too long ago gets a 403, whose challenge has the `error` and the
    `max_age` of RFC 9470. Ask for the password then, and call `session.reauthenticated()`.

    Args:
        seconds: how long ago the log-in may be, in seconds or as a `timedelta`.

    Returns:
        A permission, and also a dependency, as `require_login` is.

    Raises:
        ValueError: `seconds` is no number above 0.
    """
    span = span_of(seconds)
    return Guard(lambda session: recently_logged_in(session, span, "require_recent"))


def require_level(level: int, *, within: Seconds | None = None) -> Guard:
    """Return a guard that lets only those through who have proved this level: `permissions=[require_level(2)]`.

    A visitor who is not logged in gets the 401 of `require_login`. A user who has proved less, or too long ago, gets a
    403, whose challenge has the `error`, the `acr_values` and the `max_age` of RFC 9470. Ask for the proof then, and
    call `session.reauthenticated(level=...)`.

    Args:
        level: how sure it has to be who the user is, from 1 to 9. A plain log-in is 1.
        within: how long ago a proof of that level may be, in seconds or as a `timedelta`. None: it counts until the
            log-out.

    Returns:
        A permission, and also a dependency, as `require_login` is.

    Raises:
        ValueError: `level` is no such number, or `within` none above 0.
    """
    needed = Level.of(level, within)
    return Guard(lambda session: proved_level(session, needed))


follow(Connection, __name__)
