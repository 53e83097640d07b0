"""docs/recipes-login.md: the page's app logs users in at a small OpenID provider; both are server processes."""

import asyncio
import re
import shutil
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from roomkey import SessionManager
from roomkey.testing import client_session
from tests.loop_clock import HANGS
from tests.oidc_provider import CLIENT, CLIENT_SECRET
from tests.reader import Reader, lasting
from tests.sites.running import SECRET, Running

pytest.importorskip("authlib")

PAGE = Path(__file__).parent.parent / "docs" / "recipes-login.md"


@pytest.fixture
def store(tmp_path):
    return f"sqlite:///{tmp_path}/sessions.db"


@pytest.fixture
def provider(tmp_path):
    command = ["uvicorn", "tests.oidc_provider:app", "--port", "{port}"]
    with Running("provider", "memory://", tmp_path, command=command) as server:
        yield server.when_ready()


@pytest.fixture
def app(provider, store, tmp_path):
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    (tmp_path / "login_app.py").write_text(code)
    command = ["uvicorn", "login_app:app", "--app-dir", str(tmp_path), "--port", "{port}"]
    settings = {
        "SECRET_KEY": SECRET,
        "STORE": store,
        "PROVIDER_CLIENT_ID": CLIENT,
        "PROVIDER_CLIENT_SECRET": CLIENT_SECRET,
        "PROVIDER_SERVER_METADATA_URL": f"{provider}/.well-known/openid-configuration",
    }
    with Running("app", "memory://", tmp_path, command=command, settings=settings) as server:
        yield server.when_ready()


def browser(app):
    return httpx.AsyncClient(base_url=app, timeout=HANGS, trust_env=False)


async def location(client, url):
    """Return where an answer leads."""
    answer = await client.get(url)
    assert answer.status_code in (302, 307), answer.text
    return answer.headers["location"]


async def content(client, store):
    """Return what is in the client's session."""
    async with SessionManager(secret_key=SECRET, store=store) as manager, client_session(client, manager) as session:
        return dict(session)


async def begin(client, store):
    """Give the visitor a session with something in it."""
    async with SessionManager(secret_key=SECRET, store=store) as manager, client_session(client, manager) as session:
        session["cart"] = ["tea"]


@pytest.mark.parametrize("at_once", [False, True])
async def test_two_tabs_both_log_in(app, provider, store, at_once):
    """Both log-ins come to their end, one after the other or at once; the ID is new and no state is left."""
    async with browser(app) as client:
        await begin(client, store)
        visitor = client.cookies["session"]

        async def both(one, other):
            if not at_once:
                return [await one, await other]
            await client.get(f"{provider}/meet")
            return await asyncio.gather(one, other)

        urls = await both(location(client, "/login"), location(client, "/login"))
        assert len([key for key in await content(client, store) if key.startswith("_state_")]) == 2
        assert client.cookies["session"] == visitor
        callbacks = [await location(client, url) for url in urls]
        ends = await both(*(location(client, callback) for callback in callbacks))
        assert ends == ["/", "/"]
        assert client.cookies["session"] != visitor
        assert await content(client, store) == {"cart": ["tea"], "user_id": "ann"}

        for card in (visitor, client.cookies["session"]):
            for callback in callbacks:
                answer = await client.get(callback, headers={"Cookie": f"session={card}"})
                assert answer.status_code == 400
        async with browser(app) as thief:
            thief.cookies["session"] = visitor
            assert await content(thief, store) == {}


async def test_a_callback_of_another_browser(app, store):
    """Somebody else's callback logs nobody in, whether it was used or not."""
    async with browser(app) as attacker, browser(app) as victim:
        callback = await location(attacker, await location(attacker, "/login"))
        await begin(victim, store)
        assert (await victim.get(callback)).status_code == 400
        assert await content(victim, store) == {"cart": ["tea"]}
        changed = callback.replace(parse_qs(urlsplit(callback).query)["state"][0], "x")
        assert (await attacker.get(changed)).status_code == 400
        assert await location(attacker, callback) == "/"


def same(session, provider=None):
    """Return a console session without what differs each time: also addresses, and what each log-in has of its own."""
    if provider is not None:
        session = session.replace(provider, "https://provider.example")
    session = re.sub(r"127\.0\.0\.1%3A\d+", "localhost%3A8000", session)
    return lasting(re.sub(r"\b(state|nonce|code_challenge)=[\w-]{20,}", r"\1=...", session))


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
def test_what_curl_shows_is_true(provider, tmp_path):
    """Whoever follows the page is sent to the provider, and refused with a callback that nobody began."""
    with Reader(tmp_path, instead={"https://provider.example": provider}) as reader:
        ((shown, real),) = reader.follow(PAGE.read_text())
    assert same(real, provider) == same(shown)


def test_the_recipe_is_short():
    """The app has under 20 lines of code beside its imports."""
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    lines = [line for line in code.splitlines() if line and not line.startswith(("import ", "from "))]
    assert len(lines) < 20
