"""Who really sits there, where somebody acts for a user: the part of `Session` that begins and ends it."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from roomkey.core.proofs import Proofs
from roomkey.options import Seconds, is_number, seconds_of

__all__ = ["Actor"]

_LONGEST = 24 * 60 * 60  # seconds


class Actor(Proofs):
    """Of a session."""

    __slots__ = ()

    @property
    def actor(self) -> Any:
        """The ID of whoever acts for the user, as it stands in their own session; None: it is the user's own session.

        See `impersonate`.
        """
        self._accessed = True
        return self._attached().actor_id

    async def impersonate(self, user: int | str | UUID, *, seconds: Seconds = 1800, within: Seconds = 300) -> None:
        """Act for a user, from the next request of this browser on: what support staff need.

        Whether somebody may do that, and for whom, is for the app to check first. The next requests get a session of
        the user's, with nothing in it but the user, in which `actor` says who really sits there. It is filed under the
        user, outside their `max_sessions_per_user`, and `SessionInfo.actor` shows it in their list. It has proved
        nothing: `require_recent` raises in it. Nobody can log in, prove anything or rotate in it.

        It ends after `seconds`, with `stop_impersonating`, or when the user's sessions are revoked. Then the browser
        has the actor's own session again, as it was. It also ends with the actor's own session. A log-out in it ends
        both. This request goes on as the actor's, and its response gives the actor's session a new ID.

        Args:
            user: the value of `user_key`.
            seconds: for how long, in seconds or as a `timedelta`: a day at most. It is no longer than the actor's own
                session lives without use.
            within: how long ago the actor's log-in may be, in seconds or as a `timedelta`.

        Raises:
            LoginTooOld: it is longer ago, or it is not saved yet.
            ImpersonationError: somebody acts already, or `user` is who is logged in.
            SessionDataError: `user` is no user's ID.
            ConfigurationError: there is no `user_key`, or it is a function, or nothing is kept on the server
                (`cookie://`).
            StoreUnavailable: the store did not do it.
            ValueError: `seconds` or `within` is no such number.
        """
        span: float = seconds_of(seconds)
        if not is_number(span) or not 0 < span <= _LONGEST:
            raise ValueError(f"impersonate: seconds is {seconds!r}; it takes a number above 0, or a timedelta")
        nearby = getattr(self, "_nearby", None)
        if nearby is not None:  # the session may come from memory
            await nearby.ask(self)
        self.require_recent(within)
        await self._attached().impersonate(user, float(span))

    async def stop_impersonating(self) -> None:
        """End what `impersonate` began. The session is the actor's own again, with what was in it, and gets a new ID.

        What the request has changed in the user's session and not saved is dropped. Where nobody acts for anybody, it
        does nothing.

        Raises:
            SessionEnded: the actor's own session has ended.
            StoreUnavailable: the store does not answer, or whether the user's session has ended cannot be known.
        """
        self._accessed = True
        await self._attached().stop_impersonating()
