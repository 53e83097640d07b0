"""The attacks on IDs and cookies that must fail, each a test named after it, over every store on a server."""

import asyncio
import base64
import dataclasses
import json

import itsdangerous
import pytest

from roomkey import ConfigurationError, LoginTooOld, SessionConfig, SessionEnded, Sessions
from roomkey.legacy import StarletteCookie
from roomkey.wire.keys import new_session_id
from tests.attacks.site import SECRET, card_in, set_cookies, update
from tests.driver import Driver

# --- fixation ---------------------------------------------------------------------------------------------------------


async def test_fixation_with_an_id_that_was_never_issued(new_site):
    """An ID that the attacker made up, even rightly signed, is not adopted: the victim gets a fresh one."""
    async with new_site() as site:
        planted = site.life.keyring.sign(new_session_id())
        card = await site.log_in(cookie=planted)
        assert card != planted
        assert await site.who(planted) is None
        assert await site.who(card) == 42


async def test_fixation_with_an_expired_id(new_site):
    """An ID that was good once and has expired is not adopted either."""
    async with new_site() as site:
        planted = card_in((await site.ask(act=update(x=1)))[1])
        site.clock.advance(2000)
        card = await site.log_in(cookie=planted)
        assert card != planted
        assert await site.who(planted) is None


async def test_fixation_with_the_id_from_before_the_log_in(new_site):
    """The ID that the attacker planted while nobody was logged in is dead after the log-in."""
    async with new_site() as site:
        planted = card_in((await site.ask(act=update(x=1)))[1])
        card = await site.log_in(cookie=planted)
        assert card != planted
        seen, headers = await site.ask(planted)
        assert seen == {}
        assert not set_cookies(headers)
        assert await site.who(card) == 42


async def test_fixation_with_an_id_that_is_in_grace_at_the_log_in(new_site):
    """A planted ID that a rotation serves for a while longer does not lead to the session of whoever logs in then."""
    async with new_site() as site:
        planted = card_in((await site.ask(act=update(x=1)))[1])
        current = card_in((await site.ask(planted, lambda session: session.rotate(grace=60)))[1])
        assert (await site.ask(planted))[0] == {"x": 1}
        card = await site.log_in(cookie=current)
        seen, headers = await site.ask(planted)
        assert seen == {}
        assert not set_cookies(headers)
        assert await site.who(current) is None
        assert await site.who(card) == 42


async def test_fixation_where_the_log_in_asks_for_a_grace(new_site):
    """A log-in whose handler rotates with a grace besides leaves none to the ID from before it."""
    async with new_site() as site:
        planted = card_in((await site.ask(act=update(x=1)))[1])

        def log_in(session):
            session["user_id"] = 42
            session.rotate(grace=60)

        card = card_in((await site.ask(planted, log_in))[1])
        assert (await site.ask(planted))[0] == {}
        assert await site.who(card) == 42


async def test_a_request_under_way_from_before_the_log_in(new_site):
    """Whoever had a request running with the planted ID at the log-in reads nothing of the user's, nor ends it."""
    async with new_site() as site:

        async def slow(session, do):
            site.victim = await site.log_in(cookie=planted)
            await do(session)

        async def save(session):
            session["mine"] = 1
            await session.save()
            assert session == {"x": 1, "mine": 1}
            with pytest.raises(SessionEnded):
                await session.refresh()
            assert session == {"x": 1, "mine": 1}

        async def clear(session):
            session.clear()

        async def rotate(session):
            session.rotate()

        for do in (save, clear, rotate):
            planted = card_in((await site.ask(act=update(x=1)))[1])
            _, headers = await site.ask(planted, lambda session, do=do: slow(session, do))
            assert not set_cookies(headers)
            assert await site.who(site.victim) == 42


async def test_a_planted_id_does_not_write_for_ever(new_site):
    """A minute after the log-in, a request from before it saves nothing more, whatever the user has proved since."""
    async with new_site(max_age=30 * 86400) as site:

        async def slow(session):
            victim = await site.log_in(cookie=planted)
            session["mine"] = "soon"
            await session.save()
            site.clock.advance(60)
            session["mine"] = "late"
            session.change("n", lambda n: n + 1, default=0)
            with pytest.raises(SessionEnded):
                await session.save()
            assert session == {}
            _, headers = await site.ask(victim, lambda session: session.reauthenticated())
            site.victim = card_in(headers)
            session["mine"] = "later"

        planted = card_in((await site.ask(act=update(x=1)))[1])
        _, headers = await site.ask(planted, slow)
        assert not set_cookies(headers)
        assert (await site.ask(site.victim))[0] == {"x": 1, "user_id": 42, "mine": "soon"}


