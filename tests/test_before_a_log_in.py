"""Requests from before a log-in: for how long they may still save into the session of whoever logged in."""

import asyncio
import contextlib
import logging
import socket

import pytest
import uvicorn
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from websockets.asyncio.client import connect

from roomkey import SessionEnded, SessionManager, SessionMiddleware
from roomkey.events import Lost
from roomkey.prometheus import session_metrics
from roomkey.stores.memory import MemoryStore
from roomkey.testing import Clock
from tests.asgi import SECRET

MAX_AGE = 30 * 86400.0  # seconds
MINUTE = 60.0  # seconds
NOBODYS = {"cart": 1, "theme": "dark"}
ANNS = {**NOBODYS, "user_id": "ann", "theirs": 1}


class Site:
    """A manager whose clock the test moves, one browser, and requests of it that are under way."""

    def __init__(self, **options):
        self.clock, self.told = Clock(1_000_000.0), []
        settings = {"store": MemoryStore(clock=self.clock), "clock": self.clock, "max_age": MAX_AGE, **options}
        self.manager = SessionManager(secret_key=SECRET, on_event=self.told.append, **settings)
        self.cookie = None

    async def begin(self):
        await self.do(lambda session: session.update(NOBODYS))

    async def load(self):
        return await self.manager.load(self.cookie)

    async def answer(self, session):
        for name, value in await self.manager.commit(session, headers=[("x-app", "1")]):
            if name == "set-cookie":
                self.cookie = value.partition(";")[0]

    async def do(self, act):
        """Have one request do something, and answer."""
        session = await self.load()
        act(session)
        await self.answer(session)

    async def log_in(self):
        await self.do(lambda session: session.update(user_id="ann", theirs=1))

    async def sees(self):
        return (await self.load()).copy()

    def losses(self):
        return [event for event in self.told if isinstance(event, Lost)]


def counts(session):
    session.change("n", lambda n: n + 1, default=0)


def empties(session):
    for key in NOBODYS:
        session.pop(key)


# What a request does, and what the user's session is with it.
CHANGES = {
    "assigns": (lambda session: session.update(mine=1), {**ANNS, "mine": 1}),
    "counts": (counts, {**ANNS, "n": 1}),
    "deletes": (lambda session: session.pop("cart"), {"theme": "dark", "user_id": "ann", "theirs": 1}),
    "empties it": (empties, {"user_id": "ann", "theirs": 1}),
    "logs out": (lambda session: session.clear(), {"user_id": "ann", "theirs": 1}),
    "flashes": (lambda session: session.flash("hello"), {**ANNS, "_flashes": [("info", "hello")]}),
    "rotates": (lambda session: session.rotate(), ANNS),
    "remembers": (lambda session: session.remember(86400), ANNS),
}
LOSES_NOTHING = {"empties it", "logs out"}


@pytest.mark.parametrize("seal", [False, True])
@pytest.mark.parametrize("change", CHANGES)
async def test_for_a_minute_a_request_from_before_a_log_in_saves(change, seal):
    """Its changes are laid over the user's session, until the last moment of that minute."""
    site = Site(seal=seal)
    await site.begin()
    under_way = await site.load()
    await site.log_in()
    site.clock.advance(MINUTE - 0.001)
    act, merged = CHANGES[change]
    act(under_way)
    await under_way.save()
    assert await site.sees() == merged


@pytest.mark.parametrize("later", [MINUTE, 28 * 86400.0])
@pytest.mark.parametrize("seal", [False, True])
@pytest.mark.parametrize("change", CHANGES)
async def test_after_that_minute_it_saves_nothing(change, seal, later):
    """`save` raises SessionEnded; the user's session holds what the user put in, and the request's holds nothing."""
    site = Site(seal=seal)
    await site.begin()
    under_way = await site.load()
    await site.log_in()
    site.clock.advance(later)
    CHANGES[change][0](under_way)
    with contextlib.nullcontext() if change in LOSES_NOTHING else pytest.raises(SessionEnded, match="logged into it"):
        await under_way.save()
    assert under_way == {}
    assert await site.sees() == ANNS
    under_way["mine"] = 2
    with pytest.raises(SessionEnded):
        await under_way.save()
    await site.answer(under_way)
    assert await site.sees() == ANNS


async def test_what_it_saved_within_the_minute_prolongs_nothing():
    """The minute counts from the log-in, not from its last save."""
    site = Site()
    await site.begin()
    under_way = await site.load()
    await site.log_in()
    for number in range(3):
        site.clock.advance(19)
        under_way["mine"] = number
        await under_way.save()
    site.clock.advance(3)
    under_way["mine"] = "late"
    with pytest.raises(SessionEnded):
        await under_way.save()
    assert await site.sees() == {**ANNS, "mine": 2}


@pytest.mark.parametrize("act", ["reauthenticated", "rotate", "logs in anew"])
async def test_what_the_user_does_later_begins_no_other_minute(act):
    """A user who proves who they are, or rotates the ID, lets nobody in who was there before the log-in."""

    def do(session):
        if act == "logs in anew":
            kept = session.copy()
            session.clear()
            session.update(kept)
        else:
            getattr(session, act)()

    site = Site()
    await site.begin()
    under_way = await site.load()
    await site.do(lambda session: session.rotate())
    await site.log_in()
    site.clock.advance(28 * 86400.0)
    await site.do(do)
    under_way["mine"] = 1
    with pytest.raises(SessionEnded):
        await under_way.save()
    assert await site.sees() == ANNS


