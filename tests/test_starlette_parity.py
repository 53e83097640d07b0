"""The same options and the same requests give what Starlette's own SessionMiddleware gives, but for what is listed."""

import base64
import inspect
import json
import re
import time

import itsdangerous
import pytest
import starsessions
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware as StarletteMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from roomkey import ConfigurationError, SessionDataError, SessionMiddleware
from roomkey.stores.memory import MemoryStore
from roomkey.testing.clock import Clock

SECRET = "a secret that is long enough for every test here"


def view_session(request: Request) -> JSONResponse:
    return JSONResponse({"session": request.session})


async def update_session(request: Request) -> JSONResponse:
    request.session.update(await request.json())
    return JSONResponse({"session": request.session})


async def clear_session(request: Request) -> JSONResponse:
    request.session.clear()
    return JSONResponse({"session": request.session})


def no_session(request: Request) -> JSONResponse:
    return JSONResponse({})


def vary(request: Request) -> JSONResponse:
    return JSONResponse({"session": request.session}, headers={"Vary": "Accept-Encoding"})


def vary_cookie(request: Request) -> JSONResponse:
    return JSONResponse({"session": request.session}, headers={"Vary": "Cookie"})


def mark(request: Request) -> JSONResponse:
    request.scope["session"].mark_accessed()
    return JSONResponse({})


def append(request: Request) -> JSONResponse:
    request.session["list"].append(1)
    return JSONResponse({"session": request.session})


def same(request: Request) -> JSONResponse:
    for key in list(request.session):
        request.session[key] = request.session[key]
    return JSONResponse({})


ROUTES = [
    Route("/view", view_session),
    Route("/update", update_session, methods=["POST"]),
    Route("/clear", clear_session, methods=["POST"]),
    Route("/no_session", no_session),
    Route("/vary", vary),
    Route("/vary_cookie", vary_cookie),
    Route("/mark", mark),
    Route("/append", append, methods=["POST"]),
    Route("/same", same, methods=["POST"]),
]


def options_for(kind, options):
    options = {"secret_key": SECRET, **options}
    return options if kind is StarletteMiddleware else {"store": "memory://", **options}


def client_for(kind, *, base_url="http://testserver", routes=ROUTES, **options):
    if kind is StarletteMiddleware and not options.keys() <= inspect.signature(kind).parameters.keys():
        pytest.skip("this Starlette does not have the option")
    app = Starlette(routes=routes, middleware=[Middleware(kind, **options_for(kind, options))])
    return TestClient(app, base_url=base_url)


both = pytest.mark.parametrize("kind", [StarletteMiddleware, SessionMiddleware], ids=["starlette", "roomkey"])


def attributes(answer):
    """The attributes of the one cookie set, lower case, without the value."""
    (header,) = answer.headers.get_list("set-cookie")
    return sorted(part.strip().lower() for part in header.split(";")[1:])


# --- what is the same -------------------------------------------------------------------------------------------------


@both
def test_update_view_and_clear(kind):
    """A session is empty, is updated over several requests, and is empty again after it was cleared."""
    client = client_for(kind)
    assert client.get("/view").json() == {"session": {}}
    assert client.post("/update", json={"some": "data"}).json() == {"session": {"some": "data"}}
    assert client.get("/view").json() == {"session": {"some": "data"}}
    assert client.post("/update", json={"more": [1, {"a": None}]}).json() == {
        "session": {"some": "data", "more": [1, {"a": None}]}
    }
    assert client.get("/view").json() == {"session": {"some": "data", "more": [1, {"a": None}]}}
    assert client.post("/clear").json() == {"session": {}}
    assert "session" not in client.cookies
    assert client.get("/view").json() == {"session": {}}


@both
def test_clearing_nothing_sets_no_cookie(kind):
    """Clearing the session of a visitor who has none takes no cookie back."""
    assert "set-cookie" not in client_for(kind).post("/clear").headers


