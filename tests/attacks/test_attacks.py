"""The attacks that must fail, each a test named after it, over every store that keeps sessions on a server."""

import asyncio
import base64
import contextlib
import dataclasses
import hmac
import json
import time

import itsdangerous
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from roomkey import (
    ConfigurationError,
    SessionConfig,
    SessionDataError,
    SessionEnded,
    SessionMiddleware,
    Sessions,
)
from roomkey.legacy import StarletteCookie
from roomkey.lifecycle import Lifecycle
from roomkey.stores.memory import MemoryStore
from roomkey.testing import Clock
from roomkey.wire import codec
from roomkey.wire.keys import new_session_id, store_key

SECRET = "the secret key of these tests, 32 bytes and more"


class Site:
    """An app with Roomkey in front, and raw requests to it."""

    def __init__(self, store, clock, **options):
        self.clock = clock
        self.store = store
        options = {"secret_key": SECRET, "max_age": 1000, "store_timeout": 10, **options}
        self.config = SessionConfig(store=store, clock=clock, **options)
        self.app = SessionMiddleware(self._handle, self.config)
        self.life: Lifecycle = self.app.lifecycle
        self.act = lambda session: None
        self.wait = None
        self.headers = ()

    async def _handle(self, scope, receive, send):
        session = scope["session"]
        self.seen = session.copy()
        result = self.act(session)
        if result is not None and hasattr(result, "__await__"):
            await result
        await send({"type": "http.response.start", "status": 200, "headers": list(self.headers)})
        await send({"type": "http.response.body", "body": b"ok"})

    async def ask(self, cookie=None, act=None, headers=()):
        """Send one request; return what its handler found in the session, and the headers of the answer."""
        self.act = act or (lambda session: None)
        sent = []

        async def send(message):
            sent.append(message)

        raw = [*headers, *([] if cookie is None else [(b"cookie", b"session=" + cookie)])]
        scope = {"type": "http", "method": "GET", "path": "/", "headers": raw, "client": ("192.0.2.1", 1)}
        self.seen = None
        await self.app(scope, None, send)
        return self.seen, sent[0]["headers"]

    async def log_in(self, user=42, cookie=None):
        """Log in; return the card that the answer gave."""
        _, headers = await self.ask(cookie, lambda session: session.__setitem__("user_id", user))
        return card_in(headers)

    async def who(self, cookie):
        seen, _ = await self.ask(cookie)
        return seen.get("user_id")


def set_cookies(headers):
    return [value for name, value in headers if name == b"set-cookie"]


def card_in(headers):
    (cookie,) = set_cookies(headers)
    return cookie.split(b";")[0].partition(b"=")[2]


def update(**values):
    return lambda session: session.update(values)


@pytest.fixture(params=[False, True], ids=["plain", "sealed"])
def new_site(request, any_store):
    """Return a context manager: a site over the store under test, which it closes."""

    @contextlib.asynccontextmanager
    async def make(**options):
        options = {"seal": request.param, **options}
        clock = Clock(time.time())
        store = await any_store(clock)
        try:
            yield Site(store, clock, **options)
        finally:
            if hasattr(store, "close"):
                await store.close()

    return make


# --- fixation ---------------------------------------------------------------------------------------------------------


async def test_fixation_with_an_id_that_was_never_issued(new_site):
    """An ID that the attacker made up, even rightly signed, is not adopted: the victim gets a fresh one."""
    async with new_site() as site:
        planted = site.life.keyring.sign(new_session_id())
        card = await site.log_in(cookie=planted)
        assert card != planted
        assert await site.who(planted) is None
        assert await site.who(card) == 42


async def test_fixation_with_an_expired_id(new_site):
    """An ID that was good once and has expired is not adopted either."""
    async with new_site() as site:
        planted = card_in((await site.ask(act=update(x=1)))[1])
        site.clock.advance(2000)
        card = await site.log_in(cookie=planted)
        assert card != planted
        assert await site.who(planted) is None


async def test_fixation_with_the_id_from_before_the_log_in(new_site):
    """The ID that the attacker planted while nobody was logged in is dead after the log-in."""
    async with new_site() as site:
        planted = card_in((await site.ask(act=update(x=1)))[1])
        card = await site.log_in(cookie=planted)
        assert card != planted
        seen, headers = await site.ask(planted)
        assert seen == {}
        assert not set_cookies(headers)
        assert await site.who(card) == 42


