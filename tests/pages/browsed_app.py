"""The app that a real browser opens in `test_pages_in_a_browser.py`: both pages, and log-ins of several devices."""

import os

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from roomkey import SessionManager, SessionMiddleware, session_of
from roomkey.csrf import CSRFMiddleware
from roomkey.events import OutageBegan, OutageEnded
from roomkey.pages import DevicesPage, OperatorsPage


async def home(request: Request) -> Response:
    return PlainTextResponse("home")


async def log_in(request: Request) -> Response:
    session_of(request)["user_id"] = request.query_params.get("user", "7")
    return PlainTextResponse("in")


async def outage(request: Request) -> Response:
    """Tell of an outage that is over and of one that goes on."""
    report = manager.reporter.report
    report(OutageBegan("RedisStore", "ConnectionError: connection refused (127.0.0.1:6379)"))
    report(OutageEnded("RedisStore"))
    report(OutageBegan("RedisStore", "TimeoutError: no answer within 5 s"))
    return PlainTextResponse("out")


manager = SessionManager(secret_key=os.environ["SECRET_KEY"], store="memory://", record_client=True)
app = Starlette()
app.add_route("/", home)
app.add_route("/login", log_in)
app.add_route("/outage", outage, methods=["POST"])
app.mount("/devices", DevicesPage(manager, home_url="/", log_in_url="/login?next={next}"))
# A log-in is too old at once.
app.mount("/strict", DevicesPage(manager, recent=1e-9, log_in_url="/login?next={next}"))
app.mount("/operators", OperatorsPage(manager, allow=lambda scope: "user_id" in scope["session"], refuse_with=403))
app.add_middleware(CSRFMiddleware)
app.add_middleware(SessionMiddleware, config=manager)
