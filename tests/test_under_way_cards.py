"""Requests that are under way while others rotate, log in or log out: which cookie they send."""

import pytest

from roomkey import ResponseStarted, SessionDataError, SessionEnded, SessionManager, Sessions, StoreUnavailable
from roomkey.core.loaded import Stale
from roomkey.core.reply import Cookie
from roomkey.csrf import csrf_token
from roomkey.stores.memory import MemoryStore
from roomkey.wire.facts import LONGEST_TRAIL
from tests.world import MAX_AGE, START, World

# --- cookies ----------------------------------------------------------------------------------------------------------


async def answer(visit):
    """Do what the middleware does when the response starts; return what it does with the cookie."""
    return await visit.answer()


@pytest.mark.parametrize("then", ["answer", "save again", "refresh"])
@pytest.mark.parametrize("other", ["logs in", "rotates", "ends it"])
async def test_a_card_that_an_earlier_save_gave_is_not_sent_once_it_is_dead(then, other):
    """A page that saves early (flash messages do) and answers late must not overwrite the cookie of a log-in."""
    world = World()
    card = await world.begin(x=1)
    world.clock.advance(MAX_AGE / 2)  # renewal is due
    page, meanwhile = await world.two(card)
    page.session["y"] = 1
    await page.session.save()
    assert page.cookie is Cookie.GIVE
    {
        "logs in": lambda: meanwhile.session.update(user_id=7),
        "rotates": meanwhile.session.rotate,
        "ends it": meanwhile.session.invalidate,
    }[other]()
    await meanwhile.commit()
    if then == "save again":
        page.session["z"] = 1
        if other == "ends it":
            with pytest.raises(SessionEnded):
                await page.session.save()
        else:
            await page.session.save()
    elif then == "refresh":
        if other == "rotates":
            await page.session.refresh()
        else:
            with pytest.raises(SessionEnded):
                await page.session.refresh()
    assert await answer(page) is Cookie.KEEP


async def test_a_card_that_an_earlier_save_gave_is_sent_when_it_is_current():
    """The usual case: a log-in whose handler shows flash messages. It costs one load more."""
    world = World()
    visit = await world.arrive(await world.begin(x=1))
    visit.session["user_id"] = 7
    visit.session.flash("welcome")
    assert await visit.session.flashes() == [("info", "welcome")]
    world.store.asked.clear()
    assert await answer(visit) is Cookie.GIVE
    assert world.store.asked == {"load": 1}
    assert (await world.data(visit.card))["user_id"] == 7


async def test_a_rotation_that_was_saved_early_and_rotated_again():
    """The response that comes last sends no dead card."""
    world = World()
    slow, other = await world.two(await world.begin(x=1))
    slow.session.rotate()
    await slow.session.save()
    other.session["user_id"] = 7
    await other.commit()
    assert await answer(slow) is Cookie.KEEP
    assert await world.data(other.card) == {"x": 1, "user_id": 7}


async def test_a_late_response_under_an_old_key_gives_no_dead_card():
    """A card of an old secret key is signed anew, unless its ID has been rotated meanwhile."""
    world = World(secret_key=["n" * 32, "k" * 32])
    old = World(secret_key="k" * 32, store=world.store)
    card = await old.begin(x=1)
    late, other = await world.two(card)
    assert late.at.stale is Stale.CARD
    other.session.rotate()
    await other.commit()
    late.session["y"] = 1
    await late.commit()
    assert late.cookie is Cookie.KEEP
    late, other = await world.two(other.card)
    late.at = late.at._replace(stale=Stale.CARD)
    other.session.rotate()
    await other.commit()
    await late.session.refresh()
    late.session["z"] = 1
    await late.commit()
    assert late.cookie is Cookie.KEEP
    assert await world.data(other.card) == {"x": 1, "y": 1, "z": 1}


