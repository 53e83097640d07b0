"""SessionMiddleware: ASGI in, ASGI out. No decisions: those are `roomkey.lifecycle`'s."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from functools import partial
from typing import Any, Unpack

from roomkey.config import SessionConfig, SessionOptions
from roomkey.errors import ConfigurationError, StoreUnavailable
from roomkey.lifecycle import Lifecycle
from roomkey.session import Session
from roomkey.stores.cookie import CookieStore
from roomkey.visit import Cookie, Visit
from roomkey.wire.cookies import (
    ChunkWriter,
    CookieWriter,
    find_chunked,
    find_cookies,
    protect_from_caches,
    vary_on_cookie,
)

__all__ = ["SessionMiddleware"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_TRY_AGAIN_LATER = 1013  # WebSocket close code, IANA registry
_GOOD_CLOSES = (1000, 1001)  # RFC 6455 section 7.4.1: normal closure, going away
_LONGEST_ADDRESS = 64  # characters; an IPv6 address with a zone has room
_LONGEST_AGENT = 256  # characters; a browser's name fits, a novel does not
_STARTS = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start", "websocket.close"})


class SessionMiddleware:
    """Gives every HTTP request and WebSocket of an ASGI app its session, as `scope["session"]`.

    Args:
        app: the ASGI app to wrap.
        config: the configuration; or give its options by keyword, under the names of `SessionConfig`.

    Raises:
        ConfigurationError: an option is wrong, unknown or missing, or both a config and options were given.
    """

    def __init__(self, app: App, config: SessionConfig | None = None, **options: Unpack[SessionOptions]) -> None:
        if config is None:
            config = SessionConfig.from_options(dict(options))
        elif options:
            raise ConfigurationError(f"give a config or options, not both (got a config and {', '.join(options)})")
        elif not isinstance(config, SessionConfig):
            hint = "; give the key as secret_key=..." if isinstance(config, str | bytes) else ""
            raise ConfigurationError(f"config: got {type(config).__name__}; it takes a roomkey.SessionConfig{hint}")
        self.app = app
        self.config = config
        self.lifecycle: Lifecycle
        self._writer: CookieWriter | ChunkWriter
        if isinstance(config.store, CookieStore):
            from roomkey.cookie_visit import CookieLifecycle  # here, because it needs the package cryptography

            in_cookie = CookieLifecycle(config)
            self.lifecycle, self._writer, self._find = in_cookie, in_cookie.writer, find_chunked
        else:
            self.lifecycle, self._writer, self._find = Lifecycle(config), CookieWriter(config), find_cookies
        self._cookie_name = config.session_cookie.encode("ascii")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "lifespan":
            await self.lifespan(self.app, scope, receive, send)
            return
        if kind not in ("http", "websocket") or ("session" in scope and self._is_served(scope["session"])):
            await self.app(scope, receive, send)
            return
        cards = self._find(scope["headers"], self._cookie_name)
        moves_in = self.lifecycle.move_in is not None
        if cards or moves_in:
            try:
                cookies = partial(find_cookies, scope["headers"]) if moves_in else None
                visit = await self.lifecycle.arrive(cards, cookies)
            except StoreUnavailable as error:
                await _send_unavailable(scope, send, _unavailable_headers(error))
                return
        else:
            visit = self.lifecycle.anonymous()
        if self.config.record_client:
            visit.client = _client(scope)
        scope["session"] = visit.session
        response = _Response(self._writer, visit, scope, send)
        try:
            await self.app(scope, receive, response.send)
        except StoreUnavailable as error:  # from what the handler itself asked of the session
            if response.started:
                raise
            await response.replace(error)
            return
        except Exception as error:
            if kind != "http" or not _is_answer(error):
                raise
            answer = await response.answer(error)
            if answer is None:
                return
            if answer is error:
                raise
            raise answer.with_traceback(error.__traceback__) from error.__cause__
        # What changed after the response had started: streams, background tasks, WebSockets.
        if not response.is_untouched():
            stored = response.unsaved()
            if stored is not None:
                await visit.commit(stored)

    def _is_served(self, session: object) -> bool:
        """Whether an outer middleware already serves this cookie: a mounted app sees the one session."""
        if not isinstance(session, Session) or not isinstance(session._visit, Visit):
            return False
        return session._visit.lifecycle.config.session_cookie == self.config.session_cookie

    async def lifespan(self, app: App, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the lifespan protocol around `app`: the store opens before it starts and closes after it has ended."""
        import asyncio

        store = self.lifecycle.store
        startup = await receive()
        try:
            await store.open()
        except StoreUnavailable:
            pass  # logged; requests are answered 503 until it is back
        except ConfigurationError as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            raise  # servers have heard; test clients wait for this
        messages = [startup]

        async def receive_again() -> Message:
            return messages.pop() if messages else await receive()

        purging = asyncio.create_task(self.lifecycle.keep_purging(), name="roomkey: purge")

        async def stop() -> None:
            purging.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await purging
            await self.lifecycle.finish()
            await store.close()

        async def send_after_stop(message: Message) -> None:
            # Whoever hears "complete" may end the process: be done before.
            if message["type"] in ("lifespan.shutdown.complete", "lifespan.shutdown.failed", "lifespan.startup.failed"):
                await stop()
            await send(message)

        try:
            await app(scope, receive_again, send_after_stop)
        finally:
            await stop()


