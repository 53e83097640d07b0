"""Flask: its settings, `flask.session`, errors and outages. Streams and real servers have files of their own."""

import asyncio
import logging
import threading
from datetime import timedelta

import flask
import pytest

from roomkey import ConfigurationError, Session, StoreUnavailable
from roomkey.events import Created, Refused
from roomkey.flask import FlaskSession, Roomkey, session
from roomkey.stores.memory import MemoryStore
from roomkey.testing import Clock
from tests.flask_site import add_routes, asking, cookie, make_app, set_cookies
from tests.manager.parts import SECRET, WaitingStore

OTHER = "another secret that is long enough for every test"


# --- the life of a session --------------------------------------------------------------------------------------------


def test_the_life_of_a_session():
    """A visit sets no cookie, a write sets one, a log-in changes it, a log-out takes it back and kills its copy."""
    app, _ = make_app()
    client = app.test_client()
    answer = client.get("/")
    assert set_cookies(answer) == [] and answer.headers["Vary"] == "Cookie"
    assert "Vary" not in client.get("/nothing").headers
    answer = client.get("/count")
    assert len(set_cookies(answer)) == 1 and answer.headers["Cache-Control"] == "no-store"
    assert "Max-Age" not in set_cookies(answer)[0] and "HttpOnly" in set_cookies(answer)[0]
    first = cookie(client)
    assert set_cookies(client.get("/count")) == []
    client.get("/login/ann")
    second = cookie(client)
    assert second != first and client.get("/").json == {"n": 2, "user_id": "ann"}
    assert asking(app, first).get("/").json == {}
    client.get("/logout")
    assert cookie(client) is None and asking(app, second).get("/").json == {}


