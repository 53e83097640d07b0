"""What a type checker sees of the public names; mypy reads this file, nothing runs it."""

import datetime as dt
from collections.abc import Callable, MutableMapping, Sequence
from pathlib import Path
from typing import Any, Literal, assert_type
from uuid import UUID

import httpx
from aiohttp import web
from aiohttp.test_utils import TestClient as AiohttpClient
from flask import Flask
from flask.sessions import SessionMixin
from quart import Quart
from starlette.responses import JSONResponse

from roomkey import (
    ANYBODYS,
    ConfigurationError,
    ImpersonationError,
    LevelTooLow,
    LoginTooOld,
    Proof,
    Request,
    ResponseStarted,
    RoomkeyError,
    Session,
    SessionConfig,
    SessionDataError,
    SessionEnded,
    SessionInfo,
    SessionManager,
    SessionMiddleware,
    Sessions,
    StoreUnavailable,
    WeakSecretWarning,
    session_of,
)
from roomkey.aiohttp import MANAGER, setup
from roomkey.csrf import CSRFError, CSRFMiddleware, csrf_token, verify_csrf_token
from roomkey.django import DjangoSessions, SessionStore, get_manager
from roomkey.events import ClientChanged, Created, Ended, Event, Expired, Lost, Refused, Renewed
from roomkey.flask import FlaskSession, Roomkey
from roomkey.flask import session as flask_session
from roomkey.legacy import DjangoCookie, FlaskCookie, LegacyReader, StarletteCookie
from roomkey.pages import Activity, DevicesPage, OperatorsPage
from roomkey.pages.activity import Hour, Outage
from roomkey.prometheus import near_metrics, session_metrics
from roomkey.quart import Roomkey as QuartRoomkey
from roomkey.quart import session as quart_session
from roomkey.stores.base import (
    Conflict,
    Discard,
    Lifespan,
    Notice,
    Purge,
    Record,
    Scan,
    Store,
    TellingPurge,
    UserIndex,
    Watch,
    What,
    Wipe,
)
from roomkey.stores.cookie import CookieStore
from roomkey.stores.memory import MemoryStore
from roomkey.stores.migrating import Migrating
from roomkey.stores.postgres import PostgresStore
from roomkey.stores.redis import RedisStore
from roomkey.stores.sqlalchemy import SQLAlchemyStore
from roomkey.stores.sqlite import SQLiteStore
from roomkey.sync import SyncManager, SyncSessions
from roomkey.testing import Clock, StoreContract, client_session


class Money:
    amount: int = 0


def plain_money(money: Money) -> list[int]:
    return [money.amount]


def money_of(plain: list[int]) -> Money:
    return Money()


def own_types() -> None:
    SessionConfig(secret_key="k", encoders={Money: (plain_money, money_of), UUID: (str, UUID, "UUID")})
    SessionConfig(secret_key="k", encoders={Money: plain_money})  # type: ignore[dict-item]
    SessionManager(secret_key="k", encoders=None)


