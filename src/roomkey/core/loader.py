"""Loads the session of a request from the cards that its browser sent.

A card is the signed value of Roomkey's cookie. Where the store answers without waiting, so does a loader.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine
from math import inf
from types import CoroutineType
from typing import Any

from roomkey.clock import Ticks
from roomkey.core.beside import OtherCards
from roomkey.core.cards import Card, Cards
from roomkey.core.committer import Committer
from roomkey.core.loaded import CURRENT, NOWHERE, Stale, Stored
from roomkey.core.registry import Registry
from roomkey.core.renewal import LATE
from roomkey.core.reporting import Reason, Reporter
from roomkey.core.rules import Rules
from roomkey.core.session import Session
from roomkey.core.swaps import StoreCommitter
from roomkey.core.transaction import Transaction
from roomkey.errors import SessionDataError
from roomkey.events import Expired, LoadedWithOldKey, Misfit
from roomkey.stores.base import Record, Unreadable
from roomkey.stores.guard import GuardedStore
from roomkey.wire import codec
from roomkey.wire.about import about_in
from roomkey.wire.cookies import AROUND, Headers, find_cookies, find_one
from roomkey.wire.envelope import Envelope
from roomkey.wire.facts import ACTING, KEY_BYTES
from roomkey.wire.keys import Keyring
from roomkey.wire.user_ids import text_of

__all__ = ["Loader", "Otherwise", "StoreLoader"]

LoadNow = Callable[[str], Any]  # a record, None, or a coroutine that returns one of these
Ask = Callable[[str], Awaitable[Record | None]]
Otherwise = Callable[[list[bytes]], Awaitable[Session]]


class Loader(ABC):
    """Loads the sessions of one configuration; made once.

    Args:
        committer: commits them.
        session_class: what a handler gets; `Session` or a subclass.
    """

    def __init__(self, committer: Committer, session_class: type[Session]) -> None:
        self.committer: Committer = committer
        self.session_class: type[Session] = session_class
        self.rules: Rules = committer.rules
        self.reporter: Reporter = committer.reporter
        self.clock: Callable[[], float] = self.rules.clock
        self.ticks: Ticks = self.rules.ticks
        self._clocks = self.rules.clocks

    @abstractmethod
    def load(self, cards: list[bytes], otherwise: Otherwise | None = None) -> Session | Coroutine[Any, Any, Session]:
        """Return the session of a request that brought these cards, or a coroutine that does.

        The first genuine card whose session lives counts.

        Args:
            cards: the values of Roomkey's own cookie.
            otherwise: is asked where none of them is genuine.

        Raises:
            StoreUnavailable: whether there is a session cannot be known.
        """

    def load_fresh(
        self, cards: list[bytes], otherwise: Otherwise | None = None
    ) -> Session | Coroutine[Any, Any, Session]:
        """As `load`, from the store in any case."""
        return self.load(cards, otherwise)

    @abstractmethod
    def is_stranger(self, card: bytes) -> bool:
        """Whether `card` has the form of one, and names a secret key that is none of ours."""

    def anonymous(self) -> Session:
        """Return the session of a request that brought no card."""
        session = self.session_class()
        session._origin = self
        return session

    def open(self, session: Session) -> Transaction:
        """Return a new transaction for a session."""
        return Transaction(self.committer, session)

    def transaction_of(self, session: Session) -> Transaction:
        """Return the transaction that a session has, or else a new one."""
        transaction = session._transaction
        return transaction if isinstance(transaction, Transaction) else self.open(session)

    def report_misfit(self, misfit: Misfit) -> None:
        """Report a value that does not fit the shape that it was asked for in. The log says it once for each field."""
        self.reporter.report(misfit)
        self.reporter.warn_once(
            f"misfit {misfit.shape}.{misfit.field}",
            "what a session holds under %r does not fit the field of %s. The field's default is served, and what is "
            "stored stays until the field is assigned",
            misfit.field,
            misfit.shape,
        )

    def check_lifetime(self, seconds: float) -> None:
        """Warn, once, where a session is to be remembered for longer than it can live.

        Args:
            seconds: for how long, after its last use.
        """
        cap = self._clocks.cap
        if cap is not None and seconds > cap:
            self.reporter.warn_once(
                "remember",
                "session.remember(%s): the session ends sooner, %s seconds after the log-in, because of "
                "absolute_timeout; remember it for less, or give SessionConfig a higher absolute_timeout",
                seconds,
                cap,
            )

    def refuse(self, reason: Reason) -> Session:
        """Count what was no session, and return that of an anonymous request."""
        self.reporter.refuse(reason)
        return self.anonymous()

    def refuse_unknown(self, error: SessionDataError) -> Session:
        """Count a session of which nobody can tell whose it is, and say so once."""
        self.reporter.warn_once("whose", "sessions count as damaged, for nobody knows whose they are: %s", error)
        return self.refuse("damaged")

    def strangers(self, cards: list[bytes]) -> Session:
        """Return the session of a request none of whose cards is genuine; warn where that is for want of a key."""
        if not cards:
            return self.anonymous()
        if not any(map(self.is_stranger, cards)):
            return self.refuse("card")
        header = self.committer.config.card_header
        self.reporter.warn_once(
            "strangers",
            "a session %s was signed by a secret key that is not in secret_key%s; if users are logged out at random, "
            "each worker makes a key of its own when it starts: give all of them the same",
            "cookie" if header is None else f"card in the header {header}",
            "" if header is None else ", or was made for a cookie or another header",
        )
        return self.refuse("key")


class StoreLoader(Loader):
    """Loads sessions from a store."""

    def __init__(self, committer: StoreCommitter, session_class: type[Session]) -> None:
        super().__init__(committer, session_class)
        self.keyring: Keyring = committer.keyring
        self.registry: Registry = committer.registry
        self.store: GuardedStore = committer.store
        self.envelope: Envelope = committer.envelope
        self.cards: Cards = Cards(committer.keyring, committer.envelope)
        self._load_now: LoadNow = committer.store.load_now
        self._cookie_name = committer.config.session_cookie.encode("ascii")
        self._cookie_start = b"; " + self._cookie_name + b"="
        self._is_plain = not committer.config.seal
        self._plain_key, self._whose = self.rules.plain_key, self.rules.whose
        # With one secret key, nothing can have been made with another.
        self._has_old_keys = len(committer.config.secret_key.values) > 1

    def is_stranger(self, card: bytes) -> bool:
        return self.keyring.is_stranger(card)

    def load(self, cards: list[bytes], otherwise: Otherwise | None = None) -> Session | Coroutine[Any, Any, Session]:
        if not any(map(self.cards.verify, cards)) and otherwise is None:
            return self.strangers(cards)
        return self._search(cards, otherwise, self.store.load)

    def from_headers(self, headers: Headers, _: object = None) -> Session | Coroutine[Any, Any, Session]:
        """As `load`, from the raw headers of a request, where nothing can move in: in as few steps as possible."""
        sent = b""
        for name, value in headers:
            if name == b"cookie":
                if sent:  # several headers: HTTP/2 may split them
                    return self.load(find_cookies(headers, self._cookie_name))
                sent = value
        if not sent:
            session = self.session_class()
            session._origin = self
            return session
        card = self.cards.by_header.get(sent)
        if card is None:
            return self._from_cookies(headers, sent)
        try:
            answer = self._load_now(card.key)
        except Unreadable:
            return self.refuse("damaged")
        if type(answer) is Record and answer.successor is None:
            return self._opened(card.key, answer, card.secret, card)
        return self._look_for(card, answer)

    def _from_cookies(self, headers: Headers, sent: bytes) -> Session | Coroutine[Any, Any, Session]:
        """As `from_headers`, for a `Cookie` header that was not seen before."""
        value = find_one(sent, self._cookie_name, self._cookie_start)
        if value is None:  # several, or written in another way
            return self.load(find_cookies(headers, self._cookie_name))
        if not value:
            return self.anonymous()
        card = self.cards.verify(value)
        if card is None:
            if value.strip(AROUND) != value:
                return self.load(find_cookies(headers, self._cookie_name))
            return self.strangers([value]) if self.keyring.is_stranger(value) else self.refuse("card")
        self.cards.remember(sent, card)
        try:
            answer = self._load_now(card.key)
        except Unreadable:
            return self.refuse("damaged")
        if type(answer) is Record and answer.successor is None:
            return self._opened(card.key, answer, card.secret, card)
        return self._look_for(card, answer)

    async def _look_for(self, card: Card, answer: Record | CoroutineType[Any, Any, Record | None] | None) -> Session:
        """Load the session of the only card, which the store has begun to look for."""
        try:
            record = await answer if type(answer) is CoroutineType else answer
        except Unreadable:
            return self.refuse("damaged")
        return await self._found(card, record)

    async def _search(self, cards: list[bytes], otherwise: Otherwise | None, ask: Ask) -> Session:
        # Another site below the same domain may have put a card before ours, and so may an earlier `path` or `domain`.
        refused: Session | None = None
        may_begin = True
        for value in cards:
            card = self.cards.verify(value)
            if card is None:
                continue
            try:
                session = await self._found(card, await ask(card.key))
            except Unreadable:
                session = self.refuse("damaged")
            if session._at is not NOWHERE:
                self._note_others(session, card, cards)
                return session
            refused = session
            may_begin = may_begin and _may_begin(session)
        if refused is not None:
            if not may_begin and _may_begin(refused):
                self.open(refused).may_begin = False
            return refused
        return self.strangers(cards) if otherwise is None else await otherwise(cards)

    def _note_others(self, session: Session, card: Card, cards: list[bytes]) -> None:
        """Note which other sessions the request brought. Those before this one are known to have ended."""
        if len(cards) > 1:
            others = {other.key: other for other in map(self.cards.verify, cards) if other is not None}
            others.pop(card.key)
            if others:
                transaction = self.transaction_of(session)
                transaction.beside = OtherCards(self.registry, others.values(), also=transaction.beside)

    async def _found(self, card: Card, record: Record | None) -> Session:
        """Return the session of a request with this card, which led to this record."""
        if record is None:
            return self.refuse("unknown")
        if record.successor is not None:
            return await self.follow(record, card.secret)
        opened = self._opened(card.key, record, card.secret, card)
        return opened if isinstance(opened, Session) else await opened

    async def opened(self, stored: Stored) -> Session:
        """Return the session in a record; an anonymous one where it has expired or cannot be read.

        Another response carries its card, and this one sends none.
        """
        opened = self._opened(stored.key, stored.record, stored.secret, None)
        return opened if isinstance(opened, Session) else await opened

    async def _in_place_of(self, own: Session) -> Session:
        """Return the session in which an actor acts for a user (`roomkey.core.acting`); `own` where that has ended.

        Raises:
            StoreUnavailable: whether it has ended cannot be known.
        """
        actor = own._at
        key, secret = actor.facts.acting[:KEY_BYTES].hex(), actor.facts.acting[KEY_BYTES:]
        try:
            record = await self.store.load(key)
        except Unreadable:
            record = None
        if record is not None and record.successor is None and about_in(record.about).actor == actor.user:
            session = self._opened(key, record, secret, None)
            if not isinstance(session, Session):
                session.close()  # nobody acts for somebody who acts
            elif session._at.exists:
                transaction = self.open(session)
                transaction.actor, transaction.renews = actor, False
                transaction.beside = OtherCards(self.registry, [Card(b"", actor.key, actor.secret, is_old=False)])
                return session
        own._intents = own._intents._replace(acting=b"")  # the next save notes that it has ended
        return own

    def _opened(
        self, key: str, record: Record, secret: bytes, card: Card | None
    ) -> Session | Coroutine[Any, Any, Session]:
        try:
            encoded = record.data if self._is_plain else self.envelope.open(record, key, secret)
            data, lifetime = codec.decode_with_lifetime(encoded)
        except codec.DamagedData:
            over = self._clocks.is_over(self.clock(), record)
            return self._refuse_over(key, record) if over else self.refuse("damaged")
        fresh_until = self._clocks.fresh_while(self.ticks.time(), record, lifetime)
        if fresh_until is None:
            return self._refuse_over(key, record)
        user = None
        if self._whose is not None:
            if self._plain_key is not None:
                user = text_of(data.get(self._plain_key))
            else:
                try:
                    user = self._whose.text_in(data)
                except SessionDataError as error:
                    return self.refuse_unknown(error)
            if record.user != user:
                return self.refuse("damaged")  # filed under one user, and holding another's session: the store errs
        session_id, stale = None, CURRENT
        if card is not None:
            session_id = card.session_id
            if self._has_old_keys:
                stale = self._stale(card, record)
        session = self.session_class(data)
        session._origin = self
        session._loaded = (key, record, secret, encoded, user, session_id, stale)
        # An empty session ends where it is used, and an old card is signed anew: whatever the time.
        session._fresh_until = fresh_until if data and stale is CURRENT else -inf
        return session if encoded[0] != ACTING else self._in_place_of(session)

    def _refuse_over(self, key: str, record: Record) -> Session:
        """Count a record that is over; as one that is damaged, where no clock shows its moments."""
        if self._clocks.is_absurd(record):
            return self.refuse("damaged")
        if self.reporter.is_heard:
            self.reporter.report(Expired(key, record.user))
        return self.refuse("unknown")

    def _stale(self, card: Card, record: Record) -> Stale:
        """Return what was made with another secret key than the first."""
        stale = Stale.CARD if card.is_old else CURRENT
        if self.envelope.is_old(record.data):
            stale = Stale.DATA
        if stale is not CURRENT:
            self.reporter.report(LoadedWithOldKey(card.key))
        return stale

    async def follow(self, tombstone: Record, secret: bytes) -> Session:
        """Return the session of a request with an old ID. It sends no cookie: another response carries the new one."""
        try:
            stored = await self.registry.in_grace(tombstone, secret)
        except codec.DamagedData:
            return self.refuse("damaged")
        if stored is not None:
            return await self.opened(stored)
        session = self.refuse("rotated")
        # Sent before the browser had the new cookie, which an anonymous session's must not overwrite.
        if self._clocks.serves(self.clock(), tombstone, LATE):
            self.open(session).may_begin = False
        return session


def _may_begin(session: Session) -> bool:
    transaction = session._transaction
    return not isinstance(transaction, Transaction) or transaction.may_begin
