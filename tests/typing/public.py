"""What a type checker sees of the public names; mypy reads this file, nothing runs it."""

import datetime as dt
from typing import Any, assert_type

from roomkey import (
    ConfigurationError,
    ResponseStarted,
    RoomkeyError,
    Session,
    SessionConfig,
    SessionDataError,
    SessionEnded,
    SessionMiddleware,
    StoreUnavailable,
    WeakSecretWarning,
)
from roomkey.stores.base import Conflict, Lifespan, Purge, Record, Store, UserIndex
from roomkey.stores.memory import MemoryStore
from roomkey.stores.sqlite import SQLiteStore
from roomkey.testing import Clock, StoreContract


def config() -> None:
    made = SessionConfig(secret_key=["new", b"old"], max_age=None, same_site="strict", store="memory://", domain=None)
    assert_type(made.session_cookie, str)
    assert_type(made.absolute_timeout, float | None)
    assert_type(made.idle_timeout, float)
    assert_type(SessionConfig.from_options({"secret_key": "k"}), SessionConfig)
    SessionConfig("k")  # type: ignore[call-arg]  # keywords only
    SessionConfig(secret_key="k", same_site="Lax")  # type: ignore[arg-type]
    SessionConfig(secret_key="k", max_ages=5)  # type: ignore[call-arg]
    made.max_age = 5  # type: ignore[misc]  # frozen


async def session(session: Session) -> None:
    plain: dict[str, Any] = session
    session["user_id"] = 5
    session[5] = "five"  # type: ignore[index]
    assert_type(session.copy(), dict[str, Any])
    assert_type(session.rotate(grace=30), None)
    assert_type(session.invalidate(), None)
    session.change("views", lambda views: views + 1, default=0)
    assert_type(await session.save(), None)
    assert_type(await session.refresh(), None)
    assert_type(session.handle, str)
    assert_type(session.is_new, bool)
    assert_type(session.accessed, bool)
    assert_type(session.modified, bool)
    assert_type(session.created_at, dt.datetime)
    assert_type(session.expires_at, dt.datetime)
    session.handle = "x"  # type: ignore[misc]
    del plain


async def middleware(app: SessionMiddleware) -> None:
    SessionMiddleware(app, SessionConfig(secret_key="k"))
    SessionMiddleware(app, secret_key="k", https_only=True)
    assert_type(app.config, SessionConfig)


def errors(error: StoreUnavailable) -> None:
    roots: list[type[RoomkeyError]] = [
        ConfigurationError,
        ResponseStarted,
        SessionDataError,
        SessionEnded,
        StoreUnavailable,
    ]
    warning: type[Warning] = WeakSecretWarning
    assert_type(error.retry_after, int)
    del roots, warning


class OwnStore:
    """The least that a store has to have."""

    async def load(self, key: str) -> Record | None:
        return None

    async def create(self, key: str, record: Record) -> None:
        raise Conflict

    async def update(self, key: str, record: Record, *, version: int) -> None:
        raise Conflict

    async def rotate(self, key: str, new_key: str, record: Record, tombstone: Record, *, version: int) -> None:
        raise Conflict

    async def touch(self, key: str, expires_at: float) -> bool:
        return False

    async def delete(self, key: str) -> None: ...


class NoStore:
    async def load(self, key: bytes) -> Record | None:
        return None


def stores() -> None:
    own: Store = OwnStore()
    SessionConfig(secret_key="k", store=OwnStore())
    SessionConfig(secret_key="k", store=NoStore())  # type: ignore[arg-type]
    built_in: list[Store] = [MemoryStore(), SQLiteStore("sessions.sqlite3")]
    purging: list[Purge] = [MemoryStore(), SQLiteStore("sessions.sqlite3")]
    listing: list[UserIndex] = [MemoryStore(), SQLiteStore("sessions.sqlite3")]
    opening: Lifespan = SQLiteStore("sessions.sqlite3")
    del own, built_in, purging, listing, opening


def testing(clock: Clock) -> None:
    assert_type(clock(), float)
    SessionConfig(secret_key="k", clock=clock)

    class TestOwnStore(StoreContract):
        def make_store(self, clock: Clock) -> Store:
            return OwnStore()
