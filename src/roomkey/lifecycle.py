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
import random
from collections import Counter
from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from roomkey import codec
from roomkey.config import SessionConfig
from roomkey.errors import ResponseStarted, SessionDataError, SessionEnded, StoreUnavailable
from roomkey.guard import GuardedStore
from roomkey.keys import Keyring, new_session_id, store_key
from roomkey.session import Change, Session
from roomkey.stores.base import Conflict, Record

if TYPE_CHECKING:
    import asyncio  # at run time it is imported where it is used: it is half of the time that `import roomkey` takes

__all__ = ["Cookie", "Lifecycle", "Visit", "lay_over"]

_RENEWALS = 10  # a session is renewed at most once in this fraction of its idle timeout
_MOST_HOPS = 64  # rotations that one request follows from an old ID to the current one
_PURGE_EVERY = 60.0  # seconds between two purges
_PURGE_BATCH = 500  # records


class Cookie(enum.Enum):
    """What the response does with the cookie."""

    KEEP = "keep"  # nothing: what the browser holds is right, or none of this response's business
    GIVE = "give"
    CLEAR = "clear"


class _Gone(enum.Enum):
    """Why a session that was loaded can no longer be saved."""

    ENDED = "ended"  # logged out, revoked or expired
    OTHERS = "others"  # it is another user's by now


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
        assert not isinstance(config.store, str)  # SessionConfig opened it
        self.config = config
        self.keyring = Keyring(config.secret_key, purpose="session cookie", name=config.session_cookie)
        self.store = GuardedStore(config.store, config.store_timeout)
        self.clock = config.clock
        self.refused: Counter[str] = Counter()
        self.idle = config.idle_timeout
        self.renew_below = self.idle * (1 - 1 / _RENEWALS)  # seconds left; above it, no renewal is due
        # In one process, those who lost a swap queue up here instead of racing each other again and again.
        self._queues: WeakValueDictionary[tuple[int, str], asyncio.Lock] = WeakValueDictionary()
        self._purged_at = self.clock()

    def anonymous(self) -> Visit:
        """Return the visit of a request that brought no card."""
        return Visit(self, Session())

    async def arrive(self, cards: list[bytes]) -> Visit:
        """Return the visit of a request that brought these cards; the first genuine one counts.

        Raises:
            StoreUnavailable: whether there is a session cannot be known.
        """
        for card in cards:
            session_id = self.keyring.verify(card)
            if session_id is not None:
                break
        else:
            self.refused["card"] += 1
            return self.anonymous()
        key = store_key(session_id)
        record = await self.store.load(key)
        known_id: bytes | None = session_id
        if record is not None and record.successor is not None:
            if record.serve_until <= self.clock():
                self.refused["rotated"] += 1
                return self.anonymous()
            found = await self.current(record.successor, record.user)
            if isinstance(found, _Gone):
                return self.anonymous()
            key, record = found
            known_id = None  # served out of grace: this browser's new cookie travels with another response
        if record is None or self.is_over(record):
            self.refused["unknown"] += 1
            return self.anonymous()
        try:
            data = codec.decode(record.data)
        except codec.DamagedData:
            self.refused["damaged"] += 1
            return self.anonymous()
        visit = Visit(self, Session(data))
        visit.key, visit.record, visit.session_id = key, record, known_id
        visit.user = self.user_of(data)
        return visit

    def is_over(self, record: Record) -> bool:
        """Whether a record has outlived one of its two clocks, whatever the store says."""
        now = self.clock()
        cap = self.config.absolute_timeout
        return record.expires_at <= now or (cap is not None and record.created_at + cap <= now)

    def expiry(self, created_at: float) -> float:
        """Return until when a session that is used now lives, in Unix seconds."""
        idle = self.clock() + self.idle
        cap = self.config.absolute_timeout
        return idle if cap is None else min(idle, created_at + cap)

    def is_due(self, record: Record) -> bool:
        """Whether a session that is used now is to be renewed: at most once in a tenth of the idle timeout."""
        return self.expiry(record.created_at) - record.expires_at >= self.idle / _RENEWALS

    def user_of(self, data: dict[str, Any]) -> str | None:
        """Return whose session `data` is, as the text that stores keep; None: nobody's."""
        user = data.get(self.config.user_key) if self.config.user_key is not None else None
        return None if user is None else str(user)

    async def current(self, key: str, user: str | None) -> tuple[str, Record] | _Gone:
        """Find where a session is now, following rotations from `key`.

        Args:
            key: where it was.
            user: whose it was there. A session that passed from one user to another, or to nobody, is out of reach.
        """
        for _ in range(_MOST_HOPS):
            record = await self.store.load(key)
            if record is None:
                return _Gone.ENDED
            if user is not None and record.user != user:
                return _Gone.OTHERS
            user = record.user
            if record.successor is None:
                return _Gone.ENDED if self.is_over(record) else (key, record)
            key = record.successor
        return _Gone.ENDED

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
    cookie = Cookie.KEEP
    card = b""  # for Cookie.GIVE
    cookie_possible = True  # until the response starts
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

    @property
    def is_new(self) -> bool:
        return self.record is None

    @property
    def created_at(self) -> float:
        return self.lifecycle.clock() if self.record is None else self.record.created_at

    @property
    def expires_at(self) -> float:
        return self.lifecycle.expiry(self.created_at) if self.record is None else self.record.expires_at

    def is_modified(self) -> bool:
        session = self.session
        if self.record is None:
            return dict.__len__(session) > 0
        return session._ended or session._rotate is not None or self._encoded() != self.record.data

    async def save(self) -> None:
        self.lost = False
        await self.commit()
        if self.lost:
            raise SessionEnded("the session was ended while this request ran; nothing was saved")

    async def refresh(self) -> None:
        if self.record is None:
            return
        found = await self.lifecycle.current(self.key, self.record.user)
        if isinstance(found, _Gone):
            raise SessionEnded("the session was ended while this request ran")
        key, record = found
        pending = self.lifecycle.user_of(self.session._plain())
        if pending != self.user and record.user not in (None, pending, self.user):
            raise SessionEnded("the session became another user's while this request ran")
        fresh = self._decoded(record)
        merged = lay_over(fresh, codec.decode(self.record.data), self.session._plain(), self.session._changes)
        if key != self.key:
            self.session_id = None  # rotated by another request, whose response carries the new cookie
        self.key, self.record, self.user = key, record, self.lifecycle.user_of(fresh)
        self._hold(merged)

    def unsaved(self) -> bytes | None:
        """Return the session encoded; None if there is nothing to save, to renew or to tell the browser.

        The way of most requests: kept short.

        Raises:
            SessionDataError: a value cannot be stored.
        """
        session, record = self.session, self.record
        if not session._accessed or (record is None and not session._ended and not dict.__len__(session)):
            return None
        stored = codec.encode(session._plain())
        if record is None or stored != record.data or session._ended or session._rotate is not None:
            return stored
        if not dict.__len__(session):
            return stored
        lifecycle = self.lifecycle
        if record.expires_at - lifecycle.clock() > lifecycle.renew_below or not lifecycle.is_due(record):
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
            stored = codec.encode(session._plain())  # it may have changed meanwhile
        session._ended = False
        if self.record is not None:
            await self._save(self.record, stored)
        elif dict.__len__(session):
            await self._create(session._plain(), stored)
        session._rotate, session._changes = None, ()

    async def _create(self, data: dict[str, Any], stored: bytes) -> None:
        lifecycle = self.lifecycle
        lifecycle.check(data, stored)
        self._need_cookie("a new session")
        now = lifecycle.clock()
        session_id = new_session_id()
        record = Record(stored, 1, now, lifecycle.expiry(now), lifecycle.user_of(data))
        key = store_key(session_id)
        await lifecycle.store.create(key, record)
        self._moved(key, record, session_id)
        await lifecycle.purge_when_due()

    async def _end(self) -> None:
        """End the session where it is now. A swap first: a rotation under way must not carry it to safety."""
        record, key = self.record, self.key
        assert record is not None
        self._forget()
        store, now = self.lifecycle.store, self.lifecycle.clock()
        while True:
            ended = replace(record, data=b"", version=record.version + 1, expires_at=now)
            try:
                await store.update(key, ended, version=record.version)
                break
            except Conflict:
                found = await self.lifecycle.current(key, record.user)
                if isinstance(found, _Gone):
                    return  # somebody else ended it, and may have logged in anew: not our cookie any more
                key, record = found
        await store.delete(key)
        if self.cookie_possible:
            self.cookie = Cookie.CLEAR

    async def _save(self, record: Record, stored: bytes) -> None:
        mine = self.session._plain()
        user = self.lifecycle.user_of(mine)
        rotating = self.session._rotate is not None or user != self.user
        if not rotating and stored == record.data:
            await self._renew(record)  # what is unchanged and not due does not come here
            return
        self.lifecycle.check(mine, stored)
        if rotating:
            self._need_cookie("a rotated session")
        try:
            await self._swap(self.key, record, stored, user, rotating)
        except Conflict:
            async with self.lifecycle.queue(self.key):
                await self._merge(record, mine, user, rotating)

    async def _merge(self, record: Record, mine: dict[str, Any], user: str | None, rotating: bool) -> None:
        """Save over what others saved meanwhile, as often as it takes."""
        import asyncio

        lifecycle, session = self.lifecycle, self.session
        base = codec.decode(record.data)
        key, owner = self.key, record.user
        for attempt in itertools.count(1):
            found = await lifecycle.current(key, owner)
            changes_user = user != self.user
            if isinstance(found, _Gone) or (changes_user and found[1].user not in (None, user, self.user)):
                logging_in = user is not None and changes_user
                self._forget()
                # A log-in stands on its own: a session with what this request put into it, and nothing else.
                self._hold(lay_over({}, base, mine, session._changes) if logging_in else {})
                if logging_in:
                    await self._create(session._plain(), self._encoded())
                else:
                    self.lost = True
                return
            key, fresh = found
            if changes_user and self.user is not None:
                merged = mine  # what the user before wrote meanwhile stays behind
            else:
                merged = lay_over(self._decoded(fresh), base, mine, session._changes)
            if not merged:
                self.key, self.record = key, fresh
                self._hold(merged)
                await self._end()
                return
            stored = codec.encode(merged)
            lifecycle.check(merged, stored)
            # Where another request logged in meanwhile, `rotate()` must not hand its card to one from before.
            rotates = rotating and (changes_user or fresh.user == self.user)
            try:
                await self._swap(key, fresh, stored, lifecycle.user_of(merged), rotates)
            except Conflict:
                owner = fresh.user
                # Other processes queue elsewhere: step aside for a moment, longer each time.
                await asyncio.sleep(random.uniform(0, min(0.001 * attempt, 0.05)))
                continue
            self._hold(merged)
            return

    async def _swap(self, key: str, record: Record, data: bytes, user: str | None, rotating: bool) -> None:
        lifecycle = self.lifecycle
        expires_at, renewed = record.expires_at, False
        if rotating or lifecycle.is_due(record):
            expires_at, renewed = max(lifecycle.expiry(record.created_at), expires_at), True
        created_at, version = record.created_at, record.version + 1
        # Spelled out: `replace` takes twice as long, on the way of every write.
        saved = Record(data, version, created_at, expires_at, user, ip=record.ip, user_agent=record.user_agent)
        if rotating:
            now = lifecycle.clock()
            session_id = new_session_id()
            new_key = store_key(session_id)
            # The tombstone outlives `grace`: a slow request that loaded the old record, however short that had to live,
            # must still find the successor, if only to end it.
            tombstone = Record(
                b"",
                version,
                created_at,
                expires_at,
                record.user,
                successor=new_key,
                serve_until=now + (self.session._rotate or 0) if user == self.user else now,
            )
            await lifecycle.store.rotate(key, new_key, saved, tombstone, version=record.version)
            self._moved(new_key, saved, session_id)
            return
        await lifecycle.store.update(key, saved, version=record.version)
        if key != self.key:
            self.session_id = None  # rotated by another request, whose response carries the new cookie
        self.key, self.record, self.user = key, saved, user
        if renewed:
            self._give()

    async def _renew(self, record: Record) -> None:
        due = self.lifecycle.expiry(record.created_at)
        if await self.lifecycle.store.touch(self.key, due):
            self.record = replace(record, expires_at=due)
            self._give()

    # --- the state ------------------------------------------------------------------------------------------------

    def _encoded(self) -> bytes:
        return codec.encode(self.session._plain())

    def _decoded(self, record: Record) -> dict[str, Any]:
        try:
            return codec.decode(record.data)
        except codec.DamagedData as error:
            raise StoreUnavailable("the store holds a record that cannot be read; it was left alone") from error

    def _need_cookie(self, what: str) -> None:
        if not self.cookie_possible:
            raise ResponseStarted(
                f"{what} needs a cookie, but the response has started; nothing was saved: change the session, or "
                "await session.save(), before the response starts (before websocket.accept)"
            )

    def _moved(self, key: str, record: Record, session_id: bytes) -> None:
        self.key, self.record, self.session_id = key, record, session_id
        self.user = record.user
        self._give()

    def _give(self) -> None:
        if self.session_id is not None and self.cookie_possible:
            self.card = self.lifecycle.keyring.sign(self.session_id)
            self.cookie = Cookie.GIVE

    def _forget(self) -> None:
        self.key, self.record, self.session_id, self.user = "", None, None, None

    def _hold(self, data: dict[str, Any]) -> None:
        dict.clear(self.session)
        dict.update(self.session, data)
