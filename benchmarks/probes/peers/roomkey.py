"""Roomkey on Starlette, in Redis."""

import os

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from benchmarks.probes import deeds
from roomkey import SessionManager, SessionMiddleware, session_of

manager = SessionManager(secret_key="k" * 43, store=os.environ["PROBE_REDIS"])


async def page(request: Request) -> JSONResponse:
    session, deed, name = session_of(request), request.path_params["deed"], request.path_params["name"]
    match deed:
        case "about":
            return JSONResponse({"login": "", "list": "user"})
        case "slow":
            session.get("user_id")
            await deeds.wait()
            session[name] = 1
        case "enter":
            session["user_id"] = name
        case "logout":
            session.clear()
        case "list":
            return JSONResponse({"sessions": len(await manager.sessions.of(name))})
        case "end":
            return JSONResponse({"ended": await manager.sessions.revoke_all(name)})
        case _:
            return JSONResponse(deeds.act(session, deed, name))
    return JSONResponse(deeds.shown(session))


app = Starlette(
    routes=[Route("/{deed}/{name}", page)],
    middleware=[Middleware(SessionMiddleware, config=manager)],
)
