"""Interleaved samples in process: each subject in turn for a moment, again and again, and the least of each.

A sample that another program disturbed is longer than one that nobody disturbed. The least of many is what the work
itself takes, and it is the same on a busy machine if there are enough of them.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass

from benchmarks.calls import count_calls
from benchmarks.driver import App, drop, make_scope, microseconds, receive
from benchmarks.report import progress
from benchmarks.scenarios import LOOK, ProofFailed, Scenario
from benchmarks.subjects import BARE, Subject

__all__ = ["FIRST_SEEN", "Lane", "Size", "measure_alone"]

FIRST_SEEN = ", first seen"  # after the name of a subject
_WARM = 10  # requests before each sample


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    samples: int  # of each subject and scenario
    requests: int  # in each sample


class Lane:
    """One subject in one scenario, ready to be sampled.

    Args:
        scenario: what is done.
        subject: who does it.
        first_seen: each request has a cookie that the middleware has not seen before.
    """

    def __init__(self, scenario: Scenario, subject: Subject, first_seen: bool = False) -> None:
        self.name = subject.name + FIRST_SEEN * first_seen
        self.subject = subject
        self._scenario = scenario
        self._first_seen = first_seen
        self._app = subject.wrap(scenario.handler_of(subject))
        self._cookies: list[str | None] = []

    async def prepare(self, requests: int) -> None:
        """Prove that the work is done, make the sessions, and warm up.

        Raises:
            ProofFailed: the work is not done, or a cookie that comes for the first time is not verified.
        """
        await self._scenario.check(self.subject, self._app)
        if self._first_seen:
            self._cookies = await self._scenario.cookies(self.subject, requests + _WARM)
        elif not self._scenario.once:
            self._cookies = await self._scenario.cookies(self.subject, 1) * (requests + _WARM)
        await self.sample(requests)
        if self._first_seen and self.subject.signs:
            await self._prove_first_seen()

    async def sample(self, requests: int) -> float:
        """Return what one request takes on average, in µs."""
        app = self._new_app() if self._first_seen else self._app
        cookies = self._cookies
        if self._scenario.once:
            cookies = await self._scenario.cookies(self.subject, requests + _WARM)
            if not self._first_seen:
                for cookie in cookies:
                    await app(make_scope(cookie, LOOK), receive, drop)
        await microseconds(app, cookies[:_WARM])
        return await microseconds(app, cookies[_WARM:])

    def _new_app(self) -> App:
        assert self.subject.fresh is not None
        return self.subject.fresh(self._scenario.handler_of(self.subject))

    async def _prove_first_seen(self) -> None:
        # An earlier sample has seen this cookie: nothing may be remembered of it beyond that sample's middleware.
        calls = await count_calls(self._new_app(), self._cookies[0])
        if not calls.hashes:
            raise ProofFailed(f"{self.name}: a cookie that came for the first time was not verified")


async def measure_alone(lanes: list[Lane], size: Size, title: str) -> dict[str, float]:
    """Return the µs that the session alone takes of one request, by the name of the lane.

    That is the least of a lane's samples, less the least of the bare app's, which must be among the lanes.
    """
    for lane in lanes:
        progress(f"{title}: {lane.name} gets ready")
        await lane.prepare(size.requests)
    found: dict[str, list[float]] = {lane.name: [] for lane in lanes}
    for number in range(size.samples):
        progress(f"{title}: sample {number + 1} of {size.samples}")
        start = number % len(lanes)
        for lane in lanes[start:] + lanes[:start]:
            found[lane.name].append(await lane.sample(size.requests))
    gc.unfreeze()  # what the samples froze
    return {name: min(samples) - min(found[BARE]) for name, samples in found.items()}
