"""Values that a view of a session has handed out, and that the session itself does not hold.

They are defaults of what is missing in the session, or objects that were made of plain data in it. Where a handler
changes one in place, the session takes it in before it is saved (`roomkey.shapes`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from roomkey.core.intents import MISSING
from roomkey.wire import codec

__all__ = ["Lent"]

_Session = Any  # a `Session`, which is not imported: it imports `ports`, and that this module


class _Value(NamedTuple):
    """One that was handed out."""

    value: Any
    write: Callable[[Any], Any]  # makes plain data of it
    stored: bytes | None  # fingerprint of what the session held under the key
    plain: bytes | None  # fingerprint of the value as plain data
    after_clear: bool  # whether the session had been cleared by then


class Lent:
    """Those of one request. `told`: what was reported of its session already."""

    __slots__ = ("_values", "told")

    def __init__(self) -> None:
        self._values: dict[str, _Value] = {}
        self.told: set[object] = set()

    def get(self, session: _Session, key: str) -> Any:
        """Return the value that was handed out for a key; None: there is none, or the session holds another by now."""
        lent = self._values.get(key)
        return lent.value if lent is not None and self._holds(session, key, lent) else None

    def add(self, session: _Session, key: str, value: Any, write: Callable[[Any], Any]) -> None:
        """Note that a value is handed out for a key.

        Args:
            session: the session.
            key: which one.
            value: what is handed out.
            write: makes plain data of it.
        """
        stored, plain = _fingerprint(session, key), codec.fingerprint(write(value))
        self._values[key] = _Value(value, write, stored, plain, session._intents.cleared)

    def drop(self, key: str) -> None:
        """Forget what was handed out for a key."""
        self._values.pop(key, None)

    def take_in(self, session: _Session) -> None:
        """Put into the session what was changed in place. What the session holds otherwise by now stays."""
        for key, lent in [*self._values.items()]:
            if not self._holds(session, key, lent):
                self.drop(key)
                continue
            plain = lent.write(lent.value)
            after = codec.fingerprint(plain)
            if after is None or after != lent.plain:
                _put(session, key, plain)
                self._values[key] = lent._replace(stored=after, plain=after)

    @staticmethod
    def _holds(session: _Session, key: str, lent: _Value) -> bool:
        is_before = session._intents.cleared and not lent.after_clear
        return not is_before and _fingerprint(session, key) == lent.stored


def _put(session: _Session, key: str, plain: Any) -> None:
    """Put in what a handler has changed in place.

    That is no assignment: of a session that becomes another user's, what is only changed stays behind.
    """
    if dict.__contains__(session, key):
        dict.__setitem__(session, key, plain)
        session._share()
    else:
        session[key] = plain


def _fingerprint(session: _Session, key: str) -> bytes | None:
    return codec.fingerprint(dict.__getitem__(session, key)) if dict.__contains__(session, key) else MISSING
