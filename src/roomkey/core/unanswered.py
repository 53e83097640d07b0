"""Writes that the store never answered: which of them was done, told by what is stored now."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from roomkey.core.case import Case
from roomkey.core.loaded import NOWHERE, Attempt, Draft, Loaded, Stored
from roomkey.errors import StoreUnavailable
from roomkey.wire import codec
from roomkey.wire.codec import NO_FACTS

__all__ = ["last_read", "settled"]


def settled(case: Case, way: Collection[str]) -> Case:
    """Return the case once it is known which of the writes that were never answered was done.

    Args:
        case: with what is stored now as `fresh`.
        way: the keys that led there.

    Raises:
        StoreUnavailable: that cannot be known any more, and functions of `Session.change` would count twice.
    """
    for index in reversed(range(len(case.tried))):
        attempt = case.tried[index]
        if _was_done(case, attempt, way):
            later = case.tried[index + 1 :]
            was = _after(case, attempt)
            draft = _with(later, case.draft)
            return case._replace(
                was=was, draft=draft._replace(encoded=codec.with_facts(draft.encoded, was.facts)), tried=later
            )
        facts = NO_FACTS if case.fresh is None else case.fresh.facts
        if attempt.intents.changes and case.fresh is not None and not facts.has_all_marks:
            others = case.fresh.record.version - attempt.after.record.version + 1
            if others > codec.MOST_MARKS:
                raise StoreUnavailable(
                    "an earlier save was not answered, and too many others came since to know whether it was done; "
                    "nothing was saved"
                )
    return case._replace(draft=_with(case.tried, case.draft))


def last_read(start: Stored, tried: Sequence[Attempt], way: Collection[str]) -> Stored:
    """Return the session as it was read last. `start`: as it was loaded; `way`: the keys that lead on from there."""
    for attempt in tried:
        if attempt.over is not None and attempt.over.key in way:
            start = attempt.over
        if attempt.gives_key and attempt.after.key in way:
            start = attempt.after.stored
    return start


def _was_done(case: Case, attempt: Attempt, way: Collection[str]) -> bool:
    if attempt.ends:
        return case.fresh is None
    if attempt.gives_key:
        return attempt.after.key in way
    if case.fresh is None:
        return False
    if attempt.mark:
        return case.fresh.facts.has_mark(attempt.mark)
    # Attempts to begin a session use one key, and each of them but the first has a mark.
    return attempt.over is None and not case.was.exists


def _after(case: Case, attempt: Attempt) -> Loaded:
    """Return the session of this request after an attempt that was done."""
    if attempt.ends:
        return NOWHERE
    if attempt.unseen:
        return case.was._replace(encoded=codec.with_facts(attempt.saw, case.was.facts), session_id=None)
    return attempt.seen


def _with(parts: Sequence[Attempt], draft: Draft) -> Draft:
    """Return the draft, with what earlier attempts were to save before it."""
    for part in reversed(parts):
        draft = draft._replace(intents=part.intents.then(draft.intents), put=draft.put | part.put)
    return draft
