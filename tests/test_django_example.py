"""examples/django_app.py: the to-do list, as its users start it, and in a browser."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from test_browser import browser  # noqa: F401  # a fixture

from tests.loop_clock import HANGS
from tests.manager.parts import SOURCE
from tests.servers.parts import free_port

pytest.importorskip("django")

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "django_app.py"


class Example:
    """The example in processes of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {
            **os.environ,
            "DJANGO_SECRET_KEY": "k" * 32,
            "DJANGO_DATABASE": str(folder / "django.sqlite3"),
            "DJANGO_SUPERUSER_PASSWORD": "secret",
            "ROOMKEY_STORE": f"sqlite:///{folder}/sessions.db",
            "PYTHONPATH": os.pathsep.join([str(SOURCE), str(ROOT)]),
        }

    def manage(self, *arguments: str) -> str:
        command = [sys.executable, "-m", "examples.django_app", *arguments]
        run = subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=HANGS, check=False
        )
        assert run.returncode == 0, run.stdout + run.stderr
        return run.stdout + run.stderr

    def start(self) -> None:
        migrate, runserver = re.findall(r"^ +python -m examples\.django_app (\w+)$", EXAMPLE.read_text(), re.M)
        self.manage(migrate, "--verbosity", "0")
        self.manage("createsuperuser", "--noinput", "--username", "ann", "--email", "ann@example.com")
        with (self.folder / "log").open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "examples.django_app", runserver, "--noreload", str(self.port)],
                cwd=ROOT,
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + HANGS
        while True:
            try:
                httpx.get(self.url, timeout=HANGS, trust_env=False)
                return
            except httpx.TransportError:
                said = (self.folder / "log").read_text()
                assert self.process.poll() is None and time.monotonic() < deadline, said
                time.sleep(0.05)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(HANGS)


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    example = Example(tmp_path_factory.mktemp("example"))
    example.start()
    yield example
    example.stop()
    assert "Traceback" not in (example.folder / "log").read_text()


@pytest.fixture
def visitor(example):
    with httpx.Client(base_url=example.url, timeout=HANGS, trust_env=False, follow_redirects=True) as client:
        yield client


def post(client, path, **form):
    """Send a form with the token of its page."""
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', client.get("/").text)[1]
    return client.post(path, data={**form, "csrfmiddlewaretoken": token}, headers={"Referer": str(client.base_url)})


def test_the_settings_are_right(example):
    """`check` has nothing to say."""
    assert "no issues" in example.manage("check", "--fail-level", "WARNING")


def test_a_list_survives_the_log_in(visitor):
    """A visitor's list comes along, the message is shown once, and the cookie of before is dead."""
    assert "sessionid" not in visitor.cookies
    post(visitor, "/add", item="milk")
    before = visitor.cookies["sessionid"]
    assert "Wrong name" in post(visitor, "/login", username="ann", password="guessed").text
    page = post(visitor, "/login", username="ann", password="secret", stay="on").text
    assert "Welcome, ann." in page and "<li>milk</li>" in page
    assert "Welcome" not in visitor.get("/").text
    cookie = next(cookie for cookie in visitor.cookies.jar if cookie.name == "sessionid")
    assert cookie.expires is not None  # "stay logged in"
    stale = httpx.get(visitor.base_url, cookies={"sessionid": before}, timeout=HANGS, trust_env=False)
    assert "milk" not in stale.text


def test_log_outs_elsewhere(example, visitor):
    """All of the user's sessions end but this one."""
    post(visitor, "/login", username="ann", password="secret")
    with httpx.Client(base_url=example.url, timeout=HANGS, trust_env=False, follow_redirects=True) as other:
        assert "ann is logged in" in post(other, "/login", username="ann", password="secret").text
        assert "on 1 device(s)" in post(visitor, "/logout-elsewhere").text
        assert "Nobody" in other.get("/").text
    assert "Nobody" in post(visitor, "/logout").text


def cookies_of(context):
    return [cookie for cookie in context.cookies() if cookie["name"] == "sessionid"]


def test_the_example_in_a_browser(example, browser: "Browser"):  # noqa: F811
    """Log in, reload, log out, and back with a copy of the old cookie, which opens nothing."""
    context = browser.new_context(base_url=example.url)
    context.set_default_timeout(HANGS * 1000)  # milliseconds
    page = context.new_page()
    page.goto("/")
    assert cookies_of(context) == []
    page.get_by_label("To do").fill("bread")
    page.get_by_role("button", name="Add").click()
    page.get_by_text("bread").wait_for()
    (before,) = cookies_of(context)
    page.get_by_label("Name").fill("ann")
    page.get_by_label("Password").fill("secret")
    page.get_by_role("button", name="Log in").click()
    page.get_by_text("Welcome, ann.").wait_for()
    (copied,) = cookies_of(context)
    assert copied["value"] != before["value"] and copied["httpOnly"] and copied["sameSite"] == "Lax"
    page.reload()
    page.get_by_text("ann is logged in").wait_for()
    assert page.get_by_text("bread").is_visible()
    page.get_by_role("button", name="Log out", exact=True).click()
    page.get_by_text("Nobody is logged in").wait_for()
    assert cookies_of(context) == []
    context.add_cookies([{"name": "sessionid", "value": copied["value"], "url": example.url}])
    page.goto("/")
    page.get_by_text("Nobody is logged in").wait_for()
    context.close()


def test_the_admin_in_a_browser(example, browser: "Browser"):  # noqa: F811
    """Django's own log-in form, a page behind it, and its log-out."""
    context = browser.new_context(base_url=example.url)
    context.set_default_timeout(HANGS * 1000)  # milliseconds
    page = context.new_page()
    page.goto("/admin/")
    page.get_by_label("Username").fill("ann")
    page.get_by_label("Password").fill("secret")
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("link", name="Users").click()
    page.get_by_role("link", name="ann", exact=True).wait_for()
    (copied,) = cookies_of(context)
    page.get_by_role("button", name="Log out").click()
    page.get_by_text("Thanks for spending some quality time").wait_for()
    context.add_cookies([{"name": "sessionid", "value": copied["value"], "url": example.url}])
    page.goto("/admin/")
    page.get_by_label("Username").wait_for()
    context.close()
