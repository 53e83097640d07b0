"""User agents as people read them: "Firefox on Windows".

A small list instead of a parser with a database: browsers have frozen all but their name and system in this header, so
that there is nothing more to know. A program of another kind is called what it calls itself. A browser that names
itself nowhere, such as Brave, is shown as the one it wants to be taken for.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

__all__ = ["Agent", "agent_from"]

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
_PRODUCT = re.compile(r"([A-Za-z][\w .+-]{0,40}?)(?:/(\d[\w.]{0,15})\S*)?(?:\s|$)")


class Agent(NamedTuple):
    """What a user agent says of itself. None: nothing that is known."""

    name: str | None
    system: str | None
    kind: Kind


def agent_from(text: str | None) -> Agent:
    """Return what a `User-Agent` says. Anybody may send any: it is a hint for the user, and no proof."""
    text = text or ""
    system, kind = _system_in(text)
    if not text.startswith("Mozilla/"):
        own = _PRODUCT.match(text)
        name = None if own is None else " ".join(filter(None, own.groups()))
        return Agent(name, system, "program" if kind == "computer" else kind)
    return Agent(next((name for pattern, name in _BROWSERS if pattern.search(text)), None), system, kind)


def _system_in(text: str) -> tuple[str | None, Kind]:
    for pattern, system, kind in _SYSTEMS:
        if pattern.search(text):
            return system, kind
    return None, "program"