@both
def test_the_session_expires(kind, monkeypatch):
    """A cookie that is presented after max_age is nobody's."""
    clock = Clock(1_800_000_000.0)
    monkeypatch.setattr(itsdangerous.TimestampSigner, "get_timestamp", lambda self: int(clock()))
    client = client_for(kind, max_age=100, **({} if kind is StarletteMiddleware else {"clock": clock}))
    answer = client.post("/update", json={"some": "data"})
    cookie = {"cookie": answer.headers["set-cookie"].split(";")[0]}
    client.cookies.clear()
    clock.advance(99)
    assert client.get("/view", headers=cookie).json() == {"session": {"some": "data"}}
    clock.advance(200)
    assert client.get("/view", headers=cookie).json() == {"session": {}}


@both
def test_a_secure_cookie(kind):
    """With https_only the cookie is Secure: it comes back over HTTPS and not over HTTP."""
    secure = client_for(kind, https_only=True, base_url="https://testserver")
    assert "secure" in attributes(secure.post("/update", json={"some": "data"}))
    assert secure.get("/view").json() == {"session": {"some": "data"}}
    assert secure.post("/clear").json() == {"session": {}}
    assert secure.get("/view").json() == {"session": {}}
    plain = client_for(kind, https_only=True)
    plain.post("/update", json={"some": "data"})
    assert plain.get("/view").json() == {"session": {}}


@both
def test_a_session_under_a_subapp(kind):
    """With a path, a mounted app has a session and the rest of the site does not get its cookie."""
    second = Starlette(routes=ROUTES, middleware=[Middleware(kind, **options_for(kind, {"path": "/second_app"}))])
    client = TestClient(Starlette(routes=[Mount("/second_app", app=second), Mount("/other", app=second)]))
    answer = client.post("/second_app/update", json={"some": "data"})
    assert "path=/second_app" in attributes(answer)
    assert client.get("/second_app/view").json() == {"session": {"some": "data"}}
    assert client.get("/other/view").json() == {"session": {}}


@both
def test_an_invalid_cookie(kind):
    """A cookie that was tampered with is an empty session, and no error."""
    client = client_for(kind)
    client.post("/update", json={"some": "data"})
    card = client.cookies["session"]
    client.cookies.clear()
    for bad in ("invalid", "", card[:-1], card + "x", card.swapcase(), "null", "a.b.c"):
        answer = client.get("/view", headers={"cookie": f"session={bad}"})
        assert (answer.status_code, answer.json()) == (200, {"session": {}})


@both
def test_a_session_cookie(kind):
    """With max_age=None the cookie has no Max-Age and no Expires, and goes with the browser."""
    client = client_for(kind, max_age=None)
    answer = client.post("/update", json={"some": "data"})
    assert not any(part.startswith(("max-age", "expires")) for part in attributes(answer))
    assert client.get("/view").json() == {"session": {"some": "data"}}


@both
@pytest.mark.parametrize("domain", [".example.com", "example.com"])
def test_a_domain_cookie(kind, domain):
    """With a domain, the hosts under it get the cookie."""
    client = client_for(kind, domain=domain, base_url="http://www.example.com")
    answer = client.post("/update", json={"some": "data"})
    assert f"domain={domain}" in attributes(answer)
    assert client.get("/view").json() == {"session": {"some": "data"}}
    assert client.get("http://api.example.com/view").json() == {"session": {"some": "data"}}
    assert client.get("http://example.org/view").json() == {"session": {}}


@both
def test_another_cookie_name(kind):
    """With session_cookie the cookie has that name."""
    client = client_for(kind, session_cookie="card")
    client.post("/update", json={"some": "data"})
    assert list(client.cookies) == ["card"]
    assert client.get("/view").json() == {"session": {"some": "data"}}


