"""What happens to sessions, as values: for `SessionConfig(on_event=...)`.

No event holds a secret. `handle` is the public name of a session, safe in logs and useless as a credential. Every event
is also logged, on the logger `roomkey.events` at DEBUG, with its class's name and its fields.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

__all__ = [
    "ClientChanged",
    "Created",
    "Ended",
    "Event",
    "Expired",
    "LoadedWithOldKey",
    "Lost",
    "Merged",
    "Misfit",
    "OutageBegan",
    "OutageEnded",
    "Refused",
    "Renewed",
    "Rotated",
    "StoreAsked",
]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a session."""


Outcome = Literal["ok", "conflict", "unreadable", "timeout", "failed", "cancelled"]
# What `on_event` takes. A function is called in the request's task. An `async def` runs beside the requests.
Subscriber = Callable[[Event], None] | Callable[[Event], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Created(Event):
    """A session was saved for the first time."""

    handle: str
    user: str | None  # None: nobody's yet
    actor: str | None = None  # who acts for the user in it; None: it is the user's own


@dataclass(frozen=True, slots=True)
class LoadedWithOldKey(Event):
    """A card that another than the first secret key signed was taken. It is signed anew when the session is used."""

    handle: str


@dataclass(frozen=True, slots=True)
class Rotated(Event):
    """The session has a new ID, and with it a new handle."""

    old_handle: str
    handle: str
    user: str | None
    old_user: str | None


@dataclass(frozen=True, slots=True)
class Ended(Event):
    """A session was ended before its time."""

    handle: str
    user: str | None
    reason: Literal["cleared", "revoked", "limit"]  # by a handler, by `Sessions`, by max_sessions_per_user
    actor: str | None = None  # who acted for the user in it; None: it was the user's own


@dataclass(frozen=True, slots=True)
class Renewed(Event):
    """A session that is used lives longer: a renewal that saved nothing else. At most one in a tenth of `max_age`."""

    handle: str
    user: str | None


@dataclass(frozen=True, slots=True)
class Expired(Event):
    """A session has expired, and was found or removed afterwards. Nobody is told at the moment itself.

    It comes when a purge removes the session, in the process that purges, or when a browser brings the cookie of a
    session that is over and still stored. It may come more than once. Redis and its kin forget expired sessions and
    tell nobody, so that it mostly does not come there. After `end_all`, it comes for none of the sessions that ended.
    """

    handle: str
    user: str | None


@dataclass(frozen=True, slots=True)
class Refused(Event):
    """The cookie that a browser sent led to no session. The request went on as an anonymous one.

    Reasons: `card` (not signed by our keys, or no card at all), `key` (names a secret key that we do not have),
    `unknown` (genuine, but expired, ended, or never saved), `rotated` (the ID from before a rotation), `damaged`
    (what the store holds cannot be read).
    """

    reason: Literal["card", "key", "unknown", "rotated", "damaged"]


@dataclass(frozen=True, slots=True)
class Merged(Event):
    """Another request had saved first. What both changed was kept."""

    handle: str
    attempts: int  # how often the swap was tried again


@dataclass(frozen=True, slots=True)
class ClientChanged(Event):
    """A live session comes from another address or another device than its log-in. It needs `record_client`.

    Another device is another browser or system: a browser that was updated is the same. `on_event` is told once in each
    process for each session and client.
    """

    handle: str
    user: str | None
    ip: str | None  # of this request; None: not known
    user_agent: str | None
    old_ip: str | None  # of the log-in
    old_user_agent: str | None
    is_other_ip: bool
    is_other_device: bool


@dataclass(frozen=True, slots=True)
class Lost(Event):
    """What a request changed was not saved when it ended. Where it called `save()`, that raised SessionEnded instead.

    Reasons: `ended` (the session had ended, or was another user's by then), `log-in` (somebody logged in more than a
    minute ago, and the request began before that).
    """

    handle: str  # of the session as the request last knew it; empty: it knew of none any more
    reason: Literal["ended", "log-in"]


@dataclass(frozen=True, slots=True)
class Misfit(Event):
    """What a session holds does not fit the shape that `typed` was given. The field's default was served instead.

    There is one such event for each request and field. What is stored stays until the field is assigned.
    """

    handle: str
    shape: str  # its class's name
    field: str  # which is also the session's key


@dataclass(frozen=True, slots=True)
class OutageBegan(Event):
    """The store stopped answering as it should. There is one such event for each outage."""

    store: str  # its class's name
    error: str


@dataclass(frozen=True, slots=True)
class OutageEnded(Event):
    """The store answers again."""

    store: str


@dataclass(frozen=True, slots=True)
class StoreAsked(Event):
    """The store did one operation, or failed to. It is told to subscribers whose `hears_store` is true. No log has it.

    Outcomes: `ok`, `conflict` (another request was first, which is a normal answer), `unreadable` (a damaged record),
    `timeout` (no answer within `store_timeout`), `failed`, `cancelled` (the request was).
    """

    store: str  # its class's name
    operation: (
        str  # load, create, update, rotate, touch, delete, of_user, scan, discard_unreadable, wipe, purge or open
    )
    outcome: Outcome
    seconds: float  # until its answer was there


def logs_in(event: Event) -> bool:
    """Whether an event tells that somebody logged in."""
    if isinstance(event, Created):
        return event.user is not None and event.actor is None  # who acts for a user has not logged in for that
    return isinstance(event, Rotated) and event.user not in (None, event.old_user)


def logged_out(event: Event) -> str | None:
    """Return why somebody is no longer logged in, as an event tells it: a reason of `Ended`, or `expired`.

    A log-out that leaves a message for the next page is a `Rotated` to nobody. None: nobody was logged out.
    """
    if isinstance(event, Ended | Expired):
        return None if event.user is None else event.reason if isinstance(event, Ended) else "expired"
    is_cleared = isinstance(event, Rotated) and event.old_user is not None and event.user != event.old_user
    return "cleared" if is_cleared else None
