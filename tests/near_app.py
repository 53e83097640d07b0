"""The app that `test_near_processes.py` runs in processes of their own: it keeps sessions near."""

import json
import os
from urllib.parse import parse_qsl

from roomkey import SessionMiddleware
from roomkey.stores import near
from roomkey.stores.redis import tracking
from tests.loop_clock import HANGS

ahead = 0.0  # seconds that this process's clock was moved


def _later():
    return _elapsed() + ahead


_elapsed = near.elapsed
for module in (near, tracking):
    module.elapsed = _later


async def _pages(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    query = dict(parse_qsl(scope["query_string"].decode()))
    page, session, kept = scope["path"], scope["session"], app.manager.near
    if page == "/login":
        session["user_id"] = query["user"]
    elif page == "/put":
        session[query["key"]] = query["value"]
    elif page == "/logout":
        session.clear()
    elif page == "/revoke":
        await session.sessions.revoke_all(query["user"])
    elif page == "/end-all":
        await app.manager.sessions.end_all()
    elif page == "/ahead":
        global ahead
        ahead += float(query["seconds"])
    answer = {
        "data": session.copy() if page in ("/read", "/admin/read") else None,
        "hits": kept.hits,
        "kept": len(kept),
        "holds": kept.notices.hold(app.manager.config.near_max_age),
    }
    body = json.dumps(answer).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


app = SessionMiddleware(
    _pages,
    secret_key="the key of the processes under test, 32 bytes and more",
    store=os.environ["ROOMKEY_TEST_STORE"],
    store_timeout=float(os.environ.get("ROOMKEY_TEST_TIMEOUT", HANGS)),
    near_cache=1000,
    near_max_age=float(os.environ.get("ROOMKEY_TEST_MAX_AGE", "1")),
    fresh=["/admin/"],
    exclude=["/ahead", "/state"],
)
