"""Several requests, or several tasks of one, changed one session: what came of it, key by key. No store, no state."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

from roomkey.core.intents import MISSING, Change, Intents, check_own_keys, drop_token
from roomkey.core.loaded import Attempt, Draft
from roomkey.wire import codec

__all__ = ["Merged", "below_the_pending", "doubt", "left_for", "merge", "own", "same_objects"]


class Merged(NamedTuple):
    """What came of it, and the calls of `Session.change` as they ran on what is fresh."""

    data: dict[str, Any]
    changes: tuple[Change, ...] = ()


def merge(
    fresh: dict[str, Any],
    base: dict[str, Any],
    mine: dict[str, Any],
    changes: Iterable[Change] = (),
    refusals: list[Exception] | None = None,
    only: Collection[str] | None = None,
) -> Merged:
    """Lay what this request did over `fresh`.

    Args:
        fresh: what the store holds now.
        base: what this request loaded.
        mine: what this request made of it.
        changes: its calls of `Session.change`; they run again, on the fresh value, where they alone made the key's
            value. A key that was also assigned keeps the assigned value.
        only: the keys whose values can differ from what was loaded; None: any key's can.
        refusals: takes what these functions raise, and their keys stay as they are fresh; None: it is raised.
    """
    merged = dict(fresh)
    for key in base.keys() - mine.keys():
        merged.pop(key, None)
    for key in mine if only is None else only:
        if key in mine and (key not in base or not codec.is_same(base[key], mine[key])):
            merged[key] = mine[key]
    again: list[Change] = []
    by_key: dict[str, list[Change]] = {}
    for change in changes:
        by_key.setdefault(change.key, []).append(change)
    for key, calls in by_key.items():
        if not _made_by(calls, base, mine):
            continue
        try:
            merged[key], ran = _run(calls, fresh)
            again += ran
        except Exception as error:
            if refusals is None:
                raise
            refusals.append(error)
            merged.pop(key, None)
            if key in fresh:
                merged[key] = fresh[key]
    return Merged(merged, tuple(again))


def _made_by(calls: list[Change], base: dict[str, Any], mine: dict[str, Any]) -> bool:
    """Whether these calls, one after the other, and nothing else made of the key what it is."""
    key = calls[0].key
    reached = codec.fingerprint(base[key]) if key in base else MISSING
    for call in calls:
        if call.before is None or call.before != reached:
            return False
        reached = call.after
    return key in mine and reached is not None and reached == codec.fingerprint(mine[key])


def _run(calls: list[Change], fresh: dict[str, Any]) -> tuple[Any, list[Change]]:
    again: list[Change] = []
    key = calls[0].key
    before = codec.fingerprint(fresh[key]) if key in fresh else MISSING
    # A copy, for a function may alter its argument.
    value = copy.deepcopy(fresh[key]) if key in fresh else None
    for call in calls:
        value = call.run(copy.deepcopy(call.default) if before == MISSING else value)
        after = codec.fingerprint(value)
        again.append(call._replace(before=before, after=after))
        before = after
    return value, again


def doubt(base: dict[str, Any], tried: Sequence[Attempt], mine: dict[str, Any]) -> dict[str, Any]:
    """Return what `mine` is to be compared with, where nobody knows which of several contents was stored.

    What differs between them counts as changed by this request: assigned where it is in `mine`, or else deleted.

    Args:
        base: what was loaded.
        tried: what was to be saved since. One with a mark was not done; of the others nobody knows.
        mine: what is to be saved now.
    """
    if not tried:
        return base
    contents = [codec.decode(each.seen.encoded) for each in tried if not each.mark]
    doubtful = {
        key
        for content in contents
        for key in base.keys() | content.keys()
        if key not in base or key not in content or not codec.is_same(base[key], content[key])
    }
    return {key: value for key, value in base.items() if key not in doubtful} | dict.fromkeys(doubtful - mine.keys())


def own(base: dict[str, Any], draft: Draft) -> dict[str, Any]:
    """Return what a request put into its session, be it equal to what was there.

    Args:
        base: what it loaded.
        draft: what it made of it.
    """
    mine, changes = draft.content, draft.intents.changes
    if draft.intents.cleared:
        return mine
    assigned = {key: value for key, value in mine.items() if key in draft.put or key not in base}
    changed = merge({}, base, mine, changes).data  # by functions, which found nothing
    keys = {each.key for each in changes}
    return assigned | {key: value for key, value in changed.items() if key in keys and key not in assigned}


def left_for(
    user: str | None, was: str | None, encoded: bytes, draft: Draft, keys: Collection[str] = ()
) -> dict[str, Any]:
    """Return what of a session is for the user whose it becomes.

    Args:
        user: whose it becomes; None: nobody's.
        was: whose it was.
        encoded: as it was loaded.
        draft: what the request made of it.
        keys: those that say whose it becomes, be they assigned or changed in place.

    Raises:
        SessionDataError: the app has put something of its own under one of Roomkey's own keys, which would be dropped.
    """
    check_own_keys(draft.content)
    left = dict(draft.content)
    if user is not None and was is not None:
        left = {**own(codec.decode(encoded), draft), **{key: draft.content[key] for key in keys}}
    drop_token(left, user)
    return left


def below_the_pending(
    data: dict[str, Any], before: dict[str, Any], present: dict[str, Any], pending: Intents
) -> tuple[dict[str, Any], Intents]:
    """Return `data`, a session as it was saved, below what other tasks of the request did to it meanwhile.

    Args:
        data: what was saved.
        before: the session when the save began.
        present: as it is now.
        pending: what the other tasks asked.

    Returns:
        The session, and what is still asked of it. What a function refuses is for the task that called it to hear when
        it saves, and not for this one.
    """
    if pending.cleared:  # a log-out, for the next commit to do
        return present, pending
    refusals: list[Exception] = []
    merged = merge(data, before, present, pending.changes, refusals)
    if pending.changes:
        refused = refusals[0] if refusals else pending.refused
        pending = pending._replace(changes=merged.changes, refused=refused)
    return merged.data, pending


def same_objects(data: dict[str, Any], present: dict[str, Any]) -> dict[str, Any]:
    """Return `data` with those objects of `present` that are equal to its own: the handler may hold them."""
    same = {
        key: value
        for key, value in present.items()
        if type(value) not in codec.IMMUTABLE and key in data and codec.is_same(value, data[key])
    }
    return data | same if same else data
