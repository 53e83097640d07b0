"""A PostgreSQL database whose character set is not UTF-8: what it cannot keep is refused, and it is not down."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from roomkey import Request, SessionConfig, SessionDataError, SessionManager
from roomkey.stores.postgres import PostgresStore
from roomkey.stores.sqlalchemy import SQLAlchemyStore
from tests.servers.postgres import PostgresServer
from tests.stores.records import make_key, make_record, make_tombstone

KINDS = ["postgres", "sqlalchemy"]


@pytest.fixture(scope="module")
def latin() -> Iterator[PostgresServer]:
    with PostgresServer(encoding="LATIN1") as server:
        yield server


@pytest.fixture(autouse=True)
def _patient(patient: None) -> None:
    """The server may be slow here."""


@contextlib.asynccontextmanager
async def _store(kind: str, server: PostgresServer) -> AsyncIterator[Any]:
    table = f"t{secrets.token_hex(6)}"
    url = server.url.replace("postgresql://", "postgresql+asyncpg://")
    store = PostgresStore(server.url, table=table) if kind == "postgres" else SQLAlchemyStore(url, table=table)
    await store.create_table()
    try:
        yield store
    finally:
        await store.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_users_id(kind: str, latin: PostgresServer) -> None:
    """An ID that it has no characters for is refused by each operation that saves, and belongs to nobody."""
    async with _store(kind, latin) as store:
        key, new = make_key(), make_key()
        await store.create(key, make_record(user="Jos\xe9"))
        chinese = make_record(user="\u674e", version=2)
        for operation in (
            lambda: store.create(new, chinese),
            lambda: store.update(key, chinese, version=1),
            lambda: store.rotate(key, new, chinese, make_tombstone(new), version=1),
            lambda: store.rotate(key, new, make_record(version=2), make_tombstone(new, user="\u674e"), version=1),
        ):
            with pytest.raises(SessionDataError, match=r"user_key.*character set") as caught:
                await operation()
            assert "\u674e" not in f"{caught.value}{caught.value.__cause__}"
        assert await store.of_user("\u674e") == [] and await store.discard_unreadable("\u674e") == 0
        assert [found for found, _ in await store.of_user("Jos\xe9")] == [key]
        assert await store.load(new) is None


@pytest.mark.parametrize("kind", KINDS)
async def test_a_log_in(kind: str, latin: PostgresServer, caplog: pytest.LogCaptureFixture) -> None:
    """The log-in is an error that says what is wrong. Nothing says that the store is down, and others go on."""
    async with _store(kind, latin) as store:
        manager = SessionManager(SessionConfig(secret_key="a key for tests, 32 characters and more", store=store))
        for user, is_kept in (("\u674e", False), ("ann", True)):
            session = await manager.load(Request(path="/"))
            session["user_id"] = user
            if is_kept:
                await manager.commit(session, status=200, headers=[])
                continue
            with pytest.raises(SessionDataError, match="user_key"):
                await manager.commit(session, status=200, headers=[])
        assert "unavailable" not in caplog.text
        assert len(await manager.sessions.of("ann")) == 1 and await manager.sessions.of("\u674e") == []
