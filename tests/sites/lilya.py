"""The story's site on Lilya."""

from lilya.apps import Lilya
from lilya.middleware import DefineMiddleware
from lilya.requests import Request
from lilya.routing import Path

from roomkey.lilya import SessionConfig, SessionMiddleware
from tests import sites


async def slow(request: Request, name: str) -> dict:
    user = request.session["user_id"]
    await sites.reach(name)
    request.session["late"] = user
    return sites.seen(request.session)


async def act(request: Request, deed: str, name: str) -> dict:
    return sites.act(request.session, deed, name)


app = Lilya(
    routes=[Path("/slow/{name}", slow), Path("/{deed}/{name}", act)],
    middleware=[DefineMiddleware(SessionMiddleware, SessionConfig.from_env())],
)
