"""Secret keys: what the app gives becomes keys for one purpose each, which sign and verify.

A card is what the cookie carries: 4 characters that name the key, 36 of a session ID and 40 of a keyed BLAKE2b
(RFC 7693, 160 bits) over that ID: 80 characters that need no quoting anywhere. Its key is derived from the secret, the
purpose and the cookie's name, so that a card made for one of them is refused for every other.

A session ID is 4 hexadecimal digits and 32 characters of 192 random bits. The digits are the session's place. A
rotation keeps them: a store that is spread over several servers has a session and its successor on the same one.
"""

from __future__ import annotations

import hashlib
import hmac
import sys
import warnings
from base64 import urlsafe_b64encode
from binascii import b2a_base64
from collections.abc import Sequence
from os import urandom
from typing import Any

from roomkey.errors import ConfigurationError, WeakSecretWarning

__all__ = ["ADVICE", "KEY_TAKES", "Keyring", "SecretKeys", "hashed_key", "new_session_id", "store_key"]

_KEY_NAME_LENGTH = 4  # characters
_PLACE_LENGTH = 4  # hexadecimal digits, 2 random bytes
_ID_LENGTH = _PLACE_LENGTH + 32  # characters, of which the last 32 are 24 random bytes
_URL_SAFE = bytes.maketrans(b"+/", b"-_")  # RFC 4648 section 5; `base64` does the same in four calls
_MAC_BYTES = 20
_CARD_LENGTH = _KEY_NAME_LENGTH + _ID_LENGTH + 2 * _MAC_BYTES
_ENOUGH_BYTES = 32  # as long as the output of SHA-256: RFC 2104 section 3
_REVEALS = ("get_secret_value", "get_secret")  # pydantic's and Litestar's way to the secret
_WHOLE = (str, bytes, bytearray, memoryview)  # sequences that are one value
ADVICE = "make one with: python -c 'import secrets; print(secrets.token_urlsafe(32))'"
KEY_TAKES = (
    "it takes str, bytes, an object that hides its text (Starlette's Secret, pydantic's SecretStr), or a list of these"
)


class SecretKeys:
    """The app's secret keys. The first one signs, all of them verify, and none is ever shown.

    Args:
        value: a `str`, `bytes`, an object with `get_secret_value()` (pydantic) or `get_secret()` (Litestar), or one
            whose `str()` is the key and whose `repr()` hides it (Starlette's, Lilya's and Ravyn's `Secret`). A list or
            another sequence of these gives several keys.

    Raises:
        ConfigurationError: a key is empty, or is none of these.
    """

    __slots__ = ("values",)

    def __init__(self, value: object) -> None:
        if isinstance(value, SecretKeys):
            self.values: tuple[bytes, ...] = value.values
            return
        several = value if isinstance(value, Sequence) and not isinstance(value, _WHOLE) else [value]
        if not several:
            raise ConfigurationError(f"secret_key: an empty list; it takes at least one key: {ADVICE}")
        self.values = tuple(_secret_bytes(item) for item in several)
        if any(len(item) < _ENOUGH_BYTES for item in self.values):
            warnings.warn(
                f"secret_key is shorter than {_ENOUGH_BYTES} bytes, which may be guessed; {ADVICE}",
                WeakSecretWarning,
                stacklevel=_outside(),
            )

    def __repr__(self) -> str:
        return f"<{len(self.values)} secret key(s)>"

    def __str__(self) -> str:
        # Another library that signs with `str(secret_key)` must not get a constant that anybody can guess.
        raise TypeError("Roomkey's secret keys have no text form; was this SessionConfig given to something else?")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SecretKeys) and self.values == other.values

    def __hash__(self) -> int:
        return hash(self.values)


