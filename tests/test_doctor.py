"""Each check of `roomkey doctor`, with an app that has the fault, and with one that has not."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import redis

from roomkey import SessionManager
from roomkey.cli.checks import CHECKS
from roomkey.cli.doctor import judged
from roomkey.stores.postgres import PostgresStore
from roomkey.stores.sqlalchemy import SQLAlchemyStore
from tests.doctor_apps import ENOUGH, FRAMEWORKS, WITHOUT_FAULT, asgi, found, framework, looked_at
from tests.servers.postgres import PostgresServer
from tests.servers.redis import RedisServer

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "howto-doctor.md").read_text()

# --- frameworks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_an_app_without_a_fault(name: str, tmp_path: Path) -> None:
    """In an app of each framework nothing is found, and nothing is left unlooked at."""
    assert judged(looked_at(tmp_path, framework(name))) == ([], [])


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_an_app_with_faults(name: str, tmp_path: Path) -> None:
    """The same faults are found in each framework. Options have the names that they have there."""
    code = framework(name, "secret_key='short', https_only=False, store='memory://', user_key=None", csrf=False)
    looked = looked_at(tmp_path, code)
    expected = ["key-weak", "cookie-not-secure", "cookie-no-prefix", "csrf-off", "user-key-none", "store-forgets"]
    assert found(looked) == expected
    is_flask = name in ("flask", "quart")
    assert ("SECRET_KEY" in _fix(looked, "key-weak")) is is_flask
    assert ("CSRFMiddleware" in _fix(looked, "csrf-off")) is not is_flask


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_no_session_stays_behind(name: str, tmp_path: Path) -> None:
    """A session that a request of ours began is ended again."""
    looked_at(tmp_path, framework(name))
    with closing(sqlite3.connect(tmp_path / "sessions.sqlite3")) as file:
        (count,) = file.execute("SELECT count(*) FROM session").fetchone()
    assert count == 0


def _fix(looked: Any, name: str) -> str:
    return next(each["fix"] for each in judged(looked)[0] if each["name"] == name)


# --- keys -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "expected"), [(ENOUGH, []), ("k3y" * 10, ["key-weak"]), ("k" * 40, ["key-weak"]), ("a7" * 20, ["key-weak"])]
)
def test_a_weak_key(key: str, expected: list[str], tmp_path: Path) -> None:
    """A key is weak that is short, or has hardly any different characters."""
    assert found(looked_at(tmp_path, asgi(), key=key)) == expected


def test_an_old_key_that_is_weak(tmp_path: Path) -> None:
    """A key that only verifies counts too: it signs for whoever guesses it."""
    options = WITHOUT_FAULT.replace("secret_key=KEY", "secret_key=[KEY, 'old']")
    assert found(looked_at(tmp_path, asgi(options))) == ["key-weak"]


# --- cookies ----------------------------------------------------------------------------------------------------------


def test_a_cookie_without_secure(tmp_path: Path) -> None:
    """A cookie without `Secure` is found. It cannot have the prefix either."""
    options = "secret_key=KEY, https_only=False, store=STORE"
    assert found(looked_at(tmp_path, asgi(options))) == ["cookie-not-secure", "cookie-no-prefix"]


def test_a_cookie_that_is_secure_where_the_request_is(tmp_path: Path) -> None:
    """With `https_only="auto"` the cookie is `Secure` over HTTPS, and only its prefix is missing."""
    assert found(looked_at(tmp_path, asgi("secret_key=KEY, store=STORE"))) == ["cookie-no-prefix"]


def test_a_cookie_without_the_prefix(tmp_path: Path) -> None:
    """A cookie of another name than `__Host-...` is found."""
    assert found(looked_at(tmp_path, asgi("secret_key=KEY, https_only=True, store=STORE"))) == ["cookie-no-prefix"]


def test_a_card_in_a_header_needs_none_of_this(tmp_path: Path) -> None:
    """With `card_header` there is no cookie to look at, and no cross-site request to refuse."""
    options = "secret_key=KEY, store=STORE, card_header='Authorization'"
    assert found(looked_at(tmp_path, asgi(options, middleware="ADD(app)"))) == []


_STARLETTES = """
from starlette.middleware.sessions import SessionMiddleware as Other
app.add_middleware(Other, secret_key="x" * 32, session_cookie={!r})
"""
_STARSESSIONS = """
from starsessions import InMemoryStore, SessionAutoloadMiddleware, SessionMiddleware as Other
app.add_middleware(SessionAutoloadMiddleware)
app.add_middleware(Other, store=InMemoryStore(), cookie_name={!r})
"""
_ROOMKEYS = "\nADD(app, session_cookie={!r})\n"
_CSRF = "app.add_middleware(CSRFMiddleware)\nADD(app)\n"


@pytest.mark.parametrize("other", [_STARLETTES, _STARSESSIONS, _ROOMKEYS], ids=["starlette", "starsessions", "roomkey"])
def test_two_middlewares_under_one_name(other: str, tmp_path: Path) -> None:
    """Two session middlewares under one cookie name are found, and not under two names."""
    same = looked_at(tmp_path, asgi(middleware=_CSRF + other.format("__Host-session")))
    assert found(same) == ["cookie-name-twice"]
    another = looked_at(tmp_path, asgi(middleware=_CSRF + other.format("__Host-other")))
    assert found(another) == []


_LITESTARS = """
from litestar.middleware.session.server_side import ServerSideSessionConfig
middleware.append(ServerSideSessionConfig(key={!r}).middleware)
app = Litestar([index, change], middleware=middleware)
"""
_LILYAS = """
from lilya.middleware.sessions import SessionMiddleware as Other
middleware.append(DefineMiddleware(Other, secret_key="x" * 32, session_cookie={!r}))
app = Lilya(routes=[Path("/", index), Path("/change", change, methods=["POST"])], middleware=middleware)
"""


@pytest.mark.parametrize(("name", "other"), [("litestar", _LITESTARS), ("lilya", _LILYAS)])
def test_a_framework_s_own_sessions_under_one_name(name: str, other: str, tmp_path: Path) -> None:
    """So are the sessions that Litestar and Lilya have of their own."""
    same = looked_at(tmp_path, framework(name) + other.format("__Host-session"))
    assert "cookie-name-twice" in found(same)  # and what Roomkey logs of it
    assert "cookie-name-twice" not in found(looked_at(tmp_path, framework(name) + other.format("__Host-other")))


_MOUNTED = """
from starlette.applications import Starlette
ONE, OTHER = Starlette(), Starlette()
for each, options in ((ONE, OPTIONS), (OTHER, {{**OPTIONS, {}}})):
    each.add_middleware(CSRFMiddleware)
    each.add_middleware(SessionMiddleware, SessionManager(**options))
