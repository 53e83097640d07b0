"""`typed`: a session seen through a dataclass, a pydantic model, a msgspec Struct or a TypedDict."""

import copy
import dataclasses
import enum
import logging
import pickle
from dataclasses import dataclass, field
from typing import TypedDict

import flask
import msgspec
import pydantic
import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from roomkey import (
    ConfigurationError,
    Session,
    SessionDataError,
    SessionManager,
    SessionMiddleware,
    change_field,
    session_of,
    typed,
)
from roomkey.flask import Roomkey
from roomkey.testing import client_session
from tests.typed_site import SECRET, Site, run


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Address:
    city: str = "Bern"


@dataclass
class Visit:
    user_id: int | None = None
    pages: int = 0
    cart: list[str] = field(default_factory=list)
    color: Color = Color.RED
    address: Address = field(default_factory=Address)
    others: list[Address] = field(default_factory=list)

    def first(self) -> str:
        return self.cart[0]

    @property
    def size(self) -> int:
        return len(self.cart)

    @size.setter
    def size(self, value: int) -> None:
        self.cart = self.cart[:value]


class AddressModel(pydantic.BaseModel):
    city: str = "Bern"


class VisitModel(pydantic.BaseModel):
    user_id: int | None = None
    pages: int = 0
    cart: list[str] = pydantic.Field(default_factory=list)
    color: Color = Color.RED
    address: AddressModel = AddressModel()
    others: list[AddressModel] = []

    first = Visit.first
    size = Visit.size


class AddressStruct(msgspec.Struct):
    city: str = "Bern"


class VisitStruct(msgspec.Struct):
    user_id: int | None = None
    pages: int = 0
    cart: list[str] = []
    color: Color = Color.RED
    address: AddressStruct = msgspec.field(default_factory=AddressStruct)
    others: list[AddressStruct] = []

    first = Visit.first
    size = Visit.size


SHAPES = [Visit, VisitModel, VisitStruct]


@pytest.fixture
def site():
    return Site()


@pytest.fixture(params=SHAPES, ids=lambda shape: shape.__name__)
def shape(request):
    return request.param


# --- reading and assigning --------------------------------------------------------------------------------------------


def test_attributes_are_the_sessions_keys(site, shape):
    """What is assigned to an attribute is under its name in the session, at once and on the next request."""

    async def go():
        session = await site.load()
        view = typed(session, shape)
        view.user_id, view.pages = 7, 1
        assert (session["user_id"], session["pages"]) == (7, 1)
        session["pages"] = 2
        assert view.pages == 2
        await site.commit(session)
        assert await site.stored() == {"user_id": 7, "pages": 2}
        again = typed(await site.load(), shape)
        assert (again.user_id, again.pages) == (7, 2)

    run(go())


def test_who_only_looks_gets_no_cookie(site, shape):
    """Defaults are read without a session that would have to be kept, and the response says `Vary: Cookie`."""

    async def go():
        session = await site.load()
        view = typed(session, shape)
        assert (view.user_id, view.pages, view.cart, view.color) == (None, 0, [], Color.RED)
        assert view.address.city == "Bern"
        assert await site.commit(session) == ["vary"]
        assert dict.__len__(session) == 0

    run(go())


@pytest.mark.parametrize("begins", [True, False])
def test_a_default_that_is_changed_in_place_is_kept(site, shape, begins):
    """A list or a nested value that was a default is saved once something is in it; the same object until then."""

    async def go():
        if not begins:
            await site.put(theme="dark")
        session = await site.load()
        view = typed(session, shape)
        view.cart.append("tea")
        typed(session, shape).cart.append("milk")
        view.address.city = "Zug"
        assert view.cart == ["tea", "milk"]
        await site.commit(session)
        stored = await site.stored()
        stored.pop("theme", None)
        assert stored == {"cart": ["tea", "milk"], "address": {"city": "Zug"}}

    run(go())


