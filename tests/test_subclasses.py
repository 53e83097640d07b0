"""Values of subclasses in sessions: what is filed, compared and merged, and what decides a rotation, is their kind."""

import collections
import enum
import tempfile
from uuid import UUID

import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from roomkey import SessionDataError, SessionMiddleware
from roomkey.csrf import csrf_token, verify_csrf_token
from roomkey.errors import StoreUnavailable
from tests.core.counting import CountedAtOnce, CountedStore
from tests.world import START, World


class Role(str, enum.Enum):  # noqa: UP042 - as many apps have it: `str(Role.ADMIN)` is not its value
    ADMIN = "admin"


class Number(enum.IntEnum):
    SEVEN = 7


class Id(UUID):
    def __str__(self):
        return "not what is filed"


def over(store, **options):
    """Return a world over a store of this class."""
    return World(store=store(clock=lambda: START), **options)


STORES = [CountedStore, CountedAtOnce]
USERS = [(Role.ADMIN, "admin"), (Number.SEVEN, 7), (Id(int=5), UUID(int=5))]


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize(("user", "plain"), USERS, ids=["(str, Enum)", "IntEnum", "UUID"])
async def test_a_user_is_filed_under_the_value(user, plain, store):
    """The session is filed under the plain ID's text, found by either, and the next request has the plain ID."""
    world = over(store)
    card = await world.begin(x=1)
    visit = await world.arrive(card)
    visit.session["user_id"] = user
    token = csrf_token(visit.session)
    await visit.commit()
    assert visit.record.user == str(plain)
    again = await world.arrive(visit.card)
    found = again.session["user_id"]
    assert found == plain and type(found) is type(plain)
    assert verify_csrf_token(again.session, token)
    for each in (user, plain, str(plain)):
        assert [info.user for info in await world.life.manager.sessions.of(each)] == [str(plain)]
    assert await world.life.manager.sessions.revoke(visit.session.handle, user=user)


@pytest.mark.parametrize(("user", "plain"), [*USERS, (1, "1"), ("1", 1), (UUID(int=5), str(UUID(int=5)))])
async def test_another_form_of_the_same_id_is_no_log_in(user, plain):
    """`1` and `"1"` are one user, and so are a UUID and its text: the ID stays, and so does all that is known of it."""
    world = World()
    card = await world.begin(user_id=plain, x=1)
    visit = await world.arrive(card)
    handle, logged_in = visit.session.handle, visit.session.authenticated_at
    visit.session["user_id"] = user
    world.clock.advance(1)
    await visit.commit()
    again = await world.arrive(card)
    assert (again.session.handle, again.session.authenticated_at) == (handle, logged_in)
    assert again.session["user_id"] == (plain if isinstance(user, enum.Enum | Id) else user)
    assert "rotate" not in world.store.asked
    assert len(await world.life.manager.sessions.of(user)) == len(await world.life.manager.sessions.of(plain)) == 1


VALUES = {
    "(str, Enum)": (Role.ADMIN, "admin"),
    "Counter": (collections.Counter("aab"), {"a": 2, "b": 1}),
    "inside": ([Role.ADMIN], ["admin"]),
}


@pytest.mark.parametrize(("value", "plain"), VALUES.values(), ids=VALUES)
async def test_an_equal_value_is_no_change(value, plain):
    """What is put over its plain copy is not saved, and another request's change of the key stays."""
    world = World()
    card = await world.begin(v=plain)
    visit = await world.arrive(card)
    visit.session["v"] = value
    assert not visit.session.modified
    await visit.commit()
    assert "update" not in world.store.asked
    first, second = await world.two(card)
    first.session["v"] = "new"
    await first.commit()
    second.session["v"], second.session["x"] = value, 1
    await second.commit()
    assert await world.data(card) == {"v": "new", "x": 1}


@pytest.mark.parametrize("store", STORES)
async def test_the_handler_keeps_its_own_object(store):
    """In the same request the session holds what was put in. What is done to it after a save is saved too."""
    world = over(store)
    card = await world.begin(x=1)
    visit = await world.arrive(card)
    visit.session["n"] = counts = collections.Counter("a")
    await visit.session.save()
    assert visit.session["n"] is counts
    counts["b"] += 1
    await visit.commit()
    assert await world.data(card) == {"x": 1, "n": {"a": 1, "b": 1}}


