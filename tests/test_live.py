"""WebSockets and streams end with their session, where the app has `live=True`."""

import asyncio
import contextlib
import subprocess
import sys

import pytest

from roomkey import ConfigurationError, SessionConfig, SessionMiddleware
from roomkey.stores.base import Notice, What
from roomkey.stores.memory import MemoryStore
from roomkey.testing import Clock
from tests.asgi import SECRET, SpyStore, ask, cookie_in, http_scope, websocket_scope
from tests.loop_clock import until

CLOSED = {"type": "websocket.close", "code": 4401, "reason": "session ended"}
DISCONNECTED = {"type": "websocket.disconnect", "code": 4401, "reason": "session ended"}


class Site:
    """An app with a WebSocket and a stream, and what goes on in it."""

    def __init__(self, **options):
        self.clock = Clock()
        self.store = options.pop("store", None) or MemoryStore(clock=self.clock)
        self.talk = self.echo
        self.may_accept = asyncio.Event()
        self.may_accept.set()
        self.app = SessionMiddleware(
            self.serve, secret_key=SECRET, store=self.store, clock=self.clock, **{"live": True, **options}
        )
        self.sessions = self.app.manager.sessions

    async def serve(self, scope, receive, send):
        if scope["type"] == "websocket":
            await self.may_accept.wait()
            await send({"type": "websocket.accept"})
            await self.talk(scope["session"], receive, send)
            return
        session, path = scope["session"], scope["path"]
        if path == "/login":
            session["user_id"] = scope["query_string"].decode() or "ada"
        elif path == "/put":
            session["colour"] = "red"
        elif path == "/rotate":
            session.rotate()
        elif path == "/logout":
            session.clear()
        headers = [] if path == "/stream" else [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if path in ("/stream", "/file"):
            await send({"type": "http.response.body", "body": b"o", "more_body": True})
            await self.talk(session, receive, send)
            await send({"type": "http.response.body", "body": b"k"})
        else:
            await send({"type": "http.response.body", "body": b"ok"})

    async def echo(self, session, receive, send):
        while not (await receive())["type"].endswith("disconnect"):
            pass

    async def get(self, path, card=None, query=""):
        return cookie_in((await ask(self.app, http_scope(path, card, query_string=query.encode())))[0])

    async def log_in(self, user="ada"):
        return await self.get("/login", query=user)

    def open(self, card, scope=websocket_scope, path="/"):
        return Open(self.app, scope(path, card))


class Open:
    """A WebSocket or a stream that is open, and what its client got."""

    def __init__(self, app, scope):
        self.got = []
        self.sent = asyncio.Queue()
        self.task = asyncio.get_running_loop().create_task(app(scope, self.sent.get, self.send))

    async def send(self, message):
        self.got.append(message)

    @property
    def is_open(self):
        return not self.task.done()

    async def accepted(self):
        await until(lambda: self.got)
        return self

    async def end(self):
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task


async def looked_at(*opened):
    """Wait until all that is open was looked at for the first time, so that what follows is heard of by notices."""
    for each in opened:
        await each.accepted()
    await asyncio.sleep(0.5)  # of the loop's clock, which runs only while the loop waits


async def test_a_log_out_closes_the_users_sockets():
    """The client gets a close, the app a disconnect, and other users' sockets and other sessions stay open."""
    site = Site()
    card, other, stranger = await site.log_in(), await site.log_in(), await site.log_in("bob")
    opened = [site.open(each) for each in (card, card, other, stranger)]
    heard = []

    async def talk(session, receive, send):
        heard.append((session["user_id"], await receive()))

    site.talk = talk
    await looked_at(*opened)
    await site.get("/logout", card)
    await until(lambda: not opened[0].is_open and not opened[1].is_open)
    assert opened[0].got[-1] == opened[1].got[-1] == CLOSED
    assert heard == [("ada", DISCONNECTED)] * 2
    await asyncio.sleep(0.5)
    assert opened[2].is_open and opened[3].is_open
    for each in opened[2:]:
        await each.end()


@pytest.mark.parametrize("how", ["revoke", "revoke_all", "end_all", "limit", "expiry"])
async def test_whatever_ends_a_session_closes_its_sockets(how):
    """A revocation, the limit of a user's sessions, the end of all and the end of its time close them."""
    site = Site(max_sessions_per_user=1)
    card = await site.log_in()
    opened = site.open(card)
    await looked_at(opened)
    if how == "revoke":
        (info,) = await site.sessions.of("ada")
        await site.sessions.revoke(info.handle)
    elif how == "revoke_all":
        await site.sessions.revoke_all("ada")
    elif how == "end_all":
        await site.sessions.end_all()
    elif how == "limit":
        site.clock.advance(1)
        await site.log_in()
    else:
        site.clock.advance(14400)
    await until(lambda: not opened.is_open)
    assert opened.got[-1] == CLOSED


async def test_a_socket_behind_two_middlewares_is_followed_once(monkeypatch):
    """Where an inner middleware serves the same cookie, only the outer one follows the session."""
    site = Site()
    site.app = SessionMiddleware(site.app, config=site.app.manager)
    card, live, followed = await site.log_in(), site.app.manager.live, []
    follow = live.follow
    monkeypatch.setattr(live, "follow", lambda *of: followed.append(of) or follow(*of))
    opened = site.open(card)
    await looked_at(opened)
    assert len(followed) == 1
    await site.get("/logout", card)
    await opened.task
    assert opened.got[1:] == [CLOSED]


async def test_a_socket_with_two_sessions_follows_both():
    """Where an inner middleware serves another cookie, the end of either session closes the socket."""
    for ends in (0, 1):
        inner = Site(session_cookie="inner")
        outer = Site()
        answer = (await ask(inner.app, http_scope("/login", query_string=b"ada")))[0]
        cards = [await outer.log_in(), cookie_in(answer, b"inner")]
        both = SessionMiddleware(inner.app, config=outer.app.manager)
        scope = websocket_scope("/", None)
        scope["headers"] = [(b"cookie", b"session=%b; inner=%b" % (cards[0], cards[1]))]
        opened = Open(both, scope)
        await looked_at(opened)
        await (outer, inner)[ends].sessions.revoke_all("ada")
        await until(lambda opened=opened: not opened.is_open)
        assert opened.got[1:] == [CLOSED]


async def test_a_stream_ends():
    """The body of a response without a length ends, its app hears of a disconnect, and what it sends is dropped."""
    site = Site()
    card = await site.log_in()
    opened = site.open(card, http_scope, "/stream")
    await looked_at(opened)
    await opened.sent.put({"type": "http.request", "body": b""})
    await site.get("/logout", card)
    await until(lambda: not opened.is_open)
    assert [message.get("body") for message in opened.got] == [None, b"o", b""]
    assert not opened.got[-1]["more_body"]


async def test_a_response_with_a_length_goes_on():
    """A file that is being sent cannot end early, and is left alone."""
    site = Site()
    card = await site.log_in()
    opened = site.open(card, http_scope, "/file")
    await looked_at(opened)
    await site.get("/logout", card)
    await asyncio.sleep(0.5)
    assert opened.is_open
    await opened.sent.put({"type": "http.disconnect"})
    await opened.task


async def test_an_app_that_only_sends_hears_of_the_end():
    """`send` raises what servers raise where the client has gone."""
    site = Site()
    raised = []

    async def talk(session, receive, send):
        try:
            while True:
                await send({"type": "websocket.send", "text": "tick"})
                await asyncio.sleep(0.1)
        except OSError as error:
            raised.append(error)

    site.talk = talk
    card = await site.log_in()
    opened = site.open(card)
    await looked_at(opened)
    await site.get("/logout", card)
    await until(lambda: not opened.is_open)
    assert len(raised) == 1 and opened.got[-1] == CLOSED


async def test_what_happens_before_the_first_notice_counts():
    """A session that ends between its load and the moment when its socket is accepted is not missed."""
    site = Site()
    card = await site.log_in()
    site.may_accept.clear()
    opened = site.open(card)
    await asyncio.sleep(0.1)
    await site.get("/logout", card)
    site.may_accept.set()
    await until(lambda: not opened.is_open)
    assert opened.got[-1] == CLOSED


async def test_a_rotation_is_followed():
    """A new ID closes nothing, and a log-out after it does."""
    site = Site()
    card = await site.log_in()
    opened = site.open(card)
    await looked_at(opened)
    for _ in range(40):
        card = await site.get("/rotate", card)
        await asyncio.sleep(0.05)
    assert opened.is_open
    await site.get("/logout", card)
    await until(lambda: not opened.is_open)
    assert opened.got[-1] == CLOSED


async def test_a_log_in_ends_what_was_nobodys():
    """The socket of a visitor closes when somebody logs into the session: the app is told that it is a log-in."""
    site = Site()
    why = []

    async def talk(session, receive, send):
        why.append(await session.ended())

    site.talk = talk
    card = await site.get("/put")
    opened = site.open(card)
    await looked_at(opened)
    await site.get("/login", card)
    await until(lambda: not opened.is_open)
    assert why == ["log-in"] and opened.got[-1] == CLOSED


async def test_a_change_of_user_is_an_end():
    """The socket of one user closes when the session becomes another's."""
    site = Site()
    card = await site.log_in()
    opened = site.open(card)
    await looked_at(opened)
    await site.get("/login", card, "bob")
    await until(lambda: not opened.is_open)
    assert opened.got[-1] == CLOSED


@pytest.mark.parametrize("how", ["ended", "expired"])
async def test_an_app_can_say_goodbye(how):
    """`session.ended()` says why. What the app sends then goes out, and the close comes when it returns."""
    site = Site()

    async def talk(session, receive, send):
        why = await session.ended()
        await send({"type": "websocket.send", "text": why})

    site.talk = talk
    card = await site.log_in()
    opened = site.open(card)
    await looked_at(opened)
    if how == "ended":
        await site.get("/logout", card)
    else:
        site.clock.advance(14400)
    await until(lambda: not opened.is_open)
    assert opened.got[1:] == [{"type": "websocket.send", "text": how}, CLOSED]


async def test_a_goodbye_does_not_take_long():
    """An app that goes on after `session.ended()` is closed all the same, a second later."""
    site = Site()

    async def talk(session, receive, send):
        await session.ended()
        await send({"type": "websocket.send", "text": "goodbye"})
        await receive()

    site.talk = talk
    card = await site.log_in()
    opened = site.open(card)
    await looked_at(opened)
    await site.get("/logout", card)
    await until(lambda: not opened.is_open)
    assert [message.get("text") for message in opened.got] == [None, "goodbye", None]
    assert opened.got[-1] == CLOSED


async def test_an_app_closes_the_socket_itself():
    """Where the app has sent a close of its own, no second one goes out."""
    site = Site()

    async def talk(session, receive, send):
        await session.ended()
        await send({"type": "websocket.close", "code": 4000})

    site.talk = talk
    card = await site.log_in()
    opened = site.open(card)
    await looked_at(opened)
    await site.get("/logout", card)
    await until(lambda: not opened.is_open)
    assert opened.got[1:] == [{"type": "websocket.close", "code": 4000}]


async def test_changes_of_other_requests_are_heard():
    """`session.changed()` is True for what others save, not for what this request saves, and False at the end."""
    site = Site()
    heard = []

    async def talk(session, receive, send):
        session["mine"] = 1
        await session.save()
        while await session.changed():
            await session.refresh()
            heard.append(session.copy())
        heard.append("over")

    site.talk = talk
    card = await site.log_in()
    opened = site.open(card)
    await looked_at(opened)
    assert heard == []
    await site.get("/put", card)
    await until(lambda: heard)
    assert heard == [{"user_id": "ada", "mine": 1, "colour": "red"}]
    await site.get("/logout", card)
    await until(lambda: not opened.is_open)
    assert heard[1:] == ["over"]


class Deaf(MemoryStore):
    """A store whose notices do not come, until it is told."""

    def watch(self, tell, keys, *, changes=False):
        self.tell = tell
        return lambda: None


async def test_what_is_not_told_is_found_by_looking():
    """Where the store cannot tell, what has ended is found within `live_interval`."""
    site = Site(store=Deaf(), live_interval=3)
    card = await site.log_in()
    opened = site.open(card)
    await looked_at(opened)
    await site.get("/logout", card)
    begun = asyncio.get_running_loop().time()
    await until(lambda: not opened.is_open)
    assert asyncio.get_running_loop().time() - begun < 4


async def test_all_are_looked_at_when_notices_come_again():
    """What ended while the connection was lost is found as soon as it is back."""
    site = Site(store=Deaf(), live_interval=10_000)
    card = await site.log_in()
    opened = site.open(card)
    await looked_at(opened)
    await site.get("/logout", card)
    await asyncio.sleep(0.5)
    assert opened.is_open
    site.store.tell(Notice(What.STANDS))
    await until(lambda: not opened.is_open)
    assert opened.got[-1] == CLOSED


async def test_a_store_that_is_down_closes_nothing():
    """A session of which nobody knows whether it lives keeps its sockets, until the store answers again."""
    site = Site()
    card = await site.log_in()
    opened = site.open(card)
    await looked_at(opened)
    load = site.store.load
    calls = []

    async def fails(key):
        calls.append(key)
        raise OSError

    site.store.load = fails
    (key,) = site.store._records
    site.store._drop(key)
    site.store._tell(Notice(What.ENDED, key))
    await until(lambda: len(calls) >= 3)
    assert opened.is_open
    site.store.load = load
    await until(lambda: not opened.is_open)


async def test_nothing_is_left_when_nothing_is_open(monkeypatch):
    """A while after the last socket has closed, the store is watched no more."""
    monkeypatch.setattr("roomkey.core.live._IDLE", 0.3)
    site = Site()
    card = await site.log_in()
    opened = site.open(card)
    await looked_at(opened)
    assert len(site.store._watchers) == 1
    await opened.end()
    await until(lambda: not site.store._watchers)
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "roomkey: live"]
    again = site.open(card)
    await looked_at(again)
    await site.get("/logout", card)
    await until(lambda: not again.is_open)