app.mount("/one", ONE)
app.mount("/other", OTHER)
"""


def test_two_managers_under_one_name(tmp_path: Path) -> None:
    """Managers of mounted apps are found that take each other's cookie from the browser."""
    rivals = looked_at(tmp_path, asgi(middleware=_MOUNTED.format("'store': 'sqlite:///other.db'")), "/one/", "/other/")
    assert found(rivals) == ["cookie-name-twice"]
    late = _MOUNTED.format("'store': 'sqlite:///other.db'").replace("SessionManager(**options)", "**options")
    assert found(looked_at(tmp_path, asgi(middleware=late), "/one/", "/other/")) == ["cookie-name-twice"]
    apart = _MOUNTED.format("'session_cookie': '__Host-other'")
    assert found(looked_at(tmp_path, asgi(middleware=apart), "/one/", "/other/")) == []


_SETS = """
from fastapi import Response
@app.get("/theme")
def theme(response: Response):
    response.set_cookie("theme", "x" * {})
"""


@pytest.mark.parametrize(("size", "expected"), [(3700, ["cookie-large"]), (300, [])])
def test_a_cookie_near_4_kb(size: int, expected: list[str], tmp_path: Path) -> None:
    """A cookie of any name is found that is near what browsers keep."""
    assert found(looked_at(tmp_path, asgi(more=_SETS.format(size)), "/theme")) == expected


_FILLS = """
@app.get("/fill")
def fill(request: Request):
    import secrets
    request.session["x"] = secrets.token_hex({})
"""


@pytest.mark.parametrize(("size", "expected"), [(2500, ["cookie-large"]), (100, [])])
def test_a_session_in_several_cookies(size: int, expected: list[str], tmp_path: Path) -> None:
    """With `cookie://` a session is found that takes more than one cookie."""
    options = WITHOUT_FAULT.replace("STORE", "'cookie://'")
    assert set(found(looked_at(tmp_path, asgi(options, more=_FILLS.format(size)), "/fill"))) == set(expected)


# --- middleware -------------------------------------------------------------------------------------------------------

_AUTH = """
class AuthMiddleware:
    def __init__(self, app):
        self.app = app
    async def __call__(self, scope, receive, send):
        await self.app(scope, receive, send)
"""


