"""The app that uvicorn serves to `engines.py` and `soak.py`: a few pages over the session of one subject.

`make_app` is the factory; the environment says which subject and which engine. Run as a program, it makes the tables
that the subject needs, and ends.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import os
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from benchmarks.driver import App, Receive, Scope, Send
from benchmarks.scenarios import SMALL
from benchmarks.subjects import LIFETIME, SECRET

SUBJECT, URL, STORE_TIMEOUT = "BENCH_SUBJECT", "BENCH_URL", "BENCH_STORE_TIMEOUT"  # in the environment

_DJANGO_CONNECTIONS = 10  # at most, as Roomkey's store has by default
_REDIS_CONNECTIONS = 1000  # at most, for the peers: more than there are requests at once
_PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")

_served = itertools.count()
_last = 0  # requests that were served so far
_views = itertools.count(1)

Answer = tuple[int, bytes]
Session = MutableMapping[str, Any]


# --- the pages --------------------------------------------------------------------------------------------------------


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


def _open(path: str) -> Answer | None:
    """Answer the pages that have nothing to do with a session; None for the others."""
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


async def _pages(scope: Scope, receive: Receive, send: Send) -> None:
    """Everybody's app but Django's: raw ASGI, so that nothing but the session costs anything."""
    if scope["type"] == "lifespan":
        await _live(receive, send)
        return
    answer = _open(scope["path"])
    if answer is None:
        query = dict(parse_qsl(scope["query_string"].decode())) if scope["query_string"] else {}
        answer = _PAGES[scope["path"]](scope["session"], query)
    status, body = answer
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _live(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


# --- the subjects -----------------------------------------------------------------------------------------------------


def _bare(url: str) -> App:
    def call(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        scope["session"] = dict(SMALL)
        return _pages(scope, receive, send)

    return call


def _roomkey(url: str) -> App:
    from roomkey import SessionConfig, SessionMiddleware

    timeout = float(os.environ.get(STORE_TIMEOUT, "2"))
    config = SessionConfig(secret_key=SECRET, max_age=LIFETIME, store=url, store_timeout=timeout)
    return SessionMiddleware(_pages, config)


def _redis(url: str) -> Any:
    """Return the peers' client. By default redis-py raises at 100 connections, and they answer 500 under load."""
    from redis.asyncio import ConnectionPool, Redis

    return Redis(connection_pool=ConnectionPool.from_url(url, max_connections=_REDIS_CONNECTIONS))


def _starsessions(url: str) -> App:
    from starsessions import SessionAutoloadMiddleware, SessionMiddleware
    from starsessions.stores.redis import RedisStore

    store = RedisStore(connection=_redis(url))
    loaded = SessionAutoloadMiddleware(_pages)
    wrapped: App = SessionMiddleware(loaded, store=store, lifetime=LIFETIME, cookie_https_only=False)
    return wrapped


def _litestar(url: str) -> App:
    """Litestar's middleware without its router, as in `subjects.py`."""
    from litestar import Litestar, get
    from litestar.middleware.session.server_side import ServerSideSessionBackend, ServerSideSessionConfig
    from litestar.stores.redis import RedisStore

    @get("/")
    async def index() -> str:
        return ""

    config = ServerSideSessionConfig(max_age=LIFETIME)
    stores = {"sessions": RedisStore(_redis(url))}
    litestar = Litestar(route_handlers=[index], openapi_config=None, stores=stores)
    route_handler = litestar.routes[0].route_handlers[0]  # type: ignore[union-attr]
    inner: Any = config.middleware.middleware(app=_pages, backend=ServerSideSessionBackend(config))

    def call(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        scope["app"] = scope["litestar_app"] = litestar
        scope["route_handler"] = route_handler
        result: Awaitable[None] = (_pages if scope["type"] == "lifespan" else inner)(scope, receive, send)
        return result

    return call


def _django(engine: str | None, **settings: Any) -> App:
    """Django's own ASGI handler with its session middleware and asynchronous views. `engine` None: no sessions."""
    import django
    from django.conf import settings as configured
    from django.core.asgi import get_asgi_application

    middleware = [] if engine is None else ["django.contrib.sessions.middleware.SessionMiddleware"]
    configured.configure(
        SECRET_KEY=SECRET,
        DEBUG=False,
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF=__name__,
        INSTALLED_APPS=["django.contrib.sessions"],
        MIDDLEWARE=middleware,
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
    urlpatterns = [re_path("", _django_page)]
    handler: App = get_asgi_application()

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        await (_live(receive, send) if scope["type"] == "lifespan" else handler(scope, receive, send))

    return call


urlpatterns: list[Any] = []  # where Django looks for it


async def _django_page(request: Any) -> Any:
    """The pages that are measured, with the asynchronous methods of Django's sessions."""
    from django.http import HttpResponse

    answer = _open(request.path)
    if answer is None:
        query = request.GET.dict()
        session = getattr(request, "session", None)
        if session is None:
            answer = _PAGES[request.path](dict(SMALL), query)
        elif request.path == "/read":
            answer = 200, (await session.aget("theme")).encode()
        elif request.path == "/write":
            views = next(_views)
            await session.aset("views", views)
            answer = 200, b"%d" % views
        elif request.path == "/login":
            await session.aupdate({**SMALL, "user_id": int(query["user"])})
            answer = 200, b"welcome"
        else:
            answer = _show(dict(await session.aitems()), query)
    headers = {"Content-Length": str(len(answer[1]))}
    return HttpResponse(answer[1], status=answer[0], content_type="text/plain", headers=headers)


def _django_cache(url: str) -> App:
    cache = {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": url}
    return _django("django.contrib.sessions.backends.cache", CACHES={"default": cache})


def _django_database(url: str) -> App:
    from urllib.parse import unquote, urlsplit

    parts = urlsplit(url)
    database = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts.path.lstrip("/"),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": parts.hostname,
        "PORT": parts.port,
        # A pool, which is what its documentation has one use under ASGI: else each request connects anew.
        "OPTIONS": {"pool": {"min_size": _DJANGO_CONNECTIONS, "max_size": _DJANGO_CONNECTIONS}},
    }
    return _django("django.contrib.sessions.backends.db", DATABASES={"default": database})


_MAKERS: dict[str, Callable[[str], App]] = {
    "bare": _bare,
    "django-bare": lambda url: _django(None),
    "roomkey": _roomkey,
    "starsessions": _starsessions,
    "litestar": _litestar,
    "django-cache": _django_cache,
    "django-db": _django_database,
}


def make_app() -> App:
    """Return the app of the subject that the environment names."""
    return _MAKERS[os.environ[SUBJECT]](os.environ.get(URL, ""))


def prepare() -> None:
    """Make the tables that the subject needs."""
    subject, url = os.environ[SUBJECT], os.environ.get(URL, "")
    if subject == "django-db":
        make_app()
        from django.core.management import call_command

        call_command("migrate", verbosity=0)
    elif subject == "roomkey" and url.startswith("postgresql:"):
        asyncio.run(_create_table(url))


async def _create_table(url: str) -> None:
    from roomkey.stores.postgres import PostgresStore

    store = PostgresStore(url)
    await store.create_table()
    await store.close()


if __name__ == "__main__":
    prepare()
    sys.exit()
