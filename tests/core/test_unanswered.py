"""Writes that the store did not answer: the next save finds out what was done, and neither loses nor repeats it."""

import asyncio

import pytest

from roomkey import StoreUnavailable
from roomkey.core.reply import Cookie
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


@pytest.mark.parametrize("counts", [False, True])
async def test_a_merge_that_is_not_answered(counts):
    """It was done: what others had saved before it is not taken for something that this request has deleted."""
    world = World()
    card = await world.begin(n=0)
    visit, other = await world.two(card)
    other.session["theirs"] = 1
    other.session.change("n", lambda n: n + 10)
    await other.commit()
    visit.session["mine"] = 1
    if counts:
        visit.session.change("n", lambda n: n + 1)
    unanswered(world.store, "update", done=True, after=1)
    await save_in_vain(visit)
    await visit.session.save()
    expected = {"n": 11 if counts else 10, "theirs": 1, "mine": 1}
    assert await world.data(card) == expected and dict(visit.session) == expected


@pytest.mark.parametrize("done", [False, True])
async def test_a_save_into_the_session_of_somebody_who_has_logged_in(done):
    """The request from before it neither logs the user out nor gets the card, and sees nothing of the session."""
    world = World()
    card = await world.begin(cart=1)
    visit, other = await world.two(card)
    other.session.update(user_id=7, secret="s")
    await other.commit()
    visit.session["mine"] = 1
    unanswered(world.store, "update", done=done, after=1)
    await save_in_vain(visit)
    await visit.session.save()
    assert visit.cookie is Cookie.KEEP and dict(visit.session) == {"cart": 1, "mine": 1}
    assert await world.data(other.card) == {"cart": 1, "user_id": 7, "secret": "s", "mine": 1}


async def test_a_save_into_a_session_that_was_rotated():
    """The card of the old ID does not go out."""
    world = World()
    card = await world.begin(n=0)
    visit, other = await world.two(card)
    other.session.rotate()
    await other.commit()
    visit.session.change("n", lambda n: n + 1)
    unanswered(world.store, "update", done=True, after=1)
    await save_in_vain(visit)
    assert await visit.answer() is Cookie.KEEP
    assert await world.data(other.card) == {"n": 1}


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("change", [{}, {"x": 1}])
async def test_a_log_in_over_another_user(change, done):
    """What was the other user's does not come back with the retry."""
    world = World()
    card = await world.begin(user_id=7, secret="s")
    visit = await world.arrive(card)
    visit.session["user_id"] = 8
    unanswered(world.store, "rotate", done=done)
    await save_in_vain(visit)
    visit.session.update(change)
    assert await visit.answer() is Cookie.GIVE
    expected = {"user_id": 8, **change}
    assert await world.data(visit.card) == expected and dict(visit.session) == expected
    assert world.live() == [expected]


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("begun", [{}, {"cart": 1}])
async def test_a_log_in_and_then_another_users(begun, done):
    """The request names another user before it saves again."""
    world = World()
    card = await world.begin(**begun) if begun else None
    visit = await world.arrive(card) if begun else world.life.anonymous()
    visit.session["user_id"] = 7
    unanswered(world.store, "rotate" if begun else "create", done=done)
    await save_in_vain(visit)
    visit.session["user_id"] = 8
    async with asyncio.timeout(20):
        await visit.session.save()
    assert (await world.data(visit.card))["user_id"] == 8
    assert [data["user_id"] for data in world.live()] == [8]


@pytest.mark.parametrize("last", [7, 8])
@pytest.mark.parametrize("done", [0, 1])
async def test_a_session_that_was_begun_twice(done, last):
    """The first attempt, or the second, is done after all: nothing of what the request put in is lost."""
    world = World()
    visit, attempts = world.life.anonymous(), []
    inner = world.store.create

    async def create(*args):
        attempts.append(args)
        raise OSError

    world.store.create = create
    visit.session.update(user_id=7, a=1)
    await save_in_vain(visit)
    visit.session.update(user_id=last, b=2)
    await save_in_vain(visit)
    world.store.create = inner
    await inner(*attempts[done])
    visit.session["c"] = 3
    async with asyncio.timeout(20):
        await visit.session.save()
    expected = {"user_id": last, "b": 2, "c": 3} | ({"a": 1} if (last, done) != (8, 0) else {})
    assert await world.data(visit.card) == expected


