"""The frameworks' guards, over sessions that are kept near: they ask the store before they let anybody through."""

import asyncio

import litestar
import pytest
from fastapi import Depends, FastAPI
from fastapi import Request as FastAPIRequest
from lilya.apps import Lilya
from lilya.requests import Request as LilyaRequest
from lilya.routing import Path
from lilya.testclient import TestClient as LilyaClient
from litestar.testing import TestClient as LitestarClient
from ravyn import Gateway, Ravyn, get
from ravyn import Request as RavynRequest
from ravyn.testclient import RavynTestClient
from starlette.testclient import TestClient

import roomkey.fastapi
import roomkey.lilya
import roomkey.litestar
import roomkey.ravyn
from roomkey import SessionManager
from tests.stores.told import ToldStore, elsewhere

SECRET = "k" * 32


def on_fastapi(store):
    app = FastAPI()
    app.add_middleware(roomkey.fastapi.SessionMiddleware, secret_key=SECRET, store=store, near_cache=100)

    @app.get("/login")
    async def login(request: FastAPIRequest) -> None:
        request.session["user_id"] = 7

    @app.get("/read")
    async def read(request: FastAPIRequest) -> dict:
        return dict(request.session)

    @app.get("/me", dependencies=[Depends(roomkey.fastapi.require_login)])
    async def me() -> None: ...

    @app.get("/pay", dependencies=[Depends(roomkey.fastapi.require_recent(300))])
    async def pay() -> None: ...

    @app.get("/level", dependencies=[Depends(roomkey.fastapi.require_level(1))])
    async def level() -> None: ...

    return TestClient(app)


def on_lilya(store):
    async def login(request: LilyaRequest):
        request.session["user_id"] = 7
        return {}

    async def read(request: LilyaRequest):
        return dict(request.session)

    async def nothing():
        return {}

    app = Lilya(
        routes=[
            Path("/login", login),
            Path("/read", read),
            Path("/me", nothing, permissions=[roomkey.lilya.require_login]),
            Path("/pay", nothing, permissions=[roomkey.lilya.require_recent(300)]),
            Path("/level", nothing, permissions=[roomkey.lilya.require_level(1)]),
        ]
    )
    app.add_middleware(roomkey.lilya.SessionMiddleware, secret_key=SECRET, store=store, near_cache=100)
    return LilyaClient(app)


def on_ravyn(store):
    @get("/login")
    async def login(request: RavynRequest) -> dict:
        request.session["user_id"] = 7
        return {}

    @get("/read")
    async def read(request: RavynRequest) -> dict:
        return dict(request.session)

    @get("/me", permissions=[roomkey.ravyn.require_login])
    async def me() -> dict:
        return {}

    @get("/pay", permissions=[roomkey.ravyn.require_recent(300)])
    async def pay() -> dict:
        return {}

    @get("/level", permissions=[roomkey.ravyn.require_level(1)])
    async def level() -> dict:
        return {}

    config = roomkey.ravyn.SessionConfig(secret_key=SECRET, store=store, near_cache=100)
    routes = [Gateway(handler=handler) for handler in (login, read, me, pay, level)]
    return RavynTestClient(Ravyn(routes=routes, session_config=config))


def on_litestar(store):
    @litestar.get("/login")
    async def login(request: litestar.Request) -> None:
        request.session["user_id"] = 7

    @litestar.get("/read")
    async def read(request: litestar.Request) -> dict[str, int]:
        return dict(request.session)

    @litestar.get("/me", guards=[roomkey.litestar.require_login])
    async def me() -> None: ...

    @litestar.get("/pay", guards=[roomkey.litestar.require_recent(300)])
    async def pay() -> None: ...

    @litestar.get("/level", guards=[roomkey.litestar.require_level(1)])
    async def level() -> None: ...

    config = roomkey.litestar.SessionConfig(secret_key=SECRET, store=store, near_cache=100)
    app = litestar.Litestar([login, read, me, pay, level], plugins=[roomkey.litestar.RoomkeyPlugin(config)])
    return LitestarClient(app)


@pytest.mark.parametrize("guarded", ["/me", "/pay", "/level"])
@pytest.mark.parametrize("make", [on_fastapi, on_lilya, on_ravyn, on_litestar])
def test_a_guard_asks_the_store(make, guarded):
    """After a log-out elsewhere, of which no message came, memory shows who was there. A guard lets nobody through."""
    store = ToldStore()
    there = SessionManager(secret_key=SECRET, store=store)
    with make(store) as client:
        client.get("/login")
        client.get("/read")
        assert client.get(guarded).status_code == 200
        loads = store.loads
        assert client.get("/read").json() == {"user_id": 7} and store.loads == loads
        with elsewhere():
            asyncio.run(there.sessions.revoke_all(7))
        loads = store.loads
        assert client.get("/read").json() == {"user_id": 7} and store.loads == loads
        assert client.get(guarded).status_code == 401
