"""What a user's ID is, and the text that stores keep for it.

An `int`, a `str` and a `UUID` with the same text are one user: `1` and `"1"`, a `UUID` and what it prints. Identity
providers, the command line and other libraries' sessions have only the text.
"""

from __future__ import annotations

from uuid import UUID

from roomkey.errors import SessionDataError
from roomkey.wire import codec
from roomkey.wire.kinds import NotKept, plain, shown

__all__ = ["NO_ID", "can_be_filed", "checked_text", "in_session", "text_of"]

NO_ID = "\0"  # the text of what is no ID: no user has it
_USUAL = 10**18  # integers below it are IDs of which nothing more has to be asked
_LONGEST = 1000  # bytes; an index of PostgreSQL's takes 2,700


def text_of(user: object) -> str | None:
    """Return a user's ID as text. None: nobody's, as for an empty text. No value raises: it may come from a store."""
    if user is None:
        return None
    kind = type(user)
    if kind is not int and kind is not str:  # spelled out: the way of every request
        user = _exact(user)
        if user is None:
            return NO_ID
    try:
        return str(user) or None
    except ValueError:  # Python does not print huge integers
        return NO_ID


def checked_text(place: str, user: object) -> str | None:
    """Return a user's ID as text, and check that it is one. Two users must never be the same text.

    Args:
        place: where the value is, for the error.
        user: the value. None is nobody.

    Raises:
        SessionDataError: the value is no user's ID.
    """
    if user is None:
        return None
    if type(user) is int and -_USUAL < user < _USUAL:
        return str(user)
    exact = _exact(user)
    if exact is None:
        raise SessionDataError(
            f"{place} is of type {type(user).__name__}; a user's ID is an int, a str or a UUID (or use another "
            "user_key in SessionConfig)"
        )
    text = text_of(exact) or ""
    is_huge = text == NO_ID and type(exact) is int
    if is_huge or len(text.encode("utf-8", "surrogatepass")) > _LONGEST:
        raise SessionDataError(f"{place} is longer than {_LONGEST} bytes, which is no user's ID")
    if not can_be_filed(text):
        raise SessionDataError(
            f"{place} holds a NUL or half a character (a lone surrogate), which databases do not keep"
        )
    return text or None


def in_session(key: str) -> str:
    """Return how an error names the session's key that says whose session it is."""
    return f"session[{shown(key)}]"


def can_be_filed(text: str) -> bool:
    """Whether every store has a text for it."""
    return "\0" not in text and not codec.has_surrogates(text)


def _exact(user: object) -> int | str | UUID | None:
    """Return a user's ID as exactly one of these types: a member of an enumeration is its value. None: it is none."""
    kind = type(user)
    if kind is int or kind is str or kind is UUID:
        return user  # type: ignore[return-value]
    if kind is bool or not issubclass(kind, (int, str, UUID)):
        return None
    try:
        return _exact(plain(user))
    except NotKept:
        return None
