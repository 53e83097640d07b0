"""Redis, PostgreSQL and SQLite with their files in a folder that stays, for `benchmarks.scale`."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import sqlite3
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import asyncpg
import psutil
import redis

from roomkey.stores.base import Record
from roomkey.stores.postgres import PostgresStore
from roomkey.stores.postgres.table import COLUMNS, to_row
from roomkey.stores.redis import RedisStore
from roomkey.stores.redis.scripts import Command
from roomkey.stores.sqlite import SQLiteStore, table
from tests.servers.parts import free_port, give, make_url, nobody
from tests.servers.postgres import postgres_programs
from tests.servers.redis import redis_binary

__all__ = ["ENGINES", "Engine", "Filler"]

Rows = Sequence[tuple[str, Record]]
_PATIENCE = 600.0  # seconds for a server to start or to stop: it reads and writes all of its sessions
_TABLE = "roomkey_session"


class Filler:
    """Puts many records into a store, as fast as the engine takes them."""

    async def put(self, rows: Rows) -> None:
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError


class Engine:
    """One engine that keeps its sessions in a folder.

    Args:
        folder: where; made where it is missing.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    sizes: ClassVar[tuple[int, int]]
    may_grow: ClassVar[float]  # times, from the smaller size to the larger
    workers: ClassVar[int] = 2  # processes that fill it at once
    url: str

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    async def start(self) -> None:
        """Start it, and make what is missing."""

    async def settle(self) -> None:
        """Do after the filling what the engine does by itself in time."""

    def stop(self, *, keep: bool) -> None:
        """Stop it. `keep`: its sessions are there when it starts again."""

    def count(self) -> int:
        """Return how many records there are, about."""
        raise NotImplementedError

    def size(self) -> int:
        """Return how many bytes it takes."""
        raise NotImplementedError

    def version(self) -> str:
        raise NotImplementedError

    def busy(self) -> float | None:
        """Return for how many seconds its processes have computed so far; None where it has none of its own."""
        if self.process is None:
            return None
        processes = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children()]
        return sum(_computed(process.pid) for process in processes)

    def notes(self) -> dict[str, str]:
        """Return what else there is to say of it after the operations."""
        return {}

    @staticmethod
    async def filler(url: str) -> Filler:
        raise NotImplementedError


def _computed(pid: int) -> float:
    """Return for how many seconds a process has had a processor. (`/proc/PID/stat` counts in hundredths.)"""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
    except (FileNotFoundError, ProcessLookupError):
        return 0.0


class Redis(Engine):
    """Redis without files while it runs. What it kept is written when it stops."""

    name, title, sizes, may_grow = "redis", "Redis", (1_000_000, 10_000_000), 1.15

    async def start(self) -> None:
        port = free_port()
        self.url = f"redis://127.0.0.1:{port}/0"
        command = [redis_binary(), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        command += ["--save", "", "--appendonly", "no", "--rdbcompression", "no"]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is not for it: it has to write what it has
            )
        self._client = redis.Redis(port=port)
        end = time.monotonic() + _PATIENCE
        while True:
            try:
                self._client.ping()
                break
            except redis.RedisError:
                if self.process.poll() is not None or time.monotonic() > end:
                    raise
                await asyncio.sleep(0.1)
        self._empty = 1_000_000 if self.count() else self._used()

    def stop(self, *, keep: bool) -> None:
        if self.process is not None:
            self._client.shutdown(save=keep, nosave=not keep)
            self.process.wait(_PATIENCE)

    def count(self) -> int:
        return int(self._client.dbsize()) * 2 // 3  # a list for each two sessions

    def size(self) -> int:
        return self._used() - self._empty

    def _used(self) -> int:
        return int(self._client.info("memory")["used_memory"])

    def version(self) -> str:
        return str(self._client.info("server")["redis_version"])

    def notes(self) -> dict[str, str]:
        memory = self._client.info("memory")
        return {"resident memory": f"{memory['used_memory_rss'] / 2**20:,.0f} MiB"}

    @staticmethod
    async def filler(url: str) -> Filler:
        store, (host, _, port) = RedisStore(url), urlsplit(url).netloc.partition(":")
        first = os.urandom(32).hex()
        await store.create(first, Record(b"", 1, 0.0, time.time() + 60, "first"))  # the server knows the script now
        await store.delete(first)
        await store.close()
        return _PipeFiller(url, socket.create_connection((host, int(port))))


class _Commands:
    """In the place of the store's connections: keeps the commands that would be sent."""

    def __init__(self) -> None:
        self.writes = self
        self.packed: list[bytes] = []

    async def ask(self, command: Command) -> int:
        self.packed.append(command.packed())
        return 1


class _PipeFiller(Filler):
    """The store's own commands, many in a pipeline."""

    def __init__(self, url: str, connection: socket.socket) -> None:
        self._commands = _Commands()
        self._store = RedisStore(url)
        self._store._link = lambda: self._commands  # type: ignore[method-assign, assignment, return-value]
        self._connection = connection

    async def put(self, rows: Rows) -> None:
        for start in range(0, len(rows), 500):
            for key, record in rows[start : start + 500]:
                await self._store.create(key, record)  # waits for nothing
            packed, self._commands.packed = self._commands.packed, []
            self._connection.sendall(b"".join(packed))
            expected, answers = b":1\r\n" * len(packed), b""
            while len(answers) < len(expected):
                answers += self._connection.recv(65536)
            assert answers == expected, answers[:200]

    async def close(self) -> None:
        self._connection.close()


