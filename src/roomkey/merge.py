"""Two requests changed one session: the three-way merge of what they did, key by key."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, NamedTuple

from roomkey.session import MISSING, Change
from roomkey.wire import codec

__all__ = ["Merged", "merge"]


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
) -> Merged:
    """Lay what this request did over `fresh`.

    Args:
        fresh: what the store holds now.
        base: what this request loaded.
        mine: what this request made of it.
        changes: its calls of `Session.change`; they run again, on the fresh value, where they alone made the key's
            value. A key that was also assigned keeps the assigned value.
        refusals: takes what these functions raise, and their keys stay as they are fresh; None: it is raised.
    """
    merged = dict(fresh)
    for key in base:
        if key not in mine:
            merged.pop(key, None)
    for key, value in mine.items():
        if key not in base or codec.fingerprint(base[key]) != codec.fingerprint(value):
            merged[key] = value
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