@pytest.mark.parametrize(
    "options",
    [
        {"max_age": 600},
        {"max_age": 600, "https_only": True},
        {"max_age": 600, "https_only": True, "partitioned": True},
        {"max_age": 600, "https_only": True, "same_site": "none"},
        {"max_age": 600, "same_site": "strict", "path": "/shop", "domain": "example.com"},
        {"max_age": None},
    ],
)
def test_the_attributes_are_the_same(options):
    """The same options make a cookie with the same attributes, letter case and order aside."""
    theirs, ours = (
        attributes(client_for(kind, **options).post("/update", json={"some": "data"}))
        for kind in (StarletteMiddleware, SessionMiddleware)
    )
    assert ours == theirs


@both
def test_a_partitioned_cookie(kind):
    """With partitioned the cookie says so."""
    client = client_for(kind, https_only=True, partitioned=True, base_url="https://testserver")
    assert "partitioned" in attributes(client.post("/update", json={"some": "data"}))


@both
def test_the_cookie_is_http_only(kind):
    """Scripts in the browser never see the cookie."""
    assert "httponly" in attributes(client_for(kind).post("/update", json={"some": "data"}))


@both
def test_an_access_varies(kind):
    """A response that looked at the session, even an empty one, says Vary: Cookie."""
    client = client_for(kind)
    assert client.get("/view").headers["vary"] == "Cookie"
    assert client.post("/update", json={"some": "data"}).headers["vary"] == "Cookie"
    assert client.get("/view").headers["vary"] == "Cookie"
    assert client.post("/clear").headers["vary"] == "Cookie"


@both
def test_no_access_does_not_vary(kind):
    """A response that did not look at the session has no Vary header and no cookie."""
    client = client_for(kind)
    for _ in range(2):
        answer = client.get("/no_session")
        assert "vary" not in answer.headers
        assert "set-cookie" not in answer.headers
        client.post("/update", json={"some": "data"})


@both
def test_vary_is_added_to(kind):
    """Cookie joins what the app had put into Vary."""
    assert client_for(kind).get("/vary").headers["vary"] == "Accept-Encoding, Cookie"


@both
def test_an_unchanged_session_sets_no_cookie(kind):
    """Reading a session sets no cookie."""
    client = client_for(kind)
    client.post("/update", json={"some": "data"})
    for path in ("/view", "/no_session", "/mark"):
        assert "set-cookie" not in client.get(path).headers


@both
def test_mark_accessed(kind):
    """`mark_accessed` makes the response vary by cookie and changes nothing else."""
    client = client_for(kind)
    client.post("/update", json={"some": "data"})
    answer = client.get("/mark")
    assert answer.headers["vary"] == "Cookie"
    assert "set-cookie" not in answer.headers
    assert client.get("/view").json() == {"session": {"some": "data"}}


@both
def test_accessed_and_modified(kind):
    """A session knows whether it was looked at and whether it was changed."""
    seen = []

    def handler(request: Request) -> JSONResponse:
        session = request.scope["session"]
        states = [(session.accessed, session.modified)]
        session.get("x")
        request.session  # noqa: B018  # Starlette counts from here
        states.append((session.accessed, session.modified))
        session["x"] = 1
        states.append((session.accessed, session.modified))
        seen.append(states)
        return JSONResponse({})

    client_for(kind, routes=[Route("/", handler)]).get("/")
    assert seen == [[(False, False), (True, False), (True, True)]]


# --- what is meant to differ ------------------------------------------------------------------------------------------

