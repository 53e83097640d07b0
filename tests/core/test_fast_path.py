"""What a request costs, counted: transactions, encodings, comparisons, hashes, and what the store is asked."""

import contextlib
import json

import pytest

from roomkey import SessionManager, SessionMiddleware
from roomkey.core import cards
from roomkey.testing.clock import Clock
from tests.asgi import HELLO, cookie_in, http_scope, never, start
from tests.core.counting import Calls, CountedAtOnce, CountedStore

SECRET = "a secret that is long enough for every test here"
OTHER = "another secret that is long enough for these too"
MAX_AGE = 1000.0  # seconds
CONTENT = {"user_id": 7, "theme": "dark", "cart": [1, 2], "address": {"city": "Bern"}}


def done(work):
    """Return the answer of a coroutine that waits for nothing."""
    try:
        work.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waits for something")


class Site:
    """A manager, and requests through it that are counted.

    Args:
        way: whether requests come through the middleware, or call the manager.
        store: the class of the store.
    """

    def __init__(self, way, store=CountedStore, **options):
        self.clock = Clock(1_000_000.0)
        self.store = store(clock=self.clock)
        settings = {"secret_key": SECRET, "max_age": MAX_AGE, "clock": self.clock, **options}
        self.manager = SessionManager(store=self.store, **settings)
        self._ask = self._through_middleware if way == "middleware" else self._through_manager
        self._app = SessionMiddleware(self._handle, self.manager)

    async def _handle(self, scope, receive, send):
        scope["act"](scope["session"])
        await start(send)
        await send(HELLO)

    async def _through_middleware(self, card, act):
        sent = []

        async def send(message):
            sent.append(message)

        await self._app({**http_scope(card=card), "act": act}, never, send)
        return cookie_in(sent[0])

    async def _through_manager(self, card, act):
        session = await self.manager.load(None if card is None else b"session=" + card)
        act(session)
        headers = await self.manager.commit(session, headers=[(b"x-app", b"1")])
        return cookie_in({"headers": headers})

    def begin(self, **content):
        """Return the card of a new session."""
        return done(self._ask(None, lambda session: session.update(content)))

    def ask(self, card=None, act=lambda session: None):
        """Send a request; return the calls that it made, what the store was asked, and the card that it was given."""
        self.store.asked.clear()
        calls = Calls()
        work = self._ask(card, act)
        with calls.counted(), contextlib.suppress(StopIteration):
            work.send(None)
        work.close()
        return calls, dict(self.store.asked)

    def saved(self, **asked):
        """Return what the store is asked by a request that saves.

        Where nothing waits, the middleware looks whether another request was first, before it encodes anything.
        """
        looks = type(self.store) is CountedAtOnce and self._ask == self._through_middleware
        return {"load": 1 + looks, **asked}


@pytest.fixture(params=[CountedStore, CountedAtOnce])
def store(request):
    return request.param


@pytest.fixture(params=["middleware", "manager"])
def site(request, store):
    return Site(request.param, store)


@pytest.fixture
def card(site):
    """Return the card of a session that a request has used before."""
    card = site.begin(**CONTENT)
    site.ask(card)
    return card


def costs_nothing(calls):
    return not (calls.transactions or calls.encodes or calls.comparisons)


READS = {
    "nothing": lambda session: None,
    "a key": lambda session: session["user_id"],
    "get": lambda session: session.get("theme"),
    "get with a default": lambda session: session.get("missing", []),
    "peek": lambda session: session.peek("cart"),
    "in": lambda session: "cart" in session,
    "len": len,
    "its keys": list,
    "whether it was used": lambda session: session.accessed,
}


@pytest.mark.parametrize("read", READS)
def test_a_request_that_only_reads(site, card, read):
    """It makes the dict: no transaction, nothing encoded, nothing compared, no hash, and one question to the store."""
    calls, asked = site.ask(card, READS[read])
    assert costs_nothing(calls)
    assert (calls.decodes, calls.hashes, asked) == (1, 0, {"load": 1})


