"""The pages, mounted in each framework as its users would."""

import httpx
import pytest

from roomkey import SessionManager, SessionMiddleware, session_of
from roomkey.pages import Activity, DevicesPage, OperatorsPage
from tests.pages.parts import DEVICES, OPERATORS, Browser, text_of


def pages_of(made):
    devices = DevicesPage(made, log_in_url="/login?next={next}")
    return devices, OperatorsPage(made, allow=lambda scope: "user_id" in scope["session"])


def manager():
    return SessionManager(secret_key="k" * 43, store="memory://", record_client=True)


def starlette_app():
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse

    async def login(request):
        session_of(request)["user_id"] = request.query_params["user"]
        return PlainTextResponse("in")

    app, made = Starlette(), manager()
    devices, operators = pages_of(made)
    app.add_route("/login", login, methods=["POST"])
    app.mount("/account/devices", devices)
    app.mount("/operators", operators)
    app.add_middleware(SessionMiddleware, config=made)
    return app


def fastapi_app():
    from fastapi import FastAPI, Request

    app, made = FastAPI(), manager()

    @app.post("/login")
    async def login(request: Request, user: str) -> str:
        session_of(request)["user_id"] = user
        return "in"

    devices, operators = pages_of(made)
    app.mount("/account/devices", devices)
    app.mount("/operators", operators)
    app.add_middleware(SessionMiddleware, config=made)
    return app


def lilya_app():
    from lilya.apps import Lilya
    from lilya.middleware import DefineMiddleware
    from lilya.routing import Include, Path

    import roomkey.lilya  # noqa: F401

    async def login(request):
        session_of(request)["user_id"] = request.query_params["user"]

    made = manager()
    devices, operators = pages_of(made)
    return Lilya(
        routes=[
            Path("/login", login, methods=["POST"]),
            Include("/account/devices", app=devices),
            Include("/operators", app=operators),
        ],
        middleware=[DefineMiddleware(SessionMiddleware, config=made)],
    )


def ravyn_app():
    from ravyn import Gateway, Include, Ravyn, Request, post

    from roomkey.ravyn import SessionConfig

    @post("/login", status_code=200)
    async def login(request: Request) -> None:
        request.session["user_id"] = request.query_params["user"]

    config = SessionConfig(secret_key="k" * 43, store="memory://", record_client=True, on_event=Activity())
    devices, operators = pages_of(config)
    return Ravyn(
        routes=[
            Gateway(handler=login),
            Include("/account/devices", app=devices),
            Include("/operators", app=operators),
        ],
        session_config=config,
    )


def litestar_app():
    from litestar import Litestar, Request, asgi, post
    from litestar.middleware import DefineMiddleware

    from roomkey.litestar import SessionMiddleware as Sessions

    @post("/login", status_code=200)
    async def login(request: Request, user: str) -> None:
        request.session["user_id"] = user

    made = manager()
    devices, operators = pages_of(made)
    return Litestar(
        [
            login,
            asgi("/account/devices", is_mount=True, copy_scope=True)(devices),
            asgi("/operators", is_mount=True, copy_scope=True)(operators),
        ],
        middleware=[DefineMiddleware(Sessions, config=made)],
        openapi_config=None,
    )


APPS = [starlette_app, fastapi_app, lilya_app, ravyn_app, litestar_app]


@pytest.fixture(params=APPS, ids=lambda make: make.__name__.removesuffix("_app"))
def app(request):
    pytest.importorskip(request.param.__name__.removesuffix("_app"))
    return request.param()


def browser_of(app, agent, root_path=""):
    transport = httpx.ASGITransport(app, root_path=root_path)
    return Browser(transport=transport, base_url="http://shop", headers={"user-agent": agent}, follow_redirects=True)


async def test_a_device_is_ended(app):
    """The list shows both devices, the form ends one, and the redirect leads to the page again."""
    phone, computer = browser_of(app, "Phone/1"), browser_of(app, "Computer/1")
    await phone.log_in("7")
    await computer.log_in("7")
    for address in (DEVICES, DEVICES.rstrip("/")):
        page = await computer.get(address)
        assert page.status_code == 200 and "Phone 1" in text_of(page) and "Computer 1 This device" in text_of(page)
    ended = await computer.press(page, "end")
    assert "The session has ended." in text_of(ended) and "Phone 1" not in text_of(ended)
    assert (await phone.get(DEVICES)).status_code == 401
    assert (await computer.get(DEVICES + "x.png")).status_code == 404
    assert (await computer.get(DEVICES)).headers["cache-control"] == "no-store"


async def test_an_operator_looks_and_ends(app):
    """The counts are those of the app's events, and a user's sessions are found and ended."""
    user, operator = browser_of(app, "Phone/1"), browser_of(app, "Computer/1")
    await user.log_in("7")
    await operator.log_in("1")
    page = await operator.get(OPERATORS, params={"user": "7"})
    assert "<dt>Log-ins</dt><dd>2</dd>" in page.text and "<dt>Live sessions</dt><dd>2</dd>" in page.text
    ended = await operator.press(page, "all")
    assert "Sessions ended: 1" in text_of(ended) and "Sessions of 7" in text_of(ended)
    assert (await user.get(DEVICES)).status_code == 401
    assert (await user.get(OPERATORS)).status_code == 404


PATHS = [("", ""), ("/shop", ""), ("/shop", "/shop")]  # `root_path`, and what the server leaves of it in `path`


@pytest.mark.parametrize(("root_path", "before"), PATHS)
async def test_the_way_back_from_the_log_in(app, root_path, before):
    """The link of a visitor's page names the page as the browser has it, whatever mounts and servers do to the path."""
    answer = await browser_of(app, "Phone/1", root_path).get(f"{before}{DEVICES}")
    assert answer.status_code == 401
    assert f'href="/login?next={root_path}{DEVICES}"' in answer.text


def quart_app():
    """Quart, beside a page that hypercorn's dispatcher mounts: the session is loaded again, by the same manager."""
    from hypercorn.middleware import DispatcherMiddleware
    from quart import Quart, request, session

    from roomkey.quart import Roomkey

    quart = Quart("shop")
    quart.config["SECRET_KEY"] = "k" * 43
    made = Roomkey(quart, store="memory://", record_client=True).manager

    @quart.post("/login")
    async def login():
        session["user_id"] = request.args["user"]
        return "in"

    return DispatcherMiddleware({"/account/devices": SessionMiddleware(DevicesPage(made), made), "/": quart})


async def test_beside_quart():
    """A page in a SessionMiddleware with the manager of another adaptor works on that adaptor's sessions."""
    pytest.importorskip("quart")
    site = quart_app()
    phone, computer = browser_of(site, "Phone/1"), browser_of(site, "Computer/1")
    await phone.log_in("7")
    await computer.log_in("7")
    ended = await computer.press(await computer.get(DEVICES), "end")
    assert "The session has ended." in text_of(ended) and "Phone 1" not in text_of(ended)
    assert (await phone.get(DEVICES)).status_code == 401


async def test_a_dispatcher_waits_for_its_lifespan():
    """A page says that it has started and that it has stopped, as every app that a dispatcher mounts must."""
    messages, sent = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}], []

    async def receive():
        return messages.pop(0)

    await DevicesPage(manager())({"type": "lifespan"}, receive, noting(sent))
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def noting(sent):
    async def send(message):
        sent.append(message["type"])

    return send
