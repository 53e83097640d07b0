"""What rotations leave behind is bounded, and the bound swallows no log-out: over every store on a server."""

import pytest

from roomkey import SessionEnded, Sessions
from roomkey.core.loaded import Stored
from roomkey.core.registry import _MOST_HOPS
from roomkey.core.reply import Cookie
from roomkey.errors import StoreUnavailable
from roomkey.legacy import LegacySession
from roomkey.wire.facts import LONGEST_TRAIL
from tests.attacks.site import Site, card_in, set_cookies, update

MANY = 3 * LONGEST_TRAIL  # rotations of one session


class Watched:
    """A store that counts loads, and knows every key that it was ever given.

    Args:
        inner: what it asks.
    """

    def __init__(self, inner):
        self.inner, self.loads, self.keys = inner, 0, set()
        self.update, self.touch, self.delete, self.of_user = inner.update, inner.touch, inner.delete, inner.of_user

    async def load(self, key):
        self.loads += 1
        return await self.inner.load(key)

    async def create(self, key, record):
        self.keys.add(key)
        await self.inner.create(key, record)

    async def rotate(self, key, new_key, record, tombstone, *, version):
        self.keys.add(new_key)
        await self.inner.rotate(key, new_key, record, tombstone, version=version)

    async def rows(self):
        """Return how many live records there are, tombstones too."""
        return len([key for key in self.keys if await self.inner.load(key) is not None])


def watched(site, **options):
    """Return a site over the same store, which is watched, and the store."""
    store = Watched(site.store)
    return Site(store, site.clock, seal=site.config.seal, **options), store


def log_in_anew(session):
    session.clear()
    session["user_id"] = 42


async def move(site, card, times, act=log_in_anew):
    """Rotate a session as often; return its last card."""
    for _ in range(times):
        visit = await site.life.arrive([card])
        act(visit.session)
        await visit.commit()
        assert visit.cookie is Cookie.GIVE
        card = visit.card
    return card


async def test_a_session_leaves_a_bounded_number_of_tombstones(new_site):
    """However often somebody logs in with it."""
    async with new_site() as plain:
        site, store = watched(plain)
        card = await move(site, await site.log_in(), MANY)
        assert await store.rows() == 1 + LONGEST_TRAIL + 1  # the session, its tombstones, and that there were more
        assert await site.who(card) == 42


async def test_a_session_that_has_ended_leaves_nothing(new_site):
    """Its tombstones lead nowhere, and go with it."""
    async with new_site() as plain:
        site, store = watched(plain)
        for times in (1, MANY):
            card = await move(site, await site.log_in(), times)
            await site.ask(card, lambda session: session.invalidate())
            assert await store.rows() == 0


async def test_log_ins_under_a_limit_leave_no_tombstones(new_site):
    """A session that ends because of the limit takes its tombstones along."""
    async with new_site() as plain:
        site, store = watched(plain, max_sessions_per_user=1)
        for _ in range(10):
            site.clock.advance(1)
            _, headers = await site.ask(None, update(cart=1))
            await site.log_in(cookie=card_in(headers))
        assert await store.rows() == 2


async def test_the_first_card_of_a_chain_costs_a_bounded_number_of_loads(new_site):
    """Also where every ID on the way is served still."""
    async with new_site() as plain:
        site, store = watched(plain)
        first = await site.log_in()
        held = await site.life.arrive([first])
        await move(site, first, MANY, lambda session: session.rotate(grace=500))
        for attempt in (lambda: site.ask(first), lambda: Sessions(site.config).revoke(held.key)):
            store.loads = 0
            await attempt()
            assert store.loads <= 1 + _MOST_HOPS


async def test_a_chain_without_an_end_is_an_error(new_site, monkeypatch):
    """A log-out, a save and a revocation do not say that the session has ended, where they stop to look for it."""
    monkeypatch.setattr("roomkey.core.registry._MOST_HOPS", 5)
    async with new_site() as site:
        first = await site.log_in()
        saving, leaving = [await site.life.arrive([first]) for _ in range(2)]
        last = await move(site, first, 8)
        saving.session["x"] = 1
        leaving.session.clear()
        for attempt in (saving.commit, leaving.commit, lambda: Sessions(site.config).revoke(saving.key)):
            with pytest.raises(StoreUnavailable, match="too often"):
                await attempt()
        assert await site.who(last) == 42


