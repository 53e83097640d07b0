"""Old sessions move in: once, with the first request, and never after a log-out."""

import asyncio
import dataclasses
import hashlib
import math
import time
from unittest import mock

import pytest
import starsessions.stores.redis
from litestar.stores.redis import RedisStore as LitestarStore
from ravyn import Gateway, Ravyn
from ravyn import get as ravyn_get
from ravyn.requests import Request as RavynRequest
from ravyn.testclient import RavynTestClient

from roomkey import (
    LoginTooOld,
    ResponseStarted,
    SessionConfig,
    SessionManager,
    SessionMiddleware,
    Sessions,
    StoreUnavailable,
)
from roomkey.legacy import LegacySession, LitestarRedis, RavynCookie, StarletteCookie, StarsessionsRedis
from roomkey.stores.memory import MemoryStore
from roomkey.testing.clock import Clock
from roomkey.wire import codec
from roomkey.wire.keys import hashed_key
from tests.driver import driver_of
from tests.legacy.app import Browser, OwnReader, _Refusal, roomkey_with, shop_app
from tests.legacy.cookies import (
    DATA,
    DAY,
    KEY,
    OTHER,
    SECRET,
    by_library,
    connected,
    litestar_cookie,
    ravyn_cookie,
    starlette_cookie,
    starsessions_cookie,
)
from tests.world import CountingStore


@by_library
@pytest.mark.parametrize("name", ["session", "sessionid", "roomkey"])
@pytest.mark.parametrize("path", ["/read", "/untouched"])
async def test_nobody_is_logged_out_by_the_switch(library, path, name):
    """The first request with an old cookie has its data and replaces the cookie, touched or not; so have later ones."""
    _, app = roomkey_with(library.reader(KEY), session_cookie=name)
    old_name, value = library.cookie(KEY, DATA)
    browser = Browser(app, **{old_name: value.decode()})

    assert await browser.visit(path) == (DATA if path == "/read" else {})
    assert set(browser.cookies) == {name}
    assert browser.cookies[name] != value.decode()
    assert await browser.visit("/read") == DATA
    assert browser.set_cookies == []


@pytest.mark.usefixtures("patient")
async def test_a_session_on_redis_moves_in_once(redis_url, leaves):
    """The old entry goes soon after the new session was saved; a copy of the old cookie is good for nothing by then."""
    async with connected(redis_url) as client:
        for reader, (name, value) in (
            (LitestarRedis(client), await litestar_cookie(LitestarStore(client), DATA)),
            (
                StarsessionsRedis(client),
                await starsessions_cookie(starsessions.stores.redis.RedisStore(connection=client), DATA),
            ),
        ):
            _, app = roomkey_with(reader)
            browser = Browser(app, **{name: value.decode()})
            assert await browser.visit("/read") == DATA
            assert await browser.visit("/read") == DATA
            assert await browser.visit("/log-out") == {}
            assert await Browser(app, **{name: value.decode()}).visit("/read") == {}
        for key in await client.keys():
            assert leaves(await client.ttl(key))


async def test_logging_out_by_the_first_request():
    """Who logs out with an old cookie is logged out: both cookies are taken back, and the old entry is removed."""
    reader = OwnReader()
    _, app = roomkey_with(reader)
    browser = Browser(app, own="a", session="left over")

    assert await browser.visit("/log-out") == {}
    assert (browser.cookies, reader.forgotten) == ({}, [b"a"])


async def test_logging_out_by_the_first_request_under_the_same_name():
    """The same where the old cookie has Roomkey's name."""
    _, app = roomkey_with(StarletteCookie(KEY))
    browser = Browser(app, session=starlette_cookie(KEY, DATA)[1].decode())
    assert await browser.visit("/log-out") == {}
    assert browser.cookies == {}


async def test_a_log_out_is_not_undone_by_an_old_cookie():
    """Who brings the card of a session that has ended is anonymous, whatever old cookie comes with it."""
    _, app = roomkey_with(OwnReader())
    browser = Browser(app, own="a")

    await browser.visit("/read")
    card = browser.cookies["session"]
    browser.cookies["own"] = "a"  # as if it had come back
    await browser.visit("/log-out")
    assert browser.cookies == {}
    assert await Browser(app, own="a", session=card).visit("/read") == {}


