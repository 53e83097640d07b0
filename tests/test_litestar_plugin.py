"""Litestar with `RoomkeyPlugin`: handlers, WebSockets and streams, what a route may say, errors and outages."""

import asyncio
import dataclasses
import datetime as dt
from typing import Annotated, Any

import attrs
import httpx
import msgspec
import pydantic
import pytest
from litestar import Litestar, Request, Router, asgi, get, post
from litestar.di import Provide
from litestar.dto import DataclassDTO
from litestar.handlers import websocket_listener
from litestar.params import Dependency
from litestar.static_files import create_static_files_router
from litestar.testing import RequestFactory
from litestar.types import Empty, Receive, Scope, Send

from roomkey import ConfigurationError, Session
from tests.litestar_site import STORY, browser, log_in, plugin, public

# --- the story of a user ----------------------------------------------------------------------------------------------


def test_a_visitor_who_looks_gets_no_cookie():
    """To read the session begins none; a page that uses it is no page for everybody, and one that does not is."""
    with browser(*STORY) as client:
        answer = client.get("/")
        assert answer.json() == {} and "set-cookie" not in answer.headers and answer.headers["vary"] == "Cookie"
        assert "vary" not in client.get("/public").headers


def test_a_log_in_changes_the_id_and_a_log_out_is_final():
    """What a visitor has stays with the log-in, under a new ID. After the log-out, a copied cookie opens nothing."""
    with browser(*STORY) as client:
        client.post("/write/a")
        before = client.cookies["session"]
        client.post("/login/7")
        after = client.cookies["session"]
        assert after != before
        assert client.get("/").json() == {"a": 1, "n": 1, "user_id": 7}
        answer = client.post("/logout")
        assert "Max-Age=0" in answer.headers["set-cookie"]
        for cookie in (before, after):
            assert client.get("/", headers={"cookie": f"session={cookie}"}).json() == {}


async def test_requests_at_once_keep_their_changes():
    """20 requests at once each write a key and add one: all keys are there, and the count is 20."""
    roomkey = plugin()
    app = Litestar(STORY, plugins=[roomkey])
    async with app.lifespan():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://site.test") as client:
            await client.post("/login/7")
            await asyncio.gather(*(client.post(f"/write/k{number}") for number in range(20)))
            content = (await client.get("/")).json()
    assert content == {"user_id": 7, "n": 20} | {f"k{number}": 1 for number in range(20)}


