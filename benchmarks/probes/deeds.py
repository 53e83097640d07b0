"""What the pages of all apps do alike: with the session, and at the gate."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import MutableMapping
from typing import Any

__all__ = ["KINDS", "act", "shown", "wait", "wait_blocking"]

KINDS: dict[str, Any] = {
    "aware datetime": dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC),
    "naive datetime": dt.datetime(2026, 1, 2, 3, 4, 5),
    "tuple": (1, 2),
    "int keys": {1: "one"},
}

_waiting: list[object] = []  # one entry for each request at the gate: opening it takes them away


def act(session: MutableMapping[str, Any], deed: str, name: str) -> dict[str, Any]:
    """Do one thing that is done alike with every library, and return the page."""
    if deed == "write":
        session[name] = 1
    elif deed == "login":
        session["user_id"] = name
    elif deed == "keep":
        session["kept"] = KINDS[name]
        return {}
    elif deed == "kept":
        return {"same": _same(session.get("kept"), KINDS[name])}
    elif deed == "waiting":
        return {"waiting": len(_waiting)}
    elif deed == "open":
        _waiting.clear()
        return {}
    return shown(session)


def shown(session: MutableMapping[str, Any]) -> dict[str, Any]:
    """Return the page that shows the session."""
    return {"session": dict(session.items())}


async def wait() -> None:
    """Wait at the gate until it is opened."""
    mark = object()
    _waiting.append(mark)
    while mark in _waiting:
        await asyncio.sleep(0.005)


def wait_blocking() -> None:
    """Do the same in a thread."""
    mark = object()
    _waiting.append(mark)
    while mark in _waiting:
        time.sleep(0.005)


def _same(found: Any, value: Any) -> bool:
    return type(found) is type(value) and bool(found == value)
