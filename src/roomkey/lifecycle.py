"""The life of a session: load, merge, rotate, expire, end. Every decision is here.

A `Lifecycle` belongs to one configuration; a `Visit` to one request. Neither knows ASGI: a visit takes the cards that
the browser sent and says, through `Visit.cookie`, what to do with the cookie. The only I/O is the store's.

Saving is compare-and-swap at the version that was read. On `Conflict` the fresh record is loaded (following a rotation
to its successor), this request's changed keys are laid over it, its `change()` functions run again, and the swap is
tried again. What was ended stays ended.
"""

from __future__ import annotations

import enum
import itertools
import logging
import random
from collections import Counter
from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast
from uuid import UUID
from weakref import WeakValueDictionary

from roomkey import codec
from roomkey.codec import NO_FACTS, Facts
from roomkey.config import SessionConfig
from roomkey.envelope import envelope_for, lifetime_in
from roomkey.errors import ResponseStarted, SessionDataError, SessionEnded, StoreUnavailable
from roomkey.events import Created, Ended, Event, LoadedWithOldKey, Merged, Refused, Rotated
from roomkey.guard import GuardedStore
from roomkey.keys import Keyring, new_session_id, store_key
from roomkey.session import AS_IT_IS, Change, Session
from roomkey.stores.base import Conflict, Record, Store

if TYPE_CHECKING:
    import asyncio  # at run time it is imported where it is used: it is half of the time that `import roomkey` takes

    from roomkey.legacy import Cookies, Found, MoveIn
    from roomkey.users import Sessions

__all__ = ["Cookie", "Lifecycle", "Visit", "lay_over"]

_log = logging.getLogger("roomkey")
_event_log = logging.getLogger("roomkey.events")

_RENEWALS = 10  # a session is renewed at most once in this fraction of its idle timeout
_MOST_HOPS = 64  # rotations that one request follows from an old ID to the current one
_FRESH = 1 - 1 / _RENEWALS  # of its idle timeout: with more than that left, no renewal is due
_PURGE_EVERY = 60.0  # seconds between two purges
_PURGE_BATCH = 500  # records
_USER_IDS = (int, str, UUID)


class Cookie(enum.Enum):
    """What the response does with the cookie."""

    KEEP = "keep"  # nothing: what the browser holds is right, or none of this response's business
    GIVE = "give"
    CLEAR = "clear"


class _Gone(enum.Enum):
    """Why a session that was loaded can no longer be saved."""

    ENDED = "ended"  # logged out, revoked or expired
    OTHERS = "others"  # it is another user's by now


class Place(NamedTuple):
    """Where a session is now."""

    key: str
    record: Record
    secret: bytes  # for the envelope


def _unreadable() -> StoreUnavailable:
    return StoreUnavailable("the store holds a record that cannot be read; it was left alone")


_MISSING = object()


def lay_over(
    fresh: dict[str, Any], base: dict[str, Any], mine: dict[str, Any], changes: Iterable[Change] = ()
) -> dict[str, Any]:
    """Return `fresh` with what this request did laid over it: the three-way merge of one session, key by key.

    Args:
        fresh: what the store holds now.
        base: what this request loaded.
        mine: what this request made of it.
        changes: its calls of `Session.change`; they run again, on the fresh value, where they alone made the key's
            value. A key that was also assigned keeps the assigned value.
    """
    merged = dict(fresh)
    for key in base:
        if key not in mine:
            merged.pop(key, None)
    for key, value in mine.items():
        if key not in base or not _same(base[key], value):
            merged[key] = value
    by_key: dict[str, list[Change]] = {}
    for change in changes:
        by_key.setdefault(change.key, []).append(change)
    for key, calls in by_key.items():
        if key in mine and _same(_run(calls, base), mine[key]):
            merged[key] = _run(calls, fresh)
    return merged


def _run(calls: list[Change], start: dict[str, Any]) -> Any:
    key = calls[0].key
    # Through the codec, so that a function that alters its argument alters a copy.
    value = _copied(start[key]) if key in start else _MISSING
    for call in calls:
        value = call.function(_copied(call.default) if value is _MISSING else value)
    return value


def _copied(value: Any) -> Any:
    return codec.decode(codec.encode({"": value}))[""]


