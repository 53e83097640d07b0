"""A TCP proxy that misbehaves on request: in front of a real server, it is the network's faults."""

from __future__ import annotations

import asyncio

__all__ = ["Proxy"]


class Proxy:
    """Passes bytes on to a port of this machine; in use as an async context manager.

    Args:
        target: the port of the server.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.delay = 0.0  # seconds before each piece of an answer
        self.cut_after: int | None = None  # bytes of an answer after which the connection is reset; None: never
        self.connections = 0  # open now
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        writers = [writer]
        try:
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self.target)
            writers.append(there_writer)
            await asyncio.gather(self._ask(reader, there_writer), self._answer(there_reader, writer))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for each in writers:
                each.transport.abort()
            self.connections -= 1
            self._tasks.discard(task)

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(65536):
            writer.write(piece)
            await writer.drain()
        writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(65536):
            if self.delay:
                await asyncio.sleep(self.delay)
            if self.cut_after is not None:
                writer.write(piece[: self.cut_after])
                await asyncio.sleep(0)
                writer.transport.abort()
                raise ConnectionResetError
            writer.write(piece)
            await writer.drain()
        writer.transport.abort()