def _outside() -> int:
    """Return how many frames up the code is that is not ours: the app's, which gave the key."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "roomkey":
        frame, level = frame.f_back, level + 1
    return level


def _secret_bytes(value: Any) -> bytes:
    for name in _REVEALS:
        reveal = getattr(value, name, None)
        if callable(reveal) and not isinstance(value, type):
            value = reveal()
            break
    if isinstance(value, bytes):
        secret = value
    elif isinstance(value, str):
        try:
            secret = value.encode()
        except UnicodeEncodeError:
            raise ConfigurationError(f"secret_key: it is no valid text (lone surrogates); {ADVICE}") from None
    elif _hides_text(value):
        secret = _text_of(value).encode()
    else:
        raise ConfigurationError(f"secret_key: got {type(value).__name__}; {KEY_TAKES}; {ADVICE}")
    if not secret.strip():
        raise ConfigurationError(f"secret_key is empty; {ADVICE}")
    return secret


def _hides_text(value: object) -> bool:
    """Whether `str()` is this value's secret: its class says what it is, and its `repr()` does not show it.

    An object whose `repr()` shows its text is a path, a number or a member of an enumeration, and no secret. The text
    of an object may also be a mask, such as `****`. It is the same for everybody, and must not become the key.
    """
    if isinstance(value, type) or not any("__str__" in kind.__dict__ for kind in type(value).__mro__[:-1]):
        return False
    text = _text_of(value)
    return text not in repr(value) and len(set(text)) > 1


def _text_of(value: object) -> str:
    try:
        return str(value)
    except TypeError:  # `Secret(b"...")` of Starlette, Lilya and Ravyn: `str()` gets bytes from it
        name = type(value).__name__
        raise ConfigurationError(
            f"secret_key: got a {name} that holds no text; give {name}(text), or the bytes themselves; {ADVICE}"
        ) from None


class Keyring:
    """The keys for one purpose and one cookie name, derived once.

    Args:
        secret_keys: the app's secrets. The first signs, all verify.
        purpose: what the signature is for.
        name: the cookie's name.
        secure_purpose: what the signature of a card is for that is given as `Secure`. None: none is told apart.
    """

    __slots__ = ("_by_name", "_secure", "_signing_key", "has_old", "signing_name")

    def __init__(self, secret_keys: SecretKeys, *, purpose: str, name: str, secure_purpose: str | None = None) -> None:
        self._by_name: dict[bytes, list[hashlib.blake2b]] = {}
        derived = [_derive(secret, purpose, name) for secret in secret_keys.values]
        for key_name, key in derived:
            self._by_name.setdefault(key_name, []).append(key)
        self.signing_name: bytes
        self.signing_name, self._signing_key = derived[0]
        self.has_old: bool = len(derived) > 1  # whether a card may be signed by another key than the first
        self._secure: Keyring | None = None
        if secure_purpose is not None:
            self._secure = Keyring(secret_keys, purpose=secure_purpose, name=name)
            for key_name, keys in self._secure._by_name.items():
                self._by_name.setdefault(key_name, []).extend(keys)

    def sign(self, session_id: bytes, *, secure: bool = False) -> bytes:
        """Return the card for a session ID, signed with the first key. `secure`: it is given as `Secure`."""
        if secure and self._secure is not None:
            return self._secure.sign(session_id)
        return self.signing_name + session_id + _mac(self._signing_key, session_id)

    def verify(self, card: bytes) -> bytes | None:
        """Return the session ID in `card`. None: it is none that these keys signed."""
        if len(card) != _CARD_LENGTH:
            return None
        keys = self._by_name.get(card[:_KEY_NAME_LENGTH])
        if keys is None:
            return None
        session_id = card[_KEY_NAME_LENGTH : _KEY_NAME_LENGTH + _ID_LENGTH]
        mac = card[_KEY_NAME_LENGTH + _ID_LENGTH :]
        for key in keys:
            if hmac.compare_digest(_mac(key, session_id), mac):
                return session_id
        return None

    def is_stranger(self, card: bytes) -> bool:
        """Whether `card` has the form of one, and names a key that is none of these."""
        return len(card) == _CARD_LENGTH and card[:_KEY_NAME_LENGTH] not in self._by_name

    def is_old(self, card: bytes) -> bool:
        """Whether a card that `verify` took was signed by another key than the first."""
        if self._secure is not None and card.startswith(self._secure.signing_name):
            return False
        return not card.startswith(self.signing_name)

    def is_secure(self, card: bytes) -> bool:
        """Whether `card` is one that these keys signed, and was given as `Secure`."""
        return self._secure is not None and self._secure.verify(card) is not None


def new_session_id(beside: str = "") -> bytes:
    """Return a fresh session ID: a place, and 192 random bits (OWASP ASVS 7.2.3 asks for 128) as 32 characters.

    Args:
        beside: the store's key of a session that gets this ID, whose place it keeps. Empty: a new place is drawn.
    """
    drawn = urandom(26)
    place = beside[:_PLACE_LENGTH] or drawn[24:].hex()
    return place.encode() + b2a_base64(drawn[:24], newline=False).translate(_URL_SAFE)


def store_key(session_id: bytes) -> str:
    """Return the key under which a store keeps a session: 64 hexadecimal digits.

    The first 4 are the session's place, and the others are of the SHA-256 of the ID. So a store holds no ID.
    """
    return session_id[:_PLACE_LENGTH].decode() + hashed_key(session_id)[_PLACE_LENGTH:]


def hashed_key(value: bytes) -> str:
    """Return the key for a record that is found by something else than a session ID: the SHA-256 of that."""
    return hashlib.sha256(value).hexdigest()


def _derive(secret: bytes, purpose: str, name: str) -> tuple[bytes, hashlib.blake2b]:
    """Return the name of the key, and the keyed hash to begin each signature with."""
    context = f"roomkey/1\0{purpose}\0{name}".encode()
    key = hmac.digest(secret, context, "sha256")
    key_name = urlsafe_b64encode(hmac.digest(key, b"key name", "sha256")[:3])
    return key_name, hashlib.blake2b(key=key, digest_size=_MAC_BYTES)


def _mac(keyed: hashlib.blake2b, session_id: bytes) -> bytes:
    mac = keyed.copy()  # with the key in it already: on the way of every request
    mac.update(session_id)
    return mac.hexdigest().encode()