def test_what_is_in_the_session_is_changed_in_place(site, shape):
    """A list is the session's own, and a nested value is written back as plain data."""

    async def go():
        await site.put(cart=["tea"], address={"city": "Zug"}, others=[{"city": "Chur"}])
        session = await site.load()
        view = typed(session, shape)
        assert view.cart is session["cart"]
        view.cart.append("milk")
        view.address.city = "Basel"
        view.others[0].city = "Genf"
        view.others.append(type(view.address)())
        await site.commit(session)
        assert await site.stored() == {
            "cart": ["tea", "milk"],
            "address": {"city": "Basel"},
            "others": [{"city": "Genf"}, {"city": "Bern"}],
        }

    run(go())


def test_to_look_at_a_nested_value_saves_nothing(site, shape):
    """Also where the object has fields that the stored data has not."""

    async def go():
        await site.put(address={}, others=[{"city": "Chur", "street": "Reichsgasse"}], color="blue")
        session = await site.load()
        view = typed(session, shape)
        assert (view.address.city, view.others[0].city, view.color) == ("Bern", "Chur", Color.BLUE)
        assert not session.modified
        assert await site.commit(session) == ["vary"]

    run(go())


def test_an_assigned_object_goes_on_counting(site, shape):
    """What is changed in an object after it was assigned is saved too."""

    async def go():
        session = await site.load()
        view = typed(session, shape)
        address, cart = type(view.address)(city="Zug"), ["tea"]
        view.address, view.cart, view.color = address, cart, Color.BLUE
        assert session.get("address") == {"city": "Zug"} and session["color"] == "blue"
        address.city = "Basel"
        cart.append("milk")
        await site.commit(session)
        assert await site.stored() == {"address": {"city": "Basel"}, "cart": ["tea", "milk"], "color": "blue"}

    run(go())


def test_a_change_after_an_early_save_is_saved_at_the_end(site, shape):
    """`save()` in the middle of a request does not end what a view has handed out."""

    async def go():
        await site.put(theme="dark")
        session = await site.load()
        view = typed(session, shape)
        cart, address = view.cart, view.address
        cart.append("tea")
        await session.save()
        cart.append("milk")
        address.city = "Zug"
        await site.commit(session)
        assert await site.stored() == {"theme": "dark", "cart": ["tea", "milk"], "address": {"city": "Zug"}}

    run(go())


def test_what_the_session_holds_by_now_counts(site, shape):
    """A key that was assigned past the view is not overwritten by what the view handed out before."""

    async def go():
        session = await site.load()
        view = typed(session, shape)
        view.cart.append("tea")
        session["cart"] = ["milk"]
        assert view.cart == ["milk"]
        await site.commit(session)
        assert await site.stored() == {"cart": ["milk"]}

    run(go())


def test_a_log_out_takes_everything(site, shape):
    """What a view handed out before a log-out does not come back after it, and what it hands out later does."""

    async def go():
        await site.put(user_id=7)
        session = await site.load()
        view = typed(session, shape)
        view.cart.append("tea")
        session.clear()
        assert view.cart == []
        await site.commit(session)
        assert await site.stored() == {}
        session = await site.load()
        view = typed(session, shape)
        view.cart.append("tea")
        session.clear()
        view.cart.append("milk")
        await site.commit(session)
        assert await site.stored() == {"cart": ["milk"]}

    run(go())


def test_to_delete_an_attribute(site, shape):
    """It takes out the key, and the default is back."""

    async def go():
        await site.put(pages=3, cart=["tea"])
        session = await site.load()
        view = typed(session, shape)
        view.cart.append("milk")
        del view.cart, view.pages, view.address
        assert (view.pages, view.cart, view.address.city) == (0, [], "Bern")
        await site.commit(session)
        assert await site.stored() == {}

    run(go())


def test_a_log_in_by_attribute_rotates(site, shape):
    """`visit.user_id = 7` is a log-in as `session["user_id"] = 7` is: a new ID."""

    async def go():
        await site.put(theme="dark")
        before = site.card
        session = await site.load()
        typed(session, shape).user_id = 7
        await site.commit(session)
        assert site.card != before and [info.user for info in await site.manager.sessions.of(7)] == ["7"]

    run(go())


# --- merging ----------------------------------------------------------------------------------------------------------


