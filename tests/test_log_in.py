"""Log-ins: the new ID, the user that the session is filed under, and log-ins that race with other requests."""

import asyncio
from unittest.mock import AsyncMock
from uuid import UUID

import pytest

from roomkey.core.reply import Cookie
from roomkey.csrf import csrf_token, verify_csrf_token
from roomkey.errors import SessionDataError, SessionEnded, StoreUnavailable
from tests.world import World


@pytest.mark.parametrize("user", [7, "anna", UUID(int=5)], ids=["int", "str", "uuid"])
async def test_log_in_rotates_and_files_the_user(user):
    """A new value of user_key gives a new ID, kills the old one and files the session under the user as text."""
    world = World()
    card = await world.begin(x=1)
    visit = await world.arrive(card)
    visit.session["user_id"] = user
    await visit.commit()
    assert world.store.asked == {"load": 1, "rotate": 1}
    assert visit.cookie is Cookie.GIVE
    assert visit.card != card
    assert visit.record.user == str(user)
    assert [key for key, _ in await world.store.of_user(str(user))] == [visit.key]
    assert await world.data(visit.card) == {"x": 1, "user_id": user}
    assert await world.data(card) is None


@pytest.mark.parametrize("user", [1.0, True, ["a"], b"a", "a\0b", "\ud800", "é" * 501], ids=repr)
async def test_what_is_no_user_id_is_refused(user):
    """Two users must never be the same text, and every database must keep it: nothing is saved."""
    world = World()
    card = await world.begin(x=1)
    visit = await world.arrive(card)
    visit.session["user_id"] = user
    with pytest.raises(SessionDataError, match="user_id"):
        await visit.commit()
    assert await world.data(card) == {"x": 1}


async def test_user_key_none_never_rotates():
    """With user_key=None no key is special: the ID stays and no user is filed."""
    world = World(user_key=None)
    card = await world.begin(x=1)
    visit = await world.arrive(card)
    visit.session["user_id"] = 7
    await visit.commit()
    assert world.store.asked == {"load": 1, "update": 1}
    assert visit.record.user is None
    assert await world.data(card) == {"x": 1, "user_id": 7}


async def test_log_in_gives_no_grace():
    """Grace asked for together with a log-in is not given: the old ID dies at once."""
    world = World()
    old = await world.begin(x=1)
    visit = await world.arrive(old)
    visit.session["user_id"] = "a"
    visit.session.rotate(grace=30)
    await visit.commit()
    assert await world.data(old) is None


async def test_a_request_from_before_a_log_in_leaves_the_users_forms_good():
    """A CSRF token that it makes does not take the place of the one in the user's page."""
    world = World()
    logging_in, slow = await world.two(await world.begin(a=1))
    logging_in.session["user_id"] = "a"
    token = csrf_token(logging_in.session)
    await logging_in.commit()
    csrf_token(slow.session)
    slow.session["b"] = 2
    await slow.commit()
    visit = await world.arrive(logging_in.card)
    assert verify_csrf_token(visit.session, token)
    assert visit.session["b"] == 2


@pytest.mark.parametrize("seal", [False, True])
async def test_a_request_from_before_a_log_in_goes_on_saving_and_sees_nothing(seal):
    """Its keys and its counting go into the user's session, once each; what the user has, it is never shown."""
    world = World(seal=seal)
    logging_in, slow = await world.two(await world.begin(a=1))
    logging_in.session.update(secret="theirs", user_id="a")
    await logging_in.commit()
    slow.session["b"] = 2
    slow.session.change("n", lambda n: n + 1, default=0)
    await slow.session.save()
    assert slow.session == {"a": 1, "b": 2, "n": 1}
    other = await world.arrive(logging_in.card)
    other.session.update(b=3)
    other.session.change("n", lambda n: n + 10)
    await other.commit()
    slow.session.change("n", lambda n: n + 1)
    slow.session.remember(5)
    await slow.session.save()
    await slow.session.save()
    assert slow.session == {"a": 1, "b": 2, "n": 2}
    assert slow.cookie is Cookie.KEEP
    assert await world.data(logging_in.card) == {"a": 1, "b": 3, "n": 12, "secret": "theirs", "user_id": "a"}
    assert (await world.arrive(logging_in.card)).facts.lifetime is None


