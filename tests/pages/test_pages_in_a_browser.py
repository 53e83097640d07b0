"""The pages in a real Chromium: without scripts, at each width, light and dark, and as a screen reader has them."""

import os
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.loop_clock import HANGS
from tests.pages.parts import FIREFOX, IPHONE
from tests.servers.parts import free_port
from tests.test_browser import browser

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

__all__ = ["browser"]

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = ["/devices/", "/devices/?done=one", "/strict/", "/operators/?user=USER", "/operators/?user=nobody"]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Where the app answers, in a process of its own, with several devices of one user."""
    port = free_port()
    environment = {**os.environ, "SECRET_KEY": "k" * 43, "PYTHONPATH": os.pathsep.join([*sys.path, str(ROOT)])}
    command = [sys.executable, "-m", "uvicorn", "tests.pages.browsed_app:app", "--port", str(port)]
    process = subprocess.Popen([*command, "--log-level", "warning"], cwd=ROOT, env=environment)
    try:
        address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + HANGS
        while True:
            try:
                httpx.post(f"{address}/outage", trust_env=False)
                break
            except httpx.TransportError:
                assert time.monotonic() < deadline and process.poll() is None
                time.sleep(0.05)
        yield address
    finally:
        process.terminate()
        process.wait(HANGS)


@pytest.fixture
def user(address: str, request: pytest.FixtureRequest) -> str:
    """A user who is logged in with a phone and on another computer."""
    user = str(zlib.crc32(request.node.name.encode()))
    for agent in (IPHONE, FIREFOX):
        httpx.get(f"{address}/login", params={"user": user}, headers={"user-agent": agent}, trust_env=False)
    return user


@pytest.fixture
def context(browser: "Browser", address: str) -> Iterator["BrowserContext"]:
    # Without scripts. What a test evaluates runs all the same.
    context = browser.new_context(base_url=address, java_script_enabled=False)
    context.set_default_timeout(HANGS * 1000)  # milliseconds
    yield context
    context.close()


def test_a_device_is_ended_and_then_the_others(context: "BrowserContext", user: str) -> None:
    """It takes a click each, and no script; to load the page again repeats nothing."""
    page = context.new_page()
    page.goto("/devices/")
    page.get_by_role("heading", name="Please log in").wait_for()
    page.get_by_role("link", name="Log in").click()
    assert page.url.endswith("/login?next=/devices/")
    page.goto(f"/login?user={user}")
    page.goto("/devices")
    devices = page.get_by_role("listitem")
    assert devices.count() == 2
    page.get_by_role("button", name="End session: Safari on iPhone").click()
    page.get_by_role("status").filter(has_text="The session has ended.").wait_for()
    assert devices.count() == 1
    page.reload()
    assert devices.count() == 1
    page.get_by_role("button", name="End all others").click()
    page.get_by_role("status").filter(has_text="Sessions ended: 1").wait_for()
    page.get_by_text("You are logged in on this device only.").wait_for()


def test_an_operator_with_the_keyboard_alone(context: "BrowserContext", user: str) -> None:
    """The skip link comes first; a search is typed, and a session is ended with the Enter key."""
    page = context.new_page()
    page.goto("/login?user=1")
    page.goto("/operators/")
    page.keyboard.press("Tab")
    assert page.locator(":focus").inner_text() == "Skip to the content"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.type(user)
    page.keyboard.press("Enter")
    page.get_by_role("heading", name=f"Sessions of {user}").wait_for()
    page.get_by_role("button", name="End session: Firefox on Windows").press("Enter")
    page.get_by_role("status").filter(has_text="The session has ended.").wait_for()
    assert page.get_by_label("User ID").input_value() == user


SCREENS = [
    (320, "light", "de"),
    (320, "dark", "en"),
    (390, "light", "en"),
    (390, "dark", "de"),
    (1280, "light", "de"),
    (1280, "dark", "en"),
]


@pytest.mark.parametrize(("width", "scheme", "language"), SCREENS)
def test_it_fits_and_is_accessible(
    browser: "Browser", address: str, user: str, width: int, scheme: Any, language: str
) -> None:
    """No page is wider than its screen or breaks its policy, and axe-core finds nothing in any of them."""
    axe_package = pytest.importorskip("axe_playwright_python")
    axe = (files(axe_package) / "axe.min.js").read_text()
    context = browser.new_context(
        base_url=address, viewport={"width": width, "height": 800}, color_scheme=scheme, locale=language
    )
    context.set_default_timeout(HANGS * 1000)  # milliseconds
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    for path in ("/devices/", "/operators/"):  # a visitor's 401 and 403
        page.goto(path)
        assert checked(page, axe) == [], path
    complaints.clear()  # that these were no 200
    page.goto(f"/login?user={user}")
    for path in PAGES:
        page.goto(path.replace("USER", user))
        for summary in page.locator("summary").all():
            summary.click()
        assert page.evaluate("document.documentElement.lang") == language
        assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0, path
        assert checked(page, axe) == [], path
        seen(page, f"{path.strip('/').replace('/?', '-')}-{width}-{scheme}-{language}")
    assert [text for text in complaints if "favicon" not in text and "404" not in text] == []
    context.close()


def checked(page: "Page", axe: str) -> list[tuple[str, Any]]:
    """Return what axe-core finds: the rule, and where."""
    page.evaluate(axe)
    found = page.evaluate("axe.run()")
    return [(each["id"], [node["target"] for node in each["nodes"]]) for each in found["violations"]]


def seen(page: "Page", name: str) -> None:
    """Take a picture for people to look at, where `ROOMKEY_PICTURES` names a folder for them."""
    folder = os.environ.get("ROOMKEY_PICTURES")
    if folder:
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)
