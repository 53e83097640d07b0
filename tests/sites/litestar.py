"""The story's site on Litestar."""

from litestar import Litestar, Request, get
from litestar.middleware import DefineMiddleware

from roomkey.litestar import SessionConfig, SessionMiddleware
from tests import sites


@get("/slow/{name:str}")
async def slow(request: Request, name: str) -> dict:
    user = request.session["user_id"]
    await sites.reach(name)
    request.session["late"] = user
    return sites.seen(request.session)


@get("/{deed:str}/{name:str}")
async def act(request: Request, deed: str, name: str) -> dict:
    return sites.act(request.session, deed, name)


app = Litestar([slow, act], middleware=[DefineMiddleware(SessionMiddleware, config=SessionConfig.from_env())])
