"""One request's dealings with its session: save it, merge it, rotate it, end it.

Saving is compare-and-swap at the version that was read. On `Conflict` the fresh record is loaded (following a rotation
to its successor), this request's changed keys are laid over it, its `change()` functions run again, and the swap is
tried again. What was ended stays ended.
"""

from __future__ import annotations

import enum
import random
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from roomkey.errors import ResponseStarted, SessionDataError, SessionEnded, StoreUnavailable
from roomkey.events import Created, Rotated
from roomkey.events import Merged as MergedEvent
from roomkey.merge import Merged, merge
from roomkey.session import AS_IT_IS, CSRF, FLASHES, NOTHING, Asked, Session, drop_token
from roomkey.stores.base import Conflict, Record, Unreadable
from roomkey.wire import codec
from roomkey.wire.codec import NO_FACTS, Facts
from roomkey.wire.keys import new_session_id, store_key

if TYPE_CHECKING:
    import asyncio  # at run time it is imported where it is used: it is half of the time that `import roomkey` takes
    from collections.abc import Coroutine

    from roomkey.legacy.move_in import Found
    from roomkey.lifecycle import Lifecycle
    from roomkey.users import Sessions


__all__ = ["RENEWALS", "Cookie", "Gone", "Place", "Visit", "unreadable"]

RENEWALS = 10  # a session is renewed at most once in this fraction of its idle timeout
_UNDER_WAY = 60.0  # seconds for which a request that began before its sealed session moved in may still save
_MOVING = 10.0  # seconds for which requests with an old cookie are served after its session has moved in
_NO_KEYS: frozenset[str] = frozenset()
_FRESH = 1 - 1 / RENEWALS  # of its idle timeout: with more than that left, no renewal is due


class Cookie(enum.Enum):
    """What the response does with the cookie."""

    KEEP = "keep"  # nothing: what the browser holds is right, or none of this response's business
    GIVE = "give"
    CLEAR = "clear"


class Gone(enum.Enum):
    """Why a session that was loaded can no longer be saved."""

    ENDED = "ended"  # logged out, revoked or expired
    OTHERS = "others"  # it is another user's by now


class Place(NamedTuple):
    """Where a session is now."""

    key: str
    record: Record
    secret: bytes  # for the envelope

    def __repr__(self) -> str:
        return f"Place({self.key!r}, {self.record!r})"  # without the secret


