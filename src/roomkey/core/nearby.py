"""Loads sessions from this process's memory, where they were read a moment ago and nobody said that they have changed.

A request that is served like that counts as one that began up to `near_max_age` sooner. Its changes are saved by
compare-and-swap as all others are. Where that is not good enough, the store is asked: on the routes of `fresh`, and by
whatever decides what a user may do (`Nearby.ask`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from math import inf
from types import CoroutineType
from typing import Any

from roomkey.core.cards import Card
from roomkey.core.intents import NOTHING
from roomkey.core.loaded import NOWHERE
from roomkey.core.loader import Otherwise, StoreLoader
from roomkey.core.session import Session
from roomkey.core.swaps import StoreCommitter
from roomkey.errors import ConfigurationError, SessionEnded
from roomkey.stores.base import Record, Unreadable
from roomkey.stores.near import HasNotices, Near
from roomkey.wire import codec

__all__ = ["NearLoader", "Nearby", "ask_store", "is_near", "loader_for"]


class Nearby:
    """What a session knows of where it came from, as long as it may be out of date.

    Args:
        loader: loaded it.
        card: what opened it; None: it came from the store after all.
        came: when, in Unix seconds.
        run: waits for a coroutine, where the request's handler may wait; None: it may not.
    """

    __slots__ = ("came", "card", "loader", "run")

    def __init__(
        self,
        loader: NearLoader,
        card: Card | None,
        came: float,
        run: Callable[[Awaitable[bool]], bool] | None = None,
    ) -> None:
        self.loader: NearLoader = loader
        self.card: Card | None = card
        self.came: float = came
        self.run: Callable[[Awaitable[bool]], bool] | None = run

    def blocking(self, run: Callable[[Awaitable[bool]], bool]) -> Nearby:
        """Return the same, for a handler that may wait."""
        return Nearby(self.loader, self.card, self.came, run)

    async def ask(self, session: Session) -> bool:
        """Have a session be what the store says. Returns whether it still is one.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        return await self.loader.ask(session, self)

    async def refresh(self, session: Session) -> None:
        """See `Session.refresh`."""
        if self.card is None:
            await session._attached().refresh()
        elif not await self.ask(session):
            raise SessionEnded("the session was ended before this request began")
        session._nearby = None

    def ask_now(self, session: Session, what: str) -> None:
        """As `ask`, for a call that cannot be awaited.

        Args:
            session: the session.
            what: the call.

        Raises:
            ConfigurationError: the handler may not wait. Also where the session came from the store: whether it did
                depends on what other requests did before.
            StoreUnavailable: the store did not answer.
        """
        if self.run is None:
            raise ConfigurationError(
                f"{what}: with near_cache, the session of this request may come from memory, and {what} cannot wait "
                "for the store; name the route in fresh=[...], or call `await session.refresh()` before"
            )
        self.run(self.ask(session))


class NearLoader(StoreLoader):
    """Loads sessions from memory, or from the store."""

    def __init__(self, committer: StoreCommitter, session_class: type[Session], near: Near) -> None:
        super().__init__(committer, session_class)
        self.near: Near = near
        self._load_now = near.load_now

    def load(self, cards: list[bytes], otherwise: Otherwise | None = None) -> Session | Coroutine[Any, Any, Session]:
        if not any(map(self.cards.verify, cards)) and otherwise is None:
            return self.strangers(cards)
        return self._search(cards, otherwise, self._from_near)

    async def _from_near(self, key: str) -> Record | None:
        answer = self.near.load_now(key)
        return await answer if isinstance(answer, CoroutineType) else answer

    def load_fresh(
        self, cards: list[bytes], otherwise: Otherwise | None = None
    ) -> Session | Coroutine[Any, Any, Session]:
        answer = super().load(cards, otherwise)
        return answer if isinstance(answer, Session) else self._fresh(answer)

    async def _fresh(self, answer: Coroutine[Any, Any, Session]) -> Session:
        session = await answer
        session._nearby = None
        return session

    def _opened(
        self, key: str, record: Record, secret: bytes, card: Card | None
    ) -> Session | Coroutine[Any, Any, Session]:
        session = super()._opened(key, record, secret, card)
        if not isinstance(session, Session):
            session.close()
            return self._from_store(key, secret, card)  # somebody acts for a user: never by what memory says
        session._nearby = Nearby(self, card if self.near.holds(key, record) else None, self.ticks.time())
        return session

    async def _from_store(self, key: str, secret: bytes, card: Card | None) -> Session:
        try:
            record = await self.store.load(key)
        except Unreadable:
            return self.refuse("damaged")
        if record is None:
            return self.refuse("unknown")
        if record.successor is not None:
            return await self.follow(record, secret)
        opened = super()._opened(key, record, secret, card)
        session = opened if isinstance(opened, Session) else await opened
        session._nearby = None
        return session

    async def ask(self, session: Session, nearby: Nearby) -> bool:
        """See `Nearby.ask`."""
        card, at = nearby.card, session._at
        if card is None or at.key != card.key:  # this request has rotated it or ended it since
            session._nearby = None
            return at.exists
        try:
            record = await self.store.load(card.key)
        except Unreadable:
            record = None
        is_there = record is not None and not self._clocks.is_over(self.clock(), record)
        if is_there and record is not None:
            if record.successor is None and record.version == session._at.record.version:
                session._nearby = None
                return True
            is_there = record.successor is None or await self._was_served(record, card, nearby.came)
        if is_there:
            try:
                await self.transaction_of(session).refresh()
            except SessionEnded:
                is_there = False
        if not is_there:
            await self._end(session)
        session._nearby = None
        return is_there

    async def _was_served(self, tombstone: Record, card: Card, came: float) -> bool:
        """Whether the store would have served the old ID when the request came."""
        try:
            return await self.registry.in_grace(tombstone, card.secret, came, late=0.0) is not None
        except codec.DamagedData:
            return False

    async def _end(self, session: Session) -> None:
        """Have a session be that of a visitor, as if the request had found none."""
        transaction = self.transaction_of(session)
        await transaction.enter()
        try:
            self.reporter.refuse("unknown")
            transaction.detach()
            dict.clear(session)
            session._changed = session._shared = False
            session._put, session._intents, session._fresh_until = None, NOTHING, inf
            assert session._at is NOWHERE
        finally:
            transaction.leave()


def is_near(session: object) -> bool:
    """Whether a session may have come from memory, so that `ask_store` has something to do."""
    return getattr(session, "_nearby", None) is not None


async def ask_store(session: object) -> None:
    """Have a session be what the store says, where it came from memory: before it is decided what a user may do.

    Raises:
        StoreUnavailable: the store did not answer.
    """
    nearby = getattr(session, "_nearby", None)
    if nearby is not None:
        await nearby.ask(session)


def loader_for(committer: StoreCommitter, session_class: type[Session]) -> StoreLoader:
    """Return what loads the sessions of a configuration."""
    config, store = committer.config, committer.store.store
    if config.near_cache is None or committer.store.never_waits or not isinstance(store, HasNotices):
        return StoreLoader(committer, session_class)
    ticks, max_age = committer.rules.ticks, config.near_max_age
    near = Near(committer.store, store.notices(), most=config.near_cache, max_age=max_age, ticks=ticks)
    committer.store.near = near
    return NearLoader(committer, session_class, near)