async def test_a_card_counts_before_an_old_cookie():
    """With a genuine card of a live session, no reader is asked."""
    _, app = roomkey_with(OwnReader())
    browser = Browser(app, own="a")

    await browser.visit("/read")
    browser.cookies["own"] = "b"
    assert await browser.visit("/read") == {"user_id": "a"}


@pytest.mark.parametrize("seal", [False, True])
async def test_first_requests_at_once_make_one_session(seal):
    """They all see the old session and none of their changes is lost; one of them gives the cookie."""
    reader = OwnReader()
    store, app = roomkey_with(reader, seal=seal)
    browsers = [Browser(app, own="a") for _ in range(8)]

    answers = await asyncio.gather(*(browser.visit("/count") for browser in browsers))
    assert answers == [{}] * 8
    (given,) = [browser for browser in browsers if "session" in browser.cookies]
    assert await given.visit("/read") == {"user_id": "a", "n": 8}
    assert len(await store.of_user("a")) == 1
    assert await browsers[0].visit("/count") == {}  # sent before the first answer was there
    assert await given.visit("/read") == {"user_id": "a", "n": 9}


@by_library
async def test_an_old_cookie_moves_in_once(library):
    """After a log-out, and after the session has expired, its old cookie opens nothing for as long as it is genuine."""
    clock = Clock(time.time())
    reader = library.reader(KEY)
    store = MemoryStore(clock=clock)
    app = SessionMiddleware(shop_app, secret_key=SECRET, store=store, legacy=[reader], clock=clock)
    name, value = library.cookie(KEY, DATA)
    other = library.cookie(KEY, {**DATA, "x": 1})[1]

    for end in ("log out", "expire", "log out at once"):
        cookie = {"log out": value, "expire": other}.get(end) or library.cookie(KEY, {**DATA, "y": 1})[1]
        browser = Browser(app, **{name: cookie.decode()})
        if end == "log out at once":
            await browser.visit("/log-out")
        else:
            assert (await browser.visit("/read"))["user_id"] == 7
            if end == "log out":
                await browser.visit("/log-out")
            else:
                clock.advance(DAY)
        copy = Browser(app, **{name: cookie.decode()})
        for _ in range(2):
            assert await copy.visit("/read") == {}
            assert copy.set_cookies == []
    clock.advance(reader.max_age - 2 * DAY)
    while await store.purge(100):
        pass
    assert await copy.visit("/read") == {}


async def test_an_old_cookie_is_served_for_a_moment_after_its_session_has_moved_in():
    """What the browser sent together is served without a cookie of its own; later there is nothing for it."""
    clock = Clock(time.time())
    app = SessionMiddleware(
        shop_app, secret_key=SECRET, store=MemoryStore(clock=clock), legacy=[OwnReader()], clock=clock
    )

    await Browser(app, own="a").visit("/read")
    late = Browser(app, own="a")
    clock.advance(9)
    assert await late.visit("/read") == {"user_id": "a"}
    assert late.set_cookies == []
    clock.advance(2)
    assert await late.visit("/read") == {}


async def test_a_first_request_that_marks_its_session_as_modified():
    """Frameworks do that. What the browser sent together with it is served all the same."""
    clock = Clock()
    manager = SessionManager(secret_key=SECRET, store=MemoryStore(clock=clock), legacy=[OwnReader()], clock=clock)
    session = await manager.load("own=a")
    session.modified = True
    await manager.commit(session)
    assert await manager.load("own=a") == {"user_id": "a"}


async def test_an_old_cookie_from_before_the_log_in_opens_nothing_after_it():
    """Who planted an old cookie does not get into the session of the user who logs in with it, first or later."""
    _, app = roomkey_with(StarletteCookie(KEY))

    for paths in (["/log-in"], ["/read", "/log-in"]):
        planted = starlette_cookie(KEY, {"cart": len(paths)})[1].decode()
        victim = Browser(app, session=planted)
        for path in paths:
            await victim.visit(path)
        assert await Browser(app, session=planted).visit("/read") == {}
        assert await victim.visit("/read") == {"cart": len(paths), "user_id": "new"}


async def test_a_slow_first_request_does_not_bring_back_what_has_ended():
    """Two first requests, and a log-out while one of them still runs: it is saved nowhere."""
    store, app = roomkey_with(OwnReader())

    slow = await driver_of(app).arrive([], {b"own": [b"a"]})
    browser = Browser(app, own="a")
    assert await browser.visit("/read") == {"user_id": "a"}
    await browser.visit("/log-out")
    slow.session["x"] = 1
    await slow.commit()
    assert slow.lost
    assert await store.of_user("a") == []
    assert await Browser(app, own="a").visit("/read") == {}


