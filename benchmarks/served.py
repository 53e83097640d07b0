"""The app that uvicorn serves: the pages, behind one subject's session middleware.

`make_app` is the factory. The environment says which subject, and which store. Run as a program, it makes the tables
that the subject needs, and ends.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable

from benchmarks import served_django, subjects
from benchmarks.driver import App, Receive, Scope, Send, answer_lifespan
from benchmarks.pages import pages
from benchmarks.scenarios import SMALL

# In the environment.
SUBJECT, URL = "BENCH_SUBJECT", "BENCH_URL"
STORE_TIMEOUT, NEAR_CACHE = "BENCH_STORE_TIMEOUT", "BENCH_NEAR_CACHE"


def _bare(url: str) -> App:
    def call(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        scope["session"] = dict(SMALL)
        return pages(scope, receive, send)

    return call


def _roomkey(url: str) -> App:
    timeout = float(os.environ.get(STORE_TIMEOUT, "2"))
    kept = os.environ.get(NEAR_CACHE)
    near = {} if kept is None else {"near_cache": int(kept)}
    return subjects.roomkey("Roomkey", url, store_timeout=timeout, **near).wrap(pages)


def _starlette(url: str) -> App:
    return subjects.starlette().wrap(pages)


def _starsessions(url: str) -> App:
    return subjects.starsessions_in_redis(subjects.redis_client(url)).wrap(pages)


def _litestar(url: str) -> App:
    inner = subjects.litestar_in_redis(subjects.redis_client(url)).wrap(pages)

    def call(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        return (answer_lifespan if scope["type"] == "lifespan" else inner)(scope, receive, send)

    return call


_MAKERS: dict[str, Callable[[str], App]] = {
    "bare": _bare,
    "roomkey": _roomkey,
    "starlette": _starlette,
    "starsessions": _starsessions,
    "litestar": _litestar,
    "django-bare": served_django.without_session,
    "django-cache": served_django.with_cache,
    "django-db": served_django.with_database,
}


def make_app() -> App:
    """Return the app of the subject that the environment names."""
    return _MAKERS[os.environ[SUBJECT]](os.environ.get(URL, ""))


def prepare() -> None:
    """Make the tables that the subject needs."""
    subject, url = os.environ[SUBJECT], os.environ.get(URL, "")
    if subject == "django-db":
        served_django.create_tables(url)
    elif subject == "roomkey" and url.startswith("postgresql:"):
        asyncio.run(_create_table(url))


async def _create_table(url: str) -> None:
    from roomkey.stores.postgres import PostgresStore

    store = PostgresStore(url)
    await store.create_table()
    await store.close()


if __name__ == "__main__":
    prepare()
