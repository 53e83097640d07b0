"""The attacks on sessions whose card travels in a header, and on those with a cookie beside them."""

import asyncio
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roomkey import Request, SessionManager
from roomkey.stores.memory import MemoryStore
from roomkey.wire.keys import new_session_id
from tests.attacks.site import SECRET
from tests.driver import Driver

HEADERS = ["Authorization", "X-Auth-Token"]


def manager_of(store=None, **options):
    return SessionManager(secret_key=SECRET, store=store or MemoryStore(), **options)


async def log_in(manager, request=None):
    """Log in; return the card that the answer gave."""
    session = await manager.load(request)
    session["user_id"] = 42
    name, value = (await manager.commit(session, headers=[("a", "b")]))[-1]
    return value.split(";")[0].partition("=")[2] if name == "set-cookie" else value


def brings(header, card):
    """Return a request with a card in a header; None: in a cookie of the usual name."""
    if header is None:
        return Request(headers=[("cookie", f"session={card}")])
    return Request(headers=[(header, f"Bearer {card}" if header.lower() == "authorization" else card)])


# --- one purpose ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("name", ["session", "authorization", "Authorization", "x-auth-token"])
async def test_a_card_from_a_cookie_in_a_header(header, name):
    """What a cookie carries opens nothing as a header, be the cookie called as the header is."""
    store = MemoryStore()
    site, api = manager_of(store, session_cookie=name), manager_of(store, card_header=header)
    card = await log_in(site)
    assert await site.load(f"{name}={card}") == {"user_id": 42}
    assert await api.load(brings(header, card)) == {}
    assert api.refused == {"key": 1}


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("name", ["session", "authorization", "Authorization", "x-auth-token"])
async def test_a_card_from_a_header_in_a_cookie(header, name):
    """What a header carries, which scripts and logs may see, opens nothing as a cookie."""
    store = MemoryStore()
    site, api = manager_of(store, session_cookie=name), manager_of(store, card_header=header)
    card = await log_in(api)
    assert await api.load(brings(header, card)) == {"user_id": 42}
    assert await site.load(f"{name}={card}") == {}
    assert site.refused == {"key": 1}


async def test_a_card_from_one_header_in_another():
    """A card is for the header that it was given in."""
    store = MemoryStore()
    one, other = (manager_of(store, card_header=header) for header in HEADERS)
    card = await log_in(one)
    assert await other.load(brings(HEADERS[1], card)) == {}
    card = await log_in(other)
    assert await one.load(brings(HEADERS[0], card)) == {}


@pytest.mark.parametrize("header", HEADERS)
async def test_a_manager_for_a_header_ignores_cookies(header):
    """A browser sends cookies by itself. Its own genuine card in one opens nothing, and nothing is counted."""
    api = manager_of(card_header=header)
    card = await log_in(api)
    for name in ("session", header, header.lower()):
        assert await api.load(Request(headers=[("cookie", f"{name}={card}")])) == {}
    assert not api.refused


@pytest.mark.parametrize("header", HEADERS)
async def test_a_manager_for_a_cookie_ignores_headers(header):
    """Its own genuine card in a header opens nothing."""
    site = manager_of()
    card = await log_in(site)
    assert await site.load(brings(header, card)) == {}


# --- fixation, replay, caches, logs -----------------------------------------------------------------------------------


@pytest.mark.parametrize("header", HEADERS)
async def test_fixation_with_a_header(header):
    """An ID that was never issued is not adopted, and one from before the log-in is dead after it."""
    api = manager_of(card_header=header)
    made_up = Driver(api).keyring.sign(new_session_id()).decode()
    card = await log_in(api, brings(header, made_up))
    assert card != made_up and await api.load(brings(header, made_up)) == {}
    session = await api.load(None)
    session["cart"] = [1]
    planted = (await api.commit(session, headers=[("a", "b")]))[-1][1]
    card = await log_in(api, brings(header, planted))
    assert card != planted and await api.load(brings(header, planted)) == {}


@pytest.mark.parametrize("header", HEADERS)
async def test_replay_of_a_header_after_log_out(header):
    """A copy of the card opens nothing after the log-out, also while another request still runs."""
    api = manager_of(card_header=header)
    card = await log_in(api)
    slow, session = await api.load(brings(header, card)), await api.load(brings(header, card))
    session.clear()
    await api.commit(session, headers=[("a", "b")])
    slow["late"] = True
    headers = dict(await api.commit(slow, headers=[("a", "b")]))
    assert "session-card" not in headers and "x-auth-token" not in headers
    assert await api.load(brings(header, card)) == {}


async def test_caches_that_keep_a_card():
    """Whatever the app said to caches, to CDNs too, is replaced where a card goes out."""
    api = manager_of(card_header="Authorization")
    session = await api.load(None)
    session["user_id"] = 42
    said = [("Cache-Control", "public, s-maxage=60"), ("CDN-Cache-Control", "max-age=60"), ("Expires", "0")]
    headers = await api.commit(session, headers=said)
    assert [name for name, _ in headers] == ["vary", "cache-control", "session-card"]
    assert dict(headers)["cache-control"] == "no-store"


async def test_no_log_shows_a_card(caplog):
    """Genuine, foreign and damaged cards leave no trace of themselves in any log or event."""
    events = []
    with caplog.at_level(logging.DEBUG):
        api = manager_of(card_header="X-Auth-Token", on_event=events.append)
        cards = [await log_in(api), "Q" * 80, "a secret of another system"]
        for card in cards:
            session = await api.load(brings("X-Auth-Token", card))
            repr(session), str(session), repr(brings("X-Auth-Token", card))
            await api.commit(session)
    said = caplog.text + repr(events) + repr(api.config)
    assert events and not any(card in said or card[4:40] in said for card in cards)


@given(st.lists(st.tuples(st.sampled_from([b"authorization", b"x-auth-token", b"cookie"]), st.binary()), max_size=4))
def test_nothing_in_a_header_raises(headers):
    """Bytes of any kind, in any number of headers, are an anonymous request."""
    for name in HEADERS:
        assert asyncio.run(manager_of(card_header=name).load(Request(headers=headers))) == {}


@given(st.binary())
def test_no_bearer_token_raises(value):
    """So are bytes of any kind after the scheme."""
    headers = [(b"authorization", b"Bearer " + value)]
    assert asyncio.run(manager_of(card_header="Authorization").load(Request(headers=headers))) == {}
