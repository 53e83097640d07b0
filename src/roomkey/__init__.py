"""Roomkey: server-side sessions for Python web apps.

The browser holds a signed random ID, the server holds the data, and logging out ends it.
"""

from roomkey.config import SessionConfig
from roomkey.errors import (
    ConfigurationError,
    LoginTooOld,
    ResponseStarted,
    RoomkeyError,
    SessionDataError,
    SessionEnded,
    StoreUnavailable,
    WeakSecretWarning,
)
from roomkey.middleware import SessionMiddleware
from roomkey.session import Session
from roomkey.users import SessionInfo, Sessions

__all__ = [
    "ConfigurationError",
    "LoginTooOld",
    "ResponseStarted",
    "RoomkeyError",
    "Session",
    "SessionConfig",
    "SessionDataError",
    "SessionEnded",
    "SessionInfo",
    "SessionMiddleware",
    "Sessions",
    "StoreUnavailable",
    "WeakSecretWarning",
]
