"""The story's site on Litestar."""

from litestar import Litestar, Request, get

from roomkey import Session
from roomkey.litestar import RoomkeyPlugin, SessionConfig
from tests import sites


@get("/slow/{name:str}")
async def slow(request: Request, name: str) -> dict:
    user = request.session["user_id"]
    await sites.reach(name)
    request.session["late"] = user
    return sites.seen(request.session)


@get("/{deed:str}/{name:str}")
async def act(session: Session, deed: str, name: str) -> dict:
    return sites.act(session, deed, name)


app = Litestar([slow, act], plugins=[RoomkeyPlugin(SessionConfig.from_env())])
