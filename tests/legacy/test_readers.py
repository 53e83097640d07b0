"""Readers of other libraries' signed cookies, held against cookies that the libraries themselves made."""

import base64
import dataclasses
import datetime as dt
import json
import time
import uuid
import warnings
import zlib
from unittest import mock

import flask
import itsdangerous
import pytest
import redis
import redis.asyncio
from flask.json.tag import TaggedJSONSerializer
from hypothesis import example, given
from hypothesis import strategies as st
from markupsafe import Markup
from pydantic import SecretStr
from starlette.middleware.sessions import SessionMiddleware as StarletteMiddleware

from roomkey import ConfigurationError
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
from roomkey.legacy.readers import checked_readers
from roomkey.testing.clock import Clock
from roomkey.wire import codec
from tests.legacy.cookies import (
    DATA,
    KEY,
    OTHER,
    SIGNED,
    by_library,
    django_cookie,
    flask_cookie,
    lilya_cookie,
    nested_lists,
    starlette_cookie,
)


def at_once(coroutine):
    """Run what never waits, without the cost of a loop for each of many examples."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waits")


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
    clock = Clock(1_700_000_000.0)
    with mock.patch("time.time", clock):
        value = library.cookie(KEY, DATA)[1]
    reader = library.reader(KEY, max_age=dt.timedelta(seconds=100), clock=clock)
    assert reader.max_age == 100
    clock.advance(95)
    assert (await reader.read(value)).expires_in == 5
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
    "too deep": _encoded(nested_lists(101)),
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
    "payload", [_encoded(nested_lists(100)), _encoded(b'{"a": "' + b"x" * 1048000 + b'"}', compress=True)]
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