class _Response:
    """Sends the app's response on, with the session saved before its first byte."""

    started = False
    _failed = False  # saving raised: what follows is the app's error page, which saves nothing
    _replaced = False  # the store was unavailable: a 503 went out instead of the app's response

    def __init__(self, writer: CookieWriter | ChunkWriter, visit: Visit, scope: Scope, send: Send) -> None:
        self._writer = writer
        self._visit = visit
        self._session = visit.session
        self._scope = scope
        self._send = send

    async def replace(self, error: StoreUnavailable) -> None:
        """Send a 503 in the place of the app's response, once."""
        if not self._replaced:
            self._failed = True
            start: Message = {"headers": _unavailable_headers(error)}
            if self._visit.saving:
                await self._visit.settle()
            if self._visit.cookie is not Cookie.KEEP:
                # By an earlier `save`: without it, who has just logged in would be logged out by what failed later.
                await self._visit.confirm()
                self._write_headers(start)
            self._visit.cookie_possible = False
            self._replaced = True  # not sooner: whoever is cut off until here may still answer
            await _send_unavailable(self._scope, self._send, start["headers"])

    def is_untouched(self) -> bool:
        """Whether the app did nothing whatever with the session so far."""
        return not self._session._accessed and self._scope.get("session") is self._session

    # Not `async def`: one coroutine less for each message.
    def send(self, message: Message) -> Awaitable[None]:
        if self.started:
            if self._visit.doubtful and _is_error(message):
                self._failed = True
            return self._send(message)
        return self._send_first(message)

    async def _send_first(self, message: Message) -> None:
        if self._replaced:
            return
        if message["type"] in _STARTS:
            if self.is_untouched():
                self.started = True
                self._visit.cookie_possible = False
            else:
                await self._start(message)
                if self._replaced:
                    return
        await self._send(message)

    async def _start(self, message: Message) -> None:
        visit = self._visit
        if visit.unavailable is not None:
            # A framework may let nobody else have the exception: Litestar makes a 500 of it.
            if message.get("status") == 500:
                await self.replace(visit.unavailable)
                return
            self._failed = self._failed or (visit.doubtful and _is_error(message))
        try:
            if visit.saving:  # a task of the app's does: the card that it gets has to go out with this response
                await visit.settle()
            visit.given_before = visit.cookie is Cookie.GIVE
            if not self._failed:
                if message["type"] == "websocket.close":
                    visit.cookie_possible = False  # refused before it was accepted: the answer has no headers of ours
                if self._scope.get("session") is not self._session:
                    self._take_in_replacement()
                stored = visit.unsaved()
                if stored is not None:
                    await visit.commit(stored)
            if visit.given_before:
                await visit.confirm()
        except StoreUnavailable as error:
            await self.replace(error)
            return
        except BaseException:
            self._failed = True
            raise
        self.started = True
        visit.cookie_possible = False
        if self._session._accessed and message["type"] != "websocket.close":
            self._write_headers(message)

    def _write_headers(self, message: Message) -> None:
        visit = self._visit
        headers = list(message.get("headers", ()))
        vary_on_cookie(headers)
        if visit.cookie is not Cookie.KEEP:
            protect_from_caches(headers)
            if visit.lifecycle.move_in is not None:
                headers += visit.lifecycle.move_in.take_back(partial(find_cookies, self._scope["headers"]))
            card, seconds = None, 0.0
            if visit.cookie is Cookie.GIVE:
                card, seconds = visit.card, visit.expires_at - visit.lifecycle.clock()
            sent = () if visit.one_cookie else self._scope["headers"]
            headers += self._writer.write(card, seconds, sent, remembered=visit.facts.lifetime is not None)
            visit.cookie = Cookie.KEEP
        message["headers"] = headers

    async def answer(self, error: Any) -> Any:
        """Save for an `HTTPException` that a framework outside (Ravyn, Litestar) makes a response of.

        What that response owes the browser travels in the headers of a copy of the exception: an app may raise one
        object for everybody. Returns what to raise; None when a 503 went out instead.
        """
        if self.started or self._failed:
            return error
        own = dict(error.headers or {})
        self._visit.one_cookie = True
        if any(name.lower() == "set-cookie" for name in own):
            self._visit.cookie_possible = False  # a dict holds one cookie, and this one is the app's
        message: Message = {
            "type": "http.response.start",
            "status": getattr(error, "status_code", 0),
            "headers": [(name.encode("latin-1"), str(value).encode("latin-1")) for name, value in own.items()],
        }
        await self._start(message)
        if self._replaced:
            return None
        if not self._session._accessed:
            return error
        # Not copy.copy, which would call the class's own __init__ with whatever `args` happens to hold.
        copied = type(error).__new__(type(error), *error.args)
        copied.__dict__.update(error.__dict__)
        copied.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in message["headers"]}
        return copied

    def _take_in_replacement(self) -> None:
        """Understand `scope["session"] = {...}`: the session's new content. None or nothing empties it."""
        content = self._scope.get("session")
        session = self._session
        # Another middleware's, of a mounted app, under another cookie: Roomkey's or Starlette's, or starsessions' dict.
        if type(content).__name__ == "Session" or "session_handler" in self._scope:
            return
        if type(content).__name__ == "_EmptyEnum":  # what Litestar's `clear_session` puts there
            content = None
        if content is not None and not isinstance(content, Mapping):
            raise TypeError(f'scope["session"] was set to {type(content).__name__}; it takes a dict, or None to clear')
        session._set_content(dict(content or {}))
        self._scope["session"] = session

    def unsaved(self) -> bytes | None:
        """Return what `Visit.unsaved` says once the app has returned; None where nothing is to be saved any more."""
        if not self.started or self._failed:
            return None
        if self._scope.get("session") is not self._session:
            self._take_in_replacement()
        return self._visit.unsaved()


