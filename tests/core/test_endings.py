"""A session is ended while others save it all the time, from nearer to the store."""

import asyncio
from dataclasses import replace

import pytest

from roomkey import SessionEnded, StoreUnavailable
from tests.world import World

HOWS = ["revoke", "revoke_all", "beside"]


class Writers:
    """Others, who save a session between each read of it and whatever follows that.

    Args:
        world: has the store.
        card: of the session.
        deeds: what they do after each read: by how many versions they go on, or "rotate". The last goes on for ever.
    """

    def __init__(self, world, card, *deeds):
        self.world, self.card, self.deeds = world, card, list(deeds)
        self.inner, self.listed, self.reads = world.store.load, world.store.of_user, 0
        self.is_busy = False

    async def __aenter__(self):
        visit = await self.world.arrive(self.card)
        self.key = visit.key
        self.world.store.load, self.world.store.of_user = self._load, self._of_user
        return self

    async def __aexit__(self, *_):
        self.world.store.load, self.world.store.of_user = self.inner, self.listed

    async def _of_user(self, user):
        found = await self.listed(user)
        for key, record in found:
            await self._go_on(key, record)
        return found

    async def _load(self, key):
        record = await self.inner(key)
        await self._go_on(key, record)
        return record

    async def _go_on(self, key, record):
        if key != self.key or self.is_busy or record is None or record.successor is not None:
            return
        self.is_busy = True
        self.reads += 1
        deed = self.deeds.pop(0) if len(self.deeds) > 1 else self.deeds[0]
        if deed == "rotate":
            visit = await self.world.arrive(self.card)
            visit.session.rotate()
            await visit.commit()
            self.key, self.card = visit.key, visit.card
        else:
            saved = replace(record, version=record.version + deed)
            await self.world.store.update(key, saved, version=record.version)
        await asyncio.sleep(0.01)  # the network
        self.is_busy = False


async def _end(world, how, card, other):
    """Return what ends the session of a card. `other`: the card that a log-out comes with."""
    visit = await world.life.arrive([other, card])
    target = await world.arrive(card)
    sessions = world.life.manager.sessions
    if how == "revoke":
        return lambda: sessions.revoke(target.handle)
    if how == "revoke_all":
        return lambda: sessions.revoke_all(7)
    visit.session.clear()
    return visit.commit


@pytest.mark.parametrize("seal", [False, True])
@pytest.mark.parametrize("how", HOWS)
async def test_a_session_ends_though_others_save_it_all_the_time(how, seal):
    """Whatever is read of it is old when the swap arrives. It ends all the same, and no running request revives it."""
    world = World(store_timeout=0.5, seal=seal)
    other, card = await world.begin(user_id=8), await world.begin(user_id=7)
    running = await world.arrive(card)
    running.session["x"] = 1
    end = await _end(world, how, card, other)
    async with Writers(world, card, 3) as writers, asyncio.timeout(0.9):
        await end()
    assert 1 < writers.reads < 5
    assert await world.data(card) is None
    with pytest.raises(SessionEnded):
        await running.session.save()


@pytest.mark.parametrize("how", HOWS)
async def test_to_end_a_session_takes_no_longer_than_store_timeout(how):
    """Others are faster than anything: nobody is told that the session has ended, and nobody waits for ever."""
    world = World(store_timeout=0.05)
    other, card = await world.begin(user_id=8), await world.begin(user_id=7)
    end = await _end(world, how, card, other)
    async with Writers(world, card, 1000), asyncio.timeout(0.9):
        with pytest.raises(StoreUnavailable, match=r"not ended within 0\.05 s"):
            await end()
    assert await world.data(card) == {"user_id": 7}


@pytest.mark.parametrize("how", HOWS)
async def test_a_session_that_rotates_in_between_is_followed(how):
    """Swaps for versions that it may have do not touch the tombstone, and it ends under its new ID."""
    world = World(store_timeout=0.5)
    other, card = await world.begin(user_id=8), await world.begin(user_id=7)
    end = await _end(world, how, card, other)
    async with Writers(world, card, 3, 100, "rotate", 100, 1) as writers, asyncio.timeout(0.9):
        await end()
    assert writers.card != card
    assert await world.data(writers.card) is None


async def test_a_store_that_fails_in_between_is_no_success():
    """One of several swaps has no answer, and the others find other versions: whether it has ended is not known."""
    world = World(store_timeout=0.5)
    other, card = await world.begin(user_id=8), await world.begin(user_id=7)
    end = await _end(world, "revoke", card, other)
    inner, count = world.store.update, 0

    async def update(key, record, *, version):
        nonlocal count
        count += record.data == b""
        if record.data == b"" and count > 5:
            raise OSError
        await inner(key, record, version=version)

    world.store.update = update
    async with Writers(world, card, 1000):
        with pytest.raises(StoreUnavailable):
            await end()
