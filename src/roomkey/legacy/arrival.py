"""The arrival of an old session: it is saved as it is, once, whoever brings its cookie how often.

A tombstone under a hash of the old cookie, the mark, outlives that cookie. So requests that come together share one
session, and a session that has ended does not come back with a copy of its cookie. Until a response has given Roomkey's
own cookie, whoever brings the old one may be given it; then it is served for a moment longer, and no more.

Leaves to others: what is genuine (the readers), and what becomes of the session from then on (`roomkey.visit`).
"""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from typing import TYPE_CHECKING

from roomkey.errors import SessionDataError
from roomkey.events import Created
from roomkey.stores.base import Conflict, Record
from roomkey.visit import Place, Visit
from roomkey.wire import codec
from roomkey.wire.codec import NO_FACTS, Facts
from roomkey.wire.keys import new_session_id, store_key

if TYPE_CHECKING:
    from roomkey.legacy.move_in import Found
    from roomkey.lifecycle import Lifecycle

__all__ = ["arrive_with", "facts_of", "refuse"]

_log = logging.getLogger("roomkey")
_NOT_FILED = 1  # the version of a session that has just moved in; who comes first files it under its user
_LONGER = 24 * 60 * 60.0  # seconds that a mark outlives the cookie: other clocks differ, and some count whole seconds
_OLD_COOKIE = 30 * 24 * 60 * 60.0  # seconds that an old cookie may be brought, where its reader does not know


async def arrive_with(lifecycle: Lifecycle, old: Found) -> Visit:
    """Return the visit of a request that brought an old session.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    mark_id = old.mark(lifecycle.config.session_cookie)
    mark, secret = store_key(mark_id), lifecycle.envelope.secret_of(mark_id)
    tombstone = await lifecycle.store.load(mark)
    if tombstone is None:
        try:
            place = await _put(lifecycle, old, mark, secret)
        except SessionDataError as error:
            return refuse(lifecycle, error)
        except Conflict:  # another request was first
            tombstone = await lifecycle.store.load(mark)
        else:
            return await _moving(lifecycle, old, place)
    if tombstone is None or tombstone.successor is None:
        return lifecycle.refuse("damaged")
    try:
        secret = lifecycle.envelope.follow(tombstone.data, tombstone.successor, secret)
    except codec.DamagedData:
        return lifecycle.refuse("damaged")
    record = await lifecycle.store.load(tombstone.successor)
    if record is None:
        return lifecycle.refuse("unknown")
    return await _moving(lifecycle, old, Place(tombstone.successor, record, secret))


def facts_of(lifecycle: Lifecycle, old: Found) -> Facts:
    """Return the facts about an old session. Its log-in was no sooner than it began, and may be just as old."""
    began = old.session.created_at
    if lifecycle.user_of(old.session.data) is None or began is None or not math.isfinite(began):
        return NO_FACTS
    return codec.make_facts(min(began, lifecycle.clock()), None)


def refuse(lifecycle: Lifecycle, error: SessionDataError) -> Visit:
    """Count an old session that cannot be kept, and return the visit of an anonymous request."""
    lifecycle.refused["legacy"] += 1
    if not lifecycle.warned_of_old:
        lifecycle.warned_of_old = True
        _log.warning("old sessions do not move in: %s (said once)", error)
    return lifecycle.anonymous()


async def _moving(lifecycle: Lifecycle, old: Found, place: Place) -> Visit:
    key, record, secret = place
    refusals = 0
    while record.user is None and record.version == _NOT_FILED and record.successor is None:
        user = _user_at(lifecycle, place)
        if user is None:
            break
        filed = replace(record, user=user, version=_NOT_FILED + 1)
        try:
            await lifecycle.store.update(key, filed, version=_NOT_FILED)
        except Conflict:  # another request did it, or more
            found = await lifecycle.store.load(key)
            if found is None:
                return lifecycle.refuse("unknown")
            refusals = await lifecycle.wait_for_progress(place, Place(key, found, secret), refusals)
            record = found
        else:
            record = filed
            if lifecycle.limit is not None:
                await lifecycle.keep_to_limit(user, lifecycle.limit)
    if record.successor is not None:
        return await lifecycle.follow(record, secret)
    visit = lifecycle.visit_at(key, record, secret)
    if visit.record is not None:
        visit.found = old
        visit.session.mark_accessed()
    return visit


def _user_at(lifecycle: Lifecycle, place: Place) -> str | None:
    try:
        return lifecycle.user_of(codec.decode(lifecycle.envelope.open(place.record.data, place.key, place.secret)))
    except codec.DamagedData:
        return None


async def _put(lifecycle: Lifecycle, old: Found, mark: str, mark_secret: bytes) -> Place:
    """Save an old session as it is, under no user yet: a limit must not count what other requests save of it.

    Raises:
        Conflict: its mark is there.
        SessionDataError: what it has under `user_key` is no ID, or it is too large.
    """
    now, envelope, store = lifecycle.clock(), lifecycle.envelope, lifecycle.store
    user = lifecycle.checked_user(old.session.data)
    facts = facts_of(lifecycle, old)
    session_id = new_session_id()
    key, secret = store_key(session_id), envelope.secret_of(session_id)
    stored = codec.encode(old.session.data, facts)
    lifecycle.check(old.session.data, stored)
    record = Record(envelope.close(stored, key, secret), _NOT_FILED, now, lifecycle.until(facts))
    until = now + (_OLD_COOKIE if old.session.expires_in is None else old.session.expires_in)
    until = max(until, record.expires_at) + _LONGER
    passed_on = envelope.pass_on(mark_secret, key, secret)
    # The session first: nobody must follow the mark to where nothing is yet.
    await store.create(key, record)
    try:
        await store.create(mark, Record(passed_on, 1, now, until, successor=key, serve_until=until))
    except Conflict:
        await store.delete(key)
        raise
    lifecycle.tell(Created(key, user))
    return Place(key, record, secret)
