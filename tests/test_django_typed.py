"""`typed` and `session_of` on Django, whose `request.session` is around a `roomkey.Session`."""

from dataclasses import dataclass, field

import pytest

pytest.importorskip("django")

from django.contrib.sessions.backends.signed_cookies import SessionStore as CookieStore
from django.http import HttpResponse, JsonResponse
from django.test import AsyncClient, Client, RequestFactory, override_settings

from roomkey import Session, change_field, session_of, typed
from roomkey.stores.memory import MemoryStore
from tests import django_settings
from tests.django_parts import routes

WITH_DJANGOS_OWN = ["django.contrib.sessions.middleware.SessionMiddleware", *django_settings.MIDDLEWARE[1:]]


@dataclass
class Visit:
    pages: int = 0
    theme: str = "light"
    cart: list[str] = field(default_factory=list)


def look(request):
    visit = typed(request.session, Visit)
    return JsonResponse([visit.pages, visit.theme, visit.cart], safe=False)


def add(request):
    visit = typed(request.session, Visit)
    change_field(visit, "pages", lambda pages: pages + 1)
    visit.theme = "dark"
    visit.cart.append("tea")
    return look(request)


async def add_awaited(request):
    return add(request)


@pytest.fixture(autouse=True)
def _settings():
    with override_settings(**django_settings.HERE, ROOMKEY={"store": MemoryStore()}):
        yield


def test_a_view_of_the_session():
    """To look at defaults begins no session. What is assigned, or changed in place, is there for the next request."""
    client = Client()
    with routes(look):
        answer = client.get("/view")
    assert answer.json() == [0, "light", []] and not answer.cookies and answer["Vary"] == "Cookie"
    with routes(add):
        assert client.get("/view").json() == [1, "dark", ["tea"]]
        assert client.get("/view").json() == [2, "dark", ["tea", "tea"]]
    assert client.get("/").json() == {"pages": 2, "theme": "dark", "cart": ["tea", "tea"]}


async def test_under_asgi():
    """The same."""
    client = AsyncClient()
    with routes(add_awaited):
        for number in (1, 2):
            assert (await client.get("/view")).json() == [number, "dark", ["tea"] * number]


def test_with_djangos_own_middleware():
    """It saves where `modified` says so, and an assigned field makes it say so."""

    def assign(request):
        assert not request.session.modified
        typed(request.session, Visit).theme = "dark"
        assert request.session.modified
        return HttpResponse()

    client = Client()
    with override_settings(MIDDLEWARE=WITH_DJANGOS_OWN):
        with routes(assign):
            client.get("/view")
        with routes(look):
            assert client.get("/view").json() == [0, "dark", []]


@pytest.mark.parametrize("client", [Client, AsyncClient])
async def test_session_of_a_request(client):
    """It is the `Session`, and what it is given is saved."""

    def page(request):
        session = session_of(request)
        assert type(session) is Session
        return HttpResponse(session.change("n", lambda n: n + 1, default=0))

    async def page_awaited(request):
        return page(request)

    made = client()
    with routes(page if client is Client else page_awaited):
        for number in (b"1", b"2"):
            answer = made.get("/view")
            assert (answer if client is Client else await answer).content == number


def test_a_request_without_a_session():
    """The same with the session of another engine: the error says what it takes."""
    request = RequestFactory().get("/")
    for _ in range(2):
        with pytest.raises(TypeError, match="got WSGIRequest; it takes a request"):
            session_of(request)
        request.session = CookieStore()
