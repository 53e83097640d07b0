"""An app with both pages, and browsers of its users, for the tests of `roomkey.pages`."""

import re
from html import unescape

import httpx
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse

from roomkey import SessionManager, SessionMiddleware, session_of
from roomkey.pages import DevicesPage, OperatorsPage
from roomkey.stores.memory import MemoryStore
from roomkey.testing import Clock

FIREFOX = "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:128.0) Gecko/20100101 Firefox/128.0"
IPHONE = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) "
    "Version/17.5 Mobile/15E148 Safari/604.1"
)
START = 1_790_000_000.0  # Unix seconds: 2026-09-21 14:13:20 UTC
DEVICES, OPERATORS = "/account/devices/", "/operators/"


def is_operator(scope):
    return scope["session"].get("role") == "operator"


class Browser(httpx.AsyncClient):
    """A browser of one user."""

    async def log_in(self, user, **more):
        answer = await self.post("/login", params={"user": user, **more})
        assert answer.status_code == 200

    async def press(self, page, name, value=None, **changed):
        """Press a button of a page that was loaded: the one called `name`, of the value where it is given."""
        for form in re.findall(r"<form.*?</form>", page.text, re.S):
            button = re.search(rf'<button[^>]*name="{name}"[^>]*value="([^"]*)"', form)
            if button is not None and value in (None, button[1]):
                found = re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', form)
                fields = {each: unescape(text) for each, text in found}
                return await self.post(page.url, data={**fields, name: button[1], **changed})
        raise AssertionError(f"there is no button {name} {value}")


class Site:
    """An app with the devices and the operators' page, its clock, and its browsers."""

    def __init__(self, *, store=None, session=None, devices=None, operators=None):
        self.clock = Clock(START)
        self.store = MemoryStore(clock=self.clock) if store is None else store
        options = {"secret_key": "k" * 43, "store": self.store, "clock": self.clock, "record_client": True}
        self.manager = SessionManager(**{**options, **(session or {})})
        app = Starlette()
        app.add_route("/login", self._log_in, methods=["POST"])
        app.add_route("/logout", self._log_out, methods=["POST"])
        app.mount("/account/devices", DevicesPage(self.manager, **(devices or {})))
        app.mount("/operators", OperatorsPage(self.manager, **{"allow": is_operator, **(operators or {})}))
        app.add_middleware(SessionMiddleware, config=self.manager)
        self.app = app

    def browser(self, agent=FIREFOX, language="en", root_path=""):
        transport = httpx.ASGITransport(self.app, client=("192.0.2.7", 1), root_path=root_path)
        headers = {"user-agent": agent, "accept-language": language}
        return Browser(transport=transport, base_url="http://shop.test", headers=headers, follow_redirects=True)

    async def _log_in(self, request):
        session = session_of(request)
        session.update(request.query_params)
        session["user_id"] = session.pop("user")
        return PlainTextResponse("in")

    async def _log_out(self, request):
        session_of(request).clear()
        return PlainTextResponse("out")

    async def sessions(self, user):
        return await self.manager.sessions.of(user)


def text_of(page):
    """Return what a page says, without its markup and styles."""
    body = re.sub(r"<style>.*?</style>", "", page.text, flags=re.S)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", body)).split())
