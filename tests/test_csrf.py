"""CSRF: what another site's page makes a browser send is refused; what the app's own pages send is not."""

import asyncio
import json

import pytest
from fastapi import FastAPI, Form, Request
from fastapi.responses import PlainTextResponse
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from roomkey import ConfigurationError, Session, SessionMiddleware
from roomkey.csrf import CSRFMiddleware, csrf_token, verify_csrf_token
from tests.driver import driver_of

HOST = (b"host", b"shop.example")


def ask(headers, method="POST", path="/buy", kind="http", session=None, extensions=None, **options):
    """Send one request; return whether it reached the app, and what was sent."""
    reached, sent = [], []

    async def app(scope, receive, send):
        reached.append(True)

    async def send(message):
        sent.append(message)

    scope = {"type": kind, "method": method, "path": path, "headers": headers, "extensions": extensions}
    if session is not None:
        scope["session"] = session
    asyncio.run(CSRFMiddleware(app, **options)(scope, None, send))
    return bool(reached), sent


def passes(*headers, **options):
    return ask([HOST, *headers], **options)[0]


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "TRACE"])
def test_safe_methods_pass(method):
    """A request that changes nothing passes from anywhere."""
    assert passes((b"sec-fetch-site", b"cross-site"), method=method)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "QUERY", "get", "ANY"])
@pytest.mark.parametrize(
    ("site", "ok"),
    [
        (b"same-origin", True),
        (b"none", True),
        (b"same-site", False),
        (b"cross-site", False),
        (b"", False),
        (b"X", False),
    ],
)
def test_what_the_browser_says_decides(method, site, ok):
    """Unsafe requests pass from the same origin and from the address bar, not from other sites or subdomains."""
    assert passes((b"sec-fetch-site", site), method=method) is ok


@pytest.mark.parametrize(
    ("host", "origin", "ok"),
    [
        (b"shop.example", b"https://shop.example", True),
        (b"shop.example", b"http://shop.example", True),
        (b"shop.example:443", b"https://shop.example", True),
        (b"shop.example", b"https://SHOP.example", True),
        (b"shop.example:8000", b"http://shop.example:8000", True),
        (b"[::1]:8000", b"http://[::1]:8000", True),
        (b"shop.example.", b"https://shop.example", True),
        (b"shop.example", b"https://evil.example", False),
        (b"shop.example", b"https://shop.example.evil.example", False),
        (b"shop.example", b"https://shop.example:8443", False),
        (b"shop.example", b"https://sub.shop.example", False),
        (b"shop.example", b"null", False),
        (b"shop.example", b"", False),
        (b"shop.example", b"https://shop.example/path", False),
        (b"shop.example", b"https://user@shop.example", False),
        (b"shop.example", b"https://shop.example:99999", False),
        (b"shop.example", b"file://shop.example", False),
        (b"shop.example", b"https://[", False),
        (b"shop.example", b"\xff\xfe", False),
    ],
)
def test_older_browsers_are_judged_by_their_origin(host, origin, ok):
    """Without Sec-Fetch-Site the origin's host and port have to be those that the request asks for."""
    assert ask([(b"host", host), (b"origin", origin)])[0] is ok


def test_who_is_no_browser_passes():
    """A request with neither header carries nobody's cookies."""
    assert passes()


def test_several_origins_are_refused():
    """Two Origin headers are no browser's doing."""
    assert not passes((b"origin", b"https://shop.example"), (b"origin", b"https://evil.example"))


def test_several_sites_are_refused():
    """A second Sec-Fetch-Site does not outweigh the first."""
    assert not passes((b"sec-fetch-site", b"same-origin"), (b"sec-fetch-site", b"cross-site"))


@pytest.mark.parametrize("hosts", [[], [b"shop.example", b"evil.example"]])
def test_an_origin_needs_one_host(hosts):
    """Without a host, or with two, there is nothing to compare an origin with."""
    headers = [(b"origin", b"https://shop.example"), *[(b"host", host) for host in hosts]]
    assert not ask(headers)[0]


def test_trusted_origins_pass():
    """An origin that the app names passes, exactly that one."""
    trusted = {"trusted_origins": ["https://login.example"]}
    cross = (b"sec-fetch-site", b"cross-site")
    assert passes((b"origin", b"https://login.example"), cross, **trusted)
    assert passes((b"origin", b"https://login.example:443"), **trusted)
    for origin in (b"http://login.example", b"https://login.example.evil.example", b"https://login.example:444"):
        assert not passes((b"origin", origin), cross, **trusted)


