"""Sessions that come from memory: what asks the store all the same, and what a request with a dead ID gets."""

import asyncio

import pytest

from roomkey import SessionManager
from roomkey.core.nearby import ask_store
from roomkey.errors import ConfigurationError, LoginTooOld, SessionEnded
from roomkey.request import Request
from roomkey.testing import Clock
from tests.stores.told import ToldStore, elsewhere

MAX_AGE = 1000.0  # seconds


class Site:
    """A process that keeps sessions near, and another one, over one store."""

    def __init__(self, **options):
        self.clock = Clock(1_000_000.0)
        self.store = ToldStore(clock=self.clock)
        settings = {"secret_key": "k" * 32, "store": self.store, "clock": self.clock, "max_age": MAX_AGE, **options}
        self.there = SessionManager(**settings)
        self.here = SessionManager(near_cache=100, fresh=["/pay/"], **settings)

    async def do_there(self, cookie, act):
        """Have the other process do something, of which no message comes. Returns the cookie that it gave, if any."""
        with elsewhere():
            session = await self.there.load(cookie)
            act(session)
            headers = dict(await self.there.commit(session))
        return headers.get("set-cookie", "").split(";")[0]


@pytest.fixture
def site():
    return Site()


async def begin(site, **data):
    session = await site.here.load(None)
    session.update(data)
    cookie = dict(await site.here.commit(session))["set-cookie"].split(";")[0]
    await site.here.load(cookie)
    loads = site.store.loads
    await site.here.load(cookie)
    assert site.store.loads == loads, "it is not kept"
    return cookie


def log_in_again(session):
    session.clear()
    session["user_id"] = 7


ENDS = {
    "log-out": lambda session: session.clear(),
    "reauthentication": lambda session: session.reauthenticated(),
    "another log-in": log_in_again,
    "rotation": lambda session: session.rotate(),
}


@pytest.mark.parametrize("how", ENDS)
async def test_whoever_asks_the_store_finds_a_dead_id(site, how):
    """Where the ID died elsewhere before the request came, a guard finds nobody, and memory finds who was there."""
    cookie = await begin(site, user_id=7)
    await site.do_there(cookie, ENDS[how])
    session = await site.here.load(cookie)
    assert session["user_id"] == 7
    await ask_store(session)
    assert dict(session) == {} and session.is_new
    with pytest.raises(LoginTooOld):
        session.require_recent(60)
    assert [name for name, _ in await site.here.commit(session)] == ["vary"]


@pytest.mark.parametrize("how", ENDS)
async def test_refresh_tells_of_a_dead_id(site, how):
    """`refresh` raises SessionEnded, as it does where the session ended during the request."""
    cookie = await begin(site, user_id=7)
    await site.do_there(cookie, ENDS[how])
    session = await site.here.load(cookie)
    session["n"] = 1
    with pytest.raises(SessionEnded):
        await session.refresh()


async def test_an_id_that_was_rotated_after_the_request_came(site):
    """The request is served, as one is that was loaded from the store."""
    cookie = await begin(site, user_id=7)
    session = await site.here.load(cookie)
    session["mine"] = 1
    site.clock.advance(5)
    await site.do_there(cookie, lambda other: (other.update(n=1), other.rotate()))
    await session.refresh()
    assert dict(session) == {"user_id": 7, "n": 1, "mine": 1}


async def test_what_others_saved_is_taken_in(site):
    """A guard that asks the store sees what is stored now, and the request's own changes stay on top."""
    cookie = await begin(site, user_id=7, n=0)
    await site.do_there(cookie, lambda session: session.update(n=1))
    session = await site.here.load(cookie)
    session["mine"] = 1
    await ask_store(session)
    assert dict(session) == {"user_id": 7, "n": 1, "mine": 1}
    loads = site.store.loads
    await ask_store(session)
    assert site.store.loads == loads, "it is asked once"


async def test_nothing_has_changed(site):
    """The store is asked once, and the session is as it was."""
    cookie = await begin(site, user_id=7)
    session = await site.here.load(cookie)
    loads = site.store.loads
    await ask_store(session)
    assert site.store.loads == loads + 1 and dict(session) == {"user_id": 7}
    session.require_recent(60)


async def test_a_change_over_what_is_out_of_date(site):
    """It is merged: nobody's change is lost."""
    cookie = await begin(site, user_id=7)
    await site.do_there(cookie, lambda session: session.update(there=1))
    session = await site.here.load(cookie)
    assert "there" not in session
    session["here"] = 1
    await site.here.commit(session)
    assert dict(await site.here.load(cookie)) == {"user_id": 7, "there": 1, "here": 1}


