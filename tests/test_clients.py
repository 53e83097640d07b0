"""What a list of sessions says of the clients, and what is said where a session comes from another one."""

import logging

import pytest

from roomkey import ConfigurationError, Request, SessionConfig, SessionManager
from roomkey.events import ClientChanged
from tests.asgi import cookie_in

SECRET = "a secret that is long enough for every test here"
FIREFOX = "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:128.0) Gecko/20100101 Firefox/128.0"
CHROME = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36"
HOME, AWAY = ("192.0.2.7", 1234), ("198.51.100.9", 4321)


class Site:
    """A manager, and requests from one place or another."""

    def __init__(self, **options):
        self.told = []
        options = {"record_client": True, "on_event": self.told.append, **options}
        self.manager = SessionManager(secret_key=SECRET, store="memory://", **options)

    async def ask(self, card=None, act=lambda session: session.get("user_id"), agent=FIREFOX, client=HOME):
        """Send a request; return its session and the card that the browser then has."""
        headers = [("User-Agent", agent)] if agent else []
        if card is not None:
            headers.append(("Cookie", f"session={card}"))
        session = await self.manager.load(Request(path="/", headers=headers, client=client))
        act(session)
        sent = await self.manager.commit(session, headers=[(b"x-app", b"1")])
        given = cookie_in({"headers": sent})
        return session, card if given is None else given.decode()

    async def log_in(self, **where):
        _, card = await self.ask(act=lambda session: session.update(user_id=7), **where)
        self.told.clear()
        return card

    async def listed(self):
        (info,) = await self.manager.sessions.of(7)
        return info

    @property
    def changes(self):
        return [event for event in self.told if isinstance(event, ClientChanged)]


# --- the list ---------------------------------------------------------------------------------------------------------


async def test_a_session_says_its_device():
    """Browser and system, in words."""
    site = Site()
    await site.log_in()
    assert (await site.listed()).device == "Firefox on Windows"


async def test_without_record_client_there_is_no_device():
    """Nothing was recorded, so nothing is said."""
    site = Site(record_client=False)
    await site.log_in()
    info = await site.listed()
    assert (info.device, info.country, info.ip) == (None, None, None)


async def test_the_country_of_a_log_in_is_kept():
    """The function is asked with the address at each log-in, and at no other request."""
    asked = []

    def country(ip):
        asked.append(ip)
        return "CH"

    site = Site(country=country)
    card = await site.log_in()
    await site.ask(card, lambda session: session.update(x=1))
    await site.ask(card, lambda session: session.update(x=2), client=AWAY)
    assert (await site.listed()).country == "CH" and asked == ["192.0.2.7"]
    await site.ask(card, lambda session: session.update(user_id=7, y=3) or session.reauthenticated(), client=AWAY)
    assert (await site.listed()).country == "CH"


async def test_a_name_leaves_the_country():
    """A session that its user names has the country of its log-in still."""
    site = Site(country=lambda ip: "CH")
    await site.log_in()
    info = await site.listed()
    await site.manager.sessions.label(info.handle, "my phone")
    info = await site.listed()
    assert (info.country, info.label) == ("CH", "my phone")


@pytest.mark.parametrize("answer", [None, "", 7, b"CH"])
async def test_a_country_that_is_none_is_left_out(answer):
    """The function may not know, or return what is no text."""
    site = Site(country=lambda ip: answer)
    await site.log_in()
    assert (await site.listed()).country is None


async def test_a_country_that_raises_stops_no_log_in(caplog):
    """It is logged once, and the user is logged in."""

    def country(ip):
        raise OSError("no database")

    site = Site(country=country)
    for _ in range(2):
        card = await site.log_in()
    session, _ = await site.ask(card)
    assert session["user_id"] == 7
    assert [record.message for record in caplog.records if record.levelno == logging.ERROR] == [
        "country raised; the log-in goes on without it (said once)"
    ]


# --- another client ---------------------------------------------------------------------------------------------------


async def test_the_same_client_is_nothing_to_say():
    """Neither is a browser that was updated, or another port."""
    site = Site(on_client_changed=lambda session, change: pytest.fail("called"))
    card = await site.log_in()
    await site.ask(card)
    await site.ask(card, agent=FIREFOX.replace("128.0", "129.0"), client=("192.0.2.7", 9))
    assert site.changes == []


async def test_another_address_and_another_device_are_told_apart():
    """The app is told which of the two is another one, and both of each."""
    calls = []
    site = Site(on_client_changed=lambda session, change: calls.append((session["user_id"], change)))
    card = await site.log_in()
    session, _ = await site.ask(card, client=AWAY)
    await site.ask(card, agent=CHROME)
    place = ClientChanged(session.handle, "7", AWAY[0], FIREFOX, HOME[0], FIREFOX, True, False)
    device = ClientChanged(session.handle, "7", HOME[0], CHROME, HOME[0], FIREFOX, False, True)
    assert calls == [(7, place), (7, device)] and site.changes == [place, device]


async def test_the_app_is_asked_with_each_request_and_the_event_comes_once():
    """A thief who goes on is met again. The log of events is not flooded."""
    calls = []
    site = Site(on_client_changed=lambda session, change: calls.append(change))
    card = await site.log_in()
    for _ in range(3):
        await site.ask(card, agent=CHROME)
    assert len(calls) == 3 and len(site.changes) == 1


async def test_the_app_may_log_out():
    """`clear()` ends the session before the handler sees it."""

    def decide(session, change):
        if change.is_other_device:
            session.clear()

    site = Site(on_client_changed=decide)
    card = await site.log_in()
    session, _ = await site.ask(card, client=AWAY)
    assert session["user_id"] == 7
    session, _ = await site.ask(card, agent=CHROME)
    assert "user_id" not in session
    assert await site.manager.sessions.of(7) == []


async def test_what_the_app_raises_fails_the_request():
    """It may refuse to serve, and nothing is served behind its back."""

    def decide(session, change):
        raise PermissionError

    site = Site(on_client_changed=decide)
    card = await site.log_in()
    with pytest.raises(PermissionError):
        await site.ask(card, agent=None)


async def test_a_session_of_nobody_has_no_client():
    """Only a log-in records one."""
    site = Site()
    _, card = await site.ask(act=lambda session: session.update(x=1))
    await site.ask(card, agent=CHROME, client=AWAY)
    assert site.changes == []


async def test_how_many_are_remembered_is_bounded(monkeypatch):
    """The event may come again for a client that was forgotten."""
    monkeypatch.setattr("roomkey.core.clients._MOST_TOLD", 2)
    site = Site()
    card = await site.log_in()
    for number in range(4):
        await site.ask(card, client=(f"198.51.100.{number}", 1))
    assert len(site.changes) == 4 and len(site.manager._committer.clients._told) == 2


@pytest.mark.parametrize("option", ["country", "on_client_changed"])
def test_wrong_options_are_explained(option):
    """Both take a plain function, and need `record_client`."""

    async def waits(*args): ...

    for wrong in ("CH", waits):
        with pytest.raises(ConfigurationError, match=f"^{option}: .*plain function"):
            SessionConfig(secret_key=SECRET, store="memory://", record_client=True, **{option: wrong})
    with pytest.raises(ConfigurationError, match=f"^{option}: .*record_client=True"):
        SessionConfig(secret_key=SECRET, store="memory://", **{option: print})
