"""Writes where sessions are spread over a cluster: a record is in one slot, and the list of its user in another.

No step can change both, so that there is an order, which a failure may cut off after any step:

1. The list gets an entry, with the moment until when the record is to live.
2. The record is written.
3. The list gets the entry again, before the operation ends. A node that failed over may have lost the first one.

So a record that lives is on its user's list, also where the answer to a write was lost and it comes late. An entry
without a record means nothing, and goes at the moment that it holds: no record that comes late can live longer. It goes
sooner only where its session has moved on or has ended, because no record comes back under the same key.

Where the user of a session changes and its key does not, which happens to sessions that move in, the entry on the
former user's list stays. Whoever reads a list compares the user.

A record whose user and expiry stay is written in one step, and so is a record of nobody's.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from typing import Any

from roomkey.errors import StoreUnavailable
from roomkey.stores.base import Conflict, Notice, Record, What
from roomkey.stores.redis.apart_scripts import (
    LIST_FIRST,
    create_script,
    delete_script,
    enter_script,
    leave_script,
    rotate_script,
    touch_script,
    update_script,
)
from roomkey.stores.redis.notices import ended_or_changed
from roomkey.stores.redis.records import GENERATION_SIZE, MOMENT, encode, live_marks
from roomkey.stores.redis.scripts import Command
from roomkey.stores.redis.writing import Writing, lives, moment, time_left

__all__ = ["Apart"]

_MOST_USERS = 8  # that a session may get while it is touched


class Apart(Writing):
    """A record and the list of its user's sessions are in two slots."""

    async def create(self, key: str, record: Record) -> None:
        now = self._clock()
        args = (encode(record), secrets.token_bytes(GENERATION_SIZE), lives(record, now))
        await self._enter(record.user, key, record.expires_at, now)
        if not await self._run(create_script, self._keys(key), now, args):
            raise Conflict
        await self._enter(record.user, key, record.expires_at, now)

    async def update(self, key: str, record: Record, version: int) -> None:
        now, args = self._clock(), (live_marks(version), encode(record))
        notice = ended_or_changed(key, record, now)
        answer = await self._run(update_script, self._keys(key), now, (*args, b""), notice)
        if answer == LIST_FIRST:
            await self._enter(record.user, key, record.expires_at, now)
            answer = await self._run(update_script, self._keys(key), now, (*args, b"1"), notice)
            if answer == 1:
                await self._enter(record.user, key, record.expires_at, now)
        if not answer:
            raise Conflict
        await self._leave(key, answer)

    async def rotate(self, key: str, new_key: str, record: Record, tombstone: Record, version: int) -> None:
        if not self._places.are_together(key, new_key):
            raise ValueError("rotate: the keys begin with different digits, and so are on two servers")
        now, args = self._clock(), (live_marks(version), encode(record), encode(tombstone))
        await self._enter(record.user, new_key, record.expires_at, now)
        keys = (*self._keys(key), self._places.record(new_key))
        answer = await self._run(rotate_script, keys, now, args, Notice(What.MOVED, key, new_key))
        if not answer:
            raise Conflict
        await asyncio.gather(self._enter(record.user, new_key, record.expires_at, now), self._leave(key, answer))

    async def touch(self, key: str, expires_at: float) -> bool:
        now, listed = self._clock(), b""
        for _ in range(_MOST_USERS):
            answer = await self._run(touch_script, self._keys(key), now, (MOMENT.pack(expires_at), listed))
            if not isinstance(answer, list):
                if answer and listed:
                    await self._enter(listed[1:].decode(), key, expires_at, now)
                return bool(answer)
            user: bytes = answer[1]
            await self._enter(user.decode(), key, expires_at, now)
            listed = b"+" + user
        raise StoreUnavailable("a session got another user each time that it was to be renewed")

    async def delete(self, key: str) -> None:
        notice = Notice(What.ENDED, key)
        await self._leave(key, await self._run(delete_script, self._keys(key), self._clock(), (), notice))

    def _keys(self, key: str) -> tuple[bytes, bytes]:
        return self._places.record(key), self._places.epoch(key)

    async def _enter(self, user: str | None, key: str, expires_at: float, now: float) -> None:
        """Have the user's list say that this session lives until then."""
        if user is not None and expires_at > now:
            args = (key.encode(), moment(expires_at), time_left(expires_at, now))
            await self._run(enter_script, (self._places.list_of(user),), now, args)

    async def _leave(self, key: str, answer: Any) -> None:
        """Take a session out of the list on which it was, where a script answers that it is under this key no more."""
        if isinstance(answer, list):
            _, user, expires = answer
            name = self._places.list_of(user.decode())
            with contextlib.suppress(StoreUnavailable):  # it is out of the list when it would have expired
                await self._link().writes.ask(Command((name, key.encode(), expires), leave_script, 1))
