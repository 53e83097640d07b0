"""DevicesPage: a user sees where they are logged in, and ends it."""

import hashlib
import re
from base64 import b64encode

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware

from roomkey import ConfigurationError, SessionConfig, SessionManager, SessionMiddleware
from roomkey.csrf import CSRFMiddleware
from roomkey.pages import DevicesPage
from roomkey.stores.memory import MemoryStore
from tests.asgi import ask, http_scope, websocket_scope
from tests.pages.parts import DEVICES, FIREFOX, IPHONE, START, Site, text_of


async def two_devices(site):
    """Log a user in with a phone and then with a computer; return both."""
    phone, computer = site.browser(IPHONE), site.browser(FIREFOX)
    await phone.log_in("7")
    site.clock.advance(3 * 3600)
    await computer.log_in("7")
    return phone, computer


def handle_of(page):
    """Return the handle that a page's first button ends."""
    return re.search(r'name="end" value="([0-9a-f]{64})"', page.text)[1]


async def test_the_list_says_which_where_and_when():
    """Each device is there by browser, system and address, with its last use; the one that asks is marked."""
    _, computer = await two_devices(Site())
    text = text_of(await computer.get(DEVICES))
    assert "Firefox on Windows This device Last used just now Began 2026-09-21 17:13 UTC IP address 192.0.2.7" in text
    assert "Safari on iPhone Last used 3 h ago Began 2026-09-21 14:13 UTC IP address 192.0.2.7" in text


async def test_the_list_says_in_which_country():
    """Where the app's `country` knows it, it stands beside the address, as text."""
    site = Site(session={"country": lambda ip: "<b>CH</b>"})
    _, computer = await two_devices(site)
    assert '<dd class="code">192.0.2.7 (&lt;b&gt;CH&lt;/b&gt;)</dd>' in (await computer.get(DEVICES)).text


async def test_one_is_ended():
    """The button of a device ends its session, and no other; the page then says so and is a plain one again."""
    site = Site()
    phone, computer = await two_devices(site)
    page = await computer.get(DEVICES)
    ended = await computer.press(page, "end")
    assert [each.status_code for each in ended.history] == [303]
    assert "The session has ended." in text_of(ended)
    assert "Safari on iPhone" not in text_of(ended)
    assert (await phone.get(DEVICES)).status_code == 401
    assert [each.user_agent for each in await site.sessions("7")] == [FIREFOX]
    again = await computer.post(DEVICES, data={"csrf": _token(page), "end": handle_of(page)})
    assert "That session had already ended." in text_of(again)


def _token(page):
    return re.search(r'name="csrf" value="([^"]+)"', page.text)[1]


async def test_one_is_named():
    """The form of a device gives it a name, which is shown above what it is. No text of the name is markup."""
    site = Site()
    phone, computer = await two_devices(site)
    page = await computer.get(DEVICES)
    named = await computer.press(page, "name", handle_of(page), label="<b>my</b> phone")
    assert "The name was saved." in text_of(named)
    assert "<b>" not in named.text and "&lt;b&gt;my&lt;/b&gt; phone" in named.text
    assert "Safari on iPhone" in text_of(named)
    assert {each.label for each in await site.sessions("7")} == {"<b>my</b> phone", None}
    again = await computer.press(named, "name", handle_of(page), label="")
    assert {each.label for each in await site.sessions("7")} == {None}
    assert (await phone.get(DEVICES)).status_code == 200
    other = site.browser()
    await site.browser().log_in("8")
    await other.log_in("8")
    theirs = await other.get(DEVICES)
    refused = await other.post(DEVICES, data={"csrf": _token(theirs), "name": handle_of(again), "label": "x"})
    assert "That session had already ended." in text_of(refused)
    assert {each.label for each in await site.sessions("7")} == {None}


