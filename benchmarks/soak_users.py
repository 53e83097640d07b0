"""The users of the soak, and what they found."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from benchmarks.driver import Answer
from benchmarks.serving import Client

__all__ = ["SLACK", "STATUSES", "TIMEOUT", "Findings", "Gate", "User"]

TIMEOUT = 2.0  # seconds, store_timeout
SLACK = 1.0  # seconds that an answer may take beyond it: this machine is shared
STATUSES = (200, 401, 503)

_THINKING = 0.02  # seconds at most between a user's requests
_KEYS = 8  # that a user writes to
_BEGAN = time.monotonic()


@dataclass
class Findings:
    """Everything that the run found."""

    answers: Counter[int] = field(default_factory=Counter)  # by status
    by_page: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0  # seconds
    slowest_page: str = ""
    faults: list[str] = field(default_factory=list)
    checked: int = 0  # values that were compared with what had been acknowledged
    disturbances: Counter[str] = field(default_factory=Counter)
    log: str = ""  # what the app logged
    unavailable: dict[str, float] = field(default_factory=dict)  # by kind, the longest span with 503s, in seconds
    samples: list[dict[str, float]] = field(default_factory=list)

    def fault(self, what: str) -> None:
        self.faults.append(f"after {time.monotonic() - _BEGAN:.1f} s: {what}")


class Gate:
    """Lets requests pass while it is open; `rest` closes it and waits until none is under way."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._open.set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._inside = 0

    @contextlib.asynccontextmanager
    async def passing(self) -> AsyncIterator[None]:
        await self._open.wait()
        self._inside += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._idle.set()

    @contextlib.asynccontextmanager
    async def rest(self) -> AsyncIterator[None]:
        self._open.clear()
        await self._idle.wait()
        try:
            yield
        finally:
            self._open.set()


class User:
    """One browser with two connections, which remembers what the app has acknowledged.

    Args:
        number: the user's ID.
        port: of the app.
    """

    def __init__(self, number: int, port: int, gate: Gate, findings: Findings) -> None:
        self._number = number
        self._gate = gate
        self._findings = findings
        self._clients = (Client(port), Client(port))
        self._cookie: str | None = None
        self._values = itertools.count(1)
        self._acknowledged: dict[str, int] = {}  # by key
        self._maybe: dict[str, set[int]] = {}  # by key: answered 503, so perhaps saved, perhaps not
        self._logged_out: str | None = None  # a cookie that must not log in any more

    async def live(self, ending: asyncio.Event) -> None:
        """Click about until the end; then look a last time whether everything is there."""
        steps: list[Callable[[], Awaitable[object]]] = [self._read, self._write, self._write_both, self._anonymous]
        while not ending.is_set():
            if self._logged_out is not None:
                await self._try_the_old_card()
            elif self._cookie is None:
                await self._log_in()
            elif random.random() < 0.02:
                await self._log_out()
            else:
                await random.choice(steps)()
            await asyncio.sleep(random.uniform(0, _THINKING))
        while self._cookie is not None and not await self._read():
            await asyncio.sleep(0.1)
        for client in self._clients:
            client.close()

    async def _ask(self, target: str, cookie: str | None, client: Client | None = None) -> Answer:
        findings, page = self._findings, target.partition("?")[0]
        async with self._gate.passing():
            began = time.monotonic()
            try:
                answer = await (client or self._clients[0]).get(target, cookie)
            except (OSError, EOFError) as error:
                findings.fault(f"{page}: no answer: {error!r}")
                answer = Answer(0)
            took = time.monotonic() - began
        findings.answers[answer.status] += 1
        findings.by_page[page] += 1
        if took > findings.slowest:
            findings.slowest, findings.slowest_page = took, page
        if took > TIMEOUT + SLACK:
            findings.fault(f"{page}: {answer.status} took {took:.2f} s")
        if answer.status not in STATUSES:
            findings.fault(f"{page}: status {answer.status}: {answer.body[:200]!r}")
        return answer

    async def _log_in(self) -> None:
        answer = await self._ask(f"/login?user={self._number}", None)
        if answer.status == 200:
            if answer.cookie is None:
                self._findings.fault("/login: no cookie")
            self._cookie, self._acknowledged, self._maybe = answer.cookie, {}, {}

    async def _anonymous(self) -> None:
        answer = await self._ask("/anonymous", None)
        if answer.status != 200:
            self._findings.fault(f"/anonymous: {answer.status}, though it needs no store")

    async def _read(self) -> bool:
        """Compare the session with what was acknowledged. Returns whether it could be read."""
        answer = await self._ask("/show", self._cookie)
        if answer.status == 401:
            self._findings.fault(f"user {self._number}: the session is gone")
            self._cookie = None
        if answer.status != 200:
            return False
        found = json.loads(answer.body)
        for number in range(_KEYS):
            key = f"k{number}"
            wanted = {self._acknowledged.get(key), *self._maybe.get(key, ())}
            self._findings.checked += 1
            if found.get(key) not in wanted:
                self._findings.fault(f"user {self._number}: {key} is {found.get(key)}, acknowledged: {wanted}")
                self._acknowledged[key] = found.get(key)
        if found.get("user_id") != self._number or found.get("theme") != "dark":
            self._findings.fault(f"user {self._number}: another's session, or half of it")
        return True

    async def _write(self) -> None:
        await self._put(f"k{random.randrange(_KEYS)}", self._clients[0])

    async def _write_both(self) -> None:
        """Change two keys at once, on two connections: both must be kept."""
        one, other = random.sample(range(_KEYS), 2)
        await asyncio.gather(self._put(f"k{one}", self._clients[0]), self._put(f"k{other}", self._clients[1]))

    async def _put(self, key: str, client: Client) -> None:
        value, cookie = next(self._values), self._cookie
        answer = await self._ask(f"/put?key={key}&value={value}", cookie, client)
        if answer.status == 200:
            self._acknowledged[key] = value
            self._maybe.pop(key, None)  # nothing of before may come back over what was acknowledged
        elif answer.status == 401:
            self._findings.fault(f"user {self._number}: the session is gone")
            self._cookie = None
        else:
            self._maybe.setdefault(key, set()).add(value)

    async def _log_out(self) -> None:
        cookie, self._cookie = self._cookie, None
        answer = await self._ask("/logout", cookie)
        if answer.status == 200:
            self._logged_out = cookie  # after a 503 it may have ended or not

    async def _try_the_old_card(self) -> None:
        answer = await self._ask("/show", self._logged_out)
        if answer.status == 200:
            self._findings.fault(f"user {self._number}: logged in after a log-out that was acknowledged")
        if answer.status in (200, 401):
            self._logged_out = None
