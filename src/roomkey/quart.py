"""Quart: `quart.session` is a Roomkey session, in requests and WebSockets.

    app.secret_key = os.environ["SECRET_KEY"]
    Roomkey(app, store="sqlite:///sessions.sqlite3")

It is as `roomkey.flask`, but for what is awaited: `await session.save()`. The store opens and closes with the app.
A WebSocket's session is committed when the socket is accepted, and once more when its handler has returned.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack, cast

try:
    import quart
    from quart.sessions import SessionInterface, SessionMixin
    from quart.wrappers.response import IterableBody, ResponseBody
except ImportError as _error:
    raise ImportError('roomkey.quart needs Quart: pip install "roomkey[quart]"') from _error

from werkzeug.datastructures import Headers
from werkzeug.wrappers import Response as WerkzeugResponse

from roomkey.config import OtherOptions
from roomkey.errors import ResponseStarted, StoreUnavailable
from roomkey.manager import SessionManager
from roomkey.pallets import (
    AppInterface,
    FlaskSession,
    NoSession,
    RoomkeyExtension,
    keep_others,
    keep_session,
    of_this_request,
    put_headers,
    refuse_without_session,
    say_too_late,
    session_in,
)
from roomkey.request import Request
from roomkey.web.live import LiveApp
from roomkey.web.unavailable import CLOSE_REASON, TRY_AGAIN_LATER

if TYPE_CHECKING:
    from quart import Quart, Response
    from quart.wrappers import BaseRequestWebsocket, Websocket

    Answer = Response | WerkzeugResponse

__all__ = ["QuartSession", "Roomkey", "session"]

QuartSession = FlaskSession
"""The session of a request. Quart's sessions have Flask's attributes."""

session: QuartSession = cast(QuartSession, quart.session)
"""`quart.session`, as what it is: a type checker then knows `session.change`."""


class Roomkey(RoomkeyExtension):
    """Gives a Quart app Roomkey's sessions.

    Args:
        app: the app, which has its settings already; None: call `init_app`.
        options: as for `roomkey.flask.Roomkey`.

    Raises:
        ConfigurationError: an option or a setting is wrong, or there is no `SECRET_KEY`.

    Example:
        >>> import asyncio
        >>> from quart import Quart, session
        >>> from roomkey.quart import Roomkey
        >>> app = Quart(__name__)
        >>> app.secret_key = "k" * 32
        >>> roomkey = Roomkey(app, store="memory://")
        >>> @app.get("/")
        ... async def index():
        ...     session["visits"] = session.get("visits", 0) + 1
        ...     return str(session["visits"])
        >>> async def visit():
        ...     client = app.test_client()
        ...     return [await (await client.get("/")).get_data(as_text=True) for _ in range(2)]
        >>> asyncio.run(visit())
        ['1', '2']
    """

    def __init__(self, app: Quart | None = None, **options: Unpack[OtherOptions]) -> None:
        super().__init__(options)
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Quart) -> None:
        """Give an app its sessions. Call it once the app has its settings, and before its first request.

        Raises:
            ConfigurationError: as for `Roomkey`, or this is the app's second one.
        """
        interface = _Interface(self._manager_for(app, app.session_interface))
        app.session_interface = interface  # type: ignore[assignment]  # Quart names one class
        for functions in (app.before_request_funcs, app.before_websocket_funcs):
            functions.setdefault(None, []).insert(0, _refuse_without_session)
        app.after_request_funcs.setdefault(None, []).insert(0, _own)  # the first of the app's is called last
        quart.got_request_exception.connect(interface.fail, app)
        quart.got_websocket_exception.connect(interface.fail, app)
        app.while_serving(interface.while_serving)
        live = interface.app.manager.live if interface.app.is_live else None
        if live is not None:
            app.asgi_app = LiveApp(app.asgi_app, live, session_in)  # type: ignore[assignment,arg-type,method-assign]
        self._added(app, interface.try_again)

    @property
    def manager(self) -> SessionManager:
        """The session manager of the current app.

        Raises:
            RuntimeError: there are several apps, and none is current; or `init_app` was not called.
        """
        app: Any = quart.current_app or self._app
        return self._manager_of(app.session_interface if app else None, "async with")


class _Interface(AppInterface, SessionInterface):
    """The sessions of one app."""

    async def while_serving(self) -> AsyncGenerator[None, None]:
        """Open the store before the app serves, and close it afterwards."""
        async with self.app.manager:
            yield

    # --- what Quart asks ------------------------------------------------------------------------------------------

    async def open_session(self, app: Quart, request: BaseRequestWebsocket) -> FlaskSession | NoSession:
        """Load the session of a request. Where the store is down, the first `before_request` function raises."""
        scope = cast("dict[str, Any]", request.scope)
        kind, client = scope["type"], scope.get("client")
        client = (client[0], client[1]) if client else None
        path = request.root_path + request.path
        asked = Request(kind=kind, scheme=scope["scheme"], path=path, headers=scope["headers"], client=client)
        found: FlaskSession | NoSession
        try:
            found = cast(FlaskSession, await self.app.for_request().load(asked))
        except StoreUnavailable as error:
            found = NoSession(error)
        keep_session(scope, found)
        if kind == "websocket" and isinstance(found, FlaskSession):
            self._follow_accept(cast("Websocket", request), found)
        return found

    def _follow_accept(self, websocket: Websocket, session: FlaskSession) -> None:
        """Have a WebSocket commit its session where it is accepted. Quart calls that before each message, too."""
        accept: Callable[[Headers, str | None], Awaitable[None]] = websocket._accept

        async def commit_and_accept(headers: Headers, subprotocol: str | None) -> None:
            if not session._has_started:
                session._settle(self.app)
                given = list(headers.items())
                made = await self.app.manager.commit(session, status=101, headers=given, raw=False)
                self.look_for_https(websocket, made)
                headers = Headers(made)
            await accept(headers, subprotocol)

        websocket._accept = commit_and_accept

    async def save_session(self, app: Quart, session: SessionMixin, response: Answer | None) -> None:
        """Commit the session, and write into the response's headers what it owes. An outage makes a 503 of it.

        Raises:
            StoreUnavailable: in the test client's `session_transaction()`, where there is no response to be a 503.
            ConfigurationError: there too, where the card would be lost.
            SessionDataError: a value cannot be stored, or all of it is too large.
        """
        scope = _scope()
        is_served = self.is_served(scope)  # else the test client's `session_transaction()` is to raise
        if isinstance(session, NoSession):
            if not is_served:
                raise session.error
            return
        assert isinstance(session, FlaskSession)
        outage = self.outage_of(scope)
        if outage is None:
            try:
                await self._commit(session, response)
                if not is_served and response is not None:
                    self.refuse_lost_card(response.headers)
            except StoreUnavailable as error:
                if not is_served:
                    raise
                outage = error
        if outage is not None:
            made = await app.make_response(await app.handle_user_exception(outage))
            self.app.manager.abandon(session)
            if response is not None:
                await _replace(response, made)
                await self._commit(session, response)
        elif isinstance(response, quart.Response) and isinstance(response.response, IterableBody):
            response.response = _Stream(response.response, self, session, _endpoint())

    async def _commit(self, session: FlaskSession, response: Answer | None) -> None:
        if response is None or (session._has_started and _is_websocket()):
            await self.finish(session, _endpoint())
            return
        session._settle(self.app)
        given = list(response.headers)
        status = response.status_code
        headers = await self.app.manager.commit(session, status=status, headers=given, raw=False)
        self.look_for_https(_current(), headers)
        put_headers(response.headers, given, headers)

    async def finish(self, session: FlaskSession, endpoint: str | None) -> None:
        """Commit what changed after the response had started."""
        manager = self.app.manager
        try:
            await manager.commit(session, can_set_cookie=False)
        except ResponseStarted as error:
            say_too_late(manager, session, error, endpoint)

    # --- errors ---------------------------------------------------------------------------------------------------

    async def fail(self, _: Quart, *, exception: BaseException, **__: Any) -> None:
        """Note that nobody has handled an error: its request saves nothing. A signal of Quart's calls it."""
        self.note_failure(_scope(), exception)

    async def try_again(self, error: StoreUnavailable) -> Response:
        """Answer 503, or close a WebSocket that can get no HTTP response.

        It is the error handler of an app that has none of its own for `StoreUnavailable`.
        """
        scope = _scope()
        found = self.abandon_in(scope)
        if _is_websocket():
            is_accepted = found is not None and found._has_started
            if is_accepted or "websocket.http.response" not in (scope.get("extensions") or {}):
                await quart.websocket.close(TRY_AGAIN_LATER, CLOSE_REASON)
        return self.page(quart.current_app.response_class, error)


