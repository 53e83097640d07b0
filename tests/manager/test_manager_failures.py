"""What a session manager raises, what is saved then, and what the response after it carries."""

import pytest

from roomkey import ResponseStarted, SessionDataError, StoreUnavailable
from tests.manager.parts import WaitingStore, begin, content, cookie_of, make, values


class LosingStore(WaitingStore):
    """Does what it is asked, and then fails: its answer is lost on the way."""

    def __init__(self):
        super().__init__()
        self.losing = set()

    async def update(self, key, record, *, version):
        await super().update(key, record, version=version)
        self._lose("update")

    async def create(self, key, record):
        await super().create(key, record)
        self._lose("create")

    def _lose(self, name):
        if name in self.losing:
            raise OSError("the connection was lost")


@pytest.fixture
def store():
    return LosingStore()


@pytest.fixture
def manager(store):
    return make(store)


_CHANGES = {
    "update": lambda session: session.update(n=2),
    "rotate": lambda session: session.rotate(),
    "delete": lambda session: session.clear(),
}


@pytest.mark.parametrize("operation", _CHANGES)
async def test_a_store_that_fails_is_an_error_and_then_a_503(manager, store, operation):
    """commit raises; the commit for the 503 saves nothing more, raises nothing more, and asks the store for nothing."""
    cookie = await begin(manager, user_id=7, n=1)
    session = await manager.load(cookie)
    _CHANGES[operation](session)
    store.failing.update({"update", "rotate", "delete"})
    with pytest.raises(StoreUnavailable) as raised:
        await manager.commit(session)
    assert isinstance(raised.value.retry_after, int) and raised.value.retry_after > 0
    store.failing.clear()
    store.asked.clear()
    given = [("retry-after", str(raised.value.retry_after)), ("cache-control", "no-store")]
    headers = await manager.commit(session, status=503, headers=given)
    assert headers == [*given, ("vary", "Cookie")]
    assert store.asked == []
    assert await content(manager, cookie) == {"user_id": 7, "n": 1}


async def test_a_new_session_that_could_not_be_made_gives_no_cookie(manager, store):
    """The 503 carries no card of a session that may not exist."""
    session = await manager.load()
    session["user_id"] = 7
    store.failing.add("create")
    with pytest.raises(StoreUnavailable):
        await manager.commit(session)
    assert cookie_of(await manager.commit(session, status=503)) is None


@pytest.mark.parametrize("status", [200, 500, 503])
async def test_after_a_failure_nothing_is_saved_whatever_the_response_says(manager, store, status):
    """The store is back, and the handler has changed more meanwhile: the request has failed all the same."""
    cookie = await begin(manager, user_id=7, n=1)
    session = await manager.load(cookie)
    session["n"] = 2
    store.failing.add("update")
    with pytest.raises(StoreUnavailable):
        await manager.commit(session)
    store.failing.clear()
    session["n"] = 3
    await manager.commit(session, status=status)
    await manager.commit(session)
    assert await content(manager, cookie) == {"user_id": 7, "n": 1}


async def test_the_503_carries_the_cookie_of_an_early_save(manager, store):
    """The log-in was saved, and what failed later must not log the user out. Caches do not keep the response."""
    session = await manager.load()
    session["user_id"] = 7
    await session.save()
    session["n"] = 1
    store.failing.add("update")
    with pytest.raises(StoreUnavailable):
        await manager.commit(session)
    headers = await manager.commit(session, status=503, headers=[("CDN-Cache-Control", "public")])
    assert values(headers, "cdn-cache-control") == [] and values(headers, "cache-control") == ["no-store"]
    assert await content(manager, cookie_of(headers)) == {"user_id": 7}


async def test_the_503_looks_at_that_cookie_again(manager, store):
    """Another request has rotated the session meanwhile: its response carries the cookie that counts."""
    session = await manager.load()
    session["user_id"] = 7
    await session.save()
    early = f"session={session._transaction.reply.card.decode()}"
    other = await manager.load(early)
    other.rotate()
    newest = cookie_of(await manager.commit(other))
    session["n"] = 1
    store.failing.add("update")
    with pytest.raises(StoreUnavailable):
        await manager.commit(session)
    assert cookie_of(await manager.commit(session, status=503)) is None
    assert await content(manager, newest) == {"user_id": 7}


async def test_the_503_goes_out_while_the_store_is_down(manager, store):
    """Its commit asks the store about an early cookie, and takes no answer for an answer."""
    session = await manager.load()
    session["user_id"] = 7
    await session.save()
    session["n"] = 1
    store.failing.update({"load", "update"})
    with pytest.raises(StoreUnavailable):
        await manager.commit(session)
    assert cookie_of(await manager.commit(session, status=503)) is not None


async def test_what_was_done_though_the_answer_was_lost_counts_once(manager, store):
    """The next request sees it, and the 503 did not do it again."""
    cookie = await begin(manager, user_id=7, n=1)
    session = await manager.load(cookie)
    session.change("n", lambda n: n + 1)
    store.losing.add("update")
    with pytest.raises(StoreUnavailable):
        await manager.commit(session)
    await manager.commit(session, status=503)
    assert await content(manager, cookie) == {"user_id": 7, "n": 2}


# --- where the handler itself asked -----------------------------------------------------------------------------------


