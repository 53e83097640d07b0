"""The app's response, sent on with the session saved before its first byte."""

from __future__ import annotations

import enum
from collections.abc import Awaitable
from typing import Any

from roomkey.core.loaded import NOWHERE
from roomkey.core.reply import KEEP, NONE, SEVERAL, Carries
from roomkey.core.session import Session
from roomkey.core.transaction import Transaction
from roomkey.errors import ResponseStarted, StoreUnavailable
from roomkey.manager import SessionManager
from roomkey.web.asgi import Message, Scope, Send, is_error
from roomkey.web.error_pages import ErrorPages, with_owed
from roomkey.web.frameworks import is_foreign, route_of
from roomkey.web.unavailable import send_unavailable, unavailable_headers
from roomkey.wire.card_header import SERVED_BY_HEADER
from roomkey.wire.cookies import vary_on_cookie

__all__ = ["FirstResponse", "HeaderResponse", "Response", "VaryingResponse", "with_pages"]

_STARTS = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start", "websocket.close"})


_GONE = object()  # in the place of a session that was deleted from the scope


class _Stage(enum.Enum):
    OPEN = enum.auto()
    STARTED = enum.auto()
    REPLACED = enum.auto()  # the store was unavailable: a 503 went out instead of the app's response


# Bound once: to look up a member of an enumeration takes longer than a call.
_OPEN, _STARTED, _REPLACED = _Stage.OPEN, _Stage.STARTED, _Stage.REPLACED