@pytest.mark.parametrize("outer", ["CSRFMiddleware", "AuthMiddleware"])
def test_a_middleware_outside_of_the_sessions(outer: str, tmp_path: Path) -> None:
    """A middleware that needs the session, and is outside of it, is found. Inside it is fine."""
    rest = "" if outer == "CSRFMiddleware" else "app.add_middleware(CSRFMiddleware)\n"
    wrong, right = f"{rest}ADD(app)\napp.add_middleware({outer})", f"{rest}app.add_middleware({outer})\nADD(app)"
    assert found(looked_at(tmp_path, asgi(more=_AUTH, middleware=wrong))) == ["middleware-order"]
    assert found(looked_at(tmp_path, asgi(more=_AUTH, middleware=right))) == []


def test_a_framework_s_own_middleware_outside(tmp_path: Path) -> None:
    """Starlette's AuthenticationMiddleware is known, and one that reads a token from a header is let be."""
    starlettes = """
from starlette.authentication import AuthenticationBackend
from starlette.middleware.authentication import AuthenticationMiddleware
class Backend(AuthenticationBackend):
    async def authenticate(self, conn):
        return None
class JWTAuthMiddleware(AuthMiddleware):
    pass
"""
    wrong = f"{_CSRF}app.add_middleware(AuthenticationMiddleware, backend=Backend())"
    assert found(looked_at(tmp_path, asgi(more=_AUTH + starlettes, middleware=wrong))) == ["middleware-order"]
    header = f"{_CSRF}app.add_middleware(JWTAuthMiddleware)"
    assert found(looked_at(tmp_path, asgi(more=_AUTH + starlettes, middleware=header))) == []


def test_no_request_reaches_the_middleware(tmp_path: Path) -> None:
    """Where the middleware is in a mounted app that no path leads to, the report says what to give."""
    code = asgi(middleware=_MOUNTED.format("'session_cookie': '__Host-other'"))
    gaps = judged(looked_at(tmp_path, code, "/"))[1]
    assert [gap["name"] for gap in gaps] == ["middleware-order", "csrf-off"]
    assert all("--path" in gap["why"] for gap in gaps)


def test_csrf_off(tmp_path: Path) -> None:
    """An app is found that takes requests of other sites. One that changes nothing needs no check."""
    assert found(looked_at(tmp_path, asgi(middleware="ADD(app)"))) == ["csrf-off"]
    reads = framework("starlette", csrf=False).replace(', Route("/change", change, methods=["POST"])', "")
    assert found(looked_at(tmp_path, reads)) == []
    everywhere = asgi(f"{WITHOUT_FAULT}, same_site='none'", middleware="ADD(app)")
    assert "SameSite=None lets all" in _wrong(looked_at(tmp_path, everywhere))
    checks = "from roomkey.csrf import verify_csrf_token\n" + asgi(middleware="ADD(app)")
    findings, gaps = judged(looked_at(tmp_path, checks))
    assert findings == [] and "verify_csrf_token" in gaps[0]["why"]
    # An app that does not show its routes may change something.
    hides = f"{reads}\nasync def RAW(scope, receive, send):\n    pass\napp.mount('/raw', RAW)\n"
    assert found(looked_at(tmp_path, hides)) == ["csrf-off"]


def test_csrf_of_others(tmp_path: Path) -> None:
    """A function that refuses other sites' requests counts, whatever it is."""
    own = """
from fastapi.responses import PlainTextResponse
@app.middleware("http")
async def check(request, go_on):
    if request.method == "POST" and request.headers.get("sec-fetch-site") {}:
        return PlainTextResponse("no", 403)
    return await go_on(request)
"""
    assert found(looked_at(tmp_path, asgi(more=own.format("== 'cross-site'"), middleware="ADD(app)"))) == []
    everybody = judged(looked_at(tmp_path, asgi(more=own.format("!= ''"), middleware="ADD(app)")))
    assert [gap["name"] for gap in everybody[1]] == ["csrf-off"] and everybody[0] == []


_POLLS = """
@app.get("/api/ping")
def ping(request: Request):
    return {}

@app.get("/orders/{{number}}/status")
def of_one(number: int, request: Request):
    return request.session
"""


def test_a_route_that_keeps_sessions_alive(tmp_path: Path) -> None:
    """A route that is named like a poll and uses the session is found. `passive` or `exclude` mends it."""
    uses, passes = _POLLS.format("request.session.get('n')"), _POLLS.format("1")
    assert found(looked_at(tmp_path, asgi(more=uses))) == ["polling-renews"]
    assert found(looked_at(tmp_path, asgi(more=passes))) == []
    for option in ("passive", "exclude"):
        assert found(looked_at(tmp_path, asgi(f"{WITHOUT_FAULT}, {option}=['/api/ping']", more=passes))) == []
    assert found(looked_at(tmp_path, asgi(f"{WITHOUT_FAULT}, vary='always'", more=passes))) == []


