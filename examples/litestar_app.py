"""A shop on Litestar: a cart for everybody, pages for users behind SessionAuth, a stream and a WebSocket."""

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from litestar import Litestar, Request, WebSocket, delete, get, post, websocket
from litestar.exceptions import ClientException, PermissionDeniedException
from litestar.response import ServerSentEvent
from litestar.security.session_auth import SessionAuth

from roomkey import LoginTooOld, Session, SessionConfig
from roomkey.litestar import RoomkeyPlugin

PASSWORDS = {"ada": "lovelace"}  # an app of yours has them hashed, in its database

config = SessionConfig(secret_key=os.environ["SECRET_KEY"], store=os.environ.get("STORE", "memory://"))
roomkey = RoomkeyPlugin(config)


@dataclass
class User:
    name: str


@dataclass
class LogIn:
    name: str
    password: str


async def user_of(session: dict[str, Any], connection: object) -> User | None:
    name = session.get("user_id")
    return User(name) if name in PASSWORDS else None


auth: SessionAuth[User, Any] = SessionAuth(session_backend_config=roomkey.backend_config, retrieve_user_handler=user_of)


@get("/", exclude_from_auth=True)
async def home(session: Session) -> dict[str, object]:
    return {"cart": session.get("cart", [])}


@post("/cart/{item:str}", exclude_from_auth=True, sync_to_thread=True)
def add(item: str, session: Session) -> list[str]:  # a plain `def` runs in a thread
    cart: list[str] = session.change("cart", lambda cart: [*cart, item], default=[])
    return cart


@post("/login", exclude_from_auth=True)
async def login(data: LogIn, session: Session) -> User:
    if PASSWORDS.get(data.name) != data.password:
        raise ClientException("Wrong name or password.")
    session["user_id"] = data.name  # a new session ID; what was in the cart stays
    return User(data.name)


@post("/logout", exclude_from_auth=True)
async def logout(session: Session) -> None:
    session.clear()


@get("/me")
async def me(request: Request[User, Any, Any]) -> User:
    return request.user


@get("/devices")
async def devices(request: Request[User, Any, Any], session: Session) -> list[str]:
    return [each.handle for each in await session.sessions.of(request.user.name)]


@post("/devices/log-out")
async def log_out_devices(request: Request[User, Any, Any], session: Session) -> dict[str, int]:
    return {"ended": await session.sessions.revoke_all(request.user.name, keep=session)}


@get("/prices")
async def prices(session: Session) -> ServerSentEvent:
    async def events() -> AsyncIterator[str]:
        for item in session.get("cart", []):
            yield f"{item}: {len(item)}"
        session["prices seen"] = True  # saved when the stream ends

    return ServerSentEvent(events())


@delete("/account")
async def delete_account(session: Session) -> None:
    try:
        session.require_recent(300)
    except LoginTooOld:
        raise PermissionDeniedException("Log in again, then repeat this.") from None
    session.clear()


@websocket("/chat")
async def chat(socket: WebSocket[User, Any, Any], session: Session) -> None:
    await socket.accept()
    async for text in socket.iter_data("text"):
        session.setdefault("said", []).append(text)
        await session.save()
        await socket.send_text(f"{socket.user.name}: {text}")


@get("/health", exclude_from_auth=True, skip_session=True)
async def health() -> dict[str, int]:
    return {"pid": os.getpid()}


app = Litestar(
    [home, add, login, logout, me, devices, log_out_devices, prices, delete_account, chat, health],
    on_app_init=[auth.on_app_init],
    plugins=[roomkey],
)
