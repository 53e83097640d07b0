"""SessionConfig: every option checked when it is made, every refusal naming the option."""

import copy
import dataclasses
import datetime as dt
import re

import pytest
import redis
import redis.asyncio
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import create_async_engine

from roomkey import ConfigurationError, RoomkeyError, SessionConfig
from roomkey.stores.memory import MemoryStore
from roomkey.stores.redis import RedisStore
from roomkey.stores.sqlite import SQLiteStore
from roomkey.testing import Clock
from tests.driver import Driver

SECRET = "a secret that is long enough for every test here"


def _config(**options):
    return SessionConfig(**{"secret_key": SECRET, "store": "memory://", **options})


def _shown(value):
    """Return a parameter's name that is the same in every process: no addresses."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))[:40]


_NO_NUMBERS = [0, -1, "60", True, float("nan"), float("inf"), [], object()]
_WRONG = [
    *[
        (name, value)
        for name in ("max_age", "store_timeout", "absolute_timeout", "anonymous_max_age", "max_bytes")
        for value in _NO_NUMBERS
    ],
    ("anonymous_max_age", 14401),
    ("store_timeout", None),
    ("max_bytes", None),
    *[("session_cookie", value) for value in ("", "a b", "a;b", "a=b", "é", "a\n", 'a"', "x" * 257, None, b"s", 5)],
    *[("same_site", value) for value in ("Lax", "", None, True, "none", [])],
    *[(name, value) for name in ("https_only", "persistent", "partitioned") for value in (None, 0, 1, "yes")],
    ("partitioned", True),
    *[("path", value) for value in ("", "shop", "/a;b", "/a\r\nX: y", "/é", None, b"/")],
    *[("domain", value) for value in ("", "a b", "a;b", "-a", "a-", "a\n", "é.example", b"a", 5)],
    *[("user_key", value) for value in ("", 5, b"user_id", [5], [], {"user_id"})],
    *[("clock", value) for value in (None, 5, "now")],
    *[
        ("store", value)
        for value in (
            "",
            "memory",
            "sessions.sqlite3",
            "redis://localhost/zero",
            "sqlite://",
            "sqlite:///",
            "sqlite:///:memory:",
            "sqlite://sessions.db",
            None,
            5,
            object(),
            {},
            MemoryStore,
        )
    ],
]


@pytest.mark.parametrize(("option", "value"), _WRONG, ids=_shown)
def test_every_wrong_option_is_refused_by_name(option, value):
    """A wrong value is refused with a ConfigurationError, a ValueError too, whose message starts with the option."""
    with pytest.raises(ConfigurationError) as caught:
        _config(**{option: value})
    assert str(caught.value).startswith(f"{option}: ")
    assert isinstance(caught.value, ValueError) and isinstance(caught.value, RoomkeyError)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("option", ["max_age", "store_timeout", "absolute_timeout", "max_bytes"])
def test_an_absurdly_large_number_raises_no_other_error(option):
    """A number past the range of floats is refused with ConfigurationError, not with OverflowError."""
    with pytest.raises(ConfigurationError, match=rf"^{option}: "):
        _config(**{option: 10**400})


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_age": 0.5},
        {"max_age": 60, "absolute_timeout": 60},
        {"absolute_timeout": None, "max_age": 10**9},
        {"anonymous_max_age": 600},
        {"anonymous_max_age": 60, "max_age": 60},
        {"same_site": "strict"},
        {"same_site": "none", "https_only": True},
        {"partitioned": True, "https_only": True},
        {"session_cookie": "!#$%&'*+-.^_`|~09azAZ"},
        {"session_cookie": "x" * 256},
        {"path": "/shop/a b"},
        {"domain": "example.com"},
        {"domain": ".example.com"},
        {"domain": "localhost"},
        {"user_key": None},
        {"user_key": "account"},
        {"user_key": "account.id"},
        {"user_key": ("account", "user.sub")},
        {"clock": lambda: 0.0},
        {"store": MemoryStore()},
    ],
    ids=_shown,
)
def test_right_options_are_accepted(options):
    """What the documentation allows is accepted and kept as given."""
    config = _config(**options)
    for name, value in options.items():
        assert getattr(config, name) == value


# --- rules between options --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["__Host-s", "__host-s", "__HOST-s"])
@pytest.mark.parametrize(
    ("options", "accepted"),
    [
        ({"https_only": True}, True),
        ({}, False),
        ({"https_only": True, "path": "/shop"}, False),
        ({"https_only": True, "domain": "example.com"}, False),
    ],
    ids=["good", "no https", "path", "domain"],
)
def test_the_host_prefix_has_its_rules(name, options, accepted):
    """__Host- in any case needs HTTPS, the path / and no domain."""
    if accepted:
        assert _config(session_cookie=name, **options).session_cookie == name
    else:
        with pytest.raises(ConfigurationError, match=r"^session_cookie: .*prefix"):
            _config(session_cookie=name, **options)


@pytest.mark.parametrize("name", ["__Secure-s", "__secure-s"])
def test_the_secure_prefix_has_its_rule(name):
    """__Secure- in any case needs HTTPS and nothing else."""
    assert _config(session_cookie=name, https_only=True, path="/shop", domain="example.com").session_cookie == name
    with pytest.raises(ConfigurationError, match=r"^session_cookie: .*https_only"):
        _config(session_cookie=name)


def test_no_max_age_means_a_browser_session():
    """max_age=None, as Starlette takes it, means persistent=False with the default of 4 hours."""
    config = _config(max_age=None)
    assert (config.persistent, config.max_age, config.idle_timeout) == (False, 14400, 14400)
    assert _config().persistent is True


def test_a_shorter_life_of_visitors_sessions_needs_to_know_visitors():
    """Without a user_key everybody is a visitor."""
    with pytest.raises(ConfigurationError, match=r"^anonymous_max_age: .*user_key"):
        _config(anonymous_max_age=60, user_key=None)


def test_the_absolute_timeout_is_never_below_max_age():
    """An absolute timeout below max_age is refused and names max_age."""
    with pytest.raises(ConfigurationError, match=r"^absolute_timeout: .*max_age \(3600\)"):
        _config(max_age=3600, absolute_timeout=3599)
    with pytest.raises(ConfigurationError, match=r"^absolute_timeout: .*leave it out, or give None"):
        _config(max_age=2592001, absolute_timeout=2592000)
    with pytest.raises(ConfigurationError, match=r"^absolute_timeout: .*14400"):
        _config(max_age=None, absolute_timeout=60)


@pytest.mark.parametrize("max_age", [2592001, 31536000, dt.timedelta(days=365)])
def test_an_absolute_timeout_that_nobody_gave_follows_max_age(max_age):
    """A max_age over the default absolute timeout raises it. A config made from that one follows its own max_age."""
    config = _config(max_age=max_age)
    assert config.absolute_timeout == config.max_age > 2592000
    assert dataclasses.replace(config, max_age=60).absolute_timeout == 2592000
    assert dataclasses.replace(_config(), max_age=max_age).absolute_timeout == config.max_age
    assert _config(max_age=3600).absolute_timeout == 2592000
    assert _config(max_age=max_age, absolute_timeout=None).absolute_timeout is None


@pytest.mark.parametrize("option", ["max_age", "store_timeout", "absolute_timeout"])
def test_every_span_of_time_may_be_a_timedelta(option):
    """It is kept as a number of seconds; a negative one is refused by name."""
    config = _config(**{"max_age": 60, option: dt.timedelta(days=14, milliseconds=500)})
    assert getattr(config, option) == 1209600.5
    assert type(getattr(_config(**{"max_age": 60, option: dt.timedelta(days=14)}), option)) is int
    with pytest.raises(ConfigurationError, match=rf"^{option}: got datetime.timedelta.*or a timedelta$"):
        _config(**{option: dt.timedelta(seconds=-1)})


# --- from_options -----------------------------------------------------------------------------------------------------


def test_options_make_a_config():
    """Known options make the config that the constructor makes."""
    config = SessionConfig.from_options({"secret_key": SECRET, "store": "memory://", "max_age": 60})
    assert config.max_age == 60


@pytest.mark.parametrize(
    ("option", "meant"),
    [
        ("max_ages", "max_age"),
        ("cookie_session", None),
        ("samesite", "same_site"),
        ("secretkey", "secret_key"),
        ("secure", "https_only"),
        ("cookie_name", "session_cookie"),
        ("cookie_secure", "https_only"),
        ("cookie_path", "path"),
        ("cookie_domain", "domain"),
        ("lifetime", "max_age"),
        ("session_lifetime", "max_age"),
        ("session_ttl", "max_age"),
        ("expires", "max_age"),
        ("redis_url", "store"),
    ],
)
def test_an_unknown_option_is_refused_with_a_suggestion(option, meant):
    """An unknown option is refused by name, with the nearest known one or all of them."""
    with pytest.raises(ConfigurationError, match=f"^{option}: no such option") as caught:
        SessionConfig.from_options({"secret_key": SECRET, option: 1})
    if meant is not None:
        assert f"did you mean {meant}?" in str(caught.value)


def test_an_option_like_no_other_lists_them_all():
    """An unknown option with nothing near it is answered with the list of all."""
    with pytest.raises(ConfigurationError, match=r"^zzzz: no such option; the options are secret_key, .*clock$"):
        SessionConfig.from_options({"secret_key": SECRET, "zzzz": 1})


@pytest.mark.parametrize(
    "option",
    [
        "session_serializer",
        "session_deserializer",
        "populate_session",
        "rolling",
        "httponly",
        "http_only",
        "cookie_httponly",
    ],
)
def test_options_of_other_libraries_are_explained(option):
    """An option that only other libraries' sessions have is refused with the reason and the way out."""
    with pytest.raises(ConfigurationError, match=rf"^{option}: not an option of Roomkey; .*(leave it out|instead)$"):
        SessionConfig.from_options({"secret_key": SECRET, option: None})


