"""What `manage.py check` says about the settings of the sessions."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib.sessions.middleware import SessionMiddleware as DjangoMiddleware
from django.core.checks import CheckMessage, Error, Warning, register
from django.utils.module_loading import import_string

from roomkey.django.engine import SessionStore
from roomkey.django.middleware import SessionMiddleware
from roomkey.django.settings import get_manager
from roomkey.errors import ConfigurationError

__all__ = ["check_sessions"]


def check_sessions(app_configs: Any = None, **_: Any) -> list[CheckMessage]:
    """Return what is wrong with the settings, where the sessions are Roomkey's."""
    if not _is_ours(settings.SESSION_ENGINE):
        return []
    found: list[CheckMessage] = []
    try:
        get_manager()
    except ConfigurationError as error:
        found.append(Error(str(error), id="roomkey.E001"))
    kinds = [kind for kind in map(_imported, settings.MIDDLEWARE) if isinstance(kind, type)]
    if any(issubclass(kind, DjangoMiddleware) and not issubclass(kind, SessionMiddleware) for kind in kinds):
        found.append(
            Warning(
                "Django's own session middleware serves Roomkey's sessions. It answers 500 instead of 503 where the "
                "store is down, sends no Cache-Control with the cookie, does not renew the cookie of a session that is "
                "only read, and makes the cookie Secure by SESSION_COOKIE_SECURE alone.",
                hint='Put "roomkey.django.SessionMiddleware" in its place in MIDDLEWARE.',
                id="roomkey.W001",
            )
        )
    return found


def _is_ours(engine: str) -> bool:
    kind = _imported(f"{engine}.SessionStore")
    return isinstance(kind, type) and issubclass(kind, SessionStore)


def _imported(path: str) -> object:
    try:
        found: object = import_string(path)
    except ImportError:  # Django says so itself
        return None
    return found


register(check_sessions)
