"""One request's dealings with its session: what it saves, when, and what its response says.

That the response starts, and that the app has returned, both mean: save what the request's tasks did until then.

A transaction is made when something first needs it. A request that only reads has none.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, ClassVar

from roomkey.core import acting
from roomkey.core.case import Case
from roomkey.core.clients import Clients
from roomkey.core.committer import Committer
from roomkey.core.intents import NOTHING
from roomkey.core.loaded import CURRENT, NO_DRAFT, NOWHERE, Draft
from roomkey.core.reply import GIVE, KEEP, Reply
from roomkey.core.rules import Rules
from roomkey.core.session import Session
from roomkey.core.tasks import Tasks
from roomkey.core.tombstones import Way
from roomkey.core.tracked import PEEKED
from roomkey.core.unanswered import settled
from roomkey.core.users import Sessions
from roomkey.errors import ConfigurationError, SessionDataError, SessionEnded, StoreUnavailable
from roomkey.wire import codec
from roomkey.wire.facts import trail_from
from roomkey.wire.whose import LOG_INS, UserKey

if TYPE_CHECKING:
    from roomkey.core.live import Live

__all__ = ["Transaction"]


class Transaction(Tasks):
    """One request's.

    Args:
        committer: carries its plans out.
        session: the request's.
    """

    impersonate: ClassVar[Callable[[Any, object, float], Coroutine[Any, Any, None]]] = acting.impersonate
    stop_impersonating: ClassVar[Callable[[Any], Coroutine[Any, Any, None]]] = acting.stop
    has_failed: bool = False  # whether a response could not save: the 503 that goes out instead saves nothing

    def __init__(self, committer: Committer, session: Session) -> None:
        self.rules: Rules = committer.rules
        self.session: Session = session
        self.reply: Reply = Reply()
        self.committer: Committer = committer
        if committer.clients is not None:
            self.clients: Clients | None = committer.clients
        session._transaction = self
        if session._has_started:
            self.reply.close()

    # --- the session as it is -------------------------------------------------------------------------------------

    @property
    def handle(self) -> str:
        """The public name of the session: the store key, a hash of the ID that tells nothing about it."""
        return self.at.key

    @property
    def first_key(self) -> str:
        """The store key that the session had at first, by which it is known however often its ID changes."""
        return next(iter(trail_from(self.at.facts.trail)), self.at.key)

    @property
    def seconds_left(self) -> float:
        """For how long the session that was just saved lives if nobody uses it any more."""
        record = self.session._at.record
        return self.rules.clocks.end_of(record.created_at, record.expires_at) - self.now()

    @property
    def sessions(self) -> Sessions:
        return Sessions(self.committer, current=self.session)

    @property
    def user_key(self) -> UserKey | None:
        return self.rules.user_key

    def live(self, method: str) -> Live:
        if self.committer.live is None:
            raise ConfigurationError(f"session.{method}() needs live=True, which the configuration does not have")
        return self.committer.live

    @property
    def is_calm(self) -> bool:
        return (
            self.under_way is None
            and self.lent is None
            and self.trouble is None
            and not (self.tried or self.before_proof)
            and self.moving is None
            and self.reply.cookie is KEEP
            and self.reply.visitor is None
            and not self.reply.ends_visitor
        )

    def visitor(self, user: str | None, *, begins: bool) -> bytes | None:
        visitors = self.committer.visitors
        return None if visitors is None else visitors.value_for(self, user, begins=begins)

    @property
    def can_go(self) -> bool:
        """Whether a task that goes on after the request may have another transaction."""
        # Kept where the session has ended, for the task is to hear of that, where a log-out has more to end, and where
        # the task is to renew nothing.
        return self.is_calm and self.may_begin and self.beside is None and self.renews and self.actor is None

    # --- what the handler asks ------------------------------------------------------------------------------------

    def note(self, error: StoreUnavailable | None) -> None:
        """Keep what the handler was told: its framework may let nobody else have the exception."""
        self.trouble = error

    async def save(self) -> None:
        await acting.check_actor(self)
        try:
            lost = await self.commit()
        except StoreUnavailable as error:
            self.note(error)
            raise
        self.note(None)
        if lost:
            self.told()
            raise SessionEnded(
                "the session was ended while this request ran, or somebody has logged into it; nothing was saved"
            )

    def tell_lost(self, route: str = "") -> None:
        """Report what the end of the request could not save. `route`: what served it."""
        lost = self.told()
        if lost is not None:
            self.committer.reporter.lose(lost, route)

    async def refresh(self) -> None:
        await acting.check_actor(self)
        try:
            await self.enter()
        except StoreUnavailable as error:
            self.note(error)
            raise
        try:
            if self.at.exists:
                self.take_in(await self._latest())
            elif not self.may_begin:
                raise SessionEnded("the session was ended while this request ran")
            self.note(None)
        except StoreUnavailable as error:
            self.note(error)
            raise
        finally:
            self.leave()

    async def _latest(self) -> Case:
        """Return what is not saved, and what is stored now. By then it is known which unanswered write was done."""
        at, way = self.at, Way()
        case = self.unsaved_over(await self.committer.latest(at, way))
        if not self.tried:
            return case
        known = settled(case, way)
        if known.fresh is None and known.was.exists and known.was is not at:  # it gave the session to another user
            known = known._replace(fresh=await self.committer.latest(known.was))
        return known

    # --- committing -----------------------------------------------------------------------------------------------

    def unsaved(self) -> Draft | None:
        """Return what there is to commit; None: nothing to save, to renew or to tell the browser.

        Raises:
            SessionDataError: a value cannot be stored.
            Exception: what a function of `Session.change` raised when it ran again, for another task of the request.
        """
        session = self.session
        self._take_in_lent()
        at, intents = session._at, session._intents
        if intents.refused is not None:
            session._intents = intents._replace(refused=None)
            raise intents.refused
        is_used = session._accessed and session._accessed is not PEEKED
        if not is_used and self.moving is None and not self.tried:
            return None
        content, encoded = session._plain(), at.encoded
        acting.check_draft(self, content)
        if at is NOWHERE and not content and not intents.ended and not self.tried and not self.logs_out:
            return None
        if at is NOWHERE or session._changed or session._shared:
            try:
                encoded = codec.encode(content, at.facts)
            except SessionDataError:
                if at is NOWHERE or codec.is_ours(at.encoded):
                    raise
                self.committer.reporter.refuse("damaged")  # nobody could save what the store holds: it is left alone
                return None
        draft = Draft(content, encoded, intents, session._put or frozenset(), only_put=not session._shared)
        if self.tried or self.logs_out or at is NOWHERE or encoded != at.encoded or not content:
            return draft
        if intents is not NOTHING and intents.needs_saving:
            return draft
        return draft if self._is_due() and self.committer.has_room(self, encoded) else None

    def _is_due(self) -> bool:
        """Whether a session that is as it was is to be saved all the same: renewed, signed anew, moved in."""
        at, clocks, now = self.at, self.rules.clocks, self.now()
        if self.moving is not None:
            return self.reply.is_open  # with the first response that can give a cookie
        if not self.renews:
            return False
        if at.stale is not CURRENT:
            return True
        return clocks.is_due(now, at.record, at.facts, seen=self.reply.is_open and at.session_id is not None)

    async def commit(self, draft: Draft | None = None) -> bool:
        """Save what the request did to its session, and set `reply` to what the response says to the browser.

        Args:
            draft: what `unsaved` has just returned, if it was asked.

        Returns:
            Whether it was lost: the session had ended.

        Raises:
            SessionDataError: nothing was saved.
            ResponseStarted: nothing was saved.
            StoreUnavailable: the store did not acknowledge.
        """
        if self.under_way is not None:
            await self.enter()
            draft = None  # by now it is something else
        work = self._start(draft)
        return self.lost if work is None else await work

    def _start(self, draft: Draft | None) -> Coroutine[Any, Any, bool] | None:
        """Begin to commit. None: it is done. A coroutine: it does the rest, and returns whether it was lost."""
        session, committer = self.session, self.committer
        self.under_way = NO_DRAFT
        self.lost = False
        try:
            if draft is None:
                draft = self.unsaved()
            if draft is not None and draft.put and not LOG_INS.isdisjoint(draft.put):
                committer.look_for_log_in(draft.content, draft.put)
            must_finish = draft is not None and committer.may_wait and committer.must_finish(self)
            if draft is not None and must_finish:
                # What is saved is what is there now, and other tasks may run before the commit does.
                draft = self.rules.apart(draft, self.at)
        except BaseException:
            self.leave()
            raise
        if draft is None:
            if session._intents.changes:  # they came to nothing, and that is done
                intents = session._intents._replace(changes=())
                session._intents = NOTHING if intents == NOTHING else intents
            self.leave()
            return None
        if (draft.intents.changes or self.tried) and committer.marks:
            draft = draft._replace(mark=secrets.token_bytes(codec.MARK_BYTES))
        session._intents, session._put, session._changed = NOTHING, None, False
        self.under_way = draft
        try:
            work = committer.start(self, draft)
        except BaseException:
            self._give_back(draft)
            self.leave()
            raise
        if work is None:
            if self.waiting is None:
                self.under_way = None
            else:
                self.leave()
            return None
        return committer.run_to_its_end(self._commit(draft, work)) if must_finish else self._commit(draft, work)

    async def _commit(self, draft: Draft, work: Coroutine[Any, Any, None]) -> bool:
        try:
            await work
            return self.lost
        except BaseException:
            self._give_back(draft)
            raise
        finally:
            self.leave()

    def _give_back(self, draft: Draft) -> None:
        """Note that a commit failed. What it did not even try is asked for still."""
        session = self.session
        session._changed = True
        if not any(attempt.intents is draft.intents and attempt.put is draft.put for attempt in self.tried):
            session._intents = draft.intents.then(session._intents)
            session._put = {*draft.put, *(session._put or ())}

    # --- the response ---------------------------------------------------------------------------------------------

    async def respond(self, status: int | None, *, is_error: bool) -> None:
        """Save before the response starts, and decide on its cookie.

        Args:
            status: its HTTP status; None: it has none.
            is_error: whether it says that the request failed. Where nobody knows whether a save was done, it saves no
                more.

        Raises:
            StoreUnavailable: a 503 is to go out instead. A framework may have made a bare 500 of one that the handler
                did not get over.
            SessionDataError, ResponseStarted: nothing was saved. The app's error page, which follows, saves nothing.
        """
        work = self.respond_now(status, is_error=is_error)
        if work is not None:
            await work

    def respond_now(self, status: int | None, *, is_error: bool) -> Coroutine[Any, Any, None] | None:
        """As `respond`. None: it is done. A coroutine: it does the rest."""
        reply = self.reply
        if self.trouble is not None and status == 500:
            raise self.trouble
        if is_error and (self.tried or self.has_failed):
            reply.saves = False
        self.has_failed = False
        if self.under_way is not None or reply.cookie is not KEEP:
            return self._respond()
        if not reply.saves:
            return None
        try:
            draft = self.unsaved()
            work = None if draft is None else self._start(draft)
        except StoreUnavailable:
            self.has_failed = True
            raise
        except BaseException:
            reply.saves = False
            raise
        return None if work is None and not reply.is_early else self._respond(work)

    async def _respond(self, work: Coroutine[Any, Any, bool] | None = None) -> None:
        """Go on with the response. `work`: a commit that has begun already."""
        reply = self.reply
        try:
            if work is None:
                if self.under_way is not None:  # a task of the app's: the card that it gets has to go out with this
                    await self.settle()
                reply.is_early = reply.cookie is GIVE
                draft = self.unsaved() if reply.saves else None
                if draft is not None:
                    await self.commit(draft)
            else:
                await work
            if reply.is_early:
                await self.confirm()
        except StoreUnavailable:
            self.has_failed = True
            raise
        except BaseException:
            reply.saves = False
            raise

    async def settle(self) -> None:
        """Wait until no task of this request saves or refreshes any more.

        Raises:
            StoreUnavailable: it takes too long. Not where the request has failed already: then no card goes out.
        """
        try:
            await self.enter()
        except StoreUnavailable:
            self._withhold()
            return
        self.leave()

    async def confirm(self) -> None:
        """Look again at the decision of an earlier `save` to give a card. One that may be dead is not sent.

        Raises:
            StoreUnavailable: it cannot be known. Not where the request has failed already.
        """
        try:
            await self.enter()  # a task that rotates now would get a card that is not sent
            try:
                if self.reply.cookie is GIVE:
                    await self.committer.confirm(self)
            except StoreUnavailable:
                if not self.begins_here:  # else no other request has had its ID, to give the browser another one
                    raise
            finally:
                self.leave()
        except StoreUnavailable:
            self._withhold()

    def _withhold(self) -> None:
        """Send no card of which nobody knows whether it is still good. Called while a StoreUnavailable is handled."""
        self.reply.withhold()
        if self.reply.saves:
            raise
