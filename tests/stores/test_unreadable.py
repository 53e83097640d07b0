"""One record whose text is damaged: it is nobody's session, and no outage for anybody.

MariaDB is not among the databases: it takes no text into a column that is no text, and InnoDB's checksums find a
flipped bit in its files.
"""

from __future__ import annotations

import contextlib
import secrets
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import pytest
import redis

from roomkey import Request, SessionConfig, SessionManager
from roomkey.stores.base import Store, Unreadable, UserIndex
from roomkey.stores.memory import MemoryStore
from roomkey.stores.migrating import Migrating
from roomkey.stores.postgres import PostgresStore
from roomkey.stores.redis import RedisStore
from roomkey.stores.redis.records import START
from roomkey.stores.sqlalchemy import SQLAlchemyStore
from roomkey.stores.sqlite import SQLiteStore
from tests.servers.postgres import PostgresServer
from tests.servers.redis import RedisServer
from tests.stores.records import make_key, make_record

COLUMNS = ["user", "successor"]
SECRET = "a key for tests, 32 characters and more"


class Place(NamedTuple):
    """A store, and what goes on behind its back."""

    store: Any
    damage: Callable[[str, str], Awaitable[None]]  # the key, and the name of a text: it is no UTF-8 from now on
    count: Callable[[], Awaitable[int]]  # how many records there are


@pytest.fixture(autouse=True)
def _patient(patient: None) -> None:
    """The servers may be slow here."""


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


def _in_file(store: Any, path: Path, table: str, user: str) -> Place:
    async def damage(key: str, column: str) -> None:
        name = user if column == "user" else column
        with contextlib.closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(f"UPDATE {table} SET {name} = CAST(x'c35f' AS TEXT) WHERE key = ?", (key,))

    async def count() -> int:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])

    return Place(store, damage, count)


def _in_postgres(store: Any, server: PostgresServer, table: str) -> Place:
    async def damage(key: str, column: str) -> None:
        connection = await asyncpg.connect(server.url)
        with contextlib.suppress(asyncpg.DuplicateObjectError):
            await connection.execute("CREATE CAST (bytea AS text) WITHOUT FUNCTION")  # as no SQL would have it
        name = "user_id" if column == "user" else column
        await connection.execute(f"UPDATE {table} SET {name} = ('\\xc35f'::bytea)::text WHERE key = $1", key)
        await connection.close()

    async def count() -> int:
        connection = await asyncpg.connect(server.url)
        try:
            return int(await connection.fetchval(f"SELECT count(*) FROM {table} WHERE key <> ''"))
        finally:
            await connection.close()

    return Place(store, damage, count)


def _in_redis(store: Any, server: RedisServer, prefix: str) -> Place:
    admin = redis.Redis(port=server.port)

    async def damage(key: str, column: str) -> None:
        # The first byte of the first text, the user's name: none of the others has a place of its own.
        admin.setrange(f"{prefix}s:{key}", START, b"\xc3")

    async def count() -> int:
        return len(admin.keys(f"{prefix}s:*".replace("[", "\\[")))

    return Place(store, damage, count)


@contextlib.asynccontextmanager
async def _place(kind: str, request: pytest.FixtureRequest, path: Path) -> AsyncIterator[Place]:
    table, place = f"t{secrets.token_hex(6)}", None
    if kind == "sqlite":
        place = _in_file(SQLiteStore(path), path, "session", "user")
    elif kind == "migrating":
        place = _in_file(Migrating(MemoryStore(), SQLiteStore(path)), path, "session", "user")
    elif kind == "sqlalchemy on sqlite":
        place = _in_file(SQLAlchemyStore(f"sqlite+aiosqlite:///{path}", table=table), path, table, "user_id")
    elif kind == "redis":
        server, prefix = request.getfixturevalue("redis_server"), f"{{{table}}}:"
        place = _in_redis(RedisStore(server.url, prefix=prefix), server, prefix)
    else:
        server = request.getfixturevalue("postgres")
        url = server.url.replace("postgresql://", "postgresql+asyncpg://")
        made = PostgresStore(server.url, table=table) if kind == "postgres" else SQLAlchemyStore(url, table=table)
        place = _in_postgres(made, server, table)
    if hasattr(place.store, "create_table"):
        await place.store.create_table()
    try:
        yield place
    finally:
        await place.store.close()


