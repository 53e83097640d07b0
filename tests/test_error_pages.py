"""An app's own pages in the place of the 503 of an outage and of the 403 of `CSRFMiddleware`."""

import asyncio

import pytest
from fastapi import FastAPI
from lilya.apps import Lilya
from lilya.middleware import DefineMiddleware as LilyaMiddleware
from lilya.responses import PlainText as LilyaText
from lilya.routing import Path
from litestar import Litestar, Request, Response, get, post
from litestar.middleware import DefineMiddleware
from litestar.testing import TestClient as LitestarClient
from ravyn import Gateway, Ravyn
from ravyn import get as ravyn_get
from ravyn import post as ravyn_post
from ravyn.testclient import RavynTestClient
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from roomkey import SessionConfig, StoreUnavailable, session_of
from roomkey.csrf import CSRFError, CSRFMiddleware
from roomkey.lilya import SessionMiddleware
from roomkey.litestar import SessionMiddleware as LitestarSessionMiddleware
from roomkey.ravyn import SessionConfig as RavynConfig
from tests.asgi import SECRET, SpyStore, ask, cookie_in, header, http_scope, make, websocket_scope

CROSS_SITE = {"sec-fetch-site": "cross-site"}


def config_of(store, kind=SessionConfig):
    return kind(secret_key=SECRET, store=store, user_key=None)


# --- handlers of the framework's kind ---------------------------------------------------------------------------------


def starlette(store):
    async def unavailable(request, error):
        return JSONResponse({"down": request.url.path, "again": error.retry_after}, 503)

    def forbidden(request, error):  # not asynchronous: it runs in a thread
        return JSONResponse({"no": str(error)}, 403)

    async def save(request):
        session_of(request)["n"] = 1
        if request.url.path == "/early":
            await session_of(request).save()
        return PlainTextResponse("saved")

    routes = [Route(path, save, methods=["GET", "POST"]) for path in ("/", "/early")]
    app = Starlette(routes=routes, exception_handlers={StoreUnavailable: unavailable, CSRFError: forbidden})
    app.add_middleware(CSRFMiddleware)
    app.add_middleware(SessionMiddleware, config=config_of(store))
    return TestClient(app)


def fastapi(store):
    app = FastAPI()
    app.add_middleware(CSRFMiddleware)
    app.add_middleware(SessionMiddleware, config=config_of(store))

    @app.exception_handler(StoreUnavailable)
    async def unavailable(request, error):
        return JSONResponse({"down": request.url.path, "again": error.retry_after}, 503)

    @app.exception_handler(CSRFError)
    async def forbidden(request, error):
        return JSONResponse({"no": str(error)}, 403)

    from starlette.requests import Request as StarletteRequest

    async def save(request: StarletteRequest):
        session_of(request)["n"] = 1
        if request.url.path == "/early":
            await session_of(request).save()
        return "saved"

    for path in ("/", "/early"):
        app.add_api_route(path, save, methods=["GET", "POST"])
    return TestClient(app)


def lilya(store):
    async def unavailable(request, error):
        return JSONResponse({"down": request.url.path, "again": error.retry_after}, 503)

    async def forbidden(request, error):
        return JSONResponse({"no": str(error)}, 403)

    async def save(request):
        session_of(request)["n"] = 1
        if request.url.path == "/early":
            await session_of(request).save()
        return LilyaText("saved")

    app = Lilya(
        routes=[Path(path, save, methods=["GET", "POST"]) for path in ("/", "/early")],
        exception_handlers={StoreUnavailable: unavailable, CSRFError: forbidden},
        middleware=[LilyaMiddleware(SessionMiddleware, config=config_of(store)), LilyaMiddleware(CSRFMiddleware)],
    )
    return TestClient(app)


def ravyn(store):
    from ravyn import Request as RavynRequest

    async def unavailable(request, error):
        return LilyaText(f'{{"down": "{request.url.path}", "again": {error.retry_after}}}', 503)

    async def forbidden(request, error):
        return LilyaText(f'{{"no": "{error}"}}', 403)

    async def save(request: RavynRequest) -> str:
        session_of(request)["n"] = 1
        if request.url.path == "/early":
            await session_of(request).save()
        return "saved"

    async def save_post(request: RavynRequest) -> str:
        return await save(request)

    app = Ravyn(
        routes=[
            *(Gateway(path, handler=ravyn_get()(save)) for path in ("/", "/early")),
            Gateway("/", handler=ravyn_post()(save_post)),
        ],
        session_config=config_of(store, RavynConfig),
        exception_handlers={StoreUnavailable: unavailable, CSRFError: forbidden},
        middleware=[CSRFMiddleware],
    )
    return RavynTestClient(app)


