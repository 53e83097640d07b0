"""SessionMiddleware driven by hand: ASGI messages in, ASGI messages out, no framework between."""

import asyncio
import logging
import time

import pytest

from roomkey import (
    ConfigurationError,
    ResponseStarted,
    Session,
    SessionConfig,
    SessionDataError,
    SessionMiddleware,
    StoreUnavailable,
)
from roomkey.stores.memory import MemoryStore
from roomkey.testing.clock import Clock

SECRET = "a secret that is long enough for every test here"
HELLO = {"type": "http.response.body", "body": b"hello"}


class SpyStore(MemoryStore):
    """A memory store that writes down what was asked of it, and fails, waits or refuses to open when told."""

    def __init__(self, events=None, **options):
        super().__init__(**options)
        self.events = [] if events is None else events
        self.failing = set()
        self.slow = set()
        self.open_error = None

    async def _before(self, name):
        if name in self.failing:
            raise OSError("the disk is on fire, and the password is hunter2")
        if name in self.slow:
            await asyncio.sleep(30)

    async def load(self, key):
        self.events.append("load")
        await self._before("load")
        return await super().load(key)

    async def create(self, key, record):
        await self._before("create")
        await asyncio.sleep(0)
        await super().create(key, record)
        self.events.append("create")

    async def update(self, key, record, *, version):
        await self._before("update")
        await asyncio.sleep(0)
        await super().update(key, record, version=version)
        self.events.append("update")

    async def rotate(self, key, new_key, record, tombstone, *, version):
        await self._before("rotate")
        await super().rotate(key, new_key, record, tombstone, version=version)
        self.events.append("rotate")

    async def touch(self, key, expires_at):
        await self._before("touch")
        self.events.append("touch")
        return await super().touch(key, expires_at)

    async def delete(self, key):
        await self._before("delete")
        await super().delete(key)
        self.events.append("delete")

    async def open(self):
        if self.open_error is not None:
            raise self.open_error
        self.events.append("open")

    async def close(self):
        self.events.append("close")

    @property
    def rows(self):
        return len(self._records)


def http_scope(path="/", card=None, method="GET", name="session", **more):
    headers = [(b"host", b"testserver")]
    if card is not None:
        headers.append((b"cookie", name.encode() + b"=" + card))
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": headers,
        **more,
    }


def websocket_scope(path="/", card=None, **more):
    return http_scope(path, card, **{"type": "websocket", "subprotocols": [], **more})


async def never():
    await asyncio.Event().wait()


async def ask(app, scope, *, events=None, receive=never):
    """Send one request and return the messages that came back."""
    sent = []

    async def send(message):
        sent.append(message)
        if events is not None:
            events.append(message["type"])

    await app(scope, receive, send)
    return sent


def header(message, name):
    return [value for key, value in message["headers"] if key.lower() == name]


def cookie_in(message, name=b"session"):
    """The card that a response hands out, or None when it sets no cookie of that name."""
    for value in header(message, b"set-cookie"):
        if value.startswith(name + b"="):
            return value[len(name) + 1 :].split(b";")[0]
    return None


async def start(send, status=200, headers=()):
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})


def make(handler, **options):
    """The middleware around `handler(scope, send)`, which is followed by a 200 unless it sent something itself."""

    async def app(scope, receive, send):
        started = False

        async def noting(message):
            nonlocal started
            started = True
            await send(message)

        await handler(scope, noting)
        if not started:
            await start(send)
            await send(HELLO)

    options.setdefault("store", SpyStore())
    return SessionMiddleware(app, secret_key=SECRET, **options)


def pages(**options):
    """A small site: /login, /read (the body is the session), /touch nothing at all, /logout."""

    async def app(scope, receive, send):
        session, body = scope["session"], b"hello"
        if scope["path"] == "/login":
            session["user_id"] = 7
        elif scope["path"] == "/read":
            body = repr(session.copy()).encode()
        elif scope["path"] == "/same":
            session["user_id"] = session["user_id"]
        elif scope["path"] == "/logout":
            session.clear()
        await start(send)
        await send({"type": "http.response.body", "body": body})

    options.setdefault("store", SpyStore())
    return SessionMiddleware(app, secret_key=SECRET, **options)


