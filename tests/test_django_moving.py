"""DjangoSessions: the sessions of Django's own engines move in."""

import pytest
from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.contrib.auth import get_user_model
from django.core.cache import cache
from django.core.management import call_command
from django.db import connections
from django.test import AsyncClient, Client, override_settings
from django.utils.module_loading import import_string

from roomkey import ConfigurationError
from roomkey.django import DjangoSessions, get_manager
from roomkey.legacy import DjangoCookie
from roomkey.stores.memory import MemoryStore
from roomkey.testing import Clock
from tests import django_settings

BACKENDS = "django.contrib.sessions.backends"
DATABASE = f"{BACKENDS}.db"


@pytest.fixture(scope="module", autouse=True)
def _database():
    call_command("migrate", verbosity=0)
    yield
    cache.clear()
    get_user_model().objects.all().delete()
    connections.close_all()


@pytest.fixture(autouse=True)
def _settings():
    with override_settings(**django_settings.HERE):
        yield
        get_manager().sync.close()


def moving(*readers, **options):
    return override_settings(ROOMKEY={"store": MemoryStore(), "legacy": list(readers), **options})


def logged_in(engine, name):
    """Return a client that has logged in before the move, and its cookie."""
    middleware = ["django.contrib.sessions.middleware.SessionMiddleware", *django_settings.MIDDLEWARE[1:]]
    with override_settings(SESSION_ENGINE=engine, MIDDLEWARE=middleware):
        user, _ = get_user_model().objects.get_or_create(username=name)
        client = Client()
        client.force_login(user)
        return client.cookies["sessionid"].value, user.pk


def asking(card, kind=Client):
    client = kind()
    client.cookies["sessionid"] = card
    return client


@pytest.mark.parametrize("engine", ["db", "cached_db", "cache", "file", "signed_cookies"])
def test_a_user_stays_logged_in(engine, tmp_path):
    """The session moves in with the first request, under the user; the old cookie opens nothing after the log-out."""
    folder = override_settings(SESSION_FILE_PATH=str(tmp_path))
    with folder, moving(DjangoSessions(f"{BACKENDS}.{engine}")):
        old, pk = logged_in(f"{BACKENDS}.{engine}", f"ann in {engine}")
        client = asking(old)
        assert client.get("/who").content.decode() == f"ann in {engine}"
        assert client.cookies["sessionid"].value != old and client.get("/devices").json() == [True]
        assert len(get_manager().sync.sessions.of(pk)) == 1
        client.get("/logout")
        assert asking(old).get("/who").content == b"nobody"


def test_the_old_engine_forgets_the_session():
    """Its row has gone."""
    old, _ = logged_in(DATABASE, "bob")
    with moving(DjangoSessions(DATABASE)):
        asking(old).get("/who")
    assert not import_string(f"{DATABASE}.SessionStore")(old).exists(old)


async def test_it_moves_in_under_asgi():
    """By views of both kinds. A view that is no coroutine holds its thread meanwhile, and the reader needs another."""
    for page in ("/who", "/a/who"):
        old, _ = await sync_to_async(logged_in)(DATABASE, "cleo")
        with moving(DjangoSessions(DATABASE)):
            async with ThreadSensitiveContext():
                assert (await asking(old, AsyncClient).get(page)).content == b"cleo"
    await sync_to_async(connections.close_all)()


def test_a_cookie_of_the_same_name_for_another_domain():
    """It is taken back, beside the new one."""
    old, _ = logged_in(DATABASE, "eli")
    with moving(DjangoSessions(DATABASE, domain="example.com")):
        answer = asking(old).get("/who")
        sent = [morsel.OutputString() for morsel in answer.cookies.values()]
    assert answer.cookies["sessionid"].value and len(sent) == 2
    assert [text for text in sent if text.startswith("sessionid=;") and "Domain=example.com" in text]


def test_what_is_no_session():
    """A cookie that the engine does not know is an anonymous request."""
    with moving(DjangoSessions(DATABASE)):
        for card in ("x" * 32, "ü", "a"):
            assert asking(card).get("/who").content == b"nobody"


def test_signed_cookies_are_read_without_djangos_settings_too():
    """`DjangoCookie` needs the old key alone."""
    old, _ = logged_in(f"{BACKENDS}.signed_cookies", "dan")
    clock = Clock()
    with moving(DjangoCookie(django_settings.HERE["SECRET_KEY"]), clock=clock):
        assert asking(old).get("/who").content == b"dan"


@pytest.mark.parametrize("options", [{"engine": 1}, {"engine": "roomkey.django"}, {"path": "x"}, {"cookie_name": ""}])
def test_wrong_options(options):
    """They are errors that name the option."""
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        DjangoSessions(**options)