def test_requests_at_once_keep_each_others_changes():
    """Twenty threads write a key each, and count."""
    app, _ = make_app(WaitingStore())
    barrier = threading.Barrier(20)

    @app.get("/write/<key>")
    def write(key):
        barrier.wait()
        session[key] = 1
        return str(session.change("n", lambda n: n + 1, default=0))

    client = app.test_client()
    client.get("/login/ann")
    tabs = [asking(app, cookie(client)) for _ in range(20)]
    threads = [threading.Thread(target=tab.get, args=(f"/write/{number}",)) for number, tab in enumerate(tabs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert client.get("/").json == {"user_id": "ann", "n": 20} | {str(number): 1 for number in range(20)}


def test_the_session_is_flasks_and_roomkeys():
    """`flask.session` and `roomkey.flask.session` are one, with the attributes of both."""
    app, roomkey = make_app()

    @app.get("/look")
    def look():
        assert session is flask.session
        mine = flask.session._get_current_object()
        assert type(mine) is FlaskSession and isinstance(mine, Session | flask.sessions.SessionMixin)
        assert session.new and session.accessed and not session.modified and not session.permanent
        session["a"] = [1]
        assert session.modified
        roomkey.manager.sync.save(session)
        assert not session.modified and session.handle
        session["a"].append(2)
        return ""

    client = app.test_client()
    assert len(set_cookies(client.get("/look"))) == 1
    assert client.get("/").json == {"a": [1, 2]}


def test_session_transaction():
    """A test reads and changes its client's session, and finds the cookie in the client's jar."""
    app, _ = make_app()
    client = app.test_client()
    with client.session_transaction() as mine:
        mine["user_id"] = "ann"
    assert client.get("/").json == {"user_id": "ann"}
    before = cookie(client)
    with client.session_transaction() as mine:
        assert mine["user_id"] == "ann" and not mine.new
        mine["more"] = 1
    assert cookie(client) == before and client.get("/").json == {"user_id": "ann", "more": 1}
    with pytest.raises(ZeroDivisionError), client.session_transaction() as mine:
        mine["less"] = 1 / 0
    with client.session_transaction() as mine:
        mine.clear()
    assert cookie(client) is None


def test_what_a_test_sees_after_the_request():
    """`with client:` keeps the request, and its session."""
    app, _ = make_app()
    with app.test_client() as client:
        client.get("/count")
        assert session["n"] == 1 and session.handle
    with app.test_request_context():
        assert dict(session) == {}


def test_users_sessions():
    """Listed and ended from within a request and outside."""
    app, roomkey = make_app()

    @app.get("/others")
    def others():
        return str(roomkey.manager.sync.sessions.revoke_all("ann", keep=session))

    first, second = app.test_client(), app.test_client()
    first.get("/login/ann")
    second.get("/login/ann")
    assert len(roomkey.manager.sync.sessions.of("ann")) == 2
    assert first.get("/others").text == "1"
    assert first.get("/").json == {"user_id": "ann"} and second.get("/").json == {}


def test_an_async_view():
    """It awaits what a session offers to await."""
    pytest.importorskip("asgiref")
    app, _ = make_app()

    @app.get("/async")
    async def view():
        session.flash("saved")
        await session.save()
        await asyncio.sleep(0)
        return {"shown": await session.flashes()}

    client = app.test_client()
    assert client.get("/async").json == {"shown": [["info", "saved"]]}
    assert cookie(client)


# --- settings ---------------------------------------------------------------------------------------------------------


def test_keys_rotate():
    """A cookie that an old key signed is good, and one that an unknown key signed is none."""
    store, events = MemoryStore(), []
    client = make_app(store)[0].test_client()
    client.get("/count")
    rotated, _ = make_app(store, settings={"SECRET_KEY": OTHER, "SECRET_KEY_FALLBACKS": [SECRET]})
    assert asking(rotated, cookie(client)).get("/").json == {"n": 1}
    strange, _ = make_app(store, settings={"SECRET_KEY": OTHER}, on_event=events.append)
    assert asking(strange, cookie(client)).get("/").json == {}
    assert [type(event) for event in events] == [Refused]


def test_cookie_settings():
    """Each of Flask's settings is in the cookie."""
    app, _ = make_app(
        settings={
            "SESSION_COOKIE_NAME": "visit",
            "SESSION_COOKIE_DOMAIN": "example.com",
            "SESSION_COOKIE_PATH": "/shop",
            "SESSION_COOKIE_SECURE": True,
            "SESSION_COOKIE_SAMESITE": "Strict",
            "SESSION_COOKIE_PARTITIONED": True,
        }
    )
    (sent,) = set_cookies(app.test_client().get("/count"))
    card, *attributes = sent.split("; ")
    assert card.startswith("visit=")
    assert set(attributes) == {
        "Domain=example.com", "Path=/shop", "Secure", "HttpOnly", "SameSite=strict", "Partitioned"
    }  # fmt: skip
    (sent,) = set_cookies(make_app(settings={"APPLICATION_ROOT": "/app"})[0].test_client().get("/count"))
    assert "Path=/app;" in sent and "SameSite=lax" in sent


def test_a_permanent_session():
    """It outlives the browser and lives for PERMANENT_SESSION_LIFETIME after its last use; any other for `max_age`."""
    clock = Clock()
    app, _ = make_app(clock=clock, max_age=100, settings={"PERMANENT_SESSION_LIFETIME": timedelta(seconds=1000)})

    @app.get("/stay/<int:value>")
    def stay(value):
        session.permanent = bool(value)
        return str(session.permanent)

    client = app.test_client()
    client.get("/login/ann")
    assert "Max-Age=1000" in set_cookies(client.get("/stay/1"))[0]
    assert set_cookies(client.get("/stay/1")) == []  # it is permanent already: nothing is written
    clock.advance(900)
    assert client.get("/").json == {"_permanent": True, "user_id": "ann"}
    assert "Max-Age" not in set_cookies(client.get("/stay/0"))[0]
    clock.advance(101)
    assert client.get("/").json == {}


def test_apps_that_make_every_session_permanent():
    """A visitor gets no cookie of that alone, a log-in does not undo it, and a log-out leaves nothing."""
    store = WaitingStore()
    app, _ = make_app(store, settings={"PERMANENT_SESSION_LIFETIME": 1000})

    @app.before_request
    def stay():
        session.permanent = True

    client = app.test_client()
    assert set_cookies(client.get("/nothing")) == []
    assert "Max-Age=1000" in set_cookies(client.get("/count"))[0]
    assert "Max-Age=1000" in set_cookies(client.get("/login/ann"))[0]
    assert "Max-Age=1000" in set_cookies(client.get("/login/eve"))[0]
    store.asked.clear()
    assert set_cookies(client.get("/nothing")) == [] and store.asked == ["load"]
    client.get("/logout")
    assert cookie(client) is None


def test_the_next_user_does_not_inherit_it():
    """A session that becomes another user's is permanent only if that log-in says so."""
    app, _ = make_app()

    @app.get("/stay/<user>")
    def stay(user):
        session["user_id"], session.permanent = user, True
        return ""

    client = app.test_client()
    assert "Max-Age" in set_cookies(client.get("/stay/ann"))[0]
    assert "Max-Age" not in set_cookies(client.get("/login/eve"))[0]
    assert client.get("/").json == {"user_id": "eve"}


def test_a_session_that_the_app_remembers_itself():
    """`session.remember` has the last word."""
    app, _ = make_app()

    @app.get("/remember")
    def remember():
        session["user_id"] = "ann"
        session.permanent = True
        session.remember(500)
        return ""

    client = app.test_client()
    assert "Max-Age=500" in set_cookies(client.get("/remember"))[0]
    assert set_cookies(client.get("/count")) == []


def test_the_longest_life_of_a_session():
    """It is never below what PERMANENT_SESSION_LIFETIME says, unless the app says so."""
    day = 86400
    assert make_app()[1].manager.config.absolute_timeout == 31 * day
    assert make_app(settings={"PERMANENT_SESSION_LIFETIME": 5})[1].manager.config.absolute_timeout == 30 * day
    assert make_app(absolute_timeout=7 * day)[1].manager.config.absolute_timeout == 7 * day
    assert make_app(absolute_timeout=None)[1].manager.config.absolute_timeout is None
    assert make_app(max_age=60 * day)[1].manager.config.absolute_timeout == 60 * day


def test_options_in_the_settings():
    """ROOMKEY_* comes before what the code says."""
    settings = {"ROOMKEY_STORE": "memory://", "ROOMKEY_MAX_AGE": 7, "ROOMKEY_USER_KEY": "member"}
    _, roomkey = make_app("cookie://", settings=settings, max_age=8, max_bytes=9)
    config = roomkey.manager.config
    assert (config.max_age, config.max_bytes, config.user_key) == (7, 9, "member")
    assert isinstance(config.store, MemoryStore)


@pytest.mark.parametrize(
    ("settings", "options", "says"),
    [
        ({"SECRET_KEY": None}, {}, "SECRET_KEY: missing"),
        ({"SECRET_KEY": ""}, {}, "SECRET_KEY: missing"),
        ({"SECRET_KEY_FALLBACKS": [""]}, {}, "SECRET_KEY is wrong: secret_key is empty"),
        ({"SESSION_COOKIE_HTTPONLY": False}, {}, "SESSION_COOKIE_HTTPONLY: the cookie is always HttpOnly"),
        ({"SESSION_COOKIE_SAMESITE": "Relaxed"}, {}, "SESSION_COOKIE_SAMESITE is wrong: same_site: got 'relaxed'"),
        ({"SESSION_COOKIE_SAMESITE": "None"}, {}, "SESSION_COOKIE_SAMESITE is wrong: same_site: .* https_only=True"),
        ({"SESSION_COOKIE_NAME": "a b"}, {}, "SESSION_COOKIE_NAME is wrong: session_cookie"),
        ({}, {"https_only": True}, "https_only: SESSION_COOKIE_SECURE says it"),
        ({"ROOMKEY_SECRET_KEY": "k"}, {}, "secret_key: SECRET_KEY says it"),
        ({}, {"persistent": True}, "persistent: session.permanent says it"),
        ({}, {"max_ages": 5}, "max_ages: no such option; did you mean max_age?"),
        ({"ROOMKEY_STORES": "memory://"}, {}, "stores: no such option; did you mean store?"),
    ],
)
def test_what_is_wrong_is_said_at_the_start(settings, options, says):
    """By the name that the app's author has used."""
    with pytest.raises(ConfigurationError, match=says):
        make_app(settings=settings, **options)


def test_an_app_has_one_roomkey():
    """A second one is a mistake."""
    app, _ = make_app()
    with pytest.raises(ConfigurationError, match="call it once"):
        Roomkey(app)


def test_several_apps():
    """Each has its own manager, which is asked for within the app's context."""
    roomkey = Roomkey(store="memory://")
    with pytest.raises(RuntimeError, match="call init_app"):
        _ = roomkey.manager
    apps = [flask.Flask("one"), flask.Flask("two")]
    for number, app in enumerate(apps):
        app.secret_key = SECRET
        app.config["ROOMKEY_MAX_AGE"] = 100 + number
        roomkey.init_app(app)
        add_routes(app)
    with pytest.raises(RuntimeError, match="app_context"):
        _ = roomkey.manager
    for number, app in enumerate(apps):
        with app.app_context():
            assert roomkey.manager.config.max_age == 100 + number
        assert app.test_client().get("/count").text == "1"


def test_the_clients_address_is_recorded():
    """As Flask has it, which `ProxyFix` sets."""
    app, roomkey = make_app(record_client=True)
    client = app.test_client()
    client.get("/login/ann", environ_base={"REMOTE_ADDR": "192.0.2.7"}, headers={"User-Agent": "Netscape 4"})
    (info,) = roomkey.manager.sync.sessions.of("ann")
    assert (info.ip, info.user_agent) == ("192.0.2.7", "Netscape 4")


def test_flasks_own_sessions_move_in():
    """With the reader for them, nobody is logged out by the change. A permanent session stays one."""
    from roomkey.legacy import FlaskCookie

    old = flask.Flask(__name__)
    old.secret_key = SECRET
    client = old.test_client()
    with client.session_transaction() as mine:
        mine["user_id"], mine.permanent = "ann", True
    app, _ = make_app(legacy=[FlaskCookie(SECRET)])
    moved = asking(app, cookie(client))
    answer = moved.get("/")
    assert answer.json == {"user_id": "ann", "_permanent": True} and len(cookie(moved)) == 80
    assert any("Max-Age=2678400" in sent for sent in set_cookies(answer))


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("testing", [False, True])
def test_an_unhandled_error_saves_nothing(testing, caplog):
    """Whether Flask makes a page of it or raises it."""
    app, _ = make_app(settings={"TESTING": testing})
    client = app.test_client()
    client.get("/count")
    if testing:
        with pytest.raises(ZeroDivisionError):
            client.get("/fail")
    else:
        answer = client.get("/fail")
        assert answer.status_code == 500 and set_cookies(answer) == []
    assert client.get("/").json == {"n": 1}


def test_an_error_page_of_the_apps_own():
    """That of an unhandled error saves nothing either; that of an error which the app handles does."""
    app, _ = make_app()

    @app.errorhandler(500)
    def unhandled(error):
        session["page"] = 500
        return "sorry", 500

    @app.errorhandler(KeyError)
    def handled(error):
        return "handled", 500

    @app.get("/handled")
    def view():
        session["handled"] = True
        raise KeyError

    @app.get("/abort")
    def leave():
        session["aborted"] = True
        flask.abort(404)

    client = app.test_client()
    assert client.get("/fail").text == "sorry" and client.get("/").json == {}
    assert client.get("/handled").text == "handled" and client.get("/abort").status_code == 404
    assert client.get("/").json == {"handled": True, "aborted": True}


def test_an_early_save_outlives_the_error():
    """The 500 carries the cookie of what the view has saved itself."""
    app, roomkey = make_app()

    @app.get("/early")
    def early():
        session["user_id"] = "ann"
        roomkey.manager.sync.save(session)
        session["late"] = True
        raise ZeroDivisionError

    client = app.test_client()
    assert client.get("/early").status_code == 500
    assert client.get("/").json == {"user_id": "ann"}


def test_a_function_after_the_request_that_fails():
    """What the view has put in is not saved."""
    app, _ = make_app()

    @app.after_request
    def fail(response):
        if flask.request.path == "/count":
            raise ZeroDivisionError
        return response

    client = app.test_client()
    assert client.get("/count").status_code == 500 and client.get("/").json == {}


def test_a_value_that_cannot_be_stored():
    """It is a 500, and the session is as it was."""
    app, _ = make_app()

    @app.get("/bad")
    def bad():
        session["bad"] = object()
        return "fine"

    client = app.test_client()
    client.get("/count")
    assert client.get("/bad").status_code == 500 and client.get("/").json == {"n": 1}


# --- outages ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def quiet(caplog):
    caplog.set_level(logging.CRITICAL, "roomkey")


def outage_app(**settings):
    """Return an app, its store, and what makes a client with a session: the app is ready then."""
    store = WaitingStore()
    app, roomkey = make_app(store, settings=settings)

    def begin():
        client = app.test_client()
        client.get("/count")
        return client

    return app, roomkey, store, begin


@pytest.mark.parametrize("testing", [False, True])
@pytest.mark.parametrize(
    ("operation", "path"), [("load", "/"), ("load", "/nothing"), ("load", "/nowhere"), ("update", "/count")]
)
def test_a_store_that_is_down_is_a_503(operation, path, testing, quiet):
    """With Retry-After, for loads and saves. A visitor without a cookie is served, and nothing is lost."""
    app, _, store, begin = outage_app(TESTING=testing)
    client = begin()
    store.failing.add(operation)
    answer = client.get(path)
    assert answer.status_code == 503 and int(answer.headers["Retry-After"]) > 0
    assert answer.headers["Cache-Control"] == "no-store" and set_cookies(answer) == []
    assert answer.mimetype == "text/plain" and int(answer.headers["Content-Length"]) == len(answer.data)
    assert app.test_client().get("/").status_code == 200
    store.failing.clear()
    assert client.get("/count").text == "2"


@pytest.mark.parametrize("operation", ["load", "update"])
def test_a_page_of_the_apps_own_for_an_outage(operation, quiet):
    """It may look at the session, which is empty for it, and what it puts there is not saved."""
    app, _, store, begin = outage_app()

    @app.errorhandler(StoreUnavailable)
    def sorry(error):
        session["sorry"] = True
        return flask.render_template_string("{{ session.sorry }}, in {{ s }} s", s=error.retry_after), 503

    app.before_request(lambda: flask.session.get("user_id") and None)
    client = begin()
    store.failing.add(operation)
    answer = client.get("/count")
    assert answer.status_code == 503 and answer.text == "True, in 5 s"
    store.failing.clear()
    assert client.get("/").json == {"n": 1}


def test_a_503_has_the_headers_of_every_response(quiet):
    """Those that the app adds after each request, for CORS say, and nothing of the page that does not go out."""
    app, _, store, begin = outage_app()

    @app.after_request
    def add(response):
        response.headers["Access-Control-Allow-Origin"] = "https://example.com"
        response.headers["Content-Security-Policy"] = "default-src 'self'"
        response.set_cookie("other", "1")
        response.headers.update({"ETag": '"1"', "Content-Language": "de", "Cache-Control": "public"})
        return response

    client = begin()
    store.failing.add("update")
    answer = client.get("/count")
    assert answer.status_code == 503 and answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Access-Control-Allow-Origin"] and answer.headers["Content-Security-Policy"]
    assert not {"ETag", "Content-Language", "Set-Cookie"}.intersection(answer.headers.keys())


def test_a_store_that_hangs_is_a_503(quiet):
    """After `store_timeout`."""

    class Hanging(WaitingStore):
        async def load(self, key):
            await asyncio.Event().wait()

    app, _ = make_app(Hanging(), store_timeout=0.05)
    client = app.test_client()
    client.get("/count")
    assert client.get("/").status_code == 503


def test_an_outage_within_a_view(quiet):
    """Also where it comes in a group, and where the app's own 500 page would hide it."""
    app, roomkey, store, begin = outage_app()

    @app.get("/save")
    def save():
        session["saved"] = True
        roomkey.manager.sync.save(session)

    @app.get("/group")
    def group():
        session["saved"] = True
        try:
            roomkey.manager.sync.save(session)
        except StoreUnavailable as error:
            raise ExceptionGroup("several", [error]) from None

    @app.errorhandler(500)
    def page(error):
        return "sorry", 500

    client = begin()
    store.failing.add("update")
    for path in ("/save", "/group"):
        answer = client.get(path)
        assert answer.status_code == 503 and "Retry-After" in answer.headers, path
    store.failing.clear()
    assert client.get("/").json == {"n": 1}


def test_an_outage_in_session_transaction(quiet):
    """It is raised: a test would believe in a session that is not there."""
    _, _, store, begin = outage_app()
    client = begin()
    store.failing.add("load")
    with pytest.raises(StoreUnavailable), client.session_transaction() as mine:
        mine["a"] = 1
    store.failing = {"update"}
    with pytest.raises(StoreUnavailable), client.session_transaction() as mine:
        mine["a"] = 1


def test_events_reach_the_app():
    """From the manager's own thread, where the store waits."""
    events = []
    app, _ = make_app(WaitingStore(), on_event=events.append)
    app.test_client().get("/count")
    assert [type(event) for event in events] == [Created]
