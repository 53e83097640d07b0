"""`card_header` on every ASGI framework, and in tests with `client_session`."""

import asyncio

import httpx
import httpx2
import litestar
import litestar.exceptions
import pytest
import ravyn
import starlette.testclient
from litestar.testing import TestClient as LitestarClient
from ravyn.testclient import RavynTestClient

import roomkey.litestar
import roomkey.ravyn
from roomkey import SessionManager
from roomkey.testing import client_session
from tests.test_client_session import ASYNC_CLIENTS, CLIENTS, starlette_app

SECRET = "a secret that is long enough for every test here"
HEADERS = {"Authorization": "session-card", "X-Auth-Token": "x-auth-token"}  # what a request has, and a response
FRAMEWORKS = ["starlette", "fastapi", "lilya", "ravyn", "litestar"]


def sent(header, card):
    return {header: f"Bearer {card}" if header == "Authorization" else card}


@pytest.fixture(params=HEADERS)
def header(request):
    return request.param


@pytest.fixture
def manager(header):
    return SessionManager(roomkey.ravyn.SessionConfig(secret_key=SECRET, store="memory://", card_header=header))


@pytest.fixture(params=FRAMEWORKS)
def client(request, manager):
    make, kind = CLIENTS[request.param]
    with kind(make(manager)) as client:
        yield client


def test_the_story_on_every_framework(client, header):
    """A look gives no card, a write gives one, use gives none again, a log-out takes it back, and a copy is dead."""
    answer = client.get("/")
    assert answer.json() == {"is_new": True} and HEADERS[header] not in answer.headers
    answer = client.get("/add")
    card = answer.headers[HEADERS[header]]
    assert answer.headers["cache-control"] == "no-store" and "set-cookie" not in answer.headers
    answer = client.get("/", headers=sent(header, card))
    assert answer.json() == {"is_new": False, "added": 1}
    assert answer.headers["vary"] == header and HEADERS[header] not in answer.headers
    answer = client.get("/logout", headers=sent(header, card))
    assert answer.headers[HEADERS[header]] == "" and "set-cookie" not in answer.headers
    assert client.get("/", headers=sent(header, card)).json() == {"is_new": True}


def test_a_test_logs_its_client_in(client, manager, header):
    """The card is one of the client's default headers, a log-out takes it out, and the jar stays empty."""
    with client_session(client, manager) as session:
        assert session.is_new
        session["user_id"] = 7
    assert client.get("/").json() == {"is_new": False, "user_id": 7}
    before = client.headers[header]
    with client_session(client, manager) as session:
        session["theme"] = "dark"
        session.reauthenticated()
    assert client.headers[header] not in ("", before)
    assert client.get("/").json() == {"is_new": False, "user_id": 7, "theme": "dark"}
    with client_session(client, manager) as session:
        session.clear()
    assert header not in client.headers and not client.cookies
    assert client.get("/").json() == {"is_new": True}


@pytest.mark.parametrize("name", ASYNC_CLIENTS)
def test_a_test_that_is_a_coroutine(name, manager, header):
    """`async with` does the same."""
    make, kind = ASYNC_CLIENTS[name]
    options = {"base_url": "http://testserver.local"}
    if name in ("httpx", "httpx2"):
        module = {"httpx": httpx, "httpx2": httpx2}[name]
        client = kind(transport=module.ASGITransport(app=make(manager)), **options)
    else:
        client = kind(make(manager), **options)

    async def story():
        async with manager, client:
            async with client_session(client, manager) as session:
                session["user_id"] = 7
            return (await client.get("/")).json()

    assert asyncio.run(story()) == {"is_new": False, "user_id": 7}


def test_a_websocket_of_a_test_client(manager):
    """The handshake brings the header along."""
    with starlette.testclient.TestClient(starlette_app(manager)) as client:
        with client_session(client, manager) as session:
            session["user_id"] = 7
        with client.websocket_connect("/socket") as socket:
            assert socket.receive_json() == {"user_id": 7}


def test_a_client_without_headers(manager):
    """It is refused by name, and the message says what would do."""

    class Client:
        base_url = "http://testserver"
        cookies = starlette.testclient.TestClient(None).cookies

    with pytest.raises(TypeError, match="got Client as the client, which has no default headers"):
        client_session(Client(), manager)


@pytest.mark.parametrize("framework", ["ravyn", "litestar"])
def test_an_exception_that_is_an_answer(framework, manager, header):
    """Its response hands the card out, also where it has a cookie of the app's: the two are different headers."""
    if framework == "ravyn":

        @ravyn.get("/")
        async def page(request: ravyn.Request) -> None:
            request.session["user_id"] = 7
            raise ravyn.HTTPException(status_code=418, headers={"Set-Cookie": "theme=dark"})

        client = RavynTestClient(ravyn.Ravyn(routes=[ravyn.Gateway(handler=page)], session_config=manager.config))
    else:

        @litestar.get("/")
        async def page(request: litestar.Request) -> None:
            request.session["user_id"] = 7
            raise litestar.exceptions.HTTPException(status_code=418, headers={"Set-Cookie": "theme=dark"})

        client = LitestarClient(roomkey.litestar.SessionMiddleware(litestar.Litestar([page]), manager))
    with client:
        answer = client.get("/")
        assert answer.status_code == 418 and answer.headers["set-cookie"] == "theme=dark"
        assert len(answer.headers[HEADERS[header]]) == 80 and answer.headers["cache-control"] == "no-store"
        assert client.get("/", headers=sent(header, answer.headers[HEADERS[header]])).status_code == 418
