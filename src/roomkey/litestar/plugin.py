"""RoomkeyPlugin: gives every route of an app its session, and says so in the OpenAPI document."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from copy import copy
from typing import Any, Unpack, cast

from litestar.config.app import AppConfig
from litestar.di import Provide
from litestar.exceptions import HTTPException, WebSocketException
from litestar.middleware import DefineMiddleware
from litestar.middleware.session.base import BaseBackendConfig
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.spec import Components, SecurityScheme
from litestar.plugins import InitPlugin
from litestar.plugins.base import ReceiveRoutePlugin
from litestar.routes import BaseRoute
from litestar.types import Scope
from litestar.typing import FieldDefinition

from roomkey.config import SessionConfig, SessionOptions
from roomkey.core.session import Session
from roomkey.errors import ConfigurationError, StoreUnavailable
from roomkey.litestar.backend import BackendConfig
from roomkey.manager import SessionManager
from roomkey.web.connections import session_of
from roomkey.web.managers import manager_of

__all__ = ["RoomkeyPlugin"]

_SCHEME = "sessionCookie"  # what the OpenAPI document calls it, also where Litestar's SessionAuth names it
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
        self.manager: SessionManager = manager_of(config, options)
        self.backend_config: BaseBackendConfig[Any] = BackendConfig(self.manager, exclude_opt_key)
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
            app_config.openapi_config = _with_scheme(app_config.openapi_config, *self.manager.config.carrier)
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
                and not isinstance(config, BackendConfig)
                and config.key == self.backend_config.key
            ):
                raise ConfigurationError(
                    f"session_cookie: Litestar's own sessions have the cookie {config.key!r} too: take their "
                    f"{type(config).__name__} out, or give it another key; SessionAuth takes "
                    "session_backend_config=plugin.backend_config"
                )


def _with_scheme(openapi: OpenAPIConfig, carrier: str, name: str) -> OpenAPIConfig:
    """Return a configuration of the OpenAPI document that names what has the card. The one given may be shared."""
    about = "The session's card. The response of a log-in hands it out in a header."
    if carrier == "cookie":
        about = "The session cookie. A log-in sets it, and the browser sends it by itself."
    scheme = SecurityScheme(type="apiKey", name=name, security_scheme_in=cast(Any, carrier), description=about)
    if (carrier, name) == ("header", "authorization"):
        scheme = SecurityScheme(type="http", scheme="bearer", description=about)
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
