"""Attacks on what a user has proved, over every store: no stolen card gets a level that its holder has not proved."""

import pytest

from roomkey import LevelTooLow
from tests.attacks.site import card_in, set_cookies, update


def proves(**proof):
    return lambda session: session.reauthenticated(**proof)


def is_refused(session, level=2, within=None):
    with pytest.raises(LevelTooLow):
        session.require_level(level, within=within)


def passes(session):
    session.require_level(2, within=900)


@pytest.mark.parametrize("first", ["save", "refresh", "flashes", None])
async def test_a_request_under_way_with_a_stolen_card_has_no_level(new_site, first):
    """The victim proves more while it runs: the request passes no `require_level`, and gets no new card."""
    async with new_site() as site:

        async def slow(session):
            site.victim = card_in((await site.ask(stolen, proves(level=2, method="totp")))[1])
            if first == "save":
                session["mine"] = 1
            if first == "flashes":
                session.flash("hello")
            if first is not None:
                await getattr(session, first)()
            is_refused(session)
            assert session.level == 1 and session.proofs == ()
            session.rotate()

        stolen = await site.log_in()
        _, headers = await site.ask(stolen, slow)
        assert not set_cookies(headers)
        assert (await site.ask(stolen))[0] == {}
        await site.ask(site.victim, passes)


@pytest.mark.parametrize("first", ["save", "refresh", None])
async def test_a_thief_who_knows_the_password_gets_its_level_alone(new_site, first):
    """The thief's proof ends the victim's card, and takes nothing along that the victim has proved."""
    async with new_site() as site:

        async def slow(session):
            site.victim = card_in((await site.ask(stolen, proves(level=2, method="totp")))[1])
            if first == "save":
                session["mine"] = 1
            if first is not None:
                await getattr(session, first)()
            session.reauthenticated(method="password")
            is_refused(session)
            await session.save()
            is_refused(session)

        stolen = await site.log_in()
        _, headers = await site.ask(stolen, slow)
        await site.ask(card_in(headers), is_refused)
        assert await site.who(card_in(headers)) == 42
        assert (await site.ask(site.victim))[0] == {}


async def test_the_card_from_before_the_proof_is_dead(new_site):
    """A copy of it does not get the level with the victim's proof."""
    async with new_site() as site:
        stolen = await site.log_in()
        card = card_in((await site.ask(stolen, proves(level=2)))[1])
        assert (await site.ask(stolen))[0] == {}
        await site.ask(card, passes)


async def test_somebody_elses_log_in_has_no_level(new_site):
    """Who logs in on a browser where somebody has proved more begins at level 1."""
    async with new_site() as site:
        card = await site.log_in()
        card = card_in((await site.ask(card, proves(level=3, method="passkey")))[1])
        card = card_in((await site.ask(card, update(user_id=43)))[1])
        await site.ask(card, is_refused)
        card = card_in((await site.ask(card, update(user_id=42)))[1])
        await site.ask(card, is_refused)


async def test_what_a_session_says_of_its_level_counts_nothing(new_site):
    """A page that puts what a client sends into its session gives nobody a level by that."""
    async with new_site() as site:
        card = await site.log_in()
        forged = {"level": 2, "proofs": [[2, "totp", site.clock()]], "_level": 2, "acr": "2", "amr": ["otp"]}
        await site.ask(card, update(**forged))
        await site.ask(card, is_refused)


async def test_an_old_proof_is_made_young_by_nothing_else(new_site):
    """Neither a rotation, nor a save, nor a proof of a lower level moves its moment."""
    async with new_site(max_age=30 * 86400) as site:
        card = await site.log_in()
        card = card_in((await site.ask(card, proves(level=2, method="totp")))[1])
        site.clock.advance(901)
        card = card_in((await site.ask(card, lambda session: session.rotate()))[1])
        await site.ask(card, update(x=1))
        card = card_in((await site.ask(card, proves(method="password")))[1])
        await site.ask(card, lambda session: is_refused(session, within=900))
        await site.ask(card, lambda session: session.require_level(2))
