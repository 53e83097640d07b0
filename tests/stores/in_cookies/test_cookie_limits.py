"""Sessions in the cookie itself: several cookies, limits and attacks."""

import base64
import logging
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roomkey import ConfigurationError, SessionDataError
from roomkey.stores.cookie import CookieStore
from tests.driver import driver_of
from tests.stores.in_cookies.browser import OLDER, SECRET, Browser, large, put, read

# --- several cookies --------------------------------------------------------------------------------------------------


def test_it_grows_shrinks_and_ends(browser):
    """A large session lies in several cookies; when it shrinks or ends, the surplus ones are taken back."""
    for size, cookies in [(10, 1), (2900, 1), (3100, 2), (11000, 4), (5000, 2), (20000, 7), (10, 1), (9000, 4)]:
        browser.ask(put(data=large(size)))
        assert sorted(browser.jar.cookies) == ["session", *(f"session.{n}" for n in range(1, cookies))], size
        assert browser.ask(read) == {"data": large(size)}
        assert browser.lines == []
    browser.ask(lambda session: session.clear())
    assert len(browser.lines) == 4 and browser.jar.cookies == {}


@pytest.mark.parametrize("size", [*range(2950, 3060), *range(5900, 6120, 5)])
def test_every_size_around_the_limits(size):
    """Whatever the size, no cookie is larger than 4,096 bytes with its attributes, and the session comes back."""
    browser = Browser()
    browser.ask(put(data=large(size)))
    assert browser.ask(read) == {"data": large(size)}


def test_attributes_of_all_cookies():
    """Every one of the cookies has the attributes of the configuration, given or taken back."""
    browser = Browser(
        session_cookie="__Secure-s",
        path="/app",
        domain="example.org",
        https_only=True,
        same_site="none",
        partitioned=True,
    )
    attributes = "; Path=/app; Domain=example.org; HttpOnly; SameSite=none; Secure; Partitioned"
    browser.ask(put(data=large(7000)))
    assert len(browser.lines) == 3
    assert all(line.endswith("; Max-Age=14400" + attributes) for line in browser.lines)
    browser.ask(lambda session: session.clear())
    assert len(browser.lines) == 3
    assert all(
        line.endswith("=; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT" + attributes) for line in browser.lines
    )


def test_leftovers_do_no_harm(browser):
    """Chunks that belong to nothing are ignored, and taken back with the next cookie that is written."""
    browser.jar.cookies.update({"session.2": "left", "session.7": "over"})
    assert browser.ask(read) == {}
    assert browser.lines == []
    browser.ask(put(a=1))
    assert list(browser.jar.cookies) == ["session"]


@pytest.mark.parametrize("lost", ["session", "session.1", "session.2"])
def test_a_missing_chunk(browser, lost):
    """When the browser has dropped one of the cookies, there is no session, rather than half of one."""
    browser.ask(put(data=large(7000)))
    del browser.jar.cookies[lost]
    assert browser.ask(read) == {}
    assert browser.refused == ({} if lost == "session" else {"card": 1})


def test_chunks_of_two_sessions_do_not_mix():
    """A chunk of another state of the session, or of another user's, is never taken for one of this."""
    one, two = Browser(), Browser()
    one.ask(put(data=large(7000, 1)))
    two.ask(put(data=large(7000, 2)))
    for mixed in ("session", "session.1", "session.2"):
        cookies = {**one.jar.cookies, mixed: two.jar.cookies[mixed]}
        header = "; ".join(f"{name}={value}" for name, value in cookies.items()).encode()
        assert one.ask(read, cookie=header) == {}
        # Not even with the tag forged: the message as a whole is authenticated.
        if mixed != "session":
            cookies[mixed] = one.jar.cookies[mixed][:8] + two.jar.cookies[mixed][8:]
            header = "; ".join(f"{name}={value}" for name, value in cookies.items()).encode()
            assert one.ask(read, cookie=header) == {}


