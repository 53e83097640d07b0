"""Browsers, requests under way at the same time and a clock, in any order, through the public SessionManager alone.

`ROOMKEY_EXAMPLES=5000 pytest tests/core/test_model.py` looks deeper than the usual run does.
"""

import asyncio
import contextlib
import itertools
import os
import random
from math import inf

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from roomkey import SessionEnded, SessionManager, StoreUnavailable
from roomkey.events import Created
from roomkey.stores.memory import MemoryStore
from roomkey.testing.clock import Clock
from tests.core.model import CAP, CLEARS, LIVES, MAX_AGE, Asked, Mismatch, Model
from tests.loop_clock import WaitingLoop

BROWSERS = 2
MOST_UNDER_WAY = 6
# What a handler does: the more often it stands here, the more often.
ACTS = [*["assign", "log in"] * 2, "count", "delete", "log out", "rotate", "prove", "leave"]
OLDEST = 0.7 * MAX_AGE  # seconds after which a request is given up: the way to where its session moved may expire


class LetsOthersIn(MemoryStore):
    """A store in memory in which other tasks run before each operation. `seed`: says how far they come."""

    never_waits = False

    def __init__(self, seed, **options):
        super().__init__(**options)
        self.random = random.Random(seed)

    async def wait(self):
        for _ in range(self.random.randint(1, 4)):
            await asyncio.sleep(0)

    async def load(self, key):
        await self.wait()
        return await super().load(key)

    async def create(self, key, record):
        await self.wait()
        await super().create(key, record)

    async def update(self, key, record, *, version):
        await self.wait()
        await super().update(key, record, version=version)

    async def rotate(self, key, new_key, record, tombstone, *, version):
        await self.wait()
        await super().rotate(key, new_key, record, tombstone, version=version)


class UnderWay:
    """A request that has come, and was not answered yet."""

    def __init__(self, browser, manager, session, asked):
        self.browser, self.manager, self.session, self.asked = browser, manager, session, asked


