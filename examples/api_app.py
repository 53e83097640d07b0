"""A shop with pages for browsers and an API for its mobile app: a cookie for the one, a header for the other."""

import os
from typing import Annotated

from fastapi import Body, Depends, FastAPI, HTTPException, WebSocket

from roomkey.csrf import CSRFMiddleware
from roomkey.fastapi import CurrentSession, SessionConfig, SessionMiddleware, require_login

PASSWORDS = {"ada": "lovelace"}  # an app of yours has them hashed, in its database
MONTH = 30 * 24 * 3600  # seconds

key = os.environ["SECRET_KEY"]
config = SessionConfig(secret_key=key, store=os.environ.get("STORE", "memory://"))
api_config = SessionConfig(secret_key=key, store=config.store, card_header="Authorization")

User = Annotated[str, Depends(require_login)]
Text = Annotated[str, Body(embed=True)]  # one field of a JSON object

api = FastAPI(title="The shop's API")
api.add_middleware(SessionMiddleware, config=api_config)


@api.post("/login")
async def login(name: Text, password: Text, session: CurrentSession) -> dict[str, str]:
    if PASSWORDS.get(name) != password:
        raise HTTPException(400, "Wrong name or password.")
    session["user_id"] = name  # the response hands the card out, in the header Session-Card
    session.remember(MONTH)
    return {"user": name, "until": session.expires_at.isoformat()}


@api.post("/logout")
async def logout(session: CurrentSession) -> None:
    session.clear()  # the response has an empty Session-Card


@api.get("/me")
async def me(user: User) -> dict[str, str]:
    return {"user": user}


@api.post("/cart/{item}")
async def add(item: str, user: User, session: CurrentSession) -> list[str]:
    cart: list[str] = session.setdefault("cart", [])
    cart.append(item)
    return cart


@api.websocket("/updates")
async def updates(websocket: WebSocket, user: User) -> None:
    await websocket.accept()
    await websocket.send_text(f"hello {user}")
    await websocket.close()


app = FastAPI(title="Shop")
app.add_middleware(CSRFMiddleware, exempt_paths=["/api/"])  # no cookie counts there
app.add_middleware(SessionMiddleware, config=config)
app.mount("/api", api)


@app.post("/login")
async def login_on_the_site(name: Text, password: Text, session: CurrentSession) -> None:
    if PASSWORDS.get(name) != password:
        raise HTTPException(400, "Wrong name or password.")
    session["user_id"] = name


@app.get("/")
async def home(session: CurrentSession) -> dict[str, object]:
    return {"user": session.get("user_id")}


@app.get("/devices")
async def devices(user: User, session: CurrentSession) -> list[str]:
    return [info.handle for info in await session.sessions.of(user)]


@app.post("/devices/log-out")
async def log_out_devices(user: User, session: CurrentSession) -> int:
    return await session.sessions.revoke_all(user, keep=session)  # those of the mobile app too
