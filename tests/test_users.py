"""Sessions: a user's key cards, listed, revoked and limited, over each store that needs no server."""

import asyncio
import dataclasses
import datetime as dt
import subprocess
import sys
import tempfile
from pathlib import Path
from uuid import UUID

import pytest

from roomkey import (
    ConfigurationError,
    LoginTooOld,
    Request,
    SessionConfig,
    SessionDataError,
    SessionEnded,
    SessionManager,
    SessionMiddleware,
    Sessions,
)
from roomkey.stores.memory import MemoryStore
from roomkey.stores.sqlite import SQLiteStore
from roomkey.testing import Clock
from tests.asgi import ask, http_scope
from tests.driver import Driver
from tests.loop_clock import HANGS

SECRET = "the secret key of these tests, 32 bytes and more"
START = 1_700_000_000.0


class World:
    """Browsers that log in under one configuration."""

    def __init__(self, store, clock, **options):
        self.clock = clock
        self.config = SessionConfig(secret_key=SECRET, store=store, clock=clock, max_age=1000, **options)
        self.life = Driver(self.config)
        self.sessions = Sessions(self.config)

    async def log_in(self, user, card=None, client=(None, None)):
        visit = await self.arrive(card)
        visit.client = client
        visit.session["user_id"] = user
        await visit.commit()
        return visit.card

    async def arrive(self, card):
        return self.life.anonymous() if card is None else await self.life.arrive([card])

    async def who(self, card):
        return (await self.arrive(card)).session.copy().get("user_id")


@pytest.fixture(params=["memory", "sqlite"])
def world(request):
    """Return a function that makes a world; what it opened is closed."""
    clock = Clock(START)
    with tempfile.TemporaryDirectory() as directory:
        made = MemoryStore(clock=clock) if request.param == "memory" else SQLiteStore(f"{directory}/s.db", clock=clock)

        def make(**options):
            return World(made, clock, **options)

        yield make
        if isinstance(made, SQLiteStore):
            asyncio.run(made.close())


async def test_a_users_sessions_are_listed(world):
    """Each live session of the user is listed, last used first, with what is known of it."""
    here = world(record_client=True)
    one = await here.log_in(42, client=("192.0.2.1", "Firefox"))
    here.clock.advance(10)
    await here.log_in(42, client=("2001:db8::1", "curl"))
    await here.log_in(43)
    visit = await here.arrive(one)
    second, first = await visit.session.sessions.of(42)
    assert (first.ip, first.user_agent, second.ip, second.user_agent) == (
        "192.0.2.1",
        "Firefox",
        "2001:db8::1",
        "curl",
    )
    assert first.is_current and not second.is_current
    assert first.handle == visit.session.handle
    assert first.user == "42"
    assert first.created_at == dt.datetime.fromtimestamp(START, dt.UTC)
    assert first.last_used_at == first.created_at
    assert first.expires_at == first.created_at + dt.timedelta(seconds=1000)
    assert await here.sessions.of(44) == []


@pytest.mark.parametrize(
    ("sent", "listed"),
    [
        ("Firefox \u706b\u72d0".encode(), "Firefox \u706b\u72d0"),
        ("Caf\u00e9".encode(), "Caf\u00e9"),
        ("Caf\u00e9".encode("latin-1"), "Caf\u00e9"),
        (b"\xff" * 300, "\u00ff" * 256),
        ("\u706b".encode() * 300, "\u706b" * 85),
    ],
)
@pytest.mark.parametrize("way", ["middleware", "manager"])
async def test_a_user_agent_is_listed_as_it_was_written(sent, listed, way):
    """It is UTF-8 where that is valid, and Latin-1 otherwise, and no more of it than 256 bytes."""

    async def log_in(scope, receive, send):
        scope["session"]["user_id"] = 42
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    manager = SessionManager(secret_key=SECRET, store="memory://", record_client=True)
    if way == "middleware":
        await ask(SessionMiddleware(log_in, manager), {**http_scope(), "headers": [(b"user-agent", sent)]})
    else:
        session = await manager.load(Request(headers=[("User-Agent", sent.decode("latin-1"))]))
        session["user_id"] = 42
        await manager.commit(session)
    (info,) = await manager.sessions.of(42)
    assert info.user_agent == listed