def litestar(store):
    def unavailable(request: Request, error: StoreUnavailable) -> Response:
        return Response({"down": request.url.path, "again": error.retry_after}, status_code=503)

    def forbidden(request: Request, error: CSRFError) -> Response:
        return Response({"no": str(error)}, status_code=403)

    async def save(request: Request) -> str:
        session_of(request)["n"] = 1
        if request.url.path == "/early":
            await session_of(request).save()
        return "saved"

    async def save_post(request: Request) -> str:
        return await save(request)

    app = Litestar(
        [get(["/", "/early"])(save), post("/")(save_post)],
        exception_handlers={StoreUnavailable: unavailable, CSRFError: forbidden},
        middleware=[
            DefineMiddleware(LitestarSessionMiddleware, config=config_of(store)),
            DefineMiddleware(CSRFMiddleware),
        ],
    )
    return LitestarClient(app)


APPS = [starlette, fastapi, lilya, ravyn, litestar]


@pytest.mark.parametrize("app", APPS)
@pytest.mark.parametrize("moment", ["load", "commit", "save"])
def test_a_handler_of_the_framework_answers_an_outage(app, moment):
    """Wherever the outage was met: before the app, when the response starts, or in the handler."""
    store = SpyStore()
    with app(store) as client:
        if moment == "load":
            assert client.get("/").status_code == 200
        store.failing = {"load"} if moment == "load" else {"create"}
        answer = client.get("/early" if moment == "save" else "/")
        assert answer.status_code == 503
        assert answer.json() == {"down": "/early" if moment == "save" else "/", "again": 5}
        assert answer.headers["retry-after"] == "5" and answer.headers["cache-control"] == "no-store"
        store.failing = set()
        assert client.get("/").status_code == 200


@pytest.mark.parametrize("app", APPS)
def test_a_handler_of_the_framework_answers_another_site(app):
    """What the middleware refuses is the app's to explain."""
    with app(SpyStore()) as client:
        answer = client.post("/", headers=CROSS_SITE)
        assert answer.status_code == 403
        assert answer.json() == {"no": "This request was made by another site, and is not allowed."}
        assert answer.headers["cache-control"] == "no-store"


def test_a_handler_for_every_exception_is_not_asked():
    """It makes the page of a 500, and an outage is none."""

    async def broken(request, error):
        return PlainTextResponse("broken", 500)

    store = SpyStore()
    store.failing = {"create"}

    async def save(request):
        session_of(request)["n"] = 1
        return PlainTextResponse("saved")

    app = Starlette(routes=[Route("/", save)], exception_handlers={Exception: broken, 503: broken})
    app.add_middleware(SessionMiddleware, config=config_of(store))
    answer = TestClient(app).get("/")
    assert answer.status_code == 503 and "try again" in answer.text


def test_the_app_that_has_the_middleware_is_asked():
    """An app that is mounted below it need not have the handler."""

    async def unavailable(request, error):
        return PlainTextResponse("the outer app's", 503)

    async def save(request):
        session_of(request)["n"] = 1
        return PlainTextResponse("saved")

    store = SpyStore()
    store.failing = {"create"}
    app = Starlette(
        routes=[Mount("/inner", Starlette(routes=[Route("/", save)]))],
        exception_handlers={StoreUnavailable: unavailable},
    )
    app.add_middleware(SessionMiddleware, config=config_of(store))
    answer = TestClient(app).get("/inner/")
    assert (answer.status_code, answer.text) == (503, "the outer app's")


# --- a function of the scope ------------------------------------------------------------------------------------------


def page(scope, error):
    return JSONResponse({"path": scope["path"], "kind": type(error).__name__}, 503, {"cache-control": "max-age=60"})


async def page_awaited(scope, error):
    await asyncio.sleep(0)
    return page(scope, error)


