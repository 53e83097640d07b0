"""What a framework's connection says about the session: `session`, `set_session` and `clear_session`.

`roomkey.<framework>` modules have these three mean Roomkey's session where there is one. They do for Lilya, Ravyn and
Litestar, whose own do no more than read and assign `scope["session"]`: nobody could tell that a handler asked for the
session, and what is assigned there may be the session of any other middleware. With another library's session they do
what they did before.

`session_of` is for code that knows no framework, and for type checkers, to which `request.session` is a plain dict.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from roomkey.core.session import Session
from roomkey.errors import ConfigurationError

__all__ = ["HasScope", "HasSession", "follow", "session_of"]

_DONE = "_roomkey"
_MENDED = ("session", "set_session", "clear_session")


class HasSession(Protocol):
    """A request of Django's."""

    @property
    def session(self) -> Any: ...


class HasScope(Protocol):
    """A request or a WebSocket of any ASGI framework."""

    @property
    def scope(self) -> Mapping[str, Any]: ...


def session_of(connection: HasScope | HasSession | Mapping[Any, Any]) -> Session:
    """Return the session of a request or a WebSocket, and count it as used.

    It is what `request.session` gives, under its own type.

    Args:
        connection: the request or WebSocket of any ASGI framework, the scope itself, or a request of aiohttp's or
            Django's. Flask and Quart have `roomkey.flask.session` and `roomkey.quart.session` in its place.

    Raises:
        ConfigurationError: the request went through no `SessionMiddleware` of Roomkey's, or another library's session
            stands in the place of its session. The message says what to add.
        TypeError: it is no request, no WebSocket and no scope.

    Example:
        >>> from starlette.requests import Request
        >>> from roomkey import session_of
        >>> async def log_in(request: Request) -> None:
        ...     session_of(request).remember(14 * 24 * 3600)
    """
    scope = connection if isinstance(connection, Mapping) else getattr(connection, "scope", None)
    session = scope.get("session") if isinstance(scope, Mapping) else None
    if session is None:
        session = _djangos(connection)
    if session is None and not isinstance(scope, Mapping):
        raise TypeError(
            f"session_of: got {type(connection).__name__}; it takes a request or a WebSocket of an ASGI framework, its "
            "scope, or a request of aiohttp's or Django's; on Flask and Quart, take roomkey.flask.session and "
            "roomkey.quart.session"
        )
    if isinstance(session, Session):
        session.mark_accessed()
        return session
    if session is None:
        raise ConfigurationError(
            "session_of: the request has no session: put roomkey.SessionMiddleware around the app, as in "
            "app.add_middleware(SessionMiddleware, secret_key=..., store=...); on aiohttp, call roomkey.aiohttp.setup; "
            "on Quart, take roomkey.quart.session"
        )
    raise ConfigurationError(
        f"session_of: the session of the request is a {type(session).__module__}.{type(session).__qualname__}, and not "
        "Roomkey's: another session middleware runs inside Roomkey's, or in its place; take it out, or put "
        "roomkey.SessionMiddleware there"
    )


def _djangos(request: object) -> Session | None:
    """Return the session that Django's `request.session` is around; None: it is no such request."""
    as_session = getattr(getattr(request, "__dict__", {}).get("session"), "_as_session", None)
    session: Session | None = None if as_session is None else as_session()
    return session


def _as_it_is(value: object) -> object:
    return value


def _check(connection: Any, module: str) -> None:
    for name in _MENDED:
        if not hasattr(connection, name):
            raise ImportError(
                f"this framework has no {connection.__name__}.{name}, which {module} mends; please report its version"
            )


def follow(
    connection: Any,
    module: str,
    *,
    nothing: tuple[object, ...] = (None,),
    content_of: Callable[[object], object] = _as_it_is,
    takes: str = "a dict",
) -> bool:
    """Have a class of connections mean Roomkey's session.

    Args:
        connection: the class. It has a `scope`.
        module: of Roomkey's, for the error.
        nothing: what `set_session` takes for no session at all.
        content_of: makes a dict of what else `set_session` takes, and returns what it does not take as it is.
        takes: what that is, for the error.

    Returns:
        Whether it was done now: False where it had been done before.

    Raises:
        ImportError: the class has not what is to be changed.
    """
    _check(connection, module)
    if hasattr(connection, _DONE):
        return False
    session_of, set_session, clear_session = (vars(connection)[name] for name in _MENDED)

    def session(self: Any) -> Any:
        found = session_of.__get__(self, type(self))
        if isinstance(found, Session):
            found.mark_accessed()
        return found

    def set_content(self: Any, value: Any) -> None:
        found = self.scope.get("session")
        if not isinstance(found, Session):
            set_session(self, value)
        elif any(value is each for each in nothing):
            found.clear()
        elif isinstance(content := content_of(value), Mapping):
            found._set_content(content)
        else:
            raise TypeError(f"set_session: got {type(value).__name__}; it takes {takes}, or None to log out")

    def clear(self: Any) -> None:
        found = self.scope.get("session")
        if isinstance(found, Session):
            found.clear()
        else:
            clear_session(self)

    session.__doc__ = session_of.__doc__
    connection.session, connection.set_session, connection.clear_session = property(session), set_content, clear
    setattr(connection, _DONE, True)
    return True
