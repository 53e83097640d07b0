"""A shop on FastAPI: a cart for everybody, pages for users, and one step that needs the password again."""

import os
from collections.abc import Iterator
from typing import Annotated

from fastapi import Body, Depends, FastAPI, HTTPException, WebSocket

from roomkey.fastapi import CurrentSession, SessionConfig, SessionMiddleware, require_login, require_recent

PASSWORDS = {"ada": "lovelace"}  # an app of yours has them hashed, in its database

config = SessionConfig(secret_key=os.environ["SECRET_KEY"], store=os.environ.get("STORE", "memory://"))
app = FastAPI(title="Shop")
app.add_middleware(SessionMiddleware, config=config)

User = Annotated[str, Depends(require_login)]
Text = Annotated[str, Body(embed=True)]  # one field of a JSON object


def pages_seen(session: CurrentSession) -> Iterator[int]:
    """A dependency with `yield`: it counts the pages that somebody with a cart looks at."""
    if "cart" in session:
        session.change("pages", lambda pages: pages + 1, default=0)
    yield session.get("pages", 0)


@app.get("/")
async def home(session: CurrentSession, pages: Annotated[int, Depends(pages_seen)]) -> dict[str, object]:
    return {"cart": session.get("cart", []), "pages": pages}


@app.post("/cart/{item}")
def add(item: str, session: CurrentSession) -> list[str]:  # a plain `def` runs in a thread
    cart: list[str] = session.setdefault("cart", [])
    cart.append(item)
    return cart


@app.post("/login")
async def login(name: Text, password: Text, session: CurrentSession) -> dict[str, str]:
    if PASSWORDS.get(name) != password:
        raise HTTPException(400, "Wrong name or password.")
    session["user_id"] = name  # a new session ID; what was in the cart stays
    return {"user": name}


@app.post("/login/again")
async def login_again(password: Text, user: User, session: CurrentSession) -> None:
    if PASSWORDS[user] != password:
        raise HTTPException(400, "Wrong password.")
    session.reauthenticated()


@app.post("/logout")
async def logout(session: CurrentSession) -> None:
    session.clear()


@app.get("/me")
async def me(user: User) -> dict[str, str]:
    return {"user": user}


@app.get("/devices")
async def devices(user: User, session: CurrentSession) -> list[str]:
    return [each.handle for each in await session.sessions.of(user)]


@app.post("/devices/log-out")
async def log_out_devices(user: User, session: CurrentSession) -> dict[str, int]:
    return {"ended": await session.sessions.revoke_all(user, keep=session)}


@app.delete("/account", dependencies=[Depends(require_recent(300))])
async def delete_account(session: CurrentSession) -> None:
    session.clear()


@app.websocket("/chat")
async def chat(websocket: WebSocket, user: User, session: CurrentSession) -> None:
    await websocket.accept()
    async for text in websocket.iter_text():
        session.setdefault("said", []).append(text)
        await session.save()
        await websocket.send_text(f"{user}: {text}")
