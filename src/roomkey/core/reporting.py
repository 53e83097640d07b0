"""Reports what happens to sessions: logs it, counts it, and hands it to the subscribers."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Literal, cast

from roomkey.core.deliveries import Awaited, Deliveries, is_awaited
from roomkey.core.renewal import AFTER_LOG_IN
from roomkey.events import Event, Lost, Refused, Subscriber
from roomkey.stores.base import Store
from roomkey.stores.guard import GuardedStore

__all__ = ["Reason", "Reporter"]

_log = logging.getLogger("roomkey")
_event_log = logging.getLogger("roomkey.events")
_MOST_ROUTES = 1000  # that are named: a path may be anything
Reason = Literal["card", "key", "unknown", "rotated", "damaged"]


class Reporter:
    """Made once for a configuration. `refused` counts the cards and records that were not what they should be.

    Args:
        on_event: the first subscriber; None: there is none.
        carrier: what has the card, "cookie" or "header".
        patience: seconds for which the end of an app waits for subscribers that are awaited.
    """

    def __init__(self, on_event: Subscriber | None, carrier: str = "cookie", patience: float = 2.0) -> None:
        self.refused: Counter[str] = Counter()
        self.deliveries: Deliveries = Deliveries(patience)
        self._subscribers: tuple[Callable[[Event], object], ...] = ()
        self._of_store: tuple[Callable[[Event], object], ...] = ()  # those of them that hear what the store does
        if on_event is not None:
            self.subscribe(on_event)
        self._carrier = carrier  # what has the card, "cookie" or "header"
        self._said: set[str] = set()
        self._routes: set[str] = set()  # of which it was said that changes were lost

    def subscribe(self, subscriber: Subscriber) -> None:
        """Hand each event to one more subscriber, from now on. One that is awaited gets it beside the request."""
        hears_store = getattr(subscriber, "hears_store", False) is True
        if is_awaited(subscriber):
            subscriber = partial(self.deliveries.put, cast(Awaited, subscriber))
        self._subscribers = (*self._subscribers, subscriber)
        if hears_store:
            self._of_store = (*self._of_store, subscriber)

    @property
    def is_heard(self) -> bool:
        """Whether anything listens to events."""
        return bool(self._subscribers) or _event_log.isEnabledFor(logging.DEBUG)

    def report(self, event: Event) -> None:
        """Log an event, and hand it to the subscribers. One that raises keeps it from none of the others."""
        if _event_log.isEnabledFor(logging.DEBUG):
            _event_log.debug("%r", event)
        self._hand_to(self._subscribers, event)

    def guarded(self, store: Store, timeout: float) -> GuardedStore:
        """Return a store under a clock. Its operations are timed where a subscriber hears of them.

        Args:
            store: the store itself.
            timeout: seconds that one operation may take.
        """
        if not self._of_store:
            return GuardedStore(store, timeout, self.report, lambda: self.is_heard)
        from roomkey.stores.timed import TimedStore  # here, because few apps have their store timed

        return TimedStore(
            store, timeout, self.report, lambda: self.is_heard, lambda asked: self._hand_to(self._of_store, asked)
        )

    def _hand_to(self, subscribers: tuple[Callable[[Event], object], ...], event: Event) -> None:
        for subscriber in subscribers:
            try:
                subscriber(event)
            except Exception:
                _log.exception("on_event raised for %s; sessions are not affected", type(event).__name__)

    def refuse(self, reason: Reason) -> None:
        """Count what was no session."""
        self.refused[reason] += 1
        if self.is_heard:
            self.report(Refused(reason))

    def warn_of_cookie(self, name: str) -> None:
        """Say once that the app itself sets a cookie of this name, which is ours."""
        self.warn_once(
            "cookie",
            "the app's response sets the cookie %r, and that is the name of Roomkey's session cookie. Each of the two "
            "ends the other's sessions. Give one of them another name (Roomkey's is session_cookie=...). If the app "
            "wants to log the user out, call the session's clear() instead",
            name,
        )

    def lose(self, lost: Lost, route: str) -> None:
        """Report that the end of a request did not save what it changed.

        Args:
            lost: what happened.
            route: what served the request, to be named in the log once; empty: it is not known.
        """
        if self.is_heard:
            self.report(lost)
        if lost.reason == "log-in" and route not in self._routes and len(self._routes) < _MOST_ROUTES:
            self._routes.add(route)
            _log.warning(
                "what a request%s changed in its session was not saved: somebody logged into it more than %g seconds "
                "ago, and the request began before that. Open WebSockets and streams anew after a log-in (said once "
                "for each route)",
                f" to {route!r}" if route else "",
                AFTER_LOG_IN,
            )

    def warn_too_late(self, route: str | None, who: str, what: str) -> None:
        """Say once for each route that a visitor's new session came too late. Every visitor would be a traceback.

        Args:
            route: the name of what served the request; None: nobody says.
            who: the same, for people.
            what: a sentence on what is too late there.
        """
        self.warn_once(
            f"too late: {route}",
            "%s put something into the session of a visitor who had none, after the response had started. A new "
            "session needs a %s, which could not go out any more, so nothing was saved. Put something into the "
            "session before the response starts. %s",
            who,
            self._carrier,
            what,
        )

    def warn_once(self, what: str, message: str, *args: object) -> None:
        """Log a warning, unless one about the same thing was logged before."""
        if what not in self._said:
            self._said.add(what)
            _log.warning(f"{message} (said once)", *args)
