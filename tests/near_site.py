"""Processes that keep sessions near: each is a uvicorn worker of `tests.near_app`."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx

import roomkey
from tests.loop_clock import HANGS, until
from tests.servers.parts import free_port, freeze
from tests.servers.proxy import Proxy

ROOT = Path(__file__).resolve().parent.parent
SOURCE = Path(roomkey.__file__).resolve().parent.parent


class Process:
    """One process. In use as a context manager.

    Args:
        store: the store's URL.
        log: a file for what it says.
        environment: more environment variables.
    """

    def __init__(self, store, log, **environment):
        self._log, self._port = log, free_port()
        self._environment = {
            **os.environ,
            "ROOMKEY_TEST_STORE": store,
            "PYTHONPATH": os.pathsep.join([str(SOURCE), str(ROOT)]),
            **environment,
        }

    def __enter__(self):
        command = [sys.executable, "-m", "uvicorn", "tests.near_app:app", "--port", str(self._port)]
        command += ["--log-level", "warning", "--no-access-log"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, cwd=ROOT, env=self._environment, stdout=log, stderr=log)
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{self._port}", timeout=HANGS, trust_env=False)
        hangs = time.monotonic() + HANGS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > hangs:
                self.__exit__()
                raise AssertionError(self.said)
            time.sleep(0.02)
        return self

    def __exit__(self, *_):
        self._client.close()
        self._process.send_signal(signal.SIGCONT)
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(HANGS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _answers(self):
        with contextlib.suppress(httpx.TransportError):
            return self._client.get("/state").status_code == 200

    @property
    def said(self):
        return self._log.read_text()

    def pause(self):
        freeze(self._process.pid)

    def resume(self):
        self._process.send_signal(signal.SIGCONT)

    async def get(self, page, card=None, **query):
        """Return the answer to a request, parsed; the status alone, where that is an error."""
        headers = {"cookie": f"session={card}"} if card else {}
        self._client.cookies.clear()
        answer = await asyncio.to_thread(self._client.get, page, params=query, headers=headers)
        return answer.json() if answer.status_code == 200 else answer.status_code

    async def log_in(self, user="ada"):
        self._client.cookies.clear()
        answer = await asyncio.to_thread(self._client.get, "/login", params={"user": user})
        return answer.cookies["session"]

    async def ahead(self, seconds):
        """Move the clock of this process."""
        await self.get("/ahead", seconds=seconds)

    async def read(self, card, page="/read"):
        """Return what a request sees, and whether it came from memory. None: it is a 503."""
        before = (await self.get("/state"))["hits"]
        answer = await self.get(page, card)
        return None if answer == 503 else (answer["data"], answer["hits"] > before)

    async def read_near(self, card):
        """Return what a request sees, once it is served from memory."""
        found = None

        async def is_near():
            nonlocal found
            found = await self.read(card)
            return found is not None and found[1]

        await until(is_near)
        return found[0]

    async def holds(self):
        return (await self.get("/state"))["holds"]


class MutableProxy(Proxy):
    """A proxy that can swallow what the server says of changes, on connections that stay open."""

    def __init__(self, target, mark=b"TRACKING"):
        super().__init__(target)
        self.is_mute = False
        self._mark = mark  # what only that connection asks

    async def _serve(self, reader, writer):
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self.target)
        is_marked = False

        async def ask():
            nonlocal is_marked
            while piece := await reader.read(65536):
                is_marked = is_marked or self._mark in piece
                there_writer.write(piece)

        async def answer():
            while piece := await there_reader.read(65536):
                if not (is_marked and self.is_mute):
                    writer.write(piece)

        tasks = [asyncio.create_task(ask()), asyncio.create_task(answer())]
        self._tasks.update(tasks)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
                self._tasks.discard(task)
            writer.transport.abort()
            there_writer.transport.abort()
