"""WebSockets and streams that end with their session: what stands between a `SessionMiddleware` and its app.

The client of a WebSocket gets a close, and the body of a stream ends. The app hears that its client has gone, as it
does where that is so: from `receive`, or from a `send` that raises. No task is cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from roomkey.core.live import Follower, Live, Why
from roomkey.core.session import Session
from roomkey.web.asgi import App, Message, Receive, Scope, Send

__all__ = ["CLOSE_CODE", "GOODBYE", "REASON", "LiveApp"]

CLOSE_CODE, REASON = 4401, "session ended"  # RFC 6455 section 7.4.2: 4000 to 4999 are for apps
GOODBYE = 1.0  # seconds for an app that says it itself
_PATIENCE = 5.0  # seconds that a client may take to answer a close


class _Gone(OSError):
    """What servers raise where the client has gone."""


class LiveApp:
    """An app whose WebSockets and streams end with their session.

    Args:
        app: the app.
        live: hears of the ends.
        session_in: returns the session of a scope. It is asked when the response starts.
    """

    def __init__(self, app: App, live: Live, session_in: Callable[[Scope], object]) -> None:
        self.app = app
        self._live, self._session_in = live, session_in

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        connection = _Connection(self._live, self._session_in, scope, receive, send)
        try:
            await self.app(scope, connection.receive, connection.send)
        finally:
            await connection.leave()


class _Connection(Follower):
    """One WebSocket or one response. It follows the session itself, so that no other object does."""

    __slots__ = (
        "_closing",
        "_has_ended",
        "_is_followed",
        "_is_over",
        "_live",
        "_receive",
        "_receiving",
        "_scope",
        "_send",
        "_session_in",
        "_woken",
    )

    def __init__(
        self, live: Live, session_in: Callable[[Scope], object], scope: Scope, receive: Receive, send: Send
    ) -> None:
        self._live, self._session_in, self._scope, self._receive, self._send = live, session_in, scope, receive, send
        self._is_followed = False
        self._has_ended = False  # whether the app itself has closed it
        self._is_over = False  # whether nothing of the app's goes out any more
        # Tasks that wait for what the client sends, and those that were cancelled here, to wake them. Tuples, because
        # there are many connections, and hardly ever two such tasks.
        self._receiving: tuple[asyncio.Task[object], ...] = ()
        self._woken: tuple[asyncio.Task[object], ...] = ()
        self._closing: asyncio.Task[None] | None = None

    # --- what the app gets ----------------------------------------------------------------------------------------

    async def receive(self) -> Message:
        """What the app gets as its `receive`."""
        if self._is_over:
            return self._disconnect()
        task = asyncio.current_task()
        assert task is not None
        before = task.cancelling()
        self._receiving += (task,)
        try:
            return await self._receive()
        except asyncio.CancelledError:
            if task in self._woken and task.uncancel() <= before:
                return self._disconnect()
            raise
        finally:
            self._receiving = tuple(each for each in self._receiving if each is not task)

    async def send(self, message: Message) -> None:
        """What the app gets as its `send`."""
        if self._is_over:
            await asyncio.sleep(0)  # a loop that does nothing but send must not stop the others
            if self._is_websocket or self._spec >= "2.4":
                raise _Gone("the session has ended, and the connection with it")
            return
        kind = message["type"]
        await self._send(message)
        if not self._is_followed:
            if kind == "websocket.accept" or (kind == "http.response.start" and _is_stream(message)):
                self._follow()
        elif kind == "websocket.close" or (kind == "http.response.body" and not message.get("more_body", False)):
            self._has_ended = True
            self._live.leave(self)

    # --- what becomes of it ---------------------------------------------------------------------------------------

    @property
    def _is_websocket(self) -> bool:
        kind: str = self._scope["type"]
        return kind == "websocket"

    @property
    def _spec(self) -> str:
        version: str = self._scope.get("asgi", {}).get("spec_version", "2.0")
        return version

    def _disconnect(self) -> Message:
        if self._is_websocket:
            return {"type": "websocket.disconnect", "code": CLOSE_CODE, "reason": REASON}
        return {"type": "http.disconnect"}

    def _follow(self) -> None:
        session = self._session_in(self._scope)
        if isinstance(session, Session):
            self._is_followed = True
            self._live.follow(self, session)

    def end(self, why: Why, speaks: bool) -> None:
        """The session has ended. See `Follower`."""
        self._closing = asyncio.get_running_loop().create_task(self._close(GOODBYE if speaks else 0.0))

    async def _close(self, after: float) -> None:
        await asyncio.sleep(after)
        self._is_over = True
        message: Message = {"type": "http.response.body", "body": b"", "more_body": False}
        if self._is_websocket:
            message = {"type": "websocket.close", "code": CLOSE_CODE, "reason": REASON}
        sending = asyncio.ensure_future(self._send(message))
        await asyncio.sleep(0)  # it is on its way before the app hears of it
        self._woken = self._receiving
        for task in self._woken:
            task.cancel()
        with contextlib.suppress(Exception):  # the client has gone meanwhile
            async with asyncio.timeout(_PATIENCE):
                await sending

    async def leave(self) -> None:
        """Let go of the connection: the app has returned."""
        if self._is_followed:
            self._live.leave(self)
        closing = self._closing
        if closing is None:
            return
        if not self._is_over:  # the app has said goodbye itself
            closing.cancel()
            if self._has_ended:
                return
            closing = asyncio.ensure_future(self._close(0.0))
        await asyncio.wait({closing})


def _is_stream(message: Message) -> bool:
    """Whether a response has no length: one that has cannot end early."""
    return all(name.lower() != b"content-length" for name, _ in message.get("headers", ()))