def test_a_request_that_reads_a_list(site, card):
    """The handler may have changed it in place: it is encoded and compared, and no transaction is made of it."""
    calls, asked = site.ask(card, lambda session: session["cart"][0])
    asks_twice = site._ask == site._through_middleware  # when the response starts, and when the app has returned
    assert (calls.transactions, calls.encodes, calls.comparisons) == (0, 1 + asks_twice, 1 + asks_twice)
    assert (calls.decodes, asked) == (1, {"load": 1})


def test_a_request_that_writes(site, card):
    """It encodes once, for the comparison and for the store, and saves with one swap."""
    calls, asked = site.ask(card, lambda session: session.update(theme="light"))
    assert (calls.encodes, calls.comparisons, calls.decodes, calls.hashes) == (1, 0, 1, 0)
    assert calls.transactions <= 1
    assert asked == site.saved(update=1)


def test_a_request_that_writes_the_same(site, card):
    """It is compared, and nothing is saved."""
    calls, asked = site.ask(card, lambda session: session.update(theme="dark"))
    assert calls.encodes <= 2 and calls.decodes == 1
    assert asked == site.saved()


def test_a_request_that_changes_a_list(site, card):
    """It is encoded to be compared, and once more where the app has returned."""
    calls, asked = site.ask(card, lambda session: session["cart"].append(3))
    assert calls.encodes <= 3 and calls.transactions <= 1
    assert asked == site.saved(update=1)


def test_a_new_session(site):
    """It is encoded once, and created with one question."""
    calls, asked = site.ask(None, lambda session: session.update(theme="dark"))
    assert (calls.encodes, calls.comparisons, calls.decodes) == (1, 0, 0)
    assert calls.transactions <= 1
    assert asked == {"create": 1}


def test_a_log_in(site, card):
    """One swap, whatever is compared for it."""
    card = site.begin(theme="dark")
    calls, asked = site.ask(card, lambda session: session.update(user_id=8))
    assert calls.transactions <= 1
    assert asked == {"load": 1, "rotate": 1}


def test_a_renewal(site, card):
    """It is a touch, and encodes nothing."""
    site.clock.advance(MAX_AGE / 5)
    calls, asked = site.ask(card, lambda session: session["user_id"])
    assert (calls.encodes, calls.comparisons, asked) == (0, 0, {"load": 1, "touch": 1})


def test_no_renewal_of_what_is_not_used(site, card):
    """A request that does not touch its session does not keep it alive, and costs nothing."""
    site.clock.advance(MAX_AGE / 5)
    calls, asked = site.ask(card)
    assert costs_nothing(calls) and asked == {"load": 1}


@pytest.mark.parametrize("read", ["nothing", "get", "in", "len", "its keys"])
def test_an_anonymous_request(site, read):
    """It asks the store nothing, and computes nothing."""
    calls, asked = site.ask(None, READS[read])
    assert costs_nothing(calls)
    assert (calls.decodes, calls.hashes, asked) == (0, 0, {})


def test_a_request_with_other_cookies(site):
    """They are no cards of ours."""
    calls, asked = site.ask(b"; theme=dark; session2=" + b"a" * 80)
    assert costs_nothing(calls) and (calls.hashes, asked) == (0, {})


FORGED = {
    "another tail": lambda card: card[:-1] + (b"0" if card[-1:] != b"0" else b"1"),
    "another ID": lambda card: card[:10] + (b"a" if card[10:11] != b"a" else b"b") + card[11:],
    "another key's name": lambda card: b"AAAA" + card[4:],
    "too short": lambda card: card[:-1],
    "too long": lambda card: card + b"0",
    "junk": lambda card: b"junk",
}


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("forge", FORGED)
def test_a_forged_card(site, card, forge, times):
    """It asks the store nothing, however often it comes, and is remembered by nobody."""
    forged, remembered = FORGED[forge](card), len(site.manager._loader.cards.young)
    for _ in range(times):
        calls, asked = site.ask(forged, READS["get"])
        assert costs_nothing(calls) and calls.decodes == 0 and asked == {}
    assert len(site.manager._loader.cards.young) == remembered
    assert site.manager.refused.total() == times


