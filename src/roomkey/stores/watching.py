"""Those who watch a store: one channel for all of them in an event loop, kept up while there are any.

Leaves to the stores how they hear of what was done elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Collection
from typing import NamedTuple

from roomkey.errors import RoomkeyError
from roomkey.stores.base import Notice, What

__all__ = ["Channel", "Watchers", "heard", "told"]

_log = logging.getLogger("roomkey")
_PAUSE_LEAST, _PAUSE_MOST = 0.1, 2.0  # seconds between two tries to connect
_LETTERS = {What.ENDED: "E", What.MOVED: "M", What.CHANGED: "C", What.WIPED: "W"}
_WHATS = {letter: what for what, letter in _LETTERS.items()}
_LOST, _STANDS = Notice(What.LOST), Notice(What.STANDS)

Tell = Callable[[Notice], None]
Keys = Callable[[], Collection[str]]


class _Watcher(NamedTuple):
    tell: Tell
    keys: Keys
    changes: bool


class Watchers:
    """Those who watch one store, in all event loops.

    Args:
        listen: hears of what is done, until the connection is lost: it then raises. It calls `stands` and `tell` of
            the channel that it is given.
        name: of the store, for the log.
    """

    def __init__(self, listen: Callable[[Channel], Awaitable[None]], name: Callable[[], str]) -> None:
        self._listen, self._name = listen, name
        self._channels: dict[asyncio.AbstractEventLoop, Channel] = {}

    def add(self, tell: Tell, keys: Keys, *, changes: bool) -> Callable[[], None]:
        """As `Watch.watch`."""
        loop = asyncio.get_running_loop()
        for ended in [each for each in list(self._channels) if each.is_closed()]:
            self._channels.pop(ended, None)
        channel = self._channels.get(loop)
        if channel is None:
            channel = self._channels[loop] = Channel(self._listen, self._name)
        watcher = _Watcher(tell, keys, changes)
        channel.join(watcher)

        def leave() -> None:
            if channel.leave(watcher) and self._channels.get(loop) is channel:
                del self._channels[loop]

        return leave


class Channel:
    """How those who watch in one event loop hear of what was done."""

    def __init__(self, listen: Callable[[Channel], Awaitable[None]], name: Callable[[], str]) -> None:
        self.changes: bool = False  # whether any of them is to be told of changes
        self._listen, self._name = listen, name
        self._watchers: list[_Watcher] = []
        self._stands = False
        self._is_said = False  # whether the log says that notices do not come
        self._pause = _PAUSE_LEAST
        self._task: asyncio.Task[None] | None = None

    def join(self, watcher: _Watcher) -> None:
        self._watchers.append(watcher)
        if self._task is None:
            self.changes = watcher.changes
            self._task = asyncio.get_running_loop().create_task(self._run(), name="roomkey: watch")
        elif watcher.changes and not self.changes:  # it has to ask for more
            self.changes = True
            self._task.cancel()
            self._lose()
            self._task = asyncio.get_running_loop().create_task(self._run(), name="roomkey: watch")
        elif self._stands:
            asyncio.get_running_loop().call_soon(self._welcome, watcher)

    def leave(self, watcher: _Watcher) -> bool:
        """Take one out; returns whether it was the last."""
        self._watchers = [each for each in self._watchers if each is not watcher]
        if self._watchers or self._task is None:
            return False
        self._task.cancel()
        return True

    def keys(self) -> set[str]:
        """Return the keys that are of interest."""
        return set().union(*(watcher.keys() for watcher in self._watchers))

    def stands(self) -> None:
        """Say that nothing is missed from now on."""
        if self._stands:
            return
        self._stands, self._pause = True, _PAUSE_LEAST
        if self._is_said:
            self._is_said = False
            _log.warning("session store %s tells again what ends elsewhere", self._name())
        self.tell(_STANDS)

    def tell(self, notice: Notice) -> None:
        """Pass a notice on."""
        for watcher in self._watchers:
            if notice.what is not What.CHANGED or watcher.changes:
                watcher.tell(notice)

    def _welcome(self, watcher: _Watcher) -> None:
        if self._stands and watcher in self._watchers:
            watcher.tell(_STANDS)

    def _lose(self) -> None:
        if self._stands:
            self._stands = False
            self.tell(_LOST)

    async def _run(self) -> None:
        while True:
            why = "the connection was closed"
            try:
                await self._listen(self)
            except Exception as error:
                # Of a driver's own error only the kind: its words may hold a password or a key.
                why = str(error) if isinstance(error, RoomkeyError) else type(error).__name__
            self._lose()
            if not self._is_said:
                self._is_said = True
                _log.warning(
                    "session store %s does not tell what ends elsewhere; until it does again, it is asked from time to "
                    "time: %s",
                    self._name(),
                    why,
                )
            await asyncio.sleep(self._pause * random.uniform(0.5, 1.0))  # no secret
            self._pause = min(2 * self._pause, _PAUSE_MOST)


def told(notice: Notice) -> str:
    """Return a notice as text, for others."""
    more = notice.successor or (str(notice.version) if notice.version else "")
    return f"{_LETTERS[notice.what]}{notice.key}" + (f":{more}" if more else "")


def heard(text: str) -> Notice | None:
    """Return the notice in a text; None: there is none, for others may send anything."""
    what = _WHATS.get(text[:1])
    if what is None:
        return None
    key, _, more = text[1:].partition(":")
    if what is What.MOVED:
        return Notice(what, key, more)
    return Notice(what, key, version=int(more) if more.isascii() and more.isdecimal() and len(more) < 20 else 0)
