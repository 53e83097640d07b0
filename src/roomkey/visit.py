"""One request's dealings with its session: save it, merge it, rotate it, end it.

Saving is compare-and-swap at the version that was read. On `Conflict` the fresh record is loaded (following a rotation
to its successor), this request's changed keys are laid over it, its `change()` functions run again, and the swap is
tried again. What was ended stays ended.
"""

from __future__ import annotations

import enum
import itertools
import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from roomkey import codec
from roomkey.codec import NO_FACTS, Facts
from roomkey.errors import ResponseStarted, SessionDataError, SessionEnded, StoreUnavailable
from roomkey.events import Created, Merged, Rotated
from roomkey.keys import new_session_id, store_key
from roomkey.merge import lay_over
from roomkey.session import AS_IT_IS, CSRF, Session
from roomkey.stores.base import Conflict, Record

if TYPE_CHECKING:
    from roomkey.legacy.move_in import Found
    from roomkey.lifecycle import Lifecycle
    from roomkey.users import Sessions


__all__ = ["RENEWALS", "Cookie", "Gone", "Place", "Visit", "unreadable"]

RENEWALS = 10  # a session is renewed at most once in this fraction of its idle timeout
_UNDER_WAY = 60.0  # seconds for which a request that began before its sealed session moved in may still save
_MOVING = 10.0  # seconds for which requests with an old cookie are served after its session has moved in
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

    @property
    def user_key(self) -> str | None:
        return self.lifecycle.config.user_key

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
        if isinstance(found, Gone):
            raise SessionEnded("the session was ended while this request ran")
        if found.record.user not in (None, self._user(), self.user):
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
        if self.found is not None:  # it moves in with the first response that can give a cookie
            stored = codec.encode(session._plain(), self.facts)
            return stored if self.cookie_possible or stored != self.loaded else None
        if not session._accessed or (record is None and not session._ended and not dict.__len__(session)):
            return None
        try:
            stored = codec.encode(session._plain(), self.facts)
        except SessionDataError:
            if record is None or codec.is_ours(self.loaded):
                raise
            self.lifecycle.refuse("damaged")  # nobody could save what the store holds, so it is left alone
            return None
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
            await self._end(self.record)
        elif self.record is not None:
            await self._save(self.record, stored)
        if self.record is None and dict.__len__(session):
            await self._create()
        await self._done()

    async def _done(self) -> None:
        """What the handler asked for is done, and so is the moving in."""
        session = self.session
        session._rotate, session._changes = None, ()
        session._asked = session._ended = session._cleared = False
        session._lifetime, session._reauthenticated = AS_IT_IS, False
        if self.found is not None and self.cookie_possible:
            found, self.found = self.found, None
            assert self.lifecycle.move_in is not None
            await self.lifecycle.move_in.forget(found)

    async def _create(self) -> None:
        lifecycle, session = self.lifecycle, self.session
        user = lifecycle.checked_user(session)
        session._drop_token(user)
        data, facts = session._plain(), self._facts_of(user)
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

    async def _end(self, record: Record) -> None:
        """End the session: logged out, or emptied key by key, which loses nothing that others put into it meanwhile."""
        lifecycle, session = self.lifecycle, self.session
        begun = session._plain()  # after `invalidate`: a session of its own
        try:
            await self._end_at(Place(self.key, record, self.secret))
        except Conflict:
            async with lifecycle.queue(self.key):
                await self._merge(record, {}, None, False, ends=session._ended or session._cleared)
            self.lost = False
            if begun:
                # Where somebody has logged in meanwhile, the cookie is theirs, unless this is a log-in too.
                self.lost = self.record is not None and lifecycle.user_of(begun) is None
                self._forget()
                self._hold({} if self.lost else begun)

    async def _end_at(self, place: Place) -> None:
        """End the session as it was read; raises Conflict. Only who did it takes the cookie back: to whom it has ended
        already, somebody may have logged in anew."""
        await self.lifecycle.end_at(place, "cleared")
        self._forget()
        if self.cookie_possible:
            self.cookie = Cookie.CLEAR

    async def _save(self, record: Record, stored: bytes) -> None:
        lifecycle, session = self.lifecycle, self.session
        moves_in = self.found is not None and self.cookie_possible
        if stored == self.loaded and not (session._asked or moves_in or lifecycle.envelope.is_old(record.data)):
            await self._renew(record)  # what is unchanged and not due does not come here
            return
        user = lifecycle.user_of(session)
        if user != self.user:
            lifecycle.checked_user(session)
            session._drop_token(user)
        mine = session._plain()
        asked = session._rotate is not None or session._reauthenticated or user != self.user
        rotating = asked or moves_in
        facts = self._facts_of(user)
        if facts != self.facts or user != self.user:
            stored = codec.encode(mine, facts)
        lifecycle.check(mine, stored)
        if rotating:
            self._need_cookie("a rotated session")
        try:
            await self._swap(Place(self.key, record, self.secret), stored, facts, user, rotating)
        except Conflict:
            async with lifecycle.queue(self.key):
                await self._merge(record, mine, user, asked)

    async def _merge(
        self, record: Record, mine: dict[str, Any], user: str | None, rotating: bool, *, ends: bool = False
    ) -> None:
        """Save over what others saved meanwhile, as often as it takes; if it `ends`, end the session with all of it."""
        import asyncio

        lifecycle, session = self.lifecycle, self.session
        base, origin, facts_before = codec.decode(self.loaded), Place(self.key, record, self.secret), self.facts
        refused, refusals = origin, 0
        for attempt in itertools.count(1):
            found = await lifecycle.current(refused.key, refused.record.user, refused.secret)
            changes_user = user != self.user
            if isinstance(found, Gone) or (changes_user and found.record.user not in (None, user, self.user)):
                logging_in = user is not None and changes_user
                self._forget()
                # A log-in stands on its own: a session with what this request put into it, and nothing else.
                self._hold(lay_over({}, base, mine, session._changes) if logging_in else {})
                if logging_in:
                    await self._create()
                else:
                    self.lost = True
                return
            refusals = await lifecycle.wait_for_progress(refused, found, refusals)
            loaded = self._opened(found)
            passed_on = not changes_user and found.record.user != self.user  # somebody logged in meanwhile
            if (ends and not passed_on) or (changes_user and self.user is not None):
                merged = mine  # what the user before wrote meanwhile stays behind
            else:
                fresh = codec.decode(loaded)
                merged = lay_over(fresh, base, mine, session._changes)
                if passed_on and CSRF in fresh:
                    merged[CSRF] = fresh[CSRF]  # the user's forms are out with it
            try:
                if merged:
                    facts = codec.facts_in(loaded)
                    facts = facts if passed_on else self._facts_of(user, facts)
                    stored = codec.encode(merged, facts)
                    lifecycle.check(merged, stored)
                    # Where another request logged in, `rotate()` must not hand its card to one from before; and
                    # where another one moved the session in, its response carries the cookie.
                    moves_in = self.found is not None and self.cookie_possible and found.key == origin.key
                    rotates = moves_in or (rotating and not passed_on)
                    await self._swap(found, stored, facts, lifecycle.user_of(merged), rotates)
                else:
                    await self._end_at(found)
            except Conflict:
                refused = found
                # Other processes queue elsewhere: step aside for a moment, longer each time.
                await asyncio.sleep(random.uniform(0, min(0.001 * attempt, 0.05)))
                continue
            if merged:
                lifecycle.tell(Merged(self.key, attempt))
            if passed_on:  # its changes went along; what the session holds since the log-in is not for it to see
                self._saved(origin, codec.encode(mine, facts_before), facts_before)
            self._hold(mine if passed_on else merged)
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
        grace = self.session._rotate or 0
        if self.found is not None and not self.session._asked:
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
            serve_until=now + grace if user == self.user else now,
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
        try:
            lives = await self.lifecycle.store.touch(self.key, due)
        except StoreUnavailable:
            return  # logged; a store that answers and takes no changes still serves whoever changes nothing
        if lives:
            self.record = replace(record, expires_at=max(due, record.expires_at))
            self._give()

    # --- the state ------------------------------------------------------------------------------------------------

    def _user(self) -> str | None:
        return self.lifecycle.user_of(self.session._plain())

    def _facts_of(self, user: str | None, facts: Facts | None = None) -> Facts:
        """Return the facts as they are to be saved: those loaded, with what this request did."""
        session = self.session
        facts = self.facts if facts is None else facts
        anew = user != self.user or session._ended
        if not (anew or session._reauthenticated) and session._lifetime is AS_IT_IS:
            return facts
        authenticated_at, lifetime, _ = facts
        if anew:
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
            raise unreadable() from error
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
