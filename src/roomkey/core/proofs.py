"""What the user of a session has proved, and when: the part of `Session` that dangerous steps ask.

A level says how sure it is who the user is. A plain log-in is level 1, as NIST SP 800-63B counts them (AAL1 to AAL3).
What the higher levels mean is for the app to say.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, NamedTuple

from roomkey.core.intents import CSRF, Intents, Says
from roomkey.core.tracked import TrackedDict
from roomkey.errors import ImpersonationError, LevelTooLow, LoginTooOld
from roomkey.options import Seconds, is_number, seconds_of
from roomkey.wire.codec import has_surrogates
from roomkey.wire.facts import LONGEST_METHOD

if TYPE_CHECKING:
    from roomkey.core.ports import Transaction

__all__ = ["HIGHEST_LEVEL", "Proof", "Proofs", "checked_level"]

HIGHEST_LEVEL = 9


class Proof(NamedTuple):
    """What a user has proved: one entry of `Session.proofs`."""

    level: int
    """How sure it makes who the user is: 1 to 9."""
    method: str | None
    """The app's word for how it was proved, such as "totp". None: it was not said."""
    at: dt.datetime
    """When (aware, UTC)."""


class Proofs(TrackedDict):
    """Of a session."""

    __slots__ = ()

    if TYPE_CHECKING:
        _intents: Intents
        _transaction: Transaction | None

        def _attached(self) -> Transaction: ...

    @property
    def authenticated_at(self) -> dt.datetime | None:
        """When the user last logged in (aware, UTC); None: nobody is logged in, or it was in another library.

        What another request has proved since this one came does not count, for this one may have a stolen cookie.
        """
        self._accessed = True
        moment = self._attached().authenticated_at
        return None if moment is None else dt.datetime.fromtimestamp(moment, dt.UTC)

    @property
    def level(self) -> int:
        """How sure it is who the user is: the highest level that was proved since the log-in, however long ago.

        A plain log-in is 1. 0: nobody is logged in. What another request proves while this one runs does not count.
        """
        self._accessed = True
        return self._attached().level

    @property
    def proofs(self) -> tuple[Proof, ...]:
        """What was said to `reauthenticated` since the log-in, the newest at the end.

        The last moment of each method and level is kept, and at most 8 of them. A call without either is none of them,
        and neither is the log-in: `authenticated_at` has those moments.
        """
        self._accessed = True
        proved = self._attached().proofs
        return tuple(
            Proof(level, method or None, dt.datetime.fromtimestamp(at, dt.UTC)) for level, method, at in proved
        )

    def reauthenticated(self, *, level: int = 1, method: str | None = None) -> None:
        """Say that the same user has just proved who they are again; the session gets a new ID (OWASP ASVS 7.2.4).

        What was proved is kept with the moment. It counts for the user who is logged in when this is called, so at a
        log-in call it after `session["user_id"] = ...`. A change of user and a log-out forget it, and a rotation does
        not.

        Args:
            level: how sure this makes who the user is, from 1 to 9. A plain log-in is 1.
            method: your word for how it was proved, such as "totp", in at most 32 bytes. None: it is not kept.

        Raises:
            ValueError: `level` or `method` is something else.
            ImpersonationError: somebody acts for the user in this session.

        Example:
            >>> import asyncio
            >>> from roomkey import SessionManager
            >>> manager = SessionManager(secret_key="k" * 32, store="memory://")
            >>> session = asyncio.run(manager.load(b""))
            >>> session["user_id"] = 7
            >>> session.reauthenticated(level=2, method="totp")
            >>> session.level
            2
        """
        checked_level(level, "reauthenticated")
        if method is not None and not _is_method(method):
            raise ValueError(f"reauthenticated: method is {method!r}; it takes a text of 1 to {LONGEST_METHOD} bytes")
        self._check_own("reauthenticated")
        says = self._intents.proofs
        if level > 1 or method is not None:
            says = (*says, Says(level, method or "", self._attached().present_user()))
        self._accessed = self._changed = True
        dict.pop(self, CSRF, None)
        self._intents = self._intents._replace(reauthenticated=True, proofs=says)

    def require_recent(self, seconds: Seconds) -> None:
        """Refuse a dangerous step when the log-in is too long ago (OWASP ASVS 7.5.1).

        Args:
            seconds: how long ago it may be, in seconds or as a `timedelta`.

        Raises:
            LoginTooOld: it is longer ago, or nobody is logged in. Ask for the password, then call `reauthenticated`.
            ConfigurationError: the session may come from memory (`near_cache`), and to ask the store needs an `await`:
                name the route in `fresh`, or call `await session.refresh()` before.
            ValueError: `seconds` is not a number.
        """
        span: float = seconds_of(seconds)
        if not is_number(span) or span != span:
            raise ValueError(f"require_recent: seconds is {seconds!r}; it takes a number, or a timedelta")
        self._ask_store("session.require_recent")
        moment = self._attached().authenticated_at
        if moment is None or self._attached().now() - moment > span:
            raise LoginTooOld("this step needs a recent log-in; ask the user to log in again")

    def require_level(self, level: int, *, within: Seconds | None = None) -> None:
        """Refuse a dangerous step when it is not sure enough who the user is (OWASP ASVS 7.5.3).

        A proof of a higher level counts for a lower one.

        Args:
            level: how sure it has to be, from 1 to 9. A plain log-in is 1.
            within: how long ago a proof of that level may be, in seconds or as a `timedelta`. None: it counts until
                the log-out.

        Raises:
            LevelTooLow: there is no such proof, or it is longer ago, or nobody is logged in. It has `level` and
                `within`. Ask for the proof, then call `reauthenticated(level=...)`.
            ConfigurationError: as for `require_recent`.
            ValueError: `level` or `within` is no such number.
        """
        checked_level(level, "require_level")
        span: float | None = seconds_of(within)
        if span is not None and not (is_number(span) and span == span):
            raise ValueError(f"require_level: within is {within!r}; it takes a number, a timedelta, or None")
        self._ask_store("session.require_level")
        transaction = self._attached()
        if transaction.level < level:
            raise LevelTooLow(f"this step needs a proof of level {level}", level=level, within=span)
        if span is None:
            return
        moments = [each.moment for each in transaction.proofs if each.level >= level]
        if level == 1 and transaction.authenticated_at is not None:
            moments.append(transaction.authenticated_at)
        if not moments or transaction.now() - max(moments) > span:
            raise LevelTooLow(f"this step needs a recent proof of level {level}", level=level, within=span)

    def _ask_store(self, what: str) -> None:
        """Have the session be what the store says, where it came from memory. `what`: who asks, for the error."""
        self._accessed = True
        nearby = getattr(self, "_nearby", None)
        if nearby is not None:
            nearby.ask_now(self, what)

    def _check_own(self, what: str) -> None:
        """Refuse what nobody may do who acts for the user. Raises ImpersonationError."""
        if self._transaction is not None and self._transaction.actor is not None:
            raise ImpersonationError(f"{what}: somebody acts for the user in this session; stop that first")


def checked_level(level: object, who: str) -> int:
    """Return a level. Raises ValueError where it is none. `who`: what it was given to, for the error."""
    if isinstance(level, bool) or not isinstance(level, int) or not 1 <= level <= HIGHEST_LEVEL:
        raise ValueError(f"{who}: level is {level!r}; it takes a number from 1 to {HIGHEST_LEVEL}")
    return level


def _is_method(method: object) -> bool:
    return isinstance(method, str) and not has_surrogates(method) and 0 < len(method.encode()) <= LONGEST_METHOD
