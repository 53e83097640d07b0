"""What a user sees after a mistake: each text says what is wrong, where, and what to do.

Each table has one row for a mistake: its name, what provokes it, and the whole text.
"""

import datetime as dt
import logging
import subprocess
import sys

import pytest
from lilya.datastructures import Secret as LilyaSecret
from starlette.datastructures import Secret as StarletteSecret

from roomkey import (
    ConfigurationError,
    Request,
    ResponseStarted,
    SessionConfig,
    SessionManager,
    SessionMiddleware,
    Sessions,
)
from roomkey.csrf import CSRFMiddleware
from roomkey.legacy import FlaskCookie, LitestarRedis, StarletteCookie
from roomkey.options import named_options
from roomkey.ravyn import SessionConfig as RavynConfig
from roomkey.stores.cookie import CookieStore
from roomkey.stores.memory import MemoryStore
from roomkey.stores.migrating import Migrating
from roomkey.stores.postgres import PostgresStore
from roomkey.stores.redis import RedisStore
from roomkey.stores.sqlalchemy import SQLAlchemyStore
from roomkey.stores.sqlite import SQLiteStore
from tests.asgi import ask, http_scope

KEY = "a secret that is long enough for every test here"
ADVICE = "make one with: python -c 'import secrets; print(secrets.token_urlsafe(32))'"


def _config(**options):
    return SessionConfig(**{"secret_key": KEY, "store": "memory://", **options})


# --- at start-up ------------------------------------------------------------------------------------------------------

MISSPELT = "maxage: no such option; did you mean max_age?"
KEYS = (
    "it takes str, bytes, an object that hides its text (Starlette's Secret, pydantic's SecretStr), or a list of these"
)
NO_KEY = f"secret_key: missing; {KEYS}; {ADVICE}"
STORES = (
    "it takes memory://, sqlite:///relative/path.db, sqlite:////absolute/path.db, redis://, valkey://, postgresql://, "
    "sqlalchemy+..., cookie://, or a Store"
)
NO_FILE = "path: got a URL; it takes the path of a file, such as 'sessions.sqlite3' (or give store= the URL)"
BYTES_SECRET = f"secret_key: got a Secret that holds no text; give Secret(text), or the bytes themselves; {ADVICE}"
PATHS = (
    "exempt_paths: got 'webhooks'; it takes paths that begin with '/', such as '/webhooks/' (with everything below "
    "it). It takes no wildcards, and not '/' itself, which would be all paths"
)