@pytest.mark.parametrize("store", ["memory://", "cookie://"])
async def test_an_old_card_is_signed_anew_after_refresh(store):
    """The request read its session, and `refresh` finds nothing new: the response gives a card of the first key."""
    store = MemoryStore() if store == "memory://" else store
    old = SessionManager(secret_key="k" * 32, store=store)
    new = SessionManager(secret_key=["n" * 32, "k" * 32], store=store)
    session = await old.load()
    session["x"] = 1
    card = dict(await old.commit(session))["set-cookie"].partition(";")[0]
    session = await new.load(card)
    await session.refresh()
    assert "set-cookie" in dict(await new.commit(session))


async def test_a_request_from_before_the_log_in_begins_no_session():
    """It arrives with the dead ID a moment after the rotation: its cookie would overwrite the user's."""
    world = World()
    card = await world.begin(cart=1)
    user = await world.arrive(card)
    user.session["user_id"] = 7
    await user.commit()
    late = await world.arrive(card)
    csrf_token(late.session)
    await late.commit()
    assert late.cookie is Cookie.KEEP and late.lost
    with pytest.raises(SessionEnded):
        await late.session.save()
    assert world.live() == [{"cart": 1, "user_id": 7}]
    again = await world.arrive(card)  # but who logs in with it, logs in
    again.session["user_id"] = 8
    await again.commit()
    assert await world.data(again.card) == {"user_id": 8}


async def test_a_browser_that_never_got_the_new_cookie_can_begin_anew():
    """A while after the rotation a dead ID is no request from before it any more."""
    world = World()
    card = await world.begin(cart=1)
    other = await world.arrive(card)
    other.session.rotate()
    await other.commit()
    world.clock.advance(31)
    stuck = await world.arrive(card)
    assert stuck.session == {}
    stuck.session["cart"] = 2
    await stuck.commit()
    assert await world.data(stuck.card) == {"cart": 2}


@pytest.mark.parametrize("how", ["flashes", "save", "invalidate"])
async def test_a_request_whose_session_became_another_users_begins_none(how):
    """A log-out and log-in as another user in one request: a slow one of the first user takes nobody's cookie."""
    world = World()
    card = await world.begin(user_id="A", _flashes=[("info", "hello A")])
    switch, slow = await world.two(card)
    switch.session.clear()
    switch.session["user_id"] = "B"
    await switch.commit()
    if how == "flashes":
        assert await slow.session.flashes() == []
    elif how == "save":
        slow.session["x"] = 1
        with pytest.raises(SessionEnded):
            await slow.session.save()
    else:
        slow.session.invalidate()
    slow.session["csrf"] = "x"
    await slow.commit()
    assert slow.lost and slow.cookie is Cookie.KEEP
    with pytest.raises(SessionEnded):
        await slow.session.refresh()
    assert world.live() == [{"user_id": "B"}]


async def test_rotate_from_before_a_reauthentication_takes_no_card():
    """Who has just proved who they are keeps the session, whatever a request from before it asks for."""
    world = World()
    card = await world.begin(user_id=7)
    world.clock.advance(1)
    before, user = await world.two(card)
    user.session.reauthenticated()
    await user.commit()
    before.session.rotate()
    before.session["x"] = 1
    await before.commit()
    assert before.cookie is Cookie.KEEP
    assert await world.data(user.card) == {"user_id": 7, "x": 1}


# --- logging in -------------------------------------------------------------------------------------------------------


async def test_clear_and_the_same_user_is_a_log_in():
    """The order that the docs recommend: the ID changes, and the log-in is a recent one."""
    world = World()
    card = await world.begin(user_id=7, x=1)
    world.clock.advance(MAX_AGE / 2)
    visit = await world.arrive(card)
    visit.session.clear()
    visit.session["user_id"] = 7
    visit.session.require_recent(1)
    await visit.commit()
    assert visit.card != card and await world.data(card) is None
    visit = await world.arrive(visit.card)
    assert visit.session == {"user_id": 7}
    assert visit.session.authenticated_at.timestamp() == START + MAX_AGE / 2


