"""What a commit is decided on, and what is decided, as values; and what a request asks of its session."""

from __future__ import annotations

import enum
from typing import Any, NamedTuple

from roomkey.core.loaded import NOWHERE, Attempt, Draft, Loaded, Stale
from roomkey.core.reply import KEEP, Cookie
from roomkey.core.rules import Rules, logs_in
from roomkey.stores.base import Record
from roomkey.wire.codec import NO_FACTS, Facts

__all__ = ["Case", "Plan", "Step", "is_for", "is_log_in", "is_log_out", "is_log_out_of_all"]


class Step(enum.Enum):
    """What is done in the store."""

    NOTHING = "nothing"
    BEGIN = "begin"  # a new record
    RENEW = "renew"  # a later expiry, and the card signed anew
    SAVE = "save"  # a new version
    ROTATE = "rotate"  # a new version under a new ID
    END = "end"
    LOSE = "lose"  # nothing: the session has ended, or is another user's


class Case(NamedTuple):
    """Everything that a commit is decided on."""

    was: Loaded  # what this request loaded, or last saved
    draft: Draft
    fresh: Loaded | None  # what is stored now: at first the same; None: ended, or out of reach
    now: float  # Unix seconds
    can_set_cookie: bool = True
    moves_in: bool = False  # an old library's session, which is saved with the first response that gives its cookie
    may_begin: bool = True  # whether a session may begin that nobody is logged into
    about: bytes = b""  # of the client, for lists; only a log-in keeps it
    tried: tuple[Attempt, ...] = ()  # writes that may have been done, or not
    before_proof: Facts | None = None  # those from before another request proved who the user is; None: none has
    log_in: float | None = None  # when somebody logged into it since it was loaded, as the way to where it is now says
    renews: bool = True  # whether use of the session renews it
    acts: bool = False  # whether somebody acts for the user: then nothing but a log-out gives the session a new ID
    theirs: dict[str, Any] | None = None  # what `fresh` holds, for one call of `plan`; None: it is decoded there

    @property
    def relies_on(self) -> Facts:
        """The facts whose proofs this request may rely on."""
        return self.was.facts if self.before_proof is None else self.before_proof

    @property
    def ends(self) -> bool:
        """Whether the session that was loaded is to end. What the draft holds beside that begins another."""
        return self.draft.intents.ended or not self.draft.content

    @property
    def user_asks(self) -> bool:
        """Whether something else than a renewal is asked for."""
        return (
            self.draft.encoded != self.was.encoded
            or self.draft.intents.needs_saving
            or self.moves_in
            or self.was.stale is Stale.DATA
            or self.tried != ()
        )


class Plan(NamedTuple):
    """What is to be done, and what is so afterwards."""

    step: Step
    over: Loaded = NOWHERE  # what is swapped, or ended
    record: Record = NOWHERE.record  # as it is to be stored; its data is not sealed yet
    facts: Facts = NO_FACTS
    content: dict[str, Any] | None = None  # what the session holds afterwards; None: what it holds already
    cookie: Cookie = KEEP
    tombstone: Record | None = None  # ROTATE: what is left under the old ID; its successor is named later
    unseen: bool = False  # the session is somebody's who logged in meanwhile
    is_lost: bool = False  # what the request changed is dropped
    then: Plan | None = None  # END: the session that begins after it


def is_for(rules: Rules, case: Case, owner: str | None) -> bool:
    """Whether a session that is `owner`'s by now may take what this request did."""
    user = None if case.ends else rules.user_of(case.draft.content)
    return user == case.was.user or owner in (None, user, case.was.user)


def is_log_in(rules: Rules, case: Case) -> bool:
    """Whether the request logs somebody in, which stands on its own: whatever has become of its session."""
    return logs_in(case.was.user, rules.user_of(case.draft.content), case.draft.intents)


def is_log_out(rules: Rules, case: Case) -> bool:
    """Whether somebody is to be logged out: nobody may be told so of a session that only cannot be found."""
    asks = case.was.user is not None or case.draft.intents.logs_out or any(attempt.ends for attempt in case.tried)
    asks = asks or (rules.user_key is None and case.ends)  # anybody may be logged in, and is not with the last key gone
    return asks and rules.user_of(case.draft.content) is None


def is_log_out_of_all(rules: Rules, case: Case) -> bool:
    """Whether what else the browser brought must not log anybody in again.

    A user leaves however the user's session is left with nobody logged in. `clear` and `invalidate` are a log-out in
    a session of nobody too. That such a session is emptied is none: somebody may have planted its card, to have a page
    log the user out. Without a `user_key` nobody knows whose a session is, and emptying it counts.
    """
    was, draft = case.was, case.draft
    intents = [draft.intents, *(attempt.intents for attempt in case.tried)]
    if was.user is not None and any(each.ended for each in intents):
        return True  # it ended, be the session that begins after it somebody's
    asks = was.user is not None or any(each.logs_out for each in intents)
    asks = asks or (rules.user_key is None and not draft.content)
    return was.exists and asks and rules.user_of(draft.content) is None
