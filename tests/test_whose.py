"""Where a session says whose it is: a key, a path into dicts, several of them, or a function of the session."""

import functools

import flask
import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from roomkey import ConfigurationError, SessionConfig, SessionDataError, SessionManager, SessionMiddleware
from roomkey.core.reply import Cookie
from roomkey.core.tombstones import Kind
from roomkey.csrf import csrf_token, verify_csrf_token
from roomkey.flask import Roomkey
from roomkey.web.guards import DoesNotPass, logged_in
from tests.world import World

SECRET = "a secret that is long enough for every test here"
SEVERAL = ("user_id", "_auth_user_id", "_user_id")


def of_claims(session):
    """Return the user that an app of a test finds."""
    return session.get("claims", {}).get("sub")


async def commits(world, card, act):
    """Send a request; return it, answered."""
    visit = await world.arrive(card)
    act(visit.session)
    await visit.commit()
    return visit


# --- paths ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("user_key", ["user.sub", ["user.sub"], lambda session: session.get("user", {}).get("sub")])
async def test_a_user_in_a_dict_logs_in(user_key):
    """A dict with the user's ID, as of Authlib's examples, gives a new ID, and files the session under that user."""
    world = World(user_key=user_key)
    card = await world.begin(cart=[1])
    visit = await commits(world, card, lambda session: session.update(user={"sub": 7, "name": "Ann"}))
    assert visit.cookie is Cookie.GIVE and visit.record.user == "7"
    assert world.store.asked == {"load": 1, "rotate": 1}
    assert visit.session.authenticated_at is not None
    assert await world.data(card) is None
    assert await world.data(visit.card) == {"cart": [1], "user": {"sub": 7, "name": "Ann"}}
    assert len(await world.life.manager.sessions.of(7)) == 1


@pytest.mark.parametrize(
    "user_key", ["user.sub", lambda session: session["user"]["sub"] if "user" in session else None]
)
async def test_another_user_written_into_that_dict(user_key):
    """A change in place is a log-in too. What else the user before had is left behind, and the dict is not."""
    world = World(user_key=user_key)
    card = await world.begin(user={"sub": 7}, cart=[1])
    visit = await commits(world, card, lambda session: session["user"].update(sub=8))
    assert visit.cookie is Cookie.GIVE and visit.record.user == "8"
    assert await world.data(card) is None and await world.data(visit.card) == {"user": {"sub": 8}}


async def test_a_value_beside_the_id_is_no_log_in():
    """What else is in that dict may change."""
    world = World(user_key="user.sub")
    card = await world.begin(user={"sub": 7, "name": "Ann"})
    visit = await commits(world, card, lambda session: session["user"].update(name="Anna"))
    assert visit.cookie is Cookie.KEEP and await world.data(card) == {"user": {"sub": 7, "name": "Anna"}}


@pytest.mark.parametrize(
    "act", [lambda s: s.pop("user"), lambda s: s["user"].pop("sub"), lambda s: s.update(user=None)]
)
async def test_nobody_is_left_in_that_dict(act):
    """That leaves the session with nobody logged in, under a new ID."""
    world = World(user_key="user.sub")
    card = await world.begin(user={"sub": 7}, cart=[1])
    visit = await commits(world, card, act)
    assert visit.record.user is None and visit.card != card and await world.data(card) is None


@pytest.mark.parametrize("value", ["Ann", ["sub"], {"id": 7}, {}, 7])
async def test_a_path_that_leads_nowhere_is_nobody(value):
    """A value that is no dict, or has not that key, is no user."""
    world = World(user_key="user.sub")
    card = await world.begin(user=value)
    visit = await world.arrive(card)
    assert visit.record.user is None and visit.session.authenticated_at is None


async def test_a_key_with_a_dot():
    """A session that has a key of just that name has the user there, and the path does not count."""
    world = World(user_key="user.sub")
    card = await world.begin(**{"user.sub": 7, "user": {"sub": 8}})
    visit = await commits(world, card, lambda session: session["user"].update(sub=9))
    assert visit.record.user == "7" and visit.cookie is Cookie.KEEP
    visit = await commits(world, card, lambda session: session.update({"user.sub": 8}))
    assert visit.record.user == "8" and visit.cookie is Cookie.GIVE