class _Stream(ResponseBody):
    """The chunks of a streamed response. After the last one, what changed since the start is committed.

    Args:
        body: what the app streams.
        interface: commits the session.
        session: of the request.
        endpoint: the name of the view.
    """

    def __init__(self, body: ResponseBody, interface: _Interface, session: FlaskSession, endpoint: str | None) -> None:
        self._body, self._interface, self._session, self._endpoint = body, interface, session, endpoint
        self._is_over = False

    async def __aenter__(self) -> Self:
        self._chunks = await self._body.__aenter__()
        return self

    async def __aexit__(self, kind: type, error: BaseException, traceback: TracebackType) -> None:
        if not self._is_over:  # it failed, or the client has gone
            self._is_over = True
            self._interface.app.manager.abandon(self._session)
        await self._body.__aexit__(kind, error, traceback)

    async def __aiter__(self) -> AsyncIterator[Any]:
        async for chunk in self._chunks:
            yield chunk
        if not self._is_over:
            self._is_over = True
            await self._interface.finish(self._session, self._endpoint)


async def _refuse_without_session() -> None:
    """Raise the outage of a request whose session could not be loaded, before anything of the app runs."""
    refuse_without_session(_scope())


async def _own(response: Answer) -> Answer:
    return of_this_request(_scope(), response)


async def _replace(response: Answer, made: Answer) -> None:
    """Make one response of another: the caller holds it."""
    keep_others(response.headers, made.headers)
    data = made.get_data() if isinstance(made, WerkzeugResponse) else await made.get_data(as_text=False)
    response.set_data(data)
    response.status_code, response.headers = made.status_code, made.headers


def _current() -> BaseRequestWebsocket:
    """Return the request, or the WebSocket, that is served here."""
    return quart.request if quart.has_request_context() else quart.websocket


def _scope() -> dict[str, Any]:
    return cast("dict[str, Any]", _current().scope)


def _endpoint() -> str | None:
    return _current().endpoint


def _is_websocket() -> bool:
    return not quart.has_request_context()
