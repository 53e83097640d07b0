"""`encoders`: values of an app's own types in a session."""

import base64
import functools
import json
import logging
import sys
from dataclasses import dataclass, field
from decimal import Decimal

import pytest
from itsdangerous import TimestampSigner

from roomkey import ConfigurationError, SessionConfig, SessionDataError, SessionManager, typed
from roomkey.legacy import StarletteCookie
from roomkey.ravyn import SessionConfig as RavynConfig
from roomkey.wire import codec, own
from tests.typed_site import SECRET, Site, run


class Money:
    """A type that a session does not keep by itself."""

    def __init__(self, amount, currency="CHF"):
        self.amount, self.currency = amount, currency

    def __eq__(self, other):
        return isinstance(other, Money) and (self.amount, self.currency) == (other.amount, other.currency)

    def __hash__(self):
        return hash((self.amount, self.currency))


class Order:
    def __init__(self, prices):
        self.prices = prices


class Cents(int):
    """A subclass of a type that a session keeps."""


@dataclass
class Point:
    x: int = 0


def to_plain(money):
    return [money.amount, money.currency]


def from_plain(plain):
    return Money(*plain)


ENCODERS = {
    Money: (to_plain, from_plain),
    Order: (lambda order: order.prices, Order),
    Cents: (lambda cents: {"cents": int(cents)}, lambda plain: Cents(plain["cents"])),
    Point: (lambda point: point.x, Point),
}


@pytest.fixture(autouse=True)
def forget():
    """What one test keeps is not kept in the next."""
    tables = (codec._WRITERS, own.BY_KIND, own._BY_NAME, own._KINDS)
    before = [dict(table) for table in tables]
    yield
    for table, content in zip(tables, before, strict=True):
        table.clear()
        table.update(content)
    own._said.clear()


def restart():
    """Forget what was kept, as another process would."""
    for table in (own.BY_KIND, own._BY_NAME, own._KINDS):
        table.clear()


@pytest.fixture(params=[{}, {"seal": True}, {"strict_types": True}, {"store": "cookie://"}], ids=str)
def site(request):
    return Site(encoders=ENCODERS, **request.param)


