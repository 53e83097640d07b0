"""examples/aiohttp_app.py: the chat room, in this process and as its users start it."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

aiohttp = pytest.importorskip("aiohttp")

from aiohttp.test_utils import TestClient, TestServer  # noqa: E402

from examples.aiohttp_app import create_app  # noqa: E402
from tests.loop_clock import HANGS  # noqa: E402
from tests.manager.parts import SOURCE  # noqa: E402
from tests.servers.parts import free_port  # noqa: E402

ROOT = Path(__file__).parent.parent


@pytest.fixture
def app(monkeypatch):
    monkeypatch.setenv("ROOMKEY_SECRET_KEY", "k" * 32)
    monkeypatch.setenv("ROOMKEY_STORE", "memory://")
    return create_app()


async def test_a_chat(app):
    """Who came in may talk, what they said is counted, and everybody can read it."""
    async with TestClient(TestServer(app)) as client:
        answer = await client.get("/")
        assert "Nobody is here" in await answer.text() and "Set-Cookie" not in answer.headers
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await client.ws_connect("/chat")
        assert "Ann is here, on 1 device(s)" in await (await client.post("/login", data={"name": "Ann"})).text()
        async with client.ws_connect("/chat") as socket:
            await socket.send_str("<hello>")
            assert await socket.receive_str() == "Ann: <hello>"
        assert "has said 1 thing(s)" in await (await client.get("/")).text()
        visitor = aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True))
        async with visitor, visitor.get(client.make_url("/log")) as answer:
            assert await answer.text() == "Ann: <hello>\n" and "Set-Cookie" in answer.headers


async def test_log_outs(app):
    """One ends one session, the other all of the user's."""
    async with TestClient(TestServer(app)) as client:

        async def enter(browser):
            async with browser.post(client.make_url("/login"), data={"name": "Ann"}) as answer:
                return await answer.text()

        others = [aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) for _ in range(2)]
        async with others[0], others[1]:
            for browser in others:
                await enter(browser)
            await client.post("/login", data={"name": "Ann"})
            assert "Nobody" in await (await client.post("/logout")).text()
            assert "on 3 device(s)" in await (await client.post("/login", data={"name": "Ann"})).text()
            await client.post("/logout-everywhere")
            async with others[0].get(client.make_url("/")) as answer:
                assert "Nobody" in await answer.text()
        assert (await client.post("/login", data={"name": " "})).status == 400


def test_the_command_that_starts_it(tmp_path):
    """As its first lines say, with settings from the environment."""
    command = re.search(r"^ +python (-m aiohttp.+)$", (ROOT / "examples" / "aiohttp_app.py").read_text(), re.M)[1]
    port = free_port()
    environment = {
        **os.environ,
        "ROOMKEY_SECRET_KEY": "k" * 32,
        "ROOMKEY_STORE": f"sqlite:///{tmp_path}/sessions.db",
        "ROOMKEY_STORE_TIMEOUT": str(HANGS),
        "PYTHONPATH": os.pathsep.join([str(SOURCE), str(ROOT)]),
    }
    log = (tmp_path / "log").open("w+")
    process = subprocess.Popen(
        [sys.executable, *command.replace("8080", str(port)).split()],
        cwd=ROOT,
        env=environment,
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    try:
        deadline = time.monotonic() + HANGS
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=HANGS, trust_env=False) as client:
            while True:
                try:
                    client.get("/")
                    break
                except httpx.TransportError:
                    assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
                    time.sleep(0.05)
            page = client.post("/login", data={"name": "Ann"}, follow_redirects=True)
            assert "Ann is here" in page.text
    finally:
        process.terminate()
        process.wait(HANGS)
        log.close()
    assert (tmp_path / "sessions.db").exists()
