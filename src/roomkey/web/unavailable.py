"""The answer to a request whose session store does not do what it was asked: 503, or a WebSocket's close."""

from __future__ import annotations

from roomkey.errors import StoreUnavailable
from roomkey.web.asgi import Scope, Send
from roomkey.web.error_pages import ErrorPages

__all__ = [
    "CLOSE_REASON",
    "PAGE",
    "TRY_AGAIN_LATER",
    "retry_headers",
    "send_unavailable",
    "stands_on_all",
    "tells_more",
    "unavailable_headers",
]

PAGE = "The session store is unavailable; try again in a moment.\n"  # of a 503
TRY_AGAIN_LATER = 1013  # WebSocket close code, IANA registry
CLOSE_REASON = "session store unavailable"  # of a WebSocket's close
_BODY = PAGE.encode("ascii")
# What headers say of one body, or of what became of one request.
_OF_ONE = frozenset(
    {"accept-ranges", "age", "cache-control", "etag", "expires", "last-modified", "location", "set-cookie"}
)


def tells_more(error: Exception) -> bool:
    """Whether an error tells of something else beside an outage, which is for the log."""
    return isinstance(error, ExceptionGroup) and error.split(StoreUnavailable)[1] is not None


def retry_headers(error: StoreUnavailable) -> dict[str, str]:
    """Return what each page of a 503 says, whatever its body is."""
    return {"Retry-After": str(error.retry_after), "Cache-Control": "no-store"}


def unavailable_headers(error: StoreUnavailable) -> list[tuple[bytes, bytes]]:
    """Return the headers of a plain 503."""
    return [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", b"%d" % len(_BODY)),
        (b"retry-after", b"%d" % error.retry_after),
        (b"cache-control", b"no-store"),
    ]


def stands_on_all(name: str) -> bool:
    """Whether the app puts a header of this name on all its responses, as those for CORS. A 503 keeps these."""
    lower = name.lower()
    is_of_body = lower.startswith("content-") and not lower.startswith("content-security-policy")
    return not is_of_body and lower not in _OF_ONE


async def send_unavailable(
    scope: Scope, send: Send, headers: list[tuple[bytes, bytes]], pages: ErrorPages, error: StoreUnavailable
) -> None:
    """Send a 503 with these headers; close a WebSocket that can get no HTTP response.

    Args:
        scope: of the request.
        send: of the request.
        headers: what the 503 says.
        pages: may have a page of the app's own for it.
        error: the outage.
    """
    if await pages.answer(scope, send, error, headers):
        return
    kind = scope["type"]
    if kind == "websocket":
        if "websocket.http.response" not in (scope.get("extensions") or {}):
            await send({"type": "websocket.close", "code": TRY_AGAIN_LATER, "reason": CLOSE_REASON})
            return
        kind = "websocket.http"
    await send({"type": f"{kind}.response.start", "status": 503, "headers": headers})
    await send({"type": f"{kind}.response.body", "body": _BODY})
