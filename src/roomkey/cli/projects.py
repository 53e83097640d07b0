"""A Django project, as `roomkey doctor` looks at it: through Django's WSGI handler, whatever serves it.

Django is not imported here. Where the app is a project's, it is there already.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any

from roomkey.cli.checks.looked import Route
from roomkey.cli.finding import imported

__all__ = [
    "has_engine",
    "host_of",
    "is_project",
    "is_request",
    "project_of",
    "routes_of_project",
    "used",
    "warnings_of",
]

_HANDLERS = "django.core.handlers."  # where the classes of Django's applications are
_ANY = frozenset({"GET", "HEAD", "POST"})  # methods of a view that is a function


def is_project(app: Any) -> bool:
    """Whether an app is Django's, for WSGI or for ASGI."""
    return any(kind.__module__.startswith(_HANDLERS) for kind in type(app).__mro__)


def project_of(app: Any) -> Any:
    """Return the WSGI application of a Django project. Any other app is returned as it is.

    The views, the middleware and the settings are the same for WSGI and ASGI, and in WSGI all of a request runs in this
    thread. Channels has Django's own application for ASGI as that of the protocol `http`.
    """
    mapping = getattr(app, "application_mapping", None)
    inner = mapping.get("http", app) if isinstance(mapping, dict) else app
    if not is_project(inner):
        return app
    if type(inner).__module__ != f"{_HANDLERS}asgi":
        return inner
    return imported("django.core.wsgi:get_wsgi_application")


def host_of() -> str:
    """Return a host that the project answers: this machine, or else the first of `ALLOWED_HOSTS`."""
    settings = sys.modules["django.conf"].settings
    allowed: list[str] = list(settings.ALLOWED_HOSTS)
    if "*" in allowed or "localhost" in allowed or (settings.DEBUG and not allowed):
        return "localhost"
    return next((each.removeprefix(".") for each in allowed), "localhost")


def routes_of_project() -> tuple[Route, ...]:
    """Return the routes of the project that have no parameters. Others may be there."""
    return tuple(_flat(sys.modules["django.urls"].get_resolver().url_patterns, "/"))


def _flat(patterns: Iterable[Any], before: str) -> Iterator[Route]:
    for each in patterns:
        route = getattr(each.pattern, "_route", None)  # None: it is a regular expression
        if not isinstance(route, str) or "<" in route:
            continue
        if hasattr(each, "url_patterns"):
            yield from _flat(each.url_patterns, before + route)
        else:
            kind = getattr(each.callback, "view_class", None)
            names = [] if kind is None else [name for name in kind.http_method_names if hasattr(kind, name)]
            yield Route(before + route, frozenset(name.upper() for name in names) or _ANY)


def has_engine(part: Any) -> bool:
    """Whether a part of an app is a session middleware of Django's whose sessions are Roomkey's."""
    return _is_engine(getattr(part, "SessionStore", None))


def is_request(value: object) -> bool:
    """Whether this is a request of Django's for WSGI."""
    return type(value).__module__ == f"{_HANDLERS}wsgi"


def used(request: Any) -> bool:
    """Whether the project asked for what the session of its request holds."""
    session = vars(request).get("session")
    return _is_engine(type(session)) and bool(session.accessed)


def _is_engine(kind: object) -> bool:
    return isinstance(kind, type) and any(each.__module__ == "roomkey.django.engine" for each in kind.__mro__)


def warnings_of() -> tuple[str, ...]:
    """Return what `manage.py check` says about the settings of the sessions."""
    checks = sys.modules.get("roomkey.django.checks")
    return () if checks is None else tuple(f"{each.msg} {each.hint or ''}".strip() for each in checks.check_sessions())
