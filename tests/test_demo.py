"""The command `roomkey serve-demo`, and the strip that its shop shows, in a real Chromium."""

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from shop_process import ShopProcess
from test_browser import add, browser, log_in  # noqa: F401  # the fixture

from tests.loop_clock import HANGS

pytest.importorskip("ravyn")
pytest.importorskip("aiosqlite")
pytest.importorskip("playwright")

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[ShopProcess]:
    process = ShopProcess(tmp_path / "data")
    process.start()
    yield process
    process.close()


def opened(browser: "Browser", shop: ShopProcess, **options: Any) -> "Page":  # noqa: F811
    """Return a page of a browser of its own."""
    context = browser.new_context(base_url=shop.address, **options)
    context.set_default_timeout(HANGS * 1000)  # milliseconds
    return context.new_page()


def told(page: "Page") -> list[str]:
    """Return what the strip says: a line for each request."""
    return page.locator("#step li").all_inner_texts()


def test_the_strip_tells_of_a_stay(browser: "Browser", shop: ShopProcess) -> None:  # noqa: F811
    """It says what a first visit, the cart, a log-in, a log-in again and a log-out did in browser and store."""
    page = opened(browser, shop)
    page.goto("/")
    assert told(page) == ["GET / No cookie came. Store: not asked."]
    add(page, "Bathrobe")
    assert told(page) == [
        "POST /cart/add No cookie came. A session began. Store: 1 create. The browser gets a new cookie, for 4 hours.",
        "GET / Cookie verified. Store: 1 load, 1 update.",
    ]
    assert page.get_by_role("status").inner_text() == "In your cart: Bathrobe"
    page.reload()
    assert told(page) == ["GET / Cookie verified. Store: 1 load."]
    assert page.get_by_role("status").count() == 0

    log_in(page)
    assert told(page)[0] == (
        "POST /login Cookie verified. The session got a new ID: the log-in. Store: 1 load, 1 rotation. "
        "The browser gets a new cookie, for 4 hours."
    )
    page.get_by_role("button", name="Log out").click()
    gone, after = told(page)
    assert gone.startswith("POST /logout Cookie verified. A session ended: log-out. Store: 1 load, ")
    assert gone.endswith("The browser drops its cookie.")
    assert after == "GET /goodbye No cookie came. Store: not asked."


def test_a_remembered_log_in(browser: "Browser", shop: ShopProcess) -> None:  # noqa: F811
    """With "Remember me" the strip says that the browser keeps its cookie for 14 days."""
    page = opened(browser, shop)
    page.goto("/login")
    page.get_by_label("Remember me").check()
    page.get_by_label("Name").fill("guest")
    page.get_by_label("Password").fill("key")
    page.get_by_role("button", name="Log in").click()
    assert told(page)[0].endswith("The browser gets a new cookie, for 14 days.")


def test_the_bill_asks_for_a_recent_log_in(browser: "Browser", shop: ShopProcess) -> None:  # noqa: F811
    """Eleven minutes after the log-in the bill is refused. Another log-in gives a new ID, and opens it."""
    page = opened(browser, shop)
    log_in(page)
    page.goto("/bill")
    page.get_by_role("heading", name="Your bill, Greta Guest").wait_for()
    shop.move_on(660)
    response = page.goto("/bill")
    assert response is not None and response.status == 403
    log_in(page)
    assert "The session got a new ID: the password was asked for again." in told(page)[0]
    response = page.goto("/bill")
    assert response is not None and response.status == 200


def test_a_revoked_session(browser: "Browser", shop: ShopProcess) -> None:  # noqa: F811
    """The browser that ends another's session is told so, and so is the other one at its next request."""
    page, other = opened(browser, shop), opened(browser, shop)
    log_in(page)
    log_in(other)
    other.goto("/account/devices/")
    other.get_by_role("button", name="End all others").click()
    assert "A session ended: it was revoked." in " ".join(told(other))
    page.goto("/")
    assert told(page) == ["GET / Cookie refused: its session has ended. Store: 1 load."]


