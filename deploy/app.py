"""The app that `compose.yaml` and `kubernetes/` run: log in, count, log out. Its options come from the environment.

The metrics are served on a port of their own, which no proxy and no Ingress leads to.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from prometheus_client import start_http_server

from roomkey.fastapi import CurrentSession, SessionConfig, SessionMiddleware
from roomkey.prometheus import session_metrics

config = SessionConfig.from_env(on_event=session_metrics(), exclude=["/health"])


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    server, thread = start_http_server(int(os.environ.get("METRICS_PORT", "9000")))
    yield
    server.shutdown()
    server.server_close()
    thread.join()


app = FastAPI(title="Shop", lifespan=lifespan)
app.add_middleware(SessionMiddleware, config=config)


@app.get("/health")
async def health() -> dict[str, str]:
    """For probes. It does not ask the store: to restart or to leave out every process would end no outage of it."""
    return {"status": "up"}


@app.post("/login")
async def login(session: CurrentSession) -> dict[str, str]:
    session["user_id"] = "ada"  # an app of yours asks for a password
    return {"user": "ada"}


@app.get("/")
async def count(session: CurrentSession) -> dict[str, object]:
    session.change("visits", lambda visits: visits + 1, default=0)
    return {"user": session.get("user_id"), "visits": session["visits"]}


@app.post("/logout")
async def logout(session: CurrentSession) -> dict[str, str]:
    session.clear()
    return {"logged": "out"}