@pytest.mark.parametrize(
    "value",
    [
        Money(Decimal("4.50")),
        [Money(1), {"tea": Money(2)}],
        (Money(1), 2**70),
        {Money(1), Money(2)},
        {Money(1): Money(2), (Money(3), 4): 5},
        Cents(5),
        [Point(7)],
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_comes_back(site, value):
    """Equal, of its type, and wherever in the session it is."""

    async def go():
        await site.put(value=value, theme="dark")
        found = (await site.load())["value"]
        assert found == value and type(found) is type(value)
        if isinstance(value, list):
            assert [type(each) for each in found] == [type(each) for each in value]

    run(go())


def test_types_within_types(site):
    """The plain data of one may hold values of another."""

    async def go():
        await site.put(order=Order([Money(1), Money(2)]))
        order = (await site.load())["order"]
        assert type(order) is Order and order.prices == [Money(1), Money(2)]

    run(go())


def test_a_change_in_place_is_saved(site):
    """What was changed deep in a value is noticed; a value that is as it was is not saved again."""

    async def go():
        await site.put(prices=[Money(1)])
        session = await site.load()
        assert session["prices"][0].amount == 1 and not session.modified
        assert "set-cookie" not in await site.commit(session)
        session = await site.load()
        session["prices"][0].amount = 2
        await site.commit(session)
        assert (await site.stored())["prices"] == [Money(2)]

    run(go())


def test_an_equal_value_is_no_change():
    """Of two requests, the one that puts in an equal value does not undo what the other has changed."""

    async def go():
        site = Site(encoders=ENCODERS)
        await site.put(price=Money(1), other=Money(1))
        one, other = await site.load(), await site.load()
        one["price"] = Money(5)
        other["price"], other["other"] = Money(1), Money(7)
        await site.commit(one)
        await site.commit(other)
        assert await site.stored() == {"price": Money(5), "other": Money(7)}

    run(go())


def test_change_adds_up():
    """A function of `change()` gets the value, and runs again on the fresh one."""

    async def go():
        site = Site(encoders=ENCODERS)
        await site.put(price=Money(0))
        sessions = [await site.load() for _ in range(5)]
        for session in sessions:
            session.change("price", lambda price: Money(price.amount + 1))
        for session in sessions:
            await site.commit(session)
        assert (await site.load())["price"] == Money(5)
        assert (await site.load()).peek("price") == Money(5)

    run(go())


def test_a_field_of_a_typed_session():
    """A shape may have such fields, and a dataclass with functions is kept as what they make of it."""

    @dataclass
    class Visit:
        price: Money | None = None
        points: list[Point] = field(default_factory=list)

    async def go():
        site = Site(encoders=ENCODERS)
        session = await site.load()
        view = typed(session, Visit)
        view.price = Money(1)
        view.points.append(Point(3))
        view.price.amount = 2
        await site.commit(session)
        assert await site.stored() == {"price": Money(2), "points": [Point(3)]}
        assert typed(await site.load(), Visit).points[0].x == 3 and not site.misfits()

    run(go())


# --- what is not kept -------------------------------------------------------------------------------------------------


def test_a_subclass_has_no_part_in_it():
    """The functions count for exactly the class; a subclass of a type that is kept is kept as that."""

    class Francs(Money):
        pass

    class FewCents(Cents):
        pass

    async def go():
        site = Site(encoders=ENCODERS)
        with pytest.raises(SessionDataError, match=r"session\['price'\] is of type .*Francs.*give encoders"):
            await site.put(price=Francs(1))
        await site.put(cents=FewCents(3))
        assert type((await site.load())["cents"]) is int

    run(go())


def test_strict_types_looks_into_the_plain_data():
    """What the function makes is held to the same rule as everything else."""

    async def go():
        site = Site(encoders={Order: (lambda order: order.prices, Order)}, strict_types=True)
        with pytest.raises(SessionDataError, match="strict_types"):
            await site.put(order=Order([Cents(1)]))

    run(go())


@pytest.mark.parametrize("value", [object(), bytearray(b"a"), [object()]], ids=lambda value: type(value).__name__)
def test_plain_data_that_is_none(value):
    """What a session does not keep is an error also where a function has made it. It names the session's key."""

    async def go():
        site = Site(encoders={Order: (lambda order: value, Order)})
        with pytest.raises(SessionDataError, match=r"session\['order'\].*(object|bytearray)"):
            await site.put(order=Order(1))

    run(go())


def test_a_function_that_fails():
    """Its exception is named by its type, with the place of the value. It shows nothing of it, and nothing is saved."""

    def fail(order):
        raise KeyError("something secret")

    async def go():
        site = Site(encoders={Order: (fail, Order)})
        with pytest.raises(SessionDataError, match=r"session\['orders'\], 1 level down, .*Order.* KeyError") as caught:
            await site.put(orders=[Order(1)])
        assert "secret" not in str(caught.value) and await site.stored() == {}

    run(go())


def test_a_function_that_makes_more_of_the_same():
    """A value within itself without end is an error, and no crash."""

    async def go():
        site = Site(encoders={Order: (lambda order: order, Order)})
        with pytest.raises(SessionDataError, match="nested more than 200 levels"):
            await site.put(order=Order(1))

    run(go())


# --- old sessions -----------------------------------------------------------------------------------------------------


def test_a_class_that_has_no_functions_any_more(forget):
    """The session holds its plain data, and saves that."""

    async def go():
        site = Site(encoders=ENCODERS)
        await site.put(price=Money(1), user_id=7)
        own._BY_NAME.clear()  # as after a restart without it
        assert await site.stored() == {"price": [1, "CHF"], "user_id": 7}
        await site.put(theme="dark")
        assert (await site.stored())["price"] == [1, "CHF"]

    run(go())


@pytest.mark.parametrize(
    ("values", "then"),
    [
        ({Money(1)}, {(1, "CHF")}),
        (frozenset({Money(1)}), frozenset({(1, "CHF")})),
        ({Money(1): 2}, {(1, "CHF"): 2}),
        ({(Money(1), 2)}, {((1, "CHF"), 2)}),
    ],
    ids=["set", "frozenset", "key", "tuple in a set"],
)
def test_a_class_without_functions_where_values_are_hashed(values, then):
    """In a set and as a key, plain data that is a list is a tuple. The user stays logged in."""

    async def go():
        site = Site(encoders=ENCODERS)
        await site.put(prices=values, user_id=7)
        restart()
        assert await site.stored() == {"prices": then, "user_id": 7}
        await site.put(theme="dark")
        assert (await site.stored())["prices"] == then

    run(go())


def test_a_renamed_class():
    """A third entry is the name that is stored."""

    class Price(Money):
        pass

    async def go():
        site = Site(encoders=ENCODERS)
        await site.put(price=Money(1))
        restart()
        SessionManager(secret_key=SECRET, store="memory://", encoders={Price: (to_plain, lambda p: Price(*p), "Money")})
        assert type((await site.load())["price"]) is Price

    run(go())


def test_a_function_that_cannot_read(caplog):
    """The session counts as damaged, the log says so once, and it is back when the function is mended."""

    def fail(plain):
        raise AttributeError("something secret")

    async def go():
        site = Site(encoders=ENCODERS)
        await site.put(price=Money(1))
        restart()
        codec.keep({Money: own.Encoder(to_plain, fail, "Money")})
        assert await site.stored() == await site.stored() == {}
        assert site.manager.refused["damaged"] == 2
        restart()
        codec.keep({Money: own.Encoder(to_plain, from_plain, "Money")})
        assert await site.stored() == {"price": Money(1)}

    with caplog.at_level(logging.ERROR, "roomkey"):
        run(go())
    (record,) = caplog.records
    assert "Money raised AttributeError" in record.getMessage() and "secret" not in caplog.text


def test_the_format_is_pinned():
    """The bytes of a stored value never change."""
    codec.keep({Money: own.Encoder(to_plain, from_plain, "Money")})
    assert codec.encode({"a": Money(1)}).hex() == "0181a161c70d0d92a54d6f6e65799201a3434846"
    assert codec.decode(bytes.fromhex("0181a161c70d0d92a54d6f6e65799201a3434846")) == {"a": Money(1)}


@pytest.mark.parametrize("payload", ["", "90", "91a161", "93a161a162a163", "929001", "92a161", "01", "ff"])
def test_damaged_bytes(payload):
    """Whatever an extension of this kind holds, nothing but DamagedData comes out."""
    body = bytes.fromhex(payload)
    stored = b"\x01\x81\xa1a\xc7" + bytes([len(body), 13]) + body
    with pytest.raises(codec.DamagedData):
        codec.decode(stored)


# --- several configurations in one process ----------------------------------------------------------------------------


def config_of(encoders):
    return SessionConfig(secret_key=SECRET, store="memory://", encoders=encoders)


def namesake():
    return type("Money", (), {"__module__": "another.app", "__qualname__": "Money"})


@pytest.mark.parametrize(
    ("second", "says"),
    [
        (lambda: {Money: (lambda money: money.amount, Money)}, "other functions, or another name, for Money"),
        (lambda: {Money: (to_plain, from_plain, "Price")}, "other functions, or another name, for Money"),
        (lambda: {namesake(): (to_plain, from_plain)}, "'Money' of another.app.Money is that of .*test_encoders.Money"),
        (lambda: {Point: (to_plain, from_plain, "Money")}, "'Money' of .*test_encoders.Point is that of"),
    ],
)
def test_a_second_app_that_keeps_a_class_in_another_way(second, says):
    """It is an error when its configuration or its manager is made, and the first app reads its values as before."""

    async def go():
        early = config_of(second())
        site = Site(encoders={Money: (to_plain, from_plain)})
        await site.put(price=Money(1))
        with pytest.raises(ConfigurationError, match=says):
            config_of(second())
        with pytest.raises(ConfigurationError, match=says):
            SessionManager(early)
        assert await site.stored() == {"price": Money(1)}

    run(go())


def test_an_app_factory_may_be_called_again():
    """Functions that one piece of code makes of equal values are the same; of other values, they are others."""

    def make(currency):
        def read(plain):
            return Money(*plain, currency)

        return {
            Money: (lambda money: [money.amount], read),
            Order: (functools.partial(getattr, Order), Order),
            Cents: (Amount(currency).write, lambda plain, kind=Cents: kind(plain)),
        }

    for _ in range(2):
        SessionManager(config_of(make("CHF")))
    with pytest.raises(ConfigurationError, match="for Money"):
        config_of(make("EUR"))


class Amount(str):
    """Methods of two of these are equal where the texts are."""

    def write(self, cents):
        return int(cents)


def test_a_module_that_is_loaded_again(monkeypatch):
    """The class that stands in its module now takes the name over from the one that stood there before."""
    module = sys.modules[__name__]
    again = type("Money", (Money,), {"__module__": __name__, "__qualname__": "Money"})
    SessionManager(config_of({Money: (to_plain, from_plain)}))
    with pytest.raises(ConfigurationError, match="the name 'Money'"):
        config_of({again: (to_plain, from_plain)})
    monkeypatch.setattr(module, "Money", again)
    SessionManager(config_of({again: (to_plain, from_plain)}))


# --- the option -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ([Money], "got list; it takes a dict of classes"),
        ({"Money": (to_plain, from_plain)}, "for 'Money'; it takes"),
        ({Money: to_plain}, "for Money; it takes"),
        ({Money: (to_plain,)}, "two functions"),
        ({Money: (to_plain, from_plain, 5)}, "A third entry is the name"),
        ({dict: (to_plain, from_plain)}, "dict, which a session keeps by itself"),
        ({Money: (to_plain, from_plain), Order: (to_plain, from_plain, "Money")}, "two classes have the name 'Money'"),
    ],
)
def test_wrong_options(wrong, says):
    """A wrong value is a ConfigurationError that names the option, and what it takes."""
    with pytest.raises(ConfigurationError, match=says) as caught:
        SessionConfig(secret_key=SECRET, store="memory://", encoders=wrong)
    assert str(caught.value).startswith("encoders: ")


@pytest.mark.parametrize("kind", [SessionConfig, RavynConfig])
def test_the_option_is_kept_with_names(kind):
    """On Ravyn too; and a configuration can be made of another's options."""
    config = kind(secret_key=SECRET, store="memory://", encoders=ENCODERS)
    assert {encoder[2] for encoder in config.encoders.values()} == {"Money", "Order", "Cents", "Point"}
    assert kind(secret_key=SECRET, store="memory://", encoders=config.encoders).encoders == config.encoders


def test_another_librarys_session_moves_in():
    """What was Starlette's is there beside a value of an own type, which is saved with it."""
    content = base64.b64encode(json.dumps({"cart": ["tea"]}).encode())
    old = TimestampSigner(SECRET).sign(content).decode()

    async def go():
        site = Site(encoders=ENCODERS, legacy=[StarletteCookie(SECRET, cookie_name="old")])
        site.card = f"old={old}"
        await site.put(price=Money(1))
        assert site.card.startswith("session=") and await site.stored() == {"cart": ["tea"], "price": Money(1)}

    run(go())