def _same(one: Any, other: Any) -> bool:
    return one is other or codec.encode({"": one}) == codec.encode({"": other})


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
        # In one process, those who lost a swap queue up here instead of racing each other again and again.
        self._queues: WeakValueDictionary[tuple[int, str], asyncio.Lock] = WeakValueDictionary()
        self._purged_at = self.clock()
        self._warned_of_strangers = False
        self.move_in: MoveIn | None = None
        if config.legacy:
            from roomkey.legacy import MoveIn  # here, because few apps move in

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

    def anonymous(self) -> Visit:
        """Return the visit of a request that brought no card."""
        return Visit(self, Session())

    async def arrive(self, cards: list[bytes], cookies: Cookies | None = None) -> Visit:
        """Return the visit of a request that brought these cards; the first genuine one counts.

        Args:
            cards: the values of Roomkey's own cookie.
            cookies: gives the values of any cookie, for sessions that are to move in.

        Raises:
            StoreUnavailable: whether there is a session cannot be known.
        """
        for card in cards:
            session_id = self.keyring.verify(card)
            if session_id is not None:
                break
        else:
            # Only here: who brings a genuine card whose session has ended has logged out.
            old = await self.move_in.find(cookies) if self.move_in is not None and cookies is not None else None
            if old is not None:
                return self._moving(old)
            return self._refuse_cards(cards) if cards else self.anonymous()
        key = store_key(session_id)
        record = await self.store.load(key)
        if record is None:
            return self.refuse("unknown")
        secret = self.envelope.secret_of(session_id)
        known_id: bytes | None = session_id
        try:
            if record.successor is not None:
                if record.serve_until <= self.clock():
                    return self.refuse("rotated")
                secret = self.envelope.follow(record.data, record.successor, secret)
                found = await self.current(record.successor, record.user, secret)
                if isinstance(found, _Gone):
                    return self.refuse("unknown")
                key, record, secret = found
                known_id = None  # served out of grace: this browser's new cookie travels with another response
            if self.is_over(record):
                return self.refuse("unknown")
            loaded = self.envelope.open(record.data, key, secret)
            data = codec.decode(loaded)
        except codec.DamagedData:
            return self.refuse("damaged")
        user = self.user_of(data)
        if record.user != user and self.config.user_key is not None:
            return self.refuse("damaged")  # filed under one user, and holding another's session: the store errs
        visit = Visit(self, Session(data))
        visit.key, visit.record, visit.session_id, visit.user = key, record, known_id, user
        visit.secret, visit.loaded = secret, loaded
        facts = codec.facts_in(loaded)
        if facts is not NO_FACTS:
            visit.facts = facts
        if known_id is not None and (self.keyring.is_old(card) or self.envelope.is_old(record.data)):
            visit.has_old_key = True
            self.tell(LoadedWithOldKey(key))
        return visit

    def _moving(self, found: Found) -> Visit:
        """Return the visit of a request that brought an old session: a new one with its data, saved in any case."""
        data = codec.decode(codec.encode(found.session.data))  # a copy: what was found stays to compare with
        visit = self.anonymous()
        visit._hold(data)
        visit.found = found
        visit.session.mark_accessed()
        return visit

    def _refuse_cards(self, cards: list[bytes]) -> Visit:
        if not any(self.keyring.is_stranger(card) for card in cards):
            return self.refuse("card")
        if not self._warned_of_strangers:
            self._warned_of_strangers = True
            _log.warning(
                "a session cookie was signed by a secret key that is not in secret_key; if users are logged out at "
                "random, each worker makes a key of its own when it starts: give all of them the same (said once)"
            )
        return self.refuse("key")

    def is_over(self, record: Record) -> bool:
        """Whether a record has outlived one of its two clocks, whatever the store says."""
        now = self.clock()
        cap = self.config.absolute_timeout
        return record.expires_at <= now or (cap is not None and record.created_at + cap <= now)

    def expiry(self, created_at: float, facts: Facts) -> float:
        """Return until when a session that is used now lives, in Unix seconds."""
        idle = self.clock() + (self.idle if facts.lifetime is None else facts.lifetime)
        cap = self.config.absolute_timeout
        return idle if cap is None else min(idle, created_at + cap)

    def is_due(self, record: Record, facts: Facts) -> bool:
        """Whether a session that is used now is to be renewed: at most once in a tenth of the idle timeout."""
        idle = self.idle if facts.lifetime is None else facts.lifetime
        return self.expiry(record.created_at, facts) - record.expires_at >= idle / _RENEWALS

    def user_of(self, data: dict[str, Any]) -> str | None:
        """Return whose session `data` is, as the text that stores keep; None: nobody's."""
        user = data.get(self.config.user_key) if self.config.user_key is not None else None
        return None if user is None else str(user)

    def checked_user(self, data: dict[str, Any]) -> str | None:
        """Return whose session `data` is.

        Raises:
            SessionDataError: the value of `user_key` is no ID. Two users must never be the same text.
        """
        user = data.get(self.config.user_key) if self.config.user_key is not None else None
        if user is not None and (not isinstance(user, _USER_IDS) or isinstance(user, bool)):
            raise SessionDataError(
                f"session[{self.config.user_key!r}] is of type {type(user).__name__}; a user's ID is an int, a str or "
                "a UUID (or use another user_key in SessionConfig)"
            )
        return self.user_of(data)

    async def current(self, key: str, user: str | None, secret: bytes) -> Place | _Gone:
        """Find where a session is now, following rotations from `key`.

        Args:
            key: where it was.
            user: whose it was there. A session that passed from one user to another, or to nobody, is out of reach.
            secret: what opened it there.

        Raises:
            StoreUnavailable: the store did not answer, or a tombstone cannot be read.
        """
        for _ in range(_MOST_HOPS):
            record = await self.store.load(key)
            if record is None:
                return _Gone.ENDED
            if user is not None and record.user != user:
                return _Gone.OTHERS
            user = record.user
            if record.successor is None:
                return _Gone.ENDED if self.is_over(record) else Place(key, record, secret)
            try:
                secret = self.envelope.follow(record.data, record.successor, secret)
            except codec.DamagedData as error:
                raise _unreadable() from error
            key = record.successor
        return _Gone.ENDED

    async def end(self, place: Place, reason: Literal["cleared", "revoked", "limit"]) -> bool:
        """End the session where it is now. A swap first: a rotation under way must not carry it to safety.

        Returns whether it was this call that ended it.
        """
        key, record, secret = place
        while True:
            ended = replace(record, data=b"", version=record.version + 1, expires_at=self.clock())
            try:
                await self.store.update(key, ended, version=record.version)
                break
            except Conflict:
                found = await self.current(key, record.user, secret)
                if isinstance(found, _Gone):
                    return False
                key, record, secret = found
        await self.store.delete(key)
        self.tell(Ended(key, record.user, reason))
        return True

    async def keep_to_limit(self, user: str) -> None:
        """End a user's longest unused sessions, past the limit.

        Exact under concurrency: whoever logs in lists what is there after it was saved, and everybody ranks alike.
        """
        limit = self.config.max_sessions_per_user
        if limit is None:
            return
        theirs = await self.store.of_user(user)
        if len(theirs) <= limit:
            return
        theirs.sort(key=lambda item: (self.last_used(item[1]), item[1].created_at, item[0]), reverse=True)
        for key, record in theirs[limit:]:
            await self.end(Place(key, record, b""), "limit")

    def last_used(self, record: Record) -> float:
        """Return when a session was last used, in Unix seconds, as exactly as renewals are."""
        lifetime = lifetime_in(record.data)
        return max(record.created_at, record.expires_at - (self.idle if lifetime is None else lifetime))

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

    def queue(self, key: str) -> AbstractAsyncContextManager[Any]:
        """Return the lock under which requests of this process that lost a swap for `key` try again."""
        import asyncio

        place = (id(asyncio.get_running_loop()), key)
        lock = self._queues.get(place)
        if lock is None:
            lock = self._queues[place] = asyncio.Lock()
        return lock

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


