"""What a rotation leaves under the old ID: a record that names its successor.

The kind of a tombstone is why the ID changed. It says for how long the old ID is served to requests that arrive with
it. It is the first byte of the tombstone's data. What follows is the envelope's: the new secret, where data is sealed.

A session knows the keys of its tombstones: its trail. The trail has an end, and whatever leaves it is removed. Then an
overflow record is left, once for each session, under a key that follows from the first key of the session. A request
that finds nothing under its old key tells by the overflow record whether the session may still be there.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Mapping

from roomkey.stores.base import Record

__all__ = [
    "MOVING",
    "SEALED_MOVE",
    "Kind",
    "Way",
    "is_session",
    "logged_in_at",
    "lost_trail",
    "lost_trail_key",
    "tombstone",
]

MOVING = 10.0  # seconds for which requests with an old library's cookie are served after its session has moved in
SEALED_MOVE = 60.0  # seconds for which a request that began before its sealed session moved in may still save

Way = dict[str, Record | None]  # the keys that lead to a session, its own included, and what was found under each


class Kind(enum.IntEnum):
    """Why a session has a new ID. The numbers are stored: never change or reuse one."""

    CLOCK = 1  # `rotate()`: nothing about the user has changed, so that a grace may be given
    LOGIN = 2  # another user, or the same one anew: the old ID must die at once (OWASP ASVS 7.2.4)
    REAUTHENTICATED = 3  # the user proved who they are: as for a log-in
    MOVED = 4  # an old library's session moved in: requests that the browser sent together with this one are served

    def serves(self, grace: float | None) -> float:
        """Return for how many seconds the old ID is served. `grace`: what `rotate` asked for, in seconds."""
        if self is Kind.CLOCK:
            return grace or 0.0
        return MOVING if self is Kind.MOVED else 0.0

    @property
    def proves(self) -> bool:
        """Whether the request that changed the ID knew who the user is."""
        return self in (Kind.LOGIN, Kind.REAUTHENTICATED)


def tombstone(
    kind: Kind, now: float, over: Record, saved: Record, grace: float | None, *, renewed: float, hides: bool
) -> Record:
    """Return the tombstone for a rotation. The committer names the successor, and adds the way to its secret.

    It outlives the grace: a slow request that loaded the old record must still find the successor, if only to end it.
    And it lives as long as the old record had to live, so that whoever read that record knows how long it can be found.
    No tombstone lives for less than `SEALED_MOVE`: where one that hides leads to another one, that is there still.

    Args:
        kind: why the ID changes.
        now: the moment, in Unix seconds.
        over: the record under the old ID.
        saved: the record under the new ID.
        grace: what `rotate` asked for, in seconds.
        renewed: until when a renewal of the old record, which no version tells of, may have kept it by now.
        hides: whether this is the way from an old library's cookie to a sealed session. Whoever knows what that cookie
            held might find it, so that it is not kept for longer than needed.
    """
    until = now + SEALED_MOVE
    if not hides:
        until = max(until, saved.expires_at, over.expires_at, renewed)
    return Record(
        bytes([kind]), saved.version, now, until, over.user, successor="", serve_until=now + kind.serves(grace)
    )


def lost_trail_key(first: str) -> str:
    """Return the key of the overflow record: of a session that left too many tombstones. `first`: its first key.

    It has the session's place, which is the first 4 digits.
    """
    return first[:4] + hashlib.sha256(b"roomkey: a trail that was cut\0" + first.encode()).hexdigest()[4:]


def lost_trail(now: float, expires_at: float) -> Record:
    """Return the overflow record of a session that left too many tombstones. It is nobody's, and holds no session."""
    return Record(b"\0", 1, now, expires_at)


def is_session(record: Record) -> bool:
    """Whether a record holds a session, and is no tombstone, no overflow record and nothing that a move left."""
    return record.successor is None and bool(record.data) and record.data[0] != 0


def logged_in_at(way: Mapping[str, Record | None], known: float | None) -> float | None:
    """Return when somebody logged into a session that was nobody's, in Unix seconds.

    The session's record does not say it: its user may have proved who they are since.

    Args:
        way: where the session was, and is.
        known: what an earlier part of the way said; None: there was none.
    """
    moments = [left.created_at for left in way.values() if left is not None and left.successor and left.user is None]
    return moments[-1] if moments else known
