"""A server that cannot be reached: the outage says why and where, and nothing that is secret."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
from sqlalchemy.ext.asyncio import create_async_engine

from roomkey.errors import ConfigurationError, RoomkeyError, StoreUnavailable
from roomkey.stores.guard import GuardedStore
from roomkey.stores.postgres import PostgresStore
from roomkey.stores.redis import RedisStore
from roomkey.stores.sqlalchemy import SQLAlchemyStore
from tests.loop_clock import patience
from tests.servers.parts import free_port
from tests.servers.postgres import PostgresServer
from tests.servers.redis import RedisServer
from tests.stores.records import make_key

KINDS = ["redis", "rediss", "redis+cluster", "postgresql", "sqlalchemy+postgresql+asyncpg", "sqlalchemy+mysql+asyncmy"]
REFUSED = r"cannot be reached at {}: nothing listens there \(connection refused\)"
UNKNOWN = "cannot be reached at {}: the host name is not known"
NO_REDIS = "what answers at {} is no Redis server"
CLOSED = r"cannot be reached at {}: the connection was closed"


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


@pytest.fixture(autouse=True)
def _patient(patient: None) -> None:
    """The servers may be slow here."""


def _store(kind: str, address: str) -> Any:
    database = "" if kind.endswith("cluster") else "/0"
    url = f"{kind}://user:geheim@{address}{database}"
    if kind.startswith("sqlalchemy"):
        return SQLAlchemyStore(url)
    return PostgresStore(url) if kind == "postgresql" else RedisStore(url)


async def _says(kind: str, address: str) -> str:
    """Return what an operation says, after `open` has said the same."""
    store = _store(kind, address)
    said: list[str] = []
    for operation in (store.open, lambda: store.load(make_key())):
        with pytest.raises(RoomkeyError) as caught:
            await operation()
        assert "geheim" not in str(caught.value)
        said.append(str(caught.value))
    await store.close()
    assert said[0] == said[1]
    return said[0]


async def _answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(100)
    writer.write(b"HTTP/1.1 400 Bad Request\r\nServer: web\r\n\r\n")
    with contextlib.suppress(ConnectionError):
        await writer.drain()
        writer.close()
        await writer.wait_closed()


@contextlib.asynccontextmanager
async def _web_server() -> AsyncIterator[str]:
    server = await asyncio.start_server(_answers, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


def _matches(text: str, expected: str, address: str) -> bool:
    return re.search(expected.format(re.escape(address)), text) is not None


@pytest.mark.parametrize("kind", KINDS)
async def test_nobody_listens(kind: str) -> None:
    """It says that the connection was refused, and where."""
    address = f"127.0.0.1:{free_port()}"
    said = await _says(kind, address)
    assert _matches(said, REFUSED, address), said


@pytest.mark.parametrize("kind", KINDS)
async def test_a_host_that_is_unknown(kind: str) -> None:
    """It says that the name is not known."""
    said = await _says(kind, "nowhere.invalid:1234")
    assert _matches(said, UNKNOWN, "nowhere.invalid:1234"), said


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("redis", NO_REDIS),
        ("redis+cluster", NO_REDIS),
        ("rediss", "{}: what answers there does not speak TLS"),
        ("sqlalchemy+postgresql+asyncpg", "{}: what answers there has no TLS, or is no PostgreSQL server"),
    ],
)
async def test_a_web_server(kind: str, expected: str) -> None:
    """It says that another server answers."""
    async with _web_server() as address:
        said = await _says(kind, address)
        assert _matches(said, expected, address), said


async def test_a_web_server_is_no_postgresql_server() -> None:
    """The driver asks for TLS first: it cannot tell a server without TLS from one that is another."""
    async with _web_server() as address:
        store = _store("postgresql", address)
        with pytest.raises(ConfigurationError, match=f"TLS at {address}, or another server answers there"):
            await store.open()
        await store.close()


@pytest.mark.parametrize("kind", ["redis", "rediss", "redis+cluster"])
async def test_postgresqls_port(kind: str, postgres: PostgresServer) -> None:
    """PostgreSQL closes what it does not understand. It says so, and asks whether that is a Redis server."""
    address = f"127.0.0.1:{postgres.port}"
    said = await _says(kind, address)
    assert _matches(said, CLOSED + ": is it a Redis server, and does it want TLS", address), said


async def test_a_server_that_is_no_cluster(redis_server: RedisServer) -> None:
    """That is permanent, and it says which URL to write."""
    store = RedisStore(f"redis+cluster://127.0.0.1:{redis_server.port}")
    with pytest.raises(ConfigurationError, match="no cluster: write redis://"):
        await store.open()
    await store.close()


async def test_a_socket_that_is_not_there(tmp_path: Path) -> None:
    """It names the socket."""
    store = RedisStore(f"unix://{tmp_path}/s")
    with pytest.raises(StoreUnavailable, match=f"at {tmp_path}/s: there is no such socket"):
        await store.load(make_key())
    await store.close()


@pytest.mark.parametrize(
    ("kind", "hint"),
    [
        ("rediss", r"does the server at {} speak TLS \(rediss://\) or not \(redis://\)\?"),
        ("postgresql", "is there a PostgreSQL server at {}?"),
        ("sqlalchemy+postgresql+asyncpg", "is there a PostgreSQL server at {}?"),
        ("sqlalchemy+mysql+asyncmy", "is there a MySQL server at {}?"),
    ],
)
async def test_a_server_that_waits_for_more(kind: str, hint: str, redis_server: RedisServer) -> None:
    """Redis answers nothing to what it takes for the beginning of a command. The time limit has a word about that."""
    address = f"127.0.0.1:{redis_server.port}"
    store = _store(kind, address)
    guard = GuardedStore(store, 0.3)
    with patience(1), pytest.raises(StoreUnavailable) as caught:
        await guard.load(make_key())
    assert _matches(
        str(caught.value), r"did not answer within 0\.3 s \(store_timeout\); no connection .*" + hint, address
    )
    assert "geheim" not in str(caught.value)
    await store.close()


async def test_a_server_that_was_reached_before(redis_server: RedisServer) -> None:
    """A server that has answered, and is frozen now, gets no such hint."""
    store = RedisStore(redis_server.url)
    await store.load(make_key())
    redis_server.pause()
    try:
        with patience(1), pytest.raises(StoreUnavailable, match=r"store_timeout\)$"):
            await GuardedStore(store, 0.3).load(make_key())
    finally:
        redis_server.resume()
    await store.close()


async def test_clients_of_the_apps_own() -> None:
    """Their address is known too."""
    port = free_port()
    client = redis.asyncio.Redis(port=port, password="geheim")
    store: Any = RedisStore(client)
    with pytest.raises(StoreUnavailable, match=f"localhost:{port}: nothing listens there"):
        await store.load(make_key())
    await store.close()
    await client.aclose()
    engine = create_async_engine(f"mysql+asyncmy://user:geheim@127.0.0.1:{port}/app")
    store = SQLAlchemyStore(engine)
    with pytest.raises(StoreUnavailable, match=f"127.0.0.1:{port}: nothing listens there"):
        await store.load(make_key())
    await store.close()
    await engine.dispose()


async def test_sentinels_that_nobody_reaches() -> None:
    """They are not said to know no primary of that name."""
    address = f"127.0.0.1:{free_port()}"
    store = RedisStore(f"redis+sentinel://:geheim@{address}/main")
    with pytest.raises(RoomkeyError) as caught:
        await store.load(make_key())
    await store.close()
    assert str(caught.value).startswith("sentinels cannot be reached"), caught.value
