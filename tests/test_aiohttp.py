"""aiohttp: `request["session"]` in requests, redirects, streams, files and WebSockets, errors and outages."""

import asyncio
import contextlib
import doctest
import logging

import pytest

aiohttp = pytest.importorskip("aiohttp")

from aiohttp import web  # noqa: E402

import roomkey.aiohttp  # noqa: E402
from roomkey import ConfigurationError, Session, SessionConfig, StoreUnavailable, session_of  # noqa: E402
from roomkey.aiohttp import MANAGER, setup  # noqa: E402
from roomkey.testing import Clock  # noqa: E402
from tests.aiohttp_site import another, client_of, cookie, get, json, make_app  # noqa: E402
from tests.manager.parts import SECRET, WaitingStore  # noqa: E402


@pytest.fixture
def quiet(caplog):
    caplog.set_level(logging.CRITICAL, "roomkey")
    caplog.set_level(logging.CRITICAL, "aiohttp.server")


async def test_the_life_of_a_session():
    """A visit sets no cookie, a write sets one, a log-in changes it, a log-out takes it back and kills its copy."""
    app, _ = make_app()
    async with client_of(app) as client:
        answer = await get(client, "/")
        assert "Set-Cookie" not in answer.headers and answer.headers["Vary"] == "Cookie"
        assert "Vary" not in (await get(client, "/nothing")).headers
        answer = await get(client, "/count")
        assert answer.headers["Cache-Control"] == "no-store"
        first = cookie(client)
        assert (await get(client, "/login/ann")).status == 302
        second = cookie(client)
        assert second != first and await json(client) == {"n": 1, "user_id": "ann"}
        async with another(client, first) as stale:
            assert await json(stale) == {}
        await get(client, "/logout")
        assert cookie(client) is None
        async with another(client, second) as stale:
            assert await json(stale) == {}


async def test_requests_at_once_keep_each_others_changes():
    """Twenty write a key each, and count."""
    app, _ = make_app(WaitingStore())
    arrived, gate = [], asyncio.Event()

    async def together(request):
        request["session"]["seen"] = True
        arrived.append(request)
        if len(arrived) == 20:
            gate.set()
        await gate.wait()
        request["session"][request.match_info["key"]] = 1
        return web.Response(text=str(request["session"].change("n", lambda n: n + 1, default=0)))

    app.router.add_get("/together/{key}", together)
    async with client_of(app) as client:
        await get(client, "/login/ann")
        await asyncio.gather(*(get(client, f"/together/{number}") for number in range(20)))
        written = {str(number): 1 for number in range(20)}
        assert await json(client) == {"user_id": "ann", "seen": True, "n": 20} | written


async def test_a_log_out_is_final():
    """A request that was running brings the session back no more."""
    app, manager = make_app()
    reached, gate = asyncio.Event(), asyncio.Event()

    async def slow(request):
        before = request["session"]["user_id"]
        reached.set()
        await gate.wait()
        request["session"]["late"] = before
        return web.Response()

    app.router.add_get("/slow", slow)
    async with client_of(app) as client:
        await get(client, "/login/ann")
        card = cookie(client)
        async with another(client, card) as tab:
            task = asyncio.ensure_future(get(tab, "/slow"))
            await reached.wait()
            await get(client, "/logout")
            gate.set()
            await task
            assert await json(tab) == {} and await manager.sessions.of("ann") == []


async def test_the_store_opens_and_closes_with_the_app():
    """Before what the app itself starts, and after it has stopped."""
    said = []

    class Saying(WaitingStore):
        async def open(self):
            said.append("opened")

        async def close(self):
            said.append("closed")

    async def own(_):
        said.append("app starts")
        yield
        said.append("app stops")

    app = web.Application()
    app.cleanup_ctx.append(own)
    setup(app, secret_key=SECRET, store=Saying())
    async with client_of(app):
        assert said == ["opened", "app starts"]
    assert said == ["opened", "app starts", "app stops", "closed"]