async def test_clear_and_the_same_user_when_the_session_was_revoked_meanwhile():
    """That is a log-in too, and stands on its own."""
    world = World()
    visit = await world.arrive(await world.begin(user_id=7, x=1))
    await Sessions(world.life).revoke_all(7)
    visit.session.clear()
    visit.session.update(user_id=7, y=1)
    await visit.commit()
    assert await world.data(visit.card) == {"user_id": 7, "y": 1}


async def test_a_shorter_life_is_not_prolonged_by_who_does_not_know_of_it():
    """`remember(60)` on somebody else's computer: a request that came before it renews nothing any more."""
    world = World()
    visit = world.life.anonymous()
    visit.session.update(user_id=7)
    visit.session.remember(100_000)
    await visit.commit()
    world.clock.advance(50_000)
    short, before = await world.two(visit.card)
    short.session.remember(60)
    await short.commit()
    before.session.get("x")
    await before.commit()
    assert before.cookie is Cookie.KEEP
    world.clock.advance(61)
    assert await world.data(short.card) is None and await world.data(visit.card) is None


async def test_a_shorter_life_needs_a_cookie():
    """Without a new ID a request under way would prolong it again, so a stream is told, not fooled."""
    world = World()
    visit = world.life.anonymous()
    visit.session.update(user_id=7)
    visit.session.remember(100_000)
    await visit.commit()
    stream = await world.arrive(visit.card)
    stream.cookie_possible = False
    stream.session.remember(60)
    with pytest.raises(ResponseStarted):
        await stream.session.save()
    stream = await world.arrive(visit.card)
    stream.cookie_possible = False
    stream.session.remember(200_000)
    await stream.session.save()
    world.clock.advance(150_000)
    assert await world.data(visit.card) == {"user_id": 7}


async def test_of_two_genuine_cards_one_was_rotated_a_moment_ago():
    """The second is long dead, and must not make the request one that may begin a session over the newer cookie."""
    world = World()
    dead = await world.begin(x=1)
    visit = await world.arrive(dead)
    visit.session.invalidate()
    await visit.commit()
    card = await world.begin(x=2)
    visit = await world.arrive(card)
    visit.session["user_id"] = 7
    await visit.commit()
    for cards in ([card, dead], [dead, card]):
        late = await world.life.arrive(cards)
        late.session["seen"] = 1
        await late.commit()
        assert late.cookie is Cookie.KEEP


# --- what is half done ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [{"x": bytearray(b"x")}, {"x": "y" * 70_000}, {"user_id": 1.5}])
async def test_a_session_that_cannot_begin_ends_none(bad):
    """`invalidate()` and then what cannot be saved: an error, and the session before it stays."""
    world = World()
    card = await world.begin(user_id=7)
    visit = await world.arrive(card)
    visit.session.invalidate()
    visit.session.update(bad)
    with pytest.raises(SessionDataError):
        await visit.commit()
    assert await world.data(card) == {"user_id": 7}


@pytest.mark.parametrize("rotations", [LONGEST_TRAIL, LONGEST_TRAIL + 1, 100])
async def test_a_long_chain_of_rotations_is_followed(rotations):
    """A request that ran for as many rotations as a session keeps tombstones of still logs its user out.

    After more it fails, and does not say that the user has logged out.
    """
    world = World()
    card = await world.begin(user_id=7)
    slow = await world.arrive(card)
    for _ in range(rotations):
        visit = await world.arrive(card)
        visit.session.rotate()
        await visit.commit()
        card = visit.card
    slow.session.invalidate()
    if rotations <= LONGEST_TRAIL:
        await slow.commit()
        assert await world.data(card) is None
    else:
        with pytest.raises(StoreUnavailable):
            await slow.commit()
        assert await world.data(card) == {"user_id": 7}
