"""What a type checker sees of typed sessions; mypy and pyright read this file, nothing runs it."""

from dataclasses import dataclass, field
from typing import Annotated, Any, TypedDict, assert_type

import msgspec
import pydantic
from fastapi import FastAPI
from flask.sessions import SessionMixin

from roomkey import Session, change_field, typed
from roomkey.events import Misfit
from roomkey.fastapi import FromSession


@dataclass
class Visit:
    user_id: int | None = None
    cart: list[str] = field(default_factory=list)


class Model(pydantic.BaseModel):
    user_id: int | None = None


class Struct(msgspec.Struct):
    user_id: int | None = None


class Keys(TypedDict, total=False):
    user_id: int
    cart: list[str]


def views(session: Session, content: dict[str, Any], flasks: SessionMixin) -> None:
    visit = typed(session, Visit)
    assert_type(visit, Visit)
    assert_type(visit.cart, list[str])
    visit.user_id = 7
    visit.user_id = "7"  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue]
    assert_type(typed(session, Model).user_id, int | None)
    assert_type(typed(session, Struct).user_id, int | None)
    keys = typed(session, Keys)
    assert_type(keys, Keys)
    keys["user_id"] = 7
    keys["cart"] = "tea"  # type: ignore[typeddict-item]  # pyright: ignore[reportArgumentType]
    typed(content, Visit)
    typed(flasks, Visit)
    typed(5, Visit)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def changes(visit: Visit) -> None:
    def one_more(number: int) -> int:
        return number + 1

    assert_type(change_field(visit, "pages", one_more), int)


def misfits(event: Misfit) -> None:
    assert_type((event.handle, event.shape, event.field), tuple[str, str, str])


app = FastAPI()


@app.get("/")
async def home(visit: Annotated[Visit, FromSession()], keys: Annotated[Keys, FromSession()]) -> list[str]:
    return visit.cart + keys.get("cart", [])
