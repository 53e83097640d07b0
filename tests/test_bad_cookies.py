"""No cookie, however bad, does anything: the request is anonymous, and the store is not asked without a signature."""

import asyncio
import base64
import dataclasses
import json

import itsdangerous
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roomkey import SessionMiddleware
from roomkey.stores.memory import MemoryStore
from roomkey.wire import codec
from roomkey.wire.keys import Keyring, SecretKeys, new_session_id, store_key
from tests.driver import driver_of

SECRET = "a secret that is long enough for every test here"


class CountingStore(MemoryStore):
    """A memory store that notes the name of every operation."""

    def __init__(self):
        super().__init__()
        self.operations = []

    def __getattribute__(self, name):
        if name == "load_now":
            raise AttributeError(name)  # it is `load`, without a coroutine
        if name in ("load", "create", "update", "rotate", "touch", "delete", "purge"):
            object.__getattribute__(self, "operations").append(name)
        return object.__getattribute__(self, name)


# Of a genuine card.
_LENGTH = len(Keyring(SecretKeys(SECRET), purpose="session cookie", name="session").sign(new_session_id()))


async def _app(scope, receive, send):
    session = scope["session"]
    if scope["path"] == "/login":
        session["user_id"] = 7
    body = json.dumps([session.is_new, session.copy()]).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


class Site:
    """The middleware over a counting store, and one session that is logged in."""

    def __init__(self, **options):
        self.store = CountingStore()
        self.middleware = SessionMiddleware(_app, **{"secret_key": SECRET, "store": self.store, **options})
        start, _ = self.ask([], "/login")
        cookie = next(value for name, value in start["headers"] if name == b"set-cookie")
        self.card = cookie.partition(b"=")[2].partition(b";")[0]
        self.store.operations.clear()

    def ask(self, cookies, path="/", headers=(), query=b""):
        """Send one request with these raw Cookie headers, and others; return its two messages."""
        sent = []

        async def send(message):
            sent.append(message)

        async def receive():
            return {"type": "http.request", "body": b"", "more_body": False}

        scope = {
            "type": "http",
            "method": "GET",
            "path": path,
            "query_string": query,
            "headers": [(b"host", b"testserver"), *headers, *((b"cookie", value) for value in cookies)],
        }
        asyncio.run(self.middleware(scope, receive, send))
        return sent

    def is_anonymous(self, *cookies):
        """Whether the answer is a 200 to nobody, without a cookie set."""
        start, body = self.ask(cookies)
        assert start["status"] == 200
        assert not any(name == b"set-cookie" for name, _ in start["headers"])
        return json.loads(body["body"]) == [True, {}]


@pytest.fixture(scope="module")
def shared():
    return Site()


@pytest.fixture
def site():
    return Site()


_pieces = st.one_of(
    st.binary(max_size=80),
    st.sampled_from(
        [b"session", b"session=", b"=", b";", b"; ", b",", b'"', b" ", b"\t", b"\0", b"\r\n", b"\xff", b"$"]
    ),
    st.text(alphabet="ABCab01-_=.", min_size=_LENGTH - 8, max_size=_LENGTH + 8).map(str.encode),
)
_headers = st.lists(st.lists(_pieces, max_size=12).map(b"".join), max_size=4)


@settings(max_examples=500, deadline=None)
@given(headers=_headers)
def test_whatever_is_in_the_header_is_anonymous(shared, headers):
    """Any bytes at all in any number of Cookie headers are an anonymous 200 without a store operation."""
    assert shared.is_anonymous(*headers)
    assert shared.store.operations == []


@settings(max_examples=300, deadline=None)
@given(value=st.one_of(st.binary(max_size=200), st.binary(min_size=_LENGTH, max_size=_LENGTH)))
def test_whatever_is_in_the_cookie_is_anonymous(shared, value):
    """Any bytes as the cookie's value, also of a card's length, are an anonymous 200 without a store operation."""
    assert shared.is_anonymous(b"session=" + value)
    assert shared.store.operations == []


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_a_card_altered_anywhere_is_refused(shared, data):
    """A genuine card with any one byte replaced, taken out or put in is refused without asking the store."""
    card = bytearray(shared.card)
    place = data.draw(st.integers(0, len(card) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda number: number not in (card[place], *b'; \t"')))
    way = data.draw(st.sampled_from(["replace", "remove", "insert"]))
    if way == "replace":
        card[place] = byte
    elif way == "remove":
        del card[place]
    else:
        card.insert(place, byte)
    assert shared.is_anonymous(b"session=" + bytes(card))
    assert shared.store.operations == []