@pytest.mark.parametrize("user", ["b", None])
async def test_change_of_user_drops_in_flight_changes(user):
    """When a session passes from A to B or to nobody, what A's requests in flight wrote is dropped."""
    world = World()
    switcher, late = await world.two(await world.begin(user_id="a"))
    switcher.session.clear()
    switcher.session["theme"] = "dark"
    if user is not None:
        switcher.session["user_id"] = user
    await switcher.commit()
    late.session["secret"] = "of a"
    await late.commit()
    assert late.lost
    assert late.cookie is Cookie.KEEP
    assert "secret" not in await world.data(switcher.card)
    assert all("secret" not in data for data in world.live())


@pytest.mark.parametrize("user", ["b", None])
async def test_change_of_user_after_a_concurrent_write_ends_the_old_session(user):
    """A → B, or A → nobody, takes effect although another request of A saved first: the old card is dead."""
    world = World()
    card = await world.begin(user_id="a", x=1)
    switcher, writer = await world.two(card)
    writer.session["w"] = 1
    await writer.commit()
    if user is None:
        del switcher.session["user_id"]
    else:
        switcher.session["user_id"] = user
    await switcher.commit()
    assert await world.data(card) is None
    assert await world.store.of_user("a") == []


@pytest.mark.parametrize("user", ["b", None])
async def test_cleared_log_in_takes_no_concurrent_write_of_the_user_before(user):
    """A → B, or A → nobody, that cleared the session holds nothing that another request of A saved meanwhile."""
    world = World()
    card = await world.begin(user_id="a", x=1)
    switcher, writer = await world.two(card)
    writer.session["secret"] = "of a"
    await writer.commit()
    switcher.session.clear()
    switcher.session["theme"] = "dark"
    if user is not None:
        switcher.session["user_id"] = user
    await switcher.commit()
    assert await world.data(card) is None
    assert "secret" not in (await world.data(switcher.card) or {})


@pytest.mark.parametrize("together", [True, False])
async def test_concurrent_log_ins_as_different_users(together):
    """Two log-ins as different users out of one anonymous session give two sessions that hold nothing of each other."""
    world = World()
    card = await world.begin(cart=1)
    visits = await world.two(card)
    for user, visit in zip("ab", visits, strict=True):
        visit.session["user_id"] = user
        visit.session[f"of_{user}"] = 1
    if together:
        await asyncio.gather(*(visit.commit() for visit in visits))
    else:
        for visit in visits:
            await visit.commit()
    for user, other, visit in zip("ab", "ba", visits, strict=True):
        assert visit.cookie is Cookie.GIVE
        data = await world.data(visit.card)
        assert data["user_id"] == user
        assert f"of_{user}" in data
        assert f"of_{other}" not in data
    assert visits[0].key != visits[1].key
    assert await world.data(card) is None


async def test_concurrent_log_ins_as_the_same_user():
    """Two log-ins as the same user end in one session with the keys of both, which the last card opens."""
    world = World()
    card = await world.begin(cart=1)
    one, two = await world.two(card)
    for name, visit in (("one", one), ("two", two)):
        visit.session["user_id"] = "a"
        visit.session[name] = 1
        await visit.commit()
    assert await world.data(two.card) == {"cart": 1, "user_id": "a", "one": 1, "two": 1}
    assert len(await world.store.of_user("a")) == 1
    assert await world.data(card) is None


async def test_log_in_when_the_anonymous_session_ended():
    """A log-in whose anonymous session was ended meanwhile gets a new session with this request's keys alone."""
    world = World()
    card = await world.begin(cart=1)
    enterer, leaver = await world.two(card)
    leaver.session.clear()
    await leaver.commit()
    enterer.session["user_id"] = "a"
    enterer.session["mine"] = 1
    await enterer.commit()
    assert enterer.cookie is Cookie.GIVE
    assert await world.data(enterer.card) == {"user_id": "a", "mine": 1}
    assert await world.data(card) is None