def test_requests_that_assign_different_fields_both_survive(site, shape):
    """Merging works per field, also where one of them changed a default in place."""

    async def go():
        await site.put(theme="dark")
        one, other, third = [await site.load() for _ in range(3)]
        typed(one, shape).pages = 5
        typed(other, shape).cart.append("tea")
        typed(third, shape).address.city = "Zug"
        for session in (one, other, third):
            await site.commit(session)
        assert await site.stored() == {"theme": "dark", "pages": 5, "cart": ["tea"], "address": {"city": "Zug"}}

    run(go())


def test_change_field_adds_up(site, shape):
    """Of 20 concurrent requests that each add one, all count; the default is where they begin."""

    async def go():
        await site.put(theme="dark")
        sessions = [await site.load() for _ in range(20)]
        for session in sessions:
            assert change_field(typed(session, shape), "pages", lambda pages: pages + 1) == 1
            change_field(typed(session, shape), "address", lambda address: type(address)(city=address.city + "!"))
        for session in sessions:
            await site.commit(session)
        view = typed(await site.load(), shape)
        assert view.pages == 20 and view.address.city == "Bern" + "!" * 20

    run(go())


def test_change_field_says_what_is_wrong(shape):
    """A name that is no field, a value that does not fit, a function that returns nothing, and no view at all."""

    async def go():
        view = typed(await Site().load(), shape)
        with pytest.raises(AttributeError, match=f"{shape.__name__} has no field 'page'"):
            change_field(view, "page", lambda value: value)
        with pytest.raises(SessionDataError, match=r"pages got a value of type str .* takes int"):
            change_field(view, "pages", lambda value: "many")
        with pytest.raises(TypeError, match="returned None"):
            change_field(view, "cart", lambda cart: cart.append("tea"))
        with pytest.raises(TypeError, match="it takes what typed"):
            change_field({}, "pages", lambda value: value)

    run(go())


def test_refresh_and_views(site, shape):
    """A view shows what `refresh()` took in, and keeps what was changed in place before it."""

    async def go():
        await site.put(theme="dark")
        session = await site.load()
        view = typed(session, shape)
        view.cart.append("tea")
        assert view.address.city == "Bern"
        await site.put(pages=4, address={"city": "Zug"})
        await session.refresh()
        assert (view.pages, view.cart, view.address.city) == (4, ["tea"], "Zug")

    run(go())


# --- old sessions -----------------------------------------------------------------------------------------------------


def test_fields_that_were_added_or_removed(site, shape):
    """A field that is new has its default, and a key that is no field any more stays in the session."""

    async def go():
        await site.put(pages=3, theme="dark")
        session = await site.load()
        view = typed(session, shape)
        assert (view.pages, view.cart) == (3, [])
        view.pages = 4
        await site.commit(session)
        assert await site.stored() == {"pages": 4, "theme": "dark"}
        assert not site.misfits()

    run(go())


def test_a_session_that_no_longer_fits(site, shape, caplog):
    """Defaults are served, it is reported once for each request and field, and the stored keys stay."""

    async def go():
        stored = {"user_id": 7, "cart": "tea", "pages": 2, "address": 5}
        await site.put(**stored)
        session = await site.load()
        view = typed(session, shape)
        assert (view.user_id, view.pages, view.cart, view.address.city) == (7, 2, [], "Bern")
        assert view.cart == [] and typed(session, shape).cart == []
        assert site.misfits() == [(shape.__qualname__, "cart"), (shape.__qualname__, "address")]
        assert await site.commit(session) == ["vary"]
        assert await site.stored() == stored
        session = await site.load()
        typed(session, shape).cart.append("milk")
        await site.commit(session)
        assert await site.stored() == {**stored, "cart": ["milk"]}
        assert len(site.misfits()) == 3

    with caplog.at_level(logging.WARNING, "roomkey"):
        run(go())
    said = [record.getMessage() for record in caplog.records if "does not fit" in record.getMessage()]
    assert len(said) == 2 and "'cart'" in said[0] and "tea" not in said[0] + said[1]