def test_the_genuine_card_is_known(site):
    """The control: the card as it was handed out, also quoted or among others, is one load and the session."""
    forms = [b"session=%s", b'session="%s"', b"a=b; session=%s; c=d", b" session = %s ", b"session=bad; session=%s"]
    for form in forms:
        assert not site.is_anonymous(form.replace(b"%s", site.card))
    assert not site.is_anonymous(b"a=b", b"session=" + site.card)
    assert site.store.operations == ["load"] * (len(forms) + 1)


def test_an_id_elsewhere_than_in_the_cookie_is_nothing(shared):
    """A genuine card in the address, or in another header, opens nothing: links must not carry sessions."""
    card = shared.card.decode()
    for path, headers in [
        (f"/session={card}", []),
        (f"/;session={card}", []),
        ("/", [(b"session", shared.card)]),
        ("/", [(b"authorization", b"Bearer " + shared.card)]),
        ("/", [(b"x-session", shared.card), (b"referer", f"http://testserver/?session={card}".encode())]),
    ]:
        sent = shared.ask((), path=path, headers=headers, query=f"session={card}".encode())
        assert json.loads(sent[1]["body"]) == [True, {}]
    assert shared.store.operations == []


@pytest.mark.parametrize("length", range(_LENGTH))
def test_a_truncated_card_is_refused(shared, length):
    """A card cut short at any length is refused without asking the store."""
    assert shared.is_anonymous(b"session=" + shared.card[:length])
    assert shared.store.operations == []


@pytest.mark.parametrize(
    "header",
    [
        b"session=" + b"A" * 1_000_000,
        b"session=" + b"=" * 100_000,
        b"; " * 100_000,
        b"session=" + b'"' * 100_000,
        b"session; session; session",
        b"x" * 100_000 + b"session",
    ],
    ids=["long value", "equals signs", "semicolons", "quotes", "no values", "long name"],
)
def test_a_huge_cookie_is_refused(shared, header):
    """A header of a megabyte is an anonymous request like any other."""
    assert shared.is_anonymous(header)
    assert shared.store.operations == []


def test_many_copies_are_refused(site):
    """Ten thousand cookies of the name, and as many headers, are refused; only the first few are looked at."""
    forged = b"session=" + b"A" * _LENGTH
    assert site.is_anonymous(b"; ".join([forged] * 10_000))
    assert site.is_anonymous(*[forged] * 1_000)
    assert site.is_anonymous(b"; ".join([*[forged] * 10_000, b"session=" + site.card]))
    assert site.store.operations == []


def test_a_bad_copy_does_not_hide_the_good_one(site):
    """A cookie planted by a sibling domain or another path does not log the user out."""
    planted = b"session=" + b"A" * _LENGTH
    assert not site.is_anonymous(planted + b"; session=" + site.card)
    assert not site.is_anonymous(b"session=" + site.card + b"; " + planted)


def test_cookies_of_other_frameworks_are_refused(shared):
    """What Starlette, Flask, Django and others put into a cookie, signed with the same secret, is refused unread."""
    payload = base64.b64encode(json.dumps({"user_id": 7}).encode())
    for cookie in (
        itsdangerous.TimestampSigner(SECRET).sign(payload),
        itsdangerous.URLSafeTimedSerializer(SECRET, "cookie-session").dumps({"user_id": 7}).encode(),
        payload,
        b"s%3AabcDEF.c2lnbmF0dXJl",
        b"eyJhbGciOiJub25lIn0.eyJ1c2VyX2lkIjo3fQ.",
        b"0123456789abcdef0123456789abcdef",
        b"6ba7b810-9dad-11d1-80b4-00c04fd430c8",
        b"null",
    ):
        assert shared.is_anonymous(b"session=" + cookie)
    assert shared.store.operations == []


def test_a_card_of_another_key_is_refused():
    """A card signed with another secret is refused without asking the store that knows it."""
    site = Site()
    site.middleware = SessionMiddleware(_app, secret_key=SECRET + "!", store=site.store)
    site.store.operations.clear()
    assert site.is_anonymous(b"session=" + site.card)
    assert site.store.operations == []


