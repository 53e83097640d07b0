"""docs/write-an-adaptor.md: every block runs when it is pasted alone, and its adaptors do what the page says."""

import ast
import asyncio
import re
import sys
import types
from pathlib import Path

import pytest

from roomkey import SessionDataError, StoreUnavailable
from roomkey.testing import Clock
from tests.manager.parts import WaitingStore, begin, content, make, values

PAGE = Path(__file__).parents[2] / "docs" / "write-an-adaptor.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)
ASYNC, STREAM, SOCKET, SYNC = range(4)


def pasted(number, monkeypatch):
    """Run one block alone; return the names that it made."""
    module = types.ModuleType("pasted")
    monkeypatch.setitem(sys.modules, "pasted", module)
    exec(compile(BLOCKS[number], PAGE.name, "exec"), vars(module))
    return module


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_each_block_runs_alone(number, monkeypatch, tmp_path):
    """It imports what it needs, and leaves nothing in the folder."""
    monkeypatch.chdir(tmp_path)
    pasted(number, monkeypatch)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [ASYNC, SYNC])
def test_an_adaptor_has_under_40_lines(number):
    """As the page promises."""
    [adaptor] = [
        node for node in ast.parse(BLOCKS[number]).body if isinstance(node, ast.ClassDef) and "With" in node.name
    ]
    assert adaptor.end_lineno - adaptor.lineno + 1 < 40


class Adapted:
    """An adaptor of the page's around a handler, asked alike whichever it is."""

    def __init__(self, number, manager, monkeypatch):
        self._page, self._number, self._manager = pasted(number, monkeypatch), number, manager

    def ask(self, handler, cookie=None, status=200):
        """Return status, and headers, of the response to one request."""
        given = [("Content-Type", "text/plain"), ("CDN-Cache-Control", "public"), ("Expires", "later")]
        if self._number == ASYNC:

            async def app(call):
                await handler(call.session)
                return self._page.Page("", status, given)

            call = self._page.Call("/", [("Cookie", cookie)] if cookie else [])
            page = asyncio.run(self._page.WithSessions(app, self._manager)(call))
            return page.status, page.headers

        def view(environ):
            self._manager.sync.run(handler(environ["session"]))
            return f"{status} Whatever", given, b""

        answer = []
        environ = {"HTTP_COOKIE": cookie} if cookie else {}
        self._page.WithSessions(view, self._manager)(environ, lambda *started: answer.extend(started))
        return int(answer[0][:3]), answer[1]


@pytest.fixture
def store():
    return WaitingStore(clock=Clock(1_000_000.0))


@pytest.fixture
def manager(store):
    made = make(store, clock=store._clock)
    yield made
    made.sync.close()


@pytest.fixture(params=[ASYNC, SYNC], ids=["asynchronous", "blocking"])
def adapted(request, manager, monkeypatch):
    return Adapted(request.param, manager, monkeypatch)


async def nothing(session):
    pass


def test_a_page_that_sets_the_cookie_is_kept_out_of_caches(adapted):
    """The app's own words to caches are taken out; a page that does not use the session keeps them."""

    async def log_in(session):
        session["user_id"] = 7

    status, headers = adapted.ask(log_in)
    assert status == 200 and values(headers, "set-cookie")
    assert values(headers, "cache-control") == ["no-store"] and values(headers, "vary") == ["Cookie"]
    assert values(headers, "expires") == values(headers, "cdn-cache-control") == []
    assert len(adapted.ask(nothing)[1]) == 3


@pytest.mark.parametrize("status", [404, 500, 503])
def test_an_error_page_of_the_handlers_saves(adapted, manager, status):
    """It is a response like any other."""

    async def count(session):
        session["n"] = 1

    cookie = asyncio.run(begin(manager, user_id=7))
    assert adapted.ask(count, cookie, status)[0] == status
    assert asyncio.run(content(manager, cookie)) == {"user_id": 7, "n": 1}


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_a_handler_that_raises_leaves_the_session_as_it_was(adapted, manager, error):
    """And its exception goes on."""

    async def fail(session):
        session["n"] = 1
        raise error

    cookie = asyncio.run(begin(manager, user_id=7))
    with pytest.raises(error):
        adapted.ask(fail, cookie)
    assert asyncio.run(content(manager, cookie)) == {"user_id": 7}


def test_a_value_that_cannot_be_stored_leaves_the_session_as_it_was(adapted, manager):
    """The framework makes a 500 of the exception."""

    async def store_nonsense(session):
        session["n"] = 1
        session["bad"] = object()

    cookie = asyncio.run(begin(manager, user_id=7))
    with pytest.raises(SessionDataError):
        adapted.ask(store_nonsense, cookie)
    assert asyncio.run(content(manager, cookie)) == {"user_id": 7}


def test_an_outage_is_a_503_with_retry_after(adapted, manager, store):
    """In load, in commit, and in what the handler asks. A request without a cookie is served."""

    async def count(session):
        session["n"] = 1

    async def save(session):
        session["n"] = 1
        await session.save()

    cookie = asyncio.run(begin(manager, user_id=7))
    for failing, handler in (("load", nothing), ("update", count), ("update", save)):
        store.failing.add(failing)
        status, headers = adapted.ask(handler, cookie)
        assert status == 503 and int(values(headers, "retry-after")[0]) > 0
        assert values(headers, "set-cookie") == []
        assert adapted.ask(nothing)[0] == 200
        store.failing.clear()
    assert asyncio.run(content(manager, cookie)) == {"user_id": 7}


def test_the_503_carries_the_cookie_of_an_early_save(adapted, manager, store):
    """The user who has just logged in stays logged in."""

    async def log_in_and_count(session):
        session["user_id"] = 7
        await session.save()
        session["n"] = 1
        store.failing.add("update")

    status, headers = adapted.ask(log_in_and_count)
    store.failing.clear()
    assert status == 503
    cookie = values(headers, "set-cookie")[0].split(";")[0]
    assert asyncio.run(content(manager, cookie)) == {"user_id": 7}


async def test_a_stream_that_breaks_off_saves_what_it_had_saved(manager, monkeypatch):
    """What changed after its start is not saved."""
    page = pasted_in_a_loop(STREAM, monkeypatch)
    cookie = await begin(manager, user_id=7)

    async def send(piece):
        if "1" in piece:
            raise ConnectionError

    with pytest.raises(ConnectionError):
        await page.stream(manager, cookie, send)
    assert await content(manager, cookie) == {"user_id": 7}


async def test_a_websocket_is_closed_while_the_store_is_down(manager, store, monkeypatch):
    """Before the handshake, and after it."""
    page = pasted_in_a_loop(SOCKET, monkeypatch)
    cookie = await begin(manager, user_id=7)

    async def work(socket, session):
        await socket.accept()
        session["n"] = 1
        await session.save()

    for failing, accepted in (("load", False), ("update", True)):
        store.failing.add(failing)
        socket = page.Socket([("Cookie", cookie)])
        await page.with_session(manager, socket, work)
        assert socket.closed == 1013 and (socket.accepted is not None) == accepted
        store.failing.clear()
    assert await content(manager, cookie) == {"user_id": 7}
    with pytest.raises(StoreUnavailable):
        store.failing.add("load")
        await manager.load(cookie)


def pasted_in_a_loop(number, monkeypatch):
    """As `pasted`, where a loop runs already, in which a block cannot run another."""
    monkeypatch.setattr(asyncio, "run", lambda work: work.close())
    page = pasted(number, monkeypatch)
    monkeypatch.undo()
    return page