AT_START = {
    # A wrong name
    "config": (lambda: SessionConfig(secret_key=KEY, maxage=3), MISSPELT),
    "config of Ravyn": (lambda: RavynConfig(secret_key=KEY, maxage=3), MISSPELT),
    "middleware": (lambda: SessionMiddleware(None, secret_key=KEY, maxage=3), MISSPELT),
    "manager": (lambda: SessionManager(secret_key=KEY, maxage=3), MISSPELT),
    "a name like another option's": (
        lambda: SessionConfig(secret_key=KEY, http_only=True),
        "http_only: not an option of Roomkey; the cookie is always HttpOnly: leave it out",
    ),
    "another library's name": (
        lambda: SessionConfig(secret_key=KEY, httponly=True),
        "httponly: not an option of Roomkey; the cookie is always HttpOnly: leave it out",
    ),
    "memory": (lambda: MemoryStore(time=1), "time: no such option of MemoryStore; the one option is clock"),
    "sqlite": (
        lambda: SQLiteStore("x", synchronus="FULL"),
        "synchronus: no such option of SQLiteStore; did you mean synchronous?",
    ),
    "redis": (lambda: RedisStore("redis://x", prefx="x"), "prefx: no such option of RedisStore; did you mean prefix?"),
    "postgres": (
        lambda: PostgresStore("postgresql://x/y", tabel="x"),
        "tabel: no such option of PostgresStore; did you mean table?",
    ),
    "sqlalchemy": (
        lambda: SQLAlchemyStore(None, tablename="x"),
        "tablename: no such option of SQLAlchemyStore; did you mean table?",
    ),
    "cookie store": (
        lambda: CookieStore(maxsize=1),
        "maxsize: no such option of CookieStore; did you mean max_size?",
    ),
    "csrf": (
        lambda: CSRFMiddleware(None, exempt=["/in"]),
        "exempt: no such option of CSRFMiddleware; did you mean exempt_paths?",
    ),
    "reader": (
        lambda: FlaskCookie("k", keyderivation="hmac"),
        "keyderivation: no such option of FlaskCookie; did you mean key_derivation?",
    ),
    # By position
    "config by position": (
        lambda: SessionConfig(KEY),
        "secret_key: give options by name: SessionConfig(secret_key=...)",
    ),
    "redis by position": (
        lambda: RedisStore("redis://x", "shop:"),
        "prefix: give options by name: RedisStore(server, prefix=...)",
    ),
    # Not there
    "config without a key": (lambda: SessionConfig(), NO_KEY),
    "middleware without a key": (lambda: SessionMiddleware(None, store="memory://"), NO_KEY),
    "redis without a server": (lambda: RedisStore(), "server: missing; write RedisStore(server)"),
    "migrating to nowhere": (lambda: Migrating(MemoryStore()), "old: missing; write Migrating(new, old)"),
    "reader without a key": (lambda: StarletteCookie(), "secret_key: missing; write StarletteCookie(secret_key)"),
    "reader without a client": (lambda: LitestarRedis(), "client: missing; write LitestarRedis(client)"),
    "sessions of nothing": (
        lambda: Sessions(),
        "config: missing; it takes the app's SessionConfig (middleware.config)",
    ),
    # A wrong value
    "bytes in Starlette's Secret": (lambda: _config(secret_key=StarletteSecret(KEY.encode())), BYTES_SECRET),
    "bytes in Ravyn's Secret": (lambda: RavynConfig(secret_key=LilyaSecret(KEY.encode())), BYTES_SECRET),
    "absolute timeout below max_age": (
        lambda: _config(max_age=dt.timedelta(days=60), absolute_timeout=2592000),
        "absolute_timeout: got 2592000; it is never below max_age (5184000): give a higher one or a lower max_age, "
        "leave it out, or give None for no cap",
    ),
    "negative time": (
        lambda: _config(max_age=dt.timedelta(days=-1)),
        "max_age: got datetime.timedelta(days=-1); it takes a number of seconds above 0, or a timedelta",
    ),
    "a key of another type": (lambda: _config(secret_key=7), f"secret_key: got int; {KEYS}; {ADVICE}"),
    "no store": (lambda: _config(store=None), f"store: got None; {STORES}"),
    "a database without its driver": (
        lambda: _config(store="mysql://user:hunter2@host/app"),
        "store: unknown scheme 'mysql'; for MySQL and MariaDB write sqlalchemy+mysql+asyncmy://",
    ),
    "a URL without a driver": (
        lambda: _config(store="sqlalchemy+postgresql://user:hunter2@host/app"),
        "store: the URL names no driver for asyncio (it says postgresql); for PostgreSQL write "
        "sqlalchemy+postgresql+asyncpg://",
    ),
    "a URL for a path": (lambda: SQLiteStore("sqlite:///x.db"), NO_FILE),
    "a server for a path": (lambda: SQLiteStore("postgresql://user:hunter2@host/app"), NO_FILE),
    "no path": (
        lambda: SQLiteStore(":memory:"),
        "path: got ':memory:'; it takes the path of a file, such as 'sessions.sqlite3' (for sessions in memory use "
        "roomkey.stores.memory.MemoryStore)",
    ),
    "how SQLite waits": (
        lambda: SQLiteStore("x", synchronous="OFF"),
        "synchronous: got 'OFF'; it takes 'NORMAL' or 'FULL'",
    ),
    "cookies that are too large": (
        lambda: CookieStore(max_size=99999),
        "max_size: got 99999; it takes 512 to 32768 bytes",
    ),
    "path without a slash": (lambda: CSRFMiddleware(None, exempt_paths=["webhooks"]), PATHS),
}


@pytest.mark.parametrize("mistake", AT_START)
def test_at_start(mistake):
    """A wrong option is a ConfigurationError when the object is made, and this is its text."""
    provoke, text = AT_START[mistake]
    with pytest.raises(ConfigurationError) as caught:
        provoke()
    assert str(caught.value) == text


def test_an_error_from_within_stays_as_it_is():
    """Only the arguments are judged: a TypeError that a constructor meets further in is not taken for their fault."""

    @named_options()
    class Store:
        def __init__(self, url, *, size=1):
            len(size)

    with pytest.raises(TypeError, match="has no len"):
        Store("url")


MISSING = "store: the packages for this store are missing: pip install 'roomkey[{}]'"
WITHOUT_PACKAGES = {
    "seal": (
        "cryptography",
        "seal=True, store='memory://'",
        "seal: got True; encryption needs the package cryptography: pip install 'roomkey[crypto]'",
    ),
    "cookie": (
        "cryptography",
        "store='cookie://'",
        "store: got cookie://; encryption needs the package cryptography: pip install 'roomkey[crypto]'",
    ),
    "MySQL": ("sqlalchemy", "store='sqlalchemy+mysql+asyncmy://host/app'", MISSING.format("mysql")),
    "MariaDB": ("sqlalchemy", "store='sqlalchemy+mariadb+asyncmy://host/app'", MISSING.format("mysql")),
    "another database": ("sqlalchemy", "store='sqlalchemy+mssql+aioodbc://mysql/app'", MISSING.format("sqlalchemy")),
    "PostgreSQL": ("asyncpg", "store='postgresql://host/app'", MISSING.format("postgres")),
    "Redis": ("redis", "store='redis://host'", MISSING.format("redis")),
}