@pytest.mark.parametrize("asked_for", [False, True])
async def test_the_client_is_kept_only_where_asked_for(asked_for):
    """IP address and user agent of the log-in; the address is the server's word, whatever a header says."""

    async def log_in(scope, receive, send):
        scope["session"]["user_id"] = 42
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    app = SessionMiddleware(log_in, secret_key=SECRET, store="memory://", record_client=asked_for)
    headers = [
        (b"x-forwarded-for", b"203.0.113.9"),
        (b"x-real-ip", b"203.0.113.9"),
        (b"forwarded", b"for=203.0.113.9"),
        (b"user-agent", b"Firefox/" + b"1" * 1000),
    ]

    async def send(message):
        pass

    for client in (("192.0.2.1", 50000), None):  # None: a Unix socket
        scope = {"type": "http", "method": "POST", "path": "/", "headers": headers, "client": client}
        await app(scope, None, send)
    found = {(info.ip, info.user_agent) for info in await Sessions(app.config).of(42)}
    agent = "Firefox/" + "1" * 248
    assert found == ({("192.0.2.1", agent), (None, agent)} if asked_for else {(None, None)})


async def test_last_used_follows_renewal(world):
    """The time of last use moves with each renewal, a remembered session's too."""
    here = world()
    card = await here.log_in(42)
    visit = await here.arrive(card)
    visit.session.remember(5000)
    await visit.commit()
    here.clock.advance(2000)
    visit = await here.arrive(card)
    assert visit.session["user_id"] == 42
    await visit.commit()
    (info,) = await here.sessions.of(42)
    assert info.last_used_at.timestamp() == START + 2000
    assert info.expires_at.timestamp() == START + 7000


async def test_one_session_is_looked_up_by_its_handle(world):
    """By an old handle too, after its ID has changed. What has ended, or never was, is None."""
    here = world()
    visit = await here.arrive(await here.log_in(7))
    old = visit.session.handle
    visit.session.rotate()
    await visit.commit()
    found = await here.sessions.get(old)
    assert found == await here.sessions.get(visit.session.handle)
    assert (found.handle, found.user) == (visit.session.handle, "7")
    assert await visit.session.sessions.get(old) == dataclasses.replace(found, is_current=True)
    await here.sessions.revoke(old)
    assert await here.sessions.get(old) is None
    for never in ("0" * 64, "", "x", None):
        assert await here.sessions.get(never) is None


async def test_everybodys_sessions_are_gone_through(world):
    """Each live session comes, a visitor's too. Tombstones, ended and expired sessions do not."""
    here = world()
    await here.log_in(1)
    here.clock.advance(1001)
    handles = {}
    for user in (7, 7, "ann"):
        visit = await here.arrive(await here.log_in(user))
        handles[visit.session.handle] = str(user)
    visitor = await here.arrive(None)
    visitor.session["page"] = 1
    await visitor.commit()
    handles[visitor.session.handle] = ""
    await here.sessions.revoke(min(handles))
    del handles[min(handles)]
    assert {each.handle: each.user async for each in here.sessions.every()} == handles


async def test_one_session_is_revoked_by_its_handle(world):
    """Revoking by handle ends that session at once, says whether there was one, and spares the others."""
    here = world()
    one, two = await here.log_in(42), await here.log_in(42)
    handle = (await here.arrive(one)).session.handle
    assert await here.sessions.revoke(handle)
    assert await here.who(one) is None
    assert await here.who(two) == 42
    assert not await here.sessions.revoke(handle)