@pytest.mark.parametrize(
    ("path", "ok"),
    [
        ("/hook", True),
        ("/hook/", False),
        ("/hooks", False),
        ("/in/a", True),
        ("/in/", True),
        ("/in", False),
        ("//hook", False),
    ],
)
def test_exempt_paths_pass(path, ok):
    """A path is exempt itself; one that ends with a slash, with everything below it."""
    cross = (b"sec-fetch-site", b"cross-site")
    assert passes(cross, path=path, exempt_paths=["/hook", "/in/"]) is ok


@pytest.mark.parametrize(
    "options",
    [
        {"trusted_origins": "https://a.example"},
        *[{"trusted_origins": [origin]} for origin in ("a.example", "https://*.example", "https://a/b", "null", "", 5)],
        {"exempt_paths": "/hook"},
        *[{"exempt_paths": [path]} for path in ("hook", "", "/", "/a/*", 5)],
    ],
)
def test_wrong_options_are_refused(options):
    """An origin that is none, or a path that could not match, is an error at start-up."""
    with pytest.raises(ConfigurationError):
        ask([], **options)


def test_the_refusal():
    """A refused request is answered 403 and never kept by a cache; the reason is logged, without what was sent."""
    reached, sent = ask([HOST, (b"sec-fetch-site", b"cross-site")])
    assert not reached
    assert sent[0]["status"] == 403
    assert (b"cache-control", b"no-store") in sent[0]["headers"]


def test_websockets_are_checked():
    """A WebSocket that another site's page opens is refused before it is accepted, with 403 where the server can."""
    cross = [HOST, (b"origin", b"https://evil.example")]
    assert ask(cross, kind="websocket")[1] == [{"type": "websocket.close", "code": 1008, "reason": "cross-site"}]
    _, sent = ask(cross, kind="websocket", extensions={"websocket.http.response": {}})
    assert sent[0] == {**sent[0], "type": "websocket.http.response.start", "status": 403}
    assert ask([HOST, (b"origin", b"https://shop.example")], kind="websocket")[0]


_names = st.sampled_from([b"origin", b"host", b"sec-fetch-site", b"x-csrf-token", b"cookie"])


@given(st.lists(st.tuples(_names, st.binary(max_size=60)), max_size=6))
def test_no_header_raises(headers):
    """Whatever the headers, the request passes or is refused."""
    ask(headers, session={})


@given(st.lists(st.tuples(_names, st.binary(max_size=60)), max_size=6))
def test_nothing_outweighs_a_cross_site_request(headers):
    """Whatever else it brings, an unsafe request that the browser calls cross-site is refused."""
    assert not ask([*headers, (b"sec-fetch-site", b"cross-site")])[0]


# --- tokens -----------------------------------------------------------------------------------------------------------


def test_tokens_differ_and_verify():
    """Each token is another text, and each of them is good for its session."""
    session = {}
    tokens = {csrf_token(session) for _ in range(20)}
    assert len(tokens) == 20
    assert all(verify_csrf_token(session, token) for token in tokens)
    assert not verify_csrf_token({}, tokens.pop())
    other = {}
    csrf_token(other)
    assert not verify_csrf_token(other, tokens.pop())


def test_a_log_in_makes_a_new_secret():
    """A token from before a log-in, a log-out or a change of user is good for nothing after it."""
    session = {}
    before = csrf_token(session)
    session["user_id"] = 42
    assert not verify_csrf_token(session, before)
    mine = csrf_token(session)
    assert verify_csrf_token(session, mine)
    session["user_id"] = 43
    assert not verify_csrf_token(session, mine)
    del session["user_id"]
    assert not verify_csrf_token(session, mine) and not verify_csrf_token(session, before)


