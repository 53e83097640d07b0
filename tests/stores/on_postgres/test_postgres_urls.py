"""URLs, passwords and TLS of the store in PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import traceback

import asyncpg
import pytest

from roomkey.errors import ConfigurationError, StoreUnavailable
from roomkey.stores.guard import GuardedStore
from roomkey.stores.postgres import PostgresStore
from tests.loop_clock import patience
from tests.servers.postgres import PostgresServer
from tests.stores.on_postgres.parts import admin_of, in_a_loop_ended_by_hand, new_table, open_store
from tests.stores.records import make_key, make_record

pytestmark = pytest.mark.usefixtures("server")


@pytest.mark.parametrize(
    "url",
    [
        "mysql://localhost/app",
        "postgresql+asyncpg://localhost/app",
        "postgresql:",
        "postgresql://user:Xsecret9/1@host/app",
        "postgresql://user:5432/Xsecret9@host/app",
        "postgresql://user:1?Xsecret9@host/app",
        "postgresql://user:1#Xsecret9@host/app",
        "postgresql://user:Xsec@ret9@host/app",
        "postgresql://user:Xsecret9@host:port/app",
        "postgresql://user:Xsecret9@host:99999/app",
        "postgresql://user:Xsecret9@[::1/app",
        "postgresql://user:Xsecret9@host/app?sslmode=maybe",
        "postgresql://user:Xsecret9@host/app?sslmode=verify-full&sslrootcert=/no/such/file",
        "postgresql://user:Xsecret9@host/app?sslcert=/no/such/file&sslkey=/no/such/file",
        "postgresql://user:Xsecret9@host/app?max_connections=0",
        "postgresql://user:Xsecret9@host/app?max_connections=many",
        "postgresql://user:Xsecret9@host/app?statement_cache_size=-1",
        "postgresql://user:Xsecret9@host/app?table=drop%20table",
        "postgresql://user:Xsecret9@host/app?strict",
    ],
)
def test_wrong_url(url: str) -> None:
    """A URL that cannot be meant is refused when the store is made, and no part of its password is shown."""
    with pytest.raises(ConfigurationError) as caught:
        PostgresStore(url)
    shown = "".join(traceback.format_exception_only(caught.value))
    assert "Xsec" not in shown and "ret9" not in shown
    assert caught.value.__cause__ is None and (caught.value.__context__ is None or caught.value.__suppress_context__)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql:///app", "/app"),
        ("postgres://localhost", "localhost"),
        ("postgresql:///app?host=/run/postgresql&user=u&password=Xsecret9", "/run/postgresql/app"),
        ("postgresql://u:Xsecret9@one:1,two:2/app?target_session_attrs=primary", "one:1,two:2/app"),
        ("postgresql://u:Xsecret9%40%2F@[2001:db8::1]:5432/a%20b", "[2001:db8::1]:5432/a b"),
    ],
)
def test_shown_url(url: str, shown: str) -> None:
    """A store shows its hosts and database, and nothing that could be a password."""
    assert repr(PostgresStore(url)) == f"<PostgresStore {shown!r}, table 'roomkey_session'>"


@pytest.mark.parametrize("table", ["", "a.b.c", 'a"b', "a b", "a;b", "1a", "a.", "x" * 51, "é"])
def test_wrong_table(table: str) -> None:
    """Only plain names are taken for a table."""
    for attempt in (lambda: PostgresStore("postgresql://host/app", table=table), lambda: PostgresStore.ddl(table)):
        with pytest.raises(ConfigurationError, match="table: "):
            attempt()


async def test_wrong_options(server: PostgresServer) -> None:
    """Options of the wrong kind, and options that are the pool's, are refused by name."""
    for value in (0, -1, True, "3", 1.5):
        with pytest.raises(ConfigurationError, match="max_connections"):
            PostgresStore("postgresql://host/app", max_connections=value)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="PostgresStore: got int"):
        PostgresStore(5)  # type: ignore[arg-type]

    pool = asyncpg.create_pool(server.url, min_size=0)
    for name in ("max_connections", "statement_cache_size"):
        with pytest.raises(ConfigurationError, match=name):
            PostgresStore(pool, **{name: 1})


