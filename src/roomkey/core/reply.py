"""What a response does with the session's cookie."""

from __future__ import annotations

import enum

__all__ = ["CLEAR", "GIVE", "KEEP", "NONE", "SEVERAL", "Carries", "Cookie", "Reply"]


class Cookie(enum.Enum):
    """What the response does with the cookie."""

    KEEP = "keep"  # nothing: what the browser holds is right, or another response sends the new one
    GIVE = "give"
    CLEAR = "clear"


class Carries(enum.Enum):
    """How many cookies the response can still carry."""

    SEVERAL = "several"
    ONE = "one"  # it is made of an exception, whose headers are a dict
    NONE = "none"  # it has started


# Bound once: to look up a member of an enumeration takes longer than a call.
KEEP, GIVE, CLEAR = Cookie.KEEP, Cookie.GIVE, Cookie.CLEAR
SEVERAL, NONE = Carries.SEVERAL, Carries.NONE


class Reply:
    """What one response says to the browser."""

    cookie: Cookie = KEEP
    card: bytes = b""  # the signed cookie value, for Cookie.GIVE
    visitor: bytes | None = None  # the signed value that a visitor's CSRF token is bound to; None: it is not to be sent
    ends_visitor: bool = False  # whether that cookie is taken back, also where the request did not bring it
    only_renews: bool = False  # whether the card is of an ID that the browser has
    logs_out = False  # whether cookies of other paths and domains are to go too, where the server keeps no session
    clears_site = False  # whether the browser is to forget what it keeps of the site, after a log-out
    is_early: bool = False  # decided before the response's own commit: to be looked at again
    carries: Carries = SEVERAL
    saves = True  # False: saving raised, or the request was abandoned, and nothing more of it is saved

    def give(self, card: bytes, *, only_renews: bool = False) -> None:
        """Send this card, which is the newest. `only_renews`: the browser has one of this ID."""
        self.only_renews = only_renews and (self.only_renews or self.cookie is not GIVE)
        self.cookie, self.card, self.is_early = GIVE, card, False

    def close(self) -> None:
        """Note that the response has started: it carries no more cookies."""
        self.carries = NONE

    @property
    def is_open(self) -> bool:
        """Whether a cookie can still go out."""
        return self.carries is not NONE

    def take_back(self) -> None:
        """Clear the cookie, where the response can still carry one."""
        if self.is_open:
            self.cookie = CLEAR

    def end_visitor(self) -> None:
        """Take back the cookie of a visitor's CSRF tokens, where the response can still carry one."""
        self.ends_visitor = self.is_open

    def withhold(self) -> None:
        """Send no card: another response carries the one that counts."""
        if self.cookie is GIVE:
            self.cookie = KEEP
