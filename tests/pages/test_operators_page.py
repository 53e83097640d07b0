"""OperatorsPage: the people who run an app see what happens, and end any user's sessions."""

import doctest
import re

import pytest

from roomkey import ConfigurationError, SessionConfig, SessionManager
from roomkey.pages import Activity, OperatorsPage, activity, devices, operators
from roomkey.stores.memory import MemoryStore
from tests.pages.parts import OPERATORS, START, Site, is_operator, text_of


async def operator_of(site, user="1"):
    browser = site.browser()
    await browser.log_in(user, role="operator")
    return browser


def tile(page, name):
    """Return the number under a name."""
    return re.search(rf"<dt>{name}</dt><dd>(.*?)</dd>", page.text)[1]


@pytest.mark.parametrize("refuse_with", [404, 403])
async def test_only_those_who_are_allowed_see_it(refuse_with):
    """A user whom `allow` refuses, and a visitor, get 404 or 403, also for a form; no session begins."""
    site = Site(operators={"refuse_with": refuse_with})
    user = site.browser()
    await user.log_in("7")
    for browser in (user, site.browser()):
        for answer in (await browser.get(OPERATORS), await browser.post(OPERATORS, data={"all": "1", "user": "7"})):
            assert answer.status_code == refuse_with
            assert "set-cookie" not in answer.headers and "Users logged in" not in answer.text
    assert len(await site.sessions("7")) == 1
    assert (await (await operator_of(site)).get(OPERATORS)).status_code == 200


async def test_allow_may_be_asynchronous():
    """What an `async` function returns counts, and not that it returns something to await."""

    async def allow(scope):
        return is_operator(scope)

    site = Site(operators={"allow": allow})
    user = site.browser()
    await user.log_in("7")
    assert (await user.get(OPERATORS)).status_code == 404
    assert (await (await operator_of(site)).get(OPERATORS)).status_code == 200


async def test_what_happened_lately():
    """Live sessions and users are counted, and log-ins and log-outs of the last hours, from the manager's events."""
    site = Site(operators={"allow": lambda scope: True})
    first, second = site.browser(), site.browser()
    await first.log_in("7")
    await second.log_in("7")
    await site.browser().post("/login", params={"user": ""})  # nobody
    site.clock.advance(3600)
    await second.post("/logout")
    page = await first.get(OPERATORS)
    assert [tile(page, name) for name in ("Live sessions", "Users logged in", "Log-ins", "Log-outs")] == list("2121")
    assert "The last 24 hours" in text_of(page)
    assert re.findall(r'<th scope="row">(.*?)</th><td>(\d)</td><td>(\d)</td>', page.text)[:3] == [
        ("15:00", "0", "1"),
        ("14:00", "2", "0"),
        ("13:00", "0", "0"),
    ]


async def test_counts_are_bounded(monkeypatch):
    """At most so many sessions are read, and the page says "at least". A count is shown again for a while."""
    monkeypatch.setattr(operators, "_MOST_COUNTED", 2)
    monkeypatch.setattr(operators, "_READ_A_SECOND", 1 / 60)
    site = Site()
    operator = await operator_of(site)
    assert tile(await operator.get(OPERATORS), "Live sessions") == "1"
    for user in "789":
        await site.browser().log_in(user)
    assert tile(await operator.get(OPERATORS), "Live sessions") == "1"
    site.clock.advance(60)
    assert tile(await operator.get(OPERATORS), "Live sessions") == "at least 2"


async def test_what_was_ended_is_not_counted_any_more():
    """After sessions were ended from the page, they are counted anew."""
    site = Site()
    await site.browser().log_in("7")
    operator = await operator_of(site)
    page = await operator.get(OPERATORS, params={"user": "7"})
    assert tile(page, "Live sessions") == "2"
    assert tile(await operator.press(page, "all"), "Live sessions") == "1"


async def test_outages_are_told(monkeypatch):
    """An outage of the store is listed with its error and its length."""
    site = Site()
    operator = await operator_of(site)
    assert "None since 2026-09-21 14:13 UTC." in text_of(await operator.get(OPERATORS))
    store = site.store

    async def broken(user):
        raise OSError("no route to <host>")

    store.of_user = broken
    assert (await operator.get(OPERATORS, params={"user": "7"})).status_code == 503
    assert "Lasted goes on Store MemoryStore Error MemoryStore failed: OSError" in text_of(
        await operator.get(OPERATORS)
    )
    site.clock.advance(300)
    del store.of_user
    monkeypatch.setattr("roomkey.stores.guard.SETTLING", 0)
    await operator.get(OPERATORS, params={"user": "7"})
    assert "Began 2026-09-21 14:13 UTC Lasted 5 min" in text_of(await operator.get(OPERATORS))


async def test_a_store_that_cannot_count_or_does_not_answer():
    """The page says which of the two it is, and shows the rest."""
    site = Site()
    operator = await operator_of(site)

    async def broken(limit, after=""):
        raise OSError("no route to host")

    site.store.scan = broken
    page = await operator.get(OPERATORS)
    assert page.status_code == 200 and "The store does not answer." in text_of(page)

    class Smaller:
        """A store with no `scan`."""

        def __init__(self, store):
            for name in ("load", "create", "update", "rotate", "touch", "delete", "of_user"):
                setattr(self, name, getattr(store, name))

    site = Site(store=Smaller(MemoryStore(clock=lambda: START)))
    page = await (await operator_of(site)).get(OPERATORS)
    assert page.status_code == 200 and "This store cannot count its sessions." in text_of(page)


