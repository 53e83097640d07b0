"""CSRF tokens of visitors in a real Chromium, over HTTPS: no subdomain and no plain HTTP plants their cookie."""

import os
import shutil
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.loop_clock import HANGS
from tests.servers.parts import free_port, make_certificate
from tests.test_browser import CHROMIUM_ARGS, CHROMIUM_NAMES, playwright_api

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page

ROOT = Path(__file__).resolve().parent.parent
SHOP, EVIL = "shop.test", "evil.shop.test"
COOKIE = "__Host-session-csrf"


class Servers:
    """The app over HTTPS and over plain HTTP, each in a process of its own."""

    def __init__(self, directory: Path) -> None:
        self._certificate, self._key = directory / "certificate.pem", directory / "key.pem"
        make_certificate(self._certificate, self._key)
        self.secure, self.plain = free_port(), free_port()
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        environment = {**os.environ, "SECRET_KEY": "k" * 32, "PYTHONPATH": os.pathsep.join([*sys.path, str(ROOT)])}
        tls = ["--ssl-certfile", str(self._certificate), "--ssl-keyfile", str(self._key)]
        for port, more in ((self.secure, tls), (self.plain, [])):
            command = [sys.executable, "-m", "uvicorn", "tests.visitors_app:app", "--port", str(port)]
            command += ["--log-level", "warning", *more]
            self._running.append(subprocess.Popen(command, cwd=ROOT, env=environment))
        deadline = time.monotonic() + HANGS
        trust = ssl.create_default_context(cafile=str(self._certificate))
        for url in (f"https://127.0.0.1:{self.secure}/form", f"http://127.0.0.1:{self.plain}/form"):
            while True:
                try:
                    httpx.get(url, verify=trust, trust_env=False)
                    break
                except httpx.TransportError:
                    assert time.monotonic() < deadline
                    time.sleep(0.05)

    def visit(self) -> tuple[str, str]:
        """Return the cookie and the token that an attacker gets."""
        trust = ssl.create_default_context(cafile=str(self._certificate))
        answer = httpx.get(f"https://127.0.0.1:{self.secure}/form", verify=trust, trust_env=False)
        return answer.cookies[COOKIE], answer.text.partition('value="')[2].partition('"')[0]

    def close(self) -> None:
        for process in self._running:
            process.terminate()
            process.wait(HANGS)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    servers = Servers(tmp_path_factory.mktemp("tls"))
    try:
        servers.start()
        yield servers
    finally:
        servers.close()


@pytest.fixture
def context(servers: Servers) -> Iterator["BrowserContext"]:
    path = next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    if path is None:
        pytest.skip("no Chromium here: test_browser.py says what to install")
    args = [*CHROMIUM_ARGS, "--host-resolver-rules=MAP *.test 127.0.0.1"]
    with playwright_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=args, timeout=HANGS * 1000)
        context = browser.new_context(ignore_https_errors=True)
        context.set_default_timeout(HANGS * 1000)  # milliseconds
        yield context
        browser.close()


@pytest.fixture
def page(context: "BrowserContext") -> "Page":
    return context.new_page()


def cookies(context: "BrowserContext") -> list[str]:
    return sorted(str(cookie["name"]) for cookie in context.cookies())


def send(page: "Page", token: str | None = None) -> str:
    """Send the form that is open, with another token where one is given; return the answer."""
    if token is not None:
        page.fill("#csrf", token)
    page.get_by_role("button", name="Send").click()
    page.wait_for_url("**/act")
    return page.locator("body").inner_text()


def test_a_form_of_a_visitor(servers: Servers, context: "BrowserContext", page: "Page") -> None:
    """It works, without a session; after a log-in, and after the log-out, the form from before does not."""
    shop = f"https://{SHOP}:{servers.secure}"
    page.goto(f"{shop}/form")
    assert cookies(context) == [COOKIE]
    assert send(page) == "done"
    page.goto(f"{shop}/form")
    other = context.new_page()
    other.goto(f"{shop}/login")
    assert cookies(context) == ["session"]
    token = page.input_value("#csrf")
    assert send(page) == "refused"
    other.goto(f"{shop}/logout")
    assert cookies(context) == []
    page.goto(f"{shop}/form")
    assert send(page, token) == "refused"


@pytest.mark.parametrize("has_one", [False, True], ids=["new", "with a cookie"])
@pytest.mark.parametrize("by", ["a subdomain", "plain HTTP"])
def test_nobody_plants_the_cookie(
    servers: Servers, context: "BrowserContext", page: "Page", by: str, has_one: bool
) -> None:
    """Whoever holds a subdomain, or the network, sets it in every way, and their token is good for nothing."""
    value, token = servers.visit()
    shop = f"https://{SHOP}:{servers.secure}"
    toss = {
        "a subdomain": f"https://{EVIL}:{servers.secure}/toss?domain={SHOP}&value={value}",
        "plain HTTP": f"http://{SHOP}:{servers.plain}/toss?domain={SHOP}&value={value}",
    }
    if has_one:
        page.goto(f"{shop}/form")
    page.goto(toss[by])
    assert page.locator("body").inner_text() == "tossed"
    assert "unprotected" in [cookie.get("name") for cookie in context.cookies(shop)]
    page.goto(f"{shop}/form")
    own = page.input_value("#csrf")
    assert send(page, token) == "refused"
    page.goto(f"{shop}/form")
    assert send(page, own) == "done"