@pytest.mark.parametrize("handle", ["", "x" * 64, "a" * 63, "*", "../../etc", None, 5, b"a" * 64, "é" * 64])
async def test_a_strange_handle_revokes_nothing(world, handle):
    """What is no handle is answered with False, without asking the store for it."""
    assert not await world().sessions.revoke(handle)


async def test_a_handle_of_another_user_is_refused(world):
    """With `user` given, only a session of that user is revoked."""
    here = world()
    card = await here.log_in(42)
    handle = (await here.arrive(card)).session.handle
    assert not await here.sessions.revoke(handle, user=43)
    assert await here.who(card) == 42
    assert await here.sessions.revoke(handle, user=42)


async def test_nobody_is_not_anybody(world):
    """A handler that asks with `session.get("user_id")` ends nothing for who is not logged in, and hears of it."""
    here = world()
    card = await here.log_in(42)
    await here.log_in("None")
    handle = (await here.arrive(card)).session.handle
    assert await here.sessions.revoke(handle, user=None) is False
    for nobody in (None, "", "\ud800", "x\udfff"):  # JSON can carry half a character
        for call in (here.sessions.of, here.sessions.revoke_all):
            with pytest.raises(SessionDataError, match=r"^user"):
                await call(nobody)
    assert await here.who(card) == 42
    assert await here.sessions.revoke(handle)  # whoever's it is, where that is meant


@pytest.mark.parametrize("config", [{"secret_key": SECRET}, None, "memory://", SessionMiddleware], ids=repr)
def test_sessions_of_what_is_no_configuration(config):
    """The error says what it takes."""
    with pytest.raises(ConfigurationError, match="SessionConfig"):
        Sessions(config)


async def test_a_handle_is_no_credential(world):
    """A handle in the cookie opens nothing."""
    here = world()
    handle = (await here.arrive(await here.log_in(42))).session.handle
    for card in (handle.encode(), handle[:40].encode() + b"0" * 40):
        assert await here.who(card) is None


async def test_all_but_this_one_are_revoked(world):
    """`revoke_all` with `keep` ends the user's other sessions, counts them, and spares other users."""
    here = world()
    mine = await here.log_in(42)
    others = [await here.log_in(42) for _ in range(3)]
    stranger = await here.log_in(43)
    visit = await here.arrive(mine)
    assert await visit.session.sessions.revoke_all(42, keep=visit.session) == 3
    assert [await here.who(card) for card in [mine, *others, stranger]] == [42, None, None, None, 43]
    assert await here.sessions.revoke_all(42) == 1
    assert await here.who(mine) is None


@pytest.mark.parametrize("by", ["session", "handle"])
@pytest.mark.parametrize("rotations", [1, 2, 3])
async def test_the_session_to_keep_is_kept_where_another_request_has_rotated_it_meanwhile(world, by, rotations):
    """A change of password in one request and a rotation in another: the session goes on, the others have ended."""
    here = world()
    mine, other = await here.log_in(42), await here.log_in(42)
    visit = await here.arrive(mine)
    parallel = [mine]

    async def rotate():
        again = await here.arrive(parallel[-1])
        again.session.rotate()
        await again.commit()
        parallel.append(again.card)

    await rotate()
    truth = here.life.store.store.of_user

    async def rotates_on(user):
        listed = await truth(user)
        for _ in range(rotations - 1):
            await rotate()
        return listed

    here.life.store.store.of_user = rotates_on
    keep = visit.session if by == "session" else visit.session.handle
    assert await visit.session.sessions.revoke_all(42, keep=keep) == 1
    assert [await here.who(card) for card in (parallel[-1], other)] == [42, None]


async def test_everybodys_sessions_end_at_once(world):
    """`end_all` ends every session, also for a request under way."""
    here = world()
    cards = [await here.log_in(user) for user in (1, 2)]
    under_way = await here.arrive(cards[0])
    under_way.session["x"] = 1
    await here.sessions.end_all()
    assert [await here.who(card) for card in cards] == [None, None]
    with pytest.raises(SessionEnded):
        await under_way.session.save()
    assert await here.who(cards[0]) is None
    assert await here.who(await here.log_in(3)) == 3