async def test_a_served_chain_without_an_end_is_an_error(new_site, monkeypatch):
    """Who arrives with an old card that is served still is not taken for anonymous: that would swallow a log-out."""
    monkeypatch.setattr("roomkey.core.registry._MOST_HOPS", 5)
    async with new_site() as site:
        first = await site.log_in()
        await move(site, first, 8, lambda session: session.rotate(grace=500))
        with pytest.raises(StoreUnavailable, match="too often"):
            await site.life.arrive([first])


LOG_OUTS = {
    "clear": lambda session: session.clear(),
    "invalidate": lambda session: session.invalidate(),
    "the user": lambda session: session.pop("user_id"),
}


@pytest.mark.parametrize("log_out", LOG_OUTS)
@pytest.mark.parametrize("before", [0, 1, MANY])
async def test_a_log_out_past_the_bound_fails(new_site, log_out, before):
    """A request whose tombstone was removed cannot find its session, and does not say that it has ended."""
    async with new_site() as site:
        card = await move(site, await site.log_in(), before)
        held = await site.life.arrive([card])
        last = await move(site, card, MANY)
        held.session["x"] = 1
        LOG_OUTS[log_out](held.session)
        with pytest.raises(StoreUnavailable, match="ended or changed its ID too often"):
            await held.commit()
        assert await site.who(last) == 42


async def test_a_change_past_the_bound_fails(new_site):
    """It is not dropped in silence, for its session lives. A log-in stands on its own."""
    async with new_site() as site:
        card = await site.log_in()
        changing, saving, logging_in = [await site.life.arrive([card]) for _ in range(3)]
        last = await move(site, card, MANY)
        for visit in (changing, saving, logging_in):
            visit.session["x"] = 1
        logging_in.session["user_id"] = 43
        for attempt in (changing.commit, saving.session.save):
            with pytest.raises(StoreUnavailable, match="ended or changed its ID too often"):
                await attempt()
        await logging_in.commit()
        assert (await site.who(last), await site.who(logging_in.card)) == (42, 43)


@pytest.mark.parametrize("log_out", ["clear", "invalidate"])
async def test_a_log_out_within_the_bound_ends_the_session(new_site, log_out):
    """The request finds the session through all tombstones that it may leave."""
    async with new_site() as site:
        first = await site.log_in()
        held = await site.life.arrive([first])
        last = await move(site, first, LONGEST_TRAIL)
        LOG_OUTS[log_out](held.session)
        await held.commit()
        assert await site.who(last) is None


@pytest.mark.parametrize("times", [0, 1, LONGEST_TRAIL, MANY])
async def test_a_second_log_out_is_done(new_site, times):
    """Where the session has ended, there is nothing left to say no to."""
    async with new_site() as site:
        card = await site.log_in()
        held = [await site.life.arrive([card])]
        last = await move(site, card, times)
        held.append(await site.life.arrive([last]))
        await site.ask(last, lambda session: session.invalidate())
        for visit in held:
            visit.session.clear()
            await visit.commit()
            assert not visit.lost


async def test_nobody_outruns_a_revocation(new_site):
    """Whoever rotates a stolen session faster than it can be ended is not taken for gone."""
    async with new_site() as site:
        card = await site.log_in()
        seen = await site.life.arrive([card])
        last = await move(site, card, MANY)
        with pytest.raises(StoreUnavailable):
            await site.life.registry.end(Stored(seen.key, seen.record, b""), "revoked")
        assert await site.who(last) == 42
        assert await Sessions(site.config).revoke_all(42) == 1
        assert await site.who(last) is None


async def test_a_log_out_later_than_its_session_was_to_live_fails(new_site):
    """Its tombstone has expired. Others may have kept the session alive, where nothing leads any more."""
    async with new_site() as site:
        card = await site.log_in()
        held = await site.life.arrive([card])
        last = await move(site, card, 1)
        for _ in range(3):
            site.clock.advance(500)
            await site.ask(last, lambda session: session.mark_modified())
        held.session.clear()
        with pytest.raises(StoreUnavailable, match="ended or changed its ID"):
            await held.commit()
        assert await site.who(last) == 42


async def keep_alive(site, card, seconds, step=36):
    """Use a session every few seconds; return its last card."""
    for _ in range(0, seconds, step):
        site.clock.advance(step)
        _, headers = await site.ask(card, lambda session: session.mark_accessed())
        card = card_in(headers) if set_cookies(headers) else card
    return card


