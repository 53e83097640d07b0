"""The recipes of docs/howto-starlette.md, each as its users start it: a uvicorn process, spoken to over HTTP."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
import socketio
from websockets.sync.client import connect

from tests.loop_clock import HANGS
from tests.manager.parts import SOURCE
from tests.servers.parts import free_port

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "howto-starlette.md").read_text()
RECIPES = dict(re.findall(r"Save this as `(\w+)\.py`\.\n\n```python\n(.*?)^```", PAGE, re.M | re.S))


class Site:
    """A uvicorn process with one recipe, and a browser that visits it.

    Args:
        folder: where it runs.
        name: of the recipe.
        changes: what to write in the place of a text of the recipe, for another way to the same.
    """

    def __init__(self, folder: Path, name: str, changes: dict[str, str]) -> None:
        recipe = RECIPES[name]
        for old, new in changes.items():
            assert old in recipe
            recipe = recipe.replace(old, new)
        (folder / f"{name}.py").write_text(recipe)
        self.folder, self.port = folder, free_port()
        self.notes = 0  # lines of Roomkey's in the log that are expected
        self.url = f"http://127.0.0.1:{self.port}"
        with (folder / "log").open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "uvicorn", "--port", str(self.port), "tests.starlette_site:app"],
                cwd=folder,
                env={
                    **os.environ,
                    "RECIPE": name,
                    "SECRET_KEY": "k" * 43,
                    "GRADIO_ANALYTICS_ENABLED": "False",
                    "PYTHONPATH": os.pathsep.join([str(SOURCE), str(ROOT), str(folder)]),
                },
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.browser = httpx.Client(base_url=self.url, timeout=HANGS, trust_env=False, follow_redirects=True)

    def wait(self) -> None:
        """Return once it serves requests."""
        deadline = time.monotonic() + HANGS
        while "Uvicorn running" not in self.said():
            assert self._process.poll() is None and time.monotonic() < deadline, self.said()
            time.sleep(0.05)

    def said(self) -> str:
        return (self.folder / "log").read_text()

    def session(self) -> dict[str, object]:
        return self.browser.get("/session").json()

    def cookies(self) -> set[str]:
        return {cookie.name for cookie in self.browser.cookies.jar}

    def ends(self, log_out) -> None:
        """See that a log-out ends the session, here and for everybody who copied its cookie."""
        copied = {"cookie": f"session={self.browser.cookies['session']}"}
        assert httpx.get(f"{self.url}/session", headers=copied, trust_env=False).json()["user_id"]
        log_out()
        assert "user_id" not in self.session()
        assert httpx.get(f"{self.url}/session", headers=copied, trust_env=False).json() == {}

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(HANGS)
        self.browser.close()
        assert "Traceback" not in self.said() and self.said().count("(said once)") == self.notes, self.said()


@pytest.fixture
def start(tmp_path):
    """Returns a function that starts a recipe."""
    sites = []

    def begin(name, changes=None):
        sites.append(Site(tmp_path, name, changes or {}))
        sites[-1].wait()
        return sites[-1]

    yield begin
    for site in sites:
        site.close()


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_short(name):
    """Each has under 20 lines of code."""
    assert len([line for line in RECIPES[name].splitlines() if line.strip()]) < 20


def test_fasthtml(start):
    """A handler's `session` is the app's, also for a WebSocket, and FastHTML writes no key of its own."""
    site = start("fasthtml_app")
    answer = site.browser.get("/")
    assert "Hello stranger" in answer.text and "set-cookie" not in answer.headers
    assert "Welcome" in site.browser.post("/login/ada").text
    assert "Hello ada" in site.browser.get("/").text
    assert site.session() == {"user_id": "ada"}
    assert site.cookies() == {"session"}
    cookie = {"Cookie": f"session={site.browser.cookies['session']}"}
    with connect(f"ws://127.0.0.1:{site.port}/chat", additional_headers=cookie, open_timeout=HANGS) as socket:
        socket.send("{}")
        assert socket.recv(timeout=HANGS) == "Hello ada"
    site.ends(lambda: site.browser.post("/logout"))
    assert not (site.folder / ".sesskey").exists()


STARLETTES = {
    "app.add_middleware(SessionMiddleware, config=manager)": (
        "from starlette.middleware.sessions import SessionMiddleware as Starlettes\n"
        'app.add_middleware(Starlettes, secret_key=os.environ["SECRET_KEY"])'
    ),
    ', storage_secret=os.environ["SECRET_KEY"]': "",  # NiceGUI finds the app's class, and takes its key
}


@pytest.mark.parametrize("changes", [{}, STARLETTES], ids=["the recipe", "with Starlette's class"])
async def test_nicegui(start, changes):
    """`app.storage.browser` is the app's session, and the page's WebSocket opens."""
    site = start("nicegui_app", changes)
    page = site.browser.get("/").text
    assert "Hello stranger" in page
    before = site.session()
    assert set(before) == {"id"}
    site.browser.post("/login/ada")
    assert "Hello ada" in site.browser.get("/").text
    assert site.session() == {**before, "user_id": "ada"}
    assert site.cookies() == {"session"}
    await _shake_hands(site, page)
    site.ends(lambda: site.browser.post("/logout"))
    assert "Hello stranger" in site.browser.get("/").text
    assert site.session()["id"] != before["id"]


async def _shake_hands(site, page):
    """Do what the page's script does: open a WebSocket, and name the page."""
    client = re.search(r"[\"']client_id[\"']:\s*[\"']([\w-]+)[\"']", page.replace("&quot;", '"'))[1]
    told = {"client_id": client, "tab_id": "tab", "document_id": "document", "next_message_id": 0}
    cookie = {"Cookie": f"session={site.browser.cookies['session']}"}
    async with socketio.AsyncSimpleClient() as socket:
        path = "/_nicegui_ws/socket.io"
        await socket.connect(
            f"{site.url}?client_id={client}", headers=cookie, transports=["websocket"], socketio_path=path
        )
        assert await socket.call("handshake", told, timeout=HANGS) is True


