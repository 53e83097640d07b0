"""SessionMiddleware: gives each request of an ASGI app its session."""

from __future__ import annotations

from collections.abc import Callable
from typing import Unpack

from roomkey.config import SessionConfig, SessionOptions
from roomkey.core.secure import HTTPS
from roomkey.core.session import Session
from roomkey.errors import ConfigurationError, StoreUnavailable
from roomkey.manager import SessionManager
from roomkey.web.asgi import App, Message, Receive, Scope, Send
from roomkey.web.error_pages import ErrorPage, ErrorPages
from roomkey.web.frameworks import is_answer, missing_module
from roomkey.web.managers import manager_around
from roomkey.web.plain_http import PlainHTTP
from roomkey.web.response import FirstResponse, HeaderResponse, Response, VaryingResponse, with_pages
from roomkey.web.unavailable import send_unavailable, tells_more, unavailable_headers
from roomkey.wire.card_header import UNCHECKED

__all__ = ["SessionMiddleware"]

_FIRST = 1000  # requests that are looked at more closely
_KINDS = frozenset({"http", "websocket"})
_LIFESPAN_ENDS = ("lifespan.shutdown.complete", "lifespan.shutdown.failed", "lifespan.startup.failed")

_UNCHECKED = (
    "CSRFMiddleware let a request pass unchecked, because a SessionMiddleware with card_header around it served the "
    "request; but this SessionMiddleware, further in, serves a cookie. Other sites' pages can make requests with it. "
    "Put a CSRFMiddleware inside of this one, if there is none, and let the outer one exempt its path (exempt_paths)"
)


def _session_in(scope: Scope) -> object:
    return scope.get("session")


class SessionMiddleware:
    """Gives every HTTP request and WebSocket of an ASGI app its session, as `scope["session"]`.

    Args:
        app: the ASGI app to wrap.
        config: the configuration, or a `SessionManager` that others use too; or give the options of a configuration by
            keyword, under the names of `SessionConfig`.
        error_page: makes the page of a 503, where the store is down. It is a function, asynchronous or not, of the
            scope and the `StoreUnavailable`. It returns an ASGI app, such as a framework's response, or None for the
            plain answer. Without it, the app's own exception handler for `StoreUnavailable` is asked.

    Raises:
        ConfigurationError: an option is wrong, unknown or missing, or both a config and options were given.
    """

    def __init__(
        self,
        app: App,
        config: SessionConfig | SessionManager | None = None,
        *,
        error_page: ErrorPage | None = None,
        **options: Unpack[SessionOptions],
    ) -> None:
        self.app: App = app
        self._live_app: App | None = None  # the same, where what is open ends with its session
        self.manager: SessionManager = manager_around(app, config, options)
        self.config: SessionConfig = self.manager.config
        if self.manager.live is not None:
            from roomkey.web.live import LiveApp  # here, because it needs asyncio, and most apps do without

            # Not as `self.app`: Ravyn sets that again, to the app that it gave.
            self._live_app = LiveApp(app, self.manager.live, _session_in)
        always = self.config.vary == "always"
        pages = self._pages = ErrorPages(error_page)
        self._kind = with_pages(VaryingResponse if always else Response, pages)
        self._first_kind = with_pages(VaryingResponse if always else FirstResponse, pages)
        self._response: Callable[[SessionManager, Session, Scope, Send], Response] = self._watched
        if self.config.card_header is not None:
            self._response = with_pages(HeaderResponse, pages)
        self._seen = 0  # requests, until there is nothing more to watch for
        self._plain_http = PlainHTTP(self.config.session_cookie, self.manager.reporter, self.config.https_only is True)
        module = missing_module(app)
        if module is not None:
            self.manager.reporter.warn_once(
                module,
                "import SessionMiddleware from %s: without that, request.session does not count as use of the session, "
                "and request.set_session and request.clear_session change nothing",
                module,
            )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind, manager = scope["type"], self.manager
        if kind == "lifespan":
            await self.lifespan(self.app, scope, receive, send)
            return
        if "session" in scope or kind not in _KINDS:
            # Where an outer middleware serves this cookie, a mounted app sees the one session.
            if kind not in _KINDS or manager.is_own(scope["session"]):
                await self.app(scope, receive, send)
                return
            if UNCHECKED in scope and self.config.card_header is None:
                self.manager.reporter.warn_once("unchecked", _UNCHECKED)
            scope = {**scope}  # what another middleware put there stays its own: it may write it into its cookie
        try:
            answer = manager.begin(scope["headers"], scope)
            session = answer if isinstance(answer, Session) else await answer
        except StoreUnavailable as error:
            await send_unavailable(scope, send, unavailable_headers(error), self._pages, error)
            return
        session._sent, session._is_https = scope["headers"], scope.get("scheme") in HTTPS
        scope["session"] = session
        response = self._response(manager, session, scope, send)
        try:
            await (self._live_app or self.app)(scope, receive, response.send)
        except Exception as error:
            unavailable = StoreUnavailable.within(error)  # from what the handler itself asked of the session
            if unavailable is not None:
                if response.has_started:
                    raise
                await response.replace(unavailable)
                if tells_more(error):
                    raise  # for the log: the 503 is out
                return
            if kind != "http" or not is_answer(error):
                raise
            answered = await response.answer(error)
            if answered is None:
                return
            if answered is error:
                raise
            raise answered.with_traceback(error.__traceback__) from error.__cause__
        if scope.get("session") is not session or not session._is_quiet():
            await response.finish()
        if session._transaction is not None:
            manager.let_go(session)

    def _watched(self, manager: SessionManager, session: Session, scope: Scope, send: Send) -> Response:
        """Return the response of a request, as long as there are mistakes to watch for that only the log can tell."""
        self._seen += 1
        self._pages.app = scope.get("app")  # before an app that is mounted below it puts itself there
        if not self._plain_http.is_known:
            send = self._plain_http.watched(scope, send)
        elif self._seen > _FIRST:
            self._response = self._kind  # from now on it costs nothing
        return (self._first_kind if self._seen <= _FIRST else self._kind)(manager, session, scope, send)

    async def lifespan(self, app: App, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the lifespan protocol around `app`: the store opens before it starts and closes after it has ended."""
        manager = self.manager
        messages = [await receive()]
        try:
            await manager.__aenter__()
        except ConfigurationError as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            raise  # servers have heard; test clients wait for this
        is_open = True

        async def receive_again() -> Message:
            return messages.pop() if messages else await receive()

        async def close() -> None:
            nonlocal is_open
            if is_open:
                is_open = False
                await manager.__aexit__(None, None, None)

        async def send_after_close(message: Message) -> None:
            # A server that hears "complete" may end the process: be done before.
            if message["type"] in _LIFESPAN_ENDS:
                await close()
            await send(message)

        try:
            await app(scope, receive_again, send_after_close)
        finally:
            await close()