@pytest.mark.parametrize("first", ["save", "refresh", "flashes", None])
async def test_a_request_under_way_with_a_stolen_card_proves_nothing(new_site, first):
    """The victim proves who they are while it runs: it passes no `require_recent`, and gets no new card."""
    async with new_site(max_age=30 * 86400) as site:

        async def slow(session):
            _, headers = await site.ask(stolen, lambda session: session.reauthenticated())
            site.victim = card_in(headers)
            site.clock.advance(1)
            if first == "save":
                session["mine"] = 1
            if first == "flashes":
                session.flash("hello")
            if first is not None:
                await getattr(session, first)()
            with pytest.raises(LoginTooOld):
                session.require_recent(300)
            session.rotate()

        stolen = await site.log_in()
        site.clock.advance(3600)
        _, headers = await site.ask(stolen, slow)
        assert not set_cookies(headers)
        assert await site.who(site.victim) == 42
        await site.ask(site.victim, lambda session: session.require_recent(300))


# --- bringing back what ended -----------------------------------------------------------------------------------------


async def test_replay_after_log_out(new_site):
    """A copied cookie opens nothing after the log-out, and the answer says no to it again and again."""
    async with new_site() as site:
        card = await site.log_in()
        _, headers = await site.ask(card, lambda session: session.clear())
        assert b"Max-Age=0" in set_cookies(headers)[0]
        for _ in range(3):
            assert await site.who(card) is None


OLD_KEY = "the secret key of the app before, 32 bytes and more"


def old_cookie(**data):
    """Return a cookie as Starlette's own middleware makes them."""
    payload = base64.b64encode(json.dumps(data).encode())
    return itsdangerous.TimestampSigner(OLD_KEY).sign(payload)


async def test_replay_of_an_old_librarys_cookie_after_log_out(new_site):
    """A session that moved in from another library and has ended does not move in again, whoever kept a copy."""
    async with new_site(legacy=[StarletteCookie(OLD_KEY)]) as site:

        def log_out(session):
            session.clear()

        for first, act in enumerate([update(x=1), log_out]):
            cookie = old_cookie(user_id=42, first=first)
            seen, headers = await site.ask(cookie, act)
            assert seen["user_id"] == 42
            if act is not log_out:
                assert await site.who(card_in(headers)) == 42
                await site.ask(card_in(headers), log_out)
            assert (await site.ask(cookie))[0] == {}
            site.clock.advance(2000)
            assert (await site.ask(cookie))[0] == {}


async def test_an_old_librarys_cookie_many_times_at_once(new_site):
    """First requests that come together make one session, and lose nothing of each other."""
    async with new_site(legacy=[StarletteCookie(OLD_KEY)]) as site:

        def count(session):
            session.change("n", lambda n: n + 1, default=0)

        cookie = old_cookie(user_id=42)
        answers = await asyncio.gather(*(site.ask(cookie, count) for _ in range(10)))
        (given,) = [headers for _, headers in answers if set_cookies(headers)]
        assert (await site.ask(card_in(given)))[0] == {"user_id": 42, "n": 10}
        assert len(await Sessions(site.config).of(42)) == 1


async def test_restore_after_delete(new_site):
    """A request that had loaded the session before the log-out cannot write it back."""
    async with new_site() as site:
        card = await site.log_in()
        late = await site.life.arrive([card])
        await site.ask(card, lambda session: session.invalidate())
        late.session["x"] = 1
        await late.commit()
        assert late.lost
        assert await site.who(card) is None


async def test_rotate_then_clear(new_site):
    """A log-out by a request that had loaded the session before it rotated ends the session under its new ID too."""
    async with new_site() as site:
        card = await site.log_in()
        leaving = await site.life.arrive([card])
        _, headers = await site.ask(card, lambda session: session.rotate())
        leaving.session.clear()
        await leaving.commit()
        assert await site.who(card_in(headers)) is None
        assert await site.who(card) is None


async def test_rotate_twice(new_site):
    """Two rotations at once leave one live session, that everybody's changes are in, and no second card."""
    async with new_site() as site:
        card = await site.log_in()
        visits = [await site.life.arrive([card]) for _ in range(2)]
        for number, visit in enumerate(visits):
            visit.session[f"k{number}"] = number
            visit.session.rotate()
        for visit in visits:
            await visit.commit()
        cards = {visit.card for visit in visits if visit.cookie.value == "give"}
        live = [seen for seen in [(await site.ask(each))[0] for each in cards] if seen]
        assert live == [{"user_id": 42, "k0": 0, "k1": 1}]
        assert await site.who(card) is None


async def test_late_response_after_rotation(new_site):
    """A response that comes after the rotation sends no cookie, and does not log the user out; its change is kept."""
    async with new_site() as site:
        card = await site.log_in()
        fresh = []

        async def slow(session):
            session["late"] = 1
            other = await site.life.arrive([card])
            other.session.rotate()
            await other.commit()
            fresh.append(other.card)

        _, headers = await site.ask(card, slow)
        assert not set_cookies(headers)
        seen, _ = await site.ask(fresh[0])
        assert seen == {"user_id": 42, "late": 1}


