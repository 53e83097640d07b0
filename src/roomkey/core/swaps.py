"""Sessions in a store: plans carried out by compare-and-swap, and made anew where another request was first.

Each step swaps at the version that was read. Where the store says that it has changed, the record is followed to where
it is now, and `roomkey.core.plan` decides again. What was ended stays ended.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from roomkey.core.case import Case, Plan, Step, is_for, is_log_in, is_log_out, is_log_out_of_all
from roomkey.core.committer import Committer
from roomkey.core.intents import NOTHING, drop_token
from roomkey.core.lines import Line, Lines, Member, can_wait, laid_over_each_other
from roomkey.core.loaded import CURRENT, Draft, Loaded, Stale, Stored
from roomkey.core.plan import plan
from roomkey.core.registry import unreadable
from roomkey.core.reply import GIVE
from roomkey.core.secure import Secure
from roomkey.core.state import RequestState
from roomkey.core.steps import Steps
from roomkey.core.tombstones import Way, logged_in_at
from roomkey.core.turns import Deadline, Turns, pause
from roomkey.core.unanswered import last_read, settled
from roomkey.core.unfinished import Unfinished
from roomkey.errors import ConfigurationError, SessionDataError, StoreUnavailable
from roomkey.events import Created, Merged, Rotated
from roomkey.stores.base import Conflict, Record, Unreadable
from roomkey.stores.guard import GuardedStore
from roomkey.wire import codec
from roomkey.wire.envelope import Envelope
from roomkey.wire.keys import Keyring

if TYPE_CHECKING:
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
        self.store: GuardedStore = self.registry.store
        self.envelope: Envelope = self.registry.envelope
        self.steps: Steps = Steps(config, self.registry, reporter)
        self.keyring: Keyring = self.steps.keyring
        self.secure: Secure = self.steps.secure
        self.lines: Lines = Lines()
        self.turns: Turns = Turns()
        self.unfinished: Unfinished = Unfinished(config.store_timeout)

    # --- what a transaction asks ----------------------------------------------------------------------------------

    @property
    def may_wait(self) -> bool:
        return self.store.waits

    def must_finish(self, state: RequestState) -> bool:
        # To save values twice is to save them once. Not so what `change` functions made, and a new ID is lost with it.
        asks, at = state.session._intents is not NOTHING, state.at
        if asks or not at.exists or state.moving is not None or state.present_user() != at.user:
            return True
        return self.rules.rights is not None and self.rules.changes_rights(at.encoded, state.session._plain())

    async def run_to_its_end(self, work: Coroutine[Any, Any, bool]) -> bool:
        """Run a commit as a task of its own, which goes on when this one is cancelled: a stream's client has gone, say.

        The task that saves next, or starts the response, waits for it.
        """
        import asyncio

        return await asyncio.shield(self.unfinished.begin(work))

    async def finish(self) -> None:
        await self.unfinished.finish()

    async def latest(self, at: Loaded, way: Way | None = None) -> Loaded | None:
        way = Way() if way is None else way
        found = await self.registry.current_of(at.key, at.record.user, at.secret, way)
        if found is None:
            await self.registry.confirm_end(at.stored, is_log_out=False, way=way)
        return None if found is None else self._opened(found)

    async def confirm(self, state: RequestState) -> None:
        try:
            record = await self.store.load(state.at.key)
        except Unreadable:
            record = None
        if record is None or record.successor is not None:
            state.reply.withhold()

    # --- committing -----------------------------------------------------------------------------------------------

    def start(self, state: RequestState, draft: Draft) -> Coroutine[Any, Any, None] | None:
        if (
            not self.store.answers_at_once
            or self.store.is_patched
            or self.rules.limit is not None
            or state.tried
            or state.moving is not None
            or state.logs_out
            or (draft.intents is not NOTHING and draft.intents.logs_out)
        ):
            return self.commit(state, draft)
        # The store answers at once, or mostly: no coroutine is made for what most commits are.
        case = state.case(draft)
        if state.is_behind:
            state.is_behind = False
            return None if self._contend_at_once(state, case) else self.commit(state, draft)
        if not self.store.never_waits and self.lines.has(case.was.key):
            return self.commit(state, draft)  # to stand in line
        step = plan(self.rules, case)
        if step.step not in _SWAPS or step.content is not None:
            return self.commit(state, draft)
        if step.step is _BEGIN:
            drop_token(state.session, step.record.user)
        after, operation = self.steps.prepare(state, case, step)
        try:
            rest = self._change_at_once(state, step, after, operation)
        except Conflict:
            may = self.store.never_waits and self._contend_at_once(state, case)
            return None if may else self.commit(state, draft)
        if rest is not None:
            return self._rest(state, case, step, after, rest)
        self.steps.note(state, case, step, after)
        return self.steps.afterwards(step, after)

    def _contend_at_once(self, state: RequestState, case: Case) -> bool:
        """As `_contend`, for changes that are merged and saved as they are. Returns whether it did that."""
        try:
            record = self.store.load_now(case.was.key)
            if type(record) is not Record or record.successor is not None:
                return False
            if self.rules.clocks.is_over(case.now, record) or not is_for(self.rules, case, record.user):
                return False
            fresh, theirs = self.registry.opened_with_data(Stored(case.was.key, record, case.was.secret))
            case = case._replace(fresh=fresh, theirs=theirs)
            step = plan(self.rules, case)
            if step.step is not _SAVE or step.unseen or step.is_lost or step.then is not None:
                return False
            after, operation = self.steps.prepare(state, case, step)
            rest = self._change_at_once(state, step, after, operation)
            assert rest is None, "a store that says never_waits has waited"
        except (Conflict, Unreadable, codec.DamagedData):
            return False
        self.steps.note(state, case, step, after)
        if step.content is not None:
            state.show(step.content)
        self.reporter.report(Merged(state.at.key, 1))
        return True

    def _change_at_once(
        self, state: RequestState, step: Plan, after: Loaded, operation: Coroutine[Any, Any, None]
    ) -> Coroutine[Any, Any, None] | None:
        """Swap. None: it is done. A coroutine: the store waits, and this does the rest."""
        try:
            return self.store.start_change(operation)
        except (Conflict, ConfigurationError, SessionDataError):
            raise
        except BaseException:
            self.steps.remember(state, step, after)
            raise

    async def _rest(
        self, state: RequestState, case: Case, step: Plan, after: Loaded, rest: Coroutine[Any, Any, None]
    ) -> None:
        """Go on with a swap that waits after all."""
        try:
            await self.steps.attempt(state, step, after, rest)
        except Conflict:
            await self._contend(state, case)
        else:
            self.steps.note(state, case, step, after)
            if (work := self.steps.afterwards(step, after)) is not None:
                await work

    async def commit(self, state: RequestState, draft: Draft) -> None:
        was, case = state.at, state.case(draft)
        only_renews = was.exists and not case.ends and not case.user_asks
        try:
            await self._decide(state, case, only_renews=only_renews)
        except StoreUnavailable:
            if not only_renews:
                raise  # else logged: a store that takes no changes still serves requests that change nothing
        state.tried = ()
        logs_out = is_log_out_of_all(self.rules, case)
        self.clear_site(state, was, logs_out=logs_out)
        if state.logs_out or logs_out:
            await self.steps.end_beside(state)
        if self.rules.limit is not None:
            await self._keep_to_limit(state, was, self.rules.limit)
        if state.moving is not None:
            await state.forget_old()

    async def _decide(self, state: RequestState, case: Case, *, only_renews: bool) -> None:
        if case.tried:
            await self._contend(state, case)
        elif self.store.waits and can_wait(self.rules, case):
            await self._save_in_line(state, case)
        else:
            await self._try(state, case, only_renews=only_renews)

    async def _try(self, state: RequestState, case: Case, *, only_renews: bool = False) -> None:
        step = plan(self.rules, case)
        try:
            await self.steps.carry_out(state, case, step)
        except Conflict:
            # A renewal that was not done: another request saved the session, and renewed it if that was due.
            if not (only_renews and state.reply.is_open):
                await self._contend(state, case)

    async def _save_in_line(self, state: RequestState, case: Case) -> None:
        """Save; where another request of this process saves the same session, together with all that wait for it."""
        key = case.was.key
        line, is_first = self.lines.enter(key)
        if not is_first:
            await self._wait_in(line, state, case)
            return
        failure: StoreUnavailable | None = None
        try:
            await self._try(state, case)
        except StoreUnavailable as error:
            failure = error
            raise
        finally:
            if failure is not None:
                line.fail("the store failed while another request saved the same session")
            self._hand_over(key, line)

    async def _wait_in(self, line: Line, state: RequestState, case: Case) -> None:
        import asyncio

        case = case._replace(draft=self.rules.apart(case.draft, case.was))
        member = Member(case, asyncio.get_running_loop().create_future())
        line.waiting.append(member)
        deadline = Deadline(self.config.store_timeout)
        try:
            async with asyncio.timeout_at(deadline.at):
                after = await member.done
        except BaseException as error:
            if member.batch is not None:
                self.steps.remember(state, member.step, member.batch.after, batch=member.batch)
            if isinstance(error, TimeoutError):
                raise deadline.passed() from error
            raise
        if after is None:
            await self._contend(state, case, deadline)
            return
        assert member.step is not None
        was = case.was
        after = after._replace(session_id=was.session_id, stale=Stale.CARD if was.stale is not CURRENT else CURRENT)
        self.steps.note(state, case, member.step, after)
        state.show(codec.decode(after.encoded))
        self.reporter.report(Merged(state.at.key, 1))

    def _hand_over(self, key: str, line: Line) -> None:
        """Have the requests that wait saved by a task of its own: if one of them is cut off, the others are not."""
        if line.waiting:
            self.unfinished.begin(self._serve(key, line))
        else:
            self.lines.leave(key)

    async def _serve(self, key: str, line: Line) -> bool:
        try:
            while line.waiting:
                members, line.waiting = line.waiting, []
                try:
                    await self._swap_together(members)
                except BaseException as error:
                    line.fail_all(members, error)
                    raise
        finally:
            line.fail("the store failed while another request saved the same session")
            self.lines.leave(key)
        return False

    async def _swap_together(self, members: list[Member]) -> None:
        """Save what several requests changed, in one swap; again, where another process is first."""
        start, attempts, refusals = members[0].case.was.stored, 0, 0
        refused: Stored | None = None
        while True:
            attempts += 1
            found = await self.registry.current(start)
            if found is not None and refused is not None:
                refusals = await self.registry.wait_for_progress(refused, found, refusals)
            batch = None
            if found is not None:
                batch = laid_over_each_other(self.rules, members, self._opened(found), self.rules.clock())
            if found is None or batch is None:
                for member in members:
                    member.save_alone()
                return
            over, record = batch.over, self.steps.closed(batch.after.record, batch.over.key, batch.over.secret)
            batch = batch._replace(after=batch.after._replace(record=record))
            for member in batch.members:
                member.batch = batch
            try:
                await self.store.update(over.key, record, version=over.record.version)
            except Conflict:
                for member in batch.members:
                    member.batch = None
                refused = start = found
                await pause(random.uniform(0, min(0.001 * attempts, 0.05)))
                continue
            for member in batch.members:
                member.finish(batch.after)
            return

    async def _contend(self, state: RequestState, case: Case, deadline: Deadline | None = None) -> None:
        """Decide on what is stored now, and again while another request is first. A deadline of None begins now."""
        case = case._replace(draft=self.rules.apart(case.draft, case.was))
        start = case.was.stored if case.was.exists else case.tried[-1].after.stored
        user = case.was.record.user  # what was begun here may have become anybody's whom this request named
        # Where nothing waits, nobody can be in between, and there may be no event loop.
        deadline = Deadline(self.config.store_timeout) if deadline is None and self.store.waits else deadline
        async with contextlib.nullcontext() if deadline is None else self.turns.at(start.key, deadline):
            refused: Stored | None = start
            is_refused = not case.tried
            refusals, attempts, noted = 0, 0, case.was
            while True:
                attempts += 1
                way = Way()
                found = await self.registry.current_of(start.key, user, start.secret, way)
                if is_refused:
                    refusals = await self.registry.wait_for_progress(refused, found, refusals)
                if found is None and not is_log_in(self.rules, case):
                    last = last_read(start, case.tried, way)
                    hides = last is start and self.rules.seals and state.moving is not None
                    await self.registry.confirm_end(last, is_log_out(self.rules, case), hides=hides, way=way)
                fresh = None if found is None else self._opened(found)
                case = case._replace(fresh=fresh, now=self.rules.clock(), log_in=logged_in_at(way, case.log_in))
                known = settled(case, way) if case.tried else case
                if known.was is not case.was:
                    draft = case.draft._replace(encoded=known.draft.encoded)
                    case = case._replace(was=known.was, tried=known.tried, draft=draft)
                    if found is None and known.was.exists:  # it gave the session to another user
                        start, user = known.was.stored, known.was.record.user
                        continue
                if known.was is not noted:
                    noted = known.was
                    self._note_done(state, known)
                    case, known = (each._replace(before_proof=state.before_proof) for each in (case, known))
                if found is not None and not is_for(self.rules, known, found.record.user):
                    known = known._replace(fresh=None)
                step = plan(self.rules, known)
                try:
                    await self.steps.carry_out(state, known, step)
                except Conflict:
                    refused, is_refused = found, True
                    if found is not None and not case.tried:
                        start, user = found, found.record.user
                    if deadline is not None:
                        deadline.check()
                        # Other processes take turns elsewhere: step aside for a moment, longer each time.
                        await pause(random.uniform(0, min(0.001 * attempts, 0.05)))
                    continue
                was, over = known.was, step.over
                is_newer = over.key != was.key or over.record.version != was.record.version
                if is_newer and step.step in (Step.SAVE, Step.ROTATE):
                    self.reporter.report(Merged(over.key if step.unseen else state.at.key, attempts))
                return

    def _note_done(self, state: RequestState, known: Case) -> None:
        """Note that an earlier write was done, though it was not answered."""
        before, at = state.at, known.was
        state.meet_done(at)
        state.at, state.tried = at, known.tried
        if at.session_id is not None and at.key != before.key:
            rotated = Rotated(before.key, at.key, at.user, before.user)
            self.reporter.report(rotated if before.exists else Created(at.key, at.user))
        if known.was.session_id is None:
            state.reply.withhold()  # another request has rotated it
        if known.fresh is not None and known.fresh.key == known.was.key:
            self.steps.give(state)

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
