"""`anonymous_max_age`: sessions that nobody is logged into live for another time than those of users."""

import json
import time
from base64 import b64encode

import pytest
from itsdangerous import TimestampSigner

from roomkey import Request, SessionManager, Sessions
from roomkey.legacy import StarletteCookie
from roomkey.stores.memory import MemoryStore
from roomkey.testing import Clock
from tests.world import CountingStore

MAX_AGE, ANONYMOUS = 1000.0, 100.0  # seconds
OLD_KEY = "the key of the old library, 32 bytes and more"


class Site:
    """A manager, a clock, and one browser."""

    def __init__(self, store=MemoryStore, **options):
        self.clock = Clock(1_000_000.0)
        self.store = store if isinstance(store, str) else store(clock=self.clock)
        settings = {"secret_key": "k" * 32, "max_age": MAX_AGE, "anonymous_max_age": ANONYMOUS, **options}
        self.manager = SessionManager(store=self.store, clock=self.clock, **settings)
        self.cookie = self.sent = None

    async def ask(self, act=lambda session: session.get("x"), **more):
        """Send a request; return what `act` returned."""
        headers = [] if self.cookie is None else [("cookie", self.cookie)]
        session = await self.manager.load(Request(headers=headers))
        answer = act(session)
        at_once = self.manager.at_once
        raw = []
        if at_once is None or not at_once.commit(session, raw):
            raw = await self.manager.commit(session, raw=True)
        self.sent = dict(raw).get(b"set-cookie")
        if self.sent is not None:
            self.cookie = self.sent.split(b";")[0].decode()
        return answer

    async def put(self, **values):
        await self.ask(lambda session: session.update(values))

    async def is_there_after(self, seconds):
        self.clock.advance(seconds)
        return await self.ask(lambda session: bool(dict(session)))


@pytest.fixture(params=["at once", "waiting", "sealed", "cookie"])
def site(request):
    kinds = {"at once": {}, "waiting": {"store": CountingStore}, "sealed": {"seal": True}, "cookie": {}}
    return Site("cookie://") if request.param == "cookie" else Site(**kinds[request.param])


async def test_a_visitors_session(site):
    """It ends so long after it was last used. The cookie says the same."""
    await site.put(x=1)
    assert b"Max-Age=100;" in site.sent
    for _ in range(5):  # it is renewed by use
        assert await site.is_there_after(ANONYMOUS - 1)
    assert not await site.is_there_after(ANONYMOUS)


async def test_what_the_handler_is_told(site):
    """`expires_at` says so before the session is saved, and after."""
    told = await site.ask(lambda session: (session.update(x=1), session.expires_at)[1])
    assert told.timestamp() == site.clock() + ANONYMOUS
    assert (await site.ask(lambda session: session.expires_at)).timestamp() == site.clock() + ANONYMOUS


async def test_a_log_in_makes_it_a_users(site):
    """And a log-out that keeps something makes it a visitor's again."""
    await site.put(x=1)
    await site.put(user_id=7)
    assert b"Max-Age=1000;" in site.sent
    assert await site.is_there_after(MAX_AGE - 1)
    await site.ask(lambda session: session.pop("user_id"))
    assert b"Max-Age=100;" in site.sent
    assert await site.ask(lambda session: session["x"]) == 1
    assert not await site.is_there_after(ANONYMOUS)


async def test_a_session_that_begins_with_a_log_in(site):
    """It is a user's from the beginning."""
    await site.put(user_id=7)
    assert b"Max-Age=1000;" in site.sent
    assert await site.is_there_after(MAX_AGE - 1)


async def test_a_visitor_may_be_remembered(site):
    """`remember` says how long this session lives, whoever's it is."""
    await site.ask(lambda session: (session.update(x=1), session.remember(500)))
    assert b"Max-Age=500;" in site.sent
    assert await site.is_there_after(499)


@pytest.mark.parametrize("store", [MemoryStore, "cookie://"])
async def test_a_cookie_that_goes_with_the_browser(store):
    """With persistent=False a life of its own does not make a visitor's cookie outlive the browser."""
    site = Site(store, persistent=False)
    await site.put(x=1)
    assert b"Max-Age" not in site.sent
    await site.ask(lambda session: session.remember(500))
    assert b"Max-Age=500" in site.sent


async def test_without_the_option_nothing_changes():
    """A visitor's session lives as long as any other."""
    site = Site(anonymous_max_age=None)
    await site.put(x=1)
    assert b"Max-Age=1000;" in site.sent
    assert await site.is_there_after(MAX_AGE - 1)


async def test_sessions_from_before_the_option():
    """They live as they began, and are not given a new ID for it."""
    site = Site(anonymous_max_age=None)
    await site.put(x=1)
    later = Site(lambda clock: site.store)
    later.clock, later.cookie = site.clock, site.cookie
    later.manager = SessionManager(
        store=site.store, clock=site.clock, secret_key="k" * 32, max_age=MAX_AGE, anonymous_max_age=ANONYMOUS
    )
    await later.put(x=2)
    assert later.cookie == site.cookie
    assert await later.is_there_after(MAX_AGE - 1)


async def test_the_list_of_a_users_sessions():
    """It says when each was last used, also of one that a visitor began."""
    site = Site()
    await site.put(x=1)
    site.clock.advance(50)
    await site.put(user_id=7)
    (info,) = await Sessions(site.manager).of(7)
    assert info.last_used_at.timestamp() == site.clock()
    assert info.expires_at.timestamp() == site.clock() + MAX_AGE


@pytest.mark.parametrize("store", [MemoryStore, "cookie://"])
@pytest.mark.parametrize(("data", "life"), [({"x": 1}, ANONYMOUS), ({"x": 1, "user_id": 7}, MAX_AGE)])
async def test_an_old_librarys_session_that_moves_in(store, data, life):
    """A visitor's lives as long as one that begins here."""
    signed = TimestampSigner(OLD_KEY).sign(b64encode(json.dumps(data).encode())).decode()
    site = Site(store, legacy=[StarletteCookie(OLD_KEY)], session_cookie="rk")
    site.clock.now = time.time()
    site.cookie = f"session={signed}"
    assert await site.ask(lambda session: session["x"]) == 1
    assert site.cookie.startswith("rk=")
    assert b"Max-Age=%d;" % life in site.sent
    assert not await site.is_there_after(life)
