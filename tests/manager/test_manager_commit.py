"""`SessionManager.commit`: all headers in, all headers out, and the cookie among them where it is due."""

import asyncio

import pytest

from roomkey import ConfigurationError, ResponseStarted, Session
from roomkey.core.transaction import Transaction
from roomkey.stores.sqlite import SQLiteStore
from tests.manager.parts import WaitingStore, begin, content, cookie_of, make, values


@pytest.fixture(params=["memory", "waiting", "sqlite"])
def manager(request, tmp_path):
    """A manager over each kind of store: one that never waits, one that does, and one with a thread of its own."""
    stores = {"memory": lambda: None, "waiting": WaitingStore, "sqlite": lambda: SQLiteStore(tmp_path / "sessions.db")}
    made = make(stores[request.param]())
    yield made
    asyncio.run(made.registry.store.close())


# --- headers in and out -----------------------------------------------------------------------------------------------


async def test_headers_of_str_come_back_as_str():
    """What the app sends stays, in its order, and what is due is added."""
    manager = make()
    session = await manager.load()
    session["user_id"] = 7
    given = [("Content-Type", "text/html"), ("X-One", "1"), ("X-One", "2")]
    headers = await manager.commit(session, headers=given)
    assert headers[:3] == given
    assert [name for name, _ in headers[3:]] == ["vary", "cache-control", "set-cookie"]
    assert all(type(part) is str for pair in headers for part in pair)
    assert given == [("Content-Type", "text/html"), ("X-One", "1"), ("X-One", "2")]  # not changed in place


async def test_headers_of_bytes_come_back_as_bytes():
    """The same for pairs of bytes, and for what ASGI allows in the place of pairs: lists."""
    manager = make()
    session = await manager.load()
    session["user_id"] = 7
    headers = await manager.commit(session, headers=[[b"content-type", b"text/html"]])
    assert headers[0] == (b"content-type", b"text/html")
    assert [name for name, _ in headers[1:]] == [b"vary", b"cache-control", b"set-cookie"]
    assert all(type(part) is bytes for pair in headers for part in pair)


@pytest.mark.parametrize(("raw", "kind"), [(None, str), (False, str), (True, bytes)])
async def test_where_there_are_no_headers_raw_says_of_which_type_they_are(raw, kind):
    """A response without headers does not show whether its framework has them as bytes."""
    manager = make()
    session = await manager.load()
    session["user_id"] = 7
    headers = await manager.commit(session, raw=raw)
    assert len(headers) == 3 and all(type(part) is kind for pair in headers for part in pair)
    assert await manager.commit(await manager.load(), headers=[], raw=raw) == []


async def test_headers_may_come_from_a_generator():
    """Anything that gives pairs will do."""
    manager = make()
    session = await manager.load()
    headers = await manager.commit(session, headers=((name, "x") for name in ("a", "b")))
    assert headers == [("a", "x"), ("b", "x")]


@pytest.mark.parametrize("text", ["é", "\u20ac", "\udc80", "日本"])
async def test_what_is_not_ascii_comes_back_as_it_was(text):
    """Frameworks differ in how they write other characters. Roomkey leaves them as they are."""
    manager = make()
    session = await manager.load()
    session["user_id"] = 7
    headers = await manager.commit(session, headers=[("x-name", text), ("Vary", text)])
    assert headers[0] == ("x-name", text)
    assert headers[1] == ("Vary", f"{text}, Cookie")
    raw = [(b"x-name", text.encode("utf-8", "surrogatepass"))]
    assert (await manager.commit(await manager.load(), headers=raw)) == raw


@pytest.mark.parametrize(
    "headers",
    [[("a", 5)], [(b"a", "b")], [("a", b"b")], [("a", "b"), (b"c", b"d")], [(b"a", b"b"), ("c", "d")], [(None, "a")]],
    ids=repr,
)
async def test_headers_of_several_types_are_refused(headers):
    """Nothing is saved: the mistake shows at once, and not with the first session that gets a cookie."""
    manager = make()
    session = await manager.load()
    session["user_id"] = 7
    with pytest.raises(TypeError, match="all are pairs of str, or all are pairs of bytes"):
        await manager.commit(session, headers=headers)
    assert await manager.sessions.of(7) == []
    assert cookie_of(await manager.commit(session, headers=[("a", "b")]))  # and with the right ones it is


@pytest.mark.parametrize("headers", [{"a": "b"}, {"ab": "x"}, "ab", b"ab", ["ab"], [("a", "b", "c")]], ids=repr)
async def test_what_is_no_pairs_is_refused(headers):
    """A dict gives names only; the error says what to give."""
    with pytest.raises(TypeError, match=r"headers.items\(\)"):
        await make().commit(await make().load(), headers=headers)


