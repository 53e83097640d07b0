"""A FastAPI app with a typed session, for a server process of its own: `uvicorn tests.typed_app:app`."""

import dataclasses
import os
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import FastAPI

from roomkey import change_field
from roomkey.fastapi import CurrentSession, FromSession, SessionMiddleware


@dataclass
class Address:
    city: str = "Bern"


@dataclass
class Visit:
    pages: int = 0
    theme: str = "light"
    cart: list[str] = field(default_factory=list)
    address: Address = field(default_factory=Address)


app = FastAPI()
app.add_middleware(SessionMiddleware, secret_key=os.environ["SECRET_KEY"], store=os.environ["STORE"])
View = Annotated[Visit, FromSession()]


@app.post("/page")
async def page(visit: View) -> int:
    return change_field(visit, "pages", lambda pages: pages + 1)


@app.post("/theme")
def theme(visit: View) -> None:
    visit.theme = "dark"


@app.post("/cart")
async def cart(visit: View) -> None:
    visit.cart.append("tea")


@app.post("/address")
def address(visit: View) -> None:
    visit.address.city = "Zug"


@app.get("/visit")
async def look(visit: View) -> Visit:
    return visit


@app.get("/session")
async def whole(session: CurrentSession) -> dict[str, Any]:
    return session.copy()


@app.post("/old/{city}")
async def old(city: int, session: CurrentSession) -> None:
    """Put in what an older version of the app had: a session that no longer fits."""
    session.update(address=city, cart="tea", user_id=7, gone=True)


@app.get("/dict")
async def as_dict(visit: View) -> dict[str, Any]:
    return dataclasses.asdict(visit)
