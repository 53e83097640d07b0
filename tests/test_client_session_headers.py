"""`client_session` with `card_header`, for the clients that are not made of httpx: the card is a default header."""

import pytest

from roomkey import Request, SessionManager
from roomkey.testing import client_session
from tests.manager.parts import SECRET

HEADERS = ["Authorization", "X-Auth-Token"]


@pytest.fixture(params=HEADERS)
def header(request):
    return request.param


def test_flask(header):
    """A log-in, what the app has added, a log-out by the test; and a header that a request brings itself counts."""
    pytest.importorskip("flask")
    from tests.flask_site import make_app

    app, roomkey = make_app(card_header=header)
    manager = roomkey.manager
    client = app.test_client(use_cookies=False)
    with client_session(client, manager) as session:
        assert session.is_new
        session["user_id"] = "ann"
    assert client.get("/").json == {"user_id": "ann"}
    client.get("/count")
    assert app.test_client().get("/").json == client.get("/", headers={header: "x"}).json == {}
    with client_session(client, manager) as session:
        assert session == {"user_id": "ann", "n": 1}
        session.clear()
    assert client.get("/").json == {}


async def test_quart(header):
    """The same, in a WebSocket too."""
    pytest.importorskip("quart")
    from tests.test_quart import make_app

    app, roomkey = make_app(card_header=header)
    manager = roomkey.manager
    client = app.test_client(use_cookies=False)

    async def shown(**options):
        return await (await client.get("/", **options)).json

    async with client_session(client, manager) as session:
        assert session.is_new
        session["user_id"] = "ann"
    assert await shown() == {"user_id": "ann"}
    await client.get("/count")
    assert await shown(headers={header: "x"}) == {}
    async with client.websocket("/chat") as socket:
        await socket.send("said")
        assert await socket.receive() == "['n', 'said', 'user_id']"
    async with client_session(client, manager) as session:
        assert session == {"user_id": "ann", "n": 1, "said": True}
        session.clear()
    assert await shown() == {}


async def test_aiohttp(header):
    """The same on aiohttp."""
    pytest.importorskip("aiohttp")
    from aiohttp.test_utils import TestClient, TestServer

    from tests.aiohttp_site import make_app

    app, manager = make_app(card_header=header)
    async with TestClient(TestServer(app)) as client:

        async def shown(**options):
            return await (await client.get("/", **options)).json()

        async with client_session(client, manager) as session:
            assert session.is_new
            session["user_id"] = "ann"
        assert await shown() == {"user_id": "ann"}
        await client.get("/count")
        assert await shown(headers={header: "x"}) == {}
        async with client_session(client, manager) as session:
            assert session == {"user_id": "ann", "n": 1}
            session.clear()
        assert await shown() == {} and len(client.session.cookie_jar) == 0


@pytest.mark.parametrize("kind", ["Client", "AsyncClient"])
async def test_django(header, kind):
    """Views of Django's that ask a manager themselves, for `roomkey.django` is for cookies."""
    pytest.importorskip("django")
    import django.test
    from django.http import JsonResponse
    from django.urls import path

    from tests import django_settings

    manager = SessionManager(secret_key=SECRET, store="memory://", card_header=header)

    def page(request):
        return JsonResponse(manager.sync.load(Request(headers=list(request.headers.items()))).copy())

    with django.test.override_settings(**{**django_settings.HERE, "MIDDLEWARE": [], "ROOT_URLCONF": (path("", page),)}):
        client = getattr(django.test, kind)()

        async def shown():
            answer = client.get("/")
            return (answer if kind == "Client" else await answer).json()

        async with client_session(client, manager) as session:
            session["user_id"] = "ann"
        assert await shown() == {"user_id": "ann"}
        async with client_session(client, manager) as session:
            assert session == {"user_id": "ann"}
            session.clear()
        assert await shown() == {}
