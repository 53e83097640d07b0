"""Sessions on Django, in process: `python -m benchmarks.on_django`.

Beside Django's own engines: `cached_db` (Redis before SQLite), `db` (SQLite) and `signed_cookies`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from benchmarks.counting import RedisEngine
from benchmarks.driver import App, Receive, Scope, Send
from benchmarks.report import Report, run
from benchmarks.samples import Size
from benchmarks.scenarios import SMALL, json_size
from benchmarks.subjects import BARE, LIFETIME, REDIS, SECRET, SQLITE, Subject
from benchmarks.wsgi import Found, act, as_asgi, measure_subjects, table_of_shares, table_of_times
from tests.servers.redis import RedisServer

CACHED, DATABASE, COOKIE = "Django, cached_db", "Django, db", "Django, signed_cookies"

_DJANGOS = "django.contrib.sessions.middleware.SessionMiddleware"
_ENGINES = {name: f"django.contrib.sessions.backends.{name.split()[1]}" for name in (CACHED, DATABASE, COOKIE)}

urlpatterns: list[Any] = []  # where Django looks for it

_FULL = Size(samples=60, requests=50)
_QUICK = Size(samples=5, requests=20)
_METHOD = """\
Django's WSGI handler with its session middleware and one view, one request after the other, without a server. {samples}
interleaved samples of {requests} requests each, the least of them less the least of a handler without the middleware.
Roomkey in SQLite was measured beside `db` and `signed_cookies`, and then Roomkey in Redis beside `cached_db`.
The session is {small} bytes as JSON. The Redis server runs on this machine and keeps no files. Django's database is
SQLite in a temporary folder, with a write-ahead log and a connection that is kept, as in Roomkey's store. `cached_db`
has Redis as its cache. Every subject first proved its work, as in the part `sessions`. `signed_cookies` asks no store,
and a log-out cannot end it. A log-in is an assignment here, at which only Roomkey changes the session ID: with Django's
own engines it takes a call of `login()`."""


def measure(quick: bool) -> Report:
    """Measure everything, and return the report."""
    size = _QUICK if quick else _FULL
    with tempfile.TemporaryDirectory() as folder, RedisServer() as server:
        _set_up(Path(folder), server.url)
        found = _round(SQLITE, f"sqlite:///{folder}/sessions.sqlite3", [DATABASE, COOKIE], size)
        for key, row in _round(REDIS, server.url, [CACHED], size).items():
            found[key] |= row
        version = RedisEngine(server.url).version
    return Report(
        name="django",
        title="On Django, in process",
        method=_METHOD.format(samples=size.samples, requests=size.requests, small=json_size(SMALL)),
        sections=[
            ("Shares of what Django's own cost", table_of_shares(found, [(REDIS, CACHED), (SQLITE, DATABASE)])),
            ("µs a request, for the session alone", table_of_times(found)),
        ],
        figures={"unit": "microseconds a request, for the session alone", "found": found},
        packages={"django", "redis", "hiredis"},
        programs={"Redis": version},
    )


def _round(name: str, store: str, peers: list[str], size: Size) -> Found:
    """Measure Roomkey on one store, beside some of Django's engines. A process of Django's has one of Roomkey's."""
    from django.core.cache import caches
    from django.db import connections
    from django.test import override_settings

    with override_settings(ROOMKEY={"store": store, "user_key": "user_id"}):
        from roomkey.django import get_manager

        subjects = [
            _subject(BARE, "", MIDDLEWARE=[]),
            _subject(name, "roomkey", MIDDLEWARE=["roomkey.django.SessionMiddleware"], SESSION_ENGINE="roomkey.django"),
            *(_subject(peer, "django", MIDDLEWARE=[_DJANGOS], SESSION_ENGINE=_ENGINES[peer]) for peer in peers),
        ]
        try:
            return measure_subjects(subjects, size, "Django")
        finally:
            get_manager().sync.close()
            connections.close_all()
            caches.close_all()


def _subject(name: str, package: str, **settings: Any) -> Subject:
    """Return Django's handler with one view. A middleware reads what its engine is when the handler is made."""
    from django.core.handlers.wsgi import WSGIHandler
    from django.test import override_settings

    with override_settings(**settings):
        called = as_asgi(WSGIHandler())

    def wrap(handler: App) -> App:
        async def call(scope: Scope, receive: Receive, send: Send) -> None:
            global _handler
            _handler = handler
            await called(scope, receive, send)

        return call

    return Subject(name, package, wrap, has_session=name != BARE)


_handler: Any = None  # what the view does for the request that is served now


def _view(request: Any) -> Any:
    from django.http import HttpResponse

    return HttpResponse(act(_handler, getattr(request, "session", None), request.method), content_type="text/plain")


def _set_up(folder: Path, redis: str) -> None:
    import django
    from django.conf import settings
    from django.core.management import call_command
    from django.urls import path

    urlpatterns[:] = [path("", _view)]
    database = {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": folder / "django.sqlite3",
        "CONN_MAX_AGE": None,
        "OPTIONS": {"init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL"},
    }
    settings.configure(
        ALLOWED_HOSTS=["*"],
        CACHES={"default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": redis}},
        DATABASES={"default": database},
        DEBUG=False,
        INSTALLED_APPS=["django.contrib.sessions"],
        LOGGING_CONFIG=None,
        ROOT_URLCONF=__name__,
        SECRET_KEY=SECRET,
        SESSION_COOKIE_AGE=LIFETIME,
        SESSION_COOKIE_NAME="session",
        USE_TZ=True,
    )
    django.setup()
    call_command("migrate", verbosity=0)


if __name__ == "__main__":
    run("benchmarks.on_django", measure, "Sessions on Django, beside its own engines.")
