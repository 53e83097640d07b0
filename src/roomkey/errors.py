"""Every error and warning that Roomkey raises on purpose.

    RoomkeyError
    ├── ConfigurationError   an option is wrong (also a ValueError)
    ├── SessionDataError     a value cannot be stored, or the session is too large (also a TypeError)
    ├── SessionEnded         the session was ended while this request ran
    ├── LoginTooOld          `session.require_recent`: the user is to log in again
    ├── LevelTooLow          `session.require_level`: the user is to prove more, or the same again
    ├── ImpersonationError   somebody acts for a user, and may not do this in the user's name
    ├── ResponseStarted      a new cookie is due, but the headers have left
    ├── CSRFError            `roomkey.csrf`: another site had the browser make this request
    └── StoreUnavailable     the store is down, slow, full or damaged

    WeakSecretWarning        a secret key is short enough to be guessed

`Conflict`, which stores raise, is part of the store contract: see `roomkey.stores.base`.
"""

from __future__ import annotations

__all__ = [
    "CSRFError",
    "ConfigurationError",
    "ImpersonationError",
    "LevelTooLow",
    "LoginTooOld",
    "ResponseStarted",
    "RoomkeyError",
    "SessionDataError",
    "SessionEnded",
    "StoreUnavailable",
    "WeakSecretWarning",
]


class RoomkeyError(Exception):
    """The root of every error that Roomkey raises on purpose."""


class ConfigurationError(RoomkeyError, ValueError):
    """An option is wrong. The message names the option, what it got and what it takes."""


class SessionDataError(RoomkeyError, TypeError):
    """A value cannot be stored, or is no user's ID. Nothing was saved.

    The message names the session's key and the type. Of what lies below that key it says only how deep it is: keys
    further down are session data.
    """


class SessionEnded(RoomkeyError):
    """The session was ended (logged out, revoked, expired) while this request was running.

    It is also raised for a request that began before a log-in, when it saves more than a minute after it.
    """


class LoginTooOld(RoomkeyError):
    """The last log-in is longer ago than this step allows, or there was none. Ask for the password again."""


class LevelTooLow(RoomkeyError):
    """The user has not proved enough for this step, or too long ago, or nobody is logged in.

    Send a user who is logged in to the page that asks for the proof, and have it call `session.reauthenticated` with
    this level. Send anybody else to the log-in.

    Args:
        message: what is missing.
        level: the level that the step needs.
        within: seconds for which such a proof counts; None: as long as the session lives.
    """

    def __init__(self, message: str, *, level: int, within: float | None = None) -> None:
        super().__init__(message)
        self.level = level
        self.within = within


class ImpersonationError(RoomkeyError):
    """Somebody acts for a user (`Session.impersonate`), and may not do this in the user's name. Nothing was saved.

    They cannot log in, prove who the user is, be remembered, change the ID, or act for one more.
    """


class CSRFError(RoomkeyError):
    """`CSRFMiddleware` does not let a request pass: it answers 403. The app's exception handlers may make its page."""


class ResponseStarted(RoomkeyError):
    """The session needs a cookie (with `card_header`, a header) that can no longer be sent. Nothing was saved.

    Create or rotate a session before the response starts (before `websocket.accept` for a WebSocket).
    """


class StoreUnavailable(RoomkeyError):
    """The store did not do what it was asked, or not in time.

    Args:
        message: what failed and the way out, without IDs, keys or data.
        retry_after: seconds after which a client may try again.
    """

    def __init__(self, message: str, *, retry_after: int = 5) -> None:
        super().__init__(message)
        self.retry_after = retry_after

    @classmethod
    def within(cls, error: BaseException) -> StoreUnavailable | None:
        """Return the `StoreUnavailable` that an error is, or that is inside its `ExceptionGroup`.

        A task group raises an `ExceptionGroup`, and so may its tasks.

        Args:
            error: what a handler raised.

        Returns:
            The error itself where it is a `StoreUnavailable`, or the first one in a group. None: there is none.
        """
        waiting = [error]
        while waiting:
            each = waiting.pop()
            if isinstance(each, cls):
                return each
            if isinstance(each, BaseExceptionGroup):
                waiting.extend(reversed(each.exceptions))
        return None


class WeakSecretWarning(UserWarning):
    """A secret key is shorter than 32 bytes."""