async def test_a_revoked_session_does_not_move_in_again():
    """Not even where no response has given a cookie yet."""
    _, app = roomkey_with(OwnReader())

    with pytest.raises(RuntimeError):
        await Browser(app, own="a").visit("/raise")
    assert await Sessions(driver_of(app)).revoke_all("a") == 1
    assert await Browser(app, own="a").visit("/read") == {}


@pytest.mark.parametrize("in_cookie", [False, True], ids=["on the server", "in the cookie"])
@pytest.mark.parametrize(
    ("created_at", "known"), [(None, None), (500.0, 500.0), (2e9, 1e6), (math.inf, None), (math.nan, None)]
)
async def test_a_session_that_moves_in_is_no_recent_log_in(in_cookie, created_at, known):
    """When the log-in was is not known: no sooner than the session began. A log-in of its own is recent."""

    class Reader(OwnReader):
        async def read(self, value):
            return LegacySession({"user_id": "a"}, created_at=created_at)

    clock = Clock(1e6)
    store = "cookie://" if in_cookie else MemoryStore(clock=clock)
    config = SessionConfig(secret_key=SECRET, store=store, legacy=[Reader()], clock=clock)
    life = driver_of(SessionMiddleware(shop_app, config))

    visit, card = await life.arrive([], {b"own": [b"a"]}), None
    for _ in range(2):
        moment = visit.session.authenticated_at
        assert (None if moment is None else moment.timestamp()) == known
        if known != 1e6:
            with pytest.raises(LoginTooOld):
                visit.session.require_recent(300)
        await visit.commit()
        card = visit.card or card
        visit = await life.arrive([card])
    visit.session.reauthenticated()
    visit.session.require_recent(300)
    for act in ("invalidate", "log in"):
        visit = await life.arrive([], {b"own": [act.encode()]})
        if act == "invalidate":
            visit.session.invalidate()
        visit.session["user_id"] = "a" if act == "invalidate" else "b"
        await visit.commit()
        (await life.arrive([visit.card])).session.require_recent(300)


@pytest.mark.parametrize("store", ["memory://", "cookie://"])
async def test_a_user_that_is_no_id_stays_outside(store, caplog):
    """An old session whose value under `user_key` is no ID does not move in; that is said once."""

    class Reader(OwnReader):
        async def read(self, value):
            return LegacySession({"user_id": ["a"]})

    app = SessionMiddleware(shop_app, secret_key=SECRET, store=store, legacy=[Reader()])

    for _ in range(2):
        assert await Browser(app, own="a").visit("/read") == {}
    assert driver_of(app).refused["legacy"] == 2
    assert caplog.text.count("old sessions do not move in") == 1


@pytest.mark.parametrize(("store", "size"), [("memory://", 65530), ("cookie://", 6000)])
async def test_a_session_that_just_does_not_fit_stays_outside(store, size, caplog):
    """One that is too large with what Roomkey adds, or for a cookie, is no error on every page."""

    class Reader(OwnReader):
        async def read(self, value):
            return LegacySession({"user_id": "a", "x": "y" * (size - 15)}, created_at=time.time())

    app = SessionMiddleware(shop_app, secret_key=SECRET, store=store, legacy=[Reader()])

    for _ in range(2):
        assert await Browser(app, own="a").visit("/read") == {}
    assert driver_of(app).refused["legacy"] == 2
    assert caplog.text.count("old sessions do not move in") == 1


async def test_an_old_cookie_under_another_readers_name_is_the_same_session():
    """Who logged out cannot move in again by renaming the old cookie."""
    app = SessionMiddleware(
        shop_app,
        secret_key=SECRET,
        store="memory://",
        session_cookie="new",
        legacy=[StarletteCookie(KEY), StarletteCookie(KEY, cookie_name="older")],
    )
    cookie = starlette_cookie(KEY, DATA)[1].decode()

    browser = Browser(app, session=cookie)
    await browser.visit("/read")
    await browser.visit("/log-out")
    assert await Browser(app, older=cookie).visit("/read") == {}


