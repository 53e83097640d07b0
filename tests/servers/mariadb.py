"""A real MariaDB server for tests: a database of its own in a temporary directory, on a free port of this machine.

Where its program is found, in this order: the path in the environment variable ROOMKEY_TEST_MARIADB_BIN, then
`mariadbd` or `mysqld` on the PATH, in /usr/sbin, in /usr/libexec. (There seems to be no wheel that brings one.)
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from tests.servers import skip_if_left_out
from tests.servers.parts import Running, free_port, freeze, give, make_url, nobody

__all__ = ["MariaDBServer", "mariadb_binary"]

_STARTS_WITHIN = 120.0  # seconds
_STOPS_WITHIN = 120.0  # seconds


def mariadb_binary() -> Path:
    """Return the path of the server's program.

    Raises:
        RuntimeError: there is none; the message says what to install.
    """
    skip_if_left_out("mariadb")
    named = os.environ.get("ROOMKEY_TEST_MARIADB_BIN")
    if named:
        if not os.access(named, os.X_OK) or os.path.isdir(named):
            raise RuntimeError(f"ROOMKEY_TEST_MARIADB_BIN names {named!r}, which is no program that can be run")
        return Path(named)
    places = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/libexec"])
    for name in ("mariadbd", "mysqld"):
        found = shutil.which(name, path=places)
        if found:
            return Path(found)
    raise RuntimeError(
        "these tests need a MariaDB server: apt-get install mariadb-server (dnf: mariadb-server, brew: mariadb), or "
        "set ROOMKEY_TEST_MARIADB_BIN to the path of mariadbd"
    )


class MariaDBServer(Running):
    """One server. Use it as a context manager, or call `start` and `stop`, and `remove` in the end.

    Args:
        *options: of the server, such as "--max-connections=20"; they come after, and so override, what is set here.

    Raises:
        RuntimeError: MariaDB is not installed, or does not start.
    """

    user = "roomkey"
    database = "roomkey"

    def __init__(self, *options: str) -> None:
        self._binary = mariadb_binary()
        self._options = options
        self.password = secrets.token_hex(12)
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        # Short: the path of the socket in it must have fewer than 108 bytes.
        self.directory = Path(tempfile.mkdtemp(prefix="rk-my-", dir="/tmp"))
        self._log = self.directory / "log"
        try:
            self._make_files()
        except BaseException:
            self.remove()
            raise

    @property
    def url(self) -> str:
        """With the password in it, of a user who may do everything."""
        return self.url_for()

    def url_for(
        self, *, user: str | None = None, password: str | None = None, database: str | None = None, **query: str
    ) -> str:
        """Return a URL that differs in some of its parts."""
        who = (user or self.user, password or self.password)
        return make_url("mysql", *who, self.port, database or self.database, query)

    async def run(self, *statements: str) -> list[Any]:
        """Run an administrator's statements, one by one; return the rows of the last."""
        rows: list[Any] = []
        engine = create_async_engine(self.url.replace("mysql://", "mysql+asyncmy://"), isolation_level="AUTOCOMMIT")
        async with engine.connect() as connection:
            for statement in statements:
                answer = await connection.execute(text(statement))
                rows = list(answer.mappings()) if answer.returns_rows else []
        await engine.dispose()
        return rows

    def start(self) -> None:
        """Start it, and return when it takes connections."""
        assert self._process is None, "it runs"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._binary), *self._arguments()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a process group of its own: Ctrl-C in the tests is not for it
                cwd="/",
                **nobody(),
            )
        deadline = time.monotonic() + _STARTS_WITHIN
        while not self._greets():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"MariaDB did not start: {self.log[-2000:]}")
            time.sleep(0.01)

    def stop(self) -> None:
        """Shut it down as an administrator does; fine when it is down."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once, as a crash does."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop it and start it on the same port, with the same data."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze it: connections stay open, and nothing is answered."""
        assert self._process is not None, "it does not run"
        freeze(self._process.pid)

    def resume(self) -> None:
        """Let it go on after `pause`."""
        assert self._process is not None, "it does not run"
        self._process.send_signal(signal.SIGCONT)

    def remove(self) -> None:
        """Stop it and delete its files."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def log(self) -> str:
        """What it has logged so far."""
        try:
            return self._log.read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def _make_files(self) -> None:
        give(self.directory)
        data = self.directory / "data"
        tool = _install_tool(self._binary)
        if tool is None:  # MySQL has no such tool
            command = [str(self._binary), "--no-defaults", "--initialize-insecure", f"--datadir={data}"]
        else:
            command = [
                str(tool),
                "--no-defaults",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                f"--datadir={data}",
                *_SMALL,
            ]
        # Temporary files of its own: a server that starts removes those of others.
        environment = {**os.environ, "TMPDIR": str(self.directory)}
        made = subprocess.run(command, cwd="/", capture_output=True, text=True, env=environment, **nobody())
        if made.returncode != 0:
            raise RuntimeError(f"MariaDB's files could not be made: {(made.stdout + made.stderr)[-2000:]}")
        # Run at each start, before anyone is let in.
        account = f"'{self.user}'@'%'"
        first = self.directory / "first.sql"
        first.write_text(
            f"CREATE DATABASE IF NOT EXISTS {self.database};\n"
            f"CREATE USER IF NOT EXISTS {account} IDENTIFIED BY '{self.password}';\n"
            f"GRANT ALL PRIVILEGES ON *.* TO {account} WITH GRANT OPTION;\n"
        )
        first.chmod(0o600)
        give(first)

    def _arguments(self) -> list[str]:
        return [
            "--no-defaults",
            f"--datadir={self.directory / 'data'}",
            f"--socket={self.directory / 's'}",
            f"--pid-file={self.directory / 'pid'}",
            f"--tmpdir={self.directory}",
            f"--port={self.port}",
            "--bind-address=127.0.0.1",
            "--skip-name-resolve",
            f"--init-file={self.directory / 'first.sql'}",
            *_SMALL,
            *self._options,
        ]

    def _greets(self) -> bool:
        """Whether it says hello: it listens before it is ready, and says nothing until then."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
                return len(connection.recv(5)) == 5  # four bytes of header, one of the protocol's version
        except OSError:
            return False

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)  # a paused one would not listen
        try:
            process.wait(_STOPS_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(_STOPS_WITHIN)


# For speed: little memory, small files, and writes that are not forced to the disk. (They outlive a killed server.)
_SMALL = (
    "--innodb-flush-log-at-trx-commit=2",
    "--innodb-flush-method=nosync",
    "--innodb-doublewrite=0",
    "--innodb-buffer-pool-size=16M",
    "--innodb-log-file-size=8M",
)


def _install_tool(binary: Path) -> Path | None:
    """Return the tool that makes the files of a new server; None: MySQL, whose server does it itself."""
    near = [binary.resolve().parent, *(binary.resolve().parent.parent / name for name in ("bin", "scripts"))]
    places = os.pathsep.join([*(str(place) for place in near), os.environ.get("PATH", ""), "/usr/bin"])
    for name in ("mariadb-install-db", "mysql_install_db"):
        found = shutil.which(name, path=places)
        if found:
            return Path(found)
    return None
