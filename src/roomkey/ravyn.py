"""Ravyn: `Ravyn(session_config=SessionConfig(secret_key="..."))` and the settings classes, as Ravyn documents them.

Ravyn (0.4.3) calls `model_dump()` on the configuration and hands the result to the `SessionMiddleware` that it finds in
`ravyn.middleware.sessions`. This module puts a subclass there that makes Roomkey's middleware when the options are
Roomkey's, and Lilya's, as before, when they are not. Should a later Ravyn look elsewhere, Lilya's middleware gets an
option that it does not know, and the app does not start. So no app ever runs with the wrong sessions.

Ravyn serves the lifespan in its router, where no middleware sees it. The store is opened and closed there.

Beside that, it has typed sessions for Ravyn's dependency injection, and guards as Ravyn's permissions. Ravyn takes
Lilya's permissions too, but it then runs a handler twice below an `Include` (0.4.3).

A settings class may annotate `session_config: SessionConfig = SessionConfig(...)`. `RavynSettings` has a property of
that name, which would win over the annotated field. It is replaced by a descriptor that gives way to the field.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

try:
    import ravyn.middleware.sessions as _sessions
    from ravyn import Inject, Injects, RavynSettings, Request
    from ravyn.permissions import BasePermission
except ImportError as _error:
    raise ImportError("roomkey.ravyn needs Ravyn: pip install 'roomkey[ravyn]'") from _error

from roomkey import lilya as lilya  # request.set_session and request.clear_session
from roomkey.config import SessionConfig as _SessionConfig
from roomkey.options import Seconds
from roomkey.shapes.views import check_shape, typed
from roomkey.web.connections import session_of
from roomkey.web.middleware import SessionMiddleware

__all__ = [
    "FromSession",
    "SessionConfig",
    "SessionMiddleware",
    "current_user",
    "injected",
    "require_level",
    "require_login",
    "require_recent",
]

_OPTION = "roomkey_config"


if TYPE_CHECKING:
    # Ravyn's parameters and settings are annotated with this class. At run time, anything with a `model_dump` will do.
    from ravyn.core.config.session import SessionConfig as _RavynSessionConfig
else:
    _RavynSessionConfig = object


class SessionConfig(_SessionConfig, _RavynSessionConfig):  # type: ignore[misc]  # untyped here
    """`roomkey.SessionConfig`, in the form that Ravyn's `session_config` takes.

    Its default of `https_only` is False, as Ravyn documents it.
    """

    if not TYPE_CHECKING:  # a type checker sees the options of the class above
        https_only = False  # the default, told apart from what an app gives

        def __init__(self, *given: Any, **options: Any) -> None:
            super().__init__(*given, **{"https_only": SessionConfig.https_only, **options})

    def model_dump(self, **_: Any) -> dict[str, Any]:
        """Return the options that Ravyn hands to its session middleware: this configuration, whole."""
        return {_OPTION: self}

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        # Settings classes are pydantic models: an instance is what it is, and is never built from parts.
        from pydantic_core import core_schema

        return core_schema.is_instance_schema(cls)


class FromSession(Inject):  # type: ignore[misc]  # untyped here
    """Gives a handler the session, seen through a shape: `dependencies={"visit": FromSession(Visit)}`.

    The handler has `visit: Visit = injected()` then. `Visit` is a dataclass, a pydantic model, a msgspec Struct or a
    TypedDict. `roomkey.typed` says what the handler gets.

    Args:
        shape: the class.

    Raises:
        ConfigurationError: the class is no shape, or a field of it has no default. In a request: Ravyn has no
            `session_config` of Roomkey's.

    Example:
        >>> from dataclasses import dataclass, field
        >>> from ravyn import Gateway, Ravyn, post
        >>> from roomkey.ravyn import FromSession, SessionConfig, injected
        >>> @dataclass
        ... class Visit:
        ...     cart: list[str] = field(default_factory=list)
        >>> @post("/cart/{item}", dependencies={"visit": FromSession(Visit)})
        ... async def add(item: str, visit: Visit = injected()) -> list[str]:
        ...     visit.cart.append(item)
        ...     return visit.cart
        >>> config = SessionConfig(secret_key="k" * 32, store="memory://")
        >>> app = Ravyn(routes=[Gateway(handler=add)], session_config=config)
    """

    def __init__(self, shape: type) -> None:
        check_shape(shape)

        def view(request: Request) -> Any:
            return typed(session_of(request), shape)

        super().__init__(view)


def injected() -> Any:
    """Return Ravyn's mark of an argument that a dependency gives, as it is: `Injects(skip_validation=True)`.

    Ravyn would make a copy of a view. A type checker takes it as the default of an argument of any type.
    """
    return Injects(skip_validation=True)


class require_login(BasePermission):  # type: ignore[misc]  # untyped here
    """Lets only those through who are logged in: `permissions=[require_login]`.

    On a handler, a gateway, an `Include` or the app. Anybody else gets a 401 with a `WWW-Authenticate` challenge. A
    WebSocket is closed with 1008 (policy violation) before it is accepted, which servers answer with 403.

    Raises:
        ConfigurationError: in a request: Ravyn has no `session_config` of Roomkey's, or its `user_key` is None.
    """

    _guard = lilya.require_login

    async def has_permission(self, request: Request, controller: Any) -> bool:
        await self._guard.user(request)
        return True


def require_recent(seconds: Seconds) -> type[require_login]:
    """Return a permission that lets only those through whose log-in is recent: `permissions=[require_recent(300)]`.

    It is for a dangerous step, such as a change of the password (OWASP ASVS 7.5.1). A visitor who is not logged in gets
    the 401 of `require_login`. A user whose log-in is too long ago gets a 403, whose challenge has the `error` and the
    `max_age` of RFC 9470. Ask for the password then, and call `session.reauthenticated()`.

    Args:
        seconds: how long ago the log-in may be, in seconds or as a `timedelta`.

    Raises:
        ValueError: `seconds` is no number above 0.
    """
    return type("require_recent", (require_login,), {"_guard": lilya.require_recent(seconds)})


def require_level(level: int, *, within: Seconds | None = None) -> type[require_login]:
    """Return a permission that lets only those through who have proved this level: `permissions=[require_level(2)]`.

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
    return type("require_level", (require_login,), {"_guard": lilya.require_level(level, within=within)})