def test_a_user_that_does_not_fit_stays_logged_in(site):
    """The shape shows nobody, and the session is still that user's."""

    async def go():
        await site.put(user_id="ada")
        session = await site.load()
        view = typed(session, Visit)
        assert view.user_id is None
        view.pages = 1
        await site.commit(session)
        assert await site.stored() == {"user_id": "ada", "pages": 1}
        assert len(await site.manager.sessions.of("ada")) == 1

    run(go())


def test_what_is_assigned_has_to_fit(shape):
    """A value that would not be read again is a SessionDataError that names the field, and shows no value."""

    async def go():
        session = await Site().load()
        view = typed(session, shape)
        with pytest.raises(SessionDataError, match=rf"{shape.__name__}\.cart got a value of type str .* list\[str\]"):
            view.cart = "tea"
        assert "cart" not in session

    run(go())


# --- what a view is ---------------------------------------------------------------------------------------------------


def test_methods_and_properties_work(shape):
    """They see the view as `self`."""

    async def go():
        session = await Site().load()
        view = typed(session, shape)
        view.cart = ["tea", "milk"]
        assert (view.first(), view.size) == ("tea", 2)
        view.size = 1
        assert session["cart"] == ["tea"]

    run(go())


def test_a_view_is_an_instance_for_those_who_ask(shape):
    """`isinstance`, comparison, and `copy.copy`, whose result is not connected with the session."""

    async def go():
        session = await Site().load()
        view = typed(session, shape)
        view.cart = ["tea"]
        plain = copy.copy(view)
        assert isinstance(view, shape) and type(plain) is shape
        assert view == plain and plain == view and view == typed(session, shape)
        plain.cart.append("milk")
        assert session["cart"] == ["tea"] and view != plain
        assert copy.deepcopy(view) == view

    run(go())


def test_what_is_no_field_cannot_be_assigned(shape):
    """It would be lost at the end of the request."""

    async def go():
        view = typed(await Site().load(), shape)
        with pytest.raises(AttributeError, match="has no field 'chart'"):
            view.chart = ["tea"]
        with pytest.raises(AttributeError):
            _ = view.chart
        with pytest.raises(AttributeError):
            del view.first

    run(go())


def test_nothing_of_the_session_is_shown(shape):
    """`repr` and `str` show no value, and a view cannot be pickled."""

    async def go():
        view = typed(await Site().load(), shape)
        view.cart = ["something secret"]
        assert "secret" not in repr(view) + str(view)
        with pytest.raises(TypeError, match=r"copy\.copy"):
            pickle.dumps(view)

    run(go())


def test_libraries_take_a_view_for_their_own():
    """`dataclasses.asdict` and `replace`, `model_dump` and `model_dump_json`."""

    async def go():
        session = await Site().load()
        session["cart"] = ["tea"]
        assert dataclasses.asdict(typed(session, Visit))["cart"] == ["tea"]
        assert dataclasses.replace(typed(session, Visit), pages=3).pages == 3
        assert typed(session, VisitModel).model_dump()["cart"] == ["tea"]
        assert '"cart":["tea"]' in typed(session, VisitModel).model_dump_json()

    run(go())


@dataclass(frozen=True, slots=True)
class FrozenVisit:
    cart: list[str] = field(default_factory=list)


class FrozenModel(pydantic.BaseModel, frozen=True):
    cart: list[str] = []


class FrozenStruct(msgspec.Struct, frozen=True):
    cart: list[str] = []


@pytest.mark.parametrize("frozen", [FrozenVisit, FrozenModel, FrozenStruct])
def test_a_frozen_shape_is_read_only(frozen):
    """Its attributes are read, and cannot be assigned or deleted."""

    async def go():
        session = await Site().load()
        session["cart"] = ["tea"]
        view = typed(session, frozen)
        assert view.cart == ["tea"]
        with pytest.raises(AttributeError, match="frozen"):
            view.cart = []
        with pytest.raises(AttributeError, match="frozen"):
            del view.cart

    run(go())


# --- shapes that are none ---------------------------------------------------------------------------------------------


@dataclass
class WithoutDefault:
    cart: list[str]


class ModelWithoutDefault(pydantic.BaseModel):
    cart: list[str]


class StructWithoutDefault(msgspec.Struct):
    cart: list[str]


