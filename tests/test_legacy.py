"""Readers of other libraries' sessions, held against cookies that the libraries themselves made."""

import asyncio
import base64
import contextlib
import dataclasses
import datetime as dt
import hashlib
import json
import logging
import math
import time
import uuid
import warnings
import zlib
from collections import Counter
from unittest import mock

import django
import flask
import httpx
import itsdangerous
import pytest
import redis
import redis.asyncio
import starsessions.stores.redis
from django.conf import settings as django_settings
from django.http import HttpRequest, HttpResponse
from flask.json.tag import TaggedJSONSerializer
from hypothesis import example, given
from hypothesis import strategies as st
from lilya.apps import Lilya
from lilya.middleware import DefineMiddleware
from lilya.middleware.sessions import SessionMiddleware as LilyaMiddleware
from lilya.routing import Path
from lilya.testclient import TestClient as LilyaClient
from litestar import Litestar
from litestar import Request as LitestarRequest
from litestar import get as litestar_get
from litestar.middleware.session.server_side import ServerSideSessionConfig
from litestar.stores.memory import MemoryStore as LitestarMemory
from litestar.stores.redis import RedisStore as LitestarStore
from markupsafe import Markup
from pydantic import SecretStr
from ravyn import Gateway, Ravyn
from ravyn import get as ravyn_get
from ravyn.core.config.session import SessionConfig as RavynSessionConfig
from ravyn.requests import Request as RavynRequest
from ravyn.testclient import RavynTestClient
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware as StarletteMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from roomkey import (
    ConfigurationError,
    LoginTooOld,
    ResponseStarted,
    SessionConfig,
    SessionMiddleware,
    Sessions,
    StoreUnavailable,
)
from roomkey.legacy import (
    DjangoCookie,
    FlaskCookie,
    LegacySession,
    LilyaCookie,
    LitestarRedis,
    RavynCookie,
    StarletteCookie,
    StarsessionsRedis,
)
from roomkey.legacy.move_in import MoveIn
from roomkey.legacy.readers import checked_readers
from roomkey.stores.memory import MemoryStore
from roomkey.testing.clock import Clock
from roomkey.wire import codec
from roomkey.wire.cookies import find_cookies
from roomkey.wire.keys import store_key
from tests.world import CountingStore

KEY = "the old app's key, long enough that nobody guesses it"
OTHER = "another key, just as long as the old app's own key is"
SECRET = "a secret that is long enough for every test here"
DAY = 24 * 60 * 60
DATA = {"user_id": 7, "cart": [{"tea": 2}, "ümlaut ☃"], "rate": 1.5, "yes": True, "none": None}


def at_once(coroutine):
    """Run what never waits, without the cost of a loop for each of many examples."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waits")


def _sent_back(set_cookie):
    """Return the name of a cookie and the value that Roomkey finds when a browser sends it back as it was set."""
    pair = set_cookie.partition(";")[0]
    name = pair.partition("=")[0]
    (value,) = find_cookies([(b"cookie", b"a=b; " + pair.encode() + b"; c=d")], name.encode())
    return name, value


# --- the libraries ----------------------------------------------------------------------------------------------------


def starlette_cookie(key, data, **options):
    async def fill(request):
        request.session.update(data)
        return PlainTextResponse("")

    app = Starlette(routes=[Route("/", fill)], middleware=[Middleware(StarletteMiddleware, secret_key=key, **options)])
    return _sent_back(TestClient(app).get("/").headers["set-cookie"])


def lilya_cookie(key, data, **options):
    async def fill(request):
        request.session.update(data)
        return "ok"

    app = Lilya(routes=[Path("/", fill)], middleware=[DefineMiddleware(LilyaMiddleware, secret_key=key, **options)])
    return _sent_back(LilyaClient(app).get("/").headers["set-cookie"])


def ravyn_cookie(key, data, **options):
    @ravyn_get("/")
    async def fill(request: RavynRequest) -> str:
        request.session.update(data)
        return "ok"

    app = Ravyn(routes=[Gateway(handler=fill)], session_config=RavynSessionConfig(secret_key=key, **options))
    return _sent_back(RavynTestClient(app).get("/").headers["set-cookie"])


def flask_cookie(key, data, interface=None, **config):
    app = flask.Flask("old")
    app.secret_key = key
    app.config.update(config)
    if interface is not None:
        app.session_interface = interface

    @app.get("/")
    def fill():
        flask.session.update(data)
        return ""

    return _sent_back(app.test_client().get("/").headers["set-cookie"])


def django_cookie(key, data, **options):
    from django.contrib.sessions.middleware import SessionMiddleware as DjangoMiddleware
    from django.test.utils import override_settings

    def fill(request):
        request.session.update(data)
        return HttpResponse()

    with override_settings(SECRET_KEY=key, **options):
        response = DjangoMiddleware(fill)(HttpRequest())
        return _sent_back(response.cookies[django_settings.SESSION_COOKIE_NAME].OutputString())


@pytest.fixture(scope="module", autouse=True)
def _django():
    if not django_settings.configured:
        django_settings.configure(
            SECRET_KEY=OTHER, SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies", USE_TZ=True
        )
        django.setup()


@dataclasses.dataclass(frozen=True)
class Signed:
    cookie: object  # makes one
    reader: object
    max_age: int  # seconds
    separator: bytes = b"."
    format: str = "itsdangerous, unsalted"  # readers of one format take each other's cookies


SIGNED = {
    "Starlette": Signed(starlette_cookie, StarletteCookie, 14 * DAY),
    "Lilya": Signed(lilya_cookie, LilyaCookie, 14 * DAY),
    "Ravyn": Signed(ravyn_cookie, RavynCookie, 180 * DAY),
    "Flask": Signed(flask_cookie, FlaskCookie, 31 * DAY, format="Flask"),
    "Django": Signed(django_cookie, DjangoCookie, 14 * DAY, b":", format="Django"),
}
by_library = pytest.mark.parametrize("library", SIGNED.values(), ids=SIGNED.keys())


# --- signed cookies ---------------------------------------------------------------------------------------------------


@by_library
@pytest.mark.parametrize("data", [DATA, {"long": "tea " * 500}, {"a": 1}], ids=["plain", "compressible", "short"])
async def test_a_cookie_of_the_library_is_read(library, data):
    """What the library put into its cookie comes out, under its cookie's name, with what it has left to live."""
    reader = library.reader(KEY)
    name, value = library.cookie(KEY, data)
    found = await reader.read(value)
    assert found.data == data
    assert library.max_age - 60 < found.expires_in <= library.max_age
    assert name == reader.cookie_name
    assert (reader.max_age, reader.path, reader.domain) == (library.max_age, "/", None)
    assert await reader.forget(value) is None


def test_compressed_cookies_are_among_those_read():
    """The compressible data above makes Flask and Django compress: their cookies begin with a dot."""
    assert flask_cookie(KEY, {"long": "tea " * 500})[1].startswith(b".")
    assert django_cookie(KEY, {"long": "tea " * 500})[1].startswith(b".")


@by_library
@pytest.mark.parametrize(
    "key", [KEY.encode(), SecretStr(KEY), [OTHER, KEY], (KEY, OTHER)], ids=["bytes", "Secret", "second", "first"]
)
async def test_forms_of_the_key(library, key):
    """The key may be text, bytes, a secret, or one of several."""
    assert (await library.reader(key).read(library.cookie(KEY, DATA)[1])).data == DATA


@by_library
async def test_another_key_reads_nothing(library):
    """A cookie signed with a key that the reader does not have is none."""
    value = library.cookie(KEY, DATA)[1]
    assert await library.reader(OTHER).read(value) is None
    assert await library.reader([OTHER, KEY + "x"]).read(value) is None


@pytest.mark.parametrize("library", [SIGNED["Flask"], SIGNED["Django"]], ids=["Flask", "Django"])
async def test_another_salt_reads_nothing(library):
    """A cookie signed for another purpose is none."""
    assert await library.reader(KEY, salt="other").read(library.cookie(KEY, DATA)[1]) is None


@pytest.mark.parametrize("reading", SIGNED)
@pytest.mark.parametrize("made", SIGNED)
async def test_only_the_right_reader_takes_a_cookie(made, reading):
    """With the same key, a reader takes its own format only; Starlette's, Lilya's and Ravyn's is one format."""
    found = await SIGNED[reading].reader(KEY).read(SIGNED[made].cookie(KEY, DATA)[1])
    assert (found is not None) == (SIGNED[made].format == SIGNED[reading].format)


