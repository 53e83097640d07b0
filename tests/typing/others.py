"""What a type checker sees of the public names that no other file here has; mypy reads this file, nothing runs it."""

from collections.abc import Callable
from typing import Any, assert_type

import sqlalchemy as sa

from roomkey import Session, SessionConfig, SessionMiddleware
from roomkey.django import SessionMiddleware as DjangoMiddleware
from roomkey.events import Event, LoadedWithOldKey, Merged, OutageBegan, OutageEnded, Rotated, StoreAsked
from roomkey.fastapi import SessionConfig as FastAPIConfig
from roomkey.fastapi import SessionMiddleware as FastAPIMiddleware
from roomkey.legacy import LegacyReader, LegacySession, LilyaCookie, LitestarRedis, RavynCookie, StarsessionsRedis
from roomkey.lilya import SessionConfig as LilyaConfig
from roomkey.lilya import SessionMiddleware as LilyaMiddleware
from roomkey.litestar import SessionConfig as LitestarConfig
from roomkey.otel import session_telemetry
from roomkey.pytest_plugin import roomkey_clock, roomkey_manager, roomkey_options
from roomkey.quart import QuartSession
from roomkey.ravyn import SessionMiddleware as RavynMiddleware
from roomkey.starlette import SessionConfig as StarletteConfig
from roomkey.stores import Conflict, Record, Store
from roomkey.stores.base import Immediate, Silent, Unreadable, shown
from roomkey.stores.memory import MemoryStore
from roomkey.stores.sqlalchemy import session_table


def exported_again() -> None:
    configs: list[type[SessionConfig]] = [FastAPIConfig, LilyaConfig, LitestarConfig, StarletteConfig]
    middlewares: list[type[SessionMiddleware]] = [FastAPIMiddleware, LilyaMiddleware, RavynMiddleware]
    del configs, middlewares


def events(event: Event) -> None:
    match event:
        case Rotated():
            assert_type((event.old_handle, event.handle, event.user), tuple[str, str, str | None])
        case LoadedWithOldKey():
            assert_type(event.handle, str)
        case Merged():
            assert_type(event.attempts, int)
        case OutageBegan():
            assert_type((event.store, event.error), tuple[str, str])
        case OutageEnded():
            assert_type(event.store, str)
        case StoreAsked():
            assert_type((event.operation, event.seconds, event.outcome == "ok"), tuple[str, float, bool])
    telemetry: Callable[[Event], None] = session_telemetry(users=True)
    SessionConfig(secret_key="k", on_event=telemetry)
    session_telemetry(True)  # type: ignore[call-arg]


async def moving_in(client: Any) -> None:
    readers: list[LegacyReader] = [
        LilyaCookie("k"),
        RavynCookie(secret_key="k"),
        StarsessionsRedis(client, prefix="s."),
        LitestarRedis(client, namespace=None),
    ]
    found = await readers[0].read(b"cookie")
    assert_type(found, LegacySession | None)
    if found is not None:
        assert_type((found.data, found.created_at), tuple[dict[str, Any], float | None])
    SessionConfig(secret_key="k", legacy=readers)


def on_quart(session: QuartSession) -> None:
    plain: Session = session
    assert_type((session.permanent, session.new), tuple[bool, bool])
    del plain


def on_django(middleware: DjangoMiddleware, session: Any) -> None:
    assert_type(middleware.unavailable.__name__, str)


def stores(error: Conflict | Unreadable, store: Store, record: Record) -> None:
    memory: Immediate = MemoryStore()
    assert_type(memory.load_now("key"), Record | None)
    assert_type(shown(store), str)
    if isinstance(store, Silent):
        assert_type(store.why_silent(), str)
    assert_type(record.successor, str | None)
    assert_type(session_table(sa.MetaData(), "app.sessions"), sa.Table)
    plain: Exception = error
    del plain


def fixtures() -> None:
    given: list[object] = [roomkey_clock, roomkey_manager, roomkey_options]
    del given