async def test_revoking_is_final_for_a_request_under_way(world):
    """A request that had loaded the session cannot bring it back, by writing or by rotating."""
    for act in (lambda session: session.update(x=1), lambda session: session.rotate()):
        here = world()
        card = await here.log_in(42)
        visit = await here.arrive(card)
        act(visit.session)
        await here.sessions.revoke_all(42)
        await visit.commit()
        assert visit.lost
        assert await here.who(card) is None
        assert await here.sessions.of(42) == []


async def test_revoking_follows_a_rotation(world):
    """A session that rotated after it was listed is revoked under its new ID."""
    here = world()
    card = await here.log_in(42)
    (info,) = await here.sessions.of(42)
    visit = await here.arrive(card)
    visit.session.rotate()
    await visit.commit()
    assert await here.sessions.revoke(info.handle, user=42)
    assert await here.who(visit.card) is None


async def test_an_empty_text_is_nobody(world):
    """As `if not session.get("user_id")` has it: it logs nobody in, and putting it there logs out."""
    here = world()
    card = await here.log_in("")
    visit = await here.arrive(card)
    assert visit.record.user is None and visit.session.authenticated_at is None
    with pytest.raises(LoginTooOld):
        visit.session.require_recent(300)
    card = await here.log_in(42, card)
    out = await here.log_in("", card)
    assert await here.who(card) is None and await here.who(out) == ""
    assert await here.sessions.of(42) == []


@pytest.mark.parametrize("user", [1, "1", 1.5, None])
async def test_without_a_user_key_nobody_has_sessions(world, user):
    """With `user_key=None` no session is filed under a user: to ask for one's sessions is a mistake, and said so."""
    here = world(user_key=None)
    card = await here.log_in(1)
    handle = (await here.arrive(card)).session.handle
    for call in (here.sessions.of, here.sessions.revoke_all, lambda user: here.sessions.revoke(handle, user=user)):
        with pytest.raises(ConfigurationError, match=r"^user_key: it is None"):
            await call(user)
    assert await here.sessions.revoke(handle)  # by its handle alone


@pytest.mark.parametrize(
    ("one", "other"), [(1, "1"), (UUID(int=5), "00000000-0000-0000-0000-000000000005")], ids=["int", "UUID"]
)
async def test_an_id_and_its_text_are_one_user(world, one, other):
    """Both are listed, limited and revoked together, and a session that is given the other form keeps its ID."""
    here = world(max_sessions_per_user=2)
    cards = [await here.log_in(one), await here.log_in(other)]
    for user in (one, other):
        assert len(await here.sessions.of(user)) == 2
    visit = await here.arrive(cards[0])
    visit.session["user_id"] = other
    await visit.commit()
    assert (await here.arrive(cards[0])).session["user_id"] == other
    cards.append(await here.log_in(one))
    assert sorted([await here.who(card) is None for card in cards]) == [False, False, True]
    assert await here.sessions.revoke_all(other) == 2


@pytest.mark.parametrize("act", ["read", "write", "rotate", "reauthenticated"])
async def test_the_list_shows_what_this_response_renews(world, act):
    """The session that asks is in use: it is listed as it is once the response has renewed it."""
    here = world()
    card = await here.log_in(42)
    other = await here.log_in(42)
    here.clock.advance(950)
    visit = await here.arrive(card)
    if act == "write":
        visit.session["x"] = 1
    elif act != "read":
        getattr(visit.session, act)()
    shown = await visit.session.sessions.of(42)
    assert [info.is_current for info in shown] == [True, False]
    assert [info.expires_at.timestamp() - here.clock() for info in shown] == [1000, 50]
    assert [info.last_used_at.timestamp() - here.clock() for info in shown] == [0, -950]
    await visit.commit()
    found = {info.handle: info for info in await here.sessions.of(42)}
    assert found[visit.session.handle].expires_at == shown[0].expires_at
    assert found[visit.session.handle].last_used_at == shown[0].last_used_at
    assert await here.who(other) == 42