@pytest.mark.parametrize("value", [5, "print"])
def test_what_cannot_be_told_of_events_is_refused(value):
    """It is refused when the configuration is made."""
    with pytest.raises(ConfigurationError, match=r"^on_event: "):
        SessionConfig(secret_key=SECRET, store="memory://", on_event=value)


async def test_a_store_made_from_a_url_has_the_clock():
    """A test that moves the clock moves the store's too."""
    clock = Clock(1000.0)
    life = Driver(SessionConfig(secret_key=SECRET, store="memory://", clock=clock, max_age=60))

    visit = life.anonymous()
    visit.session["x"] = 1
    await visit.commit()
    assert (await life.arrive([visit.card])).session == {"x": 1}
    clock.advance(61)
    assert (await life.arrive([visit.card])).session == {}


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("mysql://a@b/c", r"; for MySQL and MariaDB write sqlalchemy\+mysql\+asyncmy://$"),
        ("mysql+asyncmy://a@b/c", r"; for MySQL and MariaDB write sqlalchemy\+mysql\+asyncmy://$"),
        ("mariadb://a@b/c", r"; for MySQL and MariaDB write sqlalchemy\+mysql\+asyncmy://$"),
        ("postgresql+asyncpg://a@b/c", r"; for PostgreSQL write postgresql://, or sqlalchemy\+postgresql\+asyncpg://$"),
        ("sqlite+aiosqlite:///x", r"; for SQLite write sqlite:///, or sqlalchemy\+sqlite\+aiosqlite:///$"),
        ("mssql://a@b/c", r"; for SQL Server write sqlalchemy\+mssql\+aioodbc://$"),
        ("oracle://a@b/c", r"; for Oracle write sqlalchemy\+oracle\+oracledb_async://$"),
        (
            "sqlalchemy+mysql://a@b/c",
            r"^store: the URL names no driver.*; for MySQL write sqlalchemy\+mysql\+asyncmy://$",
        ),
        ("sqlalchemy+postgresql+psycopg2://a@b/c", "; for PostgreSQL write .*asyncpg://$"),
        ("sqlite:///x.db?timeout=5", "SQLiteStore"),
        ("sqlite://x.db", "three slashes"),
        ("reddis://localhost", r"^store: unknown scheme 'reddis'; did you mean redis://\?$"),
        ("redis+cluser://localhost", r"did you mean redis\+cluster://"),
        ("postgress://localhost/app", "did you mean postgres://"),
        ("memroy://", "did you mean memory://"),
        ("redis://localhost:abc/0", "port takes a number up to 65535"),
        ("redis://localhost:0/0", "port takes a number up to 65535"),
        ("postgresql://h:abc/db", "PostgreSQL URL's port takes a number up to 65535"),
        ("postgresql://h:70000/db", "PostgreSQL URL's port takes a number up to 65535"),
        ("sqlalchemy+mysql+asyncmy://h:abc/d", "SQLAlchemy URL's port takes a number up to 65535"),
        ("redis+cluster://one:6379,two:70000", "port takes a number up to 65535"),
        ("rediss://user:geheim@[::1]:x/0", "port takes a number up to 65535"),
        ("redis://:pass/word@localhost:6379/0", "in a user name or password, write"),
        ("redis://:pass?word@localhost:6379/0", "in a user name or password, write"),
    ],
)
def test_a_url_that_is_nearly_right(url, says):
    """The message has the one that is."""
    with pytest.raises(ConfigurationError, match=says) as caught:
        SessionConfig(secret_key=SECRET, store=url)
    assert not any(word in str(caught.value) for word in ("geheim", "pass/", "pass?"))


