"""`clear_site_data`: the response to a log-out has the browser forget what it keeps of the site."""

import flask
import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from roomkey import ConfigurationError, SessionConfig, SessionManager, SessionMiddleware
from roomkey.errors import StoreUnavailable
from roomkey.flask import Roomkey
from tests.world import CountingStore

SECRET = "a secret that is long enough for every test here"
KINDS = ["cache", "storage"]
SAID = '"cache", "storage"'


def manager_of(store="memory://", **options):
    return SessionManager(secret_key=SECRET, store=store, **{"clear_site_data": KINDS, **options})


async def ask(manager, cookie, act, **more):
    """Send a request; return the headers of the response as a dict, with the last value of each name."""
    session = await manager.load(cookie)
    act(session)
    return dict(await manager.commit(session, **more))


async def begin(manager, **content):
    """Return the cookie of a new session."""
    headers = await ask(manager, None, lambda session: session.update(content))
    assert "clear-site-data" not in headers
    return headers["set-cookie"].split(";")[0]


STORES = ["memory://", "cookie://", "sqlite"]


@pytest.fixture(params=STORES)
def manager(request, tmp_path):
    store = f"sqlite:///{tmp_path / 'sessions.db'}" if request.param == "sqlite" else request.param
    return manager_of(store)


LOG_OUTS = {
    "clear": lambda session: session.clear(),
    "invalidate": lambda session: session.invalidate(),
    "a message after it": lambda session: (session.clear(), session.flash("Bye")),
    "the user taken out": lambda session: session.pop("user_id"),
    "another user after invalidate": lambda session: (session.invalidate(), session.update(user_id=8)),
}


@pytest.mark.parametrize("act", LOG_OUTS.values(), ids=LOG_OUTS)
async def test_a_log_out(manager, act):
    """Its response says what to forget, and no cache keeps it."""
    cookie = await begin(manager, user_id=7, cart=1)
    headers = await ask(manager, cookie, act)
    assert headers["clear-site-data"] == SAID and "no-store" in headers["cache-control"]


@pytest.mark.parametrize("user_id", [7, None])
@pytest.mark.parametrize(
    "act",
    [
        lambda session: session.get("cart"),
        lambda session: session.update(cart=2),
        lambda session: session.rotate(),
        lambda session: session.update(user_id=8),
    ],
)
async def test_what_is_no_log_out(manager, user_id, act):
    """Nothing is forgotten."""
    cookie = await begin(manager, user_id=user_id, cart=1)
    assert "clear-site-data" not in await ask(manager, cookie, act)


async def test_a_visitors_session(manager):
    """It is nobody's, and its end is no user's log-out. Without a `user_key` anybody may have been logged in."""
    cookie = await begin(manager, cart=1)
    assert "clear-site-data" not in await ask(manager, cookie, lambda session: session.clear())
    assert "clear-site-data" not in await ask(manager, None, lambda session: session.clear())
    manager = manager_of(user_key=None)
    cookie = await begin(manager, cart=1)
    assert (await ask(manager, cookie, lambda session: session.clear()))["clear-site-data"] == SAID


async def test_without_the_option():
    """It is off by default."""
    manager = manager_of(clear_site_data=())
    cookie = await begin(manager, user_id=7)
    assert "clear-site-data" not in await ask(manager, cookie, lambda session: session.clear())


async def test_a_log_out_that_is_saved_early():
    """The response to the request says it, once."""
    manager = manager_of()
    cookie = await begin(manager, user_id=7)
    session = await manager.load(cookie)
    session.clear()
    await session.save()
    assert dict(await manager.commit(session))["clear-site-data"] == SAID
    assert "clear-site-data" not in dict(await manager.commit(session))


async def test_a_session_that_another_request_has_ended():
    """To log out of it says the same: the browser may have kept as much."""
    manager = manager_of()
    cookie = await begin(manager, user_id=7)
    session = await manager.load(cookie)
    await manager.sessions.revoke_all(7)
    session.clear()
    assert dict(await manager.commit(session))["clear-site-data"] == SAID


async def test_a_log_out_that_failed():
    """A store that does not answer has logged nobody out, and nothing is forgotten."""

    class Silent(CountingStore):
        async def update(self, key, record, *, version):
            raise OSError

    manager = manager_of(Silent())
    cookie = await begin(manager, user_id=7)
    session = await manager.load(cookie)
    session.clear()
    with pytest.raises(StoreUnavailable):
        await manager.commit(session)
    assert "clear-site-data" not in dict(await manager.commit(session, status=503))


async def test_beside_what_the_app_says():
    """What the app has the browser forget stays."""
    manager = manager_of()
    cookie = await begin(manager, user_id=7)
    given = [("Clear-Site-Data", '"clientHints"')]
    headers = await ask(manager, cookie, lambda session: session.clear(), headers=given)
    assert headers["Clear-Site-Data"] == f'"clientHints", {SAID}'


async def test_with_a_card_in_a_header():
    """A page whose scripts keep the card says it too."""
    manager = manager_of(card_header="X-Auth-Token")
    headers = await ask(manager, None, lambda session: session.update(user_id=7))
    headers = await ask(manager, headers["x-auth-token"], lambda session: session.clear())
    assert headers["clear-site-data"] == SAID and headers["x-auth-token"] == ""


@pytest.mark.parametrize("given", ["cache", True, None, ["cash"], ["cache", 5], {"cache"}], ids=repr)
def test_what_the_option_does_not_take(given):
    """It is an error that says what it takes."""
    with pytest.raises(ConfigurationError, match=r"clear_site_data: got .* it takes a list of 'cache', 'storage'"):
        SessionConfig(secret_key=SECRET, store="memory://", clear_site_data=given)


@pytest.mark.parametrize("kind", ["cookies", "*"])
def test_cookies_are_refused(kind):
    """The reason is in the error."""
    with pytest.raises(ConfigurationError, match="takes every cookie of the site and its subdomains"):
        SessionConfig(secret_key=SECRET, store="memory://", clear_site_data=["cache", kind])


def test_the_option_from_the_environment(monkeypatch):
    """It is a JSON list there."""
    monkeypatch.setenv("ROOMKEY_CLEAR_SITE_DATA", '["cache", "storage"]')
    assert SessionConfig.from_env(secret_key=SECRET, store="memory://").clear_site_data == ("cache", "storage")


def test_over_starlette():
    """Log in, look, log out."""

    async def act(request):
        path = request.path_params["path"]
        if path == "login":
            request.session["user_id"] = 7
        elif path == "logout":
            request.session.clear()
        return JSONResponse(dict(request.session))

    app = Starlette(routes=[Route("/{path}", act)])
    app.add_middleware(SessionMiddleware, config=manager_of())
    client = TestClient(app)
    said = [client.get(f"/{path}").headers.get("Clear-Site-Data") for path in ("login", "me", "logout", "logout")]
    assert said == [None, None, SAID, None]


def test_over_flask():
    """The same, where the app says something itself."""
    app = flask.Flask(__name__)
    app.secret_key = SECRET
    app.config["ROOMKEY_CLEAR_SITE_DATA"] = KINDS
    Roomkey(app, store="memory://")

    @app.get("/<path>")
    def act(path):
        if path == "login":
            flask.session["user_id"] = 7
        elif path == "logout":
            flask.session.clear()
        return dict(flask.session)

    client = app.test_client()
    said = [client.get(f"/{path}").headers.get("Clear-Site-Data") for path in ("login", "me", "logout", "logout")]
    assert said == [None, None, SAID, None]