async def test_options_in_the_url(server: PostgresServer) -> None:
    """`table`, `max_connections` and `statement_cache_size` may stand in the URL; the rest reaches the server."""
    name = new_table()
    url = server.url_for(
        table=name, max_connections="2", statement_cache_size="0", synchronous_commit="off", application_name="shop"
    )
    store = PostgresStore(url)
    assert repr(store) == f"<PostgresStore '127.0.0.1:{server.port}/postgres', table '{name}'>"
    await store.create_table()
    await asyncio.gather(*(store.create(make_key(), make_record()) for _ in range(20)))
    # Both are had at once, for the statements above may all have been done before the second one stood.
    connections = store._links[asyncio.get_running_loop()].connections
    both = [await connections.acquire() for _ in range(2)]
    async with admin_of(server) as admin:
        shops = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'shop'"
        assert await admin.fetchval(shops) == 2
    with patience(1), pytest.raises(TimeoutError):
        await asyncio.wait_for(connections.acquire(), 0.1)
    for connection in both:
        assert await connection.fetchval("SHOW synchronous_commit") == "off"
        await connections.release(connection)
    await store.close()


@pytest.mark.parametrize("form", ["?host=", "%2F"])
async def test_unix_socket(server: PostgresServer, form: str) -> None:
    """A Unix socket is reached by its directory, in either of libpq's two spellings."""
    directory = str(server.directory).replace("/", "%2F")
    login = f"{server.user}:{server.password}@"
    url = {
        "?host=": f"postgresql://{login}/postgres?host={directory}&port={server.port}",
        "%2F": f"postgresql://{login}{directory}:{server.port}/postgres",
    }[form]
    async with open_store(server, url) as store:
        assert await store.load(make_key()) is None
        assert server.password not in repr(store)


async def test_wrong_password_and_database(server: PostgresServer, caplog: pytest.LogCaptureFixture) -> None:
    """A wrong password, user or database stops the app from starting; no password is shown or logged anywhere."""
    caplog.set_level(logging.DEBUG)

    wrong = {
        "password authentication failed": server.url_for(password="wrongsecret"),
        "nobody_here": server.url_for(user="nobody_here", password="wrongsecret"),
        'database "nowhere" does not exist': server.url_for(database="nowhere"),
        "unrecognized configuration parameter": server.url_for(channel_bindings="require"),
        "does not offer TLS": server.url_for(sslmode="require"),
    }
    for words, url in wrong.items():
        store = PostgresStore(url)
        errors: list[Exception] = []
        for operation in (store.open(), store.create_table(), store.load(make_key())):
            try:
                await operation
            except (ConfigurationError, StoreUnavailable) as error:
                errors.append(error)
        assert [type(error) for error in errors] == [ConfigurationError, ConfigurationError, StoreUnavailable]
        shown = "".join("".join(traceback.format_exception(error)) for error in errors)
        assert all(words in str(error) for error in errors), (words, errors)
        assert "wrongsecret" not in shown + repr(store) and server.password not in shown + repr(store)
        guarded = GuardedStore(store, 2.0)
        with pytest.raises(StoreUnavailable):
            await guarded.load(make_key())
        await store.close()
    assert "wrongsecret" not in caplog.text and server.password not in caplog.text and "unavailable" in caplog.text


def test_tls() -> None:
    """With TLS the certificate is checked where the URL asks for it, and one that is not trusted stops the app."""

    async def main(server: PostgresServer) -> None:
        trusted = server.url_for(sslmode="verify-full", sslrootcert=str(server.certificate))
        async with open_store(server, trusted) as store:
            key = make_key()
            await store.create(key, make_record())
            connections = store._links[asyncio.get_running_loop()].connections
            connection = await connections.acquire()
            assert await connection.fetchval("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()") is True
            await connections.release(connection)
            task = asyncio.create_task(store.load(key))
            await asyncio.sleep(0)
            task.cancel()
            assert await store.load(key) is not None
        with PostgresServer(tls=True) as stranger:
            other = server.url_for(sslmode="verify-full", sslrootcert=str(stranger.certificate))
            store = PostgresStore(other)
            with pytest.raises(ConfigurationError, match="not trusted"):
                await store.open()
            await store.close()

    async def load(store: PostgresStore) -> None:
        with contextlib.suppress(StoreUnavailable):  # no table
            await store.load(make_key())

    with PostgresServer(tls=True) as server:
        asyncio.run(main(server))
        in_a_loop_ended_by_hand(load(PostgresStore(server.url)))

        async def load_and_close() -> None:
            store = PostgresStore(server.url)
            await load(store)
            await store.close()

        loop = asyncio.new_event_loop()  # closed at once: `close` has left nothing to be done
        loop.run_until_complete(load_and_close())
        loop.close()
        gc.collect()
