"""What is done for each kind of plan: one swap in the store, and what the request then knows of its session."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from roomkey.core.case import Case, Plan, Step
from roomkey.core.intents import drop_token
from roomkey.core.lines import Batch
from roomkey.core.loaded import CURRENT, Attempt, Loaded, Stale
from roomkey.core.registry import Registry
from roomkey.core.reply import CLEAR, GIVE
from roomkey.core.reporting import Reporter
from roomkey.core.secure import Secure
from roomkey.core.session import Session
from roomkey.core.state import Beside, RequestState
from roomkey.core.tombstones import Kind
from roomkey.errors import ConfigurationError, SessionDataError
from roomkey.events import Created, Lost, Renewed, Rotated
from roomkey.stores.base import Conflict, Record
from roomkey.stores.guard import GuardedStore
from roomkey.wire import codec
from roomkey.wire.cookies import find_cookies
from roomkey.wire.envelope import Envelope
from roomkey.wire.keys import Keyring, new_session_id, store_key

if TYPE_CHECKING:
    from roomkey.config import SessionConfig

__all__ = ["Steps"]

_SAVE, _BEGIN = Step.SAVE, Step.BEGIN  # bound once: to look up a member of an enumeration takes longer than a call


class Steps:
    """The steps of one configuration.

    Args:
        config: the configuration.
        registry: where the sessions are.
        reporter: is told what happens.
    """

    def __init__(self, config: SessionConfig, registry: Registry, reporter: Reporter) -> None:
        self.registry: Registry = registry
        self.reporter: Reporter = reporter
        self.store: GuardedStore = registry.store
        self.envelope: Envelope = registry.envelope
        # A card for one purpose is none for the other: what a script can read must not work as a cookie.
        kind, name = config.carrier
        purpose = f"session {kind}"
        given_secure = f"{purpose}, given as Secure" if config.card_header is None else None
        self.keyring: Keyring = Keyring(config.secret_key, purpose=purpose, name=name, secure_purpose=given_secure)
        self.secure: Secure = Secure(config, find_cookies, self.keyring.is_secure)
        self._seals = config.seal
        self.old_cookies: Callable[[Session], Beside] | None = None  # where another library's sessions move in

    async def carry_out(self, state: RequestState, case: Case, step: Plan) -> None:
        """Do it in the store, and note what came of it. Raises Conflict."""
        match step.step:
            case Step.SAVE | Step.ROTATE:
                await self.swap(state, case, step)
            case Step.RENEW:
                await self._renew(state, case, step)
            case Step.BEGIN:
                await self._begin(state, case, step)
            case Step.END:
                await self._end(state, step)
            case Step.LOSE:
                state.detach()
                state.may_begin = False
                # There is nothing on which the functions of other tasks could run.
                state.session._intents = state.session._intents._replace(changes=())
            case Step.NOTHING:
                if step.over.exists:
                    state.meet(case.was, step.over)
                    self.is_at(state, self.moved(state, step.over, case.was))
        state.lost = step.is_lost
        if step.is_lost and case.user_asks:
            is_theirs = case.was.exists and case.fresh is not None
            state.untold = Lost(case.was.key, "log-in" if is_theirs else "ended")
        if step.then is not None:
            state.detach()
            await self._begin(state, case, step.then)
        elif step.content is not None and step.step is not Step.BEGIN:
            state.show({} if step.is_lost else step.content)

    def prepare(self, state: RequestState, case: Case, step: Plan) -> tuple[Loaded, Coroutine[Any, Any, None]]:
        """Return the session as it is once the step is done, and the store's operation that does it."""
        over = step.over
        if step.step is _SAVE:
            record, stale = step.record, case.was.stale
            if self._seals:
                record = self.closed(record, over.key, over.secret)
                stale = Stale.CARD if stale is Stale.DATA else stale  # it is sealed anew
            session_id = case.was.session_id if over.key == case.was.key else None
            after = Loaded(over.key, record, over.secret, step.record.data, step.facts, record.user, session_id, stale)
            return after, self.store.updating(over.key, record, version=over.record.version)
        # An attempt that was not answered may still arrive: under the same ID it is the same session.
        known = case.tried[-1].after.session_id if case.tried and not case.was.exists else None
        if step.step is not _BEGIN:
            session_id = new_session_id(over.key)  # with its place, so that both keys are on one server
        else:
            session_id = new_session_id() if known is None else known
        key, secret = store_key(session_id), self.envelope.secret_of(session_id) if self._seals else b""
        record = self.closed(step.record, key, secret)
        after = Loaded(key, record, secret, step.record.data, step.facts, record.user, session_id)
        if step.step is _BEGIN:
            return after, self.store.creating(key, record)
        left = step.tombstone
        assert left is not None
        left = replace(left, successor=key)
        left = replace(left, data=left.data + self.envelope.pass_on(left, over.secret, secret))
        return after, self.store.rotating(over.key, key, record, left, version=over.record.version)

    def note(self, state: RequestState, case: Case, step: Plan, after: Loaded) -> None:
        """Note that a step was done."""
        was = case.was
        if step.step is _SAVE:
            if step.over.key != was.key:
                after = self.moved(state, after, was)
            if step.is_lost or step.then is not None:
                state.detach()
            elif step.unseen:
                # The changes went along. What the session holds since the log-in is not for this request to see.
                encoded = codec.encode(step.content or {}, was.facts)
                state.at = was._replace(encoded=encoded, session_id=after.session_id)
            else:
                if step.over is not was:
                    state.meet(was, step.over)
                state.at = after
                if step.cookie is GIVE:
                    self.give(state, only_renews=True)
            return
        if after.user != was.user:
            state.reply.end_visitor()
        if step.tombstone is None or Kind(step.tombstone.data[0]).proves:
            state.before_proof = None
        else:
            state.meet(was, step.over)
        self.is_at(state, after, gives=True)
        if step.step is _BEGIN:
            state.may_begin = state.begins_here = True
        if self.reporter.is_heard:
            is_new = step.step is _BEGIN
            created, rotated = Created(after.key, after.user), Rotated(step.over.key, after.key, after.user, was.user)
            self.reporter.report(created if is_new else rotated)

    async def swap(self, state: RequestState, case: Case, step: Plan) -> None:
        after, operation = self.prepare(state, case, step)
        await self.attempt(state, step, after, self.store.run(operation))
        self.note(state, case, step, after)
        if (work := self.afterwards(step, after)) is not None:
            await work

    def afterwards(self, step: Plan, after: Loaded) -> Coroutine[Any, Any, None] | None:
        """Return what is to be tidied up once a step was done; None: nothing is."""
        if step.step is _SAVE:
            return None
        if step.step is _BEGIN:
            return self.registry.purge_when_due() if self.registry.is_purge_due else None
        before = step.over.facts
        return None if before.dropped is None else self.registry.trails.shorten(before, after)

    async def _begin(self, state: RequestState, case: Case, step: Plan) -> None:
        if case.was.exists:
            state.detach()
            if case.fresh is None:
                state.may_begin = False
            if case.fresh is not case.was and step.content is not None:
                state.show(step.content)  # sooner than it is saved: the session that it came from is out of reach
        drop_token(state.session, step.record.user)
        await self.swap(state, case, step)

    async def _renew(self, state: RequestState, case: Case, step: Plan) -> None:
        over, record = step.over, step.record
        if record.version != over.record.version:
            await self.store.update(over.key, record, version=over.record.version)
        elif not await self.store.touch(over.key, record.expires_at):
            raise Conflict
        state.meet(case.was, over)
        at = self.moved(state, over._replace(record=record), case.was)
        self.is_at(state, at, gives=step.cookie is GIVE, only_renews=True)
        if case.was.stale is CURRENT and self.reporter.is_heard:  # else its card was signed anew, which is told already
            self.reporter.report(Renewed(over.key, record.user))

    async def _end(self, state: RequestState, step: Plan) -> None:
        after = step.over._replace(encoded=codec.EMPTY)
        await self.attempt(state, step, after, self.registry.end_at(step.over.stored, "cleared"))
        # Only the request that ended it takes the cookie back: where it has ended already, somebody may have logged in.
        state.detach()
        if after.user is not None:
            state.reply.end_visitor()
        if step.cookie is CLEAR:
            state.reply.take_back()

    async def end_beside(self, state: RequestState) -> None:
        """End what else the request brought, after it has logged out here. Raises StoreUnavailable."""
        is_again = state.logs_out
        state.logs_out = True  # until it is done
        try:
            if state.beside is not None:
                await state.beside.end(state.at.key)
            if self.old_cookies is not None:
                await self.old_cookies(state.session).end(state.at.key)
        except BaseException:
            # Without the card of a session of nobody, the user finds the session that lives, and can log out of it.
            state.reply.withhold()
            raise
        state.logs_out, state.beside = False, None
        if is_again:
            self.give(state)

    async def attempt(self, state: RequestState, step: Plan, after: Loaded, swap: Coroutine[Any, Any, None]) -> None:
        """Swap. Where the store does not answer, or the request is cut off, remember what was tried."""
        try:
            await swap
        except (Conflict, ConfigurationError, SessionDataError):
            raise
        except BaseException:
            self.remember(state, step, after)
            raise

    def remember(self, state: RequestState, step: Plan | None, after: Loaded, *, batch: Batch | None = None) -> None:
        """Remember a swap that was not answered. `batch`: where it was for several requests."""
        draft = state.under_way
        assert draft is not None and step is not None
        over = step.over.stored if step.over.exists else None
        name = draft.mark if batch is None else batch.mark
        mark = name if after.facts.has_mark(name) else b""
        if batch is not None:
            over = batch.over.stored
        ends = step.step is Step.END
        attempt = Attempt(after, draft.intents, draft.put, mark, ends, over, draft.encoded, step.unseen)
        state.tried = (*state.tried, attempt)

    # --- the session afterwards -----------------------------------------------------------------------------------

    def closed(self, record: Record, key: str, secret: bytes) -> Record:
        """Return the record as the store keeps it: its data sealed, where the configuration says so."""
        if not self._seals:
            return record
        return replace(record, data=self.envelope.close(record, key, secret))

    def moved(self, state: RequestState, at: Loaded, was: Loaded) -> Loaded:
        """Return the session as it is now, with the session ID of `was` if it has not been rotated by another request.

        The response of that other request carries the new cookie, and this one carries none.
        """
        if at.key == was.key:
            return at._replace(session_id=was.session_id)
        state.reply.withhold()
        return at._replace(session_id=None)

    def is_at(self, state: RequestState, at: Loaded, *, gives: bool = False, only_renews: bool = False) -> None:
        """Note where the session is now, and give its card where that is due and possible."""
        state.at = at
        if gives:
            self.give(state, only_renews=only_renews)

    def give(self, state: RequestState, *, only_renews: bool = False) -> None:
        """Give the session's card, where a cookie can still go out. `only_renews`: the browser has one of this ID."""
        at = state.at
        if at.session_id is not None and state.reply.is_open:
            card = self.keyring.sign(at.session_id, secure=self.secure.of(state.session))
            state.reply.give(card, only_renews=only_renews)
            if at.stale is not CURRENT:
                state.at = at._replace(stale=CURRENT)
