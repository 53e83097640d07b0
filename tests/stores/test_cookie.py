"""`cookie://`: the life of a session that no server keeps, through the real middleware, with a jar for a browser."""

import asyncio
import base64
import datetime as dt
import decimal
import json
import logging
import random
import re
import uuid

import itsdangerous
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roomkey import ConfigurationError, LoginTooOld, ResponseStarted, SessionConfig, SessionDataError, SessionMiddleware
from roomkey.events import Created, Ended, LoadedWithOldKey, Refused, Rotated
from roomkey.legacy import StarletteCookie
from roomkey.stores.cookie import CookieStore
from roomkey.stores.urls import store_from
from roomkey.testing.clock import Clock
from roomkey.users import Sessions
from roomkey.wire.cookies import find_chunked

SECRET = "a secret that is long enough for every test here"
PINNED = (
    b"session=1Ae79hNRlMpH6O1JgG60f_PnjRtBfw0Fk9gYMgHqRmGyA2FicE8Tiqly7Rkvl9CWsOSNmC2dqAIora0kiN"
    b"1DHSkak1Zukf0dRiPoSr3cDZjNR1ZNVW1H69_Q"
)
OLDER = "an older secret that is long enough for these tests"


class Jar:
    """What a browser does with Set-Cookie: keeps, replaces, forgets; refuses what is too large."""

    def __init__(self):
        self.cookies = {}

    def take(self, headers):
        """Take in a response's headers; return its Set-Cookie lines."""
        lines = [value.decode() for name, value in headers if name == b"set-cookie"]
        for line in lines:
            pair, _, attributes = line.partition("; ")
            name, _, value = pair.partition("=")
            assert len(name) + len(value) <= 4096 and len(line) <= 4096
            assert re.fullmatch(r"[0-9A-Za-z_\-]*", value)  # needs no quoting
            if "Max-Age=0;" in attributes:
                self.cookies.pop(name, None)
            else:
                self.cookies[name] = value
        return lines

    def header(self):
        return "; ".join(f"{name}={value}" for name, value in self.cookies.items()).encode()


class Browser:
    """Sends requests to one app; a request is a function that gets the session."""

    def __init__(self, clock=None, **options):
        self.clock = clock or Clock(1_700_000_000.0)
        options = {"secret_key": SECRET, "store": CookieStore(max_size=32768), "clock": self.clock, **options}
        self.app = SessionMiddleware(self._handle, **options)
        self.jar = Jar()
        self.lines = []  # the last response's Set-Cookie
        self.headers = {}

    async def _handle(self, scope, receive, send):
        self.result = self.todo(scope["session"])
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-app", b"1")]})
        await send({"type": "http.response.body", "body": b"hello"})

    def ask(self, todo=dict.copy, *, cookie=None):
        self.todo = todo
        header = self.jar.header() if cookie is None else cookie
        messages = run(self.app, scope_with(header))
        assert [message["type"] for message in messages] == ["http.response.start", "http.response.body"]
        self.headers = {name: value for name, value in messages[0]["headers"] if name != b"set-cookie"}
        self.lines = self.jar.take(messages[0]["headers"]) if cookie is None else None
        return self.result

    @property
    def refused(self):
        return dict(self.app.lifecycle.refused)


def scope_with(cookie, kind="http", **more):
    headers = [(b"host", b"testserver")]
    if cookie:
        headers.append((b"cookie", cookie))
    return {"type": kind, "path": "/", "method": "GET", "headers": headers, "query_string": b"", **more}


def run(app, scope):
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        await asyncio.Event().wait()

    asyncio.run(app(scope, receive, send))
    return sent


def read(session):
    return session.copy()


def put(**values):
    return lambda session: session.update(values)


@pytest.fixture
def browser():
    return Browser()


def large(size, seed=0):
    return random.Random(seed).randbytes(size)


# --- a session's life -------------------------------------------------------------------------------------------------


def test_what_is_written_is_read(browser):
    """A key that one request writes, the next one reads; one cookie holds it, with the usual attributes."""
    browser.ask(put(name="Ada"))
    assert len(browser.lines) == 1
    assert browser.lines[0].endswith("; Max-Age=14400; Path=/; HttpOnly; SameSite=lax")
    assert browser.ask(read) == {"name": "Ada"}
    assert browser.lines == []
    assert browser.refused == {}


def test_an_anonymous_request_gets_no_cookie(browser):
    """Who has no session and puts nothing into it gets no cookie; neither does who only looks."""
    assert browser.ask(lambda session: None) is None
    assert browser.lines == [] and b"vary" not in browser.headers
    assert browser.ask(read) == {}
    assert browser.lines == [] and browser.headers[b"vary"] == b"Cookie" and b"cache-control" not in browser.headers


def test_caches(browser):
    """A response that depended on the session says so; one that sets the cookie is not stored."""
    browser.ask(put(a=1))
    assert browser.headers[b"vary"] == b"Cookie" and browser.headers[b"cache-control"] == b"no-store"
    browser.ask(read)
    assert browser.headers[b"vary"] == b"Cookie" and b"cache-control" not in browser.headers
    browser.ask(lambda session: None)
    assert browser.headers == {b"x-app": b"1"}


def test_a_change_deep_inside_is_kept(browser):
    """What is appended to a list in a dict in the session is there on the next request."""
    browser.ask(put(shop={"cart": [1]}))
    browser.ask(lambda session: session["shop"]["cart"].append(2))
    assert len(browser.lines) == 1
    assert browser.ask(read) == {"shop": {"cart": [1, 2]}}


def test_the_same_value_again_sends_nothing(browser):
    """An assignment that changes nothing sends no cookie."""
    browser.ask(put(a=[1]))
    browser.ask(put(a=[1]))
    assert browser.lines == []


