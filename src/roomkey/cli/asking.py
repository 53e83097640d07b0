"""Requests to an app that runs in this process, and what they came through."""

from __future__ import annotations

import asyncio
import contextlib
import io
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any
from urllib.parse import unquote, urlsplit
from wsgiref.util import setup_testing_defaults

from roomkey.cli.checks.looked import Answer
from roomkey.cli.layers import layer_of
from roomkey.cli.projects import is_request, used
from roomkey.core.session import Session
from roomkey.errors import ConfigurationError

__all__ = ["Asked", "ask", "ask_wsgi"]

_PATIENCE = 10.0  # seconds for one answer
_SESSIONS = ("session", "roomkey.session")  # where the scope or the environ has the request's session


class Asked:
    """A request that is to be made.

    Args:
        method: of HTTP.
        path: with its query.
        headers: beside `Host`.
        scheme: under which the app is to take it.
        host: to which it is made.
    """

    def __init__(
        self,
        method: str,
        path: str,
        headers: dict[str, str] | None = None,
        *,
        scheme: str = "https",
        host: str = "localhost",
    ) -> None:
        self.method: str = method
        self.scheme: str = scheme
        self.host: str = host
        self.target: str = path
        before, _, query = path.partition("?")
        self.path: str = before
        self.query: str = query
        usual = {"host": host, "accept": "text/html, */*", "user-agent": "roomkey doctor"}
        self.headers: dict[str, str] = {**usual, **(headers or {})}

    @property
    def server(self) -> tuple[str, int]:
        """Host and port."""
        parts = urlsplit(f"{self.scheme}://{self.host}")
        return parts.hostname or "localhost", parts.port or (443 if self.scheme == "https" else 80)


async def ask(app: Any, asked: Asked, state: dict[str, Any]) -> Answer:
    """Make a request to an ASGI app.

    Args:
        app: it runs.
        asked: the request.
        state: what the start of the app left.
    """
    start: dict[str, Any] = {}
    sent, over = False, asyncio.Event()

    async def receive() -> dict[str, Any]:
        nonlocal sent
        if sent:
            await over.wait()
            return {"type": "http.disconnect"}
        sent = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            start.update(message)
        elif message["type"] == "http.response.body" and not message.get("more_body"):
            over.set()

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": asked.method,
        "scheme": asked.scheme,
        "path": unquote(asked.path),
        "raw_path": asked.path.encode(),
        "query_string": asked.query.encode(),
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in asked.headers.items()],
        "client": ("127.0.0.1", 0),
        "server": asked.server,
        "state": dict(state),
    }
    error = ""
    with _traced(scope) as trace:
        try:
            async with asyncio.timeout(_PATIENCE):
                await app(scope, receive, send)
        except Exception as raised:  # of the app's own code
            error = type(raised).__name__
    headers = tuple(
        (name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in start.get("headers", ())
    )
    status = start.get("status", 500 if error and error != "TimeoutError" else 0)
    return Answer(asked.method, asked.target, status, headers, trace.layers(), trace.used_session(), error)


def ask_wsgi(app: Any, asked: Asked) -> Answer:
    """Make a request to a WSGI app."""
    environ: dict[str, Any] = {
        "REQUEST_METHOD": asked.method,
        "PATH_INFO": unquote(asked.path),
        "QUERY_STRING": asked.query,
        "SERVER_NAME": asked.server[0],
        "SERVER_PORT": str(asked.server[1]),
        "REMOTE_ADDR": "127.0.0.1",
        "wsgi.url_scheme": asked.scheme,
        "wsgi.input": io.BytesIO(),
    }
    environ |= {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in asked.headers.items()}
    setup_testing_defaults(environ)
    said: list[tuple[str, list[tuple[str, str]]]] = []

    def start_response(status: str, headers: list[tuple[str, str]], _: Any = None) -> None:
        said.append((status, headers))

    error = ""
    with _traced(environ) as trace:
        try:
            chunks = app(environ, start_response)
            for _ in zip(chunks, range(1000), strict=False):
                pass
            getattr(chunks, "close", lambda: None)()
        except Exception as raised:  # of the app's own code
            error = type(raised).__name__
    status, headers = said[-1] if said else ("500", [])
    pairs = tuple((name.lower(), value) for name, value in headers)
    return Answer(asked.method, asked.target, int(status[:3]), pairs, trace.layers(), trace.used_session(), error)


class _Trace:
    """The parts of an app that were called with a request, whatever its framework is."""

    def __init__(self, scope: dict[str, Any]) -> None:
        self._parts: list[object] = []
        self._seen: set[int] = set()
        self._scopes: list[Any] = [scope]
        self._requests: list[Any] = []  # Django's

    def note(self, frame: FrameType, event: str, _: object) -> None:
        """Note a call, as `sys.setprofile` tells it.

        It is `__call__(self, scope, receive, send)` or its kin of WSGI, or `__call__(self, request)` of Django.
        """
        code = frame.f_code
        if event != "call" or code.co_name != "__call__" or not 2 <= code.co_argcount <= 4:
            return
        there = frame.f_locals
        part, scope = there.get(code.co_varnames[0]), there.get(code.co_varnames[1])
        if code.co_argcount == 2:
            request: Any = scope
            if not is_request(request):
                return
            self._requests.append(request)
            scope = request.META
        if not isinstance(scope, dict) or not (scope.get("type") == "http" or "wsgi.version" in scope):
            return
        if id(part) not in self._seen:  # a coroutine that goes on is told again
            self._seen.add(id(part))
            self._parts.append(part)  # which keeps it, and its `id` with it
            self._scopes.append(scope)

    def layers(self) -> Any:
        return tuple(map(layer_of, self._parts))

    def used_session(self) -> bool:
        """Whether the app asked for what its session holds."""
        found = [scope.get(name) for scope in self._scopes for name in _SESSIONS]
        if any(map(used, self._requests)):
            return True
        for session in found:
            if not issubclass(type(session), Session):  # `isinstance` asks a proxy of another library's
                continue
            with contextlib.suppress(ConfigurationError):  # of a path that has none
                if session.accessed:
                    return True
        return False


@contextlib.contextmanager
def _traced(scope: dict[str, Any]) -> Iterator[_Trace]:
    trace, before = _Trace(scope), sys.getprofile()
    sys.setprofile(trace.note)
    try:
        yield trace
    finally:
        sys.setprofile(before)
