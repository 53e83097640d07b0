"""`card_header`: the card travels in a header in the place of a cookie, for mobile apps and API clients."""

import asyncio
import json
import logging

import pytest

from roomkey import ConfigurationError, Request, SessionConfig, SessionManager, SessionMiddleware
from roomkey.legacy import StarletteCookie
from roomkey.stores.memory import MemoryStore
from roomkey.testing import Clock
from tests.asgi import SpyStore, ask, header, http_scope, start, websocket_scope

SECRET = "a secret that is long enough for every test here"
OTHER = "another secret that is long enough for these too"
NAMES = ["Authorization", "X-Auth-Token"]
MAX_AGE = 1000.0  # seconds


class API:
    """An app whose sessions travel in a header, and raw requests to it.

    Args:
        name: of the header.
    """

    def __init__(self, name="Authorization", **options):
        self.clock = Clock(1_000_000.0)
        self.store = options.pop("store", None) or SpyStore(clock=self.clock)
        options = {"secret_key": SECRET, "max_age": MAX_AGE, "clock": self.clock, **options}
        self.app = SessionMiddleware(self._handle, card_header=name, store=self.store, **options)
        self.sent_in = name.lower().encode()
        self.given_in = b"session-card" if name == "Authorization" else self.sent_in
        self.response = []  # headers of the app's own

    async def _handle(self, scope, receive, send):
        result = self.act(scope["session"])
        if result is not None and hasattr(result, "__await__"):
            await result
        self.seen = dict(dict.items(scope["session"]))  # without counting as use
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept", "headers": []})
            return
        await start(send, headers=self.response)
        await send({"type": "http.response.body", "body": b""})

    def value(self, card):
        """Return the header's value for a card."""
        return b"Bearer " + card if self.sent_in == b"authorization" else card

    async def send(self, *headers, act=len, scope=http_scope, **more):
        """Send one request; return the headers of the response."""
        self.act = act
        return (await ask(self.app, scope(**more, headers=[(b"host", b"testserver"), *headers])))[0]["headers"]

    async def ask(self, card=None, act=len, **more):
        """Send one request with a card; return what its handler saw, and the headers of the response."""
        headers = await self.send(*([] if card is None else [(self.sent_in, self.value(card))]), act=act, **more)
        return self.seen, headers

    def card(self, headers):
        """Return the card that a response gave; None: none."""
        found = [value for name, value in headers if name == self.given_in]
        assert len(found) <= 1
        return found[0] if found else None

    async def log_in(self, user=7, card=None):
        _, headers = await self.ask(card, lambda session: session.__setitem__("user_id", user))
        return self.card(headers)


def of(headers, name):
    return header({"headers": headers}, name)


@pytest.fixture(params=NAMES)
def api(request):
    return API(request.param)


# --- the card's way ---------------------------------------------------------------------------------------------------


async def test_a_visitor_who_only_looks_gets_no_card(api):
    """Nothing is stored or handed out, and the response says that it depends on the header."""
    seen, headers = await api.ask(act=lambda session: session.get("user_id"))
    assert (seen, headers) == ({}, [(b"vary", api.app.config.card_header.encode())])
    assert api.store.rows == 0


async def test_a_new_card_comes_in_a_header(api):
    """It is handed out with `no-store` and without a cookie, and the header opens the session."""
    api.response = [(b"cache-control", b"public, max-age=60"), (b"expires", b"0"), (b"vary", b"Accept")]
    _, headers = await api.ask(act=lambda session: session.update(user_id=7))
    card = api.card(headers)
    assert len(card) == 80
    assert of(headers, b"cache-control") == [b"no-store"] and not of(headers, b"expires")
    assert of(headers, b"vary") == [b"Accept, " + api.app.config.card_header.encode()]
    assert not of(headers, b"set-cookie")
    assert (await api.ask(card))[0] == {"user_id": 7}


async def test_a_request_that_saves_gets_no_card_again(api):
    """The client has it: the response may be cached as before, for whom the header is the same."""
    card = await api.log_in()
    seen, headers = await api.ask(card, lambda session: session.update(theme="dark"))
    assert seen == {"user_id": 7, "theme": "dark"}
    assert headers == [(b"vary", api.app.config.card_header.encode())]