# name → (what Starlette does, what Roomkey does); each has the test of the same name below.
INTENDED_DIFFERENCES = {
    "readable_data": ("the cookie is the data, for anyone to read", "the cookie says nothing"),
    "replay_after_logout": ("an old cookie still logs in after clear()", "an old cookie is nobody's"),
    "nested_change": ("a change inside a value is lost", "a change inside a value is kept"),
    "same_value": ("assigning an equal value sets the cookie again", "assigning an equal value does nothing"),
    "key_rotation": ("a list of keys is one key, its text form", "the first key signs and all verify"),
    "types": ("a value that is not JSON is an error, a tuple becomes a list", "values keep their type"),
    "caches": ("a response with the cookie may be stored by caches", "it says no-store"),
    "change_sets_cookie": ("every change sets the cookie", "only a new, rotated, renewed or ended session does"),
    "login_rotates": ("the cookie of before a log-in lives on", "logging in changes the ID"),
    "big_session": ("the cookie grows past what browsers take", "the cookie keeps its size"),
    "lost_update": ("of two concurrent changes one is lost", "both are kept"),
    "lifetime": ("14 days by default", "4 hours by default"),
    "bad_options": ("options are not checked", "a wrong option is a ConfigurationError"),
    "renewal": ("an unchanged session ends max_age after its last change", "max_age counts from the last use"),
    "vary_repeated": ("Cookie is added to a Vary that names it already", "Cookie is named once"),
    "late_write": ("what changes after the response has started is lost", "it is saved, or said"),
    "text_keys": ("a key that is no text comes back as text", "it is a SessionDataError"),
    "plain_http": ("https_only over plain HTTP loses each session", "it does, and that is said once"),
    "own_cookie": ("a mounted app of the same cookie overwrites the session", "it ends it, and that is said once"),
    "shown": ("str(session) is its content, personal data too", "it says how many keys there are"),
    "planted_cookie": ("the last cookie of the name counts, valid or not", "the first genuine one counts"),
}


def pair(**options):
    return client_for(StarletteMiddleware, **options), client_for(SessionMiddleware, **options)


def test_every_difference_is_tested():
    """The table of intended differences and the tests below name the same things."""
    tests = {name.removeprefix("test_differs_") for name in globals() if name.startswith("test_differs_")}
    assert tests == set(INTENDED_DIFFERENCES)


def test_differs_readable_data():
    """Starlette's cookie shows the session to whoever holds it; Roomkey's is random."""
    theirs, ours = pair()
    for client in (theirs, ours):
        client.post("/update", json={"password": "swordfish"})
    payload = theirs.cookies["session"].split(".")[0]
    assert json.loads(base64.b64decode(payload)) == {"password": "swordfish"}
    assert re.fullmatch(r"[A-Za-z0-9_\-]{60,90}", ours.cookies["session"])


def test_differs_replay_after_logout():
    """After a log-out a copy of the cookie still works with Starlette, and is dead with Roomkey."""
    found = []
    for client in pair():
        client.post("/update", json={"user_id": 7})
        card = client.cookies["session"]
        client.post("/clear")
        found.append(client.get("/view", headers={"cookie": f"session={card}"}).json()["session"])
    assert found == [{"user_id": 7}, {}]


def test_differs_nested_change():
    """`session["list"].append(1)` is lost with Starlette and kept with Roomkey."""
    found = []
    for client in pair():
        client.post("/update", json={"list": []})
        assert client.post("/append").json() == {"session": {"list": [1]}}
        found.append(client.get("/view").json()["session"])
    assert found == [{"list": []}, {"list": [1]}]


def test_differs_same_value():
    """Assigning the value that is there sets Starlette's cookie again, and does nothing with Roomkey."""
    found = []
    for client in pair():
        client.post("/update", json={"some": "data"})
        found.append("set-cookie" in client.post("/same").headers)
    assert found == [True, False]


def test_differs_key_rotation():
    """A list of keys verifies cookies of each with Roomkey; Starlette takes the list's text for one key."""
    old, new = SECRET, SECRET[::-1]
    found = []
    for kind in (StarletteMiddleware, SessionMiddleware):
        options = {} if kind is StarletteMiddleware else {"store": MemoryStore()}
        before = client_for(kind, secret_key=old, **options)
        before.post("/update", json={"some": "data"})
        after = client_for(kind, secret_key=[new, old], **options)
        cookie = {"cookie": "session=" + before.cookies["session"]}
        found.append(after.get("/view", headers=cookie).json()["session"])
    assert found == [{}, {"some": "data"}]


