"""What is measured: each peer's session middleware around a raw ASGI app, as its documentation sets it up."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.driver import App, Receive, Scope, Send
from benchmarks.floor import Floor

SECRET = "a-secret-for-the-benchmark-of-32-bytes-or-more"
LIFETIME = 14400  # seconds, everybody's

BARE, PASS_THROUGH, FLOOR = "bare app", "pass-through", "floor"
STARLETTE, ROOMKEY = "Starlette", "Roomkey, memory"


async def _nothing() -> None:
    pass


@dataclass
class Subject:
    """One row of the table.

    `wrap` puts the middleware around an app. All apps of one subject share its store and its keys.
    """

    name: str
    package: str  # for the version; empty: our own yardstick
    wrap: Callable[[App], App]
    has_session: bool = True
    close: Callable[[], Awaitable[None]] = _nothing

    @property
    def version(self) -> str:
        return version(self.package) if self.package else ""


class PassThrough:
    """A middleware that does nothing."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


def _bare(folder: Path) -> Subject:
    return Subject(BARE, "", lambda app: app, has_session=False)


def _pass_through(folder: Path) -> Subject:
    return Subject(PASS_THROUGH, "", PassThrough, has_session=False)


def _floor(folder: Path) -> Subject:
    import ormsgpack

    store: dict[bytes, bytes] = {}
    options = ormsgpack.OPT_PASSTHROUGH_SUBCLASS

    def dumps(data: Any) -> bytes:
        return ormsgpack.packb(dict(data), option=options)

    return Subject(FLOOR, "", lambda app: Floor(app, store, dumps, ormsgpack.unpackb))


def _floor_json(folder: Path) -> Subject:
    store: dict[bytes, bytes] = {}

    def dumps(data: Any) -> bytes:
        return json.dumps(data).encode()

    return Subject(f"{FLOOR}, JSON", "", lambda app: Floor(app, store, dumps, json.loads))


def _roomkey_memory(folder: Path) -> Subject:
    from roomkey import SessionConfig, SessionMiddleware

    config = SessionConfig(secret_key=SECRET, max_age=LIFETIME, store="memory://")
    return Subject(ROOMKEY, "roomkey", lambda app: SessionMiddleware(app, config))


def _roomkey_sqlite(folder: Path) -> Subject:
    from roomkey import SessionConfig, SessionMiddleware
    from roomkey.stores.sqlite import SQLiteStore

    store = SQLiteStore(folder / "sessions.sqlite3")
    config = SessionConfig(secret_key=SECRET, max_age=LIFETIME, store=store)
    return Subject("Roomkey, SQLite", "roomkey", lambda app: SessionMiddleware(app, config), close=store.close)


def _starlette(folder: Path) -> Subject:
    from starlette.middleware.sessions import SessionMiddleware

    return Subject(STARLETTE, "starlette", lambda app: SessionMiddleware(app, SECRET, max_age=LIFETIME))


def _lilya(folder: Path) -> Subject:
    from lilya.middleware.sessions import SessionMiddleware

    return Subject("Lilya", "lilya", lambda app: SessionMiddleware(app, SECRET, max_age=LIFETIME))


def _starsessions(folder: Path) -> Subject:
    from starsessions import InMemoryStore, SessionAutoloadMiddleware, SessionMiddleware

    store = InMemoryStore()

    def wrap(app: App) -> App:
        loaded = SessionAutoloadMiddleware(app)
        wrapped: App = SessionMiddleware(loaded, store=store, lifetime=LIFETIME, cookie_https_only=False)
        return wrapped

    return Subject("starsessions, memory", "starsessions", wrap)


def _litestar(folder: Path) -> Subject:
    """Litestar's middleware without its router: it gets the three entries of the scope that it looks for."""
    from litestar import Litestar, get
    from litestar.middleware.session.server_side import (
        ServerSideSessionBackend,
        ServerSideSessionConfig,
    )

    @get("/")
    async def index() -> str:
        return ""

    config = ServerSideSessionConfig(max_age=LIFETIME)
    litestar = Litestar(route_handlers=[index], openapi_config=None)
    route_handler = litestar.routes[0].route_handlers[0]  # type: ignore[union-attr]
    middleware = config.middleware.middleware
    backend = ServerSideSessionBackend(config)

    def wrap(app: App) -> App:
        inner: Any = middleware(app=app, backend=backend)  # Litestar has ASGI types of its own

        # Not async: it returns the middleware's own coroutine, and so costs three assignments.
        def call(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
            scope["app"] = scope["litestar_app"] = litestar
            scope["route_handler"] = route_handler
            result: Awaitable[None] = inner(scope, receive, send)
            return result

        return call

    return Subject("Litestar, memory", "litestar", wrap)


_MAKERS = (
    _bare,
    _pass_through,
    _floor,
    _floor_json,
    _roomkey_memory,
    _roomkey_sqlite,
    _starlette,
    _lilya,
    _starsessions,
    _litestar,
)


def make_subjects(folder: Path) -> tuple[list[Subject], list[str]]:
    """Return the subjects, and a note for each that is not installed.

    Args:
        folder: an empty one, for the stores that keep files.
    """
    subjects, notes = [], []
    for make in _MAKERS:
        try:
            subjects.append(make(folder))
        except ModuleNotFoundError as error:
            if error.name and error.name.startswith("roomkey"):
                raise
            notes.append(f"{make.__name__.lstrip('_')} was left out: {error}")
    return subjects, notes