KINDS = ["sqlite", "sqlalchemy on sqlite", "postgres", "sqlalchemy on postgres", "redis"]


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("kind", KINDS)
async def test_text_that_is_no_text(kind: str, column: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """It is unreadable and not absent. It is left out of the list, and the others are as they were."""
    async with _place(kind, request, tmp_path / "s.db") as place:
        store: Store = place.store
        assert isinstance(store, UserIndex)
        sound, damaged = make_key(), make_key()
        for key in (sound, damaged):
            await store.create(key, make_record(user="ann", about=b"geheim"))
        await place.damage(damaged, column)
        for _ in range(2):
            with pytest.raises(Unreadable) as caught:
                await store.load(damaged)
            assert not any(word in f"{caught.value!r} {caught.value.__cause__!r}" for word in (damaged, "ann", "geh"))
        found = await store.load(sound)
        assert found is not None and found.about == b"geheim"
        assert [key for key, _ in await store.of_user("ann")] == [sound]
        await store.delete(damaged)
        assert await store.load(damaged) is None


@pytest.mark.parametrize("kind", ["sqlite", "sqlalchemy on sqlite", "redis", "migrating"])
async def test_a_damaged_session(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Who brings its card is anonymous. Lists leave it out, and ending all of the user's sessions takes it away."""
    async with _place(kind, request, tmp_path / "s.db") as place:
        old = place.store if kind != "migrating" else place.store._old
        writer = SessionManager(SessionConfig(secret_key=SECRET, store=old, record_client=True))
        cards = [await _log_in(writer) for _ in range(3)]
        manager = SessionManager(SessionConfig(secret_key=SECRET, store=place.store, record_client=True))
        damaged = (await manager.load(f"session={cards[0]}")).handle
        if kind == "migrating":
            cards = [await _log_in(writer) for _ in range(3)]
            damaged = (await writer.load(f"session={cards[0]}")).handle
        await place.damage(damaged, "version")
        assert (await manager.load(f"session={cards[0]}")).get("user_id") is None
        assert manager.refused["damaged"] == 1
        assert (await manager.load(f"session={cards[1]}"))["user_id"] == 7
        listed = await manager.sessions.of(7)
        assert damaged not in {info.handle for info in listed}
        kept = await manager.load(f"session={cards[1]}")
        assert await manager.sessions.revoke_all(7, keep=kept) == len(listed) - 1
        assert (await manager.load(f"session={cards[1]}"))["user_id"] == 7
        assert await place.store.load(damaged) is None
        assert await manager.sessions.revoke_all(7) == 1
        assert await place.count() == 0


@pytest.mark.parametrize("kind", ["sqlite", "sqlalchemy on sqlite"])
async def test_a_damaged_user(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """A session whose user cannot be read is anonymous, and keeps nobody from their list."""
    async with _place(kind, request, tmp_path / "s.db") as place:
        sound, damaged = make_key(), make_key()
        for key in (sound, damaged):
            await place.store.create(key, make_record(user="ann"))
        await place.damage(damaged, "user")
        with pytest.raises(Unreadable):
            await place.store.load(damaged)
        assert [key for key, _ in await place.store.of_user("ann")] == [sound]


TYPES = {
    "a text as bytes": ["user_hash"],
    "bytes as a text": ["data", "about"],
    "a number as a text": ["version", "created_at", "expires_at", "serve_until"],
    "a number as broken text": ["data", "version", "created_at", "expires_at", "serve_until"],
    "a number as bytes": ["version", "created_at", "expires_at", "serve_until"],
    "a whole number as another": ["version"],
}
VALUES = {
    "a text as bytes": "CAST({} AS BLOB)",
    "bytes as a text": "'text'",
    "a number as a text": "'no number'",
    "a number as broken text": "CAST(x'c35f' AS TEXT)",
    "a number as bytes": "x'3132'",
    "a whole number as another": "1e300",
}


@pytest.mark.parametrize(("how", "column"), [(how, column) for how, columns in TYPES.items() for column in columns])
@pytest.mark.parametrize("kind", ["sqlite", "sqlalchemy on sqlite"])
async def test_a_value_of_another_type(
    kind: str, how: str, column: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """SQLite keeps any type in any column. Such a session is nobody's, and in the way of no list and no log-in."""
    path = tmp_path / "s.db"
    async with _place(kind, request, path) as place:
        if column == "user_hash" and kind == "sqlite":
            return  # it has no such column
        config = SessionConfig(secret_key=SECRET, store=place.store, record_client=True, max_sessions_per_user=3)
        manager = SessionManager(config)
        cards = [await _log_in(manager) for _ in range(2)]
        damaged = (await manager.load(f"session={cards[0]}")).handle
        table = "session" if kind == "sqlite" else place.store.table.name
        with contextlib.closing(sqlite3.connect(path)) as connection, connection:
            value = VALUES[how].format(column)
            connection.execute(f"UPDATE {table} SET {column} = {value} WHERE key = ?", (damaged,))
        # What nobody asks of a session that is loaded does it no harm there.
        is_sound = kind == "sqlite" and column in ("about", "serve_until") and "broken" not in how
        assert (await manager.load(f"session={cards[0]}")).get("user_id") == (7 if is_sound else None)
        listed = await manager.sessions.of(7)
        assert (damaged in {info.handle for info in listed}) is is_sound
        assert all(info.ip in (None, "192.0.2.7") and info.user_agent in (None, "an app") for info in listed)
        cards += [await _log_in(manager)]
        assert await manager.sessions.revoke_all(7) == (3 if is_sound else 2)
        assert [(await manager.load(f"session={card}")).get("user_id") for card in cards] == [None] * 3
        assert await place.count() == (1 if column == "user_hash" else 0)


async def _log_in(manager: SessionManager) -> str:
    headers = [("User-Agent", "an app"), ("Cookie", "theme=dark")]
    session = await manager.load(Request(path="/", headers=headers, client=("192.0.2.7", 1)))
    session["user_id"] = 7
    sent = await manager.commit(session, status=200, headers=[])
    cookie = next(value for name, value in sent if name == "set-cookie")
    return cookie.partition("=")[2].partition(";")[0]
