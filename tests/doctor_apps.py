"""Apps that `roomkey doctor` looks at: of each framework, as code, for a folder of the test's."""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path

from roomkey.cli.checks.looked import Looked
from roomkey.cli.doctor import judged
from roomkey.cli.looking import look

__all__ = ["ENOUGH", "FRAMEWORKS", "WITHOUT_FAULT", "asgi", "found", "framework", "looked_at", "write"]

ENOUGH = "Xsecret9-" + "0123456789abcdefghijklmnopqrstuvwxyz"  # a key
WITHOUT_FAULT = "secret_key=KEY, session_cookie='__Host-session', https_only=True, store=STORE"
_numbers = itertools.count()

_STARLETTE = """
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

async def index(request):
    request.session["n"] = 1
    return PlainTextResponse("")

async def change(request):
    return PlainTextResponse("")

app = Starlette(routes=[Route("/", index), Route("/change", change, methods=["POST"])])
"""

FRAMEWORKS = {
    "starlette": f"{_STARLETTE}\nCSRF and app.add_middleware(CSRFMiddleware)\nADD(app)",
    "wrapped": f"{_STARLETTE}\nINNER = CSRFMiddleware(app) if CSRF else app\napp = SessionMiddleware(INNER, CONFIG)",
    "fastapi": """
from fastapi import FastAPI, Request
app = FastAPI()

@app.get("/")
def index(request: Request):
    request.session["n"] = 1

@app.post("/change")
def change():
    pass

CSRF and app.add_middleware(CSRFMiddleware)
ADD(app)
""",
    "litestar": """
import roomkey.litestar
from litestar import Litestar, Request, get, post
from litestar.middleware import DefineMiddleware

@get("/")
async def index(request: Request) -> None:
    request.session["n"] = 1

@post("/change")
async def change() -> None:
    pass

middleware = [DefineMiddleware(SessionMiddleware, config=CONFIG)]
CSRF and middleware.append(DefineMiddleware(CSRFMiddleware))
app = Litestar([index, change], middleware=middleware)
""",
    "lilya": """
import roomkey.lilya
from lilya.apps import Lilya
from lilya.middleware import DefineMiddleware
from lilya.routing import Path

async def index(request):
    request.session["n"] = 1
    return ""

async def change(request):
    return ""

middleware = [DefineMiddleware(SessionMiddleware, **OPTIONS)]
CSRF and middleware.append(DefineMiddleware(CSRFMiddleware))
app = Lilya(routes=[Path("/", index), Path("/change", change, methods=["POST"])], middleware=middleware)
""",
    "ravyn": """
from lilya.middleware import DefineMiddleware
from ravyn import Gateway, Ravyn, Request, get, post
from roomkey.ravyn import SessionConfig as RavynConfig

@get("/")
async def index(request: Request) -> None:
    request.session["n"] = 1

@post("/change")
async def change() -> None:
    pass

app = Ravyn(
    routes=[Gateway(handler=index), Gateway(handler=change)],
    session_config=RavynConfig(**OPTIONS),
    middleware=[DefineMiddleware(CSRFMiddleware)] if CSRF else [],
)
""",
    "flask": """
from flask import Flask, session
from flask_wtf.csrf import CSRFProtect
from roomkey.flask import Roomkey
app = Flask("shop")
app.secret_key = OPTIONS.pop("secret_key")
app.config["SESSION_COOKIE_SECURE"] = OPTIONS.get("https_only") is True
if app.config["SESSION_COOKIE_SECURE"]:
    del OPTIONS["https_only"]
app.config["SESSION_COOKIE_NAME"] = OPTIONS.pop("session_cookie", "session")
Roomkey(app, **OPTIONS)
CSRF and CSRFProtect(app)

@app.get("/")
def index():
    session["n"] = 1
    return ""

@app.post("/change")
def change():
    return ""
""",
    "quart": """
from quart import Quart, session
from roomkey.quart import Roomkey
app = Quart("shop")
app.secret_key = OPTIONS.pop("secret_key")
app.config["SESSION_COOKIE_SECURE"] = OPTIONS.get("https_only") is True
if app.config["SESSION_COOKIE_SECURE"]:
    del OPTIONS["https_only"]
app.config["SESSION_COOKIE_NAME"] = OPTIONS.pop("session_cookie", "session")
Roomkey(app, **OPTIONS)
if CSRF:
    app.asgi_app = CSRFMiddleware(app.asgi_app)

@app.get("/")
async def index():
    session["n"] = 1
    return ""

@app.post("/change")
async def change():
    return ""
""",
}


def framework(name: str, options: str = WITHOUT_FAULT, *, csrf: bool = True) -> str:
    """Return the code of an app of a framework: with these options, and with a check of cross-site requests or not."""
    makes = "" if name in ("flask", "quart") else _MAKES
    return f"OPTIONS = dict({options})\nCSRF = {csrf}\n{makes}{FRAMEWORKS[name]}"


def asgi(options: str = WITHOUT_FAULT, *, more: str = "", middleware: str | None = None) -> str:
    """Return the code of an app of FastAPI's.

    Args:
        options: of its configuration.
        more: code between the routes and the middleware.
        middleware: code that adds it; None: Roomkey's two, in the right order.
    """
    added = "app.add_middleware(CSRFMiddleware)\nADD(app)" if middleware is None else middleware
    routes = FRAMEWORKS["fastapi"].partition("CSRF and")[0]
    return f"OPTIONS = dict({options})\n{_MAKES}{routes}\n{more}\n{added}\n"


_MAKES = """
CONFIG = SessionConfig(**OPTIONS)

def ADD(app, **more):
    app.add_middleware(SessionMiddleware, **{**OPTIONS, **more})

"""


def write(folder: Path, code: str, *, key: str = ENOUGH, store: str | None = None) -> str:
    """Write an app into a folder. Returns its name, `module:app`."""
    name = f"doctor_app_{next(_numbers)}"
    head = "from roomkey import SessionConfig, SessionManager, SessionMiddleware\n"
    head += "from roomkey.csrf import CSRFMiddleware\n"
    head += f"KEY = {key!r}\nSTORE = {store or f'sqlite:///{folder}/sessions.sqlite3'!r}\n"
    (folder / f"{name}.py").write_text(head + code)
    return f"{name}:app"


def looked_at(folder: Path, code: str, *paths: str, url: str | None = None, **places: str) -> Looked:
    """Look at an app, in this process alone."""
    name = write(folder, code, **places)
    before, here = list(sys.path), os.getcwd()
    os.chdir(folder)
    try:
        return look(name, paths or ("/",), url, in_processes=False)
    finally:
        os.chdir(here)
        sys.path[:] = before


def found(looked: Looked) -> list[str]:
    """Return the names of the checks that found something."""
    return [each["name"] for each in judged(looked)[0]]
