"""Every route by which Python code gets at a value that can be changed in place: what it then changes is saved."""

import asyncio
import collections
import copy
import functools
import gc
import itertools
import json
import operator
import string
import types

import pytest

from roomkey import Session, SessionManager
from roomkey.core import tracked
from roomkey.stores.memory import MemoryStore

CART = "cart"


class Browser:
    """One browser, one session in it, and requests that it sends."""

    def __init__(self, **content):
        self.manager = SessionManager(secret_key="k" * 32, store=MemoryStore())
        self.cookie = None
        session = self.load()
        session.update(content)
        self.commit(session)

    def load(self):
        return self.manager.sync.load(self.cookie)

    def commit(self, session):
        for name, value in self.manager.sync.commit(session, headers=[("x-app", "1")]):
            if name == "set-cookie":
                self.cookie = value.partition(";")[0]

    def content(self):
        return dict(self.load().items())


def save(session):
    """Save early, as a stream does; the store is in memory and never waits."""
    with pytest.raises(StopIteration):
        session.save().send(None)


# --- routes that hand the value out -----------------------------------------------------------------------------------


class Catches:
    """Is compared with a value, and keeps it."""

    def __eq__(self, other):
        self.caught = other
        return True

    __hash__ = None


def compared(compare):
    def route(session):
        other = {"n": 1, CART: Catches()}
        compare(session, other)
        return other[CART].caught

    return route


def spread(session):
    return (lambda **given: given)(**session)[CART]


def updated(session):
    other = {}
    other.update(session)
    return other[CART]


def updated_in_place(session):
    other = {}
    other |= session
    return other[CART]


def matched(session):
    match session:
        case {"cart": cart}:
            return cart


def matched_rest(session):
    match session:
        case {"n": 1, **rest}:
            return rest[CART]


def formatted(session):
    """A formatter of the app's own, which gets the value itself."""
    held = []

    class Keeps(string.Formatter):
        def format_field(self, value, spec):
            held.append(value)
            return ""

    Keeps().vformat("{cart}", (), session)
    return held[0]


def executed(session):
    space = {}
    exec("held = cart", space, collections.ChainMap({}, session))
    return session[CART]


def as_json(session):
    """What JSON has no type for is handed to the app's own function: here a set, beside the list."""
    held = []
    json.dumps(session, default=lambda value: (held.append(value), [])[1])
    return held[0]


def changed(session):
    held = []
    session.change(CART, lambda cart: (held.append(cart), cart)[1])
    return held[0]


def change_raised(session):
    """The function keeps what it got, and fails."""
    held = []
    with pytest.raises(ZeroDivisionError):
        session.change(CART, lambda cart: (held.append(cart), 1 / 0))
    return held[0]


def default_is_the_value(session):
    cart = session.get(CART)
    return session.get(CART, cart)


