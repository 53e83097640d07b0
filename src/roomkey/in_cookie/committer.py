"""Sessions kept by the browsers: sealed again whenever they changed. Nothing here waits for anything.

`roomkey.core.plan` decides, as for a session on the server. Nobody else can have saved one of these meanwhile, so that
a plan is never made a second time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from roomkey.core.case import Case, Plan, Step, is_log_out_of_all
from roomkey.core.committer import Committer
from roomkey.core.intents import drop_token
from roomkey.core.loaded import CURRENT, NOWHERE, Draft, Loaded
from roomkey.core.plan import need_cookie, plan
from roomkey.core.reply import NONE, Carries
from roomkey.core.secure import Secure
from roomkey.core.state import RequestState
from roomkey.core.tombstones import Way
from roomkey.events import Created, Ended, Event, Renewed, Rotated
from roomkey.in_cookie.sealed import SealedCards, new_id
from roomkey.wire.cookies import find_chunked
from roomkey.wire.keys import hashed_key

if TYPE_CHECKING:
    from roomkey.config import SessionConfig
    from roomkey.core.reporting import Reporter

__all__ = ["CookieCommitter"]


class CookieCommitter(Committer):
    """Seals sessions into cookies.

    Raises:
        ConfigurationError: the package `cryptography` is missing, or the cookies would have no room.
    """

    def __init__(self, config: SessionConfig, reporter: Reporter) -> None:
        super().__init__(config, reporter)
        self.cards: SealedCards = SealedCards(config)
        self.secure: Secure = Secure(config, find_chunked, self.cards.is_secure)

    def has_room(self, state: RequestState, encoded: bytes) -> bool:
        carries = state.reply.carries
        return carries is not NONE and not (carries is Carries.ONE and self.cards.count(encoded) > 1)

    async def latest(self, at: Loaded, way: Way | None = None) -> Loaded | None:
        return at  # a server that keeps nothing knows of nothing newer

    async def confirm(self, state: RequestState) -> None:
        # A card that was decided on early may take more cookies than there is room for.
        self.cards.check_count(int(state.reply.card[:1]), one_cookie=state.reply.carries is Carries.ONE)

    async def commit(self, state: RequestState, draft: Draft) -> None:
        """Seal what the request did to its session, and say what the response does with the cookies.

        Raises:
            SessionDataError: a value cannot be stored, or all of it is too large.
            ResponseStarted: the response can carry no cookie any more. Either way nothing was saved; but where the
                session was to end, a response that still goes out takes its cookie back.
        """
        case = state.case(draft)._replace(moves_in=False)
        logs_out, loaded = is_log_out_of_all(self.rules, case), case.was
        happened: list[Event] = []  # reported once nothing can fail any more
        if case.was.exists and case.ends:
            happened.append(self._end(state, case))
            case = case._replace(was=NOWHERE, fresh=NOWHERE)
        elif state.moving is not None and not draft.content:
            state.reply.take_back()  # logged out by the first request: the old cookie may have this name
        step = plan(self.rules, case)
        if step.step is Step.END:  # nothing is left but the forms of a user who has left
            happened.append(self._end(state, case))
            state.show(step.content or {})
        elif step.step is not Step.NOTHING:
            happened += self._seal(state, case, step)
        state.reply.logs_out = state.reply.logs_out or logs_out
        self.clear_site(state, loaded, logs_out=logs_out)
        for event in happened:
            self.reporter.report(event)
        await state.forget_old()

    def _end(self, state: RequestState, case: Case) -> Ended:
        need_cookie(case, "the end of a cookie:// session")
        state.detach()
        state.reply.take_back()
        if case.was.user is not None:
            state.reply.end_visitor()
        return Ended(case.was.key, case.was.user, "cleared")

    def _seal(self, state: RequestState, case: Case, step: Plan) -> list[Event]:
        need_cookie(case, "a changed cookie:// session")
        was, facts, user = case.was, step.facts, step.record.user
        until = self.rules.clocks.until(case.now, facts)  # the cookie goes out in any case, so that it is renewed too
        if was.exists and facts.lifetime == was.facts.lifetime:
            renews = case.renews or facts.authenticated_at != was.facts.authenticated_at
            until = max(until, was.record.expires_at) if renews else was.record.expires_at
        rotates = step.step is Step.ROTATE
        session_id = new_id() if was.session_id is None or rotates else was.session_id
        if not was.exists:
            drop_token(state.session, user)
        record = self.cards.stamped(step.record, until)
        one_cookie, secure = state.reply.carries is Carries.ONE, self.secure.of(state.session)
        card = self.cards.make(session_id, record, one_cookie=one_cookie, secure=secure)
        key = hashed_key(session_id)
        state.at = Loaded(key, record, b"", record.data, facts, user, session_id)
        if user != was.user:
            state.reply.end_visitor()
        state.reply.give(card, only_renews=step.step is Step.RENEW)
        if was is not NOWHERE and step.content is not None:
            state.show(step.content)
        if not was.exists:
            return [Created(key, user)]
        if step.step is Step.RENEW and was.stale is CURRENT:
            return [Renewed(key, user)]
        return [Rotated(was.key, key, user, was.user)] if rotates else []