class Response:
    """One request's."""

    __slots__ = ("_manager", "_scope", "_send", "_session", "_stage")

    pages: ErrorPages = ErrorPages()  # of the middleware
    always_varies = False  # whether it says `Vary: Cookie` where the session was not used

    def __init__(self, manager: SessionManager, session: Session, scope: Scope, send: Send) -> None:
        self._manager = manager
        self._session = session
        self._scope = scope
        self._send = send
        self._stage = _OPEN

    @property
    def has_started(self) -> bool:
        """Whether the app's response has."""
        return self._stage is _STARTED

    # Not `async def`, and the usual case in place: no coroutine for each message.
    def send(self, message: Message) -> Awaitable[None]:
        """What the app gets as its `send`."""
        stage, session = self._stage, self._session
        if stage is _OPEN:
            kind = message["type"]
            if kind != "http.response.start" or self._scope.get("session") is not session:
                return self._send_first(message)
            if not session._is_quiet():
                save = self._save_when_awaited if self._manager.may_wait else self._save_and_send
                return save(message)
            self._stage = _STARTED
            session._has_started = True
            if session._transaction is not None:
                self._manager.start(session)
            if session._accessed or self.always_varies:
                headers = list(message.get("headers", ()))
                outgoing = self._manager.outgoing
                if vary_on_cookie(headers, outgoing.cookie_start):
                    outgoing.warn_of_cookie()
                message = {**message, "headers": headers}
            return self._send(message)
        if stage is _REPLACED:
            return self._send_first(message)
        transaction = session._transaction
        if transaction is not None and transaction.tried and is_error(message):
            self._manager.doubt(session)
        return self._send(message)

    async def _save_when_awaited(self, message: Message) -> None:
        """As `_save_and_send`. A task that is cancelled before its first step has begun nothing."""
        await self._save_and_send(message)

    def _save_and_send(self, message: Message) -> Awaitable[None]:
        """Save, and send the start of the response; without a coroutine, where the store answers at once."""
        headers = list(message.get("headers", ()))
        try:
            at_once = self._manager.at_once
            if at_once is not None and at_once.commit(self._session, headers):
                self._session._has_started = True
                return self._send(self._going_out(message, headers))
            work = self._manager.save_now(self._session, headers, message["status"], SEVERAL)
        except StoreUnavailable as unavailable:
            return self.replace(unavailable)
        if work is not None:
            return self._save_first(work, message, headers)
        self._tell_lost()
        return self._send(self._going_out(message, headers))

    async def _save_first(self, work: Awaitable[None], message: Message, headers: list[tuple[bytes, bytes]]) -> None:
        try:
            await work
        except StoreUnavailable as unavailable:
            await self.replace(unavailable)
            return
        self._tell_lost()
        await self._send(self._going_out(message, headers))

    def _going_out(self, message: Message, headers: list[tuple[bytes, bytes]]) -> Message:
        """Note that the response goes out, and return its start as it does.

        The app's own message stays as it is: a cache inside may keep it, and would give the cookie to everybody.
        """
        self._stage = _STARTED
        if not (self._session._accessed or self.always_varies):
            return message
        return {**message, "headers": self._minding_own_page(message, headers)}

    def _minding_own_page(self, message: Message, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """Return headers with what a 503 owes that the app has made of an outage which the handler met."""
        transaction = self._session._transaction
        if isinstance(transaction, Transaction) and transaction.trouble is not None and message.get("status") == 503:
            return with_owed(headers, unavailable_headers(transaction.trouble))
        return headers

    async def _send_first(self, message: Message) -> None:
        if self._stage is _REPLACED:
            return
        if message["type"] in _STARTS:
            message = {**message}
            if not await self._start(message, SEVERAL):
                return
        await self._send(message)

    async def _start(self, message: Message, carries: Carries) -> bool:
        """Save, and say it in `message`, which is a copy; returns whether it may go out: False where a 503 did."""
        session = self._session
        is_refusal = message["type"] == "websocket.close"  # of a handshake: the answer has no headers of ours
        headers = list(message.get("headers", ()))
        try:
            if session is not self._scope.get("session"):
                self._mind_replacement()
                self._manager.outgoing.look(headers)
            await self._manager.respond(
                session,
                headers,
                message.get("status"),
                NONE if is_refusal else carries,
                is_error=is_error(message),
            )
        except StoreUnavailable as unavailable:
            await self.replace(unavailable)
            return False
        self._tell_lost()
        self._stage = _STARTED
        if (session._accessed or self.always_varies) and not is_refusal:
            message["headers"] = self._minding_own_page(message, headers)
        return True

    async def replace(self, error: StoreUnavailable) -> None:
        """Send a 503 in the place of the app's response, once."""
        if self._stage is _REPLACED:
            return
        manager, session = self._manager, self._session
        headers = unavailable_headers(error)
        transaction = manager.transaction(session)
        transaction.reply.saves = False
        if transaction.under_way is not None:
            await transaction.settle()
        if transaction.reply.cookie is not KEEP:
            # By an earlier `save`: without it, a user who has just logged in would be logged out by what failed later.
            await transaction.confirm()
            manager.outgoing.write(session, headers)
        manager.start(session)
        self._stage = _REPLACED  # not sooner: a response that is cut off until here may still answer
        await send_unavailable(self._scope, self._send, headers, self.pages, error)

    async def answer(self, error: Any) -> Any:
        """Save for an `HTTPException` that a framework outside (Ravyn, Litestar) makes a response of.

        What that response owes the browser travels in the headers of a copy of the exception: an app may raise one
        object for everybody. Returns what to raise; None when a 503 went out instead.
        """
        transaction = self._session._transaction
        failed = isinstance(transaction, Transaction) and not transaction.reply.saves
        if self._stage is _STARTED or failed:
            return error
        own = dict(error.headers or {})
        # A dict holds one cookie, and this one is the app's.
        taken = self._manager.config.card_header is None and any(name.lower() == "set-cookie" for name in own)
        message: Message = {
            "type": "http.response.start",
            "status": getattr(error, "status_code", 0),
            "headers": [(name.encode("latin-1"), str(value).encode("latin-1")) for name, value in own.items()],
        }
        if not await self._start(message, NONE if taken else Carries.ONE):
            return None
        if not (self._session._accessed or self.always_varies):
            return error
        # Not copy.copy, which would call the class's own __init__ with whatever `args` happens to hold.
        copied = type(error).__new__(type(error), *error.args)
        copied.__dict__.update(error.__dict__)
        copied.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in message["headers"]}
        return copied

    async def finish(self) -> None:
        """Save what changed after the response had started: streams, background tasks, WebSockets."""
        if self._stage is not _STARTED:
            return
        transaction = self._manager.transaction(self._session)
        if not transaction.reply.saves:
            return
        self._mind_replacement()
        draft = transaction.unsaved()
        if draft is None:
            return
        try:
            await transaction.commit(draft)
        except ResponseStarted:
            if transaction.at is not NOWHERE:
                raise
            self._say_too_late()
        self._tell_lost()

    def _tell_lost(self) -> None:
        """Report what could not be saved. The handler hears nothing of it."""
        transaction = self._session._transaction
        if isinstance(transaction, Transaction) and transaction.untold is not None:
            transaction.tell_lost(route_of(self._scope) or "")

    def _say_too_late(self) -> None:
        route = route_of(self._scope)
        self._manager.reporter.warn_too_late(
            route,
            "a handler" if route is None else f"the route {route}",
            "A background task is too late, and so is a dependency after `yield`",
        )

    def _mind_replacement(self) -> None:
        """Say once that `scope["session"]` is not the session any more. What stands there is not taken for anything.

        It may be new content, or a mounted app's own session under another cookie: in frameworks that hand the app the
        same scope, nobody can tell.
        """
        content = self._scope.get("session", _GONE)
        if content is self._session or is_foreign(self._scope, content):
            return
        what = "was deleted" if content is _GONE else f"was replaced by a value of type {type(content).__name__}"
        self._manager.reporter.warn_once(
            f"scope: {what}",
            'scope["session"] %s, and Roomkey ignores that. To replace the content of its session, call clear() and '
            "update({...}). To log out, call clear(). If a mounted app or another middleware has sessions of its own "
            "under another cookie, there is nothing to do",
            what,
        )


class VaryingResponse(Response):
    """One request's, with `vary="always"`."""

    __slots__ = ()

    always_varies = True


class HeaderResponse(Response):
    """One request's, where the card travels in a header: `HeaderOutgoing` says all that the response says of it."""

    __slots__ = ()

    always_varies = True  # or not: `HeaderOutgoing` asks the configuration

    def __init__(self, manager: SessionManager, session: Session, scope: Scope, send: Send) -> None:
        super().__init__(manager, session, scope, send)
        scope[SERVED_BY_HEADER] = session

    def send(self, message: Message) -> Awaitable[None]:
        return self._send_first(message) if self._stage is _OPEN else super().send(message)


class FirstResponse(Response):
    """One of the first requests'. It looks whether the app sets our cookie, also where the session is not used."""

    __slots__ = ()

    def send(self, message: Message) -> Awaitable[None]:
        if message["type"] in _STARTS and not self._session._accessed:
            self._manager.outgoing.look(list(message.get("headers", ())))
        return super().send(message)


def with_pages(kind: type[Response], pages: ErrorPages) -> type[Response]:
    """Return a class of responses that has the error pages of one middleware: no request carries them along."""
    return type(kind.__name__, (kind,), {"__slots__": (), "pages": pages})
