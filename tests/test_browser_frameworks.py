"""The examples on FastAPI and Flask in a real Chromium: a user logs in, reloads, logs out and goes back."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import pytest

from tests.loop_clock import HANGS
from tests.sites.running import SECRET, Running
from tests.test_browser import browser, session_cookies

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

__all__ = ["browser"]  # the fixture


class OnFastAPI:
    """An API, asked by scripts of its own pages."""

    command: ClassVar = ["uvicorn", "examples.fastapi_app:app", "--port", "{port}"]
    home, account = "/", "/me"
    refusal = "Not logged in."

    @staticmethod
    def send(page: "Page", path: str, body: dict[str, str] | None = None) -> None:
        headers = {"Content-Type": "application/json"}
        status = page.evaluate(
            "([path, body, headers]) => fetch(path, {method: 'POST', body: JSON.stringify(body), headers})"
            ".then(response => response.status)",
            [path, body, headers],
        )
        assert status == 200

    def begin(self, page: "Page") -> None:
        self.send(page, "/cart/ada")

    def log_in(self, page: "Page") -> None:
        self.send(page, "/login", {"name": "ada", "password": "lovelace"})

    def log_out(self, page: "Page") -> None:
        self.send(page, "/logout")


class OnFlask:
    """Pages with forms."""

    command: ClassVar = ["flask", "--app", "examples.flask_app", "run", "--port", "{port}"]
    home = account = "/"
    refusal = "Nobody is logged in"

    def begin(self, page: "Page") -> None:
        page.locator("[action='/add'] input").fill("milk")
        page.get_by_role("button", name="Add").click()
        page.get_by_text("milk").wait_for()

    def log_in(self, page: "Page") -> None:
        page.locator("[action='/login'] [name=name]").fill("ada")
        page.get_by_role("button", name="Log in").click()
        page.get_by_text("ada is logged in").wait_for()

    def log_out(self, page: "Page") -> None:
        page.get_by_role("button", name="Log out", exact=True).click()
        page.get_by_text(self.refusal).wait_for()


@pytest.fixture(params=[OnFastAPI, OnFlask])
def site(request: pytest.FixtureRequest) -> OnFastAPI | OnFlask:
    site: OnFastAPI | OnFlask = request.param()
    return site


@pytest.fixture
def context(browser: "Browser", site: OnFastAPI | OnFlask, tmp_path: Path) -> Iterator["BrowserContext"]:
    store = f"sqlite:///{tmp_path}/sessions.db"
    settings = {"SECRET_KEY": SECRET, "STORE": store, "FLASK_SECRET_KEY": SECRET, "FLASK_ROOMKEY_STORE": store}
    with Running("example", store, tmp_path, command=site.command, settings=settings) as server:
        context = browser.new_context(base_url=server.when_ready())
        context.set_default_timeout(HANGS * 1000)  # milliseconds
        yield context
        context.close()


def text(page: "Page") -> str:
    return page.locator("body").inner_text()


def test_a_user_comes_and_goes(context: "BrowserContext", site: OnFastAPI | OnFlask) -> None:
    """A log-in lasts over a reload, a log-out also holds for the page behind the Back button, and for an old cookie."""
    page = context.new_page()
    page.goto(site.home)
    assert session_cookies(context) == []
    site.begin(page)
    (before,) = session_cookies(context)
    site.log_in(page)
    (copied,) = session_cookies(context)
    assert copied["value"] != before["value"] and copied["httpOnly"] is True and copied["sameSite"] == "Lax"
    assert page.evaluate("document.cookie") == ""
    page.goto(site.account)
    page.reload()
    assert "ada" in text(page) and site.refusal not in text(page)

    site.log_out(page)
    assert session_cookies(context) == []
    page.goto("about:blank")
    page.go_back()
    page.get_by_text(site.refusal).wait_for()
    page.go_back()
    assert "ada" not in text(page)

    for cookie in (before, copied):
        context.add_cookies([{"name": "session", "value": str(cookie["value"]), "url": page.url}])
        page.goto(site.account)
        assert site.refusal in text(page) and "ada" not in text(page)