def config() -> None:
    made = SessionConfig(secret_key=["new", b"old"], max_age=None, same_site="strict", store="memory://", domain=None)
    assert_type(made.session_cookie, str)
    assert_type(SessionConfig(secret_key="k", vary="always").vary, Literal["used", "always"])
    assert_type(SessionConfig(secret_key="k", card_header="Authorization").card_header, str | None)
    SessionConfig(secret_key="k", card_header=b"X-Auth-Token")  # type: ignore[arg-type]
    near = SessionConfig(secret_key="k", near_cache=10_000, near_max_age=dt.timedelta(seconds=2), fresh=["/pay/"])
    assert_type(near.near_cache, int | None)
    assert_type(near.near_max_age, float)
    assert_type(near.fresh, Sequence[str])
    SessionConfig(secret_key="k", near_cache="many")  # type: ignore[arg-type]
    assert_type(made.carrier, tuple[str, str])
    SessionConfig(secret_key="k", vary="never")  # type: ignore[arg-type]
    assert_type(made.absolute_timeout, float | None)
    assert_type(made.idle_timeout, float)
    assert_type(SessionConfig.from_options({"secret_key": "k"}), SessionConfig)
    assert_type(SessionConfig.from_env(max_age=dt.timedelta(days=14), clock=Clock(5.0)), SessionConfig)
    SessionConfig.from_env(max_ages=5)  # type: ignore[call-arg]
    SessionConfig(
        secret_key="k", max_age=dt.timedelta(days=14), absolute_timeout=None, store_timeout=dt.timedelta(0, 1)
    )
    SessionConfig(secret_key="k", max_age="a day")  # type: ignore[arg-type]
    SessionConfig()  # type: ignore[call-arg]  # no secret_key
    SessionMiddleware(lambda *_: None, max_age=dt.timedelta(days=14))  # type: ignore[arg-type]
    SessionConfig("k")  # type: ignore[call-arg]  # keywords only
    SessionConfig(secret_key="k", same_site="Lax")  # type: ignore[arg-type]
    SessionConfig(secret_key="k", max_ages=5)  # type: ignore[call-arg]
    SessionConfig(secret_key="k", strict_types=True)
    SessionConfig(secret_key="k", user_key=("user_id", "user.sub"))
    SessionConfig(secret_key="k", user_key=lambda session: session.get("uid"))
    SessionConfig(secret_key="k", user_key=5)  # type: ignore[arg-type]
    assert_type(SessionConfig(secret_key="k", rotate_on=["role", "user.mfa"]).rotate_on, Sequence[str])
    SessionConfig(secret_key="k", rotate_on=5)  # type: ignore[arg-type]
    assert_type(SessionConfig(secret_key="k", clear_site_data=["cache"]).clear_site_data, Sequence[str])
    SessionConfig(secret_key="k", clear_site_data=True)  # type: ignore[arg-type]
    assert_type(SessionConfig(secret_key="k", exclude=["/health"], passive=("/poll",)).exclude, Sequence[str])
    SessionConfig(secret_key="k", exclude=[5])  # type: ignore[list-item]
    made.max_age = 5  # type: ignore[misc]  # frozen


async def session(session: Session) -> None:
    plain: dict[str, Any] = session
    session["user_id"] = 5
    session[5] = "five"  # type: ignore[index]
    assert_type(session.copy(), dict[str, Any])
    assert_type(session.mark_accessed(), None)
    assert_type(session.peek("user_id"), Any)
    session.peek("views", 0)
    session.peek(5)  # type: ignore[arg-type]
    assert_type(session.rotate(grace=30), None)
    assert_type(session.invalidate(), None)
    session.change("views", lambda views: views + 1, default=0)
    assert_type(await session.save(), None)
    assert_type(await session.refresh(), None)
    assert_type(session.handle, str)
    assert_type(session.is_new, bool)
    assert_type(session.accessed, bool)
    assert_type(session.modified, bool)
    assert_type(session.created_at, dt.datetime)
    assert_type(session.expires_at, dt.datetime)
    session.handle = "x"  # type: ignore[misc]
    assert_type(session.remember(86400), None)
    session.remember(None)
    session.remember(dt.timedelta(days=14))
    session.rotate(grace=dt.timedelta(seconds=30))
    session.require_recent(dt.timedelta(minutes=5))
    session.save()  # type: ignore[unused-coroutine]
    for _ in session.flashes():  # type: ignore[attr-defined]
        pass
    session.remember("a day")  # type: ignore[arg-type]
    assert_type(session.authenticated_at, dt.datetime | None)
    assert_type(session.reauthenticated(), None)
    assert_type(session.require_recent(300), None)
    assert_type(session.reauthenticated(level=2, method="totp"), None)
    session.reauthenticated(2)  # type: ignore[call-arg]
    session.reauthenticated(level="2")  # type: ignore[arg-type]
    assert_type(session.level, int)
    assert_type(session.proofs, tuple[Proof, ...])
    assert_type(session.proofs[0].at, dt.datetime)
    assert_type(session.require_level(2, within=dt.timedelta(minutes=15)), None)
    session.require_level(2, 900)  # type: ignore[call-arg]
    assert_type(await session.impersonate(7, seconds=dt.timedelta(minutes=5), within=60), None)
    assert_type(await session.stop_impersonating(), None)
    assert_type(session.actor, Any)
    await session.impersonate(None)  # type: ignore[arg-type]
    session.flash({"text": "saved"}, "success")
    assert_type(await session.flashes(), list[tuple[str, Any]])
    assert_type(session.show_flashes(), list[tuple[str, Any]])
    assert_type(session.keep_flashes(), None)
    session.flash("x", "info", now=True)
    assert_type(session.sessions, Sessions)
    del plain