async def test_use_renews_on_the_server_alone(api):
    """A card has no expiry of its own: a session that is used lives on, and no response has to say so."""
    card = await api.log_in()
    for _ in range(5):
        api.clock.advance(MAX_AGE * 0.8)
        seen, headers = await api.ask(card)
        assert seen == {"user_id": 7} and api.card(headers) is None and not of(headers, b"cache-control")
    assert "touch" in api.store.events
    api.clock.advance(MAX_AGE + 1)
    assert (await api.ask(card))[0] == {}


async def test_a_log_in_gives_a_new_card_and_the_old_one_is_dead(api):
    """The card from before the log-in opens nothing, and what was in the session stays."""
    before = api.card((await api.ask(act=lambda session: session.update(cart=[1])))[1])
    after = await api.log_in(card=before)
    assert after not in (None, before)
    assert (await api.ask(before))[0] == {}
    assert (await api.ask(after))[0] == {"cart": [1], "user_id": 7}


async def test_a_rotation_with_a_grace(api):
    """The old card is served for as long as that, and gets none: the client may still be waiting for the new one."""
    old = await api.log_in()
    new = api.card((await api.ask(old, lambda session: session.rotate(grace=30)))[1])
    assert new not in (None, old)
    seen, headers = await api.ask(old)
    assert seen == {"user_id": 7} and api.card(headers) is None
    api.clock.advance(31)
    assert (await api.ask(old))[0] == {}
    assert (await api.ask(new))[0] == {"user_id": 7}


@pytest.mark.parametrize("end", ["clear", "invalidate"])
async def test_a_log_out_takes_the_card_back(api, end):
    """An empty header says so, with `no-store`. The card is dead, and so is the empty value that a client sends on."""
    card = await api.log_in()
    _, headers = await api.ask(card, lambda session: getattr(session, end)())
    assert api.card(headers) == b""
    assert of(headers, b"cache-control") == [b"no-store"] and not of(headers, b"set-cookie")
    assert (await api.ask(card))[0] == {}
    assert api.app.manager.refused == {"unknown": 1}
    assert (await api.ask(b""))[0] == {}
    assert api.app.manager.refused == {"unknown": 1}


async def test_a_new_secret_key_gives_a_new_card(api):
    """A card that the old key signed opens its session, and the response hands out one that the new key signed."""
    old = await api.log_in()
    name = api.app.config.card_header
    newer = API(name, store=api.store, secret_key=[OTHER, SECRET])
    seen, headers = await newer.ask(old)
    new = newer.card(headers)
    assert seen == {"user_id": 7} and new not in (None, old)
    newest = API(name, store=api.store, secret_key=OTHER)
    assert (await newest.ask(new))[0] == {"user_id": 7} and (await newest.ask(old))[0] == {}


async def test_what_the_app_itself_puts_there_gives_way(api):
    """A response has one header of the name: the card, where one is due, and else the app's."""
    api.response = [(api.given_in.title(), b"mine")]
    _, headers = await api.ask(act=lambda session: session.update(user_id=7))
    (card,) = of(headers, api.given_in)
    assert len(card) == 80
    _, headers = await api.ask(card)
    assert of(headers, api.given_in) == [b"mine"]


async def test_an_early_save_that_fails_later_gives_the_card():
    """A log-in that was saved hands its card out with the 503 too."""
    api = API()

    async def act(session):
        session["user_id"] = 7
        await session.save()
        api.store.failing.add("update")
        session["theme"] = "dark"

    _, headers = await api.ask(act=act)
    assert of(headers, b"retry-after")
    api.store.failing.clear()
    assert (await api.ask(api.card(headers)))[0] == {"user_id": 7}


async def test_a_store_that_is_down(api):
    """With a card it is a 503, and a request without one is served."""
    card = await api.log_in()
    api.store.failing.add("load")
    assert of((await api.ask(card))[1], b"retry-after")
    assert not of((await api.ask())[1], b"retry-after")


