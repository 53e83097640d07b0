"""What says in a process that keys have changed: the server's client tracking, over one connection.

The connection speaks the server's newer protocol (RESP3), in which notices and answers come in one order. So the answer
to a question says that everything was heard that had changed when it was asked. It is asked several times within
`near_max_age`: for the generation, so that a node of a cluster that has lost the slot says so.

The server tells of every change below the prefix (`BCAST`), and not only of keys that were read here. So the
connections that load need no setting up, which may be the app's own. The server keeps no table of who has read what,
and there is nothing that a connection which was replaced would have forgotten. The price is a notice to each process
for each change of any session.

The connection also subscribes to a channel on which nobody says anything. By that the server counts it among those
that it closes when they fall behind (`client-output-buffer-limit pubsub`), and does not collect notices without end
for a process that stands still.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

from roomkey.errors import ConfigurationError
from roomkey.stores.forks import abandon, at_fork
from roomkey.stores.near import Listener, Listeners, elapsed
from roomkey.stores.redis.errors import is_permanent
from roomkey.stores.redis.places import KEY_LENGTH
from roomkey.stores.redis.scripts import pack

try:
    import hiredis
except ImportError:  # the driver works without it
    hiredis = None  # type: ignore[assignment]

__all__ = ["Tracking"]

_log = logging.getLogger("roomkey")

_BEATS = 4  # questions within `max_age`
_BEAT_MOST = 2.0  # seconds between them at most
_SILENT_LEAST, _SILENT_MOST = 1.0, 10.0  # seconds without an answer, after which the connection is given up
_CONNECTING = 2.0  # seconds that connecting may take
_PAUSE_LEAST, _PAUSE_MOST = 0.05, 2.0  # seconds between two tries to connect
_REFUSED_PAUSE = 30.0  # seconds between them where the server refuses
_CHANNEL = b"roomkey:near"
_INCOMPLETE = object()  # what the parser returns while an answer is not all there
_NEVER = float("-inf")


class _Ear(asyncio.Protocol):
    """The connection, once the driver has made it and logged in."""

    def __init__(self, tracking: Tracking, connection: Any) -> None:
        self._tracking = tracking
        self._transport: asyncio.Transport = connection._writer.transport
        self._streams = self._transport.get_protocol()
        self._reader = hiredis.Reader(protocolError=ConnectionError, replyError=_Refused, notEnoughData=_INCOMPLETE)
        self._asked: list[float] = []  # when the questions were asked that are not answered yet
        self._connection = connection  # kept: to drop it is to close it
        self._transport.set_protocol(self)

    def ask(self, command: bytes) -> None:
        self._asked.append(elapsed())
        self._transport.write(command)

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
            while (answer := self._reader.gets()) is not _INCOMPLETE:
                if type(answer) is not hiredis.PushNotification:
                    self._tracking.answered(self, answer, self._asked.pop(0))
                elif answer[0] == b"invalidate":
                    self._tracking.changed(answer[1])
                elif answer[0] == b"subscribe":
                    self._tracking.answered(self, answer, self._asked.pop(0))
        except Exception as error:  # this is another protocol
            self._tracking.lost(self, error)

    def connection_lost(self, error: Exception | None) -> None:
        self._streams.connection_lost(error)
        self._tracking.lost(self, error or ConnectionResetError("the server closed the connection"))

    async def close(self) -> None:
        self._transport.abort()
        await self._connection.disconnect(nowait=True)


class _Refused(Exception):
    """The server refuses a command."""


class _Stage(enum.Enum):
    """How far the connection has come."""

    OFF = enum.auto()
    SUBSCRIBING = enum.auto()
    SWITCHING_ON = enum.auto()
    ON = enum.auto()  # the server tells it of changes


class Tracking:
    """The notices of one server, for all event loops of a process. One of them has the connection.

    Args:
        make: returns a connection, which is not connected yet.
        enter: is called in the event loop that gets the connection, so that it is closed with the loop.
        beginnings: of the names of keys that are told of. None may be the beginning of another one.
        question: is asked to know what was heard, packed.
        shown: the store, for people.
    """

    def __init__(
        self,
        make: Callable[[], Any],
        enter: Callable[[], None],
        beginnings: Sequence[bytes],
        question: bytes,
        shown: str,
    ) -> None:
        if hiredis is None:
            raise ConfigurationError("near_cache: on Redis it needs the package hiredis: pip install 'roomkey[redis]'")
        self.is_complete: bool = True
        self.heard: float = _NEVER  # all that had changed by then was told; on `elapsed`
        self._make_connection, self._enter, self._shown = make, enter, shown
        self._beginnings, self._question = beginnings, question
        self._listeners = Listeners()
        self._lock = threading.Lock()  # held while it is decided which event loop has the connection
        self._forget()
        at_fork(self)

    def _forget(self) -> None:
        self.heard = _NEVER
        self._loop: asyncio.AbstractEventLoop | None = None  # that has the connection; None: none
        self._ear: _Ear | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()  # of connections that are of no more use
        self._stage = _Stage.OFF
        self._generation: object = None
        self._pause = _PAUSE_LEAST
        self._has_warned = False
        self._opened: asyncio.Future[Exception | None] | None = None

    # --- what a near asks -----------------------------------------------------------------------------------------

    def add(self, listener: Listener, max_age: float) -> None:
        self._listeners.add(listener, max_age)

    def hold(self, max_age: float) -> bool:
        return elapsed() - self.heard < max_age

    def begin(self) -> None:
        loop = self._loop
        if loop is not None and not loop.is_closed():
            return
        with self._lock:
            if self._loop is not loop:
                return
            if loop is not None:
                self._listeners.forget_all()
                self._forget()
            self._loop = asyncio.get_running_loop()
        self._enter()
        self._start()

    async def open(self) -> None:
        self.begin()
        if self._loop is not asyncio.get_running_loop() or self._stage is _Stage.ON:
            return
        opened = self._opened = self._opened or self._loop.create_future()
        error = await opened
        if error is not None and _is_refused(error):
            raise ConfigurationError(f"near_cache: {self._shown} refuses CLIENT TRACKING ({_code(error)})")

    async def close(self) -> None:
        """Close the connection. Called in its event loop; another one may have the next connection."""
        if self._loop is not asyncio.get_running_loop():
            return
        ear, timer, connecting, opened = self._ear, self._timer, self._connecting, self._opened
        self._forget()
        self._listeners.forget_all()
        if timer is not None:
            timer.cancel()
        if connecting is not None:
            connecting.cancel()
            await asyncio.wait([connecting])
        if opened is not None and not opened.done():
            opened.set_result(None)
        if ear is not None:
            await ear.close()
        if self._closing:
            await asyncio.wait(self._closing)

    def after_fork(self) -> None:
        """In the child of a fork: the connection is the parent's."""
        abandon((self._ear, self._timer, self._connecting, self._loop, self._opened))
        self._lock = threading.Lock()
        self._forget()

    # --- the connection -------------------------------------------------------------------------------------------

    def _start(self) -> None:
        self._timer = None
        if self._loop is not None:
            self._connecting = self._loop.create_task(self._make())

    async def _make(self) -> None:
        try:
            async with asyncio.timeout(_CONNECTING):
                connection = await _connected(self._make_connection())
        except Exception as error:
            self._connecting = None
            self._failed(error)
            return
        self._connecting = None
        ear = self._ear = _Ear(self, connection)
        self._stage = _Stage.SUBSCRIBING
        # First, and alone: where it is refused, that is an answer, and otherwise it is none.
        ear.ask(pack((b"SUBSCRIBE", _CHANNEL)))
        self._wait(self._patience, self._give_up)

    def answered(self, ear: _Ear, answer: object, asked: float) -> None:
        """The server has answered a question that was asked then."""
        if ear is not self._ear or self._loop is None:
            return
        if self._stage is _Stage.SUBSCRIBING:  # or the user may not: then the server's other limits have to do
            self._stage = _Stage.SWITCHING_ON
            prefixes = [each for beginning in self._beginnings for each in (b"PREFIX", beginning)]
            ear.ask(pack((b"CLIENT", b"TRACKING", b"ON", b"BCAST", *prefixes)))
            return
        if isinstance(answer, Exception):
            self.lost(ear, answer)
            return
        if self._stage is _Stage.SWITCHING_ON:
            # Loads from before this moment may be of what was changed before this moment: none of them is kept.
            self._listeners.forget_all()
            self._stage = _Stage.ON
            self._beat()
            return
        if answer != self._generation:
            self._listeners.forget_all()
            self._generation = answer
        self.heard = asked
        self._pause = _PAUSE_LEAST
        if self._has_warned:
            self._has_warned = False
            _log.warning("near_cache: %s says again what changes; sessions are served from memory again", self._shown)
        if self._opened is not None and not self._opened.done():
            self._opened.set_result(None)
        self._wait(min(self._listeners.max_age / _BEATS, _BEAT_MOST), self._beat)

    def changed(self, keys: Any) -> None:
        """The server says that keys have changed. None: any may have."""
        if keys is None:
            self._listeners.forget_all()
            return
        for name in keys:
            if name[-KEY_LENGTH - 2 : -KEY_LENGTH] == b"s:":
                self._listeners.forget(name[-KEY_LENGTH:].decode(errors="replace"))
            else:  # a generation: all records of another one are gone
                self._listeners.forget_all()

    def lost(self, ear: _Ear, error: Exception) -> None:
        """The connection is of no more use."""
        if ear is not self._ear:
            return
        self.heard = _NEVER
        self._listeners.forget_all()
        self._ear, self._stage, self._generation = None, _Stage.OFF, None
        closing = asyncio.get_running_loop().create_task(ear.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
        self._failed(error)

    def _failed(self, error: Exception) -> None:
        if self._opened is not None and not self._opened.done():
            self._opened.set_result(error)
        loop = self._loop
        if loop is None or loop.is_closed():
            return
        if not self._has_warned:
            self._has_warned = True
            what = self._shown, _code(error)
            if _is_refused(error):
                _log.warning("near_cache: %s refuses CLIENT TRACKING (%s): sessions are read from the store", *what)
            else:
                _log.warning(
                    "near_cache: the connection on which %s says what changes is lost (%s): sessions are read from the "
                    "store until there is another",
                    *what,
                )
        self._wait(_REFUSED_PAUSE if _is_refused(error) else self._pause, self._start)
        self._pause = min(2 * self._pause, _PAUSE_MOST)

    def _beat(self) -> None:
        ear = self._ear
        if ear is not None:
            ear.ask(self._question)
            self._wait(self._patience, self._give_up)

    def _give_up(self) -> None:
        if self._ear is not None:
            self.lost(self._ear, TimeoutError("no answer"))

    @property
    def _patience(self) -> float:
        """Seconds for an answer. Long before that, nothing is served from memory any more, and nothing else is lost."""
        return min(max(2 * self._listeners.max_age, _SILENT_LEAST), _SILENT_MOST)

    def _wait(self, seconds: float, then: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._loop is not None:
            self._timer = self._loop.call_later(seconds, then)


async def _connected(connection: Any) -> Any:
    """Connect, and log in, in the newer protocol."""
    connection.protocol = 3
    try:
        await connection.connect()
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
    return connection


def _code(error: Exception) -> str:
    """Return what may be shown of an error: a server's words may hold a key."""
    return str(error).split(" ")[0] if isinstance(error, _Refused) else type(error).__name__


def _is_refused(error: Exception) -> bool:
    """Whether the server will never do it, as it is set up."""
    return (isinstance(error, _Refused) and str(error).startswith(("NOPERM", "ERR"))) or is_permanent(error)