def test_a_url_that_is_far_from_any():
    """No guess is made."""
    with pytest.raises(ConfigurationError, match="unknown scheme 'http'; it takes"):
        SessionConfig(secret_key=SECRET, store="http://localhost")


@pytest.mark.parametrize("url", ["redis://[::1]/0", "redis://[::1]:6380", "redis://host", "redis://a:b%3A@host:1/2"])
def test_ports_of_redis(url):
    """A port may be left out, and IPv6 addresses have colons."""
    assert SessionConfig(secret_key=SECRET, store=url).store


def test_a_path_is_an_sqlite_file(tmp_path):
    """`pathlib.Path` names a file, so it needs no URL around it."""
    store = SessionConfig(secret_key=SECRET, store=tmp_path / "x.sqlite3").store
    assert isinstance(store, SQLiteStore) and repr(store) == f"<SQLiteStore '{tmp_path}/x.sqlite3'>"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: redis.asyncio.Redis(), r"got a Redis of redis\.asyncio; give RedisStore\(client\)"),
        (lambda: redis.Redis(), "got a Redis that blocks the event loop; give its URL"),
        (lambda: create_async_engine("sqlite+aiosqlite://"), r"got an AsyncEngine; give SQLAlchemyStore\(engine\)"),
        (lambda: create_engine("sqlite://"), "got an Engine, which blocks the event loop"),
    ],
)
def test_a_drivers_client(make, says):
    """Whoever gives what a store is made of reads which store that is."""
    with pytest.raises(ConfigurationError, match=f"^store: {says}"):
        SessionConfig(secret_key=SECRET, store=make())


