"""A user's own names for sessions, and whose session a request may end or name without saying whose."""

import asyncio

import pytest

from roomkey import ANYBODYS, ConfigurationError, SessionDataError
from tests.test_users import world  # noqa: F401  # the fixture

pytestmark = pytest.mark.usefixtures("world")


async def named(here, user=42):
    return [each.label for each in await here.sessions.of(user)]


async def test_a_name_stays(world):  # noqa: F811
    """It is listed, and stays through a save, a rotation and a reauthentication. A log-out ends it."""
    here = world(record_client=True)
    card = await here.log_in(42, client=("192.0.2.1", "Firefox"))
    visit = await here.arrive(card)
    assert await visit.session.sessions.label(visit.session.handle, "  my phone ")
    visit.session["x"] = 1
    await visit.commit()
    assert await named(here) == ["my phone"]
    for act in (lambda session: session.rotate(), lambda session: session.reauthenticated()):
        visit = await here.arrive(card)
        act(visit.session)
        await visit.commit()
        card = visit.card
        assert await named(here) == ["my phone"]
    visit = await here.arrive(card)
    visit.session.reauthenticated()
    await visit.commit()
    (info,) = await here.sessions.of(42)
    assert (info.label, info.ip, info.user_agent) == ("my phone", "192.0.2.1", "Firefox")
    visit = await here.arrive(visit.card)
    visit.session.clear()
    visit.session["user_id"] = 42
    await visit.commit()
    assert await named(here) == [None]


async def test_another_user_gets_no_name(world):  # noqa: F811
    """A session that becomes another user's, or a visitor's, has no name any more."""
    here = world()
    visit = await here.arrive(await here.log_in(42))
    assert await here.sessions.label(visit.session.handle, "mine")
    visit.session["user_id"] = 43
    await visit.commit()
    assert await named(here, 43) == [None] and await named(here) == []


@pytest.mark.parametrize("label", [None, "", " "])
async def test_a_name_is_taken_back(world, label):  # noqa: F811
    """None and an empty text take it back."""
    here = world()
    handle = (await here.arrive(await here.log_in(42))).session.handle
    await here.sessions.label(handle, "Zo\u00eb's \u706b \U0001f5dd")
    assert await named(here) == ["Zo\u00eb's \u706b \U0001f5dd"]
    assert await here.sessions.label(handle, label)
    assert await named(here) == [None]


@pytest.mark.parametrize("label", ["x" * 101, 7, b"phone"])
async def test_what_is_no_name(world, label):  # noqa: F811
    """It is an error, and the name stays as it was."""
    here = world()
    handle = (await here.arrive(await here.log_in(42))).session.handle
    await here.sessions.label(handle, "x" * 100)
    with pytest.raises(SessionDataError, match=r"^label"):
        await here.sessions.label(handle, label)
    assert await named(here) == ["x" * 100]


async def test_a_name_loses_no_change(world):  # noqa: F811
    """A request that runs meanwhile keeps what it changes, and the session keeps its name, under a new ID too."""
    here = world()
    card = await here.log_in(42)
    visit, other = await here.arrive(card), await here.arrive(card)
    visit.session["x"] = 1
    other.session.rotate()
    await other.commit()
    assert await here.sessions.label(visit.session.handle, "phone")
    await visit.commit()
    found = await here.arrive(other.card)
    assert found.session["x"] == 1 and await named(here) == ["phone"]


async def test_names_and_saves_at_once(world):  # noqa: F811
    """Neither undoes the other."""
    here = world()
    card = await here.log_in(42)
    handle = (await here.arrive(card)).session.handle

    async def count():
        visit = await here.arrive(card)
        visit.session.change("n", lambda n: n + 1, 0)
        await visit.commit()

    await asyncio.gather(*(count() for _ in range(10)), *(here.sessions.label(handle, str(n)) for n in range(10)))
    assert (await here.arrive(card)).session["n"] == 10
    assert (await named(here))[0] in {str(n) for n in range(10)}


async def test_in_a_request_only_the_users_own(world):  # noqa: F811
    """A handle from a browser ends and names a session of the user who asks, and nobody else's."""
    here = world()
    mine, hers = await here.log_in(42), await here.log_in(43)
    theirs = (await here.arrive(hers)).session.handle
    own = (await here.arrive(mine)).session.handle
    asking = (await here.arrive(await here.log_in(42))).session.sessions
    assert not await asking.revoke(theirs) and not await asking.label(theirs, "x")
    assert await here.who(hers) == 43 and await named(here, 43) == [None]
    assert await asking.label(own, "x") and await asking.revoke(own)
    assert await here.who(mine) is None
    assert await asking.label(theirs, "x", user=43) and await asking.revoke(theirs, user=ANYBODYS)
    assert await here.who(hers) is None


async def test_a_visitor_ends_nobodys(world):  # noqa: F811
    """Where nobody is logged in, a handle ends nothing, unless it is said whose session it may be."""
    here = world()
    card = await here.log_in(42)
    handle = (await here.arrive(card)).session.handle
    visitor = here.life.anonymous().session
    assert not await visitor.sessions.revoke(handle) and await here.who(card) == 42
    visitor["user_id"] = 42  # a log-in that is not saved yet
    assert await visitor.sessions.revoke(handle) and await here.who(card) is None


async def test_without_a_user_key(world):  # noqa: F811
    """Nobody knows whose a session is. The error says what to do, and ANYBODYS ends it."""
    here = world(user_key=None)
    card = await here.log_in(42)
    visit = await here.arrive(card)
    with pytest.raises(ConfigurationError, match="user_key"):
        await visit.session.sessions.revoke(visit.session.handle)
    assert await here.who(card) == 42
    assert await visit.session.sessions.revoke(visit.session.handle, user=ANYBODYS)
    assert await here.who(card) is None


async def test_what_is_not_there_has_no_name(world):  # noqa: F811
    """A handle that leads nowhere is answered with False."""
    here = world()
    card = await here.log_in(42)
    handle = (await here.arrive(card)).session.handle
    assert await here.sessions.revoke(handle)
    assert not await here.sessions.label(handle, "x") and not await here.sessions.label("no handle", "x")