def test_a_card_of_another_cookie_name_is_refused():
    """A card made for one cookie name is refused under another, with the same secret and the same store."""
    site = Site()
    site.middleware = SessionMiddleware(_app, secret_key=SECRET, store=site.store, session_cookie="admin")
    site.store.operations.clear()
    assert site.is_anonymous(b"admin=" + site.card)
    assert site.is_anonymous(b"session=" + site.card)
    assert site.store.operations == []


def test_cookie_names_are_compared_whole(shared):
    """A cookie whose name only resembles the session's, also in case, is another cookie."""
    for name in (b"Session", b"SESSION", b"xsession", b"sessions", b"session\xff", b"\x00session", b"__Host-session"):
        assert shared.is_anonymous(name + b"=" + shared.card)
    assert shared.store.operations == []


def test_a_genuine_card_over_nothing_is_anonymous(site):
    """A right signature over an ID that the store does not know is one load and an anonymous request."""
    card = driver_of(site.middleware).keyring.sign(new_session_id())
    assert site.is_anonymous(b"session=" + card)
    assert site.store.operations == ["load"]


def test_an_unknown_id_is_never_adopted(site):
    """Logging in with a genuine card for no session hands out a fresh ID, not the one that was sent."""
    session_id = new_session_id()
    card = driver_of(site.middleware).keyring.sign(session_id)
    start, _ = site.ask([b"session=" + card], "/login")
    given_out = next(value for name, value in start["headers"] if name == b"set-cookie")
    assert session_id not in given_out
    assert store_key(session_id) not in site.store._records


def test_refused_cards_are_counted(site):
    """Every refused card is counted by its reason."""
    assert site.is_anonymous(b"session=forged")
    assert site.is_anonymous(b"session=" + driver_of(site.middleware).keyring.sign(new_session_id()))
    assert driver_of(site.middleware).refused == {"card": 1, "unknown": 1}


def _damage(site, data):
    (key,) = site.store._records
    site.store._records[key] = dataclasses.replace(site.store._records[key], data=data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        b"\x01",
        b"\x01\xc1",
        b"\x01\x90",
        b"\x01\x01",
        b"\x02\x80",
        b"\xff" * 100,
        b"\x01\x81\x01\x02",
        b"\x01\x81\xa1a",
        b"\x01" + b"\x91" * 5000,
        b"\x01\x81\xa1a\xc7\x00\x7f",
        b"\x01\x81\xa1a\xd4\x07\x00",
    ],
)
def test_a_damaged_record_is_anonymous(site, data):
    """A stored record that cannot be read, under a genuine card, is an anonymous request, counted and left alone."""
    _damage(site, data)
    assert site.is_anonymous(b"session=" + site.card)
    assert driver_of(site.middleware).refused == {"damaged": 1}
    assert site.store.operations == ["load"]


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_whatever_the_record_holds_nothing_raises(data):
    """Any bytes in a record, also genuine data with a few changed, are a 200: anonymous, or a session that decodes."""
    site = Site()  # a fresh one: what decodes to nothing is ended, and what decodes to another user is filed anew
    good = codec.encode({"user_id": 7, "t": (1, 2), "s": {1, 2}, "f": 1.5, "b": b"x", "n": {"deep": [None, True]}})
    if data.draw(st.booleans()):
        damaged = data.draw(st.binary(max_size=100))
    else:
        altered = bytearray(good)
        for _ in range(data.draw(st.integers(1, 3))):
            altered[data.draw(st.integers(0, len(altered) - 1))] = data.draw(st.integers(0, 255))
        damaged = bytes(altered[: data.draw(st.integers(0, len(altered)))])
    ((key, record),) = site.store._records.items()
    site.store._records[key] = dataclasses.replace(record, data=damaged)
    middleware = SessionMiddleware(_keys_only, secret_key=SECRET, store=site.store)
    genuine, site.middleware = site.middleware, middleware
    try:
        start, _ = site.ask([b"session=" + site.card])
    finally:
        site.middleware = genuine
    assert start["status"] == 200


async def _keys_only(scope, receive, send):
    scope["session"].copy()  # what decodes may be anything, so it is read and not shown
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})
