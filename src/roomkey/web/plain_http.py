"""Watches for `https_only=True` over plain HTTP: no browser sends the cookie back, and each request begins a session.

It looks until it knows: at the first request over HTTPS, or at the first cookie that goes out over HTTP to somebody who
has none.
"""

from __future__ import annotations

from collections.abc import Iterable

from roomkey.core.reporting import Reporter
from roomkey.core.secure import HTTPS
from roomkey.web.asgi import Message, Scope, Send
from roomkey.wire.cookies import Headers, find_cookies

__all__ = ["PlainHTTP"]

_Pairs = Iterable[tuple[str | bytes, str | bytes]]
_CARRY_HEADERS = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})
# By which a proxy says that its client uses HTTPS, though the server was not told to believe it.
_SAY_HTTPS = {
    b"x-forwarded-proto": b"https",
    b"x-forwarded-scheme": b"https",
    b"x-forwarded-ssl": b"on",
    b"front-end-https": b"on",
    b"forwarded": b"proto=https",
    b"cf-visitor": b"https",
}


class PlainHTTP:
    """The watch of one middleware.

    Args:
        name: of the session cookie.
        reporter: is told.
        https_only: whether the option is True.
    """

    def __init__(self, name: str, reporter: Reporter, https_only: bool) -> None:
        self._name, self._reporter = name.encode("ascii"), reporter
        self.is_known: bool = not https_only  # whether there is nothing more to watch for

    def watched(self, scope: Scope, send: Send) -> Send:
        """Return the `send` for a request, which looks for the cookie."""
        if scope.get("scheme") in HTTPS or _says_https(scope["headers"]):
            self.is_known = True
            return send
        if find_cookies(scope["headers"], self._name):
            return send  # it came back: this client takes the host for a secure one

        async def watching(message: Message) -> None:
            if message["type"] in _CARRY_HEADERS and self._gives(message.get("headers", ())):
                self._say()
            await send(message)

        return watching

    def look(self, scheme: str, sent: _Pairs, given: _Pairs) -> None:
        """As `watched`, for a framework that has the request and its response at once.

        Args:
            scheme: of the request, as the server resolved it.
            sent: the request's headers, with names in upper or lower case.
            given: those of the response.
        """
        if self.is_known:
            return
        headers = _raw(sent)
        if scheme in HTTPS or _says_https(headers):
            self.is_known = True
        elif not find_cookies(headers, self._name) and self._gives(_raw(given)):
            self._say()

    def _say(self) -> None:
        self.is_known = True
        self._reporter.warn_once(
            "plain HTTP",
            "https_only=True, but a session began over plain HTTP. Browsers do not send its cookie back there, so each "
            "request begins another session. Serve the app over HTTPS. In development set https_only=False, or leave "
            "it out. Behind a proxy that speaks HTTPS, have it send X-Forwarded-Proto and have the server trust it "
            "(uvicorn: --proxy-headers and --forwarded-allow-ips)",
        )

    def _gives(self, headers: Headers) -> bool:
        start = self._name + b"="
        return any(
            name == b"set-cookie" and value.startswith(start) and not value.startswith(start + b";")
            for name, value in headers
        )


def _raw(headers: _Pairs) -> Headers:
    pairs = [[each if isinstance(each, bytes) else each.encode("latin-1", "replace") for each in p] for p in headers]
    return [(name.lower(), value) for name, value in pairs]


def _says_https(headers: Headers) -> bool:
    return any(name in _SAY_HTTPS and _SAY_HTTPS[name] in value.lower() for name, value in headers)
