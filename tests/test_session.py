"""Session: a dict in every way, that notes its use and keeps its data out of sight."""

import asyncio
import copy
import html
import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roomkey import Session
from roomkey.core.loaded import Stored
from roomkey.stores.base import Record
from roomkey.wire.seal import Opened
from tests.asgi import ask, cookie_in, header, http_scope, make

_KEYS = st.sampled_from(["a", "b", "c", "d"])
_VALUES = st.none() | st.integers(0, 5) | st.text(max_size=2) | st.lists(st.integers(0, 3), max_size=2)
_DICTS = st.dictionaries(_KEYS, _VALUES)


# --- like a dict ------------------------------------------------------------------------------------------------------


def _ior(target, other):
    target |= other
    return dict(target.items())


_OPERATIONS = {
    "get item": lambda d, k, v, o: d[k],
    "set item": lambda d, k, v, o: d.__setitem__(k, v),
    "delete item": lambda d, k, v, o: d.__delitem__(k),
    "get": lambda d, k, v, o: d.get(k),
    "get default": lambda d, k, v, o: d.get(k, v),
    "in": lambda d, k, v, o: k in d,
    "not in": lambda d, k, v, o: k not in d,
    "len": lambda d, k, v, o: len(d),
    "bool": lambda d, k, v, o: bool(d),
    "list": lambda d, k, v, o: list(d),
    "reversed": lambda d, k, v, o: list(reversed(d)),
    "keys": lambda d, k, v, o: list(d.keys()),
    "values": lambda d, k, v, o: list(d.values()),
    "items": lambda d, k, v, o: list(d.items()),
    "reversed items": lambda d, k, v, o: list(reversed(d.items())),
    "keys and": lambda d, k, v, o: d.keys() & o.keys(),
    "pop": lambda d, k, v, o: d.pop(k),
    "pop default": lambda d, k, v, o: d.pop(k, v),
    "popitem": lambda d, k, v, o: d.popitem(),
    "setdefault": lambda d, k, v, o: d.setdefault(k, v),
    "setdefault none": lambda d, k, v, o: d.setdefault(k),
    "update": lambda d, k, v, o: d.update(o),
    "update pairs": lambda d, k, v, o: d.update(list(o.items())),
    "update kwargs": lambda d, k, v, o: d.update(o, a=v, z=v),
    "update nothing": lambda d, k, v, o: d.update(),
    "clear": lambda d, k, v, o: d.clear(),
    "copy": lambda d, k, v, o: d.copy(),
    "copy.copy": lambda d, k, v, o: copy.copy(d),
    "copy.deepcopy": lambda d, k, v, o: copy.deepcopy(d),
    "or": lambda d, k, v, o: d | o,
    "ror": lambda d, k, v, o: o | d,
    "or itself": lambda d, k, v, o: d | d,
    "ior": lambda d, k, v, o: _ior(d, o),
    "ior pairs": lambda d, k, v, o: _ior(d, list(o.items())),
    "ior itself": lambda d, k, v, o: _ior(d, d),
    "or a list": lambda d, k, v, o: d | [],
    "equal": lambda d, k, v, o: (d == o, o == d, d != o, o != d),
    "equal to a list": lambda d, k, v, o: (d == [], d != []),
    "order": lambda d, k, v, o: d < o,
    "json": lambda d, k, v, o: json.dumps(d),
    "json indented": lambda d, k, v, o: json.dumps(d, indent=1, sort_keys=True),
    "dict": lambda d, k, v, o: dict(d),
    "spread": lambda d, k, v, o: {**d},
    "spread into a call": lambda d, k, v, o: (lambda **given: given)(**d),
    "other.update": lambda d, k, v, o: (o.update(d), o)[1],
    "hash": lambda d, k, v, o: hash(d),
    "isinstance": lambda d, k, v, o: isinstance(d, dict),
    "unhashable key": lambda d, k, v, o: d.get([]),
    "pop nothing": lambda d, k, v, o: d.pop(),
}


def _outcome(operation, target, key, value, other):
    try:
        return operation(target, key, copy.deepcopy(value), dict(other))
    except Exception as error:
        return type(error), error.args if isinstance(error, KeyError) and len(error.args) == 1 else None