async def log_in(app):
    sent = await ask(app, http_scope("/login"))
    card = cookie_in(sent[0])
    assert card
    return card


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
    visit = app.lifecycle.anonymous()
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


async def test_a_dict_in_place_of_the_session_is_its_new_content():
    """`scope["session"] = {...}` replaces what the session holds, under the same ID."""

    async def handler(scope, send):
        if scope["path"] == "/put":
            scope["session"] = {"n": 2}
        elif scope["path"] == "/start":
            scope["session"].update(n=1, old=True)
        else:
            await start(send)
            await send({"type": "http.response.body", "body": repr(scope["session"].copy()).encode()})

    app = make(handler)
    card = cookie_in((await ask(app, http_scope("/start")))[0])
    assert cookie_in((await ask(app, http_scope("/put", card)))[0]) is None
    assert (await ask(app, http_scope("/read", card)))[1]["body"] == b"{'n': 2}"


async def test_a_dict_in_place_of_no_session_starts_one():
    """`scope["session"] = {...}` of an anonymous request makes a session and hands out its card."""

    async def handler(scope, send):
        scope["session"] = {"n": 1}

    app = make(handler)
    assert cookie_in((await ask(app, http_scope()))[0])
    assert app.config.store.rows == 1


@pytest.mark.parametrize("way", ["none", "empty", "deleted"])
async def test_nothing_in_place_of_the_session_ends_it(way):
    """None, an empty dict or no entry at all in place of the session is a log-out."""

    async def handler(scope, send):
        if scope["path"] == "/start":
            scope["session"]["n"] = 1
        elif way == "none":
            scope["session"] = None
        elif way == "empty":
            scope["session"] = {}
        else:
            del scope["session"]

    app = make(handler)
    card = cookie_in((await ask(app, http_scope("/start")))[0])
    assert cookie_in((await ask(app, http_scope("/end", card)))[0]) == b""
    assert app.config.store.rows == 0


async def test_something_else_in_place_of_the_session_is_refused():
    """A value that is no dict in place of the session is a TypeError that says so, and nothing is saved."""

    async def handler(scope, send):
        scope["session"] = ["no", "dict"]

    app = make(handler)
    with pytest.raises(TypeError, match="it takes a dict"):
        await ask(app, http_scope())
    assert app.config.store.rows == 0


# --- errors -----------------------------------------------------------------------------------------------------------


async def test_an_unhandled_error_saves_nothing():
    """A handler that raises leaves the session as it was, and its error goes on."""

    async def handler(scope, send):
        scope["session"]["n"] = 1
        raise LookupError("a bug")

    app = make(handler)
    with pytest.raises(LookupError, match="a bug"):
        await ask(app, http_scope())
    assert app.config.store.events == []


@pytest.mark.parametrize("status", [302, 403, 404, 500, 503])
async def test_a_response_saves_whatever_its_status(status):
    """A response that the app made, error or not, saves the session."""

    async def handler(scope, send):
        scope["session"]["n"] = 1
        await start(send, status)
        await send(HELLO)

    app = make(handler)
    sent = await ask(app, http_scope())
    assert sent[0]["status"] == status
    assert cookie_in(sent[0])
    assert app.config.store.rows == 1


@pytest.mark.parametrize("known", [False, True])
async def test_unstorable_data_saves_nothing_and_the_error_page_goes_out(known):
    """A value that cannot be stored raises before the response starts; the framework's 500 then goes out cookieless."""

    async def app(scope, receive, send):
        if scope["path"] == "/start":
            scope["session"]["n"] = 1
        else:
            scope["session"].update(n=2, bad=object())
        try:
            await start(send)
            await send(HELLO)
        except SessionDataError:  # as an error middleware inside does
            await start(send, 500)
            await send({"type": "http.response.body", "body": b"sorry"})

    store = SpyStore()
    site = SessionMiddleware(app, secret_key=SECRET, store=store)
    card = cookie_in((await ask(site, http_scope("/start")))[0]) if known else None
    store.events.clear()
    sent = await ask(site, http_scope("/", card))
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert sent[0]["status"] == 500
    assert sent[1]["body"] == b"sorry"
    assert header(sent[0], b"set-cookie") == []
    assert store.events == (["load"] if known else [])
    assert store.rows == (1 if known else 0)


