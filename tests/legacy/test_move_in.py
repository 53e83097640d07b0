"""What finds an old session among a request's cookies, and takes its cookie back."""

import asyncio
import json
import logging
from collections import Counter

import pytest
import redis
import redis.asyncio

from roomkey import ConfigurationError, SessionConfig, SessionMiddleware, StoreUnavailable
from roomkey.legacy import DjangoCookie, FlaskCookie, LitestarRedis, StarletteCookie, StarsessionsRedis
from roomkey.legacy.move_in import MoveIn
from roomkey.stores.memory import MemoryStore
from roomkey.testing import Clock
from roomkey.wire.cookies import find_cookies
from tests.asgi import ask, cookie_in, http_scope
from tests.legacy.app import OwnReader, shop_app
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


def _brings(path, *cookies):
    sent = b"; ".join(name + b"=" + value for name, value in cookies)
    return http_scope(path) | {"headers": [(b"cookie", sent)]}


async def _read(app, *cookies):
    return json.loads((await ask(app, _brings("/read", *cookies)))[-1]["body"])


@pytest.mark.parametrize("seal", [False, True])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("how", ["/log-out", "/farewell", "/leave"])
async def test_a_log_out_ends_all_old_cookies_of_the_request(own, how, seal):
    """Old cookies of several readers, paths and domains, beside Roomkey's own or alone: none of them logs in again."""
    first, second = OwnReader("one"), OwnReader("two")
    app = SessionMiddleware(
        shop_app, secret_key=SECRET, store=MemoryStore(), clock=Clock(), legacy=[first, second], seal=seal
    )
    old = [(b"one", b"7"), (b"one", b"8"), (b"two", b"9")]
    another = (b"one", b"10")
    cookies = list(old)
    if own:
        sent = await ask(app, _brings("/log-in", (b"unknown", b"1")))
        cookies.insert(0, (b"session", cookie_in(sent[0])))
    sent = await ask(app, _brings(how, *cookies))
    assert sent[0]["status"] == 200
    for cookie in cookies:
        assert await _read(app, cookie) == {}
    assert await _read(app, *old) == {}
    assert await _read(app, another) == {"user_id": "10"}
    assert {b"7", b"8"} <= set(first.forgotten) and b"9" in second.forgotten


async def test_a_log_out_keeps_what_is_put_into_a_visitors_session():
    """The old session was nobody's. It moves in with the log-out, and the new cookie opens what is left of it."""
    reader = OwnReader("one", data={"cart": 1})
    app = SessionMiddleware(shop_app, secret_key=SECRET, store=MemoryStore(), clock=Clock(), legacy=[reader])
    card = cookie_in((await ask(app, _brings("/farewell", (b"one", b"7"))))[0])
    assert await _read(app, (b"session", card)) == {"_flashes": [["info", "Good bye"]]}


async def test_an_old_cookie_that_opens_another_session_is_ended_with_it():
    """It had moved in already, in another tab whose answer has not come yet."""
    reader = OwnReader("one")
    app = SessionMiddleware(shop_app, secret_key=SECRET, store=MemoryStore(), clock=Clock(), legacy=[reader])
    moved = cookie_in((await ask(app, _brings("/read", (b"one", b"7"))))[0])
    own = cookie_in((await ask(app, _brings("/log-in")))[0])
    await ask(app, _brings("/log-out", (b"session", own), (b"one", b"7")))
    assert await _read(app, (b"session", moved)) == {}
    assert await _read(app, (b"session", own)) == {}
    assert await _read(app, (b"one", b"7")) == {}


async def test_a_reader_that_is_down_makes_a_log_out_a_503():
    """Nobody is told that they are logged out while an old cookie may log in again."""
    reader = OwnReader("one")
    app = SessionMiddleware(shop_app, secret_key=SECRET, store=MemoryStore(), clock=Clock(), legacy=[reader])
    own = cookie_in((await ask(app, _brings("/log-in")))[0])
    reader.error = OSError()
    sent = await ask(app, _brings("/log-out", (b"session", own), (b"one", b"7")))
    assert sent[0]["status"] == 503
