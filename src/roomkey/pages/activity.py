"""What happened to this process's sessions in the last hours, counted from their events."""

from __future__ import annotations

import datetime as dt
import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

from roomkey.clock import system_time
from roomkey.errors import ConfigurationError
from roomkey.events import Ended, Event, Lost, OutageBegan, OutageEnded, Refused, logs_in
from roomkey.options import named_options

__all__ = ["Activity", "Hour", "Outage"]

_HOUR = 3600
_MOST_OUTAGES = 20


@dataclass(frozen=True, slots=True)
class Hour:
    """What happened within one hour."""

    began: dt.datetime  # aware, UTC
    log_ins: int
    log_outs: int


@dataclass(frozen=True, slots=True)
class Outage:
    """The store did not answer as it should."""

    store: str  # its class's name
    error: str
    began: dt.datetime
    ended: dt.datetime | None  # None: it goes on


@named_options()
class Activity:
    """Counts what happens to sessions, by hour: a subscriber to the events, for `OperatorsPage`.

    `OperatorsPage(manager, ...)` makes one itself. Where the framework makes the manager, as Ravyn does, give one to
    both: `SessionConfig(on_event=activity)` and `OperatorsPage(config, ...)`. It knows one process, and what happened
    since it was made. It keeps numbers, and nobody's user ID.

    Args:
        hours: how many hours it keeps. 24 by default, at most 168.
        clock: returns Unix seconds.

    Raises:
        ConfigurationError: `hours` is no whole number from 1 to 168.

    Example:
        >>> from roomkey import SessionConfig
        >>> from roomkey.pages import Activity
        >>> activity = Activity()
        >>> config = SessionConfig(secret_key="k" * 32, store="memory://", on_event=activity)
    """

    def __init__(self, *, hours: int = 24, clock: Callable[[], float] = system_time) -> None:
        if type(hours) is not int or not 1 <= hours <= 168:
            raise ConfigurationError(f"hours: got {hours!r}; it takes a whole number from 1 to 168")
        self.number = hours
        self._clock = clock
        self._since = clock()
        self._counts: deque[tuple[int, Counter[str]]] = deque(maxlen=hours)  # the hour, and what happened in it
        self._outages: deque[Outage] = deque(maxlen=_MOST_OUTAGES)
        self._lock = threading.Lock()  # blocking frameworks report from several threads

    def __call__(self, event: Event) -> None:
        """Count an event."""
        with self._lock:
            if isinstance(event, OutageBegan):
                self._outages.append(Outage(event.store, event.error, _moment(self._clock()), None))
            elif isinstance(event, OutageEnded):
                self._end_outage(event.store)
            else:
                kind = _kind_of(event)
                if kind is not None:
                    self._now()[kind] += 1

    def _now(self) -> Counter[str]:
        hour = int(self._clock() // _HOUR)
        if not self._counts or self._counts[-1][0] < hour:  # a clock that was set back goes on with the last hour
            self._counts.append((hour, Counter()))
        return self._counts[-1][1]

    def _end_outage(self, store: str) -> None:
        for number, each in enumerate(self._outages):
            if each.store == store and each.ended is None:
                ended = _moment(self._clock())
                self._outages[number] = Outage(each.store, each.error, each.began, ended)

    @property
    def since(self) -> dt.datetime:
        """When it began to count (aware, UTC)."""
        return _moment(self._since)

    @property
    def hours(self) -> list[Hour]:
        """The last hours, the oldest first, also those in which nothing happened."""
        with self._lock:
            counts = dict(self._counts)
        last = int(self._clock() // _HOUR)
        return [
            Hour(_moment(hour * _HOUR), counts.get(hour, _NONE)["log_in"], counts.get(hour, _NONE)["log_out"])
            for hour in range(last - self.number + 1, last + 1)
        ]

    @property
    def totals(self) -> Counter[str]:
        """How often each kind of thing happened in these hours: `log_in`, `log_out`, `revoked`, `refused`, `lost`."""
        first = int(self._clock() // _HOUR) - self.number + 1
        with self._lock:
            return sum((counts for hour, counts in self._counts if hour >= first), Counter())

    @property
    def outages(self) -> list[Outage]:
        """The last 20 outages, the latest first."""
        with self._lock:
            return [*reversed(self._outages)]


_NONE: Counter[str] = Counter()


def _kind_of(event: Event) -> str | None:
    """Return what an event is counted as; None: it is not. Who acts for a user has not logged in or out for that."""
    if logs_in(event):
        return "log_in"
    if isinstance(event, Ended) and event.user is not None and event.actor is None:
        return "log_out" if event.reason == "cleared" else "revoked"
    if isinstance(event, Refused):
        return "refused"
    return "lost" if isinstance(event, Lost) else None


def _moment(seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.UTC)
