"""Django while the store is down: a 503 in time, whoever meets the outage."""

import asyncio

import pytest
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.db import connections
from django.http import HttpResponse
from django.test import AsyncClient, Client, RequestFactory, override_settings

from roomkey import StoreUnavailable
from roomkey.django import SessionMiddleware, get_manager
from tests import django_settings
from tests.django_parts import cookie, routes
from tests.manager.parts import WaitingStore


@pytest.fixture(scope="module", autouse=True)
def _database():
    call_command("migrate", verbosity=0)
    yield
    get_user_model().objects.all().delete()
    connections.close_all()


@pytest.fixture(autouse=True)
def broken():
    store = WaitingStore()
    with override_settings(**django_settings.HERE, ROOMKEY={"store": store}):
        yield store
        get_manager().sync.close()


@pytest.mark.parametrize("operation", ["load", "update"])
def test_a_store_that_is_down(broken, operation):
    """A request that needs it is a 503 with Retry-After, and one that does not is served."""
    client = Client()
    client.get("/login/max")
    broken.failing = {operation}
    answer = client.get("/count")
    assert answer.status_code == 503 and answer["Retry-After"] == "5" and answer["Cache-Control"] == "no-store"
    assert "sessionid" not in answer.cookies and client.get("/nothing").status_code == 204
    assert Client().get("/").status_code == 200
    broken.failing = set()
    assert client.get("/who").content == b"max"


async def test_a_store_that_is_down_under_asgi(broken):
    """The same for coroutines as views, and for others."""
    client = AsyncClient()
    await client.get("/a/login/ned")
    broken.failing = {"load"}
    for page in ("/a/count", "/count", "/a/who", "/who"):
        assert (await client.get(page)).status_code == 503
    assert (await client.get("/nothing")).status_code == 204


def _peeks(get_response):
    """A middleware within the session's that uses it."""

    def middleware(request):
        request.session.get("n")
        return get_response(request)

    return middleware


def _sets_header(get_response):
    def middleware(request):
        response = get_response(request)
        response["Access-Control-Allow-Origin"] = "*"
        return response

    return middleware


def test_an_outage_that_a_middleware_meets(broken):
    """Django makes a 500 of its error, which goes out as a 503, with the headers that the app puts on each response."""
    client = Client()
    client.get("/count")
    broken.failing = {"load"}
    inner = [f"{__name__}._sets_header", f"{__name__}._peeks"]
    with override_settings(MIDDLEWARE=[django_settings.MIDDLEWARE[0], *inner]):
        answer = Client(raise_request_exception=False, HTTP_COOKIE=f"sessionid={cookie(client)}").get("/nothing")
    assert answer.status_code == 503 and answer["Access-Control-Allow-Origin"] == "*"


def test_an_outage_is_waited_for_once(broken):
    """A request whose session could not be loaded does not ask the store again: its error page would wait too."""
    asked = []

    def view(request):
        for _ in range(3):
            try:
                request.session.get("n")
            except StoreUnavailable as error:
                asked.append(error)
        return HttpResponse()

    client = Client()
    client.get("/count")
    broken.failing = {"load"}
    with routes(view):
        assert client.get("/view").status_code == 200
    assert len(asked) == 3 and len(set(map(id, asked))) == 1


def test_a_page_of_ones_own(broken):
    """A subclass of the middleware answers for the outage."""

    class Mine(SessionMiddleware):
        def unavailable(self, request, error):
            return HttpResponse(f"in {error.retry_after} s", status=503)

    client = Client()
    client.get("/count")
    broken.failing = {"load"}
    request = RequestFactory().get("/", HTTP_COOKIE=f"sessionid={cookie(client)}")
    middleware = Mine(lambda request: HttpResponse())
    middleware.process_request(request)
    with pytest.raises(StoreUnavailable) as caught:
        request.session.get("n")
    assert middleware.process_exception(request, caught.value).content == b"in 5 s"


def test_an_outage_with_djangos_own_middleware(broken):
    """It is a 500: nobody makes a 503 of it."""
    client = Client()
    client.get("/count")
    own = ["django.contrib.sessions.middleware.SessionMiddleware", *django_settings.MIDDLEWARE[1:]]
    broken.failing = {"load"}
    again = Client(raise_request_exception=False, HTTP_COOKIE=f"sessionid={cookie(client)}")
    with override_settings(MIDDLEWARE=own):
        assert again.get("/").status_code == 500


