"""What reaches a store's server: commands, and round trips."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from typing import Protocol, Self
from urllib.parse import urlsplit, urlunsplit

__all__ = ["CountingProxy", "Engine", "PostgresEngine", "RedisEngine", "usual"]


class Engine(Protocol):
    """A server that counts what it is asked."""

    title: str
    unit: str  # what `counter` counts
    url: str
    version: str

    async def counter(self) -> int:
        """Return how many units there were since the server started, its own for this question left out."""
        ...

    def commands(self) -> contextlib.AbstractAsyncContextManager[Counter[str]]:
        """Fill the counter with the commands that reach the server during the block."""
        ...


class RedisEngine:
    """Redis. Commands that a script runs inside the server are not counted.

    Args:
        url: of the server.
    """

    title = "Redis"
    unit = "reads of sockets"

    def __init__(self, url: str) -> None:
        from redis import Redis

        self.url = url
        self._client = Redis.from_url(url)
        self._asked = 0
        self.version = str(self._client.info("server")["redis_version"])

    async def counter(self) -> int:
        self._asked += 1
        return int(self._client.info("stats")["total_reads_processed"]) - self._asked

    @contextlib.asynccontextmanager
    async def commands(self) -> AsyncIterator[Counter[str]]:
        port = urlsplit(self.url).port
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        found: Counter[str] = Counter()
        writer.write(b"MONITOR\r\n")
        await reader.readline()
        try:
            yield found
            self._client.ping()  # the mark of the end
            while (line := (await reader.readline()).decode(errors="replace")) and '"PING"' not in line:
                if " lua] " not in line:
                    found[line.split('"')[1].upper()] += 1
        finally:
            writer.close()


class PostgresEngine:
    """PostgreSQL, with `pg_stat_statements` among its libraries.

    Args:
        url: of the server.
    """

    title = "PostgreSQL"
    unit = "statements"

    def __init__(self, url: str) -> None:
        import psycopg

        self.url = url
        self._connection = psycopg.connect(url, autocommit=True)
        self._connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
        self.version = str(self._connection.info.server_version // 10000)

    async def counter(self) -> int:
        return self._calls().total()

    @contextlib.asynccontextmanager
    async def commands(self) -> AsyncIterator[Counter[str]]:
        found: Counter[str] = Counter()
        before = self._calls()
        yield found
        found.update(self._calls() - before)

    def _calls(self) -> Counter[str]:
        """Return how often statements ran that begin with the same word, without our own."""
        rows = self._connection.execute("SELECT query, calls FROM pg_stat_statements").fetchall()
        found: Counter[str] = Counter()
        for query, calls in rows:
            if "pg_stat_statements" not in query:
                found[query.split(None, 1)[0].upper()] += calls
        return found


def usual(commands: Counter[str], requests: int) -> str:
    """Return the commands of one request as text. What is rarer than one in ten requests is left out."""
    often = [(name, number / requests) for name, number in commands.most_common() if number >= requests / 10]
    return " + ".join(f"{number:.3g} {name}" for name, number in often) or "none"


class CountingProxy:
    """Passes bytes on to the server of a URL, and counts round trips: how often a side that has listened asks again.

    Args:
        url: of a server on this machine.
    """

    def __init__(self, url: str) -> None:
        self.turns = 0
        self.url = ""  # of the proxy, once it runs
        self._parts = urlsplit(url)
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port, parts = self._server.sockets[0].getsockname()[1], self._parts
        self.url = urlunsplit(parts._replace(netloc=parts.netloc.replace(f":{parts.port}", f":{port}")))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._parts.port)
        listening = True

        async def ask() -> None:
            nonlocal listening
            with contextlib.suppress(OSError):  # some clients reset the connection
                while piece := await reader.read(65536):
                    self.turns += listening
                    listening = False
                    there_writer.write(piece)
            there_writer.close()

        async def answer() -> None:
            nonlocal listening
            with contextlib.suppress(OSError):
                while piece := await there_reader.read(65536):
                    listening = True
                    writer.write(piece)
            writer.close()

        for half in (ask, answer):
            task = asyncio.create_task(half())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