async def test_what_handlers_get():
    """A `Session`, which `session_of` knows too, and the manager."""
    app, manager = make_app()

    async def look(request):
        assert type(request["session"]) is Session and session_of(request) is request["session"]
        assert request.config_dict[MANAGER] is manager
        return web.Response()

    app.router.add_get("/look", look)
    async with client_of(app) as client:
        answer = await get(client, "/look")
        assert answer.status == 200 and answer.headers["Vary"] == "Cookie"


async def test_without_setup():
    """`session_of` says what to call."""
    app = web.Application()

    async def look(request):
        with pytest.raises(ConfigurationError, match=r"on aiohttp, call roomkey\.aiohttp\.setup"):
            session_of(request)
        return web.Response()

    app.router.add_get("/", look)
    async with client_of(app) as client:
        assert (await get(client, "/")).status == 200


def test_what_is_wrong_is_said_at_the_start():
    """Options, calls that come twice or too late, and what is no app."""
    app, manager = make_app()
    with pytest.raises(ConfigurationError, match="has Roomkey's sessions already"):
        setup(app, manager)
    with pytest.raises(ConfigurationError, match="secret_key"):
        setup(web.Application(), store="memory://")
    with pytest.raises(ConfigurationError, match="a manager or options, not both"):
        setup(web.Application(), manager, max_age=5)
    with pytest.raises(ConfigurationError, match="a config or options, not both"):
        setup(web.Application(), SessionConfig(secret_key=SECRET, store="memory://"), max_age=5)
    with pytest.raises(ConfigurationError, match=r"takes an aiohttp\.web\.Application"):
        setup(manager, app)
    app = web.Application()
    app.freeze()
    with pytest.raises(ConfigurationError, match="the app has started"):
        setup(app, manager)


# --- errors and outages -----------------------------------------------------------------------------------------------


async def test_an_unhandled_error_saves_nothing(quiet):
    """What the app itself answers saves, whatever its status, and also where it is raised."""
    app, _ = make_app()

    async def leave(request):
        request["session"]["left"] = True
        raise {"404": web.HTTPNotFound, "500": web.HTTPInternalServerError}[request.match_info["status"]]

    async def nothing(request):
        request["session"]["nothing"] = True

    async def late(request):
        request["session"]["late"] = True
        raise TimeoutError

    app.router.add_get("/leave/{status}", leave)
    app.router.add_get("/none", nothing)
    app.router.add_get("/late", late)
    async with client_of(app) as client:
        for path, status in (("/fail", 500), ("/none", 500), ("/late", 504)):
            answer = await get(client, path)
            assert answer.status == status and "Set-Cookie" not in answer.headers and await json(client) == {}
        for status in (404, 500):
            async with another(client) as visitor:
                answer = await get(visitor, f"/leave/{status}")
                assert answer.status == status and answer.headers["Cache-Control"] == "no-store"
                assert await json(visitor) == {"left": True}


async def test_a_save_before_an_error(quiet):
    """It stays saved, and the page of the error brings the cookie. What came after it is not saved."""
    app, _ = make_app()

    async def save(request):
        request["session"]["user_id"] = "ann"
        await request["session"].save()
        request["session"]["failed"] = True
        raise ZeroDivisionError

    app.router.add_get("/save", save)
    async with client_of(app) as client:
        assert (await get(client, "/save")).status == 500
        assert await json(client) == {"user_id": "ann"}


async def test_a_value_that_cannot_be_stored(quiet):
    """It is a 500, and the session stays as it was."""
    app, _ = make_app()

    async def bad(request):
        request["session"].update(bad=object(), n=5)
        return web.Response()

    app.router.add_get("/bad", bad)
    async with client_of(app) as client:
        await get(client, "/count")
        assert (await get(client, "/bad")).status == 500 and await json(client) == {"n": 1}


