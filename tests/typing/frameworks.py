"""What a type checker sees of an app, with the frameworks' own types; mypy reads this file, nothing runs it."""

import datetime as dt
from dataclasses import dataclass, field
from typing import Annotated as WithMore
from typing import Any, assert_type

from fastapi import Depends, FastAPI, Request, WebSocket
from lilya.routing import Path
from litestar import Litestar
from litestar import Request as LitestarRequest
from litestar import post as litestar_post
from litestar.connection import ASGIConnection
from litestar.middleware import DefineMiddleware
from litestar.security.session_auth import SessionAuth
from litestar.testing import AsyncTestClient
from litestar.testing import TestClient as LitestarClient
from ravyn import Ravyn, RavynSettings
from ravyn import post as ravyn_post
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.testclient import TestClient as StarletteClient

from roomkey import Session, SessionManager, SessionMiddleware, Sessions, session_of
from roomkey.csrf import CSRFMiddleware
from roomkey.events import Event
from roomkey.fastapi import CurrentSession, require_level, require_login, require_recent
from roomkey.lilya import FromSession as LilyaFromSession
from roomkey.lilya import require_level as lilya_level
from roomkey.lilya import require_login as lilya_login
from roomkey.lilya import require_recent as lilya_recent
from roomkey.litestar import FromSession as LitestarFromSession
from roomkey.litestar import RoomkeyPlugin, from_session
from roomkey.litestar import SessionMiddleware as LitestarSessions
from roomkey.litestar import require_level as litestar_level
from roomkey.litestar import require_login as litestar_login
from roomkey.litestar import require_recent as litestar_recent
from roomkey.pages import DevicesPage, OperatorsPage
from roomkey.ravyn import FromSession as RavynFromSession
from roomkey.ravyn import SessionConfig, current_user, injected
from roomkey.ravyn import require_level as ravyn_level
from roomkey.ravyn import require_login as ravyn_login
from roomkey.ravyn import require_recent as ravyn_recent
from roomkey.starlette import SessionMiddleware as StarletteSessions
from roomkey.starlette import install, uninstall
from roomkey.testing import client_session


def on_event(event: Event) -> None: ...


config = SessionConfig(secret_key="k", store="memory://", max_age=5, user_key="member", on_event=on_event)
assert_type(config.max_age, float | None)
assert_type(SessionConfig.from_env(), SessionConfig)
ravyn = Ravyn(routes=[], session_config=config)
sessions = Sessions(config)


class Annotated(RavynSettings):
    session_config: SessionConfig = config


class Property(RavynSettings):
    @property
    def session_config(self) -> SessionConfig:
        return config


starlette = Starlette(middleware=[Middleware(SessionMiddleware, secret_key="k", store="memory://")])
starlette.add_middleware(SessionMiddleware, secret_key="k", max_age=5, same_site="strict", exclude=["/health"])
starlette.add_middleware(SessionMiddleware, config=config)
starlette.add_middleware(SessionMiddleware, secret="k")  # type: ignore[call-arg]
starlette.add_middleware(SessionMiddleware, secret_key="k", same_site="Strict")  # type: ignore[arg-type]
starlette.add_middleware(StarletteSessions, config=SessionManager(config))
install(SessionManager(config))
install(config)  # type: ignore[arg-type]
uninstall()
# Litestar's types of ASGI are narrower than those of anybody else.
litestar = Litestar([], middleware=[DefineMiddleware(LitestarSessions, config=SessionManager(config))])  # type: ignore[arg-type]
LitestarSessions(Litestar([]), config)  # type: ignore[arg-type]
plugin = RoomkeyPlugin(config)
assert_type(plugin.manager, SessionManager)
RoomkeyPlugin(plugin.manager, exclude_opt_key="no_session", dependency_key=None)
RoomkeyPlugin(secret_key="k", max_age=dt.timedelta(hours=1), exclude=["/health"])
RoomkeyPlugin(secret="k")  # type: ignore[call-arg]
RoomkeyPlugin("k")  # type: ignore[arg-type]


def user_of(session: dict[str, Any], connection: ASGIConnection[Any, Any, Any, Any]) -> int | None:
    return session.get("user_id")


auth: SessionAuth[int, Any] = SessionAuth(session_backend_config=plugin.backend_config, retrieve_user_handler=user_of)
with_plugin = Litestar([], plugins=[plugin], on_app_init=[auth.on_app_init])
LitestarClient(with_plugin, session_config=plugin.backend_config).set_session_data({"user_id": 7})
found = with_plugin.plugins.get(RoomkeyPlugin)
assert_type(found, RoomkeyPlugin)
fastapi = FastAPI()
fastapi.add_middleware(CSRFMiddleware, trusted_origins=["https://example.com"])
fastapi.add_middleware(SessionMiddleware, secret_key="k")
for app in (starlette, fastapi):
    app.mount("/account/devices", DevicesPage(config))
    app.mount("/operators", OperatorsPage(SessionManager(config), allow=lambda scope: bool(scope["session"])))


async def handler(request: Request) -> None:
    session: Session = request.scope["session"]
    session.remember(86400)
    assert_type(session.peek("theme", "dark"), Any)
    assert_type(session.sessions, Sessions)
    assert_type(session_of(request), Session)


async def websocket(socket: WebSocket, request: LitestarRequest[object, object, Any]) -> None:
    assert_type(session_of(socket), Session)
    assert_type(session_of(request), Session)


@fastapi.get("/")
async def guarded(
    session: CurrentSession,
    user: WithMore[int, Depends(require_login)],
    again: WithMore[int, Depends(require_recent(dt.timedelta(minutes=5)))],
    proved: WithMore[int, Depends(require_level(2, within=dt.timedelta(minutes=15)))],
) -> None:
    assert_type(session, Session)
    assert_type(user, int)
    session.remember(86400)


def test_clients(
    one: StarletteClient, two: LitestarClient[Litestar], three: AsyncTestClient[Litestar], manager: SessionManager
) -> None:
    for opened in (client_session(one, manager), client_session(two, manager), client_session(three, manager)):
        with opened as session:
            assert_type(session, Session)


require_recent("5 minutes")  # type: ignore[arg-type]
require_level("2")  # type: ignore[arg-type]
Litestar([], guards=[litestar_login, litestar_recent(300), litestar_level(2, within=900)])


@dataclass
class Visit:
    cart: list[str] = field(default_factory=list)


@litestar_post("/cart/{item:str}", dependencies={"visit": from_session(Visit)})
async def litestar_add(item: str, visit: WithMore[Visit, LitestarFromSession()]) -> list[str]:
    return visit.cart


async def lilya_add(item: str, visit: Visit) -> list[str]:
    return visit.cart


path = Path("/{item}", lilya_add, dependencies={"visit": LilyaFromSession(Visit), "user": lilya_login})
path = Path("/{item}", lilya_add, permissions=[lilya_login, lilya_recent(dt.timedelta(minutes=5)), lilya_level(2)])


@ravyn_post("/cart/{item}", dependencies={"visit": RavynFromSession(Visit), "user": current_user})  # type: ignore[untyped-decorator]
async def ravyn_add(item: str, visit: Visit = injected(), user: int = injected()) -> list[str]:
    return visit.cart


@ravyn_post("/account", permissions=[ravyn_login, ravyn_recent(300), ravyn_level(2, within=900)])  # type: ignore[untyped-decorator]
async def ravyn_account() -> None: ...
