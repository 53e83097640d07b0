"""Django: the life of a session, log-ins, settings, outages. The engine's API and real servers have their own files."""

import logging
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("django")

from django.contrib.auth import get_user_model
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import connections
from django.http import HttpResponse
from django.test import AsyncClient, Client, RequestFactory, override_settings

from roomkey import ConfigurationError
from roomkey.django import SessionMiddleware, SessionStore, get_manager
from roomkey.stores.memory import MemoryStore
from roomkey.testing import Clock
from tests import django_settings
from tests.django_parts import asking, content, cookie, routes
from tests.manager.parts import SECRET, WaitingStore

OTHER = "another secret that is long enough for every test"


@pytest.fixture(scope="module", autouse=True)
def _database():
    call_command("migrate", verbosity=0)
    yield
    get_user_model().objects.all().delete()
    connections.close_all()


@pytest.fixture(autouse=True)
def store():
    store = MemoryStore()
    with override_settings(**django_settings.HERE, ROOMKEY={"store": store}):
        yield store


def roomkey(**options):
    return override_settings(ROOMKEY={"store": MemoryStore(), **options})


# --- the life of a session --------------------------------------------------------------------------------------------


def test_the_life_of_a_session():
    """A visit sets no cookie, a write sets one, a log-in changes it, a log-out takes it back and kills its copy."""
    client = Client()
    answer = client.get("/")
    assert not answer.cookies and answer["Vary"] == "Cookie"
    assert "Vary" not in client.get("/nothing")
    answer = client.get("/count")
    sent = answer.cookies["sessionid"]
    assert sent["max-age"] == "1209600" and sent["httponly"] and sent["samesite"] == "Lax" and not sent["secure"]
    assert "no-store" in answer["Cache-Control"] and "private" in answer["Cache-Control"]
    first = cookie(client)
    assert not client.get("/count").cookies
    client.get("/login/ann")
    second = cookie(client)
    assert second != first and client.get("/").json()["n"] == 2 and client.get("/who").content == b"ann"
    assert content(first) == {}
    answer = client.get("/logout")
    assert answer.cookies["sessionid"]["max-age"] == "0" and "no-store" in answer["Cache-Control"]
    assert not cookie(client) and content(second) == {} and asking(second).get("/who").content == b"nobody"


async def test_the_life_of_a_session_under_asgi():
    """The same, with coroutines as views."""
    client = AsyncClient()
    answer = await client.get("/a/")
    assert not answer.cookies and answer["Vary"] == "Cookie"
    await client.get("/a/count")
    first = cookie(client)
    await client.get("/a/login/ann")
    second = cookie(client)
    assert second != first
    assert (await client.get("/a/who")).content == b"ann" == (await client.get("/who")).content
    assert (await client.get("/a/devices")).json() == [True]
    await client.get("/a/logout")
    assert not cookie(client)
    client.cookies["sessionid"] = second
    assert (await client.get("/a/")).json() == {}


def test_views_of_both_kinds_share_a_session():
    """Under WSGI, a coroutine as a view reads and writes what other views do, be the store one that waits."""
    with roomkey(store=WaitingStore()):
        client = Client()
        client.get("/a/login/ann")
        client.get("/count")
        client.get("/a/count")
        assert client.get("/a/").json()["n"] == 2 and client.get("/").json()["n"] == 2
        client.get("/a/logout")
        assert client.get("/").json() == {}


def test_a_change_deep_inside_a_value_is_saved():
    """Without `request.session.modified = True`, which Django asks for."""
    client = Client()
    for _ in range(2):
        client.get("/nested")
    assert client.get("/").json() == {"list": [1, 1]}


def test_requests_at_once_keep_each_others_changes():
    """Twenty threads write a key each, and count."""
    with roomkey(store=WaitingStore()):
        client = Client()
        client.get("/write/first")
        card = cookie(client)

        def ask(number):
            asking(card).get(f"/write/{number}")
            asking(card).get("/count")

        with ThreadPoolExecutor(20) as threads:
            list(threads.map(ask, range(20)))
        assert client.get("/").json() == {"first": 1, "n": 20} | {str(number): 1 for number in range(20)}