@by_library
async def test_an_expired_cookie_reads_nothing(library):
    """A cookie is taken for `max_age` after its signing, and not a second longer."""
    clock = Clock()
    value = library.cookie(KEY, DATA)[1]
    reader = library.reader(KEY, max_age=100, clock=clock)
    clock.advance(95)
    assert 0 <= (await reader.read(value)).expires_in <= 6.1  # stamps are whole seconds, and making a cookie takes time
    clock.advance(7)
    assert await reader.read(value) is None


@pytest.mark.parametrize("library", list(SIGNED.values())[:4], ids=list(SIGNED)[:4])
async def test_a_cookie_from_the_future_reads_nothing(library):
    """As itsdangerous has it, a cookie signed later than now is none."""
    assert await library.reader(KEY, clock=Clock(time.time() - 60)).read(library.cookie(KEY, DATA)[1]) is None


@by_library
async def test_every_changed_byte_is_noticed(library):
    """No byte of a cookie can be changed, dropped or added."""
    reader = library.reader(KEY)
    value = library.cookie(KEY, {"user_id": 7})[1]

    assert await reader.read(value) is not None
    for place in range(len(value)):
        for changed in (value[place] ^ 1, value[place] ^ 32):
            assert await reader.read(value[:place] + bytes([changed]) + value[place + 1 :]) is None
        assert await reader.read(value[:place] + value[place + 1 :]) is None
        assert await reader.read(value[:place] + b"." + value[place:]) is None
    for extra in (b".", b":", b"=", b"A", b"\0", b" "):
        assert await reader.read(value + extra) is None
        assert await reader.read(extra + value) is None


@by_library
async def test_an_empty_cookie_of_a_logged_out_user_reads_nothing(library):
    """What the libraries set to clear a cookie, and other values without a session, are none."""
    for value in (b"", b"null", b"''", b"{}", b".", b"..", b"...", b":::", b"a.b.c", b"a:b:c"):
        assert await library.reader(KEY).read(value) is None


# fmt: off
# Made by Starlette 1.10, Lilya 0.29, Ravyn 0.4.3, Flask 3.1.3 and Django 5.2.19 at 1800000000.
KNOWN = {
    "Starlette": "eyJ1c2VyX2lkIjogNywgIm5vdGUiOiAiXHUwMGZjIn0=.a0nSAA.jJrrcCLVRAZBFdlmuX_rRAVzXhk",
    "Lilya": "eyJ1c2VyX2lkIjo3LCJub3RlIjoiw7wifQ==.a0nSAA.1DVnZDQy-UHpFyYBTJJ43xsXJTk",
    "Ravyn": "eyJ1c2VyX2lkIjo3LCJub3RlIjoiw7wifQ==.a0nSAA.1DVnZDQy-UHpFyYBTJJ43xsXJTk",
    "Flask": "eyJub3RlIjoiXHUwMGZjIiwidXNlcl9pZCI6N30.a0nSAA.sYFRL1rQcO-folzXZuNatvktvYc",
    "Flask, compressed":
        ".eJyrVsrJz0tXslIqSU1UoCZW0lHKyy9JBZocU2pgkJYM5JcWpxbFZ6YoWZnXAgBE3Sbd.a0nSAA.jR6sZqQrVdovYKR7RRxsFSLqANI",
    "Django": "eyJ1c2VyX2lkIjo3LCJub3RlIjoiXHUwMGZjIn0:1xocE4:ZmR6ts6lBh9LomJs3QPxRvC25rsd1RKLp9hu9crGdjA",
    "Django, compressed":
        ".eJyrViotTi2Kz0xRsjLXUcrLL0lVslKKKTUwSEtW0lHKyc9LB_JLUhMVqImVagEBUSbd"
        ":1xocE4:THKHi6vRN3UKilk9NJKvc39NvtrW04o5WasJkWGKL6E",
}
# fmt: on


@pytest.mark.parametrize("name", KNOWN)
async def test_known_cookies(name):
    """These strings are the wire formats; each is read at its time."""
    reader = SIGNED[name.partition(",")[0]].reader("known key", clock=Clock(1800000010.0))
    found = await reader.read(KNOWN[name].encode())
    assert found.data == ({"user_id": 7, "note": "ü"} | ({"long": "tea " * 20} if "compressed" in name else {}))
    assert found.expires_in == reader.max_age - 10


# --- what each library has of its own ---------------------------------------------------------------------------------


@pytest.mark.parametrize("cookie", [starlette_cookie, lilya_cookie], ids=["Starlette", "Lilya"])
async def test_an_app_without_max_age(cookie):
    """The cookies of an app that never let them expire are read too, until the reader's `max_age`."""
    reader = StarletteCookie(KEY, cookie_name="sid")
    name, value = cookie(KEY, DATA, max_age=None, session_cookie="sid")
    assert name == reader.cookie_name
    assert (await reader.read(value)).data == DATA


async def test_a_lilya_app_with_its_own_serializer():
    """`loads` is the old app's deserializer; what it raises means that there is no session."""
    value = lilya_cookie(KEY, DATA, session_serializer=lambda data: repr(data), session_deserializer=lambda raw: {})[1]

    def loads(raw):
        import ast

        return ast.literal_eval(raw.decode())

    def fails(raw):
        raise RuntimeError("as libraries do")

    assert (await LilyaCookie(KEY, loads=loads).read(value)).data == DATA
    assert (await RavynCookie(KEY, loads=loads).read(value)).data == DATA
    assert await LilyaCookie(KEY).read(value) is None
    assert await LilyaCookie(KEY, loads=fails).read(value) is None
    assert await LilyaCookie(KEY, loads=lambda raw: {"x": object()}).read(value) is None


async def test_flask_types_come_along():
    """Tuples, bytes, UUIDs and moments keep their type; Markup becomes text; a key that looks like a tag is a key."""
    moment = dt.datetime(2026, 11, 23, 12, 0, tzinfo=dt.UTC)
    data = {
        "tuple": (1, (2, [3])),
        "bytes": b"\0\xff",
        "uuid": uuid.UUID(int=7),
        "moment": moment,
        "markup": Markup("<b>tea</b>"),
        "tag": {" t": [1]},
        "tags": {" b": "x", " u": "y"},
        "nested": {"deep": [{" di": {" d": 1}}]},
        "_flashes": [("message", "hello")],
    }
    found = (await FlaskCookie(KEY).read(flask_cookie(KEY, data)[1])).data
    assert found == data
    assert type(found["markup"]) is str
    assert codec.decode(codec.encode(found)) == found


@pytest.mark.parametrize("data", [{" t": 1}, {" di": {"x": 1}}, {" b": b"x"}, {" b__": 1}])
async def test_a_flask_session_that_looks_like_a_tag(data):
    """A session whose one key is a tag of Flask's comes out as it was."""
    assert (await FlaskCookie(KEY).read(flask_cookie(KEY, data)[1])).data == data


_TAG_KEYS = st.sampled_from([" di", " t", " b", " u", " d", " t__", " di__", "x", ""])
_MARKUP = st.fixed_dictionaries({" m": st.text(max_size=5)})  # of text: of a list Flask makes a repr
_TAGGED = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=5)
    | st.just("Mon, 23 Nov 2026 12:00:00 GMT")
    | _MARKUP,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TAG_KEYS, inner, max_size=2),
    max_leaves=8,
)


@given(st.dictionaries(_TAG_KEYS, _TAGGED, max_size=3))
@example({"x": {" d": "Mon, 23 Nov 2026 12:00:00 -0000"}})
@example({"x": {" d": "Mon, 23 Nov 2026 12:00:00 +0200"}})
@example({"x": {" d": "no date"}})
@example({"x": {" di": {}}})
def test_flask_tags_are_undone_as_flask_does(value):
    """Whatever JSON stands in a genuine cookie, it is read as Flask's serializer reads it, or not at all."""
    text = json.dumps(value)
    try:
        expected = TaggedJSONSerializer().loads(text)
    except Exception:
        expected = None
    if type(expected) is not dict or not expected:
        expected = None
    found = at_once(FlaskCookie(KEY).read(_flask_signed(_encoded(text.encode()))))
    assert (None if found is None else found.data) == expected


