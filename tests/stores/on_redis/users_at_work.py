"""Users who work while a cluster changes: what they were told is remembered, and has to hold."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

from roomkey.stores.redis import RedisStore
from tests.loop_clock import HANGS
from tests.site import Site

__all__ = ["AtWork", "User"]


class User:
    """One user: logs in, reads, saves, changes the ID and logs out, in a random order."""

    def __init__(self, site: Site, name: int, counts: Counter[int]) -> None:
        self._site, self.name, self._counts = site, name, counts
        self._rng = random.Random(name)
        self.card: bytes | None = None
        self.counted: set[int] = set()  # what the session may hold: one number, and more after a 503
        self.ended: list[bytes] = []  # cards of sessions that were logged out of, and were told so

    async def ask(self, card: bytes | None, act: Any) -> tuple[int, bytes | None, dict[str, Any]]:
        """Return the status, the new card, and what the session held at the end. A request that hangs is an error."""
        seen: dict[str, Any] = {}

        def noting(session: Any) -> None:
            act(session)
            seen.update(session)

        async with asyncio.timeout(HANGS):
            status, headers, _ = await self._site.ask(card, noting)
        self._counts[status] += 1
        assert status in (200, 503), status
        given = headers.get(b"set-cookie", b"").split(b";")[0].partition(b"=")[2]
        return status, given or None, seen

    async def log_in(self) -> None:
        status, card, _ = await self.ask(None, lambda session: session.update(user_id=self.name, n=0))
        if status == 200:
            assert card is not None
            self.card, self.counted = card, {0}

    async def read(self) -> None:
        status, _, seen = await self.ask(self.card, lambda session: None)
        if status == 200:
            assert seen.get("user_id") == self.name and seen["n"] in self.counted, (seen, self.counted)
            self.counted = {seen["n"]}

    async def save(self) -> None:
        status, _, _ = await self.ask(self.card, lambda session: session.change("n", lambda n: n + 1))
        more = {n + 1 for n in self.counted}
        self.counted = more if status == 200 else self.counted | more

    async def rotate(self) -> None:
        status, card, _ = await self.ask(self.card, lambda session: session.rotate())
        if status == 200:
            assert card is not None
            self.card = card
        else:
            self.card = None  # it may have another ID by now, which nobody was told

    async def log_out(self) -> None:
        status, _, _ = await self.ask(self.card, lambda session: session.clear())
        if status == 200:
            assert self.card is not None
            self.ended.append(self.card)
        self.card = None

    async def look_back(self) -> None:
        """A session that was logged out of is never back."""
        if self.ended:
            status, _, seen = await self.ask(self._rng.choice(self.ended), lambda session: None)
            assert status == 503 or seen == {}

    async def work(self, going_on: asyncio.Event) -> None:
        while going_on.is_set():
            if self.card is None:
                await self.log_in()
                continue
            some = (self.read, self.read, self.save, self.save, self.save, self.rotate, self.log_out, self.look_back)
            await self._rng.choice(some)()


class AtWork:
    """Many users at work, as a context manager. At its end everything that they were told has to hold.

    Args:
        store: where the sessions are.
        users: how many.
        timeout: the store's time limit, in seconds.
    """

    def __init__(self, store: RedisStore, users: int = 20, timeout: float = 5.0) -> None:
        self.store = store
        self.counts: Counter[int] = Counter()  # of answers, by status
        site = Site(store, timeout)
        self.users = [User(site, number, self.counts) for number in range(1, users + 1)]
        self._going_on = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> AtWork:
        self.begin()
        return self

    async def __aexit__(self, kind: Any, error: Any, trace: Any) -> None:
        await self.stop()
        if error is None:
            await self.check()

    def begin(self) -> None:
        """Have them work."""
        self._going_on.set()
        self._tasks = [asyncio.create_task(user.work(self._going_on)) for user in self.users]

    async def stop(self) -> None:
        """Have them end what they are at. Raises what one of them has met."""
        self._going_on.clear()
        await asyncio.gather(*self._tasks)
        self._tasks = []

    async def answered(self, status: int, more: int) -> None:
        """Wait until so many more requests were answered with this status."""
        enough = self.counts[status] + more
        async with asyncio.timeout(HANGS):
            while self.counts[status] < enough:
                for task in self._tasks:
                    if task.done():
                        task.result()
                await asyncio.sleep(0.005)

    async def check(self) -> None:
        """Everything that was acknowledged is there, nobody who logged out is back, and each list has what lives."""
        self.counts[503] = 0
        await asyncio.gather(*map(self._check, self.users))
        assert self.counts[503] == 0, "the cluster is well, and a request was refused"

    async def _check(self, user: User) -> None:
        if user.card is not None:
            await user.read()
            assert len(user.counted) == 1
            found = await self.store.of_user(str(user.name))
            assert found, "a live session is not on the list"
        for card in user.ended:
            status, _, seen = await user.ask(card, lambda session: None)
            assert (status, seen) == (200, {})
