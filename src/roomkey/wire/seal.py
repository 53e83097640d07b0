"""Authenticated encryption: AES-256-GCM, with a key of its own for each message.

A sealed message is a format byte, 4 bytes that name the secret key, 16 random bytes of salt, and the ciphertext with
its tag. The message's key and nonce are derived from the secret key, the salt and, where there is one, the session ID.
So there is no limit to the number of messages under one secret (NIST SP 800-38D section 8.3 sets one for random
nonces). Cookie name, purpose and whatever else it is bound to are authenticated with it. Nothing is compressed, because
the length of compressed data tells about its content.

Needs the package `cryptography` (`roomkey[crypto]`).
"""

from __future__ import annotations

import hmac
import secrets
from typing import NamedTuple

from roomkey.errors import ConfigurationError
from roomkey.wire.keys import SecretKeys

try:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
except ImportError as _error:  # pragma: no cover - the tests have it; test_seal runs this in a process without
    raise ConfigurationError("encryption needs the package cryptography: pip install 'roomkey[crypto]'") from _error

__all__ = ["Opened", "Sealer"]

_FORMAT = b"\x01"
_NAME, _SALT, _TAG = 4, 16, 16  # bytes
_HEAD = len(_FORMAT) + _NAME + _SALT
OVERHEAD = _HEAD + _TAG  # bytes that sealing adds


class Opened(NamedTuple):
    """What was sealed, and whether with the first secret key. If not, it is to be sealed anew when it is used."""

    data: bytes
    by_first_key: bool

    def __repr__(self) -> str:
        return f"Opened({len(self.data)} bytes, by_first_key={self.by_first_key})"


class Sealer:
    """Seals for one purpose and one cookie name. The first key seals, and all of them open.

    Args:
        secret_keys: the app's secrets.
        purpose: what is sealed.
        name: the cookie's name.
    """

    __slots__ = ("_bound", "_by_name", "_first")

    def __init__(self, secret_keys: SecretKeys, *, purpose: str, name: str) -> None:
        self._bound = f"roomkey/1\0{purpose}\0{name}\0".encode()
        derived = [_derive(secret, self._bound) for secret in secret_keys.values]
        self._first = derived[0]
        # By name, so that hundreds of keys cost no more than one.
        self._by_name: dict[bytes, list[bytes]] = {}
        for key_name, root in derived:
            self._by_name.setdefault(key_name, []).append(root)

    def seal(self, data: bytes, *, bound: bytes = b"", session_id: bytes = b"") -> bytes:
        """Return `data` sealed with the first key.

        Args:
            data: what to hide.
            bound: has to be the same to open it. It is authenticated, and not encrypted.
            session_id: a second secret, without which the secret key opens nothing.
        """
        name, root = self._first
        head = _FORMAT + name + secrets.token_bytes(_SALT)
        key, nonce = _message_key(root, head, session_id)
        return head + AESGCM(key).encrypt(nonce, data, head + self._bound + bound)

    def is_stranger(self, sealed: bytes) -> bool:
        """Whether this has the form of a sealed message, and names a secret key that is none of these."""
        return len(sealed) >= OVERHEAD and sealed[:1] == _FORMAT and sealed[1 : 1 + _NAME] not in self._by_name

    def is_by_first_key(self, sealed: bytes) -> bool:
        """Whether this names the first secret key. It says nothing about whether the message is genuine."""
        return sealed[1 : 1 + _NAME] == self._first[0]

    def open(self, sealed: bytes, *, bound: bytes = b"", session_id: bytes = b"") -> Opened | None:
        """Return what was sealed. None: it is not genuine. No input raises."""
        if len(sealed) < OVERHEAD or sealed[:1] != _FORMAT:
            return None
        head = sealed[:_HEAD]
        name = head[1 : 1 + _NAME]
        for root in self._by_name.get(name, ()):
            key, nonce = _message_key(root, head, session_id)
            try:
                data = AESGCM(key).decrypt(nonce, sealed[_HEAD:], head + self._bound + bound)
            except InvalidTag:
                continue
            return Opened(data, (name, root) == self._first)
        return None


def _derive(secret: bytes, context: bytes) -> tuple[bytes, bytes]:
    root = hmac.digest(secret, b"seal\0" + context, "sha256")
    return hmac.digest(root, b"key name", "sha256")[:_NAME], root


def _message_key(root: bytes, head: bytes, session_id: bytes) -> tuple[bytes, bytes]:
    """Return a message's AES key and nonce: HKDF (RFC 5869) with one block of each, extracted with the root."""
    extracted = hmac.digest(root, head + session_id, "sha256")
    key = hmac.digest(extracted, b"key\x01", "sha256")
    return key, hmac.digest(extracted, b"nonce\x01", "sha256")[:12]
