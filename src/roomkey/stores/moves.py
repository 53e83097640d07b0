"""What a move of a session leaves in two stores while it lasts, as records. `roomkey.stores.migrating` moves.

The old store holds the session with a few bytes before its data: who has taken it until when, or as which arrival it
has moved. The new store holds an arrival first: a record without a session, and with a random version. An arrival is
nothing until the old store names it, so that one that comes too late is nothing for ever.
"""

from __future__ import annotations

import secrets
import struct
from dataclasses import replace
from typing import NamedTuple

from roomkey.stores.base import Record

__all__ = ["There", "arrival", "ended", "is_arrival", "is_ended", "is_session"]

# The data of no session begins with a 0.
_TAKEN = b"\x00roomkey: taken\x00"
_ARRIVAL = b"\x00roomkey: arrives\x00"
_ENDED = b"\x00roomkey: ended\x00"
_HEAD = struct.Struct(">dQQ")  # taken until, in Unix seconds; the version it had; the arrival it moved as, or 0
_VERSIONS = 2**30  # of records without a session: more than a session has, and small enough for every store's integers


class There(NamedTuple):
    """What the old store holds."""

    record: Record  # the session, as it was before it was taken
    version: int  # what the store has now
    taken_until: float = 0.0  # Unix seconds; 0: not taken
    moved_as: int = 0  # the version of its arrival in the new store; 0: it has not moved

    @classmethod
    def of(cls, record: Record) -> There:
        """Return what this record of the old store says."""
        start = len(_TAKEN) + _HEAD.size
        if not record.data.startswith(_TAKEN) or len(record.data) < start:
            return cls(record, record.version)
        until, version, moved_as = _HEAD.unpack_from(record.data, len(_TAKEN))
        return cls(replace(record, data=record.data[start:], version=version), record.version, until, moved_as)

    def taken(self, until: float) -> Record:
        """Return the record that says that a request has taken it."""
        return self._marked(until, 0)

    def moved(self, moved_as: int) -> Record:
        """Return the record that says as which arrival it has moved."""
        return self._marked(self.taken_until, moved_as)

    def _marked(self, until: float, moved_as: int) -> Record:
        data = _TAKEN + _HEAD.pack(until, self.record.version, moved_as) + self.record.data
        return replace(self.record, data=data, version=self.version + 1)


def arrival(record: Record) -> Record:
    """Return a new arrival for this session. It names no user, so that nobody's list has it."""
    return Record(_ARRIVAL, _new_version(), record.created_at, record.expires_at)


def ended(record: Record) -> Record:
    """Return what stays in the place of a session that has ended, for as long as the session could have lived."""
    return Record(_ENDED, _new_version(), record.created_at, record.expires_at)


def is_arrival(record: Record) -> bool:
    """Whether a record of the new store is an arrival."""
    return record.data == _ARRIVAL


def is_ended(record: Record) -> bool:
    """Whether a record of the new store stays in the place of a session that has ended."""
    return record.data == _ENDED


def is_session(record: Record) -> bool:
    """Whether a record of the new store is a session, or a tombstone."""
    return record.data not in (_ARRIVAL, _ENDED)


def _new_version() -> int:
    return _VERSIONS + secrets.randbelow(_VERSIONS)
