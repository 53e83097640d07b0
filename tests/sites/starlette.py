"""The story's site on Starlette."""

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.routing import Route

from roomkey import SessionConfig, SessionMiddleware
from tests import sites


async def slow(request):
    user = request.session["user_id"]
    await sites.reach(request.path_params["name"])
    request.session["late"] = user
    return JSONResponse(sites.seen(request.session))


async def act(request):
    return JSONResponse(sites.act(request.session, **request.path_params))


app = Starlette(
    routes=[Route("/slow/{name}", slow), Route("/{deed}/{name}", act)],
    middleware=[Middleware(SessionMiddleware, SessionConfig.from_env())],
)
