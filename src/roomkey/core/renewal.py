"""Every rule about time: the two clocks of a session, when it is renewed, and how long a tombstone serves.

A session has an idle timeout, which each renewal moves, and an absolute one, which counts from its beginning or its
last log-in. Moments are Unix seconds. Each function gets `now`, and none of them reads a clock.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, NamedTuple

from roomkey.stores.base import Record
from roomkey.wire.codec import Facts
from roomkey.wire.envelope import lifetime_in

if TYPE_CHECKING:
    from roomkey.config import SessionConfig

__all__ = ["AFTER_LOG_IN", "CLOCK_ERROR", "LATE", "RENEWALS", "Clocks", "Expiry"]

RENEWALS = 10  # a session is renewed at most once in this fraction of its idle timeout
LATE = 30.0  # seconds for which requests from before a rotation may still come in
AFTER_LOG_IN = 60.0  # seconds for which requests from before somebody logged in may still save into that session
_FRESH = 1 - 1 / RENEWALS  # of its idle timeout: with more than that left, no renewal is due
_UNSEEN = 0.99 - 1 / RENEWALS  # of its idle timeout, for which a session is renewed where its cookie is not
CLOCK_ERROR = 86400.0  # seconds that a server's clock may have been ahead when a session began
_LATEST = 2.5e11  # Unix seconds, in the year 9892: a `datetime` ends soon after
_OLDEST = 6e10  # seconds, about 1,900 years: sooner than that, a `datetime` has not begun


class Expiry(NamedTuple):
    """When a session that is saved now began and expires, and whether the save renews it."""

    created_at: float
    expires_at: float
    is_renewed: bool


class Clocks:
    """The timeouts of one configuration."""

    def __init__(self, config: SessionConfig) -> None:
        self.idle: float = config.idle_timeout  # seconds
        self.cap: float | None = config.absolute_timeout  # seconds; None: no absolute timeout
        self.fresh: float = self.idle * _FRESH  # seconds
        self._cap = _OLDEST if self.cap is None else min(self.cap, _OLDEST)

    def is_over(self, now: float, record: Record) -> bool:
        """Whether a record has outlived one of its two clocks, whatever the store says.

        So has one from the future, made while a clock was wrong: neither clock would ever end it.
        """
        return self.fresh_while(now, record, None) is None

    def is_absurd(self, record: Record) -> bool:
        """Whether a record that is over has moments that no clock shows: others wrote it, or it is damaged."""
        try:
            for moment in (record.created_at, record.expires_at):
                dt.datetime.fromtimestamp(moment, dt.UTC)
        except (TypeError, ValueError, OverflowError, OSError):
            return True
        return False

    def fresh_while(self, now: float, record: Record, lifetime: float | None) -> float | None:
        """Return until when no renewal is due; None: the session is over. For every request, in one step.

        Args:
            now: the moment.
            record: of the session.
            lifetime: seconds that it lives after it was last used; None: the configuration's.
        """
        try:
            if (
                now < record.expires_at < _LATEST
                and now - self._cap < record.created_at < now + CLOCK_ERROR
                and type(record.version) is int
            ):
                return record.expires_at - (self.fresh if lifetime is None else lifetime * _FRESH)
        except TypeError:  # a row that others wrote: no number
            pass
        return None

    def serves(self, now: float, tombstone: Record, longer: float = 0.0) -> bool:
        """Whether an old ID is still served, or was `longer` seconds ago; never, where the store says no time."""
        try:
            return now < tombstone.serve_until + longer < _LATEST
        except TypeError:  # a row that others wrote
            return False

    def is_past(self, now: float, log_in: float | None) -> bool:
        """Whether a request from before a log-in comes too late to save into the session of whoever logged in.

        Whoever planted the ID of that session may hold a WebSocket open since then.

        Args:
            now: the moment.
            log_in: when somebody logged in. None: nobody knows, as in a row that others wrote.
        """
        try:
            return log_in is None or now >= log_in + AFTER_LOG_IN
        except TypeError:  # a row that others wrote
            return True

    def idle_of(self, facts: Facts) -> float:
        """Return for how many seconds a session lives after it was last used."""
        return self.idle if facts.lifetime is None else facts.lifetime

    def until(self, now: float, facts: Facts, *, seen: bool = True) -> float:
        """Return until when the store keeps a session that is used now.

        The absolute timeout may end it sooner (`end_of`). It is not part of this, so that the list of a user's sessions
        can tell from it when each was last used.

        Args:
            now: the moment.
            facts: those of the session.
            seen: whether the response renews the browser's cookie too. Where it cannot, the session is kept for a
                little less, so that a renewal stays due: else a stream that saves would leave the cookie to die.
        """
        return now + self.idle_of(facts) * (1 if seen else _UNSEEN)

    def end_of(self, created_at: float, expires_at: float) -> float:
        """Return when a session ends if nobody uses it any more."""
        return expires_at if self.cap is None else min(expires_at, created_at + self.cap)

    def fresh_until(self, record: Record, facts: Facts) -> float:
        """Return until when no renewal is due."""
        return record.expires_at - (self.fresh if facts.lifetime is None else facts.lifetime * _FRESH)

    def is_due(self, now: float, record: Record, facts: Facts, *, seen: bool = True) -> bool:
        """Whether a session that is used now is to be renewed: at most once in a tenth of the idle timeout."""
        if now < self.fresh_until(record, facts):
            return False
        return self.until(now, facts, seen=seen) - record.expires_at >= self.idle_of(facts) / RENEWALS

    def renewed(self, now: float, record: Record, facts: Facts, *, seen: bool) -> float:
        """Return the expiry of a session that is renewed now. A renewal never shortens."""
        return max(self.until(now, facts, seen=seen), record.expires_at)

    def expiry(
        self,
        now: float,
        record: Record,
        before: Facts,
        facts: Facts,
        *,
        seen: bool,
        rotates: bool = False,
        renews: bool = True,
    ) -> Expiry:
        """Return the expiry of a session that is saved now.

        Args:
            now: the moment.
            record: what the save replaces.
            before: the facts of that record.
            facts: those that are saved. A log-in has both clocks start anew (NIST SP 800-63B section 5.2), and another
                lifetime counts at once, also a shorter one.
            seen: as for `until`.
            rotates: a new ID is renewed in any case: its cookie goes out.
            renews: whether the request renews anything. A log-in and another lifetime count all the same.
        """
        created_at, proves = record.created_at, facts.authenticated_at != before.authenticated_at
        if facts.authenticated_at is not None and proves:
            created_at = facts.authenticated_at
        if facts.lifetime != before.lifetime:
            return Expiry(created_at, self.until(now, facts, seen=seen), True)
        if not (renews or proves):
            return Expiry(created_at, record.expires_at, False)
        if rotates or self.is_due(now, record, facts, seen=seen):
            return Expiry(created_at, self.renewed(now, record, facts, seen=seen), True)
        return Expiry(created_at, record.expires_at, False)

    def last_used(self, now: float, record: Record) -> float:
        """Return when a session was last used, as exactly as renewals are."""
        lifetime = lifetime_in(record.data)
        used = record.expires_at - (self.idle if lifetime is None else lifetime)
        return min(max(record.created_at, used), now)
