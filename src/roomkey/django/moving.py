"""DjangoSessions: sessions of any of Django's own engines, which move in on first sight."""

from __future__ import annotations

from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import connections
from django.utils.module_loading import import_string

from roomkey.errors import ConfigurationError
from roomkey.legacy.readers import MALFORMED, LegacySession, check_cookie, check_text, make_session

__all__ = ["DjangoSessions"]


class DjangoSessions:
    """A reader of the sessions that a Django engine keeps: `ROOMKEY = {"legacy": [DjangoSessions("...")]}`.

    Args:
        engine: what `SESSION_ENGINE` was, such as `"django.contrib.sessions.backends.db"`. What it needs has to stay:
            its table and `"django.contrib.sessions"` in `INSTALLED_APPS`, or its cache.
        cookie_name: what `SESSION_COOKIE_NAME` was.
        path: what `SESSION_COOKIE_PATH` was.
        domain: what `SESSION_COOKIE_DOMAIN` was.

    Raises:
        ConfigurationError: an option is wrong.

    Example:
        >>> from roomkey.django import DjangoSessions
        >>> ROOMKEY = {"store": "memory://", "legacy": [DjangoSessions("django.contrib.sessions.backends.db")]}
    """

    def __init__(
        self,
        engine: str = "django.contrib.sessions.backends.db",
        *,
        cookie_name: str = "sessionid",
        path: str = "/",
        domain: str | None = None,
    ) -> None:
        check_text("engine", engine)
        check_cookie(cookie_name, path, domain)
        if engine == "roomkey.django":
            raise ConfigurationError(
                "engine: it takes what SESSION_ENGINE was before, such as Django's database engine"
            )
        self.engine: str = engine
        self.cookie_name: str = cookie_name
        self.path: str = path
        self.domain: str | None = domain

    async def read(self, value: bytes) -> LegacySession | None:
        """Return the session that a cookie's value stands for; None: there is none, or Roomkey cannot keep it."""
        found: LegacySession | None = await _elsewhere(self._read)(value)
        return found

    async def forget(self, value: bytes) -> None:
        """Remove the session from the old engine."""
        await _elsewhere(self._forget)(value)

    def _store(self, value: bytes) -> Any:
        return import_string(f"{self.engine}.SessionStore")(value.decode("ascii", "replace"))

    def _read(self, value: bytes) -> LegacySession | None:
        try:
            store = self._store(value)
            data = store.load()
            if not data:
                return None
            try:
                left = store.get_expiry_age(expiry=data.get("_session_expiry"))
            except MALFORMED:
                left = settings.SESSION_COOKIE_AGE
            return make_session(dict(data), expires_in=left)
        finally:
            connections.close_all()

    def _forget(self, value: bytes) -> None:
        try:
            self._store(value).delete()
        finally:
            connections.close_all()


def _elsewhere(work: Any) -> Any:
    """Return what runs `work` in another thread than the request's, which may be waiting for it."""
    return sync_to_async(work, thread_sensitive=False)
