"""New IDs for a session: how long the old cookie serves, and which requests follow the rotation."""

import asyncio
from collections import Counter
from dataclasses import replace

import pytest

from roomkey.config import SessionConfig
from roomkey.core.reply import Cookie
from roomkey.core.users import Sessions
from roomkey.errors import StoreUnavailable
from tests.driver import Driver
from tests.world import World


async def test_rotate_serves_the_old_card_during_grace_only():
    """After rotate(grace) the old card opens the session until the grace is over, and is never answered by a cookie."""
    world = World()
    old = await world.begin(x=1)
    visit = await world.arrive(old)
    visit.session.rotate(grace=30)
    await visit.commit()
    world.clock.advance(29)
    late = await world.arrive(old)
    late.session["late"] = True
    await late.commit()
    assert late.cookie is Cookie.KEEP
    assert await world.data(visit.card) == {"x": 1, "late": True}
    world.clock.advance(1)
    assert await world.data(old) is None
    assert await world.data(visit.card) is not None
    assert world.life.refused["rotated"] == 1


@pytest.mark.parametrize("again", ["rotate", "reauthenticated", "log in", "log out"])
async def test_a_rotation_without_grace_ends_the_grace_before_it(again):
    """A card that is served for a while leads no further than to the next rotation that gives no grace."""
    world = World()
    old = await world.begin(x=1, **({} if again == "log in" else {"user_id": "a"}))
    visit = await world.arrive(old)
    visit.session.rotate(grace=30)
    await visit.commit()
    visit = await world.arrive(visit.card)
    if again == "log in":
        visit.session["user_id"] = "a"
    elif again == "log out":
        del visit.session["user_id"]
    else:
        getattr(visit.session, again)()
    await visit.commit()
    assert await world.data(old) is None
    assert await world.data(visit.card) is not None


@pytest.mark.parametrize("first", ["rotate", "prove"])
@pytest.mark.parametrize("beside", ["one request", "two requests", "one after the other"])
@pytest.mark.parametrize("seal", [False, True])
async def test_no_grace_where_somebody_proves_who_they_are(first, beside, seal):
    """A stolen card opens nothing after that, though a grace was asked for in the same request or beside it."""
    world = World(seal=seal)
    stolen = await world.begin(user_id=7)
    proves, rotates = await world.two(stolen)
    if beside == "one request":
        rotates = proves
    for act in ["rotate", "prove"] if first == "rotate" else ["prove", "rotate"]:
        visit = rotates if act == "rotate" else proves
        if beside == "one after the other" and act != first:
            visit = await world.arrive((rotates if first == "rotate" else proves).card)
        if act == "rotate":
            visit.session.rotate(grace=30)
        else:
            visit.session.reauthenticated()
        if beside != "one request" or act != first:
            await visit.commit()
    assert await world.data(stolen) is None
    assert world.life.refused["rotated"] == 1


@pytest.mark.parametrize("seal", [False, True])
async def test_grace_leads_over_several_rotations(seal):
    """A card in grace opens a session that was rotated with grace again."""
    world = World(seal=seal)
    old = card = await world.begin(x=1)
    for _ in range(3):
        visit = await world.arrive(card)
        visit.session.rotate(grace=30)
        await visit.commit()
        card = visit.card
    assert await world.data(old) == {"x": 1}
    visit = await world.arrive(card)
    visit.session.invalidate()
    await visit.commit()
    assert await world.data(old) is None


async def test_rotations_in_a_circle_lead_nowhere():
    """A store whose tombstones name each other is no endless way."""
    world = World()
    old = await world.begin(x=1)
    visit = await world.arrive(old)
    visit.session.rotate(grace=30)
    await visit.commit()
    ((key, tombstone),) = [item for item in world.store._records.items() if item[1].successor]
    world.store._records[key] = replace(tombstone, successor=key)
    assert await world.data(old) is None


async def test_old_card_after_rotation_is_anonymous():
    """A rotated card is an anonymous visit that leaves the cookie alone: it may be the newer one."""
    world = World()
    old = await world.begin(x=1)
    visit = await world.arrive(old)
    visit.session.rotate()
    await visit.commit()
    late = await world.arrive(old)
    assert late.session.get("x") is None
    await late.commit()
    assert late.cookie is Cookie.KEEP
    assert late.record is None