def test_tossed_cookies_do_not_hide_the_session(browser):
    """Cookies of these names that a neighbour domain planted, before or behind, do not take the session away."""
    browser.ask(put(data=large(7000)))
    planted = b"session=3abc; session.1=junk; session.2=; session=" + b"x" * 100
    genuine = browser.jar.header()
    assert browser.ask(read, cookie=planted + b"; " + genuine) == {"data": large(7000)}
    assert browser.ask(read, cookie=genuine + b"; " + planted) == {"data": large(7000)}


def test_an_expired_copy_does_not_hide_a_live_one(browser):
    """Of two genuine cookies, the one that is not over counts."""
    browser.ask(put(a="old"))
    old = browser.jar.header()
    browser.clock.advance(14400)
    browser.ask(put(a="new"))
    assert browser.ask(read, cookie=old + b"; " + browser.jar.header()) == {"a": "new"}


# --- limits -----------------------------------------------------------------------------------------------------------


def test_too_large():
    """Past the limit, the error names size, limit and the largest key, before the response starts."""
    browser = Browser(store=CookieStore())
    browser.ask(put(small=1))
    with pytest.raises(SessionDataError, match=r"takes \d+ bytes of cookies, and 7168 is the most.*'big'"):
        browser.ask(put(big=large(6000)))
    assert browser.ask(read) == {"small": 1}
    browser.ask(put(big=large(5000)))
    assert len(browser.jar.header()) <= 7168


@pytest.mark.parametrize("size", [512, 4096, 7168, 16384, 32768])
def test_the_limit_is_what_the_header_takes(size):
    """The largest session that is let through makes a `Cookie` header within `max_size`, and nearly fills it."""
    browser = Browser(store=CookieStore(max_size=size))
    low, high = 1, 40000
    while high - low > 1:
        middle = (low + high) // 2
        try:
            browser.ask(put(data=bytes(middle)))
            low = middle
        except SessionDataError:
            high = middle
    browser.ask(put(data=bytes(low)))
    filled = len(browser.jar.header())
    assert size - 60 <= filled <= size or (size == 32768 and len(browser.jar.cookies) == 8)


def test_max_bytes_counts_too():
    """`max_bytes`, the limit of every store, holds here as well."""
    browser = Browser(max_bytes=100)
    with pytest.raises(SessionDataError, match="max_bytes is 100"):
        browser.ask(put(data=b"x" * 200))


def test_long_attributes_leave_less_room():
    """A long path takes from the room in each cookie, and never from the 4,096 bytes that a browser keeps."""
    browser = Browser(path="/" + "p" * 3000)
    browser.ask(put(data=large(3000)))
    assert len(browser.jar.cookies) > 4
    assert browser.ask(read) == {"data": large(3000)}
    with pytest.raises(SessionDataError, match="is the most"):
        browser.ask(put(data=large(7000)))
    with pytest.raises(ConfigurationError, match="path"):
        Browser(path="/" + "p" * 3700)


@pytest.mark.parametrize("value", [object(), bytearray(b"x"), {1: object()}])
def test_what_cannot_be_stored(browser, value):
    """A value that no session keeps is refused, and the session stays as it was."""
    browser.ask(put(a=1))
    with pytest.raises(SessionDataError):
        browser.ask(put(a=value))
    assert browser.ask(read) == {"a": 1}


# --- attacks ----------------------------------------------------------------------------------------------------------


SMALL = Browser()
SMALL.ask(put(user_id=1, data="x" * 50))
SMALL_VALUE = SMALL.jar.cookies["session"].encode()
LARGE = Browser()
LARGE.ask(put(user_id=1, data=large(7000)))
LARGE_COOKIES = [LARGE.jar.cookies[name].encode() for name in ("session", "session.1", "session.2")]
NAMES = [b"session", b"session.1", b"session.2"]