HANDS_OUT = {
    "s[k]": lambda s: s[CART],
    "get": lambda s: s.get(CART),
    "get with a default": lambda s: s.get(CART, []),
    "get, the default being the value": default_is_the_value,
    "values": lambda s: next(value for value in s.values() if type(value) is list),
    "list of values": lambda s: next(value for value in list(s.values()) if type(value) is list),
    "reversed values": lambda s: next(value for value in reversed(s.values()) if type(value) is list),
    "items": lambda s: next(value for key, value in s.items() if key == CART),
    "sorted items": lambda s: sorted(s.items())[0][1],
    "reversed items": lambda s: next(value for key, value in reversed(s.items()) if key == CART),
    "items of a view": lambda s: next(value for key, value in iter(s.items()) if key == CART),
    "the mapping of keys": lambda s: s.keys().mapping[CART],
    "the mapping of values": lambda s: s.values().mapping.get(CART),
    "the copy of a mapping": lambda s: s.keys().mapping.copy()[CART],
    "dict": lambda s: dict(s)[CART],
    "dict with more": lambda s: dict(s, more=1)[CART],
    "{**s}": lambda s: {**s}[CART],
    "f(**s)": spread,
    "partial(**s)": lambda s: functools.partial(dict, **s)()[CART],
    "s | d": lambda s: (s | {})[CART],
    "d | s": lambda s: ({} | s)[CART],
    "s | s": lambda s: (s | s)[CART],
    "d |= s": updated_in_place,
    "d.update(s)": updated,
    "copy": lambda s: s.copy()[CART],
    "copy.copy": lambda s: copy.copy(s)[CART],
    "dict.copy": lambda s: dict.copy(s)[CART],
    "another Session": lambda s: Session(s)[CART],
    "itemgetter": lambda s: operator.itemgetter(CART)(s),
    "operator.getitem": lambda s: operator.getitem(s, CART),
    "methodcaller": lambda s: operator.methodcaller("get", CART)(s),
    "map of get": lambda s: next(map(s.get, [CART])),
    "map of __getitem__": lambda s: next(map(s.__getitem__, [CART])),
    "match": matched,
    "match, the rest": matched_rest,
    "a Formatter": formatted,
    "setdefault": lambda s: s.setdefault(CART, []),
    "pop": lambda s: s.__setitem__(CART, s.pop(CART)) or dict.__getitem__(s, CART),
    "popitem": lambda s: s.update([s.popitem(), s.popitem()]) or dict.__getitem__(s, CART),
    "==": compared(operator.eq),
    "!=": compared(operator.ne),
    "== from the other side": compared(lambda session, other: other == session),
    "json.dumps": as_json,
    "ChainMap": lambda s: collections.ChainMap(s)[CART],
    "ChainMap below": lambda s: collections.ChainMap({}, s).get(CART),
    "MappingProxyType": lambda s: types.MappingProxyType(s)[CART],
    "OrderedDict": lambda s: collections.OrderedDict(s)[CART],
    "defaultdict": lambda s: collections.defaultdict(list, s)[CART],
    "UserDict": lambda s: collections.UserDict(s)[CART],
    "UserDict | s": lambda s: (collections.UserDict() | s)[CART],
    "OrderedDict | s": lambda s: (collections.OrderedDict() | s)[CART],
    "Counter": lambda s: collections.Counter(s)[CART],
    "SimpleNamespace": lambda s: types.SimpleNamespace(**s).cart,
    "a class of it": lambda s: type("Made", (), s).cart,
    "eval": lambda s: eval("cart", {}, s),
    "exec": executed,
    "iteration": lambda s: next(s[key] for key in s if key == CART),
    "reversed": lambda s: next(s[key] for key in reversed(s) if key == CART),
    "iteration of keys": lambda s: next(s[key] for key in s.keys() if key == CART),  # noqa: SIM118
    "zip": lambda s: dict(zip(s, s.values(), strict=True))[CART],
    "chain": lambda s: list(itertools.chain.from_iterable(s.items()))[1],
    "change": changed,
    "change that raises": change_raised,
}


@pytest.mark.parametrize("saved_before", [False, True], ids=["at once", "after a save"])
@pytest.mark.parametrize("route", HANDS_OUT)
def test_what_is_changed_in_place_is_saved(route, saved_before):
    """A handler holds a value that the session handed out, and changes it: before the response, or after a save."""
    browser = Browser(cart=[1] if route != "json.dumps" else {1}, n=1)
    session = browser.load()
    held = HANDS_OUT[route](session)
    assert held is dict.__getitem__(session, CART)
    if saved_before:  # of something else, after which there is nothing left to save
        session["n"] = 2
        save(session)
    if route == "json.dumps":
        held.add(2)
    else:
        held.append(2)
    browser.commit(session)
    expected = {1, 2} if route == "json.dumps" else [1, 2]
    assert browser.content() == {CART: expected, "n": 2 if saved_before else 1}