async def test_a_websocket_has_the_session(api):
    """A client that is no browser sends the header with the handshake, whose answer hands out a new card."""
    card = await api.log_in()
    seen, headers = await api.ask(card, scope=websocket_scope)
    assert seen == {"user_id": 7} and api.card(headers) is None
    _, headers = await api.ask(act=lambda session: session.update(user_id=8), scope=websocket_scope)
    assert (await api.ask(api.card(headers)))[0] == {"user_id": 8}


async def test_routes_without_a_session_or_a_renewal(api):
    """`exclude` and `passive` work as with a cookie."""
    api = API(api.app.config.card_header, exclude=["/health"], passive=["/poll"], vary="always")
    card = await api.log_in()
    api.clock.advance(MAX_AGE * 0.8)
    seen, headers = await api.ask(card, path="/poll")
    assert seen == {"user_id": 7} and "touch" not in api.store.events
    headers = await api.send((api.sent_in, api.value(card)), path="/poll", act=lambda session: None)
    assert of(headers, b"vary") == [api.app.config.card_header.encode()]
    with pytest.raises(ConfigurationError, match=r"^exclude: "):
        await api.ask(card, path="/health")


async def test_sealed_sessions(api):
    """With `seal` the card's ID opens the data, as with a cookie."""
    api = API(api.app.config.card_header, seal=True)
    card = await api.log_in()
    assert (await api.ask(card))[0] == {"user_id": 7}


async def test_who_logged_in_from_where():
    """`record_client` keeps what it keeps with a cookie, and the sessions of a user are listed and revoked."""
    api = API(record_client=True)
    card = await api.log_in()
    (info,) = await api.app.manager.sessions.of(7)
    await api.app.manager.sessions.revoke(info.handle)
    assert (await api.ask(card))[0] == {}


async def test_what_the_store_is_asked(api):
    """One load with a card, one save with a write, and nothing without a genuine card."""
    card = await api.log_in()
    other = await API(api.app.config.card_header, secret_key=OTHER).log_in()
    for brought, act, asked in (
        (card, len, ["load"]),
        (card, lambda session: session.update(theme="dark"), ["load", "update"]),
        (card, lambda session: session.update(theme="dark"), ["load"]),
        (None, len, []),
        (other, len, []),
    ):
        api.store.events.clear()
        await api.ask(brought, act)
        assert api.store.events == asked


# --- what a client may send -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", [b"Bearer ", b"bearer ", b"BEARER ", b"  Bearer   "])
async def test_the_scheme_has_no_case(scheme):
    """RFC 9110 compares the names of schemes without case."""
    api = API()
    card = await api.log_in()
    await api.send((b"authorization", scheme + card + b" "))
    assert api.seen == {"user_id": 7}


@pytest.mark.parametrize(
    "value", [b"Basic YTpi", b"Digest username=a", b"Bearer", b"Bearer ", b"", b"BearerX y", b"\xff"]
)
async def test_what_is_no_bearer_token_is_not_ours(value):
    """Another scheme, or none, is an anonymous request, and nothing is counted."""
    api = API()
    await api.send((b"authorization", value))
    assert api.seen == {} and not api.app.manager.refused and "load" not in api.store.events


@pytest.mark.parametrize(
    "value", [b"x", b"{0},{0}", b"{0}, {0}", b"{0} {0}", b"{0}x", b"x" * 100_000, b"\xff\x00" * 37, b"a.b.c", b"\x00"]
)
async def test_what_is_no_card_is_anonymous_and_counted(api, value):
    """Two cards in one header, a huge value, another system's token: the store is not asked, and nothing raises."""
    card = await api.log_in()
    api.store.events.clear()
    await api.send((api.sent_in, api.value(value.replace(b"{0}", card))))
    assert api.seen == {} and api.app.manager.refused == {"card": 1} and not api.store.events


