"""The signed cookie values that were verified lately: no hash is made twice for them.

A card is remembered with what follows from it and the secret keys alone: its session ID, the store key and the secret
that opens the data. Whether there is such a session is asked of the store each time. Only genuine cards are remembered,
and not too many. They belong to one set of secret keys and one process.
"""

from __future__ import annotations

from typing import NamedTuple

from roomkey.stores.forks import at_fork
from roomkey.wire.envelope import Envelope
from roomkey.wire.keys import Keyring, store_key

__all__ = ["Card", "Cards"]

_LONGEST_HEADER = 1024  # bytes
_MOST = 4096  # cards in each of two generations; one takes about 400 bytes


class Card(NamedTuple):
    """A genuine card."""

    session_id: bytes
    key: str  # in the store
    secret: bytes  # for the envelope
    is_old: bool  # signed with another secret key than the first

    def __repr__(self) -> str:
        return f"Card({self.key!r})"  # without the ID and the secret


class Cards:
    """The cards of one configuration.

    Args:
        keyring: verifies them.
        envelope: derives the secret.
    """

    def __init__(self, keyring: Keyring, envelope: Envelope) -> None:
        self._keyring = keyring
        self._envelope = envelope
        # Two generations: when the young one is full, it becomes the old one, and the cards of that go.
        self.young: dict[bytes, Card] = {}
        self._old: dict[bytes, Card] = {}
        self.by_header: dict[bytes, Card] = {}  # by the `Cookie` header that they came in
        at_fork(self)

    def verify(self, value: bytes) -> Card | None:
        """Return the card that `value` is; None when it is not one that these keys signed."""
        card = self.young.get(value)
        if card is not None:
            return card
        card = self._old.get(value)
        if card is None:
            session_id = self._keyring.verify(value)
            if session_id is None:
                return None
            secret = self._envelope.secret_of(session_id)
            card = Card(session_id, store_key(session_id), secret, self._keyring.is_old(value))
        if len(self.young) >= _MOST:
            self._old, self.young = self.young, {}
        self.young[value] = card
        return card

    def remember(self, sent: bytes, card: Card) -> None:
        """Remember which card a whole `Cookie` header holds: a browser sends the same one again and again."""
        if 0 < len(sent) <= _LONGEST_HEADER:
            if len(self.by_header) >= _MOST:
                self.by_header = {}
            self.by_header[sent] = card

    def after_fork(self) -> None:
        """In the child of a fork: begin with none."""
        self.young, self._old, self.by_header = {}, {}, {}
