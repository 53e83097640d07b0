"""Two requests changed one session: the three-way merge of what they did, key by key."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from roomkey import codec
from roomkey.session import Change

__all__ = ["lay_over"]

_MISSING = object()


def lay_over(
    fresh: dict[str, Any], base: dict[str, Any], mine: dict[str, Any], changes: Iterable[Change] = ()
) -> dict[str, Any]:
    """Return `fresh` with what this request did laid over it: the three-way merge of one session, key by key.

    Args:
        fresh: what the store holds now.
        base: what this request loaded.
        mine: what this request made of it.
        changes: its calls of `Session.change`; they run again, on the fresh value, where they alone made the key's
            value. A key that was also assigned keeps the assigned value.
    """
    merged = dict(fresh)
    for key in base:
        if key not in mine:
            merged.pop(key, None)
    for key, value in mine.items():
        if key not in base or not _same(base[key], value):
            merged[key] = value
    by_key: dict[str, list[Change]] = {}
    for change in changes:
        by_key.setdefault(change.key, []).append(change)
    for key, calls in by_key.items():
        if key in mine and _same(_run(calls, base), mine[key]):
            merged[key] = _run(calls, fresh)
    return merged


def _run(calls: list[Change], start: dict[str, Any]) -> Any:
    key = calls[0].key
    # Through the codec, so that a function that alters its argument alters a copy.
    value = _copied(start[key]) if key in start else _MISSING
    for call in calls:
        value = call.function(_copied(call.default) if value is _MISSING else value)
    return value


def _copied(value: Any) -> Any:
    return codec.decode(codec.encode({"": value}))[""]


def _same(one: Any, other: Any) -> bool:
    return one is other or codec.encode({"": one}) == codec.encode({"": other})