async def users(sessions: Sessions, session: Session) -> None:
    for user in (5, "five", UUID(int=5)):
        assert_type(await sessions.of(user), list[SessionInfo])
    await sessions.of(5.5)  # type: ignore[arg-type]
    await sessions.of(None)  # type: ignore[arg-type]  # nobody has no sessions
    info = await sessions.get("handle")
    assert_type(info, SessionInfo | None)
    assert_type(None if info is None else info.actor, str | None)
    async for each in sessions.every():
        assert_type(each, SessionInfo)
    [info] = await sessions.of(5)
    assert_type(info.ip, str | None)
    assert_type(info.last_used_at, dt.datetime)
    assert_type(info.is_current, bool)
    assert_type(await sessions.revoke(info.handle, user=5), bool)
    assert_type(await sessions.revoke(info.handle, user=ANYBODYS), bool)
    assert_type(await sessions.label(info.handle, "my phone"), bool)
    assert_type(info.label, str | None)
    assert_type((info.device, info.country), tuple[str | None, str | None])
    assert_type(await sessions.revoke_all(5, keep=session), int)
    assert_type(await sessions.end_all(), None)
    Sessions(SessionConfig(secret_key="k"))


def events() -> None:
    def hear(event: Event) -> None:
        match event:
            case Created(handle, user):
                assert_type(handle, str)
                assert_type(user, str | None)
            case Expired(handle, user) | Renewed(handle, user):
                assert_type((handle, user), tuple[str, str | None])
            case Ended() | Refused() | Lost():
                assert_type(event.reason == "unknown", bool)

    SessionConfig(secret_key="k", on_event=hear)

    async def hear_later(event: Event) -> None: ...

    async def hear_nothing() -> None: ...

    SessionConfig(secret_key="k", on_event=hear_later)
    SessionConfig(secret_key="k", on_event=hear_nothing)  # type: ignore[arg-type]
    SessionConfig(secret_key="k", on_event=print)
    SessionConfig(secret_key="k", on_event="hear")  # type: ignore[arg-type]

    def moved(session: Session, change: ClientChanged) -> None:
        assert_type((change.is_other_ip, change.is_other_device), tuple[bool, bool])

    SessionConfig(secret_key="k", record_client=True, on_client_changed=moved, country=lambda ip: ip[:2])
    SessionConfig(secret_key="k", record_client=True, country=len)  # type: ignore[arg-type]
    count: Callable[[Event], None] = session_metrics()
    near_metrics(SessionManager(secret_key="k"))
    SessionConfig(secret_key="k", on_event=count)


def error_page(scope: MutableMapping[str, Any], error: RoomkeyError) -> JSONResponse | None:
    if isinstance(error, CSRFError):
        return JSONResponse(scope["path"], 403)
    return JSONResponse(error.retry_after, 503) if isinstance(error, StoreUnavailable) else None


def forbidden_page(scope: MutableMapping[str, Any], error: CSRFError) -> JSONResponse:
    return JSONResponse(str(error), 403)


def outage_page(scope: MutableMapping[str, Any], error: StoreUnavailable) -> JSONResponse:
    return JSONResponse(error.retry_after, 503)


async def error_page_awaited(scope: MutableMapping[str, Any], error: RoomkeyError) -> JSONResponse | None:
    return error_page(scope, error)


def csrf(app: SessionMiddleware, session: Session) -> None:
    CSRFMiddleware(app, trusted_origins=["https://app.example"], exempt_paths=["/hooks/"])
    CSRFMiddleware(app, error_page=error_page)
    CSRFMiddleware(app, error_page=forbidden_page)
    assert_type(csrf_token(session), str)
    assert_type(verify_csrf_token(session, "token"), bool)


def legacy() -> None:
    readers: list[LegacyReader] = [
        StarletteCookie("old"),
        FlaskCookie("old", max_age=dt.timedelta(7)),
        DjangoCookie("old"),
    ]
    SessionConfig(secret_key="k", legacy=readers)
    SessionConfig(secret_key="k", legacy=[StarletteCookie("old")])
    SessionConfig(secret_key="k", legacy=["old"])  # type: ignore[list-item]


