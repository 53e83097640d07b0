"""The app's own pages in the place of a middleware's: of an outage's 503, and of the 403 of `roomkey.csrf`.

They come from a function of the scope, which a middleware takes as `error_page`. Without one they come from the app's
own exception handler for the error, where its framework keeps these as Starlette, Lilya, Ravyn and Litestar do.

What the response owes the browser and the caches is not the page's: it is put into its headers. Where making the page
fails, the plain answer goes out, and the log says why.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from roomkey.errors import RoomkeyError
from roomkey.web.asgi import App, Message, Receive, Scope, Send
from roomkey.web.frameworks import request_class_of
from roomkey.wire.cookies import Headers, protect_from_caches, vary_on_cookie

__all__ = ["ErrorPage", "ErrorPages", "with_owed"]

# Takes the scope and the error; returns an ASGI app, which a framework's response is, or None: the plain answer.
# The error is `Any`, because a function may be annotated with the one error of its middleware.
ErrorPage = Callable[[Scope, Any], App | Awaitable[App | None] | None]

_log = logging.getLogger("roomkey")


class ErrorPages:
    """Of one middleware.

    Args:
        page: the function; None: the framework's exception handlers are asked.
    """

    def __init__(self, page: ErrorPage | None = None) -> None:
        self._page = page
        self.app: object = None  # the framework's app that the middleware belongs to; None: it is not known

    async def answer(self, scope: Scope, send: Send, error: RoomkeyError, owed: Headers) -> bool:
        """Send the app's own page, where it has one. Returns whether that was done.

        Args:
            scope: of the request. A WebSocket gets no page.
            send: of the request.
            error: what went wrong.
            owed: the headers of the plain answer.
        """
        if scope["type"] != "http":
            return False
        has_started = False

        async def send_with_owed(message: Message) -> None:
            nonlocal has_started
            if message["type"] == "http.response.start":
                has_started = True
                message = {**message, "headers": with_owed(message.get("headers", ()), owed)}
            await send(message)

        try:
            receive = _receive_nothing()
            made = await self._made(scope, receive, send_with_owed, error)
            if made is not None:
                await made(scope, receive, send_with_owed)
        except Exception:
            if has_started:
                raise
            _log.exception("the page for %s could not be made, and a plain one was sent", type(error).__name__)
        return has_started

    async def _made(self, scope: Scope, receive: Receive, send: Send, error: RoomkeyError) -> App | None:
        page: App | None
        if self._page is not None:
            given: Any = self._page(scope, error)
            page = await given if inspect.isawaitable(given) else given
            return page
        for app in (scope.get("app"), self.app):
            handler, request_class = _handler_of(app, error), request_class_of(app)
            if handler is None or request_class is None:
                continue
            request = request_class(scope, receive, send)
            made = await _called(handler, request, error)
            as_asgi = getattr(made, "to_asgi_response", None)  # Litestar's
            page = made if as_asgi is None else as_asgi(app=None, request=request)
            return page
        return None


def _handler_of(app: object, error: RoomkeyError) -> Callable[[Any, RoomkeyError], Any] | None:
    """Return the exception handler that an app has for just this error. One for every exception would make a 500."""
    handlers = getattr(app, "exception_handlers", None)
    if not isinstance(handlers, Mapping):
        return None
    kinds = [kind for kind in type(error).__mro__ if issubclass(kind, RoomkeyError)]
    return next((handlers[kind] for kind in kinds if kind in handlers), None)


async def _called(handler: Callable[[Any, RoomkeyError], Any], request: Any, error: RoomkeyError) -> Any:
    call = getattr(handler, "__call__", handler)  # noqa: B004  # a callable object is asynchronous where its method is
    if inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(call):
        return await handler(request, error)
    import asyncio  # here, because it is half of the time that `import roomkey` would take

    made = await asyncio.to_thread(handler, request, error)  # as the frameworks do: it may wait
    return await made if inspect.isawaitable(made) else made


def with_owed(given: Any, owed: Headers) -> Headers:
    """Return a page's headers with what the response owes, whatever the page says of it."""
    headers: Headers = list(given)
    protect_from_caches(headers)
    names = {name.lower() for name, _ in headers}
    for name, value in owed:
        if name == b"vary":
            vary_on_cookie(headers, b"")
        elif name == b"set-cookie" or (name == b"retry-after" and name not in names):
            headers.append((name, value))
    return headers


def _receive_nothing() -> Receive:
    """Return the `receive` of a page: an empty body, and then nothing until the response is out."""
    messages: list[Message] = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> Message:
        if messages:
            return messages.pop()
        import asyncio

        nothing: Message = await asyncio.get_running_loop().create_future()  # for ever
        return nothing

    return receive
