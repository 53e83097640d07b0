"""A card that is the session.

It is a digit, the number of cookies that it takes, and in base64url a sealed message (`roomkey.wire.seal`) of when the
session began, when it expires, a random ID and the data as `roomkey.wire.codec` encodes it. Its first byte says whether
it was given as `Secure`. The number is authenticated with it, and so are purpose and cookie name. How a card lies in
several cookies: `roomkey.wire.cookies`.
"""

from __future__ import annotations

import binascii
import secrets
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import replace
from typing import TYPE_CHECKING

from roomkey.core.loaded import Loaded, Stale
from roomkey.errors import SessionDataError
from roomkey.stores.base import Record
from roomkey.stores.cookie import CookieStore
from roomkey.wire import codec
from roomkey.wire.cookies import ChunkWriter
from roomkey.wire.keys import hashed_key
from roomkey.wire.kinds import shown
from roomkey.wire.seal import OVERHEAD, Opened, Sealer

if TYPE_CHECKING:
    from roomkey.config import SessionConfig

__all__ = ["SealedCards", "new_id"]

_FORMAT, _SECURE = 1, 2  # formats: the second was given as `Secure`, and is the same otherwise
_HEAD = struct.Struct(">Bdd16s")  # format, created at, expires at (Unix seconds), session ID
_ID_BYTES = 16
_LONGEST_CARD = 1 + 8 * 4096  # characters; more than any that is made


def new_id() -> bytes:
    return secrets.token_bytes(_ID_BYTES)


class SealedCards:
    """Made and opened for one configuration.

    Raises:
        ConfigurationError: the package `cryptography` is missing, or the cookies would have no room.
    """

    def __init__(self, config: SessionConfig) -> None:
        assert isinstance(config.store, CookieStore)
        self.sealer: Sealer = Sealer(config.secret_key, purpose="session in the cookie", name=config.session_cookie)
        self.writer: ChunkWriter = ChunkWriter(config)
        self.max_size: int = min(config.store.max_size, self.writer.largest)  # bytes in a `Cookie` header

    def stamped(self, record: Record, expires_at: float) -> Record:
        """Return the record of a card that expires then. It has one version only."""
        return replace(record, version=1, expires_at=expires_at)

    def make(self, session_id: bytes, record: Record, *, one_cookie: bool, secure: bool = False) -> bytes:
        """Return the card for a session.

        Args:
            session_id: its 16 bytes.
            record: the session.
            one_cookie: whether it has to fit into one cookie.
            secure: whether it is given as `Secure`.

        Raises:
            SessionDataError: it is too large.
        """
        kind = _SECURE if secure else _FORMAT
        plain = _HEAD.pack(kind, record.created_at, record.expires_at, session_id) + record.data
        self._check_size(record.data, self.writer.size(_length(record.data)))
        count = self.count(record.data)
        self.check_count(count, one_cookie=one_cookie)
        number = b"%d" % count
        return number + urlsafe_b64encode(self.sealer.seal(plain, bound=number)).rstrip(b"=")

    def open(self, card: bytes) -> Loaded | None:
        """Return the session that a card is; None when it is not genuine. What is in it may be damaged all the same."""
        opened = self._opened(card)
        if opened is None:
            return None
        _, created_at, expires_at, session_id = _HEAD.unpack_from(opened.data)
        encoded = opened.data[_HEAD.size :]
        record = Record(encoded, 1, created_at, expires_at)
        stale = Stale.NOTHING if opened.by_first_key else Stale.CARD
        return Loaded(hashed_key(session_id), record, b"", encoded, codec.facts_in(encoded), None, session_id, stale)

    def is_secure(self, card: bytes) -> bool:
        """Whether a card is genuine, and was given as `Secure`."""
        opened = self._opened(card)
        return opened is not None and opened.data[0] == _SECURE

    def _opened(self, card: bytes) -> Opened | None:
        sealed = _decoded(card[1:])
        opened = None if sealed is None else self.sealer.open(sealed, bound=card[:1])
        if opened is None or len(opened.data) < _HEAD.size or opened.data[0] not in (_FORMAT, _SECURE):
            return None
        return opened

    def is_stranger(self, card: bytes) -> bool:
        """Whether `card` has the form of one, and names a secret key that is none of these."""
        sealed = _decoded(card[1:])
        return sealed is not None and self.sealer.is_stranger(sealed)

    def count(self, encoded: bytes) -> int:
        """Return how many cookies a session takes that is encoded like this."""
        return self.writer.count(_length(encoded))

    def check_count(self, count: int, *, one_cookie: bool) -> None:
        """Refuse a card that takes `count` cookies, where it has to fit into one. Raises SessionDataError."""
        if one_cookie and count > 1:
            raise SessionDataError(
                f"the session takes {count} cookies, and the error response that this framework makes of an "
                "HTTPException carries one; return a response instead, or keep less in the session"
            )

    def _check_size(self, encoded: bytes, size: int) -> None:
        if size <= self.max_size:
            return
        data = codec.decode(encoded)
        largest = max(data, key=lambda key: len(codec.encode({key: data[key]})))
        raise SessionDataError(
            f"the session takes {size} bytes of cookies, and {self.max_size} is the most (CookieStore's max_size); its "
            f"largest key is {shown(largest)}: keep large things in your database, and their IDs in the session; or "
            "use a store on the server"
        )


def _length(encoded: bytes) -> int:
    """Return how many characters long the text of a card is, without padding."""
    return (4 * (_HEAD.size + len(encoded) + OVERHEAD) + 2) // 3


def _decoded(text: bytes) -> bytes | None:
    """Return what `text` is the base64url of; None when it is not exactly that."""
    if len(text) > _LONGEST_CARD:
        return None
    try:
        decoded = urlsafe_b64decode(text + b"=" * (-len(text) % 4))
    except binascii.Error:
        return None
    # The decoder is lenient, and a card has one form only.
    return decoded if urlsafe_b64encode(decoded).rstrip(b"=") == text else None