@given(_DICTS, st.lists(st.tuples(st.sampled_from(sorted(_OPERATIONS)), _KEYS, _VALUES, _DICTS), max_size=12))
def test_a_session_behaves_as_a_dict(start, steps):
    """Any run of operations gives the results, errors, content and order that a plain dict gives."""
    session, plain = Session(copy.deepcopy(start)), copy.deepcopy(start)
    for name, key, value, other in steps:
        operation = _OPERATIONS[name]
        got, expected = (_outcome(operation, target, key, value, other) for target in (session, plain))
        if isinstance(expected, tuple) and expected and isinstance(expected[0], type):
            assert got[0] is expected[0], name
        else:
            assert got == expected, name
            assert type(got) is type(expected), name
        assert list(dict.items(session)) == list(plain.items()), name


@pytest.mark.parametrize("name", sorted(_OPERATIONS))
@pytest.mark.parametrize("start", [{}, {"a": 1}, {"b": 2, "a": [1], "c": None}], ids=["empty", "one", "three"])
def test_each_operation_gives_what_a_dict_gives(name, start):
    """Each operation by itself gives the result, the error and the content that a plain dict gives."""
    session, plain = Session(copy.deepcopy(start)), copy.deepcopy(start)
    got, expected = (_outcome(_OPERATIONS[name], target, "a", 9, {"a": 3, "e": 4}) for target in (session, plain))
    if isinstance(expected, tuple) and expected and isinstance(expected[0], type):
        assert got[0] is expected[0]
    else:
        assert got == expected
        assert type(got) is type(expected)
    assert list(dict.items(session)) == list(plain.items())


def test_ior_keeps_the_session():
    """`session |= other` changes the session in place and leaves a Session."""
    session = same = Session(a=1)
    session |= {"b": 2}
    assert session is same and type(session) is Session and session == {"a": 1, "b": 2}


def test_copies_are_plain_and_apart():
    """A copy is a plain dict; a deep one shares nothing with the session."""
    session = Session(a=[1])
    shallow, deep = session.copy(), copy.deepcopy(session)
    assert type(shallow) is dict and shallow["a"] is session["a"]
    assert type(deep) is dict and deep == session and deep["a"] is not session["a"]


# --- use is seen ------------------------------------------------------------------------------------------------------


_NOT_A_USE = {"isinstance", "hash", "order"}  # a dict has no order


@pytest.mark.parametrize("name", sorted(set(_OPERATIONS) - _NOT_A_USE))
def test_each_access_is_seen(name):
    """Everything that reads or writes the session marks it accessed, failing or not."""
    session = Session(b=2, a=1)
    assert session.accessed is False
    _outcome(_OPERATIONS[name], session, "a", 9, {"a": 3})
    assert session.accessed is True


@pytest.mark.parametrize("name", ["in", "len", "bool", "list", "items", "dict", "spread", "get", "equal", "popitem"])
def test_access_to_an_empty_session_is_seen(name):
    """Looking into an empty session is a use too: what the response says depends on it."""
    session = Session()
    _outcome(_OPERATIONS[name], session, "a", 9, {})
    assert session.accessed is True


def test_matching_a_pattern_is_seen():
    """`match` on the session marks it accessed."""
    session = Session(a=1)
    match session:
        case {"a": value}:
            assert value == 1
    assert session.accessed is True


@pytest.mark.parametrize(
    "use",
    [
        lambda session: session.rotate(),
        lambda session: session.invalidate(),
        lambda session: session.mark_accessed(),
        lambda session: session.change("a", lambda value: 2),
    ],
    ids=["rotate", "invalidate", "mark_accessed", "change"],
)
def test_each_order_is_seen(use):
    """What a session is told to do marks it accessed."""
    session = Session(a=1)
    use(session)
    assert session.accessed is True


def test_looking_from_outside_is_no_use():
    """repr, isinstance and the marks themselves do not count as use."""
    session = Session(a=1)
    repr(session), isinstance(session, dict), session.accessed, hasattr(session, "rotate")
    assert session.accessed is False


# --- out of sight -----------------------------------------------------------------------------------------------------


