"""User agents as people read them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roomkey.core import agents
from roomkey.core.agents import Agent, agent_from, device_in
from tests.pages.parts import FIREFOX, IPHONE

_WEBKIT = "AppleWebKit/537.36 (KHTML, like Gecko)"
KNOWN = [
    (FIREFOX, Agent("Firefox", "Windows", "computer")),
    (IPHONE, Agent("Safari", "iPhone", "phone")),
    (IPHONE.replace("Version/17.5", "CriOS/126.0"), Agent("Chrome", "iPhone", "phone")),
    (IPHONE.replace("iPhone", "iPad"), Agent("Safari", "iPad", "tablet")),
    (f"Mozilla/5.0 (Windows NT 10.0; Win64; x64) {_WEBKIT} Chrome/126.0.0.0 Safari/537.36 Edg/126.0.0.0",
     Agent("Edge", "Windows", "computer")),
    (f"Mozilla/5.0 (X11; Linux x86_64) {_WEBKIT} Chrome/126.0.0.0 Safari/537.36 OPR/112.0.0.0",
     Agent("Opera", "Linux", "computer")),
    (f"Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) {_WEBKIT} Chrome/126.0.0.0 Safari/537.36",
     Agent("Chrome", "ChromeOS", "computer")),
    (f"Mozilla/5.0 (Linux; Android 10; K) {_WEBKIT} Chrome/126.0.0.0 Mobile Safari/537.36",
     Agent("Chrome", "Android", "phone")),
    (f"Mozilla/5.0 (Linux; Android 10; K) {_WEBKIT} SamsungBrowser/25.0 Chrome/121.0.0.0 Safari/537.36",
     Agent("Samsung Internet", "Android", "tablet")),
    ("Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 "
     "Safari/605.1.15", Agent("Safari", "macOS", "computer")),
    ("Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)", Agent(None, None, "program")),
    ("curl/8.5.0", Agent("curl 8.5.0", None, "program")),
    ("MyBank/4.2 (iPhone; iOS 17.5)", Agent("MyBank 4.2", "iPhone", "phone")),
    ("python-requests/2.32 Linux/6.1", Agent("python-requests 2.32", "Linux", "program")),
    ("", Agent(None, None, "program")),
    (None, Agent(None, None, "program")),
]  # fmt: skip


@pytest.fixture(params=["own list", "ua-parser"])
def with_parser(request, monkeypatch):
    """Each way to tell browsers apart: the small list, and ua-parser where it is installed."""
    if request.param == "ua-parser":
        pytest.importorskip("ua_parser")
    else:
        monkeypatch.setattr(agents, "_parser", lambda: None)
    agent_from.cache_clear()
    yield request.param == "ua-parser"
    agent_from.cache_clear()


@pytest.mark.parametrize(("text", "agent"), KNOWN)
def test_known_agents(with_parser, text, agent):
    """Browsers are told apart though each names the others, and a program is called what it calls itself."""
    if with_parser and "Googlebot" in (text or ""):
        agent = agent._replace(name="Googlebot")  # which the small list does not know
    assert agent_from(text) == agent


def test_ua_parser_knows_more():
    """It tells browsers apart that the small list does not know."""
    pytest.importorskip("ua_parser")
    agent_from.cache_clear()
    text = "Mozilla/5.0 (X11; Ubuntu; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"
    assert agent_from(text) == Agent("Firefox", "Ubuntu", "computer")
    text = f"Mozilla/5.0 (Windows NT 10.0; Win64; x64) {_WEBKIT} Chrome/126.0.0.0 Whale/3.27.254.15 Safari/537.36"
    assert agent_from(text).name == "Whale"


@pytest.mark.parametrize(
    ("text", "device"),
    [
        (FIREFOX, "Firefox on Windows"),
        (IPHONE, "Safari on iPhone"),
        ("curl/8.5.0", "curl 8.5.0"),
        ("Mozilla/5.0 (Windows NT 10.0)", "Windows"),
        ("", None),
        (None, None),
    ],
)
def test_a_device_in_words(with_parser, text, device):
    """A browser and its system, or the one of them that is known."""
    assert device_in(text) == device


@given(st.text(max_size=300))
def test_any_text_is_read(text):
    """Whatever a client sends, nothing raises, and no name is long."""
    for each in (text, f"Mozilla/5.0 {text}"):
        assert len(agent_from(each).name or "") < 64