async def renewed_unseen(site, card):
    """Have a request load a session that another one renews then; return it, and a third one that knows of that."""
    site.clock.advance(600)
    before = await site.life.arrive([card])
    await site.ask(card, lambda session: session.mark_accessed())
    return before, await site.life.arrive([card])


@pytest.mark.parametrize("log_out", LOG_OUTS)
async def test_a_log_out_finds_a_session_that_was_shortened_and_renewed(new_site, log_out):
    """A renewal changes no version: the tombstone outlives what a request that never saw the renewal knew."""
    async with new_site() as site:
        shortens, held = await renewed_unseen(site, await site.log_in())
        shortens.session.remember(50)
        await shortens.commit()
        last = await keep_alive(site, shortens.card, 432)
        assert await site.who(last) == 42
        LOG_OUTS[log_out](held.session)
        await held.commit()
        assert await site.who(last) is None


@pytest.mark.parametrize("log_out", LOG_OUTS)
@pytest.mark.parametrize("times", [1, MANY])
async def test_a_log_out_at_a_dead_end_fails(new_site, log_out, times):
    """The first tombstone is there, and those of the shorter life after it have expired, with the note of them."""
    async with new_site() as site:
        card = await site.log_in()
        held = await site.life.arrive([card])
        card = await move(site, card, 1, lambda session: session.remember(50))
        card = await move(site, card, times, lambda session: session.rotate())
        last = await keep_alive(site, card, 216)
        LOG_OUTS[log_out](held.session)
        with pytest.raises(StoreUnavailable, match="ended or changed its ID"):
            await held.commit()
        assert await site.who(last) == 42


async def test_a_log_out_while_somebody_impersonates_and_returns_fails(new_site):
    """The session was another user's meanwhile, and is the first one's again: it lives."""
    async with new_site() as site:
        card = await site.log_in()
        leaving, changing = [await site.life.arrive([card]) for _ in range(2)]
        for user in (43, 42):
            card = await site.log_in(user, cookie=card)
        leaving.session.clear()
        with pytest.raises(StoreUnavailable, match="ended or changed its ID"):
            await leaving.commit()
        changing.session["x"] = 1
        await changing.commit()  # nothing goes from one user's session to another's
        assert (await site.ask(card))[0] == {"user_id": 42}


@pytest.mark.parametrize("users", [[43], [43, 44], [43, 44, 45]])
async def test_a_log_out_of_a_session_that_is_anothers_is_done(new_site, users):
    """Whoever was logged in is not any more, and the other user stays."""
    async with new_site() as site:
        card = await site.log_in()
        held = await site.life.arrive([card])
        for user in users:
            card = await site.log_in(user, cookie=card)
        held.session.clear()
        await held.commit()
        assert await site.who(card) == users[-1]


class Old:
    """A reader of one old cookie."""

    cookie_name, path, domain = "old", "/", None

    async def read(self, value):
        return LegacySession({"user_id": 42}) if value == b"abc" else None

    async def forget(self, value):
        pass


OLD = [(b"cookie", b"old=abc")]


async def log_out_from_before(site, meanwhile, move_in=lambda session: session.mark_accessed()):
    """Have a request with an old cookie log out, after another one has moved its session in.

    Args:
        site: the site.
        meanwhile: takes the card of the session, and returns its last one.
        move_in: what the other request does.

    Returns the last card, and what the log-out raised.
    """
    cards, raised = [], []

    async def leave(session):
        session.mark_accessed()
        _, headers = await site.ask(None, move_in, headers=OLD)
        cards.append(await meanwhile(card_in(headers[-1:])))  # the other one takes the old cookie back
        session.clear()
        try:
            await session.save()
        except StoreUnavailable as error:
            raised.append(str(error))

    await site.ask(None, leave, headers=OLD)
    return cards[0], raised


@pytest.mark.parametrize("times", [LONGEST_TRAIL + 2, MANY])
async def test_a_log_out_of_a_session_that_moved_in_and_on_fails(new_site, times):
    """Its first tombstone is none of its trail, where it is sealed."""
    async with new_site(legacy=[Old()]) as site:
        card, raised = await log_out_from_before(
            site, lambda card: move(site, card, times, lambda session: session.rotate())
        )
        assert len(raised) == 1 and "ended or changed its ID" in raised[0]
        assert await site.who(card) == 42