@pytest.mark.parametrize("store", ["memory://", "cookie://"])
@pytest.mark.parametrize("user_key", ["user_id", "member"])
async def test_no_token_outlives_a_change_of_user(store, user_key):
    """Whatever `user_key` is called: whoever knew a token before a log-in does not know one after it, nor after the
    log-out that follows."""
    life = driver_of(SessionMiddleware(None, secret_key="k" * 32, store=store, user_key=user_key))

    async def visit(card, act):
        arrived = await life.arrive([card] if card else [])
        answer = act(arrived.session)
        await arrived.commit()
        return arrived.card or card, answer

    card, before = await visit(None, csrf_token)
    assert (await visit(card, lambda session: verify_csrf_token(session, before)))[1]
    card, _ = await visit(card, lambda session: session.update({user_key: 42}))
    assert not (await visit(card, lambda session: verify_csrf_token(session, before)))[1]
    card, mine = await visit(card, csrf_token)
    card, _ = await visit(card, lambda session: session.update({user_key: 43, "cart": 1}))
    assert not (await visit(card, lambda session: verify_csrf_token(session, mine)))[1]
    card, _ = await visit(card, lambda session: session.pop(user_key))
    for token in (before, mine):
        assert not (await visit(card, lambda session, token=token: verify_csrf_token(session, token)))[1]


@pytest.mark.parametrize("store", ["memory://", "cookie://"])
async def test_a_token_made_with_the_log_in_is_the_users(store):
    """The page that a log-in answers with may hold a form: its token is good."""
    life = driver_of(SessionMiddleware(None, secret_key="k" * 32, store=store, user_key="member"))

    visit = await life.arrive([])
    csrf_token(visit.session)
    await visit.commit()
    visit = await life.arrive([visit.card])
    visit.session["member"] = 42
    token = csrf_token(visit.session)
    await visit.commit()
    visit = await life.arrive([visit.card])
    assert verify_csrf_token(visit.session, token)


def test_another_user_key_than_the_configurations():
    """The token would be dropped with the first save: an error says so at once."""
    life = driver_of(SessionMiddleware(None, secret_key="k" * 32, store="memory://", user_key=None))
    session = life.anonymous().session
    session["uid"] = 5
    with pytest.raises(ConfigurationError, match="user_key is 'uid', and SessionConfig's is None"):
        csrf_token(session, user_key="uid")
    assert verify_csrf_token(session, csrf_token(session), user_key="uid")


async def test_tabs_that_are_opened_together():
    """Each page makes a secret before it knows of the others': every form is good, and there are never too many."""
    life = driver_of(SessionMiddleware(None, secret_key="k" * 32, store="memory://"))

    visit = await life.arrive([])
    visit.session["user_id"] = 42
    await visit.commit()
    tabs = [await life.arrive([visit.card]) for _ in range(25)]
    tokens = [csrf_token(tab.session) for tab in tabs]
    for tab in tabs[:10]:
        await tab.commit()
    now = await life.arrive([visit.card])
    assert all(verify_csrf_token(now.session, token) for token in tokens[:10])
    assert not any(verify_csrf_token(now.session, token) for token in tokens[10:])
    assert verify_csrf_token(now.session, csrf_token(now.session))
    for tab in tabs[10:]:
        await tab.commit()
    now = await life.arrive([visit.card])
    assert [verify_csrf_token(now.session, token) for token in tokens] == [False] * 15 + [True] * 10
    now.session["user_id"] = 43
    await now.commit()
    now = await life.arrive([now.card])
    assert not any(verify_csrf_token(now.session, token) for token in tokens)


def test_the_secret_rotates_with_the_id():
    """`rotate()` and `reauthenticated()` make the tokens from before worthless."""
    for order in (lambda session: session.rotate(), lambda session: session.reauthenticated()):
        session = Session(user_id=42)
        before = csrf_token(session)
        order(session)
        assert not verify_csrf_token(session, before)
        assert verify_csrf_token(session, csrf_token(session))


@pytest.mark.parametrize("token", [None, 5, b"x", "", "x" * 86, "é" * 86, "A" * 85, "A" * 87, ["A"], "A" * 10_000])
def test_what_is_no_token_is_false(token):
    """Anything but a token is refused without an error."""
    session = {}
    csrf_token(session)
    assert verify_csrf_token(session, token) is False


@pytest.mark.parametrize(
    "kept",
    [5, [], [None], [None, "a"], [None, b"short"], {"a": 1}, ["a" * 64], [None, "A" * 64], [None, "a" * 64 + "\n"]],
)
def test_a_damaged_secret_is_made_anew(kept):
    """What an app put under the reserved key is not taken for a secret."""
    session = {"_csrf": kept}
    assert not verify_csrf_token(session, "A" * 86)
    assert verify_csrf_token(session, csrf_token(session))