async def test_what_an_old_cookie_held_does_not_lead_to_the_sealed_session():
    """With a dump of the store and every secret key, whoever guesses an old cookie's data finds nothing with it."""
    clock = Clock(time.time())
    store = MemoryStore(clock=clock)
    app = SessionMiddleware(
        shop_app, secret_key=SECRET, store=store, legacy=[StarletteCookie(KEY)], clock=clock, seal=True
    )
    cookie = starlette_cookie(KEY, {"user_id": 7})[1]  # guessed: it holds nothing but a small number

    def opened():
        """What is found by way of the mark."""
        mark = hashlib.sha256(b"roomkey: moved in\0session\0" + cookie).digest()
        envelope, key = driver_of(app).envelope, hashed_key(mark)
        secret = envelope.secret_of(mark)
        while key in store._records:
            record = store._records[key]
            if record.successor is None:
                return codec.decode(envelope.open(record, key, secret))
            secret, key = envelope.follow(record, secret), record.successor
        return None

    browser = Browser(app, session=cookie.decode())
    await browser.visit("/count")
    assert opened() == {"user_id": 7, "n": 1}  # as long as requests from before may still be saved
    clock.advance(61)
    await browser.visit("/count")
    await driver_of(app).store.purge(100)
    assert opened() is None
    assert await browser.visit("/read") == {"user_id": 7, "n": 2}
    assert await Browser(app, session=cookie.decode()).visit("/read") == {}


@pytest.mark.parametrize("seal", [False, True])
@pytest.mark.parametrize("seconds", [0, 30, 61])
async def test_a_log_out_by_a_request_that_brought_the_old_cookie(seal, seconds):
    """It ends the session that another request has moved in meanwhile. Where it cannot find that one, it fails."""
    clock = Clock(1_700_000_000.0)
    store = MemoryStore(clock=clock)
    app = SessionMiddleware(shop_app, secret_key=SECRET, store=store, legacy=[OwnReader()], clock=clock, seal=seal)
    life = driver_of(app)
    slow, other = [await life.arrive([], cookies={b"own": [b"a"]}) for _ in range(2)]
    other.session["x"] = 1
    await other.commit()
    assert other.card
    clock.advance(seconds)
    slow.session.clear()
    if seal and seconds > 60:
        with pytest.raises(StoreUnavailable):
            await slow.commit()
    else:
        await slow.commit()
    there = await life.arrive([other.card])
    assert (there.record is not None) == (seal and seconds > 60)


async def test_a_mark_that_cannot_be_followed():
    """A damaged mark, and one that leads to nothing, are no session and no error."""
    store, app = roomkey_with(OwnReader(), seal=True)

    await Browser(app, own="a").visit("/read")
    (mark,) = [key for key, record in store._records.items() if record.user is None]
    good = store._records[mark]
    for bad in ({"data": b"x"}, {"successor": None}, {"successor": "0" * 64}):
        store._records[mark] = dataclasses.replace(good, **bad)
        assert await Browser(app, own="a").visit("/read") == {}


async def test_the_limit_counts_who_moves_in():
    """`max_sessions_per_user` holds for sessions that move in too."""
    store, app = roomkey_with(OwnReader(data={"user_id": "a"}), max_sessions_per_user=2)

    browsers = [Browser(app, own=str(number)) for number in range(3)]
    for browser in browsers:
        assert await browser.visit("/read") == {"user_id": "a"}
    assert len(await store.of_user("a")) == 2


@pytest.mark.parametrize("seal", [False, True])
async def test_requests_that_move_in_together_take_one_place_of_the_limit(seal):
    """Twenty requests with one old cookie are one session: it pushes out the longest unused one, and no other."""
    clock = Clock(1_700_000_000.0)
    store = CountingStore(clock=clock)
    options = {"store": store, "clock": clock, "max_sessions_per_user": 2, "seal": seal}
    app = SessionMiddleware(shop_app, secret_key=SECRET, legacy=[OwnReader(data={"user_id": "new"})], **options)

    before = []
    for _ in range(2):
        before.append(Browser(app))
        await before[-1].visit("/log-in")
        clock.advance(10)
    together = [Browser(app, own="a") for _ in range(20)]
    assert await asyncio.gather(*(browser.visit("/read") for browser in together)) == [{"user_id": "new"}] * 20
    assert len(await store.of_user("new")) == 2
    # The browser keeps the card that came last.
    assert {"user_id": "new"} in [await browser.visit("/read") for browser in together]
    assert [await browser.visit("/read") for browser in before] == [{}, {"user_id": "new"}]


