"""The pages that are served over HTTP, on whatever session a subject has."""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import os
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from benchmarks.driver import Receive, Scope, Send, answer_lifespan
from benchmarks.scenarios import SMALL

__all__ = ["answer", "answer_without_session", "pages"]

Answer = tuple[int, bytes]
Session = MutableMapping[str, Any]

_PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")

_served = itertools.count()
_last = 0  # requests that were served so far
_views = itertools.count(1)


def _log_in(session: Session, query: dict[str, str]) -> Answer:
    session.update(SMALL)
    session["user_id"] = int(query["user"])
    return 200, b"welcome"


def _read(session: Session, query: dict[str, str]) -> Answer:
    return 200, session["theme"].encode()


def _write(session: Session, query: dict[str, str]) -> Answer:
    views = next(_views)  # never the same, so that nobody may skip the save
    session["views"] = views
    return 200, b"%d" % views


def _show(session: Session, query: dict[str, str]) -> Answer:
    """The whole session; 401 where there is none."""
    data = {key: session[key] for key in session.keys()}  # noqa: SIM118 - Django's session is no mapping
    return (200 if data else 401), json.dumps(data).encode()


def _put(session: Session, query: dict[str, str]) -> Answer:
    if session.get("user_id") is None:
        return 401, b""
    session[query["key"]] = int(query["value"])
    return 200, query["value"].encode()


def _log_out(session: Session, query: dict[str, str]) -> Answer:
    session.clear()
    return 200, b"bye"


_PAGES: dict[str, Callable[[Session, dict[str, str]], Answer]] = {
    "/login": _log_in,
    "/read": _read,
    "/write": _write,
    "/show": _show,
    "/put": _put,
    "/logout": _log_out,
}


def answer(path: str, session: Session, query: dict[str, str]) -> Answer:
    """Return status and body of a page that has to do with the session."""
    return _PAGES[path](session, query)


def answer_without_session(path: str) -> Answer | None:
    """Return status and body of a page that has nothing to do with a session; None for the other pages."""
    global _last
    if path == "/anonymous":
        return 200, b"hello"
    if path == "/stats":
        gc.collect()
        stats = {"served": _last, "rss": _rss(), "fds": _descriptors(), "tasks": len(asyncio.all_tasks())}
        return 200, json.dumps(stats).encode()
    _last = next(_served) + 1
    return None


def _rss() -> int:
    """Memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * _PAGE_SIZE


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd")) - 1  # one is the listing's own


async def pages(scope: Scope, receive: Receive, send: Send) -> None:
    """Be the app of every subject but Django: raw ASGI, so that nothing but the session costs anything."""
    if scope["type"] == "lifespan":
        await answer_lifespan(scope, receive, send)
        return
    found = answer_without_session(scope["path"])
    if found is None:
        query = dict(parse_qsl(scope["query_string"].decode())) if scope["query_string"] else {}
        found = answer(scope["path"], scope["session"], query)
    status, body = found
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
