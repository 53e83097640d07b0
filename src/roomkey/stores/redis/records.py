"""A record as the bytes under a Redis key.

Written out field by field: it runs for every request, and loops over the fields take half as long again.
"""

from __future__ import annotations

import struct

from roomkey.stores.base import Record

__all__ = ["GENERATION_SIZE", "MOMENT", "NotARecord", "decode", "encode", "live_marks"]

# generation (16 bytes, put in front by the scripts) | mark, tombstone?, version, created_at, expires_at, serve_until,
# sizes of user, successor, about and data | these four. Scripts read version, expiry and user in place.
_HEAD = struct.Struct(">4scQdddIIII")
_MARK = b"RKR1"  # one of our records, in its first format
GENERATION_SIZE = 16  # bytes
START = GENERATION_SIZE + _HEAD.size
_NONE = 0xFFFFFFFF  # as a size: the text is None
MOMENT = struct.Struct(">d")


def encode(record: Record) -> bytes:
    """Return a record without its generation."""
    user = b"" if record.user is None else record.user.encode()
    successor = b"" if record.successor is None else record.successor.encode()
    head = _HEAD.pack(
        _MARK,
        b"-" if record.successor is None else b"T",
        record.version,
        record.created_at,
        record.expires_at,
        record.serve_until,
        _NONE if record.user is None else len(user),
        _NONE if record.successor is None else len(successor),
        len(record.about),
        len(record.data),
    )
    return b"".join((head, user, successor, record.about, record.data))


def live_marks(version: int) -> bytes:
    """Return how a record of that version begins that is no tombstone."""
    return _MARK + b"-" + version.to_bytes(8, "big")


class NotARecord(Exception):
    """What is under the key is not a record, or is damaged."""


def decode(value: bytes) -> Record:
    """Return the record in `value`, generation and all.

    Raises:
        NotARecord: it is none.
    """
    if len(value) < START:
        raise NotARecord
    (
        mark,
        kind,
        version,
        created_at,
        expires_at,
        serve_until,
        user_size,
        successor_size,
        about_size,
        data_size,
    ) = _HEAD.unpack_from(value, GENERATION_SIZE)
    if mark != _MARK:
        raise NotARecord
    at = START
    user = successor = None
    try:
        if user_size != _NONE:
            user = value[at : at + user_size].decode()
            at += user_size
        if successor_size != _NONE:
            successor = value[at : at + successor_size].decode()
            at += successor_size
    except UnicodeDecodeError as error:
        raise NotARecord from error
    about = value[at : at + about_size]
    at += about_size
    if len(value) - at != data_size or (kind == b"T") is (successor is None):
        raise NotARecord
    return Record(value[at:], version, created_at, expires_at, user, successor, serve_until, about)
