"""What a session knows beside its data: when its user logged in and what that proved, how long it lives, its last
writes, its former keys.

Facts stand before the data in an encoded session. Its first byte says which there are: 1, none; 2, the moment of the
log-in and the lifetime; 4, the marks too; 5, the marks and the trail; 7, the marks, the trail and the proofs; 8, all of
these, and which session stands in the place of this one. (3 and 6 are the first bytes of sealed data:
`roomkey.wire.envelope`.)
"""

from __future__ import annotations

import math
import struct
from functools import lru_cache
from typing import NamedTuple

__all__ = [
    "ACTING",
    "DATA_AT",
    "KEY_BYTES",
    "LONGEST_METHOD",
    "LONGEST_TRAIL",
    "MARK_BYTES",
    "MOST_MARKS",
    "MOST_PROOFS",
    "NO_FACTS",
    "NO_LIFETIME",
    "Facts",
    "Proved",
    "body_at",
    "facts_in",
    "make_facts",
    "proofs_in",
    "trail_from",
    "with_facts",
    "with_proof",
]

_FORMAT = b"\x01"
_WITH_FACTS = b"\x02"
_WITH_MARKS = b"\x04"
_WITH_TRAIL = b"\x05"  # and with marks, or none
_WITH_PROOFS = b"\x07"  # and with marks and a trail, or none
ACTING = 8  # the same, where another session stands in the place of this one
_FACTS = struct.Struct(">dd")
_MARKS_AT = 2 + _FACTS.size  # after the format, the facts, and one byte with the number of marks
DATA_AT = 1 + _FACTS.size  # in a session with facts and no marks
NO_LIFETIME = struct.pack(">d", math.nan)  # in the place of a moment or a lifetime: there is none
MARK_BYTES = 6
MOST_MARKS = 8  # that a session keeps, of its last writes that had one
LONGEST_TRAIL = 16  # store keys: those of the tombstones that a session may leave behind
KEY_BYTES = 32
MOST_PROOFS = 8  # that a session keeps, the newest of each kind
LONGEST_METHOD = 32  # bytes of UTF-8
_PROOF = struct.Struct(">BdB")  # the level, the moment, and the length of the method, which follows
_PROOFS_LENGTH = struct.Struct(">H")
_EARLIEST, _LATEST = -6e10, 2.5e11  # Unix seconds, in the years 69 and 9892: what a `datetime` has room for
_LONGEST = 1e11  # seconds


class Proved(NamedTuple):
    """What a user proved beside the plain log-in."""

    level: int  # 1 to 255
    method: str  # empty: it was not said
    moment: float  # Unix seconds


class Facts(NamedTuple):
    """What a session knows beside its data. Made by `make_facts`."""

    authenticated_at: float | None = None  # Unix seconds of the last log-in; None: there was none, or it is not known
    lifetime: float | None = None  # seconds that it lives after it was last used; None: the configuration's max_age
    head: bytes = _FORMAT  # what the encoded session begins with: all of this
    marks: bytes = b""  # of the last writes that had one, the newest at the end
    trail: bytes = b""  # the store keys that it had before: the first one, then the last ones
    proofs: bytes = b""  # what the user has proved since the log-in, the newest at the end
    # The store key of the session that requests get in the place of this one, and what opens it. Empty: they get this.
    acting: bytes = b""

    @property
    def proved(self) -> tuple[float | None, bytes, bytes]:
        """What the user has proved, when, and for whom they act: another value says that the rights have changed."""
        return self.authenticated_at, self.proofs, self.acting

    def has_mark(self, mark: bytes) -> bool:
        """Whether `mark` is one of the marks."""
        return mark in [self.marks[at : at + MARK_BYTES] for at in range(0, len(self.marks), MARK_BYTES)]

    @property
    def has_all_marks(self) -> bool:
        """Whether no mark was dropped so far, for want of room."""
        return len(self.marks) < MOST_MARKS * MARK_BYTES

    def with_mark(self, mark: bytes) -> Facts:
        """Return these facts with one mark more. The oldest of too many goes."""
        marks = (self.marks + mark)[-MOST_MARKS * MARK_BYTES :]
        return make_facts(self.authenticated_at, self.lifetime, marks, self.trail, self.proofs, self.acting)

    @property
    def dropped(self) -> str | None:
        """The store key that leaves the trail with the next rotation; None: there is room for one more."""
        return self.trail[KEY_BYTES : 2 * KEY_BYTES].hex() if len(self.trail) >= LONGEST_TRAIL * KEY_BYTES else None

    def moved_from(self, key: str) -> Facts:
        """Return these facts with one more key in the trail. The first one stays, and the oldest of the others goes."""
        rest = self.trail[KEY_BYTES:] if self.dropped is None else self.trail[2 * KEY_BYTES :]
        trail = self.trail[:KEY_BYTES] + rest + bytes.fromhex(key)
        return make_facts(self.authenticated_at, self.lifetime, self.marks, trail, self.proofs, self.acting)


NO_FACTS = Facts()


