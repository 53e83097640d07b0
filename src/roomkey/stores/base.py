"""What a store is: bytes in, bytes out, compare-and-swap. Nothing here knows cookies, codecs or users' data.

Leaves to others: what the bytes mean (`roomkey.wire.codec`), what to do next (`roomkey.core.plan`), and time limits on
store operations (`roomkey.stores.guard`).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

__all__ = [
    "Conflict",
    "Discard",
    "Immediate",
    "Lifespan",
    "Notice",
    "Purge",
    "Record",
    "Scan",
    "Silent",
    "Store",
    "TellingPurge",
    "Unreadable",
    "UserIndex",
    "Watch",
    "What",
    "Wipe",
    "shown",
]


class Conflict(Exception):
    """Compare-and-swap said no: the key is taken (`create`), or the record moved on or is gone (`update`, `rotate`)."""


class Unreadable(Exception):
    """What is under the key is no record: damaged, or somebody else's. It is left alone."""


@dataclass(frozen=True, slots=True)
class Record:
    """One session as a store keeps it. All moments are Unix time in float seconds.

    A record is *live* while `expires_at` lies ahead; past it, every store operation treats it as absent.
    A *tombstone* is a record with a `successor`: the session moved there. Its `data` is a few bytes: why it moved, and
    how to open it there.
    """

    data: bytes = field(repr=False)  # not to be shown: without `seal` it is in clear
    version: int  # counts up by one at each update; compare-and-swap compares it
    created_at: float
    expires_at: float
    user: str | None = None  # whose session it is; None: nobody's yet
    successor: str | None = None  # the key that the session moved to; None: it did not move
    serve_until: float = 0.0  # tombstones only: until then, requests that arrive with the old ID are served
    about: bytes = b""  # what a user's list shows of it beside this, as `wire.about` writes it


@runtime_checkable
class Store(Protocol):
    """The contract of a store. `roomkey.testing.StoreContract` tests each sentence of it.

    Keys are strings of 64 hexadecimal digits. Most stores take them as they are. The first 4 digits are the session's
    place: both keys of a `rotate` have the same ones, so that a store may keep each place on one server.

    Every operation is atomic, also across processes, and returns only when its effect is as durable as the store ever
    makes it. A store that cannot do what it was asked raises `roomkey.errors.StoreUnavailable` or its driver's own
    error; it never answers "nothing there" instead.
    """

    async def load(self, key: str) -> Record | None:
        """Return the live record (a tombstone too) under `key`; None when there is none or it has expired.

        Raises:
            Unreadable: there is something else. Needed only where the engine keeps anything under a key.
        """
        ...

    async def create(self, key: str, record: Record) -> None:
        """Put a new record under `key`. Never overwrites.

        Raises:
            Conflict: a live record is there. (An expired one is absent and is replaced.)
        """
        ...

    async def update(self, key: str, record: Record, *, version: int) -> None:
        """Replace the record under `key` if it is live, is no tombstone and has `version`. Never revives.

        A `record` whose `expires_at` has passed is fine: it ends the session.

        Raises:
            Conflict: the record has another version, is a tombstone, has expired, or is gone.
        """
        ...

    async def rotate(self, key: str, new_key: str, record: Record, tombstone: Record, *, version: int) -> None:
        """In one atomic step put `record` under `new_key` and `tombstone` under `key`.

        Raises:
            Conflict: as for `update`; or a live record is under `new_key`. Nothing was changed then.
        """
        ...

    async def touch(self, key: str, expires_at: float) -> bool:
        """Move the record's `expires_at` forward; its version stays.

        Never revives and never shortens. Returns whether a live record that is no tombstone is there: True also when
        it already expires later than asked.
        """
        ...

    async def delete(self, key: str) -> None:
        """Remove whatever is under `key`; nothing there is fine."""
        ...


@runtime_checkable
class Immediate(Protocol):
    """A store that loads without waiting for anything. `load` says the same, and costs a coroutine more."""

    def load_now(self, key: str) -> Record | None:
        """As `load`."""
        ...


@runtime_checkable
class Lifespan(Protocol):
    """A store that holds resources. Both calls may come twice, and `open` again after `close`.

    A store also works when nobody calls `open` (an app without lifespan): it opens itself on first use.
    """

    async def open(self) -> None:
        """Get ready. Raises ConfigurationError when the fault is permanent, StoreUnavailable when it may pass."""
        ...

    async def close(self) -> None:
        """Give everything back."""
        ...


