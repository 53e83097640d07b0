"""FastAPI: the session as a type of a handler's argument, and guards for those who have to be logged in.

The middleware is the usual one. What this module adds are dependencies. They work in handlers that are `def` or
`async def`, for WebSockets, and in dependencies with `yield`.

The guards stand in the OpenAPI document as an API key in a cookie. Its name is the one that the app's middleware was
added with. With `card_header` they stand there as a bearer token, or as an API key in that header. FastAPI (0.165) asks
a security scheme for its name without saying for which app, so importing this module has `FastAPI.openapi` put it in.

Example:
    >>> from fastapi import FastAPI
    >>> from roomkey.fastapi import CurrentSession, SessionMiddleware
    >>> app = FastAPI()
    >>> app.add_middleware(SessionMiddleware, secret_key="k" * 32, store="memory://")
    >>> @app.post("/cart/{item}")
    ... def add(item: str, session: CurrentSession) -> list[str]:
    ...     session.setdefault("cart", []).append(item)
    ...     return session["cart"]
"""

# No `from __future__ import annotations`: FastAPI 0.115 cannot evaluate them for an object that is called.

import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import lru_cache
from typing import Annotated, Any

try:
    from fastapi import Depends, FastAPI, HTTPException, WebSocketException
    from fastapi.params import Depends as Dependency
    from fastapi.requests import HTTPConnection
    from fastapi.security import APIKeyCookie
except ImportError as _error:
    raise ImportError("roomkey.fastapi needs FastAPI: pip install 'roomkey[fastapi]'") from _error

from roomkey.config import SessionConfig
from roomkey.core.nearby import ask_store
from roomkey.core.session import Session
from roomkey.manager import SessionManager
from roomkey.options import Seconds
from roomkey.shapes.views import check_shape, typed
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
from roomkey.web.middleware import SessionMiddleware

__all__ = [
    "CurrentSession",
    "FromSession",
    "SessionConfig",
    "SessionMiddleware",
    "require_level",
    "require_login",
    "require_recent",
]

_SCHEME = "SessionCookie"  # what the OpenAPI document calls it
_HEADER_SCHEME = "SessionCard"  # what it calls that of an app with `card_header`
_DONE = "_roomkey"


async def _current_session(connection: HTTPConnection) -> Session:
    return session_of(connection)


CurrentSession = Annotated[Session, Depends(_current_session)]
"""The session of the request or WebSocket, as the type of an argument of a handler or a dependency.

A request through no `SessionMiddleware` is a `ConfigurationError` that says what to add.
"""


class FromSession(Dependency):
    """Gives a handler the session, seen through a shape: `visit: Annotated[Visit, FromSession()]`.

    `Visit` is a dataclass, a pydantic model, a msgspec Struct or a TypedDict. `roomkey.typed` says what the handler
    gets. It works in handlers that are `def` or `async def`, in those of WebSockets, and in dependencies.

    Raises:
        ConfigurationError: when the route is declared: the class is no shape, or a field of it has no default. In a
            request: it went through no `SessionMiddleware`.

    Example:
        >>> from dataclasses import dataclass, field
        >>> from typing import Annotated
        >>> from fastapi import FastAPI
        >>> from roomkey.fastapi import FromSession, SessionMiddleware
        >>> @dataclass
        ... class Visit:
        ...     cart: list[str] = field(default_factory=list)
        >>> app = FastAPI()
        >>> app.add_middleware(SessionMiddleware, secret_key="k" * 32, store="memory://")
        >>> @app.post("/cart/{item}")
        ... async def add(item: str, visit: Annotated[Visit, FromSession()]) -> None:
        ...     visit.cart.append(item)
    """

    _shape: Any = None

    # FastAPI gives the annotation's class to a dependency that names none.
    @property
    def dependency(self) -> Any:
        return None if self._shape is None else _from_session(self._shape)

    @dependency.setter
    def dependency(self, given: Any) -> None:
        if given is not None:
            check_shape(given)
        object.__setattr__(self, "_shape", given)


@lru_cache(maxsize=1000)
def _from_session(shape: Any) -> Callable[[HTTPConnection], Awaitable[Any]]:
    async def view(connection: HTTPConnection) -> Any:
        return typed(session_of(connection), shape)

    return view


