"""Frameworks that are not asynchronous, for the measurements in process: a WSGI app in the place of a raw ASGI one.

The scenarios, their proofs and the samples are those of the other parts. Nothing here ever waits in an event loop, so
their coroutines are driven by hand, and no loop runs. Each request builds its environment while the clock runs, the
bare app's too, which is subtracted.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

from benchmarks.driver import App, Headers, Message, Receive, Scope, Send, receive
from benchmarks.report import table
from benchmarks.samples import Lane, Size, measure_alone
from benchmarks.scenarios import SCENARIOS
from benchmarks.subjects import BARE, Subject

__all__ = ["COLUMNS", "Found", "WSGIApp", "act", "as_asgi", "measure_subjects", "table_of_shares", "table_of_times"]

WSGIApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
Found = dict[str, dict[str, float]]  # µs, by scenario and subject
COLUMNS = ("anonymous", "untouched", "read", "write", "log-in", "log-in-known")

_NOTHING = 20.0  # µs: next to nothing, where a session was not loaded; a share of it would say nothing
_T = TypeVar("_T")


def measure_subjects(subjects: list[Subject], size: Size, title: str) -> Found:
    """Return what each subject takes for the session alone."""
    return {key: _drive(_measure(subjects, key, size, title)) for key in COLUMNS}


async def _measure(subjects: list[Subject], key: str, size: Size, title: str) -> dict[str, float]:
    lanes = [Lane(SCENARIOS[key], subject) for subject in subjects]
    return await measure_alone(lanes, size, f"{title}: {SCENARIOS[key].title}")


def act(handler: App, session: Any, method: str) -> bytes:
    """Let a scenario's handler work on a session, and return the body of its response. Views call it."""
    body = b""

    async def send(message: Message) -> None:
        nonlocal body
        body += message.get("body", b"")

    working: Any = handler({"type": "http", "method": method, "session": session}, receive, send)
    _drive(working)
    return body


def as_asgi(app: WSGIApp) -> App:
    """Return an app that hands each request to a WSGI app."""

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        started: list[Any] = []

        def start_response(status: str, headers: list[tuple[str, str]], error: Any = None) -> None:
            started[:] = [status, headers]

        chunks = app(_environ(scope), start_response)
        try:
            body = b"".join(chunks)
        finally:
            close = getattr(chunks, "close", None)
            if close is not None:
                close()
        status, headers = started
        raw: Headers = [(name.encode("latin-1"), value.strip().encode("latin-1")) for name, value in headers]
        await send({"type": "http.response.start", "status": int(status[:3]), "headers": raw})
        await send({"type": "http.response.body", "body": body})

    return call


def _environ(scope: Scope) -> dict[str, Any]:
    environ: dict[str, Any] = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": "",
        "PATH_INFO": scope["path"],
        "QUERY_STRING": "",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    for name, value in scope["headers"]:
        environ[f"HTTP_{name.decode('latin-1').upper().replace('-', '_')}"] = value.decode("latin-1")
    return environ


def _drive(work: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine that waits for nothing."""
    try:
        work.send(None)
    except StopIteration as end:
        result: _T = end.value
        return result
    raise RuntimeError("a WSGI app waits for an event loop")


# --- the tables -------------------------------------------------------------------------------------------------------


def table_of_shares(found: Found, pairs: list[tuple[str, str]]) -> str:
    """Return what the first of each pair takes, as a share of what the second takes; a dash where that is nothing."""
    rows = []
    for ours, theirs in pairs:
        shares = ("-" if row[theirs] < _NOTHING else f"{row[ours] / row[theirs]:.2f}" for row in found.values())
        rows.append([f"{ours}, of {theirs}", *shares])
    return table(["", *(SCENARIOS[key].title for key in found)], rows)


def table_of_times(found: Found) -> str:
    """Return the µs of everybody."""
    names = [name for name in next(iter(found.values())) if name != BARE]
    rows = [[name, *(f"{row[name]:.0f}" for row in found.values())] for name in names]
    return table(["", *(SCENARIOS[key].title for key in found)], rows)
