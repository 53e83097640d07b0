"""A connection that the driver has made and logged in, driven without the driver.

The driver reads through asyncio's streams and through several coroutines for each answer.

Leaves to the driver what comes before (addresses, TLS, the log-in, the database) and what comes after (closing).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

try:
    import hiredis
except ImportError:  # the driver works without it, and carries the round trips then
    hiredis = None  # type: ignore[assignment]

__all__ = ["Wire", "take_over"]

_INCOMPLETE = object()  # what the parser returns while an answer is not all there


class Wire(asyncio.Protocol):
    """One connection. It carries one round trip at a time.

    Args:
        transport: of the connection.
        streams: the driver's own protocol, which is told when the connection ends.
        errors: makes the driver's exceptions from what the server says.
    """

    def __init__(
        self, transport: asyncio.Transport, streams: asyncio.BaseProtocol, errors: Callable[[str], Exception]
    ) -> None:
        self._transport = transport
        self._streams = streams
        self._new_future = asyncio.get_running_loop().create_future
        self._reader = hiredis.Reader(protocolError=ConnectionError, replyError=errors, notEnoughData=_INCOMPLETE)
        self._waiting: asyncio.Future[list[Any]] | None = None  # None: no round trip is under way
        self._answers: list[Any] = []
        self._count = 0  # of the answers that are to come

    def exchange(self, commands: bytes, count: int) -> asyncio.Future[list[Any]]:
        """Send packed commands.

        Args:
            commands: one after the other.
            count: how many there are.

        Returns:
            The answers, in order. An exception in place of one stands for an error, or for an answer that was lost.
            Whoever stops waiting for them has to close the connection: the next round trip would get them.
        """
        waiting = self._waiting = self._new_future()
        self._answers, self._count = [], count
        self._transport.write(commands)
        return waiting

    def is_closing(self) -> bool:
        """Whether it cannot be used any more."""
        return self._transport.is_closing()

    def data_received(self, data: bytes) -> None:
        """Take what the server sent."""
        answers = self._answers
        try:
            self._reader.feed(data)
            while (answer := self._reader.gets()) is not _INCOMPLETE:
                answers.append(answer)
        except Exception as error:  # this is another protocol
            self._break(error)
            return
        if len(answers) >= self._count:
            waiting, self._waiting = self._waiting, None
            if waiting is None or len(answers) > self._count:  # nobody asked for this
                self._waiting = waiting
                self._break(ConnectionError("the server said something that nobody asked for"))
            elif not waiting.done():
                waiting.set_result(answers)

    def connection_lost(self, error: Exception | None) -> None:
        """Let nobody wait for what cannot come any more."""
        self._end(error or ConnectionResetError("the server closed the connection"))
        self._streams.connection_lost(error)

    def _break(self, error: Exception) -> None:
        self._answers = []
        self._end(error)
        self._transport.abort()

    def _end(self, error: Exception) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_result(self._answers + [error] * (self._count - len(self._answers)))


def take_over(connection: Any) -> Wire | None:
    """Return the wire of a connection that the driver has made; None where the driver has to stay in between."""
    if hiredis is None or connection.protocol not in (2, "2") or connection.socket_timeout is not None:
        return None
    transport = connection._writer.transport
    wire = Wire(transport, transport.get_protocol(), connection._parser.parse_error)
    transport.set_protocol(wire)
    return wire