@pytest.mark.parametrize("act", ["save", "clear", "revoke"])
async def test_a_store_that_contradicts_itself_holds_nobody_for_ever(act, monkeypatch):
    """It answers with a version and refuses to save over it: that is an error, and in the end it is said."""
    monkeypatch.setattr("roomkey.core.registry._REFUSED_WAIT", 0)

    world = World()
    visit, other = await world.two(await world.begin(a=1))
    stale = dict(world.store._records)
    other.session["b"] = 2
    await other.commit()
    world.store.load = lambda key: asyncio.sleep(0, stale.get(key))
    with pytest.raises(StoreUnavailable, match="replica"):
        if act == "revoke":
            await Sessions(world.life).revoke(visit.key)
        elif act == "clear":
            visit.session.clear()
            await visit.commit()
        else:
            visit.session["c"] = 3
            await visit.commit()


@pytest.mark.parametrize("act", ["save", "revoke"])
async def test_a_replica_that_lags_is_waited_for(act, monkeypatch):
    """What it answers late is waited for."""
    monkeypatch.setattr("roomkey.core.registry._REFUSED_WAIT", 0)

    world = World()
    card = await world.begin(a=1)
    visit, other = await world.two(card)
    stale, asked = dict(world.store._records), Counter()
    other.session["b"] = 2
    await other.commit()
    load = world.store.load

    async def late(key):
        asked[key] += 1
        return stale.get(key) if asked[key] < 30 else await load(key)

    world.store.load = late
    if act == "revoke":
        assert await Sessions(world.life).revoke(visit.key) is True
    else:
        visit.session["c"] = 3
        await visit.commit()
    assert await world.data(card) == (None if act == "revoke" else {"a": 1, "b": 2, "c": 3})


@pytest.mark.parametrize("login", [False, True])
async def test_in_flight_visit_lays_over_the_successor(login):
    """A visit that loaded before a rotation saves into the successor and sends no cookie."""
    world = World()
    rotator, late = await world.two(await world.begin(x=1))
    rotator.session["r"] = 1
    if login:
        rotator.session["user_id"] = "a"
    else:
        rotator.session.rotate()
    await rotator.commit()
    late.session["late"] = 1
    await late.commit()
    assert late.cookie is Cookie.KEEP
    assert late.card == b""
    data = await world.data(rotator.card)
    assert (data["x"], data["r"], data["late"]) == (1, 1, 1)


async def test_rotate_twice():
    """Rotating in two requests after each other leaves only the last card alive."""
    world = World()
    cards = [await world.begin(x=1)]
    for _ in range(2):
        visit = await world.arrive(cards[-1])
        visit.session.rotate()
        visit.session.rotate()
        await visit.commit()
        cards.append(visit.card)
    assert [await world.data(card) for card in cards] == [None, None, {"x": 1}]


async def test_concurrent_rotations():
    """Two requests that rotate at once keep one session, which holds both their keys and opens with the last card."""
    world = World()
    one, two = await world.two(await world.begin(x=1))
    for name, visit in (("one", one), ("two", two)):
        visit.session[name] = 1
        visit.session.rotate(grace=10)
        await visit.commit()
    assert await world.data(two.card) == {"x": 1, "one": 1, "two": 1}
    assert await world.data(one.card) == await world.data(two.card)
    assert len(world.live()) == 1


async def test_rotate_then_clear():
    """Clear beats rotate: the session ends and the cookie is taken back."""
    world = World()
    card = await world.begin(x=1)
    visit = await world.arrive(card)
    visit.session.rotate(grace=30)
    visit.session.clear()
    await visit.commit()
    assert visit.cookie is Cookie.CLEAR
    assert await world.data(card) is None
    assert world.live() == []


@pytest.mark.parametrize("grace", [-1, float("inf"), float("nan")])
def test_rotate_refuses_grace(grace):
    """A grace that is negative or not finite is a ValueError."""
    with pytest.raises(ValueError, match="grace"):
        Driver(SessionConfig(secret_key="k" * 32, store="memory://")).anonymous().session.rotate(grace)