@pytest.mark.parametrize(
    ("operation", "path"),
    [
        ("load", "/"),
        ("load", "/nowhere"),
        ("update", "/count"),
        ("rotate", "/login/ann"),
        ("update", "/stream"),
        ("update", "/group"),
        ("update", "/page"),
        ("update", "/swallowed"),
    ],
)
async def test_a_store_that_is_down_is_a_503(operation, path, quiet):
    """With Retry-After, for loads and saves. A visitor without a cookie is served, and nothing is lost."""

    @web.middleware
    async def page(request, handler):
        try:
            return await handler(request)
        except StoreUnavailable:
            return web.Response(text="a page for every error", status=500)

    store = WaitingStore()
    app, _ = make_app(store, middlewares=[page])

    async def group(request):
        request["session"]["saved"] = True
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(request["session"].save())

    async def save(request):
        request["session"]["saved"] = True
        await request["session"].save()

    async def swallowed(request):
        request["session"]["saved"] = True
        response = web.StreamResponse()
        with contextlib.suppress(StoreUnavailable):
            await response.prepare(request)
        return response  # which has no headers now

    app.router.add_get("/swallowed", swallowed)
    app.router.add_get("/group", group)
    app.router.add_get("/page", save)
    async with client_of(app) as client:
        await get(client, "/count")
        store.failing.add(operation)
        answer = await get(client, path)
        assert answer.status == 503 and int(answer.headers["Retry-After"]) > 0
        assert answer.headers["Cache-Control"] == "no-store" and "Set-Cookie" not in answer.headers
        assert await answer.text() == "The session store is unavailable; try again in a moment.\n"
        async with another(client) as visitor:
            assert (await get(visitor, "/")).status == 200
        store.failing.clear()
        assert await json(client) == {"n": 1}


@pytest.mark.parametrize("path", ["/", "/count", "/login/ann", "/stream"])
async def test_a_page_of_the_apps_own_for_an_outage(path, quiet, caplog):
    """It says when to try again, whatever it is made of. Where it cannot be made, the plain one goes out."""
    store = WaitingStore()
    kind = "returned"

    async def page(request, error):
        answer = {"text": "sorry", "headers": {"Cache-Control": "public"}}
        if kind == "raised":
            raise web.HTTPServiceUnavailable(**answer)
        return web.Response(**answer, status=503) if kind == "returned" else 1 // 0

    app, _ = make_app(store, error_page=page)
    async with client_of(app) as client:
        await get(client, "/count")
        store.failing = {"load"} if path == "/" else {"update", "rotate"}
        for kind in ("returned", "raised", "broken"):
            answer = await get(client, path)
            assert answer.status == 503 and int(answer.headers["Retry-After"]) > 0
            assert answer.headers["Cache-Control"] == "no-store" and "Set-Cookie" not in answer.headers
            assert ("sorry" in await answer.text()) is (kind != "broken")


async def test_an_error_beside_an_outage_is_logged(quiet, caplog):
    """The answer is the 503, and the log has the other error."""
    app, _ = make_app()

    async def both(request):
        raise ExceptionGroup("both", [StoreUnavailable("down", retry_after=1), ZeroDivisionError("a bug")])

    app.router.add_get("/both", both)
    caplog.set_level(logging.ERROR, "aiohttp.server")
    async with client_of(app) as client:
        assert (await get(client, "/both")).status == 503
    assert "a bug" in caplog.text


async def test_a_slow_store_is_a_503_in_time(quiet):
    """A store that does not answer is given up after `store_timeout`."""

    class Silent(WaitingStore):
        async def load(self, key):
            await asyncio.sleep(3600)

    app, _ = make_app(Silent(), store_timeout=0.05)
    async with client_of(app) as client:
        await get(client, "/count")
        assert (await get(client, "/")).status == 503


async def test_a_client_that_goes_away_saves_nothing():
    """A handler that is cancelled has failed."""
    app, _ = make_app()
    reached, gone = asyncio.Event(), asyncio.Event()

    async def wait(request):
        request["session"]["waited"] = True
        reached.set()
        try:
            await asyncio.Event().wait()
        finally:
            gone.set()

    app.router.add_get("/wait", wait)
    async with client_of(app) as client:
        await get(client, "/count")
        task = asyncio.ensure_future(get(client, "/wait"))
        await reached.wait()
        task.cancel()
        await gone.wait()
        assert await json(client) == {"n": 1}