async def test_what_is_no_id_at_the_end_of_a_path():
    """The error names the way to it, and none of its content."""
    world = World(user_key="user.sub")
    card = await world.begin(x=1)
    visit = await world.arrive(card)
    visit.session["user"] = {"sub": ["secret"]}
    with pytest.raises(SessionDataError, match=r"session\['user'\]\['sub'\] is of type list") as caught:
        await visit.commit()
    assert "secret" not in str(caught.value)


# --- several ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", SEVERAL)
async def test_each_of_several_keys_logs_in(key):
    """Whichever of them an app or a library sets, its value is the user."""
    world = World(user_key=SEVERAL)
    card = await world.begin(cart=1)
    visit = await commits(world, card, lambda session: session.update({key: 7}))
    assert visit.record.user == "7" and visit.cookie is Cookie.GIVE and await world.data(card) is None


@pytest.mark.parametrize(("old", "new"), [(None, 8), (8, 9)])
async def test_a_further_key_is_a_log_in(old, new):
    """The session stays the first user's, with all that is in it, and its ID and the moment of the log-in change."""
    world = World(user_key=SEVERAL)
    card = await world.begin(user_id=7, cart=1, **({} if old is None else {"_user_id": old}))
    world.clock.advance(100)
    visit = await world.arrive(card)
    before = visit.session.authenticated_at
    visit.session["_user_id"] = new
    assert (visit.session.authenticated_at - before).total_seconds() == 100
    old_key = visit.key
    await visit.commit()
    assert (visit.session.authenticated_at - before).total_seconds() == 100
    assert visit.record.user == "7" and visit.cookie is Cookie.GIVE and await world.data(card) is None
    assert (await world.store.load(old_key)).data[0] == Kind.REAUTHENTICATED
    assert (await world.data(visit.card))["cart"] == 1


async def test_one_of_several_users_leaves():
    """That gives a new ID, and is no log-in. The first of those who stay is the user."""
    world = World(user_key=SEVERAL)
    card = await world.begin(user_id=7, _user_id=8, cart=1)
    world.clock.advance(100)
    visit = await commits(world, card, lambda session: session.pop("_user_id"))
    assert visit.record.user == "7" and visit.card != card
    assert (world.clock() - visit.session.authenticated_at.timestamp()) == 100
    card = (await commits(world, visit.card, lambda session: session.update(_user_id=8))).card
    visit = await commits(world, card, lambda session: session.pop("user_id"))
    assert visit.record.user == "8" and await world.data(card) is None
    assert await world.data(visit.card) == {"_user_id": 8}  # what user 7 had is not for user 8
    visit = await commits(world, visit.card, lambda session: session.clear())
    assert visit.cookie is Cookie.CLEAR


async def test_the_user_before_stays_under_no_other_key():
    """Where another user logs in under one key, those who were under the others are not carried along."""
    world = World(user_key=SEVERAL)
    card = await world.begin(user_id=7, _user_id=7)
    visit = await commits(world, card, lambda session: session.update(user_id=8))
    assert await world.data(visit.card) == {"user_id": 8}


async def test_one_user_under_several_keys():
    """An ID and its text are one user: to write one for the other is no log-in."""
    world = World(user_key=SEVERAL)
    card = await world.begin(user_id=7, _user_id="8")
    visit = await commits(world, card, lambda session: session.update(_user_id=8))
    assert visit.cookie is Cookie.KEEP and world.store.asked == {"load": 1, "update": 1}


async def test_a_further_log_in_while_another_request_saves():
    """Both keep what they did, and the ID changes."""
    world = World(user_key=SEVERAL)
    card = await world.begin(user_id=7)
    one, other = await world.two(card)
    other.session["cart"] = 1
    await other.commit()
    one.session["_user_id"] = 8
    await one.commit()
    assert one.cookie is Cookie.GIVE and await world.data(card) is None
    assert await world.data(one.card) == {"user_id": 7, "_user_id": 8, "cart": 1}


# --- functions --------------------------------------------------------------------------------------------------------


async def test_a_function_that_reads_several_keys():
    """All that it looked up by name goes along to another user."""

    def of_tenant(session):
        return f"{session['tenant']}/{session['uid']}" if "uid" in session else None

    world = World(user_key=of_tenant)
    card = await world.begin(tenant="acme", uid=7, cart=1)
    assert (await world.arrive(card)).record.user == "acme/7"
    visit = await commits(world, card, lambda session: session.update(uid=8))
    assert visit.record.user == "acme/8" and await world.data(visit.card) == {"tenant": "acme", "uid": 8}


