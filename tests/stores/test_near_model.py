"""A model of what is kept near: whatever is late, lost or said twice, nothing older than allowed is served."""

from __future__ import annotations

from collections.abc import Generator
from types import coroutine
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from roomkey.stores.base import Record
from roomkey.stores.near import Listeners, Near, telling

KEYS = st.sampled_from(["a" * 64, "b" * 64])
MAX_AGE = 1.0  # seconds


@coroutine
def _pause() -> Generator[None, None, None]:
    yield


def _record(version: int) -> Record:
    return Record(b"x", version, 0.0, 1e9)


class Server:
    """The true store, and its channel: changes are told in their order, and answers come after what was told before."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.history: dict[str, list[tuple[float, int]]] = {key * 64: [(0.0, 1)] for key in "ab"}
        self.queue: list[tuple[str, Any]] = []
        self.is_on = False

    def time(self) -> float:
        return self.now

    def version(self, key: str) -> int:
        return self.history[key][-1][1]

    def change(self, key: str) -> None:
        self.history[key].append((self.now, self.version(key) + 1))
        if self.is_on:
            self.queue.append(("changed", key))

    async def load(self, key: str) -> Record | None:
        await _pause()  # on its way to the server
        found = _record(self.version(key))
        await _pause()  # on its way back
        return found

    def load_now(self, key: str) -> Any:
        return self.load(key)

    async def update(self, key: str) -> int:
        await _pause()
        self.change(key)
        done = self.version(key)
        await _pause()
        return done

    def could_be(self, key: str, version: int, since: float) -> bool:
        """Whether a version was the true one at some moment from `since` on."""
        moments = self.history[key]
        for at, (_, each) in enumerate(moments):
            if each == version:
                return at + 1 == len(moments) or moments[at + 1][0] >= since
        return False


class Channel:
    """The notices of one process."""

    def __init__(self, server: Server) -> None:
        self.server, self.listeners = server, Listeners()
        self.heard = float("-inf")
        self.is_complete = True

    def add(self, listener: Any, max_age: float) -> None:
        self.listeners.add(listener, max_age)

    def hold(self, max_age: float) -> bool:
        return self.server.now - self.heard < max_age

    def begin(self) -> None:
        pass

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass


class Model(RuleBasedStateMachine):
    """One process that keeps records, a server, and other processes that change them."""

    @initialize()
    def make(self) -> None:
        self.server = Server()
        self.channel = Channel(self.server)
        self.near = Near(self.server, self.channel, most=1, max_age=MAX_AGE, ticks=self.server)
        self.loads: list[tuple[str, float, int, Any]] = []  # key, when it began, the version owed, the operation
        self.writes: list[tuple[str, Any]] = []
        self.owed: dict[str, int] = {}  # the last version of which this process knows that it is there

    def _check(self, key: str, record: Record | None, began: float, owed: int) -> None:
        assert record is not None
        assert self.server.could_be(key, record.version, began - MAX_AGE), "it is older than allowed"
        assert record.version >= owed, "this process has changed it since"

    @rule(key=KEYS)
    def read(self, key: str) -> None:
        answer, owed = self.near.load_now(key), self.owed.get(key, 0)
        if isinstance(answer, Record):
            self._check(key, answer, self.server.now, owed)
        else:
            assert answer is not None
            answer.send(None)
            self.loads.append((key, self.server.now, owed, answer))

    @rule(key=KEYS)
    def have_it_kept(self, key: str) -> None:
        """What other runs of rules come to as well, and seldom: a record is loaded while all is well."""
        self.connect()
        self.ask()
        self.hear_all()
        owed, answer = self.owed.get(key, 0), self.near.load_now(key)
        while not isinstance(answer, Record):
            try:
                answer.send(None)
            except StopIteration as stop:
                answer = stop.value
        self._check(key, answer, self.server.now, owed)
        assert len(self.near) == 1

    @precondition(lambda self: self.loads)
    @rule(data=st.data())
    def go_on_with_a_load(self, data: st.DataObject) -> None:
        at = data.draw(st.integers(0, len(self.loads) - 1))
        key, began, owed, operation = self.loads[at]
        try:
            operation.send(None)
        except StopIteration as stop:
            del self.loads[at]
            self._check(key, stop.value, began, owed)

    @precondition(lambda self: self.loads)
    @rule(data=st.data())
    def cut_off_a_load(self, data: st.DataObject) -> None:
        self.loads.pop(data.draw(st.integers(0, len(self.loads) - 1)))[3].close()

    @rule(key=KEYS)
    def write_here(self, key: str) -> None:
        operation = telling(self.server.update(key), key)
        operation.send(None)
        self.writes.append((key, operation))

    @precondition(lambda self: self.writes)
    @rule(data=st.data())
    def go_on_with_a_write(self, data: st.DataObject) -> None:
        at = data.draw(st.integers(0, len(self.writes) - 1))
        key, operation = self.writes[at]
        try:
            operation.send(None)
        except StopIteration as stop:
            del self.writes[at]
            self.owed[key] = max(self.owed.get(key, 0), stop.value)

    @rule(key=KEYS)
    def write_elsewhere(self, key: str) -> None:
        self.server.change(key)

    @rule(seconds=st.sampled_from([0.1, 0.4, 0.9, 1.1]))
    def wait(self, seconds: float) -> None:
        self.server.now += seconds

    @precondition(lambda self: self.server.is_on)
    @rule()
    def ask(self) -> None:
        """The process asks over the channel; the answer comes after all that was told before."""
        self.server.queue.append(("answer", self.server.now))

    @precondition(lambda self: self.server.queue)
    @rule(twice=st.booleans())
    def hear(self, twice: bool) -> None:
        kind, what = self.server.queue.pop(0)
        for _ in range(1 + twice):
            if kind == "changed":
                self.channel.listeners.forget(what)
            else:
                self.channel.heard = max(self.channel.heard, what)

    @rule()
    def lose_the_connection(self) -> None:
        self.server.is_on, self.server.queue = False, []
        self.channel.heard = float("-inf")
        self.channel.listeners.forget_all()

    @rule()
    def connect(self) -> None:
        if not self.server.is_on:
            self.server.is_on = True
            self.channel.listeners.forget_all()
            self.ask()

    @rule()
    def hear_all(self) -> None:
        while self.server.queue:
            self.hear(False)

    @invariant()
    def what_is_kept_may_be_served(self) -> None:
        for key in list(self.near._records):
            answer = self.near.load_now(key)
            if isinstance(answer, Record):
                self._check(key, answer, self.server.now, self.owed.get(key, 0))
            else:
                assert answer is not None
                answer.close()

    @invariant()
    def it_is_bounded(self) -> None:
        assert len(self.near) <= 1
        assert self.near.bytes == 513 * len(self.near)

    def teardown(self) -> None:
        for *_, operation in getattr(self, "loads", []):
            operation.close()
        for _, operation in getattr(self, "writes", []):
            operation.close()


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=300, stateful_step_count=50, deadline=None)
