"""What the middleware answers when the app fails, the data cannot be stored, or the store is down."""

import logging

import pytest

from roomkey import Session, SessionDataError, SessionMiddleware, StoreUnavailable
from roomkey.testing.clock import Clock
from tests.asgi import HELLO, SECRET, SpyStore, ask, cookie_in, header, http_scope, log_in, make, pages, start
from tests.loop_clock import loop_time

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
    real = app.manager.begin

    async def begin_and_fail(*args):
        answer = real(*args)
        session = answer if isinstance(answer, Session) else await answer
        store.failing = {"update", "load"}
        return session

    app.manager.begin = begin_and_fail
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
    before = loop_time()
    _is_503(await ask(app, http_scope("/login" if card is None else "/read", card)))
    assert loop_time() - before < 0.5


async def test_a_store_down_concerns_nobody_without_a_session():
    """Anonymous requests, and those with a forged card, are served while the store is down."""
    app = pages()
    app.config.store.failing = {"load", "create", "update"}
    for card in (None, b"forged"):
        assert (await ask(app, http_scope("/read", card)))[0]["status"] == 200