READS = {
    "format_map": lambda s: "{cart[0]}".format_map(s),
    "an f-string": lambda s: f"{s['cart']}",
    "%": lambda s: "%(cart)s" % s,  # noqa: UP031
    "Template": lambda s: string.Template("$cart").substitute(s),
    "json.dumps, indented": lambda s: json.dumps(s, indent=1, default=str),
    "eval inside": lambda s: eval("cart[0]", {}, s),
    "a copy of a copy": lambda s: copy.copy(s),
}


@pytest.mark.parametrize("route", READS)
def test_a_route_through_other_code_is_seen(route):
    """Code in between got the value, and whoever has it from there changes it."""
    browser = Browser(cart=[1], n=1)
    session = browser.load()
    held = dict.__getitem__(session, CART)
    READS[route](session)
    held.append(2)
    browser.commit(session)
    assert browser.content() == {CART: [1, 2], "n": 1}


@pytest.mark.parametrize("value", [[1], {"a": [1]}, {1}, ([1],), (1, {"a": [1]})], ids=repr)
def test_every_type_that_holds_others_is_seen(value):
    """A list in a tuple is changed in place like any other, and a tuple may hold one."""
    browser = Browser(value=value)
    session = browser.load()
    held = session["value"]
    while not isinstance(held, list | set):
        held = next(iter(held.values())) if isinstance(held, dict) else held[-1]
    if isinstance(held, set):
        held.add(2)
    else:
        held.append(2)
    expected = copy.deepcopy(session.copy())
    browser.commit(session)
    assert browser.content() == expected


# --- routes that put the value in -------------------------------------------------------------------------------------


PUTS_IN = {
    "s[k] = v": lambda s, cart: s.__setitem__(CART, cart),
    "setdefault": lambda s, cart: s.setdefault(CART, cart),
    "update": lambda s, cart: s.update({CART: cart}),
    "update by keyword": lambda s, cart: s.update(cart=cart),
    "update by pairs": lambda s, cart: s.update([(CART, cart)]),
    "update by keys": lambda s, cart: s.update(collections.UserDict(cart=cart)),
    "|=": lambda s, cart: operator.ior(s, {CART: cart}),
    "|= pairs": lambda s, cart: operator.ior(s, [(CART, cart)]),
    "change": lambda s, cart: s.change(CART, lambda _: cart),
    "operator.setitem": lambda s, cart: operator.setitem(s, CART, cart),
    "inside a tuple": lambda s, cart: s.__setitem__(CART, (cart,)),
    "set content": lambda s, cart: s._set_content({CART: cart, "n": 1}),  # as `scope["session"] = {...}` does
}


@pytest.mark.parametrize("again", [1, 2])
@pytest.mark.parametrize("is_new", [False, True], ids=["there", "new"])
@pytest.mark.parametrize("route", PUTS_IN)
def test_what_was_put_in_and_is_changed_after_a_save(route, is_new, again):
    """`session["cart"] = cart; await session.save(); cart.append(1)`: that is saved too, however often."""
    browser = Browser(n=1)
    if is_new:
        browser.cookie = None
    session, cart = browser.load(), []
    PUTS_IN[route](session, cart)
    for number in range(again):
        save(session)
        cart.append(number)
    browser.commit(session)
    expected = (list(range(again)),) if route == "inside a tuple" else list(range(again))
    assert browser.content() == ({CART: expected} if is_new and route != "set content" else {CART: expected, "n": 1})


@pytest.mark.parametrize("changes", [0, 1])
def test_a_message_that_is_changed_after_it_was_left(changes):
    """What `flash` was given is the session's, as any other value is."""
    browser = Browser(n=1)
    session, message = browser.load(), ["hello"]
    session.flash(message)
    save(session)
    for _ in range(changes):
        message.append("again")
    browser.commit(session)
    session = browser.load()
    assert browser.manager.sync.run(session.flashes()) == [("info", ["hello", *["again"] * changes])]
    assert browser.content() == {"n": 1, "_flashes": []}


