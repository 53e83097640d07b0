"""Renewal: connections to a server that refuses changes are made anew, once for all who were refused."""

import asyncio

import pytest

from roomkey.stores.renewal import Renewal


class Pool:
    """What is renewed."""

    def __init__(self):
        self.renewals = 0

    async def renew(self):
        await asyncio.sleep(0)
        self.renewals += 1


async def test_those_who_are_refused_together_share_one():
    """All return after it, and it is done once."""
    pool = Pool()
    renewal = Renewal(pool.renew)
    await asyncio.gather(*(renewal.after_refusal(0) for _ in range(100)))
    assert pool.renewals == renewal.count == 1


async def test_a_refusal_of_before_the_last_one_asks_for_none():
    """What was sent before the connections were renewed was refused by an old one."""
    pool = Pool()
    renewal = Renewal(pool.renew)
    await renewal.after_refusal(0)
    await renewal.after_refusal(0)
    assert pool.renewals == 1
    await renewal.after_refusal(1)
    assert pool.renewals == 2


async def test_who_is_cancelled_takes_it_from_nobody():
    """It goes on for the others."""
    pool = Pool()
    renewal = Renewal(pool.renew)
    first = asyncio.create_task(renewal.after_refusal(0))
    second = asyncio.create_task(renewal.after_refusal(0))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await second
    assert pool.renewals == 1