class Postgres(Engine):
    """PostgreSQL with its files in the folder. Operations do not wait for the disk, whose moods would hide a growth."""

    name, title, sizes, may_grow = "postgres", "PostgreSQL", (1_000_000, 5_000_000), 1.5
    partitions: ClassVar[int | None] = None

    async def start(self) -> None:
        programs, data, secret = postgres_programs(), self.folder / "data", self.folder / "password"
        if not data.exists():
            secret.write_text(secrets.token_hex(12))
            give(self.folder, secret)
            command = [programs / "initdb", f"--pgdata={data}", "--username=roomkey", f"--pwfile={secret}"]
            command += ["--auth=scram-sha-256", "--encoding=UTF8", "--no-locale"]
            subprocess.run(command, check=True, capture_output=True, cwd="/", **nobody())  # type: ignore[call-overload]
        port = free_port()
        command = [programs / "postgres", "-D", data, "-p", str(port), "-c", "listen_addresses=127.0.0.1"]
        for setting in (
            f"unix_socket_directories={self.folder}",
            "shared_buffers=512MB",
            "maintenance_work_mem=512MB",
            "max_wal_size=8GB",
        ):
            command += ["-c", setting]
        with (self.folder / "log").open("ab") as log:
            give(self.folder / "log")
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd="/", start_new_session=True, **nobody()
            )  # type: ignore[call-overload]
        where = make_url("postgresql", "roomkey", secret.read_text(), port, "postgres", {})
        self.url = f"{where}?synchronous_commit=off"
        end = time.monotonic() + _PATIENCE
        while True:
            try:
                self._admin = await asyncpg.connect(where)
                break
            except (OSError, asyncpg.CannotConnectNowError):
                if self.process.poll() is not None or time.monotonic() > end:
                    raise
                await asyncio.sleep(0.1)
        store = PostgresStore(self.url)
        await store.create_table(partitions=self.partitions)
        await store.close()
        await self._look()

    async def settle(self) -> None:
        await self._admin.execute(f"VACUUM (ANALYZE) {_TABLE}")
        await self._admin.execute("CHECKPOINT")
        await self._look()

    async def _look(self) -> None:
        whole = f"'{_TABLE}'::regclass"
        parts = f"SELECT {whole} UNION ALL SELECT inhrelid FROM pg_inherits WHERE inhparent = {whole}"
        self._count = await self._admin.fetchval(f"SELECT count(*) FROM {_TABLE}")
        self._size = await self._admin.fetchval(
            f"SELECT sum(pg_total_relation_size(p))::bigint FROM ({parts}) AS t (p)"
        )
        self._version = await self._admin.fetchval("SHOW server_version")

    async def look_at_updates(self) -> str:
        """Return how many of the updates stayed on their page."""
        await asyncio.sleep(2)  # server processes tell their counts once a second
        updates, hot = await self._admin.fetchrow(
            "SELECT sum(n_tup_upd), sum(n_tup_hot_upd) FROM pg_stat_user_tables WHERE relname LIKE 'roomkey_session%'"
        )
        return f"{hot} of {updates} updates stayed on their page"

    def stop(self, *, keep: bool) -> None:
        if self.process is not None:
            self.process.send_signal(2)  # SIGINT: a fast shutdown
            self.process.wait(_PATIENCE)

    def count(self) -> int:
        return int(self._count)

    def size(self) -> int:
        return int(self._size)

    def version(self) -> str:
        return str(self._version)

    @staticmethod
    async def filler(url: str) -> Filler:
        return _CopyFiller(await asyncpg.connect(url.partition("?")[0]))


class PostgresInParts(Postgres):
    """The same, in 16 hash partitions."""

    name, title, partitions = "postgres-16", "PostgreSQL, 16 partitions", 16


class _CopyFiller(Filler):
    """By COPY."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def put(self, rows: Rows) -> None:
        records = [(key, *to_row(record), record.expires_at) for key, record in rows]
        await self._connection.copy_records_to_table(_TABLE, records=records, columns=list(COLUMNS)[:-1])

    async def close(self) -> None:
        await self._connection.close()


class SQLite(Engine):
    """One file in the folder."""

    name, title, sizes, may_grow, workers = "sqlite", "SQLite", (1_000_000, 5_000_000), 1.5, 1

    @property
    def _path(self) -> Path:
        return self.folder / "sessions.sqlite3"

    async def start(self) -> None:
        self.url = f"sqlite:///{self._path}"
        store = SQLiteStore(self._path)
        await store.open()
        await store.close()

    async def settle(self) -> None:
        with sqlite3.connect(self._path) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.execute("ANALYZE")
        connection.close()
        os.sync()

    def count(self) -> int:
        connection = sqlite3.connect(self._path)
        (count,) = connection.execute("SELECT count(*) FROM session").fetchone()
        connection.close()
        return int(count)

    def size(self) -> int:
        return self._path.stat().st_size

    def version(self) -> str:
        return sqlite3.sqlite_version

    @staticmethod
    async def filler(url: str) -> Filler:
        return _FileFiller(url.removeprefix("sqlite:///"))


class _FileFiller(Filler):
    """With the store's own statements, many in a transaction, and without waiting for the disk."""

    def __init__(self, path: str) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        for pragma in ("synchronous = OFF", "cache_size = -1000000", "wal_autocheckpoint = 20000"):
            self._connection.execute(f"PRAGMA {pragma}")

    async def put(self, rows: Rows) -> None:
        now = time.time()
        self._connection.execute("BEGIN")
        for key, record in rows:
            table.create(self._connection, now, key, record)
        self._connection.execute("COMMIT")

    async def close(self) -> None:
        self._connection.close()


ENGINES: dict[str, type[Engine]] = {engine.name: engine for engine in (Redis, Postgres, PostgresInParts, SQLite)}
