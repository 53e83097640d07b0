"""Django's settings, and the session manager that is made of them."""

from __future__ import annotations

import dataclasses
import threading
from typing import Any

from django.conf import settings
from django.core.signals import setting_changed

from roomkey.config import SessionConfig
from roomkey.errors import ConfigurationError
from roomkey.manager import SessionManager
from roomkey.stores.cookie import CookieStore

__all__ = ["USER_KEY", "get_manager"]

USER_KEY = "_auth_user_id"  # where Django keeps who is logged in

_HTTPS_ONLY = "https_only"
# Options that Django has settings of its own for.
_SETTINGS = {
    "secret_key": "SECRET_KEY",
    "session_cookie": "SESSION_COOKIE_NAME",
    "max_age": "SESSION_COOKIE_AGE",
    "domain": "SESSION_COOKIE_DOMAIN",
    "path": "SESSION_COOKIE_PATH",
    _HTTPS_ONLY: "SESSION_COOKIE_SECURE",
    "same_site": "SESSION_COOKIE_SAMESITE",
    "persistent": "SESSION_EXPIRE_AT_BROWSER_CLOSE",
}
_OTHERS = {"ROOMKEY", "SECRET_KEY", "SECRET_KEY_FALLBACKS"}  # settings that count beside `SESSION_*`
_NO_STORE = object()


class _Made:
    """What was made of the settings, in this process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.manager: SessionManager | None = None
        self.given: object = _NO_STORE  # `ROOMKEY["store"]`
        self.store: Any = None  # what was made of it

    def forget(self, *, setting: str, **_: Any) -> None:
        """Make another manager with the next request: a test has changed a setting."""
        if setting in _OTHERS or setting.startswith("SESSION_"):
            self.manager = None


_made = _Made()
setting_changed.connect(_made.forget, dispatch_uid="roomkey.django")


def get_manager() -> SessionManager:
    """Return the session manager of this process, made of Django's settings. `manager.sync` has its blocking calls.

    Raises:
        ConfigurationError: a setting is wrong. The message names it.

    Example:
        >>> from roomkey.django import get_manager
        >>> def devices(request):
        ...     sessions = get_manager().sync.sessions
        ...     return sessions.of(request.user.pk, current=request.session)
    """
    manager = _made.manager
    if manager is None:
        with _made.lock:
            manager = _made.manager
            if manager is None:
                manager = _made.manager = SessionManager(_config())
    return manager


def _config() -> SessionConfig:
    given: Any = getattr(settings, "ROOMKEY", {})
    if not isinstance(given, dict):
        raise ConfigurationError(f"ROOMKEY: got {type(given).__name__}; it takes a dictionary of options")
    options: dict[str, Any] = {"user_key": USER_KEY, **given}
    # Django's default is False, as is what a project may set: both go by the request, and break no site on plain HTTP.
    https_only = settings.SESSION_COOKIE_SECURE or "auto"
    if options.get(_HTTPS_ONLY) is False and https_only == "auto":
        https_only = options.pop(_HTTPS_ONLY)
    for name, setting in _SETTINGS.items():
        if name in options:
            raise ConfigurationError(f"{name}: {setting} says it: set that, and leave the option out of ROOMKEY")
    if "partitioned" in options:
        raise ConfigurationError("partitioned: Django's cookies have no such attribute; leave it out of ROOMKEY")
    if options.get("card_header") is not None:
        raise ConfigurationError(
            "card_header: Django finds its sessions by their cookie; leave it out of ROOMKEY, and have an API of its "
            "own hand cards out in a header: docs/howto-api-clients.md"
        )
    if not settings.SESSION_COOKIE_HTTPONLY:
        raise ConfigurationError("SESSION_COOKIE_HTTPONLY: the cookie is always HttpOnly: leave it out")
    if "store" in options and options["store"] == _made.given:
        options["store"] = _made.store  # the sessions in memory outlive a test's `override_settings`
    try:
        config = SessionConfig.from_options({**options, **_cookie_options(), _HTTPS_ONLY: https_only})
    except ConfigurationError as error:
        name = str(error).partition(" ")[0].removesuffix(":")
        about = _SETTINGS.get(name) or ("ROOMKEY" if name in _NAMES else None)
        raise (ConfigurationError(f"{about} is wrong: {error}") if about else error) from None
    if config.live:
        raise ConfigurationError(
            "live: on Django nothing ends a stream or a WebSocket of Channels with its session; leave it out of ROOMKEY"
        )
    if isinstance(config.store, CookieStore):
        raise ConfigurationError(
            "ROOMKEY: the store cookie:// keeps nothing on the server, and Django's session_key is to find it there; "
            "take another store"
        )
    _made.given, _made.store = given.get("store", _NO_STORE), config.store
    return config


_NAMES = {field.name for field in dataclasses.fields(SessionConfig)}


def _cookie_options() -> dict[str, Any]:
    same_site: Any = settings.SESSION_COOKIE_SAMESITE
    return {
        "secret_key": [settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS],
        "session_cookie": settings.SESSION_COOKIE_NAME,
        "max_age": settings.SESSION_COOKIE_AGE,
        "domain": settings.SESSION_COOKIE_DOMAIN or None,
        "path": settings.SESSION_COOKIE_PATH,
        "same_site": same_site.lower() if isinstance(same_site, str) else same_site or "lax",
        "persistent": not settings.SESSION_EXPIRE_AT_BROWSER_CLOSE,
    }