async def test_all_others_are_ended():
    """Every session of the user ends but the one that asks, and nobody else's."""
    site = Site()
    phone, computer = await two_devices(site)
    other = site.browser()
    await other.log_in("8")
    ended = await computer.press(await computer.get(DEVICES), "all")
    assert "Sessions ended: 1" in text_of(ended)
    assert "You are logged in on this device only." in text_of(ended)
    assert (await phone.get(DEVICES)).status_code == 401
    assert (await other.get(DEVICES)).status_code == 200


async def test_nobody_ends_a_session_of_another_user():
    """A handle of somebody else's session, put into the form, ends nothing."""
    site = Site()
    _, computer = await two_devices(site)
    await site.browser().log_in("8")
    (theirs,) = await site.sessions("8")
    page = await computer.get(DEVICES)
    answer = await computer.post(DEVICES, data={"csrf": _token(page), "end": theirs.handle})
    assert "That session had already ended." in text_of(answer)
    assert len(await site.sessions("8")) == 1


@pytest.mark.parametrize("token", [None, "", "x" * 86, "another user's"])
async def test_a_forged_form_ends_nothing(token):
    """Without a token of this session the answer is 403, with a page that leads back to the form."""
    site = Site()
    _, computer = await two_devices(site)
    page = await computer.get(DEVICES)
    if token == "another user's":
        other = site.browser()
        await other.log_in("8")
        await site.browser().log_in("8")
        token = _token(await other.get(DEVICES))
    form = {"all": "1", "end": handle_of(page)} | ({} if token is None else {"csrf": token})
    answer = await computer.post(DEVICES, data=form)
    assert answer.status_code == 403
    assert "This form is out of date" in text_of(answer)
    assert len(await site.sessions("7")) == 2


async def test_a_form_from_before_a_log_in_is_out_of_date():
    """The token belongs to the user for whom the page was made."""
    site = Site()
    _, computer = await two_devices(site)
    page = await computer.get(DEVICES)
    await computer.log_in("8")
    assert (await computer.press(page, "all")).status_code == 403
    assert len(await site.sessions("7")) == 1  # the phone's; the computer's is the other user's now


async def test_a_visitor_is_asked_to_log_in():
    """Without a user the answer is 401, with a link to the log-in that comes back here, and no session begins."""
    site = Site(devices={"log_in_url": "/login?next={next}"})
    answer = await site.browser().get(DEVICES)
    assert answer.status_code == 401
    assert 'href="/login?next=/account/devices/"' in answer.text
    assert "set-cookie" not in answer.headers
    assert (await site.browser().post(DEVICES, data={"all": "1"})).status_code == 401


async def test_the_log_in_has_to_be_recent():
    """With `recent`, an older log-in sees the list without buttons, and what to do; forms from before end nothing."""
    site = Site(devices={"recent": 300, "log_in_url": "/login"})
    _, computer = await two_devices(site)
    early = await computer.get(DEVICES)
    site.clock.advance(301)
    page = await computer.get(DEVICES)
    assert page.status_code == 200
    assert "Safari on iPhone" in text_of(page) and "<button" not in page.text
    assert "Log in again to end sessions" in text_of(page) and 'href="/login"' in page.text
    answer = await computer.press(early, "all")
    assert answer.status_code == 403
    assert len(await site.sessions("7")) == 2
    await computer.post("/logout")
    await computer.log_in("7")
    assert "Sessions ended: 1" in text_of(await computer.press(await computer.get(DEVICES), "all"))