async def test_a_handler_that_goes_on_after_a_failed_save_counts_once(manager, store):
    """It has caught StoreUnavailable and answers 200: commit finds out what was done."""
    cookie = await begin(manager, user_id=7, n=1)
    session = await manager.load(cookie)
    session.change("n", lambda n: n + 1)
    store.losing.add("update")
    with pytest.raises(StoreUnavailable):
        await session.save()
    store.losing.clear()
    await manager.commit(session)
    assert await content(manager, cookie) == {"user_id": 7, "n": 2}


async def test_a_bare_500_after_a_failed_save_is_a_503(manager, store):
    """The framework has made an error page of StoreUnavailable: commit raises it, for the adaptor to answer 503."""
    cookie = await begin(manager, user_id=7, n=1)
    session = await manager.load(cookie)
    session["n"] = 2
    store.failing.add("update")
    with pytest.raises(StoreUnavailable) as saving:
        await session.save()
    with pytest.raises(StoreUnavailable) as raised:
        await manager.commit(session, status=500)
    assert raised.value is saving.value
    await manager.commit(session, status=503)
    assert await content(manager, cookie) == {"user_id": 7, "n": 1}


@pytest.mark.parametrize("ask", ["refresh", "flashes", "sessions"])
async def test_a_503_of_what_the_handler_asked_saves_nothing(manager, store, ask):
    """The adaptor has caught the handler's StoreUnavailable, and commits the 503 at once."""
    cookie = await begin(manager, user_id=7, n=1, _flashes=[("info", "hello")])
    session = await manager.load(cookie)
    session["n"] = 2
    store.failing.update({"load", "update", "of_user"})
    with pytest.raises(StoreUnavailable):
        await (session.sessions.of(7) if ask == "sessions" else getattr(session, ask)())
    store.failing.clear()
    await manager.commit(session, status=503)
    assert (await content(manager, cookie))["n"] == 1


# --- values and cookies that cannot be --------------------------------------------------------------------------------


async def test_a_value_that_cannot_be_stored_is_refused_and_nothing_saved(manager):
    """The error names the key; the error page after it saves nothing and raises nothing."""
    cookie = await begin(manager, user_id=7)
    session = await manager.load(cookie)
    session["n"] = 1
    session["bad"] = object()
    with pytest.raises(SessionDataError, match="bad"):
        await manager.commit(session)
    assert await manager.commit(session, status=500, headers=[("a", "b")]) == [("a", "b"), ("vary", "Cookie")]
    assert await content(manager, cookie) == {"user_id": 7}


async def test_what_a_function_of_change_raises_comes_out_of_commit(manager):
    """Another request was first, so that the function runs again, and raises there."""
    cookie = await begin(manager, user_id=7, n=1)
    session, other = await manager.load(cookie), await manager.load(cookie)
    other["n"] = 0
    await manager.commit(other)
    session.change("n", lambda n: 10 // n)
    with pytest.raises(ZeroDivisionError):
        await manager.commit(session)
    await manager.commit(session, status=500)
    assert await content(manager, cookie) == {"user_id": 7, "n": 0}


async def test_a_response_that_has_started_saves_nothing_after_a_refusal(manager):
    """ResponseStarted, too, is an error of the whole request."""
    session = await manager.load()
    session["user_id"] = 7
    with pytest.raises(ResponseStarted):
        await manager.commit(session, can_set_cookie=False)
    assert cookie_of(await manager.commit(session, status=500)) is None
    assert await manager.sessions.of(7) == []


# --- abandon ----------------------------------------------------------------------------------------------------------


async def test_an_abandoned_request_saves_nothing(manager, store):
    """The handler has failed. A commit for the framework's error page asks the store for nothing."""
    cookie = await begin(manager, user_id=7, n=1)
    session = await manager.load(cookie)
    session["n"] = 2
    session.rotate()
    manager.abandon(session)
    store.asked.clear()
    assert await manager.commit(session, status=500, headers=[("a", "b")]) == [("a", "b"), ("vary", "Cookie")]
    assert await manager.commit(session) == []
    assert store.asked == []
    assert await content(manager, cookie) == {"user_id": 7, "n": 1}


async def test_what_was_saved_before_stays_saved(manager):
    """And its cookie goes out with the error page: the session has rotated, whatever failed later."""
    cookie = await begin(manager, user_id=7, n=1)
    session = await manager.load(cookie)
    session["n"] = 2
    session.rotate()
    await session.save()
    session["n"] = 3
    manager.abandon(session)
    rotated = cookie_of(await manager.commit(session, status=500))
    assert await content(manager, rotated) == {"user_id": 7, "n": 2}


async def test_an_abandoned_request_does_not_raise_what_its_handler_was_told(manager, store):
    """The adaptor has seen the failure and says what becomes of it."""
    session = await manager.load(await begin(manager, user_id=7))
    session["n"] = 1
    store.failing.add("update")
    with pytest.raises(StoreUnavailable):
        await session.save()
    manager.abandon(session)
    assert await manager.commit(session, status=500) == [("vary", "Cookie")]


async def test_abandoning_an_untouched_session_costs_nothing(manager, store):
    """The most usual failure: nothing was to be saved anyway."""
    session = await manager.load(await begin(manager, user_id=7))
    store.asked.clear()
    manager.abandon(session)
    manager.abandon(session)
    assert await manager.commit(session, status=500, headers=[("a", "b")]) == [("a", "b")]
    assert store.asked == []
