"""An aiohttp app that is mounted in another one, each with a session cookie of its own: neither touches the other's."""

import pytest

aiohttp = pytest.importorskip("aiohttp")

from aiohttp import web  # noqa: E402

from roomkey.aiohttp import setup  # noqa: E402
from tests.aiohttp_site import client_of  # noqa: E402

SECRET = "a secret that is long enough for every test here"


def site():
    """Return an app whose middleware logs in before the handler and notes something after it, and both managers."""

    @web.middleware
    async def notes(request, handler):
        request["session"]["user_id"] = 1
        answer = await handler(request)
        request["session"]["after"] = True
        return answer

    async def plain(request):
        request["session"]["inner"] = True
        return web.Response()

    async def stream(request):
        request["session"]["inner"] = True
        answer = web.StreamResponse()
        await answer.prepare(request)
        await answer.write_eof()
        return answer

    async def fails(request):
        request["session"]["inner"] = True
        raise web.HTTPNotFound

    app, inner = web.Application(middlewares=[notes]), web.Application()
    for handler in (plain, stream, fails):
        inner.router.add_get(f"/{handler.__name__}", handler)
    managers = [
        setup(each, secret_key=SECRET, store="memory://", session_cookie=name)
        for each, name in ((app, "outer"), (inner, "inner"))
    ]
    app.add_subapp("/inner", inner)
    return app, managers


@pytest.mark.parametrize("path", ["plain", "stream", "fails"])
async def test_each_app_keeps_its_session(path):
    """Both cookies go out, and a middleware of the outer app has its own session again once the handler is done."""
    app, managers = site()
    async with client_of(app) as client:
        answer = await client.get(f"/inner/{path}")
        cookies = {name: morsel.value for name, morsel in answer.cookies.items()}
        assert sorted(cookies) == ["inner", "outer"]
        header = "; ".join(f"{name}={value}" for name, value in cookies.items())
        outer, inner = [(await manager.load(header)).copy() for manager in managers]
    assert outer == {"user_id": 1} | ({} if path == "fails" else {"after": True})
    assert inner == {"inner": True}