def test_what_errors_show_of_a_record():
    """Trackers of errors show the repr of every local variable: neither data nor secret is in one."""
    record = Record(b"hunter2", 1, 1000.0, 2000.0)
    for shown in (record, Stored("a" * 64, record, b"swordfish"), Opened(b"hunter2", True)):
        assert "hunter2" not in repr(shown) and "swordfish" not in repr(shown)


def test_repr_shows_no_data():
    """No text form shows a key or a value."""
    session = Session(card="hunter2")
    for shown in (repr(session), str(session), f"{session}", f"{session!r}", repr([session])):
        assert "hunter2" not in shown and "card" not in shown
    assert repr(session) == "Session(1 key, not shown here; session.copy() has them)"
    assert repr(Session()) == "Session(0 keys, not shown here; session.copy() has them)"


@pytest.mark.parametrize("show", [str, "{}".format, lambda session: f"{session}"])
async def test_a_page_that_shows_the_session(show):
    """It says what to write, as text that no browser takes for a tag, and it depends on the session."""
    bodies = []

    async def handler(scope, send):
        if scope["path"] == "/start":
            scope["session"]["card"] = "hunter2"
        else:
            bodies.append(show(scope["session"]))

    app = make(handler)
    card = cookie_in((await ask(app, http_scope("/start")))[0])
    answer = (await ask(app, http_scope("/", card)))[0]
    assert bodies == ["Session(1 key, not shown here; session.copy() has them)"]
    assert html.escape(bodies[0]) == bodies[0] and header(answer, b"vary") == [b"Cookie"]


def test_a_debugger_that_shows_the_session():
    """Its `repr` is no use of it: what logs an error shows that of every local variable."""
    session = Session(a=1)
    repr(session), repr([session]), f"{session!r}"
    assert not session.accessed


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickling_is_refused(protocol):
    """No protocol pickles a session, alone or inside; its copy is fine."""
    session = Session(a=1)
    for value in (session, [session]):
        with pytest.raises(TypeError, match=r"session\.copy\(\)"):
            pickle.dumps(value, protocol)
    assert pickle.loads(pickle.dumps(session.copy(), protocol)) == {"a": 1}


# --- orders -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grace", [-1, -0.001, float("inf"), float("-inf"), float("nan")])
def test_a_grace_must_be_finite_and_not_negative(grace):
    """rotate refuses any grace that is negative or not finite, and then has done nothing."""
    session = Session()
    with pytest.raises(ValueError, match=r"^rotate: grace is "):
        session.rotate(grace=grace)
    assert session.accessed is False


def test_invalidate_empties():
    """invalidate drops the data at once; what is put in afterwards stays."""
    session = Session(a=1)
    session.invalidate()
    assert session == {}
    session["b"] = 2
    assert session == {"b": 2}


def test_change_returns_and_sets_the_new_value():
    """change calls the function with the value or the default and keeps what it returns."""
    session = Session(n=1)
    assert session.change("n", lambda value: value + 1) == 2
    assert session.change("m", lambda value: value + 1, default=10) == 11
    with pytest.raises(TypeError, match="has to return the new value"):
        session.change("cart", lambda cart: cart.append(1), default=[])
    assert session == {"n": 2, "m": 11}


def test_change_never_touches_its_default():
    """A mutable default is copied, so that one request's value is not the next one's default."""
    default = []
    for _ in range(2):
        assert Session().change("a", lambda value: (value.append(1), value)[1], default=default) == [1]
    assert default == []


def test_a_change_that_raises_changes_nothing():
    """When the function raises, the value stays."""
    session = Session(n=1)
    with pytest.raises(ZeroDivisionError):
        session.change("n", lambda value: 1 / 0)
    assert session == {"n": 1}


@pytest.mark.parametrize(
    "use",
    [
        lambda session: session.handle,
        lambda session: session.is_new,
        lambda session: session.modified,
        lambda session: session.created_at,
        lambda session: session.expires_at,
        lambda session: asyncio.run(session.save()),
        lambda session: asyncio.run(session.refresh()),
    ],
    ids=["handle", "is_new", "modified", "created_at", "expires_at", "save", "refresh"],
)
def test_a_session_of_no_request_says_so(use):
    """What needs the store raises RuntimeError with the way out when the session belongs to no request."""
    with pytest.raises(RuntimeError, match=r"request\.session"):
        use(Session())
