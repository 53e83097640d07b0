"""starsessions in Redis, with autoload, which is how its documentation has a handler find the session loaded."""

import os

from redis.asyncio import Redis
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starsessions import SessionAutoloadMiddleware, SessionMiddleware
from starsessions.session import regenerate_session_id
from starsessions.stores.redis import RedisStore

from benchmarks.probes import deeds

store = RedisStore(connection=Redis.from_url(os.environ["PROBE_REDIS"]))


async def page(request: Request) -> JSONResponse:
    session, deed, name = request.session, request.path_params["deed"], request.path_params["name"]
    match deed:
        case "about":
            return JSONResponse({"login": "`regenerate_session_id()`", "list": None})
        case "slow":
            session.get("user_id")
            await deeds.wait()
            session[name] = 1
        case "enter":
            regenerate_session_id(request)
            session["user_id"] = name
        case "logout":
            session.clear()
        case _:
            return JSONResponse(deeds.act(session, deed, name))
    return JSONResponse(deeds.shown(session))


app = Starlette(
    routes=[Route("/{deed}/{name}", page)],
    middleware=[
        Middleware(SessionMiddleware, store=store, lifetime=14400, cookie_https_only=False),
        Middleware(SessionAutoloadMiddleware),
    ],
)