async def test_several_headers_are_none(api):
    """A proxy may go by another one of them than the app: be they the same or not, the request is anonymous."""
    card = await api.log_in()
    api.store.events.clear()
    ours = (api.sent_in, api.value(card))
    for others in ([ours], [(api.sent_in, b"Basic YTpi")]):
        api.app.manager.refused.clear()
        await api.send(ours, *others)
        assert api.seen == {} and api.app.manager.refused == {"card": 1} and not api.store.events


async def test_a_card_of_another_key_is_said_once(api, caplog):
    """It is anonymous and counted, and the log says why users may be logged out, without the card."""
    card = await API(api.app.config.card_header, secret_key=OTHER).log_in()
    with caplog.at_level(logging.WARNING, "roomkey"):
        for _ in range(2):
            assert (await api.ask(card))[0] == {}
    assert api.app.manager.refused == {"key": 2}
    (record,) = caplog.records
    assert api.app.config.card_header in record.getMessage() and card.decode() not in record.getMessage()


# --- the manager, for adaptors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("is_sync", [False, True], ids=["async", "sync"])
@pytest.mark.parametrize("store", ["memory://", "sqlite"])
def test_load_reads_the_header_and_commit_gives_it(name, is_sync, store, tmp_path):
    """An adaptor hands over the request with its headers, or the header's value, and gets the header for the client."""
    store = f"sqlite:///{tmp_path}/s.sqlite3" if store == "sqlite" else store
    manager = SessionManager(secret_key=SECRET, store=store, card_header=name)

    def do(work, *args, **options):
        answer = getattr(manager.sync if is_sync else manager, work)(*args, **options)
        return answer if is_sync else manager.sync.run(answer)

    session = do("load", Request(headers=[("Cookie", "session=x")]))
    session["user_id"] = 7
    given = do("commit", session, headers=[("Vary", "Accept"), ("Content-Type", "text/plain")])
    assert do("commit", session, headers=[("a", "b")], can_set_cookie=True) == [("a", "b"), ("vary", name)]
    given_in = "session-card" if name == "Authorization" else "x-auth-token"
    assert [key for key, _ in given] == ["Vary", "Content-Type", "cache-control", given_in]
    assert dict(given)["Vary"] == f"Accept, {name}"
    sent = f"Bearer {given[-1][1]}" if name == "Authorization" else given[-1][1]
    for request in (Request(headers=[(name, sent)]), Request(headers=[(name.lower().encode(), sent.encode())]), sent):
        session = do("load", request)
        assert session == {"user_id": 7}
        assert do("commit", session, headers=[(b"x", b"1")]) == [(b"x", b"1"), (b"vary", name.encode())]
    manager.sync.close()


# --- two middlewares --------------------------------------------------------------------------------------------------


class Nested:
    """A site, and an app mounted below /api; each has a middleware of its own around it.

    Args:
        outer: the site's manager.
        inner: the mounted app's.
    """

    def __init__(self, outer, inner):
        self.mounted = SessionMiddleware(self._page, inner)
        self.app = SessionMiddleware(self._site, outer)

    async def _site(self, scope, receive, send):
        await (self.mounted if scope["path"].startswith("/api") else self._page)(scope, receive, send)

    async def _page(self, scope, receive, send):
        if scope["path"].endswith("/login"):
            scope["session"]["user_id"] = 7
        elif scope["path"].endswith("/logout"):
            scope["session"].clear()
        body = json.dumps(scope["session"].copy()).encode()
        await start(send)
        await send({"type": "http.response.body", "body": body})

    async def ask(self, path, *headers):
        sent = await ask(self.app, http_scope(path, headers=[(b"host", b"testserver"), *headers]))
        return json.loads(sent[1]["body"]), sent[0]["headers"]


