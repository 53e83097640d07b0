"""The life of a session: arrive, expire, end. With `roomkey.visit`, every decision is here.

A `Lifecycle` belongs to one configuration; a `Visit` to one request. Neither knows ASGI: a visit takes the cards that
the browser sent and says, through `Visit.cookie`, what to do with the cookie. The only I/O is the store's.
"""

from __future__ import annotations

import contextlib
import logging
import random
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, cast

from roomkey.config import SessionConfig
from roomkey.errors import SessionDataError, StoreUnavailable
from roomkey.events import Ended, Event, LoadedWithOldKey, Refused
from roomkey.session import Session
from roomkey.stores.base import Conflict, Record, Store, Unreadable
from roomkey.stores.guard import GuardedStore
from roomkey.turns import Turns
from roomkey.visit import RENEWALS, Gone, Place, Visit, unreadable
from roomkey.wire import codec, user_ids
from roomkey.wire.codec import NO_FACTS, Facts
from roomkey.wire.envelope import envelope_for, lifetime_in
from roomkey.wire.keys import Keyring, store_key

if TYPE_CHECKING:
    import asyncio  # at run time it is imported where it is used: it is half of the time that `import roomkey` takes

    from roomkey.legacy.move_in import MoveIn
    from roomkey.legacy.readers import Cookies


__all__ = ["Lifecycle"]

_log = logging.getLogger("roomkey")
_event_log = logging.getLogger("roomkey.events")
_MOST_REFUSALS = 50  # in a row, of the version that was just read
_REFUSED_WAIT = 0.02  # seconds between them
_PURGE_EVERY = 60.0  # seconds between two purges
_PURGE_BATCH = 500  # records
_UNSEEN = 0.99 - 1 / RENEWALS  # of its idle timeout, for which a session is renewed where its cookie is not
_LATE = 30.0  # seconds for which requests from before a rotation may still come in
_CLOCK_ERROR = 86400.0  # seconds that a server's clock may have been ahead when a session began
_LATEST = 2.5e11  # Unix seconds, in the year 9892: a `datetime` ends soon after


