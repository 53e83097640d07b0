"""The arrival of an old session: it is saved as it is, and once, however many requests bring its cookie.

A tombstone under a hash of the old cookie outlives that cookie. It is called the note here. So requests that come
together share one session, and a session that has ended does not come back with a copy of its cookie.

Until a response has given Roomkey's own cookie, a request that brings the old cookie may be given it. Then the old
cookie is served for a moment longer, and no more. Which cookies are genuine is for the readers to say.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from roomkey.core.beside import OtherCards
from roomkey.core.cards import Card
from roomkey.core.loaded import Stored
from roomkey.core.session import Session
from roomkey.core.tombstones import Kind
from roomkey.errors import SessionDataError
from roomkey.events import Created
from roomkey.stores.base import Conflict, Record
from roomkey.wire import codec
from roomkey.wire.codec import NO_FACTS, Facts
from roomkey.wire.keys import hashed_key, new_session_id, store_key

if TYPE_CHECKING:
    from roomkey.core.loader import Loader, StoreLoader
    from roomkey.core.rules import Rules
    from roomkey.legacy.move_in import Found

__all__ = ["arrive_with", "end_with", "facts_of", "refuse"]

_NOT_FILED = 1  # the version of a session that has just moved in. The first request files it under its user
_LONGER = 24 * 60 * 60.0  # seconds that a note outlives the cookie: other clocks differ, and some count whole seconds
_OLD_COOKIE = 30 * 24 * 60 * 60.0  # seconds that an old cookie may be brought, where its reader does not know


async def arrive_with(loader: StoreLoader, old: Found) -> Session:
    """Return the session of a request that brought an old session.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    note_id = old.note_id(loader.committer.config.session_cookie)
    note, secret = hashed_key(note_id), loader.envelope.secret_of(note_id)
    tombstone = await loader.store.load(note)
    if tombstone is None:
        try:
            stored = await _put(loader, old, note, secret)
        except SessionDataError as error:
            return refuse(loader, error)
        except Conflict:  # another request was first
            tombstone = await loader.store.load(note)
        else:
            return await _moving(loader, old, stored)
    if tombstone is None or tombstone.successor is None:
        return loader.refuse("damaged")
    try:
        secret = loader.envelope.follow(tombstone, secret)
    except codec.DamagedData:
        return loader.refuse("damaged")
    record = await loader.store.load(tombstone.successor)
    if record is None:
        return loader.refuse("unknown")
    return await _moving(loader, old, Stored(tombstone.successor, record, secret))


async def end_with(loader: StoreLoader, old: Found, spare: str) -> bool:
    """End the session that an old cookie opens now, but for one under the key `spare`.

    One that has not moved in never will: a note says so.

    Returns:
        Whether it had not moved in, so that it is still to be removed from its server.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    note_id = old.note_id(loader.committer.config.session_cookie)
    note, secret = hashed_key(note_id), loader.envelope.secret_of(note_id)
    if await loader.store.load(note) is None:
        nowhere = new_session_id()
        try:
            await loader.store.create(note, _note(loader, old, secret, store_key(nowhere), b"", until=0.0))
        except Conflict:  # another request moves it in
            pass
        else:
            return True
    tombstone = await loader.store.load(note)
    if tombstone is None or tombstone.successor is None:
        return False
    try:
        secret = loader.envelope.follow(tombstone, secret)
    except codec.DamagedData:
        return False  # it opens nothing
    await OtherCards(loader.registry, [Card(b"", tombstone.successor, secret, False)]).end(spare)
    return False


def _note(loader: StoreLoader, old: Found, note_secret: bytes, key: str, secret: bytes, *, until: float) -> Record:
    """Return the note that an old cookie leads to `key`. It outlives the cookie, and lives until then at least."""
    now = loader.rules.clock()
    lives = now + (_OLD_COOKIE if old.session.expires_in is None else old.session.expires_in)
    lives = max(lives, until) + _LONGER
    note = Record(bytes([Kind.MOVED]), 1, now, lives, successor=key, serve_until=lives)
    return replace(note, data=note.data + loader.envelope.pass_on(note, note_secret, secret))


def facts_of(rules: Rules, old: Found) -> Facts:
    """Return the facts about an old session. Its log-in was no sooner than it began, and may be just as old."""
    began = old.session.created_at
    if rules.user_of(old.session.data) is None or began is None or not math.isfinite(began):
        return rules.facts_of_new(NO_FACTS, rules.user_of(old.session.data))
    return codec.make_facts(min(began, rules.clock()), None)


def refuse(loader: Loader, error: SessionDataError) -> Session:
    """Count an old session that cannot be kept, and return the session of an anonymous request."""
    loader.reporter.refused["legacy"] += 1
    loader.reporter.warn_once("old", "old sessions do not move in: %s", error)
    return loader.anonymous()


async def _moving(loader: StoreLoader, old: Found, stored: Stored) -> Session:
    key, record, secret = stored
    refusals = 0
    while record.user is None and record.version == _NOT_FILED and record.successor is None:
        encoded, user = _read(loader, Stored(key, record, secret))
        if user is None:
            break
        filed = replace(record, data=encoded, user=user, version=_NOT_FILED + 1)
        filed = replace(filed, data=loader.envelope.close(filed, key, secret))
        try:
            await loader.store.update(key, filed, version=_NOT_FILED)
        except Conflict:  # another request did it, or more
            found = await loader.store.load(key)
            if found is None:
                return loader.refuse("unknown")
            refusals = await loader.registry.wait_for_progress(stored, Stored(key, found, secret), refusals)
            record = found
        else:
            record = filed
            if loader.rules.limit is not None:
                await loader.registry.keep_to_limit(user, loader.rules.limit)
    if record.successor is not None:
        return await loader.follow(record, secret)
    session = await loader.opened(Stored(key, record, secret))
    if session._at.exists:
        loader.transaction_of(session).moving = old
        session._accessed = True
    return session


def _read(loader: StoreLoader, stored: Stored) -> tuple[bytes, str | None]:
    """Return an old session's data in clear, and whose it is."""
    try:
        encoded = loader.envelope.open(stored.record, stored.key, stored.secret)
        return encoded, loader.rules.user_of(codec.decode(encoded))
    except (codec.DamagedData, SessionDataError):
        return b"", None


async def _put(loader: StoreLoader, old: Found, note: str, note_secret: bytes) -> Stored:
    """Save an old session as it is, under no user yet: a limit must not count what other requests save of it.

    Raises:
        Conflict: its note is there.
        SessionDataError: its value of `user_key` is no ID, or it is too large.
    """
    now, envelope, store = loader.rules.clock(), loader.envelope, loader.store
    user = loader.rules.checked_user(old.session.data)
    facts = facts_of(loader.rules, old)
    session_id = new_session_id()
    key, secret = store_key(session_id), envelope.secret_of(session_id)
    stored = codec.encode(old.session.data, facts)
    loader.rules.check(old.session.data, stored)
    record = Record(stored, _NOT_FILED, now, loader.rules.clocks.until(now, facts))
    record = replace(record, data=envelope.close(record, key, secret))
    left = _note(loader, old, note_secret, key, secret, until=record.expires_at)
    # The session first: no request may follow the note to where nothing is yet.
    await store.create(key, record)
    try:
        await store.create(note, left)
    except Conflict:
        await store.delete(key)
        raise
    loader.reporter.report(Created(key, user))
    return Stored(key, record, secret)