async def middleware(app: SessionMiddleware) -> None:
    SessionMiddleware(app, SessionConfig(secret_key="k"))
    SessionMiddleware(app, secret_key="k", https_only=True)
    SessionMiddleware(app, secret_key="k", https_only="auto", error_page=error_page)
    SessionMiddleware(app, SessionConfig(secret_key="k"), error_page=error_page_awaited)
    SessionMiddleware(app, SessionConfig(secret_key="k"), error_page=outage_page)
    SessionMiddleware(app, secret_key="k", https_only="never")  # type: ignore[arg-type]
    assert_type(app.config, SessionConfig)


class OwnSession(Session):
    """A framework's own class."""


async def manager(app: SessionMiddleware) -> None:
    made = SessionManager(SessionConfig(secret_key="k"), session_class=OwnSession)
    SessionManager(secret_key="k", store="memory://")
    SessionManager("k")  # type: ignore[arg-type]
    SessionManager(secret_key="k", max_ages=5)  # type: ignore[call-arg]
    SessionManager(secret_key="k", session_class=dict)  # type: ignore[arg-type]
    SessionMiddleware(app, made)
    assert_type(app.manager, SessionManager)
    assert_type(made.config, SessionConfig)
    async with made as entered:
        assert_type(entered, SessionManager)
    for request in (None, "session=...", b"session=...", Request(), Request(client=("192.0.2.7", 1234))):
        assert_type(await made.load(request), Session)
    Request(kind="websocket", scheme="wss", path="/chat", headers=[("cookie", "session=...")])
    Request(headers={b"cookie": b"session=..."}.items())
    Request("http")  # type: ignore[call-arg]  # keywords only
    Request(headers={"cookie": "session=..."})  # type: ignore[arg-type]
    await made.load({"cookie": "session=..."})  # type: ignore[arg-type]
    session = await made.load()
    assert_type(await made.commit(session, headers=[("vary", "Accept")]), list[tuple[str, str]])
    assert_type(await made.commit(session, headers={b"vary": b"Accept"}.items()), list[tuple[bytes, bytes]])
    headers: list[tuple[bytes, bytes]] = []
    assert_type(await made.commit(session, status=404, headers=headers, raw=True), list[tuple[bytes, bytes]])
    assert_type(await made.commit(session, can_set_cookie=False), list[tuple[str, str]])
    await made.commit(session, headers=[("vary", b"Accept")])  # type: ignore[type-var]
    await made.commit({})  # type: ignore[arg-type]
    assert_type(made.abandon(session), None)
    assert_type(made.sessions, Sessions)
    assert_type(made.sync, SyncManager)
    session.accessed = True
    session.modified = True
    assert_type(session.mark_modified(), None)
    assert_type(await session.regenerate_id(), None)


def of_a_request(scope: dict[str, Any]) -> None:
    assert_type(session_of(scope), Session)
    session_of("request")  # type: ignore[arg-type]


def sync(sync: SyncManager, session: Session) -> None:
    assert_type(sync.load(b"session=..."), Session)
    assert_type(sync.load(Request(headers=[("cookie", "session=...")])), Session)
    assert_type(sync.commit(session, status=404, headers=[("vary", "Accept")]), list[tuple[str, str]])
    assert_type(sync.commit(session, headers=[(b"vary", b"Accept")]), list[tuple[bytes, bytes]])
    assert_type(sync.abandon(session), None)
    assert_type(sync.save(session), None)
    assert_type(sync.refresh(session), None)
    assert_type(sync.flashes(session), list[tuple[str, Any]])
    assert_type(sync.run(session.flashes()), list[tuple[str, Any]])
    assert_type(sync.run(session.regenerate_id()), None)
    sync.run(session.flashes)  # type: ignore[arg-type]
    assert_type(sync.sessions, SyncSessions)
    assert_type(sync.sessions.of(7, current=session), list[SessionInfo])
    assert_type(sync.sessions.revoke("handle", user=7), bool)
    assert_type(sync.sessions.label("handle", None, user=7), bool)
    assert_type(sync.sessions.get("handle", current=session), SessionInfo | None)
    assert_type(sync.sessions.revoke_all(7, keep=session), int)
    assert_type(sync.sessions.end_all(), None)
    assert_type(sync.close(), None)
    sync.load(5)  # type: ignore[arg-type]


