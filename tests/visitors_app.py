"""A shop and a subdomain of it that an attacker holds, on one server: for a real browser."""

import os

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from roomkey import SessionMiddleware
from roomkey.csrf import csrf_token, verify_csrf_token


async def form(request: Request) -> Response:
    token = csrf_token(request.session)
    return HTMLResponse(
        f'<form method="post" action="/act"><input name="csrf" id="csrf" value="{token}"><button>Send</button></form>'
    )


async def act(request: Request) -> Response:
    token = (await request.body()).decode().partition("csrf=")[2]
    is_genuine = verify_csrf_token(request.session, token)
    return PlainTextResponse("done" if is_genuine else "refused", 200 if is_genuine else 403)


async def log_in(request: Request) -> Response:
    request.session["user_id"] = 7
    return PlainTextResponse("in")


async def log_out(request: Request) -> Response:
    request.session.clear()
    return PlainTextResponse("out")


async def toss(request: Request) -> Response:
    """Set the cookie in every way that a subdomain, or the site over plain HTTP, may try."""
    value, domain = request.query_params["value"], request.query_params["domain"]
    response = PlainTextResponse("tossed")
    for name in ("__Host-session-csrf", "__host-session-csrf", " __Host-session-csrf", "=__Host-session-csrf"):
        for attributes in (
            f"Path=/; Domain={domain}; Secure",
            f"Path=/; Domain={domain}",
            f"Path=/act; Domain={domain}; Secure",
            f"Domain={domain}; Secure",
            "Path=/",
            "Path=/act; Secure",
        ):
            response.headers.append("set-cookie", f"{name}={value}; {attributes}")
    response.headers.append("set-cookie", f"unprotected={value}; Path=/; Domain={domain}")
    return response


shop = Starlette(
    routes=[
        Route("/form", form),
        Route("/act", act, methods=["POST"]),
        Route("/login", log_in),
        Route("/logout", log_out),
        Route("/toss", toss),
    ]
)
app = SessionMiddleware(shop, secret_key=os.environ["SECRET_KEY"], store="memory://", https_only=True)
