"""How a record's data lies in the store: as the codec made it, or sealed (`seal=True`).

Sealed data opens only with the server's secret key *and* the session ID, which the server never stores. The one is
useless without the other. Sealed data is bound to its store key, to the user and to when the session began. So a record
does not open under another key, for another user, or with another beginning.

A request that holds the old ID must be able to follow a rotation, because it may have changes to save. So the tombstone
carries the new secret, sealed under the old one. That is bound to everything else in the tombstone but its expiry.
"""

from __future__ import annotations

import hashlib
import math
import struct
from typing import TYPE_CHECKING, Protocol

from roomkey.wire import codec
from roomkey.wire.codec import DamagedData
from roomkey.wire.facts import KEY_BYTES, trail_from

if TYPE_CHECKING:
    from roomkey.wire.keys import SecretKeys
    from roomkey.wire.seal import Sealer

__all__ = ["Envelope", "envelope_for", "lifetime_in", "trail_in"]

_SEALED = b"\x03"  # the first byte of sealed data: 1, 2, 4, 5, 7 and 8 are the codec's
_SEALED_MOVED = b"\x06"  # the same, where the trail stands in clear too, for whoever ends the session
_LIFETIME = struct.Struct(">d")  # in clear, for the list of a user's sessions. NaN: the configuration's
_HEAD = 1 + _LIFETIME.size
_MOMENT = struct.Struct(">d")  # Unix seconds
_NO_WAY = "the way to the session that followed cannot be read"


class Filed(Protocol):
    """A record, as far as data is bound to it."""

    @property
    def data(self) -> bytes: ...
    @property
    def created_at(self) -> float: ...
    @property
    def user(self) -> str | None: ...
    @property
    def successor(self) -> str | None: ...
    @property
    def serve_until(self) -> float: ...


class Envelope(Protocol):
    """Both ways of keeping data. A secret is derived from the session ID. It is empty where nothing is sealed."""

    def secret_of(self, session_id: bytes) -> bytes: ...
    def close(self, record: Filed, key: str, secret: bytes) -> bytes:
        """Return what the store keeps as the data of this record, which holds it in clear."""
        ...

    def open(self, record: Filed, key: str, secret: bytes) -> bytes:
        """Return the data in clear. Raises DamagedData when `close` did not make it for this record, key and secret."""
        ...

    def is_old(self, data: bytes) -> bool:
        """Whether data that opened was closed with another secret key than the first."""
        ...

    def pass_on(self, tombstone: Filed, secret: bytes, new_secret: bytes) -> bytes:
        """Return what the tombstone's data holds after its kind, which it holds already, so that `follow` can."""
        ...

    def follow(self, tombstone: Filed, secret: bytes) -> bytes:
        """Return the secret of the session that moved to the successor. Raises DamagedData."""
        ...


class Sealing(Protocol):
    """What a configuration says about it."""

    @property
    def seal(self) -> bool: ...
    @property
    def secret_key(self) -> SecretKeys: ...
    @property
    def session_cookie(self) -> str: ...


def envelope_for(config: Sealing) -> Envelope:
    """Return the way that the configuration asks for. Raises ConfigurationError when `cryptography` is missing."""
    if not config.seal:
        return _Plain()
    from roomkey.wire.seal import Sealer

    return _Sealed(Sealer(config.secret_key, purpose="session data", name=config.session_cookie))


def lifetime_in(data: bytes) -> float | None:
    """Return for how many seconds this session lives after use, sealed or not. None: it has no time of its own."""
    if not isinstance(data, bytes):
        return None  # no session of ours
    if data[:1] not in (_SEALED, _SEALED_MOVED) or len(data) < _HEAD:
        return codec.facts_in(data).lifetime
    lifetime: float = _LIFETIME.unpack_from(data, 1)[0]
    return lifetime if math.isfinite(lifetime) else None


