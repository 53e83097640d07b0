"""The example on Litestar as its visitors meet it: `litestar run` with two workers, HTTP, a stream and WebSockets."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from roomkey import SessionManager
from roomkey.testing import client_session
from tests.loop_clock import HANGS
from tests.servers.parts import free_port

ROOT = Path(__file__).parent.parent
SECRET = "k" * 43
ADA = {"name": "ada", "password": "lovelace"}
WORKERS = 2
TOGETHER = 20  # requests at once


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return f"sqlite:///{tmp_path_factory.mktemp('litestar') / 'sessions.sqlite3'}"


@pytest.fixture(scope="module")
def address(store, tmp_path_factory):
    port = free_port()
    said = tmp_path_factory.mktemp("log") / "log"
    options = ["--host", "127.0.0.1", "--port", str(port), "--wc", str(WORKERS)]
    with said.open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "litestar", "--app", "litestar_app:app", "run", *options],
            cwd=ROOT / "examples",
            env={**os.environ, "SECRET_KEY": SECRET, "STORE": store, "PYTHONPATH": str(ROOT / "src")},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", process, said)
        yield f"127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does
        process.wait(HANGS)
    text = said.read_text()
    assert text.count("Application shutdown complete") == WORKERS, text
    assert "Traceback" not in text and "roomkey" not in text, text


def _wait_for(url, process, said):
    deadline = time.monotonic() + HANGS
    while True:
        try:
            httpx.get(url, timeout=HANGS)
            return
        except httpx.TransportError:
            assert process.poll() is None and time.monotonic() < deadline, said.read_text()
            time.sleep(0.05)


@pytest.fixture
def client(address):
    with httpx.Client(base_url=f"http://{address}", timeout=HANGS) as client:
        yield client


def test_a_visitor_who_looks_around_gets_no_cookie(client):
    """To read the session, or to be refused, sets no cookie."""
    for path, status in (("/", 200), ("/me", 401), ("/schema/openapi.json", 401), ("/health", 200)):
        answer = client.get(path)
        assert answer.status_code == status
        assert "set-cookie" not in answer.headers


def test_the_story_of_a_user(client, address):
    """A cart begins a session, a log-in changes its ID, a log-out is final, and a copied cookie opens nothing."""
    assert client.post("/cart/tea").json() == ["tea"]
    before = client.cookies["session"]
    assert client.post("/login", json=ADA | {"password": "wrong"}).status_code == 400
    assert client.post("/login", json=ADA).json() == {"name": "ada"}
    after = client.cookies["session"]
    assert after != before
    assert client.get("/").json() == {"cart": ["tea"]}
    assert client.get("/me").json() == {"name": "ada"}
    assert client.post("/logout").status_code == 201
    assert "session" not in client.cookies
    for cookie in (before, after):
        copied = {"cookie": f"session={cookie}"}
        assert httpx.get(f"http://{address}/me", headers=copied, timeout=HANGS).status_code == 401


def test_a_dangerous_step(client):
    """It goes through after a log-in a moment ago, and ends the session."""
    assert client.delete("/account").status_code == 401
    client.post("/login", json=ADA)
    assert client.delete("/account").status_code == 204
    assert "session" not in client.cookies


def test_the_chat(client, address):
    """A WebSocket has the user's session, saves into it while it is open, and lets nobody in without a log-in."""
    with pytest.raises(InvalidStatus), connect(f"ws://{address}/chat", open_timeout=HANGS):
        pass
    client.post("/login", json=ADA)
    headers = {"cookie": f"session={client.cookies['session']}"}
    with connect(f"ws://{address}/chat", additional_headers=headers, open_timeout=HANGS) as socket:
        socket.send("hello")
        assert socket.recv(timeout=HANGS) == "ada: hello"


def test_the_stream(client, store):
    """Server-sent events come with the session, and what they leave in it is there when they have ended."""
    client.post("/cart/tea")
    client.post("/login", json=ADA)
    answer = client.get("/prices")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert re.findall("^data: (.*?)\r?$", answer.text, re.M) == ["tea: 3"]
    manager = SessionManager(secret_key=SECRET, store=store)
    with client_session(client, manager) as session:
        assert session == {"user_id": "ada", "cart": ["tea"], "prices seen": True}
    manager.sync.close()


async def test_two_workers(address):
    """Both serve one session: all that requests at once put into a cart is in it, and a log-out is final in both."""

    def browser(cookie=None):
        cookies = {} if cookie is None else {"session": cookie}
        return httpx.AsyncClient(base_url=f"http://{address}", timeout=HANGS, cookies=cookies)

    async with browser() as mine:
        await mine.post("/login", json=ADA)
        cookie = mine.cookies["session"]
        pids, added = set(), []

        async def add(item):
            async with browser(cookie) as tab:
                await tab.post(f"/cart/{item}")
                added.append(item)
                pids.add((await tab.get("/health")).json()["pid"])

        while len(pids) < WORKERS:
            await asyncio.gather(*(add(f"item{number}") for number in range(TOGETHER)))
        assert sorted((await mine.get("/")).json()["cart"]) == sorted(added)
        await mine.post("/logout")
        for _ in range(TOGETHER):
            async with browser(cookie) as copy:
                assert (await copy.get("/me")).status_code == 401


def test_the_page_shows_this_app():
    """The first block of the page about Litestar is the example, but for the empty line between the imports."""
    page = (ROOT / "docs" / "howto-litestar.md").read_text()
    shown = page.partition("```python\n")[2].partition("```")[0]
    app = (ROOT / "examples" / "litestar_app.py").read_text()
    assert shown == app.replace("\n\nfrom roomkey", "\nfrom roomkey", 1)
