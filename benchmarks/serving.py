"""An app in a process of its own: uvicorn with one subject of `served`, and a client for it."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import time
from typing import Self

from benchmarks.driver import Answer, request_headers
from benchmarks.served import SUBJECT, URL
from tests.servers.parts import free_port

__all__ = ["Client", "Served", "request_bytes"]

_PATIENCE = 30.0  # seconds for a server to answer


class Client:
    """One keep-alive connection to an app on this machine.

    Args:
        port: of the app.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def get(self, target: str, cookie: str | None = None) -> Answer:
        """Return the answer to one request. Raises OSError or EOFError where the server does not answer."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        try:
            writer.write(request_bytes(target, cookie))
            head = await reader.readuntil(b"\r\n\r\n")
            first, *lines = head[:-4].split(b"\r\n")
            pairs = [line.partition(b":") for line in lines]
            answer = Answer(int(first.split()[1]), [(name.lower(), value.strip()) for name, _, value in pairs])
            answer.body = await self._body(reader, dict(answer.headers))
        except BaseException:
            self.close()
            raise
        return answer

    def close(self) -> None:
        """Close the connection; `get` opens a new one."""
        streams, self._streams = self._streams, None
        if streams is not None:
            streams[1].transport.abort()

    async def _body(self, reader: asyncio.StreamReader, headers: dict[bytes, bytes]) -> bytes:
        if b"content-length" in headers:
            return await reader.readexactly(int(headers[b"content-length"]))
        body = b""
        while size := int(await reader.readline(), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readexactly(2)
        return body


def request_bytes(target: str, cookie: str | None) -> bytes:
    """Return one HTTP request as it goes over the wire."""
    headers = b"".join(b"%s: %s\r\n" % pair for pair in request_headers(cookie))
    return b"GET %s HTTP/1.1\r\n%s\r\n" % (target.encode(), headers)


class Served:
    """uvicorn with one subject: one worker, uvloop, httptools. It is alive in its `with` block.

    Args:
        kind: the subject, as `served` calls it.
        url: of the store; empty for none.
        **environment: more for the process.
    """

    def __init__(self, kind: str, url: str, **environment: str) -> None:
        self.port = free_port()
        self._environment = {**os.environ, SUBJECT: kind, URL: url, **environment}
        self._process: subprocess.Popen[bytes] | None = None
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """What the process has written so far."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def __enter__(self) -> Self:
        subprocess.run([sys.executable, "-m", "benchmarks.served"], check=True, env=self._environment)
        arguments = [sys.executable, "-m", "uvicorn", "--factory", "benchmarks.served:make_app"]
        arguments += ["--port", str(self.port), "--loop", "uvloop", "--http", "httptools", "--workers", "1"]
        arguments += ["--interface", "asgi3", "--no-access-log", "--log-level", "warning"]
        arguments += ["--timeout-keep-alive", "120"]
        self._process = subprocess.Popen(
            arguments, env=self._environment, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log
        )
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return self
            except OSError:
                if self._process.poll() is None and time.monotonic() < deadline:
                    time.sleep(0.02)
                    continue
                said = self.log[-4000:]
                self.__exit__()
                raise RuntimeError(f"uvicorn did not start: {said}") from None

    def __exit__(self, *_: object) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._log.close()
