"""A cart on Lilya: visitors keep one without an account, and take it along when they log in.

pip install "roomkey[lilya]" uvicorn
SECRET_KEY=... uvicorn examples.lilya_app:app
"""

from __future__ import annotations

import os
from typing import Any

from lilya.apps import Lilya
from lilya.middleware import DefineMiddleware
from lilya.requests import Request
from lilya.responses import JSONResponse, Response
from lilya.routing import Path

from roomkey import session_of
from roomkey.lilya import SessionMiddleware, require_login


async def cart(request: Request) -> Any:
    """Show the cart. A visitor who only looks gets no cookie."""
    return JSONResponse(session_of(request).get("cart", []))


async def add(request: Request, item: str) -> Any:
    """Put an item into the cart. Nothing is lost where another tab adds something at the same moment."""
    return JSONResponse(session_of(request).change("cart", lambda items: [*items, item], default=[]))


async def log_in(request: Request, user: str) -> Any:
    """Log somebody in. A real app asks for a password first."""
    session_of(request)["user_id"] = user
    return Response(status_code=204)


async def devices(request: Request) -> Any:
    """List where the user is logged in."""
    session = session_of(request)
    found = await session.sessions.of(session["user_id"])
    return JSONResponse([{"handle": each.handle, "this one": each.is_current} for each in found])


async def log_out(request: Request) -> Any:
    """End the session, in every tab at once."""
    session_of(request).clear()
    return Response(status_code=204)


app = Lilya(
    routes=[
        Path("/cart", cart),
        Path("/cart/{item}", add, methods=["POST"]),
        Path("/login/{user}", log_in, methods=["POST"]),
        Path("/devices", devices, permissions=[require_login]),
        Path("/logout", log_out, methods=["POST"]),
    ],
    middleware=[
        DefineMiddleware(
            SessionMiddleware, secret_key=os.environ["SECRET_KEY"], store=os.environ.get("STORE", "memory://")
        )
    ],
)