def test_types_are_kept(browser):
    """Every value comes back equal and of the same type."""
    data = {
        "none": None,
        "tuple": (1, "2", 3.5),
        "bytes": b"\0\xff",
        "set": {1, 2},
        "frozen": frozenset({"a"}),
        "moment": dt.datetime(2026, 11, 24, 1, 2, 3, 4, dt.UTC),
        "date": dt.date(2026, 11, 24),
        "span": dt.timedelta(days=1, microseconds=1),
        "decimal": decimal.Decimal("1.10"),
        "uuid": uuid.UUID(int=5),
        "huge": 2**100,
        "text": "Zoë 🙂 \ud800",
    }
    browser.ask(put(**data))
    again = browser.ask(read)
    assert again == data
    assert {key: type(value) for key, value in again.items()} == {key: type(value) for key, value in data.items()}


def test_change_runs_its_function(browser):
    """`change()` works on what the cookie holds."""
    browser.ask(lambda session: session.change("n", lambda n: n + 1, default=0))
    browser.ask(lambda session: session.change("n", lambda n: n + 1, default=0))
    assert browser.ask(read) == {"n": 2}


@pytest.mark.parametrize("end", [lambda session: session.clear(), lambda session: session.invalidate()])
def test_the_end(browser, end):
    """After `clear` or `invalidate`, the browser holds nothing."""
    browser.ask(put(a=1))
    browser.ask(end)
    assert browser.lines == [
        "session=; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT; Path=/; HttpOnly; SameSite=lax"
    ]
    assert browser.jar.cookies == {}
    assert browser.ask(read) == {}


def test_what_comes_after_the_end_is_a_new_session(browser):
    """What is put into the session after `invalidate` starts a new one, with a new handle and a new beginning."""
    browser.ask(put(a=1))
    before = browser.ask(lambda session: (session.handle, session.created_at))
    browser.clock.advance(5)

    def again(session):
        session.invalidate()
        session["b"] = 2

    browser.ask(again)
    after = browser.ask(lambda session: (session.handle, session.created_at))
    assert browser.ask(read) == {"b": 2}
    assert after[0] != before[0] and after[1] - before[1] == dt.timedelta(seconds=5)


def test_leftovers_of_the_user_before(browser):
    """Who logs in over another user's session finds nothing that was put there before."""
    browser.ask(put(user_id=1, address="of 1", theme="dark"))
    browser.ask(put(theme="dark", user_id=2))
    assert browser.ask(read) == {"theme": "dark", "user_id": 2}


def test_the_handle(browser):
    """A session keeps its handle through changes, `rotate` and a log-in give it another, and so does a log-out."""
    handles = []

    def step(todo):
        browser.ask(todo)
        handles.append(browser.ask(lambda session: session.handle))

    step(put(a=1))
    step(put(a=2))
    step(lambda session: session.rotate())
    step(put(user_id=7))
    step(put(a=3))
    step(put(user_id=8, a=3))
    step(lambda session: session.pop("user_id"))
    one, same, rotated, logged_in, still, other, out = handles
    assert one == same and logged_in == still
    assert len({one, rotated, logged_in, other, out}) == 5
    assert browser.ask(read) == {"a": 3}
    assert all(re.fullmatch("[0-9a-f]{64}", handle) for handle in handles)
    assert browser.ask(lambda session: session.handle, cookie=b"session=1x") == ""


def test_is_new_and_modified(browser):
    """`is_new` and `modified` say what they say for a session on the server."""
    assert browser.ask(lambda session: (session.is_new, session.modified)) == (True, False)
    browser.ask(put(a=1))
    assert browser.ask(lambda session: (session.is_new, session.modified)) == (False, False)
    assert browser.ask(lambda session: [session.update(a=2), session.modified])[1]


def test_a_replaced_dict_is_the_new_content():
    """`scope["session"] = {...}` replaces the content; None clears it."""
    browser = Browser()

    async def app(scope, receive, send):
        scope["session"] = contents.pop(0)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    contents = [{"a": 1}, {"b": 2}, None]
    browser.app.app = app
    for expected in ({"a": 1}, {"b": 2}, {}):
        browser.jar.take(run(browser.app, scope_with(browser.jar.header()))[0]["headers"])
        shown = Browser()
        assert shown.ask(read, cookie=browser.jar.header()) == expected


def test_an_app_that_raises_saves_nothing(browser):
    """After an unhandled error the browser holds what it held."""
    browser.ask(put(a=1))

    def fail(session):
        session["a"] = 2
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        browser.ask(fail)
    assert browser.ask(read) == {"a": 1}


# --- its clocks -------------------------------------------------------------------------------------------------------


def test_idle_timeout(browser):
    """A session that nobody uses ends after `max_age`, also when the browser still sends it."""
    browser.ask(put(a=1))
    browser.clock.advance(14399)
    assert browser.ask(read, cookie=browser.jar.header()) == {"a": 1}
    browser.clock.advance(1)
    assert browser.ask(read) == {}
    assert browser.refused == {"unknown": 1}


def test_renewal_is_throttled(browser):
    """The cookie is sent anew at most once in a tenth of `max_age`, and then lives for `max_age` again."""
    browser.ask(put(a=1))
    sent = []
    for _ in range(40):
        browser.clock.advance(360)
        assert browser.ask(read) == {"a": 1}
        sent += browser.lines
    assert len(sent) == 10
    assert all("; Max-Age=14400;" in line for line in sent)
    browser.clock.advance(14399)
    assert browser.ask(read) == {"a": 1}


def test_no_renewal_of_what_is_not_used(browser):
    """A request that does not look at the session does not renew it."""
    browser.ask(put(a=1))
    browser.clock.advance(5000)
    browser.ask(lambda session: None)
    assert browser.lines == []


def test_a_change_renews_too(browser):
    """The cookie that goes out with a change lives for `max_age` from then on."""
    browser.ask(put(a=1))
    browser.clock.advance(100)
    browser.ask(put(a=2))
    assert "; Max-Age=14400;" in browser.lines[0]
    browser.clock.advance(14399)
    assert browser.ask(read) == {"a": 2}


