"""Attacks on sessions in which staff act for users, over every store: nobody else gets in, and nobody stays."""

import pytest

from roomkey import SessionEnded, Sessions
from tests.attacks.site import card_in, set_cookies, update

STAFF, USER = 1, 7


def acts_for(user):
    return lambda session: session.impersonate(user)


async def begin(site):
    """Return the card of somebody of the staff before and after they began to act for the user."""
    before = await site.log_in(STAFF)
    await site.ask(before, update(cart=["tea"]))
    return before, card_in((await site.ask(before, acts_for(USER)))[1])


async def test_a_copy_of_the_card_from_before(new_site):
    """It is dead at once: whoever stole it does not act for the user, and is not the staff any more either."""
    async with new_site() as site:
        before, card = await begin(site)
        assert (await site.ask(before))[0] == {}
        assert (await site.ask(card))[0] == {"user_id": USER}


async def test_revoking_the_actor_everywhere(new_site):
    """Nobody acts for the user after it, also a request that runs."""
    async with new_site() as site:
        _, card = await begin(site)

        async def slow(session):
            assert await Sessions(site.config).revoke_all(STAFF) == 1
            session["x"] = 1
            with pytest.raises(SessionEnded):
                await session.save()

        await site.ask(card, slow)
        assert (await site.ask(card))[0] == {}


async def test_revoking_the_user_everywhere(new_site):
    """The user's sessions end, with that one; a request that runs brings it back under no card."""
    async with new_site() as site:
        _, card = await begin(site)

        async def slow(session):
            assert await Sessions(site.config).revoke_all(USER) == 1
            session["x"] = 1
            with pytest.raises(SessionEnded):
                await session.save()

        _, headers = await site.ask(card, slow)
        assert not set_cookies(headers)
        assert (await site.ask(card))[0] == {"user_id": STAFF, "cart": ["tea"]}
        assert await Sessions(site.config).of(USER) == []


async def test_replay_after_a_log_out(new_site):
    """A log-out while somebody acts for a user ends both sessions, whatever copy of a card is brought then."""
    async with new_site() as site:
        before, card = await begin(site)
        await site.ask(card, lambda session: session.clear())
        for copy in (before, card):
            assert (await site.ask(copy))[0] == {}
        assert await Sessions(site.config).of(STAFF) == await Sessions(site.config).of(USER) == []


async def test_replay_after_it_was_stopped(new_site):
    """The card under which they acted for the user opens nothing, and the new one only the actor's own session."""
    async with new_site() as site:
        before, card = await begin(site)
        own = card_in((await site.ask(card, lambda session: session.stop_impersonating()))[1])
        for copy in (before, card):
            assert (await site.ask(copy))[0] == {}
        assert (await site.ask(own))[0] == {"user_id": STAFF, "cart": ["tea"]}


async def test_it_is_over_after_its_time(new_site):
    """However much it is used."""
    async with new_site(max_age=86400) as site:
        _, card = await begin(site)
        for number in range(4):
            site.clock.advance(440)
            assert (await site.ask(card, update(n=number)))[0]["user_id"] == USER
        site.clock.advance(41)
        assert (await site.ask(card))[0] == {"user_id": STAFF, "cart": ["tea"]}
