"""Sessions in signed cookies: itsdangerous' (Starlette, Lilya, Ravyn, Flask) and Django's own signature.

Each is a few lines of the standard library here, and the tests hold them against cookies that the libraries themselves
made.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import json
import warnings
import zlib
from base64 import b64decode, urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Literal
from uuid import UUID

from roomkey.clock import system_time
from roomkey.errors import ConfigurationError, WeakSecretWarning
from roomkey.legacy.readers import (
    DAY,
    MALFORMED,
    MOST_VALUE,
    LegacySession,
    check_cookie,
    check_text,
    make_session,
)
from roomkey.options import Seconds, is_number, named_options, seconds_of
from roomkey.wire.keys import SecretKeys

__all__ = ["MOST_DATA", "DjangoCookie", "FlaskCookie", "LilyaCookie", "RavynCookie", "StarletteCookie", "loaded"]

MOST_DATA = 1048576  # bytes of a session, decompressed


@named_options()
@dataclass(frozen=True)
class _SignedCookie:
    """All of the session is in the cookie: data, time of signing, signature, held together by one character."""

    secret_key: Any
    _: KW_ONLY
    cookie_name: str = "session"
    max_age: Seconds = 14 * DAY  # seconds
    path: str = "/"
    domain: str | None = None
    clock: Callable[[], float] = field(default=system_time, repr=False)
    _keys: tuple[bytes, ...] = field(init=False, repr=False, compare=False)
    _seconds: float = field(init=False, repr=False, compare=False)  # `max_age`

    def __post_init__(self) -> None:
        with warnings.catch_warnings():
            # It is what it is: another key would read nothing.
            warnings.simplefilter("ignore", WeakSecretWarning)
            keys = SecretKeys(self.secret_key)
        object.__setattr__(self, "secret_key", keys)
        seconds = seconds_of(self.max_age)
        if not is_number(seconds) or not 0 < seconds < float("inf"):
            raise ConfigurationError(
                f"max_age: got {self.max_age!r}; it takes a number of seconds above 0, or a timedelta"
            )
        object.__setattr__(self, "max_age", seconds)
        object.__setattr__(self, "_seconds", seconds)
        if not callable(self.clock):
            raise ConfigurationError("clock: it takes a function that returns Unix seconds")
        check_cookie(self.cookie_name, self.path, self.domain)
        object.__setattr__(self, "_keys", tuple(self._derive(key) for key in keys.values))

    async def read(self, value: bytes) -> LegacySession | None:
        """Return the session in a cookie's value. None: the cookie is not genuine, or too old."""
        if len(value) > MOST_VALUE:
            return None
        try:
            return self._open(value)
        except MALFORMED:  # signed by the right key, yet not what the library makes
            return None

    async def forget(self, value: bytes) -> None:
        """Do nothing: all of it is in the cookie."""

    def _open(self, value: bytes) -> LegacySession | None:
        signed, _, signature = value.rpartition(self._separator)
        if not any(hmac.compare_digest(self._sign(key, signed), signature) for key in self._keys):
            return None
        payload, _, stamp = signed.rpartition(self._separator)
        age = self._age(stamp)
        if age is None or age > self._seconds:
            return None
        return make_session(self._load(payload), expires_in=self._seconds - age)

    def _sign(self, key: bytes, signed: bytes) -> bytes:
        return urlsafe_b64encode(hmac.digest(key, signed, self._digest)).rstrip(b"=")

    # What tells one library from the other.

    @property
    def _separator(self) -> bytes:
        return b"."

    @property
    def _digest(self) -> str:
        return "sha1"

    def _derive(self, secret: bytes) -> bytes:
        return _django_concat(b"itsdangerous.Signer", secret, "sha1")

    def _age(self, stamp: bytes) -> float | None:
        """Return how many seconds ago the cookie was signed. None: the moment cannot be right."""
        age = int(self.clock()) - int.from_bytes(_unpadded(stamp), "big")
        return None if age < 0 else age  # itsdangerous takes no cookie from the future either

    def _load(self, payload: bytes) -> Any:
        return json.loads(b64decode(payload))


class StarletteCookie(_SignedCookie):
    """The cookie of `starlette.middleware.sessions`, and so FastAPI's.

    Args:
        secret_key: the old app's: `str`, `bytes`, a `Secret`, or a list of these, tried in this order.
        cookie_name: the cookie that the old app set.
        max_age: seconds (or a `timedelta`) after its signing for which a cookie is taken. 14 days, as in the old
            library. It is always a number, also where the old app had `None`, because a copy of an old cookie can move
            in until then.
        path: the `Path` of the old cookie.
        domain: the `Domain` of the old cookie. `None`: it had none.
        clock: returns Unix seconds. Tests give one that they move.

    Raises:
        ConfigurationError: an option is wrong. The message names it.
    """


@named_options()
@dataclass(frozen=True)
class LilyaCookie(_SignedCookie):
    """The cookie of `lilya.middleware.sessions`: Starlette's format, with a serializer of the app's choice.

    Args:
        loads: reads the session's bytes: the old app's `session_deserializer`. The rest is as for `StarletteCookie`.
    """

    _: KW_ONLY
    loads: Callable[[bytes], Any] = field(default=json.loads, repr=False)

    def _load(self, payload: bytes) -> Any:
        return loaded(self.loads, b64decode(payload))


@named_options()
@dataclass(frozen=True)
class RavynCookie(LilyaCookie):
    """The cookie of Ravyn's own `SessionConfig`: Lilya's, living 180 days."""

    _: KW_ONLY
    max_age: Seconds = 180 * DAY  # seconds


