"""What a handler asked of its session beside changing the content."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from roomkey.errors import SessionDataError

__all__ = [
    "AS_IT_IS",
    "CSRF",
    "FLASHES",
    "MISSING",
    "NOTHING",
    "Change",
    "Intents",
    "Says",
    "check_own_keys",
    "drop_token",
    "sorted_out",
    "without_others_keys",
]

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


class Says(NamedTuple):
    """What `Session.reauthenticated` says that the user has proved, beside the plain log-in."""

    level: int
    method: str  # empty: it was not said
    user: str | None  # who was logged in: it is no proof for anybody who logs in later


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
    proofs: tuple[Says, ...] = ()  # with `reauthenticated`
    # Which session is to stand in the place of this one, as `Facts.acting` has it. Empty: none. None: as it is.
    acting: bytes | None = None

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
            or self.acting is not None
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
            later.proofs if later.cleared else self.proofs + later.proofs,
            self.acting if later.acting is None and not later.cleared else later.acting,
        )


NOTHING = Intents()


def check_own_keys(data: dict[str, Any]) -> None:
    """Refuse what an app has put under one of Roomkey's own keys, unless it is what Roomkey puts there itself.

    Raises:
        SessionDataError: names the key and the way to do it.
    """
    for key, is_right, instead in _OWN_KEYS:
        if dict.__contains__(data, key) and not is_right(dict.__getitem__(data, key)):
            raise SessionDataError(f"session[{key!r}] is a key of Roomkey's own: {instead}, or take another key")


def sorted_out(waiting: list[Any], seen: list[Any]) -> tuple[list[Any], list[Any]]:
    """Return which of the messages that wait were there to see, and the others.

    In a session that somebody has logged into meanwhile, the others are for them.
    """
    mine, taken, left = list(seen), [], []
    for message in waiting:
        if message in mine:
            mine.remove(message)
            taken.append(message)
        else:
            left.append(message)
    return taken, left


def without_others_keys(data: dict[str, Any]) -> dict[str, Any]:
    """Return another library's session without what it keeps under one of Roomkey's own keys."""
    others = {key for key, is_right, _ in _OWN_KEYS if key in data and not is_right(data[key])}
    return {key: value for key, value in data.items() if key not in others} if others else data


def _are_flashes(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(each, tuple | list) and len(each) == 2 and isinstance(each[0], str) for each in value
    )


def _are_secrets(value: object) -> bool:
    return isinstance(value, list) and all(each is None or isinstance(each, str) for each in value)


_OWN_KEYS = (
    (FLASHES, _are_flashes, "leave messages with session.flash()"),
    (CSRF, _are_secrets, "make tokens with roomkey.csrf.csrf_token()"),
)


def drop_token(data: dict[str, Any], user: str | None) -> None:
    """Forget the secrets of `roomkey.csrf`, unless made for this user: tokens do not outlive a change of user."""
    if not dict.__contains__(data, CSRF):
        return
    kept = dict.get(data, CSRF)
    if not (isinstance(kept, list) and kept and kept[0] == user):
        dict.pop(data, CSRF)