@pytest.mark.parametrize("user", [5, "5", 0, " ", -1, 2**70, "Zoë 🗝", UUID(int=5)], ids=repr)
async def test_users_of_each_type_are_found(world, user):
    """IDs of type int, str and UUID are filed, and found by the same value."""
    here = world()
    card = await here.log_in(user)
    assert await here.who(card) == user
    assert len(await here.sessions.of(user)) == 1


_DEEP: list[object] = []
for _ in range(150):
    _DEEP = [_DEEP]


@pytest.mark.parametrize(
    "user",
    [True, 1.5, b"5", ["5"], {"id": 5}, (5,), dt.date(2026, 1, 1), 10**1000, 10**5000, [10**5000], _DEEP, "\0"],
    ids=lambda user: type(user).__name__,
)
async def test_what_is_no_id_is_refused(world, user):
    """A user's ID of another type is an error that names the key, and nothing is saved."""
    here = world()
    with pytest.raises(SessionDataError, match="user_id"):
        await here.log_in(user)
    for call in (here.sessions.of, here.sessions.revoke_all):
        with pytest.raises(SessionDataError, match=r"^user "):
            await call(user)
    card = await here.log_in(42)
    visit = await here.arrive(card)
    with pytest.raises(SessionDataError, match=r"^user "):
        await here.sessions.revoke(visit.session.handle, user=user)
    visit.session["user_id"] = user
    with pytest.raises(SessionDataError, match="user_id"):
        await visit.commit()
    assert await here.who(card) == 42


async def test_a_card_that_the_limit_ended_meanwhile_is_not_sent(world):
    """Between this log-in and its answer another one has pushed it out: the browser keeps what it has."""

    async def log_in(scope, receive, send):
        scope["session"]["user_id"] = 42
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    here = world(max_sessions_per_user=1)
    app = SessionMiddleware(log_in, here.config)
    truth = here.life.store.store.of_user
    sent = []

    async def another_comes(user):
        here.life.store.store.of_user = truth
        listed = await truth(user)
        here.clock.advance(1)
        await here.log_in(42)
        return listed

    async def send(message):
        sent.append(message)

    for card in (None, await here.log_in(43)):
        here.life.store.store.of_user = another_comes
        headers = [] if card is None else [(b"cookie", b"session=" + card)]
        await app({"type": "http", "headers": headers}, None, send)
        assert b"set-cookie" not in dict(sent[-2]["headers"])
        assert len(await here.sessions.of(42)) == 1


async def test_the_limit_ends_the_longest_unused(world):
    """Past `max_sessions_per_user`, the session that was used longest ago ends, with its reason in the event."""
    events = []
    here = world(max_sessions_per_user=2, on_event=events.append)
    cards = []
    for _ in range(2):
        cards.append(await here.log_in(42))
        here.clock.advance(200)
    visit = await here.arrive(cards[0])
    visit.session["seen"] = 1  # the older one is used again
    await visit.commit()
    cards.append(await here.log_in(42))
    assert [await here.who(card) for card in cards] == [42, None, 42]
    assert [event.reason for event in events if type(event).__name__ == "Ended"] == ["limit"]


