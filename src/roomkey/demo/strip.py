"""The strip at the foot of each page: what the last step did in the browser and in the store, in plain words.

`Strip(app, ...)` stands around the whole app. It sees the cookies that come and go. `Strip.on_event` hears of what
happens to sessions, and `watch` counts what the store is asked. The text is put together once the session has been
saved, just before the page goes out. A redirect shows no page, so its text waits for the page that follows.

It shows nothing secret: no cookie, and no session ID.
"""

from __future__ import annotations

import secrets
from collections import Counter, OrderedDict
from collections.abc import MutableMapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import wraps
from html import escape
from http.cookies import CookieError, SimpleCookie
from typing import Any

from roomkey import SessionConfig
from roomkey.events import Created, Ended, Event, Merged, Refused, Rotated

__all__ = ["Strip", "watch"]

TICKET = "shop-step"  # the cookie that leads from a redirect to its text
MOST_WAITING = 1000  # texts of redirects that nobody has followed

OPERATIONS = {
    "load": "load",
    "load_now": "load",
    "create": "create",
    "update": "update",
    "rotate": "rotation",
    "touch": "renewal",
    "delete": "delete",
    "of_user": "search by user",
}
REFUSED = {
    "card": "we did not sign it",
    "key": "we do not have its secret key any more",
    "unknown": "its session has ended",
    "rotated": "its session has a new ID",
    "damaged": "its record cannot be read",
}
ENDED = {"cleared": "log-out", "revoked": "it was revoked", "limit": "the user had too many"}


@dataclass
class Step:
    """One request, as it goes on."""

    name: str
    cookie: str | None
    asked: Counter[str] = field(default_factory=Counter)
    events: list[Event] = field(default_factory=list)


_step: ContextVar[Step | None] = ContextVar("step", default=None)


def watch(store: Any) -> None:
    """Count what a store is asked, by replacing its operations with ones that count."""
    for name, word in OPERATIONS.items():
        if hasattr(store, name):
            setattr(store, name, _counted(getattr(store, name), word))


def _counted(operation: Any, word: str) -> Any:
    @wraps(operation)
    def counted(*given: Any, **options: Any) -> Any:
        if (step := _step.get()) is not None:
            step.asked[word] += 1
        return operation(*given, **options)

    return counted


class Strip:
    """Put the strip into each page of an app. It is an ASGI app itself."""

    def __init__(self, app: Any, config: SessionConfig) -> None:
        self._app, self._cookie = app, config.session_cookie
        self._waiting: OrderedDict[str, list[str]] = OrderedDict()

    @staticmethod
    def on_event(event: Event) -> None:
        if (step := _step.get()) is not None:
            step.events.append(event)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        cookies = _cookies(scope["headers"], b"cookie")
        step = Step(f"{scope['method']} {scope['path']}", cookies.get(self._cookie))
        ticket = cookies.get(TICKET, "")
        start: MutableMapping[str, Any] = {}
        body = bytearray()

        async def with_strip(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
            if not (_is_page(start) or _is_redirect(start)):
                await send(message)
            elif message["type"] == "http.response.body":
                body.extend(message.get("body", b""))
                if not message.get("more_body"):
                    await self._finish(step, ticket, start, bytes(body), send)

        token = _step.set(step)
        try:
            await self._app(scope, receive, with_strip)
        finally:
            _step.reset(token)

    async def _finish(self, step: Step, ticket: str, start: Any, body: bytes, send: Any) -> None:
        """Send the response, which is a page or a redirect, with the text or with the ticket for it."""
        headers = list(start["headers"])
        steps = [*self._waiting.pop(ticket, []), self._told(step, headers)]
        if _is_redirect(start):
            ticket = secrets.token_urlsafe(16)
            self._waiting[ticket] = steps[-2:]
            if len(self._waiting) > MOST_WAITING:
                self._waiting.popitem(last=False)
            headers.append((b"set-cookie", f"{TICKET}={ticket}; Path=/; Max-Age=60; HttpOnly; SameSite=Lax".encode()))
        elif b"</body>" in body:
            body = body.replace(b"</body>", _html(steps).encode() + b"</body>")
            headers = [pair for pair in headers if pair[0].lower() != b"content-length"]
            headers.append((b"content-length", str(len(body)).encode()))
        await send({**start, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _told(self, step: Step, headers: list[tuple[bytes, bytes]]) -> str:
        """Return what a request did, as an HTML list item."""
        sentences = [_came(step), *_happened(step.events), _asked(step.asked), *self._went(step, headers)]
        return f"<li><b>{escape(step.name)}</b> {escape(' '.join(sentences))}</li>"

    def _went(self, step: Step, headers: list[tuple[bytes, bytes]]) -> list[str]:
        """Return what the response tells the browser to do with its cookie."""
        sent = [value for name, value in headers if name.lower() == b"set-cookie"]
        cookie = next((morsel for value in sent if (morsel := _parsed(value).get(self._cookie)) is not None), None)
        if cookie is None:
            return []
        if cookie["max-age"] == "0":
            return ["The browser drops its cookie."]
        what = "keeps its cookie" if cookie.value == step.cookie else "gets a new cookie"
        return [f"The browser {what}, {_span(cookie['max-age'])}."]


# ---- sentences -----------------------------------------------------------------------------------------------------


def _came(step: Step) -> str:
    if step.cookie is None:
        return "No cookie came."
    for event in step.events:
        if isinstance(event, Refused):
            return f"Cookie refused: {REFUSED[event.reason]}."
    return "Cookie verified." if step.asked["load"] else "A cookie came, and nobody asked for its session."


def _happened(events: list[Event]) -> list[str]:
    sentences = []
    for event in events:
        if isinstance(event, Created):
            sentences.append("A session began.")
        elif isinstance(event, Rotated):
            why = "the log-in" if event.user != event.old_user else "the password was asked for again"
            sentences.append(f"The session got a new ID: {why}.")
        elif isinstance(event, Ended):
            sentences.append(f"A session ended: {ENDED[event.reason]}.")
        elif isinstance(event, Merged):
            sentences.append("Two requests at once: both changes were kept.")
    return sentences


def _asked(asked: Counter[str]) -> str:
    counts = [f"{count} {word}{'s' if count > 1 else ''}" for word, count in asked.items()]
    return f"Store: {', '.join(counts) or 'not asked'}."


def _span(seconds: str) -> str:
    if not seconds:
        return "until it is closed"
    days, hours = divmod(round(int(seconds) / 3600), 24)
    return f"for {days} days" if days else f"for {hours} hours"


def _html(steps: list[str]) -> str:
    return (
        '<link rel="stylesheet" href="/static/strip.css">'
        '<aside class="step" aria-label="What just happened" tabindex="0">'
        f'<div class="wide"><ol id="step">{"".join(steps)}</ol></div></aside>'
    )


# ---- messages ------------------------------------------------------------------------------------------------------


def _is_page(start: MutableMapping[str, Any]) -> bool:
    return any(name.lower() == b"content-type" and value.startswith(b"text/html") for name, value in start["headers"])


def _is_redirect(start: MutableMapping[str, Any]) -> bool:
    return start["status"] in (302, 303, 307)


def _cookies(headers: list[tuple[bytes, bytes]], name: bytes) -> dict[str, str]:
    pairs = b"; ".join(value for key, value in headers if key == name)
    return {key: morsel.value for key, morsel in _parsed(pairs).items()}


def _parsed(text: bytes) -> SimpleCookie:
    try:
        return SimpleCookie(text.decode("latin-1"))
    except CookieError:
        return SimpleCookie()
