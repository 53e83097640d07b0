"""Sessions in a store: plans carried out by compare-and-swap, and made anew where another request was first.

Each step swaps at the version that was read. Where the store says that it has changed, the record is followed to where
it is now, and `roomkey.core.plan` decides again. What was ended stays ended.
"""

from __future__ import annotations

import random
from collections.abc import Coroutine
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from roomkey.core.committer import Committer
from roomkey.core.intents import NOTHING, drop_token
from roomkey.core.loaded import CURRENT, Attempt, Draft, Loaded, Stale, Stored
from roomkey.core.plan import Case, Plan, Step, is_for, plan, settled
from roomkey.core.registry import unreadable
from roomkey.core.reply import CLEAR, GIVE
from roomkey.core.state import RequestState
from roomkey.core.turns import Turns
from roomkey.errors import ConfigurationError, StoreUnavailable
from roomkey.events import Created, Merged, Rotated
from roomkey.stores.base import Conflict, Record, Unreadable
from roomkey.wire import codec
from roomkey.wire.keys import Keyring, new_session_id, store_key

if TYPE_CHECKING:
    import asyncio  # at run time it is imported where it is used: it is half of the time that `import roomkey` takes

    from roomkey.config import SessionConfig
    from roomkey.core.reporting import Reporter

__all__ = ["StoreCommitter"]

_SAVE, _BEGIN = Step.SAVE, Step.BEGIN  # bound once: to look up a member of an enumeration takes longer than a call
_SWAPS = (_SAVE, Step.ROTATE, _BEGIN)


