"""The shapes of ASGI."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

__all__ = ["App", "Message", "Receive", "Scope", "Send", "is_error"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_GOOD_CLOSES = (1000, 1001)  # RFC 6455 section 7.4.1: normal closure, going away


def is_error(message: Message) -> bool:
    """Whether a message ends the request as an error does."""
    if message["type"] == "websocket.close":
        return message.get("code", 1000) not in _GOOD_CLOSES
    status = message.get("status")
    return isinstance(status, int) and status >= 500
