"""What a handler asked of its session beside changing the content."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

__all__ = ["AS_IT_IS", "CSRF", "FLASHES", "MISSING", "NOTHING", "Change", "Intents", "drop_token"]

FLASHES = "_flashes"  # the session's key for messages that wait to be shown
CSRF = "_csrf"  # the session's key for a user and the secrets that `roomkey.csrf` made for them; rotates with the ID
AS_IT_IS: Final = -1.0  # no lifetime was asked for
MISSING = b""  # in the place of a value's fingerprint: the key was not there


class Change(NamedTuple):
    """One call of `Session.change`, kept so that it can run again on a fresh value."""

    key: str
    function: Callable[[Any], Any]
    default: Any
    before: bytes | None  # fingerprint of the value that `function` got; None: it is none that a session keeps
    after: bytes | None  # of the value that it returned

    def run(self, value: Any) -> Any:
        """Return the new value; raises TypeError where `function` gives none."""
        value = self.function(value)
        if value is None:
            raise TypeError(f"change: the function for {self.key!r} returned None; it has to return the new value")
        return value


class Intents(NamedTuple):
    """What was asked since the last save."""

    rotate: float | None = None  # seconds of grace; None: no rotation was asked for
    ended: bool = False  # by `invalidate`
    cleared: bool = False  # by `clear`: empty all the same when it is saved, it was a log-out
    lifetime: float | None = AS_IT_IS  # seconds; None: the configuration's
    reauthenticated: bool = False
    marked: bool = False  # by `mark_modified`: to be saved, be it as it was or not
    changes: tuple[Change, ...] = ()
    refused: Exception | None = None  # by a function of `change` that ran again: for the task that saves next to hear

    @property
    def needs_saving(self) -> bool:
        """Whether there is something to save, be the content as it was or not."""
        return (
            self.rotate is not None
            or self.ended
            or self.cleared
            or self.lifetime != AS_IT_IS
            or self.reauthenticated
            or self.marked
        )

    @property
    def logs_out(self) -> bool:
        """Whether the session is to end with everything in it, whichever request put it there."""
        return self.ended or self.cleared

    def then(self, later: Intents) -> Intents:
        """Return what was asked, and what was asked after it, as one value."""
        if self is NOTHING:
            return later
        if later is NOTHING:
            return self
        return Intents(
            self.rotate if later.rotate is None else later.rotate,
            self.ended or later.ended,
            self.cleared or later.cleared,
            self.lifetime if later.lifetime == AS_IT_IS else later.lifetime,
            self.reauthenticated or later.reauthenticated,
            self.marked or later.marked,
            later.changes if later.cleared else self.changes + later.changes,
            later.refused if later.cleared else self.refused or later.refused,
        )


NOTHING = Intents()


def drop_token(data: dict[str, Any], user: str | None) -> None:
    """Forget the secrets of `roomkey.csrf`, unless made for this user: tokens do not outlive a change of user."""
    if not dict.__contains__(data, CSRF):
        return
    kept = dict.get(data, CSRF)
    if not (isinstance(kept, list) and kept and kept[0] == user):
        dict.pop(data, CSRF)