@runtime_checkable
class Silent(Protocol):
    """A store that can say why its server may be silent."""

    def why_silent(self) -> str:
        """Return what may be wrong where an operation gets no answer in time; empty where nothing is known."""
        ...


@runtime_checkable
class Purge(Protocol):
    """A store whose engine keeps expired records until told."""

    async def purge(self, limit: int) -> int:
        """Remove at most `limit` expired records; return how many went."""
        ...


@runtime_checkable
class TellingPurge(Purge, Protocol):
    """A store whose purge can say which sessions it removes."""

    async def purge_telling(self, limit: int, tell: Callable[[str, str | None], object]) -> int:
        """As `purge`. Call `tell` with the key and the user of each session that went, once it has gone.

        A session is a record without a successor whose data begins with another byte than 0. Nothing else is told. One
        whose user cannot be read need not be, and what a `wipe` has ended is not.
        """
        ...


@runtime_checkable
class Wipe(Protocol):
    """A store that can end all sessions at once, after a breach."""

    async def wipe(self) -> None:
        """End every session of everybody, in a time that does not grow with their number.

        When it returns, nothing that was there before can be loaded, updated, rotated, touched or listed again.
        """
        ...


@runtime_checkable
class UserIndex(Protocol):
    """A store that can find a user's records."""

    async def of_user(self, user: str) -> list[tuple[str, Record]]:
        """Return key and record of every live session (no tombstones) of `user`; an empty list when there is none.

        What is `Unreadable` is left out.
        """
        ...


@runtime_checkable
class Scan(Protocol):
    """A store whose keys can be gone through, for the people who run it: to count sessions, or to move them."""

    async def scan(self, limit: int, after: str = "") -> tuple[list[str], str]:
        """Return about `limit` keys, and where the next call goes on; an empty text: these were the last.

        A record that is there all the while comes at least once, in one of the calls. It may come twice. One that is
        made, removed or rotated meanwhile may be missing. Expired and wiped records may come too: `load` tells.

        Args:
            limit: how many keys to return, about; at least 1.
            after: what the call before returned; empty for the first one.
        """
        ...


@runtime_checkable
class Discard(Protocol):
    """A store that knows whose a record is, also where the rest of it cannot be read."""

    async def discard_unreadable(self, user: str) -> int:
        """Remove the records of `user` that `of_user` leaves out because they cannot be read. Return how many went."""
        ...


class What(enum.Enum):
    """What a notice tells."""

    ENDED = "ended"  # the record was removed, or updated to one that has expired
    MOVED = "moved"  # it was rotated: it is under the successor's key now
    CHANGED = "changed"  # it was replaced by another version
    WIPED = "wiped"  # all records ended
    LOST = "lost"  # from now on, notices may be missing
    STANDS = "stands"  # from now on, none is missing. What was done before this may not have been told


class Notice(NamedTuple):
    """What is told to those who watch a store."""

    what: What
    key: str = ""  # of the record; empty: it is about all of them
    successor: str = ""  # where it moved to
    version: int = 0  # of the record that replaced it; 0: the store does not say


@runtime_checkable
class Watch(Protocol):
    """A store that tells which records ended, moved or changed, whichever process did it.

    A notice says that somebody should look, and `load` says what is there. One may come twice, or for nothing. None
    comes before what it tells of is done. What expires is not told, and neither are `create` and `touch`.
    """

    def publish(self, *, changes: bool = False) -> None:
        """Have what this store object does told to those who watch, in other processes too. It cannot be taken back.

        Until then, it need not tell others of anything but a `wipe`, and pays for nothing.

        Args:
            changes: whether to tell of `CHANGED` records too.
        """
        ...

    def watch(
        self, tell: Callable[[Notice], None], keys: Callable[[], Collection[str]], *, changes: bool = False
    ) -> Callable[[], None]:
        """Begin to watch, in the running event loop. Returns at once; returns what ends it.

        `tell` is called in that event loop. `STANDS` is the first that it hears. Where the connection is lost, it
        hears `LOST`, and `STANDS` when it is back.

        Args:
            tell: is called with each notice. It must not wait, or raise.
            keys: returns the keys of the records that are of interest at this moment. A store that cannot be told of
                changes looks at these from time to time. Others may tell of every key.
            changes: whether `CHANGED` records are of interest.
        """
        ...


def shown(store: Store) -> str:
    """Return which store this is. Of a custom one no more than its class: its `repr` may hold a password."""
    kind = type(store)
    return repr(store) if kind.__module__.startswith("roomkey.") else kind.__name__
