"""Litestar: a plugin in the place of Litestar's own sessions, and `request.session` made to mean Roomkey's session.

`RoomkeyPlugin` puts a middleware where Litestar's own session middleware stands. It is a subclass of that, and so
`FlashPlugin`, `SessionAuth`, the test clients and `litestar sessions` find it. All that it does is Roomkey's
`SessionMiddleware`, which can also be used alone.

Litestar (2.25) has `request.session`, `request.set_session` and `request.clear_session` read and assign
`scope["session"]`. There, a middleware cannot tell that a handler asked for the session, nor whether what stands in its
place is its new content or the session of another middleware. Importing this module mends the three, and has
`request.get_session_id` give the public name. Other libraries' sessions are treated as before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from copy import copy
from math import ceil
from typing import Any, Unpack, cast

try:
    from litestar.config.app import AppConfig
    from litestar.connection import ASGIConnection
    from litestar.di import Provide
    from litestar.exceptions import HTTPException, WebSocketException
    from litestar.middleware import DefineMiddleware
    from litestar.middleware.session import SessionMiddleware as LitestarMiddleware
    from litestar.middleware.session.base import BaseBackendConfig, BaseSessionBackend
    from litestar.middleware.session.server_side import ServerSideSessionBackend, ServerSideSessionConfig
    from litestar.openapi.config import OpenAPIConfig
    from litestar.openapi.spec import Components, SecurityScheme
    from litestar.plugins import InitPlugin
    from litestar.plugins.base import ReceiveRoutePlugin
    from litestar.routes import BaseRoute
    from litestar.security.session_auth import SessionAuthMiddleware
    from litestar.types import ASGIApp, Empty, Message, Receive, Scope, ScopeSession, Send
    from litestar.typing import FieldDefinition
except ImportError as error:
    raise ImportError("roomkey.litestar needs Litestar 2.15 or later: pip install 'roomkey[litestar]'") from error

from roomkey.config import SessionConfig, SessionOptions
from roomkey.core.session import Session
from roomkey.errors import ConfigurationError, StoreUnavailable
from roomkey.litestar_typed import FromSession, from_session
from roomkey.manager import SessionManager
from roomkey.request import Request
from roomkey.web.connections import follow, session_of
from roomkey.web.contents import content_of
from roomkey.web.middleware import SessionMiddleware

__all__ = ["FromSession", "RoomkeyPlugin", "SessionConfig", "SessionMiddleware", "from_session"]

_SCHEME = "sessionCookie"  # what the OpenAPI document calls the cookie, also where Litestar's SessionAuth names it
_CATCH_ALL = (Exception, BaseException, object)  # whoever handles these makes an error page


class RoomkeyPlugin(InitPlugin, ReceiveRoutePlugin):
    """Gives every route of a Litestar app its session: `Litestar([...], plugins=[RoomkeyPlugin(SessionConfig(...))])`.

    The store opens and closes with the app. Handlers that have an argument `session: Session` get the session, and so
    do dependencies. An error that nobody handles saves nothing.

    Put it before Litestar's `FlashPlugin`.

    Args:
        config: the configuration, or a `SessionManager` that others use too; or give the options of a configuration by
            keyword, under the names of `SessionConfig`.
        exclude_opt_key: routes with this in their `opt` have no session: `@get("/", skip_session=True)`.
        dependency_key: the name of the argument that is the session; None: there is none.

    Attributes:
        manager: the app's session manager.
        backend_config: what Litestar's `SessionAuth` takes as its `session_backend_config`, and its test clients as
            their `session_config`.

    Raises:
        ConfigurationError: an option is wrong, unknown or missing, or both a config and options were given.

    Example:
        >>> from litestar import Litestar, post
        >>> from roomkey import Session, SessionConfig
        >>> from roomkey.litestar import RoomkeyPlugin
        >>> @post("/cart/{item:str}")
        ... async def add(item: str, session: Session) -> list[str]:
        ...     session.setdefault("cart", []).append(item)
        ...     return session["cart"]
        >>> app = Litestar([add], plugins=[RoomkeyPlugin(SessionConfig(secret_key="k" * 32, store="memory://"))])
    """

    def __init__(
        self,
        config: SessionConfig | SessionManager | None = None,
        *,
        exclude_opt_key: str = "skip_session",
        dependency_key: str | None = "session",
        **options: Unpack[SessionOptions],
    ) -> None:
        if not isinstance(config, SessionManager):
            config = SessionManager(config, **options)
        elif options:
            raise ConfigurationError(f"give a manager or options, not both (got a manager and {', '.join(options)})")
        self.manager: SessionManager = config
        self.backend_config: BaseBackendConfig[Any] = _BackendConfig(config, exclude_opt_key)
        self._key = dependency_key
        self._provide = Provide(self._session_of, sync_to_thread=False)

    def on_app_init(self, app_config: AppConfig) -> AppConfig:
        """Add what an app needs to its configuration. Litestar calls it.

        Raises:
            ConfigurationError: Litestar's own sessions have the same cookie.
        """
        self._check_others(app_config.middleware)
        app_config.middleware.insert(0, self.backend_config.middleware)
        app_config.lifespan.insert(0, lambda _: self.manager)  # open before whatever may use sessions as it starts
        app_config.after_exception.append(self._note_failure)
        if self._key is not None:
            app_config.dependencies.setdefault(self._key, self._provide)
        if app_config.openapi_config is not None:
            app_config.openapi_config = _with_scheme(app_config.openapi_config, self.backend_config.key)
        return app_config

    def receive_route(self, route: BaseRoute) -> None:
        """Look at a route that is added to the app. Litestar calls it.

        Raises:
            ConfigurationError: the type of an argument would have Litestar copy the session.
        """
        handlers = getattr(route, "route_handlers", None) or [getattr(route, "route_handler", None)]
        for handler in filter(None, handlers):
            dependencies = handler.resolve_dependencies()
            if dependencies.get(self._key) is not self._provide:
                continue
            for callee in (handler, *dependencies.values()):
                argument = callee.parsed_fn_signature.parameters.get(self._key)
                if callee is not self._provide and argument is not None and not _keeps_identity(argument):
                    raise ConfigurationError(
                        f"the route {route.path}: the argument {self._key!r} is a {argument.raw!r}: annotate it as "
                        "roomkey.Session, for Litestar copies the session into any other type, and changes of it would "
                        "be lost"
                    )

    def _session_of(self, scope: Scope) -> Session:
        if "session" not in scope:
            raise ConfigurationError(
                f"{self._key}: this route has no session: take {self.backend_config.exclude_opt_key} out of its "
                "options, or the argument out of its handler"
            )
        return session_of(scope)

    async def _note_failure(self, error: Exception, scope: Scope) -> None:
        """Have a request with an error that nobody handles save nothing: Litestar makes its response inside."""
        session = scope.get("session")
        if isinstance(session, Session) and not _is_handled(error, scope):
            with suppress(ConfigurationError):  # a middleware around the app has loaded it, with a manager of its own
                self.manager.abandon(session)

    def _check_others(self, middleware: Iterable[object]) -> None:
        for each in middleware:
            options = each.kwargs if isinstance(each, DefineMiddleware) else {}
            config = getattr(options.get("backend"), "config", None) or getattr(
                options.get("config"), "session_backend_config", None
            )
            if (
                isinstance(config, BaseBackendConfig)
                and not isinstance(config, _BackendConfig)
                and config.key == self.backend_config.key
            ):
                raise ConfigurationError(
                    f"session_cookie: Litestar's own sessions have the cookie {config.key!r} too: take their "
                    f"{type(config).__name__} out, or give it another key; SessionAuth takes "
                    "session_backend_config=plugin.backend_config"
                )


# --- what Litestar's other parts look for -----------------------------------------------------------------------------


class _BackendConfig(ServerSideSessionConfig):
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

    config: _BackendConfig

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
        cookies = "; ".join(f"{name}={value}" for name, value in connection.cookies.items())
        return await self.config.manager.load(Request(path=self.config.path, headers=[("cookie", cookies)]))

    async def delete(self, session_id: str, store: object = None) -> None:
        """End the session that has this public name."""
        async with self.config.manager as manager:
            await manager.sessions.revoke(session_id)


_BackendConfig._backend_class = _Backend


class _Middleware(LitestarMiddleware[Any]):
    """Roomkey's middleware, as a subclass of Litestar's: some of its parts look for that.

    Args:
        app: one route.
        backend: of the app's plugin.
    """

    def __init__(self, app: ASGIApp, backend: BaseSessionBackend[Any]) -> None:
        super().__init__(app, backend)
        config: _BackendConfig = backend.config
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


def _with_scheme(openapi: OpenAPIConfig, cookie: str) -> OpenAPIConfig:
    """Return a configuration of the OpenAPI document that names the cookie. The one that is given may be shared."""
    scheme = SecurityScheme(
        type="apiKey",
        name=cookie,
        security_scheme_in="cookie",
        description="The session cookie. A log-in sets it, and the browser sends it by itself.",
    )
    given = openapi.components
    openapi = copy(openapi)
    openapi.components = [
        *(given if isinstance(given, list) else [given]),
        Components(security_schemes={_SCHEME: scheme}),
    ]
    return openapi


def _keeps_identity(argument: FieldDefinition) -> bool:
    """Whether Litestar hands a session on to this argument as it is."""
    if getattr(argument.kwarg_definition, "skip_validation", False) or argument.is_any:
        return True
    if argument.is_union:
        return any(_keeps_identity(each) for each in argument.inner_types)
    return isinstance(argument.annotation, type) and issubclass(argument.annotation, Session)


def _is_handled(error: Exception, scope: Scope) -> bool:
    """Whether the app, or Litestar by its design, makes a response of this error that is no error page."""
    if isinstance(error, HTTPException | WebSocketException):
        return True
    if StoreUnavailable.within(error) is not None:
        return True  # the middleware makes a 503 of it
    handlers = scope["route_handler"].resolve_exception_handlers()
    return any(kind in handlers for kind in type(error).__mro__ if kind not in _CATCH_ALL)


# --- the connections --------------------------------------------------------------------------------------------------


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
    __name__,
    nothing=(None, Empty),
    content_of=content_of,
    takes="a dict, a dataclass, a Struct, a pydantic model or an attrs class",
):
    _name_sessions()