async def test_a_function_that_finds_another_user_in_less():
    """One that goes through all values may find somebody else in what is kept for a new user: nothing is saved."""
    world = World(user_key=lambda session: sum(v for v in session.values() if isinstance(v, int)) or None)
    card = await world.begin(a=7)
    visit = await world.arrive(card)
    visit.session["b"] = 1
    with pytest.raises(SessionDataError, match="look keys up by their names"):
        await visit.commit()
    assert await world.data(card) == {"a": 7}


def no_dict(session):
    return session["claims"]["sub"] if "claims" in session else None


async def test_a_function_that_raises_saves_nothing():
    """The error says which function, where, and what it raised, and shows nothing of the session."""
    world = World(user_key=no_dict)
    card = await world.begin(x=1)
    visit = await world.arrive(card)
    visit.session["claims"] = {"name": "secret"}
    with pytest.raises(
        SessionDataError, match=r"the function no_dict raised KeyError \(.*test_whose.py, line"
    ) as caught:
        await visit.commit()
    assert "secret" not in str(caught.value) and caught.value.__cause__ is None
    assert await world.data(card) == {"x": 1}


@pytest.mark.parametrize("store", [None, "cookie://"])
async def test_a_function_that_raises_for_what_is_stored(store, caplog):
    """Nobody knows whose that session is: it counts as damaged, the log says so once, and the request is anonymous."""
    options = {"secret_key": SECRET, "store": store or World().store}
    with_all = SessionManager(**options, user_key="x.y")
    session = await with_all.load()
    session["claims"] = {}
    headers = await with_all.commit(session)
    cookie = dict(headers)["set-cookie"].split(";")[0]
    manager = SessionManager(**options, user_key=no_dict)
    for _ in range(2):
        session = await manager.load(cookie)
        assert session.is_new and not session
    assert manager.refused == {"damaged": 2}
    (line,) = [record.getMessage() for record in caplog.records if "whose they are" in record.getMessage()]
    assert "no_dict raised KeyError" in line


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda session: session["user"]["sub"], "raised KeyError for an empty session; it returns None"),
        (lambda session: "ann", "named a user for an empty session"),
        (lambda session: object(), "named a user for an empty session"),
    ],
)
def test_a_function_that_finds_somebody_in_an_empty_session(function, says):
    """It is refused when the configuration is made."""
    with pytest.raises(ConfigurationError, match=f"user_key: the function .*{says}"):
        SessionConfig(secret_key=SECRET, store="memory://", user_key=function)


def test_a_function_that_is_asynchronous():
    """Nothing could await it."""

    async def find(session):
        return None

    with pytest.raises(ConfigurationError, match=r"user_key: .*find is asynchronous"):
        SessionConfig(secret_key=SECRET, store="memory://", user_key=find)


async def test_a_function_that_returns_no_id():
    """The error names the function and the type."""
    world = World(user_key=functools.partial(lambda key, session: session.get(key), "uid"))
    card = await world.begin(x=1)
    visit = await world.arrive(card)
    visit.session["uid"] = 1.5
    with pytest.raises(SessionDataError, match="what the function partial of user_key returned is of type float"):
        await visit.commit()


# --- the option -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("user_key", ["", 5, b"user", (), [], ["a", ""], ["a", 5], {"a"}, {"a": 1}], ids=repr)
def test_what_the_option_does_not_take(user_key):
    """It is an error that says what it takes."""
    with pytest.raises(ConfigurationError, match=r"user_key: got .* it takes a session key such as 'user_id', a path"):
        SessionConfig(secret_key=SECRET, store="memory://", user_key=user_key)


def test_a_key_that_is_there_twice():
    """It is a slip of the pen."""
    with pytest.raises(ConfigurationError, match="a key is there twice"):
        SessionConfig(secret_key=SECRET, store="memory://", user_key=["a", "b", "a"])


@pytest.mark.parametrize(
    ("text", "user_key"),
    [
        ("user.sub", "user.sub"),
        ("user_id, _auth_user_id", ("user_id", "_auth_user_id")),
        ('["a,b", "c"]', ("a,b", "c")),
        ("none", None),
    ],
)
def test_the_option_from_the_environment(monkeypatch, text, user_key):
    """Several keys have commas between them, or are a JSON list."""
    monkeypatch.setenv("ROOMKEY_USER_KEY", text)
    assert SessionConfig.from_env(secret_key=SECRET, store="memory://").user_key == user_key