async def test_a_copy_of_a_logged_out_cookie_in_the_last_second_of_its_life():
    """Whole seconds are counted there, so it lives a little longer than it says; what says that it moved in, longer."""
    clock = Clock(1_700_000_000.0)
    with mock.patch("time.time", clock):
        _, value = starlette_cookie(KEY, {"user_id": 5})
    reader = StarletteCookie(KEY, clock=clock)
    store = MemoryStore(clock=clock)
    app = SessionMiddleware(shop_app, secret_key=SECRET, store=store, legacy=[reader], clock=clock)

    browser, copy = Browser(app, session=value.decode()), Browser(app, session=value.decode())
    await browser.visit("/read")
    await browser.visit("/log-out")
    clock.advance(14 * DAY - 1)
    for _ in range(30):
        clock.advance(0.1)
        assert await copy.visit("/read") == {}


async def test_two_apps_with_one_store_and_one_old_cookie():
    """A session that moved in to the one is not the other's, whose cookie and keys are its own."""
    clock = Clock()
    options = {"store": MemoryStore(clock=clock), "clock": clock}
    shop, admin = (
        SessionMiddleware(shop_app, secret_key=key, session_cookie=name, legacy=[OwnReader()], **options)
        for key, name in ((SECRET, "shop"), (OTHER, "admin"))
    )

    first, second = Browser(shop, own="a"), Browser(admin, own="a")
    await first.visit("/count")
    assert await second.visit("/read") == {"user_id": "a"}
    await second.visit("/count")
    assert await first.visit("/read") == {"user_id": "a", "n": 1}


async def test_a_refresh_gives_no_second_card():
    """Another first request with the old cookie has moved the session in: its response carries the card."""
    _, app = roomkey_with(OwnReader())

    one, two = [await driver_of(app).arrive([], {b"own": [b"a"]}) for _ in range(2)]
    await one.commit()
    await two.session.refresh()
    two.session["x"] = 1
    await two.commit()
    assert two.card == b""
    assert (await driver_of(app).arrive([one.card])).session == {"user_id": "a", "x": 1}


@pytest.mark.parametrize("act", ["rotate", "reauthenticated", "log in again", "remember"])
async def test_what_a_session_that_moves_in_cannot_do_without_a_cookie(act):
    """In a response that has started: an error, not silence."""
    _, app = roomkey_with(OwnReader())

    visit = await driver_of(app).arrive([], {b"own": [b"a"]})
    visit.cookie_possible = False
    if act == "log in again":
        visit.session.clear()
        visit.session["user_id"] = "a"
    elif act == "remember":
        visit.session.remember(60)
    else:
        getattr(visit.session, act)()
    with pytest.raises(ResponseStarted):
        await visit.session.save()


async def test_who_comes_second_files_what_the_first_request_could_not(monkeypatch):
    """The store failed after the first request had saved the session and before it had said whose it is."""
    store, app = roomkey_with(OwnReader(data={"user_id": "new"}), max_sessions_per_user=2)

    async def down(*args, **options):
        raise StoreUnavailable("down")

    browser = Browser(app, own="a")
    with monkeypatch.context() as patch:
        patch.setattr(store, "update", down)
        assert await browser.visit("/read") == 503
    assert await store.of_user("new") == []
    assert await browser.visit("/read") == {"user_id": "new"}
    assert len(await store.of_user("new")) == 1
    assert await browser.visit("/read") == {"user_id": "new"}
    assert set(browser.cookies) == {"session"}


async def test_the_list_of_sessions_says_from_where_one_moved_in():
    """With `record_client`; and says nothing of who has logged out since."""
    _, app = roomkey_with(OwnReader())

    visit = await driver_of(app).arrive([], {b"own": [b"a"]})
    visit.client = ("192.0.2.1", "a browser")
    visit.session["x"] = 1
    await visit.commit()
    (info,) = await Sessions(driver_of(app)).of("a")
    assert (info.ip, info.user_agent) == ("192.0.2.1", "a browser")
    visit = await driver_of(app).arrive([visit.card])
    visit.client = ("192.0.2.1", "a browser")
    del visit.session["user_id"]
    await visit.commit()
    assert visit.record.about == b""