async def test_a_log_out_is_final_against_a_slow_request():
    """A request that was running while the user logged out brings nothing back."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    @post("/slow")
    async def slow(session: Session) -> None:
        session["late"] = 1
        begun.set()
        await go_on.wait()

    app = Litestar([*STORY, slow], plugins=[plugin()])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://site.test") as client:
        await client.post("/login/7")
        copied = {"cookie": f"session={client.cookies['session']}"}
        late = asyncio.create_task(client.post("/slow", headers=copied))
        await begun.wait()
        await client.post("/logout")
        go_on.set()
        assert "set-cookie" not in (await late).headers
        assert (await client.get("/", headers=copied)).json() == {}


# --- the dependency ---------------------------------------------------------------------------------------------------


async def nested(session: Session) -> int:
    return session.change("seen", lambda n: n + 1, default=0)


@get("/async", dependencies={"seen": Provide(nested)})
async def in_async(request: Request, session: Session, seen: int) -> bool:
    return session is request.session and session["seen"] == seen


@get("/thread", sync_to_thread=True)
def in_a_thread(request: Request, session: Session) -> bool:
    session["thread"] = True
    return session is request.session


@get("/def", sync_to_thread=False)
def in_a_def(request: Request, session: Session | None) -> bool:
    return session is request.session


@get("/any")
async def as_any(
    request: Request, session: Any, again: Annotated[dict[str, Any], Dependency(skip_validation=True)]
) -> bool:
    return session is again is request.session


async def under_another_name(session: Session) -> Session:
    return session


def test_the_session_is_an_argument_of_handlers_and_dependencies():
    """`session: Session` is `request.session`, in `async def`, in `def`, in a thread and in dependencies."""
    with browser(
        in_async, in_a_thread, in_a_def, as_any, dependencies={"again": Provide(under_another_name)}
    ) as client:
        for path in ("/async", "/thread", "/def", "/any"):
            assert client.get(path).json() is True, path
        assert client.get_session_data() == {"seen": 1, "thread": True}


def test_the_argument_is_no_parameter_of_the_request():
    """The OpenAPI document has the session neither as a query parameter nor in a body, with a DTO or without."""

    @dataclasses.dataclass
    class Item:
        name: str

    @post("/items", dto=DataclassDTO[Item])
    async def items(data: Item, session: Session, page: int = 1) -> Item:
        session["item"] = data.name
        return data

    client = browser(items, in_async)
    with client:
        operation = client.app.openapi_schema.to_schema()["paths"]["/items"]["post"]
        assert [parameter["name"] for parameter in operation["parameters"]] == ["page"]
        assert "Session" not in str(operation)
        assert "parameters" not in client.app.openapi_schema.to_schema()["paths"]["/async"]["get"]
        assert client.post("/items?session=1", json={"name": "tea"}).json() == {"name": "tea"}
        assert client.get_session_data() == {"item": "tea"}


@pytest.mark.parametrize("kind", [dict, dict[str, Any], msgspec.defstruct("Visit", [("n", int)]), None | dict])
@pytest.mark.parametrize("where", ["handler", "dependency", "listener"])
def test_a_type_that_would_copy_the_session_is_refused(kind, where):
    """Litestar copies a dict into the type of an argument. What the handler changes would be lost: the app says so."""

    async def argument(session: kind) -> int:
        return 1

    if where == "handler":

        @get("/")
        async def handler(session: kind) -> None: ...

    elif where == "dependency":

        @get("/", dependencies={"one": Provide(argument)})
        async def handler(one: int) -> None: ...

    else:

        @websocket_listener("/")
        async def handler(data: str, session: kind) -> None: ...

    with pytest.raises(
        ConfigurationError, match=r"the route /: the argument 'session' is a .*annotate it as roomkey\.Session"
    ):
        Litestar([handler], plugins=[plugin()])


def test_a_dependency_of_the_apps_own_keeps_its_name():
    """Where the app or a route has another dependency called session, that is the argument."""

    @get("/route", dependencies={"session": Provide(lambda: "the route's", sync_to_thread=False)})
    async def route(session: str) -> str:
        return session

    @get("/app")
    async def of_the_app(session: dict[str, str]) -> dict[str, str]:
        return session

    own = Provide(lambda: {"whose": "the app's"}, sync_to_thread=False)
    with browser(route) as client:
        assert client.get("/route").text == "the route's"
    with browser(route, of_the_app, dependencies={"session": own}) as client:
        assert client.get("/app").json() == {"whose": "the app's"}


def test_the_argument_may_have_another_name():
    """`dependency_key` names the argument; with None there is none, and `session` is a query parameter again."""

    @get("/visit")
    async def visit(visit: Session, session: str) -> str:
        visit["n"] = 1
        return session

    @get("/query")
    async def query(session: str) -> str:
        return session

    with browser(visit, roomkey=plugin(dependency_key="visit")) as client:
        assert client.get("/visit?session=a").text == "a"
        assert client.get_session_data() == {"n": 1}
    with browser(query, roomkey=plugin(dependency_key=None)) as client:
        assert client.get("/query?session=a").text == "a"


# --- what a request offers --------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Line:
    name: str
    since: dt.date


@dataclasses.dataclass
class DataclassVisit:
    user_id: int
    lines: list[Line]
    tags: frozenset[str]


class StructVisit(msgspec.Struct, rename="camel"):
    user_id: int
    lines: list[Line]
    tags: frozenset[str]


class ModelVisit(pydantic.BaseModel):
    user_id: int
    lines: list[Line]
    tags: frozenset[str]


@attrs.define
class AttrsVisit:
    user_id: int
    lines: list[Line]
    tags: frozenset[str]


@pytest.mark.parametrize("kind", [dict, DataclassVisit, StructVisit, ModelVisit, AttrsVisit])
def test_set_session_takes_what_litestar_takes(kind):
    """A dict, or the fields of an object all the way down, replaces the content. Values keep their types."""
    fields = {"user_id": 7, "lines": [Line("tea", dt.date(2026, 1, 2))], "tags": frozenset("a")}
    if kind is dict:
        fields["lines"] = [{"name": "tea", "since": dt.date(2026, 1, 2)}]

    @post("/set")
    async def set_it(request: Request) -> str | None:
        request.set_session(kind(**fields))
        return type(request.session).__name__

    with browser(set_it, *STORY) as client:
        client.post("/write/gone")
        before = client.cookies["session"]
        assert client.post("/set").text == "Session"
        assert client.cookies["session"] != before, "it is a log-in"
        assert client.get_session_data() == {
            "user_id": 7,
            "lines": [{"name": "tea", "since": dt.date(2026, 1, 2)}],
            "tags": frozenset("a"),
        }


@pytest.mark.parametrize("content", [[1], "text", pydantic.RootModel[list[int]]([1]), Line])
def test_set_session_says_what_it_takes(content):
    """Anything else is an error that says what it takes, and the session stays as it was."""

    @post("/set")
    async def set_it(request: Request) -> None:
        request.set_session(content)

    with browser(set_it, *STORY, debug=True) as client:
        client.post("/login/7")
        answer = client.post("/set")
        assert answer.status_code == 500 and "it takes a dict, a dataclass, a Struct" in answer.text
        assert client.get("/").json() == {"user_id": 7}


@pytest.mark.parametrize("nothing", ["clear_session", None, Empty, {}])
def test_each_way_to_log_out(nothing):
    """`clear_session` and `set_session` of nothing end the session: a copied cookie opens nothing."""

    @post("/out")
    async def out(request: Request) -> bool:
        if nothing == "clear_session":
            request.clear_session()
        else:
            request.set_session(nothing)
        return True

    with browser(out, *STORY) as client:
        client.post("/login/7")
        copied = client.cookies["session"]
        answer = client.post("/out")
        assert answer.json() is True and "Max-Age=0" in answer.headers["set-cookie"]
        assert client.get("/", headers={"cookie": f"session={copied}"}).json() == {}


def test_get_session_id_gives_the_public_name():
    """It is the handle, of no use as a credential; None as long as nothing is saved. The cookie's ID stays secret."""

    @get("/id")
    async def name(request: Request, session: Session) -> dict[str, Any]:
        return {"id": request.get_session_id(), "handle": session.handle}

    with browser(name, *STORY) as client:
        assert client.get("/id").json() == {"id": None, "handle": ""}
        client.post("/login/7")
        answer = client.get("/id").json()
        assert answer["id"] == answer["handle"] != ""
        assert answer["id"] not in client.cookies["session"]
        assert client.get("/", headers={"cookie": f"session={answer['id']}"}).json() == {}