def make_facts(
    authenticated_at: float | None,
    lifetime: float | None,
    marks: bytes = b"",
    trail: bytes = b"",
    proofs: bytes = b"",
    acting: bytes = b"",
) -> Facts:
    """Return these facts, with their encoding."""
    if authenticated_at is None and lifetime is None and not (marks or trail or proofs or acting):
        return NO_FACTS
    packed = _FACTS.pack(
        math.nan if authenticated_at is None else authenticated_at, math.nan if lifetime is None else lifetime
    )
    if proofs or acting:
        start = bytes([ACTING]) if acting else _WITH_PROOFS
        head = start + packed + bytes([len(marks) // MARK_BYTES]) + marks
        head += bytes([len(trail) // KEY_BYTES]) + trail + _PROOFS_LENGTH.pack(len(proofs)) + proofs
        if acting:
            head += bytes([len(acting)]) + acting
        return Facts(authenticated_at, lifetime, head, marks, trail, proofs, acting)
    if trail:
        head = _WITH_TRAIL + packed + bytes([len(marks) // MARK_BYTES]) + marks + bytes([len(trail) // KEY_BYTES])
        return Facts(authenticated_at, lifetime, head + trail, marks, trail)
    if marks:
        head = _WITH_MARKS + packed + bytes([len(marks) // MARK_BYTES]) + marks
        return Facts(authenticated_at, lifetime, head, marks)
    return Facts(authenticated_at, lifetime, _WITH_FACTS + packed)


def with_facts(encoded: bytes, facts: Facts) -> bytes:
    """Return an encoded session with other facts, without encoding it again."""
    return facts.head + encoded[body_at(encoded) :]


def facts_in(stored: bytes) -> Facts:
    """Return the facts in what `encode` made; none in what cannot be read."""
    start = stored[:1]
    if start == _FORMAT or len(stored) <= _FACTS.size:
        return NO_FACTS
    if start == _WITH_FACTS:
        return _facts_of(stored[:DATA_AT])
    begin = body_at(stored)
    return _facts_of(stored[:begin]) if begin > DATA_AT else NO_FACTS


def body_at(stored: bytes) -> int:
    """Return where the data begins in what `encode` made; 0: the format is none of these."""
    start = stored[:1]
    if start == _FORMAT:
        return 1
    if start == _WITH_FACTS:
        return DATA_AT
    if start not in (_WITH_MARKS, _WITH_TRAIL, _WITH_PROOFS, bytes([ACTING])) or len(stored) < _MARKS_AT:
        return 0
    end = _MARKS_AT + stored[_MARKS_AT - 1] * MARK_BYTES
    if start == _WITH_MARKS:
        return end
    if len(stored) <= end:
        return 0
    end += 1 + stored[end] * KEY_BYTES
    if start == _WITH_TRAIL:
        return end
    if len(stored) < end + _PROOFS_LENGTH.size:
        return 0
    end += _PROOFS_LENGTH.size + int(_PROOFS_LENGTH.unpack_from(stored, end)[0])
    if start == _WITH_PROOFS:
        return end
    return end + 1 + stored[end] if len(stored) > end else 0


def trail_from(trail: bytes) -> list[str]:
    """Return the store keys in a trail. What is left over at its end is no key."""
    return [trail[at : at + KEY_BYTES].hex() for at in range(0, len(trail) - KEY_BYTES + 1, KEY_BYTES)]


def proofs_in(proofs: bytes) -> tuple[Proved, ...]:
    """Return what stands in `Facts.proofs`, the newest at the end. What cannot be read there proves nothing."""
    found, at = list[Proved](), 0
    while len(proofs) - at >= _PROOF.size:
        level, moment, length = _PROOF.unpack_from(proofs, at)
        at += _PROOF.size
        method = proofs[at : at + length].decode("utf-8", "replace")
        at += length
        if at <= len(proofs) and level and _EARLIEST < moment < _LATEST:
            found.append(Proved(level, method, moment))
    return tuple(found)


def with_proof(proofs: bytes, new: Proved) -> bytes:
    """Return `Facts.proofs` with one more, in the place of that level and method. The oldest of too many goes."""
    kept = [each for each in proofs_in(proofs) if each[:2] != new[:2]]
    parts = list[bytes]()
    for level, text, moment in [*kept, new][-MOST_PROOFS:]:
        method = text.encode()
        parts.append(_PROOF.pack(level, moment, len(method)) + method)
    return b"".join(parts)


@lru_cache  # the requests of one session, one after the other, bring the same
def _facts_of(head: bytes) -> Facts:
    authenticated_at, lifetime = _FACTS.unpack_from(head, 1)
    marks, trail, proofs, acting = head[_MARKS_AT:], b"", b"", b""
    if head[0] not in (*_WITH_FACTS, *_WITH_MARKS):
        end = _MARKS_AT + head[_MARKS_AT - 1] * MARK_BYTES
        marks, trail = head[_MARKS_AT:end], head[end + 1 :]
        if head[:1] != _WITH_TRAIL:
            end += 1 + head[end] * KEY_BYTES
            trail, proofs = head[_MARKS_AT + len(marks) + 1 : end], head[end + _PROOFS_LENGTH.size :]
            if head[0] == ACTING:
                length = int(_PROOFS_LENGTH.unpack_from(head, end)[0])
                proofs, acting = proofs[:length], proofs[length + 1 :]
    # What is not a number says that there is none, and differs from itself; the other odd ones nobody writes.
    return Facts(
        authenticated_at if _EARLIEST < authenticated_at < _LATEST else None,
        lifetime if 0 < lifetime <= _LONGEST else None,
        head,
        marks,
        trail,
        proofs,
        acting,
    )