def errors(error: StoreUnavailable, low: LevelTooLow) -> None:
    roots: list[type[RoomkeyError]] = [
        ConfigurationError,
        ImpersonationError,
        LevelTooLow,
        LoginTooOld,
        ResponseStarted,
        SessionDataError,
        SessionEnded,
        StoreUnavailable,
    ]
    warning: type[Warning] = WeakSecretWarning
    assert_type(error.retry_after, int)
    assert_type(low.level, int)
    assert_type(low.within, float | None)
    del roots, warning


class OwnStore:
    """The least that a store has to have."""

    async def load(self, key: str) -> Record | None:
        return None

    async def create(self, key: str, record: Record) -> None:
        raise Conflict

    async def update(self, key: str, record: Record, *, version: int) -> None:
        raise Conflict

    async def rotate(self, key: str, new_key: str, record: Record, tombstone: Record, *, version: int) -> None:
        raise Conflict

    async def touch(self, key: str, expires_at: float) -> bool:
        return False

    async def delete(self, key: str) -> None: ...


class NoStore:
    async def load(self, key: bytes) -> Record | None:
        return None


def stores() -> None:
    own: Store = OwnStore()
    SessionConfig(secret_key="k", store=OwnStore())
    SessionConfig(secret_key="k", store=NoStore())  # type: ignore[arg-type]
    memory, sqlite, redis = (
        MemoryStore(),
        SQLiteStore("sessions.sqlite3", writes_in_thread=True),
        RedisStore("redis://host", prefix="{app}:"),
    )
    postgres = PostgresStore("postgresql://host/app", table="cards", max_connections=5)
    other = SQLAlchemyStore("mysql+asyncmy://host/app", table="cards")
    built_in: list[Store] = [memory, sqlite, redis, postgres, other, Migrating(redis, "memory://")]
    purging: list[Purge] = [memory, sqlite, postgres, other]
    telling: list[TellingPurge] = [memory, sqlite, postgres, other, Migrating(redis, memory)]
    listing: list[UserIndex] = [memory, sqlite, redis, postgres, other]
    wiping: list[Wipe] = [memory, sqlite, redis, postgres, other]
    scanning: list[Scan] = [memory, sqlite, redis, postgres, other]
    discarding: list[Discard] = [sqlite, redis, postgres, other]
    opening: list[Lifespan] = [sqlite, redis, postgres, other]
    watched: list[Watch] = [memory, sqlite, redis, postgres, other]
    leave: Callable[[], None] = memory.watch(lambda notice: assert_type(notice.what, What) and None, list, changes=True)
    assert_type(Notice(What.MOVED, "key", successor="other").version, int)
    SessionConfig(secret_key="k", store=CookieStore(max_size=8192))
    SessionConfig(secret_key="k", store=Path("sessions.sqlite3"))
    del own, built_in, purging, telling, listing, wiping, scanning, discarding, opening, watched, leave


async def test_client(client: httpx.Client, other: httpx.AsyncClient, manager: SessionManager) -> None:
    with client_session(client, manager) as session:
        assert_type(session, Session)
    async with client_session(other, manager) as session:
        assert_type(session, Session)
    client_session(client)  # type: ignore[call-arg]
    client_session("client", manager)  # type: ignore[arg-type]
    client_session(client, manager.config)  # type: ignore[arg-type]


def testing(clock: Clock) -> None:
    assert_type(clock(), float)
    SessionConfig(secret_key="k", clock=clock)

    class TestOwnStore(StoreContract):
        def make_store(self, clock: Clock) -> Store:
            return OwnStore()