async def test_a_change_runs_on_the_plain_value_again():
    """`change()` that gave a value of a subclass runs again where another request saved first, and counts once."""
    world = World()
    card = await world.begin(n=Number.SEVEN)
    first, second = await world.two(card)
    for visit in (first, second):
        visit.session.change("n", lambda number: collections.Counter(n=(number["n"] if number != 7 else 0) + 1))
    await first.commit()
    await second.commit()
    assert await world.data(card) == {"n": {"n": 2}}


async def test_a_session_that_holds_itself_is_refused():
    """A session is a dict, and so it is kept as one inside another; not inside itself."""
    world = World()
    visit = await world.arrive(await world.begin(x=1))
    visit.session["me"] = visit.session
    with pytest.raises(SessionDataError, match="levels deep"):
        await visit.commit()


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("act", ["set", "begin", "log in", "save", "contend", "change"])
async def test_strict_types(store, act):
    """`strict_types=True` refuses a subclass on each way into the store, and nothing is saved."""
    world = over(store, strict_types=True)
    card = await world.begin(x=1)
    visit = world.life.anonymous() if act == "begin" else await world.arrive(card)
    if act == "contend":
        other = await world.arrive(card)
        other.session["y"] = 1
        await other.commit()
    before = world.live()
    if act == "change":
        visit.session.change("v", lambda _: Role.ADMIN, default=0)
    else:
        visit.session["user_id" if act == "log in" else "v"] = Role.ADMIN
    with pytest.raises(SessionDataError, match=r"a subclass of str, and strict_types is on; store its \.value"):
        await (visit.session.save() if act == "save" else visit.commit())
    assert world.live() == before


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("value", [bytearray(b"x"), [memoryview(b"x")]], ids=["bytearray", "memoryview"])
async def test_what_comes_back_as_something_else_is_refused_after_an_unsure_save(store, value):
    """Also where the save before it was not answered, so that the content is merged."""
    world = over(store)
    card = await world.begin(x=1)
    visit = await world.arrive(card)
    visit.session["y"] = 1

    async def unanswered(key, record, *, version):
        raise OSError("no answer")

    world.store.update = unanswered
    with pytest.raises(StoreUnavailable):
        await visit.session.save()
    del world.store.update
    visit.session["v"] = value
    with pytest.raises(SessionDataError, match=r"^session\['v'\]"):
        await visit.session.save()


# --- on a real app ----------------------------------------------------------------------------------------------------


def site(store, **options):
    """Return a site whose log-in puts Authlib's objects into the session, as Authlib's documentation has it."""
    authlib = pytest.importorskip("authlib.oauth2.rfc6749")
    oidc = pytest.importorskip("authlib.oidc.core")

    async def log_in(request):
        user = oidc.UserInfo(sub="1", name="Jane", email="jane@example.com")
        token = authlib.OAuth2Token({"access_token": "t", "token_type": "Bearer", "userinfo": user})
        request.session["user"] = token["userinfo"]
        request.session["token"] = token
        request.session["user_id"] = Role.ADMIN
        return JSONResponse({"name": request.session["user"].name})

    async def show(request):
        session = request.session
        return JSONResponse([session.get("user"), type(session.get("token")).__name__, session.get("user_id")])

    app = Starlette(routes=[Route("/", show), Route("/login", log_in)])
    app.add_middleware(SessionMiddleware, secret_key="k" * 32, store=store, **options)
    return app


@pytest.mark.parametrize("store", ["memory://", "sqlite", "cookie://"])
def test_authlibs_objects_in_a_session(store):
    """The log-in is answered, and the next request has the same as plain dicts."""
    with tempfile.TemporaryDirectory() as directory:
        url = f"sqlite:///{directory}/s.sqlite3" if store == "sqlite" else store
        with TestClient(site(url), base_url="https://testserver") as client:
            assert client.get("/login").json() == {"name": "Jane"}
            user = {"sub": "1", "name": "Jane", "email": "jane@example.com"}
            assert client.get("/").json() == [user, "dict", "admin"]
            assert "set-cookie" not in client.get("/").headers


def test_strict_types_on_a_real_app():
    """The log-in is refused before the response starts, and the error names the key, the type and the option."""
    app = site("memory://", strict_types=True)
    with TestClient(app, base_url="https://testserver") as client:
        with pytest.raises(
            SessionDataError, match=r"^session\['user'\] is of type authlib.*UserInfo, a subclass of dict"
        ):
            client.get("/login")
        assert client.get("/").json() == [None, "NoneType", None]
