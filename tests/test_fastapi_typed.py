"""`roomkey.fastapi.FromSession`: the session as a class, in the handlers of FastAPI."""

from dataclasses import dataclass, field
from typing import Annotated, Any, TypedDict

import msgspec
import pydantic
import pytest
from fastapi import Depends, FastAPI, WebSocket
from fastapi.testclient import TestClient

from roomkey import ConfigurationError
from roomkey.fastapi import CurrentSession, FromSession, SessionMiddleware

SECRET = "a secret that is long enough for every test here"


@dataclass
class Visit:
    user_id: int | None = None
    cart: list[str] = field(default_factory=list)


class VisitModel(pydantic.BaseModel):
    user_id: int | None = None
    cart: list[str] = []


class VisitStruct(msgspec.Struct):
    user_id: int | None = None
    cart: list[str] = []


class VisitDict(TypedDict, total=False):
    cart: list[str]


@pytest.fixture(params=[Visit, VisitModel, VisitStruct], ids=lambda shape: shape.__name__)
def client(request):
    app = FastAPI()
    app.add_middleware(SessionMiddleware, secret_key=SECRET, store="memory://")
    View = Annotated[request.param, FromSession()]

    def size(view: View):
        return len(view.cart)

    @app.post("/async/{item}")
    async def in_the_loop(item: str, view: View) -> None:
        view.cart.append(item)

    @app.post("/sync/{item}")
    def in_a_thread(item: str, view: View) -> None:
        view.cart.append(item)

    @app.get("/data")
    async def data(session: CurrentSession) -> dict[str, Any]:
        return session.copy()

    @app.get("/size")
    async def show_size(size: Annotated[int, Depends(size)], visit: Annotated[VisitDict, FromSession()]) -> list[int]:
        return [size, len(visit.get("cart", []))]

    if request.param is not VisitStruct:  # which FastAPI cannot answer with

        @app.get("/view")
        async def view(view: View) -> request.param:
            return view

    @app.websocket("/socket")
    async def socket(websocket: WebSocket, view: View):
        view.user_id = 7
        await websocket.accept()
        await websocket.close()

    with TestClient(app) as running:
        yield running


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_handler_gets_the_session_as_a_class(client, kind):
    """In the event loop or in a thread, and what is put into a default is kept."""
    assert client.get("/size").json() == [0, 0] and "session" not in client.cookies
    client.post(f"/{kind}/tea")
    client.post(f"/{kind}/milk")
    assert client.get("/data").json() == {"cart": ["tea", "milk"]}
    assert client.get("/size").json() == [2, 2]


def test_a_view_as_the_answer(client):
    """A handler may return a view of a dataclass or a model, as it would return an instance."""
    client.post("/async/tea")
    answer = client.get("/view")
    assert answer.status_code == 404 or answer.json() == {"user_id": None, "cart": ["tea"]}


def test_the_view_of_a_websocket(client):
    """The handshake carries the cookie of what was assigned before it."""
    with client.websocket_connect("/socket") as socket:
        pass
    card = dict(socket.extra_headers)[b"set-cookie"].decode().partition(";")[0]
    assert client.get("/data", headers={"cookie": card}).json() == {"user_id": 7}


def test_nothing_of_it_is_asked_of_the_client(client):
    """The OpenAPI document has no parameter and no body for a view."""
    operation = client.app.openapi()["paths"]["/async/{item}"]["post"]
    assert [each["name"] for each in operation["parameters"]] == ["item"] and "requestBody" not in operation


def test_a_wrong_class_is_an_error_at_the_route():
    """A field without a default is named when the route is declared, and not in the first request."""
    app = FastAPI()

    class Wrong(pydantic.BaseModel):
        cart: list[str]

    with pytest.raises(ConfigurationError, match=r"Wrong\.cart has no default"):

        @app.get("/")
        async def home(wrong: Annotated[Wrong, FromSession()]) -> None: ...
