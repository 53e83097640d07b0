"""A cart on Starlette: visitors keep one without an account, and take it along when they log in.

pip install "roomkey[starlette]" uvicorn
SECRET_KEY=... uvicorn examples.starlette_app:app
"""

from __future__ import annotations

import os

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from roomkey import SessionMiddleware, session_of


async def cart(request: Request) -> Response:
    """Show the cart. A visitor who only looks gets no cookie."""
    return JSONResponse(session_of(request).get("cart", []))


async def add(request: Request) -> Response:
    """Put an item into the cart. Nothing is lost where another tab adds something at the same moment."""
    item = request.path_params["item"]
    return JSONResponse(session_of(request).change("cart", lambda items: [*items, item], default=[]))


async def log_in(request: Request) -> Response:
    """Log somebody in. A real app asks for a password first."""
    session_of(request)["user_id"] = request.path_params["user"]
    return Response(status_code=204)


async def devices(request: Request) -> Response:
    """List where the user is logged in."""
    session = session_of(request)
    if not session.get("user_id"):
        return JSONResponse({"error": "Please log in."}, 401)
    found = await session.sessions.of(session["user_id"])
    return JSONResponse([{"handle": each.handle, "this one": each.is_current} for each in found])


async def log_out(request: Request) -> Response:
    """End the session, in every tab at once."""
    session_of(request).clear()
    return Response(status_code=204)


app = Starlette(
    routes=[
        Route("/cart", cart),
        Route("/cart/{item}", add, methods=["POST"]),
        Route("/login/{user}", log_in, methods=["POST"]),
        Route("/devices", devices),
        Route("/logout", log_out, methods=["POST"]),
    ],
    middleware=[
        Middleware(SessionMiddleware, secret_key=os.environ["SECRET_KEY"], store=os.environ.get("STORE", "memory://"))
    ],
)