def test_the_secret_is_text():
    """A handler may answer with its whole session as JSON, and other libraries' sessions keep nothing else."""
    session = {}
    token = csrf_token(session)
    assert verify_csrf_token(json.loads(json.dumps(session)), token)


@given(st.text(max_size=100))
def test_no_text_is_a_token(text):
    """Random text verifies for no session."""
    session = {}
    csrf_token(session)
    assert not verify_csrf_token(session, text)


def test_the_header_is_asked_for():
    """With tokens=True an unsafe request needs a token too, from the app's own pages also."""
    session = {}
    token = csrf_token(session).encode()
    own = (b"sec-fetch-site", b"same-origin")
    options = {"tokens": True, "session": session}
    assert not passes(own, **options)
    assert passes(own, (b"x-csrf-token", token), **options)
    assert not passes(own, (b"x-csrf-token", b"wrong"), **options)
    assert not passes(own, (b"x-csrf-token", token), (b"x-csrf-token", token), **options)
    assert not passes((b"sec-fetch-site", b"cross-site"), (b"x-csrf-token", token), **options)


def test_tokens_need_a_session():
    """tokens=True outside SessionMiddleware says what to do."""
    with pytest.raises(ConfigurationError, match="SessionMiddleware"):
        passes(tokens=True)


def test_a_form_on_a_real_app():
    """A FastAPI app: the page's own form works, a forged one does not, and the log-in makes old tokens worthless."""
    app = FastAPI()

    @app.get("/form", response_class=PlainTextResponse)
    async def form(request: Request):
        return csrf_token(request.session)

    @app.post("/login", response_class=PlainTextResponse)
    async def login(request: Request, csrf: str = Form("")):
        if not verify_csrf_token(request.session, csrf):
            return PlainTextResponse("no", status_code=403)
        request.session["user_id"] = 42
        return csrf_token(request.session)

    @app.post("/pay")
    async def pay(request: Request, csrf: str = Form("")):
        return {"paid": verify_csrf_token(request.session, csrf)}

    app.add_middleware(CSRFMiddleware)
    app.add_middleware(SessionMiddleware, secret_key="k" * 32, store="memory://")
    client = TestClient(app)
    before = client.get("/form").text
    assert client.post("/login", data={"csrf": "x"}).status_code == 403
    after = client.post("/login", data={"csrf": before}, headers={"Sec-Fetch-Site": "same-origin"}).text
    assert client.post("/pay", data={"csrf": before}).json() == {"paid": False}
    assert client.post("/pay", data={"csrf": after}).json() == {"paid": True}
    assert client.post("/pay", data={"csrf": after}, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403


def test_on_ravyn():
    """A Ravyn app with the middleware beside its session: another site's post is refused, its own is not."""
    from lilya.middleware import DefineMiddleware
    from ravyn import Gateway, Ravyn, post
    from ravyn import Request as RavynRequest
    from ravyn.testclient import RavynTestClient

    from roomkey.ravyn import SessionConfig

    @post("/buy")
    async def buy(request: RavynRequest) -> dict:
        request.session["bought"] = True
        return {"bought": True}

    app = Ravyn(
        routes=[Gateway(handler=buy)],
        session_config=SessionConfig(secret_key="k" * 32, store="memory://"),
        middleware=[DefineMiddleware(CSRFMiddleware)],
    )
    with RavynTestClient(app) as client:
        assert client.post("/buy", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
        assert client.post("/buy", headers={"Sec-Fetch-Site": "same-origin"}).json() == {"bought": True}


@pytest.mark.parametrize("store", ["memory://", "cookie://"])
def test_a_token_and_a_log_in_in_a_visitors_first_request(store):
    """The log-in makes the visitor's token worthless, and nothing is left to be saved after the response."""
    app = FastAPI()
    app.add_middleware(SessionMiddleware, secret_key="k" * 40, store=store)

    @app.post("/begin")
    async def begin(request: Request) -> None:
        request.session["cart"] = [1]
        csrf_token(request.session)
        request.session["user_id"] = 7

    @app.get("/")
    async def show(request: Request) -> dict[str, object]:
        return dict(request.session)

    client = TestClient(app)
    assert client.post("/begin").status_code == 200
    assert client.get("/").json() == {"cart": [1], "user_id": 7}
