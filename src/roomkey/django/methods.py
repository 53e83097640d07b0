"""What a Django session has beside Django's own methods: those of `roomkey.Session`."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from roomkey.core.proofs import Proof
    from roomkey.core.session import Session
    from roomkey.core.users import Sessions
    from roomkey.options import Seconds

__all__ = ["RoomkeyMethods"]


class RoomkeyMethods:
    """Of a `SessionStore`, which loads the session."""

    modified: bool  # whether the session is to be saved
    _is_cycled: bool  # whether it gets a new key

    if TYPE_CHECKING:

        def _get_session(self, no_load: bool = False) -> Session: ...
        async def _aget_session(self, no_load: bool = False) -> Session: ...

    @property
    def handle(self) -> str:
        """The public name of the session: safe in logs and URLs, useless as a credential. Empty until it is saved."""
        return self._get_session().handle

    @property
    def sessions(self) -> Sessions:
        """The sessions of users, to list and to revoke: `await request.session.sessions.of(request.user.pk)`.

        In blocking code: `get_manager().sync.sessions.of(request.user.pk, current=request.session)`.
        """
        return self._get_session().sessions

    @property
    def is_new(self) -> bool:
        """Whether this request found no session."""
        return self._get_session().is_new

    @property
    def created_at(self) -> dt.datetime:
        """When the session began (aware, UTC)."""
        return self._get_session().created_at

    @property
    def expires_at(self) -> dt.datetime:
        """When it ends if nobody uses it any more (aware, UTC)."""
        return self._get_session().expires_at

    @property
    def authenticated_at(self) -> dt.datetime | None:
        """When the user last logged in (aware, UTC); None: nobody is logged in."""
        return self._get_session().authenticated_at

    @property
    def level(self) -> int:
        """How sure it is who the user is. As `Session.level`: a plain log-in is 1, and 0 says that it is nobody."""
        return self._get_session().level

    @property
    def proofs(self) -> tuple[Proof, ...]:
        """What was said to `reauthenticated` since the log-in. As `Session.proofs`."""
        return self._get_session().proofs

    def reauthenticated(self, *, level: int = 1, method: str | None = None) -> None:
        """Say that the same user has just proved who they are again. The session gets a new key.

        As `Session.reauthenticated`. Raises ValueError.
        """
        self._get_session().reauthenticated(level=level, method=method)
        self._is_cycled = self.modified = True

    def require_recent(self, seconds: Seconds) -> None:
        """As `Session.require_recent`. Raises LoginTooOld, ValueError."""
        self._get_session().require_recent(seconds)

    def require_level(self, level: int, *, within: Seconds | None = None) -> None:
        """As `Session.require_level`. Raises LevelTooLow, ValueError."""
        self._get_session().require_level(level, within=within)

    def peek(self, key: str, default: Any = None) -> Any:
        """As `Session.peek`: a copy of a value, without renewing the session."""
        return self._get_session().peek(key, default)

    def change(self, key: str, function: Callable[[Any], Any], default: Any = None) -> Any:
        """As `Session.change`: read, modify and write one key, so that no concurrent request can undo it."""
        value = self._get_session().change(key, function, default)
        self.modified = True
        return value

    async def achange(self, key: str, function: Callable[[Any], Any], default: Any = None) -> Any:
        """As `change`. `function` is a plain function."""
        value = (await self._aget_session()).change(key, function, default)
        self.modified = True
        return value
