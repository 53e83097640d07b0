"""Values of subclasses: kept as the kind that they are of, and only what is no kind of it is refused."""

import collections
import dataclasses
import datetime as dt
import enum
import http
import importlib
import subprocess
import sys
import typing
from decimal import Decimal
from pathlib import Path
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest

from roomkey import SessionConfig, SessionDataError
from roomkey.wire.codec import IMMUTABLE, decode, encode, is_same, verify


class Role(str, enum.Enum):  # noqa: UP042 - as many apps have it  # noqa: UP042 - as many apps have it
    ADMIN = "admin"


class Level(enum.IntEnum):
    HIGH = 3


class Access(enum.IntFlag):
    READ = 1
    WRITE = 2


class Key(enum.StrEnum):
    CART = "cart"


class Point(typing.NamedTuple):
    x: int
    y: int


class Text(str):
    def __str__(self):
        return "another text"


class Number(int):
    def __int__(self):
        return 0


class Real(float):
    pass


class Bytes(bytes):
    pass


class Items(list):
    pass


class Members(set):
    pass


class Frozen(frozenset):
    pass


class Table(dict):
    def items(self):
        return []


class Money(Decimal):
    pass


class Span(dt.timedelta):
    pass


class Moment(dt.datetime):
    pass


class Day(dt.date):
    pass


class Hour(dt.time):
    pass


class Id(UUID):
    pass


PARIS = ZoneInfo("Europe/Paris")
ORDERED = collections.OrderedDict(a=1, b=2)
ORDERED.move_to_end("a")
KINDS = {
    "str": (Text("x"), "x"),
    "str with half a character": (Text("\ud800"), "\ud800"),
    "(str, Enum)": (Role.ADMIN, "admin"),
    "StrEnum": (Key.CART, "cart"),
    "IntEnum": (Level.HIGH, 3),
    "IntFlag": (Access.READ | Access.WRITE, 3),
    "HTTPStatus": (http.HTTPStatus.OK, 200),
    "int": (Number(5), 5),
    "huge int": (Number(2**70), 2**70),
    "float": (Real(1.5), 1.5),
    "bytes": (Bytes(b"x"), b"x"),
    "list": (Items([1]), [1]),
    "named tuple": (Point(1, 2), (1, 2)),
    "set": (Members({1}), {1}),
    "frozenset": (Frozen({1}), frozenset({1})),
    "dict": (Table(a=1), {"a": 1}),
    "Counter": (collections.Counter("aab"), {"a": 2, "b": 1}),
    "defaultdict": (collections.defaultdict(list, a=[1]), {"a": [1]}),
    "OrderedDict": (ORDERED, {"b": 2, "a": 1}),
    "nested": (Table(a=Items([Role.ADMIN])), {"a": ["admin"]}),
    "Decimal": (Money("1.50"), Decimal("1.50")),
    "timedelta": (Span(1, 2, 3), dt.timedelta(1, 2, 3)),
    "datetime": (Moment(2025, 10, 26, 2, 30, fold=1, tzinfo=PARIS), dt.datetime(2025, 10, 26, 2, 30, tzinfo=PARIS)),
    "date": (Day(2026, 1, 2), dt.date(2026, 1, 2)),
    "time": (Hour(1, 2, 3, 4, tzinfo=dt.UTC), dt.time(1, 2, 3, 4, tzinfo=dt.UTC)),
    "UUID": (Id(int=5), UUID(int=5)),
}


def next_request(value):
    """Return what the next request finds."""
    stored = encode({"v": value})
    verify({"v": value}, stored)
    return decode(stored)["v"]


def assert_plain(value):
    """It is of types that a session keeps, all the way down."""
    assert type(value) in IMMUTABLE or type(value) in (list, tuple, set, frozenset, dict)
    if isinstance(value, dict):
        assert_plain(list(value))
        assert_plain(list(value.values()))
    elif type(value) not in IMMUTABLE:
        for item in value:
            assert_plain(item)


@pytest.mark.parametrize(("value", "expected"), KINDS.values(), ids=KINDS)
def test_a_value_of_a_subclass_is_kept_as_its_kind(value, expected):
    """It comes back equal and of the base type. It is the same as its plain copy, so that no request saves it anew."""
    found = next_request(value)
    assert type(found) is type(expected) and found == expected == value
    if isinstance(found, dict):
        assert list(found) == list(expected)
    if isinstance(found, dt.datetime):
        assert (found.fold, found.tzinfo) == (value.fold, value.tzinfo)
    assert_plain(found)
    assert is_same(value, found) and is_same(found, value)
    assert encode({"v": value}) == encode({"v": found})


