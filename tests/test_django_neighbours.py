"""Django's sessions beside other middlewares, caches and cookies, and in projects that go about it in their own way."""

import pytest
from django.contrib.auth import get_user_model, user_logged_in
from django.core.cache import cache
from django.core.management import call_command
from django.db import connections
from django.http import HttpResponse
from django.template import engines
from django.test import AsyncClient, Client, override_settings
from django.urls import path

from roomkey.django import SessionStore, get_manager
from roomkey.stores.memory import MemoryStore
from tests import django_settings, django_site
from tests.django_parts import cookie

ENGINE, *INNER = django_settings.MIDDLEWARE


def cart(request):
    """Make a key for a visitor, as many shops do."""
    if not request.session.session_key:
        request.session.create()
    return HttpResponse(request.session.session_key)


def template(request):
    request.session["cart"] = {"tea": 2}
    page = "{{ request.session.cart.tea }} {{ request.user.is_authenticated }} {{ request.session.nothing }}"
    return HttpResponse(engines["django"].from_string(page).render({}, request))


def names(request):
    request.session["name"] = request.GET["name"]
    return HttpResponse(request.GET["name"])


def early(request):
    request.session["early"] = True
    request.session.save()
    raise ZeroDivisionError


SHARED = HttpResponse("hello", headers={"X-App": "1"})


def shared(request):
    if "name" in request.GET:
        request.session["name"] = request.GET["name"]
    return SHARED


async def shared_async(request):
    if "name" in request.GET:
        await request.session.aset("name", request.GET["name"])
    return SHARED


urlpatterns = [
    *django_site.urlpatterns,
    path("shared", shared),
    path("shared-async", shared_async),
    path("cart", cart),
    path("template", template),
    path("names", names),
    path("early", early),
]


@pytest.fixture(scope="module", autouse=True)
def _database():
    call_command("migrate", verbosity=0)
    yield
    get_user_model().objects.all().delete()
    connections.close_all()


@pytest.fixture(autouse=True)
def store():
    store = MemoryStore()
    with override_settings(**django_settings.HERE | {"ROOT_URLCONF": __name__}, ROOMKEY={"store": store}):
        yield store
    cache.clear()


def bringing(*cards):
    """Return a client whose every request has these cookies of one name."""
    return Client(HTTP_COOKIE="; ".join(f"sessionid={card}" for card in cards))


@pytest.mark.parametrize("page", ["/shared", "/shared-async"])
async def test_a_view_that_returns_one_response_for_everybody(page):
    """Each gets their own cookie with it, and who has none gets none."""
    ann, ben, visitor = [await AsyncClient().get(f"{page}{query}") for query in ("?name=ann", "?name=ben", "")]
    assert cookie(ann) and cookie(ben) and cookie(ann) != cookie(ben)
    assert not visitor.cookies and "Cache-Control" not in visitor
    assert {each.content for each in (ann, ben, visitor)} == {b"hello"} and ann["X-App"] == "1"
    assert not SHARED.cookies and "Vary" not in SHARED


def test_a_log_out_ends_what_every_cookie_opens():
    """A browser may hold several of one name, of other paths or domains."""
    cards = []
    for name in ("ann", "bob"):
        client = Client()
        client.get(f"/login/{name}")
        cards.append(cookie(client))
    assert bringing(*cards).get("/who").content == b"ann"
    assert bringing("forged", *cards).get("/who").content == b"ann"
    bringing(*cards).get("/logout")
    for card in cards:
        assert bringing(card).get("/who").content == b"nobody"


def test_djangos_cache_keeps_no_cookie():
    """A page in its cache would hand one visitor's session to the next who sends the same other cookies."""
    update, fetch = (f"django.middleware.cache.{name}CacheMiddleware" for name in ("Update", "FetchFrom"))
    cards = []
    with override_settings(MIDDLEWARE=[update, ENGINE, *INNER, fetch]):
        for _ in range(2):
            client = Client()
            client.cookies["theme"] = "dark"
            client.get("/names?name=ann")
            cards.append(cookie(client))
    assert None not in cards and cards[0] != cards[1]


def test_csrf_tokens_in_the_session():
    """CSRF_USE_SESSIONS: Django keeps its token there, and a log-in rotates both."""
    get_user_model().objects.create_superuser("root", password="root")
    with override_settings(CSRF_USE_SESSIONS=True):
        client = Client(enforce_csrf_checks=True)
        page = client.get("/admin/login/").content.decode()
        token = page.partition('name="csrfmiddlewaretoken" value="')[2].partition('"')[0]
        before = cookie(client)
        form = {"username": "root", "password": "root", "csrfmiddlewaretoken": token, "next": "/admin/"}
        assert client.post("/admin/login/", form | {"csrfmiddlewaretoken": "x" * 64}).status_code == 403
        assert client.post("/admin/login/", form).status_code == 302
        assert cookie(client) != before and b"Log out" in client.get("/admin/").content


def test_a_visitors_key():
    """What `create` makes is what the browser gets, and the next request finds it."""
    client = Client()
    key = client.get("/cart").content.decode()
    assert cookie(client) == key and client.get("/cart").content.decode() == key


def test_a_receiver_that_keeps_keys():
    """One that reads `session_key` at a log-in gets the key that the browser gets."""
    seen = []

    def note(request, **_):
        seen.append(request.session.session_key)

    user_logged_in.connect(note)
    try:
        for client in (Client(), Client()):
            client.get("/login/cleo")
            assert cookie(client) == seen[-1]
        SessionStore().delete(seen[0])  # "log out elsewhere", as projects do it with such a list
        assert bringing(seen[0]).get("/who").content == b"nobody"
        assert bringing(seen[1]).get("/who").content == b"cleo"
    finally:
        user_logged_in.disconnect(note)


async def test_a_receiver_that_keeps_keys_under_asgi():
    """The same for `alogin`."""
    seen = []

    def note(request, **_):
        seen.append(request.session.session_key)

    user_logged_in.connect(note)
    try:
        client = AsyncClient()
        await client.get("/a/count")
        await client.get("/a/login/dora")
        assert cookie(client) == seen[-1]
    finally:
        user_logged_in.disconnect(note)


def test_templates():
    """They read the session as they read a dictionary, and find nothing of Roomkey's."""
    assert Client().get("/template").content == b"2 False "


def test_what_was_saved_before_an_error_stays():
    """Its cookie goes out with the error page: else nobody could find it."""
    client = Client(raise_request_exception=False)
    assert client.get("/early").status_code == 500
    assert client.get("/").json() == {"early": True}


def test_a_projects_own_engine():
    """A subclass of SessionStore, under the middleware and in the check."""
    from roomkey.django.checks import check_sessions

    with override_settings(SESSION_ENGINE="tests.django_own_engine"):
        client = Client()
        client.get("/count")
        assert client.get("/").json() == {"n": 1} and type(client.session) is not SessionStore
        assert check_sessions() == []


def test_no_key_in_the_store(store):
    """What is stored opens nothing: neither the key nor the cookie is there."""
    client = Client()
    client.get("/login/eve")
    card = cookie(client)
    handle = get_manager().sync.load(f"sessionid={card}").handle
    for key, record in store._records.items():
        assert card not in key and card.encode() not in record.data
        assert bringing(key).get("/who").content == b"nobody"
    assert bringing(handle).get("/who").content == b"nobody"
