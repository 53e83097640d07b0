"""Starlette: Roomkey in the place of Starlette's own `SessionMiddleware`, for the apps and admin pages that bring that.

The middleware is the usual one, and an app that adds it itself needs nothing of this module. NiceGUI, sqladmin, Gradio
and FastHTML add Starlette's (1.10) to their apps, and find it in `starlette.middleware.sessions`. `install` puts a
subclass there, which serves the session of one manager. Importing this module changes nothing.

The subclass is one and the same, whichever manager is installed: NiceGUI compares the class that it imported with that
of the app's middleware.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from inspect import signature
from types import ModuleType
from typing import Any

try:
    import starlette.middleware.sessions as _sessions
    from starlette.middleware.sessions import SessionMiddleware as _Replaced
except ImportError as _error:
    raise ImportError(
        "roomkey.starlette needs Starlette, and itsdangerous as Starlette's own sessions do: "
        "pip install 'roomkey[starlette]'"
    ) from _error

from roomkey.config import SessionConfig
from roomkey.errors import ConfigurationError
from roomkey.manager import SessionManager
from roomkey.web.asgi import App, Receive, Scope, Send
from roomkey.web.middleware import SessionMiddleware
from roomkey.wire.keys import SecretKeys

__all__ = ["SessionConfig", "SessionMiddleware", "install", "uninstall"]

_manager: SessionManager | None = None  # the one that is installed
_SIGNATURE = signature(_Replaced)


def install(manager: SessionManager) -> None:
    """Put Roomkey in the place of `starlette.middleware.sessions.SessionMiddleware`.

    Whatever adds that class to an app from now on gets the sessions of this manager: its cookie, its key, its store and
    its timeouts. Call it before anything else imports Starlette's class, and before apps are given it. Called again
    with the same manager, it does nothing.

    A middleware that is given another `session_cookie` than the manager's stays Starlette's own. One that is given none
    is the manager's, whatever the manager's cookie is called. The other options that it is given, such as `secret_key`,
    do not count. The log says so once.

    Args:
        manager: of the app. The app's own `roomkey.SessionMiddleware` is given the same one.

    Raises:
        ConfigurationError: modules imported Starlette's class before, and would go on with that. The message names
            them. Or another manager is installed.
        TypeError: it is no `SessionManager`.

    Example:
        >>> from roomkey import SessionManager
        >>> from roomkey.starlette import install, uninstall
        >>> manager = SessionManager(secret_key="k" * 32, store="memory://")
        >>> install(manager)  # then: import nicegui
        >>> uninstall()
    """
    global _manager
    if not isinstance(manager, SessionManager):
        raise TypeError(f"install: got {type(manager).__name__}; it takes a roomkey.SessionManager")
    if _manager is manager:
        return
    if _manager is not None:
        raise ConfigurationError("install: another manager is installed: give that one, or call uninstall() before")
    names = sorted(_holders())
    if names:
        raise ConfigurationError(
            f"install: {', '.join(names)} imported Starlette's SessionMiddleware before, and would go on with it: call "
            "install(manager) before these are imported"
        )
    _manager = manager
    _sessions.SessionMiddleware = _InPlace  # type: ignore[misc]


def uninstall() -> None:
    """Take `install` back. Where nothing is installed, it does nothing.

    An app that has started keeps its sessions. One that starts later has Starlette's own, also where it was given the
    class that stood there meanwhile.

    Example:
        >>> from roomkey.starlette import uninstall
        >>> uninstall()
    """
    global _manager
    _manager = None
    _sessions.SessionMiddleware = _Replaced  # type: ignore[misc]


def _holders() -> Iterator[str]:
    """Return the names of the modules that have Starlette's class under any name, but for Starlette's own and ours."""
    for name, module in list(sys.modules.items()):
        try:
            content: dict[str, Any] = ModuleType.__getattribute__(module, "__dict__")  # a lazy module stays unloaded
        except (AttributeError, TypeError):  # something else that stands there
            continue
        if module is not _sessions and name != __name__ and any(each is _Replaced for each in list(content.values())):
            yield name


class _InPlace(_Replaced):
    """Stands in the place of Starlette's class. What is made of it serves the installed manager's session.

    It is a subclass, so that `isinstance` and classes that others make of it are as before.
    """

    def __init__(self, app: App, *args: Any, **options: Any) -> None:
        super().__init__(app, *args, **options)  # raises for wrong options, and sets what subclasses read
        self._shared: SessionMiddleware | None = None
        manager = _manager
        if manager is None:
            return
        given = _SIGNATURE.bind(app, *args, **options).arguments
        if _shares(manager, given):
            self._shared = SessionMiddleware(app, manager)
            _tell_of_key(manager, given["secret_key"])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._shared is None:
            await super().__call__(scope, receive, send)
        else:
            await self._shared(scope, receive, send)


def _shares(manager: SessionManager, given: Mapping[str, Any]) -> bool:
    """Whether a middleware that is given these arguments serves the manager's session."""
    cookie = manager.config.session_cookie
    return bool(given.get("session_cookie", cookie) == cookie)


def _installed_for(kind: object, args: Iterable[Any], options: Mapping[str, Any]) -> SessionManager | None:
    """Return the manager whose session a middleware serves that was added to an app; None: it serves none of ours.

    Args:
        kind: the middleware's class.
        args: that it was given, without the app.
        options: that it was given.
    """
    if _manager is None or not (isinstance(kind, type) and issubclass(kind, _InPlace)):
        return None
    try:
        given = _SIGNATURE.bind_partial(None, *args, **options).arguments
    except TypeError:  # a subclass that takes others
        given = {}
    return _manager if _shares(_manager, given) else None


_InPlace.__name__ = _InPlace.__qualname__ = _Replaced.__name__  # some look for a middleware by its name


def _tell_of_key(manager: SessionManager, key: object) -> None:
    """Log once that a middleware was given a key that does not count."""
    keys: SecretKeys = manager.config.secret_key
    if str(key).encode(errors="replace") not in keys.values:
        manager.reporter.warn_once(
            "Starlette's key",
            "Starlette's SessionMiddleware was added with a secret_key of its own. It serves the session of Roomkey's "
            "cookie %r, so that key and the other options given there do not count. To have it keep a session of its "
            "own, give it another session_cookie",
            manager.config.session_cookie,
        )
