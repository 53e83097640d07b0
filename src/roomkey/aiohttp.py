"""aiohttp: `request["session"]` is a Roomkey session, in requests and WebSockets.

    app = web.Application()
    setup(app, secret_key=os.environ["SECRET_KEY"], store="sqlite:///sessions.sqlite3")

The session is committed when the handler has returned. A response that the handler itself prepares, as streams and
WebSockets do, commits it there, and once more when the handler has returned. The store opens and closes with the app.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, Unpack

try:
    from aiohttp import web
    from aiohttp.payload import AsyncIterablePayload
except ImportError as _error:
    raise ImportError('roomkey.aiohttp needs aiohttp: pip install "roomkey[aiohttp]"') from _error

from roomkey.config import SessionConfig, SessionOptions
from roomkey.core.live import Follower, Why
from roomkey.core.session import Session
from roomkey.errors import ConfigurationError, ResponseStarted, StoreUnavailable
from roomkey.manager import SessionManager
from roomkey.request import Request
from roomkey.web.live import CLOSE_CODE, GOODBYE, REASON
from roomkey.web.managers import manager_of
from roomkey.web.plain_http import PlainHTTP
from roomkey.web.unavailable import CLOSE_REASON, PAGE, TRY_AGAIN_LATER, retry_headers, tells_more

if TYPE_CHECKING:
    from aiohttp.typedefs import Handler

__all__ = ["MANAGER", "setup"]

MANAGER = web.AppKey("roomkey.manager", SessionManager)
"""The session manager of an app, as `request.config_dict[MANAGER]`."""

_log = logging.getLogger("aiohttp.server")  # where aiohttp logs what a handler has raised

_SESSION, _VISIT = "session", "roomkey.visit"  # where a request has its session, and what became of it

ErrorPage = Callable[[web.Request, StoreUnavailable], Awaitable[web.StreamResponse]]
_Pairs = list[tuple[str, str]]


def setup(
    app: web.Application,
    config: SessionConfig | SessionManager | None = None,
    *,
    error_page: ErrorPage | None = None,
    **options: Unpack[SessionOptions],
) -> SessionManager:
    """Give an aiohttp app, and every app that is mounted in it, its sessions. Call it before the app starts.

    Roomkey's middleware goes before those that the app has. A middleware that tells the real scheme or address of a
    client, behind a proxy, has to go before Roomkey's: `app.middlewares.insert(0, ...)` afterwards.

    Args:
        app: the app.
        config: the configuration, or a `SessionManager` that others use too; or give the options of a configuration by
            keyword, under the names of `SessionConfig`.
        error_page: makes the app's own page for an outage, of the request and the `StoreUnavailable`. Its response gets
            `Cache-Control: no-store`, and `Retry-After` where it has none. None: a plain 503 goes out.

    Returns:
        The session manager. `request.config_dict[MANAGER]` has it too.

    Raises:
        ConfigurationError: an option is wrong, unknown or missing, both a config and options were given, or the app has
            started, or has Roomkey's sessions already.

    Example:
        >>> import asyncio
        >>> from aiohttp import web
        >>> from aiohttp.test_utils import TestClient, TestServer
        >>> from roomkey.aiohttp import setup
        >>> async def index(request):
        ...     session = request["session"]
        ...     session["visits"] = session.get("visits", 0) + 1
        ...     return web.Response(text=str(session["visits"]))
        >>> app = web.Application()
        >>> manager = setup(app, secret_key="k" * 32, store="memory://")
        >>> route = app.router.add_get("/", index)
        >>> async def visit():
        ...     async with TestClient(TestServer(app)) as client:
        ...         return [await (await client.get("/")).text() for _ in range(2)]
        >>> asyncio.run(visit())
        ['1', '2']
    """
    _check(app)
    manager = manager_of(config, options)
    # From 3.14, aiohttp warns of keys that are text. "session" is what the handlers of an app know.
    seen: set[str] = getattr(web.BaseRequest, "_seen_str_keys", set())
    seen.update((_SESSION, _VISIT))
    sessions = _Sessions(manager, error_page)
    app[MANAGER] = manager
    app.middlewares.insert(0, sessions.serve)
    app.on_response_prepare.append(sessions.start)
    app.cleanup_ctx.insert(0, sessions.while_serving)
    return manager


def _check(app: object) -> None:
    """Refuse what can be given no sessions. Raises ConfigurationError."""
    if not isinstance(app, web.Application):
        raise ConfigurationError(f"setup: got {type(app).__name__}; it takes an aiohttp.web.Application first")
    if app.frozen:
        raise ConfigurationError("setup: the app has started: call setup(app, ...) before that")
    if MANAGER in app:
        raise ConfigurationError("setup: the app has Roomkey's sessions already; call it once")


class _Open(Follower):
    """A WebSocket or a stream that ends with its session. `begin` is given whether the app says goodbye itself."""

    __slots__ = ("_begin",)

    def __init__(self, begin: Callable[[bool], None]) -> None:
        self._begin = begin

    def end(self, why: Why, speaks: bool) -> None:
        self._begin(speaks)


class _Visit:
    """What became of one request's session.

    Args:
        sessions: it is of these.
        session: of the request.
        outer: that of the same request in an outer app, which has sessions of its own; None: there is none.
    """

    __slots__ = ("follower", "is_streaming", "outage", "outer", "owed", "response", "session", "sessions")

    def __init__(self, sessions: _Sessions, session: Session, outer: _Visit | None) -> None:
        self.sessions, self.session, self.outer = sessions, session, outer
        self.response: web.StreamResponse | None = None  # the one that the session was committed for
        self.owed: _Pairs = []  # what the commit put into its headers
        self.outage: StoreUnavailable | None = None  # which a handler met that prepared its response
        self.is_streaming = False  # whether the handler itself has prepared it
        self.follower: Follower | None = None  # hears of the end of its session; None: nothing does


class _Sessions:
    """The sessions of one app.

    Args:
        manager: loads and commits them.
        error_page: makes the page of a 503; None: a plain one goes out.
    """

    def __init__(self, manager: SessionManager, error_page: ErrorPage | None) -> None:
        self.manager = manager
        self._error_page = error_page
        self._ending: set[asyncio.Task[None]] = set()  # of what is open
        config = manager.config
        self._plain_http = PlainHTTP(config.session_cookie, manager.reporter, config.https_only is True)

    async def while_serving(self, _: web.Application) -> AsyncIterator[None]:
        """Open the store before the app serves, and close it afterwards."""
        async with self.manager:
            yield

    @web.middleware
    async def serve(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Serve a request with its session: the middleware."""
        manager, before = self.manager, request.get(_SESSION)
        if manager.is_own(before):
            return await handler(request)  # where an outer app serves this cookie, a mounted app sees the one session
        try:
            session = await manager.load(_asked(request))
        except StoreUnavailable as error:
            return await self._try_again(request, error)
        visit = _Visit(self, session, request.get(_VISIT))
        request[_SESSION], request[_VISIT] = session, visit
        try:
            response = await handler(request)
            await self._end(request, visit, response)
            return response
        except web.HTTPException as response:
            return await self._raise(request, visit, response)
        except Exception as error:
            return await self._fail(request, visit, error)
        except BaseException:  # the client has gone
            manager.abandon(session)
            raise
        finally:
            if visit.follower is not None and manager.live is not None:
                manager.live.leave(visit.follower)
                visit.follower = None
            if before is not None:  # what the middlewares of an outer app know as the session
                request[_SESSION] = before

    async def _raise(self, request: web.Request, visit: _Visit, response: web.HTTPException) -> web.StreamResponse:
        """Commit for a response that the app has raised, and raise it on."""
        if visit.is_streaming:  # aiohttp has sent another one: this is a mistake
            self.manager.abandon(visit.session)
            raise response
        try:
            await self._end(request, visit, response)
        except Exception as error:
            return await self._fail(request, visit, error)
        raise response

    async def _fail(self, request: web.Request, visit: _Visit, error: Exception) -> web.StreamResponse:
        """Answer for an outage, and raise every other error. `start` still sends the cookie of an early `save()`."""
        self.manager.abandon(visit.session)
        outage = StoreUnavailable.within(error)
        if outage is None:
            raise error
        if visit.is_streaming:
            if not isinstance(visit.response, web.WebSocketResponse):
                raise error  # aiohttp cuts the response off
            await visit.response.close(code=TRY_AGAIN_LATER, message=CLOSE_REASON.encode())
            return visit.response
        if tells_more(error):
            _log.error("Error handling request, beside an outage", exc_info=error)
        return await self._try_again(request, outage)

    async def _end(self, request: web.Request, visit: _Visit, response: object) -> None:
        """Commit what a handler has left, for the response that it returned."""
        if not isinstance(response, web.StreamResponse):  # aiohttp makes a 500 of it
            self.manager.abandon(visit.session)
        elif visit.is_streaming:
            await self._finish(request, visit)
        elif visit.outage is not None and (response.prepared or response.status == 500):
            raise visit.outage  # else the response has no headers, or is a page that the app has for every error
        else:
            own = [("Set-Cookie", cookie.OutputString()) for cookie in response.cookies.values()]
            await self._commit(visit, response, own)
            if isinstance(response, web.Response) and isinstance(response.body, AsyncIterablePayload):
                self._follow(request, visit, response)

    async def _finish(self, request: web.Request, visit: _Visit) -> None:
        """Commit what changed after the response had started."""
        try:
            await self.manager.commit(visit.session, can_set_cookie=False)
        except ResponseStarted:
            if not visit.session.is_new:
                raise
            self._say_too_late(request)

    def _follow(self, request: web.Request, visit: _Visit, response: web.Response) -> None:
        """Have a response whose body is a generator commit once more at its end. It runs after all middlewares."""
        write_eof = response.write_eof

        async def write_and_finish(data: bytes = b"") -> None:
            await write_eof(data)
            await self._finish(request, visit)

        response.write_eof = write_and_finish  # type: ignore[method-assign]

    async def _commit(self, visit: _Visit, response: web.StreamResponse, own: _Pairs) -> None:
        """Commit for a response that has not started, and write what the commit owes into its headers.

        Args:
            visit: of the request.
            response: the response.
            own: its cookies that aiohttp has yet to put into its headers.
        """
        given = [*response.headers.items(), *own]
        headers = await self.manager.commit(visit.session, status=response.status, headers=given, raw=False)
        visit.response = response
        if headers != given:
            visit.owed = [pair for pair in headers if pair not in given]
            for pair in own:
                headers.remove(pair)
            response.headers.clear()
            response.headers.extend(headers)

    async def start(self, request: web.Request, response: web.StreamResponse) -> None:
        """See to the headers of a response that is about to go out: a signal of aiohttp's calls it."""
        visit: _Visit | None = request.get(_VISIT)
        while visit is not None and visit.sessions is not self:
            visit = visit.outer
        if visit is None:
            return
        if visit.response is None:  # the handler itself prepares it, or it is the page of an error
            try:
                await self._commit(visit, response, [])
            except BaseException as error:
                visit.outage = StoreUnavailable.within(error)
                writer: Any = request.writer  # it is in the mode of this response, and another one goes out
                writer.chunked, writer._compress = False, None
                raise
            visit.is_streaming = True
            self._follow_session(request, visit, response)
        else:
            _keep(response, visit.owed, is_other=response is not visit.response)
        self._plain_http.look(request.scheme, request.raw_headers, response.headers.items())

    def _follow_session(self, request: web.Request, visit: _Visit, response: web.StreamResponse) -> None:
        """With `live=True`, end a WebSocket or a stream with its session."""
        live = self.manager.live
        if live is None or (response.content_length is not None and not isinstance(response, web.WebSocketResponse)):
            return

        async def end(after: float) -> None:
            await asyncio.sleep(after)
            if isinstance(response, web.WebSocketResponse):
                await response.close(code=CLOSE_CODE, message=REASON.encode())
            elif visit.follower is not None:  # the handler has not returned yet
                await response.write_eof()
                request.task.cancel()  # as where the client has gone: nothing else tells it

        def begin(speaks: bool) -> None:
            self._ending.add(task := asyncio.get_running_loop().create_task(end(GOODBYE if speaks else 0.0)))
            task.add_done_callback(self._ending.discard)

        visit.follower = _Open(begin)
        live.follow(visit.follower, visit.session)

    async def _try_again(self, request: web.Request, error: StoreUnavailable) -> web.StreamResponse:
        """Return the page of a 503, or raise it where the app does."""
        headers = retry_headers(error)
        if self._error_page is not None:
            try:
                page = await self._error_page(request, error)
                return _with(page, headers)
            except web.HTTPException as raised:
                _with(raised, headers)
                raise
            except Exception:
                _log.exception("The page for an outage could not be made, and a plain one was sent")
        return web.Response(text=PAGE, status=503, headers=headers)

    def _say_too_late(self, request: web.Request) -> None:
        resource = request.match_info.route.resource
        route = resource.canonical if resource is not None else None
        self.manager.reporter.warn_too_late(
            route,
            "a handler" if route is None else f"the route {route}",
            "What a stream or an accepted WebSocket does is too late",
        )


