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

__all__ = ["Reader", "Step", "lasting", "shows_nothing", "steps_of"]

_ROOT = Path(__file__).parent.parent
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.M | re.S)
_PROMISED = re.compile(r"\n+(?:(?![#`|-])[^\n]+\n){0,3}\n*```text\n(.+?)^```", re.M | re.S)  # past a paragraph
_ADDRESS = re.compile(r"localhost:(?:8000|8080|5000)\b")  # where the pages' servers listen
_DONE = re.compile(r"(make|mkdir|cd|git|pip|python -m venv|\.) ")  # what whoever runs the tests has done already
_FORM = re.compile(r"(ROOMKEY_\w+=\S+ )?roomkey ")  # a form of the command, for an app of the reader's
_CARD = re.compile(r"^session-card: ([\w-]{80})$", re.M)  # what a reader puts in the place of `<card>`
_EXPORT = re.compile(r"export (\w+)=(.+)")
# The commands that start a server, and what each is given for a port of its own.
_SERVERS = {
    re.compile(r"(uvicorn|flask|quart|litestar|fastapi) .*"): "{} --port {}",
    re.compile(r"python -m aiohttp\.web .*"): "{} --port {}",
    re.compile(r"python \w+\.py runserver\b.*"): "{} --noreload {}",
    re.compile(r"(gunicorn|hypercorn) .*"): "{} --bind 127.0.0.1:{}",
}


@dataclass(frozen=True)
class Step:
    """One block of a page."""

    kind: str  # "python", "console", "sh" and so on
    text: str
    name: str | None  # the file that the sentence before it says to save it as
    promised: str | None = None  # what the `text` block below it says that it prints


def steps_of(page: str) -> list[Step]:
    """Return the blocks of a page, in its order."""
    return [
        Step(found[1], found[2], _name_before(page[: found.start()]), _promised_after(page[found.end() :]))
        for found in _BLOCK.finditer(page)
    ]


def _name_before(text: str) -> str | None:
    paragraph = text.rstrip().rpartition("\n\n")[2]
    found = re.search(r"[Ss]ave (?:this|it)\b[^.]* as `([\w./-]+\.\w+)`", paragraph)
    return found and found[1]


def _promised_after(text: str) -> str | None:
    found = _PROMISED.match(text)
    return found and found[1]


def shows_nothing(page: str) -> list[Step]:
    """Return the Python blocks of a page that show no outcome.

    A block shows one where a `text` block below says what it prints. A file shows one where a later console starts it,
    tests it or asks its server, or where a block that shows one imports it.
    """
    steps = steps_of(page)
    good = {number for number, step in enumerate(steps) if step.promised is not None or _is_used(steps, number)}
    for number, step in reversed([*enumerate(steps)]):
        if step.name is not None and any(_imports(steps[other].text, step.name) for other in good if other > number):
            good.add(number)
    return [step for number, step in enumerate(steps) if step.kind == "python" and number not in good]


def _is_used(steps: list[Step], number: int) -> bool:
    """Say whether a console below uses a file. A server that runs it may have been started before."""
    name = steps[number].name
    if name is None:
        return False
    commands = [command for step in steps for command in _commands(step)]
    below = [command for step in steps[number:] if step.kind == "console" for command in _commands(step)]
    is_served = any(_runs(command, name) and _server(command) for command in commands)
    if is_served and any("curl " in command for command in below):
        return True
    return any(_runs(command, name) and not _server(command) for command in below)


def _commands(step: Step) -> list[str]:
    if step.kind == "sh":
        return step.text.splitlines()
    return re.findall(r"^\$ (.*)$", step.text, re.M) if step.kind == "console" else []


def _runs(command: str, name: str) -> bool:
    stem = name.rpartition(".")[0]
    if "pytest" in command and stem.startswith(("test_", "conftest")):
        return True
    if stem == "app" and command in ("flask run", "quart run"):
        return True
    return re.search(rf"\b{stem}\b", command) is not None


def _server(command: str) -> str | None:
    """Return how a command that starts a server is told the port; None: it starts none."""
    return next((form for pattern, form in _SERVERS.items() if pattern.fullmatch(command)), None)


