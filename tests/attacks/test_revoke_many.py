"""`revoke_all` ends many sessions at a time, and all of them: over every store on a server."""

import asyncio

import pytest

from roomkey import Sessions
from roomkey.errors import StoreUnavailable
from roomkey.stores.memory import MemoryStore
from roomkey.testing import Clock
from tests.attacks.site import Site

MANY = 100


async def test_all_sessions_of_a_user_end(new_site):
    """Whatever happens to them meanwhile: some rotate, some log out. Nobody else's ends."""
    async with new_site() as site:
        cards = [await site.log_in() for _ in range(40)]
        other = await site.log_in(43)
        sessions = Sessions(site.config)

        async def act(card, do):
            visit = await site.life.arrive([card])
            do(visit.session)
            await visit.commit()
            return visit.card or card

        ended, *new = await asyncio.gather(
            sessions.revoke_all(42),
            *(act(card, lambda session: session.rotate()) for card in cards[:5]),
            *(act(card, lambda session: session.invalidate()) for card in cards[5:10]),
        )
        assert 30 <= ended <= 40
        ended += await sessions.revoke_all(42)  # those whose new ID the list has not met
        assert [await site.who(card) for card in [*cards, *new]] == [None] * 50
        assert await site.who(other) == 43


class Rounds(MemoryStore):
    """A memory store whose operations wait for each other: all that are asked at the same time are one round."""

    def __init__(self, **options):
        super().__init__(**options)
        self.rounds = self.most = self.asked = 0
        self.under_way = []

    async def _join(self):
        self.asked += 1
        turn = asyncio.get_running_loop().create_future()
        self.under_way.append(turn)
        if len(self.under_way) == 1:
            asyncio.get_running_loop().call_soon(self._close)
        await turn

    def _close(self):
        together, self.under_way = self.under_way, []
        self.rounds, self.most = self.rounds + 1, max(self.most, len(together))
        for turn in together:
            turn.set_result(None)

    async def load(self, key):
        await self._join()
        return await super().load(key)

    async def update(self, key, record, *, version):
        await self._join()
        await super().update(key, record, version=version)

    async def delete(self, key):
        await self._join()
        await super().delete(key)


@pytest.fixture
def site():
    clock = Clock(1_000_000.0)
    return Site(Rounds(clock=clock), clock)


async def test_sessions_end_in_bounded_groups(site):
    """A hundred sessions are seven groups of two operations each, not two hundred operations one after the other."""
    for _ in range(MANY):
        await site.log_in()
    await site.who(None)
    await site.life.registry.store.load("0" * 64)
    site.store.rounds = site.store.asked = 0
    assert await Sessions(site.life.manager).revoke_all(42) == MANY
    assert site.store.asked == 2 * MANY
    assert site.store.rounds == 2 * 7 and site.store.most == 16
    assert not site.store._records


async def test_a_store_that_fails_in_the_middle(site):
    """It is an error, and no further group is asked for."""
    for _ in range(MANY):
        await site.log_in()
    await site.life.registry.store.load("0" * 64)
    updates = 0
    update = site.store.update

    async def fails(key, record, *, version):
        nonlocal updates
        updates += 1
        if updates == 20:
            raise OSError("full")
        await update(key, record, version=version)

    site.store.update = fails
    with pytest.raises(StoreUnavailable):
        await Sessions(site.life.manager).revoke_all(42)
    assert updates == 32
    site.store.update = update
    assert await Sessions(site.life.manager).revoke_all(42) == MANY - 31