@pytest.mark.parametrize(("raw", "headers"), [(True, [("a", "b")]), (False, [(b"a", b"b")])])
async def test_raw_is_held_to_its_word(raw, headers):
    """Headers that are not as `raw` says are refused."""
    manager = make()
    with pytest.raises(TypeError, match="all are pairs"):
        await manager.commit(await manager.load(), headers=headers, raw=raw)


# --- Vary, and words to caches ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([], ["Cookie"]),
        (["Accept-Encoding"], ["Accept-Encoding, Cookie"]),
        (["accept, COOKIE"], ["accept, COOKIE"]),
        (["*"], ["*"]),
        ([""], ["Cookie"]),
    ],
)
@pytest.mark.parametrize("kind", [str, bytes])
async def test_vary_is_merged(manager, kind, before, after):
    """A session that was read says in Vary that the response depends on the cookie; once, beside what is there."""
    cookie = await begin(manager, user_id=7)
    session = await manager.load(cookie)
    assert session["user_id"] == 7
    given = [("Vary", value) for value in before]
    if kind is bytes:
        given = [(name.encode(), value.encode()) for name, value in given]
    headers = await manager.commit(session, headers=given, raw=kind is bytes)
    assert values(headers, "vary") == after
    assert values(headers, "set-cookie") == [] and values(headers, "cache-control") == []


async def test_a_session_that_nobody_used_leaves_the_headers_alone(manager):
    """Pages that do not look at the session can be cached."""
    cookie = await begin(manager, user_id=7)
    session = await manager.load(cookie)
    given = [("Cache-Control", "public, max-age=60"), ("Expires", "later")]
    assert await manager.commit(session, headers=given) == given


_TO_CACHES = ["Cache-Control", "Expires", "Surrogate-Control", "CDN-Cache-Control", "Cloudflare-CDN-Cache-Control"]


@pytest.mark.parametrize("kind", [str, bytes])
async def test_words_to_caches_that_would_keep_the_cookie_are_taken_out(manager, kind):
    """An adaptor that only added headers would let a CDN hand one user's cookie to the next."""
    session = await manager.load()
    session["user_id"] = 7
    given = [(name, "public, max-age=60") for name in _TO_CACHES] + [("x-frame-options", "DENY")]
    if kind is bytes:
        given = [(name.encode(), value.encode()) for name, value in given]
    headers = await manager.commit(session, headers=given)
    assert values(headers, "cache-control") == ["no-store"]
    assert values(headers, "x-frame-options") == ["DENY"]
    for name in _TO_CACHES[1:]:
        assert values(headers, name.lower()) == []
    assert cookie_of(headers)


async def test_they_stay_where_no_cookie_goes_out(manager):
    """A page that only reads the session keeps what the app said to caches."""
    cookie = await begin(manager, user_id=7)
    session = await manager.load(cookie)
    session.get("user_id")
    given = [(name, "private, max-age=60") for name in _TO_CACHES]
    headers = await manager.commit(session, headers=given)
    assert headers == [*given, ("vary", "Cookie")]


async def test_the_apps_own_cookies_stay(manager):
    """A Set-Cookie of the app's is one of its headers."""
    session = await manager.load()
    session["user_id"] = 7
    headers = await manager.commit(session, headers=[("Set-Cookie", "theme=dark")])
    assert values(headers, "set-cookie")[0] == "theme=dark" and len(values(headers, "set-cookie")) == 2


# --- what it saves ----------------------------------------------------------------------------------------------------


async def test_log_in_read_and_log_out(manager):
    """The life of a session, through nothing but load and commit."""
    cookie = await begin(manager, cart=["tea"])
    session = await manager.load(cookie)
    session["cart"].append("milk")
    assert values(await manager.commit(session), "set-cookie") == []
    session = await manager.load(cookie)
    assert session["cart"] == ["tea", "milk"]
    session["user_id"] = 7
    logged_in = cookie_of(await manager.commit(session))
    assert logged_in not in (None, cookie)
    assert (await manager.load(cookie)).is_new  # the ID has rotated
    session = await manager.load(logged_in)
    session.clear()
    [cleared] = values(await manager.commit(session), "set-cookie")
    assert "Max-Age=0" in cleared
    assert (await manager.load(logged_in)).is_new


@pytest.mark.parametrize("status", [200, 404, 500, 503])
async def test_the_status_that_the_app_chose_saves_too(manager, status):
    """An error that the app answers itself is a response like any other."""
    session = await manager.load()
    session["user_id"] = 7
    cookie = cookie_of(await manager.commit(session, status=status))
    assert await content(manager, cookie) == {"user_id": 7}


# --- called again -----------------------------------------------------------------------------------------------------