async def test_a_task_that_is_cancelled_is_cancelled():
    """The cancellation of a task that waits for its client is no end of the session."""
    site = Site()
    opened = site.open(await site.log_in())
    await looked_at(opened)
    opened.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opened.task
    assert len(opened.got) == 1


async def test_a_visitor_without_a_session_is_not_followed():
    """A socket without a session stays open, and to wait for its end is an error that says so."""
    site = Site()
    raised = []

    async def talk(session, receive, send):
        try:
            await session.ended()
        except ConfigurationError as error:
            raised.append(str(error))
        await receive()

    site.talk = talk
    opened = site.open(None)
    await until(lambda: raised)
    assert "there is no session yet" in raised[0]
    await site.sessions.end_all()
    await asyncio.sleep(0.5)
    assert opened.is_open
    await opened.end()


async def test_without_live_nothing_closes():
    """Without `live=True`, a socket outlives its session, and `ended` says what is missing."""
    site = Site(live=False)
    raised = []

    async def talk(session, receive, send):
        for method in (session.ended, session.changed):
            try:
                await method()
            except ConfigurationError as error:
                raised.append(str(error))
        await receive()

    site.talk = talk
    card = await site.log_in()
    opened = site.open(card)
    await opened.accepted()
    await site.get("/logout", card)
    await asyncio.sleep(0.5)
    assert opened.is_open
    assert raised[0] == "session.ended() needs live=True, which the configuration does not have"
    assert raised[1] == "session.changed() needs live=True, which the configuration does not have"
    await opened.end()