@pytest.mark.parametrize("derivation", ["hmac", "django-concat", "concat"])
@pytest.mark.parametrize("digest", ["sha1", "sha256", "sha512"])
async def test_a_flask_app_with_its_own_signature(derivation, digest):
    """Salt, digest and derivation may be those of an app's own interface, and must be."""
    import hashlib

    class Interface(flask.sessions.SecureCookieSessionInterface):
        salt = "own"
        digest_method = staticmethod(getattr(hashlib, digest))
        key_derivation = derivation

    value = flask_cookie(KEY, DATA, Interface(), SESSION_COOKIE_NAME="own")[1]
    reader = FlaskCookie(KEY, salt="own", digest=digest, key_derivation=derivation, cookie_name="own")
    assert (await reader.read(value)).data == DATA
    assert await FlaskCookie(KEY, salt="own", digest="sha384", key_derivation=derivation).read(value) is None


async def test_keys_that_flask_and_django_had_before():
    """Cookies signed with a fallback key are read when that key is given too."""
    old = flask_cookie(OTHER, DATA)[1]
    assert (await FlaskCookie([KEY, OTHER]).read(old)).data == DATA
    assert (await DjangoCookie([KEY, OTHER]).read(django_cookie(OTHER, DATA)[1])).data == DATA


async def test_a_django_user_comes_along():
    """The keys that Django's log-in writes are plain data."""
    data = {"_auth_user_id": "7", "_auth_user_backend": "django.contrib.auth.backends.ModelBackend"}
    value = django_cookie(KEY, data, SESSION_COOKIE_NAME="sid")
    assert value[0] == "sid"
    assert (await DjangoCookie(KEY, cookie_name="sid").read(value[1])).data == data


# --- genuine, and yet no session --------------------------------------------------------------------------------------


def _flask_signed(payload):
    """Return a cookie with this payload and a genuine signature: what only who has the key can make."""
    signer = itsdangerous.TimestampSigner(KEY, salt="cookie-session", key_derivation="hmac")
    return signer.sign(payload)


def _encoded(data, compress=False):
    return (b"." if compress else b"") + base64.urlsafe_b64encode(zlib.compress(data) if compress else data).rstrip(
        b"="
    )


def _nested(levels):
    return b'{"a":' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"


GENUINE_BUT_WRONG = {
    "no base64": b"!",
    "no JSON": _encoded(b"{"),
    "no text": _encoded(b'{"a": "\xff"}'),
    "no zlib": b"." + _encoded(b"{}"),
    "cut zlib": _encoded(b'{"a": 1}', compress=True)[:-4],
    "nothing compressed": b".",
    "a list": _encoded(b'[["a", 1]]'),
    "null": _encoded(b"null"),
    "empty": _encoded(b"{}"),
    "too deep": _encoded(_nested(101)),
    "far too deep": _encoded(b"[" * 40000),
    "a bomb": _encoded(b'{"a": "' + b"x" * 1048576 + b'"}', compress=True),
    "a huge integer": _encoded(b'{"a": 1' + b"0" * 5000 + b"}", compress=True),
    "a key that is no text": _encoded(b'{"\\ud800": 1}'),
    "bad tags": _encoded(b'{"a": {" u": "x"}}'),
}


@pytest.mark.parametrize("name", GENUINE_BUT_WRONG)
async def test_a_genuine_cookie_that_cannot_be_a_session(name):
    """What is signed and yet malformed, too large or too deep reads as nothing, and raises nothing."""
    value = _flask_signed(GENUINE_BUT_WRONG[name])
    assert len(value) <= 65536
    assert await FlaskCookie(KEY).read(value) is None


@pytest.mark.parametrize(
    "payload", [_encoded(_nested(100)), _encoded(b'{"a": "' + b"x" * 1048000 + b'"}', compress=True)]
)
async def test_what_is_just_within_the_limits(payload):
    """100 levels and a megabyte are read."""
    found = await FlaskCookie(KEY).read(_flask_signed(payload))
    assert codec.decode(codec.encode(found.data)) == found.data


async def test_a_value_over_64_kilobytes_is_not_looked_at():
    """No signature is computed over more than 65536 bytes."""
    short = _flask_signed(_encoded(b'{"a":"' + b"x" * 48000 + b'"}'))
    long = _flask_signed(_encoded(b'{"a":"' + b"x" * 49200 + b'"}'))
    assert len(short) <= 65536 < len(long)
    assert await FlaskCookie(KEY).read(short) is not None
    assert await FlaskCookie(KEY).read(long) is None


@pytest.mark.parametrize("stamp", [b"", b"!", b"A" * 12, b"A" * 5, b"_" * 11])
async def test_a_genuine_cookie_with_a_strange_time(stamp):
    """A time of signing that is none, is far away or does not fit reads as nothing."""
    signed = _encoded(b'{"a": 1}') + b"." + stamp
    signer = itsdangerous.Signer(KEY, salt="cookie-session", key_derivation="hmac")
    assert await FlaskCookie(KEY).read(signer.sign(signed)) is None


@pytest.mark.parametrize("stamp", ["", "!", "-1", "z" * 12, "0", "ü"])
async def test_a_genuine_django_cookie_with_a_strange_time(stamp):
    """The same for Django's own way to write it."""
    from django.core.signing import Signer

    signer = Signer(key=KEY, salt="django.contrib.sessions.backends.signed_cookies")
    value = signer.sign(_encoded(b'{"a": 1}').decode() + ":" + stamp).encode()
    assert await DjangoCookie(KEY).read(value) is None


_PIECES = st.lists(
    st.sampled_from([b".", b":", b"=", b"eyJhIjoxfQ", b"awTRgQ", b"1vM", b"\xff"]) | st.binary(max_size=30)
)


@given(st.binary() | _PIECES.map(b"".join), st.sampled_from(list(SIGNED.values())))
def test_no_value_raises(value, library):
    """Whatever a client sends, a reader of signed cookies returns None."""
    assert at_once(library.reader(KEY).read(value)) is None


@given(st.binary(max_size=200), st.booleans())
def test_no_genuine_payload_raises(payload, encode):
    """Whatever the key holder signed, the answer is a session or None."""
    signed = _flask_signed(_encoded(payload) if encode else payload)
    found = at_once(FlaskCookie(KEY).read(signed))
    assert found is None or type(found.data) is dict


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), _JSON, min_size=1, max_size=4))
def test_any_json_comes_along_and_can_be_stored(data):
    """Any session of JSON comes out of a cookie equal, and goes into Roomkey's codec and back."""
    signer = itsdangerous.TimestampSigner(KEY)
    found = at_once(StarletteCookie(KEY).read(signer.sign(base64.b64encode(json.dumps(data).encode()))))
    assert found.data == data
    assert codec.decode(codec.encode(found.data)) == data


# --- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: StarletteCookie(""), "secret_key"),
        (lambda: StarletteCookie([]), "secret_key"),
        (lambda: StarletteCookie(None), "secret_key"),
        (lambda: LilyaCookie(KEY, cookie_name=""), "cookie_name"),
        (lambda: LilyaCookie(KEY, cookie_name="a b"), "cookie_name"),
        (lambda: RavynCookie(KEY, max_age=None), "max_age"),
        (lambda: RavynCookie(KEY, max_age=0), "max_age"),
        (lambda: RavynCookie(KEY, max_age=float("inf")), "max_age"),
        (lambda: RavynCookie(KEY, max_age=True), "max_age"),
        (lambda: FlaskCookie(KEY, salt=b"x"), "salt"),
        (lambda: FlaskCookie(KEY, digest="sha0"), "digest"),
        (lambda: FlaskCookie(KEY, digest="shake_128"), "digest"),
        (lambda: FlaskCookie(KEY, key_derivation="none"), "key_derivation"),
        (lambda: DjangoCookie(KEY, path="x"), "path"),
        (lambda: DjangoCookie(KEY, domain=b"x"), "domain"),
        (lambda: DjangoCookie(KEY, salt=None), "salt"),
        (lambda: DjangoCookie(KEY, clock=0), "clock"),
        (lambda: StarsessionsRedis(None), "client"),
        (lambda: StarsessionsRedis(redis.Redis()), "client"),
        (lambda: StarsessionsRedis(redis.asyncio.Redis), "client"),
        (lambda: StarsessionsRedis(redis.asyncio.Redis(), prefix=None), "prefix"),
        (lambda: LitestarRedis(redis.Redis()), "client"),
        (lambda: LitestarRedis(redis.asyncio.Redis(), namespace=1), "namespace"),
        (lambda: LitestarRedis(redis.asyncio.Redis(), cookie_name="é"), "cookie_name"),
        (lambda: checked_readers(StarletteCookie(KEY)), "legacy"),
        (lambda: checked_readers("session"), "legacy"),
        (lambda: checked_readers([StarletteCookie]), "legacy"),
        (lambda: checked_readers([StarletteMiddleware(None, KEY)]), "legacy"),
    ],
)
def test_a_wrong_option_is_named(make, names):
    """A wrong option fails when the reader is made, and the message begins with its name."""
    with pytest.raises(ConfigurationError, match=f"^{names}"):
        make()