async def test_unstorable_data_is_named():
    """The error for a value that cannot be stored names where it is and its type."""

    async def handler(scope, send):
        scope["session"]["cart"] = [{"price": object()}]

    with pytest.raises(SessionDataError, match=r"cart.*object"):
        await ask(make(handler), http_scope())


async def test_too_much_data_saves_nothing():
    """A session over `max_bytes` is refused by an error that names the largest key."""

    async def handler(scope, send):
        scope["session"].update(small=1, novel="x" * 2000)

    app = make(handler, max_bytes=1000)
    with pytest.raises(SessionDataError, match="novel"):
        await ask(app, http_scope())
    assert app.config.store.events == []


# --- the store is down ------------------------------------------------------------------------------------------------


def _is_503(sent):
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert sent[0]["status"] == 503
    assert int(header(sent[0], b"retry-after")[0]) > 0
    assert header(sent[0], b"cache-control") == [b"no-store"]
    assert header(sent[0], b"set-cookie") == []
    assert b"hunter2" not in sent[1]["body"]


@pytest.mark.usefixtures("settled")
async def test_a_store_down_at_load_is_a_503(caplog):
    """With a genuine card and a store that fails, the handler never runs and the answer is 503 with Retry-After."""
    caplog.set_level(logging.WARNING, "roomkey")

    app = pages()
    card = await log_in(app)
    app.config.store.failing = {"load"}
    _is_503(await ask(app, http_scope("/read", card)))
    _is_503(await ask(app, http_scope("/read", card)))
    app.config.store.failing = set()
    assert (await ask(app, http_scope("/read", card)))[1]["body"] == b"{'user_id': 7}"
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]
    assert "hunter2" not in caplog.text


async def test_a_renewal_that_is_refused_waits_for_the_next_request():
    """A store that is read-only or full serves whoever changes nothing, also when the session is due for renewal."""
    clock = Clock()
    app = pages(store=SpyStore(clock=clock), clock=clock, max_age=1000)
    card = await log_in(app)
    clock.advance(500)
    app.config.store.failing = {"touch"}
    sent = await ask(app, http_scope("/read", card))
    assert (sent[0]["status"], sent[1]["body"]) == (200, b"{'user_id': 7}")
    assert header(sent[0], b"set-cookie") == []
    app.config.store.failing = set()
    assert cookie_in((await ask(app, http_scope("/read", card)))[0]) == card


@pytest.mark.parametrize("asked", ["save", "flashes", "refresh", "list"])
async def test_a_store_down_for_what_the_handler_asks_is_a_503(asked):
    """What a handler awaits of the session, and does not catch, is an answer too."""

    async def handler(scope, send):
        session = scope["session"]
        if asked == "save":
            session["x"] = 1
        await {
            "save": session.save,
            "flashes": session.flashes,
            "refresh": session.refresh,
            "list": lambda: session.sessions.of(7),
        }[asked]()
        raise AssertionError("it went on")

    async def begin(scope, send):
        scope["session"]["user_id"] = 7
        scope["session"].flash("hello")
        await start(send)

    store = SpyStore()
    card = cookie_in((await ask(make(begin, store=store), http_scope()))[0])

    async def broken(user):
        raise OSError

    store.of_user = broken
    app = make(handler, store=store)
    real = app.lifecycle.arrive

    async def arrive(*args):
        visit = await real(*args)
        store.failing = {"update", "load"}
        return visit

    app.lifecycle.arrive = arrive
    _is_503(await ask(app, http_scope(card=card)))


async def test_a_store_down_after_the_response_has_started():
    """Then there is no other answer any more: the error is the server's to log."""

    async def handler(scope, send):
        await start(send)
        scope["session"]["x"] = 1
        await scope["session"].save()

    store = SpyStore()
    card = await log_in(pages(store=store))
    app = make(handler, store=store)
    store.failing = {"update"}
    with pytest.raises(StoreUnavailable):
        await ask(app, http_scope(card=card))


