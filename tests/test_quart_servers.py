"""Quart on a real server: two worker processes of Hypercorn, HTTP and WebSockets."""

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.loop_clock import HANGS
from tests.manager.parts import SOURCE
from tests.servers.parts import free_port

pytest.importorskip("hypercorn")
websockets = pytest.importorskip("websockets.asyncio.client")

ROOT = Path(__file__).parent.parent
TOGETHER = 20  # requests at once


@pytest.fixture
def server(tmp_path):
    port = free_port()
    environment = {
        **os.environ,
        "QUART_ROOMKEY_STORE": f"sqlite:///{tmp_path}/sessions.db",
        "PYTHONPATH": os.pathsep.join([str(SOURCE), str(ROOT)]),
    }
    with (tmp_path / "log").open("w+") as log:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "hypercorn",
                "--workers",
                "2",
                "--bind",
                f"127.0.0.1:{port}",
                "tests.quart_site:app",
            ],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            deadline = time.monotonic() + HANGS
            while True:
                try:
                    httpx.get(f"http://127.0.0.1:{port}/pid", timeout=HANGS, trust_env=False)
                    break
                except httpx.TransportError:
                    assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
                    time.sleep(0.05)
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(HANGS)
    assert "Traceback" not in (tmp_path / "log").read_text()


async def test_two_workers(server):
    """Requests and WebSockets at once, in both: every key and count is there, and the log-out is final in both."""

    def browser(cookie=None):
        cookies = {} if cookie is None else {"session": cookie}
        return httpx.AsyncClient(base_url=f"http://{server}", timeout=HANGS, cookies=cookies, trust_env=False)

    async with browser() as mine:
        assert "set-cookie" not in (await mine.get("/")).headers
        await mine.get("/login/ann")
        cookie = mine.cookies["session"]
        pids = set()

        async def write(number):
            async with browser(cookie) as tab:
                await tab.get(f"/write/{number}")
                pids.add((await tab.get("/pid")).text)

        async def say(number):
            headers = {"Cookie": f"session={cookie}"}
            async with websockets.connect(f"ws://{server}/chat", additional_headers=headers, proxy=None) as socket:
                await socket.send(f"word{number}")
                assert await socket.recv() == "ann"
                await socket.wait_closed()

        await asyncio.gather(*(write(number) for number in range(TOGETHER)), *(say(number) for number in range(4)))
        while len(pids) < 2:
            await asyncio.gather(*(write(number) for number in range(TOGETHER)))
        content = (await mine.get("/")).json()
        assert content.pop("n") % TOGETHER == 0
        expected = [*map(str, range(TOGETHER)), *(f"word{number}" for number in range(4))]
        assert content == {"user_id": "ann"} | dict.fromkeys(expected, 1)
        await mine.get("/logout")
        for _ in range(TOGETHER):
            async with browser(cookie) as copy:
                assert (await copy.get("/")).json() == {}
