"""`session.peek`: a look at a value that keeps no session alive."""

import pytest

from roomkey import Session, SessionManager
from roomkey.testing import Clock
from tests.asgi import ask, cookie_in, header, http_scope, make
from tests.test_accessors import START, store

__all__ = ["store"]

MAX_AGE = 1000


def site_of(store, handle):
    """Return a manager and a function that sends requests; `/login` logs in, and all else is handled by `handle`."""
    clock = Clock(START)

    async def handler(scope, send):
        if scope["path"] == "/login":
            scope["session"].update(user_id=7, cart=["tea"])
        else:
            await handle(scope["session"])

    app = make(handler, store=store(clock), clock=clock, max_age=MAX_AGE)

    async def get(card=None, path="/"):
        return (await ask(app, http_scope(path, card)))[0]

    return clock, get


@pytest.mark.parametrize("key", ["user_id", "cart", "missing"])
async def test_a_peek_renews_nothing(store, key):
    """The response varies by cookie, the session ends at its time, and use of it is use as before."""
    found = []

    async def handle(session):
        found.append(session.peek(key, "nothing"))
        assert not session.accessed and not session.modified

    clock, get = site_of(store, handle)
    card = cookie_in(await get(path="/login"))
    clock.advance(MAX_AGE / 2)
    for _ in range(2):
        answer = await get(card)
        assert header(answer, b"vary") == [b"Cookie"] and cookie_in(answer) is None
    clock.advance(MAX_AGE / 2 + 1)
    answer = await get(card)
    expected = {"user_id": 7, "cart": ["tea"], "missing": "nothing"}[key]
    assert found == [expected, expected, "nothing"] and header(answer, b"vary") == [b"Cookie"]


USES = {
    "a read before": lambda session: (session.get("user_id"), session.peek("user_id")),
    "a read after": lambda session: (session.peek("user_id"), session.get("user_id")),
    "a write": lambda session: (session.peek("user_id"), session.update(theme="dark")),
    "said after": lambda session: (session.peek("user_id"), session.mark_accessed()),
    "asked for twice": lambda session: (session.mark_accessed(), session.mark_accessed(), session.peek("user_id")),
    "said by a framework": lambda session: (session.peek("user_id"), setattr(session, "accessed", True)),
}


@pytest.mark.parametrize("use", USES)
async def test_use_beside_a_peek_is_use(store, use):
    """What else is done with the session counts, before the peek and after it."""

    async def handle(session):
        USES[use](session)
        assert session.accessed

    clock, get = site_of(store, handle)
    card = cookie_in(await get(path="/login"))
    clock.advance(MAX_AGE / 2)
    assert cookie_in(await get(card)) is not None


async def test_peeks_again_and_again(store):
    """However often the framework hands the session out for them, they are no use."""

    async def handle(session):
        for _ in range(3):
            session.mark_accessed()
            session.peek("user_id")
            session.peek("cart")
        assert not session.accessed

    clock, get = site_of(store, handle)
    card = cookie_in(await get(path="/login"))
    clock.advance(MAX_AGE / 2)
    answer = await get(card)
    assert cookie_in(answer) is None and header(answer, b"vary") == [b"Cookie"]


@pytest.mark.parametrize("value", [["tea"], {"a": [1]}, {1}, (1, [2]), "text", 5, None])
def test_a_peek_is_a_copy(value):
    """What is done to it changes nothing in the session, and there is nothing to compare."""
    session = Session(a=value)
    found = session.peek("a")
    assert found == value and type(found) is type(value)
    assert found is not value or type(value) in (str, int, type(None))
    assert not (session._changed or session._shared)


def test_a_default_is_returned_as_it_is():
    """It is the caller's own. A key with None in it is no missing key."""
    default = []
    assert Session().peek("a", default) is default and Session().peek("a") is None
    assert Session(a=None).peek("a", default) is None


def test_a_peek_shows_what_the_request_did():
    """The session is looked at as it is now."""
    session = Session(a=1)
    session["b"] = [2]
    assert session.peek("b") == [2]


@pytest.mark.parametrize("can_set_cookie", [True, False])
async def test_a_peek_through_a_manager(store, can_set_cookie):
    """The headers of the response say `Vary: Cookie`. One that has started renews nothing either."""
    clock = Clock(START)
    manager = SessionManager(secret_key="k" * 43, store=store(clock), clock=clock, max_age=MAX_AGE)
    session = await manager.load()
    session["user_id"] = 7
    headers = dict(await manager.commit(session, headers=[("x-app", "1")]))
    cookie = headers["set-cookie"].partition(";")[0]
    clock.advance(MAX_AGE / 2)
    session = await manager.load(cookie)
    assert session.peek("user_id") == 7
    headers = await manager.commit(session, headers=[("x-app", "1")], can_set_cookie=can_set_cookie)
    assert dict(headers) == {"x-app": "1", "vary": "Cookie"}
    clock.advance(MAX_AGE / 2 + 1)
    assert (await manager.load(cookie)).is_new


async def test_a_stream_that_peeks(store):
    """A look after the response has started keeps nothing alive."""

    async def handler(scope, send):
        session = scope["session"]
        if scope["path"] == "/login":
            session["user_id"] = 7
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        assert session.peek("user_id") == 7
        await send({"type": "http.response.body", "body": b""})

    clock = Clock(START)
    app = make(handler, store=store(clock), clock=clock, max_age=MAX_AGE)
    card = cookie_in((await ask(app, http_scope("/login")))[0])
    clock.advance(MAX_AGE / 2)
    await ask(app, http_scope("/", card))
    clock.advance(MAX_AGE / 2 + 1)
    assert (await app.manager.load(b"session=" + card)).is_new
