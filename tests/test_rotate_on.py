"""`rotate_on`: a change of what a user may do changes the session's ID, and is no log-in."""

import asyncio

import flask
import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from roomkey import (
    ConfigurationError,
    ResponseStarted,
    SessionConfig,
    SessionManager,
    SessionMiddleware,
    StoreUnavailable,
)
from roomkey.core.reply import Cookie
from roomkey.core.tombstones import Kind
from roomkey.flask import Roomkey
from tests.core.test_unanswered import unanswered
from tests.world import World

SECRET = "a secret that is long enough for every test here"
ROTATE_ON = ["role", "user.mfa"]
USUAL = {"user_id": 7, "role": "reader", "user": {"name": "Ann", "mfa": False}, "cart": [1]}


def world_of(**options):
    return World(rotate_on=ROTATE_ON, **options)


CHANGES = {
    "assigned": lambda session: session.update(role="admin"),
    "in place": lambda session: session["user"].update(mfa=True),
    "by change": lambda session: session.change("role", lambda role: "admin"),
    "by change, in place": lambda session: session.change("user", lambda user: user | {"mfa": True}),
    "another type": lambda session: session["user"].update(mfa=0),
    "gone": lambda session: session.pop("role"),
    "gone from a dict": lambda session: session["user"].pop("mfa"),
    "None": lambda session: session.update(role=None),
    "a key of the path's name": lambda session: session.update({"user.mfa": True}),
    "with a grace": lambda session: (session.update(role="admin"), session.rotate(grace=30)),
}


@pytest.mark.parametrize("options", [{}, {"user_key": None}, {"seal": True}], ids=["plain", "no user", "sealed"])
@pytest.mark.parametrize("act", CHANGES.values(), ids=CHANGES)
async def test_a_change_of_rights(act, options):
    """The ID changes, and the old one dies at once. The moment of the log-in, both timeouts and the content stay."""
    world = world_of(**options)
    card = await world.begin(**USUAL)
    world.clock.advance(10)
    visit = await world.arrive(card)
    old, before = visit.key, (visit.session.authenticated_at, visit.session.created_at)
    act(visit.session)
    expires_at = visit.session.expires_at
    await visit.commit()
    assert world.store.asked == {"load": 1, "rotate": 1}
    assert visit.cookie is Cookie.GIVE and await world.data(card) is None
    left = await world.store.load(old)
    assert left.data[0] == Kind.CLOCK and left.serve_until == world.clock()
    assert (visit.session.authenticated_at, visit.session.created_at) == before
    assert visit.session.expires_at == expires_at
    assert (await world.data(visit.card))["cart"] == [1]


@pytest.mark.parametrize(
    "act",
    [
        lambda session: session.update(cart=[2]),
        lambda session: session["user"].update(name="Anna"),
        lambda session: session.update(role="reader"),
        lambda session: session.change("role", lambda role: role),
    ],
)
async def test_what_is_no_change_of_rights(act):
    """Other keys, and the value that was there before, leave the ID as it is."""
    world = world_of()
    card = await world.begin(**USUAL)
    visit = await world.arrive(card)
    act(visit.session)
    await visit.commit()
    assert visit.cookie is Cookie.KEEP and await world.data(card) is not None


@pytest.mark.parametrize("value", [None, False, 0, "", []])
async def test_a_value_that_appears(value):
    """Also one that says no is a change: the app knows what it means."""
    world = world_of()
    card = await world.begin(user_id=7)
    visit = await world.arrive(card)
    visit.session["role"] = value
    await visit.commit()
    assert visit.cookie is Cookie.GIVE and await world.data(card) is None


@pytest.mark.parametrize("act", CHANGES.values(), ids=CHANGES)
async def test_a_change_of_rights_that_lost_a_swap(act):
    """It is merged with what another request saved, under a new ID."""
    world = world_of()
    card = await world.begin(**USUAL)
    visit, other = await world.two(card)
    other.session["theme"] = "dark"
    await other.commit()
    act(visit.session)
    await visit.commit()
    assert visit.cookie is Cookie.GIVE and await world.data(card) is None
    assert (await world.data(visit.card))["theme"] == "dark"


async def test_a_function_that_changes_rights_only_on_what_others_saved():
    """What is stored before and after a save is compared, not what the request saw."""
    world = world_of()
    card = await world.begin(user_id=7, role=1)
    visit, other = await world.two(card)
    visit.session.change("role", lambda role: min(role, 5))
    visit.session["theme"] = "dark"
    other.session["role"] = 9
    await other.commit()
    await visit.commit()
    assert await world.data(card) is None and await world.data(other.card) is None
    assert await world.data(visit.card) == {"user_id": 7, "role": 5, "theme": "dark"}


async def test_requests_under_way_keep_their_changes():
    """A request that came with the old ID saves into the session all the same, and sends no cookie."""
    world = world_of()
    card = await world.begin(**USUAL)
    visit, other = await world.two(card)
    visit.session["role"] = "admin"
    await visit.commit()
    other.session["theme"] = "dark"
    await other.commit()
    assert other.cookie is Cookie.KEEP
    assert (await world.data(visit.card)) | {"cart": 0} == USUAL | {"role": "admin", "theme": "dark", "cart": 0}


async def test_a_log_out_is_one_all_the_same():
    """A session that ends gets no new ID, and one that a log-out leaves behind has one anyway."""
    world = world_of()
    card = await world.begin(**USUAL)
    visit = await world.arrive(card)
    visit.session.clear()
    await visit.commit()
    assert visit.cookie is Cookie.CLEAR and await world.data(card) is None


