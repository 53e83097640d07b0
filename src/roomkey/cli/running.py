"""An app that runs without a server: its lifespan is open, as long as the block lasts."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator
from typing import Any

from roomkey.errors import ConfigurationError

__all__ = ["Running", "is_wsgi", "running"]

_PATIENCE = 30.0  # seconds that an app may take to start, and to stop


class Running:
    """What there is of an app that was started."""

    error: Exception | None = None  # why it did not start; None: it did, or it has no lifespan

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}  # what its start leaves for the requests


def is_wsgi(app: Any) -> bool:
    """Whether an app speaks WSGI: Flask's, or a function of `environ` and `start_response`."""
    if hasattr(app, "asgi_app"):  # Quart's, which is Flask's otherwise
        return False
    call = app if inspect.isroutine(app) else getattr(app, "__call__", None)  # noqa: B004  # its signature is asked for
    try:
        parameters = inspect.signature(call).parameters if callable(call) else {}
    except (TypeError, ValueError):
        return False
    return len(parameters) == 2


@contextlib.asynccontextmanager
async def running(app: Any) -> AsyncIterator[Running]:
    """Start an ASGI app, and stop it after the block. A WSGI app has no start.

    Yields:
        What the start left. Its `error` says why the app did not start.
    """
    run = Running()
    if is_wsgi(app):
        yield run
        return
    answered, stops = asyncio.Event(), asyncio.Event()
    sent: list[str] = []

    async def receive() -> dict[str, str]:
        if sent:
            await stops.wait()
            return {"type": "lifespan.shutdown"}
        return {"type": "lifespan.startup"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message["type"])
        answered.set()

    scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": run.state}
    task = asyncio.ensure_future(_ended(app, scope, receive, send))
    waiting = asyncio.ensure_future(answered.wait())
    done, _ = await asyncio.wait({task, waiting}, timeout=_PATIENCE, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if not done:
        run.error = TimeoutError(f"its start takes longer than {_PATIENCE:.0f} seconds")
    elif "lifespan.startup.failed" in sent:
        await asyncio.wait({task}, timeout=_PATIENCE)
        # A framework may tell the server only, and end without an exception.
        run.error = (task.result() if task.done() else None) or RuntimeError("it says that its start failed")
    elif task.done() and isinstance(task.result(), ConfigurationError):
        run.error = task.result()  # of the middleware that its start makes
    try:
        yield run
    finally:
        stops.set()
        if run.error is None:
            await asyncio.wait({task}, timeout=_PATIENCE)
        task.cancel()
        await asyncio.wait({task})


async def _ended(app: Any, *args: Any) -> Exception | None:
    """Run the lifespan to its end. Returns what it raised: an app without a lifespan raises what it likes."""
    try:
        await app(*args)
    except Exception as error:
        return error
    return None
