"""Browsers, concurrent visits and a clock in any order, against a model that knows what each session must hold."""

import asyncio
import itertools
from math import inf

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from roomkey.config import SessionConfig
from roomkey.core.renewal import AFTER_LOG_IN
from roomkey.core.reply import Cookie
from roomkey.errors import StoreUnavailable
from roomkey.stores.memory import MemoryStore
from roomkey.testing.clock import Clock
from roomkey.wire import codec
from tests.driver import Driver

MAX_AGE = 1000.0  # seconds
BROWSERS = 2
MOST_VISITS = 5


class TracingStore(MemoryStore):
    """A memory store that remembers, for every key, where its session began and where it is now."""

    def __init__(self, **options):
        super().__init__(**options)
        self.root = {}
        self.at = {}

    async def create(self, key, record):
        await super().create(key, record)
        self.root[key] = key
        self.at[key] = key

    async def rotate(self, key, new_key, record, tombstone, *, version):
        await super().rotate(key, new_key, record, tombstone, version=version)
        self.root[new_key] = self.root[key]
        self.at[self.root[key]] = new_key


class Open:
    """One visit under way and what it did, as the model sees it."""

    def __init__(self, browser, visit, root, base, since):
        self.browser, self.visit, self.root = browser, visit, root
        self.base, self.since = base, since  # what it loaded, and at which of the session's users
        self.sets, self.deletes, self.added = {}, set(), 0
        self.cleared = False
        self.logged_in = None
        self.arrived_at = visit.now()

    def changed(self):
        return self.sets or self.added or self.deletes & self.base.keys()


