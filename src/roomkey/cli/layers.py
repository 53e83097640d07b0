"""What a part of an app is, by its class: a session middleware, a check of cross-site requests, a log-in."""

from __future__ import annotations

from typing import Any

from roomkey.cli.checks.looked import Layer
from roomkey.cli.projects import has_engine
from roomkey.web.middleware import SessionMiddleware

__all__ = ["layer_of"]

# In names of classes that find out who asks, by something else than the session.
_BY_HEADER = ("jwt", "bearer", "basic", "token", "oauth", "apikey")


def layer_of(part: Any) -> Layer:
    """Return what a part of an app is."""
    kind = type(part)
    name = f"{kind.__module__}.{kind.__qualname__}"
    lower = kind.__name__.lower()
    parents = [each.__name__.lower() for each in kind.__mro__]
    is_roomkeys = kind.__module__.startswith("roomkey.")
    if isinstance(part, SessionMiddleware):
        config = part.config
        return Layer("roomkey", name, True, config.session_cookie if config.card_header is None else None)
    if has_engine(part):
        return Layer("roomkey", name, is_roomkeys)  # a project has one configuration, and so one cookie
    if any("csrf" in each or "xsrf" in each for each in parents):
        return Layer("csrf", name, is_roomkeys or any(k.__module__ == "roomkey.csrf" for k in kind.__mro__))
    if any("auth" in each or "login" in each for each in parents) and not any(each in lower for each in _BY_HEADER):
        return Layer("auth", name)
    if any("session" in each and "middleware" in each for each in parents):
        return Layer("session", name, cookie=_cookie_of(part))
    return Layer("other", name, is_roomkeys)


def _cookie_of(part: Any) -> str | None:
    """Return the name of a session middleware's cookie: Starlette's and Lilya's, starsessions', Litestar's."""
    backend = getattr(getattr(part, "backend", None), "config", None)
    named = (
        getattr(part, "session_cookie", None),
        getattr(part, "cookie_name", None),
        getattr(backend, "key", None),
    )
    return next((each for each in named if isinstance(each, str)), None)
