"""A record as the bytes under a Redis key."""

from __future__ import annotations

import struct

from roomkey.stores.base import Record

__all__ = ["GENERATION_SIZE", "MOMENT", "NotARecord", "decode", "encode", "live_marks"]

# generation (16 bytes, put in front by the scripts) | mark, tombstone?, version, created_at, expires_at, serve_until,
# sizes of user, successor, ip, user_agent and data | these five. Scripts read version, expiry and user in place.
_HEAD = struct.Struct(">4scQdddIIIII")
_MARK = b"RKR1"  # one of our records, in its first format
GENERATION_SIZE = 16  # bytes
START = GENERATION_SIZE + _HEAD.size
_NONE = 0xFFFFFFFF  # as a size: the text is None
MOMENT = struct.Struct(">d")


def encode(record: Record) -> bytes:
    """Return a record without its generation."""
    texts = (record.user, record.successor, record.ip, record.user_agent)
    raw = [None if text is None else text.encode() for text in texts]
    head = _HEAD.pack(
        _MARK,
        b"-" if record.successor is None else b"T",
        record.version,
        record.created_at,
        record.expires_at,
        record.serve_until,
        *(_NONE if text is None else len(text) for text in raw),
        len(record.data),
    )
    return b"".join((head, *(text for text in raw if text is not None), record.data))


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
    mark, kind, version, created_at, expires_at, serve_until, *sizes = _HEAD.unpack_from(value, GENERATION_SIZE)
    if mark != _MARK:
        raise NotARecord
    at = START
    texts: list[str | None] = []
    for size in sizes[:4]:
        if size == _NONE:
            texts.append(None)
            continue
        try:
            texts.append(value[at : at + size].decode())
        except UnicodeDecodeError as error:
            raise NotARecord from error
        at += size
    user, successor, ip, user_agent = texts
    if len(value) - at != sizes[4] or (kind == b"T") is (successor is None):
        raise NotARecord
    return Record(value[at:], version, created_at, expires_at, user, successor, serve_until, ip, user_agent)