@pytest.mark.parametrize("user", ["ann", "bob"])
async def test_a_log_in_after_that_minute_stands_on_its_own(user):
    """A request from before that logs somebody in begins a session with what it put in itself."""
    site = Site()
    await site.begin()
    under_way = await site.load()
    await site.log_in()
    theirs, site_cookie = await site.load(), site.cookie
    site.clock.advance(MINUTE)
    under_way.update(user_id=user, mine=1)
    await site.answer(under_way)
    assert await site.sees() == {"user_id": user, "mine": 1}
    assert site.cookie != site_cookie
    assert (await site.manager.load(site_cookie)).copy() == theirs == ANNS


async def test_requests_of_the_user_go_on():
    """Whoever came with the user's own cookie saves for as long as the session lives, also after a proof of who."""
    site = Site()
    await site.begin()
    await site.log_in()
    under_way = await site.load()
    await site.do(lambda session: session.reauthenticated())
    site.clock.advance(28 * 86400.0)
    under_way["mine"] = 1
    await under_way.save()
    assert await site.sees() == {**ANNS, "mine": 1}


async def test_what_the_end_of_the_request_would_have_saved_is_counted():
    """The event names the session from before, and is counted; an explicit `save` raises, and nothing else tells."""
    registry = CollectorRegistry()
    site = Site()
    count = session_metrics(registry)
    await site.begin()
    late, saves = [await site.load() for _ in range(2)]
    handle = late.handle
    await site.log_in()
    site.clock.advance(MINUTE)
    late["mine"] = saves["mine"] = 1
    await site.answer(late)
    assert site.losses() == [Lost(handle, "log-in")]
    with pytest.raises(SessionEnded):
        await saves.save()
    await site.answer(saves)
    assert site.losses() == [Lost(handle, "log-in")]
    count(site.losses()[0])
    assert registry.get_sample_value("roomkey_lost_total", {"reason": "log-in"}) == 1


async def test_what_is_lost_to_a_log_out_is_counted_too(caplog):
    """That is an event, and no warning: a log-out in another tab is nothing to warn of."""
    site = Site()
    await site.begin()
    late, reads = [await site.load() for _ in range(2)]
    handle = late.handle
    await site.do(lambda session: session.clear())
    late["mine"] = 1
    assert reads["cart"] == 1
    await site.answer(late)
    await site.answer(reads)
    assert site.losses() == [Lost(handle, "ended")]
    assert not caplog.records


# --- through the middleware, over real connections --------------------------------------------------------------------


async def page(request):
    """Do what the query says: each parameter is put into the session."""
    request.session.update(request.query_params)
    return PlainTextResponse("ok")


async def socket_that_saves(websocket):
    """Save each message, and say what came of it."""
    await websocket.accept()
    async for text in websocket.iter_text():
        websocket.session["message"] = text
        websocket.session.change("n", lambda n: n + 1, default=0)
        try:
            await websocket.session.save()
        except SessionEnded:
            await websocket.send_text("ended")
        else:
            await websocket.send_text("saved")


async def socket_that_ends(websocket):
    """Keep the last message for the end."""
    await websocket.accept()
    async for text in websocket.iter_text():
        websocket.session["message"] = text


@contextlib.asynccontextmanager
async def served(app):
    """Serve an app on a real port, and yield that."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(app, log_config=None, lifespan="off", ws="websockets-sansio")
        server = uvicorn.Server(config)
        task = asyncio.ensure_future(server._serve([listening]))
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            await task


async def get(port, path, cookie=None):
    """Send one request; return the cookie that came with the answer, or else the one that was sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    sent = "" if cookie is None else f"Cookie: {cookie}\r\n"
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{sent}\r\n".encode())
    lines = (await reader.read()).decode().split("\r\n")
    writer.close()
    await writer.wait_closed()
    assert lines[0].split()[1] == "200"
    given = [line.partition(": ")[2] for line in lines if line.lower().startswith("set-cookie:")]
    return given[0].partition(";")[0] if given else cookie


async def test_a_websocket_from_before_a_log_in(caplog):
    """Opened with an ID that an attacker planted, it saves for a minute after the victim's log-in, and no longer."""
    clock, told = Clock(1_000_000.0), []
    app = Starlette(
        routes=[
            Route("/page", page),
            WebSocketRoute("/saves", socket_that_saves),
            WebSocketRoute("/ends", socket_that_ends),
        ]
    )
    manager = SessionManager(
        secret_key=SECRET,
        store=MemoryStore(clock=clock),
        clock=clock,
        max_age=MAX_AGE,
        on_event=told.append,
        https_only=False,
    )

    async def sees():
        return (await manager.load(cookie)).copy()

    async with served(SessionMiddleware(app, manager)) as port:
        planted = await get(port, "/page?cart=1")
        sockets = [
            await connect(f"ws://127.0.0.1:{port}/{path}", additional_headers={"Cookie": planted})
            for path in ("saves", "ends", "ends")
        ]
        saves, *ends = sockets
        cookie = await get(port, "/page?user_id=ann", planted)
        assert cookie != planted
        await saves.send("soon")
        assert await saves.recv() == "saved"
        assert await sees() == {"cart": "1", "user_id": "ann", "message": "soon", "n": 1}
        await get(port, "/page?message=hers", cookie)
        clock.advance(MINUTE)
        await saves.send("late")
        assert await saves.recv() == "ended"
        for each in ends:
            await each.send("late")
        for each in sockets:
            await each.close()
    assert await sees() == {"cart": "1", "user_id": "ann", "message": "hers", "n": 1}
    assert [event.reason for event in told if isinstance(event, Lost)] == ["log-in"] * 2
    (said,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert "socket_that_ends" in said
    assert "60 seconds" in said
