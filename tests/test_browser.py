"""The demo shop in a real Chromium: what a person sees, and what the browser really keeps."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from shop_process import ShopProcess

from tests.loop_clock import HANGS

pytest.importorskip("ravyn")
pytest.importorskip("aiosqlite")
playwright_api = pytest.importorskip("playwright.sync_api")

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM_ARGS = [
    "--no-sandbox",  # the tests run as root in containers, and open nothing but 127.0.0.1
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    path = next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    if path is None:
        message = f"No Chromium here (looked for {', '.join(CHROMIUM_NAMES)}): apt-get install chromium"
        if os.environ.get("CI") or (os.geteuid() == 0 and shutil.which("apt-get")):
            pytest.fail(message)  # the Makefile installs it there beforehand
        pytest.skip(message)
    with playwright_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=CHROMIUM_ARGS, timeout=HANGS * 1000)
        yield browser
        browser.close()


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[ShopProcess]:
    process = ShopProcess(tmp_path / "data")
    process.start()
    yield process
    process.close()


@pytest.fixture
def context(browser: "Browser", shop: ShopProcess) -> Iterator["BrowserContext"]:
    context = browser.new_context(base_url=shop.address)
    context.set_default_timeout(HANGS * 1000)  # milliseconds
    yield context
    context.close()


@pytest.fixture
def page(context: "BrowserContext") -> "Page":
    return context.new_page()


def add(page: "Page", name: str) -> None:
    page.goto("/")
    page.get_by_role("button", name=f"Add to the cart: {name}").click()


def log_in(page: "Page") -> None:
    page.goto("/login")
    page.get_by_label("Name").fill("guest")
    page.get_by_label("Password").fill("key")
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("heading", name="Welcome, Greta Guest").wait_for()


def session_cookies(context: "BrowserContext") -> list[dict[str, object]]:
    return [dict(cookie) for cookie in context.cookies() if cookie.get("name") == "session"]


def cart_count(page: "Page") -> str:
    return page.locator("#cart-count").inner_text()


def test_a_stay_from_log_in_to_log_out(shop: ShopProcess, context: "BrowserContext", page: "Page") -> None:
    """Log-in and cart outlive a restart of the server; after logging out, a copy of the old cookie opens nothing."""
    add(page, "Reception bell")
    log_in(page)
    add(page, "Bedside lamp")
    assert cart_count(page) == "2"

    shop.stop()
    shop.start()
    page.goto("/profile")
    page.get_by_role("heading", name="Welcome, Greta Guest").wait_for()
    assert cart_count(page) == "2"

    (copied,) = session_cookies(context)
    page.get_by_role("button", name="Log out").click()
    page.get_by_role("heading", name="Key card handed back").wait_for()
    assert session_cookies(context) == []

    context.add_cookies([{"name": "session", "value": str(copied["value"]), "url": shop.address}])
    response = page.goto("/profile")
    assert response is not None
    assert response.status == 401
    assert cart_count(page) == "0"
    stolen = httpx.get(f"{shop.address}/profile", headers={"cookie": f"session={copied['value']}"}, timeout=HANGS)
    assert stolen.status_code == 401


def test_the_browser_keeps_an_opaque_cookie(context: "BrowserContext", page: "Page") -> None:
    """The cookie is HttpOnly and SameSite=Lax, JavaScript cannot read it, and logging in replaces it."""
    add(page, "Bathrobe")
    (before,) = session_cookies(context)
    log_in(page)
    (after,) = session_cookies(context)
    assert after["httpOnly"] is True
    assert after["sameSite"] == "Lax"
    assert after["path"] == "/"
    assert after["value"] != before["value"]
    assert page.evaluate("document.cookie") == ""
    assert page.locator("#cookie").inner_text() == after["value"]
    assert "'robe': 1" in page.locator("#data").inner_text()


def test_logging_out_in_one_tab_is_seen_in_the_other(context: "BrowserContext", page: "Page") -> None:
    """Two tabs share a session: a log-out in one holds in the other."""
    log_in(page)
    other = context.new_page()
    other.goto("/profile")
    page.get_by_role("button", name="Log out").click()
    page.get_by_role("heading", name="Key card handed back").wait_for()
    other.reload()
    other.get_by_role("heading", name="Please stop at reception").wait_for()


@pytest.mark.parametrize("width", [360, 1280])
def test_pages_fit_the_screen_and_obey_their_policy(browser: "Browser", shop: ShopProcess, width: int) -> None:
    """No page is wider than a phone or a desktop, asks another host for anything, or breaks its own policy."""
    context = browser.new_context(base_url=shop.address, viewport={"width": width, "height": 800})
    context.set_default_timeout(HANGS * 1000)  # milliseconds
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    requested: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    add(page, "Door hanger")
    log_in(page)
    for path in ("/", "/cart", "/login", "/profile", "/goodbye"):
        page.goto(path)
        assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0, path
    assert complaints == []
    assert all(url.startswith(shop.address) for url in requested)
    context.close()