class Lifecycle:
    """Sessions under one configuration; made once.

    `refused` counts the cards and records that were not what they should be, by reason.
    """

    def __init__(self, config: SessionConfig) -> None:
        store = cast(Store, config.store)  # a CookieStore has a lifecycle of its own, which asks this one for nothing
        self.config = config
        self.keyring = Keyring(config.secret_key, purpose="session cookie", name=config.session_cookie)
        self.envelope = envelope_for(config)
        self.store = GuardedStore(store, config.store_timeout, self.tell)
        self.clock = config.clock
        self.refused: Counter[str] = Counter()
        self.idle = config.idle_timeout
        self.limit = config.max_sessions_per_user
        self.turns = Turns()
        self.unfinished: set[asyncio.Future[bool]] = set()  # commits that go on though their requests were cancelled
        self._purged_at = self.clock()
        self._warned_of_strangers = self.warned_of_old = False
        self.move_in: MoveIn | None = None
        if config.legacy:
            from roomkey.legacy.move_in import MoveIn  # here, because few apps move in

            self.move_in = MoveIn(config.legacy, config, self.refused)

    def tell(self, event: Event) -> None:
        """Log an event, and hand it to whoever subscribed."""
        if _event_log.isEnabledFor(logging.DEBUG):
            _event_log.debug("%r", event)
        if self.config.on_event is not None:
            try:
                self.config.on_event(event)
            except Exception:
                _log.exception("on_event raised for %s; sessions are not affected", type(event).__name__)

    def refuse(self, reason: Literal["card", "key", "unknown", "rotated", "damaged"]) -> Visit:
        """Count what was no session, and return the visit of an anonymous request."""
        self.refused[reason] += 1
        self.tell(Refused(reason))
        return self.anonymous()

    def forget(self, commit: asyncio.Future[bool]) -> None:
        """Take note of a commit that has come to its end."""
        self.unfinished.discard(commit)
        if not commit.cancelled():
            commit.exception()  # heard: a request that was cancelled does not ask any more

    async def finish(self) -> None:
        """Wait for commits that go on though their requests were cancelled, before the store closes."""
        if self.unfinished:
            import asyncio

            await asyncio.wait(self.unfinished, timeout=self.config.store_timeout)

    def anonymous(self) -> Visit:
        """Return the visit of a request that brought no card."""
        return Visit(self, Session())

    async def arrive(self, cards: list[bytes], cookies: Cookies | None = None) -> Visit:
        """Return the visit of a request that brought these cards; the first genuine one whose session lives counts.

        Another site below the same domain may have put one before it, and so may an earlier `path` or `domain`.

        Args:
            cards: the values of Roomkey's own cookie.
            cookies: gives the values of any cookie, for sessions that are to move in.

        Raises:
            StoreUnavailable: whether there is a session cannot be known.
        """
        refused: Visit | None = None
        may_begin = True
        for card in cards:
            session_id = self.keyring.verify(card)
            if session_id is None:
                continue
            key, secret = store_key(session_id), self.envelope.secret_of(session_id)
            try:
                record = await self.store.load(key)
            except Unreadable:
                refused = self.refuse("damaged")
                continue
            if record is None:
                refused = self.refuse("unknown")
                continue
            is_current = record.successor is None
            visit = self.visit_at(key, record, secret) if is_current else await self.follow(record, secret)
            if visit.record is None:
                refused, may_begin = visit, may_begin and visit.may_begin
                continue
            if is_current:
                visit.session_id = session_id
                if self.keyring.is_old(card) or self.envelope.is_old(record.data):
                    visit.has_old_key = True
                    self.tell(LoadedWithOldKey(key))
            return visit
        if refused is not None:
            refused.may_begin = may_begin
            return refused
        # Only here: who brings a genuine card whose session has ended has logged out.
        old = await self.move_in.find(cookies) if self.move_in is not None and cookies is not None else None
        if old is not None:
            from roomkey.legacy.arrival import arrive_with  # here, because few apps move in

            try:
                return await arrive_with(self, old)
            except Unreadable:
                return self.refuse("damaged")
        return self._refuse_cards(cards) if cards else self.anonymous()

    async def follow(self, tombstone: Record, secret: bytes) -> Visit:
        """Return the visit of a request with an old ID; it gets no cookie: that travels with another response."""
        try:
            place = await self._in_grace(tombstone, secret)
        except codec.DamagedData:
            return self.refuse("damaged")
        if place is not None:
            return self.visit_at(*place)
        visit = self.refuse("rotated")
        # Sent before the browser had the new cookie, which an anonymous session's must not overwrite.
        visit.may_begin = not self.serves(tombstone, _LATE)
        return visit

    def visit_at(self, key: str, record: Record, secret: bytes) -> Visit:
        """Return the visit of a request that leads to this session."""
        if self.is_over(record):
            return self.refuse("unknown")
        try:
            loaded = self.envelope.open(record.data, key, secret)
            data = codec.decode(loaded)
        except codec.DamagedData:
            return self.refuse("damaged")
        user = self.user_of(data)
        if record.user != user and self.config.user_key is not None:
            return self.refuse("damaged")  # filed under one user, and holding another's session: the store errs
        visit = Visit(self, Session(data))
        visit.key, visit.record, visit.user, visit.secret, visit.loaded = key, record, user, secret, loaded
        facts = codec.facts_in(loaded)
        if facts is not NO_FACTS:
            visit.facts = facts
        return visit

    def _refuse_cards(self, cards: list[bytes]) -> Visit:
        if not any(self._is_stranger(card) for card in cards):
            return self.refuse("card")
        if not self._warned_of_strangers:
            self._warned_of_strangers = True
            _log.warning(
                "a session cookie was signed by a secret key that is not in secret_key; if users are logged out at "
                "random, each worker makes a key of its own when it starts: give all of them the same (said once)"
            )
        return self.refuse("key")

    def _is_stranger(self, card: bytes) -> bool:
        return self.keyring.is_stranger(card)

    def is_over(self, record: Record) -> bool:
        """Whether a record has outlived one of its two clocks, whatever the store says.

        So has one from the future, made while a clock was wrong: neither would ever end it.
        """
        now = self.clock()
        cap = self.config.absolute_timeout
        begun = now - (_LATEST if cap is None else cap)
        try:
            lives = now < record.expires_at < _LATEST and begun < record.created_at < now + _CLOCK_ERROR
            return not lives or type(record.version) is not int
        except TypeError:  # a row that others wrote: no number
            return True

    def idle_of(self, facts: Facts) -> float:
        """Return for how many seconds a session lives after it was last used."""
        return self.idle if facts.lifetime is None else facts.lifetime

    def until(self, facts: Facts, *, seen: bool = True) -> float:
        """Return until when the store keeps a session that is used now, in Unix seconds.

        The absolute timeout may end it sooner (`end_of`). It is not part of this, so that the list of a user's sessions
        can tell from it when each was last used.

        Args:
            facts: those of the session.
            seen: whether the response renews the browser's cookie too. Where it cannot, the session is kept for a
                little less, so that a renewal stays due: else a stream that saves would leave the cookie to die.
        """
        return self.clock() + self.idle_of(facts) * (1 if seen else _UNSEEN)

    def end_of(self, created_at: float, expires_at: float) -> float:
        """Return when a session ends if nobody uses it any more, in Unix seconds."""
        cap = self.config.absolute_timeout
        return expires_at if cap is None else min(expires_at, created_at + cap)

    def is_due(self, record: Record, facts: Facts, *, seen: bool = True) -> bool:
        """Whether a session that is used now is to be renewed: at most once in a tenth of the idle timeout."""
        return self.until(facts, seen=seen) - record.expires_at >= self.idle_of(facts) / RENEWALS

    def user_of(self, data: dict[str, Any]) -> str | None:
        """Return whose session `data` is, as the text that stores keep; None: nobody's."""
        key = self.config.user_key
        return None if key is None else user_ids.text_of(data.get(key))

    def checked_user(self, data: dict[str, Any]) -> str | None:
        """Return whose session `data` is. Raises SessionDataError where the value of `user_key` is no ID."""
        key = self.config.user_key
        if key is not None:
            user_ids.check(key, data.get(key))
        return self.user_of(data)

    def serves(self, tombstone: Record, longer: float = 0.0) -> bool:
        """Whether an old ID is still served, or was `longer` seconds ago; never, where the store says no time."""
        try:
            return self.clock() < tombstone.serve_until + longer < _LATEST
        except TypeError:  # a row that others wrote
            return False

    async def _in_grace(self, tombstone: Record, secret: bytes) -> Place | None:
        """Find the session that an old ID opens during its grace; None: nothing, to whoever arrives with it now.

        Each rotation on the way must still serve, and leave the session whose it was: who planted an ID, and has it
        rotated while nobody is logged in, must not arrive in the session of whoever logs in next.

        Raises:
            DamagedData: a tombstone does not say where the session is.
            StoreUnavailable: the store did not answer.
        """
        key, record, been = "", tombstone, set[str]()
        while True:
            if record.successor is None:
                return Place(key, record, secret)
            if record.successor in been or not self.serves(record):
                return None
            been.add(record.successor)
            secret = self.envelope.follow(record.data, record.successor, secret)
            key = record.successor
            try:
                found = await self.store.load(key)
            except Unreadable as error:
                raise codec.DamagedData from error
            if found is None or found.user != tombstone.user:
                return None
            record = found

    async def current(self, key: str, user: str | None, secret: bytes, way: set[str] | None = None) -> Place | Gone:
        """Find where a session is now, following rotations from `key`.

        Args:
            key: where it was.
            user: whose it was there. A session that passed from one user to another, or to nobody, is out of reach.
            secret: what opened it there.
            way: takes the keys that lead there, its own included.

        Raises:
            StoreUnavailable: the store did not answer, or a tombstone cannot be read.
        """
        been = set[str]() if way is None else way
        while key not in been:  # rotations in a circle lead nowhere
            been.add(key)
            try:
                record = await self.store.load(key)
            except Unreadable as error:
                raise unreadable() from error
            if record is None:
                return Gone.ENDED
            if user is not None and record.user != user:
                return Gone.OTHERS
            user = record.user
            if record.successor is None:
                return Gone.ENDED if self.is_over(record) else Place(key, record, secret)
            try:
                secret = self.envelope.follow(record.data, record.successor, secret)
            except codec.DamagedData as error:
                raise unreadable() from error
            key = record.successor
        return Gone.ENDED

    async def end(self, place: Place, reason: Literal["revoked", "limit"]) -> bool:
        """End the session where it is now, whoever's it is by then. Returns whether it was this call that ended it."""
        refusals = 0
        while True:
            try:
                await self.end_at(place, reason)
                return True
            except Conflict:
                key, record, secret = place
                found = await self.current(key, record.user, secret)
                if isinstance(found, Gone):
                    return False
                refusals = await self.wait_for_progress(place, found, refusals)
                place = found

    async def wait_for_progress(self, refused: Place, found: Place, refusals: int) -> int:
        """Wait a moment where a swap was refused and nothing newer is found: what was read may come from a replica.

        Returns how often in a row that was so.

        Raises:
            StoreUnavailable: it was so too often. Without this, a store that errs would hold requests for ever.
        """
        if refused.key != found.key or refused.record.version != found.record.version:
            return 0
        if refusals == _MOST_REFUSALS:
            raise StoreUnavailable("the store refuses to save over the version that it answers with: is it a replica?")
        import asyncio

        await asyncio.sleep(_REFUSED_WAIT)
        return refusals + 1

    async def end_at(self, place: Place, reason: Literal["cleared", "revoked", "limit"]) -> None:
        """End the session as it was read. A swap first: a rotation under way must not carry it to safety.

        Raises:
            Conflict: it has changed, moved on or ended since.
        """
        key, record, _ = place
        ended = replace(record, data=b"", version=record.version + 1, expires_at=self.clock())
        await self.store.update(key, ended, version=record.version)
        await self.store.delete(key)
        self.tell(Ended(key, record.user, reason))

    async def sessions_of(self, user: str) -> list[tuple[str, Record]]:
        """Return key and record of a user's live sessions.

        A store that lies, or whose index is late, shows nobody another's session, and ends none.
        """
        if not user_ids.can_be_filed(user):
            return []  # nobody is called that
        return [
            (key, record)
            for key, record in await self.store.of_user(user)
            if record.user == user and record.successor is None and not self.is_over(record)
        ]

    async def keep_to_limit(self, user: str, limit: int) -> None:
        """End a user's longest unused sessions, past the limit.

        Exact under concurrency: whoever logs in lists what is there after it was saved, everybody ranks alike, and what
        is used or moves on after it was ranked is ranked anew. Where the store fails in the middle of it, the next
        log-in does the rest: this one has been saved.
        """
        with contextlib.suppress(StoreUnavailable):  # logged
            for _ in range(_MOST_REFUSALS):
                ranked = sorted(await self.sessions_of(user), key=self._rank, reverse=True)
                try:
                    for key, record in ranked[limit:]:
                        await self.end_at(Place(key, record, b""), "limit")
                except Conflict:
                    continue
                return

    def _rank(self, found: tuple[str, Record]) -> tuple[float, float, str]:
        key, record = found
        return self.last_used(record), record.created_at, key

    def last_used(self, record: Record) -> float:
        """Return when a session was last used, in Unix seconds, as exactly as renewals are."""
        lifetime = lifetime_in(record.data)
        used = record.expires_at - (self.idle if lifetime is None else lifetime)
        return min(max(record.created_at, used), self.clock())

    def check(self, data: dict[str, Any], stored: bytes) -> None:
        """Refuse `data`, encoded as `stored`, if it may not be saved.

        Raises:
            SessionDataError: a value cannot be stored, or all of it is too large.
        """
        codec.verify(data, stored)
        most = self.config.max_bytes
        if len(stored) > most:
            largest = max(data, key=lambda key: len(codec.encode({key: data[key]})))
            raise SessionDataError(
                f"the session takes {len(stored)} bytes and max_bytes is {most}; its largest key is {largest!r}: "
                "keep large things in your database, and their IDs in the session"
            )

    async def purge_when_due(self) -> None:
        """Remove one batch of expired records, if the last time was a while ago: for apps without a lifespan."""
        if self.clock() - self._purged_at < _PURGE_EVERY:
            return
        if await self._purge_some() < _PURGE_BATCH:
            self._purged_at = self.clock()

    async def _purge_some(self) -> int:
        try:
            return await self.store.purge(_PURGE_BATCH)
        except StoreUnavailable:
            return 0  # the guard has logged it; sessions that nobody can load do no harm

    async def keep_purging(self) -> None:
        """Purge for ever: the one loop, run while the app's lifespan lasts."""
        import asyncio

        while True:
            # Spread, so that many workers started together do not purge together.
            await asyncio.sleep(_PURGE_EVERY * random.uniform(0.5, 1.5))
            self._purged_at = self.clock()
            while await self._purge_some() >= _PURGE_BATCH:
                await asyncio.sleep(0)  # requests get in between