class StoreCommitter(Committer):
    """Carries plans out in a store."""

    marks = True

    def __init__(self, config: SessionConfig, reporter: Reporter) -> None:
        super().__init__(config, reporter)
        self.store, self.envelope = self.registry.store, self.registry.envelope
        self.keyring = Keyring(config.secret_key, purpose="session cookie", name=config.session_cookie)
        self.turns = Turns()
        self._seals = config.seal
        self.unfinished: set[asyncio.Future[bool]] = set()  # commits that go on though their requests were cancelled

    # --- what a transaction asks ----------------------------------------------------------------------------------

    @property
    def may_wait(self) -> bool:
        return self.store.waits

    def must_finish(self, state: RequestState) -> bool:
        # To save values twice is to save them once. Not so what `change` functions made, and a new ID is lost with it.
        asks = state.session._intents is not NOTHING
        return asks or not state.at.exists or state.moving is not None or state.present_user() != state.at.user

    async def run_to_its_end(self, work: Coroutine[Any, Any, bool]) -> bool:
        """Run a commit as a task of its own, which goes on when this one is cancelled: a stream's client has gone, say.

        The task that saves next, or starts the response, waits for it.
        """
        import asyncio

        task = asyncio.ensure_future(work)
        self.unfinished.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, commit: asyncio.Future[bool]) -> None:
        self.unfinished.discard(commit)
        if not commit.cancelled():
            commit.exception()  # heard: a request that was cancelled does not ask any more

    async def finish(self) -> None:
        if self.unfinished:
            import asyncio

            await asyncio.wait(self.unfinished, timeout=self.config.store_timeout)

    async def latest(self, at: Loaded) -> Loaded | None:
        found = await self.registry.current(at.stored)
        return None if found is None else self._opened(found)

    async def confirm(self, state: RequestState) -> None:
        try:
            record = await self.store.load(state.at.key)
        except (StoreUnavailable, Unreadable):
            return
        if record is None or record.successor is not None:
            state.reply.withhold()

    # --- committing -----------------------------------------------------------------------------------------------

    def start(self, state: RequestState, draft: Draft) -> Coroutine[Any, Any, None] | None:
        if (
            not self.store.never_waits
            or self.store.is_patched
            or self.rules.limit is not None
            or state.tried
            or state.moving is not None
        ):
            return self.commit(state, draft)
        # The store answers at once: no coroutine is made for what most commits are.
        case = state.case(draft)
        if state.is_behind:
            state.is_behind = False
            return None if self._contend_at_once(state, case) else self.commit(state, draft)
        step = plan(self.rules, case)
        if step.step not in _SWAPS or step.content is not None:
            return self.commit(state, draft)
        if step.step is _BEGIN:
            drop_token(state.session, step.record.user)
        after, operation = self._prepare(state, case, step)
        try:
            rest = self.store.start_change(operation)
        except Conflict:
            return None if self._contend_at_once(state, case) else self.commit(state, draft)
        except ConfigurationError:
            raise
        except BaseException:
            self._remember(state, after)
            raise
        if rest is not None:
            return self._rest(state, case, step, after, rest)
        self._note(state, case, step, after)
        return self.registry.purge_when_due() if step.step is _BEGIN and self.registry.is_purge_due else None

    def _contend_at_once(self, state: RequestState, case: Case) -> bool:
        """As `_contend`, for changes that are merged and saved as they are. Returns whether it did that."""
        try:
            record = self.store.load_now(case.was.key)
            if type(record) is not Record or record.successor is not None:
                return False
            if self.rules.clocks.is_over(case.now, record) or not is_for(self.rules, case, record.user):
                return False
            fresh = self.registry.opened(Stored(case.was.key, record, case.was.secret))
            case = case._replace(fresh=fresh)
            step = plan(self.rules, case)
            if step.step is not _SAVE or step.unseen or step.is_lost or step.then is not None:
                return False
            after, operation = self._prepare(state, case, step)
            if self.store.start_change(operation) is not None:
                raise RuntimeError("the store waits, and did not wait before")
        except (Conflict, Unreadable, codec.DamagedData):
            return False
        self._note(state, case, step, after)
        if step.content is not None:
            state.show(step.content)
        self.reporter.report(Merged(state.at.key, 1))
        return True

    async def _rest(
        self, state: RequestState, case: Case, step: Plan, after: Loaded, rest: Coroutine[Any, Any, None]
    ) -> None:
        """Go on with a swap that waits after all."""
        try:
            await self._attempt(state, after, rest)
        except Conflict:
            await self._contend(state, case)
        else:
            self._note(state, case, step, after)

    async def commit(self, state: RequestState, draft: Draft) -> None:
        was, case = state.at, state.case(draft)
        only_renews = was.exists and not case.ends and not case.user_asks
        try:
            await self._decide(state, case, only_renews=only_renews)
        except StoreUnavailable:
            if not only_renews:
                raise  # else logged: a store that takes no changes still serves requests that change nothing
        state.tried = ()
        if self.rules.limit is not None:
            await self._keep_to_limit(state, was, self.rules.limit)
        if state.moving is not None:
            await state.forget_old()

    async def _decide(self, state: RequestState, case: Case, *, only_renews: bool) -> None:
        if case.tried:
            await self._contend(state, case)
            return
        step = plan(self.rules, case)
        try:
            await self._carry_out(state, case, step)
        except Conflict:
            # A renewal that was refused: another request saved the session, and renewed it if that was due.
            if not (only_renews and state.reply.is_open):
                await self._contend(state, case)

    async def _contend(self, state: RequestState, case: Case) -> None:
        """Decide on what is stored now, and again as often as another request is first."""
        import asyncio

        # Apart: other tasks of the request may alter what is in it meanwhile.
        case = case._replace(draft=case.draft._replace(content=codec.decode(case.draft.encoded)))
        start = case.was.stored if case.was.exists else case.tried[-1].after.stored
        async with self.turns.at(start.key):
            refused: Stored | None = None if case.tried else start
            refusals, attempts = 0, 0
            while True:
                attempts += 1
                way = set[str]()
                found = await self.registry.current_of(start.key, start.record.user, start.secret, way)
                if found is not None and not is_for(self.rules, case, found.record.user):
                    found = None
                if found is not None and refused is not None:
                    refusals = await self.registry.wait_for_progress(refused, found, refusals)
                fresh = None if found is None else self._opened(found)
                case = case._replace(fresh=fresh, now=self.rules.clock())
                known = settled(case, way) if case.tried else case
                if known.was is not case.was:
                    self._note_done(state, known)
                    case = case._replace(was=known.was, tried=known.tried)
                step = plan(self.rules, known)
                try:
                    await self._carry_out(state, known, step)
                except Conflict:
                    refused = found
                    if found is not None and not case.tried:
                        start = found
                    # Other processes take turns elsewhere: step aside for a moment, longer each time.
                    await asyncio.sleep(random.uniform(0, min(0.001 * attempts, 0.05)))
                    continue
                if step.step in (Step.SAVE, Step.ROTATE):
                    self.reporter.report(Merged(step.over.key if step.unseen else state.at.key, attempts))
                return

    def _note_done(self, state: RequestState, known: Case) -> None:
        """Note that an earlier write was done, though it was not answered."""
        state.at, state.tried = known.was, known.tried
        if known.fresh is not None and known.fresh.key == known.was.key:
            self._give(state)

    def _opened(self, stored: Stored) -> Loaded:
        try:
            return self.registry.opened(stored)
        except codec.DamagedData as error:
            raise unreadable() from error

    async def _keep_to_limit(self, state: RequestState, was: Loaded, limit: int) -> None:
        at = state.at
        is_new = at.record.version == 1 and at.key != was.key
        if at.exists and at.user is not None and (is_new or at.user != was.user):
            await self.registry.keep_to_limit(at.user, limit)
            # Another log-in may have ended this session by now.
            state.reply.is_early = state.reply.cookie is GIVE

    # --- single steps ---------------------------------------------------------------------------------------------

    async def _carry_out(self, state: RequestState, case: Case, step: Plan) -> None:
        """Do it in the store, and note what came of it. Raises Conflict."""
        match step.step:
            case Step.SAVE | Step.ROTATE:
                await self._swap(state, case, step)
            case Step.RENEW:
                await self._renew(state, case, step)
            case Step.BEGIN:
                await self._begin(state, case, step)
            case Step.END:
                await self._end(state, step)
            case Step.LOSE:
                state.forget()
                state.may_begin = False
                # There is nothing on which the functions of other tasks could run.
                state.session._intents = state.session._intents._replace(changes=())
            case Step.NOTHING:
                if step.over.exists:
                    self._is_at(state, self._moved(state, step.over, case.was))
        state.lost = step.is_lost
        if step.then is not None:
            state.forget()
            await self._begin(state, case, step.then)
        elif step.content is not None and step.step is not Step.BEGIN:
            state.show({} if step.is_lost else step.content)

    def _prepare(self, state: RequestState, case: Case, step: Plan) -> tuple[Loaded, Coroutine[Any, Any, None]]:
        """Return the session as it is once the step is done, and the store's operation that does it."""
        over = step.over
        if step.step is _SAVE:
            record, stale = step.record, case.was.stale
            if self._seals:
                record = self._closed(record, over.key, over.secret)
                stale = Stale.CARD if stale is Stale.DATA else stale  # it is sealed anew
            after = Loaded(
                over.key, record, over.secret, step.record.data, step.facts, record.user, case.was.session_id, stale
            )
            return after, self.store.store.update(over.key, record, version=over.record.version)
        # An attempt that was not answered may still arrive: under the same ID it is the same session.
        known = case.tried[-1].after.session_id if case.tried and not case.was.exists else None
        session_id = new_session_id() if known is None else known
        key, secret = store_key(session_id), self.envelope.secret_of(session_id) if self._seals else b""
        record = self._closed(step.record, key, secret)
        after = Loaded(key, record, secret, step.record.data, step.facts, record.user, session_id)
        if step.step is _BEGIN:
            return after, self.store.store.create(key, record)
        left = step.tombstone
        assert left is not None
        left = replace(left, data=left.data + self.envelope.pass_on(over.secret, key, secret), successor=key)
        return after, self.store.store.rotate(over.key, key, record, left, version=over.record.version)

    def _note(self, state: RequestState, case: Case, step: Plan, after: Loaded) -> None:
        """Note that a step was done."""
        was = case.was
        if step.step is _SAVE:
            if step.over.key != was.key:
                after = self._moved(state, after, was)
            if step.is_lost or step.then is not None:
                state.forget()
            elif step.unseen:
                # The changes went along. What the session holds since the log-in is not for this request to see.
                encoded = codec.encode(step.content or {}, was.facts)
                state.at = was._replace(encoded=encoded, session_id=after.session_id)
            else:
                state.at = after
                if step.cookie is GIVE:
                    self._give(state)
            return
        self._is_at(state, after, gives=True)
        if step.step is _BEGIN:
            state.may_begin = True
        if self.reporter.is_heard:
            is_new = step.step is _BEGIN
            created, rotated = Created(after.key, after.user), Rotated(step.over.key, after.key, after.user, was.user)
            self.reporter.report(created if is_new else rotated)

    async def _swap(self, state: RequestState, case: Case, step: Plan) -> None:
        after, operation = self._prepare(state, case, step)
        await self._attempt(state, after, self.store.run(operation))
        self._note(state, case, step, after)

    async def _begin(self, state: RequestState, case: Case, step: Plan) -> None:
        if case.was.exists:
            state.forget()
            if case.fresh is None:
                state.may_begin = False
            if case.fresh is not case.was and step.content is not None:
                state.show(step.content)  # sooner than it is saved: the session that it came from is out of reach
        drop_token(state.session, step.record.user)
        await self._swap(state, case, step)
        await self.registry.purge_when_due()

    async def _renew(self, state: RequestState, case: Case, step: Plan) -> None:
        over, record = step.over, step.record
        if record.version != over.record.version:
            await self.store.update(over.key, record, version=over.record.version)
        elif not await self.store.touch(over.key, record.expires_at):
            raise Conflict
        at = self._moved(state, over._replace(record=record), case.was)
        self._is_at(state, at, gives=step.cookie is GIVE)

    async def _end(self, state: RequestState, step: Plan) -> None:
        after = step.over._replace(encoded=codec.EMPTY)
        await self._attempt(state, after, self.registry.end_at(step.over.stored, "cleared"), ends=True)
        # Only the request that ended it takes the cookie back: where it has ended already, somebody may have logged in.
        state.forget()
        if step.cookie is CLEAR:
            state.reply.take_back()

    async def _attempt(
        self, state: RequestState, after: Loaded, swap: Coroutine[Any, Any, None], *, ends: bool = False
    ) -> None:
        """Swap. Where the store does not answer, or the request is cut off, remember what was tried."""
        try:
            await swap
        except (Conflict, ConfigurationError):
            raise
        except BaseException:
            self._remember(state, after, ends=ends)
            raise

    def _remember(self, state: RequestState, after: Loaded, *, ends: bool = False) -> None:
        draft = state.under_way
        assert draft is not None
        state.tried = (*state.tried, Attempt(after, draft.intents, draft.put, draft.mark, ends))

    # --- the session afterwards -----------------------------------------------------------------------------------

    def _closed(self, record: Record, key: str, secret: bytes) -> Record:
        """Return the record as the store keeps it: its data sealed, where the configuration says so."""
        if not self._seals:
            return record
        return replace(record, data=self.envelope.close(record.data, key, secret))

    def _moved(self, state: RequestState, at: Loaded, was: Loaded) -> Loaded:
        """Return the session as it is now, with the session ID of `was` if it has not been rotated by another request.

        The response of that other request carries the new cookie, and this one carries none.
        """
        if at.key == was.key:
            return at._replace(session_id=was.session_id)
        state.reply.withhold()
        return at._replace(session_id=None)

    def _is_at(self, state: RequestState, at: Loaded, *, gives: bool = False) -> None:
        """Note where the session is now, and give its card where that is due and possible."""
        state.at = at
        if gives:
            self._give(state)

    def _give(self, state: RequestState) -> None:
        at = state.at
        if at.session_id is not None and state.reply.is_open:
            state.reply.give(self.keyring.sign(at.session_id))
            if at.stale is not CURRENT:
                state.at = at._replace(stale=CURRENT)