def test_sqladmin(start):
    """A log-in at the admin page is one of the site, and the other way round, and so is a log-out."""
    site = start("sqladmin_app")
    assert site.browser.get("/admin/").url.path == "/admin/login"
    site.browser.post("/admin/login", data={"username": "eve", "password": ""})
    assert site.session() == {"user_id": "eve"}
    assert site.browser.get("/admin/").url.path == "/admin/login"  # logged in, and no admin
    site.browser.post("/enter/ada")
    assert site.browser.get("/admin/").url.path == "/admin/"
    assert site.cookies() == {"session"}
    site.ends(lambda: site.browser.get("/admin/logout"))
    assert site.browser.get("/admin/").url.path == "/admin/login"


def test_starlette_admin(start):
    """A log-in at the admin page is one of the site, and the other way round, and so is a log-out."""
    _visit_starlette_admin(start("starlette_admin_app"))


def test_starlette_admin_with_a_middleware_of_its_own(start):
    """One that is given Starlette's middleware, under a key of its own, shares the session of the site too."""
    own = (
        "from starlette.middleware import Middleware\n"
        "BaseAdmin(middlewares=[Middleware(SessionMiddleware, secret_key=secret)], auth_provider"
    )
    _visit_starlette_admin(start("starlette_admin_app", {"BaseAdmin(auth_provider": own}))


def _visit_starlette_admin(site):
    assert site.browser.get("/admin/").url.path == "/admin/login"
    token = {"X-CSRFToken": site.browser.cookies["starlette_admin_csrftoken"]}
    site.browser.post("/admin/login", data={"username": "eve", "password": ""}, headers=token)
    assert site.session() == {"user_id": "eve"}
    assert site.browser.get("/admin/").url.path == "/admin/login"  # logged in, and no admin
    site.browser.post("/enter/ada")
    assert site.browser.get("/admin/").url.path == "/admin/"
    assert site.cookies() == {"session", "starlette_admin_csrftoken"}
    site.ends(lambda: site.browser.post("/admin/logout", headers=token))
    assert site.browser.get("/admin/").url.path == "/admin/login"


def test_gradio(start):
    """The site's log-in opens the page, and Gradio's own log-in and log-out change nothing but their key."""
    site = start("gradio_app")
    site.notes = 1  # Gradio's own key gives way
    assert site.browser.get("/gradio/config").status_code == 401
    site.browser.post("/login/ada")
    assert site.browser.get("/gradio/config").status_code == 200
    assert _call(site, "/gradio", "hello") == ["Hello ada"]
    assert _call(site, "/hub", "who") == ["nobody"]
    site.browser.get("/hub/login/callback", follow_redirects=False)
    assert _call(site, "/hub", "who") == ["grace"]
    assert set(site.session()) == {"user_id", "oauth_info"}
    assert site.cookies() == {"session"}
    site.browser.get("/hub/logout", follow_redirects=False)
    assert _call(site, "/hub", "who") == ["nobody"]
    assert site.session() == {"user_id": "ada"}
    site.browser.get("/hub/login/callback", follow_redirects=False)
    site.ends(lambda: site.browser.post("/leave"))
    assert _call(site, "/hub", "who") == ["nobody"]
    assert site.browser.get("/gradio/config").status_code == 401


def _call(site, path, name):
    """Call a function of a Gradio page as Gradio's clients do, and return what it gave."""
    called = site.browser.post(f"{path}/gradio_api/call/{name}", json={"data": []}).json()
    said = site.browser.get(f"{path}/gradio_api/call/{name}/{called['event_id']}").text
    event, data = said.strip().splitlines()[-2:]
    assert event == "event: complete", said
    return json.loads(data.removeprefix("data: "))
