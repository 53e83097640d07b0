"""The default clock is `time.time`, looked up when it is asked: libraries that freeze time put another one there."""

import asyncio
import datetime as dt
import inspect
import time

import pytest

from roomkey import SessionConfig, SessionManager
from roomkey.clock import system_time, ticks_of
from roomkey.legacy import FlaskCookie
from roomkey.stores.memory import MemoryStore
from roomkey.stores.migrating import Migrating
from roomkey.stores.postgres import PostgresStore
from roomkey.stores.redis import RedisStore
from roomkey.stores.sqlalchemy import SQLAlchemyStore
from roomkey.stores.sqlite import SQLiteStore
from tests.asgi import SECRET, cookie_in

STORES = [MemoryStore, SQLiteStore, RedisStore, PostgresStore, SQLAlchemyStore, Migrating]


@pytest.mark.parametrize("store", STORES)
def test_no_store_binds_the_clock(store):
    """The default of every store asks for the clock as it is by then."""
    assert inspect.signature(store).parameters["clock"].default is system_time
    assert SessionConfig(secret_key=SECRET, store="memory://").clock is system_time
    assert FlaskCookie(SECRET).clock is system_time


def test_the_clock_is_the_one_that_is_there(monkeypatch):
    """Both forms of it follow what stands in `time.time`, and a clock that was given is that one."""
    ticks = ticks_of(system_time)
    monkeypatch.setattr(time, "time", lambda: 5.0)
    assert (system_time(), ticks.time(), ticks_of(lambda: 7.0).time()) == (5.0, 5.0, 7.0)


def a_day_later(monkeypatch, day=86_400.0):
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + day)


@pytest.mark.parametrize("url", ["memory://", "sqlite:///sessions.sqlite3", "cookie://"])
async def test_a_session_expires_when_the_time_is_moved(url, monkeypatch, tmp_path):
    """A test that moves `time.time` past `max_age` finds the session gone."""
    monkeypatch.chdir(tmp_path)
    async with SessionManager(secret_key=SECRET, store=url) as manager:
        session = await manager.load()
        session["a"] = 1
        card = cookie_in({"headers": await manager.commit(session, raw=True)})
        assert await manager.load(b"session=" + card) == {"a": 1}
        a_day_later(monkeypatch)
        assert await manager.load(b"session=" + card) == {}


async def test_a_session_is_renewed_when_the_time_is_moved(monkeypatch):
    """A request that only reads, an hour later, renews the session."""
    manager = SessionManager(secret_key=SECRET, store="memory://")
    session = await manager.load()
    session["a"] = 1
    card = cookie_in({"headers": await manager.commit(session, raw=True)})
    a_day_later(monkeypatch, 3600.0)
    session = await manager.load(b"session=" + card)
    assert session["a"] == 1
    assert cookie_in({"headers": await manager.commit(session, raw=True)}) == card


async def ask(manager, cookie=None, **put):
    """Return the content of a session after this request, and its card."""
    session = await manager.load(cookie)
    session.update(put)
    return dict(session), cookie_in({"headers": await manager.commit(session, raw=True)})


def test_freezegun_moves_it():
    """The library that most tests freeze time with."""
    freezegun = pytest.importorskip("freezegun")
    manager = SessionManager(secret_key=SECRET, store="memory://")
    with freezegun.freeze_time("2030-01-01 12:00", real_asyncio=True) as frozen:
        _, card = asyncio.run(ask(manager, a=1))
        frozen.tick(3600)
        assert asyncio.run(ask(manager, b"session=" + card))[0] == {"a": 1}
        frozen.tick(100_000)
        assert asyncio.run(ask(manager, b"session=" + card))[0] == {}


@pytest.mark.parametrize("url", ["memory://", "sqlite:///sessions.sqlite3", "cookie://"])
def test_time_machine_moves_it(url, monkeypatch, tmp_path):
    """The other one, which changes the functions in C."""
    time_machine = pytest.importorskip("time_machine")
    monkeypatch.chdir(tmp_path)

    async def whole(traveller):
        async with SessionManager(secret_key=SECRET, store=url) as manager:
            _, card = await ask(manager, a=1)
            traveller.shift(3600)
            assert (await ask(manager, b"session=" + card))[0] == {"a": 1}
            traveller.shift(100_000)
            assert (await ask(manager, b"session=" + card))[0] == {}

    with time_machine.travel(dt.datetime(2030, 1, 1, 12, tzinfo=dt.UTC), tick=False) as traveller:
        asyncio.run(whole(traveller))
