"""`https_only="auto"`: the cookie is `Secure` wherever the request came over HTTPS, and never less so than it was."""

import asyncio

import pytest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from roomkey import ConfigurationError, Request, SessionConfig, SessionManager, SessionMiddleware
from roomkey.legacy import StarletteCookie
from roomkey.ravyn import SessionConfig as RavynConfig
from roomkey.stores.memory import MemoryStore
from roomkey.testing import Clock, client_session
from tests.asgi import SECRET, SpyStore, ask, header, http_scope, make, websocket_scope

OTHER = "another secret that is long enough for these too"
MAX_AGE = 1000.0  # seconds

STORES = {"memory": MemoryStore, "a store that waits": SpyStore, "cookie": None}


class Site:
    """A middleware, whose handler does what it is told."""

    def __init__(self, store="memory", **options):
        self.clock = Clock(1_000_000.0)
        kind = STORES[store]
        self.options = {"secret_key": SECRET, "max_age": MAX_AGE, "clock": self.clock, **options}
        self.options["store"] = "cookie://" if kind is None else kind(clock=self.clock)
        self.manager = SessionManager(**self.options)

    def with_options(self, **options):
        """Return the same site under other options."""
        other = object.__new__(type(self))
        other.clock, other.options = self.clock, {**self.options, **options}
        other.manager = SessionManager(**other.options)
        return other

    async def ask(self, act, card=None, scheme="http", headers=(), **more):
        """Send a request; return the `Set-Cookie` of the session's cookie, or None."""

        async def handler(scope, receive, send):
            returned = act(scope["session"])
            if returned is not None and hasattr(returned, "__await__"):
                await returned
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        scope = http_scope(card=card, scheme=scheme, **more)
        scope["headers"] += headers
        sent = await ask(SessionMiddleware(handler, self.manager), scope)
        given = [value for value in header(sent[0], b"set-cookie") if value.startswith(b"session=")]
        assert len(given) <= 1
        return given[0] if given else None


@pytest.fixture(params=STORES)
def site(request):
    return Site(request.param)


def card_of(line):
    return line.split(b";")[0].partition(b"=")[2]


def is_secure(line):
    return b"; Secure" in line


def put(**content):
    return lambda session: session.update(content)


def look(session):
    session.get("n")


# --- where it is Secure -----------------------------------------------------------------------------------------------


def test_it_is_the_default_but_for_ravyn():
    """Ravyn documents `https_only=False`, and an app there that says nothing keeps that."""
    assert SessionConfig(secret_key=SECRET, store="memory://").https_only == "auto"
    assert RavynConfig(secret_key=SECRET, store="memory://").https_only is False
    assert RavynConfig(secret_key=SECRET, store="memory://", https_only="auto").https_only == "auto"


@pytest.mark.parametrize(("scheme", "expected"), [("http", False), ("https", True), (None, False)])
async def test_the_scheme_says_it(site, scheme, expected):
    """A new session's cookie is `Secure` over HTTPS, and works over plain HTTP."""
    more = {} if scheme is None else {"scheme": scheme}
    line = await site.ask(put(n=1), **more)
    assert is_secure(line) is expected
    assert is_secure(await site.ask(lambda session: session.clear(), card_of(line), **more)) is expected


@pytest.mark.parametrize(("scheme", "expected"), [("ws", False), ("wss", True)])
async def test_a_websocket(scheme, expected):
    """Its handshake is over HTTPS where it is `wss`."""

    async def handler(scope, send):
        scope["session"]["n"] = 1
        await send({"type": "websocket.accept"})

    sent = await ask(make(handler), websocket_scope(scheme=scheme))
    assert is_secure(header(sent[0], b"set-cookie")[0]) is expected


@pytest.mark.parametrize(
    "sent",
    [(b"x-forwarded-proto", b"https"), (b"forwarded", b"proto=https"), (b"x-forwarded-ssl", b"on")],
    ids=lambda pair: pair[0].decode(),
)
async def test_a_forwarded_header_says_nothing(site, sent):
    """Anybody can send one. The server says whether it believes it, in the scheme."""
    assert not is_secure(await site.ask(put(n=1), headers=[sent]))