@pytest.mark.parametrize("clears", [False, True])
@pytest.mark.parametrize("owner", [None, "b"])
async def test_log_in_on_its_own_takes_only_what_its_request_assigned(owner, clears):
    """A log-in whose session has ended meanwhile, or was another user's, keeps a key that was assigned what it had."""
    world = World()
    before = {} if owner is None else {"user_id": owner}
    card = await world.begin(theme="dark", font="large", cart=["book"], visits=1, **before)
    enterer, leaver = await world.two(card)
    if owner is None:
        leaver.session.clear()
        await leaver.commit()
    if clears:
        enterer.session.clear()
    enterer.session["theme"] = "dark"
    enterer.session.setdefault("lang", "en")
    enterer.session["user_id"] = "a"
    enterer.session |= {"font": "large"}
    enterer.session.get("cart", []).append("pen")
    enterer.session.change("visits", lambda n: n + 1, default=0)
    await enterer.commit()
    own = {"user_id": "a", "theme": "dark", "font": "large", "lang": "en", "visits": 1}
    assert await world.data(enterer.card) == enterer.session == own


async def test_log_in_over_another_user_is_tried_again_after_an_outage():
    """What is assigned, the same as before too, is still there when the store did not save at the first try."""
    world = World()
    visit = await world.arrive(await world.begin(user_id="b", theme="dark", secret="of b"))
    visit.session.update(user_id="a", theme="dark")
    update, world.store.rotate = world.store.rotate, AsyncMock(side_effect=OSError)
    with pytest.raises(StoreUnavailable):
        await visit.commit()
    world.store.rotate = update
    visit.session["x"] = 1
    await visit.commit()
    assert await world.data(visit.card) == {"user_id": "a", "theme": "dark", "x": 1}


async def test_refresh_before_a_log_in_takes_nothing_of_another_user():
    """A log-in as B that refreshed after a concurrent log-in as A does not carry A's keys into B's session."""
    world = World()
    a, b = await world.two(await world.begin(cart=1))
    a.session.update(user_id="a", secret="of a")
    await a.commit()
    b.session["user_id"] = "b"
    try:
        await b.session.refresh()
    except SessionEnded:
        return
    await b.commit()
    assert "secret" not in (await world.data(b.card) or {})
    assert (await world.data(a.card) or {}).get("user_id") == "a"


async def test_saving_again_after_another_request_logged_in_gives_no_card():
    """A visit from before a log-in never gets the card of the logged-in session, however often it saves."""
    world = World()
    enterer, late = await world.two(await world.begin(cart=1))
    enterer.session["user_id"] = "a"
    await enterer.commit()
    late.session["one"] = 1
    await late.session.save()
    late.session["two"] = 2
    await late.commit()
    assert late.cookie is Cookie.KEEP
    assert await world.data(enterer.card) is not None


async def test_stream_saves_twice_after_another_request_logged_in():
    """A WebSocket from before a log-in can go on saving: nothing of it needs a cookie."""
    world = World()
    enterer, stream = await world.two(await world.begin(cart=1))
    stream.cookie_possible = False
    enterer.session["user_id"] = "a"
    await enterer.commit()
    for number in range(3):
        stream.session["n"] = number
        await stream.session.save()
    assert (await world.data(enterer.card))["n"] == 2


async def test_rotation_in_flight_never_gets_the_card_of_a_log_in():
    """A rotation asked for by a visit from before a log-in does not hand it the logged-in session's card."""
    world = World()
    enterer, late = await world.two(await world.begin(cart=1))
    enterer.session["user_id"] = "a"
    await enterer.commit()
    late.session.rotate(grace=30)
    await late.commit()
    assert late.cookie is Cookie.KEEP
    assert await world.data(enterer.card) is not None
