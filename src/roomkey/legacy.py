"""Moving in: readers of other libraries' sessions, which become Roomkey sessions on first sight.

A reader knows one library's cookie and gives the data that it stands for. `MoveIn` asks the readers of one
configuration and says which cookies to take back. Nothing of the old session is adopted but its data: the session that
is made of it has a fresh ID.

The formats are itsdangerous' (Starlette, Lilya, Ravyn, Flask) and Django's own signature; each is a few lines of the
standard library here, and the tests hold them against cookies that the libraries themselves made. Leaves to others:
when there is something to move in, and saving it (`roomkey.lifecycle`).
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import json
import logging
import re
import time
import warnings
import zlib
from base64 import b64decode, urlsafe_b64decode, urlsafe_b64encode
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar
from uuid import UUID

from roomkey import codec
from roomkey.cookies import CookieWriter
from roomkey.errors import ConfigurationError, SessionDataError, StoreUnavailable, WeakSecretWarning
from roomkey.keys import SecretKeys

if TYPE_CHECKING:
    from roomkey.config import SessionConfig

__all__ = [
    "DjangoCookie",
    "FlaskCookie",
    "Found",
    "LegacyReader",
    "LegacySession",
    "LilyaCookie",
    "LitestarRedis",
    "MoveIn",
    "RavynCookie",
    "StarletteCookie",
    "StarsessionsRedis",
    "checked_readers",
]

_log = logging.getLogger("roomkey")
_Answer = TypeVar("_Answer")

_DAY = 24 * 60 * 60  # seconds
_MOST_VALUE = 65536  # bytes of a cookie's value; browsers stop at 4096
_MOST_DATA = 1048576  # bytes of a session, decompressed
_DEEPEST = 100  # levels of lists and dictionaries
_MALFORMED = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError, zlib.error)
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,256}")  # RFC 6265 section 4.1.1: a cookie name is a token
# What the two libraries make IDs of. A client's own text must not reach into the rest of the database.
_SERVER_ID = re.compile(rb"[0-9a-f]{16,512}")

Cookies = Callable[[bytes], list[bytes]]
"""Gives the values of the request's cookies of one name, in the order sent."""


@dataclass(frozen=True)
class LegacySession:
    """What an old cookie stands for."""

    data: dict[str, Any] = field(repr=False)  # never empty; every value is one that Roomkey stores
    created_at: float | None = None  # Unix seconds at which the session began; None: the library does not say
    expires_in: float | None = None  # seconds that the library would still take the cookie; None: it does not say


class LegacyReader(Protocol):
    """Reads the sessions of one library. Write your own for a library that is not here."""

    @property
    def cookie_name(self) -> str:
        """Which cookie it reads. It may be Roomkey's own name."""
        ...

    @property
    def path(self) -> str:
        """The `Path` that the old cookie was set with: without it, a browser does not let go of the cookie."""
        ...

    @property
    def domain(self) -> str | None:
        """The `Domain` that the old cookie was set with; None: it had none."""
        ...

    async def read(self, value: bytes) -> LegacySession | None:
        """Return the session that a cookie's value stands for.

        None when it is not genuine, has expired, cannot be read, or holds nothing. No value raises. Where the session
        is kept on a server that does not answer, any exception: nobody can know then whether there is a session.
        """
        ...

    async def forget(self, value: bytes) -> None:
        """Remove what the old library keeps of this session, so that its cookie is good for nothing.

        Where all of it is in the cookie there is nothing to remove: a copy of that cookie stays good until `max_age`.
        """
        ...


