"""Cross-site requests to an API whose card travels in a header, and to sites with a cookie that are sent a header."""

import pytest
from starlette.middleware.sessions import SessionMiddleware as StarletteSessions

from roomkey import SessionMiddleware
from roomkey.csrf import CSRFMiddleware, csrf_token
from tests.attacks.site import SECRET
from tests.attacks.test_card_headers import HEADERS, log_in, manager_of


async def reached(app, *headers):
    """Return whether a request of another site's page reaches the app, through these middlewares around it."""
    sent = []

    async def send(message):
        sent.append(message)

    raw = [(b"host", b"shop.example"), (b"sec-fetch-site", b"cross-site"), (b"origin", b"https://evil.example")]
    scope = {"type": "http", "method": "POST", "path": "/buy", "headers": [*raw, *headers], "client": None}
    await app(scope, None, send)
    return {200: True, 403: False}[sent[0]["status"]]


async def buy(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"bought"})


def site(app, **options):
    return SessionMiddleware(app, secret_key=SECRET, store="memory://", **options)


@pytest.mark.parametrize("options", [{}, {"tokens": True}], ids=["headers", "tokens"])
async def test_an_api_with_a_header_needs_no_csrf_check(options):
    """No browser sends the card by itself: what the header's middleware served passes, with a card or without."""
    for name in HEADERS:
        app = site(CSRFMiddleware(buy, **options), card_header=name)
        card = (await log_in(app.manager)).encode()
        assert await reached(app)
        assert await reached(app, (name.lower().encode(), b"Bearer " + card))
        assert await reached(app, (b"cookie", b"session=" + card))


@pytest.mark.parametrize("header", [b"authorization", b"x-auth-token", b"session-card", b"x-csrf-token"])
async def test_a_header_exempts_no_request(header):
    """A forged request to a site with a cookie is refused, whatever headers it brings: a genuine card even."""
    app = site(CSRFMiddleware(buy))
    cookie = (b"cookie", b"session=" + (await log_in(app.manager)).encode())
    api = manager_of(app.config.store, card_header="Authorization")
    card = (await log_in(api)).encode()
    assert not await reached(app, cookie, (header, b"Bearer " + card))
    assert not await reached(app, cookie, (header, card))


async def test_a_cookie_served_inside_of_the_header_is_checked():
    """A middleware further in that serves a cookie, Roomkey's or another library's, has the last word."""
    own = site(site(CSRFMiddleware(buy)), card_header="Authorization")
    others = site(StarletteSessions(CSRFMiddleware(buy), SECRET), card_header="Authorization")
    for app in (own, others):
        assert not await reached(app)
        assert not await reached(app, (b"authorization", b"Bearer x"))


async def test_a_check_between_the_header_and_a_cookie_is_said_to_be_too_early(caplog):
    """The check passes what the header's middleware served. A cookie further in logs once what to change."""
    app = site(CSRFMiddleware(site(buy)), card_header="Authorization")
    for _ in range(2):
        assert await reached(app)
    (said,) = [each.getMessage() for each in caplog.records if "CSRFMiddleware" in each.getMessage()]
    assert "Put a CSRFMiddleware inside" in said and "exempt_paths" in said


async def test_a_cookie_with_a_check_of_its_own_is_not_warned_of(caplog):
    """A check inside of the cookie refuses, and an outer one that exempts the path has nothing logged."""
    inner = site(CSRFMiddleware(buy))
    assert not await reached(site(CSRFMiddleware(inner, exempt_paths=["/buy"]), card_header="Authorization"))
    assert not await reached(site(inner, card_header="Authorization"))
    twice = site(CSRFMiddleware(site(buy, card_header="X-Auth-Token")), card_header="Authorization")
    assert await reached(twice)
    assert "this SessionMiddleware" not in caplog.text


async def test_a_header_served_inside_of_a_cookie_is_not_checked_inside():
    """The mounted app's session is the header's. A check outside of it still holds: it does not know what is inside."""
    inside = site(site(CSRFMiddleware(buy), card_header="Authorization"))
    outside = site(CSRFMiddleware(site(buy, card_header="Authorization")))
    assert await reached(inside)
    assert not await reached(outside, (b"authorization", b"Bearer x"))


@pytest.mark.parametrize("put", [None, {}, {"user_id": 42}])
async def test_a_session_put_in_its_place_is_checked(put):
    """What an app puts into `scope["session"]`, or takes out, was not served by the header."""

    async def replacing(scope, receive, send):
        if put is None:
            del scope["session"]
        else:
            scope["session"] = put
        await CSRFMiddleware(buy)(scope, receive, send)

    assert not await reached(site(replacing, card_header="Authorization"))


async def test_a_token_for_a_header_begins_no_cookie():
    """A page of an API that asks for a token gets it in the session, and no cookie of a visitor's."""
    api = manager_of(card_header="Authorization")
    session = await api.load(None)
    assert csrf_token(session)
    names = [name for name, _ in await api.commit(session, headers=[("a", "b")])]
    assert names == ["a", "vary", "cache-control", "session-card"]
