"""Log-outs: by `clear()`, by `invalidate()` or key by key, and against requests that run at the same time."""

import asyncio

import pytest

from roomkey.core.reply import Cookie
from roomkey.csrf import csrf_token
from roomkey.errors import SessionEnded
from tests.world import World


async def test_log_out_to_anonymous_rotates():
    """Taking user_key away rotates: the session is nobody's, under a new ID."""
    world = World()
    card = await world.begin(user_id="a", x=1)
    visit = await world.arrive(card)
    del visit.session["user_id"]
    await visit.commit()
    assert visit.record.user is None
    assert await world.data(card) is None
    assert await world.data(visit.card) == {"x": 1}
    assert await world.store.of_user("a") == []


@pytest.mark.parametrize("grow", ["x", "user_id"])
async def test_a_session_emptied_key_by_key_keeps_what_others_put_in(grow):
    """Deleting the last key, as taking a message does, undoes neither another request's key nor its log-in."""
    world = World()
    card = await world.begin(message="hello")
    adding, emptying = await world.two(card)
    adding.session[grow] = 1
    await adding.commit()
    del emptying.session["message"]
    await emptying.commit()
    assert emptying.cookie is Cookie.KEEP
    assert await world.data(adding.card or card) == {grow: 1}


async def test_a_session_that_two_requests_empty_ends():
    """Where nothing is left by anybody, the session ends."""
    world = World()
    one, two = await world.two(await world.begin(a=1, b=2))
    del one.session["a"]
    await one.commit()
    del two.session["a"], two.session["b"]
    await two.commit()
    assert two.cookie is Cookie.CLEAR
    assert world.live() == []


async def test_a_log_out_key_by_key_ends_what_others_put_in():
    """A user's session that is emptied was a log-out: what the user's other request wrote goes too."""
    world = World()
    adding, emptying = await world.two(await world.begin(user_id="a"))
    adding.session["x"] = 1
    await adding.commit()
    del emptying.session["user_id"]
    await emptying.commit()
    assert emptying.cookie is Cookie.CLEAR
    assert world.live() == []


@pytest.mark.parametrize("other_saves", [False, True])
async def test_a_user_who_leaves_nothing_but_forms(other_saves):
    """The forms are the user's and go too, so that the session has ended; nothing begins by saving again."""
    world = World()
    card = await world.begin(user_id="a")
    visit = await world.arrive(card)
    csrf_token(visit.session)
    await visit.commit()
    visit, other = await world.two(card)
    if other_saves:
        other.session["x"] = 1
        await other.commit()
    del visit.session["user_id"]
    await visit.session.save()
    assert visit.cookie is Cookie.CLEAR
    await visit.session.save()
    assert world.live() == [] and visit.session == {} and visit.cookie is Cookie.CLEAR


@pytest.mark.parametrize("act", ["invalidate", "clear"])
@pytest.mark.parametrize("user", [None, "a"])
async def test_an_explicit_log_out_ends_what_others_put_in(act, user):
    """`clear()` and `invalidate()` end the session with what another request wrote while it ran."""
    world = World()
    adding, ending = await world.two(await world.begin(a=1, **({} if user is None else {"user_id": user})))
    adding.session["x"] = 1
    await adding.commit()
    getattr(ending.session, act)()
    await ending.commit()
    assert ending.cookie is Cookie.CLEAR
    assert world.live() == []


@pytest.mark.parametrize("act", ["invalidate", "clear"])
async def test_an_anonymous_request_logs_nobody_out(act):
    """A session that was nobody's is cleared by a slow request after somebody logged in: they stay logged in."""
    world = World()
    logging_in, slow = await world.two(await world.begin(a=1))
    logging_in.session.update(b=2, user_id="a")
    await logging_in.commit()
    getattr(slow.session, act)()
    await slow.commit()
    assert slow.cookie is Cookie.KEEP
    assert await world.data(logging_in.card) == {"b": 2, "user_id": "a"}
    assert slow.session == {}


@pytest.mark.parametrize("user", [None, "b"])
async def test_what_begins_after_invalidate_does_not_take_a_log_ins_cookie(user):
    """An anonymous request that invalidates and begins anew gives no cookie over another's log-in, but by a log-in."""
    world = World()
    logging_in, slow = await world.two(await world.begin(a=1))
    logging_in.session["user_id"] = "a"
    await logging_in.commit()
    slow.session.invalidate()
    slow.session.update(c=3, **({} if user is None else {"user_id": user}))
    if user is None:
        with pytest.raises(SessionEnded):
            await slow.session.save()
        assert slow.cookie is Cookie.KEEP
    else:
        await slow.session.save()
        assert await world.data(slow.card) == {"c": 3, "user_id": "b"}
    assert await world.data(logging_in.card) == {"user_id": "a"}


@pytest.mark.parametrize("how", ["clear", "invalidate"])
@pytest.mark.parametrize("writer_first", [True, False])
async def test_log_out_is_final(how, writer_first):
    """A log-out ends the session whether a concurrent writer saves before or after it."""
    world = World()
    card = await world.begin(user_id="a", x=1)
    leaver, writer = await world.two(card)
    getattr(leaver.session, how)()
    writer.session["w"] = 1
    for visit in (writer, leaver) if writer_first else (leaver, writer):
        await visit.commit()
    assert leaver.cookie is Cookie.CLEAR
    assert writer.cookie is Cookie.KEEP
    assert writer.lost is not writer_first
    assert await world.data(card) is None
    assert world.live() == []


async def test_log_out_among_many_running_writers():
    """A log-out that runs at the same time as twenty writers leaves nothing alive."""
    world = World()
    card = await world.begin(user_id="a")
    visits = [await world.arrive(card) for _ in range(21)]
    for number, visit in enumerate(visits):
        visit.session[f"k{number}"] = number
    visits[10].session.clear()
    await asyncio.gather(*(visit.commit() for visit in visits))
    assert world.live() == []
    assert await world.data(card) is None


@pytest.mark.parametrize("together", [True, False])
async def test_log_out_racing_a_rotation_ends_the_successor(together):
    """A log-out that meets a rotation ends the session under its new ID too."""
    world = World()
    card = await world.begin(user_id="a")
    rotator, leaver = await world.two(card)
    rotator.session.rotate(grace=60)
    leaver.session.invalidate()
    if together:
        await asyncio.gather(rotator.commit(), leaver.commit())
    else:
        await rotator.commit()
        await leaver.commit()
    assert world.live() == []
    for given_card in filter(None, [card, rotator.card]):
        assert await world.data(given_card) is None


async def test_invalidate_then_new_data_is_a_new_session():
    """What is put in after invalidate starts a session with a new ID; the old one is dead."""
    world = World()
    card = await world.begin(x=1)
    visit = await world.arrive(card)
    visit.session.invalidate()
    visit.session["y"] = 2
    await visit.commit()
    assert visit.cookie is Cookie.GIVE
    assert visit.card != card
    assert await world.data(card) is None
    assert await world.data(visit.card) == {"y": 2}