def test_an_error_saves_nothing():
    """Neither an unhandled one, nor a response of 500 and above, as in Django."""
    client = Client(raise_request_exception=False)
    client.get("/count")
    assert client.get("/fail").status_code == 500 and client.get("/unwell").status_code == 503
    assert client.get("/").json() == {"n": 1}


def test_messages():
    """Django's messages wait in the session, and each is shown once."""
    with override_settings(MESSAGE_STORAGE="django.contrib.messages.storage.session.SessionStorage"):
        client = Client()
        client.get("/message")
        assert client.get("/shown").json() == ["saved"] and client.get("/shown").json() == []


async def test_messages_under_asgi():
    """Django's middleware for them is no coroutine, and uses the session in a thread of its own."""
    settings = {"MESSAGE_STORAGE": "django.contrib.messages.storage.session.SessionStorage"}
    with roomkey(store=WaitingStore()), override_settings(**settings):
        client = AsyncClient()
        await client.get("/message")
        assert (await client.get("/shown")).json() == ["saved"] and (await client.get("/shown")).json() == []


def test_what_is_asked_of_the_store():
    """One load where the session is used, one write where it changes, for a log-in too; else nothing."""
    store = WaitingStore()
    with roomkey(store=store):
        client = Client()
        for page, asked in (
            ("/nothing", []),
            ("/", []),
            ("/count", ["create"]),
            ("/nothing", []),
            ("/", ["load"]),
            ("/count", ["load", "update"]),
            ("/login/zoe", ["load", "rotate"]),
            ("/who", ["load"]),
        ):
            store.asked.clear()
            client.get(page)
            assert store.asked == asked, page


# --- users ------------------------------------------------------------------------------------------------------------


def test_users_sessions():
    """They are filed under the user's primary key: listed, and ended from elsewhere."""
    first, second = Client(), Client()
    pk = int(first.get("/login/bea").content)
    second.get("/login/bea")
    assert sorted(first.get("/devices").json()) == [False, True]
    assert first.get("/elsewhere").content == b"1"
    assert first.get("/who").content == b"bea" and second.get("/who").content == b"nobody"
    assert get_manager().sync.sessions.revoke_all(pk) == 1


def test_another_user_gets_a_session_of_their_own():
    """`login()` over somebody else's session leaves nothing of it."""
    client = Client()
    client.get("/login/cleo")
    client.get("/write/secret")
    before = cookie(client)
    client.get("/login/dan")
    assert client.get("/who").content == b"dan" and "secret" not in client.get("/").json()
    assert content(before) == {}


def test_a_changed_password_keeps_this_session_alone():
    """`update_session_auth_hash` changes the ID of this session; the others end when they are used."""
    first, second = Client(), Client()
    first.get("/login/eli")
    second.get("/login/eli")
    before = cookie(first)
    first.get("/password")
    assert cookie(first) != before and first.get("/who").content == b"eli"
    card = cookie(second)
    assert second.get("/who").content == b"nobody" and content(card) == {} == content(before)


def test_the_test_clients_log_in():
    """`force_login`, `session` and `logout` of Django's test client."""
    user = get_user_model().objects.create(username="fay")
    client = Client()
    client.force_login(user)
    assert client.get("/who").content == b"fay"
    session = client.session
    session["cart"] = [1]
    session.save()
    assert client.get("/").json()["cart"] == [1]
    client.logout()
    assert client.get("/who").content == b"nobody"
    session = Client().session  # of nobody, and without content
    session["a"] = 1
    session.save()
    assert content(session.session_key)["a"] == 1


