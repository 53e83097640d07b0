"""A log-in that `user_key` does not see is in the log, once for each key."""

import flask
import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from roomkey import SessionDataError, SessionManager, SessionMiddleware
from roomkey.flask import Roomkey
from roomkey.wire.whose import LOG_INS
from tests.world import World

SECRET = "a secret that is long enough for every test here"


@pytest.fixture
def lines(caplog):
    """Return a function that returns what was logged of log-ins."""
    return lambda: [record.getMessage() for record in caplog.records if "finds nobody" in record.getMessage()]


async def ask(world, card, act):
    """Send a request; return the card that it leaves."""
    visit = await world.arrive(card)
    act(visit.session)
    await visit.commit()
    return visit.card or card


@pytest.mark.parametrize(
    ("key", "value", "option"),
    [
        ("_auth_user_id", 7, "set user_key='_auth_user_id'"),
        ("user", {"sub": "secret", "name": "secret"}, "set user_key='user.sub'"),
        ("user", {"name": "secret", "id": 7}, "set user_key='user.id'"),
        ("user", {"name": "secret"}, "set user_key to the place"),
        ("token", "secret", "set user_key to the place"),
        ("logged_in", True, "set user_key to the place"),
    ],
)
async def test_a_log_in_that_is_not_seen(lines, key, value, option):
    """The line has the option to set, and of the session nothing but the well-known key."""
    world = World()
    card = await world.begin(x=1)
    await ask(world, card, lambda session: session.update({key: value}))
    (line,) = lines()
    assert f"session[{key!r}] was put into a session in which user_key ('user_id') finds nobody" in line
    assert option in line and "secret" not in line and line.endswith("(said once)")


async def test_it_is_said_once_for_each_key(lines):
    """However often such log-ins come, in whatever session."""
    world = World(user_key="user.sub")
    for _ in range(3):
        card = await world.begin(token="t")
        await ask(world, card, lambda session: session.update(uid=7))
    assert len(lines()) == 2


@pytest.mark.parametrize(
    "act",
    [
        lambda session: session.update(user_id=7, token="t", user={"sub": 7}),
        lambda session: session.update(token=None, user={}),
        lambda session: session.update(cart=[1], name="Ann"),
        lambda session: session.get("token"),
        lambda session: session.update(token="t") or session.clear(),
    ],
    ids=["a user is there", "empty", "other keys", "a look", "emptied again"],
)
async def test_what_is_no_such_log_in(lines, act):
    """A session that has a user, and values that say nothing, are no reason to warn."""
    world = World()
    card = await world.begin(x=1)
    await ask(world, card, act)
    assert lines() == []


class NoTruth:
    """As numpy's arrays are: nobody can ask whether it is true."""

    def __bool__(self):
        raise ValueError("which of them?")


def test_a_value_of_which_nobody_can_tell_whether_it_is_true():
    """It is not asked. The error is that of any value that a session cannot keep."""

    async def login(request):
        request.session["user"] = NoTruth()
        return JSONResponse({})

    app = Starlette(routes=[Route("/", login)])
    app.add_middleware(SessionMiddleware, config=SessionManager(secret_key=SECRET, store="memory://"))
    with pytest.raises(SessionDataError, match="NoTruth"):
        TestClient(app).get("/")


@pytest.mark.parametrize("key", sorted(LOG_INS))
async def test_no_warning_without_a_user_key(lines, key):
    """Whoever gives `user_key=None` has said it."""
    world = World(user_key=None)
    await world.begin(**{key: 7})
    assert lines() == []


async def test_a_later_request_of_that_session_says_nothing(lines, caplog):
    """Only the request that puts the key in is looked at."""
    world = World()
    card = await world.begin(user="ann")
    assert len(lines()) == 1
    caplog.clear()
    other = World(store=world.store)
    await ask(other, card, lambda session: session.update(cart=1))
    assert lines() == []


@pytest.mark.parametrize("store", ["memory://", "sqlite", "cookie://"])
def test_over_starlette(lines, store, tmp_path):
    """A new session is looked at too, over every kind of store."""

    async def login(request):
        request.session["user"] = {"sub": "secret"}
        return JSONResponse({})

    app = Starlette(routes=[Route("/", login)])
    path = f"sqlite:///{tmp_path / 'sessions.db'}" if store == "sqlite" else store
    app.add_middleware(SessionMiddleware, config=SessionManager(secret_key=SECRET, store=path))
    for _ in range(2):
        TestClient(app).get("/")
    (line,) = lines()
    assert "set user_key='user.sub'" in line and "secret" not in line


def test_over_flask(lines):
    """Flask-Login's key, in an app that says no `user_key` for it."""
    app = flask.Flask(__name__)
    app.secret_key = SECRET
    Roomkey(app, store="memory://")

    @app.get("/")
    def login():
        flask.session["_user_id"] = "7"
        return ""

    app.test_client().get("/")
    (line,) = lines()
    assert "set user_key='_user_id'" in line
