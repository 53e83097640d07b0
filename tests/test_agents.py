"""User agents as people read them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from roomkey.pages.agents import Agent, agent_from

from tests.pages.parts import FIREFOX, IPHONE

_WEBKIT = "AppleWebKit/537.36 (KHTML, like Gecko)"
KNOWN = [
    (FIREFOX, Agent("Firefox", "Windows", "computer")),
    (IPHONE, Agent("Safari", "iPhone", "phone")),
    (IPHONE.replace("Version/17.5", "CriOS/126.0"), Agent("Chrome", "iPhone", "phone")),
    (IPHONE.replace("iPhone", "iPad"), Agent("Safari", "iPad", "tablet")),
    (f"Mozilla/5.0 (Windows NT 10.0; Win64; x64) {_WEBKIT} Chrome/126.0.0.0 Safari/537.36 Edg/126.0.0.0",
     Agent("Edge", "Windows", "computer")),
    (f"Mozilla/5.0 (X11; Linux x86_64) {_WEBKIT} Chrome/126.0.0.0 Safari/537.36 OPR/112.0",
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


@pytest.mark.parametrize(("text", "agent"), KNOWN)
def test_known_agents(text, agent):
    """Browsers are told apart though each names the others, and a program is called what it calls itself."""
    assert agent_from(text) == agent


@given(st.text(max_size=300))
def test_any_text_is_read(text):
    """Whatever a client sends, nothing raises, and no name is long."""
    for each in (text, f"Mozilla/5.0 {text}"):
        assert len(agent_from(each).name or "") < 64
