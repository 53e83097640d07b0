"""What a handler can wait for: the end of its session, and what other requests save."""

from __future__ import annotations

from typing import Any, Literal

__all__ = ["Waits"]


class Waits:
    """The part of a session that waits."""

    __slots__ = ()

    async def ended(self) -> Literal["ended", "expired", "log-in"]:
        """Wait until the session ends, in whatever process: for WebSockets and streams that say goodbye themselves.

        While something waits here, Roomkey closes the WebSocket or the stream a second after the end, not at once.

        Returns:
            Why it ended. `"ended"`: by a log-out, or it was revoked. `"expired"`: nobody used it. `"log-in"`: it was
            nobody's, and somebody has logged in.

        Raises:
            ConfigurationError: the app has no `live=True`, or there is no session that is saved.
        """
        why: Literal["ended", "expired", "log-in"] = await self._attached().live("ended").ended(self)
        return why

    async def changed(self) -> bool:
        """Wait until another request has saved something into the session. `refresh()` then takes it in.

        Returns:
            True: there is something new. False: the session has ended.

        Raises:
            ConfigurationError: as for `ended`.
        """
        is_new: bool = await self._attached().live("changed").changed(self)
        return is_new

    def _attached(self) -> Any:
        raise NotImplementedError
