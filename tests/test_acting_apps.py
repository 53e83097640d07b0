"""Staff act for a user over FastAPI and Litestar, with a real cookie jar: there, and back again."""

from typing import Annotated, Any

import litestar
import litestar.testing
import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient

import roomkey.fastapi
import roomkey.litestar
from roomkey import LoginTooOld, SessionConfig, session_of

SECRET = "a secret that is long enough for every test here"


def shown(session):
    return {"user": session.get("user_id"), "actor": session.actor, "cart": session.get("cart", [])}


def fastapi_app(config):
    app = FastAPI()
    app.add_middleware(roomkey.fastapi.SessionMiddleware, config=config)
    Current = roomkey.fastapi.CurrentSession

    @app.post("/login/{user}")
    async def login(user: int, session: Current) -> None:
        session["user_id"] = user

    @app.post("/cart/{item}")
    async def add(item: str, session: Current) -> None:
        session.setdefault("cart", []).append(item)

    @app.post("/act/{user}")
    async def act(user: int, session: Current) -> None:
        await session.impersonate(user)

    @app.post("/stop")
    async def stop(session: Current) -> None:
        await session.stop_impersonating()

    @app.post("/logout")
    async def logout(session: Current) -> None:
        session.clear()

    @app.get("/me")
    async def me(session: Current) -> dict[str, Any]:
        return shown(session)

    @app.get("/danger")
    async def danger(user: Annotated[int, Depends(roomkey.fastapi.require_recent(300))]) -> int:
        return user

    return TestClient(app)


def litestar_app(config):
    @litestar.post("/login/{user:int}")
    async def login(user: int, request: litestar.Request[Any, Any, Any]) -> None:
        request.session["user_id"] = user

    @litestar.post("/cart/{item:str}")
    async def add(item: str, request: litestar.Request[Any, Any, Any]) -> None:
        request.session.setdefault("cart", []).append(item)

    @litestar.post("/act/{user:int}")
    async def act(user: int, request: litestar.Request[Any, Any, Any]) -> None:
        await session_of(request).impersonate(user)

    @litestar.post("/stop")
    async def stop(request: litestar.Request[Any, Any, Any]) -> None:
        await session_of(request).stop_impersonating()

    @litestar.post("/logout")
    async def logout(request: litestar.Request[Any, Any, Any]) -> None:
        request.session.clear()

    @litestar.get("/me")
    async def me(request: litestar.Request[Any, Any, Any]) -> dict[str, Any]:
        return shown(session_of(request))

    @litestar.get("/danger", guards=[roomkey.litestar.require_recent(300)])
    async def danger() -> None: ...

    handlers = [login, add, act, stop, logout, me, danger]
    app = litestar.Litestar(handlers, plugins=[roomkey.litestar.RoomkeyPlugin(config)])
    return litestar.testing.TestClient(app)


@pytest.fixture(params=[fastapi_app, litestar_app], ids=["fastapi", "litestar"])
def client(request, tmp_path):
    store = f"sqlite:///{tmp_path / 'sessions.sqlite3'}"
    with request.param(SessionConfig(secret_key=SECRET, store=store)) as running:
        running.post("/login/1")
        running.post("/cart/tea")
        yield running


def test_there_and_back(client):
    """The browser is the user's for as long as it lasts, and the actor's again with what was in the cart."""
    assert client.post("/act/7").status_code in (200, 201)
    assert client.get("/me").json() == {"user": 7, "actor": 1, "cart": []}
    client.post("/cart/milk")
    assert client.get("/me").json() == {"user": 7, "actor": 1, "cart": ["milk"]}
    assert client.get("/danger").status_code == 403
    client.post("/stop")
    assert client.get("/me").json() == {"user": 1, "actor": None, "cart": ["tea"]}
    assert client.get("/danger").status_code == 200


def test_a_log_out_meanwhile(client):
    """Nobody is logged in after it."""
    client.post("/act/7")
    client.post("/logout")
    assert client.get("/me").json() == {"user": None, "actor": None, "cart": []}
    assert "session" not in client.cookies


def test_not_for_two_at_once(client):
    """Whoever acts for a user has no log-in of their own there, and acts for nobody else."""
    client.post("/act/7")
    try:
        answer = client.post("/act/8").status_code
    except LoginTooOld:
        answer = 500
    assert answer == 500 and client.get("/me").json()["user"] == 7
