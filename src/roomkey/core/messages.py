"""Messages for the user's next page, or for this one: left, taken, shown, kept.

What waits for the next page lies in the session, so that every request's changes of it are merged. What is for this
page only lies with the request.
"""

from __future__ import annotations

from typing import Any

from roomkey.core.intents import FLASHES, check_own_keys, sorted_out
from roomkey.errors import SessionEnded

__all__ = ["Messages", "keep", "leave", "show", "take"]

Message = tuple[str, Any]  # a category, and the message
Session = Any  # that of `roomkey.core.session`, which imports this module

_MOST = 50  # messages that wait to be shown


class Messages:
    """What one request has to do with messages."""

    __slots__ = ("for_this_page", "shown")

    def __init__(self) -> None:
        self.for_this_page: list[Message] = []  # not shown yet
        self.shown: list[Message] = []  # taken by this request


def leave(session: Session, message: Any, category: str, *, now: bool) -> None:
    """Leave a message for the next page, or for this one."""
    if now:
        _messages_of(session).for_this_page.append((category, message))
        return
    check_own_keys(session)
    session.change(FLASHES, lambda waiting: [*waiting, (category, message)][-_MOST:], default=[])


async def take(session: Session) -> list[Message]:
    """Take what waits out of the store, and what is for this page."""
    session._accessed = True
    check_own_keys(session)
    found = await _taken(session)
    return found if session._transaction is None else _for_this_page(session, found)


def show(session: Session) -> list[Message]:
    """Return what waits, and what is for this page. It is taken out of the store with the response."""
    session._accessed = True
    check_own_keys(session)
    seen = list(dict.get(session, FLASHES) or ())
    if seen:
        # Runs again on what is fresh: what others leave meanwhile waits on.
        session.change(FLASHES, lambda waiting: sorted_out(waiting, seen)[1], default=[])
    elif session._transaction is None:
        return []
    return _for_this_page(session, seen)


def keep(session: Session) -> None:
    """Have what this request has taken wait for one more page."""
    messages = _messages_of(session)
    kept, messages.shown = messages.shown, []
    if kept:
        check_own_keys(session)
        session.change(FLASHES, lambda waiting: [*kept, *waiting][-_MOST:], default=[])


async def _taken(session: Session) -> list[Message]:
    seen = list(dict.get(session, FLASHES) or ())
    if not seen:
        return []
    taken: list[Message] = []

    def sort_out(waiting: list[Message]) -> list[Message]:
        # Runs again on what is fresh: what the swap that won has found, counts.
        taken[:], left = sorted_out(waiting, seen)
        return left

    session.change(FLASHES, sort_out, default=[])
    try:
        await session._attached().save()
    except SessionEnded:
        return []
    except BaseException:
        if dict.__contains__(session, FLASHES):  # else another task has logged out meanwhile
            session.change(FLASHES, lambda waiting: [*taken, *waiting][-_MOST:], default=[])
        raise
    return taken if dict.__contains__(session, FLASHES) else []


def _for_this_page(session: Session, found: list[Message]) -> list[Message]:
    messages = _messages_of(session)
    all_of_them: list[Message]
    all_of_them, messages.for_this_page = [*found, *messages.for_this_page], []
    messages.shown += all_of_them
    return all_of_them


def _messages_of(session: Session) -> Messages:
    transaction = session._attached()
    messages: Messages = transaction.messages or Messages()
    transaction.messages = messages
    return messages
