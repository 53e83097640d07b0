"""User agents as people read them: "Firefox on Windows".

Browsers are told apart by ua-parser (`roomkey[devices]`), whose list is kept up to date by many projects. Without it,
a small list of our own knows the usual ones. A program of another kind is called what it calls itself. A browser that
names itself nowhere, such as Brave, is shown as the one it wants to be taken for.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

__all__ = ["Agent", "agent_from", "device_in"]

Kind = Literal["computer", "phone", "tablet", "program"]

# Each browser also names those that it wants to be taken for: the more special ones come first.
_BROWSERS = [
    (re.compile(r"\bEdg(?:e|A|iOS)?/"), "Edge"),
    (re.compile(r"\b(?:OPR|OPX|OPiOS|Opera)\b"), "Opera"),
    (re.compile(r"\bSamsungBrowser/"), "Samsung Internet"),
    (re.compile(r"\bVivaldi/"), "Vivaldi"),
    (re.compile(r"\b(?:DuckDuckGo|Ddg)/"), "DuckDuckGo"),
    (re.compile(r"\bYaBrowser/"), "Yandex Browser"),
    (re.compile(r"\b(?:Firefox|FxiOS)/"), "Firefox"),
    (re.compile(r"\b(?:Chrome|HeadlessChrome|Chromium|CriOS)/"), "Chrome"),
    (re.compile(r"\bVersion/\S+ (?:Mobile/\S+ )?Safari/"), "Safari"),
]
_SYSTEMS: list[tuple[re.Pattern[str], str, Kind]] = [
    (re.compile(r"\biPhone\b"), "iPhone", "phone"),
    (re.compile(r"\biPad\b"), "iPad", "tablet"),
    (re.compile(r"\bAndroid\b.*\bMobile\b"), "Android", "phone"),
    (re.compile(r"\bAndroid\b"), "Android", "tablet"),
    (re.compile(r"\bWindows\b"), "Windows", "computer"),
    (re.compile(r"\bCrOS\b"), "ChromeOS", "computer"),
    (re.compile(r"\b(?:Macintosh|Mac OS X|macOS)\b"), "macOS", "computer"),
    (re.compile(r"\b(?:Linux|X11)\b"), "Linux", "computer"),
]
_SYSTEM_NAMES = {"Mac OS X": "macOS", "Chrome OS": "ChromeOS"}  # in ua-parser's words, and in ours
_VARIANT = re.compile(r"\b(?:Mobile|iOS|WebView|UI/WKWebView)(?:\s|$)")  # of a browser, which is the same to its user
_PRODUCT = re.compile(r"([A-Za-z][\w .+-]{0,40}?)(?:/(\d[\w.]{0,15})\S*)?(?:\s|$)")


class Agent(NamedTuple):
    """What a user agent says of itself. None: nothing that is known."""

    name: str | None
    system: str | None
    kind: Kind


@functools.lru_cache(maxsize=1024)
def agent_from(text: str | None) -> Agent:
    """Return what a `User-Agent` says. Anybody may send any: it is a hint for the user, and no proof."""
    text = text or ""
    system, kind = _system_in(text)
    if not text.startswith("Mozilla/"):
        own = _PRODUCT.match(text)
        name = None if own is None else " ".join(filter(None, own.groups()))
        return Agent(name, system, "program" if kind == "computer" else kind)
    parse = _parser()
    if parse is not None:
        return _parsed(parse(text), system, kind)
    return Agent(next((name for pattern, name in _BROWSERS if pattern.search(text)), None), system, kind)


def device_in(text: str | None) -> str | None:
    """Return a device in words, such as "Firefox on Windows". None: the text says nothing that is known."""
    agent = agent_from(text)
    return " on ".join(part for part in agent[:2] if part is not None) or None


@functools.cache
def _parser() -> Callable[[str], Any] | None:
    """Return ua-parser's function; None: it is not installed."""
    try:
        from ua_parser import parse
    except ImportError:
        return None
    known: Callable[[str], Any] = parse
    return known


def _parsed(found: Any, system: str | None, kind: Kind) -> Agent:
    """Return what ua-parser found, in our words: "Mobile Safari" is Safari, and iOS is an iPhone or an iPad."""
    name = "" if found.user_agent is None else " ".join(_VARIANT.sub("", found.user_agent.family[:60]).split())
    if found.os is not None and system not in ("iPhone", "iPad"):
        system = _SYSTEM_NAMES.get(found.os.family, found.os.family[:60])
    return Agent(name or None, system, kind)


def _system_in(text: str) -> tuple[str | None, Kind]:
    for pattern, system, kind in _SYSTEMS:
        if pattern.search(text):
            return system, kind
    return None, "program"
