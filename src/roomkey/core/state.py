"""What one request knows of its session, and what a committer changes of it. No decision about saving is here."""

from __future__ import annotations

from math import inf
from typing import Any, Protocol

from roomkey.core.case import Case
from roomkey.core.clients import Clients, client_of
from roomkey.core.intents import NOTHING, Intents
from roomkey.core.lent import Lent
from roomkey.core.loaded import CURRENT, NOWHERE, Attempt, Draft, Loaded, Stale
from roomkey.core.merge import Merged, below_the_pending, doubt, merge, same_objects
from roomkey.core.messages import Messages
from roomkey.core.renewal import CLOCK_ERROR, Expiry
from roomkey.core.reply import NONE, Reply
from roomkey.core.rules import Rules, logs_in
from roomkey.core.session import Session
from roomkey.errors import SessionEnded
from roomkey.events import Lost
from roomkey.stores.base import Record
from roomkey.wire import codec
from roomkey.wire.about import about_of
from roomkey.wire.codec import Facts
from roomkey.wire.facts import Proved, proofs_in
from roomkey.wire.user_ids import NO_ID

__all__ = ["Moving", "RequestState"]


class Moving(Protocol):
    """An old library's session that moves in."""

    async def forget(self) -> None:
        """Let go of it: it has moved."""
        ...


class Beside(Protocol):
    """Something that opens a session, beside the one that the request got."""

    async def end(self, spare: str) -> None:
        """Have it open nothing any more, but for a session under the key `spare`. Raises StoreUnavailable."""
        ...


