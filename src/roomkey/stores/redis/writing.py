"""How writes are done on the server: each is a script, which is one atomic step in one slot.

`Together` is for one server, and for a cluster that keeps everything in one slot: the record and the list of its user's
sessions change in the same step. `apart` is for sessions that are spread over a cluster.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from roomkey.errors import StoreUnavailable
from roomkey.stores.base import Conflict, Notice, Record, What
from roomkey.stores.redis.errors import FOREIGN, is_named
from roomkey.stores.redis.link import Link
from roomkey.stores.redis.notices import ended_or_changed
from roomkey.stores.redis.places import Places
from roomkey.stores.redis.records import GENERATION_SIZE, MOMENT, encode, live_marks
from roomkey.stores.redis.scripts import (
    Command,
    Script,
    create_script,
    delete_script,
    rotate_script,
    touch_script,
    update_script,
)

__all__ = ["Together", "Writing", "lives", "moment", "time_left"]

Telling = Callable[[Script, tuple[bytes, ...], Notice | None], tuple[Script, tuple[bytes, ...]]]
_PAUSE_LEAST, _PAUSE_MOST = 0.01, 0.1  # seconds between two tries while a cluster moves the slot
_PATIENCE_MOVING = 1.5  # seconds for which a write waits for the keys of its session to be on one node
_LONGEST = 253402300800.0  # seconds that the server can keep a key


class Writing(ABC):
    """The operations of a store that change something: see `roomkey.stores.base.Store`.

    Args:
        places: the names of the keys.
        link: returns the way to the server in this event loop.
        clock: returns Unix time in seconds.
        telling: returns a script that tells of what it does, and its arguments; as they are, where nobody is told.
    """

    def __init__(self, places: Places, link: Callable[[], Link], clock: Callable[[], float], telling: Telling) -> None:
        self._places, self._link, self._clock, self._telling = places, link, clock, telling

    @abstractmethod
    async def create(self, key: str, record: Record) -> None: ...
    @abstractmethod
    async def update(self, key: str, record: Record, version: int) -> None: ...
    @abstractmethod
    async def rotate(self, key: str, new_key: str, record: Record, tombstone: Record, version: int) -> None: ...
    @abstractmethod
    async def touch(self, key: str, expires_at: float) -> bool: ...
    @abstractmethod
    async def delete(self, key: str) -> None: ...

    async def _run(
        self, script: Script, keys: tuple[bytes, ...], now: float, args: tuple[bytes, ...], notice: Notice | None = None
    ) -> Any:
        """Return what a script answers. Raises StoreUnavailable, also where the keys hold something else.

        `notice`: what to tell, where it has done something.
        """
        script, args = self._telling(script, args, notice)
        command = Command((*keys, moment(now), *args), script, len(keys))
        try:
            answer = await self._link().writes.ask(command)
        except StoreUnavailable as error:
            answer = await self._run_when_together(command, error)
        if answer == -1:
            raise StoreUnavailable(FOREIGN)
        return answer

    async def _run_when_together(self, command: Command, error: StoreUnavailable) -> Any:
        """Run what was not run because a cluster moves its keys one by one: some were on this node, some on another.

        It waits outside of the round trips, which are free for others meanwhile.
        """
        loop = asyncio.get_running_loop()
        until, pause = loop.time() + _PATIENCE_MOVING, _PAUSE_LEAST
        while is_named(error.__cause__, "TryAgainError") and loop.time() < until:
            await asyncio.sleep(pause)
            pause = min(2 * pause, _PAUSE_MOST)
            try:
                return await self._link().writes.ask(command)
            except StoreUnavailable as again:
                error = again
        raise error


class Together(Writing):
    """A record and the list of its user's sessions are in one slot."""

    async def create(self, key: str, record: Record) -> None:
        places, now = self._places, self._clock()
        keys: tuple[bytes, ...] = (places.record(key), places.epoch(key))
        # The generation is for the first session of all, and for the first one after a wipe.
        args: tuple[bytes, ...] = (encode(record), secrets.token_bytes(GENERATION_SIZE), lives(record, now))
        if record.user is not None:
            keys += (places.list_of(record.user),)
            args += (moment(record.expires_at), key.encode())
        if not await self._run(create_script, keys, now, args):
            raise Conflict

    async def update(self, key: str, record: Record, version: int) -> None:
        keys, now = (self._places.record(key), self._places.epoch(key)), self._clock()
        notice = ended_or_changed(key, record, now)
        if not await self._run(update_script, keys, now, (live_marks(version), encode(record)), notice):
            raise Conflict

    async def rotate(self, key: str, new_key: str, record: Record, tombstone: Record, version: int) -> None:
        places, now = self._places, self._clock()
        keys: tuple[bytes, ...] = (places.record(key), places.epoch(key), places.record(new_key))
        args: tuple[bytes, ...] = (live_marks(version), encode(record), encode(tombstone))
        args += (lives(record, now), lives(tombstone, now))
        if record.user is not None:
            keys += (places.list_of(record.user),)
            args += (moment(record.expires_at), new_key.encode(), key.encode())
        if not await self._run(rotate_script, keys, now, args, Notice(What.MOVED, key, new_key)):
            raise Conflict

    async def touch(self, key: str, expires_at: float) -> bool:
        keys = (self._places.record(key), self._places.epoch(key))
        return bool(await self._run(touch_script, keys, self._clock(), (MOMENT.pack(expires_at),)))

    async def delete(self, key: str) -> None:
        keys = (self._places.record(key), self._places.epoch(key))
        await self._run(delete_script, keys, self._clock(), (), Notice(What.ENDED, key))


def moment(seconds: float) -> bytes:
    """Return a moment as scripts and sorted sets take it."""
    return repr(float(seconds)).encode()


def lives(record: Record, now: float) -> bytes:
    """Return for how many milliseconds the server keeps a record. Empty: it has expired."""
    return time_left(record.expires_at, now) if record.expires_at > now else b""


def time_left(expires_at: float, now: float) -> bytes:
    """Return for how many milliseconds the server keeps what lives until then: a minute longer.

    Not until when: the server's clock may go differently from ours.
    """
    return b"%d" % math.ceil((min(expires_at - now, _LONGEST) + 60) * 1000)