@pytest.mark.parametrize("name", ["flask", "quart", "ravyn", "lilya", "litestar", "starlette"])
def test_a_route_that_keeps_sessions_alive_elsewhere(name: str, tmp_path: Path) -> None:
    """Routes, and what they do with the session, are seen in each framework."""
    code = framework(name).replace('"/"', '"/poll"')
    assert found(looked_at(tmp_path, code)) == ["polling-renews"]


def test_what_roomkey_logs(tmp_path: Path) -> None:
    """A mistake that only the log tells of is in the report."""
    own = """
from fastapi import Response
@app.get("/own")
def own(response: Response):
    response.set_cookie("__Host-session", "x")
"""
    looked = looked_at(tmp_path, asgi(more=own), "/own")
    assert found(looked) == ["roomkey-warned"] and "__Host-session" in judged(looked)[0][0]["wrong"]


_FAILS = """
@app.get("/fail")
def fail(request: Request):
    request.session["x"] = object()
"""


def test_a_request_that_fails(tmp_path: Path) -> None:
    """A request that the app answers with an error is in the report, with the class of the exception."""
    looked = looked_at(tmp_path, asgi(more=_FAILS), "/fail")
    assert found(looked) == ["request-fails"] and "SessionDataError" in judged(looked)[0][0]["wrong"]


# --- log-ins ----------------------------------------------------------------------------------------------------------


def test_no_user_key(tmp_path: Path) -> None:
    """`user_key=None` is found."""
    assert found(looked_at(tmp_path, asgi(f"{WITHOUT_FAULT}, user_key=None"))) == ["user-key-none"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"_auth_user_id": "7"}, ["log-in-not-seen"]),
        ({"user": {"sub": "Xcontent1"}}, ["log-in-not-seen"]),
        ({"token": "Xcontent1", "user_id": 7}, []),
        ({"user": None, "cart": ["Xcontent1"]}, []),
    ],
)
def test_a_log_in_that_is_not_seen(content: dict[str, Any], expected: list[str], tmp_path: Path) -> None:
    """Keys of a log-in in a session that is nobody's are found. Nothing of the sessions is shown."""
    _fill(tmp_path, content)
    looked = looked_at(tmp_path, asgi())
    assert found(looked) == expected and "Xcontent1" not in repr(judged(looked))


def test_sealed_sessions_are_not_seen(tmp_path: Path) -> None:
    """With `seal=True` the report says that nobody can see them."""
    _fill(tmp_path, {"user": 7}, seal=True)
    findings, gaps = judged(looked_at(tmp_path, asgi(f"{WITHOUT_FAULT}, seal=True")))
    assert findings == [] and [gap["name"] for gap in gaps] == ["log-in-not-seen"]


def _fill(folder: Path, *contents: dict[str, Any], **options: Any) -> None:
    """Put sessions into the store of an app in this folder."""

    async def put() -> None:
        store = f"sqlite:///{folder}/sessions.sqlite3"
        async with SessionManager(secret_key=ENOUGH, store=store, **options) as manager:
            for content in contents:
                session = await manager.load()
                session.update(content)
                await manager.commit(session)

    asyncio.run(put())


# --- the store --------------------------------------------------------------------------------------------------------


def test_sessions_that_grow(tmp_path: Path) -> None:
    """Sessions above half of `max_bytes` are found, with how many there are and how large the largest is."""
    _fill(tmp_path, {"x": "y" * 600}, {"x": "y" * 100})
    assert found(looked_at(tmp_path, asgi())) == []
    looked = looked_at(tmp_path, asgi(f"{WITHOUT_FAULT}, max_bytes=1000"))
    assert found(looked) == ["sessions-large"] and judged(looked)[0][0]["wrong"].startswith("1 of 2 sessions")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ((), 1),  # nothing is written to a disk
        (("--appendonly", "yes"), 0),
        (("--appendonly", "yes", "--maxmemory-policy", "allkeys-lru"), 1),
        (("--maxmemory-policy", "allkeys-lru"), 2),
    ],
)
def test_a_redis_that_loses_sessions(settings: tuple[str, ...], expected: int, tmp_path: Path) -> None:
    """What RedisStore warns of when it is opened is in the report, with the password left out."""
    with RedisServer(*settings, password="Xpassword1") as server:
        looked = looked_at(tmp_path, asgi(), store=server.url)
    assert found(looked) == ["store-forgets"] * expected and "Xpassword1" not in repr(judged(looked))


