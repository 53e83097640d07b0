"""`set_expiry`, as Roomkey's lifetimes. Django keeps what it was given in the session, under `_session_expiry`."""

from __future__ import annotations

import datetime as dt
from typing import Any

from django.utils import timezone

from roomkey.core.session import Session
from roomkey.manager import SessionManager

__all__ = ["closes_with_browser", "hold", "settle"]

_EXPIRY = "_session_expiry"


def hold(manager: SessionManager, session: Session) -> None:
    """Have use renew nothing, where the session ends at a moment that the app chose. It was just loaded or settled."""
    if isinstance(dict.get(session, _EXPIRY), str):
        manager.transaction(session).renews = False


def settle(manager: SessionManager, session: Session) -> None:
    """Have a session that is about to be saved live for as long as the app said. One whose end has passed ends."""
    at, put = session._at, session._put or ()
    rules = manager.registry.rules
    is_log_in = rules.puts_user(session._plain(), put, at.user)  # a change of user forgets a session's lifetime
    present = at.facts.lifetime if rules.is_remembered(at.facts, at.user) else None
    expiry: Any = dict.get(session, _EXPIRY)
    if isinstance(expiry, str):
        if is_log_in or _EXPIRY in put:
            end = dt.datetime.fromisoformat(expiry)
            now = timezone.now() if timezone.is_aware(end) else dt.datetime.now()
            _live_for(session, (end - now).total_seconds())
        hold(manager, session)
    elif expiry:
        if is_log_in or expiry != present:
            _live_for(session, expiry)
    elif present is not None and not is_log_in:
        session.remember(None)


def _live_for(session: Session, seconds: float) -> None:
    if seconds > 0:
        session.remember(seconds)
    else:
        session.invalidate()


def closes_with_browser(session: Session) -> bool:
    """Whether the app has said `set_expiry(0)`."""
    return dict.get(session, _EXPIRY) == 0