# --- streams, files and WebSockets ------------------------------------------------------------------------------------


async def test_streams():
    """The cookie goes out with the first chunk, beside the app's own, and what changed since is saved at the end."""
    app, _ = make_app()
    async with client_of(app) as client:
        answer = await get(client, "/stream")
        assert await answer.text() == "ab"
        assert [value.partition("=")[0] for value in answer.headers.getall("Set-Cookie")] == ["other", "session"]
        assert answer.headers["Cache-Control"] == "no-store" and answer.headers["Vary"] == "Cookie"
        assert await json(client) == {"began": True, "streams": 1}


async def test_a_stream_that_fails(quiet):
    """What changed after its start is not saved, and the response is cut off."""
    app, _ = make_app()
    store = WaitingStore()
    down, _ = make_app(store)

    async def fail(request):
        response = web.StreamResponse()
        request["session"]["began"] = True
        await response.prepare(request)
        await response.write(b"a")
        request["session"]["more"] = True
        raise {"error": ZeroDivisionError, "raised": web.HTTPNotFound}[request.match_info["kind"]]

    app.router.add_get("/fail/{kind}", fail)
    async with client_of(app) as client:
        for kind in ("error", "raised"):
            with pytest.raises(aiohttp.ClientError):
                await get(client, f"/fail/{kind}")
            assert await json(client) in ({}, {"began": True})

    async def outage(request):
        response = await begin(request)
        store.failing.add("update")
        request["session"]["more"] = True
        return response

    async def begin(request):
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"a")
        return response

    down.router.add_get("/outage", outage)
    async with client_of(down) as client:
        await get(client, "/count")
        with pytest.raises(aiohttp.ClientError):
            await get(client, "/outage")
        store.failing.clear()
        assert await json(client) == {"n": 1}


async def test_what_comes_too_late_is_said_once(caplog):
    """A visitor's session cannot begin once the response has started. The log names the route."""
    app, _ = make_app()

    async def late(request):
        response = web.StreamResponse()
        await response.prepare(request)
        request["session"]["late"] = True
        return response

    app.router.add_get("/late/{which}", late)
    async with client_of(app) as client:
        assert (await get(client, "/late/1")).status == (await get(client, "/late/2")).status == 200
        assert await json(client) == {}
    assert caplog.text.count("the route /late/{which} put something") == 1


async def test_a_body_that_is_a_generator(quiet):
    """What it changes is saved at its end, unless it fails, and by its own `save()`."""
    app, _ = make_app()

    async def pieces(session, kind):
        yield b"a"
        session["saved"] = kind
        await session.save()
        yield b"b"
        session["end"] = kind
        if kind == "bad":
            raise ZeroDivisionError

    async def body(request):
        return web.Response(body=pieces(request["session"], request.match_info["kind"]))

    app.router.add_get("/body/{kind}", body)
    async with client_of(app) as client:
        await get(client, "/count")
        answer = await get(client, "/body/good")
        assert await answer.text() == "ab"
        assert await json(client) == {"n": 1, "saved": "good", "end": "good"}
        with pytest.raises(aiohttp.ClientError):
            await get(client, "/body/bad")
        assert await json(client) == {"n": 1, "saved": "bad", "end": "good"}


async def test_files(tmp_path):
    """A file response has the cookie, and says what it depends on, also where aiohttp writes its own `Vary`."""
    app, _ = make_app()
    (tmp_path / "page.txt").write_text("hello")
    (tmp_path / "page.txt.gz").write_bytes(b"not really")

    async def file(request):
        request["session"].setdefault("files", 1)
        return web.FileResponse(tmp_path / "page.txt")

    app.router.add_get("/file", file)
    app.router.add_static("/static", tmp_path)
    async with client_of(app, auto_decompress=False) as client:
        answer = await get(client, "/file", headers={"Accept-Encoding": "gzip"})
        assert answer.headers["Vary"] == "Accept-Encoding, Cookie" and "Set-Cookie" in answer.headers
        assert answer.headers["Cache-Control"] == "no-store" and answer.headers["Content-Encoding"] == "gzip"
        answer = await get(client, "/file", headers={"Accept-Encoding": "identity"})
        assert await answer.text() == "hello" and answer.headers["Vary"] == "Cookie"
        tag = answer.headers["ETag"]
        unchanged = await get(client, "/file", headers={"Accept-Encoding": "identity", "If-None-Match": tag})
        assert unchanged.status == 304 and unchanged.headers["Vary"] == "Cookie"
        assert "Vary" not in (await get(client, "/static/page.txt", headers={"Accept-Encoding": "identity"})).headers