class Visit:
    """One request's dealings with its session."""

    # Class attributes, so that the visit of a request that does not touch its session costs next to nothing.
    record: Record | None = None  # as loaded or last saved; None: there is no session
    key = ""  # where it is stored
    session_id: bytes | None = None  # None: there is none, or it is not ours to know (grace)
    user: str | None = None  # whose session was loaded
    loaded = b""  # the session encoded, as loaded or last saved
    facts = NO_FACTS  # likewise
    secret = b""  # for the envelope
    has_old_key = False  # the card was signed, or the data sealed, with another than the first key
    found: Found | None = None  # the old session that moves in; None: it has, or there is none
    client: tuple[str | None, str | None] = (None, None)  # IP address and user agent; kept at a log-in
    cookie = Cookie.KEEP
    card = b""  # for Cookie.GIVE
    cookie_possible = True  # until the response starts
    one_cookie = False  # whether the response can carry no second one: the headers of an exception
    lost = False  # whether changes were dropped because the session had ended

    def __init__(self, lifecycle: Lifecycle, session: Session) -> None:
        self.lifecycle = lifecycle
        self.session = session
        session._visit = self

    # --- what Session asks ----------------------------------------------------------------------------------------

    @property
    def handle(self) -> str:
        # The store key: a hash of the ID, which tells nothing about it.
        return self.key

    def now(self) -> float:
        return self.lifecycle.clock()

    @property
    def is_new(self) -> bool:
        return self.record is None

    @property
    def created_at(self) -> float:
        return self.lifecycle.clock() if self.record is None else self.record.created_at

    @property
    def expires_at(self) -> float:
        record, lifecycle = self.record, self.lifecycle
        return lifecycle.expiry(self.created_at, self._facts_of(self._user())) if record is None else record.expires_at

    @property
    def authenticated_at(self) -> float | None:
        return self._facts_of(self._user()).authenticated_at

    @property
    def sessions(self) -> Sessions:
        from roomkey.users import Sessions

        return Sessions(self.lifecycle, current=self.session)

    def is_modified(self) -> bool:
        session = self.session
        if self.record is None:
            return dict.__len__(session) > 0
        return session._asked or self._encoded() != self.loaded

    async def save(self) -> None:
        self.lost = False
        await self.commit()
        if self.lost:
            raise SessionEnded("the session was ended while this request ran; nothing was saved")

    async def refresh(self) -> None:
        if self.record is None:
            return
        found = await self.lifecycle.current(self.key, self.record.user, self.secret)
        if isinstance(found, _Gone):
            raise SessionEnded("the session was ended while this request ran")
        pending = self._user()
        if pending != self.user and found.record.user not in (None, pending, self.user):
            raise SessionEnded("the session became another user's while this request ran")
        loaded = self._opened(found)
        fresh = codec.decode(loaded)
        merged = lay_over(fresh, codec.decode(self.loaded), self.session._plain(), self.session._changes)
        if found.key != self.key:
            self.session_id = None  # rotated by another request, whose response carries the new cookie
        self.key, self.record, self.secret = found
        self.loaded, self.facts, self.user = loaded, codec.facts_in(loaded), self.lifecycle.user_of(fresh)
        self._hold(merged)

    def unsaved(self) -> bytes | None:
        """Return the session encoded; None if there is nothing to save, to renew or to tell the browser.

        The way of most requests: kept short.

        Raises:
            SessionDataError: a value cannot be stored.
        """
        session, record = self.session, self.record
        if self.found is None and (
            not session._accessed or (record is None and not session._ended and not dict.__len__(session))
        ):
            return None
        stored = codec.encode(session._plain(), self.facts)
        if self.found is not None and not self.cookie_possible and stored == codec.encode(self.found.session.data):
            return None  # this response cannot give a cookie: it moves in with the next request
        if record is None or stored != self.loaded or session._asked:
            return stored
        if not dict.__len__(session) or self.has_old_key:
            return stored
        lifecycle, facts = self.lifecycle, self.facts
        idle = lifecycle.idle if facts.lifetime is None else facts.lifetime
        # The first look is the short one: most sessions were renewed a moment ago.
        if record.expires_at - lifecycle.clock() > idle * _FRESH or not lifecycle.is_due(record, facts):
            return None
        return stored

    # --- deciding -------------------------------------------------------------------------------------------------

    async def commit(self, stored: bytes | None = None) -> None:
        """Save what the request did to its session, and set `cookie` to what the response owes the browser.

        Args:
            stored: what `unsaved` has just returned, if it was asked.

        Raises:
            SessionDataError: nothing was saved.
            ResponseStarted: nothing was saved.
            StoreUnavailable: the store did not acknowledge.
        """
        session = self.session
        if stored is None:
            stored = self.unsaved()
            if stored is None:
                return
        if self.record is not None and (session._ended or not dict.__len__(session)):
            await self._end()
        session._ended = False
        if self.record is not None:
            await self._save(self.record, stored)
        elif dict.__len__(session):
            await self._create()
        elif self.found is not None and self.cookie_possible:
            self.cookie = Cookie.CLEAR  # logged out by the first request: the old cookie may have this name
        session._rotate, session._changes, session._asked = None, (), False
        session._lifetime, session._reauthenticated = AS_IT_IS, False
        if self.found is not None:
            found, self.found = self.found, None
            assert self.lifecycle.move_in is not None
            await self.lifecycle.move_in.forget(found)

    async def _create(self) -> None:
        lifecycle, data = self.lifecycle, self.session._plain()
        user = lifecycle.checked_user(data)
        facts = self._facts_of(user)
        stored = codec.encode(data, facts)
        lifecycle.check(data, stored)
        self._need_cookie("a new session")
        now = lifecycle.clock()
        session_id = new_session_id()
        key, secret = store_key(session_id), lifecycle.envelope.secret_of(session_id)
        sealed = lifecycle.envelope.close(stored, key, secret)
        ip, user_agent = self.client if user is not None else (None, None)
        record = Record(sealed, 1, now, lifecycle.expiry(now, facts), user, ip=ip, user_agent=user_agent)
        await lifecycle.store.create(key, record)
        self._saved(Place(key, record, secret), stored, facts)
        self._moved(session_id)
        lifecycle.tell(Created(key, user))
        if user is not None:
            await lifecycle.keep_to_limit(user)
        await lifecycle.purge_when_due()

    async def _end(self) -> None:
        assert self.record is not None
        place = Place(self.key, self.record, self.secret)
        self._forget()
        # Who finds it ended already leaves the cookie alone: somebody may have logged in anew.
        if await self.lifecycle.end(place, "cleared") and self.cookie_possible:
            self.cookie = Cookie.CLEAR

    async def _save(self, record: Record, stored: bytes) -> None:
        lifecycle, session = self.lifecycle, self.session
        mine = session._plain()
        if stored == self.loaded and not session._asked and not lifecycle.envelope.is_old(record.data):
            await self._renew(record)  # what is unchanged and not due does not come here
            return
        user = lifecycle.user_of(mine)
        if user != self.user:
            lifecycle.checked_user(mine)
        rotating = session._rotate is not None or session._reauthenticated or user != self.user
        facts = self._facts_of(user)
        if facts != self.facts:
            stored = codec.encode(mine, facts)
        lifecycle.check(mine, stored)
        if rotating:
            self._need_cookie("a rotated session")
        try:
            await self._swap(Place(self.key, record, self.secret), stored, facts, user, rotating)
        except Conflict:
            async with lifecycle.queue(self.key):
                await self._merge(record, mine, user, rotating)

    async def _merge(self, record: Record, mine: dict[str, Any], user: str | None, rotating: bool) -> None:
        """Save over what others saved meanwhile, as often as it takes."""
        import asyncio

        lifecycle, session = self.lifecycle, self.session
        base = codec.decode(self.loaded)
        key, owner, secret = self.key, record.user, self.secret
        for attempt in itertools.count(1):
            found = await lifecycle.current(key, owner, secret)
            changes_user = user != self.user
            if isinstance(found, _Gone) or (changes_user and found.record.user not in (None, user, self.user)):
                logging_in = user is not None and changes_user
                self._forget()
                # A log-in stands on its own: a session with what this request put into it, and nothing else.
                self._hold(lay_over({}, base, mine, session._changes) if logging_in else {})
                if logging_in:
                    await self._create()
                else:
                    self.lost = True
                return
            loaded = self._opened(found)
            if changes_user and self.user is not None:
                merged = mine  # what the user before wrote meanwhile stays behind
            else:
                merged = lay_over(codec.decode(loaded), base, mine, session._changes)
            if not merged:
                self._saved(found, loaded, codec.facts_in(loaded))
                self._hold(merged)
                await self._end()
                return
            facts = self._facts_of(user, codec.facts_in(loaded))
            stored = codec.encode(merged, facts)
            lifecycle.check(merged, stored)
            # Where another request logged in meanwhile, `rotate()` must not hand its card to one from before.
            rotates = rotating and (changes_user or found.record.user == self.user)
            try:
                await self._swap(found, stored, facts, lifecycle.user_of(merged), rotates)
            except Conflict:
                key, owner, secret = found.key, found.record.user, found.secret
                # Other processes queue elsewhere: step aside for a moment, longer each time.
                await asyncio.sleep(random.uniform(0, min(0.001 * attempt, 0.05)))
                continue
            self._hold(merged)
            lifecycle.tell(Merged(self.key, attempt))
            return

    async def _swap(self, place: Place, stored: bytes, facts: Facts, user: str | None, rotating: bool) -> None:
        lifecycle = self.lifecycle
        key, record, secret = place
        created_at, version = record.created_at, record.version + 1
        if facts.authenticated_at is not None and facts.authenticated_at != self.facts.authenticated_at:
            created_at = facts.authenticated_at  # who proves who they are has both clocks start anew: NIST 800-63B 5.2
        expires_at, renewed = record.expires_at, False
        if facts.lifetime != self.facts.lifetime:
            expires_at, renewed = lifecycle.expiry(created_at, facts), True  # which may be sooner
        elif rotating or lifecycle.is_due(record, facts):
            expires_at, renewed = max(lifecycle.expiry(created_at, facts), expires_at), True
        ip, user_agent = (record.ip, record.user_agent) if user == record.user else self.client
        envelope = lifecycle.envelope
        if not rotating:
            data = envelope.close(stored, key, secret)
            # Spelled out: `replace` takes twice as long, on the way of every write.
            saved = Record(data, version, created_at, expires_at, user, ip=ip, user_agent=user_agent)
            await lifecycle.store.update(key, saved, version=record.version)
            if key != self.key:
                self.session_id = None  # rotated by another request, whose response carries the new cookie
            self._saved(Place(key, saved, secret), stored, facts)
            if renewed or self.has_old_key:
                self._give()
            return
        now = lifecycle.clock()
        session_id = new_session_id()
        new_key, new_secret = store_key(session_id), envelope.secret_of(session_id)
        data = envelope.close(stored, new_key, new_secret)
        saved = Record(data, version, created_at, expires_at, user, ip=ip, user_agent=user_agent)
        # The tombstone outlives `grace`: a slow request that loaded the old record, however short that had to live,
        # must still find the successor, if only to end it.
        tombstone = Record(
            envelope.pass_on(secret, new_key, new_secret),
            version,
            created_at,
            expires_at,
            record.user,
            successor=new_key,
            serve_until=now + (self.session._rotate or 0) if user == self.user else now,
        )
        await lifecycle.store.rotate(key, new_key, saved, tombstone, version=record.version)
        old_user = self.user
        self._saved(Place(new_key, saved, new_secret), stored, facts)
        self._moved(session_id)
        lifecycle.tell(Rotated(key, new_key, user, old_user))
        if user is not None and user != old_user:
            await lifecycle.keep_to_limit(user)

    async def _renew(self, record: Record) -> None:
        due = self.lifecycle.expiry(record.created_at, self.facts)
        if await self.lifecycle.store.touch(self.key, due):
            self.record = replace(record, expires_at=max(due, record.expires_at))
            self._give()

    # --- the state ------------------------------------------------------------------------------------------------

    def _user(self) -> str | None:
        return self.lifecycle.user_of(self.session._plain())

    def _facts_of(self, user: str | None, facts: Facts | None = None) -> Facts:
        """Return the facts as they are to be saved: those loaded, with what this request did."""
        session = self.session
        facts = self.facts if facts is None else facts
        if user == self.user and not session._reauthenticated and session._lifetime is AS_IT_IS:
            return facts
        authenticated_at, lifetime, _ = facts
        if user != self.user:
            authenticated_at, lifetime = (None if user is None else self.lifecycle.clock()), None
        elif session._reauthenticated:
            authenticated_at = self.lifecycle.clock()
        if session._lifetime is not AS_IT_IS:
            lifetime = session._lifetime
        return codec.make_facts(authenticated_at, lifetime)

    def _encoded(self) -> bytes:
        return codec.encode(self.session._plain(), self._facts_of(self._user()))

    def _opened(self, place: Place) -> bytes:
        """Return the session at `place`, encoded; raises StoreUnavailable where nothing can be read."""
        try:
            loaded = self.lifecycle.envelope.open(place.record.data, place.key, place.secret)
            codec.decode(loaded)
        except codec.DamagedData as error:
            raise _unreadable() from error
        return loaded

    def _need_cookie(self, what: str) -> None:
        if not self.cookie_possible:
            raise ResponseStarted(
                f"{what} needs a cookie, but the response has started; nothing was saved: change the session, or "
                "await session.save(), before the response starts (before websocket.accept)"
            )

    def _saved(self, place: Place, stored: bytes, facts: Facts) -> None:
        self.key, self.record, self.secret = place
        self.loaded, self.facts, self.user = stored, facts, place.record.user

    def _moved(self, session_id: bytes) -> None:
        self.session_id = session_id
        self._give()

    def _give(self) -> None:
        if self.session_id is not None and self.cookie_possible:
            self.card = self.lifecycle.keyring.sign(self.session_id)
            self.cookie, self.has_old_key = Cookie.GIVE, False

    def _forget(self) -> None:
        self.key, self.record, self.session_id, self.user = "", None, None, None
        self.loaded, self.facts, self.secret, self.has_old_key = b"", NO_FACTS, b"", False

    def _hold(self, data: dict[str, Any]) -> None:
        dict.clear(self.session)
        dict.update(self.session, data)