async def test_a_users_sessions_are_found_and_ended():
    """One is ended, then all of them; the address keeps the user, and the page says what was done."""
    site = Site()
    operator = await operator_of(site)
    users = [site.browser() for _ in range(3)]
    for user in users:
        await user.log_in("ann@example.com")
    page = await operator.get(OPERATORS, params={"user": " ann@example.com "})
    assert "Sessions of ann@example.com" in text_of(page) and page.text.count("Firefox on Windows</h4>") == 3
    ended = await operator.press(page, "end")
    assert [each.status_code for each in ended.history] == [303]
    assert "The session has ended." in text_of(ended) and "Sessions of ann@example.com" in text_of(ended)
    assert len(await site.sessions("ann@example.com")) == 2
    ended = await operator.press(ended, "all")
    assert "Sessions ended: 2" in text_of(ended) and "This user has no live session." in text_of(ended)
    assert tile(ended, "Revoked") == "3"


async def test_operators_keep_their_own_session():
    """Where they end all of their own, the one that asks is spared, and is marked."""
    site = Site()
    operator, other = await operator_of(site), await operator_of(site)
    page = await operator.get(OPERATORS, params={"user": "1"})
    assert text_of(page).count("Your session") == 1
    await operator.press(page, "all")
    assert (await operator.get(OPERATORS)).status_code == 200
    assert (await other.get(OPERATORS)).status_code == 404


async def test_nothing_of_a_sessions_data_is_shown():
    """What is in a user's session is nowhere on the page."""
    site = Site()
    await site.browser().log_in("7", diary="dear diary")
    page = await (await operator_of(site)).get(OPERATORS, params={"user": "7"})
    assert "Sessions of 7" in text_of(page) and "diary" not in page.text


async def test_a_forged_form_ends_nothing():
    """Without the session's token the answer is 403."""
    site = Site()
    await site.browser().log_in("7")
    operator = await operator_of(site)
    page = await operator.get(OPERATORS, params={"user": "7"})
    assert (await operator.press(page, "all", csrf="x")).status_code == 403
    assert len(await site.sessions("7")) == 1


async def test_the_log_in_has_to_be_recent():
    """With `recent`, an older log-in sees everything and ends nothing."""
    site = Site(operators={"recent": 300})
    operator = await operator_of(site)
    await site.browser().log_in("7")
    early = await operator.get(OPERATORS, params={"user": "7"})
    site.clock.advance(301)
    assert (await operator.press(early, "all")).status_code == 403
    page = await operator.get(OPERATORS, params={"user": "7"})
    assert "Log in again to end sessions" in text_of(page) and 'name="all"' not in page.text
    assert len(await site.sessions("7")) == 1


@pytest.mark.parametrize("user", ["nobody", "\0", "x" * 2000, "<b>"])
async def test_an_id_that_nobody_has(user):
    """Whatever is typed, the page says that there is no session, and shows it as text. A form for it ends nothing."""
    site = Site()
    operator, second = await operator_of(site), await operator_of(site)
    page = await operator.get(OPERATORS, params={"user": user})
    assert page.status_code == 200 and "This user has no live session." in text_of(page) and "<b>" not in page.text
    page = await operator.get(OPERATORS, params={"user": "1"})
    answer = await operator.press(page, "all", user=user)
    assert answer.status_code == 200 and (await second.get(OPERATORS)).status_code == 200


async def test_a_config_whose_events_it_counts():
    """With a SessionConfig, the activity is its `on_event`, or is given; without one the error says how."""
    counts = Activity()
    config = SessionConfig(secret_key="k" * 43, store="memory://", on_event=counts)
    assert OperatorsPage(config, allow=is_operator)._activity is counts
    plain = SessionConfig(secret_key="k" * 43, store="memory://")
    assert OperatorsPage(plain, allow=is_operator, activity=counts)._activity is counts
    with pytest.raises(ConfigurationError, match="activity: missing; with a SessionConfig, make"):
        OperatorsPage(plain, allow=is_operator)


async def test_the_apps_own_subscriber_is_told_too():
    """A manager's `on_event` hears what it heard before."""
    told = []
    site = Site(session={"on_event": told.append})
    await operator_of(site)
    assert [type(event).__name__ for event in told] == ["Created"]


WRONG = [
    ({}, "allow: missing; it takes a function"),
    ({"allow": True}, "allow: got True; it takes a function"),
    ({"allow": is_operator, "refuse_with": 401}, "refuse_with: got 401; it takes 403 or 404"),
]


@pytest.mark.parametrize(("options", "said"), WRONG)
def test_wrong_options_are_named(options, said):
    """A wrong option is an error when the page is made, with the fix."""
    with pytest.raises(ConfigurationError, match=re.escape(said)):
        OperatorsPage(SessionManager(secret_key="k" * 43, store="memory://"), **options)


@pytest.mark.parametrize("module", [activity, devices, operators])
def test_the_examples_in_docstrings_run(module):
    """Each prints what it says."""
    ran = doctest.testmod(module)
    assert ran.attempted and not ran.failed