# --- signed cookies ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _SignedCookie:
    """All of the session is in the cookie: data, time of signing, signature, held together by one character."""

    secret_key: Any
    _: KW_ONLY
    cookie_name: str = "session"
    max_age: float = 14 * _DAY  # seconds
    path: str = "/"
    domain: str | None = None
    clock: Callable[[], float] = field(default=time.time, repr=False)
    _keys: tuple[bytes, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        with warnings.catch_warnings():
            # It is what it is: another key would read nothing.
            warnings.simplefilter("ignore", WeakSecretWarning)
            keys = SecretKeys(self.secret_key)
        object.__setattr__(self, "secret_key", keys)
        number = isinstance(self.max_age, int | float) and not isinstance(self.max_age, bool)
        if not number or not 0 < self.max_age < float("inf"):
            raise ConfigurationError(f"max_age: got {self.max_age!r}; it takes a number of seconds above 0")
        if not callable(self.clock):
            raise ConfigurationError("clock: it takes a function that returns Unix seconds")
        _check_cookie(self.cookie_name, self.path, self.domain)
        object.__setattr__(self, "_keys", tuple(self._derive(key) for key in keys.values))

    async def read(self, value: bytes) -> LegacySession | None:
        """Return the session in a cookie's value; None when there is none that is genuine and young enough."""
        if len(value) > _MOST_VALUE:
            return None
        try:
            return self._open(value)
        except _MALFORMED:  # signed by the right key, yet not what the library makes
            return None

    async def forget(self, value: bytes) -> None:
        """Do nothing: a signed cookie stays good until it expires."""

    def _open(self, value: bytes) -> LegacySession | None:
        signed, _, signature = value.rpartition(self._separator)
        if not any(hmac.compare_digest(self._sign(key, signed), signature) for key in self._keys):
            return None
        payload, _, stamp = signed.rpartition(self._separator)
        age = self._age(stamp)
        if age is None or age > self.max_age:
            return None
        return _session(self._load(payload), expires_in=self.max_age - age)

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
        """Return how many seconds ago the cookie was signed; None when that is no moment to go by."""
        age = int(self.clock()) - int.from_bytes(_unpadded(stamp), "big")
        return None if age < 0 else age  # itsdangerous refuses what comes from the future

    def _load(self, payload: bytes) -> Any:
        return json.loads(b64decode(payload))


class StarletteCookie(_SignedCookie):
    """The cookie of `starlette.middleware.sessions`, and so FastAPI's.

    Args:
        secret_key: the old app's: `str`, `bytes`, a `Secret`, or a list of these, tried in turn.
        cookie_name: the cookie that the old app set.
        max_age: seconds after its signing for which a cookie is taken; 14 days, as in the old library. Always a
            number, also where the old app had `None`: a copy of an old cookie can move in until then.
        path: the `Path` of the old cookie.
        domain: the `Domain` of the old cookie; `None`: it had none.
        clock: returns Unix seconds; tests move it.

    Raises:
        ConfigurationError: an option is wrong; the message names it.
    """


@dataclass(frozen=True)
class LilyaCookie(_SignedCookie):
    """The cookie of `lilya.middleware.sessions`: Starlette's format, with a serializer of the app's choice.

    Args:
        loads: reads the session's bytes: the old app's `session_deserializer`. The rest is as for `StarletteCookie`.
    """

    _: KW_ONLY
    loads: Callable[[bytes], Any] = field(default=json.loads, repr=False)

    def _load(self, payload: bytes) -> Any:
        return _loaded(self.loads, b64decode(payload))


@dataclass(frozen=True)
class RavynCookie(LilyaCookie):
    """The cookie of Ravyn's own `SessionConfig`: Lilya's, living 180 days."""

    _: KW_ONLY
    max_age: float = 180 * _DAY  # seconds


@dataclass(frozen=True)
class FlaskCookie(_SignedCookie):
    """Flask's session cookie. Its types come along: tuples, bytes, UUIDs, datetimes; Markup as text.

    Args:
        salt: the interface's `salt`.
        max_age: the old app's `PERMANENT_SESSION_LIFETIME`, in seconds.
        key_derivation: the interface's `key_derivation`.
        digest: the interface's `digest_method`, by name. The rest is as for `StarletteCookie`; of `secret_key`, give
            `SECRET_KEY_FALLBACKS` too, as a list.
    """

    _: KW_ONLY
    max_age: float = 31 * _DAY  # seconds
    salt: str = "cookie-session"
    key_derivation: Literal["hmac", "django-concat", "concat"] = "hmac"
    digest: str = "sha1"

    def __post_init__(self) -> None:
        _check_text("salt", self.salt)
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


@dataclass(frozen=True)
class DjangoCookie(_SignedCookie):
    """The cookie of `django.contrib.sessions.backends.signed_cookies`, with Django's JSON serializer.

    Args:
        max_age: the old app's `SESSION_COOKIE_AGE`, in seconds.
        salt: what Django's backend signs with. The rest is as for `StarletteCookie`; of `secret_key`, give
            `SECRET_KEY_FALLBACKS` too, as a list.
    """

    _: KW_ONLY
    cookie_name: str = "sessionid"
    salt: str = "django.contrib.sessions.backends.signed_cookies"

    def __post_init__(self) -> None:
        _check_text("salt", self.salt)
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
    """Decode what itsdangerous and Django put into a cookie; a leading dot says that it is compressed."""
    if not payload.startswith(b"."):
        return _unpadded(payload)
    inflate = zlib.decompressobj()
    data = inflate.decompress(_unpadded(payload[1:]), _MOST_DATA)
    if not inflate.eof:
        raise ValueError("cut off, or too large")
    return data


def _loaded(loads: Callable[[bytes], Any], stored: bytes) -> Any:
    try:
        return loads(stored)
    except Exception as error:  # the app's own function, with whatever errors its library has
        raise ValueError("its serializer cannot read it") from error


def _session(data: Any, *, created_at: float | None = None, expires_in: float | None = None) -> LegacySession | None:
    """Return `data` as a session; None unless it is a dictionary that holds something and that Roomkey can store."""
    if type(data) is not dict or not data or not _is_shallow(data) or _size(data) is None:
        return None
    return LegacySession(data, created_at, expires_in)


def _is_shallow(value: Any, levels: int = _DEEPEST) -> bool:
    if isinstance(value, dict):
        return levels > 0 and all(_is_shallow(item, levels - 1) for item in value.values())
    if isinstance(value, list | tuple | set | frozenset):
        return levels > 0 and all(_is_shallow(item, levels - 1) for item in value)
    return True


def _size(data: dict[str, Any]) -> int | None:
    """Return how many bytes Roomkey takes for `data`; None when it cannot store it."""
    try:
        stored = codec.encode(data)
        codec.verify(data, stored)
    except SessionDataError:
        return None
    return len(stored)


# --- Flask's types ----------------------------------------------------------------------------------------------------


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
    key = [*value][0]  # noqa: RUF015  # `next` of nothing would raise StopIteration, which a coroutine turns around
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


# --- sessions on a Redis server ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _RedisReader:
    """What the readers of sessions on a Redis (or Valkey) server share."""

    client: Any = field(repr=False)
    _: KW_ONLY
    cookie_name: str = "session"
    path: str = "/"
    domain: str | None = None

    def __post_init__(self) -> None:
        # A blocking client has the same operations, but is no asynchronous context manager.
        operations = ("read", "remove") if self._is_store else ("get", "delete", "__aenter__")
        found = [callable(getattr(self.client, name, None)) for name in operations]
        if isinstance(self.client, type) or not all(found):
            raise ConfigurationError(
                f"client: got {type(self.client).__name__}; it takes redis.asyncio.Redis.from_url(...), another "
                "asyncio client with the same methods, or the old app's store"
            )
        _check_cookie(self.cookie_name, self.path, self.domain)

    async def read(self, value: bytes) -> LegacySession | None:
        """Return the session with the ID that is a cookie's value; None when there is none.

        Raises:
            Exception: the client's own, when the server does not answer.
        """
        if not _SERVER_ID.fullmatch(value):
            return None
        try:
            stored = await self._fetch(value.decode("ascii"))
        except UnicodeDecodeError:  # a client that decodes, and what is stored is no text
            return None
        except Exception as error:
            if str(error).startswith("WRONGTYPE"):  # somebody else's, and no session
                return None
            raise
        if isinstance(stored, str):
            stored = stored.encode("utf-8", "surrogateescape")
        if not isinstance(stored, bytes) or len(stored) > _MOST_DATA:
            return None
        try:
            return self._session(stored)
        except _MALFORMED:
            return None

    async def forget(self, value: bytes) -> None:
        """Delete the session from the server: its cookie is good for nothing from then on.

        Raises:
            Exception: the client's own, when the server does not answer.
        """
        if _SERVER_ID.fullmatch(value):
            await self._drop(value.decode("ascii"))

    @property
    def _is_store(self) -> bool:
        """Whether `client` is a store of starsessions, whose methods are its own."""
        return False

    async def _fetch(self, session_id: str) -> Any:
        return await self.client.get(self._key(session_id))

    async def _drop(self, session_id: str) -> None:
        await self.client.delete(self._key(session_id))

    def _key(self, session_id: str) -> str:
        raise NotImplementedError

    def _session(self, stored: bytes) -> LegacySession | None:
        raise NotImplementedError


@dataclass(frozen=True)
class StarsessionsRedis(_RedisReader):
    """The sessions of `starsessions.stores.redis.RedisStore`.

    Args:
        client: an asyncio client of redis-py or valkey-py; or a starsessions store that keeps sessions under their IDs
            (not its `CookieStore`). Opening and closing it is the app's.
        prefix: the old store's: text, or a function from a session ID to its key. Not looked at when a store is given,
            which knows its own.
        loads: reads the session's bytes: the old serializer's `deserialize`.
        cookie_name: the cookie that the old app set.
        path: the `Path` of the old cookie.
        domain: the `Domain` of the old cookie; `None`: it had none.

    Raises:
        ConfigurationError: an option is wrong; the message names it.
    """

    _: KW_ONLY
    prefix: str | Callable[[str], str] = "starsessions."
    loads: Callable[[bytes], Any] = field(default=json.loads, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.prefix, str) and not callable(self.prefix):
            raise ConfigurationError(f"prefix: got {type(self.prefix).__name__}; it takes text, or a function")
        super().__post_init__()

    @property
    def _is_store(self) -> bool:
        return callable(getattr(self.client, "remove", None))  # no client has this

    async def _fetch(self, session_id: str) -> Any:
        if self._is_store:
            return await self.client.read(session_id, lifetime=0) or None  # none of its stores looks at `lifetime`
        return await super()._fetch(session_id)

    async def _drop(self, session_id: str) -> None:
        if self._is_store:
            await self.client.remove(session_id)
        else:
            await super()._drop(session_id)

    def _key(self, session_id: str) -> str:
        return self.prefix + session_id if isinstance(self.prefix, str) else self.prefix(session_id)

    def _session(self, stored: bytes) -> LegacySession | None:
        data = _loaded(self.loads, stored)
        about = data.pop("__metadata__", None)
        created_at = about.get("created") if isinstance(about, dict) else None
        return _session(data, created_at=created_at if isinstance(created_at, float) else None)


@dataclass(frozen=True)
class LitestarRedis(_RedisReader):
    """The sessions of Litestar's `ServerSideSessionConfig`, kept in its `RedisStore`.

    Args:
        client: an asyncio client of redis-py or valkey-py; or a Litestar store, of any kind. Opening and closing it is
            the app's.
        namespace: the store's; `None`: it had none. Not looked at when a store is given, which knows its own.
        cookie_name: the old `ServerSideSessionConfig.key`.
        path: the `Path` of the old cookie.
        domain: the `Domain` of the old cookie; `None`: it had none.

    Raises:
        ConfigurationError: an option is wrong; the message names it.
    """

    _: KW_ONLY
    namespace: str | None = "LITESTAR"

    def __post_init__(self) -> None:
        if self.namespace is not None and not isinstance(self.namespace, str):
            raise ConfigurationError(f"namespace: got {type(self.namespace).__name__}; it takes text, or None")
        super().__post_init__()

    def _key(self, session_id: str) -> str:
        is_store = hasattr(self.client, "delete_all")  # no client has this; every Litestar store does
        return session_id if is_store or not self.namespace else f"{self.namespace}:{session_id}"

    def _session(self, stored: bytes) -> LegacySession | None:
        return _session(json.loads(stored))


# --- moving in --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """An old session that a request brought."""

    reader: LegacyReader
    value: bytes = field(repr=False)  # of its cookie: a credential
    session: LegacySession


class MoveIn:
    """The readers of one configuration; made once.

    Args:
        readers: asked in this order; the first that finds a session counts.
        config: says how long one reader may take (`store_timeout`), what fits (`max_bytes`), and which cookie is
            Roomkey's own.
        refused: where values that no reader took are counted, under `"legacy"`.

    Raises:
        ConfigurationError: no browser would let go of an old cookie (a `__Secure-` name without `https_only`).
    """

    def __init__(self, readers: Iterable[LegacyReader], config: SessionConfig, refused: Counter[str]) -> None:
        self._readers = [(reader, reader.cookie_name.encode("ascii")) for reader in readers]
        self._timeout = config.store_timeout
        self._most = config.max_bytes
        self._refused = refused
        self._down = False
        own = (config.session_cookie, config.path, config.domain)
        old = {(reader.cookie_name, reader.path, reader.domain): name for reader, name in self._readers}
        old.pop(own, None)
        # Prepared: which cookie, and the header that takes it back.
        self._take_back = [
            (name, CookieWriter(replace(config, session_cookie=cookie, path=path, domain=domain)).clear())
            for (cookie, path, domain), name in old.items()
        ]

    async def find(self, cookies: Cookies) -> Found | None:
        """Return the old session that a request without a genuine card brought; None: there is none.

        Args:
            cookies: gives the values of the request's cookies of one name.

        Raises:
            StoreUnavailable: a reader's server does not answer, so that nobody knows.
        """
        for reader, name in self._readers:
            for value in cookies(name):
                session = await self._read(reader, value)
                if session is not None:
                    return Found(reader, value, session)
                self._refused["legacy"] += 1
        return None

    async def forget(self, found: Found) -> None:
        """Remove the old session from its server, once the new one was saved or the user has logged out.

        A server that does not answer is logged and raises nothing: the new session is what counts by now.
        """
        try:
            await self._within(found.reader, found.reader.forget(found.value))
        except StoreUnavailable:
            _log.warning("an old session could not be removed: a copy of its cookie stays good until it expires")

    def take_back(self, cookies: Cookies) -> list[tuple[bytes, bytes]]:
        """Return the headers that take back the old cookies that a request brought, but for Roomkey's own name.

        They belong before the header that gives Roomkey's cookie: a browser may take the two for one cookie.
        """
        return [header for name, header in self._take_back if cookies(name)]

    async def _read(self, reader: LegacyReader, value: bytes) -> LegacySession | None:
        if len(value) > _MOST_VALUE:
            return None
        session = await self._within(reader, reader.read(value))
        if session is None or not session.data:
            return None
        size = _size(session.data)
        return session if size is not None and size <= self._most else None

    async def _within(self, reader: LegacyReader, operation: Awaitable[_Answer]) -> _Answer:
        import asyncio  # here, because it is half of the time that `import roomkey` would take

        try:
            async with asyncio.timeout(self._timeout):
                answer = await operation
        except ConfigurationError:
            raise
        except Exception as error:  # the reader's library has error classes of its own
            # Its own words may hold a password or an ID: they stay in the chained error.
            slow = isinstance(error, TimeoutError)
            what = f"did not answer within {self._timeout:g} s (store_timeout)" if slow else type(error).__name__
            unavailable = StoreUnavailable(f"{type(reader).__name__}: {what}")
            if not self._down:
                self._down = True
                _log.error("old sessions unavailable, answering 503 until they are back: %s", unavailable)
            raise unavailable from error
        self._down = False
        return answer


def checked_readers(value: object) -> tuple[LegacyReader, ...]:
    """Return the readers that `value` holds, for the option `legacy`.

    Args:
        value: a list or tuple of readers.

    Raises:
        ConfigurationError: it is no list of readers.
    """
    if not isinstance(value, list | tuple):
        raise ConfigurationError(f"legacy: got {type(value).__name__}; it takes a list of readers")
    for reader in value:
        if isinstance(reader, type):
            raise ConfigurationError(f"legacy: got the class {reader.__name__}; make one: {reader.__name__}(...)")
        missing = [name for name in _READER if not hasattr(reader, name)]
        if missing:
            raise ConfigurationError(
                f"legacy: {type(reader).__name__} has no {', '.join(missing)}; it takes readers, such as "
                "roomkey.legacy.StarletteCookie(...)"
            )
        _check_cookie(reader.cookie_name, reader.path, reader.domain)
    return tuple(value)


_READER = ("cookie_name", "path", "domain", "read", "forget")


def _check_cookie(name: object, path: object, domain: object) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"cookie_name: got {name!r}; it takes 1 to 256 letters, digits or any of !#$%&'*+-.^_`|~"
        )
    if not isinstance(path, str) or not path.startswith("/"):
        raise ConfigurationError(f"path: got {path!r}; it takes a path that begins with '/'")
    if domain is not None and not isinstance(domain, str):
        raise ConfigurationError(f"domain: got {domain!r}; it takes a host name, or None")


def _check_text(option: str, value: object) -> None:
    if not isinstance(value, str):
        raise ConfigurationError(f"{option}: got {type(value).__name__}; it takes text")
