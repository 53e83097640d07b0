"""Somebody who follows a page: saves its files, starts its server, types its commands, and looks at what they print."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.loop_clock import HANGS
from tests.servers.parts import free_port

__all__ = ["Reader", "Step", "lasting", "steps_of"]

_ROOT = Path(__file__).parent.parent
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.M | re.S)
_ADDRESS = "localhost:8000"  # where the pages' servers listen
_DONE = re.compile(r"(make|mkdir|cd|git|pip|python -m venv|\.) ")  # what whoever runs the tests has done already


@dataclass(frozen=True)
class Step:
    """One block of a page."""

    kind: str  # "python", "console", "sh" and so on
    text: str
    name: str | None  # the file that the sentence before it says to save it as


def steps_of(page: str) -> list[Step]:
    """Return the blocks of a page, in its order."""
    return [Step(found[1], found[2], _name_before(page[: found.start()])) for found in _BLOCK.finditer(page)]


def _name_before(text: str) -> str | None:
    paragraph = text.rstrip().rpartition("\n\n")[2]
    found = re.search(r"[Ss]ave (?:this|it)\b[^.]* as `([\w./-]+\.\w+)`", paragraph)
    return found and found[1]


class Reader:
    """The reader, in a folder. A command runs where the page says it does, but on a free port.

    Args:
        folder: where files are saved and commands run.
        instead: what stands for an address of the page. The server's own has its place here without that.
        **variables: of the environment, beside those of this process.
    """

    def __init__(self, folder: Path, instead: Mapping[str, str] | None = None, **variables: str) -> None:
        self._folder = folder
        self._port = free_port()
        self._instead = {_ADDRESS: f"127.0.0.1:{self._port}", **(instead or {})}
        others = {name: value for name, value in os.environ.items() if not name.startswith("ROOMKEY_")}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        self._environment = {**others, "PATH": path, "PYTHONPATH": str(_ROOT / "src"), **variables}
        self._server: subprocess.Popen[str] | None = None
        self._command = ""
        self._is_old = False  # whether a file has changed since the server started

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop_server()

    def follow(self, page: str) -> list[tuple[str, str]]:
        """Do what a page says, block after block. Returns what each console shows there, and what it really shows."""
        steps = steps_of(page)
        return [(step.text, self.type(step.text)) for step in steps if step.kind == "console" or self._prepare(step)]

    def _prepare(self, step: Step) -> None:
        """Do what a block says that shows nothing."""
        if step.kind == "python":
            assert step.name is not None, step.text
            self.save(step.name, step.text)
        elif step.kind == "sh":
            for line in step.text.splitlines():
                export = re.fullmatch(r"export (\w+)=(.+)", line)
                if export is not None:
                    self.set_variable(export[1], export[2])
                elif line.startswith("uvicorn "):
                    self.start_server(line)
                else:
                    assert _DONE.match(line), line
        else:
            assert step.kind in {"dockerfile", "ini", "nginx", "yaml"}, step.kind

    def save(self, name: str, text: str) -> None:
        """Save a file."""
        (self._folder / name).write_text(text)
        self._is_old |= not name.startswith("test_")  # which the app does not import

    def set_variable(self, name: str, value: str) -> None:
        """Do as `export NAME=value` does, where the value is a word of the shell."""
        self._environment[name] = self._shell(f"printf %s {value}")

    def start_server(self, command: str) -> None:
        """Start a server, and wait until it answers. One that was started before is stopped."""
        self.stop_server()
        self._command, self._is_old = command, False
        arguments = [sys.executable, "-m", *command.split(), "--port", str(self._port)]
        self._server = subprocess.Popen(
            arguments,
            cwd=self._folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=_heed_ctrl_c,
        )
        assert self._server.stdout is not None
        said = ""
        for line in self._server.stdout:
            said += line
            if "running on" in line:  # with several workers, no one listens yet
                break
        while self._server.poll() is None:
            try:
                return socket.create_connection(("127.0.0.1", self._port), timeout=HANGS).close()
            except ConnectionRefusedError:
                time.sleep(0.02)
        raise AssertionError(f"{command} did not start:\n{said}{self._server.stdout.read()}")

    def stop_server(self) -> None:
        """Press Ctrl-C."""
        if self._server is not None:
            self._server.send_signal(signal.SIGINT)
            said, _ = self._server.communicate(timeout=HANGS)
            code, self._server = self._server.returncode, None
            assert code in (0, -signal.SIGINT) and "Traceback" not in said, said

    def type(self, session: str) -> str:
        """Type the commands of a console session (`$ command`), and return the session as it really is.

        The server is started again first where files have changed since.
        """
        if self._server is not None and self._is_old:
            self.start_server(self._command)
        commands = re.findall(r"^\$ (.*)$", session, re.M)
        assert commands, session
        return "".join(f"$ {command}\n{self._printed(command)}" for command in commands)

    def _printed(self, command: str) -> str:
        printed = self._shell(re.sub(r"\bcurl ", "curl --silent ", command)).replace("\r", "")
        assert printed or "curl" not in command, f"nobody answered: {command}"
        return printed if not printed or printed.endswith("\n") else printed + "\n"

    def _shell(self, command: str) -> str:
        for written, real in self._instead.items():
            command = command.replace(written, real)
        run = subprocess.run(
            ["bash", "-c", command],
            cwd=self._folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=HANGS,
        )
        return run.stdout


def _heed_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a test run in the background ignores it, and its children too


_DIFFERS = {
    r"^date: .*$": "date:",
    r"session=[\w-]{76}\b": "session=...",
    r"\b[0-9a-f]{64}\b": "(handle)",
    r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|\+00:00)?": "(moment)",
    r"\bcurl/[\d.]+": "curl/(version)",
    r"\bin \d+\.\d+s\b": "in (seconds)",
}


def lasting(session: str) -> str:
    """Return a console session without what differs each time, such as moments, and the order of the headers."""
    for pattern, mark in _DIFFERS.items():
        session = re.sub(pattern, mark, session, flags=re.M)
    return re.sub(r"(^[a-z-]+: .*\n)+", lambda found: "".join(sorted(found[0].splitlines(True))), session, flags=re.M)