async def test_called_again_it_saves_what_changed_since(manager):
    """After a stream or a background task. The headers have left, so that nothing is put into them."""
    cookie = await begin(manager, user_id=7, n=0)
    session = await manager.load(cookie)
    session["n"] = 1
    await manager.commit(session)
    session["n"] = 2
    assert await content(manager, cookie) == {"user_id": 7, "n": 1}
    assert await manager.commit(session, headers=[("a", "b")]) == [("a", "b")]
    assert await content(manager, cookie) == {"user_id": 7, "n": 2}
    session.change("n", lambda n: n + 1)
    assert await manager.commit(session) == []
    assert await content(manager, cookie) == {"user_id": 7, "n": 3}


async def test_called_again_without_a_change_it_asks_the_store_for_nothing():
    """It may be called at the end of every request."""
    store = WaitingStore()
    manager = make(store)
    session = await manager.load(await begin(manager, user_id=7))
    session["n"] = 1
    await manager.commit(session)
    store.asked.clear()
    assert await manager.commit(session) == []
    assert store.asked == []


async def test_called_again_it_gives_no_cookie(manager):
    """What needs a cookie then is ResponseStarted, and nothing is saved."""
    session = await manager.load()
    await manager.commit(session)
    session["user_id"] = 7
    with pytest.raises(ResponseStarted):
        await manager.commit(session)
    assert await manager.sessions.of(7) == []


async def test_a_rotation_after_the_response_has_started_is_refused(manager):
    """The browser would keep a dead ID."""
    cookie = await begin(manager, user_id=7)
    session = await manager.load(cookie)
    await manager.commit(session)
    session.rotate()
    with pytest.raises(ResponseStarted):
        await manager.commit(session)
    assert await content(manager, cookie) == {"user_id": 7}


async def test_called_again_it_gives_a_cookie_when_told_that_one_can_go_out(manager):
    """An adaptor that holds the headers back until the handler has ended may commit as often as it likes."""
    session = await manager.load()
    await manager.commit(session)
    session["user_id"] = 7
    cookie = cookie_of(await manager.commit(session, can_set_cookie=True))
    assert await content(manager, cookie) == {"user_id": 7}
    session.rotate()
    rotated = cookie_of(await manager.commit(session, can_set_cookie=True))
    assert rotated not in (None, cookie)
    assert await content(manager, rotated) == {"user_id": 7}


async def test_the_first_call_may_be_told_that_no_cookie_can_go_out(manager):
    """A new session is refused; changes of one that the browser has the cookie of are saved."""
    new = await manager.load()
    new["user_id"] = 7
    with pytest.raises(ResponseStarted):
        await manager.commit(new, can_set_cookie=False)
    assert await manager.sessions.of(7) == []
    cookie = await begin(manager, user_id=8)
    session = await manager.load(cookie)
    session["n"] = 1
    assert await manager.commit(session, can_set_cookie=False) == [("vary", "Cookie")]
    assert await content(manager, cookie) == {"user_id": 8, "n": 1}


async def test_without_a_cookie_to_go_out_a_log_out_ends_the_session(manager):
    """The browser keeps its cookie, which opens nothing any more."""
    cookie = await begin(manager, user_id=7)
    session = await manager.load(cookie)
    session.clear()
    assert values(await manager.commit(session, can_set_cookie=False), "set-cookie") == []
    assert (await manager.load(cookie)).is_new


async def test_an_early_save_gives_its_cookie_to_the_commit(manager):
    """The handler has logged in and saved; the response carries the cookie once."""
    session = await manager.load()
    session["user_id"] = 7
    await session.save()
    session["n"] = 1
    headers = await manager.commit(session)
    assert len(values(headers, "set-cookie")) == 1
    assert await content(manager, cookie_of(headers)) == {"user_id": 7, "n": 1}


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["commit", "abandon"])
@pytest.mark.parametrize("wrong", [None, {}, "session", object()], ids=lambda value: type(value).__name__)
async def test_what_is_no_session_is_refused(method, wrong):
    """The error says what is taken: what `load` returned, and not a copy of it."""
    with pytest.raises(TypeError, match=rf"{method}: got \w+; it takes the session that `load` returned"):
        answer = getattr(make(), method)(wrong)
        await answer


@pytest.mark.parametrize("method", ["commit", "abandon"])
async def test_another_managers_session_is_refused(method):
    """Also one that nobody loaded, and one that its own manager has begun to save."""
    manager, other = make(), make()
    theirs, begun = await other.load(), await other.load()
    begun["user_id"] = 7
    await begun.save()
    assert isinstance(begun._transaction, Transaction)
    for session in (theirs, begun, Session(user_id=7)):
        with pytest.raises(ConfigurationError, match=f"{method}: the session was loaded by another SessionManager"):
            answer = getattr(manager, method)(session)
            await answer
