"""Sessions on Flask, in process: `python -m benchmarks.on_flask`.

Beside Flask-Session in Redis, and beside Flask's own signed cookie. Each is the session of a whole Flask app.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.counting import RedisEngine
from benchmarks.driver import App
from benchmarks.report import Report, run
from benchmarks.samples import Size
from benchmarks.scenarios import SMALL, json_size
from benchmarks.subjects import BARE, LIFETIME, MEMORY, REDIS, SECRET, SQLITE, Subject
from benchmarks.wsgi import act, as_asgi, measure_subjects, table_of_shares, table_of_times
from tests.servers.redis import RedisServer

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask import Flask

COOKIE, FLASK_SESSION = "Flask's signed cookie", "Flask-Session, Redis"

_FULL = Size(samples=60, requests=50)
_QUICK = Size(samples=5, requests=20)
_METHOD = """\
A Flask app with one view is called as a WSGI app, one request after the other, without a server. {samples} interleaved
samples of {requests} requests each, the least of them less the least of an app whose view does not touch the session.
The session is {small} bytes as JSON. The Redis server runs on this machine and keeps no files. SQLite's file is in a
temporary folder. Every subject first proved its work, as in the part `sessions`. Flask's signed cookie asks no store,
and a log-out cannot end it. Neither peer changes the session ID at a log-in."""


def measure(quick: bool) -> Report:
    """Measure everything, and return the report."""
    size = _QUICK if quick else _FULL
    with tempfile.TemporaryDirectory() as folder, RedisServer() as server:
        subjects = [
            Subject(BARE, "", lambda handler: _wrap(handler, _no_session), has_session=False),
            _roomkey(MEMORY, "memory://"),
            _roomkey(SQLITE, f"sqlite:///{Path(folder)}/sessions.sqlite3"),
            _roomkey(REDIS, server.url),
            Subject(FLASK_SESSION, "flask-session", lambda handler: _wrap(handler, _flask_session(server.url))),
            Subject(COOKIE, "flask", lambda handler: _wrap(handler, lambda app: None)),
        ]
        found = measure_subjects(subjects, size, "Flask")
        version = RedisEngine(server.url).version
    return Report(
        name="flask",
        title="On Flask, in process",
        method=_METHOD.format(samples=size.samples, requests=size.requests, small=json_size(SMALL)),
        sections=[
            ("Shares of what the peers cost", table_of_shares(found, [(REDIS, FLASK_SESSION), (SQLITE, COOKIE)])),
            ("µs a request, for the session alone", table_of_times(found)),
        ],
        figures={"unit": "microseconds a request, for the session alone", "found": found},
        packages={"flask", "flask-session", "redis", "hiredis", "msgspec"},
        programs={"Redis": version},
    )


def _wrap(handler: App, give: Callable[[Flask], Any]) -> App:
    """Return an app of Flask's with one view.

    Args:
        handler: what the view does.
        give: gives the app its sessions.
    """
    from flask import Flask, request, session

    app = Flask("benchmark")
    app.config.from_mapping(SECRET_KEY=SECRET, PERMANENT_SESSION_LIFETIME=LIFETIME)
    give(app)

    @app.get("/")
    def view() -> bytes:
        return act(handler, session, request.method)

    return as_asgi(app)


def _no_session(app: Flask) -> None:
    app.config["SECRET_KEY"] = None


def _roomkey(name: str, url: str) -> Subject:
    from roomkey import SessionConfig
    from roomkey.flask import Roomkey

    store = SessionConfig(secret_key=SECRET, store=url).store  # all apps of a subject share it

    def give(app: Flask) -> None:
        Roomkey(app, store=store, max_age=LIFETIME)

    return Subject(name, "roomkey", lambda handler: _wrap(handler, give))


def _flask_session(url: str) -> Callable[[Flask], Any]:
    def give(app: Flask) -> None:
        from flask_session import Session
        from redis import Redis

        app.config.from_mapping(SESSION_TYPE="redis", SESSION_REDIS=Redis.from_url(url), SESSION_PERMANENT=False)
        Session(app)

    return give


if __name__ == "__main__":
    run("benchmarks.on_flask", measure, "Sessions on Flask, beside Flask-Session and the signed cookie.")