def test_absolute_timeout():
    """However busy, a session ends after `absolute_timeout`; changes and rotation do not prolong it."""
    browser = Browser(max_age=100, absolute_timeout=250)
    browser.ask(put(a=0))
    for number in range(1, 5):
        browser.clock.advance(60)
        browser.ask(lambda session: session.rotate())
        browser.ask(put(a=number))
        assert browser.ask(read) == {"a": number}
    browser.ask(put(a="last"))
    assert "; Max-Age=10;" in browser.lines[0]
    browser.clock.advance(10)
    assert browser.ask(read) == {}


def test_a_lowered_absolute_timeout_counts_at_once():
    """A cookie from before `absolute_timeout` was lowered ends by the lower one."""
    browser = Browser()
    browser.ask(put(a=1))
    browser.clock.advance(200)
    strict = Browser(browser.clock, max_age=100, absolute_timeout=150)
    assert strict.ask(read, cookie=browser.jar.header()) == {}


def test_a_session_of_the_browser():
    """With `persistent=False` the cookie has no `Max-Age`, and the clock holds all the same."""
    browser = Browser(persistent=False)
    browser.ask(put(a=1))
    assert "Max-Age" not in browser.lines[0]
    browser.clock.advance(14400)
    assert browser.ask(read) == {}


def test_times(browser):
    """`created_at` and `expires_at` are what the cookie says."""
    browser.ask(put(a=1))
    browser.clock.advance(10)
    created, expires = browser.ask(lambda session: (session.created_at, session.expires_at))
    assert created.timestamp() == 1_700_000_000 and expires.timestamp() == 1_700_014_400


# --- who is logged in -------------------------------------------------------------------------------------------------


def test_remember(browser):
    """A remembered session lives for the time that was asked for after its last use, also past `max_age`."""
    browser.ask(lambda session: [session.update(user_id=1), session.remember(864000)])
    assert "; Max-Age=864000;" in browser.lines[0]
    browser.clock.advance(863999)
    assert browser.ask(read) == {"user_id": 1}
    assert "; Max-Age=864000;" in browser.lines[0]
    browser.clock.advance(86399)
    assert browser.ask(read) == {"user_id": 1} and browser.lines == []  # less than a tenth of it has passed
    browser.clock.advance(864000)
    assert browser.ask(read) == {}


def test_remember_outlives_the_browser():
    """With `persistent=False`, only a remembered session's cookies have a `Max-Age`, however many they are."""
    browser = Browser(persistent=False)
    browser.ask(put(user_id=1, data=large(7000)))
    assert len(browser.lines) == 3 and not any("Max-Age" in line for line in browser.lines)
    browser.ask(lambda session: session.remember(864000))
    assert len(browser.lines) == 3 and all("; Max-Age=864000;" in line for line in browser.lines)


@pytest.mark.parametrize("forget", [lambda session: session.remember(None), put(user_id=2)], ids=["None", "user"])
def test_remember_is_forgotten(browser, forget):
    """`remember(None)` and a change of user bring back `max_age`, also where that is sooner."""
    browser.ask(lambda session: [session.update(user_id=1), session.remember(864000)])
    browser.ask(forget)
    assert "; Max-Age=14400;" in browser.lines[0]
    browser.clock.advance(14400)
    assert browser.ask(read) == {}


def test_remember_is_capped():
    """`absolute_timeout` ends a remembered session as it ends any other."""
    browser = Browser(max_age=100, absolute_timeout=1000)
    browser.ask(lambda session: [session.update(user_id=1), session.remember(5000)])
    assert "; Max-Age=1000;" in browser.lines[0]
    browser.clock.advance(1000)
    assert browser.ask(read) == {}


def test_when_the_user_logged_in(browser):
    """`authenticated_at` is the moment of the log-in, stays through changes and rotation, and goes with the user."""

    def moment(session):
        return session.authenticated_at and session.authenticated_at.timestamp()

    browser.ask(put(a=1))
    assert browser.ask(moment) is None
    browser.clock.advance(10)
    browser.ask(put(user_id=1))
    for todo in (put(a=2), lambda session: session.rotate()):
        browser.clock.advance(10)
        browser.ask(todo)
        assert browser.ask(moment) == 1_700_000_010
    browser.clock.advance(10)
    browser.ask(put(user_id=2))
    assert browser.ask(moment) == 1_700_000_040
    browser.ask(lambda session: session.pop("user_id"))
    assert browser.ask(moment) is None


def test_a_recent_log_in(browser):
    """`require_recent` looks at the cookie's moment; `reauthenticated` starts it and the clocks anew, with a new ID."""
    browser.ask(put(user_id=1))
    before = browser.ask(lambda session: session.handle)
    browser.clock.advance(301)
    with pytest.raises(LoginTooOld):
        browser.ask(lambda session: session.require_recent(300))
    browser.ask(lambda session: session.reauthenticated())
    assert len(browser.lines) == 1
    browser.ask(lambda session: session.require_recent(300))
    handle, created = browser.ask(lambda session: (session.handle, session.created_at.timestamp()))
    assert handle != before and created == 1_700_000_301


@pytest.mark.parametrize("user", [["1"], True, 1.5, b"1"], ids=repr)
def test_what_is_no_user(browser, user):
    """A value of `user_key` that is no ID is refused, and nobody is logged in."""
    with pytest.raises(SessionDataError, match="user_id"):
        browser.ask(put(user_id=user))
    assert browser.jar.cookies == {}


def test_no_list_of_sessions(browser):
    """Nothing can be listed, revoked or limited: each of these says so instead of seeming to work."""
    with pytest.raises(ConfigurationError, match="nothing to revoke"):
        browser.ask(lambda session: session.sessions)
    with pytest.raises(ConfigurationError, match="give a new secret_key"):
        Sessions(browser.app.config)
    with pytest.raises(ConfigurationError, match="max_sessions_per_user"):
        Browser(max_sessions_per_user=1)