async def test_fixation_with_an_id_that_is_in_grace_at_the_log_in(new_site):
    """A planted ID that a rotation serves for a while longer does not lead to the session of whoever logs in then."""
    async with new_site() as site:
        planted = card_in((await site.ask(act=update(x=1)))[1])
        current = card_in((await site.ask(planted, lambda session: session.rotate(grace=60)))[1])
        assert (await site.ask(planted))[0] == {"x": 1}
        card = await site.log_in(cookie=current)
        seen, headers = await site.ask(planted)
        assert seen == {}
        assert not set_cookies(headers)
        assert await site.who(current) is None
        assert await site.who(card) == 42


async def test_fixation_where_the_log_in_asks_for_a_grace(new_site):
    """A log-in whose handler rotates with a grace besides leaves none to the ID from before it."""
    async with new_site() as site:
        planted = card_in((await site.ask(act=update(x=1)))[1])

        def log_in(session):
            session["user_id"] = 42
            session.rotate(grace=60)

        card = card_in((await site.ask(planted, log_in))[1])
        assert (await site.ask(planted))[0] == {}
        assert await site.who(card) == 42


async def test_a_request_under_way_from_before_the_log_in(new_site):
    """Whoever had a request running with the planted ID at the log-in reads nothing of the user's, nor ends it."""
    async with new_site() as site:

        async def slow(session, do):
            site.victim = await site.log_in(cookie=planted)
            await do(session)

        async def save(session):
            session["mine"] = 1
            await session.save()
            assert session == {"x": 1, "mine": 1}
            with pytest.raises(SessionEnded):
                await session.refresh()
            assert session == {"x": 1, "mine": 1}

        async def clear(session):
            session.clear()

        async def rotate(session):
            session.rotate()

        for do in (save, clear, rotate):
            planted = card_in((await site.ask(act=update(x=1)))[1])
            _, headers = await site.ask(planted, lambda session, do=do: slow(session, do))
            assert not set_cookies(headers)
            assert await site.who(site.victim) == 42


# --- bringing back what ended -----------------------------------------------------------------------------------------


async def test_replay_after_log_out(new_site):
    """A copied cookie opens nothing after the log-out, and the answer says no to it again and again."""
    async with new_site() as site:
        card = await site.log_in()
        _, headers = await site.ask(card, lambda session: session.clear())
        assert b"Max-Age=0" in set_cookies(headers)[0]
        for _ in range(3):
            assert await site.who(card) is None


OLD_KEY = "the secret key of the app before, 32 bytes and more"


def old_cookie(**data):
    """Return a cookie as Starlette's own middleware makes them."""
    payload = base64.b64encode(json.dumps(data).encode())
    return itsdangerous.TimestampSigner(OLD_KEY).sign(payload)


async def test_replay_of_an_old_librarys_cookie_after_log_out(new_site):
    """A session that moved in from another library and has ended does not move in again, whoever kept a copy."""
    async with new_site(legacy=[StarletteCookie(OLD_KEY)]) as site:

        def log_out(session):
            session.clear()

        for first, act in enumerate([update(x=1), log_out]):
            cookie = old_cookie(user_id=42, first=first)
            seen, headers = await site.ask(cookie, act)
            assert seen["user_id"] == 42
            if act is not log_out:
                assert await site.who(card_in(headers)) == 42
                await site.ask(card_in(headers), log_out)
            assert (await site.ask(cookie))[0] == {}
            site.clock.advance(2000)
            assert (await site.ask(cookie))[0] == {}


async def test_an_old_librarys_cookie_many_times_at_once(new_site):
    """First requests that come together make one session, and lose nothing of each other."""
    async with new_site(legacy=[StarletteCookie(OLD_KEY)]) as site:

        def count(session):
            session.change("n", lambda n: n + 1, default=0)

        cookie = old_cookie(user_id=42)
        answers = await asyncio.gather(*(site.ask(cookie, count) for _ in range(10)))
        (given,) = [headers for _, headers in answers if set_cookies(headers)]
        assert (await site.ask(card_in(given)))[0] == {"user_id": 42, "n": 10}
        assert len(await Sessions(site.config).of(42)) == 1


