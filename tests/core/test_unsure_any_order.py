"""Whatever a request does, in whatever order saves are answered or not: nothing counts twice, and nothing is lost."""

import asyncio
import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st

from roomkey import SessionEnded, StoreUnavailable
from tests.core.unsure import Browser
from tests.loop_clock import WaitingLoop

OTHERS = 4  # requests that were under way since before
MODES = ["answers", "done", "lost", "late", "overtakes"]
OTHER_ACTS = {
    "plain": lambda session, number: session.__setitem__(f"y{number}", number),
    "counts": lambda session, number: session.change("n", lambda n: n + 100, default=0),
    "rotates": lambda session, number: session.rotate(),
    "looks": lambda session, number: session.get("n"),
}
STEPS = st.one_of(
    st.just(("add",)),
    st.tuples(st.just("set"), st.integers(0, 2)),
    st.just(("delete",)),
    st.just(("rotate",)),
    st.just(("log in",)),
    st.just(("remember",)),
    st.just(("refresh",)),
    st.just(("arrive",)),
    st.tuples(st.just("save"), st.sampled_from(MODES)),
    st.tuples(st.just("save"), st.sampled_from(MODES)),  # twice as often
    st.tuples(st.just("other"), st.sampled_from(sorted(OTHER_ACTS))),
)


class Run:
    """One request, and others beside it, against what must come of them."""

    def __init__(self, waits, seal):
        self.browser = Browser(waits=waits, seal=seal)
        self.expected = {"x": 0, "n": 0}
        self.others = 0

    async def run(self, steps):
        browser = self.browser
        await browser.begin(x=0, n=0)
        self.session = await browser.load()
        self.beside = [await browser.load() for _ in range(OTHERS)]
        for name, *arguments in steps:
            await getattr(self, name.replace(" ", "_"))(*arguments)
        browser.store.script = []
        for _ in range(3):
            if not await browser.fails_to_save(self.session):
                break
        else:  # too many came since a save that was not answered
            return
        await browser.answer(self.session)
        await browser.store.arrive()
        assert len(browser.store.live_records()) == 1
        assert await browser.sees() == self.expected

    async def add(self):
        self.session.change("n", lambda n: n + 1, default=0)
        self.expected["n"] += 1

    async def set(self, value):
        self.session["x"] = self.expected["x"] = value

    async def delete(self):
        self.session.pop("x", None)
        self.expected.pop("x", None)

    async def rotate(self):
        self.session.rotate()

    async def log_in(self):
        self.session["user_id"] = self.expected["user_id"] = 7

    async def remember(self):
        self.session.remember(10**6)

    async def refresh(self):
        with contextlib.suppress(StoreUnavailable):
            await self.session.refresh()

    async def arrive(self):
        await self.browser.store.arrive()

    async def save(self, mode):
        self.browser.store.script = [mode]
        await self.browser.fails_to_save(self.session)
        self.browser.store.script = []

    async def other(self, kind):
        if self.others == OTHERS:
            return
        session, number = self.beside[self.others], self.others
        self.others += 1
        await self.browser.other_saves(session, lambda session: OTHER_ACTS[kind](session, number))
        if kind == "plain":
            self.expected[f"y{number}"] = number
        if kind == "counts":
            self.expected["n"] += 100


@settings(max_examples=500)
@given(st.booleans(), st.booleans(), st.lists(STEPS, min_size=2, max_size=10))
def test_any_order_of_steps(waits, seal, steps):
    """What the request and the others did is there, once, under the cookie that the browser holds in the end."""
    with asyncio.Runner(loop_factory=WaitingLoop) as runner:
        try:
            runner.run(Run(waits, seal).run(steps))
        except SessionEnded as error:
            raise AssertionError("nobody has ended it") from error