def test_a_redis_that_says_no_changes(tmp_path: Path) -> None:
    """Where the account may not use client tracking, near_cache keeps nothing, and the report says why."""
    near = asgi(f"{WITHOUT_FAULT}, near_cache=100")
    with RedisServer("--appendonly", "yes") as server, closing(redis.Redis(port=server.port)) as admin:
        assert found(looked_at(tmp_path, near, store=server.url)) == []
        admin.execute_command("ACL", "SETUSER", "app", "on", ">pw", "~*", "&*", "+@all", "-client")
        looked = looked_at(tmp_path, near, store=f"redis://app:pw@127.0.0.1:{server.port}/0")
    assert "near-not-told" in found(looked)
    assert "refuses CLIENT TRACKING" in repr(judged(looked)) and "pw@" not in repr(judged(looked))


def test_near_cache_where_sessions_are_in_memory(tmp_path: Path) -> None:
    """It changes nothing there, and the report says so."""
    options = "secret_key=KEY, https_only=True, session_cookie='__Host-session', store='memory://', near_cache=100"
    assert found(looked_at(tmp_path, asgi(options))) == ["store-forgets", "near-not-told"]


def test_a_server_that_is_down(tmp_path: Path) -> None:
    """The app starts without its server. The report says that it does not answer."""
    with RedisServer("--appendonly", "yes") as server:
        url = server.url
    assert found(looked_at(tmp_path, asgi(), store=url)) == ["store-silent"]


_AHEAD = f"{WITHOUT_FAULT}, clock=lambda: __import__('time').time() - {{}}"


def test_clocks_apart(tmp_path: Path) -> None:
    """A clock that is more than a second apart from the server's is found, and one that is not is fine."""
    with RedisServer("--appendonly", "yes") as server:
        assert found(looked_at(tmp_path, asgi(_AHEAD.format(90)), store=server.url)) == ["clocks-apart"]
        assert "90.0 seconds ahead" in _wrong(looked_at(tmp_path, asgi(_AHEAD.format(90)), store=server.url))
        assert "90.0 seconds behind" in _wrong(looked_at(tmp_path, asgi(_AHEAD.format(-90)), store=server.url))
        assert found(looked_at(tmp_path, asgi(_AHEAD.format(0)), store=server.url)) == []


def _wrong(looked: Any) -> str:
    return judged(looked)[0][0]["wrong"]


def test_a_table_of_postgresql(tmp_path: Path) -> None:
    """A table that is missing or old is found, though the app does not start. So are clocks apart."""
    with PostgresServer() as server:
        urls = (server.url, f"{server.url.replace('postgresql:', 'sqlalchemy+postgresql+asyncpg:')}?table=other")
        for url in urls:
            looked = looked_at(tmp_path, asgi(), store=url)
            assert found(looked) == ["store-not-ready"] and "roomkey store create" in repr(judged(looked))
            assert server.password not in repr(judged(looked))
        asyncio.run(_create(*urls))
        for url in urls:
            assert found(looked_at(tmp_path, asgi(), store=url)) == []
            assert found(looked_at(tmp_path, asgi(_AHEAD.format(90)), store=url)) == ["clocks-apart"]
        asyncio.run(_run(server.url, "ALTER TABLE roomkey_session DROP COLUMN expires_at"))
        assert found(looked_at(tmp_path, asgi(), store=server.url)) == ["store-not-ready"]


async def _create(url: str, other: str) -> None:
    for store in (PostgresStore(url), SQLAlchemyStore(other)):
        await store.create_table()
        await store.close()


async def _run(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(statement)
    await connection.close()


# --- the page ---------------------------------------------------------------------------------------------------------


def test_every_check_is_in_the_docs() -> None:
    """The table of the page has each check, with what it finds, in this order. No other is there."""
    rows = [line.split("|")[1:3] for line in PAGE.splitlines() if line.startswith("| `")]
    assert [(name.strip(" `"), about.strip()) for name, about in rows] == [
        (check.name, check.about.rstrip(".")) for check in CHECKS.values()
    ]


@pytest.mark.parametrize("name", CHECKS)
def test_the_page_of_a_check_is_there(name: str) -> None:
    """The page that a finding names exists, and has the heading that it leads to."""
    page, _, anchor = CHECKS[name].page.partition("#")
    text = (ROOT / page).read_text()
    anchors = [_anchor(line) for line in text.splitlines() if line.startswith("#")]
    assert not anchor or anchor in anchors


def _anchor(heading: str) -> str:
    words = heading.lstrip("# ").lower()
    return "".join(each for each in words if each.isalnum() or each in " -").replace(" ", "-")
