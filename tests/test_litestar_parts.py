"""Litestar's other parts with `RoomkeyPlugin`: flash messages, `SessionAuth`, test clients, OpenAPI, the commands."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from litestar import Litestar, Request, WebSocket, get, post, websocket
from litestar.config.response_cache import ResponseCacheConfig
from litestar.contrib.jinja import JinjaTemplateEngine
from litestar.exceptions import ImproperlyConfiguredException, WebSocketDisconnect
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.spec import Components, SecurityScheme
from litestar.plugins.flash import FlashConfig, FlashPlugin, flash
from litestar.response import Template
from litestar.security.session_auth import SessionAuth
from litestar.template import TemplateConfig
from litestar.testing import AsyncTestClient, TestClient

from roomkey import Session, SessionManager
from roomkey.litestar import RoomkeyPlugin
from tests.litestar_site import SECRET, STORY, browser, plugin
from tests.loop_clock import HANGS
from tests.manager.parts import SOURCE

# --- flash messages ---------------------------------------------------------------------------------------------------


def test_litestars_flash_messages(tmp_path):
    """A message that one page leaves is shown once by the next one, and an empty session is none."""
    (tmp_path / "page.html").write_text(
        "{% for each in get_flashes() %}{{ each.category }}: {{ each.message }}{% endfor %}"
    )
    templates = TemplateConfig(directory=tmp_path, engine=JinjaTemplateEngine)

    @post("/leave")
    async def leave(request: Request) -> None:
        flash(request, "saved", "info")

    @get("/page")
    async def page() -> Template:
        return Template("page.html")

    roomkey = plugin()
    plugins = [roomkey, FlashPlugin(FlashConfig(template_config=templates))]
    app = Litestar([leave, page], plugins=plugins, template_config=templates)
    with TestClient(app, session_config=roomkey.backend_config) as client:
        assert client.get("/page").text == ""
        client.post("/leave")
        assert client.get_session_data() == {"_messages": [{"message": "saved", "category": "info"}]}
        assert client.get("/page").text == "info: saved"
        assert "session" not in client.cookies
        assert client.get("/page").text == ""


def test_flash_plugin_comes_after(tmp_path):
    """`FlashPlugin` looks for a session middleware when it is its turn: before Roomkey's there is none."""
    templates = TemplateConfig(directory=tmp_path, engine=JinjaTemplateEngine)
    with pytest.raises(ImproperlyConfiguredException, match="require a session middleware"):
        Litestar(plugins=[FlashPlugin(FlashConfig(template_config=templates)), plugin()])


# --- SessionAuth ------------------------------------------------------------------------------------------------------

USERS = {7: "ada", 8: "bob"}


@dataclasses.dataclass
class User:
    name: str