def _imports(text: str, name: str) -> bool:
    return re.search(rf"^(from|import) {name.removesuffix('.py')}\b", text, re.M) is not None


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
        self._instead = {**(instead or {})}
        others = {name: value for name, value in os.environ.items() if not name.startswith("ROOMKEY_")}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        self._environment = {**others, "PATH": path, "PYTHONPATH": str(_ROOT / "src"), **variables}
        self._server: subprocess.Popen[bytes] | None = None
        self._log = folder / "server.log"
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
        """Do what a block says that shows nothing. A block without a name is run alone elsewhere."""
        if step.kind == "python":
            if step.name is not None:
                self.save(step.name, step.text)
        elif step.kind == "sh":
            for line in step.text.splitlines():
                assert self._sets_up(line) or _DONE.match(line) or _FORM.match(line), line
        else:
            assert step.kind in {"css", "dockerfile", "html", "ini", "nginx", "text", "yaml"}, step.kind

    def _sets_up(self, command: str) -> bool:
        """Do what `export` does, or start a server; False: the command is another one."""
        export = _EXPORT.fullmatch(command)
        if export is not None:
            self.set_variable(export[1], export[2])
        elif _server(command):
            self.start_server(command)
        return export is not None or _server(command) is not None

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
        form = _server(command)
        assert form is not None, command
        with self._log.open("w") as log:
            self._server = subprocess.Popen(
                ["bash", "-c", f"exec {form.format(command, self._port)}"],
                cwd=self._folder,
                env=self._environment,
                stdout=log,
                stderr=log,
                preexec_fn=_heed_ctrl_c,
                start_new_session=True,
            )
        while self._server.poll() is None:
            try:
                return socket.create_connection(("127.0.0.1", self._port), timeout=HANGS).close()
            except ConnectionRefusedError:
                time.sleep(0.02)
        self._server = None
        raise AssertionError(f"{command} did not start:\n{self._log.read_text()}")

    def stop_server(self) -> None:
        """Press Ctrl-C."""
        if self._server is not None:
            os.killpg(self._server.pid, signal.SIGINT)
            code, self._server = self._server.wait(timeout=HANGS), None
            said = self._log.read_text()
            assert code in (0, -signal.SIGINT) and "Traceback" not in said, said

    def type(self, session: str) -> str:
        """Type the commands of a console session (`$ command`), and return the session as it really is.

        The server is started again first where files have changed since. What a console types before it starts a server
        prepares that, and shows nothing.
        """
        if self._server is not None and self._is_old:
            self.start_server(self._command)
        commands = re.findall(r"^\$ (.*)$", session, re.M)
        assert commands, session
        typed = ""
        for command in commands:
            printed = "" if self._sets_up(command) else self._printed(command)
            typed = f"{typed}$ {command}\n{printed}"
            if _server(command):
                typed = re.sub(r"^(?!\$ ).*\n", "", typed, flags=re.M)
        return typed

    def _printed(self, command: str) -> str:
        printed = self._shell(re.sub(r"\bcurl ", "curl --silent ", command)).replace("\r", "")
        assert printed or "curl" not in command, f"nobody answered: {command}"
        for card in _CARD.findall(printed):
            self._instead["<card>"] = card
        return printed if not printed or printed.endswith("\n") else printed + "\n"

    def _shell(self, command: str) -> str:
        command = _ADDRESS.sub(f"127.0.0.1:{self._port}", command)
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
    r"^(?i:date): .*$": "date: (moment)",
    r"^(?i:server): (?!uvicorn).*$": "server: (version)",
    r"\bsession(id)?=[\w-]{80}\b": r"session\1=...",
    r"^([\w-]+:|Bearer) [\w-]{80}$": r"\1 <card>",
    r"\bcsrftoken=\w+; expires=[^;]+;": "csrftoken=...;",
    r"\b[0-9a-f]{64}\b": "(handle)",
    r"(?<![\w-])[\w-]{86}(?![\w-])": "(CSRF token)",
    r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|\+00:00)?": "(moment)",
    r"'/[^']*/sessions\.sqlite3'": "'(folder)/sessions.sqlite3'",
    r"\bcurl/[\d.]+": "curl/(version)",
    r"\bin \d+\.\d+s\b": "in (seconds)",
    r"(^[.s]+ +\[ *\d+%\]\n?)+": "(progress)\n",
    r"^\d+ passed, \d+ skipped\b": "(some) passed, (some) skipped",  # of stores: their contract grows
    r"^(Set-Cookie:) +": r"\1 ",
    r" +$": "",
}


def lasting(session: str) -> str:
    """Return a console session without what differs each time, such as moments, and the order of the headers."""
    for pattern, mark in _DIFFERS.items():
        session = re.sub(pattern, mark, session, flags=re.M)
    return re.sub(r"(^[\w-]+: .*\n)+", lambda found: "".join(sorted(found[0].splitlines(True))), session, flags=re.M)