@pytest.mark.parametrize("operation", ["create", "update"])
async def test_a_store_down_at_save_is_a_503(operation):
    """A response whose session could not be saved is replaced by a 503, whole."""

    async def handler(scope, send):
        scope["session"]["n"] = scope["session"].get("n", 0) + 1
        await start(send)
        await send({"type": "http.response.body", "body": b"saved!", "more_body": True})
        await send({"type": "http.response.body", "body": b"really!"})

    app = make(handler)
    card = cookie_in((await ask(app, http_scope()))[0]) if operation == "update" else None
    app.config.store.failing = {operation}
    _is_503(await ask(app, http_scope(card=card)))


@pytest.mark.parametrize("operation", ["load", "create"])
async def test_a_slow_store_is_a_503_in_time(operation):
    """A store that does not answer within `store_timeout` is a 503, not an endless wait."""
    app = pages(store_timeout=0.05)
    card = await log_in(app) if operation == "load" else None
    app.config.store.slow = {operation}
    before = time.monotonic()
    _is_503(await ask(app, http_scope("/login" if card is None else "/read", card)))
    assert time.monotonic() - before < 5


async def test_a_store_down_concerns_nobody_without_a_session():
    """Anonymous requests, and those with a forged card, are served while the store is down."""
    app = pages()
    app.config.store.failing = {"load", "create", "update"}
    for card in (None, b"forged"):
        assert (await ask(app, http_scope("/read", card)))[0]["status"] == 200


# --- WebSockets -------------------------------------------------------------------------------------------------------


async def test_a_websocket_gets_its_cookie_with_accept():
    """A session begun before `websocket.accept` is saved, and its card travels with that message."""

    async def handler(scope, send):
        scope["session"]["n"] = 1
        await send({"type": "websocket.accept"})

    app = make(handler)
    sent = await ask(app, websocket_scope(), events=app.config.store.events)
    card = cookie_in(sent[0])
    assert sent[0]["type"] == "websocket.accept"
    assert header(sent[0], b"cache-control") == [b"no-store"]
    assert app.config.store.events == ["create", "websocket.accept"]
    assert (await app.lifecycle.arrive([card])).session == {"n": 1}


async def test_a_websocket_saves_when_told():
    """`session.save()` in an accepted WebSocket saves at once, and other requests see it."""

    async def handler(scope, send):
        session = scope["session"]
        if scope["type"] == "http":
            session["n"] = 1
            return
        await send({"type": "websocket.accept"})
        session["n"] = 2
        await session.save()
        seen.append((await app.lifecycle.arrive([card])).session["n"])
        await send({"type": "websocket.close"})

    seen = []

    app = card = None
    app = make(handler)
    card = cookie_in((await ask(app, http_scope()))[0])
    sent = await ask(app, websocket_scope(card=card))
    assert [message["type"] for message in sent] == ["websocket.accept", "websocket.close"]
    assert seen == [2]


async def test_a_websocket_saves_at_its_end():
    """What a WebSocket changed after it was accepted is saved when its handler returns."""

    async def handler(scope, send):
        if scope["type"] == "http":
            scope["session"]["messages"] = []
            return
        await send({"type": "websocket.accept"})
        scope["session"]["messages"].append("hi")
        await send({"type": "websocket.close"})

    app = make(handler)
    card = cookie_in((await ask(app, http_scope()))[0])
    await ask(app, websocket_scope(card=card))
    assert (await app.lifecycle.arrive([card])).session == {"messages": ["hi"]}


@pytest.mark.parametrize("explicit", [False, True])
async def test_a_websocket_cannot_start_a_session_after_accept(explicit):
    """A new session after `websocket.accept` is ResponseStarted, at save() or at the end, and no record is made."""

    async def handler(scope, send):
        await send({"type": "websocket.accept"})
        scope["session"]["n"] = 1
        if explicit:
            await scope["session"].save()

    app = make(handler)
    with pytest.raises(ResponseStarted, match=r"^.{,123}$"):  # bytes: what fits into a close frame
        await ask(app, websocket_scope())
    assert app.config.store.rows == 0