def trail_in(data: bytes) -> list[str]:
    """Return the store keys that this session had before, sealed or not: the first one, then the last ones."""
    if not isinstance(data, bytes):
        return []  # no session of ours
    if data[:1] == _SEALED_MOVED:
        return trail_from(data[_HEAD + 1 : _head_of(data)])
    return [] if data[:1] == _SEALED else trail_from(codec.facts_in(data).trail)


def _head_of(data: bytes) -> int:
    """Return how many bytes of sealed data are in clear."""
    return _HEAD if data[:1] == _SEALED or len(data) <= _HEAD else _HEAD + 1 + data[_HEAD] * KEY_BYTES


class _Plain:
    def secret_of(self, session_id: bytes) -> bytes:
        return b""

    def close(self, record: Filed, key: str, secret: bytes) -> bytes:
        return record.data

    def open(self, record: Filed, key: str, secret: bytes) -> bytes:
        return record.data

    def is_old(self, data: bytes) -> bool:
        return False

    def pass_on(self, tombstone: Filed, secret: bytes, new_secret: bytes) -> bytes:
        return b""

    def follow(self, tombstone: Filed, secret: bytes) -> bytes:
        return b""


class _Sealed:
    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    def secret_of(self, session_id: bytes) -> bytes:
        return hashlib.sha256(b"roomkey: what opens the data\0" + session_id).digest()

    def close(self, record: Filed, key: str, secret: bytes) -> bytes:
        facts = codec.facts_in(record.data)
        head = _LIFETIME.pack(math.nan if facts.lifetime is None else facts.lifetime)
        trail = facts.trail
        head = _SEALED_MOVED + head + bytes([len(trail) // KEY_BYTES]) + trail if trail else _SEALED + head
        return head + self._sealer.seal(record.data, bound=head + key.encode() + _whose(record), session_id=secret)

    def open(self, record: Filed, key: str, secret: bytes) -> bytes:
        data = record.data
        if not isinstance(data, bytes) or data[:1] not in (_SEALED, _SEALED_MOVED):
            raise DamagedData("the stored session is not sealed")
        head = data[: _head_of(data)]
        return self._open(data[len(head) :], head + key.encode() + _whose(record), secret)

    def is_old(self, data: bytes) -> bool:
        return not self._sealer.is_by_first_key(data[_head_of(data) :])

    def pass_on(self, tombstone: Filed, secret: bytes, new_secret: bytes) -> bytes:
        return self._sealer.seal(new_secret, bound=_way(tombstone), session_id=secret)

    def follow(self, tombstone: Filed, secret: bytes) -> bytes:
        if not secret:
            return b""  # `Sessions` only ends sessions: it follows without a secret, and reads nothing
        if not isinstance(tombstone.data, bytes):
            raise DamagedData(_NO_WAY)
        return self._open(tombstone.data[1:], _way(tombstone), secret)

    def _open(self, sealed: bytes, bound: bytes, secret: bytes) -> bytes:
        opened = self._sealer.open(sealed, bound=bound, session_id=secret)
        if opened is None:
            raise DamagedData("the stored session does not open: another key, or somebody altered it")
        return opened.data


# What a row holds that others wrote may be of any type.


def _whose(record: Filed) -> bytes:
    """Return when a session began and whose it is, as bytes that say nothing else."""
    try:
        user = b"-" if record.user is None else b"+" + record.user.encode("utf-8", "surrogatepass")
        return _MOMENT.pack(record.created_at) + user
    except (AttributeError, OverflowError, struct.error) as error:
        raise DamagedData("the stored session does not say whose it is, or when it began") from error


def _way(tombstone: Filed) -> bytes:
    """Return all that a tombstone says beside its expiry, as bytes that say nothing else."""
    if not isinstance(tombstone.successor, str):
        raise DamagedData(_NO_WAY)
    try:
        serves = _MOMENT.pack(tombstone.serve_until)
    except (OverflowError, struct.error) as error:
        raise DamagedData(_NO_WAY) from error
    return tombstone.data[:1] + serves + tombstone.successor.encode() + b"\0" + _whose(tombstone)
