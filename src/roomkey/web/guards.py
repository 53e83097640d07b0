"""Guards: who may pass, and what the others are told. The frameworks' modules make their own answers of it."""

from __future__ import annotations

from math import inf
from typing import Any, NamedTuple

from roomkey.core.loader import Loader
from roomkey.core.proofs import checked_level
from roomkey.core.session import Session
from roomkey.errors import ConfigurationError, LevelTooLow, LoginTooOld
from roomkey.options import Seconds, is_number, seconds_of
from roomkey.wire.user_ids import text_of

__all__ = ["POLICY_VIOLATION", "DoesNotPass", "Level", "logged_in", "proved_level", "recently_logged_in", "span_of"]

POLICY_VIOLATION = 1008  # RFC 6455 section 7.4.1: what a WebSocket is closed with


class DoesNotPass(Exception):
    """Somebody does not pass a guard.

    Args:
        status: the HTTP status: 401 for nobody, 403 for a user who has not proved enough, or too long ago.
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
        SessionDataError: the function of `user_key` raised something.
    """
    whose = _loader_of(session).rules.whose
    if whose is None:
        raise ConfigurationError(
            f"{guard}: user_key is None in SessionConfig, so nobody can be logged in; give it the session key that "
            "has the user's ID"
        )
    session._accessed = True
    user = whose.value_in(session._plain())
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


def proved_level(session: Session, needed: Level) -> Any:
    """As `logged_in`. It also raises DoesNotPass where the user has not proved as much as this needs."""
    user = logged_in(session, "require_level")
    try:
        session.require_level(needed.level, within=needed.within)
    except LevelTooLow:
        ago = "" if needed.within is None else f" within the last {needed.within:.15g} seconds"
        challenge = f'{_challenge(session)}, error="insufficient_user_authentication", acr_values="{needed.level}"'
        if needed.within is not None:
            challenge += f', max_age="{int(needed.within)}"'
        raise DoesNotPass(
            403, f"This needs a proof of level {needed.level}{ago}. Give it, then repeat this.", challenge
        ) from None
    return user


class Level(NamedTuple):
    """What `require_level` needs. Made by `of`."""

    level: int
    within: float | None  # seconds; None: as long as the session lives

    @classmethod
    def of(cls, level: int, within: Seconds | None) -> Level:
        """Return it, checked. Raises ValueError."""
        span = None if within is None else span_of(within, "require_level: within")
        return cls(checked_level(level, "require_level"), span)


def span_of(seconds: Seconds, what: str = "require_recent: seconds") -> float:
    """Return how long ago a log-in may be, as seconds. Raises ValueError. `what`: is named in it."""
    span: float = seconds_of(seconds)
    if not is_number(span) or not 0 < span < inf:
        raise ValueError(f"{what} is {seconds!r}; it takes a number above 0, or a timedelta")
    return span


def _challenge(session: Session) -> str:
    """Return what RFC 9110 asks of each 401. Browsers ignore these schemes, and ask nothing.

    `Bearer` is that of RFC 6750, section 3 of which asks for a parameter. The one for a cookie is that of the draft
    "HTTP Authentication with HTTP Cookies" (draft-broyer-http-cookie-auth). The one for another header is like it, and
    nobody has registered either.
    """
    kind, name = _loader_of(session).committer.config.carrier
    if (kind, name) == ("header", "authorization"):
        return 'Bearer realm="session"'
    return f'{kind.title()} {kind}-name="{name}"'


def _loader_of(session: Session) -> Loader:
    origin = session._origin
    if not isinstance(origin, Loader):
        raise ConfigurationError("the session belongs to no request: put roomkey.SessionMiddleware around the app")
    return origin