async def save(scope, send):
    scope["session"]["n"] = 1


@pytest.mark.parametrize("error_page", [page, page_awaited])
@pytest.mark.parametrize("fails", ["load", "create"])
async def test_a_function_of_the_scope(error_page, fails):
    """It makes the page, and caches and clients hear what they have to all the same."""
    store = SpyStore()
    app = make(save, store=store, error_page=error_page)
    card = cookie_in((await ask(app, http_scope()))[0]) if fails == "load" else None
    store.failing = {fails}
    sent = await ask(app, http_scope("/x", card))
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert sent[0]["status"] == 503 and sent[1]["body"] == b'{"path":"/x","kind":"StoreUnavailable"}'
    assert header(sent[0], b"cache-control") == [b"no-store"] and header(sent[0], b"retry-after") == [b"5"]


async def test_its_own_retry_after_stays():
    """A page may know better when to try again."""
    store = SpyStore()
    store.failing = {"create"}
    app = make(save, store=store, error_page=lambda scope, error: PlainTextResponse("", 503, {"Retry-After": "60"}))
    assert header((await ask(app, http_scope()))[0], b"retry-after") == [b"60"]


async def test_the_cookie_of_an_earlier_save_goes_out_with_the_page():
    """Without it, a user who has just logged in would be logged out by what failed later."""
    store = SpyStore()

    async def handler(scope, send):
        scope["session"]["user_id"] = 7
        await scope["session"].save()
        scope["session"]["n"] = 1
        store.failing = {"update"}

    app = make(handler, store=store, error_page=lambda scope, error: PlainTextResponse("", 503, {"Vary": "Accept"}))
    sent = await ask(app, http_scope())
    assert sent[0]["status"] == 503 and cookie_in(sent[0])
    assert header(sent[0], b"vary") == [b"Accept, Cookie"] and header(sent[0], b"cache-control") == [b"no-store"]


async def test_a_page_that_fails(caplog):
    """The plain answer goes out, and the log says why."""
    store = SpyStore()
    store.failing = {"create"}

    def broken(scope, error):
        raise ZeroDivisionError

    sent = await ask(make(save, store=store, error_page=broken), http_scope())
    assert sent[0]["status"] == 503 and b"try again" in sent[1]["body"]
    assert "the page for StoreUnavailable could not be made" in caplog.text and "ZeroDivisionError" in caplog.text


async def test_none_is_the_plain_answer():
    """A function may have a page for some paths only."""
    store = SpyStore()
    store.failing = {"create"}
    sent = await ask(make(save, store=store, error_page=lambda scope, error: None), http_scope())
    assert sent[0]["status"] == 503 and b"try again" in sent[1]["body"]


async def test_a_page_may_be_a_stream():
    """It waits for nothing that the client sends."""
    store = SpyStore()
    store.failing = {"create"}

    async def chunks():
        yield b"one"
        yield b"two"

    app = make(save, store=store, error_page=lambda scope, error: StreamingResponse(chunks(), 503))
    sent = await asyncio.wait_for(ask(app, http_scope()), 5)
    assert b"".join(message.get("body", b"") for message in sent[1:]) == b"onetwo"


async def test_a_websocket_gets_no_page():
    """It is closed, or answered plainly."""
    store = SpyStore()
    store.failing = {"create"}

    async def handler(scope, send):
        scope["session"]["n"] = 1
        await send({"type": "websocket.accept"})

    sent = await ask(make(handler, store=store, error_page=page), websocket_scope())
    assert sent == [{"type": "websocket.close", "code": 1013, "reason": "session store unavailable"}]


async def test_a_function_for_another_site():
    """`CSRFMiddleware` takes one of the same kind."""

    async def app(scope, receive, send):
        raise AssertionError("it is not asked")

    guarded = CSRFMiddleware(app, error_page=lambda scope, error: PlainTextResponse(f"{scope['path']}: {error}", 403))
    scope = http_scope("/pay", method="POST")
    scope["headers"].append((b"sec-fetch-site", b"cross-site"))
    sent = await ask(guarded, scope)
    assert sent[0]["status"] == 403 and sent[1]["body"].startswith(b"/pay: This request was made by another site")
    assert header(sent[0], b"cache-control") == [b"no-store"] and header(sent[0], b"retry-after") == []