def test_differs_types():
    """A set is an error and a tuple becomes a list with Starlette; with Roomkey both come back as they went in."""
    found = []

    def put(request: Request) -> JSONResponse:
        request.session["tuple"] = (1, 2)
        if "set" in request.query_params:
            request.session["set"] = {1}
        return JSONResponse({})

    def get(request: Request) -> JSONResponse:
        found.append({key: type(value) for key, value in request.session.items()})
        return JSONResponse({})

    theirs, ours = pair(routes=[Route("/put", put), Route("/get", get)])
    theirs.get("/put")
    theirs.get("/get")
    with pytest.raises(TypeError, match="not JSON serializable"):
        theirs.get("/put?set=1")
    ours.get("/put?set=1")
    ours.get("/get")
    assert found == [{"tuple": list}, {"tuple": tuple, "set": set}]


def test_differs_caches():
    """A response that sets the cookie is kept out of caches by Roomkey, and not by Starlette."""
    found = [client.post("/update", json={"a": 1}).headers.get("cache-control") for client in pair()]
    assert found == [None, "no-store"]


def test_differs_change_sets_cookie():
    """A change of a session that exists needs a new cookie with Starlette, and none with Roomkey."""
    found = []
    for client in pair():
        client.post("/update", json={"a": 1})
        found.append("set-cookie" in client.post("/update", json={"a": 2}).headers)
        assert client.get("/view").json() == {"session": {"a": 2}}
    assert found == [True, False]


def test_differs_login_rotates():
    """The cookie of before a log-in stays good with Starlette, and is dead with Roomkey."""
    found = []
    for client in pair():
        client.post("/update", json={"cart": [1]})
        before = client.cookies["session"]
        client.post("/update", json={"user_id": 7})
        assert client.get("/view").json() == {"session": {"cart": [1], "user_id": 7}}
        client.cookies.clear()
        found.append(client.get("/view", headers={"cookie": f"session={before}"}).json()["session"])
    assert found == [{"cart": [1]}, {}]


def test_differs_big_session():
    """A session of 10 kB makes a cookie that browsers drop with Starlette, and one of the usual size with Roomkey."""
    sizes = [len(client.post("/update", json={"a": "x" * 10_000}).headers["set-cookie"]) for client in pair()]
    assert sizes[0] > 4096
    assert sizes[1] < 300


def test_differs_lost_update():
    """Of two changes made from the same cookie the later response wins with Starlette; with Roomkey both are kept."""
    found = []
    for client in pair():
        client.post("/update", json={"start": 0})
        card = {"cookie": "session=" + client.cookies["session"]}
        client.cookies.clear()
        for change in ({"a": 1}, {"b": 2}):  # each sends the cookie that it had when both began
            client.post("/update", json=change, headers=card)
            latest = dict(client.cookies) or {"session": card["cookie"].partition("=")[2]}
            client.cookies.clear()
        answer = client.get("/view", headers={"cookie": "session=" + latest["session"]})
        found.append(answer.json()["session"])
    assert found == [{"start": 0, "b": 2}, {"start": 0, "a": 1, "b": 2}]


def test_differs_lifetime():
    """By default Starlette's cookie lives for 14 days, and Roomkey's for 4 hours."""
    found = [
        next(part for part in attributes(client.post("/update", json={"a": 1})) if part.startswith("max-age"))
        for client in pair()
    ]
    assert found == ["max-age=1209600", "max-age=14400"]


@pytest.mark.parametrize(
    "options", [{"secret_key": ""}, {"max_age": -1}, {"same_site": "none"}, {"partitioned": True}, {"path": "shop"}]
)
def test_differs_bad_options(options):
    """Options that make no safe or working cookie are taken by Starlette, and refused by name by Roomkey."""
    assert client_for(StarletteMiddleware, **options).get("/view").status_code == 200
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        SessionMiddleware(Starlette(), **options_for(SessionMiddleware, options))


