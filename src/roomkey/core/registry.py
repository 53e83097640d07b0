"""The sessions in a store: found where they are now, listed, ended, purged. It knows nothing of requests."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, cast

from roomkey.core.endings import Find, end_found
from roomkey.core.loaded import Loaded, Stored
from roomkey.core.renewal import LATE, Clocks
from roomkey.core.reporting import Reporter
from roomkey.core.rules import Rules
from roomkey.core.tombstones import Way, is_session
from roomkey.core.trails import MOST_HOPS as _MOST_HOPS
from roomkey.core.trails import Trails, may_live
from roomkey.core.turns import Deadline, pause
from roomkey.errors import StoreUnavailable
from roomkey.events import Ended, Event
from roomkey.stores.base import Conflict, Record, Store, Unreadable
from roomkey.stores.cookie import CookieStore
from roomkey.stores.guard import GuardedStore
from roomkey.wire import codec, user_ids
from roomkey.wire.about import about_in, with_label
from roomkey.wire.envelope import Envelope, envelope_for, trail_in

if TYPE_CHECKING:
    from roomkey.config import SessionConfig

__all__ = ["Registry", "unreadable"]

Reason = Literal["cleared", "revoked", "limit"]  # why a session ends

_MOST_REFUSALS = 50  # in a row, of the version that was just read
_REFUSED_WAIT = 0.02  # seconds between them
_ENDED_AT_ONCE = 16  # sessions, by one call; as many connections may be in use meanwhile
_LOOKED_THROUGH = 500  # keys at once, where all sessions are gone through
_PURGE_EVERY = 60.0  # seconds between two purges
_PURGE_BATCH = 500  # records


class Registry:
    """The sessions of one configuration; made once.

    Args:
        config: says which store, and how sessions are kept in it.
        reporter: is told of each event.
    """

    def __init__(self, config: SessionConfig, reporter: Reporter) -> None:
        self._config = config
        self.rules: Rules = Rules(config)
        self.clocks: Clocks = self.rules.clocks
        self.store: GuardedStore = reporter.guarded(cast(Store, config.store), config.store_timeout)
        self.trails: Trails = Trails(self.store, self.rules.clock)
        self.envelope: Envelope = envelope_for(config)
        self.report: Callable[[Event], None] = reporter.report
        self._purged_at = self.rules.clock()

    # --- found ----------------------------------------------------------------------------------------------------

    async def current(self, stored: Stored) -> Stored | None:
        """Find where a session is now that was in `stored`; None: it is out of reach. Raises StoreUnavailable."""
        return await self.current_of(stored.key, stored.record.user, stored.secret)

    async def current_of(
        self, key: str, user: str | None = None, secret: bytes = b"", way: Way | None = None
    ) -> Stored | None:
        """Find where a session is now, following rotations from `key`; None: out of reach, ended or another user's.

        Args:
            key: where it was.
            user: whose it was there. A session that passed from one user to another, or to nobody, is out of reach.
            secret: what opened it there.
            way: takes the keys that lead there, its own included, and what was found under each.

        Raises:
            StoreUnavailable: the store did not answer, a tombstone cannot be read, or the session has moved too often.
        """
        been = Way() if way is None else way
        hops = 0
        while key not in been:  # rotations in a circle lead nowhere
            been[key] = None
            hops = _one_more(hops)
            try:
                record = been[key] = await self.store.load(key)
            except Unreadable as error:
                raise unreadable() from error
            if record is None or (user is not None and record.user != user):
                return None
            user = record.user
            if record.successor is None:
                return None if self.clocks.is_over(self.rules.clock(), record) else Stored(key, record, secret)
            try:
                secret = self.envelope.follow(record, secret)
            except codec.DamagedData as error:
                raise unreadable() from error
            key = record.successor
        return None

    async def in_grace(
        self, tombstone: Record, secret: bytes, came: float | None = None, *, late: float = LATE
    ) -> Stored | None:
        """Find the session that an old ID opens during its grace; None: nothing, to whoever arrives with it now.

        Each rotation on the way must still serve, and leave the session whose it was: who planted an ID, and has it
        rotated while nobody is logged in, must not arrive in the session of whoever logs in next.

        Args:
            tombstone: what lies under the old ID.
            secret: what opened it there.
            came: when the request came, in Unix seconds, to find a user's session that other requests have rotated
                since; None: only what the ID opens now.
            late: seconds for which requests from before a rotation may have come in after it. Counts beside `came`.

        Raises:
            DamagedData: a tombstone does not say where the session is.
            StoreUnavailable: the store did not answer, or the session has moved too often.
        """
        key, record, been, hops = "", tombstone, set[str](), 0
        moment, longer = self.rules.clock(), 0.0
        if came is not None and tombstone.user is not None:
            moment, longer = came, late
        while True:
            if record.successor is None:
                return Stored(key, record, secret)
            if record.successor in been or not self.clocks.serves(moment, record, longer):
                return None
            been.add(record.successor)
            hops = _one_more(hops)
            secret = self.envelope.follow(record, secret)
            key = record.successor
            try:
                found = await self.store.load(key)
            except Unreadable as error:
                raise codec.DamagedData from error
            if found is None or found.user != tombstone.user:
                return None
            record = found

    def opened(self, stored: Stored) -> Loaded:
        """Return the session in `stored`. Raises DamagedData where it cannot be read."""
        return self.opened_with_data(stored)[0]

    def opened_with_data(self, stored: Stored) -> tuple[Loaded, dict[str, Any]]:
        """As `opened`, with what the session holds."""
        key, record, secret = stored
        encoded = self.envelope.open(record, key, secret)
        data = codec.decode(encoded)
        return Loaded(key, record, secret, encoded, codec.facts_in(encoded), self.rules.user_of_stored(data)), data

    async def wait_for_progress(self, refused: Stored | None, found: Stored | None, refusals: int) -> int:
        """Wait a moment where a swap was refused and nothing newer is found: what was read may come from a replica.

        Args:
            refused: what was found before the swap; None: nothing.
            found: what is found now.
            refusals: how often in a row that was so.

        Returns how often it was so by now.

        Raises:
            StoreUnavailable: it was so too often. Without this, a store that errs would hold requests for ever.
        """
        if refused is not None and found is not None:
            is_newer = refused.key != found.key or refused.record.version != found.record.version
        else:
            is_newer = refused is not found
        if is_newer:
            return 0
        if refusals == _MOST_REFUSALS:
            raise StoreUnavailable("the store does not save over the version that it answers with: is it a replica?")
        await pause(_REFUSED_WAIT)
        return refusals + 1

    # --- ended ----------------------------------------------------------------------------------------------------

    async def end_at(self, stored: Stored, reason: Reason) -> None:
        """End the session as it was read. A swap first: a rotation under way must not carry it to safety.

        Raises:
            Conflict: it has changed, moved on or ended since.
        """
        key, record, _ = stored
        ended = replace(record, data=b"", version=record.version + 1, expires_at=self.rules.clock())
        await self.store.update(key, ended, version=record.version)
        await self.store.delete(key)
        self.report(Ended(key, record.user, reason, about_in(record.about).actor))
        await self.trails.remove(trail_in(record.data))

    async def confirm_end(
        self, stored: Stored, is_log_out: bool = True, *, hides: bool = False, way: Way | None = None
    ) -> None:
        """Make sure that a session has ended of which nothing is found any more, before anything is dropped for that.

        Args:
            stored: the session as it was read last.
            is_log_out: whether somebody is told that they are logged out. That has to be certain. Changes are dropped
                too where the session has lived for as long as it was to live when it was read.
            hides: whether the way from there was to be kept for a moment only: see `tombstone`.
            way: what was found on the way from there; None: it is looked for.

        Raises:
            StoreUnavailable: it may have moved to where nothing leads any more.
        """
        if way is None:
            way = Way()
            if await self.current_of(stored.key, stored.record.user, way=way) is not None:
                raise may_live()
        await self.trails.confirm_end(stored, way, is_log_out=is_log_out, hides=hides)

    async def end(self, stored: Stored, reason: Literal["revoked", "limit"]) -> bool:
        """End the session where it is now, whoever's it is by then. Returns whether it was this call that ended it.

        Raises:
            StoreUnavailable: the store did not answer, whether the session has ended cannot be known, or others save it
                all the time, for longer than `store_timeout`.
        """

        async def find(last: Stored) -> Stored | None:
            found = await self.current(last)
            if found is None:
                await self.confirm_end(last)
            return found

        return await self.end_found(stored, find, reason)

    async def end_found(self, stored: Stored | None, find: Find, reason: Reason) -> bool:
        """As `endings.end_found`, for as long as `store_timeout`."""
        limit = self._config.store_timeout if self.store.waits else None
        return await end_found(stored, find, partial(self.end_at, reason=reason), self.wait_for_progress, limit)

    async def label(self, stored: Stored, label: str | None) -> bool:
        """Give a session another name, wherever it is now. Returns whether it was found.

        Raises:
            StoreUnavailable: as for `end`.
        """
        deadline = Deadline(self._config.store_timeout, "named") if self.store.waits else None
        found: Stored | None = stored
        refusals = 0
        while found is not None:
            key, record, _ = found
            named = replace(record, version=record.version + 1, about=with_label(record.about, label))
            try:
                await self.store.update(key, named, version=record.version)
                return True
            except Conflict:
                if deadline is not None:
                    deadline.check()
            last, found = found, await self.current(found)
            refusals = await self.wait_for_progress(last, found, refusals)
        return False

    async def end_several(self, sessions: Sequence[Stored]) -> int:
        """As `end`, because they are revoked, for some sessions at a time. Returns how many this call ended.

        Raises:
            StoreUnavailable: as for `end`. Some of them may have ended.
        """
        if not self.store.waits:  # there may be no event loop
            return sum([await self.end(stored, "revoked") for stored in sessions])
        import asyncio

        ended = 0
        for first in range(0, len(sessions), _ENDED_AT_ONCE):
            group = sessions[first : first + _ENDED_AT_ONCE]
            answers = await asyncio.gather(*(self.end(each, "revoked") for each in group), return_exceptions=True)
            for answer in answers:
                if isinstance(answer, BaseException):
                    raise answer
                ended += answer
        return ended

    async def of_user(self, user: str, absurd: list[str] | None = None) -> list[tuple[str, Record]]:
        """Return key and record of a user's live sessions.

        A store that lies, or whose index is late, shows nobody another's session, and ends none.

        Args:
            user: the user's ID, as text.
            absurd: takes the keys of records that are the user's, and have moments that no clock shows.

        Raises:
            StoreUnavailable: the store does not answer, or its list cannot be read.
        """
        if not user_ids.can_be_filed(user):
            return []  # nobody is called that
        now, live = self.rules.clock(), []
        try:
            found = await self.store.of_user(user)
        except Unreadable as error:  # a list leaves out what it is of; a custom store may not
            raise unreadable() from error
        for key, record in found:
            if record.user != user or record.successor is not None:
                continue
            if not self.clocks.is_over(now, record):
                live.append((key, record))
            elif absurd is not None and self.clocks.is_absurd(record):
                absurd.append(key)
        return live

    async def some(self, after: str) -> tuple[list[tuple[str, Record]], str]:
        """Return key and record of the next live sessions of everybody, and where to go on; empty: these were the last.

        Args:
            after: what the call before returned; empty for the first one.
        """
        import asyncio

        keys, after = await self.store.scan(_LOOKED_THROUGH, after)
        found = await asyncio.gather(*(self.store.load(key) for key in keys), return_exceptions=True)
        live = []
        for key, record in zip(keys, found, strict=True):
            if isinstance(record, Unreadable):  # which is nobody's session
                continue
            if isinstance(record, BaseException):
                raise record
            if record is not None and is_session(record) and not self.clocks.is_over(self.rules.clock(), record):
                live.append((key, record))
        return live, after

    async def discard_unreadable(self, user: str | None) -> int:
        """Remove those of a user's records that cannot be read. Returns how many."""
        if user is None or not user_ids.can_be_filed(user):
            return 0
        return await self.store.discard_unreadable(user)

    async def keep_to_limit(self, user: str, limit: int) -> None:
        """End a user's longest unused sessions, past the limit.

        Exact under concurrency: whoever logs in lists what is there after it was saved, everybody ranks alike, and what
        is used or moves on after it was ranked is ranked anew. Where the store fails in the middle of it, the next
        log-in does the rest: this one has been saved.
        """
        with contextlib.suppress(StoreUnavailable):  # logged
            for _ in range(_MOST_REFUSALS):
                own = [each for each in await self.of_user(user) if about_in(each[1].about).actor is None]
                ranked = sorted(own, key=self._rank, reverse=True)
                try:
                    for key, record in ranked[limit:]:
                        await self.end_at(Stored(key, record, b""), "limit")
                except Conflict:
                    continue
                return

    def _rank(self, found: tuple[str, Record]) -> tuple[float, float, str]:
        key, record = found
        return self.clocks.last_used(self.rules.clock(), record), record.created_at, key

    # --- purged ---------------------------------------------------------------------------------------------------

    @property
    def is_purge_due(self) -> bool:
        """Whether the last purge was a while ago."""
        return self.rules.clock() - self._purged_at >= _PURGE_EVERY

    async def purge_when_due(self) -> None:
        """Remove one batch of expired records, if the last time was a while ago: for apps without a lifespan."""
        if not self.is_purge_due:
            return
        if await self._purge_some() < _PURGE_BATCH:
            self._purged_at = self.rules.clock()

    async def _purge_some(self) -> int:
        try:
            return await self.store.purge(_PURGE_BATCH)
        except StoreUnavailable:
            return 0  # the guard has logged it; sessions that nobody can load do no harm

    @property
    def is_purged(self) -> bool:
        """Whether there is anything to purge: a session that lies in a cookie expires there."""
        return not isinstance(self._config.store, CookieStore)

    async def keep_purging(self) -> None:
        """Purge for ever: the one loop, run while the app's lifespan lasts."""
        import asyncio

        while True:
            # Spread, so that many workers started together do not purge together.
            await asyncio.sleep(_PURGE_EVERY * random.uniform(0.5, 1.5))
            self._purged_at = self.rules.clock()
            while await self._purge_some() >= _PURGE_BATCH:
                await asyncio.sleep(0)  # requests get in between


def _one_more(hops: int) -> int:
    if hops >= _MOST_HOPS:
        raise StoreUnavailable("the session has changed its ID too often to be found with an old one; nothing was done")
    return hops + 1


def unreadable() -> StoreUnavailable:
    return StoreUnavailable("the store holds a record that cannot be read; it was left alone")