@pytest.mark.parametrize("option", WITHOUT_PACKAGES)
def test_a_missing_package(option):
    """The configuration fails when it is made, and names the option that needs the package."""
    package, given, text = WITHOUT_PACKAGES[option]
    code = (
        f"import sys; sys.modules[{package!r}] = None\nimport roomkey\n"
        f"try: roomkey.SessionConfig(secret_key='k' * 32, {given})\n"
        "except roomkey.ConfigurationError as error: print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == f"{text}\n"


# --- in a request -----------------------------------------------------------------------------------------------------


async def _outside():
    """Ask for tokens where the session's middleware is not around."""
    await ask(CSRFMiddleware(None, tokens=True), http_scope("/pay", method="POST"))


async def _started(act, **options):
    """Change the session of a new visitor when the response has started."""
    manager = SessionManager(_config(**options))
    session = await manager.load(Request())
    await manager.commit(session)
    act(session)
    await manager.commit(session)


IN_A_REQUEST = {
    "the order of the middlewares": (
        _outside,
        ConfigurationError,
        "CSRFMiddleware(tokens=True) finds no session; SessionMiddleware has to be outside of it: with add_middleware, "
        "add it after CSRFMiddleware",
        [],
    ),
    "a new session after the start": (
        lambda: _started(lambda session: session.update(cart=[{"name": "tea"}])),
        ResponseStarted,
        "a new session needs a cookie, but the response has started; nothing was saved: await session.save() sooner",
        ["This request changed session['cart']."],
    ),
    "a new session after the start, with card_header": (
        lambda: _started(lambda session: session.update(cart=[]), card_header="Authorization"),
        ResponseStarted,
        "a new session needs a header, but the response has started; nothing was saved: await session.save() sooner",
        ["This request changed session['cart']."],
    ),
    "many keys": (
        lambda: _started(lambda session: session.update(dict.fromkeys("abcdef", 1))),
        ResponseStarted,
        "a new session needs a cookie, but the response has started; nothing was saved: await session.save() sooner",
        [f"This request changed {', '.join(f'session[{letter!r}]' for letter in 'abcde')} and others."],
    ),
}


@pytest.mark.parametrize("mistake", IN_A_REQUEST)
async def test_in_a_request(mistake):
    """The error has this text, and its traceback these notes."""
    provoke, kind, text, notes = IN_A_REQUEST[mistake]
    with pytest.raises(kind) as caught:
        await provoke()
    assert str(caught.value) == text
    assert getattr(caught.value, "__notes__", []) == notes


# --- in the log -------------------------------------------------------------------------------------------------------


async def _remember_long():
    manager = SessionManager(_config())
    for _ in range(2):
        session = await manager.load(Request())
        session["user_id"] = 1
        session.remember(dt.timedelta(days=90))
        await manager.commit(session)


async def _other_origin():
    async def app(scope, receive, send):
        raise AssertionError("not asked")

    headers = [(b"origin", b"https://shop.example"), (b"host", b"10.0.0.5:8000")]
    await ask(CSRFMiddleware(app), {**http_scope("/pay", method="POST"), "headers": headers})


async def _no_token():
    async def app(scope, receive, send):
        raise AssertionError("not asked")

    manager = SessionManager(_config())
    await ask(SessionMiddleware(CSRFMiddleware(app, tokens=True), manager), http_scope("/pay", method="POST"))


LOGGED = {
    "remembered past the absolute timeout": (
        _remember_long,
        [
            "session.remember(7776000): the session ends sooner, 2592000 seconds after the log-in, because of "
            "absolute_timeout; remember it for less, or give SessionConfig a higher absolute_timeout (said once)"
        ],
    ),
    "a proxy that does not pass the host on": (
        _other_origin,
        [
            "answered 403 to a cross-site request to '/pay': the Origin is 'https://shop.example' and the Host "
            "'10.0.0.5:8000'; if both are your site, have the proxy pass on the Host header, or add the Origin to "
            "trusted_origins"
        ],
    ),
    "a page that sends no token": (
        _no_token,
        [
            "answered 403 to a request to '/pay': no valid token in the header X-CSRF-Token; have the page send "
            "csrf_token(session) there"
        ],
    ),
}


@pytest.mark.parametrize("mistake", LOGGED)
async def test_in_the_log(mistake, caplog):
    """What goes on all the same is logged, and these are the lines."""
    provoke, lines = LOGGED[mistake]
    with caplog.at_level(logging.WARNING, "roomkey"):
        await provoke()
    assert [record.getMessage() for record in caplog.records] == lines
