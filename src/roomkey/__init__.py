"""Roomkey: server-side sessions for Python web apps.

The browser holds a signed random ID, the server holds the data, and logging out ends it.
"""

from roomkey.config import SessionConfig
from roomkey.core.proofs import Proof
from roomkey.core.session import Session
from roomkey.core.users import ANYBODYS, SessionInfo, Sessions
from roomkey.errors import (
    ConfigurationError,
    ImpersonationError,
    LevelTooLow,
    LoginTooOld,
    ResponseStarted,
    RoomkeyError,
    SessionDataError,
    SessionEnded,
    StoreUnavailable,
    WeakSecretWarning,
)
from roomkey.manager import SessionManager
from roomkey.request import Request
from roomkey.shapes import change_field, typed
from roomkey.web.connections import session_of
from roomkey.web.middleware import SessionMiddleware

__all__ = [
    "ANYBODYS",
    "ConfigurationError",
    "ImpersonationError",
    "LevelTooLow",
    "LoginTooOld",
    "Proof",
    "Request",
    "ResponseStarted",
    "RoomkeyError",
    "Session",
    "SessionConfig",
    "SessionDataError",
    "SessionEnded",
    "SessionInfo",
    "SessionManager",
    "SessionMiddleware",
    "Sessions",
    "StoreUnavailable",
    "WeakSecretWarning",
    "change_field",
    "session_of",
    "typed",
]