WRAPS = {
    "list": lambda value: [value],
    "tuple": lambda value: (value, 1),
    "dict": lambda value: {"k": value},
    "odd dict": lambda value: {1: value},
    "beside a huge number": lambda value: [2**70, value],
    "in a subclass": lambda value: Table(k=Items([value])),
}


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
@pytest.mark.parametrize(("value", "expected"), KINDS.values(), ids=KINDS)
def test_so_it_is_inside_others(value, expected, wrap):
    """In every container, and on both ways through the encoder."""
    found = next_request(wrap(value))
    assert found == wrap(expected)
    assert_plain(found)


HASHABLE = {name: pair for name, pair in KINDS.items() if getattr(type(pair[0]), "__hash__", None) is not None}


@pytest.mark.parametrize(("value", "expected"), HASHABLE.values(), ids=HASHABLE)
def test_so_it_is_as_a_key_and_as_a_member(value, expected):
    """A key of a dictionary finds the same entry, and a member of a set is the same member."""
    assert next_request({value: 1}) == {expected: 1}
    assert next_request({value}) == {expected}
    assert_plain(next_request([{value: 1}, {value}, frozenset({value})]))


def test_keys_of_the_session_may_be_members_of_an_enumeration():
    """`session[Key.CART]` is `session["cart"]`, in this request and in the next."""
    data = {Key.CART: [1]}
    verify(data, encode(data))
    found = decode(encode(data))
    assert found == {"cart": [1]} and list(map(type, found)) == [str]
    assert found[Key.CART] == [1]
    assert encode(data) == encode({"cart": [1]})


@pytest.mark.parametrize("value", [Real("nan"), Money("nan")], ids=repr)
def test_not_a_number_is_kept(value):
    """It is the one value that is not equal to itself."""
    found = next_request(value)
    assert found != found and type(found) is type(value).__base__


# --- what other libraries hand out ------------------------------------------------------------------------------------


def _of(module, make):
    return lambda: make(pytest.importorskip(module))


LIBRARIES = {
    "Authlib's UserInfo": (_of("authlib.oidc.core", lambda lib: lib.UserInfo(sub="1", address={"city": "Bern"})), dict),
    "Authlib's OAuth2Token": (
        _of("authlib.oauth2.rfc6749", lambda lib: lib.OAuth2Token({"access_token": "t", "userinfo": {"sub": "1"}})),
        dict,
    ),
    "asyncpg's UUID": (_of("asyncpg.pgproto.pgproto", lambda lib: lib.UUID(str(UUID(int=5)))), UUID),
    "uuid6's UUID": (_of("uuid6", lambda lib: lib.uuid7()), UUID),
    "Markup": (_of("markupsafe", lambda lib: lib.Markup("<b>")), str),
    "quoted_name": (_of("sqlalchemy.sql.elements", lambda lib: lib.quoted_name("Name", True)), str),
    "MutableDict": (_of("sqlalchemy.ext.mutable", lambda lib: lib.MutableDict(a=1)), dict),
    "pendulum, named zone": (_of("pendulum", lambda lib: lib.datetime(2026, 7, 1, tz="Europe/Paris")), dt.datetime),
    "pendulum, UTC": (_of("pendulum", lambda lib: lib.now("UTC")), dt.datetime),
    "pendulum, an offset": (_of("pendulum", lambda lib: lib.datetime(2026, 1, 1, tz=2)), dt.datetime),
    "pendulum, a day": (_of("pendulum", lambda lib: lib.date(2026, 1, 2)), dt.date),
    "pendulum, a time": (_of("pendulum", lambda lib: lib.time(1, 2)), dt.time),
    "pendulum, a duration": (_of("pendulum", lambda lib: lib.duration(months=1, days=-3, seconds=5)), dt.timedelta),
    "pendulum, an interval": (
        _of("pendulum", lambda lib: lib.datetime(2026, 1, 2) - lib.datetime(2025, 1, 1)),
        dt.timedelta,
    ),
    "freezegun, a moment": (_of("freezegun.api", lambda lib: lib.FakeDatetime(2026, 1, 2, tzinfo=dt.UTC)), dt.datetime),
    "freezegun, a day": (_of("freezegun.api", lambda lib: lib.FakeDate(2026, 1, 2)), dt.date),
    "Werkzeug's MultiDict": (_of("werkzeug.datastructures", lambda lib: lib.MultiDict([("a", 1), ("a", 2)])), dict),
}