# --- cards that were verified before ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seal", [False, True])
def test_a_card_is_verified_once(seal):
    """The second request that brings it makes no hash of it. Sealed data has a key of its own, which takes three."""
    site = Site("manager", seal=seal)
    card = site.begin(**CONTENT)
    first, _ = site.ask(card)
    again, asked = site.ask(card)
    of_data = 3 if seal else 0
    assert first.hashes >= of_data + 2 and again.hashes == of_data
    assert asked == {"load": 1}


def test_what_is_remembered_is_bounded(monkeypatch):
    """However many cards come, two generations of them are kept, and each card is verified rightly all the same."""
    monkeypatch.setattr(cards, "_MOST", 10)
    site = Site("manager")
    many = [site.begin(number=number) for number in range(50)]
    remembered = site.manager._loader.cards
    for _ in range(2):
        for number, card in enumerate(many):
            session = done(site.manager.load(b"session=" + card))
            assert session["number"] == number
            assert len(remembered.young) <= 10 and len(remembered._old) <= 10


def test_a_card_that_is_used_stays(monkeypatch):
    """What comes again and again is not forgotten for those that come once."""
    monkeypatch.setattr(cards, "_MOST", 10)
    site = Site("manager")
    often = site.begin(**CONTENT)
    site.ask(often)
    for number in range(50):
        site.ask(site.begin(number=number))
        calls, _ = site.ask(often)
        assert calls.hashes == 0


@pytest.mark.parametrize("keys", [OTHER, [OTHER]], ids=["another key", "a list of others"])
def test_cards_are_not_shared_between_keys(keys):
    """What one set of keys has verified is a stranger to another, also in one process and over one store."""
    site, other = Site("manager"), Site("manager", secret_key=keys)
    card = site.begin(**CONTENT)
    site.ask(card)
    other.store._records.update(site.store._records)
    calls, asked = other.ask(card, READS["get"])
    assert asked == {} and calls.decodes == 0
    assert other.manager.refused == {"key": 1}


def test_a_card_by_an_old_key_is_remembered_as_such():
    """It is verified once, and signed anew when it is used; the card of the new key is another one."""
    site = Site("manager")
    card = site.begin(**CONTENT)
    newer = SessionManager(secret_key=[OTHER, SECRET], store=site.store, clock=site.clock, max_age=MAX_AGE)
    for _ in range(2):
        session = done(newer.load(b"session=" + card))
        assert session["user_id"] == 7
        given = cookie_in({"headers": done(newer.commit(session, headers=[(b"x-app", b"1")]))})
        assert given != card
    assert {each.is_old for each in newer._loader.cards.young.values()} == {True}
    only_new = SessionManager(secret_key=OTHER, store=site.store, clock=site.clock, max_age=MAX_AGE)
    assert done(only_new.load(b"session=" + given))["user_id"] == 7
    assert done(only_new.load(b"session=" + card)).is_new


@pytest.mark.parametrize("ends", ["clear", "revoke", "expire", "rotate"])
def test_a_card_that_is_remembered_opens_nothing_that_has_ended(ends):
    """Whether there is a session is asked of the store each time."""
    site = Site("manager")
    card = site.begin(**CONTENT)
    for _ in range(3):
        site.ask(card, READS["a key"])
    if ends == "clear":
        site.ask(card, lambda session: session.clear())
    elif ends == "rotate":
        site.ask(card, lambda session: session.rotate())
    elif ends == "revoke":
        done(site.manager.sessions.revoke_all(7))
    else:
        site.clock.advance(MAX_AGE + 1)
    calls, asked = site.ask(card, READS["get"])
    assert asked == {"load": 1} and calls.decodes == 0


def test_cards_of_two_cookies_are_apart():
    """A card made for one cookie's name is refused for another, remembered or not."""
    site = Site("manager")
    other = SessionManager(secret_key=SECRET, store=site.store, clock=site.clock, session_cookie="other")
    card = site.begin(**CONTENT)
    site.ask(card)
    assert done(other.load(b"other=" + card)).is_new
    assert json.dumps(other.refused) == '{"key": 1}'