async def test_a_change_after_a_log_out_elsewhere(site):
    """It brings nothing back."""
    cookie = await begin(site, user_id=7)
    await site.do_there(cookie, lambda session: session.clear())
    session = await site.here.load(cookie)
    session["here"] = 1
    await site.here.commit(session)
    assert dict(await site.here.load(cookie)) == {}
    assert not [record for record in site.store._records.values() if record.expires_at > site.clock()]


@pytest.mark.parametrize("is_kept", [True, False])
async def test_require_recent_where_nobody_can_wait(site, is_kept):
    """It is an error that says what to do, whether the session came from memory or not."""
    cookie = await begin(site, user_id=7)
    if not is_kept:
        site.here.near.forget_all()
    session = await site.here.load(Request(path="/account", headers=[("Cookie", cookie)]))
    with pytest.raises(ConfigurationError, match=r"name the route in fresh=\[\.\.\.\], or call `await session.refresh"):
        session.require_recent(60)
    await session.refresh()
    session.require_recent(60)


async def test_require_recent_on_a_fresh_route(site):
    """The store was asked, so that it answers at once."""
    cookie = await begin(site, user_id=7)
    loads = site.store.loads
    session = await site.here.load(Request(path="/pay/now", headers=[("Cookie", cookie)]))
    session.require_recent(60)
    assert site.store.loads == loads + 1


async def test_require_recent_without_a_session(site):
    """A visitor is not logged in, whatever is kept."""
    with pytest.raises(LoginTooOld):
        (await site.here.load(None)).require_recent(60)


def test_require_recent_where_the_handler_may_wait(site):
    """It asks the store before it answers."""
    cookie = asyncio.run(begin(site, user_id=7))
    session = site.here.sync.load(cookie)
    session.require_recent(60)
    asyncio.run(site.do_there(cookie, lambda other: other.clear()))
    session = site.here.sync.load(cookie)
    assert session["user_id"] == 7
    with pytest.raises(LoginTooOld):
        session.require_recent(60)
    site.here.sync.close()


@pytest.mark.parametrize("timeout", ["idle", "absolute"])
async def test_both_clocks_are_judged(timeout):
    """A session that has expired is not served from memory."""
    site = Site(absolute_timeout=MAX_AGE + 500)
    cookie = await begin(site, user_id=7)
    for _ in range(1 if timeout == "idle" else 4):
        site.clock.advance(MAX_AGE / 2 if timeout == "absolute" else MAX_AGE + 1)
        session = await site.here.load(cookie)
        session.mark_accessed()
        await site.here.commit(session)
        await site.here.load(cookie)
    assert dict(await site.here.load(cookie)) == {}


async def test_what_is_kept_is_sealed():
    """What lies in memory is what lies in the store."""
    site = Site(seal=True)
    cookie = await begin(site, user_id=7, note="a secret of the user")
    assert [record for record in site.here.near._records.values() if b"a secret" in record.data] == []
    assert (await site.here.load(cookie))["note"] == "a secret of the user"


@pytest.mark.parametrize("options", [{"record_client": True}, {"card_header": "X-Card"}, {"passive": ["/poll"]}])
async def test_other_options(options):
    """Sessions are served from memory with options that have requests go another way."""
    site = Site(**options)
    session = await site.here.load(None)
    session["user_id"] = 7
    headers = dict(await site.here.commit(session))
    given = headers["X-Card"] if "X-Card" in headers else headers.get("x-card", headers.get("set-cookie", ""))
    name = "X-Card" if "card_header" in options else "Cookie"
    request = Request(path="/poll", headers=[(name, given.split(";")[0])])
    await site.here.load(request)
    loads = site.store.loads
    assert (await site.here.load(request))["user_id"] == 7
    assert site.store.loads == loads


async def test_several_cookies(site):
    """The first one whose session lives counts, in memory as in the store."""
    one, other = await begin(site, user_id=7), await begin(site, user_id=8)
    loads = site.store.loads
    both = f"{one}; {other}"
    assert (await site.here.load(both))["user_id"] == 7 and site.store.loads == loads
    session = await site.here.load(other)
    session.clear()
    await site.here.commit(session)
    assert (await site.here.load(f"{other}; {one}"))["user_id"] == 7


async def test_lists_ask_the_store(site):
    """The list of a user's sessions shows what was revoked elsewhere."""
    cookie = await begin(site, user_id=7)
    await begin(site, user_id=7)
    with elsewhere():
        await site.there.sessions.revoke((await site.there.load(cookie)).handle)
    session = await site.here.load(cookie)
    assert len(await session.sessions.of(7)) == 1


async def test_it_is_off_without_the_option():
    """Nothing is kept, and the store is asked each time. A store in memory keeps nothing near either."""
    assert Site().there.near is None
    assert SessionManager(secret_key="k" * 32, store="memory://", near_cache=5).near is None