async def test_what_the_page_may_load():
    """The policy allows the page's own styles by their hash and no script, and nobody keeps or frames the page."""
    _, computer = await two_devices(Site())
    page = await computer.get(DEVICES)
    styles = re.search(r"<style>(.*?)</style>", page.text, re.S)[1]
    allowed = b64encode(hashlib.sha256(styles.encode()).digest()).decode()
    assert page.headers["content-security-policy"] == (
        f"default-src 'none'; style-src 'self' 'sha256-{allowed}'; img-src 'self'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    )
    assert page.headers["cache-control"] == "no-store"
    assert page.headers["x-content-type-options"] == "nosniff"
    assert "<script" not in page.text and " style=" not in page.text and "http" not in page.text.split("</style>")[1]


async def test_the_only_device_is_named():
    """A user names this device also where there is no other one."""
    site = Site()
    only = site.browser()
    await only.log_in("7")
    named = await only.press(await only.get(DEVICES), "name", label="desk")
    assert "desk This device Firefox on Windows" in text_of(named)
    assert 'aria-label="Name for desk"' in named.text


async def test_a_page_without_a_form_writes_nothing():
    """Where nothing may be ended or named, the session gets no token."""
    site = Site(devices={"recent": 300})
    only = site.browser()
    await only.log_in("7")
    site.clock.advance(301)
    assert "<form" not in (await only.get(DEVICES)).text
    (record,) = site.store._records.values()
    assert b"_csrf" not in record.data


async def test_what_a_client_sends_is_escaped():
    """A user agent with markup in it comes back as text."""
    site = Site()
    await site.browser("<b>x</b>/1").log_in("7")
    await site.browser("Mozilla/5.0 <script>").log_in("7")
    computer = site.browser()
    await computer.log_in("7")
    page = await computer.get(DEVICES + "?done=%3Cb%3E")
    assert "<script" not in page.text and "<b>" not in page.text


@pytest.mark.parametrize("query", ["done=x", "done=all", "done=all&count=-1", "done=all&count=²", "x=" + "&y=" * 50])
async def test_an_address_that_says_nothing(query):
    """Only the page's own words are shown as what was done."""
    _, computer = await two_devices(Site())
    page = await computer.get(f"{DEVICES}?{query}")
    assert page.status_code == 200 and 'role="status"' not in page.text


async def test_only_its_own_address_shows_the_page():
    """An address below it is a 404, so that no cache keeps the page as a picture; another method is a 405."""
    site = Site()
    _, computer = await two_devices(site)
    assert (await computer.get(DEVICES + "logo.png")).status_code == 404
    answer = await computer.delete(DEVICES)
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD, POST")
    card = computer.cookies["session"].encode()
    sent = await ask(site.app, http_scope(DEVICES, card, method="HEAD"))
    assert sent[0]["status"] == 200 and sent[1]["body"] == b""
    assert (await computer.post(DEVICES, content=b"x" * 20_000)).status_code == 413


@pytest.mark.parametrize("root_path", ["", "/shop"])
async def test_it_works_below_a_root_path(root_path):
    """Forms, redirects and links stay below the path that a proxy puts before the app."""
    site = Site(devices={"log_in_url": "/login?next={next}", "recent": 300})
    for agent in (IPHONE, FIREFOX):
        computer = site.browser(agent, root_path=root_path)
        await computer.post(f"{root_path}/login", params={"user": "7"})
    page = await computer.get(f"{root_path}{DEVICES}")
    ended = await computer.press(page, "end")
    assert ended.url.path == f"{root_path}{DEVICES}" and "The session has ended." in text_of(ended)
    visitor = await site.browser(root_path=root_path).get(f"{root_path}{DEVICES}")
    assert f'href="/login?next={root_path}/account/devices/"' in visitor.text


async def test_the_header_check_around_it_lets_its_forms_pass():
    """CSRFMiddleware around the app refuses another site's form before the page sees it, and passes the page's own."""
    site = Site()
    site.app.add_middleware(CSRFMiddleware)
    _, computer = await two_devices(site)
    page = await computer.get(DEVICES)
    computer.headers["sec-fetch-site"] = "cross-site"
    assert (await computer.press(page, "all")).status_code == 403
    computer.headers["sec-fetch-site"] = "same-origin"
    assert "Sessions ended: 1" in text_of(await computer.press(page, "all"))


async def test_a_middleware_that_asks_for_tokens_exempts_it():
    """With `tokens=True` the pages are named in `exempt_paths`, and check their own token all the same."""
    site = Site()
    site.app.user_middleware.insert(1, Middleware(CSRFMiddleware, tokens=True, exempt_paths=["/login", DEVICES]))
    _, computer = await two_devices(site)
    page = await computer.get(DEVICES)
    assert (await computer.press(page, "all", csrf="x")).status_code == 403
    assert "Sessions ended: 1" in text_of(await computer.press(page, "all"))


async def test_an_outage_is_a_503():
    """Where the store does not answer, the page is the middleware's 503, and no list that lacks something."""

    class Broken(MemoryStore):
        async def of_user(self, user):
            raise OSError("no route to host")

    site = Site(store=Broken(clock=lambda: START))
    only = site.browser()
    await only.log_in("7")
    assert (await only.get(DEVICES)).status_code == 503


async def test_without_a_middleware_the_error_says_what_to_add():
    """No session, or that of another cookie, is a ConfigurationError."""
    manager = SessionManager(secret_key="k" * 43, store="memory://")
    with pytest.raises(ConfigurationError, match="SessionMiddleware"):
        await ask(DevicesPage(manager), http_scope("/"))
    other = SessionMiddleware(DevicesPage(manager), secret_key="k" * 43, store="memory://", session_cookie="other")
    with pytest.raises(ConfigurationError, match="another SessionConfig"):
        await ask(other, http_scope("/"))


async def test_a_websocket_is_refused():
    """There is no conversation to be had with a page."""
    sent = await ask(DevicesPage(SessionManager(secret_key="k" * 43, store="memory://")), websocket_scope("/"))
    assert [message["type"] for message in sent] == ["websocket.close"]


WRONG = [
    ({"store": "cookie://"}, {}, "store: cookie://"),
    ({"store": "memory://", "user_key": None}, {}, "user_key: "),
    ({"store": "memory://", "card_header": "Authorization"}, {}, "card_header: "),
    ({"store": "memory://"}, {"recent": 0}, "recent: got 0; it takes seconds above 0"),
    ({"store": "memory://"}, {"log_in_url": "javascript:alert(1)"}, "log_in_url: got 'javascript"),
    ({"store": "memory://"}, {"home_url": 7}, "home_url: got 7"),
    ({"store": "memory://"}, {"templates": "/nowhere"}, "templates: got '/nowhere'; it takes a folder"),
    ({"store": "memory://"}, {"langage": "de"}, "langage: no such option of DevicesPage; did you mean language"),
]


@pytest.mark.parametrize(("session", "options", "said"), WRONG)
def test_wrong_options_are_named(session, options, said):
    """A wrong option is an error when the page is made, with the fix."""
    config = SessionConfig(secret_key="k" * 43, **session)
    with pytest.raises(ConfigurationError, match=re.escape(said)):
        DevicesPage(config, **options)


def test_it_takes_a_manager_or_a_config():
    """Anything else is an error that says so."""
    with pytest.raises(ConfigurationError, match=r"^manager: got Starlette"):
        DevicesPage(Starlette())


async def test_templates_of_the_app(tmp_path):
    """A template of the app counts in the place of Roomkey's, and may extend it. Its styles are allowed."""
    (tmp_path / "devices.html").write_text('{% extends "roomkey/devices.html" %}{% block title %}Acme{% endblock %}')
    (tmp_path / "styles.css").write_text("body { color: teal; }")
    site = Site(devices={"templates": tmp_path})
    _, computer = await two_devices(site)
    page = await computer.get(DEVICES)
    assert "<title>Acme</title>" in page.text and "Safari on iPhone" in text_of(page)
    allowed = b64encode(hashlib.sha256(b"body { color: teal; }").digest()).decode()
    assert allowed in page.headers["content-security-policy"]
