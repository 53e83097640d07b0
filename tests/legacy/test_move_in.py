"""What finds an old session among a request's cookies, and takes its cookie back."""

import asyncio
import logging
from collections import Counter

import pytest
import redis
import redis.asyncio

from roomkey import ConfigurationError, SessionConfig, StoreUnavailable
from roomkey.legacy import DjangoCookie, FlaskCookie, LitestarRedis, StarletteCookie, StarsessionsRedis
from roomkey.legacy.move_in import MoveIn
from roomkey.wire.cookies import find_cookies
from tests.legacy.app import OwnReader
from tests.legacy.cookies import KEY, SECRET
from tests.loop_clock import loop_time


def _config(**options):
    return SessionConfig(secret_key=SECRET, store="memory://", **options)


def _lookup(header):
    return lambda name: find_cookies([(b"cookie", header)], name)


async def test_the_first_reader_that_finds_a_session_counts():
    """Readers are asked in their order, each for every cookie of its name; what they refuse is counted."""
    refused = Counter()
    first, second = OwnReader("one"), OwnReader("two")
    move_in = MoveIn([first, second], _config(), refused)

    found = await move_in.find(_lookup(b"two=b; one=no; one=a"))
    assert (found.reader, found.value, found.session.data) == (first, b"a", {"user_id": "a"})
    assert "one=" not in repr(found) and "b'a'" not in repr(found)
    assert refused == {"legacy": 1}
    assert (await move_in.find(_lookup(b"one=no; two=b"))).reader is second
    assert await move_in.find(_lookup(b"three=c")) is None
    await move_in.forget(found)
    assert (first.forgotten, second.forgotten) == ([b"a"], [])


@pytest.mark.parametrize(
    "data", [{"x": object()}, {"x": "y" * 70000}, {1: 2}, {"x": bytearray(b"y")}, ["no", "dictionary"], "text"]
)
async def test_a_session_that_does_not_fit_stays_outside(data):
    """What Roomkey could not save is refused before a handler sees it."""
    refused = Counter()
    assert await MoveIn([OwnReader(data=data)], _config(), refused).find(_lookup(b"own=a")) is None
    assert refused == {"legacy": 1}


def test_old_cookies_are_taken_back_where_they_were_set():
    """Every old cookie that the request brought is taken back with its own path and domain; Roomkey's own is not."""
    readers = [OwnReader(), StarletteCookie(KEY), DjangoCookie(KEY), FlaskCookie(KEY, path="/flask")]
    move_in = MoveIn(readers, _config(https_only=True), Counter())
    expired = b"; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT"
    rest = b"; HttpOnly; SameSite=lax; Secure"
    assert move_in.take_back(_lookup(b"own=a; sessionid=b")) == [
        (b"set-cookie", b"own=" + expired + b"; Path=/app; Domain=example.com" + rest),
        (b"set-cookie", b"sessionid=" + expired + b"; Path=/" + rest),
    ]
    assert move_in.take_back(_lookup(b"session=a")) == [
        (b"set-cookie", b"session=" + expired + b"; Path=/flask" + rest)
    ]
    assert MoveIn([StarletteCookie(KEY)], _config(), Counter()).take_back(_lookup(b"session=a")) == []
    assert move_in.take_back(_lookup(b"x=y")) == []


def test_a_cookie_that_cannot_be_taken_back_is_a_mistake():
    """A name that browsers take from HTTPS only needs `https_only`."""
    with pytest.raises(ConfigurationError, match="https_only"):
        MoveIn([StarletteCookie(KEY, cookie_name="__Secure-s")], _config(), Counter())


@pytest.mark.parametrize("error", [OSError("hush"), RuntimeError("hush"), StoreUnavailable("hush")])
async def test_a_reader_that_cannot_know_makes_it_unavailable(error, caplog):
    """Where nobody knows whether there is a session, nobody is logged out; it is logged once an outage."""
    reader = OwnReader(error=error)
    move_in = MoveIn([reader], _config(), Counter())

    with caplog.at_level(logging.WARNING, "roomkey"):
        for _ in range(3):
            with pytest.raises(StoreUnavailable) as raised:
                await move_in.find(_lookup(b"own=a"))
            assert "hush" not in str(raised.value)
        assert [record.levelno for record in caplog.records] == [logging.ERROR]
        reader.error = None
        assert await move_in.find(_lookup(b"own=a")) is not None
        reader.error = error
        with pytest.raises(StoreUnavailable):
            await move_in.find(_lookup(b"own=a"))
        assert len(caplog.records) == 2
    assert "hush" not in caplog.text and "own=a" not in caplog.text


async def test_a_server_that_is_gone_makes_it_unavailable():
    """A real client without its server gives StoreUnavailable, soon."""
    async with redis.asyncio.Redis.from_url("redis://127.0.0.1:1/0") as client:
        move_in = MoveIn([LitestarRedis(client)], _config(store_timeout=0.2), Counter())
        started = loop_time()
        with pytest.raises(StoreUnavailable):
            await move_in.find(_lookup(b"session=" + b"0" * 64))
        assert loop_time() - started < 1.5


async def test_a_server_that_does_not_answer_makes_it_unavailable():
    """A server that takes the connection and then says nothing is waited for as long as `store_timeout` says."""

    async def listen(reader, writer):
        await reader.read()
        writer.close()

    async with await asyncio.start_server(listen, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with redis.asyncio.Redis.from_url(f"redis://127.0.0.1:{port}/0") as client:
            move_in = MoveIn([StarsessionsRedis(client)], _config(store_timeout=0.1), Counter())
            with pytest.raises(StoreUnavailable, match=r"did not answer within 0\.1 s"):
                await move_in.find(_lookup(b"session=" + b"0" * 32))


async def test_forgetting_may_fail_without_harm(caplog):
    """The new session counts: what cannot be removed is logged, and nothing is raised."""
    reader = OwnReader()
    move_in = MoveIn([reader], _config(), Counter())

    with caplog.at_level(logging.WARNING, "roomkey"):
        found = await move_in.find(_lookup(b"own=a"))
        reader.error = OSError("hush")
        await move_in.forget(found)
    assert "could not be removed" in caplog.text and "hush" not in caplog.text