def unreadable() -> StoreUnavailable:
    return StoreUnavailable("the store holds a record that cannot be read; it was left alone")


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
    given_before = False  # whether Cookie.GIVE was decided before the response's own commit: `confirm` looks again
    cookie_possible = True  # until the response starts
    one_cookie = False  # whether the response can carry no second one: the headers of an exception
    lost = False  # whether changes were dropped because the session had ended
    unavailable: StoreUnavailable | None = None  # what the handler was told last, when it asked for something itself
    doubtful = False  # whether that was of a save: nobody knows whether it was done
    # Whether a session may begin here that nobody is logged into. Not where the browser may have the cookie of a newer
    # one by now: of the log-in that ended or rotated this one.
    may_begin = True
    saving = False  # whether a task of this request saves or refreshes: another one waits for its turn
    waiting: deque[asyncio.Future[None]] | None = None  # for their turn, in this order; None: nobody did so far
    # Of the commit under way: what it does beside saving the content, and the content when it began, encoded. Whatever
    # other tasks of the request do to the session meanwhile is for the next one.
    asked = NOTHING
    put: frozenset[str] | set[str] = _NO_KEYS  # the keys that it assigned
    begun = b""

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
        lifecycle, facts, begun = self.lifecycle, self._present_facts(), self.created_at
        until, proved = lifecycle.until(facts), self._is_proved(facts)
        if self.record is not None and facts.lifetime == self.facts.lifetime:
            until = max(until, self.record.expires_at) if proved else self.record.expires_at
        if proved and facts.authenticated_at is not None:
            begun = facts.authenticated_at
        return lifecycle.end_of(begun, until)

    @property
    def authenticated_at(self) -> float | None:
        return self._present_facts().authenticated_at

    @property
    def sessions(self) -> Sessions:
        from roomkey.users import Sessions

        return Sessions(self.lifecycle, current=self.session)

    @property
    def user_key(self) -> str | None:
        return self.lifecycle.config.user_key

    def is_modified(self) -> bool:
        session = self.session
        if self.record is None:
            return dict.__len__(session) > 0
        return session._asked.needs_saving or self._encoded() != self.loaded

    async def save(self) -> None:
        try:
            lost = await self.commit()
        except StoreUnavailable as error:
            self.unavailable, self.doubtful = error, True
            raise
        self.unavailable, self.doubtful = None, False
        if lost:
            raise SessionEnded("the session was ended while this request ran; nothing was saved")

    async def refresh(self) -> None:
        await self._begin()
        try:
            await self._refresh()
            self.unavailable = None
        except StoreUnavailable as error:
            self.unavailable = error
            raise
        finally:
            self._finish()

    async def _refresh(self) -> None:
        if self.record is None:
            if not self.may_begin:
                raise SessionEnded("the session was ended while this request ran")
            return
        found = await self.lifecycle.current(self.key, self.record.user, self.secret)
        if isinstance(found, Gone):
            raise SessionEnded("the session was ended while this request ran")
        if found.record.user not in (None, self._user(), self.user):
            raise SessionEnded("the session became another user's while this request ran")
        loaded = self._opened(found)
        fresh = codec.decode(loaded)
        session = self.session
        asked = session._asked
        if asked.cleared:  # a log-out, which is not done yet: nothing comes back
            merged = Merged(session._plain(), asked.changes)
        else:
            merged = merge(fresh, codec.decode(self.loaded), session._plain(), asked.changes)
        if found.key != self.key:
            self._lose_id()
            self.found = None  # moved in by another request, whose response carries the card
        self.key, self.record, self.secret = found
        self.loaded, self.facts, self.user = loaded, codec.facts_in(loaded), self.lifecycle.user_of(fresh)
        if asked.changes:
            session._asked = asked._replace(changes=merged.changes)
        self._hold(merged.data)

    def unsaved(self) -> bytes | None:
        """Return the session encoded; None if there is nothing to save, to renew or to tell the browser.

        The way of most requests: kept short.

        Raises:
            SessionDataError: a value cannot be stored.
            Exception: what a function of `Session.change` raised when it ran again, for another task of the request.
        """
        session, record = self.session, self.record
        asked = session._asked
        if asked is not NOTHING and asked.refused is not None:
            session._asked = asked._replace(refused=None)
            raise asked.refused
        if self.found is not None:  # it moves in with the first response that can give a cookie
            stored = codec.encode(session._plain(), self.facts)
            return stored if self.cookie_possible or stored != self.loaded or asked.needs_saving else None
        if not session._accessed or (record is None and not asked.ended and not dict.__len__(session)):
            return None
        try:
            stored = codec.encode(session._plain(), self.facts)
        except SessionDataError:
            if record is None or codec.is_ours(self.loaded):
                raise
            self.lifecycle.refuse("damaged")  # nobody could save what the store holds, so it is left alone
            return None
        if record is None or stored != self.loaded or (asked is not NOTHING and asked.needs_saving):
            return stored
        if not dict.__len__(session) or self.has_old_key:
            return stored
        lifecycle, facts = self.lifecycle, self.facts
        idle = lifecycle.idle if facts.lifetime is None else facts.lifetime  # spelled out: the way of every request
        # The first look is the short one: most sessions were renewed a moment ago.
        if record.expires_at - lifecycle.clock() > idle * _FRESH:
            return None
        return stored if lifecycle.is_due(record, facts, seen=self._is_seen()) else None

    # --- deciding -------------------------------------------------------------------------------------------------

    async def commit(self, stored: bytes | None = None) -> bool:
        """Save what the request did to its session, and set `cookie` to what the response owes the browser.

        Args:
            stored: what `unsaved` has just returned, if it was asked.

        Returns:
            Whether it was lost: the session had ended.

        Raises:
            SessionDataError: nothing was saved.
            ResponseStarted: nothing was saved.
            StoreUnavailable: the store did not acknowledge.
        """
        session = self.session
        if self.saving:
            await self._begin()
            stored = None  # by now it is something else
        self.saving = True
        try:
            if stored is None:
                stored = self.unsaved()
            begun, delicate = session._plain(), self._is_delicate()
            if delicate and stored is not None:
                # What is saved is what is there now, and other tasks may run before the commit does.
                codec.verify(begun, stored)
                begun = codec.decode(stored)
        except BaseException:
            self._finish()
            raise
        if stored is None:
            if session._asked.changes:  # they came to nothing, and that is done
                asked = session._asked._replace(changes=())
                session._asked = NOTHING if asked == NOTHING else asked
            self._finish()
            return False
        self.asked, session._asked = session._asked, NOTHING
        self.put, session._put = session._put or _NO_KEYS, None
        self.begun, self.lost = stored, False
        work = self._commit_all(stored, begun)
        return await (self._to_its_end(work) if delicate else work)

    def _is_delicate(self) -> bool:
        """Whether the commit must not be cut off: done or not, nobody would know, and it would be done again.

        To save values twice is to save them once. Not so what `change` functions made, and a new ID is lost with it.
        """
        if not self.lifecycle.store.waits:
            return False  # nothing can cut it off
        asks = self.session._asked is not NOTHING
        return asks or self.record is None or self.found is not None or self._user() != self.user

    async def _to_its_end(self, work: Coroutine[Any, Any, bool]) -> bool:
        """Run a commit as a task of its own, which goes on when this one is cancelled: a stream's client has gone, say.

        Whoever saves next, or starts the response, waits for it.
        """
        import asyncio

        task = asyncio.ensure_future(work)
        self.lifecycle.unfinished.add(task)
        task.add_done_callback(self.lifecycle.forget)
        return await asyncio.shield(task)

    async def _commit_all(self, stored: bytes, begun: dict[str, Any]) -> bool:
        session = self.session
        try:
            await self._commit(stored, begun)
            return self.lost
        except BaseException:
            if self.asked is not NOTHING:
                session._asked = self.asked.then(session._asked)
            session._put = {*self.put, *(session._put or ())}
            raise
        finally:
            self.asked, self.put, self.begun = NOTHING, _NO_KEYS, b""
            self._finish()

    async def settle(self) -> None:
        """Wait until no task of this request saves or refreshes any more."""
        await self._begin()
        self._finish()

    async def confirm(self) -> None:
        """Take back the decision of an earlier `save` to give a card, if the ID has been rotated or has ended since."""
        await self._begin()  # a task that rotates now would get a card that is not sent
        try:
            if self.cookie is Cookie.GIVE:
                record = await self.lifecycle.store.load(self.key)
                if record is None or record.successor is not None:
                    self.cookie = Cookie.KEEP
        except (StoreUnavailable, Unreadable):
            pass
        finally:
            self._finish()

    async def _commit(self, stored: bytes, begun: dict[str, Any]) -> None:
        """Save the session as it was when the commit began: `stored` is `begun`, encoded."""
        record, key, user = self.record, self.key, self.user
        if record is not None and begun and not self.asked.ended:
            await self._save(record, stored, begun)
        else:
            may_begin = record is not None or self.may_begin or self.lifecycle.user_of(begun) is not None
            new = self._check_new(begun) if begun and may_begin else None  # before anything ends
            if record is not None:
                await self._end(record, begun)
            if new is not None and not self.lost:
                await self._create(new)
            elif begun:
                self.lost = True
        limit = self.lifecycle.limit
        if limit is not None and self.record is not None and self.user is not None:
            is_new = self.record.version == 1 and self.key != key
            if is_new or self.user != user:
                await self.lifecycle.keep_to_limit(self.user, limit)
                self.given_before = self.cookie is Cookie.GIVE  # another log-in may have ended this one by now
        if self.found is not None:
            await self._forget_old()

    async def _forget_old(self) -> None:
        """Let go of an old library's session, which has moved in by now."""
        if self.found is not None and self.cookie_possible:
            found, self.found = self.found, None
            assert self.lifecycle.move_in is not None
            await self.lifecycle.move_in.forget(found)

    def _check_new(self, data: dict[str, Any]) -> _New:
        """Return the session that begins with this data. Raises what says that it cannot."""
        lifecycle = self.lifecycle
        user = lifecycle.checked_user(data)
        drop_token(data, user)
        drop_token(self.session, user)
        facts = self._facts_of(user, self.asked)
        stored = codec.encode(data, facts)
        lifecycle.check(data, stored)
        self._need_cookie("a new session")
        return _New(user, facts, stored)

    async def _create(self, new: _New) -> None:
        lifecycle, (user, facts, stored) = self.lifecycle, new
        now = lifecycle.clock()
        session_id = new_session_id()
        key, secret = store_key(session_id), lifecycle.envelope.secret_of(session_id)
        sealed = lifecycle.envelope.close(stored, key, secret)
        ip, user_agent = self.client if user is not None else (None, None)
        record = Record(sealed, 1, now, lifecycle.until(facts), user, ip=ip, user_agent=user_agent)
        await lifecycle.store.create(key, record)
        self.may_begin = True
        self._saved(Place(key, record, secret), stored, facts)
        self._moved(session_id)
        lifecycle.tell(Created(key, user))
        await lifecycle.purge_when_due()

    async def _end(self, record: Record, begun: dict[str, Any]) -> None:
        """End the session: logged out, or emptied key by key, which loses nothing that others put into it meanwhile.

        Args:
            record: the session as it was read.
            begun: what a session of its own begins with, after `invalidate`.
        """
        lifecycle, asked = self.lifecycle, self.asked
        try:
            await self._end_at(Place(self.key, record, self.secret))
        except Conflict:
            async with lifecycle.turns.at(self.key):
                left = await self._merge(record, {}, None, False, ends=asked.ended or asked.cleared)
            self.lost = False
            if begun:
                # Where somebody has logged in meanwhile, the cookie is theirs, unless this is a log-in too.
                elsewhere = self.record is not None or not self.may_begin
                self.lost = elsewhere and lifecycle.user_of(begun) is None
                self._forget()
                left = {} if self.lost else begun
            self._hold(left)

    async def _end_at(self, place: Place) -> None:
        """End the session as it was read; raises Conflict. Only who did it takes the cookie back: to whom it has ended
        already, somebody may have logged in anew."""
        await self.lifecycle.end_at(place, "cleared")
        self._forget()
        if self.cookie_possible:
            self.cookie = Cookie.CLEAR

    async def _save(self, record: Record, stored: bytes, mine: dict[str, Any]) -> None:
        lifecycle, asked = self.lifecycle, self.asked
        moves_in = self.found is not None and self.cookie_possible
        if stored == self.loaded and not (asked.needs_saving or moves_in or lifecycle.envelope.is_old(record.data)):
            await self._renew(record)  # what is unchanged and not due does not come here
            return
        user = lifecycle.user_of(mine)
        logs_in, changes_user = self._logs_in(user, asked), user != self.user
        if changes_user:
            lifecycle.checked_user(mine)
            mine = self._left_for(user, mine)
        facts, shorter = self._facts_of(user, asked), False
        if facts is not self.facts or changes_user:
            stored = codec.encode(mine, facts)
            # Where a session is to live for a shorter time, its ID changes too: a renewal by a request under way, which
            # knows nothing of that, would prolong it again.
            shorter = lifecycle.idle_of(facts) < lifecycle.idle_of(self.facts)
        lifecycle.check(mine, stored)
        rotating = asked.rotate is not None or asked.reauthenticated or changes_user or logs_in or shorter
        if rotating or moves_in:
            self._need_cookie("a shorter life" if shorter else "a rotated session")
        try:
            await self._swap(Place(self.key, record, self.secret), stored, facts, user, rotating or moves_in)
        except Conflict:
            async with lifecycle.turns.at(self.key):
                # Not `mine`: other tasks of the request may alter what is in it meanwhile.
                self._hold(await self._merge(record, codec.decode(stored), user, rotating))
        else:
            if changes_user:
                self._hold(codec.decode(stored))

    async def _merge(
        self, record: Record, mine: dict[str, Any], user: str | None, rotating: bool, *, ends: bool = False
    ) -> dict[str, Any]:
        """Save over what others saved meanwhile, as often as it takes; if it `ends`, end the session with all of it.

        Returns what the session is to hold now.
        """
        import asyncio

        lifecycle, asked = self.lifecycle, self.asked
        base, origin, facts_before = codec.decode(self.loaded), Place(self.key, record, self.secret), self.facts
        refused, refusals, attempt = origin, 0, 0
        while True:
            attempt += 1
            found = await lifecycle.current(refused.key, refused.record.user, refused.secret)
            changes_user, logs_in = user != self.user, self._logs_in(user, asked)
            replaces_user = changes_user and self.user is not None
            if isinstance(found, Gone) or (changes_user and found.record.user not in (None, user, self.user)):
                self._forget()
                self.may_begin = False
                if not logs_in:
                    self.lost = True
                    # There is nothing on which the functions of other tasks could run.
                    self.session._asked = self.session._asked._replace(changes=())
                    return {}
                # A log-in stands on its own: a session with what this request put into it, and nothing else.
                if not replaces_user:
                    mine = self._own(base, mine)
                self._hold(mine)
                await self._create(self._check_new(mine))
                return mine
            refusals = await lifecycle.wait_for_progress(refused, found, refusals)
            loaded = self._opened(found)
            fresh = codec.decode(loaded)
            passed_on = not changes_user and found.record.user != self.user  # somebody logged in meanwhile
            if (ends and not passed_on) or replaces_user:
                merged = mine  # what the user before wrote meanwhile stays behind
                for change in asked.changes:
                    if change.key == FLASHES:
                        change.function(fresh.get(FLASHES, []))  # messages that others have shown are not shown again
            else:
                merged = merge(fresh, base, mine, asked.changes).data
                if passed_on and CSRF in fresh:
                    merged[CSRF] = fresh[CSRF]  # the user's forms are out with it
            try:
                if merged:
                    facts = codec.facts_in(loaded)
                    # Where another request logged in, `rotate()` must not hand its card to one from before; and
                    # where another one moved the session in, its response carries the cookie.
                    moves_in = self.found is not None and self.cookie_possible and found.key == origin.key
                    proved = facts.authenticated_at != facts_before.authenticated_at  # by another request
                    own = logs_in or asked.reauthenticated or not proved
                    facts = facts if passed_on else self._facts_of(user, asked, facts)
                    stored = codec.encode(merged, facts)
                    lifecycle.check(merged, stored)
                    rotates = moves_in or (rotating and not passed_on and own)
                    await self._swap(found, stored, facts, lifecycle.user_of(merged), rotates)
                else:
                    await self._end_at(found)
            except Conflict:
                refused = found
                # Other processes take turns elsewhere: step aside for a moment, longer each time.
                await asyncio.sleep(random.uniform(0, min(0.001 * attempt, 0.05)))
                continue
            if merged:
                lifecycle.tell(MergedEvent(self.key, attempt))
            if passed_on:  # its changes went along; what the session holds since the log-in is not for it to see
                self._saved(origin, codec.encode(mine, facts_before), facts_before)
            return mine if passed_on else merged

    async def _swap(self, place: Place, stored: bytes, facts: Facts, user: str | None, rotating: bool) -> None:
        lifecycle = self.lifecycle
        key, record, secret = place
        created_at, version = record.created_at, record.version + 1
        if facts.authenticated_at is not None and self._is_proved(facts):
            created_at = facts.authenticated_at  # who proves who they are has both clocks start anew: NIST 800-63B 5.2
        expires_at, renewed = record.expires_at, False
        seen = rotating or (self._is_seen() and key == self.key)
        if facts.lifetime != self.facts.lifetime:
            expires_at, renewed = lifecycle.until(facts, seen=seen), True  # which may be sooner
        elif rotating or lifecycle.is_due(record, facts, seen=seen):
            expires_at, renewed = max(lifecycle.until(facts, seen=seen), expires_at), True
        ip, user_agent = record.ip, record.user_agent
        if user != record.user or self.found is not None:
            ip, user_agent = self.client if user is not None else (None, None)
        envelope = lifecycle.envelope
        if not rotating:
            data = envelope.close(stored, key, secret)
            # Spelled out: `replace` takes twice as long, on the way of every write.
            saved = Record(data, version, created_at, expires_at, user, ip=ip, user_agent=user_agent)
            await lifecycle.store.update(key, saved, version=record.version)
            if key != self.key:
                self._lose_id()
            self._saved(Place(key, saved, secret), stored, facts)
            if renewed or self.has_old_key:
                self._give()
            return
        now = lifecycle.clock()
        session_id = new_session_id()
        new_key, new_secret = store_key(session_id), envelope.secret_of(session_id)
        data = envelope.close(stored, new_key, new_secret)
        saved = Record(data, version, created_at, expires_at, user, ip=ip, user_agent=user_agent)
        grace = self.asked.rotate or 0
        if self.found is not None and not self.asked.needs_saving:
            grace = _MOVING  # for the requests that the browser sent together with this one
        # The tombstone outlives `grace`: a slow request that loaded the old record, however short that had to live,
        # must still find the successor, if only to end it.
        until = expires_at
        if self.found is not None and lifecycle.config.seal:
            # Whoever knows what an old cookie held might find the way here from its mark: not for longer than needed.
            until = min(until, now + _UNDER_WAY)
        tombstone = Record(
            envelope.pass_on(secret, new_key, new_secret),
            version,
            created_at,
            until,
            record.user,
            successor=new_key,
            serve_until=now + grace if user == self.user and not self._logs_in(user, self.asked) else now,
        )
        await lifecycle.store.rotate(key, new_key, saved, tombstone, version=record.version)
        old_user = self.user
        self._saved(Place(new_key, saved, new_secret), stored, facts)
        self._moved(session_id)
        lifecycle.tell(Rotated(key, new_key, user, old_user))

    async def _renew(self, record: Record) -> None:
        lifecycle = self.lifecycle
        until = lifecycle.until(self.facts, seen=self._is_seen())
        renewed = replace(record, expires_at=max(until, record.expires_at))
        try:
            if lifecycle.limit is None:
                lives = await lifecycle.store.touch(self.key, renewed.expires_at)
            else:  # whoever has just ranked the user's sessions must notice
                renewed = replace(renewed, version=record.version + 1)
                await lifecycle.store.update(self.key, renewed, version=record.version)
                lives = True
        except Conflict:
            lives = False  # another request saved it, and renewed it if that was due
        except StoreUnavailable:
            return  # logged; a store that answers and takes no changes still serves whoever changes nothing
        if lives:
            self.record = renewed
            self._give()
        elif not self.cookie_possible:
            await self._renew_elsewhere(record)

    async def _renew_elsewhere(self, record: Record) -> None:
        """Renew what another request has saved or rotated: a stream goes on, and keeps its session alive."""
        self.begun = b""  # nothing of it is saved: what other tasks did is below what is fresh
        try:
            await self._refresh()
        except SessionEnded:
            self.lost = True
        except StoreUnavailable:
            pass  # as above
        else:
            found = self.record
            if found is not None and found is not record and self.lifecycle.is_due(found, self.facts, seen=False):
                await self._renew(found)

    # --- the state ------------------------------------------------------------------------------------------------

    def _user(self) -> str | None:
        return self.lifecycle.user_of(self.session._plain())

    def _left_for(self, user: str | None, mine: dict[str, Any]) -> dict[str, Any]:
        """Return what of the session is for the user whose it becomes."""
        if user is not None and self.user is not None:
            mine = self._own(codec.decode(self.loaded), mine)
        drop_token(mine, user)
        return mine

    def _own(self, base: dict[str, Any], mine: dict[str, Any]) -> dict[str, Any]:
        """Return what this request put into the session, be it equal to what was there; `base` is what it loaded."""
        if self.asked.cleared:
            return mine
        own = {key: value for key, value in mine.items() if key in self.put or key not in base}
        changed = merge({}, base, mine, self.asked.changes).data  # by functions, which found nothing
        keys = {each.key for each in self.asked.changes}
        return own | {key: value for key, value in changed.items() if key in keys and key not in own}

    def _logs_in(self, user: str | None, asked: Asked) -> bool:
        """Whether `user` is logged in by this request: another one than before, or anew, after a `clear`."""
        return user is not None and (user != self.user or asked.cleared)

    def _is_proved(self, facts: Facts) -> bool:
        """Whether the log-in is another one than was loaded: somebody has proved who they are, or left."""
        return facts.authenticated_at != self.facts.authenticated_at

    def _present_facts(self) -> Facts:
        """Return the facts as they would be saved now."""
        return self._facts_of(self._user(), self.asked.then(self.session._asked))

    def _facts_of(self, user: str | None, asked: Asked, facts: Facts | None = None) -> Facts:
        """Return the facts as they are to be saved: those loaded, with what this request did."""
        facts = self.facts if facts is None else facts
        if asked is NOTHING and user == self.user:
            return facts
        anew = user != self.user or asked.ended or self._logs_in(user, asked)
        if not (anew or asked.reauthenticated) and asked.lifetime == AS_IT_IS:
            return facts
        authenticated_at, lifetime, _ = facts
        if anew:
            authenticated_at, lifetime = (None if user is None else self.lifecycle.clock()), None
        elif asked.reauthenticated:
            authenticated_at = self.lifecycle.clock()
        if asked.lifetime != AS_IT_IS:
            lifetime = asked.lifetime
        return codec.make_facts(authenticated_at, lifetime)

    # The tasks of one request save and refresh one after the other. Not by a lock, which each write would have to make.

    async def _begin(self) -> None:
        if self.saving:
            import asyncio

            turn = asyncio.get_running_loop().create_future()
            if self.waiting is None:
                self.waiting = deque()
            self.waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():  # it came in the same moment
                    self._finish()
                raise
        self.saving = True

    def _finish(self) -> None:
        while self.waiting:
            turn = self.waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.saving = False

    def _encoded(self) -> bytes:
        return codec.encode(self.session._plain(), self._present_facts())

    def _opened(self, place: Place) -> bytes:
        """Return the session at `place`, encoded; raises StoreUnavailable where nothing can be read."""
        try:
            loaded = self.lifecycle.envelope.open(place.record.data, place.key, place.secret)
            codec.decode(loaded)
        except codec.DamagedData as error:
            raise unreadable() from error
        return loaded

    def _need_cookie(self, what: str) -> None:
        if not self.cookie_possible:
            raise ResponseStarted(
                # Short: some frameworks make it the reason of a WebSocket's close, which has room for 123 bytes.
                f"{what} needs a cookie, but the response has started; nothing was saved: await session.save() sooner"
            )

    def _saved(self, place: Place, stored: bytes, facts: Facts) -> None:
        self.key, self.record, self.secret = place
        self.loaded, self.facts, self.user = stored, facts, place.record.user

    def _moved(self, session_id: bytes) -> None:
        self.session_id = session_id
        self._give()

    def _is_seen(self) -> bool:
        """Whether the browser hears of a renewal."""
        return self.session_id is not None and self.cookie_possible

    def _give(self) -> None:
        if self.session_id is not None and self.cookie_possible:
            self.card = self.lifecycle.keyring.sign(self.session_id)
            self.cookie, self.has_old_key, self.given_before = Cookie.GIVE, False, False

    def _lose_id(self) -> None:
        """Another request has rotated the session: its response carries the new cookie, and this one none."""
        self.session_id = None
        if self.cookie is Cookie.GIVE:
            self.cookie = Cookie.KEEP

    def _forget(self) -> None:
        self._lose_id()
        self.key, self.record, self.user = "", None, None
        self.loaded, self.facts, self.secret, self.has_old_key = b"", NO_FACTS, b"", False

    def _hold(self, data: dict[str, Any]) -> None:
        """Put `data` into the session, below what other tasks of the request did to it since the commit began.

        Values that are as they were stay the same objects: the handler may hold them.
        """
        session, present = self.session, self.session._plain()
        if self.begun:
            data = self._below_the_pending(data, present)
        same = {
            key: present[key]
            for key in data.keys() & present.keys()
            if codec.fingerprint(present[key]) == codec.fingerprint(data[key])
        }
        dict.clear(session)
        dict.update(session, data | same)

    def _below_the_pending(self, data: dict[str, Any], present: dict[str, Any]) -> dict[str, Any]:
        session, before = self.session, codec.decode(self.begun)
        self.begun = codec.encode(data)
        pending = session._asked
        if pending.cleared:  # a log-out, for the next commit to do
            return present
        refusals: list[Exception] = []
        merged = merge(data, before, present, pending.changes, refusals)
        if pending.changes:
            # What a function refuses is for the task that called it to hear when it saves, and not for this one.
            refused = refusals[0] if refusals else pending.refused
            session._asked = pending._replace(changes=merged.changes, refused=refused)
        return merged.data


class _New(NamedTuple):
    """A session that begins."""

    user: str | None
    facts: Facts
    stored: bytes  # encoded
