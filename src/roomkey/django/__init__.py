"""Django: `request.session` is a Roomkey session.

    SESSION_ENGINE = "roomkey.django"
    ROOMKEY = {"store": "sqlite:///sessions.sqlite3"}
    MIDDLEWARE = [..., "roomkey.django.SessionMiddleware", ...]  # in the place of Django's

Django's own settings say what they always say: `SECRET_KEY`, `SECRET_KEY_FALLBACKS` and `SESSION_*`. Every other option
of `SessionConfig` is in `ROOMKEY`.

calls       the session manager's calls, blocking and awaited
settings    Django's settings, and the session manager that is made of them
expiry      `set_expiry`, as Roomkey's lifetimes
methods     what Django's sessions have beside Django's own methods
engine      SessionStore: what `request.session` is
cookies     headers and cookies of Django's responses
streams     streamed responses, which are committed once more at their end
middleware  SessionMiddleware
moving      sessions of Django's own engines, which move in
checks      what `manage.py check` says
"""

from __future__ import annotations

try:
    import django  # noqa: F401
except ImportError as _error:
    raise ImportError('roomkey.django needs Django: pip install "roomkey[django]"') from _error

from roomkey.django import checks  # noqa: F401  # it registers them
from roomkey.django.engine import SessionStore
from roomkey.django.middleware import SessionMiddleware
from roomkey.django.moving import DjangoSessions
from roomkey.django.settings import get_manager

__all__ = ["DjangoSessions", "SessionMiddleware", "SessionStore", "get_manager"]