async def test_restore_after_delete(new_site):
    """A request that had loaded the session before the log-out cannot write it back."""
    async with new_site() as site:
        card = await site.log_in()
        late = await site.life.arrive([card])
        await site.ask(card, lambda session: session.invalidate())
        late.session["x"] = 1
        await late.commit()
        assert late.lost
        assert await site.who(card) is None


async def test_rotate_then_clear(new_site):
    """A log-out by a request that had loaded the session before it rotated ends the session under its new ID too."""
    async with new_site() as site:
        card = await site.log_in()
        leaving = await site.life.arrive([card])
        _, headers = await site.ask(card, lambda session: session.rotate())
        leaving.session.clear()
        await leaving.commit()
        assert await site.who(card_in(headers)) is None
        assert await site.who(card) is None


async def test_rotate_twice(new_site):
    """Two rotations at once leave one live session, that everybody's changes are in, and no second card."""
    async with new_site() as site:
        card = await site.log_in()
        visits = [await site.life.arrive([card]) for _ in range(2)]
        for number, visit in enumerate(visits):
            visit.session[f"k{number}"] = number
            visit.session.rotate()
        for visit in visits:
            await visit.commit()
        cards = {visit.card for visit in visits if visit.cookie.value == "give"}
        live = [seen for seen in [(await site.ask(each))[0] for each in cards] if seen]
        assert live == [{"user_id": 42, "k0": 0, "k1": 1}]
        assert await site.who(card) is None


async def test_late_response_after_rotation(new_site):
    """A response that comes after the rotation sends no cookie, and does not log the user out; its change is kept."""
    async with new_site() as site:
        card = await site.log_in()
        fresh = []

        async def slow(session):
            session["late"] = 1
            other = await site.life.arrive([card])
            other.session.rotate()
            await other.commit()
            fresh.append(other.card)

        _, headers = await site.ask(card, slow)
        assert not set_cookies(headers)
        seen, _ = await site.ask(fresh[0])
        assert seen == {"user_id": 42, "late": 1}


async def test_lost_update(new_site):
    """Fifty concurrent requests that each write their own key, and count, lose nothing."""
    async with new_site() as site:
        card = await site.log_in()

        async def one(number):
            visit = await site.life.arrive([card])
            await asyncio.sleep(0)
            visit.session[f"k{number}"] = number
            visit.session.change("n", lambda n: n + 1, 0)
            await visit.commit()

        await asyncio.gather(*(one(number) for number in range(50)))
        seen, _ = await site.ask(card)
        assert seen == {"user_id": 42, "n": 50} | {f"k{number}": number for number in range(50)}


# --- cookies ----------------------------------------------------------------------------------------------------------


async def test_cookie_tossing_and_duplicates(new_site):
    """A cookie of the same name from a sibling domain neither hides the genuine one nor becomes the session."""
    async with new_site() as site:
        card = await site.log_in()
        for tossed in (b"x", b"0" * 76, card[:-1] + b"!", b""):
            for header in (tossed + b"; session=" + card, card + b"; session=" + tossed):
                assert await site.who(header) == 42
        assert await site.who(b"; session=".join([b"x"] * 500)) is None


async def test_cookie_tossing_with_a_genuine_card_that_has_ended(new_site):
    """Nor does one that the sibling domain got here, by logging in and out, or from before a rotation."""
    async with new_site() as site:
        ended, rotated = await site.log_in(7), await site.log_in(8)
        await site.ask(ended, lambda session: session.clear())
        await site.ask(rotated, lambda session: session.rotate())
        card = await site.log_in()
        for tossed in (ended, rotated):
            for header in (tossed + b"; session=" + card, card + b"; session=" + tossed):
                assert await site.who(header) == 42
            assert await site.who(tossed + b"; session=" + tossed) is None


async def test_cross_subdomain(new_site):
    """By default the cookie has no Domain: a sibling never gets it; with __Host- nobody else can set it."""
    async with new_site() as site:
        _, headers = await site.ask(act=update(x=1))
        assert b"domain" not in set_cookies(headers)[0].lower()
    with pytest.raises(ConfigurationError):
        SessionConfig(secret_key=SECRET, session_cookie="__Host-s", https_only=True, domain="example.com")


