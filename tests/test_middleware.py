"""Sessions over HTTP: the cookie and its headers, a replaced session, several middlewares, and wrong options."""

import logging

import pytest

from roomkey import ConfigurationError, Session, SessionConfig, SessionMiddleware
from roomkey.testing.clock import Clock
from tests.asgi import (
    HELLO,
    SECRET,
    SpyStore,
    ask,
    cookie_in,
    header,
    http_scope,
    log_in,
    make,
    never,
    pages,
    start,
    websocket_scope,
)
from tests.driver import driver_of

# --- HTTP -------------------------------------------------------------------------------------------------------------


async def test_log_in_read_and_log_out():
    """What a log-in stored is read with its cookie, and a log-out takes the cookie back and kills every copy of it."""
    app = pages()
    card = await log_in(app)
    assert (await ask(app, http_scope("/read", card)))[1]["body"] == b"{'user_id': 7}"
    out = (await ask(app, http_scope("/logout", card)))[0]
    assert b"Max-Age=0" in header(out, b"set-cookie")[0]
    assert cookie_in(out) == b""
    assert (await ask(app, http_scope("/read", card)))[1]["body"] == b"{}"
    assert app.config.store.rows == 0


@pytest.mark.parametrize("path", ["/", "/read", "/same"])
async def test_an_unchanged_session_sets_no_cookie_and_writes_nothing(path):
    """A request that leaves its session as it was costs one load, sets no cookie and lets caches alone."""
    app = pages()
    card = await log_in(app)
    app.config.store.events.clear()
    answer = (await ask(app, http_scope(path, card)))[0]
    assert header(answer, b"set-cookie") == []
    assert header(answer, b"cache-control") == []
    assert app.config.store.events == ["load"]


@pytest.mark.parametrize("path", ["/", "/read"])
async def test_an_anonymous_request_that_stores_nothing_costs_nothing(path):
    """Without a cookie and without a value stored there is no store operation and no cookie."""
    app = pages()
    answer = (await ask(app, http_scope(path)))[0]
    assert header(answer, b"set-cookie") == []
    assert app.config.store.events == []


async def test_a_change_of_data_alone_sets_no_cookie():
    """A changed value is saved under the same ID: the browser's cookie is still right and none is sent."""

    async def handler(scope, send):
        scope["session"]["n"] = scope["session"].get("n", 0) + 1

    app = make(handler)
    card = cookie_in((await ask(app, http_scope()))[0])
    app.config.store.events.clear()
    assert cookie_in((await ask(app, http_scope(card=card)))[0]) is None
    assert app.config.store.events == ["load", "update"]


async def test_the_cookie_has_its_attributes():
    """The cookie is HttpOnly, SameSite, of the configured path, and lives for max_age."""
    app = pages(max_age=600, https_only=True, same_site="strict", path="/shop", domain="example.org")
    value = header((await ask(app, http_scope("/login")))[0], b"set-cookie")[0]
    assert value.partition(b"; ")[2] == (
        b"Max-Age=600; Path=/shop; Domain=example.org; HttpOnly; SameSite=strict; Secure"
    )


async def test_the_cookie_of_a_deleted_session_has_the_same_attributes():
    """The header that takes a cookie back carries the path and domain that it was set with."""
    app = pages(path="/shop", domain="example.org")
    value = header((await ask(app, http_scope("/logout", await log_in(app))))[0], b"set-cookie")[0]
    assert b"; Path=/shop; Domain=example.org" in value


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([], [b"Cookie"]),
        ([(b"vary", b"Accept")], [b"Accept, Cookie"]),
        ([(b"Vary", b"cookie, Accept")], [b"cookie, Accept"]),
        ([(b"vary", b"*")], [b"*"]),
    ],
)
async def test_a_response_that_used_the_session_varies_by_cookie(before, after):
    """Reading the session adds Cookie to Vary, exactly once, whatever the app had put there."""

    async def handler(scope, send):
        scope["session"].get("x")
        await start(send, headers=before)
        await send(HELLO)

    assert header((await ask(make(handler), http_scope()))[0], b"vary") == after