class Browsers(RuleBasedStateMachine):
    """Two managers over one store, and browsers that send requests to either."""

    def __init__(self):
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=WaitingLoop)
        self.clock = Clock(1_000_000.0)
        self.model = Model()
        self.jars = [None] * BROWSERS
        self.under_way = []
        self.cards = []  # every card that was ever given
        self.handles = {}  # by card: the public name of the session under the ID of that card
        self.created = set()  # the handles of sessions that began: those of other cards are from rotations
        self.writers = {}  # by value: the user it was written under
        self.count = 0
        self.happened = 0  # requests that came or were answered since the clock was moved

    @initialize(
        waits=st.none() | st.integers(1, 1000),
        seal=st.booleans(),
        user=st.sampled_from([None, "ann"]),
        rotate_on=st.sampled_from([(), ("z",)]),
    )
    def begin(self, waits, seal, user, rotate_on=()):
        """A browser has a session already, and two tabs, so that races are met early."""
        store = MemoryStore(clock=self.clock) if waits is None else LetsOthersIn(waits, clock=self.clock)
        options = {"store": store, "clock": self.clock, "max_age": MAX_AGE, "absolute_timeout": CAP, "seal": seal}
        options |= {"on_event": self.note_event, "rotate_on": rotate_on}
        self.model.rotate_on = rotate_on
        self.managers = [SessionManager(secret_key="k" * 32, **options) for _ in range(2)]
        self.model.now = self.clock()
        self.arrive(0, 0)
        self.assign(self.under_way[0], "x")
        if user is not None:
            self.log_in(self.under_way[0], user)
        self.answer(self.under_way[:1])
        for manager in (0, 0, 1):
            self.arrive(0, manager)

    def teardown(self):
        self.runner.close()

    def run(self, coroutine):
        return self.runner.run(coroutine)

    def note_event(self, event):
        if isinstance(event, Created):
            self.created.add(event.handle)

    # --- requests come --------------------------------------------------------------------------------------------

    def load(self, card, manager):
        return self.run(self.managers[manager].load(None if card is None else f"session={card}"))

    def has_room(self):
        return len(self.under_way) < MOST_UNDER_WAY

    def has_happened(self):
        return self.happened >= 3

    @precondition(has_room)
    @rule(browser=st.integers(0, BROWSERS - 1), manager=st.integers(0, 1))
    def arrive(self, browser, manager):
        """A tab sends a request; it sees what the session holds, and nothing that was written under another user."""
        self.arrive_with(browser, manager, self.jars[browser])

    @precondition(lambda self: self.has_room() and self.cards)
    @rule(data=st.data(), browser=st.integers(0, BROWSERS - 1), manager=st.integers(0, 1))
    def arrive_with_any_card(self, data, browser, manager):
        """A request comes late, or from a thief: an old card opens nothing but what a grace allows."""
        self.arrive_with(browser, manager, data.draw(st.sampled_from(self.cards)))

    def arrive_with(self, browser, manager, card):
        self.happened += 1
        session = self.load(card, manager)
        seen = session.copy()
        root, may_begin = self.model.opened_by(card)
        asked = Asked(root, {}, self.clock(), may_begin=may_begin)
        if root is None:
            assert session.is_new and seen == {}
        else:
            kept = self.model.kept[root]
            assert seen == kept.data and not session.is_new
            self.check_writers(seen)
            asked.base, asked.mine = dict(seen), dict(seen)
            asked.since, asked.proved = len(kept.users) - 1, kept.proved
            asked.lives_until = kept.used + LIVES
        self.under_way.append(UnderWay(browser, self.managers[manager], session, asked))

    def check_writers(self, seen):
        for value in seen.values():
            assert self.writers.get(value) in (None, seen.get("user_id"))

    # --- handlers do something ------------------------------------------------------------------------------------

    def act(self, data, one):
        """Do something to the session of a request, and note it."""
        what = data.draw(st.sampled_from(ACTS))
        name = data.draw(st.sampled_from(["x", "y", "z", "n"]))
        if what == "assign":
            self.assign(one, "x" if name == "n" else name)
        elif what == "log in":
            self.log_in(one, data.draw(st.sampled_from(["ann", "bob"])))
        elif what == "count":
            before = one.asked.mine.get("n")
            one.asked.mine["n"] = one.session.change("n", lambda n: n + 1, default=0)
            one.asked.calls.append((before, one.asked.mine["n"]))
        elif what == "delete":
            self.delete(one, name)
        elif what == "log out":
            self.log_out(one, invalidates=data.draw(st.booleans()))
        elif what == "rotate":
            one.asked.rotates = data.draw(st.sampled_from([0.0, 50.0]))
            one.session.rotate(one.asked.rotates)
        elif what == "leave":
            self.delete(one, "user_id")
        elif one.asked.user is not None and one.asked.user == one.asked.owner:
            one.session.reauthenticated()
            one.asked.proves = True

    def assign(self, one, name):
        self.count += 1
        one.session[name] = one.asked.mine[name] = f"value {self.count}"
        one.asked.put.add(name)

    def delete(self, one, name):
        one.session.pop(name, None)
        one.asked.mine.pop(name, None)

    def log_in(self, one, user):
        one.session["user_id"] = one.asked.mine["user_id"] = user
        one.asked.put.add("user_id")

    def log_out(self, one, *, invalidates):
        """What is put in after `invalidate` is another session's."""
        if invalidates:
            one.session.invalidate()
            one.asked.invalidated = True
        else:
            one.session.clear()
        one.asked.mine.clear()
        one.asked.calls.clear()
        one.asked.cleared = True

    # --- responses go out -----------------------------------------------------------------------------------------

    @precondition(lambda self: self.under_way)
    @rule(
        data=st.data(),
        acts=st.sampled_from([1, 2, 3, 0]),
        how=st.sampled_from(["answers", "answers", "saves first", "fails"]),
    )
    def commit(self, data, acts, how):
        """A handler is done: what the session holds then, and what the browser gets, is what the model says."""
        one = data.draw(st.sampled_from(self.under_way))
        for _ in range(acts):
            self.act(data, one)
        if how == "fails":  # the handler raised: nothing is saved
            self.under_way.remove(one)
            one.manager.abandon(one.session)
            headers = self.run(one.manager.commit(one.session, status=500, headers=[("x-app", "1")]))
            assert self.card_in(headers) is None
            return
        is_lost = False
        if how == "saves first":
            try:
                self.run(one.session.save())
            except SessionEnded:
                is_lost = True
            except StoreUnavailable:
                assert self.may_not_tell(one, [])
                self.under_way.remove(one)
                return
        if not self.answer([one]):
            return
        assert is_lost == (how == "saves first" and one.asked.is_lost)
        assert one.session.copy() == one.asked.shows

    @precondition(lambda self: len(self.under_way) > 1)
    @rule(data=st.data(), many=st.integers(2, 3))
    def commit_together(self, data, many):
        """Several responses go out at the same moment: it is as if one had come after the other."""
        chosen = data.draw(st.permutations(self.under_way))[:many]
        for one in chosen:
            for _ in range(data.draw(st.sampled_from([1, 2, 0]))):
                self.act(data, one)
        self.answer(chosen)

    def may_not_tell(self, one, others):
        """Whether nobody can tell if a request's session has ended. `others`: those that are answered meanwhile."""
        asked = one.asked
        if self.clock() >= asked.lives_until:  # it runs for longer than its session was to live
            return asked.asks
        # Somebody else had the session meanwhile, and whoever logs out may be logged in again.
        users = self.model.kept[asked.root].users[asked.since :] + [each.asked.user for each in others]
        return asked.owner is not None and asked.user is None and any(user != asked.owner for user in users)

    def answer(self, chosen):
        """Let responses go out together. Return the requests that were answered: not those that raised."""
        self.happened += 1
        for one in chosen:
            self.under_way.remove(one)

        async def together():
            commits = (one.manager.commit(one.session, headers=[("x-app", "1")]) for one in chosen)
            return await asyncio.gather(*commits, return_exceptions=True)

        answers = list(zip(chosen, self.run(together()), strict=True))
        for one, answer in answers:
            if isinstance(answer, StoreUnavailable):
                assert self.may_not_tell(one, [each for each in chosen if each is not one])
            elif isinstance(answer, BaseException):
                raise answer
        chosen = [one for one, answer in answers if not isinstance(answer, StoreUnavailable)]
        given = [self.card_in(answer) for _, answer in answers if not isinstance(answer, StoreUnavailable)]
        for one, card in zip(chosen, given, strict=True):
            if card is not None:
                self.jars[one.browser] = None if card == CLEARS else card
                if card != CLEARS and card not in self.cards:
                    self.cards.append(card)
                    self.handles[card] = one.session.handle
        self.model = self.explained(list(zip(chosen, given, strict=True)))
        for one in chosen:
            self.note_writers(one)
        self.let_pass(1)
        for one in chosen:  # what others have in the session by now is shown to nobody but them
            others = {key: value for key, value in one.session.copy().items() if key not in one.asked.put}
            assert {self.writers.get(value) for value in others.values()} <= {None, one.asked.owner, one.asked.user}
        return chosen

    def card_in(self, headers):
        (value,) = [value for name, value in headers if name == "set-cookie"] or [None]
        if value is None:
            return None
        return CLEARS if "max-age=0" in value.lower() else value.partition("=")[2].partition(";")[0]

    def explained(self, answers):
        """Return the model after what was seen: in one order at least, it must come to what there is."""
        tried = []
        for order in itertools.permutations(answers):
            model = self.model.copied()
            try:
                for one, card in order:
                    model.commit(one.asked, card)
                self.compare(model)
            except Mismatch as mismatch:
                tried.append(str(mismatch))
            else:
                return model
        raise AssertionError(f"no order explains it: {tried}")

    def compare(self, model):
        """Raise Mismatch unless sessions and their cards are as the model says, and each card opens its own session."""
        for root, kept in model.kept.items():
            # Of two log-ins at once, one rotates the session and one begins another. They look alike from outside.
            began, *rotated = (self.handles[card] in self.created for card in [*kept.olds, kept.card])
            if not began or any(rotated):
                raise Mismatch(f"the cards of session {root} are of several sessions")
            session = self.load(kept.card, 0)
            data = None if session.is_new else session.copy()
            expected = kept.data if model.is_open(kept) else None
            if data != expected:
                raise Mismatch(f"session {root} holds {data}, and not {expected}")
            if data is not None and session.handle != self.handles[kept.card]:
                raise Mismatch(f"session {root} has another card by now: this one is in its grace")
        for number, card in enumerate(self.cards):  # all that were ever given; through either manager
            root, _ = model.opened_by(card)
            session = self.load(card, number % 2)
            if session.copy() != ({} if root is None else model.kept[root].data):
                raise Mismatch(f"card {number} opens {session.copy()}, and not session {root}")

    def note_writers(self, one):
        asked = one.asked
        names = asked.put & asked.mine.keys()
        if asked.whose is None and asked.owner is not None and not asked.is_lost:
            names = asked.mine.keys()  # the user has left, and the handler has kept these
        for name in names - {"user_id"}:
            self.writers[asked.mine[name]] = asked.whose

    # --- from outside ---------------------------------------------------------------------------------------------

    @precondition(has_happened)
    @rule(seconds=st.sampled_from([25, 45, 70, 150, 400, 700]))
    def advance(self, seconds):
        """Time passes. Requests that are too old are given up, and what may have expired or not is looked at."""
        self.happened = 0
        self.under_way = [one for one in self.under_way if self.clock() + seconds - one.asked.at < OLDEST]
        self.let_pass(seconds)

    def let_pass(self, seconds):
        self.clock.advance(seconds)
        self.model.now = self.clock()
        # What a request does that was under way at the absolute timeout of its session is seen by nobody.
        began = {root: kept.began for root, kept in self.model.kept.items()}
        self.under_way = [one for one in self.under_way if self.clock() < began.get(one.asked.root, inf) + CAP]
        for kept in self.model.kept.values():
            if self.model.is_open(kept) is None:
                self.model.note(kept, is_new=self.load(kept.card, 0).is_new)

    @precondition(has_happened)
    @rule(data=st.data(), what=st.sampled_from(["list", "revoke", "revoke all"]), manager=st.integers(0, 1))
    def look_from_outside(self, data, what, manager):
        """A user's sessions are those that live, by their public names; one of them ends, or all."""
        sessions = self.managers[manager].sessions
        user = data.draw(st.sampled_from(["ann", "bob"]))
        theirs = self.model.of_user(user)
        found = {info.handle for info in self.run(sessions.of(user))}
        assert found == {self.handle_of(root) for root in theirs}
        if what == "revoke" and self.model.alive():
            theirs = [data.draw(st.sampled_from(sorted(self.model.alive())))]
            assert self.run(sessions.revoke(self.handle_of(theirs[0]))) is True
        elif what == "revoke all":
            assert self.run(sessions.revoke_all(user)) == len(theirs)
        else:
            return
        for root in theirs:
            self.model.kept[root].is_over = True

    def handle_of(self, root):
        return self.load(self.model.kept[root].card, 0).handle

    # --- what always holds ----------------------------------------------------------------------------------------

    @invariant()
    def everything_is_as_the_model_says(self):
        """What lives holds what was written to it; what ended opens nothing, and no card opens more than it may."""
        self.compare(self.model)


TestBrowsers = Browsers.TestCase
TestBrowsers.__doc__ = "Whatever browsers and requests do in whatever order, no write is lost and no session revives."
TestBrowsers.settings = settings(max_examples=int(os.environ.get("ROOMKEY_EXAMPLES", "400")), stateful_step_count=50)


@pytest.mark.parametrize("waits", range(1, 9))  # in some, the first response rotates the session, in some the second
def test_of_two_log_ins_at_once_one_has_the_old_ids(waits):
    """When the session that a log-in rotated ends, its old ID is unknown. The other log-in's session has no old ID."""
    browsers = Browsers()
    with contextlib.closing(browsers.runner):
        browsers.begin(waits=waits, seal=False, user="ann")
        (old_card,) = browsers.cards
        chosen = browsers.under_way[:2]
        for one in chosen:
            browsers.log_in(one, "bob")
        browsers.answer(chosen)
        for card in browsers.cards[1:]:
            browsers.arrive_with(1, 0, card)
            browsers.log_out(browsers.under_way[-1], invalidates=False)
            browsers.answer(browsers.under_way[-1:])
            browsers.arrive_with(1, 0, old_card)
            browsers.assign(browsers.under_way[-1], "x")
            browsers.answer(browsers.under_way[-1:])
