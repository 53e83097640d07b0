"""The story's site on aiohttp."""

from aiohttp import web

from roomkey import SessionConfig
from roomkey import aiohttp as roomkey_aiohttp
from tests import sites


async def slow(request):
    session = request["session"]
    user = session["user_id"]
    await sites.reach(request.match_info["name"])
    session["late"] = user
    return web.json_response(sites.seen(session))


async def act(request):
    return web.json_response(sites.act(request["session"], **request.match_info))


def make_app(arguments):
    """Make the app, for `python -m aiohttp.web`."""
    app = web.Application()
    roomkey_aiohttp.setup(app, SessionConfig.from_env())
    app.add_routes([web.get("/slow/{name}", slow), web.get("/{deed}/{name}", act)])
    return app
