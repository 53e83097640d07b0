"""What a user's ID is, and the text that stores keep for it."""

from __future__ import annotations

from uuid import UUID

from roomkey.errors import SessionDataError
from roomkey.wire import codec

__all__ = ["NO_ID", "can_be_filed", "checked_text", "text_of"]

NO_ID = "\0"  # the text of what is no ID: no user has it
_TYPES = (int, str, UUID)
_USUAL = 10**18  # integers below it are IDs of which nothing more has to be asked
_LONGEST = 1000  # bytes; an index of PostgreSQL's takes 2,700


def text_of(user: object) -> str | None:
    """Return a user's ID as text. None: nobody's, as for an empty text. No value raises: it may come from a store."""
    if user is None:
        return None
    kind = type(user)
    if kind is not int and kind is not str and not _is_id(user):  # spelled out: the way of every request
        return NO_ID
    try:
        return str(user) or None
    except ValueError:  # Python does not print huge integers
        return NO_ID


def checked_text(key: str, user: object) -> str | None:
    """Return a user's ID as text, and check that it is one. Two users must never be the same text.

    Args:
        key: the session key that has this value, for the error.
        user: the value. None is nobody.

    Raises:
        SessionDataError: the value is no user's ID.
    """
    if user is None:
        return None
    if type(user) is int and -_USUAL < user < _USUAL:
        return str(user)
    if not _is_id(user):
        raise SessionDataError(
            f"session[{key!r}] is of type {type(user).__name__}; a user's ID is an int, a str or a UUID (or use "
            "another user_key in SessionConfig)"
        )
    text = text_of(user) or ""
    is_huge = text == NO_ID and not isinstance(user, str)
    if is_huge or len(text.encode("utf-8", "surrogatepass")) > _LONGEST:
        raise SessionDataError(f"session[{key!r}] is longer than {_LONGEST} bytes, which is no user's ID")
    if not can_be_filed(text):
        raise SessionDataError(
            f"session[{key!r}] holds a NUL or half a character (a lone surrogate), which databases do not keep"
        )
    return text or None


def can_be_filed(text: str) -> bool:
    """Whether every store has a text for it."""
    return "\0" not in text and not codec.has_surrogates(text)


def _is_id(user: object) -> bool:
    return isinstance(user, _TYPES) and not isinstance(user, bool)