class Plain:
    """A store that cannot be watched."""

    async def load(self, key): ...
    async def create(self, key, record): ...
    async def update(self, key, record, *, version): ...
    async def rotate(self, key, new_key, record, tombstone, *, version): ...
    async def touch(self, key, expires_at): ...
    async def delete(self, key): ...


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"store": "cookie://"}, "live: got True; CookieStore cannot tell what ends"),
        ({"store": Plain()}, "live: got True; Plain cannot tell what ends"),
        ({"live": "yes"}, "live: got 'yes'; it takes True or False"),
        ({"live_interval": 0}, "live_interval: got 0; it takes a number of seconds above 0"),
    ],
)
def test_wrong_options_are_refused(options, says):
    """A store that cannot tell what ends, and a wrong value, are errors that say so."""
    with pytest.raises(ConfigurationError, match=says.replace("(", r"\(")):
        SessionConfig(secret_key=SECRET, **{"store": "memory://", "live": True, **options})


async def test_a_plain_request_asks_the_store_nothing_more():
    """A response with a length is followed by nothing: the store is asked once, and nobody watches it."""
    store = SpyStore()
    site = Site(store=store)
    card = await site.log_in()
    store.events.clear()
    await site.get("/", card)
    assert store.events == ["load"]
    assert not store._watchers


def test_an_app_without_it_does_not_import_it():
    """Where `live` is off, the modules that it needs are not there, so that no request can call them."""
    code = (
        "import sys; from roomkey import SessionMiddleware; "
        "SessionMiddleware(None, secret_key='k' * 32, store='memory://'); "
        "assert not {'roomkey.core.live', 'roomkey.web.live', 'roomkey.stores.watching', 'asyncio'} & {*sys.modules}"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr == ""
