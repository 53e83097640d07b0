"""What one request knows of its session, as values: what was read, what a commit takes, what was tried."""

from __future__ import annotations

import enum
from typing import Any, NamedTuple

from roomkey.core.intents import NOTHING, Intents
from roomkey.stores.base import Record
from roomkey.wire import codec
from roomkey.wire.codec import NO_FACTS, Facts, facts_in

__all__ = ["CURRENT", "NOWHERE", "NO_DRAFT", "Attempt", "Draft", "Loaded", "Stale", "Stored", "completed", "unfiled"]


class Stored(NamedTuple):
    """A record, the key that it is stored under, and the secret that opens it."""

    key: str
    record: Record
    secret: bytes  # for the envelope; empty: the record cannot be read, only ended

    def __repr__(self) -> str:
        return f"Stored({self.key!r}, {self.record!r})"  # without the secret


class Stale(enum.Enum):
    """What was made with another secret key than the first."""

    NOTHING = "nothing"
    CARD = "card"  # to be signed anew
    DATA = "data"  # to be sealed anew, and the card to be signed anew too


CURRENT = Stale.NOTHING  # bound once: to look up a member of an enumeration takes longer than a call


class Loaded(NamedTuple):
    """A session as it was read, or last saved. It is replaced whole, so that its fields always agree."""

    key: str  # empty: there is no record of it
    record: Record
    secret: bytes  # for the envelope
    encoded: bytes  # content and facts
    facts: Facts
    user: str | None  # whose it is
    session_id: bytes | None = None  # None: not known here; another response carries the card
    stale: Stale = CURRENT

    @property
    def exists(self) -> bool:
        """Whether there is a record of it."""
        return self.key != ""

    @property
    def stored(self) -> Stored:
        """Return the record, with its key and secret."""
        return Stored(self.key, self.record, self.secret)

    def __repr__(self) -> str:
        return f"Loaded({self.key!r}, {self.record!r})"


def completed(raw: tuple[Any, ...]) -> Loaded:
    """Return a session as it was read, from its fields without the facts: most requests never ask for these."""
    key, record, secret, encoded, user, session_id, stale = raw
    return Loaded(key, record, secret, encoded, facts_in(encoded), user, session_id, stale)


def unfiled(encoded: bytes, facts: Facts, user: str | None) -> Loaded:
    """Return a session of which there is no record yet."""
    return Loaded("", Record(b"", 0, 0.0, 0.0), b"", encoded, facts, user)


NOWHERE = unfiled(b"", NO_FACTS, None)  # there is no session


class Draft(NamedTuple):
    """What a commit takes from the session when it begins. What other tasks do to it later is for the next commit."""

    content: dict[str, Any]
    encoded: bytes  # with the facts that were loaded
    intents: Intents = NOTHING
    put: frozenset[str] | set[str] = frozenset()  # the keys that were assigned
    mark: bytes = b""  # names the write that this draft leads to; empty: to do it twice is to do it once
    only_put: bool = False  # whether no other key can have another value: nothing was handed out to be changed in place


NO_DRAFT = Draft({}, b"")  # of a task that holds the transaction, and saves nothing


class Attempt(NamedTuple):
    """A write that the store did not answer: whether it was done is not known."""

    after: Loaded  # the session, if it was done
    intents: Intents  # what was asked since the attempt before it
    put: frozenset[str] | set[str]
    mark: bytes  # among the marks of what is stored, if it was done; empty: it has none
    ends: bool = False  # it was to end the session
    over: Stored | None = None  # what it was to replace; None: nothing was there
    saw: bytes = b""  # the session as the request saw it meanwhile, encoded; empty: as it was to be saved
    unseen: bool = False  # it was to save into the session of somebody who had logged in

    @property
    def gives_key(self) -> bool:
        """Whether it was to move the session to a new key."""
        return self.over is not None and not self.ends and self.over.key != self.after.key

    @property
    def seen(self) -> Loaded:
        """Return `after` with the content that the request saw. What others saved is no change of this request's."""
        return self.after._replace(encoded=codec.with_facts(self.saw or self.after.encoded, self.after.facts))

    def may_come(self, latest: Loaded) -> bool:
        """Whether it can still be done, where this is stored now. It replaces one version only."""
        over = self.over
        return over is not None and over.key == latest.key and over.record.version == latest.record.version
