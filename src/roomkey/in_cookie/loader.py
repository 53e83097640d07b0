"""Loads sessions from the cards that hold them: opened on the spot, and neither looked up nor waited for."""

from __future__ import annotations

import contextlib
from collections.abc import Coroutine
from dataclasses import replace
from math import inf
from typing import Any

from roomkey.core.loaded import CURRENT, Loaded, unfiled
from roomkey.core.loader import Loader, Otherwise
from roomkey.core.reporting import Reason
from roomkey.core.session import Session
from roomkey.errors import SessionDataError
from roomkey.events import Expired, LoadedWithOldKey
from roomkey.in_cookie.committer import CookieCommitter
from roomkey.in_cookie.sealed import SealedCards, new_id
from roomkey.legacy.move_in import Found
from roomkey.stores.base import Record
from roomkey.wire import codec
from roomkey.wire.codec import Facts

__all__ = ["CookieLoader"]


class CookieLoader(Loader):
    """Loads the sessions that browsers bring along."""

    def __init__(self, committer: CookieCommitter, session_class: type[Session]) -> None:
        super().__init__(committer, session_class)
        self.cards: SealedCards = committer.cards

    def is_stranger(self, card: bytes) -> bool:
        return self.cards.is_stranger(card)

    def load(self, cards: list[bytes], otherwise: Otherwise | None = None) -> Session | Coroutine[Any, Any, Session]:
        reason: Reason | None = None
        for card in cards:
            at = self.cards.open(card)
            if at is None:
                continue
            if self._clocks.is_over(self.clock(), at.record):
                # As a session that the server forgot.
                reason = "damaged" if self._clocks.is_absurd(at.record) else "unknown"
                if reason == "unknown" and self.reporter.is_heard:
                    self._tell_expired(at)
                continue
            try:
                data = codec.decode(at.encoded)
            except codec.DamagedData:
                reason = "damaged"
                continue
            if at.stale is not CURRENT:
                self.reporter.report(LoadedWithOldKey(at.key))
            try:
                user = self.rules.user_of(data)
            except SessionDataError as error:
                return self.refuse_unknown(error)
            at = at._replace(user=user, record=replace(at.record, user=user))
            session = self.session_class(data)
            session._origin, session._at = self, at
            is_stale = not data or at.stale is not CURRENT
            session._fresh_until = -inf if is_stale else self._clocks.fresh_until(at.record, at.facts)
            return session
        if reason is not None:
            return self.refuse(reason)
        return self.strangers(cards) if otherwise is None else _asks(otherwise, cards)

    def _tell_expired(self, at: Loaded) -> None:
        with contextlib.suppress(codec.DamagedData):
            self.reporter.report(Expired(at.key, self.rules.user_of(codec.decode(at.encoded))))

    def take_in(self, old: Found, facts: Facts) -> Session:
        """Return the session of a request that brought an old one. Nothing is kept here that says it has moved in.

        Raises:
            SessionDataError: it cannot be kept in cookies.
        """
        data = old.session.data
        user = self.rules.checked_user(data)
        encoded = codec.encode(data, facts)
        self.rules.check(data, encoded)
        self.cards.make(new_id(), Record(encoded, 1, 0.0, 0.0), one_cookie=False)
        session = self.session_class(codec.decode(encoded))
        session._origin, session._at = self, unfiled(encoded, facts, user)
        self.open(session).moving = old
        session._accessed = True
        return session


async def _asks(otherwise: Otherwise, cards: list[bytes]) -> Session:
    return await otherwise(cards)
