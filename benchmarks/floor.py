"""The floor: the least that a server-side session can be made of, by hand.

A cookie scan, one HMAC, one look-up in a dict, one decoding. No expiry, no merge, no rotation, no attributes to speak
of: not something to use, only the yardstick for what the rest costs.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable
from typing import Any

from benchmarks.driver import COOKIE, App, Message, Receive, Scope, Send

_PREFIX = f"{COOKIE}=".encode()
_ID_LENGTH = 32  # hexadecimal digits


class _Data(dict[str, Any]):
    changed = False

    def __setitem__(self, key: str, value: Any) -> None:
        self.changed = True
        super().__setitem__(key, value)

    def update(self, *args: Any, **kwargs: Any) -> None:
        self.changed = True
        super().update(*args, **kwargs)


class Floor:
    """Server-side sessions in a dict, as short as they go.

    Args:
        app: the app.
        store: where the encoded sessions are.
        dumps: encodes.
        loads: decodes.
    """

    def __init__(
        self, app: App, store: dict[bytes, bytes], dumps: Callable[[Any], bytes], loads: Callable[[bytes], Any]
    ) -> None:
        self.app, self.store, self.dumps, self.loads = app, store, dumps, loads
        self.key = b"k" * 32

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        session_id, session = b"", None
        for name, value in scope["headers"]:
            if name == b"cookie":
                for part in value.split(b"; "):
                    if part.startswith(_PREFIX):
                        session_id, mac = part[len(_PREFIX) :][:_ID_LENGTH], part[len(_PREFIX) + _ID_LENGTH :]
                        if hmac.compare_digest(self._mac(session_id), mac):
                            stored = self.store.get(session_id)
                            session = None if stored is None else _Data(self.loads(stored))
        is_new = session is None
        data = scope["session"] = _Data() if session is None else session

        async def save_and_send(message: Message) -> None:
            if data.changed and message["type"] == "http.response.start":
                key = secrets.token_hex(_ID_LENGTH // 2).encode() if is_new else session_id
                self.store[key] = self.dumps(data)
                if is_new:
                    message["headers"].append((b"set-cookie", _PREFIX + key + self._mac(key) + b"; HttpOnly; Path=/"))
            await send(message)

        await self.app(scope, receive, save_and_send)

    def _mac(self, session_id: bytes) -> bytes:
        return hmac.digest(self.key, session_id, "sha256").hex().encode()