class _SessionCookie(APIKeyCookie):
    """The session cookie, as a security scheme. What it gives to a guard is the session.

    That there is a cookie says nothing: the session may have ended, or be a visitor's.
    """

    async def __call__(self, request: HTTPConnection) -> Session:  # type: ignore[override]
        return session_of(request)


_cookie = _SessionCookie(
    name=SessionConfig.session_cookie,
    scheme_name=_SCHEME,
    description="The session cookie. A log-in sets it, and the browser sends it by itself.",
    auto_error=False,
)


_Guarded = Annotated[Session, Depends(_cookie)]


async def require_login(connection: HTTPConnection, session: _Guarded) -> Any:
    """Let only those through who are logged in: `user: Annotated[int, Depends(require_login)]`.

    It is a dependency. Anybody else gets a 401 with a `WWW-Authenticate` challenge. A WebSocket is closed with 1008
    (policy violation) before it is accepted, which servers answer with 403.

    Returns:
        The user's ID, as it stands in the session under the configured `user_key`.

    Raises:
        HTTPException: nobody is logged in.
        WebSocketException: the same, for a WebSocket.
        ConfigurationError: the request went through no `SessionMiddleware`, or `user_key` is None.

    Example:
        >>> from typing import Annotated
        >>> from fastapi import Depends, FastAPI
        >>> from roomkey.fastapi import SessionMiddleware, require_login
        >>> app = FastAPI()
        >>> app.add_middleware(SessionMiddleware, secret_key="k" * 32, store="memory://")
        >>> @app.get("/me")
        ... async def me(user: Annotated[int, Depends(require_login)]) -> int:
        ...     return user
    """
    await ask_store(session)
    try:
        return logged_in(session, "require_login")
    except DoesNotPass as refusal:
        raise _answer(connection, refusal) from None


def require_recent(seconds: Seconds) -> Callable[..., Awaitable[Any]]:
    """Return a dependency that lets only those through whose log-in is recent: `Depends(require_recent(300))`.

    It is for a dangerous step, such as a change of the password (OWASP ASVS 7.5.1). A visitor who is not logged in gets
    the 401 of `require_login`. A user whose log-in is too long ago gets a 403: they are known, and have to prove again
    who they are. The text says so, and the challenge has the `error` and the `max_age` of RFC 9470. Ask for the
    password then, and call `session.reauthenticated()`. A WebSocket is closed with 1008 in both cases.

    Args:
        seconds: how long ago the log-in may be, in seconds or as a `timedelta`.

    Returns:
        The dependency. It gives the user's ID, as `require_login` does, and raises what that raises.

    Raises:
        ValueError: `seconds` is no number above 0.

    Example:
        >>> from fastapi import Depends, FastAPI
        >>> from roomkey.fastapi import SessionMiddleware, require_recent
        >>> app = FastAPI()
        >>> app.add_middleware(SessionMiddleware, secret_key="k" * 32, store="memory://")
        >>> @app.delete("/account", dependencies=[Depends(require_recent(300))])
        ... async def delete_account() -> None: ...
    """
    span = span_of(seconds)

    async def recent_login(connection: HTTPConnection, session: _Guarded) -> Any:
        await ask_store(session)
        try:
            return recently_logged_in(session, span, "require_recent")
        except DoesNotPass as refusal:
            raise _answer(connection, refusal) from None

    return recent_login