def _asked(request: web.Request) -> Request:
    """Return a request as a session manager takes it."""
    peer = request.get_extra_info("peername")  # a path, for a Unix socket
    port = peer[1] if isinstance(peer, tuple) else 0
    kind = "websocket" if request.headers.get("Upgrade", "").lower() == "websocket" else "http"
    return Request(
        kind=kind,
        scheme=request.scheme,
        path=request.path,
        headers=request.raw_headers,
        client=(request.remote, port) if request.remote else None,
    )


def _with(page: web.StreamResponse, headers: dict[str, str]) -> web.StreamResponse:
    """Have a page of the app's say these headers, and when to try again where it does not say it itself."""
    again = page.headers.get("Retry-After")
    page.headers.update(headers if again is None else headers | {"Retry-After": again})
    return page


def _keep(response: web.StreamResponse, owed: _Pairs, *, is_other: bool) -> None:
    """Have a response say what the commit owed, where aiohttp or the app has dropped it since.

    Args:
        response: it is about to go out. A file puts its own `Vary` in the place of ours.
        owed: what the commit put into the headers.
        is_other: whether an outer middleware made it, in the place of the one that was committed.
    """
    for name, value in owed:
        kind = name.lower()
        if kind == "vary":
            said = [item for item in _items(response.headers.get("Vary", "")) if item]
            if "*" not in said:
                known = {item.lower() for item in said}
                response.headers["Vary"] = ", ".join([*said, *(i for i in _items(value) if i.lower() not in known)])
        elif is_other and kind == "set-cookie":
            response.headers.add(name, value)
        elif is_other:
            response.headers[name] = value


def _items(value: str) -> list[str]:
    return [item.strip() for item in value.split(",")]