def test_readers_are_checked_and_kept_in_order():
    """A list of readers becomes a tuple of them."""
    readers = [StarletteCookie(KEY), FlaskCookie(KEY)]
    assert checked_readers(readers) == tuple(readers)
    assert checked_readers([]) == ()


def test_readers_are_frozen_and_show_no_secret():
    """A reader cannot be changed; no key, no cookie and no data is in any repr."""
    server = redis.asyncio.Redis.from_url("redis://user:hush@localhost/0")
    for reader in [library.reader(KEY) for library in SIGNED.values()] + [
        StarsessionsRedis(server),
        LitestarRedis(server),
    ]:
        with pytest.raises(dataclasses.FrozenInstanceError):
            reader.cookie_name = "x"
        assert "key, long" not in repr(reader) and "hush" not in repr(reader)
    assert "tea" not in repr(LegacySession({"cart": "tea"}))


async def test_an_old_key_may_be_short():
    """An old key is what it is: a short one gives no warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (await StarletteCookie("short").read(starlette_cookie("short", DATA)[1])).data == DATA


# --- sessions on a Redis server ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def redis_url():
    from tests.servers.redis import RedisServer

    with RedisServer() as server:
        yield server.url


@contextlib.asynccontextmanager
async def _connected(url, **options):
    async with redis.asyncio.Redis.from_url(url, **options) as client:
        await client.flushdb()
        yield client


async def starsessions_cookie(store, data, **options):
    async def fill(request):
        await starsessions.load_session(request)
        request.session.update(data)
        return PlainTextResponse("")

    app = starsessions.SessionMiddleware(Starlette(routes=[Route("/", fill)]), store, **options)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="https://test") as client:
        return _sent_back((await client.get("/")).headers["set-cookie"])


async def litestar_cookie(store, data, **options):
    @litestar_get("/")
    async def fill(request: LitestarRequest) -> None:
        request.session.update(data)

    config = ServerSideSessionConfig(**options)
    app = Litestar([fill], middleware=[config.middleware], stores={"sessions": store}, openapi_config=None)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="https://test") as client:
        return _sent_back((await client.get("/")).headers["set-cookie"])


@pytest.mark.parametrize("decode", [False, True], ids=["bytes", "text"])
@pytest.mark.parametrize("lifetime", [0, 3600])
@pytest.mark.parametrize(
    "prefix", ["starsessions.", "", lambda session_id: f"<{session_id}>"], ids=["default", "none", "function"]
)
async def test_a_starsessions_session_on_redis(redis_url, prefix, lifetime, decode):
    """A session that starsessions wrote is read without its bookkeeping, and is gone once it was forgotten."""
    async with (
        _connected(redis_url) as old,
        redis.asyncio.Redis.from_url(redis_url, decode_responses=decode) as new,
    ):
        store = starsessions.stores.redis.RedisStore(connection=old, prefix=prefix)
        name, value = await starsessions_cookie(store, DATA, lifetime=lifetime)
        reader = StarsessionsRedis(new, prefix=prefix)
        found = await reader.read(value)
        assert found.data == DATA
        assert abs(found.created_at - time.time()) < 60
        assert name == reader.cookie_name
        assert await StarsessionsRedis(new, prefix="other.").read(value) is None
        await reader.forget(value)
        (key,) = await old.keys()
        assert 0 < await old.ttl(key) <= 10
        assert (await reader.read(value)).data == DATA
        await old.delete(key)
        assert await reader.read(value) is None
        await reader.forget(value)
        assert await old.keys() == []


async def test_a_starsessions_store_instead_of_a_client(redis_url):
    """A store of starsessions is read through its own methods, and asked to let go of the session soon."""
    async with _connected(redis_url) as client:
        store = starsessions.stores.redis.RedisStore(connection=client)
        name, value = await starsessions_cookie(store, DATA, cookie_name="sid")
        reader = StarsessionsRedis(store, cookie_name="sid")
        assert name == "sid"
        assert (await reader.read(value)).data == DATA
        assert await reader.read(b"0" * 32) is None
        await reader.forget(b"0" * 32)
        await reader.forget(value)
        (key,) = await client.keys()
        assert 0 < await client.ttl(key) <= 10
        assert (await reader.read(value)).data == DATA


async def test_a_starsessions_app_with_its_own_serializer():
    """`loads` is the old serializer's `deserialize`."""

    class Reversed(starsessions.Serializer):
        def serialize(self, data):
            return json.dumps(data).encode()[::-1]

        def deserialize(self, data):
            return json.loads(data[::-1]) if data else {}

    store = starsessions.InMemoryStore()
    value = (await starsessions_cookie(store, DATA, serializer=Reversed()))[1]
    assert (await StarsessionsRedis(store, loads=Reversed().deserialize).read(value)).data == DATA
    assert await StarsessionsRedis(store).read(value) is None


@pytest.mark.parametrize("namespace", ["LITESTAR", "LITESTAR_sessions", None])
@pytest.mark.parametrize("as_store", [False, True], ids=["client", "store"])
async def test_a_litestar_session_on_redis(redis_url, namespace, as_store):
    """A session that Litestar wrote is read through a client or its store, and is gone once it was forgotten."""
    async with _connected(redis_url) as client:
        store = LitestarStore(client, namespace=namespace)
        name, value = await litestar_cookie(store, DATA)
        reader = LitestarRedis(store) if as_store else LitestarRedis(client, namespace=namespace)
        assert (await reader.read(value)).data == DATA
        assert name == reader.cookie_name
        assert await LitestarRedis(client, namespace="other").read(value) is None
        await reader.forget(value)
        (key,) = await client.keys()
        assert 0 < await client.ttl(key) <= 10
        assert (await reader.read(value)).data == DATA
        await client.delete(key)
        await reader.forget(value)
        assert await client.keys() == []
        assert await reader.read(value) is None


async def test_the_default_namespace_is_that_of_litestars_store(redis_url):
    """Nobody has to name what Litestar chose by itself."""
    async with _connected(redis_url) as client:
        name, value = await litestar_cookie(LitestarStore(client), DATA, key="sid", session_id_bytes=16)
        assert name == "sid"
        assert (await LitestarRedis(client, cookie_name="sid").read(value)).data == DATA


async def test_a_litestar_store_of_another_kind():
    """Any store of Litestar's is read through its own methods."""
    store = LitestarMemory()
    value = (await litestar_cookie(store, DATA))[1]
    reader = LitestarRedis(store)
    assert (await reader.read(value)).data == DATA
    await reader.forget(value)
    assert 0 < await store.expires_in(value.decode()) <= 10
    assert (await reader.read(value)).data == DATA
    assert await reader.read(b"0" * 32) is None
    await reader.forget(b"0" * 32)
    assert await store.get("0" * 32) is None


async def test_an_empty_session_on_redis_reads_nothing(redis_url):
    """Litestar writes an entry for every visitor; those with nothing in it stay where they are."""
    async with _connected(redis_url) as client:
        value = (await litestar_cookie(LitestarStore(client), {}))[1]
        assert await client.keys() != []
        assert await LitestarRedis(client).read(value) is None
        store = starsessions.stores.redis.RedisStore(connection=client)
        await store.write("0" * 32, b'{"__metadata__": {"created": 1.5}}', 0, 0)
        assert await StarsessionsRedis(client).read(b"0" * 32) is None


