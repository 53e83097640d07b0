"""Sessions in the cookie itself: their life, clocks and users, old sessions, and keys."""

import base64
import datetime as dt
import decimal
import json
import re
import uuid

import itsdangerous
import pytest

from roomkey import ConfigurationError, LoginTooOld, SessionDataError
from roomkey.core.users import Sessions
from roomkey.csrf import csrf_token
from roomkey.events import Created, Ended, LoadedWithOldKey, Refused, Rotated
from roomkey.legacy import StarletteCookie
from roomkey.testing.clock import Clock
from tests.stores.in_cookies.browser import OLDER, SECRET, Browser, large, put, read, run, scope_with

PINNED = (
    b"session=1Ae79hNRlMpH6O1JgG60f_PnjRtBfw0Fk9gYMgHqRmGyA2FicE8Tiqly7Rkvl9CWsOSNmC2dqAIora0kiN"
    b"1DHSkak1Zukf0dRiPoSr3cDZjNR1ZNVW1H69_Q"
)


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


def test_a_user_who_leaves_nothing_but_forms(browser):
    """The forms are the user's and go too, so that the session has ended."""
    browser.ask(lambda session: (session.update(user_id=7), csrf_token(session)))

    def leave(session):
        del session["user_id"]

    browser.ask(leave)
    assert browser.jar.cookies == {}
    assert browser.ask() == {}


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


def test_what_stands_in_place_of_the_session_is_ignored():
    """`scope["session"] = {...}` is no new content, and None no log-out."""
    browser = Browser()

    async def app(scope, receive, send):
        scope["session"] = contents.pop(0)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    browser.ask(put(a=1))
    contents = [{"b": 2}, {}, None]
    browser.app.app = app
    for expected in ({"a": 1}, {"a": 1}, {"a": 1}):
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
