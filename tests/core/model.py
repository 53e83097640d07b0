"""What must become of sessions, in plain dicts: no store, no versions, no plans.

A session here is one from its beginning to its end, whatever IDs it has had. A card is what a browser sends as its
cookie. The model is told what a request did, and says what is so afterwards; it is a value that can be copied, so that
requests that were answered at the same time can be tried in each order.
"""

import itertools
from dataclasses import dataclass, field

MAX_AGE = 1000.0  # seconds
CAP = 2000.0  # seconds that a session lives at most after its beginning, or its last log-in
AFTER_LOG_IN = 60.0  # seconds for which requests from before a log-in may still save into the session
LATE = 30.0  # seconds after which a request with an old card is no longer one from before a rotation
LIVES = 0.75 * MAX_AGE  # seconds after its last use for which a session surely lives: renewals are throttled

CLEARS = "no card any more"


class Mismatch(Exception):
    """What was seen is not what the model says."""


@dataclass
class Old:
    """A card that a session had before it was given another one."""

    serve_until: float
    user: str | None  # whose the session was then


@dataclass
class Kept:
    """A session."""

    data: dict
    users: list  # whose it was, one after the other
    moments: list  # since when each time
    began: float
    used: float  # when it was surely used last
    seen: float  # when it may have been used last
    card: str = ""
    proved: float | None = None  # when its user logged in, or proved who they are; None: it is nobody's
    is_over: bool = False
    olds: dict = field(default_factory=dict)  # by card

    def copied(self):
        copy = Kept(**vars(self))
        copy.data, copy.olds = dict(self.data), dict(self.olds)
        copy.users, copy.moments = list(self.users), list(self.moments)
        return copy

    @property
    def user(self):
        return self.users[-1]


@dataclass
class Asked:
    """What one request loaded, and what its handler did to it."""

    root: int | None  # its session; None: it found none
    base: dict
    at: float  # when it came
    since: int = 0  # at which of the session's users it came
    proved: float | None = None  # as for `Kept`
    may_begin: bool = True
    lives_until: float = 0.0  # when its session, as it was loaded, expires at the soonest
    mine: dict = field(default_factory=dict)  # the session as the handler sees it
    put: set = field(default_factory=set)  # keys that were assigned
    calls: list = field(default_factory=list)  # of `change` to "n": what the function got, and what it made of it
    cleared: bool = False
    invalidated: bool = False
    rotates: float | None = None  # the grace that was asked for
    proves: bool = False
    is_lost: bool = False  # whether what it did was dropped, for the session has ended
    shows: dict = field(default_factory=dict)  # what its session holds afterwards
    whose: str | None = None  # whose session it wrote into

    @property
    def owner(self):
        return self.base.get("user_id")

    @property
    def user(self):
        return self.mine.get("user_id")

    @property
    def logs_in(self):
        return self.user is not None and (self.user != self.owner or self.cleared)

    @property
    def ends(self):
        return self.invalidated or not self.mine

    @property
    def asks(self):
        """Whether there is anything to save: the same keys in another order are."""
        return (
            list(self.mine.items()) != list(self.base.items())
            or self.cleared
            or self.rotates is not None
            or self.proves
        )

    def counts_again(self):
        """Whether `change` alone made "n" what it is, so that it counts on what others have saved."""
        reached = self.base.get("n")
        for before, after in self.calls:
            if before != reached:
                return False
            reached = after
        return bool(self.calls) and self.mine.get("n") == reached

    def own(self):
        """What the request itself put in."""
        if self.cleared:
            return dict(self.mine)
        own = {key: value for key, value in self.mine.items() if key in self.put or key not in self.base}
        if self.counts_again() and "n" not in own:
            own["n"] = len(self.calls)
        return own

    def over(self, theirs):
        """What the request did, over what others have saved."""
        merged = {key: value for key, value in theirs.items() if key not in self.base or key in self.mine}
        merged |= {key: value for key, value in self.mine.items() if self.base.get(key) != value}
        if self.counts_again():
            merged["n"] = theirs.get("n", 0) + len(self.calls)
        return merged


