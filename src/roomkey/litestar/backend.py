"""What Litestar's other parts look for: a configuration, a backend and a middleware, as subclasses of Litestar's.

`FlashPlugin`, `SessionAuth`, the test clients and `litestar sessions` find these. All that the middleware does is
Roomkey's `SessionMiddleware`.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Any, cast

from litestar.connection import ASGIConnection
from litestar.middleware import DefineMiddleware
from litestar.middleware.session import SessionMiddleware as LitestarMiddleware
from litestar.middleware.session.base import BaseSessionBackend
from litestar.middleware.session.server_side import ServerSideSessionBackend, ServerSideSessionConfig
from litestar.security.session_auth import SessionAuthMiddleware
from litestar.types import ASGIApp, Empty, Message, Receive, Scope, ScopeSession, Send

from roomkey.core.session import Session
from roomkey.errors import ConfigurationError
from roomkey.manager import SessionManager
from roomkey.request import Request
from roomkey.web.contents import content_of
from roomkey.web.middleware import SessionMiddleware

__all__ = ["BackendConfig"]


class BackendConfig(ServerSideSessionConfig):
    """What Litestar's other parts ask of the configuration of sessions. Roomkey's own is the manager's.

    Args:
        manager: the app's session manager.
        exclude_opt_key: routes with this in their `opt` have no session.
    """

    def __init__(self, manager: SessionManager, exclude_opt_key: str) -> None:
        config = manager.config
        super().__init__(
            key=config.session_cookie,
            max_age=ceil(config.idle_timeout),
            path=config.path,
            domain=config.domain,
            secure=config.https_only is True,
            samesite=config.same_site,
            exclude_opt_key=exclude_opt_key,
        )
        self.manager = manager

    @property
    def middleware(self) -> DefineMiddleware:
        return DefineMiddleware(_Middleware, backend=_Backend(self))

    def get_store_from_app(self, app: object) -> Any:
        """Return what `litestar sessions clear` takes for the store."""
        return _Everybody(self.manager)


class _Everybody:
    """All sessions in the store.

    Args:
        manager: the app's session manager.
    """

    def __init__(self, manager: SessionManager) -> None:
        self._manager = manager

    async def delete_all(self) -> None:
        """End the sessions of everybody."""
        async with self._manager:
            await self._manager.sessions.end_all()


class _Backend(ServerSideSessionBackend):
    """Loads and saves sessions for Litestar's test clients, which have no request, and ends them for its command."""

    config: BackendConfig

    def get_session_id(self, connection: ASGIConnection[Any, Any, Any, Any]) -> str:
        return connection.get_session_id() or ""

    async def load_from_connection(self, connection: ASGIConnection[Any, Any, Any, Any]) -> dict[str, Any]:
        """Return a copy of the session of a client's cookies."""
        return (await self._load(connection)).copy()

    async def store_in_message(
        self, scope_session: ScopeSession, message: Message, connection: ASGIConnection[Any, Any, Any, Any]
    ) -> None:
        """Put new content into the session of a client's cookies, save it, and write its cookie into a response."""
        manager, session = self.config.manager, await self._load(connection)
        content = {} if scope_session in (None, Empty) else content_of(scope_session)
        session._set_content(cast("Mapping[str, Any]", content))
        headers = cast("list[tuple[bytes, bytes]]", cast("dict[str, Any]", message)["headers"])
        headers[:] = await manager.commit(session, headers=list(headers), raw=True)

    async def _load(self, connection: ASGIConnection[Any, Any, Any, Any]) -> Session:
        header = self.config.manager.config.card_header
        if header is not None:
            raise ConfigurationError(
                f"session_config: with card_header={header!r} the test client's set_session_data and get_session_data "
                "find no session, for they go by cookies; take roomkey.testing.client_session"
            )
        cookies = "; ".join(f"{name}={value}" for name, value in connection.cookies.items())
        return await self.config.manager.load(Request(path=self.config.path, headers=[("cookie", cookies)]))

    async def delete(self, session_id: str, store: object = None) -> None:
        """End the session that has this public name."""
        async with self.config.manager as manager:
            await manager.sessions.revoke(session_id)


BackendConfig._backend_class = _Backend


class _Middleware(LitestarMiddleware[Any]):
    """Roomkey's middleware, as a subclass of Litestar's: some of its parts look for that.

    Args:
        app: one route.
        backend: of the app's plugin.
    """

    def __init__(self, app: ASGIApp, backend: BaseSessionBackend[Any]) -> None:
        super().__init__(app, backend)
        config: BackendConfig = backend.config
        guard: Any = getattr(app, "app", None)
        if isinstance(guard, SessionAuthMiddleware):  # then it is not the app's route, but what `SessionAuth` made
            cast(Any, app).app = _Authentication(guard)
        self._sessions: Any = SessionMiddleware(cast(Any, app), config.manager)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._sessions(scope, receive, send)


class _Authentication:
    """Litestar's authentication, which says by `Empty` in the scope that a session is to end.

    Elsewhere nobody can tell by it which session is meant: another library's, further inside, leaves it there too.

    Args:
        app: the middleware of a `SessionAuth` with Roomkey's backend.
    """

    def __init__(self, app: SessionAuthMiddleware) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        session = scope.get("session")
        try:
            await self.app(scope, receive, send)
        except Exception:
            if isinstance(session, Session) and scope.get("session") is Empty:
                scope["session"] = session
                session.clear()
            raise