def test_every_byte_counts():
    """A cookie with any one character changed, added or missing is anonymous."""
    for index in range(len(SMALL_VALUE)):
        for other in b"A-_z0189":
            if SMALL_VALUE[index] != other:
                altered = SMALL_VALUE[:index] + bytes([other]) + SMALL_VALUE[index + 1 :]
                assert driver_of(SMALL.app).sealed.open(altered) is None, (index, other)
        for altered in (
            SMALL_VALUE[:index] + SMALL_VALUE[index + 1 :],
            SMALL_VALUE[:index],
            SMALL_VALUE[:index] + b"A" + SMALL_VALUE[index:],
        ):
            assert driver_of(SMALL.app).sealed.open(altered) is None, index
    assert driver_of(SMALL.app).sealed.open(SMALL_VALUE) is not None


@pytest.mark.parametrize("size", range(50, 53))
def test_a_card_has_one_form(browser, size):
    """What a lenient decoder takes for the same bytes is refused: other alphabet, padding, spare bits, junk between."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    value = ""
    while "-" not in value or "_" not in value:  # the salt is random
        browser.ask(put(data="x" * size, again=uuid.uuid4().bytes))
        value = browser.jar.cookies["session"]
    forms = [value.replace("-", "+", 1), value.replace("_", "/", 1), value[:9] + "!" + value[9:], value + "!"]
    forms += [value + "=" * count for count in range(1, 5)]
    spare = {0: 0, 3: 2, 2: 4}[len(value[1:]) % 4]  # bits of the last character that mean nothing
    forms += [value[:-1] + alphabet[alphabet.index(value[-1]) | bits] for bits in range(1, 1 << spare)]
    assert len(set(forms)) == len(forms)
    for form in forms:
        assert browser.ask(read, cookie=b"session=" + form.encode()) == {}, form
    assert browser.refused == {"card": len(forms)}


@given(st.integers(0, 2), st.integers(0, 4000), st.sampled_from([byte for byte in range(33, 127) if byte not in b'";']))
def test_every_byte_of_every_chunk_counts(chunk, index, other):
    """Any character changed in any of several cookies makes the request anonymous."""
    values = list(LARGE_COOKIES)
    index %= len(values[chunk])
    if values[chunk][index] == other:
        return
    values[chunk] = values[chunk][:index] + bytes([other]) + values[chunk][index + 1 :]
    header = b"; ".join(name + b"=" + value for name, value in zip(NAMES, values, strict=True))
    assert LARGE.ask(read, cookie=header) == {}


@given(st.lists(st.integers(0, 2), min_size=0, max_size=4), st.permutations(range(3)))
def test_the_order_of_chunks_counts(choice, order):
    """Chunks under other names than their own are no session; in which order the browser sends them is all the same."""
    names = [*NAMES, b"session.3"]
    header = b"; ".join(names[place] + b"=" + LARGE_COOKIES[which] for place, which in enumerate(choice))
    assert (LARGE.ask(read, cookie=header) == {}) == (choice[:3] != [0, 1, 2])
    header = b"; ".join(NAMES[which] + b"=" + LARGE_COOKIES[which] for which in order)
    assert LARGE.ask(read, cookie=header)["user_id"] == 1


@given(st.binary(max_size=300))
def test_nothing_that_a_client_sends_raises(noise):
    """Whatever the cookies hold, the request is anonymous and answered."""
    for header in (
        noise,
        b"session=" + noise,
        b"session=3" + noise + b"; session.1=" + noise + b"; session.2=" + noise,
    ):
        assert SMALL.ask(read, cookie=header) == {}


@pytest.mark.parametrize(
    "value",
    [b"", b"0", b"1", b"2", b"9", b"99999999", b"-1", b"\xb2AAAAAAAAAAAAAAAAAAAA", b"8" + b"A" * 40, b"1" + b"A" * 60]
    + [b"1" + b"A" * length for length in (1, 2, 3, 4, 5, 33, 100_000)]
    + ['1é"'.encode(), b"1===", b"1AAA=", b"1" + b"\xff" * 60],
)
def test_hostile_numbers_and_texts(browser, value):
    """A number of chunks that is none, too large or a lie, and text that is no base64url, are anonymous and counted."""
    assert browser.ask(read, cookie=b"session=" + value) == {}
    assert browser.refused == {"card": 1}


def test_the_work_is_bounded(browser, monkeypatch):
    """Of thousands of cookies of these names, at most 8 are looked at."""
    browser.ask(put(data=large(7000)))
    opened = []
    real = driver_of(browser.app).sealed.sealer.__class__.open
    monkeypatch.setattr("roomkey.wire.seal.Sealer.open", lambda *a, **k: opened.append(1) or real(*a, **k))
    many = b"; ".join(
        b"session=1%s; session.%d=AAAABBBB%d" % (SMALL_VALUE[1:-4] + b"AAAA", n % 9, n) for n in range(3000)
    )
    assert browser.ask(read, cookie=many) == {}
    assert 0 < len(opened) <= 8
    assert browser.refused == {"card": 1}


def test_another_app_with_the_same_secret():
    """A cookie that was made for another name, or by a session on a server, is refused."""
    one, other = Browser(), Browser(session_cookie="other")
    one.ask(put(a=1))
    value = one.jar.cookies["session"].encode()
    assert one.ask(read, cookie=b"session=" + value) == {"a": 1}
    assert other.ask(read, cookie=b"other=" + value) == {}
    assert other.refused == {"key": 1}
    server = Browser(store="memory://")
    server.ask(put(a=1))
    assert one.ask(read, cookie=server.jar.header()) == {}
    assert server.ask(read, cookie=b"session=" + value) == {}


def test_another_secret(caplog):
    """A cookie that another secret sealed is refused, counted, and once it is said what the usual cause is."""
    browser, other = Browser(), Browser(secret_key=OLDER)
    browser.ask(put(a=1))
    with caplog.at_level(logging.WARNING, "roomkey"):
        for _ in range(3):
            assert other.ask(read, cookie=browser.jar.header()) == {}
    assert other.refused == {"key": 3}
    (line,) = caplog.records
    assert "each worker makes a key of its own" in line.getMessage()


def test_nothing_can_be_read_in_the_cookie(browser):
    """Neither the data, nor its base64, nor the handle, the secret or the user can be found in the cookie."""
    browser.ask(put(user_id="ada@example.org", secret="correct horse battery staple"))
    value = browser.jar.cookies["session"]
    handle = browser.ask(lambda session: session.handle)
    raw = base64.urlsafe_b64decode(value[1:] + "===")
    for text in (b"ada@example.org", b"correct horse", b"secret", b"user_id", SECRET.encode(), handle.encode()):
        assert text not in raw and text not in value.encode()
        for shift in range(3):
            encoded = base64.urlsafe_b64encode(b"." * shift + text)[shift + 1 : -4]
            assert encoded not in value.encode()
    assert bytes.fromhex(handle) not in raw


def test_the_same_session_is_never_the_same_cookie():
    """Two sessions of the same data, at the same moment, have nothing in common but number, format and key name."""
    one, two = Browser(), Browser()
    one.ask(put(a=1))
    two.ask(put(a=1))
    first, second = one.jar.cookies["session"], two.jar.cookies["session"]
    assert first[:7] == second[:7] and first[8:20] != second[8:20] and first[-20:] != second[-20:]


def test_it_does_not_compress(browser):
    """Data that repeats itself takes as much room as data that does not: the length tells nothing of the content."""
    browser.ask(put(data=b"a" * 1000))
    length = len(browser.jar.cookies["session"])
    browser.ask(put(data=large(1000)))
    assert len(browser.jar.cookies["session"]) == length