class Browsers(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = Clock(1_000_000.0)
        self.store = TracingStore(clock=self.clock)
        config = SessionConfig(secret_key="k" * 32, store=self.store, clock=self.clock, max_age=MAX_AGE)
        self.life = Driver(config)
        self.jars = [None] * BROWSERS
        self.open = []
        self.expected = {}  # root of a session -> what it must hold
        self.cards = {}  # root of a session -> every card that was given for it
        self.ended = set()  # roots
        self.users = {}  # root of a session -> whose it was, one after the other
        self.log_ins = {}  # root of a session -> when somebody last logged into it who was nobody before
        self.writer = {}  # unique value -> user it was written under
        self.count = 0

    def teardown(self):
        self.loop.close()

    def run_(self, coroutine):
        return self.loop.run_until_complete(coroutine)

    def record_of(self, root):
        """Return the live record of a session, or None."""
        record = self.store._records.get(self.store.at[root])
        return record if record is not None and record.expires_at > self.clock() else None

    def pick(self, data):
        return data.draw(st.sampled_from(range(len(self.open))))

    @initialize(user=st.sampled_from([None, "A"]))
    def begin(self, user):
        """A browser has a session already, so that races are met early."""
        visit = self.life.anonymous()
        self.count += 1
        one = Open(0, visit, None, {}, 0)
        visit.session["x"] = one.sets["x"] = f"value {self.count}"
        if user is not None:
            visit.session["user_id"] = one.logged_in = user
        self.open.append(one)
        self.finish(one)
        for _ in range(2):
            self.arrive(0)

    @precondition(lambda self: len(self.open) < MOST_VISITS)
    @rule(browser=st.integers(0, BROWSERS - 1))
    def arrive(self, browser):
        """A request begins; it must not see what was written under another user."""
        card = self.jars[browser]
        visit = self.life.anonymous() if card is None else self.run_(self.life.arrive([card]))
        root, base, since = None, {}, 0
        if visit.record is not None:
            root = self.store.root[visit.key]
            assert root not in self.ended
            base, since = visit.session.copy(), len(self.users[root]) - 1
            assert base == self.expected[root]
            self.check_owner(base)
        self.open.append(Open(browser, visit, root, base, since))

    def check_owner(self, data):
        user = data.get("user_id")
        for value in data.values():
            assert self.writer.get(value) in (None, user)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), name=st.sampled_from("xyz"))
    def set_key(self, data, name):
        """A handler assigns a key, always to a value that nobody used before."""
        one = self.open[self.pick(data)]
        if one.cleared and one.logged_in is None:
            return
        self.count += 1
        one.visit.session[name] = one.sets[name] = f"value {self.count}"
        one.deletes.discard(name)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), name=st.sampled_from("xyz"))
    def delete_key(self, data, name):
        """A handler deletes a key, the last one too."""
        one = self.open[self.pick(data)]
        if name in one.visit.session:
            del one.visit.session[name]
            one.sets.pop(name, None)
            one.deletes.add(name)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def increment(self, data):
        """A handler counts with change()."""
        one = self.open[self.pick(data)]
        if not one.cleared:
            one.visit.session.change("n", lambda n: n + 1, default=0)
            one.added += 1

    def clear_one(self, one):
        one.deletes |= set(one.visit.session.copy())
        one.visit.session.clear()
        one.sets, one.added, one.cleared, one.logged_in = {}, 0, True, None

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def clear(self, data):
        """A handler logs out."""
        self.clear_one(self.open[self.pick(data)])

    @precondition(lambda self: self.open)
    @rule(data=st.data(), user=st.sampled_from(["A", "B"]))
    def log_in(self, data, user):
        """A handler logs a user in, also over another user, which leaves behind what that one had."""
        one = self.open[self.pick(data)]
        if one.visit.session.get("user_id") == user or one.visit.user == user:
            return
        one.visit.session["user_id"] = one.logged_in = user

    @precondition(lambda self: self.open)
    @rule(data=st.data(), grace=st.sampled_from([0, 50]))
    def rotate(self, data, grace):
        """A handler asks for a new ID."""
        self.open[self.pick(data)].visit.session.rotate(grace)

    @rule(seconds=st.sampled_from([1, 40, 150, 600, 1100]))
    def advance(self, seconds):
        """Time passes."""
        self.clock.advance(seconds)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def commit(self, data):
        """A response starts: the session is saved, and must then hold what the model says."""
        self.finish(self.open[self.pick(data)])

    def is_still_its(self, one):
        """Whether the visit may still save: its session lives, and passed from nobody to somebody else at most."""
        if one.root is None or self.record_of(one.root) is None:
            return False
        users = self.users[one.root][one.since :]
        if users[0] is None and users[-1] is not None and self.clock() >= self.log_ins[one.root] + AFTER_LOG_IN:
            return False  # it comes from before a log-in, and too late
        return all(before in (None, after) for before, after in itertools.pairwise(users))

    def finish(self, one):
        self.open.remove(one)
        visit = one.visit
        owner = visit.user
        still_ours = self.is_still_its(one)
        mine = visit.session.copy()
        # Somebody else logged in meanwhile.
        passed_on = still_ours and one.logged_in is None and self.users[one.root][-1] != owner
        kept = {}  # of what others put in meanwhile, when this request leaves nothing of its own
        if still_ours and owner is None and (passed_on or not one.cleared):
            kept = self.expected[one.root].keys() - (one.deletes & one.base.keys())
        if self.fails(one):
            return
        # Who runs for longer than max_age may find that the way to where its session moved has expired.
        slow = self.clock() - one.arrived_at >= MAX_AGE
        if visit.lost:
            assert slow or not still_ours
        if one.changed() and one.logged_in is None and one.root and not still_ours:
            assert visit.record is None
        if visit.cookie is Cookie.CLEAR:
            assert one.root is not None
            self.ended.add(one.root)
            self.jars[one.browser] = None
        if not mine and still_ours and (one.cleared or not slow):
            assert (visit.cookie is Cookie.CLEAR) == (not kept)
        if visit.record is not None and not visit.lost:
            self.check_saved(one, visit, owner)
            if passed_on:
                assert visit.session.copy() == mine  # it is shown nothing of what is theirs
        if visit.cookie is Cookie.GIVE:
            given = self.run_(self.life.arrive([visit.card]))
            assert given.key == visit.key
            assert given.session.copy() == self.expected[self.store.root[visit.key]]
            self.jars[one.browser] = visit.card
            self.cards.setdefault(self.store.root[visit.key], []).append(visit.card)

    def fails(self, one):
        """Commit. Return whether that failed: a log-out does where nobody can tell whether its session has ended."""
        until = one.visit.record.expires_at if one.visit.record is not None else inf
        try:
            self.run_(one.visit.commit())
        except StoreUnavailable:
            owner = one.base.get("user_id")
            came_back = owner is not None and any(user != owner for user in self.users[one.root][one.since :])
            assert (self.clock() >= until or came_back) and "user_id" not in one.visit.session
            return True
        return False

    def check_saved(self, one, visit, owner):
        user = one.logged_in or owner
        root = self.store.root[visit.key]
        if root == one.root:
            if not (one.changed() or one.logged_in):
                return  # it read or rotated only, and may hold what is old
            hands_over = owner is not None and user != owner  # it takes nothing that others wrote meanwhile
            expected = {} if hands_over else dict(self.expected[root])
        else:
            assert root not in self.expected
            assert root not in self.ended
            expected = {}
        for name in one.deletes & one.base.keys():
            expected.pop(name, None)
        expected.update(one.sets)
        if one.added:
            expected["n"] = expected.get("n", 0) + one.added
        if one.logged_in is not None:
            expected["user_id"] = one.logged_in
        record = self.record_of(root)
        assert record is not None
        assert codec.decode(record.data) == expected
        assert visit.session.copy() == expected or visit.user != record.user
        assert record.user == expected.get("user_id")
        self.expected[root] = expected
        users = self.users.setdefault(root, [])
        if record.user is not None and (not users or users[-1] is None):
            self.log_ins[root] = self.clock()
        users.append(record.user)
        for value in one.sets.values():
            self.writer[value] = user or record.user
        self.check_owner(expected)

    @invariant()
    def what_ended_stays_ended(self):
        """No card that was ever given for an ended session opens anything."""
        for root in self.ended:
            for card in self.cards[root]:
                assert self.run_(self.life.arrive([card])).record is None

    @invariant()
    def nothing_is_lost(self):
        """Every live session holds exactly what was written to it, under its user."""
        for root, expected in self.expected.items():
            record = self.record_of(root)
            if record is not None:
                assert codec.decode(record.data) == expected
                assert record.user == expected.get("user_id")


TestBrowsers = Browsers.TestCase
TestBrowsers.__doc__ = "Whatever browsers and requests do in whatever order, no write is lost and no session revives."
TestBrowsers.settings = settings(max_examples=500, stateful_step_count=40, deadline=None)
