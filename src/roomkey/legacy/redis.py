"""Sessions on a Redis server: starsessions' and Litestar's."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

from roomkey.errors import ConfigurationError
from roomkey.legacy.readers import MALFORMED, LegacySession, check_cookie, make_session
from roomkey.legacy.signed import MOST_DATA, loaded
from roomkey.options import named_options

__all__ = ["LitestarRedis", "StarsessionsRedis"]

_LEAVE = 10  # seconds for which an entry is kept after its session has moved in, as long as its old cookie is served
# What the two libraries make IDs of. A client's own text must not reach into the rest of the database.
_SERVER_ID = re.compile(rb"[0-9a-f]{16,512}")


@named_options()
@dataclass(frozen=True)
class _RedisReader:
    """What the readers of sessions on a Redis (or Valkey) server share."""

    client: Any = field(repr=False)
    _: KW_ONLY
    cookie_name: str = "session"
    path: str = "/"
    domain: str | None = None

    def __post_init__(self) -> None:
        found = [callable(getattr(self.client, name, None)) for name in self._operations]
        if isinstance(self.client, type) or not all(found):
            raise ConfigurationError(
                f"client: got {type(self.client).__name__}; it takes redis.asyncio.Redis.from_url(...), another "
                "asyncio client with the same methods, or the old app's store"
            )
        check_cookie(self.cookie_name, self.path, self.domain)

    async def read(self, value: bytes) -> LegacySession | None:
        """Return the session whose ID is a cookie's value. None: there is none.

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
        if not isinstance(stored, bytes) or len(stored) > MOST_DATA:
            return None
        try:
            return self._session(stored)
        except MALFORMED:
            return None

    async def forget(self, value: bytes) -> None:
        """Have the server delete the session in 10 seconds. Requests that the browser sent together find it until then.

        Raises:
            Exception: the client's own, when the server does not answer.
        """
        if _SERVER_ID.fullmatch(value):
            await self._let_go(value.decode("ascii"))

    @property
    def _operations(self) -> tuple[str, ...]:
        """What `client` must have. A blocking client has the same, but is no asynchronous context manager."""
        return ("get", "expire", "__aenter__")

    async def _fetch(self, session_id: str) -> Any:
        return await self.client.get(self._key(session_id))

    async def _let_go(self, session_id: str) -> None:
        await self.client.expire(self._key(session_id), _LEAVE)

    def _key(self, session_id: str) -> str:
        raise NotImplementedError

    def _session(self, stored: bytes) -> LegacySession | None:
        raise NotImplementedError


@named_options()
@dataclass(frozen=True)
class StarsessionsRedis(_RedisReader):
    """The sessions of `starsessions.stores.redis.RedisStore`.

    Args:
        client: an asyncio client of redis-py or valkey-py, or a starsessions store that keeps sessions under their IDs
            (not its `CookieStore`). The app opens and closes it.
        prefix: of the old store: text, or a function from a session ID to its key. A store that is given as `client`
            knows its own, and this one is not looked at.
        loads: reads the session's bytes: the old serializer's `deserialize`.
        cookie_name: the cookie that the old app set.
        path: the `Path` of the old cookie.
        domain: the `Domain` of the old cookie. `None`: it had none.

    Raises:
        ConfigurationError: an option is wrong. The message names it.
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

    @property
    def _operations(self) -> tuple[str, ...]:
        return ("read", "write") if self._is_store else super()._operations

    async def _fetch(self, session_id: str) -> Any:
        if self._is_store:
            return await self.client.read(session_id, lifetime=0) or None  # none of its stores looks at `lifetime`
        return await super()._fetch(session_id)

    async def _let_go(self, session_id: str) -> None:
        if not self._is_store:
            await super()._let_go(session_id)
        elif stored := await self._fetch(session_id):
            await self.client.write(session_id, stored, lifetime=_LEAVE, ttl=_LEAVE)

    def _key(self, session_id: str) -> str:
        return self.prefix + session_id if isinstance(self.prefix, str) else self.prefix(session_id)

    def _session(self, stored: bytes) -> LegacySession | None:
        data = loaded(self.loads, stored)
        about = data.pop("__metadata__", None)
        created_at = about.get("created") if isinstance(about, dict) else None
        return make_session(data, created_at=created_at if isinstance(created_at, float) else None)


@named_options()
@dataclass(frozen=True)
class LitestarRedis(_RedisReader):
    """The sessions of Litestar's `ServerSideSessionConfig`, kept in its `RedisStore`.

    Args:
        client: an asyncio client of redis-py or valkey-py, or a Litestar store of any kind. The app opens and closes
            it.
        namespace: of the old store. `None`: it had none. A store that is given as `client` knows its own, and this one
            is not looked at.
        cookie_name: the old `ServerSideSessionConfig.key`.
        path: the `Path` of the old cookie.
        domain: the `Domain` of the old cookie. `None`: it had none.

    Raises:
        ConfigurationError: an option is wrong. The message names it.
    """

    _: KW_ONLY
    namespace: str | None = "LITESTAR"

    def __post_init__(self) -> None:
        if self.namespace is not None and not isinstance(self.namespace, str):
            raise ConfigurationError(f"namespace: got {type(self.namespace).__name__}; it takes text, or None")
        super().__post_init__()

    @property
    def _is_store(self) -> bool:
        return hasattr(self.client, "delete_all")  # every Litestar store has this, and no client

    @property
    def _operations(self) -> tuple[str, ...]:
        return ("get", "set", "__aenter__") if self._is_store else super()._operations

    async def _let_go(self, session_id: str) -> None:
        if not self._is_store:
            await super()._let_go(session_id)
        elif (stored := await self.client.get(session_id)) is not None:
            await self.client.set(session_id, stored, expires_in=_LEAVE)

    def _key(self, session_id: str) -> str:
        return session_id if self._is_store or not self.namespace else f"{self.namespace}:{session_id}"

    def _session(self, stored: bytes) -> LegacySession | None:
        return make_session(json.loads(stored))