def guarded(users, *, roomkey=None, **options):
    """Return a client of an app behind `SessionAuth`. `users`: who is in the database."""
    roomkey = roomkey or plugin()

    async def user_of(session: Session, connection: Any) -> User | None:
        name = users.get(session.get("user_id"))
        return None if name is None else User(name)

    @post("/login/{user:int}", exclude_from_auth=True)
    async def log_in(request: Request, user: int) -> None:
        request.set_session({"user_id": user})

    @get("/me")
    async def me(request: Request) -> str:
        return request.user.name

    @post("/logout")
    async def log_out(request: Request) -> None:
        request.clear_session()

    @get("/look", exclude_from_auth=True)
    async def look(request: Request) -> dict[str, Any]:
        return request.session

    @websocket("/ws")
    async def ws(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text(socket.user.name)
        await socket.close()

    auth = SessionAuth(session_backend_config=roomkey.backend_config, retrieve_user_handler=user_of)
    options = {"plugins": [roomkey], **options}
    app = Litestar([log_in, me, log_out, look, ws], on_app_init=[auth.on_app_init], **options)
    return TestClient(app, session_config=roomkey.backend_config)


@pytest.mark.parametrize("plugins", ["with", "without"])
def test_session_auth(plugins, caplog):
    """It takes the plugin's `backend_config`, and works with the plugin in the app or alone."""
    with guarded(USERS, **({} if plugins == "with" else {"plugins": []})) as client:
        answer = client.get("/me")
        assert answer.status_code == 401 and "set-cookie" not in answer.headers
        client.post("/login/7")
        assert client.get("/me").text == "ada"
        with client.websocket_connect("/ws") as socket:
            assert socket.receive_text() == "ada"
        before = client.cookies["session"]
        client.post("/login/8")
        assert client.get("/me").text == "bob" and client.cookies["session"] != before
        copied = client.cookies["session"]
        client.post("/logout")
        assert client.get("/me", headers={"cookie": f"session={copied}"}).status_code == 401
        with pytest.raises(WebSocketDisconnect), client.websocket_connect("/ws"):
            pass
    assert [record for record in caplog.records if record.name.startswith("roomkey")] == []


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize("plugins", ["with", "without"])
def test_session_auth_ends_the_session_of_a_user_that_there_is_not(kind, plugins, caplog):
    """A session whose user is gone from the database ends with the first request that needs the user."""
    users = dict(USERS)
    with guarded(users, **({} if plugins == "with" else {"plugins": []})) as client:
        client.post("/login/7")
        copied = {"cookie": f"session={client.cookies['session']}"}
        del users[7]
        assert client.get("/look").json() == {"user_id": 7}
        if kind == "http":
            answer = client.get("/me")
            assert answer.status_code == 401 and "Max-Age=0" in answer.headers["set-cookie"]
        else:
            with pytest.raises(WebSocketDisconnect), client.websocket_connect("/ws"):
                pass
        users[7] = "ada again"
        assert client.get("/look", headers=copied).json() == {}
    assert [record for record in caplog.records if record.name.startswith("roomkey")] == []


def test_session_auth_with_a_store_that_is_down():
    """It is a 503, and nobody's session ends."""
    roomkey = plugin()
    with guarded(USERS, roomkey=roomkey) as client:
        client.post("/login/7")
        roomkey.manager.config.store.down = True
        assert client.get("/me").status_code == 503
        roomkey.manager.config.store.down = False
        assert client.get("/me").text == "ada"


# --- test clients -----------------------------------------------------------------------------------------------------


def test_the_test_clients_session_data():
    """`set_session_data` replaces the content, a log-in changes the ID, and nothing ends the session."""
    with browser(*STORY) as client:
        assert client.get_session_data() == {}
        client.set_session_data({"cart": ["tea"]})
        before = client.cookies["session"]
        client.set_session_data({"user_id": 7, "cart": ["tea"]})
        assert client.cookies["session"] != before
        assert client.get("/").json() == {"user_id": 7, "cart": ["tea"]}
        client.post("/write/a")
        assert client.get_session_data() == {"user_id": 7, "cart": ["tea"], "a": 1, "n": 1}
        assert type(client.get_session_data()) is dict
        client.set_session_data({})
        assert client.get("/").json() == client.get_session_data() == {}


def test_session_data_before_the_app_starts():
    """A test may set them without `with`, over a file, and the app's own loop finds them."""
    client = browser(*STORY)
    client.set_session_data({"user_id": 7})
    assert client.get("/").json() == {"user_id": 7}


@pytest.mark.parametrize("url", ["sqlite", "cookie"])
async def test_the_asynchronous_client(url, tmp_path):
    """The same, awaited: over a file, and where the cookie holds all of it."""
    roomkey = plugin(store="cookie://" if url == "cookie" else f"sqlite:///{tmp_path}/sessions.db")
    app = Litestar(STORY, plugins=[roomkey])
    async with AsyncTestClient(app, session_config=roomkey.backend_config) as client:
        await client.set_session_data({"user_id": 7})
        assert (await client.get("/")).json() == {"user_id": 7}
        await client.post("/write/a")
        assert await client.get_session_data() == {"user_id": 7, "a": 1, "n": 1}


# --- OpenAPI ----------------------------------------------------------------------------------------------------------

COOKIE = {
    "type": "apiKey",
    "name": "our_cookie",
    "in": "cookie",
    "description": "The session cookie. A log-in sets it, and the browser sends it by itself.",
}


@pytest.mark.parametrize("given", [None, "one", "list"])
def test_the_cookie_is_a_security_scheme(given):
    """The document names the cookie, beside the app's own schemes. Operations have a lock where they ask for it."""

    @get("/me", security=[{"sessionCookie": []}])
    async def me() -> None: ...

    own = Components(security_schemes={"own": SecurityScheme(type="http", scheme="basic")})
    components = {None: Components(), "one": own, "list": [own]}[given]
    config = OpenAPIConfig("Shop", "1", components=components)
    app = Litestar([me, *STORY], plugins=[plugin(session_cookie="our_cookie")], openapi_config=config)
    document = app.openapi_schema.to_schema()
    schemes = document["components"]["securitySchemes"]
    assert schemes.pop("sessionCookie") == COOKIE
    assert schemes == ({} if given is None else {"own": {"type": "http", "scheme": "basic"}})
    assert document["paths"]["/me"]["get"]["security"] == [{"sessionCookie": []}]
    assert "security" not in document["paths"]["/"]["get"]
    assert config.components is components and components in (Components(), own, [own])


def test_apps_have_their_own_documents():
    """Two apps with the default document name each its own cookie, and an app without a document needs none."""
    one, two = (
        Litestar(STORY, plugins=[plugin(session_cookie=name)]).openapi_schema.to_schema() for name in ("one", "two")
    )
    names = [each["components"]["securitySchemes"]["sessionCookie"]["name"] for each in (one, two)]
    assert names == ["one", "two"]
    with browser(*STORY, openapi_config=None) as client:
        assert client.get("/").status_code == 200


def test_session_auth_has_the_same_scheme():
    """`SessionAuth` calls it `sessionCookie` too: the document has it once, with the cookie's name."""
    document = guarded(USERS, roomkey=plugin(session_cookie="our_cookie")).app.openapi_schema.to_schema()
    assert document["components"]["securitySchemes"].keys() == {"sessionCookie"}
    assert document["components"]["securitySchemes"]["sessionCookie"]["name"] == "our_cookie"


# --- a cached page ----------------------------------------------------------------------------------------------------


def test_litestars_response_cache_keeps_no_cookie():
    """What Litestar's cache keeps is without the session's headers: nobody gets another user's cookie from it."""

    @get("/cached", cache=True)
    async def cached(session: Session) -> str:
        session["n"] = 1
        return "page"

    with browser(cached, response_cache_config=ResponseCacheConfig(default_expiration=60)) as client:
        assert "set-cookie" in client.get("/cached").headers
        client.cookies.clear()
        answer = client.get("/cached")
        assert answer.text == "page" and "set-cookie" not in answer.headers


# --- litestar sessions ------------------------------------------------------------------------------------------------

APP = """
import os
from litestar import Litestar
from roomkey.litestar import RoomkeyPlugin
app = Litestar(plugins=[RoomkeyPlugin(secret_key="k" * 32, store=os.environ["STORE"])])
"""


def command(folder: Path, *arguments: str) -> str:
    (folder / "site_app.py").write_text(APP)
    run = subprocess.run(
        [sys.executable, "-m", "litestar", "--app", "site_app:app", "sessions", *arguments],
        cwd=folder,
        input="y\n",
        env={**os.environ, "STORE": f"sqlite:///{folder}/sessions.db", "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        timeout=HANGS,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


@pytest.mark.parametrize("which", ["delete", "clear"])
def test_the_commands_for_sessions(which, tmp_path):
    """`litestar sessions delete` ends the session with this public name, and `clear` those of everybody."""
    manager = SessionManager(secret_key=SECRET, store=f"sqlite:///{tmp_path}/sessions.db")
    sync = manager.sync
    handles = []
    for user in (7, 8):
        session = sync.load()
        session["user_id"] = user
        sync.commit(session)
        handles.append(session.handle)
    said = command(tmp_path, which, *([handles[0]] if which == "delete" else []))
    assert "eleted" in said
    left = [len(sync.sessions.of(user)) for user in (7, 8)]
    assert left == ([0, 1] if which == "delete" else [0, 0])
    sync.close()


def test_the_plugin_is_found_by_its_class():
    """`app.plugins.get(RoomkeyPlugin)` is the plugin."""
    roomkey = plugin()
    assert Litestar(plugins=[roomkey]).plugins.get(RoomkeyPlugin) is roomkey
