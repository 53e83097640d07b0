"""What `open` finds out about a Redis server, URLs, passwords and TLS."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from typing import Any
from urllib.parse import quote

import pytest
import redis
import redis.asyncio

from roomkey.errors import ConfigurationError, StoreUnavailable
from roomkey.stores.redis import RedisStore, errors
from tests.servers.redis import RedisServer
from tests.stores.on_redis.parts import PASSWORD, new_prefix, open_store, plain_client, tls_server
from tests.stores.records import make_key, make_record

# --- What `open` says -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--maxmemory-policy", "allkeys-lru", "--appendonly", "yes"], "noeviction"),
        (["--maxmemory-policy", "allkeys-random", "--appendonly", "yes"], "noeviction"),
        # The list of a user's sessions goes as soon as the sessions do, and nothing ends them then.
        (["--maxmemory-policy", "volatile-ttl", "--appendonly", "yes"], "noeviction"),
        (["--maxmemory-policy", "volatile-lru", "--appendonly", "yes"], "noeviction"),
        (["--save", ""], "appendonly yes"),
        (["--appendonly", "yes"], None),
        (["--save", "3600 1"], None),
        (["--save", "3600 1", "--maxmemory-policy", "noeviction"], None),
    ],
)
async def test_dangerous_settings_are_warned_of(
    caplog: pytest.LogCaptureFixture, options: list[str], said: str | None
) -> None:
    """Settings that lose sessions are logged as one warning, once, with what to set."""
    caplog.set_level(logging.WARNING)
    with RedisServer(*options) as own:
        async with open_store(own) as store:
            for _ in range(2):
                await store.open()
                await store.close()
        messages = [record.getMessage() for record in caplog.records if record.name == "roomkey"]
        if said is None:
            assert messages == []
        else:
            assert len(messages) == 1 and said in messages[0] and str(own.port) in messages[0]


async def test_hosted_server_that_refuses_to_say(caplog: pytest.LogCaptureFixture) -> None:
    """Where INFO and CONFIG are refused, as at hosted servers, `open` says nothing and the store works."""
    with RedisServer(password="root") as own, contextlib.closing(plain_client(own)) as admin:
        admin.execute_command("ACL", "SETUSER", "app", "on", ">pw", "~{app}:*", "+@all", "-@admin", "-@dangerous")
        store = RedisStore(f"redis://app:pw@127.0.0.1:{own.port}", prefix="{app}:")
        await store.open()
        key = make_key()
        await store.create(key, make_record(user="42"))
        assert len(await store.of_user("42")) == 1
        await store.wipe()
        assert await store.load(key) is None
        await store.close()
        assert [record for record in caplog.records if record.name == "roomkey"] == []


async def test_least_rights() -> None:
    """The commands that the message on rights names are enough, and without one of them `open` says so."""
    with RedisServer(password="root") as own, contextlib.closing(plain_client(own)) as admin:
        named = (
            errors.FORBIDDEN.partition("give it ")[2].partition(" on the keys")[0].replace(" and ", ", ").split(", ")
        )
        rights = [f"+{name.lower()}" for name in named]
        admin.execute_command("ACL", "SETUSER", "app", "on", ">pw", "~{app}:*", *rights)
        key, new = make_key(), make_key()
        store = RedisStore(f"redis://app:pw@127.0.0.1:{own.port}", prefix="{app}:")
        await store.open()
        await store.create(key, make_record(user="42"))
        await store.touch(key, time.time() + 9999)
        await store.update(key, make_record(version=2, user="43"), version=1)
        await store.rotate(key, new, make_record(version=3), make_record(version=3, successor=new), version=2)
        await store.delete(new)
        assert await store.of_user("42") == []
        await store.wipe()
        await store.close()
        admin.execute_command("ACL", "SETUSER", "app", "-evalsha")
        for prefix in ("{app}:", "{other}:"):
            if prefix == "{other}:":
                admin.execute_command("ACL", "SETUSER", "app", "+evalsha")
            store = RedisStore(f"redis://app:pw@127.0.0.1:{own.port}", prefix=prefix)
            with pytest.raises(ConfigurationError, match="PEXPIRE"):
                await store.open()
            with pytest.raises(StoreUnavailable, match="PEXPIRE"):
                await store.create(key, make_record())
            await store.close()


async def test_list_that_cannot_be_completed() -> None:
    """Where a user's sessions are known but cannot be loaded, the list is StoreUnavailable, never a shorter one."""
    with RedisServer() as own, contextlib.closing(plain_client(own)) as admin:
        async with open_store(own) as store:
            await store.create(make_key(), make_record(user="42"))
            admin.execute_command("ACL", "SETUSER", "default", "-mget")
            with pytest.raises(StoreUnavailable, match="MGET"):
                await store.of_user("42")