def require_level(level: int, *, within: Seconds | None = None) -> Callable[..., Awaitable[Any]]:
    """Return a dependency that lets only those through who have proved this level: `Depends(require_level(2))`.

    A visitor who is not logged in gets the 401 of `require_login`. A user who has proved less, or too long ago, gets a
    403, whose challenge has the `error`, the `acr_values` and the `max_age` of RFC 9470. Ask for the proof then, and
    call `session.reauthenticated(level=...)`. A WebSocket is closed with 1008 in both cases.

    Args:
        level: how sure it has to be who the user is, from 1 to 9. A plain log-in is 1.
        within: how long ago a proof of that level may be, in seconds or as a `timedelta`. None: it counts until the
            log-out.

    Returns:
        The dependency. It gives the user's ID, as `require_login` does, and raises what that raises.

    Raises:
        ValueError: `level` is no such number, or `within` none above 0.

    Example:
        >>> from fastapi import Depends, FastAPI
        >>> from roomkey.fastapi import SessionMiddleware, require_level
        >>> app = FastAPI()
        >>> app.add_middleware(SessionMiddleware, secret_key="k" * 32, store="memory://")
        >>> @app.post("/payments", dependencies=[Depends(require_level(2, within=900))])
        ... async def pay() -> None: ...
    """
    needed = Level.of(level, within)

    async def proved(connection: HTTPConnection, session: _Guarded) -> Any:
        await ask_store(session)
        try:
            return proved_level(session, needed)
        except DoesNotPass as refusal:
            raise _answer(connection, refusal) from None

    return proved


def _answer(connection: HTTPConnection, refusal: DoesNotPass) -> HTTPException | WebSocketException:
    if connection.scope["type"] == "websocket":
        return WebSocketException(POLICY_VIOLATION, refusal.why)
    return HTTPException(refusal.status, refusal.why, refusal.headers)


# --- the OpenAPI document ---------------------------------------------------------------------------------------------


def _carrier_of(app: FastAPI) -> tuple[str, str]:
    """Return what has the card, and its name, for the app's middleware as it was added; else the default cookie.

    A middleware that was added as Starlette's own serves the manager of `roomkey.starlette.install`.
    """
    for middleware in app.user_middleware:
        kind: Any = middleware.cls
        installed = _installed(kind, middleware.args, middleware.kwargs)
        if installed is not None:
            return installed.config.carrier
        if not (isinstance(kind, type) and issubclass(kind, SessionMiddleware)):
            continue
        options: Mapping[str, Any] = middleware.kwargs
        config = options.get("config", next(iter(middleware.args), None))
        if isinstance(config, SessionManager):
            config = config.config
        if isinstance(config, SessionConfig):
            return config.carrier
        header, name = options.get("card_header"), options.get("session_cookie")
        if isinstance(header, str):
            return "header", header.lower()
        return "cookie", name if isinstance(name, str) else SessionConfig.session_cookie
    return "cookie", SessionConfig.session_cookie


def _installed(kind: object, args: Iterable[object], options: Mapping[str, Any]) -> SessionManager | None:
    """Return the manager that a middleware's class serves in the place of Starlette's; None: it is another class."""
    module = sys.modules.get("roomkey.starlette")  # who has not imported it has installed nothing
    manager: SessionManager | None = None if module is None else module._installed_for(kind, args, options)
    return manager


def _name_header(document: dict[str, Any], name: str) -> None:
    """Have an OpenAPI document describe the header that has the card, in the place of a cookie."""
    schemes = document["components"]["securitySchemes"]
    del schemes[_SCHEME]
    schemes[_HEADER_SCHEME] = {
        "description": "The session's card. The response of a log-in hands it out in a header.",
        **({"type": "http", "scheme": "bearer"} if name == "authorization" else {"type": "apiKey", "in": "header"}),
        **({} if name == "authorization" else {"name": name}),
    }
    for path in document.get("paths", {}).values():
        for operation in path.values():
            for needed in operation.get("security", ()) if isinstance(operation, dict) else ():
                if _SCHEME in needed:
                    needed[_HEADER_SCHEME] = needed.pop(_SCHEME)


def _name_cookies() -> None:
    """Have each app's OpenAPI document name its own cookie or header."""
    if hasattr(FastAPI, _DONE):
        return
    made = FastAPI.openapi

    def openapi(self: FastAPI) -> dict[str, Any]:
        document = made(self)
        scheme = document.get("components", {}).get("securitySchemes", {}).get(_SCHEME)
        if isinstance(scheme, dict) and scheme.get("in") == "cookie":
            kind, name = _carrier_of(self)
            if kind == "cookie":
                scheme["name"] = name
            else:
                _name_header(document, name)
        return document

    openapi.__doc__ = made.__doc__
    FastAPI.openapi = openapi  # type: ignore[method-assign]
    setattr(FastAPI, _DONE, True)


_name_cookies()
