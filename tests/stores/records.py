"""Records and keys as the tests of several stores make them."""

from __future__ import annotations

import secrets
import time
from dataclasses import replace
from typing import Any

from roomkey.stores.base import Conflict, Record


def make_key(beside: str = "") -> str:
    """Return a key; with the place of a session that is rotated to it, where that is given."""
    return beside[:4] + secrets.token_hex(32)[len(beside[:4]) :]


def make_record(life: float = 3600.0, **fields: Any) -> Record:
    now = time.time()
    return replace(Record(data=b"data", version=1, created_at=now, expires_at=now + life), **fields)


def make_tombstone(successor: str, **fields: Any) -> Record:
    return make_record(**{"data": b"", "version": 2, "successor": successor, "serve_until": time.time() + 10, **fields})


def winners_of(outcomes: list[Any]) -> list[int]:
    """Return the places of those that succeeded. The others lost to a conflict; any other error is raised."""
    for outcome in outcomes:
        if outcome is not None and not isinstance(outcome, Conflict):
            raise outcome
    return [number for number, outcome in enumerate(outcomes) if outcome is None]
