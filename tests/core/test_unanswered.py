"""Writes that the store did not answer: the next save finds out what was done, and neither loses nor repeats it."""

import pytest

from roomkey import StoreUnavailable
from tests.world import World


def unanswered(store, name, *, done, after=0):
    """Leave one operation of a store without an answer.

    Args:
        store: the store.
        name: of the operation.
        done: whether it is done all the same.
        after: how many calls are answered before it.
    """
    inner, left = getattr(store, name), after

    async def operation(*args, **options):
        nonlocal left
        left -= 1
        if left >= 0:
            return await inner(*args, **options)
        setattr(store, name, inner)
        if done:
            await inner(*args, **options)
        raise OSError

    setattr(store, name, operation)


async def save_in_vain(visit):
    with pytest.raises(StoreUnavailable):
        await visit.session.save()


@pytest.mark.parametrize("done", [False, True])
async def test_a_retry_that_is_not_answered_either(done):
    """The functions of `change` count once, whichever of the two was done, and undo nothing that others saved."""
    world = World()
    card = await world.begin(n=0)
    visit = await world.arrive(card)
    visit.session.change("n", lambda n: n + 1)
    unanswered(world.store, "update", done=False)
    await save_in_vain(visit)
    visit.session["x"] = 1
    unanswered(world.store, "update", done=done)
    await save_in_vain(visit)
    other = await world.arrive(card)
    other.session.change("n", lambda n: n + 10)
    await other.commit()
    await visit.session.save()
    assert await world.data(card) == {"n": 11, "x": 1}