def test_the_admin():
    """A log-in and a log-out by its forms."""
    get_user_model().objects.create_superuser("root", password="root")
    client = Client(enforce_csrf_checks=True)
    page = client.get("/admin/login/")
    token = page.cookies["csrftoken"].value
    form = {"username": "root", "password": "root", "csrfmiddlewaretoken": token, "next": "/admin/"}
    assert client.post("/admin/login/", form).status_code == 302
    assert b"Log out" in client.get("/admin/").content
    card = cookie(client)
    client.post("/admin/logout/", {"csrfmiddlewaretoken": client.cookies["csrftoken"].value})
    assert asking(card).get("/admin/").status_code == 302


@pytest.mark.parametrize("ending", ["flush", "revoked"])
def test_a_log_out_is_final(ending):
    """A request that was running saves nothing: as in Django, its answer is a 400."""
    client = Client()
    pk = int(client.get("/login/gus").content)
    card = cookie(client)

    def late(request):
        request.session["read"] = request.session.get("n")
        if ending == "flush":
            asking(card).get("/logout")
        else:
            get_manager().sync.sessions.revoke_all(pk)
        return HttpResponse("late")

    with routes(late):
        answer = client.get("/view")
        assert answer.status_code == 400 and not answer.cookies
    assert content(card) == {}


def test_a_request_that_only_reads_is_not_interrupted():
    """The session ended while it ran, and there is nothing to save, though a renewal was due."""
    clock = Clock()
    with roomkey(clock=clock), override_settings(SESSION_COOKIE_AGE=1000):
        client = Client()
        client.get("/login/hal")
        card = cookie(client)
        clock.advance(900)

        def reads(request):
            name = request.user.get_username()
            get_manager().sync.sessions.revoke_all(request.user.pk)
            return HttpResponse(name)

        with routes(reads):
            assert client.get("/view").content == b"hal"
        assert content(card) == {}


# --- how long it lives ------------------------------------------------------------------------------------------------


def test_the_age_of_a_session():
    """It ends SESSION_COOKIE_AGE after its last use, and a request that only reads renews it."""
    clock = Clock()
    with roomkey(clock=clock), override_settings(SESSION_COOKIE_AGE=1000):
        client = Client()
        client.get("/count")
        clock.advance(900)
        assert client.get("/").cookies["sessionid"]["max-age"] == "1000"
        clock.advance(900)
        assert client.get("/").json() == {"n": 1}
        clock.advance(1001)
        assert client.get("/").json() == {}


def test_every_request_counts_as_use():
    """With SESSION_SAVE_EVERY_REQUEST, so does one that does not look at the session."""
    clock = Clock()
    with roomkey(clock=clock), override_settings(SESSION_COOKIE_AGE=1000):
        client = Client()
        client.get("/count")
        clock.advance(900)
        assert not client.get("/nothing").cookies
        with override_settings(SESSION_SAVE_EVERY_REQUEST=True):
            answer = Client().get("/nothing")
            assert not answer.cookies
            answer = client.get("/nothing")
        assert "sessionid" in answer.cookies and answer["Vary"] == "Cookie"


def test_expiry_in_seconds():
    """`set_expiry(n)`: that many seconds after its last use, and through a log-in."""
    clock = Clock()
    with roomkey(clock=clock):
        client = Client()
        assert client.get("/expiry/100").cookies["sessionid"]["max-age"] == "100"
        clock.advance(90)
        assert client.get("/").cookies["sessionid"]["max-age"] == "100"
        assert client.get("/login/ida").cookies["sessionid"]["max-age"] == "100"
        clock.advance(101)
        assert client.get("/").json() == {}


def test_expiry_with_the_browser():
    """`set_expiry(0)`, or SESSION_EXPIRE_AT_BROWSER_CLOSE: the cookie goes with the browser, the server's age holds."""
    clock = Clock()
    with roomkey(clock=clock), override_settings(SESSION_COOKIE_AGE=1000):
        client = Client()
        client.get("/count")
        client.get("/expiry/0")
        clock.advance(900)
        renewed = client.get("/").cookies["sessionid"]
        assert renewed["max-age"] == "" and "Max-Age" not in renewed.OutputString()
        clock.advance(1001)
        assert client.get("/").json() == {}
        with override_settings(SESSION_EXPIRE_AT_BROWSER_CLOSE=True):
            assert Client().get("/count").cookies["sessionid"]["max-age"] == ""
            assert Client().get("/expiry/50").cookies["sessionid"]["max-age"] == "50"