def test_differs_renewal(monkeypatch):
    """A session that is only read ends max_age after it was written with Starlette; reading keeps Roomkey's alive."""
    found = []
    for kind in (StarletteMiddleware, SessionMiddleware):
        clock = Clock(time.time())
        monkeypatch.setattr(itsdangerous.TimestampSigner, "get_timestamp", lambda self, now=clock: int(now()))
        client = client_for(kind, max_age=1000, **({} if kind is StarletteMiddleware else {"clock": clock}))
        client.post("/update", json={"some": "data"})
        for _ in range(3):
            clock.advance(600)
            last = client.get("/view").json()["session"]
        found.append(last)
    assert found == [{}, {"some": "data"}]


def test_differs_vary_repeated():
    """A handler that says Vary: Cookie itself gets it twice from Starlette, and once from Roomkey."""
    assert [client.get("/vary_cookie").headers["vary"] for client in pair()] == ["Cookie, Cookie", "Cookie"]


@pytest.mark.parametrize("is_visitor", [True, False])
def test_differs_late_write(is_visitor, caplog):
    """A background task that changes the session."""

    async def late(request: Request) -> JSONResponse:
        return JSONResponse({}, background=BackgroundTask(request.session.update, n=1))

    for kind in (StarletteMiddleware, SessionMiddleware):
        client = client_for(kind, routes=[*ROUTES, Route("/late", late)])
        if not is_visitor:
            client.post("/update", json={"some": "data"})
        assert client.get("/late").status_code == 200
        found = client.get("/view").json()["session"]
        kept = kind is SessionMiddleware and not is_visitor
        assert found == {**({} if is_visitor else {"some": "data"}), **({"n": 1} if kept else {})}
        assert ("after the response had started" in caplog.text) is (kind is SessionMiddleware and is_visitor)


def test_differs_text_keys():
    """A session key that is a number."""

    async def number(request: Request) -> JSONResponse:
        request.session[5] = "five"
        return JSONResponse({})

    starlettes, roomkeys = pair(routes=[*ROUTES, Route("/number", number)])
    starlettes.get("/number")
    assert starlettes.get("/view").json() == {"session": {"5": "five"}}
    with pytest.raises(SessionDataError, match="5"):
        roomkeys.get("/number")


def test_differs_plain_http(caplog):
    """`https_only` in a test client that speaks HTTP."""
    for client, is_said in zip(pair(https_only=True), (False, True), strict=True):
        client.post("/update", json={"some": "data"})
        assert client.get("/view").json() == {"session": {}}
        assert ("https_only=True, but a session began over plain HTTP" in caplog.text) is is_said


def test_differs_own_cookie(caplog):
    """A mounted app of the same cookie name."""
    for kind in (StarletteMiddleware, SessionMiddleware):
        own = Middleware(StarletteMiddleware, secret_key="a" * 32)
        admin = Starlette(routes=ROUTES, middleware=[own])
        client = client_for(kind, routes=[*ROUTES, Mount("/admin", admin)])
        client.post("/update", json={"user": 1})
        client.post("/admin/update", json={"admin": 2})
        assert client.get("/view").json() == {"session": {"admin": 2} if kind is StarletteMiddleware else {}}
        assert ("the app's response sets the cookie 'session'" in caplog.text) is (kind is SessionMiddleware)


def test_differs_shown():
    """A page that shows the session by `str`."""

    async def show(request: Request) -> JSONResponse:
        return JSONResponse(str(request.session))

    shown = []
    for client in pair(routes=[*ROUTES, Route("/show", show)]):
        client.post("/update", json={"some": "data"})
        shown.append(client.get("/show").json())
    assert shown == ["{'some': 'data'}", "Session(1 key, not shown here; session.copy() has them)"]


def test_differs_planted_cookie():
    """A second cookie of the name, planted by a sibling host, empties Starlette's session and leaves Roomkey's."""
    found = []
    for client in pair():
        client.post("/update", json={"some": "data"})
        card = client.cookies["session"]
        client.cookies.clear()
        answer = client.get("/view", headers={"cookie": f"session={card}; session=planted"})
        found.append(answer.json()["session"])
    assert found == [{}, {"some": "data"}]