@pytest.mark.parametrize(("make", "kind"), LIBRARIES.values(), ids=LIBRARIES)
def test_other_libraries_values_are_kept(make, kind):
    """As their kind, equal, on their own and inside others, and none of it is saved anew by the next request."""
    value = make()
    for wrapped in (value, [value], {"k": (value,)}):
        found = next_request(wrapped)
        assert found == wrapped
        assert_plain(found)
        assert is_same(wrapped, found)
    assert type(next_request(value)) is kind
    if kind is dt.datetime:
        assert next_request(value).utcoffset() == value.utcoffset()


_FROZEN = """
import datetime, sys
from freezegun import freeze_time

if AT_IMPORT:
    freeze_time("2026-01-02 03:04:05").start()

from roomkey import SessionMiddleware
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

found = {}


async def put(request):
    session = request.session
    session["now"], session["today"] = datetime.datetime.now(datetime.UTC), datetime.date.today()
    session["several"] = {1: (datetime.datetime.now(), datetime.date.today())}
    await session.save()
    session["again"] = datetime.datetime.now(datetime.UTC)
    return PlainTextResponse("ok")


async def get(request):
    found.update(request.session.copy())
    return PlainTextResponse("ok")


app = Starlette(routes=[Route("/put", put), Route("/get", get)])
app.add_middleware(SessionMiddleware, secret_key="k" * 43, store="memory://")


def ask(client, path):
    answer = client.get(path)
    assert answer.status_code == 200, answer
    return answer


def check():
    values = [found["now"], found["today"], *found["several"][1], found["again"]]
    names = [f"{type(value).__module__}.{type(value).__name__}" for value in values]
    assert names == ["datetime.datetime", "datetime.date", "datetime.datetime", "datetime.date", "datetime.datetime"]


client = TestClient(app)
if not AT_IMPORT:
    ask(client, "/put")  # something runs before the time stands still, too
    with freeze_time("2026-01-02 03:04:05"):
        client = TestClient(app)
        ask(client, "/put")
        ask(client, "/get")
        check()
        assert found["now"] == datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC), found
    ask(TestClient(app), "/put")
else:
    ask(client, "/put")
    ask(client, "/get")
    check()
"""


@pytest.mark.parametrize("at_import", [False, True], ids=["imported before", "imported while it stands still"])
def test_the_time_may_stand_still(at_import):
    """freezegun puts classes of its own into `datetime` and each module. Moments are the library's all the same."""
    pytest.importorskip("freezegun")
    code = f"import sys; sys.path[:0] = {sys.path!r}; AT_IMPORT = {at_import}" + _FROZEN
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent)


# --- what is refused --------------------------------------------------------------------------------------------------


class Nanoseconds(dt.datetime):
    """A moment that is more exact than `datetime`, as pandas has it."""

    nanosecond = 7

    def __eq__(self, other):
        return isinstance(other, Nanoseconds)

    __hash__ = None


class Raises(str):
    def __eq__(self, other):
        raise RuntimeError("not comparable")

    __hash__ = str.__hash__


class Elsewhere(dict):
    """Keeps its items in another object, as Werkzeug's CombinedMultiDict does."""

    def __len__(self):
        return 2