async def test_websockets():
    """The handshake brings the cookie. Changes are saved by `save()`, and when the handler returns."""
    app, _ = make_app()
    async with client_of(app) as client:
        async with client.ws_connect("/chat") as socket:
            await socket.send_str("hello")
            assert await socket.receive_json() == {"chats": True, "hello": 1}
            assert await json(client) == {"chats": True, "hello": 1}
        while "left" not in await json(client):
            await asyncio.sleep(0)


async def test_a_websocket_without_a_store(quiet):
    """The handshake is a 503. One that is open is closed with 1013 (try again later)."""
    store = WaitingStore()
    app, _ = make_app(store)
    async with client_of(app) as client:
        await get(client, "/count")
        for operation in ("load", "update"):
            store.failing = {operation}
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await client.ws_connect("/chat")
            assert refused.value.status == 503
        store.failing = set()
        async with client.ws_connect("/chat") as socket:
            await socket.send_str("hello")
            await socket.receive_json()
            store.failing = {"update"}
            await socket.send_str("again")
            message = await socket.receive()
            assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1013)


# --- apps in apps, options, other middlewares -------------------------------------------------------------------------


async def test_a_mounted_app_sees_the_session():
    """Also where it was set up itself, with the same cookie."""
    app, _ = make_app()
    plain, own = web.Application(), web.Application()
    setup(own, secret_key=SECRET, store="memory://")

    async def put(request):
        request["session"]["mounted"] = True
        return web.Response()

    for number, inner in enumerate((plain, own)):
        inner.router.add_get("/put", put)
        app.add_subapp(f"/inner{number}", inner)
    async with client_of(app) as client:
        for number in range(2):
            await get(client, "/count")
            answer = await get(client, f"/inner{number}/put")
            assert len(answer.headers.getall("Set-Cookie", [])) <= 1
            assert await json(client) == {"n": 1, "mounted": True}
            await get(client, "/logout")


async def test_a_mounted_app_alone():
    """Only its own routes have a session where only it was set up."""
    app, inner = web.Application(), make_app()[0]
    app.add_subapp("/inner", inner)

    async def outside(request):
        return web.Response(text=str("session" in request))

    app.router.add_get("/", outside)
    async with client_of(app) as client:
        await get(client, "/inner/count")
        assert await json(client, "/inner/") == {"n": 1} and await (await client.get("/")).text() == "False"


async def test_middlewares():
    """Those that the app had before see the session. One that goes before Roomkey's may replace the response."""

    @web.middleware
    async def inner(request, handler):
        request["session"]["inner"] = True
        return await handler(request)

    @web.middleware
    async def outer(request, handler):
        try:
            return await handler(request)
        except web.HTTPFound:
            answer = web.Response(text="moved", headers={"Cache-Control": "public", "Vary": "Accept"})
            answer.set_cookie("other", "1")
            return answer

    app, _ = make_app(middlewares=[inner])
    app.middlewares.insert(0, outer)
    async with client_of(app) as client:
        answer = await get(client, "/login/ann")
        assert answer.headers["Cache-Control"] == "no-store" and answer.headers["Vary"] == "Accept, Cookie"
        assert len(answer.headers.getall("Set-Cookie")) == 2
        assert await json(client) == {"inner": True, "user_id": "ann"}


