"""`https_only="auto"` on Django: `SESSION_COOKIE_SECURE` is False there by default, and the request says it."""

import pytest

pytest.importorskip("django")

from django.http import HttpResponse
from django.test import AsyncClient, Client, override_settings

from roomkey.django import get_manager
from roomkey.stores.memory import MemoryStore
from tests import django_settings
from tests.django_parts import asking, routes

DJANGOS_OWN = ["django.contrib.sessions.middleware.SessionMiddleware"]


@pytest.fixture(autouse=True)
def _settings():
    with override_settings(**django_settings.HERE, ROOMKEY={"store": MemoryStore()}):
        yield


def cycle(request):
    request.session.cycle_key()
    return HttpResponse()


def is_secure(answer):
    return bool(answer.cookies["sessionid"]["secure"])


@pytest.mark.parametrize("value", [False, None])
def test_the_request_says_it(value):
    """Nobody can tell Django's own False from a setting: both go by the request, and so does a log-out."""
    with override_settings(SESSION_COOKIE_SECURE=value):
        for secure in (True, False):
            client = Client()
            assert is_secure(client.get("/count", secure=secure)) is secure
            assert is_secure(client.get("/logout", secure=secure)) is secure


async def test_under_asgi():
    """The same."""
    for secure in (True, False):
        assert is_secure(await AsyncClient().get("/count", secure=secure)) is secure


def test_djangos_setting_for_a_proxy():
    """Django alone says whether a proxy's header counts."""
    sent = {"X-Forwarded-Proto": "https"}
    assert not is_secure(Client().get("/count", headers=sent))
    with override_settings(SECURE_PROXY_SSL_HEADER=("HTTP_X_FORWARDED_PROTO", "https")):
        assert is_secure(Client().get("/count", headers=sent))


def test_a_plain_response_keeps_a_secure_card_secure():
    """Where the project was not told of a proxy, one response must not take the attribute away."""
    client = Client()
    client.get("/count", secure=True)
    other = asking(client.cookies["sessionid"].value)
    with routes(cycle):
        answer = other.get("/view")
    assert is_secure(answer) and answer.cookies["sessionid"].value != client.cookies["sessionid"].value
    assert is_secure(other.get("/logout"))


def test_true_and_never():
    """`SESSION_COOKIE_SECURE = True` says it for every request, and `ROOMKEY["https_only"] = False` for none."""
    with override_settings(SESSION_COOKIE_SECURE=True):
        assert get_manager().config.https_only is True and is_secure(Client().get("/count"))
    with override_settings(ROOMKEY={"store": MemoryStore(), "https_only": False}):
        assert get_manager().config.https_only is False and not is_secure(Client().get("/count", secure=True))


def test_djangos_own_middleware():
    """It writes the cookie by the setting alone, and what it wrote goes on working."""
    with override_settings(MIDDLEWARE=DJANGOS_OWN + django_settings.MIDDLEWARE[1:]):
        client = Client()
        assert not is_secure(client.get("/count", secure=True))
        assert client.get("/count", secure=True).content == b"2"
