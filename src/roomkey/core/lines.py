"""Requests of one process that change one session at the same time are saved together.

While one of them saves, the others wait in a line. Then their changes are laid over each other and saved in one swap.
Only plain changes stand in line: a log-in, a log-out, a rotation, another lifetime and messages that are shown have a
swap of their own.
"""

from __future__ import annotations

import contextvars
import secrets
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from roomkey.core.case import Case, Plan, Step
from roomkey.core.intents import FLASHES, NOTHING
from roomkey.core.loaded import Loaded
from roomkey.core.plan import plan
from roomkey.core.rules import Rules
from roomkey.errors import StoreUnavailable
from roomkey.wire.codec import MARK_BYTES

if TYPE_CHECKING:
    import asyncio  # at run time it is imported where it is used: it is half of the time that `import roomkey` takes

__all__ = ["Batch", "Line", "Lines", "Member", "can_wait", "laid_over_each_other"]


class Member:
    """One request's changes, in a line."""

    def __init__(self, case: Case, done: asyncio.Future[Loaded | None]) -> None:
        self.case = case
        self.context: contextvars.Context = contextvars.copy_context()  # in which functions of `Session.change` run
        self.done = done  # the session as it was saved; None: this request has to save by itself
        self.step: Plan | None = None  # what it contributed to the swap that was tried last
        self.batch: Batch | None = None  # of the swap that is under way, with its changes

    def finish(self, after: Loaded | None) -> None:
        """Tell the request what came of it. It may be gone by now."""
        if not self.done.done():
            self.done.set_result(after)

    def save_alone(self) -> None:
        """Have the request save by itself."""
        self.finish(None)

    def fail(self, error: BaseException) -> None:
        """Tell the request that it was not saved, or may not have been."""
        if not self.done.done():
            self.done.set_exception(error)


class Batch(NamedTuple):
    """What several requests changed, as one save."""

    members: list[Member]
    over: Loaded  # what is swapped
    after: Loaded  # the session afterwards; its record is not sealed yet
    mark: bytes  # names this swap; empty: to do it twice is to do it once


class Line:
    """The requests that wait for one session."""

    def __init__(self) -> None:
        self.waiting: list[Member] = []

    def fail(self, why: str) -> None:
        """Tell the requests that still wait that they are not saved: none of them tries a store that fails."""
        waiting, self.waiting = self.waiting, []
        for member in waiting:
            member.fail(StoreUnavailable(why))

    def fail_all(self, members: list[Member], error: BaseException) -> None:
        """Tell requests whose swap was not answered. Each gets an error of its own."""
        for member in members:
            if isinstance(error, StoreUnavailable):
                member.fail(StoreUnavailable(str(error), retry_after=error.retry_after))
            else:
                member.fail(StoreUnavailable(f"the save of several requests failed: {type(error).__name__}"))


class Lines:
    """The lines of one configuration."""

    def __init__(self) -> None:
        self._lines: dict[tuple[int, str], Line] = {}

    def enter(self, key: str) -> tuple[Line, bool]:
        """Return the line for a session in this event loop, and whether it is new: then the caller saves first."""
        import asyncio

        place = (id(asyncio.get_running_loop()), key)
        line = self._lines.get(place)
        if line is not None:
            return line, False
        line = self._lines[place] = Line()
        return line, True

    def has(self, key: str) -> bool:
        """Whether a request saves this session now, in any event loop."""
        return any(each == key for _, each in self._lines)

    def leave(self, key: str) -> None:
        """Close the line: nobody waits in it any more."""
        import asyncio

        self._lines.pop((id(asyncio.get_running_loop()), key), None)


def can_wait(rules: Rules, case: Case) -> bool:
    """Whether a request only changes values: it may be saved together with others."""
    was, draft, intents = case.was, case.draft, case.draft.intents
    if not was.exists or case.ends or case.tried or case.moves_in or not case.user_asks:
        return False
    if intents is not NOTHING and (intents.needs_saving or any(change.key == FLASHES for change in intents.changes)):
        return False
    return rules.user_of(draft.content) == was.user and not rules.changes_rights(was.encoded, draft.content)


def laid_over_each_other(rules: Rules, members: list[Member], fresh: Loaded, now: float) -> Batch | None:
    """Return the changes of several requests as one save over what is stored; None: there is nothing to save.

    A request whose function raises, or whose values cannot be stored, hears of it and is left out. So is one that is
    not for this session any more: it saves by itself.
    """
    marked = any(member.case.draft.intents.changes for member in members)
    mark = secrets.token_bytes(MARK_BYTES) if marked else b""
    current, taken = fresh, list[Member]()
    for member in members:
        if member.done.done():  # it was cut off
            continue
        if member.case.was.user not in (None, fresh.user):
            member.save_alone()
            continue
        draft = member.case.draft
        draft = draft._replace(mark=mark if draft.intents.changes and not current.facts.has_mark(mark) else b"")
        try:
            step = member.context.run(plan, rules, member.case._replace(draft=draft, fresh=current, now=now))
        except Exception as error:
            member.fail(error)
            continue
        if step.step is not Step.SAVE or step.unseen or step.is_lost or step.then is not None:
            member.save_alone()
            continue
        member.step = step
        taken.append(member)
        record = replace(step.record, version=fresh.record.version)  # one version for all of them
        current = current._replace(record=record, encoded=record.data, facts=step.facts, user=record.user)
    if not taken:
        return None
    record = replace(current.record, version=fresh.record.version + 1)
    return Batch(taken, fresh, current._replace(record=record), mark)