# --- settings ---------------------------------------------------------------------------------------------------------


def test_keys_rotate(store):
    """A cookie that an old key signed is good, and signed anew; one that an unknown key signed is none."""
    client = Client()
    client.get("/count")
    card = cookie(client)
    with override_settings(SECRET_KEY=OTHER, SECRET_KEY_FALLBACKS=[SECRET]):
        assert content(card) == {"n": 1}
        client.get("/count")
        assert cookie(client) != card
    with override_settings(SECRET_KEY=OTHER):
        assert content(cookie(client)) == {"n": 2} and content(card) == {}


def test_cookie_settings():
    """Each of Django's settings is in the cookie, and in the one that takes it back."""
    with override_settings(
        SESSION_COOKIE_NAME="visit",
        SESSION_COOKIE_DOMAIN="example.com",
        SESSION_COOKIE_PATH="/shop",
        SESSION_COOKIE_SECURE=True,
        SESSION_COOKIE_SAMESITE="Strict",
    ):
        client = Client()
        for _ in range(2):
            sent = client.get("/login/kim").cookies["visit"]
            assert sent["domain"] == "example.com" and sent["path"] == "/shop" and sent["secure"]
            assert sent["samesite"] == "Strict" and sent["httponly"]
            client.get("/logout")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"ROOMKEY": {"secret_key": "x"}}, "SECRET_KEY says it"),
        ({"ROOMKEY": {"max_age": 5}}, "SESSION_COOKIE_AGE says it"),
        ({"ROOMKEY": {"partitioned": True}}, "no such attribute"),
        ({"ROOMKEY": {"card_header": "Authorization"}}, "card_header: Django finds its sessions by their cookie"),
        ({"ROOMKEY": {"https_only": True}}, "https_only: SESSION_COOKIE_SECURE says it"),
        ({"ROOMKEY": {"https_only": False}, "SESSION_COOKIE_SECURE": True}, "SESSION_COOKIE_SECURE says it"),
        ({"ROOMKEY": {"stor": "memory://"}}, "did you mean store"),
        ({"ROOMKEY": {"store": "cookie://"}}, "keeps nothing on the server"),
        ({"ROOMKEY": ["memory://"]}, "it takes a dictionary"),
        ({"SESSION_COOKIE_HTTPONLY": False}, "always HttpOnly"),
        ({"SESSION_COOKIE_AGE": 0}, "SESSION_COOKIE_AGE is wrong: max_age"),
        ({"SESSION_COOKIE_SAMESITE": "None"}, "SESSION_COOKIE_SAMESITE is wrong"),
        ({"ROOMKEY": {"store": "memory://", "max_bytes": 0}}, "ROOMKEY is wrong: max_bytes"),
    ],
    ids=str,
)
def test_a_wrong_setting_stops_the_server(settings, said):
    """When the middleware is made, and the text names the setting."""
    with override_settings(**settings), pytest.raises(ConfigurationError, match=said):
        SessionMiddleware(lambda request: HttpResponse())


def test_the_middleware_needs_the_engine():
    """With another engine's sessions it would promise what it cannot hold."""
    with (
        override_settings(SESSION_ENGINE="django.contrib.sessions.backends.cache"),
        pytest.raises(ImproperlyConfigured, match="SESSION_ENGINE"),
    ):
        SessionMiddleware(lambda request: HttpResponse())