def on_flask(app: Flask) -> None:
    roomkey = Roomkey(app, store="memory://", max_age=dt.timedelta(hours=1), user_key=None)
    Roomkey(app, card_header="Authorization")
    Roomkey().init_app(app)
    Roomkey("app")  # type: ignore[arg-type]
    Roomkey(app, same_site="lax")  # type: ignore[call-arg]  # SESSION_COOKIE_SAMESITE says it
    assert_type(roomkey.manager, SessionManager)
    assert_type(flask_session, FlaskSession)
    flask_session.permanent = True
    assert_type(flask_session.permanent, bool)
    assert_type(flask_session.new, bool)
    plain: Session = flask_session
    mixed: SessionMixin = flask_session
    assert_type(roomkey.manager.sync.flashes(flask_session), list[tuple[str, Any]])
    del plain, mixed


async def on_django(session: SessionStore) -> None:
    manager = get_manager()
    assert_type(manager, SessionManager)
    assert_type(session.session_key, str | None)
    assert_type(session.handle, str)
    assert_type(session.modified, bool)
    assert_type(session.authenticated_at, dt.datetime | None)
    assert_type(session.load(), Session)
    assert_type(await session.aload(), Session)
    assert_type(session.exists("key"), bool)
    assert_type(await session.sessions.of(7), list[SessionInfo])
    assert_type(manager.sync.sessions.of(7, current=session), list[SessionInfo])
    assert_type(manager.sync.sessions.revoke_all(7, keep=session), int)
    session.require_recent(dt.timedelta(minutes=5))
    session.reauthenticated(level=2, method="totp")
    session.require_level(2, within=900)
    assert_type(session.level, int)
    assert_type(session.proofs, tuple[Proof, ...])
    session.session_key = "key"  # type: ignore[misc]
    readers: list[LegacyReader] = [DjangoSessions("django.contrib.sessions.backends.db", path="/shop")]
    DjangoSessions(engine=1)  # type: ignore[arg-type]
    del readers


async def on_quart(app: Quart) -> None:
    roomkey = QuartRoomkey(app, store="memory://", max_age=5)
    QuartRoomkey().init_app(app)
    QuartRoomkey(app, persistent=True)  # type: ignore[call-arg]  # session.permanent says it
    assert_type(roomkey.manager, SessionManager)
    assert_type(quart_session.permanent, bool)
    assert_type(await quart_session.flashes(), list[tuple[str, Any]])


async def on_aiohttp(app: web.Application, request: web.Request, config: SessionConfig) -> None:
    assert_type(setup(app, config), SessionManager)
    setup(app, SessionManager(config))
    setup(app, secret_key="k", store="memory://", max_age=dt.timedelta(hours=1))

    async def sorry(request: web.Request, error: StoreUnavailable) -> web.Response:
        return web.Response(status=503)

    setup(app, config, error_page=sorry)
    setup(app, config, error_page="sorry")  # type: ignore[arg-type]
    setup(app, secret="k")  # type: ignore[call-arg]
    setup(config)  # type: ignore[arg-type]
    assert_type(session_of(request), Session)
    assert_type(request.config_dict[MANAGER], SessionManager)


async def with_clients(
    flask: Flask, quart: Quart, aiohttp: AiohttpClient[web.Request, web.Application], manager: SessionManager
) -> None:
    for opened in (
        client_session(flask.test_client(), manager),
        client_session(quart.test_client(), manager),
        client_session(aiohttp, manager),
        client_session(httpx.Client(base_url="http://testserver"), manager),
    ):
        with opened as session:
            assert_type(session, Session)
    async with client_session(aiohttp, manager) as session:
        assert_type(session, Session)


def pages(manager: SessionManager, made: SessionConfig) -> None:
    DevicesPage(manager)
    DevicesPage(made, recent=dt.timedelta(minutes=5), log_in_url="/login", home_url="/", templates=Path("templates"))
    DevicesPage(manager, language="de", words={"fr": {"log_in": "Connexion"}})
    DevicesPage("manager")  # type: ignore[arg-type]

    async def allow(scope: Any) -> bool:
        return True

    activity = Activity(hours=48)
    assert_type(activity.hours, list[Hour])
    assert_type(activity.outages, list[Outage])
    SessionConfig(secret_key="k", on_event=activity)
    OperatorsPage(manager, allow=allow, refuse_with=403, activity=activity)
    OperatorsPage(made, allow=lambda scope: scope["session"].get("role") == "operator")
    OperatorsPage(manager)  # type: ignore[call-arg]
    OperatorsPage(manager, allow=allow, refuse_with=401)  # type: ignore[arg-type]