@pytest.mark.parametrize(("option", "expected"), [(True, True), (False, False)])
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_true_and_false_say_it_for_every_request(site, option, expected, scheme):
    """Whatever the scheme, and whatever the card was given as."""
    line = await site.with_options(https_only=option).ask(put(n=1), scheme=scheme)
    assert is_secure(line) is expected
    for given in (True, False):
        before = await site.with_options(https_only=given).ask(put(n=1))
        after = await site.with_options(https_only=option).ask(put(user_id=7), card_of(before), scheme=scheme)
        assert is_secure(after) is expected


@pytest.mark.parametrize("awaited", [True, False])
@pytest.mark.parametrize(("scheme", "expected"), [("http", False), ("https", True)])
def test_a_manager_without_asgi(awaited, scheme, expected):
    """The request says its scheme. The value of a `Cookie` header alone has none."""
    manager = SessionManager(secret_key=SECRET, store="memory://")

    async def given(request):
        session = await manager.load(request) if awaited else manager.sync.load(request)
        session["n"] = 1
        headers = await manager.commit(session) if awaited else manager.sync.commit(session)
        return dict(headers)["set-cookie"].encode()

    for cookie in ([], [("Cookie", "theme=dark")]):
        assert is_secure(asyncio.run(given(Request(scheme=scheme, headers=cookie)))) is expected
    assert not is_secure(asyncio.run(given("theme=dark")))


# --- what a plain request does to a Secure card -----------------------------------------------------------------------


async def log_in_by_save(session):
    session["user_id"] = 7
    await session.save()


def begin_anew(session):
    session.invalidate()
    session["n"] = 2


CHANGES = {
    "a log-in": put(user_id=7),
    "a log-in that is saved early": log_in_by_save,
    "a rotation": lambda session: session.rotate(),
    "a log-out": lambda session: session.clear(),
    "a new session after the old one": begin_anew,
}


@pytest.mark.parametrize("change", CHANGES)
async def test_a_plain_response_replaces_a_secure_card_by_a_secure_one(site, change):
    """A proxy may speak HTTPS where the server knows only of plain HTTP: the browser's card stays off plain HTTP."""
    secure = await site.ask(put(n=1), scheme="https")
    plain = await site.ask(put(n=1))
    assert is_secure(await site.ask(CHANGES[change], card_of(secure)))
    assert not is_secure(await site.ask(CHANGES[change], card_of(plain)))


async def test_a_renewal_over_plain_http(site):
    """The renewed cookie is as the one before."""
    for scheme, expected in (("https", True), ("http", False)):
        line = await site.ask(put(n=1), scheme=scheme)
        for _ in range(3):
            site.clock.advance(MAX_AGE / 5)
            line = await site.ask(look, card_of(line))
            assert is_secure(line) is expected


@pytest.mark.parametrize("ended", ["expired", "logged out"])
async def test_a_secure_card_whose_session_has_ended(site, ended):
    """The browser holds it still. What begins over plain HTTP gets a `Secure` card too."""
    card = card_of(await site.ask(put(n=1), scheme="https"))
    if ended == "expired":
        site.clock.advance(MAX_AGE + 1)
    elif site.options["store"] != "cookie://":
        await site.ask(lambda session: session.clear(), card, scheme="https")
    assert is_secure(await site.ask(begin_anew, card))


async def test_a_secure_card_among_others(site):
    """A browser may hold cards of several paths. One of them that is `Secure` is enough."""
    plain = card_of(await site.ask(put(n=1)))
    secure = card_of(await site.ask(put(n=2), scheme="https"))
    assert is_secure(await site.ask(put(user_id=7), plain + b"; session=" + secure))


async def test_a_secure_card_by_an_older_key(site):
    """It stays `Secure` while it is signed anew."""
    line = await site.ask(put(n=1), scheme="https")
    newer = site.with_options(secret_key=[OTHER, SECRET])
    line = await newer.ask(look, card_of(line))
    assert is_secure(line)
    only = site.with_options(secret_key=OTHER)
    assert is_secure(await only.ask(put(user_id=7), card_of(line)))


async def test_nobody_can_alter_what_a_card_says(site):
    """A card that was given as `Secure` is signed as that. Altered, it is none."""
    line = await site.ask(put(n=1), scheme="https")
    plain = await site.ask(put(n=1))
    card = card_of(line)
    altered = [card_of(plain)[:4] + card[4:], card[:40] + (b"b" if card[40:41] == b"a" else b"a") + card[41:]]
    altered = [each for each in altered if each != card]
    for each in altered:
        assert not is_secure(await site.ask(put(n=2), each))
    assert site.manager.refused.total() == len(altered)


