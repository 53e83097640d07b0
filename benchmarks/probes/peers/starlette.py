"""Starlette's own sessions, which are all in the cookie."""

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from benchmarks.probes import deeds


async def page(request: Request) -> JSONResponse:
    session, deed, name = request.session, request.path_params["deed"], request.path_params["name"]
    match deed:
        case "about":
            return JSONResponse({"login": None, "list": None})
        case "slow":
            session.get("user_id")
            await deeds.wait()
            session[name] = 1
        case "enter":
            session["user_id"] = name
        case "logout":
            session.clear()
        case _:
            return JSONResponse(deeds.act(session, deed, name))
    return JSONResponse(deeds.shown(session))


app = Starlette(
    routes=[Route("/{deed}/{name}", page)],
    middleware=[Middleware(SessionMiddleware, secret_key="k" * 43)],
)