async def test_lost_update(new_site):
    """Fifty concurrent requests that each write their own key, and count, lose nothing."""
    async with new_site() as site:
        card = await site.log_in()

        async def one(number):
            visit = await site.life.arrive([card])
            await asyncio.sleep(0)
            visit.session[f"k{number}"] = number
            visit.session.change("n", lambda n: n + 1, 0)
            await visit.commit()

        await asyncio.gather(*(one(number) for number in range(50)))
        seen, _ = await site.ask(card)
        assert seen == {"user_id": 42, "n": 50} | {f"k{number}": number for number in range(50)}


# --- cookies ----------------------------------------------------------------------------------------------------------


async def test_cookie_tossing_and_duplicates(new_site):
    """A cookie of the same name from a sibling domain neither hides the genuine one nor becomes the session."""
    async with new_site() as site:
        card = await site.log_in()
        for tossed in (b"x", b"0" * 80, card[:-1] + b"!", b""):
            for header in (tossed + b"; session=" + card, card + b"; session=" + tossed):
                assert await site.who(header) == 42
        assert await site.who(b"; session=".join([b"x"] * 500)) is None


async def test_cookie_tossing_with_a_genuine_card_that_has_ended(new_site):
    """Nor does one that the sibling domain got here, by logging in and out, or from before a rotation."""
    async with new_site() as site:
        ended, rotated = await site.log_in(7), await site.log_in(8)
        await site.ask(ended, lambda session: session.clear())
        await site.ask(rotated, lambda session: session.rotate())
        card = await site.log_in()
        for tossed in (ended, rotated):
            for header in (tossed + b"; session=" + card, card + b"; session=" + tossed):
                assert await site.who(header) == 42
            assert await site.who(tossed + b"; session=" + tossed) is None


async def test_cross_subdomain(new_site):
    """By default the cookie has no Domain: a sibling never gets it; with __Host- nobody else can set it."""
    async with new_site() as site:
        _, headers = await site.ask(act=update(x=1))
        assert b"domain" not in set_cookies(headers)[0].lower()
    with pytest.raises(ConfigurationError):
        SessionConfig(secret_key=SECRET, session_cookie="__Host-s", https_only=True, domain="example.com")


async def test_a_cookie_of_another_app_with_the_same_key(new_site):
    """A card made under another cookie name is refused, although key and store are the same."""
    async with new_site() as site:
        other = Driver(dataclasses.replace(site.config, session_cookie="other"))
        visit = other.anonymous()
        visit.session["user_id"] = 42
        await visit.commit()
        assert await site.who(visit.card) is None
        assert site.life.refused["key"] == 1


async def test_caches_that_keep_set_cookie(new_site):
    """An answer that sets the cookie is kept out of caches, whatever the app said; one that depends on it varies."""
    async with new_site() as site:
        site.headers = [
            (b"Cache-Control", b"public, max-age=3600"),
            (b"Expires", b"Thu, 01 Jan 2099 00:00:00 GMT"),
            (b"CDN-Cache-Control", b"max-age=3600"),  # RFC 9213
            (b"Cloudflare-CDN-Cache-Control", b"max-age=3600"),
            (b"Surrogate-Control", b"max-age=3600"),
            (b"X-Accel-Expires", b"3600"),
        ]
        _, headers = await site.ask(act=update(x=1))
        names = {name.lower() for name, _ in site.headers}
        assert [header for header in headers if header[0].lower() in names] == [(b"cache-control", b"no-store")]
        _, headers = await site.ask(card_in(headers), lambda session: session.get("x"))
        assert (b"vary", b"Cookie") in headers
        assert not set_cookies(headers)


@pytest.mark.parametrize("option", ["session_cookie", "path", "domain", "same_site"])
@pytest.mark.parametrize("value", ["a\r\nSet-Cookie: b=c", "a\nb", "a;b", "a\0b", "/a\r\n", "a b\x7f"])
def test_header_injection_by_option(option, value):
    """No option puts a line break or a separator into a header."""
    with pytest.raises(ConfigurationError):
        SessionConfig(secret_key=SECRET, store="memory://", **{option: value})


async def test_header_injection_by_value(new_site):
    """Session data never reaches a header, and what does is of a fixed alphabet."""
    async with new_site() as site:
        nasty = "\r\nSet-Cookie: admin=1"
        _, headers = await site.ask(act=lambda session: session.update({nasty: nasty, "user_id": nasty}))
        (cookie,) = set_cookies(headers)
        assert b"\r" not in cookie and b"\n" not in cookie and b"admin" not in cookie