@pytest.mark.parametrize("name", ["is_new", "handle", "created_at", "expires_at", "authenticated_at"])
@pytest.mark.parametrize("logged_in", [False, True])
async def test_a_response_that_used_what_is_known_of_the_session_varies_by_cookie(name, logged_in):
    """A page that says "welcome back", or when the session ends, is another one without the cookie."""

    async def handler(scope, send):
        getattr(scope["session"], name)
        await start(send)
        await send(HELLO)

    app = make(handler)
    visit = driver_of(app).anonymous()
    visit.session["user_id"] = 7
    await visit.commit()
    scope = http_scope("/", visit.card) if logged_in else http_scope()
    assert header((await ask(app, scope))[0], b"vary") == [b"Cookie"]


async def test_a_response_that_did_not_use_the_session_does_not_vary():
    """A handler that never looks at the session leaves Vary alone, even for a browser that has a cookie."""
    app = pages()
    assert header((await ask(app, http_scope("/", await log_in(app))))[0], b"vary") == []


async def test_a_response_with_a_cookie_is_kept_out_of_caches():
    """Whatever the app said about caching, a response that sets the cookie says no-store and nothing else."""

    async def handler(scope, send):
        scope["session"]["x"] = 1
        away = [(b"Cache-Control", b"public, max-age=600"), (b"Expires", b"tomorrow"), (b"X-Accel-Expires", b"600")]
        away += [(b"CDN-Cache-Control", b"max-age=600"), (b"cloudflare-cdn-cache-control", b"max-age=600")]
        await start(send, headers=[*away, *stays])
        await send(HELLO)

    stays = [(b"x", b"y"), (b"x-token-expires", b"600"), (b"x-upstream-cache-control", b"public")]

    answer = (await ask(make(handler), http_scope()))[0]
    assert header(answer, b"cache-control") == [b"no-store"]
    assert header(answer, b"expires") == []
    ours = (b"set-cookie", b"vary", b"cache-control")
    assert [pair for pair in answer["headers"] if pair[0] not in ours] == stays


@pytest.mark.parametrize("path", ["/read", "/login", "/logout", "replaced"])
async def test_the_apps_own_messages_stay_as_they_are(path):
    """A cache inside the middleware may keep them, as Litestar's does: it keeps nobody's cookie and no `Vary`."""
    kept = []

    def keeping(app):
        async def inner(scope, receive, send):
            async def keep(message):
                kept.append(message)
                await send(message)

            if path == "replaced":
                scope["session"]["user_id"] = 8
                scope["session"] = {}
            await app(scope, receive, keep)

        return inner

    app = pages()
    card = await log_in(app)
    app.app = keeping(app.app)
    answer = (await ask(app, http_scope("/read" if path == "replaced" else path, card)))[0]
    assert header(answer, b"vary") == [b"Cookie"]
    assert kept[0]["type"] == "http.response.start"
    assert header(kept[0], b"vary") == header(kept[0], b"set-cookie") == []


async def test_cookies_of_the_app_itself_stay():
    """A Set-Cookie header that the app wrote goes out beside the session's."""

    async def handler(scope, send):
        scope["session"]["x"] = 1
        await start(send, headers=[(b"set-cookie", b"theme=dark")])
        await send(HELLO)

    values = header((await ask(make(handler), http_scope()))[0], b"set-cookie")
    assert values[0] == b"theme=dark"
    assert len(values) == 2


async def test_a_start_message_without_headers_is_fine():
    """An app that leaves the optional `headers` key out of its response gets its cookie all the same."""

    async def handler(scope, send):
        scope["session"]["x"] = 1
        await send({"type": "http.response.start", "status": 204})
        await send({"type": "http.response.body"})

    assert cookie_in((await ask(make(handler), http_scope()))[0])