def test_requests_without_roomkey_are_as_before():
    """A request of Litestar's own sessions, or of none, gives what it gave before the module was imported."""
    request = RequestFactory().get("/", session={"n": 1})
    assert request.session == {"n": 1} and request.get_session_id() is None
    request.set_session(Line("tea", dt.date(2026, 1, 2)))
    assert isinstance(request.session, Line)


# --- routes without a session -----------------------------------------------------------------------------------------


def test_excluded_paths_have_no_session():
    """A path in `exclude` loads nothing, be the store up or down. To use the session there names the option."""

    @get(["/health", "/static/a"], sync_to_thread=False)
    def health() -> str:
        return "well"

    @get("/static/uses")
    async def uses(session: Session) -> int:
        return len(session)

    roomkey = plugin(exclude=["/health", "/static/"])
    with browser(health, uses, *STORY, roomkey=roomkey, debug=True) as client:
        client.post("/login/7")
        roomkey.manager.config.store.down = True
        for path in ("/health", "/static/a"):
            answer = client.get(path)
            assert answer.text == "well" and "vary" not in answer.headers
        assert client.get("/").status_code == 503
        answer = client.get("/static/uses")
        assert answer.status_code == 500 and "exclude: it has '/static/'" in answer.text.replace("&#x27;", "'")


@pytest.mark.parametrize("key", ["skip_session", "no_session"])
def test_routes_may_skip_the_session(key):
    """A route or router with the key in its `opt` has none: nothing is loaded, and `request.session` raises."""

    @get("/skips", opt={key: True})
    async def skips(request: Request) -> bool:
        return "session" in request.scope

    @get("/one")
    async def one(request: Request) -> bool:
        return "session" in request.scope

    @get("/uses", opt={key: True})
    async def uses(session: Session) -> None: ...

    roomkey = plugin(exclude_opt_key=key)
    router = Router("/router", route_handlers=[one], opt={key: True})
    with browser(skips, one, uses, router, *STORY, roomkey=roomkey, debug=True) as client:
        client.post("/login/7")
        assert client.get("/one").json() is True
        roomkey.manager.config.store.down = True
        assert client.get("/skips").json() is client.get("/router/one").json() is False
        answer = client.get("/uses")
        assert answer.status_code == 500 and f"this route has no session: take {key} out" in answer.text


def test_static_files_may_be_excluded(tmp_path):
    """The router of Litestar's static files has the paths that `exclude` names."""
    (tmp_path / "logo.svg").write_text("<svg/>")
    files = create_static_files_router("/static", [tmp_path])
    roomkey = plugin(exclude=["/static/"])
    with browser(files, public, log_in, roomkey=roomkey) as client:
        client.post("/login/7")
        roomkey.manager.config.store.down = True
        assert client.get("/static/logo.svg").text == "<svg/>"
        assert client.get("/public").status_code == 503


def test_a_mounted_app_has_the_session():
    """An ASGI app that is mounted gets the session in its scope, unless the mount skips it."""

    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        body = str("session" in scope and scope["session"].get("user_id")).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    mounts = [
        asgi("/mount", is_mount=True, copy_scope=True)(inner),
        asgi("/bare", is_mount=True, copy_scope=True, opt={"skip_session": True})(inner),
    ]
    with browser(*mounts, *STORY) as client:
        client.post("/login/7")
        assert client.get("/mount/a").text == "7"
        assert client.get("/bare/a").text == "False"
