"""docs/recipes.md: each app, as the page has it, on a real server with a real client."""

import asyncio
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from roomkey import SessionManager
from tests.loop_clock import HANGS
from tests.manager.parts import SOURCE
from tests.servers.parts import free_port

pytest.importorskip("uvicorn")

KEY = "k" * 43
MOST_LINES = 20
PAGE = (Path(__file__).parent.parent / "docs" / "recipes.md").read_text()
APPS = dict(re.findall(r"Save this as `(\w+)\.py`\.\n\n```python\n(.*?)^```", PAGE, re.M | re.S))
FAIL = {
    "sanic_app": """
@sanic.get("/fail")
async def fail(request):
    session_of(request)["failed"] = 1
    raise ZeroDivisionError
""",
    "falcon_app": """
class Fail:
    async def on_get(self, req, resp):
        session_of(req)["failed"] = 1
        raise ZeroDivisionError
shop.add_route("/fail", Fail())
""",
    "blacksheep_app": """
@router.get("/fail")
async def fail(request: Request):
    session_of(request)["failed"] = 1
    raise ZeroDivisionError
""",
    "mounted_app": """
@flask.get("/fail")
def fail():
    session["failed"] = 1
    raise ZeroDivisionError
""",
}
HTTP = {"sanic_app": "sanic", "falcon_app": "falcon", "blacksheep_app": "blacksheep", "mounted_app": "a2wsgi"}


@pytest.fixture
def serve(tmp_path):
    """Return what starts the app of that name, and returns its address."""
    processes, more = [], []

    def start(name, page=""):
        more.append(page)
        (tmp_path / f"{name}.py").write_text(APPS[name] + page)
        port = free_port()
        environment = {**os.environ, "SECRET_KEY": KEY, "PYTHONPATH": str(SOURCE)}
        with (tmp_path / "log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "uvicorn", f"{name}:app", "--port", str(port)],
                cwd=tmp_path,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        processes.append(process)
        deadline = time.monotonic() + HANGS
        while True:
            try:
                httpx.get(f"http://127.0.0.1:{port}/", timeout=HANGS, trust_env=False)
                return f"http://127.0.0.1:{port}"
            except httpx.TransportError:
                assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
                time.sleep(0.05)

    yield start
    for process in processes:
        process.terminate()
        process.wait(HANGS)
    said = (tmp_path / "log").read_text()
    assert any(more) or "Traceback" not in said, said


@pytest.mark.parametrize("name", HTTP)
def test_a_web_app(serve, name):
    """A visit sets no cookie, a log-in does, and after the log-out the old cookie opens nothing."""
    pytest.importorskip(HTTP[name])
    address = serve(name)
    with httpx.Client(base_url=address, timeout=HANGS, trust_env=False) as client:
        answer = client.get("/me")
        assert answer.json() == {"user": None} and "set-cookie" not in answer.headers
        assert answer.headers["vary"] == "Cookie"
        answer = client.post("/login/ann")
        assert answer.is_success and answer.headers["cache-control"] == "no-store"
        assert client.get("/me").json() == {"user": "ann"}
        card = client.cookies["session"]
        assert client.post("/logout").is_success and "session" not in client.cookies
        stale = {"Cookie": f"session={card}"}
        assert client.get("/me", headers=stale).json() == {"user": None}


@pytest.mark.parametrize("name", HTTP)
def test_an_unhandled_error_saves(serve, name):
    """These frameworks make the 500 inside the middleware."""
    pytest.importorskip(HTTP[name])
    answer = httpx.get(f"{serve(name, FAIL[name])}/fail", timeout=HANGS, trust_env=False)
    assert answer.status_code == 500 and "session=" in answer.headers["set-cookie"]


@pytest.mark.parametrize("transports", [["websocket"], ["polling", "websocket"]])
async def test_socketio(serve, tmp_path, transports):
    """Who is logged in may connect, and is known by name. Who has logged out is disconnected."""
    socketio = pytest.importorskip("socketio")
    aiohttp = pytest.importorskip("aiohttp")
    address = serve("socketio_app")
    async with SessionManager(secret_key=KEY, store=f"sqlite:///{tmp_path}/sessions.sqlite3") as manager:
        session = await manager.load()
        session["user_id"] = "ann"
        card = dict(await manager.commit(session))["set-cookie"].split(";")[0]
        async with aiohttp.ClientSession() as http, aiohttp.ClientSession() as other_http:
            stranger = socketio.AsyncClient(reconnection=False, http_session=http)
            with pytest.raises(socketio.exceptions.ConnectionError):
                await stranger.connect(address, transports=transports)
            client = socketio.AsyncClient(reconnection=False, http_session=other_http)
            gone = asyncio.Event()
            client.on("disconnect", lambda *_: gone.set())
            await client.connect(address, headers={"Cookie": card}, transports=transports)
            assert await client.call("say", "hello") == "ann says hello"
            await manager.sessions.revoke_all("ann")
            await client.emit("say", "hello")
            await asyncio.wait_for(gone.wait(), HANGS)
            await stranger.disconnect()
            await client.disconnect()


def test_each_is_short():
    """An app has less than 20 lines beside its imports."""
    for name, code in APPS.items():
        lines = [line for line in code.splitlines() if line and not line.startswith(("import ", "from "))]
        assert len(lines) < MOST_LINES, name
    assert set(APPS) == {*HTTP, "socketio_app"}
