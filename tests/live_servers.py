"""Servers of `live_app`, each a process of its own on one store, and clients with open WebSockets."""

import asyncio
import contextlib
import os
import subprocess
import sys
from pathlib import Path

import httpx
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.servers.parts import free_port

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 120  # seconds for a server to start


class LiveServer:
    """One uvicorn."""

    def __init__(self, store, log, **environment):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.store, self.log, self.environment = store, log, environment

    def __enter__(self):
        environment = {
            **os.environ,
            "ROOMKEY_TEST_STORE": self.store,
            "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]),
            **self.environment,
        }
        command = [sys.executable, "-m", "uvicorn", "tests.live_app:app", "--port", str(self.port)]
        command += ["--log-level", "warning", "--no-access-log", "--backlog", "2048", "--ws-ping-interval", "0"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    async def answers(self):
        async with httpx.AsyncClient(base_url=self.url, trust_env=False) as client:
            async with asyncio.timeout(PATIENCE):
                while True:
                    assert self.process.poll() is None, self.log.read_text()
                    with contextlib.suppress(httpx.TransportError):
                        if (await client.get("/state")).status_code == 200:
                            return
                    await asyncio.sleep(0.05)

    async def state(self):
        async with httpx.AsyncClient(base_url=self.url, trust_env=False, timeout=60) as client:
            return (await client.get("/state")).json()

    async def post(self, path, card=None):
        headers = {"cookie": f"session={card}"} if card else {}
        async with httpx.AsyncClient(base_url=self.url, trust_env=False, timeout=60, headers=headers) as client:
            answer = await client.post(path)
            assert answer.status_code == 200, answer.text
            return answer

    async def log_in(self, user):
        return (await self.post(f"/login/{user}")).cookies["session"]


class Socket:
    """One WebSocket of a user's, and when and how it closed."""

    def __init__(self, user, connection):
        self.user, self.connection = user, connection
        self.code = self.reason = self.closed_at = None
        self.task = asyncio.get_running_loop().create_task(self._wait())

    @classmethod
    async def open(cls, server, user, card):
        connection = await connect(
            f"ws://127.0.0.1:{server.port}/ws",
            additional_headers={"Cookie": f"session={card}"},
            ping_interval=None,
            open_timeout=60,
            proxy=None,
            compression=None,
        )
        return cls(user, connection)

    async def _wait(self):
        try:
            await self.connection.recv()
        except ConnectionClosed as closed:
            self.closed_at = asyncio.get_running_loop().time()
            if closed.rcvd is not None:
                self.code, self.reason = closed.rcvd.code, closed.rcvd.reason

    async def close(self):
        await self.connection.close()
        await self.task


async def open_all(servers, cards, each):
    """Open some sockets for each user, spread over the servers, a few at a time."""
    some = asyncio.Semaphore(20)

    async def one(server, user, card):
        async with some:
            return await Socket.open(server, user, card)

    return await asyncio.gather(
        *(one(servers[number % len(servers)], user, card) for user, card in cards.items() for number in range(each))
    )