@named_options()
@dataclass(frozen=True)
class FlaskCookie(_SignedCookie):
    """Flask's session cookie. Its types come along: tuples, bytes, UUIDs and datetimes. Markup comes as text.

    Args:
        salt: the interface's `salt`.
        max_age: the old app's `PERMANENT_SESSION_LIFETIME`.
        key_derivation: the interface's `key_derivation`.
        digest: the interface's `digest_method`, by name. The rest is as for `StarletteCookie`. For `secret_key`, give
            `SECRET_KEY_FALLBACKS` too, as a list.
    """

    _: KW_ONLY
    max_age: Seconds = 31 * DAY  # seconds
    salt: str = "cookie-session"
    key_derivation: Literal["hmac", "django-concat", "concat"] = "hmac"
    digest: str = "sha1"

    def __post_init__(self) -> None:
        check_text("salt", self.salt)
        if self.key_derivation not in ("hmac", "django-concat", "concat"):
            raise ConfigurationError(
                f"key_derivation: got {self.key_derivation!r}; it takes 'hmac', 'django-concat' or 'concat'"
            )
        if self.digest not in hashlib.algorithms_guaranteed or self.digest.startswith("shake"):
            raise ConfigurationError(f"digest: got {self.digest!r}; it takes a name such as 'sha1' or 'sha512'")
        super().__post_init__()

    @property
    def _digest(self) -> str:
        return self.digest

    def _derive(self, secret: bytes) -> bytes:
        salt = self.salt.encode()
        if self.key_derivation == "hmac":
            return hmac.digest(secret, salt, self.digest)
        if self.key_derivation == "concat":
            return hashlib.new(self.digest, salt + secret).digest()
        return _django_concat(salt, secret, self.digest)

    def _load(self, payload: bytes) -> Any:
        return _untagged(json.loads(_maybe_compressed(payload)))


@named_options()
@dataclass(frozen=True)
class DjangoCookie(_SignedCookie):
    """The cookie of `django.contrib.sessions.backends.signed_cookies`, with Django's JSON serializer.

    Args:
        max_age: the old app's `SESSION_COOKIE_AGE`.
        salt: the salt of Django's backend. The rest is as for `StarletteCookie`. For `secret_key`, give
            `SECRET_KEY_FALLBACKS` too, as a list.
    """

    _: KW_ONLY
    cookie_name: str = "sessionid"
    salt: str = "django.contrib.sessions.backends.signed_cookies"

    def __post_init__(self) -> None:
        check_text("salt", self.salt)
        super().__post_init__()

    @property
    def _separator(self) -> bytes:
        return b":"

    @property
    def _digest(self) -> str:
        return "sha256"

    def _derive(self, secret: bytes) -> bytes:
        return _django_concat(self.salt.encode(), secret, "sha256")

    def _age(self, stamp: bytes) -> float | None:
        seconds = 0
        if len(stamp) > 11:  # 62 ** 11 is past 64 bits
            return None
        for digit in stamp.decode("ascii"):
            seconds = seconds * 62 + _BASE62.index(digit)
        return self.clock() - seconds

    def _load(self, payload: bytes) -> Any:
        return json.loads(_maybe_compressed(payload).decode("latin-1"))


_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def _django_concat(salt: bytes, secret: bytes, digest: str) -> bytes:
    return hashlib.new(digest, salt + b"signer" + secret).digest()


def _unpadded(text: bytes) -> bytes:
    return urlsafe_b64decode(text + b"=" * (-len(text) % 4))


def _maybe_compressed(payload: bytes) -> bytes:
    """Decode what itsdangerous and Django put into a cookie. A leading dot says that it is compressed."""
    if not payload.startswith(b"."):
        return _unpadded(payload)
    inflate = zlib.decompressobj()
    data = inflate.decompress(_unpadded(payload[1:]), MOST_DATA)
    if not inflate.eof:
        raise ValueError("cut off, or too large")
    return data


def loaded(loads: Callable[[bytes], Any], stored: bytes) -> Any:
    try:
        return loads(stored)
    except Exception as error:  # the app's own function, with whatever errors its library has
        raise ValueError("its serializer cannot read it") from error


def _untagged(value: Any) -> Any:
    """Undo `flask.json.tag.TaggedJSONSerializer`: a dictionary with one key that is a tag is a value of that type."""
    if isinstance(value, list):
        return [_untagged(item) for item in value]
    if not isinstance(value, dict):
        return value
    plain = {key: _untagged(item) for key, item in value.items()}
    if len(plain) == 1:
        ((tag, item),) = plain.items()
        if tag in _TAGS:
            return _TAGS[tag](item)
    return plain


def _dict_like_a_tag(value: dict[str, Any]) -> dict[str, Any]:
    key = [*value][0]  # noqa: RUF015  # `next` of nothing raises StopIteration, which no coroutine lets out
    return {key[:-2]: value[key]}


def _http_date(text: str) -> Any:
    from email.utils import parsedate_to_datetime  # here, because few sessions hold a moment

    try:
        moment = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None  # as Flask has it
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=dt.UTC)


_TAGS: dict[str, Callable[[Any], Any]] = {
    " di": _dict_like_a_tag,
    " t": tuple,
    " b": b64decode,
    " m": str,  # Markup is text that needs no escaping: the app has to say that again
    " u": UUID,
    " d": _http_date,
}