class PlainMiddleware:
    """One that puts a plain dict there, under a cookie of its own, as Starlette before 1.0 and home-made ones do."""

    def __init__(self, app):
        self.app, self.kept = app, {}

    async def __call__(self, scope, receive, send):
        scope["session"] = self.kept if b"admin=1" in dict(scope["headers"]).get(b"cookie", b"") else {}

        async def send_with_cookie(message):
            if message["type"] == "http.response.start" and scope["session"]:
                self.kept = scope["session"]
                message["headers"] = [*message["headers"], (b"set-cookie", b"admin=1; Path=/")]
            await send(message)

        await self.app(scope, receive, send_with_cookie)


@pytest.mark.parametrize("inner", ["starlette", "starsessions", "roomkey", "plain"])
def test_a_mounted_app_with_a_session_of_its_own(inner):
    """An admin page under another cookie neither ends the main session nor writes into it, and sees nothing of it."""
    own = {
        "starlette": Middleware(StarletteMiddleware, secret_key="a" * 32, session_cookie="admin"),
        "starsessions": Middleware(
            starsessions.SessionMiddleware,
            store=starsessions.InMemoryStore(),
            cookie_name="admin",
            cookie_https_only=False,
        ),
        "roomkey": Middleware(SessionMiddleware, secret_key="a" * 32, session_cookie="admin", store="memory://"),
        "plain": Middleware(PlainMiddleware),
    }[inner]
    loads = [Middleware(starsessions.SessionAutoloadMiddleware)] if inner == "starsessions" else []
    routes = [Route("/view", view_session), Route("/update", update_session, methods=["POST"])]
    admin = Starlette(routes=routes, middleware=[own, *loads])
    app = Starlette(routes=[*routes, Mount("/admin", admin)])
    app.add_middleware(SessionMiddleware, secret_key=SECRET, store="memory://")
    client = TestClient(app)
    client.post("/update", json={"user": 1})
    assert client.get("/admin/view").json()["session"] == {}
    assert client.get("/view").json()["session"] == {"user": 1}
    client.post("/admin/update", json={"admin": 2})
    assert client.get("/admin/view").json()["session"] == {"admin": 2}
    assert client.get("/view").json()["session"] == {"user": 1}


@pytest.mark.parametrize("is_inside", [True, False])
def test_beside_a_session_that_is_not_loaded(is_inside):
    """starsessions' session raises whatever is asked of it before it is loaded. Roomkey asks it nothing."""
    other = Middleware(starsessions.SessionMiddleware, store=starsessions.InMemoryStore(), cookie_name="other")
    own = Middleware(SessionMiddleware, secret_key=SECRET, store="memory://")

    async def plain(request):
        return JSONResponse({})

    app = Starlette(routes=[Route("/", plain)], middleware=[own, other] if is_inside else [other, own])
    assert TestClient(app).get("/").status_code == 200


def test_an_http_exception_of_an_inner_middleware():
    """To Starlette one that comes out of a middleware is an error: nothing of it was saved, and the cart is there."""

    class Gate:
        def __init__(self, app):
            self.app = app

        async def __call__(self, scope, receive, send):
            if scope["path"] == "/gate":
                scope["session"]["user_id"] = 7
                raise HTTPException(403)
            await self.app(scope, receive, send)

    app = Starlette(routes=[Route("/view", view_session), Route("/update", update_session, methods=["POST"])])
    app.add_middleware(Gate)
    app.add_middleware(SessionMiddleware, secret_key=SECRET, store="memory://")
    client = TestClient(app, raise_server_exceptions=False)
    client.post("/update", json={"cart": 1})
    answer = client.get("/gate")
    assert (answer.status_code, "set-cookie" in answer.headers) == (500, False)
    assert client.get("/view").json()["session"] == {"cart": 1}