class DictWithoutDefault(TypedDict):
    cart: list[str]


@pytest.mark.parametrize("wrong", [WithoutDefault, ModelWithoutDefault, StructWithoutDefault, DictWithoutDefault])
def test_each_field_needs_a_default(wrong):
    """A field that an empty session cannot have is an error that names it, and says what to write."""

    async def go():
        session = await Site().load()
        with pytest.raises(ConfigurationError, match=rf"{wrong.__name__}.*cart.*(default|total=False)"):
            typed(session, wrong)

    run(go())


@pytest.mark.parametrize("wrong", [dict, int, list[str], "Visit"])
def test_what_is_no_shape(wrong):
    """The error says what a shape is."""

    async def go():
        session = await Site().load()
        with pytest.raises(ConfigurationError, match="a shape is a"):
            typed(session, wrong)

    run(go())


def test_typed_takes_a_session():
    """A plain dict is none: the error says where to get one."""
    with pytest.raises(TypeError, match=r"session_of\(request\)"):
        typed({}, Visit)


# --- TypedDict --------------------------------------------------------------------------------------------------------


class Keys(TypedDict, total=False):
    cart: list[str]
    pages: int


def test_a_typed_dict_is_the_session_itself(site):
    """Nothing is converted; what does not fit is reported, and served as it is."""

    async def go():
        await site.put(cart=["tea"], pages="many")
        session = await site.load()
        visit = typed(session, Keys)
        assert visit is session and isinstance(visit, Session)
        assert site.misfits() == [("Keys", "pages")]
        visit["cart"].append("milk")
        await site.commit(session)
        assert await site.stored() == {"cart": ["tea", "milk"], "pages": "many"}

    run(go())


# --- what pydantic's validators do ------------------------------------------------------------------------------------


class Checked(pydantic.BaseModel):
    low: int = pydantic.Field(default=1, ge=0)
    high: int = pydantic.Field(default=9, ge=0)
    name: str = ""

    @pydantic.field_validator("name")
    @classmethod
    def no_spaces(cls, name: str) -> str:
        if " " in name:
            raise ValueError("no spaces")
        return name

    @pydantic.model_validator(mode="after")
    def in_order(self) -> "Checked":
        if self.low > self.high:
            raise ValueError("low is above high")
        return self


def test_a_models_validators(site):
    """Constraints and validators of a field count. Those of the whole model do not: fields are read one by one."""

    async def go():
        await site.put(low=20, high=-1, name="a b")
        view = typed(await site.load(), Checked)
        assert (view.low, view.high, view.name) == (20, 9, "")
        assert [name for _, name in site.misfits()] == ["high", "name"]
        with pytest.raises(SessionDataError, match="name"):
            view.name = "a b"

    run(go())


# --- other frameworks -------------------------------------------------------------------------------------------------


def test_the_session_of_flask(shape):
    """`flask.session` stands for the session of the request, which a view sees."""
    app = flask.Flask(__name__)
    app.secret_key = SECRET
    Roomkey(app, store="memory://")

    @app.post("/<item>")
    def add(item):
        view = typed(flask.session, shape)
        view.cart.append(item)
        view.address.city += "!"
        return {"cart": view.cart, "city": view.address.city}

    client = app.test_client()
    assert client.post("/tea").json == {"cart": ["tea"], "city": "Bern!"}
    assert client.post("/milk").json == {"cart": ["tea", "milk"], "city": "Bern!!"}
    with client.session_transaction() as session:
        typed(session, shape).cart.append("bread")
    assert client.post("/jam").json["cart"] == ["tea", "milk", "bread", "jam"]


def test_the_session_of_a_test(shape):
    """`client_session` lets a test prepare a session through a shape."""

    async def show(request):
        return JSONResponse(typed(session_of(request), shape).cart)

    manager = SessionManager(secret_key=SECRET, store="memory://")
    app = SessionMiddleware(Starlette(routes=[Route("/", show)]), manager)
    with TestClient(app) as client:
        with client_session(client, manager) as session:
            typed(session, shape).cart.append("tea")
        assert client.get("/").json() == ["tea"]
