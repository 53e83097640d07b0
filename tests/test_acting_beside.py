"""Somebody acts for a user: with open WebSockets, sessions from memory, and users found under other keys."""

import asyncio

import pytest

from roomkey import ConfigurationError, SessionConfig, SessionManager, SessionMiddleware, Sessions
from roomkey.core.reply import Cookie
from roomkey.csrf import csrf_token, verify_csrf_token
from roomkey.stores.memory import MemoryStore
from roomkey.testing import Clock
from tests.asgi import SECRET, ask, cookie_in, http_scope, websocket_scope
from tests.loop_clock import until
from tests.stores.told import ToldStore, elsewhere
from tests.world import World

STAFF, USER = "grace", "ada"


# --- open WebSockets --------------------------------------------------------------------------------------------------


class Site:
    """An app with `live=True`, and a WebSocket that stays open until its session ends."""

    def __init__(self):
        self.clock = Clock()
        store = MemoryStore(clock=self.clock)
        self.app = SessionMiddleware(self.serve, secret_key=SECRET, store=store, clock=self.clock, live=True)
        self.sessions = self.app.manager.sessions

    async def serve(self, scope, receive, send):
        session, path = scope["session"], scope["path"]
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
            while not (await receive())["type"].endswith("disconnect"):
                pass
            return
        if path == "/login":
            session["user_id"] = STAFF
        elif path == "/act":
            await session.impersonate(USER)
        elif path == "/stop":
            await session.stop_impersonating()
        elif path == "/logout":
            session.clear()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    async def get(self, path, card=None):
        return cookie_in((await ask(self.app, http_scope(path, card)))[0])


@pytest.mark.parametrize("how", ["the actor's", "the user's", "log-out", "stop", "expiry", "nothing"])
async def test_an_open_websocket_ends_with_either_session(how):
    """It is closed once, whichever of the two sessions ends, and stays open else."""
    site, got, sent = Site(), [], asyncio.Queue()
    card = await site.get("/act", await site.get("/login"))

    async def send(message):
        got.append(message["type"])

    task = asyncio.get_running_loop().create_task(site.app(websocket_scope("/", card), sent.get, send))
    await until(lambda: got)
    await asyncio.sleep(0.5)  # of the loop's clock: it was looked at for the first time
    if how == "the actor's":
        await site.sessions.revoke_all(STAFF)
    elif how == "the user's":
        await site.sessions.revoke_all(USER)
    elif how == "log-out":
        await site.get("/logout", card)
    elif how == "stop":
        await site.get("/stop", card)
    elif how == "expiry":
        site.clock.advance(1800)
    if how == "nothing":
        await asyncio.sleep(0.5)
        assert not task.done()
        await sent.put({"type": "websocket.disconnect", "code": 1000})
        await task
        assert got == ["websocket.accept"]
    else:
        await until(task.done)
        assert got == ["websocket.accept", "websocket.close"]


# --- sessions from memory ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", [STAFF, USER])
async def test_memory_never_says_that_somebody_acts(who):
    """Where the other process has ended either session and nobody was told, the next request knows it all the same."""
    clock = Clock(1_000_000.0)
    store = ToldStore(clock=clock)
    settings = {"secret_key": SECRET, "store": store, "clock": clock}
    here, there = SessionManager(near_cache=100, **settings), SessionManager(**settings)

    async def do(cookie, act):
        session = await here.load(cookie)
        await act(session)
        given = dict(await here.commit(session)).get("set-cookie")
        return cookie if given is None else given.split(";")[0]

    async def log_in(session):
        session["user_id"] = STAFF

    async def look(session):
        seen.append((session["user_id"], session.actor))

    seen = []
    cookie = await do(await do(None, log_in), lambda session: session.impersonate(USER))
    for _ in range(3):
        await do(cookie, look)
    assert seen == [(USER, STAFF)] * 3
    with elsewhere():
        await Sessions(there).revoke_all(who)
    session = await here.load(cookie)
    assert (session.get("user_id"), session.actor) == (None if who == STAFF else STAFF, None)


# --- users under other keys -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user_key", "content"),
    [
        ("user.sub", {"user": {"sub": USER}}),
        (("user_id", "_auth_user_id"), {"user_id": USER}),
        (("user.sub", "user_id"), {"user": {"sub": USER}}),
    ],
)
async def test_where_the_users_id_is(user_key, content):
    """The session has the ID in the first place that the configuration names."""
    world = World(user_key=user_key)
    own = {"user": {"sub": STAFF}} if "user.sub" in user_key else {"_auth_user_id": STAFF}
    visit = await world.arrive(await world.begin(**own))
    await visit.session.impersonate(USER)
    await visit.commit()
    visit = await world.arrive(visit.card)
    assert visit.session.copy() == content and visit.session.actor == STAFF
    visit.session["_auth_user_id"] = "somebody"
    visit.session["user_id"] = USER
    await visit.commit()
    assert visit.cookie is Cookie.KEEP and visit.session.authenticated_at is None


async def test_forms_of_one_session_are_refused_in_the_other():
    """A page that is open in another tab does nothing in the wrong name."""
    world = World()
    visit = await world.arrive(await world.begin(user_id=STAFF))
    own = csrf_token(visit.session)
    await visit.commit()
    visit = await world.arrive(visit.card or world.life.keyring.sign(visit.session._at.session_id))
    assert verify_csrf_token(visit.session, own)
    await visit.session.impersonate(USER)
    await visit.commit()
    visit = await world.arrive(visit.card)
    assert visit.session.actor == STAFF and not verify_csrf_token(visit.session, own)
    theirs = csrf_token(visit.session)
    await visit.session.save()
    assert verify_csrf_token(visit.session, theirs)
    await visit.session.stop_impersonating()
    assert not verify_csrf_token(visit.session, theirs)


async def test_rights_beside_the_user():
    """A change of them gives no card of the user's session: the browser keeps that of the actor's."""
    world = World(rotate_on=("role",))
    visit = await world.arrive(await world.begin(user_id=STAFF))
    await visit.session.impersonate(USER)
    await visit.commit()
    card = visit.card
    visit = await world.arrive(card)
    visit.session["role"] = "editor"
    await visit.commit()
    assert visit.cookie is Cookie.KEEP and await world.data(card) == {"user_id": USER, "role": "editor"}


def whose(session):
    return session.get("who")


async def test_a_function_finds_users():
    """Nobody knows then how to make a session of a user's."""
    world = World(user_key=whose)
    visit = await world.arrive(await world.begin(who=STAFF))
    with pytest.raises(ConfigurationError, match="user_key: the function whose"):
        await visit.session.impersonate(USER)
    assert SessionConfig(secret_key=SECRET, user_key=whose).user_key is whose