# --- upgrades and changes of the option -------------------------------------------------------------------------------


async def test_a_plain_card_becomes_secure_with_its_next_renewal(site):
    """A user who goes on over HTTPS keeps the session, and its cookie is `Secure` from the renewal on."""
    line = await site.ask(put(n=1))
    assert await site.ask(look, card_of(line), scheme="https") is None
    site.clock.advance(MAX_AGE / 5)
    line = await site.ask(look, card_of(line), scheme="https")
    assert is_secure(line)
    site.clock.advance(MAX_AGE / 5)
    found = []
    line = await site.ask(lambda session: found.append(session["n"]), card_of(line))
    assert is_secure(line) and found == [1]


@pytest.mark.parametrize("before", [True, False, "auto"])
@pytest.mark.parametrize("after", [True, False, "auto"])
async def test_the_option_may_change(site, before, after):
    """Every card is accepted by whatever the option is later."""
    line = await site.with_options(https_only=before).ask(put(user_id=7), scheme="https")
    found = []
    await site.with_options(https_only=after).ask(
        lambda session: found.append(session.get("user_id")), card_of(line), scheme="https"
    )
    assert found == [7]


async def test_a_card_that_true_gave_is_secure(site):
    """So it stays where the option becomes "auto"."""
    line = await site.with_options(https_only=True).ask(put(n=1))
    assert is_secure(await site.ask(put(user_id=7), card_of(line)))


# --- what it does not do ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"session_cookie": "__Host-s"},
        {"session_cookie": "__Secure-s"},
        {"same_site": "none"},
        {"partitioned": True},
    ],
    ids=str,
)
def test_it_is_not_enough_for_what_needs_https(options):
    """Over plain HTTP, browsers would drop the cookie. These need `https_only=True`."""
    with pytest.raises(ConfigurationError, match="needs https_only=True"):
        SessionConfig(secret_key=SECRET, store="memory://", https_only="auto", **options)


@pytest.mark.parametrize("value", ["Auto", "true", 1, None, b"auto"])
def test_other_values(value):
    """They are refused with what the option takes."""
    with pytest.raises(ConfigurationError, match=r"^https_only: got .*; it takes True, False or 'auto'$"):
        SessionConfig(secret_key=SECRET, store="memory://", https_only=value)


@pytest.mark.parametrize(("scheme", "expected"), [("http", False), ("https", True)])
async def test_an_old_cookie_is_taken_back_likewise(scheme, expected):
    """What moves in is taken back with the attributes that the response gives its own cookie."""
    reader = StarletteCookie(secret_key=OTHER, cookie_name="old")
    site = Site(legacy=[reader])
    scope = http_scope(scheme=scheme)
    scope["headers"].append((b"cookie", b"old=" + old_cookie()))

    async def handler(scope, receive, send):
        assert scope["session"]["n"] == 1
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    sent = await ask(SessionMiddleware(handler, site.manager), scope)
    lines = header(sent[0], b"set-cookie")
    assert [line.split(b"=")[0] for line in lines] == [b"old", b"session"]
    assert [is_secure(line) for line in lines] == [expected] * 2


def old_cookie():
    import base64
    import json

    import itsdangerous

    data = base64.b64encode(json.dumps({"n": 1}).encode())
    return itsdangerous.TimestampSigner(OTHER).sign(data)


@pytest.mark.parametrize(("scheme", "expected"), [("http", False), ("https", True)])
def test_the_session_of_a_test_client(scheme, expected):
    """Its cookie is as a response would have given it, and comes back."""
    manager = SessionManager(secret_key=SECRET, store="memory://")

    async def app(scope, receive, send):
        await PlainTextResponse(str(scope["session"].get("user_id")))(scope, receive, send)

    client = TestClient(SessionMiddleware(app, manager), base_url=f"{scheme}://testserver")
    with client_session(client, manager) as session:
        session["user_id"] = 7
    assert [cookie.secure for cookie in client.cookies.jar] == [expected]
    assert client.get("/").text == "7"