async def test_a_cookie_of_another_app_with_the_same_key(new_site):
    """A card made under another cookie name is refused, although key and store are the same."""
    async with new_site() as site:
        other = Lifecycle(dataclasses.replace(site.config, session_cookie="other"))
        visit = other.anonymous()
        visit.session["user_id"] = 42
        await visit.commit()
        assert await site.who(visit.card) is None
        assert site.life.refused["key"] == 1


async def test_caches_that_keep_set_cookie(new_site):
    """An answer that sets the cookie is kept out of caches, whatever the app said; one that depends on it varies."""
    async with new_site() as site:
        site.headers = [
            (b"Cache-Control", b"public, max-age=3600"),
            (b"Expires", b"Thu, 01 Jan 2099 00:00:00 GMT"),
            (b"CDN-Cache-Control", b"max-age=3600"),  # RFC 9213
            (b"Cloudflare-CDN-Cache-Control", b"max-age=3600"),
            (b"Surrogate-Control", b"max-age=3600"),
            (b"X-Accel-Expires", b"3600"),
        ]
        _, headers = await site.ask(act=update(x=1))
        names = {name.lower() for name, _ in site.headers}
        assert [header for header in headers if header[0].lower() in names] == [(b"cache-control", b"no-store")]
        _, headers = await site.ask(card_in(headers), lambda session: session.get("x"))
        assert (b"vary", b"Cookie") in headers
        assert not set_cookies(headers)


@pytest.mark.parametrize("option", ["session_cookie", "path", "domain", "same_site"])
@pytest.mark.parametrize("value", ["a\r\nSet-Cookie: b=c", "a\nb", "a;b", "a\0b", "/a\r\n", "a b\x7f"])
def test_header_injection_by_option(option, value):
    """No option puts a line break or a separator into a header."""
    with pytest.raises(ConfigurationError):
        SessionConfig(secret_key=SECRET, store="memory://", **{option: value})


async def test_header_injection_by_value(new_site):
    """Session data never reaches a header, and what does is of a fixed alphabet."""
    async with new_site() as site:
        nasty = "\r\nSet-Cookie: admin=1"
        _, headers = await site.ask(act=lambda session: session.update({nasty: nasty, "user_id": nasty}))
        (cookie,) = set_cookies(headers)
        assert b"\r" not in cookie and b"\n" not in cookie and b"admin" not in cookie


# --- filling the store ------------------------------------------------------------------------------------------------


class Counting:
    """A store that counts what it is asked."""

    def __init__(self, inner):
        self.inner, self.asked = inner, 0
        for name in ("load", "create", "update", "rotate", "touch", "delete"):
            setattr(self, name, self._counted(getattr(inner, name)))

    def _counted(self, operation):
        def ask(*args, **kwargs):
            self.asked += 1
            return operation(*args, **kwargs)

        return ask


async def test_rows_for_bots(new_site):
    """Visitors that never touch the session, and forged cookies, make no row and ask the store for nothing."""
    async with new_site() as site:
        counting = Counting(site.store)
        bots = Site(counting, site.clock)
        for cookie in (None, b"x", b"a" * 76, b"\xff" * 100, b"b" * 10_000):
            seen, headers = await bots.ask(cookie, lambda session: session.get("user_id"))
            assert seen == {} and not set_cookies(headers)
        assert counting.asked == 0


async def test_oversized_data(new_site):
    """A session past max_bytes is refused before anything is saved, and the one before it stays."""
    async with new_site() as site:
        card = await site.log_in()
        with pytest.raises(SessionDataError, match="max_bytes"):
            await site.ask(card, update(big="x" * 100_000))
        seen, _ = await site.ask(card)
        assert seen == {"user_id": 42}


async def test_deeply_nested_data(new_site):
    """Data nested a hundred thousand levels deep is refused with the place, not with a crash."""
    async with new_site() as site:
        deep = []
        for _ in range(100_000):
            deep = [deep]
        card = await site.log_in()
        with pytest.raises(SessionDataError, match="deep"):
            await site.ask(card, update(deep=deep))
        assert await site.who(card) == 42


