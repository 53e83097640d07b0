"""A real PgBouncer for tests, in front of a PostgreSQL server of theirs, on a free port of this machine."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from tests.servers import skip_if_left_out
from tests.servers.parts import Running, free_port, give, make_url, nobody
from tests.servers.postgres import PostgresServer

__all__ = ["PgBouncer", "pgbouncer_binary"]

_PATIENCE = 120.0  # seconds for it to start or to stop


def pgbouncer_binary() -> Path:
    """Return the path of the program.

    Raises:
        RuntimeError: there is none; the message says what to install.
    """
    skip_if_left_out("pgbouncer")
    found = shutil.which("pgbouncer", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))
    if found is None:
        raise RuntimeError("these tests need PgBouncer: apt-get install pgbouncer")
    return Path(found)


class PgBouncer(Running):
    """One pooler, as a context manager.

    Args:
        server: where its connections go.
        pool_mode: "transaction" or "session".
        **settings: more of its settings, such as `default_pool_size="2"`.
    """

    def __init__(self, server: PostgresServer, *, pool_mode: str = "transaction", **settings: str) -> None:
        self._binary = pgbouncer_binary()
        self.server = server
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.directory = Path(tempfile.mkdtemp(prefix="rk-pb-", dir="/tmp"))
        users = self.directory / "users"
        users.write_text(f'"{server.user}" "{server.password}"\n')
        users.chmod(0o600)
        values = {
            "listen_addr": "127.0.0.1",
            "listen_port": str(self.port),
            "unix_socket_dir": "",
            "auth_type": "scram-sha-256",
            "auth_file": str(users),
            "pool_mode": pool_mode,
            "default_pool_size": "2",
            "server_tls_sslmode": "disable",
            **settings,
        }
        lines = [f"* = host=127.0.0.1 port={server.port}", "[pgbouncer]"]
        self._config = self.directory / "pgbouncer.ini"
        self._config.write_text("[databases]\n" + "\n".join([*lines, *(f"{k} = {v}" for k, v in values.items())]))
        give(self.directory, users, self._config)

    def url(self, **query: str) -> str:
        """With the password in it."""
        server = self.server
        return make_url("postgresql", server.user, server.password, self.port, server.database, query)

    def start(self) -> None:
        """Start it, and return when it takes connections."""
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._binary, self._config],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
                **nobody(),
            )
        deadline = time.monotonic() + _PATIENCE
        while not self._listens():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PgBouncer did not start: {(self.directory / 'log').read_text()[-2000:]}")
            time.sleep(0.01)

    def remove(self) -> None:
        """Stop it and delete its files."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGTERM)
            process.wait(_PATIENCE)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=10).close()
        except OSError:
            return False
        return True
