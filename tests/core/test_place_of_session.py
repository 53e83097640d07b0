"""A session keeps its place, the first digits of its keys, for as long as it lives, and the next one draws another."""

import pytest

from roomkey.core.tombstones import lost_trail_key
from roomkey.stores.memory import MemoryStore
from roomkey.wire.facts import LONGEST_TRAIL
from tests.site import Site

CHANGES = {
    "rotated": (42, lambda session: session.rotate()),
    "rotated with a grace": (42, lambda session: session.rotate(grace=10)),
    "reauthenticated": (42, lambda session: session.reauthenticated()),
    "another user": (42, lambda session: session.update(user_id=43)),
    "nobody's": (42, lambda session: session.update(theme=session.pop("user_id"))),
    "logged in": (None, lambda session: session.update(user_id=42)),
}


def keys(site):
    """The keys of all records."""
    return list(site.store._records)


def card_of(headers):
    return headers[b"set-cookie"].split(b";")[0].partition(b"=")[2]


@pytest.mark.parametrize("change", CHANGES)
async def test_a_rotation_keeps_the_place(change):
    """Whatever has the ID change, the record and the tombstone of a session have one place."""
    user, act = CHANGES[change]
    site = Site(MemoryStore())
    card = await site.log_in(user)
    assert (await site.ask(card, act))[0] == 200
    assert len(keys(site)) == 2 and len({key[:4] for key in keys(site)}) == 1


async def test_the_overflow_record_has_the_place():
    """A session that rotates often has all of its records in one place, the overflow record too."""
    site = Site(MemoryStore())
    card = await site.log_in(42)
    (first,) = keys(site)
    for _ in range(LONGEST_TRAIL + 3):
        card = card_of((await site.ask(card, lambda session: session.rotate()))[1])
    assert lost_trail_key(first) in keys(site)
    assert {key[:4] for key in keys(site)} == {first[:4]}


def end(session):
    session.clear()


def end_and_begin(session):
    session.invalidate()
    session["theme"] = "dark"


@pytest.mark.parametrize("act", [end, end_and_begin])
async def test_another_session_draws_another_place(act):
    """What begins after a log-out is another session: its place is drawn anew, as for everybody."""
    site, drawn = Site(MemoryStore()), []
    for user in range(20):
        others = keys(site)
        card = await site.log_in(user)
        (before,) = {*keys(site)} - {*others}
        await site.ask(card, act)
        others = keys(site)
        assert before not in others
        await site.ask(None, lambda session: session.update(page=1))
        (after,) = {*keys(site)} - {*others}
        drawn.append((before[:4], after[:4]))
    assert sum(before != after for before, after in drawn) > 10