# --- a store that is not what it seems --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "junk", [b"", b"\x01", b"\x02\x00", b"\x03" + b"x" * 50, b"\x80\x04K\x01.", b"{}", b"\xff" * 99]
)
async def test_undecodable_but_correctly_signed_data(new_site, junk):
    """A record that cannot be read is an anonymous request and a count; a new session gets a new ID."""
    async with new_site() as site:
        card = await site.log_in()
        visit = await site.life.arrive([card])
        broken = dataclasses.replace(visit.record, data=junk, version=visit.record.version + 1)
        await site.store.update(visit.key, broken, version=visit.record.version)
        assert await site.who(card) is None
        assert site.life.refused["damaged"] == 1
        assert await site.log_in(cookie=card) != card


async def test_another_users_record_under_my_key(new_site):
    """A record filed under one user that holds another's session is not served."""
    async with new_site() as site:
        mine, theirs = [await site.log_in(user) for user in (42, 43)]
        me, them = [await site.life.arrive([card]) for card in (mine, theirs)]
        swapped = dataclasses.replace(me.record, data=them.record.data, version=me.record.version + 1)
        await site.store.update(me.key, swapped, version=me.record.version)
        assert await site.who(mine) is None


async def test_leftovers_of_the_user_before(new_site):
    """Who logs in over another user's session, which nobody cleared, finds nothing that was put there before."""
    async with new_site() as site:
        card = await site.log_in(42)
        await site.ask(card, update(address="of 42", role="admin", theme="dark"))
        await site.ask(card, lambda session: session.flash("for 42"))

        def log_in(session):
            session["theme"] = "dark"  # as before, and 43's own all the same
            session["user_id"] = 43

        theirs = card_in((await site.ask(card, log_in))[1])
        seen, _ = await site.ask(theirs)
        assert seen == {"theme": "dark", "user_id": 43}
        assert await site.who(card) is None


async def test_a_store_that_answers_with_an_old_version(new_site):
    """What was loaded from a late replica is not saved over what is newer: the swap fails, and the change is merged."""

    class Late(Counting):
        old = None

        def __init__(self, inner):
            super().__init__(inner)
            fresh = self.load

            async def load(key):
                if self.old is not None:
                    record, self.old = self.old, None
                    return record
                return await fresh(key)

            self.load = load

    async with new_site() as site:
        late = Late(site.store)
        here = Site(late, site.clock)
        card = await here.log_in()
        old = (await here.life.arrive([card])).record
        await here.ask(card, update(x=1))
        late.old = old
        await here.ask(card, update(y=2))
        seen, _ = await here.ask(card)
        assert seen == {"user_id": 42, "x": 1, "y": 2}
        late.old = old
        await here.ask(card, lambda session: session.clear())
        assert await here.who(card) is None


async def test_foreign_rows_in_the_store(new_site):
    """A record that some other program put there opens for nobody, and whoever it names can end it."""
    async with new_site() as site:
        card = await site.log_in()
        record = (await site.life.arrive([card])).record
        session_id = new_session_id()
        foreign = dataclasses.replace(record, data=b"theirs", user="43", version=1)
        await site.store.create(store_key(session_id), foreign)
        assert await site.who(site.life.keyring.sign(session_id)) is None
        assert site.life.refused["damaged"] == 1
        assert await Sessions(site.life).revoke(store_key(session_id), user=42) is False
        assert await Sessions(site.life).revoke_all(43) == 1
        assert await site.who(card) == 42


async def test_a_store_that_lists_other_users_sessions(new_site):
    """What a store names as a user's sessions is looked at: nobody else's is listed, revoked, or ended for a limit."""
    async with new_site(max_sessions_per_user=1) as site:
        other = await site.log_in(43)
        truth = site.store.of_user

        async def everybodys(user):
            return await truth("42") + await truth("43")

        site.store.of_user = everybodys
        mine = [await site.log_in(42)]
        site.clock.advance(1)  # the newer one stays
        mine.append(await site.log_in(42))
        assert [info.user for info in await Sessions(site.life).of(42)] == ["42"]
        await Sessions(site.life).revoke_all(42)
        assert await site.who(other) == 43
        assert [await site.who(card) for card in mine] == [None, None]


