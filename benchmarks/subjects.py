"""Who is measured: each peer's session middleware around a raw ASGI app, as its documentation sets it up."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.driver import App, Receive, Scope, Send
from benchmarks.floor import Floor

SECRET = "a-secret-for-the-benchmark-of-32-bytes-or-more"
LIFETIME = 14400  # seconds, everybody's

BARE, FLOOR, STARLETTE = "bare app", "floor", "Starlette"
MEMORY, SQLITE, REDIS = "Roomkey, memory", "Roomkey, SQLite", "Roomkey, Redis"
STARSESSIONS = "starsessions"

_REDIS_CONNECTIONS = 1000  # at most, for the peers: more than there are requests at once


@dataclass
class Subject:
    """One row of the tables.

    Attributes:
        name: what the tables call it.
        package: for the version; empty: our own yardstick.
        wrap: puts the middleware around an app. All apps of one subject share its store and its keys.
        fresh: does the same, and what it returns remembers nothing of the requests that other apps have served.
        has_session: whether there is a session at all.
        has_lifespan: whether its store is opened and closed by the ASGI lifespan.
        signs: whether its cookies are signed, so that one that was not seen before costs a hash.
    """

    name: str
    package: str
    wrap: Callable[[App], App]
    fresh: Callable[[App], App] | None = None
    has_session: bool = True
    has_lifespan: bool = False
    signs: bool = False


def bare_app() -> Subject:
    return Subject(BARE, "", lambda app: app, has_session=False)


def floor() -> Subject:
    import ormsgpack

    store: dict[bytes, bytes] = {}
    options = ormsgpack.OPT_PASSTHROUGH_SUBCLASS

    def dumps(data: Any) -> bytes:
        return ormsgpack.packb(dict(data), option=options)

    return Subject(FLOOR, "", lambda app: Floor(app, store, dumps, ormsgpack.unpackb))


def roomkey(name: str, url: str, **options: Any) -> Subject:
    from roomkey import SessionConfig, SessionMiddleware

    config = SessionConfig(secret_key=SECRET, max_age=LIFETIME, store=url, **options)

    def fresh(app: App) -> App:
        """Make a configuration of its own, on the same store."""
        other = SessionConfig(secret_key=SECRET, max_age=LIFETIME, store=config.store, **options)
        return SessionMiddleware(app, other)

    return Subject(name, "roomkey", lambda app: SessionMiddleware(app, config), fresh, has_lifespan=True, signs=True)


def starlette() -> Subject:
    from starlette.middleware.sessions import SessionMiddleware

    def wrap(app: App) -> App:
        return SessionMiddleware(app, SECRET, max_age=LIFETIME)

    return Subject(STARLETTE, "starlette", wrap, wrap, signs=True)


def lilya() -> Subject:
    from lilya.middleware.sessions import SessionMiddleware

    return Subject("Lilya", "lilya", lambda app: SessionMiddleware(app, SECRET, max_age=LIFETIME))


def starsessions(name: str, store: Any) -> Subject:
    """Return starsessions with autoload, which is how its documentation has a handler find the session loaded."""
    from starsessions import SessionAutoloadMiddleware, SessionMiddleware

    def wrap(app: App) -> App:
        loaded = SessionAutoloadMiddleware(app)
        wrapped: App = SessionMiddleware(loaded, store=store, lifetime=LIFETIME, cookie_https_only=False)
        return wrapped

    return Subject(name, "starsessions", wrap, wrap)


def starsessions_in_memory() -> Subject:
    from starsessions import InMemoryStore

    return starsessions(f"{STARSESSIONS}, memory", InMemoryStore())


def starsessions_in_redis(client: Any) -> Subject:
    from starsessions.stores.redis import RedisStore

    return starsessions(f"{STARSESSIONS}, Redis", RedisStore(connection=client))


def redis_client(url: str) -> Any:
    """Return the peers' client. By default redis-py raises at 100 connections, and they answer 500 under load."""
    from redis.asyncio import ConnectionPool, Redis

    return Redis.from_pool(ConnectionPool.from_url(url, max_connections=_REDIS_CONNECTIONS))


def litestar(name: str, store: Any = None) -> Subject:
    """Return Litestar's middleware without its router: it gets the three entries of the scope that it looks for.

    Args:
        name: what the tables call it.
        store: one of Litestar's; None: in memory.
    """
    from litestar import Litestar, get
    from litestar.middleware.session.server_side import ServerSideSessionBackend, ServerSideSessionConfig

    @get("/")
    async def index() -> str:
        return ""

    config = ServerSideSessionConfig(max_age=LIFETIME)
    stores = None if store is None else {"sessions": store}
    router = Litestar(route_handlers=[index], openapi_config=None, stores=stores)
    route_handler = router.routes[0].route_handlers[0]  # type: ignore[union-attr]
    backend = ServerSideSessionBackend(config)

    def wrap(app: App) -> App:
        inner: Any = config.middleware.middleware(app=app, backend=backend)  # Litestar has ASGI types of its own

        # Not async: it returns the middleware's own coroutine, and so costs three assignments.
        def call(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
            scope["app"] = scope["litestar_app"] = router
            scope["route_handler"] = route_handler
            result: Awaitable[None] = inner(scope, receive, send)
            return result

        return call

    return Subject(name, "litestar", wrap)


def litestar_in_memory() -> Subject:
    return litestar("Litestar, memory")


def litestar_in_redis(client: Any) -> Subject:
    from litestar.stores.redis import RedisStore

    return litestar("Litestar, Redis", RedisStore(client))


def make_subjects(folder: Path) -> tuple[list[Subject], list[str]]:
    """Return the subjects that need no server, and a note for each that is not installed.

    Args:
        folder: an empty one, for the stores that keep files.
    """
    subjects = [
        bare_app(),
        roomkey(MEMORY, "memory://"),
        roomkey(SQLITE, f"sqlite:///{folder / 'sessions.sqlite3'}"),
        starlette(),
        floor(),
    ]
    notes = []
    for make in (lilya, starsessions_in_memory, litestar_in_memory):
        try:
            subjects.append(make())
        except ModuleNotFoundError as error:
            notes.append(f"{make.__name__} was left out: {error}.")
    return subjects, notes
