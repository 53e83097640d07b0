"""What fits the annotations of a dataclass that is the shape of a session."""

import dataclasses
import datetime as dt
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NewType, TypedDict

import pytest

from roomkey import typed
from tests.typed_site import Site, run

UserID = NewType("UserID", int)


class Place(TypedDict):
    city: str


@dataclass
class Node:
    name: str
    below: "list[Node]" = field(default_factory=list)


@pytest.mark.parametrize(
    ("annotation", "fits", "does_not"),
    [
        (int, [1], [True, 1.0, "1", None]),
        (float, [1.5, 1], [True, "1"]),
        (bool, [True], [1]),
        (str | None, ["a", None], [1]),
        (Literal["a", 1], ["a", 1], ["b", True]),
        (list[int], [[], [1]], [(1,), [1, "a"], "ab"]),
        (tuple[int, str], [(1, "a")], [(1,), (1, 2), [1, "a"]]),
        (tuple[int, ...], [(), (1, 2)], [("a",)]),
        (set[str], [{"a"}], [{1}, ["a"]]),
        (dict[str, list[int]], [{"a": [1]}], [{"a": ["b"]}, {1: [1]}]),
        (Annotated[int, "anything"], [1], ["a"]),
        (UserID, [1], ["a"]),
        (dt.datetime, [dt.datetime(2026, 1, 2)], ["2026-01-02", dt.date(2026, 1, 2)]),
        (Place, [{"city": "Bern"}], [{}, {"city": 1}, "Bern"]),
        (Any, [1, None, "a"], []),
    ],
    ids=str,
)
def test_what_fits_an_annotation(annotation, fits, does_not):
    """A dataclass's fields take what their annotations say, and convert nothing."""
    made = dataclasses.make_dataclass("Made", [("value", annotation, field(default=None))])

    async def read(value):
        site = Site()
        session = await site.load()
        session["value"] = value
        return site, typed(session, made).value

    async def go():
        for value in fits:
            site, found = await read(value)
            assert found == value and type(found) is type(value) and not site.misfits()
        for value in does_not:
            site, found = await read(value)
            assert found is None and site.misfits() == [("Made", "value")]

    run(go())


def test_nested_dataclasses_may_need_their_fields():
    """A dataclass within a shape needs no defaults, and may hold itself; data that lacks a field does not fit."""
    made = dataclasses.make_dataclass("Made", [("tree", Node | None, field(default=None))])

    async def go():
        site = Site()
        session = await site.load()
        session["tree"] = {"name": "a", "below": [{"name": "b"}]}
        view = typed(session, made)
        assert view.tree == Node("a", [Node("b")])
        view.tree.below[0].below.append(Node("c"))
        await site.commit(session)
        assert (await site.stored())["tree"] == {
            "name": "a",
            "below": [{"name": "b", "below": [{"name": "c", "below": []}]}],
        }
        session = await site.load()
        session["tree"] = {"below": []}
        assert typed(session, made).tree is None and len(site.misfits()) == 1

    run(go())
