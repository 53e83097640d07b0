"""Which keys a session has, and which slot of a cluster they are in.

The first 4 digits of a session's key are its place, which rotations keep. On one server the place means nothing: all
keys begin with the prefix alone. On a cluster the first 3 of these digits are the session's group. All keys of a group
have them as their hash tag, and so are in one slot: `shop:{3fa}:s:<key>` holds a record, and `shop:{3fa}:epoch` the
generation that the records of this group must carry to be live. There are 4,096 groups, which are drawn at random, so
that every node has a share of the sessions that fits its share of the slots.

The list of a user's sessions is `shop:u:<user>`, in a slot of its own.

A prefix that has a hash tag itself keeps everything in that one slot, as it asks for: there is one group then.
"""

from __future__ import annotations

import re
from binascii import crc_hqx

__all__ = ["GROUPS", "KEY_LENGTH", "SLOTS", "Places", "epoch_beside", "has_hash_tag", "slot_of"]

SLOTS = 16384  # of every cluster
KEY_LENGTH = 64  # hexadecimal digits of a session's key
_GROUP_DIGITS = 3
GROUPS = 16**_GROUP_DIGITS  # of sessions in a cluster

_RECORD, _LIST, _EPOCH = b"s:", b"u:", b"epoch"


def slot_of(name: bytes) -> int:
    """Return the slot of a key (https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/)."""
    start = name.find(b"{")
    if start >= 0:
        end = name.find(b"}", start + 1)
        if end > start + 1:
            name = name[start + 1 : end]
    return crc_hqx(name, 0) % SLOTS


def has_hash_tag(prefix: str) -> bool:
    """Whether all keys that begin with `prefix` are in one slot."""
    return re.match(r"[^{]*\{[^}]+\}", prefix) is not None


def epoch_beside(record: bytes) -> bytes:
    """Return the name of the epoch that is beside a record of this name."""
    return record[: -len(_RECORD) - KEY_LENGTH] + _EPOCH


class Places:
    """The names of all keys of a store.

    Args:
        prefix: what every name begins with.
        spread: whether sessions are spread over the slots of a cluster.
    """

    def __init__(self, prefix: str, *, spread: bool) -> None:
        self.spread: bool = spread
        self._prefix = prefix.encode()
        self._lists = self._prefix + _LIST

    def record(self, key: str) -> bytes:
        """Return the name of the record of a session with this key."""
        if self.spread:
            return b"%b{%b}:s:%b" % (self._prefix, key[:_GROUP_DIGITS].encode(), key.encode())
        return self._prefix + _RECORD + key.encode()

    def epoch(self, key: str) -> bytes:
        """Return the name of the epoch that holds for a session with this key."""
        return epoch_beside(self.record(key))

    def beginnings(self) -> list[bytes]:
        """Return what the names of all records and epochs begin with, and no list's does."""
        return [self._prefix + b"{"] if self.spread else [self._prefix + _RECORD, self._prefix + _EPOCH]

    def list_of(self, user: str) -> bytes:
        """Return the name of the list of a user's sessions."""
        return self._lists + user.encode()

    def are_together(self, key: str, other: str) -> bool:
        """Whether the records of two keys are in one slot, and so can change in one step."""
        return not self.spread or key[:_GROUP_DIGITS] == other[:_GROUP_DIGITS]

    def epochs(self) -> list[bytes]:
        """Return the names of the epochs of all groups."""
        if not self.spread:
            return [self._prefix + _EPOCH]
        return [b"%b{%0*x}:epoch" % (self._prefix, _GROUP_DIGITS, group) for group in range(GROUPS)]

    def pattern(self) -> bytes:
        """Return the pattern of the server's `SCAN` for the names of all records, and perhaps of others."""
        literal = re.sub(rb"([\\*?\[\]])", rb"\\\1", self._prefix)
        group = b"{" + b"?" * _GROUP_DIGITS + b"}:" if self.spread else b""
        return literal + group + _RECORD + b"?" * KEY_LENGTH

    def key_in(self, record: bytes) -> str:
        """Return the key of the session whose record has this name."""
        return record[-KEY_LENGTH:].decode(errors="replace")