def test_flash_messages(browser):
    """A message is shown by the next page that asks and by no later one; of two pages at once, both show it."""
    shown = []

    async def show(scope, receive, send):
        shown.append(await scope["session"].flashes())
        await send({"type": "http.response.start", "status": 200, "headers": []})

    browser.ask(lambda session: session.flash("saved", "success"))
    sent = browser.jar.header()
    browser.app.app = show
    browser.jar.take(run(browser.app, scope_with(sent))[0]["headers"])
    run(browser.app, scope_with(sent))
    run(browser.app, scope_with(browser.jar.header()))
    assert shown == [[("success", "saved")], [("success", "saved")], []]


def test_events():
    """Whoever subscribed hears of a session's beginning, rotation and end, refusals, and cookies of an old key."""
    heard = []
    browser = Browser(on_event=heard.append, secret_key=OLDER)

    def handle():
        return browser.ask(lambda session: session.handle)

    browser.ask(put(a=1))
    first = handle()
    browser.ask(put(user_id=1))
    second = handle()
    browser.ask(put(a=2))
    browser.ask(read, cookie=b"session=1x")
    assert heard == [Created(first, None), Rotated(first, second, "1", None), Refused("card")]
    heard.clear()
    newer = Browser(browser.clock, on_event=heard.append, secret_key=[SECRET, OLDER])
    newer.jar = browser.jar
    newer.ask(lambda session: session.invalidate())
    assert heard == [LoadedWithOldKey(second), Ended(second, "1", "cleared")]


# --- moving in --------------------------------------------------------------------------------------------------------


def old_cookie(**data):
    """Return what Starlette's session middleware puts into its cookie."""
    return itsdangerous.TimestampSigner(OLDER).sign(base64.b64encode(json.dumps(data).encode())).decode()


@pytest.mark.parametrize("size", [10, 7000])
@pytest.mark.parametrize("name", ["session", "old"])
def test_an_old_session_moves_in(name, size):
    """A session of Starlette's becomes one of ours on first sight, also under its name and over several cookies."""
    browser = Browser(legacy=[StarletteCookie(secret_key=OLDER, cookie_name=name)])
    browser.jar.cookies[name] = old_cookie(user_id=7, data="x" * size)
    assert browser.ask(read) == {"user_id": 7, "data": "x" * size}
    cookies = ["session", "session.1", "session.2"] if size == 7000 else ["session"]
    assert sorted(browser.jar.cookies) == cookies
    assert browser.ask(read) == {"user_id": 7, "data": "x" * size}
    assert browser.lines == [] and browser.refused == {}


@pytest.mark.parametrize("name", ["session", "old"])
def test_an_old_session_ends_as_it_moves_in(name):
    """A log-out by the request that brings an old session leaves nothing in the browser."""
    browser = Browser(legacy=[StarletteCookie(secret_key=OLDER, cookie_name=name)])
    browser.jar.cookies[name] = old_cookie(user_id=7)
    browser.ask(lambda session: session.clear())
    assert browser.jar.cookies == {}


# --- several cookies --------------------------------------------------------------------------------------------------


def test_it_grows_shrinks_and_ends(browser):
    """A large session lies in several cookies; when it shrinks or ends, the surplus ones are taken back."""
    for size, cookies in [(10, 1), (2900, 1), (3100, 2), (11000, 4), (5000, 2), (20000, 7), (10, 1), (9000, 4)]:
        browser.ask(put(data=large(size)))
        assert sorted(browser.jar.cookies) == ["session", *(f"session.{n}" for n in range(1, cookies))], size
        assert browser.ask(read) == {"data": large(size)}
        assert browser.lines == []
    browser.ask(lambda session: session.clear())
    assert len(browser.lines) == 4 and browser.jar.cookies == {}


@pytest.mark.parametrize("size", [*range(2950, 3060), *range(5900, 6120, 5)])
def test_every_size_around_the_limits(size):
    """Whatever the size, no cookie is larger than 4,096 bytes with its attributes, and the session comes back."""
    browser = Browser()
    browser.ask(put(data=large(size)))
    assert browser.ask(read) == {"data": large(size)}


def test_attributes_of_all_cookies():
    """Every one of the cookies has the attributes of the configuration, given or taken back."""
    browser = Browser(
        session_cookie="__Secure-s",
        path="/app",
        domain="example.org",
        https_only=True,
        same_site="none",
        partitioned=True,
    )
    attributes = "; Path=/app; Domain=example.org; HttpOnly; SameSite=none; Secure; Partitioned"
    browser.ask(put(data=large(7000)))
    assert len(browser.lines) == 3
    assert all(line.endswith("; Max-Age=14400" + attributes) for line in browser.lines)
    browser.ask(lambda session: session.clear())
    assert len(browser.lines) == 3
    assert all(
        line.endswith("=; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT" + attributes) for line in browser.lines
    )


def test_leftovers_do_no_harm(browser):
    """Chunks that belong to nothing are ignored, and taken back with the next cookie that is written."""
    browser.jar.cookies.update({"session.2": "left", "session.7": "over"})
    assert browser.ask(read) == {}
    assert browser.lines == []
    browser.ask(put(a=1))
    assert list(browser.jar.cookies) == ["session"]


@pytest.mark.parametrize("lost", ["session", "session.1", "session.2"])
def test_a_missing_chunk(browser, lost):
    """When the browser has dropped one of the cookies, there is no session, rather than half of one."""
    browser.ask(put(data=large(7000)))
    del browser.jar.cookies[lost]
    assert browser.ask(read) == {}
    assert browser.refused == ({} if lost == "session" else {"card": 1})


def test_chunks_of_two_sessions_do_not_mix():
    """A chunk of another state of the session, or of another user's, is never taken for one of this."""
    one, two = Browser(), Browser()
    one.ask(put(data=large(7000, 1)))
    two.ask(put(data=large(7000, 2)))
    for mixed in ("session", "session.1", "session.2"):
        cookies = {**one.jar.cookies, mixed: two.jar.cookies[mixed]}
        header = "; ".join(f"{name}={value}" for name, value in cookies.items()).encode()
        assert one.ask(read, cookie=header) == {}
        # Not even with the tag forged: the message as a whole is authenticated.
        if mixed != "session":
            cookies[mixed] = one.jar.cookies[mixed][:8] + two.jar.cookies[mixed][8:]
            header = "; ".join(f"{name}={value}" for name, value in cookies.items()).encode()
            assert one.ask(read, cookie=header) == {}