@pytest.mark.parametrize("done", [False, True])
async def test_a_log_out(done):
    """What begins after it begins with nothing of what was there."""
    world = World()
    card = await world.begin(user_id=7, secret="s")
    visit = await world.arrive(card)
    visit.session.clear()
    unanswered(world.store, "update", done=done)
    await save_in_vain(visit)
    visit.session["new"] = 1
    await visit.session.save()
    assert await world.data(card) is None
    assert await world.data(visit.card) == {"new": 1}


@pytest.mark.parametrize("done", [False, True])
async def test_a_session_that_begins_with_a_change(done):
    """It counts once."""
    world = World()
    visit = world.life.anonymous()
    visit.session.change("n", lambda n: n + 1, default=0)
    unanswered(world.store, "create", done=done)
    await save_in_vain(visit)
    visit.session.change("n", lambda n: n + 1, default=0)
    async with asyncio.timeout(20):
        await visit.session.save()
    assert await world.data(visit.card) == {"n": 2} == dict(visit.session)
    assert world.live() == [{"n": 2}]


@pytest.mark.parametrize("done", [False, True])
async def test_refresh_after_a_change(done):
    """What others saved meanwhile is shown, and the change counts once."""
    world = World()
    card = await world.begin(n=0)
    visit, other = await world.two(card)
    visit.session.change("n", lambda n: n + 1)
    visit.session["mine"] = 1
    unanswered(world.store, "update", done=done)
    await save_in_vain(visit)
    other.session.change("n", lambda n: n + 10)
    other.session["theirs"] = 1
    await other.commit()
    await visit.session.refresh()
    expected = {"n": 11, "mine": 1, "theirs": 1}
    assert dict(visit.session) == expected
    await visit.session.save()
    assert await world.data(card) == expected == dict(visit.session)


async def test_refresh_before_a_change_arrives_after_all():
    """The store did what it was asked later than it should have. The change counts once."""
    world = World()
    card = await world.begin(n=0)
    visit, attempts = await world.arrive(card), []
    inner = world.store.update

    async def update(*args, **options):
        attempts.append(lambda: inner(*args, **options))
        raise OSError

    world.store.update = update
    visit.session.change("n", lambda n: n + 1)
    await save_in_vain(visit)
    world.store.update = inner
    await visit.session.refresh()
    await attempts[0]()
    await visit.session.save()
    assert await world.data(card) == {"n": 1} == dict(visit.session)


@pytest.mark.parametrize("begun", [{"cart": 1}, {"user_id": 7, "secret": "s"}])
async def test_refresh_after_a_log_in(begun):
    """The log-in was saved, and the response gives its card."""
    world = World()
    visit = await world.arrive(await world.begin(**begun))
    visit.session["user_id"] = 8
    unanswered(world.store, "rotate", done=True)
    await save_in_vain(visit)
    await visit.session.refresh()
    expected = {"cart": 1, "user_id": 8} if "cart" in begun else {"user_id": 8}
    assert dict(visit.session) == expected
    assert await visit.answer() is Cookie.GIVE
    assert await world.data(visit.card) == expected


async def test_a_new_session_that_a_replica_does_not_show():
    """It was made, and what answers to loads does not have it yet: that holds no request for ever."""
    world = World()
    visit = world.life.anonymous()
    visit.session["x"] = 1
    unanswered(world.store, "create", done=True)
    await save_in_vain(visit)
    inner = world.store.load

    async def load(key):
        return None

    world.store.load = load
    async with asyncio.timeout(20):
        await save_in_vain(visit)
    world.store.load = inner
    await visit.session.save()
    assert await world.data(visit.card) == {"x": 1}