def test_paths_without_a_session():
    """`exclude` loads nothing, and to use the session there is an error that names the option."""
    with roomkey(exclude=["/count", "/nothing"]):
        with pytest.raises(ConfigurationError, match="exclude"):
            Client().get("/count")
        assert Client(raise_request_exception=False).get("/count").status_code == 500
        client = Client()
        client.get("/write/a")
        with override_settings(SESSION_SAVE_EVERY_REQUEST=True):
            assert client.get("/nothing").status_code == 204


def test_who_logged_in_from_where():
    """`record_client` keeps the address that Django has, and the user agent."""
    with roomkey(record_client=True):
        client = Client(REMOTE_ADDR="192.0.2.7", HTTP_USER_AGENT="Lynx")
        pk = client.get("/login/lou").content.decode()
        (info,) = get_manager().sync.sessions.of(pk)
        assert (info.ip, info.user_agent) == ("192.0.2.7", "Lynx")


def test_a_cookie_that_a_middleware_brings():
    """`request.COOKIES` counts: a middleware of the app's may have taken the key from a header, or taken it away."""
    client = Client()
    client.get("/count")

    def view(request):
        return HttpResponse(str(request.session.get("n")))

    middleware = SessionMiddleware(view)
    request = RequestFactory().get("/")
    request.COOKIES["sessionid"] = cookie(client)
    assert middleware(request).content == b"1"
    request = RequestFactory().get("/", HTTP_COOKIE=f"sessionid={cookie(client)}")
    del request.COOKIES["sessionid"]
    assert middleware(request).content == b"None"


# --- Django's own middleware ------------------------------------------------------------------------------------------


@pytest.fixture
def own_middleware():
    middleware = ["django.contrib.sessions.middleware.SessionMiddleware", *django_settings.MIDDLEWARE[1:]]
    with override_settings(MIDDLEWARE=middleware):
        yield


@pytest.mark.usefixtures("own_middleware")
def test_djangos_own_middleware():
    """It works with the engine: log-ins, a log-out that kills the copy, `clear()` too."""
    client = Client()
    for _ in range(2):
        client.get("/count")
    assert client.get("/").json() == {"n": 2}
    first = cookie(client)
    client.get("/login/ola")
    second = cookie(client)
    assert second != first and content(first) == {} and client.get("/who").content == b"ola"
    client.get("/logout")
    assert not cookie(client) and content(second) == {}

    def clears(request):
        request.session.clear()
        return HttpResponse()

    client.get("/login/ola")
    card = cookie(client)
    with routes(clears):
        client.get("/view")
    assert not cookie(client) and content(card) == {}


@pytest.mark.usefixtures("own_middleware")
def test_a_log_out_is_final_with_djangos_own_middleware():
    """Its answer is Django's 400 too."""
    client = Client()
    client.get("/login/pia")
    card = cookie(client)

    def late(request):
        request.session["late"] = request.session.get("n")
        asking(card).get("/logout")
        return HttpResponse()

    with routes(late):
        assert client.get("/view").status_code == 400
    assert content(card) == {}


def test_the_check_of_the_settings(caplog):
    """`manage.py check` warns of Django's own middleware, and shows a wrong setting."""
    caplog.set_level(logging.ERROR)
    from roomkey.django.checks import check_sessions

    assert check_sessions() == []
    with override_settings(SESSION_ENGINE="django.contrib.sessions.backends.db", MIDDLEWARE=[]):
        assert check_sessions() == []
    with override_settings(MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware"]):
        assert [message.id for message in check_sessions()] == ["roomkey.W001"]
    with override_settings(ROOMKEY={"stor": 1}):
        (error,) = check_sessions()
        assert error.id == "roomkey.E001" and "did you mean store" in error.msg


def test_sessions_that_expired_are_removed():
    """`manage.py clearsessions` purges the store."""
    clock = Clock()
    store = MemoryStore(clock=clock)
    with roomkey(store=store, clock=clock):
        Client().get("/count")
        clock.advance(1209601)
        call_command("clearsessions")
        assert not store._records


def test_the_engine_of_a_client_is_ours():
    """What tests see as `client.session` is what views get."""
    assert type(Client().session) is SessionStore