async def test_a_log_in_by_the_first_request_is_no_part_of_the_old_session():
    """It gets an ID of its own, and the requests that were sent with it see nothing of it."""
    _, app = roomkey_with(OwnReader())
    one, two = Browser(app, own="a"), Browser(app, own="a")

    await one.visit("/log-in")
    assert await one.visit("/read") == {"user_id": "new"}
    assert await two.visit("/read") == {}


async def test_a_store_that_is_down_loses_no_old_session(monkeypatch):
    """When the new session cannot be saved, the answer is 503, and the old cookie and entry stay."""
    reader = OwnReader()
    store, app = roomkey_with(reader)
    browser = Browser(app, own="a")

    async def down(*args, **options):
        raise StoreUnavailable("down")

    with monkeypatch.context() as patch:
        patch.setattr(store, "create", down)
        assert await browser.visit("/read") == 503
        assert (browser.cookies, reader.forgotten) == ({"own": "a"}, [])
    assert await browser.visit("/read") == {"user_id": "a"}
    assert (set(browser.cookies), reader.forgotten) == ({"session"}, [b"a"])


async def test_an_old_server_that_is_down_is_503():
    """Where nobody knows whether there is an old session, the answer is 503, and the cookie stays."""
    reader = OwnReader(error=OSError())
    _, app = roomkey_with(reader)
    browser = Browser(app, own="a")

    assert await browser.visit("/read") == 503
    assert browser.cookies == {"own": "a"}
    assert await Browser(app).visit("/read") == {}  # others are served


async def test_a_websocket_moves_in_when_it_is_accepted():
    """A WebSocket's cookie goes out when it is accepted; one that is refused leaves the old session for later."""
    reader = OwnReader()
    _, app = roomkey_with(reader)
    browser = Browser(app, own="a")

    await browser.visit("/close", "websocket")
    assert (browser.cookies, reader.forgotten) == ({"own": "a"}, [])
    await browser.visit("/accept", "websocket")
    assert (set(browser.cookies), reader.forgotten) == ({"session"}, [b"a"])
    assert await browser.visit("/read") == {"user_id": "a"}


@pytest.mark.parametrize(("path", "error"), [("/raise", RuntimeError), ("/refuse", _Refusal)])
async def test_a_request_that_cannot_give_a_cookie_leaves_it_for_later(path, error):
    """After an unhandled error, or an answer whose one cookie is the app's, the old session is still there."""
    reader = OwnReader()
    _, app = roomkey_with(reader)
    browser = Browser(app, own="a")

    with pytest.raises(error):
        await browser.visit(path)
    assert reader.forgotten == []
    assert await browser.visit("/read") == {"user_id": "a"}


async def test_without_an_old_cookie_nothing_happens():
    """Anonymous and forged requests stay anonymous; forged values are counted."""
    _, app = roomkey_with(StarletteCookie(KEY))

    assert await Browser(app).visit("/read") == {}
    forged = Browser(app, session=starlette_cookie(OTHER, DATA)[1].decode())
    assert await forged.visit("/read") == {}
    assert forged.set_cookies == []
    assert driver_of(app).refused["legacy"] == 1


async def test_a_cookie_of_the_same_name_at_another_path_is_taken_back_first():
    """A browser that takes the two cookies for one keeps the new one."""
    _, app = roomkey_with(StarletteCookie(KEY, path="/old"))
    browser = Browser(app, session=starlette_cookie(KEY, DATA)[1].decode())

    assert await browser.visit("/read") == DATA
    old, new = browser.set_cookies
    assert "Max-Age=0" in old and "Path=/old" in old
    assert browser.cookies == {"session": new.partition(";")[0].partition("=")[2]}
    assert await browser.visit("/read") == DATA


def test_a_ravyn_app_moves_in():
    """Ravyn's own sessions move in with one import changed and one option added."""
    from roomkey.ravyn import SessionConfig as Config

    @ravyn_get("/")
    async def show(request: RavynRequest) -> dict:
        return dict(request.session)

    config = Config(secret_key=SECRET, store="memory://", legacy=[RavynCookie(KEY)])
    value = ravyn_cookie(KEY, DATA)[1].decode()
    with RavynTestClient(Ravyn(routes=[Gateway(handler=show)], session_config=config)) as client:
        assert client.get("/", headers={"Cookie": f"session={value}"}).json() == DATA
        assert client.get("/").json() == DATA