async def test_a_site_with_a_cookie_and_an_api_with_a_header():
    """The mounted middleware takes over: each serves its own card, on one store, and says `Vary` by its own header."""
    store = MemoryStore()
    site, api = (SessionManager(secret_key=SECRET, store=store, card_header=name) for name in (None, "Authorization"))
    app = Nested(site, api)
    _, headers = await app.ask("/login")
    assert of(headers, b"vary") == [b"Cookie"] and not of(headers, b"session-card")
    cookie = (b"cookie", of(headers, b"set-cookie")[0].split(b";")[0])
    _, headers = await app.ask("/api/login", cookie)
    assert of(headers, b"vary") == [b"Authorization"] and not of(headers, b"set-cookie")
    card = (b"authorization", b"Bearer " + of(headers, b"session-card")[0])
    assert (await app.ask("/api/", cookie))[0] == {} and (await app.ask("/", card))[0] == {}
    assert len(await site.sessions.of(7)) == len(await api.sessions.of(7)) == 2
    _, headers = await app.ask("/api/logout", cookie, card)
    assert of(headers, b"session-card") == [b""] and not of(headers, b"set-cookie")
    assert (await app.ask("/", cookie, card))[0] == {"user_id": 7}
    assert (await app.ask("/api/", cookie, card))[0] == {}


@pytest.mark.parametrize("inner", ["Authorization", "authorization"])
async def test_two_middlewares_of_one_header_are_one(inner):
    """The mounted app sees the outer session, as with two of one cookie."""
    store = MemoryStore()
    managers = (SessionManager(secret_key=SECRET, store=store, card_header=name) for name in ("Authorization", inner))
    app = Nested(*managers)
    _, headers = await app.ask("/api/login")
    (card,) = of(headers, b"session-card")
    assert (await app.ask("/", (b"authorization", b"Bearer " + card)))[0] == {"user_id": 7}


async def test_two_headers_are_two_sessions():
    """Middlewares of two headers keep apart, as those of two cookies do."""
    store = MemoryStore()
    app = Nested(*(SessionManager(secret_key=SECRET, store=store, card_header=name) for name in NAMES))
    _, headers = await app.ask("/api/login")
    (card,) = of(headers, b"x-auth-token")
    assert (await app.ask("/api/", (b"x-auth-token", card)))[0] == {"user_id": 7}
    assert (await app.ask("/", (b"x-auth-token", card)))[0] == {}


# --- the option -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["", "X_Auth", "Cookie", "set-cookie", "X Y", "X:Y", "1", 5, b"X-A", "Content-Type", "Ä"]
)
def test_a_wrong_name_is_refused(name):
    """It has to be a header that clients can send, and that means nothing else."""
    with pytest.raises(
        ConfigurationError, match=r"^card_header: got .*; it takes 'Authorization', or a header of your"
    ):
        SessionConfig(secret_key=SECRET, store="memory://", card_header=name)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("session_cookie", "sid"),
        ("same_site", "strict"),
        ("https_only", True),
        ("persistent", False),
        ("path", "/api"),
        ("domain", "example.com"),
        ("legacy", [StarletteCookie("old key")]),
        ("store", "cookie://"),
    ],
)
def test_options_about_cookies_are_refused_beside_it(option, value):
    """The error names the option, and shows no key."""
    with pytest.raises(ConfigurationError, match=f"^{option}: .* card_header='Authorization' neither") as caught:
        SessionConfig(**{"secret_key": SECRET, "store": "memory://", "card_header": "Authorization", option: value})
    assert "old key" not in str(caught.value)


def test_options_that_are_not_about_cookies_are_taken():
    """Also `max_age=None`, which is also about how long a cookie stays."""
    config = SessionConfig(secret_key=SECRET, store="memory://", card_header="X-Session", max_age=None, seal=True)
    assert config.max_age == 14400


def test_requests_that_share_a_session_keep_all_their_changes():
    """Twenty requests at once that each add a key to one session keep all of them."""
    api = API()

    async def storm():
        card = await api.log_in()

        async def one(number):
            async def handle(scope, receive, send):
                scope["session"][f"key {number}"] = number
                await start(send)
                await send({"type": "http.response.body", "body": b""})

            headers = [(b"authorization", b"Bearer " + card)]
            await ask(SessionMiddleware(handle, api.app.manager), http_scope(headers=headers))

        await asyncio.gather(*map(one, range(20)))
        return (await api.ask(card))[0]

    assert len(asyncio.run(storm())) == 21