def test_tossed_cookies_do_not_hide_the_session(browser):
    """Cookies of these names that a neighbour domain planted, before or behind, do not take the session away."""
    browser.ask(put(data=large(7000)))
    planted = b"session=3abc; session.1=junk; session.2=; session=" + b"x" * 100
    genuine = browser.jar.header()
    assert browser.ask(read, cookie=planted + b"; " + genuine) == {"data": large(7000)}
    assert browser.ask(read, cookie=genuine + b"; " + planted) == {"data": large(7000)}


def test_an_expired_copy_does_not_hide_a_live_one(browser):
    """Of two genuine cookies, the one that is not over counts."""
    browser.ask(put(a="old"))
    old = browser.jar.header()
    browser.clock.advance(14400)
    browser.ask(put(a="new"))
    assert browser.ask(read, cookie=old + b"; " + browser.jar.header()) == {"a": "new"}


# --- limits -----------------------------------------------------------------------------------------------------------


def test_too_large():
    """Past the limit, the error names size, limit and the largest key, before the response starts."""
    browser = Browser(store=CookieStore())
    browser.ask(put(small=1))
    with pytest.raises(SessionDataError, match=r"takes \d+ bytes of cookies, and 7168 is the most.*'big'"):
        browser.ask(put(big=large(6000)))
    assert browser.ask(read) == {"small": 1}
    browser.ask(put(big=large(5000)))
    assert len(browser.jar.header()) <= 7168


@pytest.mark.parametrize("size", [512, 4096, 7168, 16384, 32768])
def test_the_limit_is_what_the_header_takes(size):
    """The largest session that is let through makes a `Cookie` header within `max_size`, and nearly fills it."""
    browser = Browser(store=CookieStore(max_size=size))
    low, high = 1, 40000
    while high - low > 1:
        middle = (low + high) // 2
        try:
            browser.ask(put(data=bytes(middle)))
            low = middle
        except SessionDataError:
            high = middle
    browser.ask(put(data=bytes(low)))
    filled = len(browser.jar.header())
    assert size - 60 <= filled <= size or (size == 32768 and len(browser.jar.cookies) == 8)


def test_max_bytes_counts_too():
    """`max_bytes`, the limit of every store, holds here as well."""
    browser = Browser(max_bytes=100)
    with pytest.raises(SessionDataError, match="max_bytes is 100"):
        browser.ask(put(data=b"x" * 200))


def test_long_attributes_leave_less_room():
    """A long path takes from the room in each cookie, and never from the 4,096 bytes that a browser keeps."""
    browser = Browser(path="/" + "p" * 3000)
    browser.ask(put(data=large(3000)))
    assert len(browser.jar.cookies) > 4
    assert browser.ask(read) == {"data": large(3000)}
    with pytest.raises(SessionDataError, match="is the most"):
        browser.ask(put(data=large(7000)))
    with pytest.raises(ConfigurationError, match="path"):
        Browser(path="/" + "p" * 3700)


@pytest.mark.parametrize("value", [object(), bytearray(b"x"), {1: object()}])
def test_what_cannot_be_stored(browser, value):
    """A value that no session keeps is refused, and the session stays as it was."""
    browser.ask(put(a=1))
    with pytest.raises(SessionDataError):
        browser.ask(put(a=value))
    assert browser.ask(read) == {"a": 1}


# --- attacks ----------------------------------------------------------------------------------------------------------

SMALL = Browser()
SMALL.ask(put(user_id=1, data="x" * 50))
SMALL_VALUE = SMALL.jar.cookies["session"].encode()
LARGE = Browser()
LARGE.ask(put(user_id=1, data=large(7000)))
LARGE_COOKIES = [LARGE.jar.cookies[name].encode() for name in ("session", "session.1", "session.2")]
NAMES = [b"session", b"session.1", b"session.2"]


def test_every_byte_counts():
    """A cookie with any one character changed, added or missing is anonymous."""
    for index in range(len(SMALL_VALUE)):
        for other in b"A-_z0189":
            if SMALL_VALUE[index] != other:
                altered = SMALL_VALUE[:index] + bytes([other]) + SMALL_VALUE[index + 1 :]
                assert SMALL.app.lifecycle._open(altered) is None, (index, other)
        for altered in (
            SMALL_VALUE[:index] + SMALL_VALUE[index + 1 :],
            SMALL_VALUE[:index],
            SMALL_VALUE[:index] + b"A" + SMALL_VALUE[index:],
        ):
            assert SMALL.app.lifecycle._open(altered) is None, index
    assert SMALL.app.lifecycle._open(SMALL_VALUE) is not None


