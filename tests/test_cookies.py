"""The cookie on the wire: found in raw request headers, written into raw response headers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roomkey import SessionConfig
from roomkey.wire.cookies import CookieWriter, find_chunked, find_cookies, protect_from_caches, vary_on_cookie

SECRET = "a secret that is long enough for every test here"
CARD = b"CARD"


def _writer(**options):
    return CookieWriter(SessionConfig(secret_key=SECRET, store="memory://", **options))


# --- Set-Cookie -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "given_cookie", "cleared"),
    [
        (
            {},
            b"session=CARD; Max-Age=60; Path=/; HttpOnly; SameSite=lax",
            b"session=; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT; Path=/; HttpOnly; SameSite=lax",
        ),
        (
            {"https_only": True, "same_site": "strict"},
            b"session=CARD; Max-Age=60; Path=/; HttpOnly; SameSite=strict; Secure",
            b"session=; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT; Path=/; HttpOnly; SameSite=strict; Secure",
        ),
        (
            {"persistent": False},
            b"session=CARD; Path=/; HttpOnly; SameSite=lax",
            b"session=; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT; Path=/; HttpOnly; SameSite=lax",
        ),
        (
            {"path": "/shop", "domain": "example.com", "session_cookie": "sid"},
            b"sid=CARD; Max-Age=60; Path=/shop; Domain=example.com; HttpOnly; SameSite=lax",
            b"sid=; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT; Path=/shop; Domain=example.com; HttpOnly; "
            b"SameSite=lax",
        ),
        (
            {"session_cookie": "__Host-s", "https_only": True, "same_site": "none", "partitioned": True},
            b"__Host-s=CARD; Max-Age=60; Path=/; HttpOnly; SameSite=none; Secure; Partitioned",
            b"__Host-s=; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT; Path=/; HttpOnly; SameSite=none; Secure; "
            b"Partitioned",
        ),
    ],
    ids=["default", "secure", "browser session", "path and domain", "partitioned"],
)
def test_set_cookie(options, given_cookie, cleared):
    """Each configuration gives exactly these headers, and takes the cookie back with the same attributes."""
    writer = _writer(**options)
    assert writer.give(CARD, 60) == (b"set-cookie", given_cookie)
    assert writer.clear() == (b"set-cookie", cleared)


@pytest.mark.parametrize(("seconds", "age"), [(60, 60), (59.1, 60), (0.2, 1), (0, 1), (-5, 1), (1e9, 1000000000)])
def test_max_age_is_rounded_up_and_positive(seconds, age):
    """Seconds are rounded up and are at least 1, for 0 would delete the cookie."""
    assert b"; Max-Age=%d;" % age in _writer().give(CARD, seconds)[1]


# --- Cookie -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (b"session=a", [b"a"]),
        (b"x=1; session=a; y=2", [b"a"]),
        (b"x=1;session=a;y=2", [b"a"]),
        (b" \tsession \t=\t a \t", [b"a"]),
        (b'session="a"', [b"a"]),
        (b"session=a=b==", [b"a=b=="]),
        (b"session=", [b""]),
        (b"session=a; session=b", [b"a", b"b"]),
        (b"session", []),
        (b"Session=a", []),
        (b"xsession=a; sessionx=b; x=session", []),
        (b"=session; ;;; ==", []),
        (b"", []),
    ],
)
def test_find_cookies(value, found):
    """Cookies of exactly this name are found, leniently as to space and quotes."""
    assert find_cookies([(b"host", b"session=no"), (b"cookie", value)], b"session") == found


def test_cookies_of_several_headers_are_found_in_order():
    """HTTP/2 may split the cookies over several headers; their order holds."""
    headers = [(b"cookie", b"session=a"), (b"accept", b"*/*"), (b"cookie", b"x=1; session=b")]
    assert find_cookies(headers, b"session") == [b"a", b"b"]


def test_at_most_8_cookies_are_found():
    """Of many cookies of one name the first 8 are looked at."""
    headers = [(b"cookie", b"; ".join(b"session=%d" % n for n in range(5))), (b"cookie", b"session=x; " * 50)]
    assert find_cookies(headers, b"session") == [b"0", b"1", b"2", b"3", b"4", b"x", b"x", b"x"]


class Counted(bytes):
    """A header that counts the pairs that it is split into."""

    def split(self, *how):
        pairs = super().split(*how)
        self.pairs = getattr(self, "pairs", 0) + len(pairs)
        return pairs


@pytest.mark.parametrize("find", [find_cookies, find_chunked])
@pytest.mark.parametrize("part", [b"session;", b";", b"session ;", b"session=;", b"; "])
def test_a_bounded_number_of_pairs_is_looked_at(find, part):
    """64 KB of them cost no more than 1,000."""
    headers = [(b"cookie", Counted(b"session;" + part * (16_000 // len(part)))) for _ in range(4)]
    found = find(headers, b"session")
    assert len(found) <= 8
    assert sum(getattr(value, "pairs", 0) for _, value in headers) <= 1000 + 1  # and what is left, in one piece


@pytest.mark.parametrize("find", [find_cookies, find_chunked])
@pytest.mark.parametrize("headers", [1, 2, 999])
def test_a_cookie_after_all_that_browsers_keep_is_found(find, headers):
    """Among 999 other cookies, in one header or several. After more it is not: no browser keeps so many."""
    others = [b"session%d=x" % number for number in range(999)]
    size = -(-len(others) // headers)
    sent = [(b"cookie", b"; ".join(others[at : at + size])) for at in range(0, len(others), size)]
    assert find([*sent, (b"cookie", b"session=1card")], b"session") == [b"1card"]
    assert find([(b"cookie", b"session9=x"), *sent, (b"cookie", b"session=1card")], b"session") == []


_PIECES = st.lists(st.sampled_from([b"session", b"=", b";", b" ", b"\t", b'"', b"x", b"\xff", b"\0"]) | st.binary())
_NOISE = st.binary() | _PIECES.map(b"".join)
_HEADERS = st.lists(st.tuples(st.sampled_from([b"cookie", b"host"]) | st.binary(), _NOISE), max_size=12)


@given(_HEADERS, st.sampled_from([b"session", b"x", b"__Host-s"]))
def test_nothing_that_a_client_sends_raises(headers, name):
    """Whatever the headers hold, at most 8 values come out, none with a semicolon."""
    found = find_cookies(headers, name)
    assert len(found) <= 8
    assert all(type(value) is bytes and b";" not in value for value in found)


@given(
    st.lists(st.tuples(st.just(b"cookie"), _NOISE.filter(lambda noise: b"session" not in noise)), max_size=8),
    st.integers(0, 8),
    _NOISE.map(lambda noise: noise.replace(b"session", b"")),
    _NOISE,
    st.text("abcXYZ019-_", min_size=1).map(str.encode),
)
def test_a_planted_cookie_is_found(noise, place, before, after, value):
    """A cookie among any others, in any header, is found."""
    before = before.replace(b"session", b"")  # the cuts may have made another one
    noise.insert(place, (b"cookie", before + b"; session=" + value + b"; " + after))
    assert find_cookies(noise, b"session")[0] == value


# --- caches -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([], [(b"vary", b"Cookie")]),
        ([(b"a", b"b")], [(b"a", b"b"), (b"vary", b"Cookie")]),
        ([(b"vary", b"Accept")], [(b"vary", b"Accept, Cookie")]),
        ([(b"Vary", b"Accept, Origin")], [(b"Vary", b"Accept, Origin, Cookie")]),
        ([(b"vary", b"cookie")], [(b"vary", b"cookie")]),
        ([(b"vary", b"Accept , COOKIE")], [(b"vary", b"Accept , COOKIE")]),
        ([(b"vary", b"*")], [(b"vary", b"*")]),
        ([(b"vary", b"")], [(b"vary", b"Cookie")]),
        ([(b"vary", b"X-Cookie")], [(b"vary", b"X-Cookie, Cookie")]),
    ],
)
def test_vary_is_merged(before, after):
    """`Cookie` joins the Vary header that is there, once."""
    vary_on_cookie(before, b"session=")
    assert before == after
    vary_on_cookie(before, b"session=")
    assert before == after


def test_caches_are_told_no():
    """What the app said to caches is replaced, whatever its case, and the rest stays."""
    headers = [
        (b"Cache-Control", b"public, max-age=60"),
        (b"a", b"b"),
        (b"cache-control", b"immutable"),
        (b"EXPIRES", b"Thu, 01 Jan 2099 00:00:00 GMT"),
    ]
    same = headers
    protect_from_caches(headers)
    assert headers == [(b"a", b"b"), (b"cache-control", b"no-store")]
    assert headers is same
