"""The app that `test_processes.py` runs under several uvicorn workers: all work on one store."""

import asyncio
import json
import os
from urllib.parse import parse_qsl

from roomkey import SessionMiddleware
from roomkey.stores.sqlite import worker
from tests.loop_clock import HANGS

LIMIT = 20  # sessions of one user
worker._PATIENCE = HANGS  # on a busy machine whoever holds SQLite's lock takes its time


async def _pages(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    query = dict(parse_qsl(scope["query_string"].decode()))
    page = scope["path"]
    status = 200
    if page == "/who":
        await asyncio.sleep(0.05)
    else:
        session = scope["session"]
        if page == "/login":
            session["user_id"] = query["user"]
        elif page != "/read" and not session:
            status = 401
        elif page == "/put":
            await asyncio.sleep(float(query.get("wait", "0")))
            while "until" in query and not os.path.exists(query["until"]):
                await asyncio.sleep(0.01)
            session[query["key"]] = query["value"]
        elif page == "/count":
            session.change("count", lambda number: number + 1, 0)
        elif page == "/logout":
            session.clear()
    data = scope["session"].copy() if page == "/read" else None
    body = json.dumps({"pid": os.getpid(), "data": data}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


app = SessionMiddleware(
    _pages,
    secret_key="the key of the processes under test, 32 bytes and more",
    store=os.environ.get("ROOMKEY_TEST_STORE", "memory://"),
    store_timeout=HANGS,
    max_sessions_per_user=LIMIT,
)