class HangingStore(WaitingStore):
    """A store that never answers a load."""

    async def load(self, key):
        await asyncio.Event().wait()


def test_a_store_that_hangs_is_a_503():
    """After `store_timeout`, and the page that uses no session is served."""
    with override_settings(ROOMKEY={"store": HangingStore(), "store_timeout": 0.05}):
        client = Client()
        client.get("/count")
        assert client.get("/").status_code == 503 and client.get("/nothing").status_code == 204
        get_manager().sync.close()


async def test_a_store_that_hangs_is_a_503_under_asgi():
    """The same, and the event loop goes on meanwhile."""
    with override_settings(ROOMKEY={"store": HangingStore(), "store_timeout": 0.05}):
        client = AsyncClient()
        await client.get("/a/count")
        asked = asyncio.create_task(client.get("/a/"))
        assert (await AsyncClient().get("/nothing")).status_code == 204
        assert (await asked).status_code == 503


def saves(request):
    request.session["saved"] = True
    request.session.save()
    return HttpResponse("saved")


def saves_in_group(request):
    try:
        saves(request)
    except StoreUnavailable as error:
        raise ExceptionGroup("several", [error]) from None


def logs_in_and_fails(request):
    """Log in and save; the store fails after that."""
    request.session["_auth_user_id"] = "7"
    request.session.save()
    get_manager().config.store.failing = {"update"}
    request.session["more"] = 1
    return HttpResponse("")


@pytest.mark.parametrize("view", [saves, saves_in_group])
def test_an_outage_within_a_view(broken, view):
    """Also where it comes in a group. Nothing is half saved."""
    client = Client()
    client.get("/count")
    broken.failing = {"update"}
    with routes(view):
        answer = client.get("/view")
    assert answer.status_code == 503 and not answer.cookies
    broken.failing = set()
    assert client.get("/").json() == {"n": 1}


def test_what_was_saved_before_the_outage_stays(broken):
    """A user who has just logged in is logged in: the 503 brings the cookie."""
    client = Client()
    client.get("/count")
    with routes(logs_in_and_fails):
        answer = client.get("/view")
    assert answer.status_code == 503 and "sessionid" in answer.cookies
    broken.failing = set()
    assert client.get("/").json() == {"n": 1, "_auth_user_id": "7"}


class Apologizes(SessionMiddleware):
    """Its page for an outage is no error."""

    def unavailable(self, request, error):
        return HttpResponse("sorry")


def half_done(request):
    request.session["half"] = True
    raise StoreUnavailable("asked elsewhere")


def _half_done(get_response):
    def middleware(request):
        request.session["half"] = True
        get_manager().config.store.failing = {"update"}
        try:
            request.session.save()
        finally:
            get_manager().config.store.failing = set()

    return middleware


@pytest.mark.parametrize("inner", [None, "_half_done"])
def test_a_page_that_is_no_error_saves_nothing_either(inner):
    """Whoever met the outage: what was done before it may be half of what was to be done."""
    client = Client()
    client.get("/count")
    middleware = [f"{__name__}.Apologizes"] + [f"{__name__}.{inner}"] * (inner is not None)
    with override_settings(MIDDLEWARE=middleware), routes(half_done):
        again = Client(raise_request_exception=False, HTTP_COOKIE=f"sessionid={cookie(client)}")
        assert again.get("/view").content == b"sorry"
    assert client.get("/").json() == {"n": 1}


def _saves(get_response):
    """A middleware within the session's that saves."""

    def middleware(request):
        saves(request)
        return get_response(request)

    return middleware


def test_a_save_that_a_middleware_tries(broken):
    """Django makes a 500 of its error too."""
    client = Client()
    client.get("/count")
    broken.failing = {"update"}
    with override_settings(MIDDLEWARE=[django_settings.MIDDLEWARE[0], f"{__name__}._saves"]):
        answer = Client(raise_request_exception=False, HTTP_COOKIE=f"sessionid={cookie(client)}").get("/nothing")
    assert answer.status_code == 503