async def test_every_cookie_with_every_other_reader(redis_url):
    """On one server and with one key, no reader of a server takes another library's cookie, nor the other way round."""
    async with _connected(redis_url) as client:
        readers = {"starsessions": StarsessionsRedis(client), "Litestar": LitestarRedis(client)}
        cookies = {
            "starsessions": await starsessions_cookie(starsessions.stores.redis.RedisStore(connection=client), DATA),
            "Litestar": await litestar_cookie(LitestarStore(client), DATA),
        }
        for name, library in SIGNED.items():
            readers[name] = library.reader(KEY)
            cookies[name] = await asyncio.to_thread(library.cookie, KEY, DATA)
        for made, (_, value) in cookies.items():
            for name, reader in readers.items():
                same = made in SIGNED and name in SIGNED and SIGNED[made].format == SIGNED[name].format
                assert (await reader.read(value) is not None) == (made == name or same), (made, name)


@pytest.mark.parametrize(
    "value", [b"", b"null", b"0" * 15, b"0" * 513, b"A" * 32, b"0" * 31 + b"\n", b"x:" + b"0" * 32, b"\xff" * 32]
)
async def test_only_ids_as_the_libraries_make_them_reach_the_server(redis_url, value):
    """A client cannot name any other key of the database, and cannot delete it."""
    async with _connected(redis_url) as client:
        await client.set(value, b'{"a": 1}')
        for reader in (StarsessionsRedis(client, prefix=""), LitestarRedis(client, namespace=None)):
            assert await reader.read(value) is None
            await reader.forget(value)
        assert await client.exists(value)


@pytest.mark.parametrize(
    "stored",
    [
        b"",
        b"{",
        b"[1]",
        b"null",
        b"\xff",
        b'{"a": "\xff"}',
        _nested(101),
        b"[" * 100000,
        b'{"a": "' + b"x" * 1048576 + b'"}',
    ],
    ids=lambda stored: ascii(stored[:12]),
)
@pytest.mark.parametrize("decode", [False, True], ids=["bytes", "text"])
async def test_an_entry_that_is_no_session(redis_url, stored, decode):
    """What cannot be a session reads as nothing, and raises nothing."""
    async with _connected(redis_url, decode_responses=decode) as client:
        await client.set("k" + "0" * 32, stored)
        assert await StarsessionsRedis(client, prefix="k").read(b"0" * 32) is None
        await client.rename("k" + "0" * 32, "k:" + "0" * 32)
        assert await LitestarRedis(client, namespace="k").read(b"0" * 32) is None


async def test_an_entry_of_another_type(redis_url):
    """A key that holds no string is somebody else's."""
    async with _connected(redis_url) as client:
        await client.rpush("k:" + "0" * 32, "x")
        assert await LitestarRedis(client, namespace="k").read(b"0" * 32) is None


# --- moving in --------------------------------------------------------------------------------------------------------


def _config(**options):
    return SessionConfig(secret_key=SECRET, store="memory://", **options)


def _lookup(header):
    return lambda name: find_cookies([(b"cookie", header)], name)


class _OwnReader:
    """A reader that an app wrote: of one cookie, whose value is the user."""

    def __init__(self, name="own", data=None, error=None):
        self.cookie_name, self.path, self.domain = name, "/app", "example.com"
        self.data, self.error, self.forgotten = data, error, []

    async def read(self, value):
        if self.error is not None:
            raise self.error
        return None if value == b"no" else LegacySession(self.data or {"user_id": value.decode()})

    async def forget(self, value):
        if self.error is not None:
            raise self.error
        self.forgotten.append(value)


async def test_the_first_reader_that_finds_a_session_counts():
    """Readers are asked in their order, each for every cookie of its name; what they refuse is counted."""
    refused = Counter()
    first, second = _OwnReader("one"), _OwnReader("two")
    move_in = MoveIn([first, second], _config(), refused)

    found = await move_in.find(_lookup(b"two=b; one=no; one=a"))
    assert (found.reader, found.value, found.session.data) == (first, b"a", {"user_id": "a"})
    assert "one=" not in repr(found) and "b'a'" not in repr(found)
    assert refused == {"legacy": 1}
    assert (await move_in.find(_lookup(b"one=no; two=b"))).reader is second
    assert await move_in.find(_lookup(b"three=c")) is None
    await move_in.forget(found)
    assert (first.forgotten, second.forgotten) == ([b"a"], [])


@pytest.mark.parametrize(
    "data", [{"x": object()}, {"x": "y" * 70000}, {1: 2}, {"x": bytearray(b"y")}, ["no", "dictionary"], "text"]
)
async def test_a_session_that_does_not_fit_stays_outside(data):
    """What Roomkey could not save is refused before a handler sees it."""
    refused = Counter()
    assert await MoveIn([_OwnReader(data=data)], _config(), refused).find(_lookup(b"own=a")) is None
    assert refused == {"legacy": 1}


def test_old_cookies_are_taken_back_where_they_were_set():
    """Every old cookie that the request brought is taken back with its own path and domain; Roomkey's own is not."""
    readers = [_OwnReader(), StarletteCookie(KEY), DjangoCookie(KEY), FlaskCookie(KEY, path="/flask")]
    move_in = MoveIn(readers, _config(https_only=True), Counter())
    expired = b"; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT"
    rest = b"; HttpOnly; SameSite=lax; Secure"
    assert move_in.take_back(_lookup(b"own=a; sessionid=b")) == [
        (b"set-cookie", b"own=" + expired + b"; Path=/app; Domain=example.com" + rest),
        (b"set-cookie", b"sessionid=" + expired + b"; Path=/" + rest),
    ]
    assert move_in.take_back(_lookup(b"session=a")) == [
        (b"set-cookie", b"session=" + expired + b"; Path=/flask" + rest)
    ]
    assert MoveIn([StarletteCookie(KEY)], _config(), Counter()).take_back(_lookup(b"session=a")) == []
    assert move_in.take_back(_lookup(b"x=y")) == []


def test_a_cookie_that_cannot_be_taken_back_is_a_mistake():
    """A name that browsers take from HTTPS only needs `https_only`."""
    with pytest.raises(ConfigurationError, match="https_only"):
        MoveIn([StarletteCookie(KEY, cookie_name="__Secure-s")], _config(), Counter())


@pytest.mark.parametrize("error", [OSError("hush"), RuntimeError("hush"), StoreUnavailable("hush")])
async def test_a_reader_that_cannot_know_makes_it_unavailable(error, caplog):
    """Where nobody knows whether there is a session, nobody is logged out; it is logged once an outage."""
    reader = _OwnReader(error=error)
    move_in = MoveIn([reader], _config(), Counter())

    with caplog.at_level(logging.WARNING, "roomkey"):
        for _ in range(3):
            with pytest.raises(StoreUnavailable) as raised:
                await move_in.find(_lookup(b"own=a"))
            assert "hush" not in str(raised.value)
        assert [record.levelno for record in caplog.records] == [logging.ERROR]
        reader.error = None
        assert await move_in.find(_lookup(b"own=a")) is not None
        reader.error = error
        with pytest.raises(StoreUnavailable):
            await move_in.find(_lookup(b"own=a"))
        assert len(caplog.records) == 2
    assert "hush" not in caplog.text and "own=a" not in caplog.text


async def test_a_server_that_is_gone_makes_it_unavailable():
    """A real client without its server gives StoreUnavailable, soon."""
    async with redis.asyncio.Redis.from_url("redis://127.0.0.1:1/0") as client:
        move_in = MoveIn([LitestarRedis(client)], _config(store_timeout=0.2), Counter())
        started = time.monotonic()
        with pytest.raises(StoreUnavailable):
            await move_in.find(_lookup(b"session=" + b"0" * 64))
        assert time.monotonic() - started < 1.5