async def test_a_websocket_refused_by_the_app_saves():
    """A WebSocket that the app closes before it accepted saves its change to a known session."""

    async def handler(scope, send):
        if scope["type"] == "http":
            scope["session"]["n"] = 1
            return
        scope["session"]["n"] = 2
        await send({"type": "websocket.close", "code": 1008})

    app = make(handler)
    card = cookie_in((await ask(app, http_scope()))[0])
    sent = await ask(app, websocket_scope(card=card))
    assert sent == [{"type": "websocket.close", "code": 1008}]
    assert (await app.lifecycle.arrive([card])).session == {"n": 2}


@pytest.mark.parametrize("when", ["load", "update"])
@pytest.mark.parametrize("extension", [False, True])
async def test_a_store_down_refuses_a_websocket(when, extension):
    """With the store down a WebSocket is answered 503 where the server can, and closed with code 1013 where not."""

    async def handler(scope, send):
        scope["session"]["n"] = scope["session"].get("n", 0) + 1
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.send", "text": "too late"})

    app = make(handler)
    card = cookie_in((await ask(app, http_scope()))[0])
    app.config.store.failing = {when}
    more = {"extensions": {"websocket.http.response": {}}} if extension else {}
    sent = await ask(app, websocket_scope(card=card, **more))
    if extension:
        assert [message["type"] for message in sent] == [
            "websocket.http.response.start",
            "websocket.http.response.body",
        ]
        assert sent[0]["status"] == 503
        assert int(header(sent[0], b"retry-after")[0]) > 0
    else:
        assert [message["type"] for message in sent] == ["websocket.close"]
        assert sent[0]["code"] == 1013


# --- streams and background tasks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("nested", [False, True])
async def test_a_stream_saves_at_its_end(nested):
    """A change made while the body streams, also deep inside a value, is saved when the app returns."""

    async def handler(scope, send):
        session = scope["session"]
        if scope["path"] == "/start":
            session.update(n=1, log=[])
            return
        log = session["log"]
        await start(send)
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        if nested:
            log.append("streamed")
        else:
            session["n"] = 2
        await send({"type": "http.response.body", "body": b"b"})

    app = make(handler)
    card = cookie_in((await ask(app, http_scope("/start")))[0])
    sent = await ask(app, http_scope("/", card))
    assert cookie_in(sent[0]) is None
    expected = {"n": 1, "log": ["streamed"]} if nested else {"n": 2, "log": []}
    assert (await app.lifecycle.arrive([card])).session == expected


async def test_a_stream_cannot_start_a_session():
    """A new session after the response started is ResponseStarted, and no record is made that nobody has a card for."""

    async def handler(scope, send):
        await start(send)
        scope["session"]["n"] = 1
        await send(HELLO)

    app = make(handler)
    with pytest.raises(ResponseStarted):
        await ask(app, http_scope())
    assert app.config.store.rows == 0


async def test_a_stream_that_breaks_saves_nothing_more():
    """An error in the middle of a stream saves nothing of what was changed since the response started."""

    async def handler(scope, send):
        if scope["path"] == "/start":
            scope["session"]["n"] = 1
            return
        await start(send)
        scope["session"]["n"] = 2
        raise LookupError

    app = make(handler)
    card = cookie_in((await ask(app, http_scope("/start")))[0])
    with pytest.raises(LookupError):
        await ask(app, http_scope("/", card))
    assert (await app.lifecycle.arrive([card])).session == {"n": 1}


async def test_a_background_task_saves():
    """A change made after the whole response was sent, as background tasks make it, is saved."""

    async def handler(scope, send):
        scope["session"]["n"] = scope["session"].get("n", 0) + 1
        await start(send)
        await send(HELLO)
        scope["session"]["mailed"] = True

    app = make(handler)
    card = cookie_in((await ask(app, http_scope()))[0])
    assert (await app.lifecycle.arrive([card])).session == {"n": 1, "mailed": True}


async def test_a_log_out_in_a_stream_ends_the_session():
    """A session cleared after the response started is gone from the store, though its cookie cannot be taken back."""

    async def handler(scope, send):
        if scope["path"] == "/start":
            scope["session"]["n"] = 1
            return
        await start(send)
        scope["session"].clear()
        await send(HELLO)

    app = make(handler)
    card = cookie_in((await ask(app, http_scope("/start")))[0])
    await ask(app, http_scope("/", card))
    assert app.config.store.rows == 0
    assert (await app.lifecycle.arrive([card])).session == {}