def test_messages_that_were_taken_are_the_handlers():
    """They are in the session no more, and what becomes of them is not saved."""
    browser = Browser(n=1, _flashes=[("info", ["hello"])])
    session = browser.load()
    ((_, message),) = browser.manager.sync.run(session.flashes())
    message.append("again")
    browser.commit(session)
    assert browser.content() == {"n": 1, "_flashes": []}


def test_waiting_messages_are_changed_in_place():
    """They can be looked at without being taken, under their key, and are a value like any other."""
    browser = Browser(n=1, _flashes=[("info", ["hello"])])
    session = browser.load()
    session["_flashes"][0][1].append("again")
    browser.commit(session)
    assert browser.content() == {"n": 1, "_flashes": [("info", ["hello", "again"])]}


# --- what is apart ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("apart", [copy.deepcopy, lambda s: copy.deepcopy(s.copy())], ids=["deepcopy", "of a copy"])
def test_a_deep_copy_is_apart(apart):
    """What is changed in it is not the session's."""
    browser = Browser(cart=[1])
    session = browser.load()
    apart(session)[CART].append(2)
    browser.commit(session)
    assert browser.content() == {CART: [1]}


def test_what_was_taken_out_is_apart():
    """`pop` is saved, and what becomes of the value after it is not."""
    browser = Browser(cart=[1], n=1)
    session = browser.load()
    held = session.pop(CART)
    save(session)
    held.append(2)
    browser.commit(session)
    assert browser.content() == {"n": 1}


def test_what_is_no_route():
    """Keys, lengths and single values that nobody can change in place leave nothing to compare."""
    browser = Browser(cart=[1], n=1, text="x")
    session = browser.load()
    len(session), CART in session, list(session), bool(session), list(session.keys()), list(reversed(session))
    session["n"], session.get("text"), session.get("missing", []), repr(session), copy.deepcopy(session)
    assert not (session._changed or session._shared)


# --- what is not seen, and documented as such -------------------------------------------------------------------------

UNSEEN = {
    "dict.get": lambda s: dict.get(s, CART),
    "dict.__getitem__": lambda s: dict.__getitem__(s, CART),
    "dict.items": lambda s: dict(dict.items(s))[CART],
    "the garbage collector": lambda s: next(each for each in gc.get_referents(s) if each == dict.get(s, CART)),
}


@pytest.mark.parametrize("used", [False, True], ids=["unused", "used"])
@pytest.mark.parametrize("route", UNSEEN)
def test_what_is_taken_out_past_the_methods_is_not_seen(route, used):
    """C code may read a dict past its methods. What is then changed in place is not saved, and nothing else is lost."""
    browser = Browser(cart=[1], n=1)
    session = browser.load()
    if used:
        assert session["n"] == 1
    UNSEEN[route](session).append(2)
    browser.commit(session)
    assert browser.content() == {CART: [1], "n": 1}
    session = browser.load()
    UNSEEN[route](session).append(2)
    session["n"] = 2
    browser.commit(session)
    assert browser.content() == {CART: [1, 2], "n": 2}  # once something else is saved, it is compared


def test_what_is_not_seen_is_documented():
    """The module says so where it says what is seen."""
    said = " ".join(tracked.__doc__.split())
    assert "Code that reads the dict past its methods" in said and "is not seen, and it is not saved" in said


# --- a task beside the handler ----------------------------------------------------------------------------------------


async def test_a_value_that_a_task_changes_while_it_is_saved():
    """It belongs to the next save, and that does it."""
    browser = Browser(cart=[1], n=1)
    store = browser.manager.config.store
    inner = store.update

    async def update(*args, **options):
        await asyncio.sleep(0)
        await inner(*args, **options)

    store.update = update
    session = await browser.manager.load(browser.cookie)
    cart = session[CART]
    session["n"] = 2
    saving = asyncio.create_task(session.save())
    await asyncio.sleep(0)
    cart.append(2)
    await saving
    assert (await browser.manager.load(browser.cookie)).copy() == {CART: [1], "n": 2}
    await browser.manager.commit(session)
    assert (await browser.manager.load(browser.cookie)).copy() == {CART: [1, 2], "n": 2}