class RequestState:
    """One request's session, its response, and what was tried. A transaction is one."""

    rules: Rules  # of the configuration
    session: Session
    reply: Reply
    clients: Clients | None = None  # what is known of clients; None: they are not recorded

    moving: Moving | None = None  # the old library's session that moves in; None: it has, or there is none
    # Whether a session may begin here that nobody is logged into. Not where the browser may have a newer cookie by now:
    # that of the log-in that ended or rotated this session.
    may_begin = True
    renews = True  # whether use of the session renews it
    begins_here = False  # whether this request began the session: no browser has had a card for it
    beside: Beside | None = None  # what else the request brought that opens a session
    logs_out = False  # whether it has logged out here, and what is beside its session is still to end
    page: str | None = None  # the path of the URL, where the request brought several cards; None: it did not
    lost: bool = False  # whether changes were dropped because the session had ended
    untold: Lost | None = None  # what was dropped so, until somebody hears of it; None: nothing
    tried: tuple[Attempt, ...] = ()  # writes that the store never answered
    is_behind = False  # whether a swap was lost already, so that the first try can be left out
    # The facts from before another request proved who the user is; None: none has. This request has proved nothing by
    # that, and may have come with a stolen card.
    before_proof: Facts | None = None
    actor: Loaded | None = None  # the session of whoever acts for this one's user; None: nobody does
    lent: Lent | None = None  # what a view of the session has handed out; None: nothing
    messages: Messages | None = None  # what the request has to do with messages; None: nothing
    under_way: Draft | None = None  # of the task that saves or refreshes; None: none does

    @property
    def at(self) -> Loaded:
        """The session as it was loaded or last saved."""
        return self.session._at

    @at.setter
    def at(self, at: Loaded) -> None:
        self.session._at = at
        if at is not NOWHERE:
            fresh_until = self.rules.clocks.fresh_until(at.record, at.facts)
            self.session._fresh_until = fresh_until if at.stale is CURRENT else -inf  # its card is to be signed anew

    def told(self) -> Lost | None:
        """Return what was dropped, and note that somebody hears of it. None: nothing was, or it was told before."""
        lost, self.untold = self.untold, None
        return lost

    # --- the session as it would be if it were saved now ----------------------------------------------------------

    def now(self) -> float:
        return self.rules.clock()

    def present_user(self) -> str | None:
        """Return whose session it would be if it were saved now."""
        return self.rules.user_of(self.session._plain())

    def _present_intents(self) -> Intents:
        """Return what was asked since the last save that is known to be done."""
        intents: Intents = self.session._intents
        if self.under_way is not None:
            intents = self.under_way.intents.then(intents)
        for attempt in reversed(self.tried):
            intents = attempt.intents.then(intents)
        if self.rules.rights is not None and self.actor is None and self.at.user == self.present_user():
            intents = self.rules.asked(self.at.encoded, self.session._plain(), intents)
        return intents

    def _present_facts(self) -> Facts:
        at, user = self.at, self.present_user()
        intents, relies_on = self._present_intents(), self.before_proof
        facts = self.rules.facts_after(self.now(), at.facts, at.user, user, intents, relies_on=relies_on)
        return facts if at.exists else self.rules.facts_of_new(facts, user)

    @property
    def actor_id(self) -> Any:
        """The ID of whoever acts for the user, as it stands in their own session; None: nobody does."""
        whose = self.rules.whose
        return None if self.actor is None or whose is None else whose.value_in(codec.decode(self.actor.encoded))

    @property
    def created_at(self) -> float:
        return self.at.record.created_at if self.at.exists else self.now()

    @property
    def authenticated_at(self) -> float | None:
        moment = self.relied_on(self._present_facts()).authenticated_at
        if moment is None or moment > self.now() + CLOCK_ERROR:  # damaged: a log-in lies in the past
            return None
        return None if self._is_nobodys() else moment

    @property
    def proofs(self) -> tuple[Proved, ...]:
        if self._is_nobodys():
            return ()
        latest = self.now() + CLOCK_ERROR
        found = proofs_in(self.relied_on(self._present_facts()).proofs)
        return tuple(each for each in found if each.moment <= latest)

    @property
    def level(self) -> int:
        """How sure it is who the user is, be the proof old or not; 0: nobody is logged in."""
        proved = [each.level for each in self.proofs]
        is_user = not self._is_nobodys() if self.rules.user_key is not None else self.authenticated_at is not None
        return max(proved, default=int(is_user))

    def _is_nobodys(self) -> bool:
        # Without a `user_key`, `reauthenticated` alone says that somebody has proved who they are.
        return self.rules.user_key is not None and self.present_user() in (None, NO_ID)

    @property
    def expires_at(self) -> float:
        clocks, at = self.rules.clocks, self.at
        if at.exists:
            expiry = self.expiry(at.record)
            return clocks.end_of(expiry.created_at, expiry.expires_at)
        facts, begun = self._present_facts(), self.created_at
        if facts.authenticated_at is not None and facts.authenticated_at != at.facts.authenticated_at:
            begun = facts.authenticated_at
        return clocks.end_of(begun, clocks.until(self.now(), facts))

    def expiry(self, record: Record) -> Expiry:
        """Return when this session began and expires once the response has saved or renewed it.

        Args:
            record: the session as it is stored.
        """
        at, intents, user = self.at, self._present_intents(), self.present_user()
        rotates = intents.rotate is not None or intents.reauthenticated or logs_in(at.user, user, intents)
        renews = rotates or user != at.user or at.stale is not CURRENT or self.moving is not None
        renews = renews or (self.rules.renews_each and self.is_modified())
        seen = self.reply.is_open and at.session_id is not None
        return self.rules.clocks.expiry(
            self.now(),
            record,
            at.facts,
            self._present_facts(),
            seen=seen,
            rotates=renews and self.reply.is_open,
            renews=self.renews,
        )

    def is_modified(self) -> bool:
        session = self.session
        self._take_in_lent()
        if not self.at.exists:
            return dict.__len__(session) > 0
        if session._intents.needs_saving:
            return True
        if not (session._changed or session._shared):
            return False
        return codec.encode(session._plain(), self._present_facts()) != self.at.encoded

    def _take_in_lent(self) -> None:
        """Put into the session what was changed in the values that views of it have handed out."""
        if self.lent is not None:
            self.lent.take_in(self.session)

    # --- what a commit is decided on ------------------------------------------------------------------------------

    def case(self, draft: Draft) -> Case:
        """Return what a commit of this draft is decided on, if nobody else has saved meanwhile."""
        at, is_open = self.session._at, self.reply.carries is not NONE
        about = b"" if self.session._peer is None else self._about(draft)
        moves_in = is_open and self.moving is not None
        case = Case(at, draft, at, self.rules.clock(), is_open, moves_in, self.may_begin, about, self.tried)
        if not self.renews:
            case = case._replace(renews=False)
        if self.actor is not None:
            case = case._replace(acts=True)
        return case if self.before_proof is None else case._replace(before_proof=self.before_proof)

    def meet(self, was: Loaded, found: Loaded) -> None:
        """Note what another request has stored: it may have proved meanwhile who the user is.

        Args:
            was: the session as this request knew it.
            found: as it is stored now.
        """
        if self.before_proof is None and found.facts.proved != was.facts.proved:
            self.before_proof = was.facts

    def meet_done(self, done: Loaded) -> None:
        """Note that an earlier write was done, though it was not answered. `done`: the session after it."""
        asked = [each.intents for each in self.tried]
        proves = any(each.reauthenticated or each.cleared or each.acting for each in asked)
        if proves or done.user != self.at.user:
            self.before_proof = None
        else:
            self.meet(self.at, done)

    def relied_on(self, facts: Facts) -> Facts:
        """Return what says when the user proved who they are, as far as this request may rely on it.

        Args:
            facts: those of the session as of now.
        """
        before = self.before_proof
        is_anothers = before is not None and facts.proved == self.at.facts.proved
        return before if before is not None and is_anothers else facts

    def _about(self, draft: Draft) -> bytes:
        """Return what a log-in keeps of the client."""
        session, at = self.session, self.session._at
        client = client_of(None if session._peer is None else session._peer[0], session._sent)
        user = self.rules.user_of(draft.content)
        is_log_in = user != at.user or self.moving is not None or logs_in(at.user, user, draft.intents)
        if self.clients is not None and user is not None and is_log_in:
            client = self.clients.of_log_in(client)
        return about_of(client)

    def unsaved_over(self, latest: Loaded | None) -> Case:
        """Return what this request has not saved, as a case, with what is stored now."""
        session = self.session
        self._take_in_lent()
        draft = Draft(session._plain(), self.at.encoded, session._intents, session._put or frozenset())
        return self.case(draft)._replace(fresh=latest)

    def take_in(self, case: Case) -> None:
        """Lay what this request did over what is stored now. Raises SessionEnded where that is not for it."""
        at, latest, draft, session = case.was, case.fresh, case.draft, self.session
        if latest is None:
            raise SessionEnded("the session was ended while this request ran")
        if latest.record.user not in (None, self.present_user(), at.user):
            raise SessionEnded("the session became another user's while this request ran")
        if any(attempt.may_come(latest) for attempt in case.tried):
            return  # it replaces just this; the next save finds out whether it did
        self.meet(at, latest)
        intents = draft.intents
        if intents.cleared:  # a log-out that is not saved yet: nothing comes back
            merged = Merged(draft.content, intents.changes)
        else:
            base = doubt(codec.decode(at.encoded), case.tried, draft.content)
            merged = merge(codec.decode(latest.encoded), base, draft.content, intents.changes)
        if latest.key != at.key:
            self.reply.withhold()
            self.moving = None  # moved in by another request, whose response carries the card
            self.at = latest
        else:
            stale = at.stale if at.key == self.at.key else Stale.CARD  # a new ID, whose card is still to be given
            self.at = latest._replace(session_id=at.session_id, stale=stale)
        self.tried = ()
        session._intents = intents._replace(changes=merged.changes) if intents.changes else intents
        session._put = {*draft.put} or None
        self.show(merged.data)

    def show(self, data: dict[str, Any]) -> None:
        """Put `data` into the session, below what other tasks of the request did to it since the commit began."""
        session, present = self.session, self.session._plain()
        is_pending = session._changed or session._shared or session._intents is not NOTHING
        if self.under_way is not None and self.under_way.encoded and is_pending:
            before = codec.decode(self.under_way.encoded)
            self.under_way = self.under_way._replace(encoded=codec.encode(data))
            data, session._intents = below_the_pending(data, before, present, session._intents)
        data = same_objects(data, present)
        dict.clear(session)
        dict.update(session, data)

    def detach(self) -> None:
        """Note that there is no session any more, or that it is out of reach."""
        self.reply.withhold()
        self.at = NOWHERE

    async def forget_old(self) -> None:
        """Let go of an old library's session, which has moved in by now."""
        if self.moving is not None and self.reply.is_open:
            moving, self.moving = self.moving, None
            await moving.forget()