# --- lifespan ---------------------------------------------------------------------------------------------------------


async def _lifespan(app, sent=None):
    """Run a whole lifespan, startup to shutdown, and return what was sent."""
    messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent = [] if sent is None else sent

    async def receive():
        return messages.pop(0)

    async def send(message):
        sent.append(message)

    await app({"type": "lifespan", "asgi": {"version": "3.0"}}, receive, send)
    return sent


def _with_lifespan(events):
    async def app(scope, receive, send):
        assert scope["type"] == "lifespan"
        assert "session" not in scope
        events.append((await receive())["type"])
        await send({"type": "lifespan.startup.complete"})
        events.append((await receive())["type"])
        await send({"type": "lifespan.shutdown.complete"})

    return app


async def test_the_store_opens_and_closes_with_the_lifespan():
    """The store is open before the app starts up and closed after it shut down, and no task stays behind."""
    store = SpyStore()
    before = asyncio.all_tasks()
    app = SessionMiddleware(_with_lifespan(store.events), secret_key=SECRET, store=store)
    sent = await _lifespan(app)
    assert [message["type"] for message in sent] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert store.events[:4] == ["open", "lifespan.startup", "lifespan.shutdown", "close"]
    assert set(store.events[4:]) <= {"close"}
    assert asyncio.all_tasks() == before


async def test_a_wrong_configuration_fails_the_startup():
    """A store that can never open fails the startup with its reason, and the app is not started.

    It raises too: test clients wait for that.
    """
    store = SpyStore()
    store.open_error = ConfigurationError("store: the file is a directory")
    before = asyncio.all_tasks()
    sent = []
    with pytest.raises(ConfigurationError, match="directory"):
        await _lifespan(SessionMiddleware(_with_lifespan(store.events), secret_key=SECRET, store=store), sent)
    assert sent == [{"type": "lifespan.startup.failed", "message": "store: the file is a directory"}]
    assert store.events == []
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize("error", [StoreUnavailable("down"), OSError("down")])
async def test_a_store_that_is_down_does_not_stop_the_startup(error):
    """An app whose store cannot be reached yet starts all the same."""
    store = SpyStore()
    store.open_error = error
    sent = await _lifespan(SessionMiddleware(_with_lifespan([]), secret_key=SECRET, store=store))
    assert sent[0]["type"] == "lifespan.startup.complete"


async def test_an_app_without_lifespan_support_leaves_no_task():
    """An app that raises at the lifespan scope is let raise, with the store closed and no task left behind."""

    async def app(scope, receive, send):
        raise NotImplementedError

    store = SpyStore()
    before = asyncio.all_tasks()
    with pytest.raises(NotImplementedError):
        await _lifespan(SessionMiddleware(app, secret_key=SECRET, store=store))
    assert store.events == ["open", "close"]
    assert asyncio.all_tasks() == before


async def test_sessions_work_without_a_lifespan():
    """A server that never runs the lifespan gets sessions all the same, and no task is left behind."""
    before = asyncio.all_tasks()
    app = pages(store="memory://")
    card = await log_in(app)
    assert (await ask(app, http_scope("/read", card)))[1]["body"] == b"{'user_id': 7}"
    assert asyncio.all_tasks() == before


async def test_sqlite_works_with_and_without_a_lifespan(tmp_path):
    """The SQLite store opens itself when nobody else does, and a session outlives the app that made it."""
    app = pages(store=f"sqlite:///{tmp_path}/sessions.db")
    card = await log_in(app)
    await app.lifecycle.store.close()

    app = pages(store=f"sqlite:///{tmp_path}/sessions.db")
    await app.lifecycle.store.open()
    body = (await ask(app, http_scope("/read", card)))[1]["body"]
    await app.lifecycle.store.close()
    assert body == b"{'user_id': 7}"


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
    assert (await outer.lifecycle.arrive([card])).session == {"n": 2}
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
    assert (await inner.lifecycle.arrive([inner_card])).session == {"inner": 1}
    assert (await outer.lifecycle.arrive([outer_card])).session == {"outer": 1}
    assert (await inner.lifecycle.arrive([outer_card])).session == {}
    assert (await outer.lifecycle.arrive([inner_card])).session == {}


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