async def _user(request: Request) -> Any:
    return await lilya.require_login.user(request)


current_user: Inject = Inject(_user)
"""Gives a handler the user's ID: `dependencies={"user": current_user}`, and `user: int = injected()`.

A visitor who is not logged in gets the 401 of `require_login`.
"""


class _Dispatch(_sessions.SessionMiddleware):  # type: ignore[misc]  # Lilya's, untyped here
    """Lilya's session middleware, unless the options are Roomkey's."""

    def __new__(cls, app: Any, *args: Any, **options: Any) -> Any:
        config = options.get(_OPTION)
        if config is None:
            return super().__new__(cls)
        middleware = SessionMiddleware(app, config)
        _join_lifespan(app, middleware)
        return middleware


class _Lifespan:
    """The lifespan of a router, within that of the session store."""

    def __init__(self, inner: Any, middleware: SessionMiddleware) -> None:
        self.inner = inner
        self._middleware = middleware

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._middleware.lifespan(self.inner, scope, receive, send)


def _join_lifespan(app: Any, middleware: SessionMiddleware) -> None:
    """Open and close the store with the app. Ravyn serves the lifespan in its router, past every middleware."""
    router = app
    while router is not None and not callable(getattr(router, "lifespan", None)):
        router = getattr(router, "app", None)
    if router is not None:  # else: the store opens itself, and purges as sessions are made
        inner = router.lifespan.inner if isinstance(router.lifespan, _Lifespan) else router.lifespan
        router.lifespan = _Lifespan(inner, middleware)


class _GivesWay:
    """A read-only attribute of `RavynSettings` that a field of a subclass may replace.

    A property would win over the field's value in the instance's `__dict__`. This descriptor has no `__set__`, and so
    does not. It is absent on the class, because pydantic warns of fields that shadow an attribute.
    """

    def __init__(self, replaced: property) -> None:
        self._replaced = replaced

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            raise AttributeError("session_config")
        return self._replaced.__get__(instance, owner)


def _bridge() -> None:
    if not issubclass(_sessions.SessionMiddleware, _Dispatch):
        _sessions.SessionMiddleware = _Dispatch
    declared = RavynSettings.__dict__.get("session_config")
    if isinstance(declared, property):
        type.__setattr__(RavynSettings, "session_config", _GivesWay(declared))
    elif not isinstance(declared, _GivesWay):
        raise ImportError(
            "this Ravyn declares RavynSettings.session_config in a way that roomkey.ravyn does not know; "
            "please report its version"
        )


_bridge()