@pytest.mark.parametrize("options", [{"absolute_timeout": 1000}, {}])
async def test_the_limit_knows_when_a_capped_session_was_used(world, options):
    """Also where the absolute timeout is as long as the idle one: the usual "remember me for 30 days"."""
    here = world(max_sessions_per_user=2, **({"absolute_timeout": 10_000} | options))
    cards = []
    for _ in range(2):
        visit = here.life.anonymous()
        visit.session["user_id"] = 42
        visit.session.remember(here.life.config.absolute_timeout)
        await visit.commit()
        cards.append(visit.card)
        here.clock.advance(1)
    here.clock.advance(0.5 * here.life.config.absolute_timeout)
    visit = await here.arrive(cards[0])
    visit.session.get("x")
    await visit.commit()
    one, other = await here.sessions.of(42)
    assert one.handle == visit.session.handle
    assert one.last_used_at.timestamp() == here.clock()
    assert one.expires_at == one.created_at + dt.timedelta(seconds=here.life.config.absolute_timeout)
    assert other.last_used_at.timestamp() == START + 1
    await here.log_in(42)
    assert [await here.who(card) for card in cards] == [42, None]


async def test_the_limit_leaves_as_many_as_it_says():
    """Two log-ins that look at different moments, while another session is used and rotates: not all of them end."""
    clock = Clock(START)
    store = MemoryStore(clock=clock)
    here = World(store, clock, max_sessions_per_user=1)
    card = await here.log_in(7)
    clock.advance(100)
    used, *logging_in = [await here.arrive(each) for each in (card, None, None)]
    list_of, gates = store.of_user, []

    async def of_user(user):
        for _ in range(2):  # once before and once after it has looked
            gates.append(asyncio.Event())
            await gates[-1].wait()
            found = await list_of(user)
        return found

    async def step():
        for _ in range(30):
            await asyncio.sleep(0)

    store.of_user = of_user
    tasks = []
    for visit in logging_in:
        visit.session["user_id"] = 7
        tasks.append(asyncio.create_task(visit.commit()))
        await step()
        gates[0].set()
        await step()
        clock.advance(1)
    used.session.rotate()
    await used.commit()
    while not all(task.done() for task in tasks):
        for gate in gates:
            gate.set()
        await step()
    assert len(await list_of("7")) == 1


async def test_the_limit_is_exact_under_concurrent_log_ins(world):
    """Fifty log-ins at once leave exactly as many sessions as are allowed."""
    here = world(max_sessions_per_user=3)
    cards = await asyncio.gather(*(here.log_in(42) for _ in range(50)))
    assert len(await here.sessions.of(42)) == 3
    assert sum([await here.who(card) == 42 for card in cards]) == 3


_LOG_IN = """
import asyncio, sys
from roomkey import SessionConfig
from roomkey.stores.sqlite import worker
from tests.asgi import ask, http_scope
from tests.driver import Driver

worker._PATIENCE = HANGS
life = Driver(SessionConfig(secret_key=sys.argv[2], store=f"sqlite:///{sys.argv[1]}", max_sessions_per_user=3,
                               store_timeout=HANGS))

async def log_in():
    visit = life.anonymous()
    visit.session["user_id"] = 42
    await visit.commit()

async def main():
    await asyncio.gather(*(log_in() for _ in range(20)))
    await life.store.close()

asyncio.run(main())
""".replace("HANGS", str(HANGS))