async def test_excluded_and_passive_paths():
    """`exclude` gives a path no session, and on a `passive` one its use renews nothing."""
    clock = Clock()
    app, _ = make_app(clock=clock, max_age=100, exclude=["/static/"], passive=["/poll"])

    async def excluded(request):
        with pytest.raises(ConfigurationError, match="exclude"):
            request["session"].get("n")
        return web.Response()

    async def poll(request):
        return web.Response(text=str(request["session"].get("n")))

    app.router.add_get("/static/{name}", excluded)
    app.router.add_get("/poll", poll)
    async with client_of(app) as client:
        await get(client, "/count")
        assert (await get(client, "/static/a")).status == 200
        for _ in range(3):
            clock.advance(30)
            assert await (await client.get("/poll")).text() == "1"
        clock.advance(30)
        assert await (await client.get("/poll")).text() == "None"


async def test_the_apps_own_cookie_is_not_undone(caplog):
    """A renewal gives way to `del_cookie`, and the log says so once."""
    clock = Clock()
    app, _ = make_app(clock=clock, max_age=100)

    async def forget(request):
        response = web.Response(text=str(request["session"].get("n")))
        response.del_cookie("session")
        return response

    app.router.add_get("/forget", forget)
    async with client_of(app) as client:
        await get(client, "/count")
        clock.advance(60)
        answer = await get(client, "/forget")
        assert len(answer.headers.getall("Set-Cookie")) == 1 and cookie(client) is None
    assert caplog.text.count("(said once)") == 1


async def test_https_only(caplog):
    """Over plain HTTP the cookie is never sent back: the log says so once, but not behind a proxy for HTTPS."""
    app, _ = make_app(https_only=True)
    async with client_of(app) as client:
        for _ in range(2):
            assert "Secure" in (await get(client, "/count")).headers["Set-Cookie"]
    assert caplog.text.count("a session began over plain HTTP") == 1
    caplog.clear()
    app, _ = make_app(https_only=True)
    async with client_of(app) as client:
        await get(client, "/count", headers={"X-Forwarded-Proto": "https"})
    assert caplog.text == ""


async def test_the_scheme_that_a_middleware_tells():
    """Before Roomkey's, it makes the cookie `Secure` by itself. Over plain HTTP the cookie is not."""

    @web.middleware
    async def proxied(request, handler):
        scheme = request.headers.get("X-Scheme", request.scheme)
        return await handler(request.clone(scheme=scheme))

    app, _ = make_app()
    app.middlewares.insert(0, proxied)
    async with client_of(app) as client:
        assert "Secure" not in (await get(client, "/count")).headers["Set-Cookie"]
        await get(client, "/logout")
        assert "Secure" in (await get(client, "/count", headers={"X-Scheme": "https"})).headers["Set-Cookie"]


async def test_where_a_session_was_used():
    """With `record_client`, the list of devices has the browser and the address."""
    app, manager = make_app(record_client=True)
    async with client_of(app) as client:
        await get(client, "/login/ann", headers={"User-Agent": "a browser"})
    (device,) = await manager.sessions.of("ann")
    assert (device.user_agent, device.ip) == ("a browser", "127.0.0.1")


async def test_a_card_in_a_header(tmp_path):
    """With `card_header` the card goes out in a header, and a file response varies by that header too."""
    app, _ = make_app(card_header="Authorization")
    (tmp_path / "page.txt").write_text("hello")
    (tmp_path / "page.txt.gz").write_bytes(b"not really")

    async def file(request):
        request["session"].setdefault("files", 1)
        return web.FileResponse(tmp_path / "page.txt")

    app.router.add_get("/file", file)
    async with client_of(app, auto_decompress=False) as client:
        answer = await get(client, "/file", headers={"Accept-Encoding": "gzip"})
        assert answer.headers["Vary"] == "Accept-Encoding, Authorization" and "Set-Cookie" not in answer.headers
        card = answer.headers["Session-Card"]
        async with client.get("/", headers={"Authorization": f"Bearer {card}"}) as answer:
            assert await answer.json() == {"files": 1}


def test_the_example_in_the_docstring_runs():
    """It gives what it shows."""
    ran = doctest.testmod(roomkey.aiohttp)
    assert ran.attempted and not ran.failed
