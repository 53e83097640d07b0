"""The story's site on Ravyn."""

from ravyn import Gateway, Ravyn, Request, get

from roomkey.ravyn import SessionConfig
from tests import sites


@get("/slow/{name}")
async def slow(request: Request, name: str) -> dict:
    user = request.session["user_id"]
    await sites.reach(name)
    request.session["late"] = user
    return sites.seen(request.session)


@get("/{deed}/{name}")
async def act(request: Request, deed: str, name: str) -> dict:
    return sites.act(request.session, deed, name)


app = Ravyn(routes=[Gateway(handler=slow), Gateway(handler=act)], session_config=SessionConfig.from_env())