def _is_answer(error: Exception) -> bool:
    """Whether an exception is a response that the app made. Every framework has its own class of this name."""
    kinds = [kind for kind in type(error).__mro__ if kind.__name__ == "HTTPException"]
    # Starlette answers its own inside; one that comes out, from a middleware, is a plain error to it.
    return bool(kinds) and hasattr(error, "headers") and not kinds[-1].__module__.startswith("starlette.")


def _is_error(message: Message) -> bool:
    """Whether a message ends the request as an error does."""
    if message["type"] == "websocket.close":
        return message.get("code", 1000) not in _GOOD_CLOSES
    status = message.get("status")
    return isinstance(status, int) and status >= 500


def _client(scope: Scope) -> tuple[str | None, str | None]:
    """Return the IP address that the server resolved (anybody can send an `X-Forwarded-For`), and the user agent."""
    address = scope.get("client")
    agent = next((value for name, value in scope["headers"] if name == b"user-agent"), None)
    return (
        str(address[0])[:_LONGEST_ADDRESS] if address else None,
        None if agent is None else agent.decode("latin-1")[:_LONGEST_AGENT],
    )


_UNAVAILABLE = b"The session store is unavailable; try again in a moment.\n"


def _unavailable_headers(error: StoreUnavailable) -> list[tuple[bytes, bytes]]:
    return [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", b"%d" % len(_UNAVAILABLE)),
        (b"retry-after", b"%d" % error.retry_after),
        (b"cache-control", b"no-store"),
    ]


async def _send_unavailable(scope: Scope, send: Send, headers: list[tuple[bytes, bytes]]) -> None:
    kind = scope["type"]
    if kind == "websocket":
        if "websocket.http.response" not in (scope.get("extensions") or {}):
            await send({"type": "websocket.close", "code": _TRY_AGAIN_LATER, "reason": "session store unavailable"})
            return
        kind = "websocket.http"
    await send({"type": f"{kind}.response.start", "status": 503, "headers": headers})
    await send({"type": f"{kind}.response.body", "body": _UNAVAILABLE})