@pytest.mark.parametrize("how", ["log-out", "revocation"])
def test_a_second_window_hears_of_the_end(browser: "Browser", shop: ShopProcess, how: str) -> None:  # noqa: F811
    """A page that is open in another window says that the guest was logged out elsewhere, and nothing before that."""
    page = opened(browser, shop)
    log_in(page)
    second = page.context.new_page()
    with second.expect_response("**/live"):
        second.goto("/cart")
    word = second.get_by_text("You were logged out elsewhere.")
    assert word.is_hidden()
    if how == "log-out":
        page.get_by_role("button", name="Log out").click()
        page.get_by_role("heading", name="Key card handed back").wait_for()
    else:
        other = opened(browser, shop)
        log_in(other)
        assert word.is_hidden()
        other.goto("/account/devices/")
        other.get_by_role("button", name="End all others").click()
    word.wait_for()
    second.get_by_role("link", name="Log in again").click()
    second.get_by_role("heading", name="Log in").wait_for()


@pytest.mark.parametrize(("width", "scheme"), [(320, "light"), (1280, "dark")])
def test_it_fits_and_is_accessible(browser: "Browser", shop: ShopProcess, width: int, scheme: Any) -> None:  # noqa: F811
    """No page of the demo is wider than its screen, and axe-core finds nothing in any of them."""
    axe = (files(pytest.importorskip("axe_playwright_python")) / "axe.min.js").read_text()
    page = opened(browser, shop, viewport={"width": width, "height": 800}, color_scheme=scheme)
    add(page, "Bathrobe")
    page.goto("/login")
    page.get_by_label("Name").fill("manager")
    page.get_by_label("Password").fill("master")
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("heading", name="Welcome, Marcel Manager").wait_for()
    for path in ("/profile", "/", "/cart", "/login", "/bill", "/goodbye", "/nowhere", "/account/devices/", "/manager/"):
        page.goto(path)
        assert len(told(page)) == 1, path
        assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0, path
        page.evaluate(axe)
        found = page.evaluate("axe.run()")["violations"]
        assert [(each["id"], [node["target"] for node in each["nodes"]]) for each in found] == [], path


def test_it_says_where_its_key_is_from(tmp_path: Path) -> None:
    """The first start says that it made a key, the next one that it took it. The key itself is never printed."""
    shop = ShopProcess(tmp_path / "data")
    for said in ("a new one was made", "from"):
        shop.start()
        output = shop.greeting + shop.stop()  # which asserts that the exit code is 0
        assert f"Key: {said}" in output
        assert "Closed for the night." in output
        assert (tmp_path / "data" / "secret-key").read_text() not in output


@pytest.mark.parametrize("missing", ["ravyn", "jinja2", "sqlalchemy", "aiosqlite", "uvicorn"])
def test_what_is_not_installed_is_named(missing: str) -> None:
    """One line names the package that is missing, and the pip command that brings it."""
    code = f"import sys; sys.modules[{missing!r}] = None; import roomkey.cli; roomkey.cli.main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "serve-demo"], capture_output=True, text=True, timeout=HANGS, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: the demo needs ") and "pip install 'roomkey[demo]'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_wrong_store(tmp_path: Path) -> None:
    """A URL that names no store ends the command with 2 and one line."""
    command = [sys.executable, "-m", "roomkey", "serve-demo", "--store", "floppy://disk"]
    environment = {**os.environ, "ROOMKEY_DEMO_DATA": str(tmp_path / "data")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=HANGS, check=False)
    assert done.returncode == 2
    assert "floppy" in done.stderr and "Traceback" not in done.stderr


def test_every_page_names_its_picture(browser: "Browser", shop: ShopProcess) -> None:  # noqa: F811
    """The browser asks for no `favicon.ico`, which the shop does not have."""
    page = opened(browser, shop)
    page.goto("/login")
    page.get_by_label("Name").fill("manager")
    page.get_by_label("Password").fill("master")
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("heading", name="Welcome, Marcel Manager").wait_for()
    for path in ("/", "/account/devices", "/manager", "/nowhere"):
        page.goto(path)
        icons = page.locator("link[rel=icon]").evaluate_all("links => links.map(each => each.getAttribute('href'))")
        assert icons == ["/static/key.svg"], path