async def test_the_store_has_acknowledged_before_the_first_byte_left():
    """Creating, updating and ending a session are all finished when the response starts."""

    async def handler(scope, send):
        session = scope["session"]
        if scope["path"] == "/out":
            session.invalidate()
        else:
            session["n"] = session.get("n", 0) + 1

    store = SpyStore()
    app = make(handler, store=store)
    card = cookie_in((await ask(app, http_scope(), events=store.events))[0])
    await ask(app, http_scope(card=card), events=store.events)
    await ask(app, http_scope("/out", card), events=store.events)
    out = ["http.response.start", "http.response.body"]
    assert store.events == ["create", *out, "load", "update", *out, "load", "update", "delete", *out]


async def test_a_change_of_user_rotates_the_id():
    """When `user_id` gets another value the response hands out a new card, and the old one is dead."""

    async def handler(scope, send):
        if scope["path"] == "/start":
            scope["session"]["cart"] = [1]
        elif scope["path"] == "/login":
            scope["session"]["user_id"] = 7
        else:
            await start(send)
            await send({"type": "http.response.body", "body": repr(scope["session"].copy()).encode()})

    app = make(handler)
    old = cookie_in((await ask(app, http_scope("/start")))[0])
    new = cookie_in((await ask(app, http_scope("/login", old)))[0])
    assert new not in (None, old)
    assert (await ask(app, http_scope("/read", old)))[1]["body"] == b"{}"
    assert (await ask(app, http_scope("/read", new)))[1]["body"] == b"{'cart': [1], 'user_id': 7}"


async def test_a_session_is_renewed_by_use():
    """Using a session after a tenth of max_age moves its end on, in the store and in the browser, by one touch."""
    clock = Clock()
    app = pages(store=SpyStore(clock=clock), clock=clock, max_age=1000)
    card = await log_in(app)
    app.config.store.events.clear()
    clock.advance(150)
    answer = (await ask(app, http_scope("/read", card)))[0]
    assert app.config.store.events == ["load", "touch"]
    assert b"; Max-Age=1000;" in header(answer, b"set-cookie")[0]
    clock.advance(900)
    assert (await ask(app, http_scope("/read", card)))[1]["body"] == b"{'user_id': 7}"
    clock.advance(1001)
    assert (await ask(app, http_scope("/read", card)))[1]["body"] == b"{}"


# --- scope["session"] replaced ----------------------------------------------------------------------------------------


REPLACED = {
    "a dict": lambda scope: scope.update(session={"n": 2}),
    "an empty dict": lambda scope: scope.update(session={}),
    "none": lambda scope: scope.update(session=None),
    "no dict": lambda scope: scope.update(session=["no", "dict"]),
    "an object": lambda scope: scope.update(session=object()),
    "nothing": lambda scope: scope.pop("session"),
}


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("way", REPLACED)
async def test_what_stands_in_place_of_the_session_is_ignored(way, late, caplog):
    """It is no new content, no log-out and no error: the session stays what it is. That is said once."""

    async def handler(scope, send):
        session = scope["session"]
        if scope["path"] == "/start":
            session["n"] = 1
            return
        if late:
            await start(send)
        REPLACED[way](scope)
        if scope["path"] == "/write":
            session["more"] = True  # what the session itself was told counts

    app = make(handler)
    card = cookie_in((await ask(app, http_scope("/start")))[0])
    for path in ("/end", "/end", "/write"):
        answer = (await ask(app, http_scope(path, card)))[0]
        assert answer["status"] == 200 and cookie_in(answer) is None
    assert (await driver_of(app).arrive([card])).session == {"n": 1, "more": True}
    ((name, level, message),) = caplog.record_tuples
    assert (name, level) == ("roomkey", logging.WARNING)
    assert message.startswith('scope["session"] was ') and "call clear() and update({...})" in message
    assert app.config.store.rows == 1


@pytest.mark.parametrize("way", REPLACED)
async def test_nothing_begins_in_place_of_no_session(way):
    """Neither does it begin a session for a visitor who has none, in an HTTP request or a WebSocket."""

    async def handler(scope, send):
        REPLACED[way](scope)
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})

    app = make(handler)
    for scope in (http_scope(), websocket_scope()):
        assert (await ask(app, scope))[0].get("headers", []) == []
    assert app.config.store.rows == 0