def test_a_blocking_client_for_the_redis_store():
    """The message says what is wrong with it."""
    with pytest.raises(ConfigurationError, match="got Redis, a client that blocks the event loop; it takes"):
        RedisStore(redis.Redis())


def test_a_missing_secret_is_named():
    """Without a secret_key the error says so."""
    with pytest.raises(ConfigurationError, match=r"^secret_key: missing"):
        SessionConfig.from_options({"store": "memory://"})


# --- the object -------------------------------------------------------------------------------------------------------


def test_a_config_is_frozen():
    """No option can be set or deleted afterwards."""
    config = _config()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.max_age = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        del config.max_age


def test_options_are_given_by_name():
    """No option may be given by position. The error shows no value, for it may be a key."""
    with pytest.raises(ConfigurationError, match=r"SessionConfig\(secret_key=\.\.\.\)") as caught:
        SessionConfig(SECRET)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("secret", [SECRET, SECRET.encode(), [SECRET, SECRET + "2"]], ids=["str", "bytes", "list"])
def test_repr_shows_no_secret(secret):
    """Neither repr nor str shows a secret key."""
    config = _config(secret_key=secret)
    assert SECRET not in repr(config) and SECRET not in str(config)
    assert SECRET not in repr(dataclasses.replace(config, max_age=60))


@pytest.mark.parametrize(
    "url",
    [
        "redis://ishmael:hunter2@localhost/zero",
        "postgresql+asyncpg://ishmael:hunter2@host/db",
        "postgresql://ishmael:hunter2@host:port/db",
        "redis:ishmael:hunter2@localhost",
        "//ishmael:hunter2@localhost",
        "sqlite://ishmael:hunter2@localhost",
    ],
)
def test_errors_never_show_the_password_of_a_store(url):
    """A store URL that is refused is not shown, for it may hold a password."""
    with pytest.raises(ConfigurationError, match=r"^store: ") as caught:
        _config(store=url)
    assert "hunter2" not in str(caught.value) and "ishmael" not in str(caught.value)
    assert caught.value.__cause__ is None and caught.value.__context__ is None


def test_a_deep_copy_is_the_config_itself():
    """Frameworks that copy their settings deeply keep the one config with the one store."""
    config = _config()
    assert copy.deepcopy(config) is config
    assert copy.deepcopy({"session": [config]})["session"][0] is config