@pytest.mark.parametrize(
    "odd",
    [
        {"expires_at": float("inf")},
        {"expires_at": float("nan")},
        {"expires_at": 1e300},
        {"created_at": float("-inf")},
        {"created_at": float("nan")},
        {"created_at": -1e300},
        {"created_at": 1e300},
        {"created_at": "yesterday"},
        {"version": "1"},
        {"data": 5},
        {"data": "text"},
        {"data": None},
        {"data": codec.encode({"user_id": 10**5000})},
        {"data": codec.encode({"user_id": [10**5000]})},
        {"data": b"\x01\x81\xa7user_id" + b"\x91" * 1000 + b"\x01"},
    ],
    ids=lambda odd: repr(odd)[:40],
)
@pytest.mark.parametrize("seal", [False, True])
async def test_rows_of_odd_values(odd, seal):
    """What a column cannot be is no session: it is anonymous, and keeps nobody from listing and ending the others."""
    store = MemoryStore()
    site = Site(store, time.time, seal=seal, absolute_timeout=None)
    card, other = [await site.log_in() for _ in range(2)]
    key = (await site.life.arrive([card])).key
    store._records[key] = dataclasses.replace(store._records[key], **odd)

    async def use(session):
        assert session.expires_at > session.created_at or not session
        session.rotate()

    assert await site.who(card) is None
    await site.ask(card, use)
    assert len(await Sessions(site.life).of(42)) >= 1
    assert await Sessions(site.life).revoke_all(42) >= 1
    assert await site.who(other) is None


@pytest.mark.parametrize("moment", [None, "x", float("nan"), float("inf"), 1e300, b"", True])
@pytest.mark.parametrize("seal", [False, True])
async def test_tombstones_of_odd_values(moment, seal):
    """An old ID is not served for ever because its row says no time, and it raises nothing."""
    store = MemoryStore()
    site = Site(store, time.time, seal=seal)
    old = await site.log_in()
    _, headers = await site.ask(old, lambda session: session.rotate(grace=60))
    assert await site.who(old) == 42
    key = next(key for key, record in store._records.items() if record.successor is not None)
    store._records[key] = dataclasses.replace(store._records[key], serve_until=moment)
    assert await site.who(old) is None
    await site.ask(old, update(x=1))
    assert await site.who(card_in(headers)) == 42


@pytest.mark.parametrize("odd", [{"data": 1}, {"data": 1.5}, {"data": None}, {"successor": b"x"}], ids=repr)
async def test_sealed_tombstones_of_odd_values(odd):
    """What does not say where the session is raises nothing: the old ID is damaged, and the new one lives."""
    store = MemoryStore()
    site = Site(store, time.time, seal=True)
    old = await site.log_in()
    _, headers = await site.ask(old, lambda session: session.rotate(grace=60))
    key = next(key for key, record in store._records.items() if record.successor is not None)
    store._records[key] = dataclasses.replace(store._records[key], **odd)
    assert await site.who(old) is None
    assert await site.who(card_in(headers)) == 42
    assert site.life.refused["damaged"] == 1


async def test_data_that_could_not_be_saved_again():
    """A record that somebody nested deeper than any session is served and left alone, not an error of every page."""
    store = MemoryStore()
    site = Site(store, time.time)
    card = await site.log_in()
    key = (await site.life.arrive([card])).key
    deep: object = 2**70
    for _ in range(500):
        deep = [deep]
    pieces = codec.encode({"user_id": 42, "x": 2**70})
    big = pieces[pieces.index(b"\xa1x") + 2 :]
    data = b"\x01\x82\xa7user_id\x2a\xa1x" + b"\x91" * 500 + big
    store._records[key] = dataclasses.replace(store._records[key], data=data)
    for act in (lambda session: session.get("x"), update(y=1)):
        seen, headers = await site.ask(card, act)
        assert seen["user_id"] == 42 and not set_cookies(headers)
    assert store._records[key].data == data


# --- clocks and timing ------------------------------------------------------------------------------------------------


