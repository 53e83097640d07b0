"""examples/quart_app.py: the to-do list, in this process and as its users start it."""

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from examples.quart_app import create_app
from tests.loop_clock import HANGS
from tests.manager.parts import SOURCE
from tests.servers.parts import free_port

ROOT = Path(__file__).parent.parent


@pytest.fixture
def app(monkeypatch):
    monkeypatch.delenv("QUART_SECRET_KEY", raising=False)
    return create_app({"SECRET_KEY": "k" * 32})


async def page(client):
    return await (await client.get("/")).get_data(as_text=True)


async def post(client, path, **form):
    return await client.post(path, form=form)


async def test_a_list_survives_the_log_in(app):
    """A visitor's list comes along, the message is shown once, and the cookie of before is dead."""
    client = app.test_client()
    assert "Set-Cookie" not in (await client.get("/")).headers
    added = await post(client, "/add", item="milk")
    before = added.headers["Set-Cookie"].split(";")[0]
    answer = await post(client, "/login", name="Ann", stay="on")
    assert "Max-Age=2678400" in answer.headers["Set-Cookie"]
    shown = await page(client)
    assert "Welcome, Ann." in shown and "<li>milk</li>" in shown and "on 1 device(s)" in shown
    assert "Welcome" not in await page(client)
    stale = app.test_client(use_cookies=False)
    answer = await stale.get("/", headers={"Cookie": before})
    assert "milk" not in await answer.get_data(as_text=True)


async def test_log_outs(app):
    """One ends one session, the other all of the user's."""
    first, second, third = (app.test_client() for _ in range(3))
    for client in (first, second, third):
        await post(client, "/login", name="Ann")
    await post(first, "/logout")
    assert "Nobody" in await page(first) and "on 2 device(s)" in await page(second)
    await post(second, "/logout-everywhere")
    assert "Nobody" in await page(third)
    assert (await post(first, "/login", name=" ")).status_code == 400


async def test_a_tab_that_stays_open(app):
    """It adds to the list over a WebSocket, and hears of what other tabs add."""
    client = app.test_client()
    await post(client, "/login", name="Ann")
    async with client.websocket("/items") as tab:
        await tab.send("milk")
        assert json.loads(await asyncio.wait_for(tab.receive(), HANGS)) == ["milk"]
        await post(client, "/add", item="bread")
        await tab.send("")
        assert json.loads(await asyncio.wait_for(tab.receive(), HANGS)) == ["milk", "bread"]
    shown = await page(client)
    assert "<li>milk</li><li>bread</li>" in shown


def test_the_command_that_starts_it(tmp_path):
    """As its first lines say, with settings from the environment."""
    command = re.search(r"^ +quart (.+)$", (ROOT / "examples" / "quart_app.py").read_text(), re.M)[1]
    port = free_port()
    environment = {
        **os.environ,
        "QUART_SECRET_KEY": "k" * 32,
        "QUART_ROOMKEY_STORE": f"sqlite:///{tmp_path}/sessions.db",
        "QUART_ROOMKEY_STORE_TIMEOUT": str(HANGS),
        "PYTHONPATH": os.pathsep.join([str(SOURCE), str(ROOT)]),
    }
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "quart", *command.split(), "--port", str(port)],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=HANGS, trust_env=False) as client:
                wait_for(client, process, tmp_path / "log")
                client.post("/add", data={"item": "milk"})
                assert "<li>milk</li>" in client.get("/").text, (tmp_path / "log").read_text()
        finally:
            process.terminate()
            process.wait(HANGS)
    assert (tmp_path / "sessions.db").exists()


def wait_for(client, process, log):
    """Wait until the server answers."""
    deadline = time.monotonic() + HANGS
    while True:
        try:
            client.get("/")
            return
        except httpx.TransportError:
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
