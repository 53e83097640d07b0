"""Quart on a real server: two worker processes of Hypercorn, HTTP and WebSockets."""

import asyncio

import httpx
import pytest

from tests.loop_clock import HANGS
from tests.sites.running import Running
from tests.story import tell

pytest.importorskip("hypercorn")
websockets = pytest.importorskip("websockets.asyncio.client")

TOGETHER = 20  # requests at once


@pytest.fixture
def server(tmp_path):
    command = ["hypercorn", "--workers", "2", "--bind", "127.0.0.1:{port}", "tests.quart_site:app"]
    with Running("quart", f"sqlite:///{tmp_path}/sessions.db", tmp_path, command=command) as server:
        yield server.when_ready().removeprefix("http://")


async def test_the_story(server):
    """Two workers that share a port and a file of SQLite tell it too."""
    await tell([f"http://{server}"])


async def test_requests_and_websockets_at_once(server):
    """In both workers: every key is there, and a log-out ends all of it."""

    def browser(cookie=None):
        cookies = {} if cookie is None else {"session": cookie}
        return httpx.AsyncClient(base_url=f"http://{server}", timeout=HANGS, cookies=cookies, trust_env=False)

    async with browser() as mine:
        await mine.get("/login/ann")
        cookie = mine.cookies["session"]

        async def write(number):
            async with browser(cookie) as tab:
                assert (await tab.get(f"/write/{number}")).status_code == 200

        async def say(number):
            headers = {"Cookie": f"session={cookie}"}
            async with websockets.connect(f"ws://{server}/chat", additional_headers=headers, proxy=None) as socket:
                await socket.send(f"word{number}")
                assert await socket.recv() == "ann"
                await socket.wait_closed()

        await asyncio.gather(*(write(number) for number in range(TOGETHER)), *(say(number) for number in range(4)))
        expected = [*map(str, range(TOGETHER)), *(f"word{number}" for number in range(4))]
        assert (await mine.get("/show/-")).json()["session"] == {"user_id": "ann"} | dict.fromkeys(expected, 1)
        await mine.get("/logout/-")
        async with browser(cookie) as copy:
            assert (await copy.get("/show/-")).json()["session"] == {}
