"""The Litestar app of the tests of `RoomkeyPlugin`, and a store that they watch."""

from typing import Any

from litestar import Litestar, get, post
from litestar.testing import TestClient

from roomkey import Session
from roomkey.litestar import RoomkeyPlugin
from roomkey.stores.memory import MemoryStore

__all__ = ["SECRET", "STORY", "Store", "browser", "plugin"]

SECRET = "k" * 32


class Store(MemoryStore):
    """One that notes when it is opened and closed, and that fails on demand."""

    def __init__(self):
        super().__init__()
        self.noted = []
        self.down = False
        self.lists = True  # whether it finds the sessions of a user

    async def open(self):
        self.noted.append("open")

    async def close(self):
        self.noted.append("close")

    async def load(self, key):
        if self.down:
            raise OSError("down")
        return await super().load(key)

    async def of_user(self, user):
        if not self.lists:
            raise OSError("down")
        return await super().of_user(user)


def plugin(**options):
    return RoomkeyPlugin(**{"secret_key": SECRET, "store": Store(), **options})


def browser(*handlers, roomkey=None, **options):
    roomkey = roomkey or plugin()
    return TestClient(
        Litestar(handlers, plugins=[roomkey], **options),
        session_config=roomkey.backend_config,
        raise_server_exceptions=False,
    )


@get("/")
async def read(session: Session) -> dict[str, Any]:
    return session


@post("/login/{user:int}")
async def log_in(user: int, session: Session) -> None:
    session["user_id"] = user


@post("/logout")
async def log_out(session: Session) -> None:
    session.clear()


@post("/write/{key:str}")
async def write(key: str, session: Session) -> int:
    session[key] = 1
    return session.change("n", lambda n: n + 1, default=0)


@get("/public")
async def public() -> None: ...


STORY = (read, log_in, log_out, write, public)
