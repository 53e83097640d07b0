"""Guards: who may pass, and what the others are told. The frameworks' modules make their own answers of it."""

from __future__ import annotations

from math import inf
from typing import Any

from roomkey.config import SessionConfig
from roomkey.core.loader import Loader
from roomkey.core.session import Session
from roomkey.errors import ConfigurationError, LoginTooOld
from roomkey.options import Seconds, is_number, seconds_of
from roomkey.wire.user_ids import text_of

__all__ = ["POLICY_VIOLATION", "DoesNotPass", "logged_in", "recently_logged_in", "span_of"]

POLICY_VIOLATION = 1008  # RFC 6455 section 7.4.1: what a WebSocket is closed with


class DoesNotPass(Exception):
    """Somebody does not pass a guard.

    Args:
        status: the HTTP status: 401 for nobody, 403 for a user whose log-in is too long ago.
        why: a sentence for people.
        challenge: the value of `WWW-Authenticate`.
    """

    def __init__(self, status: int, why: str, challenge: str) -> None:
        super().__init__(why)
        self.status: int = status
        self.why: str = why
        self.challenge: str = challenge

    @property
    def headers(self) -> dict[str, str]:
        """What the response says beside."""
        return {"WWW-Authenticate": self.challenge}


def logged_in(session: Session, guard: str) -> Any:
    """Return the user's ID, as it stands in the session.

    Args:
        session: the session.
        guard: who asks, for the error.

    Raises:
        DoesNotPass: nobody is logged in.
        ConfigurationError: `user_key` is None.
    """
    user_key = _config_of(session).user_key
    if user_key is None:
        raise ConfigurationError(
            f"{guard}: user_key is None in SessionConfig, so nobody can be logged in; give it the session key that "
            "has the user's ID"
        )
    user = session.get(user_key)
    if text_of(user) is None:
        raise DoesNotPass(401, "Not logged in.", _challenge(session))
    return user


def recently_logged_in(session: Session, span: float, guard: str) -> Any:
    """As `logged_in`. It also raises DoesNotPass where the log-in was more than `span` seconds ago."""
    user = logged_in(session, guard)
    try:
        session.require_recent(span)
    except LoginTooOld:
        raise DoesNotPass(
            403,
            f"The last log-in is more than {span:.15g} seconds ago. Prove again who you are, then repeat this.",
            f'{_challenge(session)}, error="insufficient_user_authentication", max_age="{int(span)}"',
        ) from None
    return user


def span_of(seconds: Seconds) -> float:
    """Return how long ago a log-in may be, as seconds. Raises ValueError."""
    span: float = seconds_of(seconds)
    if not is_number(span) or not 0 < span < inf:
        raise ValueError(f"require_recent: seconds is {seconds!r}; it takes a number above 0, or a timedelta")
    return span


def _challenge(session: Session) -> str:
    """Return what RFC 9110 asks of each 401. Browsers ignore these schemes, and ask nothing.

    `Bearer` is that of RFC 6750, section 3 of which asks for a parameter. The one for a cookie is that of the draft
    "HTTP Authentication with HTTP Cookies" (draft-broyer-http-cookie-auth). The one for another header is like it, and
    nobody has registered either.
    """
    kind, name = _config_of(session).carrier
    if (kind, name) == ("header", "authorization"):
        return 'Bearer realm="session"'
    return f'{kind.title()} {kind}-name="{name}"'


def _config_of(session: Session) -> SessionConfig:
    origin = session._origin
    if not isinstance(origin, Loader):
        raise ConfigurationError("the session belongs to no request: put roomkey.SessionMiddleware around the app")
    return origin.committer.config