def test_the_limit_is_exact_across_processes():
    """Four processes that log the same user in at once leave exactly as many sessions as are allowed."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "s.db"
        command = [sys.executable, "-c", _LOG_IN, str(path), SECRET]
        running = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(4)]
        for process in running:
            _, errors = process.communicate(timeout=HANGS)
            assert process.returncode == 0, errors.decode()

        async def count():
            store = SQLiteStore(path)
            found = await store.of_user("42")
            await store.close()
            return len(found)

        assert asyncio.run(count()) == 3


class _NoIndex:
    """A store with the six operations and nothing else."""

    def __init__(self):
        inner = MemoryStore()
        for name in ("load", "create", "update", "rotate", "touch", "delete"):
            setattr(self, name, getattr(inner, name))


async def test_a_store_without_an_index_says_so():
    """Listing, limiting and ending everything need a store that can; the error says what cannot."""
    sessions = Sessions(SessionConfig(secret_key=SECRET, store=_NoIndex()))
    for asked in (sessions.of(42), sessions.revoke_all(42)):
        with pytest.raises(ConfigurationError, match="_NoIndex cannot find a user's sessions"):
            await asked
    with pytest.raises(ConfigurationError, match="secret_key"):
        await sessions.end_all()
    with pytest.raises(ConfigurationError, match=r"^max_sessions_per_user: "):
        SessionConfig(secret_key=SECRET, store=_NoIndex(), max_sessions_per_user=2)


@pytest.mark.parametrize("value", [0, -1, 1.5, "3", True])
def test_a_wrong_limit_is_refused(value):
    """The limit is a whole number above 0."""
    with pytest.raises(ConfigurationError, match=r"^max_sessions_per_user: "):
        SessionConfig(secret_key=SECRET, store="memory://", max_sessions_per_user=value)


def test_a_limit_needs_a_user_key():
    """Without a `user_key` nobody knows whose sessions to count."""
    with pytest.raises(ConfigurationError, match="user_key"):
        SessionConfig(secret_key=SECRET, store="memory://", max_sessions_per_user=1, user_key=None)


async def test_a_store_that_lies_shows_nobody_anothers_session():
    """Records of other users, tombstones and expired ones in a store's answer are left out."""

    class Lies(MemoryStore):
        async def of_user(self, user):
            return [*await MemoryStore.of_user(self, "42"), *await MemoryStore.of_user(self, "43")]

    here = World(Lies(clock=Clock(START)), Clock(START))
    await here.log_in(42)
    await here.log_in(43)
    assert [info.user for info in await here.sessions.of(42)] == ["42"]


async def test_a_user_agent_that_is_no_text():
    """A row that others wrote may hold anything: the list shows nothing of the client, and does not fail."""
    store = MemoryStore()
    manager = SessionManager(secret_key="k" * 43, store=store)
    session = await manager.load(Request())
    session["user_id"] = 42
    await manager.commit(session)
    ((key, record),) = store._records.items()
    for about in (b"bytes", 7, None, b"\xc1", b"\x81\xa1a\x07", b"\x81\x07\xa1a"):
        store._records[key] = dataclasses.replace(record, about=about)
        (info,) = await manager.sessions.of(42)
        assert info.user_agent is None


@pytest.mark.parametrize("store", ["memory", "sqlite", "cookie"])
async def test_flash_messages_never_fill_the_session(store, tmp_path):
    """The oldest ones go where the session would be larger than `max_bytes`, also in a plain save and in a log-in."""
    stores = {"memory": MemoryStore, "sqlite": lambda: SQLiteStore(tmp_path / "s.db"), "cookie": lambda: "cookie://"}
    manager = SessionManager(secret_key="k" * 43, store=stores[store](), max_bytes=2400, user_key="user")
    card = None

    async def ask(act):
        nonlocal card
        session = await manager.load(Request(headers=[("Cookie", card)] if card else []))
        answer = act(session)
        answer = await answer if asyncio.iscoroutine(answer) else answer
        headers = await manager.commit(session)
        card = next((value.split(";")[0] for name, value in headers if name == "set-cookie"), card)
        return answer

    for number in range(20):
        await ask(lambda session, number=number: session.flash(f"{number}: {'m' * 200}"))
    await ask(lambda session: session.update(cart="x" * 600))
    await ask(lambda session: session.update(user=7))
    await ask(lambda session: session.flash("the newest" + "m" * 200))
    shown = [message.rstrip("m") for _, message in await ask(lambda session: session.flashes())]
    assert 5 < len(shown) < 12 and shown[-2:] == ["19: ", "the newest"]
    with pytest.raises(SessionDataError, match="max_bytes"):
        await ask(lambda session: session.update(cart="x" * 4000))
    if store == "sqlite":
        await manager.config.store.close()
