"""aiohttp on a real server: two worker processes of gunicorn, HTTP and WebSockets."""

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

aiohttp = pytest.importorskip("aiohttp")
pytest.importorskip("gunicorn")

ROOT = Path(__file__).parent.parent
TOGETHER = 20  # requests at once


@pytest.fixture
def server(tmp_path):
    port = free_port()
    environment = {
        **os.environ,
        "ROOMKEY_TEST_STORE": f"sqlite:///{tmp_path}/sessions.db",
        "PYTHONPATH": os.pathsep.join([str(SOURCE), str(ROOT)]),
    }
    options = ["--workers", "2", "--worker-class", "aiohttp.GunicornWebWorker", "--bind", f"127.0.0.1:{port}"]
    with (tmp_path / "log").open("w+") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", *options, "tests.aiohttp_site:create_app"],
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
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(HANGS)
    assert "Traceback" not in (tmp_path / "log").read_text()


async def test_two_workers(server):
    """Requests and WebSockets at once, in both: every key and count is there, and the log-out is final in both."""

    def browser(card=None):
        cookies = {} if card is None else {"session": card}
        jar = aiohttp.CookieJar(unsafe=True)
        # Each request has a connection of its own, which either worker may accept.
        return aiohttp.ClientSession(
            server, cookies=cookies, cookie_jar=jar, connector=aiohttp.TCPConnector(force_close=True)
        )

    async with browser() as mine:
        async with mine.get("/") as answer:
            assert "Set-Cookie" not in answer.headers and await answer.json() == {}
        async with mine.get("/login/ann") as answer:
            assert await answer.json() == {"user_id": "ann"}
        card = next(each.value for each in mine.cookie_jar)
        pids = set()

        async def write(number):
            async with browser(card) as tab:
                await (await tab.get(f"/write/{number}")).read()
                pids.add(await (await tab.get("/pid")).text())

        async def say(number):
            async with browser(card) as tab, tab.ws_connect("/chat") as socket:
                await socket.send_str(f"word{number}")
                assert (await socket.receive_json())["user_id"] == "ann"

        await asyncio.gather(*(write(number) for number in range(TOGETHER)), *(say(number) for number in range(4)))
        while len(pids) < 2:
            await asyncio.gather(*(write(number) for number in range(TOGETHER)))

        async def content():
            async with mine.get("/") as answer:
                return await answer.json()

        while "left" not in await content():
            await asyncio.sleep(0)
        found = await content()
        assert found.pop("n") % TOGETHER == 0
        expected = [*map(str, range(TOGETHER)), *(f"word{number}" for number in range(4))]
        assert found == {"user_id": "ann", "chats": True, "left": True} | dict.fromkeys(expected, 1)
        async with mine.get("/stream") as answer:
            assert await answer.text() == "ab"
        assert (await content())["streams"] == 1
        await (await mine.get("/logout")).read()
        for _ in range(TOGETHER):
            async with browser(card) as copy, copy.get("/") as answer:
                assert await answer.json() == {}
