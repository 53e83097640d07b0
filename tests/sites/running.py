"""Runs a site: server processes of a framework's usual kind, on free ports."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

import httpx

import roomkey
from tests.loop_clock import HANGS
from tests.servers.parts import free_port

__all__ = ["COMMANDS", "SECRET", "Running"]

ROOT = Path(__file__).parent.parent.parent
SOURCE = Path(roomkey.__file__).resolve().parent.parent
SECRET = "a secret that is long enough for every site of the story"

_UVICORN = ["uvicorn", "tests.sites.{name}:app", "--port", "{port}", "--no-access-log"]
_GUNICORN = ["gunicorn", "tests.sites.{name}:app", "--bind", "127.0.0.1:{port}", "--worker-class", "gthread"]
_GUNICORN += ["--threads", "12", "--timeout", str(HANGS), "--graceful-timeout", "10"]
COMMANDS = {
    "starlette": _UVICORN,
    "fastapi": _UVICORN,
    "ravyn": _UVICORN,
    "lilya": _UVICORN,
    "litestar": _UVICORN,
    "flask": _GUNICORN,
    "quart": ["hypercorn", "tests.sites.quart:app", "--bind", "127.0.0.1:{port}"],
    "django": _GUNICORN,
    "django under ASGI": ["uvicorn", "tests.sites.django:asgi_app", "--port", "{port}", "--no-access-log"],
    "aiohttp": ["aiohttp.web", "tests.sites.aiohttp:make_app", "--hostname", "127.0.0.1", "--port", "{port}"],
}


class Running:
    """One server process, alive inside a `with`. Start several, and then wait until each is ready.

    Args:
        name: of the framework, as in `COMMANDS`; any text where a command is given.
        store: its URL.
        folder: for its gates and its log.
        timeout: how long a request waits for the store, in seconds.
        command: what serves it, with `{port}` where the port belongs; None: what is usual, in one process.
        settings: more of its environment.
    """

    def __init__(
        self,
        name: str,
        store: str,
        folder: Path,
        timeout: float = HANGS,
        command: list[str] | None = None,
        settings: dict[str, str] | None = None,
    ) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._log = folder / f"log-{port}"
        self._environment = {
            **os.environ,
            "HOME": str(folder),  # where gunicorn puts a socket
            "PYTHONPATH": os.pathsep.join([str(SOURCE), str(ROOT)]),
            "ROOMKEY_SECRET_KEY": SECRET,
            "ROOMKEY_STORE": store,
            "ROOMKEY_STORE_TIMEOUT": str(timeout),
            "ROOMKEY_CLEAR_SITE_DATA": '["cache", "storage"]',
            "STORY_FOLDER": str(folder),
            **(settings or {}),
        }
        self._command = [part.format(name=name, port=port) for part in command or COMMANDS[name]]

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", *self._command]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, cwd=ROOT, env=self._environment, stdout=log, stderr=log)
        return self

    def when_ready(self) -> str:
        """Wait until it answers. Returns its base URL."""
        deadline = time.monotonic() + HANGS
        while True:
            try:
                httpx.get(f"{self.url}/begun/-", timeout=HANGS, trust_env=False)
                return self.url
            except httpx.TransportError:
                assert self._process.poll() is None and time.monotonic() < deadline, self._log.read_text()
                time.sleep(0.05)

    def __exit__(self, *error: object) -> None:
        failed = error[0] is not None
        (self._process.kill if failed else self._process.terminate)()  # a request may still wait at its gate
        self._process.wait(HANGS)
        said = self._log.read_text()
        assert failed or "Traceback" not in said, said