# --- Who may come in --------------------------------------------------------------------------------------------------


async def test_password() -> None:
    """The password of the URL is used, whatever is in it; a wrong one is a ConfigurationError at `open`."""
    with RedisServer(password=PASSWORD) as own:
        async with open_store(own) as store:
            await store.open()
            await store.create(make_key(), make_record())
        right = own.url
        for wrong in (right.replace("secret", "wrong"), f"redis://127.0.0.1:{own.port}"):
            store = RedisStore(wrong)
            with pytest.raises(ConfigurationError, match="password"):
                await store.open()
            with pytest.raises(StoreUnavailable, match="password"):
                await store.load(make_key())
            with pytest.raises(StoreUnavailable, match="password"):
                await store.create(make_key(), make_record())
            await store.close()


async def test_password_is_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    """No text of ours holds the password: not the repr, no error and no log line."""
    caplog.set_level(logging.DEBUG)
    with RedisServer(password=PASSWORD) as own:
        store = RedisStore(own.url)
        texts = [repr(store), repr(store._target), str(vars(store))]
        await store.open()
        own.stop()
        with pytest.raises(StoreUnavailable) as down:
            await store.load(make_key())
        await store.close()
    texts += [str(down.value), *(record.getMessage() for record in caplog.records if record.name == "roomkey")]
    assert str(own.port) in texts[0]
    quoted = own.url.partition("://:")[2].partition("@")[0]
    for text in texts:
        assert "secret" not in text and quoted not in text


@pytest.mark.parametrize(
    "url",
    [
        "redis://:pw/secret@host:6379",
        "redis://:pw#secret@host",
        "redis://:secret@host:port",
        "redis://:secret@host:99999",
        "redis://:secret@host/zero",
        "redis://:secret@host/0/1",
        "redis://:secret@host?nonsense=1",
        "redis://:secret@host?db=secret",
        "redis://:secret@host?socket_timeout=secret",
        "redis://:secret@host?ssl_check_hostname=secret",
        "rediss://:secret@host?ssl_ca_certs=/secret",
        "rediss+cluster://:secret@host?ssl_certfile=/secret",
        "rediss://:secret@host?ssl_cert_reqs=secret",
        f"redis://:secret@host?ssl_ca_certs={quote(__file__)}",
        "redis://:secret@one,two",
        "redis://:secret@[::1",
        "unix://:secret@",
        "unix://:secret@/",
        "redis+cluster://:secret@host/1",
        "rediss+cluster://:secret@host?ssl_ca_path=/",
        "redis+sentinel://:secret@host",
        "redis+sentinel://:secret@host/service/db",
        "http://:secret@host",
        "secret",
        "",
    ],
)
def test_wrong_url(url: str) -> None:
    """A URL that is not right is a ConfigurationError when the store is made, which shows nothing of its password."""
    with pytest.raises(ConfigurationError) as caught:
        RedisStore(url)
    error: BaseException | None = caught.value
    assert "secret" not in str(error)
    while error is not None:  # also not in what a traceback shows beside it
        assert error is caught.value or error.__suppress_context__ or "secret" not in str(error)
        error = error.__cause__


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"prefix": ""}, "prefix"),
        ({"prefix": b"x"}, "prefix"),
        ({"max_connections": 1}, "max_connections"),
        ({"max_connections": "4"}, "max_connections"),
        ({"max_connections": True}, "max_connections"),
    ],
)
def test_wrong_option(options: dict[str, Any], named: str) -> None:
    """A wrong option is a ConfigurationError that names it."""
    with pytest.raises(ConfigurationError, match=named):
        RedisStore("redis://localhost", **options)