# --- several middlewares ----------------------------------------------------------------------------------------------


async def test_a_mounted_app_sees_the_one_session():
    """A second middleware of the same cookie inside the first leaves the session to the outer one."""

    async def handler(scope, send):
        scope["session"]["n"] = scope["session"].get("n", 0) + 1

    inner = make(handler)
    store = SpyStore()
    outer = SessionMiddleware(inner, secret_key=SECRET + "!", store=store)
    answer = (await ask(outer, http_scope()))[0]
    card = cookie_in(answer)
    assert len(header(answer, b"set-cookie")) == 1
    await ask(outer, http_scope(card=card))
    assert (await driver_of(outer).arrive([card])).session == {"n": 2}
    assert inner.config.store.events == []
    assert store.events[:3] == ["create", "load", "update"]


async def test_middlewares_of_different_cookies_are_independent():
    """Two middlewares with cookies of different names keep two sessions, each under its own cookie."""

    async def innermost(scope, receive, send):
        scope["session"]["inner"] = 1
        await start(send)
        await send(HELLO)

    async def between(scope, receive, send):
        scope["session"]["outer"] = 1
        await inner(scope, receive, send)

    inner = SessionMiddleware(innermost, secret_key=SECRET, store=SpyStore(), session_cookie="inner")
    outer = SessionMiddleware(between, secret_key=SECRET, store=SpyStore(), session_cookie="outer")

    answer = (await ask(outer, http_scope()))[0]
    inner_card, outer_card = cookie_in(answer, b"inner"), cookie_in(answer, b"outer")
    assert inner_card
    assert outer_card
    assert header(answer, b"vary") == [b"Cookie"]
    assert header(answer, b"cache-control") == [b"no-store"]
    assert (await driver_of(inner).arrive([inner_card])).session == {"inner": 1}
    assert (await driver_of(outer).arrive([outer_card])).session == {"outer": 1}
    assert (await driver_of(inner).arrive([outer_card])).session == {}
    assert (await driver_of(outer).arrive([inner_card])).session == {}


# --- making it --------------------------------------------------------------------------------------------------------


def test_a_config_and_options_are_the_same():
    """`SessionMiddleware(app, config)` and `SessionMiddleware(app, **options)` make the same middleware."""
    store = SpyStore()
    config = SessionConfig(secret_key=SECRET, store=store, max_age=60)
    assert SessionMiddleware(never, config).config == (
        SessionMiddleware(never, secret_key=SECRET, store=store, max_age=60).config
    )


@pytest.mark.parametrize(
    ("arguments", "options", "says"),
    [
        ((), {}, "secret_key"),
        ((), {"secret_key": SECRET, "max_agee": 1}, "max_age"),
        (({"secret_key": SECRET},), {}, "config: got dict"),
        ((SessionConfig(secret_key=SECRET, store="memory://"),), {"max_age": 1}, "not both"),
    ],
)
def test_wrong_options_are_named(arguments, options, says):
    """A wrong, unknown or missing option, or a config beside options, is a ConfigurationError that names it."""
    with pytest.raises(ConfigurationError, match=says):
        SessionMiddleware(never, *arguments, **options)


async def test_other_scopes_pass_untouched():
    """A scope type that is neither HTTP, WebSocket nor lifespan goes through as it came."""
    seen = []

    async def app(scope, receive, send):
        seen.append(dict(scope))

    await SessionMiddleware(app, secret_key=SECRET, store="memory://")({"type": "other"}, never, never)
    assert seen == [{"type": "other"}]


async def test_the_session_is_a_dict():
    """Frameworks that check `isinstance(session, dict)` find one, and it is a Session."""

    async def handler(scope, send):
        assert isinstance(scope["session"], dict)
        assert type(scope["session"]) is Session

    assert await ask(make(handler), http_scope())
