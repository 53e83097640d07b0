"""A small app in front of a store, for tests of outages."""

import asyncio
import logging

from roomkey import SessionConfig, SessionMiddleware
from tests.loop_clock import HANGS, patience, until

__all__ = ["SLACK", "TIMEOUT", "Site", "lines", "refused_in_time"]

TIMEOUT = 0.5  # seconds: the store_timeout of these tests, which `patience` makes longer where nothing is refused
SLACK = 1.5  # seconds that a refused request may wait for other things beside it


class Site:
    """An app in front of the store, and raw requests to it."""

    def __init__(self, store, timeout=TIMEOUT):
        config = SessionConfig(secret_key="k" * 32, store=store, store_timeout=timeout)
        self.app = SessionMiddleware(self._handle, config)
        self.store = store

    async def _handle(self, scope, receive, send):
        scope["act"](scope["session"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def ask(self, card=None, act=lambda session: None):
        """Return status, headers, and the seconds that one request waited for something."""
        sent = []

        async def send(message):
            sent.append(message)

        headers = [] if card is None else [(b"cookie", b"session=" + card)]
        clock = asyncio.get_running_loop().time
        begin = clock()
        await self.app({"type": "http", "headers": headers, "act": act, "method": "GET", "path": "/"}, None, send)
        return sent[0]["status"], dict(sent[0]["headers"]), clock() - begin

    async def log_in(self, user):
        status, headers, _ = await self.ask(act=lambda session: session.update(user_id=user))
        assert status == 200
        return headers[b"set-cookie"].split(b";")[0].partition(b"=")[2]

    async def read(self, card):
        """Return the status, and what the session held."""
        seen = []
        status, _, _ = await self.ask(card, lambda session: seen.append(session.copy()))
        return status, seen[0] if seen else None

    async def until_served(self, card, caplog, *, silent=False):
        """Wait until a request is served and the log says that the outage is over; return how many were refused first.

        Args:
            card: what they send.
            caplog: what the app logs.
            silent: whether a server may be left that does not answer. Then patience begins small, and grows.
        """
        times = 1.0 if silent else asyncio.get_running_loop().patience or 1.0
        refused = 0
        while True:
            with patience(times):
                status, _, waited = await self.ask(card)
            if status == 200:
                break
            if waited < TIMEOUT * times:
                refused += 1
            else:  # by the time limit: the server is silent, or the machine is busy
                times *= 1.5
            assert TIMEOUT * times < HANGS, "it does not come back"
            await asyncio.sleep(0.02)

        async def is_over():
            assert (await self.ask(card))[0] == 200
            return len(lines(caplog, logging.WARNING)) == len(lines(caplog, logging.ERROR))

        await until(is_over)
        return refused


async def refused_in_time(site, card, *, many=40):
    """Many requests at once are all answered 503 with Retry-After, within the time limit."""
    with patience(1):
        answers = await asyncio.gather(
            *(site.ask(card, act) for act in (lambda s: None, lambda s: s.update(x=1)) for _ in range(many // 2))
        )
    assert {status for status, _, _ in answers} == {503}
    assert all(headers[b"retry-after"].isdigit() for _, headers, _ in answers)
    assert max(waited for _, _, waited in answers) < TIMEOUT + SLACK


def lines(caplog, level):
    return [record for record in caplog.records if record.name == "roomkey" and record.levelno == level]
