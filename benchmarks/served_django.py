"""Django for `served`: its own ASGI handler with its session middleware and asynchronous views."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote, urlsplit

from benchmarks.driver import App, Receive, Scope, Send, answer_lifespan
from benchmarks.pages import answer, answer_without_session
from benchmarks.scenarios import SMALL
from benchmarks.subjects import LIFETIME, SECRET

__all__ = ["create_tables", "with_cache", "with_database", "without_session"]

_CONNECTIONS = 10  # to the database, at most, as Roomkey's store has by default

urlpatterns: list[Any] = []  # where Django looks for it


def without_session(url: str) -> App:
    return _django(None)


def with_cache(url: str) -> App:
    """Return Django with sessions in its cache, over Redis."""
    cache = {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": url}
    return _django("django.contrib.sessions.backends.cache", CACHES={"default": cache})


def with_database(url: str) -> App:
    """Return Django with sessions in PostgreSQL."""
    parts = urlsplit(url)
    database = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts.path.lstrip("/"),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": parts.hostname,
        "PORT": parts.port,
        # A pool, which is what its documentation has one use under ASGI: else each request connects anew.
        "OPTIONS": {"pool": {"min_size": _CONNECTIONS, "max_size": _CONNECTIONS}},
    }
    return _django("django.contrib.sessions.backends.db", DATABASES={"default": database})


def create_tables(url: str) -> None:
    """Make the tables that Django needs."""
    with_database(url)
    from django.core.management import call_command

    call_command("migrate", verbosity=0)


def _django(engine: str | None, **settings: Any) -> App:
    """Return Django's handler. `engine` None: no sessions."""
    import django
    from django.conf import settings as configured
    from django.core.asgi import get_asgi_application

    configured.configure(
        SECRET_KEY=SECRET,
        DEBUG=False,
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF=__name__,
        INSTALLED_APPS=["django.contrib.sessions"],
        MIDDLEWARE=[] if engine is None else ["django.contrib.sessions.middleware.SessionMiddleware"],
        SESSION_ENGINE=engine or "django.contrib.sessions.backends.cache",
        SESSION_COOKIE_NAME="session",
        SESSION_COOKIE_AGE=LIFETIME,
        USE_TZ=True,
        LOGGING_CONFIG=None,
        **settings,
    )
    django.setup()
    from django.urls import re_path

    global urlpatterns
    urlpatterns = [re_path("", _page)]
    handler: App = get_asgi_application()

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        await (answer_lifespan if scope["type"] == "lifespan" else handler)(scope, receive, send)

    return call


async def _page(request: Any) -> Any:
    """Answer the pages that are measured, with the asynchronous methods of Django's sessions."""
    from django.http import HttpResponse

    found = answer_without_session(request.path)
    if found is None:
        query = request.GET.dict()
        session = getattr(request, "session", None)
        if session is None:
            found = answer(request.path, dict(SMALL), query)
        elif request.path == "/read":
            found = 200, (await session.aget("theme")).encode()
        elif request.path == "/write":
            _, written = answer(request.path, {}, query)
            await session.aset("views", int(written))
            found = 200, written
        elif request.path == "/login":
            await session.aupdate({**SMALL, "user_id": int(query["user"])})
            found = 200, b"welcome"
        else:
            found = answer(request.path, dict(await session.aitems()), query)
    status, body = found
    headers = {"Content-Length": str(len(body))}
    return HttpResponse(body, status=status, content_type="text/plain", headers=headers)
