"""Litestar's server-side sessions, in Redis."""

import os
from typing import Any

from litestar import Litestar, Request, get
from litestar.middleware.session.server_side import ServerSideSessionConfig
from litestar.stores.redis import RedisStore

from benchmarks.probes import deeds


@get("/{deed:str}/{name:str}")
async def page(request: Request[Any, Any, Any], deed: str, name: str) -> dict[str, Any]:
    session = request.session
    match deed:
        case "about":
            return {"login": None, "list": None}
        case "slow":
            session.get("user_id")
            await deeds.wait()
            session[name] = 1
        case "enter":
            session["user_id"] = name
        case "logout":
            request.clear_session()
            return {"session": {}}
        case _:
            return deeds.act(session, deed, name)
    return deeds.shown(session)


app = Litestar(
    [page],
    middleware=[ServerSideSessionConfig().middleware],
    stores={"sessions": RedisStore.with_client(url=os.environ["PROBE_REDIS"])},
)