@pytest.mark.parametrize("text", ["a,,b", ",", "[5]", "[]", "["])
def test_a_wrong_text_in_the_environment(monkeypatch, text):
    """It is an error that names the variable."""
    monkeypatch.setenv("ROOMKEY_USER_KEY", text)
    with pytest.raises(ConfigurationError, match="ROOMKEY_USER_KEY: got"):
        SessionConfig.from_env(secret_key=SECRET, store="memory://")


# --- who else asks whose a session is ---------------------------------------------------------------------------------

FINDERS = {"path": "claims.sub", "several": ("user_id", "claims.sub"), "function": of_claims}


@pytest.mark.parametrize("user_key", FINDERS.values(), ids=FINDERS)
async def test_guards_and_tokens_find_the_user(user_key):
    """A guard lets the user pass, and a CSRF token from before the log-in is worth nothing."""
    manager = SessionManager(secret_key=SECRET, store="memory://", user_key=user_key)
    session = await manager.load()
    with pytest.raises(DoesNotPass):
        logged_in(session, "a test")
    token = csrf_token(session)
    session["claims"] = {"sub": 7}
    assert logged_in(session, "a test") == 7
    assert not verify_csrf_token(session, token) and verify_csrf_token(session, csrf_token(session))


def test_tokens_of_another_librarys_session():
    """There `user_key` says the same as for Roomkey's."""
    session = {"claims": {"sub": 7}}
    for user_key in FINDERS.values():
        assert verify_csrf_token(session, csrf_token(session, user_key=user_key), user_key=user_key)
    assert session["_csrf"][0] == "7"


@pytest.mark.parametrize("user_key", FINDERS.values(), ids=FINDERS)
def test_over_starlette(user_key):
    """A log-in rotates, is in the list, and is ended by its user's name."""

    async def login(request):
        request.session["claims"] = {"sub": request.path_params["user"]}
        return JSONResponse({})

    async def me(request):
        return JSONResponse(dict(request.session))

    manager = SessionManager(secret_key=SECRET, store="memory://", user_key=user_key)
    app = Starlette(routes=[Route("/login/{user}", login), Route("/", me)])
    app.add_middleware(SessionMiddleware, config=manager)
    client = TestClient(app)
    client.get("/login/ann")
    first = client.cookies["session"]
    client.get("/login/ben")
    assert client.cookies["session"] != first and client.get("/").json() == {"claims": {"sub": "ben"}}
    assert TestClient(app, cookies={"session": first}).get("/").json() == {}
    sessions = manager.sync.sessions
    assert sessions.revoke_all("ann") == 0 and sessions.revoke_all("ben") == 1
    assert client.get("/").json() == {}


@pytest.mark.parametrize("user_key", FINDERS.values(), ids=FINDERS)
def test_over_flask(user_key):
    """The same, and a permanent session lives for as long as the app says, from its log-in on."""
    app = flask.Flask(__name__)
    app.secret_key = SECRET
    app.config["PERMANENT_SESSION_LIFETIME"] = 100
    roomkey = Roomkey(app, store="memory://", user_key=user_key)

    @app.get("/login/<user>")
    def login(user):
        flask.session.permanent = True
        flask.session["claims"] = {"sub": user}
        return ""

    @app.get("/")
    def me():
        return dict(flask.session)

    client = app.test_client()
    for user in ("ann", "ben"):
        answer = client.get(f"/login/{user}")
        assert "Max-Age=100" in answer.headers["Set-Cookie"]
    assert client.get("/").json == {"_permanent": True, "claims": {"sub": "ben"}}
    assert roomkey.manager.sync.sessions.revoke_all("ben") == 1
    assert "claims" not in client.get("/").json


def test_a_request_that_puts_the_user_in():
    """Django's and Flask's lifetimes ask that: an assignment counts, and so does a change in place."""
    rules = SessionManager(secret_key=SECRET, store="memory://", user_key="user.sub").registry.rules
    assert rules.puts_user({"user": {"sub": 7}}, {"user"}, "7")
    assert rules.puts_user({"user": {"sub": 7}}, set(), "8") and not rules.puts_user({"user": {"sub": 7}}, set(), "7")