@pytest.mark.parametrize("size", range(50, 53))
def test_a_card_has_one_form(browser, size):
    """What a lenient decoder takes for the same bytes is refused: other alphabet, padding, spare bits, junk between."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    value = ""
    while "-" not in value or "_" not in value:  # the salt is random
        browser.ask(put(data="x" * size, again=uuid.uuid4().bytes))
        value = browser.jar.cookies["session"]
    forms = [value.replace("-", "+", 1), value.replace("_", "/", 1), value[:9] + "!" + value[9:], value + "!"]
    forms += [value + "=" * count for count in range(1, 5)]
    spare = {0: 0, 3: 2, 2: 4}[len(value[1:]) % 4]  # bits of the last character that mean nothing
    forms += [value[:-1] + alphabet[alphabet.index(value[-1]) | bits] for bits in range(1, 1 << spare)]
    assert len(set(forms)) == len(forms)
    for form in forms:
        assert browser.ask(read, cookie=b"session=" + form.encode()) == {}, form
    assert browser.refused == {"card": len(forms)}


@given(st.integers(0, 2), st.integers(0, 4000), st.sampled_from([byte for byte in range(33, 127) if byte not in b'";']))
def test_every_byte_of_every_chunk_counts(chunk, index, other):
    """Any character changed in any of several cookies makes the request anonymous."""
    values = list(LARGE_COOKIES)
    index %= len(values[chunk])
    if values[chunk][index] == other:
        return
    values[chunk] = values[chunk][:index] + bytes([other]) + values[chunk][index + 1 :]
    header = b"; ".join(name + b"=" + value for name, value in zip(NAMES, values, strict=True))
    assert LARGE.ask(read, cookie=header) == {}


@given(st.lists(st.integers(0, 2), min_size=0, max_size=4), st.permutations(range(3)))
def test_the_order_of_chunks_counts(choice, order):
    """Chunks under other names than their own are no session; in which order the browser sends them is all the same."""
    names = [*NAMES, b"session.3"]
    header = b"; ".join(names[place] + b"=" + LARGE_COOKIES[which] for place, which in enumerate(choice))
    assert (LARGE.ask(read, cookie=header) == {}) == (choice[:3] != [0, 1, 2])
    header = b"; ".join(NAMES[which] + b"=" + LARGE_COOKIES[which] for which in order)
    assert LARGE.ask(read, cookie=header)["user_id"] == 1


@given(st.binary(max_size=300))
def test_nothing_that_a_client_sends_raises(noise):
    """Whatever the cookies hold, the request is anonymous and answered."""
    for header in (
        noise,
        b"session=" + noise,
        b"session=3" + noise + b"; session.1=" + noise + b"; session.2=" + noise,
    ):
        assert SMALL.ask(read, cookie=header) == {}


@pytest.mark.parametrize(
    "value",
    [b"", b"0", b"1", b"2", b"9", b"99999999", b"-1", b"\xb2AAAAAAAAAAAAAAAAAAAA", b"8" + b"A" * 40, b"1" + b"A" * 60]
    + [b"1" + b"A" * length for length in (1, 2, 3, 4, 5, 33, 100_000)]
    + ['1é"'.encode(), b"1===", b"1AAA=", b"1" + b"\xff" * 60],
)
def test_hostile_numbers_and_texts(browser, value):
    """A number of chunks that is none, too large or a lie, and text that is no base64url, are anonymous and counted."""
    assert browser.ask(read, cookie=b"session=" + value) == {}
    assert browser.refused == {"card": 1}


def test_the_work_is_bounded(browser, monkeypatch):
    """Of thousands of cookies of these names, at most 8 are looked at."""
    browser.ask(put(data=large(7000)))
    opened = []
    real = browser.app.lifecycle.sealer.__class__.open
    monkeypatch.setattr("roomkey.wire.seal.Sealer.open", lambda *a, **k: opened.append(1) or real(*a, **k))
    many = b"; ".join(
        b"session=1%s; session.%d=AAAABBBB%d" % (SMALL_VALUE[1:-4] + b"AAAA", n % 9, n) for n in range(3000)
    )
    assert browser.ask(read, cookie=many) == {}
    assert 0 < len(opened) <= 8
    assert browser.refused == {"card": 1}


def test_another_app_with_the_same_secret():
    """A cookie that was made for another name, or by a session on a server, is refused."""
    one, other = Browser(), Browser(session_cookie="other")
    one.ask(put(a=1))
    value = one.jar.cookies["session"].encode()
    assert one.ask(read, cookie=b"session=" + value) == {"a": 1}
    assert other.ask(read, cookie=b"other=" + value) == {}
    assert other.refused == {"key": 1}
    server = Browser(store="memory://")
    server.ask(put(a=1))
    assert one.ask(read, cookie=server.jar.header()) == {}
    assert server.ask(read, cookie=b"session=" + value) == {}


def test_another_secret(caplog):
    """A cookie that another secret sealed is refused, counted, and once it is said what the usual cause is."""
    browser, other = Browser(), Browser(secret_key=OLDER)
    browser.ask(put(a=1))
    with caplog.at_level(logging.WARNING, "roomkey"):
        for _ in range(3):
            assert other.ask(read, cookie=browser.jar.header()) == {}
    assert other.refused == {"key": 3}
    (line,) = caplog.records
    assert "each worker makes a key of its own" in line.getMessage()


def test_nothing_can_be_read_in_the_cookie(browser):
    """Neither the data, nor its base64, nor the handle, the secret or the user can be found in the cookie."""
    browser.ask(put(user_id="ada@example.org", secret="correct horse battery staple"))
    value = browser.jar.cookies["session"]
    handle = browser.ask(lambda session: session.handle)
    raw = base64.urlsafe_b64decode(value[1:] + "===")
    for text in (b"ada@example.org", b"correct horse", b"secret", b"user_id", SECRET.encode(), handle.encode()):
        assert text not in raw and text not in value.encode()
        for shift in range(3):
            encoded = base64.urlsafe_b64encode(b"." * shift + text)[shift + 1 : -4]
            assert encoded not in value.encode()
    assert bytes.fromhex(handle) not in raw


def test_the_same_session_is_never_the_same_cookie():
    """Two sessions of the same data, at the same moment, have nothing in common but number, format and key name."""
    one, two = Browser(), Browser()
    one.ask(put(a=1))
    two.ask(put(a=1))
    first, second = one.jar.cookies["session"], two.jar.cookies["session"]
    assert first[:7] == second[:7] and first[8:20] != second[8:20] and first[-20:] != second[-20:]


def test_it_does_not_compress(browser):
    """Data that repeats itself takes as much room as data that does not: the length tells nothing of the content."""
    browser.ask(put(data=b"a" * 1000))
    length = len(browser.jar.cookies["session"])
    browser.ask(put(data=large(1000)))
    assert len(browser.jar.cookies["session"]) == length


# --- keys -------------------------------------------------------------------------------------------------------------


def test_an_older_key():
    """A cookie of an older key is sealed with the first one when it is used, and keeps data, handle and beginning."""
    browser = Browser(secret_key=OLDER)
    browser.ask(put(data=large(4000)))
    before = browser.ask(lambda session: (session.handle, session.created_at, session["data"]))
    browser.clock.advance(10)
    both = Browser(browser.clock, secret_key=[SECRET, OLDER])
    both.jar = browser.jar
    both.ask(lambda session: None)
    assert both.lines == []
    assert both.ask(lambda session: (session.handle, session.created_at, session["data"])) == before
    assert len(both.lines) == 2
    both.ask(read)
    assert both.lines == []
    new = Browser(browser.clock)
    new.jar = browser.jar
    assert new.ask(lambda session: (session.handle, session.created_at, session["data"])) == before


def test_the_format_is_pinned():
    """A cookie of this release opens in every later one."""
    clock = Clock(1_700_000_000.0)
    assert Browser(clock).ask(lambda session: (session.copy(), session.handle), cookie=PINNED) == (
        {"user_id": 7, "cart": [1, 2]},
        "f7db362785415bb47ebf5fbd447deef69290e785094f04dd3b7473480f0ebc8c",
    )


# --- streams and WebSockets -------------------------------------------------------------------------------------------


def streaming(todo):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        result = todo(scope["session"])
        if result is not None:
            await result
        await send({"type": "http.response.body", "body": b"b"})

    return app


@pytest.mark.parametrize(
    "todo",
    [
        put(a=2),
        lambda session: session.clear(),
        lambda session: session.invalidate(),
        lambda session: session.rotate(),
        lambda session: [session.update(a=2), session.save()][1],
    ],
    ids=["change", "clear", "invalidate", "rotate", "save"],
)
def test_after_the_response_has_started(browser, todo):
    """What changes the session once the headers have left raises, and is not lost without a word."""
    browser.ask(put(a=1))
    browser.app.app = streaming(todo)
    with pytest.raises(ResponseStarted):
        run(browser.app, scope_with(browser.jar.header()))


def test_a_new_session_after_the_response_has_started(browser):
    """So does a new session."""
    browser.app.app = streaming(put(a=1))
    with pytest.raises(ResponseStarted):
        run(browser.app, scope_with(b""))


def test_reading_after_the_response_has_started(browser):
    """Reading in a stream is fine, also where the session is due for renewal or was sealed by an older key."""
    old = Browser(browser.clock, secret_key=OLDER)
    old.ask(put(a=1))
    browser = Browser(browser.clock, secret_key=[SECRET, OLDER])
    browser.clock.advance(5000)
    seen = []
    browser.app.app = streaming(lambda session: seen.append(session["a"]))
    messages = run(browser.app, scope_with(old.jar.header()))
    assert seen == [1] and messages[0]["headers"] == []


def test_save_before_the_response(browser):
    """`await session.save()` before the response puts the session into its headers; what comes after it counts too."""

    async def app(scope, receive, send):
        session = scope["session"]
        session["a"] = 1
        await session.save()
        assert not session.is_new and not session.modified and len(session.handle) == 64
        await session.refresh()
        session["b"] = 2
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    browser.app.app, handle = app, browser.app.app
    browser.jar.take(run(browser.app, scope_with(b""))[0]["headers"])
    browser.app.app = handle
    assert browser.ask(read) == {"a": 1, "b": 2}


@pytest.mark.parametrize("cookies", [1, 3])
def test_a_websocket(browser, cookies):
    """The cookies travel with `websocket.accept`; later changes raise."""

    async def app(scope, receive, send):
        scope["session"]["data"] = large(3000 * cookies - 2000)
        await send({"type": "websocket.accept"})
        scope["session"]["late"] = True

    browser.app.app, handle = app, browser.app.app
    sent = []

    async def send(message):
        sent.append(message)

    with pytest.raises(ResponseStarted):
        asyncio.run(browser.app(scope_with(b"", "websocket"), None, send))
    assert len(browser.jar.take(sent[0]["headers"])) == cookies
    browser.app.app = handle
    assert browser.ask(read) == {"data": large(3000 * cookies - 2000)}


class HTTPException(Exception):
    def __init__(self, status_code=403, headers=None):
        super().__init__(status_code)
        self.headers = headers


def test_an_http_exception_carries_one_cookie(browser):
    """An error response that a framework makes of an exception saves too, where one cookie is enough."""

    def raising(**values):
        async def app(scope, receive, send):
            scope["session"].clear()
            scope["session"].update(values)
            raise HTTPException

        return app

    handle = browser.app.app

    def provoke(**values):
        browser.app.app = raising(**values)
        try:
            run(browser.app, scope_with(browser.jar.header()))
        finally:
            browser.app.app = handle

    with pytest.raises(HTTPException) as caught:
        provoke(a=1)
    browser.jar.take([(name.encode(), value.encode()) for name, value in caught.value.headers.items()])
    assert browser.ask(read) == {"a": 1}
    with pytest.raises(SessionDataError, match="takes 3 cookies"):
        provoke(data=large(7000))
    browser.ask(put(data=large(7000)))
    with pytest.raises(HTTPException) as caught:
        provoke()
    browser.jar.take([(name.encode(), value.encode()) for name, value in caught.value.headers.items()])
    assert sorted(browser.jar.cookies) == ["session.1", "session.2"]  # nobody can read them; gone with the next cookie
    assert browser.ask(read) == {}
    browser.ask(put(a=2))
    assert list(browser.jar.cookies) == ["session"]


@pytest.mark.parametrize("keys", ["same", "rotated"])
def test_an_http_exception_whose_session_need_not_be_saved(browser, keys):
    """A page that only reads, is not found, and finds a renewal due: that can wait for one that carries cookies."""
    browser.ask(put(data=large(7000)))
    browser.clock.advance(browser.app.config.max_age / 2)
    if keys == "rotated":
        newer = Browser(browser.clock, secret_key=["n" * 32, SECRET])
        newer.jar = browser.jar
        browser = newer

    async def raising(scope, receive, send):
        assert scope["session"]["data"]
        raise HTTPException

    handle, browser.app.app = browser.app.app, raising
    with pytest.raises(HTTPException) as caught:
        run(browser.app, scope_with(browser.jar.header()))
    assert "set-cookie" not in {name.lower() for name in caught.value.headers}
    browser.app.app = handle
    assert browser.ask(read) == {"data": large(7000)}
    assert len(browser.lines) == 3


def test_an_http_exception_after_an_early_save(browser):
    """What an early save has put into several cookies is refused too; one cookie of them would be no session."""
    handle = browser.app.app
    browser.ask(put(a=1))

    async def raising(scope, receive, send):
        scope["session"]["data"] = large(size)
        await scope["session"].save()
        raise HTTPException

    browser.app.app = raising
    size = 7000
    with pytest.raises(SessionDataError, match="takes 3 cookies"):
        run(browser.app, scope_with(browser.jar.header()))
    size = 100
    with pytest.raises(HTTPException) as caught:
        run(browser.app, scope_with(browser.jar.header()))
    browser.app.app = handle
    assert browser.ask(read) == {"a": 1}
    browser.jar.take([(name.encode(), value.encode()) for name, value in caught.value.headers.items()])
    assert browser.ask(read) == {"a": 1, "data": large(100)}


# --- the rest ---------------------------------------------------------------------------------------------------------


def test_what_it_cannot_do(browser):
    """As its docstring says: the last response wins, and a copy of a cookie works after the log-out."""
    browser.ask(put(a=0))
    copy = browser.jar.header()
    browser.ask(put(a=1))
    browser.jar.cookies["session"] = copy.partition(b"=")[2].decode()
    browser.ask(put(b=2))
    assert browser.ask(read) == {"a": 0, "b": 2}
    browser.ask(lambda session: session.invalidate())
    assert browser.ask(read, cookie=copy) == {"a": 0}


async def test_the_lifespan(browser):
    """The app starts and stops: there is nothing to open."""
    heard = []

    async def app(scope, receive, send):
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    browser.app.app = app
    waiting = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]

    async def receive():
        return waiting.pop(0)

    async def send(message):
        heard.append(message["type"])

    await browser.app({"type": "lifespan"}, receive, send)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert heard == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def test_a_mounted_app_sees_the_one_session(browser):
    """A second middleware for the same cookie leaves everything to the outer one."""
    inner = SessionMiddleware(browser.app.app, secret_key=SECRET, store="cookie://", clock=browser.clock)
    browser.app.app = inner
    browser.ask(put(a=1))
    assert len(browser.lines) == 1
    assert browser.ask(read) == {"a": 1}


def test_by_url():
    """`cookie://` is this store; anything behind it is refused."""
    assert repr(store_from("cookie://")) == "CookieStore(max_size=7168)"
    assert isinstance(SessionConfig(secret_key=SECRET, store="cookie://").store, CookieStore)
    store = CookieStore()
    assert store_from(store) is store
    with pytest.raises(ConfigurationError, match="takes nothing behind it"):
        store_from("cookie://host")


@pytest.mark.parametrize("size", [0, 511, 32769, -1, 1e4, "7168", None, True])
def test_a_wrong_size(size):
    """`max_size` takes a whole number within its bounds."""
    with pytest.raises(ConfigurationError, match="max_size"):
        CookieStore(max_size=size)


def test_find_chunked():
    """Chunks are found in any order and any header; the names of others are left alone."""
    headers = [
        (b"cookie", b"session.1=efghIJKLb; mysession=x; session.10=y; sessions=z; session. 1=w"),
        (b"host", b"session=1nothing"),
        (b"cookie", b' session = "2abcdabcdefghIJKLa" ; session.x=; session.=; session=1short; session.1=otherTAGc'),
    ]
    assert find_chunked(headers, b"session") == [b"2abcdabcdefghIJKLab", b"1short"]


@pytest.mark.parametrize("framework", ["starlette", "fastapi"])
def test_a_real_app(framework):
    """A Starlette and a FastAPI app keep a session over requests, streams of cookies and a log-out."""
    from starlette.responses import JSONResponse
    from starlette.testclient import TestClient

    if framework == "starlette":
        from starlette.applications import Starlette as App
    else:
        from fastapi import FastAPI as App
    from starlette.exceptions import HTTPException as StarletteException
    from starlette.requests import Request

    async def show(request: Request):
        return JSONResponse({key: str(value) for key, value in request.session.items()})

    async def fill(request: Request):
        request.session["data"] = "x" * int(request.query_params["size"])
        return JSONResponse({})

    async def refuse(request: Request):
        request.session["refused"] = True
        raise StarletteException(403)

    async def leave(request: Request):
        request.session.clear()
        return JSONResponse({})

    app = App()
    for path, handler in [("/", show), ("/fill", fill), ("/refuse", refuse), ("/leave", leave)]:
        app.add_route(path, handler)
    app.add_middleware(SessionMiddleware, secret_key=SECRET, store="cookie://")
    with TestClient(app) as client:
        assert client.get("/").json() == {}
        client.get("/fill?size=4000")
        assert sorted(client.cookies) == ["session", "session.1"]
        assert client.get("/").json() == {"data": "x" * 4000}
        client.get("/fill?size=5")
        assert sorted(client.cookies) == ["session"]
        assert client.get("/refuse").status_code == 403
        assert client.get("/").json() == {"data": "xxxxx", "refused": "True"}
        client.get("/leave")
        assert dict(client.cookies) == {}


def test_an_end_that_fails_is_not_told():
    """Where what follows `invalidate` is too large, the browser keeps its session, and nobody hears that it ended."""
    heard = []
    browser = Browser(on_event=heard.append)
    browser.ask(put(a=1))
    heard.clear()

    def anew(session):
        session.invalidate()
        session["big"] = large(60000)

    with pytest.raises(SessionDataError):
        browser.ask(anew)
    assert heard == []
    assert browser.ask(read) == {"a": 1}