async def test_a_server_that_does_not_answer_makes_it_unavailable():
    """A server that takes the connection and then says nothing is waited for as long as `store_timeout` says."""

    async def listen(reader, writer):
        await reader.read()
        writer.close()

    async with await asyncio.start_server(listen, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with redis.asyncio.Redis.from_url(f"redis://127.0.0.1:{port}/0") as client:
            move_in = MoveIn([StarsessionsRedis(client)], _config(store_timeout=0.1), Counter())
            with pytest.raises(StoreUnavailable, match=r"did not answer within 0\.1 s"):
                await move_in.find(_lookup(b"session=" + b"0" * 32))


async def test_forgetting_may_fail_without_harm(caplog):
    """The new session counts: what cannot be removed is logged, and nothing is raised."""
    reader = _OwnReader()
    move_in = MoveIn([reader], _config(), Counter())

    with caplog.at_level(logging.WARNING, "roomkey"):
        found = await move_in.find(_lookup(b"own=a"))
        reader.error = OSError("hush")
        await move_in.forget(found)
    assert "could not be removed" in caplog.text and "hush" not in caplog.text


# --- the whole way ----------------------------------------------------------------------------------------------------


class _Refusal(Exception):
    def __init__(self):
        self.headers = {"Set-Cookie": "of=the app"}


_Refusal.__name__ = "HTTPException"


async def _shop(scope, receive, send):
    """An app: the path says what it does with the session."""
    session, path = scope["session"], scope["path"]
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept" if path == "/accept" else "websocket.close"})
        return
    if path == "/log-out":
        session.clear()
    elif path == "/log-in":
        session["user_id"] = "new"
    elif path == "/count":
        session.change("n", lambda n: n + 1, default=0)
        await asyncio.sleep(0.01)
    elif path == "/raise":
        raise RuntimeError
    elif path == "/refuse":
        raise _Refusal
    body = json.dumps(dict(session) if path == "/read" else {}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


class _Browser:
    """Sends the cookies that it was given, and does as `Set-Cookie` says."""

    def __init__(self, app, **cookies):
        self.app, self.cookies = app, cookies
        self.set_cookies = []

    async def visit(self, path, kind="http"):
        sent = "; ".join(f"{name}={value}" for name, value in self.cookies.items()).encode()
        scope = {"type": kind, "path": path, "headers": [(b"cookie", sent)] if sent else []}
        messages = []

        async def receive():
            return {"type": "websocket.connect"}

        async def send(message):
            messages.append(message)

        await self.app(scope, receive, send)
        self.set_cookies = [value.decode() for name, value in messages[0].get("headers", ()) if name == b"set-cookie"]
        for header in self.set_cookies:
            name, _, value = header.partition(";")[0].partition("=")
            self.cookies.pop(name, None)
            if "Max-Age=0" not in header:
                self.cookies[name] = value
        if kind == "websocket" or messages[0]["status"] != 200:
            return messages[0].get("status")
        return json.loads(messages[1]["body"])


def _roomkey(*readers, **options):
    store = MemoryStore()
    return store, SessionMiddleware(_shop, secret_key=SECRET, store=store, legacy=list(readers), **options)


@by_library
@pytest.mark.parametrize("name", ["session", "sessionid", "roomkey"])
@pytest.mark.parametrize("path", ["/read", "/untouched"])
async def test_nobody_is_logged_out_by_the_switch(library, path, name):
    """The first request with an old cookie has its data and replaces the cookie, touched or not; so have later ones."""
    _, app = _roomkey(library.reader(KEY), session_cookie=name)
    old_name, value = library.cookie(KEY, DATA)
    browser = _Browser(app, **{old_name: value.decode()})

    assert await browser.visit(path) == (DATA if path == "/read" else {})
    assert set(browser.cookies) == {name}
    assert browser.cookies[name] != value.decode()
    assert await browser.visit("/read") == DATA
    assert browser.set_cookies == []


async def test_a_session_on_redis_moves_in_once(redis_url):
    """The old entry goes soon after the new session was saved; a copy of the old cookie is good for nothing by then."""
    async with _connected(redis_url) as client:
        for reader, (name, value) in (
            (LitestarRedis(client), await litestar_cookie(LitestarStore(client), DATA)),
            (
                StarsessionsRedis(client),
                await starsessions_cookie(starsessions.stores.redis.RedisStore(connection=client), DATA),
            ),
        ):
            _, app = _roomkey(reader)
            browser = _Browser(app, **{name: value.decode()})
            assert await browser.visit("/read") == DATA
            assert await browser.visit("/read") == DATA
            assert await browser.visit("/log-out") == {}
            assert await _Browser(app, **{name: value.decode()}).visit("/read") == {}
        for key in await client.keys():
            assert 0 < await client.ttl(key) <= 10


async def test_logging_out_by_the_first_request():
    """Who logs out with an old cookie is logged out: both cookies are taken back, and the old entry is removed."""
    reader = _OwnReader()
    _, app = _roomkey(reader)
    browser = _Browser(app, own="a", session="left over")

    assert await browser.visit("/log-out") == {}
    assert (browser.cookies, reader.forgotten) == ({}, [b"a"])


async def test_logging_out_by_the_first_request_under_the_same_name():
    """The same where the old cookie has Roomkey's name."""
    _, app = _roomkey(StarletteCookie(KEY))
    browser = _Browser(app, session=starlette_cookie(KEY, DATA)[1].decode())
    assert await browser.visit("/log-out") == {}
    assert browser.cookies == {}


async def test_a_log_out_is_not_undone_by_an_old_cookie():
    """Who brings the card of a session that has ended is anonymous, whatever old cookie comes with it."""
    _, app = _roomkey(_OwnReader())
    browser = _Browser(app, own="a")

    await browser.visit("/read")
    card = browser.cookies["session"]
    browser.cookies["own"] = "a"  # as if it had come back
    await browser.visit("/log-out")
    assert browser.cookies == {}
    assert await _Browser(app, own="a", session=card).visit("/read") == {}


async def test_a_card_counts_before_an_old_cookie():
    """With a genuine card of a live session, no reader is asked."""
    _, app = _roomkey(_OwnReader())
    browser = _Browser(app, own="a")

    await browser.visit("/read")
    browser.cookies["own"] = "b"
    assert await browser.visit("/read") == {"user_id": "a"}


@pytest.mark.parametrize("seal", [False, True])
async def test_first_requests_at_once_make_one_session(seal):
    """They all see the old session and none of their changes is lost; one of them gives the cookie."""
    reader = _OwnReader()
    store, app = _roomkey(reader, seal=seal)
    browsers = [_Browser(app, own="a") for _ in range(8)]

    answers = await asyncio.gather(*(browser.visit("/count") for browser in browsers))
    assert answers == [{}] * 8
    (given,) = [browser for browser in browsers if "session" in browser.cookies]
    assert await given.visit("/read") == {"user_id": "a", "n": 8}
    assert len(await store.of_user("a")) == 1
    assert await browsers[0].visit("/count") == {}  # sent before the first answer was there
    assert await given.visit("/read") == {"user_id": "a", "n": 9}


@by_library
async def test_an_old_cookie_moves_in_once(library):
    """After a log-out, and after the session has expired, its old cookie opens nothing for as long as it is genuine."""
    clock = Clock(time.time())
    reader = library.reader(KEY)
    store = MemoryStore(clock=clock)
    app = SessionMiddleware(_shop, secret_key=SECRET, store=store, legacy=[reader], clock=clock)
    name, value = library.cookie(KEY, DATA)
    other = library.cookie(KEY, {**DATA, "x": 1})[1]

    for end in ("log out", "expire", "log out at once"):
        cookie = {"log out": value, "expire": other}.get(end) or library.cookie(KEY, {**DATA, "y": 1})[1]
        browser = _Browser(app, **{name: cookie.decode()})
        if end == "log out at once":
            await browser.visit("/log-out")
        else:
            assert (await browser.visit("/read"))["user_id"] == 7
            if end == "log out":
                await browser.visit("/log-out")
            else:
                clock.advance(DAY)
        copy = _Browser(app, **{name: cookie.decode()})
        for _ in range(2):
            assert await copy.visit("/read") == {}
            assert copy.set_cookies == []
    clock.advance(reader.max_age - 2 * DAY)
    while await store.purge(100):
        pass
    assert await copy.visit("/read") == {}


async def test_an_old_cookie_is_served_for_a_moment_after_its_session_has_moved_in():
    """What the browser sent together is served without a cookie of its own; later there is nothing for it."""
    clock = Clock(time.time())
    app = SessionMiddleware(
        _shop, secret_key=SECRET, store=MemoryStore(clock=clock), legacy=[_OwnReader()], clock=clock
    )

    await _Browser(app, own="a").visit("/read")
    late = _Browser(app, own="a")
    clock.advance(9)
    assert await late.visit("/read") == {"user_id": "a"}
    assert late.set_cookies == []
    clock.advance(2)
    assert await late.visit("/read") == {}


async def test_an_old_cookie_from_before_the_log_in_opens_nothing_after_it():
    """Who planted an old cookie does not get into the session of the user who logs in with it, first or later."""
    _, app = _roomkey(StarletteCookie(KEY))

    for paths in (["/log-in"], ["/read", "/log-in"]):
        planted = starlette_cookie(KEY, {"cart": len(paths)})[1].decode()
        victim = _Browser(app, session=planted)
        for path in paths:
            await victim.visit(path)
        assert await _Browser(app, session=planted).visit("/read") == {}
        assert await victim.visit("/read") == {"cart": len(paths), "user_id": "new"}


async def test_a_slow_first_request_does_not_bring_back_what_has_ended():
    """Two first requests, and a log-out while one of them still runs: it is saved nowhere."""
    store, app = _roomkey(_OwnReader())

    slow = await app.lifecycle.arrive([], {b"own": [b"a"]}.__getitem__)
    browser = _Browser(app, own="a")
    assert await browser.visit("/read") == {"user_id": "a"}
    await browser.visit("/log-out")
    slow.session["x"] = 1
    await slow.commit()
    assert slow.lost
    assert await store.of_user("a") == []
    assert await _Browser(app, own="a").visit("/read") == {}


async def test_a_revoked_session_does_not_move_in_again():
    """Not even where no response has given a cookie yet."""
    _, app = _roomkey(_OwnReader())

    with pytest.raises(RuntimeError):
        await _Browser(app, own="a").visit("/raise")
    assert await Sessions(app.lifecycle).revoke_all("a") == 1
    assert await _Browser(app, own="a").visit("/read") == {}


@pytest.mark.parametrize("in_cookie", [False, True], ids=["on the server", "in the cookie"])
@pytest.mark.parametrize(
    ("created_at", "known"), [(None, None), (500.0, 500.0), (2e9, 1e6), (math.inf, None), (math.nan, None)]
)
async def test_a_session_that_moves_in_is_no_recent_log_in(in_cookie, created_at, known):
    """When the log-in was is not known: no sooner than the session began. A log-in of its own is recent."""

    class Reader(_OwnReader):
        async def read(self, value):
            return LegacySession({"user_id": "a"}, created_at=created_at)

    clock = Clock(1e6)
    store = "cookie://" if in_cookie else MemoryStore(clock=clock)
    config = SessionConfig(secret_key=SECRET, store=store, legacy=[Reader()], clock=clock)
    life = SessionMiddleware(_shop, config).lifecycle

    visit = await life.arrive([], {b"own": [b"a"]}.__getitem__)
    for _ in range(2):
        moment = visit.session.authenticated_at
        assert (None if moment is None else moment.timestamp()) == known
        if known != 1e6:
            with pytest.raises(LoginTooOld):
                visit.session.require_recent(300)
        await visit.commit()
        visit = await life.arrive([visit.card])
    visit.session.reauthenticated()
    visit.session.require_recent(300)
    for act in ("invalidate", "log in"):
        visit = await life.arrive([], {b"own": [act.encode()]}.__getitem__)
        if act == "invalidate":
            visit.session.invalidate()
        visit.session["user_id"] = "a" if act == "invalidate" else "b"
        await visit.commit()
        (await life.arrive([visit.card])).session.require_recent(300)


@pytest.mark.parametrize("store", ["memory://", "cookie://"])
async def test_a_user_that_is_no_id_stays_outside(store, caplog):
    """An old session whose value under `user_key` is no ID does not move in; that is said once."""

    class Reader(_OwnReader):
        async def read(self, value):
            return LegacySession({"user_id": ["a"]})

    app = SessionMiddleware(_shop, secret_key=SECRET, store=store, legacy=[Reader()])

    for _ in range(2):
        assert await _Browser(app, own="a").visit("/read") == {}
    assert app.lifecycle.refused["legacy"] == 2
    assert caplog.text.count("old sessions do not move in") == 1


@pytest.mark.parametrize(("store", "size"), [("memory://", 65530), ("cookie://", 6000)])
async def test_a_session_that_just_does_not_fit_stays_outside(store, size, caplog):
    """One that is too large with what Roomkey adds, or for a cookie, is no error on every page."""

    class Reader(_OwnReader):
        async def read(self, value):
            return LegacySession({"user_id": "a", "x": "y" * (size - 15)}, created_at=time.time())

    app = SessionMiddleware(_shop, secret_key=SECRET, store=store, legacy=[Reader()])

    for _ in range(2):
        assert await _Browser(app, own="a").visit("/read") == {}
    assert app.lifecycle.refused["legacy"] == 2
    assert caplog.text.count("old sessions do not move in") == 1


async def test_an_old_cookie_under_another_readers_name_is_the_same_session():
    """Who logged out cannot move in again by renaming the old cookie."""
    app = SessionMiddleware(
        _shop,
        secret_key=SECRET,
        store="memory://",
        session_cookie="new",
        legacy=[StarletteCookie(KEY), StarletteCookie(KEY, cookie_name="older")],
    )
    cookie = starlette_cookie(KEY, DATA)[1].decode()

    browser = _Browser(app, session=cookie)
    await browser.visit("/read")
    await browser.visit("/log-out")
    assert await _Browser(app, older=cookie).visit("/read") == {}


async def test_what_an_old_cookie_held_does_not_lead_to_the_sealed_session():
    """With a dump of the store and every secret key, whoever guesses an old cookie's data finds nothing with it."""
    clock = Clock(time.time())
    store = MemoryStore(clock=clock)
    app = SessionMiddleware(
        _shop, secret_key=SECRET, store=store, legacy=[StarletteCookie(KEY)], clock=clock, seal=True
    )
    cookie = starlette_cookie(KEY, {"user_id": 7})[1]  # guessed: it holds nothing but a small number

    def opened():
        """What is found by way of the mark."""
        mark = hashlib.sha256(b"roomkey: moved in\0session\0" + cookie).digest()
        envelope, key = app.lifecycle.envelope, store_key(mark)
        secret = envelope.secret_of(mark)
        while key in store._records:
            record = store._records[key]
            if record.successor is None:
                return codec.decode(envelope.open(record.data, key, secret))
            secret, key = envelope.follow(record.data, record.successor, secret), record.successor
        return None

    browser = _Browser(app, session=cookie.decode())
    await browser.visit("/count")
    assert opened() == {"user_id": 7, "n": 1}  # as long as requests from before may still be saved
    clock.advance(61)
    await browser.visit("/count")
    await app.lifecycle.store.purge(100)
    assert opened() is None
    assert await browser.visit("/read") == {"user_id": 7, "n": 2}
    assert await _Browser(app, session=cookie.decode()).visit("/read") == {}


async def test_a_mark_that_cannot_be_followed():
    """A damaged mark, and one that leads to nothing, are no session and no error."""
    store, app = _roomkey(_OwnReader(), seal=True)

    await _Browser(app, own="a").visit("/read")
    (mark,) = [key for key, record in store._records.items() if record.user is None]
    good = store._records[mark]
    for bad in ({"data": b"x"}, {"successor": None}, {"successor": "0" * 64}):
        store._records[mark] = dataclasses.replace(good, **bad)
        assert await _Browser(app, own="a").visit("/read") == {}


async def test_the_limit_counts_who_moves_in():
    """`max_sessions_per_user` holds for sessions that move in too."""
    store, app = _roomkey(_OwnReader(data={"user_id": "a"}), max_sessions_per_user=2)

    browsers = [_Browser(app, own=str(number)) for number in range(3)]
    for browser in browsers:
        assert await browser.visit("/read") == {"user_id": "a"}
    assert len(await store.of_user("a")) == 2


@pytest.mark.parametrize("seal", [False, True])
async def test_requests_that_move_in_together_take_one_place_of_the_limit(seal):
    """Twenty requests with one old cookie are one session: it pushes out the longest unused one, and no other."""
    clock = Clock(1_700_000_000.0)
    store = CountingStore(clock=clock)
    options = {"store": store, "clock": clock, "max_sessions_per_user": 2, "seal": seal}
    app = SessionMiddleware(_shop, secret_key=SECRET, legacy=[_OwnReader(data={"user_id": "new"})], **options)

    before = []
    for _ in range(2):
        before.append(_Browser(app))
        await before[-1].visit("/log-in")
        clock.advance(10)
    together = [_Browser(app, own="a") for _ in range(20)]
    assert await asyncio.gather(*(browser.visit("/read") for browser in together)) == [{"user_id": "new"}] * 20
    assert len(await store.of_user("new")) == 2
    # The browser keeps the card that came last.
    assert {"user_id": "new"} in [await browser.visit("/read") for browser in together]
    assert [await browser.visit("/read") for browser in before] == [{}, {"user_id": "new"}]


async def test_a_copy_of_a_logged_out_cookie_in_the_last_second_of_its_life():
    """Whole seconds are counted there, so it lives a little longer than it says; what says that it moved in, longer."""
    clock = Clock(1_700_000_000.0)
    with mock.patch("time.time", clock):
        _, value = starlette_cookie(KEY, {"user_id": 5})
    reader = StarletteCookie(KEY, clock=clock)
    store = MemoryStore(clock=clock)
    app = SessionMiddleware(_shop, secret_key=SECRET, store=store, legacy=[reader], clock=clock)

    browser, copy = _Browser(app, session=value.decode()), _Browser(app, session=value.decode())
    await browser.visit("/read")
    await browser.visit("/log-out")
    clock.advance(14 * DAY - 1)
    for _ in range(30):
        clock.advance(0.1)
        assert await copy.visit("/read") == {}


async def test_two_apps_with_one_store_and_one_old_cookie():
    """A session that moved in to the one is not the other's, whose cookie and keys are its own."""
    store = MemoryStore()
    shop, admin = (
        SessionMiddleware(_shop, secret_key=key, session_cookie=name, store=store, legacy=[_OwnReader()])
        for key, name in ((SECRET, "shop"), (OTHER, "admin"))
    )

    first, second = _Browser(shop, own="a"), _Browser(admin, own="a")
    await first.visit("/count")
    assert await second.visit("/read") == {"user_id": "a"}
    await second.visit("/count")
    assert await first.visit("/read") == {"user_id": "a", "n": 1}


async def test_a_refresh_gives_no_second_card():
    """Another first request with the old cookie has moved the session in: its response carries the card."""
    _, app = _roomkey(_OwnReader())

    one, two = [await app.lifecycle.arrive([], {b"own": [b"a"]}.__getitem__) for _ in range(2)]
    await one.commit()
    await two.session.refresh()
    two.session["x"] = 1
    await two.commit()
    assert two.card == b""
    assert (await app.lifecycle.arrive([one.card])).session == {"user_id": "a", "x": 1}


@pytest.mark.parametrize("act", ["rotate", "reauthenticated", "log in again", "remember"])
async def test_what_a_session_that_moves_in_cannot_do_without_a_cookie(act):
    """In a response that has started: an error, not silence."""
    _, app = _roomkey(_OwnReader())

    visit = await app.lifecycle.arrive([], {b"own": [b"a"]}.__getitem__)
    visit.cookie_possible = False
    if act == "log in again":
        visit.session.clear()
        visit.session["user_id"] = "a"
    elif act == "remember":
        visit.session.remember(60)
    else:
        getattr(visit.session, act)()
    with pytest.raises(ResponseStarted):
        await visit.session.save()


async def test_who_comes_second_files_what_the_first_request_could_not(monkeypatch):
    """The store failed after the first request had saved the session and before it had said whose it is."""
    store, app = _roomkey(_OwnReader(data={"user_id": "new"}), max_sessions_per_user=2)

    async def down(*args, **options):
        raise StoreUnavailable("down")

    browser = _Browser(app, own="a")
    with monkeypatch.context() as patch:
        patch.setattr(store, "update", down)
        assert await browser.visit("/read") == 503
    assert await store.of_user("new") == []
    assert await browser.visit("/read") == {"user_id": "new"}
    assert len(await store.of_user("new")) == 1
    assert await browser.visit("/read") == {"user_id": "new"}
    assert set(browser.cookies) == {"session"}


async def test_the_list_of_sessions_says_from_where_one_moved_in():
    """With `record_client`; and says nothing of who has logged out since."""
    _, app = _roomkey(_OwnReader())

    visit = await app.lifecycle.arrive([], {b"own": [b"a"]}.__getitem__)
    visit.client = ("192.0.2.1", "a browser")
    visit.session["x"] = 1
    await visit.commit()
    (info,) = await Sessions(app.lifecycle).of("a")
    assert (info.ip, info.user_agent) == ("192.0.2.1", "a browser")
    visit = await app.lifecycle.arrive([visit.card])
    visit.client = ("192.0.2.1", "a browser")
    del visit.session["user_id"]
    await visit.commit()
    assert (visit.record.ip, visit.record.user_agent) == (None, None)


async def test_a_log_in_by_the_first_request_is_no_part_of_the_old_session():
    """It gets an ID of its own, and the requests that were sent with it see nothing of it."""
    _, app = _roomkey(_OwnReader())
    one, two = _Browser(app, own="a"), _Browser(app, own="a")

    await one.visit("/log-in")
    assert await one.visit("/read") == {"user_id": "new"}
    assert await two.visit("/read") == {}


async def test_a_store_that_is_down_loses_no_old_session(monkeypatch):
    """When the new session cannot be saved, the answer is 503, and the old cookie and entry stay."""
    reader = _OwnReader()
    store, app = _roomkey(reader)
    browser = _Browser(app, own="a")

    async def down(*args, **options):
        raise StoreUnavailable("down")

    with monkeypatch.context() as patch:
        patch.setattr(store, "create", down)
        assert await browser.visit("/read") == 503
        assert (browser.cookies, reader.forgotten) == ({"own": "a"}, [])
    assert await browser.visit("/read") == {"user_id": "a"}
    assert (set(browser.cookies), reader.forgotten) == ({"session"}, [b"a"])


async def test_an_old_server_that_is_down_is_503():
    """Where nobody knows whether there is an old session, the answer is 503, and the cookie stays."""
    reader = _OwnReader(error=OSError())
    _, app = _roomkey(reader)
    browser = _Browser(app, own="a")

    assert await browser.visit("/read") == 503
    assert browser.cookies == {"own": "a"}
    assert await _Browser(app).visit("/read") == {}  # others are served


async def test_a_websocket_moves_in_when_it_is_accepted():
    """A WebSocket's cookie goes out when it is accepted; one that is refused leaves the old session for later."""
    reader = _OwnReader()
    _, app = _roomkey(reader)
    browser = _Browser(app, own="a")

    await browser.visit("/close", "websocket")
    assert (browser.cookies, reader.forgotten) == ({"own": "a"}, [])
    await browser.visit("/accept", "websocket")
    assert (set(browser.cookies), reader.forgotten) == ({"session"}, [b"a"])
    assert await browser.visit("/read") == {"user_id": "a"}


@pytest.mark.parametrize(("path", "error"), [("/raise", RuntimeError), ("/refuse", _Refusal)])
async def test_a_request_that_cannot_give_a_cookie_leaves_it_for_later(path, error):
    """After an unhandled error, or an answer whose one cookie is the app's, the old session is still there."""
    reader = _OwnReader()
    _, app = _roomkey(reader)
    browser = _Browser(app, own="a")

    with pytest.raises(error):
        await browser.visit(path)
    assert reader.forgotten == []
    assert await browser.visit("/read") == {"user_id": "a"}


async def test_without_an_old_cookie_nothing_happens():
    """Anonymous and forged requests stay anonymous; forged values are counted."""
    _, app = _roomkey(StarletteCookie(KEY))

    assert await _Browser(app).visit("/read") == {}
    forged = _Browser(app, session=starlette_cookie(OTHER, DATA)[1].decode())
    assert await forged.visit("/read") == {}
    assert forged.set_cookies == []
    assert app.lifecycle.refused["legacy"] == 1


async def test_a_cookie_of_the_same_name_at_another_path_is_taken_back_first():
    """A browser that takes the two cookies for one keeps the new one."""
    _, app = _roomkey(StarletteCookie(KEY, path="/old"))
    browser = _Browser(app, session=starlette_cookie(KEY, DATA)[1].decode())

    assert await browser.visit("/read") == DATA
    old, new = browser.set_cookies
    assert "Max-Age=0" in old and "Path=/old" in old
    assert browser.cookies == {"session": new.partition(";")[0].partition("=")[2]}
    assert await browser.visit("/read") == DATA


def test_a_ravyn_app_moves_in():
    """Ravyn's own sessions move in with one import changed and one option added."""
    from roomkey.ravyn import SessionConfig as Config

    @ravyn_get("/")
    async def show(request: RavynRequest) -> dict:
        return dict(request.session)

    config = Config(secret_key=SECRET, store="memory://", legacy=[RavynCookie(KEY)])
    value = ravyn_cookie(KEY, DATA)[1].decode()
    with RavynTestClient(Ravyn(routes=[Gateway(handler=show)], session_config=config)) as client:
        assert client.get("/", headers={"Cookie": f"session={value}"}).json() == DATA
        assert client.get("/").json() == DATA