@pytest.mark.parametrize("times", [0, 1, LONGEST_TRAIL - 1, MANY])
async def test_a_second_log_out_of_a_session_that_moved_in_is_done(new_site, times):
    """It has ended, wherever it was by then."""
    async with new_site(legacy=[Old()]) as site:

        async def meanwhile(card):
            card = await move(site, card, times, lambda session: session.rotate())
            await site.ask(card, lambda session: session.clear())
            return card

        card, raised = await log_out_from_before(site, meanwhile)
        assert (await site.who(card), raised) == (None, [])


async def test_a_log_out_finds_a_session_that_moved_in_for_a_short_time(new_site):
    """It was shortened as it moved in, and renewed since."""
    async with new_site(legacy=[Old()]) as site:
        card, raised = await log_out_from_before(
            site, lambda card: keep_alive(site, card, 12, 4), lambda session: session.remember(5)
        )
        assert (await site.who(card), raised) == (None, [])


async def test_a_second_log_out_while_the_first_one_tidies_up_is_done(new_site):
    """The note that there were more tombstones goes first of all that a session leaves."""
    async with new_site() as plain:
        site, store = watched(plain)
        last = await move(site, await site.log_in(), MANY)
        held = await site.life.arrive([last])
        removed = []

        async def delete(key):
            await store.inner.delete(key)
            removed.append(key)
            if len(removed) == 3:
                held.session.clear()
                await held.commit()

        store.delete = delete
        await site.ask(last, lambda session: session.clear())
        assert len(removed) > 3 and not held.lost
        assert await store.rows() == 0


async def test_a_session_that_ends_before_its_trail_is_cut_leaves_nothing(new_site):
    """A revocation comes between a rotation and the note that there were more tombstones."""
    async with new_site() as plain:
        site, store = watched(plain)
        card = await move(site, await site.log_in(), LONGEST_TRAIL)
        held = await site.life.arrive([card])

        async def touch(key, expires_at):
            assert await Sessions(site.config).revoke_all(42) == 1
            return await store.inner.touch(key, expires_at)

        store.touch = touch
        await site.ask(card, lambda session: session.rotate())
        assert await store.rows() == 0
        held.session.clear()
        await held.commit()


async def test_a_log_out_without_a_user_key_past_the_bound_fails(new_site):
    """Whoever takes out the last key logs out, where no key says whose a session is."""
    async with new_site(user_key=None) as site:
        _, headers = await site.ask(None, update(who=42))
        held = await site.life.arrive([card_in(headers)])
        last = await move(site, card_in(headers), 1, lambda session: session.rotate())
        for _ in range(3):
            site.clock.advance(500)
            await site.ask(last, lambda session: session.mark_modified())
        del held.session["who"]
        with pytest.raises(StoreUnavailable, match="ended or changed its ID"):
            await held.commit()
        assert (await site.ask(last))[0] == {"who": 42}


@pytest.mark.parametrize("before", [0, 1])
async def test_a_refresh_past_the_bound_fails(new_site, before):
    """A session that lives is not said to have ended, only because nothing leads there."""
    async with new_site() as site:
        card = await move(site, await site.log_in(), before)
        held = await site.life.arrive([card])
        last = await move(site, card, MANY)
        with pytest.raises(StoreUnavailable, match="ended or changed its ID"):
            await held.session.refresh()
        await site.ask(last, lambda session: session.clear())
        with pytest.raises(SessionEnded):
            await held.session.refresh()


async def test_the_session_to_keep_stays_past_the_bound(new_site):
    """A request whose tombstone was removed keeps its session, which is known by its first key."""
    async with new_site() as site:
        card = await move(site, await site.log_in(), 1)
        held = await site.life.arrive([card])
        last, other = await move(site, card, MANY), await site.log_in()
        assert await Sessions(site.config).revoke_all(42, keep=held.session) == 1
        assert (await site.who(last), await site.who(other)) == (42, None)


async def test_nothing_ends_where_the_handle_to_keep_leads_nowhere(new_site):
    """It may be that of a session whose trail was cut. Where there is none such, it is that of no session."""
    async with new_site() as site:
        card = await move(site, await site.log_in(), 1)
        handle = (await site.life.arrive([card])).key
        last, other = await move(site, card, MANY), await site.log_in()
        sessions = Sessions(site.config)
        with pytest.raises(StoreUnavailable, match="keep"):
            await sessions.revoke_all(42, keep=handle)
        assert (await site.who(last), await site.who(other)) == (42, 42)
        await site.ask(last, lambda session: session.clear())
        assert await sessions.revoke_all(42, keep=handle) == 1
        assert await site.who(other) is None