@pytest.mark.parametrize("prefix", ["{}:", "a}b{c", "shop{"])
def test_braces_that_are_no_hash_tag(prefix: str) -> None:
    """In a cluster a prefix with a brace that is no hash tag, which would scatter what belongs together, is refused."""
    with pytest.raises(ConfigurationError, match="hash tag"):
        RedisStore("redis+cluster://localhost", prefix=prefix)
    RedisStore("redis://localhost", prefix=prefix)


@pytest.mark.parametrize("prefix", ["shop:", "{shop}:", "a}b:"])
def test_prefixes_of_a_cluster(prefix: str) -> None:
    """In a cluster a prefix has no braces, or a hash tag."""
    RedisStore("redis+cluster://localhost", prefix=prefix)


@pytest.mark.parametrize("value", [None, 5, b"redis://", redis.Redis(), redis.asyncio.Redis, object()])
def test_what_is_no_server(value: Any) -> None:
    """What is neither a URL nor an asyncio client is refused with what it takes."""
    with pytest.raises(ConfigurationError, match=r"redis\.asyncio"):
        RedisStore(value)


async def test_client_that_reads_from_replicas() -> None:
    """A cluster's client that reads from replicas would show sessions that have ended: it is refused."""
    from redis.cluster import LoadBalancingStrategy

    client = redis.asyncio.RedisCluster(host="127.0.0.1", load_balancing_strategy=LoadBalancingStrategy.ROUND_ROBIN)
    with pytest.raises(ConfigurationError, match="replicas"):
        RedisStore(client)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://", "redis://localhost:6379"),
        ("valkeys://u:p@h/3", "valkeys://h:6379/3"),
        (f"rediss://h:1?ssl_ca_certs={quote(__file__)}", "rediss://h:1"),
        ("unix:///tmp/a.sock?db=1&password=p", "unix:///tmp/a.sock"),
        ("redis+sentinel://u:p@a:1,b/main/2?sentinel_password=q", "redis+sentinel://a:1,b:26379/main/2"),
        ("rediss+cluster://u:p@a,[::1]:7", "rediss+cluster://a:6379,::1:7"),
    ],
)
def test_repr(url: str, shown: str) -> None:
    """The repr shows which server it is."""
    assert repr(RedisStore(url)) == f"<RedisStore {shown} prefix='roomkey:'>"


async def test_database_of_the_url(server: RedisServer) -> None:
    """The number in the URL's path is the database."""
    prefix = new_prefix()
    store = RedisStore(server.url.removesuffix("0") + "5", prefix=prefix)
    key = make_key()
    await store.create(key, make_record())
    with contextlib.closing(plain_client(server, db=5)) as admin:
        assert admin.exists(f"{prefix}s:{key}")
    await store.close()


async def test_database_that_is_not_there(server: RedisServer) -> None:
    """A number past the server's last is found out when the app starts."""
    store = RedisStore(server.url.removesuffix("0") + "99", prefix=new_prefix())
    with pytest.raises(ConfigurationError, match="no database of that number"):
        await store.open()
    await store.close()


async def test_unix_socket(server: RedisServer) -> None:
    """A server is reached over its socket file."""
    store = RedisStore(f"unix://{server.socket}?db=0", prefix=new_prefix())
    await store.open()
    key = make_key()
    await store.create(key, make_record())
    assert await store.load(key) is not None
    await store.close()


async def test_tls() -> None:
    """With rediss:// the connection is encrypted; a certificate that is not trusted is a ConfigurationError."""
    with tls_server() as own:
        store = RedisStore(own.url)
        await store.open()
        keys = [make_key() for _ in range(50)]
        await asyncio.gather(*(store.create(key, make_record(data=secrets.token_bytes(50_000))) for key in keys))
        assert all(await asyncio.gather(*(store.load(key) for key in keys)))
        own.restart()
        assert await store.load(keys[0]) is None
        await store.close()
        for url in (own.url.partition("?")[0], own.url.replace("127.0.0.1", "127.0.0.2")):
            store = RedisStore(url)
            if "127.0.0.2" in url:
                with pytest.raises(StoreUnavailable, match="cannot be reached"):  # nobody listens there
                    await store.open()
            else:
                with pytest.raises(ConfigurationError, match="ssl_ca_certs"):
                    await store.open()
            await store.close()
        store = RedisStore(own.url.replace("rediss:", "redis:").partition("?")[0])
        with pytest.raises(StoreUnavailable, match="cannot be reached"):
            await store.open()
        await store.close()
