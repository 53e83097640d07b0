"""What is told to those who watch: PUBLISH by the script that does it, SUBSCRIBE by those who watch.

In a cluster, any node passes a message on to all others, so that one connection hears of everything.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from roomkey.errors import StoreUnavailable
from roomkey.stores.base import Notice, Record, What
from roomkey.stores.redis.errors import is_named
from roomkey.stores.redis.scripts import Command, Script
from roomkey.stores.watching import Channel, Watchers, heard, told

__all__ = ["Watched", "ended_or_changed"]

_LOOK_EVERY = 5.0  # seconds between two looks whether the connection lives
_PATIENCE = 2.0  # seconds that it may take to answer


class Watched:
    """The part of a store by which it is watched.

    Args:
        prefix: what every key begins with, and every channel.
        subscriber: returns a client of the driver's for a connection of its own, and what closes it.
    """

    def __init__(self, prefix: str, subscriber: Callable[[], Any]) -> None:
        # Two, so that nobody who wants to know of ends hears of each save.
        self._channels = (prefix.encode() + b"ends", prefix.encode() + b"changes")
        self._subscriber = subscriber
        self._publishes = self._publishes_changes = False
        self._watchers = Watchers(self._listen, self.__repr__)

    def publish(self, *, changes: bool = False) -> None:
        """Tell those who watch, in all processes, of what this store does. See `Watch`."""
        self._publishes, self._publishes_changes = True, self._publishes_changes or changes

    def watch(
        self, tell: Callable[[Notice], None], keys: Callable[[], Collection[str]], *, changes: bool = False
    ) -> Callable[[], None]:
        """Begin to watch, over one more connection; returns what ends it."""
        return self._watchers.add(tell, keys, changes=changes)

    def _telling(
        self, script: Script, args: tuple[bytes, ...], notice: Notice | None
    ) -> tuple[Script, tuple[bytes, ...]]:
        """Return the script that tells of what it does, and its arguments; as they are, where nobody is told."""
        if notice is None or not self._publishes:
            return script, args
        is_change = notice.what is What.CHANGED
        if is_change and not self._publishes_changes:
            return script, args
        return script.telling, (*args, self._channels[is_change], told(notice).encode())

    def _telling_of_wipe(self) -> Command:
        """Return the command that tells that all have ended."""
        return Command((b"PUBLISH", self._channels[0], told(Notice(What.WIPED)).encode()))

    async def _listen(self, channel: Channel) -> None:
        try:
            async with self._subscriber() as client:
                pubsub = client.pubsub()
                try:
                    await self._hear(channel, pubsub)
                finally:
                    await pubsub.aclose()
        except Exception as error:
            if isinstance(error, StoreUnavailable):
                raise
            reason = "the connection to Redis was lost"
            if is_named(error, "NoPermissionError"):
                reason = "Redis does not let this user subscribe: allow it the channels that begin with the prefix"
            raise StoreUnavailable(reason) from error

    async def _hear(self, channel: Channel, pubsub: Any) -> None:
        names = self._channels if channel.changes else self._channels[:1]
        await pubsub.subscribe(*names)
        subscribed, is_waiting = 0, False
        while True:
            message = await pubsub.get_message(timeout=_PATIENCE if is_waiting else _LOOK_EVERY)
            if message is None:
                if is_waiting:
                    raise StoreUnavailable("Redis does not answer")
                await pubsub.ping()
                is_waiting = True
                continue
            is_waiting = False
            if message["type"] == "subscribe":
                subscribed += 1
                if subscribed == len(names):
                    channel.stands()
                elif subscribed > len(names):  # the driver has connected anew by itself
                    raise StoreUnavailable("the connection to Redis was lost")
            elif message["type"] == "message":
                data = message["data"]
                notice = heard(data if isinstance(data, str) else data.decode(errors="replace"))
                if notice is not None:
                    channel.tell(notice)


def ended_or_changed(key: str, record: Record, now: float) -> Notice:
    """Return what an update does. `now`: Unix seconds."""
    return Notice(What.ENDED, key) if record.expires_at <= now else Notice(What.CHANGED, key, version=record.version)