async def test_a_clock_that_goes_back(new_site):
    """A clock set back ends nobody's session, and lets none live past its absolute timeout by it."""
    begun = time.time()
    async with new_site(absolute_timeout=2000) as site:
        card = await site.log_in()
        site.clock.advance(-300)
        assert await site.who(card) == 42
        for _ in range(5):
            site.clock.advance(460)  # in use all the time
            assert await site.who(card) == (42 if site.clock() < begun + 2000 else None)
        assert await site.who(card) is None


async def test_a_clock_that_was_wrong_for_a_while(new_site):
    """A session from a future that was none does not live until that future comes."""
    async with new_site() as site:
        years = 10 * 365 * 86400
        site.clock.advance(years)
        card = await site.log_in()
        assert await site.who(card) == 42
        site.clock.advance(-years)
        assert await site.who(card) is None
        assert await Sessions(site.life).of(42) == []


async def test_a_clock_that_jumps(new_site):
    """A clock that jumps ahead of every timeout ends the session, and a new one gets a new ID."""
    async with new_site() as site:
        card = await site.log_in()
        site.clock.advance(10_000_000)
        seen, headers = await site.ask(card)
        assert seen == {} and not set_cookies(headers)
        assert await site.log_in(cookie=card) != card


async def test_timing_of_the_id_look_up():
    """A store never compares IDs: what it looks up is a hash, which an attacker cannot steer bit by bit."""
    asked = []

    class Spy(MemoryStore):
        async def load(self, key):
            asked.append(key)
            return await super().load(key)

    site = Site(Spy(), time.time)
    card = await site.log_in()
    asked.clear()
    near = site.life.keyring.sign(card[4:35] + (b"A" if card[35:36] != b"A" else b"B"))
    for cookie in (card, near):
        await site.ask(cookie)
    one, other = (bytes.fromhex(key) for key in asked)
    differing = sum((a ^ b).bit_count() for a, b in zip(one, other, strict=True))
    assert differing > 64  # one character of the ID changed; about half of the 256 bits did


def test_timing_of_the_signature(monkeypatch):
    """A signature is judged by `hmac.compare_digest` alone, whose time does not tell where two texts differ."""
    site = Site(MemoryStore(), time.time)
    card = site.life.keyring.sign(new_session_id())
    early = card[:36] + (b"0" if card[36:37] != b"0" else b"1") + card[37:]
    late = card[:-1] + (b"0" if card[-1:] != b"0" else b"1")
    asked, compare = [], hmac.compare_digest

    def spy(one, other):
        asked.append((one, other))
        return compare(one, other)

    monkeypatch.setattr("roomkey.wire.keys.hmac.compare_digest", spy)
    assert [site.life.keyring.verify(each) is None for each in (card, early, late)] == [False, True, True]
    assert [other for _, other in asked] == [card[36:], early[36:], late[36:]]
    monkeypatch.setattr("roomkey.wire.keys.hmac.compare_digest", lambda one, other: True)
    assert site.life.keyring.verify(early) is not None  # nothing else has looked at it


# --- anything at all --------------------------------------------------------------------------------------------------

_names = st.sampled_from([b"cookie", b"Cookie", b"host", b"\xff"])
_pairs = st.one_of(st.binary(max_size=200), st.binary(max_size=100).map(lambda value: b"session=" + value))
_headers = st.lists(st.tuples(_names, _pairs), max_size=5)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(headers=_headers)
def test_nothing_a_client_sends_raises(headers):
    """Whatever the headers, the request reaches the app, as an anonymous one."""

    async def scenario():
        site = Site(MemoryStore(), time.time)
        seen, _ = await site.ask(headers=headers)
        assert seen == {}

    asyncio.run(scenario())


@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=200), user=st.none() | st.text(max_size=5))
def test_nothing_a_store_holds_raises(data, user):
    """Whatever a record holds, the request reaches the app."""

    async def scenario():
        store = MemoryStore()
        site = Site(store, time.time)
        card = await site.log_in()
        key = (await site.life.arrive([card])).key
        store._records[key] = dataclasses.replace(store._records[key], data=data, user=user)
        seen, _ = await site.ask(card, lambda session: session.get("x"))
        assert isinstance(seen, dict)
        with contextlib.suppress(KeyError):
            del store._records[key]

    asyncio.run(scenario())