class Twofold(str, enum.Enum):  # noqa: UP042 - its text is not its value  # noqa: UP042 - its text is not its value
    def __new__(cls, text, number):
        made = str.__new__(cls, text)
        made._value_ = number
        return made

    ONE = "one", 1


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (Nanoseconds(2026, 1, 2), "datetime"),
        (Raises("x"), "str"),
        (Elsewhere(), "dict"),
        (Twofold.ONE, "str"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_what_is_more_than_its_kind_is_refused(value, kind):
    """Where the plain copy is not equal, something would be lost without a word."""
    for data in ({"v": value}, {"v": [value, 2**70]}):
        with pytest.raises(SessionDataError, match=f"which holds more than a {kind}: a plain copy is not equal to it"):
            encode(data)


class OtherHash(str):
    def __hash__(self):
        return 7


@pytest.mark.parametrize("data", [{OtherHash("k"): 1}, {"v": {OtherHash("k"): 1}}], ids=["key", "inner key"])
def test_a_key_that_finds_nothing_on_the_next_request_is_refused(data):
    """A key that is equal to its plain copy and has another hash is another key."""
    with pytest.raises(SessionDataError):
        encode(data)


class Color(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Address:
    city: str


class Proxy:
    """Says that it is a dictionary, as lazy objects do."""

    @property
    def __class__(self):
        return dict


REFUSED = {
    "Enum": (lambda: Color.RED, "store its .value instead"),
    "dataclass": (lambda: Address("Bern"), "store dataclasses.asdict(it) instead"),
    "bytearray": (lambda: bytearray(b"x"), "store bytes(it) instead"),
    "path": (lambda: Path("x"), "store str(it) instead"),
    "deque": (lambda: collections.deque(), "store list(it) instead"),
    "mapping": (lambda: collections.ChainMap(), "store dict(it) instead"),
    "keys": (lambda: {}.keys(), "store set(it) instead"),
    "Starlette's QueryParams": (
        lambda: pytest.importorskip("starlette.datastructures").QueryParams("a=1&a=2"),
        "store it.multi_items() instead",
    ),
    "zone": (lambda: dt.UTC, "store str(it), its name instead"),
    "proxy": (Proxy, "store plain data instead"),
    "class": (lambda: Address, "store plain data instead"),
    "pydantic": (
        _of("pydantic", lambda lib: lib.create_model("Model", x=(int, 1))()),
        "store its model_dump() instead",
    ),
    "msgspec": (
        _of("msgspec", lambda lib: lib.defstruct("Struct", ["x"])(1)),
        "store msgspec.structs.asdict(it) instead",
    ),
    "form": (_of("starlette.datastructures", lambda lib: lib.FormData([("a", "b")])), "store it.multi_items() instead"),
    "URL": (_of("starlette.datastructures", lambda lib: lib.URL("https://example.com")), "str(it)"),
}


@pytest.mark.parametrize(("make", "instead"), REFUSED.values(), ids=REFUSED)
def test_a_refusal_says_what_to_write(make, instead):
    """What is no kind of what a session keeps is refused, and the text has what to store in its place."""
    value = make()
    with pytest.raises(SessionDataError) as caught:
        data = {"v": value}
        verify(data, encode(data))
    assert "which a session does not keep" in str(caught.value) and instead in str(caught.value)


def test_a_model_of_a_database_is_stored_by_its_id():
    """The text says so."""
    orm = pytest.importorskip("sqlalchemy.orm")
    sqlalchemy = importlib.import_module("sqlalchemy")

    class User(orm.declarative_base()):
        __tablename__ = "users"
        id = sqlalchemy.Column(sqlalchemy.Integer, primary_key=True)

    with pytest.raises(SessionDataError, match="store its ID instead, and load it again in the next request"):
        encode({"user": User(id=5)})


# --- strict_types -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrap", [lambda value: value, *WRAPS.values()], ids=["itself", *WRAPS])
@pytest.mark.parametrize(("value", "expected"), KINDS.values(), ids=KINDS)
def test_strict_refuses_subclasses(value, expected, wrap):
    """With `strict`, the base type itself is accepted and each subclass is refused, wherever it is."""
    data, plain = {"v": wrap(value)}, {"v": next_request(wrap(expected))}
    verify(plain, encode(plain), strict=True)
    with pytest.raises(SessionDataError, match=r"^session\['v'\].* a subclass of \w+, and strict_types is on; store "):
        verify(data, encode(data), strict=True)


def test_strict_refuses_subclasses_as_keys():
    """Also as keys of the session and of what is in it."""
    for data in ({Key.CART: 1}, {"v": {Key.CART: 1}}, {"v": {Key.CART}}):
        with pytest.raises(SessionDataError):
            verify(data, encode(data), strict=True)


@pytest.mark.parametrize("value", [None, 1, "yes"])
def test_strict_types_is_true_or_false(value):
    """The option is checked like the others."""
    with pytest.raises(ValueError, match=r"^strict_types: "):
        SessionConfig(secret_key="k" * 32, store="memory://", strict_types=value)