async def test_requests_that_wait_in_line_for_one_session():
    """One of many that are saved together changes a right: it is saved under a new ID, and all changes are kept."""
    world = world_of()
    card = await world.begin(user_id=7, role="reader")
    visits = [await world.arrive(card) for _ in range(8)]
    for number, visit in enumerate(visits):
        visit.session[f"key{number}"] = number
        if number == 4:
            visit.session["role"] = "admin"
    await asyncio.gather(*(visit.commit() for visit in visits))
    assert [visit.cookie for visit in visits].count(Cookie.GIVE) == 1 and visits[4].cookie is Cookie.GIVE
    assert await world.data(card) is None
    assert await world.data(visits[4].card) == {"user_id": 7, "role": "admin"} | {f"key{n}": n for n in range(8)}


async def test_no_cookie_can_go_out():
    """As for a log-in, nothing is saved."""
    world = world_of()
    card = await world.begin(**USUAL)
    visit = await world.arrive(card)
    visit.cookie_possible = False
    visit.session["role"] = "admin"
    with pytest.raises(ResponseStarted):
        await visit.commit()
    assert (await world.data(card))["role"] == "reader"


async def test_after_anothers_proof_the_id_stays():
    """Another request has changed the ID, for its user: this one may have come with a stolen card, and gets none."""
    world = world_of()
    card = await world.begin(**USUAL)
    visit, other = await world.two(card)
    world.clock.advance(1)
    other.session.reauthenticated()
    await other.commit()
    visit.session["role"] = "admin"
    await visit.commit()
    assert visit.cookie is Cookie.KEEP and await world.data(card) is None
    assert (await world.data(other.card))["role"] == "admin"


async def test_further_keys_of_the_user_beside_it():
    """A log-in under a further key is one, whatever rights change with it."""
    world = world_of(user_key=("user_id", "_user_id"))
    card = await world.begin(user_id=7, role="reader")
    world.clock.advance(10)
    visit = await world.arrive(card)
    visit.session.update(_user_id=8, role="admin")
    await visit.commit()
    assert visit.session.authenticated_at.timestamp() == world.clock() and await world.data(card) is None


@pytest.mark.parametrize("rotate_on", ["role", 5, None, [5], [""], {"role"}], ids=repr)
def test_what_the_option_does_not_take(rotate_on):
    """It is an error that says what it takes."""
    with pytest.raises(ConfigurationError, match=r"rotate_on: got .* it takes a list of session keys, or of paths"):
        SessionConfig(secret_key=SECRET, store="memory://", rotate_on=rotate_on)


def test_the_option_from_the_environment(monkeypatch):
    """It is a JSON list there."""
    monkeypatch.setenv("ROOMKEY_ROTATE_ON", '["role", "mfa"]')
    assert SessionConfig.from_env(secret_key=SECRET, store="memory://").rotate_on == ("role", "mfa")


@pytest.mark.parametrize("store", ["memory://", "sqlite", "cookie://"])
def test_over_starlette(store, tmp_path):
    """The browser gets the new ID, and a copy of the old cookie opens nothing (with `cookie://`: the old content)."""

    async def grant(request):
        request.session["role"] = request.path_params["role"]
        return JSONResponse({})

    async def me(request):
        return JSONResponse({**request.session, "handle": request.session.handle})

    path = f"sqlite:///{tmp_path / 'sessions.db'}" if store == "sqlite" else store
    manager = SessionManager(secret_key=SECRET, store=path, rotate_on=["role"])
    app = Starlette(routes=[Route("/grant/{role}", grant), Route("/", me)])
    app.add_middleware(SessionMiddleware, config=manager)
    client = TestClient(app)
    client.get("/grant/reader")
    old, first = client.cookies["session"], client.get("/").json()
    assert "set-cookie" not in client.get("/grant/reader").headers or store == "cookie://"
    client.get("/grant/admin")
    now = client.get("/").json()
    assert now["role"] == "admin" and now["handle"] != first["handle"] and client.cookies["session"] != old
    seen = TestClient(app, cookies={"session": old}).get("/").json()
    assert seen.get("role") == ("reader" if store == "cookie://" else None)


def test_over_flask():
    """The same."""
    app = flask.Flask(__name__)
    app.secret_key = SECRET
    app.config["ROOMKEY_ROTATE_ON"] = ["user.role"]
    Roomkey(app, store="memory://")

    @app.get("/grant/<role>")
    def grant(role):
        flask.session.setdefault("user", {"name": "Ann"})["role"] = role
        return ""

    @app.get("/")
    def me():
        return dict(flask.session)

    client, copy = app.test_client(), app.test_client()
    client.get("/grant/reader")
    old = client.get_cookie("session").value
    client.get("/grant/admin")
    assert client.get_cookie("session").value != old
    assert client.get("/").json == {"user": {"name": "Ann", "role": "admin"}}
    copy.set_cookie("session", old)
    assert copy.get("/").json == {}


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("others_save", [False, True])
async def test_a_change_of_rights_that_the_store_does_not_answer(done, others_save):
    """The next save finds out whether it was done. The ID changes once, and the browser gets the one that counts."""
    world = world_of(user_key=("user_id", "_user_id"))
    card = await world.begin(**USUAL)
    visit, other = await world.two(card)
    visit.session.update(role="admin", _user_id=8)
    unanswered(world.store, "rotate", done=done)
    with pytest.raises(StoreUnavailable):
        await visit.session.save()
    if others_save:
        other.session["theme"] = "dark"
        await other.commit()
    visit.session["cart"] = [2]
    await visit.commit()
    assert visit.cookie is Cookie.GIVE and await world.data(card) is None
    expected = USUAL | {"role": "admin", "_user_id": 8, "cart": [2]} | ({"theme": "dark"} if others_save else {})
    assert await world.data(visit.card) == expected
    assert len(await world.life.manager.sessions.of(7)) == 1