class Model:
    """All sessions."""

    def __init__(self):
        self.kept = {}  # by number
        self.now = 0.0
        self.rotate_on = ()

    def copied(self):
        copy = Model()
        copy.kept, copy.now = {root: kept.copied() for root, kept in self.kept.items()}, self.now
        copy.rotate_on = self.rotate_on
        return copy

    # --- what is there --------------------------------------------------------------------------------------------

    def is_open(self, kept):
        """Whether a session lives; None: it may have expired or not, since nobody knows exactly when it was renewed."""
        if kept.is_over or self.now >= kept.seen + MAX_AGE or self.now >= kept.began + CAP:
            return False
        return True if self.now < kept.used + LIVES else None

    def note(self, kept, *, is_new):
        """Take in whether a session lives at this moment: of the next one, nothing follows."""
        kept.is_over = is_new
        kept.used = self.now - LIVES + 1e-3

    def alive(self):
        return {root: kept for root, kept in self.kept.items() if self.is_open(kept)}

    def of_user(self, user):
        return [root for root, kept in self.alive().items() if kept.user == user]

    def opened_by(self, card):
        """Return the number of the session that a card opens; None: none. And whether a session may begin there."""
        for root, kept in self.kept.items():
            if card == kept.card:
                return (root if self.is_open(kept) else None), True
            if card in kept.olds:
                way = list(kept.olds.values())[list(kept.olds).index(card) :]
                whose = [old.user for old in way] + [kept.user]
                serves = all(self.now < old.serve_until for old in way)
                if self.is_open(kept) and serves and len(set(whose)) == 1:
                    return root, True
                # The tombstones of a session that was ended go with it, and no browser has a newer card that lives.
                return None, kept.is_over or self.now >= way[0].serve_until + LATE
        return None, True

    # --- what a request does --------------------------------------------------------------------------------------

    def commit(self, asked, card):
        """Do what a request asked.

        Args:
            asked: what it did.
            card: what its response gave: a card, CLEARS, or None.

        Raises:
            Mismatch: its response should have given something else.
        """
        asked.is_lost, asked.shows, asked.whose = False, dict(asked.mine), asked.user
        expected = self._done(asked, card)
        may_renew = card is not None and expected is None and self._is_current(asked, card)
        if not may_renew and card != expected:
            raise Mismatch(f"the response gave {card!r}, and not {expected!r}")

    def _is_current(self, asked, card):
        """Whether a card is the one that the session has, so that it was only sent anew."""
        return asked.root is not None and card == self.kept[asked.root].card

    def _done(self, asked, card):
        if asked.root is None:
            if not asked.mine:
                return None
            if asked.user is None and not asked.may_begin:
                asked.is_lost = True
                return None
            return self._begins(asked.mine, card)
        kept = self.kept[asked.root]
        if not self._is_reached(asked, kept):
            if asked.invalidated and asked.user is not None:
                return self._begins(asked.mine, card)
            if asked.logs_in and not asked.ends:
                asked.shows = asked.own()
                return self._begins(asked.shows, card)
            return self._loses(asked) if asked.asks else None
        if asked.ends:
            return self._ended(asked, kept, card)
        if not asked.asks:
            kept.seen = self.now
            if asked.since == len(kept.users) - 1 and not kept.olds:
                kept.used = self.now
            return None
        return self._saved(asked, kept, card)

    def _loses(self, asked):
        asked.is_lost, asked.shows = bool(asked.mine), {}

    def _is_reached(self, asked, kept):
        """Whether the session lives, and never passed from one user to another since the request loaded it."""
        users = kept.users[asked.since :]
        passed = any(before not in (None, after) for before, after in itertools.pairwise(users))
        comes_too_late = any(
            before is None and after is not None and self.now >= moment + AFTER_LOG_IN
            for before, after, moment in zip(users, users[1:], kept.moments[asked.since + 1 :], strict=False)
        )
        # Who logs in beside somebody else's log-in has a session of their own.
        others = asked.logs_in and not asked.ends and asked.owner is None and kept.user not in (None, asked.user)
        return bool(self.is_open(kept)) and not (passed or others or comes_too_late)

    def _begins(self, data, card):
        if card in (None, CLEARS):
            raise Mismatch("a session has begun, and its card was not given")
        root = len(self.kept) + 1
        kept = self.kept[root] = Kept(dict(data), [data.get("user_id")], [self.now], self.now, self.now, self.now, card)
        kept.proved = None if kept.user is None else self.now
        return card

    def _ended(self, asked, kept, card):
        passed_on = asked.owner is None and kept.user is not None
        if passed_on or (asked.owner is None and not (asked.cleared or asked.invalidated)):
            left = {key: value for key, value in kept.data.items() if key not in asked.base}
            if left:
                self._keeps(kept, left, kept.user)
                if asked.invalidated and asked.user is not None:
                    return self._begins(asked.mine, card)
                if asked.mine:
                    return self._loses(asked)
                asked.shows = {} if passed_on else left
                return None
        kept.is_over = True
        return self._begins(asked.mine, card) if asked.mine else CLEARS

    def _saved(self, asked, kept, card):
        user, owner = asked.user, kept.user
        passed_on = user == asked.owner != kept.user
        if user != asked.owner and asked.owner is not None:
            data = dict(asked.mine) if user is None else asked.own()
        else:
            data = asked.over(kept.data)
        if not data:  # the last key has gone
            kept.is_over, asked.shows = True, {}
            return CLEARS
        rights = [(key in kept.data, kept.data.get(key)) != (key in data, data.get(key)) for key in self.rotate_on]
        self._keeps(kept, data, kept.user if passed_on else user)
        asked.shows, asked.whose = dict(asked.mine) if passed_on else data, kept.user
        proves = asked.logs_in or asked.proves
        # `rotate()` from before somebody proved who they are takes no card.
        rotates = (asked.rotates is not None or any(rights)) and kept.proved == asked.proved
        if passed_on or not (proves or user != asked.owner or rotates):
            return None
        if proves:
            kept.began = kept.proved = self.now
        elif user is None:
            kept.proved = None
        grace = 0.0 if proves or user != asked.owner or any(rights) else asked.rotates
        kept.olds[kept.card] = Old(self.now + grace, owner)
        if card in (None, CLEARS) or card in kept.olds:
            raise Mismatch(f"the session has a new ID, and the response gave {card!r}")
        kept.card = card
        return card

    def _keeps(self, kept, data, user):
        kept.data, kept.used, kept.seen = data, self.now, self.now
        kept.users.append(user)
        kept.moments.append(self.now)
